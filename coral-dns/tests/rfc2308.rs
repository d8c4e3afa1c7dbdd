//! RFC 2308: negative answers.

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
          com.nyud.net. 30 SOA ip4-192-0-2-1.ns.nyud.net. hostmaster.nyud.net. 1 3600 600 86400 30
    "#]];
    for kind in [AAAA, MX, TXT, HTTPS, NS, SOA, 43, 48, 65_280] {
        no_data.assert_eq(&dns.ask("www.x.com.nyud.net", kind).await);
    }
    expect![[r#"
        NXDOMAIN aa edns
          com.nyud.net. 30 SOA ip4-192-0-2-1.ns.nyud.net. hostmaster.nyud.net. 1 3600 600 86400 30
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
          com.nyud.net. 60 SOA ip4-192-0-2-1.ns.nyud.net. hostmaster.nyud.net. 1 3600 600 86400 90
    "#]]
    .assert_eq(&dns.ask("com.nyud.net", A).await);
    expect![[r#"
        NOERROR aa edns
        nyud.net. 5 A 192.0.2.1
    "#]]
    .assert_eq(&dns.ask("nyud.net", A).await);
    dns.stop().await;
}
