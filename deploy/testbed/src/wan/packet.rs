//! Packets as bytes: reading their headers, spending their hops, and what routers answer (RFC 792, 1812, 4443).
//!
//! What comes from a TUN device is whatever a host wrote, so that nothing here takes a length on trust.

use std::net::IpAddr;

use etherparse::icmpv4::{DestUnreachableHeader, TimeExceededCode as ExceededV4};
use etherparse::icmpv6::{DestUnreachableCode, TimeExceededCode as ExceededV6};
use etherparse::{
    Icmpv4Slice, Icmpv4Type, Icmpv6Slice, Icmpv6Type, Ipv4HeaderSlice, Ipv6HeaderSlice, LaxIpSlice, PacketBuilder,
    ip_number,
};

/// What a router reads of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Who sent it, or says so.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// How many routers it may pass, and one.
    pub hop_limit: u8,
}

/// Bytes that are no IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Reads the IP header, which must be whole and agree with the length of the packet.
///
/// # Errors
///
/// [`Malformed`], if it is not.
pub fn header(packet: &[u8]) -> Result<Header, Malformed> {
    match packet.first().map(|first| first >> 4) {
        Some(4) => {
            let ip = Ipv4HeaderSlice::from_slice(packet).map_err(|_| Malformed)?;
            let (source, destination) = (ip.source_addr().into(), ip.destination_addr().into());
            let whole = usize::from(ip.total_len()) == packet.len();
            whole.then_some(Header { source, destination, hop_limit: ip.ttl() }).ok_or(Malformed)
        }
        Some(6) => {
            let ip = Ipv6HeaderSlice::from_slice(packet).map_err(|_| Malformed)?;
            let (source, destination) = (ip.source_addr().into(), ip.destination_addr().into());
            let whole = usize::from(ip.payload_length()) + V6_HEADER == packet.len();
            whole.then_some(Header { source, destination, hop_limit: ip.hop_limit() }).ok_or(Malformed)
        }
        _ => Err(Malformed),
    }
}

/// Takes as many hops off as routers were passed, and mends IPv4's header checksum.
///
/// `packet` is one that [`header`] has read, with a hop limit above `hops`.
pub fn spend_hops(packet: &mut [u8], hops: u8) {
    match packet[0] >> 4 {
        4 => {
            packet[8] -= hops;
            // RFC 1624: with m and m' as the 16-bit word before and after, HC' = ~(~HC + ~m + m'), and here m' = m - (hops << 8).
            let sum = u32::from(!u16::from_be_bytes([packet[10], packet[11]])) + u32::from(!(u16::from(hops) << 8));
            let folded = (sum & 0xffff) + (sum >> 16);
            packet[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
        }
        _ => packet[7] -= hops,
    }
}

/// Why a router sends a packet's sender an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Complaint {
    /// The packet had no hop left.
    TimeExceeded,
    /// Nobody has the address that it goes to.
    NoRoute,
    /// The address is this router's, and nobody listens there.
    NoPort,
}

/// The error that `router` (which has the addresses of both families) sends to the packet's sender.
///
/// `None` for packets that get no error: errors themselves, fragments but the first, and those from or to no single host (RFC 1122
/// §3.2.2, RFC 4443 §2.4).
pub fn complain(router: (IpAddr, IpAddr), complaint: Complaint, packet: &[u8]) -> Option<Vec<u8>> {
    let ip = LaxIpSlice::from_slice(packet).ok()?.0;
    let one_host = |ip: IpAddr| !(ip.is_multicast() || ip.is_unspecified() || ip == IpAddr::from([255; 4]));
    if !(one_host(ip.source_addr()) && one_host(ip.destination_addr())) {
        return None;
    }
    let mut reply = Vec::new();
    match (&ip, router) {
        (LaxIpSlice::Ipv4(ip), (IpAddr::V4(from), _)) => {
            let header = ip.header();
            if header.fragments_offset().value() != 0 || is_error_v4(ip.payload().payload, ip.payload().ip_number) {
                return None;
            }
            let kind = match complaint {
                Complaint::TimeExceeded => Icmpv4Type::TimeExceeded(ExceededV4::TtlExceededInTransit),
                Complaint::NoRoute => Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Network),
                Complaint::NoPort => Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port),
            };
            // RFC 1812 §4.3.2.3: as much as fits 576 bytes.
            let quoted = &packet[..packet.len().min(576 - 20 - 8)];
            let builder = PacketBuilder::ipv4(from.octets(), header.source(), REPLY_HOPS).icmpv4(kind);
            builder.write(&mut reply, quoted).ok()?;
        }
        (LaxIpSlice::Ipv6(ip), (_, IpAddr::V6(from))) => {
            let payload = ip.payload();
            let later_fragment = payload.fragmented && !starts_upper_layer(packet);
            if later_fragment || is_error_v6(payload.payload, payload.ip_number) {
                return None;
            }
            let kind = match complaint {
                Complaint::TimeExceeded => Icmpv6Type::TimeExceeded(ExceededV6::HopLimitExceeded),
                Complaint::NoRoute => Icmpv6Type::DestinationUnreachable(DestUnreachableCode::NoRoute),
                Complaint::NoPort => Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Port),
            };
            // RFC 4443 §3.3: as much as fits the least MTU.
            let quoted = &packet[..packet.len().min(1280 - 40 - 8)];
            let builder = PacketBuilder::ipv6(from.octets(), ip.header().source(), REPLY_HOPS).icmpv6(kind);
            builder.write(&mut reply, quoted).ok()?;
        }
        _ => return None,
    }
    Some(reply)
}

