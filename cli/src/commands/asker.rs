//! Whether whoever asked for something is still somebody. Said before anything is signed; the coordinator decides.

use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::key::KeyId;
use exhibit_evidence::layout::LogName;
use exhibit_evidence::record::{Record, Verified};
use exhibit_evidence::text::one_line;

use super::log;
use crate::connection::Connection;
use crate::exit::{Code, Result};
use crate::output::Output;

/// Characters of a reason that are shown.
const REASON_SHOWN_MAX: usize = 300;

/// What somebody hears who may not read the deployment's log.
const LIMITED: &str = "whether the key that asked for it was revoked stands in the deployment's log, which is not for roles that are \
                       limited to cases: the coordinator looks when you approve";

/// When a key was revoked and why, by the deployment's verified log; `None` when it was not. Whose roles are limited to cases may not
/// read that log, and is told so.
pub async fn revoked(connection: &mut Connection, key: KeyId, out: &Output) -> Result<Option<String>> {
    // Asked only where it will be answered: a refused call is told to the deployment's SIEM.
    let me = connection.whoami();
    if me.roles.iter().all(|role| me.limits.iter().any(|limit| limit.role == *role)) {
        out.note(LIMITED);
        return Ok(None);
    }
    let mut found = None;
    let mut each = |_: u64, verified: &Verified, _: &Envelope| -> Result<()> {
        if let Record::Revocation(p) = verified.record()
            && p.key == key
        {
            found = Some(format!("revoked at {} ({})", p.revoked_at, one_line(&p.reason, REASON_SHOWN_MAX)));
        }
        Ok(())
    };
    let read = log::read_all(connection, &LogName::Deployment, &mut each).await;
    match read {
        Ok(_) => Ok(found),
        Err(failure) if failure.code == Code::NotPermitted => {
            out.note(LIMITED);
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}
