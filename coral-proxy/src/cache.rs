//! What this node has: objects by URL and variant, and what it remembers of URLs that it has nothing of.
//!
//! Nothing here decides freshness (that is [`crate::policy`]) or asks anyone. What is in memory goes with the process,
//! what is on [`disk`] stays. ARCHITECTURE.md, "The store", has the whole picture.

pub mod body;
pub mod disk;
mod tier;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use coral_dsht::Key;
use http::StatusCode;
use http::header::{HeaderMap, HeaderName};
use moka::sync::Cache as Moka;

use crate::cache::body::{BLOCK_BYTES, Body};
use crate::cache::disk::{Above, Disk, Warm};
use crate::cache::tier::Tier;
use crate::config::Config;
use crate::error::ProxyError;
use crate::headers::has_validator;
use crate::metrics::Metrics;
use crate::partial::{Part, Place, part_key};
use crate::policy::{NotStored, Validity, variant_key};
use crate::reference::{References, parts_key};
use crate::slice::slice_key;
use crate::stamp::Stamp;
use crate::version::Version;

/// Memory that an object takes besides its body and fields: the structures around them, roughly.
const OVERHEAD_BYTES: u64 = 1024;
/// What an open file counts for.
const FILE_BYTES: u64 = 128 * 1024;
/// Objects a second that the network is told of after a restart: it shall not be a storm of puts.
const ANNOUNCED_PER_SECOND: usize = 20;
/// URLs of which something is remembered besides objects.
const REMEMBERED_URLS: u64 = 100_000;
/// How long a URL whose response could not be stored is fetched for each request by itself.
const PASSED_FOR: Duration = Duration::from_secs(60);

/// Variants of which it is remembered how they are to be had in slices, and for how long.
const REMEMBERED_SLICED: u64 = 10_000;
const SLICED_FOR: Duration = Duration::from_secs(10 * 60);

/// How a variant is to be had in slices.
#[derive(Debug, Clone)]
pub(crate) enum Slicing {
    /// Of this version, the latest that is known.
    Of(Version),
    /// Not at all: its origin tells no version, or gives other parts than it is asked for.
    Never,
}

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
    /// What others are told that its body is, once that is whole and if they are told of it.
    pub stamp: OnceLock<Stamp>,
}

impl Object {
    /// The whole of the URL with this key, which varies by nothing.
    pub fn new(key: Key, status: StatusCode, headers: HeaderMap, body: Body, validity: Validity) -> Self {
        let (selecting, variant) = (Arc::from([]), key);
        Self { key, selecting, variant, status, headers, body, part: None, validity, stamp: OnceLock::new() }
    }

    /// What others are told that its body is, if they are.
    pub(crate) fn stamp(&self) -> Option<Stamp> {
        self.stamp.get().copied()
    }

    /// Whether other nodes have a use for it when it is no longer fresh: it can be asked about, or stand in. Of a slice nobody has.
    fn is_of_use_stale(&self) -> bool {
        self.part.is_none() && (has_validator(&self.headers) || self.validity.may_ever_be_stale())
    }

    /// Whether it is a part, but no slice. Neither those who are sent here for the whole or a slice want it, nor the disk: the index names
    /// it under another key.
    pub(crate) fn is_loose_part(&self) -> bool {
        self.part.as_ref().is_some_and(|part| !part.is_slice)
    }

    /// Where it lies in the whole, if it is such a part and that can be told.
    pub(crate) fn place(&self) -> Option<Place> {
        if self.is_loose_part() { Place::of(&self.headers) } else { None }
    }

    /// Bytes of memory that it takes, or is taken to.
    fn memory_bytes(&self) -> u64 {
        let length = self.body.length().unwrap_or(0);
        match self.body.file() {
            // The disk's bound does not know of parts, so this one is theirs.
            Some(_) if self.is_loose_part() => length + self.head_bytes(),
            // One checksum for each block; and it holds a file open, of which a process may have a thousand.
            Some(_) => (length.div_ceil(BLOCK_BYTES as u64) * 8 + self.head_bytes()).max(FILE_BYTES),
            None => length + self.head_bytes(),
        }
    }

