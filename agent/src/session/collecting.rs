//! Offers, and the one collection that runs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::record::{self, Record};
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::{CollectionId, Digest, Timestamp};
use exhibit_proto::agent::v1::{self, OfferReply, SessionRequest, session_request};
use tokio::sync::mpsc;

use super::link::{request, send};
use super::{Agent, Event, WAITING_MAX, wire};
use crate::budget::Control;
use crate::capture::Stop;
use crate::clock;
use crate::custody::Statement;
use crate::order::{self, Accepted, Code, Context, Offer, Policy, Refused};
use crate::pipeline::{self, Plan, Progress, Window};
use crate::state;
use crate::upload::{self, Upload};

/// The collection that runs.
#[derive(Debug)]
pub(super) struct Running {
    pub collection: CollectionId,
    pub control: Arc<Control>,
    window: Arc<Window>,
    progress: Arc<Progress>,
    expires_at: Timestamp,
    shown: Option<v1::Progress>,
    /// Since when nothing moves although the collection was told to end, and where it stood.
    stuck: Option<(Duration, u64, u64)>,
}

/// A collection that was told to end and in which nothing moves for so long waits for a read that may never return.
const STUCK_AFTER: Duration = Duration::from_mins(1);

impl Running {
    /// True when the collection was told to end (cancelled, deadline), all that it made was taken, and for a minute it has
    /// made nothing more.
    fn hangs(&mut self, now: Duration) -> bool {
        let (items, raw) = (self.progress.items.load(Ordering::Relaxed), self.progress.raw_bytes.load(Ordering::Relaxed));
        let told = self.control.check().is_err() && !self.progress.ended.load(Ordering::Relaxed) && self.window.is_empty();
        let Some((since, ..)) = self.stuck.filter(|(_, i, r)| told && (*i, *r) == (items, raw)) else {
            self.stuck = told.then_some((now, items, raw));
            return false;
        };
        now.saturating_sub(since) >= STUCK_AFTER
    }

    /// Progress, if there is any since the last message.
    pub fn progress_message(&mut self) -> Option<v1::Progress> {
        let (capture, current) = self.progress.current();
        let message = v1::Progress {
            collection: self.collection.to_string(),
            capture,
            items: self.progress.items.load(Ordering::Relaxed),
            raw_bytes: self.progress.raw_bytes.load(Ordering::Relaxed),
            sent_bytes: self.progress.sent_bytes.load(Ordering::Relaxed),
            expected_raw_bytes: self.progress.expected_raw_bytes.load(Ordering::Relaxed),
            current,
        };
        if self.shown.as_ref() == Some(&message) {
            return None;
        }
        self.shown = Some(message.clone());
        Some(message)
    }
}

type Outbox = mpsc::Sender<SessionRequest>;

impl Agent {
    /// An offer came. What runs or waits already is only answered; everything else waits for its turn, and is checked
    /// when that has come.
    pub(super) fn offered(&mut self, message: v1::Offer, outbox: &Outbox) {
        let (digest, parsed) = wire::offer(&message);
        let offer = match parsed {
            Ok(offer) => offer,
            Err(bad) => {
                match message.collection.parse() {
                    Ok(collection) => self.refuse(&collection, digest, &Refused::new(Code::Malformed, bad.to_string()), outbox),
                    Err(e) => tracing::warn!("an offer without a usable collection id: {e}"),
                }
                return;
            }
        };
        if self.running.as_ref().is_some_and(|r| r.collection == offer.collection) {
            send(outbox, reply(&offer.collection, Vec::new()));
            return;
        }
        self.waiting.retain(|w| w.collection != offer.collection);
        if self.stopping || self.waiting.len() >= WAITING_MAX {
            tracing::warn!(collection = %offer.collection, "an offer is left with the coordinator: this agent cannot take it now");
            return;
        }
        self.waiting.push_back(offer);
        self.begin_next(outbox);
    }

    /// Begins what waits, if nothing runs.
    pub(super) fn begin_next(&mut self, outbox: &Outbox) {
        while self.running.is_none() && !self.stopping {
            let Some(offer) = self.waiting.pop_front() else { return };
            let accepted = match self.check(&offer) {
                Ok(accepted) => accepted,
                Err(refused) => {
                    self.refuse(&offer.collection, offer.order.digest(), &refused, outbox);
                    continue;
                }
            };
            let (collection, expires_at) = (accepted.facts().collection.clone(), accepted.order().expires_at);
            match self.parts.state.begin(&collection, expires_at, clock::wall()) {
                Ok(true) => {}
                Ok(false) => {
                    let why = format!("it was begun {} times on this host and is not begun again; sign a new order", state::ATTEMPTS_MAX);
                    self.refuse(&offer.collection, offer.order.digest(), &Refused::new(Code::Replayed, why), outbox);
                    continue;
                }
                Err(e) => {
                    tracing::error!(%collection, "the collection is not begun: that it is could not be written down: {e}");
                    let why = format!("not begun: that it is could not be written down: {e}");
                    send(outbox, self.hindered.note(&collection, &why));
                    continue;
                }
            }
            match self.begin(accepted, offer.continues) {
                Ok(()) => {
                    self.hindered.over(offer.collection.as_str());
                    send(outbox, reply(&offer.collection, Vec::new()));
                }
                // The coordinator offers it again when the agent connects the next time.
                Err(e) => {
                    tracing::error!(collection = %offer.collection, "the collection cannot be begun: {e}");
                    send(outbox, self.hindered.note(&offer.collection, &format!("it could not be begun: {e}")));
                }
            }
        }
    }

