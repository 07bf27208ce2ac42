//! Whether this person may do something in a case, by what the coordinator said of the roles. Said before anything is signed; the
//! coordinator decides.

use exhibit_evidence::CaseId;
use exhibit_proto::responder::v1::WhoamiResponse;

use crate::connection::Connection;
use crate::exit::{Code, Failure};
use crate::output::Output;

/// Why this person may not do `what`, which needs `role` in a case; `None` for whoever may, as far as it is known here.
pub fn lacking(connection: &Connection, (what, role): (&str, &str), case: &CaseId) -> Option<Failure> {
    lacks(connection.whoami(), role, case).then(|| {
        let me = connection.name();
        let name = me.rsplit('/').next().unwrap_or(&me);
        Failure::new(Code::NotPermitted, format!("you may not {what}: it needs role {role} in case {case}"))
            .hint(format!("an admin gives it: exhibit person allow {name} --role {role} --case {case}"))
    })
}

/// Tells who only looks what stands in the way of a signature, and what helps.
pub fn note_obstacle(failure: &Failure, out: &Output) {
    out.note(&format!("nothing is signed, and cannot be now: {}", failure.message));
    if let Some(hint) = &failure.hint {
        out.note(&format!("  try: {hint}"));
    }
}

/// True when the role is not there, or is limited to other cases. A limit to more cases than the coordinator lists may hold this one.
fn lacks(me: &WhoamiResponse, role: &str, case: &CaseId) -> bool {
    if !me.roles.iter().any(|have| have == role) {
        return true;
    }
    let Some(limit) = me.limits.iter().find(|limit| limit.role == role) else { return false };
    let all_listed = limit.cases.len() as u64 >= limit.cases_total;
    all_listed && limit.cases.iter().all(|here| here != case.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use exhibit_proto::responder::v1::RoleLimit;

    #[test]
    fn a_role_counts_in_the_cases_that_it_is_limited_to() {
        let [here, there] = [1, 2].map(|n| CaseId::new(n, [1; 10]));
        let me = |roles: &[&str], limits: Vec<RoleLimit>| WhoamiResponse {
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            limits,
            ..WhoamiResponse::default()
        };
        let limit = |total: u64| RoleLimit { role: "approver".to_owned(), cases: vec![here.to_string()], cases_total: total };
        assert!(lacks(&me(&["auditor"], Vec::new()), "approver", &here));
        assert!(!lacks(&me(&["approver"], Vec::new()), "approver", &here));
        let limited = me(&["auditor", "approver"], vec![limit(1)]);
        assert!(!lacks(&limited, "approver", &here) && lacks(&limited, "approver", &there) && !lacks(&limited, "auditor", &there));
        assert!(!lacks(&me(&["approver"], vec![limit(2)]), "approver", &there), "not all of its cases are listed");
    }
}
