//! Orders that need a second person and that nobody approved: no host could obey them, so nothing of them runs or is missing. That is
//! another thing than a collection which is still open.

use exhibit_evidence::verify::CollectionSummary;

use super::facts::Facts;
use crate::document::Language;

/// What may still become of such an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unapproved {
    /// Somebody may approve it after this copy.
    SoFar,
    /// Nobody can approve it any more: this record of the log revoked the key that gave it.
    ForGood(u64),
}

/// Whether it is a collection of such an order. One that brought something all the same is not: the findings speak of that.
pub fn unapproved(facts: &Facts, c: &CollectionSummary) -> Option<Unapproved> {
    let came = facts.acquisitions_of(&c.id).next().is_some() || facts.receipts_of(&c.id).next().is_some();
    if c.outcome.is_some() || came || !facts.history.state().awaits_approval(&c.order) {
        return None;
    }
    Some(facts.giver_revoked(&c.order).map_or(Unapproved::SoFar, Unapproved::ForGood))
}

/// How it ended, in words.
pub const fn never(l: Language) -> &'static str {
    l.pick("never approved; no host could obey it", "jamais approuvée ; aucun hôte ne pouvait l'exécuter")
}

impl Unapproved {
    /// What may still come, in words.
    pub fn outlook(self, l: Language) -> String {
        match (self, l) {
            (Self::SoFar, Language::En) => "what it brings if it is approved later is NOT in this copy".to_owned(),
            (Self::SoFar, Language::Fr) => "ce qu'elle apporterait si elle était approuvée ensuite n'est PAS dans cette copie".to_owned(),
            (Self::ForGood(n), Language::En) => {
                format!("nothing will come: the key that gave the order was revoked (record {n}), so nobody can approve it any more")
            }
            (Self::ForGood(n), Language::Fr) => {
                format!("rien ne viendra : la clé qui a donné l'ordre a été révoquée (enregistrement {n}), et nul ne peut plus l'approuver")
            }
        }
    }

    /// Both.
    pub fn ended(self, l: Language) -> String {
        format!("{}{}{}", never(l), l.pick("; ", " ; "), self.outlook(l))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_that_nobody_can_approve_promises_nothing() {
        let (en, fr) = (Language::En, Language::Fr);
        assert_eq!(
            Unapproved::SoFar.ended(en),
            "never approved; no host could obey it; what it brings if it is approved later is NOT in this copy"
        );
        assert!(Unapproved::SoFar.ended(fr).contains("n'est PAS dans cette copie"));
        let [said, dit] = [en, fr].map(|l| Unapproved::ForGood(17).ended(l));
        assert!(said.contains("nothing will come") && said.contains("revoked (record 17)") && !said.contains("later"), "{said}");
        assert!(dit.contains("rien ne viendra") && dit.contains("révoquée (enregistrement 17)"), "{dit}");
    }
}
