use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use exhibit_evidence::Digest;
use exhibit_evidence::key::SigningKey;

use super::*;
use crate::store::{Answer, PAGE_ENTRIES_MAX, Page, Payload, Stored};

/// A store of many objects, which it makes up when they are listed. Every `lacks`th is not there.
#[derive(Debug)]
struct Listed {
    objects: usize,
    lacks: usize,
    pages: AtomicUsize,
}

impl Listed {
    fn of(objects: usize, lacks: usize) -> Self {
        Self { objects, lacks, pages: AtomicUsize::new(0) }
    }
}

impl Store for Listed {
    fn describe(&self) -> String {
        "a listing".to_owned()
    }

    fn put_new<'a>(&'a self, _: &'a str, _: Payload, _: Digest) -> Answer<'a, Stored> {
        unreachable!("only listed")
    }

    fn put_head<'a>(&'a self, _: &'a str, _: Bytes) -> Answer<'a, ()> {
        unreachable!("only listed")
    }

    fn get<'a>(&'a self, _: &'a str, _: u64) -> Answer<'a, Bytes> {
        unreachable!("only listed")
    }

    fn get_range<'a>(&'a self, _: &'a str, _: Range<u64>) -> Answer<'a, Bytes> {
        unreachable!("only listed")
    }

    fn size<'a>(&'a self, _: &'a str) -> Answer<'a, u64> {
        unreachable!("only listed")
    }

    fn list<'a>(&'a self, folder: &'a str, after: Option<&'a str>) -> Answer<'a, Page> {
        self.pages.fetch_add(1, Ordering::Relaxed);
        let from = after.and_then(|name| name.rsplit('/').next()?.parse::<usize>().ok()).map_or(0, |n| n + 1);
        let modified = Timestamp::from_unix_s(0);
        let entry = |n: usize| Entry { name: format!("{folder}/{n:010}"), size: 1, modified };
        let mut rest = (from..self.objects).filter(|n| n % self.lacks != self.lacks - 1);
        let entries: Vec<Entry> = rest.by_ref().take(PAGE_ENTRIES_MAX).map(entry).collect();
        let more = rest.next().is_some();
        Box::pin(async move { Ok(Page { entries, more }) })
    }

    fn folders<'a>(&'a self, _: &'a str) -> Answer<'a, Vec<String>> {
        Box::pin(async move { Ok((0..self.objects).map(|n| n.to_string()).collect()) })
    }

    fn destroy<'a>(&'a self, _: &'a str) -> Answer<'a, ()> {
        unreachable!("only listed")
    }

    fn free_bytes(&self) -> Answer<'_, Option<u64>> {
        Box::pin(async { Ok(None) })
    }
}

#[tokio::test]
async fn of_any_number_of_objects_a_page_of_each_store_is_held() {
    // Heads that witnesses vouch for as well: one each in the copy is missing.
    for folder in ["cases/a/collections", "cases/a/log/cosigned/0a1b2c3d"] {
        let objects = 300_000;
        let (first, copy) = (Listed::of(objects, usize::MAX), Listed::of(objects, 1_000));
        let mut differences = Differences::below(folder, &first, &copy);
        let (mut missing, mut held) = (0, 0);
        while let Some(difference) = differences.next().await.expect("listed") {
            assert!(matches!(difference, Difference::Missing(_) | Difference::Head(_, None)), "{difference:?}");
            missing += 1;
            held = held.max(differences.first.page.len() + differences.copy.page.len());
        }
        assert_eq!(missing, objects / 1_000);
        assert!(held <= 2 * PAGE_ENTRIES_MAX, "{held} names were held at once");
        let pages = first.pages.load(Ordering::Relaxed) + copy.pages.load(Ordering::Relaxed);
        assert_eq!(pages, 2 * objects / PAGE_ENTRIES_MAX, "each was listed once");
    }
}

#[tokio::test]
async fn of_too_many_cases_nothing_is_compared() {
    let (first, copy) = (Listed::of(3, usize::MAX), Listed::of(CASES_MAX + 1, usize::MAX));
    assert_eq!(folders(&first, &first).await.expect("few").len(), 4, "the deployment's folder, and each case once");
    assert_eq!(folders(&first, &copy).await.expect_err("many").kind(), Kind::Damaged);
}

#[test]
fn only_an_earlier_head_of_the_same_log_is_behind() {
    let key = SigningKey::from_seed(&[7; 32]);
    let head = |origin: &str, size: u64, root: &[u8], key: &SigningKey| {
        Checkpoint { origin: origin.to_owned(), size, root: Digest::of(root) }.sign(key)
    };
    let here = head("a", 5, b"5", &key);
    let public = key.public();
    for (there, with_key, without) in [
        (here.clone(), HeadIs::Same, HeadIs::Same),
        (head("a", 4, b"4", &key), HeadIs::Older, HeadIs::Older),
        (head("a", 4, b"4", &SigningKey::from_seed(&[8; 32])), HeadIs::Wrong, HeadIs::Older),
        (head("a", 5, b"other", &key), HeadIs::Wrong, HeadIs::Wrong),
        (head("a", 6, b"6", &key), HeadIs::Wrong, HeadIs::Wrong),
        (head("b", 4, b"4", &key), HeadIs::Wrong, HeadIs::Wrong),
        (b"garbage".to_vec(), HeadIs::Wrong, HeadIs::Wrong),
    ] {
        assert_eq!((judge(&here, &there, Some(&public)), judge(&here, &there, None)), (with_key, without));
    }
}
