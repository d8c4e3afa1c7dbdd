//! Which client got which nodes, against the round-trip times that the map knows.
//!
//! At each client's site runs a resolver; in each region one of them answers no echo. Clients ask their own resolver for names, and browse
//! the first node that it names, as people do. Then they ask a *distant* resolver, far from all, which passes their prefix on (EDNS
//! Client Subnet); and prefixes are put straight to nameservers far from them. The same is done over nodes that measure nobody.
//!
//! A client's nearest cluster is the nodes within the diameter of level 2, else those within that of level 1; a client that is far from all
//! has none, and of it only distances are told.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};
use std::{fs, thread};

use anyhow::{Context as _, ensure};
use coral::chart::{Axis, Chart, Series};
use coral::report::{Report, Row, ms, rounded};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsOption};
use hickory_proto::rr::{Name, RData, RecordType};
use serde_json::json;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::redirection::internet::{Internet, Running};
use super::redirection::visits::{self, Asked, Plan};
use super::redirection::{Release, Releases, bring_up};
use super::stage::{Findings, Stage};
use crate::client;
use crate::dns::{SUFFIX, registered};
use crate::lab::Lab;
use crate::map::{Map, Resolver, Site, TWELVE_REGIONS};
use crate::netns;

/// How a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// Its own resolver, the very first name.
    First,
    /// Its own resolver, later.
    Own,
    /// The same, of those that answer no echo.
    SilentFirst,
    Silent,
    /// Through a distant resolver with ECS, the first name.
    EcsFirst,
    Ecs,
    /// Its prefix, put to a distant nameserver.
    Direct,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::First => "own resolver, first answer",
            Self::Own => "own resolver",
            Self::SilentFirst => "own, silent resolver, first answer",
            Self::Silent => "own, silent resolver",
            Self::EcsFirst => "distant resolver with ECS, first answer",
            Self::Ecs => "distant resolver with ECS",
            Self::Direct => "prefix put to distant nameservers",
        }
    }

    /// Per cent of addresses that must be of the client's nearest cluster, at level 2.
    fn bound(self) -> Option<f64> {
        match self {
            Self::Own => Some(95.0),
            Self::Silent | Self::Ecs => Some(90.0),
            _ => None,
        }
    }
}

/// What was named to whom, by how it was asked and the client's number.
type Named = BTreeMap<(Way, u16), Vec<IpAddr>>;

pub(super) fn run(stage: &Stage) -> anyhow::Result<Findings> {
    let (mut rows, mut broken, mut network) = (Vec::new(), Vec::new(), String::new());
    let mut series = Vec::new();
    for (case, dns) in [("redirection", None), ("level 0 only", Some("measure = false"))] {
        let mut setup = stage.setup(|| (TWELVE_REGIONS.to_owned(), "the map of twelve regions"))?;
        setup.dns = dns.into_iter().map(str::to_owned).collect();
        let (lab, internet) = bring_up(stage, &setup, Releases::Bookworm)?;
        network = super::stage::described(&lab);
        let (named, failures) = measure(stage, &lab, &internet)?;
        broken.extend(failures.into_iter().map(|failure| format!("{case}: {failure}")));
        let map = lab.map();
        judge(&map, case, dns.is_none(), &named, &mut rows, &mut broken);
        series.push(Series::new(case, distribution(&map, &named)));
    }
    let title = format!("nearest: who is sent where, {network}");
    let share = |case: &str, way: Way| {
        let is = |row: &&Row| row[0].1 == json!(case) && row[1].1 == json!(way.name()) && row[2].1 == json!("2");
        rows.iter().find(is).map_or(json!(null), |row| row[5].1.clone())
    };
    let summary = vec![
        ("level_2_own_resolver_pct", share("redirection", Way::Own)),
        ("level_2_silent_resolver_pct", share("redirection", Way::Silent)),
        ("level_2_distant_resolver_with_ecs_pct", share("redirection", Way::Ecs)),
        ("level_0_only_pct", share("level 0 only", Way::Own)),
        ("network", json!(network)),
    ];
    let chart = Chart {
        title: title.clone(),
        x: Axis::log("round trip from a client to the nodes that its own resolver names, ms"),
        y: Axis::linear("per cent of clients within"),
        series,
    };
    Ok(Findings { report: Report { title, rows, summary, chart }, broken })
}

