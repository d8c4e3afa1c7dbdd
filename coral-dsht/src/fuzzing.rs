//! What the fuzz targets call, and unit tests with them, so that a finding becomes a regression test by pasting bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::api::{HintsQuery, NodesQuery, Value};
use crate::config::Config;
use crate::dsht::{Dsht, Output};
use crate::id::{Distance, ID_BYTES, Id};
use crate::level::{Level, Levels};
use crate::message::{Body, Header, Message, Request, Token};
use crate::peer::{Peer, Services};
use crate::time::Instant;
use crate::wire;

/// Any bytes: an error, or a message that means just these bytes.
pub fn decode(bytes: &[u8]) {
    if let Ok(message) = wire::decode(bytes) {
        assert_eq!(wire::encode(&message), bytes);
    }
}

/// Any sequence of inputs to one node: datagrams of a few peers (junk, and answers to what it just asked), requests of
/// the application, the passing of time. It must not panic, and must stay within its bounds.
pub fn operations(bytes: &[u8]) {
    let config = Config { stored_values: 64, operations: 64, ..Config::default() };
    let me = Peer::new(peer(0), Services::NONE);
    let mut now = Instant::START;
    let mut dsht = Dsht::new(Arc::new(config), me, [7; 32], now);
    let mut asked: Vec<(SocketAddr, Vec<u8>)> = Vec::new();
    let mut tokens: Vec<(SocketAddr, Token)> = Vec::new();
    let mut undecided: Vec<Id> = Vec::new();
    let mut rest = bytes;
    while let Some((code, tail)) = rest.split_first() {
        let (argument, tail) = tail.split_at(tail.len().min(usize::from(*code >> 4) * 8));
        rest = tail;
        let mut take = Argument { bytes: argument };
        match code & 0xf {
            0 => {
                let (from, kind) = (peer(take.u8()), take.u8());
                if kind < 128 {
                    dsht.handle_datagram(now, from, &datagram(kind, &[take.u8(); 8], take.u8(), take.bytes));
                } else {
                    dsht.handle_datagram(now, from, take.bytes);
                }
            }
            1 => {
                // A peer answers, with the right id, whatever the fuzzer likes.
                if let Some((to, request)) = asked.pop() {
                    let id = request.get(2..10).unwrap_or_default();
                    dsht.handle_datagram(now, to, &datagram(take.u8(), id, take.u8(), take.bytes));
                }
            }
            2 => {
                // A peer echoes a request of ours as its own: a plausible header with a plausible question.
                if let Some((to, request)) = asked.last() {
                    let (to, request) = (*to, request.clone());
                    dsht.handle_datagram(now, to, &request);
                }
            }
            3 => now += Duration::from_millis(u64::from(take.u8()) * 50),
            4 => now += Duration::from_secs(u64::from(take.u8()) * 60),
            5 => {
                let contacts = [peer(take.u8()), peer(take.u8())];
                dsht.join(now, &contacts);
            }
            15 => {
                // Whoever was given a token shows it.
                if let Some((from, token)) = tokens.pop() {
                    let header = Header { token: Some(token), ..Header::default() };
                    let (level, key, value, ttl) = (Level::GLOBAL, take.key(), take.value(), Duration::from_secs(60));
                    let body = match take.u8() % 5 {
                        0 => Body::Proof,
                        4 => Body::Request(Request::Offer { id: Id::of_announcement(&[take.u8()]) }),
                        1 => Body::Request(Request::Remove { level, key, value }),
                        2 => Body::Request(Request::Store { level, key, ttl, value, turned_back: take.u8() > 127 }),
                        _ => {
                            let (aim, refused, is_last) = (Distance::MAX, vec![take.value()], take.u8() > 127);
                            Body::Request(Request::Claim { level, key, aim, ttl, is_last, value, refused })
                        }
                    };
                    let message = Message { header, request_id: u64::from(take.u8()), body };
                    dsht.handle_datagram(now, from, &wire::encode(&message));
                }
            }
            _ if dsht.is_busy() => {}
            6 | 7 => {
                dsht.get(now, take.key(), Levels::ALL);
            }
            8 | 9 => {
                let (key, ttl) = (take.key(), Duration::from_secs(u64::from(take.u8()) * 20));
                dsht.put(now, key, take.value(), ttl, Levels::ALL);
            }
            10 => {
                let key = take.key();
                dsht.remove(now, key, take.value());
            }
            13 => {
                let key = take.key();
                let (value, refused) = (take.value(), [take.value()]);
                dsht.claim(now, key, value, Duration::from_secs(20), Levels::ALL, &refused);
            }
            11 => {
                let count = usize::from(take.u8());
                dsht.nodes(now, NodesQuery { level: Level::GLOBAL, count, target: None, services: Services::NONE });
            }
            12 => match take.u8() % 6 {
                0 => dsht.leave(),
                1 => dsht.listen(now, take.u8() < 192),
                2 => dsht.announce(now, &[take.u8()], Duration::from_secs(u64::from(take.u8()) * 60)),
                3 => {
                    // A peer sends what it has offered, or something else.
                    let is_fetch = |(_, bytes): &(SocketAddr, Vec<u8>)| bytes.get(1) == Some(&9);
                    if let Some((to, request)) = asked.iter().rposition(is_fetch).map(|place| asked.remove(place)) {
                        let id = request.get(2..10).unwrap_or_default();
                        let announcement = [0, 0, take.u8(), take.u8(), 0, 1, take.u8()];
                        dsht.handle_datagram(now, to, &datagram(40, id, 0, &announcement));
                    }
                }
                4 => undecided.drain(..).for_each(|id| dsht.disregard(now, &id)),
                _ => {
                    let keep = Duration::from_secs(u64::from(take.u8()) * 60);
                    undecided.drain(..).for_each(|id| dsht.pass_on(now, &id, keep));
                }
            },
            14 => {
                let routers = [peer(take.u8()).ip(), peer(take.u8()).ip()];
                dsht.set_routers(now, &routers);
                let query =
                    HintsQuery { client: routers[0], routers: routers.into(), count: 4, services: Services::NONE };
                dsht.hints(now, &query);
            }
            _ => {}
        }
        dsht.handle_timeout(now);
        while let Some(output) = dsht.poll_output() {
            if let Output::Announced { id, message, .. } = &output {
                assert_eq!(*id, Id::of_announcement(message));
                undecided.push(*id);
            }
            if let Output::Send { to, bytes } = output {
                assert!(bytes.len() <= wire::MAX_DATAGRAM_BYTES);
                let message = wire::decode(&bytes).expect("we understand what we say");
                if let (Body::Response(_), Some(token)) = (message.body, message.header.token) {
                    tokens.push((to, token));
                }
                asked.push((to, bytes));
            }
        }
        undecided.drain(..undecided.len().saturating_sub(16));
        asked.drain(..asked.len().saturating_sub(32));
        tokens.drain(..tokens.len().saturating_sub(32));
        assert!(dsht.poll_timeout() > now, "what was due has been done");
        let snapshot = dsht.snapshot(now);
        assert!(snapshot.stored_values <= 64, "{} values are stored", snapshot.stored_values);
        assert!(
            snapshot.neighbours.iter().all(|near| near.peer.id != me.id && near.peer.id == Id::of_node(near.peer.addr))
        );
    }
}

