//! The table: a line for each figure, a column for each network, and what each is in proportion to the first.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::meter::quantile;
use crate::work::Figures;

/// One line: what it says, and its value for each network.
#[derive(Debug)]
pub struct Row {
    name: &'static str,
    text: &'static str,
    values: Vec<f64>,
}

/// How the values of several rounds become one.
#[derive(Clone, Copy)]
enum Of {
    Median,
    P99,
    Sum,
}

/// Name in JSON, text in the table, figure, and how it is made.
const ROWS: &[(&str, &str, &str, Of)] = &[
    ("puts_a_second", "puts a second, one at a time from each node", "puts_a_second", Of::Median),
    ("gets_a_second", "gets a second, likewise", "gets_a_second", Of::Median),
    ("idle_put_p50_ms", "idle put, p50 ms", "idle_put_ms", Of::Median),
    ("idle_put_p99_ms", "idle put, p99 ms", "idle_put_ms", Of::P99),
    ("idle_get_p50_ms", "idle get, p50 ms", "idle_get_ms", Of::Median),
    ("idle_get_p99_ms", "idle get, p99 ms", "idle_get_ms", Of::P99),
    ("put_requests", "RPCs for a put", "put_requests", Of::Median),
    ("get_requests", "RPCs for a get", "get_requests", Of::Median),
    ("cpu_us_a_request", "CPU for an RPC, both ends, µs", "cpu_us_a_request", Of::Median),
    ("cpu_us_a_put", "CPU for a put, all nodes, µs", "cpu_us_a_put", Of::Median),
    ("cpu_us_a_get", "CPU for a get, all nodes, µs", "cpu_us_a_get", Of::Median),
    ("memory_mb", "memory a node, warmed, MB", "memory_mb", Of::Median),
    ("hot_puts_a_second", "hot key: puts a second, all nodes", "hot_puts_a_second", Of::Median),
    (
        "hot_requests_a_second",
        "hot key: requests a second at the most loaded node",
        "hot_requests_a_second",
        Of::Median,
    ),
    ("hot_requests_a_put", "hot key: the same for each put", "hot_requests_a_put", Of::Median),
    ("silent_get_p50_ms", "30 % silent: get, p50 ms", "silent_get_ms", Of::Median),
    ("silent_get_p99_ms", "30 % silent: get, p99 ms", "silent_get_ms", Of::P99),
    ("silent_put_p50_ms", "30 % silent: put, p50 ms", "silent_put_ms", Of::Median),
    ("silent_put_p99_ms", "30 % silent: put, p99 ms", "silent_put_ms", Of::P99),
    ("silent_failed_gets", "30 % silent: failed gets of values with a live holder", "silent_failed_gets", Of::Sum),
    ("silent_failed_puts", "30 % silent: failed puts", "silent_failed_puts", Of::Sum),
    ("silent_lost_percent", "30 % silent: values without a live holder, %", "silent_lost_percent", Of::Sum),
    ("failed_puts", "failed puts while all is well, in all rounds", "failed_puts", Of::Sum),
    ("failed_gets", "failed gets while all is well, in all rounds", "failed_gets", Of::Sum),
    ("start_seconds", "from nothing to tables that have settled, s", "start_seconds", Of::Median),
];

/// The lines for `figures`, with the columns in the order of `names`.
pub fn rows(names: &[String], figures: &BTreeMap<&str, &Figures>) -> Vec<Row> {
    let value = |name: &str, figure: &str, of: Of| {
        let values = figures.get(name).and_then(|figures| figures.get(figure)).map_or(&[][..], Vec::as_slice);
        match of {
            Of::Median => quantile(values, 0.5),
            Of::P99 => quantile(values, 0.99),
            Of::Sum => values.iter().sum(),
        }
    };
    let row = |&(name, text, figure, of)| {
        let values = names.iter().map(|column| value(column, figure, of)).collect();
        Row { name, text, values }
    };
    ROWS.iter().map(row).collect()
}

/// As Markdown. In parentheses: how many times the first column's value it is.
pub fn table(names: &[String], rows: &[Row]) -> String {
    let mut text = format!("| | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
    for row in rows {
        let _ = write!(text, "| {} |", row.text);
        for (index, value) in row.values.iter().enumerate() {
            let _ = match ratio(row, index).filter(|_| index > 0) {
                Some(ratio) => write!(text, " {} (×{}) |", short(*value), short(ratio)),
                None => write!(text, " {} |", short(*value)),
            };
        }
        text.push('\n');
    }
    text
}

/// As JSON: `rows`, each with its values and ratios by the name of the network.
pub fn json(nodes: usize, rounds: usize, names: &[String], rows: &[Row]) -> String {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let values: BTreeMap<_, _> = names.iter().zip(&row.values).collect();
            let ratios: BTreeMap<_, _> =
                names.iter().enumerate().filter_map(|(index, name)| Some((name, ratio(row, index)?))).collect();
            serde_json::json!({ "name": row.name, "values": values, "ratios": ratios })
        })
        .collect();
    format!("{:#}\n", serde_json::json!({ "nodes": nodes, "rounds": rounds, "rows": rows }))
}

fn ratio(row: &Row, index: usize) -> Option<f64> {
    let ratio = row.values.get(index)? / row.values.first()?;
    ratio.is_finite().then_some(ratio)
}

/// Three digits that count.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size.is_nan() => "–".to_owned(),
        size if size < 1.0 => format!("{value:.2}"),
        size if size < 10.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}
