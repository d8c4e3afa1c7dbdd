//! Who takes part: another node's id, address and services.

use std::net::{IpAddr, SocketAddr};
use std::ops::BitOr;

use crate::id::{Id, NodeId};

/// What a node offers, as bits whose meaning this crate does not know.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Services(u16);

impl Services {
    /// No service; as a wish, any node.
    pub const NONE: Self = Self(0);

    /// The set with exactly these bits.
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// The set as bits.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Whether all of `wanted` are offered.
    pub const fn contains(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }
}

impl BitOr for Services {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Another node, as the network names it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize)]
pub struct Peer {
    /// Always [`Id::of_node`] of `addr`.
    pub id: NodeId,
    /// Where its DSHT listens. Its other services are found at the same IP address.
    pub addr: SocketAddr,
    /// What it says it offers.
    pub services: Services,
}

impl Peer {
    /// The peer at `addr`, with the id that follows from it.
    pub fn new(addr: SocketAddr, services: Services) -> Self {
        Self { id: Id::of_node(addr), addr, services }
    }
}

/// The network that an address is in: its /24, or its /48. Whoever has one address usually has others there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Prefix {
    /// The first three bytes of an IPv4 address.
    V4([u8; 3]),
    /// The first six bytes of an IPv6 address.
    V6([u8; 6]),
}

impl Prefix {
    /// That of `ip`. An IPv4 address may be written as an IPv6 one.
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, ..] = ip.octets();
                Self::V6([a, b, c, d, e, f])
            }
        }
    }

    /// Its first address.
    pub fn first(self) -> IpAddr {
        match self {
            Self::V4([a, b, c]) => [a, b, c, 0].into(),
            Self::V6([a, b, c, d, e, f]) => [a, b, c, d, e, f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].into(),
        }
    }

    /// Its bytes: three or six.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::V4(bytes) => bytes,
            Self::V6(bytes) => bytes,
        }
    }
}
