//! One fetch for each object at a time; everyone else waits for its head and then streams from it.
//!
//! Whoever leads drops its [`Lead`] when the object is stored or lost; until then others join. A response that cannot
//! be shared is its leader's alone: those who waited for it fetch for themselves, and do not queue again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coral_dsht::Key;
use tokio::sync::watch;

use crate::cache::Object;
use crate::cache_status::Source;
use crate::error::ProxyError;

/// How far a fetch has come.
#[derive(Debug, Clone)]
pub(crate) enum Stage {
    /// Other nodes are being asked, or the index. No peer may wait for this, lest two nodes wait for each other.
    Looking,
    /// The origin is being asked.
    AtOrigin,
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
}

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
}

/// The fetches under way, by variant key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Coalesce {
    under_way: Arc<Mutex<HashMap<Key, watch::Receiver<Stage>>>>,
}

/// The part of one request in a fetch.
pub(crate) enum Joined {
    /// It is to fetch, and to tell the others.
    Leader(Lead),
    /// It waits.
    Follower(watch::Receiver<Stage>),
}

/// The duty to fetch. While it lives, requests for the same variant join.
#[derive(Debug)]
pub(crate) struct Lead {
    coalesce: Option<(Coalesce, Key)>,
    stage: watch::Sender<Stage>,
}

impl Coalesce {
    /// Joins the fetch for `variant`, or begins one.
    pub(crate) fn join(&self, variant: Key) -> Joined {
        let mut under_way = self.lock();
        if let Some(stage) = under_way.get(&variant) {
            return Joined::Follower(stage.clone());
        }
        let (sender, stage) = watch::channel(Stage::Looking);
        under_way.insert(variant, stage);
        Joined::Leader(Lead { coalesce: Some((self.clone(), variant)), stage: sender })
    }

    /// The fetch for `variant`, if there is one.
    pub(crate) fn under_way(&self, variant: &Key) -> Option<watch::Receiver<Stage>> {
        self.lock().get(variant).cloned()
    }

    /// A panic leaves whole entries: each change is one call of the map.
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, watch::Receiver<Stage>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lead {
    /// A fetch that nobody joins.
    pub(crate) fn alone() -> Self {
        Self { coalesce: None, stage: watch::channel(Stage::Looking).0 }
    }

    /// Where this fetch's own request waits for its head.
    pub(crate) fn watch(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    /// Tells how far the fetch has come.
    pub(crate) fn tell(&self, stage: Stage) {
        self.stage.send_replace(stage);
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if let Some((coalesce, variant)) = &self.coalesce {
            coalesce.lock().remove(variant);
        }
    }
}

/// Waits for the head of a fetch. `patient` is false for another node's request, which waits only for what is certain
/// not to wait for that node in turn.
pub(crate) async fn head(mut stage: watch::Receiver<Stage>, patient: bool) -> Result<Arc<Fetched>, ProxyError> {
    let told = stage
        .wait_for(|stage| match stage {
            Stage::Looking => !patient,
            Stage::AtOrigin => false,
            Stage::Head(_) => true,
        })
        .await;
    match told.as_deref() {
        Ok(Stage::Head(head)) => head.clone(),
        Ok(Stage::Looking | Stage::AtOrigin) => Err(ProxyError::NotCached),
        // The task that led is gone without a word: it panicked, or the runtime stops.
        Err(_) => Err(ProxyError::Stopping),
    }
}

#[cfg(test)]
mod tests {
    use coral_dsht::Id;

    use super::*;

    #[tokio::test]
    async fn the_first_leads_and_the_second_hears_how_it_ended() {
        let coalesce = Coalesce::default();
        let key = Id::hash(&[b"k"]);
        let Joined::Leader(lead) = coalesce.join(key) else {
            panic!("the first leads");
        };
        let Joined::Follower(stage) = coalesce.join(key) else {
            panic!("the second follows");
        };
        lead.tell(Stage::AtOrigin);
        lead.tell(Stage::Head(Err(ProxyError::OriginTimeout)));
        assert!(matches!(head(stage, true).await, Err(ProxyError::OriginTimeout)));
        drop(lead);
        assert!(matches!(coalesce.join(key), Joined::Leader(_)));
    }

    #[tokio::test]
    async fn a_peer_does_not_wait_for_one_who_still_looks() {
        let lead = Lead::alone();
        assert!(matches!(head(lead.watch(), false).await, Err(ProxyError::NotCached)));
    }

    #[tokio::test]
    async fn a_leader_that_is_lost_leaves_nobody_waiting() {
        let lead = Lead::alone();
        let stage = lead.watch();
        drop(lead);
        assert!(matches!(head(stage, true).await, Err(ProxyError::Stopping)));
    }
}
