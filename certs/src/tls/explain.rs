//! What TLS errors mean to an operator.

use std::error::Error as StdError;

use exhibit_evidence::Timestamp;
use exhibit_evidence::text::escape_bounded;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

/// A sentence that says what is wrong and what to do. "The peer" is the other end, whichever end this is.
#[must_use]
pub fn explain_tls_error(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(why) => explain_certificate(why),
        Error::AlertReceived(alert) => explain_alert(*alert),
        Error::NoCertificatesPresented => {
            "the peer presented no client certificate; it must enrol first (only enrolment works without one)".to_owned()
        }
        Error::PeerIncompatible(
            PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls13RequiredForQuic
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::Tls12NotOfferedOrEnabled,
        ) => "the peer does not speak TLS 1.3, and nothing older is accepted".to_owned(),
        Error::NoApplicationProtocol => {
            "the peer offers neither gRPC (ALPN h2) nor enrolment (ALPN exhibit-enroll/1): it is not a program of this system".to_owned()
        }
        Error::InvalidMessage(_) => "the peer does not speak TLS on this port".to_owned(),
        other => format!("TLS failed: {}", escape_bounded(&other.to_string(), 200)),
    }
}

fn time(at: UnixTime) -> Timestamp {
    Timestamp::from_unix_s(i64::try_from(at.as_secs()).unwrap_or(i64::MAX))
}

fn explain_certificate(why: &CertificateError) -> String {
    match why {
        CertificateError::ExpiredContext { time: now, not_after } => format!(
            "the peer's certificate expired at {}, and this machine's clock says {}; renew it, or correct the clock",
            time(*not_after),
            time(*now)
        ),
        CertificateError::Expired => "the peer's certificate has expired; renew it, or correct this machine's clock".to_owned(),
        CertificateError::NotValidYetContext { time: now, not_before } => format!(
            "the peer's certificate is valid only from {}, and this machine's clock says {}; correct the clock that is wrong",
            time(*not_before),
            time(*now)
        ),
        CertificateError::NotValidYet => "the peer's certificate is not valid yet; one of the two clocks is wrong".to_owned(),
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the peer's certificate was not issued under this deployment's TLS root; it belongs to another deployment, or somebody is in between"
                .to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "the peer's certificate is not for '{}' but for {}; connect to one of these, or add the name to the coordinator's server names",
            escape_bounded(&expected.to_str(), 120),
            escape_bounded(&presented.join(", "), 300)
        ),
        CertificateError::NotValidForName => "the peer's certificate is not for the name that was connected to".to_owned(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the peer's certificate is for another purpose (a client's was used by a server, or the other way round)".to_owned()
        }
        CertificateError::Revoked => "the peer's certificate was revoked".to_owned(),
        CertificateError::ApplicationVerificationFailure => {
            "the peer's certificate names neither an agent nor a person of this deployment".to_owned()
        }
        CertificateError::Other(other) => escape_bounded(&other.to_string(), 400),
        other => format!("the peer's certificate cannot be used: {}", escape_bounded(&other.to_string(), 200)),
    }
}

fn explain_alert(alert: AlertDescription) -> String {
    let why = match alert {
        AlertDescription::CertificateExpired => {
            "it says that our certificate has expired or is not valid yet: renew it or enrol again, and compare the clocks"
        }
        AlertDescription::UnknownCA => "it does not know the issuer of our certificate: the credential belongs to another deployment",
        AlertDescription::CertificateRequired => "it requires a client certificate: enrol first",
        AlertDescription::AccessDenied => "our certificate names nobody whom it serves",
        AlertDescription::CertificateRevoked => "our certificate was revoked",
        AlertDescription::UnsupportedCertificate => "our certificate is for another purpose",
        AlertDescription::BadCertificate | AlertDescription::CertificateUnknown | AlertDescription::DecryptError => {
            "it cannot use our certificate; the credential may be damaged or belong to another deployment"
        }
        AlertDescription::ProtocolVersion => "it does not speak TLS 1.3, or we do not",
        AlertDescription::NoApplicationProtocol => "it does not serve what we ask for: is this the coordinator's port?",
        AlertDescription::HandshakeFailure => "no common TLS parameters",
        other => return format!("the peer broke off with TLS alert {other:?}"),
    };
    format!("the peer refused the connection: {why}")
}

/// Finds a TLS error in a chain of causes and explains it; `None` when there is none.
#[must_use]
pub fn explain(error: &(dyn StdError + 'static)) -> Option<String> {
    let mut next = Some(error);
    // Chains are short; the bound is for a broken `source` that goes round in circles.
    for _ in 0..32 {
        let current = next?;
        if let Some(tls) = current.downcast_ref::<Error>() {
            return Some(explain_tls_error(tls));
        }
        // An I/O error does not name what it wraps as its source, only that one's source.
        if let Some(inner) = current.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref)
            && let Some(text) = explain(inner)
        {
            return Some(text);
        }
        next = current.source();
    }
    None
}
