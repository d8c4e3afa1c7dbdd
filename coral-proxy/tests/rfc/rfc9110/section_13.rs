//! Conditional requests: what a client's own conditions get.

use crate::support::client::{get, get_with};
use crate::support::node::HOST;
use crate::world;

const HEAD: &str =
    "HTTP/1.1 200 OK\ncache-control: max-age=60\netag: \"a\"\nlast-modified: Thu, 01 Jan 2026 11:00:00 GMT";

#[tokio::test]
async fn a_client_whose_copy_is_good_gets_304() {
    let (origin, node) = world().await;
    origin.text("/", HEAD, "0123456789");
    // The first is a miss: the condition is the client's and does not reach the origin.
    for condition in
        ["if-none-match: \"a\"", "if-none-match: W/\"a\"", "if-modified-since: Thu, 01 Jan 2026 11:00:00 GMT"]
    {
        let reply = get_with(node.addr, HOST, "/", condition).await;
        assert_eq!((reply.status, reply.field("etag"), reply.body.len()), (304, "\"a\"", 0), "{condition}");
    }
    assert_eq!(get_with(node.addr, HOST, "/", "if-none-match: \"b\"").await.status, 200);
    assert_eq!(origin.count("/"), 1);
}

/// RFC 9111 §4.3.2: without Last-Modified the Date stands for it. A copy from before may be another one.
#[tokio::test]
async fn what_does_not_say_when_it_was_changed_is_as_old_as_its_date() {
    let (origin, node) = world().await;
    origin.text("/", "HTTP/1.1 200 OK\ncache-control: max-age=9999999999\ndate: Thu, 01 Jan 2026 11:00:00 GMT", "x");
    get(node.addr, HOST, "/").await;
    let since = async |time: &str| {
        get_with(node.addr, HOST, "/", &format!("if-modified-since: Thu, 01 Jan 2026 {time} GMT")).await
    };
    assert_eq!((since("11:00:00").await.status, since("10:59:59").await.status), (304, 200));
    assert_eq!(origin.count("/"), 1);
}
