//! Who can be named in an answer: the live proxies of each level and the live nameservers, through [`DshtHandle`].
//!
//! The index hands out only nodes that it has itself heard from lately, so a dead one stays here for a refresh at most.
//! One task asks, every [`Config::refresh`]; queries read what it found last and never wait for the index. What has
//! become too old is not read any more: the node then knows only itself.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use coral_dsht::{DshtHandle, Level, NodesQuery, Peer, Services, Stopped};
use tokio::time::{Instant, MissedTickBehavior};

use crate::config::Config;
use crate::metrics::{LevelLabels, Metrics};
use crate::{NAMESERVER, PROXY};

/// Members asked for at each level: many more than an answer holds, so that the load spreads.
const MEMBERS: usize = 64;

/// The live nodes that this one may name, itself included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// This node's levels, the nearest first.
    pub levels: Vec<LevelTable>,
    /// Addresses of nameservers, each once.
    pub nameservers: Vec<IpAddr>,
}

/// One level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LevelTable {
    /// Which.
    pub level: Level,
    /// The round-trip time within which its members are; `None` for the global one.
    pub diameter: Option<Duration>,
    /// Addresses of proxies, each once, sorted.
    pub proxies: Vec<IpAddr>,
    /// Addresses of nameservers, likewise.
    pub nameservers: Vec<IpAddr>,
}

impl Table {
    /// What a node knows that knows only itself.
    pub fn alone(me: Peer) -> Self {
        Self {
            levels: vec![LevelTable {
                level: Level::GLOBAL,
                diameter: None,
                proxies: with_myself(me, PROXY, []),
                nameservers: with_myself(me, NAMESERVER, []),
            }],
            nameservers: with_myself(me, NAMESERVER, []),
        }
    }

    /// The least diameter: who is nearer than that is as near as can be. Zero with the global level alone.
    pub fn nearest(&self) -> Duration {
        self.levels.iter().filter_map(|level| level.diameter).min().unwrap_or_default()
    }

    /// The largest diameter: who is farther than that is anywhere. Zero with the global level alone.
    pub fn widest(&self) -> Duration {
        self.levels.iter().filter_map(|level| level.diameter).max().unwrap_or_default()
    }

    /// What is known of one level; `None` for one that this node has no cluster at.
    pub fn level(&self, level: Level) -> Option<&LevelTable> {
        self.levels.iter().find(|table| table.level == level)
    }
}

/// The last table, with its age. Clones show the same one.
#[derive(Debug, Clone)]
pub struct Candidates {
    me: Peer,
    /// What it offers at this moment: less, when it is about to leave.
    offers: Arc<AtomicU16>,
    max_age: Duration,
    alone: Arc<Table>,
    /// Readers look at a number first, and copy the pointer only when it has changed.
    version: Arc<AtomicU64>,
    latest: Arc<RwLock<(Instant, Arc<Table>)>>,
}

/// A table as one reader has seen it last.
#[derive(Debug)]
pub struct Seen {
    version: Option<u64>,
    at: Instant,
    table: Arc<Table>,
}

impl Default for Seen {
    fn default() -> Self {
        Self { version: None, at: Instant::now(), table: Arc::default() }
    }
}

impl Candidates {
    /// Those of the node `me`, which knows nobody else yet.
    pub fn new(me: Peer, max_age: Duration, now: Instant) -> Self {
        let alone = Arc::new(Table::alone(me));
        let offers = Arc::new(AtomicU16::new(me.services.bits()));
        Self {
            me,
            offers,
            max_age,
            version: Arc::default(),
            latest: Arc::new(RwLock::new((now, Arc::clone(&alone)))),
            alone,
        }
    }

    /// Brings `seen` up to date and returns the table to answer from at `now`: for who asks very often.
    pub fn look<'s>(&'s self, now: Instant, seen: &'s mut Seen) -> &'s Table {
        let version = self.version.load(Ordering::Acquire);
        if seen.version != Some(version) {
            let latest = self.latest.read().unwrap_or_else(PoisonError::into_inner);
            *seen = Seen { version: Some(version), at: latest.0, table: Arc::clone(&latest.1) };
        }
        if now.saturating_duration_since(seen.at) <= self.max_age { &seen.table } else { &self.alone }
    }

