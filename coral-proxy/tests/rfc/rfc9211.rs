//! Cache-Status: each node adds one member, and it says what that node did.

use crate::support::client::get;
use crate::support::node::HOST;
use crate::{two_nodes, world};

#[tokio::test]
async fn a_member_for_each_fate() {
    let (origin, node) = world().await;
    origin.text("/", "HTTP/1.1 200 OK\ncache-control: max-age=60\ncache-status: Front; hit, coral; hit", "x");
    for ours in ["coral; fwd=uri-miss; detail=origin; stored", "coral; hit"] {
        let reply = get(node.addr, HOST, "/").await;
        let all: Vec<&str> =
            reply.fields.iter().filter(|(name, _)| name == "cache-status").map(|(_, value)| value.as_str()).collect();
        assert_eq!(all, ["Front; hit", ours], "what another Coral node said of its own cache is not passed on");
    }
}

#[tokio::test]
async fn a_copy_of_another_node_says_so() {
    let (origin, one, other) = two_nodes().await;
    origin.text("/", "HTTP/1.1 200 OK\ncache-control: max-age=60", "x");
    get(one.addr, HOST, "/").await;
    let reply = get(other.addr, HOST, "/").await;
    let members = reply.fields.iter().filter(|(name, _)| name == "cache-status").count();
    assert_eq!((members, reply.cache()), (1, "coral; fwd=uri-miss; detail=peer-l0; stored"));
}
