//! Peers that have stopped answering, and may come back.
//!
//! When a network falls apart for longer than peers are kept, each part forgets the other: whoever is forgotten is never
//! asked again, and the parts would stay apart for ever. So the last few are remembered, and asked now and then, one at a
//! time; the first that answers leads this node to its part of the network.

use std::collections::VecDeque;

use crate::id::NodeId;
use crate::peer::Peer;

/// The last peers that were given up, in the order in which they will be asked.
#[derive(Debug, Default)]
pub(crate) struct Gone {
    peers: VecDeque<Peer>,
}

impl Gone {
    /// `peer`, which had answered once, has been given up.
    pub(crate) fn note(&mut self, peer: Peer) {
        self.returned(&peer.id);
        if self.peers.len() == MAX_GONE {
            self.peers.pop_front();
        }
        self.peers.push_back(peer);
    }

    /// A peer has answered. Whether it was one of these, which it is no more.
    pub(crate) fn returned(&mut self, peer: &NodeId) -> bool {
        let before = self.peers.len();
        self.peers.retain(|gone| gone.id != *peer);
        self.peers.len() < before
    }

    /// Whom to ask next.
    pub(crate) fn next(&mut self) -> Option<Peer> {
        let peer = self.peers.pop_front()?;
        self.peers.push_back(peer);
        Some(peer)
    }
}

/// Peers that are remembered: of a network that fell apart, some among them will be of the other part.
const MAX_GONE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Services;

    fn peer(number: u8) -> Peer {
        Peer::new(([192, 0, 2, number], 4000).into(), Services::NONE)
    }

    #[test]
    fn the_last_few_are_asked_in_turn_until_they_return() {
        let mut gone = Gone::default();
        for number in 0..20 {
            gone.note(peer(number));
            gone.note(peer(number));
        }
        let asked: Vec<Peer> = (0..MAX_GONE).filter_map(|_| gone.next()).collect();
        assert_eq!(asked, (4..20).map(peer).collect::<Vec<_>>());
        assert!(gone.returned(&peer(5).id) && !gone.returned(&peer(5).id));
        assert_eq!([gone.next(), gone.next()], [Some(peer(4)), Some(peer(6))]);
    }
}