    /// What this node offers, as far as it is not about to leave.
    pub fn offers(&self) -> Services {
        Services::from_bits(self.offers.load(Ordering::Relaxed))
    }

    /// The table to answer from at `now`.
    pub fn table(&self, now: Instant) -> Arc<Table> {
        // The lock is held for a copy of a pointer, and nothing under it can panic.
        let latest = self.latest.read().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(latest.0) <= self.max_age {
            Arc::clone(&latest.1)
        } else {
            Arc::clone(&self.alone)
        }
    }

    pub(crate) fn set(&self, now: Instant, table: Table) {
        *self.latest.write().unwrap_or_else(PoisonError::into_inner) = (now, Arc::new(table));
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Asks the index once, for at most as long as an old table may be used.
    pub async fn refresh(&self, dsht: &DshtHandle, metrics: &Metrics) -> Result<(), Stopped> {
        let asked = Instant::now();
        let Ok(answer) = tokio::time::timeout(self.max_age, ask(self.me, dsht)).await else {
            tracing::debug!("the index did not say in time who is alive");
            return Ok(());
        };
        let (offers, table) = answer?;
        self.offers.store(offers.bits(), Ordering::Relaxed);
        for level in &table.levels {
            let labels = LevelLabels { level: u32::from(level.level.number()) };
            let count = i64::try_from(level.proxies.len()).unwrap_or(i64::MAX);
            metrics.candidates.get_or_create(&labels).set(count);
        }
        // Its age counts from before the question: the index may have answered early and been read late.
        self.set(asked, table);
        Ok(())
    }

    /// Asks the index again and again, until it has stopped.
    pub async fn keep_fresh(self, dsht: DshtHandle, config: Arc<Config>, metrics: Metrics) {
        // An interval of zero would never let anything else run.
        let mut ticks = tokio::time::interval(config.refresh.max(Duration::from_millis(10)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        loop {
            ticks.tick().await;
            if let Err(stopped) = self.refresh(&dsht, &metrics).await {
                tracing::warn!(%stopped, "names are answered with this node alone from now on");
                return;
            }
        }
    }
}

/// What this node offers, as the index tells others, and who is alive.
async fn ask(me: Peer, dsht: &DshtHandle) -> Result<(Services, Table), Stopped> {
    let snapshot = dsht.snapshot().await?;
    let leaving = Peer { services: snapshot.me.services, ..me };
    let members = |level, services| dsht.nodes(NodesQuery { level, count: MEMBERS, target: None, services });
    let mut levels = Vec::new();
    for cluster in snapshot.clusters {
        let mut addresses = [Vec::new(), Vec::new()];
        for (addresses, service) in addresses.iter_mut().zip([PROXY, NAMESERVER]) {
            let members = members(cluster.level, service).await?;
            let others: Vec<IpAddr> = members.iter().map(|neighbour| neighbour.peer.addr.ip()).collect();
            // Who leaves names others; if there are none, itself is better than nobody.
            let me = if others.is_empty() && cluster.level == Level::GLOBAL { me } else { leaving };
            *addresses = with_myself(me, service, others);
        }
        let [proxies, nameservers] = addresses;
        levels.push(LevelTable { level: cluster.level, diameter: cluster.diameter, proxies, nameservers });
    }
    levels.sort_by_key(|level| std::cmp::Reverse(level.level));
    let nameservers = levels.last().map(|global| global.nameservers.clone()).unwrap_or_default();
    Ok((leaving.services, Table { levels, nameservers }))
}

/// The addresses at which `service` is found, this node's among them if it offers it: each once, and none that nobody
/// could connect to.
fn with_myself(me: Peer, service: Services, others: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
    let myself = me.services.contains(service).then_some(me.addr.ip());
    let mut addresses: Vec<IpAddr> = myself
        .into_iter()
        .chain(others)
        .map(|ip| ip.to_canonical())
        .filter(|ip| crate::proximity::is_unicast(*ip))
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

#[cfg(test)]
mod tests {
    use coral_dsht::memory::MemoryNetwork;
    use prometheus_client::registry::Registry;

    use super::*;

    fn peer(addr: &str, services: Services) -> Peer {
        Peer::new(addr.parse().unwrap(), services)
    }

    fn metrics() -> Metrics {
        Metrics::register(&mut Registry::default())
    }

    #[tokio::test(start_paused = true)]
    async fn each_address_comes_once_and_only_for_what_it_offers() {
        let network = MemoryNetwork::new();
        let me = peer("192.0.2.1:4000", PROXY | NAMESERVER);
        let handle = network.node(me);
        let _proxy = network.node(peer("192.0.2.2:4000", PROXY));
        let _twin = network.node(peer("192.0.2.2:4001", PROXY));
        let _nameserver = network.node(peer("192.0.2.3:4000", NAMESERVER));
        let _nowhere = network.node(peer("0.0.0.0:4000", PROXY | NAMESERVER));
        let candidates = Candidates::new(me, Duration::from_secs(10), Instant::now());
        candidates.refresh(&handle, &metrics()).await.unwrap();
        let table = candidates.table(Instant::now());
        let ips = |text: &str| text.split(' ').map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        assert_eq!(table.levels[0].proxies, ips("192.0.2.1 192.0.2.2"));
        assert_eq!(table.nameservers, ips("192.0.2.1 192.0.2.3"));
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_names_others_and_is_named_by_none_unless_there_is_nobody_else() {
        let network = MemoryNetwork::new();
        let [me, other] = ["192.0.2.1:4000", "192.0.2.2:4000"].map(|addr| peer(addr, PROXY | NAMESERVER));
        let [mine, others] = [me, other].map(|peer| network.node(peer));
        let proxies = async |handle: &DshtHandle, me: Peer| {
            let candidates = Candidates::new(me, Duration::from_secs(10), Instant::now());
            candidates.refresh(handle, &metrics()).await.unwrap();
            (candidates.table(Instant::now()).levels[0].proxies.clone(), candidates.offers())
        };
        let (here, there): (IpAddr, IpAddr) = (me.addr.ip(), other.addr.ip());
        assert_eq!(proxies(&mine, me).await, (vec![here, there], PROXY | NAMESERVER));
        mine.set_services(Services::NONE).await.unwrap();
        assert_eq!(proxies(&mine, me).await, (vec![there], Services::NONE));
        assert_eq!(proxies(&others, other).await.0, [there]);
        others.set_services(Services::NONE).await.unwrap();
        assert_eq!(proxies(&mine, me).await.0, [here], "better than nobody");
    }

    #[tokio::test(start_paused = true)]
    async fn an_index_that_does_not_answer_leaves_the_node_with_itself() {
        let me = peer("192.0.2.1:4000", PROXY);
        let network = MemoryNetwork::new();
        let handle = network.node(me);
        let _other = network.node(peer("192.0.2.2:4000", PROXY));
        let candidates = Candidates::new(me, Duration::from_secs(10), Instant::now());
        candidates.refresh(&handle, &metrics()).await.unwrap();
        assert_eq!(candidates.table(Instant::now()).levels[0].proxies.len(), 2);

        let (silent, _unread) = DshtHandle::channel(1);
        candidates.refresh(&silent, &metrics()).await.unwrap();
        assert_eq!(candidates.table(Instant::now()).levels[0].proxies.len(), 2);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(*candidates.table(Instant::now()), Table::alone(me));
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_ends_with_the_index() {
        let (stopped, requests) = DshtHandle::channel(1);
        drop(requests);
        let candidates = Candidates::new(peer("192.0.2.1:4000", PROXY), Duration::from_secs(10), Instant::now());
        candidates.keep_fresh(stopped, Arc::default(), metrics()).await;
    }
}
