//! A case is handed over: the bag's own VERIFY.md, run to the letter with foreign programs, accepts it, and so does our
//! verifier. What was left out is said; a broken export goes on; age opens what was encrypted.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use exhibit_tests::{Agent, Authority, Finished, Fleet};

/// A deployment with one case of two collections, of which one has several segments.
pub struct Handoff {
    pub fleet: Fleet,
    pub agent: Agent,
    pub case: String,
    pub collections: Vec<String>,
    _source: tempfile::TempDir,
}

impl Handoff {
    pub fn new() -> Self {
        let source = tempfile::tempdir().expect("folder");
        // What does not compress, so that there are two segments.
        let mut x = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        };
        let noise: Vec<u8> = (0..5_000_000).map(|_| next()).collect();
        std::fs::write(source.path().join("noise.bin"), noise).expect("written");
        std::fs::write(source.path().join("app.log"), "first line\nsecond line\n").expect("written");
        std::fs::write(source.path().join("<img src=x>\u{202e}\n.log"), "hostile name\n").expect("written");
        std::fs::hard_link(source.path().join("app.log"), source.path().join("same.log")).expect("linked");
        let fleet = Fleet::start();
        let agent = fleet.agent();
        let case = fleet.open_case();
        let files = fleet.collect(&case, &agent, &["--capture", &format!("files:paths={}/**", source.path().display())]);
        let system = fleet.collect(&case, &agent, &["--capture", "system"]);
        let collections = [files, system].iter().map(|c| c["collection"].as_str().expect("id").to_owned()).collect();
        Self { fleet, agent, case, collections, _source: source }
    }

    pub fn export(&self, name: &str, more: &[&str]) -> (PathBuf, Finished) {
        let out = self.fleet.path().join(name);
        let place = out.display().to_string();
        let args = ["export", "--case", &self.case, "--reason", "handed to counsel", "--out", &place];
        let done = self.fleet.exhibit(&[&args[..], more].concat());
        (out, done)
    }

    pub fn root_key(&self) -> String {
        let anchor: serde_json::Value = serde_json::from_slice(&std::fs::read(self.fleet.anchor()).expect("anchor")).expect("JSON");
        anchor["root_key"].as_str().expect("a key").to_owned()
    }
}

/// The commands of a bag's VERIFY.md, to the letter, as one shell would run them: the exit code, the heading under which
/// they stopped, and what was said.
pub fn run_verify_md(page: &str, bag: &Path, root_key: &str, work: &Path) -> (i32, String, String) {
    run_verify_md_with(page, bag, root_key, work, None)
}

/// [`run_verify_md`] with the roots of timestamp authorities.
pub fn run_verify_md_with(page: &str, bag: &Path, root_key: &str, work: &Path, tsa_roots: Option<&Path>) -> (i32, String, String) {
    let mut script = String::from("set -eu -o pipefail\n");
    let (mut in_block, mut heading) = (false, "");
    for line in page.lines() {
        match line {
            "```bash" => {
                in_block = true;
                let _ = writeln!(script, "echo '@@ {}' >&2", heading.replace('\'', ""));
            }
            "```" => in_block = false,
            _ if in_block => {
                script.push_str(line);
                script.push('\n');
            }
            _ => heading = line.strip_prefix("## ").unwrap_or(heading),
        }
    }
    assert!(script.matches("@@").count() >= 8, "VERIFY.md has its commands");
    let mut command = Command::new("bash");
    command.args(["-c", &script]).current_dir(bag).env("ROOT_KEY", root_key).env("TMPDIR", work).env("GOCACHE", work.join("go-cache"));
    command.env("TSA_ROOTS", tsa_roots.unwrap_or(Path::new("")));
    let done = Finished::of(&mut command);
    let last = done.stderr.lines().filter_map(|l| l.strip_prefix("@@ ")).next_back().unwrap_or_default().to_owned();
    (done.code, last, format!("{}\n{}", done.text(), done.stderr))
}

