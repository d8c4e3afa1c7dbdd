//! Sockets: UDP and TCP, from the first query to the drain.

use std::future::Future;
use std::sync::Arc;

use coral_dsht::{DshtHandle, Peer};
use tokio::net::{TcpListener, UdpSocket};

use crate::config::Config;
use crate::error::DnsError;
use crate::metrics::Metrics;
use crate::name::Suffix;

/// What the server answers on. All are bound by the caller.
#[derive(Debug)]
pub struct Sockets {
    /// Each is read by one task of its own.
    pub udp: Vec<UdpSocket>,
    /// `None` answers over UDP alone, which is enough for a test and too little for a resolver.
    pub tcp: Option<TcpListener>,
}

/// A node's nameserver.
#[derive(Debug)]
pub struct Server {
    config: Arc<Config>,
    suffixes: Vec<Suffix>,
    me: Peer,
    dsht: DshtHandle,
    metrics: Metrics,
}

impl Server {
    /// A server for the zones `suffixes`, which names itself, `me.addr.ip()`, for what `me.services` has.
    pub fn new(config: Arc<Config>, suffixes: Vec<Suffix>, me: Peer, dsht: DshtHandle, metrics: Metrics) -> Self {
        Self {
            config,
            suffixes,
            me,
            dsht,
            metrics,
        }
    }

    /// Answers until `shutdown` is done, then finishes what was begun.
    pub async fn run(self, sockets: Sockets, shutdown: impl Future<Output = ()> + Send) -> Result<(), DnsError> {
        if self.suffixes.is_empty() {
            return Err(DnsError::NoSuffix);
        }
        tracing::debug!(me = %self.me.addr, zones = ?self.suffixes, config = ?self.config, "serving names");
        shutdown.await;
        drop((sockets, self.dsht, self.metrics));
        Ok(())
    }
}
