//! [`DshtHandle`]: the index as async calls. Cloneable; behind it is a channel, and at the channel's far end the UDP
//! driver, a map ([`crate::memory`]), or a test.
//!
//! [`Command`] is closed: it shows all that can be asked. A caller that gives up drops its future; the far end then
//! finds the reply channel closed, which is no error.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::api::{Claimed, Found, HintsQuery, Neighbour, NodesQuery, Snapshot, Stored, Value};
use crate::id::{Id, Key};
use crate::level::Levels;
use crate::peer::Services;

/// A node's index, to ask. Clones ask the same one.
#[derive(Debug, Clone)]
pub struct DshtHandle {
    commands: mpsc::Sender<Command>,
}

/// One request, with the channel on which its answer is awaited.
#[derive(Debug)]
#[non_exhaustive]
pub enum Command {
    /// See [`DshtHandle::get`].
    Get {
        /// The key.
        key: Key,
        /// The levels to search.
        levels: Levels,
        /// For the answer.
        reply: oneshot::Sender<Found>,
    },
    /// See [`DshtHandle::put`].
    Put {
        /// The key.
        key: Key,
        /// The value.
        value: Value,
        /// How long it is to live.
        ttl: Duration,
        /// The levels to store it at.
        levels: Levels,
        /// For the answer.
        reply: oneshot::Sender<Stored>,
    },
    /// See [`DshtHandle::claim`].
    Claim {
        /// The key.
        key: Key,
        /// The value.
        value: Value,
        /// How long the claim is to live.
        ttl: Duration,
        /// The levels to claim at.
        levels: Levels,
        /// Values that are not wanted.
        refused: Vec<Value>,
        /// For the answer.
        reply: oneshot::Sender<Claimed>,
    },
    /// See [`DshtHandle::remove`].
    Remove {
        /// The key.
        key: Key,
        /// The value.
        value: Value,
        /// For the answer.
        reply: oneshot::Sender<usize>,
    },
    /// See [`DshtHandle::nodes`].
    Nodes {
        /// Which ones.
        query: NodesQuery,
        /// For the answer.
        reply: oneshot::Sender<Vec<Neighbour>>,
    },
    /// See [`DshtHandle::hints`].
    Hints {
        /// Near what.
        query: HintsQuery,
        /// For the answer.
        reply: oneshot::Sender<Vec<Neighbour>>,
    },
    /// See [`DshtHandle::set_services`].
    SetServices {
        /// All of them.
        services: Services,
        /// For the answer.
        reply: oneshot::Sender<()>,
    },
    /// See [`DshtHandle::set_routers`].
    SetRouters {
        /// The nearest first.
        routers: Vec<IpAddr>,
        /// For the answer.
        reply: oneshot::Sender<()>,
    },
    /// See [`DshtHandle::announce`].
    Announce {
        /// What to tell.
        message: Vec<u8>,
        /// For how long those who join are told, too.
        keep: Duration,
        /// For the answer.
        reply: oneshot::Sender<()>,
    },
    /// See [`DshtHandle::announcements`].
    Announcements {
        /// For the answer.
        reply: oneshot::Sender<mpsc::Receiver<Announced>>,
    },
    /// See [`DshtHandle::contacts`].
    Contacts {
        /// For the answer.
        reply: oneshot::Sender<Vec<SocketAddr>>,
    },
    /// See [`DshtHandle::snapshot`].
    Snapshot {
        /// For the answer.
        reply: oneshot::Sender<Snapshot>,
    },
}

/// What some node has announced to all. Nobody has checked it so far.
#[derive(Debug)]
pub struct Announced {
    /// Its bytes.
    pub message: Vec<u8>,
    /// How long ago it was announced, at least, if those who carried it are right.
    pub age: Duration,
    verdict: Verdict,
}

impl Announced {
    /// What is decided of it goes to `decisions`, under `id`.
    #[cfg(feature = "net")]
    pub(crate) fn new(id: Id, message: Vec<u8>, age: Duration, decisions: mpsc::UnboundedSender<Decision>) -> Self {
        Self { message, age, verdict: Verdict { decision: Decision { id, keep: None }, decisions } }
    }

    /// It is true: others are told, and for `keep` since it was announced, a week at most, those who join later. Dropped
    /// instead, or not decided within a minute, it goes no further.
    pub fn pass_on(mut self, keep: Duration) {
        self.verdict.decision.keep = Some(keep);
    }
}

/// Sends the decision when it is dropped, so that there is one in any case.
#[derive(Debug)]
struct Verdict {
    decision: Decision,
    decisions: mpsc::UnboundedSender<Decision>,
}

impl Drop for Verdict {
    fn drop(&mut self) {
        // The node may have stopped.
        let _ = self.decisions.send(self.decision);
    }
}

