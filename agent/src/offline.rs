//! `collect --offline`: the same pipeline into a folder, for a host that reaches no coordinator. It is the one place
//! where the agent is told where to write evidence.
//!
//! The folder holds one stream: `00000000.tar.zst` ..., `manifest.jsonl`, `order.json` (what was asked for, by whom on
//! this host; its SHA-256 stands where the order's would), and `acquisition.dsse.json` when there is an identity to
//! sign with. It is not sealed: custody begins when a coordinator has taken it in.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use exhibit_evidence::key::SigningKey;
use exhibit_evidence::record::{CaptureSpec, Limits};
use exhibit_evidence::{AgentId, CaseId, CollectionId, Digest};
use serde::Serialize;

use crate::budget::Control;
use crate::capture::{Chosen, Params, registry, restricted};
use crate::clock;
use crate::custody::{self, Statement};
use crate::order::Policy;
use crate::pipeline::{self, Memory, Next, Outcome, Plan, Progress, StreamFacts, Window};

/// What is to be collected and where to.
pub struct Request<'a> {
    /// What.
    pub captures: Vec<CaptureSpec>,
    /// The profile that they came from.
    pub profile: Option<String>,
    /// Within which limits.
    pub limits: Limits,
    /// Why, in the operator's words.
    pub reason: String,
    /// The new folder.
    pub out: &'a Path,
    /// The host's policy: it holds here too.
    pub policy: &'a Policy,
    /// The state folder of this agent, if the host has one: never collected, nor is `out`.
    pub state: Option<&'a Path>,
    /// This agent, if the host has one.
    pub identity: Option<(AgentId, &'a SigningKey)>,
    /// Memory.
    pub memory: Memory,
}

/// What the folder holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The collection's id.
    pub collection: CollectionId,
    /// The folder.
    pub out: PathBuf,
    /// Items.
    pub items: u64,
    /// Raw bytes.
    pub raw_bytes: u64,
    /// Bytes of segments.
    pub stored_bytes: u64,
    /// SHA-256 of the manifest.
    pub manifest_sha256: Digest,
    /// True when every capture ran to its end.
    pub complete: bool,
    /// What cut it short.
    pub reason: Option<String>,
    /// True when the acquisition record is signed.
    pub signed: bool,
}

/// Why nothing, or not everything, was collected.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The request asks for something that is not there or not allowed.
    #[error("{0}")]
    Request(String),
    /// The new folder cannot be made.
    #[error("{}", folder_problem(.0, .1))]
    Folder(PathBuf, io::Error),
    /// A file cannot be written.
    #[error("{0}: {1}; what was written before is kept, but it is not a complete stream")]
    Write(PathBuf, io::Error),
    /// The pipeline failed.
    #[error("the collection failed: {0}")]
    Failed(String),
}

fn folder_problem(out: &Path, e: &io::Error) -> String {
    let remedy = if e.kind() == io::ErrorKind::AlreadyExists { "name a new folder" } else { "name a folder that can be made" };
    format!("--out {}: {e}; nothing was written: {remedy}", out.display())
}

#[derive(Serialize)]
struct LocalOrder<'a> {
    format: &'static str,
    case: &'a CaseId,
    captures: &'a [CaptureSpec],
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<&'a str>,
    limits: &'a Limits,
    reason: &'a str,
    issued_by: String,
    issued_at: exhibit_evidence::Timestamp,
}

/// Collects into a new folder. `control` ends it early; what was taken until then is finished and kept.
///
/// Order of writes: the folder; `order.json`; each segment as it is complete, then its lines in `manifest.jsonl`; the end
/// line; the acquisition record last. A folder without an end line in its manifest is not complete.
///
/// # Errors
/// [`OfflineError`]
pub async fn collect(request: Request<'_>, control: Arc<Control>, progress: Arc<Progress>) -> Result<Summary, OfflineError> {
    // This thread writes what the pipeline's threads make; they step back themselves.
    crate::budget::step_back();
    let captures = captures(&request)?;
    let denied = request.policy.denied_paths().map_err(OfflineError::Request)?;
    let no_random = || OfflineError::Failed("the system's random number generator failed".to_owned());
    let now = clock::wall();
    let case = CaseId::new(now.unix_ms(), clock::random().ok_or_else(no_random)?);
    let agent = match &request.identity {
        Some((id, _)) => id.clone(),
        None => AgentId::new(now.unix_ms(), clock::random().ok_or_else(no_random)?),
    };
    std::fs::DirBuilder::new().create(request.out).map_err(|e| OfflineError::Folder(request.out.to_owned(), e))?;
    let order = local_order(&request, &case, now)?;
    write_new(&request.out.join("order.json"), &order)?;
    let facts = StreamFacts {
        case,
        collection: CollectionId::of(&Digest::of(&order), &agent),
        encrypt_to: exhibit_evidence::age::Recipients::default(),
        stream: 1,
        agent,
        order: Digest::of(&order),
    };
    let own: Vec<&Path> = [Some(request.out), request.state].into_iter().flatten().collect();
    let plan = Plan {
        facts: facts.clone(),
        captures,
        budget: request.policy.budget(&request.limits),
        memory: request.memory,
        denied,
        own: pipeline::Own::of(&own),
        manifest_bytes_max: exhibit_proto::bounds::MANIFEST_BYTES_MAX,
        key: None,
        control,
        progress,
    };
    let window = pipeline::start(plan).map_err(|e| OfflineError::Failed(e.to_string()))?;
    let outcome = drain(&window, request.out).await.inspect_err(|_| window.give_up())?;
    let signed = sign(&request, &facts, &outcome)?;
    Ok(Summary {
        collection: facts.collection,
        out: request.out.to_owned(),
        items: outcome.manifest.items,
        raw_bytes: outcome.manifest.raw_bytes,
        stored_bytes: outcome.manifest.stored_bytes,
        manifest_sha256: outcome.manifest.sha256,
        complete: outcome.complete,
        reason: outcome.reason.clone(),
        signed,
    })
}

