//! Pages point at what exists: a link or a path in prose that nobody checks goes stale at the first move.

use std::path::Path;

/// Targets of Markdown links: what stands in `](...)`, without anchors, addresses left out.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .map(|target| target.split('#').next().unwrap_or_default())
        .filter(|target| !target.is_empty() && !target.contains("://"))
}

/// Paths in backquotes that begin with one of our folders; patterns and placeholders left out.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    const FOLDERS: [&str; 9] = ["agent/", "certs/", "cli/", "coordinator/", "deploy/", "docs/", "evidence/", "proto/", "tests/"];
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|quoted| FOLDERS.iter().any(|f| quoted.starts_with(f)) && !quoted.contains(['*', '<', ' ', '{', '\n']))
}

#[test]
fn what_a_page_points_at_is_there() {
    let mut missing = Vec::new();
    for page in super::files(".md") {
        let text = std::fs::read_to_string(&page).expect("readable");
        let here = page.parent().unwrap_or(Path::new("."));
        missing.extend(links(&text).filter(|l| !here.join(l).exists()).map(|l| format!("{}: ({l})", super::shown(&page))));
        missing.extend(paths(&text).filter(|p| !super::root().join(p).exists()).map(|p| format!("{}: `{p}`", super::shown(&page))));
    }
    assert!(missing.is_empty(), "these do not exist:\n{}", missing.join("\n"));
}

#[test]
fn the_search_finds_what_it_should() {
    let text = "see [a](x.md#y) and [b](https://z), `docs/format/` or `docs/*.md` or `cargo`";
    assert_eq!(links(text).collect::<Vec<_>>(), ["x.md"]);
    assert_eq!(paths(text).collect::<Vec<_>>(), ["docs/format/"]);
}
