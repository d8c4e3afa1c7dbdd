//! How many requests of one network are served: a flood is dropped before it is decoded (design.md §2.8).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::config::Config;
use crate::peer::Prefix;
use crate::time::Instant;

/// One bucket for each network that has sent requests in the last seconds, and one for all that find no room.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    /// When each bucket is full again; each request moves that by its share of a second.
    full_again: BTreeMap<Prefix, Instant>,
    others: Option<Instant>,
}

impl Rates {
    /// Whether a request from `ip` is served; counts it if so. Those of this machine itself are all served: nobody else can
    /// send in their name, and whoever runs many nodes on one machine wants to see what they can do.
    pub(crate) fn admit(&mut self, config: &Config, now: Instant, ip: IpAddr) -> bool {
        if ip.is_loopback() {
            return true;
        }
        let prefix = Prefix::of(ip);
        if self.full_again.len() >= MAX_BUCKETS && !self.full_again.contains_key(&prefix) {
            self.sweep(now);
        }
        let full_again = if self.full_again.len() < MAX_BUCKETS || self.full_again.contains_key(&prefix) {
            self.full_again.entry(prefix).or_insert(now)
        } else {
            self.others.get_or_insert(now)
        };
        let next = (*full_again).max(now) + Duration::from_secs(1) / config.requests_per_prefix.get();
        let admitted = next <= now + BURST;
        if admitted {
            *full_again = next;
        }
        admitted
    }

    /// Forgets the buckets that are full by `now`.
    pub(crate) fn sweep(&mut self, now: Instant) {
        self.full_again.retain(|_, full_again| *full_again > now);
    }
}

/// What may come at once: the requests of so long.
const BURST: Duration = Duration::from_secs(2);
/// Networks that are told apart.
const MAX_BUCKETS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::START + Duration::from_millis(millis)
    }

    #[test]
    fn a_network_is_served_so_many_requests_a_second_and_others_meanwhile() {
        let config = Config { requests_per_prefix: std::num::NonZeroU32::new(100).unwrap(), ..Config::default() };
        let mut rates = Rates::default();
        let mut count = |now, network: u8| {
            (0..1000).filter(|host| rates.admit(&config, now, [192, 0, network, (host % 250) as u8].into())).count()
        };
        assert_eq!(count(at(0), 2), 200);
        assert_eq!(count(at(0), 3), 200);
        assert_eq!(count(at(1000), 2), 100);
        assert_eq!(count(at(10_000), 2), 200);
        assert!((0..1000).all(|_| rates.admit(&config, at(0), [127, 0, 0, 1].into())));
    }

    #[test]
    fn a_flood_from_everywhere_costs_bounded_memory() {
        let config = Config { requests_per_prefix: std::num::NonZeroU32::new(1).unwrap(), ..Config::default() };
        let mut rates = Rates::default();
        let ip = |number: u32| IpAddr::from(std::net::Ipv4Addr::from(number << 8));
        let admitted = (0..10_000).filter(|number| rates.admit(&config, at(0), ip(*number))).count();
        assert_eq!((admitted, rates.full_again.len()), (MAX_BUCKETS + 2, MAX_BUCKETS));
        assert!(rates.admit(&config, at(3000), ip(9999)), "the first have gone");
        rates.sweep(at(10_000));
        assert!(rates.full_again.is_empty());
    }
}
