//! The zones of the root's server, in the form of RFC 1035 §5, and the configuration of that server (NSD).

use std::net::IpAddr;

use coral_dns::Suffix;
use coral_dns::name::nameserver_name;

use super::{ORIGIN, SUFFIX};
use crate::map::{Map, Site};

/// How many nodes the suffix zone is delegated to.
const REGISTERED: usize = 3;

/// The file with the root's address, for resolvers.
pub const ROOT_HINTS: &str = "root.hints";

/// The nodes that the suffix zone is delegated to: of as many regions as there are, the first of each.
pub fn registered(map: &Map) -> Vec<&Site> {
    let is_first = |site: &&Site| map.nodes().find(|other| other.region == site.region) == Some(*site);
    let (first, others): (Vec<&Site>, Vec<&Site>) = map.nodes().partition(is_first);
    first.into_iter().chain(others).take(REGISTERED).collect()
}

/// The one name server that resolvers know of when they start.
pub fn root_hints(map: &Map) -> String {
    format!(
        ".                     3600000 NS a.root-servers.net.\na.root-servers.net.   3600000 A  {}\n",
        map.root().ipv4
    )
}

/// Each zone's name and text.
pub fn zones(map: &Map) -> Vec<(&'static str, String)> {
    let root = map.root().ipv4;
    let mut net = zone(
        "net",
        &format!(
            "a.gtld-servers.net.   A  {root}\n\
             a.root-servers.net.   A  {root}\n\
             \n\
             ; The suffix zone, as its owner has registered it. The names are those that the nodes themselves give; the time is\n\
             ; short, since no resolver asks here again before it is over, though all three be gone.\n"
        ),
    );
    let suffix: Suffix = SUFFIX.parse().expect("a suffix by its own rules");
    for node in registered(map) {
        let name = nameserver_name(IpAddr::V4(node.ipv4), &suffix);
        net += &format!("{SUFFIX}. 300 NS {name}.\n{name}. 300 A {}\n", node.ipv4);
    }
    let delegations = format!(
        "net.                  NS a.gtld-servers.net.\n\
         com.                  NS a.gtld-servers.net.\n\
         a.gtld-servers.net.   A  {root}\n\
         a.root-servers.net.   A  {root}\n"
    );
    let com = format!("x.com.                NS ns.x.com.\nns.x.com.             A  {root}\n");
    let origin = format!("ns.x.com.             A  {root}\n{ORIGIN}.            A  {}\n", map.origin().ipv4);
    vec![(".", zone(".", &delegations)), ("net", net), ("com", zone("com", &com)), ("x.com", zone("x.com", &origin))]
}

/// A zone with these records besides those at its top.
fn zone(name: &str, records: &str) -> String {
    let (origin, server) = match name {
        "." => (".".to_owned(), "a.root-servers.net."),
        "x.com" => ("x.com.".to_owned(), "ns.x.com."),
        tld => (format!("{tld}."), "a.gtld-servers.net."),
    };
    format!(
        "$TTL 86400\n\
         {origin} SOA {server} hostmaster.{server} 1 1800 900 604800 60\n\
         {origin} NS {server}\n\
         \n\
         {records}"
    )
}

/// The configuration of the root's server, whose zones are in `directory`.
pub fn server(map: &Map, directory: &str) -> String {
    let mut text = format!(
        "server:\n  \
           ip-address: {}\n  \
           server-count: 1\n  \
           zonesdir: \"{directory}\"\n  \
           database: \"\"\n  \
           pidfile: \"\"\n  \
           xfrdfile: \"\"\n  \
           zonelistfile: \"/run/nsd.list\"\n  \
           username: nsd\n\
         remote-control:\n  \
           control-enable: no\n",
        map.root().ipv4
    );
    for (name, _) in zones(map) {
        text += &format!("zone:\n  name: \"{name}\"\n  zonefile: \"{}\"\n", file(name));
    }
    text
}

/// The file of a zone.
pub fn file(zone: &str) -> String {
    match zone {
        "." => "root.zone".to_owned(),
        name => format!("{name}.zone"),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn the_suffix_zone_is_delegated_to_nodes_of_different_regions() {
        let map = Map::four_regions();
        let names: Vec<&str> = registered(&map).iter().map(|site| site.name.as_str()).collect();
        assert_eq!(names, ["frankfurt-1", "madrid-1", "virginia-1"]);
        let one_region = Map::parse(
            "[[region]]\nname = \"here\"\nnodes = 2\nwithin = \"5ms\"\n[origin]\nregion = \"here\"\n[root]\nregion = \"here\"\n",
            "map.toml",
        );
        let one_region = one_region.unwrap();
        let names: Vec<&str> = registered(&one_region).iter().map(|site| site.name.as_str()).collect();
        assert_eq!(names, ["here-1", "here-2"]);
    }

    #[test]
    fn net_has_the_delegation_with_its_addresses() {
        let zones = zones(&Map::four_regions());
        let (_, net) = zones.iter().find(|(name, _)| *name == "net").unwrap();
        expect![[r#"
            $TTL 86400
            net. SOA a.gtld-servers.net. hostmaster.a.gtld-servers.net. 1 1800 900 604800 60
            net. NS a.gtld-servers.net.

            a.gtld-servers.net.   A  198.18.14.1
            a.root-servers.net.   A  198.18.14.1

            ; The suffix zone, as its owner has registered it. The names are those that the nodes themselves give; the time is
            ; short, since no resolver asks here again before it is over, though all three be gone.
            nyud.net. 300 NS ip4-198-18-1-1.ns.nyud.net.
            ip4-198-18-1-1.ns.nyud.net. 300 A 198.18.1.1
            nyud.net. 300 NS ip4-198-18-4-1.ns.nyud.net.
            ip4-198-18-4-1.ns.nyud.net. 300 A 198.18.4.1
            nyud.net. 300 NS ip4-198-18-7-1.ns.nyud.net.
            ip4-198-18-7-1.ns.nyud.net. 300 A 198.18.7.1
        "#]]
        .assert_eq(net);
    }

    #[test]
    fn the_server_has_each_zone() {
        let map = Map::four_regions();
        let server = server(&map, "/etc/testbed");
        for (name, _) in zones(&map) {
            assert!(server.contains(&format!("zonefile: \"{}\"", file(name))), "{server}");
        }
    }
}
