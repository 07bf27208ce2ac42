//! From a seed to a plan of faults. The same seed gives the same plan; what the plan meets depends on the machine's
//! timing as well, so a replay comes close to the failed run and need not be the same.

use std::time::Duration;

use exhibit_coordinator::catalog::{CatalogError, faulty as catalog};
use exhibit_coordinator::store::{Kind, faulty as store};

use crate::proxy::{Break, NetFault, Way};

/// SplitMix64 (Steele, Lea, Flood 2014): a small generator with a seed.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// From a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// The next number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    /// One of these.
    pub fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }

    /// So many milliseconds or more.
    pub fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

/// One fault.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The network's.
    Net(NetFault),
    /// One operation of the store, or a few in a row: which, in what names, how many work before, how many fail.
    Store(store::Op, &'static str, u32, u32, store::Fault),
    /// One method of the catalog, or a few calls in a row.
    Catalog(&'static str, u32, u32, catalog::Fault),
    /// When the agent has sent so many bytes, the coordinator dies; another one starts after a while.
    Crash(u64, Duration),
    /// When the agent has sent so many bytes, every write to the store fails like this, for a while.
    StoreOutage(u64, Kind, Duration),
    /// When the agent has sent so many bytes, every write to the catalog is refused as busy, for a while.
    CatalogOutage(u64, Duration),
    /// Writes to store and catalog fail with this chance in a thousand until faults stop.
    Noise(u64, u32),
}

/// Methods of the catalog that a collection's way meets, those that are called often more than once.
const METHODS: [&str; 16] = [
    "add_order",
    "order",
    "case",
    "agent",
    "change",
    "change",
    "open_stream",
    "collection",
    "stream",
    "commit_segment",
    "commit_segment",
    "finish_stream",
    "receive_stream",
    "streams",
    "segments",
    "manifest_part",
];

/// The plan of a seed, for an agent that sends about so many bytes. Every third seed is a single fault.
pub fn plan(seed: u64, bytes: u64) -> Vec<Fault> {
    let mut dice = Dice::new(seed);
    let count = if seed.is_multiple_of(3) { 1 } else { 2 + dice.below(5) };
    let mut faults: Vec<Fault> = (0..count).map(|_| fault(&mut dice, bytes)).collect();
    // A single fault is one operation or one death, not a row of them.
    if let [Fault::Store(_, _, _, times, _) | Fault::Catalog(_, _, times, _)] = &mut faults[..] {
        *times = 1;
    }
    faults
}

fn fault(dice: &mut Dice, bytes: u64) -> Fault {
    let at = dice.below(bytes);
    match dice.below(100) {
        0..40 => net(dice, at),
        40..60 => {
            let (op, names) = dice.one(&[
                (store::Op::PutNew, ".tar.zst"),
                (store::Op::PutNew, "manifest"),
                (store::Op::PutNew, "log/"),
                (store::Op::PutHead, ""),
                (store::Op::Get, ""),
                (store::Op::List, ""),
            ]);
            let times = 1 + dice.below(3) as u32;
            Fault::Store(op, names, dice.below(4) as u32, times, store_fault(dice, op))
        }
        60..78 => Fault::Catalog(dice.one(&METHODS), dice.below(4) as u32, 1 + dice.below(3) as u32, catalog_fault(dice)),
        78..88 => Fault::Crash(at, dice.ms(1, 600)),
        88..93 => Fault::StoreOutage(at, dice.one(&[Kind::Retry, Kind::Full, Kind::Denied]), dice.ms(100, 1_500)),
        93..97 => Fault::CatalogOutage(at, dice.ms(100, 1_500)),
        _ => Fault::Noise(dice.below(u64::MAX), 20 + dice.below(180) as u32),
    }
}

fn net(dice: &mut Dice, up: u64) -> Fault {
    // What comes down is a few kilobytes of answers.
    let (way, at) = if dice.below(3) > 0 { (Way::Up, up) } else { (Way::Down, dice.below(12_000)) };
    let what = match dice.below(8) {
        0 => Break::Cut,
        1 => Break::Reset,
        2 => Break::Stall(dice.ms(10, 2_000)),
        3 => Break::Throttle(200_000 + dice.below(20_000_000), dice.ms(100, 1_500)),
        4 => Break::HalfClose,
        5 => Break::Orphan(dice.ms(10, 4_000)),
        6 => Break::Flip,
        _ => Break::Outage(dice.ms(10, 1_500)),
    };
    Fault::Net(NetFault { way, at, what })
}

fn store_fault(dice: &mut Dice, op: store::Op) -> store::Fault {
    let kind = dice.one(&[Kind::Retry, Kind::Retry, Kind::Full, Kind::Denied]);
    match dice.below(6) {
        0 | 1 => store::Fault::Before(kind),
        2 if op == store::Op::Get => dice.one(&[store::Fault::Short, store::Fault::Corrupt]),
        2 => store::Fault::After(kind),
        3 => store::Fault::Delay(dice.ms(10, 800)),
        4 => store::Fault::DieBefore,
        _ => store::Fault::DieAfter,
    }
}

fn catalog_fault(dice: &mut Dice) -> catalog::Fault {
    let error = dice.one(&[CatalogError::Busy("injected".to_owned()), CatalogError::Failed("injected".to_owned())]);
    match dice.below(5) {
        0 => catalog::Fault::Before(error),
        1 => catalog::Fault::After(error),
        2 => catalog::Fault::Delay(dice.ms(10, 800)),
        3 => catalog::Fault::DieBefore,
        _ => catalog::Fault::DieAfter,
    }
}

#[test]
fn a_seed_is_a_plan() {
    let shown = |seed| format!("{:?}", plan(seed, 20_000_000));
    assert_eq!(shown(7), shown(7));
    assert_ne!(shown(7), shown(8));
    assert_eq!(plan(9, 20_000_000).len(), 1);
}
