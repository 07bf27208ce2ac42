"""Timestamps of a case, read a second time: asn1crypto for the token, cryptography for keys, certificates and CRLs.

Written from docs/format/timestamps.md alone. Certificates are judged at the token's time; no clock is read.
"""

import hashlib
import re
from datetime import datetime, timezone

import tlog
from asn1crypto import tsp
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding

NAME = re.compile(r"timestamps/([0-9]{10})\.(?:checkpoint|([a-z0-9][a-z0-9-]{0,31})\.(?:tsq|tsr|[0-3]\.crl))")
HASHES = {"sha256": hashes.SHA256, "sha384": hashes.SHA384, "sha512": hashes.SHA512}
# Clocks of machines that nobody neglects differ by less.
SLACK = 15 * 60 * 10**9
# The field in which a record states when it was signed. An acquisition's clock is that of its host.
MOMENTS = {
    "case-opened": "opened_at",
    "case-closed": "closed_at",
    "order": "issued_at",
    "receipt": "received_to",
    "seal": "sealed_at",
    "access": "at",
    "hold": "placed_at",
    "hold-released": "released_at",
    "retention": "set_at",
    "release": "released_at",
    "transfer": "received_at",
    "disposal": "requested_at",
    "approval": "approved_at",
    "destruction": "destroyed_at",
}
HARMLESS = {x509.ReasonFlags.affiliation_changed, x509.ReasonFlags.superseded, x509.ReasonFlags.cessation_of_operation}


class Bad(Exception):
    """The token does not count; the message says why."""


def time_text(when):
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond:06}000Z"


def ns(text):
    """A time as records write it, in nanoseconds."""
    whole = datetime.strptime(text[:19] + "Z", "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    return int(whole.timestamp()) * 10**9 + int(text[20:29])


def verified(certificate, algorithm, signature, message):
    key = certificate.public_key()
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, message, ec.ECDSA(algorithm))
        else:
            key.verify(signature, message, padding.PKCS1v15(), algorithm)
        return True
    except InvalidSignature:
        return False


def token(reply, request, imprint):
    """The parts of a reply that answers the request over this SHA-256 and is signed by the certificate that it names."""
    try:
        asked, answer = tsp.TimeStampReq.load(request, strict=True), tsp.TimeStampResp.load(reply, strict=True)
        if answer["status"]["status"].native not in ("granted", "granted_with_mods"):
            raise Bad("refused")
        signed = answer["time_stamp_token"]["content"]
        content = signed["encap_content_info"]["content"]
        info, (signer,) = content.parsed, signed["signer_infos"]
        attributes = {a["type"].native: a["values"][0] for a in signer["signed_attrs"]}
        digest = signer["digest_algorithm"]["algorithm"].native
        ess = attributes["signing_certificate_v2"]["certs"][0]
        ess_hash, ess_digest = ess["hash_algorithm"]["algorithm"].native, ess["cert_hash"].native
        certificates = [c.chosen.dump() for c in signed["certificates"]]
        stated = info["message_imprint"]
        facts = {"time": info["gen_time"].native, "serial": info["serial_number"].contents.hex(), "crls": [], "others": certificates}
        accuracy = info["accuracy"].native or {}
        facts["accuracy"] = (accuracy.get("seconds") or 0) * 10**9 + (accuracy.get("millis") or 0) * 10**6 + (accuracy.get("micros") or 0) * 10**3
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as e:
        raise Bad(f"not a token: {type(e).__name__} {e}") from e
    if stated["hash_algorithm"]["algorithm"].native != "sha256" or stated["hashed_message"].native.hex() != imprint:
        raise Bad("it is over other bytes")
    if asked["message_imprint"]["hashed_message"].native.hex() != imprint or info["nonce"].native != asked["nonce"].native:
        raise Bad("it answers another request")
    if attributes["content_type"].native != "tst_info":
        raise Bad("it signs another kind of content")
    if hashlib.new(digest, content.contents).digest() != attributes["message_digest"].native:
        raise Bad("its content is not what was signed")
    named = [c for c in certificates if hashlib.new(ess_hash, c).digest() == ess_digest]
    if not named:
        raise Bad("it lacks its certificate")
    facts["certificate"] = x509.load_der_x509_certificate(named[0])
    signed_bytes = b"\x31" + signer["signed_attrs"].dump()[1:]
    if not verified(facts["certificate"], HASHES[digest](), signer["signature"].native, signed_bytes):
        raise Bad("the signature does not hold")
    facts["signed"] = hashlib.sha256(signed_bytes).hexdigest()
    return facts


