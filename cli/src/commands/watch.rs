//! `exhibit watch`, `exhibit collections`, `exhibit cancel`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::time::Duration;

use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::{CaseId, CollectionId, Digest, OrderId, Timestamp};
use exhibit_proto::responder::v1 as pb;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::args::{CancelArgs, WatchArgs, WhichArgs};
use crate::connection::{Connection, parse_id};
use crate::exit::{Code, Failure, Result};
use crate::interrupt;
use crate::output::Output;
use crate::units::{count, show_bytes, show_price, show_time};

/// Columns of a table of collections.
pub const COLUMNS: [(&str, &str); 8] = [
    ("collection", "collection"),
    ("state", "state"),
    ("host", "hostname"),
    ("items", "items"),
    ("raw", "raw_bytes"),
    ("stored", "stored_bytes"),
    ("queued (UTC)", "queued_at"),
    ("reason", "reason"),
];

/// A collection as JSON.
pub fn to_json(c: &pb::Collection) -> Value {
    let time = |ns: i64| (ns != 0).then(|| Timestamp::from_unix_ns(ns).to_string());
    json!({
        "collection": c.collection, "order": c.order, "case": c.case_id, "agent": c.agent, "hostname": c.hostname, "state": c.state,
        "reason": (!c.reason.is_empty()).then_some(&c.reason), "profile": (!c.profile.is_empty()).then_some(&c.profile),
        "queued_at": time(c.queued_at_ns), "started_at": time(c.started_at_ns), "ended_at": time(c.ended_at_ns),
        "capture": (!c.capture.is_empty()).then_some(&c.capture), "items": c.items, "raw_bytes": c.raw_bytes, "stored_bytes": c.stored_bytes,
        "by_status": c.by_status, "streams": c.streams,
        "exhibit_first": (c.exhibit_count > 0).then_some(c.exhibit_first), "exhibit_count": c.exhibit_count, "disposed": c.disposed.as_ref().map(disposed),
        "store_cost": c.store_cost.as_ref().map(|cost| json!({
            "puts": cost.puts, "lists": cost.lists, "reads": cost.reads, "bytes": cost.bytes, "currency": cost.currency,
            "requests_price": show_price(cost.requests_nanos), "month_price": show_price(cost.month_nanos),
        })),
    })
}

fn is_closed(state: &str) -> bool {
    !matches!(state, "unapproved" | "queued" | "offered" | "running" | "ending")
}

/// Destroyed later on, it did end as sealed.
fn is_sealed(c: &pb::Collection) -> bool {
    c.state == "sealed" || c.disposed.as_ref().is_some_and(|gone| gone.outcome == "sealed")
}

/// Who decided that a collection is destroyed, and where that is recorded.
fn disposed(gone: &pb::Disposed) -> Value {
    let digest = |bytes: &[u8]| Digest::try_from(bytes).ok().map(|d| d.to_string());
    let done = gone.destroyed_at_ns != 0;
    json!({
        "destroyed_at": done.then(|| Timestamp::from_unix_ns(gone.destroyed_at_ns).to_string()), "requested_by": gone.requested_by,
        "approved_by": gone.approved_by, "disposal": digest(&gone.disposal_sha256), "approval": digest(&gone.approval_sha256),
        "certificate": digest(&gone.certificate_sha256), "certificate_n": done.then_some(gone.certificate_n), "ended_as": gone.outcome,
    })
}

fn which(which: &WhichArgs, collections: &[String]) -> Result<pb::ListCollectionsRequest> {
    let case_id = which.case.as_deref().map(parse_id::<CaseId>).transpose()?.map(|c| c.to_string()).unwrap_or_default();
    let order = which.order.as_deref().map(parse_id::<OrderId>).transpose()?.map(|o| o.to_string()).unwrap_or_default();
    let collections = collections.iter().map(|c| parse_id::<CollectionId>(c).map(|c| c.to_string())).collect::<Result<_>>()?;
    Ok(pb::ListCollectionsRequest { case_id, order, collections })
}

/// Prints collections.
pub fn table(collections: &[pb::Collection], out: &Output) -> Result<()> {
    let rows: Vec<Value> = collections
        .iter()
        .map(|c| {
            let mut row = to_json(c);
            if !out.is_json() {
                row["raw_bytes"] = json!(show_bytes(c.raw_bytes));
                row["stored_bytes"] = json!(show_bytes(c.stored_bytes));
                row["queued_at"] = json!(show_time(c.queued_at_ns));
            }
            row
        })
        .collect();
    out.rows(&COLUMNS, &rows)?;
    if let Some(text) = cost_text(collections) {
        out.note(&text);
    }
    Ok(())
}

