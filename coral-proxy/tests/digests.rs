//! What references say of bodies: honest nodes agree, and one who lies among them is found out [design §4.4].

mod support;

use std::time::Duration;

use coral_dsht::memory::MemoryNetwork;
use coral_dsht::{DshtHandle, Key, Levels, Peer, Services};
use coral_proxy::reference::{decode_stamp, encode_stamped};
use coral_proxy::stamp::Stamp;
use coral_proxy::version::Version;
use coral_proxy::{decode_reference, encode_reference, index_key};
use http::header::{ETAG, HeaderMap};
use http::{HeaderValue, StatusCode};
use sha2::{Digest, Sha256};
use support::client::get;
use support::node::{HOST, Node};
use support::origin::{Origin, Step};
use support::until;

const OK: &str = "HTTP/1.1 200 OK\ncache-control: max-age=600\netag: \"a\"";
const HIT: &str = "cache-status: coral; hit";
const FROM_ORIGIN: &str = "coral; fwd=uri-miss; detail=origin; stored";
const FROM_PEER: &str = "coral; fwd=uri-miss; detail=peer-l0; stored";

fn key(path: &str) -> Key {
    index_key(&format!("http://{HOST}{path}"), &[], &[]).unwrap()
}

/// What is to be said of a body of five bytes of that version.
fn stamp(body: &str) -> Stamp {
    let headers = HeaderMap::from_iter([(ETAG, HeaderValue::from_static("\"a\""))]);
    let version = Version::of(StatusCode::OK, &headers, Some(5), None).unwrap();
    Stamp::of(&version, &Sha256::digest(body).into())
}

/// The origin, and an index to put references into.
async fn world() -> (MemoryNetwork, Origin, DshtHandle) {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    for path in ["/page", "/other"] {
        origin.text(path, OK, "hello");
    }
    let index = network.node(Peer::new("127.0.9.9:9".parse().unwrap(), Services::NONE));
    (network, origin, index)
}

/// One that is named as having `/page` and `/other`, with these words, and delivers `body`.
async fn far_end(ip: &str, index: &DshtHandle, says: Option<&str>, body: &str) -> Origin {
    let far_end = Origin::start_at(ip).await;
    for path in ["/page", "/other"] {
        let length = body.len();
        let answer = format!("{OK}\n{HIT}\ncontent-length: {length}\n\n{body}").replace('\n', "\r\n");
        far_end.on(path, vec![Step::Send(answer.into())]);
        let value = match says {
            Some(said) => encode_stamped(far_end.addr, stamp(said)),
            None => encode_reference(far_end.addr),
        };
        index.put(key(path), value, Duration::from_secs(600), Levels::ALL).await.unwrap();
    }
    far_end
}

/// What is said of `/page` by each who is named, sorted.
async fn said(index: &DshtHandle) -> Vec<Option<Stamp>> {
    let found = index.get(key("/page"), Levels::ALL).await.unwrap();
    let mut said: Vec<_> = found.values.iter().map(decode_stamp).collect();
    said.sort();
    said
}

/// What a client gets of `path`: the text if it came whole, and what the cache did.
async fn asked(node: &Node, path: &str) -> (Option<String>, String) {
    let reply = get(node.addr, HOST, path).await;
    (reply.whole.then(|| reply.text()), reply.cache().to_owned())
}

fn hello(cache: &str) -> (Option<String>, String) {
    (Some("hello".to_owned()), cache.to_owned())
}

fn accused(node: &Node) -> u64 {
    node.proxy.status().errors.get("peer").copied().unwrap_or_default()
}

#[tokio::test]
async fn honest_nodes_say_the_same_and_once_each() {
    let (network, origin, index) = world().await;
    let mut nodes = Vec::new();
    for ip in ["127.0.1.1", "127.0.2.1", "127.0.3.1"] {
        let node = Node::start_at(ip, &network, &origin).await;
        let from = if nodes.is_empty() { FROM_ORIGIN } else { FROM_PEER };
        assert_eq!(asked(&node, "/page").await, hello(from));
        nodes.push(node);
    }
    until(async || said(&index).await == [Some(stamp("hello")); 3]).await;
    assert_eq!(origin.count("/page"), 1);
    assert!(nodes.iter().all(|node| accused(node) == 0));
    for node in nodes {
        node.stop().await;
    }
    assert_eq!(said(&index).await, [], "withdrawn with what they say");
}

#[tokio::test]
async fn what_was_on_disk_when_a_node_started_is_told_of_as_it_was() {
    let (network, origin, index) = world().await;
    let dir = tempfile::tempdir().unwrap();
    for from in [FROM_ORIGIN, HIT.trim_start_matches("cache-status: ")] {
        let path = dir.path().to_owned();
        let node = Node::start_with(&network, &origin, |config| config.disk.path = Some(path)).await;
        // After the restart before anybody asks for it, and after it has come into memory.
        if from != FROM_ORIGIN {
            until(async || said(&index).await == [Some(stamp("hello"))]).await;
        }
        assert_eq!(asked(&node, "/page").await, hello(from));
        until(async || said(&index).await == [Some(stamp("hello"))]).await;
        node.stop().await;
        assert_eq!(said(&index).await, []);
    }
    assert_eq!(origin.count("/page"), 1);
}

