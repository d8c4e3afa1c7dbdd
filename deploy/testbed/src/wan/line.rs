//! A line: so many bits a second, and a queue in front of it that holds so much.

use std::time::Duration;

use crate::map::Rate;

/// When a line will have sent what it was given.
#[derive(Debug, Clone, Copy, Default)]
pub struct Line {
    free_at: Duration,
}

impl Line {
    /// When the last bit of a packet has left, if it came at `now`; `None` if the queue is full, and it is dropped.
    ///
    /// A packet waits no longer than `queue`, or than ten packets of full size take.
    pub fn send(&mut self, now: Duration, bytes: usize, rate: Rate, queue: Duration) -> Option<Duration> {
        let begin = self.free_at.max(now);
        if begin - now > queue.max(rate.time_for(LEAST_QUEUE_BYTES)) {
            return None;
        }
        self.free_at = begin + rate.time_for(bytes);
        Some(self.free_at)
    }

    /// Forgets what is under way, as its rate has changed: the new one counts from here.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

const LEAST_QUEUE_BYTES: usize = 15_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn packets_leave_one_after_the_other() {
        let rate = Rate::from_bits_per_second(1_000_000).unwrap();
        let mut line = Line::default();
        assert_eq!(line.send(millis(5), 1250, rate, millis(300)), Some(millis(15)));
        assert_eq!(line.send(millis(5), 1250, rate, millis(300)), Some(millis(25)));
        assert_eq!(line.send(millis(100), 1250, rate, millis(300)), Some(millis(110)));
    }

    #[test]
    fn a_queue_is_full_after_its_time_or_ten_packets() {
        let rate = Rate::from_bits_per_second(1_000_000).unwrap();
        let taken = |queue| {
            let mut line = Line::default();
            (0..1000).filter(|_| line.send(millis(0), 1250, rate, queue).is_some()).count()
        };
        // 10 ms each: those that wait 0, 10, … 300 ms.
        assert_eq!(taken(millis(300)), 31);
        // 15,000 bytes take 120 ms.
        assert_eq!(taken(Duration::ZERO), 13);
    }
}
