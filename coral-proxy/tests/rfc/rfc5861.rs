//! Stale content: while it is asked about (§3), and when the origin fails (§4).

use std::time::Duration;

use crate::support::client::{get, get_with};
use crate::support::node::HOST;
use crate::support::origin::{Gate, Step};
use crate::world;

/// A minute past its lifetime when it arrives, and within ten more.
const BEHIND: &str = "HTTP/1.1 200 OK\ncache-control: max-age=40, stale-while-revalidate=660\nage: 100\netag: \"a\"";

#[tokio::test]
async fn a_stale_copy_is_served_at_once_and_one_request_asks_about_it() {
    let ((origin, node), gate) = (world().await, Gate::closed());
    let new = b"HTTP/1.1 200 OK\r\ncache-control: max-age=600\r\ncontent-length: 3\r\n\r\nnew".to_vec();
    origin.text("/", BEHIND, "old").on("/", vec![Step::Wait(gate.clone()), Step::Send(new)]);
    get(node.addr, HOST, "/").await;
    for _ in 0..3 {
        let reply = get(node.addr, HOST, "/").await;
        assert_eq!((reply.text().as_str(), reply.cache()), ("old", "coral; hit; detail=revalidating"));
    }
    gate.open();
    let renewed = async { while get(node.addr, HOST, "/").await.text() != "new" {} };
    tokio::time::timeout(Duration::from_secs(20), renewed).await.expect("the new version takes its place");
    assert_eq!(origin.count("/"), 2);
    assert_eq!(origin.requests("/")[1].fields["if-none-match"], "\"a\"");
}

#[tokio::test]
async fn it_ends_and_is_no_excuse_where_stale_copies_are_forbidden() {
    let (origin, node) = world().await;
    for (path, control) in [
        ("/over", "max-age=40, stale-while-revalidate=30"),
        ("/must", "max-age=40, stale-while-revalidate=600, must-revalidate"),
        ("/shared", "s-maxage=40, stale-while-revalidate=600"),
    ] {
        origin.text(path, &format!("HTTP/1.1 200 OK\ncache-control: {control}\nage: 100"), "x");
        get(node.addr, HOST, path).await;
        assert_eq!(get(node.addr, HOST, path).await.cache(), "coral; fwd=stale; detail=origin; stored", "{path}");
    }
}

#[tokio::test]
async fn another_node_is_not_given_what_is_stale_unless_it_takes_it_as_such() {
    let (origin, node) = world().await;
    origin.text("/", BEHIND, "old");
    get(node.addr, HOST, "/").await;
    let as_a_node = |control: &str| format!("via: 1.1 coral (CoralWebPrx)\ncache-control: {control}");
    assert_eq!(get_with(node.addr, HOST, "/", &as_a_node("only-if-cached")).await.status, 504);
    let reply = get_with(node.addr, HOST, "/", &as_a_node("only-if-cached, max-stale")).await;
    assert_eq!((reply.text().as_str(), reply.cache()), ("old", "coral; hit; detail=stale"));
}

#[tokio::test]
async fn stale_if_error_bounds_how_long_a_copy_stands_in() {
    let (origin, node) = world().await;
    for (path, control, status) in [
        ("/within", "max-age=40, stale-if-error=600", 200),
        ("/over", "max-age=40, stale-if-error=30", 503),
        ("/must", "max-age=40, stale-if-error=600, must-revalidate", 503),
    ] {
        origin.text(path, &format!("HTTP/1.1 200 OK\ncache-control: {control}\nage: 100"), "x").text(
            path,
            "HTTP/1.1 503 Service Unavailable",
            "sorry",
        );
        get(node.addr, HOST, path).await;
        assert_eq!(get(node.addr, HOST, path).await.status, status, "{path}");
    }
}
