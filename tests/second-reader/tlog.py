#!/usr/bin/env python3
"""An independent reader of transparency logs: C2SP signed notes, checkpoints, cosignatures, tiles and proofs.

Written from the C2SP pages and RFC 6962 alone; it knows nothing of Exhibit.

    tlog.py proof PROOF RECORD --log VKEY [--witness VKEY]...      a .tlog-proof and the record that it is about
    tlog.py log LOG_FOLDER --log VKEY [--witness VKEY]...          a folder with checkpoint and tile/: everything, by tiles

VKEY is a verifier key, NAME+ID+BASE64. All given keys must have signed. Exit code: 0 good, 1 not, 2 unusable input.
"""

import argparse
import base64
import hashlib
import os
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

LOG, COSIGNATURE = 1, 4


class Bad(Exception):
    """What is wrong."""


def sha(data):
    return hashlib.sha256(data).digest()


def leaf(entry):
    return sha(b"\0" + entry)


def node(left, right):
    return sha(b"\1" + left + right)


def root(hashes):
    """RFC 6962 section 2.1 as written."""
    if not hashes:
        return sha(b"")
    if len(hashes) == 1:
        return hashes[0]
    k = 1 << (len(hashes) - 1).bit_length() - 1
    return node(root(hashes[:k]), root(hashes[k:]))


class Key:
    """A verifier key."""

    def __init__(self, text):
        self.name, self.id, rest = text.split("+", 2)
        raw = base64.b64decode(rest, validate=True)
        self.kind, self.key = raw[0], raw[1:]
        if sha(self.name.encode() + b"\n" + raw)[:4].hex() != self.id or self.kind not in (LOG, COSIGNATURE):
            raise Bad(f"not a verifier key: {text!r}")

    def has_line(self, note):
        return any(name == self.name and blob[:4].hex() == self.id for name, blob in parse(note)[1])

    def time(self, note):
        """Verifies this key's signature on a note. The time of a cosignature, zero for a log's own."""
        text, lines = parse(note)
        for name, blob in lines:
            if name != self.name or blob[:4].hex() != self.id:
                continue
            message, signature, time = text.encode(), blob[4:], 0
            if self.kind == COSIGNATURE:
                time, signature = int.from_bytes(blob[4:12], "big"), blob[12:]
                message = f"cosignature/v1\ntime {time}\n".encode() + message
            try:
                Ed25519PublicKey.from_public_bytes(self.key).verify(signature, message)
                return time
            except InvalidSignature:
                continue
        raise Bad(f"{self.name} did not sign this checkpoint")


def parse(note):
    """The text of a note and its signature lines."""
    text, _, signatures = note.decode().rpartition("\n\n")
    lines = []
    for line in signatures.removesuffix("\n").split("\n"):
        dash, name, blob = line.split(" ")
        if dash != "\u2014":
            raise Bad("not a signature line")
        lines.append((name, base64.b64decode(blob, validate=True)))
    if not signatures.endswith("\n"):
        raise Bad("the note does not end")
    return text + "\n", lines


def checkpoint(note):
    """Origin, size and root of a checkpoint. Nothing is verified."""
    origin, size, head, rest = parse(note)[0].split("\n")
    if rest or str(int(size)) != size:
        raise Bad("not a checkpoint")
    return origin, int(size), base64.b64decode(head, validate=True)


def included(n, size, hashes, entry, head):
    """RFC 6962 section 2.1.1: the path from the leaf up, by recursion over the definition."""

    def up(m, count, path):
        if count == 1:
            if path:
                raise Bad("the proof is too long")
            return leaf(entry)
        if not path:
            raise Bad("the proof is too short")
        k = 1 << (count - 1).bit_length() - 1
        if m < k:
            return node(up(m, k, path[:-1]), path[-1])
        return node(path[-1], up(m - k, count - k, path[:-1]))

    if n >= size or up(n, size, hashes) != head:
        raise Bad("the record is not in the log")


def consistent(old, old_root, new, new_root, hashes):
    """RFC 6962 section 2.1.2: both roots from the proof, by recursion over the definition."""

    def both(m, count, path, whole):
        if m == count:
            if whole:
                return old_root, old_root, path
            return path[0], path[0], path[1:]
        k = 1 << (count - 1).bit_length() - 1
        if m <= k:
            a, b, rest = both(m, k, path, whole)
            return a, node(b, rest[0]), rest[1:]
        a, b, rest = both(m - k, count - k, path, False)
        return node(rest[0], a), node(rest[0], b), rest[1:]

    if old == 0 or old == new:
        if hashes or (old and old_root != new_root):
            raise Bad("not consistent")
        return
    try:
        a, b, rest = both(old, new, hashes, True)
    except IndexError as e:
        raise Bad("the proof is too short") from e
    if old > new or rest or a != old_root or b != new_root:
        raise Bad("not consistent")


