//! Probes of one trace: datagrams with a TTL each, and what routers say about them.
//!
//! An ordinary UDP socket with `IP_RECVERR` is told of ICMP errors that its datagrams cause (ip(7)), so that neither root
//! nor a raw socket is needed. The kernel matches an error to the socket by the datagram that it quotes, and hands out where
//! that one went: so a probe's TTL is written into its port. How long an answer took is the kernel's time stamp less the time
//! of sending, which a busy machine does not stretch as much as it does our own wake-up.

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::cmsg_space;
use nix::libc;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmsg, setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::{Answer, Kind};

/// An open trace's socket, and when each probe was sent.
#[derive(Debug)]
pub(super) struct Probes {
    socket: UdpSocket,
    destination: IpAddr,
    sent: BTreeMap<u8, Sent>,
}

/// The time of sending by both clocks: the kernel stamps by the one that can be set.
#[derive(Debug, Clone, Copy)]
struct Sent {
    at: Instant,
    wall: SystemTime,
}

impl Probes {
    /// A socket for probes to `destination`, which is no IPv4 address written as an IPv6 one.
    pub(super) async fn open(destination: IpAddr) -> io::Result<Self> {
        let any: IpAddr = match destination {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        match destination {
            IpAddr::V4(_) => {
                setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
                setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;
            }
            IpAddr::V6(_) => {
                setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
                setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
            }
        }
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        Ok(Self { socket, destination, sent: BTreeMap::new() })
    }

    /// Sends one probe with this TTL.
    ///
    /// An error means that this machine cannot send it.
    pub(super) async fn send(&mut self, ttl: u8) -> io::Result<()> {
        match self.destination {
            IpAddr::V4(_) => setsockopt(&self.socket, sockopt::Ipv4Ttl, &i32::from(ttl))?,
            IpAddr::V6(_) => setsockopt(&self.socket, sockopt::Ipv6Ttl, &i32::from(ttl))?,
        }
        let to = SocketAddr::new(self.destination, port(ttl));
        let mut tries = 0;
        loop {
            self.sent.insert(ttl, Sent { at: Instant::now(), wall: SystemTime::now() });
            match self.socket.send_to(PAYLOAD, to).await {
                Ok(_) => return Ok(()),
                // What an earlier probe has met is told here, too, in place of sending (ip(7), IP_RECVERR); once for each.
                Err(_) if tries < self.sent.len() => tries += 1,
                Err(e) => return Err(e),
            }
        }
    }

    /// The next answer, and to the probe with which TTL. Nothing is lost if the future is dropped.
    pub(super) async fn answer(&self) -> io::Result<(u8, Answer)> {
        loop {
            self.socket.ready(Interest::ERROR).await?;
            match self.socket.try_io(Interest::ERROR, || receive(&self.socket)) {
                Ok(report) => {
                    if let Some(answer) = self.read(&report) {
                        return Ok(answer);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// What a report says; `None` if it is none about a probe of this trace.
    fn read(&self, report: &Report) -> Option<(u8, Answer)> {
        let about = report.about.filter(|about| about.ip() == self.destination)?;
        let ttl = ttl(about.port())?;
        let sent = self.sent.get(&ttl)?;
        let (kind, from) = report.error?;
        // Either clock may be off: the one by a step of the time, the other by our being late. None measures too little.
        let own = sent.at.elapsed();
        let stamped = report.stamp.and_then(|stamp| stamp.duration_since(sent.wall).ok());
        let rtt = stamped.map_or(own, |stamped| stamped.min(own));
        Some((ttl, Answer { kind, from, rtt, ttl_left: report.ttl_left }))
    }
}

/// One entry of the error queue, as far as it is understood.
#[derive(Debug, Default, PartialEq)]
struct Report {
    /// Where the datagram went that met the error.
    about: Option<SocketAddr>,
    error: Option<(Kind, IpAddr)>,
    ttl_left: Option<u8>,
    /// When the kernel got the error.
    stamp: Option<SystemTime>,
}

fn receive(socket: &UdpSocket) -> io::Result<Report> {
    // Only the head of what was sent comes back, and only its address counts.
    let mut payload = [0; 64];
    let mut buffers = [IoSliceMut::new(&mut payload)];
    let mut control = cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6, TimeSpec, libc::c_int);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut buffers, Some(&mut control), flags)?;
    let about = message.address.as_ref().and_then(addr_of);
    // Control messages that were cut off are as good as none.
    let parts = message.cmsgs().into_iter().flatten();
    Ok(parts.fold(Report { about, ..Report::default() }, Report::with))
}

fn addr_of(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|addr| SocketAddr::from((addr.ip(), addr.port())));
    v4.or_else(|| address.as_sockaddr_in6().map(|addr| SocketAddr::from((addr.ip(), addr.port()))))
}

impl Report {
    /// Takes in one control message.
    fn with(mut self, part: ControlMessageOwned) -> Self {
        match part {
            ControlMessageOwned::Ipv4RecvErr(error, Some(offender)) if error.ee_origin == libc::SO_EE_ORIGIN_ICMP => {
                let from = IpAddr::V4(SockaddrIn::from(offender).ip());
                self.error = kind_v4(error.ee_type, error.ee_code).zip(sender(from));
            }
            ControlMessageOwned::Ipv6RecvErr(error, Some(offender)) if error.ee_origin == libc::SO_EE_ORIGIN_ICMP6 => {
                let from = IpAddr::V6(SockaddrIn6::from(offender).ip());
                self.error = kind_v6(error.ee_type, error.ee_code).zip(sender(from));
            }
            ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) => {
                self.ttl_left = u8::try_from(ttl).ok();
            }
            ControlMessageOwned::ScmTimestampns(stamp) => {
                self.stamp = u64::try_from(stamp.tv_sec())
                    .ok()
                    .and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
                    .zip(u64::try_from(stamp.tv_nsec()).ok())
                    .and_then(|(at, nanos)| at.checked_add(Duration::from_nanos(nanos)));
            }
            _ => {}
        }
        self
    }
}

/// Who can have sent an error.
fn sender(from: IpAddr) -> Option<IpAddr> {
    (!from.is_unspecified() && !from.is_multicast()).then_some(from)
}

/// RFC 792. `None`: not about the way.
fn kind_v4(kind: u8, code: u8) -> Option<Kind> {
    match (kind, code) {
        (11, 0) => Some(Kind::Expired),
        (3, 3) => Some(Kind::Reached),
        // Too large for the way; a probe is not.
        (3, 4) => None,
        (3, _) => Some(Kind::Refused),
        _ => None,
    }
}

/// RFC 4443 §3.
fn kind_v6(kind: u8, code: u8) -> Option<Kind> {
    match (kind, code) {
        (3, 0) => Some(Kind::Expired),
        (1, 4) => Some(Kind::Reached),
        (1, _) => Some(Kind::Refused),
        _ => None,
    }
}

fn port(ttl: u8) -> u16 {
    FIRST_PORT + u16::from(ttl)
}

fn ttl(port: u16) -> Option<u8> {
    u8::try_from(port.checked_sub(FIRST_PORT)?).ok()
}

/// traceroute's own ports are from the next one on: hardly anybody listens there, and firewalls know them.
const FIRST_PORT: u16 = 33433;
/// For whoever wonders what this is.
const PAYLOAD: &[u8] = b"coral trace\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn icmp(kind: u8, code: u8, from: [u8; 4]) -> ControlMessageOwned {
        let error = libc::sock_extended_err {
            ee_errno: 0,
            ee_origin: libc::SO_EE_ORIGIN_ICMP,
            ee_type: kind,
            ee_code: code,
            ee_pad: 0,
            ee_info: 0,
            ee_data: 0,
        };
        let [a, b, c, d] = from;
        let offender = libc::sockaddr_in::from(SockaddrIn::new(a, b, c, d, 0));
        ControlMessageOwned::Ipv4RecvErr(error, Some(offender))
    }

