//! Timestamps against `openssl` as the authority: what it makes is read and believed, what is wrong with it is named.

#[path = "support/der.rs"]
mod der;

use std::path::{Path, PathBuf};
use std::process::Command;

use exhibit_evidence::Digest;
use exhibit_evidence::timestamp::{Anchors, Crl, Reply, Request, Revocation, TimestampError, Vouched};

struct Authority(tempfile::TempDir);

impl Authority {
    fn new(algorithm: &str) -> Self {
        let authority = Self(tempfile::tempdir().expect("folder"));
        authority.run("make", &[algorithm, "Test Authority"]);
        authority
    }

    fn run(&self, what: &str, args: &[&str]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/authority/authority.sh");
        let done = Command::new(script).arg(what).arg(self.0.path()).args(args).output().expect("bash and openssl are needed (tests/run)");
        assert!(done.status.success(), "{what}: {}", String::from_utf8_lossy(&done.stderr));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).expect("made")
    }

    fn anchors(&self) -> Anchors {
        Anchors::parse(&self.read("root.pem")).expect("a root")
    }

    /// Another certificate, for a stated time where there is one.
    fn issue(&self, extensions: &str, name: &str, dates: &[&str]) {
        self.run("issue", &[&[extensions, name], dates].concat());
    }

    /// The reply of one of its certificates.
    fn stamp(&self, certificate: &str, request: &Request) -> Vec<u8> {
        self.answer("reply", certificate, request)
    }

    fn answer(&self, how: &str, certificate: &str, request: &Request) -> Vec<u8> {
        std::fs::write(self.path("query"), request.to_der()).expect("written");
        let (query, reply) = (self.path("query"), self.path("reply"));
        self.run(how, &[certificate, &query.display().to_string(), &reply.display().to_string()]);
        self.read("reply")
    }

    /// This authority's key, certified by the one that it had before under the same name.
    fn linked(&self, before: &Self) -> Vec<u8> {
        let run = |args: &[&str]| {
            let done = Command::new("openssl").args(args).output().expect("openssl is needed (tests/run)");
            assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        };
        let own = |name: &str| self.path(name).display().to_string();
        let (config, key, csr, link) = (own("openssl.cnf"), own("root.key"), own("link.csr"), own("link.der"));
        run(&["req", "-new", "-config", &config, "-key", &key, "-subj", "/CN=Test Authority root", "-out", &csr]);
        let (root, key) = (before.path("root.pem").display().to_string(), before.path("root.key").display().to_string());
        let by = ["-CA", &root, "-CAkey", &key, "-set_serial", "77", "-days", "3650", "-extfile", &config, "-extensions", "root"];
        run(&[&["x509", "-req", "-in", &csr, "-outform", "DER", "-out", &link][..], &by].concat());
        self.read("link.der")
    }

    /// The same token by another certificate.
    fn resign(&self, certificate: &str, reply: &[u8]) -> Vec<u8> {
        std::fs::write(self.path("in"), reply).expect("written");
        let (from, to) = (self.path("in"), self.path("out"));
        self.run("resign", &[certificate, &from.display().to_string(), &to.display().to_string()]);
        self.read("out")
    }
}

fn request() -> Request {
    Request::new(Digest::of(b"a head"), 0xfedc_ba98_7654_3210)
}

fn refused(reply: &[u8], anchors: &Anchors, crls: &[Crl]) -> TimestampError {
    Reply::parse(reply).and_then(|r| r.verify(anchors, crls)).expect_err("not believed")
}

/// No byte of a reply is passed over: `openssl` refuses it too, and a proof that only one program accepts is none.
#[test]
fn every_byte_of_a_reply_counts() {
    let authority = Authority::new("rsa");
    let bytes = authority.stamp("tsa", &request());
    let anchors = authority.anchors();
    let accepted = |at: usize| {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        Reply::parse(&changed).and_then(|r| r.answers(&request()).and_then(|()| r.verify(&anchors, &[])).map(drop)).is_ok()
    };
    assert!(Reply::parse(&bytes).is_ok());
    // The first byte that differs is the status: 'granted', and 'granted with modifications'.
    let passed: Vec<usize> = (0..bytes.len()).filter(|at| accepted(*at)).collect();
    let around = |at: usize| bytes.get(at.saturating_sub(16)..(at + 8).min(bytes.len())).map(<[u8]>::to_vec);
    assert_eq!(passed, [8], "of {} bytes: {:02x?}", bytes.len(), passed.iter().map(|at| around(*at)).collect::<Vec<_>>());
}

