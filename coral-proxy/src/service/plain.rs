//! Hits that nothing but the URL decides, answered without a map of fields for request or response.
//!
//! Most requests of most clients are GETs whose fields say nothing of what the answer is to be, for an object in memory that is the same for everybody. What
//! [`Service::answer`] would say to them is said here with a third of the work; whatever is in any way out of the ordinary is `None` here, and goes there. A
//! test asks both the same questions.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{ACCEPT_RANGES, AGE, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, LOCATION, VIA};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use tokio::time::Instant;

use super::{Caller, Service};
use crate::access::{Access, Asked, RequestId};
use crate::cache::Object;
use crate::cache_status::CacheStatus;
use crate::headers::{CACHE_STATUS, REQUEST_ID, VIA_MEMBER};
use crate::home::control;
use crate::http1::response;
use crate::metrics::RequestLabels;
use crate::reply::UnderWay;
use crate::trace::{Open, Step};
use crate::url::lately;

/// Fields of a request that change nothing about a hit that is the same for everybody, besides those that are logged. All others may.
const INERT: [&str; 14] = [
    "accept",
    "accept-encoding",
    "accept-language",
    "accept-charset",
    "cookie",
    "dnt",
    "origin",
    "priority",
    "pragma",
    "upgrade-insecure-requests",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-real-ip",
    "x-requested-with",
];
/// What a browser says of itself and its page (Fetch Metadata, Client Hints).
const INERT_PREFIX: &str = "sec-";

/// A GET for a URL, and nothing more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plain<'a> {
    /// Path and query.
    target: &'a str,
    /// The URL as HTTP/2 has it, where the host is no field; `None` in HTTP/1.1.
    uri: Option<&'a Uri>,
    host: &'a [u8],
    referer: Option<&'a [u8]>,
    user_agent: Option<&'a [u8]>,
}

impl<'a> Plain<'a> {
    /// A request with this method and target, in origin form (RFC 9112 §3.2.1), and these fields; `None` if it is anything else.
    pub(crate) fn of(
        method: &str,
        target: &'a str,
        fields: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Option<Self> {
        if method != "GET" || !target.starts_with('/') {
            return None;
        }
        let (mut host, mut referer, mut user_agent) = (None, None, None);
        for (name, value) in fields {
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            let seen = if is("host") {
                &mut host
            } else if is("user-agent") {
                &mut user_agent
            } else if is("referer") {
                &mut referer
            } else if INERT.iter().any(|inert| is(inert)) || is_prefixed(name) {
                continue;
            } else {
                return None;
            };
            // Several are for others to judge.
            if seen.replace(value).is_some() {
                return None;
            }
        }
        Some(Self { target, uri: None, host: host?, referer, user_agent })
    }

    /// The same of HTTP/2 (RFC 9113 §8.3.1).
    pub(crate) fn of_http2<B>(request: &'a Request<B>) -> Option<Self> {
        let uri = request.uri();
        let host = ("host", uri.authority()?.as_str().as_bytes());
        let fields = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let plain =
            Self::of(request.method().as_str(), uri.path_and_query()?.as_str(), [host].into_iter().chain(fields))?;
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        (request.version() == Version::HTTP_2 && is_http).then_some(Self { uri: Some(uri), ..plain })
    }

    fn asked(&self) -> Asked<'a> {
        let Self { target, uri, host, referer, user_agent } = *self;
        let (target, version, host) = match uri {
            None => (Cow::Borrowed(target), Version::HTTP_11, Some(host)),
            Some(uri) => (Cow::Owned(uri.to_string()), Version::HTTP_2, None),
        };
        Asked { method: "GET", target, version, host, referer, user_agent }
    }

    /// What a trace calls it.
    fn step(&self) -> Step {
        let url = match self.uri {
            None => format!("http://{}{}", String::from_utf8_lossy(self.host), self.target),
            Some(uri) => uri.to_string(),
        };
        Step::Answer { method: Method::GET, url, from_peer: false, status: StatusCode::OK, cache: "hit", error: None }
    }
}

fn is_prefixed(name: &str) -> bool {
    name.get(..INERT_PREFIX.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(INERT_PREFIX))
}

