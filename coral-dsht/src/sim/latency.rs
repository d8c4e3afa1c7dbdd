//! Round-trip times between simulated nodes: a synthetic map of regions.
//!
//! A node belongs to one of a few regions. Two nodes of a region are up to a few tens of milliseconds apart, two of
//! different regions up to a few hundred; both follow from coordinates on a plane, so that the triangle inequality
//! holds as far as it does on a map.

use std::time::Duration;

use rand_chacha::ChaCha12Rng;
use rand_core::{Rng as _, SeedableRng as _};

/// Where everybody is.
#[derive(Debug)]
pub struct Map {
    rng: ChaCha12Rng,
    regions: Vec<[f64; 2]>,
    /// How wide a region is, in milliseconds.
    width: f64,
    /// In milliseconds of round trip from the corner of the plane, and the delay of the node's own access line.
    places: Vec<([f64; 2], f64)>,
}

impl Map {
    /// An empty map of a single place: everybody is within a few milliseconds of everybody.
    pub fn one_place(seed: u64) -> Self {
        let mut map = Self::synthetic(seed);
        map.regions.truncate(1);
        map.width = 1.0;
        map
    }

    /// An empty map of ten regions on a plane 250 ms wide.
    pub fn synthetic(seed: u64) -> Self {
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        let regions = (0..REGIONS).map(|_| [WIDTH_MS * unit(&mut rng), WIDTH_MS * unit(&mut rng)]).collect();
        Self { rng, regions, width: REGION_MS, places: Vec::new() }
    }

    /// Gives the next node its place.
    pub fn place(&mut self) {
        let [x, y] = self.regions[(self.rng.next_u64() % self.regions.len() as u64) as usize];
        let mut around = |centre: f64| centre + self.width * (unit(&mut self.rng) - 0.5);
        let place = [around(x), around(y)];
        let access = 0.1 + unit(&mut self.rng);
        self.places.push((place, access));
    }

    /// The round-trip time between two nodes that have been placed.
    pub fn rtt(&self, a: usize, b: usize) -> Duration {
        let (([ax, ay], a_access), ([bx, by], b_access)) = (self.places[a], self.places[b]);
        let millis = (ax - bx).hypot(ay - by) + a_access + b_access;
        Duration::from_micros((millis * 1000.0) as u64)
    }
}

/// Uniform in [0, 1).
fn unit(rng: &mut ChaCha12Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

const REGIONS: u64 = 10;
const WIDTH_MS: f64 = 250.0;
const REGION_MS: f64 = 30.0;
