//! Who may call what: one table, everything else denied, asked in one place (a layer in front of every service).
//!
//! The table is compared with the services' descriptors by a test: a method without a line, or a line without a method,
//! fails it.

mod whom;

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use exhibit_evidence::id::{AgentId, CaseId};
use exhibit_evidence::key::KeyId;
use exhibit_evidence::record::{Rights, Role};
use exhibit_evidence::text::escape_bounded;
use futures::future::BoxFuture;
use tonic::codegen::http::{Extensions, Request, Response};
use tower::{Layer, Service};

pub use whom::{Helper, in_case as who_has_it, people_with};

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// Connections without a client certificate, which reach nothing else.
    Enrolling,
    /// Peers whose certificate names an agent that is not revoked.
    Agent,
    /// Peers whose certificate names a person with any role.
    Person,
    /// Peers whose certificate names a person with one of these roles.
    PersonAs(&'static [Role]),
    /// Every peer with a valid certificate.
    Certified,
}

use Allowed::{Agent, Certified, Enrolling, Person, PersonAs};
use Role::{Admin, Approver, Auditor, Custodian, Responder};

/// Who may see what there is and what happened, without content.
const READERS: Allowed = PersonAs(&[Responder, Custodian, Auditor, Approver]);
/// The same, and admins for the deployment's own log: see [`decide_in_case`].
const LOG_READERS: Allowed = PersonAs(&[Responder, Custodian, Auditor, Approver, Admin]);

/// The table: method path, what it does in words ("may not ..."), and who may call it.
pub const TABLE: &[(&str, &str, Allowed)] = &[
    ("/exhibit.agent.v1.EnrollmentService/Enroll", "enrol an agent", Enrolling),
    ("/exhibit.agent.v1.AgentService/Session", "open an agent's session", Agent),
    ("/exhibit.agent.v1.AgentService/Upload", "upload evidence", Agent),
    ("/exhibit.agent.v1.AgentService/TakeUp", "take up an upload", Agent),
    ("/exhibit.agent.v1.AgentService/Renew", "renew an agent's certificate", Agent),
    ("/exhibit.responder.v1.ResponderService/Whoami", "ask who it is", Person),
    ("/exhibit.responder.v1.ResponderService/OpenCase", "open a case", PersonAs(&[Responder])),
    ("/exhibit.responder.v1.ResponderService/CloseCase", "close a case", PersonAs(&[Responder])),
    ("/exhibit.responder.v1.ResponderService/ListCases", "list cases", READERS),
    ("/exhibit.responder.v1.ResponderService/GetCase", "see a case", READERS),
    ("/exhibit.responder.v1.ResponderService/CreateToken", "make an enrolment token", PersonAs(&[Admin])),
    ("/exhibit.responder.v1.ResponderService/ListAgents", "list agents", PersonAs(&[Admin, Responder, Auditor])),
    ("/exhibit.responder.v1.ResponderService/SetAgentLabels", "label an agent", PersonAs(&[Admin])),
    ("/exhibit.responder.v1.ResponderService/RevokeAgent", "revoke an agent", PersonAs(&[Admin])),
    ("/exhibit.responder.v1.ResponderService/EnrollPerson", "enrol a person or give roles", PersonAs(&[Admin])),
    ("/exhibit.responder.v1.ResponderService/RevokePerson", "revoke a person's key", PersonAs(&[Admin])),
    (
        "/exhibit.responder.v1.ResponderService/SubmitRecord",
        "sign about the custody of a case",
        PersonAs(&[Responder, Custodian, Approver]),
    ),
    ("/exhibit.responder.v1.ResponderService/SubmitOrder", "order a collection", PersonAs(&[Responder])),
    ("/exhibit.responder.v1.ResponderService/CancelCollections", "cancel a collection", PersonAs(&[Responder])),
    ("/exhibit.responder.v1.ResponderService/ListCollections", "list collections", READERS),
    ("/exhibit.responder.v1.ResponderService/WatchCollections", "follow collections", READERS),
    ("/exhibit.responder.v1.ResponderService/ListItems", "list items", PersonAs(&[Responder, Custodian])),
    ("/exhibit.responder.v1.ResponderService/ReadItems", "read evidence", PersonAs(&[Responder, Custodian])),
    ("/exhibit.responder.v1.ResponderService/ExportCase", "export a case", PersonAs(&[Responder, Custodian])),
    ("/exhibit.responder.v1.ResponderService/StampExport", "have an export stamped", PersonAs(&[Responder, Custodian])),
    ("/exhibit.log.v1.LogService/ListRecords", "read a log", LOG_READERS),
    ("/exhibit.log.v1.LogService/GetCheckpoint", "see the head of a log", LOG_READERS),
    ("/exhibit.log.v1.LogService/ProveRecord", "have a record proved", LOG_READERS),
    ("/exhibit.log.v1.LogService/ProveConsistency", "have a head proved", LOG_READERS),
    ("/exhibit.log.v1.LogService/AddCosignatures", "add cosignatures to a log", READERS),
    ("/grpc.health.v1.Health/Check", "ask for health", Certified),
    ("/grpc.health.v1.Health/Watch", "follow health", Certified),
];

