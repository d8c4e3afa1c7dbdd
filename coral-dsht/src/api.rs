//! What the application asks of the index and what it is told: the words shared by [`Dsht`](crate::Dsht), which
//! answers them, and `DshtHandle`, which carries them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::id::{ClusterId, Distance};
use crate::level::{Level, Levels};
use crate::peer::{Peer, Services};
use crate::stats::Stats;

/// The longest value in bytes. A value is an address or a few; the content itself never enters the index.
pub const MAX_VALUE_BYTES: usize = 64;

/// The longest announcement in bytes. With a header and a seal it fits into a datagram.
pub const MAX_ANNOUNCEMENT_BYTES: usize = 700;

/// How long an announcement is kept at most, counted from when it was announced: a week.
pub const MAX_KEEP: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A value stored under a key: a few bytes whose meaning this crate does not know.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(Box<[u8]>);

impl Value {
    /// The value with these bytes; `None` if they are more than [`MAX_VALUE_BYTES`].
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= MAX_VALUE_BYTES).then(|| Self(bytes.into()))
    }

    /// The value that names `addr`, as something whose `kind` the application knows.
    ///
    /// A node stores such a value for nobody but the node at that IP address. Its bytes are 0xa4 or 0xa6, for IPv4 or IPv6,
    /// the kind, the address, and two for the port.
    pub fn naming(kind: u8, addr: SocketAddr) -> Self {
        let port = addr.port().to_be_bytes();
        Self(match addr.ip().to_canonical() {
            IpAddr::V4(ip) => [&[NAMES_V4, kind][..], &ip.octets(), &port].concat().into(),
            IpAddr::V6(ip) => [&[NAMES_V6, kind][..], &ip.octets(), &port].concat().into(),
        })
    }

    /// The kind and the address, if the value names one. Whatever has another form is opaque.
    pub fn named(&self) -> Option<(u8, SocketAddr)> {
        let (ip, kind, port): (IpAddr, _, _) = match *self.0 {
            [NAMES_V4, kind, a, b, c, d, high, low] => ([a, b, c, d].into(), kind, [high, low]),
            [NAMES_V6, kind, ref ip @ .., high, low] => (<[u8; 16]>::try_from(ip).ok()?.into(), kind, [high, low]),
            _ => return None,
        };
        Some((kind, SocketAddr::new(ip.to_canonical(), u16::from_be_bytes(port))))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// How values that name an address begin.
const NAMES_V4: u8 = 0xa4;
const NAMES_V6: u8 = 0xa6;

/// The bytes, escaped where they are no printable ASCII.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// What a get found.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// A few of the live values, in no order; empty when no level had any.
    pub values: Vec<Value>,
    /// The level at which the search ended: the one that had the values.
    pub level: Option<Level>,
    /// Each request of the lookup, in the order in which they were sent.
    pub hops: Vec<Hop>,
}

/// One request of a lookup: for `coral lookup`, and for the simulator's count of hops.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Hop {
    /// The level it was sent at.
    pub level: Level,
    /// Who was asked. The asking node itself stands here when its own store was read.
    pub peer: Peer,
    /// How far that node is from the key.
    pub distance: Distance,
    /// How long the answer took; `None` if there was none in time.
    #[serde(with = "humantime_serde")]
    pub rtt: Option<Duration>,
    /// What it answered.
    pub answer: HopAnswer,
}

/// What a node answered to one request of a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
#[non_exhaustive]
pub enum HopAnswer {
    /// It holds values under the key.
    Values {
        /// How many it sent.
        count: usize,
    },
    /// It holds none, but knows peers nearer to the key.
    Nearer {
        /// How many of them it named.
        count: usize,
    },
    /// It holds none and knows nobody nearer: the end of this level.
    Nearest,
    /// To a put: it is full and loaded for the key, and turned the put back [C04 §4.2].
    FullAndLoaded,
    /// To a claim: nobody was before this node.
    Claimed,
    /// It is in another cluster at this level by now.
    OtherCluster,
    /// It did not answer in time.
    TimedOut,
}

/// What a put did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    /// The nodes that took the value, one for each level at most.
    pub at: Vec<(Level, Peer)>,
    /// The put was held back, because this node has let out its share of puts for this key in this minute
    /// (`loaded_puts_per_minute`): the values that the network has are then fresh enough.
    pub held_back: bool,
    /// Each request, in the order in which they were sent.
    pub hops: Vec<Hop>,
}

