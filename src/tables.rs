//! What the admin address answers, as tables for people.
//!
//! They are made from its JSON, not from types shared with the node: `coral status` then also reads a node of another
//! version, and shows what that one has to say.

use std::time::Duration;

use bytesize::ByteSize;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::Value as Json;

/// As wide as tables with sentences in them are.
const WIDTH: u16 = 110;

/// `/status`, from the top: the node, its clusters, its neighbours, its cache, its traffic.
pub(crate) fn status(status: &Json) -> String {
    let mut page = format!(
        "node {} at {}, version {}, up {}{}\n",
        short_id(&status["node"]["id"]),
        word(&status["node"]["addr"]),
        word(&status["version"]),
        span(&status["uptime"]),
        if status["joined"] == Json::Bool(false) { ", not joined" } else { "" },
    );
    page += &format!("serves {}\n", list(&status["suffixes"]));
    let listens = ["dsht", "dns", "proxy", "proxy_tls", "admin"].map(|part| match &status["listens"][part] {
        Json::Null => format!("{part} off"),
        addr => format!("{part} {}", word(addr)),
    });
    page += &format!("listens at {}\n", listens.join(", "));
    if !items(&status["routers"]).is_empty() {
        page += &format!("stands behind {}\n", list(&status["routers"]));
    }

    let mut clusters = table(&["level", "diameter", "cluster", "nodes", "known here"], &[3, 4]);
    for cluster in items(&status["clusters"]) {
        clusters.add_row([
            level(&cluster["level"]),
            cluster["diameter"].as_str().map_or_else(|| "any".to_owned(), |span| format!("< {span}")),
            short_id(&cluster["cluster"]),
            word(&cluster["size"]),
            word(&cluster["known"]),
        ]);
    }
    page += &titled("clusters", &clusters);

    let mut neighbours = table(&["node", "address", "level", "RTT", "heard", "offers"], &[3, 4]);
    for neighbour in items(&status["neighbours"]) {
        neighbours.add_row([
            short_id(&neighbour["peer"]["id"]),
            word(&neighbour["peer"]["addr"]),
            level(&neighbour["level"]),
            span(&neighbour["rtt"]),
            format!("{} ago", span(&neighbour["heard"])),
            services(&neighbour["peer"]["services"]),
        ]);
    }
    page += &titled("neighbours, verified first-hand", &neighbours);

    match &status["cache"] {
        Json::Null => page += "\nno cache runs here\n",
        cache => page += &titled("cache and traffic", &pairs(cache)),
    }
    page += &titled("index", &pairs(&status["index"]));
    page
}

/// `/lookup`: what was found, and by how many hops.
pub(crate) fn lookup(lookup: &Json) -> String {
    let asked = match items(&lookup["hops"]).len() {
        0 => "no node was asked".to_owned(),
        1 => "one node was asked".to_owned(),
        hops => format!("{hops} nodes were asked"),
    };
    format!("{}; {asked}\n{}", head(lookup), found(lookup))
}

/// The same with each hop.
pub(crate) fn trace(lookup: &Json) -> String {
    let mut page = head(lookup) + "\n";
    let mut hops = table(&["hop", "level", "node", "address", "distance", "RTT", "answer"], &[0, 5]);
    for (number, hop) in items(&lookup["hops"]).iter().enumerate() {
        hops.add_row([
            (number + 1).to_string(),
            level(&hop["level"]),
            short_id(&hop["peer"]["id"]),
            word(&hop["peer"]["addr"]),
            distance(&hop["distance"]),
            span(&hop["rtt"]),
            answered(&hop["answer"]),
        ]);
    }
    page += &titled("the search", &hops);
    page + "\n" + &found(lookup)
}

fn head(lookup: &Json) -> String {
    format!("{} has the key {}", word(&lookup["url"]), word(&lookup["key"]))
}

/// Whom the index names.
fn found(lookup: &Json) -> String {
    let mut text = match items(&lookup["references"]) {
        [] => "no node is known to have it: the next request goes to the origin\n".to_owned(),
        _ => format!("found at {}; these nodes have it, or are fetching it:\n", level(&lookup["level"])),
    };
    let mut name = |node: &Json, more: String| text += &format!("  http://{}/{more}\n", word(node));
    for reference in items(&lookup["references"]) {
        name(reference, String::new());
    }
    for part in items(&lookup["parts"]) {
        name(&part["node"], format!("  {} alone", word(&part["part"])));
    }
    for stale in items(&lookup["stale"]) {
        name(stale, "  no longer fresh".to_owned());
    }
    text
}

