//! What is told of a request once its response is sent or given up; and its id, by which it is found again at other nodes.
//!
//! An id is told on to the nodes that are asked for the object, and shown to the client, who can quote it. A request of a client never
//! brings one: it would choose what stands in the log. Another node's does; whoever poses as a node can choose 16 digits and no
//! more. An origin is not told it, unless the site says so (`pass`): an id that others see with it would tell it more of a visitor
//! than it knows from us otherwise. So the field has a name of our own, and `X-Request-Id` stays the origin's and its clients'.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt::{self, Debug};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue, REFERER, USER_AGENT};
use http::{StatusCode, Version, request};
use tokio::time::Instant;

use crate::error::ProxyError;
use crate::headers::REQUEST_ID;

/// Bytes of fields that are kept as they are until a response has been sent. Of more, what logs name is copied: in HTTP/2 a connection has a
/// hundred requests under way, and responses that nobody reads would keep all of each.
const MOST_FIELDS_BYTES: usize = 2048;
/// Bytes of a field that is copied.
const MOST_FIELD_BYTES: usize = 512;

/// Digits of an id.
const DIGITS: usize = 16;

/// What a request is called in the logs of all nodes that have to do with it: 64 bits, written as 16 hexadecimal digits.
///
/// It is no secret: whoever knows one can tell the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId(u64);

impl From<u64> for RequestId {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

impl From<RequestId> for u64 {
    fn from(id: RequestId) -> Self {
        id.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.digits()).unwrap_or_default())
    }
}

impl RequestId {
    /// A new one. Each thread counts from a place of its own, drawn by chance, and mixes (splitmix64), so that two of a thread are never
    /// the same, and two of a network hardly ever.
    pub(crate) fn new() -> Self {
        thread_local!(static NEXT: Cell<u64> = Cell::new(RandomState::new().build_hasher().finish()));
        let place = NEXT.with(|next| next.replace(next.get().wrapping_add(0x9e37_79b9_7f4a_7c15)));
        let mixed = (place ^ (place >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self(mixed ^ (mixed >> 31))
    }

    /// The one that `headers` have, if it is written as this node writes it.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        headers.get(REQUEST_ID).and_then(Self::parse)
    }

    /// What is written like one.
    pub(crate) fn parse(value: &HeaderValue) -> Option<Self> {
        let digits = value.as_bytes();
        let is_one = digits.len() == DIGITS && digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        let text = str::from_utf8(digits).ok().filter(|_| is_one)?;
        u64::from_str_radix(text, 16).ok().map(Self)
    }

    /// The value of the field.
    pub(crate) fn value(self) -> HeaderValue {
        let mut value = HeaderValue::from_bytes(&self.digits()).expect("digits are ASCII");
        // It is not to fill the tables of HTTP/2 (RFC 7541 §6.2.3), as it never comes again.
        value.set_sensitive(true);
        value
    }

    fn digits(self) -> [u8; DIGITS] {
        let mut digits = *b"0123456789abcdef";
        for (place, byte) in self.0.to_be_bytes().into_iter().enumerate() {
            for (place, half) in [(2 * place, byte >> 4), (2 * place + 1, byte & 15)] {
                digits[place] = b"0123456789abcdef"[usize::from(half)];
            }
        }
        digits
    }
}

/// What was asked for, as far as logs name it. Of a request with many fields 512 bytes of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked<'a> {
    /// The method.
    pub method: &'a str,
    /// The request target, in whichever of its forms (RFC 9112 §3.2); of HTTP/2 the whole URL.
    pub target: Cow<'a, str>,
    /// The version of HTTP.
    pub version: Version,
    /// `Host`, as it came.
    pub host: Option<&'a [u8]>,
    /// `Referer`, as it came.
    pub referer: Option<&'a [u8]>,
    /// `User-Agent`, as it came.
    pub user_agent: Option<&'a [u8]>,
}

impl<'a> From<&'a request::Parts> for Asked<'a> {
    fn from(head: &'a request::Parts) -> Self {
        let field = |name: HeaderName| head.headers.get(name).map(HeaderValue::as_bytes);
        let target = match (head.uri.authority(), head.uri.path_and_query()) {
            // Most have a path alone.
            (None, Some(target)) => target.as_str().into(),
            _ => head.uri.to_string().into(),
        };
        let (host, referer, user_agent) = (field(HOST), field(REFERER), field(USER_AGENT));
        Self { method: head.method.as_str(), target, version: head.version, host, referer, user_agent }
    }
}

/// A request and what became of it.
#[derive(Debug)]
pub struct Access<'a> {
    /// Its id.
    pub id: RequestId,
    /// Who asked.
    pub client: SocketAddr,
    /// What for.
    pub request: Asked<'a>,
    /// Whether another node asked.
    pub from_peer: bool,
    /// The status of the answer.
    pub status: StatusCode,
    /// What the cache did, in a word ([`crate::Status::requests`]).
    pub cache: &'static str,
    /// What was wrong.
    pub error: Option<&'a ProxyError>,
    /// From the head of the request to that of the response.
    pub head_took: Duration,
    /// From the head of the request to when the connection had taken the end of the response.
    pub took: Duration,
    /// Bytes of the body that were given to the connection, which takes a body that is whole in memory at once. What was still on its way
    /// when a client went is among them.
    pub bytes: u64,
    /// Whether that is all of the body.
    pub is_whole: bool,
}

