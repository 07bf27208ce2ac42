//! The pipeline against the format's own reader: whatever captures do, what comes out is a whole stream whose manifest
//! says what the bytes say.

mod content;
mod devices;
mod encrypted;
mod limits;
mod taken_up;

use std::io;
use std::sync::Arc;

use exhibit_evidence::manifest::{Across, Item, Line};
use exhibit_evidence::stream::reader::{Member, Parser, Sink};
use exhibit_evidence::stream::segment;
use exhibit_evidence::{AgentId, CaseId, CollectionId, Digest};

use super::*;
use crate::budget::{Budget, Control};
use crate::capture::{Capture, Content, Extent, NewItem, Output, Params, Source, Stop};

/// A capture that is a closure.
struct Script<F>(&'static str, F);

impl<F: Fn(&mut dyn Output) -> Result<(), Stop> + Send> Capture for Script<F> {
    fn name(&self) -> &'static str {
        self.0
    }
    fn run(&self, _: &Params, out: &mut dyn Output) -> Result<(), Stop> {
        (self.1)(out)
    }
}

fn script(name: &'static str, run: impl Fn(&mut dyn Output) -> Result<(), Stop> + Send + 'static) -> Box<dyn Capture> {
    Box::new(Script(name, run))
}

/// A source that is a closure over (offset, buffer).
struct Scripted<F>(F, Option<(Status, String)>);

impl<F: FnMut(u64, &mut [u8]) -> io::Result<usize>> Source for Scripted<F> {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        (self.0)(offset, buf)
    }
    fn after(&mut self) -> Option<(Status, String)> {
        self.1.clone()
    }
}

fn facts() -> StreamFacts {
    let agent = AgentId::new(1, [1; 10]);
    let order = Digest::of(b"order");
    StreamFacts {
        case: CaseId::new(1, [2; 10]),
        collection: CollectionId::of(&order, &agent),
        stream: 1,
        encrypt_to: exhibit_evidence::age::Recipients::default(),
        agent,
        order,
    }
}

fn plan(captures: Vec<Box<dyn Capture>>, budget: Budget) -> Plan {
    Plan {
        facts: facts(),
        captures: captures.into_iter().map(|c| (c, Params::default())).collect(),
        budget,
        memory: Memory { segments_in_flight: 1, workers: 2 },
        denied: globset::GlobSet::empty(),
        own: Own::default(),
        manifest_bytes_max: exhibit_proto::bounds::MANIFEST_BYTES_MAX,
        key: None,
        control: Arc::new(Control::new(None)),
        progress: Arc::new(Progress::default()),
    }
}

/// A stream as a careful reader sees it.
struct Seen {
    outcome: Arc<Outcome>,
    segments: Vec<Arc<Segment>>,
    items: Vec<Item>,
    members: Vec<(Member, Vec<u8>)>,
}

impl Seen {
    fn item(&self, path: &str) -> &Item {
        self.items.iter().find(|i| i.path.as_bytes() == path.as_bytes()).unwrap_or_else(|| panic!("no item {path}"))
    }
    fn content(&self, path: &str) -> &[u8] {
        let location = self.item(path).location.expect("has a member");
        &self.members.iter().find(|(m, _)| m.location() == location).expect("its member").1
    }
}

#[derive(Default)]
struct Contents {
    current: Vec<u8>,
    ended: Vec<(Member, Vec<u8>)>,
}

