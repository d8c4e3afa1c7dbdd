//! What the operator's page shows, as JSON: for `coral top`.

use std::collections::BTreeMap;
use std::time::Duration;

use coral_dsht::{ClusterStatus, Peer, Snapshot};
use coral_proxy::{Popular, Search, Traffic};
use serde::Serialize;

use super::TICK;
use super::rates::{Rates, Source, totals};

/// The body of `/figures`.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    node: Peer,
    #[serde(with = "humantime_serde")]
    uptime: Duration,
    neighbours: usize,
    /// From the global level up.
    clusters: Vec<ClusterStatus>,
    /// `null` without a cache.
    traffic: Option<Flow>,
    popular: Vec<Popular>,
    searches: Vec<Search>,
}

/// Requests of clients by where their answers came from.
#[derive(Debug, Serialize)]
struct Flow {
    /// Requests a second, over the last ticks.
    per_second: BTreeMap<&'static str, f64>,
    /// Requests since the start.
    requests: BTreeMap<&'static str, u64>,
    /// What clients got and origins did not have to send.
    spared_bytes: u64,
    /// The time that each of `last` stands for.
    #[serde(with = "humantime_serde")]
    tick: Duration,
    /// Requests in each of the last ticks, the latest last.
    last: Vec<u64>,
}

impl Figures {
    pub(super) fn new(
        snapshot: &Snapshot,
        uptime: Duration,
        traffic: Option<(&Traffic, &Rates)>,
        popular: Vec<Popular>,
        searches: Vec<Search>,
    ) -> Self {
        let flow = |(traffic, rates): (&Traffic, &Rates)| {
            let (now, all) = (rates.now(), totals(traffic));
            Flow {
                per_second: Source::ALL.map(|source| (source.class(), now[source as usize])).into(),
                requests: Source::ALL.map(|source| (source.class(), all[source as usize])).into(),
                spared_bytes: spared_bytes(traffic),
                tick: TICK,
                last: rates.bins().map(|bin| bin.iter().sum()).collect(),
            }
        };
        Self {
            node: snapshot.me,
            // Whole seconds: more is noise.
            uptime: Duration::from_secs(uptime.as_secs()),
            neighbours: snapshot.neighbours.len(),
            clusters: snapshot.clusters.clone(),
            traffic: traffic.map(flow),
            popular,
            searches,
        }
    }
}

/// Bytes that clients got and origins did not have to send.
pub(super) fn spared_bytes(traffic: &Traffic) -> u64 {
    traffic.sent_to_clients_bytes.saturating_sub(traffic.received_from_origins_bytes)
}
