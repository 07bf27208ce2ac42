//! `exhibit.responder.v1.ResponderService`.

mod answers;
mod requests;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use exhibit_evidence::id::{AgentId, CaseId};
use exhibit_evidence::record::Role;
use exhibit_proto::bounds::{LABELS_MAX, REASON_BYTES_MAX};
use exhibit_proto::convert::{digest, envelope, id, required, required_text};
use exhibit_proto::responder::v1::responder_service_server::ResponderService;
use exhibit_proto::responder::v1::{self as wire, export_case_response, read_items_response};
use exhibit_proto::version;
use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{ANSWERS_WAITING_MAX, Answers, caller, in_case, person, reader};
use crate::authz::{self, Caller};
use crate::catalog::{CollectionFilter, CollectionRow, Labels, PAGE_MAX};
use crate::clock;
use crate::custody;
use crate::dispatch::{self, admit, cases};
use crate::enroll::{self, people};
use crate::parts::Parts;
use crate::problem::{Kind, Problem};
use crate::read::{self, Exported, Filter, ListedItem, Served};
use crate::replica;
use crate::stamp;

const LIST_CASES: &str = "/exhibit.responder.v1.ResponderService/ListCases";
const LIST_COLLECTIONS: &str = "/exhibit.responder.v1.ResponderService/ListCollections";
const WATCH_COLLECTIONS: &str = "/exhibit.responder.v1.ResponderService/WatchCollections";

/// [`in_case`] for the cases of collections.
fn in_cases(parts: &Parts, method: &str, caller: &Caller, rows: &[CollectionRow]) -> Result<(), Status> {
    let cases: BTreeSet<&CaseId> = rows.iter().map(|row| &row.case).collect();
    cases.into_iter().try_for_each(|case| in_case(parts, method, caller, case))
}

/// A case or an order that is named must be there and the caller's: an empty list would say that nothing was collected.
async fn require_named(parts: &Parts, method: &str, caller: &Caller, filter: &CollectionFilter) -> Result<(), Status> {
    if let Some(case) = &filter.case {
        in_case(parts, method, caller, case)?;
        admit::require_case(parts, case).await?;
    }
    if let Some(order) = &filter.order {
        let known = parts.catalog.order(order.clone()).await.map_err(Problem::from)?;
        let known = known.ok_or_else(|| Status::not_found(format!("order: there is no order {order}")))?;
        in_case(parts, method, caller, &known.case)?;
    }
    Ok(())
}

pub(crate) struct Responders(pub(super) Arc<Parts>);

/// Sends what `work` puts into its channel, then how it ended.
fn streamed<T, U, F>(work: impl FnOnce(mpsc::Sender<T>) -> F, to_wire: fn(T) -> U) -> Answers<U>
where
    T: Send + 'static,
    U: Send + 'static,
    F: Future<Output = Result<(), Problem>> + Send + 'static,
{
    let (out, waiting) = mpsc::channel(ANSWERS_WAITING_MAX);
    let (last, ending) = tokio::sync::oneshot::channel();
    let work = work(out);
    tokio::spawn(async move {
        let _ = last.send(work.await);
    });
    let ended = futures::stream::once(ending).filter_map(|outcome| async move {
        match outcome {
            Ok(Ok(())) => None,
            Ok(Err(problem)) => Some(Err(Status::from(problem))),
            Err(_) => Some(Err(Status::internal("the call ended badly"))),
        }
    });
    Box::pin(ReceiverStream::new(waiting).map(move |t| Ok(to_wire(t))).chain(ended))
}

/// Cases that are named of a role that is limited to cases.
const LIMIT_CASES_MAX: usize = 200;

#[tonic::async_trait]
impl ResponderService for Responders {
    type ListCasesStream = Answers<wire::Case>;
    type ListAgentsStream = Answers<wire::Agent>;
    type ListCollectionsStream = Answers<wire::Collection>;
    type WatchCollectionsStream = Answers<wire::Collection>;
    type ListItemsStream = Answers<wire::Item>;
    type ReadItemsStream = Answers<wire::ReadItemsResponse>;
    type ExportCaseStream = Answers<wire::ExportCaseResponse>;