    fn head_bytes(&self) -> u64 {
        let fields: usize = self.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 64).sum();
        fields as u64 + OVERHEAD_BYTES
    }
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
    disk: Option<Disk>,
    /// What is being read from disk, so that a crowd reads it once.
    loads: Mutex<HashMap<Key, Arc<Load>>>,
    selecting: Moka<Key, Arc<[HeaderName]>>,
    sliced: Moka<Key, Slicing>,
    passed: Moka<Key, NotStored>,
    failed: Moka<Key, ProxyError>,
    references: References,
}

type Load = tokio::sync::OnceCell<Option<Arc<Object>>>;

/// What the disk sees of the store.
#[derive(Debug)]
struct Upstairs {
    memory: Tier,
    references: References,
}

impl Above for Upstairs {
    fn stored(&self, url: Key, fresh_for: Duration, stamp: Option<Stamp>) {
        self.references.stamped(url, stamp);
        // What it is good for after that is told where it comes into memory.
        self.references.stored(url, fresh_for, false);
    }

    fn dropped(&self, url: Key) {
        self.references.dropped(url);
    }

    fn was_asked_for(&self, variant: &Key) -> bool {
        self.memory.was_asked_for(variant)
    }

    fn block(&self, file: u64, index: usize) -> Option<Bytes> {
        self.memory.block(file, index)
    }

    fn keep_block(&self, file: u64, index: usize, block: Bytes) {
        self.memory.insert_block(file, index, block);
    }

    fn let_go(&self, variant: &Key, file: u64, length: u64) {
        self.memory.remove_blocks(file, length.div_ceil(BLOCK_BYTES as u64) as usize);
        if self.memory.get(variant).and_then(|object| object.body.file()).is_some_and(|open| open.id() == file) {
            self.memory.remove(variant);
        }
    }
}

impl Cache {
    /// The store with what is in the configured directory, which is read now. It tells `references` of what comes and goes,
    /// and of what was there by and by. To be called inside a tokio runtime.
    ///
    /// Fails if the directory cannot be used, or another process uses it.
    pub fn open(config: &Config, references: References, metrics: &Metrics) -> Result<Self, ProxyError> {
        let memory =
            Tier::new("memory", config.memory.as_u64(), Object::memory_bytes, references.clone(), metrics.clone());
        let above = Arc::new(Upstairs { memory: memory.clone(), references: references.clone() });
        let disk = match Disk::open(&config.disk, above, metrics.clone())? {
            Some((disk, warm)) => {
                if !warm.is_empty() {
                    tokio::spawn(announce(disk.clone(), warm));
                }
                Some(disk)
            }
            None => None,
        };
        let remembered = |ttl| Moka::builder().max_capacity(REMEMBERED_URLS).time_to_live(ttl);
        Ok(Self {
            memory,
            disk,
            loads: Mutex::default(),
            selecting: Moka::new(REMEMBERED_URLS),
            sliced: Moka::builder().max_capacity(REMEMBERED_SLICED).time_to_live(SLICED_FOR).build(),
            passed: remembered(PASSED_FOR).build(),
            failed: Moka::builder().max_capacity(REMEMBERED_URLS).time_to_live(config.origin.negative_ttl).build(),
            references,
        })
    }

