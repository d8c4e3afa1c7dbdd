//! Content from another node is checked: against its digest, and now and then against what the origin says [design §4.4].

mod support;

use std::time::Duration;

use coral_dsht::memory::MemoryNetwork;
use coral_dsht::{Key, Levels};
use coral_proxy::{Config, decode_reference, encode_reference, index_key};
use support::client::{Transfer, get};
use support::node::{HOST, Node};
use support::origin::{Gate, Origin, Step};
use support::until;

const FRESH: &str = "HTTP/1.1 200 OK\ncache-control: max-age=600\netag: \"a\"";
const HIT: &str = "cache-status: coral; hit";
/// Of `hello`.
const SHA_256: &str = "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:";
const SHA_512: &str =
    "sha-512=:m3HSJL1i83hdltRq0+o9czGb+8KJDKra4t/3JRlnPKcjI8PZm6XBHXx6zG4UuMXaDEZjR1wuXDre9G9zvN7AQw==:";

fn key() -> Key {
    index_key(&format!("http://{HOST}/page"), &[], &[]).unwrap()
}

/// A node and a far end that is named as having `/page`, and answers with these bytes.
async fn node_and_peer(answer: &str, origin: &Origin, change: impl FnOnce(&mut Config)) -> (Node, Origin) {
    let (node, peer) = (Node::start_with(&MemoryNetwork::new(), origin, change).await, Origin::start().await);
    peer.on("/page", vec![Step::Send(answer.replace('\n', "\r\n").into())]);
    node.dsht.put(key(), encode_reference(peer.addr), Duration::from_secs(600), Levels::ALL).await.unwrap();
    (node, peer)
}

#[tokio::test]
async fn a_body_with_another_digest_is_cut_off_and_the_origin_asked() {
    for field in
        [format!("repr-digest: {SHA_256}"), format!("repr-digest: {SHA_512}"), format!("content-digest: {SHA_256}")]
    {
        for body in ["content-length: 5\n\nhellO", "transfer-encoding: chunked\n\n5\nhellO\n0\n\n"] {
            let origin = Origin::start().await;
            origin.text("/page", FRESH, "hello");
            let (node, peer) = node_and_peer(&format!("{FRESH}\n{HIT}\n{field}\n{body}"), &origin, |_| {}).await;
            let cut = get(node.addr, HOST, "/page").await;
            assert_eq!((cut.whole, node.proxy.status().objects), (false, 0), "{field}, {body}");
            assert_eq!(node.proxy.status().errors["peer"], 1);
            let reply = get(node.addr, HOST, "/page").await;
            assert_eq!((reply.text().as_str(), reply.whole), ("hello", true));
            assert_eq!(reply.cache(), "coral; fwd=uri-miss; detail=origin; stored");
            assert_eq!((peer.count("/page"), origin.count("/page")), (1, 1));
        }
    }
}

#[tokio::test]
async fn after_a_lie_the_origin_is_asked_even_if_others_are_named() {
    let origin = Origin::start().await;
    origin.text("/page", FRESH, "hello");
    let lie = format!("{FRESH}\n{HIT}\nrepr-digest: {SHA_256}\ncontent-length: 5\n\nhellO");
    let (node, first) = node_and_peer(&lie, &origin, |_| {}).await;
    let second = Origin::start().await;
    second.on("/page", vec![Step::Send(lie.replace('\n', "\r\n").into())]);
    node.dsht.put(key(), encode_reference(second.addr), Duration::from_secs(600), Levels::ALL).await.unwrap();
    assert!(!get(node.addr, HOST, "/page").await.whole);
    assert_eq!(get(node.addr, HOST, "/page").await.text(), "hello");
    assert_eq!(first.count("/page") + second.count("/page"), 1);
    let found = node.dsht.get(key(), Levels::ALL).await.unwrap();
    assert!(found.values.iter().filter_map(decode_reference).any(|addr| addr == node.addr), "others find the good one");
}

