//! Each refusal code, from offers that are right in everything else.

use std::collections::{BTreeMap, BTreeSet};

use exhibit_evidence::age;
use exhibit_evidence::anchor::{Anchor, FORMAT};
use exhibit_evidence::key::SigningKey;
use exhibit_evidence::record::{Approval, CaptureSpec, CaseOpened, Enrolment, Limits, Nonce, Order, Predicate, Role, sign};
use exhibit_evidence::{CaseId, OrderId};

use super::*;

const DEPLOYMENT: &str = "acme";
const NOW_S: i64 = 1_800_000_000;

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(&[n; 32])
}

fn at(s: i64) -> Timestamp {
    Timestamp::from_unix_s(NOW_S + s)
}

fn signed<P: Predicate>(predicate: &P, key: &SigningKey) -> Envelope {
    sign(predicate, key).expect("small")
}

fn enrolment(name: &str, key: &SigningKey, roles: &[Role], by: &SigningKey, predecessor: Option<Digest>) -> Envelope {
    let record = Enrolment {
        deployment: DEPLOYMENT.to_owned(),
        name: format!("spiffe://{DEPLOYMENT}/{name}"),
        key: key.public(),
        roles: roles.to_vec(),
        cases: None,
        predecessor,
        method: "admin".to_owned(),
        enrolled_at: at(-90_000),
    };
    signed(&record, by)
}

/// A deployment with one responder, one auditor, one agent and one case.
struct World {
    anchor: Anchor,
    agent: AgentId,
    policy: Policy,
    finished: BTreeSet<CollectionId>,
    forgotten: Option<Timestamp>,
    offset_ns: Option<i64>,
    order: Order,
    signer: SigningKey,
    enrolments: Vec<Envelope>,
    case_opened: Envelope,
}

fn world() -> World {
    let (root, responder, agent) = (key(1), key(2), AgentId::new(1, [7; 10]));
    let case = CaseId::new(1, [1; 10]);
    let by = format!("spiffe://{DEPLOYMENT}/responder/ann");
    let opened = CaseOpened {
        case: case.clone(),
        deployment: DEPLOYMENT.to_owned(),
        title: "t".to_owned(),
        legal_basis: "l".to_owned(),
        accountable: "a".to_owned(),
        opened_by: by.clone(),
        opened_at: at(-7200),
        two_person: false,
        encrypt_to: exhibit_evidence::age::Recipients::default(),
    };
    let case_opened = signed(&opened, &responder);
    let order = Order {
        order: OrderId::new(1, [3; 10]),
        case,
        predecessor: case_opened.digest(),
        targets: vec![AgentId::new(2, [8; 10]), agent.clone()],
        profile: None,
        captures: ["files", "network"].map(|n| CaptureSpec { name: n.to_owned(), params: BTreeMap::new() }).to_vec(),
        limits: Limits::default(),
        legal_basis: "works agreement, section 4".to_owned(),
        reason: "r".to_owned(),
        issued_by: by,
        issued_at: at(-60),
        expires_at: at(3600),
        nonce: Nonce { size: 1, root: Digest::of(b"root") },
    };
    World {
        anchor: Anchor { format: FORMAT.to_owned(), deployment: DEPLOYMENT.to_owned(), root_key: root.public() },
        agent,
        policy: Policy::default(),
        finished: BTreeSet::new(),
        forgotten: None,
        offset_ns: None,
        order,
        enrolments: vec![enrolment("responder/ann", &responder, &[Role::Responder], &root, None)],
        signer: responder,
        case_opened,
    }
}

/// The signer's role holds in this case only.
fn limit_to(w: &mut World, case: CaseId) {
    let record = Enrolment {
        deployment: DEPLOYMENT.to_owned(),
        name: format!("spiffe://{DEPLOYMENT}/responder/ann"),
        key: w.signer.public(),
        roles: vec![Role::Responder],
        cases: Some(vec![case]),
        predecessor: None,
        method: "admin".to_owned(),
        enrolled_at: at(-90_000),
    };
    w.enrolments = vec![signed(&record, &key(1))];
}

#[test]
fn a_role_that_is_limited_to_the_orders_case_is_enough() {
    let mut w = world();
    let case = w.order.case.clone();
    limit_to(&mut w, case);
    assert!(w.verify(&w.offer()).is_ok());
}

