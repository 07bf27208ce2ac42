//! What makes a folder a bag: manifests, tag files, and one signature over all of it.

use std::fs::{self, File};
use std::io::{BufWriter, Read as _, Write as _};
use std::path::Path;

use exhibit_evidence::bag::{
    BAGIT, DECLARATION, DESCRIPTION, Description, INFO, INFO_VALUE_CHARS_MAX, INFO_VERIFIED, MANIFEST_SHA256, MANIFEST_SHA512, PAYLOAD,
    SIGNATURE, TAG_MANIFEST, info, manifest_line,
};
use exhibit_evidence::key::SigningKey;
use exhibit_evidence::text::one_line;
use exhibit_evidence::{Digest, Hasher};

use super::folder::walk;
use super::place::{Place, cannot};
use crate::exit::{Code, Failure, Result};

/// What `bag-info.txt` says besides the description.
pub struct Info<'a> {
    /// Title of the case.
    pub title: &'a str,
    /// How the verification of the case ended.
    pub verdict: &'a str,
}

/// Writes the tag files and signs.
///
/// Order of writes: (1) the payload manifests and tag files, (2) the tag manifest over them and everything else that lies
/// beside the payload, (3) the signature. Whatever an earlier run left of these was removed before.
pub fn write(place: &Place, description: &Description, about: &Info<'_>, key: &SigningKey) -> Result<Digest> {
    place.write(BAGIT, DECLARATION.as_bytes())?;
    payload_manifests(place)?;
    let bytes = description.to_bytes().map_err(|e| Failure::new(Code::Failure, format!("bag.json: {e}")))?;
    place.write(DESCRIPTION, &bytes)?;
    place.write(INFO, bag_info(place, description, about).as_bytes())?;
    let manifest = tag_manifest(place)?;
    place.write(TAG_MANIFEST, manifest.as_bytes())?;
    place.write(SIGNATURE, &key.sign(manifest.as_bytes()))?;
    Ok(Digest::of(manifest.as_bytes()))
}

fn payload_manifests(place: &Place) -> Result<()> {
    let create = |name: &str| {
        let path = place.bag().join(name);
        File::create(&path).map(BufWriter::new).map_err(|e| cannot("write", &path, &e))
    };
    let (mut first, mut second) = (create(MANIFEST_SHA256)?, create(MANIFEST_SHA512)?);
    let mut write = || -> std::io::Result<()> {
        for (name, object) in &place.arrived {
            let path = format!("{PAYLOAD}{name}");
            first.write_all(manifest_line(&object.sha256.to_string(), &path).as_bytes())?;
            second.write_all(manifest_line(&object.sha512, &path).as_bytes())?;
        }
        first.flush()?;
        second.flush()
    };
    write().map_err(|e| cannot("write the manifests of", place.bag(), &e))
}

/// RFC 8493 section 2.2.2. Values are of one line; what could break one is escaped.
fn bag_info(place: &Place, d: &Description, about: &Info<'_>) -> String {
    let (bytes, files) = place.arrived.values().fold((0_u64, 0_u64), |(b, n), o| (b.saturating_add(o.size), n + 1));
    let mut lines = info(d, about.title, bytes, files);
    lines.push((INFO_VERIFIED, one_line(about.verdict, INFO_VALUE_CHARS_MAX)));
    lines.iter().fold(String::new(), |text, (label, value)| text + &format!("{label}: {value}\n"))
}

/// SHA-256 of every file beside the payload, by name.
fn tag_manifest(place: &Place) -> Result<String> {
    let mut lines = Vec::new();
    let data = place.case();
    let mut add = |path: &Path, meta: &fs::Metadata| -> std::io::Result<()> {
        if meta.is_file() && !path.starts_with(&data) {
            let name = path.strip_prefix(place.bag()).map_err(std::io::Error::other)?;
            let name = name.to_str().ok_or_else(|| std::io::Error::other("a name that is not UTF-8"))?;
            lines.push((name.to_owned(), digest(path)?));
        }
        Ok(())
    };
    walk(place.bag(), &mut add).map_err(|e| cannot("read", place.bag(), &e))?;
    lines.sort();
    Ok(lines.iter().map(|(name, digest)| manifest_line(&digest.to_string(), name)).collect())
}

/// SHA-256 of a file.
pub fn digest(path: &Path) -> std::io::Result<Digest> {
    let (mut file, mut hasher, mut chunk) = (File::open(path)?, Hasher::new(), vec![0; 1 << 18]);
    loop {
        let n = file.read(&mut chunk)?;
        if n == 0 {
            return Ok(hasher.finish());
        }
        hasher.update(&chunk[..n]);
    }
}
