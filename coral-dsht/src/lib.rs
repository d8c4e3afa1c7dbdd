//! Coral's distributed sloppy hash table.

pub mod api;
pub mod id;
pub mod level;
pub mod peer;
pub mod stats;
pub mod time;

#[cfg(feature = "handle")]
pub mod handle;
#[cfg(feature = "net")]
pub mod memory;

pub use api::{
    ClusterStatus, Found, Hop, HopAnswer, MAX_VALUE_BYTES, Neighbour, NodesQuery, OpId, Outcome, Snapshot, Stored,
    Value,
};
#[cfg(feature = "handle")]
pub use handle::{Command, DshtHandle, Stopped};
pub use id::{ClusterId, Distance, Id, Key, NodeId};
pub use level::{Level, Levels};
pub use peer::{Peer, Services};
pub use stats::Stats;
pub use time::Instant;
