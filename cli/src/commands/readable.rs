//! Whether the given identities open what a case holds. It is found out before items or a case are asked for: every access is recorded,
//! also one that brings nothing.

use std::collections::{BTreeMap, BTreeSet};

use exhibit_evidence::age::Identity;
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::{CaseId, CollectionId};
use exhibit_proto::responder::v1 as pb;

use super::cases;
use crate::connection::{Connection, parse_id};
use crate::exit::{Code, Failure, Result};

/// Most collections that one question may name.
const COLLECTIONS_MAX: usize = 1_000;

/// The cases that collections belong to.
///
/// # Errors
/// What the coordinator says.
pub async fn cases_of(connection: &mut Connection, collections: &BTreeSet<CollectionId>) -> Result<BTreeMap<CollectionId, String>> {
    let names: Vec<String> = collections.iter().map(ToString::to_string).collect();
    let mut cases = BTreeMap::new();
    for batch in names.chunks(COLLECTIONS_MAX) {
        let request = pb::ListCollectionsRequest { collections: batch.to_vec(), ..Default::default() };
        let mut stream = connection.rpc().list_collections(request).await?.into_inner();
        while let Some(found) = stream.message().await? {
            cases.insert(parse_id(&found.collection)?, found.case_id);
        }
    }
    Ok(cases)
}

/// Insists that contents of the case, and of the cases of the collections, can be read: they are not encrypted, or one of the
/// identities opens them. The coordinator says to whom they are encrypted; where that is not so, what arrives does not open.
///
/// # Errors
/// [`Code::Input`] where no identity opens them.
pub async fn must_open(
    connection: &mut Connection,
    case: Option<&CaseId>,
    collections: &BTreeSet<CollectionId>,
    identities: &[Identity],
) -> Result<()> {
    let mut all: BTreeSet<String> = cases_of(connection, collections).await?.into_values().collect();
    all.extend(case.map(ToString::to_string));
    for name in all {
        let case: CaseId = parse_id(&name)?;
        let found = cases::get(connection, &case).await?;
        opens(&case, &found.encrypt_to, identities)?;
    }
    Ok(())
}

/// Insists that one of the identities is that of one of the recipients, where there are any.
///
/// # Errors
/// [`Code::Input`] where none is.
pub fn opens(case: &CaseId, encrypt_to: &[String], identities: &[Identity]) -> Result<()> {
    let own: Vec<String> = identities.iter().map(|identity| identity.recipient().to_string()).collect();
    if encrypt_to.is_empty() || own.iter().any(|own| encrypt_to.contains(own)) {
        return Ok(());
    }
    let to = escape_bounded(&encrypt_to.join(", "), 1_200);
    let given = if own.is_empty() { String::new() } else { format!("; the given identity is that of {}", own.join(", ")) };
    Err(Failure::new(Code::Input, format!("the contents of case {case} are encrypted to {to}{given}"))
        .hint("give --identity FILE with the age identity of a recipient"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_identity_opens_is_refused_with_the_remedy() {
        let own: Identity = "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0".parse().expect("an identity");
        let (case, to) = (CaseId::new(1, [1; 10]), vec!["age1other".to_owned()]);
        let one = std::slice::from_ref(&own);
        for (given, says) in [(&[][..], "encrypted to age1other"), (one, "the given identity is that of age1")] {
            let refused = opens(&case, &to, given).expect_err("opens nothing");
            assert!(refused.code == Code::Input && refused.message.contains(says), "{}", refused.message);
            assert!(refused.hint.is_some_and(|hint| hint.contains("--identity")));
        }
        let to = [to, vec![own.recipient().to_string()]].concat();
        assert!(opens(&case, &to, one).is_ok() && opens(&case, &[], &[]).is_ok());
    }
}
