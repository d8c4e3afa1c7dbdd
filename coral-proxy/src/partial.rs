//! A stored part of an object: a response with 206 and one range (RFC 9110 §15.3.7.1).

use std::ops::Range;

use coral_dsht::{Id, Key};
use http::StatusCode;
use http::header::{CONTENT_RANGE, HeaderMap, HeaderValue};

use crate::conditional::Wants;

/// Which part of what a stored response is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The offset of its first byte.
    pub first: u64,
    /// Bytes of the whole.
    pub total: u64,
    /// The `Range` that it answers. The same one again gets the same answer.
    pub asked: HeaderValue,
    /// Whether it is a slice ([`crate::slice`]), which other nodes may have, too. Any other part is kept here for those who ask here.
    pub is_slice: bool,
}

impl Part {
    /// The part that a response with this head and an announced body of `length` bytes is, to a request with `asked`.
    ///
    /// `None` if it is no single part, its place or the whole's length is not told, or it is more than it is said to be. Of
    /// one with less the rest is missing (RFC 9111 §3.3), and what is there counts.
    pub fn of(status: StatusCode, headers: &HeaderMap, length: Option<u64>, asked: &HeaderValue) -> Option<Self> {
        if status != StatusCode::PARTIAL_CONTENT {
            return None;
        }
        let (place, total) = content_range(headers)?;
        let fits = length.is_some_and(|length| length <= place.end - place.start);
        fits.then(|| Self { first: place.start, total, asked: asked.clone(), is_slice: false })
    }

    /// The `Content-Range` of its first `length` bytes, which are all of it or some.
    pub(crate) fn place(&self, length: u64) -> HeaderValue {
        let last = (self.first + length).saturating_sub(1);
        HeaderValue::from_str(&format!("bytes {}-{last}/{}", self.first, self.total)).expect("numbers are ASCII")
    }

    /// Where the bytes are that `wants` names, within a body of `length` bytes; `None` unless all of them are here.
    pub fn cut(&self, wants: Wants, length: u64) -> Option<Range<u64>> {
        let wanted = wants.of(self.total);
        let here = self.first..self.first.saturating_add(length).min(self.total);
        let inside = !wanted.is_empty() && here.start <= wanted.start && wanted.end <= here.end;
        inside.then(|| wanted.start - self.first..wanted.end - self.first)
    }
}

/// The key under which the part of a variant is stored.
pub fn part_key(variant: Key) -> Key {
    Id::hash(&[b"part", variant.as_bytes()])
}

/// The bytes that a 206 says it has, and how many the whole has (RFC 9110 §14.4). `None` unless both are told, once.
pub(crate) fn content_range(headers: &HeaderMap) -> Option<(Range<u64>, u64)> {
    let mut values = headers.get_all(CONTENT_RANGE).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let (place, total) = value.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = place.split_once('-')?;
    let (first, last, total) = (number(first)?, number(last)?, number(total)?);
    // RFC 9110 §14.4 calls the others invalid. As the total is larger, one may be added.
    (first <= last && last < total).then(|| (first..last + 1, total))
}

fn number(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::conditional::wanted_range;
    use crate::headers::of_lines as headers;

    fn part(range: &str, length: u64) -> Option<Part> {
        let asked = HeaderValue::from_static("bytes=4-9");
        Part::of(StatusCode::PARTIAL_CONTENT, &headers(&[&format!("content-range: {range}")]), Some(length), &asked)
    }

    fn wants(range: &str) -> Wants {
        wanted_range(&headers(&[&format!("range: {range}")])).unwrap()
    }

    #[test]
    fn what_is_inside_is_cut_and_what_is_not_all_there_is_not() {
        let part = part("bytes 4-9/20", 6).unwrap();
        assert_eq!(part.cut(wants("bytes=4-9"), 6), Some(0..6));
        assert_eq!(part.cut(wants("bytes=6-8"), 6), Some(2..5));
        for outside in ["bytes=3-5", "bytes=9-10", "bytes=6-", "bytes=-2", "bytes=30-31"] {
            assert_eq!(part.cut(wants(outside), 6), None, "{outside}");
        }
        assert_eq!(part.cut(wants("bytes=8-9"), 5), None, "of which the last byte never came");
    }

    #[test]
    fn the_end_of_a_whole_is_known_by_its_length() {
        let part = part("bytes 4-9/10", 6).unwrap();
        assert_eq!(part.cut(wants("bytes=6-"), 6), Some(2..6));
        assert_eq!(part.cut(wants("bytes=-1"), 6), Some(5..6));
        assert_eq!(part.cut(wants("bytes=8-99"), 6), Some(4..6));
        assert_eq!(part.cut(wants("bytes=-7"), 6), None);
    }

    #[test]
    fn what_does_not_say_what_it_is_is_no_part() {
        for invalid in [
            "bytes 4-9/*",
            "bytes */10",
            "bytes 9-4/10",
            "bytes 4-10/10",
            "items 4-9/10",
            "4-9/10",
            "bytes 4-9",
            "bytes +4-9/10",
        ] {
            assert_eq!(part(invalid, 6), None, "{invalid}");
        }
        assert_eq!(part("bytes 4-9/10", 7), None, "more than it is said to be");
        let asked = HeaderValue::from_static("bytes=4-9");
        let head = headers(&["content-range: bytes 4-9/10"]);
        assert_eq!(Part::of(StatusCode::OK, &head, Some(6), &asked), None);
        assert_eq!(Part::of(StatusCode::PARTIAL_CONTENT, &head, None, &asked), None);
    }

    proptest! {
        #[test]
        fn a_cut_is_never_outside(first: u64, last: u64, total: u64, length: u64, range in "bytes=[0-9]{0,20}-[0-9]{0,20}") {
            let wants = wanted_range(&headers(&[&format!("range: {range}")]));
            if let (Some(part), Some(wants)) = (part(&format!("bytes {first}-{last}/{total}"), length), wants)
                && let Some(cut) = part.cut(wants, length)
            {
                prop_assert!(cut.start < cut.end && cut.end <= length);
            }
        }
    }
}
