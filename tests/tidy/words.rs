//! One noun per thing (`docs/glossary.md`), and the project speaks of itself alone.

/// Words that mean one of ours and must not be used for it in identifiers of our formats and interfaces.
const NOT_OURS: &[(&str, &str)] =
    &[("artifact_", "item"), ("chunk_index", "segment"), ("job_id", "order or collection"), ("endpoint_id", "agent")];

#[test]
fn interfaces_use_the_glossarys_words() {
    for ending in [".proto", ".sql"] {
        for path in super::files(ending) {
            let text = std::fs::read_to_string(&path).expect("readable").to_lowercase();
            for (bad, good) in NOT_OURS {
                assert!(!text.contains(bad), "{}: '{bad}': the word is {good}", super::shown(&path));
            }
        }
    }
}

#[test]
fn every_word_of_the_design_is_explained() {
    let glossary = std::fs::read_to_string(super::root().join("docs/glossary.md")).expect("docs/glossary.md");
    for word in [
        "case",
        "order",
        "collection",
        "capture",
        "item",
        "stream",
        "segment",
        "manifest",
        "record",
        "custody log",
        "checkpoint",
        "seal",
        "anchor",
        "profile",
    ] {
        assert!(glossary.contains(&format!("| {word} |")), "{word} is not explained");
    }
}

#[test]
fn no_unfinished_marks_in_product_code() {
    for path in super::files(".rs") {
        let name = super::shown(&path);
        if name.starts_with("tests/") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("readable");
        for mark in ["todo!(", "unimplemented!(", "FIXME", "XXX"] {
            assert!(!text.contains(mark), "{name}: {mark}");
        }
    }
}

#[test]
fn architecture_stays_readable() {
    let text = std::fs::read_to_string(super::root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    assert!(text.lines().count() < 200, "ARCHITECTURE.md is for one sitting: under 200 lines");
}

#[test]
fn no_machine_is_named() {
    for path in super::files("") {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let name = super::shown(&path);
        if name == "Cargo.lock" || name == "tests/tidy/words.rs" {
            continue;
        }
        let root = super::root().display().to_string();
        assert!(!text.contains(&format!("{root}/")), "{name} names a path of this machine");
    }
}
