//! The moments that records state, held against each other and against what trusted tokens say. A statement is the word of whoever
//! signed it; a token is not.

use super::Token;
use crate::record::{Clocks, Record};
use crate::time::Timestamp;
use crate::verify::{Code, Findings};

/// Clocks of machines that nobody neglects differ by less; seconds.
pub(in crate::verify) const SLACK_S: i64 = 15 * 60;

/// A moment that a record states.
#[derive(Debug)]
struct Stated {
    object: Box<str>,
    what: &'static str,
    at: Timestamp,
    /// Place of the record: a token over it is not earlier.
    n: u64,
    /// Records that were there when it was signed, if that is known: a token among them is not later.
    after: Option<u64>,
    /// What the record does is not allowed before.
    not_before: Option<Timestamp>,
}

/// The moments that all records of a log state; about a hundred bytes a record.
#[derive(Debug, Default)]
pub(super) struct Moments(Vec<Stated>);

impl Moments {
    /// Takes the record at place `n`; `nonce` is the size of the head that its order carries, `until` the end of the case's retention.
    pub fn take(&mut self, object: &str, n: u64, record: &Record, nonce: u64, until: Option<Timestamp>, findings: &mut Findings) {
        let Some((what, at, after)) = stated(record, n, nonce) else { return };
        match record {
            Record::Acquisition(p) => backwards(object, "acquisition", (corrected(&p.started), corrected(&p.ended)), findings),
            Record::Receipt(p) => backwards(object, "receipt", (Some(p.received_from), Some(p.received_to)), findings),
            _ => {}
        }
        let not_before = until.filter(|_| matches!(record, Record::Destruction(_)));
        self.0.push(Stated { object: object.into(), what, at, n, after, not_before });
    }

    /// Compares all that was taken with the tokens that are believed.
    pub fn compare(&self, tokens: &[Token], findings: &mut Findings) {
        let bounds = Bounds::of(tokens);
        for stated in &self.0 {
            let (what, at) = (stated.what, stated.at);
            let Some(token) = bounds.over(stated.n) else { continue };
            if at > token.latest.plus_s(SLACK_S) {
                let message = format!("{what} at {at} by its record, which '{}' saw at {} at the latest", token.object, token.latest);
                findings.add(Code::TimeExcluded, &stated.object, message);
            }
            if let Some(until) = stated.not_before.filter(|until| token.latest < *until) {
                let message = format!("'{}' saw it at {}, and the case is to be kept until {until}", token.object, token.latest);
                findings.add(Code::DisposalRetained, &stated.object, message);
            }
        }
        for stated in &self.0 {
            if let Some(token) = stated.after.and_then(|after| bounds.among(after))
                && stated.at.plus_s(SLACK_S) < token.earliest
            {
                let message =
                    format!("{} at {} by its record; '{}' of {} was there before", stated.what, stated.at, token.object, token.earliest);
                findings.add(Code::TimeExcluded, &stated.object, message);
            }
        }
    }
}

/// Tokens by what they bound, so that a long log with many tokens is compared in one go.
struct Bounds<'a> {
    /// By records covered; with each the earliest of all that cover as many or more.
    over: Vec<(u64, &'a Token)>,
    /// By the place of their own record; with each the latest of all up to it.
    among: Vec<(u64, &'a Token)>,
}

impl<'a> Bounds<'a> {
    fn of(tokens: &'a [Token]) -> Self {
        let mut over: Vec<(u64, &Token)> = tokens.iter().map(|t| (t.size, t)).collect();
        over.sort_by_key(|(size, _)| *size);
        let mut first: Option<&Token> = None;
        for (_, token) in over.iter_mut().rev() {
            first = Some(first.filter(|f| f.latest <= token.latest).unwrap_or(token));
            *token = first.unwrap_or(token);
        }
        let mut among: Vec<(u64, &Token)> = tokens.iter().filter_map(|t| Some((t.record?, t))).collect();
        among.sort_by_key(|(n, _)| *n);
        let mut last: Option<&Token> = None;
        for (_, token) in &mut among {
            last = Some(last.filter(|l| l.earliest >= token.earliest).unwrap_or(token));
            *token = last.unwrap_or(token);
        }
        Self { over, among }
    }

    /// The first token over a head that holds record `n`.
    fn over(&self, n: u64) -> Option<&'a Token> {
        self.over.get(self.over.partition_point(|(size, _)| *size <= n)).map(|(_, t)| *t)
    }

    /// The last token whose own record is among the first `n`.
    fn among(&self, n: u64) -> Option<&'a Token> {
        self.among.get(self.among.partition_point(|(place, _)| *place < n).checked_sub(1)?).map(|(_, t)| *t)
    }
}

