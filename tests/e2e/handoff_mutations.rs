//! Each class of byte in a bag is flipped or forged: our verifier names each with its own code, and where a foreign program
//! should see it, the commands of VERIFY.md do.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use exhibit_evidence::Digest;
use exhibit_evidence::bag::{Sums, manifest_line};
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::key::SigningKey;
use exhibit_evidence::log::{Checkpoint, Layer, Tile, Tree, leaf_hash};
use exhibit_tests::Finished;
use serde_json::Value;

use crate::handoff::{Handoff, run_verify_md};

/// The page says this one in a sentence.
const NO_TIME: &str = "a date that is no time";

/// Who sees it.
#[derive(Clone, Copy, PartialEq)]
enum Foreign {
    /// A step of VERIFY.md fails.
    Sees,
    /// Only what was noted elsewhere can show it: no step of VERIFY.md that reads the bag alone can.
    Cannot,
}

struct Suite {
    h: Handoff,
    good: PathBuf,
    page: String,
    work: tempfile::TempDir,
    log_key: SigningKey,
    wrong: Vec<String>,
    done: usize,
}

fn files(root: &Path) -> Vec<String> {
    let found = Finished::of(Command::new("find").arg(root).args(["-type", "f", "-printf", "%P\\n"])).ok().text();
    let mut names: Vec<String> = found.lines().map(str::to_owned).collect();
    names.sort();
    names
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let at = at.min(bytes.len() - 1);
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("written");
}

/// Gives a label of bag-info.txt another value.
fn relabel(bag: &Path, label: &str, value: &str) {
    let info = fs::read_to_string(bag.join("bag-info.txt")).expect("bag-info.txt");
    let begin = format!("{label}: ");
    assert!(info.lines().any(|line| line.starts_with(&begin)), "{info}");
    let lines: Vec<String> =
        info.lines().map(|line| if line.starts_with(&begin) { format!("{begin}{value}") } else { line.to_owned() }).collect();
    fs::write(bag.join("bag-info.txt"), lines.join("\n") + "\n").expect("written");
}

/// Makes all manifests anew, as anybody can; the signature only with a key.
fn remake(bag: &Path, key: Option<&SigningKey>) {
    let names = files(bag);
    // The count of the payload that bag-info.txt states, for which BagIt programs look first.
    let info = fs::read_to_string(bag.join("bag-info.txt")).expect("bag-info.txt");
    let payload: Vec<u64> =
        names.iter().filter(|n| n.starts_with("data/")).map(|n| fs::metadata(bag.join(n)).expect("file").len()).collect();
    let oxum = format!("Payload-Oxum: {}.{}", payload.iter().sum::<u64>(), payload.len());
    let lines: Vec<&str> = info.lines().map(|l| if l.starts_with("Payload-Oxum: ") { oxum.as_str() } else { l }).collect();
    fs::write(bag.join("bag-info.txt"), lines.join("\n") + "\n").expect("written");
    let sums: BTreeMap<&String, (Digest, String)> = names
        .iter()
        .map(|name| {
            let mut sums = Sums::new();
            sums.update(&fs::read(bag.join(name)).expect("file"));
            (name, sums.finish())
        })
        .collect();
    let payload = |which: &dyn Fn(&(Digest, String)) -> String| -> String {
        sums.iter().filter(|(n, _)| n.starts_with("data/")).map(|(n, s)| manifest_line(&which(s), n)).collect()
    };
    fs::write(bag.join("manifest-sha256.txt"), payload(&|s| s.0.to_string())).expect("written");
    fs::write(bag.join("manifest-sha512.txt"), payload(&|s| s.1.clone())).expect("written");
    let tags: String = names
        .iter()
        .filter(|n| !n.starts_with("data/") && !n.starts_with("tagmanifest"))
        .map(|n| manifest_line(&Digest::of(&fs::read(bag.join(n)).expect("file")).to_string(), n))
        .collect();
    if let Some(key) = key {
        fs::write(bag.join("tagmanifest-sha256.txt.sig"), key.sign(tags.as_bytes())).expect("written");
    }
    fs::write(bag.join("tagmanifest-sha256.txt"), tags).expect("written");
}

fn slot(bag: &Path, n: u64) -> PathBuf {
    bag.join(format!("data/log/seq/{n:010}.dsse.json"))
}

fn envelope(bag: &Path, n: u64) -> Value {
    serde_json::from_slice(&fs::read(slot(bag, n)).expect("record")).expect("JSON")
}

