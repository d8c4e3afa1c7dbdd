//! What is missing of a body that broke off: how it is asked for, and whether an answer is it (RFC 9110 §13.1.5, §15.3.7).
//!
//! Only bytes of the very same version are put together, and only a strong validator tells that (RFC 9111 §3.4).

use std::ops::Range;
use std::time::Duration;

use coral_dsht::Id;
use http::StatusCode;
use http::header::{CONTENT_ENCODING, DATE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_RANGE, LAST_MODIFIED, RANGE};

use crate::partial::{Part, content_range};
use crate::policy::date;

/// By how much an origin must have sent a response later than it changed it for the date of the change to name one version
/// alone. RFC 9110 §8.8.2.2 wants enough for clocks to differ; RFC 7232 §2.2.2 had this figure.
const SETTLED: Duration = Duration::from_secs(60);
/// Bytes of a body that are read once more, at most, from who knows no ranges. Readers stand still meanwhile, and other
/// nodes would take this one for dead.
const MOST_READ_AGAIN: u64 = 16 * 1024 * 1024;

/// One version of a representation, and which bytes of it a body has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The field, and what is in it.
    validator: (HeaderName, HeaderValue),
    coding: Vec<HeaderValue>,
    body: Range<u64>,
    /// Bytes of the whole.
    total: u64,
}

impl Version {
    /// The version that a response with this head and a body of `length` bytes is of; `part` says which bytes, if they are
    /// not the whole. `None` if no other response could be told to be of the same one, or its end is not known.
    pub fn of(status: StatusCode, headers: &HeaderMap, length: Option<u64>, part: Option<&Part>) -> Option<Self> {
        let length = length?;
        let (first, total) = match part {
            Some(part) => (part.first, part.total),
            None if status == StatusCode::OK => (0, length),
            None => return None,
        };
        let body = first..first.checked_add(length)?;
        Some(Self { validator: strong_validator(headers)?, coding: coding(headers), body, total })
    }

    /// Whether both are of one version of the same whole, whichever bytes they have.
    pub fn is_same(&self, other: &Self) -> bool {
        self.validator == other.validator && self.coding == other.coding && self.total == other.total
    }

    /// Bytes of the whole.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// A hash of it, by which it is told from others where there is no room for all of it. Bytes of different places are of different ones.
    pub(crate) fn tag(&self) -> Id {
        let (field, value) = &self.validator;
        let numbers = [self.body.start, self.body.end, self.total].map(u64::to_be_bytes);
        let mut parts = vec![&b"version"[..], field.as_str().as_bytes(), value.as_bytes()];
        parts.extend(numbers.iter().map(|number| &number[..]));
        parts.extend(self.coding.iter().map(HeaderValue::as_bytes));
        Id::hash(&parts)
    }

    /// Makes `request` one for what is missing after `so_far` bytes of the body.
    pub fn ask_for_rest(&self, request: &mut HeaderMap, so_far: u64) {
        let range = format!("bytes={}-{}", self.body.start + so_far, self.body.end.saturating_sub(1));
        request.insert(RANGE, HeaderValue::from_str(&range).expect("numbers are ASCII"));
        request.insert(IF_RANGE, self.validator.1.clone());
    }

    /// How many bytes of an answer come before what is missing after `so_far` bytes; `None` if it has not got that.
    ///
    /// A 200 of the same version is as good, up to a bound: who else asked, since this body ended, would get the same. It
    /// need not have all of what is missing.
    pub fn rest_in(&self, status: StatusCode, headers: &HeaderMap, length: Option<u64>, so_far: u64) -> Option<u64> {
        let (field, value) = &self.validator;
        if headers.get(field) != Some(value) || coding(headers) != self.coding {
            return None;
        }
        let missing = self.body.start + so_far..self.body.end;
        match status {
            StatusCode::PARTIAL_CONTENT => {
                let (place, total) = content_range(headers)?;
                let fits = place.start == missing.start && place.end <= missing.end && total == self.total;
                (fits && length == Some(place.end - place.start)).then_some(0)
            }
            StatusCode::OK => {
                let whole = self.body == (0..self.total) && length == Some(self.total);
                (whole && missing.start <= MOST_READ_AGAIN).then_some(missing.start)
            }
            _ => None,
        }
    }
}

