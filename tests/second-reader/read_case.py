#!/usr/bin/env python3
"""A second, independent reader of an Exhibit case.

Written from docs/format alone, with common libraries only: tarfile, zstandard, hashlib, json, base64, cryptography, asn1crypto.
It shares no code with the Rust verifier. It is coarser: it says sound or unsound and why, in words without codes.

    read_case.py CASE_FOLDER_OR_BAG --anchor FILE [--complete] [--expect SIZE:ROOT] [--witness VKEY]... [--held FILE]...
                 [--consistency FILE]... [--timestamp-anchor FILE]... [--timestamps-required N] [--identity FILE]...

The last line is the verdict: sound, unsound, or, of an encrypted case without the identity of a recipient, sound as far as it can be
read, with what was not decrypted. Exit code: 0 unless unsound, 1 unsound, 2 the input cannot be used. One stream's raw tar is kept in
a temporary file, without a name and decrypted where the case is encrypted.
"""

import argparse
import base64
import binascii
import hashlib
import json
import os
import re
import stat
import sys
import tarfile
import tempfile

import age
import custody
import read_bag
import stamps
import tlog
import zstandard
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREFIX = "urn:exhibit:record:"
TYPES = ("case-opened", "case-closed", "order", "refusal", "acquisition", "receipt", "seal", "access", "incident", "enrolment", "revocation", "timestamp", "timestamp-failed") + custody.TYPES
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
ID = r"[0-7][0-9abcdefghjkmnpqrstvwxyz]{25}"
SLOT = re.compile(r"log/seq/([0-9]{10})\.dsse\.json")
SEGMENT = re.compile(rf"collections/(col-{ID})/s([1-9][0-9]*)/([0-9]{{8}})\.tar\.zst")
COSIGNED = re.compile(r"log/cosigned/([0-9a-f]{8})/([0-9]{10})")
TILE = re.compile(r"log/tile/([0-7]|entries)/((?:x[0-9]{3}/)*)([0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")
TILE_FOLDER = r"log/tile(?:/(?:[0-7]|entries)(?:/x[0-9]{3})*(?:/[0-9]{3}\.p)?)?"
FOLDER = re.compile(rf"log|log/seq|log/cosigned|log/cosigned/[0-9a-f]{{8}}|{TILE_FOLDER}|timestamps|collections|collections/col-{ID}|collections/col-{ID}/s[1-9][0-9]*")
MANIFEST = re.compile(rf"collections/(col-{ID})/s([1-9][0-9]*)/manifest\.jsonl")
FRAME_RAW_MAX, SEGMENT_MAX, LINE_MAX, ENVELOPE_MAX = 1 << 20, 10 << 20, 1 << 20, 65_535


class Unsound(Exception):
    """A part of the case cannot be read on; what is wrong is the message."""


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def b64(text):
    """Strict base64 of RFC 4648: padded, no other characters, no spare bits."""
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("not the one base64 form")
    return data


def collection_of(order, agent):
    text = f"exhibit collection v1\n{order}\n{agent}".encode()
    return "col-" + base32(hashlib.sha256(text).digest())


def agent_id(key):
    """The agent that holds a key, given by its id in hexadecimal."""
    return "agt-" + base32(bytes.fromhex(key))


def base32(digest):
    """The first 128 bits of a digest as identifiers write them."""
    value = int.from_bytes(digest[:16], "big")
    return "".join(ALPHABET[(value >> (5 * i)) & 31] for i in range(25, -1, -1))


class Tree:
    """RFC 6962 Merkle tree that keeps the roots of its complete subtrees."""

    def __init__(self):
        self.size, self.edge = 0, []

    def append(self, entry):
        node, carry = hashlib.sha256(b"\0" + entry).digest(), self.size
        while carry & 1:
            node = hashlib.sha256(b"\1" + self.edge.pop() + node).digest()
            carry >>= 1
        self.edge.append(node)
        self.size += 1

    def root(self):
        if not self.edge:
            return sha256(b"")
        node = self.edge[-1]
        for left in reversed(self.edge[:-1]):
            node = hashlib.sha256(b"\1" + left + node).digest()
        return node.hex()


