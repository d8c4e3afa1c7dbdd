//! What a request asks of an object that is here: not if unchanged (RFC 9110 §13), only a part of it (RFC 9110 §14).
//!
//! Values in, values out. Requests for several ranges get the whole, as RFC 9110 §14.2 allows.

use std::ops::Range;

use http::header::{DATE, ETAG, HeaderMap, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE};

use crate::policy::{date, list_members};

/// Whether the client's copy is still good, so that 304 answers (RFC 9110 §13.2.2).
pub fn not_modified(request: &HeaderMap, response: &HeaderMap) -> bool {
    if request.contains_key(IF_NONE_MATCH) {
        // RFC 9110 §13.1.3: If-Modified-Since is then ignored.
        return request
            .get_all(IF_NONE_MATCH)
            .iter()
            .flat_map(|value| list_members(value.as_bytes()))
            .any(|tag| tag == "*" || response.get(ETAG).is_some_and(|ours| weak(&tag) == weak_bytes(ours.as_bytes())));
    }
    let Some(since) = date(request, &IF_MODIFIED_SINCE) else {
        return false;
    };
    // RFC 9111 §4.3.2: what does not say when it was changed was not changed after it was sent.
    let changed = if response.contains_key(LAST_MODIFIED) { LAST_MODIFIED } else { DATE };
    date(response, &changed).is_some_and(|modified| modified <= since)
}

fn weak(tag: &str) -> &[u8] {
    weak_bytes(tag.as_bytes())
}

/// An entity tag without its mark of weakness: what the weak comparison compares (RFC 9110 §8.8.3.2).
fn weak_bytes(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// The part of an object that a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// All of it: 200.
    Whole,
    /// These bytes: 206.
    Bytes(Range<u64>),
    /// Bytes that it does not have: 416.
    Unsatisfiable,
}

/// The part of an object of `length` bytes, with the head `response`, that `request` is for.
pub fn part(request: &HeaderMap, response: &HeaderMap, length: u64) -> Part {
    // RFC 9110 §14.2: what is not understood is ignored.
    let Some(range) = sought_range(request).filter(|_| if_range_holds(request, response)) else {
        return Part::Whole;
    };
    let bytes = range.of(length);
    if bytes.is_empty() { Part::Unsatisfiable } else { Part::Bytes(bytes) }
}

/// The one range that `request` is for, if [`if_range_holds`]; `None` for the whole, or several.
pub fn sought_range(request: &HeaderMap) -> Option<Wants> {
    let mut values = request.get_all(RANGE).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    value.to_str().ok().and_then(parse_range)
}

/// The one range that `request` is for, whatever the version; `None` for the whole, several, or those of one version.
pub fn wanted_range(request: &HeaderMap) -> Option<Wants> {
    sought_range(request).filter(|_| !request.contains_key(IF_RANGE))
}

/// A range that is asked for (RFC 9110 §14.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// From the first of these bytes on, up to and with the second, or to the end.
    From(u64, Option<u64>),
    /// So many bytes at the end.
    Last(u64),
}

impl Wants {
    /// The bytes that are meant of a whole of `length` bytes; empty if it has none of them.
    pub fn of(self, length: u64) -> Range<u64> {
        match self {
            Self::From(first, last) => first..last.map_or(length, |last| last.saturating_add(1).min(length)),
            Self::Last(count) => length.saturating_sub(count)..length,
        }
    }

    /// The first of these bytes, of a whole of `length` bytes if that is known; `None` if it must be known and is not.
    pub fn first(self, length: Option<u64>) -> Option<u64> {
        match self {
            Self::From(first, _) => Some(first),
            Self::Last(count) => Some(length?.saturating_sub(count)),
        }
    }

    /// Whether it is for something further on than the beginning.
    pub const fn seeks(self) -> bool {
        !matches!(self, Self::From(0, _))
    }
}

fn parse_range(value: &str) -> Option<Wants> {
    let (unit, range) = value.split_once('=')?;
    let (first, last) = range.trim().split_once('-')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse::<u64>().ok(),
        false => None,
    };
    match (first, last) {
        ("", count) => Some(Wants::Last(number(count)?)),
        (first, "") => Some(Wants::From(number(first)?, None)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Wants::From(first, Some(last)))
        }
    }
}

