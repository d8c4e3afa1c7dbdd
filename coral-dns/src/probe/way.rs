//! Where a client is: the last routers in front of it, by which hints find nodes near it, and how far it is at least
//! [C04 §3.1, §4.4].
//!
//! A trace from here and one by a node behind the same routers meet where both know a router by the same address, or by one of
//! the same network: see [`coral_dsht::hint::keys`]. Looking the hints up is left to the caller.

use std::net::IpAddr;
use std::time::Duration;

use coral_dsht::hint;
use tokio::time::timeout;

use super::trace::{Hop, MAX_ROUNDS, Trace, TraceConfig, trace};

/// How long [`last_routers`] takes at most.
pub const LIMIT: Duration = Duration::from_secs(1);

/// The end of the way to a client. By default nothing is known of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Way {
    /// The last routers in front of the client, nearest to it first: those with public addresses and nearer to it than to
    /// this machine. At most five.
    pub routers: Vec<IpAddr>,
    /// The round-trip time to the client if it answered, else that to the last router that did: the client is no nearer than
    /// that. A router answers when it has time, so this may be a little too much, too.
    pub rtt_bound: Option<Duration>,
    /// Whether the client itself answered: then the bound is its distance.
    pub answered: bool,
}

/// The last routers in front of `address`, within a tokio runtime and within [`LIMIT`].
///
/// Where nobody answers, or nothing can be sent, the way is empty. Whoever takes more than a quarter of a second to answer counts
/// as silent.
pub async fn last_routers(address: IpAddr) -> Way {
    let config = TraceConfig { timeout: LIMIT / MAX_ROUNDS, ..TraceConfig::LAST };
    // The trace ends by itself in that time; what sending may wait for comes on top.
    match timeout(LIMIT, trace(address, &config)).await {
        Ok(Ok(trace)) => Way::of(&trace),
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "no trace");
            Way::default()
        }
        Err(_) => Way::default(),
    }
}

impl Way {
    /// What a trace of the last hops says.
    ///
    /// The routers of a short way include this machine's own. Hints under those name nodes near this machine, not near the
    /// client, so what is not beyond the middle is left out, but for the very last: that may stand in front of both.
    pub fn of(trace: &Trace) -> Self {
        let last = trace.hops.last();
        let end =
            trace.reached.map(|end| end.distance).or(last.map(|hop| hop.ttl.saturating_add(1))).unwrap_or_default();
        let is_theirs = |hop: &&Hop| hop.ttl > end / 2 || hop.ttl.saturating_add(1) == end;
        let near = trace.hops.iter().rev().filter(is_theirs).map(|hop| hop.addr.to_canonical());
        Self {
            routers: near.filter(|addr| hint::is_public(*addr)).take(hint::MAX_ROUTERS).collect(),
            rtt_bound: trace.reached.map(|end| end.rtt).or(last.map(|hop| hop.rtt)),
            answered: trace.reached.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::super::trace::Reached;
    use super::*;

    /// A trace written as its hops, each with its TTL and its milliseconds, and the distance and milliseconds of the end.
    fn check(hops: &[(u8, &str, u64)], end: Option<(u8, u64)>, expected: &str) {
        let ms = Duration::from_millis;
        let hop = |(ttl, addr, rtt): &(u8, &str, u64)| Hop { ttl: *ttl, addr: addr.parse().unwrap(), rtt: ms(*rtt) };
        let trace = Trace {
            destination: [9, 9, 9, 9].into(),
            hops: hops.iter().map(hop).collect(),
            reached: end.map(|(distance, rtt)| Reached { distance, rtt: ms(rtt) }),
        };
        let way = Way::of(&trace);
        let routers: Vec<String> = way.routers.iter().map(ToString::to_string).collect();
        assert_eq!(format!("{} | {:?} {}", routers.join(" "), way.rtt_bound, way.answered), expected);
    }

    #[test]
    fn the_nearest_to_the_client_comes_first() {
        let hops = [(8, "9.0.0.8", 80), (9, "9.0.0.9", 90), (11, "9.0.0.11", 95)];
        check(&hops, Some((12, 96)), "9.0.0.11 9.0.0.9 9.0.0.8 | Some(96ms) true");
        check(&hops, None, "9.0.0.11 9.0.0.9 9.0.0.8 | Some(95ms) false");
        check(&[], None, " | None false");
        check(&[], Some((1, 3)), " | Some(3ms) true");
    }

    #[test]
    fn routers_of_this_machine_and_private_ones_are_left_out() {
        let hops = [
            (1, "9.0.0.1", 1),
            (2, "9.0.0.2", 2),
            (3, "9.0.0.3", 30),
            (4, "192.168.0.1", 58),
            (5, "::ffff:9.0.0.5", 59),
        ];
        check(&hops, Some((6, 60)), "9.0.0.5 | Some(60ms) true");
        check(&hops[..2], Some((3, 4)), "9.0.0.2 | Some(4ms) true");
        check(&hops[..1], Some((2, 3)), "9.0.0.1 | Some(3ms) true");
        check(&hops[..3], None, "9.0.0.3 | Some(30ms) false");
    }

    #[tokio::test]
    async fn whatever_the_address_there_is_an_answer_in_time() {
        let begun = Instant::now();
        for nobody in ["0.0.0.0", "::", "224.0.0.1", "ff02::1"] {
            assert_eq!(last_routers(nobody.parse().unwrap()).await, Way::default());
        }
        let here = last_routers([127, 0, 0, 1].into()).await;
        assert!(here.answered && here.routers.is_empty() && here.rtt_bound.is_some_and(|rtt| rtt < LIMIT), "{here:?}");
        assert!(begun.elapsed() < LIMIT);
    }
}
