//! What a copy does not hold, and what is said where it holds nothing: a signed statement must not pass for one about more than
//! there is.

use exhibit_evidence::verify::CollectionSummary;

use super::facts::Facts;
use super::items::{Item, items};
use super::unapproved::unapproved;
use super::words::{encrypted_to, field, host};
use crate::document::{Block, Language, Value};
use crate::units::count;

/// Collections of one row that are named; the report has all.
const NAMED_MAX: usize = 20;

/// True when no evidence is in the copy. Encrypted segments may hold some although no line of an item came.
pub fn is_empty(facts: &Facts) -> bool {
    let sealed_up = encrypted_to(facts).is_some() && facts.report.counts.segments > 0;
    !sealed_up && !items(facts).iter().any(Item::is_here)
}

/// Rows about what the copy does not hold; none for a copy of all that there is and will be.
pub fn rows(l: Language, facts: &Facts) -> Vec<(String, Value)> {
    let all = &facts.report.collections;
    let of = |is: &dyn Fn(&CollectionSummary) -> bool| all.iter().filter(|c| is(c)).map(shown).collect::<Vec<_>>();
    let rows = [
        (l.pick("NOT in this copy, left out by choice", "ABSENT de cette copie, exclu par choix"), of(&|c| c.left_out)),
        (l.pick("NOT in this copy, destroyed", "ABSENT de cette copie, détruit"), of(&|c| c.disposed.is_some() && !c.left_out)),
        (
            l.pick("Still open: what it brings later is NOT in this copy", "Encore en cours : la suite n'est PAS dans cette copie"),
            of(&|c| c.outcome.is_none() && unapproved(facts, c).is_none()),
        ),
    ];
    let rows = rows.into_iter().filter(|(_, names)| !names.is_empty()).map(|(name, names)| field(name, Value::text(listed(l, &names))));
    rows.chain(never_approved(l, facts)).collect()
}

/// The row about orders that nobody approved.
fn never_approved(l: Language, facts: &Facts) -> Option<(String, Value)> {
    let one = |c: &CollectionSummary| Some(format!("{}{}{}", shown(c), l.pick(": ", " : "), unapproved(facts, c)?.outlook(l)));
    let names: Vec<String> = facts.report.collections.iter().filter_map(one).collect();
    let name = l.pick("Never approved; no host could obey it", "Jamais approuvée ; aucun hôte ne pouvait l'exécuter");
    (!names.is_empty()).then(|| field(name, Value::text(listed(l, &names))))
}

fn shown(c: &CollectionSummary) -> String {
    format!("{} ({})", c.id, host(c))
}

/// `2 collections: a, b`.
fn listed(l: Language, names: &[String]) -> String {
    let all = match l {
        Language::En => count(names.len() as u64, "collection", "collections"),
        Language::Fr => count(names.len() as u64, "collecte", "collectes"),
    };
    let some = names.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    let more = if names.len() > NAMED_MAX { ", ..." } else { "" };
    format!("{all}{}{some}{more}", l.pick(": ", " : "))
}

/// What stands in the place of a statement about a copy without evidence, and of its signature.
pub fn nothing(l: Language) -> Vec<Block> {
    let (title, text) = match l {
        Language::En => (
            "NOT TO BE SIGNED: no evidence is in this copy",
            "This copy holds the log of the case and no evidence: none was ever received, or what was was destroyed or left out, as the report says. There is nothing in it of which this document could state anything, so that is not filled in, and there is no line for a signature.",
        ),
        Language::Fr => (
            "NE PAS SIGNER : aucune preuve ne se trouve dans cette copie",
            "Cette copie contient le journal de l'affaire et aucune preuve : aucune n'a jamais été reçue, ou ce qui l'a été a été détruit ou exclu, comme l'indique le rapport. Elle ne contient rien dont ce document pourrait énoncer quoi que ce soit ; cela n'est donc pas rempli, et aucune ligne n'est prévue pour une signature.",
        ),
    };
    vec![Block::Heading(1, title.to_owned()), Block::Paragraph(text.to_owned())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collections_are_counted_and_a_bounded_part_is_named() {
        let names: Vec<String> = (0..25).map(|n| format!("c{n}")).collect();
        assert_eq!(listed(Language::En, &names[..1]), "1 collection: c0");
        assert_eq!(listed(Language::Fr, &names[..2]), "2 collectes : c0, c1");
        let many = listed(Language::En, &names);
        assert!(many.starts_with("25 collections: c0, c1") && many.ends_with("c19, ..."), "{many}");
    }
}
