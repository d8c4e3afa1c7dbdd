//! Where an object comes from: the cache, then nodes that have it, then the origin. The order, as one function each.
//!
//! A fetch is a task of its own (`one`): the client who began it may leave without harm to others who joined. Its response is
//! shown to all as soon as the head is here, and is stored once it is whole; then, and only then, it takes the place of
//! what was there before.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use coral_dsht::{DshtHandle, Key};
use http::Method;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, IF_RANGE};
use moka::sync::Cache as Moka;
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::auth::Auth;
use crate::budget::Budget;
use crate::cache::body::{Limits, Reader};
use crate::cache::{Cache, Found, Object};
use crate::cache_status::CacheStatus;
use crate::chain::Waiting;
use crate::client::Client;
use crate::coalesce::{Coalesce, Fetched, How, Joined, Lead};
use crate::conditional::{Wants, sought_range};
use crate::config::Config;
use crate::error::ProxyError;
use crate::headers::to_upstream;
use crate::interim::Ticket;
use crate::metrics::Metrics;
use crate::origin::Origins;
use crate::peers::{Peers, Surroundings};
use crate::policy::{CacheControl, variant_key};
use crate::purge::{self, Purges};
use crate::reference::References;
use crate::resolver::Resolver;
use crate::stamp::Words;
use crate::tls;
use crate::trace::Traces;
use crate::url::CoralUrl;
use one::{Fetch, What};
use owner::Owners;
pub(crate) use owner::Read;
pub(crate) use slices::Slices;

/// URLs that are remembered as distrusted.
const REMEMBERED_URLS: u64 = 10_000;

mod ending;
mod explain;
mod join;
mod lent;
mod object;
mod one;
mod owner;
mod part;
mod pass;
mod purged;
mod slices;
mod sources;
mod verify;

/// Everything that a fetch needs.
#[derive(Debug)]
pub(crate) struct Fetcher {
    pub(crate) config: Arc<Config>,
    pub(crate) cache: Cache,
    pub(crate) references: References,
    pub(crate) metrics: Metrics,
    /// How nodes know each other, in a closed network.
    pub(crate) auth: Option<Auth>,
    /// Where fetches run: a client's may end before them.
    runtime: Handle,
    me: SocketAddr,
    coalesce: Coalesce,
    peers: Peers,
    origins: Origins,
    limits: Limits,
    /// Of which another node has given what was not the origin's, or may not be: the origin is asked itself. And what was said of it.
    distrusted: Moka<Key, Arc<Words>>,
    purges: Purges,
    owners: Owners,
}

/// What a client wants.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) url: CoralUrl,
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    /// From what is here, or not at all.
    pub(crate) only_if_cached: bool,
    /// From another node that validates it, so that it may be stale.
    pub(crate) takes_stale: bool,
    /// Who waits for it, if another node asks.
    pub(crate) waiting: Option<Waiting>,
    /// Where interim responses go that the origin sends meanwhile.
    pub(crate) interim: Ticket,
}

/// What it gets: an object and a place to read it from.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) object: Arc<Object>,
    /// Begun at the first byte, so that a window does not move on; `None` where the body is whole in memory.
    pub(crate) reader: Option<Reader>,
    pub(crate) status: CacheStatus,
    /// What follows, where the object is the first slice of a range that is longer.
    pub(crate) slices: Option<Slices>,
}

impl Served {
    /// `None` if the beginning of the body is gone already.
    fn new(object: Arc<Object>, status: CacheStatus) -> Option<Self> {
        let reader = match object.body.whole() {
            Some(_) => None,
            None => Some(object.body.reader(0, None)?),
        };
        Some(Self { object, reader, status, slices: None })
    }
}

