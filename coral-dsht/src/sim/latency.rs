//! Round-trip times between simulated nodes: as measured on PlanetLab, or made up on a plane.
//!
//! The measured ones have what no plane has: detours (the triangle inequality is broken in 6 % of all triples), and
//! sites with many nodes beside sites with one. Their origin and licence are in `data/README.md`. On a plane a node
//! belongs to one of a few regions; two of a region are up to a few tens of milliseconds apart, two of different regions
//! up to a few hundred.

use std::time::Duration;

use rand_chacha::ChaCha12Rng;
use rand_core::{Rng as _, SeedableRng as _};

/// Where everybody is. It grows by a few bytes for each node, never by the square of their number.
#[derive(Debug)]
pub struct Map {
    rng: ChaCha12Rng,
    ground: Ground,
    places: Vec<Place>,
}

#[derive(Debug)]
enum Ground {
    /// The centres of the regions and how wide each is, in milliseconds of round trip.
    Plane {
        regions: Vec<[f64; 2]>,
        width: f64,
    },
    PlanetLab,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    spot: Spot,
    /// What the node's own line adds to each round trip.
    access: Duration,
}

#[derive(Debug, Clone, Copy)]
enum Spot {
    /// In milliseconds of round trip from the corner of the plane.
    Point([f64; 2]),
    /// A number below [`SITES`].
    Site(u16),
}

impl Map {
    /// An empty map of a single place: everybody is within a few milliseconds of everybody.
    pub fn one_place(seed: u64) -> Self {
        let mut map = Self::synthetic(seed);
        if let Ground::Plane { regions, width } = &mut map.ground {
            regions.truncate(1);
            *width = 1.0;
        }
        map
    }

    /// An empty map of ten regions on a plane 250 ms wide.
    pub fn synthetic(seed: u64) -> Self {
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        let regions = (0..REGIONS).map(|_| [WIDTH_MS * unit(&mut rng), WIDTH_MS * unit(&mut rng)]).collect();
        Self { rng, ground: Ground::Plane { regions, width: REGION_MS }, places: Vec::new() }
    }

    /// An empty map of the places of 490 PlanetLab nodes. The first 490 nodes get one each, the others a random one, each
    /// with a line of its own of 0.2 to 2 ms.
    pub fn planetlab(seed: u64) -> Self {
        Self { rng: ChaCha12Rng::seed_from_u64(seed), ground: Ground::PlanetLab, places: Vec::new() }
    }

    /// Gives the next node its place.
    pub fn place(&mut self) {
        let place = match &self.ground {
            Ground::Plane { regions, width } => {
                let [x, y] = regions[(self.rng.next_u64() % regions.len() as u64) as usize];
                let mut around = |centre: f64| centre + width * (unit(&mut self.rng) - 0.5);
                let spot = Spot::Point([around(x), around(y)]);
                Place { spot, access: millis(0.1 + unit(&mut self.rng)) }
            }
            Ground::PlanetLab => {
                let random = (self.rng.next_u64() % SITES as u64) as usize;
                let site = if self.places.len() < SITES { self.places.len() } else { random };
                Place { spot: Spot::Site(site as u16), access: millis(0.2 + 1.8 * unit(&mut self.rng)) }
            }
        };
        self.places.push(place);
    }

    /// The round-trip time between two nodes that have been placed.
    pub fn rtt(&self, a: usize, b: usize) -> Duration {
        let (a, b) = (self.places[a], self.places[b]);
        let between = match (a.spot, b.spot) {
            (Spot::Point([ax, ay]), Spot::Point([bx, by])) => millis((ax - bx).hypot(ay - by)),
            (Spot::Site(a), Spot::Site(b)) => between_sites(a.into(), b.into()),
            (Spot::Point(_), Spot::Site(_)) | (Spot::Site(_), Spot::Point(_)) => {
                unreachable!("all nodes of a map stand on the same ground")
            }
        };
        between + a.access + b.access
    }
}

/// How many places the measured map has.
pub const SITES: usize = 490;

/// The round-trip time measured between two of the [`SITES`] places of the PlanetLab map; 0.3 ms within one.
///
/// # Panics
///
/// If there is no such place.
pub fn between_sites(a: usize, b: usize) -> Duration {
    if a == b {
        return Duration::from_micros(300);
    }
    let (row, column) = (a.min(b), a.max(b));
    // The rows before this one are SITES - 1, SITES - 2, … long.
    let before = row * (2 * SITES - row - 1) / 2;
    let index = 2 * (before + column - row - 1);
    Duration::from_micros(UNIT_MICROS * u64::from(u16::from_le_bytes([PLANETLAB[index], PLANETLAB[index + 1]])))
}

/// The upper triangle, row by row, in units of [`UNIT_MICROS`].
static PLANETLAB: &[u8; SITES * (SITES - 1)] = include_bytes!("../../data/planetlab490.bin");
const UNIT_MICROS: u64 = 20;

fn millis(millis: f64) -> Duration {
    Duration::from_micros((millis * 1000.0) as u64)
}

/// Uniform in [0, 1).
fn unit(rng: &mut ChaCha12Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

const REGIONS: u64 = 10;
const WIDTH_MS: f64 = 250.0;
const REGION_MS: f64 = 30.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_measured_times_are_those_that_the_readme_of_the_data_names() {
        let mut times: Vec<Duration> =
            (0..SITES).flat_map(|a| (a + 1..SITES).map(move |b| between_sites(a, b))).collect();
        times.sort();
        let share_below = |ms| {
            let below = times.partition_point(|time| *time < Duration::from_millis(ms));
            format!("{:.2} %", 100.0 * below as f64 / times.len() as f64)
        };
        assert_eq!(times[times.len() / 2], Duration::from_micros(133_900));
        assert_eq!([share_below(60), share_below(20)], ["25.31 %", "5.51 %"]);
        assert_eq!(times.last(), Some(&Duration::from_micros(675_180)));
        assert_eq!(between_sites(489, 0), between_sites(0, 489));
    }

    #[test]
    fn the_first_490_nodes_have_a_place_each_and_the_next_share_one() {
        let mut map = Map::planetlab(1);
        for _ in 0..2 * SITES {
            map.place();
        }
        let lines = Duration::from_micros(400)..=Duration::from_millis(4);
        for other in 1..SITES {
            assert!(lines.contains(&(map.rtt(0, other) - between_sites(0, other))));
        }
        let shared = |node| (0..SITES).any(|first| map.rtt(node, first) <= Duration::from_micros(4300));
        assert!((SITES..2 * SITES).all(shared));
    }
}