fn measure(stage: &Stage, lab: &Lab, internet: &Internet) -> anyhow::Result<(Named, Vec<String>)> {
    let map = lab.map();
    let distant = distant(&map)?;
    // A site of each kind in each region.
    let mut clients: Vec<(&Site, Resolver)> = Vec::new();
    for (site, resolver) in map.clients() {
        if !clients.iter().any(|(other, kind)| other.region == site.region && *kind == resolver) {
            clients.push((site, resolver));
        }
    }
    let is_silent = |site: &Site| {
        let own: Vec<_> = clients.iter().filter(|(other, _)| other.region == site.region).collect();
        own[site.region % own.len()].0.number == site.number && site.number != distant.number
    };
    let mut running: Vec<(&Site, Running)> = Vec::new();
    for (site, resolver) in &clients {
        if is_silent(site) {
            netns::inside(&lab.namespace(site)?, || fs::write(SILENCE, "1"))?.context("cannot silence a site")?;
        }
        let more = if site.number == distant.number { WITH_ECS } else { "" };
        running.push((*site, internet.resolver(lab, site, *resolver, Release::Bookworm, more)?));
    }
    for (site, resolver) in &mut running {
        resolver.wait(lab, site)?;
    }
    let (mut named, mut failures) = (Named::new(), Vec::new());
    let sites: Vec<&Site> =
        clients.iter().map(|(site, _)| *site).filter(|site| site.number != distant.number).collect();
    let count = if stage.options.short { 10 } else { 40 };
    let ask = |count: usize, of: Option<&Site>| -> anyhow::Result<Vec<Vec<Asked>>> {
        let millis = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        let plan = Plan { run: format!("{millis:x}"), every: Duration::from_secs(1), count };
        let asked = lab.at_each(&sites, |site| {
            let (plan, server) = (plan.clone(), SocketAddr::new(of.unwrap_or(site).ipv4.into(), 53));
            async move { visits::ask(server, &plan).await }
        });
        asked.into_iter().collect()
    };
    let mut keep = |asked: &[Vec<Asked>], ways: [Way; 2]| {
        for (site, asked) in sites.iter().zip(asked) {
            let way = ways[usize::from(is_silent(site))];
            for asked in asked {
                match &asked.answer {
                    Ok(addresses) => named.entry((way, site.number)).or_default().extend(addresses),
                    Err(why) => failures.push(format!("{}, {}: {why}", site.name, way.name())),
                }
            }
        }
    };
    stage.say("first answers");
    let first = ask(1, None)?;
    browse(stage, lab, &sites, &first)?;
    keep(&first, [Way::First, Way::SilentFirst]);
    stage.say("clients ask their own resolvers");
    browse(stage, lab, &sites, &ask(count / 2, None)?)?;
    keep(&ask(count, None)?, [Way::Own, Way::Silent]);
    stage.say("clients ask a distant resolver");
    keep(&ask(1, Some(distant))?, [Way::EcsFirst, Way::EcsFirst]);
    ask(count / 2, Some(distant))?;
    keep(&ask(count, Some(distant))?, [Way::Ecs, Way::Ecs]);
    stage.say("prefixes are put to distant nameservers");
    for (number, answer) in direct(lab, distant, &sites)? {
        match answer {
            Ok(addresses) => named.entry((Way::Direct, number)).or_default().extend(addresses),
            Err(why) => failures.push(format!("site {number}, {}: {why:#}", Way::Direct.name())),
        }
    }
    for (_, resolver) in &mut running {
        resolver.check()?;
    }
    Ok((named, failures))
}

/// The PowerDNS of the last region without nodes.
fn distant(map: &Map) -> anyhow::Result<&Site> {
    let is_free = |site: &&Site| map.nodes().all(|node| node.region != site.region);
    let all = map.clients().filter(|(_, resolver)| *resolver == Resolver::PdnsRecursor).map(|(site, _)| site);
    all.filter(is_free).last().context("the map has no region without nodes in which there is a pdns-recursor")
}

/// Each client fetches a page from the first node that was named to it last: so nodes learn how far clients are.
fn browse(stage: &Stage, lab: &Lab, sites: &[&Site], asked: &[Vec<Asked>]) -> anyhow::Result<()> {
    let first: BTreeMap<u16, IpAddr> = sites
        .iter()
        .zip(asked)
        .filter_map(|(site, asked)| Some((site.number, *asked.last()?.answer.as_ref().ok()?.first()?)))
        .collect();
    let object = &client::objects(&stage.run_name(), 1)[0];
    let fetched = lab.at_each(sites, |site| {
        let node = first.get(&site.number).copied();
        async move {
            match node {
                Some(node) => client::fetch(node, object).await.map(drop),
                None => Ok(()),
            }
        }
    });
    for (site, fetched) in sites.iter().zip(fetched) {
        fetched?.with_context(|| format!("{} has no page", site.name))?;
    }
    Ok(())
}

