//! Where things lie under a deployment's store. Names are relative, `/`-separated and made only of `[a-z0-9._-]`.
//!
//! ```text
//! cases/<case>/log/checkpoint                                  signed tree head; the only object that is replaced
//! cases/<case>/log/seq/<n>.dsse.json                           record n of the case, create-only, n in 10 digits
//! cases/<case>/log/tile/...                                    C2SP tiles over the records: they follow from them
//! cases/<case>/log/cosigned/<witness>/<size>                   head that a witness vouches for, size in 10 digits
//! cases/<case>/collections/<collection>/<stream>/<n>.tar.zst   segment n of a stream, create-only, n in 8 digits
//! cases/<case>/collections/<collection>/<stream>/manifest.jsonl
//! cases/<case>/timestamps/<size>.checkpoint                    head of `size` records that was stamped, create-only
//! cases/<case>/timestamps/<size>.<authority>.tsq|.tsr|.<n>.crl request, reply and CRLs of an authority, create-only
//! deployment/log/..., deployment/timestamps/...                the same for keys, people, agents and what concerns no case
//! ```

use crate::id::{CaseId, CollectionId};
use crate::log::{Tile, WitnessKey};

/// The number of a stream within a collection, from 1. Shown as `s1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct StreamNumber(pub u32);

impl std::fmt::Display for StreamNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "s{}", self.0)
    }
}

/// Which log a record is in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogName {
    /// The log of one case.
    Case(CaseId),
    /// The log of the deployment: keys, operators, start and stop.
    Deployment,
}

impl LogName {
    /// The folder that holds the log.
    #[must_use]
    pub fn folder(&self) -> String {
        match self {
            Self::Case(case) => format!("{}/log", case_folder(case)),
            Self::Deployment => "deployment/log".to_owned(),
        }
    }

    /// The object of record `n`.
    #[must_use]
    pub fn slot(&self, n: u64) -> String {
        format!("{}/seq/{n:010}.dsse.json", self.folder())
    }

    /// The object of the signed tree head.
    #[must_use]
    pub fn checkpoint(&self) -> String {
        format!("{}/checkpoint", self.folder())
    }

    /// The object of a tile.
    #[must_use]
    pub fn tile(&self, tile: &Tile) -> String {
        format!("{}/{tile}", self.folder())
    }

    /// The object that has to do with a timestamp over the head of `size` records.
    #[must_use]
    pub fn timestamp(&self, size: u64, file: &TimestampFile) -> String {
        let object = CaseObject::Timestamp(size, file.clone());
        match self {
            Self::Case(case) => format!("{}/{object}", case_folder(case)),
            Self::Deployment => format!("deployment/{object}"),
        }
    }

    /// The folder of the heads that witnesses vouch for.
    #[must_use]
    pub fn cosigned_folder(&self) -> String {
        format!("{}/cosigned", self.folder())
    }

    /// The object of the head of `size` records that a witness vouches for.
    #[must_use]
    pub fn cosigned(&self, witness: &WitnessKey, size: u64) -> String {
        format!("{}/{}/{size:010}", self.cosigned_folder(), witness.id())
    }

    /// The C2SP origin line of the log: what makes two logs of one key different.
    #[must_use]
    pub fn origin(&self, deployment: &str) -> String {
        match self {
            Self::Case(case) => format!("exhibit/{deployment}/case/{case}"),
            Self::Deployment => format!("exhibit/{deployment}/deployment"),
        }
    }
}

/// The folder of a case.
#[must_use]
pub fn case_folder(case: &CaseId) -> String {
    format!("cases/{case}")
}

/// The folder of one stream.
#[must_use]
pub fn stream_folder(case: &CaseId, collection: &CollectionId, stream: StreamNumber) -> String {
    format!("{}/collections/{collection}/{stream}", case_folder(case))
}

/// The object of one segment.
#[must_use]
pub fn segment(case: &CaseId, collection: &CollectionId, stream: StreamNumber, n: u32) -> String {
    format!("{}/{n:08}.tar.zst", stream_folder(case, collection, stream))
}

/// The object of a stream's manifest.
#[must_use]
pub fn manifest(case: &CaseId, collection: &CollectionId, stream: StreamNumber) -> String {
    format!("{}/manifest.jsonl", stream_folder(case, collection, stream))
}

