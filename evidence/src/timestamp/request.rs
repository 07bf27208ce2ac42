//! The request: which digest is to be stamped, and a number that the reply must repeat.

use der::Tag;

use super::TimestampError;
use super::asn1::{Cursor, number};
use crate::digest::Digest;

/// `AlgorithmIdentifier` of SHA-256 without parameters is 2.16.840.1.101.3.4.2.1.
pub(super) const SHA256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];

/// An RFC 3161 `TimeStampReq` of version 1 over a SHA-256, with a nonce, without a policy, that asks for the certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The SHA-256 of what is to be stamped.
    pub imprint: Digest,
    /// Repeated by the reply, so that it is an answer to this request and no older one.
    pub nonce: u64,
}

impl Request {
    /// A request. The nonce comes from the caller's source of randomness.
    #[must_use]
    pub const fn new(imprint: Digest, nonce: u64) -> Self {
        Self { imprint, nonce }
    }

    /// The bytes to send, as `application/timestamp-query`; 62 to 70 of them.
    #[must_use]
    pub fn to_der(&self) -> Vec<u8> {
        let algorithm = tlv(0x30, &[tlv(0x06, SHA256), vec![0x05, 0x00]].concat());
        let imprint = tlv(0x30, &[algorithm, tlv(0x04, self.imprint.as_bytes())].concat());
        let digits: Vec<u8> = self.nonce.to_be_bytes().into_iter().skip_while(|b| *b == 0).collect();
        // A leading one bit would make the number negative; zero has one digit.
        let pad = digits.first().is_none_or(|b| b & 0x80 != 0);
        let nonce = tlv(0x02, &[if pad { vec![0] } else { Vec::new() }, digits].concat());
        tlv(0x30, &[tlv(0x02, &[1]), imprint, nonce, vec![0x01, 0x01, 0xff]].concat())
    }

    /// Reads what [`Request::to_der`] writes, and nothing else.
    ///
    /// # Errors
    /// [`TimestampError::Malformed`]
    pub fn parse(bytes: &[u8]) -> Result<Self, TimestampError> {
        let what = "timestamp request";
        let mut request = Cursor::of_sequence(bytes, what)?;
        let _version = request.take(Tag::Integer)?;
        let mut imprint = request.sequence(what)?;
        let _algorithm = imprint.take(Tag::Sequence)?;
        let digest = <[u8; 32]>::try_from(imprint.take(Tag::OctetString)?)
            .map_err(|_| TimestampError::Malformed(format!("{what}: it is not over a SHA-256")))?;
        let nonce = number(request.take(Tag::Integer)?, what)?;
        let parsed = Self { imprint: Digest::from_bytes(digest), nonce };
        if parsed.to_der() == bytes {
            Ok(parsed)
        } else {
            Err(TimestampError::Malformed(format!("{what}: it is not in the form that Exhibit writes")))
        }
    }
}

/// A value of at most 127 bytes: everything in a request is that short.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag, content.len() as u8];
    out.extend_from_slice(content);
    out
}
