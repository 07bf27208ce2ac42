"""What is done with evidence after it was taken, as docs/format/custody.md has it: part of the second reader of a case."""

SUBJECTS = {
    "access": "case-opened",
    "hold": "case-opened",
    "hold-released": "hold",
    "retention": "predecessor",
    "release": "predecessor",
    "transfer": "release",
    "disposal": "case-opened",
    "approval": "approved",
    "destruction": "approval",
}
TYPES = tuple(kind for kind in SUBJECTS if kind != "access")
SIGNERS = {
    "hold": ("placed_by", {"custodian", "responder"}),
    "hold-released": ("released_by", {"custodian"}),
    "retention": ("set_by", {"custodian"}),
    "release": ("released_by", {"custodian"}),
    "transfer": ("received_by", {"custodian"}),
    "disposal": ("requested_by", {"custodian"}),
    "approval": ("approved_by", {"approver"}),
}


class Custody:
    """Approvals, holds, retention, custody and disposals. A record that breaks a rule is a problem and has no effect."""

    def __init__(self, case):
        self.case = case
        self.holds, self.kept, self.until, self.holder, self.offer, self.disposals = {}, None, None, None, None, {}
        self.two_person, self.orders = False, {}

    def take(self, kind, body, digest):
        why = self.broken(kind, body, digest)
        if why:
            self.case.problem(f"{kind}: {why}")

    def fate(self, collection):
        for asked in self.disposals.values():
            if asked["approval"] and collection in asked["collections"]:
                return "destroyed" if asked["certificate"] else "condemned"
        return "kept"

    def held(self, collection):
        return any((not of or collection in of) and collection not in late for of, late in self.holds.values())

    def order(self, body, digest):
        if self.two_person:
            self.orders[digest] = {"by": body["issued_by"], "at": body["issued_at"], "expires": body["expires_at"], "approval": None, "ran": False}

    def carried_out(self, order):
        """Something was taken under an order."""
        asked = self.orders.get(order)
        if asked and not asked["approval"] and not asked["ran"]:
            asked["ran"] = True
            self.case.problem("an order was carried out that nobody had approved")

    def broken(self, kind, body, digest):
        """The rule that a record breaks; otherwise it takes effect."""
        if kind != "destruction" and not (body["reason"].strip() and len(body["reason"].encode()) <= 1024):
            return "no reason, or too long a one"
        if SUBJECTS[kind] == "case-opened" and body["predecessor"] != self.case.opened:
            return "it does not follow from case-opened"
        return getattr(self, kind.replace("-", "_"))(body, digest)

    def access(self, body, digest):
        if body["action"] not in ("list", "view", "download", "export", "verify"):
            return "an unknown action"
        if not self.case.roles_of(body["by"], body["case"]) & {"responder", "custodian"}:
            return f"{body['by']} may not read in this case"

    def hold(self, body, digest):
        for name in body.get("collections", ()):
            known = self.case.collections.get(name)
            if not known or not (known["receipts"] or known["seal"]) or self.fate(name) != "kept":
                return f"it names {name}, which cannot be held"
        late = [] if body.get("collections") else sorted(n for n in self.case.collections if self.fate(n) == "condemned")
        if body.get("too_late", []) != late:
            return "it does not name what it comes too late for"
        self.holds[digest] = (body.get("collections", []), late)

    def hold_released(self, body, digest):
        if body["predecessor"] not in self.holds:
            return "it releases no hold that stands"
        del self.holds[body["predecessor"]]

    def retention(self, body, digest):
        if body["predecessor"] != (self.kept or self.case.opened):
            return "it does not follow from the newest retention or case-opened"
        if self.until and body["until"] <= self.until:
            return "retention is shortened"
        self.kept, self.until = digest, body["until"]

    def release(self, body, digest):
        last, holder = self.holder or (self.case.opened, None)
        if body["predecessor"] != last:
            return "it does not follow from the newest transfer or case-opened"
        if holder not in (None, body["released_by"]) or body["to"] == body["released_by"]:
            return "custody is not there to be given, or is given to nobody else"
        self.offer = (digest, body["to"])

    def transfer(self, body, digest):
        if self.offer != (body["predecessor"], body["received_by"]):
            return "it accepts no offer that stands for this person"
        self.holder, self.offer = (digest, body["received_by"]), None

    def disposal(self, body, digest):
        names = [s["collection"] for s in body["seals"]]
        if self.holder and self.holder[1] != body["requested_by"]:
            return "who asks does not have custody"
        if not 1 <= len(names) <= 300 or names != sorted(set(names)):
            return "it names nothing, too much, or something twice"
        for sealed in body["seals"]:
            known = self.case.collections.get(sealed["collection"])
            if not known or known["seal"] != sealed["seal"] or self.fate(sealed["collection"]) != "kept":
                return f"{sealed['collection']} is not there to be destroyed"
        self.disposals[digest] = {"by": body["requested_by"], "at": body["requested_at"], "collections": names, "approval": None, "until": None, "certificate": None}

    def approval(self, body, digest):
        order = self.orders.get(body["predecessor"])
        asked = order or self.disposals.get(body["predecessor"])
        if not asked or asked["approval"]:
            return "nothing waits for it"
        if body["approved_at"] < asked["at"]:
            return "it is dated before what it approves"
        if order:
            if order["by"] == body["approved_by"]:
                return "nobody else approves the order"
            if body["approved_at"] >= order["expires"]:
                return "it is dated when the order had expired"
            order["approval"] = digest
            return None
        if self.holder and self.holder[1] != asked["by"]:
            return "who asked has given custody away"
        if asked["by"] == body["approved_by"]:
            return "nobody else approves"
        if any(self.held(name) or self.fate(name) != "kept" for name in asked["collections"]):
            return "a hold stands, or it is destroyed already"
        if self.until and body["approved_at"] < self.until:
            return "retention has not ended"
        asked["approval"], asked["until"] = digest, self.until

    def destruction(self, body, digest):
        asked = self.disposals.get(body["disposal"])
        if not asked or asked["certificate"] or asked["approval"] != body["predecessor"]:
            return "it certifies nothing that was approved"
        if body["collections"] != [self.totals(name) for name in asked["collections"]]:
            return "it certifies something else than was received"
        if asked["until"] and body["destroyed_at"] < asked["until"]:
            return "retention had not ended"
        asked["certificate"] = digest

    def totals(self, name):
        manifests = [receipt["manifest"] for _, receipt in self.case.collections[name]["receipts"].values()]
        objects, size = sum(m["segments"] + 1 for m in manifests), sum(m["stored_bytes"] + m["size"] for m in manifests)
        return {"collection": name, "objects": objects, "bytes": size}
