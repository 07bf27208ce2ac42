//! What the work modules share: one set per running coordinator.

use std::collections::HashSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError, RwLock};

use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::id::{AgentId, CaseId};
use exhibit_evidence::key::{KeyId, SigningKey};
use exhibit_evidence::record::{Rights, Role};
use exhibit_evidence::text::one_line;

use crate::audit::Audit;
use crate::authz::{Helper, people_with};
use crate::catalog::{IncidentRow, SharedCatalog};
use crate::clock;
use crate::custody::Condemned;
use crate::dispatch::{Sessions, Unoffered};
use crate::incidents::{Recent, Recorded, Reported};
use crate::intake::Uploads;
use crate::ledger::{Ledger, Ledgers};
use crate::metrics::SharedMetrics;
use crate::problem::Result;
use crate::progress::Progress;
use crate::replica::{Leases, Notice, Proofs};
use crate::seal::Sealer;
use crate::serve::Rules;
use crate::store::Store;

/// Everything that the work modules need.
pub struct Parts {
    /// The index.
    pub catalog: SharedCatalog,
    /// Evidence and logs.
    pub store: Arc<dyn Store>,
    /// The second store, where there is one.
    pub copy: Option<crate::copy::Second>,
    /// When the store is verified, if it is.
    pub verify: Option<crate::reverify::Schedule>,
    /// What is measured.
    pub metrics: SharedMetrics,
    /// Who is told of it outside.
    pub audit: Audit,
    /// What the store's provider takes.
    pub prices: Option<crate::cost::Prices>,
    /// Rights among coordinators, and the way to the others.
    pub leases: Arc<Leases>,
    /// The clock is not the others': nobody is served.
    pub out_of_time: AtomicBool,
    /// Signs of life of agents that are connected to others.
    pub proofs: Proofs,
    /// The custody logs over the store.
    pub ledgers: Arc<Ledgers>,
    /// The deployment's log: keys and roles.
    pub deployment_log: Ledger,
    /// Who enrols agents.
    pub issuing: Issuing,
    /// Watchers.
    pub progress: Progress,
    /// Connected agents.
    pub sessions: Sessions,
    /// Collections to be offered again.
    pub unoffered: Unoffered,
    /// Cases to be given to the catalog again.
    pub untaken: crate::dispatch::cases::Untaken,
    /// Orders that are looked for in their logs.
    pub unsettled: crate::dispatch::orders::Unsettled,
    /// Uploads that run, and their admission.
    pub uploads: Uploads,
    /// Timestamp authorities.
    pub authorities: Vec<crate::stamp::Authority>,
    /// Ends being written.
    pub sealer: Sealer,
    /// Disposals that are approved and not finished.
    pub condemned: Condemned,
    /// Cases whose locks in the store are to be looked at.
    pub attesting: crate::attest::Desk,
    /// Ends the connections that a revoked peer has here; the transport's registry behind a function.
    pub disconnect: Box<dyn Fn(&str) + Send + Sync>,
    /// Agents that are revoked; read at every call.
    pub revoked: Revoked,
    /// Incidents that were told lately.
    pub recent_incidents: Recent,
    /// Incidents that were written into a log lately.
    pub recorded_incidents: Recorded,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Parts({})", self.deployment())
    }
}

/// The coordinator's power to enrol agents.
pub struct Issuing {
    /// Signs certificates.
    pub authority: exhibit_certs::issue::Authority,
    /// The deployment's TLS root certificate, DER.
    pub tls_root: Vec<u8>,
    /// Signs enrolment records of agents.
    pub key: SigningKey,
    /// The issuer key's own enrolment.
    pub enrolment: Envelope,
    /// The deployment's name.
    pub deployment: exhibit_certs::DeploymentName,
    /// The anchor file's bytes.
    pub anchor: Vec<u8>,
    /// What the operator chose.
    pub rules: Rules,
}

/// The agents that are revoked: as many entries as were ever revoked, in memory.
#[derive(Debug, Default)]
pub struct Revoked(RwLock<HashSet<AgentId>>);

impl Revoked {
    /// Adds an agent.
    pub fn add(&self, agent: AgentId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(agent);
    }

