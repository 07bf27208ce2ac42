//! Listings without the names that cannot be ours.
//!
//! `object_store` refuses a whole page for one name in which a folder is empty or relative, or that holds a control character, and takes
//! one that ends in a slash for the name before it. So whoever may write into a store could keep all of it from being listed with one
//! object, or make a name appear that is not there. What comes here from a listing goes to `object_store` without such names.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt as _;
use http::header::CONTENT_LENGTH;
use http::{Method, StatusCode, Uri};
use object_store::ClientOptions;
use object_store::client::{HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService};

use super::super::foreign::Foreign;
use super::super::name_is_valid;
use super::refusal;
use super::xml::{self, Node};

/// Azure gives 5,000 names at once, of up to 12 KiB each when somebody makes them so that they are escaped; the others 1,000.
const PAGE_BYTES_MAX: usize = 96 << 20;
/// Of which each has some 35 elements.
const PAGE_NODES_MAX: usize = 400_000;

/// Makes clients that leave names out of listings that cannot be ours, and note them.
#[derive(Debug)]
pub(in crate::store) struct ListingConnector<C> {
    pub(in crate::store) inner: C,
    pub(in crate::store) foreign: Arc<Foreign>,
    /// The region that requests are signed for; S3 only.
    pub(in crate::store) region: Option<String>,
    /// Time between two parts of a listing.
    pub(in crate::store) goes_on_within: Duration,
}

impl<C: HttpConnector> HttpConnector for ListingConnector<C> {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = self.inner.connect(options)?;
        let (foreign, region) = (Arc::clone(&self.foreign), self.region.clone());
        Ok(HttpClient::new(Listing { inner, foreign, region, goes_on_within: self.goes_on_within }))
    }
}

#[derive(Debug)]
struct Listing {
    inner: HttpClient,
    foreign: Arc<Foreign>,
    region: Option<String>,
    goes_on_within: Duration,
}

#[async_trait]
impl HttpService for Listing {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let lists = request.method() == Method::GET && is_listing(request.uri());
        let method = request.method().clone();
        let response = self.inner.execute(request).await?;
        if let Some(said) = refusal::misplaced(&method, response.status(), response.headers(), self.region.as_deref()) {
            return Ok(told(response.status(), &said));
        }
        if !lists || !response.status().is_success() {
            return Ok(response);
        }
        let (mut parts, body) = response.into_parts();
        let page = whole(body, self.goes_on_within).await?;
        let page = match without_foreign(&page, &self.foreign) {
            None => page,
            Some(ours) => {
                parts.headers.remove(CONTENT_LENGTH);
                ours
            }
        };
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::from(page)))
    }
}

/// As `object_store` asks for listings: of S3 and Google, and of Azure.
fn is_listing(uri: &Uri) -> bool {
    uri.query().is_some_and(|query| query.split('&').any(|pair| matches!(pair, "list-type=2" | "comp=list")))
}

/// The answer in the place of one of the wrong region, of which `object_store` says only that it was a redirect, or its status. The status
/// here is that of a request that came to the wrong server.
fn told(status: StatusCode, said: &refusal::Said) -> HttpResponse {
    let what = if status.is_redirection() { "a redirect to nowhere" } else { "refused without a word" };
    let (code, message, status) = (&said.code, &said.message, status.as_u16());
    let body = format!("<Error><Code>{code}</Code><Message>{what} ({status}): {message}</Message></Error>");
    let mut response = HttpResponse::new(HttpResponseBody::from(body.into_bytes()));
    *response.status_mut() = StatusCode::MISDIRECTED_REQUEST;
    response
}

async fn whole(body: HttpResponseBody, goes_on_within: Duration) -> Result<Vec<u8>, HttpError> {
    let (mut page, mut stream) = (Vec::new(), body.bytes_stream());
    loop {
        let Ok(chunk) = tokio::time::timeout(goes_on_within, stream.try_next()).await else {
            let why = format!("the listing stopped, nothing more came within {} s", goes_on_within.as_secs_f64());
            return Err(HttpError::new(HttpErrorKind::Timeout, std::io::Error::other(why)));
        };
        let Some(chunk) = chunk? else { return Ok(page) };
        if page.len().saturating_add(chunk.len()) > PAGE_BYTES_MAX {
            return Err(HttpError::new(HttpErrorKind::Decode, std::io::Error::other("an endless listing")));
        }
        page.extend_from_slice(&chunk);
    }
}

