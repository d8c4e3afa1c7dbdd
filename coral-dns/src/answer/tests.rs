use std::collections::BTreeMap;
use std::time::Duration;

use expect_test::{Expect, expect};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::*;
use crate::candidates::LevelTable;
use crate::name::nameserver_name;

const NODE: &str = "192.0.2.1";

fn ips(text: &str) -> Vec<IpAddr> {
    text.split_whitespace().map(|ip| ip.parse().unwrap()).collect()
}

fn level(number: u8, proxies: &str) -> LevelTable {
    LevelTable {
        level: Level::new(number).unwrap(),
        diameter: (number > 0).then(|| Duration::from_millis(if number == 1 { 60 } else { 20 })),
        proxies: ips(proxies),
        nameservers: Vec::new(),
    }
}

/// Two near proxies, a third one farther, many anywhere.
fn table() -> Table {
    Table {
        levels: vec![
            level(2, "192.0.2.1 192.0.2.2"),
            level(1, "192.0.2.1 192.0.2.2 192.0.2.3"),
            level(0, "192.0.2.1 192.0.2.2 192.0.2.3 192.0.2.4 2001:db8::4"),
        ],
        nameservers: ips("192.0.2.1 2001:db8::4"),
    }
}

/// A client at this level, whom nobody refers.
struct At(u8);

impl Asker for At {
    fn client(&mut self) -> View {
        let level = Level::new(self.0).unwrap();
        View { address: "198.51.100.1".parse().unwrap(), level, near: None, distant: None }
    }

    fn resolver(&mut self) -> View {
        self.client()
    }

    fn course(&mut self, _: &[u8], _: bool) -> Course {
        Course::Answer
    }
}

fn ask(table: &Table, name: &str, kind: Kind, near: u8, seed: u64) -> Answer {
    let config = Config::default();
    let suffixes = ["nyud.net".parse().unwrap()];
    let soas = [Soa::new(NODE.parse().unwrap(), &config)];
    let me = NODE.parse().unwrap();
    let records = Records::default();
    let context = Context { config: &config, suffixes: &suffixes, soas: &soas, records: &records, table, me };
    let labels: Vec<&[u8]> = name.split('.').map(str::as_bytes).collect();
    let mut out = Answer::default();
    answer(&mut out, context, &labels, kind, &mut At(near), &mut ChaCha8Rng::seed_from_u64(seed));
    out
}

/// The answer as lines of a zone file, the sections set apart by their indent.
fn show(table: &Table, name: &str, kind: Kind, near: u8) -> String {
    let answer = ask(table, name, kind, near, 1);
    let suffix: Suffix = "nyud.net".parse().unwrap();
    let cut = || name.strip_suffix(".nyud.net").unwrap().rsplit('.').next().unwrap().to_owned() + ".nyud.net";
    let level = answer.level.map_or("no level".to_owned(), |level| level.to_string());
    let mut out = format!("{:?}, {level}\n", answer.rcode);
    for (indent, section) in [(0, &answer.answers), (2, &answer.authority), (4, &answer.additional)] {
        for record in section {
            let owner = match record.owner {
                Owner::Question => name.to_owned(),
                Owner::Apex => suffix.to_string(),
                Owner::Cut => cut(),
                Owner::Nameserver(ip) => nameserver_name(ip, &suffix),
                Owner::CutNameserver(ip) => format!("ns--{ip}.{}", cut()),
            };
            let data = match record.data {
                Data::Address(ip) => format!("{} {ip}", if ip.is_ipv4() { "A" } else { "AAAA" }),
                Data::Nameserver(ip) => format!("NS {}", nameserver_name(ip, &suffix)),
                Data::CutNameserver(ip) => format!("NS ns--{ip}.{}", cut()),
                Data::Soa => "SOA".to_owned(),
                Data::Https => "HTTPS".to_owned(),
                Data::Added(number) => format!("added {number}"),
            };
            out.push_str(&format!("{:indent$}{owner} {} {data}\n", "", record.ttl));
        }
    }
    out
}

fn check(name: &str, kind: Kind, near: u8, expect: Expect) {
    expect.assert_eq(&show(&table(), name, kind, near));
}

