//! The data path end to end: how fast, at what cost, how near to what the machine can do. `tests/bench/run` runs it;
//! `docs/operations/benchmarks.md` says what each figure means.
#![allow(clippy::disallowed_methods, reason = "a benchmark measures time")]

mod data;
mod figures;
mod floor;
mod peer;
mod plot;
mod product;
mod receiver;

use std::path::{Path, PathBuf};
use std::time::Duration;

use data::{Data, Shelf};
use figures::{Measure, Round};
use peer::Peer;
use product::Setting;

/// Runs of each measure; the median of three survives one disturbed run.
const RUNS: usize = 3;
/// From Frankfurt to Virginia and back, about.
const RTT: Duration = Duration::from_millis(80);

const BENCHES: [&str; 6] = ["collect", "size", "agents", "rtt", "sparse", "s3"];

/// What is measured how often and how large.
struct Sizes {
    /// Bytes of mix, logs and random.
    large: u64,
    /// Number of small files.
    files: usize,
    /// Bytes for the growth in size.
    growth: [u64; 3],
    /// Agents at once.
    agents: &'static [usize],
    /// Bytes that each of them collects.
    each: u64,
    /// Bytes over the long line.
    line: u64,
    /// Logical bytes of the sparse file.
    sparse: u64,
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const FULL: Sizes = Sizes {
    large: 4 * GIB,
    files: 50_000,
    growth: [GIB, 4 * GIB, 16 * GIB],
    agents: &[1, 2, 4, 8],
    each: GIB,
    line: GIB,
    sparse: 256 * GIB,
};
const QUICK: Sizes = Sizes {
    large: 256 * MIB,
    files: 5_000,
    growth: [64 * MIB, 128 * MIB, 256 * MIB],
    agents: &[1, 2, 4],
    each: 64 * MIB,
    line: 128 * MIB,
    sparse: 4 * GIB,
};

/// What is to be measured, as the command line says.
struct Bench {
    quick: bool,
    /// Benches or data; none = all.
    words: Vec<String>,
    folder: PathBuf,
    shelf: Shelf,
    measures: Vec<Measure>,
}

fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    // `cargo test --benches` and nextest call with --list or --test: there is nothing to test here.
    if args.iter().any(|a| a == "--list" || a == "--test") {
        return;
    }
    let quick = args.iter().any(|a| a == "--quick");
    args.retain(|a| a != "--quick");
    let folder = exhibit_tests::programs().parent().map_or_else(|| Path::new("target").join("bench"), |t| t.join("bench"));
    std::fs::create_dir_all(&folder).expect("folder for the results");
    let shelf = Shelf::new(&folder);
    let mut bench = Bench { quick, words: args, folder, shelf, measures: Vec::new() };
    bench.collect();
    bench.size();
    bench.agents();
    bench.rtt();
    bench.sparse();
    bench.s3();
    assert!(!bench.measures.is_empty(), "nothing is called {:?}", bench.words);
    let svg = bench.folder.join("datapath.svg");
    std::fs::write(&svg, plot::svg(&bench.measures)).expect("plot");
    eprintln!("\n{}plot: {}", figures::table(&bench.measures), svg.display());
}