/// The page without what cannot be ours; none when all of it can be, or it is no page, which `object_store` says in its own words.
fn without_foreign(page: &[u8], foreign: &Foreign) -> Option<Vec<u8>> {
    let mut root = xml::parse_up_to(page, PAGE_NODES_MAX).ok()?;
    let mut is_changed = keep_ours(&mut root.children, foreign);
    // Azure has them one level deeper.
    for blobs in root.children.iter_mut().filter(|node| node.name == "Blobs") {
        is_changed |= keep_ours(&mut blobs.children, foreign);
    }
    is_changed.then(|| {
        let mut text = String::with_capacity(page.len());
        write(&root, &mut text);
        text.into_bytes()
    })
}

/// True when something was taken out.
fn keep_ours(nodes: &mut Vec<Node>, foreign: &Foreign) -> bool {
    let before = nodes.len();
    nodes.retain(|node| {
        let (name, can_be_ours) = match node.name.as_str() {
            "Contents" => object(node.get("Key")),
            "Blob" => object(node.get("Name")),
            "CommonPrefixes" => folder(node.get("Prefix")),
            "BlobPrefix" => folder(node.get("Name")),
            _ => return true,
        };
        if !can_be_ours {
            foreign.note(name);
        }
        can_be_ours
    });
    nodes.len() < before
}

fn object(name: &str) -> (&str, bool) {
    (name, name_is_valid(name))
}

/// Folders are listed with a slash at their end.
fn folder(name: &str) -> (&str, bool) {
    (name, name.strip_suffix('/').is_some_and(name_is_valid))
}

