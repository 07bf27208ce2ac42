//! What the tests of real processes share: a fleet of one agent, a source, an order that lasts a while, and the checks.

use std::path::PathBuf;
use std::time::Duration;

use exhibit_evidence::Digest;
use exhibit_tests::{Agent, Fleet, wait_until};

use crate::checks::{Facts, Stored, contents_of};

/// Two full segments and a rest.
const NOISE_BYTES: usize = 18 << 20;
/// A collection ends within this time after the last fault; the longest wait of either program is 15 seconds.
const CLOSED_WITHIN: Duration = Duration::from_mins(2);

/// A fleet of one agent with something to take.
pub struct Site {
    /// The fleet.
    pub fleet: Fleet,
    /// Its agent.
    pub agent: Agent,
    /// The case.
    pub case: String,
    source: tempfile::TempDir,
    facts: Facts,
}

impl Site {
    /// Around a fleet whose coordinator runs.
    pub fn new(fleet: Fleet) -> Self {
        let source = tempfile::tempdir().expect("temporary folder");
        exhibit_tests::awkward_tree_of(source.path(), NOISE_BYTES, 200 << 10);
        let facts = exhibit_tests::tree_facts(source.path()).into_iter().map(|(name, (size, _, _, sha256))| (name, (size, sha256)));
        let facts = facts.collect();
        let agent = fleet.agent();
        let case = fleet.open_case();
        Self { fleet, agent, case, source, facts }
    }

    /// Orders the source at this send rate (a number with K or M); the collection.
    pub fn order(&self, send_rate: &str) -> String {
        let capture = format!("files:paths={}/**", self.source.path().display());
        self.fleet.order(&self.case, &self.agent, &["--capture", &capture, "--send-rate", send_rate])
    }

    /// The collection's folder in the store.
    pub fn collection_dir(&self, collection: &str) -> PathBuf {
        self.fleet.case_dir(&self.case).join("collections").join(collection)
    }

    /// Waits until so many segments of the first stream are in the store.
    pub fn wait_segments(&self, collection: &str, count: u32) {
        let last = self.collection_dir(collection).join(format!("s1/{:08}.tar.zst", count - 1));
        wait_until(Duration::from_mins(1), "segments are stored", || last.is_file());
    }

    /// The collection must end sealed by itself, sound, with the source's digests, and with every acknowledged segment.
    pub fn check(&self, collection: &str, what: &str) -> Stored {
        let ended = self.fleet.wait_closed(collection, CLOSED_WITHIN);
        let logs = || format!("{what}: {ended}\n{}\n{}", self.fleet.coordinator_log(), self.agent.process().said());
        assert_eq!(ended["state"], "sealed", "{}", logs());
        let verdict = self.fleet.verify(&self.case);
        assert_eq!(verdict.code, 0, "{:#}\n{}", verdict.report, logs());
        self.promises(collection).unwrap_or_else(|e| panic!("{e}\n{}", logs()));
        contents_of(&self.collection_dir(collection), self.source.path(), &self.facts).unwrap_or_else(|e| panic!("{e}\n{}", logs()))
    }

    /// What the agent's log says was acknowledged is in the store as it was sent.
    fn promises(&self, collection: &str) -> Result<(), String> {
        let log = self.agent.process().said();
        let field = |line: &str, key: &str| {
            line.split_once(&format!("{key}=")).map(|(_, v)| v.split_whitespace().next().unwrap_or_default().to_owned())
        };
        let of_it = |word: &str| -> Vec<&str> { log.lines().filter(|l| l.contains(word) && l.contains(collection)).collect() };
        // With the level: another message says which segment "was never acknowledged".
        let acknowledged = of_it("DEBUG acknowledged ");
        if acknowledged.is_empty() {
            return Err("the agent's log names no acknowledgement".to_owned());
        }
        for line in acknowledged {
            let (stream, segment) = (field(line, "stream").unwrap_or_default(), field(line, "segment").unwrap_or_default());
            let here = |l: &&&str| field(l, "stream").as_deref() == Some(&stream) && field(l, "segment").as_deref() == Some(&segment);
            let sent = of_it("DEBUG sending ").iter().rfind(here).and_then(|l| field(l, "sha256"));
            let file = self
                .collection_dir(collection)
                .join(format!("s{stream}/{:08}.tar.zst", segment.parse::<u32>().map_err(|e| e.to_string())?));
            let bytes = std::fs::read(&file).map_err(|e| format!("acknowledged and lost: {}: {e}", file.display()))?;
            // An agent that died and goes on in the same stream may hear of segments that its first life sent.
            if sent.is_some_and(|sent| sent != Digest::of(&bytes).to_string()) {
                return Err(format!("acknowledged and altered: {}", file.display()));
            }
        }
        Ok(())
    }
}
