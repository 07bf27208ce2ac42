//! What a store says when it says no: the code and the message of its answer, and nothing else that stands in it. To whom its session ran
//! out S3 repeats the session's token, and to whom a signature does not fit it repeats the key's id and what was signed; the other clouds
//! have the like. What is shown here goes into logs, to monitors and to people.

use exhibit_evidence::text::escape_bounded;
use http::header::LOCATION;
use http::{HeaderMap, Method, StatusCode};
use serde_json::Value;

use super::super::{Kind, StoreError};
use super::dialect::header;
use super::proof;
use super::xml::{self, Node};

/// An error has some hundred bytes; of a larger answer no word is shown.
const ANSWER_BYTES_MAX: usize = 64 << 10;
const CODE_CHARS_MAX: usize = 80;
const MESSAGE_CHARS_MAX: usize = 300;
const ERROR_CHARS_MAX: usize = 600;
/// How Azure begins what it says beside "AuthenticationFailed" or "InvalidAuthenticationInfo" where a token or a shared access signature
/// expired (or, of the first, is not valid yet).
const EXPIRED_DETAILS: [&str; 3] =
    ["Signature not valid in the specified time frame", "Signed expiry time [", "Lifetime validation failed. The token is expired"];
/// In what Microsoft's token service says where a client's secret expired.
const EXPIRED_SECRET: &str = "AADSTS7000222";

const EXPIRED: &str =
    "the credentials are expired: renew them (those of the environment need a new start, those of the machine's role renew themselves)";
const UNKNOWN: &str = "the store does not know who asks: renew the credentials if they are expired or were switched off, or correct them";
pub(super) const WORDLESS: &str = "the store refuses without saying why: renew the credentials if they are expired or were switched off, or correct them, and compare what they may do with docs/operations/stores.md";

/// Regions have names of some twenty characters.
const REGION_BYTES_MAX: usize = 40;

/// Behind these words of `object_store` the store's whole answer stands: behind the first ones after its status.
const BEFORE_STATUS: &str = "Server returned non-2xx status code: ";
const BEFORE_ANSWER: &str = "Server returned error response: ";

/// Code and message of an answer; empty when it has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::store) struct Said {
    pub(in crate::store) code: String,
    pub(in crate::store) message: String,
    /// The credentials expired, which not every cloud says in its code.
    pub(in crate::store) is_expired: bool,
}

impl Said {
    fn of_answer(answer: &str) -> Self {
        if answer.len() > ANSWER_BYTES_MAX {
            return Self::default();
        }
        match xml::parse(answer.as_bytes()) {
            Ok(root) => Self::of_xml(&root),
            Err(_) => serde_json::from_str::<Value>(answer).map(|value| Self::of_json(&value)).unwrap_or_default(),
        }
    }

    /// What gives out credentials has the error one level deeper.
    fn of_xml(root: &Node) -> Self {
        let error = if root.name == "Error" { Some(root) } else { root.children.iter().find(|child| child.name == "Error") };
        let Some(error) = error else { return Self::default() };
        let detail = error.get("AuthenticationErrorDetail");
        Self {
            code: error.get("Code").to_owned(),
            message: error.get("Message").to_owned(),
            is_expired: EXPIRED_DETAILS.iter().any(|words| detail.starts_with(words)),
        }
    }

    /// As Google's and Azure's services say it, and whoever gives out their tokens.
    fn of_json(value: &Value) -> Self {
        let text = |place: &str| value.pointer(place).and_then(Value::as_str).unwrap_or_default().to_owned();
        let first = |places: &[&str]| places.iter().map(|place| text(place)).find(|found| !found.is_empty()).unwrap_or_default();
        let message = first(&["/error/message", "/error_description"]);
        Self {
            code: first(&["/error/errors/0/reason", "/error/code", "/error/status", "/error"]),
            is_expired: message.contains(EXPIRED_SECRET),
            message,
        }
    }
}

