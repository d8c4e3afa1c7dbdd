//! Requests of the last minutes by where their answers came from: a ring of counts, read off the counters that exist.

use std::collections::VecDeque;

use coral_proxy::Traffic;

use super::TICK;

/// As many ticks are remembered: three minutes.
pub(super) const BINS: usize = 90;

/// Over so many of the last ticks a rate is averaged.
const NOW: usize = 5;

/// Where an answer came from. The order is that of the way, from near to far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// This node's own store.
    Local,
    /// A node found at level 2 of the index, or at a nearer one.
    L2,
    /// One found at level 1.
    L1,
    /// One found at level 0.
    L0,
    /// The web site's own server.
    Origin,
}

impl Source {
    pub(super) const ALL: [Self; 5] = [Self::Local, Self::L2, Self::L1, Self::L0, Self::Origin];

    /// What it is called in the page.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Local => "this node",
            Self::L2 => "nearby, L2",
            Self::L1 => "region, L1",
            Self::L0 => "far, L0",
            Self::Origin => "origin",
        }
    }

    /// Its class in the style sheet.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::L2 => "l2",
            Self::L1 => "l1",
            Self::L0 => "l0",
            Self::Origin => "origin",
        }
    }

    /// Where answers with this word of the cache came from; `None` if they are errors, or this node's own.
    fn of(word: &str) -> Option<Self> {
        match word {
            "hit" | "stale" | "revalidating" => Some(Self::Local),
            "peer-l2" | "peer-l3" => Some(Self::L2),
            "peer-l1" => Some(Self::L1),
            "peer-l0" => Some(Self::L0),
            "origin" | "revalidated" | "passed" => Some(Self::Origin),
            _ => None,
        }
    }
}

/// A count for each source.
pub(super) type Counts = [u64; Source::ALL.len()];

/// The counts of the last minutes.
#[derive(Debug, Default)]
pub(super) struct Rates {
    /// All since the start, at the last tick.
    totals: Option<Counts>,
    /// Those of each tick, the latest last.
    bins: VecDeque<Counts>,
}

impl Rates {
    /// Notes what has come since the last tick, and says how much that is.
    pub(super) fn count(&mut self, traffic: &Traffic) -> u64 {
        let totals = totals(traffic);
        let last = self.totals.replace(totals).unwrap_or(totals);
        let bin: Counts = std::array::from_fn(|source| totals[source].saturating_sub(last[source]));
        if self.bins.len() == BINS {
            self.bins.pop_front();
        }
        self.bins.push_back(bin);
        bin.iter().sum()
    }

    /// Those of each tick, the latest last.
    pub(super) fn bins(&self) -> impl ExactSizeIterator<Item = &Counts> {
        self.bins.iter()
    }

    /// Requests a second of each source, over the last few ticks.
    pub(super) fn now(&self) -> [f64; Source::ALL.len()] {
        let last = self.bins.iter().rev().take(NOW);
        let seconds = last.len().max(1) as f64 * TICK.as_secs_f64();
        std::array::from_fn(|source| last.clone().map(|bin| bin[source]).sum::<u64>() as f64 / seconds)
    }
}

/// Requests of clients since the start, by source.
pub(super) fn totals(traffic: &Traffic) -> Counts {
    let mut totals = Counts::default();
    for (word, count) in &traffic.requests {
        if let Some(source) = Source::of(word) {
            totals[source as usize] += count;
        }
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(hits: u64, origin: u64) -> Traffic {
        let requests = [("hit", hits), ("origin", origin), ("error", 99), ("own", 99)];
        Traffic { requests: requests.map(|(word, count)| (word.to_owned(), count)).into(), ..Traffic::default() }
    }

    #[test]
    fn rates_are_those_of_the_last_ticks_and_not_of_what_was_before() {
        let mut rates = Rates::default();
        assert_eq!(rates.now(), [0.0; 5]);
        assert_eq!(rates.count(&traffic(1000, 10)), 0, "what came before the first look has no time");
        assert_eq!(rates.count(&traffic(1040, 12)), 42);
        assert_eq!(rates.now(), [10.0, 0.0, 0.0, 0.0, 0.5]);
        for _ in 0..NOW {
            assert_eq!(rates.count(&traffic(1040, 12)), 0);
        }
        assert_eq!(rates.now(), [0.0; 5]);
        assert_eq!(rates.bins().map(|bin| bin[0]).max(), Some(40));
        for _ in 0..BINS {
            rates.count(&traffic(1040, 12));
        }
        assert_eq!((rates.bins().len(), rates.bins().map(|bin| bin[0]).max()), (BINS, Some(0)));
    }
}
