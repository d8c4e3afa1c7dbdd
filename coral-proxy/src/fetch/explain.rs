//! What becomes of the next request for a URL, and why: the same looks as for a request, without one.

use std::time::SystemTime;

use coral_dsht::Key;
use http::header::HeaderMap;

use super::Fetcher;
use crate::explain::{self, Explanation, Outlook, Rule};
use crate::url::CoralUrl;

impl Fetcher {
    /// What becomes of the next request for `url`, a GET without any field, and why.
    pub(crate) async fn explain(&self, url: &CoralUrl) -> Explanation {
        let (key, now) = (url.key(), SystemTime::now());
        let found = self.cache.find(key, &HeaderMap::new()).await;
        let rules = found.object.as_ref().map(|object| explain::stored(object, now, &self.config.freshness));
        let purged = self.purges.since(url).map(|purged| explain::purged(purged, now));
        let (verdict, because, rule) = match &found.object {
            Some(object) if self.is_purged(url, object.validity.sent()) => {
                (Outlook::Purged, "a copy is here, and was purged".to_owned(), purged)
            }
            Some(object) if object.validity.is_fresh(now) => (Outlook::Hit, "a fresh copy is here".to_owned(), None),
            Some(object) if object.validity.may_be_revalidated_behind(now) => {
                (Outlook::Revalidating, "a copy that is here may be served while it is asked about".to_owned(), None)
            }
            Some(object) if object.validity.may_stand_in(now) && self.cache.failed(&key).is_some() => {
                let because = "a copy is here, has expired, and stands in, as the origin has failed a moment ago";
                (Outlook::StandIn, because.to_owned(), None)
            }
            Some(_) => (Outlook::Stale, "a copy is here, and has expired".to_owned(), None),
            None => self.explain_absence(url, &found.variant),
        };
        let rules = rules.into_iter().flatten().chain(rule).collect();
        Explanation { url: url.canonical(), key, origin: url.origin.to_string(), verdict, because, rules }
    }

    fn explain_absence(&self, url: &CoralUrl, variant: &Key) -> (Outlook, String, Option<Rule>) {
        let key = &url.key();
        if self.under_way(url, variant).is_some() {
            return (Outlook::UnderWay, "it is being fetched".to_owned(), None);
        }
        if let Some(reason) = self.cache.passed(key) {
            return (
                Outlook::NotStored,
                "the last response could not be stored, so that for a minute each request is passed on".to_owned(),
                Some(explain::not_stored(reason)),
            );
        }
        match self.cache.failed(key) {
            Some(error) => (Outlook::Failed, format!("it failed a moment ago: {error}"), None),
            None => (Outlook::Miss, "it is not here: nobody asked for it, or it had to make room".to_owned(), None),
        }
    }
}
