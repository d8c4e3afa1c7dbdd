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
use http::header::{ACCEPT_RANGES, AGE, CONTENT_LENGTH, HeaderMap, HeaderName, LOCATION, VIA};
use http::{Method, StatusCode, Version};
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

/// Fields of a request that change nothing about a hit that is the same for everybody. All others may.
const INERT: [&str; 17] = [
    "host",
    "user-agent",
    "accept",
    "accept-encoding",
    "accept-language",
    "accept-charset",
    "cookie",
    "referer",
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

/// A GET of HTTP/1.1 for a URL, and nothing more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plain<'a> {
    target: &'a str,
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
        Some(Self { target, host: host?, referer, user_agent })
    }

    fn asked(&self) -> Asked<'a> {
        let Self { target, host, referer, user_agent } = *self;
        let target = Cow::Borrowed(target);
        Asked { method: "GET", target, version: Version::HTTP_11, host: Some(host), referer, user_agent }
    }

    /// What a trace calls it.
    fn step(&self) -> Step {
        let url = format!("http://{}{}", String::from_utf8_lossy(self.host), self.target);
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
    /// The answer to a plain request, if it is a hit that is the same for everybody.
    pub(crate) fn plain_hit<'a>(&'a self, caller: &Caller<'_>, request: Plain<'a>) -> Option<PlainHit<'a>> {
        let began = Instant::now();
        let understood = lately::understood(request.host, request.target.as_bytes(), &self.names.load())?;
        let now = SystemTime::now();
        let object = self.fetcher.plain_hit(&understood, now)?;
        // Of others the head depends on who asks.
        let is_plain = object.status == StatusCode::OK && !object.headers.contains_key(LOCATION);
        if !is_plain || control(&object.headers).is_some() {
            return None;
        }
        let body = object.body.whole()?;
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

    /// The fields of the response, in their order.
    fn fields(&self, mut field: impl FnMut(&HeaderName, &[u8])) {
        for (name, value) in &self.object.headers {
            if !matches!(*name, AGE | ACCEPT_RANGES) {
                field(name, value.as_bytes());
            }
        }
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
