//! Requests that are passed on, and whose responses are not kept.

use std::sync::Arc;

use http::Method;
use http::header::{HeaderMap, HeaderName};

use super::one::pump;
use super::sources::Sources;
use super::{Fetcher, Served, Wanted, served};
use crate::cache::Object;
use crate::cache::body::Body;
use crate::cache_status::{CacheStatus, Source};
use crate::error::ProxyError;
use crate::headers::{clean_response, confirms, to_upstream};
use crate::peers::{Delivery, Inquiry, Missed, Search};

impl Fetcher {
    /// Passes a request on, and its response back, without the cache: OPTIONS to the origin, HEAD to a node that has the
    /// object, else to the origin. The answer to HEAD may say that a `stale` copy is good again.
    pub(super) async fn pass(
        self: &Arc<Self>,
        wanted: Wanted,
        selecting: Arc<[HeaderName]>,
        stale: Option<Arc<Object>>,
    ) -> Result<Served, ProxyError> {
        if wanted.only_if_cached {
            return Err(ProxyError::NotCached);
        }
        let Wanted { method, url, .. } = &wanted;
        let upstream = to_upstream(&wanted.headers, &selecting, &url.passes);
        let sought = match *method == Method::HEAD
            && !self.cache.is_passed(&url.key())
            && !self.distrusted.contains_key(&url.key())
        {
            true => {
                let inquiry =
                    Inquiry { method, url, headers: &upstream, fits: &|answer| !self.is_purged_answer(url, answer) };
                self.peers.fetch(&inquiry, Search::Get).await
            }
            false => Err(Missed::Nowhere),
        };
        let (mut answer, source) = match sought {
            Ok(Delivery { answer, level, .. }) => (answer, Source::Peer(level)),
            Err(_) => (self.origins.fetch(method, url, upstream, &wanted.interim).await?, Source::Origin),
        };
        clean_response(&mut answer.headers, &url.passes, answer.received);
        if let Some(stale) =
            stale.filter(|stale| answer.status == stale.status && confirms(&answer.headers, &stale.headers))
        {
            self.freshen(&stale, &answer);
        }
        let (body, writer) = Body::new(answer.length, false, self.limits.clone());
        let object = self.object(&wanted, &HeaderMap::new(), &answer, Arc::from([]), body);
        let served = served(Arc::new(object), CacheStatus::Passed(source))?;
        let fetcher = Arc::clone(self);
        self.runtime.spawn(async move {
            let sources = Sources::new(&fetcher, answer.body, None, answer.length, None);
            pump(sources, writer, answer.length, None).await
        });
        Ok(served)
    }
}
