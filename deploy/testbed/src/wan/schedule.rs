//! What is due when. Things due at the same time come in the order in which they were put.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

/// A heap by due time. Times are since the router's start.
#[derive(Debug)]
pub struct Schedule<T> {
    heap: BinaryHeap<Entry<T>>,
    next_sequence: u64,
}

#[derive(Debug)]
struct Entry<T> {
    due: Duration,
    sequence: u64,
    what: T,
}

impl<T> Schedule<T> {
    /// An empty one.
    pub fn new() -> Self {
        Self { heap: BinaryHeap::new(), next_sequence: 0 }
    }

    /// Adds what is due then.
    pub fn push(&mut self, due: Duration, what: T) {
        self.heap.push(Entry { due, sequence: self.next_sequence, what });
        self.next_sequence += 1;
    }

    /// The first thing, with when it was due, if it is due by now.
    pub fn pop(&mut self, now: Duration) -> Option<(Duration, T)> {
        if self.next_due()? > now {
            return None;
        }
        self.heap.pop().map(|entry| (entry.due, entry.what))
    }

    /// When the first thing is due.
    pub fn next_due(&self) -> Option<Duration> {
        self.heap.peek().map(|entry| entry.due)
    }

    /// How many things are not yet due.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

impl<T> Default for Schedule<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Ord for Entry<T> {
    /// The heap gives its greatest first: that is to be the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due, other.sequence).cmp(&(self.due, self.sequence))
    }
}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for Entry<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_comes_first_and_ties_keep_their_order() {
        let mut schedule = Schedule::new();
        for (due, what) in [(20, "c"), (10, "a"), (10, "b"), (30, "d")] {
            schedule.push(Duration::from_millis(due), what);
        }
        let mut popped = Vec::new();
        while let Some((_, what)) = schedule.pop(Duration::from_millis(20)) {
            popped.push(what);
        }
        assert_eq!(popped, ["a", "b", "c"]);
        assert_eq!((schedule.len(), schedule.next_due()), (1, Some(Duration::from_millis(30))));
    }
}
