//! The RPCs and the header that they all carry, as types. [`crate::wire`] turns them into bytes and back.
//!
//! A peer is named by its address alone: its id follows from it, so that no message can claim another one.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::api::Value;
use crate::id::{ClusterId, Distance, Id, Key};
use crate::level::{Level, MAX_LEVELS};
use crate::peer::{Peer, Services};

/// One datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What every message tells of its sender.
    pub header: Header,
    /// Drawn at random by whoever asks, and echoed in the answer: knowing it proves having seen the request.
    pub request_id: u64,
    /// The rest.
    pub body: Body,
}

/// What every message tells of its sender: with it, ordinary RPCs keep the receiver's tables [C04 §4.1].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Header {
    /// What the sender offers.
    pub services: Services,
    /// The sender's cluster at L1, L2, …; there is but one at L0.
    pub clusters: Clusters,
    /// Drawn at random whenever a node starts: another one at an address that is known says that whatever was stored
    /// there is gone.
    pub instance: u32,
    /// In a request: what the receiver lately gave the sender, which so proves that datagrams reach it. In an answer: a
    /// new one, to be shown from now on.
    pub token: Option<Token>,
    /// In an answer that has a token: the receiver would like to be sent it back at once, by [`Body::Proof`].
    pub wants_proof: bool,
}

/// Proves that its bearer receives what is sent to its address. Only the node that gave it can read it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token([u8; TOKEN_BYTES]);

/// The length of a [`Token`].
pub const TOKEN_BYTES: usize = 16;

impl Token {
    /// The token with these bytes.
    pub const fn from_bytes(bytes: [u8; TOKEN_BYTES]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; TOKEN_BYTES] {
        &self.0
    }
}

/// No more than that it is one: whoever reads a log must not be able to show it.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// What a node says of one of its clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClusterInfo {
    /// The cluster.
    pub id: ClusterId,
    /// How old it is, in whole minutes, as its members tell each other.
    pub age_minutes: u16,
    /// How many members the sender believes it to have.
    pub size: u32,
}

/// A node's clusters at L1, L2, …, nothing for L0.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Clusters(Vec<ClusterInfo>);

impl Clusters {
    /// The clusters from L1 inwards; those beyond what a network can have are dropped.
    pub fn new(mut from_l1: Vec<ClusterInfo>) -> Self {
        from_l1.truncate(MAX_LEVELS - 1);
        Self(from_l1)
    }

    /// From L1 inwards.
    pub fn from_l1(&self) -> &[ClusterInfo] {
        &self.0
    }

    /// The cluster at `level`; `None` at L0 and at a level that its node has not.
    pub fn at(&self, level: Level) -> Option<&ClusterInfo> {
        self.0.get(level.index().checked_sub(1)?)
    }

    /// The id of the cluster at `level`. All nodes share that of L0.
    pub fn id_at(&self, level: Level) -> Option<ClusterId> {
        if level == Level::GLOBAL { Some(ClusterId::ZERO) } else { self.at(level).map(|info| info.id) }
    }
}

/// What a message asks or answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A question, which wants an answer.
    Request(Request),
    /// An answer.
    Response(Response),
    /// The sender is leaving: forget it. Nobody answers.
    Leave,
    /// The header has the token that an answer asked to have back: the sender can be reached, and the round trip began
    /// when the token was made. Nobody answers.
    Proof,
}

/// A request. Those with a level are served only if sender and receiver share a cluster there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Are you there, and what is my address? Answered by [`Response::Pong`].
    Ping,
    /// Peers nearer to `key` than you, and those around distance `aim` first. Answered by [`Response::Peers`].
    Find {
        /// In your cluster at this level.
        level: Level,
        /// What to be near to.
        key: Key,
        /// The fraction of the distance reached at which the asker wants peers, by what it looks for (`lookup.rs`) [C04 §4.1].
        aim: Distance,
    },
    /// Values under `key`, or else peers as for `Find`. Answered by [`Response::Values`] or [`Response::Peers`].
    Get {
        /// In your cluster at this level.
        level: Level,
        /// The key.
        key: Key,
        /// As for `Find`.
        aim: Distance,
    },
    /// The forward phase of a put: would you take a value? Answered by [`Response::Room`].
    Put {
        /// In your cluster at this level.
        level: Level,
        /// The key.
        key: Key,
        /// How long the value is to live.
        ttl: Duration,
        /// As for `Find`.
        aim: Distance,
    },
    /// The reverse phase of a put: take this value. Answered by [`Response::Done`].
    Store {
        /// In your cluster at this level.
        level: Level,
        /// The key.
        key: Key,
        /// How long the value is to live.
        ttl: Duration,
        /// The value.
        value: Value,
        /// A node nearer to the key was full and loaded and has turned the put back.
        turned_back: bool,
    },
    /// A get that claims the key where the search ends. Answered by [`Response::Values`] if others were first, by
    /// [`Response::Claimed`] if nobody was and the search ends here, or else by [`Response::Peers`].
    Claim {
        /// In your cluster at this level.
        level: Level,
        /// The key.
        key: Key,
        /// As for `Find`.
        aim: Distance,
        /// How long the claim is to live.
        ttl: Duration,
        /// The search ends here, although you know of nodes nearer to the key.
        is_last: bool,
        /// What later claimants are to be given: where the claimant can be asked.
        value: Value,
        /// Values that are of no use to the claimant: their owners do not answer, or do not have it.
        refused: Vec<Value>,
    },
    /// Drop a value that this sender had you store. Answered by [`Response::Done`].
    Remove {
        /// In your cluster at this level.
        level: Level,
        /// The key.
        key: Key,
        /// The value.
        value: Value,
    },
    /// A few random members of your cluster at this level: whoever weighs a move into it wants to measure them
    /// [C04 §4.4]. Served to strangers, too. Answered by [`Response::Peers`].
    Sample {
        /// Which of your clusters.
        level: Level,
    },
    /// The sender has an announcement, should you want it. Answered by [`Response::Done`].
    Offer {
        /// The hash of it.
        id: Id,
    },
    /// Send an announcement that you have offered. Answered by [`Response::Announcement`], or [`Response::Done`] if it is not
    /// there any more.
    Fetch {
        /// The hash of it.
        id: Id,
    },
    /// What do you keep beside these? Answered by [`Response::Offers`].
    CatchUp {
        /// The first four bytes of the hash of each announcement that the sender need not be told of; at most [`MAX_KNOWN`].
        known: Vec<u32>,
    },
}

