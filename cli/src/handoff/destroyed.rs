//! The parts of the form about the end of evidence: who asked for its destruction, who approved it, who certified it, as the
//! log knows; and room to write for what is decided later.

use exhibit_evidence::Digest;
use exhibit_evidence::custody::{Fate, Row};

use super::details::detail;
use super::facts::Facts;
use super::items::{Item, ranges};
use super::words::{field, moment, party};
use crate::document::{Block, Language, Value};

/// A destruction that was approved.
struct Decided<'a> {
    items: String,
    asked: Option<&'a Row>,
    approved: &'a Row,
    /// Absent while it is not finished.
    certified: Option<&'a Row>,
}

/// The approval that decided what became of an item.
fn approval_of(facts: &Facts, fate: &Fate) -> Option<Digest> {
    match fate {
        Fate::Kept => None,
        Fate::Condemned { approval } => Some(*approval),
        Fate::Destroyed { certificate, .. } => facts.destructions.iter().find(|d| d.digest == *certificate).map(|d| d.record.predecessor),
    }
}

/// The destructions of the log, in the order of their approvals.
fn decided<'a>(facts: &'a Facts, items: &[Item<'_>]) -> Vec<Decided<'a>> {
    let mut decided = Vec::new();
    for at in &facts.approvals {
        let numbers = ranges(items.iter().filter(|item| approval_of(facts, &item.fate) == Some(at.digest)).map(|item| item.n));
        let Some(approved) = facts.row(&at.digest).filter(|row| row.n == at.n && !numbers.is_empty()) else { continue };
        let asked = facts.row(&at.record.predecessor);
        let certified = facts.destructions.iter().filter(|d| d.record.predecessor == at.digest).find_map(|d| facts.row(&d.digest));
        decided.push(Decided { items: numbers, asked, approved, certified });
    }
    decided
}

/// Disposal, destruction and release to the owner.
pub fn disposal(l: Language, facts: &Facts, items: &[Item<'_>]) -> Vec<Block> {
    let decided = decided(facts, items);
    let mut blocks = vec![heading(l, "Final disposal authority", "Autorisation de destination finale")];
    blocks.extend(decided.iter().map(|d| Block::Fields(authority(l, d))));
    blocks.extend(further(l, !decided.is_empty()));
    blocks.push(blank(l, &AUTHORITY));
    blocks.push(heading(l, "Witness to destruction of evidence", "Témoin de la destruction"));
    blocks.extend(decided.iter().map(|d| Block::Fields(destruction(l, d))));
    blocks.extend(further(l, !decided.is_empty()));
    blocks.push(blank(l, &DESTRUCTION));
    blocks.push(heading(l, "Release to lawful owner", "Restitution au propriétaire légitime"));
    blocks.push(blank(l, &OWNER));
    blocks
}

type Name = (&'static str, &'static str);

const ITEMS: Name = ("Item(s) no.", "Lot(s) n°");
const SUSPECT: Name = ("Pertaining to (suspect)", "Concernant (suspect)");
const WHAT: Name = ("Return to owner / auction / destroy / divert", "Restituer / vendre / détruire / réaffecter");
const OFFICER: Name = ("Authorizing officer (name, ID no.)", "Agent autorisant (nom, matricule)");
const SIGNED: Name = ("Signature, date", "Signature, date");
const CUSTODIAN: Name = ("Evidence custodian (name, ID no.)", "Gardien des preuves (nom, matricule)");
const WITNESS: Name = ("Witness (name, ID no.)", "Témoin (nom, matricule)");
const ALL_SIGNED: Name = ("Signatures, date", "Signatures, date");

const AUTHORITY: [Name; 5] = [ITEMS, SUSPECT, WHAT, OFFICER, SIGNED];
const DESTRUCTION: [Name; 4] = [ITEMS, CUSTODIAN, WITNESS, ALL_SIGNED];
const OWNER: [Name; 7] = [
    ITEMS,
    ("Released by custodian (name, ID no.)", "Remis par le gardien (nom, matricule)"),
    ("Owner's name", "Nom du propriétaire"),
    ("Address, city, state, zip", "Adresse, ville, région, code postal"),
    ("Telephone", "Téléphone"),
    ("Owner's signature, date", "Signature du propriétaire, date"),
    ("Copy of ID attached (yes / no)", "Copie de la pièce d'identité jointe (oui / non)"),
];

fn heading(l: Language, en: &'static str, fr: &'static str) -> Block {
    Block::Heading(1, l.pick(en, fr).to_owned())
}

fn named(l: Language, (en, fr): Name, value: Value) -> (String, Value) {
    field(l.pick(en, fr), value)
}

fn blank(l: Language, names: &[Name]) -> Block {
    Block::Fields(names.iter().map(|name| named(l, *name, Value::Blank)).collect())
}

/// What stands above the empty lines where some are filled in before.
fn further(l: Language, some: bool) -> Option<Block> {
    some.then(|| Block::Heading(2, l.pick("Further items", "Autres lots").to_owned()))
}

/// `dan (spiffe://...), 2026-11-27 10:00:00 UTC (record 12)`.
fn signed(l: Language, row: &Row) -> String {
    format!("{}, {}", party(&row.by), when(l, row))
}

fn when(l: Language, row: &Row) -> String {
    format!("{} ({} {})", moment(row.at), l.pick("signed in record", "signé, enregistrement"), row.n)
}

fn reason(row: &Row) -> &str {
    row.reason.as_deref().unwrap_or_default()
}

fn authority(l: Language, d: &Decided<'_>) -> Vec<(String, Value)> {
    let (destroy, why) = (l.pick("destroy", "détruire"), d.asked.map(reason).unwrap_or_default());
    let colon = l.pick(": ", " : ");
    vec![
        named(l, ITEMS, Value::text(&d.items)),
        named(l, SUSPECT, Value::Blank),
        named(l, WHAT, Value::text(format!("{destroy}{colon}{why}"))),
        named(l, ("Asked for by", "Demandée par"), d.asked.map_or(Value::Blank, |row| Value::text(signed(l, row)))),
        named(l, OFFICER, Value::text(format!("{}{colon}{}", party(&d.approved.by), reason(d.approved)))),
        named(l, SIGNED, Value::text(when(l, d.approved))),
    ]
}

fn destruction(l: Language, d: &Decided<'_>) -> Vec<(String, Value)> {
    let certified = d.certified.map_or_else(
        || l.pick("not certified in this log: parts may be left", "non certifiée dans ce journal : il peut en rester").to_owned(),
        |row| format!("{}{}{}", signed(l, row), l.pick(": ", " : "), detail(l, row)),
    );
    vec![
        named(l, ITEMS, Value::text(&d.items)),
        named(l, CUSTODIAN, d.asked.map_or(Value::Blank, |row| Value::text(party(&row.by)))),
        named(l, ("Certified by the program", "Certifiée par le programme"), Value::text(certified)),
        named(l, WITNESS, Value::Blank),
        named(l, ALL_SIGNED, Value::Blank),
    ]
}
