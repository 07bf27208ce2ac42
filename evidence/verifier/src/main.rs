//! `exhibit-verify`: proves or disproves a case folder or a bag offline, with nothing but the folder and an anchor file that
//! was obtained on another way. It opens no socket, writes no file and trusts nothing inside the folder.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod args;
mod folder;
mod identity;
mod text;

use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use exhibit_evidence::anchor::Anchor;
use exhibit_evidence::log::{ConsistencyProof, NOTE_BYTES_MAX, Note};
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::timestamp::Anchors;
use exhibit_evidence::verify::{self, Code, Options, Progress, Report};

use crate::args::{Command, Request};
use crate::folder::{Folder, Holds};

/// A file of roots with some CRLs.
const TIMESTAMP_ANCHOR_BYTES_MAX: u64 = 16 << 20;
/// A checkpoint and 64 hashes.
const PROOF_BYTES_MAX: u64 = NOTE_BYTES_MAX as u64 + 8_192;

/// What the program says to the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Exit {
    /// No errors and no warnings.
    Sound = 0,
    /// At least one error or warning.
    Findings = 1,
    /// The case or the anchor could not be used at all.
    Unusable = 2,
    /// The command line was wrong (EX_USAGE).
    Usage = 64,
}

fn main() -> ExitCode {
    let json = std::env::args_os().any(|arg| arg == "--json");
    let (exit, message) = match args::parse(std::env::args_os()) {
        Ok(Command::Show(text)) => finish(write_out(text.as_bytes()), Exit::Sound),
        Ok(Command::Codes) => finish(write_out(codes().as_bytes()), Exit::Sound),
        Ok(Command::Explain(code)) => finish(write_out(text::explain(code).as_bytes()), Exit::Sound),
        Ok(Command::Verify(request)) => run_and_show(&request),
        Err(message) => (Exit::Usage, Some(message)),
    };
    if let Some(message) = message {
        let _ = writeln!(io::stderr(), "{}", failure(&message, exit, json));
    }
    ExitCode::from(exit as u8)
}

/// Verifies and says what came out.
fn run_and_show(request: &Request) -> (Exit, Option<String>) {
    if let Some(message) = needs_deployment(request) {
        return (Exit::Usage, Some(message));
    }
    match run(request) {
        Ok((report, root_key)) => {
            let exit = if report.verdict.is_sound() { Exit::Sound } else { Exit::Findings };
            finish(show(&report, &root_key, request), exit)
        }
        Err(message) => (Exit::Unusable, Some(message)),
    }
}

/// The message for a deployment's own log that was given as a case: by the rules of cases all of it would be wrong.
fn needs_deployment(request: &Request) -> Option<String> {
    let folder = Folder::open(&request.path).ok().filter(|folder| !request.options.deployment && folder.is_deployment())?;
    Some(format!(
        "exhibit-verify: '{}': this is the deployment's own log (keys, agents, people), not a case\nGive --deployment as well.",
        folder.shown()
    ))
}

/// What is printed on standard error when there is no result.
fn failure(message: &str, exit: Exit, json: bool) -> String {
    let message = message.trim_end();
    if !json {
        return message.to_owned();
    }
    let (error, hint) = message.split_once('\n').map_or((message, None), |(error, hint)| (error, Some(hint)));
    let error = error.strip_prefix("exhibit-verify: ").unwrap_or(error);
    serde_json::json!({ "error": error, "hint": hint, "exit_code": exit as u8 }).to_string()
}

/// A reader that stopped listening (`| head`) does not change the result; another failure of the output does.
fn finish(written: io::Result<()>, exit: Exit) -> (Exit, Option<String>) {
    match written {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            (Exit::Unusable, Some(format!("exhibit-verify: the result could not be written to standard output: {e}")))
        }
        _ => (exit, None),
    }
}