/// An error of `object_store` in two: what it says itself, and the store's answer.
fn parted(error: &str) -> Option<(&str, &str)> {
    // What comes first is the client's; behind it the store may say whatever it likes.
    let answer = match (error.split_once(BEFORE_ANSWER), error.split_once(BEFORE_STATUS)) {
        (Some((own, answer)), Some((before, _))) if own.len() < before.len() => answer,
        (_, Some((_, said))) => said.split_once(": ").map_or(said, |(_, answer)| answer),
        (Some((_, answer)), None) => answer,
        (None, None) => return None,
    };
    Some((error.strip_suffix(answer)?, answer))
}

/// An error of `object_store` for people; of the store's answer only its code and its message.
pub(in crate::store) fn shown(error: &str) -> String {
    let Some((own, answer)) = parted(error) else { return escape_bounded(error, ERROR_CHARS_MAX) };
    let said = Said::of_answer(answer);
    let mut out = escape_bounded(own.trim_end_matches([' ', ':']), ERROR_CHARS_MAX);
    for words in [escape_bounded(&said.code, CODE_CHARS_MAX), escape_bounded(&said.message, MESSAGE_CHARS_MAX)] {
        if !words.is_empty() {
            out.push_str(": ");
            out.push_str(&words);
        }
    }
    out
}

/// The error by the store's answer in an error of `object_store`, with this message.
pub(in crate::store) fn of_error(error: &str, message: &str) -> Option<StoreError> {
    let (_, answer) = parted(error)?;
    of_said(&Said::of_answer(answer), status(error), message)
}

/// The error of an answer that is about who asks, when, and where; none of another one. The status 401 is about nothing else ("lacks valid
/// authentication credentials", RFC 9110), and Google has no other word for a token that expired.
pub(super) fn of_said(said: &Said, status: Option<u16>, message: &str) -> Option<StoreError> {
    let unknown = (status == Some(401)).then_some(UNKNOWN);
    Some(StoreError::unheard(message, remedy(said).or(unknown)?))
}

/// What helps against the answer in an error of `object_store`, where it is about who asks, when, and where.
pub(super) fn remedy_in(error: &str) -> Option<&'static str> {
    let (_, answer) = parted(error)?;
    remedy(&Said::of_answer(answer))
}

/// The status of the answer in an error of `object_store`.
pub(in crate::store) fn status(error: &str) -> Option<u16> {
    let (before, said) = error.split_once(BEFORE_STATUS)?;
    if before.contains(BEFORE_ANSWER) {
        return None;
    }
    said.get(..3)?.parse().ok()
}

/// True when an answer that says no does so because the credentials expired, though its code does not say it.
pub(super) fn is_expired(answer: &[u8]) -> bool {
    std::str::from_utf8(answer).is_ok_and(|answer| Said::of_answer(answer).is_expired)
}

fn remedy(said: &Said) -> Option<&'static str> {
    if said.is_expired {
        return Some(EXPIRED);
    }
    Some(match said.code.as_str() {
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "InvalidToken" | "InvalidTokenId" => EXPIRED,
        // Of a token service (RFC 6749, 5.2): what it was given is invalid, expired or revoked; Google says it of a wrong clock as well.
        "invalid_grant" => "the credentials are expired or revoked: renew them; or this machine's clock is wrong: keep it with NTP",
        "RequestTimeTooSkewed" => "this machine's clock differs from the store's: set it, and keep it with NTP",
        "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => {
            "wrong region: correct region (and endpoint, if it is set) in [store] of the configuration"
        }
        // A key or an account that was switched off, deleted or mistyped: of S3 and its token service, of Ceph, of Azure, of Google.
        "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "UserSuspended"
        | "AccountProblem"
        | "NotSignedUp"
        | "AuthenticationFailed"
        | "InvalidAuthenticationInfo"
        | "NoAuthenticationInformation"
        | "InvalidSecurity"
        | "AuthenticationRequired"
        | "authError" => UNKNOWN,
        _ => return None,
    })
}

/// True for an error of `object_store` that is a refusal without a word, as in every answer to HEAD.
pub(in crate::store) fn is_wordless(error: &str) -> bool {
    matches!(status(error), Some(400 | 403)) && parted(error).is_some_and(|(_, answer)| answer.trim().is_empty())
}

