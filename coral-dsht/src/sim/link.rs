//! What happens to a datagram on its way: loss, jitter (and with it reordering), duplicates.

use std::time::Duration;

use rand_chacha::ChaCha12Rng;
use rand_core::Rng as _;

/// The faults of all links, each as a share of the datagrams in thousandths. None by default.
#[derive(Debug, Clone, Copy, Default)]
pub struct Link {
    /// Lost.
    pub loss_per_mille: u32,
    /// Delivered twice.
    pub duplicate_per_mille: u32,
    /// Each is late by a random time up to this.
    pub jitter: Duration,
}

impl Link {
    /// Faults drawn at random: up to 5 % loss, 2 % duplicates and 20 ms of jitter. Each seed gets its own.
    pub fn draw(rng: &mut ChaCha12Rng) -> Self {
        Self {
            loss_per_mille: rng.next_u32() % 50,
            duplicate_per_mille: rng.next_u32() % 20,
            jitter: Duration::from_millis((rng.next_u32() % 20).into()),
        }
    }

    /// When the copies of one datagram arrive; empty when it is lost.
    pub(crate) fn carry(&self, rng: &mut ChaCha12Rng, one_way: Duration) -> Vec<Duration> {
        let copies = if happens(rng, self.loss_per_mille) {
            0
        } else if happens(rng, self.duplicate_per_mille) {
            2
        } else {
            1
        };
        (0..copies).map(|_| one_way + self.jitter.mul_f64(f64::from(rng.next_u32()) / f64::from(u32::MAX))).collect()
    }
}

fn happens(rng: &mut ChaCha12Rng, per_mille: u32) -> bool {
    rng.next_u32() % 1000 < per_mille
}
