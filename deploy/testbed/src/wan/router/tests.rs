//! Tests of the router: packets in, packets out, and when.

use etherparse::PacketBuilder;
use expect_test::{Expect, expect};

use super::*;
use crate::map::Rate;
use crate::wan::control::{AccessChange, Limit, LinkChange};

const MAP: &str = r#"
region = [
    { name = "east", nodes = 2, within = "4ms" },
    { name = "west", nodes = 1, within = "10ms" },
    { name = "south", nodes = 1, within = "10ms" },
]
distance = [
    { between = ["east", "west"], rtt = "60ms" },
    { between = ["east", "south"], rtt = "100ms" },
    { between = ["west", "south"], rtt = "80ms" },
]
origin = { region = "south", access = { up = "1 Mbit/s", down = "1 Mbit/s", queue = "100ms" } }
root = { region = "west" }
"#;

/// A router with its map, and what of it there is to see.
struct Lab {
    map: Map,
    router: Router,
    now: Duration,
}

impl Lab {
    fn new() -> Self {
        let map = Map::parse(MAP, "map").unwrap();
        Self { router: Router::new(&map, 1), map, now: Duration::from_secs(1) }
    }

    fn index(&self, site: &str) -> usize {
        usize::from(self.map.site(site).unwrap().number) - 1
    }

    fn packet(&self, from: &str, to: IpAddr, hop_limit: u8, bytes: usize) -> Frame {
        let from = self.map.site(from).unwrap();
        let mut packet = Vec::new();
        let payload = vec![0; bytes.saturating_sub(if to.is_ipv4() { 28 } else { 48 })];
        match to {
            IpAddr::V4(to) => PacketBuilder::ipv4(from.ipv4.octets(), to.octets(), hop_limit),
            IpAddr::V6(to) => PacketBuilder::ipv6(from.ipv6.octets(), to.octets(), hop_limit),
        }
        .udp(1, 33_434)
        .write(&mut packet, &payload)
        .unwrap();
        Frame::of_packet(&packet)
    }

    /// Sends a datagram from one site to another.
    fn send(&mut self, from: &str, to: &str, hop_limit: u8, bytes: usize) {
        let to = self.map.site(to).unwrap().ipv4.into();
        self.send_to(from, to, hop_limit, bytes);
    }

    fn send_to(&mut self, from: &str, to: IpAddr, hop_limit: u8, bytes: usize) {
        let frame = self.packet(from, to, hop_limit, bytes);
        self.router.forward(self.now, self.index(from), frame);
    }

    /// What arrives from here on: after which time, where, from which address, of which protocol, with how many hops left.
    fn arrivals(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(due) = self.router.next_due() {
            while let Some(delivery) = self.router.poll(due) {
                let packet = delivery.frame.packet();
                let header = packet::header(packet).unwrap();
                let kind = match (packet[0] >> 4, packet[9], packet[6]) {
                    (4, 1, _) => format!("icmp {}.{}", packet[20], packet[21]),
                    (6, _, 58) => format!("icmp {}.{}", packet[40], packet[41]),
                    _ => "udp".to_owned(),
                };
                let site = &self.map.sites()[delivery.site].name;
                lines.push(format!(
                    "{:?}: {kind} from {} to {site}, {} hops left",
                    due - self.now,
                    header.source,
                    header.hop_limit
                ));
            }
        }
        lines
    }

    fn check(&mut self, expected: Expect) {
        expected.assert_eq(&self.arrivals().join("\n"));
    }

    fn counters(&self, from: &str, to: &str) -> Counters {
        self.router.pairs[self.index(from) * self.router.sites.len() + self.index(to)].counters
    }
}

