//! Drawing addresses for an answer: by chance, each once, and without any memory but its own.

use std::net::{IpAddr, Ipv4Addr};

use rand_core::Rng;

/// The most addresses that an answer holds, whatever the configuration says.
pub const MAX_ADDRESSES: usize = 64;

/// The most that are drawn from: the members that are asked of the index, this node, and room.
const MAX_MEMBERS: usize = 128;

/// Addresses drawn for an answer, each once.
#[derive(Debug)]
pub(super) struct Chosen {
    ips: [IpAddr; MAX_ADDRESSES],
    count: usize,
}

impl Default for Chosen {
    fn default() -> Self {
        Self { ips: [IpAddr::V4(Ipv4Addr::UNSPECIFIED); MAX_ADDRESSES], count: 0 }
    }
}

impl Chosen {
    /// Those drawn so far.
    pub(super) fn ips(&self) -> &[IpAddr] {
        &self.ips[..self.count]
    }

    /// Adds some of `from`, until there are `most`: each set and each order as likely as any other.
    pub(super) fn draw(&mut self, from: &[IpAddr], most: usize, random: &mut impl Rng) {
        let from = &from[..from.len().min(MAX_MEMBERS)];
        let mut left = [0_u8; MAX_MEMBERS];
        for (slot, number) in left.iter_mut().zip(0..from.len()) {
            *slot = number as u8;
        }
        let mut count = from.len();
        while self.count < most.min(MAX_ADDRESSES) && count > 0 {
            // The bias of the multiplication is under one in ten million for lists of ours.
            let pick = ((u64::from(random.next_u32()) * count as u64) >> 32) as usize;
            let ip = from[usize::from(left[pick])];
            count -= 1;
            left[pick] = left[count];
            if !self.ips().contains(&ip) {
                self.ips[self.count] = ip;
                self.count += 1;
            }
        }
    }
}
