//! Fetching from the nodes that the index names: in its order, a few of them, each within a short time.
//!
//! A node is asked by plain HTTP with `Cache-Control: only-if-cached`: it answers from its cache or from a fetch under
//! way, else with 504 at once; it never asks on behalf of another one. One that waits for the object itself says so every
//! few seconds and is asked again ([`crate::chain`]), so one that says nothing is known to have gone. A node that fails
//! is refused, and the index names others or lets this one take its place; after a few the origin is asked.
//!
//! Where the index names several and the first is overdue, the next one is asked as well (a *hedge*), for what it has at that
//! moment only: so this node still waits for one node alone, and no circle comes of it. Who answers first with the object
//! delivers; the other one is not to blame.
//!
//! References say what their nodes' bodies are ([`crate::stamp`]): whom two networks contradict is passed over, and of any other disagreement
//! the origin is asked.
//!
//! In a closed network an answer counts only if it shows the network's key ([`crate::auth`]): one who cannot is set aside.
//!
//! Before the origin is asked for what is nowhere else, those are asked who have it stale (`max-stale`): see `fetch/lent.rs`; or, for a range, who
//! have a part with all of it: see `fetch/part.rs`.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use coral_dsht::{DshtHandle, Hop, Id, Level, Levels, Value};
use http::header::{AGE, HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use moka::sync::Cache as Moka;
use tokio::time::Instant;
use url::Url;

use crate::address::may_be_peer;
use crate::auth::Auth;
use crate::budget::Budget;
use crate::cache_status::CacheStatus;
use crate::chain::{Chain, WAITING, Waiting};
use crate::client::Client;
use crate::conditional::Wants;
use crate::config::{Config, PeerLimits};
use crate::error::{Fault, ProxyError, Verdict};
use crate::headers::{CACHE_STATUS, ORIGIN_AGE, only_if_cached};
use crate::metrics::Metrics;
use crate::origin::{Answer, Bounds, ask};
use crate::policy::list_members;
use crate::reference::{
    Fetching, decode_part, decode_reference, decode_stamp, encode_reference, encode_stamped, parts_key, stale_key,
};
use crate::searches::{self, Searches};
use crate::stamp::Words;
use crate::trace::{Open, Step, Traces};
use crate::url::CoralUrl;
use hedge::FirstBytes;

mod hedge;

/// Nodes of which it is remembered that they failed.
const REMEMBERED_NODES: u64 = 10_000;
/// References that a claim can refuse.
const MOST_REFUSED: usize = 4;
/// Nodes that are asked for a part, after those that have the whole: the client has waited for these by then.
const MOST_ASKED_FOR_PART: usize = 2;
/// Nodes that are asked for a stale copy: it only saves the origin some bytes, and a client waits meanwhile.
const MOST_ASKED_FOR_STALE: usize = 2;

/// What nodes are asked.
pub(crate) struct Inquiry<'a> {
    pub(crate) method: &'a Method,
    pub(crate) url: &'a CoralUrl,
    pub(crate) headers: &'a HeaderMap,
    /// Whether an answer is what is wanted; one that is not is passed over.
    pub(crate) fits: &'a (dyn Fn(&Answer) -> bool + Send + Sync),
}

/// What a node delivers.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) answer: Answer,
    /// The level at which the index named it.
    pub(crate) level: Level,
    pub(crate) peer: SocketAddr,
    /// Whether it is a stale copy, which was asked for as such.
    pub(crate) stale: bool,
    /// What the references of those named say.
    pub(crate) words: Words,
}

/// How the index is asked who has an object.
#[derive(Debug)]
pub(crate) enum Search<'a> {
    /// By a claim: those who ask next are sent here, and may wait for what comes.
    Claim(&'a mut Fetching, &'a Chain),
    /// By a get: what comes is for one client alone.
    Get,
    /// By a get of those who may have it stale. They give what they have, and wait for nobody.
    Stale,
    /// Not at all: these may have it, whoever else has claimed it.
    Named(&'a Named, &'a Chain),
}

impl Search<'_> {
    const fn is_for_stale(&self) -> bool {
        matches!(self, Self::Stale)
    }
}

/// References in the order in which to try them, and the level at which the index had them.
pub(crate) type Named = (Vec<Value>, Level);

/// Why the origin is to be asked.
#[derive(Debug)]
pub(crate) enum Missed {
    /// No node has the object, or will in time.
    Nowhere,
    /// The index has not said who has it.
    Unknown,
    /// A node says that the origin alone can help: each node is to ask for itself.
    AskOrigin,
    /// References of one version say different things of its body, and no one knows who is right.
    Disputed(Words),
}

