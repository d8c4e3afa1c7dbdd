//! Nodes share the work of fetching: one copy for all, also when the node that fetches dies, and of what is larger than their memory.
//!
//! Three acts, on a network of node processes with disks, and an origin whose line is no bound:
//!
//! 1. All nodes are asked for the same objects in one instant. The origin is asked once for each, and how often a cluster of level 2 had
//!    to look outside for one is told.
//! 2. All nodes are asked for one large object of a slow origin, and the node that fetches it is killed (SIGKILL) in the middle. Clients of
//!    the others get it whole, and the origin is asked once more at most.
//! 3. Nodes of three regions are asked for an object of two gigabytes, and a client of a fourth seeks in it meanwhile: the part is
//!    here long before the whole is anywhere, and no node takes more memory for it than `MEMORY`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context as _, ensure};
use coral::chart::{Axis, Chart, Series};
use coral::outcome::Outcome;
use coral::report::{Report, Row, Times, ms, rounded};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::stage::{Findings, OriginLine, Stage, described};
use crate::client::{self, Answer, Failure, Watched};
use crate::lab::Lab;
use crate::map::{Map, Site};
use crate::origin::Stream;

pub(super) fn run(stage: &Stage) -> anyhow::Result<Findings> {
    let mut setup = stage.regions()?;
    setup.disk = true;
    let (lab, _) = stage.bring_up(&setup)?;
    let _line = OriginLine::widen(&lab)?;
    let mut found = Found::default();
    let play = Play { stage, lab: &lab, map: &lab.map(), run: stage.run_name() };
    play.all_at_once(&mut found)?;
    play.killed_in_the_middle(&mut found)?;
    play.larger_than_memory(&mut found)?;
    Ok(found.findings(&described(&lab)))
}

/// A client of a node, beside it, and what is seen of an object's way there.
#[derive(Debug)]
struct Client<'m> {
    site: &'m Site,
    seen: AtomicU64,
    source: OnceLock<Outcome>,
}

/// An object, and those who ask for it.
#[derive(Debug)]
struct Spread<'m> {
    target: String,
    length: u64,
    clients: Vec<Client<'m>>,
}

type Got = Result<Answer, Failure>;

impl<'m> Client<'m> {
    fn new(site: &'m Site) -> Self {
        Self { site, seen: AtomicU64::new(0), source: OnceLock::new() }
    }

    fn watch(&self, lab: &Lab, spread: &Spread<'_>, range: Option<Range<u64>>, start: Instant) -> anyhow::Result<Got> {
        let Self { site, seen, source } = self;
        let watched = Watched { target: &spread.target, range, length: spread.length, seen, source };
        lab.at(site, || async {
            sleep_until(start).await;
            client::watch(IpAddr::from(site.ipv4), watched).await
        })
    }
}

