//! From runs to figures: medians with their spread, one JSON line a measure, one table.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::data::Data;
use crate::floor::Floor;
use crate::peer::Peer;
use crate::product::{Run, Setting};
use crate::receiver::Requests;

/// Median of several runs, with the least and the most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The middle one (of an even number the mean of the two).
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// Of values; nothing of none.
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Some(Self { median: f64::midpoint(low, high), min, max })
    }
}

/// What was run one right after the other, so that a slow moment of the machine meets all of it.
#[derive(Debug, Clone)]
pub struct Round {
    /// The product.
    pub run: Run,
    /// The product with its local store, where `run` is with another.
    pub local: Option<Run>,
    /// The floor.
    pub floor: Option<Floor>,
    /// The peers, with their seconds.
    pub peers: Vec<(Peer, f64)>,
}

/// All rounds of one measure.
#[derive(Debug, Clone)]
pub struct Measure {
    /// `collect`, `size`, `agents`, `rtt`, `sparse` or `s3`.
    pub bench: &'static str,
    /// What was collected, by each agent.
    pub data: Data,
    /// What the floor carried.
    pub floor_data: Data,
    /// How the product ran.
    pub setting: Setting,
    /// At least one.
    pub rounds: Vec<Round>,
}

const MIB: f64 = (1 << 20) as f64;

impl Measure {
    /// Bytes that all agents together collected.
    fn bytes(&self) -> f64 {
        self.data.bytes as f64 * self.setting.agents as f64
    }

    /// GiB that all agents together collected.
    pub fn gib(&self) -> f64 {
        self.data.gib() * self.setting.agents as f64
    }

    /// Something of each round of the product.
    pub fn spread(&self, of: impl Fn(&Run) -> f64) -> Spread {
        Spread::of(self.rounds.iter().map(|r| of(&r.run))).expect("at least one round")
    }

    /// MiB of raw bytes per second, from the order to the seal.
    pub fn mib_per_s(&self) -> Spread {
        self.spread(|run| self.bytes() / MIB / run.seconds)
    }