/// What an object in `timestamps/` is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimestampFile {
    /// `<size>.checkpoint`: the bytes that are stamped.
    Checkpoint,
    /// `<size>.<authority>.tsq`
    Request(AuthorityName),
    /// `<size>.<authority>.tsr`
    Reply(AuthorityName),
    /// `<size>.<authority>.<n>.crl`, n from 0.
    Crl(AuthorityName, u8),
}

impl TimestampFile {
    /// CRLs that are kept with one token.
    pub const CRLS_MAX: u8 = 4;

    fn parse(name: &str) -> Option<(u64, Self)> {
        let (size, file) = name.split_once('.')?;
        Some((fixed_number(size, 10)?, Self::parse_ending(file)?))
    }

    /// Recognises what [`Display`](std::fmt::Display) writes: the name without what comes before the first point.
    #[must_use]
    pub fn parse_ending(ending: &str) -> Option<Self> {
        match ending.split('.').collect::<Vec<_>>().as_slice() {
            ["checkpoint"] => Some(Self::Checkpoint),
            [authority, "tsq"] => Some(Self::Request(authority.parse().ok()?)),
            [authority, "tsr"] => Some(Self::Reply(authority.parse().ok()?)),
            [authority, n, "crl"] => {
                let n = fixed_number(n, 1).filter(|n| *n < u64::from(Self::CRLS_MAX))?;
                Some(Self::Crl(authority.parse().ok()?, u8::try_from(n).ok()?))
            }
            _ => None,
        }
    }
}

impl std::fmt::Display for TimestampFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Checkpoint => f.write_str("checkpoint"),
            Self::Request(authority) => write!(f, "{authority}.tsq"),
            Self::Reply(authority) => write!(f, "{authority}.tsr"),
            Self::Crl(authority, n) => write!(f, "{authority}.{n}.crl"),
        }
    }
}

/// The name under which a deployment knows a timestamp authority: 1 to 32 of `[a-z0-9-]`, not beginning with `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuthorityName(String);

impl AuthorityName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for AuthorityName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for AuthorityName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let good =
            (1..=32).contains(&text.len()) && !text.starts_with('-') && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        let bad = || format!("'{}' is no name of an authority: expected 1 to 32 of a-z, 0-9 and -", crate::text::escape_bounded(text, 60));
        good.then(|| Self(text.to_owned())).ok_or_else(bad)
    }
}

/// What a name below a case's folder is. Everything that is not one of these does not belong there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum CaseObject {
    /// `log/checkpoint`
    Checkpoint,
    /// `log/seq/<n>.dsse.json`
    Slot(u64),
    /// `log/tile/...`
    Tile(Tile),
    /// `log/cosigned/<witness>/<size>`: the witness by the id of its key, 8 hexadecimal characters.
    Cosigned(String, u64),
    /// Something in `timestamps/`, about the head of so many records.
    Timestamp(u64, TimestampFile),
    /// A segment.
    Segment(CollectionId, StreamNumber, u32),
    /// A manifest.
    Manifest(CollectionId, StreamNumber),
}

impl CaseObject {
    /// Recognises a name relative to the case's folder; only the exact text that this module writes is accepted.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let parts: Vec<&str> = name.split('/').collect();
        match parts.as_slice() {
            ["log", "checkpoint"] => Some(Self::Checkpoint),
            ["log", "seq", file] => fixed_number(file.strip_suffix(".dsse.json")?, 10).map(Self::Slot),
            ["log", "tile", ..] => Tile::parse(name.strip_prefix("log/")?).map(Self::Tile),
            ["log", "cosigned", witness, size] if is_key_id(witness) => {
                fixed_number(size, 10).map(|size| Self::Cosigned((*witness).to_owned(), size))
            }
            ["timestamps", file] => TimestampFile::parse(file).map(|(size, file)| Self::Timestamp(size, file)),
            ["collections", collection, stream, file] => {
                let collection = collection.parse().ok()?;
                let stream = stream_number(stream)?;
                if *file == "manifest.jsonl" {
                    return Some(Self::Manifest(collection, stream));
                }
                let n = fixed_number(file.strip_suffix(".tar.zst")?, 8)?;
                Some(Self::Segment(collection, stream, u32::try_from(n).ok()?))
            }
            _ => None,
        }
    }

    /// Recognises the name of a folder that objects of a case lie in.
    #[must_use]
    pub fn is_folder(name: &str) -> bool {
        let parts: Vec<&str> = name.split('/').collect();
        match parts.as_slice() {
            ["log" | "collections" | "timestamps"] | ["log", "seq" | "cosigned"] => true,
            ["log", "tile", ..] => name.strip_prefix("log/").is_some_and(Tile::is_folder),
            ["log", "cosigned", witness] => is_key_id(witness),
            ["collections", collection] => collection.parse::<CollectionId>().is_ok(),
            ["collections", collection, stream] => collection.parse::<CollectionId>().is_ok() && stream_number(stream).is_some(),
            _ => false,
        }
    }
}

