//! Reading DER: a cursor over the values of one sequence. Lengths, tags and minimal forms are checked by the `der` crate.

use der::asn1::AnyRef;
use der::{Reader as _, SliceReader, Tag, TagNumber, Tagged as _};

use super::TimestampError;
use crate::text::escape_bounded;
use crate::time::Timestamp;

/// `[n]` that holds other values.
pub(super) const fn context(n: u32) -> Tag {
    Tag::ContextSpecific { constructed: true, number: TagNumber(n) }
}

/// The values of a sequence, one after another; `what` names it in errors.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    reader: SliceReader<'a>,
    what: &'static str,
}

impl<'a> Cursor<'a> {
    /// Over the content of a sequence.
    pub fn new(content: &'a [u8], what: &'static str) -> Result<Self, TimestampError> {
        let reader = SliceReader::new(content).map_err(|e| bad(what, &e))?;
        Ok(Self { reader, what })
    }

    /// Over the content of the one sequence that `bytes` are.
    pub fn of_sequence(bytes: &'a [u8], what: &'static str) -> Result<Self, TimestampError> {
        let mut outer = Self::new(bytes, what)?;
        let content = outer.take(Tag::Sequence)?;
        outer.finish()?;
        Self::new(content, what)
    }

    pub fn is_finished(&self) -> bool {
        self.reader.is_finished()
    }

    /// The next value whole, with its tag and length.
    pub fn raw(&mut self) -> Result<&'a [u8], TimestampError> {
        self.reader.tlv_bytes().map_err(|e| bad(self.what, &e))
    }

    /// The next value: tag and content.
    pub fn any(&mut self) -> Result<(Tag, &'a [u8]), TimestampError> {
        let any: AnyRef<'a> = self.reader.decode().map_err(|e| bad(self.what, &e))?;
        Ok((any.tag(), any.value()))
    }

    /// The content of the next value, which must have this tag.
    pub fn take(&mut self, tag: Tag) -> Result<&'a [u8], TimestampError> {
        match self.any()? {
            (found, content) if found == tag => Ok(content),
            (found, _) => Err(TimestampError::Malformed(format!("{}: expected {tag}, found {found}", self.what))),
        }
    }

    /// The content of the next value if it has this tag.
    pub fn optional(&mut self, tag: Tag) -> Result<Option<&'a [u8]>, TimestampError> {
        if !self.next_is(tag) {
            return Ok(None);
        }
        self.take(tag).map(Some)
    }

    /// True when the next value has this tag.
    pub fn next_is(&self, tag: Tag) -> bool {
        Tag::peek(&self.reader).is_ok_and(|next| next == tag)
    }

    /// The next value is a sequence: a cursor over its values.
    pub fn sequence(&mut self, what: &'static str) -> Result<Self, TimestampError> {
        Self::new(self.take(Tag::Sequence)?, what)
    }

    /// Nothing may be left.
    pub fn finish(self) -> Result<(), TimestampError> {
        if self.is_finished() {
            Ok(())
        } else {
            Err(TimestampError::Malformed(format!("{}: there are more bytes after its end", self.what)))
        }
    }
}

fn bad(what: &str, e: &der::Error) -> TimestampError {
    TimestampError::Malformed(format!("{what}: not DER: {}", escape_bounded(&e.to_string(), 120)))
}

/// A small unsigned INTEGER.
pub(super) fn number(content: &[u8], what: &str) -> Result<u64, TimestampError> {
    let digits = content.strip_prefix(&[0]).unwrap_or(content);
    if content.first().is_none_or(|b| b & 0x80 != 0) || digits.len() > 8 {
        return Err(TimestampError::Malformed(format!("{what}: its number does not fit")));
    }
    Ok(digits.iter().fold(0_u64, |n, b| (n << 8) | u64::from(*b)))
}

/// A time: `GeneralizedTime` with up to nine digits of a fraction, or `UTCTime`, in UTC.
pub(super) fn time(tag: Tag, content: &[u8], what: &str) -> Result<Timestamp, TimestampError> {
    let wrong = || TimestampError::Malformed(format!("{what}: '{}' is not a time in UTC", crate::text::escape_bytes(content)));
    let text = std::str::from_utf8(content).ok().and_then(|t| t.strip_suffix('Z')).ok_or_else(wrong)?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole = match tag {
        Tag::GeneralizedTime => whole.to_owned(),
        // RFC 5280 4.1.2.5.1: years 50 to 99 are those of the last century.
        Tag::UtcTime => format!("{}{whole}", if whole >= "50" { "19" } else { "20" }),
        _ => return Err(wrong()),
    };
    let fraction_is_der = match text.split_once('.') {
        None => true,
        Some(_) => (1..=9).contains(&fraction.len()) && !fraction.ends_with('0'),
    };
    if whole.len() != 14 || !whole.is_ascii() || !fraction_is_der {
        return Err(wrong());
    }
    let part = |range: std::ops::Range<usize>| whole.get(range).unwrap_or_default();
    let (date, clock) = ((part(0..4), part(4..6), part(6..8)), (part(8..10), part(10..12), part(12..14)));
    format!("{}-{}-{}T{}:{}:{}.{fraction:0<9}Z", date.0, date.1, date.2, clock.0, clock.1, clock.2).parse().map_err(|_| wrong())
}
