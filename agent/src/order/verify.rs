//! The checks of an order, in the order in which they are made.

use std::collections::BTreeSet;

use exhibit_evidence::anchor::Anchor;
use exhibit_evidence::custody;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::record::{CaptureSpec, CaseOpened, KeyRing, Order, Record, TrustError};
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::{AgentId, CollectionId, Timestamp};
use globset::GlobSet;

use super::policy::Policy;
use super::{Code, Offer, Refused};
use crate::budget::Budget;
use crate::capture::{Capture, Chosen, Params, registry, restricted};
use crate::pipeline::StreamFacts;

/// What an order is checked against.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The pinned trust root.
    pub anchor: &'a Anchor,
    /// This agent.
    pub agent: &'a AgentId,
    /// What this host allows.
    pub policy: &'a Policy,
    /// The host's wall clock.
    pub now: Timestamp,
    /// The coordinator's clock minus the host's, if it was measured.
    pub offset_ns: Option<i64>,
    /// Collections that were finished before and whose orders could still be valid.
    pub finished: &'a BTreeSet<CollectionId>,
    /// Of orders that expire by then it was forgotten whether they were executed here.
    pub forgotten: Option<Timestamp>,
}

/// An order that may be executed. Made only by [`verify`].
pub struct Accepted {
    order: Order,
    facts: StreamFacts,
    captures: Vec<Chosen>,
    budget: Budget,
    denied: GlobSet,
}

impl std::fmt::Debug for Accepted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Accepted({} of {})", self.facts.collection, self.order.order)
    }
}

impl Accepted {
    /// The order.
    #[must_use]
    pub const fn order(&self) -> &Order {
        &self.order
    }

    /// The stream that is to be made.
    #[must_use]
    pub const fn facts(&self) -> &StreamFacts {
        &self.facts
    }

    /// The limits that apply.
    #[must_use]
    pub const fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The captures in order of volatility, and the paths that are not given.
    #[must_use]
    pub fn into_parts(self) -> (Order, StreamFacts, Vec<Chosen>, Budget, GlobSet) {
        (self.order, self.facts, self.captures, self.budget, self.denied)
    }
}

/// Clocks of responders and hosts may differ by this much.
const SKEW_S: i64 = 600;

/// Checks an offer completely: signatures from the anchor down, scope, times, replay, the host's policy.
///
/// # Errors
/// [`Refused`] with the first thing that is wrong.
pub fn verify(offer: &Offer, context: &Context<'_>) -> Result<Accepted, Refused> {
    let mut ring = KeyRing::new(context.anchor);
    let order = signed_order(offer, &mut ring)?;
    let opened = check_case(offer, &order, context.anchor, &mut ring)?;
    check_approval(offer, &order, opened.two_person, context.policy.orders.two_person, &mut ring)?;
    check_scope(offer, &order, context)?;
    check_times(&order, context)?;
    if context.finished.contains(&offer.collection) {
        return Err(Refused::new(Code::Replayed, format!("{} was executed and received before", offer.collection)));
    }
    if let Some(until) = context.forgotten.filter(|until| order.expires_at <= *until) {
        let why = format!(
            "it expires at {}, and of orders that expire by {until} this host no longer knows which it executed: its clock was ahead and \
             was set back, or it had very many; sign a new order that expires later",
            order.expires_at
        );
        return Err(Refused::new(Code::Replayed, why));
    }
    let captures = check_captures(&order.captures, context.policy)?;
    let denied =
        context.policy.denied_paths().map_err(|e| Refused::new(Code::Policy, format!("this host's policy cannot be used: {e}")))?;
    let facts = StreamFacts {
        case: order.case.clone(),
        collection: offer.collection.clone(),
        stream: offer.stream,
        agent: context.agent.clone(),
        order: offer.order.digest(),
        encrypt_to: opened.encrypt_to,
    };
    let budget = context.policy.budget(&order.limits);
    Ok(Accepted { order, facts, captures, budget, denied })
}