/// What the router to which the packet goes says to it: a reply to an echo request, an error to a datagram, else nothing.
pub fn answer(router: (IpAddr, IpAddr), packet: &[u8]) -> Option<Vec<u8>> {
    let ip = LaxIpSlice::from_slice(packet).ok()?.0;
    let (number, payload) = (ip.payload_ip_number(), ip.payload());
    if number == ip_number::UDP {
        return complain(router, Complaint::NoPort, packet);
    }
    if payload.fragmented || payload.incomplete {
        return None;
    }
    let mut reply = Vec::new();
    match &ip {
        LaxIpSlice::Ipv4(ip) if number == ip_number::ICMP => {
            let icmp = Icmpv4Slice::from_slice(payload.payload).ok()?;
            let Icmpv4Type::EchoRequest(echo) = icmp.icmp_type() else { return None };
            let builder = PacketBuilder::ipv4(ip.header().destination(), ip.header().source(), REPLY_HOPS)
                .icmpv4_echo_reply(echo.id, echo.seq);
            builder.write(&mut reply, icmp.payload()).ok()?;
        }
        LaxIpSlice::Ipv6(ip) if number == ip_number::IPV6_ICMP => {
            let icmp = Icmpv6Slice::from_slice(payload.payload).ok()?;
            let Icmpv6Type::EchoRequest(echo) = icmp.icmp_type() else { return None };
            let builder = PacketBuilder::ipv6(ip.header().destination(), ip.header().source(), REPLY_HOPS)
                .icmpv6_echo_reply(echo.id, echo.seq);
            builder.write(&mut reply, icmp.payload()).ok()?;
        }
        _ => return None,
    }
    Some(reply)
}

/// Whether this is ICMP and not one of the queries that may be answered with an error.
fn is_error_v4(payload: &[u8], number: etherparse::IpNumber) -> bool {
    // Echo, timestamp, and their replies.
    number == ip_number::ICMP && payload.first().is_none_or(|kind| !matches!(kind, 0 | 8 | 13 | 14))
}

/// RFC 4443 §2.1: types below 128 are errors.
fn is_error_v6(payload: &[u8], number: etherparse::IpNumber) -> bool {
    number == ip_number::IPV6_ICMP && payload.first().is_none_or(|kind| *kind < 128)
}

/// Whether a fragment is the first; its header follows the IPv6 header in all packets that Linux makes.
fn starts_upper_layer(packet: &[u8]) -> bool {
    packet[6] == ip_number::IPV6_FRAG.0 && packet.get(42..44).is_some_and(|field| (field[0], field[1] & 0xf8) == (0, 0))
}

