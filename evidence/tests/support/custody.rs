//! `good-5`: what happens to evidence after it was taken, up to the destruction of one of two collections, and what its
//! parties can do wrong while every signature still holds.

use exhibit_evidence::record::*;
use exhibit_evidence::{CaseId, CollectionId, Digest, Timestamp};

use super::cases::{small_stream, whole};
use super::tamper::{Tampered, difference};
use super::{ADMIN, Case, LOG, Objects, Ordered, RESPONDER, name, responder_name};

/// A custodian of every case.
pub const CORA: u8 = 6;
/// An approver of every case.
pub const BEN: u8 = 7;
/// A custodian and approver of this case only.
pub const DAN: u8 = 8;
/// An auditor.
pub const AUDREY: u8 = 9;
/// A custodian of another case.
pub const EVE: u8 = 10;

const PEOPLE: [(u8, &str); 5] = [(CORA, "cora"), (BEN, "ben"), (DAN, "dan"), (AUDREY, "audrey"), (EVE, "eve")];

pub fn person(seed: u8) -> String {
    let found = PEOPLE.iter().find(|(s, _)| *s == seed);
    found.map_or_else(responder_name, |(_, short)| name(&format!("responder/{short}")))
}

/// The key of whoever a record names; a record that names a stranger is signed by the custodian.
fn seed_of(who: &str) -> u8 {
    if who == responder_name() { RESPONDER } else { PEOPLE.iter().find(|(s, _)| person(*s) == who).map_or(CORA, |(s, _)| *s) }
}

/// A moment of the story.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    Sealed,
    HoldReleased,
    Disposal,
    Approval,
    Certificate,
    Removal,
    End,
}

/// What is done otherwise than in the good case.
pub struct Lies<'a> {
    pub access: &'a dyn Fn(&mut Access),
    pub hold: &'a dyn Fn(&mut Hold),
    pub hold_released: &'a dyn Fn(&mut HoldReleased),
    pub retention: &'a dyn Fn(&mut Retention),
    pub release: &'a dyn Fn(&mut Release),
    pub transfer: &'a dyn Fn(&mut Transfer),
    pub disposal: &'a dyn Fn(&mut Disposal),
    pub approval: &'a dyn Fn(&mut Approval),
    pub destruction: &'a dyn Fn(&mut Destruction),
    /// Called before each of these.
    pub at: &'a dyn Fn(&mut Case, At),
    /// What is left out.
    pub skip: &'a [At],
}

impl Default for Lies<'_> {
    fn default() -> Self {
        Self {
            access: &|_| {},
            hold: &|_| {},
            hold_released: &|_| {},
            retention: &|_| {},
            release: &|_| {},
            transfer: &|_| {},
            disposal: &|_| {},
            approval: &|_| {},
            destruction: &|_| {},
            at: &|_, _| {},
            skip: &[],
        }
    }
}

/// The case. Two collections; the first of them is destroyed at the end.
pub fn good_5(lies: &Lies<'_>) -> Case {
    let mut case = Case::open(5, "Kept, handed over, disposed of");
    let (order, seal) = collected(&mut case);
    let doomed = Case::collection(&order, 0);
    (lies.at)(&mut case, At::Sealed);
    looked_at(&mut case, &doomed, lies);

    let (id, opened) = (case.id.clone(), case.opened);
    let mut hold = Hold {
        case: id.clone(),
        predecessor: opened,
        collections: vec![doomed.clone()],
        too_late: Vec::new(),
        reason: "litigation is expected".to_owned(),
        placed_by: person(CORA),
        placed_at: case.now(),
    };
    (lies.hold)(&mut hold);
    let hold = case.sign(&hold, seed_of(&hold.placed_by));
    retained(&mut case, lies);
    handed_over(&mut case, lies);

    let mut released = HoldReleased {
        case: id.clone(),
        predecessor: hold,
        reason: "the dispute was settled".to_owned(),
        released_by: person(CORA),
        released_at: case.now(),
    };
    (lies.hold_released)(&mut released);
    if !lies.skip.contains(&At::HoldReleased) {
        case.sign(&released, seed_of(&released.released_by));
    }
    (lies.at)(&mut case, At::Disposal);
    disposed(&mut case, &doomed, seal, lies);
    (lies.at)(&mut case, At::End);
    case.checkpoint();
    case
}

