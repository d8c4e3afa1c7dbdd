//! Cache-Control, in requests.

use crate::support::client::{get, get_with};
use crate::support::node::HOST;
use crate::world;

#[tokio::test]
async fn only_if_cached_is_from_here_or_504() {
    let (origin, node) = world().await;
    origin.text("/", "HTTP/1.1 200 OK", "x");
    assert_eq!(get_with(node.addr, HOST, "/", "cache-control: only-if-cached").await.status, 504);
    get(node.addr, HOST, "/").await;
    assert_eq!(get_with(node.addr, HOST, "/", "cache-control: only-if-cached").await.status, 200);
}

#[tokio::test]
async fn no_store_in_a_request_stores_nothing_but_may_be_served_from_here() {
    let (origin, node) = world().await;
    origin.text("/", "HTTP/1.1 200 OK", "x");
    get_with(node.addr, HOST, "/", "cache-control: no-store").await;
    assert_eq!(node.proxy.status().objects, 0);
    assert_eq!(get(node.addr, HOST, "/").await.cache(), "coral; fwd=uri-miss; detail=origin; stored");
    assert_eq!(get_with(node.addr, HOST, "/", "cache-control: no-store").await.cache(), "coral; hit");
}
