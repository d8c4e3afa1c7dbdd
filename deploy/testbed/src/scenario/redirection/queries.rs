//! What a resolver asks and hears, seen on the wire at its own site: whom, for which name, when.
//!
//! A packet socket in the site's namespace sees all that leaves it, so the count is exact, whichever resolver it is and however
//! many run at once. Over TCP it is connections that count.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::Context as _;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use hickory_proto::op::Message;
use hickory_proto::rr::RData;
use nix::errno::Errno;
use nix::sys::socket::sockopt::{RcvBuf, ReceiveTimeout};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::netns;

/// A query on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// When it was seen.
    pub at: Instant,
    /// The nameserver.
    pub to: Ipv4Addr,
    /// Type and name; for a connection, that it is one.
    pub what: String,
}

/// An answer that has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// When it was seen.
    pub at: Instant,
    /// The nameserver.
    pub from: Ipv4Addr,
    /// What it says, in short.
    pub what: String,
}

/// All that was seen, each in order.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// Queries.
    pub sent: Vec<Sent>,
    /// Answers.
    pub heard: Vec<Heard>,
}

impl Seen {
    /// What has been seen since there was so much of each.
    #[must_use]
    pub fn since(&self, (sent, heard): (usize, usize)) -> Self {
        Self { sent: self.sent[sent..].to_vec(), heard: self.heard[heard..].to_vec() }
    }

    /// Notes a packet, if it is a query of `own` or an answer to it.
    fn note(&mut self, packet: &[u8], own: Ipv4Addr) {
        let at = Instant::now();
        match transport(packet) {
            Some((from, to, transport)) if from == own => {
                self.sent.extend(query(&transport).map(|what| Sent { at, to, what }));
            }
            Some((from, to, transport)) if to == own => {
                self.heard.extend(answer(&transport).map(|what| Heard { at, from, what }));
            }
            _ => {}
        }
    }

    /// How much there is of each.
    pub fn lengths(&self) -> (usize, usize) {
        (self.sent.len(), self.heard.len())
    }
}

/// Looks on until it is dropped.
#[derive(Debug)]
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Looks on in a namespace, at what leaves it from `own` and comes to it.
    ///
    /// # Errors
    ///
    /// If there can be no packet socket: it takes CAP_NET_RAW.
    pub fn start(namespace: &File, own: Ipv4Addr) -> anyhow::Result<Self> {
        let socket = netns::inside(namespace, || {
            socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
        })?;
        let socket = socket.context("cannot look at packets (CAP_NET_RAW is needed)")?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(200)).context("cannot look at packets")?;
        setsockopt(&socket, RcvBuf, &(4 << 20)).context("cannot look at packets")?;
        let (seen, stop) = (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicBool::new(false)));
        let thread = thread::Builder::new().name("queries".to_owned()).spawn({
            let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            move || {
                let mut packet = [0; 2048];
                while !stop.load(Ordering::Relaxed) {
                    match recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()) {
                        Ok(length) => {
                            let packet = &packet[..length.min(packet.len())];
                            seen.lock().unwrap_or_else(PoisonError::into_inner).note(packet, own);
                        }
                        Err(Errno::EAGAIN | Errno::EINTR) => {}
                        // The namespace has gone, and all in it.
                        Err(_) => break,
                    }
                }
            }
        });
        Ok(Self { seen, stop, thread: Some(thread.context("cannot start a thread")?) })
    }

    /// All that was seen so far.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // One that has panicked has said so.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// From where to where a packet goes, and what of TCP or UDP it is.
fn transport(packet: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr, TransportSlice<'_>)> {
    let sliced = SlicedPacket::from_ip(packet).ok()?;
    let Some(NetSlice::Ipv4(ip)) = &sliced.net else { return None };
    let (from, to) = (ip.header().source_addr(), ip.header().destination_addr());
    (from != to).then_some((from, to, sliced.transport?))
}

