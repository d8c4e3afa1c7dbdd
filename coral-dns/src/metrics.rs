//! Counters of the DNS server, in Prometheus' words.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::{Atomic, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// What the server counts. Clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(crate) queries: Family<QueryLabels, Spread>,
    pub(crate) answers: Family<LevelLabels, Spread>,
    pub(crate) referrals: Family<LevelLabels, Counter>,
    pub(crate) dropped: Family<ReasonLabels, Counter>,
    pub(crate) truncated: Counter,
    pub(crate) seconds: Histogram,
    pub(crate) searches: Family<OutcomeLabels, Counter>,
    pub(crate) probes: Family<OutcomeLabels, Counter>,
    pub(crate) candidates: Family<LevelLabels, Gauge>,
    pub(crate) tcp_connections: Gauge,
}

/// A counter of what happens with each query.
pub(crate) type Spread = Counter<u64, Parts>;

/// A number in parts, one for each thread that adds to it often: else every addition would wait for the cache line to come
/// over from another core.
#[derive(Debug, Default)]
pub(crate) struct Parts([Part; PARTS]);

/// As many threads add without getting in each other's way; of more, some share a part.
const PARTS: usize = 16;

#[derive(Debug, Default)]
#[repr(align(128))]
struct Part(AtomicU64);

impl Parts {
    /// Adds one, on the part of the thread with this number. Part 0 is for those without one.
    pub(crate) fn inc_at(&self, thread: usize) {
        self.0[thread % PARTS].0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Atomic<u64> for Parts {
    fn inc(&self) -> u64 {
        self.inc_by(1)
    }

    fn inc_by(&self, number: u64) -> u64 {
        let before = self.get();
        self.0[0].0.fetch_add(number, Ordering::Relaxed);
        before
    }

    fn get(&self) -> u64 {
        self.0.iter().map(|part| part.0.load(Ordering::Relaxed)).sum()
    }
}

/// One kind of query and what became of it. All values come from short lists of ours, never from the query's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct QueryLabels {
    /// The type asked for; `other` for those that the zone has no records of.
    pub(crate) kind: &'static str,
    /// The response code.
    pub(crate) rcode: &'static str,
    /// `udp` or `tcp`.
    pub(crate) transport: &'static str,
}

/// A level, by its number.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct LevelLabels {
    pub(crate) level: u32,
}

/// Why something got no answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReasonLabels {
    pub(crate) reason: &'static str,
}

/// How a measurement ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OutcomeLabels {
    pub(crate) outcome: &'static str,
}

impl Metrics {
    /// Fresh counters, at zero, that `registry` will show under names starting with `coral_dns_`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            queries: Family::default(),
            answers: Family::default(),
            referrals: Family::default(),
            dropped: Family::default(),
            truncated: Counter::default(),
            // 2 µs to 65 ms: an answer is worked out, never waited for.
            seconds: Histogram::new(exponential_buckets(2e-6, 2.0, 16)),
            searches: Family::default(),
            probes: Family::default(),
            candidates: Family::default(),
            tcp_connections: Gauge::default(),
        };
        let registry = registry.sub_registry_with_prefix("coral_dns");
        registry.register("queries", "Queries answered, by type, response code and transport", metrics.queries.clone());
        registry.register(
            "answers",
            "Answers with addresses of proxies, by the level they were taken from",
            metrics.answers.clone(),
        );
        registry.register(
            "referrals",
            "Resolvers sent to nameservers near them, by the level of those",
            metrics.referrals.clone(),
        );
        registry.register("dropped", "Messages and connections that got no answer, by reason", metrics.dropped.clone());
        registry.register(
            "truncated",
            "Answers over UDP too large to send, which TCP will carry",
            metrics.truncated.clone(),
        );
        registry.register_with_unit(
            "answer",
            "Time from a message in hand to its answer",
            Unit::Seconds,
            metrics.seconds.clone(),
        );
        registry.register("searches", "Searches for nodes near a client, by outcome", metrics.searches.clone());
        registry.register("probes", "Measurements of clients, by outcome", metrics.probes.clone());
        registry.register("candidates", "Live proxies known, by level, this node included", metrics.candidates.clone());
        registry.register("tcp_connections", "TCP connections open", metrics.tcp_connections.clone());
        metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_their_prefix_and_unit() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.seconds.observe(1e-5);
        let answers = metrics.answers.get_or_create_owned(&LevelLabels { level: 2 });
        answers.inc();
        for thread in 0..2 * PARTS {
            answers.inner().inc_at(thread);
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("writing to a string");
        assert!(text.contains("coral_dns_answers_total{level=\"2\"} 33"), "{text}");
        assert!(text.contains("coral_dns_answer_seconds_count 1"), "{text}");
    }
}
