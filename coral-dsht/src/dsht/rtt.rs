//! The round-trip time to one peer, and the time-out that follows from it (RFC 6298 §2).

use std::time::Duration;

/// A smoothed round-trip time and its variation. The first sample sets it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rtt {
    smoothed: Option<Duration>,
    variation: Duration,
    /// What an answer to a repeated request took, since the last sample.
    backed_off: Duration,
}

/// How long to wait for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patience {
    /// After so long somebody else is asked meanwhile: most answers have come by then. This costs one request too many now
    /// and then, so it may be short.
    pub(crate) late: Duration,
    /// After so long the request is sent again.
    pub(crate) timeout: Duration,
}

impl Rtt {
    /// Takes in one measured round trip. The caller leaves out those of repeated requests (Karn's rule, §3).
    pub(crate) fn sample(&mut self, measured: Duration) {
        self.backed_off = Duration::ZERO;
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

    /// An answer to a repeated request has come `span` after the first time that it was sent.
    ///
    /// That is no sample, as nobody knows which of the two was answered; but where all answers take longer than the
    /// time-out, there would never be one. So the time-out stays so long until the next sample (§5.5, §5.7).
    pub(crate) fn back_off(&mut self, span: Duration) {
        self.backed_off = span.min(MOST_BACK_OFF);
    }

    /// How long to wait for an answer: §2.2, with `initial` before the first sample and `min` as the least time-out.
    pub(crate) fn patience(&self, initial: Duration, min: Duration) -> Patience {
        match self.smoothed {
            None => Patience { late: initial, timeout: initial },
            Some(smoothed) => {
                let late = (smoothed + (4 * self.variation).max(GRANULARITY)).max(self.backed_off);
                Patience { late, timeout: late.max(min) }
            }
        }
    }
}

/// G of §2.2: answers come a little later than most now and then, were it for another task that has the core just now.
pub(crate) const GRANULARITY: Duration = Duration::from_millis(10);
/// The longest time-out that an answer to a repeated request leads to: the first one of §2.1.
const MOST_BACK_OFF: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn patience(rtt: &Rtt) -> (u128, u128) {
        let Patience { late, timeout } = rtt.patience(ms(400), ms(50));
        (late.as_millis(), timeout.as_millis())
    }

    #[test]
    fn the_timeout_follows_the_measured_time() {
        let mut rtt = Rtt::default();
        assert_eq!(patience(&rtt), (400, 400));
        rtt.sample(ms(100));
        assert_eq!(patience(&rtt), (300, 300));
        for _ in 0..50 {
            rtt.sample(ms(100));
        }
        assert_eq!(rtt.smoothed(), Some(ms(100)));
        assert_eq!(patience(&rtt), (110, 110));
    }

    #[test]
    fn a_near_peer_is_late_before_it_is_asked_again() {
        let mut rtt = Rtt::default();
        rtt.sample(Duration::from_micros(80));
        assert_eq!(patience(&rtt), (10, 50));
    }

    #[test]
    fn answers_that_always_come_after_the_timeout_make_it_longer() {
        let mut rtt = Rtt::default();
        rtt.sample(ms(1));
        rtt.back_off(ms(120));
        assert_eq!(patience(&rtt), (120, 120));
        rtt.back_off(ms(9000));
        assert_eq!(patience(&rtt), (1000, 1000));
        rtt.sample(ms(1));
        assert_eq!(patience(&rtt), (11, 50));
    }
}