impl Bench {
    const fn sizes(&self) -> &'static Sizes {
        if self.quick { &QUICK } else { &FULL }
    }

    /// Of benches and of data those that were named, or all where none was.
    fn wants(&self, bench: &str, data: &str) -> bool {
        let (benches, kinds): (Vec<&String>, Vec<&String>) = self.words.iter().partition(|w| BENCHES.contains(&w.as_str()));
        (benches.is_empty() || benches.iter().any(|w| *w == bench)) && (kinds.is_empty() || kinds.iter().any(|w| *w == data))
    }

    /// Each kind of data, against floor and peers.
    fn collect(&mut self) {
        let sizes = self.sizes();
        for name in ["mix", "logs", "random", "small"] {
            if !self.wants("collect", name) {
                continue;
            }
            let data = match name {
                "mix" => self.shelf.mix(1, sizes.large),
                "logs" => self.shelf.logs(2, sizes.large),
                "random" => self.shelf.random(3, sizes.large),
                _ => self.shelf.small(sizes.files),
            };
            let peers = Peer::of(&data);
            self.measure("collect", &data, &data, Setting::default(), peers);
        }
    }

    /// Memory and rate as one item grows; the floor carries the smallest.
    fn size(&mut self) {
        if self.wants("size", "mix") {
            let all = self.sizes().growth.map(|bytes| self.shelf.mix(1, bytes));
            for data in &all {
                self.measure("size", data, &all[0], Setting::default(), &[]);
            }
        }
    }

    /// Several agents at once.
    fn agents(&mut self) {
        if self.wants("agents", "mix") {
            let data = self.shelf.mix(1, self.sizes().each);
            for agents in self.sizes().agents {
                self.measure("agents", &data, &data, Setting { agents: *agents, ..Setting::default() }, &[]);
            }
        }
    }

    /// One upload over a long line: what windows and acknowledgements cost.
    fn rtt(&mut self) {
        if self.wants("rtt", "random") {
            let data = self.shelf.random(3, self.sizes().line);
            self.measure("rtt", &data, &data, Setting { rtt: RTT, ..Setting::default() }, &[]);
        }
    }

    /// A file of which nearly all is hole. Its floor would be hashing zeros, nothing else.
    fn sparse(&mut self) {
        let named = self.words.iter().any(|w| w == "sparse");
        if named || (!self.quick && self.words.is_empty()) {
            let data = self.shelf.sparse(self.sizes().sparse);
            self.measure_runs("sparse", &data, None, Setting::default(), &[], 1);
        }
    }

    /// The same into an S3 server on loopback; each run beside one into a folder.
    fn s3(&mut self) {
        let sizes = self.sizes();
        for name in ["mix", "random", "small"] {
            if self.wants("s3", name) {
                let data = match name {
                    "mix" => self.shelf.mix(1, sizes.large),
                    "random" => self.shelf.random(3, sizes.large),
                    _ => self.shelf.small(sizes.files),
                };
                self.measure_runs("s3", &data, Some(&data), Setting { s3: true, ..Setting::default() }, &[], RUNS);
            }
        }
    }

    fn measure(&mut self, bench: &'static str, data: &Data, floor_data: &Data, setting: Setting, peers: &[Peer]) {
        self.measure_runs(bench, data, Some(floor_data), setting, peers, RUNS);
    }

    fn measure_runs(&mut self, bench: &'static str, data: &Data, floor: Option<&Data>, setting: Setting, peers: &[Peer], runs: usize) {
        let rounds = (1..=runs).map(|n| self.round(bench, data, floor, setting, peers, n == runs)).collect();
        let measure = Measure { bench, data: data.clone(), floor_data: floor.unwrap_or(data).clone(), setting, rounds };
        if let Some(compression) = measure.compression() {
            let expected = data.compression();
            assert!(expected.contains(&compression), "{} compresses by {compression:.2}, not {expected:?}", data.name);
        }
        println!("{}", measure.json());
        self.measures.push(measure);
    }

    fn round(&self, bench: &str, data: &Data, floor: Option<&Data>, setting: Setting, peers: &[Peer], last: bool) -> Round {
        let floor = floor.map(|data| {
            data.warm();
            floor::run(data)
        });
        // Proving the case takes as long as reading it, so once a measure.
        let local = setting.s3.then(|| product::run(data, Setting { s3: false, ..setting }));
        let run = product::run(data, Setting { verify: last, ..setting });
        let peers: Vec<(Peer, f64)> = peers.iter().map(|p| (*p, p.run(data, &self.folder.join("by-hand")))).collect();
        let told: Vec<String> = peers.iter().map(|(p, s)| format!("{p:?} {s:.2} s")).collect();
        eprintln!(
            "{bench} {} x {}: {:.2} s (command {:.2} s), floor {:.2} s, {}",
            data.name,
            setting.agents,
            run.seconds,
            run.command_s,
            floor.map_or(0.0, |f| f.seconds),
            told.join(", ")
        );
        Round { run, local, floor, peers }
    }
}
