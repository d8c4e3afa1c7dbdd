//! Where the bytes of a body come from: one source, and when it breaks off, the next one from the missing byte on.
//!
//! A body is continued if its version can be told from others and its end is known ([`crate::version`]). One from the origin is
//! continued from there, as browsers do, and by other nodes if it fails: hardly anybody else is as far. One from a node is
//! continued by other nodes first. Those who read the body here notice a pause, if anything.
//!
//! Bounded are the continuations of one body, and each of them as any search among nodes and any request to the origin is;
//! an origin that was asked again and gave nothing is not asked a third time.

use std::net::SocketAddr;

use bytes::{Buf, Bytes};
use http::Method;
use http::header::HeaderMap;

use super::{Fetcher, Wanted};
use crate::coalesce::Lead;
use crate::error::ProxyError;
use crate::metrics::ContinuedLabels;
use crate::origin::{Answer, Upstream};
use crate::peers::{Inquiry, Search};
use crate::reference::Fetching;
use crate::version::Version;

/// How often one body is continued.
const MOST_CONTINUATIONS: u32 = 4;

/// The bytes of a body, from wherever they come.
#[derive(Debug)]
pub(super) struct Sources<'a> {
    fetcher: &'a Fetcher,
    from: Upstream,
    /// The node it comes from, if it is not the origin.
    peer: Option<SocketAddr>,
    length: Option<u64>,
    /// Bytes that were handed out.
    so_far: u64,
    /// Bytes that come once more before those that are missing.
    repeated: u64,
    /// Whether none of those that are missing has come yet.
    seeks_rest: bool,
    rest: Option<Rest<'a>>,
}

/// By what the rest of a body is found.
#[derive(Debug)]
pub(super) struct Rest<'a> {
    version: Version,
    wanted: &'a Wanted,
    upstream: &'a HeaderMap,
    /// With it the index is asked by a claim; without, by a get.
    claim: Option<(&'a mut Fetching, &'a Lead)>,
    /// Whether other nodes may have it.
    is_shared: bool,
    continued: u32,
    /// Bytes that had been handed out when it was last continued.
    continued_at: Option<u64>,
}

impl<'a> Rest<'a> {
    /// The rest of what is of `version`, and was asked for with the fields `upstream`. Other nodes may have it if it
    /// `is_shared`; with a `claim` the index is asked who, else by a get.
    pub(super) fn of(
        version: Version,
        (wanted, upstream): (&'a Wanted, &'a HeaderMap),
        is_shared: bool,
        claim: Option<(&'a mut Fetching, &'a Lead)>,
    ) -> Self {
        Self { version, wanted, upstream, claim, is_shared, continued: 0, continued_at: None }
    }
}

impl<'a> Sources<'a> {
    /// The body of an answer of `peer`, or of the origin. Without its `rest` it ends where it breaks off.
    pub(super) fn new(
        fetcher: &'a Fetcher,
        from: Upstream,
        peer: Option<SocketAddr>,
        length: Option<u64>,
        rest: Option<Rest<'a>>,
    ) -> Self {
        Self { fetcher, from, peer, length, so_far: 0, repeated: 0, seeks_rest: false, rest }
    }

