//! What the parties of the small case may do wrong while every signature still holds.

use exhibit_evidence::manifest::Line;
use exhibit_evidence::record::{Acquisition, Order, Receipt, Refusal, Seal};

use super::stream::Stream;
use super::{Case, Ordered};

/// A moment in the making of the small case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Open,
    Enrol,
    Order,
    Acquisition,
    Receipt,
    Seal,
    End,
}

/// A change to one thing.
pub type Change<'a, T> = &'a dyn Fn(&mut T);

/// Changes to what is done; the default changes nothing.
pub struct Faults<'a> {
    pub order: &'a dyn Fn(&mut Order),
    pub refusal: &'a dyn Fn(&mut Refusal),
    pub acquisition: &'a dyn Fn(&mut Acquisition),
    pub receipt: &'a dyn Fn(&mut Receipt),
    pub seal: &'a dyn Fn(&mut Seal),
    /// Changes what is captured; digests and totals follow.
    pub stream: &'a dyn Fn(&mut Stream),
    /// Changes the raw tar, end marker included; segments follow, items do not.
    pub raw: Option<Change<'a, Vec<u8>>>,
    /// Changes the manifest; its digest follows, totals in receipt and acquisition do not.
    pub lines: &'a dyn Fn(&mut Vec<Line>),
    /// Called after each step.
    pub at: &'a dyn Fn(&mut Case, Option<&Ordered>, Step),
    /// Steps that are left out.
    pub skip: &'a [Step],
    /// Signs another checkpoint.
    pub checkpoint: Option<&'a dyn Fn(&mut Case)>,
}

impl Default for Faults<'_> {
    fn default() -> Self {
        Self {
            order: &|_| {},
            refusal: &|_| {},
            acquisition: &|_| {},
            receipt: &|_| {},
            seal: &|_| {},
            stream: &|_| {},
            raw: None,
            lines: &|_| {},
            at: &|_, _, _| {},
            skip: &[],
            checkpoint: None,
        }
    }
}

impl Faults<'_> {
    pub fn skips(&self, step: Step) -> bool {
        self.skip.contains(&step)
    }
}