/// An authenticated caller. The layer puts it into the request's extensions; services read it there and nowhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Somebody without a certificate, on a connection that may only enrol.
    Enrolling,
    /// An agent.
    Agent(AgentId),
    /// A person: name (SPIFFE-style URI), key, and rights by the deployment's enrolments.
    Person {
        /// SPIFFE-style URI.
        name: String,
        /// The evidence key that the person's certificate names; none where it names none, which has no rights.
        key: Option<KeyId>,
        /// Rights of that key, unless it is revoked. Other keys of the same name add nothing.
        rights: Rights,
    },
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Enrolling => f.write_str("a peer without a certificate"),
            Self::Agent(agent) => write!(f, "agent {agent}"),
            Self::Person { name, .. } => f.write_str(&escape_bounded(name, 200)),
        }
    }
}

/// Why a call was denied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{caller} may not {action}: {cause}")]
pub struct Denied {
    /// Who called.
    pub caller: String,
    /// What, as the table has it.
    pub action: &'static str,
    /// The method that does it.
    pub method: String,
    /// The rule.
    pub cause: String,
}

fn denied(method: &str, caller: &Caller, cause: String) -> Denied {
    let action = TABLE.iter().find(|(path, ..)| *path == method).map_or("do what it asks for", |(_, action, _)| action);
    Denied { caller: caller.to_string(), action, method: escape_bounded(method, 120), cause }
}

/// Looks a call up in the table.
///
/// # Errors
/// [`Denied`] with the rule that was not met.
pub fn decide(method: &str, caller: &Caller) -> Result<(), Denied> {
    let deny = |cause: String| Err(denied(method, caller, cause));
    let Some((.., allowed)) = TABLE.iter().find(|(path, ..)| *path == method) else {
        return deny("it is not in the authorization table".to_owned());
    };
    match (allowed, caller) {
        (Enrolling, Caller::Enrolling) | (Agent, Caller::Agent(_)) | (Certified, Caller::Agent(_) | Caller::Person { .. }) => Ok(()),
        (Person | PersonAs(_), Caller::Person { rights, .. }) => {
            let roles = rights.roles();
            match allowed {
                _ if roles.is_empty() => {
                    deny("this certificate has no key that is enrolled and not revoked; ask an admin to enrol it".to_owned())
                }
                PersonAs(any) if !any.iter().any(|r| roles.contains(r)) => {
                    deny(format!("it needs role {}, this key has {}", list(any.iter(), " or "), list(roles.iter(), " and ")))
                }
                _ => Ok(()),
            }
        }
        (Enrolling, _) => deny("it is served only on connections for enrolment (ALPN exhibit-enroll/1)".to_owned()),
        (_, Caller::Enrolling) => deny("a connection without a client certificate may only enrol".to_owned()),
        (Agent, _) => deny("it is for agents".to_owned()),
        (Person | PersonAs(_), _) => deny("it is for people".to_owned()),
    }
}

/// [`decide`] for one case: the role must hold there. That of an admin holds in none, for it is for people and agents.
/// Every service that shows or does something in a case asks this, with the method that it serves.
///
/// # Errors
/// [`Denied`]; it does not say whether there is such a case.
pub fn decide_in_case(method: &str, caller: &Caller, case: &CaseId) -> Result<(), Denied> {
    decide_in_case_among(method, caller, case, &|_| Vec::new())
}

