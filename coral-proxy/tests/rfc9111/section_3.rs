//! Storing responses in caches.

use crate::support::client::get;
use crate::support::node::HOST;
use crate::world;

#[tokio::test]
async fn what_may_not_be_stored_is_fetched_each_time() {
    let (origin, node) = world().await;
    for (path, head) in [
        ("/no-store", "HTTP/1.1 200 OK\ncache-control: no-store"),
        ("/private", "HTTP/1.1 200 OK\ncache-control: private, max-age=60"),
        ("/vary-any", "HTTP/1.1 200 OK\nvary: *"),
        ("/found", "HTTP/1.1 302 Found\nlocation: /"),
        ("/failed", "HTTP/1.1 500 Internal Server Error"),
    ] {
        origin.text(path, head, "x");
        get(node.addr, HOST, path).await;
        let reply = get(node.addr, HOST, path).await;
        assert_eq!((reply.cache(), reply.text().as_str()), ("coral; fwd=uri-miss; detail=origin", "x"), "{path}");
        assert_eq!(origin.count(path), 2, "{path}");
    }
}

#[tokio::test]
async fn what_may_be_stored_is_fetched_once() {
    let (origin, node) = world().await;
    for (path, head) in [
        ("/silent", "HTTP/1.1 200 OK"),
        ("/gone", "HTTP/1.1 410 Gone"),
        ("/moved", "HTTP/1.1 301 Moved Permanently\nlocation: /"),
        ("/found", "HTTP/1.1 302 Found\nlocation: /\ncache-control: max-age=60"),
    ] {
        origin.text(path, head, "x");
        get(node.addr, HOST, path).await;
        assert_eq!(get(node.addr, HOST, path).await.cache(), "coral; hit", "{path}");
        assert_eq!(origin.count(path), 1, "{path}");
    }
}

#[tokio::test]
async fn fields_of_one_hop_are_not_stored() {
    let (origin, node) = world().await;
    let head = "HTTP/1.1 200 OK\nconnection: keep-alive, x-hop\nkeep-alive: timeout=5\nx-hop: 1\nx-end: 2";
    origin.text("/", head, "x");
    get(node.addr, HOST, "/").await;
    let reply = get(node.addr, HOST, "/").await;
    assert_eq!((reply.field("x-hop"), reply.field("keep-alive"), reply.field("x-end")), ("", "", "2"));
}