/// A word for one version is none for another, though the bytes are the same.
#[tokio::test]
async fn what_a_304_makes_another_version_is_told_of_without_a_word() {
    let (network, origin, index) = world().await;
    let first = "HTTP/1.1 200 OK\ncache-control: max-age=0\nlast-modified: Thu, 01 Jan 2026 00:00:00 GMT\ncontent-length: 5\n\nhello";
    let second = "HTTP/1.1 304 Not Modified\ncache-control: max-age=600\netag: \"b\"\n\n";
    for answer in [first, second] {
        origin.on("/grows", vec![Step::Send(answer.replace('\n', "\r\n").into())]);
    }
    let node = Node::start_at("127.0.1.1", &network, &origin).await;
    let _ = (asked(&node, "/grows").await, asked(&node, "/grows").await);
    assert_eq!(origin.count("/grows"), 2);
    let said = async || {
        index.get(key("/grows"), Levels::ALL).await.unwrap().values.iter().map(decode_stamp).collect::<Vec<_>>()
    };
    until(async || !said().await.is_empty()).await;
    assert_eq!(said().await, [None]);
}

#[tokio::test]
async fn a_body_of_no_known_length_is_told_of_as_well_and_one_without_a_version_is_not() {
    let (network, origin, index) = world().await;
    let weak = |tag: &str| format!("HTTP/1.1 200 OK\ncache-control: max-age=600\netag: {tag}");
    let chunks = "transfer-encoding: chunked\n\n2\nhe\n3\nllo\n0\n\n";
    for (tag, expected) in [("\"a\"", Some(stamp("hello"))), ("W/\"a\"", None)] {
        let node = Node::start_at("127.0.1.1", &network, &origin).await;
        let path = if expected.is_some() { "/chunks" } else { "/weak" };
        origin.on(path, vec![Step::Send(format!("{}\n{chunks}", weak(tag)).replace('\n', "\r\n").into())]);
        assert_eq!(asked(&node, path).await, hello(FROM_ORIGIN));
        let said = async || {
            index.get(key(path), Levels::ALL).await.unwrap().values.iter().map(decode_stamp).collect::<Vec<_>>()
        };
        until(async || said().await == [expected]).await;
    }
}

#[tokio::test]
async fn whom_two_networks_contradict_is_not_asked() {
    let (network, origin, index) = world().await;
    let liar = far_end("127.0.3.1", &index, Some("lies!"), "lies!").await;
    let honest = [
        far_end("127.0.1.1", &index, Some("hello"), "hello").await,
        far_end("127.0.2.1", &index, Some("hello"), "hello").await,
    ];
    let node = Node::start_at("127.0.4.1", &network, &origin).await;
    assert_eq!(asked(&node, "/page").await, hello(FROM_PEER));
    assert_eq!((liar.count("/page"), origin.count("/page")), (0, 0));
    assert_eq!(honest.iter().map(|honest| honest.count("/page")).sum::<usize>(), 1);
}

#[tokio::test]
async fn a_body_that_two_networks_contradict_is_cut_off_and_who_gave_it_set_aside() {
    let (network, origin, index) = world().await;
    // What it has it does not say, as nodes of before, or while they fetch.
    let liar = far_end("127.0.3.1", &index, None, "lies!").await;
    for ip in ["127.0.1.1", "127.0.2.1"] {
        far_end(ip, &index, Some("hello"), "hello").await;
    }
    let node = Node::start_at("127.0.4.1", &network, &origin).await;
    assert_eq!(asked(&node, "/page").await.0, None);
    assert_eq!((node.proxy.status().objects, accused(&node)), (0, 1));
    assert_eq!(asked(&node, "/page").await, hello(FROM_ORIGIN));
    assert_eq!(asked(&node, "/other").await, hello(FROM_PEER));
    assert_eq!((liar.count("/page"), liar.count("/other"), origin.count("/page")), (1, 0, 1));
    assert_eq!(accused(&node), 1, "the others have told the truth");
}

