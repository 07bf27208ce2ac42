//! The chain-of-custody form: the fields of the NIST sample form, those of digital evidence, and room to sign.

use std::collections::BTreeSet;

use exhibit_evidence::record::Outcome;
use exhibit_evidence::verify::{CollectionSummary, Verdict};

use super::destroyed::disposal;
use super::facts::Facts;
use super::items::{Item, items, ranges, without_evidence};
use super::reasons::reason;
use super::release::released_by;
use super::unapproved::{never, unapproved};
use super::words::{
    approved, bytes, document, exhibits, field, head, host, moment, outcome, party, recipients, size, verdict, verification,
};
use crate::document::{Block, Document, Language, Table, Value};

/// Free rows for further transfers.
const TRANSFERS: usize = 6;
const WRITABLE: f32 = 34.0;

/// Makes the form.
pub fn form(language: Language, facts: &Facts) -> Document {
    let (l, items) = (language, items(facts));
    let mut blocks = vec![
        Block::Paragraph(
            l.pick(
                "Fields that the custody log knows are filled in from it. The others, and every signature, are for the persons concerned. Keep this form apart from the bag: the key and digests on it are what the bag is checked against.",
                "Les champs que le journal de conservation connaît sont remplis à partir de lui. Les autres, ainsi que toute signature, reviennent aux personnes concernées. Conservez ce formulaire séparément du dossier : la clé et les empreintes qu'il porte servent à contrôler celui-ci.",
            )
            .to_owned(),
        ),
        Block::Fields(submission(l, facts, &items)),
        Block::Heading(1, l.pick("Description of evidence", "Description des preuves").to_owned()),
        description(l, facts, &items),
    ];
    blocks.extend(nothing(l, facts));
    blocks.push(Block::Heading(1, l.pick("Digital details", "Données numériques").to_owned()));
    for item in &items {
        blocks
            .push(Block::Heading(2, format!("{} {}{}{}", l.pick("Item", "Lot"), item.n, l.pick(": ", "\u{a0}: "), host(item.collection))));
        blocks.push(Block::Fields(digital(l, facts, item.collection)));
    }
    blocks.push(Block::Heading(2, l.pick("Of all items", "De tous les lots").to_owned()));
    blocks.push(Block::Fields(anchors(l, facts)));
    blocks.push(Block::NewPage);
    blocks.extend(transfers(l, facts, &items));
    blocks.push(Block::NewPage);
    blocks.extend(disposal(l, facts, &items));
    document(l, facts, l.pick("Evidence chain of custody form", "Formulaire de chaîne de conservation des preuves"), blocks)
}

