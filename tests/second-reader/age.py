"""Encrypted segments: the part of age (C2SP age.md, age-encryption.org/v1) that a case uses, part of the second reader of a case.

Written from that specification, from BIP 173 (Bech32) and from docs/format/stream.md alone, with the primitives of cryptography.
"""

import base64
import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

INTRO, STANZA, END = b"age-encryption.org/v1\n", b"-> X25519 ", b"---"
CHUNK, TAG, TEXT = 65_536, 16, 43
BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
RECIPIENTS_MAX, IDENTITY_FILE_MAX = 16, 65_536


class Bad(ValueError):
    """Not what the specification asks for, or not opened; the message repeats no secret."""


def bech32(text, prefix):
    """The 32 bytes that a text with this prefix holds."""
    if not isinstance(text, str):
        raise Bad("no text")
    lower = text.lower()
    name, _, data = lower.rpartition("1")
    if text not in (lower, text.upper()) or name != prefix or len(data) != 58 or set(data) - set(BECH32):
        raise Bad(f"no text of 32 bytes that begins with {prefix}1")
    values, check = [BECH32.index(c) for c in data], 1
    for value in [ord(c) >> 5 for c in name] + [0] + [ord(c) & 31 for c in name] + values:
        top, check = check >> 25, (check & 0x1FFFFFF) << 5 ^ value
        for bit, number in enumerate(GENERATOR):
            check ^= number if top >> bit & 1 else 0
    bits = 0
    for value in values[:-6]:
        bits = bits << 5 | value
    if check != 1 or bits & 15:
        raise Bad("a text with a wrong checksum or spare bits")
    return (bits >> 4).to_bytes(32, "big")


def recipient(text):
    """The public key of age1...; one that nobody can have, or that is written otherwise, is none."""
    key = bech32(text, "age")
    if text != text.lower() or int.from_bytes(key, "little") >= 2**255 - 19:
        raise Bad("a recipient that is not written in the one form")
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(key))
    except ValueError as e:
        raise Bad("a recipient whose identity nobody can have") from e
    return key


def recipients(texts):
    """Those of a case-opened record, in its order."""
    keys = [recipient(text) for text in texts]
    if not 1 <= len(keys) <= RECIPIENTS_MAX or len(set(keys)) != len(keys):
        raise Bad("no recipients, too many, or one twice")
    return keys


class Identity:
    """The secret of a recipient."""

    def __init__(self, text):
        if text != text.upper():
            raise Bad("no identity")
        self.secret = X25519PrivateKey.from_private_bytes(bech32(text, "age-secret-key-"))
        self.public = self.secret.public_key().public_bytes_raw()


def identities(data):
    """Those of an identity file: one a line, besides empty lines and comments."""
    try:
        lines = [line.strip() for line in data.decode().splitlines()] if len(data) <= IDENTITY_FILE_MAX else []
    except UnicodeDecodeError:
        lines = []
    found = [Identity(line) for line in lines if line and not line.startswith("#")]
    if not found:
        raise Bad("not an age identity file")
    return found


def derived(secret, salt, info):
    return HKDF(hashes.SHA256(), 32, salt, info).derive(secret)


class File:
    """One age file to so many X25519 recipients, in the one form; what shows of it without any key."""

    def __init__(self, data, count):
        self.data, self.at, self.stanzas = data, 0, []
        self.expect(INTRO)
        for _ in range(count):
            self.expect(STANZA)
            self.stanzas.append((self.text(), self.text()))
        self.expect(END)
        self.header = data[: self.at]
        self.expect(b" ")
        self.mac = self.text()
        self.nonce, self.payload = data[self.at : self.at + 16], data[self.at + 16 :]
        # The last chunk is empty only when all is.
        last = len(self.payload) % (CHUNK + TAG)
        if len(self.nonce) < 16 or not self.payload or 0 < last < TAG or (last == TAG and len(self.payload) > TAG):
            raise Bad("an age file whose payload has no possible length")

    def expect(self, what):
        if self.data[self.at : self.at + len(what)] != what:
            raise Bad("no age file of the one form to the recipients of the case")
        self.at += len(what)

    def text(self):
        """32 bytes in base64 without padding, in their one text, and the end of the line."""
        text, self.at = self.data[self.at : self.at + TEXT], self.at + TEXT
        self.expect(b"\n")
        data = base64.b64decode(text + b"=", validate=True)
        if base64.b64encode(data) != text + b"=":
            raise Bad("not the one base64 form")
        return data

    def key(self, identity):
        """The file's key, when this identity opens it: it lies in a stanza, and the header is what was written under it."""
        for share, wrapped in self.stanzas:
            try:
                shared = identity.secret.exchange(X25519PublicKey.from_public_bytes(share))
                wrap = derived(shared, share + identity.public, b"age-encryption.org/v1/X25519")
                key = ChaCha20Poly1305(wrap).decrypt(bytes(12), wrapped, None)
            except (InvalidTag, ValueError):
                continue
            mac = hmac.new(derived(key, None, b"header"), self.header, hashlib.sha256).digest()
            return key if hmac.compare_digest(mac, self.mac) else None
        return None

    def plain(self, key):
        """What the file holds."""
        engine, pieces = ChaCha20Poly1305(derived(key, self.nonce, b"payload")), []
        starts = range(0, len(self.payload), CHUNK + TAG)
        for n, start in enumerate(starts):
            nonce = n.to_bytes(11, "big") + (b"\1" if n == len(starts) - 1 else b"\0")
            try:
                pieces.append(engine.decrypt(nonce, self.payload[start : start + CHUNK + TAG], None))
            except InvalidTag:
                raise Bad("it was altered after it was encrypted") from None
        return b"".join(pieces)
