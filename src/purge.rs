//! Purges of the whole network: who may, and how the other nodes hear of it.
//!
//! It lives here and not in the cache, since whom a node obeys is its operator's configuration, and only here do the cache and
//! the index meet. An operator's purge goes to all nodes as a signed *order*, and each obeys it if it knows the operator. What
//! the owner of a site has purged nobody's signature tells: nodes hear only that there is something, and each asks the origin.
//! What is not so is not passed on. What a purge does is the cache's affair ([`coral_proxy::purge`]), the bytes are [`order`]'s.

pub mod key;
pub mod order;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use coral_dsht::{Announced, DshtHandle, MAX_KEEP};
use coral_proxy::url::Origin;
use coral_proxy::{Pattern, Proxy, PurgedBy};
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::config;
use key::{Key, Operator};
use order::{Announcement, Order};

/// Origins whose owners have purged something, on their way to other nodes. While more wait, owners are told to come again.
const WAITING: usize = 64;

/// Between two of them: an announcement costs every node something.
const PAUSE: Duration = Duration::from_millis(100);

/// How long the reading of an owner's file may hold up what else is announced; then the news goes no further from here.
const DECIDE: Duration = Duration::from_secs(5);

/// Nodes ask an origin within this time, and not in the same instant.
const SPREAD: Duration = Duration::from_secs(2);

/// Who hears of a purge so late has just joined, and is alone.
const LATE: Duration = Duration::from_secs(30);

/// How long after a file could not be read it is tried once more, and how many files may wait for that.
const AGAIN: Duration = Duration::from_secs(20);
const FAILED: usize = 64;

/// So much may clocks of nodes differ without an order's being obeyed at a wrong time.
const CLOCKS: Duration = Duration::from_secs(5 * 60);

/// An order from so far in the future is of a clock that is wrong, and could be repeated until then.
const AHEAD: Duration = Duration::from_secs(60 * 60);

/// What a node purges, and has others purge.
#[derive(Debug)]
pub(crate) struct Purger {
    proxy: Option<Proxy>,
    dsht: DshtHandle,
    trust: Mutex<Trust>,
    owners: Mutex<Option<mpsc::Receiver<String>>>,
}

/// Whose orders are obeyed, and with what this node's own are signed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trust {
    key: Option<Arc<Key>>,
    operators: Vec<Operator>,
}

impl Trust {
    /// What the configuration comes to. Fails if its key cannot be used.
    pub(crate) fn of(config: &config::Purge) -> anyhow::Result<Self> {
        let key = config.key.as_deref().map(Key::read).transpose()?.map(Arc::new);
        Ok(Self { key, operators: config.operators.clone() })
    }
}

/// What became of an operator's purge.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Done {
    /// What was purged, canonical.
    purged: Vec<String>,
    /// Whether the other nodes are told.
    network: bool,
    /// Why they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'static str>,
}

impl Purger {
    /// Fails if the key of the configuration cannot be used.
    pub(crate) fn new(config: &config::Purge, proxy: Option<Proxy>, dsht: DshtHandle) -> anyhow::Result<Arc<Self>> {
        let (tell, owners) = mpsc::channel(WAITING);
        if let Some(proxy) = &proxy {
            proxy.watch_owners(tell);
        }
        let trust = Mutex::new(Trust::of(config)?);
        Ok(Arc::new(Self { proxy, dsht, trust, owners: Mutex::new(Some(owners)) }))
    }

    /// From now on signs and obeys so.
    pub(crate) fn trust(&self, trust: Trust) {
        *self.lock() = trust;
    }

    /// Each change is one assignment, so a panic leaves it whole.
    fn lock(&self) -> std::sync::MutexGuard<'_, Trust> {
        self.trust.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The patterns of an operator, a line each; or what is wrong with one.
    pub(crate) fn patterns(&self, text: &str) -> anyhow::Result<Vec<Pattern>> {
        let proxy = self.proxy.as_ref().ok_or_else(|| anyhow::anyhow!("this node runs no cache: ask one that does"))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        Ok(lines.map(|line| proxy.pattern(line)).collect::<Result<_, _>>()?)
    }

    /// Counts a purge that was refused to somebody at the admin address.
    pub(crate) fn refused(&self) {
        if let Some(proxy) = &self.proxy {
            proxy.refused_purge(PurgedBy::Operator);
        }
    }

    /// Purges for the operator of this node, and `here` alone or at all nodes that know him.
    pub(crate) async fn purge(&self, patterns: &[Pattern], here: bool) -> Done {
        let now = SystemTime::now();
        let purged: Vec<String> = patterns.iter().map(ToString::to_string).collect();
        if let Some(proxy) = &self.proxy {
            proxy.purge(patterns, now, PurgedBy::Operator).await;
        }
        let key = self.lock().key.clone();
        let (network, note) = match key {
            _ if here => (false, None),
            None => (false, Some("`purge.key` is not set, so no other node would obey")),
            Some(key) => {
                let mut is_told = true;
                for order in order::orders(&key, now, &purged) {
                    is_told &= self.dsht.announce(order, MAX_KEEP).await.is_ok();
                }
                (is_told, (!is_told).then_some("the index has stopped"))
            }
        };
        tracing::info!(?purged, network, "purged by the operator");
        Done { purged, network, note }
    }

