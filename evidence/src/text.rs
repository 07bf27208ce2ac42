//! Showing untrusted text: names and messages from hosts, peers and stores can hold control characters, terminal
//! escapes and bidirectional overrides that would forge a line of output.

use std::fmt::Write as _;

fn is_plain(c: char) -> bool {
    !c.is_control()
        && c != '\\'
        && !matches!(c,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' | '\u{061c}')
}

/// Escapes text so that it shows on one line and cannot act on a terminal: `\n`, `\x1b`, `\u{202e}`, `\\`.
#[must_use]
pub fn escape(text: &str) -> String {
    escape_bytes(text.as_bytes())
}

/// [`escape`], cut to at most `chars_max` characters of output, with `...` where something was left out.
#[must_use]
pub fn escape_bounded(text: &str, chars_max: usize) -> String {
    cut(escape(text), chars_max)
}

fn cut(shown: String, chars_max: usize) -> String {
    if shown.chars().count() <= chars_max {
        return shown;
    }
    let mut cut: String = shown.chars().take(chars_max.saturating_sub(3)).collect();
    cut.push_str("...");
    cut
}

/// A sentence that may quote escaped text already, made fit for one line: what could act on a terminal is escaped, a
/// backslash is not. Doing it again changes nothing, so a reason may pass through several hands. Cut as
/// [`escape_bounded`] does.
///
/// Not for names: two different ones may look the same.
#[must_use]
pub fn one_line(text: &str, chars_max: usize) -> String {
    let parts: Vec<String> = text.split('\\').map(escape).collect();
    cut(parts.join("\\"), chars_max)
}

/// Escapes bytes that should be UTF-8; every byte that is not shows as `\xNN`.
#[must_use]
pub fn escape_bytes(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                '\r' => out.push_str("\\r"),
                c if is_plain(c) => out.push(c),
                c if (c as u32) < 0x80 => {
                    let _ = write!(out, "\\x{:02x}", c as u32);
                }
                c => {
                    let _ = write!(out, "\\u{{{:x}}}", c as u32);
                }
            }
        }
        for b in chunk.invalid() {
            let _ = write!(out, "\\x{b:02x}");
        }
    }
    out
}

/// Checks a text that a person must have written, such as a title or a reason.
///
/// # Errors
/// What is against it, to be put behind the name of its field: nothing is there, only white space is, or it is longer than `bytes_max`.
pub fn written(text: &str, bytes_max: usize) -> Result<(), String> {
    if text.len() > bytes_max || text.is_empty() {
        return Err(format!("{} bytes: expected 1 to {bytes_max}", text.len()));
    }
    if text.trim().is_empty() {
        return Err(format!("only white space: expected words, of 1 to {bytes_max} bytes"));
    }
    Ok(())
}

/// Writes a number right-aligned, with leading zeros. A manifest line has six times and its member's headers three dozen
/// numbers, and the formatting machinery of the standard library takes most of the time that writing them would.
pub(crate) fn digits(out: &mut [u8], mut number: u64) {
    for place in out.iter_mut().rev() {
        *place = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// A number in decimal digits.
pub(crate) struct Decimal {
    bytes: [u8; 20],
    from: usize,
}

impl Decimal {
    pub(crate) fn of(mut number: u64) -> Self {
        let mut new = Self { bytes: [0; 20], from: 20 };
        for place in new.bytes.iter_mut().rev() {
            *place = b'0' + (number % 10) as u8;
            number /= 10;
            new.from -= 1;
            if number == 0 {
                break;
            }
        }
        new
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(self.from..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn numbers_are_written_as_the_standard_library_does(number: u64, shift in 0_u32..64) {
            let number = number >> shift;
            let text = Decimal::of(number);
            proptest::prop_assert_eq!(text.as_bytes(), number.to_string().into_bytes());
        }
    }

    #[test]
    fn nothing_reaches_the_terminal() {
        assert_eq!(escape("a\nb\x1b[2J\u{202e}c\\"), "a\\nb\\x1b[2J\\u{202e}c\\\\");
        assert_eq!(escape_bytes(b"caf\xe9"), "caf\\xe9");
        assert_eq!(escape("żółć 日本"), "żółć 日本");
        assert_eq!(escape_bounded("abcdefghij", 6), "abc...");
    }

    #[test]
    fn white_space_is_no_text() {
        assert_eq!(written(" a ", 3), Ok(()));
        let said = |text| written(text, 3).expect_err("no text");
        assert_eq!([said(""), said("abcd")], ["0 bytes: expected 1 to 3", "4 bytes: expected 1 to 3"]);
        assert_eq!([said(" "), said("\t\n")], ["only white space: expected words, of 1 to 3 bytes"; 2]);
    }

    #[test]
    fn a_sentence_is_escaped_once_however_often_it_is_passed_on() {
        let once = one_line("policy: '/x\\x1b' at\ncolumn 1\x1b[2J", 100);
        assert_eq!(once, "policy: '/x\\x1b' at\\ncolumn 1\\x1b[2J");
        assert_eq!(one_line(&once, 100), once);
        assert_eq!(one_line(&one_line("abcdefghij", 6), 6), "abc...");
    }
}