    fn report(parts: impl IntoIterator<Item = ControlMessageOwned>) -> Report {
        parts.into_iter().fold(Report::default(), Report::with)
    }

    #[test]
    fn an_error_is_told_by_type_code_and_sender() {
        let from = |kind, code, from| report([icmp(kind, code, from)]).error;
        let router = IpAddr::from([192, 0, 2, 1]);
        assert_eq!(from(11, 0, [192, 0, 2, 1]), Some((Kind::Expired, router)));
        assert_eq!(from(3, 3, [192, 0, 2, 1]), Some((Kind::Reached, router)));
        assert_eq!(from(3, 13, [192, 0, 2, 1]), Some((Kind::Refused, router)));
        assert_eq!(from(11, 1, [192, 0, 2, 1]), None, "reassembly");
        assert_eq!(from(3, 4, [192, 0, 2, 1]), None, "size");
        assert_eq!(from(11, 0, [0, 0, 0, 0]), None);
        assert_eq!(from(11, 0, [224, 0, 0, 1]), None);
        assert_eq!([kind_v6(3, 0), kind_v6(1, 4)], [Some(Kind::Expired), Some(Kind::Reached)]);
        assert_eq!([kind_v6(1, 1), kind_v6(2, 0)], [Some(Kind::Refused), None]);
    }

    #[test]
    fn an_error_of_this_machine_itself_is_none_of_a_router() {
        let ControlMessageOwned::Ipv4RecvErr(mut error, offender) = icmp(11, 0, [192, 0, 2, 1]) else { unreachable!() };
        assert_eq!(report([ControlMessageOwned::Ipv4RecvErr(error, None)]).error, None);
        error.ee_origin = libc::SO_EE_ORIGIN_LOCAL;
        assert_eq!(report([ControlMessageOwned::Ipv4RecvErr(error, offender)]).error, None);
    }

    #[test]
    fn strange_numbers_are_left_out() {
        let stamp = |seconds, nanos| ControlMessageOwned::ScmTimestampns(TimeSpec::new(seconds, nanos));
        assert_eq!(report([ControlMessageOwned::Ipv4Ttl(-1), stamp(-1, 0)]), Report::default());
        assert_eq!(report([ControlMessageOwned::Ipv4Ttl(300), stamp(1, -1)]), Report::default());
        assert_eq!(report([stamp(2, 5)]).stamp, Some(UNIX_EPOCH + Duration::new(2, 5)));
    }

    #[tokio::test]
    async fn only_reports_about_own_probes_count() {
        let mut probes = Probes::open(IpAddr::from([127, 0, 0, 1])).await.unwrap();
        probes.sent.insert(7, Sent { at: Instant::now(), wall: SystemTime::now() });
        let read = |about: &str| {
            let error = Some((Kind::Expired, IpAddr::from([127, 0, 0, 9])));
            let report = Report { about: about.parse().ok(), error, ttl_left: None, stamp: Some(UNIX_EPOCH) };
            probes.read(&report).map(|(ttl, answer)| (ttl, answer.rtt < Duration::from_secs(60)))
        };
        assert_eq!(read("127.0.0.1:33440"), Some((7, true)), "a clock that was set back does no harm");
        assert_eq!(read("127.0.0.1:33441"), None, "never sent");
        assert_eq!(read("127.0.0.2:33440"), None);
        assert_eq!([read("127.0.0.1:80"), read("127.0.0.1:65000"), read("none")], [None; 3]);
    }
}
