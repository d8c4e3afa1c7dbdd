//! A memory of what happened lately: bounded in time and in size, whoever feeds it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::time::Instant;

/// Entries that are forgotten after `life`, and the oldest of more than `capacity` before that.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    life: Duration,
    capacity: usize,
    entries: BTreeMap<K, (Instant, V)>,
    by_age: BTreeSet<(Instant, K)>,
}

impl<K: Copy + Ord, V> Recent<K, V> {
    /// An empty one.
    pub(crate) const fn new(life: Duration, capacity: usize) -> Self {
        Self { life, capacity, entries: BTreeMap::new(), by_age: BTreeSet::new() }
    }

    /// Notes `value` under `key`, in place of an older one.
    pub(crate) fn note(&mut self, now: Instant, key: K, value: V) {
        self.forget(&key);
        if self.entries.len() >= self.capacity
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.entries.remove(&oldest);
        }
        self.entries.insert(key, (now, value));
        self.by_age.insert((now, key));
    }

    /// What was noted under `key`, if that was lately.
    pub(crate) fn get(&self, now: Instant, key: &K) -> Option<&V> {
        self.entries.get(key).filter(|(noted, _)| now.saturating_since(*noted) < self.life).map(|(_, value)| value)
    }

    /// What was noted lately, the last first.
    pub(crate) fn latest(&self, now: Instant) -> impl Iterator<Item = &K> {
        let is_recent = move |noted: Instant| now.saturating_since(noted) < self.life;
        self.by_age.iter().rev().filter(move |(noted, _)| is_recent(*noted)).map(|(_, key)| key)
    }

    /// Forgets one entry.
    pub(crate) fn forget(&mut self, key: &K) {
        if let Some((noted, _)) = self.entries.remove(key) {
            self.by_age.remove(&(noted, *key));
        }
    }

    /// Forgets what has become old by `now`.
    pub(crate) fn sweep(&mut self, now: Instant) {
        while let Some((noted, key)) = self.by_age.first().copied() {
            if now.saturating_since(noted) < self.life {
                break;
            }
            self.by_age.pop_first();
            self.entries.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::START + Duration::from_secs(seconds)
    }

    #[test]
    fn the_old_is_forgotten_and_so_is_the_oldest_of_too_many() {
        let mut recent = Recent::new(Duration::from_secs(60), 2);
        recent.note(at(0), 'a', 1);
        recent.note(at(1), 'b', 2);
        recent.note(at(2), 'a', 3);
        recent.note(at(3), 'c', 4);
        let known =
            |recent: &Recent<char, i32>, second| ['a', 'b', 'c'].map(|key| recent.get(at(second), &key).copied());
        assert_eq!(known(&recent, 3), [Some(3), None, Some(4)]);
        assert_eq!(recent.latest(at(3)).collect::<String>(), "ca");
        assert_eq!(known(&recent, 62), [None, None, Some(4)]);
        recent.sweep(at(62));
        assert_eq!((recent.entries.len(), recent.by_age.len()), (1, 1));
        recent.forget(&'c');
        assert_eq!((recent.entries.len(), recent.by_age.len()), (0, 0));
    }
}