const V6_HEADER: usize = 40;
/// What Linux gives packets of its own. A prober that assumes it can tell from what is left how many routers there were.
const REPLY_HOPS: u8 = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROUTER: (IpAddr, IpAddr) = (
        IpAddr::V4(std::net::Ipv4Addr::new(198, 19, 128, 0)),
        IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 2, 0, 0xffff, 0, 0, 0, 0)),
    );
    const V4: ([u8; 4], [u8; 4]) = ([198, 18, 1, 1], [198, 18, 2, 1]);

    fn udp_v4(hop_limit: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv4(V4.0, V4.1, hop_limit).udp(33_434, 33_435).write(&mut packet, payload).unwrap();
        packet
    }

    fn udp_v6(hop_limit: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        let (from, to) = ([1; 16], [2; 16]);
        PacketBuilder::ipv6(from, to, hop_limit).udp(33_434, 33_435).write(&mut packet, payload).unwrap();
        packet
    }

    fn checksum_is_right(packet: &[u8]) -> bool {
        let ip = Ipv4HeaderSlice::from_slice(packet).unwrap().to_header();
        ip.calc_header_checksum() == ip.header_checksum
    }

    #[test]
    fn headers_must_agree_with_the_length() {
        let packet = udp_v4(64, b"hello");
        let read = header(&packet).unwrap();
        assert_eq!((read.source, read.destination, read.hop_limit), (V4.0.into(), V4.1.into(), 64));
        assert_eq!(header(&packet[..packet.len() - 1]), Err(Malformed));
        assert_eq!(header(&[&packet[..], &[0]].concat()), Err(Malformed));
        let packet = udp_v6(64, b"hello");
        assert_eq!(header(&packet).unwrap().hop_limit, 64);
        assert_eq!(header(&packet[..39]), Err(Malformed));
        assert_eq!(header(&[]), Err(Malformed));
        assert_eq!(header(&[0x50; 60]), Err(Malformed));
    }

    #[test]
    fn time_exceeded_quotes_the_packet_and_comes_from_the_router() {
        let probe = udp_v4(1, &[7; 2000]);
        let reply = complain(ROUTER, Complaint::TimeExceeded, &probe).unwrap();
        assert_eq!(reply.len(), 576);
        assert!(checksum_is_right(&reply));
        let read = header(&reply).unwrap();
        assert_eq!((read.source, read.destination, read.hop_limit), (ROUTER.0, V4.0.into(), 64));
        let icmp = Icmpv4Slice::from_slice(&reply[20..]).unwrap();
        assert_eq!(icmp.icmp_type(), Icmpv4Type::TimeExceeded(ExceededV4::TtlExceededInTransit));
        assert_eq!(icmp.payload(), &probe[..548]);

        let probe = udp_v6(1, &[7; 2000]);
        let reply = complain(ROUTER, Complaint::TimeExceeded, &probe).unwrap();
        assert_eq!((reply.len(), header(&reply).unwrap().source), (1280, ROUTER.1));
        let icmp = Icmpv6Slice::from_slice(&reply[40..]).unwrap();
        assert!(icmp.is_checksum_valid(
            [0x2001, 2, 0, 0xffff, 0, 0, 0, 0].map(u16::to_be_bytes).concat().try_into().unwrap(),
            [1; 16]
        ));
        assert_eq!(icmp.payload(), &probe[..1232]);
    }

    #[test]
    fn nobody_complains_about_a_complaint() {
        for probe in [udp_v4(1, b""), udp_v6(1, b"")] {
            for complaint in [Complaint::TimeExceeded, Complaint::NoRoute, Complaint::NoPort] {
                let reply = complain(ROUTER, complaint, &probe).unwrap();
                assert_eq!(complain(ROUTER, Complaint::TimeExceeded, &reply), None);
            }
        }
        let mut multicast = Vec::new();
        PacketBuilder::ipv4(V4.0, [224, 0, 0, 22], 1).udp(1, 1).write(&mut multicast, b"").unwrap();
        assert_eq!(complain(ROUTER, Complaint::TimeExceeded, &multicast), None);
    }

    #[test]
    fn routers_answer_echo_requests_and_refuse_datagrams() {
        let mut ping = Vec::new();
        PacketBuilder::ipv4(V4.0, [198, 19, 128, 0], 64).icmpv4_echo_request(3, 4).write(&mut ping, b"data").unwrap();
        let reply = answer(ROUTER, &ping).unwrap();
        let icmp = Icmpv4Slice::from_slice(&reply[20..]).unwrap();
        assert_eq!(icmp.icmp_type(), Icmpv4Type::EchoReply(etherparse::IcmpEchoHeader { id: 3, seq: 4 }));
        assert_eq!((icmp.payload(), header(&reply).unwrap().destination), (&b"data"[..], V4.0.into()));
        assert_eq!(answer(ROUTER, &reply), None, "a reply is not answered");

        let reply = answer(ROUTER, &udp_v4(64, b"")).unwrap();
        let kind = Icmpv4Slice::from_slice(&reply[20..]).unwrap().icmp_type();
        assert_eq!(kind, Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port));
    }

    proptest! {
        #[test]
        fn spent_hops_leave_the_checksum_right(limit in 2u8.., spent in 1u8..6, id: u16) {
            prop_assume!(spent < limit);
            let mut packet = udp_v4(limit, b"x");
            packet[4..6].copy_from_slice(&id.to_be_bytes());
            let mut ip = Ipv4HeaderSlice::from_slice(&packet).unwrap().to_header();
            ip.header_checksum = ip.calc_header_checksum();
            packet[10..12].copy_from_slice(&ip.header_checksum.to_be_bytes());
            spend_hops(&mut packet, spent);
            prop_assert_eq!(header(&packet).unwrap().hop_limit, limit - spent);
            prop_assert!(checksum_is_right(&packet));
        }

        #[test]
        fn any_bytes_are_read_without_harm(mut bytes: Vec<u8>, version in prop::sample::select(vec![0x45u8, 0x46, 0x60, 0]), sensible: bool) {
            if let Some(first) = bytes.first_mut() {
                *first = version;
            }
            let length = bytes.len();
            if sensible && length > 40 {
                // Most random packets fail at their length: let some get further.
                match version {
                    0x60 => bytes[4..6].copy_from_slice(&((length - 40) as u16).to_be_bytes()),
                    _ => bytes[2..4].copy_from_slice(&(length as u16).to_be_bytes()),
                }
            }
            let read = header(&bytes);
            answer(ROUTER, &bytes);
            for complaint in [Complaint::TimeExceeded, Complaint::NoRoute, Complaint::NoPort] {
                complain(ROUTER, complaint, &bytes);
            }
            if read.is_ok_and(|read| read.hop_limit > 5) {
                spend_hops(&mut bytes, 5);
                prop_assert!(header(&bytes).is_ok());
            }
        }
    }
}