#[tokio::test]
async fn where_one_says_this_and_one_that_the_origin_decides_and_the_liar_is_set_aside() {
    for order in [["127.0.1.1", "127.0.3.1"], ["127.0.3.1", "127.0.1.1"]] {
        let (network, origin, index) = world().await;
        let mut far_ends = Vec::new();
        for ip in order {
            let word = if ip == "127.0.3.1" { "lies!" } else { "hello" };
            far_ends.push((word, far_end(ip, &index, Some(word), word).await));
        }
        let node = Node::start_at("127.0.4.1", &network, &origin).await;
        assert_eq!(asked(&node, "/page").await, hello(FROM_ORIGIN));
        assert_eq!((origin.count("/page"), accused(&node)), (1, 1));
        // The liar is not heard any more.
        assert_eq!(asked(&node, "/other").await, hello(FROM_PEER));
        assert_eq!(origin.count("/other"), 0);
        for (word, far_end) in far_ends {
            assert_eq!((far_end.count("/page"), far_end.count("/other")), (0, usize::from(word == "hello")));
        }
        // This node's word makes it two against one.
        until(async || said(&index).await.iter().filter(|said| **said == Some(stamp("hello"))).count() == 2).await;
        let next = Node::start_at("127.0.5.1", &network, &origin).await;
        assert_eq!(asked(&next, "/page").await, hello(FROM_PEER));
        assert_eq!(origin.count("/page"), 1);
    }
}

#[tokio::test]
async fn what_one_other_network_contradicts_is_not_kept_and_the_origin_says_who_was_wrong() {
    for (delivered, says) in [("lies!", "hello"), ("hello", "lies!")] {
        let (network, origin, index) = world().await;
        let deliverer = far_end("127.0.1.1", &index, None, delivered).await;
        let witness = far_end("127.0.2.1", &index, Some(says), says).await;
        let node = Node::start_at("127.0.4.1", &network, &origin).await;
        assert_eq!(asked(&node, "/page").await, (Some(delivered.to_owned()), FROM_PEER.to_owned()));
        assert_eq!((node.proxy.status().objects, accused(&node)), (0, 0), "nobody is accused by one");
        assert_eq!(asked(&node, "/page").await, hello(FROM_ORIGIN));
        assert_eq!(accused(&node), 1);
        assert_eq!(asked(&node, "/other").await, hello(FROM_PEER));
        let asked = [&deliverer, &witness].map(|far_end| far_end.count("/other"));
        assert_eq!(asked, if delivered == "hello" { [1, 0] } else { [0, 1] });
        assert_eq!((origin.count("/page"), origin.count("/other")), (1, 0));
    }
}

#[tokio::test]
async fn a_body_that_is_not_what_its_node_says_is_cut_off() {
    let (network, origin, index) = world().await;
    let far_end = far_end("127.0.1.1", &index, Some("hello"), "hellO").await;
    let node = Node::start_at("127.0.4.1", &network, &origin).await;
    assert_eq!(asked(&node, "/page").await.0, None);
    assert_eq!(asked(&node, "/page").await, hello(FROM_ORIGIN));
    assert_eq!((far_end.count("/page"), origin.count("/page"), accused(&node)), (1, 1, 1));
}

#[tokio::test]
async fn many_of_one_network_send_nobody_to_the_origin() {
    let (network, origin, index) = world().await;
    for number in 1..=6 {
        far_end(&format!("127.0.3.{number}"), &index, Some("lies!"), "lies!").await;
    }
    for ip in ["127.0.1.1", "127.0.2.1"] {
        far_end(ip, &index, Some("hello"), "hello").await;
    }
    let node = Node::start_at("127.0.4.1", &network, &origin).await;
    assert_eq!(asked(&node, "/page").await, hello(FROM_PEER));
    assert_eq!((origin.count("/page"), accused(&node)), (0, 0));
}

#[tokio::test]
async fn nodes_that_say_nothing_of_bodies_work_with_those_that_do() {
    let (network, origin, index) = world().await;
    let older = far_end("127.0.1.1", &index, None, "hello").await;
    let node = Node::start_at("127.0.2.1", &network, &origin).await;
    let next = Node::start_at("127.0.3.1", &network, &origin).await;
    assert_eq!(asked(&node, "/page").await, hello(FROM_PEER));
    until(async || said(&index).await == [None, Some(stamp("hello"))]).await;
    assert_eq!(asked(&next, "/page").await, hello(FROM_PEER));
    assert_eq!((origin.count("/page"), accused(&node) + accused(&next)), (0, 0));
    // Its address is found in any reference.
    let found = index.get(key("/page"), Levels::ALL).await.unwrap();
    let mut named: Vec<_> = found.values.iter().filter_map(decode_reference).collect();
    named.sort();
    assert_eq!(named, [older.addr, node.addr, next.addr]);
}

#[tokio::test]
async fn what_is_said_of_another_version_counts_for_nothing() {
    let (network, origin, index) = world().await;
    let newer = far_end("127.0.1.1", &index, None, "hello, world").await;
    for ip in ["127.0.2.1", "127.0.3.1"] {
        far_end(ip, &index, Some("hello"), "hello").await;
    }
    let node = Node::start_at("127.0.4.1", &network, &origin).await;
    assert_eq!(asked(&node, "/page").await, (Some("hello, world".to_owned()), FROM_PEER.to_owned()));
    assert_eq!((newer.count("/page"), accused(&node), node.proxy.status().objects), (1, 0, 1));
}
