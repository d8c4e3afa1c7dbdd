//! Who has proven to be where it says, and what that admits it to (design.md §2.8).
//!
//! An address is *proven* while it is in the tables and was heard from within a minute, or has lately shown a token that was sent to it. An answer to
//! another one is no longer than its request, so that nobody's bandwidth can be aimed at a third party; and what changes
//! the store is carried out once for each token and request id, so that a recorded datagram changes nothing when it
//! is sent again. The caller asks, and acts on what it is told.

use std::net::SocketAddr;
use std::time::Duration;

use crate::dsht::recent::Recent;
use crate::dsht::token::{Mint, TOKEN_LIFE};
use crate::message::{Message, Response, Token};
use crate::time::Instant;
use crate::wire;

/// What this node remembers of addresses, its own and others'.
#[derive(Debug)]
pub(crate) struct Admission {
    mint: Mint,
    /// Addresses that have shown a token.
    proven: Recent<SocketAddr, ()>,
    /// What others gave this node, to be shown to them.
    tokens: Recent<SocketAddr, Token>,
    /// Answers to requests that changed the store.
    answered: Recent<(SocketAddr, u64), Response>,
}

impl Admission {
    /// `secret` must be known to nobody else.
    pub(crate) fn new(secret: [u8; 16]) -> Self {
        Self {
            mint: Mint::new(secret),
            proven: Recent::new(TOKEN_LIFE, MAX_PROVEN),
            tokens: Recent::new(SHOWN_FOR, MAX_TOKENS),
            answered: Recent::new(TOKEN_LIFE, MAX_ANSWERED),
        }
    }

    /// A token for whoever is at `addr`.
    pub(crate) fn issue(&self, now: Instant, addr: SocketAddr) -> Token {
        self.mint.issue(now, addr)
    }

    /// `addr` shows `token`: how long ago it got it, and with that, it is proven. `None` if it did not get it from here.
    pub(crate) fn shown(&mut self, now: Instant, addr: SocketAddr, token: &Token) -> Option<Duration> {
        let age = self.mint.age(now, addr, token)?;
        self.proven.note(now, addr, ());
        Some(age)
    }

    /// Whether `addr` has lately shown a token.
    pub(crate) fn is_proven(&self, now: Instant, addr: SocketAddr) -> bool {
        self.proven.get(now, &addr).is_some()
    }

    /// The node at `addr` has given this one a token.
    pub(crate) fn keep(&mut self, now: Instant, addr: SocketAddr, token: Token) {
        self.tokens.note(now, addr, token);
    }

    /// What to show the node at `addr`.
    pub(crate) fn token_for(&self, now: Instant, addr: SocketAddr) -> Option<Token> {
        self.tokens.get(now, &addr).copied()
    }

    /// What a request was answered that `addr` has sent before.
    pub(crate) fn answered(&self, now: Instant, addr: SocketAddr, request_id: u64) -> Option<&Response> {
        self.answered.get(now, &(addr, request_id))
    }

    /// A request that changed the store has been answered so.
    pub(crate) fn note_answer(&mut self, now: Instant, addr: SocketAddr, request_id: u64, response: Response) {
        self.answered.note(now, (addr, request_id), response);
    }

    /// Forgets what has become old by `now`.
    pub(crate) fn sweep(&mut self, now: Instant) {
        self.proven.sweep(now);
        self.tokens.sweep(now);
        self.answered.sweep(now);
    }
}

/// The bytes of an answer, of which there may be `limit`: some peers, values or offers are left out if need be. `None` if it
/// says nothing any more then.
pub(crate) fn fitted(mut answer: Message, limit: usize) -> Option<Vec<u8>> {
    loop {
        let bytes = wire::encode(&answer);
        if bytes.len() <= limit {
            return Some(bytes);
        }
        match &mut answer.body {
            crate::message::Body::Response(Response::Peers(peers) | Response::Room { peers, .. })
                if peers.len() > 1 =>
            {
                // The last one may be the nearest of all: it is worth more than the one before.
                peers.remove(peers.len() - 2);
            }
            crate::message::Body::Response(Response::Values(values)) if values.len() > 1 => drop(values.pop()),
            crate::message::Body::Response(Response::Offers(ids)) if ids.len() > 1 => drop(ids.pop()),
            _ => return None,
        }
    }
}

/// A token is not shown any more a little before it ends: the request is under way for a while.
const SHOWN_FOR: Duration = Duration::from_secs(50);
/// Addresses that count as proven beside those in the tables.
const MAX_PROVEN: usize = 1024;
/// Tokens of others that are kept.
const MAX_TOKENS: usize = 512;
/// Requests that are known again. To have one carried out twice takes so many others in between, each with a token.
const MAX_ANSWERED: usize = 4096;
