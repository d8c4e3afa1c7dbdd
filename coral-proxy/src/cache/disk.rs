//! The disk tier: what survives a restart. ARCHITECTURE.md, "The store", says how it is laid out and why.
//!
//! Looking and queueing never wait for the disk. What does says so, and is called from threads that may: the one that
//! writes (`writer`), and tokio's for blocking work.

mod files;
mod head;
mod index;
mod large;
mod open;
mod record;
mod segment;
mod writer;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use coral_dsht::Key;
use http::StatusCode;
use http::header::HeaderName;
use moka::sync::Cache as Moka;

pub(crate) use self::files::{Files, RealFiles};
pub(crate) use self::large::BodyFile;

use self::files::Name;
use self::index::{Index, Place, Prefix, Removed, prefix};
use self::record::Content;
use super::Object;
use super::body::Body;
use crate::config;
use crate::metrics::{DiskLabels, Metrics, TierLabels};
use crate::slice;
use crate::stamp::Stamp;

/// Bytes of objects that wait to be written, at most. What comes faster than the disk stays in memory only.
const QUEUE_BYTES: usize = 16 << 20;
/// A segment is full at this, or at a sixteenth of the capacity if that is less: it is what eviction takes at a time.
const SEGMENT_BYTES: u64 = 64 << 20;
/// Segments kept open for reading.
const OPEN_SEGMENTS: u64 = 256;
/// How long a disk that failed is left alone.
const PAUSE: Duration = Duration::from_secs(30);

/// What the disk tells the rest of the store, and asks it.
pub(crate) trait Above: fmt::Debug + Send + Sync {
    /// An object of this URL is on disk from now on, and fresh for so long; its body is this, if that is known.
    fn stored(&self, url: Key, fresh_for: Duration, stamp: Option<Stamp>);
    /// One is no more.
    fn dropped(&self, url: Key);
    /// Whether the object was asked for in memory since this was last asked.
    fn was_asked_for(&self, variant: &Key) -> bool;
    /// A block of the body file with this number that is in memory, as it was kept.
    fn block(&self, file: u64, index: usize) -> Option<Bytes>;
    /// A block of it was read and is right. It may be kept in memory.
    fn keep_block(&self, file: u64, index: usize, block: Bytes);
    /// The body file with this number and length has left the disk: what is read from it is to be dropped.
    fn let_go(&self, variant: &Key, file: u64, length: u64);
}

/// A directory with objects. Clones are the same one; the last one closes it.
#[derive(Debug, Clone)]
pub struct Disk {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let _ = self.shared.queue.send(Command::Close);
    }
}

/// What the handles and the writer have in common.
#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    files: Arc<dyn Files>,
    capacity: u64,
    segment_bytes: u64,
    pause: Duration,
    // Taken for a look or a change in memory, never while the disk works.
    index: RwLock<Index>,
    segments: Moka<u32, Arc<File>>,
    segment_total: AtomicU64,
    next_file: AtomicU64,
    queue: Sender<Command>,
    queued_bytes: AtomicUsize,
    failing: Mutex<Option<Failing>>,
    above: Arc<dyn Above>,
    metrics: Metrics,
}

/// The disk cannot be written at the moment.
#[derive(Debug, Clone, Copy)]
struct Failing {
    try_again: Instant,
    /// Because it is full: something must go first.
    full: bool,
}

/// What the writer is told.
#[derive(Debug)]
enum Command {
    /// Write it; it was counted with so many bytes.
    Append(Arc<Object>, usize),
    Remove(Name),
    Flush(SyncSender<()>),
    Close,
}

/// What was on disk at the start, for [`Disk::announce`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Warm {
    prefix: Prefix,
    /// Seconds since 1970.
    fresh_until: u32,
    stamp: Option<Stamp>,
}

impl Disk {
    /// A new file for a body that arrives. Blocks; fails at once while the disk does.
    pub(crate) fn create(&self) -> io::Result<Arc<BodyFile>> {
        let shared = &self.handle.shared;
        if shared.failing().is_some_and(|failing| Instant::now() < failing.try_again) {
            return Err(io::Error::other("the disk failed a moment ago"));
        }
        let id = shared.next_file.fetch_add(1, Ordering::Relaxed);
        match shared.files.create(&Name::Incoming(id).in_dir(&shared.dir)) {
            Ok(file) => Ok(BodyFile::new(id, file, shared, false)),
            Err(error) => {
                shared.failed(&error);
                Err(error)
            }
        }
    }

    /// Whether a body of `length` bytes may be put into a file at all.
    pub(crate) fn fits(&self, length: u64) -> bool {
        length <= self.handle.shared.largest()
    }

    /// By which fields the responses for this URL vary that are on disk.
    pub(crate) fn selecting(&self, url: &Key) -> Option<Arc<[HeaderName]>> {
        self.handle.shared.index().selecting(url)
    }