impl Fetcher {
    pub(crate) fn new(
        config: Arc<Config>,
        me: SocketAddr,
        dsht: DshtHandle,
        receive: Option<Budget>,
        metrics: Metrics,
        traces: Traces,
    ) -> Result<Self, ProxyError> {
        let tls = tls::client_config(&config.origin.extra_ca, "[proxy.origin] extra_ca")?;
        let references = References::start(me, dsht.clone(), config.reference.clone(), metrics.clone());
        // Peers are always addresses, so this resolver is never asked.
        let limit = config.peer.connect_timeout;
        let peer_client = Client::new(Resolver::of_system(limit), tls.clone(), limit);
        let cache = Cache::open(&config, references.clone(), &metrics)?;
        let auth = config.network_key.as_ref().map(|key| Auth::new(key, me)).transpose()?;
        // In a directory that is locked by now.
        let purged = config.disk.path.as_ref().map(|dir| dir.join(purge::file::NAME));
        Ok(Self {
            peers: Peers::new(
                &config,
                peer_client,
                receive.clone(),
                Surroundings { me, dsht, auth: auth.clone(), metrics: metrics.clone(), traces: traces.clone() },
            ),
            origins: Origins::new(&config, &tls, receive, &metrics, traces),
            coalesce: Coalesce::default(),
            distrusted: Moka::builder().max_capacity(REMEMBERED_URLS).time_to_live(config.peer.set_aside).build(),
            runtime: Handle::current(),
            me,
            limits: Limits {
                memory: usize::try_from(config.memory_object_limit.as_u64()).unwrap_or(usize::MAX),
                disk: cache.disk().cloned(),
                patience: config.client.stall_timeout,
                finish_unread: config.origin.finish_unread.as_u64(),
            },
            owners: Owners::new(),
            purges: Purges::open(purged, SystemTime::now(), metrics.clone()),
            cache,
            references,
            metrics,
            auth,
            config,
        })
    }

    /// Writes down what is not yet on disk, and gives that free for another process.
    pub(crate) async fn close(&self) {
        // In this order, as the lock of the directory goes with the store.
        self.purges.close().await;
        self.cache.close().await;
    }

    /// The last searches of the index, the latest first.
    pub(crate) fn searches(&self) -> Vec<crate::searches::Search> {
        self.peers.searches.last()
    }

    /// A fresh copy of what was found, if GET or HEAD wants it: most requests end here.
    pub(crate) fn hit(&self, method: &Method, found: &Found, now: SystemTime) -> Option<Served> {
        let fresh = found.object.as_ref().filter(|object| object.validity.is_fresh(now));
        Served::new(Arc::clone(fresh.filter(|_| method != Method::OPTIONS)?), CacheStatus::Hit)
    }

    /// Fetches what is wanted, where what was found is no [`Self::hit`].
    pub(crate) async fn serve(
        self: &Arc<Self>,
        wanted: Wanted,
        found: Found,
        now: SystemTime,
    ) -> Result<Served, ProxyError> {
        let key = wanted.url.key();
        if wanted.method == Method::OPTIONS {
            return self.pass(wanted, found.selecting, None).await;
        }
        let mut stale = None;
        if let Some(object) = found.object {
            // Not for another node: it would pass on as new what it got as old.
            if object.validity.may_be_revalidated_behind(now)
                && wanted.waiting.is_none()
                && let Some(served) = Served::new(Arc::clone(&object), CacheStatus::Behind)
            {
                self.revalidate_behind(wanted, found.selecting, object);
                return Ok(served);
            }
            stale = Some(object);
        }
        // A whole copy is better asked about as such, even if it is stale.
        let range = match (&stale, wanted.method == Method::GET) {
            (None, true) => sought_range(&wanted.headers),
            _ => None,
        };
        if let Some(range) = range
            && let Some(served) = self.part_here(&wanted, range, found.variant, now).await
        {
            return Ok(served);
        }
        if wanted.only_if_cached {
            return match stale.filter(|_| wanted.takes_stale) {
                Some(stale) => self.lend(&wanted, found.variant, stale).await,
                None => self.join_only(&wanted, found.variant).await,
            };
        }
        if let Some(error) = self.cache.failed(&key) {
            return match stale.filter(|stale| stale.validity.may_stand_in(now)) {
                Some(stale) => served(stale, CacheStatus::Stale { origin_status: None }),
                None => Err(ProxyError::FailedLately(error.to_string().into(), Arc::new(error))),
            };
        }
        if wanted.method == Method::HEAD {
            // What is on its way has a head before long.
            if let Some(fetch) = self.under_way(&wanted.url, &found.variant)
                && let Ok(fetched) = fetch.head().await
                && let Some(served) = joined(&fetched, &wanted)
            {
                return Ok(served);
            }
            return self.pass(wanted, found.selecting, stale).await;
        }
        if let Some(sought) = range.filter(|range| range.seeks())
            && self.is_far_from(&wanted.url, sought, found.variant).await
        {
            let (variant, holders) = ((&found.selecting, found.variant), Arc::default());
            if let Some(served) = self.by_slices(&wanted, sought, variant, &holders).await? {
                return Ok(served);
            }
            // A part of one version alone is cut from the whole, or else that is what is wanted.
            if !wanted.headers.contains_key(IF_RANGE) {
                return self.lead_part(wanted, sought, (found.selecting, found.variant), holders).await;
            }
        }
        if !self.cache.is_passed(&key) && may_share(&wanted) {
            match self.join(&wanted.url, found.variant) {
                Joined::Leader(lead) => return self.lead(wanted, found.selecting, found.variant, stale, lead).await,
                Joined::Follower(fetch) => {
                    self.metrics.coalesced.inc();
                    let fetched = fetch.head().await?;
                    if let Some(served) = joined(&fetched, &wanted) {
                        return Ok(served);
                    }
                }
            }
        }
        // By now it may be known what the responses for this URL vary by.
        let found = self.find(&wanted.url, &wanted.headers).await;
        self.lead(wanted, found.selecting, found.variant, stale, Lead::alone()).await
    }