#[test]
fn verify_md_and_our_verifier_accept_a_fresh_bag() {
    let h = Handoff::new();
    let (bag, done) = h.export("bag", &["--expand"]);
    let said = done.ok().json();
    assert_eq!((&said[0]["verdict"], &said[0]["left_out"]), (&"sound".into(), &serde_json::json!([])));
    let report = h.fleet.verify_at(&bag).expect_sound().report;
    assert_eq!(report["bag"]["signed"], true, "{report:#}");
    assert_eq!(report["bag"]["exported_by"], "spiffe://test/responder/responder");
    // The payload is the case, byte for byte, and verifies by itself.
    let _ = h.fleet.verify_at(&bag.join("data")).expect_sound();
    let compared =
        Finished::of(Command::new("diff").arg("-rq").arg(bag.join("data/collections")).arg(h.fleet.case_dir(&h.case).join("collections")));
    assert_eq!(compared.code, 0, "{}", compared.text());

    let work = tempfile::tempdir().expect("folder");
    let page = std::fs::read_to_string(bag.join("VERIFY.md")).expect("VERIFY.md");
    let (code, last, all) = run_verify_md(&page, &bag, &h.root_key(), work.path());
    assert_eq!(code, 0, "stopped at '{last}':\n{all}");
    for sign in ["records, all good", "Signature Verified Successfully", "contents compared", "Conforms: True"] {
        assert!(all.contains(sign), "'{sign}' is not said:\n{all}");
    }
    assert!(h.fleet.verify(&h.case).report.to_string().contains("sound"));

    // Expanded files are the evidence's content, under names that no host chose.
    let dat = std::fs::read_to_string(bag.join("load-file/exhibits.dat")).expect("list");
    let row = dat.split("\r\n").find(|l| l.contains("app.log")).expect("listed");
    let fields: Vec<&str> = row.split('\u{14}').map(|f| f.trim_matches('\u{fe}')).collect();
    assert_eq!(std::fs::read(bag.join(fields[12])).expect("expanded"), b"first line\nsecond line\n", "{fields:?}");
    assert!(!dat.contains('\u{202e}') && dat.contains("\\u{202e}"));
    pages(&bag);
    explain_and_anchor(&h);
}

/// The documents say what the log says, in both languages, and nothing that a host chose is markup.
fn pages(bag: &Path) {
    let head: serde_json::Value = serde_json::from_slice(&std::fs::read(bag.join("bag.json")).expect("bag.json")).expect("JSON");
    let root = head["head"]["root"].as_str().expect("root");
    for (language, word) in [("en", "SOUND"), ("fr", "INTÈGRE")] {
        for name in ["report", "chain-of-custody", "certificate-902-14", "statement-27037"] {
            let file = bag.join(format!("documents/{name}.{language}"));
            let html = std::fs::read_to_string(file.with_extension(format!("{language}.html"))).expect("html");
            assert!(html.contains(root) && !html.contains("<img") && !html.contains("<script"), "{name} {language}");
            let pdf = file.with_extension(format!("{language}.pdf"));
            let bytes = std::fs::read(&pdf).expect("pdf");
            let text = String::from_utf8_lossy(&bytes).into_owned();
            assert!(text.contains("<pdfaid:part>1</pdfaid:part>") && text.contains("<pdfaid:conformance>B</pdfaid:conformance>"), "{name}");
            let shown = Finished::of(Command::new("pdftotext").arg(&pdf).arg("-")).ok().text();
            assert!(shown.contains(root), "{name} {language} lacks the head:\n{shown}");
            assert!(shown.contains(word), "{name} {language}:\n{shown}");
        }
    }
    let page = |name: &str| std::fs::read_to_string(bag.join("documents").join(name)).expect("html");
    // Two items are released; the statements claim what a log holds that nobody outside vouches for.
    assert!(page("chain-of-custody.en.html").contains("<td>1-2</td>"));
    assert!(page("certificate-902-14.en.html").contains("No witness cosigned a head of this log"));
    assert!(page("statement-27037.fr.html").contains("Aucun témoin n&#39;a cosigné de tête de ce journal"));
    // What is counted and measured is said as French is; the two columns of the form with numbers cannot be taken for each other.
    let (french, form) = (page("report.fr.html"), page("chain-of-custody.fr.html"));
    let seconds = french.split_once(" s de processeur").and_then(|(before, _)| before.rsplit(' ').next());
    assert!(seconds.is_some_and(|s| s.contains(',') && !s.contains('.')), "{seconds:?}");
    assert!(french.contains("prélevé") && !french.contains(" collected)"), "{french}");
    assert!(form.contains("Lot n°") && form.contains("Pièces n°") && !form.contains("Pièce n°"), "{form}");
    let report = page("report.en.html");
    assert!(report.contains("3.1 Evidence from") && report.contains("3.2 Evidence from"), "{report}");
}

