//! Finding at the start what an earlier process has left.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;

use super::files::LOCK;
use super::writer::{Sealed, Writer};
use super::*;
use crate::error::ProxyError;

impl Disk {
    /// The directory that `config` names, made if it is missing, with what is in it. Blocks, longer the more there is.
    ///
    /// Fails if it cannot be used or another process does.
    pub(crate) fn open(
        config: &config::Disk,
        above: Arc<dyn Above>,
        metrics: Metrics,
    ) -> Result<Option<(Self, Vec<Warm>)>, ProxyError> {
        let Some(path) = &config.path else {
            return Ok(None);
        };
        Self::open_with(path, config.capacity.as_u64(), Arc::new(RealFiles), PAUSE, above, metrics).map(Some)
    }

    pub(super) fn open_with(
        dir: &Path,
        capacity: u64,
        files: Arc<dyn Files>,
        pause: Duration,
        above: Arc<dyn Above>,
        metrics: Metrics,
    ) -> Result<(Self, Vec<Warm>), ProxyError> {
        let failed = |error: io::Error| {
            ProxyError::Setup(format!("the cache directory {} cannot be used: {error}", dir.display()).into())
        };
        let lock = lock(dir).map_err(failed)?;
        let (queue, commands) = channel();
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            files,
            capacity,
            segment_bytes: SEGMENT_BYTES.min(capacity / 16),
            pause,
            index: RwLock::default(),
            segments: Moka::new(OPEN_SEGMENTS),
            segment_total: AtomicU64::new(0),
            next_file: AtomicU64::new(1),
            queue,
            queued_bytes: AtomicUsize::new(0),
            failing: Mutex::new(None),
            above,
            metrics,
        });
        let (sealed, warm) = shared.find().map_err(failed)?;
        shared.metrics.disk_failing.set(0);
        shared.show_totals();
        let writer = Writer::new(Arc::clone(&shared), commands, sealed, lock);
        let thread = std::thread::Builder::new().name("coral-store".to_owned());
        let writer = Mutex::new(Some(thread.spawn(move || writer.run()).map_err(failed)?));
        Ok((Self { handle: Arc::new(Handle { shared, writer }) }, warm))
    }
}

/// Makes the directory and locks it. The lock ends with the file that is returned, or with the process.
pub(super) fn lock(dir: &Path) -> io::Result<File> {
    std::fs::create_dir_all(dir)?;
    let file = File::options().create(true).truncate(false).write(true).open(dir.join(LOCK))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(io::Error::other("another process uses it")),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

impl Shared {
    /// Reads what is there into the index, and removes what is of no use.
    fn find(&self) -> io::Result<(BTreeMap<u32, Sealed>, Vec<Warm>)> {
        let (mut segments, mut bodies) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(&self.dir)? {
            match entry?.file_name().to_str().and_then(Name::parse) {
                Some(Name::Segment(id)) => segments.push(id),
                Some(Name::Body(id)) => bodies.push(id),
                // Nobody is left who could finish it.
                Some(incoming @ Name::Incoming(_)) => self.files.remove(&incoming.in_dir(&self.dir))?,
                None => {}
            }
        }
        segments.sort_unstable();
        bodies.sort_unstable();
        self.next_file.store(bodies.last().map_or(1, |last| last.saturating_add(1)), Ordering::Relaxed);
        let (mut sealed, mut warm) = (BTreeMap::new(), Vec::new());
        let mut index = self.index_mut();
        for id in segments {
            let path = Name::Segment(id).in_dir(&self.dir);
            let file = self.files.open(&path)?;
            // One that is of another version cannot be kept: nobody would ever make room of it.
            if !segment::is_one(&*self.files, &file, id)? {
                self.files.remove(&path)?;
                continue;
            }
            let (entries, bytes) = segment::load(&*self.files, &file, id)?;
            if entries.is_empty() {
                self.files.remove(&path)?;
                continue;
            }
            for entry in &entries {
                if entry.file.is_none_or(|(file, _)| bodies.binary_search(&file).is_ok()) {
                    // The later one counts: what is replaced was written before.
                    index.insert(id, entry, false);
                    let fresh_until = u32::try_from(entry.fresh_until).unwrap_or(u32::MAX);
                    warm.push(Warm { prefix: prefix(&entry.variant), fresh_until, stamp: entry.stamp });
                }
            }
            self.segment_total.fetch_add(bytes, Ordering::Relaxed);
            sealed.insert(id, Sealed { bytes, entries: None });
        }
        let used = index.file_ids();
        for body in bodies {
            if !used.contains(&body) {
                self.files.remove(&Name::Body(body).in_dir(&self.dir))?;
            }
        }
        // The newest first: they are the likeliest to be asked for.
        warm.reverse();
        Ok((sealed, warm))
    }
}
