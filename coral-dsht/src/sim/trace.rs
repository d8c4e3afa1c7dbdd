//! One line an event, and the hash of all: two runs of one seed must agree on it.

use std::collections::VecDeque;
use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::time::Instant;

/// The last events, and a hash over all of them.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    hasher: Sha256,
    events: u64,
    last: VecDeque<String>,
}

impl Trace {
    pub(crate) fn event(&mut self, now: Instant, what: &str, node: usize, bytes: &[u8]) {
        self.events += 1;
        self.hasher.update(now.as_micros().to_be_bytes());
        self.hasher.update((node as u64).to_be_bytes());
        self.hasher.update((bytes.len() as u64).to_be_bytes());
        self.hasher.update(bytes);
        self.hasher.update(what);
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(format!("{now:?} {what} at node {node}, {} bytes", bytes.len()));
    }

    /// How many events there were.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The hash of them all, in hexadecimal.
    pub fn hash(&self) -> String {
        self.hasher.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The last events, a line each.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.last.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// Events that are kept in words.
const KEPT: usize = 20;
