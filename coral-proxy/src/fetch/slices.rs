//! A range of what is not here, slice by slice: each is found, claimed, fetched and stored as an object of its own
//! ([`crate::slice`]), and what comes is passed on as it comes.
//!
//! The first slice tells the version. All others must be of the same one: if one is not, the client's transfer breaks off, and
//! what he then asks for is of the new version. What cannot be had so is asked for as one part (`part`), or as the whole.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use coral_dsht::{Key, Level};
use futures_util::Stream;
use http::StatusCode;
use http::header::{HeaderName, IF_RANGE};
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use super::one::{Fetch, What};
use super::part::has_range;
use super::{Fetcher, Served, Wanted, joined, may_share, served, status};
use crate::cache::body::{BodyError, Reader};
use crate::cache::{Object, Slicing};
use crate::cache_status::CacheStatus;
use crate::chain::Chain;
use crate::coalesce::Joined;
use crate::conditional::{Wants, if_range_holds, wanted_range};
use crate::error::ProxyError;
use crate::headers::to_upstream;
use crate::origin::Answer;
use crate::peers::{Delivery, Inquiry, Missed, Named, Search};
use crate::reference::encode_reference;
use crate::slice::{Came, SLICE_BYTES, first_of, slice_at};
use crate::url::CoralUrl;
use crate::version::Version;

/// Slices that one transfer has fetched before it comes to them, at most: so many are under way where the way is long. It
/// begins with one, as many a client that seeks soon seeks again.
const MOST_AHEAD: usize = 4;

/// What all slices for one request have in common.
#[derive(Debug)]
struct Request {
    fetcher: Arc<Fetcher>,
    wanted: Wanted,
    /// By what the responses for the URL vary, and which variant is wanted.
    selecting: Arc<[HeaderName]>,
    variant: Key,
    holders: Arc<Holders>,
}

/// Nodes that may have what no node has claimed: those that have the whole, or a part with all that is wanted, both looked for once for
/// each request, and the one that gave another slice.
#[derive(Debug, Default)]
pub(super) struct Holders {
    of_whole: OnceCell<Option<Named>>,
    of_part: OnceCell<Option<Named>>,
    part_is_asked_for: AtomicBool,
    gave: Mutex<Option<Named>>,
    /// They have been asked, and had nothing more.
    useless: AtomicBool,
}

impl Holders {
    async fn of_whole(&self, fetcher: &Fetcher, url: &CoralUrl) -> Option<Named> {
        self.of_whole.get_or_init(|| fetcher.peers.who_has(url)).await.clone()
    }

    /// Begins to look for those that have a part with all of `range`.
    pub(super) fn look_for_part(self: &Arc<Self>, fetcher: &Arc<Fetcher>, url: &CoralUrl, range: Wants) {
        if !self.of_part.initialized() {
            let (holders, asking, url) = (Arc::clone(self), Arc::clone(fetcher), url.clone());
            fetcher.runtime.spawn(async move { holders.of_part(&asking, &url, range).await.is_some() });
        }
    }

    async fn of_part(&self, fetcher: &Fetcher, url: &CoralUrl, range: Wants) -> Option<Named> {
        self.of_part.get_or_init(|| fetcher.peers.who_has_part(url, range)).await.clone()
    }

    /// Those that have a part with all of `range`, for one who asks them; `None` if they have been asked.
    pub(super) async fn take_of_part(&self, fetcher: &Fetcher, url: &CoralUrl, range: Wants) -> Option<Named> {
        if self.part_is_asked_for.swap(true, Ordering::Relaxed) {
            None
        } else {
            self.of_part(fetcher, url, range).await
        }
    }