/// What a verifier has to say of a reply that no record states: why it is refused, or what it names.
fn named(bytes: &[u8], anchors: &Anchors) -> Result<Vec<String>, String> {
    let text = |e: TimestampError| e.to_string();
    let reply = Reply::parse(bytes).map_err(text)?;
    reply.answers(&request()).map_err(text)?;
    reply.verify(anchors, &[]).map_err(text)?;
    let certificates = reply.check_certificates(anchors).map_err(text)?;
    let uncovered = reply.uncovered().iter().chain(&certificates).map(|part| part.what.clone());
    let lists = reply.crls().iter().filter_map(|bytes| match Crl::parse(bytes).map(|list| list.vouched(Some(&reply), anchors)) {
        Ok(Vouched::Signed) => None,
        Ok(Vouched::Forged(why) | Vouched::Unknown(why)) => Some(why),
        Err(e) => Some(e.to_string()),
    });
    Ok(uncovered.chain(reply.strangers()).chain(lists).collect())
}

/// Of an authority that sends its root along: every byte is held by a signature, or the part that it belongs to is named.
#[test]
fn no_byte_of_a_reply_with_its_chain_is_passed_over() {
    let authority = Authority::new("p256");
    let bytes = authority.answer("chained", "tsa", &request());
    let anchors = authority.anchors();
    assert_eq!(named(&bytes, &anchors), Ok(Vec::new()));
    let passed = |at: &usize| {
        let mut changed = bytes.clone();
        changed[*at] ^= 1;
        named(&changed, &anchors) == Ok(Vec::new())
    };
    let passed: Vec<usize> = (0..bytes.len()).filter(passed).collect();
    assert_eq!(passed, Vec::<usize>::new(), "of {} bytes", bytes.len());
    // The name is in the issuer of the signer's certificate, in the root's own issuer, and in the root's subject.
    let root = bytes.windows(4).enumerate().filter(|(_, w)| w == b"root").map(|(at, _)| at).nth(2).expect("a root");
    let mut changed = bytes.clone();
    changed[root] ^= 1;
    assert!(named(&changed, &anchors).is_err_and(|e| e.contains("is not what its issuer made")));
}

/// What can be put into a reply without a key.
#[test]
fn what_no_signature_covers_is_refused_or_named() {
    let authority = Authority::new("p256");
    let (bytes, anchors) = (authority.stamp("tsa", &request()), authority.anchors());
    let attribute = der::value(0x30, &[&[0x06, 0x03, 0x2a, 0x03, 0x04][..], &[0x31, 0x02, 0x05, 0x00]].concat());
    let in_signer = |more: &[u8]| {
        der::with_signed_data(&bytes, |mut parts| {
            let signers = parts.pop().expect("signers");
            let signers = der::with(&signers, |signers| {
                signers.iter().map(|signer| der::value(0x30, &[der::der(signer).1, more].concat())).collect()
            });
            parts.push(signers);
            parts
        })
    };
    let with_status =
        |more: &[u8]| der::with(&bytes, |parts| vec![der::value(0x30, &[der::der(&parts[0]).1, more].concat()), parts[1].clone()]);
    let hash = der::value(0x30, &[0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01]);
    let list = der::with_signed_data(&bytes, |mut parts| {
        parts.insert(parts.len() - 1, der::value(0xa1, &der::value(0x30, b"")));
        parts
    });
    for (what, changed, says) in [
        ("status text", with_status(&der::value(0x30, &der::value(0x0c, b"hello"))), Ok("the status text 'hello'")),
        ("failure bits", with_status(&[0x03, 0x02, 0x00, 0x80]), Err("more bytes")),
        ("unsigned attribute", in_signer(&der::value(0xa1, &attribute)), Ok("unsigned attributes of the signer (1.2.3.4)")),
        ("junk certificate", der::with_more(&bytes, 0xa0, &der::value(0x30, b"")), Err("a certificate in it cannot be read")),
        ("another kind of certificate", der::with_more(&bytes, 0xa0, &der::value(0xa3, b"x")), Ok("certificates of other kinds")),
        ("junk list", list, Ok("CRL")),
        ("doubled hash", der::with_more(&bytes, 0x31, &hash), Err("a hash twice")),
    ] {
        match (named(&changed, &anchors), says) {
            (Ok(found), Ok(says)) => assert!(found.iter().any(|found| found.contains(says)), "{what}: {found:?}"),
            (Err(found), Err(says)) => assert!(found.contains(says), "{what}: {found}"),
            (found, says) => panic!("{what}: {found:?}, expected {says:?}"),
        }
    }
}

