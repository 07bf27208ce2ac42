//! The report: what the case is, what was found by verifying it, what is in the bag, who handled it.

use std::collections::BTreeMap;

use exhibit_evidence::record::Revocation;

use super::details::{detail, role, severity};
use super::evidence::evidence;
use super::facts::Facts;
use super::words::{counted, document, done, faults, field, head, moment, not_checked, party, recipients, size, unread, verdict};
use crate::document::{Block, Document, Language, Table, Value};

/// Rows of one table; the log has all.
const ROWS_MAX: usize = 500;

/// Makes the report.
pub fn report(language: Language, facts: &Facts) -> Document {
    let l = language;
    let mut blocks = vec![Block::Paragraph(
        l.pick(
            "This report was generated from the verified custody log of the case. Every statement in it can be checked against the log and the evidence in this bag; VERIFY.md says how, without any program of the maker.",
            "Ce rapport a été généré à partir du journal de conservation vérifié de l'affaire. Chaque énoncé peut être contrôlé au moyen du journal et des preuves contenus dans ce dossier ; VERIFY.md indique comment, sans aucun programme de l'éditeur.",
        )
        .to_owned(),
    )];
    blocks.extend(case(l, facts));
    blocks.extend(verification(l, facts));
    blocks.extend(findings(l, facts));
    blocks.extend(evidence(l, facts));
    blocks.extend(handlings(l, facts));
    blocks.extend(custody(l, facts));
    blocks.extend(incidents(l, facts));
    blocks.extend(keys(l, facts));
    blocks.extend(limits(l));
    document(l, facts, l.pick("Evidence report", "Rapport sur les preuves"), blocks)
}

fn case(l: Language, facts: &Facts) -> Vec<Block> {
    let mut fields = Vec::new();
    if let Some(case) = &facts.report.case {
        fields.push(field(l.pick("Case", "Affaire"), Value::text(&case.title)));
        fields.push(field(l.pick("Case number", "Numéro d'affaire"), Value::exact(&case.id)));
        fields.push(field(l.pick("Legal basis", "Fondement juridique"), Value::text(&case.legal_basis)));
        if case.two_person {
            let rule = l.pick("each needs the approval of a second person", "chacun exige l'approbation d'une seconde personne");
            fields.push(field(l.pick("Orders", "Ordres"), Value::text(rule)));
        }
        fields.extend(recipients(l, facts));
        fields.push(field(l.pick("Accountable person", "Personne responsable"), Value::text(&case.accountable)));
        fields.push(field(
            l.pick("Opened by", "Ouverte par"),
            Value::text(format!("{}, {}", party(&case.opened_by), moment(case.opened_at))),
        ));
    }
    if let Some(closed) = &facts.closed {
        let text = format!("{}, {}: {}", party(&closed.record.closed_by), moment(closed.record.closed_at), closed.record.reason);
        fields.push(field(l.pick("Closed by", "Close par"), Value::text(text)));
    }
    let d = &facts.description;
    fields
        .push(field(l.pick("Handed over by", "Remise par"), Value::text(format!("{}, {}", party(&d.exported_by), moment(d.exported_at)))));
    fields.push(field(l.pick("Reason", "Motif"), Value::text(&d.reason)));
    vec![Block::Heading(1, l.pick("1. The case", "1. L'affaire").to_owned()), Block::Fields(fields)]
}