    fn check(&self, offer: &Offer) -> Result<Accepted, Refused> {
        // Read anew for each order, so that a change of the policy needs no restart.
        let policy = Policy::load(&self.parts.policy).map_err(|e| Refused::new(Code::Policy, e.to_string()))?;
        let context = Context {
            anchor: &self.parts.credential.anchor,
            agent: &self.id,
            policy: &policy,
            now: clock::wall(),
            offset_ns: *self.offset_ns.borrow(),
            finished: self.parts.state.finished(),
            forgotten: self.parts.state.forgotten(&offer.collection),
        };
        order::verify(offer, &context)
    }

    fn refuse(&self, collection: &CollectionId, order: Digest, refused: &Refused, outbox: &Outbox) {
        tracing::warn!(%collection, "order refused: {refused}");
        let record = refused.record(collection.clone(), self.id.clone(), order, clock::wall());
        match record::sign(&record, &self.key) {
            Ok(envelope) => send(outbox, reply(collection, envelope.as_bytes().to_vec())),
            Err(e) => tracing::error!(%collection, "the refusal cannot be signed: {e}"),
        }
    }

    fn begin(&mut self, accepted: Accepted, continues: bool) -> std::io::Result<()> {
        let (order, facts, captures, budget, denied) = accepted.into_parts();
        let names: Vec<&'static str> = captures.iter().map(|(c, _)| c.name()).collect();
        tracing::info!(collection = %facts.collection, case = %facts.case, stream = facts.stream, captures = names.join(","),
            by = escape_bounded(&order.issued_by, 200), "collecting");
        let deadline = clock::monotonic().checked_add(Duration::from_secs(budget.deadline_s));
        let (control, progress) = (Arc::new(Control::new(deadline)), Arc::new(Progress::default()));
        let window = Arc::new(Window::new(self.parts.memory.segments_in_flight));
        let upload = Upload {
            facts: facts.clone(),
            instance: self.instance,
            window: Arc::clone(&window),
            progress: Arc::clone(&progress),
            statement: Statement {
                facts: facts.clone(),
                nonce: order.nonce,
                tool: self.parts.tool.clone(),
                offset_at_start_ns: *self.offset_ns.borrow(),
                offset_ns: self.offset_ns.subscribe(),
                wrote: self.parts.state.writes(),
            },
            key: Arc::clone(&self.key),
            send_bytes_per_s: budget.send_bytes_per_s,
            connection: self.connection.subscribe(),
        };
        let plan = Plan {
            facts: facts.clone(),
            captures,
            budget,
            memory: self.parts.memory,
            denied,
            own: pipeline::Own::of(&[self.parts.state.dir()]),
            manifest_bytes_max: exhibit_proto::bounds::MANIFEST_BYTES_MAX,
            key: Some(Arc::clone(&self.key)),
            control: Arc::clone(&control),
            progress: Arc::clone(&progress),
        };
        let (events, collection) = (self.events_in.clone(), facts.collection);
        // One that is taken up begins when the coordinator has said where.
        let later = if continues {
            Some(plan)
        } else {
            pipeline::start_into(plan, None, Arc::clone(&window))?;
            None
        };
        self.running = Some(Running {
            collection: collection.clone(),
            control,
            window,
            progress,
            expires_at: order.expires_at,
            shown: None,
            stuck: None,
        });
        tokio::spawn(async move {
            let ended = match later {
                None => upload.run().await,
                Some(plan) => take_up(upload, plan, &names).await,
            };
            // Without the agent nobody needs the news.
            let _ = events.send(Event::Ended(collection, ended)).await;
        });
        Ok(())
    }

