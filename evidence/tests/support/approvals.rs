//! `good-6`: a case in which every order needs a second person, with one order that was approved and one that nobody approved;
//! and a hold on the whole case that comes too late for a collection.

use exhibit_evidence::record::*;
use exhibit_evidence::{CollectionId, Digest};

use super::cases::{small_stream, whole};
use super::custody::{BEN, CORA, person};
use super::tamper::{Tampered, difference};
use super::{ADMIN, Case, LOG, Ordered, RESPONDER, case_opened, responder_name};

/// What is done otherwise than in the good case.
pub struct Lies<'a> {
    /// Changes the approval; gets the other order.
    pub approval: &'a dyn Fn(&mut Approval, &Ordered),
    pub hold: &'a dyn Fn(&mut Hold),
    /// Nobody approves before the collection, or at all.
    pub approved: Approved,
    /// The disposal names the collection as well of which nothing was ever received.
    pub with_empty: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Approved {
    Before,
    Afterwards,
    Never,
}

impl Default for Lies<'_> {
    fn default() -> Self {
        Self { approval: &|_, _| {}, hold: &|_| {}, approved: Approved::Before, with_empty: false }
    }
}

/// A case in which every order needs a second person.
fn opened() -> Case {
    let mut case = Case::unopened(6);
    let at = case.now();
    let opened = CaseOpened { two_person: true, ..case_opened(&case.id, "Two persons for every order", at) };
    case.opened = case.sign(&opened, RESPONDER);
    case
}

/// Such a case with one order of which nothing came, and what happened to it.
pub fn ordered(then: &dyn Fn(&mut Case, &Ordered)) -> Case {
    let mut case = opened();
    case.enrol(BEN, ADMIN, "responder/ben", &[Role::Approver], "admin");
    case.enrol_agent(0);
    let order = case.order(1, &[0], &["system"], &|_| {});
    then(&mut case, &order);
    case.checkpoint();
    case
}

pub fn good_6(lies: &Lies<'_>) -> Case {
    let mut case = opened();
    case.enrol(CORA, ADMIN, "responder/cora", &[Role::Custodian], "admin");
    case.enrol(BEN, ADMIN, "responder/ben", &[Role::Approver], "admin");
    // A responder with this role too can approve what others order, and nothing of her own.
    case.enrol(RESPONDER, ADMIN, "responder/ada", &[Role::Approver], "admin");
    case.enrol_agent(0);
    let order = case.order(1, &[0], &["system", "files"], &|_| {});
    let other = case.order(2, &[0], &["system"], &|_| {});
    if lies.approved == Approved::Before {
        approve(&mut case, &order, &other, lies);
    }
    let collection = Case::collection(&order, 0);
    let built = small_stream(&case.id.clone(), &collection, &order, 0, 1).finish(&|_| {});
    let seal = whole(&mut case, &order, 0, 1, &built, &[]);
    if lies.approved == Approved::Afterwards {
        approve(&mut case, &order, &other, lies);
    }
    let reason = "nobody had approved the order when it expired";
    let expired = case.seal(&other, 0, Outcome::Expired, Some(reason), &[], None, &|_| {});
    let mut seals = vec![SealedCollection { collection, seal }];
    if lies.with_empty {
        seals.push(SealedCollection { collection: Case::collection(&other, 0), seal: expired });
        seals.sort_by(|a, b| a.collection.cmp(&b.collection));
    }
    destroyed(&mut case, seals, lies);
    case.checkpoint();
    case
}

pub fn approve(case: &mut Case, order: &Ordered, other: &Ordered, lies: &Lies<'_>) {
    let mut approval = Approval {
        case: case.id.clone(),
        predecessor: order.digest,
        reason: "the works council was heard".to_owned(),
        approved_by: person(BEN),
        approved_at: case.now(),
    };
    (lies.approval)(&mut approval, other);
    let seed = if approval.approved_by == responder_name() {
        RESPONDER
    } else if approval.approved_by == person(CORA) {
        CORA
    } else {
        BEN
    };
    case.sign(&approval, seed);
}

