//! 160-bit identifiers, the XOR distance between them, and the distance a lookup aims at next [C04 §4.1].
//!
//! Nodes and keys share one space. Nothing here knows what is hashed into a key: that is the caller's.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// Bytes of an identifier.
pub const ID_BYTES: usize = 20;

/// A point in the 160-bit space in which nodes, keys and clusters live.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Id([u8; ID_BYTES]);

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

    /// The XOR distance to `other`.
    pub fn distance(&self, other: &Self) -> Distance {
        let mut bytes = [0; ID_BYTES];
        for (out, (a, b)) in bytes.iter_mut().zip(self.0.iter().zip(&other.0)) {
            *out = a ^ b;
        }
        Distance(bytes)
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
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
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

    /// Half of this distance, rounded down: what the next hop of a lookup aims at [C04 §4.1].
    pub fn halved(&self) -> Self {
        let mut bytes = [0; ID_BYTES];
        let mut carry = 0;
        for (out, byte) in bytes.iter_mut().zip(&self.0) {
            *out = (byte >> 1) | (carry << 7);
            carry = byte & 1;
        }
        Self(bytes)
    }

    /// The absolute difference of two distances, taken as numbers.
    pub fn abs_diff(&self, other: &Self) -> Self {
        let (large, small) = if self >= other { (self, other) } else { (other, self) };
        let mut bytes = [0; ID_BYTES];
        let mut borrow = 0;
        for index in (0..ID_BYTES).rev() {
            let difference = i16::from(large.0[index]) - i16::from(small.0[index]) - borrow;
            borrow = i16::from(difference < 0);
            bytes[index] = difference.rem_euclid(256) as u8;
        }
        Self(bytes)
    }

    /// Bits in front of the first one that is set: 0 for the far half of the space, 160 for zero.
    pub fn leading_zeros(&self) -> usize {
        match self.0.iter().position(|byte| *byte != 0) {
            Some(index) => 8 * index + self.0[index].leading_zeros() as usize,
            None => 8 * ID_BYTES,
        }
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
        fn halving_is_a_shift(number: u128) {
            let mut bytes = [0; ID_BYTES];
            bytes[4..].copy_from_slice(&number.to_be_bytes());
            let halved = Distance::from_bytes(bytes).halved();
            prop_assert_eq!(&halved.as_bytes()[4..], &(number >> 1).to_be_bytes());
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
        fn what_lies_at_a_distance_has_it(a: [u8; ID_BYTES], b: [u8; ID_BYTES]) {
            let (a, b) = (Id::from_bytes(a), Id::from_bytes(b));
            prop_assert_eq!(a.at_distance(&a.distance(&b)), b);
        }
    }
}
