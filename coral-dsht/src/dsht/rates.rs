//! How much of one network's is served: a flood of requests is dropped before it is decoded (design.md §2.8), and one of
//! announcements before the application hears of it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::peer::Prefix;
use crate::time::Instant;

/// What a network may send: a bucket that leaks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance {
    /// How long one takes to be forgotten.
    pub(crate) each: Duration,
    /// What may come at once: those of so long.
    pub(crate) burst: Duration,
}

impl Allowance {
    /// So many a second, and twice as many at once.
    pub(crate) fn per_second(count: NonZeroU32) -> Self {
        let second = Duration::from_secs(1);
        Self { each: second / count.get(), burst: 2 * second }
    }
}

/// One bucket for each network that has sent something lately, and one for all that find no room.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    /// When each bucket is full again; each request moves that by its share of a second.
    full_again: BTreeMap<Prefix, Instant>,
    others: Option<Instant>,
}

impl Rates {
    /// Whether one from `ip` is served; counts it if so. Those of this machine itself are all served: nobody else can
    /// send in their name, and whoever runs many nodes on one machine wants to see what they can do.
    pub(crate) fn admit(&mut self, allowance: Allowance, now: Instant, ip: IpAddr) -> bool {
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
        let next = (*full_again).max(now) + allowance.each;
        let admitted = next <= now + allowance.burst;
        if admitted {
            *full_again = next;
        }
        admitted
    }

    /// Whether one from `ip` would be served. Not counted.
    pub(crate) fn would_admit(&self, allowance: Allowance, now: Instant, ip: IpAddr) -> bool {
        let full_again = match self.full_again.get(&Prefix::of(ip)) {
            Some(full_again) => Some(*full_again),
            None => self.others.filter(|_| self.full_again.len() >= MAX_BUCKETS),
        };
        ip.is_loopback()
            || full_again.is_none_or(|full_again| full_again.max(now) + allowance.each <= now + allowance.burst)
    }

    /// Forgets the buckets that are full by `now`.
    pub(crate) fn sweep(&mut self, now: Instant) {
        self.full_again.retain(|_, full_again| *full_again > now);
    }
}

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
        let allowance = Allowance::per_second(NonZeroU32::new(100).unwrap());
        let mut rates = Rates::default();
        let mut count = |now, network: u8| {
            let ip = |host: u16| IpAddr::from([192, 0, network, (host % 250) as u8]);
            let would = rates.would_admit(allowance, now, ip(0));
            let count = (0..1000).filter(|host| rates.admit(allowance, now, ip(*host))).count();
            assert!(would == (count > 0) && !rates.would_admit(allowance, now, ip(0)));
            count
        };
        assert_eq!(count(at(0), 2), 200);
        assert_eq!(count(at(0), 3), 200);
        assert_eq!(count(at(1000), 2), 100);
        assert_eq!(count(at(10_000), 2), 200);
        assert!((0..1000).all(|_| rates.admit(allowance, at(0), [127, 0, 0, 1].into())));
    }

    #[test]
    fn a_flood_from_everywhere_costs_bounded_memory() {
        let allowance = Allowance::per_second(NonZeroU32::MIN);
        let mut rates = Rates::default();
        let ip = |number: u32| IpAddr::from(std::net::Ipv4Addr::from(number << 8));
        let admitted = (0..10_000).filter(|number| rates.admit(allowance, at(0), ip(*number))).count();
        assert_eq!((admitted, rates.full_again.len()), (MAX_BUCKETS + 2, MAX_BUCKETS));
        assert!(!rates.would_admit(allowance, at(0), ip(9999)) && rates.would_admit(allowance, at(0), ip(0)));
        assert!(rates.admit(allowance, at(3000), ip(9999)), "the first have gone");
        rates.sweep(at(10_000));
        assert!(rates.full_again.is_empty());
    }
}
