//! What may be done with evidence after it was taken, and who has it. One set of rules: the coordinator asks before it logs
//! a record, the verifier asks of every record that it finds, and the table and the picture of a case are made from the same.
//!
//! Normative text: `docs/format/custody.md`. State is bounded by what the log names: some hundred bytes per collection, hold and
//! disposal, none per access.

mod history;
mod orders;
mod periods;
mod picture;

use std::collections::{BTreeMap, BTreeSet};

pub use history::{History, Row};
pub use orders::check_order_approval;
pub use periods::{Moment, Period, Storage};
pub use picture::picture;

use crate::age::Recipients;
use crate::digest::Digest;
use crate::id::{CollectionId, OrderId};
use crate::layout::StreamNumber;
use crate::record::{
    Access, Approval, DestroyedCollection, Destruction, Disposal, Hold, HoldReleased, Outcome, REASON_BYTES_MAX, Receipt, Record, Release,
    Retention, Seal, Transfer,
};
use crate::time::Timestamp;

/// A rule of custody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The record does not follow from the record that it must follow from.
    Predecessor,
    /// No reason, or one that is too long.
    Reason,
    /// It names a collection that the case does not have, not sealed, with another seal, twice, or destroyed before.
    Collection,
    /// The end of retention is not later than it was.
    RetentionShortened,
    /// Custody is given by somebody who does not have it, or to oneself.
    TransferRelease,
    /// Custody is accepted by somebody to whom it was not offered.
    TransferAcceptance,
    /// Disposal is asked for by somebody who does not have custody.
    DisposalRequest,
    /// A disposal, asked for and approved by the same person.
    SecondPerson,
    /// An order, given and approved by the same person.
    OrderSecondPerson,
    /// An approval is dated before what it approves.
    ApprovalEarly,
    /// An approval is dated after the end of what it approves.
    ApprovalLate,
    /// A hold stands.
    Held,
    /// Retention has not ended.
    Retained,
    /// The certificate does not fit disposal, approval and receipts.
    Certificate,
}

/// A rule that a record breaks. The record then has no effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Breach {
    /// Which.
    pub rule: Rule,
    /// How, for people.
    pub message: String,
}

fn breach<T>(rule: Rule, message: impl Into<String>) -> Result<T, Breach> {
    Err(Breach { rule, message: message.into() })
}

fn require(ok: bool, rule: Rule, message: impl FnOnce() -> String) -> Result<(), Breach> {
    if ok { Ok(()) } else { breach(rule, message()) }
}

/// What is known of a collection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Kept {
    streams: BTreeSet<StreamNumber>,
    objects: u64,
    bytes: u64,
    /// The seal, and how it says that the collection ended.
    seal: Option<(Digest, Outcome)>,
    /// The approved disposal.
    disposal: Option<Digest>,
    destroyed_at: Option<Timestamp>,
}

/// A hold that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    /// None: the whole case.
    only: Vec<CollectionId>,
    too_late: Vec<CollectionId>,
}

impl Held {
    fn covers(&self, collection: &CollectionId) -> bool {
        (self.only.is_empty() || self.only.contains(collection)) && !self.too_late.contains(collection)
    }
}

/// A disposal that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    by: String,
    at: Timestamp,
    collections: Vec<CollectionId>,
    /// The approval, and who gave it.
    approval: Option<(Digest, String)>,
    /// The end of retention when it was approved: what is promised afterwards cannot save what is being destroyed.
    retained_until: Option<Timestamp>,
    certificate: Option<Digest>,
}

/// A disposal that was approved and is not finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// The `disposal` record.
    pub disposal: Digest,
    /// The `approval` record.
    pub approval: Digest,
    /// What is to be destroyed, and what there was of it.
    pub collections: Vec<DestroyedCollection>,
}

/// What became of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is kept.
    Kept,
    /// Its disposal was approved by this record and is not finished: parts of it may be gone.
    Condemned {
        /// The `approval` record.
        approval: Digest,
    },
    /// It was destroyed.
    Destroyed {
        /// When, by the coordinator's clock.
        at: Timestamp,
        /// The `destruction` record.
        certificate: Digest,
    },
}

