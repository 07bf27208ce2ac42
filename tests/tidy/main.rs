//! The rules of the house, as tests: what a rule in prose would lose, these keep.

mod arrows;
mod destroys;
mod pages;
mod rpcs;
mod sizes;
mod verifier_dependencies;
mod words;

use std::path::{Path, PathBuf};

/// The workspace's root folder.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace")
}

/// Every file that git tracks or would track, with the given ending, generated code left out.
fn files(ending: &str) -> Vec<PathBuf> {
    let out = std::process::Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git is installed");
    assert!(out.status.success(), "git ls-files: {}", String::from_utf8_lossy(&out.stderr));
    let mut found: Vec<PathBuf> = String::from_utf8(out.stdout)
        .expect("names in this repository are UTF-8")
        .lines()
        .filter(|name| name.ends_with(ending) && !name.contains("/gen/"))
        .map(|name| root().join(name))
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no *{ending} files found");
    found
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}
