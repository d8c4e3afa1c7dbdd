//! A packet as a TUN device passes it: with the header that says which work on it has been put off (virtio, §5.1.6).
//!
//! Hosts leave transport checksums to their device, and hand several TCP segments over as one large packet. A router need do
//! neither: it passes the header on, and the kernel at the other end takes the packet as it is. That is several times
//! cheaper than a packet at a time with all its checksums. Only where each packet counts by itself, as some are to be lost or a
//! line has a rate, a router takes a large one apart: [`Frame::split`].

use etherparse::checksum::Sum16BitWords;
use etherparse::{Ipv4HeaderSlice, ip_number};

/// A packet with its header.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame(Box<[u8]>);

impl Frame {
    /// What a device has given, if there is at least a header.
    pub fn from_device(bytes: &[u8]) -> Option<Self> {
        (bytes.len() >= HEADER).then(|| Self(bytes.into()))
    }

    /// A packet of a router's own, with nothing put off.
    pub fn of_packet(packet: &[u8]) -> Self {
        Self([&[0; HEADER], packet].concat().into())
    }

    /// What a device takes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The packet.
    pub fn packet(&self) -> &[u8] {
        &self.0[HEADER..]
    }

    /// The packet, to change it in place.
    pub fn packet_mut(&mut self) -> &mut [u8] {
        &mut self.0[HEADER..]
    }

    /// The packet's length in bytes.
    pub fn len(&self) -> usize {
        self.0.len() - HEADER
    }

    /// Whether this is several packets of a flow as one large packet.
    pub fn is_large(&self) -> bool {
        self.large_kind() != 0
    }

    /// How many packets it is.
    pub fn packets(&self) -> u64 {
        if !self.is_large() {
            return 1;
        }
        // The headers are a small part of it, and their length here is only a hint: this is for counters.
        let (headers, size) = (usize::from(self.field(2)), usize::from(self.field(4)).max(1));
        self.len().saturating_sub(headers).div_ceil(size).max(1) as u64
    }

    /// The packets that this is, each with its headers. Their checksums are still put off.
    ///
    /// `None`: nobody can say which packets those would be.
    pub fn split(&self) -> Option<Vec<Self>> {
        let (packet, size) = (self.packet(), usize::from(self.field(4)));
        let (ip, field) = (usize::from(self.field(6)), usize::from(self.field(8)));
        let transport = packet.get(ip..)?;
        let (protocol, header) = match self.large_kind() {
            TCP_V4 | TCP_V6 => (ip_number::TCP, usize::from(transport.get(12)? >> 4) * 4),
            UDP => (ip_number::UDP, 8),
            _ => return None,
        };
        let needs_checksum = self.0[0] & NEEDS_CHECKSUM != 0;
        let checksum_fits = field + 2 <= header;
        let headers = packet.get(..ip + header)?;
        let payload = &packet[ip + header..];
        // The transport header begins where the checksum does. Both families' addresses stand before it.
        let whole = match packet[0] >> 4 {
            4 => ip >= 20 && Ipv4HeaderSlice::from_slice(packet).is_ok_and(|v4| v4.slice().len() == ip),
            _ => ip >= 40,
        };
        if !(needs_checksum && checksum_fits && whole && size > 0 && header >= 8) {
            return None;
        }
        let count = payload.len().div_ceil(size);
        let part = |(at, payload): (usize, &[u8])| {
            let mut bytes = Vec::with_capacity(HEADER + headers.len() + payload.len());
            bytes.extend_from_slice(&self.0[..HEADER]);
            // No longer large.
            bytes[1..6].fill(0);
            bytes.extend_from_slice(headers);
            bytes.extend_from_slice(payload);
            let packet = &mut bytes[HEADER..];
            let length = (header + payload.len()) as u16;
            set_ip_length(packet, ip, length, at as u16);
            let transport = &mut packet[ip..];
            if protocol == ip_number::TCP {
                let begin = u32::from_be_bytes([transport[4], transport[5], transport[6], transport[7]]);
                let begin = begin.wrapping_add((at * size) as u32);
                transport[4..8].copy_from_slice(&begin.to_be_bytes());
                // FIN and PSH belong to the end, CWR to the beginning.
                let last = at + 1 == count;
                transport[13] &= if last { 0xff } else { !0x09 } & if at == 0 { 0xff } else { !0x80 };
            } else {
                transport[4..6].copy_from_slice(&length.to_be_bytes());
            }
            let sum = pseudo_header_sum(packet, protocol.0, length);
            packet[ip + field..ip + field + 2].copy_from_slice(&sum);
            Self(bytes.into())
        };
        Some(payload.chunks(size).enumerate().map(part).collect())
    }

