//! Whom a client is sent to [C04 §3.1]: live proxies, near ones first.

mod support;

use coral_dns::{Config, PROXY, ProbeConfig};
use coral_dsht::memory::MemoryNetwork;
use expect_test::expect;
use support::{A, AAAA, Dns, NS, config, peer, peer_with, plain_query, show, three_levels, with_edns};

#[tokio::test]
async fn a_name_has_the_addresses_of_all_live_proxies_in_turn() {
    let network = MemoryNetwork::new();
    let me = peer("192.0.2.1");
    let dns = Dns::start(config(), me, network.node(me)).await;
    let second = network.node(peer("192.0.2.2"));
    let _third = network.node(peer("2001:db8::3"));
    let both = dns.ask_until("www.x.com.nyud.net", A, |answer| answer.lines().count() == 3).await;
    expect![[r#"
        NOERROR aa edns
        www.x.com.nyud.net. 30 A 192.0.2.1
        www.x.com.nyud.net. 30 A 192.0.2.2
    "#]]
    .assert_eq(&both);
    expect![[r#"
        NOERROR aa edns
        www.x.com.nyud.net. 30 AAAA 2001:db8::3
    "#]]
    .assert_eq(&dns.ask("www.x.com.nyud.net", AAAA).await);

    drop(second);
    let one = dns.ask_until("www.x.com.nyud.net", A, |answer| answer.lines().count() == 2).await;
    expect![[r#"
        NOERROR aa edns
        www.x.com.nyud.net. 30 A 192.0.2.1
    "#]]
    .assert_eq(&one);
    dns.stop().await;
}

#[tokio::test]
async fn a_nameserver_without_a_proxy_names_only_others() {
    let network = MemoryNetwork::new();
    let me = peer_with("192.0.2.1", coral_dns::NAMESERVER);
    let dns = Dns::start(config(), me, network.node(me)).await;
    expect![[r#"
        SERVFAIL edns
    "#]]
    .assert_eq(&dns.ask("www.x.com.nyud.net", A).await);
    let _proxy = network.node(peer_with("192.0.2.2", PROXY));
    let answer = dns.ask_until("www.x.com.nyud.net", A, |answer| answer.starts_with("NOERROR")).await;
    expect![[r#"
        NOERROR aa edns
        www.x.com.nyud.net. 30 A 192.0.2.2
    "#]]
    .assert_eq(&answer);
    expect![[r#"
        NOERROR aa edns
        nyud.net. 300 NS ip4-192-0-2-1.ns.nyud.net.
            ip4-192-0-2-1.ns.nyud.net. 300 A 192.0.2.1
    "#]]
    .assert_eq(&dns.ask("nyud.net", NS).await);
    dns.stop().await;
}

#[tokio::test]
async fn a_client_that_was_measured_as_near_gets_near_proxies() {
    let me = peer("192.0.2.1");
    let levels: [&[&str]; 3] = [
        &["192.0.2.2", "198.51.100.3", "198.51.100.4", "198.51.100.5"],
        &["192.0.2.2", "198.51.100.3"],
        &["192.0.2.2"],
    ];
    let config = Config { probe: Some(ProbeConfig::default()), ..config() };
    let dns = Dns::start(config, me, three_levels(me, levels)).await;
    // Where neither kind of ICMP socket is allowed, every client stays at level 0.
    if surge_ping::Client::new(&surge_ping::Config::default()).is_err() {
        dns.ask("www.x.com.nyud.net", A).await;
        expect!["coral_dns_answers_total{level=\"0\"}"].assert_eq(&level_lines(&dns));
        return dns.stop().await;
    }
    // The first answer waits for the measurement already.
    let near = dns.ask("www.x.com.nyud.net", A).await;
    expect![[r#"
        NOERROR aa edns
        www.x.com.nyud.net. 60 A 192.0.2.1
        www.x.com.nyud.net. 60 A 192.0.2.2
    "#]]
    .assert_eq(&near);
    expect!["coral_dns_answers_total{level=\"2\"}"].assert_eq(&level_lines(&dns));

    // The client of which the resolver tells, 127.0.9.0/24, has a place of its own.
    let subnet = [0, 8, 0, 7, 0, 1, 24, 0, 127, 0, 9];
    let behind = with_edns(plain_query("www.x.com.nyud.net", A), 0, 1232, &subnet);
    let told = show(&dns.udp(&behind).await);
    assert!(told.contains(" 60 A "), "{told}");
    dns.stop().await;
}

fn level_lines(dns: &Dns) -> String {
    let text = dns.metrics();
    let mut lines: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("coral_dns_answers_total"))
        .filter_map(|line| line.split(' ').next())
        .collect();
    lines.sort_unstable();
    lines.join(" ")
}