/// A datagram with a plausible header, as long as its kind must be.
fn datagram(kind: u8, id: &[u8], flags: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = [&[wire::VERSION, kind], id, &[0; 6], &[flags], rest].concat();
    if kind < 32 {
        bytes.resize(bytes.len().max(wire::LEAST_REQUEST_BYTES), 0);
    }
    bytes
}

fn peer(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 4000))
}

/// The arguments of one operation, taken from the front; zero where they end.
struct Argument<'a> {
    bytes: &'a [u8],
}

impl Argument<'_> {
    fn u8(&mut self) -> u8 {
        let Some((byte, rest)) = self.bytes.split_first() else {
            return 0;
        };
        self.bytes = rest;
        *byte
    }

    /// One of few keys, some of them next to the node.
    fn key(&mut self) -> Id {
        let mut bytes = [0; ID_BYTES];
        bytes[0] = self.u8();
        Id::from_bytes(bytes)
    }

    fn value(&mut self) -> Value {
        Value::new(&[self.u8()]).expect("one byte fits")
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_sequence_of_inputs_is_survived(bytes in vec(any::<u8>(), 0..600)) {
            super::operations(&bytes);
        }

        #[test]
        fn any_bytes_are_survived(bytes in vec(any::<u8>(), 0..600)) {
            super::decode(&bytes);
        }
    }
}