fn captures(request: &Request<'_>) -> Result<Vec<Chosen>, OfflineError> {
    let mut chosen = BTreeMap::new();
    for spec in &request.captures {
        let shown = exhibit_evidence::text::escape_bounded(&spec.name, 40);
        let Some((place, make)) = registry::find(&spec.name) else {
            return Err(OfflineError::Request(format!("there is no capture '{shown}'; there are {}", registry::names().join(", "))));
        };
        if !request.policy.allows(&spec.name) {
            return Err(OfflineError::Request(format!("this host's policy does not allow capture '{shown}'")));
        }
        let (mut capture, params) = (make(), Params::new(&spec.name, spec.params.clone()));
        capture.restrict(request.policy).map_err(OfflineError::Request)?;
        let capture = restricted::by(request.policy, capture);
        params.check(capture.params()).map_err(|e| OfflineError::Request(e.to_string()))?;
        capture.check(&params).map_err(|e| OfflineError::Request(format!("capture '{shown}', {e}")))?;
        chosen.insert(place, (capture, params));
    }
    if chosen.is_empty() {
        return Err(OfflineError::Request("nothing to capture: give --profile or --capture".to_owned()));
    }
    Ok(chosen.into_values().collect())
}

fn local_order(request: &Request<'_>, case: &CaseId, now: exhibit_evidence::Timestamp) -> Result<Vec<u8>, OfflineError> {
    let order = LocalOrder {
        format: "exhibit-local-order/1",
        case,
        captures: &request.captures,
        profile: request.profile.as_deref(),
        limits: &request.limits,
        reason: &request.reason,
        issued_by: format!("local uid {}", rustix::process::getuid().as_raw()),
        issued_at: now,
    };
    serde_json::to_vec(&order).map_err(|e| OfflineError::Failed(e.to_string()))
}

/// Writes what the pipeline makes, as it makes it.
async fn drain(window: &Window, out: &Path) -> Result<Arc<Outcome>, OfflineError> {
    let manifest_path = out.join("manifest.jsonl");
    let failed = |e| OfflineError::Write(manifest_path.clone(), e);
    let mut manifest = create(&manifest_path)?;
    let mut n = 0_u32;
    loop {
        match window.next(n).await {
            Next::Segment(segment) => {
                write_new(&out.join(format!("{n:08}.tar.zst")), &segment.bytes)?;
                manifest.write_all(&segment.lines).and_then(|()| manifest.sync_data()).map_err(failed)?;
                window.acknowledge(n);
                n = n.saturating_add(1);
            }
            Next::Finished(outcome) => {
                manifest.write_all(&outcome.end_line).and_then(|()| manifest.sync_all()).map_err(failed)?;
                File::open(out).and_then(|dir| dir.sync_all()).map_err(|e| OfflineError::Write(out.to_owned(), e))?;
                return Ok(outcome);
            }
            Next::Failed(why) => return Err(OfflineError::Failed(why)),
            Next::Gone => return Err(OfflineError::Failed("a segment was lost".to_owned())),
        }
    }
}

fn sign(request: &Request<'_>, facts: &StreamFacts, outcome: &Outcome) -> Result<bool, OfflineError> {
    let Some((_, key)) = &request.identity else { return Ok(false) };
    let statement = Statement {
        facts: facts.clone(),
        nonce: custody::empty_nonce(),
        tool: custody::tool().map_err(|e| OfflineError::Failed(format!("/proc/self/exe: {e}")))?,
        offset_at_start_ns: None,
        offset_ns: tokio::sync::watch::channel(None).1,
        wrote: vec![request.out.display().to_string()],
    };
    let envelope = custody::acquisition(&statement, outcome, key).map_err(|e| OfflineError::Failed(e.to_string()))?;
    write_new(&request.out.join("acquisition.dsse.json"), envelope.as_bytes())?;
    Ok(true)
}

fn create(path: &Path) -> Result<File, OfflineError> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|e| OfflineError::Write(path.to_owned(), e))
}

/// Bytes written at once. A kernel that does not preempt itself keeps the processor for a whole call, and whoever is to run there
/// waits: 6 ms for a segment.
const WRITE_BYTES_MAX: usize = 128 << 10;

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), OfflineError> {
    let mut file = create(path)?;
    let written = bytes.chunks(WRITE_BYTES_MAX).try_for_each(|piece| file.write_all(piece));
    written.and_then(|()| file.sync_all()).map_err(|e| OfflineError::Write(path.to_owned(), e))
}