    /// Queues a whole object to be written. What was there for its variant is not found from now on.
    pub(crate) fn append(&self, object: Arc<Object>) {
        let shared = &self.handle.shared;
        let prefix = prefix(&object.variant);
        let file = object.body.in_file().map(|(file, ..)| file.id);
        // A body file costs memory whether it is queued or not.
        let bytes = if file.is_some() { 0 } else { object.memory_bytes() as usize };
        let queued = shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = queued == 0 || queued + bytes <= QUEUE_BYTES;
        {
            let mut index = shared.index_mut();
            let removed = index.remove(prefix);
            index.wait(prefix, fits.then(|| Arc::clone(&object)));
            let variant = object.variant;
            // Before the word that the body file of what it replaces may go: a process that is killed between keeps one.
            if fits {
                let _ = shared.queue.send(Command::Append(object, bytes));
            }
            shared.gone(&variant, removed, file);
        }
        if !fits {
            shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            shared.count("skipped");
        }
    }

    /// Whether the object is on disk already.
    pub(crate) fn has(&self, variant: &Key) -> bool {
        self.handle.shared.index().get(prefix(variant)).is_some()
    }

    /// Whether anything is to be had of [`Disk::read`].
    pub(crate) fn may_have(&self, variant: &Key) -> bool {
        let index = self.handle.shared.index();
        let prefix = prefix(variant);
        index.get(prefix).is_some() || index.waiting(prefix).is_some()
    }

    /// The object, checked, handed to `keep` unless another one has come meanwhile. Blocks.
    pub(crate) fn read(&self, variant: &Key, keep: impl FnOnce(&Arc<Object>)) -> Option<Arc<Object>> {
        self.handle.shared.read(variant, keep)
    }

    /// Takes an object out whose body cannot be read, or that was purged.
    pub(crate) fn drop_damaged(&self, variant: &Key) {
        let shared = &self.handle.shared;
        let mut index = shared.index_mut();
        let removed = index.remove(prefix(variant));
        shared.gone(variant, removed, None);
    }

    /// Tells the network of an object that was here at the start, and still is. Whether there was anything to tell.
    pub(crate) fn announce(&self, warm: Warm, now: SystemTime) -> bool {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let fresh_for = u64::from(warm.fresh_until).saturating_sub(now);
        if fresh_for == 0 {
            return false;
        }
        let shared = &self.handle.shared;
        // Told under the lock, so that it cannot be dropped before it is stored.
        let mut index = shared.index_mut();
        let url = index.announce(warm.prefix);
        if let Some(url) = url {
            shared.above.stored(url, Duration::from_secs(fresh_for), warm.stamp);
        }
        url.is_some()
    }

    /// Objects, and bytes of all files.
    pub(crate) fn totals(&self) -> (u64, u64) {
        self.handle.shared.totals()
    }

    /// Returns when all that was queued before has been written, or could not be. Blocks.
    pub fn flush(&self) {
        let (done, written) = sync_channel(1);
        if self.handle.shared.queue.send(Command::Flush(done)).is_ok() {
            let _ = written.recv();
        }
    }

    /// Writes what is queued and gives the directory free. Blocks. Nothing is written any more after that.
    pub fn close(&self) {
        self.stop();
        let writer = self.handle.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let _ = writer.join();
        }
    }

    /// The same without waiting for it.
    pub(crate) fn stop(&self) {
        let _ = self.handle.shared.queue.send(Command::Close);
    }
}

