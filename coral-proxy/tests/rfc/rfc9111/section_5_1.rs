//! Age.

use crate::support::client::get;
use crate::support::node::HOST;
use crate::{two_nodes, world};

#[tokio::test]
async fn of_several_ages_the_first_counts_and_one_that_is_no_number_does_not() {
    let (origin, node) = world().await;
    for (path, line, fresh) in [
        ("/first", "age: 0, 100", true),
        ("/second", "age: 100, 0", false),
        ("/lines", "age: 100\nage: 0", false),
        ("/negative", "age: -100", true),
        ("/float", "age: 100.5", true),
        ("/word", "age: a100", true),
        ("/huge", "age: 99999999999999999999", false),
    ] {
        origin.text(path, &format!("HTTP/1.1 200 OK\ncache-control: max-age=60\n{line}"), "x");
        get(node.addr, HOST, path).await;
        get(node.addr, HOST, path).await;
        assert_eq!(origin.count(path), if fresh { 1 } else { 2 }, "{path}");
    }
}

#[tokio::test]
async fn an_age_goes_on_at_the_next_node() {
    let (origin, one, other) = two_nodes().await;
    origin.text("/", "HTTP/1.1 200 OK\ncache-control: max-age=600\nage: 100", "x");
    get(one.addr, HOST, "/").await;
    let reply = get(other.addr, HOST, "/").await;
    assert!(reply.cache().contains("peer-l0"), "{}", reply.cache());
    let age: u64 = reply.field("age").parse().unwrap();
    assert!((100..110).contains(&age), "{age}");
}
