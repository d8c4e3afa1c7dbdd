//! Coral's distributed sloppy hash table: an index of who has what and who is near whom, without hot spots \[C04\].
//!
//! A *key* is a hash, a *value* a few bytes, usually an address; a value lives for its TTL, and several live under one
//! key. Nodes that are near each other form *clusters*, each a hash table of its own, at levels from the global one
//! inwards; a get searches the nearest first. Puts for a popular key are stopped on their way to it by nodes that hold
//! enough values for it already: that is what makes the table sloppy, and why nobody is overrun. Besides, a node can announce
//! something to all others.
//!
//! # How to drive it
//!
//! [`Dsht`] is one node, as a state machine that does no I/O. It is told of datagrams, of the time and of the
//! application's requests, and says what to send and what has come of the requests. Its user repeats three steps:
//! send and report what [`Dsht::poll_output`] gives until it gives nothing; wait for a datagram, a request or the instant
//! that [`Dsht::poll_timeout`] names; hand it in. Here two nodes are driven by hand:
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//! use coral_dsht::{Config, Dsht, Id, Instant, Levels, Outcome, Output, Peer, Services, Value};
//!
//! let now = Instant::START;
//! let node = |addr: &str, seed| {
//!     let me = Peer::new(addr.parse().unwrap(), Services::NONE);
//!     Dsht::new(Arc::new(Config::default()), me, [seed; 32], now)
//! };
//! let mut nodes = [node("192.0.2.1:4000", 1), node("192.0.2.2:4000", 2)];
//!
//! // Carries datagrams between the two until both are quiet, and collects what has ended.
//! let mut carry = |nodes: &mut [Dsht; 2]| {
//!     let mut done = Vec::new();
//!     while let Some((from, output)) = (0..2).find_map(|from| Some((from, nodes[from].poll_output()?))) {
//!         match output {
//!             Output::Send { bytes, .. } => {
//!                 let sender = nodes[from].me().addr;
//!                 nodes[1 - from].handle_datagram(now, sender, &bytes);
//!             }
//!             Output::Done { outcome, .. } => done.push(outcome),
//!             Output::Announced { .. } => {}
//!         }
//!     }
//!     done
//! };
//!
//! let first = nodes[0].me().addr;
//! nodes[1].join(now, &[first]);
//! carry(&mut nodes);
//!
//! let key = Id::hash(&[b"http://www.example.com/"]);
//! let value = Value::new(b"192.0.2.2:80").unwrap();
//! nodes[1].put(now, key, value.clone(), Duration::from_secs(3600), Levels::ALL);
//! carry(&mut nodes);
//!
//! nodes[0].get(now, key, Levels::ALL);
//! let done = carry(&mut nodes);
//! assert!(matches!(&done[..], [Outcome::Get(found)] if found.values == [value]));
//! ```
//!
//! Most users want less: [`DshtHandle`] (feature `handle`) asks the same things as async calls, and [`Driver`] (feature
//! `net`) answers it from a UDP socket. The feature `sim` has [`sim::Simulation`], in which thousands of nodes run on
//! virtual time from one seed.
//!
//! # How it is built
//!
//! [`id`], [`level`], [`peer`] and [`time`] are plain values; [`message`] has the RPCs as types and [`wire`] as bytes;
//! [`api`] the words in which the application asks and is answered; [`config`] every constant with its source. The
//! state machine is in [`dsht`], its parts beside it.
//!
//! # What it is not
//!
//! It knows nothing of HTTP or DNS: keys, values and service bits are opaque to it. It keeps nothing on disk, and promises
//! no more than soft state can: a value may be missing though somebody has it, and whoever uses a value has to check it.

pub mod api;
pub mod config;
pub mod dsht;
#[doc(hidden)]
pub mod fuzzing;
pub mod hint;
pub mod id;
pub mod level;
pub mod message;
pub mod peer;
pub mod ping;
pub mod seal;
pub mod stats;
pub mod time;
pub mod wire;

#[cfg(feature = "net")]
pub mod driver;
#[cfg(feature = "handle")]
pub mod handle;
#[cfg(feature = "net")]
pub mod memory;
#[cfg(feature = "sim")]
pub mod sim;

pub use api::{
    Claimed, ClusterStatus, Found, HintsQuery, Hop, HopAnswer, MAX_ANNOUNCEMENT_BYTES, MAX_KEEP, MAX_VALUE_BYTES,
    Neighbour, NodesQuery, OpId, Outcome, Snapshot, Stored, Value,
};
pub use config::{Config, Rules};
#[cfg(feature = "net")]
pub use driver::Driver;
pub use dsht::{Dsht, Output};
#[cfg(feature = "handle")]
pub use handle::{Announced, Command, DshtHandle, Stopped};
pub use id::{ClusterId, Distance, Id, Key, NodeId};
pub use level::{Level, Levels};
pub use peer::{Peer, Prefix, Services};
pub use ping::Pings;
pub use seal::NetworkKey;
pub use stats::Stats;
pub use time::Instant;