fn submission(l: Language, facts: &Facts, items: &[Item<'_>]) -> Vec<(String, Value)> {
    let case = facts.report.case.as_ref();
    let text = |value: Option<&str>| value.map_or(Value::Blank, Value::text);
    let seized = items.iter().flat_map(|item| facts.acquisitions_of(&item.collection.id)).map(|a| a.record.started.wall).min();
    let hosts: BTreeSet<String> = items.iter().map(|item| host(item.collection)).collect();
    let hosts = hosts.into_iter().collect::<Vec<_>>().join(", ");
    let unsound = facts.report.verdict == Verdict::Unsound;
    vec![
        field(
            l.pick("Result of the verification", "Résultat de la vérification"),
            Value::text(if unsound { verification(l, facts) } else { verdict(l, facts) }),
        ),
        field(l.pick("Case number", "Numéro d'affaire"), Value::exact(&facts.description.case)),
        field(l.pick("Offense / case type", "Infraction / nature de l'affaire"), text(case.map(|c| c.title.as_str()))),
        field(l.pick("Legal basis", "Fondement juridique"), text(case.map(|c| c.legal_basis.as_str()))),
        field(l.pick("Submitting officer (name, ID no.)", "Agent remettant (nom, matricule)"), Value::text(released_by(l, facts))),
        field(l.pick("Victim", "Victime"), Value::Blank),
        field(l.pick("Suspect", "Suspect"), Value::Blank),
        field(
            l.pick("Date / time seized (host's clock)", "Date / heure de saisie (horloge de l'hôte)"),
            seized.map_or(Value::Blank, |at| Value::text(moment(at))),
        ),
        field(l.pick("Location of seizure", "Lieu de la saisie"), if hosts.is_empty() { Value::Blank } else { Value::text(hosts) }),
    ]
}

fn description(l: Language, facts: &Facts, items: &[Item<'_>]) -> Block {
    if items.is_empty() {
        return Block::Paragraph(l.pick("No evidence was taken.", "Aucune preuve n'a été prise.").to_owned());
    }
    let columns = vec![
        (l.pick("Item #", "Lot n°").to_owned(), 0.09),
        (l.pick("Quantity", "Quantité").to_owned(), 0.12),
        (l.pick("Exhibits", "Pièces n°").to_owned(), 0.14),
        (l.pick("Description (model, serial no., condition, marks)", "Description (modèle, n° de série, état, marques)").to_owned(), 0.65),
    ];
    Block::Table(Table { columns, rows: items.iter().map(|item| described(l, facts, item)).collect(), row_height_min: 18.0 })
}

fn described(l: Language, facts: &Facts, item: &Item<'_>) -> Vec<Value> {
    let c = item.collection;
    let mut name = format!("{} {}", l.pick("Digital evidence of host", "Preuves numériques de l'hôte"), host(c));
    if let Some(a) = facts.acquisitions_of(&c.id).next() {
        let os = a.record.host.os.clone().unwrap_or_default();
        name = format!("{name} ({}, {os})", a.record.host.kernel);
    }
    let mut parts = vec![name];
    // What is not here was not read.
    if item.is_here() {
        parts.push(size(l, (c.raw_bytes, c.raw_bytes_unread, c.stored_bytes)));
    }
    parts.push(c.id.to_string());
    parts.push(format!("{}{}", l.pick("condition: ", "état : "), item.condition(l, facts)));
    vec![
        Value::text(item.n.to_string()),
        Value::text(item.quantity().to_string()),
        Value::text(exhibits(l, c)),
        Value::text(parts.join("; ")),
    ]
}

/// The orders that took nothing: they are no items, and nobody is to think that they were forgotten.
fn nothing(l: Language, facts: &Facts) -> Vec<Block> {
    let row = |c: &CollectionSummary| {
        let waits = unapproved(facts, c);
        let state = match c.outcome {
            None if waits.is_some() => never(l),
            Some(Outcome::Sealed) => l.pick("sealed: nothing was found to take", "scellée : il n'y avait rien à prendre"),
            Some(Outcome::Partial) => l.pick("cut short before an item arrived", "interrompue avant l'arrivée d'un élément"),
            ended => outcome(l, ended),
        };
        let why = match (&c.reason, waits) {
            (Some(why), _) => reason(l, why),
            (None, Some(waits)) => waits.outlook(l),
            (None, None) => "-".to_owned(),
        };
        vec![Value::exact(&c.id), Value::text(host(c)), Value::text(state), Value::text(why)]
    };
    let rows: Vec<_> = without_evidence(facts).map(row).collect();
    if rows.is_empty() {
        return Vec::new();
    }
    let columns = vec![
        (l.pick("Collection", "Collecte").to_owned(), 0.3),
        (l.pick("Host or agent", "Hôte ou agent").to_owned(), 0.24),
        (l.pick("State", "État").to_owned(), 0.2),
        (l.pick("Reason", "Motif").to_owned(), 0.26),
    ];
    vec![
        Block::Heading(2, l.pick("Orders that brought nothing", "Ordres qui n'ont rien rapporté").to_owned()),
        Block::Table(Table { columns, rows, row_height_min: 0.0 }),
    ]
}

fn digital(l: Language, facts: &Facts, c: &CollectionSummary) -> Vec<(String, Value)> {
    let mut fields = Vec::new();
    if let Some(order) = facts.order_of(c) {
        let text =
            format!("{} ({} {}, {})", order.record.order, l.pick("record", "enregistrement"), order.n, moment(order.record.issued_at));
        fields.push(field(l.pick("Order", "Ordre"), Value::exact(text)));
        fields.extend(approved(l, facts, c));
        let classes = order.record.captures.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
        fields.push(field(l.pick("Classes of evidence", "Catégories de preuves"), Value::text(classes)));
    }
    for at in facts.acquisitions_of(&c.id) {
        let a = &at.record;
        let machine = a.host.machine_id.clone().unwrap_or_default();
        fields.push(field(
            l.pick("Machine id, boot id", "Identifiant machine, démarrage"),
            Value::exact(format!("{machine} {}", a.host.boot_id)),
        ));
        let named = |facts: &std::collections::BTreeMap<String, String>| {
            facts.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
        };
        let (cloud, hardware) = (named(&a.host.cloud), named(&a.host.hardware));
        fields.push(field(
            l.pick("Instance, account, region", "Instance, compte, région"),
            if cloud.is_empty() { Value::Blank } else { Value::text(cloud) },
        ));
        fields.push(field(
            l.pick("Model, serial number", "Modèle, numéro de série"),
            if hardware.is_empty() { Value::Blank } else { Value::text(hardware) },
        ));
        let (start, end) = (moment(a.started.wall), moment(a.ended.wall));
        let offset = a.ended.offset_ns.map_or_else(|| "-".to_owned(), |ns| format!("{} ms", ns / 1_000_000));
        fields.push(field(
            l.pick("Start, end, clock offset", "Début, fin, écart d'horloge"),
            Value::text(format!("{start}, {end}, {offset}")),
        ));
        fields.push(field(
            l.pick("Acquiring program, SHA-256", "Programme d'acquisition, SHA-256"),
            Value::exact(format!("{} {} {}", a.tool.name, a.tool.version, a.tool.sha256)),
        ));
    }
    for at in facts.receipts_of(&c.id) {
        let r = &at.record;
        let text = format!(
            "{} ({} {}, {} {})",
            r.manifest.sha256,
            r.stream,
            bytes(l, r.manifest.stored_bytes),
            l.pick("record", "enregistrement"),
            at.n
        );
        fields.push(field(l.pick("SHA-256 of the manifest", "SHA-256 du manifeste"), Value::exact(text)));
    }
    if let Some(seal) = facts.seal_of(&c.id) {
        let text = format!("{} {}, {}", l.pick("record", "enregistrement"), seal.n, moment(seal.record.sealed_at));
        fields.push(field(l.pick("Sealed", "Scellée"), Value::text(text)));
    }
    fields
}

fn anchors(l: Language, facts: &Facts) -> Vec<(String, Value)> {
    let mut fields = vec![
        field(l.pick("Log head (records : root)", "Tête du journal (nombre : racine)"), Value::exact(head(facts))),
        field(l.pick("SHA-256 of the root key", "SHA-256 de la clé racine"), Value::exact(facts.root_key)),
        field(l.pick("Key that signs the bag (SHA-256)", "Clé signant le dossier (SHA-256)"), Value::exact(facts.description.key)),
        field(
            l.pick("SHA-256 of tagmanifest-sha256.txt (copy it by hand)", "SHA-256 de tagmanifest-sha256.txt (à recopier)"),
            Value::Blank,
        ),
        field(
            l.pick(
                "Time stamps in the log (authority, time; not checked here)",
                "Horodatages au journal (autorité, heure ; non vérifiés ici)",
            ),
            stamps(l, facts),
        ),
        field(l.pick("Storage lock (mode, until)", "Verrou de stockage (mode, échéance)"), Value::Blank),
        field(l.pick("Recipient's key, when the bag is encrypted", "Clé du destinataire, si le dossier est chiffré"), Value::Blank),
    ];
    fields.extend(recipients(l, facts));
    fields
}

/// The newest token of each authority.
fn stamps(l: Language, facts: &Facts) -> Value {
    let mut newest = std::collections::BTreeMap::new();
    for stamp in &facts.report.timestamps {
        let at = newest.entry(stamp.authority.as_str()).or_insert(stamp.time);
        *at = stamp.time.max(*at);
    }
    if newest.is_empty() {
        return Value::text(l.pick("none", "aucun"));
    }
    Value::text(newest.iter().map(|(authority, at)| format!("{authority}, {}", moment(*at))).collect::<Vec<_>>().join("; "))
}

/// The handings over that the log holds, each signed by both sides.
fn logged_transfers(l: Language, facts: &Facts) -> Vec<Vec<Value>> {
    let (mut from, mut rows) = (String::new(), Vec::new());
    for row in facts.custody() {
        match row.event {
            "release" => from = party(&row.by),
            "transfer" => {
                let signed = |who: &str| Value::text(format!("{who} ({} {})", l.pick("signed in record", "signé, enregistrement"), row.n));
                let reason = row.reason.clone().unwrap_or_default();
                rows.push(vec![
                    Value::text(l.pick("all", "tous")),
                    Value::text(moment(row.at)),
                    Value::text(from.clone()),
                    signed(&party(&row.by)),
                    Value::text(reason),
                ]);
            }
            _ => {}
        }
    }
    rows
}

/// What the log knows of handings over, the one of this copy to be completed by hand, and free rows.
fn transfers(l: Language, facts: &Facts, items: &[Item<'_>]) -> Vec<Block> {
    let columns = vec![
        (l.pick("Item #", "Lot n°").to_owned(), 0.09),
        (l.pick("Date / time", "Date / heure").to_owned(), 0.17),
        (l.pick("Released by (signature, ID no.)", "Remis par (signature, matricule)").to_owned(), 0.26),
        (l.pick("Received by (signature, ID no.)", "Reçu par (signature, matricule)").to_owned(), 0.26),
        (l.pick("Comments / location", "Observations / lieu").to_owned(), 0.22),
    ];
    let here = ranges(items.iter().filter(|item| item.is_here()).map(|item| item.n));
    let first = vec![
        Value::text(if here.is_empty() { l.pick("none", "aucun").to_owned() } else { here }),
        Value::text(moment(facts.description.exported_at)),
        Value::text(released_by(l, facts)),
        Value::Blank,
        Value::text(&facts.description.reason),
    ];
    let rows =
        logged_transfers(l, facts).into_iter().chain(std::iter::once(first)).chain((0..TRANSFERS).map(|_| vec![Value::Blank; 5])).collect();
    vec![
        Block::Heading(1, l.pick("Chain of custody", "Chaîne de conservation").to_owned()),
        Block::Table(Table { columns, rows, row_height_min: WRITABLE }),
    ]
}
