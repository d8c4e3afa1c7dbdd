//! Where an object comes from: the cache, then nodes that have it, then the origin. The order, as one function each.
//!
//! A fetch is a task of its own: the client who began it may leave without harm to others who joined. Its response is
//! shown to all as soon as the head is here, and is stored once it is whole; then, and only then, it takes the place of
//! what was there before.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use coral_dsht::{DshtHandle, Key};
use http::header::{HeaderMap, HeaderName};
use http::{Method, StatusCode};
use tokio::time::Instant;

use crate::cache::body::{Body, BodyError, Limits, Reader, Writer};
use crate::cache::{Cache, Object};
use crate::cache_status::{CacheStatus, Source};
use crate::chain::Waiting;
use crate::coalesce::{Coalesce, Fetched, How, Joined, Lead, Stage};
use crate::config::Config;
use crate::error::ProxyError;
use crate::headers::{add_condition, clean_response, freshened, has_validator, selecting, to_upstream};
use crate::metrics::Metrics;
use crate::origin::{Answer, Origins, Upstream, client};
use crate::peers::{Delivery, Missed, Peers, Search};
use crate::policy::{CacheControl, NotStored, Validity, may_store, variant_key};
use crate::reference::{Fetching, References};
use crate::resolver::Resolver;
use crate::tls;
use crate::url::CoralUrl;

/// Everything that a fetch needs.
#[derive(Debug)]
pub(crate) struct Fetcher {
    pub(crate) config: Arc<Config>,
    pub(crate) cache: Cache,
    pub(crate) references: References,
    pub(crate) metrics: Metrics,
    me: SocketAddr,
    coalesce: Coalesce,
    peers: Peers,
    origins: Origins,
    limits: Limits,
}

/// What a client wants.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) url: CoralUrl,
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    /// From what is here, or not at all.
    pub(crate) only_if_cached: bool,
    /// Who waits for it, if another node asks.
    pub(crate) waiting: Option<Waiting>,
}

/// What it gets: an object and a place to read it from.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) object: Arc<Object>,
    /// Begun at the first byte, so that a window does not move on; `None` where the body is whole in memory.
    pub(crate) reader: Option<Reader>,
    pub(crate) status: CacheStatus,
}

impl Served {
    /// `None` if the beginning of the body is gone already.
    fn new(object: Arc<Object>, status: CacheStatus) -> Option<Self> {
        let reader = match object.body.whole() {
            Some(_) => None,
            None => Some(object.body.reader(0, None)?),
        };
        Some(Self { object, reader, status })
    }
}

impl Fetcher {
    pub(crate) fn new(
        config: Arc<Config>,
        me: SocketAddr,
        dsht: DshtHandle,
        metrics: Metrics,
    ) -> Result<Self, ProxyError> {
        let tls = tls::client_config(&config.origin.extra_ca)?;
        let references = References::start(me, dsht.clone(), config.reference.clone(), metrics.clone());
        // Peers are always addresses, so this resolver is never asked.
        let peer_client =
            client(Resolver::of_system(config.peer.connect_timeout), tls.clone(), config.peer.connect_timeout)?;
        let cache = Cache::open(&config, references.clone(), &metrics)?;
        Ok(Self {
            peers: Peers::new(&config, peer_client, me, dsht, metrics.clone()),
            origins: Origins::new(&config, &tls, &metrics)?,
            coalesce: Coalesce::default(),
            me,
            limits: Limits {
                memory: usize::try_from(config.memory_object_limit.as_u64()).unwrap_or(usize::MAX),
                disk: cache.disk().cloned(),
                patience: config.client.stall_timeout,
                finish_unread: config.origin.finish_unread.as_u64(),
            },
            cache,
            references,
            metrics,
            config,
        })
    }

