//! A small model checker: every state that can be reached is looked at, the shortest way to a broken promise is shown.

use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;

/// A machine: where it begins, what can happen next, what must hold.
pub trait Machine {
    /// A state, whole: nothing outside it matters.
    type State: Clone + Eq + Hash + Debug;

    /// Where it begins.
    fn first(&self) -> Self::State;
    /// What can happen: a name, whether it is a fault, and the state afterwards.
    fn next(&self, state: &Self::State) -> Vec<(String, bool, Self::State)>;
    /// The promise that this state breaks.
    fn broken(&self, state: &Self::State) -> Option<&'static str>;
    /// True when everything that should happen has happened.
    fn is_done(&self, state: &Self::State) -> bool;
}

/// A broken promise and the shortest way to it.
#[derive(Debug)]
pub struct Broken {
    /// Which promise.
    pub promise: &'static str,
    /// What happened, in order.
    pub way: Vec<String>,
}

/// Promise of progress: without faults nothing goes on for ever, and where it stops it is done.
pub const STUCK: &str = "once faults stop, everything ends";

/// Looks at every state; gives how many there are, or the first broken promise.
pub fn search<M: Machine>(machine: &M) -> Result<usize, Broken> {
    let first = machine.first();
    let mut states = vec![first.clone()];
    let mut known = HashMap::from([(first, 0_usize)]);
    let mut from: Vec<(usize, String)> = vec![(0, String::new())];
    // For each state, where it leads without a fault.
    let mut calm: Vec<Vec<usize>> = Vec::new();
    let mut queue = VecDeque::from([0_usize]);
    let way = |from: &[(usize, String)], mut at: usize| {
        let mut way = Vec::new();
        while at != 0 {
            way.push(from[at].1.clone());
            at = from[at].0;
        }
        way.reverse();
        way
    };
    while let Some(at) = queue.pop_front() {
        let state = states[at].clone();
        if let Some(promise) = machine.broken(&state) {
            return Err(Broken { promise, way: way(&from, at) });
        }
        let mut leads_to = Vec::new();
        for (name, fault, next) in machine.next(&state) {
            let to = *known.entry(next.clone()).or_insert_with(|| {
                states.push(next);
                from.push((at, name));
                queue.push_back(states.len() - 1);
                states.len() - 1
            });
            if !fault {
                leads_to.push(to);
            }
        }
        if leads_to.is_empty() && !machine.is_done(&state) {
            return Err(Broken { promise: STUCK, way: way(&from, at) });
        }
        calm.push(leads_to);
    }
    match circle(&calm) {
        Some(at) => Err(Broken { promise: STUCK, way: way(&from, at) }),
        None => Ok(states.len()),
    }
}

/// A state from which faultless steps lead back to it: without one, every way without faults has an end.
fn circle(calm: &[Vec<usize>]) -> Option<usize> {
    let mut into = vec![0_usize; calm.len()];
    calm.iter().flatten().for_each(|to| into[*to] += 1);
    let mut free: Vec<usize> = (0..calm.len()).filter(|at| into[*at] == 0).collect();
    let mut seen = 0;
    while let Some(at) = free.pop() {
        seen += 1;
        for to in &calm[at] {
            into[*to] -= 1;
            if into[*to] == 0 {
                free.push(*to);
            }
        }
    }
    (seen < calm.len()).then(|| into.iter().position(|n| *n > 0).unwrap_or(0))
}
