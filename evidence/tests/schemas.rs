//! The schemas in `docs/format/schemas` and the readers of this crate are one definition: what is in the vectors passes
//! both, and what is wrong in any place is refused by both. The judge of the schemas is a foreign program.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::manifest::Line;
use exhibit_evidence::record::{PREDICATE_PREFIX, Record};
use serde_json::{Value, json};

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn files(folder: &Path, each: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() { files(&path, each) } else { each(&path) }
    }
}

/// Everything in the good vectors, by schema: envelopes, their payloads, manifest lines.
fn samples() -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    files(&project().join("tests/vectors"), &mut |path| {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let text = || String::from_utf8(fs::read(path).expect("reads")).expect("UTF-8");
        if name.ends_with(".dsse.json") {
            let envelope: Value = serde_json::from_str(&text()).expect("JSON");
            let payload = STANDARD.decode(envelope["payload"].as_str().expect("payload")).expect("base64");
            let payload = String::from_utf8(payload).expect("UTF-8");
            let statement: Value = serde_json::from_str(&payload).expect("JSON");
            let kind = statement["predicateType"].as_str().expect("type").trim_start_matches(PREDICATE_PREFIX);
            all.entry(format!("{}.json", kind.replace(':', "."))).or_default().push(payload);
            all.entry("envelope.v1.json".to_owned()).or_default().push(text());
        } else if name == "manifest.jsonl" {
            all.entry("manifest-line.v1.json".to_owned()).or_default().extend(text().lines().map(str::to_owned));
        }
    });
    all
}

/// What this crate's reader says of the shape alone, where it says something: that the subjects do not follow from the
/// predicate is a rule that no schema holds.
fn accepted(schema: &str, what: &str, text: &str) -> Option<bool> {
    match schema {
        "envelope.v1.json" => Some(Envelope::parse(text.as_bytes()).is_ok()),
        // What a path object shows is made of its bytes, by a rule that no schema holds.
        "manifest-line.v1.json" if what.contains(".shown = \"") => None,
        // A line has one form; the order of fields and the spaces aside, which a schema does not see.
        "manifest-line.v1.json" => Some(serde_json::from_str::<Line>(text).is_ok_and(|line| {
            let known = !matches!(&line, Line::Header(header) if header.format != exhibit_evidence::manifest::FORMAT);
            known && serde_json::to_value(&line).ok() == serde_json::from_str(text).ok()
        })),
        _ => match Record::from_payload(text.as_bytes()) {
            Ok(_) => Some(true),
            Err(e) if e.to_string().ends_with("the subjects do not follow from the predicate") => {
                Some(true).filter(|_| !what.starts_with(".subject"))
            }
            Err(_) => Some(false),
        },
    }
}

/// Every value with something else in its place, every field left out, every object with a field more.
fn mutated(value: &Value, place: &str, each: &mut dyn FnMut(String, Value)) {
    let others =
        [Value::Null, json!(true), json!(-1), json!(18_446_744_073_709_551_615u64), json!("?"), json!([]), json!({}), json!(["?"])];
    for other in others.into_iter().filter(|other| other != value) {
        each(format!("{place} = {other}"), other);
    }
    match value {
        Value::Object(fields) => {
            let mut more = fields.clone();
            more.insert("unheard-of".to_owned(), json!("?"));
            each(format!("{place}: a field more"), Value::Object(more));
            for (name, field) in fields {
                let mut less = fields.clone();
                less.remove(name);
                each(format!("{place}.{name} left out"), Value::Object(less));
                mutated(field, &format!("{place}.{name}"), &mut |what, field| {
                    let mut changed = fields.clone();
                    changed.insert(name.clone(), field);
                    each(what, Value::Object(changed));
                });
            }
        }
        Value::Array(entries) => {
            for (n, entry) in entries.iter().enumerate().take(2) {
                mutated(entry, &format!("{place}[{n}]"), &mut |what, entry| {
                    let mut changed = entries.clone();
                    changed[n] = entry;
                    each(what, Value::Array(changed));
                });
            }
        }
        _ => {}
    }
}

/// The samples with the most fields, so that every field that any of them has is mutated at least once.
fn fullest(texts: &[String]) -> Vec<Value> {
    let mut seen = std::collections::BTreeSet::new();
    let mut values: Vec<Value> = texts.iter().map(|t| serde_json::from_str(t).expect("JSON")).collect();
    values.sort_by_key(|v| std::cmp::Reverse(v.to_string().len()));
    let mut fields = |value: &Value| {
        let mut new = false;
        let mut stack = vec![(String::new(), value.clone())];
        while let Some((place, value)) = stack.pop() {
            match value {
                Value::Object(o) => stack.extend(o.into_iter().map(|(k, v)| (format!("{place}.{k}"), v))),
                Value::Array(a) => stack.extend(a.into_iter().map(|v| (format!("{place}[]"), v))),
                _ => new |= seen.insert(place),
            }
        }
        new
    };
    values.retain(|value| fields(value));
    values
}

fn judge(cases: &str) -> Value {
    let mut python = Command::new("python3")
        .arg("-B")
        .arg(project().join("tests/second-reader/schemas.py"))
        .arg(project().join("docs/format/schemas"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 with jsonschema is needed for this test; tests/run installs it");
    let mut stdin = python.stdin.take().expect("stdin");
    let bytes = cases.as_bytes().to_vec();
    let feeder = std::thread::spawn(move || stdin.write_all(&bytes));
    let output = python.wait_with_output().expect("runs");
    feeder.join().expect("feeder").expect("the judge reads everything");
    assert!(output.status.success(), "the judge fails");
    serde_json::from_slice(&output.stdout).expect("its report")
}

#[test]
fn schemas_and_readers_decide_alike() {
    let samples = samples();
    for kind in Record::TYPES {
        let schema = format!("{}.json", kind.replace(':', "."));
        assert!(samples.contains_key(&schema), "no vector has a record {kind}");
    }
    let mut cases = String::new();
    let mut count = 0u64;
    let mut refused = 0u64;
    let mut add = |schema: &str, what: &str, text: &str| {
        let Some(accept) = accepted(schema, what, text) else { return true };
        let _ = writeln!(cases, "{}", json!({"schema": schema, "what": what, "text": text, "accept": accept}));
        count += 1;
        refused += u64::from(!accept);
        accept
    };
    for (schema, texts) in &samples {
        for text in texts {
            assert!(add(schema, "from a vector", text), "{schema}: {text}");
        }
        for value in fullest(texts) {
            mutated(&value, "", &mut |what, value| {
                add(schema, &what, &value.to_string());
            });
        }
    }
    let report = judge(&cases);
    assert_eq!(report["others"], 0, "{report:#}");
    assert_eq!(report["judged"], count);
    assert!(refused > 1_000 && count - refused > 100, "{refused} of {count} refused: the test tries too little");
    let published: Vec<&str> = report["schemas"].as_array().expect("list").iter().filter_map(Value::as_str).collect();
    let known = Record::TYPES.iter().map(|t| format!("{}.json", t.replace(':', ".")));
    let known: std::collections::BTreeSet<String> =
        known.chain(["common.v1.json", "envelope.v1.json", "manifest-line.v1.json"].map(str::to_owned)).collect();
    assert_eq!(published, known.iter().map(String::as_str).collect::<Vec<_>>(), "one schema for each record, and no other");
}