/// Recognises the whole name of an object: to which log it belongs, and what it is there. What is not one of these was put into the
/// store by somebody else.
#[must_use]
pub fn parse(name: &str) -> Option<(LogName, CaseObject)> {
    if let Some(object) = name.strip_prefix("deployment/") {
        let object = CaseObject::parse(object)?;
        let is_of_a_case = matches!(object, CaseObject::Segment(..) | CaseObject::Manifest(..));
        return (!is_of_a_case).then_some((LogName::Deployment, object));
    }
    let (case, object) = name.strip_prefix("cases/")?.split_once('/')?;
    Some((LogName::Case(case.parse().ok()?), CaseObject::parse(object)?))
}

fn is_key_id(text: &str) -> bool {
    text.len() == 8 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn stream_number(text: &str) -> Option<StreamNumber> {
    let number = text.strip_prefix('s')?.parse().ok().map(StreamNumber)?;
    (number.0 > 0 && number.to_string() == text).then_some(number)
}

impl std::fmt::Display for CaseObject {
    /// The name relative to the case's folder: the text that [`CaseObject::parse`] reads.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Checkpoint => f.write_str("log/checkpoint"),
            Self::Slot(n) => write!(f, "log/seq/{n:010}.dsse.json"),
            Self::Tile(tile) => write!(f, "log/{tile}"),
            Self::Cosigned(witness, size) => write!(f, "log/cosigned/{witness}/{size:010}"),
            Self::Timestamp(size, file) => write!(f, "timestamps/{size:010}.{file}"),
            Self::Segment(collection, stream, n) => write!(f, "collections/{collection}/{stream}/{n:08}.tar.zst"),
            Self::Manifest(collection, stream) => write!(f, "collections/{collection}/{stream}/manifest.jsonl"),
        }
    }
}

