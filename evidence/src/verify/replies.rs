//! A reply and the revocation lists beside it where no record states their digests: each part is held by a signature of its own, or named.

use super::timestamps::code_of;
use super::{Code, Findings, Severity};
use crate::text::escape_bounded;
use crate::timestamp::{Anchors, Crl, Reply, Uncovered, Vouched};

/// Who is known that could have signed a certificate or a list.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    /// The reply that it lies in or beside, where there is one that can be read.
    pub reply: Option<&'a Reply>,
    /// The roots that were given.
    pub anchors: &'a Anchors,
    /// The token leads to one of them: whoever is not known then need not be looked for elsewhere.
    pub believed: bool,
}

/// Names what lies in a reply and is held by no signature, or by a wrong one.
pub(super) fn check(reply: &Reply, known: Known<'_>, object: &str, findings: &mut Findings) {
    for part in reply.uncovered() {
        uncovered(part, object, findings);
    }
    match reply.check_certificates(known.anchors) {
        Ok(parts) => {
            // Without a root nobody is known above the token, and the report says that it is not believed.
            for part in parts.iter().filter(|_| known.believed) {
                uncovered(part, object, findings);
            }
        }
        Err(e) => findings.add(code_of(&e), object, format!("'{object}': {}", escape_bounded(&e.to_string(), 400))),
    }
    for bytes in reply.crls() {
        if let Some(list) = list(bytes, object, findings) {
            vouched(&list, known, object, findings);
        }
    }
}

fn uncovered(part: &Uncovered, object: &str, findings: &mut Findings) {
    let severity = if part.usual { Severity::Note } else { Code::TimestampUncovered.severity() };
    let message = format!("'{object}' holds what is not covered by any signature: {}", part.what);
    findings.add_as(Code::TimestampUncovered, severity, object, message);
}

/// Reads a revocation list that lies in or beside a reply.
pub(super) fn list(bytes: &[u8], object: &str, findings: &mut Findings) -> Option<Crl> {
    match Crl::parse(bytes) {
        Ok(list) => Some(list),
        Err(e) => {
            findings.add(Code::TimestampCrl, object, format!("'{object}': {}", escape_bounded(&e.to_string(), 400)));
            None
        }
    }
}

/// Holds a list against the certificates of those who may have signed it.
pub(super) fn vouched(list: &Crl, known: Known<'_>, object: &str, findings: &mut Findings) {
    let why = match list.vouched(known.reply, known.anchors) {
        Vouched::Forged(why) => why,
        Vouched::Unknown(why) if known.believed => why,
        Vouched::Signed | Vouched::Unknown(_) => return,
    };
    findings.add(Code::TimestampCrl, object, format!("the revocation list of {} in '{object}' is not its issuer's: {why}", list.made()));
}
