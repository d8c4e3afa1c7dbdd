//! RFC 6891: EDNS, sizes and truncation.

mod support;

use std::num::NonZeroUsize;

use coral_dns::Config;
use coral_dsht::memory::MemoryNetwork;
use expect_test::expect;
use support::{A, Dns, addresses, config, peer, plain_query, query, show, with_edns};

/// §6.1.1: an OPT record is answered by one, and never sent to who has not sent one. §6.1.3: BADVERS.
#[tokio::test]
async fn edns_is_answered_by_edns_of_version_0() {
    let dns = Dns::alone().await;
    expect![[r#"
        NOERROR aa
        x.com.nyud.net. 30 A 192.0.2.1
    "#]]
    .assert_eq(&show(&dns.udp(&plain_query("x.com.nyud.net", A)).await));
    let newer = with_edns(plain_query("x.com.nyud.net", A), 1, 1232, &[]);
    expect![[r#"
        BADVERS edns
    "#]]
    .assert_eq(&show(&dns.udp(&newer).await));
    let twice = with_edns(query("x.com.nyud.net", A), 0, 1232, &[]);
    expect![[r#"
        FORMERR
    "#]]
    .assert_eq(&show(&dns.udp(&twice).await));
    // §6.1.2: options that we do not know are passed over.
    let unknown = with_edns(plain_query("x.com.nyud.net", A), 0, 1232, &[0xff, 0xf0, 0, 2, 1, 2]);
    assert!(show(&dns.udp(&unknown).await).starts_with("NOERROR aa edns"));
    dns.stop().await;
}

/// §6.2.3 to §6.2.5, RFC 2181 §9: at most what the asker takes, and at most 1232 bytes; else TC, and TCP has it all.
#[tokio::test]
async fn what_does_not_fit_is_cut_to_nothing_and_tcp_has_it_all() {
    let network = MemoryNetwork::new();
    let me = peer("192.0.2.1");
    let many: Vec<_> = (2..=60).map(|last| network.node(peer(&format!("192.0.2.{last}")))).collect();
    let config = Config { addresses: NonZeroUsize::new(60).unwrap(), ..config() };
    let dns = Dns::start(config, me, network.node(me)).await;
    let all = |answer: &str| addresses(answer).len() == many.len() + 1;
    let name = "x.com.nyud.net";
    dns.ask_until(name, A, all).await;

    let cut = "NOERROR aa tc";
    assert_eq!(show(&dns.udp(&plain_query(name, A)).await), format!("{cut}\n"));
    for (payload, fits) in [(0, false), (512, false), (1231, true), (1232, true), (65_535, true)] {
        let answer = dns.udp(&with_edns(plain_query(name, A), 0, payload, &[])).await;
        assert!(answer.len() <= 1232);
        let shown = show(&answer);
        assert_eq!(all(&shown), fits, "{payload}: {shown}");
        assert_eq!(shown.starts_with(cut), !fits, "{payload}: {shown}");
        assert!(shown.lines().next().unwrap().ends_with("edns"));
    }
    assert!(all(&show(&dns.tcp(&plain_query(name, A)).await)));
    assert!(dns.metrics().contains("coral_dns_truncated_total 3"), "{}", dns.metrics());
    dns.stop().await;
}
