//! The clients: at each node's site visitors, who want what is new, and a searcher, who wants what the node there has not.
//!
//! A client asks the node at its own site. If nobody listens there it goes on to the next nearest, and so on: nameservers name
//! live nodes, the nearest first, and while they still name one that has just died, a browser goes on to the next address.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coral::outcome::Outcome;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::super::chance::Chance;
use super::ledger::Ledger;
use crate::client::{self, Failure, Object};
use crate::interrupt::Interrupt;
use crate::map::{Map, Site};

/// What the clients of all sites share.
#[derive(Debug)]
pub(super) struct Load {
    /// First those that nodes hold one by one ([`ARCHIVED`] each), then those that are published, one a second.
    objects: Vec<Object>,
    archived: usize,
    seed: u64,
    is_over: AtomicBool,
    interrupt: Interrupt,
}

/// One request that has ended.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    /// The site of the node that was asked in the end.
    pub(super) node: u16,
    pub(super) begun: Duration,
    pub(super) ended: Duration,
    /// Nodes that were tried before, where nobody listened.
    pub(super) turned: usize,
    /// Whether another node held the object all the time: then it is to be found there.
    pub(super) is_search: bool,
    pub(super) answer: Result<Outcome, Error>,
}

/// What a client met instead of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Error {
    /// One word or two.
    pub(super) kind: String,
    /// All of it.
    pub(super) text: String,
}

/// A site from which clients ask.
#[derive(Debug, Clone)]
pub(super) struct Place {
    site: u16,
    /// Nodes with their addresses, nearest first: its own is the first.
    nodes: Arc<Vec<(u16, IpAddr)>>,
    load: Arc<Load>,
    ledger: Arc<Ledger>,
}

impl Load {
    /// For so many nodes, and a run that lasts no longer than `longest`.
    pub(super) fn new(run: &str, nodes: usize, longest: Duration, seed: u64, interrupt: Interrupt) -> Self {
        let archived = nodes * ARCHIVED;
        let published = NEW + longest.as_secs() as usize;
        let objects = client::objects(run, archived + published);
        Self { objects, archived, seed, is_over: AtomicBool::new(false), interrupt }
    }

    /// All clients are to end when they have their last answers.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Clients may ask again.
    pub(super) fn begin(&self) {
        self.is_over.store(false, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed) || self.interrupt.is_set()
    }

    /// What a visitor wants: one of the newest, and of these the newer ones more often.
    fn wanted(&self, now: Duration, chance: &mut Chance) -> usize {
        let newest = (self.archived + NEW - 1 + now.as_secs() as usize).min(self.objects.len() - 1);
        newest - chance.popular(NEW)
    }
}

impl Place {
    /// Where the node with this site stands.
    pub(super) fn new(map: &Map, site: &Site, load: &Arc<Load>, ledger: &Arc<Ledger>) -> Self {
        let mut nodes: Vec<&Site> = map.nodes().collect();
        let distance = |node: &&Site| (node.number != site.number).then(|| map.link(site, node).rtt());
        nodes.sort_by_key(distance);
        let nodes = nodes.iter().map(|node| (node.number, node.ipv4.into())).collect();
        Self { site: site.number, nodes: Arc::new(nodes), load: Arc::clone(load), ledger: Arc::clone(ledger) }
    }

    /// Lets the node of this site, which is the one with this index, have objects that no other has.
    pub(super) async fn archive(self, index: usize) -> Vec<Sample> {
        let own: Vec<usize> = (index * ARCHIVED..(index + 1) * ARCHIVED).collect();
        self.fetch_all(&own).await
    }

