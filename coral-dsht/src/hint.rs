//! Hints: where a node says that it is near an address, and where others look for that [C04 §4.4, §3.1].
//!
//! A hint is a node's address, stored under the keys of its own network and of the routers in front of it. A newcomer
//! behind the same routers finds it there, and with it its clusters; so does a nameserver whose client is. Anybody can
//! store itself there: whoever follows a hint asks the node itself first. Finding out which routers there are is left
//! to others.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::api::Value;
use crate::id::{Id, Key};
use crate::peer::Prefix;

/// How long a hint lives; it is renewed halfway.
pub const TTL: Duration = Duration::from_secs(60 * 60);

/// The most routers that hints are stored under, or looked up by: beyond the fifth, everybody shares them [C04 §4.4].
pub const MAX_ROUTERS: usize = 5;

/// The keys of an address's hints, the nearest first: its own network, then each of the last routers in front of it, which
/// `routers` has nearest first, and its network.
///
/// Routers with private addresses are passed over, as every second network has one at 192.168.0.1.
pub fn keys(addr: IpAddr, routers: &[IpAddr]) -> Vec<Key> {
    let mut keys = vec![network(addr)];
    for at in routers.iter().filter(|at| is_public(**at)).take(MAX_ROUTERS) {
        for key in [router(*at), network(*at)] {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    keys
}

/// The key of the network of `addr`: its IPv4 /24 or IPv6 /48. An IPv4 address may be written as an IPv6 one.
pub fn network(addr: IpAddr) -> Key {
    Id::hash(&[b"network", Prefix::of(addr).as_bytes()])
}

/// The key of the router at `addr`.
pub fn router(addr: IpAddr) -> Key {
    match addr.to_canonical() {
        IpAddr::V4(addr) => Id::hash(&[b"router", &addr.octets()]),
        IpAddr::V6(addr) => Id::hash(&[b"router", &addr.octets()]),
    }
}

/// The hint that names the node at `addr`. It is stored for no other node.
pub fn value(addr: SocketAddr) -> Value {
    Value::naming(NODE, addr)
}

/// The node that a hint names; `None` if it is none.
pub fn node(value: &Value) -> Option<SocketAddr> {
    let (kind, addr) = value.named()?;
    let is_possible = addr.port() != 0 && !addr.ip().is_unspecified() && !addr.ip().is_multicast();
    (kind == NODE && is_possible).then_some(addr)
}

/// What a hint names.
const NODE: u8 = b'n';

/// Whether an address stands for one place: private ones are used in many, and are passed over.
pub fn is_public(addr: IpAddr) -> bool {
    match addr.to_canonical() {
        IpAddr::V4(addr) => {
            let is_shared = addr.octets()[0] == 100 && addr.octets()[1] & 0xc0 == 64; // RFC 6598
            !addr.is_private() && !addr.is_loopback() && !addr.is_link_local() && !addr.is_unspecified() && !is_shared
        }
        // Global unicast is 2000::/3.
        IpAddr::V6(addr) => addr.octets()[0] & 0xe0 == 0x20,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_of_one_network_share_a_key() {
        assert_eq!(network(ip("192.0.2.1")), network(ip("192.0.2.254")));
        assert_eq!(network(ip("192.0.2.1")), network(ip("::ffff:192.0.2.9")));
        assert_ne!(network(ip("192.0.2.1")), network(ip("192.0.3.1")));
        assert_eq!(network(ip("2001:db8:1:2::3")), network(ip("2001:db8:1:4::5")));
        assert_ne!(network(ip("2001:db8:1::")), network(ip("2001:db8:2::")));
        assert_ne!(network(ip("192.0.2.1")), router(ip("192.0.2.1")));
    }

    #[test]
    fn keys_come_nearest_first_and_each_once() {
        let (client, first, second) = (ip("192.0.2.7"), ip("192.0.2.1"), ip("198.51.100.1"));
        let expected = [network(client), router(first), router(second), network(second)];
        assert_eq!(keys(client, &[first, second]), expected);
        assert_eq!(keys(client, &[ip("192.168.0.1"), ip("fe80::1"), ip("100.64.0.1")]), [network(client)]);
        let many: Vec<IpAddr> = (0..20).map(|number| ip(&format!("203.0.{number}.1"))).collect();
        assert_eq!(keys(client, &many).len(), 1 + 2 * MAX_ROUTERS);
    }

    #[test]
    fn a_hint_comes_back_and_anything_else_is_none() {
        for addr in ["192.0.2.1:4160", "[2001:db8::1]:80"] {
            let addr: SocketAddr = addr.parse().unwrap();
            assert_eq!(node(&value(addr)), Some(addr));
        }
        for junk in [&b""[..], b"x", b"192.0.2.1:80", &[192, 0, 2, 1, 0, 0], &[0, 0, 0, 0, 0, 80], &[7; 17]] {
            assert_eq!(node(&Value::new(junk).unwrap()), None);
        }
    }
}
