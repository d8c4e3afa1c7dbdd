//! `/metrics`: the counters of the crates, and those of the index as they are at the moment of the scrape.
//!
//! The index counts inside its state machine, which knows no metrics; its numbers are read from a snapshot.

use std::collections::BTreeMap;
use std::fmt::Display;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use coral_dsht::Snapshot;

use super::status::{Shared, counts};

/// OpenMetrics' own media type.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) async fn encode(shared: &Shared) -> anyhow::Result<String> {
    let mut now = Registry::default();
    now.register_collector(Box::new(Now {
        snapshot: shared.snapshot().await?,
        uptime_seconds: shared.started.elapsed().as_secs_f64(),
    }));
    let mut body = String::new();
    text::encode_registry(&mut body, &now)?;
    text::encode_registry(&mut body, &shared.registry)?;
    text::encode_eof(&mut body)?;
    Ok(body)
}

/// A node at one moment.
#[derive(Debug)]
struct Now {
    snapshot: Snapshot,
    uptime_seconds: f64,
}

impl Collector for Now {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let Snapshot { stats, clusters, neighbours, .. } = &self.snapshot;
        let version = BTreeMap::from([("version", env!("CARGO_PKG_VERSION"))]);
        family(
            &mut encoder,
            "coral_build",
            "The running version; always 1",
            None,
            "version",
            &version_gauge(&version),
        )?;

        let uptime = ConstGauge::new(self.uptime_seconds);
        let unit = Unit::Seconds;
        let metric =
            encoder.encode_descriptor("coral_uptime", "Since the node started", Some(&unit), uptime.metric_type())?;
        uptime.encode(metric)?;

        let sizes = clusters.iter().map(|c| (c.level.number(), f64::from(c.size))).collect();
        family(
            &mut encoder,
            "coral_dsht_cluster_size",
            "Nodes believed to be in this node's cluster",
            None,
            "level",
            &sizes,
        )?;
        let mut by_level: BTreeMap<u8, f64> = clusters.iter().map(|c| (c.level.number(), 0.0)).collect();
        for neighbour in neighbours {
            *by_level.entry(neighbour.level.number()).or_default() += 1.0;
        }
        let help = "Neighbours heard lately, by the nearest level shared with them";
        family(&mut encoder, "coral_dsht_neighbours", help, None, "level", &by_level)?;
        for (name, help, value) in [
            ("coral_dsht_stored_keys", "Keys stored for the network", self.snapshot.stored_keys),
            ("coral_dsht_stored_values", "Values stored for the network", self.snapshot.stored_values),
            ("coral_dsht_published_values", "Live values published by this node", self.snapshot.published_values),
        ] {
            let gauge = ConstGauge::new(value as f64);
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }

        let datagrams = BTreeMap::from([("in", stats.datagrams_received), ("out", stats.datagrams_sent)]);
        counters(&mut encoder, "coral_dsht_datagrams", "Datagrams", None, "direction", &datagrams)?;
        let bytes = BTreeMap::from([("in", stats.bytes_received), ("out", stats.bytes_sent)]);
        counters(&mut encoder, "coral_dsht_datagram", "Bytes of datagrams", Some(&Unit::Bytes), "direction", &bytes)?;
        let help = "Datagrams dropped, by reason";
        counters(&mut encoder, "coral_dsht_dropped", help, None, "reason", &stats.dropped)?;
        let help = "Requests received from other nodes, by kind";
        counters(&mut encoder, "coral_dsht_requests", help, None, "kind", &stats.requests)?;
        let help = "Gets that found values, by level";
        counters(&mut encoder, "coral_dsht_gets_found", help, None, "level", &stats.gets_found)?;
        let help = "Ends of this node's own requests and operations, by kind";
        counters(&mut encoder, "coral_dsht_outcomes", help, None, "kind", &counts(stats))?;
        let announcements = BTreeMap::from([
            ("made", stats.announcements_made),
            ("heard", stats.announcements_heard),
            ("passed_on", stats.announcements_passed_on),
            ("refused", stats.announcements_refused),
        ]);
        let help = "Announcements to all nodes, by what this node did with them";
        counters(&mut encoder, "coral_dsht_announcements", help, None, "kind", &announcements)
    }
}

fn version_gauge<'a>(version: &BTreeMap<&'a str, &'a str>) -> BTreeMap<&'a str, f64> {
    version.values().map(|version| (*version, 1.0)).collect()
}

/// A gauge for each value of one label.
fn family<K: Display>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    label: &str,
    values: &BTreeMap<K, f64>,
) -> std::fmt::Result {
    let kind = ConstGauge::new(0.0).metric_type();
    let mut metric = encoder.encode_descriptor(name, help, unit, kind)?;
    for (key, value) in values {
        let labels = [(label, key.to_string())];
        ConstGauge::new(*value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

/// A counter for each value of one label.
fn counters<K: Display>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    label: &str,
    values: &BTreeMap<K, u64>,
) -> std::fmt::Result {
    let kind = ConstCounter::new(0u64).metric_type();
    let mut metric = encoder.encode_descriptor(name, help, unit, kind)?;
    for (key, value) in values {
        let labels = [(label, key.to_string())];
        ConstCounter::new(*value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}