impl<'m> Spread<'m> {
    fn new(stream: Stream, query: &str, sites: &[&'m Site]) -> Self {
        Self {
            target: format!("{}?{query}", stream.path()),
            length: stream.length,
            clients: sites.iter().map(|site| Client::new(site)).collect(),
        }
    }

    /// How often the origin was asked for it.
    fn origin_requests(&self, lab: &Lab) -> anyhow::Result<u64> {
        Ok(lab.origin_requests()?.get(&self.target).copied().unwrap_or(0))
    }

    /// The client that is furthest.
    fn most_seen(&self) -> u64 {
        self.clients.iter().map(|client| client.seen.load(Relaxed)).max().unwrap_or(0)
    }
}

/// Lets all clients of all objects ask in one instant, while `meanwhile` goes on. What they got is in their order.
fn ask_at_once<T>(
    lab: &Lab,
    spreads: &[Spread<'_>],
    meanwhile: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(Vec<Vec<Got>>, T)> {
    let start = Instant::now() + GATHER;
    thread::scope(|scope| {
        let mut asking = Vec::new();
        for spread in spreads {
            let ask = |client| scope.spawn(move || Client::watch(client, lab, spread, None, start));
            asking.push(spread.clients.iter().map(ask).collect::<Vec<_>>());
        }
        let done = meanwhile();
        let mut got = Vec::new();
        for asking in asking {
            let all = asking.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
            got.push(all.collect::<anyhow::Result<Vec<Got>>>()?);
        }
        Ok((got, done?))
    })
}

/// What acts work with.
#[derive(Debug)]
struct Play<'l> {
    stage: &'l Stage,
    lab: &'l Lab,
    map: &'l Map,
    run: String,
}

impl Play<'_> {
    fn all_at_once(&self, found: &mut Found) -> anyhow::Result<()> {
        self.stage.say("all nodes are asked for the same in one instant");
        let nodes: Vec<&Site> = self.map.nodes().collect();
        let stream = Stream { length: SMALL, rate: None };
        let object = |number| Spread::new(stream, &format!("{}-{number}", self.run), &nodes);
        let objects: Vec<Spread<'_>> = (0..OBJECTS).map(object).collect();
        let (got, ()) = ask_at_once(self.lab, &objects, || Ok(()))?;
        let (mut asked, mut outside) = (0, 0);
        for (object, got) in objects.iter().zip(&got) {
            found.add(AT_ONCE, object, got);
            let times = object.origin_requests(self.lab)?;
            asked += times;
            if times != 1 {
                found.broken.push(format!("{AT_ONCE}: the origin was asked {times} times for {}", object.target));
            }
            outside += got.iter().flatten().filter(|answer| is_from_outside(answer.outcome)).count();
        }
        let regions: BTreeSet<usize> = nodes.iter().map(|site| site.region).collect();
        let copies = outside as f64 / (objects.len() * regions.len()) as f64;
        found.summary.extend([
            ("at_once_objects", json!(objects.len())),
            ("at_once_origin_requests", json!(asked)),
            ("at_once_copies_into_a_region", json!(rounded(copies, 2))),
        ]);
        Ok(())
    }

    fn killed_in_the_middle(&self, found: &mut Found) -> anyhow::Result<()> {
        self.stage.say("the node that fetches for all is killed");
        let nodes: Vec<&Site> = self.map.nodes().collect();
        let object = Spread::new(Stream { length: SLOW, rate: NonZeroU64::new(SLOW_RATE) }, &self.run, &nodes);
        let fetches = |client: &&Client<'_>| client.source.get() == Some(&Outcome::Origin);
        let (got, killed) = ask_at_once(self.lab, std::slice::from_ref(&object), || {
            self.lab.interrupt().until("half of the object is to be here", GIVE_UP, || {
                let here = object.most_seen() > SLOW / 2 && object.clients.iter().any(|client| fetches(&client));
                Ok(if here { Ok(()) } else { Err(format!("{} bytes are", object.most_seen())) })
            })?;
            let site = object.clients.iter().find(fetches).context("nobody fetches from the origin")?.site;
            self.lab.kill(site)?;
            Ok(site)
        })?;
        let is_killed = |client: &Client<'_>| client.site.number == killed.number;
        let (mut whole, mut others) = (0, 0);
        for (client, got) in object.clients.iter().zip(&got[0]).filter(|(client, _)| !is_killed(client)) {
            others += 1;
            whole += usize::from(got.is_ok());
            found.add_one(KILLED, client, got);
        }
        let asked = object.origin_requests(self.lab)?;
        if asked > 2 {
            found.broken.push(format!("{KILLED}: the origin was asked {asked} times"));
        }
        found.summary.extend([
            ("killed_other_clients", json!(others)),
            ("killed_whole_at", json!(whole)),
            ("killed_origin_requests", json!(asked)),
        ]);
        self.lab.start(killed)?;
        self.lab.wait_joined(&[killed], GIVE_UP)
    }

    fn larger_than_memory(&self, found: &mut Found) -> anyhow::Result<()> {
        let length = if self.stage.options.short { LARGE / 4 } else { LARGE };
        self.stage.say(&format!("{} MiB go through three nodes", length >> 20));
        let mut first = Vec::new();
        for region in 0..self.map.regions().len() {
            first.extend(self.map.nodes().find(|site| site.region == region));
        }
        ensure!(first.len() > 3, "nodes of four regions are wanted, and the map has those of {}", first.len());
        let (carriers, seeker) = (&first[..3], Client::new(first[3]));
        let peaks: Vec<Peak> =
            carriers.iter().map(|site| Peak::watch(self.lab, site)).collect::<anyhow::Result<_>>()?;
        let object = Spread::new(Stream { length, rate: None }, &self.run, carriers);
        let place = length / 4 * 3;
        let (got, (part, left)) = ask_at_once(self.lab, std::slice::from_ref(&object), || {
            self.lab.interrupt().until("the object is to be on its way", GIVE_UP, || {
                Ok(if object.most_seen() > length / 50 { Ok(()) } else { Err("it is not".to_owned()) })
            })?;
            let part = seeker.watch(self.lab, &object, Some(place..place + SEEK), Instant::now())?;
            Ok((part, length - object.most_seen()))
        })?;
        found.add(LARGER, &object, &got[0]);
        found.add_one(SOUGHT, &seeker, &part);
        if left == 0 {
            found.broken.push(format!("{SOUGHT}: the whole was here before it"));
        }
        let grown = peaks.iter().map(Peak::grown).collect::<anyhow::Result<Vec<u64>>>()?;
        for (site, grown) in carriers.iter().zip(&grown).filter(|(_, grown)| **grown > MEMORY) {
            found.broken.push(format!("{LARGER}: {} has grown by {} MiB", site.name, grown >> 20));
        }
        let slowest = Times::of(got[0].iter().flatten().map(|answer| answer.last_byte)).percentile(100.0);
        found.summary.extend([
            ("large_mib", json!(length >> 20)),
            ("large_mib_per_second", json!(rounded((length >> 20) as f64 / slowest.as_secs_f64().max(1e-3), 1))),
            ("large_origin_requests", json!(object.origin_requests(self.lab)?)),
            ("large_most_memory_mib", json!(grown.iter().max().map(|grown| grown >> 20))),
            ("sought_ms", json!(part.as_ref().ok().map(|answer| ms(answer.last_byte)))),
        ]);
        Ok(())
    }
}

/// Whether a node had an object from outside its cluster of level 2.
fn is_from_outside(outcome: Outcome) -> bool {
    !matches!(outcome, Outcome::Local | Outcome::Peer(2))
}

/// The most memory that a node's process has had since some moment.
#[derive(Debug)]
struct Peak {
    process: u32,
    before: u64,
}

impl Peak {
    fn watch(lab: &Lab, site: &Site) -> anyhow::Result<Self> {
        let process = lab.process_id(site)?;
        // From now on, says proc_pid_clear_refs(5).
        fs::write(format!("/proc/{process}/clear_refs"), "5").context("cannot reset the peak of a node's memory")?;
        Ok(Self { process, before: most_memory(process)? })
    }

