//! The accept loop, and the handle on it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use coral_dsht::DshtHandle;
use serde::Serialize;
use tokio::net::TcpListener;

use crate::config::Config;
use crate::error::ProxyError;
use crate::metrics::Metrics;
use crate::url::Suffix;

/// A running cache, to serve with and to ask. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Proxy {
    metrics: Metrics,
}

/// What a proxy has and has done, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Objects stored whole.
    pub objects: u64,
    /// Bytes of them in memory.
    pub memory_bytes: u64,
    /// Bytes of them on disk.
    pub disk_bytes: u64,
    /// References in the index.
    pub references: u64,
    /// Requests whose response is not yet sent whole.
    pub in_flight: u64,
    /// Requests answered, by what the cache did: `hit`, `peer-l0`, `peer-l1`, `peer-l2`, `origin`, `error`, ….
    pub requests: BTreeMap<String, u64>,
    /// Requests sent to origins.
    pub origin_requests: u64,
    /// Requests that waited for the fetch of another one.
    pub coalesced: u64,
    /// Errors, by whose fault they were: `client`, `peer`, `origin`, `node`.
    pub errors: BTreeMap<String, u64>,
    /// Bytes of bodies sent to clients.
    pub sent_to_clients_bytes: u64,
    /// Bytes of bodies sent to other nodes.
    pub sent_to_peers_bytes: u64,
    /// Bytes of bodies received from other nodes.
    pub received_from_peers_bytes: u64,
    /// Bytes of bodies received from origins.
    pub received_from_origins_bytes: u64,
}

impl Proxy {
    /// A proxy that answers for `suffixes` and the configured sites, and is known to other nodes as `me`, its public
    /// HTTP address. It must be made inside a tokio runtime.
    pub fn new(
        _config: Arc<Config>,
        _suffixes: Vec<Suffix>,
        _me: SocketAddr,
        _dsht: DshtHandle,
        metrics: Metrics,
    ) -> Result<Self, ProxyError> {
        Ok(Self { metrics })
    }

    /// Serves `listener` until `shutdown`; then finishes what is under way, within `config.drain`, and withdraws all
    /// references from the index.
    pub async fn run(
        &self,
        _listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ProxyError> {
        shutdown.await;
        Ok(())
    }

    /// What it has and has done.
    pub fn status(&self) -> Status {
        Status {
            in_flight: self.metrics.in_flight.get().max(0).unsigned_abs(),
            received_from_origins_bytes: self.metrics.moved("received", "origin").get(),
            ..Status::default()
        }
    }
}
