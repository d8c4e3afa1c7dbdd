//! Several nodes, one index: the origin is asked once, and a node that is gone costs little [C04 §3.2].

mod support;

use coral_dsht::memory::MemoryNetwork;
use coral_dsht::{Levels, Value};
use coral_proxy::{decode_reference, encode_reference, index_key};
use std::time::Duration;

use support::client::{get, get_with};
use support::node::{HOST, Node};
use support::origin::{Gate, Origin, Step};

const OK: &str = "HTTP/1.1 200 OK\ncache-control: max-age=600\netag: \"a\"";

fn key(path: &str) -> coral_dsht::Key {
    index_key(&format!("http://{HOST}{path}"), &[], &[]).unwrap()
}

async fn references(node: &Node, path: &str) -> Vec<std::net::SocketAddr> {
    let found = node.dsht.get(key(path), Levels::ALL).await.unwrap();
    found.values.iter().filter_map(decode_reference).collect()
}

#[tokio::test]
async fn the_origin_is_asked_once_whichever_node_is_asked() {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    origin.text("/page", OK, "hello");
    let nodes = [
        Node::start(&network, &origin).await,
        Node::start(&network, &origin).await,
        Node::start(&network, &origin).await,
    ];
    let mut seen = Vec::new();
    for node in [&nodes[0], &nodes[1], &nodes[2], &nodes[0], &nodes[1], &nodes[2]] {
        let reply = get(node.addr, HOST, "/page").await;
        assert_eq!((reply.status, reply.text().as_str(), reply.whole), (200, "hello", true));
        seen.push(reply.cache().to_owned());
    }
    let fetched = |source: &str| format!("coral; fwd=uri-miss; detail={source}; stored");
    let (origin_word, peer, hit) = (fetched("origin"), fetched("peer-l0"), "coral; hit".to_owned());
    assert_eq!(seen, [origin_word, peer.clone(), peer, hit.clone(), hit.clone(), hit]);
    assert_eq!(origin.count("/page"), 1);
    let status = nodes[1].proxy.status();
    assert_eq!((status.objects, status.received_from_peers_bytes, status.origin_requests), (1, 5, 0));
    assert_eq!((status.requests["peer-l0"], status.requests["hit"]), (1, 1));
}

#[tokio::test]
async fn a_node_that_stops_withdraws_its_references() {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    origin.text("/page", OK, "hello");
    let (a, b) = (Node::start(&network, &origin).await, Node::start(&network, &origin).await);
    get(a.addr, HOST, "/page").await;
    assert_eq!(references(&b, "/page").await, [a.addr]);
    a.stop().await;
    assert!(references(&b, "/page").await.is_empty());
    assert_eq!(get(b.addr, HOST, "/page").await.text(), "hello");
    assert_eq!(origin.count("/page"), 2);
}

#[tokio::test]
async fn a_reference_to_a_dead_node_costs_an_attempt_and_no_more() {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    origin.text("/page", OK, "hello");
    let (a, b) = (Node::start(&network, &origin).await, Node::start(&network, &origin).await);
    let dead = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    // Not all are nodes: an origin's socket, an address that no node may have, and bytes that are no reference.
    let metadata = "169.254.169.254:80".parse().unwrap();
    for value in
        [encode_reference(dead), encode_reference(origin.addr), encode_reference(metadata), Value::new(b"x").unwrap()]
    {
        a.dsht.put(key("/page"), value, Duration::from_secs(60), Levels::ALL).await.unwrap();
    }
    let reply = get(b.addr, HOST, "/page").await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "hello"));
    assert_eq!(reply.cache(), "coral; fwd=uri-miss; detail=origin; stored");
    assert_eq!(b.proxy.status().errors["peer"], 2, "one refused, one was no node");
}

#[tokio::test]
async fn a_node_that_stalls_or_breaks_off_is_not_asked_again() {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    origin.text("/stalls", OK, "hello").text("/breaks", OK, "hello");
    let broken = b"HTTP/1.1 200 OK\r\ncache-status: coral; hit\r\ncontent-length: 5\r\n\r\nhe".to_vec();
    for (path, steps) in [("/stalls", vec![Step::Stall]), ("/breaks", vec![Step::Send(broken), Step::Close])] {
        let change = |config: &mut coral_proxy::Config| config.peer.first_byte_timeout = Duration::from_millis(200);
        let node = Node::start_with(&network, &origin, change).await;
        let bad = Origin::start().await;
        bad.on(path, steps);
        let reference = encode_reference(bad.addr);
        node.dsht.put(key(path), reference, Duration::from_secs(60), Levels::ALL).await.unwrap();
        let first = get(node.addr, HOST, path).await;
        assert_eq!(first.whole, path == "/stalls", "a cut body is seen to be cut");
        assert_eq!(get(node.addr, HOST, path).await.text(), "hello");
        assert_eq!((bad.count(path), node.proxy.status().errors["peer"]), (1, 1), "{path}");
    }
}

#[tokio::test]
async fn a_peer_answers_from_what_it_has_and_never_asks_further() {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    origin.text("/page", OK, "hello");
    let node = Node::start(&network, &origin).await;
    let as_peer = "cache-control: only-if-cached\nvia: 1.1 coral (CoralWebPrx)";
    let reply = get_with(node.addr, HOST, "/page", as_peer).await;
    assert_eq!((reply.status, origin.count("/page")), (504, 0));
    let refusal = reply.body.len() as u64;
    get(node.addr, HOST, "/page").await;
    let reply = get_with(node.addr, HOST, "/page", as_peer).await;
    assert_eq!((reply.status, reply.cache()), (200, "coral; hit"));
    assert_eq!(node.proxy.status().sent_to_peers_bytes - refusal, 5);
}

#[tokio::test]
async fn requests_at_one_moment_become_one_fetch() {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    let gate = Gate::closed();
    let head = b"HTTP/1.1 200 OK\r\ncache-control: max-age=600\r\ncontent-length: 5\r\n\r\n".to_vec();
    origin.on("/page", vec![Step::Wait(gate.clone()), Step::Send(head), Step::Send(b"hello".to_vec())]);
    let node = Node::start(&network, &origin).await;
    let clients: Vec<_> = (0..20).map(|_| tokio::spawn(get(node.addr, HOST, "/page"))).collect();
    while node.proxy.status().coalesced < 19 {
        tokio::task::yield_now().await;
    }
    gate.open();
    for client in clients {
        assert_eq!(client.await.unwrap().text(), "hello");
    }
    assert_eq!(origin.count("/page"), 1);
}

#[tokio::test]
async fn what_cannot_be_stored_does_not_queue() {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    let (first, second) = (Gate::closed(), Gate::closed());
    let head = b"HTTP/1.1 200 OK\r\ncache-control: private\r\ncontent-length: 5\r\n\r\n".to_vec();
    let answer = |gate: &Gate| vec![Step::Send(head.clone()), Step::Wait(gate.clone()), Step::Send(b"hello".to_vec())];
    origin.on("/own", answer(&first)).on("/own", answer(&second));
    let node = Node::start(&network, &origin).await;
    let slow = tokio::spawn(get(node.addr, HOST, "/own"));
    while origin.count("/own") < 1 {
        tokio::task::yield_now().await;
    }
    second.open();
    assert_eq!(get(node.addr, HOST, "/own").await.text(), "hello");
    assert!(!slow.is_finished());
    first.open();
    assert_eq!(slow.await.unwrap().text(), "hello");
    assert_eq!((origin.count("/own"), node.proxy.status().objects), (2, 0));
}