    /// Finds or fetches what is wanted.
    pub(crate) async fn serve(self: &Arc<Self>, wanted: Wanted) -> Result<Served, ProxyError> {
        let key = wanted.url.key();
        let now = SystemTime::now();
        let found = self.cache.find(key, &wanted.headers).await;
        if wanted.method == Method::OPTIONS {
            return self.pass(wanted, found.selecting).await;
        }
        let mut stale = None;
        if let Some(object) = found.object {
            if object.validity.is_fresh(now)
                && let Some(served) = Served::new(Arc::clone(&object), CacheStatus::Hit)
            {
                return Ok(served);
            }
            stale = Some(object);
        }
        if wanted.only_if_cached {
            return self.join_only(&wanted, found.variant).await;
        }
        if let Some(error) = self.cache.failed(&key) {
            return match stale.filter(|stale| stale.validity.may_stand_in(now)) {
                Some(stale) => served(stale, CacheStatus::Stale { origin_status: None }),
                None => Err(ProxyError::FailedLately(error.to_string().into(), Arc::new(error))),
            };
        }
        if wanted.method == Method::HEAD {
            // What is on its way has a head before long.
            if let Some(fetch) = self.coalesce.under_way(&found.variant)
                && let Ok(fetched) = fetch.head().await
                && let Some(served) = joined(&fetched, &wanted)
            {
                return Ok(served);
            }
            return self.pass(wanted, found.selecting).await;
        }
        if !self.cache.is_passed(&key) && !CacheControl::of(&wanted.headers).no_store {
            match self.coalesce.join(found.variant) {
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
        let found = self.cache.find(key, &wanted.headers).await;
        self.lead(wanted, found.selecting, found.variant, stale, Lead::alone()).await
    }

    /// Serves another node, or a client who wants only what is here: from a fetch under way, or not at all.
    async fn join_only(&self, wanted: &Wanted, variant: Key) -> Result<Served, ProxyError> {
        let key = wanted.url.key();
        let Some(fetch) = self.coalesce.under_way(&variant) else {
            // Between the look into the cache and this one, the fetch may have ended.
            return match self.cache.find(key, &wanted.headers).await.object {
                Some(object) if object.validity.is_fresh(SystemTime::now()) => served(object, CacheStatus::Hit),
                // Others would wait here, one after another, for what none of them may have.
                _ if wanted.waiting.is_some() && self.is_origins_alone(&key) => Err(ProxyError::AskOrigin),
                _ => Err(ProxyError::NotCached),
            };
        };
        let longest = self.config.peer.first_byte_timeout / 2;
        let Some(waiting) = &wanted.waiting else {
            let fetched = fetch.head_for_peer(longest).await.map_err(|_| ProxyError::NotCached)?;
            return joined(&fetched, wanted).ok_or(ProxyError::NotCached);
        };
        let wait = waiting.wait.unwrap_or(longest);
        if !fetch.chain.admit(self.me, &waiting.nodes, Instant::now() + 2 * wait) {
            return Err(ProxyError::NotCached);
        }
        let fetched = fetch.head_for_peer(wait).await?;
        joined(&fetched, wanted).ok_or(match fetched.shared {
            true => ProxyError::NotCached,
            false => ProxyError::AskOrigin,
        })
    }

    /// Whether this node would only send another one to the origin: what comes is not stored, or the origin failed lately.
    fn is_origins_alone(&self, key: &Key) -> bool {
        self.cache.is_passed(key) || self.cache.failed(key).is_some()
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
        if let Some(object) = self.cache.find(wanted.url.key(), &wanted.headers).await.object
            && object.variant == variant
            && object.validity.is_fresh(SystemTime::now())
        {
            return served(object, CacheStatus::Hit);
        }
        let watched = lead.watch();
        let fetch = Fetch {
            fetcher: Arc::clone(self),
            upstream: to_upstream(&wanted.headers, &selecting),
            wanted,
            stale,
            lead,
        };
        tokio::spawn(fetch.run());
        let fetched = watched.head().await?;
        served(Arc::clone(&fetched.object), status(&fetched, false))
    }

    /// Passes a request on, and its response back, without the cache: OPTIONS to the origin, HEAD to a node that has the
    /// object, else to the origin.
    async fn pass(self: &Arc<Self>, wanted: Wanted, selecting: Arc<[HeaderName]>) -> Result<Served, ProxyError> {
        if wanted.only_if_cached {
            return Err(ProxyError::NotCached);
        }
        let Wanted { method, url, .. } = &wanted;
        let upstream = to_upstream(&wanted.headers, &selecting);
        let sought = match *method == Method::HEAD && !self.cache.is_passed(&url.key()) {
            true => self.peers.fetch(method, url, &upstream, Search::Get).await,
            false => Err(Missed::Nowhere),
        };
        let (mut answer, source) = match sought {
            Ok(Delivery { answer, level, .. }) => (answer, Source::Peer(level)),
            Err(_) => (self.origins.fetch(method, url, upstream).await?, Source::Origin),
        };
        clean_response(&mut answer.headers, answer.received);
        let (body, writer) = Body::new(answer.length, false, self.limits.clone());
        let object = self.object(&wanted, &HeaderMap::new(), &answer, Arc::from([]), body);
        let served = served(Arc::new(object), CacheStatus::Passed(source))?;
        tokio::spawn(pump(answer.body, writer, answer.length, || {}));
        Ok(served)
    }

    fn object(
        &self,
        wanted: &Wanted,
        upstream: &HeaderMap,
        answer: &Answer,
        selecting: Arc<[HeaderName]>,
        body: Body,
    ) -> Object {
        let key = wanted.url.key();
        Object {
            key,
            variant: variant_key(key, &selecting, upstream),
            selecting,
            status: answer.status,
            headers: answer.headers.clone(),
            body,
            validity: Validity::of(
                answer.status,
                &answer.headers,
                answer.asked,
                answer.received,
                &self.config.freshness,
            ),
        }
    }
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
    }
}

/// One fetch.
struct Fetch {
    fetcher: Arc<Fetcher>,
    wanted: Wanted,
    /// The fields with which others are asked.
    upstream: HeaderMap,
    stale: Option<Arc<Object>>,
    lead: Lead,
}

/// What was asked for, with its head.
struct Asked {
    answer: Answer,
    source: Source,
    /// The node it comes from, if it is not the origin.
    peer: Option<SocketAddr>,
    /// Held until the object is stored or lost.
    reference: Option<Fetching>,
}

impl Fetch {
    async fn run(self) {
        let mut conditional = self.upstream.clone();
        let asks_if_changed = self.stale.as_ref().is_some_and(|stale| has_validator(&stale.headers));
        if let Some(stale) = &self.stale {
            add_condition(&mut conditional, &stale.headers);
        }
        let Asked { answer, source, peer, reference } = match self.ask(conditional).await {
            Ok(answered) => answered,
            Err(error) => return self.failed(error),
        };
        let may_stand_in = |stale: &Arc<Object>| stale.validity.may_stand_in(SystemTime::now());
        if answer.status == StatusCode::NOT_MODIFIED {
            match self.stale.clone().filter(|_| asks_if_changed) {
                Some(stale) => return self.confirmed(&stale, answer, source),
                None => return self.failed(ProxyError::OriginProtocol("304 to a request without condition".into())),
            }
        }
        if answer.status.is_server_error()
            && let Some(stale) = self.stale.clone().filter(may_stand_in)
        {
            let status = answer.status;
            let failed = ProxyError::OriginProtocol(format!("it answered {status}").into());
            self.fetcher.cache.fail(self.wanted.url.key(), failed);
            return self.tell(stale, How::Stale(Some(status.as_u16())), true, false);
        }
        self.received(Asked { answer, source, peer, reference }).await;
    }

