//! A stale copy at another node: it saves the origin the body, and stands in when the origin fails [design §4.2, §4.3].
//!
//! Answers are made stale by an `Age` above their lifetime, so that no test waits for a clock.

mod support;

use coral_dsht::memory::MemoryNetwork;
use coral_dsht::{Command, DshtHandle, Key, Levels};
use coral_proxy::reference::stale_key;
use coral_proxy::{encode_reference, index_key};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use support::client::{Transfer, get, get_with, request};
use support::node::{HOST, Node, ask_all};
use support::origin::{Gate, Origin, Step};
use support::until;

/// A minute past its lifetime when it arrives.
const STALE: &str = "HTTP/1.1 200 OK\ncache-control: max-age=40\nage: 100\netag: \"a\"";
const LENT: &str = "cache-status: coral; hit; detail=stale";
const CONFIRMED: &str = "coral; fwd=stale; fwd-status=304; detail=origin";

fn key(path: &str) -> Key {
    stale_key(index_key(&format!("http://{HOST}{path}"), &[], &[]).unwrap())
}

fn confirmation() -> Vec<u8> {
    b"HTTP/1.1 304 Not Modified\r\ncache-control: max-age=600\r\netag: \"a\"\r\n\r\n".to_vec()
}

async fn holders(node: &Node, path: &str) -> usize {
    node.dsht.get(key(path), Levels::ALL).await.unwrap().values.len()
}

/// Two nodes, of which the first has a stale copy of `/page`, and says so; the origin then answers with `second`.
async fn lender_and_borrower(stale: &str, second: impl FnOnce(&Origin)) -> (Origin, Node, Node) {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    origin.text("/page", stale, "old");
    second(&origin);
    let (lender, borrower) = (Node::start(&network, &origin).await, Node::start(&network, &origin).await);
    assert_eq!(get(lender.addr, HOST, "/page").await.text(), "old");
    until(async || holders(&lender, "/page").await == 1).await;
    (origin, lender, borrower)
}

/// A node and a far end that is named as having `/page` stale, and answers with `steps`.
async fn borrower_of(steps: Vec<Step>, origin: &Origin) -> (Origin, Node) {
    let (lender, borrower) = (Origin::start().await, Node::start(&MemoryNetwork::new(), origin).await);
    lender.on("/page", steps);
    let reference = encode_reference(lender.addr);
    borrower.dsht.put(key("/page"), reference, Duration::from_secs(60), Levels::ALL).await.unwrap();
    (lender, borrower)
}

fn lent(rest: &str) -> Step {
    Step::Send(format!("{STALE}\n{LENT}\n{rest}").replace('\n', "\r\n").into_bytes())
}

#[tokio::test]
async fn the_origin_confirms_a_copy_of_another_node_and_sends_no_body() {
    let (origin, lender, borrower) = lender_and_borrower(STALE, |origin| {
        origin.on("/page", vec![Step::Send(confirmation())]);
    })
    .await;
    let reply = get(borrower.addr, HOST, "/page").await;
    assert_eq!((reply.status, reply.text().as_str(), reply.cache()), (200, "old", CONFIRMED));
    assert_eq!(origin.requests("/page")[1].fields["if-none-match"], "\"a\"");
    assert_eq!(borrower.proxy.status().received_from_peers_bytes, 3);
    assert_eq!(get(borrower.addr, HOST, "/page").await.cache(), "coral; hit");
    // What it has now is fresh, and of use to the lender in turn.
    let reply = get(lender.addr, HOST, "/page").await;
    assert_eq!((reply.text().as_str(), reply.cache()), ("old", "coral; fwd=stale; fwd-status=304; detail=peer-l0"));
    assert_eq!(origin.count("/page"), 2);
}

