//! Stamping one head: the steps, and what each leaves for whoever comes after a failure.

use bytes::Bytes;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::key::SigningKey;
use exhibit_evidence::layout::{LogName, TimestampFile};
use exhibit_evidence::log::{Checkpoint, NOTE_BYTES_MAX};
use exhibit_evidence::record::{self, NotStamped, Stamped};
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::timestamp::{CRL_BYTES_MAX, REPLY_BYTES_MAX, Request};
use exhibit_evidence::{Digest, Timestamp};

use super::authority::{Answer, Authority, NoToken, Revocations};
use super::heads::Due;
use crate::clock;
use crate::ledger::{Kind as LedgerKind, Ledger, LedgerError};
use crate::store::{self, Payload, Store};

/// The largest request that is read back.
const REQUEST_BYTES_MAX: usize = 1_024;

/// One log, and the authority that stamps its heads.
#[derive(Debug)]
pub struct Desk<'a> {
    /// Where the objects lie.
    pub store: &'a dyn Store,
    /// The log's key.
    pub key: &'a SigningKey,
    /// The deployment's name.
    pub deployment: &'a str,
    /// Who stamps.
    pub authority: &'a Authority,
    /// The log, of a case or of the deployment.
    pub ledger: &'a Ledger,
}

/// Why a head was not stamped.
#[derive(Debug)]
pub enum Failed {
    /// The authority: to be recorded.
    Token(NoToken),
    /// The store or the log: the same call may be repeated.
    Own(String),
    /// Something else lies under one of our names, or the log is damaged: an incident. An object cannot be replaced, so the next
    /// head is the next chance.
    Damaged(String),
}

impl From<store::StoreError> for Failed {
    fn from(e: store::StoreError) -> Self {
        Self::Own(e.to_string())
    }
}

impl From<LedgerError> for Failed {
    fn from(e: LedgerError) -> Self {
        if e.kind() == LedgerKind::Damaged { Self::Damaged(e.to_string()) } else { Self::Own(e.to_string()) }
    }
}