#[tokio::test]
async fn a_body_with_its_digest_is_taken_and_so_is_one_whose_digest_nobody_knows() {
    for digest in [SHA_256, SHA_512, "md5=:AAAA:", "sha-256=:AAAA:"] {
        let origin = Origin::start().await;
        let answer = format!("{FRESH}\n{HIT}\nrepr-digest: {digest}\ncontent-length: 5\n\nhello");
        let (node, _) = node_and_peer(&answer, &origin, |_| {}).await;
        for cache in ["coral; fwd=uri-miss; detail=peer-l0; stored", "coral; hit"] {
            let reply = get(node.addr, HOST, "/page").await;
            assert_eq!((reply.text().as_str(), reply.cache()), ("hello", cache), "{digest}");
        }
        assert_eq!(origin.count("/page"), 0);
    }
}

/// The answer of the origin to HEAD.
fn head(lines: &str) -> Vec<Step> {
    vec![Step::Send(format!("HTTP/1.1 {lines}\n\n").replace('\n', "\r\n").into())]
}

#[tokio::test]
async fn what_the_origin_contradicts_leaves_the_store_and_is_fetched_from_there() {
    let directory = tempfile::tempdir().unwrap();
    for (turn, said) in
        ["200 OK\netag: \"b\"\ncontent-length: 5", "200 OK\ncontent-length: 6", "404 Not Found\ncontent-length: 0"]
            .into_iter()
            .enumerate()
    {
        let origin = Origin::start().await;
        origin.on("/page", head(said)).text("/page", &FRESH.replace("\"a\"", "\"b\""), "hello");
        let path = directory.path().join(turn.to_string());
        let lie = format!("{FRESH}\n{HIT}\ncontent-length: 5\n\nlies!");
        let (node, peer) = node_and_peer(&lie, &origin, |config| {
            config.peer.verify = 1;
            config.disk.path = Some(path);
        })
        .await;
        assert_eq!(get(node.addr, HOST, "/page").await.text(), "lies!", "nobody waits for the origin");
        until(async || node.proxy.status().errors.contains_key("peer")).await;
        until(async || node.proxy.status().objects == 0).await;
        let reply = get(node.addr, HOST, "/page").await;
        assert_eq!((reply.text().as_str(), reply.cache()), ("hello", "coral; fwd=uri-miss; detail=origin; stored"));
        assert_eq!((peer.count("/page"), origin.count("/page")), (1, 2), "{said}");
        assert!(origin.lines()[0].starts_with("HEAD "));
    }
}

#[tokio::test]
async fn what_still_arrives_when_the_origin_contradicts_has_no_end() {
    let (origin, asked) = (Origin::start().await, Gate::closed());
    let said = head("200 OK\netag: \"b\"").remove(0);
    origin.on("/page", vec![Step::Wait(asked.clone()), said]).text("/page", FRESH, "hello");
    let (node, peer) = (
        Node::start_with(&MemoryNetwork::new(), &origin, |config| config.peer.verify = 1).await,
        Origin::start().await,
    );
    let lie = format!("{FRESH}\n{HIT}\ncontent-length: 5\n\nli").replace('\n', "\r\n");
    peer.on("/page", vec![Step::Send(lie.into()), Step::Stall]);
    node.dsht.put(key(), encode_reference(peer.addr), Duration::from_secs(600), Levels::ALL).await.unwrap();
    let mut transfer = Transfer::begin(node.addr, &format!("GET /page HTTP/1.1\nhost: {HOST}\n\n")).await;
    assert_eq!(transfer.read(2).await, b"li");
    asked.open();
    assert!(!transfer.finish().await.whole);
    assert_eq!(get(node.addr, HOST, "/page").await.text(), "hello");
}

#[tokio::test]
async fn what_the_origin_confirms_or_says_nothing_of_stays() {
    for said in ["200 OK\netag: \"a\"\ncontent-length: 5", "405 Method Not Allowed", "503 Service Unavailable"] {
        let origin = Origin::start().await;
        origin.on("/page", head(said));
        let answer = format!("{FRESH}\n{HIT}\ncontent-length: 5\n\nhello");
        let (node, _) = node_and_peer(&answer, &origin, |config| config.peer.verify = 1).await;
        get(node.addr, HOST, "/page").await;
        until(async || origin.count("/page") == 1).await;
        assert_eq!(get(node.addr, HOST, "/page").await.cache(), "coral; hit", "{said}");
        assert_eq!(node.proxy.status().errors.get("peer"), None, "{said}");
    }
}
