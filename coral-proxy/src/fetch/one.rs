//! One fetch: a task of its own, which asks, shows what comes to all who wait, and stores it once it is whole.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue, RANGE};
use http::{Method, StatusCode};
use tokio::time::Instant;

use super::sources::{Rest, Sources};
use super::verify::Doubt;
use super::{Fetcher, Wanted};
use crate::cache::Object;
use crate::cache::body::{Body, BodyError, Writer};
use crate::cache_status::Source;
use crate::coalesce::{Fetched, How, Lead, Stage};
use crate::digest::Check;
use crate::error::ProxyError;
use crate::headers::{add_condition, clean_response, has_validator, selecting};
use crate::origin::Answer;
use crate::partial::{Part, part_key};
use crate::peers::{Delivery, Inquiry, Missed, Search};
use crate::policy::may_store;
use crate::reference::Fetching;
use crate::version::Version;

/// One fetch.
pub(super) struct Fetch {
    pub(super) fetcher: Arc<Fetcher>,
    pub(super) wanted: Wanted,
    /// The fields with which others are asked.
    pub(super) upstream: HeaderMap,
    pub(super) stale: Option<Arc<Object>>,
    /// The part that is asked for, if it is not the whole.
    pub(super) range: Option<HeaderValue>,
    pub(super) lead: Lead,
}

/// What was asked for, with its head.
pub(super) struct Asked {
    pub(super) answer: Answer,
    pub(super) source: Source,
    /// The node it comes from, if it is not the origin.
    pub(super) peer: Option<SocketAddr>,
    /// Whether it is a stale copy of that node.
    stale: bool,
    /// Held until the object is stored or lost.
    pub(super) reference: Option<Fetching>,
}

/// A body that arrives.
pub(super) struct Arriving {
    pub(super) answer: Answer,
    pub(super) peer: Option<SocketAddr>,
    pub(super) writer: Writer,
}

impl Asked {
    fn of(Delivery { answer, level, peer, stale }: Delivery, reference: Option<Fetching>) -> Self {
        Self { answer, source: Source::Peer(level), peer: Some(peer), stale, reference }
    }

    pub(super) fn of_origin(answer: Answer, reference: Option<Fetching>) -> Self {
        Self { answer, source: Source::Origin, peer: None, stale: false, reference }
    }
}

impl Fetch {
    pub(super) async fn run(self) {
        let mut conditional = self.upstream.clone();
        if let Some(range) = &self.range {
            conditional.insert(RANGE, range.clone());
        }
        let asks_if_changed = self.stale.as_ref().is_some_and(|stale| has_validator(&stale.headers));
        if let Some(stale) = &self.stale {
            add_condition(&mut conditional, &stale.headers);
        }
        let asked = match self.ask(conditional).await {
            Ok(asked) if asked.stale => return self.borrowed(asked).await,
            Ok(asked) => asked,
            Err(error) => return self.failed(error),
        };
        let status = asked.answer.status;
        if status == StatusCode::NOT_MODIFIED {
            return match self.stale.clone().filter(|_| asks_if_changed) {
                Some(stale) => self.confirmed(&stale, asked.answer, asked.source),
                None => self.failed(unasked_304()),
            };
        }
        if let Some(stale) = self.stale.clone()
            && let Some(failed) = self.failure(status, &stale)
        {
            self.fetcher.cache.fail(self.wanted.url.key(), failed);
            return self.tell(stale, How::Stale(Some(status.as_u16())), true, false);
        }
        self.received(asked).await;
    }

