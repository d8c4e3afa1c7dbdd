//! What is on its way already, for another node, or a client who wants only what is here.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use coral_dsht::Key;
use http::header::IF_RANGE;
use tokio::time::Instant;

use super::part::has_range;
use super::{Fetcher, Served, Wanted, joined, served};
use crate::cache::Object;
use crate::cache::body::Body;
use crate::cache_status::CacheStatus;
use crate::chain::Chain;
use crate::coalesce::{Fetched, How};
use crate::conditional::{Part, part, sought_range};
use crate::error::ProxyError;

impl Fetcher {
    /// Serves another node, or a client who wants only what is here: from a fetch under way, or not at all.
    pub(super) async fn join_only(&self, wanted: &Wanted, variant: Key) -> Result<Served, ProxyError> {
        let key = wanted.url.key();
        let sought = sought_range(&wanted.headers);
        let slice = match sought.and_then(|range| self.slice_with(range, &variant)) {
            Some(number) => Some(self.find_slice(&wanted.url, number, &wanted.headers).await.variant),
            None => None,
        };
        // Who fetches a slice, too, has found that it will be here sooner.
        let of_slice = slice.and_then(|slice| self.under_way(&wanted.url, &slice));
        let Some(fetch) = of_slice.or_else(|| self.under_way(&wanted.url, &variant)) else {
            let now = SystemTime::now();
            // Between the look into the cache and this one, the fetch may have ended.
            if let Some(range) = sought
                && let Some(served) = self.part_here(wanted, range, variant, now).await
            {
                return Ok(served);
            }
            return match self.find(&wanted.url, &wanted.headers).await.object {
                Some(object) if object.validity.is_fresh(now) => served(object, CacheStatus::Hit),
                // Others would wait here, one after another, for what none of them may have.
                _ if wanted.waiting.is_some() && self.is_origins_alone(&key) => Err(ProxyError::AskOrigin),
                _ => Err(ProxyError::NotCached),
            };
        };
        let share = |fetched: &Fetched| {
            let object = &fetched.object;
            match sought {
                Some(range) if object.part.is_some() && !has_range(object, &wanted.headers, range) => None,
                // Whoever asks gets it sooner elsewhere.
                Some(range)
                    if object.part.is_none()
                        && !wanted.headers.contains_key(IF_RANGE)
                        && fetched.is_far_from(range, Instant::now()) =>
                {
                    None
                }
                // It would pass on as new what is old.
                _ if matches!(fetched.how, How::Behind) || wanted.takes_stale && fetched.how.is_stale() => None,
                _ => joined(fetched, wanted),
            }
        };
        let longest = self.config.peer.first_byte_timeout / 2;
        let Some(waiting) = &wanted.waiting else {
            let fetched = fetch.head_for_peer(longest).await.map_err(|_| ProxyError::NotCached)?;
            return share(&fetched).ok_or(ProxyError::NotCached);
        };
        let wait = waiting.wait.unwrap_or(longest);
        let began = Instant::now();
        let chain = Arc::clone(&fetch.chain);
        if !chain.admit(self.me, &waiting.nodes, began + 2 * wait) {
            return Err(ProxyError::NotCached);
        }
        let fetched = fetch.head_for_peer(wait).await?;
        let served = share(&fetched).ok_or(match fetched.shared {
            true => ProxyError::NotCached,
            false => ProxyError::AskOrigin,
        })?;
        if let Some(so_far) = missing_after(wanted, &served.object) {
            has_more(&served.object.body, so_far, &chain, began, wait).await?;
        }
        Ok(served)
    }

    /// Whether this node would only send another one to the origin: what comes is not stored, or the origin failed lately.
    fn is_origins_alone(&self, key: &Key) -> bool {
        self.cache.is_passed(key) || self.cache.failed(key).is_some()
    }
}

/// How many bytes a node has that asks for the rest of `object`, which broke off for it; `None` if it asks for something else.
fn missing_after(wanted: &Wanted, object: &Object) -> Option<u64> {
    let length = object.body.length().filter(|_| wanted.headers.contains_key(IF_RANGE))?;
    if let Some(part) = &object.part {
        return Some(part.cut(sought_range(&wanted.headers)?, length)?.start);
    }
    match part(&wanted.headers, &object.headers, length) {
        Part::Bytes(range) => Some(range.start),
        Part::Whole | Part::Unsatisfiable => None,
    }
}

/// Waits until `body` has more than the `so_far` bytes of a node that wants to go on with it from here.
///
/// Whoever reads from that node, over however many others, is not ahead of it: it would wait for itself. But when a source
/// goes, all who read from it are as far; they see it at about the same time, and the first of them has the rest before long.
async fn has_more(body: &Body, so_far: u64, chain: &Chain, began: Instant, wait: Duration) -> Result<(), ProxyError> {
    let until = |limit| tokio::time::timeout_at(began + limit, body.reaches_beyond(so_far));
    match until(wait / 4).await {
        Ok(true) => return Ok(()),
        Err(_) if chain.seeks_rest() => {}
        Ok(false) | Err(_) => return Err(ProxyError::NotCached),
    }
    match until(wait).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(ProxyError::NotCached),
        Err(_) => Err(ProxyError::Waiting),
    }
}