fn refused_trust(what: &str, error: &TrustError) -> Refused {
    let code = match error {
        TrustError::UnknownKey(_) | TrustError::BadSignature(_) => Code::BadSignature,
        TrustError::Revoked(..) | TrustError::NotAuthorized { .. } => Code::NotAuthorized,
        TrustError::BadRecord(_) => Code::Malformed,
    };
    Refused::new(code, format!("{what}: {error}"))
}

/// The order, if its signature and its signer's whole chain hold.
fn signed_order(offer: &Offer, ring: &mut KeyRing) -> Result<Order, Refused> {
    enrol(&offer.enrolments, "the signer", ring)?;
    enrol(&offer.opener_enrolments, "whoever opened the case", ring)?;
    let verified = ring.verify(&offer.order).map_err(|e| refused_trust("the order", &e))?;
    match verified.record() {
        Record::Order(order) => Ok((**order).clone()),
        other => Err(Refused::new(Code::Malformed, format!("the order: a record of type {}", other.type_name()))),
    }
}

fn enrol(enrolments: &[Envelope], of: &str, ring: &mut KeyRing) -> Result<(), Refused> {
    for (n, envelope) in enrolments.iter().enumerate() {
        let what = format!("enrolment {n} of {of}");
        let verified = ring.verify(envelope).map_err(|e| refused_trust(&what, &e))?;
        if !matches!(verified.record(), Record::Enrolment(_)) {
            return Err(Refused::new(Code::Malformed, format!("{what}: a record of type {}", verified.record().type_name())));
        }
    }
    Ok(())
}

/// Where the case or this host wants two persons: a second one, whose key this agent follows to its own anchor, approved
/// exactly this order. The coordinator that delivers both can make neither. Both chains are in one ring, so that one key cannot
/// have two names.
fn check_approval(offer: &Offer, order: &Order, by_case: bool, by_host: bool, ring: &mut KeyRing) -> Result<(), Refused> {
    if !by_case && !by_host {
        return Ok(());
    }
    let not_approved = |why: String| Refused::new(Code::NotApproved, why);
    let Some(approval) = &offer.approval else {
        return Err(not_approved(if by_case {
            "its case wants each order approved by a second person, and nobody did: exhibit approve ORDER --reason '...'".to_owned()
        } else {
            "this host obeys only orders that a second person approved (orders.two_person): order in a case that was opened with 'exhibit case open --two-person'"
                .to_owned()
        }));
    };
    enrol(&offer.approver_enrolments, "the approver", ring)?;
    let verified = ring.verify(approval).map_err(|e| refused_trust("the approval", &e))?;
    let Record::Approval(record) = verified.record() else {
        return Err(Refused::new(Code::Malformed, format!("the approval: a record of type {}", verified.record().type_name())));
    };
    if verified.keyid() == offer.order.keyid() {
        return Err(not_approved("the approval is signed with the order's own key".to_owned()));
    }
    custody::check_order_approval(offer.order.digest(), order, record).map_err(|breach| not_approved(format!("the approval {breach}")))
}

/// The case-opened record that the order names, so the one at which the order's responder looked: with its rule of approval and its
/// recipients, which nobody can exchange without the order. That a person opened the case with it, its own signature shows here too.
fn check_case(offer: &Offer, order: &Order, anchor: &Anchor, ring: &mut KeyRing) -> Result<CaseOpened, Refused> {
    let malformed = |why: String| Refused::new(Code::Malformed, why);
    if offer.case_opened.digest() != order.predecessor {
        return Err(malformed("the case-opened record is not the one that the order names".to_owned()));
    }
    let opened = case_opened(&offer.case_opened, ring)?;
    if opened.case != order.case {
        return Err(malformed(format!("the order is for {}, its case-opened record for {}", order.case, opened.case)));
    }
    if opened.deployment != anchor.deployment {
        let shown = escape_bounded(&opened.deployment, 80);
        return Err(Refused::new(
            Code::NotAuthorized,
            format!("the case belongs to deployment '{shown}', this agent to '{}'", anchor.deployment),
        ));
    }
    Ok(opened)
}

fn case_opened(envelope: &Envelope, ring: &mut KeyRing) -> Result<CaseOpened, Refused> {
    let verified = ring.verify(envelope).map_err(|e| refused_trust("case_opened", &e))?;
    match verified.record() {
        Record::CaseOpened(opened) => Ok((**opened).clone()),
        other => Err(Refused::new(Code::Malformed, format!("case_opened: a record of type {}", other.type_name()))),
    }
}

