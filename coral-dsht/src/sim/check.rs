//! What must hold over all nodes at once.

use crate::level::Level;
use crate::sim::Simulation;

/// The live node nearest to `key`, by its number: where a lookup ought to end.
pub fn nearest(sim: &Simulation, key: &crate::id::Key) -> Option<usize> {
    sim.alive().min_by_key(|(_, dsht)| dsht.me().id.distance(key)).map(|(number, _)| number)
}

/// The share of live nodes that know the live node nearest to them, which is what makes every lookup end where it should.
pub fn know_their_nearest(sim: &mut Simulation) -> f64 {
    let ids: Vec<_> = sim.alive().map(|(number, dsht)| (number, dsht.me().id)).collect();
    let now = sim.now();
    let mut knowing = 0;
    for (number, id) in &ids {
        let nearest = ids.iter().filter(|(other, _)| other != number).min_by_key(|(_, other)| id.distance(other));
        let snapshot = sim.act(*number, |dsht| dsht.snapshot(now));
        if nearest.is_none_or(|(_, nearest)| snapshot.neighbours.iter().any(|near| near.peer.id == *nearest)) {
            knowing += 1;
        }
    }
    f64::from(knowing) / ids.len().max(1) as f64
}

/// How many distinct clusters the live nodes are in at `level`.
pub fn clusters(sim: &mut Simulation, level: Level) -> usize {
    let numbers: Vec<usize> = sim.alive().map(|(number, _)| number).collect();
    let now = sim.now();
    let mut ids = std::collections::BTreeSet::new();
    for number in numbers {
        let snapshot = sim.act(number, |dsht| dsht.snapshot(now));
        ids.extend(snapshot.clusters.iter().filter(|status| status.level == level).map(|status| status.cluster));
    }
    ids.len()
}
