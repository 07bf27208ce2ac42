//! What hinders a collection that was offered and does not run here: its coordinator is told, for whoever waits for it. There is no
//! message of its own for it. Progress without a capture is one: nothing is read then, so what it says is why.

use exhibit_evidence::CollectionId;
use exhibit_evidence::text::one_line;
use exhibit_proto::agent::v1::{Progress, SessionRequest, session_request};

use super::link::request;
use crate::pipeline::NOTE_CHARS_MAX;

/// Collections of which it is remembered, to be said in the next session again: half of what the outbox takes.
const HINDERED_MAX: usize = 8;

/// Those that are hindered, the newest last.
#[derive(Debug, Default)]
pub(super) struct Hindered(Vec<(CollectionId, String)>);

impl Hindered {
    /// Remembers why a collection does not run, until it does or is closed. Gives what is said of it.
    pub fn note(&mut self, collection: &CollectionId, why: &str) -> SessionRequest {
        self.over(collection.as_str());
        if self.0.len() >= HINDERED_MAX {
            self.0.remove(0);
        }
        let why = one_line(why, NOTE_CHARS_MAX);
        let said = message(collection, &why);
        self.0.push((collection.clone(), why));
        said
    }

    /// It runs, or nobody waits for it any more.
    pub fn over(&mut self, collection: &str) {
        self.0.retain(|(hindered, _)| hindered.as_str() != collection);
    }

    /// What is said in a new session.
    pub fn all(&self) -> impl Iterator<Item = SessionRequest> {
        self.0.iter().map(|(collection, why)| message(collection, why))
    }
}

fn message(collection: &CollectionId, why: &str) -> SessionRequest {
    let progress = Progress { collection: collection.to_string(), current: why.to_owned(), ..Progress::default() };
    request(session_request::Kind::Progress(progress))
}

#[cfg(test)]
mod tests {
    use super::*;
    use exhibit_evidence::Digest;

    fn said(message: SessionRequest) -> Progress {
        match message.kind {
            Some(session_request::Kind::Progress(progress)) => progress,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_said_is_bounded_and_escaped_and_ends() {
        let collection = |n: usize| CollectionId::from_digest(&Digest::of(&n.to_le_bytes()));
        let mut hindered = Hindered::default();
        let progress = said(hindered.note(&collection(0), &format!("a\nb\x1b[2J{}", "\u{1f600}".repeat(400))));
        assert!(progress.current.starts_with("a\\nb\\x1b[2J\u{1f600}") && progress.current.len() <= 512, "{progress:?}");
        assert!(progress.capture.is_empty());
        for n in 0..2 * HINDERED_MAX {
            drop(hindered.note(&collection(n), "full"));
            drop(hindered.note(&collection(n), "still full"));
        }
        assert_eq!(hindered.all().count(), HINDERED_MAX, "each once, the oldest are forgotten");
        assert!(hindered.all().all(|message| said(message).current == "still full"));
        hindered.over(collection(2 * HINDERED_MAX - 1).as_str());
        assert_eq!(hindered.all().count(), HINDERED_MAX - 1);
    }
}
