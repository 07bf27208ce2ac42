//! Small things that all documents say in the same way.

use exhibit_evidence::Timestamp;
use exhibit_evidence::age::Recipients;
use exhibit_evidence::record::Outcome;
use exhibit_evidence::verify::{CollectionSummary, Verdict};

use super::facts::Facts;
use crate::document::{Document, Language, Value};
use crate::units::show_bytes;

/// A moment as people read it: to the second, with its zone.
pub fn moment(at: Timestamp) -> String {
    let text = at.to_string();
    format!("{} {} UTC", text.get(..10).unwrap_or(&text), text.get(11..19).unwrap_or_default())
}

/// How a collection ended, in words.
pub fn outcome(language: Language, outcome: Option<Outcome>) -> &'static str {
    match outcome {
        Some(Outcome::Sealed) => language.pick(
            "sealed: taken whole, or with a stated reason for what is not there",
            "scellée : prise en entier, ou avec le motif de ce qui manque",
        ),
        Some(Outcome::Partial) => language.pick("partial: what arrived was kept", "partielle : ce qui est arrivé a été conservé"),
        Some(Outcome::Refused) => language.pick("refused by the host's agent", "refusée par l'agent de l'hôte"),
        Some(Outcome::Failed) => language.pick("failed: nothing usable arrived", "échouée : rien d'utilisable n'est arrivé"),
        Some(Outcome::Cancelled) => language.pick("cancelled before anything arrived", "annulée avant toute arrivée"),
        Some(Outcome::Expired) => language.pick("expired before it began", "expirée avant d'avoir commencé"),
        None => language.pick("open", "en cours"),
    }
}

/// The verdict in a word.
pub fn verdict(language: Language, facts: &Facts) -> &'static str {
    match facts.report.verdict {
        Verdict::Sound => language.pick("SOUND", "INTÈGRE"),
        Verdict::SoundAsFarAsReadable => language.pick(
            "SOUND AS FAR AS IT CAN BE READ: contents are encrypted and were NOT checked",
            "INTÈGRE POUR CE QUI EST LISIBLE : des contenus sont chiffrés et n'ont PAS été contrôlés",
        ),
        Verdict::Unsound => language.pick("NOT SOUND", "NON INTÈGRE"),
    }
}

/// The verdict as a phrase of its own; where it is not good, with the place that says why.
pub fn verification(language: Language, facts: &Facts) -> &'static str {
    match facts.report.verdict {
        Verdict::Sound => language.pick("Verification: SOUND", "Vérification : INTÈGRE"),
        Verdict::SoundAsFarAsReadable => language.pick(
            "Verification: SOUND AS FAR AS IT CAN BE READ, contents NOT checked, see report",
            "Vérification : INTÈGRE POUR CE QUI EST LISIBLE, contenus NON contrôlés, voir le rapport",
        ),
        Verdict::Unsound => language.pick("Verification: NOT SOUND, see report", "Vérification : NON INTÈGRE, voir le rapport"),
    }
}

/// To whom the contents of the case are encrypted, where they are.
pub fn encrypted_to(facts: &Facts) -> Option<&Recipients> {
    facts.report.case.as_ref().map(|case| &case.encrypt_to).filter(|to| !to.is_none())
}

/// The row that names them; none where contents are not encrypted.
pub fn recipients(l: Language, facts: &Facts) -> Option<(String, Value)> {
    encrypted_to(facts).map(|to| field(l.pick("Contents encrypted to", "Contenus chiffrés pour"), Value::exact(to)))
}

/// How much evidence it is: as it was read, or, where its contents could not be, as it is stored and as the list that the agent
/// signed states it.
pub fn size(l: Language, (raw, unread, stored): (u64, u64, u64)) -> String {
    let stored = show_bytes(stored);
    if unread == 0 {
        return format!("{} ({} {stored})", show_bytes(raw), l.pick("stored:", "conservés :"));
    }
    let stated = show_bytes(unread);
    match l {
        Language::En => format!("{stored} as stored, encrypted and not read; {stated} by the list of items"),
        Language::Fr => format!("{stored} tels que conservés, chiffrés et non lus ; {stated} selon la liste des éléments"),
    }
}

/// The host of a collection, or its agent where the host never said its name.
pub fn host(collection: &CollectionSummary) -> String {
    collection.host.clone().unwrap_or_else(|| collection.agent.to_string())
}

/// Exhibit numbers of a collection.
pub fn exhibits(language: Language, collection: &CollectionSummary) -> String {
    match collection.exhibits {
        Some([first, last]) if first == last => format!("{first}"),
        Some([first, last]) => format!("{first} {} {last}", language.pick("to", "à")),
        None => language.pick("none", "aucune").to_owned(),
    }
}

/// The head of the log, as the paper form and the verifier's `--expect` take it.
pub fn head(facts: &Facts) -> String {
    format!("{}:{}", facts.description.head.size, facts.description.head.root)
}

/// The last part of a SPIFFE-style URI, which is how people know each other, and the whole.
pub fn party(name: &str) -> String {
    let short = name.rsplit('/').next().unwrap_or(name);
    if short == name { name.to_owned() } else { format!("{short} ({name})") }
}

/// A document about this bag.
pub fn document(language: Language, facts: &Facts, title: &str, blocks: Vec<crate::document::Block>) -> Document {
    let footer = format!(
        "{} {} · {} {} · {}",
        language.pick("Case", "Affaire"),
        facts.description.case,
        language.pick("log head", "tête du journal"),
        head(facts),
        moment(facts.description.exported_at),
    );
    Document { language, title: title.to_owned(), footer, made_at_s: facts.description.exported_at.unix_ns() / 1_000_000_000, blocks }
}

/// Names and values.
pub fn field(name: &str, value: Value) -> (String, Value) {
    (name.to_owned(), value)
}

/// Who approved the order of a collection, where a second person did.
pub fn approved(l: Language, facts: &Facts, collection: &CollectionSummary) -> Option<(String, Value)> {
    let row = facts.approval_of(collection)?;
    let (record, reason) = (l.pick("record", "enregistrement"), row.reason.clone().unwrap_or_default());
    let text = format!("{}, {} ({record} {}): {reason}", party(&row.by), moment(row.at), row.n);
    Some(field(l.pick("Order approved by", "Ordre approuvé par"), Value::text(text)))
}