#[test]
fn tokens_of_every_kind_of_key_are_believed() {
    for algorithm in ["rsa", "p256", "p384"] {
        let authority = Authority::new(algorithm);
        let bytes = authority.stamp("tsa", &request());
        let reply = Reply::parse(&bytes).unwrap_or_else(|e| panic!("{algorithm}: {e}"));
        reply.answers(&request()).expect("it is the answer");
        let trusted = reply.verify(&authority.anchors(), &[]).unwrap_or_else(|e| panic!("{algorithm}: {e}"));
        assert_eq!((trusted.signer(), trusted.revocation()), ("Test Authority tsa", &Revocation::NotChecked));
        assert_eq!((reply.accuracy_ns(), reply.policy(), reply.serial()), (Some(1_000_000_000), "1.2.3.4.1", "02"));
        assert!(trusted.valid().0 <= reply.time() && reply.time() < trusted.valid().1);
        let other = Authority::new("p256");
        assert!(matches!(refused(&bytes, &other.anchors(), &[]), TimestampError::Untrusted(_)));
        assert!(matches!(refused(&bytes, &Anchors::default(), &[]), TimestampError::Untrusted(_)));
    }
}

#[test]
fn an_answer_to_another_question_is_none() {
    let authority = Authority::new("p256");
    let reply = Reply::parse(&authority.stamp("tsa", &request())).expect("a reply");
    let other = Request { imprint: Digest::of(b"another head"), ..request() };
    assert!(matches!(reply.answers(&other), Err(TimestampError::Imprint { .. })));
    assert!(matches!(reply.answers(&Request { nonce: 7, ..request() }), Err(TimestampError::Nonce(_))));
}

#[test]
fn every_flipped_byte_is_noticed() {
    let authority = Authority::new("p256");
    let (good, anchors) = (authority.stamp("tsa", &request()), authority.anchors());
    let facts = |reply: &Reply| (reply.time(), reply.serial().to_owned(), reply.policy().to_owned(), reply.accuracy_ns());
    let expected = facts(&Reply::parse(&good).expect("good"));
    let mut unnoticed = Vec::new();
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0x01;
        if let Ok(reply) = Reply::parse(&bytes)
            && reply.answers(&request()).is_ok()
            && reply.verify(&anchors, &[]).is_ok()
        {
            assert_eq!(facts(&reply), expected, "byte {at}");
            unnoticed.push(at);
        }
    }
    // What no signature covers and nobody relies on: status 0 or 1, versions, the list of digests, parameters of algorithms.
    assert!(unnoticed.len() < 40, "{} of {}: {unnoticed:?}", unnoticed.len(), good.len());
}

#[test]
fn a_token_outlives_its_certificate_and_not_the_other_way_round() {
    let authority = Authority::new("p256");
    authority.issue("tsa", "old", &["20200101000000Z", "20210101000000Z"]);
    let late = refused(&authority.stamp("old", &request()), &authority.anchors(), &[]);
    assert!(matches!(&late, TimestampError::Validity(why) if why.contains("to 2021-01-01T00:00:00")), "{late}");
    // No reader's clock plays a part: the functions have none. What openssl says after expiry is in tests/e2e/timestamps.rs.
}

#[test]
fn who_may_not_state_times_is_not_believed() {
    let authority = Authority::new("p256");
    let good = authority.stamp("tsa", &request());
    for (extensions, why) in [("plain", "no extended key usage"), ("soft", "not critical")] {
        authority.issue(extensions, extensions, &[]);
        let e = refused(&authority.resign(extensions, &good), &authority.anchors(), &[]);
        assert!(matches!(&e, TimestampError::Purpose(text) if text.contains(why)), "{extensions}: {e}");
    }
    // The way of signing is not the reason: the same with the right certificate is good.
    let again = Reply::parse(&authority.resign("tsa", &good)).expect("a reply");
    assert!(again.verify(&authority.anchors(), &[]).is_ok());
}

#[test]
fn revocation_counts_as_rfc_3161_says() {
    let harmless = Authority::new("p256");
    let reply = harmless.stamp("tsa", &request());
    let crl = |a: &Authority| vec![Crl::parse(&a.read("crl.der")).expect("a CRL")];
    let trusted = Reply::parse(&reply).and_then(|r| r.verify(&harmless.anchors(), &crl(&harmless))).expect("not revoked");
    assert!(matches!(trusted.revocation(), Revocation::Good(_)));
    let vouched = |list: &Crl| list.vouched(None, &harmless.anchors());
    assert_eq!(vouched(&crl(&harmless)[0]), Vouched::Signed);
    let mut forged = harmless.read("crl.der");
    *forged.last_mut().expect("bytes") ^= 1;
    assert!(matches!(vouched(&Crl::parse(&forged).expect("a CRL")), Vouched::Forged(_)));
    // Another authority's list says nothing.
    let other = Authority::new("p256");
    let trusted = Reply::parse(&reply).and_then(|r| r.verify(&harmless.anchors(), &crl(&other))).expect("not revoked");
    assert_eq!(trusted.revocation(), &Revocation::NotChecked);

    // Of another scope it says nothing of this certificate, neither when the issuer made it nor when somebody did in its name.
    for maker in [&harmless, &other] {
        maker.run("scoped", &[]);
        let trusted = Reply::parse(&reply).and_then(|r| r.verify(&harmless.anchors(), &crl(maker))).expect("not revoked");
        assert_eq!(trusted.revocation(), &Revocation::NotChecked);
    }

    // A second later than the token, so that the order of times is plain.
    #[allow(clippy::disallowed_methods, reason = "the wall clock itself is what is waited for")]
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    harmless.run("revoke", &["tsa", "superseded"]);
    let kept = Reply::parse(&reply).and_then(|r| r.verify(&harmless.anchors(), &crl(&harmless))).expect("earlier tokens stay");
    assert!(matches!(kept.revocation(), Revocation::Good(_)));
    let stolen = Authority::new("p256");
    let reply = stolen.stamp("tsa", &request());
    stolen.run("revoke", &["tsa", "keyCompromise"]);
    let e = refused(&reply, &stolen.anchors(), &crl(&stolen));
    assert!(matches!(&e, TimestampError::Revoked(why) if why.contains("KeyCompromise")), "{e}");
    // Newer lists come with the roots.
    let mut file = stolen.read("root.pem");
    file.extend_from_slice(&stolen.read("crl.pem"));
    let anchors = Anchors::parse(&file).expect("root and list");
    assert!(matches!(refused(&reply, &anchors, &[]), TimestampError::Revoked(_)));
}