    fn grown(&self) -> anyhow::Result<u64> {
        Ok(most_memory(self.process)?.saturating_sub(self.before))
    }
}

/// Bytes that were in memory at most, says proc_pid_status(5).
fn most_memory(process: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).context("a node has ended")?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    let kib: u64 = kib.and_then(|kib| kib.parse().ok()).context("the kernel does not tell a node's memory")?;
    Ok(kib << 10)
}

/// What acts have found.
#[derive(Debug, Default)]
struct Found {
    rows: Vec<Row>,
    series: Vec<(&'static str, Vec<(f64, f64)>)>,
    summary: Row,
    broken: Vec<String>,
}

impl Found {
    fn add(&mut self, act: &'static str, object: &Spread<'_>, got: &[Got]) {
        for (client, got) in object.clients.iter().zip(got) {
            self.add_one(act, client, got);
        }
    }

    fn add_one(&mut self, act: &'static str, client: &Client<'_>, got: &Got) {
        if self.series.last().is_none_or(|(name, _)| *name != act) {
            self.series.push((act, Vec::new()));
        }
        let answer = got.as_ref().ok();
        match got {
            Ok(answer) => {
                let (_, points) = self.series.last_mut().expect("one was there or has been added");
                points.push((points.len() as f64 + 1.0, ms(answer.last_byte)));
            }
            Err(error) => self.broken.push(format!("{act}: the client of {}: {error}", client.site.name)),
        }
        self.rows.push(vec![
            ("act", json!(act)),
            ("node", json!(client.site.name)),
            ("from", json!(client.source.get().map(ToString::to_string))),
            ("bytes", json!(client.seen.load(Relaxed))),
            ("first_byte_ms", json!(answer.map(|answer| ms(answer.first_byte)))),
            ("last_byte_ms", json!(answer.map(|answer| ms(answer.last_byte)))),
        ]);
    }

    fn findings(self, network: &str) -> Findings {
        let title = format!("cooperation: many ask for the same, {network}");
        let series = self.series.into_iter().map(|(name, points)| Series::new(name, points).dots()).collect();
        let mut summary = self.summary;
        summary.push(("network", json!(network)));
        let chart = Chart {
            title: title.clone(),
            x: Axis::linear("number of the client"),
            y: Axis::log("milliseconds until its last byte"),
            series,
        };
        Findings { report: Report { title, rows: self.rows, summary, chart }, broken: self.broken }
    }
}

const AT_ONCE: &str = "all at once";
const KILLED: &str = "killed in the middle";
const LARGER: &str = "larger than memory";
const SOUGHT: &str = "sought meanwhile";

/// Objects that all ask for at once, and the bytes of each.
const OBJECTS: usize = 6;
const SMALL: u64 = 512 << 10;
/// Bytes of the object whose node is killed, and how many come in a second: eight seconds in all.
const SLOW: u64 = 64 << 20;
const SLOW_RATE: u64 = 8 << 20;
/// Bytes of the object that is larger than a node's memory for objects, unless it is to be short; and of the part that is sought.
const LARGE: u64 = 2 << 30;
const SEEK: u64 = 1 << 20;
/// How much a node's memory may grow for it: a few of the kernel's and the library's buffers for each connection, and what waits for the disk.
const MEMORY: u64 = 64 << 20;
/// Until all clients are ready to begin.
const GATHER: Duration = Duration::from_millis(500);
/// What has not happened by then does not happen.
const GIVE_UP: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_did_not_get_is_told() {
        let map = Map::four_regions();
        let sites: Vec<&Site> = map.nodes().take(2).collect();
        let object = Spread::new(Stream { length: 5, rate: None }, "q", &sites);
        let answer = Answer { outcome: Outcome::Origin, first_byte: GATHER, last_byte: GATHER };
        let mut found = Found::default();
        found.add(AT_ONCE, &object, &[Ok(answer), Err(Failure::Altered)]);
        let findings = found.findings("test");
        assert_eq!(findings.broken, ["all at once: the client of frankfurt-2: it was altered on its way"]);
        assert_eq!(findings.report.rows.len(), 2);
    }

    #[test]
    fn the_kernel_tells_how_much_memory_a_process_has_had() {
        assert!(most_memory(std::process::id()).unwrap() > 1 << 20);
    }
}