fn explain_and_anchor(h: &Handoff) {
    let explained = Finished::of(h.fleet.program("exhibit-verify").args(["explain", "bag.file-unlisted"])).ok().text();
    assert!(explained.contains("next") && explained.contains("after it was made"), "{explained}");
    let printed = h.fleet.exhibit(&["anchor", "print"]).ok().json();
    assert_eq!(printed[0]["anchor"]["root_key"], h.root_key().as_str());
    let pdf = h.fleet.path().join("anchor.pdf");
    let _ = Finished::of(h.fleet.program("exhibit").args(["anchor", "print", "--pdf"]).arg(&pdf)).ok();
    let shown = Finished::of(Command::new("pdftotext").arg(&pdf).arg("-")).ok().text();
    assert!(shown.replace(char::is_whitespace, "").contains(&h.root_key()), "{shown}");
    foreign_judge(h, &pdf);
}

/// Apache PDFBox Preflight calls every PDF that we make a valid PDF/A-1b, and one that was cut not.
fn foreign_judge(h: &Handoff, anchor: &Path) {
    let folder = h.fleet.path().join("pdf");
    std::fs::create_dir(&folder).expect("folder");
    let documents = std::fs::read_dir(h.fleet.path().join("bag/documents")).expect("documents").map(|e| e.expect("entry").path());
    let pdfs: Vec<PathBuf> = documents.chain([anchor.to_owned()]).filter(|p| p.extension().is_some_and(|e| e == "pdf")).collect();
    for pdf in &pdfs {
        let _ = std::fs::copy(pdf, folder.join(pdf.file_name().expect("name"))).expect("copied");
    }
    let whole = std::fs::read(anchor).expect("pdf");
    std::fs::write(folder.join("cut.pdf"), &whole[..whole.len() / 2]).expect("written");
    let jars = ["preflight", "pdfbox2", "xmpbox", "fontbox2", "commons-logging", "javax.activation", "jaxb-api"];
    let path: Vec<String> = jars.iter().map(|jar| format!("/usr/share/java/{jar}.jar")).collect();
    let mut command = Command::new("java");
    command.args(["-cp", &path.join(":"), "org.apache.pdfbox.preflight.Validator_A1b", "xml", "group"]).arg(&folder);
    let said = Finished::of(&mut command);
    let judged = std::fs::read_to_string(h.fleet.path().join("pdf.preflight.xml")).unwrap_or_else(|e| panic!("{e}: {}", said.stderr));
    let good = judged.matches("<isValid type=\"PDF/A1-b\">true</isValid>").count();
    assert!(pdfs.len() == 9 && good == 9 && judged.matches("<isValid").count() == 10, "{judged}");
}

