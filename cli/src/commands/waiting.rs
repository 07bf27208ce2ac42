//! What waits for a second person in a case, and what of it cannot be approved or accepted: nobody is sent to a command that will be
//! refused.

use std::collections::{BTreeMap, BTreeSet};

use exhibit_evidence::custody::{Fate, State};
use exhibit_evidence::key::KeyId;
use exhibit_evidence::record::{Record, Verified};
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::{CaseId, CollectionId, Digest, OrderId};
use serde_json::{Value, json};

use super::asker::{self, Revocation};
use super::dispose;
use crate::clock;
use crate::connection::Connection;
use crate::exit::Result;
use crate::output::Output;

/// Collections that a proposed command names.
const NAMED_MAX: usize = 3;

/// The keys that signed the orders, disposals and offers of custody of a case, by the records.
#[derive(Debug, Default)]
pub struct Askers(BTreeMap<Digest, KeyId>);

impl Askers {
    /// Takes a verified record of the case's log.
    pub fn see(&mut self, verified: &Verified) {
        if matches!(verified.record(), Record::Order(_) | Record::Disposal(_) | Record::Release(_)) {
            self.0.entry(verified.digest()).or_insert_with(|| verified.keyid());
        }
    }

    /// The key that signed a record.
    pub fn key(&self, record: &Digest) -> Option<KeyId> {
        self.0.get(record).copied()
    }

    fn revoked<'a>(&self, known: Option<&'a BTreeMap<KeyId, Revocation>>, record: &Digest) -> Option<&'a Revocation> {
        known?.get(self.0.get(record)?)
    }
}

/// Something that was asked for and that nobody can approve.
#[derive(Debug)]
struct Blocked {
    record: Digest,
    /// The order; none for a disposal.
    order: Option<OrderId>,
    why: String,
    /// What stands in the way does not pass.
    for_good: bool,
}

/// What a second person is asked for.
#[derive(Debug, Default)]
pub struct Waiting {
    disposals: Vec<Digest>,
    orders: Vec<(Digest, OrderId)>,
    blocked: Vec<Blocked>,
    /// Why nobody can accept the offer of custody that stands.
    offer_blocked: Option<String>,
    /// False for whose roles are limited to cases: the deployment's log, which has the revocations, is not for them.
    askers_checked: bool,
}

impl Waiting {
    /// Looks at what was asked for in a case. The deployment's log is read only where something waits.
    pub async fn look(connection: &mut Connection, case: &CaseId, (state, askers): (&State, &Askers)) -> Result<Self> {
        let (disposals, orders) = (state.asked(), state.orders_to_approve(clock::now()));
        let offer = state.offer().map(|(record, _)| record);
        let records = disposals.iter().chain(orders.iter().map(|(record, _)| record)).chain(offer.iter());
        let keys: BTreeSet<KeyId> = records.filter_map(|record| askers.key(record)).collect();
        let known = if keys.is_empty() { Some(BTreeMap::new()) } else { asker::revocations(connection, &keys).await? };
        let mut waiting = Self { askers_checked: known.is_some(), ..Self::default() };
        let gone = offer.and_then(|record| askers.revoked(known.as_ref(), &record));
        waiting.offer_blocked = gone.map(|revocation| {
            format!("can be accepted by nobody: the key that offered it was {revocation}; {}", offer_again(case, state.custodian()))
        });
        for record in disposals {
            let gone = askers.revoked(known.as_ref(), &record).map(|revocation| (ask_again(case, state, &record, revocation), true));
            match gone.or_else(|| dispose::obstacle(case, state, &record).map(|failure| (failure.message, false))) {
                None => waiting.disposals.push(record),
                Some((why, for_good)) => waiting.blocked.push(Blocked { record, order: None, why, for_good }),
            }
        }
        for (record, order) in orders {
            match askers.revoked(known.as_ref(), &record) {
                None => waiting.orders.push((record, order)),
                Some(revocation) => {
                    let why = order_again(&order, revocation);
                    waiting.blocked.push(Blocked { record, order: Some(order), why, for_good: true });
                }
            }
        }
        Ok(waiting)
    }

    /// Why nobody can accept the offer of custody that stands; `None` where none stands, or nothing is known against it.
    pub fn offer_blocked(&self) -> Option<&str> {
        self.offer_blocked.as_deref()
    }

    /// Puts it into what a script gets.
    pub fn add_to(&self, value: &mut Value) {
        if let Some(why) = &self.offer_blocked {
            value["offer"]["why"] = json!(why);
        }
        let (orders, disposals): (Vec<&Blocked>, Vec<&Blocked>) = self.blocked.iter().partition(|blocked| blocked.order.is_some());
        let why = |b: &Blocked| json!({"record": b.record, "why": said(b)});
        value["disposals_to_approve"] = json!(self.disposals);
        value["disposals_blocked"] = disposals.into_iter().map(why).collect();
        value["orders_to_approve"] = self.orders.iter().map(|(record, id)| json!({"record": record, "order": id})).collect();
        value["orders_blocked"] = orders.into_iter().map(|b| json!({"record": b.record, "order": b.order, "why": said(b)})).collect();
        value["askers_checked"] = json!(self.askers_checked);
    }

