//! The way of one stream from the agent's window to the seal, as a machine of small steps. `docs/model.md` says what
//! stands for what, and what is left out.

use crate::search::Machine;

/// Segments of the stream.
pub const SEGMENTS: usize = 3;

/// Which rules the coordinator keeps; all of them are kept by the real one. Each test of a mutation drops one.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_excessive_bools, reason = "each is one rule that a mutation drops")]
pub struct Rules {
    /// A segment is checked before it is stored.
    pub check_first: bool,
    /// A segment is acknowledged only after it is stored.
    pub ack_after_store: bool,
    /// ... and only after that is committed.
    pub ack_after_commit: bool,
    /// The log is looked at before a seal is added.
    pub one_seal: bool,
    /// Objects that were stored and not committed are taken over before the end is written.
    pub adopt: bool,
    /// A put that has begun is waited for, also when its upload was cut, before the end is written.
    pub wait_for_puts: bool,
    /// A coordinator that starts looks for streams that are finished and not ended.
    pub recover: bool,
    /// An agent sends again what was not acknowledged.
    pub send_again: bool,
}

impl Rules {
    /// Those of the real programs.
    pub const REAL: Self = Self {
        check_first: true,
        ack_after_store: true,
        ack_after_commit: true,
        one_seal: true,
        adopt: true,
        wait_for_puts: true,
        recover: true,
        send_again: true,
    };
}

/// An object of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Object {
    /// There is none.
    Absent,
    /// What the agent took.
    Good,
    /// Something that a check refuses.
    Bad,
}

/// From the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Up {
    /// Opens an upload.
    Open,
    /// A segment, and whether a check takes it.
    Segment(u8, bool),
    /// The stream's end.
    Finish,
}

/// To the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Down {
    /// Where to begin; true when nothing need be sent.
    Status(u8, bool),
    /// A segment is durable.
    Ack(u8),
    /// Sealed.
    Done,
}

/// What the coordinator's end of a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hand {
    /// Waits for the opening.
    New,
    /// Waits for the next message; the number that it expects.
    Ready(u8),
    /// Puts a segment.
    Put(u8, bool),
    /// Commits it.
    Commit(u8),
    /// Says that it is durable.
    Ack(u8),
    /// The stream is finished in the catalog; the collection is ended next.
    End,
    /// Waits for the seal.
    Wait,
    /// Over.
    Over,
}

/// A connection. The agent uses the newest only; the coordinator does not know which is dead.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Link {
    /// The agent has it.
    agent: bool,
    /// The agent waits for an answer.
    asked: bool,
    up: Vec<Up>,
    down: Vec<Down>,
    hand: Hand,
}

/// A stream in the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Takes segments.
    Open,
    /// Ended by its agent, or for it.
    Finished,
    /// Receipt written.
    Received,
}

/// A collection in the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Collection {
    /// Takes uploads.
    Running,
    /// Its end is decided.
    Sealing,
    /// Its end is written.
    Closed,
}

/// What the sealer does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sealing {
    Adopt,
    Finish,
    Compare,
    Receipt,
    Look,
    Seal,
    Close,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    // The agent.
    acked: u8,
    agent_done: bool,
    agent_rejected: bool,
    // The network.
    links: Vec<Link>,
    // What survives a death of the coordinator.
    store: [Object; SEGMENTS],
    committed: u8,
    stream: Stream,
    collection: Collection,
    receipts: u8,
    /// How many segments each seal covers.
    seals: Vec<u8>,
    // What does not.
    alive: bool,
    sealer: Option<Sealing>,
    /// Puts whose caller is gone and that may still happen.
    late: Vec<(u8, bool)>,
    // How many faults may still come.
    faults: u8,
}

/// The machine.
#[derive(Debug)]
pub struct Protocol {
    /// Rules.
    pub rules: Rules,
    /// Faults in one history at most.
    pub faults: u8,
}

/// Steps under construction: a name, whether it is a fault, the state afterwards.
type Steps = Vec<(String, bool, State)>;

impl State {
    /// The state afterwards.
    fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut next = self.clone();
        change(&mut next);
        // A connection that neither end has is gone, so that equal states look equal.
        next.links.retain(|l| l.agent || l.hand != Hand::Over);
        next
    }

    fn put(&mut self, n: u8, good: bool) {
        let object = &mut self.store[usize::from(n)];
        if *object == Object::Absent {
            *object = if good { Object::Good } else { Object::Bad };
        }
    }

    fn commit(&mut self, n: u8) -> bool {
        let now = self.stream == Stream::Open && self.committed == n;
        self.committed += u8::from(now);
        now
    }
}

impl Machine for Protocol {
    type State = State;

