//! A node joins by one address and serves its first nearby client: how long that takes from its start.
//!
//! A network runs on which one node of each region is missing. These start one after another, each knowing one address of the
//! network, which is far away for most. Two look on: at the node itself its health and its neighbours are asked for again and
//! again; at a site beside it, the nearest one with a client, a nameserver nearby is asked for a coralized name until it
//! names the newcomer, and then a page is fetched there, one that others nearby have. So the newcomer has been found by those that
//! browsers and resolvers ask, and has itself found what the network holds. Nobody tells it who is near.
//!
//! Where the page comes from is told, and not judged: if by chance the newcomer is the node nearest to the page's key, it is the one to
//! know who has it, and does not before the reference is put again; so one first page in as many as there are nodes is the origin's.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use coral::chart::{Axis, Chart, Series};
use coral::demo::names;
use coral::http;
use coral::outcome::Outcome;
use coral::report::{Report, Row, Times, ms};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::stage::{Findings, Stage, described};
use crate::client::{self, Object};
use crate::dns::CORALIZED;
use crate::interrupt::Interrupt;
use crate::lab::Lab;
use crate::map::{Kind, Map, Site};
use crate::nodes::{ADMIN, NodeStatus};

/// Who joins, and who looks on.
#[derive(Debug, Clone, Copy)]
struct Cast<'m> {
    newcomer: &'m Site,
    /// The nearest node that runs: it is asked for names, and has the page.
    neighbour: &'m Site,
    /// Where the client is.
    client: &'m Site,
}

/// One join: each step with the time since the start, or why it was not reached.
#[derive(Debug)]
struct Join {
    newcomer: String,
    region: String,
    /// As [`STEPS`].
    steps: [Reached; STEPS.len()],
    /// Where the newcomer had the first page from.
    source: Option<Outcome>,
}

/// What is waited for, and how long it may take.
#[derive(Debug)]
struct Step {
    name: &'static str,
    column: &'static str,
    limit: Duration,
}

pub(super) fn run(stage: &Stage) -> anyhow::Result<Findings> {
    let rounds = if stage.options.short { 1 } else { ROUNDS };
    let mut joins = Vec::new();
    let mut network = String::new();
    let containers = if stage.makes_processes() { None } else { Some(stage.containers()?) };
    for round in 0..rounds {
        let say = |site: &Site| stage.say(&format!("round {} of {rounds}: {} joins", round + 1, site.name));
        if let Some(lab) = &containers {
            network = described(lab);
            let map = lab.map();
            for newcomer in newcomers(&map, round)? {
                say(newcomer);
                forget(lab, cast(lab, &map, newcomer)?)?;
                joins.push(join(stage, lab, newcomer)?);
            }
        } else {
            let mut setup = stage.regions()?;
            let map = Map::parse(&setup.map, &setup.map_name)?;
            let newcomers = newcomers(&map, round)?;
            setup.seeds = 1;
            setup.later = newcomers.iter().map(|site| site.name.clone()).collect();
            let (lab, _) = stage.bring_up(&setup)?;
            network = described(&lab);
            for newcomer in newcomers {
                say(newcomer);
                joins.push(join(stage, &lab, newcomer)?);
            }
        }
    }
    Ok(findings(&network, &joins))
}

/// Ends a container's node, and waits until its neighbourhood knows nothing of it any more.
fn forget(lab: &Lab, cast: Cast<'_>) -> anyhow::Result<()> {
    lab.stop(cast.newcomer)?;
    let newcomer = IpAddr::from(cast.newcomer.ipv4);
    lab.interrupt().until(&format!("{} is to be forgotten", cast.newcomer.name), GIVE_UP, || {
        let answer = lab.at(cast.client, || names::ask(nameserver(cast), CORALIZED))??;
        let is_named = answer.addresses.contains(&newcomer);
        Ok(if is_named { Err(format!("{} still names it", cast.neighbour.name)) } else { Ok(()) })
    })
}

/// The nodes that join in a round: of each region with several, another one each time.
fn newcomers(map: &Map, round: usize) -> anyhow::Result<Vec<&Site>> {
    let mut newcomers = Vec::new();
    for region in 0..map.regions().len() {
        let nodes: Vec<&Site> = map.nodes().filter(|site| site.region == region).collect();
        if nodes.len() > 1 {
            newcomers.push(nodes[nodes.len() - 1 - round % nodes.len()]);
        }
    }
    ensure!(!newcomers.is_empty(), "no region of the map has two nodes: nobody can join nearby");
    newcomers.truncate(MOST);
    Ok(newcomers)
}

/// Who looks on when this node joins.
fn cast<'m>(lab: &Lab, map: &'m Map, newcomer: &'m Site) -> anyhow::Result<Cast<'m>> {
    let mut others: Vec<&Site> = map.sites().iter().filter(|site| site.number != newcomer.number).collect();
    others.sort_by_key(|site| map.link(newcomer, site).rtt());
    let mut running = Vec::new();
    for site in others.iter().filter(|site| site.kind == Kind::Node) {
        if lab.is_running(site)? {
            running.push(*site);
        }
    }
    let neighbour = *running.first().context("no other node runs")?;
    let beside = others.iter().find(|site| {
        matches!(site.kind, Kind::Client(_)) && map.link(newcomer, site).rtt() < map.link(newcomer, neighbour).rtt() * 2
    });
    // Where the region has no client site, another node's host is one.
    let client = beside.or_else(|| running.get(1)).copied().unwrap_or(neighbour);
    Ok(Cast { newcomer, neighbour, client })
}

