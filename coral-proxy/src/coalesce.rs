//! One fetch for each object at a time; everyone else waits for its head and then streams from it.
//!
//! Whoever leads drops its [`Lead`] when the object is stored or lost; until then others join. A response that cannot
//! be shared is its leader's alone: those who waited for it fetch for themselves, and do not queue again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use coral_dsht::Key;
use http::header::ACCEPT_RANGES;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cache::Object;
use crate::cache_status::Source;
use crate::chain::Chain;
use crate::conditional::Wants;
use crate::error::ProxyError;

/// How far a fetch has come.
#[derive(Debug, Clone)]
pub(crate) enum Stage {
    /// Nobody knows yet what comes.
    Looking,
    /// The same, but other nodes do better to ask the origin than to wait for it: they may not share what comes.
    Alone,
    /// The head is here, or the error.
    Head(Result<Arc<Fetched>, ProxyError>),
}

/// What a fetch brought.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) object: Arc<Object>,
    pub(crate) how: How,
    /// Whether others than the one who asked may have it.
    pub(crate) shared: bool,
    /// Whether it will be stored when it is whole.
    pub(crate) stored: bool,
    /// When its head was here.
    pub(crate) since: Instant,
}

impl Fetched {
    /// Whether who wants `range` does better to fetch that alone than to wait until the body has come so far: it will not, within
    /// [`SOON`] at the pace at which it has come up to `now`, and its source says that it serves ranges (RFC 9110 §14.3).
    pub(crate) fn is_far_from(&self, range: Wants, now: Instant) -> bool {
        let Object { body, headers, .. } = &*self.object;
        let first = match (range, body.length()) {
            (Wants::From(first, _), _) => first,
            (Wants::Last(count), Some(length)) => length.saturating_sub(count),
            (Wants::Last(_), None) => return false,
        };
        let received = body.received();
        let pace = received as f64 / now.duration_since(self.since).max(SHORTEST).as_secs_f64();
        let soon = NEAR.max((pace * SOON.as_secs_f64()) as u64);
        let serves_ranges =
            headers.get(ACCEPT_RANGES).is_some_and(|unit| unit.as_bytes().eq_ignore_ascii_case(b"bytes"));
        serves_ranges && first > received.saturating_add(soon)
    }
}

/// How long who wants something further on waits for it, rather than ask for it alone.
const SOON: Duration = Duration::from_secs(1);
/// A pace is told after this time at the earliest: what comes first has come in one piece.
const SHORTEST: Duration = Duration::from_millis(100);
/// Bytes that are waited for at any pace: a request of its own would gain nothing.
const NEAR: u64 = 64 << 10;

/// How the object of a fetch relates to what was here.
#[derive(Debug, Clone, Copy)]
pub(crate) enum How {
    /// Nothing was here.
    New(Source),
    /// It takes the place of a stale one.
    Replaced(Source),
    /// The stale one was confirmed.
    Revalidated(Source),
    /// The stale one stands in, as the origin failed, with this status if it answered.
    Stale(Option<u16>),
    /// A stale one of another node is served while it is asked about.
    Behind,
}

impl How {
    /// Whether the object is no longer fresh, and nobody has said that it is good again.
    pub(crate) const fn is_stale(self) -> bool {
        matches!(self, Self::Stale(_) | Self::Behind)
    }
}

/// The fetches under way, by variant key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Coalesce {
    under_way: Arc<Mutex<HashMap<Key, UnderWay>>>,
}

/// A fetch to wait for.
#[derive(Debug, Clone)]
pub(crate) struct UnderWay {
    /// When it began.
    pub(crate) began: SystemTime,
    stage: watch::Receiver<Stage>,
    /// Other nodes that wait for it, and the one that it waits for.
    pub(crate) chain: Arc<Chain>,
}

/// The part of one request in a fetch.
pub(crate) enum Joined {
    /// It is to fetch, and to tell the others.
    Leader(Lead),
    /// It waits.
    Follower(UnderWay),
}

/// The duty to fetch. While it lives, requests for the same variant join.
#[derive(Debug)]
pub(crate) struct Lead {
    coalesce: Option<Coalesce>,
    /// Under which variants it can be joined: the one it began with, and the one it turned out to be.
    variants: Vec<Key>,
    began: SystemTime,
    stage: watch::Sender<Stage>,
    chain: Arc<Chain>,
}

impl Coalesce {
    /// Joins the fetch for `variant`, or begins one. One from before it was `purged` is left to those who have joined it.
    pub(crate) fn join(&self, variant: Key, purged: Option<SystemTime>) -> Joined {
        let mut under_way = self.lock();
        if let Some(fetch) = under_way.get(&variant)
            && purged.is_none_or(|purged| fetch.began > purged)
        {
            return Joined::Follower(fetch.clone());
        }
        let mut lead = Lead::alone();
        (lead.coalesce, lead.variants) = (Some(self.clone()), vec![variant]);
        under_way.insert(variant, lead.watch());
        Joined::Leader(lead)
    }

    /// The fetch for `variant`, if there is one.
    pub(crate) fn under_way(&self, variant: &Key) -> Option<UnderWay> {
        self.lock().get(variant).cloned()
    }

