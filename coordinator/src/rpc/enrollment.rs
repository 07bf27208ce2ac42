//! `exhibit.agent.v1.EnrollmentService`.

use std::sync::Arc;

use exhibit_certs::issue::REQUEST_BYTES_MAX;
use exhibit_evidence::key::PublicKey;
use exhibit_proto::agent::v1::enrollment_service_server::EnrollmentService;
use exhibit_proto::agent::v1::{EnrollRequest, EnrollResponse};
use exhibit_proto::bounds::NAME_BYTES_MAX;
use exhibit_proto::convert::{required, required_text, text};
use exhibit_proto::transport::server::Caller;
use exhibit_proto::version;
use tonic::{Request, Response, Status};

use crate::enroll::{self, TOKEN_BYTES_MAX};
use crate::parts::Parts;

pub(super) struct Enrollments(pub(super) Arc<Parts>);

#[tonic::async_trait]
impl EnrollmentService for Enrollments {
    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<EnrollResponse>, Status> {
        let from = request.extensions().get::<Caller>().map(|c| c.addr.to_string()).unwrap_or_default();
        let message = request.into_inner();
        let protocol = required("protocol", message.protocol)?;
        version::negotiate(protocol.min, protocol.max).map_err(|e| Status::failed_precondition(e.to_string()))?;
        if message.tls_csr.is_empty() || message.tls_csr.len() > REQUEST_BYTES_MAX {
            return Err(Status::invalid_argument(format!(
                "field tls_csr: {} bytes: expected 1 to {REQUEST_BYTES_MAX}",
                message.tls_csr.len()
            )));
        }
        let request = enroll::Request {
            token: required_text("token", &message.token, TOKEN_BYTES_MAX)?,
            tls_csr: message.tls_csr,
            key: PublicKey::from_bytes(&message.evidence_key).map_err(|e| Status::invalid_argument(format!("field evidence_key: {e}")))?,
            proof: message.proof,
            hostname: text("hostname", &message.hostname, NAME_BYTES_MAX)?,
        };
        let enrolled = enroll::enroll(&self.0, &request).await.inspect_err(|problem| {
            tracing::warn!(from, %problem, "enrolment refused");
            self.0.audit.enrolment_refused(&from, &request.hostname, &problem.to_string());
        })?;
        Ok(Response::new(EnrollResponse {
            agent: enrolled.agent.to_string(),
            tls_chain: enrolled.certificate.chain.iter().map(|c| c.to_vec()).collect(),
            tls_root: self.0.issuing.tls_root.clone(),
            anchor: self.0.issuing.anchor.clone(),
            enrolments: enrolled.chain.iter().map(|e| e.as_bytes().to_vec()).collect(),
        }))
    }
}
