//! Our own nameserver, as a process to be measured.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use coral_dns::{Config, Metrics, NAMESERVER, PROXY, ProbeConfig, Server, Sockets};
use coral_dsht::{ClusterStatus, Command, DshtHandle, Id, Level, Neighbour, Peer, Snapshot, Stats};

use crate::responders::{WORKERS, reuse_port};
use crate::traffic;

/// Live nodes, each a proxy and a nameserver: all of them at level 0, half at level 1, a quarter at level 2.
const NODES: u8 = 64;

/// Answers at `port` until the process is ended.
pub(crate) fn serve(port: u16) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build()?;
    runtime.block_on(async {
        let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
        let suffixes = vec![traffic::ZONE.parse().context("the zone is no suffix")?];
        let mut server = Server::new(Arc::new(config()), suffixes, peer(1), index(), metrics);
        for (number, prefix) in traffic::known_prefixes().into_iter().enumerate() {
            // A third of them at each level.
            server.remember(IpAddr::V4(prefix).into(), Duration::from_millis([5, 40, 150][number % 3]));
        }
        let udp = (0..WORKERS).map(|_| {
            let socket = reuse_port(port)?;
            socket.set_nonblocking(true)?;
            tokio::net::UdpSocket::from_std(socket)
        });
        let sockets = Sockets { udp: udp.collect::<Result<_, _>>()?, tcp: None };
        Ok(server.run(sockets, std::future::pending()).await?)
    })
}

/// No echo leaves this machine, and nobody is looked for; the limit would take the generator for a flood.
fn config() -> Config {
    let capacity = 2 * traffic::known_prefixes().len();
    let probe = ProbeConfig {
        echoes: 0,
        search: false,
        ttl: Duration::from_secs(3_600),
        capacity: NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN),
        ..ProbeConfig::default()
    };
    Config { probe: Some(probe), rate: 0, ..Config::default() }
}

fn peer(last: u8) -> Peer {
    Peer::new(SocketAddr::from((Ipv4Addr::new(192, 0, 2, last), 4000)), PROXY | NAMESERVER)
}

/// An index with three levels that answers for ever as it was set up.
fn index() -> DshtHandle {
    let (handle, mut commands) = DshtHandle::channel(16);
    let neighbours = |level: Level| -> Vec<Neighbour> {
        let neighbour = |last| Neighbour {
            peer: peer(last),
            rtt: Duration::from_millis(1),
            heard: Duration::ZERO,
            level,
        };
        (1..=NODES >> level.number()).map(neighbour).collect()
    };
    let cluster = |level: Level| ClusterStatus {
        level,
        diameter: [None, Some(60), Some(20)][level.index()].map(Duration::from_millis),
        cluster: Id::ZERO,
        size: NODES.into(),
        known: NODES.into(),
    };
    let snapshot = move || Snapshot {
        me: peer(1),
        clusters: (0..3).filter_map(Level::new).map(cluster).collect(),
        neighbours: Vec::new(),
        routers: Vec::new(),
        stored_keys: 0,
        stored_values: 0,
        published_values: 0,
        stats: Stats::default(),
    };
    tokio::spawn(async move {
        while let Some(command) = commands.recv().await {
            // Who gives up meanwhile has closed the channel; other things are not asked here.
            match command {
                Command::Nodes { query, reply } => drop(reply.send(neighbours(query.level))),
                Command::Snapshot { reply } => drop(reply.send(snapshot())),
                _ => {}
            }
        }
    });
    handle
}
