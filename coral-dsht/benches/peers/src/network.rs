//! What is asked of each of them: a whole network in this process, whose nodes put, get and fall silent.

use std::future::Future;

/// A key: of the length that two of the three have anyway.
pub type Key = [u8; 20];

/// How long values are to live, where that can be said: longer than the program runs.
pub const TTL: std::time::Duration = std::time::Duration::from_secs(3600);

/// Where a value was stored.
#[derive(Debug, Clone)]
pub enum Holders {
    /// At these nodes.
    Nodes(Vec<usize>),
    /// At the twenty closest: that all of them fall silent does not happen here.
    Twenty,
}

/// What the nodes of a network have received since their start.
#[derive(Debug, Clone, Default)]
pub struct Received {
    /// Requests that belong to puts and gets, at each node.
    pub of_work: Vec<u64>,
    /// Pings and the care of tables, at all nodes.
    pub of_upkeep: u64,
}

impl Received {
    /// Those at all nodes.
    pub fn total(&self) -> u64 {
        self.of_work.iter().sum()
    }

    /// What came since `before`.
    pub fn since(&self, before: &Self) -> Self {
        let of_work = self.of_work.iter().zip(&before.of_work).map(|(now, then)| now.saturating_sub(*then)).collect();
        Self { of_work, of_upkeep: self.of_upkeep.saturating_sub(before.of_upkeep) }
    }
}

/// A network of nodes in this process.
pub trait Network: Send + Sync + Sized + 'static {
    /// Starts `nodes` of them and returns when they know each other.
    fn start(nodes: usize) -> impl Future<Output = anyhow::Result<Self>> + Send;

    /// Puts six bytes that name node `node` under `key` there and waits until it is stored. `None` if it is not.
    fn put(&self, node: usize, key: Key) -> impl Future<Output = Option<Holders>> + Send;

    /// Gets what is under `key` at node `node`; returns at the first value, whether there was one.
    fn get(&self, node: usize, key: Key) -> impl Future<Output = bool> + Send;

    /// What has been received until now.
    fn received(&self) -> impl Future<Output = Received> + Send;

    /// From now on `node` says nothing to anybody, and nobody is told.
    fn silence(&self, node: usize) -> impl Future<Output = ()> + Send;
}