    /// The same of the floor.
    pub fn floor_mib_per_s(&self) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter_map(|r| Some(self.floor_data.bytes as f64 / MIB / r.floor?.seconds)))
    }

    /// The product's rate by the floor's, round by round.
    pub fn ratio_to_floor(&self) -> Option<Spread> {
        let floor_bytes = self.floor_data.bytes as f64;
        Spread::of(self.rounds.iter().filter_map(|r| Some(self.bytes() / r.run.seconds / (floor_bytes / r.floor?.seconds))))
    }

    /// Raw by compressed bytes, zstd level 1.
    pub fn compression(&self) -> Option<f64> {
        let floor = self.rounds.first()?.floor?;
        Some(self.floor_data.bytes as f64 / floor.stored_bytes as f64)
    }

    /// The pipeline with both hashes whose median is best.
    pub fn best_peer(&self) -> Option<Peer> {
        let peers = self.rounds.first()?.peers.iter().map(|(peer, _)| *peer).filter(|p| *p != Peer::Local);
        let seconds = |p: &Peer| self.peer_seconds(*p).map_or(f64::MAX, |s| s.median);
        peers.min_by(|a, b| seconds(a).total_cmp(&seconds(b)))
    }

    /// Seconds of a pipeline.
    pub fn peer_seconds(&self, peer: Peer) -> Option<Spread> {
        Spread::of(self.rounds.iter().flat_map(|r| &r.peers).filter(|(p, _)| *p == peer).map(|(_, s)| *s))
    }

    /// The best pipeline's rate.
    pub fn peer_mib_per_s(&self) -> Option<Spread> {
        let best = self.best_peer()?;
        Spread::of(self.rounds.iter().flat_map(|r| &r.peers).filter(|(p, _)| *p == best).map(|(_, s)| self.data.bytes as f64 / MIB / s))
    }

    /// The product's rate by that of a pipeline, round by round.
    pub fn ratio_to(&self, peer: Peer) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter_map(|r| {
            let (_, seconds) = r.peers.iter().find(|(p, _)| *p == peer)?;
            Some(seconds / r.run.seconds)
        }))
    }

    /// The rate into the S3 server by that into the folder, round by round.
    pub fn ratio_to_local(&self) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter_map(|r| Some(r.local?.seconds / r.run.seconds)))
    }

    /// Something of what the S3 server was asked in each round.
    fn asked(&self, of: impl Fn(Requests) -> f64) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter_map(|r| r.run.requests).map(of))
    }

    /// The measure as one JSON object. Each figure is a median; `<figure>_min` and `<figure>_max` are its spread; null was
    /// not measured.
    pub fn json(&self) -> Value {
        let mut out = Map::new();
        out.insert("bench".into(), json!(self.bench));
        out.insert("data".into(), json!(self.data.name));
        out.insert("gib".into(), json!(round(self.gib())));
        out.insert("files".into(), json!(self.data.files.len()));
        out.insert("agents".into(), json!(self.setting.agents));
        out.insert("rtt_ms".into(), json!(self.setting.rtt.as_millis() as u64));
        out.insert("runs".into(), json!(self.rounds.len()));
        out.insert("peer".into(), json!(self.best_peer().map(Peer::name)));
        out.insert("compression".into(), json!(self.compression().map(round)));
        let gib = self.gib();
        let mut put = |name: &str, spread: Option<Spread>| {
            out.insert(name.to_owned(), json!(spread.map(|s| round(s.median))));
            out.insert(format!("{name}_min"), json!(spread.map(|s| round(s.min))));
            out.insert(format!("{name}_max"), json!(spread.map(|s| round(s.max))));
        };
        put("seconds", Some(self.spread(|r| r.seconds)));
        put("command_s", Some(self.spread(|r| r.command_s)));
        put("mib_per_s", Some(self.mib_per_s()));
        put("mb_per_s", Some(self.spread(|r| self.bytes() / 1e6 / r.seconds)));
        put("floor_mib_per_s", self.floor_mib_per_s());
        put("ratio_to_floor", self.ratio_to_floor());
        put("peer_mib_per_s", self.peer_mib_per_s());
        put("ratio_to_peer", self.best_peer().and_then(|p| self.ratio_to(p)));
        put("agent_cpu_s_per_gib", Some(self.spread(|r| r.agent_cpu_s / gib)));
        put("coordinator_cpu_s_per_gib", Some(self.spread(|r| r.coordinator_cpu_s / gib)));
        put("agent_rss_mib", Some(self.spread(|r| r.agent_rss_mib)));
        put("coordinator_rss_mib", Some(self.spread(|r| r.coordinator_rss_mib)));
        put("ratio_to_local", self.ratio_to_local());
        put("local_mib_per_s", Spread::of(self.rounds.iter().filter_map(|r| Some(self.bytes() / MIB / r.local?.seconds))));
        put("local_coordinator_cpu_s_per_gib", Spread::of(self.rounds.iter().filter_map(|r| Some(r.local?.coordinator_cpu_s / gib))));
        put("server_cpu_s_per_gib", self.asked(|_| 0.0).map(|_| self.spread(|r| r.server_cpu_s / gib)));
        put("requests_per_gib", self.asked(|r| r.all() as f64 / gib));
        put("puts_per_gib", self.asked(|r| r.put as f64 / gib));
        put("gets_heads_lists_per_gib", self.asked(|r| (r.get + r.head + r.list) as f64 / gib));
        put("stored_bytes", self.asked(|r| r.bytes as f64));
        if self.data.files.len() > 1 {
            let files = self.data.files.len() as f64;
            put("requests_per_10000_files", self.asked(|r| r.all() as f64 * 1e4 / files));
            put("files_per_s", Some(self.spread(|r| files / r.seconds)));
            put("us_per_file", Some(self.spread(|r| r.seconds * 1e6 / files)));
            put("tar_zstd_us_per_file", self.peer_seconds(Peer::Local).map(|s| s.scaled(1e6 / files)));
            put("time_to_tar_zstd", self.ratio_to(Peer::Local).map(Spread::inverse));
            put("time_to_peer", self.best_peer().and_then(|p| self.ratio_to(p)).map(Spread::inverse));
        }
        Value::Object(out)
    }
}

impl Spread {
    fn scaled(self, by: f64) -> Self {
        Self { median: self.median * by, min: self.min * by, max: self.max * by }
    }