    /// Other nodes first, then the origin.
    async fn ask(&self, headers: HeaderMap) -> Result<Asked, ProxyError> {
        let (fetcher, url) = (&self.fetcher, &self.wanted.url);
        let from_origin = async |headers, reference| {
            let answer = fetcher.origins.fetch(&Method::GET, url, headers).await?;
            Ok(Asked { answer, source: Source::Origin, peer: None, reference })
        };
        // What is never stored is at no other node, and this one will not have it either.
        if fetcher.cache.is_passed(&url.key()) {
            return from_origin(headers, None).await;
        }
        // Others are sent here only for what they can share.
        let mut claim = self.lead.can_be_joined().then(|| fetcher.references.fetching(url.key()));
        let search = match &mut claim {
            Some(claim) => Search::Claim(claim, self.lead.chain()),
            None => Search::Get,
        };
        match fetcher.peers.fetch(&Method::GET, url, &headers, search).await {
            Ok(Delivery { answer, level, peer }) => {
                Ok(Asked { answer, source: Source::Peer(level), peer: Some(peer), reference: claim })
            }
            Err(Missed::Nowhere) => from_origin(headers, claim).await,
            Err(Missed::AskOrigin) => {
                // Told on at once: the crowd shall not go to the origin one behind the other.
                self.lead.tell(Stage::Alone);
                drop(claim);
                from_origin(headers, None).await
            }
        }
    }

    fn failed(self, error: ProxyError) {
        let cache = &self.fetcher.cache;
        cache.fail(self.wanted.url.key(), error.clone());
        match self.stale.clone().filter(|stale| stale.validity.may_stand_in(SystemTime::now())) {
            Some(stale) => self.tell(stale, How::Stale(None), true, false),
            None => self.lead.tell(Stage::Head(Err(error))),
        }
    }

