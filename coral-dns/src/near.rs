//! Who is near a client that is not near this node: found by hints and by asking around, and heard from first-hand
//! [C04 §3.1].
//!
//! The hints under the client's network and the last routers in front of it name nodes that are likely near; where there
//! are none, some of the nodes are asked whose distance from here is about the client's. Each says itself how far the client is
//! (`appraisal.rs`), and names fellows of its cluster, which are asked as well. The nearest few promise to answer the
//! client's resolver: only those are named in a referral.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use coral_dsht::{DshtHandle, HintsQuery, Level, Neighbour, NodesQuery};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::appraisal::{Appraiser, Promise, Reply, Request};
use crate::candidates::Candidates;
use crate::proximity::is_unicast;
use crate::{NAMESERVER, PROXY};

/// Nodes near a client, each heard from lately.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Near {
    /// The client's level, as they see it.
    pub level: Level,
    /// Nameservers that have promised to answer the client, the nearest first.
    pub nameservers: Vec<IpAddr>,
    /// Proxies that are about as near as the nearest, sorted.
    pub proxies: Vec<IpAddr>,
}

/// Looks for nodes near clients. Cloned for each search.
#[derive(Debug, Clone)]
pub struct Searcher {
    pub(crate) me: IpAddr,
    pub(crate) dsht: DshtHandle,
    pub(crate) appraiser: Arc<Appraiser>,
    pub(crate) candidates: Candidates,
    /// Nameservers that are to promise, at most.
    pub(crate) nameservers: usize,
    /// For how long.
    pub(crate) promise: Duration,
}

/// Nodes asked because hints name them, at most.
const HINTED: usize = 8;
/// Nodes asked because they may be as far away as the client, at most.
const ASKED_AROUND: usize = 6;
/// Members of the whole network that these are chosen from.
const KNOWN: usize = 64;
/// Nodes asked in all for one search.
const MAX_ASKED: usize = 20;

impl Searcher {
    /// The nodes nearest to `client`, a host or a network's first one, which is `rtt` away from here and stands behind
    /// `routers`, the nearest to it first. `known` are those of last time, who are asked in any case.
    ///
    /// `None`: nobody is near it. Ends by itself, within the time of a few questions.
    pub async fn search(
        &self,
        client: IpAddr,
        rtt: Option<Duration>,
        routers: Vec<IpAddr>,
        known: Option<&Near>,
    ) -> Option<Near> {
        // What the routes of the Internet may make of a triangle of round-trip times.
        let slack = self.candidates.table(Instant::now()).widest();
        let mut replies = Vec::new();
        let mut asked = BTreeSet::from([self.me]);
        let hints = HintsQuery { client, routers, count: HINTED, services: NAMESERVER };
        let hinted = self.dsht.hints(hints).await.ok()?;
        let hinted = hinted.iter().map(|neighbour| neighbour.peer.addr.ip().to_canonical());
        let known = known.map_or(&[][..], |near| &near.nameservers).iter().copied();
        self.ask(hinted.chain(known), client, (rtt, slack), &mut asked, &mut replies).await;
        if replies.is_empty() {
            let around = self.around(rtt, slack).await?;
            self.ask(around.into_iter(), client, (rtt, slack), &mut asked, &mut replies).await;
        }
        // Fellows of the nearest may be nearer still, and are wanted beside it.
        replies.sort_by_key(Appraisal::order);
        let fellows = replies.first().map(|nearest| nearest.reply.fellows.clone()).unwrap_or_default();
        self.ask(fellows.into_iter(), client, (rtt, slack), &mut asked, &mut replies).await;
        replies.sort_by_key(Appraisal::order);

        let level = replies.first()?.reply.level;
        let nearest = replies.first()?.reply.rtt.unwrap_or_default();
        replies.retain(|appraisal| appraisal.reply.level == level);
        let about = nearest + (nearest / 2).max(MARGIN);
        let is_about = |appraisal: &&Appraisal| appraisal.reply.rtt.is_none_or(|rtt| rtt <= about);
        let mut proxies: Vec<IpAddr> = replies
            .iter()
            .filter(is_about)
            .filter(|appraisal| appraisal.reply.services.contains(PROXY))
            .map(|appraisal| appraisal.node)
            .collect();
        proxies.sort_unstable();
        let candidates = replies.iter().map(|appraisal| appraisal.node).take(self.nameservers);
        let nameservers = self.promised(candidates.collect(), client).await;
        Some(Near { level, nameservers, proxies })
    }

    /// Those of the network whose distance from here is about that of a client `rtt` away: none of the others can be near
    /// it. Any, if that is not known.
    async fn around(&self, rtt: Option<Duration>, slack: Duration) -> Option<Vec<IpAddr>> {
        let query = NodesQuery { level: Level::GLOBAL, count: KNOWN, target: None, services: NAMESERVER };
        let known = self.dsht.nodes(query).await.ok()?;
        Some(about_as_far(&known, rtt, slack))
    }