/// `/explain`: what becomes of the next request, the rules that decided it, and whom the index names.
pub(crate) fn explain(explained: &Json) -> String {
    let verdict = explained["verdict"].as_str().unwrap_or("-").replace('-', " ");
    let mut page = format!(
        "{} from {}\n{verdict}: {}\n",
        word(&explained["url"]),
        word(&explained["origin"]),
        word(&explained["because"]),
    );
    let mut rules = table(&["rule", "field", "where it is written"], &[]);
    rules.set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
    for rule in items(&explained["rules"]) {
        rules.add_row([&rule["says"], &rule["field"], &rule["section"]].map(word));
    }
    if !rules.is_empty() {
        page += &titled("why", &rules);
    }
    if !explained["index"].is_null() {
        page += "\n";
        page += &found(&explained["index"]);
    }
    page
}

/// `/map`: the nodes in reach, those of each cluster together.
pub(crate) fn map(map: &Json) -> String {
    let mut page = format!(
        "{} nodes in reach of node {} at {}\n",
        items(&map["nodes"]).len(),
        short_id(&map["node"]["id"]),
        word(&map["node"]["addr"]),
    );
    for (number, cluster) in items(&map["clusters"]).iter().rev().enumerate() {
        let at = &cluster["level"];
        let mut nodes = table(&["node", "address", "RTT", "offers", ""], &[2]);
        for seen in items(&map["nodes"]).iter().filter(|seen| seen["level"] == *at) {
            nodes.add_row([
                short_id(&seen["peer"]["id"]),
                word(&seen["peer"]["addr"]),
                span(&seen["rtt"]),
                services(&seen["peer"]["services"]),
                if seen["known"] == Json::Bool(true) { "neighbour" } else { "met on the walk" }.to_owned(),
            ]);
        }
        let within =
            cluster["diameter"].as_str().map_or_else(|| "everyone".to_owned(), |span| format!("within {span}"));
        let name = short_id(&cluster["cluster"]);
        page += &titled(
            &format!("{}, {within}: cluster {name}{}", level(at), if number == 0 { "" } else { ", less those above" }),
            &nodes,
        );
    }
    let silent = items(&map["silent"]);
    if !silent.is_empty() {
        let addresses: Vec<String> = silent.iter().map(|peer| word(&peer["addr"])).collect();
        page += &format!("\nasked, and did not answer: {}\n", addresses.join(", "));
    }
    page
}

