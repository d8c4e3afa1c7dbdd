//! One fetch: a task of its own, which asks, shows what comes to all who wait, and stores it once it is whole.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use http::{Method, StatusCode};
use tokio::time::Instant;

use super::ending::Ending;
use super::slices::{Holders, SliceWanted, version_of};
use super::sources::{Rest, Sources};
use super::verify::Doubt;
use super::{Fetcher, Wanted};
use crate::cache::body::{Body, BodyError, Writer};
use crate::cache::{Object, Slicing};
use crate::cache_status::Source;
use crate::coalesce::{Fetched, How, Lead, Stage};
use crate::error::ProxyError;
use crate::headers::{add_condition, clean_response, has_validator, selecting};
use crate::origin::Answer;
use crate::partial::{Part, part_key};
use crate::peers::{Delivery, Inquiry, Missed, Search};
use crate::policy::{NotStored, may_store, variant_key};
use crate::reference::Fetching;
use crate::slice::{Came, range_of, slice_key};
use crate::stamp::Words;
use crate::version::Version;

/// One fetch.
pub(super) struct Fetch {
    pub(super) fetcher: Arc<Fetcher>,
    pub(super) wanted: Wanted,
    /// The fields with which others are asked.
    pub(super) upstream: HeaderMap,
    pub(super) stale: Option<Arc<Object>>,
    pub(super) what: What,
    pub(super) lead: Lead,
}

/// What of an object a fetch is for.
#[derive(Debug)]
pub(super) enum What {
    Whole,
    /// The part that a client asks for with this `Range`. Nobody claims it; nodes that may have it are looked for so.
    Part(HeaderValue, Arc<Holders>),
    /// A slice, as all nodes ask for it.
    Slice(SliceWanted),
}

impl What {
    /// The `Range` by which it is asked for.
    fn range(&self) -> Option<HeaderValue> {
        match self {
            Self::Whole => None,
            Self::Part(range, _) => Some(range.clone()),
            Self::Slice(slice) => Some(range_of(slice.number)),
        }
    }
}

/// What was asked for, with its head.
pub(super) struct Asked {
    pub(super) answer: Answer,
    pub(super) source: Source,
    /// The node it comes from, if it is not the origin.
    pub(super) peer: Option<SocketAddr>,
    /// Whether it is a stale copy of that node.
    stale: bool,
    /// Whether it is a part that the client wants, in place of the slice that was looked for.
    for_client: bool,
    /// What references say of it.
    pub(super) words: Words,
    /// Held until the object is stored or lost.
    pub(super) reference: Option<Fetching>,
}

/// A body that arrives.
pub(super) struct Arriving {
    pub(super) answer: Answer,
    pub(super) peer: Option<SocketAddr>,
    pub(super) writer: Writer,
    /// What references say of it.
    pub(super) words: Words,
}

impl Asked {
    fn of(Delivery { answer, level, peer, stale, words }: Delivery, reference: Option<Fetching>) -> Self {
        Self { answer, source: Source::Peer(level), peer: Some(peer), stale, for_client: false, words, reference }
    }

    /// The part that the client wants: nobody else waits for it.
    fn for_client(delivery: Delivery) -> Self {
        Self { for_client: true, ..Self::of(delivery, None) }
    }

    pub(super) fn of_origin(answer: Answer, reference: Option<Fetching>) -> Self {
        let words = Words::default();
        Self { answer, source: Source::Origin, peer: None, stale: false, for_client: false, words, reference }
    }
}

/// What an answer is worth.
struct Judged {
    part: Option<Part>,
    /// Bytes of the object: of a slice, more may be wanted than come.
    length: Option<u64>,
    may_store: Result<(), NotStored>,
    /// What it tells of how the URL is to be had in slices.
    slicing: Option<Slicing>,
    /// `false` for a part that was asked for as a slice, and is none for all who wait.
    is_of_use: bool,
}