/// What a packet asks, if it is a query, or opens a connection to ask.
fn query(transport: &TransportSlice<'_>) -> Option<String> {
    match transport {
        TransportSlice::Udp(udp) if udp.destination_port() == DNS => {
            let message = Message::from_vec(udp.payload());
            let question = message.as_ref().ok().and_then(|message| message.queries.first());
            Some(question.map_or_else(
                || "no DNS message".to_owned(),
                |question| format!("{} {}", question.query_type(), question.name().to_lowercase()),
            ))
        }
        TransportSlice::Tcp(tcp) if tcp.destination_port() == DNS && tcp.syn() => Some("TCP connection".to_owned()),
        _ => None,
    }
}

/// What a packet answers.
fn answer(transport: &TransportSlice<'_>) -> Option<String> {
    let TransportSlice::Udp(udp) = transport else { return None };
    let said =
        || Message::from_vec(udp.payload()).map_or_else(|_| "no DNS message".to_owned(), |message| said(&message));
    (udp.source_port() == DNS).then(said)
}

/// An answer in short: `NoError aa, 2 answers` or `NoError, NS com.nyud.net. ns1.nyud.net.`
fn said(message: &Message) -> String {
    let flag = |is_set, flag| if is_set { flag } else { "" };
    let metadata = &message.metadata;
    let mut said = format!(
        "{}{}{}",
        metadata.response_code,
        flag(metadata.authoritative, " aa"),
        flag(metadata.truncation, " tc")
    );
    if !message.answers.is_empty() {
        said += &format!(", {} answers", message.answers.len());
    }
    for record in &message.authorities {
        said += &format!(", {} {}", record.record_type(), record.name);
        if let RData::NS(ns) = &record.data {
            said += &format!(" {}", ns.0);
        }
    }
    said
}

const DNS: u16 = 53;

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use hickory_proto::op::{MessageType, OpCode, Query};
    use hickory_proto::rr::rdata::NS;
    use hickory_proto::rr::{Name, Record, RecordType};

    use super::*;

    fn packet(from: [u8; 4], to: [u8; 4], port: u16) -> Vec<u8> {
        let mut message = Message::new(1, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii("wWw.x.com.nyud.net.").unwrap(), RecordType::A));
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ipv4(from, to, 64).udp(4711, port);
        builder.write(&mut bytes, &message.to_vec().unwrap()).unwrap();
        bytes
    }

    /// The other end, and what was said.
    type Told = Vec<(Ipv4Addr, String)>;

    /// What was sent and what was heard.
    fn noted(packet: &[u8], own: [u8; 4]) -> (Told, Told) {
        let mut seen = Seen::default();
        seen.note(packet, own.into());
        (
            seen.sent.into_iter().map(|sent| (sent.to, sent.what)).collect(),
            seen.heard.into_iter().map(|heard| (heard.from, heard.what)).collect(),
        )
    }

    #[test]
    fn queries_of_the_site_itself_count_and_nothing_else() {
        let (own, node) = ([198, 18, 7, 1], [198, 18, 1, 1]);
        let query = vec![(node.into(), "A www.x.com.nyud.net.".to_owned())];
        assert_eq!(noted(&packet(own, node, 53), own), (query, vec![]));
        for other in [packet(node, own, 53), packet(own, own, 53), packet(own, node, 4160), b"no packet".to_vec()] {
            assert_eq!(noted(&other, own), (vec![], vec![]));
        }
    }

    #[test]
    fn answers_are_told_in_short() {
        let (own, node) = ([198, 18, 7, 1], [198, 18, 1, 1]);
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        message.metadata.authoritative = true;
        let name = |name: &str| Name::from_ascii(name).unwrap();
        message.add_authority(Record::from_rdata(name("com.nyud.net."), 60, RData::NS(NS(name("ns.nyud.net.")))));
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4(node, own, 64).udp(53, 4711);
        builder.write(&mut packet, &message.to_vec().unwrap()).unwrap();
        let answer = vec![(node.into(), "No Error aa, NS com.nyud.net. ns.nyud.net.".to_owned())];
        assert_eq!(noted(&packet, own), (vec![], answer));
        assert_eq!(noted(&packet, [198, 18, 7, 2]), (vec![], vec![]));
    }
}