/// What the application makes of an announcement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decision {
    /// Of which.
    #[cfg_attr(not(feature = "net"), expect(dead_code, reason = "whoever announces reads it"))]
    pub(crate) id: Id,
    /// It is true, and to be kept so long; `None` if it goes no further.
    pub(crate) keep: Option<Duration>,
}

/// The node has stopped: whatever was asked was not, or not wholly, done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the index has stopped")]
pub struct Stopped;

impl DshtHandle {
    /// A handle, and the end at which its requests come out. At most `capacity` wait there; more callers wait in line.
    pub fn channel(capacity: usize) -> (Self, mpsc::Receiver<Command>) {
        let (commands, requests) = mpsc::channel(capacity);
        (Self { commands }, requests)
    }

    /// Some of the live values under `key`, from the nearest of `levels` that has any.
    pub async fn get(&self, key: Key, levels: Levels) -> Result<Found, Stopped> {
        self.ask(|reply| Command::Get { key, levels, reply }).await
    }

    /// Stores `value` under `key` for `ttl`, once at each of `levels`; the same value put again is renewed.
    pub async fn put(&self, key: Key, value: Value, ttl: Duration, levels: Levels) -> Result<Stored, Stopped> {
        self.ask(|reply| Command::Put { key, value, ttl, levels, reply }).await
    }

    /// A get that leaves `value` under `key` for `ttl` (a minute at most), so that those who ask next are sent here: the
    /// values of those who were first, or none if this node is to go to the origin. Those in `refused` are not given.
    pub async fn claim(
        &self,
        key: Key,
        value: Value,
        ttl: Duration,
        levels: Levels,
        refused: Vec<Value>,
    ) -> Result<Claimed, Stopped> {
        self.ask(|reply| Command::Claim { key, value, ttl, levels, refused, reply }).await
    }

    /// Withdraws a value that this node has put, wherever it is still alive. Returns how many nodes confirmed it.
    pub async fn remove(&self, key: Key, value: Value) -> Result<usize, Stopped> {
        self.ask(|reply| Command::Remove { key, value, reply }).await
    }

    /// Live members of one of this node's clusters, verified first-hand lately, nearest first. Without this node.
    pub async fn nodes(&self, query: NodesQuery) -> Result<Vec<Neighbour>, Stopped> {
        self.ask(|reply| Command::Nodes { query, reply }).await
    }

    /// Live nodes near an address, of whatever cluster, that hints name and that have just answered this node, by their
    /// round-trip time to it. Without this node.
    pub async fn hints(&self, query: HintsQuery) -> Result<Vec<Neighbour>, Stopped> {
        self.ask(|reply| Command::Hints { query, reply }).await
    }

    /// What this node offers from now on, in place of what it offered. Others learn of it as they speak with it, within
    /// [`Config::keepalive`](crate::Config::keepalive) or so.
    pub async fn set_services(&self, services: Services) -> Result<(), Stopped> {
        self.ask(|reply| Command::SetServices { services, reply }).await
    }

    /// Tells the node which routers are in front of it, the nearest first: others behind them find it from now on.
    pub async fn set_routers(&self, routers: Vec<IpAddr>) -> Result<(), Stopped> {
        self.ask(|reply| Command::SetRouters { routers, reply }).await
    }

    /// Tells all nodes of the network of `message`, which has at most [`MAX_ANNOUNCEMENT_BYTES`]; a longer one is not told.
    /// For `keep`, at most [`MAX_KEEP`], those who join later are told, too. To announce the same bytes again does nothing.
    ///
    /// Ends before anybody has heard of it. Nobody can say whether all have.
    ///
    /// [`MAX_ANNOUNCEMENT_BYTES`]: crate::api::MAX_ANNOUNCEMENT_BYTES
    /// [`MAX_KEEP`]: crate::api::MAX_KEEP
    pub async fn announce(&self, message: Vec<u8>, keep: Duration) -> Result<(), Stopped> {
        self.ask(|reply| Command::Announce { message, keep, reply }).await
    }

    /// What other nodes announce, each once, and at first what they have kept. Whoever receives it decides whether it is true
    /// and [passes it on](Announced::pass_on); a few wait for that at one time, and while they do no others come.
    ///
    /// There is one receiver: a new one ends the one before. Without any, announcements are neither kept nor passed on.
    pub async fn announcements(&self) -> Result<mpsc::Receiver<Announced>, Stopped> {
        self.ask(|reply| Command::Announcements { reply }).await
    }

    /// What the node knows of itself and its neighbours: its clusters by level, its tables, its counters.
    pub async fn snapshot(&self) -> Result<Snapshot, Stopped> {
        self.ask(|reply| Command::Snapshot { reply }).await
    }

    /// A few peers that have lasted: who starts again with these as its seeds finds its network.
    pub async fn contacts(&self) -> Result<Vec<SocketAddr>, Stopped> {
        self.ask(|reply| Command::Contacts { reply }).await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }
}
