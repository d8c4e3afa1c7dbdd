//! Which header fields pass: towards an origin or another node, into the store, and out to a client.
//!
//! Towards the origin the list is of what passes, not of what is held back: a field that neither is in the key nor
//! was named by `Vary` could make the origin answer something that is then served to everybody (cache poisoning).

use std::sync::Arc;
use std::time::SystemTime;

use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_RANGE,
    DATE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, ORIGIN,
    SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, USER_AGENT, VIA,
};

use crate::auth::AUTH;
use crate::digest::CONTENT_DIGEST;
use crate::partial::{Part, Place};
use crate::policy::list_members;
use crate::slice::{Came, SLICE_BYTES};
use crate::trace::TRACE;
use crate::url::Passes;
use crate::version::Version;

/// What this node calls itself towards origins [C04 §3.2], so that they can tell it from a browser.
pub const AGENT: &str = concat!("CoralWebPrx/", env!("CARGO_PKG_VERSION"));
/// The member of `Via` that a node adds.
pub(crate) const VIA_MEMBER: HeaderValue = HeaderValue::from_static("1.1 coral (CoralWebPrx)");
/// The member of `CDN-Loop` (RFC 8586) that a node adds.
const LOOP_MEMBER: HeaderValue = HeaderValue::from_static("coral");

pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
pub(crate) const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
/// The id of a request ([`crate::access`]): from node to node, and to the client.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("coral-request-id");
/// To the owner of a site who has a node read what he has purged: what became of it.
pub(crate) const PURGE: HeaderName = HeaderName::from_static("coral-purge");
/// From node to node: how many milliseconds before the request the origin was asked for this, at most.
pub(crate) const ORIGIN_AGE: HeaderName = HeaderName::from_static("coral-origin-age");
const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// What a client may say to the origin through this node, besides what the response varies by.
const PASSED_ON: [HeaderName; 6] = [
    ACCEPT,
    ACCEPT_ENCODING,
    ACCEPT_LANGUAGE,
    ORIGIN,
    HeaderName::from_static("access-control-request-method"),
    HeaderName::from_static("access-control-request-headers"),
];

/// Bytes of all values of one field that are passed on to an origin nobody has vouched for.
const MOST_PASSED_BYTES: usize = 1024;

/// What no `Vary` makes this node send on: who the client is, how it got here, and what the fetch itself sets.
fn held_back(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(
        name,
        "cookie"
            | "authorization"
            | "forwarded"
            | "host"
            | "via"
            | "cdn-loop"
            | "user-agent"
            | "range"
            | "content-length"
            | "transfer-encoding"
            | "te"
            | "upgrade"
            | "connection"
            | "cache-control"
            | "expect"
            | "max-forwards"
    ) || name.starts_with("if-")
        || name.starts_with("x-forwarded")
        || name.starts_with("proxy-")
        || name.starts_with("coral-")
}

/// Whether a site's configuration may name a request field to be passed on.
pub(crate) fn may_pass(name: &HeaderName) -> bool {
    !held_back(name) || [AUTHORIZATION, REQUEST_ID].contains(name)
}

/// The request fields that a response was selected by, of those that are ever sent on. `Vary: *` gives none: such a
/// response is not stored.
pub(crate) fn selecting(response: &HeaderMap) -> Arc<[HeaderName]> {
    let names = crate::policy::vary(response).unwrap_or_default();
    names.into_iter().filter(|name| !held_back(name)).collect()
}

/// Whether a field may make an origin refuse the request (CPDoS): its answer would then be everybody's. Browsers send none that
/// is so long, or has other characters.
fn is_provoking(client: &HeaderMap, name: &HeaderName) -> bool {
    let values = || client.get_all(name).into_iter();
    values().map(HeaderValue::len).sum::<usize>() > MOST_PASSED_BYTES || values().any(|value| value.to_str().is_err())
}

/// The fields of a request to an origin or node, made from a client's: what is passed on, what is `selecting`, and what
/// the site `passes`. The id of the request is among them, and what traces it, which `without_id` takes out for an origin.
pub fn to_upstream(client: &HeaderMap, selecting: &[HeaderName], passes: &Passes) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let selecting = selecting.iter().filter(|name| !held_back(name));
    for name in PASSED_ON.iter().chain(selecting).chain(passes.fields.iter()) {
        if headers.contains_key(name) || (is_provoking(client, name) && !passes.fields.contains(name)) {
            continue;
        }
        for value in client.get_all(name) {
            headers.append(name, value.clone());
        }
    }
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    headers.insert(VIA, VIA_MEMBER);
    headers.insert(CDN_LOOP, LOOP_MEMBER);
    for name in [REQUEST_ID, TRACE] {
        if let Some(id) = client.get(&name) {
            headers.insert(name, id.clone());
        }
    }
    headers
}

