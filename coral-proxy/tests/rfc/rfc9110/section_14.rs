//! Range requests, from what is stored and from slices. Parts of what is not, and of what has none: RFC 9111 §3.3, §3.4.

use std::ops::Range;

use crate::support::client::{get, get_with};
use crate::support::film::{MIB, TOTAL, alone, check, film, range, slice};
use crate::support::node::HOST;
use crate::support::origin::File;
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

#[tokio::test]
async fn ranges_of_every_kind_get_the_bytes_that_they_name() {
    let film = film();
    let (origin, node) = alone(&film).await;
    let check_part = async |wanted: &str, bytes: Range<u64>| check(&range(&node, wanted).await, &film, bytes);
    check_part("bytes=-500", TOTAL - 500..TOTAL).await;
    assert_eq!(origin.ranges("/film"), ["-500"], "where that is was not known");
    check_part("bytes=-2000", TOTAL - 2000..TOTAL).await;
    assert_eq!(origin.ranges("/film"), ["-500", &slice(3), &slice(4)]);
    check_part("bytes=1048575-1048576", MIB - 1..MIB + 1).await;
    check_part("bytes=1048576-1048576", MIB..MIB + 1).await;
    check_part("bytes=2097151-", 2 * MIB - 1..TOTAL).await;
    check_part("bytes=1-99999999", 1..TOTAL).await;
    assert_eq!(origin.count("/film"), 6, "each slice once");
    check_part("bytes=0-99", 0..100).await;
    assert_eq!(origin.count("/film"), 6);
    for (beyond, place) in [(TOTAL, "first"), (TOTAL + 5, "second"), (9 * MIB, "third")] {
        let reply = range(&node, &format!("bytes={beyond}-")).await;
        assert_eq!((reply.status, reply.field("content-range")), (416, &*format!("bytes */{TOTAL}")), "{place}");
    }
    let reply = range(&node, "bytes=1500000-1500009, 3000000-3000009").await;
    assert_eq!((reply.status, reply.body.len() as u64), (200, TOTAL), "several get the whole");
    let asked = origin.count("/film");
    let reply = get_with(node.addr, HOST, "/film", "range: bytes=5-9\nif-none-match: \"a\"").await;
    assert_eq!((reply.status, origin.count("/film")), (304, asked));
}

#[tokio::test]
async fn the_end_is_where_it_is_now_and_not_where_it_was() {
    let old = film();
    for total in [TOTAL + 5 * MIB, 2 * MIB + 10, TOTAL - 10, 1000] {
        let (origin, node) = alone(&old).await;
        check(&range(&node, "bytes=3500000-3500009").await, &old, 3_500_000..3_500_010);
        let new = File::of(total, "etag: \"b\"").version(100);
        origin.file("/film", &new);
        check(&range(&node, "bytes=-500").await, &new, total - 500..total);
    }
}

#[tokio::test]
async fn what_is_for_one_client_alone_is_a_part_for_him_however_small() {
    for total in [TOTAL, 500_000] {
        let private = File::of(total, "cdn-cache-control: private\netag: \"a\"");
        let (_origin, node) = alone(&private).await;
        for _ in 0..2 {
            check(&range(&node, "bytes=100000-200000").await, &private, 100_000..200_001);
        }
        assert_eq!(node.proxy.status().objects, 0);
    }
}
