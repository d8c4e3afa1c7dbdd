//! A body that grows while many read it: one writer, any number of readers, each at its own place.
//!
//! What has come is kept in one of three ways. *Memory*: all of it, up to a limit. *Disk*: the head in a file, the tail
//! still in memory. *Window*: the last part only, and the writer waits for the slowest reader; such a body is passed on
//! and never stored. Memory becomes disk when the limit is reached, or window where there is no disk; a disk that fails
//! becomes a window too. Whoever reads sees only bytes that stay where they are until he has them.
//!
//! The bound on memory is `memory_limit` and one chunk for each transfer, however large the object.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::{Notify, watch};

use super::disk::{BodyFile, Disk};

/// Bytes handed to a reader at once from memory.
const READ_BYTES: usize = 64 * 1024;
/// Bytes moved to or from the disk at once, each with its checksum: few calls, and little memory for each transfer.
pub(crate) const BLOCK_BYTES: usize = 256 * 1024;

/// How a body is kept, and for how long a transfer without readers goes on.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes kept in memory; in a window, bytes by which readers may lag behind.
    pub memory: usize,
    /// Where more than that goes.
    pub disk: Option<Disk>,
    /// How long the writer of a window waits for readers that do not move.
    pub patience: Duration,
    /// What may still be missing when the last reader leaves for the body to be finished.
    pub finish_unread: u64,
}

/// Why a body has no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Where it came from broke off, stalled or sent too much.
    #[error("the body broke off at its source")]
    BrokenOff,
    /// Nobody read it any more.
    #[error("nobody reads the body any more")]
    Abandoned,
    /// It could not be read back from this node's disk.
    #[error("the body could not be read from disk")]
    Disk,
}

/// A body, whole or still growing. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Body {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Its length, if the source has announced it.
    announced: Option<u64>,
    // A std mutex: never held across an await, and what is done under it is at most a copy of `READ_BYTES`.
    state: Mutex<State>,
    progress: watch::Sender<Progress>,
    /// A reader has moved or left.
    moved: Notify,
    /// It was asked for, since the store last wanted to know.
    asked_for: AtomicBool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Progress {
    length: u64,
    end: Option<Result<(), BodyError>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Memory,
    Disk,
    Window,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    /// Everything before `start`, once there is a file; and the checksums of its blocks.
    file: Option<Arc<BodyFile>>,
    sums: Vec<u64>,
    /// The offset of the first byte of `tail`.
    start: u64,
    tail: BytesMut,
    /// The whole body, once it is complete and in memory.
    whole: Option<Bytes>,
    /// Its length, once all of it is here.
    sealed: Option<u64>,
    /// The offset that each reader has reached.
    readers: BTreeMap<u64, u64>,
    next_reader: u64,
}

impl State {
    fn new() -> Self {
        Self {
            mode: Mode::Memory,
            file: None,
            sums: Vec::new(),
            start: 0,
            tail: BytesMut::new(),
            whole: None,
            sealed: None,
            readers: BTreeMap::new(),
            next_reader: 0,
        }
    }

    fn length(&self) -> u64 {
        self.start + self.tail.len() as u64
    }

    /// Whether there were readers and none is left.
    fn is_abandoned(&self) -> bool {
        self.readers.is_empty() && self.next_reader > 0
    }

    /// Forgets what all readers of a window have read.
    fn forget_read(&mut self) {
        if let Some(slowest) = self.readers.values().min() {
            let read = slowest.saturating_sub(self.start).min(self.tail.len() as u64);
            self.tail.advance(read as usize);
            self.start += read;
            // Once bytes are gone that no file has, the file is of use only to those who are still inside it.
        }
    }
}

impl Body {
    /// An empty, growing body, and its writer. `kept` is whether it is meant to be stored; if not, it is a window.
    pub fn new(announced: Option<u64>, kept: bool, limits: Limits) -> (Self, Writer) {
        let fits =
            |length| length <= limits.memory as u64 || limits.disk.as_ref().is_some_and(|disk| disk.fits(length));
        let too_large = announced.is_some_and(|length| !fits(length));
        let state = State { mode: if kept && !too_large { Mode::Memory } else { Mode::Window }, ..State::new() };
        let body = Self::of(announced, state, Progress { length: 0, end: None });
        let writer = Writer { shared: Arc::clone(&body.shared), limits, ended: false };
        (body, writer)
    }

