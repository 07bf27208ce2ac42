//! The report for people: the first screen is for counsel, what follows is for an expert.

use std::fmt::Write as _;

use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::verify::{
    Blame, Bound, Code, CollectionSummary, Finding, Report, Sandwich, Severity, TimestampSummary, TimestampTrust, Verdict,
};

/// A byte count for people, exact below 1 KiB.
pub fn bytes(n: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = n as f64;
    let mut unit = "bytes";
    for next in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "bytes" { format!("{n} bytes") } else { format!("{value:.1} {unit}") }
}

/// "1 item", "2 items".
fn count(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// An amount of evidence, by whoever knows it: this program where it read it, the signed list where it could not.
fn amount(read: u64, unread: u64) -> String {
    if unread == 0 {
        return bytes(read);
    }
    format!("{} by the signed lists of items, encrypted and not read", bytes(unread))
}

/// What is said of contents that were opened as some of their recipients.
fn opened_by_some(report: &Report) -> String {
    let all = report.case.as_ref().map_or(0, |case| case.encrypt_to.as_slice().len());
    let with = report.opened_with.len();
    if with == 0 || with >= all {
        return String::new();
    }
    format!(" Contents were opened with the identities of {with} of {all} recipients: that the others can open them is not shown by this.")
}

/// What is said where a longer head was given and nothing shows that it continues this history.
fn undecided(report: &Report) -> &'static str {
    if report.verdict.is_sound() && report.findings.kept().iter().any(|f| f.code == Code::LogShorter) {
        return " A checkpoint that was given is longer than the log in this bag; that it continues this log is NOT shown: that needs --consistency.";
    }
    ""
}

fn verdict_line(report: &Report, quiet: bool) -> String {
    let below = |what: String| if quiet { String::new() } else { what };
    let (errors, warnings, notes) = report.findings.counts();
    match report.verdict {
        Verdict::Sound if notes == 0 => format!("SOUND: everything that this case claims was checked and holds.{}", views(report)),
        Verdict::SoundAsFarAsReadable => {
            let what = match report.counts.items_unchecked {
                0 => count(report.counts.segments, "segment"),
                items => count(items, "item"),
            };
            format!(
                "SOUND AS FAR AS IT CAN BE READ: everything that shows without a recipient's key was checked and holds. The contents of {what} \
                 are encrypted and were NOT checked: a recipient checks them with --identity.{}",
                views(report)
            )
        }
        Verdict::Sound if left_out(report) > 0 => {
            let what = count(left_out(report) as u64, "collection");
            format!(
                "SOUND: everything in this bag was checked and holds. The evidence of {what} is not in this bag, by choice.{}",
                views(report)
            )
        }
        Verdict::Sound => {
            let see = below(format!(" See also {} below.", count(notes, "note")));
            format!("SOUND: everything that this case claims was checked and holds.{}{see}", views(report))
        }
        Verdict::Unsound => {
            format!(
                "NOT SOUND: {}, {}, {}.{}",
                count(errors, "error"),
                count(warnings, "warning"),
                count(notes, "note"),
                below(" See the findings below.".to_owned())
            )
        }
    }
}

/// What a verdict about a bag does not cover: nobody can compare a report with anything, and a list that was taken out leaves no trace.
fn views(report: &Report) -> String {
    let Some(bag) = &report.bag else { return String::new() };
    let unchecked: Vec<String> = bag.timestamps.iter().filter(|t| not_asked(t)).map(|t| format!("'{}'", t.authority)).collect();
    let revocation = match unchecked.as_slice() {
        [] => String::new(),
        names => format!(
            " Whether the certificate behind the time stamp of {} over this bag was revoked was NOT checked: no list of its issuer is in \
             the bag or was given with the roots, and one that was taken out leaves no trace.",
            names.join(", ")
        ),
    };
    format!(
        " The bag's documents (report, form, statements, load file, CASE file, schemas, VERIFY.md) are views made by whoever exported and are \
         compared with nothing; so is what bag-info.txt says of an earlier verification.{revocation}"
    )
}

