//! The last searches of the index for URLs that were not here, with each hop: for the node's operator.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use coral_dsht::{Hop, Level};
use serde::Serialize;

/// So many are remembered.
const MOST: usize = 16;

/// One search.
#[derive(Debug, Clone, Serialize)]
pub struct Search {
    /// The canonical URL.
    pub url: String,
    /// When it ended.
    pub at: SystemTime,
    /// How long it took.
    #[serde(with = "humantime_serde")]
    pub took: Duration,
    /// The level at which references were found; `None` if there were none, and the origin was asked.
    pub level: Option<Level>,
    /// How many references were found.
    pub found: usize,
    /// Each request, in the order in which they were sent.
    pub hops: Vec<Hop>,
}

/// The last few. Only searches write here, never hits.
#[derive(Debug, Default)]
pub(crate) struct Searches(Mutex<VecDeque<Search>>);

impl Searches {
    pub(crate) fn add(&self, search: Search) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.truncate(MOST - 1);
        last.push_front(search);
    }

    /// The latest first.
    pub(crate) fn last(&self) -> Vec<Search> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_come_first_and_there_are_few() {
        let searches = Searches::default();
        for number in 0..MOST + 5 {
            let url = format!("http://x.com/{number}");
            let (at, took) = (SystemTime::UNIX_EPOCH, Duration::ZERO);
            searches.add(Search { url, at, took, level: None, found: 0, hops: Vec::new() });
        }
        let last = searches.last();
        assert_eq!((last.len(), last[0].url.as_str()), (MOST, "http://x.com/20"));
    }
}
