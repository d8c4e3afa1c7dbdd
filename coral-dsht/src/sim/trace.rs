//! Each event as a few raw facts, and the hash of all: two runs of one seed must agree on it.

use std::collections::VecDeque;
use std::fmt;

use crate::time::Instant;

/// The last events, and a hash over all of them, datagrams with every byte.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    hash: u64,
    events: u64,
    last: VecDeque<Event>,
}

/// What is kept of an event: its line is written only when somebody wants to read it.
#[derive(Debug, Clone, Copy)]
struct Event {
    at: Instant,
    what: &'static str,
    node: usize,
    bytes: usize,
}

impl Trace {
    pub(crate) fn event(&mut self, at: Instant, what: &'static str, node: usize, bytes: &[u8]) {
        self.events += 1;
        self.mix(at.as_micros());
        self.mix(node as u64);
        // The lengths tell where each of the two ends, so that no two lists of events run into the same words.
        self.mix((what.len() as u64) << 32 | bytes.len() as u64);
        for part in [what.as_bytes(), bytes] {
            let (words, rest) = part.as_chunks::<8>();
            for word in words {
                self.mix(u64::from_le_bytes(*word));
            }
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.mix(u64::from_le_bytes(last));
        }
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(Event { at, what, node, bytes: bytes.len() });
    }

    /// How many events there were.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The hash of them all, in hexadecimal. It tells runs apart; nobody has a reason to forge it.
    pub fn hash(&self) -> String {
        format!("{:016x}", self.hash)
    }

    /// The product has twice the bits, and each bit of both factors is in it somewhere: its halves are folded together.
    fn mix(&mut self, word: u64) {
        let product = u128::from(self.hash ^ word ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_u128;
        self.hash = (product as u64) ^ ((product >> 64) as u64).rotate_left(29);
    }
}

/// The last events, a line each.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.last
            .iter()
            .try_for_each(|Event { at, what, node, bytes }| writeln!(f, "{at:?} {what} at node {node}, {bytes} bytes"))
    }
}

/// Events of which the facts are kept.
const KEPT: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn hash_of(events: &[(u64, &'static str, &[u8])]) -> String {
        let mut trace = Trace::default();
        for (micros, what, bytes) in events {
            trace.event(Instant::from_micros(*micros), what, 1, bytes);
        }
        trace.hash()
    }

    #[test]
    fn order_time_and_each_byte_change_the_hash() {
        let first = hash_of(&[(1, "a", b"x"), (1, "b", b"y")]);
        assert_ne!(first, hash_of(&[(1, "b", b"y"), (1, "a", b"x")]));
        assert_ne!(first, hash_of(&[(2, "a", b"x"), (1, "b", b"y")]));
        assert_ne!(first, hash_of(&[(1, "a", b"z"), (1, "b", b"y")]));
        assert_ne!(hash_of(&[(1, "a", b"\0")]), hash_of(&[(1, "a", b"")]));
    }
}
