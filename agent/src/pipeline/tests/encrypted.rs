//! Of an encrypted case what lines say is readable, and what the stream holds is not.

use std::collections::BTreeMap;

use exhibit_evidence::age::{self, Identity, Recipients};
use exhibit_evidence::manifest::{Kind, Meta};

use super::*;
use crate::capture::evidence_path;

#[test]
fn extended_attributes_stand_in_the_stream_or_nowhere() {
    let identity = Identity::from_secret(zeroize::Zeroizing::new([1; 32])).expect("usable");
    let capture = script("files", |out| {
        let meta = Meta { xattrs: BTreeMap::from([("trusted.secret".to_owned(), "TUFSS0VS".to_owned())]), ..Meta::default() };
        let with = |item: NewItem| NewItem { meta: Some(Box::new(meta.clone())), ..item };
        out.put(with(file("/taken", out)), Content::Bytes(b"x"))?;
        out.put(with(NewItem::new(evidence_path("/fifo"), Kind::Fifo, out.now(), "lstat")), Content::None)?;
        out.put(with(file("/big", out).with_status(Status::Skipped, "too big")), Content::None).map(drop)
    });
    let mut plan = plan(vec![capture], Budget::UNLIMITED);
    plan.facts.encrypt_to = Recipients::try_from(vec![*identity.recipient()]).expect("one");
    let window = start(plan).expect("threads");
    let Next::Segment(sealed) = runtime().block_on(window.next(0)) else { panic!("no segment") };
    let shown = String::from_utf8_lossy(&sealed.lines);
    assert!(!shown.contains("TUFSS0VS") && !shown.contains("trusted.secret"), "{shown}");
    let items: Vec<Item> = shown
        .split_inclusive('\n')
        .filter_map(|line| if let Line::Item(item) = Line::parse(line.as_bytes()).expect("line") { Some(*item) } else { None })
        .collect();
    let said: Vec<_> = items.iter().map(|i| (i.status, i.facts.get("xattrs_left_out").map(String::as_str))).collect();
    assert_eq!(said, [(Status::Collected, None), (Status::Collected, Some("1")), (Status::Skipped, Some("1"))]);
    let mut plain = Vec::new();
    age::decrypt(&sealed.bytes, 1, &[identity], &mut plain).expect("a recipient's");
    let (mut parser, mut contents) = (Parser::new(), Contents::default());
    segment::decode(&plain, &mut |raw: &[u8]| parser.push(raw, &mut contents)).expect("decodes");
    assert_eq!(contents.ended[0].0.head.xattrs, BTreeMap::from([("trusted.secret".to_owned(), b"MARKER".to_vec())]));
}
