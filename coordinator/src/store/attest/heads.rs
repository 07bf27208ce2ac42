//! Logs of which a pass lists no head: what is gone as a whole has no version that could be looked at, so it shows by what is left.

use exhibit_evidence::layout::{CaseObject, LogName};

use super::Pass;
use crate::store::StoreError;

/// The logs of which a pass listed something. Names come in their order, so one is remembered.
#[derive(Debug, Default)]
pub(super) struct Logs {
    /// The last one, and whether its head was listed.
    last: Option<(LogName, bool)>,
    /// There was something of a case.
    cases: bool,
    /// There was something of the deployment, or it was asked after.
    deployment: bool,
}

impl Pass {
    /// Notes of which log an object is. Of the one before everything was listed then.
    pub(super) async fn note_log(&mut self, log: &LogName, object: &CaseObject) -> Result<(), StoreError> {
        if self.logs.last.as_ref().is_none_or(|(last, _)| last != log) {
            self.ask_of_last().await?;
            self.logs.last = Some((log.clone(), false));
        }
        match log {
            LogName::Case(_) => self.logs.cases = true,
            LogName::Deployment => self.logs.deployment = true,
        }
        if let Some((_, has_head)) = self.logs.last.as_mut().filter(|_| *object == CaseObject::Checkpoint) {
            *has_head = true;
        }
        Ok(())
    }

    /// Everything was listed.
    pub(super) async fn ask_of_logs(&mut self) -> Result<(), StoreError> {
        self.ask_of_last().await?;
        if self.logs.cases && !self.logs.deployment && self.task.begin.is_empty() {
            self.ask(&LogName::Deployment).await?;
            self.logs.deployment = true;
        }
        Ok(())
    }

    async fn ask_of_last(&mut self) -> Result<(), StoreError> {
        let Some((log, has_head)) = self.logs.last.clone() else { return Ok(()) };
        if !has_head {
            self.ask(&log).await?;
        }
        // Asked for once, also where the pass is gone on with.
        self.logs.last = Some((log, true));
        Ok(())
    }

    async fn ask(&mut self, log: &LogName) -> Result<(), StoreError> {
        // Who only looks at versions is followed by whoever reads the log.
        let Some(judge) = self.judge.clone().filter(|_| !self.versions_only) else { return Ok(()) };
        if let Some(why) = judge.headless(log).await? {
            self.tell("log-head", &log.checkpoint(), why);
        }
        Ok(())
    }
}