/// [`decide_in_case`]; a refusal names those of `people` (as [`people_with`] gives them) who could act in the case, where the caller
/// may know of them.
///
/// # Errors
/// As [`decide_in_case`].
pub fn decide_in_case_among(method: &str, caller: &Caller, case: &CaseId, people: &dyn Fn(&[Role]) -> Vec<Helper>) -> Result<(), Denied> {
    decide(method, caller)?;
    let deny = |cause: String| Err(denied(method, caller, cause));
    let Caller::Person { name, rights, .. } = caller else { return deny("cases are for people".to_owned()) };
    let any = match TABLE.iter().find(|(path, ..)| *path == method) {
        Some((.., PersonAs(any))) => *any,
        _ => return deny("its line in the authorization table names no roles".to_owned()),
    };
    let roles = rights.in_case(case);
    if any.iter().any(|r| *r != Admin && roles.contains(r)) {
        return Ok(());
    }
    let needed: Vec<Role> = any.iter().copied().filter(|r| *r != Admin).collect();
    let people = people(&needed);
    let who = if people.is_empty() { String::new() } else { who_has_it(case, &needed, rights, &people) };
    let how = how_to_allow(name, &needed, case);
    deny(format!("it needs role {} in case {case}{who}; an admin gives it: {how}", list(needed.iter(), " or ")))
}

/// The command with which an admin lets a person do what needs one of these roles in a case; which of several stays to be chosen.
#[must_use]
pub fn how_to_allow(name: &str, any: &[Role], case: &CaseId) -> String {
    format!("{} --case {case}", how_to_allow_everywhere(name, any))
}

/// [`how_to_allow`] for what belongs to no case that there is: without a limit to cases.
#[must_use]
pub fn how_to_allow_everywhere(name: &str, any: &[Role]) -> String {
    let role = if let [one] = any { list(std::iter::once(one), "") } else { "ROLE".to_owned() };
    // It is typed into a shell, so what is no person's name does not stand in it.
    let short = name.rsplit('/').next().and_then(|short| short.parse::<exhibit_certs::PersonName>().ok());
    let short = short.map_or_else(|| "NAME".to_owned(), |short| short.to_string());
    format!("exhibit person allow {short} --role {role}")
}

/// [`decide`] for what belongs to no case: a role that is limited to cases does not count.
///
/// # Errors
/// [`Denied`]; who has the role in some cases hears that this is the limit, and not that nobody knows them.
pub fn decide_outside_cases(method: &str, caller: &Caller) -> Result<(), Denied> {
    decide(method, caller)?;
    let Caller::Person { name, key, rights } = caller else { return Ok(()) };
    let unlimited = Caller::Person { name: name.clone(), key: *key, rights: Rights::everywhere(rights.unlimited()) };
    decide(method, &unlimited).map_err(|other| match TABLE.iter().find(|(path, ..)| *path == method) {
        Some((.., PersonAs(any))) => {
            let (needed, how) = (list(any.iter(), " or "), how_to_allow_everywhere(name, any));
            let needs = format!("it needs role {needed} without a limit to cases, this key has it in some cases only");
            denied(method, caller, format!("{needs}; an admin gives it: {how}"))
        }
        _ => other,
    })
}

fn list<'a>(roles: impl Iterator<Item = &'a Role>, between: &str) -> String {
    roles.map(|r| format!("{r:?}").to_lowercase()).collect::<Vec<_>>().join(between)
}

/// Finds out who the caller is from what the transport knows of the connection.
pub trait Identify: Send + Sync + 'static {
    /// The caller.
    ///
    /// # Errors
    /// A status when the peer is nobody that this deployment knows (any more).
    fn identify(&self, connection: &Extensions) -> Result<Caller, tonic::Status>;

    /// The people with one of these roles anywhere; in the order of the names, each once.
    fn people_with(&self, roles: &[Role]) -> Vec<Helper>;

    /// When a key was revoked and which record says so, in words; `None` for one that was not.
    fn revocation(&self, key: KeyId) -> Option<String>;

    /// Brings what [`Identify::identify`] knows up to date, before each call. When it cannot be, callers are judged by what was
    /// known last: without the catalog no call gets anywhere.
    fn freshen(&self) -> BoxFuture<'_, ()>;

    /// Told about every call that ends at once with PERMISSION_DENIED or UNAUTHENTICATED, by the table or by a service that asked
    /// [`decide_in_case`]. It must not block.
    fn refused(&self, caller: Option<&Caller>, connection: &Extensions, method: &str, cause: &str);
}

