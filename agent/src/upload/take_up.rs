//! Taking up the stream of an earlier process: the coordinator gives back this agent's own bookmark and the manifest so
//! far; both are believed only as far as the agent's own signature and digest reach.

use std::time::Duration;

use exhibit_proto::agent::v1::agent_service_client::AgentServiceClient;
use exhibit_proto::agent::v1::{TakeUpRequest, take_up_response};
use exhibit_proto::bounds;
use tonic::transport::Channel;

use super::{Failure, REJECTIONS_MAX, STATUS_TIMEOUT, Upload, failure, no_answer};
use crate::clock;
use crate::pipeline::bookmark::{Reader, TakenUp};
use crate::session::backoff::{Backoff, LONGEST_BUSY};

/// Longest wait for the next piece of the manifest: the coordinator first waits for memory that all its agents share.
const PIECE_TIMEOUT: Duration = Duration::from_mins(2);

impl Upload {
    /// Gets what is needed to go on with the stream; `None` when it cannot be taken up and the next one is to be sent.
    /// `captures` are the order's, in order of volatility.
    pub async fn take_up(&mut self, captures: &[&str]) -> Option<TakenUp> {
        let mut backoff = Backoff::new(LONGEST_BUSY);
        let mut rejections = 0_u32;
        loop {
            let channel = self.connection.wait_for(Option::is_some).await.ok()?.clone()?;
            let collection = &self.facts.collection;
            match self.ask(channel, captures).await {
                Ok(taken_up) => {
                    tracing::info!(%collection, stream = self.facts.stream, segment = taken_up.segment, "going on where an earlier process of this agent stopped");
                    return Some(taken_up);
                }
                Err(Failure::Final(why)) => {
                    tracing::warn!(%collection, stream = self.facts.stream, "the stream cannot be taken up, the next one is begun: {why}");
                    return None;
                }
                Err(Failure::Rejected(why)) => {
                    rejections = rejections.saturating_add(1);
                    tracing::info!(%collection, rejections, "the stream cannot be taken up now: {why}");
                    if rejections >= REJECTIONS_MAX {
                        return None;
                    }
                }
                Err(Failure::Retry(why)) => tracing::info!(%collection, "asking for the stream was interrupted: {why}"),
            }
            tokio::time::sleep(backoff.next(clock::random_u32())).await;
        }
    }

    async fn ask(&self, channel: Channel, captures: &[&str]) -> Result<TakenUp, Failure> {
        let facts = &self.facts;
        let request = TakeUpRequest { collection: facts.collection.to_string(), stream: facts.stream, instance: self.instance.to_vec() };
        let mut client = AgentServiceClient::new(channel).max_decoding_message_size(bounds::MESSAGE_BYTES_MAX);
        let answer = tokio::time::timeout(STATUS_TIMEOUT, client.take_up(request)).await.map_err(|_| no_answer())?;
        let mut inbound = match answer {
            Ok(answer) => answer.into_inner(),
            Err(status) if status.code() == tonic::Code::FailedPrecondition => {
                return Err(Failure::Final(exhibit_proto::transport::client::describe(&status)));
            }
            Err(status) => return Err(failure(&status)),
        };
        let mut reader: Option<(Reader, u64)> = None;
        loop {
            let message = tokio::time::timeout(PIECE_TIMEOUT, inbound.message()).await.map_err(|_| no_answer())?;
            let Some(message) = message.map_err(|s| failure(&s))? else { break };
            match (message.kind, &mut reader) {
                (Some(take_up_response::Kind::Standing(standing)), None) => {
                    if standing.manifest_bytes > bounds::MANIFEST_BYTES_MAX {
                        return Err(Failure::Final("the manifest so far is too large".to_owned()));
                    }
                    let new = Reader::new(facts, standing.next_segment, &standing.bookmark, captures, &self.key).map_err(Failure::Final)?;
                    reader = Some((new, standing.manifest_bytes));
                }
                (Some(take_up_response::Kind::Manifest(bytes)), Some((reader, left))) => {
                    *left = left
                        .checked_sub(bytes.len() as u64)
                        .ok_or_else(|| Failure::Final("more of the manifest came than was announced".to_owned()))?;
                    reader.manifest(&bytes).map_err(Failure::Final)?;
                }
                _ => return Err(Failure::Final("the answer is out of order".to_owned())),
            }
        }
        match reader {
            Some((reader, 0)) => reader.finish().map_err(Failure::Final),
            _ => Err(Failure::Retry("the answer ended early".to_owned())),
        }
    }
}