/// The other nodes, as far as their content goes.
#[derive(Debug)]
pub(crate) struct Peers {
    client: Client,
    dsht: DshtHandle,
    me: SocketAddr,
    /// How nodes know each other, in a closed network.
    auth: Option<Auth>,
    limits: PeerLimits,
    bounds: Bounds,
    set_aside: Moka<SocketAddr, ()>,
    first_bytes: FirstBytes,
    /// Objects that were delivered and could be asked about, in an order that only this process knows.
    delivered: (AtomicU64, RandomState),
    metrics: Metrics,
    /// What the index was asked lately.
    pub(crate) searches: Searches,
    traces: Traces,
}

/// Where a node stands among others, and what it tells of that.
#[derive(Debug)]
pub(crate) struct Surroundings {
    /// Its HTTP address.
    pub(crate) me: SocketAddr,
    pub(crate) dsht: DshtHandle,
    /// How nodes know each other, in a closed network.
    pub(crate) auth: Option<Auth>,
    pub(crate) metrics: Metrics,
    pub(crate) traces: Traces,
}

impl Peers {
    pub(crate) fn new(config: &Config, client: Client, budget: Option<Budget>, around: Surroundings) -> Self {
        let Surroundings { me, dsht, auth, metrics, traces } = around;
        Self {
            client,
            dsht,
            me,
            auth,
            limits: config.peer.clone(),
            bounds: Bounds {
                first_byte_timeout: config.peer.first_byte_timeout,
                stall_timeout: config.peer.stall_timeout,
                max_header: config.origin.max_header.as_u64(),
                max_body: config.origin.max_body.as_u64(),
                counter: metrics.moved("received", "peer"),
                requests: metrics.asked_peers.clone(),
                budget,
            },
            set_aside: Moka::builder().max_capacity(REMEMBERED_NODES).time_to_live(config.peer.set_aside).build(),
            first_bytes: FirstBytes::default(),
            delivered: (AtomicU64::new(0), RandomState::new()),
            metrics,
            searches: Searches::default(),
            traces,
        }
    }

    /// Asks the nodes that the index names for the URL.
    pub(crate) async fn fetch(&self, inquiry: &Inquiry<'_>, mut search: Search<'_>) -> Result<Delivery, Missed> {
        let mut headers = inquiry.headers.clone();
        only_if_cached(&mut headers, search.is_for_stale());
        let Ok(host) = HeaderValue::from_str(&inquiry.url.peer_host()) else {
            return Err(Missed::Nowhere);
        };
        headers.insert(HOST, host);
        let until = Instant::now() + self.limits.patience;
        let sought = self.ask_those_named(&Inquiry { headers: &headers, ..*inquiry }, &mut search, until).await;
        if let Search::Claim(_, chain) | Search::Named(_, chain) = search {
            chain.found(sought.as_ref().ok().map(|delivery| delivery.peer));
        }
        sought
    }

    /// Asks for a copy of what is nowhere to be had fresh: it may be stale. `None` if there is none that soon.
    pub(crate) async fn stale(&self, inquiry: &Inquiry<'_>) -> Option<Delivery> {
        tokio::time::timeout(self.limits.index_timeout, self.fetch(inquiry, Search::Stale)).await.ok()?.ok()
    }

