//! The metrics are those of deploy/METRICS.md, and the dashboard asks for no others.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use coral::http;
use serde_json::Value as Json;
use support::{CORALIZED, Cluster, fetch, origin, page, resolve};

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// A row of the document.
struct Row {
    kind: String,
    labels: BTreeSet<String>,
}

/// The document's rows, by name.
fn documented() -> BTreeMap<String, Row> {
    let text = read("deploy/METRICS.md");
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let name = cells[0].trim_matches(['*', '`']);
        let labels = cells.get(2)?.split(", ").map(|label| label.trim_matches('`').to_owned());
        let row = Row { kind: cells[1].to_owned(), labels: labels.filter(|label| !label.is_empty()).collect() };
        name.starts_with("coral_").then(|| (name.to_owned(), row))
    });
    rows.collect()
}

/// The names that a source file registers, each with its prefix and unit.
fn registered(path: &str, prefix: &str) -> BTreeSet<String> {
    let text = read(path);
    let calls = text.split("registry.register").skip(1).filter(|call| call.starts_with(['(', '_']));
    let names = calls.map(|call| {
        let call = &call[..call.find(");").expect("the call ends")];
        let name = call.split('"').nth(1).expect("a name");
        let unit = call.split("Unit::").nth(1).and_then(|rest| rest.split(',').next()).map(str::to_lowercase);
        format!("{prefix}_{name}{}", unit.map(|unit| format!("_{unit}")).unwrap_or_default())
    });
    names.collect()
}

#[test]
fn every_metric_that_is_registered_is_documented_and_no_other() {
    let mut known = registered("coral-proxy/src/metrics.rs", "coral_proxy");
    known.extend(registered("coral-dns/src/metrics.rs", "coral_dns"));
    let documented = documented();
    let of_crates =
        documented.into_keys().filter(|name| name.starts_with("coral_proxy_") || name.starts_with("coral_dns_"));
    let of_crates: BTreeSet<String> = of_crates.collect();
    assert!(known.len() > 30, "{known:?}");
    assert_eq!(known, of_crates);
}

#[tokio::test]
async fn what_a_busy_node_shows_is_what_is_documented() {
    let origin = origin(vec![page("/")]).await;
    let cluster = Cluster::start(2, &origin).await;
    for number in 0..2 {
        assert_eq!(fetch(cluster.proxy(number), CORALIZED, "/").await.status, 200);
        resolve(&cluster.nodes[number], CORALIZED).await.unwrap();
        assert_eq!(fetch(cluster.proxy(number), "elsewhere.example", "/").await.status, 421);
    }
    let (_, text) = http::get_text(cluster.admin(1), "/metrics").await.unwrap();
    cluster.stop().await;
    let documented = documented();
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
            let row = documented.get(name).unwrap_or_else(|| panic!("{name} is not documented"));
            assert_eq!(row.kind, kind, "{name}");
            seen.insert(name.to_owned());
        } else if let Some((sample, labels)) =
            line.split_once(" ").and_then(|(sample, _)| sample.trim_end_matches('}').split_once('{'))
        {
            let name = seen.iter().rfind(|name| sample.starts_with(name.as_str())).expect("a type comes first");
            for label in labels.split("\",").filter_map(|label| label.split('=').next()).filter(|label| *label != "le")
            {
                assert!(documented[name].labels.contains(label), "{name} has a label {label}");
            }
        }
    }
    // What only the node itself shows, the index above all, is there from the start.
    let missing: Vec<&String> = documented
        .keys()
        .filter(|name| name.starts_with("coral_dsht") || !name.contains("_proxy_") && !name.contains("_dns_"))
        .filter(|name| {
            !seen.contains(*name) && !["coral_dsht_dropped", "coral_dsht_gets_found"].contains(&name.as_str())
        })
        .collect();
    assert!(missing.is_empty(), "{missing:?} are documented, and nowhere to be seen");
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    let dashboard: Json = serde_json::from_str(&read("deploy/grafana.json")).expect("JSON");
    let documented = documented();
    let mut asked = 0;
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().expect("an expression");
            for word in expression.split(|char: char| !char.is_ascii_alphanumeric() && char != '_') {
                if !word.starts_with("coral_") {
                    continue;
                }
                let name = ["_total", "_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|end| word.strip_suffix(end))
                    .unwrap_or(word);
                let row = documented.get(name).unwrap_or_else(|| panic!("{word} is no metric"));
                assert_eq!(row.kind == "counter", word.ends_with("_total"), "{word}");
                asked += 1;
            }
        }
    }
    assert!(asked > 20, "{asked}");
}