/// Two roots of one name: the key that verifies says whose a certificate or a list is, in whatever order the roots were given.
#[test]
fn an_authority_that_changed_its_key_is_not_accused() {
    for (before, after) in [("p256", "p256"), ("rsa", "p384")] {
        let (old, new) = (Authority::new(before), Authority::new(after));
        let mut orders = [old.anchors(), new.anchors()];
        orders[0].extend(new.anchors());
        orders[1].extend(old.anchors());
        let (plain, link) = (new.answer("chained", "tsa", &request()), new.linked(&old));
        let bytes = der::with_more(&plain, 0xa0, &link);
        let reply = Reply::parse(&bytes).expect("a reply");
        let lists = [&old, &new].map(|authority| Crl::parse(&authority.read("crl.der")).expect("a CRL"));
        let mut forged = link.clone();
        *forged.last_mut().expect("bytes") ^= 1;
        let forged = Reply::parse(&der::with_more(&plain, 0xa0, &forged)).expect("a reply");
        for both in &orders {
            let trusted = reply.verify(both, &lists).unwrap_or_else(|e| panic!("{before}, {after}: {e}"));
            assert_eq!(trusted.revocation(), &Revocation::Good(lists[1].made()), "the other list is of the other key");
            assert_eq!(named(&bytes, both), Ok(Vec::new()), "{before}, {after}");
            for list in &lists {
                assert_eq!((list.vouched(Some(&reply), both), list.vouched(None, both)), (Vouched::Signed, Vouched::Signed));
            }
            assert!(matches!(forged.check_certificates(both), Err(TimestampError::Signature(_))), "{before}, {after}");
        }
        // What no known key of that name signed cannot be told from a forgery, and the remedy is said.
        let new_alone = new.anchors();
        let e = reply.check_certificates(&new_alone).expect_err("the old key is not known");
        assert!(e.to_string().contains("of an authority that changed its key, give all roots"), "{e}");
        let judged = lists[0].vouched(Some(&reply), &new_alone);
        assert!(matches!(&judged, Vouched::Forged(why) if why.contains("give all roots")), "{judged:?}");

        // The old key revokes a certificate with the serial number that the new one gave to another.
        old.run("revoke", &["tsa", "keyCompromise"]);
        let revoked = [Crl::parse(&old.read("crl.der")).expect("a CRL")];
        for both in &orders {
            let trusted = reply.verify(both, &revoked).unwrap_or_else(|e| panic!("{before}, {after}: {e}"));
            assert_eq!(trusted.revocation(), &Revocation::NotChecked);
            assert!(matches!(refused(&old.stamp("tsa", &request()), both, &revoked), TimestampError::Revoked(_)));
        }
    }
}

#[test]
fn files_that_hold_no_roots_are_refused_with_a_reason() {
    let authority = Authority::new("p256");
    let pem = String::from_utf8(authority.read("root.pem")).expect("PEM");
    for (bad, why) in [
        (String::new(), "no certificate in it"),
        (pem.replace("END CERT", "END DOG"), "not closed"),
        (pem.replace("CERTIFICATE", "PRIVATE KEY"), "'PRIVATE KEY'"),
        (pem.replacen("MII", "!!!", 1), "not base64"),
    ] {
        let e = Anchors::parse(bad.as_bytes()).expect_err(why);
        assert!(e.to_string().contains(why), "{e}");
    }
    assert!(Anchors::parse(&[0x30, 0x00]).is_err() && Anchors::parse(&[0xff; 9]).is_err());
}