fn collected(case: &mut Case) -> (Ordered, Digest) {
    case.enrol(CORA, ADMIN, "responder/cora", &[Role::Custodian], "admin");
    case.enrol(BEN, ADMIN, "responder/ben", &[Role::Approver], "admin");
    let here = Some(vec![case.id.clone()]);
    case.enrol_in(DAN, ADMIN, "responder/dan", &[Role::Custodian], "admin", here.clone());
    // A further enrolment adds to what the key has.
    case.enrol_in(DAN, ADMIN, "responder/dan", &[Role::Approver], "admin", here);
    case.enrol(AUDREY, ADMIN, "responder/audrey", &[Role::Auditor], "admin");
    case.enrol_in(EVE, ADMIN, "responder/eve", &[Role::Custodian], "admin", Some(vec![CaseId::new(1, [9; 10])]));
    case.enrol_agent(0);
    case.enrol_agent(1);
    let order = case.order(1, &[0, 1], &["system", "files"], &|_| {});
    let mut seals = Vec::new();
    for agent in 0..2 {
        let collection = Case::collection(&order, agent);
        let built = small_stream(&case.id.clone(), &collection, &order, agent, 1).finish(&|_| {});
        seals.push(whole(case, &order, agent, 1, &built, &[]));
    }
    (order, seals[0])
}

fn looked_at(case: &mut Case, collection: &CollectionId, lies: &Lies<'_>) {
    for (i, action) in Action::ALL.into_iter().enumerate() {
        let whole = matches!(action, Action::List | Action::Export | Action::Verify);
        let mut access = Access {
            case: case.id.clone(),
            predecessor: case.opened,
            by: if i % 2 == 0 { responder_name() } else { person(DAN) },
            action,
            what: vec![if whole { collection.to_string() } else { format!("{collection}.s1.1") }],
            reason: "prepare the report".to_owned(),
            at: case.now(),
        };
        (lies.access)(&mut access);
        case.sign(&access, LOG);
    }
}

fn retained(case: &mut Case, lies: &Lies<'_>) {
    let mut predecessor = case.opened;
    for days in [0, 1] {
        let set_at = case.now();
        let mut retention = Retention {
            case: case.id.clone(),
            predecessor,
            until: set_at.plus_s(1 + 86_400 * days),
            reason: "policy 4: until the review is over".to_owned(),
            set_by: person(CORA),
            set_at,
        };
        if days == 1 {
            (lies.retention)(&mut retention);
        }
        predecessor = case.sign(&retention, seed_of(&retention.set_by));
    }
}

fn handed_over(case: &mut Case, lies: &Lies<'_>) {
    let mut release = Release {
        case: case.id.clone(),
        predecessor: case.opened,
        to: person(DAN),
        reason: "handed to the legal department".to_owned(),
        released_by: person(CORA),
        released_at: case.now(),
    };
    (lies.release)(&mut release);
    let release = case.sign(&release, seed_of(&release.released_by));
    let mut transfer = Transfer {
        case: case.id.clone(),
        predecessor: release,
        reason: "verified and found sound".to_owned(),
        received_by: person(DAN),
        received_at: case.now(),
    };
    (lies.transfer)(&mut transfer);
    case.sign(&transfer, seed_of(&transfer.received_by));
}