/// Puts each client's prefix to each registered nameserver that is far from it.
fn direct(lab: &Lab, from: &Site, sites: &[&Site]) -> anyhow::Result<Vec<(u16, anyhow::Result<Vec<IpAddr>>)>> {
    let map = lab.map();
    let mut questions = Vec::new();
    for site in sites {
        for server in registered(&map).into_iter().filter(|server| map.link(site, server).rtt() > FAR) {
            questions.push((site.number, server.ipv4, IpAddr::V4(site.ipv4)));
        }
    }
    ensure!(!questions.is_empty(), "no client is far from any registered nameserver");
    let mut answers = Vec::new();
    for round in 0..ROUNDS {
        answers.extend(lab.at(from, || async {
            let mut answers = Vec::new();
            for (number, server, client) in &questions {
                let server = SocketAddr::new((*server).into(), 53);
                answers.push((*number, with_subnet(server, *client, round).await));
            }
            answers
        })?);
        // What a query sets going is measured by the next round.
        thread::sleep(Duration::from_secs(1));
    }
    Ok(answers)
}

/// The addresses that a nameserver gives for a client of this network. A nameserver may refer such a client to others: then those are asked.
async fn with_subnet(server: SocketAddr, client: IpAddr, round: usize) -> anyhow::Result<Vec<IpAddr>> {
    let mut server = server;
    for _ in 0..3 {
        let name = Name::from_ascii(format!("www.direct-{round}.example.com.{SUFFIX}."))?;
        let mut query = Message::new(1, MessageType::Query, OpCode::Query);
        query.add_query(Query::query(name, RecordType::A));
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        edns.options_mut().insert(EdnsOption::Subnet(ClientSubnet::new(client, 24, 0)));
        query.edns = Some(edns);
        let socket = UdpSocket::bind(("0.0.0.0", 0)).await?;
        socket.connect(server).await?;
        socket.send(&query.to_vec()?).await?;
        let mut bytes = [0; 4096];
        let length = timeout(Duration::from_secs(3), socket.recv(&mut bytes)).await.context("no answer")??;
        let answer = Message::from_vec(&bytes[..length])?;
        let of = |records: &[hickory_proto::rr::Record]| -> Vec<IpAddr> {
            let address = |record: &hickory_proto::rr::Record| match &record.data {
                RData::A(a) => Some(IpAddr::V4(a.0)),
                _ => None,
            };
            records.iter().filter_map(address).collect()
        };
        let addresses = of(&answer.answers);
        if !addresses.is_empty() {
            return Ok(addresses);
        }
        let glue = of(&answer.additionals);
        server.set_ip(*glue.first().with_context(|| format!("{}, and no address", answer.metadata.response_code))?);
    }
    anyhow::bail!("referred again and again")
}

/// The level of a client's nearest cluster, and who is in it.
fn nearest<'m>(map: &'m Map, client: &Site) -> (&'static str, Vec<&'m Site>) {
    for (level, diameter) in [("2", NEAR), ("1", FAR)] {
        let near: Vec<&Site> = map.nodes().filter(|node| map.link(client, node).rtt() <= diameter).collect();
        if !near.is_empty() {
            return (level, near);
        }
    }
    ("none", map.nodes().collect())
}

fn rtts(map: &Map, client: &Site, addresses: &[IpAddr]) -> Vec<f64> {
    addresses.iter().filter_map(|ip| map.site_at(*ip)).map(|node| ms(map.link(client, node).rtt())).collect()
}

fn mean(figures: &[f64]) -> f64 {
    figures.iter().sum::<f64>() / figures.len().max(1) as f64
}

