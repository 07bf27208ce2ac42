use super::*;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, OtherError, PeerIncompatible};

/// Sockets and handshakes are tested where the connections are made; here only words.
#[test]
fn every_explanation_says_what_to_do_and_shows_no_terminal_codes() {
    let at = |s: u64| rustls::pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(s));
    let expired = CertificateError::ExpiredContext { time: at(1_800_000_000), not_after: at(1_700_000_000) };
    let cases = [
        (
            Error::InvalidCertificate(expired),
            "the peer's certificate expired at 2023-11-14T22:13:20.000000000Z, and this machine's clock says 2027-01-15T08:00:00.000000000Z; renew it, or correct the clock",
        ),
        (
            Error::NoCertificatesPresented,
            "the peer presented no client certificate; it must enrol first (only enrolment works without one)",
        ),
        (
            Error::AlertReceived(AlertDescription::CertificateRequired),
            "the peer refused the connection: it requires a client certificate: enrol first",
        ),
        (
            Error::PeerIncompatible(PeerIncompatible::SupportedVersionsExtensionRequired),
            "the peer does not speak TLS 1.3, and nothing older is accepted",
        ),
        (Error::InvalidMessage(InvalidMessage::InvalidContentType), "the peer does not speak TLS on this port"),
    ];
    for (error, text) in cases {
        assert_eq!(explain_tls_error(&error), text);
    }
    let hostile = Error::InvalidCertificate(CertificateError::NotValidForNameContext {
        expected: "coordinator.example".try_into().expect("name"),
        presented: vec!["DnsName(\"\x1b[2J\u{202e}\")".to_owned()],
    });
    let text = explain_tls_error(&hostile);
    assert!(!text.contains('\x1b') && !text.contains('\u{202e}') && text.contains("coordinator.example"), "{text}");
}

#[test]
fn the_tls_error_is_found_below_others() {
    let inner = std::io::Error::other(Error::NoCertificatesPresented);
    let outer = std::io::Error::other(std::io::Error::other(inner));
    assert!(explain(&outer).is_some_and(|text| text.contains("client certificate")));
    assert_eq!(explain(&std::io::Error::other("something else")), None);
    let pin = Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(BadCertificate::Missing))));
    assert_eq!(explain(&pin).as_deref(), Some("no certificate was presented"));
}

#[test]
fn no_peer_without_a_certificate() {
    assert_eq!(peer_from_certificates(&[]), Err(BadCertificate::Missing));
    assert!(peer_from_certificates(&[CertificateDer::from(vec![0_u8; 3])]).is_err());
}

#[test]
fn configurations_do_not_resume_and_do_not_show_keys() {
    use crate::deployment::{Params, Seeds, create};
    let params = Params {
        name: "acme".parse().expect("name"),
        admin: "ana".parse().expect("name"),
        server: crate::issue::ServerNames::parse(&["localhost"]).expect("names"),
    };
    let new = create(&params, &Seeds::draw().expect("randomness"), Timestamp::from_unix_s(1_800_000_000)).expect("deployment");
    let tls = ServerTls::new(&new.deployment.server, &new.deployment.tls_root).expect("configuration");
    for (config, alpn) in [(&tls.main, ALPN_MAIN), (&tls.enroll, ALPN_ENROLL)] {
        assert_eq!(config.send_tls13_tickets, 0);
        assert!(!config.session_storage.can_cache());
        assert_eq!(config.max_early_data_size, 0);
        assert_eq!(config.alpn_protocols, [alpn.to_vec()]);
    }
    // A root of ours is needed: it says which deployment's names are accepted.
    assert!(server_config(&new.deployment.server, new.deployment.issuing.certificate()).is_err());
    let hot = HotServer::new(tls);
    let before = hot.current();
    assert!(hot.replace(&new.deployment.server, new.deployment.issuing.certificate()).is_err());
    assert!(Arc::ptr_eq(&before, &hot.current()), "the old configuration stays");
    let pem = new.deployment.server.to_pem();
    let shown = format!("{hot:?} {:?}", client_config(&new.admin.tls, &new.deployment.tls_root).expect("configuration"));
    let key_lines = pem.split("-----END PRIVATE KEY").next().expect("key").lines().skip(1);
    assert!(key_lines.into_iter().all(|line| !shown.contains(line)));
}
