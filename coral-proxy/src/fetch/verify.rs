//! Whether what another node delivers is what the origin has: for a small share of what they deliver, the origin is asked. And who was
//! wrong where nodes disagree, once its body is here.
//!
//! By HEAD, beside the transfer: nobody waits for the answer. What it contradicts is cut off if it still arrives, leaves the store,
//! and is fetched from the origin for a while; and the node that gave it is set aside.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use coral_dsht::Key;
use http::header::{CONTENT_LENGTH, ETAG, HeaderMap, LAST_MODIFIED};
use http::{Method, StatusCode, Version};
use tokio::sync::oneshot;

use super::{Fetcher, Wanted};
use crate::cache::Object;
use crate::digest::REPR_DIGEST;
use crate::error::ProxyError;
use crate::interim::Outbox;
use crate::stamp::Stamp;

/// What the origin says of an object that another node delivers, if it is asked.
#[derive(Debug)]
pub(super) struct Doubt(Option<oneshot::Receiver<()>>);

impl Doubt {
    /// Nobody is asked.
    pub(super) const fn none() -> Self {
        Self(None)
    }

    /// Returns when the origin has contradicted.
    pub(super) async fn confirmed(&mut self) {
        if let Some(contradicted) = &mut self.0
            && contradicted.await.is_ok()
        {
            return;
        }
        self.0 = None;
        std::future::pending::<()>().await;
    }

    /// Whether it has by now.
    pub(super) fn is_confirmed(&mut self) -> bool {
        self.0.as_mut().is_some_and(|contradicted| contradicted.try_recv().is_ok())
    }
}

impl Fetcher {
    /// Asks the origin about what `peer` delivers, if it is this one's turn.
    pub(super) fn doubt(
        self: &Arc<Self>,
        object: &Arc<Object>,
        peer: SocketAddr,
        (wanted, upstream): (&Wanted, &HeaderMap),
    ) -> Doubt {
        if !(self.peers.is_sampled() && object.validity.is_fresh(SystemTime::now())) {
            return Doubt::none();
        }
        let (fetcher, object, url, upstream) =
            (Arc::clone(self), Arc::clone(object), wanted.url.clone(), upstream.clone());
        let (contradicted, told) = oneshot::channel();
        self.runtime.spawn(async move {
            // What the origin says before it answers is for nobody.
            let interim = Outbox::default().ticket(Version::HTTP_10);
            let Ok(answer) = fetcher.origins.fetch(&Method::HEAD, &url, upstream, &interim).await else {
                return;
            };
            let believed = !fetcher.origins.is_failure(&url, answer.status);
            if believed && contradicts(answer.status, &answer.headers, &object) {
                fetcher.peers.set_aside(peer, &ProxyError::Peer("the origin has something else".into()));
                fetcher.distrusted.insert(object.key, Arc::default());
                // In this order: who stores it after the first has been told, and what was stored before is seen by the second.
                let _ = contradicted.send(());
                fetcher.cache.reject(object).await;
            }
        });
        Doubt(Some(told))
    }
}

impl Fetcher {
    /// The origin's body for `key` has this stamp: those who have said otherwise of it, when that made this node ask, are set aside.
    pub(super) fn settle(&self, key: &Key, stamp: Stamp) {
        let Some(words) = self.distrusted.get(key) else { return };
        for peer in words.against(stamp).filter(|peer| !self.peers.is_set_aside(*peer)) {
            self.peers.set_aside(peer, &ProxyError::Peer("it says that the origin's body is another".into()));
        }
    }
}

/// Whether an origin that answers a HEAD so has something else than `object`: no such thing, or another version. What it does not say
/// is no contradiction, nor that it knows no HEAD.
fn contradicts(status: StatusCode, news: &HeaderMap, object: &Object) -> bool {
    // The origin speaks of the whole.
    let (of_whole, length) = match &object.part {
        Some(part) => (StatusCode::OK, Some(part.total)),
        None => (object.status, object.body.length()),
    };
    if status != of_whole {
        return matches!(status.as_u16(), 200..=399 | 404 | 410);
    }
    let differs = |name| match (news.get(name), object.headers.get(name)) {
        (Some(new), Some(old)) => new != old,
        _ => false,
    };
    let another_length = news
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok())
        .zip(length)
        .is_some_and(|(new, old): (u64, u64)| new != old);
    another_length || differs(&ETAG) || differs(&LAST_MODIFIED) || differs(&REPR_DIGEST)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use coral_dsht::Id;

    use super::*;
    use crate::cache::body::Body;
    use crate::config::Freshness;
    use crate::headers::of_lines;
    use crate::partial::Part;
    use crate::policy::Validity;

    #[test]
    fn what_the_origin_says_otherwise_is_a_contradiction_and_what_it_does_not_say_is_none() {
        let headers = of_lines(&["etag: \"a\"", "content-length: 5"]);
        let (key, now, status) = (Id::hash(&[b"k"]), SystemTime::now(), StatusCode::OK);
        let validity = Validity::of(status, &headers, now, now, &Freshness::default());
        let body = Body::whole_of("hello".into());
        let object = Object::new(key, status, headers, body, validity);
        let says =
            |status, lines: &[&str]| contradicts(StatusCode::from_u16(status).unwrap(), &of_lines(lines), &object);
        for lines in [&["etag: \"a\"", "content-length: 5"][..], &["last-modified: x", "content-length: x"], &[]] {
            assert!(!says(200, lines), "{lines:?}");
        }
        for line in ["etag: \"b\"", "content-length: 6"] {
            assert!(says(200, &[line]), "{line}");
        }
        let part = Part { first: 0, total: 6, asked: "bytes=0-4".parse().unwrap(), is_slice: false };
        let object = Object { status: StatusCode::PARTIAL_CONTENT, part: Some(part), ..object };
        let says =
            |status, lines: &[&str]| contradicts(StatusCode::from_u16(status).unwrap(), &of_lines(lines), &object);
        assert!(!says(200, &["content-length: 6"]) && says(200, &["content-length: 5"]), "of which this is a part");
        for (status, contradiction) in
            [(404, true), (410, true), (301, true), (204, true), (405, false), (501, false), (401, false)]
        {
            assert_eq!(says(status, &[]), contradiction, "{status}");
        }
    }
}
