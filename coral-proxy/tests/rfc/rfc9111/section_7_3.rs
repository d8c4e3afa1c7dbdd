//! Caching of sensitive information: cookies.

use crate::support::client::get;
use crate::support::node::HOST;
use crate::{world, world_passing};

const EXPLICIT: &str = "HTTP/1.1 200 OK\nset-cookie: a=b\ncache-control: max-age=60";

#[tokio::test]
async fn no_cookie_passes_where_nothing_says_so() {
    let (origin, node) = world().await;
    origin.text("/", EXPLICIT, "x");
    assert_eq!(get(node.addr, HOST, "/").await.field("set-cookie"), "");
    let reply = get(node.addr, HOST, "/").await;
    assert_eq!((reply.field("set-cookie"), reply.cache()), ("", "coral; hit"));
}

#[tokio::test]
async fn where_a_site_says_so_one_passes_and_is_stored_with_an_explicit_lifetime() {
    let (origin, node) = world_passing(&[]).await;
    origin.text("/explicit", EXPLICIT, "x").text("/silent", "HTTP/1.1 200 OK\nset-cookie: a=b", "x");
    for (path, count) in [("/explicit", 1), ("/silent", 2)] {
        for _ in 0..2 {
            assert_eq!(get(node.addr, HOST, path).await.field("set-cookie"), "a=b", "{path}");
        }
        assert_eq!(origin.count(path), count, "{path}");
    }
}
