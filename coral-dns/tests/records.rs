//! Records that the operator adds, HTTPS records (RFC 9460), and what a server tells of itself (RFC 4892, RFC 5001).

mod support;

use std::time::Duration;

use coral_dns::Config;
use coral_dns::records::RecordConfig;
use coral_dsht::memory::MemoryNetwork;
use expect_test::expect;
use support::{A, ANY, Dns, HTTPS, MX, TXT, config, peer, plain_query, query, show, with_edns};

fn record(name: &str, kind: &str, data: &str) -> RecordConfig {
    let ttl = Duration::from_secs(3_600);
    RecordConfig { name: name.into(), kind: kind.into(), ttl, data: data.into() }
}

async fn start(config: Config) -> Dns {
    let me = peer("192.0.2.1");
    Dns::start(config, me, MemoryNetwork::new().node(me)).await
}

#[tokio::test]
async fn added_records_stand_beside_the_zones_own() {
    let records = vec![
        record("@", "MX", "10 mail.example.org."),
        record("@", "TXT", "\"v=spf1 -all\""),
        record("selector._domainkey", "TXT", "\"k=rsa\""),
        record("mail", "A", "192.0.2.25"),
    ];
    let dns = start(Config { records, ..config() }).await;
    for (name, kind, expected) in [
        (
            "nyud.net",
            MX,
            expect![[r#"
            NOERROR aa edns
            nyud.net. 3600 MX 10 mail.example.org.
        "#]],
        ),
        (
            "nyud.net",
            A,
            expect![[r#"
            NOERROR aa edns
            nyud.net. 30 A 192.0.2.1
        "#]],
        ),
        (
            "Selector._domainkey.nyud.net",
            TXT,
            expect![[r#"
                NOERROR aa edns
                Selector._domainkey.nyud.net. 3600 TXT k=rsa
            "#]],
        ),
        // RFC 8020: it exists, as there is a name beneath it.
        (
            "_domainkey.nyud.net",
            TXT,
            expect![[r#"
            NOERROR aa edns
              nyud.net. 30 SOA ip4-192-0-2-1.ns.nyud.net. hostmaster.nyud.net. 1 3600 600 86400 30
        "#]],
        ),
        // It is no cut, so its zone is the suffix.
        (
            "mail.nyud.net",
            A,
            expect![[r#"
            NOERROR aa edns
            mail.nyud.net. 3600 A 192.0.2.25
        "#]],
        ),
        (
            "mail.nyud.net",
            TXT,
            expect![[r#"
            NOERROR aa edns
              nyud.net. 30 SOA ip4-192-0-2-1.ns.nyud.net. hostmaster.nyud.net. 1 3600 600 86400 30
        "#]],
        ),
        (
            "www.x.com.nyud.net",
            A,
            expect![[r#"
            NOERROR aa edns
            www.x.com.nyud.net. 30 A 192.0.2.1
        "#]],
        ),
    ] {
        expected.assert_eq(&dns.ask(name, kind).await);
    }
    dns.stop().await;
}

#[tokio::test]
async fn hosts_in_one_label_have_https_records_where_proxies_speak_it() {
    let dns = start(Config { https: vec!["h2".into(), "http/1.1".into()], ..config() }).await;
    expect![[r#"
        NOERROR aa edns
        www-x-com.s.nyud.net. 30 HTTPS 1 . alpn=h2,http/1.1, ipv4hint=192.0.2.1,
    "#]]
    .assert_eq(&dns.ask("www-x-com.s.nyud.net", HTTPS).await);
    // No certificate covers this one, and a browser that found a record would not go back to HTTP.
    assert!(dns.ask("www.x.com.nyud.net", HTTPS).await.contains("SOA"));
    dns.stop().await;
    let dns = start(config()).await;
    assert!(dns.ask("www-x-com.s.nyud.net", HTTPS).await.contains("SOA"));
    dns.stop().await;
}

/// A question of class CHAOS.
fn chaos(name: &str, kind: u16) -> Vec<u8> {
    let mut query = plain_query(name, kind);
    *query.last_mut().unwrap() = 3;
    query
}

#[tokio::test]
async fn a_server_tells_of_itself_only_if_it_is_to() {
    const NSID: [u8; 4] = [0, 3, 0, 0];
    let silent = start(config()).await;
    for name in ["version.bind", "id.server"] {
        assert_eq!(show(&silent.udp(&chaos(name, TXT)).await), "REFUSED\n");
    }
    let nsid = with_edns(plain_query("x.com.nyud.net", A), 0, 1232, &NSID);
    let answer = silent.udp(&nsid).await;
    assert!(answer.ends_with(&[0, 0]), "an OPT record without options: {answer:?}");
    silent.stop().await;

    let dns = start(Config { nsid: Some("node-1".into()), version: Some("coral".into()), ..config() }).await;
    expect![[r#"
        NOERROR aa
        version.bind. 0 TXT coral
    "#]]
    .assert_eq(&show(&dns.udp(&chaos("version.bind", TXT)).await));
    assert!(show(&dns.udp(&chaos("ID.server", ANY)).await).contains("node-1"));
    assert_eq!(show(&dns.udp(&chaos("nyud.net", A)).await), "REFUSED\n");
    assert!(dns.udp(&nsid).await.ends_with(b"\0\x03\0\x06node-1"));
    assert!(!dns.udp(&query("x.com.nyud.net", A)).await.ends_with(b"node-1"));
    dns.stop().await;
}
