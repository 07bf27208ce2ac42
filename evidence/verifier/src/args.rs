//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, value_parser};
use exhibit_evidence::Digest;
use exhibit_evidence::log::WitnessKey;
use exhibit_evidence::verify::Code;
use exhibit_evidence::verify::Options;

/// What was asked for.
#[derive(Debug)]
pub enum Command {
    /// Print this text (help or version).
    Show(String),
    /// Print the registry of finding codes.
    Codes,
    /// Say what one code means and what to do about it.
    Explain(Code),
    /// Verify.
    Verify(Box<Request>),
}

/// A verification.
#[derive(Debug)]
pub struct Request {
    /// The case folder or bag.
    pub path: PathBuf,
    /// The anchor file.
    pub anchor: PathBuf,
    /// JSON instead of text.
    pub json: bool,
    /// Only the verdict, and no progress.
    pub quiet: bool,
    /// Files with checkpoints that were kept elsewhere.
    pub held: Vec<PathBuf>,
    /// Files with proofs that lead from the history's head to a later one.
    pub consistency: Vec<PathBuf>,
    /// Files with age identities of recipients.
    pub identities: Vec<PathBuf>,
    /// Files with roots of timestamp authorities.
    pub timestamp_anchors: Vec<PathBuf>,
    /// What the library is told; without the roots, the held checkpoints and the proofs.
    pub options: Options,
}

const AFTER_HELP: &str = "\
WHAT IT DOES
  Reads every object of the case, checks every signature, every digest and every number, and that nothing is
  missing and nothing is left over. Of a bag (what 'exhibit export' makes) it checks as well who signed it and every
  file in it, those included that common programs for bags pass over. It needs no network, no database and no other program of Exhibit, and it
  writes nothing. What it checks is specified in docs/format/verification.md.

THE ANCHOR
  The anchor file names the deployment and its root key. Get it from the deployment's operator on another way
  than the case (an earlier letter, a signed form, another person) and never from the folder that is verified:
  a file that lies inside PATH is refused.

WITNESSES
  Whoever holds the deployment's log key could sign a second, other history, or cut this one back. A witness is a
  key of somebody outside (counsel, a regulator) that vouches for one history only. With --witness KEY the cosignatures of
  that witness are checked, and as many as --witnesses-required says (all, when it is not given) must have cosigned the
  checkpoint of the case. With --held FILE a checkpoint that was kept elsewhere, best the witness's own copy, must be part
  of this history: that is how a log that was cut back or rewritten together with its signatures is found.
  A bag ends with the record of its own export, which no witness can have seen before. So let the witness cosign the log
  once more, and get the proof that the later head continues that of the bag:
    exhibit witness cosign --dir W --for BAG --out FILE      (or exhibit log consistency --from SIZE:ROOT --out FILE)
  With --consistency FILE what the witness vouches for there counts for the bag. A held head that is longer than the bag's
  log is only noted until such a proof is given, unless the witness vouched for it before the bag was exported.

TIMESTAMPS
  A timestamp authority (RFC 3161) signed that it saw a head of the history at a time. Its root certificate is believed only
  from outside: --timestamp-anchor FILE, PEM, repeatable; blocks of X509 CRL in it are used as well. Certificates are judged
  at the token's own time, so that they have expired since does no harm (openssl ts -verify needs -attime for that). With
  roots given, each collection is shown between two moments: after which it was taken, and before which it was taken and
  sealed. With --timestamps-required N the records must be stamped under N of the given roots; a stamp over a bag is over all
  records in it.

ENCRYPTED CASES
  A case may have been opened for recipients (age, X25519): agents encrypted the contents of its evidence to them, and neither the
  coordinator nor whoever stores it can read them. Without --identity everything else is verified: records, history, the SHA-256
  of every segment as it is stored, the list of items in itself; and note stream.encrypted says that contents were not checked.
  With --identity FILE, the age identity file of a recipient, segments are decrypted in memory and everything in them is
  checked. Nothing of the file is shown; only its owner may be able to read it (mode 0600), and a pipe will do. What one identity
  opens is not shown to open with another one: verify once with the identity of each recipient.
  Each segment is an age file: age -d -i FILE SEGMENT | zstd -d | tar -t

EXIT CODE
  0   sound: no errors and no warnings (notes are possible)
  1   there are findings; each says what was found, what it means and where to ask
  2   PATH or the anchor cannot be used; nothing is said about the case
  64  the command line is wrong

EXAMPLES
  exhibit-verify cases/case-01jd5c3v3h0000000000000000 --anchor anchor.json
  exhibit-verify /media/handover --anchor anchor.json --complete --expect 41:9f86d081...
  exhibit-verify /media/handover --anchor anchor.json --json > result.json
  exhibit-verify /media/handover --anchor anchor.json --witness 'counsel.example/w+3f2a...+BD...' --held seen.checkpoint
  exhibit-verify /media/bag --anchor anchor.json --witness 'counsel.example/w+3f2a...+BD...' --consistency bag.proof
  exhibit-verify /media/handover --anchor anchor.json --timestamp-anchor tsa-root.pem --timestamps-required 1
  exhibit-verify /media/bag --anchor anchor.json --complete
  exhibit-verify /media/handover --anchor anchor.json --complete --identity identity.txt
  exhibit-verify deployment --anchor anchor.json --deployment --timestamp-anchor tsa-root.pem --timestamps-required 1
  exhibit-verify explain segment.digest
  exhibit-verify --codes
