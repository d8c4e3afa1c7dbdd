//! Peers that others have named, while they are being asked whether they are there.
//!
//! Whoever answers us may name any address, so that we ping it: so one node has only a few of these under way, and one
//! network is asked by few at a time. A liar can neither keep the honest out nor aim us at somebody.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::id::NodeId;
use crate::peer::{Peer, Prefix};

/// Who is being asked, and on whose word.
#[derive(Debug, Default)]
pub(crate) struct Hearsay {
    asked: BTreeMap<NodeId, (SocketAddr, Prefix)>,
}

impl Hearsay {
    /// Whether `peer`, named by `informant`, may be asked now. Then it counts until it is [`settled`](Self::settled).
    pub(crate) fn admit(&mut self, informant: SocketAddr, peer: &Peer) -> bool {
        let prefix = Prefix::of(peer.addr.ip());
        let by_informant = self.asked.values().filter(|(other, _)| *other == informant).count();
        let in_prefix = self.asked.values().filter(|(_, other)| *other == prefix).count();
        let admitted = self.asked.len() < MAX_ASKED
            && by_informant < MAX_BY_INFORMANT
            && in_prefix < MAX_IN_PREFIX
            && !self.asked.contains_key(&peer.id);
        if admitted {
            self.asked.insert(peer.id, (informant, prefix));
        }
        admitted
    }

    /// The peer has answered, or will not.
    pub(crate) fn settled(&mut self, id: &NodeId) {
        self.asked.remove(id);
    }
}

/// In all.
const MAX_ASKED: usize = 64;
/// On one node's word: two answers' worth.
const MAX_BY_INFORMANT: usize = 8;
/// In one /24 or /48. A network of many nodes is met by and by.
const MAX_IN_PREFIX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Services;

    fn peer(network: u8, host: u8) -> Peer {
        Peer::new(([192, 0, network, host], 4000).into(), Services::NONE)
    }

    #[test]
    fn a_liar_neither_keeps_others_out_nor_floods_one_network() {
        let mut hearsay = Hearsay::default();
        let liar = peer(1, 1).addr;
        let admitted = (0..100).filter(|host| hearsay.admit(liar, &peer(7, *host))).count();
        assert_eq!(admitted, MAX_BY_INFORMANT);
        assert!(hearsay.admit(peer(1, 2).addr, &peer(8, 1)));
        // Many liars, one victim.
        let admitted = (0..100).filter(|host| hearsay.admit(peer(2, *host).addr, &peer(7, 100 + host))).count();
        assert_eq!(admitted, MAX_IN_PREFIX - MAX_BY_INFORMANT);
        hearsay.settled(&peer(7, 0).id);
        assert!(!hearsay.admit(peer(1, 2).addr, &peer(7, 1)), "it is being asked");
        assert!(hearsay.admit(peer(1, 2).addr, &peer(7, 0)));
    }
}
