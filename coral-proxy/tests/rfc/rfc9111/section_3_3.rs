//! Storing incomplete responses: parts.

use crate::support::client::{Reply, Transfer, get, get_with};
use crate::support::node::{HOST, Node};
use crate::support::origin::{Gate, Origin, Step, pattern};
use crate::support::until;
use crate::{two_nodes, world};

const PART: &str = "HTTP/1.1 206 Partial Content\ncontent-range: bytes 4-9/20\ncache-control: max-age=60\netag: \"a\"";

async fn range(node: &Node, path: &str, range: &str) -> Reply {
    get_with(node.addr, HOST, path, &format!("range: {range}")).await
}

#[tokio::test]
async fn what_is_sought_is_fetched_alone_and_cut_from_again() {
    let (origin, node) = world().await;
    origin.text("/", PART, "456789");
    let reply = range(&node, "/", "bytes=4-9").await;
    assert_eq!((reply.status, reply.text().as_str(), reply.field("content-range")), (206, "456789", "bytes 4-9/20"));
    assert_eq!(origin.requests("/")[0].fields["range"], "bytes=4-9");

    for (wanted, text, place) in [
        ("bytes=4-9", "456789", "bytes 4-9/20"),
        ("bytes=6-8", "678", "bytes 6-8/20"),
        ("bytes=9-9", "9", "bytes 9-9/20"),
    ] {
        let reply = range(&node, "/", wanted).await;
        assert_eq!((reply.status, reply.text().as_str(), reply.cache()), (206, text, "coral; hit"), "{wanted}");
        assert_eq!((reply.field("content-range"), reply.field("content-length")), (place, &*text.len().to_string()));
    }
    let reply = get_with(node.addr, HOST, "/", "range: bytes=6-8\nif-none-match: \"a\"").await;
    assert_eq!((reply.status, reply.body.len()), (304, 0));
    assert_eq!(origin.count("/"), 1);
}

#[tokio::test]
async fn what_is_not_wholly_inside_is_fetched_and_a_part_never_passes_for_the_whole() {
    let (origin, node) = world().await;
    let wider = "HTTP/1.1 206 Partial Content\ncontent-range: bytes 5-11/20\ncache-control: max-age=60";
    origin.text("/", PART, "456789").text("/", wider, "5678901").text("/", "HTTP/1.1 200 OK", "01234567890123456789");
    range(&node, "/", "bytes=4-9").await;
    assert_eq!(range(&node, "/", "bytes=5-11").await.text(), "5678901");
    let whole = get(node.addr, HOST, "/").await;
    assert_eq!((whole.status, whole.text().as_str()), (200, "01234567890123456789"));
    assert!(!origin.requests("/")[2].fields.contains_key("range"), "parts are not joined without a strong validator");
    assert_eq!(range(&node, "/", "bytes=18-").await.text(), "89");
    assert_eq!(origin.count("/"), 3);
}

#[tokio::test]
async fn who_begins_at_the_beginning_gets_the_whole_stored() {
    let (origin, node) = world().await;
    origin.text("/", "HTTP/1.1 200 OK\ncache-control: max-age=60", "0123456789");
    assert_eq!(range(&node, "/", "bytes=0-3").await.text(), "0123");
    assert!(!origin.requests("/")[0].fields.contains_key("range"));
    assert_eq!(range(&node, "/", "bytes=-2").await.text(), "89");
    assert_eq!(origin.count("/"), 1);
}

#[tokio::test]
async fn an_origin_that_knows_no_ranges_gives_the_whole_and_it_is_stored() {
    let (origin, node) = world().await;
    origin.text("/", "HTTP/1.1 200 OK\ncache-control: max-age=60", "0123456789");
    let reply = range(&node, "/", "bytes=7-").await;
    assert_eq!((reply.status, reply.text().as_str()), (206, "789"));
    assert_eq!(get(node.addr, HOST, "/").await.cache(), "coral; hit");
}

#[tokio::test]
async fn what_does_not_say_which_part_it_is_is_passed_on_and_not_stored() {
    let (origin, node) = world().await;
    for (path, line) in [("/total", "bytes 4-9/*"), ("/more", "bytes 4-6/20"), ("/order", "bytes 9-4/20")] {
        origin.text(
            path,
            &format!("HTTP/1.1 206 Partial Content\ncontent-range: {line}\ncache-control: max-age=60"),
            "456789",
        );
        for asked in 1..=2 {
            assert_eq!(range(&node, path, "bytes=4-9").await.text(), "456789", "{path}");
            assert_eq!(origin.count(path), asked, "{path}");
        }
    }
    assert_eq!(node.proxy.status().objects, 0);
}

