//! How many requests one address may send: the generic cell rate algorithm, which is a token bucket kept as one number.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::sync::Cache as Moka;
use tokio::time::Instant;

/// After a pause, the requests of this time may come at once.
const BURST: Duration = Duration::from_secs(2);
/// Addresses of which it is known what they have sent.
const MOST_ADDRESSES: u64 = 16_384;

/// The rates of all addresses. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Rates {
    /// Between two requests at an even pace, in nanoseconds.
    interval: Arc<AtomicU64>,
    of_address: Moka<IpAddr, Rate>,
}

/// How much one address asks. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct Rate(Arc<Spent>);

#[derive(Debug)]
struct Spent {
    interval: Arc<AtomicU64>,
    begun: Instant,
    /// When the last request taken would have come at an even pace, in nanoseconds since `begun`.
    even: AtomicU64,
}

impl Rates {
    pub(super) fn new(per_second: NonZeroU32) -> Self {
        // After this time without a connection, a spent burst is whole again.
        let of_address = Moka::builder().max_capacity(MOST_ADDRESSES).time_to_idle(BURST).build();
        let rates = Self { interval: Arc::default(), of_address };
        rates.set(per_second);
        rates
    }

    /// From now on so many, for those who are known, too.
    pub(super) fn set(&self, per_second: NonZeroU32) {
        self.interval.store(nanos(Duration::from_secs(1) / per_second.get()), Ordering::Relaxed);
    }

    /// That of `address`, which its connections share.
    pub(super) fn of(&self, address: IpAddr) -> Rate {
        self.of_address.get_with(address, || Rate::new(Arc::clone(&self.interval)))
    }
}

impl Rate {
    fn new(interval: Arc<AtomicU64>) -> Self {
        Self(Arc::new(Spent { interval, begun: Instant::now(), even: AtomicU64::new(0) }))
    }

    /// Takes one more request; an error says how long not.
    pub(crate) fn take(&self) -> Result<(), Duration> {
        let Spent { interval, begun, even } = &*self.0;
        let (now, interval) = (nanos(begun.elapsed()), interval.load(Ordering::Relaxed));
        let next = |even: u64| even.max(now) + interval;
        let latest = now + nanos(BURST);
        let taken = even
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |even| Some(next(even)).filter(|next| *next <= latest));
        taken.map(drop).map_err(|even| Duration::from_nanos(next(even) - latest))
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_taken_and_then_an_even_stream() {
        let rates = Rates::new(NonZeroU32::new(100).unwrap());
        let rate = rates.of("192.0.2.1".parse().unwrap());
        let taken = (0..1000).filter(|_| rate.take().is_ok()).count();
        assert_eq!(taken, 200);
        let wait = rate.take().unwrap_err();
        assert!(rates.of("192.0.2.1".parse().unwrap()).take().is_err(), "another connection changes nothing");
        assert!(rates.of("192.0.2.2".parse().unwrap()).take().is_ok(), "another address has its own");
        tokio::time::advance(wait).await;
        assert!(rate.take().is_ok() && rate.take().is_err());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((0..1000).filter(|_| rate.take().is_ok()).count(), 100);
        rates.set(NonZeroU32::new(10).unwrap());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((0..1000).filter(|_| rate.take().is_ok()).count(), 10);
    }
}
