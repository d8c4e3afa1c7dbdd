//! A closed network: nodes that share a key do things for each other, and for nobody else [design §4.4].

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use coral_dsht::memory::MemoryNetwork;
use coral_dsht::{Levels, Peer, Services};
use coral_proxy::reference::decode_stamp;
use coral_proxy::{Config, encode_reference, index_key};
use support::client::{get, get_with, request};
use support::film::{film, watch};
use support::node::{HOST, Node, ask_all};
use support::origin::{Gate, Origin, Step};
use support::until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const OK: &str = "HTTP/1.1 200 OK\ncache-control: max-age=600\netag: \"a\"";
const FROM_ORIGIN: &str = "coral; fwd=uri-miss; detail=origin; stored";
const FROM_PEER: &str = "coral; fwd=uri-miss; detail=peer-l0; stored";
/// What somebody says who poses as a node.
const AS_PEER: &str =
    "cache-control: only-if-cached, max-stale\ncdn-loop: coral\ncoral-waiting: wait=9000, 127.0.0.1:9";

fn with_key(digit: char) -> impl Fn(&mut Config) + Copy {
    move |config| config.network_key = Some(digit.to_string().repeat(64).parse().unwrap())
}

/// What has been counted: requests of clients, those of nodes.
fn counted(node: &Node) -> (u64, u64) {
    let status = node.proxy.status();
    (status.requests.values().sum(), status.peer_requests.values().sum())
}

#[tokio::test]
async fn nodes_with_the_same_key_give_each_other_what_they_have() {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    origin.text("/page", OK, "hello");
    let nodes = [
        Node::start_with(&network, &origin, with_key('1')).await,
        Node::start_with(&network, &origin, with_key('1')).await,
    ];
    assert_eq!(get(nodes[0].addr, HOST, "/page").await.cache(), FROM_ORIGIN);
    let head = request(nodes[1].addr, &format!("HEAD /page HTTP/1.1\nhost: {HOST}\n\n")).await;
    assert_eq!((head.cache(), head.field("content-length")), ("coral; fwd=bypass; detail=peer-l0", "5"));
    let reply = get(nodes[1].addr, HOST, "/page").await;
    assert_eq!((reply.text().as_str(), reply.cache(), reply.field("coral-auth")), ("hello", FROM_PEER, ""));
    assert_eq!(get_with(nodes[1].addr, HOST, "/none", "cache-control: only-if-cached").await.status, 504);
    assert_eq!((origin.count("/page"), nodes[0].proxy.status().peer_requests["hit"]), (1, 2));
    assert_eq!(nodes[1].proxy.status().errors.get("peer"), None);
    assert!(origin.requests("/page").iter().all(|seen| !seen.fields.contains_key("coral-auth")));
}

#[tokio::test]
async fn nodes_with_the_same_key_wait_for_each_other_and_share_what_arrives() {
    let (network, origin, gate) = (MemoryNetwork::new(), Origin::start().await, Gate::closed());
    let head = format!("{OK}\ntransfer-encoding: chunked\n\n").replace('\n', "\r\n").into_bytes();
    let rest = b"5\r\nhello\r\n0\r\n\r\n".to_vec();
    origin.on("/page", vec![Step::Wait(gate.clone()), Step::Send(head), Step::Send(rest)]);
    origin.file("/film", &film());
    let mut nodes = Vec::new();
    for _ in 0..4 {
        let node = Node::start_with(&network, &origin, |config| {
            with_key('1')(config);
            config.peer.first_byte_timeout = Duration::from_millis(300);
        });
        nodes.push(node.await);
    }
    let clients = ask_all(&nodes, "/page");
    until(async || nodes.iter().map(Node::told_to_wait).sum::<u64>() >= 3).await;
    gate.open();
    for client in clients {
        assert_eq!(client.await.unwrap().text(), "hello");
    }
    for node in &nodes {
        watch(node, &film(), 1_500_000..2_500_000).await;
    }
    assert_eq!((origin.count("/page"), origin.count("/film")), (1, 2));
    assert!(nodes.iter().all(|node| !node.proxy.status().errors.contains_key("peer")));
}

#[tokio::test]
async fn nodes_with_different_keys_do_nothing_for_each_other_and_each_works_by_itself() {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    origin.text("/page", OK, "hello");
    let ours = Node::start_with(&network, &origin, with_key('1')).await;
    get(ours.addr, HOST, "/page").await;
    let theirs = Node::start_with(&network, &origin, with_key('2')).await;
    let reply = get(theirs.addr, HOST, "/page").await;
    assert_eq!((reply.text().as_str(), reply.cache()), ("hello", FROM_ORIGIN));
    assert_eq!(theirs.proxy.status().errors["peer"], 1);
    assert_eq!(counted(&ours), (2, 0), "it asked as a client");
    let open = Node::start(&network, &origin).await;
    assert_eq!(get(open.addr, HOST, "/page").await.text(), "hello", "which anybody may have");
    for node in [&ours, &theirs, &open] {
        assert_eq!(get(node.addr, HOST, "/page").await.cache(), "coral; hit");
    }
}