    /// A whole body in memory.
    pub fn whole_of(bytes: Bytes) -> Self {
        let length = bytes.len() as u64;
        let state = State { whole: Some(bytes), sealed: Some(length), ..State::new() };
        Self::of(Some(length), state, Progress { length, end: Some(Ok(())) })
    }

    /// A whole body in a file, whose blocks have these checksums.
    pub(crate) fn in_file_of(file: Arc<BodyFile>, length: u64, sums: &[u64]) -> Self {
        let state = State {
            mode: Mode::Disk,
            file: Some(file),
            sums: sums.to_vec(),
            start: length,
            sealed: Some(length),
            ..State::new()
        };
        Self::of(Some(length), state, Progress { length, end: Some(Ok(())) })
    }

    fn of(announced: Option<u64>, state: State, progress: Progress) -> Self {
        let shared = Shared {
            announced,
            state: Mutex::new(state),
            progress: watch::Sender::new(progress),
            moved: Notify::new(),
            asked_for: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    /// All of it, if it is complete and in memory.
    pub fn whole(&self) -> Option<Bytes> {
        self.shared.lock().whole.clone()
    }

    /// Its length in bytes: as announced, or once all of it is here.
    pub fn length(&self) -> Option<u64> {
        self.shared.announced.or_else(|| self.shared.lock().sealed)
    }

    /// How many bytes of it have come so far.
    pub fn received(&self) -> u64 {
        self.shared.progress.borrow().length
    }

    /// Whether it is a window, so that nobody can join late and it is not stored.
    pub fn is_window(&self) -> bool {
        self.shared.lock().mode == Mode::Window
    }

    /// Waits until more than `length` bytes are here, or all there are. `false` if it breaks off before.
    pub(crate) async fn reaches_beyond(&self, length: u64) -> bool {
        let mut progress = self.shared.progress.subscribe();
        let told = progress.wait_for(|progress| progress.length > length || progress.end.is_some()).await;
        told.is_ok_and(|progress| progress.length > length || progress.end == Some(Ok(())))
    }

    /// Whether it is, or will be, kept on disk; and the bytes of memory it takes.
    #[cfg(test)]
    fn footprint(&self) -> (bool, usize) {
        let state = self.shared.lock();
        let memory = state.tail.capacity() + state.whole.as_ref().map_or(0, Bytes::len) + 8 * state.sums.capacity();
        (state.file.is_some(), memory)
    }

    /// The file that it is in, its length, and the checksums of its blocks, if it is complete and not in memory.
    pub(crate) fn in_file(&self) -> Option<(Arc<BodyFile>, u64, Vec<u64>)> {
        let state = self.shared.lock();
        let (Mode::Disk, Some(file), Some(length)) = (state.mode, &state.file, state.sealed) else {
            return None;
        };
        Some((Arc::clone(file), length, state.sums.clone()))
    }

    /// The file that it is in, whole or not.
    pub(crate) fn file(&self) -> Option<Arc<BodyFile>> {
        self.shared.lock().file.clone()
    }

    /// Notes that it was asked for.
    pub(crate) fn ask_for(&self) {
        // Mostly so already: then the cache line stays with all who read it.
        if !self.shared.asked_for.load(Ordering::Relaxed) {
            self.shared.asked_for.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it was since the last call of this.
    pub(crate) fn was_asked_for(&self) -> bool {
        self.shared.asked_for.swap(false, Ordering::Relaxed)
    }

    /// Reads from `from` up to `to`, or to the end. `None` if what comes first is already forgotten.
    pub fn reader(&self, from: u64, to: Option<u64>) -> Option<Reader> {
        let mut state = self.shared.lock();
        if state.mode == Mode::Window && (state.start > from || from > 0) {
            return None;
        }
        let id = state.next_reader;
        state.next_reader += 1;
        state.readers.insert(id, from);
        let is_late = state.sealed.is_some();
        drop(state);
        Some(Reader {
            progress: self.shared.progress.subscribe(),
            shared: Arc::clone(&self.shared),
            id,
            position: from,
            to: to.unwrap_or(u64::MAX),
            is_late,
            failed: false,
        })
    }
}

impl Shared {
    /// A panic elsewhere leaves whole entries here: every change is made in one step.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, end: Option<Result<(), BodyError>>) {
        let length = self.lock().length().max(self.progress.borrow().length);
        self.progress.send_replace(Progress { length, end });
    }
}

/// The one who fills a body. Dropped before [`Writer::end`], it leaves the body broken off.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    limits: Limits,
    ended: bool,
}

impl Writer {
    /// Adds `chunk` and shows it to the readers. Waits for the disk, or for the slowest reader of a window.
    pub async fn write(&mut self, chunk: Bytes) -> Result<(), BodyError> {
        self.add(chunk).await?;
        self.shared.publish(None);
        Ok(())
    }

    /// Adds the last chunk without showing it, and makes the body ready to be stored.
    ///
    /// Between this and [`Writer::end`] the object is put into the cache: whoever has seen the end of a body finds it.
    pub async fn seal(&mut self, last: Bytes) -> Result<(), BodyError> {
        self.add(last).await?;
        if self.shared.lock().mode == Mode::Disk {
            self.flush(true).await;
        }
        let mut state = self.shared.lock();
        state.sealed = Some(state.length());
        if state.mode == Mode::Memory {
            // A copy of the exact size: the buffer that grew may be twice as large as what it holds.
            state.whole = Some(Bytes::copy_from_slice(&state.tail));
        }
        Ok(())
    }

    /// Shows the readers that the body is complete.
    pub fn end(mut self) {
        self.ended = true;
        self.shared.publish(Some(Ok(())));
        let mut state = self.shared.lock();
        if state.whole.is_some() {
            state.start = state.length();
            state.tail = BytesMut::new();
        }
    }

    /// Shows the readers that the body has no end.
    pub fn fail(mut self, error: BodyError) {
        self.ended = true;
        self.shared.publish(Some(Err(error)));
    }

    /// Whether it would be written on, now that its source has paused.
    pub(crate) fn is_wanted(&self) -> bool {
        self.abandon_if_unread(0).is_ok()
    }

    async fn add(&mut self, chunk: Bytes) -> Result<(), BodyError> {
        self.abandon_if_unread(chunk.len())?;
        let mode = {
            let mut state = self.shared.lock();
            if state.mode == Mode::Memory && state.tail.len() + chunk.len() > self.limits.memory {
                state.mode = if self.limits.disk.is_some() { Mode::Disk } else { Mode::Window };
            }
            state.mode
        };
        match mode {
            Mode::Window => self.wait_for_room().await?,
            Mode::Memory | Mode::Disk => {}
        }
        self.shared.lock().tail.extend_from_slice(&chunk);
        if mode == Mode::Disk && self.shared.lock().tail.len() >= BLOCK_BYTES {
            self.flush(false).await;
        }
        Ok(())
    }

    /// Gives up when nobody reads and too much is missing for the next visitor to be worth it.
    fn abandon_if_unread(&self, more: usize) -> Result<(), BodyError> {
        let state = self.shared.lock();
        let so_far = state.length() + more as u64;
        let missing = match self.shared.announced {
            Some(length) => length.saturating_sub(so_far),
            // Nobody knows; what has come is the best guess at what will.
            None => so_far,
        };
        let abandoned = state.is_abandoned() && (state.mode == Mode::Window || missing > self.limits.finish_unread);
        if abandoned { Err(BodyError::Abandoned) } else { Ok(()) }
    }

    async fn wait_for_room(&self) -> Result<(), BodyError> {
        loop {
            let moved = self.shared.moved.notified();
            {
                let mut state = self.shared.lock();
                state.forget_read();
                if state.tail.len() < self.limits.memory {
                    return Ok(());
                }
                if state.is_abandoned() {
                    return Err(BodyError::Abandoned);
                }
            }
            if tokio::time::timeout(self.limits.patience, moved).await.is_err() {
                return Err(BodyError::Abandoned);
            }
        }
    }

    /// Moves the whole blocks of the tail to the file, or `all` of it; if that fails, the body goes on as a window.
    async fn flush(&mut self, all: bool) {
        let (file, blocks, offset) = {
            let state = self.shared.lock();
            let length = if all { state.tail.len() } else { state.tail.len() / BLOCK_BYTES * BLOCK_BYTES };
            (state.file.clone(), Bytes::copy_from_slice(&state.tail[..length]), state.start)
        };
        let disk = self.limits.disk.clone();
        let length = blocks.len();
        let written = tokio::task::spawn_blocking(move || {
            let file = match (file, disk) {
                (Some(file), _) => file,
                (None, Some(disk)) => disk.create()?,
                (None, None) => return Err(io::Error::other("no disk is configured")),
            };
            let sums = file.write(&blocks, offset)?;
            Ok((file, sums))
        });
        let written = written.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        let mut state = self.shared.lock();
        match written {
            Ok((file, sums)) => {
                state.file = Some(file);
                state.sums.extend(sums);
                state.start += length as u64;
                state.tail.advance(length);
            }
            Err(error) => {
                tracing::debug!(%error, "an object is passed on without being stored");
                state.mode = Mode::Window;
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.publish(Some(Err(BodyError::BrokenOff)));
        }
    }
}

/// One reader of a body.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
    id: u64,
    position: u64,
    to: u64,
    /// The body was whole when this came: somebody has asked for it before, so it may be asked for again.
    is_late: bool,
    failed: bool,
}

/// A block of a file, and what of it is wanted.
struct Block {
    file: Arc<BodyFile>,
    index: usize,
    length: usize,
    sum: u64,
    wanted: Range<usize>,
    /// Whether memory may keep it.
    keep: bool,
}

impl Block {
    async fn read(self) -> io::Result<Bytes> {
        let Self { file, index, length, sum, wanted, keep } = self;
        if let Some(block) = file.in_memory(index) {
            return Ok(block.slice(wanted));
        }
        let read = move || {
            let block = file.read(index, length, sum)?;
            if keep {
                file.remember(index, &block);
            }
            Ok(block)
        };
        let read = tokio::task::spawn_blocking(read).await;
        Ok(read.unwrap_or_else(|panic| Err(io::Error::other(panic)))?.slice(wanted))
    }
}

enum Place {
    Memory(Bytes),
    File(Block),
    Gone,
}

impl Reader {
    /// The next bytes; `None` at the end. After an error there is nothing more.
    pub async fn next(&mut self) -> Option<Result<Bytes, BodyError>> {
        loop {
            let progress = *self.progress.borrow_and_update();
            let to = self.to.min(progress.length);
            if self.failed || self.position >= self.to {
                return None;
            }
            if self.position < to {
                return Some(self.read(to).await);
            }
            match progress.end {
                Some(Ok(())) => return None,
                Some(Err(error)) => return Some(self.fail(error)),
                None => {}
            }
            if self.progress.changed().await.is_err() {
                return Some(self.fail(BodyError::BrokenOff));
            }
        }
    }

    async fn read(&mut self, to: u64) -> Result<Bytes, BodyError> {
        let bytes = match self.place(to) {
            Place::Memory(bytes) => bytes,
            Place::Gone => return self.fail(BodyError::Abandoned),
            Place::File(block) => match block.read().await {
                Ok(bytes) => bytes,
                Err(error) => {
                    tracing::warn!(%error, "an object could not be read back from disk");
                    return self.fail(BodyError::Disk);
                }
            },
        };
        self.position += bytes.len() as u64;
        self.shared.lock().readers.insert(self.id, self.position);
        self.shared.moved.notify_one();
        Ok(bytes)
    }

    fn place(&self, to: u64) -> Place {
        let state = self.shared.lock();
        let wanted = to - self.position;
        if let Some(whole) = &state.whole {
            let end = self.position + wanted.min(BLOCK_BYTES as u64);
            return Place::Memory(whole.slice(self.position as usize..end as usize));
        }
        if self.position >= state.start {
            let from = (self.position - state.start) as usize;
            let length = wanted.min(READ_BYTES as u64) as usize;
            return match state.tail.get(from..from + length) {
                Some(bytes) => Place::Memory(Bytes::copy_from_slice(bytes)),
                None => Place::Gone,
            };
        }
        let index = (self.position / BLOCK_BYTES as u64) as usize;
        // A window has moved on beyond what the file has.
        let (Some(file), Some(sum)) = (&state.file, state.sums.get(index)) else {
            return Place::Gone;
        };
        let begin = index as u64 * BLOCK_BYTES as u64;
        let length = (state.start - begin).min(BLOCK_BYTES as u64);
        let from = self.position - begin;
        let to = length.min(from.saturating_add(wanted));
        let wanted = from as usize..to as usize;
        let (file, length, sum, keep) = (Arc::clone(file), length as usize, *sum, self.is_late);
        Place::File(Block { file, index, length, sum, wanted, keep })
    }

    fn fail<T>(&mut self, error: BodyError) -> Result<T, BodyError> {
        self.failed = true;
        Err(error)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.lock().readers.remove(&self.id);
        self.shared.moved.notify_one();
    }
}

#[cfg(test)]
mod tests;