def read_proof(data):
    """Index, hashes and checkpoint of a C2SP tlog-proof."""
    head, _, note = data.partition(b"\n\n")
    first, *lines = head.decode().split("\n")
    if first != "c2sp.org/tlog-proof@v1":
        raise Bad("not a tlog-proof")
    if lines and lines[0].startswith("extra "):
        lines = lines[1:]
    index = lines[0].removeprefix("index ")
    if str(int(index)) != index:
        raise Bad("no index")
    return int(index), [base64.b64decode(line, validate=True) for line in lines[1:]], note


def read_consistency(data):
    """Size of the earlier head, hashes and checkpoint of a consistency proof: the body of a C2SP tlog-witness request."""
    head, _, note = data.partition(b"\n\n")
    first, *lines = head.decode().split("\n")
    old = first.removeprefix("old ")
    if old == first or str(int(old)) != old:
        raise Bad("not a consistency proof")
    return int(old), [base64.b64decode(line, validate=True) for line in lines], note


def tile_path(layer, n, width):
    """The path of a tile by C2SP tlog-tiles."""
    text = f"{n:03}" if n < 1000 else ""
    if not text:
        groups = []
        while True:
            groups.insert(0, f"{n % 1000:03}")
            n //= 1000
            if n == 0:
                break
        text = "/".join(["x" + g for g in groups[:-1]] + groups[-1:])
    return f"tile/{layer}/{text}" + ("" if width == 256 else f".p/{width}")


def tiles(leaves):
    """Every hash tile of a tree: path and bytes."""
    row, level = leaves, 0
    while row:
        for n in range(0, len(row), 256):
            part = row[n : n + 256]
            yield tile_path(level, n // 256, len(part)), b"".join(part)
        row = [root(row[n : n + 256]) for n in range(0, len(row) - 255, 256)]
        level += 1


def entries(bundle):
    """The entries of an entry bundle."""
    out = []
    while bundle:
        size = int.from_bytes(bundle[:2], "big")
        if len(bundle) < 2 + size:
            raise Bad("a bundle ends inside an entry")
        out.append(bundle[2 : 2 + size])
        bundle = bundle[2 + size :]
    return out


def read(*parts):
    with open(os.path.join(*parts), "rb") as file:
        return file.read()


def check_log(folder, keys):
    """Reads a log by its tiles alone: the leaves lead to the signed root, all tiles of that size agree."""
    note = read(folder, "checkpoint")
    times = [key.time(note) for key in keys]
    _, size, head = checkpoint(note)
    leaves = []
    for n in range(0, size, 256):
        data = read(folder, tile_path(0, n // 256, min(256, size - n)))
        leaves += [data[i : i + 32] for i in range(0, len(data), 32)]
    if len(leaves) != size or root(leaves) != head:
        raise Bad("the tiles do not lead to the signed root")
    for path, data in tiles(leaves):
        if read(folder, path) != data:
            raise Bad(f"{path} is not what the leaves give")
    for n in range(0, size - 255, 256):
        if [leaf(e) for e in entries(read(folder, tile_path("entries", n // 256, 256)))] != leaves[n : n + 256]:
            raise Bad(f"entry bundle {n // 256} is not what the leaves give")
    return size, times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["proof", "log"])
    parser.add_argument("path")
    parser.add_argument("record", nargs="?")
    parser.add_argument("--log", required=True)
    parser.add_argument("--witness", action="append", default=[])
    args = parser.parse_args()
    try:
        keys = [Key(text) for text in [args.log, *args.witness]]
        if args.what == "log":
            size, times = check_log(args.path, keys)
            print(f"good: {size} records, cosigned at {times[1:]}")
        else:
            index, hashes, note = read_proof(read(args.path))
            times = [key.time(note) for key in keys]
            origin, size, head = checkpoint(note)
            included(index, size, hashes, read(args.record), head)
            print(f"good: record {index} of {size} in {ascii(origin)}, cosigned at {times[1:]}")
    except Bad as e:
        print(f"bad: {ascii(str(e))}")
        return 1
    except (OSError, ValueError, IndexError, TypeError) as e:
        print(f"unusable: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