/// Signs a record's payload, changed or not, with a key.
fn resign(bag: &Path, n: u64, key: &SigningKey, change: &dyn Fn(&mut Value)) {
    let old = Envelope::parse(&fs::read(slot(bag, n)).expect("record")).expect("an envelope");
    let mut statement: Value = serde_json::from_slice(old.unverified_payload()).expect("JSON");
    change(&mut statement);
    let new = Envelope::sign(serde_json::to_vec(&statement).expect("JSON"), key).expect("small");
    fs::write(slot(bag, n), new.as_bytes()).expect("written");
}

/// Signs the head of what is there, as the holder of the log's key could.
fn sign_head(bag: &Path, size: u64, key: &SigningKey) {
    let mut tree = Tree::new();
    (0..size).for_each(|n| tree.append(&fs::read(slot(bag, n)).expect("record")));
    let path = bag.join("data/log/checkpoint");
    let old = Checkpoint::parse_unverified(&fs::read(&path).expect("head")).expect("a head");
    fs::write(&path, Checkpoint { origin: old.origin, size, root: tree.root() }.sign(key)).expect("written");
    // The tile follows from the records; a forger makes it as well. So few records have one.
    fs::remove_dir_all(bag.join("data/log/tile")).expect("removed");
    let tile = Tile::of(Layer::Hashes(0), 0, size).filter(|t| !t.is_full()).expect("an incomplete tile");
    let hashes: Vec<u8> = (0..size).flat_map(|n| *leaf_hash(&fs::read(slot(bag, n)).expect("record")).as_bytes()).collect();
    let path = bag.join(format!("data/log/{tile}"));
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::write(path, hashes).expect("written");
}

impl Suite {
    fn new() -> Self {
        let h = Handoff::new();
        let (good, done) = h.export("good", &["--expand"]);
        let _ = done.ok();
        let page = fs::read_to_string(good.join("VERIFY.md")).expect("VERIFY.md");
        // The ontology is no part of what is proven; it is checked on the good bag.
        let page = page.split("## 6.").next().expect("text").to_owned();
        let text = fs::read_to_string(h.fleet.coordinator_dir().join("log.key")).expect("log key");
        let log_key = SigningKey::from_text(&text).expect("a key");
        let work = tempfile::tempdir().expect("folder");
        // Without this a program that is missing would count as one that sees everything.
        let (code, last, all) = run_verify_md(&page, &good, &h.root_key(), work.path());
        assert_eq!(code, 0, "stopped at '{last}':\n{all}");
        Self { h, good, page, work, log_key, wrong: Vec::new(), done: 0 }
    }

    fn try_with(&mut self, name: &str, codes: &[&str], foreign: Foreign, more: &[&str], change: &dyn Fn(&Path, &SigningKey)) {
        let bag = self.work.path().join(format!("bag-{}", self.done));
        self.done += 1;
        let _ = Finished::of(Command::new("cp").arg("-a").arg(&self.good).arg(&bag)).ok();
        change(&bag, &self.log_key);
        let mut command = self.h.fleet.program("exhibit-verify");
        let done = Finished::of(command.arg(&bag).arg("--anchor").arg(self.h.fleet.anchor()).arg("--json").args(more));
        let report: Value = serde_json::from_slice(&done.stdout).unwrap_or_default();
        let found: Vec<&str> = report["findings"].as_array().into_iter().flatten().filter_map(|f| f["code"].as_str()).collect();
        if done.code != 1 || codes.iter().any(|c| !found.contains(c)) {
            self.wrong.push(format!("{name}: code {}, expected {codes:?}, found {found:?} {}", done.code, done.stderr));
        }
        let (code, last, all) = run_verify_md(&self.page, &bag, &self.h.root_key(), self.work.path());
        if (code != 0) != (foreign == Foreign::Sees) {
            self.wrong.push(format!("{name}: VERIFY.md ended with {code} at '{last}':\n{all}"));
        }
        if code != 0 && (all.contains("Traceback") || !all.contains("FAILED: ")) {
            self.wrong.push(format!("{name}: VERIFY.md gives no reason at '{last}':\n{all}"));
        }
        if name == NO_TIME && !all.contains("NO TIME of an export") {
            self.wrong.push(format!("{name}: VERIFY.md says nothing in words at '{last}':\n{all}"));
        }
        let _ = fs::remove_dir_all(bag);
    }

