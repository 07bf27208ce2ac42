//! What an agent may send and what is said about it: each lie is refused with the field and the value, what was
//! acknowledged stays, and an honest upload of the same stream goes on where the lie began.

use crate::support::agent::{self, Agent, Job, Made, Part, file, make};
use crate::support::verdict;
use crate::support::world::World;
use exhibit_evidence::manifest::{Item, Line, Segment, Status};
use exhibit_evidence::{Digest, EvidencePath};
use exhibit_proto::agent::v1::{self as wire, upload_request, upload_response};
use tonic::Code;

fn files() -> Vec<agent::File> {
    vec![file("system", "os-release", "NAME=Debian\n"), file("files", "/etc/passwd", "root\n"), file("files", "/etc/group", "root:x:0:\n")]
}

/// The honest stream with one item line changed; everything that covers the line is made anew.
fn with_item(job: &Job, n: u64, change: fn(&mut Item)) -> Made {
    make(
        job.header(),
        &files(),
        &move |i| {
            if i.n == n {
                change(i);
            }
        },
        &|f| EvidencePath::new(f.path.as_bytes()).expect("path").member_name(f.capture),
    )
}

fn with_part(job: &Job, change: fn(&mut Part)) -> Made {
    let mut made = job.honest(&files());
    change(&mut made.parts[1]);
    made
}

/// A segment of frames as given, with a seek table that says what it is told to say.
fn forged(n: u32, raw_offset: u64, frames: &[(Vec<u8>, u32)]) -> (Segment, Vec<u8>) {
    let mut bytes: Vec<u8> = frames.iter().flat_map(|(f, _)| f.clone()).collect();
    let mut table: Vec<u8> = frames.iter().flat_map(|(f, raw)| [(f.len() as u32).to_le_bytes(), raw.to_le_bytes()].concat()).collect();
    table.extend((frames.len() as u32).to_le_bytes());
    table.push(0);
    table.extend(0x8F92_EAB1_u32.to_le_bytes());
    bytes.extend(0x184D_2A5E_u32.to_le_bytes());
    bytes.extend((table.len() as u32).to_le_bytes());
    bytes.extend(table);
    let raw_size = frames.iter().map(|(_, raw)| u64::from(*raw)).sum();
    (Segment { n, size: bytes.len() as u64, sha256: Digest::of(&bytes), raw_offset, raw_size, seam: None }, bytes)
}

fn with_forged(job: &Job, frames: &[(Vec<u8>, u32)]) -> Made {
    let mut made = job.honest(&files());
    let (facts, bytes) = forged(1, made.parts[1].facts.raw_offset, frames);
    made.parts[1] = Part { facts, bytes, lines: made.parts[1].lines.clone() };
    made
}

fn zeros(bytes: usize) -> Vec<u8> {
    zstd::bulk::compress(&vec![0; bytes], 1).expect("zstd")
}

type Lie = fn(&Job) -> Made;

