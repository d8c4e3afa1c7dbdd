//! Taking a node out of its network before it stops, so that nobody comes in vain.
//!
//! The node says in the index that it offers nothing, and its own nameserver reads that there: others name it no more, nor does it
//! name itself. Whoever was told of it before may still come, for as long as the longest TTL.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use coral_dsht::{DshtHandle, Services};
use tokio::sync::watch;

use crate::config::Config;

/// Whether a node is about to stop. Clones are about the same one.
#[derive(Debug, Clone)]
pub(crate) struct Drain {
    dsht: DshtHandle,
    config: Arc<RwLock<Config>>,
    is_begun: watch::Sender<bool>,
}

impl Drain {
    pub(super) fn new(dsht: DshtHandle, config: Arc<RwLock<Config>>) -> Self {
        Self { dsht, config, is_begun: watch::Sender::new(false) }
    }

    /// Begins; and gives the time after which nobody comes any more.
    pub(crate) async fn begin(&self) -> Duration {
        // An index that has stopped tells nobody anything.
        let _ = self.dsht.set_services(Services::NONE).await;
        self.is_begun.send_replace(true);
        self.takes()
    }

    /// How long it takes from when it has begun.
    pub(crate) fn takes(&self) -> Duration {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner);
        let dns = &config.dns.part;
        // Others rely on what they have heard of it for so long, and then resolvers on what these told them.
        let ttls = [dns.ttl, dns.near_ttl, dns.referral_ttl, dns.near_referral_ttl];
        config.dsht.part.verified + dns.max_age + ttls.into_iter().max().unwrap_or_default()
    }

    pub(crate) fn is_begun(&self) -> bool {
        *self.is_begun.borrow()
    }

    /// Waits until it has begun.
    pub(crate) async fn begun(&self) {
        // The sender is this one's own.
        let _ = self.is_begun.subscribe().wait_for(|begun| *begun).await;
    }
}
