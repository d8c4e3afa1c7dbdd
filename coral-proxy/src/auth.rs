//! How nodes of a closed network know each other over HTTP: a keyed hash (HMAC-SHA-256, RFC 2104) of each request, and one of the head
//! of its answer, in `Coral-Auth` [design §4.4]. The index has its own for datagrams (`coral_dsht::seal`).
//!
//! That of a request is over the time, a nonce, the address that is asked, method, target and all fields (`Host` and `Range`, and in
//! `Coral-Waiting` who asks, among them). That of the answer is over the request's, status and all fields: so it answers that very request,
//! and no box in between can make an error, a stale copy or another version of it. Left out are the fields of one hop (RFC 9110 §7.6.1), which
//! are believed of no answer.
//!
//! What this leaves open. A body is not covered: its length is, if the head tells it. A request can be sent again within a minute by who saw
//! it, and gets what a client would get, and the wait that it asks for. All can be read on its way. The key tells that somebody belongs to the
//! network, not who it is.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coral_dsht::NetworkKey;
use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::header::{
    CONNECTION, CONTENT_LENGTH, DATE, HeaderMap, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Response, StatusCode, request};
use http_body::Body;
use sha2::Sha256;
use url::{Position, Url};

use crate::error::ProxyError;

/// `1767268800 0123…ef 0123…ef`: the time in seconds since 1970, the nonce, the hash. In an answer: the hash alone.
pub(crate) const AUTH: HeaderName = HeaderName::from_static("coral-auth");
/// By how much the clocks of two nodes may differ, and how long a request is one of now.
const MOST_OFF: Duration = Duration::from_secs(60);
/// What the network's key is made into.
const PURPOSE: &str = "coral http";
/// The first part of what is hashed, so that no request is an answer.
const REQUEST: &[u8] = b"request";
const ANSWER: &[u8] = b"answer";
/// Bytes of a hash that are sent, as of a datagram's.
const MAC_BYTES: usize = 16;
const NONCE_BYTES: usize = 16;

/// The network's key, as this node shows it and wants to see it. Clones count their nonces together.
#[derive(Clone)]
pub(crate) struct Auth {
    /// Keyed already: a copy of it hashes one head.
    mac: Box<Hmac<Sha256>>,
    /// This node's address, by which others ask it.
    me: SocketAddr,
    /// Chosen by chance at the start, and how many nonces began with it: no two of a network are the same.
    nonces: Arc<(u64, AtomicU64)>,
}

/// What a request has shown, for its answer to be made with, or held against.
#[derive(Debug)]
pub(crate) struct Shown {
    auth: Auth,
    /// The field of the request.
    value: HeaderValue,
}

impl Auth {
    /// Fails if the system has no random numbers.
    pub(crate) fn new(key: &NetworkKey, me: SocketAddr) -> Result<Self, ProxyError> {
        let mut start = [0; 8];
        getrandom::fill(&mut start).map_err(|error| ProxyError::Setup(format!("no random numbers: {error}").into()))?;
        let mac = Hmac::new_from_slice(&key.derive(PURPOSE)).expect("HMAC takes a key of any length");
        Ok(Self { mac: Box::new(mac), me, nonces: Arc::new((u64::from_be_bytes(start), AtomicU64::new(0))) })
    }

    /// Makes of `headers`, all that `peer` is to be asked with, those of a node of this network.
    pub(crate) fn show(
        &self,
        peer: SocketAddr,
        method: &Method,
        url: &Url,
        headers: &mut HeaderMap,
        now: SystemTime,
    ) -> Shown {
        let (start, count) = &*self.nonces;
        let nonce = [*start, count.fetch_add(1, Ordering::Relaxed)].map(u64::to_be_bytes).concat();
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let claim = format!("{seconds} {}", HEXLOWER.encode(&nonce));
        let target = &url[Position::BeforePath..Position::AfterQuery];
        let mac = self.of_request(&claim, peer, method, target, headers).finalize().into_bytes();
        let value = HeaderValue::from_str(&format!("{claim} {}", HEXLOWER.encode(&mac[..MAC_BYTES])))
            .expect("digits are ASCII");
        headers.insert(AUTH, value.clone());
        Shown { auth: self.clone(), value }
    }