def trusted(facts, roots, crls):
    """The root that it leads to, judged at the token's time; raises when it leads to none or does not count."""
    leaf, when = facts["certificate"], facts["time"]
    try:
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound:
        raise Bad("the certificate is for nothing in particular") from None
    if not usage.critical or list(usage.value) != [x509.oid.ExtendedKeyUsageOID.TIME_STAMPING]:
        raise Bad("the certificate is not for timestamps alone")
    certificate, between = leaf, [x509.load_der_x509_certificate(c) for c in facts["others"]]
    for _ in range(6):
        if not certificate.not_valid_before_utc <= when <= certificate.not_valid_after_utc:
            raise Bad("a certificate was not valid then")
        root = next((r for r in roots if issued(certificate, r)), None)
        above = root or next((c for c in between if c != certificate and issued(certificate, c)), None)
        if above is None:
            raise Bad("it leads to no root")
        for crl in crls:
            entry = crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
            if crl.issuer == certificate.issuer and crl.is_signature_valid(above.public_key()) and entry:
                try:
                    reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
                except x509.ExtensionNotFound:
                    reason = None
                if certificate != leaf or reason not in HARMLESS or when >= entry.revocation_date_utc:
                    raise Bad("revoked")
        if root:
            return root
        certificate = above
    raise Bad("its chain does not end")


def issued(certificate, issuer):
    try:
        certificate.verify_directly_issued_by(issuer)
        return True
    except (InvalidSignature, ValueError, TypeError):
        return False


