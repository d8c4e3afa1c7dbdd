//! RFC 8482: a query for ANY gets one kind of record, so that nobody can use it to amplify an attack.

mod support;

use expect_test::expect;
use support::{ANY, Dns};

#[tokio::test]
async fn any_gets_one_kind_of_record() {
    let dns = Dns::alone().await;
    expect![[r#"
        NOERROR aa edns
        x.com.nyud.net. 30 A 192.0.2.1
    "#]]
    .assert_eq(&dns.ask("x.com.nyud.net", ANY).await);
    expect![[r#"
        NOERROR aa edns
        nyud.net. 300 SOA ip4-192-0-2-1.ns.nyud.net. hostmaster.nyud.net. 1 3600 600 86400 30
    "#]]
    .assert_eq(&dns.ask("nyud.net", ANY).await);
    expect![[r#"
        NOERROR aa edns
        ip4-192-0-2-1.ns.nyud.net. 300 A 192.0.2.1
    "#]]
    .assert_eq(&dns.ask("ip4-192-0-2-1.ns.nyud.net", ANY).await);
    expect![[r#"
        NOERROR aa edns
        com.nyud.net. 300 SOA ip4-192-0-2-1.ns.nyud.net. hostmaster.nyud.net. 1 3600 600 86400 30
    "#]]
    .assert_eq(&dns.ask("com.nyud.net", ANY).await);
    dns.stop().await;
}
