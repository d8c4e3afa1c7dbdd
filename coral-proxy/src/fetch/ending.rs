//! The end of a body that arrives: is it what its head and what references say, and shall this node keep it and tell others of it?
//!
//! What is to be told of it is hashed as it passes. What its head or references contradict has no end, and whoever gave it is set aside. What
//! is only doubted is passed on and not kept: the next one who asks is given what the origin has, which also tells who was wrong.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::StatusCode;

use super::Fetcher;
use super::sources::Sources;
use crate::cache::Object;
use crate::digest::{Check, Hashing};
use crate::error::ProxyError;
use crate::stamp::{Judgement, Stamp, Words};
use crate::url::CoralUrl;
use crate::version::Version;

/// What becomes of a body when it has come to its end.
#[derive(Debug)]
pub(super) struct Ending<'a> {
    fetcher: &'a Fetcher,
    url: &'a CoralUrl,
    object: &'a Arc<Object>,
    /// The node it comes from, if it is not the origin.
    peer: Option<SocketAddr>,
    /// What references say.
    words: Words,
    /// Whether it is stored at all.
    keeps: bool,
    /// Whether others are told what it is.
    is_told: bool,
    hashing: Hashing,
    stamp: Option<Stamp>,
    judgement: Judgement,
    /// Whether it has been stored.
    pub(super) is_stored: bool,
}

impl<'a> Ending<'a> {
    /// That of the body of `object`, which is that of `url`, from `peer` or from the origin, and which is then stored if it `keeps`.
    pub(super) fn new(
        fetcher: &'a Fetcher,
        (url, object): (&'a CoralUrl, &'a Arc<Object>),
        peer: Option<SocketAddr>,
        words: Words,
        keeps: bool,
    ) -> Self {
        // What the origin itself sends is as it means it.
        let is_whole = object.status == StatusCode::OK && object.part.is_none();
        let check = Check::of(&object.headers).filter(|_| peer.is_some() && is_whole);
        let is_named = !object.is_loose_part() || object.place().is_some();
        let is_told = keeps && is_named && version(object, object.body.length().unwrap_or(0)).is_some();
        let hashing = Hashing::new(check, is_told);
        let judgement = Judgement::Agreed;
        Self { fetcher, url, object, peer, words, keeps, is_told, hashing, stamp: None, judgement, is_stored: false }
    }

    /// Takes in the next bytes.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.hashing.add(bytes);
    }

    /// All of it has come, by `from`: an error if it shall have no end.
    pub(super) fn judge(&mut self, from: &Sources<'_>) -> Result<(), ProxyError> {
        let (holds, sha256) = std::mem::take(&mut self.hashing).finish();
        if !holds {
            return Err(ProxyError::Peer("its body has another digest than its head says".into()));
        }
        let version = version(self.object, from.so_far());
        self.stamp = version.zip(sha256).filter(|_| self.is_told).map(|(version, sha256)| Stamp::of(&version, &sha256));
        match (self.stamp, self.peer) {
            (Some(stamp), Some(peer)) => self.judgement = self.words.judge(peer, stamp),
            (Some(stamp), None) if !from.is_mixed() => self.fetcher.settle(&self.object.key, stamp),
            _ => {}
        }
        match self.judgement {
            Judgement::Contradicted => Err(ProxyError::Peer("its body is another than references say".into())),
            Judgement::Doubted | Judgement::Agreed => Ok(()),
        }
    }

    /// Stores the object, whose body is whole now.
    pub(super) fn store(&mut self) {
        // It may have outgrown its place meanwhile, or have been purged.
        let is_of_use = !self.object.body.is_window() && !self.fetcher.is_purged(self.url, self.object.validity.sent());
        if self.keeps && is_of_use && self.judgement == Judgement::Agreed {
            if let Some(stamp) = self.stamp {
                // Nobody else does: the object is this fetch's own.
                let _ = self.object.stamp.set(stamp);
            }
            self.fetcher.cache.insert(Arc::clone(self.object), SystemTime::now());
            self.is_stored = true;
        }
    }

    /// The fetch has ended as `pumped` says: where the body is not to be believed, the next one is the origin's.
    pub(super) fn ended(mut self, pumped: &Result<(), ProxyError>) {
        if let Err(error) = pumped {
            tracing::debug!(%error, "a fetch ended before its end");
        }
        if self.judgement != Judgement::Agreed || matches!(pumped, Err(ProxyError::Peer(_))) {
            if let Some((peer, stamp)) = self.peer.zip(self.stamp) {
                self.words.hear(peer, stamp);
            }
            self.fetcher.distrusted.insert(self.object.key, Arc::new(self.words));
        }
    }
}

/// The version that `object` is of if its body has so many bytes.
fn version(object: &Object, length: u64) -> Option<Version> {
    Version::of(object.status, &object.headers, Some(length), object.part.as_ref())
}
