//! One timestamp authority over HTTP: ask, verify, and fetch the revocation lists of that day.
//!
//! Trust: nothing that comes over this connection is believed for its way. A token is kept only when its signature leads to
//! the root that the operator configured, so http:// costs no trust; a CRL is signed as well. All answers are bounded. With
//! https:// the server must be who its address says: nobody on the way reads what is asked, or answers in its place.

use std::time::Duration;

use bytes::Bytes;
use exhibit_evidence::layout::{AuthorityName, TimestampFile};
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::timestamp::{Anchors, CRL_BYTES_MAX, Crl, REPLY_BYTES_MAX, Reply, Request, TimestampError, Vouched};
use reqwest::header::CONTENT_TYPE;

/// An authority that does not answer in this time is tried again later.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// A configured authority.
#[derive(Debug, Clone)]
pub struct Authority {
    name: AuthorityName,
    url: reqwest::Url,
    anchors: Anchors,
    crls: Vec<reqwest::Url>,
    interval: Duration,
    http: reqwest::Client,
}

/// Why a configuration gives no authority: the key and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityError {
    /// `name`, `url`, `tls_ca`, `crls`.
    pub key: &'static str,
    /// One sentence.
    pub why: String,
}

/// A token that was verified, and what goes with it.
#[derive(Debug)]
pub struct Answer {
    /// The reply as it came (`.tsr`).
    pub bytes: Bytes,
    /// The reply, read and verified against request and root.
    pub reply: Reply,
}

/// CRLs that were fetched, and why one was not.
#[derive(Debug, Default)]
pub struct Revocations {
    /// The lists as they came.
    pub lists: Vec<Bytes>,
    /// What went wrong with the first that could not be had.
    pub problem: Option<String>,
}

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoToken {
    /// The stable word in a `timestamp-failed` record.
    pub code: &'static str,
    /// One sentence; what the authority said in it is escaped.
    pub message: String,
}

impl NoToken {
    fn unreachable(e: impl std::fmt::Display) -> Self {
        Self { code: "unreachable", message: escape_bounded(&format!("no answer: {e}"), 400) }
    }
}

/// What went wrong: the HTTP client's error says only with whom, the last of its causes says what.
fn causes(e: &reqwest::Error) -> String {
    let mut text = e.to_string();
    let mut next = std::error::Error::source(e);
    // Chains are short; the bound is for one that goes round in circles.
    for _ in 0..16 {
        let Some(cause) = next else { break };
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    // As rustls begins every refusal of a server's certificate.
    if text.contains("invalid peer certificate") {
        text.push_str(" (the server's TLS certificate, see timestamp.tls_ca)");
    }
    text
}

fn client(roots: Vec<reqwest::Certificate>) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .timeout(ANSWER_WITHIN)
        // Where an authority is stands in the configuration and nowhere else.
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("exhibit-coordinator/", env!("CARGO_PKG_VERSION")))
        .tls_certs_merge(roots)
        .build()
}

impl From<TimestampError> for NoToken {
    fn from(e: TimestampError) -> Self {
        let code = match e {
            TimestampError::Malformed(_) => "malformed",
            TimestampError::Refused(_) => "refused",
            TimestampError::Imprint { .. } => "imprint",
            TimestampError::Nonce(_) => "nonce",
            TimestampError::Signature(_) => "signature",
            TimestampError::Purpose(_) => "purpose",
            TimestampError::Validity(_) => "validity",
            TimestampError::Untrusted(_) => "untrusted",
            TimestampError::Revoked(_) => "revoked",
        };
        Self { code, message: escape_bounded(&e.to_string(), 400) }
    }
}

impl Authority {
    /// An authority. `anchors` are the roots that its tokens must lead to.
    ///
    /// # Errors
    /// [`AuthorityError`]
    pub fn new(name: &str, url: &str, anchors: Anchors, crls: &[String], interval: Duration) -> Result<Self, AuthorityError> {
        let name = name.parse().map_err(|why| AuthorityError { key: "name", why })?;
        if crls.len() > usize::from(TimestampFile::CRLS_MAX) {
            return Err(AuthorityError { key: "crls", why: format!("{} addresses: at most {}", crls.len(), TimestampFile::CRLS_MAX) });
        }
        let crls = crls.iter().map(|url| address("crls", url)).collect::<Result<_, _>>()?;
        let http = client(Vec::new()).map_err(|e| AuthorityError { key: "url", why: e.to_string() })?;
        Ok(Self { name, url: address("url", url)?, anchors, crls, interval, http })
    }

    /// The same, where the certificate of an `https://` server may lead to one of these roots (PEM) as well as to a public one.
    ///
    /// # Errors
    /// [`AuthorityError`] when there is no certificate in it.
    pub fn trusting(mut self, pem: &[u8]) -> Result<Self, AuthorityError> {
        let wrong = |why: String| AuthorityError { key: "tls_ca", why };
        let roots = reqwest::Certificate::from_pem_bundle(pem).map_err(|e| wrong(causes(&e)))?;
        if roots.is_empty() {
            return Err(wrong("there is no certificate in it".to_owned()));
        }
        self.http = client(roots).map_err(|e| wrong(causes(&e)))?;
        Ok(self)
    }

    /// True when one of its addresses is an `https://` one.
    #[must_use]
    pub fn speaks_tls(&self) -> bool {
        std::iter::once(&self.url).chain(&self.crls).any(|url| url.scheme() == "https")
    }