/// The answer to a plain request, on its way: it is counted and logged when this is dropped.
#[derive(Debug)]
pub(crate) struct PlainHit<'a> {
    object: Arc<Object>,
    /// All of the body.
    pub(crate) body: Bytes,
    /// Bytes of it that were sent.
    pub(crate) sent: usize,
    service: &'a Service,
    request: Plain<'a>,
    client: SocketAddr,
    id: RequestId,
    age: u64,
    began: Instant,
    head_took: std::time::Duration,
    _traced: Open,
    _under_way: UnderWay,
}

impl Service {
    /// The answer to a plain request, if it is a hit that is the same for everybody, and has at most `most_bytes`.
    pub(crate) fn plain_hit<'a>(
        &'a self,
        caller: &Caller<'_>,
        request: Plain<'a>,
        most_bytes: usize,
    ) -> Option<PlainHit<'a>> {
        let began = Instant::now();
        let understood = lately::understood(request.host, request.target.as_bytes(), &self.names.load())?;
        let now = SystemTime::now();
        let object = self.fetcher.plain_hit(&understood, now)?;
        // Of others the head depends on who asks.
        let is_plain = object.status == StatusCode::OK && !object.headers.contains_key(LOCATION);
        if !is_plain || control(&object.headers).is_some() {
            return None;
        }
        let body = object.body.whole().filter(|body| body.len() <= most_bytes)?;
        // Last, as they count. Whoever is turned away is told so elsewhere, where this changes nothing.
        caller.line.admit(&understood.url, self.fetcher.config.bandwidth.patience).ok()?;
        caller.rate.take().ok()?;
        object.body.ask_for();
        let metrics = &self.fetcher.metrics;
        let under_way = UnderWay::new(metrics.in_flight.clone());
        let id = RequestId::new();
        let traced = self.traces.root(id, (&HeaderMap::new(), false), || request.step());
        let head_took = began.elapsed();
        metrics.seconds.observe(head_took.as_secs_f64());
        let labels = RequestLabels { from: "client", status: "2xx", cache: CacheStatus::Hit.word() };
        if let Some(weight) = self.popularity.weight(metrics.answered(&labels)) {
            self.popularity.count(understood.url.canonical(), weight);
        }
        Some(PlainHit {
            age: object.validity.age(now).as_secs(),
            object,
            body,
            sent: 0,
            service: self,
            request,
            client: caller.client,
            id,
            began,
            head_took,
            _traced: traced,
            _under_way: under_way,
        })
    }
}

impl PlainHit<'_> {
    /// Writes the head to `out`.
    pub(crate) fn write_head(&self, out: &mut Vec<u8>) {
        response::start(out, Version::HTTP_11, self.object.status);
        self.fields(|name, value| response::field(out, name.as_str(), value));
        out.extend_from_slice(b"\r\n");
    }

    /// The head as a value.
    pub(crate) fn response(&self) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = self.object.status;
        let headers = response.headers_mut();
        headers.reserve(self.object.headers.len() + 6);
        // What is from the object is shared with it.
        let stored = self.object.headers.iter().filter(|(name, _)| !is_replaced(name));
        for (name, value) in stored {
            headers.append(name, value.clone());
        }
        self.added(|name, value| {
            headers.append(name, HeaderValue::from_bytes(value).expect("what this node writes is printable ASCII"));
        });
        response
    }

    /// The fields of the response, in their order.
    fn fields(&self, mut field: impl FnMut(&HeaderName, &[u8])) {
        for (name, value) in &self.object.headers {
            if !is_replaced(name) {
                field(name, value.as_bytes());
            }
        }
        self.added(field);
    }

    /// Those that the stored ones do not have.
    fn added(&self, mut field: impl FnMut(&HeaderName, &[u8])) {
        if !self.object.headers.contains_key(CONTENT_LENGTH) {
            field(&CONTENT_LENGTH, itoa::Buffer::new().format(self.body.len()).as_bytes());
        }
        field(&VIA, VIA_MEMBER.as_bytes());
        field(&CACHE_STATUS, CacheStatus::Hit.field().as_bytes());
        field(&AGE, itoa::Buffer::new().format(self.age).as_bytes());
        field(&ACCEPT_RANGES, b"bytes");
        field(&REQUEST_ID, self.id.value().as_bytes());
    }
}

