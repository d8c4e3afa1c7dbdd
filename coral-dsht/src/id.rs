//! 160-bit identifiers, the XOR distance between them, and the distance a lookup aims at next [C04 §4.1].
//!
//! Nodes and keys share one space. Nothing here knows what is hashed into a key: that is the caller's.

use std::cmp::Ordering;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// Bytes of an identifier.
pub const ID_BYTES: usize = 20;

/// A point in the 160-bit space in which nodes, keys and clusters live.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Id([u8; ID_BYTES]);

/// As a 160-bit number.
impl Ord for Id {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        number(&self.0).cmp(&number(&other.0))
    }
}

impl PartialOrd for Id {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The identifier of a node: a hash of its address and port, so that nobody picks an id next to a victim key.
pub type NodeId = Id;

/// What a value is stored under: a hash of a canonical URL, a network prefix or a name.
pub type Key = Id;

/// The identifier of a cluster, drawn at random by the node that founded it.
pub type ClusterId = Id;

impl Id {
    /// The identifier with all bits zero. As a [`ClusterId`] it names the one global cluster.
    pub const ZERO: Self = Self([0; ID_BYTES]);

    /// The identifier with exactly these bytes, most significant first.
    pub const fn from_bytes(bytes: [u8; ID_BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes, most significant first.
    pub const fn as_bytes(&self) -> &[u8; ID_BYTES] {
        &self.0
    }

    /// The first 160 bits of SHA-256 over `parts`, each preceded by its length so that no two lists collide.
    ///
    /// The paper used SHA-1; nothing depends on the choice but that all nodes of a network make the same.
    pub fn hash(parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        let mut bytes = [0; ID_BYTES];
        bytes.copy_from_slice(&hasher.finalize()[..ID_BYTES]);
        Self(bytes)
    }

    /// The id that a node at `addr` has, and may only have [C04 §2.3].
    pub fn of_node(addr: SocketAddr) -> Self {
        let port = addr.port().to_be_bytes();
        match addr.ip().to_canonical() {
            IpAddr::V4(ip) => Self::hash(&[b"node", &ip.octets(), &port]),
            IpAddr::V6(ip) => Self::hash(&[b"node", &ip.octets(), &port]),
        }
    }

    /// What an announcement is known by: who has one of this id has the bytes.
    pub fn of_announcement(message: &[u8]) -> Self {
        Self::hash(&[b"announcement", message])
    }

    /// The XOR distance to `other`.
    #[inline]
    pub fn distance(&self, other: &Self) -> Distance {
        let ((a_high, a_low), (b_high, b_low)) = (number(&self.0), number(&other.0));
        Distance(bytes(a_high ^ b_high, a_low ^ b_low))
    }

    /// The id that lies at `distance` from this one: XOR is its own inverse.
    pub fn at_distance(&self, distance: &Distance) -> Self {
        Self(self.distance(&Self(distance.0)).0)
    }
}

/// Forty hexadecimal digits.
impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The first eight digits: enough to tell nodes apart in a log.
impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The text was not forty hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id is forty hexadecimal digits")]
pub struct ParseIdError;

impl FromStr for Id {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let digits = text.as_bytes();
        if digits.len() != 2 * ID_BYTES {
            return Err(ParseIdError);
        }
        let mut bytes = [0; ID_BYTES];
        for (out, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(ParseIdError);
            *out = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Ok(Self(bytes))
    }
}

impl serde::Serialize for Id {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Id {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// How far apart two identifiers are: their XOR, ordered as a 160-bit number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Distance([u8; ID_BYTES]);

impl Distance {
    /// The distance of an identifier to itself.
    pub const ZERO: Self = Self([0; ID_BYTES]);
    /// Farther than any two identifiers can be.
    pub const MAX: Self = Self([0xff; ID_BYTES]);

    /// The distance with exactly these bytes, most significant first.
    pub const fn from_bytes(bytes: [u8; ID_BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes, most significant first.
    pub const fn as_bytes(&self) -> &[u8; ID_BYTES] {
        &self.0
    }

    /// This distance halved `times` over, each time rounded down: what the next hop of a lookup aims at [C04 §4.1].
    pub fn halved(&self, times: usize) -> Self {
        let (high, low) = number(&self.0);
        // The four lowest bytes of `high`, and `low` behind them.
        let both = u64::from(high as u32) << 32 | u64::from(low);
        let low = if times < 160 { high.checked_shr(times.saturating_sub(32) as u32) } else { None };
        let low = if times < 32 { (both >> times) as u32 } else { low.unwrap_or(0) as u32 };
        Self(bytes(high.checked_shr(times as u32).unwrap_or(0), low))
    }

    /// The absolute difference of two distances, taken as numbers.
    #[inline]
    pub fn abs_diff(&self, other: &Self) -> Self {
        let (large, small) = if self >= other { (self, other) } else { (other, self) };
        let ((large_high, large_low), (small_high, small_low)) = (number(&large.0), number(&small.0));
        let (low, borrow) = large_low.overflowing_sub(small_low);
        Self(bytes(large_high - small_high - u128::from(borrow), low))
    }

    /// Whether the bit at `index` is set, counted from the most significant one.
    #[inline]
    pub fn has_bit(&self, index: usize) -> bool {
        self.0.get(index / 8).is_some_and(|byte| byte & (0x80 >> (index % 8)) != 0)
    }

    /// Bits in front of the first one that is set: 0 for the far half of the space, 160 for zero.
    pub fn leading_zeros(&self) -> usize {
        match number(&self.0) {
            (0, low) => 128 + low.leading_zeros() as usize,
            (high, _) => high.leading_zeros() as usize,
        }
    }
}

/// As a 160-bit number.
impl Ord for Distance {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        number(&self.0).cmp(&number(&other.0))
    }
}

impl PartialOrd for Distance {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// As a power of two, which is how people compare distances.
impl fmt::Display for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match 8 * ID_BYTES - self.leading_zeros() {
            0 => f.write_str("0"),
            bits => write!(f, "2^{}", bits - 1),
        }
    }
}

impl fmt::Debug for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Distance {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Id(self.0))
    }
}

/// The 160 bits as a number, in two words. Ids and distances are compared and subtracted in every step of a lookup:
/// word by word that takes a third of the time it takes byte by byte.
#[inline]
fn number(bytes: &[u8; ID_BYTES]) -> (u128, u32) {
    let (high, low) = bytes.split_first_chunk().expect("an id is longer than sixteen bytes");
    (u128::from_be_bytes(*high), u32::from_be_bytes(low.try_into().expect("sixteen and four are twenty")))
}

/// The inverse of [`number`].
#[inline]
fn bytes(high: u128, low: u32) -> [u8; ID_BYTES] {
    let mut bytes = [0; ID_BYTES];
    bytes[..16].copy_from_slice(&high.to_be_bytes());
    bytes[16..].copy_from_slice(&low.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn small(number: u8) -> Distance {
        let mut bytes = [0; ID_BYTES];
        bytes[ID_BYTES - 1] = number;
        Distance::from_bytes(bytes)
    }

    #[test]
    fn a_distance_is_written_as_a_power_of_two() {
        assert_eq!(small(0).to_string(), "0");
        assert_eq!(small(1).to_string(), "2^0");
        assert_eq!(small(13).to_string(), "2^3");
        assert_eq!(Distance::MAX.to_string(), "2^159");
    }

    #[test]
    fn an_id_of_a_node_is_the_same_for_a_mapped_address() {
        let plain = Id::of_node("192.0.2.1:4000".parse().unwrap());
        let mapped = Id::of_node("[::ffff:192.0.2.1]:4000".parse().unwrap());
        assert_eq!(plain, mapped);
        assert_ne!(plain, Id::of_node("192.0.2.1:4001".parse().unwrap()));
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(Id::hash(&[b"ab", b"c"]), Id::hash(&[b"a", b"bc"]));
    }

    #[test]
    fn text_that_is_no_id_is_refused() {
        for text in ["", "12", &"g".repeat(40), &"é".repeat(20), &"0".repeat(41)] {
            assert_eq!(text.parse::<Id>(), Err(ParseIdError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_comes_back(bytes: [u8; ID_BYTES]) {
            let id = Id::from_bytes(bytes);
            prop_assert_eq!(id.to_string().parse::<Id>(), Ok(id));
        }

        #[test]
        fn halving_is_a_shift(bytes: [u8; ID_BYTES], times in 0..200_usize) {
            let halved = Distance::from_bytes(bytes).halved(times);
            let bit = |distance: &Distance, index: usize| distance.has_bit(index);
            for index in 0..8 * ID_BYTES {
                let expected = index >= times && bit(&Distance::from_bytes(bytes), index - times);
                prop_assert_eq!(bit(&halved, index), expected);
            }
        }

        #[test]
        fn difference_is_that_of_numbers(a: u128, b: u128) {
            let of = |number: u128| {
                let mut bytes = [0; ID_BYTES];
                bytes[4..].copy_from_slice(&number.to_be_bytes());
                Distance::from_bytes(bytes)
            };
            prop_assert_eq!(of(a).abs_diff(&of(b)), of(a.abs_diff(b)));
        }

        #[test]
        fn a_difference_borrows_across_all_bytes(a: [u8; ID_BYTES], b: [u8; ID_BYTES]) {
            let (a, b) = (Distance::from_bytes(a), Distance::from_bytes(b));
            let (large, small) = if a.as_bytes() >= b.as_bytes() { (a, b) } else { (b, a) };
            prop_assert_eq!(a.cmp(&b), a.as_bytes().cmp(b.as_bytes()));
            // What was subtracted, added again by hand.
            let (difference, mut carry) = (a.abs_diff(&b), 0);
            for index in (0..ID_BYTES).rev() {
                let sum = u16::from(difference.as_bytes()[index]) + u16::from(small.as_bytes()[index]) + carry;
                prop_assert_eq!(sum as u8, large.as_bytes()[index]);
                carry = sum >> 8;
            }
        }

        #[test]
        fn what_lies_at_a_distance_has_it(a: [u8; ID_BYTES], b: [u8; ID_BYTES]) {
            let (a, b) = (Id::from_bytes(a), Id::from_bytes(b));
            prop_assert_eq!(a.at_distance(&a.distance(&b)), b);
        }
    }
}