/// Two days later.
fn disposed(case: &mut Case, doomed: &CollectionId, seal: Digest, lies: &Lies<'_>) {
    let later = |at: Timestamp| at.plus_s(2 * 86_400);
    let id = case.id.clone();
    let mut disposal = Disposal {
        case: id.clone(),
        predecessor: case.opened,
        seals: vec![SealedCollection { collection: doomed.clone(), seal }],
        reason: "retention is over; decision 12 of the review board".to_owned(),
        requested_by: person(DAN),
        requested_at: later(case.now()),
    };
    (lies.disposal)(&mut disposal);
    let mut disposal_digest = Digest::of(b"no disposal");
    if !lies.skip.contains(&At::Disposal) {
        disposal_digest = case.sign(&disposal, seed_of(&disposal.requested_by));
    }
    (lies.at)(case, At::Approval);
    let mut approval = Approval {
        case: id.clone(),
        predecessor: disposal_digest,
        reason: "checked against decision 12".to_owned(),
        approved_by: person(BEN),
        approved_at: later(case.now()),
    };
    (lies.approval)(&mut approval);
    let mut approval_digest = Digest::of(b"no approval");
    if !lies.skip.contains(&At::Approval) {
        approval_digest = case.sign(&approval, seed_of(&approval.approved_by));
    }
    let folder = format!("collections/{doomed}/");
    let gone: Objects = case.objects.iter().filter(|(n, _)| n.starts_with(&folder)).map(|(n, b)| (n.clone(), b.clone())).collect();
    let mut destruction = Destruction {
        case: id,
        predecessor: approval_digest,
        disposal: disposal_digest,
        collections: vec![DestroyedCollection {
            collection: doomed.clone(),
            objects: gone.len() as u64,
            bytes: gone.values().map(|b| b.len() as u64).sum(),
        }],
        destroyed_at: later(case.now()),
    };
    (lies.destruction)(&mut destruction);
    if !lies.skip.contains(&At::Certificate) {
        case.sign(&destruction, LOG);
    }
    if !lies.skip.contains(&At::Removal) {
        case.objects.retain(|name, _| !name.starts_with(&folder));
    }
}

type Add<'a> = &'a mut dyn FnMut(&str, &str, &[&str], Lies<'_>);

pub fn lies(cases: &mut Vec<Tampered>) {
    let good = good_5(&Lies::default()).objects;
    let mut add = |name: &str, says: &str, codes: &[&str], lies: Lies<'_>| {
        cases.push(Tampered::lie("good-5", (name, says), difference(&good, &good_5(&lies).objects), codes));
    };
    access_lies(&mut add);
    keeping_lies(&mut add);
    transfer_lies(&mut add);
    disposal_lies(&mut add);
    certificate_lies(&mut add);
}

fn access_lies(add: Add<'_>) {
    let with = Lies::default;
    let nobody: &dyn Fn(&mut Access) = &|a| a.by = name("responder/nobody");
    add("access-by-nobody", "an access by a name that nobody enrolled", &["access.not-authorized"], Lies { access: nobody, ..with() });
    let auditor: &dyn Fn(&mut Access) = &|a| a.by = person(AUDREY);
    add("access-by-an-auditor", "an auditor is shown evidence", &["access.not-authorized"], Lies { access: auditor, ..with() });
    let elsewhere: &dyn Fn(&mut Access) = &|a| a.by = person(EVE);
    add(
        "access-from-another-case",
        "a custodian of another case is shown evidence",
        &["access.not-authorized"],
        Lies { access: elsewhere, ..with() },
    );
    let mute: &dyn Fn(&mut Access) = &|a| "  ".clone_into(&mut a.reason);
    add("access-without-reason", "an access for no reason", &["custody.reason"], Lies { access: mute, ..with() });
    let long: &dyn Fn(&mut Access) = &|a| a.reason = "x".repeat(REASON_BYTES_MAX + 1);
    add("access-with-a-long-reason", "a reason of 1025 bytes", &["custody.reason"], Lies { access: long, ..with() });
    let lost: &dyn Fn(&mut Access) = &|a| a.predecessor = Digest::of(b"another");
    add(
        "access-of-another-case",
        "an access that follows from another case-opened",
        &["custody.predecessor"],
        Lies { access: lost, ..with() },
    );
    let limited: &dyn Fn(&mut Case, At) = &|case, at| {
        if at == At::End {
            let here = Some(vec![case.id.clone()]);
            case.enrol_in(40, ADMIN, "responder/mallory", &[Role::Admin], "admin", here);
        }
    };
    add("admin-of-one-case", "an admin whose role is limited to a case", &["record.not-authorized"], Lies { at: limited, ..with() });
}

