//! The bag: a case as it is handed over, a BagIt 1.0 bag (RFC 8493). Normative text: `docs/format/bag.md`.
//!
//! ```text
//! bagit.txt, bag-info.txt            what BagIt asks for
//! data/                              the case's folder, exactly as it was stored
//! manifest-sha256.txt, -sha512.txt   every file of data/
//! bag.json                           what the bag is: case, head, collections, who, when, why
//! VERIFY.md, documents/, ...         made from the case, for people and programs
//! tagmanifest-sha256.txt             every file above that is not below data/
//! tagmanifest-sha256.txt.sig         64 bytes: the exporting person's Ed25519 signature over tagmanifest-sha256.txt
//! tagmanifest-sha256.txt.*.tsr ...   trusted timestamps over tagmanifest-sha256.txt
//! ```
//!
//! So one signature covers every byte of the bag. The key is one that the case's own log enrols.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::digest::{Digest, Hasher};
use crate::id::{CaseId, CollectionId};
use crate::key::KeyId;
use crate::layout::{AuthorityName, TimestampFile};
use crate::record::{Nonce, Tool};
use crate::text::one_line;
use crate::time::Timestamp;

/// `bagit.txt`.
pub const BAGIT: &str = "bagit.txt";
/// The only content of [`BAGIT`].
pub const DECLARATION: &str = "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n";
/// Labels and values for people.
pub const INFO: &str = "bag-info.txt";
/// SHA-256 of every file below [`PAYLOAD`].
pub const MANIFEST_SHA256: &str = "manifest-sha256.txt";
/// SHA-512 of every file below [`PAYLOAD`].
pub const MANIFEST_SHA512: &str = "manifest-sha512.txt";
/// SHA-256 of every other file, except itself and what is made of it.
pub const TAG_MANIFEST: &str = "tagmanifest-sha256.txt";
/// The largest [`TAG_MANIFEST`]: it is signed as one message, and about 4 million expanded files have room in it.
pub const TAG_MANIFEST_BYTES_MAX: u64 = 512 << 20;
/// The signature over [`TAG_MANIFEST`].
pub const SIGNATURE: &str = "tagmanifest-sha256.txt.sig";
/// The description of the bag.
pub const DESCRIPTION: &str = "bag.json";
/// The folder of the payload, with its slash.
pub const PAYLOAD: &str = "data/";
/// Version text of [`DESCRIPTION`].
pub const FORMAT: &str = "exhibit-bag/1";
/// The largest [`DESCRIPTION`]: 100,000 collections.
pub const DESCRIPTION_BYTES_MAX: u64 = 4 << 20;
/// The longest line of a manifest: 128 hexadecimal characters, two spaces, a path.
pub const LINE_BYTES_MAX: usize = 8_192;

/// What a bag is: the content of [`DESCRIPTION`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// [`FORMAT`].
    pub format: String,
    /// The deployment that held the case.
    pub deployment: String,
    /// The case.
    pub case: CaseId,
    /// The head of the case's log in the bag.
    pub head: Nonce,
    /// Collections whose evidence is in the bag, as far as they have any, in the order of their ids.
    pub collections: Vec<CollectionId>,
    /// Collections that the log knows and whose evidence was left out by choice, in the order of their ids.
    pub left_out: Vec<CollectionId>,
    /// Who handed it over (SPIFFE-style URI) and signs for it.
    pub exported_by: String,
    /// The key that signs: the SHA-256 of the public key.
    pub key: KeyId,
    /// Clock of that person's machine.
    pub exported_at: Timestamp,
    /// Why, in that person's words.
    pub reason: String,
    /// The program that made the bag.
    pub tool: Tool,
    /// The timestamp authorities that were going to be asked to stamp the tag manifest, in the order of their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub authorities: Vec<String>,
    /// For each of them that has any, how many revocation lists were going to be kept with its timestamp.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub revocation_lists: BTreeMap<String, u8>,
    /// The views that were made, in their order; absent where a bag does not say. A bag that names none but those that can be compared
    /// with the case says nothing of the others.
    #[serde(default, deserialize_with = "crate::json::present", skip_serializing_if = "Option::is_none")]
    pub views: Option<Vec<View>>,
}

/// What is made of the case and lies beside it in a bag. The order is that of the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum View {
    /// `documents/`: report, form, certificate and statement.
    Documents,
    /// `expanded/`: the content of every item that is in the bag.
    Expanded,
    /// The lists in `load-file/`; the note that they could not be made is none.
    LoadFile,
    /// `case.jsonld`: the case in the CASE ontology.
    Ontology,
    /// `proofs/`: an inclusion proof of every seal and every export.
    Proofs,
    /// `schemas/`: the JSON schemas of the records.
    Schemas,
    /// `VERIFY.md`: the steps to verify the bag with foreign programs.
    Steps,
}

impl View {
    /// All, in their order.
    pub const ALL: [Self; 7] = [Self::Documents, Self::Expanded, Self::LoadFile, Self::Ontology, Self::Proofs, Self::Schemas, Self::Steps];

