//! The bounds of an order, apart from who signed it. The agent's own policy may be narrower.

use std::collections::BTreeSet;

use exhibit_evidence::Timestamp;
use exhibit_evidence::record::Order;
use exhibit_evidence::text::{escape_bounded, written};

/// Longest time between issue and expiry of an order.
pub const ORDER_LIFE_S_MAX: i64 = 30 * 86_400;
/// How far a responder's clock may be ahead of the coordinator's.
pub const CLOCK_AHEAD_S_MAX: i64 = 300;
/// Most parameters of one capture.
pub const PARAMS_MAX: usize = 64;
/// Longest parameter name.
const PARAM_NAME_BYTES_MAX: usize = 63;
/// Longest deadline.
const DEADLINE_S_MAX: u64 = 30 * 86_400;
/// Least send rate: an upload that is slower would hold memory that others wait for.
const SEND_BYTES_PER_S_MIN: u64 = 1 << 10;
/// Least read rate: an agent takes one order at a time, and one that reads slower keeps it from every other order.
const READ_BYTES_PER_S_MIN: u64 = 64 << 10;

/// Checks what an order says against `now`.
///
/// # Errors
/// A sentence that names the field, its value and what is allowed.
pub fn check(order: &Order, now: Timestamp) -> Result<(), String> {
    check_targets(order)?;
    check_times(order, now)?;
    check_captures(order)?;
    if order.profile.as_deref().is_some_and(|p| !is_word(p, 63)) {
        return Err("profile: expected 1 to 63 characters of a-z 0-9 -".to_owned());
    }
    check_words(order)?;
    check_rates(order)?;
    match order.limits.deadline_s {
        Some(s) if s == 0 || s > DEADLINE_S_MAX => Err(format!("limits.deadline_s: {s}: expected 1 to {DEADLINE_S_MAX}")),
        _ => Ok(()),
    }
}

fn check_words(order: &Order) -> Result<(), String> {
    let words =
        [("reason", &order.reason, "say why this is collected"), ("legal_basis", &order.legal_basis, "say on what right this rests")];
    for (field, text, remedy) in words {
        written(text, exhibit_proto::bounds::REASON_BYTES_MAX).map_err(|why| format!("{field}: {why}; {remedy}"))?;
    }
    Ok(())
}

fn check_captures(order: &Order) -> Result<(), String> {
    let captures = order.captures.len();
    if captures == 0 || captures > Order::CAPTURES_MAX {
        return Err(format!("captures: {captures}: expected 1 to {}", Order::CAPTURES_MAX));
    }
    for (n, capture) in order.captures.iter().enumerate() {
        // Two lists of parameters: an agent could only drop one of them, or guess how they go together.
        if order.captures.iter().take(n).any(|c| c.name == capture.name) {
            return Err(format!("captures: '{}' is there twice: put both into one, or send two orders", escape_bounded(&capture.name, 60)));
        }
        if !is_word(&capture.name, 32) {
            return Err(format!(
                "captures: '{}' is not a capture's name: expected 1 to 32 characters of a-z 0-9 -",
                escape_bounded(&capture.name, 60)
            ));
        }
        if capture.params.len() > PARAMS_MAX {
            return Err(format!("captures: '{}' has {} parameters: at most {PARAMS_MAX} are allowed", capture.name, capture.params.len()));
        }
        if let Some(name) = capture.params.keys().find(|name| name.is_empty() || name.len() > PARAM_NAME_BYTES_MAX) {
            return Err(format!(
                "captures: '{}' has a parameter named '{}': expected 1 to {PARAM_NAME_BYTES_MAX} bytes",
                capture.name,
                escape_bounded(name, 60)
            ));
        }
    }
    Ok(())
}

fn check_rates(order: &Order) -> Result<(), String> {
    if order.limits.cpu_percent == Some(0) {
        return Err("limits.cpu_percent: 0: expected at least 1; an agent without processor time never ends".to_owned());
    }
    if let Some(rate) = order.limits.read_bytes_per_s.filter(|rate| *rate < READ_BYTES_PER_S_MIN) {
        return Err(format!(
            "limits.read_bytes_per_s: {rate}: expected at least {READ_BYTES_PER_S_MIN}; a slower collection keeps the agent from every other order"
        ));
    }
    if let Some(rate) = order.limits.send_bytes_per_s.filter(|rate| *rate < SEND_BYTES_PER_S_MIN) {
        return Err(format!(
            "limits.send_bytes_per_s: {rate}: expected at least {SEND_BYTES_PER_S_MIN}; a slower upload is not waited for"
        ));
    }
    Ok(())
}