fn keeping_lies(add: Add<'_>) {
    let with = Lies::default;
    let nothing: &dyn Fn(&mut Hold) = &|h| h.collections = vec![CollectionId::from_digest(&Digest::of(b"no"))];
    add("hold-of-nothing", "a hold on a collection that the case does not have", &["custody.collection"], Lies { hold: nothing, ..with() });
    let stranger: &dyn Fn(&mut Hold) = &|h| h.placed_by = person(EVE);
    add("hold-from-another-case", "a hold by a custodian of another case", &["record.not-authorized"], Lies { hold: stranger, ..with() });
    let responder: &dyn Fn(&mut HoldReleased) = &|h| h.released_by = responder_name();
    add(
        "hold-released-by-a-responder",
        "a hold is released by a responder, and what it covers is destroyed",
        &["record.not-authorized", "disposal.held", "disposal.certificate", "manifest.missing"],
        Lies { hold_released: responder, ..with() },
    );
    let other: &dyn Fn(&mut HoldReleased) = &|h| h.predecessor = Digest::of(b"another");
    add(
        "no-hold-released",
        "a release of a hold that does not stand",
        &["custody.predecessor", "disposal.held"],
        Lies { hold_released: other, ..with() },
    );
    let early: &dyn Fn(&mut Retention) = &|r| r.until = r.until.plus_s(-2 * 86_400);
    add("retention-shortened", "retention is moved to an earlier day", &["retention.shortened"], Lies { retention: early, ..with() });
    let first: &dyn Fn(&mut Retention) = &|r| r.predecessor = Digest::of(b"another");
    add(
        "retention-of-another-case",
        "a retention that follows from no retention",
        &["custody.predecessor"],
        Lies { retention: first, ..with() },
    );
    let whole: &dyn Fn(&mut Hold) = &|h| h.collections.clear();
    add(
        "destroyed-under-a-hold",
        "a hold on the whole case is not released, and a collection is destroyed",
        &["disposal.held", "disposal.certificate", "manifest.missing"],
        Lies { hold: whole, skip: &[At::HoldReleased], ..with() },
    );
    let long: &dyn Fn(&mut Retention) = &|r| r.until = r.until.plus_s(90 * 86_400);
    add(
        "destroyed-under-retention",
        "a collection is destroyed before the end of retention",
        &["disposal.retained", "disposal.certificate", "manifest.missing"],
        Lies { retention: long, ..with() },
    );
}

fn transfer_lies(add: Add<'_>) {
    let with = Lies::default;
    let myself: &dyn Fn(&mut Release) = &|r| r.to = person(CORA);
    add("custody-to-oneself", "custody is offered to who has it", &["transfer.release"], Lies { release: myself, ..with() });
    let again: &dyn Fn(&mut Case, At) = &|case, at| {
        if at != At::Disposal {
            return;
        }
        let newest =
            case.objects.iter().filter(|(n, _)| n.starts_with("log/seq/")).map(|(_, b)| Digest::of(b)).nth_back(1).expect("a transfer");
        let release = Release {
            case: case.id.clone(),
            predecessor: newest,
            to: person(DAN),
            reason: "once more".to_owned(),
            released_by: person(CORA),
            released_at: case.now(),
        };
        case.sign(&release, CORA);
    };
    add("custody-given-twice", "custody is offered by somebody who gave it away", &["transfer.release"], Lies { at: again, ..with() });
    let other: &dyn Fn(&mut Transfer) = &|t| t.received_by = person(CORA);
    add(
        "custody-taken-by-another",
        "custody is accepted by somebody to whom it was not offered",
        &["transfer.acceptance"],
        Lies { transfer: other, ..with() },
    );
    let lost: &dyn Fn(&mut Transfer) = &|t| t.predecessor = Digest::of(b"another");
    add(
        "custody-taken-without-offer",
        "an acceptance of an offer that does not stand",
        &["custody.predecessor"],
        Lies { transfer: lost, ..with() },
    );
    let elsewhere: &dyn Fn(&mut Transfer) = &|t| t.received_by = person(EVE);
    add(
        "custody-taken-from-another-case",
        "a custodian of another case accepts",
        &["record.not-authorized"],
        Lies { transfer: elsewhere, ..with() },
    );
}