#[tokio::test]
async fn a_client_who_has_that_very_version_is_told_that_it_is_good() {
    let (origin, _lender, borrower) = lender_and_borrower(STALE, |origin| {
        origin.on("/page", vec![Step::Send(confirmation())]);
    })
    .await;
    let reply = get_with(borrower.addr, HOST, "/page", "if-none-match: \"a\"").await;
    assert_eq!((reply.status, reply.cache()), (304, CONFIRMED));
    assert_eq!(origin.count("/page"), 2);
    until(async || borrower.proxy.status().objects == 1).await;
    assert_eq!(get(borrower.addr, HOST, "/page").await.text(), "old");
}

#[tokio::test]
async fn a_new_version_takes_its_place_and_nobody_is_blamed() {
    let (origin, _lender, borrower) = lender_and_borrower(STALE, |origin| {
        origin.text("/page", "HTTP/1.1 200 OK\ncache-control: max-age=600\netag: \"b\"", "new");
    })
    .await;
    let reply = get(borrower.addr, HOST, "/page").await;
    assert_eq!((reply.text().as_str(), reply.cache()), ("new", "coral; fwd=uri-miss; detail=origin; stored"));
    let status = borrower.proxy.status();
    assert_eq!((status.received_from_peers_bytes, status.errors.get("peer")), (0, None), "the old body is not read");
    assert_eq!(get(borrower.addr, HOST, "/page").await.text(), "new");
    assert_eq!(origin.count("/page"), 2);
}

#[tokio::test]
async fn it_stands_in_for_an_origin_that_fails_and_the_origin_is_left_alone() {
    let sorry = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_vec();
    for (failure, status) in [(vec![Step::Close], ""), (vec![Step::Send(sorry)], "fwd-status=503; ")] {
        let (origin, _lender, borrower) = lender_and_borrower(STALE, |origin| {
            origin.on("/page", failure);
        })
        .await;
        let expected = format!("coral; fwd=stale; {status}detail=served-stale");
        let reply = get(borrower.addr, HOST, "/page").await;
        assert_eq!((reply.status, reply.text(), reply.cache()), (200, "old".to_owned(), expected.as_str()));
        let asked = origin.count("/page");
        let reply = get(borrower.addr, HOST, "/page").await;
        assert_eq!((reply.text().as_str(), origin.count("/page")), ("old", asked), "from its own store by now");
        assert_eq!(reply.cache(), "coral; fwd=stale; detail=served-stale");
    }
}

#[tokio::test]
async fn what_must_be_validated_is_lent_but_served_to_nobody_when_the_origin_fails() {
    for control in ["max-age=40, must-revalidate", "no-cache", "max-age=40, proxy-revalidate"] {
        let head = format!("HTTP/1.1 200 OK\ncache-control: {control}\nage: 100\netag: \"a\"");
        let (_, _lender, borrower) = lender_and_borrower(&head, |origin| {
            origin.on("/page", vec![Step::Close]);
        })
        .await;
        assert_eq!(get(borrower.addr, HOST, "/page").await.status, 502, "{control}");
        assert_eq!(borrower.proxy.status().received_from_peers_bytes, 0, "{control}");
        let (_, _lender, borrower) = lender_and_borrower(&head, |origin| {
            let confirmation = format!("HTTP/1.1 304 Not Modified\r\ncache-control: {control}\r\netag: \"a\"\r\n\r\n");
            origin.on("/page", vec![Step::Send(confirmation.into())]);
        })
        .await;
        let reply = get(borrower.addr, HOST, "/page").await;
        assert_eq!((reply.text().as_str(), reply.cache()), ("old", CONFIRMED), "{control}");
    }
}