";

fn command() -> clap::Command {
    clap::Command::new("exhibit-verify")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Verifies a case of evidence offline: signatures, history, every byte, every item.")
        .after_help(AFTER_HELP)
        .args_conflicts_with_subcommands(true)
        .subcommand_negates_reqs(true)
        .disable_help_subcommand(true)
        .subcommand(
            clap::Command::new("explain")
                .about("Says what a finding code means and what to do about it")
                .arg(Arg::new("code").value_name("CODE").required(true).value_parser(code).help("The code, as a finding shows it")),
        )
        .arg(
            Arg::new("path")
                .value_name("PATH")
                .value_parser(value_parser!(PathBuf))
                .required_unless_present("codes")
                .help("The case folder (it contains log/ and collections/) or the bag (it contains data/), or a copy of it"),
        )
        .arg(
            Arg::new("anchor")
                .long("anchor")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .required_unless_present("codes")
                .help("The anchor file, obtained on another way than the case"),
        )
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print one JSON object instead of text"))
        .arg(Arg::new("quiet").long("quiet").action(ArgAction::SetTrue).help("Print only the verdict, and no progress"))
        .arg(
            Arg::new("complete")
                .long("complete")
                .action(ArgAction::SetTrue)
                .help("Require that every order has ended on every target; without it an open collection is only a note"),
        )
        .arg(
            Arg::new("expect")
                .long("expect")
                .value_name("SIZE:ROOT")
                .value_parser(head)
                .help("Require that the history contains this head (number of records, ':', root in hexadecimal), as noted elsewhere"),
        )
        .arg(
            Arg::new("deployment").long("deployment").action(ArgAction::SetTrue).conflicts_with("complete").help(
                "PATH is the folder 'deployment' of a store: verify the deployment's own log (keys, agents, people) instead of a case",
            ),
        )
        .arg(
            Arg::new("identity")
                .long("identity")
                .value_name("FILE")
                .action(ArgAction::Append)
                .value_parser(value_parser!(PathBuf))
                .help("Of an encrypted case: the age identity file of a recipient (repeatable); contents are decrypted and checked"),
        )
        .args(witness_args())
        .args(timestamp_args())
        .arg(
            Arg::new("codes")
                .long("codes")
                .action(ArgAction::SetTrue)
                .exclusive(true)
                .help("Print every finding code with its meaning, and end"),
        )
}

fn code(text: &str) -> Result<Code, String> {
    let known = Code::ALL.iter().find(|code| code.as_str() == text.trim());
    known.copied().ok_or_else(|| {
        let area = text.split('.').next().unwrap_or_default();
        let near: Vec<&str> = Code::ALL.iter().map(|c| c.as_str()).filter(|c| c.split('.').next() == Some(area)).collect();
        if near.is_empty() {
            "there is no such code; --codes lists all".to_owned()
        } else {
            format!("there is no such code; there are {}", near.join(", "))
        }
    })
}

fn witness_args() -> [Arg; 4] {
    [
        Arg::new("witness")
            .long("witness")
            .value_name("KEY")
            .action(ArgAction::Append)
            .value_parser(|text: &str| text.parse::<WitnessKey>())
            .help("Count the cosignatures of this witness (repeatable); KEY as 'exhibit witness init' prints it"),
        Arg::new("required")
            .long("witnesses-required")
            .value_name("N")
            .value_parser(value_parser!(u8).range(0..=16))
            .requires("witness")
            .help("How many of the given witnesses must have cosigned the checkpoint, or a later one; all of them when not given"),
        Arg::new("held")
            .long("held")
            .value_name("FILE")
            .action(ArgAction::Append)
            .value_parser(value_parser!(PathBuf))
            .help("A checkpoint that was kept elsewhere, by a witness for example (repeatable): the history must contain it"),
        Arg::new("consistency")
            .long("consistency")
            .value_name("FILE")
            .action(ArgAction::Append)
            .value_parser(value_parser!(PathBuf))
            .help("The proof that a later checkpoint continues the history of a bag (repeatable): its cosignatures count"),
    ]
}

fn timestamp_args() -> [Arg; 2] {
    [
        Arg::new("timestamp-anchor")
            .long("timestamp-anchor")
            .value_name("FILE")
            .action(ArgAction::Append)
            .value_parser(value_parser!(PathBuf))
            .help("Root certificate of a timestamp authority, obtained on another way than the case (repeatable)"),
        Arg::new("timestamps-required")
            .long("timestamps-required")
            .value_name("N")
            .value_parser(value_parser!(u8).range(0..=16))
            .requires("timestamp-anchor")
            .help("Under how many of the given roots the last records must be stamped; 0 when not given"),
    ]
}

