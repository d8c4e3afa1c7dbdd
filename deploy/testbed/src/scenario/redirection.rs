//! Once local, stay local: whether the resolvers of the real world, sent to nameservers near them, ask those and no others.
//!
//! The suffix zone is delegated to a few nodes that are far from a region with nodes of its own, the *home*. Each resolver there has a
//! site of its own, starts with an empty cache and is asked for a new name every second, under a few top labels. What it asks whom is
//! read off the wire at its site. Meanwhile the nodes of the home are killed, for longer than nameservers may be remembered, and
//! started again. In another region, the *colony*, the same resolvers run, and its nodes only start when those of the home die.
//!
//! Near is a node within the diameter of level 2, far is one beyond that of level 1.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};
use coral::chart::{Axis, Chart, Series};
use coral::report::{Report, Row, Times, ms, rounded};
use serde_json::json;

use super::stage::{Findings, Stage, described};
use crate::dns::{SUFFIX, registered};
use crate::lab::{Lab, Setup};
use crate::map::{Map, Resolver, Site, TWELVE_REGIONS};

pub mod internet;
pub mod queries;
pub mod visits;

use internet::{Internet, Running};
use queries::{Seen, Sent, Watch};
use visits::{Asked, Plan};

/// What this experiment can be told.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// What all can be told.
    #[command(flatten)]
    pub common: super::Options,
    /// Whose resolvers: those of Debian 12, of Debian 13, or both.
    #[arg(long, value_enum, default_value_t)]
    pub release: Releases,
}

/// Whose resolvers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Releases {
    /// Debian 12's.
    #[default]
    Bookworm,
    /// Debian 13's.
    Trixie,
    /// All eight, side by side.
    Both,
}

/// A release of Debian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Release {
    /// Debian 12.
    Bookworm,
    /// Debian 13.
    Trixie,
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        })
    }
}

impl Releases {
    /// One by one.
    pub fn each(self) -> &'static [Release] {
        match self {
            Self::Bookworm => &[Release::Bookworm],
            Self::Trixie => &[Release::Trixie],
            Self::Both => &[Release::Bookworm, Release::Trixie],
        }
    }
}

/// A resolver at its site, and what it was seen asking.
#[derive(Debug)]
struct Seat<'m> {
    site: &'m Site,
    resolver: Resolver,
    release: Release,
    is_home: bool,
    running: Running,
    watch: Watch,
}

/// What happens, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Resolvers learn.
    Settling,
    /// All is as it should be.
    Settled,
    /// The home's nodes are dead, the colony's have started.
    Dead,
    /// The home's nodes have started again: the first minute.
    Returning,
    /// After that minute.
    Returned,
}

impl Phase {
    fn name(self, is_home: bool) -> &'static str {
        match (self, is_home) {
            (Self::Settling, _) => "empty at first",
            (Self::Settled, true) => "settled",
            (Self::Settled, false) => "no node near",
            (Self::Dead, true) => "near nodes dead",
            (Self::Dead, false) => "near nodes start",
            (Self::Returning, _) => "the minute after",
            (Self::Returned, true) => "near nodes back",
            (Self::Returned, false) => "near nodes there",
        }
    }
}

/// What one resolver did in one phase.
#[derive(Debug)]
struct Act {
    phase: Phase,
    asked: Vec<Asked>,
    seen: Seen,
}

/// All that one resolver did.
#[derive(Debug)]
struct Story<'m> {
    site: &'m Site,
    resolver: Resolver,
    release: Release,
    is_home: bool,
    acts: Vec<Act>,
    /// The colony's: after its first node was healthy, until the resolver asked one of them.
    found: Option<Duration>,
}

