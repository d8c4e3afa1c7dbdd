//! The head of a response, and how its body is framed (RFC 9112 §4, §6.3).

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderMap, TRANSFER_ENCODING};
use http::{StatusCode, Version};

use super::request::has_option;
use crate::interim::Interim;

/// Bytes of an HTTP date.
const DATE_BYTES: usize = 29;

/// How the end of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    /// There is none.
    AtOnce,
    /// After so many bytes.
    After(u64),
    /// By the last chunk.
    WithChunk,
    /// With the connection.
    WithConnection,
}

/// What a response answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct To {
    /// The version of the request.
    pub(crate) version: Version,
    /// Whether it was HEAD, so that no body follows.
    pub(crate) is_head: bool,
    /// Whether the connection is to be used again.
    pub(crate) keep_alive: bool,
}

/// Writes a head to `out`. `length` is that of the body, if it is known. How the body ends, and whether the connection can be used again after it.
pub(crate) fn head(
    out: &mut Vec<u8>,
    to: To,
    status: StatusCode,
    headers: &HeaderMap,
    length: Option<u64>,
) -> (Ends, bool) {
    let said = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let has_none = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let ends = match said.or(length) {
        _ if to.is_head || has_none => Ends::AtOnce,
        Some(0) => Ends::AtOnce,
        Some(length) => Ends::After(length),
        None if to.version == Version::HTTP_11 => Ends::WithChunk,
        None => Ends::WithConnection,
    };
    let closes = headers.get_all(CONNECTION).iter().any(|value| has_option(value.as_bytes(), b"close"));
    let keep_alive = to.keep_alive && !closes && ends != Ends::WithConnection;
    start(out, to.version, status);
    for (name, value) in headers {
        // How the message is framed is said below. RFC 9110 §8.6: 204 has no length.
        let is_framing = match *name {
            TRANSFER_ENCODING | CONNECTION => true,
            CONTENT_LENGTH => status == StatusCode::NO_CONTENT,
            _ => false,
        };
        if !is_framing {
            field(out, name.as_str(), value.as_bytes());
        }
    }
    match ends {
        Ends::AtOnce if said.is_none() && !to.is_head && !has_none => field(out, "content-length", b"0"),
        Ends::After(length) if said.is_none() => {
            field(out, "content-length", itoa::Buffer::new().format(length).as_bytes());
        }
        Ends::WithChunk => field(out, "transfer-encoding", b"chunked"),
        _ => {}
    }
    match (to.version, keep_alive) {
        (_, false) => field(out, "connection", b"close"),
        (Version::HTTP_10, true) => field(out, "connection", b"keep-alive"),
        _ => {}
    }
    if !headers.contains_key(DATE) {
        // RFC 9110 §6.6.1: what has a clock says when.
        field(out, "date", &date(SystemTime::now()));
    }
    out.extend_from_slice(b"\r\n");
    (ends, keep_alive)
}