    /// A panic leaves it whole: each change is one assignment.
    fn lock(&self) -> MutexGuard<'_, Option<Named>> {
        self.gave.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A slice as a fetch wants it.
#[derive(Debug)]
pub(super) struct SliceWanted {
    pub(super) number: u64,
    /// Of this version, if it is known.
    version: Option<Version>,
    holders: Arc<Holders>,
}

impl SliceWanted {
    /// Whether an answer of another node is of use.
    pub(super) fn fits(&self, answer: &Answer) -> bool {
        let Some(version) = &self.version else {
            return true;
        };
        match Came::of(self.number, answer.status, &answer.headers, answer.length) {
            Came::Slice(part, length) => Version::of(answer.status, &answer.headers, Some(length), Some(&part))
                .is_some_and(|of| of.is_same(version)),
            Came::Whole(_) | Came::Unusable => false,
            Came::Other => answer.status == StatusCode::NOT_MODIFIED,
        }
    }

    /// Where a part is looked for that will do in its place: for the first slice of what is not known to be had in slices.
    pub(super) fn or_part(&self) -> Option<&Holders> {
        self.version.is_none().then_some(&*self.holders)
    }

    /// Where its request looks for nodes that have it.
    pub(super) fn holders(&self) -> Arc<Holders> {
        Arc::clone(&self.holders)
    }

    /// Notes who gave it: the same node may have the next one.
    pub(super) fn came_from(&self, peer: SocketAddr, level: Level) {
        *self.holders.lock() = Some((vec![encode_reference(peer)], level));
    }

