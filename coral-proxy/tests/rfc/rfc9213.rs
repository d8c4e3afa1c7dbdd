//! Targeted cache control: CDN-Cache-Control.

use crate::support::client::get;
use crate::support::node::HOST;
use crate::{two_nodes, world};

#[tokio::test]
async fn it_takes_the_place_of_cache_control_and_expires() {
    let (origin, node) = world().await;
    for (path, lines, stored) in [
        ("/max-age", "cdn-cache-control: max-age=60\ncache-control: no-store", true),
        ("/expires", "cdn-cache-control: max-age=60\nexpires: 0", true),
        ("/short", "cdn-cache-control: max-age=0\ncache-control: max-age=60", false),
        ("/no-store", "cdn-cache-control: no-store\ncache-control: max-age=60", false),
        ("/no-cache", "cdn-cache-control: no-cache\ncache-control: max-age=60", false),
        ("/private", "cdn-cache-control: private\ncache-control: max-age=60", false),
        ("/age", "cdn-cache-control: max-age=60\nage: 100", false),
        ("/lines", "cdn-cache-control: max-age=60\ncdn-cache-control: private", false),
    ] {
        origin.text(path, &format!("HTTP/1.1 200 OK\n{lines}"), "x");
        get(node.addr, HOST, path).await;
        get(node.addr, HOST, path).await;
        assert_eq!(origin.count(path), if stored { 1 } else { 2 }, "{path}");
    }
}

#[tokio::test]
async fn one_that_is_no_structured_field_is_as_good_as_none() {
    let (origin, node) = world().await;
    for (path, lines) in [
        ("/unknown", "cdn-cache-control: max-age=60, &&&\ncache-control: no-store"),
        ("/case", "cdn-cache-control: Max-Age=60\ncache-control: no-store"),
        // Valid, but the lifetime is not a number: it is none.
        ("/type", "cdn-cache-control: max-age=\"60\"\ncache-control: no-store"),
    ] {
        origin.text(path, &format!("HTTP/1.1 200 OK\n{lines}"), "x");
        get(node.addr, HOST, path).await;
        get(node.addr, HOST, path).await;
        assert_eq!(origin.count(path), 2, "{path}");
    }
}

#[tokio::test]
async fn it_is_passed_on_and_counts_at_the_next_node() {
    let (origin, one, other) = two_nodes().await;
    origin.text("/", "HTTP/1.1 200 OK\ncdn-cache-control: max-age=60\ncache-control: no-store", "x");
    get(one.addr, HOST, "/").await;
    for _ in 0..2 {
        let reply = get(other.addr, HOST, "/").await;
        assert_eq!(reply.field("cdn-cache-control"), "max-age=60");
        assert_eq!(reply.field("cache-control"), "no-store");
    }
    assert_eq!(origin.count("/"), 1);
}
