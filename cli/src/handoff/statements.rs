//! Statements for a person to complete and sign: what the program can state is filled in; the person decides whether it is
//! true, and counsel whether it fits the court.

use std::collections::BTreeSet;

use exhibit_evidence::verify::Verdict;

use super::facts::Facts;
use super::report::revoked;
use super::scope;
use super::words::{document, encrypted_to, faults, field, head, moment, not_checked, party, recipients, unread, verdict};
use crate::document::{Block, Document, Language, Value};
use crate::units::count;

/// Keys that were revoked and are named; the report has all.
const KEYS_NAMED_MAX: usize = 20;

fn notice(l: Language) -> Block {
    Block::Paragraph(
        l.pick(
            "DRAFT prepared by a program, not legal advice. Counsel adapts it to the court; the person who signs reads it, corrects it and answers for it.",
            "PROJET préparé par un programme, sans valeur de conseil juridique. L'avocat l'adapte à la juridiction ; la personne qui signe le lit, le corrige et en répond.",
        )
        .to_owned(),
    )
}

/// A text in both languages.
type Text = (&'static str, &'static str);

fn paragraphs(l: Language, texts: &[Text]) -> Vec<Block> {
    texts.iter().map(|(en, fr)| Block::Paragraph(l.pick(en, fr).to_owned())).collect()
}

fn identification(l: Language, facts: &Facts) -> Block {
    let d = &facts.description;
    let mut fields = vec![
        field(l.pick("Case number", "Numéro d'affaire"), Value::exact(&d.case)),
        field(l.pick("Copy made", "Copie établie"), Value::text(format!("{}, {}", party(&d.exported_by), moment(d.exported_at)))),
        field(l.pick("Log head (records : root)", "Tête du journal (nombre : racine)"), Value::exact(head(facts))),
        field(l.pick("Key that signs the copy (SHA-256)", "Clé signant la copie (SHA-256)"), Value::exact(d.key)),
        field(l.pick("Result of the verification", "Résultat de la vérification"), Value::text(verdict(l, facts))),
        field(l.pick("Program", "Programme"), Value::exact(format!("{} {} {}", d.tool.name, d.tool.version, d.tool.sha256))),
    ];
    fields.extend(recipients(l, facts));
    fields.extend(revoked_keys(l, facts));
    fields.extend(scope::rows(l, facts));
    Block::Fields(fields)
}

/// The row about keys that were revoked: what such a key signed before is in the copy too, and whoever signs may not have read the report.
fn revoked_keys(l: Language, facts: &Facts) -> Option<(String, Value)> {
    let mut seen = BTreeSet::new();
    let parties = facts.parties.iter().filter(|party| seen.insert(party.key));
    let said = parties.filter_map(|party| facts.revocation_of(&party.key).map(|at| revoked(l, &party.name, (at.n, &at.record))));
    revoked_row(l, &said.collect::<Vec<String>>())
}

fn revoked_row(l: Language, said: &[String]) -> Option<(String, Value)> {
    let mut named = said.iter().take(KEYS_NAMED_MAX).cloned().collect::<Vec<_>>().join("; ");
    if said.len() > KEYS_NAMED_MAX {
        let (more, report) = (said.len() - KEYS_NAMED_MAX, l.pick("more in the report", "de plus au rapport"));
        named = format!("{named}; {more} {report}");
    }
    let name = l.pick("Keys in this log that were revoked", "Clés de ce journal qui ont été révoquées");
    (!said.is_empty()).then(|| field(name, Value::text(named)))
}

fn signature(l: Language) -> Block {
    Block::Lines(
        [
            ("Name, position, employer", "Nom, fonction, employeur"),
            ("Qualification (training, experience)", "Qualification (formation, expérience)"),
            ("Place, date", "Lieu, date"),
            ("Signature", "Signature"),
        ]
        .map(|(en, fr)| l.pick(en, fr).to_owned())
        .to_vec(),
    )
}

