//! Withdrawing a value: everybody who was given it and may still hold it is asked to drop it.
//!
//! Who that is, this node remembers itself ([`Published`]): renewals may have gone to other nodes than the first put.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::Value;
use crate::dsht::Lent;
use crate::dsht::op::Next;
use crate::id::{ClusterId, Key, NodeId};
use crate::level::Level;
use crate::message::{Clusters, Request};
use crate::peer::Peer;
use crate::time::Instant;

/// A withdrawal under way.
#[derive(Debug)]
pub(crate) struct Remove {
    key: Key,
    value: Value,
    holders: Vec<(Level, Peer)>,
    waiting: usize,
    confirmed: usize,
}

impl Remove {
    pub(crate) fn new(key: Key, value: Value, holders: Vec<(Level, Peer)>) -> Self {
        Self { key, value, holders, waiting: 0, confirmed: 0 }
    }

    /// What to do next: all are asked at once.
    pub(crate) fn next(&mut self, lent: &mut Lent<'_>) -> Next<usize> {
        while let Some((level, peer)) = self.holders.pop() {
            if peer.id == lent.me.id {
                let removed = lent.store.remove(level, &self.key, &self.value, lent.me.addr.ip());
                self.confirmed += usize::from(removed);
            } else {
                self.waiting += 1;
                return Next::Ask(peer, Request::Remove { level, key: self.key, value: self.value.clone() });
            }
        }
        if self.waiting == 0 { Next::Done(self.confirmed) } else { Next::Wait }
    }

    /// One of them has answered whether it dropped the value, or has been given up.
    pub(crate) fn settled(&mut self, removed: bool) {
        self.waiting = self.waiting.saturating_sub(1);
        self.confirmed += usize::from(removed);
    }
}

/// Where the values that this node has put are alive.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// By key, and what all values have in common that are the same.
    values: BTreeMap<(Key, Value), Placed>,
    /// Each of the holders once: in no table perhaps, and missed all the same when it goes.
    watched: BTreeMap<NodeId, Watched>,
}

/// A value of this node, as it was last put, and who holds it.
#[derive(Debug)]
struct Placed {
    value: Value,
    holders: Vec<Holder>,
}

#[derive(Debug)]
struct Watched {
    peer: Peer,
    /// When it last answered.
    heard: Instant,
    /// Which of its starts took the values, if that is known.
    instance: Option<u32>,
    /// The clusters that it was in then, if that is known.
    clusters: Option<Vec<ClusterId>>,
}

/// A value of this node that is gone with the node that held it, or is now in another cluster than this node.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) key: Key,
    pub(crate) value: Value,
    pub(crate) level: Level,
    pub(crate) expires: Instant,
}

#[derive(Debug)]
struct Holder {
    level: Level,
    peer: Peer,
    expires: Instant,
    /// Whether it has been seen in another cluster than this node since.
    elsewhere: bool,
}

impl Published {
    /// `peer` has just taken a value, for as long as `expires`.
    pub(crate) fn stored(&mut self, now: Instant, entry: (Key, Value), level: Level, peer: Peer, expires: Instant) {
        self.watched.entry(peer.id).or_insert(Watched { peer, heard: now, instance: None, clusters: None }).heard = now;
        let (key, value) = entry;
        let place = self.values.entry((key, value.common()));
        let placed = place.or_insert_with(|| Placed { value: value.clone(), holders: Vec::new() });
        placed.value = value;
        let holders = &mut placed.holders;
        match holders.iter_mut().find(|holder| holder.level == level && holder.peer.id == peer.id) {
            Some(holder) => (holder.expires, holder.elsewhere) = (expires, false),
            None => holders.push(Holder { level, peer, expires, elsewhere: false }),
        }
    }

    /// The last value that was put and is the same as `value`.
    pub(crate) fn last(&self, key: Key, value: &Value) -> Option<&Value> {
        self.values.get(&(key, value.common())).map(|placed| &placed.value)
    }

    /// Forgets a value, and tells what was last put of those that are the same, and who may still hold one of them.
    pub(crate) fn withdraw(&mut self, now: Instant, key: Key, value: &Value) -> (Option<Value>, Vec<(Level, Peer)>) {
        let Some(Placed { value, holders }) = self.values.remove(&(key, value.common())) else {
            return (None, Vec::new());
        };
        let living = holders.into_iter().filter(|holder| holder.expires > now);
        (Some(value), living.map(|holder| (holder.level, holder.peer)).collect())
    }

    /// `peer` has gone, and what it held with it: there is nobody left to withdraw from. What it held, until when.
    pub(crate) fn lost(&mut self, peer: &NodeId) -> Vec<Lost> {
        let mut lost = Vec::new();
        self.watched.remove(peer);
        self.values.retain(|(key, _), Placed { value, holders }| {
            for holder in holders.iter().filter(|holder| holder.peer.id == *peer) {
                lost.push(Lost { key: *key, value: value.clone(), level: holder.level, expires: holder.expires });
            }
            holders.retain(|holder| holder.peer.id != *peer);
            !holders.is_empty()
        });
        lost
    }

    /// Whether `peer` holds values, and is in other clusters than when it was last heard.
    pub(crate) fn has_moved(&mut self, peer: &NodeId, clusters: &Clusters) -> bool {
        let ids = || clusters.from_l1().iter().map(|info| info.id);
        match self.watched.get_mut(peer) {
            Some(watched) if watched.clusters.as_ref().is_none_or(|known| !known.iter().copied().eq(ids())) => {
                watched.clusters = Some(ids().collect());
                true
            }
            _ => false,
        }
    }

    /// This node and those that `who` names share no cluster at `level` any more: what they hold there is found by nobody
    /// in this node's cluster, though it is there to be withdrawn.
    pub(crate) fn elsewhere(&mut self, level: Level, who: impl Fn(&NodeId) -> bool) -> Vec<Lost> {
        let mut lost = Vec::new();
        for ((key, _), Placed { value, holders }) in &mut self.values {
            for holder in holders {
                if holder.level == level && !holder.elsewhere && who(&holder.peer.id) {
                    holder.elsewhere = true;
                    lost.push(Lost { key: *key, value: value.clone(), level, expires: holder.expires });
                }
            }
        }
        lost
    }

    /// Forgets what has ended by `now`.
    pub(crate) fn sweep(&mut self, now: Instant) {
        let mut holding = BTreeSet::new();
        self.values.retain(|_, Placed { holders, .. }| {
            holders.retain(|holder| holder.expires > now);
            holding.extend(holders.iter().map(|holder| holder.peer.id));
            !holders.is_empty()
        });
        self.watched.retain(|id, _| holding.contains(id));
    }

    /// `peer` has answered, in the start that `instance` names, whether it takes a value: it may be a holder soon.
    pub(crate) fn watch(&mut self, now: Instant, peer: Peer, instance: u32) {
        self.watched.entry(peer.id).or_insert(Watched { peer, heard: now, instance: Some(instance), clusters: None });
    }

    /// `peer` has answered, in the start that `instance` names. `true` if it has lost what it held by another start.
    pub(crate) fn heard(&mut self, now: Instant, peer: &NodeId, instance: u32) -> bool {
        let Some(watched) = self.watched.get_mut(peer) else {
            return false;
        };
        watched.heard = now;
        watched.instance.replace(instance).is_some_and(|before| before != instance)
    }

    /// Each node that holds a value of this one, and when it last answered.
    pub(crate) fn watched(&self) -> impl Iterator<Item = (Instant, Peer)> {
        self.watched.values().map(|holder| (holder.heard, holder.peer))
    }

    /// Values that are alive somewhere.
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }
}
