//! `exhibit agents`, `exhibit token`, `exhibit whoami`.

use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::{AgentId, Digest, Timestamp};
use exhibit_proto::responder::v1 as pb;
use serde_json::{Value, json};

use crate::args::{AgentsArgs, AgentsCommand};
use crate::commands::cases::show;
use crate::connection::{Connection, parse_id};
use crate::exit::{Code, Failure, Result};
use crate::output::Output;
use crate::units::{count, label_map, show_time};

fn to_json(agent: &pb::Agent) -> Value {
    json!({
        "agent": agent.agent, "hostname": agent.hostname, "state": agent.state, "labels": agent.labels,
        "last_seen": (agent.last_seen_ns != 0).then(|| Timestamp::from_unix_ns(agent.last_seen_ns).to_string()),
        "version": agent.version, "kernel": agent.kernel, "os": agent.os,
        "clock_offset_ms": agent.clock_offset_ns / 1_000_000,
        "enrolled_at": Timestamp::from_unix_ns(agent.enrolled_at_ns).to_string(), "captures": agent.captures,
        "alarm": (!agent.alarm.is_empty()).then_some(&agent.alarm),
    })
}

/// All agents that carry the labels.
pub async fn list(connection: &mut Connection, labels: &[(String, String)]) -> Result<Vec<pb::Agent>> {
    let request = pb::ListAgentsRequest { labels: label_map(labels)? };
    let mut stream = connection.rpc().list_agents(request).await?.into_inner();
    let mut agents = Vec::new();
    while let Some(agent) = stream.message().await? {
        agents.push(agent);
    }
    Ok(agents)
}

/// Lists or manages agents.
pub async fn run(connection: &mut Connection, args: AgentsArgs, out: &Output) -> Result<Code> {
    match args.command {
        None => {
            let agents = list(connection, &args.labels).await?;
            let rows: Vec<Value> = agents
                .iter()
                .map(|agent| {
                    let mut row = to_json(agent);
                    if !out.is_json() {
                        row["last_seen"] = json!(show_time(agent.last_seen_ns));
                    }
                    row
                })
                .collect();
            let columns = [
                ("agent", "agent"),
                ("state", "state"),
                ("host", "hostname"),
                ("labels", "labels"),
                ("last seen (UTC)", "last_seen"),
                ("os", "os"),
                ("version", "version"),
            ];
            out.rows(&columns, &rows)?;
            for agent in agents.iter().filter(|a| !a.alarm.is_empty() && a.state != "revoked") {
                let alarm = escape_bounded(&agent.alarm, 300);
                out.note(&format!(
                    "ALARM {}: {alarm}; if it is no restart, revoke it: exhibit agents revoke {0} --reason ...",
                    agent.agent
                ));
            }
        }
        Some(AgentsCommand::Label { agent, labels, clear: _ }) => {
            let agent: AgentId = parse_id(&agent)?;
            let request = pb::SetAgentLabelsRequest { agent: agent.to_string(), labels: label_map(&labels)? };
            let agent = connection.rpc().set_agent_labels(request).await?.into_inner();
            show(&to_json(&agent), out)?;
        }
        Some(AgentsCommand::Revoke { agent, reason }) => {
            let agent: AgentId = parse_id(&agent)?;
            let sent = connection.rpc().revoke_agent(pb::RevokeAgentRequest { agent: agent.to_string(), reason }).await;
            let agent = sent.map_err(|status| Failure::from(status).unsure("the agent was revoked", "exhibit agents"))?.into_inner();
            show(&to_json(&agent), out)?;
        }
    }
    Ok(Code::Ok)
}

/// Makes a token.
pub async fn token(connection: &mut Connection, ttl_s: u64, uses: u32, labels: &[(String, String)], out: &Output) -> Result<Code> {
    let request = pb::CreateTokenRequest { ttl_s, uses, labels: label_map(labels)? };
    let made = connection.rpc().create_token(request).await?.into_inner();
    let ca = Digest::try_from(made.ca_sha256.as_slice())
        .map_err(|e| Failure::new(Code::Failure, format!("the coordinator's answer is unusable: {e}")))?;
    if out.is_json() {
        let expires_at = Timestamp::from_unix_ns(made.expires_at_ns).to_string();
        out.object(&json!({"token": made.token, "expires_at": expires_at, "uses": uses, "ca_sha256": ca.to_string(), "coordinator": connection.address()}))?;
    } else {
        out.line(&made.token)?;
        out.note(&format!(
            "works {}, until {} UTC; it is not shown again. On the host, as root:",
            count(uses.into(), "time", "times"),
            show_time(made.expires_at_ns)
        ));
        out.note(&format!(
            "  exhibit-agent enroll --coordinator {} --ca-sha256 {ca} --token TOKEN --dir /var/lib/exhibit-agent",
            connection.address()
        ));
    }
    Ok(Code::Ok)
}

/// Shows the caller's identity.
pub fn whoami(connection: &Connection, out: &Output) -> Result<Code> {
    let me = connection.whoami();
    let limits: Vec<_> = me.limits.iter().map(|l| json!({"role": l.role, "cases": l.cases, "cases_total": l.cases_total})).collect();
    let limits = if out.is_json() { json!(limits) } else { json!(limits_text(&me.limits)) };
    show(
        &json!({
            "name": me.name, "roles": me.roles, "limits": limits, "deployment": me.deployment, "coordinator": connection.address(),
            "coordinator_version": me.version,
        }),
        out,
    )?;
    Ok(Code::Ok)
}

/// Cases of one role that a person is shown.
const LIMIT_CASES_SHOWN_MAX: usize = 20;

/// Where roles hold that do not hold everywhere.
fn limits_text(limits: &[pb::RoleLimit]) -> String {
    if limits.is_empty() {
        return "none: each role holds in every case".to_owned();
    }
    let one = |limit: &pb::RoleLimit| {
        let shown: Vec<&str> = limit.cases.iter().take(LIMIT_CASES_SHOWN_MAX).map(String::as_str).collect();
        let more = limit.cases_total.saturating_sub(shown.len() as u64);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        format!("{} only in {}{more}", limit.role, shown.join(", "))
    };
    limits.iter().map(one).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_roles_hold_is_said() {
        assert_eq!(limits_text(&[]), "none: each role holds in every case");
        let limit = |role: &str, cases: &[&str], cases_total| pb::RoleLimit {
            role: role.to_owned(),
            cases: cases.iter().map(|c| (*c).to_owned()).collect(),
            cases_total,
        };
        let limits = [limit("approver", &["cas-a"], 1), limit("custodian", &["cas-a", "cas-b"], 5)];
        assert_eq!(limits_text(&limits), "approver only in cas-a; custodian only in cas-a, cas-b and 3 more");
    }
}