    fn try_one(&mut self, name: &str, codes: &[&str], change: &dyn Fn(&Path)) {
        self.try_with(name, codes, Foreign::Sees, &[], &|bag, _| change(bag));
    }
}

#[test]
fn every_class_of_byte_is_guarded() {
    let mut s = Suite::new();
    let names = files(&s.good);
    let named = |end: &str| names.iter().find(|n| n.ends_with(end)).unwrap_or_else(|| panic!("no {end}")).clone();
    let (segment, other, manifest) = (named("/00000000.tar.zst"), named("/00000001.tar.zst"), named("/manifest.jsonl"));
    let tile = names.iter().rfind(|n| n.contains("/tile/0/")).expect("a tile").clone();
    bytes(&mut s, &segment, &other, &manifest, &tile);
    record_fields(&mut s);
    forgeries(&mut s, &segment);
    by_the_exporter(&mut s);
    to_the_letter(&mut s);
    what_may_be_absent(&s);
    by_the_second_reader(&s);
    anchors(&mut s);
    assert!(s.wrong.is_empty(), "{} of {} are wrong:\n{}", s.wrong.len(), s.done, s.wrong.join("\n"));
}

/// What anybody with the medium can do.
fn bytes(s: &mut Suite, segment: &str, other: &str, manifest: &str, tile: &str) {
    s.try_one("payload byte", &["bag.file-digest", "segment.digest"], &|b| flip(&b.join(segment), 5_000));
    s.try_one("evidence manifest byte", &["bag.file-digest", "manifest.digest"], &|b| flip(&b.join(manifest), 700));
    s.try_one("bag manifest byte", &["bag.file-digest"], &|b| flip(&b.join("manifest-sha256.txt"), 4));
    s.try_one("tag manifest byte", &["bag.signature"], &|b| flip(&b.join("tagmanifest-sha256.txt"), 4));
    s.try_one("signature byte", &["bag.signature"], &|b| flip(&b.join("tagmanifest-sha256.txt.sig"), 9));
    s.try_one("slot byte", &["bag.file-digest", "log.root"], &|b| flip(&slot(b, 3), 60));
    s.try_one("tile byte", &["bag.file-digest", "log.tile"], &|b| flip(&b.join(tile), 7));
    s.try_one("checkpoint byte", &["bag.file-digest", "log.checkpoint-malformed"], &|b| flip(&b.join("data/log/checkpoint"), 3));
    s.try_one("tag file byte", &["bag.file-digest"], &|b| flip(&b.join("documents/report.en.html"), 400));
    s.try_one("added tag file", &["bag.file-unlisted"], &|b| fs::write(b.join("documents/anchor.json"), "{}").expect("written"));
    s.try_one("added tag folder", &["bag.file-unlisted"], &|b| fs::create_dir(b.join("documents/empty")).expect("made"));
    s.try_one("a file with the name of a stamp's", &["bag.file-unlisted"], &|b| {
        fs::write(b.join("tagmanifest-sha256.txt.zzz.0.crl"), "anything").expect("written");
    });
    s.try_one("added payload file", &["bag.file-unlisted", "object.unknown"], &|b| fs::write(b.join("data/x.txt"), "x").expect("written"));
    s.try_one("removed payload file", &["bag.file-missing", "segment.missing"], &|b| fs::remove_file(b.join(segment)).expect("removed"));
    s.try_one("removed tag file", &["bag.file-missing"], &|b| fs::remove_file(b.join("documents/report.fr.pdf")).expect("removed"));
    s.try_one("swapped files", &["bag.file-digest", "segment.digest"], &|b| {
        fs::rename(b.join(segment), b.join("x")).expect("renamed");
        fs::rename(b.join(other), b.join(segment)).expect("renamed");
        fs::rename(b.join("x"), b.join(other)).expect("renamed");
    });
    s.try_one("linked file", &["bag.file-missing"], &|b| {
        fs::remove_file(b.join("VERIFY.md")).expect("removed");
        std::os::unix::fs::symlink("/etc/hostname", b.join("VERIFY.md")).expect("linked");
    });
}

