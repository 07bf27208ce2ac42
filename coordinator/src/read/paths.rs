//! Choosing items by path: globs over bytes, in which a path can be written as it is shown.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use exhibit_evidence::EvidencePath;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::problem::{Problem, Result};

/// Longest glob.
const GLOB_BYTES_MAX: usize = 4_096;
/// Most globs of one request.
const GLOBS_MAX: usize = 64;
/// A byte that is not UTF-8 is matched as this character plus the byte: globs are text. The range is private use, at the
/// end of Unicode; a path that really holds one of these characters could only be listed in addition.
const BYTE_BASE: u32 = 0x10_fe00;

/// Which paths; all of them when no glob is given.
#[derive(Debug, Clone, Default)]
pub struct Paths {
    globs: Option<GlobSet>,
    shown: Vec<String>,
}

impl Paths {
    /// Builds the choice. A glob also takes the path that is shown exactly like it, so that what was shown can be pasted
    /// back even where it holds `[` or `{`.
    ///
    /// # Errors
    /// [`Problem`] that names the field.
    pub fn new(globs: &[String]) -> Result<Self> {
        if globs.len() > GLOBS_MAX {
            return Err(Problem::invalid(format!("path_globs: {} of them, at most {GLOBS_MAX} are allowed", globs.len())));
        }
        let mut set = GlobSetBuilder::new();
        for text in globs {
            if text.len() > GLOB_BYTES_MAX {
                return Err(Problem::invalid(format!("path_globs: {} bytes, at most {GLOB_BYTES_MAX} are allowed", text.len())));
            }
            let glob = GlobBuilder::new(&as_glob(text)).literal_separator(true).backslash_escape(true).build();
            match glob {
                Ok(glob) => drop(set.add(glob)),
                // A shown path is no glob when, say, a terminal's `\x1b[31m` opens a set that nothing closes.
                Err(_) if text.contains('\\') => {}
                Err(e) => return Err(Problem::invalid(format!("path_globs: {}", e.kind()))),
            }
        }
        let set = set.build().map_err(|e| Problem::invalid(format!("path_globs: {e}")))?;
        Ok(Self { globs: (!globs.is_empty()).then_some(set), shown: globs.to_vec() })
    }

    /// Whether a path is one of them.
    #[must_use]
    pub fn takes(&self, path: &EvidencePath) -> bool {
        let Some(globs) = &self.globs else { return true };
        let bytes = path.as_bytes();
        // As bytes, where `?` is one byte; and as text, in which a glob can name bytes that are not UTF-8.
        let as_bytes = globs.is_match(Path::new(OsStr::from_bytes(bytes)));
        as_bytes || (std::str::from_utf8(bytes).is_err() && globs.is_match(as_text(bytes))) || self.shown.contains(&path.to_string())
    }
}

/// Bytes as text, without loss.
fn as_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().filter_map(|b| char::from_u32(BYTE_BASE + u32::from(*b))));
    }
    text
}

/// A glob in which `\xNN`, `\n`, `\t`, `\r` and `\u{NNNN}` are what they are in shown paths; every other backslash is the
/// glob's own.
fn as_glob(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        out.extend_from_slice(before.as_bytes());
        let (bytes, length) = unescape(&escape[1..]);
        match bytes {
            Some(bytes) => out.extend(bytes),
            None => out.extend_from_slice(&escape.as_bytes()[..=length]),
        }
        rest = &escape[1 + length..];
    }
    out.extend_from_slice(rest.as_bytes());
    as_text(&out)
}

/// What stands after a backslash: the bytes that it means, if it is an escape of shown paths, and its length.
fn unescape(text: &str) -> (Option<Vec<u8>>, usize) {
    let first = text.chars().next();
    let own = (None, first.map_or(0, char::len_utf8));
    let hex = |digits: Option<&str>| u32::from_str_radix(digits?, 16).ok();
    match first {
        Some('n') => (Some(b"\n".to_vec()), 1),
        Some('t') => (Some(b"\t".to_vec()), 1),
        Some('r') => (Some(b"\r".to_vec()), 1),
        Some('x') => hex(text.get(1..3)).and_then(|byte| u8::try_from(byte).ok()).map_or(own, |byte| (Some(vec![byte]), 3)),
        Some('u') => {
            let digits = text.strip_prefix("u{").and_then(|t| t.split_once('}')).map(|(digits, _)| digits);
            let length = digits.map_or(0, |d| d.len() + 3);
            hex(digits).and_then(char::from_u32).map_or(own, |c| (Some(c.to_string().into_bytes()), length))
        }
        _ => own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(glob: &str, path: &[u8]) -> bool {
        Paths::new(&[glob.to_owned()]).expect("good").takes(&EvidencePath::new(path).expect("path"))
    }

    #[test]
    fn every_shown_path_finds_itself() {
        let paths: [&[u8]; 8] =
            [b"/a/b", b"/a\nb\x1b[31m", b"/caf\xe9", b"/\xff\xfe", "/\u{202e}x".as_bytes(), b"/a\\b", b"/[x]", b"/{a,b}*"];
        for path in paths {
            let shown = EvidencePath::new(path).expect("path").to_string();
            assert!(takes(&shown, path), "{shown}");
            assert!(!takes(&shown, b"/other"), "{shown}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_glob_is_taken_or_refused_and_what_was_shown_finds_itself(
            text in r"(\\[nrtxu]?\{?[0-9a-f+]{0,4}\}?|.){0,12}",
            bytes in proptest::collection::vec(1_u8..=255, 1..20),
        ) {
            let _ = Paths::new(std::slice::from_ref(&text));
            let path = EvidencePath::new(bytes).expect("no NUL");
            if let Ok(paths) = Paths::new(&[path.to_string()]) {
                proptest::prop_assert!(paths.takes(&path));
            }
        }
    }

    #[test]
    fn globs_and_escapes_go_together() {
        assert!(takes(r"/x/bad\xff*", b"/x/bad\xff\xfe"));
        assert!(!takes(r"/x/bad\xff*", b"/x/bad\xfe\xff"));
        assert!(takes(r"/a\*b", b"/a*b") && !takes(r"/a\*b", b"/aXb"));
        assert!(takes("/a/*", b"/a/b") && !takes("/a/*", b"/a/b/c") && takes("/a/**", b"/a/b/c"));
        assert!(takes("/*", b"/\xff") && takes("/?x", b"/\xffx"));
        let two = Paths::new(&["/a".to_owned(), "/b".to_owned()]).expect("good");
        assert!(["/a", "/b"].iter().all(|p| two.takes(&EvidencePath::new(*p).expect("path"))));
        assert!(Paths::default().takes(&EvidencePath::new("/a").expect("path")));
        assert!(Paths::new(&["/[z".to_owned()]).is_err());
        assert!(Paths::new(&vec!["/a".to_owned(); 65]).is_err());
    }

    #[test]
    fn half_escapes_are_handled() {
        for text in ["\\", "\\x", "\\x1", "\\u", "\\u{", "\\u{}", "\\u{110000}", "\\xé", "é\\é"] {
            let _ = Paths::new(&[text.to_owned()]);
        }
    }
}
