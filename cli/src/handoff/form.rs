//! The chain-of-custody form: the fields of the NIST sample form, those of digital evidence, and room to sign.

use exhibit_evidence::verify::CollectionSummary;

use super::facts::Facts;
use super::words::{approved, document, exhibits, field, head, host, moment, outcome, party};
use crate::document::{Block, Document, Language, Table, Value};
use crate::units::show_bytes;

/// Free rows for further transfers.
const TRANSFERS: usize = 6;
const WRITABLE: f32 = 34.0;

/// Makes the form.
pub fn form(language: Language, facts: &Facts) -> Document {
    let l = language;
    let mut blocks = vec![
        Block::Paragraph(
            l.pick(
                "Fields that the custody log knows are filled in from it. The others, and every signature, are for the persons concerned. Keep this form apart from the bag: the key and digests on it are what the bag is checked against.",
                "Les champs que le journal de conservation connaît sont remplis à partir de lui. Les autres, ainsi que toute signature, reviennent aux personnes concernées. Conservez ce formulaire séparément du dossier : la clé et les empreintes qu'il porte servent à contrôler celui-ci.",
            )
            .to_owned(),
        ),
        Block::Fields(submission(l, facts)),
        Block::Heading(1, l.pick("Description of evidence", "Description des preuves").to_owned()),
        items(l, facts),
        Block::Heading(1, l.pick("Digital details", "Données numériques").to_owned()),
    ];
    for (n, collection) in facts.report.collections.iter().enumerate() {
        blocks.push(Block::Heading(2, format!("{} {}: {}", l.pick("Item", "Pièce"), n + 1, host(collection))));
        blocks.push(Block::Fields(digital(l, facts, collection)));
    }
    blocks.push(Block::Heading(2, l.pick("Of all items", "De toutes les pièces").to_owned()));
    blocks.push(Block::Fields(anchors(l, facts)));
    blocks.push(Block::NewPage);
    blocks.extend(transfers(l, facts));
    blocks.push(Block::NewPage);
    blocks.extend(disposal(l));
    document(l, facts, l.pick("Evidence chain of custody form", "Formulaire de chaîne de conservation des preuves"), blocks)
}

fn submission(l: Language, facts: &Facts) -> Vec<(String, Value)> {
    let case = facts.report.case.as_ref();
    let text = |value: Option<&str>| value.map_or(Value::Blank, Value::text);
    let seized = facts.acquisitions.iter().map(|a| a.record.started.wall).min();
    let hosts: Vec<String> = facts.report.collections.iter().map(host).collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    vec![
        field(l.pick("Case number", "Numéro d'affaire"), Value::exact(&facts.description.case)),
        field(l.pick("Offense / case type", "Infraction / nature de l'affaire"), text(case.map(|c| c.title.as_str()))),
        field(l.pick("Legal basis", "Fondement juridique"), text(case.map(|c| c.legal_basis.as_str()))),
        field(
            l.pick("Submitting officer (name, ID no.)", "Agent remettant (nom, matricule)"),
            Value::text(party(&facts.description.exported_by)),
        ),
        field(l.pick("Victim", "Victime"), Value::Blank),
        field(l.pick("Suspect", "Suspect"), Value::Blank),
        field(
            l.pick("Date / time seized (host's clock)", "Date / heure de saisie (horloge de l'hôte)"),
            seized.map_or(Value::Blank, |at| Value::text(moment(at))),
        ),
        field(l.pick("Location of seizure", "Lieu de la saisie"), Value::text(hosts.join(", "))),
    ]
}

