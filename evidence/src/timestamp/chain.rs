//! Whom a token is believed: its certificate leads to a root that was given from outside, all judged at the token's time.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    ALL_VERIFICATION_ALGS, CertRevocationList, EndEntityCert, Error, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptionsBuilder, RevocationReason, UnknownStatusPolicy, VerifiedPath,
};

use super::asn1::{Cursor, time};
use super::certificate::{Facts, TIME_STAMPING};
use super::reply::Reply;
use super::{CRL_BYTES_MAX, TimestampError};
use crate::digest::Digest;
use crate::text::escape_bounded;
use crate::time::Timestamp;

/// Roots that tokens are believed under, given from outside the case; with CRLs, where newer ones than the case's are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Anchors {
    certificates: Vec<CertificateDer<'static>>,
    crls: Vec<Crl>,
}

/// Why a file holds no usable roots.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadAnchors(String);

/// A certificate revocation list, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crl {
    bytes: Vec<u8>,
    made: Timestamp,
}

impl Crl {
    /// Reads a CRL in DER. Its signature is checked when it is used, because that needs its issuer.
    ///
    /// # Errors
    /// [`TimestampError::Malformed`]
    pub fn parse(bytes: &[u8]) -> Result<Self, TimestampError> {
        if bytes.len() > CRL_BYTES_MAX {
            return Err(TimestampError::Malformed(format!("the CRL has {} bytes, at most {CRL_BYTES_MAX} are read", bytes.len())));
        }
        OwnedCertRevocationList::from_der(bytes).map_err(|e| TimestampError::Malformed(format!("not a CRL that can be used: {e}")))?;
        let mut tbs = Cursor::of_sequence(bytes, "CRL")?.sequence("CRL")?;
        let _version = tbs.optional(der::Tag::Integer)?;
        let (_algorithm, _issuer) = (tbs.raw()?, tbs.raw()?);
        let (tag, content) = tbs.any()?;
        Ok(Self { bytes: bytes.to_vec(), made: time(tag, content, "CRL")? })
    }

    /// The list as it came.
    pub(super) fn der(&self) -> &[u8] {
        &self.bytes
    }

    /// When it was made (`thisUpdate`).
    #[must_use]
    pub const fn made(&self) -> Timestamp {
        self.made
    }
}

/// What is known about the revocation of the certificate that signed a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revocation {
    /// No CRL of its issuer was there: nothing was checked.
    NotChecked,
    /// CRLs were there, the newest of its issuer made at this time, and the token counts.
    Good(Timestamp),
}

/// A token that was verified in full. Made only by [`Reply::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trusted {
    anchor: Digest,
    signer: String,
    valid: (Timestamp, Timestamp),
    revocation: Revocation,
}

impl Trusted {
    /// SHA-256 of the root certificate that it led to: tokens under one root count as one authority.
    #[must_use]
    pub const fn anchor(&self) -> Digest {
        self.anchor
    }

    /// Name in the authority's certificate; text that the authority chose.
    #[must_use]
    pub fn signer(&self) -> &str {
        &self.signer
    }

    /// First and last moment of that certificate.
    #[must_use]
    pub const fn valid(&self) -> (Timestamp, Timestamp) {
        self.valid
    }

    /// What is known about its revocation.
    #[must_use]
    pub const fn revocation(&self) -> &Revocation {
        &self.revocation
    }
}

impl Anchors {
    /// Certificates that one file may hold.
    pub const CERTIFICATES_MAX: usize = 64;

    /// Reads a file: PEM with `CERTIFICATE` and `X509 CRL` blocks, or one certificate in DER.
    ///
    /// # Errors
    /// [`BadAnchors`] when there is no certificate in it, or something that cannot be read.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadAnchors> {
        let mut out = Self::default();
        if bytes.first() == Some(&0x30) {
            out.add_certificate(bytes.to_vec())?;
            return Ok(out);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| BadAnchors("neither PEM nor a certificate in DER".to_owned()))?;
        for (label, der) in pem(text)? {
            match label {
                "CERTIFICATE" => out.add_certificate(der)?,
                "X509 CRL" => out.crls.push(Crl::parse(&der).map_err(|e| BadAnchors(e.to_string()))?),
                other => {
                    return Err(BadAnchors(format!("it has a block '{}': expected CERTIFICATE or X509 CRL", escape_bounded(other, 40))));
                }
            }
        }
        if out.certificates.is_empty() {
            return Err(BadAnchors("there is no certificate in it (-----BEGIN CERTIFICATE-----)".to_owned()));
        }
        Ok(out)
    }

    /// Adds the roots and CRLs of another file.
    pub fn extend(&mut self, other: Self) {
        self.certificates.extend(other.certificates);
        self.crls.extend(other.crls);
    }

    /// True when nothing was given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.certificates.is_empty()
    }

    /// The roots.
    pub(super) fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    fn add_certificate(&mut self, der: Vec<u8>) -> Result<(), BadAnchors> {
        if self.certificates.len() >= Self::CERTIFICATES_MAX {
            return Err(BadAnchors(format!("it has more than {} certificates", Self::CERTIFICATES_MAX)));
        }
        let certificate = CertificateDer::from(der);
        webpki::anchor_from_trusted_cert(&certificate)
            .map_err(|e| BadAnchors(format!("a certificate in it cannot be used as a root: {e}")))?;
        self.certificates.push(certificate);
        Ok(())
    }
}