/// Takes the id out of a request to an origin, unless its site `passes` it: see [`crate::access`].
pub(crate) fn without_id(request: &mut HeaderMap, passes: &Passes) {
    request.remove(TRACE);
    if !passes.fields.contains(&REQUEST_ID) {
        request.remove(REQUEST_ID);
    }
}

/// Makes a request ask only whether the stored response with the head `stored` is still good (RFC 9111 §4.3.1).
pub fn add_condition(request: &mut HeaderMap, stored: &HeaderMap) {
    if let Some(tag) = stored.get(ETAG) {
        request.insert(IF_NONE_MATCH, tag.clone());
    }
    if let Some(modified) = stored.get(LAST_MODIFIED) {
        request.insert(IF_MODIFIED_SINCE, modified.clone());
    }
}

/// Whether a response with this head can be asked about.
pub fn has_validator(stored: &HeaderMap) -> bool {
    stored.contains_key(ETAG) || stored.contains_key(LAST_MODIFIED)
}

/// Whether the answer to a HEAD with the head `news` speaks of the very version that is stored (RFC 9111 §4.3.5): by one
/// validator at least, and by none, nor a length, that differs.
pub fn confirms(news: &HeaderMap, stored: &HeaderMap) -> bool {
    let same = |name: &HeaderName| news.get(name).is_none_or(|value| stored.get(name) == Some(value));
    has_validator(news) && [ETAG, LAST_MODIFIED, CONTENT_LENGTH].iter().all(same)
}

/// Turns a request to an origin into one to another node, which then answers from what it has or not at all. What a
/// client shows the origin is none of that node's business. A `stale` answer is asked for as what it is (RFC 9111 §5.2.1.2).
pub fn only_if_cached(request: &mut HeaderMap, stale: bool) {
    request.remove(AUTHORIZATION);
    let control = if stale { "only-if-cached, max-stale" } else { "only-if-cached" };
    request.insert(CACHE_CONTROL, HeaderValue::from_static(control));
}

/// Whether the request has been through a Coral node already (RFC 8586 §2; Via, for those between that drop the former).
pub fn came_through_coral(request: &HeaderMap) -> bool {
    let in_loop = members(request, &CDN_LOOP).any(|member| {
        let id = member.split(';').next().unwrap_or_default();
        id.trim().eq_ignore_ascii_case("coral")
    });
    in_loop || members(request, &VIA).any(|member| member.contains("CoralWebPrx"))
}

fn members<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = String> + use<'a> {
    headers.get_all(name.clone()).into_iter().flat_map(|value| list_members(value.as_bytes()))
}

/// Cleans the head of a response before it is stored or passed on: hop-by-hop fields (RFC 9110 §7.6.1), cookies, and
/// what another Coral node said of its own cache. A missing `Date` is set (RFC 9110 §6.6.1). `Set-Cookie` stays where the
/// site `passes` it.
pub fn clean_response(headers: &mut HeaderMap, passes: &Passes, now: SystemTime) {
    let named: Vec<HeaderName> = members(headers, &CONNECTION)
        .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
        // Content-Length is no field of one hop, whatever the origin says: without it a cut body looks whole.
        .filter(|name| *name != CONTENT_LENGTH)
        .collect();
    for name in named.iter().chain(&[
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
        // Of the request with which another node was asked, and of its copy.
        REQUEST_ID,
        AUTH,
        ORIGIN_AGE,
        HeaderName::from_static("proxy-authenticate"),
        HeaderName::from_static("proxy-authentication-info"),
    ]) {
        headers.remove(name);
    }
    if !passes.set_cookie {
        headers.remove(SET_COOKIE);
        headers.remove("set-cookie2");
    }
    for name in [CACHE_STATUS, PROXY_STATUS] {
        let foreign: Vec<HeaderValue> = members(headers, &name)
            .filter(|member| member.split(';').next().map(str::trim) != Some("coral"))
            .filter_map(|member| HeaderValue::from_str(&member).ok())
            .collect();
        headers.remove(&name);
        for value in foreign {
            headers.append(&name, value);
        }
    }
    if !headers.contains_key(DATE) {
        let date = HeaderValue::from_str(&httpdate::fmt_http_date(now)).expect("an HTTP date is ASCII");
        headers.insert(DATE, date);
    }
    detach(headers);
}