impl Sink for Contents {
    fn data(&mut self, offset: u64, bytes: &[u8]) {
        self.current.resize(offset as usize, 0);
        self.current.extend_from_slice(bytes);
    }
    fn end(&mut self, member: &Member) {
        let mut content = std::mem::take(&mut self.current);
        content.resize(member.head.size as usize, 0);
        self.ended.push((member.clone(), content));
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime")
}

fn run(captures: Vec<Box<dyn Capture>>) -> Seen {
    run_plan(plan(captures, Budget::UNLIMITED))
}

fn run_plan(plan: Plan) -> Seen {
    run_from(plan, None, Vec::new())
}

/// Runs on from where an earlier process stood, which made the first segments.
fn run_from(plan: Plan, from: Option<bookmark::TakenUp>, mut segments: Vec<Arc<Segment>>) -> Seen {
    let header = plan.facts.header();
    let window = Arc::new(Window::new(plan.memory.segments_in_flight));
    start_into(plan, from, Arc::clone(&window)).expect("threads");
    let outcome = runtime().block_on(async {
        loop {
            let n = segments.len() as u32;
            match window.next(n).await {
                Next::Segment(segment) => {
                    segments.push(segment);
                    assert_eq!(window.acknowledge(n), 1);
                }
                Next::Finished(outcome) => return outcome,
                other => panic!("{other:?}"),
            }
        }
    });
    check(&header, segments, outcome)
}

/// Reads a stream as an intake does and refuses what one would refuse.
fn check(header: &Header, segments: Vec<Arc<Segment>>, outcome: Arc<Outcome>) -> Seen {
    let (mut parser, mut contents, mut manifest) = (Parser::new(), Contents::default(), Vec::new());
    let (mut items, mut paired, mut raw_offset) = (Vec::<Item>::new(), 0, 0);
    let mut across = Across::default();
    for (n, built) in segments.iter().enumerate() {
        assert_eq!((built.facts.n as usize, built.facts.raw_offset), (n, raw_offset));
        segment::check_facts(&built.facts, &built.bytes).expect("facts");
        segment::decode(&built.bytes, &mut |raw: &[u8]| parser.push(raw, &mut contents)).expect("decodes");
        raw_offset += built.facts.raw_size;
        manifest.extend_from_slice(&built.lines);
        let mut lines = built.lines.split_inclusive(|b| *b == b'\n').map(|l| Line::parse(l).expect("line"));
        if n == 0 {
            assert_eq!(lines.next(), Some(Line::Header(header.clone())));
        }
        assert_eq!(lines.next(), Some(Line::Segment(built.facts.clone())));
        across.segment(&built.facts);
        for line in lines {
            let Line::Item(item) = line else { panic!("{line:?}") };
            assert!(across.item(&item), "{item:?}");
            assert_eq!(item.n, items.len() as u64);
            if let Some(location) = item.location {
                let (member, _) = contents.ended.get(paired).expect("the member of an item line ends in its segment or before");
                paired += 1;
                let what = (member.location(), &member.head.name, member.head.size, member.sha256);
                assert_eq!(what, (location, &item.path.member_name(&item.capture), item.size, item.sha256));
            }
            assert!(item.status == Status::Collected || item.reason.as_ref().is_some_and(|r| !r.is_empty()), "{item:?}");
            items.push(*item);
        }
        assert_eq!(paired, contents.ended.len(), "each member that ends in a segment has its line there");
    }
    parser.finish().expect("the end marker");
    manifest.extend_from_slice(&outcome.end_line);
    let Line::End(end) = Line::parse(&outcome.end_line).expect("end line") else { panic!("not an end line") };
    assert!(end.complete);
    assert_eq!((end.items, end.segments, end.raw_bytes), (items.len() as u64, segments.len() as u32, raw_offset));
    assert_eq!(end.stored_bytes, segments.iter().map(|s| s.bytes.len() as u64).sum::<u64>());
    let mut by_status = ByStatus::new();
    for item in &items {
        *by_status.entry(item.status).or_default() += 1;
    }
    assert_eq!(end.by_status, by_status);
    assert_eq!((outcome.manifest.sha256, outcome.manifest.size), (Digest::of(&manifest), manifest.len() as u64));
    Seen { outcome, segments, items, members: contents.ended }
}

fn file(path: &str, out: &dyn Output) -> NewItem {
    NewItem::new(crate::capture::evidence_path(path), exhibit_evidence::manifest::Kind::File, out.now(), "read")
}

/// Bytes that compress badly and differ everywhere.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

fn reader(data: Vec<u8>) -> impl FnMut(u64, &mut [u8]) -> io::Result<usize> {
    move |offset, buf| {
        let rest = data.get(offset as usize..).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}
