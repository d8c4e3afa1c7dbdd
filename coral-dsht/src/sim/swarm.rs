//! Faults first, then calm, and then everything must be found: one run for each seed, which draws its own faults.

use std::fmt::Write as _;
use std::time::Duration;

use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng as _;

use crate::config::Config;
use crate::sim::churn::Churn;
use crate::sim::link::Link;
use crate::sim::workload::{key, value};
use crate::sim::{Simulation, check};

/// Runs a network of `nodes` through the faults of `seed`: lossy links, pairs that cannot talk, nodes that come and go, and
/// an island that is cut off for a while. Then all links are good for longer than a refresh takes, and 100 values are put
/// that every get must find.
///
/// # Errors
///
/// What was not found, what the faults were, the last events, and the command that runs the seed again.
pub fn run(seed: u64, nodes: usize) -> Result<(), String> {
    let config = Config::default();
    let calm = config.refresh + Duration::from_secs(60);
    let mut sim = Simulation::new(seed, config);
    let link = Link::draw(&mut ChaCha12Rng::seed_from_u64(seed));
    sim.set_link(link);
    sim.join(nodes);
    let churn = Churn::draw(&mut sim);
    churn.run(&mut sim, Duration::from_secs(60));
    let island: Vec<usize> = (0..sim.len()).filter(|_| sim.random(3) == 0).collect();
    sim.split(&island);
    churn.run(&mut sim, Duration::from_secs(30));
    put_and_get(&mut sim, 0);
    sim.heal();
    churn.run(&mut sim, Duration::from_secs(30));

    sim.set_link(Link::default());
    sim.run_for(calm);
    let missing = put_and_get(&mut sim, 1000);
    if missing.is_empty() {
        return Ok(());
    }
    let mut why = format!("seed {seed}: {} of 100 were not found: {}\n", missing.len(), missing.join(", "));
    let _ = writeln!(why, "{:.3} know the node nearest to them", check::know_their_nearest(&sim));
    let _ = writeln!(why, "{link:?}\n{churn:?}\nisland {island:?}");
    let _ = write!(why, "replay: cargo run --profile sim -p coral-dsht --features sim --example sim --");
    let _ = writeln!(why, " --swarm --nodes {nodes} --seed {seed}\n{}", sim.trace());
    Err(why)
}

/// Puts 100 values from random nodes and gets each from another; those that were not found.
fn put_and_get(sim: &mut Simulation, first: usize) -> Vec<String> {
    let numbers = first..first + 100;
    for number in numbers.clone() {
        let node = sim.some_alive().expect("the last nodes stay");
        sim.put(node, key(number), value(number), Duration::from_secs(3600));
    }
    let mut missing = Vec::new();
    for number in numbers {
        let node = sim.some_alive().expect("the last nodes stay");
        if sim.get(node, key(number)).values != [value(number)] {
            missing.push(format!("key {number} by node {node}"));
        }
    }
    missing
}
