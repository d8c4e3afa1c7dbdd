//! How long one node is waited for before a second one is asked as well.
//!
//! A node that has the object answers at once, and how soon that is the last such answers tell: their smoothed time and
//! its deviation, as TCP estimates when an acknowledgement is overdue (RFC 6298 §2).

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Nobody is overdue sooner: what is saved would be less than a second request costs.
const LEAST: Duration = Duration::from_millis(20);

/// How soon nodes answer that have what they are asked for.
#[derive(Debug, Default)]
pub(super) struct FirstBytes {
    /// The smoothed time and its deviation; `None` before the first answer.
    times: Mutex<Option<(Duration, Duration)>>,
}

impl FirstBytes {
    /// Notes that a first byte took so long, or that it took longer and was not waited for.
    pub(super) fn took(&self, time: Duration) {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        *times = Some(match *times {
            None => (time, time / 2),
            Some((smoothed, deviation)) => {
                let deviation = (deviation * 3 + smoothed.abs_diff(time)) / 4;
                ((smoothed * 7 + time) / 8, deviation)
            }
        });
    }

    /// After what time a first byte is overdue: at most `limit`, and that until anything is known.
    pub(super) fn overdue_after(&self, limit: Duration) -> Duration {
        let times = *self.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.map_or(limit, |(smoothed, deviation)| (smoothed + deviation * 4).max(LEAST).min(limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_overdue_follows_what_was_seen_within_its_bounds() {
        let first_bytes = FirstBytes::default();
        let after = |times: &[u64]| {
            times.iter().for_each(|millis| first_bytes.took(Duration::from_millis(*millis)));
            first_bytes.overdue_after(Duration::from_millis(500)).as_millis()
        };
        let seen = [after(&[]), after(&[40]), after(&[40; 20]), after(&[1; 50]), after(&[60]), after(&[9000])];
        assert_eq!(seen, [500, 120, 40, 20, 67, 500]);
        assert_eq!(first_bytes.overdue_after(Duration::ZERO), Duration::ZERO, "the limit is the operator's word");
    }
}
