//! Counters: for metrics, and for what the simulator checks. They only grow.

use std::collections::BTreeMap;

/// What a node has counted since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Datagrams handed to the socket.
    pub datagrams_sent: u64,
    /// Datagrams taken from the socket.
    pub datagrams_received: u64,
    /// Bytes of the datagrams sent.
    pub bytes_sent: u64,
    /// Bytes of the datagrams received.
    pub bytes_received: u64,
    /// Datagrams dropped, by reason: the decoder's, or that nobody had asked for the answer.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Requests received, by kind.
    pub requests: BTreeMap<&'static str, u64>,
    /// Requests of this node that nobody answered in time.
    pub timeouts: u64,
    /// Gets that found values, by level number.
    pub gets_found: BTreeMap<u8, u64>,
    /// Gets that found none.
    pub gets_empty: u64,
    /// Claims in which this node was the first at every level: it goes to the origin.
    pub claims_first: u64,
    /// Claims in which others were first: it fetches from one of them.
    pub claims_given: u64,
    /// Puts that were stored at one node at least.
    pub puts_stored: u64,
    /// Puts that no node took.
    pub puts_failed: u64,
    /// Puts held back at this node, their origin.
    pub puts_held_back: u64,
    /// Forward-phase requests of puts that this node turned back, being full and loaded.
    pub puts_turned_back: u64,
    /// Moves of this node into another cluster, or out of one.
    pub cluster_moves: u64,
    /// Announcements of this node.
    pub announcements_made: u64,
    /// Announcements of others that the application was told of.
    pub announcements_heard: u64,
    /// Those of them that it found true, so that others were told.
    pub announcements_passed_on: u64,
    /// Offers and announcements for which there was no room, or that were not what was offered.
    pub announcements_refused: u64,
}
