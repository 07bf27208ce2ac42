//! What is measured, in OTLP's JSON: read from the OpenMetrics text that `/metrics` shows, so that both always say the same and a
//! new metric needs to be registered once.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Cumulative, the only way in which these counters count.
const CUMULATIVE: u8 = 2;

/// One line of the text: name, labels, value.
type Sample<'a> = (&'a str, Vec<(&'a str, &'a str)>, &'a str);

/// Bounds and counts of one histogram.
#[derive(Default)]
struct Buckets<'a> {
    labels: Vec<(&'a str, &'a str)>,
    /// Upper bound and how many are not above it.
    below: Vec<(f64, u64)>,
    sum: f64,
    count: u64,
}

/// Metrics of a text that `prometheus-client` wrote, in its order: our own labels, which need no escape.
pub(super) fn from_text(text: &str, since_ns: i64, now_ns: i64) -> Vec<Value> {
    let mut metrics: Vec<(&str, &str, &str, Vec<Sample<'_>>)> = Vec::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            metrics.push((name, "", help.trim_end_matches('.'), Vec::new()));
        } else if let Some((_, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            if let Some(metric) = metrics.last_mut() {
                metric.1 = kind;
            }
        } else if let (Some(sample), Some(metric)) = (sample(line), metrics.last_mut()) {
            metric.3.push(sample);
        }
    }
    let times = (since_ns.max(0).to_string(), now_ns.max(0).to_string());
    metrics.iter().filter(|(.., samples)| !samples.is_empty()).map(|(n, k, h, s)| metric(n, k, h, s, &times)).collect()
}

fn sample(line: &str) -> Option<Sample<'_>> {
    let (series, value) = line.strip_prefix('#').map_or_else(|| line.rsplit_once(' '), |_| None)?;
    let Some((name, labels)) = series.split_once('{') else { return Some((series, Vec::new(), value)) };
    let labels = labels.strip_suffix('}')?.split("\",").filter_map(|pair| pair.split_once("=\""));
    Some((name, labels.map(|(key, value)| (key, value.trim_end_matches('"'))).collect(), value))
}

fn metric(name: &str, kind: &str, help: &str, samples: &[Sample<'_>], times: &(String, String)) -> Value {
    let unit = match name {
        _ if name.ends_with("_seconds") => "s",
        _ if name.ends_with("_bytes") => "By",
        _ => "1",
    };
    let mut out = json!({"name": name, "description": help, "unit": unit});
    let points = |since: bool| -> Vec<Value> {
        let point = |(_, labels, value): &Sample<'_>| {
            let mut point = json!({"attributes": attributes(labels), "timeUnixNano": times.1});
            if since {
                point["startTimeUnixNano"] = json!(times.0);
            }
            match value.parse::<i64>() {
                Ok(whole) => point["asInt"] = json!(whole.to_string()),
                Err(_) => point["asDouble"] = json!(value.parse::<f64>().unwrap_or_default()),
            }
            point
        };
        samples.iter().map(point).collect()
    };
    match kind {
        "counter" => out["sum"] = json!({"dataPoints": points(true), "aggregationTemporality": CUMULATIVE, "isMonotonic": true}),
        "histogram" => out["histogram"] = json!({"dataPoints": histograms(samples, times), "aggregationTemporality": CUMULATIVE}),
        _ => out["gauge"] = json!({"dataPoints": points(false)}),
    }
    out
}

fn attributes(labels: &[(&str, &str)]) -> Vec<Value> {
    labels.iter().map(|(key, value)| json!({"key": key, "value": {"stringValue": value}})).collect()
}

/// The text counts all that is not above a bound, OTLP what lies between two bounds.
fn histograms(samples: &[Sample<'_>], times: &(String, String)) -> Vec<Value> {
    let mut by_labels: BTreeMap<String, Buckets<'_>> = BTreeMap::new();
    for (series, labels, value) in samples {
        let others: Vec<_> = labels.iter().filter(|(key, _)| *key != "le").copied().collect();
        let buckets = by_labels.entry(format!("{others:?}")).or_default();
        buckets.labels = others;
        let bound = labels.iter().find(|(key, _)| *key == "le").map(|(_, bound)| *bound);
        match bound {
            Some("+Inf") => {}
            Some(bound) => buckets.below.push((bound.parse().unwrap_or_default(), value.parse().unwrap_or_default())),
            None if series.ends_with("_sum") => buckets.sum = value.parse().unwrap_or_default(),
            None => buckets.count = value.parse().unwrap_or_default(),
        }
    }
    let point = |buckets: &Buckets<'_>| {
        let mut counted = 0;
        let ends = buckets.below.iter().map(|(_, upto)| *upto).chain([buckets.count]);
        let counts: Vec<String> = ends.map(|upto| upto.saturating_sub(std::mem::replace(&mut counted, upto)).to_string()).collect();
        json!({
            "attributes": attributes(&buckets.labels),
            "startTimeUnixNano": times.0,
            "timeUnixNano": times.1,
            "count": buckets.count.to_string(),
            "sum": buckets.sum,
            "explicitBounds": buckets.below.iter().map(|(bound, _)| *bound).collect::<Vec<_>>(),
            "bucketCounts": counts,
        })
    };
    by_labels.values().map(point).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn everything_that_is_shown_is_sent_and_histograms_add_up() {
        let measured = Metrics::default();
        for ms in [2, 20, 20, 200_000] {
            measured.store_call("put", "segment", "ok", Duration::from_millis(ms));
        }
        measured.closed("sealed", Duration::from_millis(5));
        measured.now(3, 2, 1);
        let text = measured.text();
        let sent = from_text(&text, 5, 7);
        let names: Vec<&str> = sent.iter().filter_map(|m| m["name"].as_str()).collect();
        let shown = text.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split(['{', ' ']).next());
        for series in shown {
            assert!(names.iter().any(|name| series.starts_with(name)), "{series} of\n{text}");
        }
        let one = |name: &str| sent.iter().find(|m| m["name"] == name).cloned().unwrap_or_default();
        assert_eq!(one("exhibit_agents")["gauge"]["dataPoints"][0]["asInt"], "3");
        let operations = one("exhibit_store_operations");
        let points = operations["sum"]["dataPoints"].as_array().expect("points");
        let counted: Vec<_> = points.iter().map(|point| &point["asInt"]).filter(|n| **n != "0").collect();
        assert_eq!((&operations["sum"]["isMonotonic"], counted), (&json!(true), vec![&json!("4")]));
        let seconds = &one("exhibit_store_seconds")["histogram"]["dataPoints"][0];
        let counts: Vec<u64> = seconds["bucketCounts"].as_array().into_iter().flatten().filter_map(|n| n.as_str()?.parse().ok()).collect();
        assert_eq!((seconds["count"].as_str(), counts.iter().sum::<u64>(), counts.last()), (Some("4"), 4, Some(&1)), "{seconds}");
        assert_eq!(counts.len(), seconds["explicitBounds"].as_array().map_or(0, Vec::len) + 1);
        assert_eq!(one("exhibit_build")["gauge"]["dataPoints"][0]["attributes"][0]["key"], "version");
    }
}