/// Marks a refusal by whether the store said why in a code of its own: what has none may be the page of a proxy. Of what is not there, a
/// bucket for example, nothing was refused, and a code about something else than rights and locks is no proof that one of them refuses.
pub(super) fn by_code(refused: StoreError, status: Option<u16>, said: &Said) -> StoreError {
    match refused.kind() {
        Kind::Denied | Kind::Conflict if said.code.is_empty() => refused.wordless(),
        // Which the client takes for something that passes.
        Kind::Retry if said.code.is_empty() && matches!(status, Some(400 | 403)) => refused.wordless(),
        Kind::Denied | Kind::Conflict if status != Some(404) && proof::is_one(said) => refused.coded(),
        _ => refused,
    }
}

/// [`by_code`] of what an error of `object_store` became. About objects all clouds say it in XML: JSON there is nobody's of them.
pub(in crate::store) fn by_code_in(error: &str, refused: StoreError) -> StoreError {
    match parted(error) {
        Some((_, answer)) => by_code(refused, status(error), &xml_said(answer)),
        None => refused,
    }
}

fn xml_said(answer: &str) -> Said {
    let root = if answer.len() > ANSWER_BYTES_MAX { None } else { xml::parse(answer.as_bytes()).ok() };
    root.filter(|root| root.name == "Error").map(|root| Said::of_xml(&root)).unwrap_or_default()
}

/// The error of a refusal of which the store says no word why, however it was asked.
pub(in crate::store) fn unclear(message: &str) -> StoreError {
    StoreError::unheard(message, WORDLESS)
}

