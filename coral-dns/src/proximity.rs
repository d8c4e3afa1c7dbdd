//! How near a client is: whom to measure, and which level a round-trip time means [C04 §3.1]. Values in, values out.
//!
//! The client is the address that asked or, when the query carries one, its EDNS Client Subnet (RFC 7871). Measuring is
//! the business of [`crate::probe`].

use std::net::IpAddr;
use std::time::Duration;

use coral_dsht::Level;
use ipnetwork::IpNetwork;

/// Bits of the prefix that clients share a measurement by: networks are seldom split further between places, and the
/// RFC advises not to keep finer data (RFC 7871 §11.1).
pub const PREFIX_BITS_V4: u8 = 24;
/// The same for IPv6.
pub const PREFIX_BITS_V6: u8 = 48;

/// The network part of the client's address that a resolver has told (RFC 7871 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    address: IpAddr,
    source_bits: u8,
}

/// The option breaks its own rules, which makes the query malformed (RFC 7871 §7.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a client subnet with a scope, with too many bits, or with bits set beyond its prefix")]
pub struct MalformedSubnet;

impl Subnet {
    /// The option's fields, checked. In a query the scope is zero (RFC 7871 §6), and so are bits beyond the prefix.
    pub fn new(address: IpAddr, source_bits: u8, scope_bits: u8) -> Result<Self, MalformedSubnet> {
        let network = IpNetwork::new(address, source_bits).map_err(|_| MalformedSubnet)?;
        if scope_bits != 0 || network.network() != address {
            return Err(MalformedSubnet);
        }
        Ok(Self { address, source_bits })
    }
}

/// Whom to measure for a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Those who share the measurement.
    pub prefix: IpNetwork,
    /// An address within it to probe.
    pub address: IpAddr,
    /// Whether the client subnet was used, and so whether an answer holds for that subnet alone.
    pub by_subnet: bool,
}

/// A prefix as a number, to look up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrefixKey(u64);

impl PrefixKey {
    /// The prefix that it is the key of.
    pub fn prefix(self) -> IpNetwork {
        let (bits, network) = ((self.0 >> 48 & 0x7f) as u8, self.0 & 0xffff_ffff_ffff);
        let ip = match self.0 >> 63 {
            0 => IpAddr::V4(((network as u32) << (32 - PREFIX_BITS_V4)).into()),
            _ => IpAddr::V6((u128::from(network) << (128 - PREFIX_BITS_V6)).into()),
        };
        prefix(ip, bits)
    }
}

impl Client {
    /// The key of its prefix: family, length and the prefix itself, of 48 bits at most.
    pub fn key(&self) -> PrefixKey {
        let (family, network) = match self.prefix.network() {
            IpAddr::V4(ip) => (0, u64::from(u32::from(ip)) >> (32 - PREFIX_BITS_V4)),
            IpAddr::V6(ip) => (1, (u128::from(ip) >> (128 - PREFIX_BITS_V6)) as u64),
        };
        PrefixKey(family << 63 | u64::from(self.prefix.prefix()) << 48 | network)
    }

    /// A client of which its network is all that is known, cut to /24 or /48.
    pub fn of(network: IpNetwork) -> Self {
        Self { prefix: prefix(network.ip(), network.prefix()), address: network.ip(), by_subnet: false }
    }

    /// The client behind a query that came from `source` with `subnet`.
    ///
    /// A subnet without bits says nothing on purpose (RFC 7871 §7.1.2). One in private or loopback space means nothing to
    /// us, unless we were asked from such an address ourselves (RFC 7871 §11.2): then the query's source counts.
    pub fn new(source: IpAddr, subnet: Option<Subnet>) -> Self {
        let source = source.to_canonical();
        let told = subnet.filter(|subnet| {
            let reachable = is_unicast(subnet.address) && (!is_local(subnet.address) || is_local(source));
            subnet.source_bits > 0 && reachable
        });
        match told {
            Some(subnet) => Self {
                prefix: prefix(subnet.address, subnet.source_bits),
                address: first_host(subnet),
                by_subnet: true,
            },
            None => Self { prefix: prefix(source, u8::MAX), address: source, by_subnet: false },
        }
    }
}

/// The level of a client that is `rtt` away: the nearest one within whose diameter it is. Without a measurement, global.
///
/// `levels` are this node's, each with its diameter; the global one has none.
pub fn level(rtt: Option<Duration>, levels: impl IntoIterator<Item = (Level, Option<Duration>)>) -> Level {
    let Some(rtt) = rtt else {
        return Level::GLOBAL;
    };
    let within = levels.into_iter().filter(|(_, diameter)| diameter.is_some_and(|diameter| rtt < diameter));
    within.map(|(level, _)| level).max().unwrap_or(Level::GLOBAL)
}

/// The prefix of `address` by which it is measured, with at most `bits`.
fn prefix(address: IpAddr, bits: u8) -> IpNetwork {
    let most = match address {
        IpAddr::V4(_) => PREFIX_BITS_V4,
        IpAddr::V6(_) => PREFIX_BITS_V6,
    };
    let network = |bits| IpNetwork::new(address, bits).expect("a prefix of at most 24 or 48 bits");
    // A second time, so that the bits beyond the prefix are zero and equal prefixes compare as equal.
    let bits = bits.min(most);
    IpNetwork::new(network(bits).network(), bits).expect("the same prefix again")
}