/// The layer that asks the table.
#[derive(Clone)]
pub struct AuthzLayer {
    identify: Arc<dyn Identify>,
}

impl fmt::Debug for AuthzLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthzLayer")
    }
}

impl AuthzLayer {
    /// A layer over this source of identities.
    #[must_use]
    pub fn new(identify: Arc<dyn Identify>) -> Self {
        Self { identify }
    }
}

impl<S> Layer<S> for AuthzLayer {
    type Service = Authz<S>;
    fn layer(&self, inner: S) -> Authz<S> {
        Authz { inner, identify: Arc::clone(&self.identify) }
    }
}

/// See [`AuthzLayer`].
#[derive(Clone)]
pub struct Authz<S> {
    inner: S,
    identify: Arc<dyn Identify>,
}

impl<S> fmt::Debug for Authz<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authz")
    }
}

impl<S, B, R> Service<Request<B>> for Authz<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    B: Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: Default + Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<R>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // The one that said that it is ready is called, and another stays here.
        let other = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, other);
        let identify = Arc::clone(&self.identify);
        Box::pin(async move {
            identify.freshen().await;
            let (connection, method) = (request.extensions().clone(), request.uri().path().to_owned());
            match admit(&*identify, &request) {
                Ok(caller) => {
                    request.extensions_mut().insert(caller.clone());
                    let response = inner.call(request).await?;
                    // What a service refuses before it answers stands in the headers.
                    if let Some(status) = tonic::Status::from_header_map(response.headers()).filter(|s| is_refusal(s.code())) {
                        identify.refused(Some(&caller), &connection, &method, status.message());
                    }
                    Ok(response)
                }
                Err((caller, status)) => {
                    if is_refusal(status.code()) {
                        identify.refused(caller.as_ref(), &connection, &method, status.message());
                    }
                    Ok(status.into_http())
                }
            }
        })
    }
}

const fn is_refusal(code: tonic::Code) -> bool {
    matches!(code, tonic::Code::PermissionDenied | tonic::Code::Unauthenticated)
}