    /// Tells a person.
    pub fn say(&self, case: &CaseId, out: &Output) {
        for disposal in &self.disposals {
            out.note(&format!("waits for a second person: exhibit dispose approve {case} --disposal {disposal}"));
        }
        for (_, order) in &self.orders {
            out.note(&format!("waits for a second person's approval: exhibit approve {order} --reason '...'"));
        }
        for blocked in &self.blocked {
            let what = blocked.order.as_ref().map_or_else(|| format!("disposal {}", blocked.record), ToString::to_string);
            out.note(&format!("asked for: {what}: {}", said(blocked)));
        }
        if !self.askers_checked {
            out.note(asker::LIMITED);
        }
    }
}

fn said(blocked: &Blocked) -> String {
    let how = if blocked.for_good { "can be approved by nobody" } else { "cannot be approved now" };
    format!("{how}: {}", blocked.why)
}

/// Why a disposal is nobody's to approve, and the command for what is left of it.
fn ask_again(case: &CaseId, state: &State, disposal: &Digest, revocation: &Revocation) -> String {
    let asked = state.asked_for(disposal).unwrap_or_default().into_iter().map(|c| c.collection);
    let left: Vec<CollectionId> = asked.filter(|id| state.fate(id) == Fate::Kept && state.received(id)).collect();
    format!("the key that asked was {revocation}; {}", command(case, &left))
}

fn command(case: &CaseId, left: &[CollectionId]) -> String {
    if left.is_empty() {
        return "nothing is left to ask for".to_owned();
    }
    let mut named: Vec<String> = left.iter().take(NAMED_MAX).map(|id| format!(" --collection {id}")).collect();
    if left.len() > NAMED_MAX {
        named.push(" --collection ...".to_owned());
    }
    format!("ask again: exhibit dispose request {case}{} --reason '...'", named.concat())
}

/// Who offers custody in place of a key that was revoked, and how: before the first transfer any custodian, afterwards only whoever
/// has that name.
pub fn offer_again(case: &CaseId, holder: Option<&str>) -> String {
    let again = format!("exhibit transfer offer {case} --to NAME --reason '...'");
    match holder {
        None => format!("another custodian of the case offers it again: {again}; where there is none, an admin enrols one"),
        Some(holder) => format!(
            "{} has custody and offers it again with a key that counts: {again}; where there is none, an admin enrols a new key under that \
             name for whoever hands over in their place: exhibit person request",
            escape_bounded(holder, 200)
        ),
    }
}

fn order_again(order: &OrderId, revocation: &Revocation) -> String {
    format!("the key that gave it was {revocation}; order again: exhibit cancel --order {order} --reason '...', then exhibit collect")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_again_is_told_for_what() {
        let case = CaseId::new(1, [1; 10]);
        let ids: Vec<CollectionId> = (0..4_u8).map(|n| CollectionId::from_digest(&Digest::of(&[n]))).collect();
        assert_eq!(command(&case, &[]), "nothing is left to ask for");
        let one = format!("ask again: exhibit dispose request {case} --collection {} --reason '...'", ids[0]);
        assert_eq!(command(&case, &ids[..1]), one);
        let many = command(&case, &ids);
        assert!(many.contains(ids[2].as_str()) && !many.contains(ids[3].as_str()) && many.contains(" --collection ... --reason"), "{many}");
    }

    #[test]
    fn what_cannot_be_approved_is_in_no_list_of_what_can() {
        let (record, waits) = (Digest::of(b"asked"), Digest::of(b"waits"));
        let blocked = Blocked { record, order: None, why: "the key that asked was revoked".to_owned(), for_good: true };
        let waiting = Waiting { disposals: vec![waits], blocked: vec![blocked], askers_checked: true, ..Waiting::default() };
        let mut value = json!({"case": "one"});
        waiting.add_to(&mut value);
        assert_eq!(value["disposals_to_approve"], json!([waits]));
        assert!(value["offer"].is_null(), "none stands: {value}");
        let why = "can be approved by nobody: the key that asked was revoked";
        assert_eq!(value["disposals_blocked"], json!([{"record": record, "why": why}]));
        assert_eq!((&value["orders_to_approve"], &value["orders_blocked"]), (&json!([]), &json!([])));
        assert_eq!((&value["case"], &value["askers_checked"]), (&json!("one"), &json!(true)));
    }

    #[test]
    fn an_offer_that_nobody_can_accept_says_why_and_who_offers_again() {
        let waiting = Waiting { offer_blocked: Some("can be accepted by nobody".to_owned()), ..Waiting::default() };
        let mut value = json!({"offer": {"record": "one", "to": "grace"}});
        waiting.add_to(&mut value);
        assert_eq!(value["offer"], json!({"record": "one", "to": "grace", "why": "can be accepted by nobody"}));
        assert_eq!(waiting.offer_blocked(), Some("can be accepted by nobody"));
        let case = CaseId::new(1, [1; 10]);
        let (never, taken) = (offer_again(&case, None), offer_again(&case, Some("hal")));
        let command = format!("exhibit transfer offer {case} --to NAME");
        assert!(never.starts_with("another custodian") && never.contains(&command), "{never}");
        assert!(taken.starts_with("hal has custody") && taken.contains(&command) && taken.contains("a new key under that name"), "{taken}");
    }
}
