//! `good-4`, and then a destruction whose records all say that the end of retention had come: a token over them says that it had not.

use exhibit_evidence::Digest;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::record::*;

use super::custody::{BEN, CORA, person};
use super::stamps::{How, good_4, stamp};
use super::tamper::{Tampered, difference};
use super::{ADMIN, Case, LOG};

/// Seconds between the two tokens that the records claim. It must be less than the slack that clocks are given, so that nothing
/// but the retention is wrong, and longer than it takes to make both tokens.
const CLAIMED_S: i64 = 600;

/// The case. Its two tokens are real and were made within seconds: to make them anew delete both, `retained-1.tsr` and
/// `retained-2.tsr`, before the vectors are written.
pub fn case() -> Case {
    let mut case = good_4(&How::default());
    case.enrol(CORA, ADMIN, "responder/cora", &[Role::Custodian], "admin");
    case.enrol(BEN, ADMIN, "responder/ben", &[Role::Approver], "admin");
    stamped(&mut case, "retained-1.tsr");
    let set_at = case.now();
    let retention = Retention {
        case: case.id.clone(),
        predecessor: case.opened,
        until: set_at.plus_s(CLAIMED_S),
        reason: "policy 4: until the review is over".to_owned(),
        set_by: person(CORA),
        set_at,
    };
    case.sign(&retention, CORA);
    case.clock += CLAIMED_S;
    destroyed(&mut case);
    stamped(&mut case, "retained-2.tsr");
    case.checkpoint();
    case
}

fn stamped(case: &mut Case, token: &'static str) {
    let head = case.head();
    stamp(case, &head, "alpha", &How { by: ("alpha", "tsa", token), ..How::default() });
}

/// The only collection that has a seal.
fn sealed(case: &Case) -> SealedCollection {
    let seal = |bytes: &Vec<u8>| {
        let envelope = Envelope::parse(bytes).ok()?;
        match Record::from_payload(envelope.unverified_payload()).ok()? {
            Record::Seal(seal) => Some(SealedCollection { collection: seal.collection.clone(), seal: Digest::of(bytes) }),
            _ => None,
        }
    };
    case.objects.iter().filter(|(name, _)| name.starts_with("log/seq/")).find_map(|(_, bytes)| seal(bytes)).expect("a seal")
}

fn destroyed(case: &mut Case) {
    let sealed = sealed(case);
    let collection = sealed.collection.clone();
    let disposal = Disposal {
        case: case.id.clone(),
        predecessor: case.opened,
        seals: vec![sealed],
        reason: "retention is over; decision 12 of the review board".to_owned(),
        requested_by: person(CORA),
        requested_at: case.now(),
    };
    let disposal = case.sign(&disposal, CORA);
    let approval = Approval {
        case: case.id.clone(),
        predecessor: disposal,
        reason: "checked against decision 12".to_owned(),
        approved_by: person(BEN),
        approved_at: case.now(),
    };
    let approval = case.sign(&approval, BEN);
    let folder = format!("collections/{collection}/");
    let gone: Vec<usize> = case.objects.iter().filter(|(name, _)| name.starts_with(&folder)).map(|(_, bytes)| bytes.len()).collect();
    let (objects, bytes) = (gone.len() as u64, gone.iter().map(|bytes| *bytes as u64).sum::<u64>());
    let destruction = Destruction {
        case: case.id.clone(),
        predecessor: approval,
        disposal,
        collections: vec![DestroyedCollection { collection, objects, bytes }],
        destroyed_at: case.now(),
    };
    case.sign(&destruction, LOG);
    case.objects.retain(|name, _| !name.starts_with(&folder));
}

pub fn lies(cases: &mut Vec<Tampered>) {
    let edits = difference(&good_4(&How::default()).objects, &case().objects);
    let says =
        ("destroyed-before-a-token-says", "records say that retention had ended when evidence was destroyed, a token that it had not");
    cases.push(Tampered {
        complete: true,
        timestamp_anchors: vec!["alpha".to_owned()],
        timestamps_required: 1,
        ..Tampered::lie("good-4", says, edits, &["disposal.retained"])
    });
}