    /// Other nodes first, then the origin.
    async fn ask(&self, headers: HeaderMap) -> Result<Asked, ProxyError> {
        let (fetcher, url) = (&self.fetcher, &self.wanted.url);
        let from_origin = async |headers, reference| Ok(Asked::of_origin(self.ask_origin(headers).await?, reference));
        // What is never stored is at no other node, and this one will not have it either.
        if fetcher.cache.is_passed(&url.key()) {
            return from_origin(headers, None).await;
        }
        // Others are sent here only for what they can share.
        let shareable = self.lead.can_be_joined() && self.range.is_none();
        let mut claim = shareable.then(|| fetcher.references.fetching(url.key()));
        if fetcher.distrusted.contains_key(&url.key()) {
            return from_origin(headers, claim).await;
        }
        let search = match &mut claim {
            Some(claim) => Search::Claim(claim, self.lead.chain()),
            None => Search::Get,
        };
        let inquiry = Inquiry { method: &Method::GET, url, headers: &headers, fits: &|_| true };
        match fetcher.peers.fetch(&inquiry, search).await {
            Ok(delivery) => Ok(Asked::of(delivery, claim)),
            Err(Missed::Unknown) => from_origin(headers, claim).await,
            Err(Missed::Nowhere) => match shareable && self.stale.is_none() {
                true => match fetcher.peers.stale(&inquiry).await {
                    Some(delivery) => {
                        if !delivery.stale {
                            self.lead.chain().found(Some(delivery.peer));
                        }
                        Ok(Asked::of(delivery, claim))
                    }
                    None => from_origin(headers, claim).await,
                },
                false => from_origin(headers, claim).await,
            },
            Err(Missed::AskOrigin) => {
                // Told on at once: the crowd shall not go to the origin one behind the other.
                self.lead.tell(Stage::Alone);
                drop(claim);
                from_origin(headers, None).await
            }
        }
    }

    pub(super) async fn ask_origin(&self, headers: HeaderMap) -> Result<Answer, ProxyError> {
        let Wanted { url, interim, .. } = &self.wanted;
        self.fetcher.origins.fetch(&Method::GET, url, headers, interim).await
    }

    /// What is wrong with an answer in place of which `stale` is better served.
    pub(super) fn failure(&self, status: StatusCode, stale: &Object) -> Option<ProxyError> {
        let fails = self.fetcher.origins.is_failure(&self.wanted.url, status);
        let may_stand_in = fails && stale.validity.may_stand_in(SystemTime::now());
        may_stand_in.then(|| ProxyError::OriginProtocol(format!("it answered {status}").into()))
    }

    pub(super) fn failed(self, error: ProxyError) {
        let cache = &self.fetcher.cache;
        cache.fail(self.wanted.url.key(), error.clone());
        match self.stale.clone().filter(|stale| stale.validity.may_stand_in(SystemTime::now())) {
            Some(stale) => self.tell(stale, How::Stale(None), true, false),
            None => self.lead.tell(Stage::Head(Err(error))),
        }
    }

    /// The stale object is good again (RFC 9111 §4.3.3, §4.3.4).
    fn confirmed(self, stale: &Object, mut answer: Answer, source: Source) {
        clean_response(&mut answer.headers, &self.wanted.url.passes, answer.received);
        let object = self.fetcher.freshen(stale, &answer);
        self.tell(object, How::Revalidated(source), true, true);
    }

    /// A response with a body: shows it to all who wait, and stores it once it is whole.
    pub(super) async fn received(self, asked: Asked) {
        let Asked { mut answer, source, peer, stale: _, reference } = asked;
        let fetcher = Arc::clone(&self.fetcher);
        let key = self.wanted.url.key();
        clean_response(&mut answer.headers, &self.wanted.url.passes, answer.received);
        // A part is stored as what it is a part of would be (RFC 9111 §3.3).
        let part = self.range.as_ref().and_then(|range| Part::of(answer.status, &answer.headers, answer.length, range));
        let status = if part.is_some() { StatusCode::OK } else { answer.status };
        let may_store = may_store(&self.wanted.headers, &self.upstream, status, &answer.headers);
        if let Err(reason) = may_store {
            tracing::debug!(url = %self.wanted.url.canonical(), ?reason, "not stored");
            // What is said to one who wants a part says nothing to those who want the whole.
            let of_whole = self.range.is_none() || answer.status == StatusCode::OK;
            if of_whole && !reason.is_of_request() {
                fetcher.cache.pass(key, reason);
            }
        }
        let selecting = selecting(&answer.headers);
        let (body, writer) = Body::new(answer.length, may_store.is_ok(), fetcher.limits.clone());
        let mut object = fetcher.object(&self.wanted, &self.upstream, &answer, selecting, body);
        if part.is_some() {
            object.variant = part_key(object.variant);
            object.part = part;
        }
        let how = if self.stale.is_some() { How::Replaced(source) } else { How::New(source) };
        self.deliver(Arc::new(object), how, may_store.is_ok(), Arriving { answer, peer, writer }, reference).await;
    }

