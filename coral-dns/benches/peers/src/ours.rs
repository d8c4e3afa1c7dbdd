//! Our own nameserver, as a process to be measured.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use coral_dns::{Config, Metrics, NAMESERVER, PROXY, Server, Sockets};
use coral_dsht::Peer;
use coral_dsht::memory::MemoryNetwork;

use crate::responders::{WORKERS, reuse_port};
use crate::traffic;

/// Live nodes, each a proxy and a nameserver.
const NODES: u8 = 64;

/// Answers at `port` until the process is ended.
pub(crate) fn serve(port: u16) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build()?;
    runtime.block_on(async {
        let network = MemoryNetwork::new();
        let peer = |i: u8| Peer::new(SocketAddr::from((Ipv4Addr::new(192, 0, 2, i), 4000)), PROXY | NAMESERVER);
        let nodes: Vec<_> = (1..=NODES).map(|i| network.node(peer(i))).collect();
        let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
        let suffixes = vec![traffic::ZONE.parse().context("the zone is no suffix")?];
        let server = Server::new(Arc::new(config()), suffixes, peer(1), nodes[0].clone(), metrics);
        preload(&server);

        let udp = (0..WORKERS).map(|_| {
            let socket = reuse_port(port)?;
            socket.set_nonblocking(true)?;
            tokio::net::UdpSocket::from_std(socket)
        });
        let sockets = Sockets { udp: udp.collect::<Result<_, _>>()?, tcp: None };
        Ok(server.run(sockets, std::future::pending()).await?)
    })
}

fn config() -> Config {
    // Clients are not measured, and so all distant: see `preload`.
    Config { probe: None, refresh: Duration::from_secs(1), ..Config::default() }
}

/// Makes the prefixes of [`traffic::known_prefixes`] known to the server, with round-trip times that put a third of them
/// into each of the levels. Nothing yet: a server that has not been running yet cannot be told.
fn preload(_server: &Server) {}