/// The blocks of a PEM text, with their labels; text between blocks is passed over.
fn pem(text: &str) -> Result<Vec<(&str, Vec<u8>)>, BadAnchors> {
    let (mut out, mut rest) = (Vec::new(), text);
    while let Some((_, begun)) = rest.split_once("-----BEGIN ") {
        let broken = || BadAnchors("a PEM block in it is not closed".to_owned());
        let (label, body) = begun.split_once("-----").ok_or_else(broken)?;
        let (body, after) = body.split_once(&format!("-----END {label}-----")).ok_or_else(broken)?;
        let digits: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        out.push((label, STANDARD.decode(digits).map_err(|_| BadAnchors("a PEM block in it is not base64".to_owned()))?));
        rest = after;
    }
    Ok(out)
}

impl Reply {
    /// Verifies the token in full: its signature, that its certificate is one for timestamps and for nothing else, that it was
    /// valid at the token's time, that it leads to one of the roots through certificates in the token, all of them valid at
    /// that time, and that no usable CRL (of these, of the token or of the anchors) speaks against it.
    ///
    /// Which bytes were stamped is another question: [`Reply::is_over`], [`Reply::answers`].
    ///
    /// # Errors
    /// [`TimestampError`], the first thing that is wrong.
    pub fn verify(&self, anchors: &Anchors, crls: &[Crl]) -> Result<Trusted, TimestampError> {
        self.verify_signature()?;
        let der = self.signing_certificate()?;
        let facts = Facts::read(der)?;
        facts.check_purpose()?;
        facts.check_validity(self.time())?;
        let roots: Vec<TrustAnchor<'_>> = anchors.certificates.iter().filter_map(|c| webpki::anchor_from_trusted_cert(c).ok()).collect();
        let path = Path {
            leaf: CertificateDer::from(der),
            between: self.certificates().iter().filter(|c| c.as_slice() != der).map(|c| CertificateDer::from(c.as_slice())).collect(),
            roots: &roots,
            at: unix(self.time()),
        };
        let shown = escape_bounded(&facts.subject, 100);
        let root = path.verify(None).map_err(|e| match e {
            Error::CertExpired { .. } | Error::CertNotValidYet { .. } => TimestampError::Validity(format!(
                "a certificate above the authority '{shown}' was not valid at the token's time, {}",
                self.time()
            )),
            e => TimestampError::Untrusted(format!(
                "the certificate of '{shown}' does not lead, through the certificates in the token, to a root that was given: {e}"
            )),
        })?;
        let inside = self.crls().iter().filter_map(|bytes| Crl::parse(bytes).ok()).collect::<Vec<_>>();
        let revocation = path.revocation(&facts, &mut crls.iter().chain(&anchors.crls).chain(&inside), self.time())?;
        // The list of roots is that of the certificates: those that cannot be read were refused when they were added.
        let anchor =
            anchors.certificates.get(root).map(|c| Digest::of(c)).ok_or_else(|| TimestampError::Untrusted("no root".to_owned()))?;
        Ok(Trusted { anchor, signer: facts.subject, valid: (facts.from, facts.until), revocation })
    }
}

impl Reply {
    /// The names in those certificates of the token that the signing one leads to by no chain of valid ones: untrusted text. No
    /// signature covers which certificates a token carries (RFC 5652, 5.1 and 10.2.3), and RFC 3161, 2.4.1 allows others.
    #[must_use]
    pub fn strangers(&self) -> Vec<String> {
        let Ok(der) = self.signing_certificate() else { return Vec::new() };
        let named = |der: &[u8]| Facts::read(der).map_or_else(|_| "no certificate that can be read".to_owned(), |facts| facts.subject);
        // Of one that may not sign tokens no chain can be judged, and that it may not is said elsewhere.
        if Facts::read(der).and_then(|facts| facts.check_purpose()).is_err() {
            return Vec::new();
        }
        let others = || self.certificates().iter().filter(|c| c.as_slice() != der).map(|c| CertificateDer::from(c.as_slice()));
        let belongs = |candidate: &CertificateDer<'_>| {
            let Ok(root) = webpki::anchor_from_trusted_cert(candidate) else { return false };
            let (leaf, between, roots) = (CertificateDer::from(der), others().collect(), [root]);
            Path { leaf, between, roots: &roots, at: unix(self.time()) }.verify(None).is_ok()
        };
        others().filter(|candidate| !belongs(candidate)).map(|candidate| named(candidate.as_ref())).collect()
    }
}