fn verification(l: Language, facts: &Facts) -> Vec<Block> {
    let (report, counts) = (&facts.report, &facts.report.counts);
    let (errors, warnings, notes) = report.findings.counts();
    let checked = if report.unread { CHECKED_UNREAD } else { CHECKED };
    let mut fields = vec![
        field(l.pick("Verdict", "Verdict"), Value::text(verdict(l, facts))),
        field(
            l.pick("Findings", "Constats"),
            Value::text(format!(
                "{}, {}",
                faults(l, errors, warnings).join(", "),
                counted(l, notes, ("note", "notes"), ("remarque", "remarques"))
            )),
        ),
        field(
            l.pick("Records verified", "Enregistrements vérifiés"),
            Value::text(format!("{} / {}", counts.records_verified, counts.records)),
        ),
        field(l.pick("Items verified", "Éléments vérifiés"), Value::text(format!("{} / {}", counts.items_verified, counts.items))),
        field(
            l.pick("Contents not checked, encrypted", "Contenus non contrôlés, chiffrés"),
            Value::text(match (unread(facts), l) {
                (None, Language::En) => "none".to_owned(),
                (None, Language::Fr) => "aucun".to_owned(),
                (Some(what), Language::En) => {
                    format!("{}: a recipient checks them with exhibit-verify --identity", not_checked(l, what))
                }
                (Some(what), Language::Fr) => {
                    format!("{} : un destinataire les contrôle avec exhibit-verify --identity", not_checked(l, what))
                }
            }),
        ),
        field(
            l.pick("Evidence read", "Preuves lues"),
            Value::text(size(l, (counts.raw_bytes, counts.raw_bytes_unread, counts.stored_bytes))),
        ),
        field(l.pick("Log head (records : root)", "Tête du journal (nombre : racine)"), Value::exact(head(facts))),
        field(l.pick("Key of the log", "Clé du journal"), report.checkpoint.as_ref().map_or(Value::Blank, |c| Value::exact(c.key))),
        field(l.pick("Deployment", "Déploiement"), Value::text(&report.deployment)),
        field(l.pick("SHA-256 of the root key", "SHA-256 de la clé racine"), Value::exact(facts.root_key)),
    ];
    fields.push(field(
        l.pick("Cosignatures of witnesses (not checked here)", "Cosignatures de témoins (non vérifiées ici)"),
        Value::text(cosigned(l, &facts.cosigned, facts.description.head.size)),
    ));
    vec![
        Block::Heading(1, l.pick("2. Verification", "2. Vérification").to_owned()),
        Block::Paragraph(l.pick(checked.0, checked.1).to_owned()),
        Block::Fields(fields),
    ]
}

/// What was done before the bag was made.
const CHECKED: (&str, &str) = (
    "The program that made this bag read every byte of it first and checked every signature, digest and number, beginning with the root key named here. Compare that key with the signed paper form: it is the one thing that this bag cannot vouch for.",
    "Le programme qui a produit ce dossier en a d'abord lu chaque octet et contrôlé chaque signature, empreinte et numéro, à partir de la clé racine indiquée ici. Comparez cette clé avec le formulaire papier signé : c'est la seule chose que ce dossier ne peut garantir lui-même.",
);

/// The same where contents were not decrypted.
const CHECKED_UNREAD: (&str, &str) = (
    "The program that made this bag checked every signature and number first, beginning with the root key named here, and the digest of every object as it is stored. The contents of the evidence are encrypted; no recipient's identity was given, so they were NOT decrypted, and their digests were NOT checked. Compare the root key with the signed paper form: it is the one thing that this bag cannot vouch for.",
    "Le programme qui a produit ce dossier a d'abord contrôlé chaque signature et numéro, à partir de la clé racine indiquée ici, ainsi que l'empreinte de chaque objet tel qu'il est conservé. Les contenus des preuves sont chiffrés ; aucune identité de destinataire n'ayant été fournie, ils n'ont PAS été déchiffrés et leurs empreintes n'ont PAS été contrôlées. Comparez la clé racine avec le formulaire papier signé : c'est la seule chose que ce dossier ne peut garantir lui-même.",
);

