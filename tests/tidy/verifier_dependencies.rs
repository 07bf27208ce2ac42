//! What a court must trust is small and known: the verifier's complete list of crates is checked in.

use std::collections::BTreeSet;

#[test]
fn the_verifier_depends_on_what_the_list_says() {
    let out = std::process::Command::new(env!("CARGO"))
        .args(["tree", "-p", "exhibit-verify", "--edges", "normal", "--prefix", "none", "--format", "{p}", "--locked", "--offline"])
        .current_dir(super::root())
        .output()
        .expect("cargo runs");
    assert!(out.status.success(), "cargo tree: {}", String::from_utf8_lossy(&out.stderr));
    let now: BTreeSet<String> = String::from_utf8(out.stdout)
        .expect("UTF-8")
        .lines()
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect();
    let listed: BTreeSet<String> = include_str!("verifier-dependencies.txt").lines().map(str::to_owned).collect();
    let added: Vec<_> = now.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&now).collect();
    assert!(added.is_empty() && gone.is_empty(), "tests/tidy/verifier-dependencies.txt is not current.\nadded: {added:?}\ngone: {gone:?}");
}