/// What of a log is fixed by somebody else than the holder of its key.
struct Heads {
    /// Witnesses that cosigned a head.
    witnesses: u64,
    /// Authorities that stamped one.
    authorities: u64,
    /// Records under the newest of these heads.
    covered: u64,
    /// Records of the log.
    records: u64,
}

impl Heads {
    fn of(facts: &Facts) -> Self {
        let (cosigned, stamps) = (&facts.cosigned, &facts.report.timestamps);
        let witnesses: BTreeSet<&str> = cosigned.iter().map(|(key, _)| key.as_str()).collect();
        let authorities: BTreeSet<&str> = stamps.iter().map(|stamp| stamp.authority.as_str()).collect();
        let records = facts.description.head.size;
        let newest = cosigned.iter().map(|(_, size)| *size).chain(stamps.iter().map(|stamp| stamp.size)).max();
        let covered = newest.unwrap_or(0).min(records);
        Self { witnesses: witnesses.len() as u64, authorities: authorities.len() as u64, covered, records }
    }

    /// Who fixed heads, in words; `None` for nobody.
    fn by(&self, l: Language) -> Option<String> {
        let (w, a) = (self.witnesses, self.authorities);
        let witnesses = match l {
            Language::En => format!("the heads that {} cosigned", count(w, "witness", "witnesses")),
            Language::Fr => format!("les têtes que {} cosignées", count(w, "témoin a", "témoins ont")),
        };
        let authorities = match l {
            Language::En => format!("the heads that {} stamped", count(a, "time authority", "time authorities")),
            Language::Fr => format!("les têtes que {} horodatées", count(a, "autorité d'horodatage a", "autorités d'horodatage ont")),
        };
        match (w > 0, a > 0) {
            (true, true) => Some(format!("{witnesses} {} {authorities}", l.pick("and", "et"))),
            (true, false) => Some(witnesses),
            (false, true) => Some(authorities),
            (false, false) => None,
        }
    }

    /// What holds about changes of the log, and no more.
    fn statement(&self, l: Language) -> String {
        let (covered, records) = (self.covered, self.records);
        let Some(by) = self.by(l) else { return l.pick(NOBODY.0, NOBODY.1).to_owned() };
        let mut text = match l {
            Language::En => format!(
                "Of its {records} records, none of the first {covered} can be altered, removed or inserted without that being shown by {by}; whether these are genuine is checked with keys and roots from elsewhere, as VERIFY.md says."
            ),
            Language::Fr => format!(
                "Sur ses {records} enregistrements, aucun des {covered} premiers ne peut être modifié, supprimé ou inséré sans que le révèlent {by} ; leur authenticité se contrôle avec des clés et des racines obtenues par ailleurs, comme l'indique VERIFY.md."
            ),
        };
        if covered < records {
            text.push(' ');
            text.push_str(l.pick(LATER.0, LATER.1));
        }
        text
    }
}

const NOBODY: Text = (
    "No witness cosigned a head of this log and no time authority stamped one: until this copy was made, whoever holds the log's key could have left records out or put others in; only a head that was noted elsewhere would show it.",
    "Aucun témoin n'a cosigné de tête de ce journal et aucune autorité d'horodatage n'en a horodaté : jusqu'à l'établissement de cette copie, le détenteur de la clé du journal aurait pu omettre des enregistrements ou en ajouter ; seule une tête notée ailleurs le révélerait.",
);

const LATER: Text = (
    "For the later records no such head exists: until this copy was made, whoever holds the log's key could have left some out or put others in.",
    "Pour les enregistrements suivants, il n'existe pas de telle tête : jusqu'à l'établissement de cette copie, le détenteur de la clé du journal aurait pu en omettre ou en ajouter.",
);