/// Every field of a record, with all manifests of the bag made anew.
fn record_fields(s: &mut Suite) {
    let write = |b: &Path, value: &Value| {
        let text = format!(
            "{{\"payload\":{},\"payloadType\":{},\"signatures\":[{{\"keyid\":{},\"sig\":{}}}]}}",
            value["payload"], value["payloadType"], value["signatures"][0]["keyid"], value["signatures"][0]["sig"]
        );
        fs::write(slot(b, 3), text).expect("written");
        remake(b, None);
    };
    let changed = |text: &Value, at: usize| {
        let mut chars: Vec<char> = text.as_str().expect("text").chars().collect();
        chars[at] = if chars[at] == 'b' { 'a' } else { 'b' };
        Value::String(chars.into_iter().collect())
    };
    s.try_one("record payload", &["record.signature", "log.root", "bag.signature"], &|b| {
        let mut e = envelope(b, 3);
        e["payload"] = changed(&e["payload"], 400);
        write(b, &e);
    });
    s.try_one("record payload type", &["record.malformed", "log.root"], &|b| {
        let mut e = envelope(b, 3);
        e["payloadType"] = changed(&e["payloadType"], 3);
        write(b, &e);
    });
    s.try_one("record key id", &["record.unknown-key", "log.root"], &|b| {
        let mut e = envelope(b, 3);
        e["signatures"][0]["keyid"] = changed(&e["signatures"][0]["keyid"], 3);
        write(b, &e);
    });
    s.try_one("record signature", &["record.signature", "log.root"], &|b| {
        let mut e = envelope(b, 3);
        e["signatures"][0]["sig"] = changed(&e["signatures"][0]["sig"], 20);
        write(b, &e);
    });
}

/// What somebody with a key, or with time to make all manifests anew, can do.
fn forgeries(s: &mut Suite, segment: &str) {
    let stranger = || SigningKey::from_seed(&[9; 32]);
    let size = fs::read_dir(s.good.join("data/log/seq")).expect("records").count() as u64;
    s.try_one("payload byte, manifests made anew", &["segment.digest", "bag.signature"], &|b| {
        flip(&b.join(segment), 5_000);
        remake(b, None);
    });
    s.try_one("re-signed by another key", &["bag.signature"], &|b| remake(b, Some(&stranger())));
    s.try_one("handed over by another key", &["bag.signer"], &|b| {
        let mut description: Value = serde_json::from_slice(&fs::read(b.join("bag.json")).expect("bag.json")).expect("JSON");
        description["key"] = stranger().public().id().to_string().into();
        fs::write(b.join("bag.json"), serde_json::to_vec_pretty(&description).expect("JSON")).expect("written");
        remake(b, Some(&stranger()));
    });
    s.try_one("record re-signed by another key", &["record.unknown-key", "log.root"], &|b| {
        resign(b, 3, &stranger(), &|_| {});
        remake(b, None);
    });
    s.try_with("backdated record", &["log.root"], Foreign::Sees, &[], &|b, log_key| {
        resign(b, size - 1, log_key, &|s| s["predicate"]["at"] = "2020-01-01T00:00:00Z".into());
        remake(b, None);
    });
    s.try_one("truncated log", &["log.slot-missing"], &|b| {
        fs::remove_file(slot(b, size - 1)).expect("removed");
        remake(b, None);
    });
    let held = s.good.join("data/log/checkpoint").display().to_string();
    let head: Value = serde_json::from_slice(&fs::read(s.good.join("bag.json")).expect("bag.json")).expect("JSON");
    let expect = format!("{}:{}", head["head"]["size"], head["head"]["root"].as_str().expect("root"));
    // With the log's key a shorter or another history can be signed. The bag's signer is another person: so the bag does
    // not fit, and a head that was kept elsewhere proves it.
    s.try_with(
        "log cut back by its own key",
        &["log.expected", "bag.description"],
        Foreign::Sees,
        &["--expect", &expect],
        &|b, log_key| {
            fs::remove_file(slot(b, size - 1)).expect("removed");
            sign_head(b, size - 1, log_key);
            remake(b, None);
        },
    );
    s.try_with("forked log", &["log.forked", "bag.description"], Foreign::Sees, &["--held", &held], &|b, log_key| {
        resign(b, size - 1, log_key, &|s| s["predicate"]["reason"] = "another reason".into());
        sign_head(b, size, log_key);
        remake(b, None);
    });
    let evidence_key = exporters_key(s);
    // The exporter and the operator together: only the head that somebody else kept can tell.
    s.try_with("forked log, signed by all", &["log.forked"], Foreign::Cannot, &["--held", &held], &|b, log_key| {
        resign(b, size - 1, log_key, &|s| s["predicate"]["reason"] = "another reason".into());
        sign_head(b, size, log_key);
        let checkpoint = Checkpoint::parse_unverified(&fs::read(b.join("data/log/checkpoint")).expect("head")).expect("a head");
        let mut description: Value = serde_json::from_slice(&fs::read(b.join("bag.json")).expect("bag.json")).expect("JSON");
        description["head"]["root"] = checkpoint.root.to_string().into();
        description["reason"] = "another reason".into();
        fs::write(b.join("bag.json"), serde_json::to_vec_pretty(&description).expect("JSON")).expect("written");
        relabel(b, "Exhibit-Log-Head", &format!("{size}:{}", checkpoint.root));
        relabel(b, "Exhibit-Reason", "another reason");
        remake(b, Some(&evidence_key));
    });
}