#[test]
fn packets_arrive_after_half_the_round_trip_with_their_hops_spent() {
    let mut lab = Lab::new();
    lab.send("east-1", "west-1", 64, 100);
    lab.send("west-1", "east-1", 64, 100);
    lab.send("east-1", "east-2", 64, 100);
    let south = lab.map.site("south-1").unwrap().ipv6.into();
    lab.send_to("east-2", south, 64, 100);
    lab.check(expect![[r#"
        2ms: udp from 198.18.1.1 to east-2, 62 hops left
        30ms: udp from 198.18.1.1 to west-1, 59 hops left
        30ms: udp from 198.18.3.1 to east-1, 59 hops left
        50ms: udp from 2001:db8:2::1 to south-1, 59 hops left"#]]);
    assert_eq!(lab.counters("east-1", "west-1"), Counters { packets: 1, bytes: 100, ..Counters::default() });
    assert_eq!(lab.router.queued(), (0, 0));
}

#[test]
fn a_trace_shows_gateway_region_core_region_gateway() {
    let mut lab = Lab::new();
    for hop_limit in 1..=6 {
        lab.send("east-1", "west-1", hop_limit, 60);
    }
    lab.check(expect![[r#"
        500µs: icmp 11.0 from 198.19.128.1 to east-1, 64 hops left
        1ms: icmp 11.0 from 198.19.129.1 to east-1, 63 hops left
        30ms: icmp 11.0 from 198.19.134.1 to east-1, 62 hops left
        30ms: udp from 198.18.1.1 to west-1, 1 hops left
        59ms: icmp 11.0 from 198.19.131.1 to east-1, 61 hops left
        59.5ms: icmp 11.0 from 198.19.130.1 to east-1, 60 hops left"#]]);
    let near = lab.map.site("east-2").unwrap().ipv6.into();
    for hop_limit in 0..=3 {
        lab.send_to("east-1", near, hop_limit, 60);
    }
    lab.check(expect![[r#"
        500µs: icmp 3.0 from 2001:db8:8000::1 to east-1, 64 hops left
        500µs: icmp 3.0 from 2001:db8:8000::1 to east-1, 64 hops left
        1ms: icmp 3.0 from 2001:db8:8001::1 to east-1, 63 hops left
        2ms: udp from 2001:db8:1::1 to east-2, 1 hops left"#]]);
}

#[test]
fn routers_answer_for_themselves_and_for_where_nobody_is() {
    let mut lab = Lab::new();
    for (to, hop_limit) in [
        // The gateways here and there, a core on the way, one that is elsewhere, one that does not exist.
        ("198.19.128.1", 64),
        ("198.19.130.1", 64),
        ("198.19.134.1", 64),
        ("198.19.134.1", 2),
        ("198.19.136.1", 64),
        ("198.19.200.1", 64),
        // The own network, a site that is not on the map, elsewhere, and a group.
        ("198.18.1.9", 64),
        ("198.18.77.1", 64),
        ("192.0.2.1", 64),
        ("224.0.0.22", 64),
    ] {
        lab.send_to("east-1", to.parse().unwrap(), hop_limit, 60);
    }
    lab.check(expect![[r#"
        500µs: icmp 3.3 from 198.19.128.1 to east-1, 64 hops left
        500µs: icmp 3.0 from 198.19.128.1 to east-1, 64 hops left
        500µs: icmp 3.0 from 198.19.128.1 to east-1, 64 hops left
        500µs: icmp 3.0 from 198.19.128.1 to east-1, 64 hops left
        500µs: icmp 3.0 from 198.19.128.1 to east-1, 64 hops left
        500µs: icmp 3.0 from 198.19.128.1 to east-1, 64 hops left
        1ms: icmp 11.0 from 198.19.129.1 to east-1, 63 hops left
        30ms: icmp 3.3 from 198.19.134.1 to east-1, 62 hops left
        59.5ms: icmp 3.3 from 198.19.130.1 to east-1, 60 hops left"#]]);
    let status = &lab.router.site_statuses()[0];
    assert_eq!((status.ended_at_router, status.unroutable, status.malformed), (4, 6, 0));
}

#[test]
fn what_is_no_packet_is_counted_and_dropped() {
    let mut lab = Lab::new();
    for junk in [&b""[..], b"E", &[0xff; 100], &[0x45; 19]] {
        lab.router.forward(lab.now, 0, Frame::of_packet(junk));
    }
    assert_eq!((lab.router.site_statuses()[0].malformed, lab.router.queued()), (4, (0, 0)));
}

#[test]
fn jitter_makes_packets_late_and_never_lets_one_overtake() {
    let mut lab = Lab::new();
    let change = LinkChange { jitter: Some(Duration::from_millis(10)), ..LinkChange::default() };
    lab.router.change_link("east", "west", &change).unwrap();
    let mut sent = Vec::new();
    for n in 0..200 {
        lab.send("east-1", "west-1", 64, 100 + n);
        sent.push(100 + n);
        lab.now += Duration::from_millis(1);
    }
    let (mut lengths, mut late) = (Vec::new(), Vec::new());
    while let Some(due) = lab.router.next_due() {
        let delivery = lab.router.poll(due).unwrap();
        let length = delivery.frame.len();
        lengths.push(length);
        late.push(due - Duration::from_millis(1030 + length as u64 - 100));
    }
    assert_eq!(lengths, sent);
    assert!(late.iter().all(|late| *late < Duration::from_millis(10)));
    let spread = *late.iter().max().unwrap() - *late.iter().min().unwrap();
    assert!(spread > Duration::from_millis(5), "{spread:?}");
}

#[test]
fn as_many_packets_are_lost_as_the_link_says() {
    let mut lab = Lab::new();
    lab.router.change_link("east-1", "west-1", &LinkChange { loss: Some(0.25), ..LinkChange::default() }).unwrap();
    for _ in 0..4000 {
        lab.send("east-1", "west-1", 64, 60);
        lab.send("east-2", "west-1", 64, 60);
    }
    lab.arrivals();
    let lost = lab.counters("east-1", "west-1").lost;
    assert!((900..1100).contains(&lost), "{lost}");
    assert_eq!(lab.counters("east-2", "west-1").lost, 0);
}

#[test]
fn lines_are_slow_and_drop_what_would_wait_too_long() {
    let mut lab = Lab::new();
    // 10 ms each on the line up, and the next must wait; those that would wait for longer than 120 ms (ten packets) are dropped.
    for _ in 0..20 {
        lab.send("origin", "west-1", 64, 1250);
    }
    let arrivals = lab.arrivals();
    assert_eq!(arrivals.len(), 13);
    assert!(arrivals[0].starts_with("50ms: ") && arrivals[12].starts_with("170ms: "), "{arrivals:?}");
    assert_eq!(lab.counters("origin", "west-1").queue_full, 7);

    // On the line down, in the order of arrival, from wherever.
    lab.now += Duration::from_secs(1);
    lab.send("east-1", "origin", 64, 1250);
    lab.send("west-1", "origin", 64, 1250);
    lab.send("west-1", "origin", 64, 1250);
    lab.check(expect![[r#"
        50ms: udp from 198.18.3.1 to origin, 59 hops left
        60ms: udp from 198.18.3.1 to origin, 59 hops left
        70ms: udp from 198.18.1.1 to origin, 59 hops left"#]]);
}

#[test]
fn rates_and_lines_change_while_it_runs() {
    let mut lab = Lab::new();
    let rate = |text: &str| Some(text.parse::<Limit>().unwrap());
    lab.router.change_access("origin", &AccessChange { up: rate("unlimited"), ..AccessChange::default() }).unwrap();
    let change = LinkChange { rate: rate("10 Mbit/s"), rtt: Some(Duration::from_millis(20)), ..LinkChange::default() };
    lab.router.change_link("*", "south", &change).unwrap();
    for _ in 0..2 {
        lab.send("origin", "west-1", 64, 1250);
        lab.send("origin", "south-1", 64, 1250);
    }
    lab.check(expect![[r#"
        11ms: udp from 198.18.5.1 to west-1, 59 hops left
        11ms: udp from 198.18.5.1 to south-1, 62 hops left
        12ms: udp from 198.18.5.1 to west-1, 59 hops left
        12ms: udp from 198.18.5.1 to south-1, 62 hops left"#]]);
    assert_eq!(lab.router.pairs[1].link.rate, None);
    assert_eq!(rate("10 Mbit/s").unwrap().rate(), Rate::from_bits_per_second(10_000_000));
}

#[test]
fn cuts_overlap_and_heal_one_by_one() {
    let mut lab = Lab::new();
    let through = |lab: &mut Lab, from: &str, to: &str| {
        lab.send(from, to, 64, 60);
        lab.arrivals().len() == 1
    };
    lab.router.cut("west", None).unwrap();
    lab.router.cut("west-1", Some("east-1")).unwrap();
    assert!(!through(&mut lab, "west-1", "east-2") && !through(&mut lab, "east-2", "root"));
    assert!(through(&mut lab, "west-1", "root") && through(&mut lab, "east-1", "south-1"));
    lab.router.heal("west", None).unwrap();
    assert!(through(&mut lab, "west-1", "east-2") && !through(&mut lab, "west-1", "east-1"));
    // The ends in either order.
    lab.router.heal("east-1", Some("west-1")).unwrap();
    assert!(through(&mut lab, "west-1", "east-1"));
    assert_eq!(lab.router.heal("west", None), Err("west is not cut from all others".to_owned()));
    assert_eq!(lab.counters("west-1", "east-1").cut, 1);
}

#[test]
fn a_trace_ends_before_a_cut_and_says_nothing_behind_a_dead_line() {
    let mut lab = Lab::new();
    lab.router.cut("west", Some("east")).unwrap();
    for hop_limit in 1..=6 {
        lab.send("east-1", "west-1", hop_limit, 60);
    }
    lab.check(expect![[r#"
        500µs: icmp 11.0 from 198.19.128.1 to east-1, 64 hops left
        1ms: icmp 11.0 from 198.19.129.1 to east-1, 63 hops left"#]]);
    lab.router.cut("east-1", None).unwrap();
    for hop_limit in 1..=6 {
        lab.send("east-1", "east-2", hop_limit, 60);
    }
    lab.check(expect![""]);
    lab.router.heal_all();
    lab.send("east-1", "west-1", 64, 60);
    assert_eq!(lab.arrivals().len(), 1);
}

#[test]
fn a_change_that_cannot_be_changes_nothing() {
    let mut lab = Lab::new();
    let far = LinkChange { rtt: Some(Duration::from_secs(11)), ..LinkChange::default() };
    let mut refused = vec![
        lab.router.change_link("east", "west", &far),
        lab.router.change_link("east", "west", &LinkChange { loss: Some(-0.1), ..LinkChange::default() }),
        lab.router.change_link("east", "north", &LinkChange::default()),
        lab.router.change_link("east-1", "east-1", &LinkChange::default()),
        lab.router.cut("north", None),
        lab.router.cut("south-1", Some("south-1")),
        lab.router.cut("*", None),
        lab.router.heal("nobody", Some("east")),
    ];
    let queue = Some(Duration::from_secs(60));
    refused.push(lab.router.change_access("origin", &AccessChange { queue, ..AccessChange::default() }));
    let lines: Vec<_> = refused.into_iter().map(Result::unwrap_err).collect();
    expect![[r#"
        rtt: 11s is more than 10s
        loss is -0.1, and is a share from 0 to 1
        there is no site or region north
        east-1 and east-1 are not two sites
        there is no site or region north
        there is nothing to cut between south-1 and south-1
        there is nothing to cut between * and all others
        nobody is not cut from east
        queue: 60s is more than 10s"#]]
    .assert_eq(&lines.join("\n"));
    lab.router.heal_all();
    lab.send("east-1", "west-1", 64, 60);
    assert!(lab.arrivals()[0].starts_with("30ms"));
}