    /// `gso_type`, without its flag for ECN.
    fn large_kind(&self) -> u8 {
        self.0[1] & 0x7f
    }

    /// A field of the header, in this machine's byte order.
    fn field(&self, at: usize) -> u16 {
        u16::from_ne_bytes([self.0[at], self.0[at + 1]])
    }

    /// Whether there is a header and nothing else.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame({} bytes)", self.len())
    }
}

/// Sets what the IP header says of the length, with the identification `at` after that of the first, and IPv4's checksum.
fn set_ip_length(packet: &mut [u8], ip_header: usize, transport: u16, at: u16) {
    if packet[0] >> 4 != 4 {
        // Whatever stands between the IPv6 header and the transport's counts as payload.
        let length = (ip_header - 40) as u16 + transport;
        packet[4..6].copy_from_slice(&length.to_be_bytes());
        return;
    }
    let length = ip_header as u16 + transport;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    let identification = u16::from_be_bytes([packet[4], packet[5]]).wrapping_add(at);
    packet[4..6].copy_from_slice(&identification.to_be_bytes());
    packet[10..12].fill(0);
    let sum = Sum16BitWords::new().add_slice(&packet[..ip_header]).ones_complement();
    packet[10..12].copy_from_slice(&sum.to_ne_bytes());
}