    /// What a request to this node has shown; `None` if it is none of a node of this network, or not of now.
    pub(crate) fn check(&self, head: &request::Parts, now: SystemTime) -> Option<Shown> {
        let mut values = head.headers.get_all(AUTH).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return None;
        };
        let (claim, mac) = value.to_str().ok()?.rsplit_once(' ')?;
        let (seconds, nonce) = claim.split_once(' ')?;
        unhex::<NONCE_BYTES>(nonce)?;
        // An absolute target would take the place of `Host`.
        let target = head.uri.path_and_query().filter(|_| head.uri.authority().is_none())?;
        let hash = self.of_request(claim, self.me, &head.method, target.as_str(), &head.headers);
        hash.verify_truncated_left(&unhex::<MAC_BYTES>(mac)?).ok()?;
        let then = UNIX_EPOCH.checked_add(Duration::from_secs(seconds.parse().ok()?))?;
        let off = now.duration_since(then).unwrap_or_else(|error| error.duration());
        if off > MOST_OFF {
            tracing::debug!(?off, "a node's clock is wrong, or this one's, or a request was sent again");
            return None;
        }
        Some(Shown { auth: self.clone(), value: value.clone() })
    }

    fn of_request(
        &self,
        claim: &str,
        asked: SocketAddr,
        method: &Method,
        target: &str,
        headers: &HeaderMap,
    ) -> Hmac<Sha256> {
        let mut mac = Hmac::clone(&self.mac);
        add(&mut mac, REQUEST);
        add(&mut mac, claim.as_bytes());
        match asked.ip().to_canonical() {
            IpAddr::V4(ip) => add(&mut mac, &ip.octets()),
            IpAddr::V6(ip) => add(&mut mac, &ip.octets()),
        }
        add(&mut mac, &asked.port().to_be_bytes());
        add(&mut mac, method.as_str().as_bytes());
        add(&mut mac, target.as_bytes());
        add_fields(&mut mac, headers);
        mac
    }
}

impl Shown {
    /// Makes of `response`, to a request with this method, that of a node of this network. No field may be added after that.
    pub(crate) fn answer<B: Body>(&self, method: &Method, response: &mut Response<B>) {
        let status = response.status();
        let length = response.body().size_hint().exact();
        let headers = response.headers_mut();
        // What the connection would add is to be covered, too.
        if let Some(length) = length.filter(|_| *method != Method::HEAD && may_have_length(status)) {
            headers.entry(CONTENT_LENGTH).or_insert_with(|| length.into());
        }
        if !headers.contains_key(DATE) {
            let now = httpdate::fmt_http_date(SystemTime::now());
            headers.insert(DATE, HeaderValue::from_str(&now).expect("an HTTP date is ASCII"));
        }
        let mac = self.of_answer(status, headers).finalize().into_bytes();
        headers.insert(AUTH, HeaderValue::from_str(&HEXLOWER.encode(&mac[..MAC_BYTES])).expect("digits are ASCII"));
    }

    /// Whether an answer with this head is a node's of this network, and one to this very request. Of its fields none is left that
    /// somebody in between may have added.
    pub(crate) fn is_answered_by(&self, status: StatusCode, headers: &mut HeaderMap) -> bool {
        let mac = headers.remove(AUTH).and_then(|value| unhex::<MAC_BYTES>(value.to_str().ok()?));
        // It could name others that are to be taken out.
        headers.remove(CONNECTION);
        mac.is_some_and(|mac| self.of_answer(status, headers).verify_truncated_left(&mac).is_ok())
    }

    fn of_answer(&self, status: StatusCode, headers: &HeaderMap) -> Hmac<Sha256> {
        let mut mac = Hmac::clone(&self.auth.mac);
        add(&mut mac, ANSWER);
        add(&mut mac, self.value.as_bytes());
        add(&mut mac, status.as_str().as_bytes());
        add_fields(&mut mac, headers);
        mac
    }
}

/// Never the secret.
impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Auth(closed network)")
    }
}

/// Hashes one part of a list, as ids are made of lists: its length, then it.
fn add(mac: &mut Hmac<Sha256>, part: &[u8]) {
    mac.update(&(part.len() as u64).to_be_bytes());
    mac.update(part);
}