#[test]
fn what_is_left_out_is_said_and_what_is_encrypted_opens() {
    let h = Handoff::new();
    let (bag, done) = h.export("part", &["--collection", &h.collections[1]]);
    let said = done.ok().json();
    assert_eq!(said[0]["left_out"], serde_json::json!([h.collections[0]]));
    let report = h.fleet.verify_at(&bag).expect_sound().report;
    assert_eq!(report["findings"][0]["code"], "bag.left-out", "{report:#}");
    let text = Finished::of(h.fleet.program("exhibit-verify").arg(&bag).arg("--anchor").arg(h.fleet.anchor())).ok().text();
    assert!(text.contains("NOT IN THIS BAG") && text.contains("not in this bag, by choice"), "{text}");
    the_statements_say_what_is_not_there(&h, &bag);
    // Both are described, one is released.
    let form = std::fs::read_to_string(bag.join("documents/chain-of-custody.en.html")).expect("form");
    assert!(form.contains("NOT IN THIS BAG") && !form.contains("<td>1-2</td>"), "{form}");
    let work = tempfile::tempdir().expect("folder");
    let page = std::fs::read_to_string(bag.join("VERIFY.md")).expect("VERIFY.md");
    // The checks that read the evidence; the whole page is run on the whole bag.
    let evidence = page.split("## 6.").next().expect("text");
    let (code, last, all) = run_verify_md(evidence, &bag, &h.root_key(), work.path());
    assert_eq!(code, 0, "stopped at '{last}':\n{all}");

    let identity = work.path().join("identity.txt");
    let made = Finished::of(Command::new("age-keygen").arg("-o").arg(&identity));
    let recipient = made.ok().stderr.split_whitespace().next_back().expect("a recipient").to_owned();
    let (sealed, done) = h.export("sealed", &["--recipient", &recipient]);
    let _ = done.ok();
    let file = sealed.with_file_name("sealed.tar.age");
    assert!(file.is_file() && !sealed.exists() && !sealed.with_file_name("sealed.partial").exists());
    let opened = work.path().join("opened.tar");
    let _ = Finished::of(Command::new("age").arg("-d").arg("-i").arg(&identity).arg("-o").arg(&opened).arg(&file)).ok();
    let _ = Finished::of(Command::new("tar").arg("-xf").arg(&opened).arg("-C").arg(work.path())).ok();
    let _ = h.fleet.verify_at(&work.path().join(&h.case)).expect_sound();
    assert_eq!(h.export("bad", &["--recipient", "age1nobody"]).1.code, 65);
    who_has_a_certificate_opens_it(&h, work.path());
}

/// Nobody signs for more than the copy holds, or for nothing.
fn the_statements_say_what_is_not_there(h: &Handoff, part: &Path) {
    let page = |bag: &Path, name: &str| std::fs::read_to_string(bag.join("documents").join(name)).expect("document");
    for (name, left_out, signature) in [
        ("certificate-902-14.en.html", "left out by choice", "penalty of perjury"),
        ("certificate-902-14.fr.html", "exclu par choix", "peines du faux"),
        ("statement-27037.en.html", "left out by choice", "Qualification (training"),
        ("statement-27037.fr.html", "exclu par choix", "Qualification (formation"),
    ] {
        let text = page(part, name);
        assert!([left_out, signature, h.collections[0].as_str()].iter().all(|words| text.contains(*words)), "{name}: {text}");
    }
    // A case that nothing was ever collected for.
    let (case, bag) = (h.fleet.open_case(), h.fleet.path().join("empty"));
    let place = bag.display().to_string();
    let _ = h.fleet.exhibit(&["export", "--case", &case, "--reason", "handed to counsel", "--out", &place]).ok();
    for (name, nothing, signature) in [
        ("certificate-902-14.en.html", "no evidence is in this copy", "penalty of perjury"),
        ("certificate-902-14.fr.html", "aucune preuve ne se trouve dans cette copie", "peines du faux"),
        ("statement-27037.en.html", "no evidence is in this copy", "Qualification (training"),
        ("statement-27037.fr.html", "aucune preuve ne se trouve dans cette copie", "Qualification (formation"),
    ] {
        let text = page(&bag, name);
        assert!(text.contains(nothing) && !text.contains(signature), "{name}: {text}");
    }
    // One collection is damaged: the form doubts that one alone.
    let (damaged, done) = h.fleet.while_damaged(&h.case, &h.collections[1], || h.export("damaged", &[]));
    assert_eq!(done.code, 74, "{}", done.stderr);
    let form = page(&damaged, "chain-of-custody.en.html");
    let doubted: Vec<bool> =
        form.split("condition: ").skip(1).map(|rest| rest.split("</tr>").next().unwrap_or_default().contains("NOT SOUND")).collect();
    assert_eq!(doubted, [false, true], "{form}");
}