/// What the checksum field holds while the rest of the sum is put off: the sum of the addresses, the protocol and the length.
fn pseudo_header_sum(packet: &[u8], protocol: u8, length: u16) -> [u8; 2] {
    let addresses = if packet[0] >> 4 == 4 { &packet[12..20] } else { &packet[8..40] };
    let sum = Sum16BitWords::new().add_slice(addresses).add_2bytes([0, protocol]).add_2bytes(length.to_be_bytes());
    (!sum.ones_complement()).to_ne_bytes()
}

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`
const NEEDS_CHECKSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_TCPV4`
const TCP_V4: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_TCPV6`
const TCP_V6: u8 = 4;
/// `VIRTIO_NET_HDR_GSO_UDP_L4`
const UDP: u8 = 5;
/// `struct virtio_net_hdr`, as the kernel gives it unless told otherwise.
pub(crate) const HEADER: usize = 10;
/// The largest packet with its header.
pub(crate) const LARGEST: usize = HEADER + 65_535;

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, PacketHeaders, TransportHeader};
    use proptest::prelude::*;

    use super::*;

    /// As the kernel hands over what one write of an application has become.
    fn large(kind: u8, ip_header: u16, field: u16, size: u16, packet: &[u8]) -> Frame {
        let [s0, s1] = size.to_ne_bytes();
        let [i0, i1] = ip_header.to_ne_bytes();
        let [f0, f1] = field.to_ne_bytes();
        Frame([&[NEEDS_CHECKSUM, kind, 0, 0, s0, s1, i0, i1, f0, f1], packet].concat().into())
    }

    /// A packet with the checksum that the receiving kernel takes for granted, or works out.
    fn finish(frame: &Frame) -> Vec<u8> {
        let mut packet = frame.packet().to_vec();
        let (ip, field) = (usize::from(frame.field(6)), usize::from(frame.field(8)));
        let sum = Sum16BitWords::new().add_slice(&packet[ip..]).ones_complement();
        packet[ip + field..ip + field + 2].copy_from_slice(&sum.to_ne_bytes());
        packet
    }

    fn check_parts(frame: &Frame, payload: &[u8], size: usize) -> Vec<TransportHeader> {
        let parts = frame.split().unwrap();
        let mut joined = Vec::new();
        let mut headers = Vec::new();
        for part in &parts {
            assert!(!part.is_large());
            let packet = finish(part);
            crate::wan::packet::header(&packet).unwrap();
            let read = PacketHeaders::from_ip_slice(&packet).unwrap();
            let ip = read.net.unwrap();
            let data = read.payload.slice();
            assert!(data.len() <= size);
            joined.extend_from_slice(data);
            let mut transport = read.transport.unwrap();
            let before = transport.clone();
            match (&ip, ip.ipv4_ref()) {
                (_, Some((v4, _))) => {
                    assert_eq!(v4.calc_header_checksum(), v4.header_checksum);
                    transport.update_checksum_ipv4(v4, data).unwrap();
                }
                (net, None) => transport.update_checksum_ipv6(net.ipv6_ref().unwrap().0, data).unwrap(),
            }
            assert_eq!(transport, before, "the checksum is right");
            headers.push(transport);
        }
        assert_eq!(joined, payload);
        assert_eq!(parts.len() as u64, payload.len().div_ceil(size) as u64);
        headers
    }

    #[test]
    fn a_large_tcp_packet_is_so_many_small_ones() {
        let payload: Vec<u8> = (0..4000u32).map(|n| n as u8).collect();
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4([198, 18, 1, 1], [198, 18, 2, 1], 64).tcp(80, 5000, u32::MAX - 999, 1000);
        builder.psh().fin().ack(7).write(&mut packet, &payload).unwrap();
        let headers = check_parts(&large(TCP_V4, 20, 16, 1448, &packet), &payload, 1448);
        let lines: Vec<_> = headers
            .into_iter()
            .filter_map(TransportHeader::tcp)
            .map(|tcp| (tcp.sequence_number, tcp.fin, tcp.psh, tcp.ack))
            .collect();
        assert_eq!(lines, [(u32::MAX - 999, false, false, true), (448, false, false, true), (1896, true, true, true)]);

        let mut packet = Vec::new();
        PacketBuilder::ipv6([1; 16], [2; 16], 64).tcp(80, 5000, 1, 1000).write(&mut packet, &payload).unwrap();
        let frame = large(TCP_V6, 40, 16, 1428, &packet);
        check_parts(&frame, &payload, 1428);
        assert_eq!(frame.packets(), 3);
    }

    #[test]
    fn a_large_udp_packet_is_so_many_small_ones() {
        let payload = [9; 3000];
        let mut packet = Vec::new();
        PacketBuilder::ipv4([198, 18, 1, 1], [198, 18, 2, 1], 64).udp(80, 5000).write(&mut packet, &payload).unwrap();
        check_parts(&large(UDP, 20, 6, 1200, &packet), &payload, 1200);
    }

    proptest! {
        #[test]
        fn any_large_packet_is_split_or_refused(
            kind in 0u8..7, start in 0u16..80, field in 0u16..40, size in 0u16..2000,
            version in prop::sample::select(vec![0x45u8, 0x60]), mut bytes in prop::collection::vec(any::<u8>(), 0..3000),
        ) {
            if let Some(first) = bytes.first_mut() {
                *first = version;
            }
            let frame = large(kind, start, field, size, &bytes);
            frame.packets();
            if let Some(parts) = frame.split() {
                prop_assert!(parts.iter().all(|part| part.len() <= 80 + 60 + usize::from(size)));
            }
        }
    }
}