/// Hashes all fields but those of one hop, by name; those of one name in the order in which they are.
fn add_fields(mac: &mut Hmac<Sha256>, headers: &HeaderMap) {
    let mut fields: Vec<(&str, &HeaderValue)> =
        headers.iter().filter(|(name, _)| !is_of_one_hop(name)).map(|(name, value)| (name.as_str(), value)).collect();
    // A stable sort.
    fields.sort_by_key(|(name, _)| *name);
    for (name, value) in fields {
        add(mac, name.as_bytes());
        add(mac, value.as_bytes());
    }
}

fn is_of_one_hop(name: &HeaderName) -> bool {
    [AUTH, CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE].contains(name)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

/// Whether a response with this status may tell a length of its own (RFC 9110 §8.6).
fn may_have_length(status: StatusCode) -> bool {
    !status.is_informational() && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// The bytes that `digits` are, in lower case.
fn unhex<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let digits = digits.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    HEXLOWER.decode(digits).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::Full;
    use proptest::prelude::*;

    use super::*;
    use crate::headers::of_lines;

    const FIELDS: [&str; 5] = [
        "host: www.x.com.nyud.net",
        "cache-control: only-if-cached",
        "coral-waiting: wait=2000, 192.0.2.2:80",
        "range: bytes=0-9",
        "cdn-loop: coral",
    ];

    fn auth(digit: char, host: u8) -> Auth {
        let key = digit.to_string().repeat(64).parse().unwrap();
        Auth::new(&key, SocketAddr::from(([192, 0, 2, host], 80))).unwrap()
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_767_268_800 + seconds)
    }

    /// What node 2 asks node 1 with, and holds against the answer.
    fn asked() -> (request::Parts, Shown) {
        let url = Url::parse("http://192.0.2.1/a?b=c").unwrap();
        let mut head = http::Request::new(()).into_parts().0;
        head.headers = of_lines(&FIELDS);
        head.uri = "/a?b=c".parse().unwrap();
        let shown = auth('1', 2).show(auth('1', 1).me, &Method::GET, &url, &mut head.headers, at(0));
        (head, shown)
    }

    #[test]
    fn a_request_of_a_node_of_this_network_is_told_by_who_has_the_key_and_is_asked() {
        let (head, _) = asked();
        assert!(auth('1', 1).check(&head, at(0)).is_some());
        assert!(auth('2', 1).check(&head, at(0)).is_none(), "another network");
        assert!(auth('1', 3).check(&head, at(0)).is_none(), "another node");
        let (again, _) = asked();
        assert_ne!(head.headers[AUTH], again.headers[AUTH]);
    }

    /// As PROTOCOL.md has them.
    #[test]
    fn the_bytes_are_those_of_the_protocol() {
        let (auth, headers) = (auth('1', 1), of_lines(&["host: www.x.com.nyud.net", "cache-control: only-if-cached"]));
        let claim = "1767268800 000102030405060708090a0b0c0d0e0f";
        let hash = |mac: Hmac<Sha256>| HEXLOWER.encode(&mac.finalize().into_bytes()[..MAC_BYTES]);
        let request = hash(auth.of_request(claim, auth.me, &Method::GET, "/a?b=c", &headers));
        let value = HeaderValue::from_str(&format!("{claim} {request}")).unwrap();
        let headers = of_lines(&["cache-status: coral; detail=not-cached", "content-length: 0"]);
        let answer = hash(Shown { auth, value }.of_answer(StatusCode::GATEWAY_TIMEOUT, &headers));
        expect_test::expect!["e69c4cb90adbd55a4031770f81eece4d dfd3f983977513d297c6137b3dd2aeee"]
            .assert_eq(&format!("{request} {answer}"));
    }

    #[test]
    fn a_request_is_one_of_now_for_a_minute() {
        let (head, _) = asked();
        let is_of_now = |seconds: i64| {
            let now =
                if seconds < 0 { at(0) - Duration::from_secs(seconds.unsigned_abs()) } else { at(seconds as u64) };
            auth('1', 1).check(&head, now).is_some()
        };
        assert_eq!([-61, -60, 60, 61].map(is_of_now), [false, true, true, false]);
    }

    #[test]
    fn no_request_that_was_changed_on_its_way_is_a_nodes() {
        let check = |what: &str, change: fn(&mut request::Parts)| {
            let (mut head, _) = asked();
            change(&mut head);
            assert!(auth('1', 1).check(&head, at(0)).is_none(), "{what}");
        };
        check("method", |head| head.method = Method::HEAD);
        check("target", |head| head.uri = "/a?b=d".parse().unwrap());
        check("authority", |head| head.uri = "http://www.x.com.nyud.net/a?b=c".parse().unwrap());
        check("added", |head| head.headers.extend(of_lines(&["accept-language: de"])));
        check("twice", |head| assert!(head.headers.append("range", head.headers["range"].clone())));
        check("shown twice", |head| assert!(head.headers.append(AUTH, head.headers[AUTH].clone())));
        check("nothing shown", |head| drop(head.headers.remove(AUTH)));
        for field in FIELDS {
            let name: HeaderName = field.split_once(": ").unwrap().0.parse().unwrap();
            let (mut head, _) = asked();
            head.headers.insert(&name, "changed".parse().unwrap());
            assert!(auth('1', 1).check(&head, at(0)).is_none(), "{name} changed");
            head.headers.remove(&name);
            assert!(auth('1', 1).check(&head, at(0)).is_none(), "{name} taken out");
        }
        let (mut head, _) = asked();
        head.headers.extend(of_lines(&["connection: keep-alive"]));
        assert!(auth('1', 1).check(&head, at(0)).is_some(), "of one hop");
    }

    /// The answer of node 1, and what node 2 holds against it.
    fn answered(lines: &[&str]) -> (Response<Full<Bytes>>, Shown) {
        let (head, asks) = asked();
        let mut response = Response::new(Full::new("hello".into()));
        *response.headers_mut() = of_lines(lines);
        auth('1', 1).check(&head, at(0)).unwrap().answer(&head.method, &mut response);
        (response, asks)
    }

    #[test]
    fn an_answer_counts_if_it_is_a_nodes_and_as_it_was_sent() {
        const HEAD: [&str; 4] = ["cache-status: coral; hit", "age: 5", "etag: \"a\"", "cache-control: max-age=9"];
        let is_taken = |change: fn(&mut Response<Full<Bytes>>)| {
            let (mut response, asks) = answered(&HEAD);
            change(&mut response);
            asks.is_answered_by(response.status(), response.headers_mut())
        };
        assert!(is_taken(|_| ()));
        assert!(is_taken(|response| response.headers_mut().extend(of_lines(&["keep-alive: 5"]))));
        assert!(!is_taken(|response| *response.status_mut() = StatusCode::NOT_FOUND));
        assert!(!is_taken(|response| drop(response.headers_mut().remove(AUTH))));
        assert!(!is_taken(|response| drop(response.headers_mut().insert(AUTH, "x".parse().unwrap()))));
        assert!(!is_taken(|response| response.headers_mut().extend(of_lines(&["x-more: 1"]))));
        assert!(!is_taken(|response| assert!(response.headers_mut().append("age", "5".parse().unwrap()))));
        for name in ["cache-status", "age", "etag", "cache-control", "date", "content-length"] {
            for changed in [Some("7"), None] {
                let (mut response, asks) = answered(&HEAD);
                assert!(response.headers_mut().remove(name).is_some(), "{name} is there");
                changed.map(|value| response.headers_mut().insert(name, value.parse().unwrap()));
                assert!(!asks.is_answered_by(response.status(), response.headers_mut()), "{name} as {changed:?}");
            }
        }
        let (mut response, _) = answered(&HEAD);
        let (_, other) = asked();
        assert!(!other.is_answered_by(response.status(), response.headers_mut()), "to another request");
    }

    #[test]
    fn no_field_can_be_taken_out_of_an_answer_by_naming_it() {
        let (mut response, asks) = answered(&["etag: \"a\""]);
        response.headers_mut().extend(of_lines(&["connection: etag"]));
        assert!(asks.is_answered_by(response.status(), response.headers_mut()));
        assert!(!response.headers().contains_key(CONNECTION));
    }

    proptest! {
        #[test]
        fn any_field_is_read_and_none_is_right(value in "[ -~]{0,90}|[0-9]{1,20} [0-9a-f]{32} [0-9a-f]{32}") {
            let (mut head, shown) = asked();
            head.headers.insert(AUTH, value.parse().unwrap());
            prop_assert!(auth('1', 1).check(&head, at(0)).is_none());
            prop_assert!(!shown.is_answered_by(StatusCode::OK, &mut head.headers));
        }

        #[test]
        fn digits_are_read_as_they_are_written(bytes: [u8; 16]) {
            prop_assert_eq!(unhex(&HEXLOWER.encode(&bytes)), Some(bytes));
        }
    }
}