/// Who decided that a collection is destroyed, and whether it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disposed {
    /// The `disposal` record.
    pub disposal: Digest,
    /// Who asked for it.
    pub requested_by: String,
    /// The `approval` record.
    pub approval: Digest,
    /// Who approved it.
    pub approved_by: String,
    /// When it was destroyed, by the coordinator's clock, and the `destruction` record; absent while that is not finished.
    pub destroyed: Option<(Timestamp, Digest)>,
    /// How the collection had ended before.
    pub outcome: Option<Outcome>,
}

/// Custody of one case as far as its log was read. Records must have been verified by a [`crate::record::KeyRing`] before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    opened: Option<Digest>,
    collections: BTreeMap<CollectionId, Kept>,
    holds: BTreeMap<Digest, Held>,
    /// What holds covered that were released: whether one of all of the case, and the collections that others named.
    released: (bool, BTreeSet<CollectionId>),
    retention: Option<(Digest, Timestamp)>,
    /// The newest transfer and who received it.
    transfer: Option<(Digest, String)>,
    /// The offer that stands and to whom.
    offer: Option<(Digest, String)>,
    disposals: BTreeMap<Digest, Asked>,
    orders: orders::Orders,
    encrypt_to: Recipients,
}

impl State {
    /// Takes a record: checks it against what came before and lets it take effect. Records of other kinds are only noted
    /// as far as custody depends on them.
    ///
    /// # Errors
    /// [`Breach`]: the record has no effect.
    pub fn take(&mut self, digest: Digest, record: &Record) -> Result<(), Breach> {
        match record {
            Record::CaseOpened(p) => {
                if self.opened.is_none() {
                    self.opened = Some(digest);
                    self.orders.two_person = p.two_person;
                    self.encrypt_to = p.encrypt_to.clone();
                }
                Ok(())
            }
            Record::CaseClosed(_) => {
                self.orders.closed = true;
                Ok(())
            }
            Record::Order(p) => {
                self.orders.take(digest, p);
                Ok(())
            }
            Record::Receipt(p) => {
                self.receipt(p);
                Ok(())
            }
            Record::Seal(p) => {
                self.seal(digest, p);
                Ok(())
            }
            Record::Access(p) => self.access(p),
            Record::Hold(p) => self.hold(digest, p),
            Record::HoldReleased(p) => self.hold_released(p),
            Record::Retention(p) => self.retention(digest, p),
            Record::Release(p) => self.release(digest, p),
            Record::Transfer(p) => self.transfer(digest, p),
            Record::Disposal(p) => self.disposal(digest, p),
            Record::Approval(p) => self.approval(digest, p),
            Record::Destruction(p) => self.destruction(digest, p),
            _ => Ok(()),
        }
    }

    /// What [`State::take`] would say.
    ///
    /// # Errors
    /// [`Breach`]
    pub fn check(&self, digest: Digest, record: &Record) -> Result<(), Breach> {
        self.clone().take(digest, record)
    }

    /// What became of a collection.
    #[must_use]
    pub fn fate(&self, collection: &CollectionId) -> Fate {
        match self.disposal_of(collection) {
            None => Fate::Kept,
            Some(Disposed { destroyed: Some((at, certificate)), .. }) => Fate::Destroyed { at, certificate },
            Some(Disposed { approval, .. }) => Fate::Condemned { approval },
        }
    }

    /// Who decided that a collection is destroyed; `None` for one that is kept.
    #[must_use]
    pub fn disposal_of(&self, collection: &CollectionId) -> Option<Disposed> {
        let kept = self.collections.get(collection)?;
        let disposal = kept.disposal?;
        let asked = self.disposals.get(&disposal)?;
        let (approval, approved_by) = asked.approval.clone()?;
        Some(Disposed {
            disposal,
            requested_by: asked.by.clone(),
            approval,
            approved_by,
            destroyed: kept.destroyed_at.zip(asked.certificate),
            outcome: kept.seal.map(|(_, outcome)| outcome),
        })
    }