/// A table with these heads, the columns of these numbers to the right.
pub(crate) fn table(heads: &[&str], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY).set_header(heads);
    for number in right {
        if let Some(column) = table.column_mut(*number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

pub(crate) fn titled(title: &str, table: &Table) -> String {
    if table.row_count() == 0 {
        return format!("\n{title}: none\n");
    }
    format!("\n{title}\n{table}\n")
}

/// Whatever numbers an object has, one a row, those of inner objects by their path.
fn pairs(object: &Json) -> Table {
    let mut rows = Vec::new();
    flatten(object, "", &mut rows);
    let mut table = table(&["what", "value"], &[1]);
    for (path, value) in rows {
        table.add_row([path, value]);
    }
    table
}

fn flatten(value: &Json, above: &str, rows: &mut Vec<(String, String)>) {
    match value {
        Json::Object(fields) => {
            for (key, inner) in fields {
                // The counters of the index stand in an object of their own, which is no news to a reader.
                let key = if key == "stats" { String::new() } else { key.replace('_', " ") };
                let between = if above.is_empty() || key.is_empty() { "" } else { ", " };
                let path = format!("{above}{between}{key}");
                flatten(inner, &path, rows);
            }
        }
        Json::Number(number) if above.contains("bytes") => {
            let bytes = number.as_u64().map_or_else(|| number.to_string(), |bytes| ByteSize(bytes).to_string());
            rows.push((above.to_owned(), bytes));
        }
        other => rows.push((above.to_owned(), word(other))),
    }
}

pub(crate) fn items(value: &Json) -> &[Json] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A text without its quotes, anything else as it is.
pub(crate) fn word(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        Json::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

fn list(value: &Json) -> String {
    items(value).iter().map(word).collect::<Vec<_>>().join(", ")
}

pub(crate) fn level(value: &Json) -> String {
    value.as_u64().map_or_else(|| "-".to_owned(), |number| format!("L{number}"))
}

/// The first eight digits, as the log has them.
pub(crate) fn short_id(value: &Json) -> String {
    value.as_str().and_then(|id| id.get(..8)).unwrap_or("-").to_owned()
}

/// Forty digits as a power of two, which is how people compare distances.
fn distance(value: &Json) -> String {
    let digits = value.as_str().unwrap_or_default();
    let Some(first) = digits.find(|digit| digit != '0') else {
        return "0".to_owned();
    };
    let digit = digits[first..].chars().next().and_then(|digit| digit.to_digit(16));
    let bits = 4 * (digits.len() - first) as u32 - digit.map_or(0, |digit| digit.leading_zeros() - 28);
    format!("2^{}", bits.saturating_sub(1))
}

/// A span as people compare them, `1.23 ms`; what is none stays as it is.
pub(crate) fn span(value: &Json) -> String {
    let Some(text) = value.as_str() else {
        return "-".to_owned();
    };
    humantime::parse_duration(text).map_or_else(|_| text.to_owned(), brief)
}

/// A span in its largest unit, to two digits.
pub(crate) fn brief(span: Duration) -> String {
    match span.as_secs_f64() {
        long if long >= 60.0 => humantime::format_duration(Duration::from_secs(span.as_secs())).to_string(),
        long if long >= 1.0 => format!("{long:.2} s"),
        short => format!("{:.2} ms", short * 1000.0),
    }
}

fn services(value: &Json) -> String {
    let bits = value.as_u64().unwrap_or(0);
    let offered = [("HTTP", coral_dns::PROXY), ("DNS", coral_dns::NAMESERVER)]
        .into_iter()
        .filter(|(_, service)| bits & u64::from(service.bits()) != 0)
        .map(|(name, _)| name);
    offered.collect::<Vec<_>>().join(", ")
}

pub(crate) fn answered(value: &Json) -> String {
    let count = &value["count"];
    match value["kind"].as_str().unwrap_or_default() {
        "values" => format!("{count} found"),
        "nearer" => format!("none, but {count} nearer nodes"),
        "nearest" => "none, and nobody nearer".to_owned(),
        "claimed" => "nobody before".to_owned(),
        "full-and-loaded" => "full and loaded".to_owned(),
        "other-cluster" => "is in another cluster".to_owned(),
        "timed-out" => "no answer".to_owned(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_lookup_shows_each_hop_and_then_the_references() {
        let answer = json!({
            "url": "http://www.example.com/", "key": "00ff", "level": 2,
            "hops": [
                {"level": 2, "peer": {"id": "0123456789abcdef", "addr": "192.0.2.1:4160"}, "distance": "00ff",
                 "rtt": "1ms 234us 567ns", "answer": {"kind": "nearer", "count": 3}},
                {"level": 2, "peer": {"id": "fedcba9876543210", "addr": "192.0.2.2:4160"}, "distance": "0000",
                 "rtt": null, "answer": {"kind": "timed-out"}},
            ],
            "references": ["192.0.2.3:80"],
            "parts": [{"node": "192.0.2.4:80", "part": "bytes 0-9/100"}],
            "stale": ["192.0.2.5:80"],
        });
        expect![[r#"
            http://www.example.com/ has the key 00ff; 2 nodes were asked
            found at L2; these nodes have it, or are fetching it:
              http://192.0.2.3:80/
              http://192.0.2.4:80/  bytes 0-9/100 alone
              http://192.0.2.5:80/  no longer fresh
        "#]]
        .assert_eq(&lookup(&answer));
        expect![[r#"
            http://www.example.com/ has the key 00ff

            the search
            ┌─────────────────────────────────────────────────────────────────────────────────────────┐
            │ hop   level   node       address          distance       RTT   answer                   │
            ╞═════════════════════════════════════════════════════════════════════════════════════════╡
            │   1   L2      01234567   192.0.2.1:4160   2^7        1.23 ms   none, but 3 nearer nodes │
            │   2   L2      fedcba98   192.0.2.2:4160   0                -   no answer                │
            └─────────────────────────────────────────────────────────────────────────────────────────┘

            found at L2; these nodes have it, or are fetching it:
              http://192.0.2.3:80/
              http://192.0.2.4:80/  bytes 0-9/100 alone
              http://192.0.2.5:80/  no longer fresh
        "#]]
        .assert_eq(&trace(&answer));
    }

    #[test]
    fn a_distance_is_the_power_of_two_below_it() {
        let shown = |digits: &str| distance(&json!(digits));
        assert_eq!(shown("0000"), "0");
        assert_eq!(shown("0001"), "2^0");
        assert_eq!(shown("000d"), "2^3");
        assert_eq!(shown("ffff"), "2^15");
    }

    #[test]
    fn an_answer_of_another_version_is_no_panic() {
        for strange in [json!(null), json!([]), json!({"clusters": 3, "cache": {"bytes": -1}, "neighbours": [{}]})] {
            assert!(status(&strange).contains("node"));
            assert!(lookup(&strange).contains("no node is known") && trace(&strange).contains("no node is known"));
            assert!(map(&strange).contains("in reach"));
            assert!(explain(&strange).starts_with("- from -"));
        }
    }
}
