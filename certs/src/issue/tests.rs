use super::*;
use crate::random::seed;

fn now() -> Timestamp {
    Timestamp::from_unix_s(1_800_000_000)
}

fn acme() -> DeploymentName {
    "acme".parse().expect("name")
}

fn root() -> Authority {
    Authority::root(&acme(), &Digest::of(b"key"), now()).expect("root")
}

fn name() -> PeerName {
    "spiffe://acme/agent/agt-01hf7yat00zzzzzzzzzzzzzzzz".parse().expect("name")
}

#[test]
fn a_clients_certificate_has_exactly_the_fields_that_we_set() {
    let issuing = root().issue_issuing(&acme(), now()).expect("issuing");
    let key = TlsKey::generate().expect("key");
    let issued = issuing.issue_client(&key.request().expect("request"), &name(), AGENT_LIFE, now()).expect("issued");
    assert_eq!(issued.facts.peer().expect("peer"), name());
    assert_eq!(issued.facts.not_before, now().plus_s(-300));
    assert_eq!(issued.facts.not_after, now().plus_s(86_400));
    assert_eq!(issued.facts.public_der, key.public_der());
    assert_eq!(issued.facts.serial.len(), 32, "16 bytes");
    assert!(!issued.facts.is_ca && issued.facts.dns.is_empty() && issued.facts.ips.is_empty());
    assert_eq!(issued.chain, [issued.leaf.clone(), issuing.certificate().clone()]);
    let again = issuing.issue_client(&key.request().expect("request"), &name(), AGENT_LIFE, now()).expect("issued");
    assert_ne!(issued.facts.serial, again.facts.serial);
}

#[test]
fn a_persons_certificate_names_the_evidence_key_and_nobody_elses_may() {
    let issuing = root().issue_issuing(&acme(), now()).expect("issuing");
    let request = TlsKey::generate().expect("key").request().expect("request");
    let (person, key) = ("spiffe://acme/responder/bob".parse::<PeerName>().expect("name"), Digest::of(b"evidence"));
    let issued = issuing.issue_person(&request, (&person, key), PERSON_LIFE, now()).expect("issued");
    assert_eq!((issued.facts.peer().expect("peer"), issued.facts.evidence_key()), (person, Some(key)));
    // An agent's id follows from its key: another one beside it names nobody.
    let agent = issuing.issue_person(&request, (&name(), key), AGENT_LIFE, now()).expect("issued");
    assert!(agent.facts.peer().is_err(), "{:?}", agent.facts.uris);
    let plain = issuing.issue_client(&request, &name(), AGENT_LIFE, now()).expect("issued");
    assert_eq!(plain.facts.evidence_key(), None);
}

#[test]
fn what_a_request_asks_for_is_ignored() {
    let issuing = root().issue_issuing(&acme(), now()).expect("issuing");
    let pair = rcgen::KeyPair::generate().expect("key");
    let mut wishes = CertificateParams::new(vec!["coordinator.example".to_owned()]).expect("names");
    wishes.subject_alt_names.push(uri("spiffe://acme/responder/root").expect("uri"));
    wishes.distinguished_name.push(DnType::CommonName, "Exhibit issuing CA");
    wishes.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    wishes.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    wishes.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let request = wishes.serialize_request(&pair).expect("request");
    let issued = issuing.issue_client(request.der(), &name(), AGENT_LIFE, now()).expect("issued");
    assert_eq!(issued.facts.uris, [name().to_string()]);
    assert!(issued.facts.dns.is_empty() && !issued.facts.is_ca);
    let (_, certificate) = x509_parser::parse_x509_certificate(&issued.leaf).expect("certificate");
    let usage = certificate.extended_key_usage().expect("one").expect("one").value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    let usage = certificate.key_usage().expect("one").expect("one").value;
    assert!(usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign());
    assert_eq!(certificate.subject().to_string(), format!("CN={}", name().short()));
}