pub(super) fn run(stage: &Stage, releases: Releases) -> anyhow::Result<Findings> {
    let mut setup = stage.setup(|| (TWELVE_REGIONS.to_owned(), "the map of twelve regions"))?;
    let map = Map::parse(&setup.map, &setup.map_name)?;
    let (home, colony) = (home(&map)?, colony(&map)?);
    ensure!(home != colony, "the map has one region with nodes and clients, none registered; two are needed");
    let nodes_of = |region| map.nodes().filter(move |site| site.region == region).collect::<Vec<_>>();
    setup.later = nodes_of(colony).iter().map(|site| site.name.clone()).collect();
    let (lab, internet) = bring_up(stage, &setup, releases)?;
    // The longest that a resolver that was referred may keep to those nameservers.
    let dns = coral_dns::Config::default();
    let ttl = dns.referral_ttl.max(dns.near_referral_ttl);
    let mut seats = Vec::new();
    for (region, is_home) in [(home, true), (colony, false)] {
        seats.extend(seat(&lab, &internet, &map, region, releases, is_home)?);
    }
    let (settling, settled, back) = if stage.options.short { (75, 60, 30) } else { (60, 150, 90) };
    let dead = ttl + ttl / 4;
    let seconds = Duration::from_secs;
    let mut acts: Vec<Vec<Act>> = seats.iter().map(|_| Vec::new()).collect();
    let mut play = |phase: Phase, length: Duration, meanwhile: &(dyn Fn() -> anyhow::Result<()> + Sync)| {
        stage.say(&format!("{} ({} s)", phase.name(true), length.as_secs()));
        for (acts, act) in acts.iter_mut().zip(watched(&lab, &seats, phase, length, meanwhile)?) {
            acts.push(act);
        }
        anyhow::Ok(())
    };
    let nothing = || Ok(());
    play(Phase::Settling, seconds(settling), &nothing)?;
    play(Phase::Settled, seconds(settled), &nothing)?;
    let found_from = std::sync::OnceLock::new();
    play(Phase::Dead, dead, &|| {
        nodes_of(home).into_iter().try_for_each(|site| lab.kill(site))?;
        nodes_of(colony).into_iter().try_for_each(|site| lab.start(site))?;
        lab.wait_joined(&nodes_of(colony), JOIN)?;
        found_from.get_or_init(Instant::now);
        Ok(())
    })?;
    play(Phase::Returning, RETURN, &|| nodes_of(home).into_iter().try_for_each(|site| lab.start(site)))?;
    play(Phase::Returned, seconds(back), &nothing)?;
    for seat in &mut seats {
        seat.running.check()?;
    }
    let healthy = *found_from.get().context("the colony was never there")?;
    let stories: Vec<Story<'_>> = seats
        .iter()
        .zip(acts)
        .map(|(seat, acts)| {
            let own = nodes_of(seat.site.region);
            let first =
                acts.iter().flat_map(|act| &act.seen.sent).find(|sent| own.iter().any(|node| node.ipv4 == sent.to));
            let found = first.filter(|_| !seat.is_home).map(|sent| sent.at.saturating_duration_since(healthy));
            Story {
                site: seat.site,
                resolver: seat.resolver,
                release: seat.release,
                is_home: seat.is_home,
                acts,
                found,
            }
        })
        .collect();
    Ok(findings(&described(&lab), &map, &stories, ttl))
}

/// A lab with its root.
pub(super) fn bring_up(stage: &Stage, setup: &Setup, releases: Releases) -> anyhow::Result<(Lab, Internet)> {
    let (lab, _) = stage.bring_up(setup)?;
    stage.say("resolvers start");
    let internet = Internet::start(&lab, releases.each())?;
    Ok((lab, internet))
}

/// The first region with three nodes and clients, from which all registered nodes are far.
fn home(map: &Map) -> anyhow::Result<usize> {
    candidates(map).find(|region| nodes_in(map, *region) >= 3).context(
        "the map has no region with clients and three nodes from which all nodes registered for the suffix zone are far",
    )
}

/// The last region with nodes and clients, none registered.
fn colony(map: &Map) -> anyhow::Result<usize> {
    let home = home(map)?;
    let own = |region: &usize| registered(map).iter().all(|site| site.region != *region);
    let all = 0..map.regions().len();
    let eligible = all.filter(|region| *region != home && nodes_in(map, *region) > 0 && has_clients(map, *region));
    // Where all eight resolvers can be, if there is such a one.
    let most =
        eligible.filter(own).max_by_key(|region| map.clients().filter(|(site, _)| site.region == *region).count());
    most.context("the map has no second region with clients and nodes")
}

fn candidates(map: &Map) -> impl Iterator<Item = usize> + '_ {
    (0..map.regions().len()).filter(|region| {
        let client = map.clients().find(|(site, _)| site.region == *region);
        client.is_some_and(|(site, _)| registered(map).iter().all(|node| map.link(site, node).rtt() > FAR))
    })
}