/// A key and a certificate of its own; `kind` and `more` are arguments of `openssl req`.
fn certificate(work: &Path, name: &str, kind: &[&str], more: &[&str]) -> PathBuf {
    let file = work.join(format!("{name}.pem"));
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-nodes", "-subj", &format!("/CN={name}"), "-newkey"]).args(kind).args(more);
    let _ = Finished::of(command.arg("-keyout").arg(work.join(format!("{name}.key"))).arg("-out").arg(&file)).ok();
    file
}

fn who_has_a_certificate_opens_it(h: &Handoff, work: &Path) {
    let encipher = ["-addext", "keyUsage=critical,keyEncipherment"];
    let counsel = certificate(work, "counsel", &["rsa:2048"], &encipher);
    let court = certificate(work, "court", &["rsa:3072"], &[]);
    let to = |file: &Path| file.to_str().expect("UTF-8").to_owned();
    let (sealed, done) = h.export("for-two", &["--recipient-cert", &to(&counsel), "--recipient-cert", &to(&court)]);
    let said = done.ok().json();
    let keys: Vec<&str> = said[0]["key_files"].as_array().expect("list").iter().filter_map(|k| k.as_str()).collect();
    assert_eq!(keys.len(), 2, "{said:?}");
    let file = sealed.with_file_name("for-two.tar.age");
    for (n, name) in ["counsel", "court"].iter().enumerate() {
        let (identity, other) = (work.join(format!("{name}.txt")), work.join(if n == 0 { "court.key" } else { "counsel.key" }));
        let open = |key: &Path| {
            let mut command = Command::new("openssl");
            command.args(["cms", "-decrypt", "-binary", "-inform", "DER", "-in", keys[n], "-inkey"]).arg(key).arg("-out").arg(&identity);
            Finished::of(&mut command)
        };
        // Of 256 wrong keys one passes the check of the padding, which is all that there is, and gives noise.
        let stranger = open(&other);
        let got = std::fs::read(&identity).unwrap_or_default();
        let is_opened = got.windows(15).any(|part| part == b"AGE-SECRET-KEY-");
        assert!(stranger.code != 0 || !is_opened, "only its holder opens it");
        let _ = open(&work.join(format!("{name}.key"))).ok();
        let opened = Finished::of(Command::new("age").arg("-d").arg("-i").arg(&identity).arg(&file)).ok();
        let place = work.join(format!("{name}-opened"));
        std::fs::create_dir(&place).expect("folder");
        std::fs::write(place.join("bag.tar"), &opened.stdout).expect("written");
        let _ = Finished::of(Command::new("tar").arg("-xf").arg(place.join("bag.tar")).arg("-C").arg(&place)).ok();
        let _ = h.fleet.verify_at(&place.join(&h.case)).expect_sound();
    }
    // What cannot be encrypted to is refused before anything is fetched.
    let curve = certificate(work, "curve", &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], &[]);
    let signs = certificate(work, "signs", &["rsa:2048"], &["-addext", "keyUsage=critical,digitalSignature"]);
    let issuer = Authority::start("rsa");
    issuer.issue("plain", "old", &["20200101000000Z", "20210101000000Z"]);
    let expired = issuer.file("old.pem");
    for (bad, why) in [(curve, "not RSA"), (signs, "keyEncipherment"), (expired, "not now"), (work.join("counsel.key"), "no certificate")] {
        let done = h.export("refused", &["--recipient-cert", &to(&bad)]).1;
        assert!(done.code == 65 && done.stderr.contains(why), "{why}: {}", done.stderr);
    }
    assert!(!sealed.with_file_name("refused.partial").exists());
}

