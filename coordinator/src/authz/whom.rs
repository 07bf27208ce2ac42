//! Whom to ask: a refusal names people who could do it. In a case those count whose roles are limited to it, too, and nobody whose
//! roles are limited to others.

use std::collections::BTreeSet;

use exhibit_evidence::id::CaseId;
use exhibit_evidence::record::{KeyRing, Rights, Role};
use exhibit_evidence::text::escape_bounded;

use super::{Allowed, Caller, Identify, TABLE};

/// People that are named to whoever lacks a role.
const NAMED_MAX: usize = 3;

/// Of a caller who is limited to several cases: cases of which people are named.
const CASES_MAX: usize = 3;

/// There is no case yet, so no role that is limited to cases helps.
const OPENS_A_CASE: &str = "/exhibit.responder.v1.ResponderService/OpenCase";

/// Somebody who may be able to help: the name, and what all keys of it may do.
pub type Helper = (String, Rights);

/// The people with one of these roles anywhere; in the order of the names, each once.
#[must_use]
pub fn people_with(ring: &KeyRing, roles: &[Role]) -> Vec<Helper> {
    let names: BTreeSet<&str> = roles.iter().flat_map(|role| ring.with_role(*role)).map(|(_, name)| name).collect();
    names.into_iter().map(|name| (name.to_owned(), ring.rights_of(name))).collect()
}

fn any_of(have: &BTreeSet<Role>, needed: &[Role]) -> bool {
    needed.iter().any(|role| have.contains(role))
}

/// The first of those who can, and how many more.
fn named(people: &[Helper], can: impl Fn(&Rights) -> bool) -> String {
    let all: Vec<&str> = people.iter().filter(|(_, rights)| can(rights)).map(|(name, _)| name.as_str()).collect();
    let first: Vec<String> = all.iter().take(NAMED_MAX).map(|name| escape_bounded(name, 200)).collect();
    let more = all.len().saturating_sub(first.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    if first.is_empty() { "nobody".to_owned() } else { format!("{}{more}", first.join(", ")) }
}

/// Who of these people has one of the roles in a case, as a clause that begins with its separator. Told to whoever has some role
/// there, or may read the deployment's log; to others it would say who works on a case that is not theirs.
#[must_use]
pub fn in_case(case: &CaseId, needed: &[Role], asking: &Rights, people: &[Helper]) -> String {
    if asking.unlimited().is_empty() && asking.in_case(case).is_empty() {
        return String::new();
    }
    format!("; who has it there: {}", named(people, |rights| any_of(&rights.in_case(case), needed)))
}

/// Whom to ask, for a person who has some role and not the one that a method needs: those who have it in every case, told to people
/// who may read the deployment's log; those who have it in one of the cases to which the caller is limited; and the admins, whose
/// names stand in every case. Which case the call means is not known here.
pub(super) fn to_ask(identify: &dyn Identify, method: &str, caller: &Caller) -> String {
    let (Some((.., Allowed::PersonAs(needed))), Caller::Person { rights, .. }) = (TABLE.iter().find(|(path, ..)| *path == method), caller)
    else {
        return String::new();
    };
    if rights.roles().is_empty() {
        return String::new();
    }
    let have = have(method, needed, rights, &identify.people_with(needed));
    let admins = named(&identify.people_with(&[Role::Admin]), |rights| rights.unlimited().contains(&Role::Admin));
    format!("{have}; an admin gives it with 'exhibit person allow': {admins}")
}

/// Why the call of a person is denied whose key was revoked. Why it was is not told: whoever calls may have stolen it.
pub(super) fn revoked(identify: &dyn Identify, caller: &Caller) -> Option<String> {
    let Caller::Person { key: Some(key), rights, .. } = caller else { return None };
    let how = identify.revocation(*key).filter(|_| rights.roles().is_empty())?;
    Some(format!(
        "this certificate has no key that is enrolled and not revoked: its key was revoked {how}; a new one is made with 'exhibit person \
         request', for an admin to enrol"
    ))
}

fn have(method: &str, needed: &[Role], asking: &Rights, people: &[Helper]) -> String {
    let of_cases = method != OPENS_A_CASE && needed.iter().any(|role| *role != Role::Admin);
    if !asking.unlimited().is_empty() {
        let more = if of_cases { " (in one case: exhibit person list)" } else { "" };
        return format!("; who has it in every case: {}{more}", named(people, |rights| any_of(&rights.unlimited(), needed)));
    }
    if !of_cases {
        return String::new();
    }
    let own: BTreeSet<CaseId> = asking.roles().into_iter().filter_map(|role| asking.cases_of(role)).flatten().collect();
    let in_one = |case: &CaseId| format!("; who has it in case {case}: {}", named(people, |rights| any_of(&rights.in_case(case), needed)));
    own.iter().take(CASES_MAX).map(in_one).collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use exhibit_evidence::record::Role::{Admin, Approver, Auditor, Custodian, Responder};

    fn cases() -> [CaseId; 2] {
        [1, 2].map(|n| CaseId::new(n, [1; 10]))
    }

    fn helpers() -> Vec<Helper> {
        let [here, there] = cases();
        let one = |name: &str, rights| (format!("spiffe://d/responder/{name}"), rights);
        vec![
            one("ada", Rights::everywhere([Custodian])),
            one("dan", Rights::limited([Custodian], [here])),
            one("eve", Rights::limited([Custodian], [there])),
        ]
    }

    #[test]
    fn whoever_could_act_in_the_case_is_named_and_nobody_else() {
        let [here, there] = cases();
        let asking = Rights::limited([Auditor], [here.clone()]);
        let said = in_case(&here, &[Responder, Custodian], &asking, &helpers());
        assert_eq!(said, "; who has it there: spiffe://d/responder/ada, spiffe://d/responder/dan");
        assert_eq!(in_case(&there, &[Custodian], &asking, &helpers()), "", "who works on another case is not told");
        assert_eq!(in_case(&here, &[Approver], &asking, &helpers()), "; who has it there: nobody");
        let everywhere = in_case(&there, &[Custodian], &Rights::everywhere([Auditor]), &helpers());
        assert!(everywhere.contains("/ada") && everywhere.ends_with("/eve") && !everywhere.contains("/dan"), "{everywhere}");
    }

    #[test]
    fn where_the_case_is_not_known_it_is_one_of_the_callers() {
        let [here, _] = cases();
        let read = "/exhibit.responder.v1.ResponderService/ReadItems";
        let limited = Rights::limited([Auditor], [here.clone()]);
        let said = have(read, &[Custodian], &limited, &helpers());
        assert_eq!(said, format!("; who has it in case {here}: spiffe://d/responder/ada, spiffe://d/responder/dan"));
        assert_eq!(have(OPENS_A_CASE, &[Responder], &limited, &helpers()), "");
        let said = have(read, &[Custodian], &Rights::everywhere([Auditor]), &helpers());
        assert_eq!(said, "; who has it in every case: spiffe://d/responder/ada (in one case: exhibit person list)");
        let said = have("/exhibit.responder.v1.ResponderService/RevokePerson", &[Admin], &Rights::everywhere([Auditor]), &helpers());
        assert_eq!(said, "; who has it in every case: nobody");
    }

    #[test]
    fn a_long_list_is_cut() {
        let many: Vec<Helper> = (0..5).map(|n| (format!("n{n}"), Rights::everywhere([Custodian]))).collect();
        assert_eq!(named(&many, |_| true), "n0, n1, n2 and 2 more");
    }
}