/// The head of an interim response as it may be passed on.
pub(crate) fn clean_interim(headers: &HeaderMap, passes: &Passes) -> HeaderMap {
    let mut cleaned = headers.clone();
    clean_response(&mut cleaned, passes, SystemTime::UNIX_EPOCH);
    if !headers.contains_key(DATE) {
        cleaned.remove(DATE);
    }
    cleaned
}

/// Gives each value memory of its own. As hyper makes those of an answer they are slices of the connection's read buffer, and a single
/// one of them in the store would keep all of it, 8 KiB or more.
fn detach(headers: &mut HeaderMap) {
    for value in headers.values_mut() {
        *value = HeaderValue::from_bytes(value.as_bytes()).expect("what has been a value is one");
    }
}

/// Adds this node to the `Via` of a response.
pub fn add_via(headers: &mut HeaderMap) {
    headers.append(VIA, VIA_MEMBER);
}

/// The head of a stored response after a 304 with the head `news` (RFC 9111 §3.2).
pub fn freshened(stored: &HeaderMap, news: &HeaderMap) -> HeaderMap {
    let mut headers = stored.clone();
    // The age that was said of the old response says nothing of the new one.
    headers.remove(http::header::AGE);
    for name in news.keys() {
        // These describe the stored body, which has not changed.
        let of_body = [CONTENT_LENGTH, CONTENT_RANGE, http::header::CONTENT_ENCODING, http::header::CONTENT_TYPE];
        if of_body.contains(name) || *name == CONTENT_DIGEST {
            continue;
        }
        headers.remove(name);
        for value in news.get_all(name) {
            headers.append(name, value.clone());
        }
    }
    headers
}

/// Reads `bytes` as a request's and a response's head and does with them all that a proxy does: for the fuzzer.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    use crate::{conditional, policy};
    let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_767_268_800);
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').take(100) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(&line[colon + 1..]))
        {
            headers.append(name, value);
        }
    }
    let config = crate::config::Freshness::default();
    let validity = policy::Validity::of(http::StatusCode::OK, &headers, now, now, &config);
    assert_eq!(validity.is_fresh(now), !validity.remaining(now).is_zero());
    if let conditional::Part::Bytes(range) = conditional::part(&headers, &headers, 1000) {
        assert!(range.start < range.end && range.end <= 1000);
    }
    conditional::not_modified(&headers, &headers);
    let _ = crate::digest::Check::of(&headers).map(crate::digest::Check::holds);
    came_through_coral(&headers);
    let _ = policy::may_store(&headers, &headers, http::StatusCode::OK, &headers);
    if let (Some(asked), Some(wants)) = (headers.get(http::header::RANGE), conditional::wanted_range(&headers))
        && let Some(part) = Part::of(http::StatusCode::PARTIAL_CONTENT, &headers, Some(9), asked)
        && let Some(cut) = part.cut(wants, 9)
    {
        assert!(cut.start < cut.end && cut.end <= 9);
        assert!(Place::of(&headers).is_none_or(|place| place.has(wants)));
    }
    if let Came::Slice(part, length) = Came::of(1, http::StatusCode::PARTIAL_CONTENT, &headers, Some(9)) {
        assert!((9..=SLICE_BYTES).contains(&length) && part.first == SLICE_BYTES && part.first + length <= part.total);
    }
    if let Some(version) = Version::of(http::StatusCode::OK, &headers, Some(9), None) {
        let mut request = HeaderMap::new();
        version.ask_for_rest(&mut request, 4);
        version.rest_in(http::StatusCode::PARTIAL_CONTENT, &headers, Some(5), 4);
    }
    let selecting = policy::vary(&headers).unwrap_or_default();
    let key = coral_dsht::Id::hash(&[b"key"]);
    assert_eq!(policy::variant_key(key, &selecting, &headers), policy::variant_key(key, &selecting, &headers.clone()));
    let upstream = to_upstream(&headers, &selecting, &Passes::default());
    assert!(!upstream.contains_key(http::header::COOKIE) && !upstream.contains_key(AUTHORIZATION));
    clean_response(&mut headers, &Passes::default(), now);
    assert!(!headers.contains_key(CONNECTION) && !headers.contains_key(SET_COOKIE));
}

