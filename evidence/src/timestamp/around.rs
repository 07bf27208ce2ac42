//! What lies around a token: parts of a reply that its signature does not cover, the other certificates in it, and revocation lists.
//! Each is either held by a signature of its own, or named.

use der::Tag;
use rustls_pki_types::CertificateDer;
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert};

use super::asn1::{Cursor, context};
use super::certificate::Facts;
use super::chain::{Anchors, Crl};
use super::reply::{Reply, oid};
use super::{TimestampError, malformed};
use crate::text::escape_bounded;

/// id-aa and what ETSI added: the attributes of CAdES that may stand unsigned, 1.2.840.113549.1.9.16.2.* and 0.4.0.1733.*
const KNOWN_UNSIGNED: [&[u8]; 2] = [&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x10, 0x02], &[0x04, 0x00, 0x8d, 0x45]];
/// Unsigned attributes that are named one by one.
const NAMED_MAX: usize = 8;

/// Something in a reply that no signature covers and on which nothing rests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uncovered {
    /// What it is; what it says itself is escaped in it.
    pub what: String,
    /// A standard foresees it, and authorities send it.
    pub usual: bool,
}

impl Uncovered {
    pub(super) fn usual(what: impl Into<String>) -> Self {
        Self { what: what.into(), usual: true }
    }

    pub(super) fn odd(what: impl Into<String>) -> Self {
        Self { what: what.into(), usual: false }
    }
}

/// Whether somebody who is known signed a certificate or a list in the name of its issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vouched {
    /// A certificate of that name did.
    Signed,
    /// There is one of that name, and it did not; or the value is none that can be read. Why.
    Forged(String),
    /// No certificate of that name is known, or none that can judge its signature. Why.
    Unknown(String),
}

/// The rest of a reply's status, where there is a token (RFC 3161, 2.4.2): a text may stand there, failure bits may not.
pub(super) fn status(code: u64, mut rest: Cursor<'_>) -> Result<Vec<Uncovered>, TimestampError> {
    let mut out = Vec::new();
    if code == 1 {
        out.push(Uncovered::usual("the status 'granted with modifications'"));
    }
    if let Some(content) = rest.optional(Tag::Sequence)? {
        let (mut texts, mut said) = (Cursor::new(content, "status text")?, Vec::new());
        while !texts.is_finished() {
            said.push(String::from_utf8_lossy(texts.take(Tag::Utf8String)?).into_owned());
        }
        out.push(Uncovered::usual(format!("the status text '{}'", escape_bounded(&said.join("; "), 200))));
    }
    rest.finish()?;
    Ok(out)
}

/// The unsigned attributes of the signer.
pub(super) fn unsigned_attributes(content: &[u8]) -> Result<Uncovered, TimestampError> {
    let what = "unsigned attributes";
    let (mut list, mut names, mut count, mut usual) = (Cursor::new(content, what)?, Vec::new(), 0_usize, true);
    while !list.is_finished() {
        let mut attribute = list.sequence(what)?;
        let id = attribute.take(Tag::ObjectIdentifier)?;
        let _values = attribute.take(Tag::Set)?;
        attribute.finish()?;
        usual &= KNOWN_UNSIGNED.iter().any(|known| id.starts_with(known));
        count = count.saturating_add(1);
        if names.len() < NAMED_MAX {
            names.push(oid(id));
        }
    }
    let more = if count > names.len() { ", ..." } else { "" };
    Ok(Uncovered { what: format!("unsigned attributes of the signer ({}{more})", names.join(", ")), usual: usual && count > 0 })
}

/// What a certificate and a revocation list have in common: what was signed, how, and in whose name.
struct Sealed<'a> {
    signed: &'a [u8],
    /// The content of its `AlgorithmIdentifier`.
    algorithm: &'a [u8],
    signature: &'a [u8],
    /// The issuer's name, with tag and length.
    issuer: &'a [u8],
}

impl<'a> Sealed<'a> {
    fn read(der: &'a [u8]) -> Result<Self, TimestampError> {
        let what = "certificate or list";
        let mut outer = Cursor::of_sequence(der, what)?;
        let signed = outer.raw()?;
        let algorithm = outer.take(Tag::Sequence)?;
        let signature = outer.take(Tag::BitString)?;
        outer.finish()?;
        let mut inside = Cursor::of_sequence(signed, what)?;
        // A certificate begins with a version in a tag and a serial number, a list with a version.
        let _version = inside.optional(context(0))?;
        let _number = inside.optional(Tag::Integer)?;
        // It stands there twice, and only what is inside is signed (RFC 5280, 4.1.1.2 and 5.1.1.2).
        if inside.take(Tag::Sequence)? != algorithm {
            return Err(malformed(format!("{what}: it names two kinds of signature")));
        }
        let issuer = inside.raw()?;
        match signature.split_first() {
            Some((0, signature)) => Ok(Self { signed, algorithm, signature, issuer }),
            _ => Err(malformed(format!("{what}: its signature is no whole number of bytes"))),
        }
    }
}

