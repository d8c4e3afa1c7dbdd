//! The `mainline` crate: BitTorrent's table, a thread and a UDP socket for each node, all on 127.0.0.1.
//!
//! A put is an announcement, a get a search for peers: what that network lives on. The only bootstrap node is the first one
//! here, and all sockets are bound to loopback, so that nothing leaves the machine.

use std::fmt::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use anyhow::ensure;
use futures::StreamExt as _;
use futures::future::join_all;
use mainline::async_dht::AsyncDht;
use mainline::{Dht, Id, RequestFilter, RequestSpecific, ServerSettings};

use crate::network::{Holders, Key, Network, Received};

/// Nodes of `mainline`.
#[derive(Debug)]
pub struct Mainline {
    nodes: Vec<(AsyncDht, Arc<Ear>)>,
}

/// What a node hears: each request passes here before it is served.
#[derive(Debug, Default)]
struct Ear {
    of_work: AtomicU64,
    of_upkeep: AtomicU64,
    is_deaf: AtomicBool,
}

#[derive(Debug, Clone)]
struct Filter(Arc<Ear>);

impl RequestFilter for Filter {
    fn allow_request(&self, request: &RequestSpecific, _from: SocketAddrV4) -> bool {
        // The kinds have no public type, but they have names. Formatting ends at the first word.
        let mut name = FirstWord(None);
        let _ = write!(name, "{:?}", request.request_type);
        let counter = if name.0 == Some(Care::OfTables) { &self.0.of_upkeep } else { &self.0.of_work };
        counter.fetch_add(1, Relaxed);
        !self.0.is_deaf.load(Relaxed)
    }
}

struct FirstWord(Option<Care>);

#[derive(PartialEq, Eq)]
enum Care {
    OfTables,
    OfValues,
}

impl fmt::Write for FirstWord {
    fn write_str(&mut self, word: &str) -> fmt::Result {
        self.0 = Some(if matches!(word, "Ping" | "FindNode") { Care::OfTables } else { Care::OfValues });
        Err(fmt::Error)
    }
}

impl Network for Mainline {
    async fn start(count: usize) -> anyhow::Result<Self> {
        let mut nodes: Vec<(AsyncDht, Arc<Ear>)> = Vec::new();
        let mut bootstrap: Vec<SocketAddrV4> = Vec::new();
        for _ in 0..count {
            let ear = Arc::new(Ear::default());
            let settings = ServerSettings { filter: Box::new(Filter(Arc::clone(&ear))), ..ServerSettings::default() };
            // Without a list of its own it would ask the public nodes: the first one has an empty list.
            let mut builder = Dht::builder();
            builder.server_mode().server_settings(settings).bind_address(Ipv4Addr::LOCALHOST).port(0);
            let builder = if nodes.is_empty() { builder.no_bootstrap() } else { builder.bootstrap(&bootstrap) };
            let node = builder.build()?.as_async();
            if nodes.is_empty() {
                bootstrap.push(node.info().await.local_addr());
            }
            nodes.push((node, ear));
        }
        // Twice: those who came first knew few at the time.
        for _ in 0..2 {
            let found = join_all(nodes.iter().map(|(node, _)| node.bootstrapped())).await;
            ensure!(
                found.iter().filter(|found| **found).count() + 1 >= count,
                "nodes of mainline do not find each other"
            );
            let random = nodes.iter().map(|(node, _)| node.find_node(Id::random()));
            join_all(random).await;
        }
        Ok(Self { nodes })
    }

    async fn put(&self, node: usize, key: Key) -> Option<Holders> {
        let announced = self.nodes[node].0.announce_peer(Id::from(key), Some(80)).await;
        announced.ok().map(|_| Holders::Twenty)
    }

    async fn get(&self, node: usize, key: Key) -> bool {
        self.nodes[node].0.get_peers(Id::from(key)).next().await.is_some_and(|peers| !peers.is_empty())
    }

    async fn received(&self) -> Received {
        let of_work = self.nodes.iter().map(|(_, ear)| ear.of_work.load(Relaxed)).collect();
        let of_upkeep = self.nodes.iter().map(|(_, ear)| ear.of_upkeep.load(Relaxed)).sum();
        Received { of_work, of_upkeep }
    }

    async fn silence(&self, node: usize) {
        self.nodes[node].1.is_deaf.store(true, Relaxed);
    }
}
