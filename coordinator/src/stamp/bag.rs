//! Stamping what is handed over. The tokens go into the bag and are kept nowhere else.

use bytes::Bytes;
use exhibit_evidence::Digest;
use exhibit_evidence::layout::AuthorityName;
use exhibit_evidence::timestamp::Request;

use super::authority::{Authority, NoToken};
use crate::clock;

/// What one authority made of a bag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BagStamp {
    /// Its name.
    pub authority: AuthorityName,
    /// What it was asked.
    pub request: Vec<u8>,
    /// What it answered, verified; empty when there is no token.
    pub reply: Bytes,
    /// Its revocation lists of that moment.
    pub crls: Vec<Bytes>,
    /// Why there is no token, or why a list could not be had.
    pub problem: Option<String>,
}

/// Asks every authority at once, and waits for the slowest: at most as long as one is given. In the order of their names.
pub async fn stamp_bag(authorities: &[Authority], over: Digest) -> Vec<BagStamp> {
    let mut stamps = futures::future::join_all(authorities.iter().map(|authority| one(authority, over))).await;
    stamps.sort_by(|a, b| a.authority.cmp(&b.authority));
    stamps
}

async fn one(authority: &Authority, over: Digest) -> BagStamp {
    let request = Request::new(over, u64::from_be_bytes(clock::random()));
    let mut stamp =
        BagStamp { authority: authority.name().clone(), request: request.to_der(), reply: Bytes::new(), crls: Vec::new(), problem: None };
    match token(authority, &request, &mut stamp).await {
        Ok(reply) => stamp.reply = reply,
        Err(e) => stamp.problem = Some(e.message),
    }
    stamp
}

/// The answer, verified with the revocation lists of today.
async fn token(authority: &Authority, request: &Request, stamp: &mut BagStamp) -> Result<Bytes, NoToken> {
    let answer = authority.ask(request).await?;
    let fetched = authority.revocations().await;
    let answer = authority.verify(request, answer.bytes, &fetched.lists)?;
    let usable = authority.usable(&answer.reply, fetched.lists);
    (stamp.crls, stamp.problem) = (usable.lists, fetched.problem.or(usable.problem));
    Ok(answer.bytes)
}
