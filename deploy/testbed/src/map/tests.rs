//! Tests of maps.

use expect_test::{Expect, expect};

use super::*;

const SMALL: &str = r#"
[[region]]
name = "east"
nodes = 2
within = "4ms"
clients = ["bind", "bind"]
[[region]]
name = "west"
nodes = 1
within = "10ms"
access = { up = "10 Mbit/s" }
[[distance]]
between = ["west", "east"]
rtt = "61ms"
loss = 0.01
[defaults]
jitter = "0.2ms"
[origin]
region = "west"
access = { up = "384 kbit/s", queue = "1s" }
[root]
region = "east"
"#;

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn a_map_has_its_sites_numbered_nodes_first() {
    let map = Map::parse(SMALL, "small").unwrap();
    let lines: Vec<String> = map
        .sites()
        .iter()
        .map(|s| format!("{} {} {} {} {} {}", s.number, s.name, s.kind, map.region_of(s).name, s.ipv4, s.ipv6))
        .collect();
    expect![[r#"
        1 east-1 node east 198.18.1.1 2001:db8:1::1
        2 east-2 node east 198.18.2.1 2001:db8:2::1
        3 west-1 node west 198.18.3.1 2001:db8:3::1
        4 origin origin west 198.18.4.1 2001:db8:4::1
        5 root root east 198.18.5.1 2001:db8:5::1
        6 east-bind client (bind) east 198.18.6.1 2001:db8:6::1
        7 east-bind-2 client (bind) east 198.18.7.1 2001:db8:7::1"#]]
    .assert_eq(&lines.join("\n"));
    assert_eq!(map.site_at("198.18.4.77".parse().unwrap()), Some(map.origin()));
    assert_eq!(map.site_at("2001:db8:5::9".parse().unwrap()), Some(map.root()));
    assert_eq!(map.site_at("198.18.8.1".parse().unwrap()), None);
}

#[test]
fn a_link_is_what_its_pair_says_and_else_the_defaults() {
    let map = Map::parse(SMALL, "small").unwrap();
    let link = |a, b| *map.link(map.site(a).unwrap(), map.site(b).unwrap());
    let far = Link { delay: Duration::from_micros(30_500), jitter: Duration::from_micros(200), loss: 0.01, rate: None };
    assert_eq!([link("east-1", "west-1"), link("origin", "east-bind")], [far, far]);
    let near = Link { delay: millis(2), loss: 0.0, ..far };
    assert_eq!([link("root", "east-2"), link("east-bind-2", "east-bind")], [near, near]);
    assert_eq!(link("west-1", "origin").rtt(), millis(10));
    let up: Rate = "10 Mbit/s".parse().unwrap();
    assert_eq!(map.site("west-1").unwrap().access, Access { up: Some(up), ..Access::default() });
    assert_eq!(map.origin().access.queue, millis(1000));
}

#[test]
fn the_default_map_has_near_and_far_regions() {
    let map = Map::four_regions();
    assert_eq!((map.nodes().count(), map.regions().len(), map.clients().count()), (12, 4, 4));
    expect![[r#"
        ┌────────────────────────────────────────────────────┐
        │ RTT in ms   frankfurt   madrid   virginia   dallas │
        ╞════════════════════════════════════════════════════╡
        │ frankfurt   6.0         32.0     88.0       118.0  │
        │ madrid      32.0        15.0     98.0       126.0  │
        │ virginia    88.0        98.0     4.0        34.0   │
        │ dallas      118.0       126.0    34.0       10.0   │
        └────────────────────────────────────────────────────┘"#]]
    .assert_eq(&map.describe_distances());
}

const PLANETLAB: &str = include_str!("../../maps/planetlab.toml");

#[test]
fn planetlab_sites_are_as_far_as_was_measured_and_near_ones_share_a_region() {
    use coral_dsht::sim::latency::between_sites;
    let map = Map::parse(PLANETLAB, "planetlab").unwrap();
    assert_eq!((map.nodes().count(), map.sites().len()), (40, 44));
    let place = |site: &Site| site.name.strip_prefix("node-").unwrap().parse::<usize>().unwrap();
    for a in map.nodes() {
        for b in map.nodes().filter(|b| b.number > a.number) {
            let measured = between_sites(place(a), place(b));
            assert_eq!(map.link(a, b).rtt(), measured);
            assert!(a.region != b.region || measured <= millis(3));
        }
    }
    assert_eq!(map, Map::parse(PLANETLAB, "planetlab").unwrap(), "the seed decides");
    let other = Map::parse(&PLANETLAB.replace("seed = 1", "seed = 2"), "planetlab").unwrap();
    assert_ne!(map, other);
}

#[test]
fn planetlab_places_can_be_chosen_one_by_one() {
    let map = Map::parse("planetlab = { places = [0, 489, 7] }", "places").unwrap();
    let names: Vec<_> = map.nodes().map(|site| site.name.as_str()).collect();
    assert_eq!(names, ["node-0", "node-489", "node-7"]);
    assert_eq!(map.sites().len(), 5);
}

#[test]
fn a_large_map_of_measured_places_fits_the_address_plan() {
    let map = Map::parse("planetlab = { sites = 250 }", "large").unwrap();
    assert_eq!(map.sites().len(), 252);
    assert_eq!(map.root().ipv4, Ipv4Addr::new(198, 19, 1, 1));
}

/// What the map is refused for, if `this` stands where `that` stood.
fn check(text: &str, that: &str, this: &str, message: Expect) {
    assert!(text.contains(that), "{that}");
    let error = Map::parse(&text.replacen(that, this, 1), "map.toml").unwrap_err().to_string();
    assert_eq!(error.lines().count(), 1);
    message.assert_eq(&error);
}

#[test]
fn what_cannot_be_read_is_told_with_its_line() {
    check(SMALL, "61ms", "-61ms", expect!["map.toml, line 14: `-61ms`: a time is not negative"]);
    check(SMALL, "61ms", "61", expect![[r#"map.toml, line 14: `61` is not a time such as "88ms" or "1.5ms""#]]);
    check(SMALL, "nodes = 2", "nodes = -2", expect!["map.toml, line 4: invalid value: integer `-2`, expected usize"]);
    check(
        SMALL,
        "nodes = 2",
        "nods = 2",
        expect![
            "map.toml, line 4: unknown field `nods`, expected one of `name`, `nodes`, `within`, `clients`, `access`, `client_access`"
        ],
    );
    check(
        SMALL,
        "\"bind\"",
        "\"dnsmasq\"",
        expect![
            "map.toml, line 6: unknown variant `dnsmasq`, expected one of `unbound`, `bind`, `knot-resolver`, `pdns-recursor`"
        ],
    );
    check(
        SMALL,
        "10 Mbit/s",
        "10 MB/s",
        expect![[r#"map.toml, line 11: `10 MB/s` is not a rate such as "384 kbit/s" or "100 Mbit/s""#]],
    );
    check(SMALL, "10 Mbit/s", "0 Mbit/s", expect!["map.toml, line 11: `0 Mbit/s`: a rate is more than zero"]);
    check(SMALL, "rtt = \"61ms\"", "", expect!["map.toml, line 12: missing field `rtt`"]);
    check(SMALL, "[[region]]", "[[region", expect!["map.toml, line 2: unclosed array table, expected `]]`"]);
}

#[test]
fn what_cannot_be_is_told_by_its_name() {
    check(SMALL, "61ms", "0ms", expect!["map.toml: distance west to east: rtt: a round trip takes more than 0"]);
    check(SMALL, "61ms", "11s", expect!["map.toml: distance west to east: rtt: 11s is more than 10s"]);
    check(
        SMALL,
        "\"4ms\"",
        "\"0s\"",
        expect!["map.toml: region east: `within` as rtt: a round trip takes more than 0"],
    );
    check(SMALL, "0.01", "1.5", expect!["map.toml: distance west to east: loss is 1.5, and is a share from 0 to 1"]);
    check(SMALL, "0.01", "nan", expect!["map.toml: distance west to east: loss is NaN, and is a share from 0 to 1"]);
    check(SMALL, "0.2ms", "20s", expect!["map.toml: [defaults]: jitter: 20s is more than 10s"]);
    check(SMALL, "\"1s\"", "\"1min\"", expect!["map.toml: [origin]: queue: 60s is more than 10s"]);
    check(
        SMALL,
        "\"west\", \"east\"",
        "\"west\", \"nord\"",
        expect!["map.toml: distance west to nord: there is no region nord"],
    );
    check(
        SMALL,
        "\"west\", \"east\"",
        "\"west\", \"west\"",
        expect!["map.toml: distance west to west: the distance inside a region is its `within`"],
    );
    check(
        SMALL,
        "[defaults]",
        "[[distance]]\nbetween=[\"east\",\"west\"]\nrtt=\"9ms\"\n[defaults]",
        expect!["map.toml: distance east to west: it is given twice"],
    );
    check(
        SMALL,
        "[defaults]",
        "[[region]]\nname=\"north\"\nwithin=\"9ms\"\n[defaults]",
        expect!["map.toml: the distance from east to north is missing"],
    );
    check(SMALL, "name = \"west\"", "name = \"east\"", expect!["map.toml: there are two regions named east"]);
    check(
        SMALL,
        "name = \"west\"",
        "name = \"The West\"",
        expect!["map.toml: region `The West`: a name is at most 30 lower case letters, digits and inner hyphens"],
    );
    check(
        SMALL,
        "nodes = 2",
        "nodes = 500",
        expect!["map.toml: a map has at most 378 sites: nodes, clients, origin and root"],
    );
    check(SMALL, "region = \"west\"", "", expect!["map.toml: [origin] with the `region` where it stands is missing"]);
    check(
        SMALL,
        "[root]\nregion = \"east\"",
        "[root]\nregion = \"moon\"",
        expect!["map.toml: [root]: there is no region moon"],
    );
    check(
        SMALL,
        "[defaults]",
        "[[region]]\nname=\"east-bind\"\nnodes=2\nwithin=\"9ms\"\n[[distance]]\nbetween=[\"east-bind\",\"east\"]\nrtt=\"9ms\"\n[[distance]]\nbetween=[\"east-bind\",\"west\"]\nrtt=\"9ms\"\n[defaults]",
        expect!["map.toml: a site and a region would be named east-bind: give the region another name"],
    );
    check(
        SMALL,
        "[defaults]",
        "[[region]]\nname=\"east-1\"\nwithin=\"9ms\"\n[[distance]]\nbetween=[\"east-1\",\"east\"]\nrtt=\"9ms\"\n[[distance]]\nbetween=[\"east-1\",\"west\"]\nrtt=\"9ms\"\n[defaults]",
        expect!["map.toml: a site and a region would be named east-1: give the region another name"],
    );
    check("#", "#", "", expect!["map.toml: there is no [[region]], and no [planetlab] either"]);
}

#[test]
fn measured_maps_have_mistakes_of_their_own() {
    let check = |text: &str, message: Expect| check("#", "#", text, message);
    check("planetlab = {}", expect!["map.toml: [planetlab]: say how many `sites`, or which `places`"]);
    check("planetlab = { sites = 0 }", expect!["map.toml: [planetlab]: a map has from 1 to 490 sites"]);
    check("planetlab = { sites = 491 }", expect!["map.toml: [planetlab]: a map has from 1 to 490 sites"]);
    check(
        "planetlab = { sites = 490 }",
        expect!["map.toml: a map has at most 378 sites: nodes, clients, origin and root"],
    );
    check("planetlab = { places = [490] }", expect!["map.toml: [planetlab]: there is no place 490, the last is 489"]);
    check("planetlab = { places = [3, 3] }", expect!["map.toml: [planetlab]: a place is named twice"]);
    check(
        "planetlab = { sites = 3 }\norigin = { region = \"x\" }",
        expect!["map.toml: [planetlab] has no regions to name: leave out `region` of [origin] and [root]"],
    );
}