    /// The name that its objects and records have.
    #[must_use]
    pub const fn name(&self) -> &AuthorityName {
        &self.name
    }

    /// How many revocation lists are fetched with a token, at most [`TimestampFile::CRLS_MAX`].
    #[must_use]
    pub fn lists(&self) -> u32 {
        self.crls.len() as u32
    }

    /// For one case at most one token in this time.
    #[must_use]
    pub const fn interval(&self) -> Duration {
        self.interval
    }

    /// Sends a request and verifies the reply: granted, over this digest, with this nonce, signed by a certificate for
    /// timestamps that was valid then and leads to the configured root.
    ///
    /// # Errors
    /// [`NoToken`]; asking again with the same request is safe.
    pub async fn ask(&self, request: &Request) -> Result<Answer, NoToken> {
        let send = self.http.post(self.url.clone()).header(CONTENT_TYPE, "application/timestamp-query").body(request.to_der());
        let response = send.send().await.map_err(|e| NoToken::unreachable(causes(&e)))?;
        if !response.status().is_success() {
            return Err(NoToken::unreachable(format!("HTTP status {}", response.status())));
        }
        let bytes = body(response, REPLY_BYTES_MAX).await.map_err(NoToken::unreachable)?;
        self.verify(request, bytes, &[])
    }

    /// Verifies a reply, also one that an earlier process kept.
    ///
    /// # Errors
    /// [`NoToken`]
    pub fn verify(&self, request: &Request, bytes: Bytes, crls: &[Bytes]) -> Result<Answer, NoToken> {
        let reply = Reply::parse(&bytes)?;
        reply.answers(request)?;
        let crls: Vec<Crl> = crls.iter().filter_map(|bytes| Crl::parse(bytes).ok()).collect();
        reply.verify(&self.anchors, &crls)?;
        Ok(Answer { bytes, reply })
    }

    /// The lists that a certificate in the reply, or a configured root, signed; and what is wrong with the first of the others. What
    /// nobody can check is no use beside a token that is to be checked without us.
    #[must_use]
    pub fn usable(&self, reply: &Reply, lists: Vec<Bytes>) -> Revocations {
        let mut out = Revocations::default();
        for bytes in lists {
            let why = match Crl::parse(&bytes).map(|list| list.vouched(Some(reply), &self.anchors)) {
                Ok(Vouched::Signed) => {
                    out.lists.push(bytes);
                    continue;
                }
                Ok(Vouched::Forged(why) | Vouched::Unknown(why)) => why,
                Err(e) => e.to_string(),
            };
            out.problem = out.problem.or_else(|| Some(escape_bounded(&format!("a revocation list is left out: {why}"), 400)));
        }
        out
    }

    /// Fetches the configured CRLs. That one cannot be had costs no token; it is said in the record.
    pub async fn revocations(&self) -> Revocations {
        let mut out = Revocations::default();
        for url in &self.crls {
            let fetched = async {
                let response = self.http.get(url.clone()).send().await.map_err(|e| causes(&e))?;
                if !response.status().is_success() {
                    return Err(format!("HTTP status {}", response.status()));
                }
                let bytes = body(response, CRL_BYTES_MAX).await?;
                Crl::parse(&bytes).map_err(|e| e.to_string())?;
                Ok(bytes)
            };
            match fetched.await {
                Ok(bytes) => out.lists.push(bytes),
                Err(e) => out.problem = out.problem.or_else(|| Some(escape_bounded(&format!("{url}: {e}"), 400))),
            }
        }
        out
    }
}

fn address(key: &'static str, text: &str) -> Result<reqwest::Url, AuthorityError> {
    let shown = escape_bounded(text, 120);
    let url = reqwest::Url::parse(text).map_err(|e| AuthorityError { key, why: format!("'{shown}': {e}") })?;
    if matches!(url.scheme(), "http" | "https") && url.has_host() {
        return Ok(url);
    }
    Err(AuthorityError { key, why: format!("'{shown}': expected http:// or https:// and a host") })
}

/// Reads an answer of at most `bytes_max`.
async fn body(mut response: reqwest::Response, bytes_max: usize) -> Result<Bytes, String> {
    let mut out = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| causes(&e))? {
        if out.len().saturating_add(chunk.len()) > bytes_max {
            return Err(format!("the answer has more than {bytes_max} bytes"));
        }
        out.extend_from_slice(&chunk);
    }
    Ok(Bytes::from(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_authority_is_refused_with_its_key() {
        let make = |name: &str, url: &str, crls: &[String]| {
            Authority::new(name, url, Anchors::default(), crls, Duration::from_secs(1)).map_err(|e| e.key).err()
        };
        assert_eq!(make("a-1", "http://tsa.example/tsr", &[]), None);
        for name in ["", "A", "a.b", "-a", "a/b", &"a".repeat(33)] {
            assert_eq!(make(name, "http://tsa.example", &[]), Some("name"), "{name}");
        }
        for url in ["", "tsa.example", "file:///etc/passwd", "ftp://x", "http://"] {
            assert_eq!(make("a", url, &[]), Some("url"), "{url}");
            assert_eq!(make("a", "http://x", &[url.to_owned()]), Some("crls"), "{url}");
        }
        assert_eq!(make("a", "http://x", &vec!["http://y".to_owned(); 5]), Some("crls"));
    }
}