fn disposal_lies(add: Add<'_>) {
    let with = Lies::default;
    let gave: &dyn Fn(&mut Disposal) = &|d| d.requested_by = person(CORA);
    add(
        "disposal-without-custody",
        "disposal is asked for by a custodian who gave custody away",
        &["disposal.request", "custody.predecessor", "disposal.certificate", "manifest.missing"],
        Lies { disposal: gave, ..with() },
    );
    let seal: &dyn Fn(&mut Disposal) = &|d| d.seals[0].seal = Digest::of(b"another");
    add(
        "disposal-of-another-seal",
        "disposal names another seal",
        &["custody.collection", "disposal.certificate"],
        Lies { disposal: seal, ..with() },
    );
    let twice: &dyn Fn(&mut Disposal) = &|d| d.seals.push(d.seals[0].clone());
    add(
        "disposal-named-twice",
        "disposal names a collection twice",
        &["custody.collection", "disposal.certificate"],
        Lies { disposal: twice, ..with() },
    );
    let none: &dyn Fn(&mut Disposal) = &|d| d.seals.clear();
    add(
        "disposal-of-nothing",
        "disposal names no collection",
        &["custody.collection", "disposal.certificate"],
        Lies { disposal: none, ..with() },
    );
    let same: &dyn Fn(&mut Approval) = &|a| a.approved_by = person(DAN);
    add(
        "disposal-approved-by-one",
        "who asked for the disposal approves it",
        &["disposal.second-person", "disposal.certificate", "manifest.missing"],
        Lies { approval: same, ..with() },
    );
    let unfit: &dyn Fn(&mut Approval) = &|a| a.approved_by = person(CORA);
    add(
        "disposal-approved-by-no-approver",
        "a custodian who is no approver approves the disposal",
        &["record.not-authorized", "disposal.certificate", "manifest.missing"],
        Lies { approval: unfit, ..with() },
    );
    let backdated: &dyn Fn(&mut Approval) = &|a| a.approved_at = a.approved_at.plus_s(-3 * 86_400);
    add(
        "disposal-approved-too-early",
        "the approval is of a day before the end of retention",
        &["disposal.retained"],
        Lies { disposal: &|d| d.requested_at = d.requested_at.plus_s(-3 * 86_400), approval: backdated, ..with() },
    );
    let before: &dyn Fn(&mut Approval) = &|a| a.approved_at = a.approved_at.plus_s(-3_600);
    add(
        "disposal-approved-before-it-was-asked-for",
        "the approval is dated before its request",
        &["approval.early", "disposal.certificate", "manifest.missing"],
        Lies { approval: before, ..with() },
    );
}

fn certificate_lies(add: Add<'_>) {
    let with = Lies::default;
    let less: &dyn Fn(&mut Destruction) = &|d| d.collections[0].objects -= 1;
    add(
        "certificate-of-less",
        "a certificate of one object less",
        &["disposal.certificate", "disposal.unfinished"],
        Lies { destruction: less, ..with() },
    );
    let lost: &dyn Fn(&mut Destruction) = &|d| d.predecessor = Digest::of(b"another");
    add(
        "certificate-without-approval",
        "a certificate that follows from no approval",
        &["disposal.certificate", "disposal.unfinished"],
        Lies { destruction: lost, ..with() },
    );
    let early: &dyn Fn(&mut Destruction) = &|d| d.destroyed_at = d.destroyed_at.plus_s(-3 * 86_400);
    add(
        "certificate-too-early",
        "destroyed before the end of retention",
        &["disposal.retained", "disposal.unfinished"],
        Lies { destruction: early, ..with() },
    );
    add(
        "certificate-missing",
        "approved and destroyed, without a certificate",
        &["disposal.unfinished"],
        Lies { skip: &[At::Certificate], ..with() },
    );
    add(
        "destroyed-and-still-there",
        "the objects are there after their certified destruction",
        &["disposal.remains"],
        Lies { skip: &[At::Removal], ..with() },
    );
    add(
        "destroyed-without-a-word",
        "objects of a collection are gone, and nobody decided it",
        &["manifest.missing"],
        Lies { skip: &[At::Disposal, At::Approval, At::Certificate], ..with() },
    );
}