class Case:
    def __init__(self, folder, anchor, complete, expect, witnesses=(), held=(), roots=(), required=0, identities=()):
        self.sealed = Sealed(identities)
        self.stamps = stamps.Stamps(self, roots, required)
        self.folder, self.complete, self.expect = folder, complete, expect
        self.witnesses, self.held, self.leaves = [tlog.Key(w) for w in witnesses], held, []
        self.deployment = anchor["deployment"]
        root = b64(anchor["root_key"])
        self.root = sha256(root)
        self.keys = {self.root: {"key": root, "name": "root", "roles": set(), "rights": [], "enrolments": [], "revoked": False}}
        self.problems, self.objects, self.used = [], {}, set()
        self.case = self.opened = self.closed = None
        self.orders, self.order_ids, self.collections = {}, set(), {}
        self.custody = custody.Custody(self)
        self.next_exhibit, self.roots, self.tree = 1, [sha256(b"")], Tree()
        # The SHA-256 of each exhibit with content, by its number.
        self.exhibits = {}
        self.left_out, self.exporters = set(), {}
        # Whether the history ends with an export, and the proofs that lead to later heads.
        self.is_bag, self.proofs = False, []
        # The keys that signed orders and disposals.
        self.signers = {}

    def problem(self, text):
        self.problems.append(text)

    # Objects

    def list(self):
        for path, folders, files in os.walk(self.folder):
            for name in folders + files:
                full = os.path.join(path, name)
                mode = os.lstat(full).st_mode
                relative = os.path.relpath(full, self.folder)
                if stat.S_ISDIR(mode):
                    if not FOLDER.fullmatch(relative):
                        self.problem(f"the folder {relative!r} does not belong into a case")
                    continue
                known = relative == "log/checkpoint" or any(p.fullmatch(relative) for p in (SLOT, SEGMENT, MANIFEST, COSIGNED, TILE, stamps.NAME))
                if not stat.S_ISREG(mode) or not known:
                    self.problem(f"{relative!r} does not belong into a case")
                else:
                    self.objects[relative] = full

    def read(self, name, limit):
        self.used.add(name)
        if name not in self.objects:
            raise Unsound(f"{name} is missing")
        with open(self.objects[name], "rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise Unsound(f"{name} is larger than {limit} bytes")
        return data

    # Log

    def read_log(self):
        slots = sorted(int(m.group(1)) for m in map(SLOT.fullmatch, self.objects) if m)
        if slots != list(range(len(slots))):
            self.problem("the record numbers have a hole")
        for n in slots:
            name = f"log/seq/{n:010}.dsse.json"
            try:
                data = self.read(name, ENVELOPE_MAX)
                self.tree.append(data)
                self.leaves.append(tlog.leaf(data))
                kind, body, keyid = self.verify(data)
                self.record(kind, body, sha256(data), keyid)
                if kind not in ("access", "enrolment", "timestamp", "timestamp-failed"):
                    self.stamps.last = n
            except (Unsound, KeyError, TypeError, ValueError) as e:
                self.problem(f"{name}: {type(e).__name__} {e}")
            self.roots.append(self.tree.root())
        self.checkpoint()
        self.tiles()
        self.heads()
        if self.expect:
            size, _, root = self.expect.partition(":")
            if int(size) >= len(self.roots) or self.roots[int(size)] != root:
                self.problem("the expected head is not in the history")

    def checkpoint(self):
        try:
            text = self.read("log/checkpoint", 16_384).decode()
            tlog.parse(text.encode())
            origin, size, root, empty, signature, *rest = text.split("\n")
            rest = rest.pop()
            dash, name, blob = signature.split(" ")
            blob = b64(blob)
        except (Unsound, tlog.Bad, ValueError, IndexError) as e:
            self.problem(f"log/checkpoint: {e}")
            return
        signed = f"{origin}\n{size}\n{root}\n".encode()
        if empty or rest or dash != "\u2014" or name != origin or size != str(int(size)):
            self.problem("log/checkpoint is not a signed checkpoint")
        if origin != f"exhibit/{self.deployment}/case/{self.case}":
            self.problem("the checkpoint is of another log")
        if int(size) != self.tree.size or b64(root).hex() != self.tree.root():
            self.problem("the checkpoint signs another history")
        for holder in self.keys.values():
            tag = hashlib.sha256(origin.encode() + b"\n\x01" + holder["key"]).digest()[:4]
            if "log" in holder["roles"] and not holder["revoked"] and blob[:4] == tag and good(holder["key"], blob[4:], signed):
                return
        self.problem("no log key signed the checkpoint")

    def tiles(self):
        """Every tile that is there must be what the records give; those of earlier sizes are cut from the newest ones."""
        rows = [self.leaves]
        while len(rows[-1]) >= 256:
            rows.append([tlog.root(rows[-1][n : n + 256]) for n in range(0, len(rows[-1]) - 255, 256)])
        for name in [n for n in self.objects if TILE.fullmatch(n)]:
            layer, groups, last, width = TILE.fullmatch(name).groups()
            index, width = int((groups + last).replace("x", "").replace("/", "")), int(width or 256)
            level = 0 if layer == "entries" else int(layer)
            row = rows[level] if level < len(rows) else []
            expected = row[index * 256 : index * 256 + width]
            try:
                data = self.read(name, 256 * 65_537)
                found = [tlog.leaf(e) for e in tlog.entries(data)] if layer == "entries" else [data[i : i + 32] for i in range(0, len(data), 32)]
                if "log/" + tlog.tile_path(layer, index, width) != name or len(expected) != width or found != expected:
                    self.problem(f"{name} is not what the records give")
            except (Unsound, tlog.Bad) as e:
                self.problem(f"{name}: {e}")

    def heads(self):
        """What is signed about other heads must be part of this history; every given witness must have signed the newest, or a later
        one that continues it. A longer head says nothing against a bag, unless it was there before the bag was exported, or another signed
        head of as many records has another root."""
        origin = f"exhibit/{self.deployment}/case/{self.case}"
        keys = [h["key"] for h in self.keys.values() if "log" in h["roles"] and not h["revoked"]]
        log_keys = [tlog.Key(vkey(origin, 1, key)) for key in keys]
        self.stamps.check(log_keys)
        vouching, notes = set(), [(f"held checkpoint {n}", note, None, True) for n, note in enumerate(self.held)]
        for name in [n for n in self.objects if COSIGNED.fullmatch(n)] + ["log/checkpoint"]:
            size = COSIGNED.fullmatch(name)
            notes.append((name, self.read(name, 16_384) if name in self.objects else b"", int(size.group(2)) if size else None, True))
        later, longer = set(), {}
        for n, proof in enumerate(self.proofs):
            notes += [(f"consistency proof {n}", note, None, leads) for note, leads in self.lead(f"consistency proof {n}", proof, later)]
        exports = [stamps.ns(body["at"]) for bodies in self.exporters.values() for body in bodies]
        for name, note, said, leads in notes:
            try:
                log, size, root = tlog.checkpoint(note)
            except (tlog.Bad, ValueError) as e:
                self.problem(f"{name}: {e}")
                continue
            by = {w.name for w in self.witnesses if signed(w, note)}
            if any(w.has_line(note) and not signed(w, note) for w in self.witnesses):
                self.problem(f"{name}: a line in a witness's name does not hold")
            if log != origin or said not in (None, size) or not (by or any(signed(k, note) for k in log_keys)):
                self.problem(f"{name} is no head of this log")
                continue
            if size >= len(self.roots) and longer.setdefault(size, root) != root:
                self.problem(f"{name}: another signed head of {size} records has another root, so there were two histories")
            if not leads:
                continue
            if (size, root.hex()) in later:
                vouching |= by
                if not self.is_bag:
                    self.problem(f"{name}: records are missing at the end")
            elif size >= len(self.roots) and self.is_bag and said is None and name != "log/checkpoint":
                times = [w.time(note) * 10**9 for w in self.witnesses if signed(w, note)]
                if times and exports and min(times) + stamps.SLACK < max(exports):
                    self.problem(f"{name} was there before the export and is longer")
            elif size >= len(self.roots) or self.roots[size] != root.hex():
                self.problem(f"{name} is a head of another history")
            elif size == self.tree.size:
                vouching |= by
        if len(vouching) < len(self.witnesses):
            self.problem("not every witness cosigned the newest head")

    def lead(self, name, data, later):
        """Follows a proof from the last head of this history to a later one; the note in it, and whether the proof says something about
        this history. One that does not still holds a signed head, which may contradict another."""
        try:
            old, hashes, note = tlog.read_consistency(data)
            _, size, root = tlog.checkpoint(note)
            end = len(self.roots) - 1
            if size <= end:
                return [(note, True)]
            if old > end:
                return [(note, False)]
            tlog.consistent(old, bytes.fromhex(self.roots[old]), size, root, hashes)
        except (tlog.Bad, ValueError) as e:
            self.problem(f"{name}: {e}")
            return []
        if old < end:
            return [(note, False)]
        later.add((size, root.hex()))
        return [(note, True)]

    def verify(self, data):
        """Checks envelope, signature and signer; returns record type, predicate and key id."""
        envelope = json.loads(data)
        if json.dumps(envelope, separators=(",", ":")).encode() != data or list(envelope) != ["payload", "payloadType", "signatures"]:
            raise Unsound("the envelope is not in its one form")
        (signature,) = envelope["signatures"]
        if list(signature) != ["keyid", "sig"] or envelope["payloadType"] != PAYLOAD_TYPE:
            raise Unsound("not an envelope of ours")
        payload, keyid = b64(envelope["payload"]), signature["keyid"]
        holder = self.keys.get(keyid)
        if holder is None:
            raise Unsound(f"signed by the unknown key {keyid}")
        signed = f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(payload)} ".encode() + payload
        if not good(holder["key"], b64(signature["sig"]), signed):
            raise Unsound("the signature does not hold")
        if holder["revoked"]:
            raise Unsound("the key was revoked")
        statement = json.loads(payload)
        kind, _, version = statement["predicateType"].removeprefix(PREFIX).partition(":")
        if statement["_type"] != STATEMENT or kind not in TYPES or version != "v1":
            raise Unsound(f"unknown record type {statement['predicateType']!r}")
        body = statement["predicate"]
        if statement["subject"] != subjects(kind, body):
            raise Unsound("the subjects do not follow from the predicate")
        self.authorize(kind, body, keyid, holder)
        return kind, body, keyid

    def authorize(self, kind, body, keyid, holder):
        def need(role, name=None):
            if role not in rights_in(holder, body.get("case")) or (name is not None and holder["name"] != name):
                raise Unsound(f"{holder['name']} may not sign this {kind}")

        if kind in ("case-opened", "incident", "enrolment", "revocation") and body["deployment"] != self.deployment:
            raise Unsound("it belongs to another deployment")
        if kind == "case-opened":
            need("responder", body["opened_by"])
        elif kind == "case-closed":
            need("responder", body["closed_by"])
        elif kind == "order":
            need("responder", body["issued_by"])
        elif kind in ("refusal", "acquisition"):
            need("agent", f"spiffe://{self.deployment}/agent/{body['agent']}")
        elif kind in ("receipt", "seal", "access", "destruction", "incident", "timestamp", "timestamp-failed"):
            need("log")
        elif kind in custody.SIGNERS:
            field, roles = custody.SIGNERS[kind]
            if not roles & rights_in(holder, body["case"]) or holder["name"] != body[field]:
                raise Unsound(f"{holder['name']} may not sign this {kind}")
        elif kind == "enrolment":
            known = self.keys.get(sha256(b64(body["key"])))
            follows = body["predecessor"] in holder["enrolments"] if "predecessor" in body else not holder["enrolments"]
            if not follows or not body["name"].startswith(f"spiffe://{self.deployment}/"):
                raise Unsound("an enrolment that does not follow from its signer's")
            if set(body["name"]) - set("abcdefghijklmnopqrstuvwxyz0123456789:/.-_"):
                raise Unsound("a name that could be taken for another")
            if known and (known["name"] != body["name"] or known["revoked"]):
                raise Unsound("the key has another name already, or was revoked")
            agents, key = f"spiffe://{self.deployment}/agent/", sha256(b64(body["key"]))
            is_agent = "agent" in body["roles"] or body["name"].startswith(agents)
            if is_agent and (body["name"] != agents + agent_id(key) or body["roles"] != ["agent"]):
                raise Unsound("an agent's name does not follow from its key, or it has other roles")
            if "cases" in body:
                limited = set(body["roles"]) <= {"responder", "approver", "custodian", "auditor"}
                if not limited or not 1 <= len(body["cases"]) <= 200:
                    raise Unsound("a role that cannot be limited to cases, or no cases")
            self.may_manage(keyid, holder, set(body["roles"]) | (known["roles"] if known else set()))
        elif kind == "revocation":
            if body["predecessor"] not in self.keys[body["key"]]["enrolments"]:
                raise Unsound("a revocation that does not follow from the key's enrolment")
            self.may_manage(keyid, holder, self.keys[body["key"]]["roles"])

    def may_manage(self, keyid, holder, roles):
        people = {"admin", "responder", "approver", "custodian", "auditor"}
        allowed = ({"agent"} if "issuer" in holder["roles"] else set()) | (people if "admin" in holder["roles"] else set())
        if keyid != self.root and (not roles or not set(roles) <= allowed):
            raise Unsound(f"{holder['name']} may not manage a key with roles {roles}")

    # Chain

    def record(self, kind, body, digest, keyid):
        if kind == "enrolment":
            key = b64(body["key"])
            fresh = {"key": key, "name": body["name"], "roles": set(), "rights": [], "enrolments": [], "revoked": False}
            holder = self.keys.setdefault(sha256(key), fresh)
            holder["roles"] |= set(body["roles"])
            holder["rights"].append((set(body["roles"]), body.get("cases")))
            holder["enrolments"].append(digest)
            return
        if kind == "revocation":
            self.keys[body["key"]]["revoked"] = True
            return
        if kind == "case-opened":
            if self.opened:
                raise Unsound("the case was opened twice")
            self.sealed.opens(body)
            self.case, self.opened = body["case"], digest
            self.custody.two_person = body.get("two_person", False)
            self.stamps.state(len(self.roots) - 1, kind, body, 0, None)
            return
        if not self.opened:
            self.problem(f"a {kind} stands before case-opened")
        if "case" in body and self.opened and body["case"] != self.case:
            raise Unsound("the record is of another case")
        self.stamps.state(len(self.roots) - 1, kind, body, self.nonce_of(kind, body), self.custody.until)
        if kind == "access" and body["action"] == "export":
            self.exporters.setdefault(body["by"], []).append(body)
        if kind in ("order", "disposal"):
            self.signers[digest] = keyid
        if kind == "approval" and self.keys.get(self.signers.get(body["predecessor"]), {}).get("revoked"):
            self.problem("an approval of what a key asked for that had been revoked")
        if kind in custody.TYPES or kind == "access":
            self.custody.take(kind, body, digest)
        else:
            getattr(self, "on_" + kind.replace("-", "_"))(body, digest)

    def nonce_of(self, kind, body):
        """Records that were there when somebody signed, as the order's nonce proves."""
        if kind == "order":
            return body["nonce"]["size"]
        order = body["predecessor"] if kind == "acquisition" else self.collections.get(body.get("collection"), {}).get("order")
        known = self.orders.get(order)
        return known["nonce"]["size"] if known else 0

    def roles_of(self, name, case):
        """What a name may do in a case, by all its keys."""
        keys = [h for h in self.keys.values() if h["name"] == name and not h["revoked"]]
        return set().union(*(rights_in(holder, case) for holder in keys))

    def on_incident(self, body, digest):
        if "case" not in body:
            self.problem("an incident without a case stands in a case's log")

    def on_timestamp(self, body, digest):
        if "case" not in body:
            self.problem("a timestamp without a case stands in a case's log")
        self.stamps.stamped(body)

    def on_timestamp_failed(self, body, digest):
        if "case" not in body:
            self.problem("a timestamp's failure without a case stands in a case's log")
        self.stamps.head_is_known(body)

    def on_case_closed(self, body, digest):
        if body["predecessor"] != self.opened or self.closed:
            self.problem("case-closed does not follow from case-opened, or is repeated")
        self.closed = digest

    def on_order(self, body, digest):
        nonce, targets, captures = body["nonce"], body["targets"], [c["name"] for c in body["captures"]]
        if body["predecessor"] != self.opened or self.closed:
            self.problem("an order does not follow from case-opened, or comes after the end of the case")
        if not 0 < nonce["size"] < len(self.roots) or self.roots[nonce["size"]] != nonce["root"]:
            self.problem("an order's nonce is no earlier head of this log")
        sizes = 1 <= len(targets) <= 1000 and 1 <= len(captures) <= 64 and len(set(targets)) == len(targets)
        if not sizes or body["order"] in self.order_ids or body["expires_at"] <= body["issued_at"]:
            self.problem("an order is malformed or repeated")
        self.order_ids.add(body["order"])
        self.orders[digest] = {"nonce": nonce, "captures": set(captures)}
        self.custody.order(body, digest)
        for agent in targets:
            fresh = {"order": digest, "agent": agent, "refusal": None, "acquisitions": {}, "receipts": {}, "last": None, "seal": None}
            self.collections.setdefault(collection_of(digest, agent), fresh)

    def collection(self, body, order):
        if order not in self.orders:
            raise Unsound("it names an order that is not in this log before it")
        expected = collection_of(order, body["agent"])
        if expected not in self.collections or body["collection"] != expected:
            raise Unsound("not a target of its order, or under a wrong collection id")
        return self.collections[expected]

    def not_sealed(self, collection):
        if collection["seal"]:
            self.problem("something was logged after its collection's seal")

    def on_refusal(self, body, digest):
        collection = self.collection(body, body["predecessor"])
        self.not_sealed(collection)
        if collection["refusal"]:
            raise Unsound("refused twice")
        collection["refusal"] = digest

    def on_acquisition(self, body, digest):
        self.custody.carried_out(body["predecessor"])
        collection = self.collection(body, body["predecessor"])
        self.not_sealed(collection)
        if body["nonce"] != self.orders[body["predecessor"]]["nonce"]:
            self.problem("an acquisition repeats another nonce than its order's")
        if not body["complete"] and not body.get("reason"):
            self.problem("an acquisition is not complete and does not say why")
        if body["stream"] in collection["acquisitions"]:
            raise Unsound("two acquisitions of one stream")
        collection["acquisitions"][body["stream"]] = (digest, body["complete"], body["manifest"])

    def on_receipt(self, body, digest):
        collection = self.collections.get(body["collection"])
        if collection is None:
            raise Unsound("a receipt for a collection that nobody ordered")
        self.custody.carried_out(collection["order"])
        self.not_sealed(collection)
        if body.get("contents_unverified", False) != bool(self.sealed.to):
            self.problem("a receipt says of contents what the coordinator cannot have checked, or must have")
        if body["stream"] in collection["receipts"]:
            raise Unsound("two receipts of one stream")
        acquisition = collection["acquisitions"].get(body["stream"])
        if body["agent_signed"] != (acquisition is not None):
            self.problem("a receipt claims or denies the agent's signature wrongly")
        if body["predecessor"] != (acquisition[0] if acquisition else collection["order"]):
            self.problem("a receipt does not follow from its acquisition or order")
        if acquisition and acquisition[2] != body["manifest"]:
            self.problem("receipt and acquisition name different manifests")
        collection["receipts"][body["stream"]] = (digest, body)
        collection["last"] = digest

    def on_seal(self, body, digest):
        collection = self.collection(body, body["order"])
        if collection["seal"]:
            raise Unsound("two seals of one collection")
        collection["seal"] = digest
        receipts, outcome = collection["receipts"], body["outcome"]
        if body["predecessor"] != (collection["last"] or collection["refusal"] or body["order"]):
            self.problem("a seal does not follow from what came before it")
        whole = any(r["agent_signed"] and collection["acquisitions"].get(n, (0, False))[1] for n, (_, r) in receipts.items())
        fits = {"sealed": whole, "partial": bool(receipts), "refused": bool(collection["refusal"]) and not receipts}
        if not fits.get(outcome, not receipts) or (outcome != "sealed" and not body.get("reason")):
            self.problem(f"the outcome '{outcome}' does not fit the records")
        if [(s["stream"], s["receipt"]) for s in body["streams"]] != sorted((n, d) for n, (d, _) in receipts.items()):
            self.problem("a seal does not name the receipts of its streams")
        items = sum(r["manifest"]["items"] for _, r in receipts.values())
        if body["exhibit_first"] != self.next_exhibit or body["exhibit_count"] != items:
            self.problem("exhibit numbers have a hole or do not fit the items")
        collection["first"] = body["exhibit_first"]
        self.next_exhibit = body["exhibit_first"] + body["exhibit_count"]

    # Streams

    def read_streams(self):
        for name, collection in self.collections.items():
            if self.custody.fate(name) == "condemned":
                self.problem(f"{name} is being destroyed, and there is no certificate")
            if collection["seal"] and set(collection["acquisitions"]) - set(collection["receipts"]):
                self.problem("an acquisition without a receipt")
            if not collection["seal"] and self.complete:
                self.problem(f"collection {name} has no seal")
            for stream, (_, receipt) in collection["receipts"].items() if name not in self.left_out and self.custody.fate(name) == "kept" else ():
                try:
                    self.stream(name, stream, collection, receipt)
                except (Unsound, KeyError, TypeError, ValueError, EOFError, tarfile.TarError, zstandard.ZstdError, binascii.Error) as e:
                    self.problem(f"{name} s{stream}: {type(e).__name__} {e}")

    def stream(self, name, number, collection, receipt):
        folder, signed = f"collections/{name}/s{number}", receipt["manifest"]
        data = self.read(f"{folder}/manifest.jsonl", 1 << 34)
        if sha256(data) != signed["sha256"] or len(data) != signed["size"]:
            self.problem(f"{folder}/manifest.jsonl is not what was signed")
        if not data.endswith(b"\n") or any(len(line) + 1 > LINE_MAX for line in data.split(b"\n")):
            raise Unsound("a manifest line is cut or too long")
        header, *body, end = [json.loads(line, object_pairs_hook=once) for line in data[:-1].split(b"\n")]
        expected = {"line": "header", "format": "exhibit-manifest/1", "case": receipt["case"], "collection": name, **self.sealed.header()}
        if header != {**expected, "stream": number, "agent": collection["agent"], "order": collection["order"]}:
            raise Unsound("the manifest's header is of something else")
        with tempfile.TemporaryFile() as raw:
            items, ends = self.segments(folder, body, raw, receipt["agent_signed"])
            if "first" in collection:
                begin = collection["first"] + sum(r["manifest"]["items"] for n, (_, r) in collection["receipts"].items() if n < number)
                whole = [item for _, item in items if item["kind"] in ("file", "record") and item.get("location") and item.get("sha256")]
                self.exhibits |= {begin + item["n"]: item["sha256"] for item in whole}
            sums = {"segments": len(ends), "stored_bytes": sum(s for s, _ in ends), "raw_bytes": ends[-1][1] if ends else 0, "items": len(items)}
            sums["by_status"] = {}
            for _, item in items:
                sums["by_status"][item["status"]] = sums["by_status"].get(item["status"], 0) + 1
            if end != {"line": "end", "complete": receipt["agent_signed"], **sums} or any(signed[k] != v for k, v in sums.items()):
                self.problem("totals do not add up")
            captures = self.orders[collection["order"]]["captures"]
            for n, (segment, item) in enumerate(items):
                alone(self.problem, n, item, captures)
                if self.sealed.to and (item.get("meta") or {}).get("xattrs"):
                    self.problem(f"item {n} has extended attributes in a line of an encrypted stream")
                place, seam = item.get("location"), max((at for first, at in self.seams if first <= segment), default=None)
                across = seam is not None and place is not None and place["offset"] < seam < place["offset"] + place["length"]
                if across != ("continued_at" in item.get("facts", {})):
                    self.problem(f"item {n} is not honest about the seam")
            for capture in set(captures) - {item["capture"] for _, item in items} if receipt["agent_signed"] else ():
                self.problem(f"no item of capture {capture!r}")
            if self.sealed.shut:
                places(self.problem, ends, items, end["complete"])
                self.sealed.unread(items, ends)
            else:
                members(self.problem, raw, ends, items, end["complete"])

    def segments(self, folder, lines, raw, agent_signed):
        """Writes the raw stream, if it can be read; returns items with their segment, and (stored size, raw end) of each segment."""
        items, ends, offset = [], [], 0
        self.seams = []
        for line in lines:
            if line["line"] == "item":
                if not ends:
                    raise Unsound("an item before the first segment")
                items.append((len(ends) - 1, line))
                continue
            if line["line"] != "segment" or line["n"] != len(ends):
                raise Unsound("manifest lines are out of order")
            if "seam" in line:
                self.seams.append((line["n"], line["raw_offset"]))
                if line["n"] == 0 or set(line["seam"]) != {"at", "boot_id"} or len(line["seam"]["boot_id"].encode()) > 64:
                    self.problem(f"segment {line['n']} cannot have this seam")
            data = self.read(f"{folder}/{line['n']:08}.tar.zst", SEGMENT_MAX)
            if sha256(data) != line["sha256"] or len(data) != line["size"] or line["raw_offset"] != offset:
                self.problem(f"{folder}: segment {line['n']} is not what was signed")
            if self.sealed.to:
                data = self.sealed.open(data)
            # The end of a broken-off stream, whose lines were lost: nobody says what it holds.
            if self.sealed.to and line["raw_size"] == 0 and not agent_signed:
                data = None
            elif line["raw_size"] == 0 or (ends and ends[-1][1] == (ends[-2][1] if len(ends) > 1 else 0)):
                self.problem(f"segment {line['n']} has no raw bytes, or follows one that has none")
            if data is not None:
                self.decompress(data, line["raw_size"], raw)
            offset += line["raw_size"]
            ends.append((line["size"], offset))
        return items, ends

    def decompress(self, data, stated, raw):
        size = 0
        for piece in frames(data):
            size += len(piece)
            if size > stated:
                raise Unsound("a segment holds more than stated")
            raw.write(piece)
        if size != stated:
            self.problem("a segment holds less than stated")

    def account(self):
        for name in self.objects.keys() - self.used:
            match = SEGMENT.fullmatch(name) or MANIFEST.fullmatch(name)
            collection = self.collections.get(match.group(1)) if match else None
            if match and self.custody.fate(match.group(1)) == "condemned":
                continue
            is_open = collection and not collection["seal"] and int(match.group(2)) not in collection["receipts"]
            if not is_open or self.complete:
                self.problem(f"{name} is named by nobody")


