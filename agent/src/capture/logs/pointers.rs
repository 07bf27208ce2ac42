//! Logs whose place is written in a configuration file: the Kubernetes API server's audit log has no default place,
//! auditd and Docker can be told another one. What such a file says is hostile text: it becomes a literal pattern or
//! nothing.

use exhibit_evidence::text::escape_bytes;

use crate::capture::read_pseudo;
use crate::capture::walk::rule::Rule;

/// The largest configuration file that is read for a pointer.
const CONFIG_BYTES_MAX: usize = 256 << 10;

/// Most pointers of one file.
const POINTERS_MAX: usize = 16;

/// A configuration file, the class of the logs that it names, and how to read it.
struct Pointer {
    path: &'static str,
    class: &'static str,
    patterns: fn(&[u8]) -> Vec<String>,
}

const POINTERS: &[Pointer] = &[
    Pointer { path: "/etc/kubernetes/manifests/kube-apiserver.yaml", class: "audit", patterns: of_apiserver },
    Pointer { path: "/etc/audit/auditd.conf", class: "audit", patterns: of_auditd },
    Pointer { path: "/etc/docker/daemon.json", class: "container", patterns: of_docker },
];

/// The rules that this host's configuration files add to the wanted classes.
#[must_use]
pub fn rules(wanted: &[&'static str]) -> Vec<Rule> {
    POINTERS
        .iter()
        .filter(|p| wanted.contains(&p.class))
        .flat_map(|p| {
            let config = read_pseudo(p.path.as_bytes(), CONFIG_BYTES_MAX).unwrap_or_default();
            (p.patterns)(&config.bytes)
                .into_iter()
                .take(POINTERS_MAX)
                .filter_map(|text| Rule::parse(&text).ok())
                .map(|r| r.of_class(p.class))
        })
        .collect()
}

/// `- --audit-log-path=/var/log/k8s/audit.log`; rotated files are `audit-<time>.log[.gz]` beside it.
fn of_apiserver(yaml: &[u8]) -> Vec<String> {
    let mut patterns = Vec::new();
    for line in yaml.split(|b| *b == b'\n') {
        let words = line.trim_ascii().trim_ascii_start();
        let words = words.strip_prefix(b"-").unwrap_or(words).trim_ascii();
        let words = unquoted(words);
        if let Some(path) = words.strip_prefix(b"--audit-log-path=").and_then(|p| literal(unquoted(p))) {
            let stem = path
                .rfind('.')
                .filter(|dot| path.rfind('/').is_some_and(|slash| *dot > slash.saturating_add(1)))
                .and_then(|dot| path.get(..dot));
            patterns.extend([format!("{path}*"), format!("{}-*", stem.unwrap_or(&path))]);
        }
        if let Some(path) = words.strip_prefix(b"--audit-policy-file=").and_then(|p| literal(unquoted(p))) {
            patterns.push(path);
        }
    }
    patterns
}

/// `log_file = /data/audit/audit.log`
fn of_auditd(config: &[u8]) -> Vec<String> {
    let value = |line: &[u8]| {
        let (key, value) = line.split_at_checked(line.iter().position(|b| *b == b'=')?)?;
        (key.trim_ascii() == b"log_file").then(|| literal(value.strip_prefix(b"=")?.trim_ascii())).flatten()
    };
    config.split(|b| *b == b'\n').filter_map(value).map(|path| format!("{path}*")).collect()
}

/// `{"data-root": "/data/docker"}`
fn of_docker(json: &[u8]) -> Vec<String> {
    let config: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
    let root = config.get("data-root").and_then(|v| v.as_str()).and_then(|p| literal(p.as_bytes()));
    root.map(|root| vec![format!("{root}/containers/*/*-json.log*"), format!("{root}/containers/*/local-logs/**")]).unwrap_or_default()
}

fn unquoted(text: &[u8]) -> &[u8] {
    let strip = |quote: &[u8]| text.strip_prefix(quote).and_then(|t| t.strip_suffix(quote));
    strip(b"\"").or_else(|| strip(b"'")).unwrap_or(text)
}

/// An absolute path as a pattern that means only itself.
fn literal(path: &[u8]) -> Option<String> {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let sane = path.starts_with(b"/") && path.len() > 1 && path.len() <= 1_024 && !path.contains(&0);
    sane.then(|| escape_bytes(path).chars().flat_map(|c| if "*?[".contains(c) { vec!['\\', c] } else { vec![c] }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_read() {
        let yaml = b"spec:\n  containers:\n  - command:\n    - kube-apiserver\n    - --audit-log-path=/srv/k8s/audit.log\n    - \"--audit-policy-file=/etc/kubernetes/audit/policy.yaml\"\n    - --audit-log-path=-\n";
        assert_eq!(of_apiserver(yaml), ["/srv/k8s/audit.log*", "/srv/k8s/audit-*", "/etc/kubernetes/audit/policy.yaml"]);
        assert_eq!(of_auditd(b"# x\nlog_file = /data/audit/a.log \nlog_format=RAW\n"), ["/data/audit/a.log*"]);
        assert_eq!(of_docker(br#"{"data-root":"/d*r/"}"#), ["/d\\*r/containers/*/*-json.log*", "/d\\*r/containers/*/local-logs/**"]);
        assert!(of_docker(b"{").is_empty() && of_docker(b"[]").is_empty());
    }

    #[test]
    fn a_pointer_means_only_itself() {
        for hostile in ["/**", "/a/../../etc", "/x\n/y", "relative", "/", "/a//b", "/[z-a]"] {
            let line = format!("log_file = {hostile}");
            for text in of_auditd(line.as_bytes()) {
                if let Ok(rule) = Rule::parse(&text) {
                    let homes = crate::capture::walk::homes::Homes::default();
                    assert!(!rule.patterns(&homes).iter().any(|p| p.matches(b"/etc/shadow")), "{hostile}");
                }
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_handled(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = (of_apiserver(&bytes), of_auditd(&bytes), of_docker(&bytes));
            let _ = of_apiserver(&[b"- --audit-log-path=/", bytes.as_slice()].concat());
        }
    }
}