fn check_targets(order: &Order) -> Result<(), String> {
    let targets = order.targets.len();
    if targets == 0 || targets > Order::TARGETS_MAX {
        return Err(format!("targets: {targets}: expected 1 to {}", Order::TARGETS_MAX));
    }
    let mut seen = BTreeSet::new();
    match order.targets.iter().find(|t| !seen.insert(*t)) {
        Some(twice) => Err(format!("targets: {twice} is named twice")),
        None => Ok(()),
    }
}

fn check_times(order: &Order, now: Timestamp) -> Result<(), String> {
    if order.issued_at > now.plus_s(CLOCK_AHEAD_S_MAX) {
        return Err(format!(
            "issued_at: {}: more than {CLOCK_AHEAD_S_MAX} s ahead of the coordinator's clock ({now}); set the clock of the machine that signed the order",
            order.issued_at
        ));
    }
    if order.expires_at <= now {
        return Err(format!("expires_at: {}: expired, it is {now}; sign a new order", order.expires_at));
    }
    if order.expires_at <= order.issued_at || order.expires_at > order.issued_at.plus_s(ORDER_LIFE_S_MAX) {
        return Err(format!("expires_at: {}: expected up to {ORDER_LIFE_S_MAX} s after issued_at ({})", order.expires_at, order.issued_at));
    }
    Ok(())
}

fn is_word(text: &str, bytes_max: usize) -> bool {
    !text.is_empty() && text.len() <= bytes_max && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use exhibit_evidence::Digest;
    use exhibit_evidence::id::{AgentId, CaseId, OrderId};
    use exhibit_evidence::record::{CaptureSpec, Limits, Nonce};

    type Change = fn(&mut Order);

    fn good() -> Order {
        let now = Timestamp::from_unix_s(1_000_000);
        Order {
            order: OrderId::new(1, [1; 10]),
            case: CaseId::new(1, [1; 10]),
            predecessor: Digest::of(b"case"),
            targets: vec![AgentId::new(1, [1; 10]), AgentId::new(1, [2; 10])],
            profile: Some("triage".to_owned()),
            captures: vec![CaptureSpec { name: "system".to_owned(), params: std::collections::BTreeMap::new() }],
            limits: Limits::default(),
            legal_basis: "works agreement, section 4".to_owned(),
            reason: "suspicion".to_owned(),
            issued_by: "spiffe://d/responder/ada".to_owned(),
            issued_at: now,
            expires_at: now.plus_s(3_600),
            nonce: Nonce { size: 1, root: Digest::of(b"root") },
        }
    }

    #[test]
    fn each_bound_is_named() {
        let now = Timestamp::from_unix_s(1_000_000);
        assert_eq!(check(&good(), now), Ok(()));
        let cases: [(&str, Change); 15] = [
            ("targets", |o| o.targets.clear()),
            ("targets", |o| o.targets.push(AgentId::new(1, [1; 10]))),
            ("captures", |o| o.captures.clear()),
            ("captures", |o| o.captures[0].name = "../x".to_owned()),
            ("captures", |o| {
                o.captures[0].params.insert("k".repeat(64), String::new());
            }),
            ("captures", |o| o.captures.push(o.captures[0].clone())),
            ("profile", |o| o.profile = Some(String::new())),
            ("reason", |o| o.reason = " ".to_owned()),
            ("limits.deadline_s", |o| o.limits.deadline_s = Some(0)),
            ("limits.cpu_percent", |o| o.limits.cpu_percent = Some(0)),
            ("limits.read_bytes_per_s", |o| o.limits.read_bytes_per_s = Some(1)),
            ("limits.send_bytes_per_s", |o| o.limits.send_bytes_per_s = Some(100)),
            ("issued_at", |o| o.issued_at = Timestamp::from_unix_s(1_000_301)),
            ("expires_at", |o| o.expires_at = Timestamp::from_unix_s(1_000_000)),
            ("expires_at", |o| o.expires_at = Timestamp::from_unix_s(9_000_000)),
        ];
        for (field, change) in cases {
            let mut order = good();
            change(&mut order);
            assert!(check(&order, now).is_err_and(|e| e.starts_with(field)), "{field}");
        }
    }
}
