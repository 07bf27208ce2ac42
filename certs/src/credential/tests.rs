use super::*;
use std::os::unix::fs::PermissionsExt as _;

use exhibit_evidence::record::Role;

use crate::deployment::{self, NewDeployment, Params, Seeds};
use crate::issue::{AGENT_LIFE, ServerNames};

fn now() -> Timestamp {
    Timestamp::from_unix_s(1_800_000_000)
}

fn make() -> NewDeployment {
    let params = Params {
        name: "acme".parse().expect("name"),
        admin: "ana".parse().expect("name"),
        server: ServerNames::parse(&["localhost"]).expect("names"),
    };
    deployment::create(&params, &Seeds::draw().expect("randomness"), now()).expect("deployment")
}

fn agent_name(pending: &Pending) -> PeerName {
    PeerName::Agent("acme".parse().expect("name"), exhibit_evidence::AgentId::of_key(&pending.evidence.public().id()))
}

/// What an enrolment's two ends do, without the wire.
fn enrol_agent(new: &NewDeployment, pending: &Pending) -> Result<Credential, BadIdentity> {
    let deployment = &new.deployment;
    let request = pending.tls.request().expect("request");
    let issued = deployment.issuing.issue_client(&request, &agent_name(pending), AGENT_LIFE, now()).expect("issued");
    let enrolment =
        deployment.issuer().enrol(&agent_name(pending), pending.evidence.public(), &[Role::Agent], "token", now()).expect("signed");
    let tls = TlsIdentity::new(pending.tls.clone(), issued.chain)?;
    let evidence = SigningKey::from_text(&pending.evidence.to_text()).expect("copy");
    let chain = vec![deployment.issuer_enrolment.clone(), enrolment];
    Credential::new(deployment.anchor.clone(), deployment.tls_root.clone(), tls, evidence, chain)
}

#[test]
fn a_persons_folder_survives_and_protects_itself() {
    let dir = tempfile::tempdir().expect("temp");
    let home = dir.path().join("home");
    let admin = make().admin;
    admin.write(&home).expect("written");
    let loaded = Credential::load(&home).expect("loaded");
    assert_eq!(loaded.name().to_string(), "spiffe://acme/responder/ana");
    assert_eq!(loaded.evidence.public(), admin.evidence.public());
    assert_eq!(loaded.enrolments, admin.enrolments);
    assert!(matches!(admin.write(&home), Err(FileError::Exists { .. })));
    for file in ["tls.pem", "evidence.key"] {
        let path = home.join(file);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o604)).expect("chmod");
        let error = Credential::load(&home).expect_err("open").to_string();
        assert!(error.contains(file) && error.contains("0604") && error.contains("chmod 600"), "{error}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    }
    std::fs::remove_file(home.join("enrolments/00.dsse.json")).expect("removed");
    let error = Credential::load(&home).expect_err("missing").to_string();
    assert!(error.contains("00.dsse.json") && error.contains("No such file"), "{error}");
}

#[test]
fn parts_of_two_identities_make_none() {
    let (one, two) = (make(), make());
    let swap = |anchor: &NewDeployment, root: &NewDeployment, tls: &NewDeployment, key: &NewDeployment, chain: &NewDeployment| {
        let evidence = SigningKey::from_text(&key.admin.evidence.to_text()).expect("copy");
        let (anchor, root) = (anchor.deployment.anchor.clone(), root.deployment.tls_root.clone());
        Credential::new(anchor, root, tls.admin.tls.clone(), evidence, chain.admin.enrolments.clone())
    };
    assert!(swap(&one, &one, &one, &one, &one).is_ok());
    assert!(matches!(swap(&two, &one, &one, &one, &one), Err(BadIdentity::Anchor(_))));
    assert!(matches!(swap(&one, &two, &one, &one, &one), Err(BadIdentity::Anchor(_))));
    assert!(matches!(swap(&one, &one, &one, &two, &one), Err(BadIdentity::Chain(BadChain::OtherKey { .. }))));
    assert!(matches!(swap(&one, &one, &one, &one, &two), Err(BadIdentity::Chain(BadChain::Record { .. }))));
    // Another key of the same name: the certificate would give the rights of the first one.
    let (name, second) = (one.admin.name().clone(), SigningKey::from_seed(&[7; 32]));
    let enrolment = one.admin.enroller().enrol(&name, second.public(), &[Role::Auditor], "admin", now()).expect("signed");
    let chain = vec![one.admin.enrolments[0].clone(), enrolment];
    let (anchor, root) = (one.deployment.anchor.clone(), one.deployment.tls_root.clone());
    let lent = Credential::new(anchor, root, one.admin.tls.clone(), second, chain).expect_err("two keys").to_string();
    assert!(lent.contains("does not name the evidence key"), "{lent}");
    let chain = two.admin.tls.chain().to_vec();
    assert_eq!(TlsIdentity::new(one.admin.tls.key().clone(), chain).map(drop), Err(BadIdentity::KeyMismatch));
    assert_eq!(TlsIdentity::from_der::<&[u8]>(one.admin.tls.key().clone(), &[]).map(drop), Err(BadIdentity::ChainLength(0)));
    assert!(TlsIdentity::from_der(one.admin.tls.key().clone(), &[b"x"; 9]).is_err());
}