/// What stands in the place of a statement about a copy that is not sound, and of its signature.
fn not_to_be_signed(l: Language, facts: &Facts) -> Vec<Block> {
    let (errors, warnings, _) = facts.report.findings.counts();
    let [errors, warnings] = faults(l, errors, warnings);
    let (title, lines) = match l {
        Language::En => {
            ("NOT TO BE SIGNED before the findings are explained", ["Explanation of each finding", "By whom (name, position), date"])
        }
        Language::Fr => {
            ("NE PAS SIGNER avant que les constats soient expliqués", ["Explication de chaque constat", "Par qui (nom, fonction), date"])
        }
    };
    let text = match l {
        Language::En => format!(
            "The verification of this copy found {errors} and {warnings}: it is NOT SOUND. The report names them in its section 2. What this document states about a sound copy is therefore not filled in, and there is no line for a signature."
        ),
        Language::Fr => format!(
            "La vérification de cette copie a relevé {errors} et {warnings} : elle est NON INTÈGRE. Le rapport les indique à sa section 2. Ce que ce document énonce d'une copie intègre n'est donc pas rempli, et aucune ligne n'est prévue pour une signature."
        ),
    };
    vec![Block::Heading(1, title.to_owned()), Block::Paragraph(text), Block::Lines(lines.map(str::to_owned).to_vec())]
}

/// What stands in the place of a statement about a copy whose contents nobody decrypted, and of its signature.
fn not_read(l: Language, facts: &Facts) -> Vec<Block> {
    let unchecked = not_checked(l, unread(facts).unwrap_or_default());
    let (title, lines) = match l {
        Language::En => (
            "NOT TO BE SIGNED before a recipient has checked the contents",
            ["Result of a recipient's check (exhibit-verify --identity)", "By whom (name, position), date"],
        ),
        Language::Fr => (
            "NE PAS SIGNER avant qu'un destinataire ait contrôlé les contenus",
            ["Résultat du contrôle par un destinataire (exhibit-verify --identity)", "Par qui (nom, fonction), date"],
        ),
    };
    let text = match l {
        Language::En => format!(
            "The contents of this copy are encrypted to the recipients named above. The program that received them could not read them, and when this copy was made no recipient's identity was given, so nothing was decrypted: {unchecked}. What was checked is the log and that each object is stored as it was signed for. What this document states of a copy whose contents were checked is therefore not filled in, and there is no line for a signature. A recipient makes a copy with a statement to sign with: exhibit export --identity FILE."
        ),
        Language::Fr => format!(
            "Les contenus de cette copie sont chiffrés pour les destinataires nommés ci-dessus. Le programme qui les a reçus ne pouvait pas les lire et, lors de l'établissement de cette copie, aucune identité de destinataire n'a été fournie et rien n'a été déchiffré : {unchecked}. Ont été contrôlés le journal et le fait que chaque objet est conservé tel qu'il a été signé. Ce que ce document énonce d'une copie aux contenus contrôlés n'est donc pas rempli, et aucune ligne n'est prévue pour une signature. Un destinataire établit une copie avec une déclaration à signer par : exhibit export --identity FICHIER."
        ),
    };
    vec![Block::Heading(1, title.to_owned()), Block::Paragraph(text), Block::Lines(lines.map(str::to_owned).to_vec())]
}

const TAKEN: [Text; 2] = [
    (
        "1. I am the person named below. I am qualified by the training and experience stated below to make this certification.",
        "1. Je suis la personne nommée ci-dessous. La formation et l'expérience indiquées ci-dessous me qualifient pour établir ce certificat.",
    ),
    (
        "2. The electronic files identified above were copied from the hosts named in the evidence report by an electronic process. On each host a program took the files on a signed order, computed the SHA-256 of each while reading it, and signed a list of these values with a key of that host's agent.",
        "2. Les fichiers électroniques identifiés ci-dessus ont été copiés depuis les hôtes nommés dans le rapport par un procédé électronique. Sur chaque hôte, un programme a pris les fichiers sur un ordre signé, calculé le SHA-256 de chacun pendant la lecture et signé la liste de ces valeurs avec une clé de l'agent de cet hôte.",
    ),
];

