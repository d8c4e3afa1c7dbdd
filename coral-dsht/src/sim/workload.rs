//! Who asks for what: keys in the order of their popularity, and the crowd that puts one key.

use std::time::Duration;

use crate::api::Value;
use crate::id::{Id, Key};
use crate::level::Levels;
use crate::sim::Simulation;

/// The key with this number; nothing but the number is in it.
pub fn key(number: usize) -> Key {
    Id::hash(&[b"key", &(number as u64).to_be_bytes()])
}

/// What node `number` puts: a value that tells it from all others.
pub fn value(number: usize) -> Value {
    Value::new(&(number as u64).to_be_bytes()).expect("eight bytes are a short value")
}

/// How often each of a number of keys is asked for.
#[derive(Debug, Clone)]
pub struct Popularity {
    /// The share of all requests that go to this key or one before it.
    up_to: Vec<f64>,
}

impl Popularity {
    /// Each as often as any other.
    pub fn uniform(keys: usize) -> Self {
        Self::zipf(keys, 0.0)
    }

    /// The k-th key as often as k^-`exponent`: near 0.8 for what browsers ask a cache for.
    pub fn zipf(keys: usize, exponent: f64) -> Self {
        let weights: Vec<f64> = (1..=keys).map(|rank| (rank as f64).powf(-exponent)).collect();
        let in_all: f64 = weights.iter().sum();
        let mut sum = 0.0;
        let up_to = weights.iter().map(|weight| {
            sum += weight / in_all;
            sum
        });
        Self { up_to: up_to.collect() }
    }

    /// The number of the key that is asked for next.
    pub fn draw(&self, sim: &mut Simulation) -> usize {
        let drawn = sim.random(1 << 52) as f64 / (1u64 << 52) as f64;
        self.up_to.partition_point(|up_to| *up_to <= drawn).min(self.up_to.len() - 1)
    }
}

/// How often the nodes put a key that they all put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// So many a minute of each key in all, by random nodes.
    InAll(u32),
    /// Each node once in this time, but not all at once.
    Each(Duration),
}

/// Runs for `span`, in which all live nodes put each of `keys` at the levels `levels`; after each second tells `watch`.
///
/// Outcomes are not kept.
pub fn all_put(
    sim: &mut Simulation,
    keys: &[Key],
    pace: Pace,
    levels: Levels,
    span: Duration,
    mut watch: impl FnMut(&mut Simulation),
) {
    let mut owed = vec![0.0; keys.len()];
    for tick in 0..span.as_millis() as u64 / TICK_MS {
        for (key, owed) in keys.iter().zip(&mut owed) {
            let putting: Vec<usize> = match pace {
                Pace::InAll(per_minute) => {
                    *owed += f64::from(per_minute) * TICK_MS as f64 / 60_000.0;
                    let due = *owed as usize;
                    *owed -= due as f64;
                    (0..due).filter_map(|_| sim.some_alive()).collect()
                }
                Pace::Each(period) => {
                    let ticks = (period.as_millis() as u64 / TICK_MS).max(1);
                    let turn = |node: &usize| *node as u64 % ticks == tick % ticks;
                    sim.alive().map(|(node, _)| node).filter(turn).collect()
                }
            };
            for node in putting {
                let now = sim.now();
                sim.act(node, |dsht| dsht.put(now, *key, value(node), TTL, levels));
            }
        }
        sim.run_for(Duration::from_millis(TICK_MS));
        if (tick + 1) % (1000 / TICK_MS) == 0 {
            sim.ended();
            watch(sim);
        }
    }
}

/// Puts are spread over time in steps of this.
const TICK_MS: u64 = 50;
/// What is put lives as long as a reference to a complete object.
const TTL: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::level::Level;

    #[test]
    fn the_first_key_is_the_most_popular_and_uniform_ones_are_alike() {
        let mut sim = Simulation::new(1, Config::default());
        let mut share =
            |popularity: Popularity, key: usize| (0..10_000).filter(|_| popularity.draw(&mut sim) == key).count();
        assert!((900..1100).contains(&share(Popularity::uniform(10), 9)));
        // 1 / (1 + 1/2 + … + 1/10) = 34 %, and a tenth of that for the last.
        assert!((3200..3650).contains(&share(Popularity::zipf(10, 1.0), 0)));
        assert!((270..420).contains(&share(Popularity::zipf(10, 1.0), 9)));
    }

    #[test]
    fn a_pace_is_kept() {
        let mut sim = Simulation::new(1, Config { diameters: Vec::new(), ..Config::default() });
        sim.settled(20);
        let puts = |sim: &mut Simulation, pace| {
            let count = |sim: &Simulation| -> u64 {
                sim.alive().map(|(_, dsht)| dsht.stats().puts_stored + dsht.stats().puts_held_back).sum()
            };
            let before = count(sim);
            let minute = Duration::from_secs(60);
            all_put(sim, &[key(0), key(1)], pace, Levels::only(Level::GLOBAL), minute, |_| {});
            count(sim) - before
        };
        assert!((230..=240).contains(&puts(&mut sim, Pace::InAll(120))));
        assert!((2350..=2400).contains(&puts(&mut sim, Pace::Each(Duration::from_secs(1)))));
    }
}