    /// The slice from a node that has not claimed it.
    pub(super) async fn at_holders(
        &self,
        fetcher: &Fetcher,
        inquiry: &Inquiry<'_>,
        chain: &Chain,
    ) -> Result<Delivery, Missed> {
        let (url, holders) = (inquiry.url, &self.holders);
        let ask = async |named: Named| fetcher.peers.fetch(inquiry, Search::Named(&named, chain)).await;
        let gave = holders.lock().clone();
        let of_whole = match gave {
            Some(gave) => {
                if let Ok(delivery) = ask(gave).await {
                    return Ok(delivery);
                }
                *holders.lock() = None;
                // It had its slices from somewhere, perhaps from one that had the beginning of the whole when this was last asked.
                fetcher.peers.who_has(url).await
            }
            None => holders.of_whole(fetcher, url).await.filter(|_| !holders.useless.load(Ordering::Relaxed)),
        };
        // What these say of the whole is nothing to those who wait for the slice.
        let sought = ask(of_whole.ok_or(Missed::Nowhere)?).await.map_err(|_| Missed::Nowhere);
        if sought.is_err() {
            holders.useless.store(true, Ordering::Relaxed);
        }
        sought
    }
}

impl Fetcher {
    /// The `range` that is wanted, from its first slice on. `None` if it is to be had in another way.
    pub(super) async fn by_slices(
        self: &Arc<Self>,
        wanted: &Wanted,
        range: Wants,
        (selecting, variant): (&Arc<[HeaderName]>, Key),
        holders: &Arc<Holders>,
    ) -> Result<Option<Served>, ProxyError> {
        let can_keep = self.limits.memory as u64 >= SLICE_BYTES || self.limits.disk.is_some();
        let Some(number) = self.slice_with(range, &variant).filter(|_| can_keep && may_share(wanted)) else {
            return Ok(None);
        };
        // What is under way, too slowly, and has no more than a slice would be fetched once more.
        let is_small = match self.under_way(&wanted.url, &variant) {
            Some(fetch) => {
                let length = fetch.head().await.ok().and_then(|fetched| fetched.object.body.length());
                length.is_some_and(|length| length <= SLICE_BYTES)
            }
            None => false,
        };
        if is_small || self.cache.is_passed(&wanted.url.key()) {
            return Ok(None);
        }
        let request = Request {
            fetcher: Arc::clone(self),
            wanted: wanted.clone(),
            selecting: Arc::clone(selecting),
            variant,
            holders: Arc::clone(holders),
        };
        let Some(mut served) = request.slice(number, None).await? else {
            return Ok(None);
        };
        let object = Arc::clone(&served.object);
        let (Some(part), Some(length)) = (&object.part, object.body.length()) else {
            // The whole, or what there is in its place; but that it ends before says nothing of what was wanted of another version, or
            // at the end.
            let is_beyond = object.status == StatusCode::RANGE_NOT_SATISFIABLE;
            let is_other = wanted.headers.contains_key(IF_RANGE) || matches!(range, Wants::Last(_));
            return Ok((!(is_beyond && is_other)).then_some(served));
        };
        if !part.is_slice {
            return Ok(has_range(&object, &wanted.headers, range).then_some(served));
        }
        let bytes = range.of(part.total);
        // The end of a new version may be elsewhere.
        let is_here = bytes.is_empty() || slice_at(bytes.start) == number;
        if !is_here || !if_range_holds(&wanted.headers, &object.headers) {
            return Ok(None);
        }
        if bytes.end > part.first + length {
            let Some(version) = version_of(&object) else {
                return Ok(None);
            };
            served.slices = Some(Slices { request: Arc::new(request), version, first: object });
        }
        Ok(Some(served))
    }
}

impl Request {
    /// One slice: from here, or fetched, or what there is in its place. `None` if there are none to be had.
    async fn slice(&self, number: u64, version: Option<&Version>) -> Result<Option<Served>, ProxyError> {
        let Self { fetcher, wanted, .. } = self;
        let (key, cache) = (wanted.url.key(), &fetcher.cache);
        let version = version.cloned().or_else(|| cache.version(&self.variant));
        let fits = |object: &Object| {
            version.as_ref().is_none_or(|version| version_of(object).is_some_and(|of| of.is_same(version)))
        };
        let here = async || {
            let mut found = fetcher.find_slice(&wanted.url, number, &wanted.headers).await;
            found.object = found.object.filter(|object| fits(object));
            found
        };
        let found = here().await;
        if let Some(hit) = fetcher.hit(&wanted.method, &found, SystemTime::now()) {
            return Ok(Some(hit));
        }
        if matches!(cache.slicing(&self.variant), Some(Slicing::Never)) {
            return Ok(None);
        }
        let stale = found.object;
        if let Some(error) = cache.failed(&key) {
            return match stale.filter(|stale| stale.validity.may_stand_in(SystemTime::now())) {
                Some(stale) => served(stale, CacheStatus::Stale { origin_status: None }).map(Some),
                None => Err(ProxyError::FailedLately(error.to_string().into(), Arc::new(error))),
            };
        }
        let lead = match fetcher.join(&wanted.url, found.variant) {
            Joined::Leader(lead) => lead,
            Joined::Follower(fetch) => {
                fetcher.metrics.coalesced.inc();
                let fetched = fetch.head().await?;
                return Ok(joined(&fetched, wanted).filter(|served| fits(&served.object)));
            }
        };
        // Between the look and the lead, another fetch may have ended.
        if let Some(hit) = fetcher.hit(&wanted.method, &here().await, SystemTime::now()) {
            return Ok(Some(hit));
        }
        if !self.holders.of_whole.initialized() {
            // Meanwhile the index is asked for the slice.
            let (fetcher, holders, url) = (Arc::clone(fetcher), Arc::clone(&self.holders), wanted.url.clone());
            self.fetcher.runtime.spawn(async move { holders.of_whole(&fetcher, &url).await.is_some() });
        }
        if version.is_none()
            && let Some(range) = wanted_range(&wanted.headers)
        {
            self.holders.look_for_part(fetcher, &wanted.url, range);
        }
        let watched = lead.watch();
        let fetch = Fetch {
            fetcher: Arc::clone(fetcher),
            upstream: to_upstream(&wanted.headers, &self.selecting, &wanted.url.passes),
            wanted: wanted.clone(),
            stale,
            what: What::Slice(SliceWanted { number, version, holders: Arc::clone(&self.holders) }),
            lead,
        };
        fetcher.runtime.spawn(fetch.run());
        let fetched = watched.head().await?;
        if fetched.object.part.is_none() && fetched.object.status == StatusCode::PARTIAL_CONTENT {
            return Ok(None);
        }
        served(Arc::clone(&fetched.object), status(&fetched, false)).map(Some)
    }
}

/// The version that a stored or arriving object is of.
pub(super) fn version_of(object: &Object) -> Option<Version> {
    Version::of(object.status, &object.headers, object.body.length(), object.part.as_ref())
}

/// A range of which the first slice is here, or coming.
#[derive(Debug)]
pub(crate) struct Slices {
    request: Arc<Request>,
    version: Version,
    first: Arc<Object>,
}

impl Slices {
    /// These bytes of the whole; they begin in the first slice.
    pub(crate) fn read(self, bytes: Range<u64>) -> impl Stream<Item = Result<Bytes, BodyError>> + Send {
        let Self { request, version, first } = self;
        let number = slice_at(bytes.start);
        let within = bytes.start - first_of(number);
        let reading = Reading {
            reader: first.body.reader(within, Some(bytes.end - first_of(number))),
            request,
            version,
            place: bytes.start,
            end: bytes.end,
            ahead: VecDeque::new(),
            most_ahead: 1,
            next: number + 1,
        };
        futures_util::stream::unfold(reading, |mut reading| async move {
            reading.next().await.map(|chunk| (chunk, reading))
        })
    }
}

/// A transfer of several slices.
struct Reading {
    request: Arc<Request>,
    version: Version,
    /// Of the slice that it is in.
    reader: Option<Reader>,
    /// The next byte, and the one after the last.
    place: u64,
    end: u64,
    /// Those that come next; they end with the transfer. The fetch of a slice does not: others may wait for it.
    ahead: VecDeque<JoinSet<Option<Reader>>>,
    most_ahead: usize,
    /// The first slice that has not been begun.
    next: u64,
}

impl Reading {
    async fn next(&mut self) -> Option<Result<Bytes, BodyError>> {
        if self.place >= self.end {
            return None;
        }
        self.begin_ahead();
        loop {
            match self.reader.as_mut()?.next().await {
                Some(Ok(chunk)) => {
                    self.place += chunk.len() as u64;
                    return Some(Ok(chunk));
                }
                Some(Err(error)) => return Some(self.fail(error)),
                None => {}
            }
            let next = match self.ahead.pop_front() {
                Some(mut next) if self.place.is_multiple_of(SLICE_BYTES) => next.join_next().await,
                _ => None,
            };
            let Some(reader) = next.and_then(Result::ok).flatten() else {
                return Some(self.fail(BodyError::BrokenOff));
            };
            self.reader = Some(reader);
            self.most_ahead = MOST_AHEAD.min(self.most_ahead + 1);
            self.begin_ahead();
        }
    }