class Stamps:
    """What the log says about timestamps, to be held against the objects."""

    def __init__(self, case, roots, required):
        self.case, self.required = case, required
        self.roots, self.records, self.last = [x509.load_pem_x509_certificate(r) for r in roots], {}, 0
        self.moments, self.believed, self.at = [], [], {}
        # Of a bag: the root, the earliest and the latest moment of each good stamp over it, and so over every record in it.
        self.over_all = []

    def head_is_known(self, body):
        size = body["size"]
        known = self.case.roots[size] if 0 < size < len(self.case.roots) else None
        if body["predecessor"] != self.case.opened or known != body["root"]:
            self.case.problem("a timestamp record is about a head that this log did not have")

    def stamped(self, body):
        self.head_is_known(body)
        place = (body["size"], body["authority"])
        if place in self.records:
            self.case.problem("a token is recorded twice")
        self.records.setdefault(place, body)
        self.at.setdefault(place, len(self.case.roots) - 1)

    def state(self, n, kind, body, nonce, until):
        """The moment that record n states, and until when what it does is forbidden."""
        if kind == "acquisition":
            # It may have waited on the host for its coordinator; and only a measured clock can be compared.
            ended = body["ended"]
            if ended.get("offset_ns") is None:
                return
            at = ns(ended["wall"]) + int(ended["offset_ns"] / 10**9) * 10**9
        elif kind in MOMENTS:
            at = ns(body[MOMENTS[kind]])
        else:
            return
        after = nonce if kind in ("order", "acquisition", "receipt") else n
        self.moments.append((n, kind, at, after, ns(until) if kind == "destruction" and until else None))

    def hold_moments_against_tokens(self):
        """time.excluded and disposal.retained: what a believed token proves false."""
        for n, kind, at, after, not_before in self.moments:
            over = min((latest for size, _, _, latest in self.believed if size > n), default=None)
            among = max((earliest for _, place, earliest, _ in self.believed if place is not None and place < after), default=None)
            if over is not None and at > over + SLACK:
                self.case.problem(f"record {n} ({kind}) states a moment after a token that covers it")
            if among is not None and at + SLACK < among:
                self.case.problem(f"record {n} ({kind}) states a moment before a token that it follows")
            if over is not None and not_before is not None and over < not_before:
                self.case.problem(f"record {n}: destroyed before the end of retention, as a token proves")

    def check(self, log_keys):
        names = [m for m in map(NAME.fullmatch, self.case.objects) if m]
        heads = {int(m.group(1)): self.head(m, log_keys) for m in names if m.group(2) is None}
        places = {(int(m.group(1)), m.group(2)) for m in names if m.group(2)} | set(self.records)
        over = {}
        for size, authority in sorted(places):
            try:
                root = self.place(size, authority, heads.get(size))
                if root is not None:
                    over.setdefault(root, []).append(size)
            except (Bad, tlog.Bad) as e:
                self.case.problem(f"timestamp of {authority} over {size} records: {e}")
        for root, earliest, latest in self.over_all:
            over.setdefault(root, []).append(len(self.case.roots) - 1)
            self.believed.append((len(self.case.roots) - 1, None, earliest, latest))
        self.hold_moments_against_tokens()
        have = sum(max(sizes) > self.last for sizes in over.values())
        if have < self.required:
            self.case.problem(f"the last records are stamped under {have} of {self.required} roots")

    def head(self, match, log_keys):
        """The digest of a stamped head that is one of this history."""
        data, size = self.case.read(match.group(0), 16_384), int(match.group(1))
        try:
            origin, stated, root = tlog.checkpoint(data)
            by_log = any(key_signed(key, data) for key in log_keys)
        except (tlog.Bad, ValueError) as e:
            self.case.problem(f"{match.group(0)}: {e}")
            return None
        mine = f"exhibit/{self.case.deployment}/case/{self.case.case}"
        if origin != mine or stated != size or not by_log or size >= len(self.case.roots) or self.case.roots[size] != root.hex():
            self.case.problem(f"{match.group(0)} is no head of this history")
            return None
        return hashlib.sha256(data).hexdigest()

    def place(self, size, authority, head):
        record, stem = self.records.get((size, authority)), f"timestamps/{size:010}.{authority}"
        if record is None and stem + ".tsr" not in self.case.objects:
            return None
        stated = [("tsq", record and record["request"]), ("tsr", record and record["reply"])]
        stated += [(f"{n}.crl", digest) for n, digest in enumerate(record.get("crls", []) if record else [])]
        data = {}
        for end, digest in stated:
            if f"{stem}.{end}" not in self.case.objects:
                raise Bad(f"{end} is missing")
            data[end] = self.case.read(f"{stem}.{end}", 4 << 20)
            if digest and hashlib.sha256(data[end]).hexdigest() != digest:
                raise Bad(f"{end} was altered")
        if head is None or (record and record["checkpoint"] != head):
            raise Bad("the stamped head is not there, or another")
        facts = token(data["tsr"], data["tsq"], head)
        if record and (record["time"] != time_text(facts["time"]) or record["serial"] != facts["serial"]):
            raise Bad("the record states another time or serial number")
        if not self.roots:
            return None
        crls = [x509.load_der_x509_crl(data[end]) for end in data if end.endswith("crl")]
        try:
            root = trusted(facts, self.roots, crls)
            when = ns(time_text(facts["time"]))
            self.believed.append((size, self.at.get((size, authority)), when - facts["accuracy"], when + facts["accuracy"]))
            return root
        except Bad as e:
            # Whom nobody vouches for does not count, and is no fault of the case.
            if str(e) == "it leads to no root":
                return None
            raise


def key_signed(key, note):
    try:
        key.time(note)
        return True
    except (tlog.Bad, ValueError):
        return False
