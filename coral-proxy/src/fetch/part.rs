//! Parts: a range of what is not here is fetched as such, kept, and cut from again (RFC 9111 §3.3), where it cannot be had in
//! slices (`slices`): of what has no strong validator, say.
//!
//! Only a range that does not begin at the first byte is: whoever seeks in a film or goes on with a download shall not wait
//! for what is before. All others fetch the whole, which serves every range that follows. One part is kept for each
//! variant, the last. The index names this node for it under the parts' key ([`crate::reference::parts_key`]), and says where it lies: another
//! node that wants something within asks this one before it asks the origin.

use std::sync::Arc;
use std::time::SystemTime;

use coral_dsht::{Id, Key};
use http::Method;
use http::header::{HeaderMap, HeaderName, RANGE};

use super::one::{Fetch, What};
use super::slices::{Holders, version_of};
use super::{Fetcher, Served, Wanted, joined, may_share, served, status};
use crate::cache::Object;
use crate::cache_status::CacheStatus;
use crate::coalesce::{Joined, Lead};
use crate::conditional::{Wants, if_range_holds, wanted_range};
use crate::error::ProxyError;
use crate::headers::to_upstream;
use crate::origin::Answer;
use crate::partial::{Part, Place};
use crate::peers::{Delivery, Inquiry, Missed, Search};
use crate::slice::slice_at;

impl Fetcher {
    /// The part that is wanted, if it is here and fresh: a slice, or what one client here has asked for before.
    pub(super) async fn part_here(
        &self,
        wanted: &Wanted,
        range: Wants,
        variant: Key,
        now: SystemTime,
    ) -> Option<Served> {
        if let Some(object) = self.find_part(&wanted.url, &variant).filter(|object| object.validity.is_fresh(now))
            && has_range(&object, &wanted.headers, range)
        {
            return Served::new(object, CacheStatus::Hit);
        }
        let number = self.slice_with(range, &variant)?;
        let object = self.find_slice(&wanted.url, number, &wanted.headers).await.object?;
        let latest = self.cache.version(&variant);
        let is_latest = latest.is_none_or(|latest| version_of(&object).is_some_and(|of| of.is_same(&latest)));
        let serves = is_latest && object.validity.is_fresh(now) && has_range(&object, &wanted.headers, range);
        if serves { Served::new(object, CacheStatus::Hit) } else { None }
    }

    /// The slice in which `range` begins, as far as can be told.
    pub(super) fn slice_with(&self, range: Wants, variant: &Key) -> Option<u64> {
        range.first(self.cache.version(variant).map(|version| version.total())).map(slice_at)
    }

    /// Fetches the part that is `sought`, or joins one who fetches the same. Who has such a part is looked for by `holders`.
    pub(super) async fn lead_part(
        self: &Arc<Self>,
        wanted: Wanted,
        sought: Wants,
        (selecting, variant): (Arc<[HeaderName]>, Key),
        holders: Arc<Holders>,
    ) -> Result<Served, ProxyError> {
        let Some(range) = wanted.headers.get(RANGE).cloned() else {
            return Err(ProxyError::NotCached);
        };
        let mut lead = Lead::alone();
        if !self.cache.is_passed(&wanted.url.key()) && may_share(&wanted) {
            match self.join(&wanted.url, Id::hash(&[b"range", variant.as_bytes(), range.as_bytes()])) {
                Joined::Leader(first) => lead = first,
                Joined::Follower(fetch) => {
                    self.metrics.coalesced.inc();
                    let fetched = fetch.head().await?;
                    let same = fetched.shared && fetched.object.part.is_some();
                    if same && let Some(served) = Served::new(Arc::clone(&fetched.object), status(&fetched, true)) {
                        return Ok(served);
                    }
                    if let Some(served) = joined(&fetched, &wanted) {
                        return Ok(served);
                    }
                }
            }
        }
        // Between the look into the cache and the lead, another fetch may have ended.
        if let Some(served) = self.part_here(&wanted, sought, variant, SystemTime::now()).await {
            return Ok(served);
        }
        // Meanwhile those are looked for, and asked, who have the whole.
        holders.look_for_part(self, &wanted.url, sought);
        let watched = lead.watch();
        let upstream = to_upstream(&wanted.headers, &selecting, &wanted.url.passes);
        let what = What::Part(range, holders);
        let fetch = Fetch { fetcher: Arc::clone(self), upstream, wanted, stale: None, what, lead };
        self.runtime.spawn(fetch.run());
        let fetched = watched.head().await?;
        served(Arc::clone(&fetched.object), status(&fetched, false))
    }
}

impl Fetch {
    /// The part that the client wants, from a node that has one with all of it, as the index says. `None` if there is none, those have
    /// been asked by now, or what is wanted must be of one version.
    pub(super) async fn at_part_holders(&self, holders: &Holders) -> Option<Delivery> {
        let (fetcher, url) = (&self.fetcher, &self.wanted.url);
        let range = wanted_range(&self.wanted.headers).filter(|_| self.stale.is_none())?;
        if fetcher.distrusted.contains_key(&url.key()) {
            return None;
        }
        let named = holders.take_of_part(fetcher, url, range).await?;
        let asked = self.wanted.headers.get(RANGE)?;
        let mut headers = self.upstream.clone();
        headers.insert(RANGE, asked.clone());
        let fits = |answer: &Answer| {
            let is_part = Part::of(answer.status, &answer.headers, answer.length, asked).is_some();
            let has_all = Place::of(&answer.headers).is_some_and(|place| place.has(range));
            is_part && has_all && !fetcher.is_purged_answer(url, answer)
        };
        let inquiry = Inquiry { method: &Method::GET, url, headers: &headers, fits: &fits };
        match fetcher.peers.fetch(&inquiry, Search::Named(&named, self.lead.chain())).await {
            Ok(delivery) => Some(delivery),
            Err(Missed::Disputed(words)) => {
                fetcher.distrusted.insert(url.key(), Arc::new(words));
                None
            }
            Err(Missed::Nowhere | Missed::Unknown | Missed::AskOrigin) => None,
        }
    }
}

/// Whether `object`, a part, has all of the `range` that a request with these fields is for.
pub(super) fn has_range(object: &Object, request: &HeaderMap, range: Wants) -> bool {
    let (Some(part), Some(length)) = (&object.part, object.body.length()) else {
        return false;
    };
    let is_inside = request.get(RANGE) == Some(&part.asked) || part.cut(range, length).is_some();
    is_inside && if_range_holds(request, &object.headers)
}