    /// The next bytes; `None` at the end. After an error [`Self::resume`] may find more.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, ProxyError> {
        loop {
            let Some(mut chunk) = self.from.chunk().await? else {
                // What a source has may end before what is missing does.
                let is_short = self.length.is_some_and(|length| self.so_far < length);
                return if is_short { Err(ProxyError::BrokenOff) } else { Ok(None) };
            };
            let before = self.repeated.min(chunk.len() as u64);
            self.repeated -= before;
            chunk.advance(before as usize);
            if !chunk.is_empty() {
                if self.seeks_rest {
                    self.seek_rest(false);
                }
                self.so_far += chunk.len() as u64;
                return Ok(Some(chunk));
            }
        }
    }

    /// Finds another source for what is missing, after `error`. Whether there is one.
    pub(super) async fn resume(&mut self, error: &ProxyError) -> bool {
        self.accuse(error);
        if !self.may_resume(error) {
            return false;
        }
        self.seek_rest(true);
        let Some(rest) = &mut self.rest else {
            return false;
        };
        let found = match self.peer {
            None => match rest.at_origin(self.fetcher, self.so_far).await {
                None => rest.at_peers(self.fetcher, self.so_far).await,
                found => found,
            },
            Some(_) => match rest.at_peers(self.fetcher, self.so_far).await {
                None => rest.at_origin(self.fetcher, self.so_far).await,
                found => found,
            },
        };
        let Some((answer, repeated, peer)) = found else {
            return false;
        };
        rest.continued += 1;
        rest.continued_at = Some(self.so_far);
        let with = if peer.is_some() { "peer" } else { "origin" };
        self.fetcher.metrics.continued.get_or_create(&ContinuedLabels { with }).inc();
        tracing::debug!(url = %rest.wanted.url.canonical(), from = self.so_far, with, "a body goes on");
        (self.from, self.peer, self.repeated) = (answer.body, peer, repeated);
        true
    }

    /// Bytes that were handed out.
    pub(super) const fn so_far(&self) -> u64 {
        self.so_far
    }

    /// Whether other sources than the first one have given some of it.
    pub(super) fn is_mixed(&self) -> bool {
        self.rest.as_ref().is_some_and(|rest| rest.continued > 0)
    }

    /// The body is not what was asked for: whoever gave the last of it is asked no more for a while.
    pub(super) fn accuse(&self, error: &ProxyError) {
        if let Some(peer) = self.peer {
            self.fetcher.peers.set_aside(peer, error);
        }
    }

    fn may_resume(&self, error: &ProxyError) -> bool {
        // Whatever else went wrong with a body is no accident.
        let broke_off =
            matches!(error, ProxyError::BrokenOff) && self.length.is_some_and(|length| self.so_far < length);
        let may_help = |rest: &Rest<'_>| {
            let is_of_use = self.peer.is_some() || rest.continued_at.is_none_or(|at| at < self.so_far);
            is_of_use && rest.continued < MOST_CONTINUATIONS
        };
        broke_off && self.rest.as_ref().is_some_and(may_help)
    }

    /// Tells those who ask for the same rest whether this node looks for it.
    fn seek_rest(&mut self, seeks_rest: bool) {
        self.seeks_rest = seeks_rest;
        if let Some((_, lead)) = self.rest.as_ref().and_then(|rest| rest.claim.as_ref()) {
            lead.chain().set_seeks_rest(seeks_rest);
        }
    }
}

/// An answer with the rest, after so many bytes that were here before; and the node that gave it, if it was one.
type Found = (Answer, u64, Option<SocketAddr>);

impl Rest<'_> {
    async fn at_peers(&mut self, fetcher: &Fetcher, so_far: u64) -> Option<Found> {
        if !self.is_shared {
            return None;
        }
        let headers = self.request(so_far);
        let (version, url) = (&self.version, &self.wanted.url);
        let inquiry = Inquiry {
            method: &Method::GET,
            url,
            headers: &headers,
            fits: &|answer| rest_in(version, answer, so_far).is_some() && !fetcher.is_purged_answer(url, answer),
        };
        let search = match &mut self.claim {
            Some((reference, lead)) => Search::Claim(reference, lead.chain()),
            None => Search::Get,
        };
        let delivery = fetcher.peers.fetch(&inquiry, search).await.ok()?;
        let repeated = rest_in(version, &delivery.answer, so_far)?;
        Some((delivery.answer, repeated, Some(delivery.peer)))
    }

    async fn at_origin(&self, fetcher: &Fetcher, so_far: u64) -> Option<Found> {
        let Wanted { url, interim, .. } = self.wanted;
        let answer = fetcher.origins.fetch(&Method::GET, url, self.request(so_far), interim).await.ok()?;
        let repeated = rest_in(&self.version, &answer, so_far)?;
        Some((answer, repeated, None))
    }

    fn request(&self, so_far: u64) -> HeaderMap {
        let mut headers = self.upstream.clone();
        self.version.ask_for_rest(&mut headers, so_far);
        headers
    }
}

fn rest_in(version: &Version, answer: &Answer, so_far: u64) -> Option<u64> {
    version.rest_in(answer.status, &answer.headers, answer.length, so_far)
}
