//! The second reader (Python, `tests/second-reader`) must come to the same verdicts as this crate: it was written from
//! `docs/format` alone, so where the two differ, the specification or one of the programs is wrong.

use std::path::Path;
use std::process::Command;

#[test]
fn an_independent_reader_agrees_on_every_vector() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests");
    let vectors = tests.join("vectors");
    let output = Command::new("python3")
        .arg("-B")
        .arg(tests.join("second-reader/check_table.py"))
        .arg(&vectors)
        .output()
        .expect("python3 is needed for this test; tests/run installs it");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(
        !said.contains("ModuleNotFoundError"),
        "python3 lacks a module; run `python3 -m pip install zstandard cryptography asn1crypto` (tests/run does)\n{said}"
    );
    assert!(output.status.success(), "{said}");
    let result: serde_json::Value = serde_json::from_str(said.trim()).unwrap_or_else(|e| panic!("{e}: {said}"));
    let table: serde_json::Value = serde_json::from_slice(&std::fs::read(vectors.join("tampered.json")).expect("table")).expect("JSON");
    let rows = table["cases"].as_array().expect("rows").len();
    assert_eq!(result["checked"], rows + 11, "the good cases, the encrypted one without and with each identity, and every row: {said}");
}
