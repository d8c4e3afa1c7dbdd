//! Where this node is: the first routers outwards, found by traces and told to the index, which finds its neighbours by
//! them and is found [C04 §4.4].
//!
//! A few contacts are traced to at once: at first the seeds, later peers outside this node's clusters, as ways to the
//! far and wide have nothing in common but their beginning. That happens at the start, beside everything else; again soon,
//! as more peers are known then; and from then on every half hour, when hints are renewed anyway, since a machine is moved to
//! another line, and providers to other routers, without anybody telling it. Its address and its seeds stay the same for
//! as long as it runs.
//!
//! How a trace is made is [`coral_dns::probe::trace`]'s business, which keys a router stands for `coral_dsht::hint`'s. A way on
//! which nobody answers, or a machine that lets nobody ask, costs a line in the log: nodes then find each other by their
//! networks, and by asking around.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::{Future, pending};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use coral_dns::probe::trace::{Hop, Trace, TraceConfig, trace};
use coral_dsht::{DshtHandle, Level, Neighbour, Snapshot, Stopped, hint};
use coral_proxy::address::may_be_peer;
use tokio::task::JoinSet;

/// The task that knows where a node is.
#[derive(Debug)]
pub(crate) struct Outwards {
    /// The index, which is asked for peers and told of routers.
    pub(crate) dsht: DshtHandle,
    /// This node's address.
    pub(crate) me: SocketAddr,
    /// Whom it joins by.
    pub(crate) seeds: Vec<SocketAddr>,
    /// The round-trip time within which something counts as near at all: the diameter of level 1.
    pub(crate) near: Option<Duration>,
}

impl Outwards {
    /// Traces now and again until `stop`.
    pub(crate) async fn run(self, stop: impl Future<Output = ()>) {
        let looking = async {
            // Why the index has stopped is told elsewhere; this task is not at fault.
            let Err(Stopped) = self.trace_again_and_again().await;
            pending::<()>().await;
        };
        tokio::select! {
            () = stop => {}
            () = looking => {}
        }
    }

    async fn trace_again_and_again(&self) -> Result<Infallible, Stopped> {
        let (mut wait, mut has_complained) = (AGAIN, false);
        loop {
            let snapshot = self.dsht.snapshot().await?;
            let destinations = self.destinations(&snapshot);
            if !destinations.is_empty() {
                wait = (2 * wait).min(EVERY);
                match self.look(&destinations).await {
                    Ok(routers) if routers.is_empty() => {
                        tracing::debug!(?destinations, "no router in front of this node");
                    }
                    Ok(routers) if routers == snapshot.routers => {}
                    Ok(routers) => {
                        let list: Vec<String> = routers.iter().map(ToString::to_string).collect();
                        tracing::info!("this node stands behind {}", list.join(", "));
                        self.dsht.set_routers(routers).await?;
                    }
                    Err(e) if !has_complained => {
                        has_complained = true;
                        tracing::warn!(
                            "the routers in front of this node cannot be found: {e}; its neighbours will be found \
                             more slowly (`dsht.trace`)"
                        );
                    }
                    Err(_) => {}
                }
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// The routers in front of this node, nearest first. Whoever is asked for them but does not answer is missing; an error
    /// means that this was so with all.
    async fn look(&self, destinations: &[IpAddr]) -> io::Result<Vec<IpAddr>> {
        let mut under_way = JoinSet::new();
        for destination in destinations.iter().copied() {
            under_way.spawn(async move { trace(destination, &OUTWARDS).await });
        }
        let (mut traces, mut error) = (Vec::new(), None);
        for outcome in under_way.join_all().await {
            match outcome {
                Ok(trace) => traces.push(trace),
                Err(e) => error = Some(e),
            }
        }
        match error {
            Some(e) if traces.is_empty() => Err(e),
            _ if traces.iter().all(|trace| trace.hops.is_empty() && trace.reached.is_none()) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "nobody on the way outwards answers"))
            }
            _ => Ok(in_front_of(self.me, self.near, &traces)),
        }
    }