#[tokio::test]
async fn it_is_served_at_once_while_the_origin_is_asked_where_that_is_allowed() {
    let gate = Gate::closed();
    let behind = "HTTP/1.1 200 OK\ncache-control: max-age=40, stale-while-revalidate=660\nage: 100\netag: \"a\"";
    let (origin, _lender, borrower) = lender_and_borrower(behind, |origin| {
        origin.on("/page", vec![Step::Wait(gate.clone()), Step::Send(confirmation())]);
    })
    .await;
    let reply = get(borrower.addr, HOST, "/page").await;
    assert_eq!((reply.text().as_str(), reply.cache()), ("old", "coral; fwd=uri-miss; detail=revalidating"));
    until(async || origin.count("/page") == 2).await;
    assert_eq!(origin.requests("/page")[1].fields["if-none-match"], "\"a\"");
    assert_eq!(get(borrower.addr, HOST, "/page").await.cache(), "coral; hit; detail=revalidating");
    gate.open();
    until(async || get(borrower.addr, HOST, "/page").await.cache() == "coral; hit").await;
    assert_eq!(origin.count("/page"), 2);
}

#[tokio::test]
async fn what_is_served_while_it_is_asked_about_is_not_passed_on_as_new() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let head = format!("{STALE}\n{LENT}\ncontent-length: 3\n\n").replace("=40", "=40, stale-while-revalidate=660");
    let steps =
        vec![Step::Send(head.replace('\n', "\r\n").into()), Step::Wait(gate.clone()), Step::Send(b"old".into())];
    let (_, borrower) = borrower_of(steps, &origin).await;
    let text = format!("GET /page HTTP/1.1\nhost: {HOST}\n");
    let mut client = Transfer::begin(borrower.addr, &format!("{text}\n")).await;
    for control in ["only-if-cached", "only-if-cached, max-stale"] {
        let as_a_node = format!("via: 1.1 coral (CoralWebPrx)\ncache-control: {control}");
        assert_eq!(get_with(borrower.addr, HOST, "/page", &as_a_node).await.status, 504, "{control}");
    }
    gate.open();
    assert_eq!(client.finish().await.text(), "old");
}