    /// How the names of its files begin; of a view that is one file its whole name.
    #[must_use]
    pub const fn begin(self) -> &'static str {
        match self {
            Self::Documents => "documents/",
            Self::Expanded => "expanded/",
            Self::LoadFile => "load-file/exhibits.",
            Self::Ontology => "case.jsonld",
            Self::Proofs => "proofs/",
            Self::Schemas => "schemas/",
            Self::Steps => "VERIFY.md",
        }
    }

    /// True for those that can be compared with the case. Bags that name no others were made before the others had words.
    #[must_use]
    pub const fn is_compared(self) -> bool {
        matches!(self, Self::Expanded | Self::Proofs)
    }
}

impl Description {
    /// Reads the file's content.
    ///
    /// # Errors
    /// A sentence that names what is wrong, not escaped.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let description: Self = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        crate::json::objects_are_objects(bytes, &description)?;
        if description.format != FORMAT {
            return Err(format!("format '{}': this program reads '{FORMAT}'", description.format));
        }
        let sorted = |ids: &[CollectionId]| ids.is_sorted_by(|a, b| a < b);
        if !sorted(&description.collections) || !sorted(&description.left_out) {
            return Err("collections and left_out must be sorted, each id once".to_owned());
        }
        if description.left_out.iter().any(|id| description.collections.binary_search(id).is_ok()) {
            return Err("a collection is both in the bag and left out".to_owned());
        }
        if !description.authorities.is_sorted_by(|a, b| a < b)
            || description.authorities.iter().any(|a| a.parse::<AuthorityName>().is_err())
        {
            return Err("authorities must be names of timestamp authorities, sorted, each once".to_owned());
        }
        let few = 1..=TimestampFile::CRLS_MAX;
        if description.revocation_lists.iter().any(|(name, n)| description.authorities.binary_search(name).is_err() || !few.contains(n)) {
            return Err(format!("revocation_lists must be of authorities, 1 to {} of each", TimestampFile::CRLS_MAX));
        }
        if description.views.as_ref().is_some_and(|views| !views.is_sorted_by(|a, b| a < b)) {
            return Err("views must be sorted, each once".to_owned());
        }
        Ok(description)
    }

    /// True when the bag says that this view was made; nothing when it does not say whether it was.
    #[must_use]
    pub fn made(&self, view: View) -> Option<bool> {
        let views = self.views.as_ref()?;
        let says = view.is_compared() || views.iter().any(|named| !named.is_compared());
        says.then(|| views.contains(&view))
    }

    /// The file's content.
    ///
    /// # Errors
    /// Never for a value that [`Description::parse`] gave.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

/// What [`INFO`] says of a bag, but for [`INFO_VERIFIED`]: labels in their order, each with its value on one line (RFC 8493, section 2.2.2).
/// `title` is the case's, `bytes` and `files` are those of the payload.
#[must_use]
pub fn info(d: &Description, title: &str, bytes: u64, files: u64) -> Vec<(&'static str, String)> {
    let date = d.exported_at.to_string();
    let values = [
        ("Source-Organization", d.deployment.clone()),
        ("External-Identifier", d.case.to_string()),
        ("External-Description", title.to_owned()),
        ("Bagging-Date", date.get(..10).unwrap_or_default().to_owned()),
        ("Bag-Software-Agent", format!("{} {}", d.tool.name, d.tool.version)),
        ("Payload-Oxum", format!("{bytes}.{files}")),
        ("Bag-Size", crate::written::size(bytes)),
        ("Exhibit-Exported-By", d.exported_by.clone()),
        ("Exhibit-Signing-Key", d.key.to_string()),
        ("Exhibit-Log-Head", format!("{}:{}", d.head.size, d.head.root)),
        ("Exhibit-Reason", d.reason.clone()),
    ];
    values.into_iter().map(|(label, value)| (label, one_line(&value, INFO_VALUE_CHARS_MAX))).collect()
}

/// The label of [`INFO`] that says how the case was verified before it was handed over: its exporter's word.
pub const INFO_VERIFIED: &str = "Exhibit-Verified";
/// Longest value in [`INFO`].
pub const INFO_VALUE_CHARS_MAX: usize = 2_000;
/// The largest [`INFO`]: a dozen lines.
pub const INFO_BYTES_MAX: u64 = 1 << 18;

/// True for the files that no manifest can name: the tag manifest, its signature, its timestamps.
#[must_use]
pub fn is_outside_manifests(name: &str) -> bool {
    name == TAG_MANIFEST || name == SIGNATURE || parse_stamp(name).is_some()
}

/// The name of a file of a timestamp over the tag manifest.
#[must_use]
pub fn stamp(file: &TimestampFile) -> String {
    format!("{TAG_MANIFEST}.{file}")
}

/// Recognises the names that [`stamp`] gives.
#[must_use]
pub fn parse_stamp(name: &str) -> Option<TimestampFile> {
    let ending = name.strip_prefix(TAG_MANIFEST)?.strip_prefix('.')?;
    TimestampFile::parse_ending(ending).filter(|file| *file != TimestampFile::Checkpoint)
}

