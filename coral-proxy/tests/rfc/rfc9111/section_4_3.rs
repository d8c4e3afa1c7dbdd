//! Validation: a stale copy is asked about, and freshened.

use crate::support::client::{Reply, get, request};
use crate::support::node::{HOST, Node};
use crate::support::origin::Step;
use crate::world;

/// A minute past its lifetime when it arrives.
const STALE: &str = "HTTP/1.1 200 OK\ncache-control: max-age=40\nage: 100\netag: \"a\"\na: 1\nb: 1";

async fn head(node: &Node) -> Reply {
    request(node.addr, &format!("HEAD / HTTP/1.1\nhost: {HOST}\n\n")).await
}

/// RFC 9111 §3.2: all fields but those that describe the body.
#[tokio::test]
async fn a_304_updates_the_stored_fields() {
    let (origin, node) = world().await;
    let news =
        "HTTP/1.1 304 Not Modified\r\ncache-control: max-age=600\r\netag: \"a\"\r\nb: 2\r\ncontent-length: 9\r\n\r\n";
    origin.text("/", STALE, "old").on("/", vec![Step::Send(news.as_bytes().to_vec())]);
    get(node.addr, HOST, "/").await;
    for cache in ["coral; fwd=stale; fwd-status=304; detail=origin", "coral; hit"] {
        let reply = get(node.addr, HOST, "/").await;
        assert_eq!((reply.cache(), reply.text().as_str(), reply.field("content-length")), (cache, "old", "3"));
        assert_eq!((reply.field("a"), reply.field("b")), ("1", "2"));
    }
    assert_eq!(origin.requests("/")[1].fields["if-none-match"], "\"a\"");
}

/// RFC 9111 §4.3.5.
#[tokio::test]
async fn the_answer_to_a_head_freshens_the_same_version_and_no_other() {
    let (origin, node) = world().await;
    let same = b"HTTP/1.1 200 OK\r\ncache-control: max-age=600\r\netag: \"a\"\r\ncontent-length: 3\r\n\r\n".to_vec();
    origin.text("/", STALE, "old").on("/", vec![Step::Send(same)]);
    get(node.addr, HOST, "/").await;
    assert_eq!(head(&node).await.cache(), "coral; fwd=bypass; detail=origin");
    let reply = get(node.addr, HOST, "/").await;
    assert_eq!((reply.cache(), reply.text().as_str(), origin.count("/")), ("coral; hit", "old", 2));

    let (origin, node) = world().await;
    let other = b"HTTP/1.1 200 OK\r\ncache-control: max-age=600\r\netag: \"b\"\r\ncontent-length: 3\r\n\r\n".to_vec();
    origin.text("/", STALE, "old").on("/", vec![Step::Send(other)]).text("/", "HTTP/1.1 200 OK\netag: \"b\"", "new");
    get(node.addr, HOST, "/").await;
    head(&node).await;
    assert_eq!(get(node.addr, HOST, "/").await.text(), "new");
}