/// The caller, if it may call this; else what it hears, and who it is as far as that is known.
fn admit<B>(identify: &dyn Identify, request: &Request<B>) -> Result<Caller, (Option<Caller>, tonic::Status)> {
    let method = request.uri().path();
    let caller = identify.identify(request.extensions()).map_err(|status| (None, status))?;
    if let Err(mut denied) = decide(method, &caller) {
        match whom::revoked(identify, &caller) {
            Some(cause) => denied.cause = cause,
            None => denied.cause.push_str(&whom::to_ask(identify, method, &caller)),
        }
        tracing::warn!(target: "authz", caller = %denied.caller, method = %denied.method, cause = %denied.cause, "denied");
        return Err((Some(caller), tonic::Status::permission_denied(denied.to_string())));
    }
    tracing::debug!(target: "authz", caller = %caller, method, "allowed");
    Ok(caller)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(roles: &[Role]) -> Caller {
        named("ada", Rights::everywhere(roles.iter().copied()))
    }

    fn named(name: &str, rights: Rights) -> Caller {
        Caller::Person { name: format!("spiffe://d/responder/{name}"), key: Some(exhibit_evidence::Digest::of(name.as_bytes())), rights }
    }

    #[test]
    fn what_is_not_in_the_table_is_denied_to_everybody() {
        for caller in [Caller::Enrolling, Caller::Agent(AgentId::new(1, [1; 10])), person(&[Admin, Responder, Custodian, Auditor])] {
            for method in ["/exhibit.responder.v1.ResponderService/DeleteEverything", "", "/", "/exhibit.agent.v1.AgentService/session"] {
                assert!(decide(method, &caller).is_err(), "{caller} {method}");
            }
        }
    }

    #[test]
    fn each_kind_of_caller_reaches_its_own_methods_only() {
        let agent = Caller::Agent(AgentId::new(1, [1; 10]));
        let reachable = |caller: &Caller| TABLE.iter().filter(|(m, ..)| decide(m, caller).is_ok()).count();
        assert_eq!(reachable(&Caller::Enrolling), 1);
        assert_eq!(reachable(&agent), 6);
        assert_eq!(reachable(&person(&[])), 2, "health only: a name without enrolled keys has no rights");
        assert_eq!(reachable(&person(&[Admin])), 13);
        assert_eq!(reachable(&person(&[Auditor])), 13);
        assert_eq!(reachable(&person(&[Approver])), 13);
        assert_eq!(reachable(&person(&[Responder])), 22);
        let denied = decide("/exhibit.responder.v1.ResponderService/RevokeAgent", &person(&[Responder])).expect_err("not an admin");
        assert_eq!(denied.to_string(), "spiffe://d/responder/ada may not revoke an agent: it needs role admin, this key has responder");
    }

    #[test]
    fn a_role_that_is_limited_to_cases_reaches_no_other() {
        let [here, there] = [1, 2].map(|n| CaseId::new(n, [1; 10]));
        let limited = named("eve", Rights::limited([Custodian], [here.clone()]));
        let [read, list] = ["ReadItems", "ListCases"].map(|m| format!("/exhibit.responder.v1.ResponderService/{m}"));
        assert!(decide_in_case(&read, &limited, &here).is_ok());
        let denied = decide_in_case(&read, &limited, &there).expect_err("another case");
        let said =
            format!("role responder or custodian in case {there}; an admin gives it: exhibit person allow eve --role ROLE --case {there}");
        assert!(denied.cause.contains(&said), "{denied}");
        let order = decide_in_case("/exhibit.responder.v1.ResponderService/SubmitOrder", &person(&[Custodian, Admin]), &here);
        assert!(order.is_err_and(|e| e.cause.starts_with("it needs role responder, this key has")), "nowhere: the table itself says it");
        let elsewhere = named("eve", Rights::limited([Responder], [here.clone()]));
        let order = decide_in_case("/exhibit.responder.v1.ResponderService/SubmitOrder", &elsewhere, &there).expect_err("another case");
        assert!(order.cause.ends_with(&format!("exhibit person allow eve --role responder --case {there}")), "{order}");
        let how = how_to_allow("spiffe://d/responder/eve;reboot", &[Responder], &there);
        assert!(how.starts_with("exhibit person allow NAME --role responder"), "{how}");
        assert!(decide(&list, &limited).is_ok());
        let denied = decide_outside_cases(&list, &limited).expect_err("limited");
        assert!(denied.cause.contains("without a limit to cases") && !denied.cause.contains("no key that is enrolled"), "{denied}");
        assert!(denied.cause.ends_with("an admin gives it: exhibit person allow eve --role ROLE"), "{denied}");
        let unknown = decide_outside_cases(&list, &person(&[])).expect_err("nobody");
        assert!(unknown.cause.contains("no key that is enrolled"), "{unknown}");
        // An admin manages people and agents, and sees no case.
        let records = "/exhibit.log.v1.LogService/ListRecords";
        let admin = person(&[Admin]);
        assert!(decide_outside_cases(records, &admin).is_ok() && decide_in_case(records, &admin, &here).is_err());
        assert!(decide_in_case(records, &person(&[Auditor]), &here).is_ok());
        // Who is limited to the case could help there; to whoever has nothing to do with it nobody is named.
        let dan = ("spiffe://d/responder/dan".to_owned(), Rights::limited([Auditor], [here.clone()]));
        let among = |caller: &Caller| {
            let decided = decide_in_case_among(records, caller, &here, &|_: &[Role]| vec![dan.clone()]);
            decided.expect_err("no role there").cause
        };
        let told = among(&admin);
        assert!(told.contains("; who has it there: spiffe://d/responder/dan; an admin gives it: exhibit person allow ada"), "{told}");
        let untold = among(&named("eve", Rights::limited([Custodian], [there.clone()])));
        assert!(!untold.contains("/dan") && untold.contains("an admin gives it"), "{untold}");
        assert!(decide_in_case("/exhibit.responder.v1.ResponderService/Whoami", &limited, &here).is_err());
    }
}