fn exporters_key(s: &Suite) -> SigningKey {
    let home = fs::read_dir(s.h.fleet.home()).expect("home").filter_map(Result::ok).map(|e| e.path());
    home.filter_map(|p| fs::read_to_string(p).ok()).find_map(|text| SigningKey::from_text(&text)).expect("the exporter's key")
}

/// What the person who exported can make of the bag afterwards, with a good signature.
fn by_the_exporter(s: &mut Suite) {
    let evidence_key = exporters_key(s);
    let described = |b: &Path, change: &dyn Fn(&mut Value)| {
        let mut description: Value = serde_json::from_slice(&fs::read(b.join("bag.json")).expect("bag.json")).expect("JSON");
        change(&mut description);
        fs::write(b.join("bag.json"), serde_json::to_vec_pretty(&description).expect("JSON")).expect("written");
    };
    s.try_one("another reason, signed by the exporter", &["bag.export"], &|b| {
        described(b, &|d| d["reason"] = "another reason".into());
        remake(b, Some(&evidence_key));
    });
    s.try_one("another date, signed by the exporter", &["bag.export"], &|b| {
        described(b, &|d| d["exported_at"] = "2020-01-01T00:00:00.000000000Z".into());
        remake(b, Some(&evidence_key));
    });
    let exhibits: Vec<String> = files(&s.good).into_iter().filter(|n| n.starts_with("expanded/") && n.contains("/EXH")).collect();
    let proof = files(&s.good).into_iter().find(|n| n.starts_with("proofs/")).expect("a proof");
    let (one, other) = (exhibits[0].as_str(), exhibits[1].as_str());
    s.try_one("an expanded file, signed by the exporter", &["bag.view"], &|b| {
        fs::write(b.join(one), "another content").expect("written");
        remake(b, Some(&evidence_key));
    });
    s.try_one("an expanded file that is left out", &["bag.view"], &|b| {
        fs::remove_file(b.join(one)).expect("removed");
        remake(b, Some(&evidence_key));
    });
    s.try_one("an expanded file of no item", &["bag.view"], &|b| {
        fs::copy(b.join(other), b.join("expanded/00000/EXH00000999.txt")).map(drop).expect("copied");
        remake(b, Some(&evidence_key));
    });
    s.try_one("all expanded files taken out", &["bag.view"], &|b| {
        fs::remove_dir_all(b.join("expanded")).expect("removed");
        remake(b, Some(&evidence_key));
    });
    s.try_one("a second expanded folder", &["bag.view"], &|b| {
        fs::create_dir_all(b.join("Expanded/00000")).expect("made");
        fs::write(b.join("Expanded/00000/EXH00000001.txt"), "another content").expect("written");
        remake(b, Some(&evidence_key));
    });
    s.try_one("a file of a name that the format does not have", &["bag.view"], &|b| {
        fs::write(b.join("documents/opinion.en.html"), "sound").expect("written");
        remake(b, Some(&evidence_key));
    });
    s.try_one("a proof taken out", &["bag.view"], &|b| {
        fs::remove_file(b.join(&proof)).expect("removed");
        remake(b, Some(&evidence_key));
    });
    // Compared with nothing, but what bag.json says was made is there, and nothing else.
    for made in ["documents", "schemas", "load-file", "case.jsonld", "VERIFY.md"] {
        s.try_one(&format!("{made} taken out"), &["bag.view"], &|b| {
            let path = b.join(made);
            let done = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            done.expect("removed");
            remake(b, Some(&evidence_key));
        });
    }
    s.try_one("the documents not named", &["bag.view"], &|b| {
        described(b, &|d| {
            d["views"].as_array_mut().expect("a list").retain(|view| view != "documents");
        });
        remake(b, Some(&evidence_key));
    });
    s.try_one("views in another order", &["bag.description"], &|b| {
        described(b, &|d| d["views"].as_array_mut().expect("a list").reverse());
        remake(b, Some(&evidence_key));
    });
    s.try_one("another exporter in bag-info.txt", &["bag.info"], &|b| {
        relabel(b, "Exhibit-Exported-By", "spiffe://test/responder/somebody-else");
        remake(b, Some(&evidence_key));
    });
    s.try_one("another head in bag-info.txt", &["bag.info"], &|b| {
        relabel(b, "Exhibit-Log-Head", &format!("9:{}", "0".repeat(64)));
        remake(b, Some(&evidence_key));
    });
    s.try_one(NO_TIME, &["bag.description"], &|b| {
        described(b, &|d| d["exported_at"] = "soon".into());
        remake(b, Some(&evidence_key));
    });
    // The page proves the records from the tiles.
    s.try_with("a proof, signed by the exporter", &["bag.view"], Foreign::Cannot, &[], &|b, _| {
        let text = fs::read_to_string(b.join(&proof)).expect("proof");
        fs::write(b.join(&proof), text.replacen("index ", "index 1", 1)).expect("written");
        remake(b, Some(&evidence_key));
    });
}