    fn first(&self) -> State {
        State {
            acked: 0,
            agent_done: false,
            agent_rejected: false,
            links: Vec::new(),
            store: [Object::Absent; SEGMENTS],
            committed: 0,
            stream: Stream::Open,
            collection: Collection::Running,
            receipts: 0,
            seals: Vec::new(),
            alive: true,
            sealer: None,
            late: Vec::new(),
            faults: self.faults,
        }
    }

    fn next(&self, state: &State) -> Steps {
        let mut steps = Vec::new();
        self.agent(state, &mut steps);
        if state.alive {
            for at in 0..state.links.len() {
                self.hand(state, at, &mut steps);
            }
            self.sealer(state, &mut steps);
        } else {
            steps.push(("the coordinator starts".to_owned(), false, self.started(state)));
        }
        for (i, (n, good)) in state.late.iter().enumerate() {
            let next = state.with(|s| {
                s.late.remove(i);
                s.put(*n, *good);
            });
            steps.push((format!("the put of segment {n} happens after all"), false, next));
        }
        if state.faults > 0 {
            self.faults(state, &mut steps);
        }
        steps
    }

    fn broken(&self, state: &State) -> Option<&'static str> {
        let durable = |n: u8| state.store[usize::from(n)] == Object::Good && n < state.committed;
        if !(0..state.acked).all(durable) {
            return Some("acknowledged implies durable");
        }
        if state.seals.len() > 1 {
            return Some("at most one seal");
        }
        if let Some(covers) = state.seals.first() {
            if state.acked > *covers {
                return Some("sealed implies everything acknowledged is in it");
            }
            if (0..*covers).any(|n| state.store[usize::from(n)] != Object::Good) {
                return Some("sealed implies verified");
            }
            if (usize::from(*covers)..SEGMENTS).any(|n| state.store[n] != Object::Absent) {
                return Some("sealed implies that nothing else is there");
            }
        }
        (state.agent_done && state.stream == Stream::Open).then_some("an agent lets go only of what is received whole")
    }

    fn is_done(&self, state: &State) -> bool {
        state.collection == Collection::Closed && (state.agent_done || state.agent_rejected)
    }
}

impl Protocol {
    fn agent(&self, state: &State, steps: &mut Steps) {
        if state.agent_done || state.agent_rejected {
            return;
        }
        let Some(at) = state.links.iter().position(|l| l.agent) else {
            // An agent that finds the end being written waits a moment and asks again: here it waits.
            let worth = state.collection != Collection::Sealing || state.stream != Stream::Open;
            if state.alive && worth && (self.rules.send_again || state.acked == 0) {
                let link = Link { agent: true, asked: true, up: vec![Up::Open], down: Vec::new(), hand: Hand::New };
                steps.push(("the agent connects".to_owned(), false, state.with(|s| s.links.push(link))));
            }
            return;
        };
        let link = &state.links[at];
        if let Some(answer) = link.down.first() {
            let next = state.with(|s| {
                s.links[at].down.remove(0);
                s.links[at].asked = false;
                match answer {
                    Down::Status(next, finished) => {
                        s.acked = s.acked.max(*next);
                        s.agent_done = *finished;
                    }
                    Down::Ack(n) => s.acked = s.acked.max(n + 1),
                    Down::Done => s.agent_done = true,
                }
                s.links[at].agent = !s.agent_done;
            });
            steps.push((format!("the agent hears {answer:?}"), false, next));
        } else if !link.asked {
            let message = if usize::from(state.acked) < SEGMENTS { Up::Segment(state.acked, true) } else { Up::Finish };
            let send = |message| {
                state.with(|s| {
                    s.links[at].up.push(message);
                    s.links[at].asked = true;
                })
            };
            steps.push((format!("the agent sends {message:?}"), false, send(message)));
            if state.faults > 0
                && let Up::Segment(n, _) = message
            {
                let bad = send(Up::Segment(n, false));
                steps.push((format!("the agent sends a false segment {n}"), true, State { faults: state.faults - 1, ..bad }));
            }
        } else if link.hand == Hand::Over {
            steps.push(("the agent sees that the connection is closed".to_owned(), false, state.with(|s| s.links[at].agent = false)));
        }
    }

