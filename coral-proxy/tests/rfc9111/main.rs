//! RFC 9111 by section, over real sockets. What can be said of values alone is at the foot of `policy.rs`.

#[path = "../support/mod.rs"]
mod support;

mod section_3;
mod section_4_1;
mod section_4_2;
mod section_4_3;
mod section_5_2;

use coral_dsht::memory::MemoryNetwork;
use support::node::Node;
use support::origin::Origin;

async fn world() -> (Origin, Node) {
    let origin = Origin::start().await;
    let node = Node::start(&MemoryNetwork::new(), &origin).await;
    (origin, node)
}
