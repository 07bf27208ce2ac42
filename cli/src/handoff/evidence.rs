//! The part of the report about the evidence: a section for each collection, with how each of its streams was taken.

use exhibit_evidence::Timestamp;
use exhibit_evidence::custody::Fate;
use exhibit_evidence::record::{Acquisition, Footprint};
use exhibit_evidence::verify::CollectionSummary;

use super::details::status;
use super::facts::{At, Facts};
use super::items::condemned;
use super::reasons::reason;
use super::unapproved::unapproved;
use super::words::{approved, bytes, decimal, exhibits, field, host, moment, not_checked, outcome, party, size, unread_of};
use crate::document::{Block, Language, Value};

/// The section about the evidence.
pub fn evidence(l: Language, facts: &Facts) -> Vec<Block> {
    let mut blocks = vec![Block::Heading(1, l.pick("3. Evidence", "3. Preuves").to_owned())];
    if facts.report.collections.is_empty() {
        blocks.push(Block::Paragraph(l.pick("None was ordered.", "Aucune n'a été ordonnée.").to_owned()));
    }
    for (n, collection) in (1_usize..).zip(&facts.report.collections) {
        blocks.extend(of_collection(l, facts, n, collection));
    }
    blocks
}

fn of_collection(l: Language, facts: &Facts, n: usize, c: &CollectionSummary) -> Vec<Block> {
    let title = format!("3.{n} {} {}", l.pick("Evidence from", "Preuves provenant de"), host(c));
    let mut fields = vec![
        field(l.pick("Collection", "Collecte"), Value::exact(&c.id)),
        field(l.pick("Agent", "Agent"), Value::exact(&c.agent)),
        field(l.pick("How it ended", "Issue"), Value::text(ended(l, facts, c))),
        field(l.pick("Exhibit numbers", "Numéros de pièces"), Value::text(exhibits(l, c))),
    ];
    if let Some(why) = &c.reason {
        fields.push(field(l.pick("Reason", "Motif"), Value::text(reason(l, why))));
    }
    if let Some(order) = facts.order_of(c) {
        let (n, o) = (order.n, &order.record);
        fields.push(field(l.pick("Ordered by", "Ordonnée par"), Value::text(format!("{}, {}", party(&o.issued_by), moment(o.issued_at)))));
        fields.push(field(l.pick("Order", "Ordre"), Value::exact(format!("{} ({} {n})", o.order, l.pick("record", "enregistrement")))));
        fields.extend(approved(l, facts, c));
        fields.push(field(l.pick("Legal basis of the order", "Fondement juridique de l'ordre"), Value::text(&o.legal_basis)));
        fields.push(field(l.pick("Ordered because", "Motif de l'ordre"), Value::text(&o.reason)));
        let captures = o.captures.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
        fields.push(field(l.pick("What was ordered", "Objet de l'ordre"), Value::text(captures)));
    }
    fields.extend(kept(l, facts, c));
    let mut blocks = vec![Block::Heading(1, title), Block::Fields(fields)];
    for acquisition in facts.acquisitions_of(&c.id) {
        blocks.push(Block::Heading(2, format!("{} {}", l.pick("Stream", "Flux"), acquisition.record.stream)));
        blocks.push(Block::Fields(taken(l, facts, acquisition)));
    }
    blocks
}

/// How it ended, or why it has no end.
fn ended(l: Language, facts: &Facts, c: &CollectionSummary) -> String {
    unapproved(facts, c).map_or_else(|| outcome(l, c.outcome).to_owned(), |why| why.ended(l))
}

/// What there is of a collection in this bag, or what became of it.
fn kept(l: Language, facts: &Facts, c: &CollectionSummary) -> Vec<(String, Value)> {
    if let Some(disposed) = &c.disposed {
        let text = format!("{} ({})", moment(disposed.at), disposed.certificate);
        return vec![field(l.pick("DESTROYED (certificate)", "DÉTRUITE (certificat)"), Value::text(text))];
    }
    let here = l.pick("In this bag", "Dans ce dossier");
    let fate = facts.history.state().fate(&c.id);
    if fate != Fate::Kept && !facts.history.state().received(&c.id) {
        return vec![field(here, Value::text(nothing_received(l)))];
    }
    if let Fate::Condemned { approval } = fate {
        let record = facts.row(&approval).map_or_else(|| "?".to_owned(), |row| row.n.to_string());
        return vec![field(here, Value::text(condemned(l, &record)))];
    }
    if c.left_out {
        return vec![field(here, Value::text(l.pick("NO: left out by choice", "NON : exclue par choix")))];
    }
    let items = l.pick("Items", "Éléments");
    if c.items == 0 {
        return vec![field(items, Value::text(and_unread(l, facts, c, l.pick("no items", "aucun élément"))))];
    }
    let status: Vec<String> = c.by_status.iter().map(|(one, n)| status(l, *one, *n)).collect();
    vec![
        field(items, Value::text(format!("{} ({})", c.items, status.join(", ")))),
        field(l.pick("Items verified", "Éléments vérifiés"), Value::text(verified(l, facts, c))),
        field(l.pick("Size", "Taille"), Value::text(size(l, (c.raw_bytes, c.raw_bytes_unread, c.stored_bytes)))),
    ]
}