    /// To whom to trace: peers far and wide, then seeds, then the farthest of this node's own clusters.
    fn destinations(&self, snapshot: &Snapshot) -> Vec<IpAddr> {
        let ips = |neighbours: &[&Neighbour]| -> Vec<IpAddr> {
            neighbours.iter().map(|neighbour| neighbour.peer.addr.ip().to_canonical()).collect()
        };
        let (wide, near): (Vec<&Neighbour>, Vec<&Neighbour>) =
            snapshot.neighbours.iter().partition(|neighbour| neighbour.level == Level::GLOBAL);
        let seeds = self.seeds.iter().map(|seed| seed.ip().to_canonical());
        let mut destinations = Vec::new();
        for ip in spread(&ips(&wide)).into_iter().chain(seeds).chain(ips(&near).into_iter().rev()) {
            let is_elsewhere = ip != self.me.ip() && !ip.is_loopback() && ip.is_ipv4() == self.me.is_ipv4();
            if is_elsewhere && !destinations.contains(&ip) {
                destinations.push(ip);
            }
        }
        destinations.truncate(DESTINATIONS);
        destinations
    }
}

/// Some of `all`, at even distances and the last one among them.
fn spread(all: &[IpAddr]) -> Vec<IpAddr> {
    let step = all.len().div_ceil(DESTINATIONS).max(1);
    all.iter().rev().step_by(step).copied().collect()
}

/// The routers that `traces` have in common, nearest first.
///
/// Of each distance those count that most of the traces name which know one. Left out is what is
/// nearer to the destination than to this node, which with a single destination stands on the whole way; what is beyond `near`;
/// and addresses that stand for no place, or for none of the network that this node at `me` is in.
fn in_front_of(me: SocketAddr, near: Option<Duration>, traces: &[Trace]) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for ttl in 1..=OUTWARDS.hops {
        let at = |trace: &Trace| trace.hops.iter().find(|hop| hop.ttl == ttl).copied();
        let named: Vec<(&Trace, Hop)> = traces.iter().filter_map(|trace| Some((trace, at(trace)?))).collect();
        let addrs: BTreeSet<IpAddr> = named.iter().map(|(_, hop)| hop.addr).collect();
        for addr in addrs {
            let mut naming = named.iter().filter(|(_, hop)| hop.addr == addr);
            let is_common = 2 * naming.clone().count() > named.len();
            let is_ours = naming.any(|(trace, hop)| {
                let is_near = near.is_none_or(|near| hop.rtt < near);
                is_near && trace.reached.is_none_or(|end| 2 * hop.ttl <= end.distance)
            });
            let is_place = hint::is_public(addr) && may_be_peer(SocketAddr::new(addr, 0), me);
            if is_common && is_ours && is_place && !found.contains(&addr) {
                found.push(addr);
            }
        }
    }
    found
}

const OUTWARDS: TraceConfig = TraceConfig { hops: hint::MAX_ROUTERS as u8, ..TraceConfig::FIRST };
/// Traces at once, of six packets each.
const DESTINATIONS: usize = 4;
/// How soon to see again whether anybody can be traced to. After a look it takes twice as long as before, up to [`EVERY`].
const AGAIN: Duration = Duration::from_secs(5);
/// As often as hints are renewed.
const EVERY: Duration = Duration::from_secs(hint::TTL.as_secs() / 2);

#[cfg(test)]
mod tests {
    use coral_dns::probe::trace::Reached;
    use coral_dsht::{Peer, Services};

    use super::*;

    const NEAR: Option<Duration> = Some(Duration::from_millis(60));

    /// A trace written as its hops from the first on, each with its milliseconds or `*`, and the distance of the end.
    fn way(hops: &str, distance: u8) -> Trace {
        let hop = |(ttl, text): (u8, &str)| {
            let (addr, ms) = text.split_once('/')?;
            let rtt = Duration::from_millis(ms.parse().unwrap());
            Some(Hop { ttl, addr: addr.parse().unwrap(), rtt })
        };
        let reached = (distance > 0).then_some(Reached { distance, rtt: Duration::from_millis(200) });
        Trace {
            destination: [1, 1, 1, 1].into(),
            hops: (1..).zip(hops.split_whitespace()).filter_map(hop).collect(),
            reached,
        }
    }

    fn check(me: &str, ways: &[(&str, u8)], expected: &str) {
        let traces: Vec<Trace> = ways.iter().map(|(hops, distance)| way(hops, *distance)).collect();
        let found: Vec<String> = in_front_of(SocketAddr::new(me.parse().unwrap(), 4160), NEAR, &traces)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(found.join(" "), expected);
    }

