//! The round-trip time to one peer, and the time-out that follows from it (RFC 6298 §2).

use std::time::Duration;

/// A smoothed round-trip time and its variation. The first sample sets it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rtt {
    smoothed: Option<Duration>,
    variation: Duration,
}

impl Rtt {
    /// Takes in one measured round trip. The caller leaves out those of repeated requests (Karn's rule, §3).
    pub(crate) fn sample(&mut self, measured: Duration) {
        match self.smoothed {
            None => {
                self.smoothed = Some(measured);
                self.variation = measured / 2;
            }
            Some(smoothed) => {
                // §2.3, with α = 1/8 and β = 1/4.
                self.variation = (self.variation * 3 + smoothed.abs_diff(measured)) / 4;
                self.smoothed = Some((smoothed * 7 + measured) / 8);
            }
        }
    }

    /// The smoothed round-trip time; `None` before the first sample.
    pub(crate) fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// How long to wait for an answer: §2.2, with `initial` before the first sample and `min` as the least.
    pub(crate) fn timeout(&self, initial: Duration, min: Duration) -> Duration {
        match self.smoothed {
            None => initial,
            Some(smoothed) => (smoothed + 4 * self.variation).max(min),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_timeout_follows_the_measured_time() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.timeout(ms(400), ms(50)), ms(400));
        rtt.sample(ms(100));
        assert_eq!(rtt.timeout(ms(400), ms(50)), ms(300));
        for _ in 0..50 {
            rtt.sample(ms(100));
        }
        assert_eq!(rtt.smoothed(), Some(ms(100)));
        let settled = rtt.timeout(ms(400), ms(50));
        assert!((ms(100)..ms(101)).contains(&settled), "{settled:?}");
    }

    #[test]
    fn the_timeout_is_never_below_its_least() {
        let mut rtt = Rtt::default();
        rtt.sample(Duration::from_micros(80));
        assert_eq!(rtt.timeout(ms(400), ms(50)), ms(50));
    }
}
