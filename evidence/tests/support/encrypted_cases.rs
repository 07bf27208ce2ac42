//! Cases that are encrypted to two recipients, honest and not.

use exhibit_evidence::Digest;
use exhibit_evidence::manifest::Line;
use exhibit_evidence::verify::{self, Options, Verdict};

use super::support::cases::item;
use super::support::encrypted::{How, good_7, identity, recipients};
use super::support::stream::Stream;
use super::support::{Case, Memory, anchor, check, codes};

fn options(of: &[u8]) -> Options {
    Options { identities: of.iter().map(|n| identity(*n)).collect(), ..Options::default() }
}

/// A case that is encrypted to identities 1 and 2, with one stream; `whole` when its agent ended it.
fn case(ended: bool, encrypted: bool, tweak: &dyn Fn(Stream) -> Stream) -> Case {
    good_7(&How { ended, encrypted, stream: tweak, ..How::default() })
}

#[test]
fn without_an_identity_it_is_said_what_was_not_checked() {
    let case = case(true, true, &|s| s);
    let blind = check(&case.objects, &options(&[]));
    assert_eq!((blind.verdict, codes(&blind)), (Verdict::SoundAsFarAsReadable, vec!["stream.encrypted"]), "{:#?}", blind.findings);
    assert_eq!((blind.counts.items, blind.counts.items_verified, blind.counts.items_unchecked, blind.counts.raw_bytes), (4, 1, 3, 0));
    for holder in [&[1][..], &[2], &[3, 2]] {
        let seen = check(&case.objects, &options(holder));
        assert_eq!((seen.verdict, codes(&seen)), (Verdict::Sound, vec![]), "{:#?}", seen.findings);
        assert_eq!((seen.counts.items_verified, seen.counts.items_unchecked), (4, 0));
        assert!(seen.counts.raw_bytes > 5_000);
    }
    let stranger = verify::verify(&Memory(&case.objects), &anchor(), &options(&[3]), &mut |_| {}).expect_err("opens nothing");
    assert!(stranger.kind() == std::io::ErrorKind::InvalidInput && stranger.to_string().contains("opens nothing"), "{stranger}");
}

#[test]
fn what_was_not_encrypted_as_the_case_demands_is_found() {
    let to_others = case(true, true, &|s| s.really_to(recipients(&[4, 5])));
    // From outside it looks right; a recipient cannot open it.
    assert_eq!(codes(&check(&to_others.objects, &options(&[]))), ["stream.encrypted"]);
    let seen = check(&to_others.objects, &options(&[1]));
    assert!(seen.verdict == Verdict::Unsound && codes(&seen).contains(&"segment.encryption"), "{:#?}", seen.findings);
    let to_one = case(true, true, &|s| s.really_to(recipients(&[1])));
    assert!(codes(&check(&to_one.objects, &options(&[]))).contains(&"segment.encryption"));
    // What the first one opens the second one cannot, and whoever has the first identity alone does not see it.
    let to_half = case(true, true, &|s| s.really_to(recipients(&[1, 5])));
    let seen = check(&to_half.objects, &options(&[1]));
    assert_eq!((seen.verdict, seen.opened_with.as_slice()), (Verdict::Sound, recipients(&[1]).as_slice()));
    // Who is named as having opened it is who opened all of it.
    let none = Vec::new();
    for (case, given, opened) in [
        (&to_half, options(&[2]), &none),
        (&to_half, options(&[1, 2]), &vec![*identity(1).recipient()]),
        (&to_others, options(&[1]), &none),
    ] {
        let seen = check(&case.objects, &given);
        assert!(codes(&seen).contains(&"segment.encryption"), "{:#?}", seen.findings);
        assert_eq!(&seen.opened_with, opened);
    }
    let plain = case(true, false, &|s| s);
    let seen = check(&plain.objects, &options(&[]));
    for code in ["receipt.contents", "manifest.header", "segment.encryption"] {
        assert!(codes(&seen).contains(&code), "{code}: {:#?}", seen.findings);
    }
}

/// A line is readable: what belongs into the encrypted part alone is found in it, with an identity and without.
#[test]
fn attributes_in_a_line_of_an_encrypted_stream_are_found() {
    let open: &dyn Fn(&mut Vec<Line>) = &|lines| {
        if let Some(meta) = &mut item(lines, 1).meta {
            meta.xattrs.insert("security.selinux".to_owned(), "AQAAAg==".to_owned());
        }
    };
    let case = good_7(&How { lines: open, ..How::default() });
    for given in [options(&[]), options(&[1])] {
        let seen = check(&case.objects, &given);
        assert!(seen.verdict == Verdict::Unsound && codes(&seen).contains(&"item.attributes"), "{:#?}", seen.findings);
    }
}

#[test]
fn a_segment_that_lost_its_lines_is_noted() {
    let case = case(false, true, &Stream::and_one_undescribed);
    let blind = check(&case.objects, &options(&[]));
    let expected = (Verdict::SoundAsFarAsReadable, vec!["segment.undescribed", "stream.encrypted"]);
    assert_eq!((blind.verdict, codes(&blind)), expected, "{:#?}", blind.findings);
    let seen = check(&case.objects, &options(&[1]));
    assert_eq!((seen.verdict, codes(&seen)), (Verdict::Sound, vec!["segment.undescribed", "stream.cut"]), "{:#?}", seen.findings);
}

#[test]
fn a_lie_about_contents_shows_to_a_recipient_alone() {
    let other: &dyn Fn(&mut Vec<Line>) = &|lines| item(lines, 1).sha256 = Some(Digest::of(b"another"));
    let case = good_7(&How { lines: other, ..How::default() });
    let blind = check(&case.objects, &options(&[]));
    assert_eq!((blind.verdict, codes(&blind)), (Verdict::SoundAsFarAsReadable, vec!["stream.encrypted"]), "{:#?}", blind.findings);
    let seen = check(&case.objects, &options(&[1]));
    assert!(seen.verdict == Verdict::Unsound && codes(&seen).contains(&"item.digest"), "{:#?}", seen.findings);
}