    #[test]
    fn routers_are_those_that_most_ways_begin_with() {
        let ways = [("9.0.0.1/1 9.0.0.2/2 9.0.1.1/9", 12), ("9.0.0.1/1 9.0.0.2/2 9.0.2.1/9", 14)];
        check("9.0.0.9", &ways, "9.0.0.1 9.0.0.2");
        check("9.0.0.9", &[ways[0], ways[1], ("* 9.0.0.2/3 9.0.1.1/9", 0)], "9.0.0.1 9.0.0.2 9.0.1.1");
        check("9.0.0.9", &[("* * *", 0), ("* 9.0.0.2/1", 0)], "9.0.0.2");
        check("9.0.0.9", &[], "");
    }

    #[test]
    fn what_stands_before_the_destination_or_is_far_is_not_in_front_of_this_node() {
        // Two hops to the middle of this way, and two from there.
        check("9.0.0.9", &[("9.0.0.1/1 9.0.0.2/2 9.0.0.3/3", 4)], "9.0.0.1 9.0.0.2");
        check("9.0.0.9", &[("9.0.0.1/1 9.0.0.2/2 9.0.0.3/80", 0)], "9.0.0.1 9.0.0.2");
        check("9.0.0.9", &[("", 1)], "");
    }

    #[test]
    fn an_address_that_many_have_is_no_hint_nor_one_of_another_network() {
        check("9.0.0.9", &[("192.168.0.1/1 100.64.0.1/2 9.0.0.3/3", 0)], "9.0.0.3");
        check("9.0.0.9", &[("198.19.128.1/1 9.0.0.3/3", 0)], "9.0.0.3");
        check("198.18.1.1", &[("198.19.128.1/1 198.19.129.1/3", 0)], "198.19.128.1 198.19.129.1");
        check("2001:2:0:1::1", &[("2001:2:0:8001::1/1 fe80::1/2 fd00::1/3", 0)], "2001:2:0:8001::1");
        check("10.0.0.9", &[("10.0.0.1/1 9.0.0.3/3", 0)], "9.0.0.3");
    }

    fn neighbour(last: u8, level: u8) -> Neighbour {
        let peer = Peer::new(([9, 0, level, last], 4160).into(), Services::NONE);
        let rtt = Duration::from_millis(last.into());
        Neighbour { peer, rtt, heard: Duration::ZERO, level: Level::new(level).unwrap() }
    }

    #[tokio::test]
    async fn traces_go_far_and_wide_and_to_the_seeds_where_nobody_is_known() {
        let me: SocketAddr = "9.0.0.99:4160".parse().unwrap();
        let dsht = coral_dsht::memory::MemoryNetwork::new().node(Peer::new(me, Services::NONE));
        let seeds =
            ["9.9.9.9:4160", "127.0.0.1:4160", "[2001:db8::1]:4160", "9.0.0.99:1"].map(|seed| seed.parse().unwrap());
        let outwards = Outwards { dsht: dsht.clone(), me, seeds: seeds.into(), near: NEAR };
        let mut snapshot = dsht.snapshot().await.unwrap();
        let destinations = |snapshot: &Snapshot| -> String {
            let list: Vec<String> = outwards.destinations(snapshot).iter().map(ToString::to_string).collect();
            list.join(" ")
        };
        snapshot.neighbours.clear();
        assert_eq!(destinations(&snapshot), "9.9.9.9");
        snapshot.neighbours = [1, 2, 3].map(|last| neighbour(last, 2)).into();
        assert_eq!(destinations(&snapshot), "9.9.9.9 9.0.2.3 9.0.2.2 9.0.2.1");
        snapshot.neighbours.extend((11..=18).map(|last| neighbour(last, 0)));
        assert_eq!(destinations(&snapshot), "9.0.0.18 9.0.0.16 9.0.0.14 9.0.0.12");
    }

    #[tokio::test]
    async fn the_task_ends_when_it_is_told_to_though_the_index_has_stopped() {
        let me: SocketAddr = "127.0.0.1:4160".parse().unwrap();
        let (dsht, far_end) = DshtHandle::channel(1);
        drop(far_end);
        Outwards { dsht, me, seeds: Vec::new(), near: None }.run(tokio::task::yield_now()).await;
    }
}
