//! Parts: a range of what is not here is fetched as such, kept, and cut from again (RFC 9111 §3.3).
//!
//! Only a range that does not begin at the first byte is: whoever seeks in a film or goes on with a download shall not wait
//! for what is before. All others fetch the whole, which serves every range that follows. One part is kept for each
//! variant, the last. Parts are not joined to a whole: RFC 9111 §3.4 wants the same strong validator for that.

use std::sync::Arc;
use std::time::SystemTime;

use coral_dsht::{Id, Key};
use http::header::{HeaderName, RANGE};

use super::one::Fetch;
use super::{Fetcher, Served, Wanted, joined, may_share, served, status};
use crate::cache_status::CacheStatus;
use crate::coalesce::{Joined, Lead};
use crate::conditional::Wants;
use crate::error::ProxyError;
use crate::headers::to_upstream;

impl Fetcher {
    /// The part that is wanted, if it is here and fresh.
    pub(super) fn part_here(&self, wanted: &Wanted, range: Wants, variant: Key, now: SystemTime) -> Option<Served> {
        let object = self.cache.part(&variant).filter(|object| object.validity.is_fresh(now))?;
        let part = object.part.as_ref()?;
        let length = object.body.length()?;
        let fits = wanted.headers.get(RANGE) == Some(&part.asked) || part.cut(range, length).is_some();
        if fits { Served::new(object, CacheStatus::Hit) } else { None }
    }

    /// Fetches a part, or joins one who fetches the same.
    pub(super) async fn lead_part(
        self: &Arc<Self>,
        wanted: Wanted,
        selecting: Arc<[HeaderName]>,
        variant: Key,
    ) -> Result<Served, ProxyError> {
        let Some(range) = wanted.headers.get(RANGE).cloned() else {
            return Err(ProxyError::NotCached);
        };
        let mut lead = Lead::alone();
        if !self.cache.is_passed(&wanted.url.key()) && may_share(&wanted) {
            match self.coalesce.join(Id::hash(&[b"range", variant.as_bytes(), range.as_bytes()])) {
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
        let watched = lead.watch();
        let upstream = to_upstream(&wanted.headers, &selecting, &wanted.url.passes);
        let fetch = Fetch { fetcher: Arc::clone(self), upstream, wanted, stale: None, range: Some(range), lead };
        self.runtime.spawn(fetch.run());
        let fetched = watched.head().await?;
        served(Arc::clone(&fetched.object), status(&fetched, false))
    }
}
