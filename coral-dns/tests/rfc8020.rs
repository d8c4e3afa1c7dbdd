//! RFC 8020: what does not exist has nothing beneath it, so what has something beneath it exists.

mod support;

use coral_dsht::memory::MemoryNetwork;
use expect_test::expect;
use support::{A, Dns, config, peer};

/// §2: were one of these NXDOMAIN, the host beneath it would not exist for a resolver that minimises names.
#[tokio::test]
async fn every_name_above_an_existing_one_exists() {
    let dns = Dns::alone().await;
    for host in ["www.x.co.uk.8080.nyud.net", "ip4-192-0-2-1.ns.nyud.net", "www-x-com.s.nyud.net"] {
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

/// A node that knows nothing of another one does not deny it: that would be remembered, and others may know it.
#[tokio::test]
async fn a_nameserver_has_its_address_while_it_is_known_to_live() {
    let network = MemoryNetwork::new();
    let me = peer("192.0.2.1");
    let dns = Dns::start(config(), me, network.node(me)).await;
    let name = "ip4-192-0-2-2.ns.nyud.net";
    assert!(dns.ask(name, A).await.starts_with("SERVFAIL"));
    let second = network.node(peer("192.0.2.2"));
    let answer = dns.ask_until(name, A, |answer| answer.starts_with("NOERROR")).await;
    expect![[r#"
        NOERROR aa edns
        ip4-192-0-2-2.ns.nyud.net. 300 A 192.0.2.2
    "#]]
    .assert_eq(&answer);
    drop(second);
    dns.ask_until(name, A, |answer| answer.starts_with("SERVFAIL")).await;
    dns.stop().await;
}