    /// Asks those of `nodes` that were not `asked` yet, all at once, and adds what is of use to `replies`.
    async fn ask(
        &self,
        nodes: impl Iterator<Item = IpAddr>,
        client: IpAddr,
        (rtt, slack): (Option<Duration>, Duration),
        asked: &mut BTreeSet<IpAddr>,
        replies: &mut Vec<Appraisal>,
    ) {
        let mut waiting = JoinSet::new();
        for node in nodes.filter(|node| is_unicast(*node)) {
            if asked.len() > MAX_ASKED || !asked.insert(node) {
                continue;
            }
            let appraiser = Arc::clone(&self.appraiser);
            waiting.spawn(async move {
                let (reply, distance) = appraiser.ask(node, Request { client, duty: None }).await?;
                Some(Appraisal { node, reply, distance })
            });
        }
        let of_use =
            |appraisal: &Appraisal| appraisal.reply.level > Level::GLOBAL && appraisal.is_plausible(rtt, slack);
        replies.extend(waiting.join_all().await.into_iter().flatten().filter(of_use));
    }

    /// Those of `nodes` that promise to answer `client`, in the same order.
    async fn promised(&self, nodes: Vec<IpAddr>, client: IpAddr) -> Vec<IpAddr> {
        let seconds = u16::try_from(self.promise.as_secs()).unwrap_or(u16::MAX);
        let request = Request { client, duty: Some(Promise { seconds, distant: self.me }) };
        let mut waiting = JoinSet::new();
        for node in nodes.iter().copied() {
            let appraiser = Arc::clone(&self.appraiser);
            waiting.spawn(async move {
                let (reply, _) = appraiser.ask(node, request).await?;
                reply.has_promised.then_some(node)
            });
        }
        let promised: BTreeSet<IpAddr> = waiting.join_all().await.into_iter().flatten().collect();
        nodes.into_iter().filter(|node| promised.contains(node)).collect()
    }
}

/// Of nodes that are about equally near, this much decides nothing: a host's own delays are of that size.
const MARGIN: Duration = Duration::from_millis(5);

/// What a node has said.
#[derive(Debug, Clone)]
struct Appraisal {
    node: IpAddr,
    reply: Reply,
    /// How long it took to say so: the round-trip time from here, and the time to work it out.
    distance: Duration,
}

impl Appraisal {
    /// The nearest first.
    fn order(&self) -> (Reverse<Level>, Option<Duration>, IpAddr) {
        (Reverse(self.reply.level), self.reply.rtt, self.node)
    }

    /// Whether a client that is `rtt` from here can be as near to that node as it says: one side of a triangle is not longer
    /// than both others, but for what routes on the Internet make of it.
    fn is_plausible(&self, rtt: Option<Duration>, slack: Duration) -> bool {
        match (rtt, self.reply.rtt) {
            (Some(rtt), Some(reported)) => rtt <= self.distance + reported + slack,
            _ => true,
        }
    }
}

/// Some of `known` that are as far from here as somebody `rtt` away, give or take `slack`, at even distances.
fn about_as_far(known: &[Neighbour], rtt: Option<Duration>, slack: Duration) -> Vec<IpAddr> {
    let is_about = |neighbour: &&Neighbour| rtt.is_none_or(|rtt| neighbour.rtt.abs_diff(rtt) < slack);
    let about: Vec<IpAddr> = known.iter().filter(is_about).map(|known| known.peer.addr.ip().to_canonical()).collect();
    let step = about.len().div_ceil(ASKED_AROUND).max(1);
    about.into_iter().step_by(step).collect()
}

#[cfg(test)]
mod tests {
    use coral_dsht::{Peer, Services};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn appraisal(rtt: Option<Duration>, distance: Duration) -> Appraisal {
        let level = Level::new(2).unwrap();
        let reply = Reply { level, rtt, services: Services::NONE, has_promised: false, fellows: Vec::new() };
        Appraisal { node: "192.0.2.1".parse().unwrap(), reply, distance }
    }

    #[test]
    fn a_node_cannot_be_nearer_to_a_client_than_the_triangle_allows() {
        let says_5_ms_at = |distance| appraisal(Some(5 * MS), distance);
        assert!(says_5_ms_at(100 * MS).is_plausible(Some(120 * MS), 60 * MS));
        assert!(!says_5_ms_at(10 * MS).is_plausible(Some(120 * MS), 60 * MS));
        assert!(says_5_ms_at(10 * MS).is_plausible(None, 60 * MS));
        assert!(appraisal(None, 10 * MS).is_plausible(Some(120 * MS), 60 * MS));
    }

    #[test]
    fn who_is_asked_around_is_about_as_far_away_as_the_client() {
        let known: Vec<Neighbour> = (1..=200)
            .map(|last| Neighbour {
                peer: Peer::new(([192, 0, 2, last], 4160).into(), Services::NONE),
                rtt: u32::from(last) * MS,
                heard: Duration::ZERO,
                level: Level::GLOBAL,
            })
            .collect();
        let shown = |rtt, slack| -> Vec<u8> {
            let last = |ip: &IpAddr| match ip {
                IpAddr::V4(ip) => ip.octets()[3],
                IpAddr::V6(_) => 0,
            };
            about_as_far(&known, rtt, slack).iter().map(last).collect()
        };
        assert_eq!(shown(Some(100 * MS), 3 * MS), [98, 99, 100, 101, 102]);
        assert_eq!(shown(Some(100 * MS), 30 * MS), [71, 81, 91, 101, 111, 121]);
        assert_eq!(shown(None, 3 * MS).len(), ASKED_AROUND);
        assert!(shown(Some(900 * MS), 30 * MS).is_empty());
    }
}