    /// The collections that are not kept, and of which there was something: each with who decided it.
    pub fn disposed(&self) -> impl Iterator<Item = (&CollectionId, Disposed)> {
        self.collections.keys().filter(|id| self.received(id)).filter_map(|id| Some((id, self.disposal_of(id)?)))
    }

    /// False for a collection of which nothing was ever received, such as one that was cancelled before its host saw the order: there is
    /// nothing of it to destroy, and a disposal that names it destroyed nothing.
    #[must_use]
    pub fn received(&self, collection: &CollectionId) -> bool {
        self.collections.get(collection).is_some_and(|kept| !kept.streams.is_empty())
    }

    /// Disposals that were approved and are not finished.
    #[must_use]
    pub fn unfinished(&self) -> Vec<Unfinished> {
        let due = |(disposal, asked): (&Digest, &Asked)| {
            let approval = asked.approval.as_ref().filter(|_| asked.certificate.is_none())?.0;
            Some(Unfinished { disposal: *disposal, approval, collections: self.totals(&asked.collections) })
        };
        self.disposals.iter().filter_map(due).collect()
    }

    /// The certificate of the disposal that an approval decided.
    #[must_use]
    pub fn certificate_of(&self, approval: &Digest) -> Option<Digest> {
        let decided = |asked: &&Asked| asked.approval.as_ref().is_some_and(|(record, _)| record == approval);
        self.disposals.values().find(decided).and_then(|asked| asked.certificate)
    }

    /// The disposals that were asked for and not approved.
    #[must_use]
    pub fn asked(&self) -> Vec<Digest> {
        self.disposals.iter().filter(|(_, asked)| asked.approval.is_none()).map(|(digest, _)| *digest).collect()
    }

    /// What a disposal would destroy, and how many objects and bytes there are of each; `None` when nobody asked for it.
    #[must_use]
    pub fn asked_for(&self, disposal: &Digest) -> Option<Vec<DestroyedCollection>> {
        self.disposals.get(disposal).map(|asked| self.totals(&asked.collections))
    }

    /// Who asked for a disposal; `None` when nobody did.
    #[must_use]
    pub fn asked_by(&self, disposal: &Digest) -> Option<&str> {
        self.disposals.get(disposal).map(|asked| asked.by.as_str())
    }

    /// True when every order of the case needs a second person's approval.
    #[must_use]
    pub const fn two_person(&self) -> bool {
        self.orders.two_person
    }

    /// To whom the contents of the case's evidence are encrypted.
    #[must_use]
    pub const fn encrypt_to(&self) -> &Recipients {
        &self.encrypt_to
    }

    /// True when an order needs an approval and has none.
    #[must_use]
    pub fn awaits_approval(&self, order: &Digest) -> bool {
        self.orders.awaits(order)
    }

    /// The record that approves an order.
    #[must_use]
    pub fn approval_of(&self, order: &Digest) -> Option<Digest> {
        self.orders.approval_of(order)
    }

    /// When an order was approved, by the clock of who approved it.
    #[must_use]
    pub fn approved_at(&self, order: &Digest) -> Option<Timestamp> {
        self.orders.approved_at(order)
    }

    /// The id of an order that needs an approval, by its record.
    #[must_use]
    pub fn order_id(&self, order: &Digest) -> Option<&OrderId> {
        self.orders.find(order).map(|(id, _)| id)
    }

    /// Id and expiry of an order that needs an approval, by its record.
    #[must_use]
    pub fn order_expiry(&self, order: &Digest) -> Option<(&OrderId, Timestamp)> {
        self.orders.find(order)
    }

    /// The orders that somebody can still approve: not expired, not ended (cancelled), and the case is not closed. Record and id.
    #[must_use]
    pub fn orders_to_approve(&self, now: Timestamp) -> Vec<(Digest, OrderId)> {
        self.orders.waiting(now)
    }

    /// The holds that stand, by their records.
    #[must_use]
    pub fn holds(&self) -> Vec<Digest> {
        self.holds.keys().copied().collect()
    }

    /// True when a hold covers the collection.
    #[must_use]
    pub fn is_held(&self, collection: &CollectionId) -> bool {
        self.holds.values().any(|hold| hold.covers(collection))
    }