#[test]
fn bad_requests_are_refused_with_the_reason() {
    let issuing = root().issue_issuing(&acme(), now()).expect("issuing");
    let refused = |request: &[u8]| match issuing.issue_client(request, &name(), AGENT_LIFE, now()) {
        Err(IssueError::BadRequest(why)) => why,
        other => panic!("{other:?}"),
    };
    let good = TlsKey::generate().expect("key").request().expect("request");
    assert!(refused(b"").contains("PKCS #10"));
    assert!(refused(&vec![0x30; 5_000]).contains("4096"));
    let mut behind = good.clone();
    behind.push(0);
    assert!(refused(&behind).contains("follow"));
    let mut forged = good.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert!(refused(&forged).contains("signature"));
    let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("key");
    let other = CertificateParams::default().serialize_request(&other).expect("request");
    assert!(refused(other.der()).contains("P-256"));
    let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("key");
    let other = CertificateParams::default().serialize_request(&other).expect("request");
    assert!(refused(other.der()).contains("P-256"));
}

#[test]
fn every_flipped_byte_of_a_request_is_refused_or_harmless() {
    let issuing = root().issue_issuing(&acme(), now()).expect("issuing");
    let key = TlsKey::generate().expect("key");
    let request = key.request().expect("request");
    for i in 0..request.len() {
        let mut bytes = request.clone();
        bytes[i] ^= 0x55;
        if let Ok(issued) = issuing.issue_client(&bytes, &name(), AGENT_LIFE, now()) {
            assert_eq!(issued.facts.public_der, key.public_der(), "byte {i}");
        }
    }
}

#[test]
fn a_certificate_does_not_outlive_its_issuer_and_a_dead_issuer_does_not_issue() {
    let issuing = root().issue_issuing(&acme(), now()).expect("issuing");
    let end = issuing.facts().not_after;
    assert_eq!(end, now().plus_s(2 * 365 * 86_400));
    let request = TlsKey::generate().expect("key").request().expect("request");
    let late = end.plus_s(-60);
    assert_eq!(issuing.issue_client(&request, &name(), AGENT_LIFE, late).expect("issued").facts.not_after, end);
    for dead in [end, end.plus_s(1), now().plus_s(-301)] {
        let error = issuing.issue_client(&request, &name(), AGENT_LIFE, dead).expect_err("expired CA").to_string();
        assert!(error.contains("clock"), "{error}");
    }
}

#[test]
fn an_authority_is_a_ca_with_its_own_key() {
    let root = root();
    let issuing = root.issue_issuing(&acme(), now()).expect("issuing");
    assert!(Authority::new(root.certificate().clone(), issuing.key().clone()).is_err());
    let server = issuing.issue_server(&acme(), &ServerNames::parse(&["a.example"]).expect("names"), now()).expect("server");
    assert!(Authority::new(server.chain()[0].clone(), server.key().clone()).is_err());
    assert_eq!(server.facts().dns, ["a.example"]);
    assert_eq!(server.name().to_string(), "spiffe://acme/coordinator/server");
    assert_eq!(x509::read_root(root.certificate()).expect("root").evidence_root, Digest::of(b"key"));
    assert!(x509::read_root(issuing.certificate()).is_err(), "an issuing CA names no deployment");
    assert!(server.facts().peer().is_ok() && root.facts().peer().is_err());
}

#[test]
fn server_names_are_names_or_addresses() {
    let names = ServerNames::parse(&["Coordinator.Example", "192.0.2.7", "2001:db8::7"]).expect("names");
    assert_eq!(names.dns, ["coordinator.example"]);
    assert_eq!(names.ips.len(), 2);
    for bad in ["", "a b", "exa_mple..com", "host:7443", "https://host", "-x.example", "host."] {
        assert!(ServerNames::parse(&[bad]).is_err(), "{bad}");
    }
    assert!(ServerNames::parse::<&str>(&[]).is_err());
    assert!(ServerNames::parse(&vec!["a.example"; 33]).is_err());
}

#[test]
fn nothing_secret_is_shown() {
    let root = root();
    let pem = root.key().to_pem();
    let body: Vec<&str> = pem.lines().filter(|l| !l.starts_with('-')).collect();
    let shown = format!("{root:?} {:?} {:?}", root.key(), seed().map(drop));
    assert!(body.iter().all(|line| !shown.contains(line)), "{shown}");
}