/// A host's wall clock as the coordinator's would have shown it, where the difference was measured: a host's own may be years off.
pub(super) fn corrected(clocks: &Clocks) -> Option<Timestamp> {
    Some(clocks.wall.plus_s(clocks.offset_ns?.checked_div(1_000_000_000)?))
}

fn backwards(object: &str, what: &str, between: (Option<Timestamp>, Option<Timestamp>), findings: &mut Findings) {
    if let (Some(from), Some(to)) = between
        && to.plus_s(SLACK_S) < from
    {
        findings.add(Code::TimeBackwards, object, format!("the {what} says that it lasted from {from} to {to}"));
    }
}

/// When a record was signed, by its own words. `None` where these say nothing of it, or where nobody answers for the clock.
fn stated(record: &Record, n: u64, nonce: u64) -> Option<(&'static str, Timestamp, Option<u64>)> {
    let here = Some(n);
    Some(match record {
        Record::CaseOpened(p) => ("opened", p.opened_at, here),
        Record::CaseClosed(p) => ("closed", p.closed_at, here),
        Record::Order(p) => ("ordered", p.issued_at, Some(p.nonce.size)),
        // It may have waited on the host for its coordinator for days.
        Record::Acquisition(p) => ("taken", corrected(&p.ended)?, Some(nonce)),
        // What was received before a crash may be signed for long after it.
        Record::Receipt(p) => ("received", p.received_to, Some(nonce)),
        Record::Seal(p) => ("sealed", p.sealed_at, here),
        Record::Access(p) => ("read", p.at, here),
        Record::Hold(p) => ("held", p.placed_at, here),
        Record::HoldReleased(p) => ("released from its hold", p.released_at, here),
        Record::Retention(p) => ("to be kept longer", p.set_at, here),
        Record::Release(p) => ("released", p.released_at, here),
        Record::Transfer(p) => ("transferred", p.received_at, here),
        Record::Disposal(p) => ("asked to be destroyed", p.requested_at, here),
        Record::Approval(p) => ("approved", p.approved_at, here),
        Record::Destruction(p) => ("destroyed", p.destroyed_at, here),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_unix_s(1_800_000_000 + s)
    }

    fn token(size: u64, record: u64, s: i64) -> Token {
        let (earliest, latest) = (at(s), at(s));
        Token { size, record: Some(record), anchor: Digest::of(b"root"), earliest, latest, object: format!("token of {size}") }
    }

    fn said(stated: &[(u64, i64, Option<i64>)], tokens: &[Token]) -> Vec<(u64, Code)> {
        let claim = |(n, s, until): &(u64, i64, Option<i64>)| Stated {
            object: n.to_string().into(),
            what: "sealed",
            at: at(*s),
            n: *n,
            after: Some(*n),
            not_before: until.map(at),
        };
        let mut findings = Findings::default();
        Moments(stated.iter().map(claim).collect()).compare(tokens, &mut findings);
        findings.kept().iter().map(|f| (f.object.parse().expect("n"), f.code)).collect()
    }

    #[test]
    fn a_token_bounds_what_lies_before_and_after_it() {
        let tokens = [token(5, 5, 10_000), token(9, 9, 20_000)];
        let excluded = Code::TimeExcluded;
        // Within the tokens, and within the slack on both sides.
        assert_eq!(said(&[(0, 9_000, None), (4, 10_800, None), (7, 9_200, None), (12, 20_100, None), (12, 90_000, None)], &tokens), []);
        // Ahead of the token over it; of the first one, when several are.
        assert_eq!(said(&[(4, 10_901, None), (7, 20_901, None)], &tokens), [(4, excluded), (7, excluded)]);
        // Behind a token that was there before it.
        assert_eq!(said(&[(6, 9_099, None), (10, 19_099, None)], &tokens), [(6, excluded), (10, excluded)]);
        // A destruction that a token saw before the end of retention, whatever it says of itself.
        assert_eq!(said(&[(7, 20_000, Some(20_001))], &tokens), [(7, Code::DisposalRetained)]);
        assert_eq!(said(&[(7, 20_000, Some(20_000)), (7, 99_000, None)], &[]), []);
    }
}