    /// The stale object is good again (RFC 9111 §4.3.3, §4.3.4).
    fn confirmed(self, stale: &Object, mut answer: Answer, source: Source) {
        clean_response(&mut answer.headers, answer.received);
        let headers = freshened(&stale.headers, &answer.headers);
        let config = &self.fetcher.config.freshness;
        let object = Arc::new(Object {
            key: stale.key,
            selecting: Arc::clone(&stale.selecting),
            variant: stale.variant,
            status: stale.status,
            validity: Validity::of(stale.status, &headers, answer.asked, answer.received, config),
            headers,
            body: stale.body.clone(),
        });
        self.fetcher.cache.insert(Arc::clone(&object), SystemTime::now());
        self.tell(object, How::Revalidated(source), true, true);
    }

    /// A response with a body: shows it to all who wait, and stores it once it is whole.
    async fn received(self, asked: Asked) {
        let Asked { mut answer, source, peer, reference } = asked;
        let fetcher = Arc::clone(&self.fetcher);
        let key = self.wanted.url.key();
        clean_response(&mut answer.headers, answer.received);
        let may_store = may_store(&Method::GET, &self.wanted.headers, answer.status, &answer.headers);
        if let Err(reason) = may_store {
            tracing::debug!(url = %self.wanted.url.canonical(), ?reason, "not stored");
            // A client's own no-store says nothing of the URL.
            if reason != NotStored::NoStore || CacheControl::of(&answer.headers).no_store {
                fetcher.cache.pass(key);
            }
        }
        let selecting = selecting(&answer.headers);
        let (body, writer) = Body::new(answer.length, may_store.is_ok(), fetcher.limits.clone());
        let object = Arc::new(fetcher.object(&self.wanted, &self.upstream, &answer, selecting, body));
        let mut lead = self.lead;
        if may_store.is_ok() {
            // In this order, so that at no moment a request finds neither.
            lead.is_also(object.variant);
            fetcher.cache.varies(key, &object.selecting);
        }
        let how = if self.stale.is_some() { How::Replaced(source) } else { How::New(source) };
        let stored = may_store.is_ok() && !object.body.is_window();
        lead.tell(Stage::Head(Ok(Arc::new(Fetched {
            object: Arc::clone(&object),
            how,
            shared: may_store.is_ok(),
            stored,
        }))));
        // What cannot be joined later is no longer offered, neither here nor in the index.
        let (lead, reference) = if stored { (Some(lead), reference) } else { (None, None) };
        let store = |body: &Body| {
            if may_store.is_ok() && !body.is_window() {
                fetcher.cache.insert(Arc::clone(&object), SystemTime::now());
            }
        };
        let body = object.body.clone();
        let ended = pump(answer.body, writer, answer.length, move || store(&body)).await;
        if let Err(error) = ended {
            tracing::debug!(%error, "a fetch ended before its end");
            // That nobody reads any more, or that the disk fails, is not the other node's fault.
            if let Some(peer) = peer.filter(|_| !matches!(error, ProxyError::Node(_))) {
                fetcher.peers.set_aside(peer, &error);
            }
        }
        drop((lead, reference));
    }

    fn tell(self, object: Arc<Object>, how: How, shared: bool, stored: bool) {
        let fetched = Fetched { object, how, shared, stored };
        self.lead.tell(Stage::Head(Ok(Arc::new(fetched))));
    }
}

/// Moves a body from where it comes to all who read it. `whole` is called when all of it is here, before any reader
/// can have seen the end: the next request then finds it in the cache.
async fn pump(mut from: Upstream, mut to: Writer, length: Option<u64>, whole: impl FnOnce()) -> Result<(), ProxyError> {
    let mut so_far = 0;
    let mut last = Bytes::new();
    loop {
        match from.chunk().await {
            Ok(None) => break,
            Ok(Some(chunk)) => {
                so_far += chunk.len() as u64;
                if length == Some(so_far) {
                    last = chunk;
                } else if let Err(error) = to.write(chunk).await {
                    to.fail(error);
                    return Err(ProxyError::Node(error.to_string().into()));
                }
            }
            Err(error) => {
                to.fail(BodyError::BrokenOff);
                return Err(error);
            }
        }
    }
    if let Err(error) = to.seal(last).await {
        to.fail(error);
        return Err(ProxyError::Node(error.to_string().into()));
    }
    whole();
    to.end();
    Ok(())
}