fn nodes_in(map: &Map, region: usize) -> usize {
    map.nodes().filter(|site| site.region == region).count()
}

fn has_clients(map: &Map, region: usize) -> bool {
    map.clients().any(|(site, _)| site.region == region)
}

/// Resolvers at the sites of a region: the first site of each kind is Debian 12's, the second Debian 13's.
fn seat<'m>(
    lab: &Lab,
    internet: &Internet,
    map: &'m Map,
    region: usize,
    releases: Releases,
    is_home: bool,
) -> anyhow::Result<Vec<Seat<'m>>> {
    let mut seats = Vec::new();
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    for (site, resolver) in map.clients().filter(|(site, _)| site.region == region) {
        let number = taken.entry(resolver.to_string()).or_default();
        // With one release alone, any site will do.
        if let Some(release) = releases.each().get(*number).copied() {
            *number += 1;
            let watch = Watch::start(&lab.namespace(site)?, site.ipv4)?;
            let running = internet.resolver(lab, site, resolver, release, "")?;
            seats.push(Seat { site, resolver, release, is_home, running, watch });
        }
    }
    for seat in &mut seats {
        seat.running.wait(lab, seat.site)?;
    }
    Ok(seats)
}

/// Lets each resolver be asked for so long, does something at the beginning of it, and gives back what was seen of each.
fn watched(
    lab: &Lab,
    seats: &[Seat<'_>],
    phase: Phase,
    length: Duration,
    meanwhile: &(dyn Fn() -> anyhow::Result<()> + Sync),
) -> anyhow::Result<Vec<Act>> {
    let begun: Vec<_> = seats.iter().map(|seat| seat.watch.seen().lengths()).collect();
    let sites: Vec<&Site> = seats.iter().map(|seat| seat.site).collect();
    let millis = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis();
    let plan = Plan { run: format!("{millis:x}"), every: EVERY, count: length.as_secs() as usize };
    let asked = thread::scope(|scope| {
        let work = scope.spawn(meanwhile);
        let address = |site: &Site| (site.ipv4, 53).into();
        let asked = lab.at_each(&sites, |site| {
            let (plan, address) = (plan.clone(), address(site));
            async move { visits::ask(address, &plan).await }
        });
        work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        asked.into_iter().collect::<anyhow::Result<Vec<_>>>()
    })?;
    let seen = seats.iter().zip(begun).map(|(seat, begun)| seat.watch.seen().since(begun));
    Ok(asked.into_iter().zip(seen).map(|(asked, seen)| Act { phase, asked, seen }).collect())
}

/// How many of these queries went to nodes near, in between, and far, and to the servers above them.
#[derive(Debug, Default, Clone, Copy)]
struct Spread {
    near: usize,
    middle: usize,
    far: usize,
    parent: usize,
}

impl Spread {
    fn of<'s>(map: &Map, site: &Site, sent: impl IntoIterator<Item = &'s Sent>) -> Self {
        let mut spread = Self::default();
        for sent in sent {
            *match distance(map, site, sent) {
                None => &mut spread.parent,
                Some(rtt) if rtt <= NEAR => &mut spread.near,
                Some(rtt) if rtt <= FAR => &mut spread.middle,
                Some(_) => &mut spread.far,
            } += 1;
        }
        spread
    }
}

/// How far the node is that was asked; none if it was no node.
fn distance(map: &Map, site: &Site, sent: &Sent) -> Option<Duration> {
    let node = map.site_at(sent.to.into()).filter(|to| to.kind == crate::map::Kind::Node)?;
    Some(map.link(site, node).rtt())
}

