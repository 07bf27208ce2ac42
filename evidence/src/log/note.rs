//! C2SP signed notes: a text, an empty line, and signature lines.
//!
//! ```text
//! <text, each line ended by a newline>
//! <empty line>
//! — <key name> <base64 of 4-byte key id and signature>
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::digest::Hasher;

/// The largest note that is read, bytes. A checkpoint with sixteen cosignatures has 3 KB.
pub const NOTE_BYTES_MAX: usize = 16_384;

/// Why bytes are not a note.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a signed note: {0}")]
pub struct BadNote(pub &'static str);

/// One signature line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// Name of the key.
    pub name: String,
    /// First four bytes of the SHA-256 over name, newline, type and public key.
    pub key_id: [u8; 4],
    /// What follows: for Ed25519 64 bytes, for a cosignature 8 bytes of time before them.
    pub bytes: Vec<u8>,
}

impl Signature {
    /// The line with its newline.
    #[must_use]
    pub fn to_line(&self) -> String {
        let mut blob = self.key_id.to_vec();
        blob.extend_from_slice(&self.bytes);
        format!("\u{2014} {} {}\n", self.name, STANDARD.encode(blob))
    }

    fn parse(line: &str) -> Option<Self> {
        let (name, blob) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
        let blob = STANDARD.decode(blob).ok()?;
        let (key_id, bytes) = blob.split_first_chunk::<4>()?;
        (is_key_name(name) && !bytes.is_empty()).then(|| Self { name: name.to_owned(), key_id: *key_id, bytes: bytes.to_vec() })
    }
}

/// A note. Nothing in it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The text with its last newline: what is signed.
    pub text: String,
    /// At least one.
    pub signatures: Vec<Signature>,
}

impl Note {
    /// Reads a note of at most [`NOTE_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`BadNote`] with what is wrong first.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadNote> {
        if bytes.len() > NOTE_BYTES_MAX {
            return Err(BadNote("larger than 16384 bytes"));
        }
        let all = std::str::from_utf8(bytes).map_err(|_| BadNote("not UTF-8"))?;
        if all.chars().any(|c| c < ' ' && c != '\n') {
            return Err(BadNote("it holds control characters"));
        }
        let (text, lines) = all.rsplit_once("\n\n").ok_or(BadNote("no empty line before the signatures"))?;
        let lines = lines.strip_suffix('\n').ok_or(BadNote("no signature line, or the last line does not end"))?;
        let signatures = lines.split('\n').map(Signature::parse).collect::<Option<Vec<_>>>();
        let signatures = signatures.ok_or(BadNote("a signature line is not a dash, a key name and base64"))?;
        Ok(Self { text: format!("{text}\n"), signatures })
    }

    /// The bytes of the note: what [`Note::parse`] reads.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = format!("{}\n", self.text);
        self.signatures.iter().for_each(|s| out.push_str(&s.to_line()));
        out.into_bytes()
    }
}

/// True for what signed-note allows as the name of a key: not empty, no white space, no plus sign.
pub(super) fn is_key_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 255 && !name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+')
}

/// C2SP signed-note: first four bytes of SHA-256(name || 0x0A || type || public key).
pub(super) fn key_id(name: &str, kind: u8, key: &[u8]) -> [u8; 4] {
    let mut hasher = Hasher::new();
    hasher.update(name.as_bytes());
    hasher.update(&[b'\n', kind]);
    hasher.update(key);
    let [a, b, c, d, ..] = *hasher.finish().as_bytes();
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_survives_and_other_shapes_are_refused() {
        let line = |name: &str| Signature { name: name.to_owned(), key_id: [1, 2, 3, 4], bytes: vec![9; 64] };
        let note = Note { text: "a\n\nb\n".to_owned(), signatures: vec![line("x.example/log"), line("y")] };
        let bytes = note.to_bytes();
        assert_eq!(Note::parse(&bytes), Ok(note));
        let text = String::from_utf8(bytes).expect("text");
        for bad in [
            "",
            "a\n",
            "a\n\n",
            &text[..text.len() - 1],
            &text.replace('\u{2014}', "-"),
            &text.replace("x.example", "x example"),
            &text.replace("x.example", "x+example"),
            &text.replace('a', "\r"),
            &format!("{text}\n"),
            &"a".repeat(NOTE_BYTES_MAX + 1),
        ] {
            assert!(Note::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
