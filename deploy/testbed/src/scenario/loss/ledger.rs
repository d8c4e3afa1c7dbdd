//! What is up, what is cut off, and who holds what, as those know it who disturb the network and ask it for objects.
//!
//! A node that has given a client an object holds it, until it ends: its memory holds far more than a run asks for, and nothing
//! expires within an hour. So nobody has to be asked, and asking changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::super::chance::Chance;
use crate::map::{Map, Site};

/// All that is known. Times count from its making.
#[derive(Debug)]
pub(super) struct Ledger {
    start: Instant,
    /// The region of each node, by its site's number.
    regions: BTreeMap<u16, usize>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The nodes that run, and since when.
    up: BTreeMap<u16, Duration>,
    /// The region that is cut off.
    cut: Option<usize>,
    /// Who holds an object, by its index.
    held: BTreeMap<usize, BTreeSet<u16>>,
    /// When nodes were killed, the first and the last moment at which that can have been.
    kills: Vec<(u16, Duration, Duration)>,
    /// Regions that were cut off, from when to when.
    cuts: Vec<(usize, Duration, Duration)>,
}

impl Ledger {
    /// All nodes run, and none holds anything.
    pub(super) fn new(map: &Map) -> Self {
        let regions: BTreeMap<u16, usize> = map.nodes().map(|site| (site.number, site.region)).collect();
        let up = regions.keys().map(|number| (*number, Duration::ZERO)).collect();
        Self { start: Instant::now(), regions, state: Mutex::new(State { up, ..State::default() }) }
    }

    /// Since the start.
    pub(super) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node is about to end.
    pub(super) fn ends(&self, site: &Site) {
        let mut state = self.state();
        state.up.remove(&site.number);
        state.held.values_mut().for_each(|holders| {
            holders.remove(&site.number);
        });
    }

    /// A node was killed, not before `since`.
    pub(super) fn was_killed(&self, site: &Site, since: Duration) {
        let now = self.now();
        self.state().kills.push((site.number, since, now));
    }

    /// A node is about to start.
    pub(super) fn starts(&self, site: &Site) {
        let now = self.now();
        self.state().up.insert(site.number, now);
    }

    /// A region is about to be cut off.
    pub(super) fn is_cut(&self, region: usize) {
        let now = self.now();
        let mut state = self.state();
        state.cut = Some(region);
        state.cuts.push((region, now, Duration::MAX));
    }

    /// It no longer is.
    pub(super) fn is_healed(&self) {
        let now = self.now();
        let mut state = self.state();
        state.cut = None;
        if let Some(cut) = state.cuts.last_mut() {
            cut.2 = now;
        }
    }

    /// Whether the node of a site runs.
    pub(super) fn is_up(&self, site: u16) -> bool {
        self.state().up.contains_key(&site)
    }

    /// A client has got an object from a node that it asked at `begun`.
    pub(super) fn holds(&self, node: u16, object: usize, begun: Duration) {
        let mut state = self.state();
        // Not if it has been started anew since.
        if state.up.get(&node).is_some_and(|since| *since <= begun) {
            state.held.entry(object).or_default().insert(node);
        }
    }

    /// Whether a node that runs, other than this one, holds the object on this one's side of a cut.
    pub(super) fn is_held_elsewhere(&self, node: u16, object: usize) -> bool {
        let state = self.state();
        state.held.get(&object).is_some_and(|holders| self.has_other(&state, node, holders))
    }

    fn has_other(&self, state: &State, node: u16, holders: &BTreeSet<u16>) -> bool {
        let is_inside = |number| state.cut.is_some() && self.regions.get(number) == state.cut.as_ref();
        holders.iter().any(|holder| *holder != node && is_inside(holder) == is_inside(&node))
    }

    /// All objects that this node does not hold, but another one within reach.
    pub(super) fn held_elsewhere(&self, node: u16) -> Vec<usize> {
        let state = self.state();
        let wanted = (state.held.iter())
            .filter(|(_, holders)| !holders.contains(&node) && self.has_other(&state, node, holders))
            .map(|(object, _)| *object);
        wanted.collect()
    }