impl Shared {
    /// Every change of the index is made in one step, so a panic elsewhere leaves it whole.
    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_failing(&self) -> MutexGuard<'_, Option<Failing>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failing(&self) -> Option<Failing> {
        *self.lock_failing()
    }

    /// Bytes of the largest body: one that leaves room for nothing else gains nobody anything.
    fn largest(&self) -> u64 {
        self.capacity / 2
    }

    /// Objects, and bytes of all files. Looks at the index once: who reads it twice at the same time waits for ever for
    /// whoever waits in between to change it.
    fn totals(&self) -> (u64, u64) {
        let index = self.index();
        (index.len() as u64, self.segment_total.load(Ordering::Relaxed) + index.file_bytes())
    }

    fn total(&self) -> u64 {
        self.totals().1
    }

    fn count(&self, what: &'static str) {
        self.metrics.disk.get_or_create(&DiskLabels { what }).inc();
    }

    fn show_totals(&self) {
        let labels = TierLabels { tier: "disk" };
        let (objects, bytes) = self.totals();
        self.metrics.objects.get_or_create(&labels).set(objects as i64);
        self.metrics.stored_bytes.get_or_create(&labels).set(bytes as i64);
    }

    /// From now on, and for a while, objects stay in memory only.
    fn failed(&self, error: &io::Error) {
        self.count("failed");
        let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let before = self.lock_failing().replace(Failing { try_again: Instant::now() + self.pause, full });
        if before.is_none() {
            self.metrics.disk_failing.set(1);
            let (dir, pause) = (self.dir.display(), self.pause.as_secs());
            tracing::warn!(%dir, %error, "the cache directory cannot be written: objects stay in memory only, until it can; tried again every {pause} s");
        }
    }

    fn works(&self) {
        if self.lock_failing().take().is_some() {
            self.metrics.disk_failing.set(0);
            tracing::info!(dir = %self.dir.display(), "the cache directory can be written again");
        }
    }

    /// Tells of what was taken out of the index, which is still locked. Its body file goes, unless it is `kept`.
    fn gone(&self, variant: &Key, removed: Option<Removed>, kept: Option<u64>) {
        let Some(Removed { slot, file }) = removed else {
            return;
        };
        if slot.is_announced() {
            self.above.dropped(slot.url);
        }
        if let Some((file, length)) = file
            && Some(file) != kept
        {
            self.above.let_go(variant, file, length);
            let _ = self.queue.send(Command::Remove(Name::Body(file)));
        }
    }

    fn segment(&self, id: u32) -> io::Result<Arc<File>> {
        if let Some(file) = self.segments.get(&id) {
            return Ok(file);
        }
        let file = Arc::new(self.files.open(&Name::Segment(id).in_dir(&self.dir))?);
        self.segments.insert(id, Arc::clone(&file));
        Ok(file)
    }

    fn read(self: &Arc<Self>, variant: &Key, keep: impl FnOnce(&Arc<Object>)) -> Option<Arc<Object>> {
        let prefix = prefix(variant);
        let slot = {
            let index = self.index();
            if let Some(object) = index.waiting(prefix).filter(|object| object.variant == *variant) {
                return Some(object);
            }
            index.get(prefix)?
        };
        match self.read_at(variant, slot.place) {
            Ok(object) => {
                let object = Arc::new(object?);
                let mut index = self.index_mut();
                index.hit(prefix, slot.place);
                if index.is_at(prefix, slot.place) {
                    keep(&object);
                }
                self.count("read");
                Some(object)
            }
            Err(error) => {
                let damaged = error.kind() == io::ErrorKind::InvalidData;
                let mut index = self.index_mut();
                // It may just have been moved, or have had to make room: then nothing is wrong.
                let removed = index.remove_at(prefix, slot.place);
                if removed.is_some() {
                    self.count(if damaged { "damaged" } else { "unreadable" });
                    tracing::debug!(%error, ?slot, "an object on disk is lost");
                }
                self.gone(variant, removed, None);
                None
            }
        }
    }

    /// `None` if it is another object whose key begins alike.
    fn read_at(self: &Arc<Self>, variant: &Key, place: Place) -> io::Result<Option<Object>> {
        let record = self.read_record(place)?;
        let record = record::decode(place.segment, &record).map_err(invalid)?;
        if record.variant != *variant {
            return Ok(None);
        }
        let body = match record.content {
            Content::Whole(bytes) => Body::whole_of(bytes),
            Content::InFile(in_file) => {
                let file = self.files.open(&Name::Body(in_file.id).in_dir(&self.dir))?;
                if file.metadata()?.len() < in_file.length {
                    return Err(invalid("the body is cut off"));
                }
                Body::in_file_of(BodyFile::new(in_file.id, file, self, true), in_file.length, &in_file.sums)
            }
        };
        let head = record.head;
        // Of parts, slices alone are on disk.
        let part = match head.status {
            StatusCode::PARTIAL_CONTENT => {
                let length = body.length().unwrap_or_default();
                Some(slice::stored(&head.headers, length).ok_or_else(|| invalid("a part that is no slice"))?)
            }
            _ => None,
        };
        Ok(Some(Object {
            key: record.url,
            selecting: head.selecting,
            variant: record.variant,
            status: head.status,
            headers: head.headers,
            body,
            part,
            validity: head.validity,
            stamp: head.stamp.map(OnceLock::from).unwrap_or_default(),
        }))
    }

    fn read_record(&self, place: Place) -> io::Result<Bytes> {
        let mut record = vec![0; place.length as usize];
        self.files.read_exact_at(&*self.segment(place.segment)?, &mut record, place.offset.into())?;
        Ok(record.into())
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Reads `bytes` as whatever the store finds on disk: for the fuzzer.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let _ = segment::decode_footer(bytes).map(|entries| segment::footer(1, &entries));
    if let Ok(head) = head::decode(bytes) {
        let _ = format!("{head:?}");
    }
    let record = Bytes::copy_from_slice(bytes);
    let _ = record::decode(1, &record);
    // With its checksum put right, so that what is behind it is read.
    if let Ok(length) = record::length(bytes)
        && length <= bytes.len()
    {
        let mut record = bytes[..length].to_vec();
        record::seal(&mut record, 1);
        let read = record::decode(1, &record.clone().into());
        assert!(
            read.is_err() || record::decode(2, &record.into()).is_err(),
            "a record is believed in one segment only"
        );
    }
}

#[cfg(test)]
pub(crate) mod tests;