/// What foreign programs for bags take and the format does not allow.
fn to_the_letter(s: &mut Suite) {
    let evidence_key = exporters_key(s);
    let rewritten = |b: &Path, name: &str, change: &dyn Fn(String) -> String| {
        let text = fs::read_to_string(b.join(name)).expect("text");
        let changed = change(text.clone());
        assert_ne!(text, changed, "{name}");
        fs::write(b.join(name), changed).expect("written");
        remake(b, Some(&evidence_key));
    };
    s.try_one("bagit.txt with other line ends", &["bag.declaration"], &|b| rewritten(b, "bagit.txt", &|t| t.replace('\n', "\r\n")));
    s.try_one("bagit.txt of another version", &["bag.declaration"], &|b| rewritten(b, "bagit.txt", &|t| t.replace("1.0", "0.97")));
    s.try_one("bag.json with another field", &["bag.description"], &|b| {
        rewritten(b, "bag.json", &|t| t.replacen('{', "{\"judge\":\"approved\",", 1));
    });
    s.try_one("bag.json with a field twice", &["bag.description"], &|b| {
        rewritten(b, "bag.json", &|t| t.replacen('{', "{\"reason\":\"another reason\",", 1));
    });
    s.try_one("a tag manifest without its last line end", &["bag.manifest"], &|b| {
        let path = b.join("tagmanifest-sha256.txt");
        let text = fs::read_to_string(&path).expect("manifest");
        let cut = text.trim_end();
        fs::write(&path, cut).expect("written");
        fs::write(b.join("tagmanifest-sha256.txt.sig"), evidence_key.sign(cut.as_bytes())).expect("written");
    });
}

fn copied(s: &Suite, name: &str) -> PathBuf {
    let bag = s.work.path().join(name);
    let _ = Finished::of(Command::new("cp").arg("-a").arg(&s.good).arg(&bag)).ok();
    bag
}

