//! Drawing addresses for an answer: by chance, each once, and without any memory but its own.

use std::net::IpAddr;

use rand_core::Rng;
use smallvec::SmallVec;

/// The most addresses that an answer holds, whatever the configuration says.
pub const MAX_ADDRESSES: usize = 64;

/// The most that are drawn from: the members that are asked of the index, this node, and room.
const MAX_MEMBERS: usize = 128;

/// Addresses drawn for an answer, each once.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// Few in most answers, which then need no memory of their own.
    ips: SmallVec<[IpAddr; 8]>,
}

impl Chosen {
    /// Those drawn so far.
    pub(super) fn ips(&self) -> &[IpAddr] {
        &self.ips
    }

    /// Adds some of `from`, until there are `most`: each set and each order as likely as any other.
    pub(super) fn draw(&mut self, from: &[IpAddr], most: usize, random: &mut impl Rng) {
        let from = &from[..from.len().min(MAX_MEMBERS)];
        let mut left = [0_u8; MAX_MEMBERS];
        for (slot, number) in left.iter_mut().zip(0..from.len()) {
            *slot = number as u8;
        }
        let mut count = from.len();
        while self.ips.len() < most.min(MAX_ADDRESSES) && count > 0 {
            // The bias of the multiplication is under one in ten million for lists of ours.
            let pick = ((u64::from(random.next_u32()) * count as u64) >> 32) as usize;
            let ip = from[usize::from(left[pick])];
            count -= 1;
            left[pick] = left[count];
            if !self.ips.contains(&ip) {
                self.ips.push(ip);
            }
        }
    }
}
