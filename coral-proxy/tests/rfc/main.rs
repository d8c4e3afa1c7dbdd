//! HTTP by RFC and section, over real sockets. What can be said of values alone is at the foot of the files in `src`.

#[path = "../support/mod.rs"]
mod support;

mod rfc5861;
mod rfc9110;
mod rfc9111;
mod rfc9211;
mod rfc9213;

use coral_dsht::memory::MemoryNetwork;
use coral_proxy::Site;
use support::node::{HOST, Node};
use support::origin::Origin;

async fn world() -> (Origin, Node) {
    let origin = Origin::start().await;
    let node = Node::start(&MemoryNetwork::new(), &origin).await;
    (origin, node)
}

/// The same, and cookies and these request fields pass.
async fn world_passing(fields: &[&str]) -> (Origin, Node) {
    let origin = Origin::start().await;
    let site = Site::new(HOST, &format!("http://{}", origin.addr)).unwrap().passing(fields).unwrap();
    let node =
        Node::start_with(&MemoryNetwork::new(), &origin, |config| config.sites = vec![site.setting_cookies()]).await;
    (origin, node)
}

/// Two nodes of one network, and their origin.
async fn two_nodes() -> (Origin, Node, Node) {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    let (one, other) = (Node::start(&network, &origin).await, Node::start(&network, &origin).await);
    (origin, one, other)
}
