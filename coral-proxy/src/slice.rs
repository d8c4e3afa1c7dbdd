//! Slices: the parts that nodes share. A large object is fetched in pieces of one size, each with a key of its own, so that
//! the index knows who has which, and two who want the same place ask the origin once.
//!
//! Values in, values out. Slices are put together only where a strong validator tells that they are of one version
//! (RFC 9111 §3.4, RFC 9110 §15.3.7.3).

use coral_dsht::{Id, Key};
use http::StatusCode;
use http::header::{HeaderMap, HeaderValue};

use crate::partial::{Part, content_range};
use crate::version::Version;

/// Bytes of a slice; the last one of an object may be shorter. What nginx and Traffic Server take, and as much as an object
/// in memory may have: a slice needs no file. Larger ones make who seeks wait longer for what is before in the slice, smaller
/// ones make more requests and more keys of the same object.
pub const SLICE_BYTES: u64 = 1 << 20;

/// The key of a slice of the URL with the key `url`: in the index, and in the store.
pub fn slice_key(url: Key, number: u64) -> Key {
    Id::hash(&[b"slice", url.as_bytes(), &number.to_be_bytes()])
}

/// The number of the slice that the byte at this place is in.
pub const fn slice_at(place: u64) -> u64 {
    place / SLICE_BYTES
}

/// The place of the first byte of a slice.
pub const fn first_of(number: u64) -> u64 {
    number.saturating_mul(SLICE_BYTES)
}

/// The `Range` by which a slice is asked for, wherever the object ends.
pub fn range_of(number: u64) -> HeaderValue {
    let (first, last) = (first_of(number), first_of(number).saturating_add(SLICE_BYTES - 1));
    HeaderValue::from_str(&format!("bytes={first}-{last}")).expect("numbers are ASCII")
}

/// What an answer to a request for a slice is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Came {
    /// The slice, and how many bytes it has. Fewer may have come: as the version is known, the others can be asked for.
    Slice(Part, u64),
    /// The whole, of so many bytes, though it says that it is a part.
    Whole(u64),
    /// No part at all.
    Other,
    /// A part of which no slice can be made: of another place, of a whole whose length is not told, or of no version that
    /// could be told from others.
    Unusable,
}

impl Came {
    /// What an answer with this head and a body of `length` bytes is, to a request for slice `number`.
    pub fn of(number: u64, status: StatusCode, headers: &HeaderMap, length: Option<u64>) -> Self {
        if status != StatusCode::PARTIAL_CONTENT {
            return Self::Other;
        }
        let (Some((place, total)), Some(length)) = (content_range(headers), length) else {
            return Self::Unusable;
        };
        let part = part(number, total);
        let end = part.first.saturating_add(SLICE_BYTES).min(total);
        if place.start != part.first || place.end > end || length > place.end - place.start {
            return Self::Unusable;
        }
        let full = end - part.first;
        let has_version = Version::of(status, headers, Some(full), Some(&part)).is_some();
        match number == 0 && end == total {
            true if has_version || length == full => Self::Whole(full),
            false if has_version => Self::Slice(part, full),
            _ => Self::Unusable,
        }
    }
}

/// The slice that a stored response with this head and a body of `length` bytes is.
pub(crate) fn stored(headers: &HeaderMap, length: u64) -> Option<Part> {
    let (place, total) = content_range(headers)?;
    let part = part(slice_at(place.start), total);
    let end = part.first.saturating_add(SLICE_BYTES).min(total);
    (place.start == part.first && length == end - part.first).then_some(part)
}

