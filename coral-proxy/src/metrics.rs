//! Counters, gauges and times of the proxy, for Prometheus and for [`Status`](crate::Status).

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::budget::Waits;
use crate::error::{Fault, Verdict};

/// Every word that [`crate::cache_status`] and the service give: a family cannot be walked, so they are listed.
pub(crate) const CACHE_WORDS: [&str; 16] = [
    "hit",
    "revalidating",
    "peer-l0",
    "peer-l1",
    "peer-l2",
    "peer-l3",
    "origin",
    "revalidated",
    "stale",
    "passed",
    "not-cached",
    "waiting",
    "ask-origin",
    "lent",
    "own",
    "error",
];
/// Every class of status.
const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// Everyone who can be at fault.
const FAULTS: [Fault; 4] = [Fault::Client, Fault::Peer, Fault::Origin, Fault::Node];

/// A counter of time.
pub(crate) type Seconds = Counter<f64, AtomicU64>;

/// What most requests are.
const HIT: RequestLabels = RequestLabels { from: "client", status: "2xx", cache: "hit" };

/// What the proxy counts. Clones count into the same numbers.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    /// That of [`HIT`], once there was one: a look into the family costs as much as one into the cache.
    hits: OnceLock<Counter>,
    pub(crate) seconds: Histogram,
    pub(crate) in_flight: Gauge,
    pub(crate) connections: Gauge,
    pub(crate) refused_connections: Counter,
    held_back_bytes: Family<DirectionLabels, Counter>,
    held_back_seconds: Family<DirectionLabels, Seconds>,
    pub(crate) turned_away: Counter,
    bytes: Family<BytesLabels, Counter>,
    pub(crate) sent_to_clients: Counter,
    sent_to_peers: Counter,
    pub(crate) origin_requests: Counter,
    pub(crate) asked_peers: Counter,
    pub(crate) hedges: Counter,
    pub(crate) hedges_won: Counter,
    pub(crate) coalesced: Counter,
    pub(crate) continued: Family<ContinuedLabels, Counter>,
    errors: Family<ErrorLabels, Counter>,
    /// The same by fault alone, for [`Status`](crate::Status).
    faults: Family<FaultLabels, Counter>,
    pub(crate) objects: Family<TierLabels, Gauge>,
    pub(crate) stored_bytes: Family<TierLabels, Gauge>,
    pub(crate) disk: Family<DiskLabels, Counter>,
    pub(crate) disk_failing: Gauge,
    pub(crate) references: Gauge,
    pub(crate) client_prefixes: Gauge,
    pub(crate) hints: Counter,
    purges: Family<PurgeLabels, Counter>,
    refused_purges: Family<PurgeLabels, Counter>,
    pub(crate) purge_rules: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PurgeLabels {
    /// `operator` (at the admin address), `order` (of an operator, from another node), `owner`.
    by: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    /// `client` or `peer`.
    pub(crate) from: &'static str,
    /// `2xx`, `3xx`, …
    pub(crate) status: &'static str,
    /// The word of [`crate::cache_status`].
    pub(crate) cache: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct BytesLabels {
    /// `received` or `sent`.
    pub(crate) direction: &'static str,
    /// `client`, `peer` or `origin`.
    pub(crate) with: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ContinuedLabels {
    /// Who had the rest: `peer` or `origin`.
    pub(crate) with: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabels {
    /// `received` or `sent`.
    direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    /// `client`, `peer`, `origin` or `node`.
    fault: &'static str,
    /// The error type of RFC 9209, or a word of ours for what a client did.
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FaultLabels {
    fault: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct TierLabels {
    /// `memory` or `disk`.
    pub(crate) tier: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DiskLabels {
    /// To objects: `written`, `read`, `evicted`, `spared` (kept when the space around them was given up), `skipped` (not
    /// written, as the disk was too slow, too small, or failing), `damaged`, `unreadable`. `failed` are errors in writing.
    pub(crate) what: &'static str,
}

impl Metrics {
    /// Metrics that `registry` prints from now on, under names that begin with `coral_proxy_`.
    pub fn register(registry: &mut Registry) -> Self {
        // From 0.5 ms, a hit, to about 16 s, near an origin's time-out.
        let seconds = Histogram::new(exponential_buckets(0.0005, 2.0, 16));
        let bytes = Family::<BytesLabels, Counter>::default();
        let metrics = Self {
            requests: Family::default(),
            hits: OnceLock::new(),
            seconds,
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            refused_connections: Counter::default(),
            sent_to_clients: bytes.get_or_create_owned(&BytesLabels { direction: "sent", with: "client" }),
            sent_to_peers: bytes.get_or_create_owned(&BytesLabels { direction: "sent", with: "peer" }),
            bytes,
            held_back_bytes: Family::default(),
            held_back_seconds: Family::default(),
            turned_away: Counter::default(),
            origin_requests: Counter::default(),
            asked_peers: Counter::default(),
            hedges: Counter::default(),
            hedges_won: Counter::default(),
            coalesced: Counter::default(),
            continued: Family::default(),
            errors: Family::default(),
            faults: Family::default(),
            objects: Family::default(),
            stored_bytes: Family::default(),
            disk: Family::default(),
            disk_failing: Gauge::default(),
            references: Gauge::default(),
            client_prefixes: Gauge::default(),
            hints: Counter::default(),
            purges: Family::default(),
            refused_purges: Family::default(),
            purge_rules: Gauge::default(),
        };
        let registry = registry.sub_registry_with_prefix("coral_proxy");
        registry.register(
            "requests",
            "Requests answered, by who asked, by class of status and by what the cache did",
            metrics.requests.clone(),
        );
        registry.register_with_unit(
            "first_byte",
            "Time from the head of a request to the head of its response",
            Unit::Seconds,
            metrics.seconds.clone(),
        );
        registry.register(
            "requests_in_flight",
            "Requests whose response is not yet sent whole",
            metrics.in_flight.clone(),
        );
        registry.register("connections", "Open connections of clients and peers", metrics.connections.clone());
        registry.register(
            "refused_connections",
            "Connections closed at once, as their address had too many",
            metrics.refused_connections.clone(),
        );
        registry.register_with_unit(
            "body",
            "Bytes of bodies, by direction and far end",
            Unit::Bytes,
            metrics.bytes.clone(),
        );
        registry.register_with_unit(
            "held_back",
            "Bytes that had to wait for their share of the bandwidth, by direction",
            Unit::Bytes,
            metrics.held_back_bytes.clone(),
        );
        registry.register_with_unit(
            "held_back",
            "Time that transfers have waited for their share, all together, by direction",
            Unit::Seconds,
            metrics.held_back_seconds.clone(),
        );
        registry.register(
            "turned_away_requests",
            "Requests turned away, as their domain had all that it may have of the bandwidth",
            metrics.turned_away.clone(),
        );
        registry.register("origin_requests", "Requests sent to origins", metrics.origin_requests.clone());
        registry.register("sent_peer_requests", "Requests sent to other nodes", metrics.asked_peers.clone());
        registry.register("hedges", "Nodes asked as well since the first one was overdue", metrics.hedges.clone());
        registry.register("hedges_won", "Those of them that delivered", metrics.hedges_won.clone());
        registry.register(
            "coalesced_requests",
            "Requests that waited for the fetch of another one",
            metrics.coalesced.clone(),
        );
        registry.register(
            "continued_bodies",
            "Bodies that broke off and were continued unnoticed, by who had the rest",
            metrics.continued.clone(),
        );
        registry.register("errors", "Errors, by whose fault they were and by kind", metrics.errors.clone());
        registry.register("objects", "Objects stored, by tier", metrics.objects.clone());
        registry.register_with_unit(
            "stored",
            "Bytes of objects stored, by tier",
            Unit::Bytes,
            metrics.stored_bytes.clone(),
        );
        registry.register("disk", "What happened to objects on disk, and errors in writing", metrics.disk.clone());
        registry.register(
            "disk_failing",
            "1 while the cache directory cannot be written and objects stay in memory only",
            metrics.disk_failing.clone(),
        );
        registry.register(
            "references",
            "Objects of which this node has a reference in the index",
            metrics.references.clone(),
        );
        registry.register(
            "client_prefixes",
            "Networks of clients whose round-trip time is remembered",
            metrics.client_prefixes.clone(),
        );
        registry.register("hints_put", "Hints put under the networks of near clients", metrics.hints.clone());
        registry.register("purges", "Patterns purged, by who wanted it", metrics.purges.clone());
        registry.register(
            "refused_purges",
            "Purges that were refused, by who wanted them",
            metrics.refused_purges.clone(),
        );
        registry.register("purge_rules", "Purges in force, after merging", metrics.purge_rules.clone());
        metrics
    }

    /// Counts an answer, and says how many of its kind came before it.
    pub(crate) fn answered(&self, labels: &RequestLabels) -> u64 {
        if *labels == HIT {
            self.hits.get_or_init(|| self.requests.get_or_create_owned(&HIT)).inc()
        } else {
            self.requests.get_or_create(labels).inc()
        }
    }

    /// Counts purges: by the operator of this node, by order of one, or by the owner of a site.
    pub(crate) fn purged(&self, by: &'static str, count: usize) {
        self.purges.get_or_create(&PurgeLabels { by }).inc_by(count as u64);
    }

    /// Counts one that was refused.
    pub(crate) fn refused_purge(&self, by: &'static str) {
        self.refused_purges.get_or_create(&PurgeLabels { by }).inc();
    }

    /// Counts an error.
    pub(crate) fn error(&self, verdict: Verdict) {
        let fault = verdict.fault.as_str();
        let kind = verdict.kind;
        self.errors.get_or_create(&ErrorLabels { fault, kind }).inc();
        self.faults.get_or_create(&FaultLabels { fault }).inc();
    }

    /// Errors by whose fault they were; what never happened is left out.
    pub(crate) fn errors_by_fault(&self) -> BTreeMap<String, u64> {
        let faults = FAULTS.iter().map(|fault| fault.as_str());
        faults.filter_map(|fault| Some((fault.to_owned(), self.faults.get(&FaultLabels { fault })?.get()))).collect()
    }

    /// Requests of each `client` or `peer`, by the word of [`crate::cache_status`]; what never happened is left out.
    pub(crate) fn requests_by_word(&self, from: &'static str) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for cache in CACHE_WORDS {
            for status in STATUS_CLASSES {
                if let Some(count) = self.requests.get(&RequestLabels { from, status, cache }) {
                    *sums.entry(cache.to_owned()).or_default() += count.get();
                }
            }
        }
        sums
    }

    /// Bodies that were continued after they had broken off.
    pub(crate) fn continued_bodies(&self) -> u64 {
        let with = |with| self.continued.get(&ContinuedLabels { with }).map_or(0, |count| count.get());
        with("peer") + with("origin")
    }

    /// What is counted of those who wait for their share of what is `received` or `sent`.
    pub(crate) fn waits(&self, direction: &'static str) -> Waits {
        let labels = DirectionLabels { direction };
        Waits {
            bytes: self.held_back_bytes.get_or_create_owned(&labels),
            seconds: self.held_back_seconds.get_or_create_owned(&labels),
        }
    }

    /// The counter of body bytes in `direction`, `received` or `sent`, whose far end is a `client`, `peer` or `origin`.
    pub(crate) fn moved(&self, direction: &'static str, with: &'static str) -> Counter {
        match (direction, with) {
            ("sent", "client") => return self.sent_to_clients.clone(),
            ("sent", "peer") => return self.sent_to_peers.clone(),
            _ => {}
        }
        self.bytes.get_or_create_owned(&BytesLabels { direction, with })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_the_prefix_and_a_help_text() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.moved("sent", "client").inc_by(5);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("coral_proxy_body_bytes_total{direction=\"sent\",with=\"client\"} 5"), "{text}");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.starts_with("coral_proxy_"), "{line}");
        }
        assert!(text.lines().filter(|line| line.starts_with("# HELP")).all(|line| line.split(' ').count() > 4));
    }
}