    /// Whether no fetch under way brings `sought` before long.
    async fn is_far_from(&self, url: &CoralUrl, sought: Wants, variant: Key) -> bool {
        match self.under_way(url, &variant) {
            Some(fetch) => fetch.head().await.is_ok_and(|fetched| fetched.is_far_from(sought, Instant::now())),
            None => true,
        }
    }

    /// Asks whether a copy is still good that is served meanwhile (RFC 5861 §3), unless somebody does, or the origin failed
    /// a moment ago.
    fn revalidate_behind(self: &Arc<Self>, mut wanted: Wanted, selecting: Arc<[HeaderName]>, stale: Arc<Object>) {
        if self.cache.failed(&stale.key).is_none()
            && let Joined::Leader(lead) = self.join(&wanted.url, stale.variant)
        {
            wanted.method = Method::GET;
            let upstream = to_upstream(&wanted.headers, &selecting, &wanted.url.passes);
            self.runtime.spawn(
                Fetch { fetcher: Arc::clone(self), upstream, wanted, stale: Some(stale), what: What::Whole, lead }
                    .run(),
            );
        }
    }

    /// Fetches, and waits for the head.
    async fn lead(
        self: &Arc<Self>,
        wanted: Wanted,
        selecting: Arc<[HeaderName]>,
        variant: Key,
        stale: Option<Arc<Object>>,
        lead: Lead,
    ) -> Result<Served, ProxyError> {
        // Between the look into the cache and the lead, another fetch may have ended.
        if let Some(object) = self.find(&wanted.url, &wanted.headers).await.object
            && object.variant == variant
            && object.validity.is_fresh(SystemTime::now())
        {
            return served(object, CacheStatus::Hit);
        }
        let watched = lead.watch();
        let fetch = Fetch {
            fetcher: Arc::clone(self),
            upstream: to_upstream(&wanted.headers, &selecting, &wanted.url.passes),
            wanted,
            stale,
            what: What::Whole,
            lead,
        };
        self.runtime.spawn(fetch.run());
        let fetched = watched.head().await?;
        served(Arc::clone(&fetched.object), status(&fetched, false))
    }
}

/// Whether what comes for this request may be for others, too: if not, none of them is to wait for it.
fn may_share(wanted: &Wanted) -> bool {
    let shows_who_asks =
        wanted.url.passes.fields.contains(&AUTHORIZATION) && wanted.headers.contains_key(AUTHORIZATION);
    !shows_who_asks && !CacheControl::of(&wanted.headers).no_store
}

fn served(object: Arc<Object>, status: CacheStatus) -> Result<Served, ProxyError> {
    // Only a window that has moved on has no beginning, and then nobody is led here.
    Served::new(object, status).ok_or(ProxyError::BrokenOff)
}

/// What one who joined a fetch gets of it; `None` if it is not meant for him, or he came too late.
fn joined(fetched: &Fetched, wanted: &Wanted) -> Option<Served> {
    let object = &fetched.object;
    let matches = object.variant == variant_key(object.key, &object.selecting, &wanted.headers);
    if !(fetched.shared && matches) {
        return None;
    }
    Served::new(Arc::clone(object), status(fetched, true))
}

fn status(fetched: &Fetched, collapsed: bool) -> CacheStatus {
    let stored = fetched.stored;
    match fetched.how {
        How::New(source) => CacheStatus::Fetched { source, stored, collapsed },
        How::Replaced(source) => CacheStatus::Replaced { source, stored, collapsed },
        How::Revalidated(source) => CacheStatus::Revalidated(source),
        How::Stale(origin_status) => CacheStatus::Stale { origin_status },
        How::Behind => CacheStatus::LentBehind,
    }
}
