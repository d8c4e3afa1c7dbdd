//! A client at a site: one request for one object, each byte of the answer checked, and how long it took.
//!
//! It runs inside the site's namespace ([`Lab::at`](crate::lab::Lab::at)), and connects to a node by its address: asking a name
//! server which node that should be is a resolver's work. It shares no code with the cache that it checks.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use coral::http::Connection;
use coral::outcome::Outcome;
use http_body_util::BodyExt as _;
use hyper::StatusCode;
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;

use crate::dns::CORALIZED;
use crate::origin;

/// An object that the origin has, and by which it is recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Path and query.
    pub target: String,
    /// SHA-256 of its bytes.
    pub digest: [u8; 32],
    /// How many they are.
    pub length: usize,
}

/// What came of a request that was answered as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Where the node had it from.
    pub outcome: Outcome,
    /// From the first step of connecting until the head of the answer was here.
    pub first_byte: Duration,
    /// The same until its last byte was.
    pub last_byte: Duration,
}

/// `count` objects that nobody has asked for under this name of a run: files of the origin's, each under its own query.
///
/// A scenario can be run again and again on one network so, and each time all caches are empty.
pub fn objects(run: &str, count: usize) -> Vec<Object> {
    let digests: Vec<[u8; 32]> =
        (0..count.min(origin::FILES)).map(|number| Sha256::digest(origin::file(number)).into()).collect();
    let object = |number: usize| Object {
        target: format!("{}?{run}-{number}", origin::file_path(number % origin::FILES)),
        digest: digests[number % origin::FILES],
        length: origin::FILE_BYTES,
    };
    (0..count).map(object).collect()
}

/// Why a client has not got an object.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is no connection: nobody listens there, or nobody is there.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// The answer has another status than 200.
    #[error("the answer is {0}")]
    Status(StatusCode),
    /// The connection ended before the answer did.
    #[error("it broke off: {0}")]
    BrokenOff(String),
    /// What came is not the object.
    #[error("it was altered on its way")]
    Altered,
    /// It took too long.
    #[error("no whole answer within {PATIENCE:?}")]
    Late,
}

/// Asks the node at `node` for a coralized object, over a connection of its own, and reads the answer to its end.
///
/// # Errors
///
/// If there is no whole answer within [`PATIENCE`], or it is not the object.
pub async fn fetch(node: IpAddr, object: &Object) -> anyhow::Result<Answer> {
    try_fetch(node, object).await.with_context(|| format!("{} at {node}", object.target))
}

/// The same for those who count failures by kind.
///
/// # Errors
///
/// As [`fetch`].
pub async fn try_fetch(node: IpAddr, object: &Object) -> Result<Answer, Failure> {
    timeout(PATIENCE, fetch_whole(node, object)).await.unwrap_or(Err(Failure::Late))
}

async fn fetch_whole(node: IpAddr, object: &Object) -> Result<Answer, Failure> {
    let begun = Instant::now();
    let mut connection = Connection::open(SocketAddr::new(node, HTTP_PORT)).await.map_err(Failure::Connect)?;
    let broken_off = |e: &dyn std::fmt::Display| Failure::BrokenOff(format!("{e:#}"));
    let response = connection.get(CORALIZED, &object.target).await.map_err(|e| broken_off(&e))?;
    let first_byte = begun.elapsed();
    let outcome = Outcome::of(response.headers());
    if response.status() != StatusCode::OK {
        return Err(Failure::Status(response.status()));
    }
    let mut body = response.into_body();
    let (mut hasher, mut length) = (Sha256::new(), 0);
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|e| broken_off(&e))?.into_data() {
            length += data.len();
            hasher.update(&data);
        }
    }
    if length != object.length || hasher.finalize()[..] != object.digest {
        return Err(Failure::Altered);
    }
    Ok(Answer { outcome, first_byte, last_byte: begun.elapsed() })
}

/// What is wanted of a stream of the origin's ([`origin::Stream`]).
#[derive(Debug, Clone)]
pub struct Watched<'a> {
    /// Path and query.
    pub target: &'a str,
    /// Where its bytes are, if not all of the `length` are wanted.
    pub range: Option<Range<u64>>,
    /// Bytes of the whole.
    pub length: u64,
    /// How many have come so far, for others to see.
    pub seen: &'a AtomicU64,
    /// The same for where the node has them from, as soon as it is known.
    pub source: &'a OnceLock<Outcome>,
}

/// Asks the node at `node` for a coralized stream, and checks each byte as it comes. However long it is, no byte may be
/// [`PATIENCE`] late.
///
/// # Errors
///
/// If it is not all there, or not what it should be.
pub async fn watch(node: IpAddr, watched: Watched<'_>) -> Result<Answer, Failure> {
    let begun = Instant::now();
    let broken_off = |e: &dyn std::fmt::Display| Failure::BrokenOff(format!("{e:#}"));
    let mut connection = Connection::open(SocketAddr::new(node, HTTP_PORT)).await.map_err(Failure::Connect)?;
    let wanted = watched.range.clone().unwrap_or(0..watched.length);
    let asked = async {
        match watched.range {
            None => connection.get(CORALIZED, watched.target).await,
            Some(range) => connection.get_range(CORALIZED, watched.target, range).await,
        }
    };
    let response = timeout(PATIENCE, asked).await.map_err(|_| Failure::Late)?.map_err(|e| broken_off(&e))?;
    let first_byte = begun.elapsed();
    let outcome = Outcome::of(response.headers());
    // Nobody else sets it.
    let _ = watched.source.set(outcome);
    let is_part = response.status() == StatusCode::PARTIAL_CONTENT;
    if !is_part && (response.status() != StatusCode::OK || wanted != (0..watched.length)) {
        return Err(Failure::Status(response.status()));
    }
    let (mut at, mut expected) = (wanted.start, Vec::new());
    let mut body = response.into_body();
    while let Some(frame) = timeout(PATIENCE, body.frame()).await.map_err(|_| Failure::Late)? {
        let Ok(data) = frame.map_err(|e| broken_off(&e))?.into_data() else { continue };
        expected.resize(data.len(), 0);
        origin::fill(at, &mut expected);
        if data != expected {
            return Err(Failure::Altered);
        }
        at += data.len() as u64;
        watched.seen.store(at - wanted.start, Relaxed);
    }
    if at != wanted.end {
        return Err(Failure::Altered);
    }
    Ok(Answer { outcome, first_byte, last_byte: begun.elapsed() })
}

/// How long an object may take: a node gives up on an origin after less.
pub const PATIENCE: Duration = Duration::from_secs(60);
const HTTP_PORT: u16 = 80;