/// Collections are disposed of; between the approval and the certificate somebody holds the case.
fn destroyed(case: &mut Case, seals: Vec<SealedCollection>, lies: &Lies<'_>) {
    let (id, opened) = (case.id.clone(), case.opened);
    let named: Vec<CollectionId> = seals.iter().map(|sealed| sealed.collection.clone()).collect();
    let disposal = Disposal {
        case: id.clone(),
        predecessor: opened,
        seals,
        reason: "decision 12".to_owned(),
        requested_by: person(CORA),
        requested_at: case.now(),
    };
    let disposal = case.sign(&disposal, CORA);
    let approval = Approval {
        case: id.clone(),
        predecessor: disposal,
        reason: "checked against decision 12".to_owned(),
        approved_by: person(BEN),
        approved_at: case.now(),
    };
    let approval = case.sign(&approval, BEN);
    let mut hold = Hold {
        case: id.clone(),
        predecessor: opened,
        collections: Vec::new(),
        too_late: named.clone(),
        reason: "a claim was announced".to_owned(),
        placed_by: responder_name(),
        placed_at: case.now(),
    };
    (lies.hold)(&mut hold);
    case.sign(&hold, RESPONDER);
    let folder = |collection: &CollectionId| format!("collections/{collection}/");
    let there_was = |collection: &CollectionId| {
        let gone = case.objects.iter().filter(|(n, _)| n.starts_with(&folder(collection))).map(|(_, b)| b.len() as u64);
        let (objects, bytes) = gone.fold((0, 0), |(objects, sum), bytes| (objects + 1, sum + bytes));
        DestroyedCollection { collection: collection.clone(), objects, bytes }
    };
    let collections = named.iter().map(there_was).collect();
    let destruction = Destruction { case: id, predecessor: approval, disposal, collections, destroyed_at: case.now() };
    case.sign(&destruction, LOG);
    case.objects.retain(|name, _| !named.iter().any(|collection| name.starts_with(&folder(collection))));
}

pub fn lies(cases: &mut Vec<Tampered>) {
    let good = good_6(&Lies::default()).objects;
    let mut add = |name: &str, says: &str, codes: &[&str], lies: Lies<'_>| {
        cases.push(Tampered::lie("good-6", (name, says), difference(&good, &good_6(&lies).objects), codes));
    };
    let with = Lies::default;
    let never = "order.not-approved";
    let own: &dyn Fn(&mut Approval, &Ordered) = &|a, _| a.approved_by = responder_name();
    add("order-approved-by-one", "who gave the order approves it", &["order.second-person", never], Lies { approval: own, ..with() });
    let unfit: &dyn Fn(&mut Approval, &Ordered) = &|a, _| a.approved_by = person(CORA);
    add(
        "order-approved-by-no-approver",
        "a custodian who is no approver approves the order",
        &["record.not-authorized", never],
        Lies { approval: unfit, ..with() },
    );
    let other: &dyn Fn(&mut Approval, &Ordered) = &|a, other| a.predecessor = other.digest;
    add("another-order-approved", "another order is approved than is carried out", &[never], Lies { approval: other, ..with() });
    let nothing: &dyn Fn(&mut Approval, &Ordered) = &|a, _| a.predecessor = Digest::of(b"another");
    add(
        "approval-of-nothing",
        "an approval of an order that is not in the log",
        &["custody.predecessor", never],
        Lies { approval: nothing, ..with() },
    );
    let early: &dyn Fn(&mut Approval, &Ordered) = &|a, _| a.approved_at = a.approved_at.plus_s(-60);
    add(
        "order-approved-before-it-was-given",
        "the approval is dated before its order",
        &["approval.early", never],
        Lies { approval: early, ..with() },
    );
    let late: &dyn Fn(&mut Approval, &Ordered) = &|a, _| a.approved_at = a.approved_at.plus_s(30 * 86_400);
    add(
        "order-approved-when-it-had-expired",
        "the approval is dated after the end of its order",
        &["approval.late", never],
        Lies { approval: late, ..with() },
    );
    add("order-not-approved", "an order is carried out that nobody approved", &[never], Lies { approved: Approved::Never, ..with() });
    add(
        "order-approved-afterwards",
        "an order is approved after it was carried out",
        &[never],
        Lies { approved: Approved::Afterwards, ..with() },
    );
    let silent: &dyn Fn(&mut Hold) = &|h| h.too_late.clear();
    add(
        "hold-that-seems-to-save",
        "a hold on the whole case does not say what it comes too late for",
        &["custody.collection"],
        Lies { hold: silent, ..with() },
    );
}
