//! The few facts of an X.509 certificate that are shown or checked here. Paths are built by `rustls-webpki`.

use der::Tag;

use super::TimestampError;
use super::asn1::{Cursor, context, time};
use crate::time::Timestamp;

const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
/// id-kp-timeStamping, 1.3.6.1.5.5.7.3.8
pub(super) const TIME_STAMPING: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x08];

pub(super) struct Facts<'a> {
    /// The serial number's bytes.
    pub serial: &'a [u8],
    /// The issuer's name, with tag and length.
    pub issuer: &'a [u8],
    /// The subject's common name, or its organization; untrusted text.
    pub subject: String,
    pub from: Timestamp,
    pub until: Timestamp,
    purpose: Purpose,
}

/// The extended key usage.
enum Purpose {
    None,
    Some { critical: bool, only_time_stamping: bool },
}

impl<'a> Facts<'a> {
    pub fn read(certificate: &'a [u8]) -> Result<Self, TimestampError> {
        let what = "certificate";
        let mut tbs = Cursor::of_sequence(certificate, what)?.sequence(what)?;
        let _version = tbs.optional(context(0))?;
        let serial = tbs.take(Tag::Integer)?;
        let _algorithm = tbs.take(Tag::Sequence)?;
        let issuer = tbs.raw()?;
        let mut validity = tbs.sequence(what)?;
        let mut next = || validity.any().and_then(|(tag, content)| time(tag, content, what));
        let (from, until) = (next()?, next()?);
        let subject = name(tbs.sequence(what)?)?;
        let _key = tbs.take(Tag::Sequence)?;
        let mut purpose = Purpose::None;
        while !tbs.is_finished() {
            if let Some(extensions) = tbs.optional(context(3))? {
                purpose = extended_key_usage(extensions)?;
            } else {
                let _unique_id = tbs.any()?;
            }
        }
        Ok(Self { serial, issuer, subject, from, until, purpose })
    }

    /// RFC 3161 2.3: the extension is critical and has this purpose alone.
    pub fn check_purpose(&self) -> Result<(), TimestampError> {
        let wrong = |why: &str| Err(TimestampError::Purpose(why.to_owned()));
        match self.purpose {
            Purpose::None => wrong("it has no extended key usage"),
            Purpose::Some { only_time_stamping: false, .. } => wrong("its extended key usage is not timeStamping alone"),
            Purpose::Some { critical: false, .. } => wrong("its extended key usage is not critical"),
            Purpose::Some { .. } => Ok(()),
        }
    }

    pub fn check_validity(&self, at: Timestamp) -> Result<(), TimestampError> {
        if self.from <= at && at <= self.until {
            return Ok(());
        }
        let why =
            format!("the authority's certificate is valid from {} to {}, the token says that it was made at {at}", self.from, self.until);
        Err(TimestampError::Validity(why))
    }
}

fn name(mut parts: Cursor<'_>) -> Result<String, TimestampError> {
    let (mut common, mut organization) = (None, None);
    while !parts.is_finished() {
        let mut set = Cursor::new(parts.take(Tag::Set)?, "name")?;
        while !set.is_finished() {
            let mut attribute = set.sequence("name")?;
            let kind = attribute.take(Tag::ObjectIdentifier)?;
            let (_, value) = attribute.any()?;
            let text = || Some(String::from_utf8_lossy(value).into_owned());
            if kind == COMMON_NAME {
                common = text();
            } else if kind == ORGANIZATION {
                organization = text();
            }
        }
    }
    Ok(common.or(organization).unwrap_or_default())
}

fn extended_key_usage(extensions: &[u8]) -> Result<Purpose, TimestampError> {
    let what = "extensions";
    let mut list = Cursor::of_sequence(extensions, what)?;
    while !list.is_finished() {
        let mut extension = list.sequence(what)?;
        if extension.take(Tag::ObjectIdentifier)? != EXTENDED_KEY_USAGE {
            continue;
        }
        let critical = extension.optional(Tag::Boolean)?.is_some_and(|b| b != [0]);
        let mut purposes = Cursor::of_sequence(extension.take(Tag::OctetString)?, what)?;
        let only = purposes.take(Tag::ObjectIdentifier)? == TIME_STAMPING && purposes.is_finished();
        return Ok(Purpose::Some { critical, only_time_stamping: only });
    }
    Ok(Purpose::None)
}
