//! Fetching from the nodes that references name: nearest level first, a few of them, each within a short time.
//!
//! A node is asked by plain HTTP with `Cache-Control: only-if-cached`: it answers from its cache or from a fetch whose
//! head it has or that is at the origin, else with 504 at once; it never asks further. So two nodes that look for the
//! same object cannot wait for each other. Racing two references and continuing a broken body come with the issue on
//! cooperation; the order of the attempts is where they fit in.

use std::net::SocketAddr;

use coral_dsht::{DshtHandle, Found, Id, Key, Level, Levels};
use http::header::{HOST, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use moka::sync::Cache as Moka;
use reqwest::{Client, Url};

use crate::address::may_be_peer;
use crate::config::{Config, PeerLimits};
use crate::error::{Fault, ProxyError, Verdict};
use crate::headers::{CACHE_STATUS, only_if_cached};
use crate::metrics::Metrics;
use crate::origin::{Answer, Bounds, ask};
use crate::policy::list_members;
use crate::reference::decode_reference;
use crate::url::CoralUrl;

/// Nodes of which it is remembered that they failed.
const REMEMBERED_NODES: u64 = 10_000;

/// What a node delivers.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) answer: Answer,
    /// The level at which the index named it.
    pub(crate) level: Level,
    pub(crate) peer: SocketAddr,
}

/// The other nodes, as far as their content goes.
#[derive(Debug)]
pub(crate) struct Peers {
    client: Client,
    dsht: DshtHandle,
    me: SocketAddr,
    limits: PeerLimits,
    bounds: Bounds,
    set_aside: Moka<SocketAddr, ()>,
    metrics: Metrics,
}

impl Peers {
    pub(crate) fn new(config: &Config, client: Client, me: SocketAddr, dsht: DshtHandle, metrics: Metrics) -> Self {
        Self {
            client,
            dsht,
            me,
            limits: config.peer.clone(),
            bounds: Bounds {
                first_byte_timeout: config.peer.first_byte_timeout,
                stall_timeout: config.peer.stall_timeout,
                max_header: config.origin.max_header.as_u64(),
                max_body: config.origin.max_body.as_u64(),
                counter: metrics.moved("received", "peer"),
                requests: metrics.asked_peers.clone(),
            },
            set_aside: Moka::builder().max_capacity(REMEMBERED_NODES).time_to_live(config.peer.set_aside).build(),
            metrics,
        }
    }

    /// Asks the nodes that the index names for `url`; `None` if none of them delivers.
    pub(crate) async fn fetch(&self, url: &CoralUrl, headers: &HeaderMap) -> Option<Delivery> {
        let key = url.key();
        let Ok(Ok(found)) = tokio::time::timeout(self.limits.index_timeout, self.dsht.get(key, Levels::ALL)).await
        else {
            tracing::debug!(?key, "the index did not answer");
            return None;
        };
        let level = found.level?;
        let mut headers = headers.clone();
        only_if_cached(&mut headers);
        headers.insert(HOST, HeaderValue::from_str(&url.peer_host()).ok()?);
        for peer in self.candidates(key, &found) {
            match self.ask(peer, url, headers.clone()).await {
                Ok(Some(answer)) => return Some(Delivery { answer, level, peer }),
                Ok(None) => {}
                Err(error) => self.set_aside(peer, &error),
            }
        }
        None
    }

    /// Asks a node that failed no more for a while.
    pub(crate) fn set_aside(&self, peer: SocketAddr, error: &ProxyError) {
        tracing::debug!(%peer, %error, "a node is set aside");
        self.set_aside.insert(peer, ());
        self.metrics.error(Verdict { fault: Fault::Peer, ..error.verdict() });
    }

    /// The nodes to ask, in order. Each node has an order of its own, by a hash: the crowd spreads over the
    /// references without a random source, and a replay asks the same.
    fn candidates(&self, key: Key, found: &Found) -> Vec<SocketAddr> {
        let mut candidates: Vec<SocketAddr> = found
            .values
            .iter()
            .filter_map(decode_reference)
            .filter(|peer| *peer != self.me && may_be_peer(*peer, self.me) && !self.set_aside.contains_key(peer))
            .collect();
        candidates.sort_by_key(|peer| {
            Id::hash(&[key.as_bytes(), self.me.to_string().as_bytes(), peer.to_string().as_bytes()])
        });
        candidates.dedup();
        candidates.truncate(self.limits.attempts);
        candidates
    }

    /// Asks one node; `None` if it has nothing, which is no fault of its.
    async fn ask(&self, peer: SocketAddr, url: &CoralUrl, headers: HeaderMap) -> Result<Option<Answer>, ProxyError> {
        let broken = |_| ProxyError::Peer("its URL cannot be written".into());
        let target = Url::parse(&format!("http://{peer}{}", url.target)).map_err(broken)?;
        let answer = ask(&self.client, Method::GET, target, headers, &self.bounds).await?;
        match said(&answer.headers) {
            Said::Served if !answer.status.is_server_error() => Ok(Some(answer)),
            // It stored an error of the origin's. Better to ask for oneself, but it is not to blame.
            Said::Served => Ok(None),
            Said::Nothing => Err(ProxyError::Peer("it is no Coral node".into())),
            Said::Own if answer.status == StatusCode::GATEWAY_TIMEOUT => Ok(None),
            Said::Own => Err(ProxyError::Peer(format!("it answered {}", answer.status).into())),
        }
    }
}

enum Said {
    /// It has served the object.
    Served,
    /// The answer is its own, not the origin's.
    Own,
    /// It does not speak of a cache at all.
    Nothing,
}

/// What the node said of its cache: only so can an error of its own be told from the origin's.
fn said(headers: &HeaderMap) -> Said {
    let mut members = headers.get_all(CACHE_STATUS).iter().flat_map(|value| list_members(value.as_bytes()));
    // Members are in the order in which caches added theirs: the last of ours is that node's own.
    match members.rfind(|member| member.starts_with("coral")) {
        Some(member) if member.contains("hit") || member.contains("fwd=") => Said::Served,
        Some(_) => Said::Own,
        None => Said::Nothing,
    }
}
