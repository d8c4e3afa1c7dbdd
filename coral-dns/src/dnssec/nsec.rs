//! Compact denial of existence (RFC 9824): an NSEC record (RFC 4034 §4) of the very name that was asked for, which says
//! what is there, and that nothing is between it and its successor. Names in, bytes out; names are as they go over the
//! wire, in lower case.

use crate::wire::MAX_NAME_BYTES;

/// The longest label (RFC 1035 §2.3.4).
const MAX_LABEL_BYTES: usize = 63;

/// The data of the NSEC record of `name`, which has these `types`. They may come in any order, and more than once.
pub fn data(name: &[u8], types: &[u16]) -> Vec<u8> {
    let mut data = successor(name);
    bitmap(&mut data, types);
    data
}

/// A name behind `name` in canonical order (RFC 4034 §6.1), with none between that could exist: `\000` in front of it, which
/// is right behind it (RFC 9824 §3.1). A name too long for that has nothing beneath it.
fn successor(name: &[u8]) -> Vec<u8> {
    if name.len() + 2 <= MAX_NAME_BYTES { [&[1, 0], name].concat() } else { beyond(name) }
}

/// A name behind `name` and all that is beneath it: with a longer first label, or else with the next one of its length
/// (RFC 4471 §3.1).
fn beyond(name: &[u8]) -> Vec<u8> {
    let length = name.first().copied().map_or(0, usize::from);
    if length == 0 {
        // All labels are the greatest there are, those of the zone too: none of ours.
        return name.to_vec();
    }
    let (label, rest) = (&name[1..=length], &name[1 + length..]);
    if name.len() < MAX_NAME_BYTES && length < MAX_LABEL_BYTES {
        return [&[length as u8 + 1], label, &[0], rest].concat();
    }
    // The last byte that can be greater decides; what follows it goes.
    for end in (0..length).rev() {
        let byte = match label[end] {
            0xff => continue,
            // What would follow is a capital letter, which counts as a small one.
            b'@' => b'[',
            byte => byte + 1,
        };
        return [&[end as u8 + 1], &label[..end], &[byte], rest].concat();
    }
    beyond(rest)
}

/// Types as windows of bits (RFC 4034 §4.1.2).
fn bitmap(out: &mut Vec<u8>, types: &[u16]) {
    let mut types = types.to_vec();
    types.sort_unstable();
    for window in types.chunk_by(|one, next| one >> 8 == next >> 8) {
        let last = window[window.len() - 1];
        let mut bits = [0_u8; 32];
        for number in window {
            bits[usize::from(number & 0xff) / 8] |= 0x80 >> (number & 7);
        }
        let length = usize::from(last & 0xff) / 8 + 1;
        out.extend_from_slice(&[(last >> 8) as u8, length as u8]);
        out.extend_from_slice(&bits[..length]);
    }
}

#[cfg(test)]
mod tests {
    use hickory_server::proto::rr::Name;
    use hickory_server::proto::serialize::binary::BinDecodable;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bitmap_of_rfc_4034_4_3() {
        let mut bits = Vec::new();
        bitmap(&mut bits, &[1234, 1, 15, 47, 46, 1]);
        let mut wanted = vec![0, 6, 0x40, 0x01, 0, 0, 0, 0x03, 4, 27];
        wanted.extend([0; 26]);
        wanted.push(0x20);
        assert_eq!(bits, wanted);
    }

    #[test]
    fn a_name_without_room_in_front_is_followed_all_the_same() {
        let long = |first: &[u8]| {
            let mut name = vec![first.len() as u8];
            name.extend_from_slice(first);
            while name.len() < 253 {
                let length = (254 - name.len() - 1).min(63);
                name.push(length as u8);
                name.extend(vec![b'x'; length]);
            }
            name.push(0);
            name
        };
        let name = long(b"ab@");
        assert_eq!(name.len(), 255);
        assert_eq!(successor(&name)[..4], *b"\x03ab[");
        let next = successor(&long(b"a\xff\xff"));
        assert_eq!(next[..3], *b"\x01b\x3f");
        let next = successor(&long(&[0xff; 63]));
        assert_eq!((next[0], next[63], next[64]), (63, b'y', 63), "the label behind it");
        assert_eq!(successor(b"\x01a\0"), b"\x01\0\x01a\0");
    }

    proptest! {
        /// By hickory's order, which is the canonical one.
        #[test]
        fn a_successor_is_a_name_behind(labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..64), 1..9)) {
            let mut name = Vec::new();
            for label in labels {
                if name.len() + label.len() + 1 < MAX_NAME_BYTES {
                    name.push(label.len() as u8);
                    name.extend(label.to_ascii_lowercase());
                }
            }
            name.push(0);
            let next = successor(&name);
            prop_assert!(next.len() <= MAX_NAME_BYTES);
            let [name, next] = [name, next].map(|bytes| Name::from_bytes(&bytes).unwrap());
            prop_assert!(next > name, "{next} {name}");
        }
    }
}
