//! One ping by hand: for whoever wants to know whether a node's index can be reached, and is no node itself.
//!
//! A node answers everybody's ping and remembers nothing of it, unless a proof follows, which never comes from here.

use std::net::SocketAddr;

use crate::message::{Body, Header, Message, Request, Response};
use crate::seal::{NetworkKey, Seal};
use crate::wire;

/// Pings and their answers as bytes, in the network with a key or in one without. Bytes that are neither are nobody's error.
#[derive(Debug, Clone)]
pub struct Pings {
    seal: Seal,
}

impl Pings {
    /// Those of the network with this key, or of an open one.
    pub fn new(key: Option<&NetworkKey>) -> Self {
        Self { seal: Seal::new(key) }
    }

    /// The datagram that asks under `id`.
    pub fn ask(&self, id: u64) -> Vec<u8> {
        self.datagram(id, Body::Request(Request::Ping))
    }

    /// Under which id `datagram` asks; `None` if it is no ping.
    pub fn asked(&self, datagram: &[u8]) -> Option<u64> {
        let message = self.read(datagram)?;
        (message.body == Body::Request(Request::Ping)).then_some(message.request_id)
    }

    /// The answer under `id` to whoever asked from `seen_as`. It is shorter than what was asked with.
    pub fn answer(&self, id: u64, seen_as: SocketAddr) -> Vec<u8> {
        self.datagram(id, Body::Response(Response::Pong { seen_as }))
    }

    /// Under which id `datagram` answers; `None` if it is no answer to a ping.
    pub fn answered(&self, datagram: &[u8]) -> Option<u64> {
        let message = self.read(datagram)?;
        matches!(message.body, Body::Response(Response::Pong { .. })).then_some(message.request_id)
    }

    fn datagram(&self, request_id: u64, body: Body) -> Vec<u8> {
        self.seal.close(wire::encode(&Message { header: Header::default(), request_id, body }))
    }

    fn read(&self, datagram: &[u8]) -> Option<Message> {
        self.seal.check(datagram).and_then(|bytes| self.seal.decode(bytes)).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::Config;
    use crate::dsht::{Dsht, Output};
    use crate::peer::{Peer, Services};
    use crate::time::Instant;

    fn key(digit: &str) -> Option<NetworkKey> {
        Some(digit.repeat(64).parse().unwrap())
    }

    #[test]
    fn a_node_of_the_same_network_answers_under_the_same_id_and_no_other_does() {
        let (me, asker) = ("192.0.2.1:4160".parse().unwrap(), "192.0.2.7:999".parse().unwrap());
        for (ours, theirs, answers) in
            [(None, None, 1), (key("1"), key("1"), 1), (key("1"), key("2"), 0), (None, key("1"), 0)]
        {
            let pings = Pings::new(ours.as_ref());
            let config = Config { network_key: theirs, ..Config::default() };
            let mut node = Dsht::new(Arc::new(config), Peer::new(me, Services::NONE), [1; 32], Instant::START);
            node.handle_datagram(Instant::START, asker, &pings.ask(7));
            let said: Vec<Output> = std::iter::from_fn(|| node.poll_output()).collect();
            assert_eq!(said.len(), answers);
            for output in said {
                let Output::Send { to, bytes, .. } = output else { panic!("{output:?}") };
                assert_eq!((to, pings.answered(&bytes)), (asker, Some(7)));
                assert!(bytes.len() <= pings.ask(7).len());
            }
        }
    }

    #[test]
    fn a_question_is_no_answer_and_junk_is_neither() {
        let pings = Pings::new(None);
        let (asked, answer) = (pings.ask(7), pings.answer(7, "192.0.2.7:999".parse().unwrap()));
        assert_eq!((pings.asked(&asked), pings.answered(&asked)), (Some(7), None));
        assert_eq!((pings.asked(&answer), pings.answered(&answer)), (None, Some(7)));
        assert!(answer.len() < asked.len());
        for cut in 0..asked.len() {
            assert_eq!(pings.asked(&asked[..cut]), None);
        }
    }
}