/// SHA-256 and SHA-512 of one file, computed together.
#[derive(Debug, Clone, Default)]
pub struct Sums {
    sha256: Hasher,
    sha512: sha2::Sha512,
}

impl Sums {
    /// Nothing was read yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.sha512.update(bytes);
    }

    /// The SHA-256, and the SHA-512 as 128 hexadecimal characters.
    #[must_use]
    pub fn finish(self) -> (Digest, String) {
        let mut hex = String::with_capacity(128);
        for byte in self.sha512.finalize() {
            let _ = write!(hex, "{byte:02x}");
        }
        (self.sha256.finish(), hex)
    }
}

/// A line of a manifest: digest, two spaces, path. RFC 8493 writes line ends and `%` in a path as `%0A`, `%0D`, `%25`.
#[must_use]
pub fn manifest_line(digest: &str, path: &str) -> String {
    format!("{digest}  {}\n", path.replace('%', "%25").replace('\n', "%0A").replace('\r', "%0D"))
}

/// Reads a line without its line end: the digest of `hex_length` characters and the path.
///
/// # Errors
/// What is wrong with it.
pub fn parse_manifest_line(line: &str, hex_length: usize) -> Result<(String, String), &'static str> {
    let (digest, path) = line.split_once("  ").ok_or("expected a digest, two spaces and a path")?;
    let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if digest.len() != hex_length || !digest.bytes().all(is_hex) {
        return Err("its digest is not of this manifest's kind, in lower case");
    }
    let path = path.replace("%0A", "\n").replace("%0a", "\n").replace("%0D", "\r").replace("%0d", "\r").replace("%25", "%");
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err("its path leads out of the bag or names nothing");
    }
    Ok((digest.to_owned(), path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_written_as_they_are_read() {
        let digest = "a".repeat(64);
        for path in ["data/log/checkpoint", "documents/a b.html", "x%y", "a\nb\rc", "%0A"] {
            let line = manifest_line(&digest, path);
            assert_eq!(line.matches('\n').count(), 1);
            assert_eq!(parse_manifest_line(line.trim_end(), 64), Ok((digest.clone(), path.to_owned())));
        }
        for bad in ["", "x  y", &format!("{digest} y"), &format!("{digest}  ../y"), &format!("{digest}  /y"), &format!("{digest}  a//b")] {
            assert!(parse_manifest_line(bad, 64).is_err(), "{bad}");
        }
        assert!(parse_manifest_line(&format!("{}  y", "A".repeat(64)), 64).is_err());
    }

    #[test]
    fn the_words_of_views_are_in_their_order() {
        let words = View::ALL.map(|view| serde_json::to_string(&view).expect("a word"));
        assert_eq!(
            words,
            ["documents", "expanded", "load-file", "ontology", "proofs", "schemas", "steps"].map(|word| format!("\"{word}\""))
        );
        assert!(words.is_sorted() && View::ALL.is_sorted());
    }

    #[test]
    fn timestamps_are_known_by_their_names() {
        let name = |n: &str| n.parse::<AuthorityName>().expect("a name");
        for file in [TimestampFile::Request(name("a-1")), TimestampFile::Reply(name("sig")), TimestampFile::Crl(name("a"), 3)] {
            assert_eq!(parse_stamp(&stamp(&file)), Some(file.clone()));
            assert!(is_outside_manifests(&stamp(&file)));
        }
        for other in ["", ".", ".checkpoint", ".a", ".tsr", ".A.tsr", ".a.4.crl", ".a.00.crl", ".a.tsr.", ".a/b.tsr", ".a.tsr.sig"] {
            assert!(!is_outside_manifests(&format!("{TAG_MANIFEST}{other}")) || other.is_empty(), "{other}");
        }
    }

    #[test]
    fn both_sums_are_those_of_the_standard() {
        // FIPS 180-4, "abc".
        let mut sums = Sums::new();
        sums.update(b"a");
        sums.update(b"bc");
        let (sha256, sha512) = sums.finish();
        assert_eq!(sha256, Digest::of(b"abc"));
        assert!(sha512.starts_with("ddaf35a193617abacc417349ae204131") && sha512.len() == 128);
    }

    proptest::proptest! {
        #[test]
        fn any_line_and_description_is_handled(line: String, bytes: Vec<u8>) {
            let _ = parse_manifest_line(&line, 64);
            let _ = Description::parse(&bytes);
        }

        #[test]
        fn a_timestamp_has_one_name(ending in "[a-c-]{0,3}(\\.[0-9]{1,2})?(\\.(tsq|tsr|crl|checkpoint))?|.{0,12}") {
            let name = format!("{TAG_MANIFEST}.{ending}");
            if let Some(file) = parse_stamp(&name) {
                proptest::prop_assert_eq!(stamp(&file), name);
            }
        }

        #[test]
        fn any_path_comes_back(path in "[^/\u{0}]{1,40}") {
            proptest::prop_assume!(path != "." && path != "..");
            let line = manifest_line(&"0".repeat(64), &path);
            proptest::prop_assert_eq!(parse_manifest_line(&line[..line.len() - 1], 64), Ok(("0".repeat(64), path)));
        }
    }
}
