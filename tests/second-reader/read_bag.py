"""The second reader's view of a bag: written from docs/format/bag.md and RFC 8493 alone."""

import hashlib
import json
import os
import re
import stat

DECLARATION = b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
OUTSIDE = re.compile(r"tagmanifest-sha256\.txt(\.sig|\.([a-z0-9][a-z0-9-]{0,31})\.(tsq|tsr|[0-3]\.crl))?")
FIELDS = {"format", "deployment", "case", "head", "collections", "left_out", "exported_by", "key", "exported_at", "reason", "tool"}
MAY_LACK = {"authorities", "revocation_lists", "views"}
TAGS = re.compile(
    r"bagit\.txt|bag-info\.txt|bag\.json|manifest-sha(256|512)\.txt|VERIFY\.md|case\.jsonld|(expanded|proofs)/.+"
    r"|documents/(report|chain-of-custody|certificate-902-14|statement-27037)(\.(en|fr))?\.(html|pdf)"
    r"|schemas/[a-z0-9-]+\.v[0-9]+\.json|load-file/(exhibits\.dat|exhibits\.opt|NOT-MADE\.txt)"
)
# What was made, by the word for it in bag.json: how its names begin. The first two words are older than the others.
OLD_VIEWS = {"expanded": "expanded/", "proofs": "proofs/"}
VIEWS = OLD_VIEWS | {
    "documents": "documents/",
    "load-file": "load-file/exhibits.",
    "ontology": "case.jsonld",
    "schemas": "schemas/",
    "steps": "VERIFY.md",
}
# Labels whose values are not compared: a size in words, a title that only the log knows, and the exporter's word.
NOT_COMPARED = {"Bag-Size", "External-Description", "Exhibit-Verified"}


class Bag:
    def __init__(self, folder):
        self.folder, self.problems = folder, []
        found = [os.path.join(path, name) for path, _, names in os.walk(folder) for name in names]
        plain = {path for path in found if stat.S_ISREG(os.lstat(path).st_mode)}
        self.files = {os.path.relpath(path, folder) for path in plain}
        # What lies in the payload is the case's to judge.
        beside = [(path, names + folders) for path, folders, names in os.walk(folder) if os.path.relpath(path, folder).split("/")[0] != "data"]
        self.problems += [f"{path} is an empty folder" for path, names in beside if not names]
        links = [os.path.join(path, name) for path, names in beside for name in names if os.path.islink(os.path.join(path, name))]
        others = {path for path in found if os.path.relpath(path, folder).split("/")[0] != "data"} - plain
        self.problems += [f"{path} is no plain file" for path in sorted(others | set(links))]
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


def signed_list(crl, facts, roots):
    """Somebody in the token or among the roots signed the list in its issuer's name."""
    from cryptography import x509

    known = [x509.load_der_x509_certificate(c) for c in facts["others"]] + roots
    return any(crl.issuer == c.subject and crl.is_signature_valid(c.public_key()) for c in known)


def informed(bag, description):
    """bag-info.txt says what bag.json and the payload say."""
    lines = [line.split(": ", 1) for line in bag.read("bag-info.txt").decode("utf-8", "replace").split("\n")[:-1]]
    info, head, tool = dict(line for line in lines if len(line) == 2), description["head"], description["tool"]
    sizes = [os.path.getsize(os.path.join(bag.folder, name)) for name in bag.files if name.startswith("data/")]
    stated = {
        "Source-Organization": description["deployment"],
        "External-Identifier": description["case"],
        "Bagging-Date": description["exported_at"][:10],
        "Bag-Software-Agent": f"{tool['name']} {tool['version']}",
        "Payload-Oxum": f"{sum(sizes)}.{len(sizes)}",
        "Exhibit-Exported-By": description["exported_by"],
        "Exhibit-Signing-Key": description["key"],
        "Exhibit-Log-Head": f"{head['size']}:{head['root']}",
        "Exhibit-Reason": description["reason"],
    }
    wrong = [label for label in info if label in stated and info[label] != stated[label] and stated[label].isprintable()]
    wrong += info.keys() - stated.keys() - NOT_COMPARED
    if "views" in description:
        wrong += (stated.keys() | NOT_COMPARED) - info.keys()
    if wrong or len(info) != len(lines):
        bag.problems.append(f"bag-info.txt is not what the bag says: {sorted(wrong)}")


def viewed(bag, named, description):
    """Every name beside the payload is one of the format's, and the views are there that were made."""
    bag.problems += [f"{name} is no name of the format" for name in sorted(named) if not TAGS.fullmatch(name)]
    if "views" not in description:
        return
    made = description["views"]
    for view, begin in (VIEWS if set(made) - OLD_VIEWS.keys() else OLD_VIEWS).items():
        if (view in made) != any(name.startswith(begin) for name in named):
            bag.problems.append(f"{begin} is there, or not, and bag.json says otherwise")


