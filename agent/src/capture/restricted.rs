//! Captures on a host whose policy keeps values of environment variables back (`redact_environ`): each hears of it, and what
//! holds such values all the same says so in its item. An image of the memory or of a disk is taken as it is or not at all:
//! a host that must not give it does not allow that capture.

use super::{Capture, Content, Meta, Moment, NewItem, Output, Param, Params, Status, Stop};
use crate::order::Policy;

/// The fact's name.
const FACT: &str = "not_redacted";
const OF_MEMORY: &str =
    "an image of all memory: values of environment variables that this host's policy keeps back elsewhere (redact_environ) are in it";
const OF_DISKS: &str = "a disk as it is: swap and files on it can hold values of environment variables that this host's policy keeps back elsewhere (redact_environ)";

/// The same capture where the policy keeps nothing back, else one that says what it cannot keep back.
#[must_use]
pub fn by(policy: &Policy, capture: Box<dyn Capture>) -> Box<dyn Capture> {
    if policy.redact_environ.is_empty() { capture } else { Box::new(Restricted(capture)) }
}

struct Restricted(Box<dyn Capture>);

impl Capture for Restricted {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn params(&self) -> &'static [Param] {
        self.0.params()
    }

    fn check(&self, params: &Params) -> Result<(), String> {
        self.0.check(params)
    }

    fn restrict(&mut self, policy: &Policy) -> Result<(), String> {
        self.0.restrict(policy)
    }

    fn run(&self, params: &Params, out: &mut dyn Output) -> Result<(), Stop> {
        self.0.run(params, &mut Telling { out, name: self.0.name() })
    }

    fn reads_again(&self) -> bool {
        self.0.reads_again()
    }
}

/// The output of such a capture.
struct Telling<'a> {
    out: &'a mut dyn Output,
    name: &'static str,
}

impl Telling<'_> {
    fn says(&self, item: &NewItem, content: &Content<'_>) -> Option<&'static str> {
        match (self.name, content) {
            ("memory", Content::Source { .. }) if item.path.as_bytes().ends_with(b".lime") => Some(OF_MEMORY),
            ("disk", Content::Source { .. }) => Some(OF_DISKS),
            _ => None,
        }
    }
}

impl Output for Telling<'_> {
    fn put(&mut self, item: NewItem, content: Content<'_>) -> Result<Status, Stop> {
        let item = match self.says(&item, &content) {
            Some(said) => item.with_fact(FACT, said),
            None => item,
        };
        self.out.put(item, content)
    }

    fn already(&self, path: &[u8], meta: &Meta) -> Option<Status> {
        self.out.already(path, meta)
    }

    fn began(&self) -> Moment {
        self.out.began()
    }

    fn checkpoint(&mut self) -> Result<(), Stop> {
        self.out.checkpoint()
    }

    fn note(&mut self, current: &str) {
        self.out.note(current);
    }

    fn expect(&mut self, bytes: u64) {
        self.out.expect(bytes);
    }

    fn keep_room(&mut self, bytes: u64) -> bool {
        self.out.keep_room(bytes)
    }

    fn now(&self) -> Moment {
        self.out.now()
    }

    fn ran(&mut self, command: String) {
        self.out.ran(command);
    }

    fn redacts_environment(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::testing::Memory;
    use crate::capture::{Kind, Source, evidence_path};

    struct Zeros;

    impl Source for Zeros {
        fn read_at(&mut self, _offset: u64, buf: &mut [u8]) -> std::io::Result<usize> {
            Ok(buf.len())
        }
    }

    struct Fake(&'static str);

    impl Capture for Fake {
        fn name(&self) -> &'static str {
            self.0
        }

        fn run(&self, _params: &Params, out: &mut dyn Output) -> Result<(), Stop> {
            for path in ["memory.lime", "/dev/sda", "other"] {
                let item = NewItem::new(evidence_path(path), Kind::File, out.now(), "test");
                out.put(item, Content::Source { size: 1, extents: None, source: &mut Zeros })?;
            }
            let told = out.redacts_environment().to_string();
            out.put(NewItem::record("told", out.now(), "test"), Content::Bytes(told.as_bytes())).map(drop)
        }
    }

    fn facts(name: &'static str, policy: &str) -> (Vec<bool>, Vec<u8>) {
        let policy = Policy::parse(policy).expect("policy");
        let out = Memory::run(&*by(&policy, Box::new(Fake(name))), &[]);
        (out.puts.iter().map(|p| p.item.facts.contains_key(FACT)).collect(), out.content("told").to_vec())
    }

    #[test]
    fn images_say_what_is_in_them_although_the_policy_keeps_it_back() {
        let keeps = "redact_environ = [\"*TOKEN*\"]";
        assert_eq!(facts("memory", keeps), (vec![true, false, false, false], b"true".to_vec()));
        assert_eq!(facts("disk", keeps), (vec![true, true, true, false], b"true".to_vec()));
        assert_eq!(facts("files", keeps), (vec![false; 4], b"true".to_vec()));
        assert_eq!(facts("memory", ""), (vec![false; 4], b"false".to_vec()));
    }
}
