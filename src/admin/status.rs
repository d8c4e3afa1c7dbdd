//! What a node says about itself: the bodies of `/status`, `/health`, `/lookup` and `/explain`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use coral_dsht::{ClusterStatus, DshtHandle, Hop, Key, Level, Levels, Neighbour, Peer, Snapshot, Stats, Value};
use coral_proxy::explain::Outlook;
use coral_proxy::reference::{decode_part, decode_reference, parts_key, stale_key};
use coral_proxy::{Explanation, Proxy};
use hyper::Uri;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::config::Config;
use crate::node::{Addresses, Drain};
use crate::page::Page;
use crate::purge::Purger;
use crate::walk::Walker;

/// How long the index may take to tell of itself: its task answers between two datagrams.
const SNAPSHOT: Duration = Duration::from_secs(2);

/// What the admin address reads.
#[derive(Debug)]
pub struct Shared {
    /// When the node started.
    pub started: Instant,
    /// What is in force.
    pub config: Arc<RwLock<Config>>,
    /// Where it listens.
    pub addresses: Addresses,
    /// The index.
    pub dsht: DshtHandle,
    /// The cache, if this node runs one.
    pub proxy: Option<Proxy>,
    /// The node's own page.
    pub(crate) page: Arc<Page>,
    /// What purges.
    pub(crate) purger: Arc<Purger>,
    /// What walks for a map.
    pub(crate) walker: Arc<Walker>,
    /// The counters of the crates.
    pub registry: Registry,
    /// Parts that have ended before they were told to, and why.
    pub failures: watch::Receiver<Vec<String>>,
    /// Whether the node is about to stop.
    pub(crate) drain: Drain,
}

impl Shared {
    pub(super) fn config(&self) -> RwLockReadGuard<'_, Config> {
        self.config.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn snapshot(&self) -> anyhow::Result<Snapshot> {
        let snapshot = timeout(SNAPSHOT, self.dsht.snapshot()).await;
        Ok(snapshot.context("the index does not answer")??)
    }

    /// A node that knows nobody has joined only if it is the first of its network.
    fn has_joined(&self, snapshot: &Snapshot) -> bool {
        self.config().dsht.node.seeds.is_empty() || !snapshot.neighbours.is_empty()
    }
}

/// The body of `/status`.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    version: &'static str,
    #[serde(with = "humantime_serde")]
    uptime: Duration,
    joined: bool,
    node: Peer,
    suffixes: Vec<String>,
    listens: Addresses,
    clusters: Vec<ClusterStatus>,
    neighbours: Vec<Neighbour>,
    /// Those in front of this node that it has found, nearest first.
    routers: Vec<IpAddr>,
    /// `null` without a proxy.
    cache: Option<coral_proxy::Status>,
    index: Index,
}

/// The index' share of the network's soft state, and its counters.
#[derive(Debug, Serialize)]
struct Index {
    stored_keys: usize,
    stored_values: usize,
    published_values: usize,
    stats: Stats,
}

pub(super) async fn status(shared: &Shared) -> anyhow::Result<Status> {
    let snapshot = shared.snapshot().await?;
    Ok(Status {
        version: env!("CARGO_PKG_VERSION"),
        // Whole seconds: more is noise in a table.
        uptime: Duration::from_secs(shared.started.elapsed().as_secs()),
        joined: shared.has_joined(&snapshot),
        node: snapshot.me,
        suffixes: shared.config().suffixes.iter().map(ToString::to_string).collect(),
        listens: shared.addresses,
        clusters: snapshot.clusters,
        neighbours: snapshot.neighbours,
        routers: snapshot.routers,
        cache: shared.proxy.as_ref().map(Proxy::status),
        index: Index {
            stored_keys: snapshot.stored_keys,
            stored_values: snapshot.stored_values,
            published_values: snapshot.published_values,
            stats: snapshot.stats,
        },
    })
}

/// The body of `/health`.
#[derive(Debug, Serialize)]
pub(super) struct Health {
    pub(super) healthy: bool,
    /// What is wrong; empty when healthy.
    reasons: Vec<String>,
}

pub(super) async fn health(shared: &Shared) -> Health {
    let mut reasons = shared.failures.borrow().clone();
    match shared.snapshot().await {
        Ok(snapshot) if shared.has_joined(&snapshot) => {}
        Ok(_) => reasons.push("not joined: none of the seeds answers".to_owned()),
        Err(e) => reasons.push(format!("{e:#}")),
    }
    if shared.drain.is_begun() {
        reasons.push("draining: it is about to stop".to_owned());
    }
    Health { healthy: reasons.is_empty(), reasons }
}

/// The body of `/lookup`.
#[derive(Debug, Serialize)]
pub(super) struct Lookup {
    url: String,
    key: Key,
    /// The level at which something was found.
    level: Option<Level>,
    hops: Vec<Hop>,
    /// The HTTP addresses of nodes that hold it or are fetching it.
    references: Vec<SocketAddr>,
    /// Those of nodes that have a part of it that is no slice.
    parts: Vec<HasPart>,
    /// Those of nodes that have what is no longer fresh.
    stale: Vec<SocketAddr>,
    /// Values under the key that are no references.
    other_values: usize,
}