#[tokio::test]
async fn an_index_that_does_not_answer_is_not_asked_twice() {
    let (origin, gets) = (Origin::start().await, Arc::new(AtomicUsize::new(0)));
    origin.text("/page", "HTTP/1.1 200 OK\ncache-control: max-age=600", "new");
    let counted = Arc::clone(&gets);
    let silent = |_| {
        let (handle, mut commands) = DshtHandle::channel(8);
        tokio::spawn(async move {
            let mut unanswered = Vec::new();
            while let Some(command) = commands.recv().await {
                counted.fetch_add(usize::from(matches!(command, Command::Get { .. })), Ordering::Relaxed);
                unanswered.push(command);
            }
        });
        handle
    };
    let node = Node::start_on(silent, &origin, |config| config.peer.index_timeout = Duration::from_millis(100)).await;
    assert_eq!(get(node.addr, HOST, "/page").await.text(), "new");
    assert_eq!(gets.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_node_lends_to_those_alone_who_say_so_and_does_not_wait_itself() {
    let gate = Gate::closed();
    let (origin, lender, _) = lender_and_borrower(STALE, |origin| {
        origin.on("/page", vec![Step::Wait(gate.clone()), Step::Send(confirmation())]);
    })
    .await;
    let as_a_node = |control: &str| format!("via: 1.1 coral (CoralWebPrx)\ncache-control: {control}");
    let lend = format!("{}\ncoral-waiting: wait=0", as_a_node("only-if-cached, max-stale"));
    assert_eq!(get_with(lender.addr, HOST, "/page", &as_a_node("only-if-cached")).await.status, 504);
    let reply = get_with(lender.addr, HOST, "/page", "cache-control: only-if-cached, max-stale").await;
    assert_eq!(reply.status, 504, "a client does not validate it");
    for under_way in [false, true] {
        let reply = get_with(lender.addr, HOST, "/page", &lend).await;
        assert_eq!((reply.text().as_str(), reply.cache()), ("old", "coral; hit; detail=stale"), "{under_way}");
        if !under_way {
            tokio::spawn(get(lender.addr, HOST, "/page"));
            until(async || origin.count("/page") == 2).await;
        }
    }
    gate.open();
    until(async || get(lender.addr, HOST, "/page").await.cache() == "coral; hit").await;
    let reply = get_with(lender.addr, HOST, "/page", &lend).await;
    assert_eq!((reply.text().as_str(), reply.cache()), ("old", "coral; hit"), "what is fresh is given as such");
}

#[tokio::test]
async fn a_body_that_has_begun_to_arrive_is_given_before_a_stale_copy() {
    let gate = Gate::closed();
    let (_, lender, borrower) = lender_and_borrower(STALE, |origin| {
        let head = b"HTTP/1.1 200 OK\r\ncache-control: max-age=600\r\ncontent-length: 3\r\n\r\n".to_vec();
        origin.on("/page", vec![Step::Send(head), Step::Wait(gate.clone()), Step::Send(b"new".to_vec())]);
    })
    .await;
    let text = format!("GET /page HTTP/1.1\nhost: {HOST}\n");
    let mut client = Transfer::begin(lender.addr, &format!("{text}\n")).await;
    let control = "via: 1.1 coral (CoralWebPrx)\ncache-control: only-if-cached, max-stale\ncoral-waiting: wait=0";
    let mut node = Transfer::begin(lender.addr, &format!("{text}{control}\n\n")).await;
    assert_eq!(node.reply.cache(), "coral; fwd=stale; detail=origin; stored; collapsed");
    let mut other = Transfer::begin(borrower.addr, &format!("{text}\n")).await;
    gate.open();
    for transfer in [&mut client, &mut node, &mut other] {
        assert_eq!(transfer.finish().await.text(), "new");
    }
}

#[tokio::test]
async fn nodes_that_are_asked_in_one_instant_ask_the_origin_once_whatever_they_have() {
    let (origin, lender, borrower) = lender_and_borrower(STALE, |_| {}).await;
    let gate = Gate::closed();
    origin.on("/page", vec![Step::Wait(gate.clone()), Step::Send(confirmation())]);
    // The last answer stays, so the one before it goes with this request.
    request(origin.addr, "GET /page HTTP/1.1\n\n").await;
    let nodes = [lender, borrower];
    let clients: Vec<_> = (0..5).flat_map(|_| ask_all(&nodes, "/page")).collect();
    let waits = async || nodes.iter().map(Node::told_to_wait).sum::<u64>() > 0;
    until(async || origin.count("/page") == 3 && waits().await).await;
    gate.open();
    for client in clients {
        assert_eq!(client.await.unwrap().text(), "old");
    }
    assert_eq!(origin.count("/page"), 3);
    assert_eq!(origin.requests("/page")[2].fields["if-none-match"], "\"a\"");
    assert!(nodes.iter().all(|node| !node.proxy.status().errors.contains_key("peer")));
}

#[tokio::test]
async fn what_expires_everywhere_at_once_is_asked_about_once() {
    let (network, origin, gate) = (MemoryNetwork::new(), Origin::start().await, Gate::closed());
    // Fresh for one second more.
    let head = STALE.replace("max-age=40", "max-age=101");
    origin.text("/page", &head, "old").on("/page", vec![Step::Wait(gate.clone()), Step::Send(confirmation())]);
    let mut nodes = Vec::new();
    for _ in 0..5 {
        nodes.push(Node::start(&network, &origin).await);
    }
    for node in &nodes[..4] {
        assert_eq!(get(node.addr, HOST, "/page").await.text(), "old");
    }
    assert_eq!(origin.count("/page"), 1);
    until(async || holders(&nodes[0], "/page").await == 4).await;
    let clients = ask_all(&nodes, "/page");
    let waits = || nodes.iter().map(Node::told_to_wait).sum::<u64>();
    until(async || waits() >= 4 && origin.count("/page") == 2).await;
    gate.open();
    for client in clients {
        let reply = client.await.unwrap();
        assert_eq!((reply.status, reply.text().as_str(), reply.whole), (200, "old", true));
    }
    assert_eq!(origin.count("/page"), 2);
    assert_eq!(origin.requests("/page")[1].fields["if-none-match"], "\"a\"");
    assert!(nodes.iter().all(|node| !node.proxy.status().errors.contains_key("peer")));
}

#[tokio::test]
async fn a_crowd_of_nodes_with_nothing_borrows_once() {
    let (network, origin, gate) = (MemoryNetwork::new(), Origin::start().await, Gate::closed());
    origin.text("/page", STALE, "old").on("/page", vec![Step::Wait(gate.clone()), Step::Send(confirmation())]);
    let lender = Node::start(&network, &origin).await;
    get(lender.addr, HOST, "/page").await;
    until(async || holders(&lender, "/page").await == 1).await;
    let mut nodes = Vec::new();
    for _ in 0..5 {
        nodes.push(Node::start(&network, &origin).await);
    }
    let clients = ask_all(&nodes, "/page");
    let waits = || nodes.iter().map(Node::told_to_wait).sum::<u64>();
    until(async || waits() >= 4 && origin.count("/page") == 2).await;
    gate.open();
    for client in clients {
        assert_eq!(client.await.unwrap().text(), "old");
    }
    assert_eq!((origin.count("/page"), lender.proxy.status().peer_requests["lent"]), (2, 1));
}

#[tokio::test]
async fn a_node_that_does_not_know_of_lending_costs_nothing_but_a_question() {
    let origin = Origin::start().await;
    origin.text("/page", "HTTP/1.1 200 OK\ncache-control: max-age=600", "new");
    let refusal =
        b"HTTP/1.1 504 Gateway Timeout\r\ncache-status: coral; detail=not-cached\r\ncontent-length: 0\r\n\r\n";
    let (lender, borrower) = borrower_of(vec![Step::Send(refusal.to_vec())], &origin).await;
    assert_eq!(get(borrower.addr, HOST, "/page").await.text(), "new");
    assert_eq!(lender.requests("/page")[0].fields["cache-control"], "only-if-cached, max-stale");
    assert_eq!(borrower.proxy.status().errors.get("peer"), None);
}

#[tokio::test]
async fn a_lender_that_breaks_off_leaves_the_rest_to_the_origin() {
    let origin = Origin::start().await;
    let rest =
        "HTTP/1.1 206 Partial Content\r\netag: \"a\"\r\ncontent-range: bytes 1-2/3\r\ncontent-length: 2\r\n\r\nld";
    origin.on("/page", vec![Step::Send(confirmation())]).on("/page", vec![Step::Send(rest.into())]);
    let (_, borrower) = borrower_of(vec![lent("content-length: 3\n\no"), Step::Close], &origin).await;
    let reply = get(borrower.addr, HOST, "/page").await;
    assert_eq!((reply.text().as_str(), reply.whole, reply.cache()), ("old", true, CONFIRMED));
    assert_eq!(origin.requests("/page")[1].fields["if-range"], "\"a\"");
    assert_eq!(get(borrower.addr, HOST, "/page").await.cache(), "coral; hit");
}

#[tokio::test]
async fn what_is_lent_and_not_asked_for_is_not_taken() {
    let origin = Origin::start().await;
    origin.text("/page", "HTTP/1.1 200 OK\ncache-control: max-age=600", "new");
    let (lender, borrower) = borrower_of(vec![lent("content-length: 3\n\nold")], &origin).await;
    let reference = encode_reference(lender.addr);
    let fresh = index_key(&format!("http://{HOST}/page"), &[], &[]).unwrap();
    borrower.dsht.remove(key("/page"), reference.clone()).await.unwrap();
    borrower.dsht.put(fresh, reference, Duration::from_secs(90), Levels::ALL).await.unwrap();
    assert_eq!(get(borrower.addr, HOST, "/page").await.text(), "new");
    assert_eq!((lender.count("/page"), borrower.proxy.status().errors.get("peer")), (1, None));
}