    fn begin_ahead(&mut self) {
        while self.ahead.len() < self.most_ahead && first_of(self.next) < self.end {
            let (request, version) = (Arc::clone(&self.request), self.version.clone());
            let (number, end) = (self.next, self.end);
            let mut task = JoinSet::new();
            task.spawn_on(async move { request.reader(number, &version, end).await }, &self.request.fetcher.runtime);
            self.ahead.push_back(task);
            self.next += 1;
        }
    }

    fn fail<T>(&mut self, error: BodyError) -> Result<T, BodyError> {
        self.end = self.place;
        Err(error)
    }
}

impl Request {
    /// A slice of this version, from its first byte on; it reads no further than `end`, a place in the whole. `None` if it is not
    /// to be had.
    async fn reader(&self, number: u64, version: &Version, end: u64) -> Option<Reader> {
        let url = || self.wanted.url.canonical();
        let Served { object, .. } = match self.slice(number, Some(version)).await {
            Ok(served) => served?,
            Err(error) => {
                tracing::debug!(url = %url(), number, %error, "a slice is not to be had");
                return None;
            }
        };
        if !version_of(&object).is_some_and(|of| of.is_same(version)) {
            tracing::debug!(url = %url(), number, "a slice is of another version");
            return None;
        }
        let first = first_of(number);
        match object.part {
            Some(_) => object.body.reader(0, Some(end - first)),
            // An origin that serves ranges no more gives the whole.
            None => object.body.reader(first, Some(end)),
        }
    }
}
