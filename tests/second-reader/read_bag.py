"""The second reader's view of a bag: written from docs/format/bag.md and RFC 8493 alone."""

import hashlib
import json
import os
import re

DECLARATION = b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
OUTSIDE = re.compile(r"tagmanifest-sha256\.txt(\.sig|\.([a-z0-9][a-z0-9-]{0,31})\.(tsq|tsr|[0-3]\.crl))?")
FIELDS = {"format", "deployment", "case", "head", "collections", "left_out", "exported_by", "key", "exported_at", "reason", "tool"}


class Bag:
    def __init__(self, folder):
        self.folder, self.problems = folder, []
        found = [os.path.join(path, name) for path, _, names in os.walk(folder) for name in names]
        self.files = {os.path.relpath(path, folder) for path in found if not os.path.islink(path)}
        self.listed = set()

    def read(self, name):
        if name not in self.files:
            self.problems.append(f"{name} is missing")
            return b""
        with open(os.path.join(self.folder, name), "rb") as file:
            return file.read()

    def manifest(self, name, algorithm):
        """Compares every file that a manifest names."""
        named, length = set(), hashlib.new(algorithm).digest_size * 2
        for line in self.read(name).decode("utf-8", "replace").split("\n")[:-1]:
            match = re.fullmatch(rf"([0-9a-f]{{{length}}})  (.+)", line)
            path = match.group(2).replace("%0A", "\n").replace("%0D", "\r").replace("%25", "%") if match else ""
            wrong_place = path.startswith("data/") == name.startswith("tag") or OUTSIDE.fullmatch(path)
            if not match or path in named or wrong_place or {"", ".", ".."} & set(path.split("/")):
                self.problems.append(f"{name}: a bad line {line!r}")
                continue
            named.add(path)
            if hashlib.new(algorithm, self.read(path)).hexdigest() != match.group(1):
                self.problems.append(f"{path} is not what {name} states")
        self.listed |= named
        return named


def stamped(bag, roots, exported_at):
    """Every authority that has left something: its token over the tag manifest, which was made before."""
    import stamps
    from cryptography import x509

    over = hashlib.sha256(bag.read("tagmanifest-sha256.txt")).hexdigest()
    left = {m.group(2) for m in map(OUTSIDE.fullmatch, bag.files) if m and m.group(2)}
    for authority in sorted(left):
        stem = f"tagmanifest-sha256.txt.{authority}"
        if f"{stem}.tsr" not in bag.files:
            continue  # An authority that could not be had is no fault of the bag.
        lists = [f"{stem}.{n}.crl" for n in range(4) if f"{stem}.{n}.crl" in bag.files]
        try:
            facts = stamps.token(bag.read(f"{stem}.tsr"), bag.read(f"{stem}.tsq"), over)
            if stamps.ns(exported_at) > stamps.ns(stamps.time_text(facts["time"])) + facts["accuracy"] + stamps.SLACK:
                bag.problems.append(f"bag.json dates the export after the stamp of {authority}")
            if roots:
                crls = [x509.load_der_x509_crl(bag.read(name)) for name in lists]
                stamps.trusted(facts, [x509.load_pem_x509_certificate(r) for r in roots], crls)
        except stamps.Bad as e:
            if str(e) != "it leads to no root":
                bag.problems.append(f"the stamp of {authority}: {e}")


def verify(folder, case, anchor, roots):
    """What is wrong with a bag and the case in it, as a list of sentences."""
    import read_case
    import stamps

    bag = Bag(folder)
    if bag.read("bagit.txt") != DECLARATION:
        bag.problems.append("bagit.txt is not the declaration")
    bag.manifest("tagmanifest-sha256.txt", "sha256")
    if bag.manifest("manifest-sha256.txt", "sha256") != bag.manifest("manifest-sha512.txt", "sha512"):
        bag.problems.append("the payload manifests name different files")
    bag.problems += [f"{name} is named by no manifest" for name in bag.files - bag.listed if not OUTSIDE.fullmatch(name)]
    try:
        description = json.loads(bag.read("bag.json"))
        if description.keys() - {"authorities"} != FIELDS or description["format"] != "exhibit-bag/1":
            raise ValueError("not a description of version 1")
    except (ValueError, AttributeError) as e:
        return bag.problems + [f"bag.json: {e}"] + read_case.verify_case(case)
    stamped(bag, roots, description["exported_at"])
    case.left_out = set(description["left_out"])
    problems = bag.problems + read_case.verify_case(case)
    stated = (description["deployment"], description["case"], description["head"])
    if stated != (anchor["deployment"], case.case, {"size": case.tree.size, "root": case.tree.root()}):
        problems.append("bag.json is about something else")
    if sorted(description["collections"] + description["left_out"]) != sorted(case.collections):
        problems.append("bag.json does not name the collections of the log")
    if any(name.startswith(f"collections/{left}/") for name in case.objects for left in description["left_out"]):
        problems.append("what was left out is there")
    if description["exported_by"] not in case.exporters:
        problems.append("the export is not recorded")
    else:
        recorded = [body for body in case.exporters[description["exported_by"]][-16:] if body["reason"] == description["reason"]]
        if not recorded or stamps.ns(recorded[-1]["at"]) > stamps.ns(description["exported_at"]) + stamps.SLACK:
            problems.append("bag.json does not say when or why the export was, as it is recorded")
    holder = case.keys.get(description["key"])
    may = holder and not holder["revoked"] and holder["name"] == description["exported_by"]
    if not may or not case.roles_of(description["exported_by"], case.case) & {"responder", "custodian"}:
        problems.append("the key is not of somebody who may hand the case over")
    elif not read_case.good(holder["key"], bag.read("tagmanifest-sha256.txt.sig"), bag.read("tagmanifest-sha256.txt")):
        problems.append("the signature over the tag manifest does not hold")
    return problems
