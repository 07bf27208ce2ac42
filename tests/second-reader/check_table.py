#!/usr/bin/env python3
"""Runs the second reader over tests/vectors: the good cases must be sound, every row of tampered.json unsound; the encrypted one
sound as far as it can be read, and sound with the identities of its recipients.

Prints one JSON object {"checked": N, "disagreed": [names]}; exit code 0 when it agrees with every row, else 1.
"""

import base64
import json
import os
import shutil
import sys
import tempfile

import age
from read_case import verify

# What is verified, with the identities of whom, and what of its contents is then not read: items, segments.
GOOD = [(name, [], (0, 0)) for name in ("good-1", "good-2", "good-3", "good-4", "good-5", "good-6", "bag-1")]
GOOD += [("good-7", [], (3, 2)), ("good-7", ["1"], (0, 0)), ("good-7", ["2"], (0, 0)), ("good-7", ["1", "2"], (0, 0))]


def apply(folder, edit):
    """Does one edit of the table on a folder."""
    op, path = edit["op"], os.path.join(folder, edit["object"])

    def load(p):
        with open(p, "rb") as file:
            return file.read()

    def store(p, data):
        os.makedirs(os.path.dirname(p), exist_ok=True)
        with open(p, "wb") as file:
            file.write(data)

    if op == "flip":
        data = bytearray(load(path))
        data[edit["at"]] ^= edit["with"]
        store(path, data)
    elif op == "truncate":
        store(path, load(path)[: edit["size"]])
    elif op == "append":
        store(path, load(path) + base64.b64decode(edit["b64"]))
    elif op == "delete":
        os.remove(path)
    elif op == "swap":
        other = os.path.join(folder, edit["other"])
        first, second = load(path), load(other)
        store(path, second)
        store(other, first)
    elif op == "put":
        store(path, base64.b64decode(edit["b64"]))
    elif op == "copy":
        store(os.path.join(folder, edit["to"]), load(path))
    elif op == "symlink":
        os.remove(path)
        os.symlink(edit["target"], path)
    else:
        raise ValueError(f"unknown edit {op}")


def main():
    vectors = sys.argv[1]
    with open(os.path.join(vectors, "anchor.json"), encoding="utf-8") as file:
        anchor = json.load(file)
    with open(os.path.join(vectors, "tampered.json"), encoding="utf-8") as file:
        table = json.load(file)
    if table["format"] != "exhibit-tampered/1":
        raise ValueError("not a table of version 1")
    disagreed, checked = [], 0

    def root(authority):
        with open(os.path.join(vectors, "timestamps", authority, "root.pem"), "rb") as file:
            return file.read()

    def identities(names):
        found = []
        for name in names:
            with open(os.path.join(vectors, "identities", f"{name}.txt"), "rb") as file:
                found += age.identities(file.read())
        return found

    for name, holders, unread in GOOD:
        checked += 1
        both = [root("alpha"), root("beta")] if name == "good-4" else []
        options = {"complete": True, "roots": both, "required": len(both), "identities": identities(holders)}
        problems, sealed = verify(os.path.join(vectors, name), anchor, **options)
        if problems or (sealed.items, sealed.segments) != unread:
            disagreed.append(f"{name} {holders}: {ascii(problems[:5])}, {sealed.verdict()}")
    for row in table["cases"]:
        checked += 1
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(os.path.join(vectors, row["base"]), folder, dirs_exist_ok=True)
            for edit in row["edits"]:
                apply(folder, edit)
            held = [base64.b64decode(note) for note in row.get("held", [])]
            roots = [root(authority) for authority in row.get("timestamp_anchors", [])]
            required, holders = row.get("timestamps_required", 0), identities(row.get("identities", []))
            problems, _ = verify(folder, anchor, row.get("complete", False), row.get("expect"), row.get("witnesses", []), held, roots, required, holders)
            if not problems:
                disagreed.append(row["name"])
    print(json.dumps({"checked": checked, "disagreed": disagreed}))
    return 1 if disagreed else 0


if __name__ == "__main__":
    sys.exit(main())
