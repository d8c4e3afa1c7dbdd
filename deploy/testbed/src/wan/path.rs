//! Which routers a packet passes: what traceroute shows.
//!
//! Each region has a *gateway*, the router that its hosts have in common, and a *border* router; between each two
//! regions stands a *core* router. None of them exists but as an address that answers. Hints gather
//! hosts under the first routers of their traces, so that hosts of one region share two, and of different ones none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::map::address;

/// All routers of a map, by how many regions it has.
#[derive(Debug, Clone, Copy)]
pub struct Routers {
    regions: usize,
}

/// One router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Router {
    /// The first router from all hosts of this region.
    Gateway(usize),
    /// The last router of this region on the way to others.
    Border(usize),
    /// The router between these two regions, the lower first.
    Core(usize, usize),
}

/// A router on a way, and how far along it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// Which.
    pub router: Router,
    /// What a packet takes to come here.
    pub after: Duration,
}

impl Routers {
    /// Those between so many regions.
    pub fn new(regions: usize) -> Self {
        Self { regions }
    }

    /// The routers from a host of one region to a host of another, or of the same, in order; the whole way takes `delay`.
    pub fn path(&self, from: usize, to: usize, delay: Duration) -> impl Iterator<Item = Hop> {
        let (gateway, border) = (TO_GATEWAY.min(delay / 8), TO_BORDER.min(delay / 4));
        let beyond = [
            (Router::Core(from.min(to), from.max(to)), delay / 2),
            (Router::Border(to), delay - border),
            (Router::Gateway(to), delay - gateway),
        ];
        let own = [(Router::Gateway(from), gateway), (Router::Border(from), border)];
        let path = own.into_iter().chain(beyond).take(Self::hops(from, to).into());
        path.map(|(router, after)| Hop { router, after })
    }

    /// How many routers [`Routers::path`] has.
    pub fn hops(from: usize, to: usize) -> u8 {
        if from == to { WITHIN } else { BETWEEN }
    }

    /// The addresses of a router.
    pub fn addresses(&self, router: Router) -> (Ipv4Addr, Ipv6Addr) {
        let number = match router {
            Router::Gateway(region) => 2 * region,
            Router::Border(region) => 2 * region + 1,
            // After the regions' own: the upper triangle, row by row.
            Router::Core(a, b) => 2 * self.regions + a * (2 * self.regions - a - 1) / 2 + b - a - 1,
        };
        let number = u16::try_from(number).expect("a map has no more routers than addresses");
        (address::router_v4(number), address::router_v6(number))
    }

    /// The router that has this address.
    pub fn at(&self, address: IpAddr) -> Option<Router> {
        let number = usize::from(address::router_number(address)?);
        if number < 2 * self.regions {
            let region = number / 2;
            return Some(if number % 2 == 0 { Router::Gateway(region) } else { Router::Border(region) });
        }
        let mut index = number - 2 * self.regions;
        for a in 0..self.regions {
            let row = self.regions - a - 1;
            if index < row {
                return Some(Router::Core(a, a + 1 + index));
            }
            index -= row;
        }
        None
    }
}

impl Router {
    /// A region on whose way from `from` this router stands, if there is one.
    ///
    /// A core router between two other regions is on no way from here.
    pub fn seen_towards(self, from: usize) -> Option<usize> {
        match self {
            Self::Gateway(region) | Self::Border(region) => Some(region),
            Self::Core(a, b) if a == from => Some(b),
            Self::Core(a, b) if b == from => Some(a),
            Self::Core(..) => None,
        }
    }
}

/// Routers on the way between two hosts of a region.
const WITHIN: u8 = 2;
/// Routers on the way between regions.
const BETWEEN: u8 = 5;
/// How far a host's gateway is, one way, unless its peer is nearer still.
const TO_GATEWAY: Duration = Duration::from_micros(250);
/// How far a region's border is.
const TO_BORDER: Duration = Duration::from_micros(500);

