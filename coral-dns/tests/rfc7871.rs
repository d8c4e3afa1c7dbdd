//! RFC 7871: client subnets in DNS queries.

mod support;

use expect_test::expect;
use support::{A, Dns, NS, plain_query, show, with_edns};

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

/// §7.2.1: as asked, with scope zero, since nothing is measured here and all get the same. Other scopes are tested beside
/// the handler, where a measurement can be made up; `redirect.rs` has a real one.
#[tokio::test]
async fn the_option_comes_back_as_it_was_asked() {
    let dns = Dns::alone().await;
    let tell = subnet(24, 0, &[198, 51, 100]);
    expect!["[0, 8, 0, 7, 0, 1, 24, 0, 198, 51, 100]"].assert_eq(&options(&dns, NS, "nyud.net", &tell).await);
    expect!["[0, 8, 0, 7, 0, 1, 24, 0, 198, 51, 100]"].assert_eq(&options(&dns, A, "x.com.nyud.net", &tell).await);
    expect!["[0, 8, 0, 4, 0, 1, 0, 0]"].assert_eq(&options(&dns, A, "x.com.nyud.net", &subnet(0, 0, &[])).await);
    dns.stop().await;
}

/// §6, §7.1.2.
#[tokio::test]
async fn an_option_that_breaks_its_rules_is_a_format_error() {
    let dns = Dns::alone().await;
    for bad in [
        subnet(24, 24, &[198, 51, 100]),
        subnet(20, 0, &[198, 51, 100]),
        subnet(33, 0, &[198, 51, 100, 7, 1]),
        subnet(32, 0, &[198, 51]),
        vec![0, 8, 0, 4, 0, 9, 0, 0],
    ] {
        let answer = dns.udp(&with_edns(plain_query("x.com.nyud.net", A), 0, 1232, &bad)).await;
        assert!(show(&answer).starts_with("FORMERR"), "{bad:?}: {}", show(&answer));
    }
    dns.stop().await;
}
