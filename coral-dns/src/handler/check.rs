//! The rules that every answer keeps, whatever was asked: for the fuzzer and the property tests.

use std::net::SocketAddr;
use std::sync::Arc;

use coral_dsht::Peer;
use hickory_server::proto::op::Message;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::{Handler, Outcome, Transport};
use crate::candidates::Candidates;
use crate::config::Config;
use crate::dnssec::Signer;
use crate::dnssec::key::Key;
use crate::metrics::Metrics;
use crate::probe::Prober;
use crate::wire::HEADER_BYTES;
use crate::wire::query::question;
use crate::{NAMESERVER, PROXY};

/// That of a node alone at 192.0.2.1, for `nyud.net`.
pub(super) fn sample(prober: Option<Prober>) -> Handler {
    sample_with(Config::default(), prober)
}

/// The same, configured so.
pub(super) fn sample_with(config: Config, prober: Option<Prober>) -> Handler {
    let config = Arc::new(config);
    let me = Peer::new(SocketAddr::from(([192, 0, 2, 1], 4000)), PROXY | NAMESERVER);
    Handler::new(
        Arc::clone(&config),
        vec!["nyud.net".parse().expect("a suffix of this function")],
        me,
        Candidates::new(me, config.max_age, Instant::now()),
        prober,
        Metrics::register(&mut Registry::default()),
        [0; 16],
    )
    .expect("no records are added")
}

/// The same, signing by the key of no network.
fn sample_signed() -> Handler {
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEILfmCWoFldur8aCPf0iJGoj2qPYQqEuWZnPzHrzKl+cF\n\
        -----END PRIVATE KEY-----\n";
    let key = Key::from_pem(KEY).expect("a key of this function");
    Handler { signer: Some(Signer::new(vec![key], [0; 16])), ..sample(None) }
}

impl Handler {
    /// The answer, if there is one at once.
    pub(super) fn answer_now(&self, from: SocketAddr, transport: Transport, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let message = super::Message { from, transport, bytes, may_wait: false, is_again: false };
        let outcome = self.respond(&mut self.scratch([1; 32]), Instant::now(), message, &mut out);
        (outcome == Outcome::Send).then_some(out)
    }
}

/// Any bytes as a message, answered over both transports, with and without signatures, and checked.
///
/// Panics if an answer breaks a rule that holds for all answers.
pub fn check_query(bytes: &[u8]) {
    for handler in [sample(None), sample_signed()] {
        check(&handler, bytes);
    }
}

fn check(handler: &Handler, bytes: &[u8]) {
    let from = SocketAddr::from(([198, 51, 100, 1], 53));
    for transport in [Transport::Udp, Transport::Tcp] {
        let Some(answer) = handler.answer_now(from, transport, bytes) else {
            let may_be_dropped = bytes.len() < HEADER_BYTES || bytes[2] & 0x80 != 0;
            assert!(may_be_dropped, "a query that was not answered");
            continue;
        };
        let message = Message::from_vec(&answer).expect("an answer can be decoded");
        assert!(transport == Transport::Tcp || answer.len() <= usize::from(Config::default().udp_payload));
        assert_eq!(answer[..2], bytes[..2], "the id comes back");
        assert_eq!(answer[2] & 0xf8, bytes[2] & 0x78 | 0x80, "an answer, to this operation");
        assert_eq!(answer[3] & 0x80, 0, "no recursion");
        if !message.queries.is_empty() {
            let question = question(&bytes[HEADER_BYTES..]).expect("only a question that was asked comes back");
            assert_eq!(&answer[HEADER_BYTES..HEADER_BYTES + question.len()], question);
        }
    }
}