/// The newest head that each witness cosigned: how much of the log it covers.
fn cosigned(l: Language, heads: &[(String, u64)], records: u64) -> String {
    let mut newest = BTreeMap::new();
    for (witness, size) in heads {
        let most = newest.entry(witness.as_str()).or_insert(*size);
        *most = (*most).max(*size);
    }
    if newest.is_empty() {
        return l.pick("none in this bag", "aucune dans ce dossier").to_owned();
    }
    let one = |(witness, size): (&str, u64)| match l {
        Language::En => format!("witness {witness} cosigned the first {size} of {records} records"),
        Language::Fr => format!("le témoin {witness} a cosigné les {size} premiers enregistrements sur {records}"),
    };
    newest.into_iter().map(one).collect::<Vec<_>>().join("; ")
}

fn findings(l: Language, facts: &Facts) -> Vec<Block> {
    let kept = facts.report.findings.kept();
    if kept.is_empty() {
        return Vec::new();
    }
    let rows = kept
        .iter()
        .take(ROWS_MAX)
        .map(|f| vec![Value::exact(f.code), Value::text(severity(l, f.severity)), Value::text(format!("{} {}", f.meaning, f.message))]);
    let columns = vec![
        (l.pick("Code", "Code").to_owned(), 0.22),
        (l.pick("Weight", "Poids").to_owned(), 0.12),
        (l.pick("What it means and what was found", "Signification et constat (en anglais)").to_owned(), 0.66),
    ];
    let mut blocks = vec![Block::Table(Table { columns, rows: rows.collect(), row_height_min: 0.0 })];
    let more = (kept.len().saturating_sub(ROWS_MAX) as u64).saturating_add(facts.report.findings.left_out());
    if more > 0 {
        blocks.push(rest(l, more));
    }
    blocks
}

fn rest(l: Language, more: u64) -> Block {
    Block::Paragraph(match l {
        Language::En => format!("{more} more are not shown here; the log and exhibit-verify show all."),
        Language::Fr => format!("{more} autres ne figurent pas ici ; le journal et exhibit-verify les montrent tous."),
    })
}

fn handlings(l: Language, facts: &Facts) -> Vec<Block> {
    let row = |h: &super::facts::Handling| {
        vec![
            Value::text(h.n.to_string()),
            Value::text(moment(h.at)),
            Value::text(party(&h.by)),
            Value::text(format!("{} ({})", done(l, &h.action), h.count)),
            Value::text(&h.reason),
        ]
    };
    let columns = vec![
        (l.pick("Record", "Enreg.").to_owned(), 0.1),
        (l.pick("When", "Quand").to_owned(), 0.18),
        (l.pick("Who", "Qui").to_owned(), 0.28),
        (l.pick("What (how much)", "Quoi (nombre)").to_owned(), 0.16),
        (l.pick("Why", "Pourquoi").to_owned(), 0.28),
    ];
    // The newest are those that a reader looks for.
    let skipped = facts.handlings.len().saturating_sub(ROWS_MAX);
    let rows = facts.handlings.iter().skip(skipped).map(row).collect();
    let mut blocks = vec![
        Block::Heading(1, l.pick("4. Who read, listed or exported the evidence", "4. Qui a lu, listé ou exporté les preuves").to_owned()),
        Block::Paragraph(
            l.pick(
                "Each of these was recorded in the log before the coordinator gave out a byte, by its clock. Whoever read the store directly, past the coordinator, is not among them.",
                "Chacun de ces accès a été inscrit au journal avant que le coordinateur ne remette le premier octet, selon son horloge. Quiconque a lu directement le dépôt, sans passer par le coordinateur, n'y figure pas.",
            )
            .to_owned(),
        ),
        Block::Table(Table { columns, rows, row_height_min: 0.0 }),
    ];
    if skipped > 0 {
        blocks.push(rest(l, skipped as u64));
    }
    blocks
}