/// Whether [`PlainHit::added`] has another one.
fn is_replaced(name: &HeaderName) -> bool {
    matches!(*name, AGE | ACCEPT_RANGES)
}

impl Drop for PlainHit<'_> {
    fn drop(&mut self) {
        self.service.fetcher.metrics.sent_to_clients.inc_by(self.sent as u64);
        if let Some(log) = self.service.log.get() {
            log.log(&Access {
                id: self.id,
                client: self.client,
                request: self.request.asked(),
                from_peer: false,
                status: self.object.status,
                cache: CacheStatus::Hit.word(),
                error: None,
                head_took: self.head_took,
                took: self.began.elapsed(),
                bytes: self.sent as u64,
                is_whole: self.sent == self.body.len(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use http::request::Parts;
    use proptest::prelude::*;

    use super::*;
    use crate::access::AccessLog;
    use crate::headers::of_lines;
    use crate::http1::response::To;
    use crate::interim::Outbox;
    use crate::pace::Line;
    use crate::service::tests::{HOST, admitted, service, service_with};

    /// Lines of a request that a plain one may have, and such that it may not.
    const PLAIN: [&str; 6] = [
        "accept: */*",
        "user-agent: a b",
        "referer: http://y.com/",
        "cookie: a=b",
        "Sec-Fetch-Mode: x",
        "PRAGMA: no-cache",
    ];
    const OTHERS: [&str; 9] = [
        "range: bytes=1-2",
        "if-none-match: \"a\"",
        "if-modified-since: Thu, 01 Jan 2026 00:00:00 GMT",
        "cdn-loop: coral",
        "via: 1.1 coral (CoralWebPrx)",
        "cache-control: only-if-cached",
        "authorization: x",
        "coral-request-id: 0000000000000001",
        "x: y",
    ];

    /// Without one an object would be given one, at another time.
    fn date() -> String {
        format!("date: {}", httpdate::fmt_http_date(SystemTime::now()))
    }

    /// What a log was told, without times and ids.
    #[derive(Debug, Default)]
    struct Told(Mutex<Vec<String>>);

    impl AccessLog for Told {
        fn log(&self, access: &Access<'_>) {
            let Access { client, request, from_peer, status, cache, error, bytes, is_whole, .. } = access;
            let line = format!("{client} {request:?} {from_peer} {status} {cache} {error:?} {bytes} {is_whole}");
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    }

    /// Asks `service` for `/` with these lines, on the way of all requests and as a plain one: both responses, without their ids, and what the log was told.
    async fn both(service: &Service, lines: &[&str]) -> [Option<(String, String)>; 2] {
        let told = Arc::new(Told::default());
        let _ = service.log.set(told.clone());
        let admitted = admitted().await;
        let line = Line::default();
        let client = "192.0.2.1:1".parse().unwrap();
        let caller = || Caller { client, rate: admitted.rate(), line: &line, is_secure: false };
        let headers = of_lines(&[lines, &[&format!("host: {HOST}")]].concat());
        let head = || -> Parts {
            let mut head = Request::new(()).into_parts().0;
            head.headers = headers.clone();
            head
        };
        let shown = |head: Vec<u8>, body: &[u8]| {
            let head = String::from_utf8(head).unwrap();
            let mut lines: Vec<&str> = head.lines().filter(|line| !line.starts_with("coral-request-id: ")).collect();
            // A field that replaces another one stands in its place.
            lines[1..].sort_unstable();
            format!("{}\n{}", lines.join("\n"), str::from_utf8(body).unwrap())
        };
        let last = || told.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let usual = {
            let ticket = Outbox::default().ticket(Version::HTTP_11);
            let (head, body) = service.answer(caller(), head(), false, ticket).await.into_parts();
            let body = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
            let mut out = Vec::new();
            let to = To { version: Version::HTTP_11, is_head: false, keep_alive: true };
            response::head(&mut out, to, head.status, &head.headers, Some(body.len() as u64));
            shown(out, &body)
        };
        let usual = (usual, last().unwrap_or_default());
        let fields = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let hit = Plain::of("GET", "/", fields).and_then(|plain| service.plain_hit(&caller(), plain, usize::MAX));
        let plain = hit.map(|mut hit| {
            let mut out = Vec::new();
            hit.write_head(&mut out);
            hit.sent = hit.body.len();
            shown(out, &hit.body)
        });
        [Some(usual), plain.map(|plain| (plain, last().unwrap_or_default()))]
    }

    #[tokio::test(start_paused = true)]
    async fn a_plain_hit_is_answered_and_logged_as_it_would_be_on_the_usual_way() {
        let objects: [&[&str]; 4] = [
            &["content-length: 5", "etag: \"a\""],
            &["age: 7", "accept-ranges: none", "x: 1", "x: 2"],
            &["via: 1.1 a", "cache-status: other; hit", "link: <a>"],
            &["content-type: text/html", "vary: "],
        ];
        for lines in objects {
            let service = service(&[lines, &[&date()]].concat());
            let [usual, first] = both(&service, &PLAIN).await;
            assert!(usual.as_ref().is_some_and(|(text, _)| text.starts_with("HTTP/1.1 200")));
            assert!(first == usual, "{lines:?}: {first:#?} instead of {usual:#?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_out_of_the_ordinary_goes_the_usual_way() {
        let date = &*date();
        let ordinary = service(&[date]);
        assert!(both(&ordinary, &[]).await[1].is_some());
        for line in OTHERS {
            assert!(both(&ordinary, &[line]).await[1].is_none(), "{line}");
        }
        for line in PLAIN {
            assert!(both(&ordinary, &[line]).await[1].is_some(), "{line}");
        }
        let others = [
            service(&[date, "location: /a"]),
            service(&[date, "x-coral-control: redirect-home"]),
            service_with(StatusCode::NOT_FOUND, &[], &[date]),
            service_with(StatusCode::OK, &[HeaderName::from_static("accept")], &[date, "vary: accept"]),
        ];
        for service in others {
            assert!(both(&service, &[]).await[1].is_none());
        }
        // What was good for a minute.
        let stale = service(&[date]);
        let now = SystemTime::now() + std::time::Duration::from_secs(3600);
        let understood = lately::understood(HOST.as_bytes(), b"/", &stale.names.load());
        assert!(understood.is_none(), "nobody has asked yet");
        both(&stale, &[]).await;
        let understood = lately::understood(HOST.as_bytes(), b"/", &stale.names.load()).unwrap();
        assert!(stale.fetcher.plain_hit(&understood, SystemTime::now()).is_some());
        assert!(stale.fetcher.plain_hit(&understood, now).is_none());
    }

    #[test]
    fn only_one_get_for_a_path_is_plain() {
        let host = ("host", b"x".as_slice());
        assert!(Plain::of("GET", "/a?b", [host]).is_some());
        for (method, target) in [("HEAD", "/"), ("get", "/"), ("GET", "*"), ("GET", "http://x/"), ("GET", "")] {
            assert!(Plain::of(method, target, [host]).is_none(), "{method} {target}");
        }
        assert!(Plain::of("GET", "/", []).is_none() && Plain::of("GET", "/", [host, host]).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever fields a request has: where there is a plain answer, it is the usual one.
        #[test]
        fn a_plain_answer_is_never_another_one(
            lines in prop::collection::vec(prop::sample::select([&PLAIN[..], &OTHERS[..]].concat()), 0..4),
            object in prop::collection::vec(
                prop::sample::select(vec!["etag: \"a\"", "content-length: 5", "age: 3", "x-coral-control: no-serve"] ),
                0..3,
            ),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let service = service(&[object.as_slice(), &[&date()]].concat());
                let [usual, plain] = both(&service, &lines).await;
                prop_assert!(plain.is_none() || plain == usual, "{plain:#?} instead of {usual:#?}");
                Ok(())
            })?;
        }
    }
}