/// The witnesses, and how many must have cosigned.
fn witnesses(matches: &mut clap::ArgMatches) -> Result<(Vec<WitnessKey>, usize), String> {
    let witnesses: Vec<WitnessKey> = matches.remove_many("witness").map(Iterator::collect).unwrap_or_default();
    for (n, witness) in witnesses.iter().enumerate() {
        if witnesses.iter().take(n).any(|w| w.key() == witness.key()) {
            return Err("exhibit-verify: --witness: one key is given twice; each witness has a key of its own".to_owned());
        }
    }
    let required = matches.remove_one::<u8>("required").map_or(witnesses.len(), usize::from);
    if required > witnesses.len() {
        return Err(format!("exhibit-verify: --witnesses-required {required}: only {} given with --witness", witnesses.len()));
    }
    Ok((witnesses, required))
}

fn head(text: &str) -> Result<(u64, Digest), String> {
    let (size, root) = text.split_once(':').ok_or("expected SIZE:ROOT, like 41:<64 hexadecimal characters>")?;
    let size = size.parse().map_err(|_| "the size before ':' is not a number of records")?;
    Ok((size, root.parse().map_err(|e: exhibit_evidence::digest::BadDigest| e.to_string())?))
}

/// Reads the command line; the error is the usage message.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let mut matches = match command().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => return Ok(Command::Show(e.to_string())),
        Err(e) => return Err(e.to_string()),
    };
    if let Some(code) = matches.subcommand_matches("explain").and_then(|m| m.get_one::<Code>("code")) {
        return Ok(Command::Explain(*code));
    }
    if matches.get_flag("codes") {
        return Ok(Command::Codes);
    }
    let (witnesses, witnesses_required) = witnesses(&mut matches)?;
    let held: Vec<PathBuf> = matches.remove_many("held").map(Iterator::collect).unwrap_or_default();
    let consistency: Vec<PathBuf> = matches.remove_many("consistency").map(Iterator::collect).unwrap_or_default();
    let timestamp_anchors: Vec<PathBuf> = matches.remove_many("timestamp-anchor").map(Iterator::collect).unwrap_or_default();
    let identities: Vec<PathBuf> = matches.remove_many("identity").map(Iterator::collect).unwrap_or_default();
    let timestamps_required = matches.remove_one::<u8>("timestamps-required").map_or(0, usize::from);
    let (complete, expected) = (matches.get_flag("complete"), matches.remove_one("expect"));
    let deployment = matches.get_flag("deployment");
    let options = Options { deployment, complete, expected, witnesses, witnesses_required, timestamps_required, ..Options::default() };
    let (json, quiet) = (matches.get_flag("json"), matches.get_flag("quiet"));
    match (matches.remove_one("path"), matches.remove_one("anchor")) {
        (Some(path), Some(anchor)) => {
            let request = Request { path, anchor, json, quiet, held, consistency, identities, timestamp_anchors, options };
            Ok(Command::Verify(Box::new(request)))
        }
        _ => Err("exhibit-verify: PATH and --anchor FILE are needed; see --help".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Command, String> {
        parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn what_is_needed_is_asked_for() {
        assert!(matches!(words("v case --anchor a"), Ok(Command::Verify(r)) if !r.json && !r.options.complete));
        assert!(matches!(words("v --codes"), Ok(Command::Codes)));
        assert!(matches!(words("v explain bag.signer"), Ok(Command::Explain(Code::BagSigner))));
        assert!(words("v explain bag.x").is_err_and(|e| e.contains("bag.file-unlisted")));
        assert!(words("v explain").is_err() && words("v explain nonsense").is_err_and(|e| e.contains("--codes")));
        assert!(matches!(words("v --help"), Ok(Command::Show(t)) if t.contains("THE ANCHOR")));
        for bad in [
            "v",
            "v case",
            "v --anchor a",
            "v case --anchor a --expect 7",
            "v case --anchor a --expect x:00",
            "v case --anchor a --nope",
            "v case --anchor a --timestamps-required 1",
        ] {
            assert!(words(bad).is_err(), "{bad}");
        }
        let key = "w.example+1+BAAA";
        for bad in [format!("v case --anchor a --witness {key}"), "v case --anchor a --witnesses-required 1".to_owned()] {
            assert!(words(&bad).is_err(), "{bad}");
        }
        let root = "ab".repeat(32);
        let Ok(Command::Verify(request)) = words(&format!("v case --anchor a --complete --expect 7:{root}")) else { panic!("valid") };
        assert!(request.options.complete && request.options.expected.is_some_and(|(n, d)| n == 7 && d.to_string() == root));
        let Ok(Command::Verify(request)) = words("v bag --anchor a --consistency p --consistency q") else { panic!("valid") };
        assert_eq!(request.consistency, [PathBuf::from("p"), PathBuf::from("q")]);
    }
}
