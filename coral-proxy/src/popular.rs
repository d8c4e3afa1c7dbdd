//! Which URLs are asked for most, without work for each request: a few requests are looked at, and a few URLs are counted.
//!
//! The counts are those of *space-saving* (Metwally, Agrawal and El Abbadi, 2005): a URL that is new takes the place of the
//! one that is counted least, and its count as a possible error. What is asked for often is never missed, and nothing that
//! clients invent makes the table grow.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// URLs that are counted at a time.
const PLACES: usize = 64;
/// Longer URLs are not counted: nobody reads them in a table.
const MAX_BYTES: usize = 512;
/// Below so many requests a second each is looked at.
const QUIET: u64 = 100;
/// Else one in so many; a power of two.
const ONE_IN: u64 = 16;

/// A URL with its count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Popular {
    /// The canonical URL.
    pub url: String,
    /// Requests for it, at the least, as far as they were looked at; older ones count less.
    pub requests: u64,
}

/// The counts.
#[derive(Debug)]
pub(crate) struct Popularity {
    /// Of how many requests one is looked at.
    one_in: AtomicU64,
    places: Mutex<Vec<Place>>,
}

#[derive(Debug)]
struct Place {
    url: String,
    count: u64,
    /// How much of the count may be that of URLs that were here before.
    error: u64,
}

impl Default for Popularity {
    fn default() -> Self {
        Self { one_in: AtomicU64::new(1), places: Mutex::default() }
    }
}

impl Popularity {
    /// For how many requests the one with this running number stands; `None` if it is not to be looked at.
    pub(crate) fn weight(&self, number: u64) -> Option<u64> {
        let one_in = self.one_in.load(Relaxed);
        // Every sixteenth would see one and the same of sixteen URLs that are asked for in turn: the product's upper bits
        // are in no step with anything.
        let scattered = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        scattered.is_multiple_of(one_in).then_some(one_in)
    }

    /// Counts a request that stands for `weight` of them. Where the table is in use nobody waits, and it is not counted.
    pub(crate) fn count(&self, url: String, weight: u64) {
        if url.len() <= MAX_BYTES
            && let Ok(mut places) = self.places.try_lock()
        {
            add(&mut places, url, weight);
        }
    }

    /// Decides by how many requests came in the last second how many of the next ones are looked at.
    pub(crate) fn adapt(&self, requests_per_second: u64) {
        self.one_in.store(if requests_per_second < QUIET { 1 } else { ONE_IN }, Relaxed);
    }

    /// Halves all counts, so that they tell of lately.
    pub(crate) fn fade(&self) {
        let mut places = self.lock();
        for place in places.iter_mut() {
            place.count /= 2;
            place.error /= 2;
        }
        places.retain(|place| place.count > place.error);
    }

    /// The `most` that are asked for most, the first in front.
    pub(crate) fn top(&self, most: usize) -> Vec<Popular> {
        let places = self.lock();
        let certain = |place: &Place| Popular { url: place.url.clone(), requests: place.count - place.error };
        let mut top: Vec<Popular> = places.iter().filter(|place| place.count > place.error).map(certain).collect();
        drop(places);
        top.sort_by(|a, b| b.requests.cmp(&a.requests).then_with(|| a.url.cmp(&b.url)));
        top.truncate(most);
        top
    }

    /// A panic elsewhere leaves whole places here.
    fn lock(&self) -> MutexGuard<'_, Vec<Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add(places: &mut Vec<Place>, url: String, weight: u64) {
    if let Some(place) = places.iter_mut().find(|place| place.url == url) {
        place.count = place.count.saturating_add(weight);
    } else if places.len() < PLACES {
        places.push(Place { url, count: weight, error: 0 });
    } else if let Some(least) = places.iter_mut().min_by_key(|place| place.count) {
        *least = Place { url, count: least.count.saturating_add(weight), error: least.count };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_most_is_found_among_any_number_of_others() {
        let popularity = Popularity::default();
        for number in 0..10_000 {
            popularity.count(format!("http://x.com/{number}"), 1);
            if number % 10 == 0 {
                popularity.count("http://x.com/hot".to_owned(), 1);
            }
        }
        let top = popularity.top(3);
        assert_eq!(top[0].url, "http://x.com/hot");
        assert!((900..=1000).contains(&top[0].requests), "{top:?}");
        assert!(top[1..].iter().all(|other| other.requests <= 1), "{top:?}");
        assert_eq!(popularity.lock().len(), PLACES);
    }

    #[test]
    fn one_in_sixteen_is_looked_at_where_there_are_many_and_each_where_there_are_few() {
        let popularity = Popularity::default();
        let looked_at = |popularity: &Popularity| -> u64 { (0..16_000).filter_map(|n| popularity.weight(n)).sum() };
        assert_eq!(looked_at(&popularity), 16_000);
        popularity.adapt(QUIET);
        assert!(looked_at(&popularity).abs_diff(16_000) < 1_000, "{}", looked_at(&popularity));
        // In step with nothing: of sixteen URLs in turn all are seen.
        let seen: std::collections::BTreeSet<u64> =
            (0..16_000).filter(|n| popularity.weight(*n).is_some()).map(|n| n % 16).collect();
        assert_eq!(seen.len(), 16);
        popularity.adapt(QUIET - 1);
        assert_eq!(popularity.weight(1), Some(1));
    }

    #[test]
    fn what_was_hot_once_is_forgotten_and_what_is_too_long_was_never_known() {
        let popularity = Popularity::default();
        popularity.count("http://x.com/".to_owned(), 5);
        popularity.count("x".repeat(MAX_BYTES + 1), 50);
        for left in [5, 2, 1] {
            assert_eq!(popularity.top(9), [Popular { url: "http://x.com/".to_owned(), requests: left }]);
            popularity.fade();
        }
        assert_eq!(popularity.top(9), []);
    }
}
