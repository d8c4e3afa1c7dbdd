//! Our own nameserver, as a process to be measured.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use coral_dns::{Config, Metrics, NAMESERVER, PROXY, ProbeConfig, Recollection, Server, Sockets};
use coral_dsht::{DshtHandle, Peer, memory};

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
            let rtt = Duration::from_millis([5, 40, 150][number % 3]);
            server.remember([Recollection::of_rtt(IpAddr::V4(prefix).into(), rtt)]);
        }
        let udp = (0..WORKERS).map(|_| reuse_port(port)).collect::<Result<_, _>>()?;
        let sockets = Sockets { udp, tcp: None };
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
    let levels = [None, Some(60), Some(20)].into_iter().enumerate();
    let members = |number: usize| (2..=NODES >> number).map(peer).collect();
    let levels = levels.map(|(number, diameter)| (diameter.map(Duration::from_millis), members(number)));
    memory::fixed(peer(1), levels.collect())
}
