//! Orders that wait for a second person. Which do is said by the record that opened their case; everything that asks (the
//! coordinator before an offer, the agent before it obeys, the verifier afterwards) asks here.

use std::collections::{BTreeMap, BTreeSet};

use super::{Breach, Rule, breach, reason, require, shown};
use crate::digest::Digest;
use crate::id::{CollectionId, OrderId};
use crate::record::{Approval, Order};
use crate::time::Timestamp;

/// Who asked for something that a second person is to approve, and when by that person's clock.
pub(super) type Request<'a> = (&'a str, Timestamp);

/// What an approval must be to the order that it approves, apart from who signed it.
///
/// # Errors
/// [`Breach`]
pub fn check_order_approval(digest: Digest, order: &Order, approval: &Approval) -> Result<(), Breach> {
    reason(&approval.reason)?;
    require(approval.case == order.case, Rule::Predecessor, || format!("it is of case {}, the order of {}", approval.case, order.case))?;
    require(approval.predecessor == digest, Rule::Predecessor, || format!("it approves record {}, not {digest}", approval.predecessor))?;
    by_another((&order.issued_by, order.issued_at), approval, Rule::OrderSecondPerson)?;
    in_time(order.expires_at, approval)
}

/// Dated while the order could still be begun: nobody revives one that has expired.
fn in_time(expires_at: Timestamp, p: &Approval) -> Result<(), Breach> {
    require(p.approved_at < expires_at, Rule::ApprovalLate, || {
        format!(
            "is dated {}, when the order that it approves had expired ({expires_at}); a new order is what can be approved",
            p.approved_at
        )
    })
}

/// Signed by somebody else, and not dated before what it approves: nobody agrees to what does not exist yet.
pub(super) fn by_another((asked_by, asked_at): Request<'_>, p: &Approval, rule: Rule) -> Result<(), Breach> {
    require(asked_by != p.approved_by, rule, || format!("{} asked for it and approves it", shown(&p.approved_by)))?;
    require(p.approved_at >= asked_at, Rule::ApprovalEarly, || {
        format!("is dated {}, before what it approves ({asked_at}); one of the two clocks is wrong", p.approved_at)
    })
}

/// An order of a case in which each needs an approval.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ordered {
    id: OrderId,
    by: String,
    at: Timestamp,
    expires_at: Timestamp,
    approval: Option<(Digest, Timestamp)>,
    /// The collections of the order that no seal has ended.
    open: BTreeSet<CollectionId>,
}

impl Ordered {
    /// Nobody approved it, and it is not at its end.
    fn waits(&self) -> bool {
        self.approval.is_none() && !self.open.is_empty()
    }
}

/// The orders of one case that need an approval; none in a case that was not opened so. Some 250 bytes each, and 50 for each
/// agent that it names until that one's collection is sealed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Orders {
    /// Set by case-opened.
    pub two_person: bool,
    /// In a closed case nothing waits any more: nobody can approve it there.
    pub closed: bool,
    known: BTreeMap<Digest, Ordered>,
}

impl Orders {
    pub fn take(&mut self, digest: Digest, p: &Order) {
        if self.two_person {
            let ordered = Ordered {
                id: p.order.clone(),
                by: p.issued_by.clone(),
                at: p.issued_at,
                expires_at: p.expires_at,
                approval: None,
                open: p.targets.iter().map(|agent| CollectionId::of(&digest, agent)).collect(),
            };
            self.known.entry(digest).or_insert(ordered);
        }
    }

    /// A seal ended a collection: cancelled and expired ones need no approval any more.
    pub fn ended(&mut self, collection: &CollectionId) {
        if self.two_person {
            for ordered in self.known.values_mut() {
                ordered.open.remove(collection);
            }
        }
    }

    pub fn find(&self, order: &Digest) -> Option<(&OrderId, Timestamp)> {
        self.known.get(order).map(|o| (&o.id, o.expires_at))
    }

    pub fn awaits(&self, order: &Digest) -> bool {
        self.known.get(order).is_some_and(|o| o.approval.is_none())
    }

    pub fn approval_of(&self, order: &Digest) -> Option<Digest> {
        self.known.get(order).and_then(|o| o.approval).map(|(digest, _)| digest)
    }

    pub fn approved_at(&self, order: &Digest) -> Option<Timestamp> {
        self.known.get(order).and_then(|o| o.approval).map(|(_, at)| at)
    }

    pub fn waiting(&self, now: Timestamp) -> Vec<(Digest, OrderId)> {
        let due = |o: &Ordered| !self.closed && o.waits() && now < o.expires_at;
        self.known.iter().filter(|(_, o)| due(o)).map(|(digest, o)| (*digest, o.id.clone())).collect()
    }

    pub fn approve(&mut self, digest: Digest, p: &Approval) -> Result<(), Breach> {
        let Some(ordered) = self.known.get_mut(&p.predecessor).filter(|o| o.approval.is_none()) else {
            return breach(Rule::Predecessor, format!("record {} is nothing that waits for an approval", p.predecessor));
        };
        by_another((&ordered.by, ordered.at), p, Rule::OrderSecondPerson)?;
        in_time(ordered.expires_at, p)?;
        ordered.approval = Some((digest, p.approved_at));
        Ok(())
    }
}