impl Desk<'_> {
    /// Order of writes, each create-only; whoever comes after a failure or a death finds what is there and goes on from it:
    ///
    /// 1. the head that is stamped, signed by the log's key: the signature has no randomness, so it is the same every time
    /// 2. the request; its nonce is drawn once, and a later try sends the same request again
    /// 3. (the authority answers; its reply is verified)
    /// 4. the revocation lists of that moment
    /// 5. the reply: from here on there is a token, whatever happens next
    /// 6. the record that names all of it
    ///
    /// # Errors
    /// [`Failed`]; the call may be repeated.
    pub async fn stamp(&self, due: &Due) -> Result<Stamped, Failed> {
        let head = Checkpoint { origin: self.ledger.name().origin(self.deployment), size: due.size, root: due.root };
        let checkpoint = self.keep(due, TimestampFile::Checkpoint, head.sign(self.key).into(), NOTE_BYTES_MAX).await?;
        if Checkpoint::verify(&checkpoint, &self.key.public()).ok().as_ref() != Some(&head) {
            return Err(self.damaged(due, &TimestampFile::Checkpoint, "it is not this log's head"));
        }
        let imprint = Digest::of(&checkpoint);
        let file = TimestampFile::Request(self.authority.name().clone());
        let mine = Request::new(imprint, u64::from_be_bytes(clock::random()));
        let request_bytes = self.keep(due, file.clone(), mine.to_der().into(), REQUEST_BYTES_MAX).await?;
        let Some(request) = Request::parse(&request_bytes).ok().filter(|r| r.imprint == imprint) else {
            return Err(self.damaged(due, &file, "it does not ask for this head"));
        };
        let (answer, crls, crl_problem) = match self.kept_answer(due, &request).await? {
            Some((answer, crls)) => (answer, crls, None),
            None => self.new_answer(due, &request).await?,
        };
        let stamped = Stamped {
            case: self.case(),
            predecessor: due.opened,
            authority: self.authority.name().to_string(),
            size: due.size,
            root: due.root,
            checkpoint: imprint,
            request: Digest::of(&request_bytes),
            reply: Digest::of(&answer.bytes),
            crls: crls.iter().map(|bytes| Digest::of(bytes)).collect(),
            crl_problem,
            time: answer.reply.time(),
            serial: answer.reply.serial().to_owned(),
            received_at: clock::now(),
        };
        self.append(record::sign(&stamped, self.key)).await?;
        Ok(stamped)
    }

    fn case(&self) -> Option<exhibit_evidence::CaseId> {
        match self.ledger.name() {
            LogName::Case(case) => Some(case.clone()),
            LogName::Deployment => None,
        }
    }

    /// Records that the authority gave no token for a head.
    ///
    /// # Errors
    /// [`Failed`]
    pub async fn record_failure(&self, due: &Due, e: &NoToken, failed_at: Timestamp) -> Result<(), Failed> {
        let failure = NotStamped {
            case: self.case(),
            predecessor: due.opened,
            authority: self.authority.name().to_string(),
            size: due.size,
            root: due.root,
            code: e.code.to_owned(),
            message: e.message.clone(),
            failed_at,
        };
        self.append(record::sign(&failure, self.key)).await
    }

    /// Asks the authority and keeps what it gives.
    async fn new_answer(&self, due: &Due, request: &Request) -> Result<(Answer, Vec<Bytes>, Option<String>), Failed> {
        let name = self.authority.name();
        let answer = self.authority.ask(request).await.map_err(Failed::Token)?;
        let Revocations { lists, problem } = self.authority.revocations().await;
        let mut crls = Vec::new();
        for (n, bytes) in lists.into_iter().enumerate() {
            let file = TimestampFile::Crl(name.clone(), u8::try_from(n).unwrap_or(u8::MAX));
            crls.push(self.keep(due, file, bytes, CRL_BYTES_MAX).await?);
        }
        // An earlier try may have left more of them; each is named.
        for n in crls.len()..usize::from(TimestampFile::CRLS_MAX) {
            let file = TimestampFile::Crl(name.clone(), u8::try_from(n).unwrap_or(u8::MAX));
            let Some(list) = self.read(due, &file, CRL_BYTES_MAX).await? else { break };
            crls.push(list);
        }
        // With the lists of today: a certificate that was revoked stamps nothing that is kept.
        let answer = self.authority.verify(request, answer.bytes, &crls).map_err(Failed::Token)?;
        let kept = self.keep(due, TimestampFile::Reply(name.clone()), answer.bytes, REPLY_BYTES_MAX).await?;
        let answer = self.authority.verify(request, kept, &crls).map_err(Failed::Token)?;
        Ok((answer, crls, problem))
    }

    /// A reply that an earlier try kept and did not come to record.
    async fn kept_answer(&self, due: &Due, request: &Request) -> Result<Option<(Answer, Vec<Bytes>)>, Failed> {
        let name = self.authority.name();
        let file = TimestampFile::Reply(name.clone());
        let Some(bytes) = self.read(due, &file, REPLY_BYTES_MAX).await? else { return Ok(None) };
        let mut crls = Vec::new();
        for n in 0..TimestampFile::CRLS_MAX {
            let Some(list) = self.read(due, &TimestampFile::Crl(name.clone(), n), CRL_BYTES_MAX).await? else { break };
            crls.push(list);
        }
        match self.authority.verify(request, bytes, &crls) {
            Ok(answer) => Ok(Some((answer, crls))),
            Err(e) => Err(self.damaged(due, &file, &e.message)),
        }
    }

    /// Creates an object, or gives what an earlier try left under its name.
    async fn keep(&self, due: &Due, file: TimestampFile, bytes: Bytes, bytes_max: usize) -> Result<Bytes, Failed> {
        let name = self.ledger.name().timestamp(due.size, &file);
        match self.store.put_new(&name, Payload::from(bytes.clone()), Digest::of(&bytes)).await {
            Ok(_) => Ok(bytes),
            Err(e) if e.kind() == store::Kind::Conflict => Ok(self.store.get(&name, bytes_max as u64).await?),
            Err(e) => Err(e.into()),
        }
    }

    async fn read(&self, due: &Due, file: &TimestampFile, bytes_max: usize) -> Result<Option<Bytes>, Failed> {
        match self.store.get(&self.ledger.name().timestamp(due.size, file), bytes_max as u64).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == store::Kind::NotFound => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn damaged(&self, due: &Due, file: &TimestampFile, why: &str) -> Failed {
        let name = self.ledger.name().timestamp(due.size, file);
        Failed::Damaged(format!("'{name}' is not what was written there: {}", escape_bounded(why, 300)))
    }

    /// A record whose writing was reported as failed is in the log and may not be covered by its checkpoint yet: adding nothing
    /// publishes one, and writes nothing where that was done.
    ///
    /// # Errors
    /// [`Failed`]
    pub async fn publish(&self) -> Result<(), Failed> {
        self.ledger.append(Vec::new()).await?;
        Ok(())
    }

    async fn append(&self, envelope: Result<Envelope, exhibit_evidence::dsse::BadEnvelope>) -> Result<(), Failed> {
        let envelope = envelope.map_err(|e| Failed::Own(e.to_string()))?;
        match self.ledger.append(vec![envelope]).await {
            Ok(_) => Ok(()),
            // An earlier try of ours that was reported as failed: a head has one record of each authority, whatever the clock said then.
            Err(e) if e.kind() == LedgerKind::Conflict => self.publish().await,
            Err(e) => Err(e.into()),
        }
    }
}