#[test]
fn a_broken_export_goes_on_and_every_try_is_recorded() {
    let h = Handoff::new();
    let out = h.fleet.path().join("bag");
    let mut command = h.fleet.program("exhibit");
    command.args(["export", "--case", &h.case, "--reason", "first try", "--out"]).arg(&out);
    // Killed at moments of its work; whatever is there then, the next run finishes it.
    for wait_ms in [5_u64, 40, 90] {
        let log = h.fleet.path().join("export.log");
        let mut running = exhibit_tests::Running::start(&mut command, &log);
        exhibit_tests::wait_until(Duration::from_millis(wait_ms + 2_000), "a moment", {
            let begin = std::time::Duration::from_millis(wait_ms);
            let mut waited = Duration::ZERO;
            move || {
                waited += Duration::from_millis(20);
                waited >= begin
            }
        });
        running.kill();
    }
    if !out.exists() {
        let (_, done) = h.export("bag", &[]);
        let _ = done.ok();
    }
    let _ = h.fleet.verify_at(&out).expect_sound();
    assert!(!out.with_file_name("bag.partial").exists());
    let shown = h.fleet.exhibit(&["log", "show", "--case", &h.case]).ok().json();
    let exports = shown.iter().filter(|r| r["record"]["action"] == "export").count();
    assert!(exports >= 1, "{shown:#?}");
    // A bag is never replaced, and another case's journal is not taken over.
    assert_eq!(h.export("bag", &[]).1.code, 73);
    // Half of a segment is there, as a full disk leaves it.
    let (other, done) = h.export("again", &[]);
    let _ = done.ok();
    drop(h.agent);
    let _ = h.fleet.verify_at(&other).expect_sound();
}

/// An export stopped, and what came into the case since lies before the place where it stopped.
#[test]
fn what_came_before_the_place_where_an_export_stopped_is_not_missed() {
    let h = Handoff::new();
    let (whole, done) = h.export("whole", &[]);
    let _ = done.ok();
    let mut ids = h.collections.clone();
    ids.sort_unstable();
    let (first, last) = (&ids[0], &ids[1]);
    let out = h.fleet.path().join("later");
    let partial = out.with_file_name("later.partial");
    let description: serde_json::Value = serde_json::from_slice(&std::fs::read(whole.join("bag.json")).expect("bag.json")).expect("JSON");
    let what =
        serde_json::json!({"format": "exhibit-export/1", "deployment": description["deployment"], "case": h.case, "collections": []});
    let mut journal = format!("{what}\n");
    let folder = whole.join("data/collections").join(last).join("s1");
    let mut names: Vec<String> =
        std::fs::read_dir(&folder).expect("stream").map(|e| e.expect("entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    for file in names {
        let name = format!("collections/{last}/s1/{file}");
        let bytes = std::fs::read(folder.join(&file)).expect("object");
        let mut sums = exhibit_evidence::bag::Sums::new();
        sums.update(&bytes);
        let (sha256, sha512) = sums.finish();
        let _ = writeln!(journal, "{sha256} {sha512} {} {name}", bytes.len());
        let to = partial.join("data").join(&name);
        std::fs::create_dir_all(to.parent().expect("folder")).expect("folder");
        std::fs::write(to, bytes).expect("object");
    }
    std::fs::write(out.with_file_name("later.journal"), journal).expect("journal");
    let (out, done) = h.export("later", &[]);
    let _ = done.ok();
    let report = h.fleet.verify_at(&out).expect_sound();
    assert!(out.join("data/collections").join(first).exists());
    let shown = h.fleet.exhibit(&["log", "show", "--case", &h.case]).ok().json();
    assert_eq!(shown.iter().filter(|r| r["record"]["action"] == "export").count(), 3, "it began anew, and that is recorded");
    assert_eq!(report.report["bag"]["left_out"].as_array().map(Vec::len), Some(0));
}