fn write_out(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// Opens and verifies; an error is a whole message: what, why, what to do.
fn run(request: &Request) -> Result<(Report, String), String> {
    let folder = Folder::open(&request.path)?;
    let anchor = read_anchor(request, &folder)?;
    let timestamp_anchors = read_timestamp_anchors(request, &folder)?;
    let (held, identities) = (read_held(request, &folder)?, identity::read(&request.identities)?);
    let consistency = read_proofs(request)?;
    let options = Options { held, consistency, identities, timestamp_anchors, ..request.options.clone() };
    let terminal = io::stderr().is_terminal() && !request.quiet;
    let mut shown = u64::MAX;
    let mut progress = |p: Progress| show_progress(p, terminal, &mut shown);
    let report = match folder.holds() {
        Holds::Case => verify::verify(&folder, &anchor, &options, &mut progress),
        Holds::Bag => verify::verify_bag(&folder, &anchor, &options, &mut progress),
    };
    let report = report.map_err(|e| {
        if e.kind() == io::ErrorKind::InvalidInput {
            return format!("exhibit-verify: --identity: {e}\nGive the age identity file of one of these recipients, or none to verify without the contents.");
        }
        format!("exhibit-verify: '{}' cannot be listed: {e}\nCheck its permissions; no statement about the case is made.", folder.shown())
    })?;
    if terminal {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
    Ok((report, anchor.root_key.id().to_string()))
}

fn read_anchor(request: &Request, folder: &Folder) -> Result<Anchor, String> {
    let path = &request.anchor;
    let shown = escape_bounded(&path.to_string_lossy(), 300);
    let remedy = "The anchor is the small JSON file that the deployment's operator hands out on another way than the case.";
    let real = path.canonicalize().map_err(|e| format!("exhibit-verify: anchor file '{shown}': {e}\n{remedy}"))?;
    if folder.contains(&real) {
        return Err(format!(
            "exhibit-verify: anchor file '{shown}' lies inside '{}', which it is to vouch for.\nWhoever can change the case could have put it there, so it proves nothing. {remedy}",
            folder.shown()
        ));
    }
    let bytes = folder::read_small(&real, 65_536).map_err(|e| format!("exhibit-verify: anchor file '{shown}': {e}\n{remedy}"))?;
    Anchor::parse(&bytes).map_err(|e| format!("exhibit-verify: anchor file '{shown}': {}\n{remedy}", escape_bounded(&e, 300)))
}

/// Roots of timestamp authorities. One from inside the case proves nothing.
fn read_timestamp_anchors(request: &Request, folder: &Folder) -> Result<Anchors, String> {
    let remedy = "It is the root certificate of a timestamp authority in PEM, obtained from the authority and not with the case.";
    let mut all = Anchors::default();
    for path in &request.timestamp_anchors {
        let fail =
            |why: String| format!("exhibit-verify: timestamp anchor '{}': {why}\n{remedy}", escape_bounded(&path.to_string_lossy(), 300));
        let real = path.canonicalize().map_err(|e| fail(e.to_string()))?;
        if folder.contains(&real) {
            return Err(fail("it lies inside the case folder".to_owned()));
        }
        let bytes = folder::read_small(&real, TIMESTAMP_ANCHOR_BYTES_MAX).map_err(|e| fail(e.to_string()))?;
        all.extend(Anchors::parse(&bytes).map_err(|e| fail(e.to_string()))?);
    }
    Ok(all)
}

/// Checkpoints that were kept elsewhere. One from inside the case proves nothing.
fn read_held(request: &Request, folder: &Folder) -> Result<Vec<Note>, String> {
    let remedy = "It is a checkpoint that was kept on another way than the case, for example by a witness in its folder 'seen'.";
    let one = |path: &PathBuf| {
        let fail =
            |why: String| format!("exhibit-verify: held checkpoint '{}': {why}\n{remedy}", escape_bounded(&path.to_string_lossy(), 300));
        let real = path.canonicalize().map_err(|e| fail(e.to_string()))?;
        if folder.contains(&real) {
            return Err(fail("it lies inside the case folder".to_owned()));
        }
        let bytes = folder::read_small(&real, NOTE_BYTES_MAX as u64).map_err(|e| fail(e.to_string()))?;
        Note::parse(&bytes).map_err(|e| fail(e.to_string()))
    };
    request.held.iter().map(one).collect()
}

/// Proofs to later checkpoints. They hold or not wherever they lie, and what is signed in them is judged by keys from outside.
fn read_proofs(request: &Request) -> Result<Vec<ConsistencyProof>, String> {
    let remedy = "It is what 'exhibit witness cosign --for BAG --out FILE' or 'exhibit log consistency --out FILE' wrote. A checkpoint alone is given with --held.";
    let one = |path: &PathBuf| {
        let fail =
            |why: String| format!("exhibit-verify: consistency proof '{}': {why}\n{remedy}", escape_bounded(&path.to_string_lossy(), 300));
        let real = path.canonicalize().map_err(|e| fail(e.to_string()))?;
        let bytes = folder::read_small(&real, PROOF_BYTES_MAX).map_err(|e| fail(e.to_string()))?;
        ConsistencyProof::parse(&bytes).map_err(|e| fail(e.to_string()))
    };
    request.consistency.iter().map(one).collect()
}

/// One line that is rewritten whenever another percent was read.
fn show_progress(p: Progress, terminal: bool, shown: &mut u64) {
    let percent = p.bytes.saturating_mul(100).checked_div(p.bytes_total).unwrap_or(100).min(100);
    if terminal && percent != *shown {
        *shown = percent;
        let (done, total) = (text::bytes(p.bytes), text::bytes(p.bytes_total));
        let _ = write!(io::stderr(), "\r\x1b[Kverifying: {percent} % ({done} of {total}, {} items)", p.items);
    }
}

fn show(report: &Report, root_key: &str, request: &Request) -> io::Result<()> {
    if request.json {
        let mut bytes = serde_json::to_vec(report)?;
        bytes.push(b'\n');
        return write_out(&bytes);
    }
    write_out(text::render(report, root_key, request.quiet).as_bytes())
}

/// The registry of codes, for `--codes`.
fn codes() -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for code in Code::ALL {
        let (severity, blame) = (code.severity().as_str(), code.blame().as_str());
        let _ = write!(
            out,
            "{code}\n  severity  {severity}\n  ask       {blame}\n  found     {}\n  means     {}\n\n",
            code.found(),
            code.meaning()
        );
    }
    out
}
