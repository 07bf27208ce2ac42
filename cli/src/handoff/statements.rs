//! Statements for a person to complete and sign: what the program can state is filled in; the person decides whether it is
//! true, and counsel whether it fits the court.

use super::facts::Facts;
use super::words::{document, field, head, moment, party, verdict};
use crate::document::{Block, Document, Language, Value};

fn notice(l: Language) -> Block {
    Block::Paragraph(
        l.pick(
            "DRAFT prepared by a program, not legal advice. Counsel adapts it to the court; the person who signs reads it, corrects it and answers for it.",
            "PROJET préparé par un programme, sans valeur de conseil juridique. L'avocat l'adapte à la juridiction ; la personne qui signe le lit, le corrige et en répond.",
        )
        .to_owned(),
    )
}

fn paragraphs(l: Language, texts: &[(&'static str, &'static str)]) -> impl Iterator<Item = Block> {
    texts.iter().map(move |(en, fr)| Block::Paragraph(l.pick(en, fr).to_owned())).collect::<Vec<_>>().into_iter()
}

fn identification(l: Language, facts: &Facts) -> Block {
    let d = &facts.description;
    Block::Fields(vec![
        field(l.pick("Case number", "Numéro d'affaire"), Value::exact(&d.case)),
        field(l.pick("Copy made", "Copie établie"), Value::text(format!("{}, {}", party(&d.exported_by), moment(d.exported_at)))),
        field(l.pick("Log head (records : root)", "Tête du journal (nombre : racine)"), Value::exact(head(facts))),
        field(l.pick("Key that signs the copy (SHA-256)", "Clé signant la copie (SHA-256)"), Value::exact(d.key)),
        field(l.pick("Result of the verification", "Résultat de la vérification"), Value::text(verdict(l, facts))),
        field(l.pick("Program", "Programme"), Value::exact(format!("{} {} {}", d.tool.name, d.tool.version, d.tool.sha256))),
    ])
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

/// A certificate in the manner of Federal Rules of Evidence 902(13) and (14).
pub fn certificate(language: Language, facts: &Facts) -> Document {
    let l = language;
    let mut blocks = vec![notice(l), identification(l, facts)];
    blocks.extend(paragraphs(
        l,
        &[
            (
                "1. I am the person named below. I am qualified by the training and experience stated below to make this certification.",
                "1. Je suis la personne nommée ci-dessous. La formation et l'expérience indiquées ci-dessous me qualifient pour établir ce certificat.",
            ),
            (
                "2. The electronic files identified above were copied from the hosts named in the evidence report by an electronic process. On each host a program took the files on a signed order, computed the SHA-256 of each while reading it, and signed a list of these values with a key of that host's agent.",
                "2. Les fichiers électroniques identifiés ci-dessus ont été copiés depuis les hôtes nommés dans le rapport par un procédé électronique. Sur chaque hôte, un programme a pris les fichiers sur un ordre signé, calculé le SHA-256 de chacun pendant la lecture et signé la liste de ces valeurs avec une clé de l'agent de cet hôte.",
            ),
            (
                "3. The program that received the files computed these values again from the bytes it received, compared them, stored the bytes unchanged, and signed a receipt. Each of these signed statements is part of a log in which no statement can be altered, removed or inserted unnoticed.",
                "3. Le programme qui a reçu les fichiers a recalculé ces valeurs à partir des octets reçus, les a comparées, a conservé les octets inchangés et signé un récépissé. Chacune de ces déclarations signées fait partie d'un journal dans lequel aucune ne peut être modifiée, supprimée ou insérée sans être remarquée.",
            ),
            (
                "4. When this copy was made, every value was computed a third time and compared. The result is stated above. Identical values mean that the copy is a true copy of what was taken.",
                "4. Lors de l'établissement de cette copie, chaque valeur a été calculée une troisième fois et comparée. Le résultat est indiqué ci-dessus. Des valeurs identiques signifient que la copie est conforme à ce qui a été pris.",
            ),
            (
                "5. The process produces an accurate result when used as described in the documentation that comes with it. I have no reason to believe that it was not working properly, except: ______________________________",
                "5. Le procédé donne un résultat exact lorsqu'il est employé comme le décrit sa documentation. Je n'ai pas de raison de croire qu'il n'ait pas fonctionné correctement, sauf : ______________________________",
            ),
            (
                "I certify under penalty of perjury that the foregoing is true and correct.",
                "Je certifie sous les peines du faux témoignage que ce qui précède est exact et sincère.",
            ),
        ],
    ));
    blocks.push(signature(l));
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

/// A statement of handling in the manner of ISO/IEC 27037.
pub fn handling(language: Language, facts: &Facts) -> Document {
    let l = language;
    let mut blocks = vec![notice(l), identification(l, facts)];
    blocks.push(Block::Fields(vec![
        field(l.pick("Identification", "Identification"), Value::text(l.pick(
            "The hosts, their agents and what was to be taken are named in each order before the taking.",
            "Les hôtes, leurs agents et ce qui devait être pris sont nommés dans chaque ordre avant la prise.",
        ))),
        field(l.pick("Collection and acquisition", "Collecte et acquisition"), Value::text(l.pick(
            "Taken from running systems, in order of volatility, by a program whose digest, memory, processor time and files written are stated in the report. Nothing else was written to the hosts by it.",
            "Prises sur des systèmes en marche, dans l'ordre de volatilité, par un programme dont l'empreinte, la mémoire, le temps de calcul et les fichiers écrits figurent au rapport. Il n'a rien écrit d'autre sur les hôtes.",
        ))),
        field(l.pick("Preservation", "Préservation"), Value::text(l.pick(
            "Stored once, as received; never written again; every access recorded before it was granted.",
            "Conservées une fois, telles que reçues ; jamais réécrites ; chaque accès inscrit avant d'être accordé.",
        ))),
        field(l.pick("Auditability", "Auditabilité"), Value::text(l.pick(
            "Every step is a signed record in the log of this bag.",
            "Chaque étape est un enregistrement signé du journal de ce dossier.",
        ))),
        field(l.pick("Repeatability, reproducibility", "Répétabilité, reproductibilité"), Value::text(l.pick(
            "The checks of this bag can be repeated by anybody with VERIFY.md. A taking from a running system cannot be repeated with the same result.",
            "Les contrôles de ce dossier peuvent être répétés par quiconque avec VERIFY.md. Une prise sur un système en marche ne peut être répétée avec le même résultat.",
        ))),
        field(l.pick("Justification of methods", "Justification des méthodes"), Value::Blank),
        field(l.pick("Deviations from procedure", "Écarts à la procédure"), Value::Blank),
        field(l.pick("Competence of the persons involved", "Compétence des intervenants"), Value::Blank),
    ]));
    blocks.push(signature(l));
    document(
        l,
        facts,
        l.pick("Statement of handling (in the manner of ISO/IEC 27037)", "Déclaration de traitement (selon ISO/IEC 27037)"),
        blocks,
    )
}
