//! A stale copy that another node has: lent to one that has none, which asks the origin about it.
//!
//! The borrower has the head, and its validators, while the body is still with the lender; so the origin is asked first, and
//! what is not needed is not read. Until the origin has answered, nobody but the borrower sees the copy, unless it may be
//! served while it is asked about.

use std::sync::Arc;
use std::time::SystemTime;

use coral_dsht::Key;
use http::StatusCode;

use super::one::{Arriving, Asked, Fetch, unasked_304};
use super::{Fetcher, Served, Wanted, served};
use crate::cache::Object;
use crate::cache::body::{Body, Writer};
use crate::cache_status::{CacheStatus, Source};
use crate::coalesce::How;
use crate::error::ProxyError;
use crate::headers::{add_condition, clean_response, has_validator, selecting};
use crate::origin::Answer;
use crate::policy::may_store;
use crate::reference::Fetching;

impl Fetcher {
    /// Gives another node what is fresh, if its head is here by now, else the `stale` copy. That node does not want to wait: it
    /// may be the one that the fetch here waits for.
    pub(super) async fn lend(&self, wanted: &Wanted, variant: Key, stale: Arc<Object>) -> Result<Served, ProxyError> {
        match self.join_only(wanted, variant).await {
            Ok(fresh) => Ok(fresh),
            Err(_) => served(stale, CacheStatus::Lent),
        }
    }
}

impl Fetch {
    /// Another node has given a stale copy: its head is here.
    pub(super) async fn borrowed(self, lent: Asked) {
        let Asked { mut answer, peer, reference, words, .. } = lent;
        let fetcher = Arc::clone(&self.fetcher);
        clean_response(&mut answer.headers, &self.wanted.url.passes, answer.received);
        let copy = self.copy_of(&answer).map(|(stale, writer)| (stale, Arriving { answer, peer, writer, words }));
        let Some((stale, arriving)) = copy else {
            let headers = self.upstream.clone();
            return match self.ask_origin(headers).await {
                Ok(answer) => self.received(Asked::of_origin(answer, reference)).await,
                Err(error) => self.failed(error),
            };
        };
        if stale.validity.may_be_revalidated_behind(SystemTime::now()) {
            let wanted = self.wanted.clone();
            let stale = Arc::new(stale);
            if self.deliver(Arc::clone(&stale), How::Behind, true, arriving, reference).await {
                fetcher.revalidate_behind(wanted, Arc::clone(&stale.selecting), stale);
            }
            return;
        }
        let mut headers = self.upstream.clone();
        add_condition(&mut headers, &stale.headers);
        let error = match self.ask_origin(headers).await {
            Ok(mut news) if news.status == StatusCode::NOT_MODIFIED && has_validator(&stale.headers) => {
                clean_response(&mut news.headers, &self.wanted.url.passes, news.received);
                let object = Arc::new(fetcher.with_news(&stale, &news));
                self.deliver(object, How::Revalidated(Source::Origin), true, arriving, reference).await;
                return;
            }
            Ok(news) if news.status == StatusCode::NOT_MODIFIED => unasked_304(),
            Ok(news) => match self.failure(news.status, &stale) {
                Some(failed) => return self.stand_in(stale, Some(news.status), failed, arriving, reference).await,
                None => {
                    drop(arriving);
                    return self.received(Asked::of_origin(news, reference)).await;
                }
            },
            Err(error) => error,
        };
        match stale.validity.may_stand_in(SystemTime::now()) {
            true => self.stand_in(stale, None, error, arriving, reference).await,
            false => self.failed(error),
        }
    }

    /// The object that a stale copy would be here, and its writer. `None` if there is no place for it, or it is nothing to store.
    fn copy_of(&self, answer: &Answer) -> Option<(Object, Writer)> {
        may_store(&self.wanted.headers, &self.upstream, answer.status, &answer.headers).ok()?;
        let (body, writer) = Body::new(answer.length, true, self.fetcher.limits.clone());
        let selecting = selecting(&answer.headers);
        let object = self.fetcher.object(&self.wanted, &self.upstream, answer, selecting, body);
        (!object.body.is_window()).then_some((object, writer))
    }

    /// Serves the copy, as the origin has `failed`, with `status` if it answered. That is remembered only once the copy is here:
    /// till then others join this fetch.
    async fn stand_in(
        self,
        stale: Object,
        status: Option<StatusCode>,
        failed: ProxyError,
        arriving: Arriving,
        reference: Option<Fetching>,
    ) {
        let (fetcher, key) = (Arc::clone(&self.fetcher), stale.key);
        let how = How::Stale(status.map(|status| status.as_u16()));
        self.deliver(Arc::new(stale), how, true, arriving, reference).await;
        fetcher.cache.fail(key, failed);
    }
}