/// A stamp that is believed, and of which no list says that its certificate was not revoked.
fn not_asked(stamp: &TimestampSummary) -> bool {
    stamp.trust.as_ref().is_some_and(|trust| trust.crl_made.is_none())
}

/// Whether the certificate of a believed timestamp was revoked, as far as it was asked.
fn revoked(trust: &TimestampTrust, without: &str) -> String {
    trust.crl_made.map_or_else(|| without.to_owned(), |at| format!("revoked: no, by the CRL of {at}"))
}

fn left_out(report: &Report) -> usize {
    report.bag.as_ref().map_or(0, |bag| bag.left_out.len())
}

/// What a code means, for `explain`.
pub fn explain(code: Code) -> String {
    let next = match code.blame() {
        Blame::Store => {
            "Compare with another copy of the case and verify that one. Ask whoever kept or carried this copy, and keep it as it is."
        }
        Blame::Coordinator => "Ask the deployment's operator for the coordinator's own account of it. Another copy will show the same.",
        Blame::Host => {
            "Ask who is responsible for the host and its agent. Another copy will show the same; the order may be repeated on the host."
        }
        Blame::Operator => "Ask the person whom the finding names, or the deployment's operator, and have the answer in writing.",
        Blame::Unknown => {
            "Read the finding's own words first, then the other findings: one of them may be the cause. Where the copy itself is in doubt, check the anchor and verify another one."
        }
    };
    let severity = match code.severity() {
        Severity::Error => "error: the evidence, or a statement about it, is not what was signed",
        Severity::Warning => "warning: something does not belong here or does not fit; what was signed still holds",
        Severity::Note => "note: worth knowing; does not change the verdict",
    };
    let (found, means, ask) = (code.found(), code.meaning(), code.blame().shown());
    format!("{code}\n  severity  {severity}\n  means     {means}\n  found     {found}\n  ask       {ask}\n  next      {next}\n")
}

/// The whole text.
pub fn render(report: &Report, root_key: &str, quiet: bool) -> String {
    let mut out = verdict_line(report, quiet);
    out.push_str(&opened_by_some(report));
    out.push_str(undecided(report));
    out.push('\n');
    if quiet {
        return out;
    }
    let _ = write_bag(&mut out, report);
    let _ = write_case(&mut out, report);
    if !report.deployment_log {
        let _ = write_collections(&mut out, &report.collections);
    }
    let _ = write_findings(&mut out, report);
    let _ = write_checked(&mut out, report, root_key);
    out
}

fn write_bag(out: &mut String, report: &Report) -> std::fmt::Result {
    let Some(bag) = &report.bag else { return Ok(()) };
    let shown = |text: &str| escape_bounded(text, 300);
    writeln!(out)?;
    writeln!(out, "Bag          handed over by {} at {}", shown(&bag.exported_by), bag.exported_at)?;
    writeln!(out, "             because: {}", shown(&bag.reason))?;
    let signed = if bag.signed { "signed by" } else { "NOT validly signed by" };
    writeln!(out, "             {signed} key {}", bag.key)?;
    for t in &bag.timestamps {
        let trust = t.trust.as_ref();
        let believed = trust.map_or_else(
            || "which leads to no root that was given (--timestamp-anchor)".to_owned(),
            |trust| {
                let revoked = revoked(trust, "revocation not checked (no list of its issuer in the bag or with the roots)");
                format!("by '{}'; {revoked}", escape_bounded(&trust.signer, 100))
            },
        );
        writeln!(out, "             stamped '{}' at {}, {believed}", t.authority, t.time)?;
    }
    writeln!(
        out,
        "             {} of evidence and {} besides are listed in it",
        count(bag.payload_files, "file"),
        count(bag.tag_files, "file")
    )?;
    if bag.views.iter().flatten().all(|view| view.is_compared()) {
        writeln!(out, "             it does not say what was made of the case: whether a document was left out is NOT known")?;
    }
    if !bag.left_out.is_empty() {
        writeln!(
            out,
            "Not in it    the evidence of {}, left out by choice; the log names them",
            count(bag.left_out.len() as u64, "collection")
        )?;
    }
    Ok(())
}

