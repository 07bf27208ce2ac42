//! What one signed record says of several incidents: the words of each, so that nobody hides what he did to one object by doing it to
//! another.

use exhibit_evidence::{Digest, Hasher};

/// Different words that are named; the rest is counted, and the digest speaks for all.
const NAMED_MAX: usize = 20;
/// Bytes of them, so that the record fits.
const BYTES_MAX: usize = 12_000;

/// Gathers the words of incidents of one kind about one subject, the oldest first.
#[derive(Debug)]
pub struct Names {
    named: Vec<(String, u64)>,
    bytes: usize,
    told: u64,
    more: u64,
    all: Hasher,
}

impl Names {
    /// None yet.
    pub fn new() -> Self {
        Self { named: Vec::new(), bytes: 0, told: 0, more: 0, all: Hasher::new() }
    }

    /// The next one.
    pub fn add(&mut self, detail: &str) {
        self.told = self.told.saturating_add(1);
        self.all.update(detail.as_bytes());
        self.all.update(b"\n");
        if let Some((_, times)) = self.named.iter_mut().find(|(named, _)| named == detail) {
            *times = times.saturating_add(1);
            return;
        }
        let bytes = self.bytes.saturating_add(detail.len());
        if self.named.len() < NAMED_MAX && bytes <= BYTES_MAX {
            self.bytes = bytes;
            self.named.push((detail.to_owned(), 1));
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    /// The newest first, then all from the oldest on.
    pub fn text(self, newest: &str) -> String {
        if self.told <= 1 {
            return newest.to_owned();
        }
        let mut parts = Vec::with_capacity(self.named.len());
        for (n, (named, times)) in self.named.iter().enumerate() {
            let times = if *times > 1 { format!(" ({times} times)") } else { String::new() };
            parts.push(format!("({}) {named}{times}", n.saturating_add(1)));
        }
        if self.more > 0 {
            parts.push(format!("and {} more", self.more));
        }
        let digest: Digest = self.all.finish();
        format!("{newest} [{} in all, the oldest first: {}; SHA-256 of all, each with a line feed: {digest}]", self.told, parts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(details: &[String]) -> String {
        let mut names = Names::new();
        for detail in details {
            names.add(detail);
        }
        names.text(details.last().expect("one"))
    }

    #[test]
    fn each_is_named_and_none_hides_another() {
        let details = ["a is gone", "b is gone", "b is gone"].map(str::to_owned);
        assert_eq!(text(&details[..1]), "a is gone");
        let digest = Digest::of(b"a is gone\nb is gone\nb is gone\n");
        let says = format!(
            "b is gone [3 in all, the oldest first: (1) a is gone; (2) b is gone (2 times); SHA-256 of all, each with a line feed: {digest}]"
        );
        assert_eq!(text(&details), says);
    }

    #[test]
    fn whatever_comes_the_record_fits() {
        let details: Vec<String> = (0..3_000).map(|n| format!("{n} {}", "\\".repeat(2_000))).collect();
        let text = text(&details);
        assert!(text.len() < 16_000 && text.contains("(5) 4 ") && text.contains("and 2995 more"), "{}", text.len());
    }
}
