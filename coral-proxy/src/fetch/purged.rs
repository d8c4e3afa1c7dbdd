//! What was purged is not here: each look into the store and at fetches under way passes through here.

use std::sync::Arc;
use std::time::SystemTime;

use coral_dsht::Key;
use http::header::HeaderMap;

use super::Fetcher;
use crate::cache::{Found, Object};
use crate::coalesce::{Joined, UnderWay};
use crate::origin::Answer;
use crate::purge::{Moment, Pattern};
use crate::url::lately::Understood;
use crate::url::{CoralUrl, Names};

impl Fetcher {
    /// What is here for `url` and a request with these fields. Waits if that is on disk.
    pub(crate) async fn find(&self, url: &CoralUrl, request: &HeaderMap) -> Found {
        self.unless_purged(url, self.cache.find(url.key(), request).await)
    }

    /// A fresh object that is in memory and the same for all requests, without waiting.
    pub(crate) fn plain_hit(&self, of: &Understood, now: SystemTime) -> Option<Arc<Object>> {
        let object = self.cache.plain(&of.key)?;
        let is_good = object.validity.is_fresh(now) && !self.is_purged(&of.url, object.validity.sent());
        is_good.then_some(object)
    }

    /// What is here of a slice of it. Waits likewise.
    pub(super) async fn find_slice(&self, url: &CoralUrl, number: u64, request: &HeaderMap) -> Found {
        self.unless_purged(url, self.cache.find_slice(url.key(), number, request).await)
    }

    /// The part that is here of a variant of it.
    pub(super) fn find_part(&self, url: &CoralUrl, variant: &Key) -> Option<Arc<Object>> {
        self.cache.part(variant).filter(|part| self.is_still_good(url, part))
    }

    fn unless_purged(&self, url: &CoralUrl, mut found: Found) -> Found {
        found.object = found.object.filter(|object| self.is_still_good(url, object));
        found
    }

    /// Whether it was not purged; else it is taken out.
    fn is_still_good(&self, url: &CoralUrl, object: &Arc<Object>) -> bool {
        let is_purged = self.is_purged(url, object.validity.sent());
        if is_purged {
            self.cache.take_out(object);
        }
        !is_purged
    }

    /// Whether what the origin of `url` sent at `sent` was purged since.
    pub(super) fn is_purged(&self, url: &CoralUrl, sent: SystemTime) -> bool {
        self.purges.is_purged(url, sent)
    }

    /// Whether what another node gives was purged: it may not have heard yet.
    pub(super) fn is_purged_answer(&self, url: &CoralUrl, answer: &Answer) -> bool {
        self.is_purged(url, answer.sent)
    }

    /// The fetch under way for a variant of `url`, unless it has begun before a purge: what it brings is not to be used.
    pub(super) fn under_way(&self, url: &CoralUrl, variant: &Key) -> Option<UnderWay> {
        self.coalesce.under_way(variant).filter(|fetch| !self.is_purged(url, fetch.began))
    }

    /// Joins the fetch under `key` for something of `url`, or begins one; likewise.
    pub(super) fn join(&self, url: &CoralUrl, key: Key) -> Joined {
        self.coalesce.join(key, self.purges.since(url))
    }

    /// From now on these purges are in force, over a restart, too. How many were new.
    pub(crate) async fn purge(&self, purges: Vec<(Pattern, Moment)>) -> usize {
        let urls: Vec<String> = purges.iter().filter_map(|(pattern, _)| pattern.url().map(str::to_owned)).collect();
        let new = self.purges.apply(purges);
        if new > 0 {
            // That the origin failed, or that nothing could be stored, was of before.
            let names = Names { allow_addresses: true, ..Names::default() };
            for url in urls.iter().filter_map(|url| CoralUrl::parse_absolute(url, &names).ok()) {
                self.cache.forget_failure(&url.key());
            }
            self.cache.forget_versions();
        }
        self.purges.save().await;
        new
    }
}