/// A certificate and what it may lead through and to.
struct Path<'a> {
    leaf: CertificateDer<'a>,
    between: Vec<CertificateDer<'a>>,
    roots: &'a [TrustAnchor<'a>],
    at: UnixTime,
}

impl Path<'_> {
    /// The place of the root that it leads to.
    fn verify(&self, crl: Option<&CertRevocationList<'_>>) -> Result<usize, Error> {
        self.verify_as(crl, RevocationCheckDepth::Chain, UnknownStatusPolicy::Allow)
    }

    /// Whether a list speaks of the leaf: it is its issuer's, by signature, and its scope holds the leaf. With a lenient policy
    /// a list of another scope passes without a look at its signature.
    fn is_answered_by(&self, crl: &CertRevocationList<'_>) -> bool {
        self.verify_as(Some(crl), RevocationCheckDepth::EndEntity, UnknownStatusPolicy::Deny).is_ok()
    }

    fn verify_as(
        &self,
        crl: Option<&CertRevocationList<'_>>,
        depth: RevocationCheckDepth,
        unknown: UnknownStatusPolicy,
    ) -> Result<usize, Error> {
        let leaf = EndEntityCert::try_from(&self.leaf)?;
        let list: Vec<&CertRevocationList<'_>> = crl.into_iter().collect();
        let revocation = RevocationOptionsBuilder::new(&list).ok().map(|options| {
            options
                .with_depth(depth)
                .with_status_policy(unknown)
                // A CRL that is kept beside a token is old by nature.
                .with_expiration_policy(ExpirationPolicy::Ignore)
                .build()
        });
        let found = leaf.verify_for_usage(
            ALL_VERIFICATION_ALGS,
            self.roots,
            &self.between,
            self.at,
            KeyUsage::required(TIME_STAMPING),
            revocation,
            None,
        )?;
        let place = |path: &VerifiedPath<'_>| self.roots.iter().position(|root| root == path.anchor());
        place(&found).ok_or(Error::UnknownIssuer)
    }

    /// RFC 3161 section 4: a certificate that was revoked because its key fell into other hands, or nobody says why, makes all
    /// its tokens worthless, also earlier ones. Revoked for one of the harmless reasons it keeps its earlier tokens.
    fn revocation(&self, facts: &Facts<'_>, crls: &mut dyn Iterator<Item = &Crl>, at: Timestamp) -> Result<Revocation, TimestampError> {
        let mut newest = None;
        for crl in crls {
            let Ok(list) = OwnedCertRevocationList::from_der(&crl.bytes).map(CertRevocationList::from) else { continue };
            let revoked = match self.verify(Some(&list)) {
                Ok(_) => None,
                Err(Error::CertRevoked) => Some(list.find_serial(facts.serial).ok().flatten()),
                // Signed by somebody else, or of a kind that cannot be used: it says nothing.
                Err(_) => continue,
            };
            let of_leaf = Cursor::new(facts.issuer, "issuer")?.any()?.1 == issuer_content(list.issuer());
            let answered = revoked.is_some() || self.is_answered_by(&list);
            if let Some(entry) = revoked {
                let reason = entry.as_ref().and_then(|e| e.reason_code);
                let when = entry.as_ref().map(|e| Timestamp::from_unix_s(i64::try_from(e.revocation_date.as_secs()).unwrap_or(i64::MAX)));
                let harmless = matches!(
                    reason,
                    Some(RevocationReason::AffiliationChanged | RevocationReason::Superseded | RevocationReason::CessationOfOperation)
                );
                if !(of_leaf && harmless && when.is_some_and(|when| at < when)) {
                    let what = if of_leaf { "the authority's certificate" } else { "a certificate above the authority's" };
                    let when = when.filter(|_| of_leaf).map(|w| format!(" on {w}")).unwrap_or_default();
                    let why = reason.filter(|_| of_leaf).map_or_else(|| "no reason is given".to_owned(), |r| format!("{r:?}"));
                    return Err(TimestampError::Revoked(format!("{what} was revoked{when} ({why}), says the CRL of {}", crl.made)));
                }
            }
            // One that revokes it for a harmless reason answered as well.
            if of_leaf && answered {
                newest = newest.max(Some(crl.made));
            }
        }
        Ok(newest.map_or(Revocation::NotChecked, Revocation::Good))
    }
}

/// A name's content: with or without its tag and length, as the list gives it.
fn issuer_content(issuer: &[u8]) -> &[u8] {
    let whole = Cursor::new(issuer, "issuer").ok().and_then(|mut c| {
        let content = c.take(der::Tag::Sequence).ok()?;
        c.is_finished().then_some(content)
    });
    whole.unwrap_or(issuer)
}

fn unix(time: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(time.unix_ms() / 1_000))
}