impl World {
    fn offer(&self) -> Offer {
        let order = signed(&self.order, &self.signer);
        Offer {
            collection: CollectionId::of(&order.digest(), &self.agent),
            order,
            case_opened: self.case_opened.clone(),
            enrolments: self.enrolments.clone(),
            approval: None,
            approver_enrolments: Vec::new(),
            opener_enrolments: Vec::new(),
            stream: 1,
            continues: false,
        }
    }

    fn verify(&self, offer: &Offer) -> Result<Accepted, Refused> {
        let context = Context {
            anchor: &self.anchor,
            agent: &self.agent,
            policy: &self.policy,
            now: at(0),
            offset_ns: self.offset_ns,
            finished: &self.finished,
            forgotten: self.forgotten,
        };
        verify(offer, &context)
    }
}

/// What is wrong: a change of the world before the offer is made, and of the offer after it.
type Change = (&'static str, Code, fn(&mut World), fn(&mut Offer));

const NOTHING: fn(&mut Offer) = |_| {};

fn param(world: &mut World, capture: &str, name: &str, value: &str) {
    let params = BTreeMap::from([(name.to_owned(), value.to_owned())]);
    world.order.captures = vec![CaptureSpec { name: capture.to_owned(), params }];
}

const TABLE: &[Change] = &[
    ("the order has expired", Code::Expired, |w| w.order.expires_at = at(0), NOTHING),
    ("the order is from the future", Code::Clock, |w| w.order.issued_at = at(601), NOTHING),
    (
        "it has expired by a clock that is known to be wrong",
        Code::Clock,
        |w| {
            w.order.expires_at = at(-5);
            w.offset_ns = Some(-3_600_000_000_000);
        },
        NOTHING,
    ),
    ("other agents are meant", Code::NotATarget, |w| w.order.targets = vec![AgentId::new(9, [9; 10])], NOTHING),
    ("nobody is meant", Code::NotATarget, |w| w.order.targets.clear(), NOTHING),
    ("the signer is not enrolled", Code::BadSignature, |w| w.signer = key(9), NOTHING),
    ("no enrolments came", Code::BadSignature, |_| {}, |o| o.enrolments.clear()),
    ("another deployment's root", Code::BadSignature, |w| w.anchor.root_key = key(77).public(), NOTHING),
    (
        "the signer is no responder",
        Code::NotAuthorized,
        |w| w.enrolments = vec![enrolment("responder/ann", &w.signer, &[Role::Auditor], &key(1), None)],
        NOTHING,
    ),
    (
        "it names another person than its key",
        Code::NotAuthorized,
        |w| w.order.issued_by = "spiffe://acme/responder/eve".to_owned(),
        NOTHING,
    ),
    (
        "the coordinator itself signs",
        Code::NotAuthorized,
        |w| {
            let log = key(5);
            w.enrolments = vec![enrolment("coordinator/log", &log, &[Role::Log], &key(1), None)];
            w.signer = log;
        },
        NOTHING,
    ),
    (
        "an issuer tries to make a responder",
        Code::NotAuthorized,
        |w| {
            let issuer = key(6);
            let first = enrolment("coordinator/issuer", &issuer, &[Role::Issuer], &key(1), None);
            let second = enrolment("responder/ann", &w.signer, &[Role::Responder], &issuer, Some(first.digest()));
            w.enrolments = vec![first, second];
        },
        NOTHING,
    ),
    ("its signer's role is for another case", Code::NotAuthorized, |w| limit_to(w, CaseId::new(9, [9; 10])), NOTHING),
    (
        "the case belongs to another deployment",
        Code::NotAuthorized,
        |w| {
            w.anchor.deployment = "other".to_owned();
            let record = Enrolment {
                deployment: "other".to_owned(),
                name: "spiffe://other/responder/ann".to_owned(),
                key: w.signer.public(),
                roles: vec![Role::Responder],
                cases: None,
                predecessor: None,
                method: "admin".to_owned(),
                enrolled_at: at(-90_000),
            };
            w.order.issued_by.clone_from(&record.name);
            w.enrolments = vec![signed(&record, &key(1))];
        },
        NOTHING,
    ),
    ("the host does not give this capture", Code::Policy, |w| w.policy.captures = Some(vec!["network".to_owned()]), NOTHING),
    ("it would be valid too long", Code::Policy, |w| w.policy.order_life_max = 3600, NOTHING),
    ("nobody approved it, and its host wants two persons", Code::NotApproved, |w| w.policy.orders.two_person = true, NOTHING),
    ("the policy's globs are unusable", Code::Policy, |w| w.policy.deny_paths = vec!["/a[".to_owned()], NOTHING),
    (
        "it was executed before",
        Code::Replayed,
        |w| {
            let done = w.offer().collection;
            w.finished.insert(done);
        },
        NOTHING,
    ),
    ("it may have been executed before the clock was set back", Code::Replayed, |w| w.forgotten = Some(at(3600)), NOTHING),
    ("an unknown capture", Code::Unsupported, |w| w.order.captures[0].name = "telepathy".to_owned(), NOTHING),
    (
        "an unknown parameter",
        Code::Unsupported,
        |w| drop(w.order.captures[0].params.insert("colour".to_owned(), "red".to_owned())),
        NOTHING,
    ),
    ("a relative path", Code::Unsupported, |w| param(w, "files", "paths", "etc/passwd"), NOTHING),
    ("a pattern that is none", Code::Unsupported, |w| param(w, "files", "paths", "/etc/[z"), NOTHING),
    ("no pattern", Code::Unsupported, |w| param(w, "files", "paths", "\n"), NOTHING),
    ("an exclusion that is none", Code::Unsupported, |w| param(w, "files", "exclude", "/var/[z"), NOTHING),
    ("an unknown class of logs", Code::Unsupported, |w| param(w, "logs", "classes", "audit\nnope"), NOTHING),
    ("a relative pattern of logs", Code::Unsupported, |w| param(w, "logs", "extra", "srv/*.log"), NOTHING),
    ("a capture twice", Code::Malformed, |w| w.order.captures[1].name = "files".to_owned(), NOTHING),
    ("no capture", Code::Malformed, |w| w.order.captures.clear(), NOTHING),
    ("another case", Code::Malformed, |w| w.order.case = CaseId::new(2, [2; 10]), NOTHING),
    ("another case-opened record", Code::Malformed, |_| {}, |o| o.case_opened = o.enrolments[0].clone()),
    (
        "a case-opened record that is something else",
        Code::Malformed,
        |w| {
            w.case_opened = w.enrolments[0].clone();
            w.order.predecessor = w.case_opened.digest();
        },
        NOTHING,
    ),
    ("another collection id", Code::Malformed, |_| {}, |o| o.collection = CollectionId::from_digest(&Digest::of(b"x"))),
    ("stream zero", Code::Malformed, |_| {}, |o| o.stream = 0),
    ("the order is a case-opened record", Code::Malformed, |_| {}, |o| o.order = o.case_opened.clone()),
    ("an order among the enrolments", Code::Malformed, |_| {}, |o| o.enrolments.push(o.order.clone())),
];

#[test]
fn what_is_right_is_accepted_in_order_of_volatility() {
    let world = world();
    let accepted = world.verify(&world.offer()).expect("accepted");
    assert_eq!((&accepted.facts().case, accepted.facts().stream), (&world.order.case, 1));
    let (_, _, captures, ..) = accepted.into_parts();
    assert_eq!(captures.iter().map(|(c, _)| c.name()).collect::<Vec<_>>(), ["network", "files"]);
}

#[test]
fn a_case_that_somebody_else_opened_needs_that_persons_enrolment() {
    let mut world = world();
    let other = CaseOpened { opened_by: "spiffe://acme/responder/bob".to_owned(), ..opened_of(&world) };
    world.case_opened = signed(&other, &key(40));
    world.order.predecessor = world.case_opened.digest();
    let mut offer = world.offer();
    assert_eq!(world.verify(&offer).expect_err("by nobody").code, Code::BadSignature);
    offer.opener_enrolments = vec![enrolment("responder/bob", &key(40), &[Role::Responder], &key(1), None)];
    assert!(world.verify(&offer).is_ok());
}

/// The order names the digest of the case-opened record that its responder looked at: nobody can put another one in its place.
#[test]
fn recipients_are_those_that_a_person_signed() {
    let identity = |n| age::Identity::from_secret(zeroize::Zeroizing::new([n; 32])).expect("usable");
    let to = |n| age::Recipients::try_from(vec![*identity(n).recipient()]).expect("one");
    let mut w = world();
    let genuine = CaseOpened { encrypt_to: to(1), ..opened_of(&w) };
    w.case_opened = signed(&genuine, &w.signer);
    w.order.predecessor = w.case_opened.digest();
    assert_eq!(w.verify(&w.offer()).expect("as it was opened").facts().encrypt_to, to(1));
    for encrypt_to in [age::Recipients::default(), to(2)] {
        let forged = CaseOpened { encrypt_to, ..genuine.clone() };
        for (with, roles, code) in [(key(50), &[][..], Code::BadSignature), (key(51), &[Role::Log][..], Code::NotAuthorized)] {
            w.case_opened = signed(&forged, &with);
            w.order.predecessor = w.case_opened.digest();
            let mut offer = w.offer();
            if !roles.is_empty() {
                offer.opener_enrolments = vec![enrolment("coordinator/log", &with, roles, &key(1), None)];
            }
            assert_eq!(w.verify(&offer).expect_err("forged").code, code);
        }
    }
    // Another responder may sign one: the order follows from the one that its own signer looked at.
    w.case_opened = signed(&genuine, &w.signer);
    w.order.predecessor = w.case_opened.digest();
    let mut offer = w.offer();
    let by = format!("spiffe://{DEPLOYMENT}/responder/bob");
    offer.case_opened = signed(&CaseOpened { encrypt_to: to(2), opened_by: by, ..genuine }, &key(40));
    offer.opener_enrolments = vec![enrolment("responder/bob", &key(40), &[Role::Responder], &key(1), None)];
    assert_eq!(w.verify(&offer).expect_err("swapped").code, Code::Malformed);
}

fn opened_of(world: &World) -> CaseOpened {
    match record::Record::from_payload(world.case_opened.unverified_payload()).expect("record") {
        record::Record::CaseOpened(opened) => *opened,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_wrong_thing_has_its_code() {
    for (name, code, before, after) in TABLE {
        let mut world = world();
        before(&mut world);
        let mut offer = world.offer();
        after(&mut offer);
        match world.verify(&offer) {
            Ok(_) => panic!("accepted: {name}"),
            Err(refused) => {
                assert_eq!(refused.code, *code, "{name}: {refused}");
                let record = refused.record(offer.collection.clone(), world.agent.clone(), offer.order.digest(), at(0));
                assert!(record.code == code.as_str() && record.message.len() > 10 && record.message.len() <= 4_000, "{record:?}");
            }
        }
    }
}

#[test]
fn a_refusal_is_one_line_and_names_what_is_wrong() {
    let mut world = world();
    param(&mut world, "files", "paths", "etc/passwd");
    let offer = world.offer();
    let refused = world.verify(&offer).expect_err("relative");
    assert!(refused.message.contains("paths") && refused.message.contains("'etc/passwd'"), "{refused}");
    let bad = Policy::parse("captures = []\nfoo = 1\n").expect_err("an unknown key");
    assert!(bad.starts_with("line 2: ") && bad.contains("foo = 1") && !bad.contains('\n'), "{bad}");
    let refused = Refused::new(Code::Policy, format!("{bad} in '\\x1b'"));
    let record = refused.record(offer.collection.clone(), world.agent.clone(), offer.order.digest(), at(0));
    assert_eq!(record.message, refused.message, "what is one line already is signed as it is");
}

/// A case in which every order needs a second person.
fn two_persons() -> World {
    let mut w = world();
    let opened = CaseOpened { two_person: true, ..opened_of(&w) };
    w.case_opened = signed(&opened, &w.signer);
    w.order.predecessor = w.case_opened.digest();
    w
}

fn approval(w: &World, offer: &Offer) -> Approval {
    Approval {
        case: w.order.case.clone(),
        predecessor: offer.order.digest(),
        reason: "the works council was heard".to_owned(),
        approved_by: format!("spiffe://{DEPLOYMENT}/responder/ben"),
        approved_at: at(-30),
    }
}

/// Puts an approval into an offer, with the approver's enrolment.
fn approve(offer: &mut Offer, p: &Approval, (name, with): (&str, &SigningKey), roles: &[Role]) {
    offer.approval = Some(signed(p, with));
    offer.approver_enrolments = vec![enrolment(name, with, roles, &key(1), None)];
}

const BEN: &str = "responder/ben";

/// An approval that is none, and how it is refused.
type Lie = (&'static str, Code, fn(&World, &mut Offer));

#[test]
fn a_second_person_lets_an_order_run_and_nothing_else_does() {
    for by_host in [false, true] {
        let mut w = if by_host { world() } else { two_persons() };
        w.policy.orders.two_person = by_host;
        let mut offer = w.offer();
        assert_eq!(w.verify(&offer).map(|_| ()).map_err(|r| r.code), Err(Code::NotApproved), "nobody approved it");
        let p = approval(&w, &offer);
        approve(&mut offer, &p, (BEN, &key(30)), &[Role::Approver]);
        assert!(w.verify(&offer).is_ok(), "by_host: {by_host}");
    }
    let lies: [Lie; 9] = [
        ("an approval of another order", Code::NotApproved, |w, o| {
            let p = Approval { predecessor: Digest::of(b"another"), ..approval(w, o) };
            approve(o, &p, (BEN, &key(30)), &[Role::Approver]);
        }),
        ("an approval in another case", Code::NotApproved, |w, o| {
            let p = Approval { case: CaseId::new(9, [9; 10]), ..approval(w, o) };
            approve(o, &p, (BEN, &key(30)), &[Role::Approver]);
        }),
        ("one who ordered and approves", Code::NotApproved, |w, o| {
            let p = Approval { approved_by: w.order.issued_by.clone(), ..approval(w, o) };
            approve(o, &p, ("responder/ann", &key(30)), &[Role::Approver]);
        }),
        ("a responder's own key under another name", Code::NotAuthorized, |w, o| {
            let p = approval(w, o);
            approve(o, &p, (BEN, &w.signer), &[Role::Approver]);
        }),
        ("one who is no approver", Code::NotAuthorized, |w, o| {
            let p = approval(w, o);
            approve(o, &p, (BEN, &key(30)), &[Role::Responder, Role::Custodian]);
        }),
        ("a name that is not the key's", Code::NotAuthorized, |w, o| {
            let p = Approval { approved_by: format!("spiffe://{DEPLOYMENT}/responder/cy"), ..approval(w, o) };
            approve(o, &p, (BEN, &key(30)), &[Role::Approver]);
        }),
        ("an approval dated before its order", Code::NotApproved, |w, o| {
            let p = Approval { approved_at: at(-61), ..approval(w, o) };
            approve(o, &p, (BEN, &key(30)), &[Role::Approver]);
        }),
        ("a key that nobody enrolled", Code::BadSignature, |w, o| {
            o.approval = Some(signed(&approval(w, o), &key(30)));
        }),
        ("another record in place of it", Code::Malformed, |_, o| o.approval = Some(o.order.clone())),
    ];
    for (name, code, lie) in lies {
        let w = two_persons();
        let mut offer = w.offer();
        lie(&w, &mut offer);
        assert_eq!(w.verify(&offer).map(|_| ()).map_err(|r| r.code), Err(code), "{name}");
    }
}

#[test]
fn every_code_is_in_the_table() {
    let all = [
        Code::Expired,
        Code::NotATarget,
        Code::BadSignature,
        Code::NotAuthorized,
        Code::NotApproved,
        Code::Policy,
        Code::Replayed,
        Code::Clock,
        Code::Unsupported,
        Code::Malformed,
    ];
    for code in all {
        assert!(TABLE.iter().any(|(_, c, ..)| *c == code), "{}", code.as_str());
    }
}

#[test]
fn no_flipped_bit_of_an_order_is_accepted() {
    let world = world();
    let good = world.offer();
    let bytes = good.order.as_bytes();
    for i in (0..bytes.len()).step_by(7) {
        let mut changed = bytes.to_vec();
        changed[i] ^= 1;
        let Ok(order) = Envelope::parse(&changed) else { continue };
        let collection = CollectionId::of(&order.digest(), &world.agent);
        assert!(world.verify(&Offer { collection, order, ..good.clone() }).is_err(), "byte {i}");
    }
}
