//! What a resolver asks, seen on the wire at its own site: to whom, for which name, when.
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

/// Looks on until it is dropped.
#[derive(Debug)]
pub struct Watch {
    seen: Arc<Mutex<Vec<Sent>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Looks on in a namespace, at what leaves it from `own`.
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
        let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let thread = thread::Builder::new().name("queries".to_owned()).spawn({
            let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            move || {
                let mut packet = [0; 2048];
                while !stop.load(Ordering::Relaxed) {
                    match recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()) {
                        Ok(length) => {
                            if let Some((to, what)) = query(&packet[..length.min(packet.len())], own) {
                                let at = Instant::now();
                                seen.lock().unwrap_or_else(PoisonError::into_inner).push(Sent { at, to, what });
                            }
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

    /// All that was seen so far, in order.
    pub fn seen(&self) -> MutexGuard<'_, Vec<Sent>> {
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

/// Where a packet from `own` goes to and what it asks, if it is a query, or opens a connection to ask.
fn query(packet: &[u8], own: Ipv4Addr) -> Option<(Ipv4Addr, String)> {
    let sliced = SlicedPacket::from_ip(packet).ok()?;
    let Some(NetSlice::Ipv4(ip)) = &sliced.net else { return None };
    let (from, to) = (ip.header().source_addr(), ip.header().destination_addr());
    if from != own || to == own {
        return None;
    }
    match sliced.transport? {
        TransportSlice::Udp(udp) if udp.destination_port() == DNS => {
            let message = Message::from_vec(udp.payload());
            let question = message.as_ref().ok().and_then(|message| message.queries.first());
            let what = question.map_or_else(
                || "no DNS message".to_owned(),
                |question| format!("{} {}", question.query_type(), question.name().to_lowercase()),
            );
            Some((to, what))
        }
        TransportSlice::Tcp(tcp) if tcp.destination_port() == DNS && tcp.syn() => {
            Some((to, "TCP connection".to_owned()))
        }
        _ => None,
    }
}

const DNS: u16 = 53;

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use hickory_proto::op::{MessageType, OpCode, Query};
    use hickory_proto::rr::{Name, RecordType};

    use super::*;

    fn packet(from: [u8; 4], to: [u8; 4], port: u16) -> Vec<u8> {
        let mut message = Message::new(1, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii("wWw.x.com.nyud.net.").unwrap(), RecordType::A));
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ipv4(from, to, 64).udp(4711, port);
        builder.write(&mut bytes, &message.to_vec().unwrap()).unwrap();
        bytes
    }

    #[test]
    fn queries_of_the_site_itself_count_and_nothing_else() {
        let (own, node) = ([198, 18, 7, 1], [198, 18, 1, 1]);
        let (to, what) = query(&packet(own, node, 53), own.into()).unwrap();
        assert_eq!((to, what.as_str()), (node.into(), "A www.x.com.nyud.net."));
        assert_eq!(query(&packet(node, own, 53), own.into()), None);
        assert_eq!(query(&packet(own, own, 53), own.into()), None);
        assert_eq!(query(&packet(own, node, 4160), own.into()), None);
        assert_eq!(query(b"no packet", own.into()), None);
    }
}