/// A row for each way and level: clients count alike, however many answers each got.
fn judge(map: &Map, case: &str, is_bound: bool, named: &Named, rows: &mut Vec<Row>, broken: &mut Vec<String>) {
    let mut ways: Vec<Way> = named.keys().map(|(way, _)| *way).collect();
    ways.dedup();
    for way in ways {
        for level in ["2", "1", "none"] {
            let (mut shares, mut distances, mut random, mut random_rtt, mut best) =
                (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
            let (mut answers, mut astray) = (0, Vec::new());
            for ((_, number), addresses) in named.iter().filter(|((other, _), _)| *other == way) {
                let client = &map.sites()[usize::from(*number) - 1];
                let (own, near) = nearest(map, client);
                if own != level {
                    continue;
                }
                let is_near = |ip: &&IpAddr| near.iter().any(|node| IpAddr::V4(node.ipv4) == **ip);
                let share = addresses.iter().filter(is_near).count() as f64 / addresses.len().max(1) as f64;
                if share < 0.9 {
                    let names: Vec<&str> = addresses
                        .iter()
                        .rev()
                        .take(3)
                        .filter_map(|ip| map.site_at(*ip))
                        .map(|s| s.name.as_str())
                        .collect();
                    astray.push(format!("{} {:.0} % ({})", client.name, share * 100.0, names.join(" ")));
                }
                shares.push(share * 100.0);
                answers += addresses.len();
                distances.push(mean(&rtts(map, client, addresses)));
                let all: Vec<f64> = map.nodes().map(|node| ms(map.link(client, node).rtt())).collect();
                random.push(100.0 * near.len() as f64 / all.len() as f64);
                random_rtt.push(mean(&all));
                best.push(all.into_iter().fold(f64::INFINITY, f64::min));
            }
            if shares.is_empty() {
                continue;
            }
            let share = rounded(mean(&shares), 1);
            let shown = |figure: f64| if level == "none" { json!(null) } else { json!(rounded(figure, 1)) };
            rows.push(vec![
                ("nodes", json!(case)),
                ("asked_by", json!(way.name())),
                ("level", json!(level)),
                ("clients", json!(shares.len())),
                ("addresses", json!(answers)),
                ("nearest_pct", shown(share)),
                ("at_random_pct", shown(mean(&random))),
                ("rtt_ms", json!(rounded(mean(&distances), 1))),
                ("at_random_ms", json!(rounded(mean(&random_rtt), 1))),
                ("best_ms", json!(rounded(mean(&best), 1))),
                ("astray", json!([astray.join(", ")])),
            ]);
            if let Some(bound) = way.bound().filter(|bound| is_bound && level == "2" && share < *bound) {
                astray.truncate(TOLD);
                broken.push(format!(
                    "{}: {share} % of addresses are of the nearest cluster, less than {bound} %: {}",
                    way.name(),
                    astray.join(", ")
                ));
            }
        }
    }
}

/// The share of clients whose nodes are within a distance, by what their own resolvers name later.
fn distribution(map: &Map, named: &Named) -> Vec<(f64, f64)> {
    let own = named.iter().filter(|((way, _), _)| matches!(way, Way::Own | Way::Silent));
    let mut all: Vec<f64> =
        own.map(|((_, number), ips)| mean(&rtts(map, &map.sites()[usize::from(*number) - 1], ips))).collect();
    all.sort_by(f64::total_cmp);
    let count = all.len() as f64;
    (1..).zip(all).map(|(rank, rtt)| (rtt.max(0.1), 100.0 * f64::from(rank) / count)).collect()
}

/// Within which nodes are of a client's cluster of level 2, and of level 1.
const NEAR: Duration = Duration::from_millis(20);
const FAR: Duration = Duration::from_millis(60);
/// How often each prefix is put to each nameserver.
const ROUNDS: usize = 4;
/// Clients that are told of where too few were sent near.
const TOLD: usize = 8;
/// A host where this is 1 answers no echo.
const SILENCE: &str = "/proc/sys/net/ipv4/icmp_echo_ignore_all";
/// Lines that make PowerDNS pass its clients' prefixes on.
const WITH_ECS: &str = "edns-subnet-allow-list=nyud.net\necs-add-for=0.0.0.0/0\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_cluster_is_of_the_highest_level_that_has_nodes() {
        let map = Map::parse(TWELVE_REGIONS, "twelve-regions.toml").unwrap();
        let of = |name: &str| nearest(&map, map.site(name).unwrap());
        assert_eq!((of("tokyo-bind").0, of("tokyo-bind").1.len()), ("2", 3));
        assert_eq!(of("miami-bind").0, "1");
        assert_eq!(of("johannesburg-bind").0, "none");
        assert_eq!(distant(&map).unwrap().name, "johannesburg-pdns-recursor");
    }

    #[test]
    fn too_few_near_addresses_are_told_with_who_was_sent_where() {
        let map = Map::parse(TWELVE_REGIONS, "twelve-regions.toml").unwrap();
        let ip = |name: &str| IpAddr::V4(map.site(name).unwrap().ipv4);
        let client = map.site("tokyo-bind").unwrap().number;
        let near = Named::from([((Way::Own, client), vec![ip("tokyo-1"), ip("tokyo-2")])]);
        let (mut rows, mut broken) = (Vec::new(), Vec::new());
        judge(&map, "test", true, &near, &mut rows, &mut broken);
        assert_eq!((rows[0][5].1.clone(), broken.len()), (json!(100.0), 0));
        let astray = Named::from([((Way::Own, client), vec![ip("tokyo-1"), ip("madrid-2")])]);
        judge(&map, "test", true, &astray, &mut rows, &mut broken);
        assert!(broken[0].contains("50 %") && broken[0].contains("madrid-2"), "{broken:?}");
    }
}