    /// True when the agent is revoked.
    #[must_use]
    pub fn contains(&self, agent: &AgentId) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(agent)
    }
}

impl Issuing {
    /// Life of an agent's certificate.
    #[must_use]
    pub fn agent_life(&self) -> std::time::Duration {
        std::time::Duration::from_hours(u64::from(self.rules.agent_hours.max(1)))
    }
}

impl Parts {
    /// Ends the connections of a revoked peer, at all coordinators.
    pub fn disconnect_everywhere(&self, name: &str) {
        (self.disconnect)(name);
        self.leases.outbox().send(Notice::Revoked { name: name.to_owned() });
    }

    /// What is measured, with what is so just now, as OpenMetrics text.
    #[must_use]
    pub fn measured(&self) -> String {
        let waiting = self.progress.paused_count().saturating_add(self.uploads.turned_away());
        self.metrics.now(self.sessions.agents().len(), self.uploads.open(), waiting);
        self.metrics.text()
    }

    /// The deployment's name.
    #[must_use]
    pub fn deployment(&self) -> &str {
        self.issuing.deployment.as_str()
    }

    /// The name of an agent in certificates and records.
    #[must_use]
    pub fn agent_name(&self, agent: &AgentId) -> String {
        format!("spiffe://{}/agent/{agent}", self.deployment())
    }

    /// The rights of a person's name, of all its keys together: for somebody who is named and does not act.
    #[must_use]
    pub fn rights_of(&self, name: &str) -> Rights {
        self.deployment_log.view().key_ring().rights_of(name)
    }

    /// The rights of a person's key; none when it is revoked or another's.
    #[must_use]
    pub fn rights_of_key(&self, name: &str, key: KeyId) -> Rights {
        let view = self.deployment_log.view();
        let ring = view.key_ring();
        let is_theirs = ring.holder(key).is_some_and(|(holder, ..)| holder == name);
        if is_theirs { ring.rights_of_key(key) } else { Rights::default() }
    }

    /// See [`people_with`].
    #[must_use]
    pub fn people_with(&self, roles: &[Role]) -> Vec<Helper> {
        people_with(self.deployment_log.view().key_ring(), roles)
    }

    /// Keeps an incident; what repeats itself is only counted. The timers write it into the log of its case, or the
    /// deployment's. That it cannot be kept stops nobody: the program's own log has a line of it. Whoever tells something only once
    /// looks at what is given back.
    pub async fn incident(&self, case: Option<&CaseId>, kind: &str, subject: &str, detail: &str) -> Reported {
        let Some(untold) = self.recent_incidents.admit(kind, subject, tokio::time::Instant::now()) else { return Reported::Limited };
        let more = if untold > 0 { format!(" ({untold} of the same before it were not listed)") } else { String::new() };
        // The names in it are escaped where they are put in.
        let detail = format!("{}{more}", one_line(detail, 2_000));
        tracing::error!(kind, subject, %detail, "incident");
        self.metrics.incident();
        self.audit.incident(case, kind, subject, &detail);
        let mut row = IncidentRow::new(clock::now(), case.cloned(), kind, subject, detail);
        row.count = untold.saturating_add(1);
        match self.catalog.add_incident(row).await {
            Ok(()) => Reported::Told,
            Err(error) => {
                tracing::error!(%error, "the incident could not be kept in the catalog");
                Reported::Failed
            }
        }
    }

    /// Fills the list of revoked agents from the catalog, at start.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn load_revoked(&self) -> Result<()> {
        let mut after = None;
        loop {
            let page = self.catalog.agents(crate::catalog::Labels::new(), after, crate::catalog::PAGE_MAX).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.agent.clone());
            for row in page {
                // The log decides: a revocation may have been cut before it reached the catalog.
                let in_log = self.deployment_log.view().key_ring().holder(row.key).is_none();
                if in_log && row.revoked.is_none() {
                    self.catalog.revoke_agent(row.agent.clone(), clock::now(), "revoked; the log says why".to_owned()).await?;
                }
                if in_log || row.revoked.is_some() {
                    self.revoked.add(row.agent);
                }
            }
        }
    }
}