/// What a redirect to nowhere says, and a plain 400 to HEAD. S3 answers so in every region but the bucket's, to HEAD without a body, and
/// names the right one in a header. `asked` is the region that the request was signed for.
pub(super) fn misplaced(method: &Method, status: StatusCode, headers: &HeaderMap, asked: Option<&str>) -> Option<Said> {
    let region = header(headers, "x-amz-bucket-region");
    let is_region =
        !region.is_empty() && region.len() <= REGION_BYTES_MAX && region.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    let is_nowhere = status == StatusCode::MOVED_PERMANENTLY && !headers.contains_key(LOCATION);
    // Other answers to HEAD may have the header too: then it names the region that was asked for.
    let is_elsewhere =
        method == Method::HEAD && status == StatusCode::BAD_REQUEST && is_region && asked.is_some_and(|asked| asked != region);
    if !is_nowhere && !is_elsewhere {
        return None;
    }
    let place = if is_region { format!("in region {region}") } else { "in another region".to_owned() };
    Some(Said { code: "PermanentRedirect".to_owned(), message: format!("the bucket is {place}"), is_expired: false })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use super::*;
    use crate::clock;
    use crate::store::check;
    use crate::store::patience::Patience;
    use crate::store::tests::{answering, answering_late};
    use crate::store::{LockMode, LockPolicy, RemoteKind, RemoteSettings, RemoteStore, Store as _, Vault, self_test};

    /// What no answer's words may bring to light.
    const SECRETS: [&str; 3] = ["SESSIONTOKENSECRET", "AKIDSECRET", "STRINGTOSIGN"];

    const EXPIRED: &str = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 169\r\n\r\n\
        <Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message><Token-0>SESSIONTOKENSECRET</Token-0>\
        <RequestId>1</RequestId><HostId>2</HostId></Error>";
    const FOREIGN_REGION: &str = "HTTP/1.1 301 Moved Permanently\r\nconnection: close\r\nx-amz-bucket-region: eu-west-1\r\n\
        content-length: 0\r\n\r\n";
    const SKEWED: &str = "HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 99\r\n\r\n\
        <Error><Code>RequestTimeTooSkewed</Code><Message>The difference is too large.</Message><X/></Error>";

    /// Of a key that was switched off or deleted, and in the words of Azure of a wrong one.
    const UNKNOWN_KEY: &str = "HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 131\r\n\r\n\
        <Error><Code>InvalidAccessKeyId</Code><Message>The key does not exist.</Message><AWSAccessKeyId>AKIDSECRET</AWSAccessKeyId></Error>";
    const WRONG_KEY_AZURE: &str = "HTTP/1.1 403 Forbidden\r\nconnection: close\r\nx-ms-error-code: AuthenticationFailed\r\ncontent-length: 238\r\n\r\n\
        <Error><Code>AuthenticationFailed</Code><Message>Server failed to authenticate the request.</Message><AuthenticationErrorDetail>\
        The MAC signature found in the HTTP request is not the same [STRINGTOSIGN]</AuthenticationErrorDetail></Error>";

    /// In the words of Azure, of a shared access signature that expired.
    const EXPIRED_AZURE: &str = "HTTP/1.1 403 Forbidden\r\nconnection: close\r\nx-ms-error-code: AuthenticationFailed\r\ncontent-length: 233\r\n\r\n\
        <Error><Code>AuthenticationFailed</Code><Message>Server failed to authenticate the request.</Message><AuthenticationErrorDetail>\
        Signature not valid in the specified time frame: Start [STRINGTOSIGN]</AuthenticationErrorDetail></Error>";
    /// In the words of Google.
    const EXPIRED_GOOGLE: &str = "HTTP/1.1 401 Unauthorized\r\nconnection: close\r\ncontent-length: 88\r\n\r\n\
        {\"error\":{\"code\":401,\"message\":\"Invalid Credentials\",\"errors\":[{\"reason\":\"authError\"}]}}";
    const HEAD_ELSEWHERE: &str = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\nx-amz-bucket-region: eu-west-1\r\n\
        content-length: 0\r\n\r\n";

    fn assert_no_secret(text: &str) {
        for secret in SECRETS {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
    }

    /// The same place as a store of this kind, with its own dialect and client; of the other clouds versions are looked at only with a lock.
    fn of_cloud(kind: RemoteKind, s3: RemoteSettings) -> RemoteSettings {
        let secret = match kind {
            RemoteKind::S3 => return s3,
            RemoteKind::Azure => "c2VjcmV0".to_owned(),
            RemoteKind::Google => r#"{"disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""}"#.to_owned(),
        };
        let lock = Some(LockPolicy { mode: LockMode::Compliance, days: 1 });
        RemoteSettings { kind, account: "account".to_owned(), access_key_id: None, secret: Some(secret), lock, ..s3 }
    }

    #[test]
    fn the_servers_of_these_tests_say_their_length() {
        for answer in [EXPIRED, SKEWED, UNKNOWN_KEY, WRONG_KEY_AZURE, EXPIRED_AZURE, EXPIRED_GOOGLE] {
            let (head, body) = answer.split_once("\r\n\r\n").expect("two parts");
            assert!(head.ends_with(&format!("content-length: {}", body.len())), "{}: {head}", body.len());
        }
    }

    /// By every way to a store: objects, versions and locks, and the report of `store check`.
    #[tokio::test]
    async fn what_passes_not_by_itself_is_told_as_such_and_no_secret_with_it() {
        for (kind, answer, message, remedy) in [
            (RemoteKind::S3, EXPIRED, "ExpiredToken: The provided token has expired.", "the credentials are expired: renew them"),
            (RemoteKind::S3, FOREIGN_REGION, "the bucket is in region eu-west-1", "wrong region"),
            (RemoteKind::S3, SKEWED, "RequestTimeTooSkewed: The difference", "clock"),
            (RemoteKind::S3, UNKNOWN_KEY, "InvalidAccessKeyId: The key does not exist.", "does not know who asks: renew the credentials"),
            (RemoteKind::Azure, WRONG_KEY_AZURE, "AuthenticationFailed: Server failed", "does not know who asks: renew the credentials"),
            (RemoteKind::Azure, EXPIRED_AZURE, "AuthenticationFailed: Server failed", "the credentials are expired: renew them"),
            (RemoteKind::Google, EXPIRED_GOOGLE, "authError: Invalid Credentials", "renew the credentials if they are expired"),
        ] {
            let store = RemoteStore::open(&of_cloud(kind, answering(answer).await)).expect("settings");
            let vault = store.attestable().expect("a store with versions").vault;
            let cloud = match kind {
                RemoteKind::S3 => "S3",
                RemoteKind::Google => "Google Cloud Storage",
                RemoteKind::Azure => "Azure Blob Storage",
            };
            assert_eq!(vault.words().cloud, cloud, "its own dialect is asked");
            let told = [
                self_test(&store).await.expect_err("the start ends"),
                store.get("cases/a", 10).await.expect_err("not read"),
                store.list("cases", None).await.expect_err("not listed"),
                vault.versions("", None).await.map(|_| ()).expect_err("not listed"),
            ];
            for e in told {
                assert!(e.needs_a_person() && e.word() == "denied", "{e}");
                assert!(e.says_nothing(), "it is no word on an object: {e}");
                assert!(e.remedy().contains(remedy), "{e}");
                assert!(e.message().contains(message) || e.message().contains(&message.replace(": ", " ")), "{e}");
                assert_no_secret(&e.to_string());
            }
            let report = check::run_with(&store, None, clock::now(), Patience::of(Duration::from_secs(20))).await;
            assert!(report.text().contains(remedy), "{}", report.text());
            assert_no_secret(&report.text());
        }
    }

    #[tokio::test]
    async fn what_needs_a_person_is_not_asked_for_again_within_a_call() {
        let disturbed = "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        for (answer, times) in [(EXPIRED, 1), (EXPIRED_GOOGLE, 1), (disturbed, 2)] {
            let (settings, asked) = answering_late(answer, Duration::ZERO).await;
            let vault = RemoteStore::open(&settings).expect("settings").attestable().expect("an S3 store").vault;
            let vault = Vault { lists_within: Duration::ZERO, ..vault };
            let e = vault.posture().await.map(|_| ()).expect_err("not told");
            assert_eq!((asked.load(Ordering::Acquire), e.needs_a_person()), (times, times == 1), "{e}");
        }
    }

    #[tokio::test]
    async fn a_head_that_is_refused_without_a_word_tells_the_region_that_its_header_names() {
        let mut settings = answering(HEAD_ELSEWHERE).await;
        let store = RemoteStore::open(&settings).expect("settings");
        let vault = store.attestable().expect("an S3 store").vault;
        for e in [
            store.size("cases/a").await.map(|_| ()).expect_err("not looked at"),
            vault.lock_of("cases/a", "1").await.map(|_| ()).expect_err("not looked at"),
        ] {
            assert!(e.needs_a_person() && e.says_nothing(), "{e}");
            assert!(e.message().contains("the bucket is in region eu-west-1") && e.remedy().contains("wrong region"), "{e}");
        }
        settings.region = "eu-west-1".to_owned();
        let e = RemoteStore::open(&settings).expect("settings").size("cases/a").await.expect_err("not looked at");
        assert!(!e.to_string().contains("region"), "it was asked for the right one: {e}");
    }

    #[test]
    fn credentials_that_expired_are_known_by_what_each_cloud_says() {
        let azure = |code: &str, detail: &str| {
            format!(
                "<Error><Code>{code}</Code><Message>no</Message><AuthenticationErrorDetail>{detail}</AuthenticationErrorDetail></Error>"
            )
        };
        let told =
            |status: u16, answer: &str| of_error(&format!("{BEFORE_STATUS}{status} X: {answer}"), "x").map(|e| e.remedy().to_owned());
        for expired in [
            azure("AuthenticationFailed", "Signature not valid in the specified time frame: Start [a] - Expiry [b] - Current [c]"),
            azure("AuthenticationFailed", "Signed expiry time [a] must be after signed start time [b]"),
            azure("InvalidAuthenticationInfo", "Lifetime validation failed. The token is expired."),
            r#"{"error":"invalid_client","error_description":"AADSTS7000222: The provided client secret keys are expired."}"#.to_owned(),
        ] {
            assert_eq!(told(403, &expired).as_deref(), Some(super::EXPIRED), "{expired}");
            assert!(is_expired(expired.as_bytes()), "{expired}");
        }
        let wrong =
            azure("AuthenticationFailed", "The MAC signature found in the HTTP request 'x' is not the same as any computed signature");
        assert!(told(403, &wrong).as_deref() == Some(UNKNOWN) && !is_expired(wrong.as_bytes()), "a wrong key is no expired one");
        for code in
            ["InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidClientTokenId", "InvalidSecurity", "UserSuspended", "AccountProblem"]
        {
            let answer = format!("<Error><Code>{code}</Code><Message>no</Message></Error>");
            assert_eq!(told(403, &answer).as_deref(), Some(UNKNOWN), "{code}");
        }
        let ended = "<Error><Code>InvalidTokenId</Code></Error>";
        assert_eq!(told(403, ended).as_deref(), Some(super::EXPIRED), "as MinIO says it of a session");
        assert_eq!(told(403, "<Error><Code>AccessDenied</Code></Error>"), None, "rights");
        assert_eq!(told(401, "").as_deref(), Some(UNKNOWN));
        assert_eq!(told(403, r#"{"error":{"errors":[{"reason":"forbidden"}]}}"#), None);
        assert_eq!(of_error(&format!("{BEFORE_ANSWER}{BEFORE_STATUS}401 X: "), "x"), None, "a status that the store wrote itself");
    }

    #[test]
    fn of_an_answer_code_and_message_are_shown_and_nothing_else() {
        let at =
            "Generic S3 error: Error performing PUT http://127.0.0.1:9/b/a in 2ms - Server returned non-2xx status code: 403 Forbidden";
        let signature = "<?xml version=\"1.0\"?><Error><Code>SignatureDoesNotMatch</Code><Message>It does not\nfit</Message>\
            <AWSAccessKeyId>AKIDSECRET</AWSAccessKeyId><StringToSign>STRINGTOSIGN</StringToSign></Error>";
        let azure = "\u{feff}<?xml version=\"1.0\"?><Error><Code>AuthenticationFailed</Code><Message>no</Message>\
            <AuthenticationErrorDetail>STRINGTOSIGN</AuthenticationErrorDetail></Error>";
        let role =
            "<ErrorResponse><Error><Code>AccessDenied</Code><Message>no</Message></Error><Token>SESSIONTOKENSECRET</Token></ErrorResponse>";
        let google = r#"{"error":{"code":401,"message":"Invalid Credentials","errors":[{"reason":"authError","location":"AKIDSECRET"}]}}"#;
        let token = r#"{"error":"invalid_grant","error_description":"Invalid JWT","assertion":"SESSIONTOKENSECRET"}"#;
        for (answer, words) in [
            (signature, ": SignatureDoesNotMatch: It does not\\nfit"),
            (azure, ": AuthenticationFailed: no"),
            (role, ": AccessDenied: no"),
            (google, ": authError: Invalid Credentials"),
            (token, ": invalid_grant: Invalid JWT"),
            ("<html>AKIDSECRET", ""),
            ("AKIDSECRET: <Error><Code>STRINGTOSIGN</Code>", ""),
            ("", ""),
        ] {
            assert_eq!(shown(&format!("{at}: {answer}")), format!("{at}{words}"));
            assert_no_secret(&shown(&format!("{BEFORE_ANSWER}{answer}")));
            assert_no_secret(&shown(&format!("{BEFORE_ANSWER}{answer}{BEFORE_STATUS}400 Bad Request: ")));
        }
        let large = format!("<Error><Code>{}</Code></Error>", "x".repeat(ANSWER_BYTES_MAX));
        assert_eq!(shown(&format!("{at}: {large}")), at);
        let long = format!("<Error><Code>{0}</Code><Message>{0}</Message></Error>", "x".repeat(5_000));
        assert!(shown(&format!("{at}: {long}")).len() < 1_000);
        assert_eq!(shown("connection reset"), "connection reset");
    }

    #[test]
    fn a_refusal_without_a_code_of_the_store_is_one_without_words() {
        let at = "Generic S3 error: Error performing PUT http://127.0.0.1:9/b/403%20a in 2ms";
        let marks = |kind: Kind, said: &str| {
            let marked = by_code_in(&format!("{at} - {BEFORE_STATUS}{said}"), StoreError::new(kind, "x", "y"));
            (marked.is_wordless(), marked.is_coded())
        };
        let page = "<html><body>Blocked</body></html>";
        for kind in [Kind::Denied, Kind::Conflict] {
            for bare in [
                "403 Forbidden: ",
                "400 Bad Request: ",
                "409 Conflict: ",
                "412 Precondition Failed: ",
                "501 Not Implemented: ",
                "302 Found: ",
                "404 Not Found: ",
                &format!("403 Forbidden: {page}"),
                "403 Forbidden: blocked",
                "403 Forbidden: <Fault><Code>Blocked</Code></Fault>",
                r#"403 Forbidden: {"error":"blocked"}"#,
                r#"403 Forbidden: {"error":{"code":"blocked"}}"#,
                r#"403 Forbidden: {"error":{"code":403,"message":"no","status":"PERMISSION_DENIED"}}"#,
            ] {
                assert_eq!(marks(kind, bare), (true, false), "{bare}");
            }
            for coded in [
                "403 Forbidden: <Error><Code>AccessDenied</Code></Error>",
                "400 Bad Request: <Error><Code>InvalidRequest</Code><Message>Object is WORM protected and cannot be overwritten</Message></Error>",
                "412 Precondition Failed: <Error><Code>PreconditionFailed</Code></Error>",
                // As Azure begins it.
                "409 Conflict: \u{feff}<?xml version=\"1.0\"?><Error><Code>BlobImmutableDueToPolicy</Code></Error>",
            ] {
                assert_eq!(marks(kind, coded), (false, true), "{coded}");
            }
            assert_eq!(marks(kind, "404 Not Found: <Error><Code>NoSuchBucket</Code></Error>"), (false, false), "nothing was refused");
            for other in [
                "400 Bad Request: <Error><Code>InvalidRequest</Code></Error>",
                "400 Bad Request: <Error><Code>RequestTimeout</Code></Error>",
                "409 Conflict: <Error><Code>OperationAborted</Code></Error>",
            ] {
                assert_eq!(marks(kind, other), (false, false), "{other}: neither a right nor a lock");
            }
        }
        // What is no refusal stays what it is.
        for kind in [Kind::Retry, Kind::NotFound, Kind::Full, Kind::Damaged] {
            for said in ["503 Service Unavailable: ", "404 Not Found: ", "403 Forbidden: <Error><Code>AccessDenied</Code></Error>"] {
                assert_eq!(marks(kind, said), (false, false), "{kind:?}: {said}");
            }
        }
        let away = by_code_in("connection reset", StoreError::new(Kind::Denied, "x", "y"));
        assert!(!away.is_wordless() && !away.is_coded(), "no answer");
    }

    #[test]
    fn a_region_is_named_only_when_it_is_one() {
        let told = |status: StatusCode, pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, http::HeaderValue::from_static(value));
            }
            misplaced(&Method::GET, status, &headers, Some("us-east-1")).map(|said| said.message)
        };
        let moved = StatusCode::MOVED_PERMANENTLY;
        assert_eq!(told(moved, &[("x-amz-bucket-region", "eu-west-1")]).as_deref(), Some("the bucket is in region eu-west-1"));
        for odd in ["", "AKIDSECRET", "a b", "a-very-long-name-that-is-none-of-any-region-there-is"] {
            assert_eq!(told(moved, &[("x-amz-bucket-region", odd)]).as_deref(), Some("the bucket is in another region"));
        }
        assert_eq!(told(moved, &[("location", "http://h/")]), None);
        assert_eq!(told(StatusCode::BAD_REQUEST, &[("x-amz-bucket-region", "eu-west-1")]), None);
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_store_answers_what_is_shown_is_bounded_and_one_line(answer in "\\PC{0,200}|[\u{0}-\u{20}<>&:{}\"a-z]{0,200}") {
            let text = shown(&format!("{BEFORE_STATUS}400 Bad Request: {answer}"));
            proptest::prop_assert!(text.chars().count() <= ERROR_CHARS_MAX + CODE_CHARS_MAX + MESSAGE_CHARS_MAX + 4);
            proptest::prop_assert!(!text.chars().any(char::is_control));
            let _ = of_error(&answer, "x");
        }
    }
}
