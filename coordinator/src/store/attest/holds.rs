//! Whether legal holds may be read where none is wanted.

use super::report::DO;
use super::{Pass, UNATTESTED};
use crate::store::vault::{Looked, Version};
use crate::store::{Kind, StoreError, Trouble};

/// Versions of which a pass asks for the hold to see whether one may be read, where the answers before said nothing of that.
const HOLDS_ASKED_MAX: u8 = 3;
/// What is said of a store that answers so each time.
const NOT_THERE: &str = "asked for the hold of versions that it just showed, the store says that they are not there";

impl Pass {
    /// Whether a version is held that shows no hold and is to have none; where that cannot be read what helps. Whatever is answered, a pass
    /// goes on: what is asked beside the evidence stops nobody who looks at it.
    ///
    /// A hold that nobody here asked for shows by being read alone, and a store may leave out what may not be read. So the first answer of a
    /// pass says it for all: a question for each version would double what a pass costs.
    pub(super) async fn ask_hold(&mut self, version: &Version, looked: &Looked) -> Result<bool, String> {
        if let Some(why) = self.holds.unread.clone().filter(|_| self.holds.is_settled()) {
            return Err(why);
        }
        let answer = self.store.vault.hold_of(&version.name, &version.version, looked).await;
        self.holds.note(&answer);
        match answer {
            Ok(held) => Ok(held),
            Err(e) if e.kind() == Kind::NotFound => Ok(false),
            Err(e) => Err(e.remedy().to_owned()),
        }
    }
}

/// Whether legal holds may be read, as far as a pass asked.
#[derive(Debug, Default)]
pub(super) struct Holds {
    /// For how many versions it was asked.
    asked: u8,
    /// What helps where they may not be read, or where it was not answered.
    unread: Option<String>,
}

impl Holds {
    pub(super) const fn is_settled(&self) -> bool {
        self.asked >= HOLDS_ASKED_MAX
    }

    fn note(&mut self, answer: &Result<bool, StoreError>) {
        if self.is_settled() {
            return;
        }
        self.asked = self.asked.saturating_add(1);
        match answer {
            Ok(_) => *self = Self { asked: HOLDS_ASKED_MAX, unread: None },
            // Destroyed since it was looked at; hardly so each time.
            Err(e) if e.kind() == Kind::NotFound => {
                if self.is_settled() {
                    self.unread = Some(NOT_THERE.to_owned());
                }
            }
            // The store was disturbed, which says nothing of rights.
            Err(e) if e.is_passing() => {}
            // Without the object's name: the next pass may begin at another one, and it is the same.
            Err(e) => {
                self.asked = if e.says_nothing() { self.asked } else { HOLDS_ASKED_MAX };
                self.unread = Some(e.remedy().to_owned());
            }
        }
    }

    /// That holds may not be read, of a store in `place`: under a name of its own, so that a pass over a case says it as one over everything.
    pub(super) fn told(&self, place: &str) -> Option<Trouble> {
        let why = self.unread.as_ref()?;
        let detail = format!("legal holds may not be read: {why} ({DO})");
        Some(Trouble { kind: UNATTESTED, subject: format!("{place} (legal holds)"), detail })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_says_nothing_of_rights_and_takes_nothing_back() {
        let passing = || Err(StoreError::new(Kind::Retry, "503", "check the store; it is tried again"));
        let unheard = || Err(StoreError::unheard("401", "renew the credentials"));
        let refused = || Err(StoreError::new(Kind::Denied, "403", "give the right"));
        let cases = [
            (vec![passing()], None, false),
            (vec![passing(), passing(), passing()], None, true),
            (vec![passing(), refused()], Some("give the right"), true),
            (vec![unheard(), passing(), passing()], Some("renew the credentials"), true),
            (vec![unheard(), passing()], Some("renew the credentials"), false),
            (vec![unheard(), Ok(false)], None, true),
        ];
        for (answers, why, is_settled) in cases {
            let mut holds = Holds::default();
            for answer in &answers {
                holds.note(answer);
            }
            let told = holds.told("s3://bucket").map(|trouble| trouble.detail);
            assert_eq!((told.is_some(), holds.is_settled()), (why.is_some(), is_settled), "{answers:?}: {told:?}");
            assert!(why.is_none_or(|why| told.as_ref().is_some_and(|told| told.contains(why))), "{answers:?}: {told:?}");
        }
    }
}
