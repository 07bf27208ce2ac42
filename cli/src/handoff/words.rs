//! Small things that all documents say in the same way.

use exhibit_evidence::Timestamp;
use exhibit_evidence::age::Recipients;
use exhibit_evidence::record::Outcome;
use exhibit_evidence::verify::{CollectionSummary, Verdict};

use super::facts::Facts;
use crate::document::{Document, Language, Value};
use crate::units::{count, show_bytes};

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

/// Contents of this bag that nobody decrypted, as items with contents and as segments; none where there are none of them.
pub fn unread(facts: &Facts) -> Option<(u64, u64)> {
    let counts = &facts.report.counts;
    facts.report.unread.then_some((counts.items_unchecked, counts.segments)).filter(|what| *what != (0, 0))
}

/// The same of a collection.
pub fn unread_of(facts: &Facts, c: &CollectionSummary) -> Option<(u64, u64)> {
    let segments = facts.receipts_of(&c.id).fold(0_u64, |sum, r| sum.saturating_add(u64::from(r.record.manifest.segments)));
    (facts.report.unread && c.streams > 0).then_some((c.items_unchecked, segments)).filter(|what| *what != (0, 0))
}

/// The sentence about contents that nobody decrypted, wherever it stands: of how many items, or, where none of them has contents,
/// of how many segments.
pub fn not_checked(l: Language, (items, segments): (u64, u64)) -> String {
    let what = match items {
        0 => counted(l, segments, ("segment", "segments"), ("segment", "segments")),
        n => counted(l, n, ("item", "items"), ("élément", "éléments")),
    };
    match l {
        Language::En => format!("the contents of {what} are encrypted and were NOT checked"),
        Language::Fr => format!("les contenus de {what} sont chiffrés et n'ont PAS été contrôlés"),
    }
}

/// A number of things as the language counts them: French has the singular for zero, too.
pub fn counted(l: Language, n: u64, en: (&str, &str), fr: (&str, &str)) -> String {
    match l {
        Language::En => count(n, en.0, en.1),
        Language::Fr => format!("{n} {}", if n < 2 { fr.0 } else { fr.1 }),
    }
}

/// Errors and warnings.
pub fn faults(l: Language, errors: u64, warnings: u64) -> [String; 2] {
    [
        counted(l, errors, ("error", "errors"), ("erreur", "erreurs")),
        counted(l, warnings, ("warning", "warnings"), ("avertissement", "avertissements")),
    ]
}

/// Bytes as the language writes them: `1.5 MiB`, `1,5 Mio`.
pub fn bytes(l: Language, n: u64) -> String {
    let shown = show_bytes(n);
    match l {
        Language::En => shown,
        Language::Fr => shown.replace('.', ",").replace('B', "o"),
    }
}

/// A number with one decimal as the language writes it: `4.1`, `4,1`.
pub fn decimal(l: Language, n: f64) -> String {
    let shown = format!("{n:.1}");
    match l {
        Language::En => shown,
        Language::Fr => shown.replace('.', ","),
    }
}

/// What was done with the case, in the reader's language; a word that is not known stays as the log has it.
pub fn done(l: Language, word: &str) -> &str {
    const WORDS: [(&str, &str); 13] = [
        ("list", "liste"),
        ("view", "consultation"),
        ("download", "téléchargement"),
        ("export", "export"),
        ("verify", "contrôle"),
        ("hold", "gel"),
        ("hold-released", "levée de gel"),
        ("retention", "durée de conservation"),
        ("release", "remise"),
        ("transfer", "réception"),
        ("disposal", "demande de destruction"),
        ("approval", "approbation"),
        ("destruction", "destruction"),
    ];
    match l {
        Language::En => word,
        Language::Fr => WORDS.iter().find(|(en, _)| *en == word).map_or(word, |(_, fr)| *fr),
    }
}

/// How much evidence it is: as it was read, or, where its contents could not be, as it is stored and as the list that the agent
/// signed states it.
pub fn size(l: Language, (raw, unread, stored): (u64, u64, u64)) -> String {
    let stored = bytes(l, stored);
    if unread == 0 {
        return format!("{} ({} {stored})", bytes(l, raw), l.pick("stored:", "conservés :"));
    }
    let stated = bytes(l, unread);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn french_is_written_as_french_is() {
        let fr = Language::Fr;
        assert_eq!(faults(fr, 0, 2), ["0 erreur", "2 avertissements"]);
        assert_eq!(faults(Language::En, 0, 1), ["0 errors", "1 warning"]);
        assert_eq!([bytes(fr, 349_184), bytes(fr, 12), bytes(Language::En, 349_184)], ["341,0 Kio", "12 o", "341.0 KiB"]);
        assert_eq!([decimal(fr, 4.06), decimal(Language::En, 4.06)], ["4,1", "4.1"]);
        for action in exhibit_evidence::record::Action::ALL.iter().filter(|a| a.as_str() != "export") {
            assert_ne!(done(fr, action.as_str()), action.as_str());
        }
        assert_eq!([done(fr, "hold"), done(Language::En, "hold"), done(fr, "new")], ["gel", "hold", "new"]);
    }

    #[test]
    fn what_nobody_decrypted_is_counted_in_what_there_is() {
        let en = |what| not_checked(Language::En, what);
        assert_eq!(en((7, 2)), "the contents of 7 items are encrypted and were NOT checked");
        assert_eq!(en((1, 2)), "the contents of 1 item are encrypted and were NOT checked");
        assert_eq!(
            [en((0, 2)), en((0, 1))],
            ["2 segments", "1 segment"].map(|n| format!("the contents of {n} are encrypted and were NOT checked"))
        );
        let fr = |what| not_checked(Language::Fr, what);
        assert_eq!(fr((7, 2)), "les contenus de 7 éléments sont chiffrés et n'ont PAS été contrôlés");
        assert_eq!(fr((1, 2)), "les contenus de 1 élément sont chiffrés et n'ont PAS été contrôlés");
        assert_eq!(
            [fr((0, 2)), fr((0, 1))],
            ["2 segments", "1 segment"].map(|n| format!("les contenus de {n} sont chiffrés et n'ont PAS été contrôlés"))
        );
    }
}
