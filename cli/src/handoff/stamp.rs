//! Trusted timestamps over a finished bag. The coordinator asks its authorities; that each answer is over this bag is checked
//! here. Under whose root it is believed is for the recipient to say, with a root from elsewhere.

use exhibit_evidence::bag::{Description, stamp as name};
use exhibit_evidence::layout::{AuthorityName, TimestampFile};
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::timestamp::{CRL_BYTES_MAX, Reply, Request};
use exhibit_evidence::{Digest, Timestamp};
use exhibit_proto::responder::v1 as pb;
use serde::Serialize;

use super::place::Place;
use crate::connection::Connection;
use crate::exit::Result;
use crate::output::Output;

/// What became of one authority's timestamp.
#[derive(Debug, Serialize)]
pub struct Stamp {
    /// The authority.
    pub authority: String,
    /// The token's time; absent when there is none.
    pub time: Option<Timestamp>,
    /// Why there is none, or what else was wrong.
    pub problem: Option<String>,
}

/// Has the bag stamped and keeps what was answered beside the tag manifest. An authority that cannot be had stops nothing:
/// the bag names it, so that its reply is missed, and the reason is said.
pub async fn ask(connection: &mut Connection, place: &Place, description: &Description, over: Digest, out: &Output) -> Result<Vec<Stamp>> {
    if description.authorities.is_empty() {
        return Ok(Vec::new());
    }
    let request = pb::StampExportRequest { case_id: description.case.to_string(), sha256: over.as_bytes().to_vec() };
    let mut answers = match connection.rpc().stamp_export(request).await {
        Ok(answer) => answer.into_inner().stamps,
        Err(status) => {
            out.note(&format!("the bag is not stamped: {}", escape_bounded(status.message(), 300)));
            Vec::new()
        }
    };
    let mut stamps = Vec::new();
    for authority in &description.authorities {
        let answer = answers.iter().position(|a| a.authority == *authority).map(|n| answers.swap_remove(n));
        let stamp = match answer {
            Some(answer) => keep(place, authority, over, answer)?,
            None => Stamp { authority: authority.clone(), time: None, problem: Some("the coordinator gave no answer of it".to_owned()) },
        };
        if let Some(problem) = &stamp.problem {
            let what = if stamp.time.is_some() { "stamped, but" } else { "gave no timestamp:" };
            out.note(&format!("authority '{authority}' {what} {problem}"));
        }
        stamps.push(stamp);
    }
    Ok(stamps)
}

/// Order of writes: request, lists, reply. The reply is what makes it a timestamp.
fn keep(place: &Place, authority: &str, over: Digest, answer: pb::ExportStamp) -> Result<Stamp> {
    let problem = (!answer.problem.is_empty()).then(|| escape_bounded(&answer.problem, 400));
    let stamp = |time, problem| Ok(Stamp { authority: authority.to_owned(), time, problem });
    let Ok(name_of) = authority.parse::<AuthorityName>() else { return stamp(None, Some("its name is none".to_owned())) };
    if answer.reply.is_empty() {
        return stamp(None, problem.or_else(|| Some("no reason was given".to_owned())));
    }
    let reply = match check(&answer, over) {
        Ok(reply) => reply,
        Err(e) => return stamp(None, Some(escape_bounded(&e, 400))),
    };
    place.write(&name(&TimestampFile::Request(name_of.clone())), &answer.request)?;
    let lists = answer.crls.iter().filter(|list| list.len() <= CRL_BYTES_MAX);
    for (n, list) in (0..TimestampFile::CRLS_MAX).zip(lists) {
        place.write(&name(&TimestampFile::Crl(name_of.clone(), n)), list)?;
    }
    place.write(&name(&TimestampFile::Reply(name_of)), &answer.reply)?;
    stamp(Some(reply.time()), problem)
}

/// Whatever the coordinator says: it must be an answer to this request, over this bag, with a signature that holds.
fn check(answer: &pb::ExportStamp, over: Digest) -> std::result::Result<Reply, String> {
    let checked = || {
        let (request, reply) = (Request::parse(&answer.request)?, Reply::parse(&answer.reply)?);
        reply.is_over(over)?;
        reply.answers(&request)?;
        reply.verify_signature()?;
        Ok(reply)
    };
    checked().map_err(|e: exhibit_evidence::timestamp::TimestampError| e.to_string())
}