fn join(stage: &Stage, lab: &Lab, newcomer: &Site) -> anyhow::Result<Join> {
    let map = lab.map();
    let cast = cast(lab, &map, newcomer)?;
    let object = &client::objects(&stage.run_name(), 1)[0];
    let page = lab.at(cast.client, || client::fetch(cast.neighbour.ipv4.into(), object))?;
    page.with_context(|| format!("{} has no page for others", cast.neighbour.name))?;
    let watch = Watch { start: Instant::now(), interrupt: lab.interrupt() };
    let (started, inside, outside) = thread::scope(|scope| {
        // They look on from before the start, so that nothing is seen late.
        let inside = scope.spawn(|| lab.at(cast.newcomer, || watch.inside()));
        let outside = scope.spawn(|| lab.at(cast.client, || watch.outside(cast, object)));
        (lab.start(cast.newcomer), joined(inside), joined(outside))
    });
    started?;
    let ([healthy, near, middle], (named, served)) = (inside?, outside?);
    lab.interrupt().check()?;
    let source = served.as_ref().ok().map(|(_, source)| *source);
    Ok(Join {
        newcomer: cast.newcomer.name.clone(),
        region: map.region_of(cast.newcomer).name.clone(),
        steps: [healthy, near, middle, named, served.map(|(time, _)| time)],
        source,
    })
}

fn nameserver(cast: Cast<'_>) -> SocketAddr {
    SocketAddr::new(cast.neighbour.ipv4.into(), DNS_PORT)
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Looking on, from the start of a node.
#[derive(Debug, Clone, Copy)]
struct Watch<'l> {
    start: Instant,
    interrupt: &'l Interrupt,
}

/// The time since the start, or why it did not come to that.
type Reached = Result<Duration, String>;

impl Watch<'_> {
    /// At the newcomer: it is healthy; it has heard from a member of its cluster at level 2; at level 1.
    async fn inside(self) -> [Reached; 3] {
        let is_healthy =
            || async { matches!(http::get_text(ADMIN, "/health").await, Ok((code, _)) if code.is_success()) };
        let has_company = |level| async move {
            let Ok((_, text)) = http::get_text(ADMIN, "/status").await else { return false };
            serde_json::from_str::<NodeStatus>(&text).is_ok_and(|status| status.has_company(level))
        };
        let healthy = self.until("it is not healthy", is_healthy).await;
        let (near, middle) = tokio::join!(
            self.until("it has met nobody of a cluster at level 2", || has_company(2)),
            self.until("it has met nobody of a cluster at level 1", || has_company(1)),
        );
        [healthy, near, middle]
    }

    /// At the client: a nameserver nearby names the newcomer; the page is here, and where it was from.
    async fn outside(self, cast: Cast<'_>, object: &Object) -> (Reached, Result<(Duration, Outcome), String>) {
        let newcomer = IpAddr::from(cast.newcomer.ipv4);
        let is_named = || async {
            names::ask(nameserver(cast), CORALIZED).await.is_ok_and(|answer| answer.addresses.contains(&newcomer))
        };
        let named = self.until("the nameserver nearby does not name it", is_named).await;
        if let Err(why) = &named {
            let why = why.clone();
            return (named, Err(why));
        }
        let served = match client::fetch(newcomer, object).await {
            Ok(answer) => Ok((self.start.elapsed(), answer.outcome)),
            Err(e) => Err(format!("the first page did not come: {e:#}")),
        };
        (named, served)
    }

    /// Asks again and again: nobody tells.
    async fn until<F: Future<Output = bool>>(self, unless: &str, ask: impl Fn() -> F) -> Reached {
        while !self.interrupt.is_set() {
            if ask().await {
                return Ok(self.start.elapsed());
            }
            if self.start.elapsed() > GIVE_UP {
                break;
            }
            sleep(AGAIN).await;
        }
        Err(format!("{unless} after {:.0} s", self.start.elapsed().as_secs_f64()))
    }
}