/// A disposal names a collection of which there was nothing.
const fn nothing_received(l: Language) -> &'static str {
    l.pick(
        "nothing was received of it: the disposal that names it had nothing to destroy",
        "rien n'en a été reçu : la destruction demandée qui la nomme n'avait rien à détruire",
    )
}

/// How many items were found good, and how many were not looked at.
fn verified(l: Language, facts: &Facts, c: &CollectionSummary) -> String {
    and_unread(l, facts, c, &format!("{} / {}", c.items_verified, c.items))
}

/// What is said, and what of the collection nobody decrypted.
fn and_unread(l: Language, facts: &Facts, c: &CollectionSummary, said: &str) -> String {
    unread_of(facts, c).map_or_else(|| said.to_owned(), |what| format!("{said}{}{}", l.pick("; ", " ; "), not_checked(l, what)))
}

fn taken(l: Language, facts: &Facts, at: &At<Acquisition>) -> Vec<(String, Value)> {
    let a = &at.record;
    let offset = |offset: Option<i64>| match offset {
        Some(ns) => format!("{} ms", ns / 1_000_000),
        None => l.pick("not measured", "non mesuré").to_owned(),
    };
    let os = a.host.os.clone().unwrap_or_default();
    let mut fields = vec![
        field(
            l.pick("Host, by its own account", "Hôte, selon lui-même"),
            Value::text(format!("{}, {os}, {}", a.host.hostname, a.host.kernel)),
        ),
        field(l.pick("Taken", "Prise"), Value::text(format!("{} - {}", moment(a.started.wall), moment(a.ended.wall)))),
        field(
            l.pick("Offset of the host's clock", "Écart de l'horloge de l'hôte"),
            Value::text(format!("{} / {}", offset(a.started.offset_ns), offset(a.ended.offset_ns))),
        ),
        field(l.pick("Program", "Programme"), Value::text(format!("{} {}", a.tool.name, a.tool.version))),
        field(l.pick("SHA-256 of the program", "SHA-256 du programme"), Value::exact(a.tool.sha256)),
        field(l.pick("SHA-256 of the manifest", "SHA-256 du manifeste"), Value::exact(a.manifest.sha256)),
        field(l.pick("Effect on the host", "Effet sur l'hôte"), Value::text(footprint(l, &a.footprint))),
    ];
    let receipt = facts.receipts_of(&a.collection).find(|r| r.record.stream == a.stream);
    if let Some(receipt) = receipt {
        let (from, to): (Timestamp, Timestamp) = (receipt.record.received_from, receipt.record.received_to);
        let text = format!("{} - {} ({} {})", moment(from), moment(to), l.pick("record", "enregistrement"), receipt.n);
        let received = if receipt.record.contents_unverified {
            l.pick("Received; contents encrypted, verified as stored", "Reçu ; contenus chiffrés, vérifié tel que conservé")
        } else {
            l.pick("Received and verified", "Reçu et vérifié")
        };
        fields.push(field(received, Value::text(text)));
    }
    fields
}

fn footprint(l: Language, f: &Footprint) -> String {
    let (memory, seconds, wrote) = (bytes(l, f.rss_peak_bytes), decimal(l, f.cpu_ms as f64 / 1_000.0), wrote(l, &f.wrote));
    match l {
        Language::En => {
            format!("process {}, at most {memory} of memory, {seconds} s of processor time, files written: {wrote}", f.pid)
        }
        Language::Fr => {
            format!("processus {}, au plus {memory} de mémoire, {seconds} s de processeur, fichiers écrits : {wrote}", f.pid)
        }
    }
}

/// The files that the agent says it wrote. A relative path begins in its own folder, which the reader cannot know.
fn wrote(l: Language, files: &[String]) -> String {
    let (whole, relative): (Vec<&str>, Vec<&str>) = files.iter().map(String::as_str).partition(|file| file.starts_with('/'));
    let mut parts = Vec::new();
    if !whole.is_empty() {
        parts.push(whole.join(", "));
    }
    if !relative.is_empty() {
        let files = relative.join(", ");
        parts.push(format!("{files} {}", l.pick("in the agent's own folder", "dans le dossier propre de l'agent")));
    }
    if parts.is_empty() { l.pick("none", "aucun").to_owned() } else { parts.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_path_is_said_to_be_in_the_agents_folder() {
        let of = |l, files: &[&str]| wrote(l, &files.iter().map(|&file| file.to_owned()).collect::<Vec<_>>());
        assert_eq!(of(Language::En, &["ag1/finished.json"]), "ag1/finished.json in the agent's own folder");
        assert_eq!(of(Language::Fr, &["/var/a", "b", "c"]), "/var/a; b, c dans le dossier propre de l'agent");
        assert_eq!(of(Language::En, &["/var/a"]), "/var/a");
        assert_eq!([of(Language::En, &[]), of(Language::Fr, &[])], ["none", "aucun"]);
    }
}