#[tokio::test]
async fn a_crowd_that_seeks_the_same_asks_once() {
    let (origin, node) = world().await;
    let gate = Gate::closed();
    let head = format!("{PART}\ncontent-length: 6\n\n").replace('\n', "\r\n").into_bytes();
    origin.on("/", vec![Step::Wait(gate.clone()), Step::Send(head), Step::Send(b"456789".to_vec())]);
    let addr = node.addr;
    let crowd: Vec<_> =
        (0..5).map(|_| tokio::spawn(async move { get_with(addr, HOST, "/", "range: bytes=4-9").await })).collect();
    wait_until(&origin, &node).await;
    gate.open();
    for one in crowd {
        let reply = one.await.unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (206, "456789"));
    }
    assert_eq!(origin.count("/"), 1);
}

/// Until the origin has been asked, and four others wait for the one who did.
async fn wait_until(origin: &Origin, node: &Node) {
    until(async || origin.count("/") > 0 && node.proxy.status().coalesced >= 4).await;
}

#[tokio::test]
async fn a_part_comes_from_another_node_that_has_the_whole() {
    let (origin, one, other) = two_nodes().await;
    origin.text("/", "HTTP/1.1 200 OK\ncache-control: max-age=60\netag: \"a\"", "0123456789");
    get(one.addr, HOST, "/").await;
    let reply = range(&other, "/", "bytes=4-6").await;
    assert_eq!((reply.status, reply.text().as_str(), reply.field("content-range")), (206, "456", "bytes 4-6/10"));
    assert_eq!(reply.cache(), "coral; fwd=uri-miss; detail=peer-l0; stored");
    assert_eq!((range(&other, "/", "bytes=5-6").await.cache(), origin.count("/")), ("coral; hit", 1));
}

#[tokio::test]
async fn a_part_is_not_told_to_others_as_if_it_were_the_whole() {
    let (origin, one, other) = two_nodes().await;
    origin.text("/", PART, "456789").text("/", "HTTP/1.1 200 OK\ncache-control: max-age=60", "whole");
    range(&one, "/", "bytes=4-9").await;
    assert_eq!(one.proxy.status().references, 0);
    let reply = get(other.addr, HOST, "/").await;
    assert_eq!((reply.text().as_str(), reply.cache()), ("whole", "coral; fwd=uri-miss; detail=origin; stored"));
}

/// A film of 600,000 bytes of which the first thousand come, and the rest when the gate opens.
fn film(fields: &str, gate: &Gate) -> Vec<Step> {
    let head = format!("HTTP/1.1 200 OK\ncache-control: max-age=60\n{fields}content-length: 600000\n\n");
    let head = head.replace('\n', "\r\n").into_bytes();
    vec![Step::Send(head), Step::Pattern(0, 1000), Step::Wait(gate.clone()), Step::Pattern(1000, 599_000)]
}

/// A hundred bytes of it.
fn scene(place: u64) -> Vec<Step> {
    let range = format!("content-range: bytes {place}-{}/600000", place + 99);
    let head = format!("HTTP/1.1 206 Partial Content\ncache-control: max-age=60\n{range}\ncontent-length: 100\n\n");
    vec![Step::Send(head.replace('\n', "\r\n").into_bytes()), Step::Pattern(place, 100)]
}

#[tokio::test]
async fn who_seeks_far_ahead_of_what_arrives_does_not_wait_for_it() {
    let (origin, one, other) = two_nodes().await;
    let gate = Gate::closed();
    origin.on("/film", film("accept-ranges: bytes\n", &gate));
    origin.on("/film", scene(500_000)).on("/film", scene(400_000));
    let mut whole = Transfer::begin(one.addr, &format!("GET /film HTTP/1.1\nhost: {HOST}\n\n")).await;
    whole.read(1000).await;

    for (node, place, asked) in [(&one, 500_000, 2), (&other, 400_000, 3)] {
        let scene = range(node, "/film", &format!("bytes={place}-{}", place + 99)).await;
        assert_eq!((scene.status, origin.count("/film")), (206, asked));
        assert!(scene.body == pattern(place, 100));
    }
    let addr = one.addr;
    let next = tokio::spawn(async move { get_with(addr, HOST, "/film", "range: bytes=1500-1599").await });
    until(async || one.proxy.status().coalesced > 0).await;
    gate.open();
    let next = next.await.unwrap();
    assert!(next.status == 206 && next.body == pattern(1500, 100));
    assert!(whole.finish().await.body == pattern(1000, 599_000));
    assert_eq!(origin.count("/film"), 3, "what comes next is waited for");
}

#[tokio::test]
async fn where_the_origin_may_not_serve_ranges_the_whole_is_waited_for() {
    let (origin, node) = world().await;
    let gate = Gate::closed();
    origin.on("/film", film("", &gate));
    let mut whole = Transfer::begin(node.addr, &format!("GET /film HTTP/1.1\nhost: {HOST}\n\n")).await;
    whole.read(1000).await;
    let addr = node.addr;
    let scene = tokio::spawn(async move { get_with(addr, HOST, "/film", "range: bytes=500000-500099").await });
    until(async || node.proxy.status().coalesced > 0).await;
    gate.open();
    assert!(scene.await.unwrap().body == pattern(500_000, 100));
    assert_eq!(origin.count("/film"), 1);
}