    fn hand(&self, state: &State, at: usize, steps: &mut Steps) {
        let link = &state.links[at];
        let hand = link.hand;
        let mut step = |name: String, next: State| steps.push((name, false, next));
        let to = |hand: Hand| state.with(|s| s.links[at].hand = hand);
        match hand {
            Hand::New | Hand::Ready(_) if !link.up.is_empty() => self.message(state, at, steps),
            Hand::New | Hand::Ready(_) if !link.agent => step("the coordinator sees that a connection is dead".to_owned(), to(Hand::Over)),
            Hand::Put(n, good) => {
                let next = if self.rules.ack_after_commit { Hand::Commit(n) } else { Hand::Ack(n) };
                step(
                    format!("segment {n} is stored"),
                    state.with(|s| {
                        s.put(n, good);
                        s.links[at].hand = next;
                    }),
                );
            }
            Hand::Commit(n) => step(
                format!("segment {n} is committed"),
                state.with(|s| {
                    s.links[at].hand = if s.commit(n) { Hand::Ack(n) } else { Hand::Over };
                }),
            ),
            Hand::Ack(n) => step(
                format!("segment {n} is acknowledged"),
                state.with(|s| {
                    s.links[at].down.push(Down::Ack(n));
                    s.links[at].hand = match (self.rules.ack_after_store, self.rules.ack_after_commit) {
                        // It was cut while it wrote: what was written is said, nothing more is taken.
                        _ if s.collection != Collection::Running => Hand::Over,
                        (false, _) if s.store[usize::from(n)] == Object::Absent => Hand::Put(n, true),
                        (_, false) if s.committed == n => Hand::Commit(n),
                        _ => Hand::Ready(n + 1),
                    };
                }),
            ),
            Hand::End => step(
                "the collection is ended".to_owned(),
                state.with(|s| {
                    s.end();
                    s.links[at].hand = Hand::Wait;
                }),
            ),
            Hand::Wait if state.collection == Collection::Closed => step(
                "the agent is told that all is received".to_owned(),
                state.with(|s| {
                    s.links[at].down.push(Down::Done);
                    s.links[at].hand = Hand::Over;
                }),
            ),
            Hand::New | Hand::Ready(_) | Hand::Wait | Hand::Over => {}
        }
    }

    /// The coordinator takes a message of a connection.
    fn message(&self, state: &State, at: usize, steps: &mut Steps) {
        let message = state.links[at].up[0];
        let next = state.with(|s| {
            s.links[at].up.remove(0);
            let hand = match (message, s.links[at].hand) {
                (Up::Open, _) => self.open(s, at),
                (Up::Segment(n, _), Hand::Ready(next)) if n < next => Hand::Ack(n),
                (Up::Segment(_, false), Hand::Ready(_)) if self.rules.check_first => Hand::Over,
                (Up::Segment(n, good), Hand::Ready(_)) if self.rules.ack_after_store => Hand::Put(n, good),
                (Up::Segment(n, _), Hand::Ready(_)) => Hand::Ack(n),
                (Up::Finish, Hand::Ready(_)) if s.stream == Stream::Open && usize::from(s.committed) == SEGMENTS => {
                    s.stream = Stream::Finished;
                    Hand::End
                }
                _ => Hand::Over,
            };
            s.links[at].hand = hand;
        });
        steps.push((format!("the coordinator takes {message:?}"), false, next));
    }

    /// An upload is let in: the older ones of the stream are cut.
    fn open(&self, s: &mut State, at: usize) -> Hand {
        for older in 0..at {
            match s.links[older].hand {
                // What has begun to be written is written, and the new upload waits for it.
                Hand::Put(n, good) if self.rules.wait_for_puts => {
                    s.put(n, good);
                    s.commit(n);
                }
                Hand::Commit(n) if self.rules.wait_for_puts => {
                    s.commit(n);
                }
                Hand::Put(n, good) => s.late.push((n, good)),
                _ => {}
            }
            s.links[older].hand = Hand::Over;
        }
        if s.stream != Stream::Open && usize::from(s.committed) == SEGMENTS {
            s.links[at].down.push(Down::Status(s.committed, true));
            // An upload that was cut between finish and end left the end to this one.
            return if s.collection == Collection::Running { Hand::End } else { Hand::Over };
        }
        if s.collection != Collection::Running {
            // Closed without the agent: it is told so and lets go.
            s.agent_rejected = true;
            return Hand::Over;
        }
        s.links[at].down.push(Down::Status(s.committed, false));
        Hand::Ready(s.committed)
    }

