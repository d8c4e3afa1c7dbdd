//! Maps of measured distances: any of the 490 places between which PlanetLab's round trips are known.
//!
//! The matrix is the simulator's ([`coral_dsht::sim::latency`]), so that an experiment on sockets and one on virtual time
//! can stand on the same ground.

use std::collections::BTreeSet;
use std::time::Duration;

use coral_dsht::sim::latency::{SITES, between_sites};
use rand_chacha::ChaCha12Rng;
use rand_core::{Rng as _, SeedableRng as _};

use super::file::{Defaults, PlanetLabTable};
use super::{Access, Builder, Kind, Map, Region};

/// The map that `[planetlab]` describes.
pub(super) fn resolve(
    table: &PlanetLabTable,
    defaults: &Defaults,
    origin: Access,
    root: Access,
) -> Result<Map, String> {
    let mut drawn = shuffled(table.seed);
    let nodes = match (&table.places, table.sites) {
        (Some(_), Some(_)) => return Err("[planetlab]: `sites` and `places` are two ways to say the same".to_owned()),
        (Some(places), None) => {
            let known: BTreeSet<usize> = places.iter().copied().collect();
            if known.len() < places.len() {
                return Err("[planetlab]: a place is named twice".to_owned());
            }
            if let Some(place) = places.iter().find(|place| **place >= SITES) {
                return Err(format!("[planetlab]: there is no place {place}, the last is {}", SITES - 1));
            }
            drawn.retain(|place| !known.contains(place));
            places.clone()
        }
        (None, Some(sites)) => drawn.split_off(drawn.len().saturating_sub(sites)),
        (None, None) => return Err("[planetlab]: say how many `sites`, or which `places`".to_owned()),
    };
    if nodes.is_empty() || table.sites.is_some_and(|sites| sites > nodes.len()) {
        return Err(format!("[planetlab]: a map has from 1 to {SITES} sites"));
    }
    let mut grounds = Grounds { builder: Builder { regions: Vec::new(), sites: Vec::new() }, members: Vec::new() };
    let (node, client) = (defaults.access.access("[defaults]")?, defaults.client_access.access("[defaults]")?);
    for place in &nodes {
        grounds.add(*place, format!("node-{place}"), Kind::Node, node)?;
    }
    let mut free = drawn.into_iter();
    let mut next =
        || free.next().ok_or_else(|| "[planetlab]: no place is left for the origin, root and clients".to_owned());
    grounds.add(next()?, "origin".to_owned(), Kind::Origin, origin)?;
    grounds.add(next()?, "root".to_owned(), Kind::Root, root)?;
    for resolver in &table.clients {
        let place = next()?;
        grounds.add(place, format!("{resolver}-{place}"), Kind::Client(*resolver), client)?;
    }
    let places: Vec<usize> = grounds.members.iter().map(|(_, place)| *place).collect();
    let place_of = |number: u16| places[usize::from(number) - 1];
    grounds.builder.finish(|a, b| defaults.link(between_sites(place_of(a.number), place_of(b.number))))
}

/// Sites with their places, as they gather in regions.
struct Grounds {
    builder: Builder,
    /// Region and place of each site, by number.
    members: Vec<(usize, usize)>,
}

impl Grounds {
    /// Adds a site to the first region of which all are within [`ONE_REGION`] of it, or to a new one.
    fn add(&mut self, place: usize, name: String, kind: Kind, access: Access) -> Result<(), String> {
        let near = |region: &usize| {
            let mut members = self.members.iter().filter(|(of, _)| of == region);
            members.all(|(_, other)| between_sites(place, *other) <= ONE_REGION)
        };
        let region = (0..self.builder.regions.len()).find(near).unwrap_or_else(|| {
            self.builder.regions.push(Region { name: format!("place-{place}") });
            self.builder.regions.len() - 1
        });
        self.members.push((region, place));
        self.builder.add(name, kind, region, access)
    }
}

/// All places in an order that the seed decides (Fisher and Yates).
fn shuffled(seed: u64) -> Vec<usize> {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let mut places: Vec<usize> = (0..SITES).collect();
    for end in (1..SITES).rev() {
        places.swap(end, (rng.next_u64() % (end as u64 + 1)) as usize);
    }
    places
}

/// Hosts this near to one another stood at one university, behind one gateway.
const ONE_REGION: Duration = Duration::from_millis(3);