    /// A collection's upload ended. Order: (1) the state folder, so that a later start knows; (2) memory. Says why the
    /// session should begin anew: a hello without the collection is how the coordinator hears that nobody works on it.
    pub(super) fn collection_ended(&mut self, collection: &CollectionId, ended: upload::Ended) -> Option<&'static str> {
        let running = self.running.take_if(|r| r.collection == *collection)?;
        let mut again = None;
        match ended {
            upload::Ended::Received(_) => {
                tracing::info!(%collection, items = running.progress.items.load(Ordering::Relaxed), "received whole by the coordinator");
                self.finished(collection.clone(), running.expires_at);
            }
            // Given up because the coordinator has closed it.
            upload::Ended::GivenUp(why) if self.parts.state.finished().contains(collection) => {
                tracing::info!(%collection, "ended: {why}");
            }
            upload::Ended::GivenUp(why) => {
                tracing::error!(%collection, "given up: {why}");
                // Said in the session that begins now.
                drop(self.hindered.note(collection, &format!("given up, to be begun again: {why}")));
                again = Some("a collection was given up");
            }
        }
        drop(running);
        exhibit_agent_sys::allocator::release_free_memory();
        again.filter(|_| !self.stopping)
    }

    fn finished(&mut self, collection: CollectionId, expires_at: Timestamp) {
        if let Err(e) = self.parts.state.remember(collection, expires_at, clock::wall()) {
            tracing::error!("a finished collection could not be written down; after a restart its order could be executed again: {e}");
        }
    }

    /// A responder cancels. What runs ends with what it has.
    pub(super) fn cancelled(&mut self, collection: &str, reason: &str) {
        let reason = exhibit_evidence::text::one_line(reason, exhibit_proto::bounds::REASON_BYTES_MAX);
        self.hindered.over(collection);
        self.waiting.retain(|w| w.collection.as_str() != collection);
        if let Some(running) = self.running.as_ref().filter(|r| r.collection.as_str() == collection) {
            tracing::info!(collection, "cancelled: {reason}");
            running.control.stop(Stop::Cancelled(reason));
        }
    }

    /// A read that never returns (a dead file server, a failing disk) must not keep this agent from other orders: the
    /// waiting thread is left behind, and the coordinator closes the collection with what it has.
    pub(super) fn leave_what_hangs(&mut self) {
        let Some(running) = self.running.as_mut() else { return };
        if running.hangs(clock::monotonic()) {
            let (capture, current) = running.progress.current();
            tracing::error!(collection = %running.collection, capture, current, "told to end, and the capture does not answer: it is left behind");
            running.window.give_up();
        }
    }

    /// The coordinator has closed a collection. If it still runs here, there is nobody left to send it to.
    pub(super) fn closed(&mut self, collection: &str, seal: &[u8]) {
        self.hindered.over(collection);
        self.waiting.retain(|w| w.collection.as_str() != collection);
        let outcome = Envelope::parse(seal).ok().and_then(|e| Record::from_payload(e.unverified_payload()).ok());
        let outcome = match &outcome {
            Some(Record::Seal(seal)) if seal.collection.as_str() == collection => seal.outcome.as_str(),
            _ => "unknown",
        };
        tracing::info!(collection = escape_bounded(collection, 60), outcome, "closed by the coordinator");
        if let Some(running) = self.running.as_ref().filter(|r| r.collection.as_str() == collection) {
            let (id, expires_at) = (running.collection.clone(), running.expires_at);
            running.control.stop(Stop::Cancelled("closed by the coordinator".to_owned()));
            running.window.give_up();
            // The order's one execution on this host was sealed, however it ended.
            self.finished(id, expires_at);
        }
    }
}

/// Goes on with the stream of an earlier process, or begins the next one where that cannot be.
async fn take_up(mut upload: Upload, mut plan: Plan, captures: &[&str]) -> upload::Ended {
    let from = upload.take_up(captures).await;
    if from.is_none() {
        let next = plan.facts.stream.saturating_add(1);
        plan.facts.stream = next;
        upload.facts.stream = next;
        upload.statement.facts.stream = next;
    }
    match pipeline::start_into(plan, from, Arc::clone(&upload.window)) {
        Ok(()) => upload.run().await,
        Err(e) => upload::Ended::GivenUp(format!("the collection cannot be begun: {e}")),
    }
}

fn reply(collection: &CollectionId, refusal: Vec<u8>) -> SessionRequest {
    request(session_request::Kind::OfferReply(OfferReply { collection: collection.to_string(), refusal }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use exhibit_evidence::AgentId;

    #[test]
    fn only_what_was_told_to_end_and_does_not_move_hangs() {
        let (order, agent) = (Digest::of(b"order"), AgentId::new(1, [1; 10]));
        let collection = CollectionId::of(&order, &agent);
        let (control, progress) = (Arc::new(Control::new(None)), Arc::new(Progress::default()));
        let mut running = Running {
            collection,
            control: Arc::clone(&control),
            window: Arc::new(Window::new(1)),
            progress: Arc::clone(&progress),
            expires_at: Timestamp::from_unix_s(0),
            shown: None,
            stuck: None,
        };
        let minute = |n: u32| Duration::from_mins(1).saturating_mul(n);
        assert!(!running.hangs(minute(0)) && !running.hangs(minute(5)), "nobody told it to end");
        control.stop(Stop::Deadline);
        assert!(!running.hangs(minute(6)), "first seen now");
        progress.items.store(1, Ordering::Relaxed);
        assert!(!running.hangs(minute(7)), "it moved");
        assert!(running.hangs(minute(8)));
        progress.ended.store(true, Ordering::Relaxed);
        assert!(!running.hangs(minute(9)), "it is done, only the upload is not");
    }
}