fn write_case(out: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(out)?;
    let Some(case) = &report.case else {
        if report.deployment_log {
            return writeln!(out, "Log          of the deployment itself: keys of people and agents, and what concerns no case");
        }
        return writeln!(out, "Case         unknown: there is no valid record that opens it");
    };
    let shown = |text: &str| escape_bounded(text, 300);
    writeln!(out, "Case         {}", shown(&case.title))?;
    writeln!(out, "             {}", case.id)?;
    writeln!(out, "Legal basis  {}", shown(&case.legal_basis))?;
    writeln!(out, "Accountable  {}", shown(&case.accountable))?;
    writeln!(out, "Opened       {} by {}", case.opened_at, shown(&case.opened_by))?;
    if case.two_person {
        writeln!(out, "Orders       each needs the approval of a second person")?;
    }
    if !case.encrypt_to.is_none() {
        writeln!(out, "Contents     encrypted to {}", case.encrypt_to)?;
        for recipient in &report.opened_with {
            writeln!(out, "             opened here with the identity of {recipient}")?;
        }
    }
    if let Some(at) = case.closed_at {
        writeln!(out, "Closed       {at}")?;
    }
    let items = count(report.counts.items, "item");
    if report.unread {
        let (stated, stored) = (report.counts.raw_bytes_unread, bytes(report.counts.stored_bytes));
        return writeln!(out, "Evidence     {items}, {}; {stored} as stored", amount(report.counts.raw_bytes, stated));
    }
    writeln!(out, "Evidence     {items}, {} as read from the hosts", bytes(report.counts.raw_bytes))
}

fn write_collections(out: &mut String, collections: &[CollectionSummary]) -> std::fmt::Result {
    writeln!(out, "\nCOLLECTIONS{}", if collections.is_empty() { "  none was ordered" } else { "" })?;
    for c in collections {
        let host = c.host.as_deref().map_or_else(|| format!("agent {}", c.agent), |h| format!("host '{h}'"));
        let open = if c.unapproved { "never approved; no host could obey it" } else { "open" };
        let outcome = c.outcome.map_or(open, exhibit_evidence::record::Outcome::as_str);
        writeln!(out, "  {host}: {outcome}")?;
        writeln!(out, "      {}, {}, agent {}", c.id, count(u64::from(c.streams), "stream"), c.agent)?;
        if c.left_out && c.disposed.is_none() {
            let exhibits = c.exhibits.map_or_else(String::new, |[a, b]| format!(": exhibits {a} to {b}"));
            writeln!(out, "      NOT IN THIS BAG, left out by choice{exhibits}")?;
            continue;
        }
        let verified = match (c.items, c.items_verified) {
            (0, _) => String::new(),
            (_, good) if c.items_unchecked > 0 => {
                format!(" ({good} found good, the contents of {} not checked: encrypted)", c.items_unchecked)
            }
            (items, good) if items == good => " (all found good)".to_owned(),
            (_, good) => format!(" ({good} found good)"),
        };
        let exhibits = c.exhibits.map_or_else(|| "no exhibit numbers".to_owned(), |[a, b]| format!("exhibits {a} to {b}"));
        if c.disposed.is_some() {
            writeln!(out, "      nothing of it is left to verify, {exhibits}")?;
        } else {
            let amount = amount(c.raw_bytes, c.raw_bytes_unread);
            writeln!(out, "      {}{verified}, {amount}, {exhibits}", count(c.items, "item"))?;
        }
        let by_status: Vec<String> = c.by_status.iter().map(|(status, n)| format!("{n} {}", status.as_str())).collect();
        if !by_status.is_empty() {
            writeln!(out, "      of them {}", by_status.join(", "))?;
        }
        if c.items_unsigned > 0 {
            let items = if c.items_unsigned == c.items { "all of them".to_owned() } else { format!("{} of them", c.items_unsigned) };
            writeln!(out, "      the agent never signed for {items}: that they left the host like this is the coordinator's word alone")?;
        }
        if let Some(at) = c.sealed_at {
            writeln!(out, "      sealed {at} by the coordinator's clock")?;
        }
        write_time(out, &c.trusted_time)?;
        if let Some(reason) = &c.reason {
            writeln!(out, "      reason: {reason}")?;
        }
        if let Some(disposed) = &c.disposed {
            writeln!(out, "      destroyed {} on a custodian's request and a second person's approval", disposed.at)?;
            writeln!(out, "      certificate: record {}", disposed.certificate)?;
        }
    }
    Ok(())
}