    async fn ask_those_named(
        &self,
        inquiry: &Inquiry<'_>,
        search: &mut Search<'_>,
        until: Instant,
    ) -> Result<Delivery, Missed> {
        let mut useless: Vec<Value> = Vec::new();
        let mut words = Words::default();
        let mut attempts = match search.is_for_stale() {
            true => self.limits.attempts.min(MOST_ASKED_FOR_STALE),
            false => self.limits.attempts,
        };
        // Each round but the last adds to what is refused.
        for _ in 0..=self.limits.attempts {
            let refused = &useless[useless.len().saturating_sub(MOST_REFUSED)..];
            let step = self.traces.step(inquiry.headers, || Step::Search { level: None, found: 0, hops: 0 });
            let (values, level) = self.named(inquiry.url, search, refused, step).await?;
            let known = useless.len();
            let values = values.into_iter().take(self.limits.attempts + MOST_REFUSED);
            let named: Vec<(Option<SocketAddr>, Value)> = values
                .filter(|value| !useless.iter().any(|refused| refused.is_same(value)))
                .map(|value| (self.usable(&value), value))
                .collect();
            for (peer, value) in &named {
                if let (Some(peer), Some(stamp)) = (peer, decode_stamp(value)) {
                    words.hear(*peer, stamp);
                }
            }
            if words.are_disputed() {
                return Err(Missed::Disputed(words));
            }
            // Two networks say otherwise than these.
            let named: Vec<(Option<SocketAddr>, Value)> =
                named.into_iter().map(|(peer, value)| (peer.filter(|peer| !words.outvote(*peer)), value)).collect();
            for (place, (peer, value)) in named.iter().enumerate() {
                if let Some(first) = *peer {
                    if attempts == 0 {
                        return Err(Missed::Nowhere);
                    }
                    attempts -= 1;
                    let second = named[place + 1..].iter().find_map(|(peer, _)| *peer);
                    match self.ask_hedged(first, second, inquiry, search, until).await {
                        Ok((answer, peer)) => {
                            let stale = matches!(said(&answer.headers), Said::Stale);
                            return Ok(Delivery { answer, level, peer, stale, words });
                        }
                        Err(Refusal::AskOrigin) => return Err(Missed::AskOrigin),
                        Err(Refusal::Waiting) => return Err(Missed::Nowhere),
                        Err(Refusal::Nothing) => {}
                        Err(Refusal::Failed(error)) => self.set_aside(first, &error),
                    }
                }
                useless.push(value.clone());
            }
            if useless.len() == known {
                break;
            }
        }
        Err(Missed::Nowhere)
    }

    /// References in the order in which to try them, and their level.
    async fn named(
        &self,
        url: &CoralUrl,
        search: &mut Search<'_>,
        refused: &[Value],
        step: Open,
    ) -> Result<Named, Missed> {
        let began = Instant::now();
        let (values, level) = match search {
            // The index has an order of its own, by which the crowd becomes a tree.
            Search::Claim(fetching, _) => {
                let claimed = fetching.claim(refused, self.limits.index_timeout).await.ok_or(Missed::Unknown)?;
                self.seen(url, began, (claimed.level, claimed.values.len(), claimed.hops), step);
                (claimed.values, claimed.level)
            }
            _ if !refused.is_empty() => return Err(Missed::Nowhere),
            Search::Get => self.find(url, url.key(), step).await?,
            Search::Stale => self.find(url, stale_key(url.key()), step).await?,
            Search::Named(named, _) => return Ok((*named).clone()),
        };
        level.filter(|_| !values.is_empty()).map(|level| (values, level)).ok_or(Missed::Nowhere)
    }

    /// Those who have the whole of `url`, as the index says now.
    pub(crate) async fn who_has(&self, url: &CoralUrl) -> Option<Named> {
        let (values, level) = self.find(url, url.key(), Open::default()).await.ok()?;
        Some((values, level?))
    }

    /// Those who have a part of `url` in which lies what is wanted, as the index says now: by references as if they had the whole.
    pub(crate) async fn who_has_part(&self, url: &CoralUrl, wants: Wants) -> Option<Named> {
        let (values, level) = self.find(url, parts_key(url.key()), Open::default()).await.ok()?;
        let with = values.iter().filter_map(decode_part).filter(|(_, place, _)| place.has(wants));
        let named =
            with.map(|(addr, _, stamp)| stamp.map_or_else(|| encode_reference(addr), |is| encode_stamped(addr, is)));
        let named: Vec<Value> = named.filter(|value| self.usable(value).is_some()).take(MOST_ASKED_FOR_PART).collect();
        Some((named, level?)).filter(|(named, _)| !named.is_empty())
    }

    /// What the index has under one of the keys of `url`, in this node's order.
    async fn find(&self, url: &CoralUrl, key: Id, step: Open) -> Result<(Vec<Value>, Option<Level>), Missed> {
        let (limit, began) = (self.limits.index_timeout, Instant::now());
        let found = tokio::time::timeout(limit, self.dsht.get(key, Levels::ALL)).await;
        let found = found.ok().and_then(Result::ok).ok_or(Missed::Unknown)?;
        self.seen(url, began, (found.level, found.values.len(), found.hops), step);
        let mut values = found.values;
        // Each node has an order of its own, by a hash: clients of many nodes spread over the references without
        // a random source, and a replay asks the same.
        values.sort_by_key(|value| Id::hash(&[key.as_bytes(), self.me.to_string().as_bytes(), value.as_bytes()]));
        Ok((values, found.level))
    }