    /// One of them: any of those that the fewest nodes hold.
    pub(super) fn rare_elsewhere(&self, node: u16, chance: &mut Chance) -> Option<usize> {
        let all = self.held_elsewhere(node);
        let state = self.state();
        let holders = |object: &usize| state.held.get(object).map_or(0, BTreeSet::len);
        let fewest = all.iter().map(holders).min()?;
        let rare: Vec<usize> = all.into_iter().filter(|object| holders(object) == fewest).collect();
        rare.get(chance.below(rare.len())).copied()
    }

    /// How many objects some node holds that runs.
    pub(super) fn objects(&self) -> usize {
        self.state().held.values().filter(|holders| !holders.is_empty()).count()
    }

    /// Why a client who asked this node from `begun` to `ended` may have met an error, if the network promises nothing better.
    pub(super) fn excuse(&self, node: u16, begun: Duration, ended: Duration) -> Option<&'static str> {
        let state = self.state();
        if state.kills.iter().any(|(killed, from, to)| *killed == node && begun <= *to && ended >= *from) {
            return Some("its node was killed meanwhile");
        }
        let region = self.regions.get(&node);
        let cut = state.cuts.iter().find(|(of, _, _)| Some(of) == region);
        cut.filter(|(_, from, to)| begun <= to.saturating_add(FAILED) && ended >= *from)
            .map(|_| "its node was cut off from the origin")
    }
}

/// For so long after a cut a node may answer that the origin fails. A request that was lost in the cut is waited for up to
/// `proxy.origin.first_byte_timeout` (20 s), as TCP repeats it ever more seldom, and may so outlast the cut; and what it failed
/// to get is not asked for again for `proxy.origin.negative_ttl` (5 s).
const FAILED: Duration = Duration::from_secs(20 + 5);

#[cfg(test)]
mod tests {
    use super::*;

    fn number(map: &Map, name: &str) -> u16 {
        map.site(name).unwrap().number
    }

    #[test]
    fn what_a_dead_node_held_is_held_no_more() {
        let map = Map::four_regions();
        let ledger = Ledger::new(&map);
        let (a, b) = (number(&map, "frankfurt-1"), number(&map, "dallas-1"));
        ledger.holds(a, 7, ledger.now());
        assert!(ledger.is_held_elsewhere(b, 7) && !ledger.is_held_elsewhere(a, 7));
        assert_eq!(ledger.held_elsewhere(b), [7]);
        let asked = ledger.now();
        ledger.ends(map.site("frankfurt-1").unwrap());
        ledger.starts(map.site("frankfurt-1").unwrap());
        // The answer of the one that has gone.
        ledger.holds(a, 7, asked);
        assert!(!ledger.is_held_elsewhere(b, 7));
        assert_eq!(ledger.objects(), 0);
    }

    #[test]
    fn nobody_finds_what_is_beyond_a_cut() {
        let map = Map::four_regions();
        let ledger = Ledger::new(&map);
        let (a, b, c) = (number(&map, "frankfurt-1"), number(&map, "frankfurt-2"), number(&map, "dallas-1"));
        ledger.holds(a, 1, ledger.now());
        ledger.is_cut(map.region("frankfurt").unwrap());
        assert!(ledger.is_held_elsewhere(b, 1) && !ledger.is_held_elsewhere(c, 1));
        let during = ledger.now();
        assert!(ledger.excuse(b, during, during).is_some() && ledger.excuse(c, during, during).is_none());
        ledger.is_healed();
        assert!(ledger.is_held_elsewhere(c, 1));
        let later = ledger.now() + FAILED + Duration::from_secs(1);
        assert!(ledger.excuse(b, later, later).is_none());
    }

    #[test]
    fn only_who_was_killed_meanwhile_is_excused() {
        let map = Map::four_regions();
        let ledger = Ledger::new(&map);
        let (since, node) = (ledger.now(), number(&map, "dallas-1"));
        ledger.was_killed(map.site("dallas-1").unwrap(), since);
        let after = ledger.now() + Duration::from_secs(1);
        assert!(ledger.excuse(node, Duration::ZERO, after).is_some());
        assert!(ledger.excuse(node, after, after).is_none());
        assert!(ledger.excuse(number(&map, "dallas-2"), Duration::ZERO, after).is_none());
    }
}
