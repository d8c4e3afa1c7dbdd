//! What the experiments share: networks, requests spread over time, and the progress bar.

use std::collections::BTreeMap;
use std::time::Duration;

use coral_dsht::sim::latency::Map;
use coral_dsht::sim::workload::{key, value};
use coral_dsht::sim::{Ended, Simulation};
use coral_dsht::{Config, Dsht, Found, Instant, Key, Levels, OpId, Outcome};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Options;

/// Where experiments are run.
#[derive(Debug)]
pub(super) struct Lab {
    pub(super) nodes: Option<usize>,
    pub(super) keys: Option<usize>,
    pub(super) seed: u64,
    bar: ProgressBar,
}

/// How a get ended.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) node: usize,
    /// The number of the key.
    pub(super) key: usize,
    pub(super) took: Duration,
    pub(super) found: Found,
}

impl Lab {
    pub(super) fn new(options: &Options) -> Self {
        // Shown only where there is a terminal.
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style =
            ProgressStyle::with_template("{msg:40} {spinner} {pos} virtual seconds").expect("a template of our own");
        bar.set_style(style);
        let number = |count: Option<u32>| count.map(|count| count as usize);
        Self { nodes: number(options.nodes), keys: number(options.keys), seed: options.seed, bar }
    }

    /// Says what is being done now; of `of` such parts the `part`-th.
    pub(super) fn stage(&self, what: &str, (part, of): (usize, usize)) {
        if part == 0 {
            let style = ProgressStyle::with_template("{msg:40} [{bar:30}] {pos}/{len}").expect("a template of our own");
            self.bar.set_style(style.progress_chars("=> "));
            self.bar.set_length(of as u64);
        }
        self.bar.set_position(part as u64);
        self.bar.set_message(what.to_owned());
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// The sizes of an experiment in several: those up to `--nodes`, and that one.
    pub(super) fn sizes(&self, defaults: &[usize], larger: &[usize]) -> Vec<usize> {
        let Some(most) = self.nodes else { return defaults.to_vec() };
        let smaller = defaults.iter().chain(larger).copied().filter(|size| *size < most);
        smaller.chain([most]).collect()
    }

    /// A network over PlanetLab's distances that has come up and settled: by a real join up to a thousand nodes, beyond
    /// that by [`Simulation::settled`].
    pub(super) fn network(&self, config: Config, nodes: usize) -> Simulation {
        let has_clusters = !config.diameters.is_empty();
        let mut sim = Simulation::new(self.seed, config);
        sim.set_map(Map::planetlab(self.seed));
        if nodes <= JOINED {
            sim.join(nodes);
            if has_clusters {
                sim.run_for(SETTLES);
            }
        } else {
            sim.settled(nodes);
            sim.run_for(Duration::from_secs(30));
        }
        sim.ended();
        sim
    }

    /// Asks nodes to do things, `per_second` of them, and waits until all have ended; tells `ended` of each as it happens.
    pub(super) fn ask<T>(
        &self,
        sim: &mut Simulation,
        requests: Vec<T>,
        per_second: f64,
        mut begin: impl FnMut(&mut Dsht, Instant, &T) -> OpId,
        node_of: impl Fn(&T) -> usize,
        mut ended: impl FnMut(&mut Simulation, T, Duration, Outcome),
    ) {
        let mut waiting: BTreeMap<(usize, OpId), (T, Instant)> = BTreeMap::new();
        let started = sim.now();
        let mut settle = |sim: &mut Simulation, waiting: &mut BTreeMap<(usize, OpId), (T, Instant)>| {
            for Ended { node, op, at, outcome } in sim.ended() {
                if let Some((request, begun)) = waiting.remove(&(node, op)) {
                    ended(sim, request, at.saturating_since(begun), outcome);
                }
            }
        };
        for (index, request) in requests.into_iter().enumerate() {
            let due = started + Duration::from_secs_f64(index as f64 / per_second);
            let pause = due.saturating_since(sim.now());
            if !pause.is_zero() {
                sim.run_for(pause);
                settle(sim, &mut waiting);
            }
            let (now, node) = (sim.now(), node_of(&request));
            let op = sim.act(node, |dsht| begin(dsht, now, &request));
            waiting.insert((node, op), (request, now));
        }
        for _ in 0..LONGEST_TENTHS {
            settle(sim, &mut waiting);
            if waiting.is_empty() {
                return;
            }
            sim.run_for(Duration::from_millis(100));
        }
        let left = waiting.len();
        assert!(left == 0, "{left} operations of live nodes do not end");
    }

    /// Lets nodes get keys, both by their numbers, at all levels.
    pub(super) fn gets(&self, sim: &mut Simulation, requests: Vec<(usize, usize)>, per_second: f64) -> Vec<Got> {
        let mut all = Vec::with_capacity(requests.len());
        self.ask(
            sim,
            requests,
            per_second,
            |dsht, now, (_, number)| dsht.get(now, key(*number), Levels::ALL),
            |(node, _)| *node,
            |_, (node, key), took, outcome| {
                if let Outcome::Get(found) = outcome {
                    all.push(Got { node, key, took, found });
                }
            },
        );
        all
    }

    /// Lets nodes put keys, both by their numbers, at all levels for an hour; each puts the value that names it.
    pub(super) fn puts(&self, sim: &mut Simulation, requests: Vec<(usize, usize)>, per_second: f64) {
        let begin = |dsht: &mut Dsht, now, (node, number): &(usize, usize)| put(dsht, now, *node, *number);
        self.ask(sim, requests, per_second, begin, |(node, _)| *node, |_, _, _, _| {});
    }
}

/// Puts the value that names `node` under the key with this number.
pub(super) fn put(dsht: &mut Dsht, now: Instant, node: usize, number: usize) -> OpId {
    dsht.put(now, key(number), value(node), Duration::from_secs(3600), Levels::ALL)
}

/// The keys with the first numbers.
pub(super) fn keys(count: usize) -> Vec<Key> {
    (0..count).map(key).collect()
}

/// A single global level.
pub(super) fn only_global() -> Config {
    Config { diameters: Vec::new(), ..Config::default() }
}

/// β · ⌈log2 n⌉: what the paper promises of the node nearest to a key, in puts a minute.
pub(super) fn bound(nodes: usize) -> f64 {
    12.0 * (nodes as f64).log2().ceil()
}

/// Networks up to this size join as real ones do.
const JOINED: usize = 1000;
/// After a join clusters merge for a while.
const SETTLES: Duration = Duration::from_secs(300);
/// No operation may take longer, in tenths of a second.
const LONGEST_TENTHS: u32 = 600;