/// Figures, picture and verdict.
fn findings(network: &str, joins: &[Join]) -> Findings {
    let mut rows: Vec<Row> = joins.iter().map(row).collect();
    let mut broken = Vec::new();
    let mut series = Vec::new();
    let mut all = Vec::new();
    for (index, step) in STEPS.iter().enumerate() {
        let times = || joins.iter().map(move |join| join.steps[index].as_ref().ok().copied());
        all.push(Times::of(times().flatten()));
        let points = (1..).zip(times()).filter_map(|(number, time)| Some((f64::from(number), ms(time?))));
        series.push(Series::new(step.name, points.collect()).dots());
        for join in joins {
            match &join.steps[index] {
                Ok(time) if *time > step.limit => broken.push(format!(
                    "{}: {} took {:.1} s, more than {:?}",
                    join.newcomer,
                    step.name,
                    time.as_secs_f64(),
                    step.limit
                )),
                Err(why) if index == 0 || join.steps[index - 1].as_ref().err() != Some(why) => {
                    broken.push(format!("{}: {why}", join.newcomer));
                }
                _ => {}
            }
        }
    }
    let of_all = |name: &'static str, percent: f64| -> Row {
        let times = STEPS.iter().zip(&all).map(|(step, times)| (step.column, json!(ms(times.percentile(percent)))));
        [("newcomer", json!(name)), ("region", json!("all"))]
            .into_iter()
            .chain(times)
            .chain([("page_from", json!(""))])
            .collect()
    };
    rows.extend([of_all("median", 50.0), of_all("worst", 100.0)]);
    let served = &all[STEPS.len() - 1];
    let title = format!("join: {} nodes join one after another, {network}", joins.len());
    let summary = vec![
        ("joins", json!(joins.len())),
        ("to_first_page_median_ms", json!(ms(served.percentile(50.0)))),
        ("to_first_page_worst_ms", json!(ms(served.percentile(100.0)))),
        ("pages_from_the_origin", json!(joins.iter().filter(|join| join.source == Some(Outcome::Origin)).count())),
        ("network", json!(network)),
    ];
    let chart = Chart {
        title: title.clone(),
        x: Axis::linear("number of the join"),
        y: Axis::log("milliseconds since the start of the process"),
        series,
    };
    Findings { report: Report { title, rows, summary, chart }, broken }
}

fn row(join: &Join) -> Row {
    let times = STEPS
        .iter()
        .zip(&join.steps)
        .map(|(step, time)| (step.column, json!(time.as_ref().ok().map(|time| ms(*time)))));
    [("newcomer", json!(join.newcomer)), ("region", json!(join.region))]
        .into_iter()
        .chain(times)
        .chain([("page_from", json!(join.source.map(|source| source.to_string())))])
        .collect()
}

/// The steps, in the order of [`Join::steps`], with what the design lets one expect of each.
const STEPS: [Step; 5] = [
    // A process starts, and the seed answers once: a round trip of at most 130 ms, or a repeat after 400 ms.
    Step { name: "healthy", column: "healthy_ms", limit: Duration::from_secs(2) },
    // By hints at once; without them, by the refreshes of a young table, 1 s, 2 s, 4 s and 8 s after one another.
    Step { name: "a peer at level 2", column: "peer_l2_ms", limit: Duration::from_secs(15) },
    Step { name: "a peer at level 1", column: "peer_l1_ms", limit: Duration::from_secs(15) },
    // When its neighbour knows it, within the next second: nameservers ask the index once a second.
    Step { name: "named by DNS", column: "named_ms", limit: Duration::from_secs(17) },
    // Connecting, a search of the index at level 2, and the page from a neighbour: all nearby.
    Step { name: "first page", column: "first_page_ms", limit: Duration::from_secs(18) },
];
/// Networks that are joined, each by other nodes, unless it is to be short.
const ROUNDS: usize = 3;
/// Nodes that join one network, at most.
const MOST: usize = 8;
/// Until something is asked again: the grain of all times.
const AGAIN: Duration = Duration::from_millis(20);
/// What has not come by then does not come.
const GIVE_UP: Duration = Duration::from_secs(60);
const DNS_PORT: u16 = 53;

#[cfg(test)]
mod tests {
    use super::*;

    fn took(newcomer: &str, millis: [u64; STEPS.len()]) -> Join {
        let steps = millis.map(|time| Ok(Duration::from_millis(time)));
        Join { newcomer: newcomer.to_owned(), region: "here".to_owned(), steps, source: Some(Outcome::Peer(2)) }
    }

    #[test]
    fn each_round_another_node_of_each_region_is_missing() {
        let map = Map::four_regions();
        let rounds: Vec<Vec<&str>> = (0..ROUNDS)
            .map(|round| newcomers(&map, round).unwrap().iter().map(|site| site.name.as_str()).collect())
            .collect();
        assert_eq!(rounds[0], ["frankfurt-3", "madrid-3", "virginia-3", "dallas-3"]);
        let mut all: Vec<&str> = rounds.concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), map.nodes().count());
    }

    #[test]
    fn what_takes_too_long_or_does_not_come_is_told_once() {
        let mut late = took("b", [100, 200, 300, 30_000, 30_100]);
        let found = findings("test", &[took("a", [100, 200, 300, 900, 1000]), late]);
        assert_eq!(found.broken.len(), 2, "{:?}", found.broken);
        assert_eq!(found.report.rows.len(), 4);

        late = took("c", [100; STEPS.len()]);
        late.steps[3] = Err("it is not named".to_owned());
        late.steps[4] = late.steps[3].clone();
        late.source = None;
        assert_eq!(findings("test", &[late]).broken, ["c: it is not named"]);
    }
}