fn fixed_number(text: &str, digits: usize) -> Option<u64> {
    (text.len() == digits && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_recognised_and_nothing_else_is() {
        let case = CaseId::new(1, [2; 10]);
        let collection = CollectionId::from_digest(&crate::Digest::of(b"x"));
        let below = |name: String| name.strip_prefix(&format!("{}/", case_folder(&case))).expect("below the case").to_owned();
        let s = StreamNumber(2);
        assert_eq!(CaseObject::parse(&below(segment(&case, &collection, s, 7))), Some(CaseObject::Segment(collection.clone(), s, 7)));
        assert_eq!(CaseObject::parse(&below(manifest(&case, &collection, s))), Some(CaseObject::Manifest(collection.clone(), s)));
        assert_eq!(CaseObject::parse(&below(LogName::Case(case.clone()).slot(3))), Some(CaseObject::Slot(3)));
        assert_eq!(CaseObject::parse("log/checkpoint"), Some(CaseObject::Checkpoint));
        for good in ["log/tile/0/000", "log/tile/entries/x001/000.p/7", "log/cosigned/0a1b2c3d/0000000012"] {
            assert_eq!(CaseObject::parse(good).map(|o| o.to_string()).as_deref(), Some(good));
        }
        for folder in ["log/tile", "log/tile/0/000.p", "log/cosigned", "log/cosigned/0a1b2c3d"] {
            assert!(CaseObject::is_folder(folder) && CaseObject::parse(folder).is_none(), "{folder}");
        }
        for good in ["timestamps/0000000012.checkpoint", "timestamps/0000000012.tsa-1.tsr", "timestamps/0000000012.a.3.crl"] {
            assert_eq!(CaseObject::parse(good).map(|o| o.to_string()).as_deref(), Some(good));
        }
        assert!(CaseObject::is_folder("timestamps"));
        for bad in
            ["timestamps/12.checkpoint", "timestamps/0000000012.-a.tsq", "timestamps/0000000012.a.4.crl", "timestamps/0000000012.A.tsr"]
        {
            assert_eq!(CaseObject::parse(bad), None, "{bad}");
        }
        for bad in ["log/tile/0/0", "log/cosigned/0A1b2c3d/0000000012", "log/cosigned/0a1b2c3d/12", "log/cosigned/x/0000000012"] {
            assert_eq!(CaseObject::parse(bad), None, "{bad}");
        }
        for bad in ["", "log/seq/3.dsse.json", "log/checkpoint/", "../x", "log/seq/+000000003.dsse.json"] {
            assert_eq!(CaseObject::parse(bad), None, "{bad}");
        }
        for folder in ["log", "log/seq", "collections", &format!("collections/{collection}"), &format!("collections/{collection}/s2")] {
            assert!(CaseObject::is_folder(folder) && CaseObject::parse(folder).is_none(), "{folder}");
        }
        for bad in ["", "x", "log/seq/x", "log/checkpoint", "collections/x", &format!("collections/{collection}/s0")] {
            assert!(!CaseObject::is_folder(bad), "{bad}");
        }
        assert_eq!(CaseObject::parse(&format!("collections/{collection}/s02/manifest.jsonl")), None);
        assert_eq!(CaseObject::parse(&format!("collections/{collection}/s0/manifest.jsonl")), None);
    }

    #[test]
    fn whole_names_are_recognised_with_their_log() {
        let (case, collection) = (CaseId::new(1, [2; 10]), CollectionId::from_digest(&crate::Digest::of(b"x")));
        let of_case = LogName::Case(case.clone());
        let request = TimestampFile::Request("a".parse().expect("a name"));
        for (name, log, object) in [
            (segment(&case, &collection, StreamNumber(2), 7), &of_case, CaseObject::Segment(collection.clone(), StreamNumber(2), 7)),
            (of_case.slot(3), &of_case, CaseObject::Slot(3)),
            (of_case.timestamp(12, &request), &of_case, CaseObject::Timestamp(12, request.clone())),
            (LogName::Deployment.slot(3), &LogName::Deployment, CaseObject::Slot(3)),
            (LogName::Deployment.checkpoint(), &LogName::Deployment, CaseObject::Checkpoint),
            (LogName::Deployment.timestamp(12, &request), &LogName::Deployment, CaseObject::Timestamp(12, request.clone())),
        ] {
            assert_eq!(parse(&name), Some((log.clone(), object)), "{name}");
        }
        let folder = case_folder(&case);
        let evidence = format!("collections/{collection}/s1/manifest.jsonl");
        for bad in [
            String::new(),
            "cases".to_owned(),
            "cases//x".to_owned(),
            folder.clone(),
            format!("{folder}/"),
            format!("{folder}/x"),
            format!("{folder}//log/checkpoint"),
            format!("{folder}/log/seq/../checkpoint"),
            format!("{folder}/log/seq/0000000003.dsse.json/"),
            format!("/{folder}/log/checkpoint"),
            "cases/x/log/checkpoint".to_owned(),
            format!("deployment/{evidence}"),
            "deployment/x".to_owned(),
            "deployment//log/checkpoint".to_owned(),
            "probe/head".to_owned(),
        ] {
            assert_eq!(parse(&bad), None, "{bad}");
        }
        assert!(parse(&format!("{folder}/{evidence}")).is_some());
    }

    proptest::proptest! {
        #[test]
        fn only_the_exact_text_of_a_name_is_recognised(
            at in 0_usize..120,
            put in "(/|//|\\.\\./|\\.|%2F|[A-Z]|\u{0}|\u{7f}|ä| |x)",
            any in ".{0,60}",
        ) {
            let case = CaseId::new(1, [2; 10]);
            let names = [LogName::Case(case.clone()).slot(3), manifest(&case, &CollectionId::from_digest(&crate::Digest::of(b"x")), StreamNumber(1))];
            for name in names {
                let mut other = name.clone();
                other.insert_str(at % (name.len() + 1), &put);
                proptest::prop_assert_eq!(parse(&other), None, "{}", other);
                for made in [any.clone(), format!("cases/{any}"), format!("{}/{any}", case_folder(&case)), format!("deployment/{any}")] {
                    if let Some((log, object)) = parse(&made) {
                        let folder = log.folder();
                        let folder = folder.strip_suffix("/log").expect("a log's folder");
                        proptest::prop_assert_eq!(format!("{folder}/{object}"), made);
                    }
                }
            }
        }
    }
}
