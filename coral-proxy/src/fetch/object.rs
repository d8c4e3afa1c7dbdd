//! From the answer of an origin or a node to the object that is stored.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use http::header::{HeaderMap, HeaderName};

use super::{Fetcher, Wanted};
use crate::cache::Object;
use crate::cache::body::Body;
use crate::headers::freshened;
use crate::origin::Answer;
use crate::policy::{Validity, variant_key};
use crate::version::Version;

impl Fetcher {
    /// Puts in place of a stale object the same one with the head that `answer` updates (RFC 9111 §3.2).
    pub(super) fn freshen(&self, stale: &Object, answer: &Answer) -> Arc<Object> {
        let object = Arc::new(self.with_news(stale, answer));
        self.cache.insert(Arc::clone(&object), SystemTime::now());
        object
    }

    /// A stale object with the head that `answer` updates.
    pub(super) fn with_news(&self, stale: &Object, answer: &Answer) -> Object {
        let headers = freshened(&stale.headers, &answer.headers);
        let config = &self.config.freshness;
        // A head may come to name another version of the same bytes, of which nothing is said yet.
        let version = Version::of(stale.status, &headers, stale.body.length(), stale.part.as_ref());
        let stamp = stale.stamp().filter(|stamp| version.is_some_and(|version| stamp.is_of(&version)));
        Object {
            key: stale.key,
            selecting: Arc::clone(&stale.selecting),
            variant: stale.variant,
            status: stale.status,
            part: stale.part.clone(),
            validity: Validity::of(stale.status, &headers, answer.asked, answer.received, config).sent_at(answer.sent),
            headers,
            body: stale.body.clone(),
            stamp: stamp.map(OnceLock::from).unwrap_or_default(),
        }
    }

    pub(super) fn object(
        &self,
        wanted: &Wanted,
        upstream: &HeaderMap,
        answer: &Answer,
        selecting: Arc<[HeaderName]>,
        body: Body,
    ) -> Object {
        let (key, Answer { status, asked, received, .. }) = (wanted.url.key(), answer);
        let headers = answer.headers.clone();
        let validity = Validity::of(*status, &headers, *asked, *received, &self.config.freshness).sent_at(answer.sent);
        Object {
            variant: variant_key(key, &selecting, upstream),
            selecting,
            ..Object::new(key, *status, headers, body, validity)
        }
    }
}