class Sealed:
    """To whom the contents of a case are encrypted, and what of them was not opened."""

    def __init__(self, identities):
        self.given, self.to, self.texts, self.identities = identities, [], [], []
        self.items = self.segments = self.streams = self.opened = 0

    def opens(self, body):
        """Hears of the case-opened record."""
        if "encrypt_to" not in body:
            return
        self.texts, self.to = body["encrypt_to"], age.recipients(body["encrypt_to"])
        self.identities = [identity for identity in self.given if identity.public in self.to]

    @property
    def shut(self):
        """True when contents cannot be read."""
        return bool(self.to) and not self.identities

    @property
    def misfit(self):
        """True when identities were given that open nothing of the case."""
        return self.shut and bool(self.given)

    def header(self):
        return {"encrypted_to": self.texts} if self.to else {}

    def open(self, data):
        """What a segment holds; nothing where no identity was given. What one recipient opens need not open for another one."""
        file = age.File(data, len(self.to))
        keys = [file.key(identity) for identity in self.identities]
        if None in keys:
            raise Unsound("the identity of a recipient does not open a segment")
        self.opened += bool(keys)
        return file.plain(keys[0]) if keys else None

    def unread(self, items, ends):
        self.streams, self.segments = self.streams + 1, self.segments + len(ends)
        self.items += sum("location" in item for _, item in items)

    def verdict(self):
        if not self.streams:
            return "sound"
        what = f"{self.items} item{'' if self.items == 1 else 's'} in {self.segments} segment{'' if self.segments == 1 else 's'}"
        return f"sound as far as it can be read: the contents of {what} are encrypted and were not checked"


