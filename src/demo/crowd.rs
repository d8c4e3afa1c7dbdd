//! The visitors: all nodes asked for all objects in one instant, then many clients at once. Each body is checked by its digest, and
//! each answer is counted by what its `Cache-Status` says the cache did.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use http_body_util::BodyExt as _;
use hyper::header::CONTENT_TYPE;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Options;
use super::chance::Chance;
use super::network::Network;
use super::site::Object;
use crate::http::Connection;
use crate::outcome::Outcome;

/// How long one object may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Errors told one by one; beyond, only their number.
const TOLD: usize = 5;

/// What came of many requests.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// How long each took to its last byte, by where it came from.
    pub(super) latencies: BTreeMap<Outcome, Vec<Duration>>,
    /// Requests by object.
    pub(super) by_object: BTreeMap<&'static str, u64>,
    pub(super) bytes: u64,
    pub(super) took: Duration,
    /// Requests that failed or brought something else than the object.
    pub(super) failures: u64,
    /// The first few of them.
    told: Vec<String>,
}

impl Tally {
    pub(super) fn requests(&self) -> u64 {
        self.by_object.values().sum()
    }

    pub(super) fn wrong(&self) -> Vec<String> {
        let mut wrong = self.told.clone();
        let untold = self.failures - self.told.len() as u64;
        if untold > 0 {
            wrong.push(format!("and {untold} more requests failed"));
        }
        wrong
    }

    fn count(&mut self, object: &Object, outcome: anyhow::Result<Fetched>) {
        *self.by_object.entry(object.path).or_default() += 1;
        match outcome {
            Ok(fetched) => {
                self.bytes += object.body.len() as u64;
                self.latencies.entry(fetched.outcome).or_default().push(fetched.took);
            }
            Err(e) => {
                self.failures += 1;
                if self.told.len() < TOLD {
                    self.told.push(format!("{}: {e:#}", object.path));
                }
            }
        }
    }

    fn merge(&mut self, other: Self) {
        for (outcome, mut times) in other.latencies {
            self.latencies.entry(outcome).or_default().append(&mut times);
        }
        for (path, requests) in other.by_object {
            *self.by_object.entry(path).or_default() += requests;
        }
        self.bytes += other.bytes;
        self.failures += other.failures;
        self.told.extend(other.told);
        self.told.truncate(TOLD);
    }
}

/// Every node is asked for every object in one instant, while none of them has any.
pub(super) async fn first_instant(network: &Network, objects: &[Object]) -> anyhow::Result<Tally> {
    let host = network.coralized_host();
    let progress = progress("first instant", (network.nodes.len() * objects.len()) as u64);
    let mut visitors = JoinSet::new();
    let begun = Instant::now();
    for object in objects {
        for node in 0..network.nodes.len() {
            let mut client = Client::new(network.proxies(), &host);
            let (object, progress) = (object.clone(), progress.clone());
            visitors.spawn(async move {
                let mut tally = Tally::default();
                tally.count(&object, client.fetch(node, &object).await);
                progress.inc(1);
                tally
            });
        }
    }
    let mut tally = Tally::default();
    while let Some(visitor) = visitors.join_next().await {
        tally.merge(visitor.context("a visitor panicked")?);
    }
    tally.took = begun.elapsed();
    progress.finish_and_clear();
    Ok(tally)
}