    fn inverse(self) -> Self {
        Self { median: 1.0 / self.median, min: 1.0 / self.max, max: 1.0 / self.min }
    }
}

/// Three digits after the point are more than any of this is worth.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

const HEAD: [&str; 13] = [
    "bench",
    "data",
    "zstd",
    "GiB",
    "agents",
    "MiB/s [min-max]",
    "floor",
    "of floor",
    "by hand",
    "x by hand",
    "CPU-s/GiB a+c",
    "RSS MiB a/c",
    "seconds",
];

/// A table for people.
pub fn table(measures: &[Measure]) -> String {
    let mut rows = vec![HEAD.map(str::to_owned).to_vec()];
    rows.extend(measures.iter().map(row));
    let widths: Vec<usize> = (0..HEAD.len()).map(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).enumerate();
        // Words to the left, numbers to the right.
        let line: Vec<String> = cells.map(|(c, (cell, w))| if c < 2 { format!("{cell:<w$}") } else { format!("{cell:>w$}") }).collect();
        out.push_str(line.join("  ").trim_end());
        out.push('\n');
    }
    for m in measures.iter().filter(|m| m.data.files.len() > 1) {
        out.push_str(&per_file(m));
    }
    for m in measures {
        out.push_str(&m.in_s3().unwrap_or_default());
    }
    out
}

impl Measure {
    /// What the S3 server was asked, and how its rate stands to the folder's.
    fn in_s3(&self) -> Option<String> {
        let (ratio, requests, puts) =
            (self.ratio_to_local()?, self.asked(|r| r.all() as f64)?.median, self.asked(|r| r.put as f64)?.median);
        let mut out = format!(
            "{} into S3: {:.2} [{:.2}-{:.2}] of the rate into a folder; {:.0} requests a GiB, of which {:.0} are PUT",
            self.data.name,
            ratio.median,
            ratio.min,
            ratio.max,
            requests / self.gib(),
            puts / self.gib()
        );
        if self.data.files.len() > 1 {
            let _ = write!(out, "; {:.0} requests for 10,000 files", requests * 1e4 / self.data.files.len() as f64);
        }
        out.push('\n');
        Some(out)
    }
}

fn row(m: &Measure) -> Vec<String> {
    let whole = |s: Option<Spread>| s.map_or("-".to_owned(), |s| format!("{:.0}", s.median));
    let ratio = |s: Option<Spread>| s.map_or("-".to_owned(), |s| format!("{:.2} [{:.2}-{:.2}]", s.median, s.min, s.max));
    let (rate, gib) = (m.mib_per_s(), m.gib());
    let rtt = if m.setting.rtt.is_zero() { String::new() } else { format!(" {} ms", m.setting.rtt.as_millis()) };
    vec![
        format!("{}{rtt}", m.bench),
        m.data.name.to_owned(),
        m.compression().map_or("-".to_owned(), |c| format!("{c:.2}")),
        format!("{gib:.2}"),
        m.setting.agents.to_string(),
        format!("{:.0} [{:.0}-{:.0}]", rate.median, rate.min, rate.max),
        whole(m.floor_mib_per_s()),
        ratio(m.ratio_to_floor()),
        whole(m.peer_mib_per_s()),
        ratio(m.best_peer().and_then(|p| m.ratio_to(p))),
        format!("{:.2} + {:.2}", m.spread(|r| r.agent_cpu_s / gib).median, m.spread(|r| r.coordinator_cpu_s / gib).median),
        format!("{:.0} / {:.0}", m.spread(|r| r.agent_rss_mib).median, m.spread(|r| r.coordinator_rss_mib).median),
        format!("{:.2}", m.spread(|r| r.seconds).median),
    ]
}

fn per_file(m: &Measure) -> String {
    let files = m.data.files.len() as f64;
    let us = |seconds: f64| seconds * 1e6 / files;
    let seconds = m.spread(|r| r.seconds).median;
    let mut line = format!("{}: {:.0} files/s, {:.0} us a file", m.data.name, files / seconds, us(seconds));
    for peer in [Peer::Local, Peer::Tar] {
        if let Some(theirs) = m.peer_seconds(peer) {
            let _ = write!(line, "; {}: {:.0} us", peer.name(), us(theirs.median));
        }
    }
    line + "\n"
}