def stamped(bag, roots, description):
    """Every authority that has left something: its token over the tag manifest, which was made before. What the good ones say: the
    root, the earliest and the latest moment."""
    import stamps
    from cryptography import x509

    over = hashlib.sha256(bag.read("tagmanifest-sha256.txt")).hexdigest()
    left = {m.group(2) for m in map(OUTSIDE.fullmatch, bag.files) if m and m.group(2)}
    spoken, believed = set(), []
    for authority in sorted(left):
        stem, is_named = f"tagmanifest-sha256.txt.{authority}", authority in description.get("authorities", [])
        lists = [f"{stem}.{n}.crl" for n in range(4) if f"{stem}.{n}.crl" in bag.files]
        try:
            crls = [x509.load_der_x509_crl(bag.read(name)) for name in lists]
        except ValueError as e:
            bag.problems.append(f"a revocation list of {authority}: {e}")
            continue
        if f"{stem}.tsr" not in bag.files:
            if not is_named:
                bag.problems.append(f"files of {authority}, which bag.json does not name")
            continue  # An authority that could not be had is no fault of the bag.
        try:
            facts = stamps.token(bag.read(f"{stem}.tsr"), bag.read(f"{stem}.tsq"), over)
            if facts["signed"] in spoken:
                raise stamps.Bad("it is another's under a second name")
            spoken.add(facts["signed"])
            if stamps.ns(description["exported_at"]) > stamps.ns(stamps.time_text(facts["time"])) + facts["accuracy"] + stamps.SLACK:
                bag.problems.append(f"bag.json dates the export after the stamp of {authority}")
            if not roots:
                raise stamps.Bad("it leads to no root")
            given = [x509.load_pem_x509_certificate(r) for r in roots]
            root = stamps.trusted(facts, given, crls)
            if not all(signed_list(crl, facts, given) for crl in crls):
                raise stamps.Bad("a revocation list is not its issuer's")
            when = stamps.ns(stamps.time_text(facts["time"]))
            believed.append((root, when - facts["accuracy"], when + facts["accuracy"]))
        except stamps.Bad as e:
            if str(e) != "it leads to no root" or not is_named:
                bag.problems.append(f"the stamp of {authority}: {e}")
    return believed


def described(data):
    """bag.json: one JSON object in UTF-8 without a mark at its begin, each key once, with the fields of version 1."""
    description = json.loads(data.decode("utf-8"), object_pairs_hook=once)
    if description.keys() - MAY_LACK != FIELDS or description["format"] != "exhibit-bag/1":
        raise ValueError("not a description of version 1")
    if description["head"].keys() != {"size", "root"} or description["tool"].keys() != {"name", "version", "sha256"}:
        raise ValueError("head or tool has other fields")
    for ids in ("collections", "left_out", "authorities"):
        if description.get(ids, []) != sorted(set(description.get(ids, []))):
            raise ValueError(f"{ids} are not in their order, each once")
    lists = description.get("revocation_lists", {})
    if not lists.keys() <= set(description.get("authorities", [])) or not set(lists.values()) <= {1, 2, 3, 4}:
        raise ValueError("revocation_lists are not those of the authorities")
    views = description.get("views", [])
    if views != sorted(VIEWS.keys() & set(views)):
        raise ValueError("views are of other words, or not in their order")
    return description


def once(pairs):
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def expanded(bag, named, case):
    """Each file of expanded/ is the content of the item that has its exhibit number, and where there is one there are all."""
    files = {}
    for name in [n for n in named if n.startswith("expanded/") and n != "expanded/README.txt"]:
        match = re.fullmatch(r"expanded/([0-9]{5,})/EXH([0-9]{8,})(\.[A-Za-z0-9]{1,8})?", name)
        number = int(match.group(2)) if match else 0
        if not match or (match.group(1), match.group(2)) != (f"{number // 1000:05}", f"{number:08}") or number in files:
            bag.problems.append(f"{name} is not named as the file of one exhibit")
        files[number] = hashlib.sha256(bag.read(name)).hexdigest()
    if any(n.startswith("expanded/") for n in named) and files != case.exhibits:
        wrong = sorted(n for n in files.keys() | case.exhibits.keys() if files.get(n) != case.exhibits.get(n))
        bag.problems.append(f"expanded/ does not hold the contents of the exhibits {wrong[:20]}")


def verify(folder, case, anchor, roots):
    """What is wrong with a bag and the case in it, as a list of sentences."""
    import read_case
    import stamps

    bag = Bag(folder)
    if bag.read("bagit.txt") != DECLARATION:
        bag.problems.append("bagit.txt is not the declaration")
    tags = bag.manifest("tagmanifest-sha256.txt", "sha256")
    if bag.manifest("manifest-sha256.txt", "sha256") != bag.manifest("manifest-sha512.txt", "sha512"):
        bag.problems.append("the payload manifests name different files")
    bag.problems += [f"{name} is named by no manifest" for name in bag.files - bag.listed if not OUTSIDE.fullmatch(name)]
    try:
        description = described(bag.read("bag.json"))
    except (ValueError, AttributeError, TypeError) as e:
        return bag.problems + [f"bag.json: {e}"] + read_case.verify_case(case)
    case.stamps.over_all = stamped(bag, roots, description)
    informed(bag, description)
    viewed(bag, tags, description)
    case.left_out = set(description["left_out"])
    of_case = read_case.verify_case(case)
    expanded(bag, tags, case)
    problems = bag.problems + of_case
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
