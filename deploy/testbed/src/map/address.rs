//! Which addresses sites and routers have: all in the blocks set aside for laboratories.
//!
//! IPv4 is 198.18.0.0/15 (RFC 2544), IPv6 2001:db8::/32 (RFC 3849). Each site has a network of its own, a /24 and a /48, so
//! that whatever goes by prefix (hints, EDNS client subnets) tells sites apart, and is host 1 in it. The upper half of
//! 198.19.0.0/16 is for routers, and routers with neighbouring numbers are in different networks, too: a node puts hints under
//! its routers' networks, and two regions behind one would be taken for neighbours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How many sites a map can have.
pub const MAX_SITES: usize = FIRST_BLOCK + 128;
/// How many routers a map can have, gateways, regions' and cores'.
pub const MAX_ROUTERS: usize = 254 << 7;
/// The prefix length of a site's IPv4 network.
pub const IPV4_PREFIX: u8 = 24;
/// The prefix length of a site's IPv6 network.
pub const IPV6_PREFIX: u8 = 64;

/// Sites 1 to 250 are in 198.18.0.0/16, the others in the lower half of 198.19.0.0/16.
const FIRST_BLOCK: usize = 250;

/// The IPv4 address of the site with this number, from 1.
pub(super) fn site_v4(number: u16) -> Ipv4Addr {
    match usize::from(number) {
        n @ ..=FIRST_BLOCK => Ipv4Addr::new(198, 18, n as u8, 1),
        n => Ipv4Addr::new(198, 19, (n - FIRST_BLOCK - 1) as u8, 1),
    }
}

/// The IPv6 address of the site with this number, from 1.
pub(super) fn site_v6(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, number, 0, 0, 0, 0, 1)
}

/// The number of the site in whose network an address is, whether or not a map has that site.
pub fn site_number(address: IpAddr) -> Option<u16> {
    match address {
        IpAddr::V4(v4) => match v4.octets() {
            [198, 18, n @ 1..=250, _] => Some(n.into()),
            [198, 19, n @ 0..=127, _] => Some(FIRST_BLOCK as u16 + 1 + u16::from(n)),
            _ => None,
        },
        IpAddr::V6(v6) => match v6.segments() {
            [0x2001, 0xdb8, n, ..] if (1..=MAX_SITES).contains(&n.into()) => Some(n),
            _ => None,
        },
    }
}

/// The IPv4 address of the router with this number, from 0 to [`MAX_ROUTERS`].
pub fn router_v4(number: u16) -> Ipv4Addr {
    Ipv4Addr::new(198, 19, 0x80 | (number & 0x7f) as u8, 1 + (number >> 7) as u8)
}

/// The IPv6 address of the router with this number.
pub fn router_v6(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, ROUTERS_V6 | number, 0, 0, 0, 0, 1)
}

/// The number of the router with this address, whether or not there is one.
pub fn router_number(address: IpAddr) -> Option<u16> {
    match address {
        IpAddr::V4(v4) => match v4.octets() {
            [198, 19, network @ 0x80..=0xff, host @ 1..=254] => {
                Some(u16::from(host - 1) << 7 | u16::from(network & 0x7f))
            }
            _ => None,
        },
        IpAddr::V6(v6) => match v6.segments() {
            [0x2001, 0xdb8, n @ ROUTERS_V6..=0xffff, 0, 0, 0, 0, 1] if usize::from(n & !ROUTERS_V6) < MAX_ROUTERS => {
                Some(n & !ROUTERS_V6)
            }
            _ => None,
        },
    }
}

/// The networks of routers are those from here on.
const ROUTERS_V6: u16 = 0x8000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_site_and_router_is_found_by_its_addresses() {
        for n in 1..=MAX_SITES as u16 {
            assert_eq!((site_number(site_v4(n).into()), site_number(site_v6(n).into())), (Some(n), Some(n)));
            assert_eq!(router_number(site_v4(n).into()), None);
        }
        for n in 0..MAX_ROUTERS as u16 {
            assert_eq!((router_number(router_v4(n).into()), router_number(router_v6(n).into())), (Some(n), Some(n)));
            assert_eq!(site_number(router_v4(n).into()), None);
        }
        assert_eq!(site_v4(251), Ipv4Addr::new(198, 19, 0, 1));
        for elsewhere in
            ["198.18.0.1", "198.18.251.1", "10.0.0.1", "2001:db8::1", "2001:db9:1::1", "198.19.128.0", "::1"]
        {
            let elsewhere = elsewhere.parse().unwrap();
            assert_eq!((site_number(elsewhere), router_number(elsewhere)), (None, None), "{elsewhere}");
        }
    }
}