#[cfg(test)]
mod tests {
    use coral_dns::probe::trace::{self, Reached, Trace};
    use coral_dns::probe::way::Way;
    use coral_dsht::hint;

    use super::*;

    #[test]
    fn ways_between_regions_have_five_routers_and_ways_within_one_have_two() {
        let routers = Routers::new(4);
        let path = |from, to, millis| {
            let hops = routers.path(from, to, Duration::from_millis(millis));
            hops.map(|hop| format!("{:?} {:?}", hop.router, hop.after)).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(
            path(3, 1, 40),
            "Gateway(3) 250µs, Border(3) 500µs, Core(1, 3) 20ms, Border(1) 39.5ms, Gateway(1) 39.75ms"
        );
        assert_eq!(path(2, 2, 1), "Gateway(2) 125µs, Border(2) 250µs");
        assert_eq!((Routers::hops(3, 1), Routers::hops(2, 2)), (5, 2));
    }

    /// What a trace over this model shows, in the form of coral-dns.
    fn trace(routers: &Routers, from: usize, to: usize, is_v6: bool) -> Trace {
        let delay = Duration::from_millis(40);
        let address = |router| match routers.addresses(router) {
            (_, v6) if is_v6 => v6.into(),
            (v4, _) => v4.into(),
        };
        let hops = (1..).zip(routers.path(from, to, delay));
        Trace {
            destination: [198, 18, 1, 1].into(),
            hops: hops.map(|(ttl, hop)| trace::Hop { ttl, addr: address(hop.router), rtt: 2 * hop.after }).collect(),
            reached: Some(Reached { distance: Routers::hops(from, to) + 1, rtt: 2 * delay }),
        }
    }

    #[test]
    fn the_last_routers_of_a_client_are_the_first_of_a_node_in_its_region_and_of_no_other() {
        let routers = Routers::new(5);
        let client: [IpAddr; 2] = [[198, 18, 9, 1].into(), [0x2001, 0xdb8, 9, 0, 0, 0, 0, 1].into()];
        for (is_v6, from, there) in [false, true].iter().flat_map(|is_v6| {
            (0..5).flat_map(move |from| (0..5).map(move |there| (*is_v6, from, there))).filter(|(_, a, b)| a != b)
        }) {
            let way = Way::of(&trace(&routers, from, there, is_v6));
            let wanted = hint::keys(client[usize::from(is_v6)], &way.routers);
            for node in 0..5 {
                // What all ways outwards have in common.
                let ways = (0..5).filter(|to| *to != node).map(|to| trace(&routers, node, to, is_v6));
                let first: Vec<Vec<IpAddr>> =
                    ways.map(|way| way.hops.iter().take(2).map(|hop| hop.addr).collect()).collect();
                assert!(first.windows(2).all(|two| two[0] == two[1]));
                let node_at: IpAddr =
                    if is_v6 { [0x2001, 0xdb8, 7, 0, 0, 0, 0, 1].into() } else { [198, 18, 7, 1].into() };
                let hints = hint::keys(node_at, &first[0]);
                let meet = wanted.iter().any(|key| hints.contains(key));
                assert_eq!(meet, node == there, "{is_v6} {from} {there} {node}");
            }
        }
    }

    #[test]
    fn every_router_is_found_by_both_of_its_addresses() {
        for regions in [1, 2, 5, 180] {
            let routers = Routers::new(regions);
            let own = (0..regions).flat_map(|r| [Router::Gateway(r), Router::Border(r)]);
            let core = (0..regions).flat_map(|a| (a + 1..regions).map(move |b| Router::Core(a, b)));
            let mut count = 0;
            for router in own.chain(core) {
                let (v4, v6) = routers.addresses(router);
                assert_eq!((routers.at(v4.into()), routers.at(v6.into())), (Some(router), Some(router)));
                count += 1;
            }
            assert_eq!(routers.at(address::router_v4(count).into()), None);
        }
    }
}
