//! `exhibit.log.v1.LogService`.

use std::sync::Arc;

use exhibit_evidence::Digest;
use exhibit_evidence::id::CaseId;
use exhibit_evidence::layout::LogName;
use exhibit_evidence::log::{NOTE_BYTES_MAX, Note};
use exhibit_evidence::text::escape_bounded;
use exhibit_proto::convert::{BadField, bounded, id};
use exhibit_proto::log::v1 as wire;
use exhibit_proto::log::v1::log_service_server::LogService;
use futures::StreamExt as _;
use tonic::{Request, Response, Status};

use super::{Answers, caller, in_case, outside_cases, person};
use crate::authz::Caller;
use crate::dispatch::admit;
use crate::ledger::{self, Ledger, LedgerError, ProofOf};
use crate::parts::Parts;
use crate::problem::{Problem, Result};

/// Records read ahead of a slow reader.
const RECORDS_AHEAD: usize = 8;

pub(crate) struct Logs(pub(super) Arc<Parts>);

impl Logs {
    /// The log of a case that exists, or the deployment's.
    async fn ledger(&self, method: &str, by: &Caller, case_id: &str) -> Result<Ledger, Status> {
        if case_id.is_empty() {
            outside_cases(method, by)?;
            return Ok(self.0.deployment_log.clone());
        }
        let case: CaseId = id("case_id", case_id)?;
        in_case(&self.0, method, by, &case)?;
        admit::require_case(&self.0, &case).await?;
        Ok(self.0.ledgers.case(&case).await.map_err(Problem::from)?)
    }

    async fn checkpoint(log: &Ledger, note: Vec<u8>) -> Result<wire::Checkpoint> {
        Ok(wire::Checkpoint { note, log_enrolment: log.log_enrolment().await?.as_bytes().to_vec() })
    }

    /// What the log answered; what it says to be an incident is kept as one, however often it says so.
    async fn told<T>(&self, log: &Ledger, answer: std::result::Result<T, LedgerError>) -> Result<T> {
        if let Err(e) = answer.as_ref()
            && e.kind() == ledger::Kind::Damaged
        {
            let case = match log.name() {
                LogName::Case(case) => Some(case),
                LogName::Deployment => None,
            };
            if self.0.ledgers.known().news().is_news(log.name(), ledger::DAMAGED, &e.to_string()) {
                self.0.incident(case, ledger::DAMAGED, &log.name().folder(), &e.to_string()).await;
            }
        }
        Ok(answer?)
    }

    async fn prove(&self, (method, by): (&str, &Caller), case_id: &str, what: ProofOf, size: u64) -> Result<wire::Proof, Status> {
        let log = self.ledger(method, by, case_id).await?;
        let proof = self.told(&log, log.prove(what, size).await).await?;
        let hashes = proof.hashes.iter().map(|h: &Digest| h.as_bytes().to_vec()).collect();
        Ok(wire::Proof { hashes, checkpoint: Some(Self::checkpoint(&log, proof.checkpoint).await?) })
    }
}

#[tonic::async_trait]
impl LogService for Logs {
    type ListRecordsStream = Answers<wire::LogRecord>;

    async fn list_records(&self, request: Request<wire::ListRecordsRequest>) -> Result<Response<Self::ListRecordsStream>, Status> {
        let by = caller(&request)?;
        let message = request.into_inner();
        let log = self.ledger("/exhibit.log.v1.LogService/ListRecords", &by, &message.case_id).await?;
        let limit = if message.limit == 0 { u64::MAX } else { message.limit };
        let end = message.from.saturating_add(limit).min(log.size());
        let parts = Arc::clone(&self.0);
        let records = futures::stream::iter(message.from..end)
            .map(move |n| {
                let (log, logs) = (log.clone(), Self(Arc::clone(&parts)));
                async move {
                    let envelope = logs.told(&log, log.read(n).await).await?;
                    Ok(wire::LogRecord { n, envelope: envelope.as_bytes().to_vec() })
                }
            })
            .buffered(RECORDS_AHEAD);
        Ok(Response::new(Box::pin(records)))
    }

    async fn get_checkpoint(&self, request: Request<wire::GetCheckpointRequest>) -> Result<Response<wire::Checkpoint>, Status> {
        let by = caller(&request)?;
        let message = request.into_inner();
        let log = self.ledger("/exhibit.log.v1.LogService/GetCheckpoint", &by, &message.case_id).await?;
        let size = if message.size == 0 { log.published() } else { message.size };
        let note = self.told(&log, log.checkpoint(size).await).await?;
        Ok(Response::new(Self::checkpoint(&log, note).await?))
    }

    async fn prove_record(&self, request: Request<wire::ProveRecordRequest>) -> Result<Response<wire::Proof>, Status> {
        let by = caller(&request)?;
        let message = request.into_inner();
        let who = ("/exhibit.log.v1.LogService/ProveRecord", &by);
        Ok(Response::new(self.prove(who, &message.case_id, ProofOf::Record(message.n), message.size).await?))
    }

    async fn prove_consistency(&self, request: Request<wire::ProveConsistencyRequest>) -> Result<Response<wire::Proof>, Status> {
        let by = caller(&request)?;
        let message = request.into_inner();
        let who = ("/exhibit.log.v1.LogService/ProveConsistency", &by);
        Ok(Response::new(self.prove(who, &message.case_id, ProofOf::Head(message.from), message.to).await?))
    }

    async fn add_cosignatures(
        &self,
        request: Request<wire::AddCosignaturesRequest>,
    ) -> Result<Response<wire::AddCosignaturesResponse>, Status> {
        let (by, who) = (person(&request)?, caller(&request)?);
        let message = request.into_inner();
        bounded("note", message.note.len(), NOTE_BYTES_MAX)?;
        let note = Note::parse(&message.note).map_err(|e| BadField { field: "note", problem: e.to_string() })?;
        let log = self.ledger("/exhibit.log.v1.LogService/AddCosignatures", &who, &message.case_id).await?;
        let witnesses = self.told(&log, log.add_cosignatures(note).await).await?;
        let shown = escape_bounded(&witnesses.join(", "), 200);
        tracing::info!(log = %log.name().folder(), witnesses = %shown, %by, "cosignatures taken");
        Ok(Response::new(wire::AddCosignaturesResponse { witnesses }))
    }
}