const RECEIVED: Text = (
    "3. The program that received the files computed these values again from the bytes it received, compared them, stored the bytes unchanged, and signed a receipt. Each of these signed statements is a record of the log in this copy.",
    "3. Le programme qui a reçu les fichiers a recalculé ces valeurs à partir des octets reçus, les a comparées, a conservé les octets inchangés et signé un récépissé. Chacune de ces déclarations signées est un enregistrement du journal contenu dans cette copie.",
);

/// The same where contents came encrypted.
const RECEIVED_ENCRYPTED: Text = (
    "3. Before the files left a host, its program encrypted their contents to the recipients named above. The program that received them could not read the contents: it computed the SHA-256 of each encrypted segment from the bytes it received, compared it with the signed list, stored the bytes unchanged, and signed a receipt that says that contents were not verified. Each of these signed statements is a record of the log in this copy.",
    "3. Avant que les fichiers ne quittent un hôte, le programme de celui-ci en a chiffré les contenus pour les destinataires nommés ci-dessus. Le programme qui les a reçus ne pouvait pas lire ces contenus : il a calculé le SHA-256 de chaque segment chiffré à partir des octets reçus, l'a comparé à la liste signée, a conservé les octets inchangés et signé un récépissé indiquant que les contenus n'ont pas été vérifiés. Chacune de ces déclarations signées est un enregistrement du journal contenu dans cette copie.",
);

const COMPARED: Text = (
    "4. When this copy was made, every value of what it contains was computed a third time and compared. The result is stated above. Identical values mean that the copy is a true copy of what was taken.",
    "4. Lors de l'établissement de cette copie, chaque valeur de ce qu'elle contient a été calculée une troisième fois et comparée. Le résultat est indiqué ci-dessus. Des valeurs identiques signifient que la copie est conforme à ce qui a été pris.",
);

/// The same where contents had to be decrypted first.
const COMPARED_DECRYPTED: Text = (
    "4. When this copy was made, whatever evidence it contains was first decrypted with the identity of a recipient, and every value of it was computed again and compared. The result is stated above. Identical values mean that the copy is a true copy of what was taken. Whether every recipient can decrypt it is not stated here.",
    "4. Lors de l'établissement de cette copie, toute preuve qu'elle contient a d'abord été déchiffrée avec l'identité d'un destinataire, et chaque valeur en a été calculée de nouveau et comparée. Le résultat est indiqué ci-dessus. Des valeurs identiques signifient que la copie est conforme à ce qui a été pris. Que chaque destinataire puisse la déchiffrer n'est pas énoncé ici.",
);

const CERTIFIED: [Text; 2] = [
    (
        "5. The process produces an accurate result when used as described in the documentation that comes with it. I have no reason to believe that it was not working properly, except: ______________________________",
        "5. Le procédé donne un résultat exact lorsqu'il est employé comme le décrit sa documentation. Je n'ai pas de raison de croire qu'il n'ait pas fonctionné correctement, sauf : ______________________________",
    ),
    (
        "I certify under penalty of perjury that the foregoing is true and correct.",
        "Je certifie sous les peines du faux témoignage que ce qui précède est exact et sincère.",
    ),
];

/// What the second paragraph does not cover: an agent that was killed signed no list.
fn unsigned(l: Language, facts: &Facts) -> Option<Block> {
    let items = facts.report.collections.iter().fold(0_u64, |sum, c| sum.saturating_add(c.items_unsigned));
    let text = match l {
        Language::En => format!(
            "Of {} no agent signed a list, because it ended before: that they left the host like this is stated by the program that received them alone.",
            count(items, "item", "items")
        ),
        Language::Fr => format!(
            "Pour {}, aucun agent n'a signé de liste, car il a pris fin auparavant : qu'ils aient quitté l'hôte en cet état n'est énoncé que par le programme qui les a reçus.",
            count(items, "élément", "éléments")
        ),
    };
    (items > 0).then_some(Block::Paragraph(text))
}

