//! The head of a request: where it ends, and what says how long the body behind it is (RFC 9112 §3, §6.3).

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri, Version, request};

use crate::error::ProxyError;
use crate::url::UrlError;

/// As many fields as most connections allow: then they need no memory of their own.
const USUAL_FIELDS: usize = 100;

/// How an HTTP/2 connection begins (RFC 9113 §3.4), which to HTTP/1.1 is a request of a version that it does not know.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// A head as it stands in a buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head<'f, 'b> {
    pub(crate) method: &'b str,
    pub(crate) target: &'b str,
    /// 1.0 or 1.1.
    pub(crate) version: Version,
    pub(crate) fields: &'f [httparse::Header<'b>],
    /// Bytes of it, with the empty line at its end.
    pub(crate) length: usize,
}

/// What a buffer begins with.
#[derive(Debug)]
pub(crate) enum Read<T> {
    /// A part of a head.
    Partial,
    /// A head, and what was made of it.
    Head(T),
    /// Something that is answered with an error, after which nothing more is read.
    Bad(ProxyError),
    /// Something that no answer is for.
    Foreign,
}

/// Reads the head that `buffer` begins with, of at most `most_fields` fields; `make` makes something of it.
pub(crate) fn read<'b, T>(
    buffer: &'b [u8],
    most_fields: usize,
    make: impl FnOnce(&Head<'_, 'b>) -> Result<T, ProxyError>,
) -> Read<T> {
    if most_fields <= USUAL_FIELDS {
        let mut fields = [httparse::EMPTY_HEADER; USUAL_FIELDS];
        read_into(buffer, &mut fields[..most_fields], make)
    } else {
        read_into(buffer, &mut vec![httparse::EMPTY_HEADER; most_fields], make)
    }
}

fn read_into<'b, T>(
    buffer: &'b [u8],
    fields: &mut [httparse::Header<'b>],
    make: impl FnOnce(&Head<'_, 'b>) -> Result<T, ProxyError>,
) -> Read<T> {
    let mut parsed = httparse::Request::new(fields);
    let length = match parsed.parse(buffer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Read::Partial,
        Err(_) if buffer.starts_with(HTTP2_PREFACE) => return Read::Foreign,
        Err(httparse::Error::TooManyHeaders) => return Read::Bad(ProxyError::Fields),
        Err(error) => return Read::Bad(ProxyError::Unreadable(error.to_string().into())),
    };
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        // httparse says of a whole head all of it.
        return Read::Partial;
    };
    let version = if version == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    match make(&Head { method, target, version, fields: parsed.headers, length }) {
        Ok(made) => Read::Head(made),
        Err(error) => Read::Bad(error),
    }
}

/// What a head says of the message and of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Framing {
    /// Whether a body follows.
    pub(crate) has_body: bool,
    /// Whether the client would ask more on this connection.
    pub(crate) keep_alive: bool,
}

impl Head<'_, '_> {
    /// How it is framed. An error where two readers may differ about that (RFC 9112 §6.1, §6.3, §11.2).
    pub(crate) fn framing(&self) -> Result<Framing, ProxyError> {
        let unreadable = |what: &str| Err(ProxyError::Unreadable(what.into()));
        let (mut coded, mut chunked, mut length) = (false, false, None);
        let (mut close, mut keep_alive) = (false, false);
        for field in self.fields {
            let is = |name: &HeaderName| field.name.eq_ignore_ascii_case(name.as_str());
            if is(&http::header::TRANSFER_ENCODING) {
                coded = true;
                // Which one is the last decides whether the end of the body can be found.
                chunked = field.value.rsplit(|byte| *byte == b',').next().is_some_and(is_chunked);
            } else if is(&http::header::CONTENT_LENGTH) {
                match content_length(field.value) {
                    Some(new) if length.is_none_or(|length| length == new) => length = Some(new),
                    _ => return unreadable("the length of its body is not one number"),
                }
            } else if is(&http::header::CONNECTION) {
                close |= has_option(field.value, b"close");
                keep_alive |= has_option(field.value, b"keep-alive");
            }
        }
        if coded && (!chunked || self.version == Version::HTTP_10) {
            return unreadable("nobody can say where its body ends");
        }
        let keep_alive = !close && (self.version == Version::HTTP_11 || keep_alive);
        Ok(Framing { has_body: coded || length.is_some_and(|length| length > 0), keep_alive })
    }

    /// The same as a value of its own.
    pub(crate) fn to_parts(self) -> Result<request::Parts, ProxyError> {
        let unreadable = |what: &dyn std::fmt::Display| ProxyError::Unreadable(what.to_string().into());
        let mut parts = http::Request::new(()).into_parts().0;
        parts.method = Method::from_bytes(self.method.as_bytes()).map_err(|error| unreadable(&error))?;
        // The crate's own bound, 64 KiB, is told by a message alone; below it every target is read.
        if self.target.len() >= usize::from(u16::MAX) {
            return Err(UrlError::TooLong.into());
        }
        parts.uri = self.target.parse::<Uri>().map_err(|error| unreadable(&error))?;
        parts.version = self.version;
        parts.headers = HeaderMap::with_capacity(self.fields.len());
        for field in self.fields {
            let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|error| unreadable(&error))?;
            let value = HeaderValue::from_bytes(field.value).map_err(|error| unreadable(&error))?;
            parts.headers.append(name, value);
        }
        Ok(parts)
    }
}