fn check_scope(offer: &Offer, order: &Order, context: &Context<'_>) -> Result<(), Refused> {
    if !order.targets.contains(context.agent) {
        return Err(Refused::new(
            Code::NotATarget,
            format!("the order names {} agents and {} is none of them", order.targets.len(), context.agent),
        ));
    }
    let expected = CollectionId::of(&offer.order.digest(), context.agent);
    if offer.collection != expected {
        let why = format!("the offer calls it {}, order and agent make it {expected}", offer.collection);
        return Err(Refused::new(Code::Malformed, why));
    }
    if offer.stream == 0 {
        return Err(Refused::new(Code::Malformed, "stream 0: streams are numbered from 1"));
    }
    if order.captures.is_empty() || order.captures.len() > Order::CAPTURES_MAX {
        return Err(Refused::new(Code::Malformed, format!("{} captures: 1 to {} are allowed", order.captures.len(), Order::CAPTURES_MAX)));
    }
    Ok(())
}

fn check_times(order: &Order, context: &Context<'_>) -> Result<(), Refused> {
    let now = context.now;
    let clock_is_off = context.offset_ns.is_some_and(|ns| ns.saturating_abs() > SKEW_S.saturating_mul(1_000_000_000));
    let measured =
        context.offset_ns.map_or_else(String::new, |ns| format!("; the coordinator's clock is {} s ahead of it", ns / 1_000_000_000));
    if now < order.issued_at.plus_s(SKEW_S.saturating_neg()) {
        return Err(Refused::new(
            Code::Clock,
            format!("this host's clock says {now}, before the order was issued ({}){measured}; correct one of the clocks", order.issued_at),
        ));
    }
    if now >= order.expires_at {
        let (code, remedy) = if clock_is_off { (Code::Clock, "correct the clock") } else { (Code::Expired, "issue a new order") };
        return Err(Refused::new(code, format!("it expired at {}, this host's clock says {now}{measured}; {remedy}", order.expires_at)));
    }
    let life_max = i64::try_from(context.policy.order_life_max).unwrap_or(i64::MAX);
    if order.expires_at > order.issued_at.plus_s(life_max) {
        return Err(Refused::new(
            Code::Policy,
            format!(
                "it is valid from {} to {}, this host accepts orders of at most {life_max} s (order_life_max)",
                order.issued_at, order.expires_at
            ),
        ));
    }
    Ok(())
}

/// The captures in order of volatility.
fn check_captures(specs: &[CaptureSpec], policy: &Policy) -> Result<Vec<Chosen>, Refused> {
    let mut chosen: Vec<(usize, Box<dyn Capture>, Params)> = Vec::with_capacity(specs.len());
    for spec in specs {
        let shown = escape_bounded(&spec.name, 40);
        let Some((place, make)) = registry::find(&spec.name) else {
            return Err(Refused::new(
                Code::Unsupported,
                format!("there is no capture '{shown}'; this agent has {}", registry::names().join(", ")),
            ));
        };
        if !policy.allows(&spec.name) {
            return Err(Refused::new(Code::Policy, format!("this host does not allow capture '{shown}' (captures)")));
        }
        if chosen.iter().any(|(p, ..)| *p == place) {
            return Err(Refused::new(Code::Malformed, format!("capture '{shown}' is ordered twice")));
        }
        let mut capture = make();
        capture.restrict(policy).map_err(|e| Refused::new(Code::Policy, format!("this host's policy cannot be used: {e}")))?;
        let capture = restricted::by(policy, capture);
        let params = Params::new(&spec.name, spec.params.clone());
        params.check(capture.params()).map_err(|e| Refused::new(Code::Unsupported, e.to_string()))?;
        capture.check(&params).map_err(|e| Refused::new(Code::Unsupported, format!("capture '{shown}', {e}")))?;
        chosen.push((place, capture, params));
    }
    chosen.sort_by_key(|(place, ..)| *place);
    Ok(chosen.into_iter().map(|(_, capture, params)| (capture, params)).collect())
}