/// Writes an interim response.
pub(crate) fn interim(out: &mut Vec<u8>, interim: &Interim) {
    start(out, Version::HTTP_11, interim.status);
    for (name, value) in &interim.headers {
        field(out, name.as_str(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the first line.
pub(crate) fn start(out: &mut Vec<u8>, version: Version, status: StatusCode) {
    let version: &[u8] = if version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " };
    let reason = status.canonical_reason().unwrap_or_default().as_bytes();
    for part in [version, status.as_str().as_bytes(), b" ", reason, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Writes a field.
pub(crate) fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// The line before a chunk of `bytes` bytes, not zero (RFC 9112 §7.1).
pub(crate) fn chunk(out: &mut Vec<u8>, bytes: usize) {
    use std::io::Write as _;
    write!(out, "{bytes:x}\r\n").expect("memory takes all that is written");
}

/// What ends a body of chunks.
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// An HTTP date. What was written in the same second by this thread is not worked out again.
pub(crate) fn date(now: SystemTime) -> [u8; DATE_BYTES] {
    thread_local!(static LAST: Cell<(u64, [u8; DATE_BYTES])> = const { Cell::new((u64::MAX, [0; DATE_BYTES])) });
    // A clock before its epoch is wrong in any case.
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (of, mut text) = LAST.get();
    if of != seconds {
        let written = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
        text.copy_from_slice(written.as_bytes());
        LAST.set((seconds, text));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::of_lines;

    const TO: To = To { version: Version::HTTP_11, is_head: false, keep_alive: true };

    fn written(to: To, status: u16, lines: &[&str], length: Option<u64>) -> (String, Ends, bool) {
        let mut out = Vec::new();
        let headers = of_lines(&[lines, &["date: now"]].concat());
        let (ends, keep_alive) = head(&mut out, to, StatusCode::from_u16(status).unwrap(), &headers, length);
        let text = String::from_utf8(out).unwrap().replace("date: now\r\n", "");
        (text.strip_suffix("\r\n\r\n").expect("an empty line at its end").replace("\r\n", "|"), ends, keep_alive)
    }

    #[test]
    fn the_end_of_a_body_is_told_in_the_one_way_that_the_client_knows() {
        let old = To { version: Version::HTTP_10, ..TO };
        let of_head = To { is_head: true, ..TO };
        let whole = |text: &str, ends, keep_alive| (text.to_owned(), ends, keep_alive);
        assert_eq!(
            written(TO, 200, &["a: b"], Some(5)),
            whole("HTTP/1.1 200 OK|a: b|content-length: 5", Ends::After(5), true)
        );
        assert_eq!(
            written(TO, 200, &["content-length: 7"], None),
            whole("HTTP/1.1 200 OK|content-length: 7", Ends::After(7), true)
        );
        assert_eq!(
            written(TO, 404, &[], Some(0)),
            whole("HTTP/1.1 404 Not Found|content-length: 0", Ends::AtOnce, true)
        );
        assert_eq!(
            written(TO, 200, &[], None),
            whole("HTTP/1.1 200 OK|transfer-encoding: chunked", Ends::WithChunk, true)
        );
        assert_eq!(
            written(old, 200, &[], None),
            whole("HTTP/1.0 200 OK|connection: close", Ends::WithConnection, false)
        );
        assert_eq!(
            written(old, 200, &[], Some(5)),
            whole("HTTP/1.0 200 OK|content-length: 5|connection: keep-alive", Ends::After(5), true)
        );
        for status in [204, 304] {
            assert_eq!(written(TO, status, &[], Some(0)).1, Ends::AtOnce);
            assert!(!written(TO, status, &[], Some(0)).0.contains("length"));
        }
        assert_eq!(
            written(of_head, 200, &["content-length: 9"], Some(0)),
            whole("HTTP/1.1 200 OK|content-length: 9", Ends::AtOnce, true)
        );
        assert_eq!(written(of_head, 200, &[], Some(0)), whole("HTTP/1.1 200 OK", Ends::AtOnce, true));
        assert_eq!(
            written(TO, 400, &["connection: close"], Some(0)),
            whole("HTTP/1.1 400 Bad Request|content-length: 0|connection: close", Ends::AtOnce, false)
        );
        assert_eq!(written(TO, 299, &[], Some(0)).0, "HTTP/1.1 299 |content-length: 0");
    }

    #[test]
    fn a_date_is_said_where_there_is_none() {
        let mut out = Vec::new();
        head(&mut out, TO, StatusCode::OK, &HeaderMap::new(), Some(0));
        let text = String::from_utf8(out).unwrap();
        let said = text.split("date: ").nth(1).unwrap().split("\r\n").next().unwrap();
        let said = httpdate::parse_http_date(said).unwrap();
        assert!(SystemTime::now().duration_since(said).unwrap() < Duration::from_secs(10));
        for seconds in [0, 784_111_777, 784_111_777, 1] {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(date(time + Duration::from_millis(5)), *httpdate::fmt_http_date(time).as_bytes());
        }
    }
}