/// Whether `Connection` names this option (RFC 9110 §7.6.1).
pub(crate) fn has_option(value: &[u8], option: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|member| member.trim_ascii().eq_ignore_ascii_case(option))
}

fn is_chunked(coding: &[u8]) -> bool {
    coding.trim_ascii().eq_ignore_ascii_case(b"chunked")
}

/// One number in digits (RFC 9112 §6.2). A list of equal ones, which a reader may accept (RFC 9110 §8.6), is none.
fn content_length(value: &[u8]) -> Option<u64> {
    let digits = str::from_utf8(value).ok().filter(|value| value.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}

/// Reads `bytes` as a request's head, and writes a response with its fields: for the fuzzer.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let read = |bytes: &[u8]| read(bytes, USUAL_FIELDS, |head| Ok((head.to_parts()?, head.framing()?, head.length)));
    let Read::Head((head, framing, length)) = read(bytes) else {
        return;
    };
    let Read::Head((same, of_same, _)) = read(&bytes[..length]) else { panic!("the head is as long as was said") };
    assert_eq!((&same.headers, of_same), (&head.headers, framing));
    let mut out = Vec::new();
    let to = super::To { version: head.version, is_head: false, keep_alive: framing.keep_alive };
    super::response::head(&mut out, to, http::StatusCode::OK, &head.headers, Some(0));
    // A field more than were read, for each that is added.
    let mut fields = [httparse::EMPTY_HEADER; USUAL_FIELDS + 3];
    let written = httparse::Response::new(&mut fields).parse(&out).map(|status| status.is_complete());
    assert_eq!(written, Ok(true), "what was read can be written, and read again");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_whole(text: &[u8]) -> Read<(request::Parts, Framing, usize)> {
        read(text, 100, |head| Ok((head.to_parts()?, head.framing()?, head.length)))
    }

    #[test]
    fn a_head_is_read_when_it_is_whole_and_what_follows_is_left() {
        let text = b"GET /a?b HTTP/1.1\r\nHost: x.com\r\nX: 1\r\nx: 2\r\n\r\nGET /c";
        let end = text.len() - b"GET /c".len();
        for end in 0..end {
            assert!(matches!(read_whole(&text[..end]), Read::Partial), "{end}");
        }
        let Read::Head((head, framing, length)) = read_whole(text) else { panic!("a whole head") };
        assert_eq!(
            (head.method, head.uri, head.version, length),
            (Method::GET, "/a?b".parse().unwrap(), Version::HTTP_11, end)
        );
        assert_eq!(head.headers.get_all("x").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(framing, Framing { has_body: false, keep_alive: true });
    }

    #[test]
    fn who_wants_to_ask_more_says_so() {
        let keep_alive = |version: &str, fields: &str| {
            let text = format!("GET / {version}\r\n{fields}\r\n");
            let Read::Head(framing) = read(text.as_bytes(), 9, |head| head.framing()) else { panic!("{text}") };
            framing.keep_alive
        };
        assert!(keep_alive("HTTP/1.1", "") && !keep_alive("HTTP/1.0", ""));
        assert!(keep_alive("HTTP/1.0", "connection: Keep-Alive\r\n"));
        assert!(!keep_alive("HTTP/1.1", "Connection: x, close\r\n"));
        assert!(!keep_alive("HTTP/1.1", "Connection: keep-alive\r\nConnection: CLOSE\r\n"));
    }

    #[test]
    fn more_fields_than_are_allowed_are_told_apart_from_bad_ones() {
        let with = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(count));
        for most in [7, 200] {
            assert!(matches!(read(with(most).as_bytes(), most, |_| Ok(())), Read::Head(())));
            assert!(matches!(read(with(most + 1).as_bytes(), most, |_| Ok(())), Read::Bad(ProxyError::Fields)));
        }
        assert!(matches!(read_whole(b"GET / HTTP/1.1\r\nx y\r\n\r\n"), Read::Bad(ProxyError::Unreadable(_))));
        assert!(matches!(read_whole(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Read::Foreign));
    }

    proptest! {
        /// Whatever comes, and in whichever pieces: no panic, and what is read of a whole is what is read of its beginning.
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0..200usize) {
            let _ = read_whole(&bytes);
            let _ = read_whole(&[b"GET / HTTP/1.1\r\n".as_slice(), &bytes].concat());
            fuzz(&[b"GET / HTTP/1.1\r\nx: ".as_slice(), &bytes, b"\r\n\r\n"].concat());
            let begun = &bytes[..cut.min(bytes.len())];
            if let Read::Head((_, _, length)) = read_whole(begun) {
                let same = matches!(read_whole(&bytes), Read::Head((_, _, of_all)) if of_all == length);
                prop_assert!(same);
            }
        }
    }
}