/// The time sandwich: what trusted timestamps say, whatever any clock of the deployment said.
fn write_time(out: &mut String, time: &Sandwich) -> std::fmt::Result {
    let shown = |bound: &Option<Bound>| bound.as_ref().map(|b| format!("{} ({})", b.at, b.object));
    let (after, taken, sealed) = (shown(&time.not_before), shown(&time.acquired_before), shown(&time.sealed_before));
    if let Some(after) = &after {
        writeln!(out, "      trusted time: taken after   {after}")?;
    }
    if let Some(taken) = &taken {
        writeln!(out, "      trusted time: taken before  {taken}")?;
    }
    if let Some(sealed) = &sealed {
        writeln!(out, "      trusted time: sealed before {sealed}")?;
    }
    if after.is_none() && (taken.is_some() || sealed.is_some()) {
        writeln!(out, "      trusted time: no timestamp shows after what moment it was taken")?;
    }
    Ok(())
}

fn write_witnesses(out: &mut String, report: &Report) -> std::fmt::Result {
    let here = report.checkpoint.map_or(0, |head| head.size);
    for w in &report.witnesses {
        let name = escape_bounded(&w.witness, 128);
        match (w.size, &w.at) {
            (Some(size), Some(at)) if size > here => {
                let size = count(size, "record");
                writeln!(out, "  witness     '{name}' vouches for all of it, by a head of {size} that continues it, at {at}")?;
            }
            (Some(size), Some(at)) => writeln!(out, "  witness     '{name}' vouches for the first {}, at {at}", count(size, "record"))?,
            _ => writeln!(out, "  witness     '{name}' vouches for no head of this history")?,
        }
    }
    Ok(())
}

fn write_timestamps(out: &mut String, timestamps: &[TimestampSummary]) -> std::fmt::Result {
    for t in timestamps {
        writeln!(out, "  timestamp   '{}' saw the first {} at {}", t.authority, count(t.size, "record"), t.time)?;
        match &t.trust {
            None => writeln!(out, "              not believed: it leads to no root that was given (--timestamp-anchor); {}", t.object)?,
            Some(trust) => {
                let [_, until] = trust.valid;
                let revoked = revoked(trust, "revoked: not checked, no CRL");
                writeln!(out, "              by '{}', valid until {}; {revoked}", escape_bounded(&trust.signer, 100), until)?;
            }
        }
    }
    Ok(())
}

/// By when the last records were there, under each root, and which object shows it.
fn write_last_stamped(out: &mut String, report: &Report) -> std::fmt::Result {
    let Some(last) = &report.last_stamped else { return Ok(()) };
    if last.by.is_empty() {
        return writeln!(out, "  stamped     record {}, the last that counts, is stamped under none of the given roots", last.record);
    }
    for bound in &last.by {
        let object = escape_bounded(&bound.object, 200);
        writeln!(out, "  stamped     record {}, the last that counts, was there before {}, by {object}", last.record, bound.at)?;
    }
    Ok(())
}