    /// Tells other nodes what owners have purged, and hears what others tell, until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: impl Future<Output = ()>) {
        let Some(mut owners) = self.owners.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        let telling = async {
            while let Some(origin) = owners.recv().await {
                let announcement = order::owner(&origin, SystemTime::now());
                if self.dsht.announce(announcement, MAX_KEEP).await.is_err() {
                    return;
                }
                sleep(PAUSE).await;
            }
        };
        let both = async { tokio::join!(telling, self.hear()) };
        tokio::select! {
            () = stop => {}
            _ = both => std::future::pending().await,
        }
    }

    async fn hear(&self) {
        let Ok(mut announcements) = self.dsht.announcements().await else {
            return;
        };
        // Those whose files are being read: the index waits while a few are not decided.
        let mut reading = JoinSet::new();
        let failed = Arc::new(Semaphore::new(FAILED));
        while let Some(announced) = announcements.recv().await {
            while reading.try_join_next().is_some() {}
            match order::decode(&announced.message) {
                Ok(Announcement::Order(order)) => self.order(&order, announced).await,
                Ok(Announcement::Owner(origin)) => {
                    if let Some(proxy) = self.proxy.clone() {
                        reading.spawn(read_owner(proxy, origin, announced, Arc::clone(&failed)));
                    }
                }
                Err(error) => {
                    tracing::debug!(?error, "an announcement is not understood");
                    self.refuse();
                }
            }
        }
    }

    fn refuse(&self) {
        if let Some(proxy) = &self.proxy {
            proxy.refused_purge(PurgedBy::Order);
        }
    }

    /// Obeys an order, if it is one of an operator that this node knows.
    async fn order(&self, order: &Order, announced: Announced) {
        let operator = order.operator.short();
        if !self.lock().operators.contains(&order.operator) {
            tracing::warn!(operator, "a purge of an operator whom this node does not know");
            return self.refuse();
        }
        let Some(time) = obeyed_at(order.time, announced.age, SystemTime::now()) else {
            tracing::warn!(
                operator,
                "a purge from another time: the clock of this node, or of that operator's, is wrong"
            );
            return self.refuse();
        };
        if let Some(proxy) = &self.proxy {
            // Of what this node could not have cached it has nothing to purge.
            let patterns: Vec<Pattern> = order.patterns.iter().filter_map(|text| proxy.pattern(text).ok()).collect();
            proxy.purge(&patterns, time, PurgedBy::Order).await;
            tracing::info!(operator, purged = ?order.patterns, "purged by order of an operator");
        }
        announced.pass_on(MAX_KEEP);
    }
}

/// When an order of `signed`, of which the index says that it is so old, is obeyed: what was sent until then is purged. `None` if it is
/// too old, so that it is repeated, or too new.
///
/// It is the moment at which it was made, by this node's clock, as far as can be told. Whoever carries an order can lie about its age,
/// but neither make it older than it says, nor newer than clocks differ.
fn obeyed_at(signed: SystemTime, age: Duration, now: SystemTime) -> Option<SystemTime> {
    let is_old = now.duration_since(signed).is_ok_and(|since| since > MAX_KEEP + AHEAD);
    let is_new = signed.duration_since(now).is_ok_and(|until| until > AHEAD);
    let latest = signed.checked_add(CLOCKS)?;
    let by_age = now.checked_sub(age)?.min(latest);
    (!is_old && !is_new).then_some(by_age.max(signed).min(now))
}

/// Asks an origin what its owner has purged, and tells others if there was anything. Once more later, if it fails and few others do.
async fn read_owner(proxy: Proxy, origin: Origin, announced: Announced, failed: Arc<Semaphore>) {
    if announced.age < LATE {
        sleep(spread(&announced.message)).await;
    }
    let origin = origin.to_string();
    match timeout(DECIDE, proxy.reread_owner(&origin)).await {
        Ok(Ok(0)) => return,
        Ok(Ok(_)) => return announced.pass_on(MAX_KEEP),
        Ok(Err(_)) | Err(_) => drop(announced),
    }
    let Ok(_place) = failed.try_acquire() else {
        return;
    };
    sleep(AGAIN).await;
    if let Err(error) = proxy.reread_owner(&origin).await {
        tracing::info!(origin, %error, "what the owner of a site has purged could not be read");
    }
}

/// How long this node waits before it asks: another time than other nodes, by chance.
fn spread(message: &[u8]) -> Duration {
    use std::hash::BuildHasher as _;
    let chance = std::hash::RandomState::new().hash_one(message);
    SPREAD.mul_f64((chance >> 32) as f64 / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_obeyed_at_the_moment_it_was_made_and_repeated_it_does_nothing_more() {
        const DAY: u64 = 24 * 60 * 60;
        let signed = SystemTime::UNIX_EPOCH + Duration::from_secs(100 * DAY);
        let at = |seconds: i64| {
            let span = Duration::from_secs(seconds.unsigned_abs());
            if seconds < 0 { signed - span } else { signed + span }
        };
        // Seconds from when it was signed; the age that the index tells; when it is obeyed.
        for (now, age, expected) in [
            (1, 1, Some(0)),
            (100, 1, Some(99)),
            (100, 100, Some(0)),
            (100, 5000, Some(0)),
            (1000, 0, Some(300)),
            (6 * DAY as i64, 0, Some(300)),
            (8 * DAY as i64, 0, None),
            (8 * DAY as i64, 8 * DAY, None),
            (-60, 1, Some(-60)),
            (-3599, 0, Some(-3599)),
            (-3601, 0, None),
        ] {
            let obeyed = obeyed_at(signed, Duration::from_secs(age), at(now));
            assert_eq!(obeyed, expected.map(at), "now {now}, age {age}");
        }
    }
}
