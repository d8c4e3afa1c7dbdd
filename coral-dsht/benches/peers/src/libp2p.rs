//! The `libp2p-kad` crate: IPFS's table, a swarm and a task for each node.
//!
//! Over libp2p's memory transport with its cheapest handshake: no sockets, no encryption, connections that are kept. All
//! that spares it work that the other two do.

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use libp2p_core::multiaddr::{Multiaddr, Protocol};
use libp2p_core::transport::{MemoryTransport, Transport as _};
use libp2p_core::upgrade::Version;
use libp2p_identity::{Keypair, PeerId};
use libp2p_kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p_kad::{
    Behaviour, Config, Event, GetRecordOk, InboundRequest, Mode, PROTOCOL_NAME, QueryId, QueryResult, Quorum, Record,
    RecordKey,
};
use libp2p_swarm::{Swarm, SwarmEvent};
use tokio::sync::{mpsc, oneshot};

use crate::network::{Holders, Key, Network, Received};

/// Nodes of `libp2p-kad`.
#[derive(Debug)]
pub struct Kad {
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    commands: mpsc::Sender<Command>,
    ear: Arc<Ear>,
}

#[derive(Debug, Default)]
struct Ear {
    of_work: AtomicU64,
    of_upkeep: AtomicU64,
}

#[derive(Debug)]
enum Command {
    Put(Key, oneshot::Sender<bool>),
    Get(Key, oneshot::Sender<bool>),
    /// Look for nodes near one's own id.
    Bootstrap(oneshot::Sender<bool>),
    Silence,
}

impl Network for Kad {
    async fn start(count: usize) -> anyhow::Result<Self> {
        let identities: Vec<Keypair> = (0..count).map(|_| Keypair::generate_ed25519()).collect();
        let addresses: Vec<(PeerId, Multiaddr)> = identities
            .iter()
            .zip(1u64..)
            .map(|(identity, port)| (identity.public().to_peer_id(), Protocol::Memory(port).into()))
            .collect();
        let mut nodes = Vec::new();
        for (identity, (_, address)) in identities.iter().zip(&addresses) {
            let mut swarm = swarm(identity)?;
            swarm.listen_on(address.clone())?;
            for (peer, address) in &addresses {
                if peer != swarm.local_peer_id() {
                    swarm.behaviour_mut().add_address(peer, address.clone());
                }
            }
            let ear = Arc::new(Ear::default());
            let (commands, requests) = mpsc::channel(1024);
            tokio::spawn(run(swarm, requests, Arc::clone(&ear)));
            nodes.push(Node { commands, ear });
        }
        let network = Self { nodes };
        join_all((0..count).map(|node| network.ask(node, Command::Bootstrap))).await;
        Ok(network)
    }

    async fn put(&self, node: usize, key: Key) -> Option<Holders> {
        self.ask(node, |reply| Command::Put(key, reply)).await.then_some(Holders::Twenty)
    }

    async fn get(&self, node: usize, key: Key) -> bool {
        self.ask(node, |reply| Command::Get(key, reply)).await
    }

    async fn received(&self) -> Received {
        let of_work = self.nodes.iter().map(|node| node.ear.of_work.load(Relaxed)).collect();
        let of_upkeep = self.nodes.iter().map(|node| node.ear.of_upkeep.load(Relaxed)).sum();
        Received { of_work, of_upkeep }
    }

    async fn silence(&self, node: usize) {
        let _ = self.nodes[node].commands.send(Command::Silence).await;
    }
}

impl Kad {
    async fn ask(&self, node: usize, command: impl FnOnce(oneshot::Sender<bool>) -> Command) -> bool {
        let (reply, answer) = oneshot::channel();
        self.nodes[node].commands.send(command(reply)).await.is_ok() && answer.await.unwrap_or(false)
    }
}

fn swarm(identity: &Keypair) -> anyhow::Result<Swarm<Behaviour<MemoryStore>>> {
    let transport = MemoryTransport::default()
        .upgrade(Version::V1)
        .authenticate(libp2p_plaintext::Config::new(identity))
        .multiplex(libp2p_yamux::Config::default())
        .boxed();
    let me = identity.public().to_peer_id();
    // The default holds 1,024 records, which the busy rounds exceed.
    let store = MemoryStore::with_config(me, MemoryStoreConfig { max_records: 1 << 20, ..Default::default() });
    let mut behaviour = Behaviour::with_config(me, store, Config::new(PROTOCOL_NAME));
    behaviour.set_mode(Some(Mode::Server));
    let config = libp2p_swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(3600));
    Ok(Swarm::new(transport, behaviour, me, config))
}

/// One node: its swarm, and who waits for which query.
async fn run(mut swarm: Swarm<Behaviour<MemoryStore>>, mut commands: mpsc::Receiver<Command>, ear: Arc<Ear>) {
    let mut waiting: HashMap<QueryId, oneshot::Sender<bool>> = HashMap::new();
    loop {
        tokio::select! {
            event = swarm.select_next_some() => {
                let SwarmEvent::Behaviour(event) = event else { continue };
                match event {
                    Event::InboundRequest { request } => ear.hear(&request),
                    Event::OutboundQueryProgressed { id, result, step, .. } => {
                        let found = matches!(result, QueryResult::GetRecord(Ok(GetRecordOk::FoundRecord(_))));
                        if found && let Some(mut query) = swarm.behaviour_mut().query_mut(&id) {
                            // As the others do: a few values, not all of them.
                            query.finish();
                        }
                        if (found || step.last) && let Some(reply) = waiting.remove(&id) {
                            let is_done = match &result {
                                QueryResult::GetRecord(_) => found,
                                QueryResult::PutRecord(put) => put.is_ok(),
                                _ => true,
                            };
                            let _ = reply.send(is_done);
                        }
                    }
                    _ => {}
                }
            }
            command = commands.recv() => {
                let kad = swarm.behaviour_mut();
                let started = match command {
                    None => return,
                    // Its connections stay, and with them all that is under way; nobody answers any more.
                    Some(Command::Silence) => pending().await,
                    Some(Command::Put(key, reply)) => {
                        let record = Record::new(RecordKey::new(&key), vec![127, 0, 0, 1, 0, 80]);
                        (kad.put_record(record, Quorum::One).ok(), reply)
                    }
                    Some(Command::Get(key, reply)) => (Some(kad.get_record(RecordKey::new(&key))), reply),
                    Some(Command::Bootstrap(reply)) => (kad.bootstrap().ok(), reply),
                };
                match started {
                    (Some(id), reply) => drop(waiting.insert(id, reply)),
                    (None, reply) => drop(reply.send(false)),
                }
            }
        }
    }
}

impl Ear {
    /// A search for the nodes closest to a key is the first half of a put, and how tables are filled.
    fn hear(&self, request: &InboundRequest) {
        let counter = match request {
            InboundRequest::GetRecord { .. } | InboundRequest::PutRecord { .. } | InboundRequest::FindNode { .. } => {
                &self.of_work
            }
            _ => &self.of_upkeep,
        };
        counter.fetch_add(1, Relaxed);
    }
}