    /// Keeps a search for the node's operator.
    fn seen(
        &self,
        url: &CoralUrl,
        began: Instant,
        (level, found, hops): (Option<Level>, usize, Vec<Hop>),
        mut step: Open,
    ) {
        step.tell(|step| *step = Step::Search { level, found, hops: hops.len() });
        let (url, at, took) = (url.canonical(), SystemTime::now(), began.elapsed());
        self.searches.add(searches::Search { url, at, took, level, found, hops });
    }

    /// The node that a reference names, if it may be asked. Other kinds of values are nobody's.
    fn usable(&self, value: &Value) -> Option<SocketAddr> {
        let peer = decode_reference(value)?;
        (peer != self.me && may_be_peer(peer, self.me) && !self.is_set_aside(peer)).then_some(peer)
    }

    /// Asks `first`, and when it is overdue `second`, too; who of them delivers.
    async fn ask_hedged(
        &self,
        first: SocketAddr,
        second: Option<SocketAddr>,
        inquiry: &Inquiry<'_>,
        search: &Search<'_>,
        until: Instant,
    ) -> Result<(Answer, SocketAddr), Refusal> {
        let asked = self.wait_for(first, inquiry, search, until);
        let Some(second) = second else {
            return asked.await.map(|answer| (answer, first));
        };
        let (mut asked, began) = (pin!(asked), Instant::now());
        let overdue = self.first_bytes.overdue_after(self.limits.hedge);
        if let Ok(answer) = tokio::time::timeout(overdue, &mut asked).await {
            return answer.map(|answer| (answer, first));
        }
        tokio::select! {
            answer = &mut asked => answer.map(|answer| (answer, first)),
            Some(answer) = self.has_now(second, inquiry, search) => {
                self.first_bytes.took(began.elapsed());
                self.metrics.hedges_won.inc();
                Ok((answer, second))
            }
        }
    }

    /// Asks `peer` for what it has at this moment. `None` if that is nothing, or it fails.
    async fn has_now(&self, peer: SocketAddr, inquiry: &Inquiry<'_>, search: &Search<'_>) -> Option<Answer> {
        let nodes = self.who_waits(search, |chain| chain.behind(peer, Instant::now()))?;
        self.metrics.hedges.inc();
        self.ask(peer, inquiry, search, &Waiting { wait: Some(Duration::ZERO), nodes }).await.ok()
    }

    /// This node, and those `behind` it if anybody may be.
    fn who_waits(
        &self,
        search: &Search<'_>,
        behind: impl FnOnce(&Chain) -> Option<Vec<SocketAddr>>,
    ) -> Option<Vec<SocketAddr>> {
        let mut nodes = vec![self.me];
        if let Search::Claim(_, chain) | Search::Named(_, chain) = search {
            nodes.extend(behind(chain)?);
        }
        Some(nodes)
    }

    /// Asks `peer` until it says something else than that it waits itself, or until `until`.
    async fn wait_for(
        &self,
        peer: SocketAddr,
        inquiry: &Inquiry<'_>,
        search: &Search<'_>,
        until: Instant,
    ) -> Result<Answer, Refusal> {
        loop {
            let Some(nodes) = self.who_waits(search, |chain| chain.wait_for(peer, Instant::now())) else {
                tracing::debug!(%peer, "a node that waits for this one is not waited for");
                return Err(Refusal::Nothing);
            };
            // Its answer needs a part of the time to come back in.
            let wait = match search.is_for_stale() {
                true => Duration::ZERO,
                false => self.limits.first_byte_timeout * 2 / 3,
            };
            let answer = self.ask(peer, inquiry, search, &Waiting { wait: Some(wait), nodes }).await;
            if !matches!(answer, Err(Refusal::Waiting)) || search.is_for_stale() || Instant::now() >= until {
                return answer;
            }
        }
    }

    /// Whether the origin is to be asked about what a node delivers, now that one does: by chance, which no node can foresee.
    pub(crate) fn is_sampled(&self) -> bool {
        let (count, order) = &self.delivered;
        let chance = order.hash_one(count.fetch_add(1, Ordering::Relaxed));
        chance.checked_rem(u64::from(self.limits.verify)).is_some_and(|rest| rest == 0)
    }

    /// Whether a node has failed lately.
    pub(crate) fn is_set_aside(&self, peer: SocketAddr) -> bool {
        self.set_aside.contains_key(&peer)
    }

    /// Asks a node that failed no more for a while.
    pub(crate) fn set_aside(&self, peer: SocketAddr, error: &ProxyError) {
        tracing::debug!(%peer, %error, "a node is set aside");
        self.set_aside.insert(peer, ());
        self.metrics.error(Verdict { fault: Fault::Peer, ..error.verdict() });
    }

