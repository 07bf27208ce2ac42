//! The log definitions: which paths belong to which class. They are data (`definitions.txt` beside this file).

use crate::capture::walk::rule::Rule;

const TEXT: &str = include_str!("definitions.txt");

/// The classes in the order in which they speak for a file.
pub use exhibit_evidence::parameters::LOG_CLASSES as CLASSES;

/// The rules of a class. A line that does not parse cannot occur (a test reads them all).
#[must_use]
pub fn rules_of(class: &'static str) -> Vec<Rule> {
    lines_of(class).filter_map(|line| Rule::parse(line).ok()).map(|rule| rule.of_class(class)).collect()
}

fn lines_of(class: &str) -> impl Iterator<Item = &'static str> {
    let heading = |line: &'static str| line.strip_prefix('[').and_then(|l| l.strip_suffix(']'));
    let mut current = "";
    TEXT.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).filter(move |line| match heading(line) {
        Some(name) => {
            current = name;
            false
        }
        None => current == class,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_rule_of_a_known_class() {
        let total: usize = CLASSES
            .iter()
            .map(|class| {
                let lines: Vec<&str> = lines_of(class).collect();
                assert!(!lines.is_empty(), "class '{class}' is empty");
                for line in &lines {
                    if let Err(e) = Rule::parse(line) {
                        panic!("class '{class}': {e}");
                    }
                }
                assert_eq!(rules_of(class).len(), lines.len());
                lines.len()
            })
            .sum();
        let all = TEXT.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).count();
        assert_eq!(total + CLASSES.len(), all, "a heading that is no class, or a line before the first heading");
    }

    #[test]
    fn the_classes_of_well_known_logs() {
        let rules: Vec<Rule> = CLASSES.iter().flat_map(|c| rules_of(c)).collect();
        let homes = crate::capture::walk::homes::Homes::default();
        for (path, class) in [
            ("/var/log/audit/audit.log.3", "audit"),
            ("/var/log/auth.log.2.gz", "auth"),
            ("/var/log/secure-20261101", "auth"),
            ("/var/log/btmp.1", "auth"),
            ("/var/log/journal/3f/user-1000@0005.journal~", "journal"),
            ("/run/log/journal/3f/system.journal", "journal"),
            ("/var/log/syslog.7.gz", "system"),
            ("/var/log/messages-20261101.xz", "system"),
            ("/var/log/ufw.log.1", "network"),
            ("/var/log/suricata/eve.json", "security"),
            ("/var/log/pods/ns_pod_uid/c/0.log.20261123-101010.gz", "container"),
            ("/var/lib/docker/containers/ab/ab-json.log.1", "container"),
            ("/var/log/cloud-init-output.log", "cloud"),
            ("/var/log/google-cloud-ops-agent/health-checks.log", "cloud"),
            ("/var/log/dpkg.log.12.gz", "packages"),
            ("/var/log/nginx/access.log.14.gz", "application"),
            ("/var/log/mail.log", "application"),
            ("/var/log/something/nobody/knows.log", "other"),
        ] {
            let first = rules.iter().find(|r| r.patterns(&homes).iter().any(|p| p.matches(path.as_bytes())));
            assert_eq!(first.map(|r| r.class), Some(class), "{path}");
        }
    }
}
