//! What the demonstration prints.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;

use super::crowd::Tally;
use super::names::Answer;
use super::network::Network;
use super::site::{HOST, Object};
use super::suffixes;
use crate::outcome::Outcome;
use crate::tables::{brief, table, titled};

pub(super) fn network(network: &Network) -> String {
    let mut rows = table(&["node", "id", "HTTP", "DNS", "index", "admin"], &[0]);
    for (number, node) in network.nodes.iter().enumerate() {
        let addresses = node.addresses();
        let shown = |addr: Option<SocketAddr>| addr.map_or_else(|| "off".to_owned(), |addr| addr.to_string());
        rows.add_row([
            (number + 1).to_string(),
            format!("{:?}", node.me().id),
            shown(addresses.proxy),
            shown(addresses.dns),
            addresses.dsht.to_string(),
            shown(addresses.admin),
        ]);
    }
    titled("the network: every node runs all three parts, and has found the others", &rows)
}

pub(super) fn first_instant(tally: &Tally) -> String {
    format!(
        "\nFirst, with nothing cached, every node was asked for every object in one instant: \
         {} requests, {} failed, {} in {}.\n",
        tally.requests(),
        tally.failures,
        ByteSize(tally.bytes),
        brief(tally.took),
    )
}

pub(super) fn crowd(tally: &Tally) -> String {
    let mut rows = table(&["answered from", "requests", "share", "p50", "p99", "slowest"], &[1, 2, 3, 4, 5]);
    let all = tally.requests();
    for (outcome, times) in &tally.latencies {
        let mut times = times.clone();
        times.sort();
        rows.add_row([
            outcome.to_string(),
            times.len().to_string(),
            share(times.len() as u64, all),
            brief(percentile(&times, 50)),
            brief(percentile(&times, 99)),
            brief(percentile(&times, 100)),
        ]);
    }
    if !tally.latencies.contains_key(&Outcome::Origin) {
        rows.add_row(["origin", "0", "0.0 %", "-", "-", "-"]);
    }
    rows.add_row(["failed or altered".to_owned(), tally.failures.to_string(), share(tally.failures, all)]);
    let seconds = tally.took.as_secs_f64();
    let title = format!(
        "the flash crowd: {all} requests, {} in {}, {:.0} requests/s",
        ByteSize(tally.bytes),
        brief(tally.took),
        all as f64 / seconds.max(0.001),
    );
    titled(&title, &rows)
}

pub(super) fn objects(objects: &[Object], first: &Tally, crowd: &Tally, asked: &BTreeMap<String, u64>) -> String {
    let mut rows = table(&["object", "size", "requests", "asked of the origin"], &[1, 2, 3]);
    let requests = |tally: &Tally, path: &str| tally.by_object.get(path).copied().unwrap_or(0);
    for object in objects {
        rows.add_row([
            object.path.to_owned(),
            ByteSize(object.body.len() as u64).to_string(),
            (requests(first, object.path) + requests(crowd, object.path)).to_string(),
            asked.get(object.path).copied().unwrap_or(0).to_string(),
        ]);
    }
    rows.add_row([
        "all".to_owned(),
        ByteSize(objects.iter().map(|object| object.body.len() as u64).sum()).to_string(),
        (first.requests() + crowd.requests()).to_string(),
        asked.values().sum::<u64>().to_string(),
    ]);
    titled("by the origin's own count", &rows)
}

/// What the origin's count has against us.
pub(super) fn too_often(objects: &[Object], asked: &BTreeMap<String, u64>) -> Vec<String> {
    let mut wrong = Vec::new();
    for object in objects {
        match asked.get(object.path).copied().unwrap_or(0) {
            1 => {}
            0 => wrong.push(format!("{}: the origin was never asked for it", object.path)),
            times => wrong.push(format!("{}: the origin was asked {times} times for it", object.path)),
        }
    }
    let strange = asked.keys().filter(|path| !objects.iter().any(|object| object.path == **path));
    wrong.extend(strange.map(|path| format!("{path}: the origin was asked for it, and nobody had asked us")));
    wrong
}

pub(super) fn names(name: &str, answers: &[(SocketAddr, anyhow::Result<Answer>)]) -> String {
    let mut rows = table(&["asked of", "status", "addresses", "TTL"], &[3]);
    for (server, answer) in answers {
        match answer {
            Ok(answer) => rows.add_row([
                server.to_string(),
                answer.code.to_string(),
                answer.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
                format!("{} s", answer.ttl),
            ]),
            Err(e) => rows.add_row([server.to_string(), format!("{e:#}")]),
        };
    }
    titled(&format!("the nodes' own DNS: where is {name}?"), &rows)
}

pub(super) fn what_to_try(network: &Network) -> String {
    let ports = network.ports;
    let [public, local] = [0, 1].map(|index| format!("{HOST}.{}", suffixes()[index]));
    let suffix = &suffixes()[1];
    let (http, dns, admin) = (ports.http, ports.dns, ports.admin);
    let last = network.nodes.len();
    // As it was called: a line that can be pasted.
    let coral = std::env::args().next().unwrap_or_else(|| "coral".to_owned());
    format!(
        "
The network stays up until Ctrl-C. To try it:

  in a browser, without any DNS (names under localhost are this machine):
    http://{local}:{http}/
    http://{suffix}:{http}/ (a node's own page)
    http://127.0.0.{last}:{admin}/ (the same with what its operator alone sees)

  the nodes' own DNS, asked of any of them:
    dig @127.0.0.1 -p {dns} {public}

  a request that goes where that DNS says:
    curl -i --connect-to \"::$(dig +short @127.0.0.1 -p {dns} {public} | head -n 1):{http}\" \\
      http://{public}/

  without dig, and by way of a node of your choice:
    curl -i --resolve {public}:{http}:127.0.0.{last} http://{public}:{http}/

  what a node knows, and where it finds a page:
    {coral} status --admin 127.0.0.{last}:{admin}
    {coral} lookup http://{HOST}/ --admin 127.0.0.{last}:{admin}
"
    )
}

pub(super) fn verdict(wrong: &[String]) -> String {
    if wrong.is_empty() {
        return "\nAll is well: every body came whole and unaltered, the origin was asked once for each object, and every \
                node ended cleanly.\n"
            .to_owned();
    }
    let mut text = format!("\n{} things were wrong:\n", wrong.len());
    for problem in wrong {
        text += &format!("  {problem}\n");
    }
    text
}

/// The time below which `percent` of `sorted` lie, by the nearest rank.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

fn share(part: u64, whole: u64) -> String {
    format!("{:.1} %", 100.0 * part as f64 / whole.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_time_that_was_measured() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 50), Duration::from_millis(100));
        assert_eq!(percentile(&times, 99), Duration::from_millis(198));
        assert_eq!(percentile(&times, 100), Duration::from_millis(200));
        assert_eq!(percentile(&times[..1], 50), Duration::from_millis(1));
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }

    #[test]
    fn the_origins_count_is_held_against_us() {
        let objects = super::super::site::objects();
        let mut asked: BTreeMap<String, u64> = objects.iter().map(|object| (object.path.to_owned(), 1)).collect();
        assert_eq!(too_often(&objects, &asked), [""; 0]);
        asked.insert("/style.css".to_owned(), 2);
        asked.remove("/");
        asked.insert("/robots.txt".to_owned(), 1);
        assert_eq!(
            too_often(&objects, &asked),
            [
                "/: the origin was never asked for it",
                "/style.css: the origin was asked 2 times for it",
                "/robots.txt: the origin was asked for it, and nobody had asked us",
            ]
        );
    }
}