/// What a claim came to.
#[derive(Debug, Clone, Default)]
pub struct Claimed {
    /// Values of those who were first, from the nearest level that has any: the one to try first in front. Empty if this
    /// node is the first at every level that it claimed.
    pub values: Vec<Value>,
    /// The level that had the values.
    pub level: Option<Level>,
    /// The levels, from the nearest outwards, at which this node is the first, and others are sent to it.
    pub granted: Levels,
    /// Each request, in the order in which they were sent.
    pub hops: Vec<Hop>,
}

/// Which neighbours are wanted.
#[derive(Debug, Clone, Copy)]
pub struct NodesQuery {
    /// Members of this node's cluster at this level.
    pub level: Level,
    /// At most so many.
    pub count: usize,
    /// Members on this address's own network (its /24 or /48) come first, the others by their round-trip time to this
    /// node.
    pub target: Option<IpAddr>,
    /// Only those that offer all of these.
    pub services: Services,
}

/// Nodes near an address are wanted, as hints tell (see [`crate::hint`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HintsQuery {
    /// The address.
    pub client: IpAddr,
    /// The last routers in front of it that are known, the nearest first; five at most are of use.
    pub routers: Vec<IpAddr>,
    /// At most so many.
    pub count: usize,
    /// Only those that offer all of these.
    pub services: Services,
}

/// A member of one of this node's clusters, verified first-hand: it answered this node itself lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Neighbour {
    /// Who it is.
    pub peer: Peer,
    /// The smoothed round-trip time to it.
    #[serde(with = "humantime_serde")]
    pub rtt: Duration,
    /// How long ago it last answered.
    #[serde(with = "humantime_serde")]
    pub heard: Duration,
    /// The nearest level at which it shares a cluster with this node.
    pub level: Level,
}

/// One of this node's clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct ClusterStatus {
    /// Its level.
    pub level: Level,
    /// The round-trip time within which its members are meant to be; `None` for the global level.
    #[serde(with = "humantime_serde")]
    pub diameter: Option<Duration>,
    /// Its identifier.
    pub cluster: ClusterId,
    /// How many nodes this node believes it to have, itself included.
    pub size: u32,
    /// How many of them are in this node's table.
    pub known: usize,
}

/// What a node knows of itself and its neighbours at one moment: for status pages, metrics and the simulator's checks.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Snapshot {
    /// This node.
    pub me: Peer,
    /// Its clusters, from the global level up.
    pub clusters: Vec<ClusterStatus>,
    /// Members of its clusters, nearest first.
    pub neighbours: Vec<Neighbour>,
    /// The routers in front of it that it was told of, nearest first: others behind them find it by its hints.
    pub routers: Vec<IpAddr>,
    /// Keys under which it stores values for the network.
    pub stored_keys: usize,
    /// Values that it stores for the network.
    pub stored_values: usize,
    /// Values that this node itself has published and that are alive somewhere.
    pub published_values: usize,
    /// Counters since its start.
    pub stats: Stats,
}

/// A request that the application has made of a [`Dsht`](crate::Dsht): its outcome comes under the same number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OpId(pub(crate) u64);

/// How a request of the application ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Outcome {
    /// Of `get`.
    Get(Found),
    /// Of `put`.
    Put(Stored),
    /// Of `claim`.
    Claim(Claimed),
    /// Of `remove`: how many nodes that held the value confirmed that they dropped it.
    Removed(usize),
    /// Of `nodes` and `hints`.
    Nodes(Vec<Neighbour>),
    /// Of `join`.
    Joined {
        /// The first of the given nodes that answered; `None` if none did.
        contact: Option<Peer>,
        /// The source address of this node's datagrams, as the last of them saw it.
        seen_as: Option<SocketAddr>,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_named_address_comes_back(kind: u8, ip: IpAddr, port: u16) {
            let value = Value::naming(kind, SocketAddr::new(ip, port));
            prop_assert_eq!(value.named(), Some((kind, SocketAddr::new(ip.to_canonical(), port))));
        }

        #[test]
        fn any_bytes_are_opaque_or_name_an_address(head in 0xa3u8..0xa8, tail in proptest::collection::vec(any::<u8>(), 0..24)) {
            let value = Value::new(&[&[head][..], &tail].concat()).unwrap();
            let length = match head {
                NAMES_V4 => 8,
                NAMES_V6 => 20,
                _ => usize::MAX,
            };
            prop_assert_eq!(value.named().is_some(), value.as_bytes().len() == length);
        }
    }
}