/// A certificate in the manner of Federal Rules of Evidence 902(13) and (14).
pub fn certificate(language: Language, facts: &Facts) -> Document {
    let l = language;
    let mut blocks = vec![notice(l), identification(l, facts)];
    match facts.report.verdict {
        Verdict::Unsound => blocks.extend(not_to_be_signed(l, facts)),
        _ if scope::is_empty(facts) => blocks.extend(scope::nothing(l)),
        Verdict::SoundAsFarAsReadable => blocks.extend(not_read(l, facts)),
        Verdict::Sound => {
            let is_encrypted = encrypted_to(facts).is_some();
            let (received, compared) = if is_encrypted { (RECEIVED_ENCRYPTED, COMPARED_DECRYPTED) } else { (RECEIVED, COMPARED) };
            blocks.extend(paragraphs(l, &TAKEN));
            blocks.extend(unsigned(l, facts));
            blocks.push(Block::Paragraph(format!("{} {}", l.pick(received.0, received.1), Heads::of(facts).statement(l))));
            blocks.extend(paragraphs(l, &[compared]));
            blocks.extend(paragraphs(l, &CERTIFIED));
            blocks.push(signature(l));
        }
    }
    document(
        l,
        facts,
        l.pick(
            "Certificate of authenticity (in the manner of FRE 902(13), 902(14))",
            "Certificat d'authenticité (selon FRE 902(13), 902(14))",
        ),
        blocks,
    )
}

const IDENTIFICATION: Text = (
    "The hosts, their agents and what was to be taken are named in each order before the taking.",
    "Les hôtes, leurs agents et ce qui devait être pris sont nommés dans chaque ordre avant la prise.",
);
const ACQUISITION: Text = (
    "Taken from running systems, in order of volatility, by a program whose digest, memory, processor time and files written are stated in the report. By its own account it wrote nothing else to the hosts.",
    "Prises sur des systèmes en marche, dans l'ordre de volatilité, par un programme dont l'empreinte, la mémoire, le temps de calcul et les fichiers écrits figurent au rapport. Selon ses propres indications, il n'a rien écrit d'autre sur les hôtes.",
);
const PRESERVATION: Text = (
    "Stored once, as received; the digests show whether that is still so. Every access through the coordinator is recorded before it is granted. Whoever reads the store directly, past the coordinator, is not seen by it.",
    "Conservées une fois, telles que reçues ; les empreintes montrent si c'est encore le cas. Chaque accès par le coordinateur est inscrit avant d'être accordé. Quiconque lit directement le dépôt, sans passer par le coordinateur, échappe à celui-ci.",
);
const AUDITABILITY: Text = (
    "Every order, taking, receipt, access through the coordinator and change of custody is a signed record in the log of this bag.",
    "Chaque ordre, prise, réception, accès par le coordinateur et changement de garde est un enregistrement signé du journal de ce dossier.",
);
const REPEATABILITY: Text = (
    "The checks of this bag can be repeated by anybody with VERIFY.md. A taking from a running system cannot be repeated with the same result.",
    "Les contrôles de ce dossier peuvent être répétés par quiconque avec VERIFY.md. Une prise sur un système en marche ne peut être répétée avec le même résultat.",
);

const ENCRYPTION: Text = (
    "The contents were encrypted to the recipients named above before they left the hosts. The program that received and kept them could not read them; it verified them as stored. When this copy was made, whatever of them it contains was decrypted with the identity of a recipient and compared.",
    "Les contenus ont été chiffrés pour les destinataires nommés ci-dessus avant de quitter les hôtes. Le programme qui les a reçus et conservés ne pouvait pas les lire ; il les a vérifiés tels que conservés. Lors de l'établissement de cette copie, tout contenu qui s'y trouve a été déchiffré avec l'identité d'un destinataire et comparé.",
);