    fn sealer(&self, state: &State, steps: &mut Steps) {
        let Some(at) = state.sealer else { return };
        let to = |next: Sealing, change: &dyn Fn(&mut State)| {
            state.with(|s| {
                change(s);
                s.sealer = Some(next);
            })
        };
        let busy = state.links.iter().any(|l| matches!(l.hand, Hand::Put(..) | Hand::Commit(_)));
        let next = match at {
            Sealing::Adopt if self.rules.wait_for_puts && busy => return,
            Sealing::Adopt if state.stream != Stream::Open => to(Sealing::Compare, &|_| {}),
            Sealing::Adopt if self.rules.adopt && state.store.get(usize::from(state.committed)) == Some(&Object::Good) => {
                to(Sealing::Adopt, &|s| s.committed += 1)
            }
            Sealing::Adopt => to(Sealing::Finish, &|_| {}),
            Sealing::Finish => to(Sealing::Compare, &|s| s.stream = Stream::Finished),
            Sealing::Compare => {
                let stored = state.store.iter().filter(|o| **o != Object::Absent).count();
                if stored != usize::from(state.committed) {
                    // Damage: a person must look. The timer tries again and finds the same.
                    return;
                }
                to(Sealing::Receipt, &|_| {})
            }
            Sealing::Receipt => to(Sealing::Look, &|s| {
                s.receipts = 1;
                s.stream = Stream::Received;
            }),
            Sealing::Look if state.seals.is_empty() || !self.rules.one_seal => to(Sealing::Seal, &|_| {}),
            Sealing::Look => to(Sealing::Close, &|_| {}),
            Sealing::Seal => to(Sealing::Close, &|s| s.seals.push(s.committed)),
            Sealing::Close => state.with(|s| {
                s.collection = Collection::Closed;
                s.sealer = None;
            }),
        };
        steps.push((format!("the sealer does {at:?}"), false, next));
    }

    fn faults(&self, state: &State, steps: &mut Steps) {
        let mut fault = |name: String, next: State| steps.push((name, true, State { faults: state.faults - 1, ..next }));
        if state.alive {
            for applied in [false, true] {
                let name = if applied { "the coordinator dies; what it was writing is there" } else { "the coordinator dies" };
                fault(name.to_owned(), died(state, applied));
            }
        }
        if let Some(at) = state.links.iter().position(|l| l.agent) {
            // The coordinator may take what is under way, and may believe for long that the connection lives.
            fault("the connection is lost for the agent".to_owned(), state.with(|s| s.links[at].agent = false));
            fault(
                "the connection is lost for both, with what was under way".to_owned(),
                state.with(|s| {
                    s.links[at].agent = false;
                    s.links[at].up.clear();
                    s.links[at].down.clear();
                }),
            );
        }
        for (at, link) in state.links.iter().enumerate() {
            if let Hand::Put(n, good) = link.hand {
                fault(format!("the put of segment {n} fails and was applied"), state.with(|s| s.put(n, good)));
            }
            if let Hand::Commit(n) = link.hand {
                fault(
                    format!("the commit of segment {n} fails and was applied"),
                    state.with(|s| {
                        s.commit(n);
                        s.links[at].hand = Hand::Over;
                    }),
                );
            }
        }
        if state.sealer == Some(Sealing::Seal) {
            fault(
                "the seal fails and was applied".to_owned(),
                state.with(|s| {
                    s.seals.push(s.committed);
                    s.sealer = Some(Sealing::Look);
                }),
            );
        }
        if state.alive && state.collection == Collection::Running {
            fault("time is up".to_owned(), state.with(|s| self.time_is_up(s)));
        }
    }

    /// The deadline: the collection is ended with what there is, its uploads are cut.
    fn time_is_up(&self, s: &mut State) {
        s.end();
        for at in 0..s.links.len() {
            match s.links[at].hand {
                Hand::Put(n, good) if !self.rules.wait_for_puts => {
                    s.late.push((n, good));
                    s.links[at].hand = Hand::Over;
                }
                // What has begun to be written is written.
                Hand::Put(..) | Hand::Commit(_) | Hand::End | Hand::Wait => {}
                _ => s.links[at].hand = Hand::Over,
            }
        }
    }

    fn started(&self, state: &State) -> State {
        state.with(|s| {
            s.alive = true;
            if self.rules.recover && s.stream == Stream::Finished && s.collection == Collection::Running {
                s.end();
            }
            if s.collection == Collection::Sealing {
                s.sealer = Some(Sealing::Adopt);
            }
        })
    }
}

impl State {
    fn end(&mut self) {
        if self.collection == Collection::Running {
            self.collection = Collection::Sealing;
            self.sealer = Some(Sealing::Adopt);
        }
    }
}

/// The coordinator's process ends. A write that was under way happened, or did not.
fn died(state: &State, applied: bool) -> State {
    state.with(|s| {
        for at in 0..s.links.len() {
            match s.links[at].hand {
                Hand::Put(n, good) if applied => s.put(n, good),
                Hand::Commit(n) if applied => {
                    s.commit(n);
                }
                _ => {}
            }
            s.links[at].hand = Hand::Over;
            s.links[at].up.clear();
            // What was sent may still arrive, or not.
            if !applied {
                s.links[at].down.clear();
            }
        }
        if applied {
            for (n, good) in std::mem::take(&mut s.late) {
                s.put(n, good);
            }
            if s.sealer == Some(Sealing::Seal) {
                s.seals.push(s.committed);
            }
        }
        s.late.clear();
        s.sealer = None;
        s.alive = false;
    })
}