    /// Visits and searches until the load is over, and waits for the last answers.
    pub(super) async fn live(self) -> Vec<Sample> {
        let mut chance = Chance::new(self.load.seed, u64::from(self.site));
        let (mut visits, mut samples) = (JoinSet::new(), Vec::new());
        let mut search = JoinSet::new();
        // Clients are not to be in step.
        let begin = Instant::now() + VISITS.mul_f64(chance.share());
        let mut ticks = interval_at(begin, VISITS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut searches = interval_at(begin + SEARCHES.mul_f64(chance.share()), SEARCHES);
        searches.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.load.is_over() {
            tokio::select! {
                Some(Ok(sample)) = visits.join_next() => samples.push(sample),
                Some(Ok(sample)) = search.join_next() => samples.push(sample),
                _ = ticks.tick() => {
                    let object = self.load.wanted(self.ledger.now(), &mut chance);
                    // Who waits for so many answers asks for no more.
                    if visits.len() < MOST_AT_ONCE {
                        visits.spawn(self.clone().ask(object));
                    }
                }
                _ = searches.tick() => {
                    let is_free = search.is_empty() && self.ledger.is_up(self.site);
                    if let Some(object) = is_free.then(|| self.ledger.rare_elsewhere(self.site, &mut chance)).flatten() {
                        search.spawn(self.clone().ask(object));
                    }
                }
            }
        }
        samples.extend(visits.join_all().await);
        samples.extend(search.join_all().await);
        samples
    }

    /// Searches for everything that other nodes hold and the node of this site does not.
    pub(super) async fn find_everything(self) -> Vec<Sample> {
        let mut all = self.ledger.held_elsewhere(self.site);
        Chance::new(self.load.seed, u64::from(self.site)).shuffle(&mut all);
        self.fetch_all(&all).await
    }

    async fn fetch_all(&self, objects: &[usize]) -> Vec<Sample> {
        let (mut requests, mut samples) = (JoinSet::new(), Vec::new());
        for object in objects {
            if self.load.is_over() {
                break;
            }
            if requests.len() == FEW_AT_ONCE {
                samples.extend(requests.join_next().await.and_then(Result::ok));
            }
            requests.spawn(self.clone().ask(*object));
        }
        samples.extend(requests.join_all().await);
        samples
    }

    /// One request.
    async fn ask(self, index: usize) -> Sample {
        let begun = self.ledger.now();
        let was_held = self.ledger.is_held_elsewhere(self.site, index);
        let (mut turned, last) = (0, self.nodes.len() - 1);
        loop {
            let (node, address) = self.nodes[turned];
            let answer = match client::try_fetch(address, &self.load.objects[index]).await {
                Err(Failure::Connect(_)) if turned < last => {
                    turned += 1;
                    continue;
                }
                Ok(answer) => {
                    self.ledger.holds(node, index, begun);
                    Ok(answer.outcome)
                }
                Err(failure) => Err(Error::of(&failure)),
            };
            let is_search = turned == 0 && was_held && self.ledger.is_held_elsewhere(node, index);
            return Sample { node, begun, ended: self.ledger.now(), turned, is_search, answer };
        }
    }
}

impl Sample {
    /// How long the client waited.
    pub(super) fn took(&self) -> Duration {
        self.ended - self.begun
    }

    /// Whether another node had the object, and the asked one did not find it there.
    pub(super) fn is_missed(&self) -> bool {
        self.is_search && !matches!(self.answer, Ok(Outcome::Local | Outcome::Peer(_)))
    }
}

impl Error {
    fn of(failure: &Failure) -> Self {
        let kind = match failure {
            Failure::Connect(_) => "no node".to_owned(),
            Failure::Status(status) => status.as_u16().to_string(),
            Failure::BrokenOff(_) => "broken off".to_owned(),
            Failure::Altered => "altered".to_owned(),
            Failure::Late => "late".to_owned(),
        };
        Self { kind, text: failure.to_string() }
    }
}

/// Objects that each node holds alone at first.
const ARCHIVED: usize = 20;
/// How many of the newest objects visitors want.
const NEW: usize = 60;
/// Between two requests of the visitors at one site.
const VISITS: Duration = Duration::from_millis(500);
/// Between two requests of the searcher at one site.
const SEARCHES: Duration = Duration::from_secs(2);
/// Requests of one site's visitors under way.
const MOST_AT_ONCE: usize = 64;
/// Requests under way of one who wants many objects.
const FEW_AT_ONCE: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_wanted_most_and_what_nodes_hold_alone_is_not() {
        let load = Load::new("test", 2, Duration::from_secs(100), 1, Interrupt::default());
        let mut chance = Chance::new(1, 1);
        let wanted: Vec<usize> = (0..1000).map(|_| load.wanted(Duration::from_secs(30), &mut chance)).collect();
        let newest = load.archived + NEW - 1 + 30;
        assert_eq!(wanted.iter().max(), Some(&newest));
        assert!(wanted.iter().all(|object| *object >= load.archived && *object > newest - NEW));
        // 1 of 4.7.
        assert!((150..280).contains(&wanted.iter().filter(|object| **object == newest).count()));
        assert!(load.wanted(Duration::from_secs(1000), &mut chance) < load.objects.len());
    }

    #[test]
    fn a_client_asks_its_own_node_first_and_then_the_nearest() {
        let map = Map::four_regions();
        let ledger = Arc::new(Ledger::new(&map));
        let load = Arc::new(Load::new("test", 12, Duration::ZERO, 1, Interrupt::default()));
        let site = map.site("dallas-2").unwrap();
        let place = Place::new(&map, site, &load, &ledger);
        assert_eq!(place.nodes[0].0, site.number);
        let regions: Vec<usize> =
            place.nodes.iter().map(|(number, _)| map.sites()[usize::from(*number) - 1].region).collect();
        assert_eq!(regions[..6], [3, 3, 3, 2, 2, 2]);
    }
}
