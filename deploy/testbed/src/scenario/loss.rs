//! Nodes are lost, come back, are cut off and restarted, while clients ask: what they see of it, and whether all is found again.
//!
//! A steady load of clients, at each node's site (`load`), and three acts, each with an undisturbed stretch before and after:
//!
//! 1. A third of the nodes is killed (SIGKILL), and started again later.
//! 2. A region is cut off from all others, and the cut is healed.
//! 3. All nodes are restarted one by one (SIGTERM, drain, start), the next when the one before is healthy.
//!
//! What the design promises, and this checks: a client whose node and origin live and can reach each other sees no error; what a
//! live node holds is found there, without asking the origin, from `FOUND` after a disturbance on; clusters are as whole as before
//! within `WHOLE`; and at the end every node finds everything that another one holds.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::chance::Chance;
use super::stage::{Findings, OriginLine, Stage, described};
use crate::formation::Formation;
use crate::lab::Lab;
use crate::map::{Map, Site};
use ledger::Ledger;
use load::{Load, Place, Sample};

mod ledger;
mod load;
mod verdict;

/// What happened when.
#[derive(Debug)]
struct Act {
    name: &'static str,
    /// When its first stretch began, the disturbance began, the disturbance ended, and the last stretch ended.
    begun: Duration,
    from: Duration,
    to: Duration,
    ended: Duration,
    /// After what searches may miss for a while.
    events: Vec<(Duration, String)>,
    /// How long after the disturbance clusters were whole again; why they were not.
    whole: Result<Duration, String>,
}

/// How long things last.
#[derive(Debug, Clone, Copy)]
struct Plan {
    /// Before and after.
    calm: Duration,
    /// For how long nodes stay dead, or a region cut off.
    disturbed: Duration,
}

/// Who disturbs.
#[derive(Debug)]
struct Director<'l> {
    stage: &'l Stage,
    lab: &'l Lab,
    map: &'l Map,
    ledger: &'l Ledger,
    plan: Plan,
}

pub(super) fn run(stage: &Stage) -> anyhow::Result<Findings> {
    let lab = if stage.makes_processes() { stage.bring_up(&stage.regions()?)?.0 } else { stage.containers()? };
    let map = lab.map();
    let seconds = |short, long| Duration::from_secs(if stage.options.short { short } else { long });
    let plan = Plan { calm: seconds(10, 30), disturbed: seconds(20, 45) };
    let nodes: Vec<&Site> = map.nodes().collect();
    let ledger = Arc::new(Ledger::new(&map));
    let interrupt = lab.interrupt().clone();
    let load = Arc::new(Load::new(&stage.run_name(), nodes.len(), LONGEST, stage.options.seed, interrupt));
    let places: Vec<Place> = nodes.iter().map(|site| Place::new(&map, site, &load, &ledger)).collect();
    let place = |site: &Site| {
        let index = nodes.iter().position(|node| node.number == site.number).unwrap_or_default();
        (index, places[index].clone())
    };
    let director = Director { stage, lab: &lab, map: &map, ledger: &ledger, plan };
    let line = OriginLine::widen(&lab)?;

    stage.say("each node fetches what it alone will hold");
    let fetched = gathered(lab.at_each(&nodes, |site| {
        let (index, place) = place(site);
        place.archive(index)
    }))?;
    if let Some(error) = fetched.iter().find_map(|sample| sample.answer.as_ref().err()) {
        anyhow::bail!("the network does not serve before it is disturbed: {}", error.text);
    }
    let (acts, samples) = thread::scope(|scope| {
        let clients = scope.spawn(|| gathered(lab.at_each(&nodes, |site| place(site).1.live())));
        let acts = director.play();
        load.end();
        let samples = clients.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (acts, samples)
    });
    let (acts, samples) = (acts?, samples?);
    stage.interrupt.check()?;

    stage.say("every node searches for everything");
    let (objects, before) = (ledger.objects(), lab.origin_requests()?);
    load.begin();
    let everything = gathered(lab.at_each(&nodes, |site| place(site).1.find_everything()))?;
    let asked: u64 = lab.origin_requests()?.values().sum::<u64>() - before.values().sum::<u64>();
    drop(line);
    stage.interrupt.check()?;
    let played = verdict::Played { network: described(&lab), acts, samples, everything, objects, asked };
    Ok(verdict::findings(&played, &ledger))
}

