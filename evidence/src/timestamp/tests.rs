use der::Tag;
use proptest::prelude::*;

use super::*;
use crate::Digest;

#[test]
fn a_request_is_what_openssl_writes() {
    // `openssl ts -query -digest <32 bytes of ab> -sha256 -cert`, with its nonce put in.
    let request = Request::new(Digest::from_bytes([0xab; 32]), 0x8000_0000_0000_0001);
    let expected =
        format!("3044020101{}0209008000000000000001{}", "3031300d060960864801650304020105000420".to_owned() + &"ab".repeat(32), "0101ff");
    let shown = request.to_der().iter().fold(String::new(), |shown, b| shown + &format!("{b:02x}"));
    assert_eq!(shown, expected);
}

#[test]
fn times_with_and_without_fractions() {
    let read = |tag, text: &str| asn1::time(tag, text.as_bytes(), "test").map(|t| t.to_string()).ok();
    assert_eq!(read(Tag::GeneralizedTime, "20261126231653Z").as_deref(), Some("2026-11-26T23:16:53.000000000Z"));
    assert_eq!(read(Tag::GeneralizedTime, "20261126231653.25Z").as_deref(), Some("2026-11-26T23:16:53.250000000Z"));
    assert_eq!(read(Tag::UtcTime, "491231235959Z").as_deref(), Some("2049-12-31T23:59:59.000000000Z"));
    assert_eq!(read(Tag::UtcTime, "991231235959Z").as_deref(), Some("1999-12-31T23:59:59.000000000Z"));
    for bad in
        ["20261126231653", "20261126231653.Z", "20261126231653.10Z", "20261326231653Z", "202611262316Z", "", "Z", "2026112623165\u{e9}Z"]
    {
        assert_eq!(read(Tag::GeneralizedTime, bad), None, "{bad}");
    }
}

proptest! {
    #[test]
    fn requests_round_trip(digest: [u8; 32], nonce: u64) {
        let request = Request::new(Digest::from_bytes(digest), nonce);
        prop_assert_eq!(Request::parse(&request.to_der()), Ok(request));
    }

    #[test]
    fn any_bytes_are_handled(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Request::parse(&bytes);
        if let Ok(list) = Crl::parse(&bytes) {
            let _ = list.vouched(None, &Anchors::default());
        }
        let _ = Anchors::parse(&bytes);
        let _ = certificate::Facts::read(&bytes);
        if let Ok(reply) = Reply::parse(&bytes) {
            let _ = reply.verify(&Anchors::default(), &[]);
            let _ = reply.check_certificates(&Anchors::default());
        }
    }
}