#[tokio::test]
async fn a_strangers_answer_is_not_taken_and_he_is_set_aside() {
    for head in [
        OK.to_owned(),
        format!("{OK}\ncoral-auth: 0123456789abcdef0123456789abcdef"),
        "HTTP/1.1 504 Gateway Timeout".to_owned(),
    ] {
        let (origin, stranger) = (Origin::start().await, Origin::start().await);
        origin.text("/page", OK, "hello").text("/other", OK, "hello");
        let answer = format!("{head}\ncache-status: coral; hit");
        stranger.text("/page", &answer, "lies!").text("/other", &answer, "lies!");
        let node = Node::start_with(&MemoryNetwork::new(), &origin, with_key('1')).await;
        for path in ["/page", "/other"] {
            let key = index_key(&format!("http://{HOST}{path}"), &[], &[]).unwrap();
            let reference = encode_reference(stranger.addr);
            node.dsht.put(key, reference, Duration::from_secs(600), Levels::ALL).await.unwrap();
            let reply = get(node.addr, HOST, path).await;
            assert_eq!((reply.text().as_str(), reply.cache()), ("hello", FROM_ORIGIN));
        }
        assert_eq!((stranger.count("/page"), stranger.count("/other")), (1, 0));
        assert_eq!(node.proxy.status().errors["peer"], 1);
    }
}

/// A box on the way to `to`: in what passes towards the one who asks, the first of the two texts is replaced by the second.
async fn box_on_the_way(to: SocketAddr, listener: TcpListener, swap: (&'static str, &'static str)) {
    while let Ok((near, _)) = listener.accept().await {
        let far = TcpStream::connect(to).await.unwrap();
        let ((mut near_read, mut near_write), (mut far_read, mut far_write)) = (near.into_split(), far.into_split());
        tokio::spawn(async move { tokio::io::copy(&mut near_read, &mut far_write).await });
        tokio::spawn(async move {
            let mut bytes = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = far_read.read(&mut bytes).await {
                let text = String::from_utf8(bytes[..count].to_vec()).unwrap().replace(swap.0, swap.1);
                near_write.write_all(text.as_bytes()).await.unwrap();
            }
        });
    }
}

/// What a client gets of a node whose one peer has `/page` and is behind a box that changes what it sends, and the errors of peers.
async fn changed_on_the_way(swap: (&'static str, &'static str)) -> (Option<String>, String, u64) {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    origin.text("/page", OK, "hello");
    let [outside, inside] =
        [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
    let (known_as, listens) = (outside.local_addr().unwrap(), inside.local_addr().unwrap());
    tokio::spawn(box_on_the_way(listens, outside, swap));
    let index = |addr| network.node(Peer::new(addr, Services::NONE));
    let far = Node::start_behind(known_as, inside, index, &origin, with_key('1')).await;
    assert!(get(listens, HOST, "/page").await.whole);
    let key = index_key(&format!("http://{HOST}/page"), &[], &[]).unwrap();
    until(async || {
        far.dsht.get(key, Levels::ALL).await.unwrap().values.iter().any(|value| decode_stamp(value).is_some())
    })
    .await;
    let node = Node::start_with(&network, &origin, with_key('1')).await;
    let reply = get(node.addr, HOST, "/page").await;
    let errors = node.proxy.status().errors.get("peer").copied().unwrap_or_default();
    (reply.whole.then(|| reply.text()), reply.cache().to_owned(), errors)
}

#[tokio::test]
async fn a_box_on_the_way_changes_neither_head_nor_body_unnoticed() {
    let hello = |cache: &str, errors| (Some("hello".to_owned()), cache.to_owned(), errors);
    assert_eq!(changed_on_the_way(("x", "x")).await, hello(FROM_PEER, 0));
    for swap in [
        ("200 OK", "404 No"),
        ("coral; hit", "coral; xyz"),
        ("\"a\"", "\"b\""),
        ("max-age=600", "max-age=900"),
        ("coral-auth: ", "coral-auth: 0"),
    ] {
        assert_eq!(changed_on_the_way(swap).await, hello(FROM_ORIGIN, 1), "{swap:?}");
    }
    assert_eq!(changed_on_the_way(("hello", "hellO")).await, (None, FROM_PEER.to_owned(), 1), "cut off");
}

#[tokio::test]
async fn a_stranger_who_poses_as_a_node_gets_what_a_client_gets() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    origin.text("/page", OK, "hello");
    origin.text("/stale", "HTTP/1.1 200 OK\ncache-control: max-age=40\nage: 100\netag: \"a\"", "old");
    let later = format!("{OK}\ncontent-length: 5\n\nhello").replace('\n', "\r\n").into_bytes();
    origin.on("/slow", vec![Step::Wait(gate.clone()), Step::Send(later)]);
    let change = |config: &mut Config| {
        with_key('1')(config);
        config.peer.first_byte_timeout = Duration::from_millis(100);
    };
    let node = Node::start_with(&MemoryNetwork::new(), &origin, change).await;
    for path in ["/page", "/stale"] {
        assert!(get(node.addr, HOST, path).await.whole);
    }
    let slow = tokio::spawn(get(node.addr, HOST, "/slow"));
    until(async || origin.count("/slow") == 1).await;
    let (clients, _) = counted(&node);
    for shown in ["", "\ncoral-auth: 1767268800 0123456789abcdef0123456789abcdef 0123456789abcdef0123456789abcdef"] {
        let ask = async |path| {
            get_with(node.addr, HOST, path, &format!("{AS_PEER}{shown}\ncoral-request-id: 0123456789abcdef")).await
        };
        for (path, status, cache) in [
            ("/page", 200, "coral; hit"),
            ("/stale", 504, "coral; detail=not-cached"),
            ("/slow", 504, "coral; detail=not-cached"),
            ("/none", 504, "coral; detail=not-cached"),
        ] {
            let reply = ask(path).await;
            assert_eq!((reply.status, reply.cache()), (status, cache), "{path}");
            assert!(!["", "0123456789abcdef"].contains(&reply.field("coral-request-id")));
            assert_eq!(reply.field("coral-auth"), "");
        }
    }
    assert_eq!(counted(&node), (clients + 8, 0));
    gate.open();
    assert_eq!(slow.await.unwrap().text(), "hello");
    assert_eq!(origin.lines().len(), 3);
}