    async fn whoami(&self, request: Request<wire::WhoamiRequest>) -> Result<Response<wire::WhoamiResponse>, Status> {
        let Caller::Person { name, rights, .. } = caller(&request)? else { return Err(Status::permission_denied("this is for people")) };
        let message = request.into_inner();
        let protocol =
            version::negotiate(message.protocol_min, message.protocol_max).map_err(|e| Status::failed_precondition(e.to_string()))?;
        let words = |role: &Role| serde_json::to_value(role).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
        let limit = |role: Role| {
            let cases = rights.cases_of(role)?;
            let first = cases.iter().take(LIMIT_CASES_MAX).map(ToString::to_string).collect();
            Some(wire::RoleLimit { role: words(&role), cases: first, cases_total: cases.len() as u64 })
        };
        Ok(Response::new(wire::WhoamiResponse {
            name,
            limits: rights.roles().into_iter().filter_map(limit).collect(),
            roles: rights.roles().iter().map(words).collect(),
            deployment: self.0.deployment().to_owned(),
            anchor: self.0.issuing.anchor.clone(),
            wall_ns: clock::now().unix_ns(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol,
        }))
    }

    async fn open_case(&self, request: Request<wire::OpenCaseRequest>) -> Result<Response<wire::Case>, Status> {
        let by = person(&request)?;
        let record = envelope("case_opened", &request.into_inner().case_opened)?;
        let row = cases::open(&self.0, &by, &record).await?;
        Ok(Response::new(answers::case(&self.0, row).await?))
    }

    async fn close_case(&self, request: Request<wire::CloseCaseRequest>) -> Result<Response<wire::Case>, Status> {
        let by = person(&request)?;
        let record = envelope("case_closed", &request.into_inner().case_closed)?;
        let row = cases::close(&self.0, &by, &record).await?;
        Ok(Response::new(answers::case(&self.0, row).await?))
    }

    async fn list_cases(&self, request: Request<wire::ListCasesRequest>) -> Result<Response<Self::ListCasesStream>, Status> {
        let by = caller(&request)?;
        let parts = Arc::clone(&self.0);
        let work = |out: mpsc::Sender<wire::Case>| async move {
            let mut after = None;
            loop {
                let page = parts.catalog.cases(after, PAGE_MAX).await?;
                let Some(last) = page.last() else { return Ok(()) };
                after = Some(last.case.clone());
                for row in page.into_iter().filter(|row| authz::decide_in_case(LIST_CASES, &by, &row.case).is_ok()) {
                    if out.send(answers::listed_case(&parts, row).await?).await.is_err() {
                        return Ok(());
                    }
                }
            }
        };
        Ok(Response::new(streamed(work, |case| case)))
    }

    async fn get_case(&self, request: Request<wire::GetCaseRequest>) -> Result<Response<wire::Case>, Status> {
        let by = caller(&request)?;
        let case: CaseId = id("case_id", &request.into_inner().case_id)?;
        in_case(&self.0, "/exhibit.responder.v1.ResponderService/GetCase", &by, &case)?;
        let row = admit::require_case(&self.0, &case).await?;
        Ok(Response::new(answers::case(&self.0, row).await?))
    }

    async fn create_token(&self, request: Request<wire::CreateTokenRequest>) -> Result<Response<wire::CreateTokenResponse>, Status> {
        let by = person(&request)?;
        let message = request.into_inner();
        let life_s = if message.ttl_s == 0 { 3_600 } else { message.ttl_s };
        let labels = requests::labels(message.labels)?;
        let (token, expires_at) = enroll::create_token(&self.0, &by, life_s, message.uses.max(1), labels).await?;
        let ca_sha256 = exhibit_evidence::Digest::of(&self.0.issuing.tls_root).as_bytes().to_vec();
        Ok(Response::new(wire::CreateTokenResponse { token, expires_at_ns: expires_at.unix_ns(), ca_sha256 }))
    }

    async fn list_agents(&self, request: Request<wire::ListAgentsRequest>) -> Result<Response<Self::ListAgentsStream>, Status> {
        let labels = requests::labels(request.into_inner().labels)?;
        let parts = Arc::clone(&self.0);
        let work = |out: mpsc::Sender<wire::Agent>| async move {
            let mut after = None;
            loop {
                let page = parts.catalog.agents(labels.clone(), after, PAGE_MAX).await?;
                let Some(last) = page.last() else { return Ok(()) };
                after = Some(last.agent.clone());
                let online = replica::online(&parts, page.iter().map(|row| row.agent.clone()).collect()).await?;
                for row in page {
                    if out.send(answers::agent(row, &online)).await.is_err() {
                        return Ok(());
                    }
                }
            }
        };
        Ok(Response::new(streamed(work, |agent| agent)))
    }

    async fn set_agent_labels(&self, request: Request<wire::SetAgentLabelsRequest>) -> Result<Response<wire::Agent>, Status> {
        let by = person(&request)?;
        let message = request.into_inner();
        let agent: AgentId = id("agent", &message.agent)?;
        let labels: Labels = requests::labels(message.labels)?;
        debug_assert!(labels.len() <= LABELS_MAX);
        let there = self.0.catalog.set_labels(agent.clone(), labels).await.map_err(Problem::from)?;
        let row = if there { self.0.catalog.agent(agent.clone()).await.map_err(Problem::from)? } else { None };
        let row = row.ok_or_else(|| Status::not_found(format!("agent: there is no agent {agent}")))?;
        tracing::info!(%agent, %by, "labels set");
        let online = replica::online(&self.0, vec![agent]).await?;
        Ok(Response::new(answers::agent(row, &online)))
    }

    async fn revoke_agent(&self, request: Request<wire::RevokeAgentRequest>) -> Result<Response<wire::Agent>, Status> {
        let by = person(&request)?;
        let message = request.into_inner();
        let agent = id("agent", &message.agent)?;
        let reason = required_text("reason", &message.reason, REASON_BYTES_MAX)?;
        let row = enroll::revoke(&self.0, &by, &agent, &reason).await?;
        Ok(Response::new(answers::agent(row, &HashSet::new())))
    }

    async fn enroll_person(&self, request: Request<wire::EnrollPersonRequest>) -> Result<Response<wire::EnrollPersonResponse>, Status> {
        let by = person(&request)?;
        let message = request.into_inner();
        let enrolment = envelope("enrolment", &message.enrolment)?;
        let (certificate, chain) = people::enroll(&self.0, &by, &enrolment, &message.tls_csr).await?;
        Ok(Response::new(wire::EnrollPersonResponse {
            tls_chain: certificate.map(|c| c.chain.iter().map(|der| der.as_ref().to_vec()).collect()).unwrap_or_default(),
            enrolments: chain.iter().map(|e| e.as_bytes().to_vec()).collect(),
            tls_root: self.0.issuing.tls_root.clone(),
        }))
    }

    async fn revoke_person(&self, request: Request<wire::RevokePersonRequest>) -> Result<Response<wire::RevokePersonResponse>, Status> {
        let by = person(&request)?;
        let revocation = envelope("revocation", &request.into_inner().revocation)?;
        let name = people::revoke(&self.0, &by, &revocation).await?;
        Ok(Response::new(wire::RevokePersonResponse { name }))
    }

    async fn submit_record(&self, request: Request<wire::SubmitRecordRequest>) -> Result<Response<wire::SubmitRecordResponse>, Status> {
        let by = person(&request)?;
        let record = envelope("record", &request.into_inner().record)?;
        let done = custody::submit(&self.0, &by, &record).await;
        let done = done.inspect_err(|problem| {
            // What passes, and damage, may have come when the record was in the log already.
            let what = match problem.kind() {
                Kind::Busy | Kind::Damaged => "it is not known whether a custody record is in its log; it can be sent again",
                _ => "custody record refused",
            };
            tracing::warn!(%by, %problem, "{what}");
        })?;
        let certificate_sha256 = done.certified.as_ref().map(|c| c.digest.as_bytes().to_vec()).unwrap_or_default();
        let certificate = done.certified.and_then(|c| c.envelope).map(|e| e.as_bytes().to_vec()).unwrap_or_default();
        let unfinished = done.unfinished.unwrap_or_default();
        Ok(Response::new(wire::SubmitRecordResponse { n: done.n, log_size: done.log_size, certificate, unfinished, certificate_sha256 }))
    }

    async fn submit_order(&self, request: Request<wire::SubmitOrderRequest>) -> Result<Response<wire::SubmitOrderResponse>, Status> {
        let by = person(&request)?;
        let order = envelope("order", &request.into_inner().order)?;
        let admitted = admit::submit(&self.0, &by, &order).await;
        let (order, rows) = admitted.inspect_err(|problem| {
            // It may be in the log, or be given again.
            let what = if problem.is_passing() { "an order could not be taken now" } else { "order refused" };
            tracing::warn!(%by, %problem, "{what}");
        })?;
        let collections = answers::collections(&self.0, rows).await?;
        Ok(Response::new(wire::SubmitOrderResponse { order: order.order.to_string(), collections }))
    }

    async fn cancel_collections(
        &self,
        request: Request<wire::CancelCollectionsRequest>,
    ) -> Result<Response<wire::CancelCollectionsResponse>, Status> {
        let who = caller(&request)?;
        let by = person(&request)?;
        let message = request.into_inner();
        let reason = required_text("reason", &message.reason, REASON_BYTES_MAX)?;
        let filter = requests::some_collections("order", &message.order, message.collections)?;
        let rows = requests::found(&self.0, filter).await?;
        in_cases(&self.0, "/exhibit.responder.v1.ResponderService/CancelCollections", &who, &rows)?;
        let now = dispatch::cancel_all(&self.0, rows, &by, &reason).await?;
        Ok(Response::new(wire::CancelCollectionsResponse { collections: answers::collections(&self.0, now).await? }))
    }

    async fn list_collections(
        &self,
        request: Request<wire::ListCollectionsRequest>,
    ) -> Result<Response<Self::ListCollectionsStream>, Status> {
        let by = caller(&request)?;
        let filter = requests::collection_filter(request.into_inner())?;
        require_named(&self.0, LIST_COLLECTIONS, &by, &filter).await?;
        let parts = Arc::clone(&self.0);
        let work = |out: mpsc::Sender<wire::Collection>| async move {
            let mut after = None;
            loop {
                let page = parts.catalog.collections(filter.clone(), after, PAGE_MAX).await?;
                let Some(last) = page.last() else { return Ok(()) };
                after = Some(last.collection.clone());
                let page = page.into_iter().filter(|row| authz::decide_in_case(LIST_COLLECTIONS, &by, &row.case).is_ok()).collect();
                for row in answers::collections(&parts, page).await? {
                    if out.send(row).await.is_err() {
                        return Ok(());
                    }
                }
            }
        };
        Ok(Response::new(streamed(work, |row| row)))
    }

    async fn watch_collections(
        &self,
        request: Request<wire::WatchCollectionsRequest>,
    ) -> Result<Response<Self::WatchCollectionsStream>, Status> {
        let by = caller(&request)?;
        let what = required("what", request.into_inner().what)?;
        let filter = requests::collection_filter(what)?;
        require_named(&self.0, WATCH_COLLECTIONS, &by, &filter).await?;
        let rows = admit::select(&self.0, filter.clone()).await?;
        in_cases(&self.0, WATCH_COLLECTIONS, &by, &rows)?;
        let parts = Arc::clone(&self.0);
        Ok(Response::new(streamed(|out| answers::watch(parts, filter, out), |row| row)))
    }

    async fn list_items(&self, request: Request<wire::ListItemsRequest>) -> Result<Response<Self::ListItemsStream>, Status> {
        let (by, who) = (reader(&request)?, caller(&request)?);
        let message = request.into_inner();
        let reason = required_text("reason", &message.reason, REASON_BYTES_MAX)?;
        let filter = Filter::new(&message.path_globs, &message.captures, &message.statuses)?;
        let whole_case = !message.case_id.is_empty();
        let of = requests::some_collections("case_id", &message.case_id, message.collections)?;
        let rows = requests::found(&self.0, of).await?;
        in_cases(&self.0, "/exhibit.responder.v1.ResponderService/ListItems", &who, &rows)?;
        let rows = if whole_case { custody::only_kept(&self.0, rows).await? } else { rows };
        let parts = Arc::clone(&self.0);
        let work = |out| async move { read::list_items(parts, &by, &reason, rows, filter, out).await };
        Ok(Response::new(streamed(work, item)))
    }

    async fn read_items(&self, request: Request<wire::ReadItemsRequest>) -> Result<Response<Self::ReadItemsStream>, Status> {
        let (by, who) = (reader(&request)?, caller(&request)?);
        let message = request.into_inner();
        let reason = required_text("reason", &message.reason, REASON_BYTES_MAX)?;
        let action = requests::reading(&message.action)?;
        let ids = requests::item_ids(&message.items)?;
        let only = ids.iter().map(|id| id.collection.clone()).collect::<BTreeSet<_>>();
        let mut rows = Vec::with_capacity(only.len());
        for collection in only {
            rows.extend(self.0.catalog.collection(collection).await.map_err(Problem::from)?);
        }
        in_cases(&self.0, "/exhibit.responder.v1.ResponderService/ReadItems", &who, &rows)?;
        let parts = Arc::clone(&self.0);
        let work = |out| async move { read::read_items(parts, &by, (action, &reason), ids, out).await };
        let to_wire = |served| wire::ReadItemsResponse {
            kind: Some(match served {
                Served::Item(listed) => read_items_response::Kind::Item(item(listed)),
                Served::Tar(bytes) => read_items_response::Kind::TarData(bytes),
                Served::Segment(begins) => read_items_response::Kind::Segment(answers::segment(begins)),
                Served::SegmentData(bytes) => read_items_response::Kind::SegmentData(bytes),
            }),
        };
        Ok(Response::new(streamed(work, to_wire)))
    }

    async fn export_case(&self, request: Request<wire::ExportCaseRequest>) -> Result<Response<Self::ExportCaseStream>, Status> {
        let (by, who) = (reader(&request)?, caller(&request)?);
        let wanted = requests::export(request.into_inner())?;
        in_case(&self.0, "/exhibit.responder.v1.ResponderService/ExportCase", &who, &wanted.case)?;
        let parts = Arc::clone(&self.0);
        let work = |out| async move { read::export_case(parts, &by, wanted, out).await };
        let to_wire = |exported| wire::ExportCaseResponse {
            kind: Some(match exported {
                Exported::Head { checkpoint, size, collections, authorities, revocation_lists, foreign } => {
                    let collections = collections.iter().map(ToString::to_string).collect();
                    export_case_response::Kind::Head(wire::ExportHead {
                        checkpoint,
                        size,
                        collections,
                        authorities,
                        revocation_lists,
                        foreign_objects: foreign.count,
                        foreign_names: foreign.names,
                    })
                }
                Exported::Object { name, size } => export_case_response::Kind::Object(wire::ExportedObject { name, size }),
                Exported::Data(bytes) => export_case_response::Kind::Data(bytes),
            }),
        };
        Ok(Response::new(streamed(work, to_wire)))
    }

    async fn stamp_export(&self, request: Request<wire::StampExportRequest>) -> Result<Response<wire::StampExportResponse>, Status> {
        let who = caller(&request)?;
        let message = request.into_inner();
        let case: CaseId = id("case_id", &message.case_id)?;
        in_case(&self.0, "/exhibit.responder.v1.ResponderService/StampExport", &who, &case)?;
        admit::require_case(&self.0, &case).await?;
        let over = digest("sha256", &message.sha256)?;
        let stamps = stamp::stamp_bag(&self.0.authorities, over).await;
        let stamps = stamps.into_iter().map(|s| wire::ExportStamp {
            authority: s.authority.to_string(),
            request: s.request,
            reply: s.reply.into(),
            crls: s.crls.into_iter().map(Into::into).collect(),
            problem: s.problem.unwrap_or_default(),
        });
        Ok(Response::new(wire::StampExportResponse { stamps: stamps.collect() }))
    }
}

fn item(listed: ListedItem) -> wire::Item {
    wire::Item { item: listed.id.to_string(), exhibit: listed.exhibit, manifest_line: listed.line.into() }
}
