//! How many puts for one key a node lets through: whether it is *loaded* [C04 §4.2].

use std::time::Duration;

use crate::config::Config;
use crate::time::Instant;

/// Lets β through at once and then one in each 60/β seconds: a bucket of β that drips, and ever more slowly while what it
/// lets through comes back.
///
/// That is ours. The published rule lets β a minute through at each of the nodes that hand puts on to the nearest, and
/// random ids give some keys three times the ⌈log2 n⌉ of those that a balanced tree would have. A put that was turned back
/// is stored at the node before; told so, that node knows that the values ahead are fresh enough.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meter {
    /// When the bucket is full again; each put moves it by a drip.
    pub(super) full_again: Instant,
    /// A drip takes 2^slowed times as long as it should.
    slowed: u8,
    /// What was last let through has come back.
    came_back: bool,
}

impl Meter {
    /// After so long without a put a meter is as new.
    const SPAN: Duration = Duration::from_secs(60);
    /// The slowest is a put in 80 s, if β is 12: values that live a minute or more stay fresh.
    const MOST_SLOWED: u8 = 4;

    pub(crate) fn new(now: Instant) -> Self {
        Self { full_again: now, slowed: 0, came_back: false }
    }

    /// Whether one more may pass at `now`; counts it if so.
    pub(crate) fn take(&mut self, config: &Config, now: Instant) -> bool {
        let drip = (Self::SPAN / config.loaded_puts_per_minute.get()) * (1 << self.slowed);
        let next = self.full_again.max(now) + drip;
        let allowed = next <= now + Self::SPAN.max(drip);
        if allowed {
            self.full_again = next;
            if !std::mem::take(&mut self.came_back) {
                self.slowed = self.slowed.saturating_sub(1);
            }
        }
        allowed
    }

    /// What was let through was turned back by a node ahead. Counts once for each that was let through.
    pub(crate) fn push_back(&mut self) {
        if !self.came_back {
            self.came_back = true;
            self.slowed = (self.slowed + 1).min(Self::MOST_SLOWED);
        }
    }

    /// Whether it is as a new one.
    pub(crate) fn is_idle(&self, now: Instant) -> bool {
        self.full_again <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::START + Duration::from_secs(seconds)
    }

    #[test]
    fn a_node_lets_through_less_while_it_comes_back_and_more_when_it_no_longer_does() {
        let config = Config::default();
        let mut meter = Meter::new(at(0));
        while meter.take(&config, at(0)) {}
        // How many it lets through in ten minutes of a put each second, all or none of which come back.
        let mut let_through = |from: u64, comes_back: bool| {
            let taken = (from..from + 600).filter(|second| {
                let taken = meter.take(&config, at(*second));
                if taken && comes_back {
                    meter.push_back();
                    meter.push_back();
                }
                taken
            });
            taken.count()
        };
        assert_eq!(let_through(1, false), 120);
        assert!((8..20).contains(&let_through(601, true)));
        assert!(let_through(1201, false) > 80);
    }
}
