//! An origin that fails after it was cached: the old copy is served, for up to a day [C10], and the origin left alone.
//!
//! Answers are made stale by an `Age` above their lifetime, so that no test waits for a clock.

mod support;

use coral_dsht::memory::MemoryNetwork;
use support::client::get;
use support::node::{HOST, Node};
use support::origin::{Origin, Step};

/// A minute past its lifetime when it arrives.
const STALE: &str = "HTTP/1.1 200 OK\ncache-control: max-age=40\nage: 100\netag: \"a\"";

async fn stale_then(second: impl FnOnce(&Origin)) -> (Origin, Node) {
    let origin = Origin::start().await;
    origin.text("/page", STALE, "old");
    second(&origin);
    let node = Node::start(&MemoryNetwork::new(), &origin).await;
    assert_eq!(get(node.addr, HOST, "/page").await.text(), "old");
    (origin, node)
}

#[tokio::test]
async fn a_stale_copy_is_confirmed_by_its_tag() {
    let (origin, node) = stale_then(|origin| {
        let head = b"HTTP/1.1 304 Not Modified\r\ncache-control: max-age=600\r\netag: \"a\"\r\n\r\n".to_vec();
        origin.on("/page", vec![Step::Send(head)]);
    })
    .await;
    let reply = get(node.addr, HOST, "/page").await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "old"));
    assert_eq!(reply.cache(), "coral; fwd=stale; fwd-status=304; detail=origin");
    assert_eq!(origin.requests("/page")[1].fields["if-none-match"], "\"a\"");
    assert_eq!(get(node.addr, HOST, "/page").await.cache(), "coral; hit");
    assert_eq!(origin.count("/page"), 2);
}

#[tokio::test]
async fn a_new_version_takes_the_place_of_the_stale_one() {
    let (_, node) = stale_then(|origin| {
        origin.text("/page", "HTTP/1.1 200 OK\ncache-control: max-age=600\netag: \"b\"", "new");
    })
    .await;
    let reply = get(node.addr, HOST, "/page").await;
    assert_eq!((reply.text().as_str(), reply.cache()), ("new", "coral; fwd=stale; detail=origin; stored"));
    let reply = get(node.addr, HOST, "/page").await;
    assert_eq!((reply.text().as_str(), reply.cache()), ("new", "coral; hit"));
}

#[tokio::test]
async fn the_stale_copy_stands_in_for_a_server_error_and_the_origin_is_left_alone() {
    let (origin, node) = stale_then(|origin| {
        origin.text("/page", "HTTP/1.1 503 Service Unavailable", "sorry");
    })
    .await;
    let reply = get(node.addr, HOST, "/page").await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "old"));
    assert_eq!(reply.cache(), "coral; fwd=stale; fwd-status=503; detail=served-stale");
    assert_eq!(get(node.addr, HOST, "/page").await.text(), "old");
    assert_eq!(origin.count("/page"), 2, "not asked again so soon");
}

#[tokio::test]
async fn the_stale_copy_stands_in_for_an_origin_that_hangs_up() {
    let (_, node) = stale_then(|origin| {
        origin.on("/page", vec![Step::Close]);
    })
    .await;
    let reply = get(node.addr, HOST, "/page").await;
    assert_eq!((reply.text().as_str(), reply.cache()), ("old", "coral; fwd=stale; detail=served-stale"));
}

#[tokio::test]
async fn not_found_in_place_of_a_good_copy_is_believed_unless_the_origin_is_in_trouble() {
    let gone = |origin: &Origin| {
        origin.text("/page", "HTTP/1.1 404 Not Found", "gone");
        origin.text("/other", "HTTP/1.1 503 Service Unavailable", "sorry");
    };
    let (_, node) = stale_then(gone).await;
    assert_eq!(get(node.addr, HOST, "/page").await.status, 404);

    let (origin, node) = stale_then(gone).await;
    assert_eq!(get(node.addr, HOST, "/other").await.status, 503);
    let reply = get(node.addr, HOST, "/page").await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "old"));
    assert_eq!(reply.cache(), "coral; fwd=stale; fwd-status=404; detail=served-stale");
    assert_eq!(origin.count("/page"), 2);
}

#[tokio::test]
async fn a_fragment_does_not_replace_a_whole_copy() {
    let (_, node) = stale_then(|origin| {
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nfrag".to_vec();
        origin.on("/page", vec![Step::Send(head), Step::Close]).on("/page", vec![Step::Close]);
    })
    .await;
    assert!(!get(node.addr, HOST, "/page").await.whole);
    assert_eq!(get(node.addr, HOST, "/page").await.text(), "old");
}

#[tokio::test]
async fn what_must_be_revalidated_is_not_served_stale() {
    let origin = Origin::start().await;
    origin
        .text("/page", "HTTP/1.1 200 OK\ncache-control: max-age=40, must-revalidate\nage: 100", "old")
        .on("/page", vec![Step::Close]);
    let node = Node::start(&MemoryNetwork::new(), &origin).await;
    get(node.addr, HOST, "/page").await;
    assert_eq!(get(node.addr, HOST, "/page").await.status, 502);
}