    /// The collections whose destruction is approved and not certified: some of their objects may be gone. Ascending.
    #[must_use]
    pub fn condemned(&self) -> Vec<CollectionId> {
        self.collections.keys().filter(|id| matches!(self.fate(id), Fate::Condemned { .. })).cloned().collect()
    }

    /// What the holds that stand cover: whether all of the case, and the collections that they name. Of all of the case,
    /// collections that are condemned and not [`State::is_held`] are left out: those holds came too late for them.
    #[must_use]
    pub fn held(&self) -> (bool, BTreeSet<CollectionId>) {
        let named = self.holds.values().flat_map(|hold| hold.only.iter().filter(|id| hold.covers(id)));
        (self.holds.values().any(|hold| hold.only.is_empty()), named.cloned().collect())
    }

    /// What holds covered that were released since: whether one of all of the case, and the collections that others named.
    #[must_use]
    pub const fn released(&self) -> &(bool, BTreeSet<CollectionId>) {
        &self.released
    }

    /// Until when the case must be kept at least.
    #[must_use]
    pub fn retained_until(&self) -> Option<Timestamp> {
        self.retention.map(|(_, until)| until)
    }

    /// The record that the next `retention` follows from.
    #[must_use]
    pub fn retention_predecessor(&self) -> Option<Digest> {
        self.retention.map(|(digest, _)| digest).or(self.opened)
    }

    /// Who received the case last; `None` while it was never handed over.
    #[must_use]
    pub fn custodian(&self) -> Option<&str> {
        self.transfer.as_ref().map(|(_, name)| name.as_str())
    }

    /// The record that the next `release` follows from.
    #[must_use]
    pub fn release_predecessor(&self) -> Option<Digest> {
        self.transfer.as_ref().map(|(digest, _)| *digest).or(self.opened)
    }

    /// The offer that stands, and to whom.
    #[must_use]
    pub fn offer(&self) -> Option<(Digest, &str)> {
        self.offer.as_ref().map(|(digest, to)| (*digest, to.as_str()))
    }

    /// The seal of a collection.
    #[must_use]
    pub fn seal_of(&self, collection: &CollectionId) -> Option<Digest> {
        self.collections.get(collection).and_then(|kept| kept.seal).map(|(record, _)| record)
    }

    /// Collections that are sealed and that nobody decided to destroy.
    #[must_use]
    pub fn disposable(&self) -> Vec<CollectionId> {
        self.collections.iter().filter(|(_, k)| k.seal.is_some() && k.disposal.is_none()).map(|(id, _)| id.clone()).collect()
    }

    fn receipt(&mut self, p: &Receipt) {
        let kept = self.collections.entry(p.collection.clone()).or_default();
        if kept.streams.insert(p.stream) {
            kept.objects = kept.objects.saturating_add(u64::from(p.manifest.segments)).saturating_add(1);
            kept.bytes = kept.bytes.saturating_add(p.manifest.stored_bytes).saturating_add(p.manifest.size);
        }
    }

    fn seal(&mut self, digest: Digest, p: &Seal) {
        self.orders.ended(&p.collection);
        self.collections.entry(p.collection.clone()).or_default().seal.get_or_insert((digest, p.outcome));
    }

    fn follows_opened(&self, predecessor: Digest) -> Result<(), Breach> {
        require(self.opened == Some(predecessor), Rule::Predecessor, || {
            format!("it follows from record {predecessor}, not from case-opened")
        })
    }

    fn access(&self, p: &Access) -> Result<(), Breach> {
        self.follows_opened(p.predecessor)?;
        reason(&p.reason)
    }

    fn hold(&mut self, digest: Digest, p: &Hold) -> Result<(), Breach> {
        self.follows_opened(p.predecessor)?;
        reason(&p.reason)?;
        for collection in &p.collections {
            require(self.collections.contains_key(collection), Rule::Collection, || format!("this case has no {collection} to hold"))?;
            let kept = self.fate(collection) == Fate::Kept;
            require(kept, Rule::Collection, || format!("{collection} is destroyed, or its destruction was approved: no hold can save it"))?;
        }
        // Nobody may believe that a hold saves what is being destroyed: whoever places it signs what it comes too late for.
        let lost = if p.collections.is_empty() { self.condemned() } else { Vec::new() };
        require(p.too_late == lost, Rule::Collection, || {
            format!(
                "it names {} as what it comes too late for; the destruction of {} is approved and goes on",
                names(&p.too_late),
                names(&lost)
            )
        })?;
        self.holds.insert(digest, Held { only: p.collections.clone(), too_late: lost });
        Ok(())
    }

