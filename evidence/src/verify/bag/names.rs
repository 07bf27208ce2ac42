//! The names that files beside the payload may have. A tag manifest is its exporter's, so whatever else it names would pass as a part of
//! the bag.

use crate::bag::{BAGIT, DESCRIPTION, INFO, MANIFEST_SHA256, MANIFEST_SHA512};
use crate::text::escape_bounded;

/// Folders and files that people open; names in capitals, or in both, look like them.
const LOOKED_AT: [&str; 7] = ["documents/", "expanded/", "load-file/", "proofs/", "schemas/", "VERIFY.md", "case.jsonld"];
const DOCUMENTS: [&str; 4] = ["report", "chain-of-custody", "certificate-902-14", "statement-27037"];

/// What is wrong with a name in the tag manifest. What lies in `expanded/` and `proofs/` is looked at where it is compared.
pub(super) fn problem(name: &str) -> Option<String> {
    if is_of_the_format(name) {
        return None;
    }
    let shown = escape_bounded(name, 300);
    let like = LOOKED_AT.iter().find(|known| name.get(..known.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(known)));
    let like = like.filter(|known| !name.starts_with(**known));
    let differs = like.map_or_else(String::new, |known| format!("; it differs from '{known}' by case alone"));
    Some(format!("'{shown}' is no name of this format{differs}"))
}

fn is_of_the_format(name: &str) -> bool {
    match name.split_once('/') {
        None => matches!(name, BAGIT | INFO | DESCRIPTION | MANIFEST_SHA256 | MANIFEST_SHA512 | "VERIFY.md" | "case.jsonld"),
        Some(("documents", file)) => is_document(file),
        Some(("schemas", file)) => is_schema(file),
        Some(("load-file", file)) => matches!(file, "exhibits.dat" | "exhibits.opt" | "NOT-MADE.txt"),
        Some((folder, _)) => matches!(folder, "expanded" | "proofs"),
    }
}

/// `report.en.html`; the language is one that exports are made in, or absent.
fn is_document(file: &str) -> bool {
    let is_language = |text: &str| matches!(text, "en" | "fr");
    let (stem, ending) = match file.split('.').collect::<Vec<_>>().as_slice() {
        [stem, ending] => (*stem, *ending),
        [stem, language, ending] if is_language(language) => (*stem, *ending),
        _ => return false,
    };
    DOCUMENTS.contains(&stem) && matches!(ending, "html" | "pdf")
}

/// `order.v1.json`
fn is_schema(file: &str) -> bool {
    let Some((stem, version)) = file.strip_suffix(".json").and_then(|rest| rest.split_once(".v")) else { return false };
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !stem.is_empty() && stem.bytes().all(is_word) && !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_export_makes_is_of_the_format_and_nothing_that_looks_like_it() {
        for name in [
            "bagit.txt",
            "bag-info.txt",
            "bag.json",
            "manifest-sha256.txt",
            "VERIFY.md",
            "case.jsonld",
            "documents/report.en.html",
            "documents/report.html",
            "documents/certificate-902-14.fr.pdf",
            "schemas/case-opened.v1.json",
            "load-file/exhibits.dat",
            "expanded/README.txt",
            "proofs/0000000001.tlog-proof",
        ] {
            assert_eq!(problem(name), None, "{name}");
        }
        for (name, why) in [
            ("Expanded/00000/EXH00000001.txt", "from 'expanded/' by case"),
            ("verify.md", "from 'VERIFY.md' by case"),
            ("Documents/report.en.html", "from 'documents/' by case"),
            ("documents/report.EN.html", "no name of this format"),
            ("documents/report.de.html", "no name of this format"),
            ("documents/opinion.en.html", "no name of this format"),
            ("documents/report.html/x", "no name of this format"),
            ("schemas/order.v.json", "no name of this format"),
            ("schemas/.v1.json", "no name of this format"),
            ("load-file/exhibits.csv", "no name of this format"),
            ("manifest-md5.txt", "no name of this format"),
            ("expanded", "no name of this format"),
            ("notes.txt", "no name of this format"),
            ("", "no name of this format"),
        ] {
            assert!(problem(name).is_some_and(|said| said.contains(why)), "{name}: {:?}", problem(name));
        }
    }
}