/// The validator that tells a version from all others, if there is one (RFC 9110 §8.8.1).
fn strong_validator(headers: &HeaderMap) -> Option<(HeaderName, HeaderValue)> {
    if let Some(tag) = headers.get(ETAG) {
        // RFC 9110 §13.1.5: where there is a tag, be it a weak one, no date takes its place.
        return tag.as_bytes().starts_with(b"\"").then(|| (ETAG, tag.clone()));
    }
    let modified = date(headers, &LAST_MODIFIED)?;
    let later = date(headers, &DATE)?.duration_since(modified).ok()?;
    (later >= SETTLED).then(|| (LAST_MODIFIED, headers[LAST_MODIFIED].clone()))
}

/// Some servers give one tag to a file and to its compressed form.
fn coding(headers: &HeaderMap) -> Vec<HeaderValue> {
    headers.get_all(CONTENT_ENCODING).iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;
    use crate::headers::of_lines as headers;

    const TAG: &str = "etag: \"a\"";

    /// The version of a 200 of ten bytes with these fields.
    fn of_ten(lines: &[&str]) -> Option<Version> {
        Version::of(StatusCode::OK, &headers(lines), Some(10), None)
    }

    #[test]
    fn only_what_a_strong_validator_tells_apart_is_a_version() {
        let check = |lines: &[&str], field: Option<HeaderName>| {
            assert_eq!(of_ten(lines).map(|version| version.validator.0), field, "{lines:?}");
        };
        let (noon, date) = ("last-modified: Thu, 01 Jan 2026 12:00:00 GMT", "date: Thu, 01 Jan 2026 12:01:00 GMT");
        check(&[TAG], Some(ETAG));
        check(&[noon, date], Some(LAST_MODIFIED));
        check(&[TAG, noon, date], Some(ETAG));
        check(&["etag: W/\"a\"", noon, date], None);
        check(&["etag: a"], None);
        check(&[noon, "date: Thu, 01 Jan 2026 12:00:59 GMT"], None);
        check(&[noon, "date: Thu, 01 Jan 2026 11:00:00 GMT"], None);
        check(&[noon], None);
        check(&[date], None);
    }

    #[test]
    fn without_an_end_or_with_another_status_there_is_none() {
        let of = |status, length| Version::of(status, &headers(&[TAG]), length, None);
        assert!(of(StatusCode::OK, Some(0)).is_some());
        assert_eq!(of(StatusCode::OK, None), None);
        assert_eq!(of(StatusCode::NOT_FOUND, Some(10)), None);
        assert_eq!(of(StatusCode::PARTIAL_CONTENT, Some(10)), None, "which part it is is not known");
    }

    #[test]
    fn versions_are_told_apart_by_their_tags() {
        let [noon, one] = [12, 13].map(|hour| format!("last-modified: Thu, 01 Jan 2026 {hour}:00:00 GMT"));
        let date = "date: Thu, 01 Jan 2026 20:00:00 GMT";
        let whole: [&[&str]; 6] = [
            &[TAG],
            &["etag: \"b\""],
            &[TAG, "content-encoding: br"],
            &[TAG, "content-encoding: gzip"],
            &[&noon, date],
            &[&one, date],
        ];
        let mut tags: Vec<Id> = whole.iter().map(|lines| of_ten(lines).unwrap().tag()).collect();
        tags.push(Version::of(StatusCode::OK, &headers(&[TAG]), Some(11), None).unwrap().tag());
        for place in ["0-9", "10-19"] {
            let (head, sought) =
                (headers(&[TAG, &format!("content-range: bytes {place}/20")]), HeaderValue::from_static("bytes=0-9"));
            let part = Part::of(StatusCode::PARTIAL_CONTENT, &head, Some(10), &sought).unwrap();
            tags.push(Version::of(StatusCode::PARTIAL_CONTENT, &head, Some(10), Some(&part)).unwrap().tag());
        }
        let count = tags.len();
        tags.sort();
        tags.dedup();
        assert_eq!(tags.len(), count);
        assert_eq!(of_ten(&[TAG, "x: 1"]).unwrap().tag(), of_ten(&[TAG]).unwrap().tag());
    }

    #[test]
    fn the_rest_is_asked_for_of_this_version_and_to_the_end_of_the_body() {
        let asked = |version: Version, so_far| {
            let mut request = HeaderMap::new();
            version.ask_for_rest(&mut request, so_far);
            format!("{} {}", request[RANGE].to_str().unwrap(), request[IF_RANGE].to_str().unwrap())
        };
        assert_eq!(asked(of_ten(&[TAG]).unwrap(), 4), "bytes=4-9 \"a\"");
        let head = headers(&[TAG, "content-range: bytes 100-109/200"]);
        let sought = HeaderValue::from_static("bytes=100-109");
        let part = Part::of(StatusCode::PARTIAL_CONTENT, &head, Some(10), &sought).unwrap();
        let version = Version::of(StatusCode::PARTIAL_CONTENT, &head, Some(10), Some(&part));
        assert_eq!(asked(version.unwrap(), 4), "bytes=104-109 \"a\"");
    }

    /// What an answer with these fields is worth to one who has 4 bytes of 10.
    fn check(status: u16, lines: &[&str], length: u64, expected: Expect) {
        let version = of_ten(&[TAG, "content-encoding: br"]).unwrap();
        let status = StatusCode::from_u16(status).unwrap();
        let found = version.rest_in(status, &headers(lines), Some(length), 4);
        expected.assert_eq(&found.map_or("not the rest".to_owned(), |before| format!("after {before} bytes")));
    }

    #[test]
    fn the_same_version_from_the_missing_byte_on_is_the_rest() {
        const CODING: &str = "content-encoding: br";
        check(206, &[TAG, CODING, "content-range: bytes 4-9/10"], 6, expect!["after 0 bytes"]);
        check(206, &[TAG, CODING, "content-range: bytes 4-7/10"], 4, expect!["after 0 bytes"]);
        check(200, &[TAG, CODING], 10, expect!["after 4 bytes"]);
        let others: [(u16, &[&str], u64); 11] = [
            (206, &[TAG, CODING, "content-range: bytes 3-9/10"], 7),
            (206, &[TAG, CODING, "content-range: bytes 5-9/10"], 5),
            (206, &[TAG, CODING, "content-range: bytes 4-9/11"], 6),
            (206, &[TAG, CODING, "content-range: bytes 4-9/*"], 6),
            (206, &[TAG, CODING, "content-range: bytes 4-9/10"], 5),
            (206, &[TAG, CODING, "content-range: bytes 4-10/10"], 7),
            (206, &["etag: \"b\"", CODING, "content-range: bytes 4-9/10"], 6),
            (206, &[CODING, "content-range: bytes 4-9/10"], 6),
            (206, &[TAG, "content-range: bytes 4-9/10"], 6),
            (200, &[TAG, CODING], 11),
            (404, &[TAG, CODING], 10),
        ];
        for (status, lines, length) in others {
            check(status, lines, length, expect!["not the rest"]);
        }
    }

    #[test]
    fn a_part_is_not_continued_from_the_whole_nor_after_many_bytes() {
        let (head, sought) = (headers(&[TAG, "content-range: bytes 0-9/200"]), HeaderValue::from_static("bytes=0-9"));
        let part = Part::of(StatusCode::PARTIAL_CONTENT, &head, Some(10), &sought).unwrap();
        let version = Version::of(StatusCode::PARTIAL_CONTENT, &head, Some(10), Some(&part)).unwrap();
        assert_eq!(version.rest_in(StatusCode::OK, &headers(&[TAG]), Some(200), 4), None);
        let length = Some(MOST_READ_AGAIN + 2);
        let large = Version::of(StatusCode::OK, &headers(&[TAG]), length, None).unwrap();
        let before = |so_far| large.rest_in(StatusCode::OK, &headers(&[TAG]), length, so_far);
        assert_eq!(before(MOST_READ_AGAIN), Some(MOST_READ_AGAIN));
        assert_eq!(before(MOST_READ_AGAIN + 1), None);
    }

    proptest! {
        #[test]
        fn what_is_taken_for_the_rest_begins_where_the_body_broke_off_and_ends_within(
            length in 1_u64..1000, so_far in 0_u64..1000, first in 0_u64..1000, last in 0_u64..1000, total in 1_u64..1000,
        ) {
            prop_assume!(so_far < length);
            let version = Version::of(StatusCode::OK, &headers(&[TAG]), Some(length), None).unwrap();
            let head = headers(&[TAG, &format!("content-range: bytes {first}-{last}/{total}")]);
            let answered = last.checked_sub(first).map(|more| more + 1);
            if version.rest_in(StatusCode::PARTIAL_CONTENT, &head, answered, so_far).is_some() {
                prop_assert!(first == so_far && last < length && total == length);
            }
        }
    }
}