    fn hold_released(&mut self, p: &HoldReleased) -> Result<(), Breach> {
        reason(&p.reason)?;
        let stood = self.holds.contains_key(&p.predecessor);
        require(stood, Rule::Predecessor, || format!("record {} is no hold that stands", p.predecessor))?;
        if let Some(hold) = self.holds.remove(&p.predecessor) {
            self.released.0 |= hold.only.is_empty();
            self.released.1.extend(hold.only);
        }
        Ok(())
    }

    fn retention(&mut self, digest: Digest, p: &Retention) -> Result<(), Breach> {
        reason(&p.reason)?;
        let due = self.retention_predecessor() == Some(p.predecessor);
        require(due, Rule::Predecessor, || {
            format!("it follows from record {}, which is not the newest retention (or case-opened)", p.predecessor)
        })?;
        if let Some((_, before)) = self.retention {
            require(p.until > before, Rule::RetentionShortened, || format!("retention until {} is not later than {before}", p.until))?;
        }
        self.retention = Some((digest, p.until));
        Ok(())
    }

    fn release(&mut self, digest: Digest, p: &Release) -> Result<(), Breach> {
        reason(&p.reason)?;
        let due = self.release_predecessor() == Some(p.predecessor);
        require(due, Rule::Predecessor, || {
            format!("it follows from record {}, which is not the newest transfer (or case-opened)", p.predecessor)
        })?;
        self.has_custody(&p.released_by, Rule::TransferRelease)?;
        require(p.to != p.released_by, Rule::TransferRelease, || format!("{} offers custody to nobody else", shown(&p.to)))?;
        self.offer = Some((digest, p.to.clone()));
        Ok(())
    }

    fn transfer(&mut self, digest: Digest, p: &Transfer) -> Result<(), Breach> {
        reason(&p.reason)?;
        let Some((offer, to)) = &self.offer else { return breach(Rule::Predecessor, "no offer of custody stands") };
        require(*offer == p.predecessor, Rule::Predecessor, || format!("record {} is not the offer that stands", p.predecessor))?;
        require(*to == p.received_by, Rule::TransferAcceptance, || {
            format!("custody was offered to {}, {} accepts it", shown(to), shown(&p.received_by))
        })?;
        self.transfer = Some((digest, p.received_by.clone()));
        self.offer = None;
        Ok(())
    }

    /// Before the first transfer every custodian of the case acts for the store.
    fn has_custody(&self, name: &str, rule: Rule) -> Result<(), Breach> {
        let holder = self.custodian();
        require(holder.is_none_or(|h| h == name), rule, || {
            format!("{} has custody, not {}", shown(holder.unwrap_or_default()), shown(name))
        })
    }

    fn disposal(&mut self, digest: Digest, p: &Disposal) -> Result<(), Breach> {
        self.follows_opened(p.predecessor)?;
        reason(&p.reason)?;
        self.has_custody(&p.requested_by, Rule::DisposalRequest)?;
        let count = p.seals.len();
        require((1..=Disposal::SEALS_MAX).contains(&count), Rule::Collection, || {
            format!("it names {count} collections: 1 to 300 are possible")
        })?;
        let ascending = p.seals.windows(2).all(|w| matches!(w, [a, b] if a.collection < b.collection));
        require(ascending, Rule::Collection, || "its collections are not ascending, each once".to_owned())?;
        for sealed in &p.seals {
            let id = &sealed.collection;
            require(self.seal_of(id) == Some(sealed.seal), Rule::Collection, || {
                format!("{} is not the seal of {id} in this case", sealed.seal)
            })?;
            require(self.fate(id) == Fate::Kept, Rule::Collection, || format!("{id} is destroyed, or its destruction was approved"))?;
        }
        let collections = p.seals.iter().map(|s| s.collection.clone()).collect();
        let asked =
            Asked { by: p.requested_by.clone(), at: p.requested_at, collections, approval: None, retained_until: None, certificate: None };
        self.disposals.insert(digest, asked);
        Ok(())
    }