/// The subject's name of a certificate, with tag and length.
fn subject(certificate: &[u8]) -> Result<&[u8], TimestampError> {
    let what = "certificate";
    let mut tbs = Cursor::of_sequence(certificate, what)?.sequence(what)?;
    let _version = tbs.optional(context(0))?;
    let (_serial, _algorithm) = (tbs.take(Tag::Integer)?, tbs.take(Tag::Sequence)?);
    let (_issuer, _validity) = (tbs.raw()?, tbs.raw()?);
    tbs.raw()
}

/// Judges a certificate or a list by those of `issuers` that have its issuer's name, of which there are several where an authority
/// changed its key: any of their keys will do, and it is accused where none of them signed it. Names alone choose them: a byte that is
/// altered in a hint about the key must not make a forgery look like something that nobody can judge.
fn vouched(der: &[u8], issuers: &[&[u8]]) -> Vouched {
    let sealed = match Sealed::read(der) {
        Ok(sealed) => sealed,
        Err(e) => return Vouched::Forged(e.to_string()),
    };
    if !ALL_VERIFICATION_ALGS.iter().any(|a| *a.signature_alg_id() == *sealed.algorithm) {
        return Vouched::Unknown("its signature is of a kind that is not supported".to_owned());
    }
    let mut is_known = false;
    for issuer in issuers {
        if !subject(issuer).is_ok_and(|name| name == sealed.issuer) {
            continue;
        }
        let der = CertificateDer::from(*issuer);
        let Ok(certificate) = EndEntityCert::try_from(&der) else { continue };
        is_known = true;
        if ALL_VERIFICATION_ALGS.iter().any(|a| certificate.verify_signature(*a, sealed.signed, sealed.signature).is_ok()) {
            return Vouched::Signed;
        }
    }
    if is_known {
        let why =
            "no known certificate of its issuer's name has the key that signed it; of an authority that changed its key, give all roots";
        Vouched::Forged(why.to_owned())
    } else {
        Vouched::Unknown("its issuer is neither in the token nor among the roots that were given".to_owned())
    }
}

/// Everybody who could have signed a certificate or a list.
fn issuers<'a>(reply: Option<&'a Reply>, anchors: &'a Anchors) -> Vec<&'a [u8]> {
    let inside = reply.into_iter().flat_map(Reply::certificates).map(Vec::as_slice);
    inside.chain(anchors.certificates().iter().map(|c| &**c)).collect()
}

impl Crl {
    /// Whether a certificate of the token, where there is one, or one of the roots signed the list in its issuer's name.
    #[must_use]
    pub fn vouched(&self, reply: Option<&Reply>, anchors: &Anchors) -> Vouched {
        vouched(self.der(), &issuers(reply, anchors))
    }
}

impl Reply {
    /// Holds every certificate of the token but the signer's, which the token's signature names by its hash, against the signature of its
    /// issuer: in the token or among the roots. Gives those that nobody known can vouch for and that are on the signer's chain; the
    /// others are [`strangers`](Self::strangers).
    ///
    /// # Errors
    /// [`TimestampError::Signature`] when one is not what its issuer signed, [`TimestampError::Malformed`] when one cannot be read.
    pub fn check_certificates(&self, anchors: &Anchors) -> Result<Vec<Uncovered>, TimestampError> {
        let (signer, known, strangers) = (self.signing_certificate()?, issuers(Some(self), anchors), self.strangers());
        let mut out = Vec::new();
        for der in self.certificates().iter().map(Vec::as_slice).filter(|c| *c != signer) {
            let facts = Facts::read(der).map_err(|e| malformed(format!("a certificate in it cannot be read: {e}")))?;
            // A root may be signed in a way that is not supported any more: nobody needs that signature.
            if anchors.certificates().iter().any(|anchor| **anchor == *der) {
                continue;
            }
            let name = escape_bounded(&facts.subject, 100);
            match vouched(der, &known) {
                Vouched::Signed => {}
                Vouched::Forged(why) => {
                    return Err(TimestampError::Signature(format!("the certificate '{name}' in it is not what its issuer made: {why}")));
                }
                Vouched::Unknown(_) if strangers.contains(&facts.subject) => {}
                Vouched::Unknown(why) => out.push(Uncovered::usual(format!("the certificate '{name}': {why}"))),
            }
        }
        Ok(out)
    }
}
