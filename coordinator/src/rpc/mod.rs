//! The services: they convert, check bounds and call the work modules. Nothing is decided here.

mod agent;
mod enrollment;
mod log;
mod responder;

pub(crate) use agent::Agents;
pub(crate) use responder::Responders;

use std::sync::Arc;

use exhibit_certs::name::PeerName;
use exhibit_evidence::id::CaseId;
use exhibit_evidence::key::KeyId;
use exhibit_evidence::record::{Rights, Role};
use exhibit_proto::agent::v1::agent_service_server::AgentServiceServer;
use exhibit_proto::agent::v1::enrollment_service_server::EnrollmentServiceServer;
use exhibit_proto::bounds::MESSAGE_BYTES_MAX;
use exhibit_proto::log::v1::log_service_server::LogServiceServer;
use exhibit_proto::responder::v1::responder_service_server::ResponderServiceServer;
use exhibit_proto::transport::server::{Caller as Origin, Peer, Services};
use futures::Stream;
use futures::future::BoxFuture;
use tonic::codegen::http::Extensions;
use tonic::service::Routes;
use tonic::{Request, Status};

use crate::authz::{self, AuthzLayer, Caller, Denied, Helper, Identify};
use crate::parts::Parts;
use crate::party::Party;
use crate::read::Reader;

/// Answers that may wait for a slow reader, of at most [`MESSAGE_BYTES_MAX`] each.
const ANSWERS_WAITING_MAX: usize = 8;

/// What streaming methods answer with.
type Answers<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Reads the caller from the connection; roles come from the deployment's log.
struct ByCertificate(Arc<Parts>);

impl Identify for ByCertificate {
    fn identify(&self, connection: &Extensions) -> Result<Caller, Status> {
        let Some(Peer { name: party, .. }) = connection.get::<Peer<Party>>() else { return Ok(Caller::Enrolling) };
        let Self(parts) = self;
        if parts.out_of_time.load(std::sync::atomic::Ordering::Acquire) {
            return Err(Status::unavailable(
                "this coordinator's clock is not the database's: it serves nobody until it is; use another one",
            ));
        }
        if party.name.deployment() != &parts.issuing.deployment {
            return Err(Status::unauthenticated(format!("{} belongs to another deployment", party.name)));
        }
        match &party.name {
            PeerName::Agent(_, agent) if parts.revoked.contains(agent) => Err(Status::unauthenticated(format!("agent {agent} is revoked"))),
            PeerName::Agent(_, agent) => Ok(Caller::Agent(agent.clone())),
            PeerName::Responder(..) => {
                let (name, key) = (party.name.to_string(), party.key);
                let rights = key.map(|key| parts.rights_of_key(&name, key)).unwrap_or_default();
                Ok(Caller::Person { name, key, rights })
            }
            PeerName::Coordinator(..) => Ok(Caller::Person { name: party.name.to_string(), key: None, rights: Rights::default() }),
        }
    }

    fn people_with(&self, roles: &[Role]) -> Vec<Helper> {
        self.0.people_with(roles)
    }

    fn revocation(&self, key: KeyId) -> Option<String> {
        let view = self.0.deployment_log.view();
        let entry = view.entries().iter().find(|entry| entry.key == Some(key) && entry.revoked_at.is_some())?;
        let at = entry.revoked_at?;
        Some(format!("at {at} (record {} of the deployment's log)", entry.n))
    }

    fn refused(&self, caller: Option<&Caller>, connection: &Extensions, method: &str, cause: &str) {
        let peer = connection.get::<Peer<Party>>();
        let who = caller.map(ToString::to_string).or_else(|| peer.map(|p| p.name.name.to_string())).unwrap_or_default();
        let from = connection.get::<Origin>().map(|origin| origin.addr.to_string());
        self.0.audit.denied(&who, from.as_deref(), method, cause);
    }

    fn freshen(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Err(error) = self.0.deployment_log.refresh().await {
                tracing::warn!(%error, "what other coordinators wrote into the deployment's log could not be read");
            }
        })
    }
}

/// All services behind the authorization table, for both kinds of connections.
#[must_use]
pub fn services(
    parts: &Arc<Parts>,
    health: tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health>,
) -> Services {
    let layer = AuthzLayer::new(Arc::new(ByCertificate(Arc::clone(parts))));
    let agent = AgentServiceServer::new(agent::Agents(Arc::clone(parts)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let responder = ResponderServiceServer::new(responder::Responders(Arc::clone(parts)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let logs = LogServiceServer::new(log::Logs(Arc::clone(parts)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let enrollment = EnrollmentServiceServer::new(enrollment::Enrollments(Arc::clone(parts)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let health = health.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX);
    let main = Routes::new(agent).add_service(responder).add_service(logs).add_service(health);
    // On a connection for enrolment everything else is not even there; the table would deny it as well.
    let enroll = Routes::new(enrollment);
    Services { main: layered(main, &layer), enroll: layered(enroll, &layer) }
}

fn layered(routes: Routes, layer: &AuthzLayer) -> Routes {
    Routes::from(routes.into_axum_router().layer(layer.clone()))
}

/// The caller that the layer put into the request.
fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get::<Caller>().cloned().ok_or_else(|| Status::internal("the authorization layer was passed by"))
}

/// The name of a person who calls.
fn person<T>(request: &Request<T>) -> Result<String, Status> {
    match caller(request)? {
        Caller::Person { name, .. } => Ok(name),
        _ => Err(Status::permission_denied("this is for people")),
    }
}

/// A person who calls, with the key whose rights the call has.
fn reader<T>(request: &Request<T>) -> Result<Reader, Status> {
    match caller(request)? {
        Caller::Person { name, key: Some(key), .. } => Ok(Reader { name, key }),
        _ => Err(Status::permission_denied("this is for people, with a certificate that names their evidence key")),
    }
}

/// Refuses a caller whose roles do not reach into the case, and says whose do.
fn in_case(parts: &Parts, method: &str, caller: &Caller, case: &CaseId) -> Result<(), Status> {
    refused(authz::decide_in_case_among(method, caller, case, &|roles: &[Role]| parts.people_with(roles)))
}

/// Refuses a caller whose roles are limited to cases.
fn outside_cases(method: &str, caller: &Caller) -> Result<(), Status> {
    refused(authz::decide_outside_cases(method, caller))
}

fn refused(decided: Result<(), Denied>) -> Result<(), Status> {
    decided.map_err(|denied| {
        tracing::warn!(target: "authz", caller = %denied.caller, method = %denied.method, cause = %denied.cause, "denied");
        Status::permission_denied(denied.to_string())
    })
}