impl Fetch {
    pub(super) async fn run(mut self) {
        let mut conditional = self.upstream.clone();
        if let Some(range) = self.what.range() {
            conditional.insert(RANGE, range);
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
        if let What::Slice(slice) = &self.what
            && let Some(range) = self.wanted.headers.get(RANGE).filter(|_| asked.for_client)
        {
            // Who waits for the slice finds that it is none, and fetches what he wants for himself.
            self.what = What::Part(range.clone(), slice.holders());
        }
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
        let key = match &self.what {
            What::Part(..) => None,
            What::Whole => Some(url.key()),
            What::Slice(slice) => Some(slice_key(url.key(), slice.number)),
        };
        let mut claim = key.filter(|_| self.lead.can_be_joined()).map(|key| fetcher.references.fetching(key));
        if fetcher.distrusted.contains_key(&key.unwrap_or(url.key())) {
            return from_origin(headers, claim).await;
        }
        let search = match &mut claim {
            Some(claim) => Search::Claim(claim, self.lead.chain()),
            None => Search::Get,
        };
        let fits = |answer: &Answer| {
            let is_of_use = match &self.what {
                What::Slice(slice) => slice.fits(answer),
                What::Whole | What::Part(..) => true,
            };
            is_of_use && !fetcher.is_purged_answer(url, answer)
        };
        let is_claimed = key.is_some() && self.lead.can_be_joined();
        let inquiry = Inquiry { method: &Method::GET, url, headers: &headers, fits: &fits };
        let mut sought = fetcher.peers.fetch(&inquiry, search).await;
        match &self.what {
            What::Slice(slice) if matches!(sought, Err(Missed::Nowhere)) => {
                sought = slice.at_holders(fetcher, &inquiry, self.lead.chain()).await;
                if sought.is_err()
                    && let Some(holders) = slice.or_part()
                    && let Some(delivery) = self.at_part_holders(holders).await
                {
                    return Ok(Asked::for_client(delivery));
                }
            }
            What::Part(_, holders) if matches!(sought, Err(Missed::Nowhere)) => {
                sought = self.at_part_holders(holders).await.ok_or(Missed::Nowhere);
            }
            What::Whole if matches!(sought, Err(Missed::Nowhere)) && is_claimed && self.stale.is_none() => {
                if let Some(delivery) = fetcher.peers.stale(&inquiry).await {
                    if !delivery.stale {
                        self.lead.chain().found(Some(delivery.peer));
                    }
                    sought = Ok(delivery);
                }
            }
            _ => {}
        }
        match sought {
            Ok(delivery) => {
                if let What::Slice(slice) = &self.what {
                    slice.came_from(delivery.peer, delivery.level);
                }
                Ok(Asked::of(delivery, claim))
            }
            Err(Missed::Nowhere | Missed::Unknown) => from_origin(headers, claim).await,
            Err(Missed::Disputed(words)) => {
                fetcher.distrusted.insert(key.unwrap_or(url.key()), Arc::new(words));
                from_origin(headers, claim).await
            }
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
        let may_stand_in = fails && self.may_stand_in(stale);
        may_stand_in.then(|| ProxyError::OriginProtocol(format!("it answered {status}").into()))
    }

    /// Whether a stale copy may be served in place of an origin that fails.
    fn may_stand_in(&self, stale: &Object) -> bool {
        let is_purged = self.fetcher.is_purged(&self.wanted.url, stale.validity.sent());
        !is_purged && stale.validity.may_stand_in(SystemTime::now())
    }

    pub(super) fn failed(self, error: ProxyError) {
        let cache = &self.fetcher.cache;
        cache.fail(self.wanted.url.key(), error.clone());
        match self.stale.clone().filter(|stale| self.may_stand_in(stale)) {
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

    /// What an answer is, to this fetch. Its head is made that of the slice or whole that it is, or of which it is the beginning.
    fn judge(&self, answer: &mut Answer) -> Judged {
        let came = match &self.what {
            What::Slice(slice) => Came::of(slice.number, answer.status, &answer.headers, answer.length),
            What::Whole | What::Part(..) => Came::Other,
        };
        // Those who wait for a slice want different parts of it. If they cannot share it, each gets its own.
        let (is_for_all, is_unusable) = (matches!(came, Came::Slice(..) | Came::Whole(_)), came == Came::Unusable);
        let (part, length) = match (came, &self.what) {
            (Came::Slice(part, length), _) => {
                answer.headers.insert(CONTENT_RANGE, part.place(length));
                answer.headers.insert(CONTENT_LENGTH, length.into());
                (Some(part), Some(length))
            }
            (Came::Whole(length), _) => {
                answer.status = StatusCode::OK;
                answer.headers.remove(CONTENT_RANGE);
                answer.headers.insert(CONTENT_LENGTH, length.into());
                (None, Some(length))
            }
            (_, What::Part(range, _)) => {
                (Part::of(answer.status, &answer.headers, answer.length, range), answer.length)
            }
            _ => (None, answer.length),
        };
        // A part is stored as what it is a part of would be (RFC 9111 §3.3).
        let status = if part.is_some() { StatusCode::OK } else { answer.status };
        let may_store = match may_store(&self.wanted.headers, &self.upstream, status, &answer.headers) {
            // Others ask for other parts.
            Ok(()) if status == StatusCode::RANGE_NOT_SATISFIABLE => Err(NotStored::Status),
            may_store => may_store,
        };
        if let Err(reason) = may_store {
            tracing::debug!(url = %self.wanted.url.canonical(), ?reason, "not stored");
            // What is said to one who wants a part says nothing to those who want the whole.
            let of_whole = matches!(self.what, What::Whole) || answer.status == StatusCode::OK;
            if of_whole && !reason.is_of_request() {
                self.fetcher.cache.pass(self.wanted.url.key(), reason);
            }
        }
        let is_of_use = !is_unusable && (may_store.is_ok() || !is_for_all);
        let slicing = match &part {
            _ if !is_of_use => Some(Slicing::Never),
            Some(_) => Version::of(answer.status, &answer.headers, length, part.as_ref()).map(Slicing::Of),
            None => None,
        };
        Judged { part, length, may_store, slicing, is_of_use }
    }

    /// Whether an answer from here tells how the URL is to be had in slices, where `known` is known of that.
    fn may_tell(&self, known: Option<&Slicing>, source: Source) -> bool {
        let is_tried = matches!(self.what, What::Slice(_)) || !matches!(known, Some(Slicing::Never));
        // What another node has may be older.
        known.is_none() || source == Source::Origin && is_tried
    }

    /// A response with a body: shows it to all who wait, and stores it once it is whole.
    pub(super) async fn received(self, asked: Asked) {
        let Asked { mut answer, source, peer, stale: _, for_client: _, words, reference } = asked;
        let fetcher = Arc::clone(&self.fetcher);
        let key = self.wanted.url.key();
        clean_response(&mut answer.headers, &self.wanted.url.passes, answer.received);
        let Judged { part, length, may_store, slicing, is_of_use } = self.judge(&mut answer);
        let selecting = selecting(&answer.headers);
        let (body, writer) = Body::new(length, may_store.is_ok(), fetcher.limits.clone());
        let mut object = fetcher.object(&self.wanted, &self.upstream, &answer, selecting, body);
        if let Some(slicing) = slicing {
            fetcher.cache.varies(key, &object.selecting);
            if self.may_tell(fetcher.cache.slicing(&object.variant).as_ref(), source) {
                fetcher.cache.set_slicing(object.variant, slicing);
            }
        }
        if !is_of_use {
            // A part without a place: whoever waits knows by it that there are no slices.
            (object.status, object.body) = (StatusCode::PARTIAL_CONTENT, Body::whole_of(Bytes::new()));
            return self.tell(Arc::new(object), How::New(source), false, false);
        }
        let is_slice = part.as_ref().is_some_and(|part| part.is_slice);
        if let (What::Slice(slice), true) = (&self.what, is_slice) {
            object.key = slice_key(key, slice.number);
            object.variant = variant_key(object.key, &object.selecting, &self.upstream);
        } else if part.is_some() {
            object.variant = part_key(object.variant);
        }
        object.part = part;
        // Who asked for a slice and gets the whole has that to offer, too.
        let is_more = matches!(self.what, What::Slice(_)) && !is_slice && may_store.is_ok() && !object.body.is_window();
        let (reference, _of_slice) = match reference {
            Some(of_slice) if is_more => (Some(fetcher.references.fetching(key)), Some(of_slice)),
            reference => (reference, None),
        };
        let how = if self.stale.is_some() { How::Replaced(source) } else { How::New(source) };
        self.deliver(Arc::new(object), how, may_store.is_ok(), Arriving { answer, peer, writer, words }, reference)
            .await;
    }

    /// Shows an object that arrives to all who wait, and stores it once it is whole, if others may have it (`shared`). Whether
    /// it was stored.
    pub(super) async fn deliver(
        self,
        object: Arc<Object>,
        how: How,
        shared: bool,
        Arriving { answer, peer, writer, words }: Arriving,
        reference: Option<Fetching>,
    ) -> bool {
        let fetcher = Arc::clone(&self.fetcher);
        let mut lead = self.lead;
        if shared {
            // In this order, so that at no moment a request finds neither.
            if !object.is_loose_part() {
                lead.is_also(object.variant);
            }
            fetcher.cache.varies(object.key, &object.selecting);
        }
        let stored = shared && !object.body.is_window();
        let fetched = Fetched { object: Arc::clone(&object), how, shared, stored, since: Instant::now() };
        lead.tell(Stage::Head(Ok(Arc::new(fetched))));
        // What cannot be joined later is no longer offered, neither here nor in the index.
        let (lead, mut reference) = if stored { (Some(lead), reference) } else { (None, None) };
        let claim = reference.as_mut().zip(lead.as_ref());
        let asked_with = (&self.wanted, &self.upstream);
        let rest = version_of(&object).map(|version| Rest::of(version, asked_with, shared, claim));
        let length = object.body.length();
        let sources = Sources::new(&fetcher, answer.body, peer, length, rest);
        let mut ending = Ending::new(&fetcher, (&self.wanted.url, &object), peer, words, stored);
        let delivered = matches!(how, How::New(Source::Peer(_)) | How::Replaced(Source::Peer(_)));
        let mut doubt = match peer.filter(|_| delivered && shared) {
            Some(peer) => fetcher.doubt(&object, peer, asked_with),
            None => Doubt::none(),
        };
        let pumped = tokio::select! {
            pumped = pump(sources, writer, length, Some(&mut ending)) => pumped,
            // Its readers see that it has no end.
            () = doubt.confirmed() => Err(ProxyError::BrokenOff),
        };
        if doubt.is_confirmed() {
            fetcher.cache.reject(Arc::clone(&object)).await;
        }
        let is_stored = ending.is_stored;
        ending.ended(&pumped);
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

/// Moves a body from where it comes to all who read it. What becomes of it when all of it is here, `ending` knows, and is done before any
/// reader can have seen the end: the next request then finds it in the cache.
pub(super) async fn pump(
    mut from: Sources<'_>,
    mut to: Writer,
    length: Option<u64>,
    mut ending: Option<&mut Ending<'_>>,
) -> Result<(), ProxyError> {
    let mut last = Bytes::new();
    loop {
        match from.chunk().await {
            Ok(None) => break,
            Ok(Some(chunk)) => {
                if let Some(ending) = &mut ending {
                    ending.add(&chunk);
                }
                if length == Some(from.so_far()) {
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
    if let Some(ending) = &mut ending
        && let Err(error) = ending.judge(&from)
    {
        from.accuse(&error);
        to.fail(BodyError::BrokenOff);
        return Err(error);
    }
    if let Err(error) = to.seal(last).await {
        to.fail(error);
        return Err(ProxyError::Node(error.to_string().into()));
    }
    if let Some(ending) = ending {
        ending.store();
    }
    to.end();
    Ok(())
}
