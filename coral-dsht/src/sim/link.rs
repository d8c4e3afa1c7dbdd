//! What happens to a datagram on its way: loss, jitter (and with it reordering), duplicates; pairs of nodes that cannot
//! reach each other, one way or both; and networks that fall apart.

use std::time::Duration;

use rand_chacha::ChaCha12Rng;
use rand_core::Rng as _;

/// The faults of all links. None by default.
#[derive(Debug, Clone, Copy, Default)]
pub struct Link {
    /// Datagrams lost, in thousandths.
    pub loss_per_mille: u32,
    /// Datagrams delivered twice, in thousandths.
    pub duplicate_per_mille: u32,
    /// Each datagram is late by up to so much; two of them may so change places.
    pub jitter: Duration,
    /// Pairs of nodes of which one never hears the other, while the other hears it, in thousandths of all ordered pairs.
    pub deaf_per_mille: u32,
    /// Pairs of nodes that never hear each other, though others reach both \[NT05\], in thousandths.
    pub apart_per_mille: u32,
    /// Which pairs these are follows from this number.
    pub pairs: u64,
}

impl Link {
    /// Faults drawn at random: up to a tenth lost, some twice, some late, and a few pairs that cannot talk.
    pub fn draw(rng: &mut ChaCha12Rng) -> Self {
        Self {
            loss_per_mille: rng.next_u32() % 100,
            duplicate_per_mille: rng.next_u32() % 20,
            jitter: Duration::from_millis((rng.next_u32() % 20).into()),
            deaf_per_mille: rng.next_u32() % 20,
            apart_per_mille: rng.next_u32() % 20,
            pairs: rng.next_u64(),
        }
    }

    /// When the copies of one datagram arrive; none when it is lost.
    pub(crate) fn carry(
        &self,
        rng: &mut ChaCha12Rng,
        (from, to): (usize, usize),
        one_way: Duration,
    ) -> impl Iterator<Item = Duration> + use<> {
        let reaches = !self.is_cut(from, to) && !happens(rng, self.loss_per_mille);
        let mut late = || match self.jitter {
            Duration::ZERO => one_way,
            jitter => one_way + jitter.mul_f64(f64::from(rng.next_u32()) / f64::from(u32::MAX)),
        };
        let first = reaches.then(&mut late);
        let second = reaches && happens(rng, self.duplicate_per_mille);
        [first, second.then_some(one_way)].into_iter().flatten()
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        let draw = |a: usize, b: usize| (mixed(self.pairs ^ mixed((a as u64) << 32 | b as u64)) % 1000) as u32;
        (self.deaf_per_mille > 0 && draw(from, to) < self.deaf_per_mille)
            // Both ways alike; another draw than the one above.
            || (self.apart_per_mille > 0 && draw(from.min(to) | 1 << 31, from.max(to)) < self.apart_per_mille)
    }
}

/// Which nodes have been cut off from which others.
#[derive(Debug, Clone, Default)]
pub(crate) struct Partition {
    /// By number; nodes that came later are on the mainland.
    is_island: Vec<bool>,
}

impl Partition {
    /// These nodes reach each other, and nobody else.
    pub(crate) fn island(nodes: &[usize]) -> Self {
        let mut is_island = vec![false; nodes.iter().max().map_or(0, |last| last + 1)];
        for node in nodes {
            is_island[*node] = true;
        }
        Self { is_island }
    }

    pub(crate) fn separates(&self, a: usize, b: usize) -> bool {
        let is_island = |node| self.is_island.get(node).copied().unwrap_or(false);
        is_island(a) != is_island(b)
    }
}

fn happens(rng: &mut ChaCha12Rng, per_mille: u32) -> bool {
    per_mille > 0 && rng.next_u32() % 1000 < per_mille
}

/// A number that looks as random as its argument does not: the last step of SplitMix64.
fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng as _;

    use super::*;

    #[test]
    fn deaf_pairs_are_deaf_one_way_and_pairs_apart_both_ways() {
        let share = |link: Link, both: bool| {
            let cut = |a: usize, b: usize| link.is_cut(a, b) && (!both || link.is_cut(b, a));
            (0..100).flat_map(|a| (0..100).map(move |b| (a, b))).filter(|(a, b)| a != b && cut(*a, *b)).count()
        };
        let deaf = Link { deaf_per_mille: 100, pairs: 7, ..Link::default() };
        assert!((900..1100).contains(&share(deaf, false)));
        assert!(share(deaf, true) < 200);
        let apart = Link { apart_per_mille: 100, pairs: 7, ..Link::default() };
        assert!((900..1100).contains(&share(apart, false)));
        assert_eq!(share(apart, true), share(apart, false));
    }

    #[test]
    fn a_lossy_link_loses_its_share_and_a_good_one_nothing() {
        let mut rng = ChaCha12Rng::seed_from_u64(1);
        let mut arrived = |link: Link| {
            (0..10_000).map(|_| link.carry(&mut rng, (0, 1), Duration::from_millis(10)).count()).sum::<usize>()
        };
        assert_eq!(arrived(Link::default()), 10_000);
        assert!((8800..9200).contains(&arrived(Link { loss_per_mille: 100, ..Link::default() })));
        assert!((10_800..11_200).contains(&arrived(Link { duplicate_per_mille: 100, ..Link::default() })));
    }

    #[test]
    fn an_island_reaches_itself_alone() {
        let partition = Partition::island(&[1, 3]);
        assert!(partition.separates(1, 2) && partition.separates(9, 3));
        assert!(!partition.separates(1, 3) && !partition.separates(0, 9));
        assert!(!Partition::default().separates(0, 1));
    }
}
