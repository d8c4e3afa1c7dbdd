//! Nodes that come and go while the others work.

use std::time::Duration;

use crate::sim::Simulation;

/// How often what happens, in events a minute over the whole network, each at random times.
#[derive(Debug, Clone, Copy, Default)]
pub struct Churn {
    /// New nodes.
    pub joins: f64,
    /// Nodes that say goodbye and stop.
    pub leaves: f64,
    /// Nodes that stop without a word.
    pub crashes: f64,
    /// Nodes that had stopped and start again, with nothing that they knew.
    pub restarts: f64,
}

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Join,
    Leave,
    Crash,
    Restart,
}

impl Churn {
    /// Up to one change a second in the mean, at rates from the simulation's seed.
    pub fn draw(sim: &mut Simulation) -> Self {
        let mut rate = || sim.random(16) as f64;
        Self { joins: rate(), leaves: rate(), crashes: rate(), restarts: rate() }
    }

    /// Runs for `span`, while nodes come and go. The last four never do.
    pub fn run(&self, sim: &mut Simulation, span: Duration) {
        let end = sim.now() + span;
        let changes = [
            (Change::Join, self.joins),
            (Change::Leave, self.leaves),
            (Change::Crash, self.crashes),
            (Change::Restart, self.restarts),
        ];
        let in_all: f64 = changes.iter().map(|(_, rate)| rate).sum();
        loop {
            // The time to the next of independent events is distributed exponentially.
            let gap = if in_all > 0.0 { -(1.0 - share(sim)).ln() / in_all * 60.0 } else { f64::INFINITY };
            let left = end.saturating_since(sim.now());
            if gap >= left.as_secs_f64() {
                sim.run_for(left);
                return;
            }
            sim.run_for(Duration::from_secs_f64(gap));
            let mut drawn = share(sim) * in_all;
            let change = changes.iter().find(|(_, rate)| {
                drawn -= rate;
                drawn < 0.0
            });
            if let Some((change, _)) = change {
                happen(sim, *change);
            }
        }
    }
}

fn happen(sim: &mut Simulation, change: Change) {
    let may_stop = sim.alive().take(5).count() == 5;
    match change {
        Change::Join => drop(sim.join_one()),
        Change::Leave | Change::Crash => {
            if let Some(node) = sim.some_alive().filter(|_| may_stop) {
                if change == Change::Leave { sim.leave(node) } else { sim.kill(node) }
            }
        }
        Change::Restart => {
            let stopped: Vec<usize> = (0..sim.len()).filter(|node| !sim.is_alive(*node)).collect();
            if !stopped.is_empty() {
                let node = stopped[sim.random(stopped.len())];
                sim.restart(node);
            }
        }
    }
}

/// From 0 up to, but without, 1.
fn share(sim: &mut Simulation) -> f64 {
    sim.random(1 << 52) as f64 / (1u64 << 52) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn nodes_come_and_go_at_the_given_rates() {
        let mut sim = Simulation::new(3, Config { diameters: Vec::new(), ..Config::default() });
        sim.settled(50);
        Churn { joins: 30.0, leaves: 10.0, crashes: 10.0, restarts: 0.0 }.run(&mut sim, Duration::from_secs(120));
        assert!((40..85).contains(&(sim.len() - 50)), "{} came", sim.len() - 50);
        let gone = sim.len() - sim.alive().count();
        assert!((20..65).contains(&gone), "{gone} went");
        Churn { restarts: 60.0, ..Churn::default() }.run(&mut sim, Duration::from_secs(300));
        assert_eq!(sim.alive().count(), sim.len());
    }
}