/// Not deeper than what was read.
fn write(node: &Node, out: &mut String) {
    for part in ["<", &node.name, ">"] {
        out.push_str(part);
    }
    if node.children.is_empty() {
        for c in node.text.chars() {
            match c {
                '<' => out.push_str("&lt;"),
                '>' => out.push_str("&gt;"),
                '&' => out.push_str("&amp;"),
                c => out.push(c),
            }
        }
    }
    for child in &node.children {
        write(child, out);
    }
    for part in ["</", &node.name, ">"] {
        out.push_str(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Page = fn(&[String], &[String]) -> String;

    fn escaped(text: &str) -> String {
        let escape = |c: char| match c {
            '<' => "&lt;".to_owned(),
            '>' => "&gt;".to_owned(),
            '&' => "&amp;".to_owned(),
            c if c.is_control() => format!("&#{};", u32::from(c)),
            c => c.to_string(),
        };
        text.chars().map(escape).collect::<Vec<_>>().concat()
    }

    fn s3(names: &[String], folders: &[String]) -> String {
        let objects = names.iter().map(|name| {
            let name = escaped(name);
            format!("<Contents><Key>{name}</Key><LastModified>2026-01-01T00:00:00Z</LastModified><ETag>&quot;1&quot;</ETag><Size>7</Size></Contents>")
        });
        let folders = folders.iter().map(|name| format!("<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", escaped(name)));
        let inner = objects.chain(folders).collect::<Vec<_>>().concat();
        format!(
            "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"x\"><NextContinuationToken>a&amp;b</NextContinuationToken>{inner}</ListBucketResult>"
        )
    }

    fn azure(names: &[String], folders: &[String]) -> String {
        let objects = names
            .iter()
            .map(|name| format!("<Blob><Name>{}</Name><Properties><Content-Length>7</Content-Length></Properties></Blob>", escaped(name)));
        let folders = folders.iter().map(|name| format!("<BlobPrefix><Name>{}</Name></BlobPrefix>", escaped(name)));
        let inner = objects.chain(folders).collect::<Vec<_>>().concat();
        format!("<EnumerationResults><Blobs>{inner}</Blobs><NextMarker>m</NextMarker></EnumerationResults>")
    }

    fn names_of(page: &[u8]) -> Vec<String> {
        let root = xml::parse(page).expect("reads");
        let blobs = root.children.iter().filter(|n| n.name == "Blobs").flat_map(|n| &n.children);
        let keys = root.children.iter().chain(blobs);
        keys.map(|n| format!("{}{}{}", n.get("Key"), n.get("Name"), n.get("Prefix"))).filter(|name| !name.is_empty()).collect()
    }

    #[test]
    fn what_cannot_be_ours_is_left_out_and_noted_and_all_else_stays() {
        let ours = ["d/cases/a/log/checkpoint".to_owned(), "d/cases/a/x".to_owned()];
        let odd = [
            "d/cases//x",
            "d/cases/a/../b",
            "d/cases/a/log/checkpoint/",
            "d/cases/a/.x",
            "d/cases/a/\u{0}",
            "d/cases/a/X",
            "/d/x",
            "<&>",
            "",
        ];
        let odd = odd.map(str::to_owned);
        let (folders, odd_folders) =
            (["d/cases/a/".to_owned()], ["d/cases//".to_owned(), "d/cases/../".to_owned(), "d/cases/A/".to_owned(), "d/x".to_owned()]);
        for page in [s3 as Page, azure] {
            let foreign = Foreign::default();
            assert_eq!(without_foreign(page(&ours, &folders).as_bytes(), &foreign), None, "it goes on as it came");
            assert!(foreign.news().is_empty());
            let mixed = page(&[&ours[..1], &odd[..], &ours[1..]].concat(), &[&folders[..], &odd_folders[..]].concat());
            let left = without_foreign(mixed.as_bytes(), &foreign).expect("changed");
            assert_eq!(names_of(&left), [ours[0].clone(), ours[1].clone(), folders[0].clone()]);
            assert_eq!(foreign.news(), [&odd[..], &odd_folders[..]].concat());
            let (was, is) = (xml::parse(page(&ours, &folders).as_bytes()).expect("reads"), xml::parse(&left).expect("reads"));
            assert_eq!(was, is, "sizes, dates and where it goes on are as they were");
        }
        assert_eq!(without_foreign(b"<cut", &Foreign::default()), None);
    }

    #[tokio::test]
    async fn a_listing_that_begins_and_stops_is_not_waited_for_longer() {
        let cut = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n<Li";
        let at = crate::store::tests::answering(cut).await.endpoint.expect("an address");
        let within = Duration::from_millis(300);
        let inner = object_store::client::ReqwestConnector::default();
        let connector = ListingConnector { inner, foreign: Arc::default(), region: None, goes_on_within: within };
        let client = connector.connect(&ClientOptions::new().with_allow_http(true)).expect("a client");
        let request =
            http::Request::builder().uri(format!("{at}/evidence?list-type=2")).body(bytes::Bytes::new().into()).expect("a request");
        let asked = tokio::time::timeout(Duration::from_secs(20), client.execute(request)).await.expect("in time");
        let e = asked.map(|_| ()).expect_err("cut");
        assert_eq!(e.kind(), HttpErrorKind::Timeout, "it is tried again: {e}");
    }

    #[test]
    fn only_listings_are_looked_at() {
        let is = |uri: &str| is_listing(&uri.parse().expect("an address"));
        assert!(is("http://h/b?list-type=2&prefix=x") && is("http://h/b?restype=container&comp=list"));
        assert!(!is("http://h/b/list-type=2") && !is("http://h/b?versions=&prefix=list-type%3D2") && !is("http://h/b"));
    }

    proptest::proptest! {
        #[test]
        fn whatever_names_there_are_a_page_holds_ours_and_no_other(
            names in proptest::collection::vec("(cases|[a-zA-Z0-9./_-]{0,8}|\\PC{0,4}|[\u{1}-\u{20}])(/(cases|[a-z.]{0,3}|\\PC{0,3}))?", 0..30),
            cut in 0_usize..4_000,
        ) {
            for page in [s3 as Page, azure] {
                let (text, foreign) = (page(&names, &[]), Foreign::default());
                let left = without_foreign(text.as_bytes(), &foreign);
                let kept: Vec<String> = names.iter().filter(|name| name_is_valid(name)).cloned().collect();
                proptest::prop_assert_eq!(left.is_some(), kept.len() < names.len());
                proptest::prop_assert_eq!(names_of(&left.unwrap_or_else(|| text.clone().into_bytes())), kept);
                let cut = cut.min(text.len() - 1);
                proptest::prop_assert_eq!(without_foreign(&text.as_bytes()[..cut], &foreign), None, "what is cut goes on as it came");
            }
        }
    }
}
