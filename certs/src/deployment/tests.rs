use super::*;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use exhibit_evidence::record::KeyRing;

fn now() -> Timestamp {
    Timestamp::from_unix_s(1_800_000_000)
}

fn params() -> Params {
    Params {
        name: "acme".parse().expect("name"),
        admin: "ana".parse().expect("name"),
        server: ServerNames::parse(&["localhost", "127.0.0.1"]).expect("names"),
    }
}

fn make() -> NewDeployment {
    create(&params(), &Seeds::draw().expect("randomness"), now()).expect("deployment")
}

fn modes(dir: &Path) -> Vec<(String, u32)> {
    let mut all = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(folder) = todo.pop() {
        for entry in std::fs::read_dir(folder).expect("list") {
            let entry = entry.expect("entry");
            let metadata = entry.metadata().expect("metadata");
            let name = entry.path().strip_prefix(dir).expect("below").to_string_lossy().into_owned();
            all.push((name, metadata.mode() & 0o7777));
            if metadata.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    all.sort();
    all
}

#[test]
fn a_deployment_is_written_with_these_files_and_modes() {
    let dir = tempfile::tempdir().expect("temp");
    let path = dir.path().join("d");
    make().write(&path).expect("written");
    let expected = [
        ("anchor.json", 0o644),
        ("enrolments", 0o700),
        ("enrolments/issuer.dsse.json", 0o644),
        ("enrolments/log.dsse.json", 0o644),
        ("issuer.key", 0o600),
        ("issuing", 0o700),
        ("issuing/tls.pem", 0o600),
        ("log.key", 0o600),
        ("root", 0o700),
        ("root/evidence.key", 0o600),
        ("root/tls.pem", 0o600),
        ("server", 0o700),
        ("server/tls.pem", 0o600),
        ("tls-root.pem", 0o644),
    ];
    assert_eq!(modes(&path), expected.map(|(name, mode)| (name.to_owned(), mode)));
    assert_eq!(std::fs::metadata(&path).expect("folder").mode() & 0o7777, 0o700);
}

#[test]
fn it_loads_without_its_root_and_what_it_enrols_verifies() {
    let dir = tempfile::tempdir().expect("temp");
    let path = dir.path().join("d");
    let new = make();
    new.write(&path).expect("written");
    std::fs::rename(path.join("root"), dir.path().join("safe")).expect("moved away");
    let loaded = Deployment::load(&path).expect("loaded");
    assert_eq!(loaded.anchor, new.deployment.anchor);
    assert_eq!(loaded.tls_root_sha256(), Digest::of(&new.deployment.tls_root));
    let agent = SigningKey::from_seed(&[9; 32]);
    let name = PeerName::Agent("acme".parse().expect("name"), exhibit_evidence::AgentId::of_key(&agent.public().id()));
    let enrolment = loaded.issuer().enrol(&name, agent.public(), &[Role::Agent], "token", now()).expect("signed");
    enrol::verify_holder(&loaded.anchor, &[loaded.issuer_enrolment.clone(), enrolment], &agent.public(), &name).expect("verifies");
    let mut ring = KeyRing::new(&loaded.anchor);
    ring.verify(&loaded.log_enrolment).expect("verifies");
    assert!(ring.holder(loaded.log_key.public().id()).is_some_and(|(_, roles, _)| roles.iter().eq([&Role::Log])));
    let admin = enrol::verify_chain(&new.deployment.anchor, &new.admin.enrolments).expect("verifies");
    assert!(admin.holder(new.admin.evidence.public().id()).is_some_and(|(_, roles, _)| roles.len() == 5));
}

#[test]
fn nothing_is_ever_overwritten() {
    let dir = tempfile::tempdir().expect("temp");
    let path = dir.path().join("d");
    let new = make();
    new.write(&path).expect("written");
    let before = std::fs::read(path.join("anchor.json")).expect("anchor");
    let error = make().write(&path).expect_err("there is one").to_string();
    assert!(error.contains("holds a deployment already"), "{error}");
    assert_eq!(std::fs::read(path.join("anchor.json")).expect("anchor"), before);
    // An init that died before its end.
    std::fs::remove_file(path.join("anchor.json")).expect("removed");
    assert!(make().write(&path).expect_err("leftover").to_string().contains("interrupted init"));
    assert!(Deployment::load(&path).expect_err("unfinished").to_string().contains("exhibit-coordinator init"));
    assert!(!Deployment::exists(&path));
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).expect("folder");
    std::fs::set_permissions(&empty, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    new.write(&empty).expect("an empty folder is fine");
}

#[test]
fn files_that_do_not_belong_together_are_named() {
    let dir = tempfile::tempdir().expect("temp");
    let (path, other) = (dir.path().join("d"), dir.path().join("other"));
    make().write(&path).expect("written");
    make().write(&other).expect("written");
    for (file, says) in [
        ("tls-root.pem", "vouches for evidence root"),
        ("log.key", "do not enrol key"),
        ("enrolments/issuer.dsse.json", "does not verify"),
        ("anchor.json", "vouches for evidence root"),
    ] {
        let saved = std::fs::read(path.join(file)).expect("read");
        std::fs::copy(other.join(file), path.join(file)).expect("exchanged");
        let error = Deployment::load(&path).expect_err(file).to_string();
        assert!(error.contains(says), "{file}: {error}");
        std::fs::write(path.join(file), saved).expect("restored");
    }
    Deployment::load(&path).expect("whole again");
    for (file, content) in
        [("issuing/tls.pem", "x"), ("log.key", "x"), ("server/tls.pem", ""), ("tls-root.pem", "x"), ("anchor.json", "{}")]
    {
        let saved = std::fs::read(path.join(file)).expect("read");
        std::fs::write(path.join(file), content).expect("damaged");
        let error = Deployment::load(&path).expect_err(file).to_string();
        assert!(error.contains(file), "{file}: {error}");
        std::fs::write(path.join(file), saved).expect("restored");
    }
    std::fs::set_permissions(path.join("log.key"), std::fs::Permissions::from_mode(0o644)).expect("chmod");
    let error = Deployment::load(&path).expect_err("open key").to_string();
    assert!(error.contains("log.key") && error.contains("0644") && error.contains("chmod 600"), "{error}");
}

#[test]
fn the_server_certificate_renews_itself_when_it_must() {
    let dir = tempfile::tempdir().expect("temp");
    let path = dir.path().join("d");
    make().write(&path).expect("written");
    let mut deployment = Deployment::load(&path).expect("loaded");
    let (names, serial) = (params().server, deployment.server.facts().serial.clone());
    assert!(!deployment.renew_server(&path, &names, now().plus_s(59 * 86_400)).expect("not due"));
    assert!(deployment.renew_server(&path, &names, now().plus_s(61 * 86_400)).expect("due"));
    let renewed = deployment.server.facts().serial.clone();
    assert_ne!(renewed, serial);
    assert_eq!(Deployment::load(&path).expect("loaded").server.facts().serial, renewed, "on disk too");
    let more = ServerNames::parse(&["localhost", "127.0.0.1", "new.example"]).expect("names");
    assert!(deployment.renew_server(&path, &more, now()).expect("a name is missing"));
    assert!(deployment.server.facts().dns.contains(&"new.example".to_owned()));
}

#[test]
fn a_new_issuing_ca_needs_the_root_and_renews_the_server_certificate() {
    let dir = tempfile::tempdir().expect("temp");
    let (path, other) = (dir.path().join("d"), dir.path().join("other"));
    make().write(&path).expect("written");
    make().write(&other).expect("written");
    let old = Deployment::load(&path).expect("loaded").issuing.facts().serial.clone();
    assert!(renew_issuing(&path, &other.join("root"), now()).expect_err("other root").to_string().contains("another deployment"));
    renew_issuing(&path, &path.join("root"), now().plus_s(600 * 86_400)).expect("renewed");
    let mut deployment = Deployment::load(&path).expect("loaded");
    assert_ne!(deployment.issuing.facts().serial, old);
    assert!(deployment.renew_server(&path, &params().server, now().plus_s(600 * 86_400)).expect("issued by the old CA"));
}

#[test]
fn the_first_admin_enrols_people_and_no_agents() {
    let new = make();
    let (bob, anchor) = (SigningKey::from_seed(&[8; 32]), &new.deployment.anchor);
    let name: PeerName = "spiffe://acme/responder/bob".parse().expect("name");
    let mut chain = new.admin.enrolments.clone();
    chain.push(new.admin.enroller().enrol(&name, bob.public(), &[Role::Responder], "admin", now()).expect("signed"));
    enrol::verify_holder(anchor, &chain, &bob.public(), &name).expect("verifies");
    let agent = PeerName::Agent("acme".parse().expect("name"), exhibit_evidence::AgentId::of_key(&bob.public().id()));
    let mut chain = new.admin.enrolments.clone();
    chain.push(new.admin.enroller().enrol(&agent, bob.public(), &[Role::Agent], "admin", now()).expect("signed"));
    assert!(enrol::verify_chain(anchor, &chain).is_err());
    // The person's certificate comes from the issuing CA, for a key that only the person has.
    let request = TlsKey::generate().expect("key").request().expect("request");
    let issued = new.deployment.issuing.issue_person(&request, (&name, bob.public().id()), PERSON_LIFE, now()).expect("issued");
    assert_eq!((issued.facts.peer().expect("a person"), issued.facts.evidence_key()), (name, Some(bob.public().id())));
    assert_eq!(issued.facts.not_after, now().plus_s(365 * 86_400));
}

#[test]
fn nothing_secret_is_shown() {
    let new = make();
    let shown = format!("{new:?} {:?} {:?}", new.deployment, Seeds::draw().expect("randomness"));
    let secrets = [new.root_evidence.to_text(), new.deployment.log_key.to_text(), new.deployment.server.to_pem(), new.admin.tls.to_pem()];
    for secret in secrets {
        for line in secret.lines().filter(|l| !l.starts_with("-----") && !l.is_empty()) {
            assert!(!shown.contains(line.trim_start_matches("exhibit-ed25519-seed-v1:")), "{shown}");
        }
    }
    assert!(shown.len() < 2_000, "{shown}");
}