def good(key, signature, message):
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
        return True
    except (InvalidSignature, ValueError):
        return False


def subjects(kind, body):
    name, digest = {
        "case-opened": lambda: ("case", sha256(body["case"].encode())),
        "incident": lambda: ("about", sha256(body["about"].encode())),
        "case-closed": lambda: ("case-opened", body["predecessor"]),
        "order": lambda: ("case-opened", body["predecessor"]),
        "refusal": lambda: ("order", body["predecessor"]),
        "acquisition": lambda: ("manifest.jsonl", body["manifest"]["sha256"]),
        "receipt": lambda: ("manifest.jsonl", body["manifest"]["sha256"]),
        "seal": lambda: ("predecessor", body["predecessor"]),
        "timestamp": lambda: ("checkpoint", body["checkpoint"]),
        "timestamp-failed": lambda: ("case-opened", body["predecessor"]),
        **{kind: (lambda name=name: (name, body["predecessor"])) for kind, name in custody.SUBJECTS.items()},
        "enrolment": lambda: (body["name"], sha256(b64(body["key"]))),
        "revocation": lambda: ("key", body["key"]),
    }[kind]()
    return [{"name": name, "digest": {"sha256": digest}}]


def rights_in(holder, case):
    """The roles of a key in a case; those that hold everywhere where no case is named."""
    return set().union(*(roles for roles, cases in holder["rights"] if cases is None or case in cases))


