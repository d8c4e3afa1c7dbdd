//! What this node has: objects by URL and variant, and what it remembers of URLs that it has nothing of.
//!
//! Nothing here decides freshness (that is [`crate::policy`]) or asks anyone. A restart begins empty.

pub mod body;
pub mod disk;
mod tier;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use coral_dsht::Key;
use http::StatusCode;
use http::header::{HeaderMap, HeaderName};
use moka::sync::Cache as Moka;

use crate::cache::body::Body;
use crate::cache::tier::Tier;
use crate::config::Config;
use crate::error::ProxyError;
use crate::metrics::Metrics;
use crate::partial::{Part, part_key};
use crate::policy::{Validity, variant_key};
use crate::reference::References;

/// Memory that an object takes besides its body and fields: the structures around them, roughly.
const OVERHEAD_BYTES: u64 = 1024;
/// URLs of which something is remembered besides objects.
const REMEMBERED_URLS: u64 = 100_000;
/// How long a URL whose response could not be stored is fetched for each request by itself.
const PASSED_FOR: Duration = Duration::from_secs(60);

/// A response, whole or still arriving.
#[derive(Debug)]
pub struct Object {
    /// The key of its URL.
    pub key: Key,
    /// The request fields that it was selected by.
    pub selecting: Arc<[HeaderName]>,
    /// The key of its variant.
    pub variant: Key,
    /// Its status.
    pub status: StatusCode,
    /// Its cleaned head.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Body,
    /// Which part it is, if it is not the whole.
    pub part: Option<Part>,
    /// How long it is good.
    pub validity: Validity,
}

impl Object {
    fn head_bytes(&self) -> u64 {
        let fields: usize = self.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 64).sum();
        fields as u64 + OVERHEAD_BYTES
    }
}

fn memory_bytes(object: &Object) -> u64 {
    object.body.length().unwrap_or(0) + object.head_bytes()
}

/// The body only: heads of objects on disk are in memory, but few beside objects of more than a megabyte.
fn disk_bytes(object: &Object) -> u64 {
    object.body.length().unwrap_or(0)
}

/// What was found for a request.
#[derive(Debug)]
pub struct Found {
    /// The request fields that responses for this URL are known to vary by.
    pub selecting: Arc<[HeaderName]>,
    /// The key of the variant that the request selects.
    pub variant: Key,
    /// The stored response, fresh or stale.
    pub object: Option<Arc<Object>>,
}

/// The store.
#[derive(Debug)]
pub struct Cache {
    memory: Tier,
    disk: Tier,
    selecting: Moka<Key, Arc<[HeaderName]>>,
    passed: Moka<Key, ()>,
    failed: Moka<Key, ProxyError>,
    references: References,
}

impl Cache {
    /// An empty store, which tells `references` of what comes and goes.
    pub fn new(config: &Config, references: References, metrics: &Metrics) -> Self {
        let tier = |name, bytes, weigh| Tier::new(name, bytes, weigh, references.clone(), metrics.clone());
        let remembered = |ttl| Moka::builder().max_capacity(REMEMBERED_URLS).time_to_live(ttl);
        Self {
            memory: tier("memory", config.memory.as_u64(), memory_bytes),
            disk: tier("disk", config.disk.capacity.as_u64(), disk_bytes),
            selecting: Moka::new(REMEMBERED_URLS),
            passed: remembered(PASSED_FOR).build(),
            failed: Moka::builder().max_capacity(REMEMBERED_URLS).time_to_live(config.origin.negative_ttl).build(),
            references,
        }
    }

    /// What is here for the URL with this key and a request with these fields.
    pub fn find(&self, key: Key, request: &HeaderMap) -> Found {
        let selecting = self.selecting.get(&key).unwrap_or_else(|| Arc::from([]));
        let variant = variant_key(key, &selecting, request);
        let object = self.memory.get(&variant).or_else(|| self.disk.get(&variant));
        Found { selecting, variant, object }
    }

    /// The part that is here of a variant of which the whole is not.
    pub fn part(&self, variant: &Key) -> Option<Arc<Object>> {
        let key = part_key(*variant);
        self.memory.get(&key).or_else(|| self.disk.get(&key))
    }

    /// Remembers that responses for this URL vary by `selecting`.
    pub fn varies(&self, key: Key, selecting: &Arc<[HeaderName]>) {
        if selecting.is_empty() {
            self.selecting.invalidate(&key);
        } else {
            self.selecting.insert(key, Arc::clone(selecting));
        }
    }

    /// Stores a complete object in place of what was there for its variant.
    pub fn insert(&self, object: Arc<Object>, now: SystemTime) {
        // Others who are sent here want the whole.
        if object.part.is_none() {
            self.references.stored(object.key, object.validity.remaining(now));
        }
        let (on_disk, _) = object.body.footprint();
        let (to, from) = if on_disk { (&self.disk, &self.memory) } else { (&self.memory, &self.disk) };
        from.remove(&object.variant);
        to.insert(object.variant, object);
    }

    /// Remembers that a response for this URL could not be stored, so that requests for it do not wait for each other.
    pub fn pass(&self, key: Key) {
        self.passed.insert(key, ());
    }

    /// Whether that was lately so.
    pub fn is_passed(&self, key: &Key) -> bool {
        self.passed.contains_key(key)
    }

    /// Remembers for a short while that the origin failed for this URL.
    pub fn fail(&self, key: Key, error: ProxyError) {
        self.failed.insert(key, error);
    }

    /// The error with which the origin failed a moment ago.
    pub fn failed(&self, key: &Key) -> Option<ProxyError> {
        self.failed.get(key)
    }

    /// Objects, bytes of them in memory, bytes on disk.
    pub fn totals(&self) -> (u64, u64, u64) {
        let ((in_memory, memory_bytes), (on_disk, disk_bytes)) = (self.memory.totals(), self.disk.totals());
        (in_memory + on_disk, memory_bytes, disk_bytes)
    }
}