/// What the closed ones among these cost in a bucket together, by the coordinator's configured prices.
fn cost_text(collections: &[pb::Collection]) -> Option<String> {
    let costs: Vec<&pb::StoreCost> = collections.iter().filter_map(|c| c.store_cost.as_ref()).collect();
    let sum = |of: fn(&pb::StoreCost) -> u64| costs.iter().map(|cost| of(cost)).fold(0, u64::saturating_add);
    let currency = escape_bounded(&costs.first()?.currency, 8);
    let (puts, lists, reads) = (sum(|c| c.puts), sum(|c| c.lists), sum(|c| c.reads));
    Some(format!(
        "store: at least {puts} requests that write, {lists} that list, {reads} that read, {}; at the configured prices from {} {currency}, and {} {currency} a month",
        show_bytes(sum(|c| c.bytes)),
        show_price(sum(|c| c.requests_nanos)),
        show_price(sum(|c| c.month_nanos)),
    ))
}

pub async fn listed(connection: &mut Connection, what: &pb::ListCollectionsRequest) -> Result<Vec<pb::Collection>> {
    let mut stream = connection.rpc().list_collections(what.clone()).await?.into_inner();
    let mut found = Vec::new();
    while let Some(collection) = stream.message().await? {
        found.push(collection);
    }
    Ok(found)
}

/// Lists collections.
pub async fn list(connection: &mut Connection, args: WhichArgs, out: &Output) -> Result<Code> {
    table(&listed(connection, &which(&args, &[])?).await?, out)?;
    Ok(Code::Ok)
}

/// Cancels collections.
pub async fn cancel(connection: &mut Connection, args: CancelArgs, out: &Output) -> Result<Code> {
    let what = which(&WhichArgs { case: None, order: args.order }, &args.collections)?;
    let before = listed(connection, &what).await?;
    let request = pb::CancelCollectionsRequest { collections: what.collections, order: what.order, reason: args.reason };
    let sent = out.patiently(connection.rpc().cancel_collections(request)).await;
    let now = sent.map_err(|status| Failure::from(status).unsure("they were cancelled", "exhibit collections"))?.into_inner();
    table(&now.collections, out)?;
    let closed = before.iter().filter(|c| is_closed(&c.state)).count() as u64;
    if closed > 0 {
        let them = count(closed, "collection was", "collections were");
        out.note(&format!("{them} closed before: nothing of them is cancelled, they stay as they are"));
    }
    Ok(Code::Ok)
}

/// Follows collections.
pub async fn run(connection: &mut Connection, args: WatchArgs, out: &Output) -> Result<Code> {
    let what = which(&args.which, &args.collections)?;
    follow(connection, what, out).await
}

/// How long a lost coordinator is waited for.
const RECONNECT_FOR: Duration = Duration::from_mins(2);
/// Pause between two attempts.
const RECONNECT_EVERY: Duration = Duration::from_secs(2);

/// Follows until all are closed; 2 when one did not end as sealed. A lost coordinator is waited for: the collections do not
/// depend on who looks.
///
/// # Errors
/// [`Code::Unavailable`] when it stays away, [`Code::Interrupted`] on Ctrl-C; both say how to go on.
pub async fn follow(connection: &mut Connection, what: pb::ListCollectionsRequest, out: &Output) -> Result<Code> {
    let named = named(&what);
    let how = format!("exhibit watch {named}");
    interrupt::or(follow_all(connection, what, out)).await.map_err(|failure| match failure.code {
        Code::Unavailable => failure.hint(format!("the collections go on; follow them again with: {how}")),
        Code::Interrupted | Code::Terminated => {
            let mut failure = failure;
            failure.message.push_str("; the collections go on");
            failure.hint(format!("{how} to follow them again, exhibit cancel {named} --reason '...' to stop them"))
        }
        _ => failure,
    })
}

/// What is followed, as the command line names it. A case cannot be cancelled as a whole.
fn named(what: &pb::ListCollectionsRequest) -> String {
    match what {
        w if !w.order.is_empty() => format!("--order {}", w.order),
        w if !w.case_id.is_empty() => format!("--case {}", w.case_id),
        w => w.collections.join(" "),
    }
}

async fn follow_all(connection: &mut Connection, what: pb::ListCollectionsRequest, out: &Output) -> Result<Code> {
    let mut latest: BTreeMap<String, pb::Collection> = BTreeMap::new();
    let mut bars = Bars::new(out, &listed(connection, &what).await?);
    loop {
        let lost = match listen(connection, &what, &mut latest, &mut bars, out).await {
            Ok(()) if latest.values().all(|c| is_closed(&c.state)) => break,
            Ok(()) => Failure::new(Code::Unavailable, "the coordinator ended the connection"),
            Err(failure) if failure.code == Code::Unavailable => failure,
            Err(failure) => return Err(failure),
        };
        bars.say(&format!("{}; the collections go on, connecting again", lost.message));
        tokio::time::timeout(RECONNECT_FOR, reconnect(connection)).await.map_err(|_| lost)??;
        bars.say("connected again");
    }
    bars.done();
    let ended: Vec<pb::Collection> = latest.into_values().collect();
    if !out.is_json() {
        table(&ended, out)?;
    }
    let all_sealed = !ended.is_empty() && ended.iter().all(is_sealed);
    Ok(if all_sealed { Code::Ok } else { Code::Incomplete })
}

