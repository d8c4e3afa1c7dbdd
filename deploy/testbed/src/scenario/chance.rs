//! Chance from a seed: who asks for what, in which order.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};

/// A stream of random choices that the seed decides.
#[derive(Debug, Clone)]
pub struct Chance(ChaCha8Rng);

impl Chance {
    /// The stream of this seed for someone with this number.
    pub fn new(seed: u64, number: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(number);
        Self(rng)
    }

    /// A number from 0 up to, but without, 1.
    pub fn share(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.share() * bound as f64) as usize
    }

    /// Puts things into another order, each as likely as any (Fisher and Yates).
    pub fn shuffle<T>(&mut self, things: &mut [T]) {
        for end in (1..things.len()).rev() {
            things.swap(end, self.below(end + 1));
        }
    }

    /// Which of `count` things, the first more often than the second and so on (Zipf's law).
    pub fn popular(&mut self, count: usize) -> usize {
        let weights = (1..=count).map(|rank| 1.0 / rank as f64);
        let mut left = self.share() * weights.clone().sum::<f64>();
        let drawn = weights.enumerate().find(|(_, weight)| {
            left -= weight;
            left < 0.0
        });
        drawn.map_or(0, |(index, _)| index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_a_stream_of_their_own() {
        let drawn = |seed, number| Chance::new(seed, number).0.next_u64();
        assert_eq!(drawn(1, 1), drawn(1, 1));
        assert_ne!(drawn(1, 1), drawn(1, 2));
        assert_ne!(drawn(1, 1), drawn(2, 1));
    }

    #[test]
    fn the_first_is_drawn_most_and_all_are_drawn() {
        let mut chance = Chance::new(1, 1);
        let mut drawn = [0; 12];
        (0..10_000).for_each(|_| drawn[chance.popular(12)] += 1);
        // 1 of 3.1, and a twelfth of that.
        assert!((2900..3600).contains(&drawn[0]) && (180..360).contains(&drawn[11]), "{drawn:?}");
    }

    #[test]
    fn a_shuffle_loses_nothing() {
        let mut things: Vec<usize> = (0..100).collect();
        Chance::new(7, 0).shuffle(&mut things);
        assert!(!things.is_sorted());
        things.sort_unstable();
        assert!(things.into_iter().eq(0..100));
    }
}
