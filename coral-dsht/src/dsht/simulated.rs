//! What only the simulator asks of a node: to begin as if it had long been in a network, and what a checker wants to know
//! of thousands of nodes at once, more cheaply than by a [`Snapshot`](crate::Snapshot) of each.

use std::time::Duration;

use crate::api::Value;
use crate::dsht::Dsht;
use crate::dsht::nodes::shares;
use crate::hint;
use crate::id::{ClusterId, Key};
use crate::level::Level;
use crate::message::{Clusters, Header};
use crate::peer::Peer;
use crate::time::Instant;

impl Dsht {
    /// Puts this node into `clusters`, and its chores into the middle of their periods, as if it had been there for long.
    #[doc(hidden)]
    pub fn settle(&mut self, now: Instant, clusters: &Clusters) {
        self.membership.settle(clusters);
        self.update_clusters(now);
        self.born = Instant::START;
        self.next_weigh = now + self.part_of(self.config.refresh);
        let maintenance = self.config.maintenance();
        self.next_maintenance = now + self.part_of(maintenance);
        self.refresh_after = self.config.refresh;
        self.next_refresh = now + self.part_of(self.refresh_after);
        self.next_hint = now + self.part_of(hint::TTL / 2);
    }

    /// Takes `peer` into the tables, as if it had answered a request at `heard`, after `rtt` and from `clusters`.
    #[doc(hidden)]
    pub fn acquaint(&mut self, heard: Instant, peer: Peer, rtt: Duration, clusters: &Clusters) {
        let (config, mine) = (&self.config, &self.clusters);
        let shared = |level| config.levels().contains(level) && shares(mine, clusters, level);
        let header = Header { services: peer.services, clusters: clusters.clone(), ..Header::default() };
        self.routing.heard(heard, peer, Some(rtt), &header, shared);
    }

    /// Says how large its clusters are, after all peers have been made known to it.
    #[doc(hidden)]
    pub fn acquainted(&mut self, now: Instant) {
        self.update_clusters(now);
    }

    /// The cluster that this node is in at `level`; the zero id for a level that the network has not.
    #[doc(hidden)]
    pub fn cluster(&self, level: Level) -> ClusterId {
        self.clusters.id_at(level).unwrap_or_default()
    }

    /// The live values that this node keeps for the network under `key` at `level`.
    #[doc(hidden)]
    pub fn stored(&self, now: Instant, level: Level, key: &Key) -> Vec<Value> {
        self.store.values(now, level, key)
    }

    /// Whether `peer` is in the table of `level`.
    #[doc(hidden)]
    pub fn knows(&self, level: Level, peer: &Peer) -> bool {
        self.routing.members(level).any(|known| known.peer.id == peer.id)
    }

    fn part_of(&mut self, span: Duration) -> Duration {
        use rand_core::Rng as _;
        span.mul_f64(f64::from(self.rng.next_u32()) / f64::from(u32::MAX))
    }
}