fn items(l: Language, facts: &Facts) -> Block {
    let row = |(n, c): (usize, &CollectionSummary)| {
        let os = facts
            .acquisitions_of(&c.id)
            .next()
            .map(|a| format!("{}, {}", a.record.host.kernel, a.record.host.os.clone().unwrap_or_default()));
        let condition = if c.left_out {
            l.pick("NOT IN THIS BAG, left out by choice", "ABSENTE DE CE DOSSIER, exclue par choix")
        } else {
            outcome(l, c.outcome)
        };
        let description = format!(
            "{}: {} {}; {}; {}; {}: {condition}",
            l.pick("Digital evidence of host", "Preuves numériques de l'hôte"),
            host(c),
            os.map(|os| format!("({os})")).unwrap_or_default(),
            show_bytes(c.raw_bytes),
            c.id,
            l.pick("condition", "état"),
        );
        vec![Value::text((n + 1).to_string()), Value::text(c.items.to_string()), Value::text(exhibits(l, c)), Value::text(description)]
    };
    let columns = vec![
        (l.pick("Item #", "Pièce n°").to_owned(), 0.09),
        (l.pick("Quantity", "Quantité").to_owned(), 0.12),
        (l.pick("Exhibits", "N° de pièces").to_owned(), 0.14),
        (l.pick("Description (model, serial no., condition, marks)", "Description (modèle, n° de série, état, marques)").to_owned(), 0.65),
    ];
    Block::Table(Table { columns, rows: facts.report.collections.iter().enumerate().map(row).collect(), row_height_min: 18.0 })
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
            show_bytes(r.manifest.stored_bytes),
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
    vec![
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
        field(l.pick("Recipient's key, when encrypted", "Clé du destinataire, si chiffré"), Value::Blank),
    ]
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
                    Value::text(l.pick("all", "toutes")),
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

fn transfers(l: Language, facts: &Facts) -> Vec<Block> {
    let columns = vec![
        (l.pick("Item #", "Pièce n°").to_owned(), 0.09),
        (l.pick("Date / time", "Date / heure").to_owned(), 0.17),
        (l.pick("Released by (signature, ID no.)", "Remis par (signature, matricule)").to_owned(), 0.26),
        (l.pick("Received by (signature, ID no.)", "Reçu par (signature, matricule)").to_owned(), 0.26),
        (l.pick("Comments / location", "Observations / lieu").to_owned(), 0.22),
    ];
    let all = format!("1-{}", facts.report.collections.len().max(1));
    let first = vec![
        Value::text(all),
        Value::text(moment(facts.description.exported_at)),
        Value::text(party(&facts.description.exported_by)),
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

fn disposal(l: Language) -> Vec<Block> {
    let blank =
        |names: &[(&'static str, &'static str)]| Block::Fields(names.iter().map(|(en, fr)| field(l.pick(en, fr), Value::Blank)).collect());
    let heading = |en: &'static str, fr: &'static str| Block::Heading(1, l.pick(en, fr).to_owned());
    vec![
        heading("Final disposal authority", "Autorisation de destination finale"),
        blank(&[
            ("Item(s) no.", "Pièce(s) n°"),
            ("Pertaining to (suspect)", "Concernant (suspect)"),
            ("Return to owner / auction / destroy / divert", "Restituer / vendre / détruire / réaffecter"),
            ("Authorizing officer (name, ID no.)", "Agent autorisant (nom, matricule)"),
            ("Signature, date", "Signature, date"),
        ]),
        heading("Witness to destruction of evidence", "Témoin de la destruction"),
        blank(&[
            ("Item(s) no.", "Pièce(s) n°"),
            ("Evidence custodian (name, ID no.)", "Gardien des preuves (nom, matricule)"),
            ("Witness (name, ID no.)", "Témoin (nom, matricule)"),
            ("Signatures, date", "Signatures, date"),
        ]),
        heading("Release to lawful owner", "Restitution au propriétaire légitime"),
        blank(&[
            ("Item(s) no.", "Pièce(s) n°"),
            ("Released by custodian (name, ID no.)", "Remis par le gardien (nom, matricule)"),
            ("Owner's name", "Nom du propriétaire"),
            ("Address, city, state, zip", "Adresse, ville, région, code postal"),
            ("Telephone", "Téléphone"),
            ("Owner's signature, date", "Signature du propriétaire, date"),
            ("Copy of ID attached (yes / no)", "Copie de la pièce d'identité jointe (oui / non)"),
        ]),
    ]
}
