//! What a running testbed looks like: its nodes, the clusters they form, and where their clients' answers came from.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets};

use crate::formation::Formation;
use crate::map::{Map, Site};
use crate::nodes::{NodeStatus, Traffic};
use crate::wan::control::{Counters, PairCounters, Status as RouterStatus};

/// The sources of an answer, nearest first: the words of the node's counters, and those of the table.
pub const SOURCES: [(&str, &str); 5] =
    [("hit", "local"), ("peer-l2", "L2"), ("peer-l1", "L1"), ("peer-l0", "L0"), ("origin", "origin")];

/// The nodes with their traffic, then the clusters.
pub fn page(map: &Map, statuses: &[(&Site, anyhow::Result<NodeStatus>)]) -> String {
    let mut nodes = table();
    let sources = SOURCES.map(|(_, shown)| shown);
    nodes.set_header(
        ["node", "region", "address", "state", "L2", "L1", "L0", "requests"]
            .into_iter()
            .chain(sources)
            .chain(["other"]),
    );
    for column in 4..8 + SOURCES.len() + 1 {
        if let Some(column) = nodes.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut total = [0; SOURCES.len() + 2];
    for (site, status) in statuses {
        let mut row = vec![site.name.clone(), map.region_of(site).name.clone(), site.ipv4.to_string()];
        match status {
            Ok(status) => {
                row.push(if status.joined { "joined" } else { "alone" }.to_owned());
                row.extend(
                    [2, 1, 0].map(|level| status.cluster(level).map_or_else(|| "–".to_owned(), |c| c.size.to_string())),
                );
                let counts = counts(&status.cache);
                row.extend(counts.iter().map(ToString::to_string));
                total.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
            }
            // Why a node does not answer is in its log; a table has room for little more than that.
            Err(_) => row.push("silent".to_owned()),
        }
        nodes.add_row(row);
    }
    let blank = std::iter::repeat_n(String::new(), 6);
    nodes.add_row(std::iter::once("all".to_owned()).chain(blank).chain(total.iter().map(ToString::to_string)));

    let mut clusters = table();
    clusters.set_header(["level", "cluster", "nodes"]);
    for ((level, id), members) in Formation::of(map, statuses).clusters().iter().rev() {
        clusters.add_row([format!("L{level}"), id.chars().take(8).collect(), members.join(" ")]);
    }
    format!(
        "nodes; the sizes of their clusters; and requests of clients, by where the answer came from\n{nodes}\nclusters\n{clusters}"
    )
}

/// Pairs of regions side by side that still fit a screen; of more there is one line.
const MOST_PAIRS: usize = 40;

/// What went between regions since the start, in both directions, and how the router fares.
pub fn links(map: &Map, router: &RouterStatus, counters: &[PairCounters]) -> String {
    let region = |name: &str| map.site(name).map_or("?", |site| map.region_of(site).name.as_str());
    let mut pairs: BTreeMap<(&str, &str), Counters> = BTreeMap::new();
    for pair in counters {
        let (from, to) = (region(&pair.from), region(&pair.to));
        add(pairs.entry((from.min(to), from.max(to))).or_default(), &pair.counters);
    }
    if pairs.len() > MOST_PAIRS {
        let mut all = Counters::default();
        pairs.values().for_each(|counters| add(&mut all, counters));
        pairs = BTreeMap::from([(("all", "all"), all)]);
    }
    let mut table = table();
    table.set_header(["between", "and", "packets", "MB", "lost", "cut", "queue full"]);
    for column in 2..7 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for ((a, b), counters) in pairs {
        table.add_row([
            a.to_owned(),
            b.to_owned(),
            counters.packets.to_string(),
            format!("{:.2}", counters.bytes as f64 / 1e6),
            counters.lost.to_string(),
            counters.cut.to_string(),
            (counters.queue_full + counters.overload).to_string(),
        ]);
    }
    let cuts: Vec<String> =
        router.cuts.iter().map(|(a, b)| format!("{a} from {}", b.as_deref().unwrap_or("all others"))).collect();
    format!(
        "the wide area; packets are late by {} µs in the mean{}{}\n{table}",
        router.late_mean_us,
        if router.realtime {
            ""
        } else {
            "; it runs without real-time priority, so a busy machine makes distances longer"
        },
        if cuts.is_empty() { String::new() } else { format!("; cut: {}", cuts.join(", ")) },
    )
}

fn add(sum: &mut Counters, more: &Counters) {
    sum.packets += more.packets;
    sum.bytes += more.bytes;
    sum.lost += more.lost;
    sum.cut += more.cut;
    sum.queue_full += more.queue_full;
    sum.overload += more.overload;
}

/// Requests of clients: all, by source, and those that had none.
fn counts(traffic: &Traffic) -> [u64; SOURCES.len() + 2] {
    let all = traffic.requests.values().sum();
    let by_source = SOURCES.map(|(word, _)| traffic.requests.get(word).copied().unwrap_or(0));
    let mut counts = [0; SOURCES.len() + 2];
    counts[0] = all;
    counts[1..=SOURCES.len()].copy_from_slice(&by_source);
    counts[SOURCES.len() + 1] = all.saturating_sub(by_source.iter().sum());
    counts
}

fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table
}
