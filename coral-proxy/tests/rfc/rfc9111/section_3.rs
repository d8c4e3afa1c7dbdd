//! Storing responses in caches.

use crate::support::client::get;
use crate::support::node::HOST;
use crate::{two_nodes, world};

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

#[tokio::test]
async fn any_final_status_is_stored_with_explicit_freshness() {
    let (origin, node) = world().await;
    for status in [200, 203, 299, 302, 303, 307, 400, 403, 404, 410, 499, 500, 502, 503, 504, 599] {
        let path = format!("/{status}");
        origin.text(&path, &format!("HTTP/1.1 {status} Any\ncache-control: max-age=60"), "x");
        for _ in 0..2 {
            assert_eq!(get(node.addr, HOST, &path).await.status, status);
        }
        assert_eq!(origin.count(&path), 1, "{path}");
    }
}

/// The other node has it stored, which is not the same as passing on that the origin has failed just now.
#[tokio::test]
async fn a_fresh_error_is_taken_from_another_node() {
    let (origin, one, other) = two_nodes().await;
    origin.text("/", "HTTP/1.1 503 Service Unavailable\ncache-control: max-age=60", "x");
    get(one.addr, HOST, "/").await;
    let reply = get(other.addr, HOST, "/").await;
    assert_eq!((reply.status, reply.cache()), (503, "coral; fwd=uri-miss; detail=peer-l0; stored"));
    assert_eq!(origin.count("/"), 1);
}