    /// The disk, if one is configured.
    pub fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }

    /// What is here for the URL with this key and a request with these fields. Waits if that is on disk.
    pub async fn find(&self, key: Key, request: &HeaderMap) -> Found {
        self.find_by(key, self.selecting(&key).unwrap_or_default(), request).await
    }

    /// The same for a slice of the URL with the key `url`. It varies as that does, as far as is known.
    pub(crate) async fn find_slice(&self, url: Key, number: u64, request: &HeaderMap) -> Found {
        let key = slice_key(url, number);
        let selecting = self.selecting(&key).or_else(|| self.selecting(&url));
        self.find_by(key, selecting.unwrap_or_default(), request).await
    }

    fn selecting(&self, key: &Key) -> Option<Arc<[HeaderName]>> {
        let on_disk = || self.disk.as_ref().and_then(|disk| disk.selecting(key));
        self.selecting.get(key).or_else(on_disk)
    }

    async fn find_by(&self, key: Key, selecting: Arc<[HeaderName]>, request: &HeaderMap) -> Found {
        let variant = variant_key(key, &selecting, request);
        let object = match self.memory.get(&variant) {
            Some(object) if object.body.file().is_some_and(|file| file.is_damaged()) => {
                self.memory.remove(&variant);
                if let Some(disk) = &self.disk {
                    disk.drop_damaged(&variant);
                }
                None
            }
            Some(object) => Some(object),
            // Boxed: most need it not, and it is large.
            None => Box::pin(self.load(variant)).await,
        };
        if let Some(object) = &object {
            object.body.ask_for();
        }
        Found { selecting, variant, object }
    }

    /// What is in memory for the URL with this key and the same for all requests.
    pub(crate) fn plain(&self, key: &Key) -> Option<Arc<Object>> {
        // What varies has other keys (`variant_key`), and where it has come to vary, `varies` has taken this one out.
        self.memory.get(key).filter(|object| object.part.is_none())
    }

    /// The part that is here of a variant of which the whole is not. Parts are in memory only.
    pub fn part(&self, variant: &Key) -> Option<Arc<Object>> {
        self.memory.get(&part_key(*variant))
    }

    /// Brings an object from disk into memory, once for all who want it.
    async fn load(&self, variant: Key) -> Option<Arc<Object>> {
        let disk = self.disk.as_ref().filter(|disk| disk.may_have(&variant))?;
        let load = {
            let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(loads.entry(variant).or_default())
        };
        let read = load.get_or_init(|| {
            let (disk, memory, references) = (disk.clone(), self.memory.clone(), self.references.clone());
            let keep = move |object: &Arc<Object>| {
                tell(&references, object, SystemTime::now());
                memory.insert(variant, Arc::clone(object));
            };
            // A panic there is a miss here.
            async { tokio::task::spawn_blocking(move || disk.read(&variant, keep)).await.unwrap_or(None) }
        });
        let object = read.await.clone();
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        if loads.get(&variant).is_some_and(|latest| Arc::ptr_eq(latest, &load)) {
            loads.remove(&variant);
        }
        object
    }

    /// Remembers that responses for this URL vary by `selecting`.
    pub fn varies(&self, key: Key, selecting: &Arc<[HeaderName]>) {
        let on_disk = || self.disk.as_ref().is_some_and(|disk| disk.selecting(&key).is_some());
        if selecting.is_empty() && !on_disk() {
            self.selecting.invalidate(&key);
        } else {
            self.selecting.insert(key, Arc::clone(selecting));
        }
        if !selecting.is_empty() {
            // From when nothing varied: nobody finds it any more but `plain`.
            self.memory.remove(&key);
        }
    }

    /// Stores a complete object in place of what was there for its variant: in memory now, on disk before long.
    pub fn insert(&self, object: Arc<Object>, now: SystemTime) {
        if object.is_loose_part() {
            if let Some(place) = object.place() {
                self.references.stamped(parts_key(object.key), object.stamp());
                self.references.stored_part(object.key, place, object.validity.remaining(now));
            }
            self.memory.insert(object.variant, object);
            return;
        }
        tell(&self.references, &object, now);
        // In this order, or one that is just being read from disk could take its place.
        if let Some(disk) = &self.disk {
            disk.append(Arc::clone(&object));
        }
        let part = object.part.is_none().then(|| part_key(object.variant));
        self.memory.insert(object.variant, object);
        if let Some(part) = part {
            // The whole has all that it has, and is what others are sent here for from now on.
            self.memory.remove(&part);
        }
    }

    /// Takes out an object that is not what the origin has, unless another one has taken its place.
    pub async fn reject(&self, object: Arc<Object>) {
        let (memory, disk) = (self.memory.clone(), self.disk.clone());
        // It fails only with the runtime.
        let _ = tokio::task::spawn_blocking(move || {
            // It may still be on its way there.
            disk.iter().for_each(Disk::flush);
            if memory.get(&object.variant).is_none_or(|there| Arc::ptr_eq(&there, &object)) {
                disk.iter().for_each(|disk| disk.drop_damaged(&object.variant));
                memory.remove(&object.variant);
            }
        })
        .await;
    }

    /// Takes out an object that was purged, unless another one has taken its place.
    pub(crate) fn take_out(&self, object: &Arc<Object>) {
        if self.memory.get(&object.variant).is_some_and(|there| Arc::ptr_eq(&there, object)) {
            if let Some(disk) = &self.disk {
                disk.drop_damaged(&object.variant);
            }
            self.memory.remove(&object.variant);
        }
    }

    /// Forgets that a URL failed a moment ago, or could not be stored.
    pub(crate) fn forget_failure(&self, key: &Key) {
        self.failed.invalidate(key);
        self.passed.invalidate(key);
    }

    /// Forgets how URLs are to be had in slices, and of which version.
    pub(crate) fn forget_versions(&self) {
        self.sliced.invalidate_all();
    }

    /// How this variant is to be had in slices, as far as is known.
    pub(crate) fn slicing(&self, variant: &Key) -> Option<Slicing> {
        self.sliced.get(variant)
    }

    /// The latest version that is known of this variant.
    pub(crate) fn version(&self, variant: &Key) -> Option<Version> {
        match self.sliced.get(variant)? {
            Slicing::Of(version) => Some(version),
            Slicing::Never => None,
        }
    }

    /// Remembers how it is to be had in slices.
    pub(crate) fn set_slicing(&self, variant: Key, slicing: Slicing) {
        self.sliced.insert(variant, slicing);
    }

    /// Remembers that a response for this URL could not be stored, so that requests for it do not wait for each other.
    pub fn pass(&self, key: Key, reason: NotStored) {
        self.passed.insert(key, reason);
    }

    /// Why that was lately so, if it was.
    pub fn passed(&self, key: &Key) -> Option<NotStored> {
        self.passed.get(key)
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
        let (in_memory, memory_bytes) = self.memory.totals();
        let Some(disk) = &self.disk else {
            return (in_memory, memory_bytes, 0);
        };
        let in_memory_only = self.memory.variants().filter(|variant| !disk.has(variant)).count();
        let (on_disk, disk_bytes) = disk.totals();
        (on_disk + in_memory_only as u64, memory_bytes, disk_bytes)
    }

    /// Writes what is on its way to the disk, and gives that free for another process. What comes later is in memory only.
    pub async fn close(&self) {
        if let Some(disk) = self.disk.clone() {
            // It fails only with the runtime.
            let _ = tokio::task::spawn_blocking(move || disk.close()).await;
        }
    }
}

impl Drop for Cache {
    /// Whoever still holds the disk, for a transfer, does not keep the directory from the next process.
    fn drop(&mut self) {
        if let Some(disk) = &self.disk {
            disk.stop();
        }
    }
}

/// Tells of an object that is here now. What its body is comes first.
fn tell(references: &References, object: &Object, now: SystemTime) {
    references.stamped(object.key, object.stamp());
    references.stored(object.key, object.validity.remaining(now), object.is_of_use_stale());
}

/// Tells the network of what was on disk at the start, slowly. The renewals then come as slowly.
async fn announce(disk: Disk, warm: Vec<Warm>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut left = 0;
    for warm in warm {
        if left == 0 {
            ticks.tick().await;
            left = ANNOUNCED_PER_SECOND;
        }
        left -= usize::from(disk.announce(warm, SystemTime::now()));
    }
}