def frames(data):
    """The raw bytes of each frame of a segment, checked against its seek table."""
    count = int.from_bytes(data[-9:-5], "little")
    table = 8 + 8 * count + 9
    if count == 0 or len(data) <= table or data[-5:] != b"\0\xb1\xea\x92\x8f":
        raise Unsound("no seek table at the end of a segment")
    head = data[-table:]
    if head[:8] != (0x184D2A5E).to_bytes(4, "little") + (table - 8).to_bytes(4, "little"):
        raise Unsound("the seek table is malformed")
    at = 0
    for i in range(count):
        stored, size = (int.from_bytes(head[8 + 8 * i + 4 * k : 12 + 8 * i + 4 * k], "little") for k in (0, 1))
        frame = data[at : at + stored]
        facts = zstandard.get_frame_parameters(frame)
        if facts.window_size > FRAME_RAW_MAX or facts.has_checksum or facts.dict_id:
            raise Unsound("a frame has a wide window, a checksum or a dictionary")
        if facts.content_size != size or not 0 < size <= FRAME_RAW_MAX or at + stored > len(data) - table:
            raise Unsound("a frame is not what the seek table says")
        engine = zstandard.ZstdDecompressor().decompressobj()
        piece = engine.decompress(frame)
        if len(piece) != size or not engine.eof or engine.unused_data:
            raise Unsound("a frame is cut or followed by something")
        yield piece
        at += stored
    if at != len(data) - table:
        raise Unsound("a segment holds something besides its frames")