    /// A panic leaves whole entries: each change is one call of the map.
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, UnderWay>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lead {
    /// A fetch that nobody joins.
    pub(crate) fn alone() -> Self {
        Self {
            coalesce: None,
            variants: Vec::new(),
            began: SystemTime::now(),
            stage: watch::channel(Stage::Looking).0,
            chain: Arc::new(Chain::default()),
        }
    }

    /// Whether others can join it, requests of other nodes among them.
    pub(crate) fn can_be_joined(&self) -> bool {
        self.coalesce.is_some()
    }

    /// Lets it be joined under `variant`, too: so it is found by those who know by which fields its response varies.
    pub(crate) fn is_also(&mut self, variant: Key) {
        if let Some(coalesce) = &self.coalesce {
            let fetch = self.watch();
            if let std::collections::hash_map::Entry::Vacant(entry) = coalesce.lock().entry(variant) {
                entry.insert(fetch);
                self.variants.push(variant);
            }
        }
    }

    /// Where this fetch's own request waits for its head.
    pub(crate) fn watch(&self) -> UnderWay {
        UnderWay { began: self.began, stage: self.stage.subscribe(), chain: Arc::clone(&self.chain) }
    }

    /// Its place among the nodes that wait for each other.
    pub(crate) fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Tells how far the fetch has come.
    pub(crate) fn tell(&self, stage: Stage) {
        self.stage.send_replace(stage);
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if let Some(coalesce) = &self.coalesce {
            let mut under_way = coalesce.lock();
            for variant in &self.variants {
                // A later one may have taken its place.
                if under_way.get(variant).is_some_and(|fetch| Arc::ptr_eq(&fetch.chain, &self.chain)) {
                    under_way.remove(variant);
                }
            }
        }
    }
}

impl UnderWay {
    /// Waits for the head.
    pub(crate) async fn head(mut self) -> Result<Arc<Fetched>, ProxyError> {
        let told = self.stage.wait_for(|stage| matches!(stage, Stage::Head(_))).await;
        match told.as_deref() {
            Ok(Stage::Head(head)) => head.clone(),
            // The task that led is gone without a word: it panicked, or the runtime stops.
            Ok(Stage::Looking | Stage::Alone) | Err(_) => Err(ProxyError::Stopping),
        }
    }

    /// The same for another node's request, which is answered within `wait` in any case: a node that hears nothing could
    /// not tell one that waits from one that has gone.
    pub(crate) async fn head_for_peer(mut self, wait: Duration) -> Result<Arc<Fetched>, ProxyError> {
        let told = self.stage.wait_for(|stage| !matches!(stage, Stage::Looking));
        match tokio::time::timeout(wait, told).await.as_ref().map(|told| told.as_deref()) {
            Err(_) | Ok(Ok(Stage::Looking)) => Err(ProxyError::Waiting),
            Ok(Ok(Stage::Head(Ok(fetched)))) => Ok(Arc::clone(fetched)),
            // The origin may fail for this node alone. Nobody is to wait for the next one to try in turn.
            Ok(Ok(Stage::Alone | Stage::Head(Err(_)))) => Err(ProxyError::AskOrigin),
            Ok(Err(_)) => Err(ProxyError::NotCached),
        }
    }
}

#[cfg(test)]
mod tests {
    use coral_dsht::Id;

    use super::*;

    fn begin(coalesce: &Coalesce, variant: Key) -> Option<Lead> {
        match coalesce.join(variant, None) {
            Joined::Leader(lead) => Some(lead),
            Joined::Follower(_) => None,
        }
    }

    #[tokio::test]
    async fn the_first_leads_and_the_second_hears_how_it_ended() {
        let coalesce = Coalesce::default();
        let key = Id::hash(&[b"k"]);
        let lead = begin(&coalesce, key).expect("the first leads");
        let Joined::Follower(fetch) = coalesce.join(key, None) else {
            panic!("the second follows");
        };
        lead.tell(Stage::Head(Err(ProxyError::OriginTimeout)));
        assert!(matches!(fetch.head().await, Err(ProxyError::OriginTimeout)));
        drop(lead);
        assert!(begin(&coalesce, key).is_some());
    }

    #[tokio::test]
    async fn one_from_before_a_purge_is_not_joined_and_its_end_is_not_that_of_the_next() {
        let coalesce = Coalesce::default();
        let key = Id::hash(&[b"k"]);
        let old = begin(&coalesce, key).expect("the first leads");
        let earlier = old.began - Duration::from_secs(1);
        assert!(matches!(coalesce.join(key, Some(earlier)), Joined::Follower(_)));
        let Joined::Leader(new) = coalesce.join(key, Some(old.began)) else {
            panic!("another one begins");
        };
        drop(old);
        assert!(begin(&coalesce, key).is_none());
        drop(new);
        assert!(begin(&coalesce, key).is_some());
    }

    #[tokio::test]
    async fn a_fetch_is_found_under_the_variant_that_it_turns_out_to_be() {
        let coalesce = Coalesce::default();
        let (first, other) = (Id::hash(&[b"k"]), Id::hash(&[b"k", b"gzip"]));
        let mut lead = begin(&coalesce, first).unwrap();
        lead.is_also(other);
        assert!(begin(&coalesce, first).is_none() && begin(&coalesce, other).is_none());
        drop(lead);
        assert!(begin(&coalesce, first).is_some() && begin(&coalesce, other).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn another_node_is_told_in_time_that_it_is_to_wait_or_to_go_on() {
        let lead = Lead::alone();
        let wait = Duration::from_secs(2);
        assert!(matches!(lead.watch().head_for_peer(wait).await, Err(ProxyError::Waiting)));
        lead.tell(Stage::Alone);
        assert!(matches!(lead.watch().head_for_peer(wait).await, Err(ProxyError::AskOrigin)));
        let fetch = lead.watch();
        drop(lead);
        assert!(matches!(fetch.head().await, Err(ProxyError::Stopping)), "nobody is left waiting");
    }
}