/// An address to probe within a subnet: itself when it is whole, else its first host, often a router of that network.
fn first_host(subnet: Subnet) -> IpAddr {
    match subnet.address {
        IpAddr::V4(ip) if subnet.source_bits < 32 => IpAddr::V4((u32::from(ip) | 1).into()),
        IpAddr::V6(ip) if subnet.source_bits < 128 => IpAddr::V6((u128::from(ip) | 1).into()),
        whole => whole,
    }
}

/// Whether a host can have this address.
pub fn is_unicast(address: IpAddr) -> bool {
    let broadcast =
        matches!(address, IpAddr::V4(ip) if ip.is_broadcast() || ip.octets()[0] == 0 || ip.octets()[0] >= 240);
    !(address.is_unspecified() || address.is_multicast() || broadcast)
}

/// Whether the address means something only within a host or a site.
fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use coral_dsht::Prefix;
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn level_at(milliseconds: u64) -> u8 {
        let diameters = [(0, None), (1, Some(60)), (2, Some(20))];
        let levels = diameters.map(|(number, ms)| (Level::new(number).unwrap(), ms.map(Duration::from_millis)));
        level(Some(Duration::from_millis(milliseconds)), levels).number()
    }

    #[test]
    fn a_client_is_in_the_nearest_level_whose_diameter_it_is_within() {
        assert_eq!([0, 19, 20, 59, 60, 5_000].map(level_at), [2, 2, 1, 1, 0, 0]);
        assert_eq!(level(None, [(Level::GLOBAL, None)]), Level::GLOBAL);
    }

    #[test]
    fn clients_of_one_prefix_share_a_measurement() {
        let one = Client::new(ip("192.0.2.7"), None);
        assert_eq!(one.prefix, Client::new(ip("::ffff:192.0.2.200"), None).prefix);
        assert_eq!(one.prefix.to_string(), "192.0.2.0/24");
        assert_eq!(Client::new(ip("2001:db8:1:2::3"), None).prefix.to_string(), "2001:db8:1::/48");
    }

    #[test]
    fn a_subnet_stands_for_the_client_behind_the_resolver() {
        let client = Client::new(ip("192.0.2.7"), Some(Subnet::new(ip("198.51.100.0"), 24, 0).unwrap()));
        assert_eq!((client.address, client.by_subnet), (ip("198.51.100.1"), true));
        assert_eq!(client.prefix.to_string(), "198.51.100.0/24");
        let whole = Client::new(ip("192.0.2.7"), Some(Subnet::new(ip("198.51.100.9"), 32, 0).unwrap()));
        assert_eq!(whole.address, ip("198.51.100.9"));
        let short = Client::new(ip("192.0.2.7"), Some(Subnet::new(ip("198.0.0.0"), 8, 0).unwrap()));
        assert_eq!(short.prefix.to_string(), "198.0.0.0/8");
    }

    #[test]
    fn a_subnet_that_says_nothing_leaves_the_resolver_as_the_client() {
        for (address, bits) in [("0.0.0.0", 0), ("10.0.0.0", 24), ("127.0.0.1", 32), ("224.0.0.0", 24), ("fd00::", 48)]
        {
            let client = Client::new(ip("192.0.2.7"), Some(Subnet::new(ip(address), bits, 0).unwrap()));
            assert_eq!(client, Client::new(ip("192.0.2.7"), None), "{address}/{bits}");
        }
        let near = Client::new(ip("127.0.0.1"), Some(Subnet::new(ip("127.0.0.9"), 32, 0).unwrap()));
        assert_eq!(near.address, ip("127.0.0.9"));
    }

    #[test]
    fn a_subnet_that_breaks_its_rules_is_refused() {
        for (address, source, scope) in
            [("192.0.2.1", 24, 0), ("192.0.2.0", 33, 0), ("192.0.2.0", 24, 24), ("::", 129, 0)]
        {
            assert_eq!(Subnet::new(ip(address), source, scope), Err(MalformedSubnet), "{address}/{source}/{scope}");
        }
    }

    proptest! {
        #[test]
        fn any_client_has_a_prefix_that_it_is_in(source: IpAddr, address: IpAddr, bits: u8) {
            let client = Client::new(source, Subnet::new(address, bits, 0).ok());
            prop_assert!(client.prefix.contains(client.address));
            prop_assert_eq!(client.prefix.network(), client.prefix.ip());
        }

        #[test]
        fn prefixes_are_one_if_their_keys_are(one: u16, other: u16, bits in 1_u8..17) {
            let client = |number: u16| {
                let address = IpAddr::V4(((u32::from(number) << 16) & u32::MAX << (32 - bits)).into());
                Client::new(ip("192.0.2.1"), Subnet::new(address, bits, 0).ok())
            };
            let (one, other) = (client(one), client(other));
            prop_assert_eq!(one.prefix == other.prefix, one.key() == other.key());
            prop_assert_eq!(Prefix::of(one.address).first(), Client::new(one.address, None).prefix.ip());
        }
    }

    #[test]
    fn a_key_is_that_of_its_prefix_alone() {
        for prefix in
            ["0.0.0.0/1", "192.0.2.0/24", "10.1.0.0/16", "255.255.255.0/24", "2001:db8::/32", "ffff:ffff:ffff::/48"]
        {
            let network: IpNetwork = prefix.parse().unwrap();
            assert_eq!(Client::of(network).key().prefix(), network, "{prefix}");
        }
    }
}