def once(pairs):
    """A JSON object whose keys stand once."""
    if len({key for key, _ in pairs}) != len(pairs):
        raise Unsound("a key stands twice")
    return dict(pairs)


def path_bytes(value):
    return value.encode() if isinstance(value, str) else b64(value["b64"])


def alone(problem, n, item, captures):
    """The rules for one item line by itself."""
    status, gaps, taken = item["status"], item.get("gaps", []), item["taken"]
    if item["n"] != n or item["capture"] not in captures:
        problem(f"item {n}: numbered wrongly or not ordered")
    if (status == "collected" and gaps) or (status != "collected" and not item.get("reason")):
        problem(f"item {n}: status without reason, or gaps in a whole item")
    at = 0
    for gap in gaps:
        if gap["length"] < 1 or gap["offset"] < at or gap["offset"] + gap["length"] > item["size"] or not gap["reason"]:
            problem(f"item {n}: a gap lies wrongly")
        at = gap["offset"] + gap["length"]
    if taken["mono_end_ns"] < taken["mono_start_ns"]:
        problem(f"item {n}: ended before it began")
    if "location" not in item:
        device = item["kind"] in ("block-device", "char-device", "fifo", "socket")
        if "sha256" in item or item["size"] or (status in ("collected", "changed-during-read") and not device):
            problem(f"item {n}: claims content that is not in the stream")