/// Announcements that a node says it knows, so that one byte counts them.
pub const MAX_KNOWN: usize = 255;
/// Announcements that are offered at once: a receiver looks at no more.
pub const MAX_OFFERS: usize = 16;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// To `Ping`.
    Pong {
        /// Where the request came from, as the answering node saw it.
        seen_as: SocketAddr,
    },
    /// To `Find` and `Sample`, and to `Get` and `Claim` where there are no values.
    Peers(Vec<Peer>),
    /// To `Get`, and to `Claim`: then the one to try first comes first.
    Values(Vec<Value>),
    /// To `Put`.
    Room {
        /// It stores l values already, all of which live at least half as long as the new one.
        full: bool,
        /// It has let through β puts for the key in the last minute.
        loaded: bool,
        /// Peers as for `Find`.
        peers: Vec<Peer>,
    },
    /// To `Store` and `Remove`: whether it was done.
    Done(bool),
    /// To `Claim`: you are the first.
    Claimed,
    /// To `Fetch`.
    Announcement {
        /// How long ago it was announced, at least.
        age: Duration,
        /// Its bytes, [`MAX_ANNOUNCEMENT_BYTES`](crate::api::MAX_ANNOUNCEMENT_BYTES) at most.
        message: Arc<[u8]>,
    },
    /// To `CatchUp`: the hashes of some that are kept, the youngest first.
    Offers(Vec<Id>),
    /// To any request with a level: we share no cluster there. The header tells which one the sender is in.
    OtherCluster,
    /// To any request: ask again, with the token that the header has. Nothing has been done.
    Challenge,
}

impl Request {
    /// Whether it is served whatever clusters sender and receiver are in, though it has a level: a value may have been
    /// stored before one of them moved.
    pub fn is_withdrawal(&self) -> bool {
        matches!(self, Self::Remove { .. })
    }

    /// Whether it changes what the receiver stores for longer than a moment. Then it is carried out only with a fresh
    /// token, and only once: neither a made-up sender nor a recorded datagram may do that. A claim, which is a get on most
    /// of its way and ends by itself soon, only wants a proven sender, and that only where it is recorded.
    pub fn changes_store(&self) -> bool {
        match self {
            Self::Store { .. } | Self::Remove { .. } => true,
            Self::Ping
            | Self::Find { .. }
            | Self::Get { .. }
            | Self::Put { .. }
            | Self::Claim { .. }
            | Self::Sample { .. }
            | Self::Offer { .. }
            | Self::Fetch { .. }
            | Self::CatchUp { .. } => false,
        }
    }

    /// Its name, for counters and traces.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Find { .. } => "find",
            Self::Get { .. } => "get",
            Self::Put { .. } => "put",
            Self::Store { .. } => "store",
            Self::Claim { .. } => "claim",
            Self::Remove { .. } => "remove",
            Self::Sample { .. } => "sample",
            Self::Offer { .. } => "offer",
            Self::Fetch { .. } => "fetch",
            Self::CatchUp { .. } => "catch-up",
        }
    }

    /// The level at which sender and receiver must share a cluster.
    pub fn level(&self) -> Option<Level> {
        match self {
            Self::Ping | Self::Sample { .. } | Self::Offer { .. } | Self::Fetch { .. } | Self::CatchUp { .. } => None,
            Self::Find { level, .. }
            | Self::Get { level, .. }
            | Self::Put { level, .. }
            | Self::Store { level, .. }
            | Self::Claim { level, .. }
            | Self::Remove { level, .. } => Some(*level),
        }
    }
}