fn gathered(samples: Vec<anyhow::Result<Vec<Sample>>>) -> anyhow::Result<Vec<Sample>> {
    Ok(samples.into_iter().collect::<anyhow::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

impl Director<'_> {
    fn play(&self) -> anyhow::Result<Vec<Act>> {
        let acts = vec![self.kill_a_third()?, self.cut_a_region_off()?, self.restart_all()?];
        // What is searched for afterwards is to be found.
        let last = acts.iter().flat_map(|act| &act.events).map(|(at, _)| *at).max().unwrap_or_default();
        self.stage.say("the network finds everything again");
        self.calm((last + FOUND).saturating_sub(self.ledger.now()))?;
        Ok(acts)
    }

    fn kill_a_third(&self) -> anyhow::Result<Act> {
        let mut nodes: Vec<&Site> = self.map.nodes().collect();
        Chance::new(self.stage.options.seed, 0).shuffle(&mut nodes);
        nodes.truncate((nodes.len() / 3).max(1));
        nodes.sort_by_key(|site| site.number);
        let expected = self.formation();
        let begun = self.ledger.now();
        self.stage.say("undisturbed, before nodes are killed");
        self.calm(self.plan.calm)?;
        let from = self.ledger.now();
        let names: Vec<&str> = nodes.iter().map(|site| site.name.as_str()).collect();
        self.stage.say(&format!("{} are dead", names.join(", ")));
        for site in &nodes {
            let since = self.ledger.now();
            self.ledger.ends(site);
            self.lab.kill(site)?;
            self.ledger.was_killed(site, since);
        }
        self.calm(self.plan.disturbed)?;
        self.stage.say(&format!("{} start again", names.join(", ")));
        let back = self.ledger.now();
        for site in &nodes {
            self.ledger.starts(site);
            self.lab.start(site)?;
        }
        self.lab.wait_joined(&nodes, HEALTHY)?;
        let to = self.ledger.now();
        let events = vec![(from, format!("{} nodes killed", nodes.len())), (back, "started again".to_owned())];
        self.end("a third killed", &expected, [begun, from, to], events)
    }

    fn cut_a_region_off(&self) -> anyhow::Result<Act> {
        let origin = self.map.origin().region;
        let count = |region: usize| self.map.nodes().filter(|site| site.region == region).count();
        let regions = (0..self.map.regions().len()).filter(|region| *region != origin);
        // The first of the largest: it has something to lose, and the origin is elsewhere.
        let region = regions.rev().max_by_key(|region| count(*region));
        let region = region.context("the map has one region: there is nothing to cut off")?;
        let name = &self.map.regions()[region].name;
        ensure!(
            count(region) < self.map.nodes().count(),
            "no node is outside {name}: there is nothing to cut it off from"
        );
        let expected = self.formation();
        let begun = self.ledger.now();
        self.stage.say(&format!("undisturbed, before {name} is cut off"));
        self.calm(self.plan.calm)?;
        self.stage.say(&format!("{name} is cut off"));
        let from = self.ledger.now();
        self.ledger.is_cut(region);
        self.lab.wan()?.cut(name, None)?;
        self.calm(self.plan.disturbed)?;
        self.lab.wan()?.heal(name, None)?;
        self.ledger.is_healed();
        let to = self.ledger.now();
        let events = vec![(from, format!("{name} cut off")), (to, "healed".to_owned())];
        self.end("a region cut off", &expected, [begun, from, to], events)
    }

    fn restart_all(&self) -> anyhow::Result<Act> {
        let expected = self.formation();
        let begun = self.ledger.now();
        self.stage.say("undisturbed, before all are restarted");
        self.calm(self.plan.calm)?;
        let from = self.ledger.now();
        for site in self.map.nodes() {
            self.stage.say(&format!("{} is restarted", site.name));
            self.ledger.ends(site);
            self.lab.stop(site)?;
            self.ledger.starts(site);
            self.lab.start(site)?;
            self.lab.wait_joined(&[site], HEALTHY)?;
        }
        let to = self.ledger.now();
        let events = vec![(from, "restarts".to_owned()), (to, "all restarted".to_owned())];
        self.end("all restarted one by one", &expected, [begun, from, to], events)
    }

    /// The last stretch of an act, and whether clusters are what they were.
    fn end(
        &self,
        name: &'static str,
        expected: &Formation,
        [begun, from, to]: [Duration; 3],
        events: Vec<(Duration, String)>,
    ) -> anyhow::Result<Act> {
        self.stage.say("clusters become whole again");
        let whole = self.lab.interrupt().until("clusters are to be whole again", WHOLE, || {
            let now = self.formation();
            let missing = now.missing().iter().cloned().chain(more_clusters(&now, expected)).next();
            Ok(missing.map_or_else(|| Ok(self.ledger.now() - to), Err))
        });
        self.lab.interrupt().check()?;
        self.stage.say("undisturbed again");
        self.calm((to + self.plan.calm).saturating_sub(self.ledger.now()))?;
        let whole = whole.map_err(|e| format!("{e:#}"));
        Ok(Act { name, begun, from, to, ended: self.ledger.now(), events, whole })
    }

    fn formation(&self) -> Formation {
        Formation::of(self.map, &self.lab.statuses(self.map))
    }

    /// A stretch of time in which nothing is disturbed.
    fn calm(&self, length: Duration) -> anyhow::Result<()> {
        let end = self.ledger.now() + length;
        loop {
            self.stage.interrupt.check()?;
            let left = end.saturating_sub(self.ledger.now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(GRAIN));
        }
    }
}

/// That at some level nodes are spread over more clusters than they were.
fn more_clusters(now: &Formation, before: &Formation) -> Option<String> {
    let count = |formation: &Formation, level| formation.clusters().keys().filter(|(of, _)| *of == level).count();
    let levels = now.clusters().keys().map(|(level, _)| *level).max().unwrap_or_default();
    (0..=levels).find(|level| count(now, *level) > count(before, *level)).map(|level| {
        format!("{} clusters at level {level}, and there were {}", count(now, level), count(before, level))
    })
}

/// After so long whatever a live node holds is to be found: one keepalive (20 s) until a silent node is asked, its time-outs, and the
/// half minute for which nodes that failed are left out.
const FOUND: Duration = Duration::from_secs(60);
/// After so long clusters are to be whole: nodes that have just moved or joined weigh their clusters anew well within it.
const WHOLE: Duration = Duration::from_secs(120);
/// How long a started node may take to be healthy.
const HEALTHY: Duration = Duration::from_secs(30);
/// More than a run can take: until then there are new objects to ask for.
const LONGEST: Duration = Duration::from_secs(1200);
/// How often it is looked whether to end.
const GRAIN: Duration = Duration::from_millis(200);