/// Takes what the coordinator says until it has nothing more to say.
async fn listen(
    connection: &mut Connection,
    what: &pb::ListCollectionsRequest,
    latest: &mut BTreeMap<String, pb::Collection>,
    bars: &mut Bars,
    out: &Output,
) -> Result<()> {
    let request = pb::WatchCollectionsRequest { what: Some(what.clone()) };
    let mut stream = connection.rpc().watch_collections(request).await?.into_inner();
    while let Some(collection) = stream.message().await? {
        if out.is_json() {
            out.object(&to_json(&collection))?;
        }
        bars.show(&collection, latest.get(&collection.collection));
        latest.insert(collection.collection.clone(), collection);
    }
    Ok(())
}

/// Tries until the coordinator is there; only its absence is waited for.
async fn reconnect(connection: &mut Connection) -> Result<()> {
    loop {
        match connection.reopen().await {
            Err(failure) if failure.code == Code::Unavailable => tokio::time::sleep(RECONNECT_EVERY).await,
            other => return other,
        }
    }
}

/// The host that a collection is of, and its agent where the host alone does not tell.
pub fn agent_name(c: &pb::Collection, ambiguous: bool) -> String {
    let host = escape_bounded(&c.hostname, 24);
    match (host.is_empty(), ambiguous) {
        (true, _) => c.agent.clone(),
        (false, true) => format!("{host} ({})", c.agent),
        (false, false) => host,
    }
}

/// Progress bars for a person at a terminal; one line a change of state when stderr is a file.
struct Bars {
    multi: Option<MultiProgress>,
    bars: BTreeMap<String, ProgressBar>,
    lines: bool,
    /// Host names that several agents have.
    ambiguous: BTreeSet<String>,
}

/// More than this many bars do not fit a screen; the others only count.
const BARS_MAX: usize = 20;

impl Bars {
    fn new(out: &Output, collections: &[pb::Collection]) -> Self {
        let mut agents: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for c in collections {
            agents.entry(&c.hostname).or_default().insert(&c.agent);
        }
        let ambiguous = agents.into_iter().filter(|(_, agents)| agents.len() > 1).map(|(host, _)| host.to_owned()).collect();
        Self {
            ambiguous,
            multi: out.is_watched().then(MultiProgress::new),
            bars: BTreeMap::new(),
            lines: !out.is_json() && !std::io::stderr().is_terminal(),
        }
    }

    /// Tells a person something without tearing the bars.
    fn say(&self, text: &str) {
        match &self.multi {
            Some(multi) => drop(multi.println(text)),
            None if self.lines => eprintln!("{text}"),
            None => {}
        }
    }

    fn show(&mut self, c: &pb::Collection, before: Option<&pb::Collection>) {
        let host = agent_name(c, self.ambiguous.contains(&c.hostname));
        if self.lines && before.is_none_or(|b| b.state != c.state || b.reason != c.reason) {
            eprintln!(
                "{host} {}: {}{}",
                c.collection,
                c.state,
                if c.reason.is_empty() { String::new() } else { format!(" ({})", exhibit_evidence::text::one_line(&c.reason, 200)) }
            );
        }
        let Some(multi) = &self.multi else { return };
        if !self.bars.contains_key(&c.collection) {
            if self.bars.len() >= BARS_MAX {
                return;
            }
            let bar = multi.add(ProgressBar::no_length());
            bar.enable_steady_tick(std::time::Duration::from_millis(200));
            self.bars.insert(c.collection.clone(), bar);
        }
        let Some(bar) = self.bars.get(&c.collection) else { return };
        let known = c.expected_raw_bytes > 0;
        let template = if known {
            "{prefix:32!} {msg:28!} {bar:24} {binary_bytes:>11}/{binary_total_bytes} {binary_bytes_per_sec:>12} {eta:>4} left"
        } else {
            "{prefix:32!} {msg:28!} {spinner} {binary_bytes:>11} {binary_bytes_per_sec:>12} for {elapsed}"
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        if known {
            bar.set_length(c.expected_raw_bytes.max(c.raw_bytes));
        }
        bar.set_prefix(host);
        let doing = if c.capture.is_empty() { c.state.clone() } else { format!("{} {}", c.state, escape_bounded(&c.capture, 12)) };
        bar.set_message(format!("{doing} {}", count(c.items, "item", "items")));
        bar.set_position(c.raw_bytes);
        if is_closed(&c.state) {
            bar.finish();
        }
    }

    fn done(&mut self) {
        for bar in self.bars.values() {
            bar.finish();
        }
        if let Some(multi) = &self.multi {
            let _ = multi.clear();
        }
    }
}