/// What was asked of far nodes most, as a pattern and how often.
fn digest(map: &Map, site: &Site, sent: &[Sent]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for sent in sent.iter().filter(|sent| distance(map, site, sent).is_some_and(|rtt| rtt > FAR)) {
        let to = map.site_at(sent.to.into()).map_or("?", |to| to.name.as_str());
        *counts.entry(format!("{} of {to}", pattern(&sent.what))).or_default() += 1;
    }
    let mut counts: Vec<(String, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let told: Vec<String> = counts.iter().take(TOLD).map(|(what, count)| format!("{count} x {what}")).collect();
    told.join(", ")
}

/// What was asked and heard from `from` on for so long, in order.
fn course(map: &Map, from: Instant, length: Duration, seen: &Seen) -> String {
    let name = |ip: Ipv4Addr| map.site_at(ip.into()).map_or("?", |site| site.name.as_str());
    let sent = seen.sent.iter().map(|sent| (sent.at, format!("{} of {}", sent.what, name(sent.to))));
    let heard = seen.heard.iter().map(|heard| (heard.at, format!("{} says {}", name(heard.from), heard.what)));
    let mut all: Vec<_> = sent.chain(heard).filter(|(at, _)| (from..=from + length).contains(at)).collect();
    all.sort_by_key(|(at, _)| *at);
    let lines = all.iter().map(|(at, what)| format!("\n  after {:.0} ms {what}", ms(*at - from)));
    lines.collect()
}

/// A query without what is different in each: `A www.N.example.com.nyud.net.`
fn pattern(what: &str) -> String {
    let Some((kind, name)) = what.split_once(' ') else { return what.to_owned() };
    let labels: Vec<&str> =
        name.split('.').map(|label| if label.bytes().any(|b| b.is_ascii_digit()) { "N" } else { label }).collect();
    format!("{kind} {}", labels.join("."))
}

fn per_name(count: usize, names: usize) -> f64 {
    rounded(count as f64 / names.max(1) as f64, 3)
}

fn findings(network: &str, map: &Map, stories: &[Story<'_>], ttl: Duration) -> Findings {
    let (mut rows, mut broken): (Vec<Row>, Vec<String>) = (Vec::new(), Vec::new());
    let (mut worst_settled, mut worst_back, mut unresolved, mut names) = (0.0f64, 0.0f64, 0, 0);
    let mut series = Vec::new();
    for story in stories {
        let who = format!("{} ({}) at {}", story.resolver, story.release, map.region_of(story.site).name);
        let begun = story.acts.first().and_then(|act| act.asked.first()).map(|asked| asked.at);
        let mut points = Vec::new();
        for act in &story.acts {
            let phase = act.phase.name(story.is_home);
            let spread = Spread::of(map, story.site, &act.seen.sent);
            let times = Times::of(act.asked.iter().filter(|asked| asked.answer.is_ok()).map(|asked| asked.took));
            let failed: Vec<&Asked> = act.asked.iter().filter(|asked| asked.answer.is_err()).collect();
            let count = act.asked.len();
            (unresolved, names) = (unresolved + failed.len(), names + count);
            let far = per_name(spread.far, count);
            let mean = act.asked.iter().map(|asked| ms(asked.took)).sum::<f64>() / count.max(1) as f64;
            rows.push(vec![
                ("resolver", json!(story.resolver.to_string())),
                ("of", json!(story.release.to_string())),
                ("in", json!(map.region_of(story.site).name)),
                ("phase", json!(phase)),
                ("names", json!(count)),
                ("unresolved", json!(failed.len())),
                ("far_a_name", json!(far)),
                ("middle_a_name", json!(per_name(spread.middle, count))),
                ("near_a_name", json!(per_name(spread.near, count))),
                ("parent_a_name", json!(per_name(spread.parent, count))),
                ("mean_ms", json!(rounded(mean, 1))),
                ("p95_ms", json!(ms(times.percentile(95.0)))),
                ("worst_ms", json!(ms(times.percentile(100.0)))),
                ("far_queries", json!([digest(map, story.site, &act.seen.sent)])),
            ]);
            if let Some(first) = failed.first() {
                let why = first.answer.as_ref().err().map_or("", String::as_str);
                let course = course(map, first.at, first.took, &act.seen);
                broken.push(format!("{who}, {phase}: {} of {count} names unresolved, {why}{course}", failed.len()));
            }
            // The colony has no node near until it has been found.
            let is_bound = act.phase == Phase::Returned || (act.phase == Phase::Settled && story.is_home);
            if is_bound && far > MOST_FAR {
                let digest = digest(map, story.site, &act.seen.sent);
                broken.push(format!("{who}, {phase}: {far} far queries a name, more than {MOST_FAR}: {digest}"));
                let middle = &act.asked[count / 2];
                broken.push(format!("{who}, {phase}, in the middle:{}", course(map, middle.at, COURSE, &act.seen)));
            }
            if act.phase == Phase::Settled && story.is_home {
                worst_settled = worst_settled.max(far);
            }
            if act.phase == Phase::Returned {
                worst_back = worst_back.max(far);
            }
            for part in act.asked.chunks(BIN) {
                let (Some(begun), Some(from), Some(to)) = (begun, part.first(), part.last()) else { continue };
                let within = act.seen.sent.iter().filter(|sent| sent.at >= from.at && sent.at < to.at + EVERY);
                let far = Spread::of(map, story.site, within).far;
                points.push(((from.at - begun).as_secs_f64(), per_name(far, part.len())));
            }
        }
        if story.is_home {
            series.push(Series::new(format!("{} {}", story.resolver, story.release), points));
        } else {
            match story.found {
                None => broken.push(format!("{who}: it never asked a node that started near it")),
                Some(found) if found > ttl => broken.push(format!(
                    "{who}: it asked a node near it {:.0} s after that was healthy, and nameservers live {} s",
                    found.as_secs_f64(),
                    ttl.as_secs()
                )),
                Some(_) => {}
            }
        }
    }
    let found: Vec<Duration> = stories.iter().filter_map(|story| story.found).collect();
    let title = format!("redirection: queries of resolvers for new names under {SUFFIX}, {network}");
    let summary = vec![
        ("far_a_name_settled_worst", json!(worst_settled)),
        ("far_a_name_after_return_worst", json!(worst_back)),
        ("names", json!(names)),
        ("unresolved", json!(unresolved)),
        ("found_newcomer_worst_s", json!(found.iter().max().map(|found| rounded(found.as_secs_f64(), 1)))),
        ("nameserver_ttl_s", json!(ttl.as_secs())),
        ("network", json!(network)),
    ];
    let chart = Chart {
        title: title.clone(),
        x: Axis::linear("seconds since the first name"),
        y: Axis::linear("queries of far nodes a name, where nodes are near"),
        series,
    };
    Findings { report: Report { title, rows, summary, chart }, broken }
}

/// Between two names.
const EVERY: Duration = Duration::from_secs(1);
/// Names that make a point of the picture.
const BIN: usize = 10;
/// The diameter of level 2.
const NEAR: Duration = Duration::from_millis(20);
/// That of level 1.
const FAR: Duration = Duration::from_millis(60);
/// Within it, resolvers ask near nodes again.
const RETURN: Duration = Duration::from_secs(60);
/// Queries of far nodes for each name, once things have settled: what one distant nameserver in each set costs.
const MOST_FAR: f64 = 0.2;
/// How long the colony's nodes may take to join.
const JOIN: Duration = Duration::from_secs(30);
/// For how long it is told what went out, where too much went far.
const COURSE: Duration = Duration::from_secs(8);
/// Kinds of queries that are told where there are too many.
const TOLD: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_has_a_home_and_a_colony_with_room_for_all_resolvers() {
        let map = Map::parse(TWELVE_REGIONS, "twelve-regions.toml").unwrap();
        let name = |region: usize| map.regions()[region].name.as_str();
        assert_eq!((name(home(&map).unwrap()), name(colony(&map).unwrap())), ("sao-paulo", "dallas"));
        for region in [home(&map).unwrap(), colony(&map).unwrap()] {
            assert_eq!(map.clients().filter(|(site, _)| site.region == region).count(), 8);
        }
        assert_eq!(map.regions().len(), 12);
    }

    #[test]
    fn queries_are_sorted_by_the_distance_of_who_is_asked() {
        let map = Map::parse(TWELVE_REGIONS, "twelve-regions.toml").unwrap();
        let client = map.site("dallas-bind").unwrap();
        let to = |name: &str| Sent { at: Instant::now(), to: map.site(name).unwrap().ipv4, what: "A a.".to_owned() };
        let sent = ["dallas-1", "washington-1", "frankfurt-1", "frankfurt-1", "root"].map(to);
        let spread = Spread::of(&map, client, &sent);
        assert_eq!([spread.near, spread.middle, spread.far, spread.parent], [1, 1, 2, 1]);
        assert_eq!(digest(&map, client, &sent), "2 x A a. of frankfurt-1");
    }

    #[test]
    fn a_pattern_has_no_numbers() {
        assert_eq!(pattern("A www.18a-7.example.com.nyud.net."), "A www.N.example.com.nyud.net.");
        assert_eq!(pattern("TCP connection"), "TCP connection");
    }
}