/// Whoever keeps a log of requests: see [`Proxy::log_requests`](crate::Proxy::log_requests).
pub trait AccessLog: Debug + Send + Sync {
    /// Takes note of a request. It is called on the thread that answers it, and so is not to wait for anything.
    fn log(&self, access: &Access<'_>);
}

/// A request whose response is being sent: it is logged when this is dropped.
#[derive(Debug)]
pub(crate) struct Logged {
    // Boxed, as the body moves about that it is a part of.
    answered: Box<Answered>,
    log: Arc<dyn AccessLog>,
    began: Instant,
    /// Bytes of the body that were sent.
    bytes: u64,
    /// Bytes that the body has, if that is known.
    length: Option<u64>,
}

/// A request, and what the head of its response says of what became of it.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) id: RequestId,
    pub(crate) client: SocketAddr,
    /// What is [`kept`] of its head.
    pub(crate) request: request::Parts,
    pub(crate) from_peer: bool,
    pub(crate) status: StatusCode,
    pub(crate) cache: &'static str,
    pub(crate) error: Option<ProxyError>,
    pub(crate) head_took: Duration,
}

/// What of a request's head is kept for the log: all of it, or if that is much, the fields that logs name.
pub(crate) fn kept(mut head: request::Parts) -> request::Parts {
    let bytes: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if bytes > MOST_FIELDS_BYTES {
        let copied = |name: HeaderName| {
            let value = head.headers.get(&name)?.as_bytes();
            let value = HeaderValue::from_bytes(&value[..value.len().min(MOST_FIELD_BYTES)]).ok()?;
            Some((name, value))
        };
        head.headers = [HOST, REFERER, USER_AGENT].into_iter().filter_map(copied).collect();
    }
    head
}

impl Logged {
    /// Of `answered` all is known but how it ends. The body has `length` bytes.
    pub(crate) fn new(answered: Answered, log: Arc<dyn AccessLog>, began: Instant, length: Option<u64>) -> Self {
        Self { answered: Box::new(answered), log, began, bytes: 0, length }
    }

    /// So many bytes more were sent.
    pub(crate) fn sent(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// The body has come to its end.
    pub(crate) fn ended(&mut self) {
        self.length = Some(self.bytes);
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        let Answered { id, client, request, from_peer, status, cache, error, head_took } = &*self.answered;
        self.log.log(&Access {
            id: *id,
            client: *client,
            request: request.into(),
            from_peer: *from_peer,
            status: *status,
            cache,
            error: error.as_ref(),
            head_took: *head_took,
            took: self.began.elapsed(),
            bytes: self.bytes,
            is_whole: self.length == Some(self.bytes),
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::headers::of_lines;

    #[test]
    fn ids_differ_also_between_threads_and_are_read_as_they_are_written() {
        let some = || (0..1_000).map(|_| RequestId::new().to_string()).collect::<Vec<_>>();
        let other = std::thread::spawn(some).join().unwrap();
        let all: BTreeSet<String> = some().into_iter().chain(other).collect();
        assert_eq!(all.len(), 2_000);
        for text in all.iter().map(String::as_str).chain(["0000000000000001", "00000000000000a0"]) {
            let id = RequestId::of(&of_lines(&[&format!("coral-request-id: {text}")])).unwrap();
            assert_eq!((id.to_string().as_str(), id.value().to_str().unwrap()), (text, text));
        }
    }

    #[test]
    fn of_a_large_head_only_what_logs_name_is_kept() {
        let head = |cookie: usize| {
            let mut head = http::Request::new(()).into_parts().0;
            head.headers = of_lines(&[
                "host: www.example.org",
                &format!("user-agent: {}", "u".repeat(600)),
                &format!("cookie: {}", "c".repeat(cookie)),
            ]);
            kept(head).headers
        };
        assert_eq!(head(100).len(), 3);
        let of_large = head(4000);
        assert_eq!((of_large.len(), &of_large[HOST]), (2, &"www.example.org".parse::<HeaderValue>().unwrap()));
        assert_eq!(of_large[USER_AGENT].len(), 512);
    }

    #[test]
    fn nothing_but_an_id_is_taken_for_one() {
        for bad in [
            "",
            "1",
            "0123456789abcdef0",
            "0123456789ABCDEF",
            "+123456789abcdef",
            "0123456789abcde\u{e9}",
            "0123456789abcde\"",
        ] {
            let headers = HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_bytes(bad.as_bytes()).unwrap())]);
            assert_eq!(RequestId::of(&headers), None, "{bad}");
        }
        assert_eq!(RequestId::of(&HeaderMap::new()), None);
    }
}
