//! The round-trip time by ICMP echo (RFC 792, RFC 4443 §4), through surge-ping.
//!
//! A datagram socket works for an ordinary user where `ping_group_range` covers its group; failing that a raw one, for
//! root or with `CAP_NET_RAW`. Its figure is taken in user space and is too high when the machine is busy: hence the least
//! of several.

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use surge_ping::{Client, Config, ICMP, IcmpPacket, PingIdentifier, PingSequence};

use crate::config::ProbeConfig;
use crate::probe::Measure;

/// ICMP types of an echo's answer: anything else that comes back is a router's complaint.
const ECHO_REPLY_V4: u8 = 0;
const ECHO_REPLY_V6: u8 = 129;

/// Sends echoes over IPv4 and, where the machine has it, IPv6.
pub struct Echo {
    v4: Option<Client>,
    v6: Option<Client>,
    echoes: u16,
    timeout: Duration,
    /// Tells apart the echoes of concurrent measurements on a raw socket.
    next: AtomicU16,
}

impl std::fmt::Debug for Echo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Echo").field("v4", &self.v4.is_some()).field("v6", &self.v6.is_some()).finish_non_exhaustive()
    }
}

impl Echo {
    /// Opens the sockets, within a tokio runtime. An error means that neither family can be had, and tells of IPv4.
    pub fn new(config: &ProbeConfig) -> io::Result<Self> {
        let open = |kind| Client::new(&Config::builder().kind(kind).build());
        let (v4, v6) = (open(ICMP::V4), open(ICMP::V6));
        if let (Err(error), Err(_)) = (&v4, &v6) {
            return Err(io::Error::new(error.kind(), error.to_string()));
        }
        Ok(Self { v4: v4.ok(), v6: v6.ok(), echoes: config.echoes, timeout: config.timeout, next: AtomicU16::new(0) })
    }
}

impl Measure for Echo {
    async fn rtt(&self, address: IpAddr) -> Option<Duration> {
        let client = match address {
            IpAddr::V4(_) => self.v4.as_ref()?,
            IpAddr::V6(_) => self.v6.as_ref()?,
        };
        let id = PingIdentifier(self.next.fetch_add(1, Ordering::Relaxed));
        let mut pinger = client.pinger(address, id).await;
        pinger.timeout(self.timeout);
        let mut least: Option<Duration> = None;
        for sequence in 0..self.echoes {
            // Who lets the first go unanswered mostly does not answer at all: no more of our packets for it.
            let Ok((packet, rtt)) = pinger.ping(PingSequence(sequence), &[]).await else {
                break;
            };
            if !is_reply(&packet) {
                break;
            }
            least = Some(least.map_or(rtt, |least| least.min(rtt)));
        }
        least
    }
}

fn is_reply(packet: &IcmpPacket) -> bool {
    match packet {
        IcmpPacket::V4(packet) => packet.get_icmp_type().0 == ECHO_REPLY_V4,
        IcmpPacket::V6(packet) => packet.get_icmpv6_type().0 == ECHO_REPLY_V6,
    }
}