fn write_findings(out: &mut String, report: &Report) -> std::fmt::Result {
    let findings = &report.findings;
    if findings.kept().is_empty() {
        return writeln!(out, "\nFINDINGS     none");
    }
    writeln!(out, "\nFINDINGS")?;
    for (i, finding) in findings.kept().iter().enumerate() {
        write_finding(out, i + 1, finding)?;
    }
    if findings.left_out() > 0 {
        writeln!(out, "  ... and {} more that are not shown", findings.left_out())?;
    }
    Ok(())
}

fn write_finding(out: &mut String, number: usize, finding: &Finding) -> std::fmt::Result {
    let severity = match finding.severity {
        Severity::Error => "ERROR",
        Severity::Warning => "WARNING",
        Severity::Note => "NOTE",
    };
    writeln!(out, "  {number}. {severity}  {}", finding.code)?;
    writeln!(out, "      means   {}", finding.meaning)?;
    writeln!(out, "      found   {}", finding.message)?;
    writeln!(out, "      where   {}", finding.object)?;
    if let Some(cause) = &finding.follows_from {
        writeln!(out, "      from    follows from {} of {}", cause.code, cause.object)?;
    }
    writeln!(out, "      ask     {}", finding.blame.shown())
}

fn write_checked(out: &mut String, report: &Report, root_key: &str) -> std::fmt::Result {
    let c = &report.counts;
    writeln!(out, "\nWHAT WAS CHECKED (for an expert; specified in docs/format/verification.md)")?;
    writeln!(out, "  anchor      deployment '{}', root key {root_key}", escape_bounded(&report.deployment, 80))?;
    match &report.checkpoint {
        Some(head) => {
            writeln!(
                out,
                "  history     {} of {} verified: signature, signer's authority, chain",
                c.records_verified,
                count(c.records, "record")
            )?;
            writeln!(out, "              head {}:{}", head.size, head.root)?;
            writeln!(out, "              signed by log key {}", head.key)?;
        }
        None => writeln!(out, "  history     {} of {} verified; no valid signed head", c.records_verified, count(c.records, "record"))?,
    }
    write_witnesses(out, report)?;
    write_timestamps(out, &report.timestamps)?;
    write_last_stamped(out, report)?;
    if c.requests_unanswered > 0 {
        let requests = count(c.requests_unanswered, "request");
        writeln!(out, "  timestamp   {requests} without an answer, as the log's records of the failures say")?;
    }
    let (segments, stored) = (count(c.segments, "segment"), bytes(c.stored_bytes));
    if report.unread {
        writeln!(out, "  bytes       {segments} re-hashed as stored ({stored}), NOT decrypted and not decompressed")?;
    } else {
        writeln!(out, "  bytes       {} in {segments} re-hashed and decompressed ({stored} stored)", bytes(c.raw_bytes))?;
    }
    writeln!(
        out,
        "  items       {} of {} found good: content against the stream (name, kind, size, SHA-256, place),",
        c.items_verified, c.items
    )?;
    writeln!(out, "              what has no content by the rules for such records")?;
    if c.items_unchecked > 0 {
        writeln!(out, "              {} NOT compared with the stream, which is encrypted", count(c.items_unchecked, "item"))?;
    }
    if c.tiles == 0 && c.records > 0 {
        writeln!(out, "  tiles       none in this copy: they follow from the records, but foreign programs may need them")?;
    }
    writeln!(out, "  objects     {} in the folder, each accounted for or reported above", c.objects)?;
    writeln!(out, "  not shown by this: that no longer history ever existed (compare the head with one noted elsewhere, --expect),")?;
    writeln!(out, "              and that the hosts told the truth about themselves and their clocks")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_counts_read_well() {
        assert_eq!([bytes(0), bytes(1023), bytes(1024), bytes(1 << 31)], ["0 bytes", "1023 bytes", "1.0 KiB", "2.0 GiB"]);
        assert_eq!([count(1, "item"), count(0, "item")], ["1 item", "0 items"]);
    }
}
