//! Trusted time: RFC 3161 timestamps. A *timestamp authority* signs that it saw a digest at a time; this module makes the
//! request, reads the reply and verifies it. Normative text: `docs/format/timestamps.md`.
//!
//! It works on any SHA-256: that of a checkpoint, of a file, of a bag's tag manifest.
//!
//! ```text
//! Request::new(digest, nonce).to_der()  -> goes to the authority as application/timestamp-query
//! Reply::parse(bytes)                   -> structure only
//!   .answers(&request)                  -> granted, of this digest, with this nonce
//!   .verify(&anchors, &crls)            -> signature, purpose, chain, validity and revocation, all judged at the token's time
//! ```
//!
//! **After expiry.** A token lives longer than the certificate that signed it. What counts is whether the certificate was
//! valid when the token was made, so validity is judged at the token's own time and never at the reader's; a program that
//! judges it by today's clock refuses every old token (`openssl ts -verify` needs `-attime`). The price: whoever gets hold
//! of the authority's key later can make tokens for the time in which its certificate was valid. A CRL that names the key
//! as compromised ends that, so newer ones than those in the case can be given with the anchors.
//!
//! ASN.1 is read with `der`, in the few shapes that are needed: the released `cms` and `x509-tsp` crates are of an older
//! generation and would bring every one of their dependencies a second time, and refuse times with fractions of a second,
//! which authorities do give. Certificate paths, signatures and CRLs are judged by `rustls-webpki` over aws-lc-rs, which are
//! in every other program already: five crates, where the same in RustCrypto takes more than twenty.

mod around;
mod asn1;
mod certificate;
mod chain;
mod reply;
mod request;

pub use around::{Uncovered, Vouched};
pub use chain::{Anchors, BadAnchors, Crl, Revocation, Trusted};
pub use reply::{REPLY_BYTES_MAX, Reply};
pub use request::Request;

/// The largest CRL that is kept or read: those of authorities have a few kilobytes, some national ones a megabyte.
pub const CRL_BYTES_MAX: usize = 4 << 20;

/// Why a token is not what it should be. The kind decides the finding; the text says what was expected and what is there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimestampError {
    /// The bytes are no RFC 3161 reply with a token in DER, or no request.
    #[error("{0}")]
    Malformed(String),
    /// The authority answered that it gives no token.
    #[error("the authority refused: {0}")]
    Refused(String),
    /// The token is over other bytes.
    #[error("the token is over SHA-256 {found}, expected was {expected}")]
    Imprint {
        /// What was to be stamped.
        expected: crate::Digest,
        /// What the token is over.
        found: String,
    },
    /// The token does not answer the request: it has another nonce, or none.
    #[error("the token does not answer the request: {0}")]
    Nonce(String),
    /// The signature does not hold, or the token names another certificate than the one that signed.
    #[error("{0}")]
    Signature(String),
    /// The certificate is not one for timestamps.
    #[error("the authority's certificate is not for timestamps: {0}")]
    Purpose(String),
    /// The certificate was not valid at the token's time.
    #[error("{0}")]
    Validity(String),
    /// The certificate does not lead to a given root.
    #[error("{0}")]
    Untrusted(String),
    /// A CRL says that the certificate, or one above it, was revoked so that the token does not count.
    #[error("{0}")]
    Revoked(String),
}

fn malformed(why: impl Into<String>) -> TimestampError {
    TimestampError::Malformed(why.into())
}

#[cfg(test)]
mod tests;
