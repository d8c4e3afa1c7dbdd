//! A stored part of an object: a response with 206 and one range (RFC 9110 §15.3.7.1).

use std::fmt;
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
    /// Whether it is a slice ([`crate::slice`]), which all nodes ask for alike. Any other part is what one client has asked for.
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

/// Where a part lies in its whole, by its own word: how other nodes know whether it has what they want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    first: u64,
    last: u64,
    total: u64,
}

/// Bytes of a place: three numbers of six bytes.
pub(crate) const PLACE_BYTES: usize = 3 * NUMBER_BYTES;
const NUMBER_BYTES: usize = 6;

/// As in `Content-Range` (RFC 9110 §14.4).
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {}-{}/{}", self.first, self.last, self.total)
    }
}

impl Place {
    /// What a stored part with this head says of itself. `None` if it does not say it, or the whole has 2^48 bytes or more.
    ///
    /// It may have less than it says ([`Part::of`]). Who asks for that is told that it is not here.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let (place, total) = content_range(headers)?;
        Self { first: place.start, last: place.end - 1, total }.checked()
    }

    /// Whether all of what is wanted lies within it.
    pub fn has(self, wants: Wants) -> bool {
        let wanted = wants.of(self.total);
        !wanted.is_empty() && self.first <= wanted.start && wanted.end - 1 <= self.last
    }

    /// As it stands in a reference.
    pub fn to_bytes(self) -> [u8; PLACE_BYTES] {
        let mut bytes = [0; PLACE_BYTES];
        for (field, number) in bytes.chunks_exact_mut(NUMBER_BYTES).zip([self.first, self.last, self.total]) {
            field.copy_from_slice(&number.to_be_bytes()[8 - NUMBER_BYTES..]);
        }
        bytes
    }

    /// The one with which `bytes` begin, and what is behind it. `None` if no part could be there.
    pub fn from_bytes(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (place, behind) = bytes.split_at_checked(PLACE_BYTES)?;
        let mut numbers = place.chunks_exact(NUMBER_BYTES).map(|field| {
            let mut number = [0; 8];
            number[8 - NUMBER_BYTES..].copy_from_slice(field);
            u64::from_be_bytes(number)
        });
        let place = Self { first: numbers.next()?, last: numbers.next()?, total: numbers.next()? };
        Some((place.checked()?, behind))
    }

    fn checked(self) -> Option<Self> {
        let fits = self.total >> (8 * NUMBER_BYTES) == 0;
        (self.first <= self.last && self.last < self.total && fits).then_some(self)
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

    fn place(range: &str) -> Option<Place> {
        Place::of(&headers(&[&format!("content-range: {range}")]))
    }

    #[test]
    fn a_place_has_what_lies_within_it_by_the_length_of_the_whole() {
        let at_the_end = place("bytes 4-9/10").unwrap();
        for (range, expected) in [
            ("bytes=4-9", true),
            ("bytes=6-8", true),
            ("bytes=6-", true),
            ("bytes=9-99", true),
            ("bytes=-5", true),
            ("bytes=3-5", false),
            ("bytes=-7", false),
            ("bytes=-0", false),
            ("bytes=10-", false),
        ] {
            assert_eq!(at_the_end.has(wants(range)), expected, "{range}");
        }
        let within = place("bytes 4-9/20").unwrap();
        assert!(within.has(wants("bytes=4-9")) && !within.has(wants("bytes=4-")) && !within.has(wants("bytes=9-10")));
    }

    #[test]
    fn a_place_of_which_a_reference_cannot_tell_is_none() {
        assert_eq!(place("bytes 4-9/*"), None);
        assert!(place("bytes 4-9/281474976710655").is_some());
        assert_eq!(place("bytes 4-9/281474976710656"), None);
        let bytes = |first: u8, last: u8, total: u8| {
            [[0, 0, 0, 0, 0, first], [0, 0, 0, 0, 0, last], [0, 0, 0, 0, 0, total]].concat()
        };
        assert_eq!(Place::from_bytes(&bytes(4, 9, 10)), Some((place("bytes 4-9/10").unwrap(), &[][..])));
        for (first, last, total) in [(9, 4, 10), (4, 10, 10), (0, 0, 0)] {
            assert_eq!(Place::from_bytes(&bytes(first, last, total)), None, "{first}-{last}/{total}");
        }
        assert_eq!(Place::from_bytes(&bytes(4, 9, 10)[1..]), None);
    }

    proptest! {
        #[test]
        fn a_place_has_exactly_what_its_part_would_be_cut_to(first in 0_u64..20, last in 0_u64..20, total in 0_u64..22, range in "bytes=[0-9]{0,2}-[0-9]{0,2}") {
            let text = format!("bytes {first}-{last}/{total}");
            if let (Some(place), Some(wants)) = (place(&text), wanted_range(&headers(&[&format!("range: {range}")]))) {
                let length = last - first + 1;
                prop_assert_eq!(place.has(wants), part(&text, length).unwrap().cut(wants, length).is_some());
            }
        }

        #[test]
        fn any_bytes_are_read_as_a_place_that_can_be_or_as_none(bytes in prop::collection::vec(any::<u8>(), 0..30), behind: Vec<u8>) {
            if let Some((place, rest)) = Place::from_bytes(&bytes) {
                prop_assert!(place.first <= place.last && place.last < place.total);
                prop_assert_eq!([&place.to_bytes()[..], rest].concat(), bytes);
                let bytes = [&place.to_bytes()[..], &behind].concat();
                prop_assert_eq!(Place::from_bytes(&bytes), Some((place, &behind[..])));
            }
        }

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
