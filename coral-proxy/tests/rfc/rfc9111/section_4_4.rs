//! Invalidating stored responses: unsafe methods are refused here (design §4.4), so none invalidates, nor fails to.

use crate::support::client::{get, request};
use crate::support::node::HOST;
use crate::world;

#[tokio::test]
async fn an_unsafe_method_reaches_neither_the_origin_nor_the_store() {
    let (origin, node) = world().await;
    origin.text("/", "HTTP/1.1 200 OK\ncache-control: max-age=60", "x");
    get(node.addr, HOST, "/").await;
    for (method, status) in [("POST", 405), ("PUT", 405), ("DELETE", 405), ("PATCH", 405), ("M-SEARCH", 501)] {
        let reply = request(node.addr, &format!("{method} / HTTP/1.1\nhost: {HOST}\ncontent-length: 0\n\n")).await;
        assert_eq!(reply.status, status, "{method}");
    }
    assert_eq!(get(node.addr, HOST, "/").await.cache(), "coral; hit");
    assert_eq!(origin.count("/"), 1);
}