def members(problem, raw, ends, items, complete):
    """Every tar member against its item."""
    located = [(segment, item) for segment, item in items if "location" in item]
    size, expected, links, linkable = raw.tell(), 0, set(), set()
    raw.seek(0)
    try:
        with tarfile.open(fileobj=raw, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
            for member in tar:
                stop = member.offset_data + padded(stored_size(member))
                if stop > size:
                    break
                if expected >= len(located):
                    problem(f"a member at {member.offset} has no item")
                    return
                segment, item = located[expected]
                if stop > ends[segment][1] or (segment and stop <= ends[segment - 1][1]):
                    problem(f"item {item['n']} stands after the wrong segment")
                compare(problem, item, tar, member, stop)
                parts = member.name.rstrip("/").split("/")
                if any("/".join(parts[:n]) in links for n in range(1, len(parts) + 1)):
                    problem(f"item {item['n']} lies at or beneath a symbolic link")
                if member.islnk() and member.linkname not in linkable:
                    problem(f"item {item['n']} is a hard link to nothing")
                if member.issym():
                    links.add(member.name)
                # How many names an adopted file had is not known.
                if member.isreg() and (item["method"] == "adopted-by-coordinator" or item.get("meta", {}).get("nlink", 1) > 1):
                    linkable.add(member.name)
                expected += 1
                end = stop
    except tarfile.ReadError as e:
        # A stream that was broken off may end inside a header.
        if complete or expected < len(located):
            problem(f"the tar cannot be read: {e}")
    end = 0 if expected == 0 else end
    if expected < len(located):
        problem(f"item {located[expected][1]['n']} has no member")
    raw.seek(end)
    if complete and raw.read(1025) != bytes(1024):
        problem("the stream does not end with two zero blocks")


def places(problem, ends, items, complete):
    """What the lines of an encrypted stream keep by themselves, for who cannot read what they describe."""
    at, linkable = 0, set()
    for segment, item in items:
        if "location" not in item:
            continue
        n, kind, place = item["n"], item["kind"], item["location"]
        begin, stop = ends[segment - 1][1] if segment else 0, place["offset"] + place["length"]
        if place["offset"] != at or place["length"] < 512 or place["length"] % 512 or not begin < stop <= ends[segment][1]:
            problem(f"item {n} does not follow the one before it in whole blocks, or does not end in its segment")
        at = stop
        content, target = kind in ("file", "record"), kind in ("symlink", "hardlink")
        if not (content or target or kind == "directory") or ("sha256" in item) != content or ("target" in item) != target:
            problem(f"item {n} has a digest or a target that does not fit its kind, lacks one, or has no member")
        if not content and item["size"]:
            problem(f"item {n} has a size and is no file")
        name = item["capture"].encode() + b"/" + path_bytes(item["path"]).lstrip(b"/")
        if kind == "hardlink" and "target" in item and path_bytes(item["target"]) not in linkable:
            problem(f"item {n} is a hard link to nothing")
        if kind == "file" and (item["method"] == "adopted-by-coordinator" or item.get("meta", {}).get("nlink", 1) > 1):
            linkable.add(name)
    if complete and (ends[-1][1] if ends else 0) != at + 1024:
        problem("the items and the end marker do not make the stream")


def stored_size(member):
    """Data bytes after the header, sparse map included: the size field of the block, or the pax record."""
    if not member.isreg():
        return 0
    if member.sparse is not None:
        # tarfile moves offset_data behind the map, so only the data of the ranges is left.
        return sum(length for _, length in member.sparse)
    return member.size


def padded(size):
    return (size + 511) // 512 * 512


def compare(problem, item, tar, member, stop):
    def check(ok, what):
        if not ok:
            problem(f"item {item['n']}: {what} differs from the tar member")

    name = member.name.encode("utf-8", "surrogateescape")
    stated = item["capture"].encode() + b"/" + path_bytes(item["path"]).lstrip(b"/")
    check(name.rstrip(b"/") == stated.rstrip(b"/"), "name")
    check(item["location"] == {"offset": member.offset, "length": stop - member.offset}, "place")
    kind = "file" if member.isreg() else "directory" if member.isdir() else "symlink" if member.issym() else "hardlink"
    check(item["kind"] == kind or (kind == "file" and item["kind"] == "record"), "kind")
    target = member.linkname.encode("utf-8", "surrogateescape") if kind in ("symlink", "hardlink") else None
    check((path_bytes(item["target"]) if "target" in item else None) == target, "target")
    digest, size = None, 0
    if kind == "file":
        engine, content = hashlib.sha256(), tar.extractfile(member)
        while piece := content.read(1 << 20):
            engine.update(piece)
            size += len(piece)
        digest = engine.hexdigest()
    check(item["size"] == size, "size")
    check(item.get("sha256") == digest, "SHA-256")
    meta = item.get("meta")
    if meta:
        check((meta["mode"], meta["uid"], meta["gid"]) == (member.mode, member.uid, member.gid), "mode or owner")
        prefix = "SCHILY.xattr."
        found = {k[len(prefix) :].replace("%3D", "=").replace("%25", "%"): v for k, v in member.pax_headers.items() if k.startswith(prefix)}
        attributes = {k: base64.b64encode(v.encode("utf-8", "surrogateescape")).decode() for k, v in found.items()}
        check(not meta.get("xattrs") or meta["xattrs"] == attributes, "an extended attribute")
        check(meta["mtime"] is None or meta["mtime"] == member.pax_headers.get("mtime"), "modification time")


def vkey(name, kind, key):
    """A verifier key as C2SP signed-note writes it."""
    raw = bytes([kind]) + key
    return f"{name}+{hashlib.sha256(name.encode() + bytes([10]) + raw).digest()[:4].hex()}+{base64.b64encode(raw).decode()}"


def signed(key, note):
    try:
        key.time(note)
        return True
    except (tlog.Bad, ValueError):
        return False


def verify(folder, anchor, complete=False, expect=None, witnesses=(), held=(), roots=(), required=0, identities=(), proofs=()):
    """What is wrong with a case or a bag, as a list of sentences, and what of its contents was opened."""
    is_bag = os.path.isdir(os.path.join(folder, "data"))
    at = os.path.join(folder, "data") if is_bag else folder
    case = Case(at, anchor, complete, expect, witnesses, held, roots, required, identities)
    case.is_bag, case.proofs = is_bag, proofs
    problems = read_bag.verify(folder, case, anchor, roots) if is_bag else verify_case(case)
    return problems, case.sealed


def verify_case(case):
    case.list()
    case.read_log()
    if case.sealed.misfit:
        raise ValueError("the given identities are of none of the recipients")
    if not case.opened:
        case.problem("nobody opened the case")
    case.read_streams()
    case.account()
    return case.problems


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case")
    parser.add_argument("--anchor", required=True)
    parser.add_argument("--complete", action="store_true")
    parser.add_argument("--expect")
    parser.add_argument("--witness", action="append", default=[])
    parser.add_argument("--held", action="append", default=[])
    parser.add_argument("--consistency", action="append", default=[])
    parser.add_argument("--timestamp-anchor", action="append", default=[])
    parser.add_argument("--timestamps-required", type=int, default=0)
    parser.add_argument("--identity", action="append", default=[])
    args = parser.parse_args()
    folder, anchor_path = os.path.realpath(args.case), os.path.realpath(args.anchor)
    try:
        if os.path.commonpath([folder, anchor_path]) == folder:
            raise ValueError("the anchor lies inside the case")
        if not any(os.path.isdir(os.path.join(folder, name)) for name in ("log", "data")):
            raise ValueError(f"{folder} is neither a case folder nor a bag")
        with open(anchor_path, encoding="utf-8") as file:
            anchor = json.load(file)
        if anchor["format"] != "exhibit-anchor/1":
            raise ValueError("not an anchor of version 1")
        held, roots, proofs = ([tlog.read(path) for path in paths] for paths in (args.held, args.timestamp_anchor, args.consistency))
        identities = [identity for path in args.identity for identity in age.identities(tlog.read(path))]
        options = (args.complete, args.expect, args.witness, held, roots, args.timestamps_required, identities, proofs)
        problems, sealed = verify(folder, anchor, *options)
    except (OSError, ValueError, KeyError, tlog.Bad) as e:
        print(f"unusable: {e}", file=sys.stderr)
        return 2
    for problem in problems[:50]:
        print(f"problem: {ascii(problem)}")
    if sealed.opened and not problems:
        # That others can open it too is not shown by this.
        opened = len({identity.public for identity in sealed.identities})
        print(f"opened with the identities of {opened} of {len(sealed.to)} recipients")
    print("unsound" if problems else sealed.verdict())
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