/// Whether the range is wanted of this very version (RFC 9110 §13.1.5): by a strong tag or the exact date.
pub fn if_range_holds(request: &HeaderMap, response: &HeaderMap) -> bool {
    let Some(wanted) = request.get(IF_RANGE) else {
        return true;
    };
    if wanted.as_bytes().starts_with(b"\"") {
        return response.get(ETAG) == Some(wanted);
    }
    let wanted = date(request, &IF_RANGE);
    wanted.is_some() && wanted == date(response, &LAST_MODIFIED)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::headers::of_lines as headers;

    const OURS: &[&str] = &["etag: W/\"a\"", "last-modified: Thu, 01 Jan 2026 11:00:00 GMT"];

    #[test]
    fn a_tag_is_compared_weakly_and_counts_before_the_date() {
        let unchanged = |lines: &[&str]| not_modified(&headers(lines), &headers(OURS));
        assert!(unchanged(&["if-none-match: \"b\", \"a\""]));
        assert!(unchanged(&["if-none-match: *"]));
        assert!(!unchanged(&["if-none-match: \"b\"", "if-modified-since: Thu, 01 Jan 2026 12:00:00 GMT"]));
        assert!(unchanged(&["if-modified-since: Thu, 01 Jan 2026 11:00:00 GMT"]));
        assert!(!unchanged(&["if-modified-since: Thu, 01 Jan 2026 10:59:59 GMT"]));
        assert!(!unchanged(&["if-modified-since: yesterday"]));
    }

    #[test]
    fn what_does_not_say_when_it_was_changed_is_as_old_as_its_date() {
        let unchanged = |since: &str, ours: &[&str]| {
            not_modified(&headers(&[&format!("if-modified-since: Thu, 01 Jan 2026 {since} GMT")]), &headers(ours))
        };
        let sent = "date: Thu, 01 Jan 2026 11:00:00 GMT";
        assert!(unchanged("11:00:00", &[sent]) && !unchanged("10:59:59", &[sent]));
        assert!(!unchanged("11:00:00", &[sent, "last-modified: no date"]));
        assert!(!unchanged("11:00:00", &[]));
    }

    #[test]
    fn a_range_of_ten_bytes() {
        let part = |value: &str| part(&headers(&[&format!("range: {value}")]), &headers(OURS), 10);
        assert_eq!(part("bytes=2-4"), Part::Bytes(2..5));
        assert_eq!(part("bytes=2-"), Part::Bytes(2..10));
        assert_eq!(part("bytes=-3"), Part::Bytes(7..10));
        assert_eq!(part("bytes=-30"), Part::Bytes(0..10));
        assert_eq!(part("bytes=5-99999999999999999999"), Part::Whole);
        assert_eq!(part("bytes=5-18446744073709551615"), Part::Bytes(5..10));
        assert_eq!(part("bytes=10-"), Part::Unsatisfiable);
        assert_eq!(part("bytes=-0"), Part::Unsatisfiable);
        for ignored in ["bytes=4-2", "bytes=1-2,4-5", "lines=1-2", "bytes=", "bytes=-", "1-2", "bytes=+1-2"] {
            assert_eq!(part(ignored), Part::Whole, "{ignored}");
        }
    }

    #[test]
    fn if_range_wants_the_same_version() {
        let of = |condition: &str, ours: &[&str]| {
            part(&headers(&["range: bytes=0-0", &format!("if-range: {condition}")]), &headers(ours), 10)
        };
        assert_eq!(of("\"a\"", &["etag: \"a\""]), Part::Bytes(0..1));
        assert_eq!(of("\"a\"", &["etag: \"b\""]), Part::Whole);
        assert_eq!(of("W/\"a\"", OURS), Part::Whole);
        assert_eq!(of("Thu, 01 Jan 2026 11:00:00 GMT", OURS), Part::Bytes(0..1));
        assert_eq!(of("Thu, 01 Jan 2026 12:00:00 GMT", OURS), Part::Whole);
    }

    proptest! {
        #[test]
        fn a_part_is_never_outside_of_the_object(value in "bytes=[0-9]{0,20}-[0-9]{0,20}", length: u64) {
            if let Part::Bytes(range) = part(&headers(&[&format!("range: {value}")]), &HeaderMap::new(), length) {
                prop_assert!(range.start < range.end && range.end <= length);
            }
        }
    }
}