    /// Shows an object that arrives to all who wait, and stores it once it is whole, if others may have it (`shared`). Whether
    /// it was stored.
    pub(super) async fn deliver(
        self,
        object: Arc<Object>,
        how: How,
        shared: bool,
        Arriving { answer, peer, writer }: Arriving,
        reference: Option<Fetching>,
    ) -> bool {
        let fetcher = Arc::clone(&self.fetcher);
        let mut lead = self.lead;
        if shared {
            // In this order, so that at no moment a request finds neither.
            if object.part.is_none() {
                lead.is_also(object.variant);
            }
            fetcher.cache.varies(object.key, &object.selecting);
        }
        let stored = shared && !object.body.is_window();
        let fetched = Fetched { object: Arc::clone(&object), how, shared, stored, since: Instant::now() };
        lead.tell(Stage::Head(Ok(Arc::new(fetched))));
        // What cannot be joined later is no longer offered, neither here nor in the index.
        let (lead, mut reference) = if stored { (Some(lead), reference) } else { (None, None) };
        let version = Version::of(object.status, &object.headers, answer.length, object.part.as_ref());
        let claim = reference.as_mut().zip(lead.as_ref());
        let asked_with = (&self.wanted, &self.upstream);
        let rest = version.map(|version| Rest::of(version, asked_with, shared, claim));
        let sources = Sources::new(&fetcher, answer.body, peer, answer.length, rest);
        let mut is_stored = false;
        let store = || {
            if shared && !object.body.is_window() {
                fetcher.cache.insert(Arc::clone(&object), SystemTime::now());
                is_stored = true;
            }
        };
        // What the origin itself sends is as it means it.
        let is_whole = object.status == StatusCode::OK && object.part.is_none();
        let check = Check::of(&object.headers).filter(|_| peer.is_some() && is_whole);
        let delivered = matches!(how, How::New(Source::Peer(_)) | How::Replaced(Source::Peer(_)));
        let mut doubt = match peer.filter(|_| delivered && shared) {
            Some(peer) => fetcher.doubt(&object, peer, asked_with),
            None => Doubt::none(),
        };
        let pumped = tokio::select! {
            pumped = pump(sources, writer, answer.length, check, store) => pumped,
            // Its readers see that it has no end.
            () = doubt.confirmed() => Err(ProxyError::BrokenOff),
        };
        if doubt.is_confirmed() {
            fetcher.cache.reject(Arc::clone(&object)).await;
        }
        if let Err(error) = pumped {
            tracing::debug!(%error, "a fetch ended before its end");
            if matches!(error, ProxyError::Peer(_)) {
                fetcher.distrusted.insert(object.key, ());
            }
        }
        drop((lead, reference));
        is_stored
    }

    fn tell(self, object: Arc<Object>, how: How, shared: bool, stored: bool) {
        let fetched = Fetched { object, how, shared, stored, since: Instant::now() };
        self.lead.tell(Stage::Head(Ok(Arc::new(fetched))));
    }
}

/// The error that a 304 is to a request that has not asked for it.
pub(super) fn unasked_304() -> ProxyError {
    ProxyError::OriginProtocol("304 to a request without condition".into())
}

/// Moves a body from where it comes to all who read it. `whole` is called when all of it is here, before any reader
/// can have seen the end: the next request then finds it in the cache. A body that is not what `check` says has no end.
pub(super) async fn pump(
    mut from: Sources<'_>,
    mut to: Writer,
    length: Option<u64>,
    mut check: Option<Check>,
    whole: impl FnOnce(),
) -> Result<(), ProxyError> {
    let mut so_far = 0;
    let mut last = Bytes::new();
    loop {
        match from.chunk().await {
            Ok(None) => break,
            Ok(Some(chunk)) => {
                so_far += chunk.len() as u64;
                if let Some(check) = &mut check {
                    check.add(&chunk);
                }
                if length == Some(so_far) {
                    last = chunk;
                } else if let Err(error) = to.write(chunk).await {
                    to.fail(error);
                    return Err(ProxyError::Node(error.to_string().into()));
                }
            }
            Err(error) => {
                if !(to.is_wanted() && from.resume(&error).await) {
                    to.fail(BodyError::BrokenOff);
                    return Err(error);
                }
            }
        }
    }
    if !check.is_none_or(Check::holds) {
        let error = ProxyError::Peer("its body has another digest than its head says".into());
        from.accuse(&error);
        to.fail(BodyError::BrokenOff);
        return Err(error);
    }
    if let Err(error) = to.seal(last).await {
        to.fail(error);
        return Err(ProxyError::Node(error.to_string().into()));
    }
    whole();
    to.end();
    Ok(())
}
