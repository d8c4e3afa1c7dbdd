//! The address at which others reach this node, and those of the nodes it joins by.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::{Context as _, bail};

use crate::config::{Contact, DshtNode};

/// Whoever answers to these names now.
///
/// One name that does not resolve is a warning; if none does, the node could never join, and that is an error.
pub(crate) async fn look_up(seeds: &[Contact]) -> anyhow::Result<Vec<SocketAddr>> {
    let mut found = Vec::new();
    for seed in seeds {
        match tokio::net::lookup_host(seed.as_str()).await {
            Ok(addrs) => found.extend(addrs),
            Err(e) => tracing::warn!("the seed {} cannot be looked up: {e}", seed.as_str()),
        }
    }
    if found.is_empty() && !seeds.is_empty() {
        let names: Vec<&str> = seeds.iter().map(Contact::as_str).collect();
        bail!("none of the seeds can be looked up (`dsht.seeds`, --seed): {}", names.join(", "));
    }
    Ok(found)
}

/// The address to advertise: as configured, else the one listened at, else the one this machine would speak from.
pub(crate) fn advertised(config: &DshtNode, seeds: &[SocketAddr]) -> anyhow::Result<IpAddr> {
    if let Some(ip) = config.address {
        if ip.is_unspecified() || ip.is_multicast() {
            bail!("`dsht.address` is {ip}, at which nobody can be reached; give this node's own public address");
        }
        return Ok(ip);
    }
    let listen = config.listen.ip();
    if !listen.is_unspecified() {
        return Ok(listen);
    }
    let towards = seeds.iter().copied().find(|seed| seed.is_ipv4() == listen.is_ipv4());
    let ip = route_source(towards.unwrap_or(elsewhere(listen))).with_context(|| {
        format!(
            "the index listens at {}, so that this node's own address has to be found, and this machine has no route \
             outwards to tell it: give it with --set dsht.address=ADDRESS, or listen at one address",
            config.listen
        )
    })?;
    if is_private(ip) && towards.is_none_or(|seed| !is_private(seed.ip())) {
        tracing::warn!(
            "this machine speaks from {ip}, which the public Internet cannot reach; if it stands behind address \
             translation, give its public address as `dsht.address`"
        );
    }
    Ok(ip)
}

/// The source address of a datagram to `towards`. Connecting a UDP socket asks the routing table and sends nothing.
fn route_source(towards: SocketAddr) -> std::io::Result<IpAddr> {
    let any: IpAddr = match towards {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(towards)?;
    Ok(socket.local_addr()?.ip())
}

/// Somewhere in the Internet: an address of the documentation ranges (RFC 5737, RFC 3849), which the default route has.
fn elsewhere(like: IpAddr) -> SocketAddr {
    match like {
        IpAddr::V4(_) => SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 4160)),
        IpAddr::V6(_) => SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 4160)),
    }
}

pub(crate) fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(listen: &str, address: Option<&str>) -> DshtNode {
        let address = address.map(|ip| ip.parse().unwrap());
        DshtNode { listen: listen.parse().unwrap(), address, ..DshtNode::default() }
    }

    #[test]
    fn what_is_configured_counts_most_then_what_is_listened_at() {
        let configured = advertised(&listening("127.0.0.1:0", Some("192.0.2.7")), &[]).unwrap();
        assert_eq!(configured.to_string(), "192.0.2.7");
        let listened = advertised(&listening("127.0.0.3:0", None), &[]).unwrap();
        assert_eq!(listened.to_string(), "127.0.0.3");
    }

    #[test]
    fn a_wildcard_is_resolved_towards_the_seed() {
        let seed = "127.0.0.9:4160".parse().unwrap();
        let ip = advertised(&listening("0.0.0.0:0", None), &[seed]).unwrap();
        assert!(ip.is_loopback(), "{ip}");
    }

    #[test]
    fn nobody_is_reached_at_a_wildcard() {
        let e = advertised(&listening("127.0.0.1:0", Some("0.0.0.0")), &[]).unwrap_err();
        assert!(e.to_string().contains("dsht.address"), "{e}");
    }

    #[tokio::test]
    async fn a_seed_that_is_an_address_needs_no_resolver() {
        let seed: Contact = "127.0.0.1:4160".parse().unwrap();
        assert_eq!(look_up(&[seed]).await.unwrap(), ["127.0.0.1:4160".parse().unwrap()]);
    }
}
