//! Dependency arrows between our crates. Any edge that is not in this table is forbidden, dev-dependencies included,
//! but for tests, which may see everything.

use std::collections::{BTreeMap, BTreeSet};

const ARROWS: &[(&str, &[&str])] = &[
    ("exhibit-evidence", &[]),
    ("exhibit-verify", &["exhibit-evidence"]),
    ("exhibit-proto", &["exhibit-evidence"]),
    ("exhibit-certs", &["exhibit-evidence"]),
    ("exhibit-agent-sys", &[]),
    ("exhibit-agent", &["exhibit-agent-sys", "exhibit-certs", "exhibit-evidence", "exhibit-proto"]),
    ("exhibit-coordinator", &["exhibit-certs", "exhibit-evidence", "exhibit-proto"]),
    ("exhibit-cli", &["exhibit-certs", "exhibit-evidence", "exhibit-proto"]),
];

/// What a test of one crate may use beyond the arrows, each with its reason.
const DEV_ARROWS: &[(&str, &str, &str)] = &[
    ("exhibit-proto", "exhibit-certs", "the transport is tested with real certificates"),
    ("exhibit-certs", "exhibit-proto", "the TLS configurations are tested with real gRPC"),
];

#[test]
fn no_edge_but_the_designs() {
    let out = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(super::root())
        .output()
        .expect("cargo runs");
    let metadata: serde_json::Value = serde_json::from_slice(&out.stdout).expect("cargo metadata prints JSON");
    let allowed: BTreeMap<&str, BTreeSet<&str>> = ARROWS.iter().map(|(from, to)| (*from, to.iter().copied().collect())).collect();
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let from = package["name"].as_str().expect("name");
        seen.insert(from.to_owned());
        if from == "exhibit-tests" {
            continue;
        }
        let Some(allowed) = allowed.get(from) else {
            wrong.push(format!("{from} is not in the table of arrows"));
            continue;
        };
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let to = dependency["name"].as_str().expect("name");
            if !to.starts_with("exhibit") || to == from {
                continue;
            }
            let dev = dependency["kind"] == "dev" && DEV_ARROWS.iter().any(|(f, t, _)| *f == from && *t == to);
            if !allowed.contains(to) && !dev {
                wrong.push(format!("{from} -> {to}"));
            }
        }
    }
    for (from, _) in ARROWS {
        assert!(seen.contains(*from), "{from} is in the table but not in the workspace");
    }
    assert!(wrong.is_empty(), "forbidden edges (ARCHITECTURE.md shows the allowed ones):\n{}", wrong.join("\n"));
}

#[test]
fn no_crate_is_a_drawer() {
    for path in super::files("Cargo.toml") {
        let text = std::fs::read_to_string(&path).expect("readable");
        for bad in ["common", "utils", "helpers", "misc"] {
            assert!(!text.contains(&format!("name = \"exhibit-{bad}\"")), "{}: a crate named {bad} says nothing", super::shown(&path));
        }
    }
}

#[test]
fn unsafe_lives_in_one_place() {
    for path in super::files(".rs") {
        let name = super::shown(&path);
        if name.starts_with("agent/sys/") || name.starts_with("tests/tidy/") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("readable");
        let found = text.lines().position(|l| {
            let code = l.split("//").next().unwrap_or_default();
            code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl") || code.contains("unsafe extern")
        });
        assert!(found.is_none(), "{name}:{}: unsafe outside agent/sys", found.unwrap_or_default() + 1);
    }
}
