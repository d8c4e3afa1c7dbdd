//! From an object to a response: the part asked for, 304 where that is enough, and the fields that a cache adds.

use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::Stream;
use http::header::{
    ACCEPT_RANGES, AGE, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG,
    EXPIRES, HeaderMap, HeaderValue, LAST_MODIFIED, LOCATION, RANGE, RETRY_AFTER, VARY, VIA, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderName, Method, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use url::Url;

use crate::access::{Logged, RequestId};
use crate::cache::Object;
use crate::cache::body::{BodyError, Reader};
use crate::cache_status::CacheStatus;
use crate::conditional::{Part, not_modified, part, sought_range};
use crate::digest::{CONTENT_DIGEST, REPR_DIGEST};
use crate::error::ProxyError;
use crate::fetch::{Read, Served};
use crate::front::PageBody;
use crate::headers::{CACHE_STATUS, ORIGIN_AGE, PROXY_STATUS, PURGE, add_via};
use crate::trace::Open;
use crate::url::{CoralUrl, Suffix, UrlError, coralize, coralize_secure};

/// What a 304 says of the response it stands for (RFC 9110 §15.4.5), and what the cache adds.
const IN_304: [HeaderName; 8] = [CACHE_CONTROL, DATE, ETAG, EXPIRES, LAST_MODIFIED, VARY, VIA, AGE];

type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>;

/// The body of a response. An error in it makes the connection, or the stream of HTTP/2, break off, so that a client sees that it is cut.
pub(crate) struct ReplyBody {
    content: Content,
    /// The error that comes next.
    broken: Option<BodyError>,
    sent: Option<Counter>,
    /// Logs the request when the body is dropped.
    logged: Option<Logged>,
    /// Records the request in its trace, likewise.
    traced: Open,
    /// Counts the request as under way until its body is dropped.
    under_way: Option<UnderWay>,
}

enum Content {
    Whole(Bytes),
    Stream(Chunks, Option<u64>),
    /// A page of the node's own.
    Page(PageBody),
}

/// A request in the gauge of those under way.
#[derive(Debug)]
pub(crate) struct UnderWay(Gauge);

impl UnderWay {
    pub(crate) fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl ReplyBody {
    fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::of(Content::Whole(bytes.into()))
    }

    /// That of a page of the node's own.
    pub(crate) fn page(body: PageBody) -> Self {
        Self::of(Content::Page(body))
    }

    fn of(content: Content) -> Self {
        Self { content, broken: None, sent: None, logged: None, traced: Open::default(), under_way: None }
    }

    /// Counts what is sent, and that the request is under way until it is.
    pub(crate) fn counted(mut self, sent: Counter, under_way: UnderWay) -> Self {
        self.sent = Some(sent);
        self.under_way = Some(under_way);
        self
    }

    /// Logs the request when it is sent.
    pub(crate) fn logged(mut self, logged: Option<Logged>) -> Self {
        self.logged = logged;
        self
    }

    /// Ends this step of its trace when it is sent.
    pub(crate) fn traced(mut self, step: Open) -> Self {
        self.traced = step;
        self
    }

    fn count(&mut self, bytes: u64) {
        if let Some(sent) = &self.sent {
            sent.inc_by(bytes);
        }
        if let Some(logged) = &mut self.logged {
            logged.sent(bytes);
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let chunk = match &mut self.content {
            Content::Whole(bytes) if bytes.is_empty() => None,
            Content::Whole(bytes) => Some(Ok(std::mem::take(bytes))),
            Content::Stream(chunks, _) => ready!(chunks.as_mut().poll_next(cx)),
            Content::Page(page) => match ready!(Pin::new(page).poll_frame(cx)) {
                // It has no trailers.
                Some(Ok(frame)) => frame.into_data().ok().map(Ok),
                None => None,
            },
        };
        if let Some(Err(error)) = chunk {
            // At an error hyper drops what it has not written yet, the head among it, and the client would be left with
            // nothing at all. While the body makes it wait, it writes.
            self.broken = Some(error);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match (&chunk, &mut self.logged) {
            (Some(Ok(bytes)), _) => self.count(bytes.len() as u64),
            (None, Some(logged)) => logged.ended(),
            _ => {}
        }
        Poll::Ready(chunk.map(|chunk| chunk.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.is_empty(),
            Content::Stream(..) => false,
            Content::Page(page) => page.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Stream(_, Some(length)) => SizeHint::with_exact(*length),
            Content::Stream(_, None) => SizeHint::default(),
            Content::Page(page) => page.size_hint(),
        }
    }
}

/// The reader's chunks as a stream.
fn chunks(reader: Reader) -> Chunks {
    Box::pin(futures_util::stream::unfold(reader, |mut reader| async move {
        reader.next().await.map(|chunk| (chunk, reader))
    }))
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    /// Another node. `Location` stays as the origin gave it: that node coralizes with its own client's suffix.
    Node {
        /// When its request came.
        came: SystemTime,
    },
    /// A client. `Location` is coralized with his suffix.
    Client {
        /// Whether the client speaks TLS to this node, and so can do it again.
        secure: bool,
    },
}

/// The response with which `served` answers a request with `method` and the fields `request`.
///
pub(crate) fn of_object(
    method: &Method,
    request: &HeaderMap,
    url: &CoralUrl,
    served: Served,
    asker: Asker,
    now: SystemTime,
) -> Response<ReplyBody> {
    let Served { object, reader, status, slices } = served;
    let mut headers = object.headers.clone();
    add_via(&mut headers);
    headers.append(CACHE_STATUS, status.field());
    if !matches!(status, CacheStatus::Passed(_)) {
        headers.insert(AGE, object.validity.age(now).as_secs().into());
    }
    match (&url.suffix, asker) {
        (Some(suffix), Asker::Client { secure }) => coralize_location(&mut headers, url, suffix, secure),
        (None, Asker::Client { .. }) => {}
        (_, Asker::Node { came }) => {
            // When its request came and not now: that node knows when it has asked, and not how long the answer was waited for. Rounded
            // up, as what was purged is not to look newer than it is.
            let millis = came.duration_since(object.validity.sent()).unwrap_or_default().as_millis() + 1;
            headers.insert(ORIGIN_AGE, u64::try_from(millis).unwrap_or(u64::MAX).into());
        }
    }
    let asked_for = matches!(method, &Method::GET | &Method::HEAD);
    // RFC 9110 §13.2.2: whether it has changed is asked before which part of it is wanted.
    let is_200 = object.status == StatusCode::OK || object.part.is_some();
    if asked_for && is_200 && not_modified(request, &object.headers) {
        return not_modified_reply(&headers);
    }
    if object.status == StatusCode::OK
        && method == Method::GET
        && !object.body.is_window()
        && let Some(length) = object.body.length()
    {
        match part(request, &object.headers, length) {
            Part::Whole => {}
            Part::Unsatisfiable => return unsatisfiable(headers, length),
            Part::Bytes(range) => {
                // RFC 9110 §15.3.7: the range, out of the length of the whole.
                let text = format!("bytes {}-{}/{length}", range.start, range.end - 1);
                let size = range.end - range.start;
                return match cut(&object, &range) {
                    Some(content) => partial(headers, &text, size, content),
                    None => respond(StatusCode::OK, headers, full(&object, reader)),
                };
            }
        }
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    if let (Some(part), Some(length), Some(wants)) = (&object.part, object.body.length(), sought_range(request)) {
        let wanted = wants.of(part.total);
        if part.is_slice && wanted.is_empty() {
            return unsatisfiable(headers, part.total);
        }
        let size = wanted.end.saturating_sub(wanted.start);
        let content = match (slices, part.cut(wants, length)) {
            (Some(slices), _) => Some(Content::Stream(Box::pin(slices.read(wanted.clone())), Some(size))),
            (None, Some(range)) if request.get(RANGE) != Some(&part.asked) => cut(&object, &range),
            (None, _) => None,
        };
        if let Some(content) = content {
            let text = format!("bytes {}-{}/{}", wanted.start, wanted.end - 1, part.total);
            return partial(headers, &text, size, content);
        }
    }
    if method == Method::HEAD {
        if let Some(length) = object.body.length().filter(|_| !matches!(status, CacheStatus::Passed(_))) {
            headers.insert(CONTENT_LENGTH, length.into());
        }
        return respond(object.status, headers, ReplyBody::whole(Bytes::new()));
    }
    let body = full(&object, reader);
    respond(object.status, headers, body)
}

/// These bytes of a body; `None` if they are no longer here.
fn cut(object: &Object, range: &Range<u64>) -> Option<Content> {
    match object.body.whole() {
        Some(whole) => Some(Content::Whole(whole.slice(range.start as usize..range.end as usize))),
        None => {
            let reader = object.body.reader(range.start, Some(range.end))?;
            Some(Content::Stream(chunks(reader), Some(range.end - range.start)))
        }
    }
}

fn partial(mut headers: HeaderMap, range: &str, size: u64, content: Content) -> Response<ReplyBody> {
    // RFC 9530 §2: the digest is of the content of another message.
    for name in [CONTENT_RANGE, CONTENT_DIGEST] {
        headers.remove(name);
    }
    append(&mut headers, CONTENT_RANGE, range);
    headers.insert(CONTENT_LENGTH, size.into());
    respond(StatusCode::PARTIAL_CONTENT, headers, ReplyBody::of(content))
}

fn full(object: &Object, reader: Option<Reader>) -> ReplyBody {
    let content = match (reader, object.body.whole()) {
        (Some(reader), _) => Content::Stream(chunks(reader), object.body.length()),
        (None, Some(whole)) => Content::Whole(whole),
        (None, None) => Content::Whole(Bytes::new()),
    };
    ReplyBody::of(content)
}

fn respond(status: StatusCode, headers: HeaderMap, body: ReplyBody) -> Response<ReplyBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn not_modified_reply(headers: &HeaderMap) -> Response<ReplyBody> {
    let mut kept = HeaderMap::new();
    for name in IN_304.iter().chain(&[CACHE_STATUS, ORIGIN_AGE, http::header::CONTENT_LOCATION]) {
        for value in headers.get_all(name) {
            kept.append(name, value.clone());
        }
    }
    respond(StatusCode::NOT_MODIFIED, kept, ReplyBody::whole(Bytes::new()))
}

fn unsatisfiable(mut headers: HeaderMap, length: u64) -> Response<ReplyBody> {
    for name in [
        CONTENT_LENGTH,
        CONTENT_RANGE,
        CONTENT_TYPE,
        ETAG,
        LAST_MODIFIED,
        http::header::CONTENT_ENCODING,
        CONTENT_DIGEST,
        REPR_DIGEST,
    ] {
        headers.remove(name);
    }
    append(&mut headers, CONTENT_RANGE, &format!("bytes */{length}"));
    respond(StatusCode::RANGE_NOT_SATISFIABLE, headers, ReplyBody::whole(Bytes::new()))
}

/// The file by which the owner of a site purges, as its origin has it, and what became of it.
pub(crate) fn of_owners_file(method: &Method, read: Read) -> Response<ReplyBody> {
    let (status, said, text) = match read {
        Read::Obeyed { text, lines, new } => (StatusCode::OK, format!("applied={new}, lines={lines}"), text),
        Read::Refused { status, why } => (status, "refused".to_owned(), (why + "\n").into()),
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_LENGTH, text.len().into());
    // Whatever the file holds is not to be taken for a page of the origin.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    append(&mut headers, PURGE, &said);
    respond(status, headers, ReplyBody::whole(if method == Method::HEAD { Bytes::new() } else { text }))
}

/// Sends the client to the coralized form of where the origin sends it (design §4.1).
fn coralize_location(headers: &mut HeaderMap, url: &CoralUrl, suffix: &Suffix, secure: bool) {
    let Some(location) = headers.get(LOCATION).and_then(|value| value.to_str().ok()) else {
        return;
    };
    // A relative one stays coralized by nature; a scheme that is not ours is not for us to change.
    let absolute = if location.starts_with("//") {
        format!("{}:{location}", url.origin.scheme.as_str())
    } else {
        location.to_owned()
    };
    // An address as origin is refused by most nodes: better to send the client there than nowhere.
    let names_host = Url::parse(&absolute).is_ok_and(|url| url.domain().is_some());
    let coralize = if secure { coralize_secure } else { coralize };
    if names_host
        && let Ok(value) = coralize(&absolute, suffix)
        && let Ok(value) = HeaderValue::from_str(&value)
    {
        headers.insert(LOCATION, value);
    }
}

fn append(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    headers.append(name, HeaderValue::from_str(text).expect("what this node writes is printable ASCII"));
}

/// The response for an error: a line that a person can read, whose fault it was, and the request to ask about.
pub(crate) fn of_error(error: &ProxyError, method: &Method, id: RequestId) -> Response<ReplyBody> {
    let verdict = error.verdict();
    let mut headers = HeaderMap::new();
    add_via(&mut headers);
    headers.append(CACHE_STATUS, CacheStatus::of_error(error).field());
    if let Some(text) = error.proxy_status() {
        append(&mut headers, PROXY_STATUS, &text);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(seconds) = error.retry_after() {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    if verdict.status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
    }
    // What follows such a head on the connection may be the body that was refused, not a request (RFC 9112 §11.2).
    if matches!(error, ProxyError::RequestBody | ProxyError::Host | ProxyError::Method { .. }) {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let hint = match error {
        ProxyError::Url(UrlError::UnknownHost) => "\nAppend a suffix that this node serves to the host of a URL.",
        _ => "",
    };
    let text = format!("{} {error}.{hint}\nRequest {id}\n", verdict.status.as_u16());
    let body = if method == Method::HEAD { String::new() } else { text };
    respond(verdict.status, headers, ReplyBody::whole(body))
}

/// The response that sends a client to the origin.
pub(crate) fn of_home(location: &str) -> Response<ReplyBody> {
    let mut headers = HeaderMap::new();
    add_via(&mut headers);
    append(&mut headers, LOCATION, location);
    // What is so now need not be so in a moment.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    respond(StatusCode::FOUND, headers, ReplyBody::whole(Bytes::new()))
}

/// The response to `OPTIONS *` and to OPTIONS that shall not go further: what this node itself can do.
pub(crate) fn of_options() -> Response<ReplyBody> {
    let mut headers = HeaderMap::new();
    add_via(&mut headers);
    headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
    respond(StatusCode::NO_CONTENT, headers, ReplyBody::whole(Bytes::new()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::url::Names;

    #[test]
    fn a_location_is_coralized_where_it_leads_to_a_web_server() {
        let suffix: Suffix = "nyud.net".parse().unwrap();
        let names = Names { suffixes: vec![suffix.clone()], ..Names::default() };
        let url = CoralUrl::parse("www.x.com.nyud.net", "/", &names).unwrap();
        let coralized = |text: &str, secure| {
            let mut headers = HeaderMap::from_iter([(LOCATION, text.parse().unwrap())]);
            coralize_location(&mut headers, &url, &suffix, secure);
            headers[LOCATION].to_str().unwrap().to_owned()
        };
        let location = |text: &str| coralized(text, false);
        assert_eq!(location("http://www.x.com/a"), "http://www.x.com.nyud.net/a");
        assert_eq!(location("https://other.org/a"), "http://other.org.443.nyud.net/a");
        assert_eq!(location("//other.org/a"), "http://other.org.nyud.net/a");
        assert_eq!(location("http://www.x.com.nyud.net/a"), "http://www.x.com.nyud.net/a");
        let secure = |text: &str| coralized(text, true);
        assert_eq!(secure("https://a-b.other.org/a?b"), "https://a--b-other-org.s.nyud.net/a?b");
        assert_eq!(secure("https://other.org:8443/"), "https://other-org-8443.s.nyud.net/");
        assert_eq!(secure("http://other.org/a"), "http://other.org.nyud.net/a");
        let long = format!("https://{}.org/", "a".repeat(62));
        assert_eq!(secure(&long), long, "no label has so many letters");
        for unchanged in
            ["/a", "a?b", "mailto:a@b.c", "ftp://x.com/", "http://[::1]/", "http://192.0.2.1/", "http://localhost/"]
        {
            assert_eq!(location(unchanged), unchanged);
        }
    }

    #[test]
    fn an_error_can_be_read_and_says_whose_fault_it_was() {
        let reply = of_error(&ProxyError::OriginTls("bad \"certificate\"\n".into()), &Method::GET, 1.into());
        assert_eq!(reply.status(), 502);
        assert_eq!(
            reply.headers()[PROXY_STATUS],
            "coral; error=tls_protocol_error; details=\"no secure connection to the origin: bad certificate\""
        );
        assert!(!of_error(&ProxyError::Host, &Method::GET, 1.into()).headers().contains_key(PROXY_STATUS));
    }
}