/// A node that has a part of something.
#[derive(Debug, Serialize, PartialEq, Eq, PartialOrd, Ord)]
struct HasPart {
    node: SocketAddr,
    /// As in `Content-Range`.
    part: String,
}

/// The body of `/explain`.
#[derive(Debug, Serialize)]
pub(super) struct Explained {
    #[serde(flatten)]
    explanation: Explanation,
    /// Whom the index names; `null` where nobody is asked, as what is here is good.
    index: Option<Lookup>,
}

/// Why `url` is served as it is. The inner error is the asker's: no URL, or a node without a cache.
pub(super) async fn explain(shared: &Shared, url: &str) -> anyhow::Result<Result<Explained, anyhow::Error>> {
    let Some(proxy) = &shared.proxy else {
        return Ok(Err(anyhow::anyhow!("this node runs no cache: ask one that does")));
    };
    let explanation = match proxy.explain(url).await {
        Ok(explanation) => explanation,
        Err(e) => return Ok(Err(e.into())),
    };
    let index = match explanation.verdict {
        Outlook::Denied
        | Outlook::Hit
        | Outlook::Revalidating
        | Outlook::StandIn
        | Outlook::NotStored
        | Outlook::Failed => None,
        _ => match lookup(shared, url).await? {
            Ok(lookup) => Some(lookup),
            Err(e) => return Ok(Err(e)),
        },
    };
    Ok(Ok(Explained { explanation, index }))
}

/// Looks `url` up as the cache would. The inner error is the asker's: no URL.
pub(super) async fn lookup(shared: &Shared, url: &str) -> anyhow::Result<Result<Lookup, anyhow::Error>> {
    let key = {
        let config = shared.config();
        let suffixes: Vec<_> = config.suffixes.iter().map(|suffix| suffix.proxy.clone()).collect();
        match coral_proxy::url::index_key(url, &suffixes, &config.proxy.part.sites) {
            Ok(key) => key,
            Err(e) => return Ok(Err(e.into())),
        }
    };
    let under = |key| shared.dsht.get(key, Levels::ALL);
    let (found, parts, stale) = tokio::try_join!(under(key), under(parts_key(key)), under(stale_key(key)))?;
    let nodes = |values: &[Value]| sorted(values.iter().filter_map(decode_reference));
    let references = nodes(&found.values);
    let parts = parts.values.iter().filter_map(decode_part);
    Ok(Ok(Lookup {
        url: url.to_owned(),
        key,
        level: found.level,
        hops: found.hops,
        other_values: found.values.len() - references.len(),
        references,
        parts: sorted(parts.map(|(node, place, _)| HasPart { node, part: place.to_string() })),
        stale: nodes(&stale.values),
    }))
}

fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.collect();
    items.sort();
    items
}

/// The `url` of a query. All that follows `url=` belongs to it, so that a URL with a query of its own needs no escapes;
/// where there are escapes (`coral lookup` makes them) they are undone.
pub(super) fn queried_url(uri: &Uri) -> Option<String> {
    let escaped = uri.query()?.strip_prefix("url=")?;
    String::from_utf8(unescaped(escaped)).ok().filter(|url| !url.is_empty())
}

/// The bytes of a text in which some are escaped by `%` and two digits (RFC 3986 §2.1).
pub(crate) fn unescaped(escaped: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    bytes
}

/// A URL as the query of `/lookup` carries it.
pub(crate) fn escaped(url: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/".contains(&byte);
    url.bytes().fold(String::new(), |mut text, byte| {
        if plain(byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
        text
    })
}

/// The counters of an index by name, for the metrics.
pub(super) fn counts(stats: &Stats) -> BTreeMap<&'static str, u64> {
    BTreeMap::from([
        ("timeouts", stats.timeouts),
        ("gets_empty", stats.gets_empty),
        ("puts_stored", stats.puts_stored),
        ("puts_failed", stats.puts_failed),
        ("puts_held_back", stats.puts_held_back),
        ("puts_turned_back", stats.puts_turned_back),
        ("cluster_moves", stats.cluster_moves),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_survives_the_query() {
        for url in ["http://www.example.com/a?b=c&d=%20", "http://bücher.example/", "a b"] {
            let uri: Uri = format!("/lookup?url={}", escaped(url)).parse().unwrap();
            assert_eq!(queried_url(&uri).as_deref(), Some(url));
        }
    }

    #[test]
    fn a_url_typed_into_a_browser_is_taken_as_it_is() {
        let asked = |uri: &str| queried_url(&uri.parse().unwrap());
        assert_eq!(asked("/lookup?url=http://x.com/?a=1&b=2").as_deref(), Some("http://x.com/?a=1&b=2"));
        assert_eq!(asked("/lookup?url=http://x.com/%zz").as_deref(), Some("http://x.com/%zz"));
        assert_eq!(asked("/lookup?url="), None);
        assert_eq!(asked("/lookup"), None);
    }
}