/// Whoever exports may leave these out: nothing is wrong then, and both the verifier and the page say what is not there.
fn what_may_be_absent(s: &Suite) {
    let (bag, evidence_key) = (copied(s, "bare"), exporters_key(s));
    let page = fs::read_to_string(bag.join("VERIFY.md")).expect("page");
    for folder in ["data/log/tile", "proofs", "expanded", "schemas"] {
        fs::remove_dir_all(bag.join(folder)).expect("removed");
    }
    fs::remove_file(bag.join("case.jsonld")).expect("removed");
    let mut description: Value = serde_json::from_slice(&fs::read(bag.join("bag.json")).expect("bag.json")).expect("JSON");
    let _ = description.as_object_mut().expect("an object").remove("views");
    fs::write(bag.join("bag.json"), serde_json::to_vec_pretty(&description).expect("JSON")).expect("written");
    let payload = files(&bag).into_iter().filter(|name| name.starts_with("data/"));
    let bytes: u64 = payload.map(|name| fs::metadata(bag.join(name)).expect("file").len()).sum();
    relabel(&bag, "Bag-Size", &exhibit_evidence::written::size(bytes));
    remake(&bag, Some(&evidence_key));
    let done = Finished::of(s.h.fleet.program("exhibit-verify").arg(&bag).arg("--anchor").arg(s.h.fleet.anchor()));
    let text = done.text();
    assert!(done.code == 0 && text.contains("tiles       none in this copy") && text.contains("does not say what was made"), "{text}");
    let (code, last, all) = run_verify_md(&page, &bag, &s.h.root_key(), s.work.path());
    assert_eq!(code, 0, "stopped at '{last}':\n{all}");
    for note in ["does not say what was made of the case", "there are no proofs/", "there is no case.jsonld"] {
        assert!(all.contains(note), "{note}: {all}");
    }
    // Without the tiles alone the proofs are there and lead nowhere.
    let bag = copied(s, "without-tiles");
    fs::remove_dir_all(bag.join("data/log/tile")).expect("removed");
    let bytes: u64 = files(&bag).iter().filter(|n| n.starts_with("data/")).map(|n| fs::metadata(bag.join(n)).expect("file").len()).sum();
    relabel(&bag, "Bag-Size", &exhibit_evidence::written::size(bytes));
    remake(&bag, Some(&evidence_key));
    let (code, last, all) = run_verify_md(&s.page, &bag, &s.h.root_key(), s.work.path());
    assert!(code == 0 && all.contains("data/log/tile is not there"), "stopped at '{last}':\n{all}");
}

/// The second reader says the same of what only it passed over.
fn by_the_second_reader(s: &Suite) {
    let evidence_key = exporters_key(s);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("second-reader/read_case.py");
    let read = |bag: &Path| {
        let done = Finished::of(Command::new("python3").arg("-B").arg(&script).arg(bag).arg("--anchor").arg(s.h.fleet.anchor()));
        (done.code, done.text())
    };
    let (code, text) = read(&s.good);
    assert_eq!(code, 0, "{text}");
    let exhibits: Vec<String> = files(&s.good).into_iter().filter(|n| n.starts_with("expanded/") && n.contains("/EXH")).collect();
    let bag = copied(s, "views");
    fs::write(bag.join(&exhibits[0]), "another content").expect("written");
    fs::remove_file(bag.join(&exhibits[1])).expect("removed");
    remake(&bag, Some(&evidence_key));
    std::os::unix::fs::symlink("/etc/hostname", bag.join("documents/link")).expect("linked");
    let (code, text) = read(&bag);
    assert!(code == 1 && text.contains("expanded/ does not hold") && text.contains("documents/link is no plain file"), "{text}");
    for (name, begin) in [("marked", "\u{feff}{"), ("twice", "{\"reason\":\"another reason\",")] {
        let bag = copied(s, name);
        let text = fs::read_to_string(bag.join("bag.json")).expect("bag.json");
        fs::write(bag.join("bag.json"), text.replacen('{', begin, 1)).expect("written");
        remake(&bag, Some(&evidence_key));
        let (code, text) = read(&bag);
        assert!(code == 1 && text.contains("bag.json: "), "{name}: {text}");
    }
}

/// Another anchor, and one that came with the bag.
fn anchors(s: &mut Suite) {
    let other = serde_json::json!({
        "format": "exhibit-anchor/1", "deployment": "test", "root_key": SigningKey::from_seed(&[8; 32]).public(),
    });
    let path = s.work.path().join("other.json");
    fs::write(&path, other.to_string()).expect("written");
    let verify =
        |bag: &Path, anchor: &Path| Finished::of(s.h.fleet.program("exhibit-verify").arg(bag).arg("--anchor").arg(anchor).arg("--json"));
    let done = verify(&s.good, &path);
    assert!(done.code == 1 && done.text().contains("record.unknown-key"), "{}", done.text());
    let root = other["root_key"].as_str().expect("key");
    let (code, last, all) = run_verify_md(&s.page, &s.good, root, s.work.path());
    assert!(code != 0 && last.starts_with("2."), "stopped at '{last}' with {code}:\n{all}");
    let inside = s.work.path().join("with-anchor");
    let _ = Finished::of(Command::new("cp").arg("-a").arg(&s.good).arg(&inside)).ok();
    fs::write(inside.join("anchor.json"), other.to_string()).expect("written");
    let done = verify(&inside, &inside.join("anchor.json"));
    assert!(done.code == 2 && done.stderr.contains("proves nothing"), "{}", done.stderr);
}