#[test]
fn a_near_client_gets_the_proxies_of_the_nearest_level() {
    check(
        "www.x.com.nyud.net",
        Kind::A,
        2,
        expect![[r#"
            NoError, L2
            www.x.com.nyud.net 60 A 192.0.2.2
            www.x.com.nyud.net 60 A 192.0.2.1
        "#]],
    );
}

#[test]
fn a_client_at_level_1_gets_no_proxy_from_farther_away() {
    check(
        "www.x.com.nyud.net",
        Kind::A,
        1,
        expect![[r#"
            NoError, L1
            www.x.com.nyud.net 30 A 192.0.2.2
            www.x.com.nyud.net 30 A 192.0.2.1
            www.x.com.nyud.net 30 A 192.0.2.3
        "#]],
    );
}

#[test]
fn a_family_that_only_distant_proxies_have_is_taken_from_there() {
    check(
        "www.x.com.nyud.net",
        Kind::Aaaa,
        2,
        expect![[r#"
            NoError, L0
            www.x.com.nyud.net 30 AAAA 2001:db8::4
        "#]],
    );
}

#[test]
fn a_lonely_level_gives_way_to_one_with_enough_members() {
    let table = Table {
        levels: vec![level(2, NODE), level(1, NODE), level(0, "192.0.2.1 192.0.2.9")],
        nameservers: Vec::new(),
    };
    expect![[r#"
        NoError, L0
        x.com.nyud.net 30 A 192.0.2.9
        x.com.nyud.net 30 A 192.0.2.1
    "#]]
    .assert_eq(&show(&table, "x.com.nyud.net", Kind::A, 2));
}

#[test]
fn a_node_alone_names_itself_and_says_no_data_for_the_other_family() {
    let alone = Table { levels: vec![level(0, NODE)], nameservers: ips(NODE) };
    expect![[r#"
        NoError, L0
        x.com.nyud.net 30 A 192.0.2.1
    "#]]
    .assert_eq(&show(&alone, "x.com.nyud.net", Kind::A, 0));
    expect![[r#"
        NoError, no level
          com.nyud.net 30 SOA
    "#]]
    .assert_eq(&show(&alone, "x.com.nyud.net", Kind::Aaaa, 0));
}

#[test]
fn without_any_proxy_the_resolver_is_sent_to_another_node() {
    expect![[r#"
        ServFail, no level
    "#]]
    .assert_eq(&show(&Table::default(), "x.com.nyud.net", Kind::A, 0));
}

#[test]
fn the_apex_names_live_nameservers_with_their_addresses() {
    check(
        "nyud.net",
        Kind::Ns,
        2,
        expect![[r#"
            NoError, no level
            nyud.net 300 NS ip6-2001-0db8-0000-0000-0000-0000-0000-0004.ns.nyud.net
            nyud.net 300 NS ip4-192-0-2-1.ns.nyud.net
                ip6-2001-0db8-0000-0000-0000-0000-0000-0004.ns.nyud.net 300 AAAA 2001:db8::4
                ip4-192-0-2-1.ns.nyud.net 300 A 192.0.2.1
        "#]],
    );
}

#[test]
fn a_nameserver_exists_while_it_lives() {
    let outcome = |name: &str, kind| show(&table(), name, kind, 2);
    expect![[r#"
        NoError, no level
        ip4-192-0-2-1.ns.nyud.net 300 A 192.0.2.1
    "#]]
    .assert_eq(&outcome("ip4-192-0-2-1.ns.nyud.net", Kind::A));
    expect![[r#"
        NoError, no level
          nyud.net 30 SOA
    "#]]
    .assert_eq(&outcome("ip4-192-0-2-1.ns.nyud.net", Kind::Aaaa));
    expect![[r#"
        ServFail, no level
    "#]]
    .assert_eq(&outcome("ip4-192-0-2-9.ns.nyud.net", Kind::A));
}

#[test]
fn any_is_answered_with_one_kind_of_record() {
    let kinds = |name: &str| -> Vec<Data> {
        let answer = ask(&table(), name, Kind::Any, 0, 1);
        answer.answers.iter().map(|record| record.data).collect()
    };
    assert_eq!(kinds("nyud.net"), [Data::Soa]);
    let addresses = kinds("x.com.nyud.net");
    assert_eq!(addresses.len(), 3);
    assert!(addresses.iter().all(|data| matches!(data, Data::Address(IpAddr::V4(_)))));
    assert_eq!(kinds("com.nyud.net"), [Data::Soa]);
}

#[test]
fn every_proxy_gets_its_share_of_first_places_and_none_comes_twice() {
    let mut first = BTreeMap::new();
    for seed in 0..4_000 {
        let answer = ask(&table(), "x.com.nyud.net", Kind::A, 0, seed);
        let mut addresses: Vec<_> = answer.answers.iter().map(|record| format!("{:?}", record.data)).collect();
        *first.entry(addresses[0].clone()).or_insert(0) += 1;
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 3);
    }
    // 1,000 each in the mean; the standard deviation is 27.
    assert_eq!(first.len(), 4);
    assert!(first.values().all(|count| (850..1_150).contains(count)), "{first:?}");
}
