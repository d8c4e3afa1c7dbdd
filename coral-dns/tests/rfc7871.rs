//! RFC 7871: client subnets in DNS queries.

mod support;

use expect_test::expect;
use support::{A, Dns, NS, config, peer, plain_query, show, three_levels, with_edns};

/// The option for an IPv4 prefix.
fn subnet(source: u8, scope: u8, address: &[u8]) -> Vec<u8> {
    [&[0, 8, 0, 4 + address.len() as u8, 0, 1, source, scope], address].concat()
}

/// The options that come back, as they are at the end of an answer.
async fn options(dns: &Dns, kind: u16, name: &str, option: &[u8]) -> String {
    let answer = dns.udp(&with_edns(plain_query(name, kind), 0, 1232, option)).await;
    assert!(show(&answer).starts_with("NOERROR"), "{}", show(&answer));
    format!("{:?}", &answer[answer.len() - option.len()..])
}

async fn near_and_far() -> Dns {
    let me = peer("192.0.2.1");
    Dns::start(config(), me, three_levels(me, [&["192.0.2.2"], &["192.0.2.2"], &[]])).await
}

/// §7.2.1: as asked, with the scope for which the answer holds.
#[tokio::test]
async fn the_option_comes_back_with_its_scope() {
    let dns = near_and_far().await;
    let host = "x.com.nyud.net";
    for (option, expected) in [
        (
            subnet(24, 0, &[198, 51, 100]),
            expect!["[0, 8, 0, 7, 0, 1, 24, 24, 198, 51, 100]"],
        ),
        (
            subnet(32, 0, &[198, 51, 100, 7]),
            expect!["[0, 8, 0, 8, 0, 1, 32, 24, 198, 51, 100, 7]"],
        ),
        (
            subnet(15, 0, &[198, 50]),
            expect!["[0, 8, 0, 6, 0, 1, 15, 15, 198, 50]"],
        ),
    ] {
        expected.assert_eq(&options(&dns, A, host, &option).await);
    }
    dns.stop().await;
}

/// §7.2.1: scope zero where the answer is the same for all; §7.1.2: where the client wants to stay unknown; §11.2: where
/// the address means nothing here. Of private addresses only one that asks from such an address itself, as here, counts.
#[tokio::test]
async fn an_answer_for_everybody_has_scope_zero() {
    let dns = near_and_far().await;
    let tell = subnet(24, 0, &[198, 51, 100]);
    expect!["[0, 8, 0, 7, 0, 1, 24, 0, 198, 51, 100]"].assert_eq(&options(&dns, NS, "nyud.net", &tell).await);
    expect!["[0, 8, 0, 7, 0, 1, 24, 0, 198, 51, 100]"].assert_eq(&options(&dns, A, "com.nyud.net", &tell).await);
    expect!["[0, 8, 0, 4, 0, 1, 0, 0]"].assert_eq(&options(&dns, A, "x.com.nyud.net", &subnet(0, 0, &[])).await);
    expect!["[0, 8, 0, 5, 0, 1, 8, 0, 224]"]
        .assert_eq(&options(&dns, A, "x.com.nyud.net", &subnet(8, 0, &[224])).await);
    dns.stop().await;
    let alone = Dns::alone().await;
    expect!["[0, 8, 0, 7, 0, 1, 24, 0, 198, 51, 100]"].assert_eq(&options(&alone, A, "x.com.nyud.net", &tell).await);
    alone.stop().await;
}

/// §6, §7.1.2.
#[tokio::test]
async fn an_option_that_breaks_its_rules_is_a_format_error() {
    let dns = near_and_far().await;
    for bad in [
        subnet(24, 24, &[198, 51, 100]),
        subnet(20, 0, &[198, 51, 100]),
        subnet(33, 0, &[198, 51, 100, 7, 1]),
        subnet(32, 0, &[198, 51]),
        vec![0, 8, 0, 4, 0, 9, 0, 0],
    ] {
        let answer = dns
            .udp(&with_edns(plain_query("x.com.nyud.net", A), 0, 1232, &bad))
            .await;
        assert!(show(&answer).starts_with("FORMERR"), "{bad:?}: {}", show(&answer));
    }
    dns.stop().await;
}
