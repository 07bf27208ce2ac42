//! Who can give the evidence away. Custody is what the log says; whoever makes a copy does not have it for that.

use super::facts::Facts;
use super::words::party;
use crate::document::Language;

/// Who has custody, seen from the one who made the copy.
#[derive(Debug, PartialEq, Eq)]
enum Custody<'a> {
    /// The one who made the copy.
    Exporter,
    /// Another one, who received the case.
    Other(&'a str),
    /// The case was never handed over: its custodians act for the store, and this is none of them.
    Store,
}

fn custody<'a>(holder: Option<&'a str>, exporter: &str, is_custodian: bool) -> Custody<'a> {
    match holder {
        Some(holder) if holder == exporter => Custody::Exporter,
        Some(holder) => Custody::Other(holder),
        None if is_custodian => Custody::Exporter,
        None => Custody::Store,
    }
}

/// Who releases the copy; where the one who made it does not have custody, that is said instead.
pub fn released_by(l: Language, facts: &Facts) -> String {
    let exporter = facts.description.exported_by.as_str();
    let holder = facts.history.state().custodian();
    let said = shown(l, &custody(holder, exporter, facts.custodians.contains(exporter)), exporter);
    match holder.and_then(|holder| facts.nobody_now(holder)) {
        Some(at) => format!("{said}{}", without_key(l, at.n)),
        None => said,
    }
}

/// Who has custody cannot hand over as things stand.
fn without_key(l: Language, n: u64) -> String {
    match l {
        Language::En => format!(", of whom every key in this log was revoked (last by record {n})"),
        Language::Fr => format!(", dont toutes les clés de ce journal ont été révoquées (la dernière par l'enregistrement {n})"),
    }
}

fn shown(l: Language, custody: &Custody<'_>, exporter: &str) -> String {
    let exporter = party(exporter);
    match (l, custody) {
        (_, Custody::Exporter) => exporter,
        (Language::En, Custody::Other(holder)) => format!("Copy made by {exporter}; custody is with {}", party(holder)),
        (Language::Fr, Custody::Other(holder)) => format!("Copie établie par {exporter} ; la garde revient à {}", party(holder)),
        (Language::En, Custody::Store) => {
            format!("Copy made by {exporter}; the case was never handed over: custody is with the store, for which its custodians act")
        }
        (Language::Fr, Custody::Store) => format!(
            "Copie établie par {exporter} ; l'affaire n'a jamais été remise : la garde est celle du dépôt, pour lequel agissent ses gardiens"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_no_custody_releases_nothing() {
        assert_eq!(custody(Some("carl"), "carl", false), Custody::Exporter);
        assert_eq!(custody(Some("carl"), "rita", false), Custody::Other("carl"));
        assert_eq!(custody(Some("carl"), "cleo", true), Custody::Other("carl"), "cleo gave it away");
        assert_eq!(custody(None, "cleo", true), Custody::Exporter);
        assert_eq!(custody(None, "rita", false), Custody::Store);
    }

    #[test]
    fn the_row_names_who_has_custody() {
        assert_eq!(shown(Language::En, &Custody::Exporter, "carl"), "carl");
        assert_eq!(shown(Language::En, &Custody::Other("carl"), "rita"), "Copy made by rita; custody is with carl");
        assert_eq!(shown(Language::Fr, &Custody::Other("carl"), "rita"), "Copie établie par rita ; la garde revient à carl");
        assert_eq!(without_key(Language::En, 9), ", of whom every key in this log was revoked (last by record 9)");
        assert_eq!(
            without_key(Language::Fr, 9),
            ", dont toutes les clés de ce journal ont été révoquées (la dernière par l'enregistrement 9)"
        );
        assert!(shown(Language::En, &Custody::Store, "rita").contains("custody is with the store"));
        assert!(shown(Language::Fr, &Custody::Store, "rita").contains("la garde est celle du dépôt"));
    }
}
