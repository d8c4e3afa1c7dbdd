//! RFC 2308: negative answers, and RFC 8020: what does not exist has nothing beneath it.

mod support;

use std::time::Duration;

use coral_dns::Config;
use coral_dsht::memory::MemoryNetwork;
use expect_test::expect;
use support::{A, AAAA, Dns, HTTPS, MX, NS, SOA, TXT, config, peer};

/// §2.1, §2.2, §3, §5: the SOA of the zone, with the lesser of its TTL and its MINIMUM.
#[tokio::test]
async fn nothing_there_is_said_with_the_soa() {
    let dns = Dns::alone().await;
    let no_data = expect![[r#"
        NOERROR aa edns
          nyud.net. 30 SOA ip4-192-0-2-1.ns.nyud.net. hostmaster.nyud.net. 1 3600 600 86400 30
    "#]];
    for kind in [AAAA, MX, TXT, HTTPS, NS, SOA, 43, 48, 65_280] {
        no_data.assert_eq(&dns.ask("www.x.com.nyud.net", kind).await);
    }
    expect![[r#"
        NXDOMAIN aa edns
          nyud.net. 30 SOA ip4-192-0-2-1.ns.nyud.net. hostmaster.nyud.net. 1 3600 600 86400 30
    "#]]
    .assert_eq(&dns.ask("_dmarc.x.com.nyud.net", TXT).await);
    dns.stop().await;
}

#[tokio::test]
async fn the_configured_times_are_the_ones_told() {
    let me = peer("192.0.2.1");
    let config = Config {
        negative_ttl: Duration::from_secs(90),
        nameserver_ttl: Duration::from_secs(60),
        ttl: Duration::from_secs(5),
        ..config()
    };
    let dns = Dns::start(config, me, MemoryNetwork::new().node(me)).await;
    expect![[r#"
        NOERROR aa edns
          nyud.net. 60 SOA ip4-192-0-2-1.ns.nyud.net. hostmaster.nyud.net. 1 3600 600 86400 90
    "#]]
    .assert_eq(&dns.ask("com.nyud.net", A).await);
    expect![[r#"
        NOERROR aa edns
        nyud.net. 5 A 192.0.2.1
    "#]]
    .assert_eq(&dns.ask("nyud.net", A).await);
    dns.stop().await;
}

/// RFC 8020 §2: were one of these NXDOMAIN, the host beneath it would not exist for a resolver that minimises names.
#[tokio::test]
async fn every_name_above_an_existing_one_exists() {
    let dns = Dns::alone().await;
    for host in [
        "www.x.co.uk.8080.nyud.net",
        "ip4-192-0-2-1.ns.nyud.net",
        "www-x-com.s.nyud.net",
    ] {
        assert!(dns.ask(host, A).await.contains("192.0.2.1"), "{host}");
        let mut name = host;
        while let Some((_, above)) = name.split_once('.').filter(|(_, above)| above.ends_with("nyud.net")) {
            let answer = dns.ask(above, A).await;
            assert!(answer.starts_with("NOERROR aa"), "{above}: {answer}");
            name = above;
        }
    }
    dns.stop().await;
}

#[tokio::test]
async fn a_nameserver_that_does_not_live_does_not_exist() {
    let network = MemoryNetwork::new();
    let me = peer("192.0.2.1");
    let dns = Dns::start(config(), me, network.node(me)).await;
    let name = "ip4-192-0-2-2.ns.nyud.net";
    assert!(dns.ask(name, A).await.starts_with("NXDOMAIN"));
    let second = network.node(peer("192.0.2.2"));
    let answer = dns.ask_until(name, A, |answer| answer.starts_with("NOERROR")).await;
    expect![[r#"
        NOERROR aa edns
        ip4-192-0-2-2.ns.nyud.net. 300 A 192.0.2.2
    "#]]
    .assert_eq(&answer);
    drop(second);
    dns.ask_until(name, A, |answer| answer.starts_with("NXDOMAIN")).await;
    dns.stop().await;
}
