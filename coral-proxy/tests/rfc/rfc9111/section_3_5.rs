//! Storing responses to authenticated requests: where a site passes `Authorization` at all.

use crate::support::client::{get, get_with};
use crate::support::node::HOST;
use crate::{two_nodes, world, world_passing};

const WHO: &str = "authorization: Basic YTpi";

#[tokio::test]
async fn an_answer_to_someone_known_is_not_stored_unless_it_says_that_it_may() {
    let (origin, node) = world_passing(&["authorization"]).await;
    for (path, control, stored) in [
        ("/max-age", "max-age=60", false),
        ("/proxy", "max-age=60, proxy-revalidate", false),
        ("/public", "max-age=60, public", true),
        ("/must", "max-age=60, must-revalidate", true),
        ("/shared", "s-maxage=60", true),
    ] {
        origin.text(path, &format!("HTTP/1.1 200 OK\ncache-control: {control}"), "x");
        get_with(node.addr, HOST, path, WHO).await;
        assert_eq!(origin.requests(path)[0].fields["authorization"], "Basic YTpi");
        get(node.addr, HOST, path).await;
        assert_eq!(origin.count(path), if stored { 1 } else { 2 }, "{path}");
    }
}

#[tokio::test]
async fn what_is_stored_for_all_is_served_to_those_who_say_who_they_are() {
    let (origin, node) = world_passing(&["authorization"]).await;
    origin.text("/", "HTTP/1.1 200 OK\ncache-control: max-age=60", "x");
    get(node.addr, HOST, "/").await;
    assert_eq!(get_with(node.addr, HOST, "/", WHO).await.cache(), "coral; hit");
    assert_eq!(origin.count("/"), 1);
}

#[tokio::test]
async fn nobody_is_known_where_nothing_says_that_it_passes() {
    let (origin, node) = world().await;
    origin.text("/", "HTTP/1.1 200 OK\ncache-control: max-age=60", "x");
    get_with(node.addr, HOST, "/", WHO).await;
    assert!(!origin.requests("/")[0].fields.contains_key("authorization"));
    assert_eq!(get(node.addr, HOST, "/").await.cache(), "coral; hit");
}

#[tokio::test]
async fn another_node_is_not_told() {
    let (origin, one, other) = two_nodes().await;
    origin.text("/", "HTTP/1.1 200 OK\ncache-control: max-age=60", "x");
    get(one.addr, HOST, "/").await;
    let reply = get_with(other.addr, HOST, "/", WHO).await;
    assert_eq!((reply.cache(), origin.count("/")), ("coral; fwd=uri-miss; detail=peer-l0; stored", 1));
}