fn part(number: u64, total: u64) -> Part {
    Part { first: first_of(number), total, asked: range_of(number), is_slice: true }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;
    use crate::headers::of_lines as headers;

    const TAG: &str = "etag: \"a\"";

    fn came(number: u64, fields: &[&str], place: &str, length: u64) -> Came {
        let place = format!("content-range: bytes {place}");
        let head = headers(&[fields, &[&place]].concat());
        Came::of(number, StatusCode::PARTIAL_CONTENT, &head, Some(length))
    }

    fn check(number: u64, fields: &[&str], place: &str, length: u64, expected: Expect) {
        let word = match came(number, fields, place, length) {
            Came::Slice(part, length) => format!("{length} from {} of {}", part.first, part.total),
            Came::Whole(length) => format!("the whole, {length}"),
            Came::Other => "no part".to_owned(),
            Came::Unusable => "unusable".to_owned(),
        };
        expected.assert_eq(&word);
    }

    #[test]
    fn an_answer_is_the_slice_if_it_begins_there_and_its_version_is_known() {
        check(1, &[TAG], "1048576-2097151/3000000", 1_048_576, expect!["1048576 from 1048576 of 3000000"]);
        check(2, &[TAG], "2097152-2999999/3000000", 902_848, expect!["902848 from 2097152 of 3000000"]);
        check(1, &[TAG], "1048576-1048675/3000000", 100, expect!["1048576 from 1048576 of 3000000"]);
        check(1, &[TAG], "1048576-2097151/3000000", 100, expect!["1048576 from 1048576 of 3000000"]);
        check(1, &[], "1048576-2097151/3000000", 1_048_576, expect!["unusable"]);
        check(1, &["etag: W/\"a\""], "1048576-2097151/3000000", 1_048_576, expect!["unusable"]);
        check(1, &[TAG], "1048577-2097151/3000000", 1_048_575, expect!["unusable"]);
        check(1, &[TAG], "1048576-2097152/3000000", 1_048_577, expect!["unusable"]);
        check(1, &[TAG], "1048576-2097151/3000000", 1_048_577, expect!["unusable"]);
        check(1, &[TAG], "1048576-2097151/*", 1_048_576, expect!["unusable"]);
        check(1, &[TAG], "0-1048575/3000000", 1_048_576, expect!["unusable"]);
    }

    #[test]
    fn what_ends_within_the_first_slice_is_the_whole() {
        check(0, &[], "0-19/20", 20, expect!["the whole, 20"]);
        check(0, &[TAG], "0-9/20", 10, expect!["the whole, 20"]);
        check(0, &[], "0-9/20", 10, expect!["unusable"]);
        check(0, &[TAG], "0-1048575/1048576", 1_048_576, expect!["the whole, 1048576"]);
        check(0, &[TAG], "0-1048575/1048577", 1_048_576, expect!["1048576 from 0 of 1048577"]);
    }

    #[test]
    fn what_is_no_part_or_does_not_tell_its_length_is_no_slice() {
        assert_eq!(Came::of(0, StatusCode::OK, &headers(&[TAG]), Some(20)), Came::Other);
        let head = headers(&[TAG, "content-range: bytes 0-19/20"]);
        assert_eq!(Came::of(0, StatusCode::PARTIAL_CONTENT, &head, None), Came::Unusable);
    }

    #[test]
    fn the_last_place_of_all_has_a_slice() {
        let number = slice_at(u64::MAX);
        assert_eq!(range_of(number), "bytes=18446744073708503040-18446744073709551615");
        assert_ne!(slice_key(Id::hash(&[b"k"]), number), slice_key(Id::hash(&[b"k"]), number - 1));
    }

    proptest! {
        #[test]
        fn a_slice_lies_within_its_bounds_and_is_known_again(
            number in 0_u64..4, first in 0_u64..5, short in 0_u64..3, total in 1_u64..5_000_000,
        ) {
            let place = (first_of(number) + first).saturating_sub(2);
            prop_assume!(place < total);
            let last = (place + SLICE_BYTES - 1 - short).min(total - 1);
            let length = last - place + 1;
            match came(number, &[TAG], &format!("{place}-{last}/{total}"), length) {
                Came::Slice(part, full) => {
                    prop_assert!(place == part.first && part.first == first_of(number));
                    prop_assert!(length <= full && full <= SLICE_BYTES && part.first + full <= total);
                    if length == full {
                        let head = headers(&[&format!("content-range: bytes {place}-{last}/{total}")]);
                        prop_assert_eq!(stored(&head, full), Some(part));
                    }
                }
                Came::Whole(full) => prop_assert!(number == 0 && full == total && total <= SLICE_BYTES),
                Came::Other => prop_assert!(false),
                Came::Unusable => prop_assert!(place != first_of(number)),
            }
        }
    }
}
