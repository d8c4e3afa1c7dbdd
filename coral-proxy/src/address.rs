//! Which addresses an origin or another node may have: against server-side request forgery (design §4.4).
//!
//! The check is made on the address that is then connected to, so that a name cannot be one thing when it is looked
//! at and another when it is used (DNS rebinding).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Whether `ip` is a public unicast address, and stands for none that is not.
///
/// Not public are the special-purpose blocks of RFC 6890 and its registry: loopback, private, link-local (and with it
/// the metadata services of clouds), shared (CGNAT), documentation, benchmarking, multicast, reserved; and IPv6
/// addresses that carry an IPv4 address that is not public (mapped, compatible, NAT64, 6to4) or may (Teredo, local NAT64).
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    !matches!(
        ip.octets(),
        // This host and network; private (RFC 1918); shared (RFC 6598); loopback; link-local.
        [0 | 10 | 127, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] | [169, 254, ..]
            // Protocol assignments; documentation; the retired 6to4 relay; AMT and AS112; benchmarking.
            | [192, 0, 0 | 2, _] | [198, 51, 100, _] | [203, 0, 113, _] | [192, 88, 99, _] | [192, 52, 193, _]
            | [192, 31, 196, _] | [192, 175, 48, _] | [198, 18..=19, ..]
            // Multicast, reserved, broadcast.
            | [224..=255, ..]
            // Azure's host services, reachable from every guest at this public-looking address.
            | [168, 63, 129, 16]
    )
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let embedded = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match ip.segments() {
        // IPv4-mapped, IPv4-translated, NAT64 (RFC 6052), 6to4 (RFC 3056).
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => embedded(high, low),
        // Protocol assignments with Teredo, benchmarking and ORCHID; documentation, old and new.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        // Global unicast is 2000::/3; everything else is special: ::/8, local NAT64, ULA, link-local, multicast.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

/// Whether a reference may name `peer` to a node that is itself at `me`.
///
/// Anyone can put a reference, so it must not make this node knock at what is reachable only from here. A network on
/// loopback or inside a private block is one on purpose: there, nodes at addresses of the same kind are believed.
pub fn may_be_peer(peer: SocketAddr, me: SocketAddr) -> bool {
    let kind = |ip: IpAddr| match ip.to_canonical() {
        IpAddr::V4(ip) if ip.is_loopback() => 1,
        IpAddr::V6(ip) if ip.is_loopback() => 1,
        IpAddr::V4(ip) if ip.is_private() || matches!(ip.octets(), [100, 64..=127, ..]) => 2,
        IpAddr::V6(ip) if ip.is_unique_local() => 2,
        // Test networks: the maps of a laboratory use them, and nothing else does.
        IpAddr::V4(ip) if ip.is_documentation() || matches!(ip.octets(), [198, 18..=19, ..]) => 3,
        IpAddr::V6(ip) if matches!(ip.segments(), [0x2001, 0xdb8, ..] | [0x2001, 2, 0, ..]) => 3,
        _ => 0,
    };
    let ip = peer.ip().to_canonical();
    is_public(ip) || (kind(ip) != 0 && kind(ip) == kind(me.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_addresses_pass() {
        for ip in [
            "1.1.1.1",
            "192.0.1.1",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1111",
            "64:ff9b::101:101",
            "2002:101:101::",
        ] {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn no_address_of_ones_own_network_passes_nor_a_disguise_of_it() {
        for ip in [
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "192.0.0.1",
            "192.0.2.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "168.63.129.16",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:0:10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "fe80::1",
            "fec0::1",
            "fd00:ec2::254",
            "fc00::1",
            "ff02::1",
            "100::1",
            "5f00::1",
        ] {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn a_network_of_ones_own_trusts_addresses_of_its_kind_only() {
        let may = |peer: &str, me: &str| may_be_peer(peer.parse().unwrap(), me.parse().unwrap());
        assert!(
            may("127.0.0.2:1", "127.0.0.1:1") && may("10.0.0.2:1", "192.168.0.1:1") && may("9.9.9.9:1", "127.0.0.1:1")
        );
        assert!(may("198.19.0.1:1", "198.18.0.1:1") && may("[2001:2:0:2::1]:1", "[2001:2:0:1::1]:1"));
        assert!(!may("[2001:2:0:2::1]:1", "[2606:4700::1]:1") && !may("[2001:2:1::1]:1", "[2001:2:0:1::1]:1"));
        assert!(!may("127.0.0.1:1", "9.9.9.9:1") && !may("127.0.0.1:1", "10.0.0.1:1"));
        assert!(!may("169.254.169.254:80", "169.254.0.1:80") && !may("224.0.0.1:80", "224.0.0.2:80"));
    }
}