/// The fields that `lines` are, written `name: value`.
#[cfg(test)]
pub(crate) fn of_lines(lines: &[&str]) -> HeaderMap {
    let fields = lines.iter().map(|line| line.split_once(": ").expect("a header line has a colon"));
    fields.map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::of_lines as headers;
    use super::*;

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Seen with 20,000 objects of ten bytes, which took 8 KiB each.
    #[test]
    fn a_stored_head_does_not_hold_on_to_the_buffer_it_was_read_into() {
        let read = bytes::Bytes::from(b"text/html and eight kibibytes more".to_vec());
        let value = HeaderValue::from_maybe_shared(read.slice(..9)).unwrap();
        let mut headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, value)]);
        assert!(!read.is_unique());
        clean_response(&mut headers, &Passes::default(), SystemTime::UNIX_EPOCH);
        assert!(read.is_unique());
        assert_eq!(headers[http::header::CONTENT_TYPE], "text/html");
    }

    #[test]
    fn an_origin_hears_what_selects_and_nothing_of_the_client() {
        let client =
            headers(&["accept: */*", "cookie: a", "authorization: b", "x-forwarded-host: c", "foo: d", "bar: e"]);
        let upstream = to_upstream(&client, &["foo".parse().unwrap(), "cookie".parse().unwrap()], &Passes::default());
        assert_eq!(names(&upstream), ["accept", "cdn-loop", "foo", "user-agent", "via"]);
    }

    #[test]
    fn fields_of_one_hop_and_cookies_go() {
        let mut response = headers(&[
            "connection: close, foo, content-length",
            "foo: 1",
            "set-cookie: a=b",
            "content-length: 5",
            "cache-status: Other; hit, coral; hit",
            "coral-request-id: 0123456789abcdef",
            "keep-alive: 5",
        ]);
        clean_response(&mut response, &Passes::default(), SystemTime::UNIX_EPOCH);
        assert_eq!(names(&response), ["cache-status", "content-length", "date"]);
        assert_eq!(response[CACHE_STATUS], "Other; hit");
    }

    #[test]
    fn a_loop_is_seen_by_either_field() {
        assert!(came_through_coral(&headers(&["cdn-loop: other, Coral; x=1"])));
        assert!(came_through_coral(&headers(&["via: 1.1 a, 1.1 coral (CoralWebPrx)"])));
        assert!(!came_through_coral(&headers(&["cdn-loop: coralline", "via: 1.1 coral-reef"])));
    }

    #[test]
    fn a_304_changes_the_head_but_not_what_describes_the_body() {
        let old = headers(&["etag: \"a\"", "content-length: 5", "age: 70", "cache-control: max-age=1"]);
        let news = ["cache-control: max-age=9", "content-length: 0", "content-digest: sha-256=:AAA=:"];
        let new = freshened(&old, &headers(&news));
        assert_eq!(
            (&new["content-length"], &new["cache-control"]),
            (&"5".parse().unwrap(), &"max-age=9".parse().unwrap())
        );
        assert!(!new.contains_key("age") && !new.contains_key("content-digest"));
    }

    #[test]
    fn a_head_confirms_what_it_names_by_all_that_it_names() {
        let stored = headers(&["etag: \"a\"", "content-length: 5", "cache-control: max-age=1"]);
        let confirms = |lines: &[&str]| confirms(&headers(lines), &stored);
        assert!(confirms(&["etag: \"a\""]) && confirms(&["etag: \"a\"", "content-length: 5"]));
        assert!(!confirms(&["etag: \"b\""]) && !confirms(&["etag: \"a\"", "content-length: 6"]));
        assert!(!confirms(&["content-length: 5"]), "which says nothing of the version");
        assert!(!confirms(&["last-modified: Thu, 01 Jan 2026 11:00:00 GMT"]));
    }

    proptest! {
        #[test]
        fn no_header_panics(bytes: Vec<u8>, text in "(range|content-range|if-range|vary|accept-language|age|expires|cache-control|cdn-cache-control|via): [ -~]{0,40}\n") {
            fuzz(&bytes);
            fuzz(text.as_bytes());
        }
    }
}
