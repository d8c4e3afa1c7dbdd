//! Storing incomplete responses: parts.

use bytesize::ByteSize;
use coral_dsht::Levels;
use coral_dsht::memory::MemoryNetwork;
use coral_proxy::reference::parts_key;
use coral_proxy::{Config, index_key};

use crate::support::client::{Reply, Transfer, get, get_with};
use crate::support::film::{HIT, TOTAL, check, slice};
use crate::support::node::{HOST, Node};
use crate::support::origin::{File, Gate, Origin, Step, pattern};
use crate::support::until;
use crate::{two_nodes, world};

/// What has no strong validator is not to be had in slices.
const WEAK: &str = "etag: W/\"a\"";

/// A node that has room for a whole film of this kind in memory.
async fn cinema(file: &File) -> (Origin, Node) {
    let origin = Origin::start().await;
    origin.file("/", file);
    let change = |config: &mut Config| config.memory_object_limit = ByteSize::mib(8);
    let node = Node::start_with(&MemoryNetwork::new(), &origin, change).await;
    (origin, node)
}

async fn range(node: &Node, path: &str, range: &str) -> Reply {
    get_with(node.addr, HOST, path, &format!("range: {range}")).await
}

#[tokio::test]
async fn what_is_sought_is_fetched_alone_and_cut_from_again() {
    let film = File::of(TOTAL, WEAK);
    let (origin, node) = cinema(&film).await;
    check(&range(&node, "/", "bytes=4-9").await, &film, 4..10);
    assert_eq!(origin.ranges("/"), [&slice(0), "4-9"]);

    for (wanted, bytes) in [("bytes=4-9", 4..10), ("bytes=6-8", 6..9), ("bytes=9-9", 9..10)] {
        let reply = range(&node, "/", wanted).await;
        check(&reply, &film, bytes.clone());
        let length = (bytes.end - bytes.start).to_string();
        assert_eq!((reply.cache(), reply.field("content-length")), (HIT, &*length), "{wanted}");
    }
    let reply = get_with(node.addr, HOST, "/", "range: bytes=6-8\nif-none-match: \"a\"").await;
    assert_eq!((reply.status, reply.body.len()), (304, 0));
    assert_eq!(origin.count("/"), 2);
}

#[tokio::test]
async fn what_is_not_wholly_inside_is_fetched_and_a_part_never_passes_for_the_whole() {
    let film = File::of(TOTAL, WEAK);
    let (origin, node) = cinema(&film).await;
    check(&range(&node, "/", "bytes=4-9").await, &film, 4..10);
    check(&range(&node, "/", "bytes=5-11").await, &film, 5..12);
    let whole = get(node.addr, HOST, "/").await;
    assert!(whole.status == 200 && whole.body == film.bytes(0..TOTAL));
    assert_eq!(origin.ranges("/"), [&slice(0), "4-9", "5-11", "all"]);
    check(&range(&node, "/", "bytes=18-").await, &film, 18..TOTAL);
    assert_eq!(origin.count("/"), 4);
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
            assert_eq!(origin.count(path), asked + 1, "{path}: first as a slice");
        }
    }
    assert_eq!(node.proxy.status().objects, 0);
}

#[tokio::test]
async fn a_crowd_that_seeks_the_same_asks_once() {
    let gate = Gate::closed();
    let film = File::of(TOTAL, WEAK);
    let (origin, node) = cinema(&film.clone().after(vec![Step::Wait(gate.clone())])).await;
    let addr = node.addr;
    let crowd: Vec<_> =
        (0..5).map(|_| tokio::spawn(async move { get_with(addr, HOST, "/", "range: bytes=4-9").await })).collect();
    until(async || origin.count("/") > 0 && node.proxy.status().coalesced >= 4).await;
    gate.open();
    for one in crowd {
        check(&one.await.unwrap(), &film, 4..10);
    }
    assert_eq!(origin.ranges("/"), [&slice(0), "4-9"]);
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
    let film = File::of(TOTAL, WEAK);
    let (origin, one, other) = two_nodes().await;
    origin.file("/", &film);
    range(&one, "/", "bytes=4-9").await;
    let url = index_key(&format!("http://{HOST}/"), &[], &[]).unwrap();
    let named = async |key| one.dsht.get(key, Levels::ALL).await.unwrap().values.len();
    until(async || named(parts_key(url)).await == 1).await;
    assert_eq!(named(url).await, 0);
    let reply = get(other.addr, HOST, "/").await;
    assert!(reply.body == film.bytes(0..TOTAL));
    assert_eq!(reply.cache(), "coral; fwd=uri-miss; detail=origin");
}

/// A film of 600,000 bytes of which the first thousand come, and the rest when the gate opens.
fn film(fields: &str, gate: &Gate) -> Vec<Step> {
    let head = format!("HTTP/1.1 200 OK\ncache-control: max-age=60\n{fields}content-length: 600000\n\n");
    let head = head.replace('\n', "\r\n").into_bytes();
    vec![Step::Send(head), Step::Pattern(0, 1000), Step::Wait(gate.clone()), Step::Pattern(1000, 599_000)]
}

#[tokio::test]
async fn who_seeks_far_ahead_of_what_arrives_does_not_wait_for_it() {
    let (network, origin, gate) = (MemoryNetwork::new(), Origin::start().await, Gate::closed());
    let film = File::of(TOTAL, "etag: \"a\"\naccept-ranges: bytes");
    origin.file("/film", &film.clone().interrupted(1000, vec![Step::Wait(gate.clone())]));
    let change = |config: &mut Config| config.memory_object_limit = ByteSize::mib(8);
    let one = Node::start_with(&network, &origin, change).await;
    let other = Node::start(&network, &origin).await;
    let mut whole = Transfer::begin(one.addr, &format!("GET /film HTTP/1.1\nhost: {HOST}\n\n")).await;
    whole.read(1000).await;
    origin.file("/film", &film);

    for (node, place, asked) in [(&one, 3_500_000, 2), (&other, 2_500_000, 3)] {
        let scene = range(node, "/film", &format!("bytes={place}-{}", place + 99)).await;
        check(&scene, &film, place..place + 100);
        assert_eq!(origin.count("/film"), asked);
    }
    let addr = one.addr;
    let next = tokio::spawn(async move { get_with(addr, HOST, "/film", "range: bytes=1500-1599").await });
    until(async || one.proxy.status().coalesced > 0).await;
    gate.open();
    check(&next.await.unwrap(), &film, 1500..1600);
    assert!(whole.finish().await.body == film.bytes(1000..TOTAL));
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