/// The flash crowd: each client asks a random node for one object after another, popular ones more often (Zipf's law),
/// until all requests are made. In the end each node is asked once for each object that is large.
pub(super) async fn play(network: &Network, objects: &[Object], options: &Options) -> anyhow::Result<Tally> {
    let (large, small): (Vec<Object>, Vec<Object>) = objects.iter().cloned().partition(Object::is_large);
    let weights: Vec<f64> = (1..=small.len()).map(|rank| 1.0 / rank as f64).collect();
    let (small, weights) = (Arc::new(small), Arc::new(weights));
    let left = Arc::new(AtomicU32::new(options.requests));
    let progress = progress("flash crowd", u64::from(options.requests));

    let mut clients = JoinSet::new();
    let begun = Instant::now();
    for number in 0..options.clients {
        let mut client = Client::new(network.proxies(), &network.coralized_host());
        let (small, weights) = (Arc::clone(&small), Arc::clone(&weights));
        let (left, progress) = (Arc::clone(&left), progress.clone());
        clients.spawn(async move {
            let mut chance = Chance::new(u64::from(number) + 1);
            let mut tally = Tally::default();
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                let object = &small[chance.weighted(&weights)];
                let node = chance.below(client.nodes.len());
                tally.count(object, client.fetch(node, object).await);
                progress.inc(1);
            }
            tally
        });
    }
    for node in 0..network.nodes.len() {
        let mut client = Client::new(network.proxies(), &network.coralized_host());
        let large = large.clone();
        clients.spawn(async move {
            let mut tally = Tally::default();
            for object in &large {
                tally.count(object, client.fetch(node, object).await);
            }
            tally
        });
    }
    let mut tally = Tally::default();
    while let Some(client) = clients.join_next().await {
        tally.merge(client.context("a client panicked")?);
    }
    tally.took = begun.elapsed();
    progress.finish_and_clear();
    Ok(tally)
}

/// On a terminal; elsewhere it draws nothing.
fn progress(what: &'static str, length: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{msg:15} [{bar:40}] {pos}/{len}").expect("a template of our own");
    bar.set_style(style.progress_chars("=> "));
    bar.set_message(what);
    bar
}

/// One visitor, with at most one connection to each node.
struct Client {
    nodes: Vec<SocketAddr>,
    connections: BTreeMap<usize, Connection>,
    host: String,
}

struct Fetched {
    outcome: Outcome,
    took: Duration,
}

impl Client {
    fn new(nodes: Vec<SocketAddr>, host: &str) -> Self {
        let port = nodes.first().map_or(0, SocketAddr::port);
        Self { nodes, connections: BTreeMap::new(), host: format!("{host}:{port}") }
    }

    /// Fetches `object` from the node with this number, and compares what comes with what it is.
    async fn fetch(&mut self, node: usize, object: &Object) -> anyhow::Result<Fetched> {
        let begun = Instant::now();
        match timeout(PATIENCE, self.exchange(node, object)).await {
            Ok(Ok((outcome, connection))) => {
                self.connections.insert(node, connection);
                Ok(Fetched { outcome, took: begun.elapsed() })
            }
            Ok(Err(e)) => Err(e.context(format!("asked of {}", self.nodes[node]))),
            Err(_) => bail!("{} has not sent it within {PATIENCE:?}", self.nodes[node]),
        }
    }

    async fn exchange(&mut self, node: usize, object: &Object) -> anyhow::Result<(Outcome, Connection)> {
        // Taken out while in use: a connection on which something went wrong is not used again.
        let mut kept = self.connections.remove(&node);
        if let Some(connection) = &mut kept
            && !connection.is_ready().await
        {
            kept = None;
        }
        let mut connection = match kept {
            Some(connection) => connection,
            None => Connection::open(self.nodes[node]).await?,
        };
        let response = connection.get(&self.host, object.path).await?;
        ensure!(response.status() == 200, "the answer is {}", response.status());
        let content_type = response.headers().get(CONTENT_TYPE).map(|value| value.as_bytes());
        ensure!(content_type == Some(object.content_type.as_bytes()), "it has another Content-Type");
        let outcome = Outcome::of(response.headers());
        let mut body = response.into_body();
        let mut hasher = Sha256::new();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                length += data.len();
                hasher.update(&data);
            }
        }
        ensure!(length == object.body.len(), "{length} bytes came of {}", object.body.len());
        ensure!(hasher.finalize()[..] == object.digest, "it was altered on its way");
        Ok((outcome, connection))
    }
}