/// Each lie is in segment 1; segment 0 is honest.
const LIES: &[(&str, Lie)] = &[
    ("segment_data: a message of", |j| with_part(j, |p| p.facts.size -= 1)),
    ("segment_start.size:", |j| with_part(j, |p| p.facts.size += 1)),
    ("segment_start.sha256:", |j| with_part(j, |p| p.facts.sha256 = Digest::of(b"x"))),
    ("segment_start.raw_size:", |j| with_part(j, |p| p.facts.raw_size -= 1)),
    ("segment_start.raw_size:", |j| with_part(j, |p| p.facts.raw_size += 512)),
    ("segment_start.raw_size:", |j| with_part(j, |p| p.facts.raw_size = u64::MAX)),
    ("segment_start.raw_offset:", |j| with_part(j, |p| p.facts.raw_offset += 512)),
    ("segment_start.n: 2: segment 1 comes next", |j| with_part(j, |p| p.facts.n = 2)),
    // A frame that grows to 8 MiB, said openly and said falsely.
    ("segment_data: frame 0:", |j| with_forged(j, &[(zeros(8 << 20), 8 << 20)])),
    ("segment_data: frame 0:", |j| with_forged(j, &[(zeros(8 << 20), 1 << 20)])),
    ("segment_start.raw_size: 209715200:", |j| with_forged(j, &vec![(zeros(1 << 20), 1 << 20); 200])),
    ("segment_data: the tar is not well formed", |j| with_forged(j, &[(zstd::bulk::compress(&[7; 4096], 1).expect("zstd"), 4096)])),
    ("segment_data:", |j| {
        make(j.header(), &[file("system", "os-release", "NAME=Debian\n"), file("files", "/../../etc/cron.d/x", "evil")], &|_| {}, &|f| {
            EvidencePath::new(f.path.as_bytes()).expect("path").member_name(f.capture)
        })
    }),
    ("item.path:", |j| {
        make(j.header(), &files(), &|_| {}, &|f| {
            if f.path == "/etc/passwd" {
                b"files/etc/shadow".to_vec()
            } else {
                EvidencePath::new(f.path.as_bytes()).expect("path").member_name(f.capture)
            }
        })
    }),
    ("item.sha256: item 1:", |j| with_item(j, 1, |i| i.sha256 = Some(Digest::of(b"x")))),
    ("item.sha256: item 1:", |j| with_item(j, 1, |i| i.sha256 = None)),
    ("item.size: item 1:", |j| with_item(j, 1, |i| i.size += 1)),
    ("item.location: item 1:", |j| with_item(j, 1, |i| i.location.as_mut().expect("located").offset += 512)),
    ("item.n:", |j| with_item(j, 1, |i| i.n = 7)),
    ("item.capture: item 1:", |j| with_item(j, 1, |i| "memory".clone_into(&mut i.capture))),
    ("item.reason: item 1:", |j| with_item(j, 1, |i| i.status = Status::Partial)),
    ("item.location: item 1:", |j| {
        with_item(j, 1, |i| {
            i.location = None;
        })
    }),
    ("manifest_lines: segment 1: the member at raw offset", |j| {
        let mut made = j.honest(&files());
        let at = made.parts[1].lines.iter().position(|b| *b == b'\n').expect("a line") + 1;
        made.parts[1].lines.truncate(at);
        made
    }),
    ("item.location: item 2:", |j| {
        let mut made = j.honest(&files());
        let line = made.parts[1].lines.split_inclusive(|b| *b == b'\n').nth(1).expect("item line").to_vec();
        let Ok(Line::Item(mut item)) = Line::parse(&line) else { panic!("an item") };
        item.n = 2;
        made.parts[1].lines.extend(Line::Item(item).to_bytes().expect("short"));
        made
    }),
    ("manifest_lines: not the one form", |j| {
        let mut made = j.honest(&files());
        made.parts[1].lines.insert(1, b' ');
        made
    }),
    ("manifest_lines:", |j| with_part(j, |p| p.lines = b"{}\n".to_vec())),
    ("manifest_lines:", |j| {
        with_part(j, |p| {
            p.lines.pop();
        })
    }),
    ("manifest_lines: a second header line", |j| {
        let mut made = j.honest(&files());
        made.parts[1].lines = [Line::Header(j.header()).to_bytes().expect("short"), made.parts[1].lines.clone()].concat();
        made
    }),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_lie_is_named_and_costs_only_itself() {
    let mut world = World::start().await;
    let credential = world.enroll("web-1").await;
    let mut agent = Agent::new(credential, world.port, 1).await;
    let case = world.open_case().await;
    for (number, (expected, lie)) in LIES.iter().enumerate() {
        let case = world.case(&case).await;
        let order = world.order(&case, std::slice::from_ref(&agent.id));
        let envelope = world.sign(&order);
        world.submit(&envelope).await.expect("admitted");
        let job = Job::new(&order, &envelope, &agent.id, 1);
        let made = lie(&job);
        let mut upload = agent.open(&job).await.expect("let in");
        upload.segment(&made.parts[0]).await.expect("honest so far");
        upload.push(&made.parts[1]).await;
        let status = upload.answer().await.expect_err(expected);
        assert_eq!(status.code(), Code::InvalidArgument, "lie {number}: {status}");
        assert!(status.message().starts_with(expected), "lie {number}: expected '{expected}', got '{}'", status.message());
        let row = world.collection(&job.collection).await;
        assert_eq!((row.state.as_str(), row.stored_bytes), ("running", made.parts[0].facts.size), "lie {number}");
        if number % 6 == 0 {
            agent.send_all(&job, &job.honest(&files())).await.expect("an honest upload goes on");
            assert_eq!(world.closed(&job.collection).await.state, "sealed");
        } else {
            let cancel = exhibit_proto::responder::v1::CancelCollectionsRequest {
                collections: vec![job.collection.to_string()],
                order: String::new(),
                reason: "enough".to_owned(),
            };
            world.people.cancel_collections(cancel).await.expect("cancelled");
        }
    }
    assert!(world.incidents().await.iter().filter(|i| i.starts_with("false-upload")).count() >= LIES.len());
}

async fn running_job(world: &mut World, agent: &Agent) -> Job {
    let (_, order, envelope) = world.ordered(std::slice::from_ref(&agent.id)).await;
    Job::new(&order, &envelope, &agent.id, 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_is_acknowledged_again_and_conflicting_is_refused() {
    let mut world = World::start().await;
    let credential = world.enroll("web-1").await;
    let mut agent = Agent::new(credential, world.port, 1).await;
    let job = running_job(&mut world, &agent).await;
    let made = job.honest(&files());
    let mut upload = agent.open(&job).await.expect("let in");
    upload.segment(&made.parts[0]).await.expect("first");
    upload.segment(&made.parts[0]).await.expect("again");
    let other = job.honest(&[file("system", "os-release", "NAME=Other\n")]);
    upload.push(&other.parts[0]).await;
    let status = upload.answer().await.expect_err("other content");
    assert_eq!(status.code(), Code::AlreadyExists, "{status}");
    assert!(status.message().contains("nothing was overwritten"), "{status}");
    let receipt = agent.send_all(&job, &made).await.expect("the honest stream is whole");
    assert!(!receipt.is_empty());
    // Everything is received: asking again gives the same receipt.
    let mut again = agent.open(&job).await.expect("let in");
    assert!(again.status.finished);
    let Ok(upload_response::Kind::Done(done)) = again.answer().await else { panic!("expected the receipt") };
    assert_eq!(done.receipt, receipt);
    verdict::sound(&world, job.order.case.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_out_of_their_order_are_refused() {
    let mut world = World::start().await;
    let credential = world.enroll("web-1").await;
    let mut agent = Agent::new(credential, world.port, 1).await;
    let data = || upload_request::Kind::SegmentData(bytes::Bytes::from_static(b"x"));
    let end = |n| upload_request::Kind::SegmentEnd(wire::SegmentEnd { n, bookmark: Vec::new() });
    let open = wire::UploadOpen { collection: String::new(), stream: 1, instance: vec![] };
    let cases: [(Vec<upload_request::Kind>, &str); 4] = [
        (vec![data()], "segment_data: no segment was begun"),
        (vec![end(0)], "segment_end: no segment was begun"),
        (vec![upload_request::Kind::Open(open)], "field kind: a second open"),
        (vec![upload_request::Kind::ManifestLines(bytes::Bytes::from_static(b"{}\n")), end(0)], "segment_end: no segment was begun"),
    ];
    for (pieces, expected) in cases {
        let job = running_job(&mut world, &agent).await;
        let mut upload = agent.open(&job).await.expect("let in");
        for piece in pieces {
            upload.put(piece).await;
        }
        let status = upload.answer().await.expect_err(expected);
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, expected));
    }
    let job = running_job(&mut world, &agent).await;
    let made = job.honest(&files());
    let mut upload = agent.open(&job).await.expect("let in");
    upload.start(&made.parts[0].facts, made.parts[0].lines.len()).await;
    upload.put(end(5)).await;
    assert_eq!(upload.answer().await.expect_err("other number").message(), "segment_end.n: 5: segment 0 was begun");
}

type Change = fn(&Job, &mut Made, &mut exhibit_evidence::record::Acquisition);

#[tokio::test(flavor = "multi_thread")]
async fn a_finish_is_believed_only_when_everything_agrees() {
    let mut world = World::start().await;
    let credential = world.enroll("web-1").await;
    let mut agent = Agent::new(credential, world.port, 1).await;
    let stranger = world.enroll("web-2").await;
    let cases: [(&str, Change); 8] = [
        ("finish.segments", |_, made, _| made.parts.truncate(2)),
        ("finish.manifest_sha256", |_, made, _| made.manifest.sha256 = Digest::of(b"x")),
        ("finish.manifest_bytes", |_, made, _| made.manifest.size += 1),
        ("manifest_lines: the manifest has no end line", |_, made, _| made.trailing = agent_record_line()),
        ("finish: acquisition.nonce", |_, _, a| a.nonce.size += 1),
        ("finish: acquisition.stream", |_, _, a| a.stream.0 = 2),
        ("finish: acquisition.reason", |_, _, a| a.complete = false),
        ("acquisition.manifest", |_, _, a| a.manifest.sha256 = Digest::of(b"x")),
    ];
    for (expected, change) in cases {
        let job = running_job(&mut world, &agent).await;
        let honest = job.honest(&files());
        let mut said = honest.clone();
        let mut acquisition = job.acquisition(&honest.manifest);
        change(&job, &mut said, &mut acquisition);
        let mut upload = agent.open(&job).await.expect("let in");
        for part in &honest.parts {
            upload.segment(part).await.expect("honest");
        }
        let signed = agent.sign_acquisition(&acquisition);
        let status = upload.finish(&said, &signed).await.expect_err(expected);
        assert!(status.message().starts_with(expected), "expected '{expected}', got '{}'", status.message());
        assert_eq!(world.collection(&job.collection).await.state, "running", "{expected}");
    }
    // Signed by another agent's key.
    let job = running_job(&mut world, &agent).await;
    let honest = job.honest(&files());
    let mut upload = agent.open(&job).await.expect("let in");
    for part in &honest.parts {
        upload.segment(part).await.expect("honest");
    }
    let forged = exhibit_evidence::record::sign(&job.acquisition(&honest.manifest), &stranger.evidence).expect("small");
    let status = upload.finish(&honest, &forged).await.expect_err("another signer");
    assert!(status.message().contains("it names another signer"), "{status}");
    // The tar's end marker is missing.
    let job = running_job(&mut world, &agent).await;
    let honest = job.honest(&files());
    let mut upload = agent.open(&job).await.expect("let in");
    for part in &honest.parts[..3] {
        upload.segment(part).await.expect("honest");
    }
    let mut cut = honest.clone();
    cut.parts.truncate(3);
    let signed = agent.sign_acquisition(&job.acquisition(&honest.manifest));
    let status = upload.finish(&cut, &signed).await.expect_err("cut");
    assert!(status.message().contains("the tar is not complete"), "{status}");
}

fn agent_record_line() -> Vec<u8> {
    let mut item = agent::item(3, "system", "gone");
    item.status = Status::Missing;
    item.kind = exhibit_evidence::manifest::Kind::Unknown;
    item.reason = Some("not there".to_owned());
    Line::Item(Box::new(item)).to_bytes().expect("short")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_without_its_finish_is_not_complete_and_three_lies_end_it() {
    let mut world = World::start().await;
    let credential = world.enroll("web-1").await;
    let mut agent = Agent::new(credential, world.port, 1).await;
    let job = running_job(&mut world, &agent).await;
    let made = job.honest(&files());
    let mut upload = agent.open(&job).await.expect("let in");
    for part in &made.parts {
        upload.segment(part).await.expect("honest");
    }
    // A clean end of the stream without the finish: tonic shows it like any other.
    let agent::Upload { send, mut receive, .. } = upload;
    drop(send);
    let status = receive.message().await.expect_err("no finish");
    assert!(status.message().contains("without its finish"), "{status}");
    assert_eq!(world.collection(&job.collection).await.state, "running");
    for _ in 0..3 {
        let mut upload = agent.open(&job).await.expect("let in");
        assert_eq!(upload.status.next_segment, 4, "nothing is lost");
        upload.put(upload_request::Kind::SegmentEnd(wire::SegmentEnd { n: 9, bookmark: Vec::new() })).await;
        upload.answer().await.expect_err("out of order");
    }
    let row = world.closed(&job.collection).await;
    assert_eq!((row.state.as_str(), row.items), ("partial", 3));
    assert!(row.reason.contains("refused 3 times"), "{}", row.reason);
    // It was ended by the coordinator; the agent may still ask for the receipt of what was kept.
    let mut again = agent.open(&job).await.expect("asks");
    assert!(again.status.finished);
    assert!(matches!(again.answer().await, Ok(upload_response::Kind::Done(_))));
    verdict::sound(&world, job.order.case.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_agents_collection_is_not_there() {
    let mut world = World::start().await;
    let (first, second) = (world.enroll("web-1").await, world.enroll("web-2").await);
    let agent = Agent::new(first, world.port, 1).await;
    let mut other = Agent::new(second, world.port, 2).await;
    let job = running_job(&mut world, &agent).await;
    assert_eq!(other.open(&job).await.map(|_| ()).expect_err("not its own").code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_begins_and_does_not_send_holds_nobody_up() {
    let mut world = World::start().await;
    let rogue = world.enroll("rogue").await;
    let mut rogue = Agent::new(rogue, world.port, 1).await;
    let honest = world.enroll("honest").await;
    let mut honest = Agent::new(honest, world.port, 2).await;
    let mut held = Vec::new();
    for _ in 0..30 {
        let job = running_job(&mut world, &rogue).await;
        let upload = rogue.open(&job).await.expect("let in");
        upload
            .start(&Segment { n: 0, size: 10 << 20, sha256: Digest::of(b""), raw_offset: 0, raw_size: 1 << 20, seam: None }, 10 << 20)
            .await;
        held.push(upload);
    }
    let job = running_job(&mut world, &honest).await;
    let sent = tokio::time::timeout(std::time::Duration::from_secs(10), honest.send_all(&job, &job.honest(&files()))).await;
    let receipt = sent.expect("not held up").expect("received");
    assert!(!receipt.is_empty());
}
