//! Response rate limiting: no network gets more answers a second over UDP than it can have asked for.
//!
//! A forged source address makes a nameserver send its answers to somebody else. Answers to a network are counted in a
//! bucket of tokens; when that is empty, every second query gets an empty answer with TC, which a real resolver follows
//! over TCP, and the others get none. Whoever has proved its address by a cookie is not counted. The table has a fixed size
//! and no entries to evict: two networks that share a bucket, which the secret of the hash keeps from being chosen, share
//! its rate.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// What becomes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is sent.
    Send,
    /// An empty one is sent, with TC.
    Slip,
    /// Nothing is sent.
    Drop,
}

/// Buckets: 256 KiB in all.
const BUCKETS: usize = 1 << 15;

/// Counts answers.
#[derive(Debug)]
pub struct Limiter {
    per_second: u64,
    hasher: RandomState,
    start: Instant,
    /// Each the time, in microseconds from the start, at which the bucket is full again; the lowest bit takes turns.
    buckets: Vec<AtomicU64>,
}

impl Limiter {
    /// At most `per_second` answers a second to a network, and as many at once.
    pub fn new(per_second: NonZeroU32, now: Instant) -> Self {
        Self {
            per_second: per_second.get().into(),
            hasher: RandomState::new(),
            start: now,
            buckets: std::iter::repeat_with(AtomicU64::default).take(BUCKETS).collect(),
        }
    }

    /// Takes an answer for `client` off its network's bucket. Networks are /24 and /56.
    pub fn take(&self, now: Instant, client: IpAddr) -> Verdict {
        let network = match client {
            IpAddr::V4(ip) => u64::from(u32::from(ip) >> 8),
            IpAddr::V6(ip) => (u128::from(ip) >> 72) as u64,
        };
        let bucket = &self.buckets[self.hasher.hash_one((client.is_ipv4(), network)) as usize % BUCKETS];
        // Twice the microseconds: the bit below is the turn.
        let now = 2 * now.saturating_duration_since(self.start).as_micros() as u64;
        let (cost, depth) = (2 * SECOND / self.per_second, 2 * SECOND);
        let known = bucket.load(Ordering::Relaxed);
        let full_at = (known & !1).max(now);
        if full_at - now > depth {
            // A turn that two threads take at once does no harm.
            bucket.store(known ^ 1, Ordering::Relaxed);
            return if known & 1 == 0 { Verdict::Slip } else { Verdict::Drop };
        }
        // Nor does an answer that is not counted because two threads counted at once.
        bucket.store(((full_at + cost) & !1) | (known & 1), Ordering::Relaxed);
        Verdict::Send
    }
}

const SECOND: u64 = Duration::from_secs(1).as_micros() as u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_network_gets_its_share_and_every_second_query_beyond_it_a_hint() {
        let now = Instant::now();
        let limiter = Limiter::new(NonZeroU32::new(100).unwrap(), now);
        let count = |now, wanted| {
            (0..1_000_u32)
                .filter(|n| limiter.take(now, std::net::Ipv4Addr::from(0xc000_0200 + n % 256).into()) == wanted)
                .count()
        };
        let sent = count(now, Verdict::Send);
        assert!((100..=102).contains(&sent), "{sent}");
        assert_eq!(count(now, Verdict::Slip), 500);
        let later = count(now + Duration::from_millis(500), Verdict::Send);
        assert!((49..=51).contains(&later), "{later}");
        assert_eq!(limiter.take(now, "198.51.100.1".parse().unwrap()), Verdict::Send);
    }
}