/// Holds, retention, transfers and disposals; a word when there are none.
fn custody(l: Language, facts: &Facts) -> Vec<Block> {
    let heading = Block::Heading(
        1,
        l.pick(
            "Custody: approvals, holds, retention, transfers, disposals",
            "Conservation : approbations, gels, durées, remises, destructions",
        )
        .to_owned(),
    );
    let all: Vec<_> = facts.custody().collect();
    if all.is_empty() {
        return vec![heading, Block::Paragraph(l.pick("None is recorded.", "Aucune n'est enregistrée.").to_owned())];
    }
    let columns = vec![
        (l.pick("Record", "Enreg.").to_owned(), 0.1),
        (l.pick("When (signer's clock)", "Quand (horloge du signataire)").to_owned(), 0.18),
        (l.pick("Who", "Qui").to_owned(), 0.2),
        (l.pick("What", "Quoi").to_owned(), 0.28),
        (l.pick("Why", "Pourquoi").to_owned(), 0.24),
    ];
    let skipped = all.len().saturating_sub(ROWS_MAX);
    let row = |row: &&exhibit_evidence::custody::Row| {
        vec![
            Value::text(row.n.to_string()),
            Value::text(moment(row.at)),
            Value::text(party(&row.by)),
            Value::text(format!("{}{}{}", done(l, row.event), l.pick(": ", "\u{a0}: "), detail(l, row))),
            Value::text(row.reason.clone().unwrap_or_default()),
        ]
    };
    let rows = all.iter().skip(skipped).map(row).collect();
    let mut blocks = vec![heading, Block::Table(Table { columns, rows, row_height_min: 0.0 })];
    if skipped > 0 {
        blocks.push(rest(l, skipped as u64));
    }
    blocks
}

/// What the coordinator noticed and put into this log; nothing when there is nothing.
fn incidents(l: Language, facts: &Facts) -> Vec<Block> {
    if facts.incidents.is_empty() {
        return Vec::new();
    }
    let row = |at: &super::facts::At<exhibit_evidence::record::Incident>| {
        let i = &at.record;
        let what = format!("{} ({}): {}", i.kind, i.about, i.detail);
        vec![Value::text(at.n.to_string()), Value::text(moment(i.last_at)), Value::text(i.count.to_string()), Value::text(what)]
    };
    let columns = vec![
        (l.pick("Record", "Enreg.").to_owned(), 0.1),
        (l.pick("When", "Quand").to_owned(), 0.18),
        (l.pick("How often", "Nombre").to_owned(), 0.12),
        (l.pick("What", "Quoi (en anglais)").to_owned(), 0.6),
    ];
    let rows = facts.incidents.iter().take(ROWS_MAX).map(row).collect();
    let mut blocks = vec![
        Block::Heading(1, l.pick("Incidents in this log", "Incidents dans ce journal").to_owned()),
        Block::Table(Table { columns, rows, row_height_min: 0.0 }),
    ];
    let more = facts.incidents.len().saturating_sub(ROWS_MAX) as u64;
    if more > 0 {
        blocks.push(rest(l, more));
    }
    blocks
}

fn keys(l: Language, facts: &Facts) -> Vec<Block> {
    let row = |p: &super::facts::Party| {
        let roles: Vec<&str> = p.roles.iter().map(|held| role(l, *held)).collect();
        let name = facts.revocation_of(&p.key).map_or_else(|| party(&p.name), |at| revoked(l, &p.name, (at.n, &at.record)));
        vec![Value::text(name), Value::text(roles.join(", ")), Value::exact(p.key)]
    };
    let columns = vec![
        (l.pick("Name", "Nom").to_owned(), 0.34),
        (l.pick("Roles", "Rôles").to_owned(), 0.16),
        (l.pick("SHA-256 of the key", "SHA-256 de la clé").to_owned(), 0.5),
    ];
    let rows: Vec<_> = facts.parties.iter().take(ROWS_MAX).map(row).collect();
    let more = facts.parties.len().saturating_sub(ROWS_MAX) as u64;
    let mut blocks = vec![
        Block::Heading(1, l.pick("5. Who signs in this log", "5. Qui signe dans ce journal").to_owned()),
        Block::Table(Table { columns, rows, row_height_min: 0.0 }),
    ];
    if more > 0 {
        blocks.push(rest(l, more));
    }
    blocks
}

