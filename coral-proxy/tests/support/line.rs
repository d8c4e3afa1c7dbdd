//! A line of nodes that read a body from one another, the first of them from a node that breaks off; when it then asks who else
//! has the body, it is sent to the last of them.

use std::net::SocketAddr;

use super::client::Transfer;
use super::node::Node;
use super::origin::Origin;
use super::script::Script;

/// The nodes, and a client of each.
pub struct Line {
    nodes: Vec<Node>,
    transfers: Vec<Transfer>,
}

impl Line {
    /// `count` nodes; the first reads from `source`. Each client has sent `request`, and has `begun` of the body.
    pub async fn start(count: usize, source: SocketAddr, origin: &Origin, request: &str, begun: &[u8]) -> Self {
        let script = Script::default();
        let (mut before, mut nodes, mut transfers) = (source, Vec::new(), Vec::new());
        for _ in 0..count {
            let node = Node::start_on(|addr| script.index(addr), origin, |_| {}).await;
            script.names(node.addr, &[before]);
            before = node.addr;
            let mut transfer = Transfer::begin(node.addr, request).await;
            assert!(transfer.read(begun.len() as u64).await == begun);
            nodes.push(node);
            transfers.push(transfer);
        }
        script.names(nodes[0].addr, &[source, before]);
        Self { nodes, transfers }
    }

    /// Checks that each client gets `rest`, and that only one node had to look for it.
    pub async fn ends_with(&mut self, rest: &[u8]) {
        for transfer in &mut self.transfers {
            let end = transfer.finish().await;
            assert!(end.whole && end.body == rest);
        }
        let continued: u64 = self.nodes.iter().map(|node| node.proxy.status().continued).sum();
        assert_eq!(continued, 1, "those behind it noticed nothing");
    }
}
