//! Cache-Control, in requests and responses.

use crate::support::client::{get, get_with};
use crate::support::node::HOST;
use crate::world;

#[tokio::test]
async fn only_if_cached_is_from_here_or_504() {
    let (origin, node) = world().await;
    origin.text("/", "HTTP/1.1 200 OK", "x");
    assert_eq!(get_with(node.addr, HOST, "/", "cache-control: only-if-cached").await.status, 504);
    get(node.addr, HOST, "/").await;
    assert_eq!(get_with(node.addr, HOST, "/", "cache-control: only-if-cached").await.status, 200);
}

#[tokio::test]
async fn no_store_in_a_request_stores_nothing_but_may_be_served_from_here() {
    let (origin, node) = world().await;
    origin.text("/", "HTTP/1.1 200 OK", "x");
    get_with(node.addr, HOST, "/", "cache-control: no-store").await;
    assert_eq!(node.proxy.status().objects, 0);
    assert_eq!(get(node.addr, HOST, "/").await.cache(), "coral; fwd=uri-miss; detail=origin; stored");
    assert_eq!(get_with(node.addr, HOST, "/", "cache-control: no-store").await.cache(), "coral; hit");
}

#[tokio::test]
async fn must_understand_stores_what_is_understood_and_nothing_else() {
    let (origin, node) = world().await;
    for (status, count) in [(200, 1), (404, 1), (599, 2), (299, 2)] {
        let path = format!("/{status}");
        origin.text(
            &path,
            &format!("HTTP/1.1 {status} Any\ncache-control: max-age=60, no-store, must-understand"),
            "x",
        );
        get(node.addr, HOST, &path).await;
        get(node.addr, HOST, &path).await;
        assert_eq!(origin.count(&path), count, "{status}");
    }
}

#[tokio::test]
async fn directives_are_read_in_any_case_outside_of_quotes_and_the_least_lifetime_counts() {
    let (origin, node) = world().await;
    for (path, control, fresh) in [
        ("/case", "MaX-aGe=60", true),
        ("/quoted", "ext=\"max-age=60, no-store\", max-age=60", true),
        ("/zeros", "max-age=0060", true),
        ("/two", "max-age=60, max-age=0", false),
        ("/lines", "max-age=0\ncache-control: max-age=60", false),
        ("/float", "max-age=60.5", false),
        ("/negative", "max-age=-60", false),
        ("/word", "max-age=60s", false),
        ("/single", "max-age='60'", false),
        ("/store", "max-age=60, NO-STORE", false),
        ("/named", "max-age=60, private=\"a\"", false),
    ] {
        origin.text(path, &format!("HTTP/1.1 200 OK\ncache-control: {control}"), "x");
        get(node.addr, HOST, path).await;
        get(node.addr, HOST, path).await;
        assert_eq!(origin.count(path), if fresh { 1 } else { 2 }, "{path}");
    }
}