/// What the program can state of the handling.
fn stated(l: Language, facts: &Facts) -> Block {
    let said = |(en, fr): Text| Value::text(l.pick(en, fr));
    let audit = format!("{} {}", l.pick(AUDITABILITY.0, AUDITABILITY.1), Heads::of(facts).statement(l));
    let mut fields = vec![
        field(l.pick("Identification", "Identification"), said(IDENTIFICATION)),
        field(l.pick("Collection and acquisition", "Collecte et acquisition"), said(ACQUISITION)),
        field(l.pick("Preservation", "Préservation"), said(PRESERVATION)),
    ];
    if encrypted_to(facts).is_some() {
        fields.push(field(l.pick("Encryption", "Chiffrement"), said(ENCRYPTION)));
    }
    fields.extend([
        field(l.pick("Auditability", "Auditabilité"), Value::text(audit)),
        field(l.pick("Repeatability, reproducibility", "Répétabilité, reproductibilité"), said(REPEATABILITY)),
        field(l.pick("Justification of methods", "Justification des méthodes"), Value::Blank),
        field(l.pick("Deviations from procedure", "Écarts à la procédure"), Value::Blank),
        field(l.pick("Competence of the persons involved", "Compétence des intervenants"), Value::Blank),
    ]);
    Block::Fields(fields)
}

/// A statement of handling in the manner of ISO/IEC 27037.
pub fn handling(language: Language, facts: &Facts) -> Document {
    let l = language;
    let mut blocks = vec![notice(l), identification(l, facts)];
    match facts.report.verdict {
        Verdict::Unsound => blocks.extend(not_to_be_signed(l, facts)),
        _ if scope::is_empty(facts) => blocks.extend(scope::nothing(l)),
        Verdict::SoundAsFarAsReadable => blocks.extend(not_read(l, facts)),
        Verdict::Sound => {
            blocks.push(stated(l, facts));
            blocks.push(signature(l));
        }
    }
    document(
        l,
        facts,
        l.pick("Statement of handling (in the manner of ISO/IEC 27037)", "Déclaration de traitement (selon ISO/IEC 27037)"),
        blocks,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revoked_keys_have_a_row_where_there_are_some() {
        assert!(revoked_row(Language::En, &[]).is_none());
        let said: Vec<String> = (0..KEYS_NAMED_MAX + 2).map(|n| format!("k{n}")).collect();
        let text = |l: Language, said: &[String]| match revoked_row(l, said) {
            Some((_, Value::Text(text))) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(text(Language::En, &said[..2]), "k0; k1");
        assert!(text(Language::En, &said).ends_with("k19; 2 more in the report"));
        assert!(text(Language::Fr, &said).ends_with("k19; 2 de plus au rapport"));
    }

    fn said(l: Language, witnesses: u64, authorities: u64, covered: u64) -> String {
        Heads { witnesses, authorities, covered, records: 28 }.statement(l)
    }

    #[test]
    fn a_log_that_nobody_else_vouches_for_claims_nothing() {
        let text = said(Language::En, 0, 0, 0);
        assert!(text.starts_with("No witness cosigned") && !text.contains("can be altered"), "{text}");
        assert!(said(Language::Fr, 0, 0, 0).starts_with("Aucun témoin"));
    }

    #[test]
    fn what_witnesses_and_authorities_show_is_said_as_far_as_it_goes() {
        let text = said(Language::En, 2, 1, 14);
        assert!(text.contains("Of its 28 records, none of the first 14"), "{text}");
        assert!(text.contains("shown by the heads that 2 witnesses cosigned and the heads that 1 time authority stamped;"), "{text}");
        assert!(text.ends_with(LATER.0), "{text}");
        let text = said(Language::Fr, 1, 0, 28);
        assert!(text.contains("sans que le révèlent les têtes que 1 témoin a cosignées ;"), "{text}");
        assert!(!text.contains("horodat") && !text.contains(LATER.1), "{text}");
        assert!(said(Language::Fr, 0, 2, 28).contains("les têtes que 2 autorités d'horodatage ont horodatées ;"));
    }
}
