//! A second node is asked when the first is overdue, and nobody waits for both [design §4.2].

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use coral_dsht::memory::MemoryNetwork;
use support::client::get;
use support::node::{HOST, Node, ask_all};
use support::origin::{Gate, Origin, Step};
use support::script::Script;
use support::until;

const OK: &str = "HTTP/1.1 200 OK\ncache-control: max-age=600\netag: \"a\"";

/// A node with `hedge`, sent to `others` in this order.
async fn hedging(hedge: Duration, others: &[SocketAddr], origin: &Origin) -> Node {
    let script = Script::default();
    let change = |config: &mut coral_proxy::Config| config.peer.hedge = hedge;
    let node = Node::start_on(|addr| script.index(addr), origin, change).await;
    script.names(node.addr, others);
    node
}

#[tokio::test]
async fn when_the_first_node_is_overdue_the_second_one_delivers_and_nobody_is_blamed() {
    let (origin, slow) = (Origin::start().await, Origin::start().await);
    origin.text("/page", OK, "hello");
    slow.on("/page", vec![Step::Stall]);
    let good = Node::start(&MemoryNetwork::new(), &origin).await;
    get(good.addr, HOST, "/page").await;
    let node = hedging(Duration::from_millis(30), &[slow.addr, good.addr], &origin).await;
    let reply = get(node.addr, HOST, "/page").await;
    assert_eq!((reply.text().as_str(), reply.cache()), ("hello", "coral; fwd=uri-miss; detail=peer-l0; stored"));
    assert_eq!((slow.count("/page"), origin.count("/page")), (1, 1));
    assert_eq!(node.proxy.status().errors.get("peer"), None);
}

#[tokio::test]
async fn the_first_node_delivers_if_the_second_one_has_nothing_or_fails() {
    let (origin, bad) = (Origin::start().await, Origin::start().await);
    bad.text("/page", "HTTP/1.1 500 Internal Server Error", "sorry");
    let empty = Node::start(&MemoryNetwork::new(), &origin).await;
    for (turn, second) in [(1, bad.addr), (2, empty.addr)] {
        let (first, gate) = (Origin::start().await, Gate::closed());
        let head = "HTTP/1.1 200 OK\r\ncache-status: coral; hit\r\ncontent-length: 5\r\n\r\nhello";
        first.on("/page", vec![Step::Wait(gate.clone()), Step::Send(head.into())]);
        let node = hedging(Duration::from_millis(30), &[first.addr, second], &origin).await;
        let client = tokio::spawn(get(node.addr, HOST, "/page"));
        until(async || bad.count("/page") + empty.proxy.status().peer_requests.len() == turn).await;
        gate.open();
        assert_eq!(client.await.unwrap().text(), "hello");
        assert_eq!((node.proxy.status().errors.get("peer"), origin.count("/page")), (None, 0));
    }
    assert!(bad.requests("/page")[0].fields["coral-waiting"].starts_with("wait=0, "), "it is not waited for");
}

#[tokio::test]
async fn a_node_that_waits_itself_is_no_answer_to_a_hedge_and_the_origin_is_asked_once() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let head = format!("{}\r\ncontent-length: 5\r\n\r\nhello", OK.replace('\n', "\r\n")).into_bytes();
    origin.on("/page", vec![Step::Wait(gate.clone()), Step::Send(head)]);
    let script = Script::default();
    let mut nodes: Vec<Node> = Vec::new();
    for _ in 0..4 {
        let change = |config: &mut coral_proxy::Config| {
            config.peer.hedge = Duration::ZERO;
            config.peer.first_byte_timeout = Duration::from_millis(600);
        };
        let node = Node::start_on(|addr| script.index(addr), &origin, change).await;
        let before: Vec<SocketAddr> = nodes.iter().rev().map(|node| node.addr).collect();
        script.names(node.addr, &before);
        nodes.push(node);
    }
    let clients = ask_all(&nodes, "/page");
    until(async || nodes[0].told_to_wait() >= 4 && nodes[1].told_to_wait() >= 2).await;
    assert_eq!(origin.count("/page"), 1);
    gate.open();
    for client in clients {
        assert_eq!(client.await.unwrap().text(), "hello");
    }
    assert_eq!(origin.count("/page"), 1);
}

#[tokio::test]
async fn nodes_that_hedge_in_a_circle_do_not_wait_for_each_other() {
    let origin = Origin::start().await;
    origin.text("/page", OK, "hello");
    let script = Script::default();
    let mut nodes: Vec<Node> = Vec::new();
    for _ in 0..4 {
        let change = |config: &mut coral_proxy::Config| {
            config.peer.hedge = Duration::ZERO;
            config.peer.first_byte_timeout = Duration::from_millis(300);
            config.peer.patience = Duration::from_secs(3600);
        };
        nodes.push(Node::start_on(|addr| script.index(addr), &origin, change).await);
    }
    let addrs: Vec<SocketAddr> = nodes.iter().map(|node| node.addr).collect();
    for (place, addr) in addrs.iter().enumerate() {
        let others: Vec<SocketAddr> = (1..4).map(|step| addrs[(place + step) % 4]).collect();
        script.names(*addr, &others);
    }
    for client in ask_all(&nodes, "/page") {
        assert_eq!(client.await.unwrap().text(), "hello");
    }
}