    fn approval(&mut self, digest: Digest, p: &Approval) -> Result<(), Breach> {
        reason(&p.reason)?;
        let Some(asked) = self.disposals.get(&p.predecessor).filter(|asked| asked.approval.is_none()) else {
            return self.orders.approve(digest, p);
        };
        // Whoever has custody now did not ask: what another one wanted before is void.
        self.has_custody(&asked.by, Rule::DisposalRequest)?;
        orders::by_another((&asked.by, asked.at), p, Rule::SecondPerson)?;
        for id in &asked.collections {
            require(!self.is_held(id), Rule::Held, || format!("{id} is under a hold"))?;
            require(self.fate(id) == Fate::Kept, Rule::Collection, || format!("{id} is destroyed, or its destruction was approved"))?;
        }
        let until = self.retained_until();
        past_retention(until, p.approved_at)?;
        let collections = asked.collections.clone();
        if let Some(asked) = self.disposals.get_mut(&p.predecessor) {
            asked.approval = Some((digest, p.approved_by.clone()));
            asked.retained_until = until;
        }
        for id in collections {
            if let Some(kept) = self.collections.get_mut(&id) {
                kept.disposal = Some(p.predecessor);
            }
        }
        Ok(())
    }

    fn totals(&self, collections: &[CollectionId]) -> Vec<DestroyedCollection> {
        let of = |id: &CollectionId| {
            let (objects, bytes) = self.collections.get(id).map(|k| (k.objects, k.bytes)).unwrap_or_default();
            DestroyedCollection { collection: id.clone(), objects, bytes }
        };
        collections.iter().map(of).collect()
    }

    fn destruction(&mut self, digest: Digest, p: &Destruction) -> Result<(), Breach> {
        let approved = |a: &&Asked| a.approval.as_ref().is_some_and(|(record, _)| *record == p.predecessor);
        let asked = self.disposals.get(&p.disposal).filter(|a| a.certificate.is_none()).filter(approved);
        let Some(asked) = asked else {
            return breach(
                Rule::Certificate,
                format!("disposal {} was not approved by record {}, or is finished", p.disposal, p.predecessor),
            );
        };
        let expected = self.totals(&asked.collections);
        require(p.collections == expected, Rule::Certificate, || {
            "it certifies something else than what was approved and received".to_owned()
        })?;
        past_retention(asked.retained_until, p.destroyed_at)?;
        if let Some(asked) = self.disposals.get_mut(&p.disposal) {
            asked.certificate = Some(digest);
        }
        for destroyed in expected {
            if let Some(kept) = self.collections.get_mut(&destroyed.collection) {
                kept.destroyed_at = Some(p.destroyed_at);
            }
        }
        Ok(())
    }
}

fn past_retention(until: Option<Timestamp>, at: Timestamp) -> Result<(), Breach> {
    let early = until.filter(|until| at < *until);
    early.map_or(Ok(()), |until| breach(Rule::Retained, format!("is of {at}, and the case is to be kept until {until}")))
}

/// A reason is text of a person: there, and bounded.
fn reason(text: &str) -> Result<(), Breach> {
    let bytes = text.len();
    require(!text.trim().is_empty(), Rule::Reason, || "it has no reason".to_owned())?;
    require(bytes <= REASON_BYTES_MAX, Rule::Reason, || format!("its reason has {bytes} bytes: at most {REASON_BYTES_MAX} are possible"))
}

/// Collections in words.
fn names(collections: &[CollectionId]) -> String {
    if collections.is_empty() {
        return "nothing".to_owned();
    }
    collections.iter().map(CollectionId::as_str).collect::<Vec<_>>().join(", ")
}

fn shown(name: &str) -> String {
    crate::text::escape_bounded(name, 200)
}
