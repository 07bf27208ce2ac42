//! Why a collection ended as it did, in the reader's language. The coordinator writes these sentences in English around data; here the
//! fixed words are put into French, and names, keys, moments and what a person gave as reason stay as they are written.

use crate::document::Language;

/// A sentence: what stands before, between and behind its data. An empty end means that the data goes on to the end of the text.
type Sentence = &'static [&'static str];

/// The sentences that the coordinator writes, the longer beginnings first.
const SENTENCES: [(Sentence, Sentence); 12] = [
    (
        &[
            "cancelled by the coordinator: key ",
            " of ",
            ", who gave the order, was revoked before the agent began; a responder gives a new order",
        ],
        &[
            "annulée par le coordinateur\u{a0}: la clé ",
            " de ",
            ", qui a donné l'ordre, a été révoquée avant que l'agent ne commence ; un intervenant donne un nouvel ordre",
        ],
    ),
    (
        &[
            "cancelled by the coordinator: key ",
            " of ",
            ", who approved the order, was revoked before the agent began; a responder gives a new order",
        ],
        &[
            "annulée par le coordinateur\u{a0}: la clé ",
            " de ",
            ", qui a approuvé l'ordre, a été révoquée avant que l'agent ne commence ; un intervenant donne un nouvel ordre",
        ],
    ),
    (&["cancelled by ", ": ", ""], &["annulée par ", "\u{a0}: ", ""]),
    (&["the agent had not finished by ", ""], &["l'agent n'avait pas terminé à l'échéance du ", ""]),
    (&["nobody had approved the order when it expired at ", ""], &["personne n'avait approuvé l'ordre à son expiration, le ", ""]),
    (&["the agent had not begun when the order expired at ", ""], &["l'agent n'avait pas commencé à l'expiration de l'ordre, le ", ""]),
    (&["the agent did not finish"], &["l'agent n'a pas terminé"]),
    (&["the agent did not end the stream"], &["l'agent n'a pas achevé le flux"]),
    (&["the agent was revoked: ", ""], &["l'agent a été révoqué\u{a0}: ", ""]),
    (
        &["the agent stopped working on it ", " times: its process ended or gave up, the log on its host says why"],
        &["l'agent a cessé d'y travailler ", " fois\u{a0}: son processus s'est terminé ou a renoncé, le journal de son hôte dit pourquoi"],
    ),
    (
        &["the agent stopped working on it, and the order has expired since: its process ended or gave up, the log on its host says why"],
        &[
            "l'agent a cessé d'y travailler et l'ordre a expiré depuis\u{a0}: son processus s'est terminé ou a renoncé, le journal de son hôte dit pourquoi",
        ],
    ),
    (
        &["the agent's upload was refused ", " times, the last time because of ", ""],
        &["l'envoi de l'agent a été refusé ", " fois, la dernière pour la raison suivante (en anglais)\u{a0}: ", ""],
    ),
];

/// The reason of a collection's end. What is in no sentence of the coordinator is an agent's own text, and is said to be English.
pub fn reason(l: Language, text: &str) -> String {
    match l {
        Language::En => text.to_owned(),
        Language::Fr => SENTENCES
            .iter()
            .find_map(|&(en, fr)| filled(text, en, fr))
            .unwrap_or_else(|| format!("{text} (texte du programme, en anglais)")),
    }
}

/// The data of a sentence between other words; `None` for another sentence.
fn filled(text: &str, en: Sentence, fr: Sentence) -> Option<String> {
    let mut words = en.iter().zip(fr);
    let (before, said) = words.next()?;
    let mut left = text.strip_prefix(*before)?;
    let mut filled = (*said).to_owned();
    for (after, said) in words {
        let (data, rest) = if after.is_empty() { (left, "") } else { left.split_once(*after)? };
        filled.push_str(data);
        filled.push_str(said);
        left = rest;
    }
    left.is_empty().then_some(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Data that no language is in.
    const DATA: &str = "spiffe://acme/responder/bob";

    #[test]
    fn no_fixed_word_of_a_reason_stays_english() {
        const ENGLISH: [&str; 14] = [
            "cancelled",
            " by ",
            "the ",
            "agent was",
            "agent had",
            "agent did",
            "key ",
            "who ",
            "order",
            "expired",
            "times",
            "refused",
            "stopped",
            "host",
        ];
        for (en, fr) in SENTENCES {
            assert_eq!(en.len(), fr.len(), "{en:?}");
            assert_eq!(en.last().map(|end| end.is_empty()), fr.last().map(|end| end.is_empty()), "{en:?}");
            let (english, french) = (en.join(DATA), reason(Language::Fr, &en.join(DATA)));
            assert_eq!(french, fr.join(DATA), "{english}");
            assert_eq!(reason(Language::En, &english), english);
            let left: Vec<_> = ENGLISH.into_iter().filter(|word| french.contains(word)).collect();
            assert!(left.is_empty(), "{left:?} in {french}");
        }
    }

    #[test]
    fn what_a_person_or_an_agent_wrote_stays() {
        let fr = |text| reason(Language::Fr, text);
        assert_eq!(
            fr("cancelled by spiffe://acme/responder/rita: by mistake: twice"),
            "annulée par spiffe://acme/responder/rita\u{a0}: by mistake: twice"
        );
        assert_eq!(fr("policy: not here"), "policy: not here (texte du programme, en anglais)");
        assert_eq!(fr("the agent did not finish it"), "the agent did not finish it (texte du programme, en anglais)");
    }
}
