//! Several nodes, one index: the origin is asked once, and a node that is gone costs little [C04 §3.2].

mod support;

use coral_dsht::memory::MemoryNetwork;
use coral_dsht::{Levels, Value};
use coral_proxy::{decode_reference, encode_reference, index_key};
use std::net::SocketAddr;
use std::time::Duration;

use support::client::{Transfer, get, get_with, request};
use support::node::{HOST, Node, ask_all, nodes};
use support::origin::{Gate, Origin, Step};
use support::script::Script;
use support::until;

const OK: &str = "HTTP/1.1 200 OK\ncache-control: max-age=600\netag: \"a\"";

fn key(path: &str) -> coral_dsht::Key {
    index_key(&format!("http://{HOST}{path}"), &[], &[]).unwrap()
}

async fn references(node: &Node, path: &str) -> Vec<SocketAddr> {
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
async fn who_is_read_from_is_not_given_what_comes_of_it() {
    let (origin, parent, script) = (Origin::start().await, Origin::start().await, Script::default());
    let head = "HTTP/1.1 200 OK\r\ncache-status: coral; hit\r\ncontent-length: 5\r\n\r\nhe";
    parent.on("/page", vec![Step::Send(head.into()), Step::Stall]);
    let node = Node::start_on(|addr| script.index(addr), &origin, |_| {}).await;
    script.names(node.addr, &[parent.addr]);
    let mut transfer = Transfer::begin(node.addr, &format!("GET /page HTTP/1.1\nhost: {HOST}\n\n")).await;
    assert_eq!(transfer.read(2).await, b"he");
    for (asks, status) in [(parent.addr, 504), (origin.addr, 200)] {
        let fields =
            format!("cache-control: only-if-cached\nvia: 1.1 coral (CoralWebPrx)\ncoral-waiting: wait=100, {asks}");
        let reply = Transfer::begin(node.addr, &format!("GET /page HTTP/1.1\nhost: {HOST}\n{fields}\n\n")).await.reply;
        assert_eq!(reply.status, status);
    }
}

#[tokio::test]
async fn requests_at_one_moment_become_one_fetch() {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    let gate = Gate::closed();
    let head = b"HTTP/1.1 200 OK\r\ncache-control: max-age=600\r\ncontent-length: 5\r\n\r\n".to_vec();
    origin.on("/page", vec![Step::Wait(gate.clone()), Step::Send(head), Step::Send(b"hello".to_vec())]);
    let node = Node::start(&network, &origin).await;
    let clients: Vec<_> = (0..20).map(|_| tokio::spawn(get(node.addr, HOST, "/page"))).collect();
    until(async || node.proxy.status().coalesced >= 19).await;
    gate.open();
    for client in clients {
        assert_eq!(client.await.unwrap().text(), "hello");
    }
    assert_eq!(origin.count("/page"), 1);
}

#[tokio::test]
async fn a_crowd_for_what_cannot_be_stored_waits_for_two_answers_and_not_for_a_line_of_them() {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    let (first, rest) = (Gate::closed(), Gate::closed());
    let head = b"HTTP/1.1 200 OK\r\ncache-control: private\r\ncontent-length: 5\r\n\r\nhello".to_vec();
    for gate in [&first, &rest] {
        origin.on("/own", vec![Step::Wait(gate.clone()), Step::Send(head.clone())]);
    }
    let node = Node::start(&network, &origin).await;
    let clients: Vec<_> = (0..50).map(|_| tokio::spawn(get(node.addr, HOST, "/own"))).collect();
    until(async || node.proxy.status().coalesced == 49).await;
    first.open();
    // None of them is answered before all have asked.
    until(async || origin.count("/own") == 50).await;
    rest.open();
    for client in clients {
        assert_eq!(client.await.unwrap().text(), "hello");
    }
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

#[tokio::test]
async fn nodes_that_miss_in_the_same_moment_ask_the_origin_once() {
    let (network, origin, gate) = (MemoryNetwork::new(), Origin::start().await, Gate::closed());
    let head = format!("{}\r\ncontent-length: 5\r\n\r\n", OK.replace('\n', "\r\n")).into_bytes();
    origin.on("/page", vec![Step::Wait(gate.clone()), Step::Send(head), Step::Send(b"hello".to_vec())]);
    let nodes = nodes(5, &network, &origin).await;
    let clients = ask_all(&nodes, "/page");
    until(async || references(&nodes[0], "/page").await.len() == 5).await;
    gate.open();
    for client in clients {
        let reply = client.await.unwrap();
        assert_eq!((reply.status, reply.text().as_str(), reply.whole), (200, "hello", true));
    }
    assert_eq!(origin.count("/page"), 1);
    assert!(nodes.iter().all(|node| node.proxy.status().objects == 1));
}

#[tokio::test]
async fn nodes_whose_copies_are_stale_ask_the_origin_once_whether_they_are_still_good() {
    let (network, origin, gate) = (MemoryNetwork::new(), Origin::start().await, Gate::closed());
    let nodes = nodes(3, &network, &origin).await;
    for node in &nodes {
        origin.text("/page", "HTTP/1.1 200 OK\ncache-control: max-age=0\netag: \"a\"", "hello");
        get(node.addr, HOST, "/page").await;
    }
    assert_eq!(origin.count("/page"), 3, "what is stale at once is nobody's to give");
    let confirmed = b"HTTP/1.1 304 Not Modified\r\ncache-control: max-age=600\r\netag: \"a\"\r\n\r\n".to_vec();
    origin.on("/page", vec![Step::Wait(gate.clone()), Step::Send(confirmed)]);
    // The last answer stays, so the one before it goes with this request.
    let spent = request(origin.addr, "GET /page HTTP/1.1\n\n").await;
    assert_eq!(spent.status, 200);
    let clients = ask_all(&nodes, "/page");
    until(async || references(&nodes[0], "/page").await.len() == 3).await;
    gate.open();
    for client in clients {
        let reply = client.await.unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (200, "hello"));
        assert!(reply.cache().contains("fwd-status=304"), "{}", reply.cache());
    }
    assert_eq!(origin.count("/page"), 5);
}

#[tokio::test]
async fn when_the_one_who_fetches_dies_the_next_one_takes_its_place() {
    let (network, origin, gate) = (MemoryNetwork::new(), Origin::start().await, Gate::closed());
    let head = format!("{}\r\ncontent-length: 5\r\n\r\n", OK.replace('\n', "\r\n")).into_bytes();
    origin.on("/page", vec![Step::Wait(gate.clone()), Step::Send(head), Step::Send(b"hello".to_vec())]);
    let first = Node::start(&network, &origin).await;
    let _lost = tokio::spawn(get(first.addr, HOST, "/page"));
    until(async || origin.count("/page") == 1).await;
    let nodes = nodes(4, &network, &origin).await;
    let clients = ask_all(&nodes, "/page");
    until(async || references(&nodes[0], "/page").await.len() == 5).await;
    first.crash().await;
    until(async || origin.count("/page") == 2).await;
    gate.open();
    for client in clients {
        assert_eq!(client.await.unwrap().text(), "hello");
    }
    assert_eq!(origin.count("/page"), 2);
}

#[tokio::test]
async fn when_the_one_who_fetches_dies_within_the_body_one_of_the_others_gets_the_rest_for_all() {
    let (network, origin, gate) = (MemoryNetwork::new(), Origin::start().await, Gate::closed());
    let head = format!("{}\r\ncontent-length: 5\r\n\r\nhe", OK.replace('\n', "\r\n")).into_bytes();
    let rest =
        "HTTP/1.1 206 Partial Content\r\netag: \"a\"\r\ncontent-range: bytes 2-4/5\r\ncontent-length: 3\r\n\r\nllo";
    origin.on("/page", vec![Step::Send(head), Step::Stall]);
    origin.on("/page", vec![Step::Wait(gate.clone()), Step::Send(rest.into())]);
    let first = Node::start(&network, &origin).await;
    let text = format!("GET /page HTTP/1.1\nhost: {HOST}\n\n");
    let _lost = Transfer::begin(first.addr, &text).await;
    let nodes = nodes(4, &network, &origin).await;
    let mut transfers = Vec::new();
    for node in &nodes {
        let mut transfer = Transfer::begin(node.addr, &text).await;
        assert_eq!(transfer.read(2).await, b"he");
        transfers.push(transfer);
    }
    first.crash().await;
    until(async || origin.count("/page") == 2).await;
    // The others wait for the one that asks, however long it takes.
    until(async || nodes.iter().map(Node::told_to_wait).sum::<u64>() >= 3).await;
    gate.open();
    for transfer in &mut transfers {
        let rest = transfer.finish().await;
        assert_eq!((rest.text().as_str(), rest.whole), ("llo", true));
    }
    assert_eq!(origin.count("/page"), 2);
    for client in ask_all(&nodes, "/page") {
        assert_eq!(client.await.unwrap().cache(), "coral; hit");
    }
}

#[tokio::test]
async fn what_is_not_to_be_shared_is_asked_for_by_all_at_once() {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    let (first, rest) = (Gate::closed(), Gate::closed());
    let head = b"HTTP/1.1 200 OK\r\ncache-control: private\r\ncontent-length: 5\r\n\r\nhello".to_vec();
    for gate in [&first, &rest] {
        origin.on("/own", vec![Step::Wait(gate.clone()), Step::Send(head.clone())]);
    }
    let nodes = nodes(5, &network, &origin).await;
    let clients = ask_all(&nodes, "/own");
    until(async || references(&nodes[0], "/own").await.len() == 5).await;
    until(async || origin.count("/own") == 1).await;
    first.open();
    // None of them is answered before all have asked.
    until(async || origin.count("/own") == 5).await;
    rest.open();
    for client in clients {
        assert_eq!(client.await.unwrap().text(), "hello");
    }
    until(async || references(&nodes[0], "/own").await.is_empty()).await;
}

#[tokio::test]
async fn when_the_origin_fails_for_the_first_the_others_try_at_once_and_not_in_turn() {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    let (first, rest) = (Gate::closed(), Gate::closed());
    for gate in [&first, &rest] {
        origin
            .on("/bad", vec![Step::Wait(gate.clone()), Step::Send(b"this is not HTTP\r\n\r\n".to_vec()), Step::Close]);
    }
    let nodes = nodes(5, &network, &origin).await;
    let clients = ask_all(&nodes, "/bad");
    until(async || references(&nodes[0], "/bad").await.len() == 5).await;
    until(async || origin.count("/bad") == 1).await;
    first.open();
    until(async || origin.count("/bad") == 5).await;
    rest.open();
    for client in clients {
        assert_eq!(client.await.unwrap().status, 502);
    }
    until(async || references(&nodes[0], "/bad").await.is_empty()).await;
}

#[tokio::test]
async fn head_is_answered_by_a_node_that_has_the_object() {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    origin.text("/page", OK, "hello");
    let nodes = nodes(2, &network, &origin).await;
    get(nodes[0].addr, HOST, "/page").await;
    let reply = request(nodes[1].addr, &format!("HEAD /page HTTP/1.1\nhost: {HOST}\n\n")).await;
    assert_eq!((reply.status, reply.field("content-length"), reply.field("etag")), (200, "5", "\"a\""));
    assert_eq!(reply.cache(), "coral; fwd=bypass; detail=peer-l0");
    assert_eq!(origin.count("/page"), 1);
    assert_eq!(references(&nodes[0], "/page").await, [nodes[0].addr], "who only asked for a head has nothing to give");
}

#[tokio::test]
async fn a_body_that_varies_is_joined_while_it_arrives() {
    let (network, origin, gate) = (MemoryNetwork::new(), Origin::start().await, Gate::closed());
    let head = format!("{}\r\nvary: accept-encoding\r\ncontent-length: 5\r\n\r\n", OK.replace('\n', "\r\n"));
    let head = Step::Send(head.into_bytes());
    origin.on("/page", vec![head, Step::Wait(gate.clone()), Step::Send(b"hello".to_vec())]);
    let nodes = nodes(2, &network, &origin).await;
    let ask = |node: &Node| {
        let text = format!("GET /page HTTP/1.1\nhost: {HOST}\naccept-encoding: gzip\n\n");
        let addr = node.addr;
        async move { Transfer::begin(addr, &text).await }
    };
    let mut transfers = vec![ask(&nodes[0]).await, ask(&nodes[0]).await, ask(&nodes[1]).await, ask(&nodes[1]).await];
    gate.open();
    for transfer in &mut transfers {
        assert_eq!(transfer.finish().await.text(), "hello");
    }
    assert_eq!(origin.count("/page"), 1);
}

/// Nodes of which each is told to fetch from the one before it; the first one from the last one if it is a `ring`.
async fn line(count: usize, ring: bool, origin: &Origin) -> Vec<Node> {
    let script = Script::default();
    let mut nodes: Vec<Node> = Vec::new();
    for _ in 0..count {
        // Impatient in one thing and patient in the other: so only what nodes tell each other can end a circle.
        let change = |config: &mut coral_proxy::Config| {
            config.peer.first_byte_timeout = Duration::from_millis(if ring { 300 } else { 900 });
            config.peer.patience = Duration::from_secs(3600);
        };
        let node = Node::start_on(|addr| script.index(addr), origin, change).await;
        if let Some(before) = nodes.last() {
            script.names(node.addr, &[before.addr]);
        }
        nodes.push(node);
    }
    if ring {
        script.names(nodes[0].addr, &[nodes[count - 1].addr]);
    }
    nodes
}

#[tokio::test]
async fn a_line_of_nodes_waits_for_a_slow_origin_and_passes_on_what_comes() {
    let (origin, gate, rest) = (Origin::start().await, Gate::closed(), Gate::closed());
    let head = format!("{}\r\ncontent-length: 5\r\n\r\n", OK.replace('\n', "\r\n")).into_bytes();
    let answer = [Step::Wait(gate.clone()), Step::Send(head), Step::Wait(rest.clone()), Step::Send(b"hello".to_vec())];
    origin.on("/page", answer.to_vec());
    let nodes = line(4, false, &origin).await;
    let first_bytes: Vec<_> = nodes
        .iter()
        .map(|node| {
            let (addr, text) = (node.addr, format!("GET /page HTTP/1.1\nhost: {HOST}\n\n"));
            tokio::spawn(async move { Transfer::begin(addr, &text).await })
        })
        .collect();
    // Longer than a node may be silent, and nobody has turned to the origin.
    until(async || nodes[..3].iter().all(|node| node.told_to_wait() >= 2)).await;
    assert_eq!(origin.count("/page"), 1);
    gate.open();
    let mut transfers = Vec::new();
    for first_byte in first_bytes {
        transfers.push(first_byte.await.unwrap());
    }
    rest.open();
    for transfer in &mut transfers {
        assert_eq!(transfer.finish().await.text(), "hello");
    }
    assert_eq!(origin.count("/page"), 1);
}

#[tokio::test]
async fn a_line_of_nodes_is_told_at_once_that_there_is_nothing_to_share() {
    let (origin, first, rest) = (Origin::start().await, Gate::closed(), Gate::closed());
    let head = b"HTTP/1.1 200 OK\r\ncache-control: private\r\ncontent-length: 5\r\n\r\nhello".to_vec();
    for gate in [&first, &rest] {
        origin.on("/own", vec![Step::Wait(gate.clone()), Step::Send(head.clone())]);
    }
    let nodes = line(4, false, &origin).await;
    let clients = ask_all(&nodes, "/own");
    until(async || nodes[..3].iter().all(|node| node.told_to_wait() >= 1)).await;
    first.open();
    until(async || origin.count("/own") == 4).await;
    rest.open();
    for client in clients {
        assert_eq!(client.await.unwrap().text(), "hello");
    }
}

#[tokio::test]
async fn nodes_that_are_told_to_wait_in_a_circle_do_not() {
    for count in [2, 3, 5] {
        let origin = Origin::start().await;
        origin.text("/page", OK, "hello");
        let nodes = line(count, true, &origin).await;
        for client in ask_all(&nodes, "/page") {
            assert_eq!(client.await.unwrap().text(), "hello", "{count} nodes");
        }
    }
}