#[test]
fn an_interrupted_enrolment_is_taken_up_with_the_same_keys() {
    let dir = tempfile::tempdir().expect("temp");
    let state = dir.path().join("state");
    let new = make();
    let first = Pending::take_up(&state, &[1; 32]).expect("new keys");
    // The process dies before the answer comes.
    let second = Pending::take_up(&state, &[2; 32]).expect("the same keys");
    assert_eq!(first.evidence.public(), second.evidence.public());
    assert_eq!(first.tls.public_der(), second.tls.public_der());
    let credential = enrol_agent(&new, &second).expect("belongs together");
    // It dies again while the credential is being written: everything but the anchor is there.
    credential.write(&state).expect("written");
    std::fs::remove_file(state.join("anchor.json")).expect("not yet written");
    assert!(!Credential::exists(&state));
    let third = Pending::take_up(&state, &[3; 32]).expect("the same keys still");
    assert_eq!(third.evidence.public(), first.evidence.public());
    Pending::finish(&enrol_agent(&new, &third).expect("again"), &state).expect("finished");
    assert!(!state.join("enrolment.pending").exists());
    assert_eq!(Credential::load(&state).expect("loaded").name(), &agent_name(&third));
    assert!(matches!(Pending::take_up(&state, &[4; 32]), Err(FileError::Exists { .. })), "an enrolled agent does not enrol again");
    assert!(!format!("{third:?}").contains(third.evidence.to_text().trim_end().trim_start_matches("exhibit-ed25519-seed-v1:")));
}

#[test]
fn a_renewal_exchanges_key_and_certificate_in_one_step() {
    let dir = tempfile::tempdir().expect("temp");
    let state = dir.path().join("state");
    let new = make();
    let mut credential = enrol_agent(&new, &Pending::take_up(&state, &[1; 32]).expect("keys")).expect("enrolled");
    Pending::finish(&credential, &state).expect("written");
    let later = now().plus_s(57_600);
    assert!(credential.tls.renew_at(0) <= later);
    let key = TlsKey::generate().expect("key");
    let renew =
        |name: &PeerName| new.deployment.issuing.issue_client(&key.request().expect("request"), name, AGENT_LIFE, later).expect("issued");
    let stranger: PeerName = "spiffe://acme/agent/agt-01hf7yat00zzzzzzzzzzzzzzz0".parse().expect("name");
    let other = TlsIdentity::new(key.clone(), renew(&stranger).chain).expect("identity");
    assert!(credential.replace_tls(&state, other).expect_err("another name").to_string().contains("instead of"));
    let own = credential.name().clone();
    let renewed = TlsIdentity::from_der(key.clone(), &renew(&own).chain).expect("identity");
    let serial = renewed.facts().serial.clone();
    credential.replace_tls(&state, renewed).expect("exchanged");
    let loaded = Credential::load(&state).expect("loaded");
    assert_eq!((&loaded.tls.facts().serial, &credential.tls.facts().serial), (&serial, &serial));
    assert_eq!(loaded.tls.key().public_der(), key.public_der());
}

proptest::proptest! {
    #[test]
    fn any_file_content_is_handled(bytes: Vec<u8>) {
        proptest::prop_assert!(TlsIdentity::from_pem(&bytes).is_err());
        proptest::prop_assert!(Pending::parse(&bytes).is_none());
    }
}
