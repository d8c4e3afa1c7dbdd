//! Range requests, from what is stored. Parts of what is not: RFC 9111 §3.3.

use crate::support::client::{get, get_with};
use crate::support::node::HOST;
use crate::world;

const HEAD: &str =
    "HTTP/1.1 200 OK\ncache-control: max-age=60\netag: \"a\"\nlast-modified: Thu, 01 Jan 2026 11:00:00 GMT";

#[tokio::test]
async fn a_part_of_what_is_stored() {
    let (origin, node) = world().await;
    origin.text("/", HEAD, "0123456789");
    get(node.addr, HOST, "/").await;
    let reply = get_with(node.addr, HOST, "/", "range: bytes=2-4").await;
    assert_eq!((reply.status, reply.text().as_str()), (206, "234"));
    assert_eq!((reply.field("content-range"), reply.field("content-length")), ("bytes 2-4/10", "3"));
    let reply = get_with(node.addr, HOST, "/", "range: bytes=10-").await;
    assert_eq!((reply.status, reply.field("content-range")), (416, "bytes */10"));
    let reply = get_with(node.addr, HOST, "/", "range: bytes=2-4\nif-range: \"b\"").await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "0123456789"));
    assert_eq!(origin.count("/"), 1);
}
