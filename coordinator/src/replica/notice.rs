//! What coordinators tell each other. Hints, nothing more: each says where to look, and whoever missed one finds the same by
//! the timers. They come through the database, so they are checked like everything from outside.

use exhibit_evidence::id::{AgentId, CollectionId};
use exhibit_evidence::layout::LogName;
use exhibit_evidence::text::one_line;
use serde::{Deserialize, Serialize};

use crate::catalog::peers::NOTICE_BYTES_MAX;
use crate::progress::Live;

/// A hint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Notice {
    /// Something about this collection changed.
    Changed {
        /// The collection.
        collection: CollectionId,
    },
    /// What the agent says about a running collection, and why its upload waits, if it does.
    Live {
        /// The collection.
        collection: CollectionId,
        /// Its agent.
        agent: AgentId,
        /// What it says; for display only.
        live: Live,
        /// Why the upload waits.
        paused: Option<String>,
    },
    /// Who writes objects of this collection is asked to end, because its end is to be written or its upload goes on elsewhere.
    Yield {
        /// The collection.
        collection: CollectionId,
    },
    /// A log has new records.
    Grown {
        /// The case, or none for the deployment's log.
        case: Option<exhibit_evidence::id::CaseId>,
    },
    /// A peer was revoked: its connections are to be ended.
    Revoked {
        /// What its connections are known by: its name in certificates, and a person's key behind it.
        name: String,
    },
    /// The agent's process is connected to the sender now.
    Moved {
        /// The agent.
        agent: AgentId,
        /// The agent's process.
        instance: [u8; 16],
    },
    /// Who has this agent's session is to ask for a sign of life.
    Prove {
        /// The agent.
        agent: AgentId,
    },
    /// The agent's session at the sender gave one.
    Alive {
        /// The agent.
        agent: AgentId,
    },
}

#[derive(Serialize, Deserialize)]
struct Letter {
    from: i32,
    notice: Notice,
}

/// Characters of an agent's text in a notice; two of them fit, whatever their characters are.
const TEXT_CHARS_MAX: usize = 800;

impl Notice {
    /// The name of a log as a notice.
    #[must_use]
    pub fn grown(name: &LogName) -> Self {
        Self::Grown {
            case: match name {
                LogName::Case(case) => Some(case.clone()),
                LogName::Deployment => None,
            },
        }
    }

    /// As it travels; `None` when it does not fit, which only words of an agent could bring about.
    #[must_use]
    pub fn to_text(&self, from: i32) -> Option<String> {
        let text = serde_json::to_string(&Letter { from, notice: self.bounded() }).ok()?;
        (text.len() <= NOTICE_BYTES_MAX).then_some(text)
    }

    /// What came, and from whom. `None` for what this version does not know.
    #[must_use]
    pub fn parse(text: &str) -> Option<(i32, Self)> {
        if text.len() > NOTICE_BYTES_MAX {
            return None;
        }
        let letter: Letter = serde_json::from_str(text).ok()?;
        Some((letter.from, letter.notice.bounded()))
    }

    fn bounded(&self) -> Self {
        match self {
            Self::Live { collection, agent, live, paused } => Self::Live {
                collection: collection.clone(),
                agent: agent.clone(),
                live: Live { capture: one_line(&live.capture, 200), current: one_line(&live.current, TEXT_CHARS_MAX), ..live.clone() },
                paused: paused.as_ref().map(|why| one_line(why, TEXT_CHARS_MAX)),
            },
            Self::Revoked { name } => Self::Revoked { name: one_line(name, 1_000) },
            other => other.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn live() -> Notice {
        let live = Live { capture: "files".to_owned(), items: 3, raw_bytes: 9, expected_raw_bytes: 0, current: "\\\"\u{1}".repeat(3_000) };
        Notice::Live {
            collection: CollectionId::from_digest(&exhibit_evidence::Digest::of(b"c")),
            agent: AgentId::new(1, [1; 10]),
            live,
            paused: Some("é".repeat(4_000)),
        }
    }

    #[test]
    fn every_notice_fits_and_comes_back() {
        let text = live().to_text(7).expect("it fits");
        let (from, back) = Notice::parse(&text).expect("a notice");
        assert_eq!((from, back.to_text(7)), (7, Some(text)));
        let grown = Notice::grown(&LogName::Deployment);
        assert_eq!(Notice::parse(&grown.to_text(-1).expect("short")), Some((-1, grown)));
    }

    proptest! {
        #[test]
        fn what_comes_is_bounded_whatever_it_is(text in ".{0,300}", cut in 0_usize..400) {
            let _ = Notice::parse(&text);
            let real = live().to_text(1).expect("it fits");
            let end = (0..=cut.min(real.len())).rev().find(|n| real.is_char_boundary(*n)).unwrap_or(0);
            prop_assert_eq!(Notice::parse(&real[..end]), None);
        }
    }
}