    /// Asks one node once.
    async fn ask(
        &self,
        peer: SocketAddr,
        inquiry: &Inquiry<'_>,
        search: &Search<'_>,
        waiting: &Waiting,
    ) -> Result<Answer, Refusal> {
        let failed = |what: String| Refusal::Failed(ProxyError::Peer(what.into()));
        let target = Url::parse(&format!("http://{peer}{}", inquiry.url.target));
        let target = target.map_err(|_| failed("its URL cannot be written".to_owned()))?;
        let mut headers = inquiry.headers.clone();
        headers.insert(WAITING, waiting.write());
        let mut step = self.traces.step(&headers, || Step::AskNode { peer, status: None });
        step.pass_on(&mut headers);
        let now = SystemTime::now();
        let shown = self.auth.as_ref().map(|auth| auth.show(peer, inquiry.method, &target, &mut headers, now));
        let began = Instant::now();
        let answer =
            ask(inquiry.url.domain(), &self.client, inquiry.method.clone(), target, headers, &self.bounds, None).await;
        let mut answer = answer.map_err(Refusal::Failed)?;
        step.tell(|step| *step = Step::AskNode { peer, status: Some(answer.status) });
        if let Some(shown) = shown
            && !shown.is_answered_by(answer.status, &mut answer.headers)
        {
            return Err(Refusal::Failed(ProxyError::Stranger));
        }
        answer.sent = sent_to_peer(&answer);
        match said(&answer.headers) {
            Said::Stale if search.is_for_stale() && (inquiry.fits)(&answer) => Ok(answer),
            Said::Stale => Err(Refusal::Nothing),
            Said::Served { fresh } if fresh || !answer.status.is_server_error() => {
                if fresh {
                    // Others may have waited themselves, which says nothing of how soon a node answers.
                    self.first_bytes.took(began.elapsed());
                }
                if (inquiry.fits)(&answer) { Ok(answer) } else { Err(Refusal::Nothing) }
            }
            // It passes an error of the origin's on. Better to ask for oneself, but it is not to blame.
            Said::Served { .. } | Said::Own(CacheStatus::AskOrigin) => Err(Refusal::AskOrigin),
            Said::Own(CacheStatus::Waiting) => Err(Refusal::Waiting),
            Said::Own(_) if answer.status == StatusCode::GATEWAY_TIMEOUT => Err(Refusal::Nothing),
            Said::Own(_) => Err(failed(format!("it answered {}", answer.status))),
            Said::Nothing => Err(failed("it is no Coral node".to_owned())),
        }
    }
}

/// Before when the origin has not sent what another node delivers, by its word: it tells how old that was when it was asked. An age in
/// seconds, from a node that says no more, may be nearly one more.
fn sent_to_peer(answer: &Answer) -> SystemTime {
    let number = |name: &HeaderName| answer.headers.get(name)?.to_str().ok()?.parse::<u64>().ok();
    let age = match number(&ORIGIN_AGE) {
        Some(millis) => Duration::from_millis(millis),
        None => Duration::from_secs(number(&AGE).unwrap_or_default().saturating_add(1)),
    };
    answer.asked.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Why a node does not deliver.
enum Refusal {
    /// It waits for the object itself.
    Waiting,
    /// Only the origin can help.
    AskOrigin,
    /// It has nothing, which is no fault of its.
    Nothing,
    /// It failed.
    Failed(ProxyError),
}

enum Said {
    /// It has served the object.
    Served {
        /// From its store, where the origin has it stay for a while.
        fresh: bool,
    },
    /// From its store, where it is no longer fresh.
    Stale,
    /// The answer is its own, not the origin's.
    Own(CacheStatus),
    /// It does not speak of a cache at all.
    Nothing,
}

/// What the node said of its cache: only so can an error of its own be told from the origin's.
fn said(headers: &HeaderMap) -> Said {
    let mut members = headers.get_all(CACHE_STATUS).iter().flat_map(|value| list_members(value.as_bytes()));
    // Members are in the order in which caches added theirs: the last of ours is that node's own.
    match members.rfind(|member| member.starts_with("coral")) {
        Some(member) if member == CacheStatus::Lent.to_string() => Said::Stale,
        Some(member) if member.contains("; hit") => Said::Served { fresh: true },
        Some(member) if member.contains("; fwd=") => Said::Served { fresh: false },
        Some(member) => {
            let words = [CacheStatus::Waiting, CacheStatus::AskOrigin];
            Said::Own(words.into_iter().find(|word| word.to_string() == member).unwrap_or(CacheStatus::Own))
        }
        None => Said::Nothing,
    }
}
