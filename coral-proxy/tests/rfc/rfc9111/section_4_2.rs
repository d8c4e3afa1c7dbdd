//! Freshness.

use crate::support::client::get;
use crate::support::node::HOST;
use crate::world;

#[tokio::test]
async fn a_fresh_response_is_served_with_its_age() {
    let (origin, node) = world().await;
    origin.text("/", "HTTP/1.1 200 OK\ncache-control: max-age=600\nage: 100", "x");
    get(node.addr, HOST, "/").await;
    let reply = get(node.addr, HOST, "/").await;
    let age: u64 = reply.field("age").parse().unwrap();
    assert!((100..110).contains(&age), "{age}");
    assert_eq!(reply.cache(), "coral; hit");
}

#[tokio::test]
async fn a_stale_response_is_not_served_without_asking() {
    let (origin, node) = world().await;
    for (path, head) in [
        ("/age", "HTTP/1.1 200 OK\ncache-control: max-age=60\nage: 100"),
        ("/expires", "HTTP/1.1 200 OK\nexpires: 0"),
        ("/shared", "HTTP/1.1 200 OK\ncache-control: max-age=60, s-maxage=0"),
        ("/no-cache", "HTTP/1.1 200 OK\ncache-control: no-cache"),
    ] {
        origin.text(path, head, "x");
        get(node.addr, HOST, path).await;
        let reply = get(node.addr, HOST, path).await;
        assert_eq!(reply.cache(), "coral; fwd=stale; detail=origin; stored", "{path}");
        assert_eq!(origin.count(path), 2, "{path}");
    }
}
