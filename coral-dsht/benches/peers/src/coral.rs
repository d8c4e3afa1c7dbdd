//! This project's index: real drivers on real UDP sockets, each on a loopback address of its own.

use std::collections::BTreeMap;
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use coral_dsht::{Config, Driver, DshtHandle, Id, Levels, Peer, Services, Value};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::network::{Holders, Key, Network, Received, TTL};

/// With the default three levels. On loopback all nodes are near each other: once settled, they share the clusters of all.
#[derive(Debug)]
pub struct ThreeLevels(Nodes);

/// With the global level alone, as the others have it.
#[derive(Debug)]
pub struct OneLevel(Nodes);

#[derive(Debug)]
struct Nodes {
    nodes: Vec<Node>,
    /// The counters of those that have fallen silent stay as they were.
    received: Mutex<Received>,
}

#[derive(Debug)]
struct Node {
    handle: DshtHandle,
    address: SocketAddr,
    /// Its address in six bytes: what it has to say of itself.
    value: Value,
    task: JoinHandle<()>,
    /// Keeps the port taken after the node has stopped: whoever sends to it is not told that nobody reads.
    _socket: std::net::UdpSocket,
}

impl Nodes {
    async fn start(count: usize, config: Config) -> anyhow::Result<Self> {
        let levels = config.levels();
        let config = Arc::new(config);
        let mut nodes: Vec<Node> = Vec::new();
        let mut pace = tokio::time::interval(BETWEEN_STARTS);
        for number in 0..count {
            pace.tick().await;
            // A /24 for each, as on the Internet: what a network may ask is bounded.
            let ip = Ipv4Addr::new(127, 1 + u8::try_from(number / 250)?, u8::try_from(number % 250)?, 1);
            let socket = std::net::UdpSocket::bind(SocketAddrV4::new(ip, 0)).context("binding a loopback address")?;
            socket.set_nonblocking(true)?;
            let (kept, address) = (socket.try_clone()?, socket.local_addr()?);
            let me = Peer::new(address, Services::NONE);
            let (handle, driver) = Driver::new(UdpSocket::from_std(socket)?, me, Arc::clone(&config))?;
            let seeds = nodes.first().map(|first| first.address).into_iter().collect();
            let value = [&ip.octets()[..], &address.port().to_be_bytes()].concat();
            let value = Value::new(&value).context("six bytes fit")?;
            let task = tokio::spawn(driver.run(seeds, pending()));
            nodes.push(Node { handle, address, value, task, _socket: kept });
        }
        let network = Self { nodes, received: Mutex::default() };
        network.settle(levels).await?;
        Ok(network)
    }

    /// Waits until nine of ten are in the same cluster at each level and tables grow no more, for half a minute at most.
    async fn settle(&self, levels: Levels) -> anyhow::Result<()> {
        let begun = Instant::now();
        let (mut most, mut grown) = (0, begun);
        loop {
            let mut known = 0;
            let mut sizes = BTreeMap::new();
            for node in &self.nodes {
                let snapshot = node.handle.snapshot().await?;
                for cluster in &snapshot.clusters {
                    known += cluster.known;
                    *sizes.entry((cluster.level, cluster.cluster)).or_insert(0) += 1;
                }
            }
            if known > most {
                (most, grown) = (known, Instant::now());
            }
            let large = sizes.values().filter(|size| **size * 10 >= self.nodes.len() * 9).count();
            // Tables are looked after at ever longer intervals; what is still missing then, the work itself brings.
            if large == levels.nearest_first().count() && grown.elapsed() > Duration::from_secs(5) {
                return Ok(());
            }
            if begun.elapsed() > Duration::from_secs(30) {
                let clusters = sizes.len() - 1;
                eprintln!(
                    "coral: not settled after half a minute, going on with {clusters} clusters beside the global one"
                );
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn put(&self, node: usize, key: Key) -> Option<Holders> {
        let node = &self.nodes[node];
        let stored = node.handle.put(Id::from_bytes(key), node.value.clone(), TTL, Levels::ALL).await.ok()?;
        if stored.at.is_empty() && !stored.held_back {
            return None;
        }
        let number = |peer: &Peer| self.nodes.iter().position(|node| node.address == peer.addr);
        Some(Holders::Nodes(stored.at.iter().filter_map(|(_, peer)| number(peer)).collect()))
    }

    async fn get(&self, node: usize, key: Key) -> bool {
        let found = self.nodes[node].handle.get(Id::from_bytes(key), Levels::ALL).await;
        found.is_ok_and(|found| !found.values.is_empty())
    }

    async fn received(&self) -> Received {
        let mut of_work = Vec::new();
        let mut of_upkeep = 0;
        for (number, node) in self.nodes.iter().enumerate() {
            match node.handle.snapshot().await {
                Ok(snapshot) => {
                    let mut work = 0;
                    for (kind, count) in &snapshot.stats.requests {
                        if matches!(*kind, "get" | "put" | "store") {
                            work += count;
                        } else {
                            of_upkeep += count;
                        }
                    }
                    of_work.push(work);
                }
                Err(_) => of_work.push(self.received.lock().expect("nobody panics").of_work[number]),
            }
        }
        let received = Received { of_work, of_upkeep };
        *self.received.lock().expect("nobody panics") = received.clone();
        received
    }

    fn silence(&self, node: usize) {
        self.nodes[node].task.abort();
    }
}

/// The time between the starts of two nodes. Started at once they would keep the machine busy, wait for each other, and take
/// that for the distance between them: 256 of them had 73 clusters half a minute later.
const BETWEEN_STARTS: Duration = Duration::from_millis(20);

macro_rules! network {
    ($name:ty, $config:expr) => {
        impl Network for $name {
            async fn start(nodes: usize) -> anyhow::Result<Self> {
                Ok(Self(Nodes::start(nodes, $config).await?))
            }

            async fn put(&self, node: usize, key: Key) -> Option<Holders> {
                self.0.put(node, key).await
            }

            async fn get(&self, node: usize, key: Key) -> bool {
                self.0.get(node, key).await
            }

            async fn received(&self) -> Received {
                self.0.received().await
            }

            async fn silence(&self, node: usize) {
                self.0.silence(node);
            }
        }
    };
}

network!(ThreeLevels, Config::default());
network!(OneLevel, Config { diameters: Vec::new(), ..Config::default() });
