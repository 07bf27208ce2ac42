//! Revocations that are copied into a case's log, and what must go there with them.

use exhibit_certs::Credential;
use exhibit_coordinator::clock;
use exhibit_evidence::Digest;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::id::CaseId;
use exhibit_evidence::key::KeyId;
use exhibit_evidence::log::Checkpoint;
use exhibit_evidence::record::{self, Hold, Record, Role};
use exhibit_proto::responder::v1 as people;

use crate::support::verdict;
use crate::support::world::{People, World};

/// The records of a case's log, in its order.
fn records(world: &World, case: &str) -> Vec<Record> {
    let log = world.store_dir().join("cases").join(case).join("log");
    let head = Checkpoint::parse_unverified(&std::fs::read(log.join("checkpoint")).expect("checkpoint")).expect("head");
    let record = |n: u64| {
        let bytes = std::fs::read(log.join(format!("seq/{n:010}.dsse.json"))).expect("slot");
        Record::from_payload(Envelope::parse(&bytes).expect("envelope").unverified_payload()).expect("record")
    };
    (0..head.size).map(record).collect()
}

/// Where a key is enrolled first and where it is revoked.
fn places(records: &[Record], key: KeyId) -> (Option<usize>, Option<usize>) {
    let enrolled = records.iter().position(|r| matches!(r, Record::Enrolment(p) if p.key.id() == key));
    (enrolled, records.iter().position(|r| matches!(r, Record::Revocation(p) if p.key == key)))
}

async fn hold(rpc: &mut People, who: &Credential, case: &people::Case, reason: &str) -> Result<(), tonic::Status> {
    let hold = Hold {
        case: case.case_id.parse().expect("id"),
        predecessor: Digest::try_from(case.case_opened_sha256.as_slice()).expect("digest"),
        collections: Vec::new(),
        too_late: Vec::new(),
        reason: reason.to_owned(),
        placed_by: who.name().to_string(),
        placed_at: clock::now(),
    };
    let record = record::sign(&hold, &who.evidence).expect("small").as_bytes().to_vec();
    rpc.submit_record(people::SubmitRecordRequest { record }).await.map(|_| ())
}

/// After an admin's revocation nothing that the admin signed is taken into the case's log. Whoever counts by the admin's word, and may come to
/// sign there, is enrolled there before.
#[tokio::test(flavor = "multi_thread")]
async fn an_admin_s_revocation_takes_the_enrolments_of_others_along() {
    let mut world = World::start().await;
    let (case, other) = (world.open_case().await, world.open_case().await);
    let elsewhere: CaseId = other.case_id.parse().expect("id");
    let (mut olga, mut as_olga) = world.person("olga", &[Role::Admin], None).await;
    std::mem::swap(&mut world.admin, &mut olga);
    std::mem::swap(&mut world.people, &mut as_olga);
    let (cora, mut as_cora) = world.person("cora", &[Role::Custodian], None).await;
    let (dan, mut as_dan) = world.person("dan", &[Role::Custodian], None).await;
    let (mia, _) = world.person("mia", &[Role::Custodian], Some(vec![elsewhere])).await;
    std::mem::swap(&mut world.admin, &mut olga);
    std::mem::swap(&mut world.people, &mut as_olga);
    let key = |who: &Credential| who.evidence.public().id();

    hold(&mut as_cora, &cora, &case, "a letter came").await.expect("held");
    let before = records(&world, &case.case_id);
    assert!(places(&before, key(&olga)).0.is_some(), "she enrolled who signs here");
    assert_eq!(places(&before, key(&dan)), (None, None), "he never had to do with this case");
    world.revoke(&olga).await;
    hold(&mut as_cora, &cora, &case, "another letter came").await.expect("her key counts still");
    let after = records(&world, &case.case_id);
    let (dans, revoked) = (places(&after, key(&dan)).0, places(&after, key(&olga)).1);
    assert!(dans.is_some() && dans < revoked, "{dans:?} {revoked:?}");
    assert!(dans >= Some(before.len()), "with the revocation, not before it was due");
    assert_eq!(places(&after, key(&mia)), (None, None), "nothing of this case is hers");
    assert!(matches!(after.last(), Some(Record::Hold(_))), "the revocation comes before the next record");
    // He signs there for the first time, and the case verifies alone.
    hold(&mut as_dan, &dan, &case, "a third letter came").await.expect("his key counts still");
    let third = records(&world, &case.case_id);
    assert_eq!(third.len(), after.len() + 1, "nothing is copied twice");
    verdict::sound(&world, &case.case_id);
}