/// Somebody whose key was revoked.
pub fn revoked(l: Language, name: &str, (n, revocation): (u64, &Revocation)) -> String {
    let (name, at, reason) = (party(name), moment(revocation.revoked_at), &revocation.reason);
    match l {
        Language::En => format!("{name}; key REVOKED on {at} (record {n}): {reason}"),
        Language::Fr => format!("{name} ; clé RÉVOQUÉE le {at} (enregistrement {n}) : {reason}"),
    }
}

fn limits(l: Language) -> Vec<Block> {
    let texts = [
        (
            "A host describes itself. If an intruder controlled its kernel, what the host said about itself, its clocks and its files may be false, however well it is signed.",
            "Un hôte se décrit lui-même. Si un intrus en contrôlait le noyau, ce que l'hôte a dit de lui-même, de ses horloges et de ses fichiers peut être faux, quelle que soit la qualité des signatures.",
        ),
        (
            "Evidence from a running system is taken while it changes. It is not a copy of the system at one moment.",
            "Les preuves issues d'un système en marche sont prises pendant qu'il change. Ce n'est pas une copie du système à un instant donné.",
        ),
        (
            "Before the first cosignature of an outside witness, the operator of the deployment could have made another history. Compare the log head with one that was noted elsewhere.",
            "Avant la première cosignature d'un témoin extérieur, l'exploitant du déploiement aurait pu établir un autre historique. Comparez la tête du journal avec une tête notée ailleurs.",
        ),
        (
            "A key of a person that was revoked is listed as revoked if that was known when this bag was made. Revocations given later, and those of hosts' keys, stand in the deployment's log.",
            "La clé révoquée d'une personne est signalée comme telle si la révocation était connue à l'établissement de ce dossier. Les révocations postérieures et celles des clés d'hôtes figurent dans le journal du déploiement.",
        ),
        (
            "Times are those of the clocks that are named. They are claims unless a time stamp or a witness confirms them.",
            "Les heures sont celles des horloges indiquées. Ce sont des affirmations, sauf si un horodatage ou un témoin les confirme.",
        ),
    ];
    let mut blocks = vec![Block::Heading(1, l.pick("6. What this report does not show", "6. Ce que ce rapport ne montre pas").to_owned())];
    blocks.extend(texts.map(|(en, fr)| Block::Paragraph(l.pick(en, fr).to_owned())));
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revoked_key_says_when_why_and_by_which_record() {
        let key = exhibit_evidence::Digest::of(b"key");
        let revoked_at = exhibit_evidence::Timestamp::from_unix_s(1_800_000_000);
        let revocation =
            Revocation { deployment: "test".to_owned(), key, predecessor: key, reason: "laptop stolen".to_owned(), revoked_at };
        let said = revoked(Language::En, "spiffe://test/person/mallory", (7, &revocation));
        assert!(said.ends_with("; key REVOKED on 2027-01-15 08:00:00 UTC (record 7): laptop stolen"), "{said}");
        let said = revoked(Language::Fr, "spiffe://test/person/mallory", (7, &revocation));
        assert!(said.ends_with(" ; clé RÉVOQUÉE le 2027-01-15 08:00:00 UTC (enregistrement 7) : laptop stolen"), "{said}");
    }

    #[test]
    fn a_witness_is_said_with_what_it_covers() {
        let heads = [("69873bed".to_owned(), 9), ("69873bed".to_owned(), 14), ("0a1b2c3d".to_owned(), 28)];
        assert_eq!(
            cosigned(Language::En, &heads, 28),
            "witness 0a1b2c3d cosigned the first 28 of 28 records; witness 69873bed cosigned the first 14 of 28 records"
        );
        assert_eq!(cosigned(Language::Fr, &heads[..2], 28), "le témoin 69873bed a cosigné les 14 premiers enregistrements sur 28");
        assert_eq!(cosigned(Language::En, &[], 28), "none in this bag");
    }
}
