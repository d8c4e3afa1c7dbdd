//! Conditional requests: what a client's own conditions get.

use crate::support::client::{get, get_with};
use crate::support::film::{HIT, TAG, TOTAL, alone, check, slice};
use crate::support::node::HOST;
use crate::support::origin::File;
use crate::world;

const HEAD: &str =
    "HTTP/1.1 200 OK\ncache-control: max-age=60\netag: \"a\"\nlast-modified: Thu, 01 Jan 2026 11:00:00 GMT";

#[tokio::test]
async fn a_client_whose_copy_is_good_gets_304() {
    let (origin, node) = world().await;
    origin.text("/", HEAD, "0123456789");
    // The first is a miss: the condition is the client's and does not reach the origin.
    for condition in
        ["if-none-match: \"a\"", "if-none-match: W/\"a\"", "if-modified-since: Thu, 01 Jan 2026 11:00:00 GMT"]
    {
        let reply = get_with(node.addr, HOST, "/", condition).await;
        assert_eq!((reply.status, reply.field("etag"), reply.body.len()), (304, "\"a\"", 0), "{condition}");
    }
    assert_eq!(get_with(node.addr, HOST, "/", "if-none-match: \"b\"").await.status, 200);
    assert_eq!(origin.count("/"), 1);
}

/// RFC 9111 §4.3.2: without Last-Modified the Date stands for it. A copy from before may be another one.
#[tokio::test]
async fn what_does_not_say_when_it_was_changed_is_as_old_as_its_date() {
    let (origin, node) = world().await;
    origin.text("/", "HTTP/1.1 200 OK\ncache-control: max-age=9999999999\ndate: Thu, 01 Jan 2026 11:00:00 GMT", "x");
    get(node.addr, HOST, "/").await;
    let since = async |time: &str| {
        get_with(node.addr, HOST, "/", &format!("if-modified-since: Thu, 01 Jan 2026 {time} GMT")).await
    };
    assert_eq!((since("11:00:00").await.status, since("10:59:59").await.status), (304, 200));
    assert_eq!(origin.count("/"), 1);
}

/// RFC 9110 §13.1.5.
#[tokio::test]
async fn who_goes_on_with_a_download_of_this_version_gets_the_rest_alone_and_of_another_one_the_whole() {
    let modified = "last-modified: Thu, 01 Jan 2026 12:00:00 GMT";
    for (fields, holds, fails) in
        [(TAG, "\"a\"", "\"b\""), (modified, "Thu, 01 Jan 2026 12:00:00 GMT", "Thu, 01 Jan 2026 12:00:01 GMT")]
    {
        let film = File::of(TOTAL, &format!("{fields}\ncontent-type: video/mp4"));
        let (origin, node) = alone(&film).await;
        let ask = async |range: &str, condition: &str| {
            get_with(node.addr, HOST, "/film", &format!("range: bytes={range}\nif-range: {condition}")).await
        };
        let resume = async |condition: &str| ask("3000000-", condition).await;
        let reply = resume(holds).await;
        check(&reply, &film, 3_000_000..TOTAL);
        assert_eq!(reply.field("content-type"), "video/mp4");
        assert_eq!(origin.ranges("/film"), [slice(2), slice(3), slice(4)]);
        assert_eq!(resume(holds).await.cache(), HIT);
        let reply = resume(fails).await;
        assert_eq!((reply.status, reply.body.len() as u64), (200, TOTAL));
        assert!(reply.body == film.bytes(0..TOTAL));
        assert_eq!((origin.count("/film"), origin.ranges("/film").last().unwrap().as_str()), (4, "all"));
        check(&ask("3200000-3200009", holds).await, &film, 3_200_000..3_200_010);
        assert_eq!(ask("3200000-3200009", fails).await.status, 200, "of a slice that is here as well");
    }
}
