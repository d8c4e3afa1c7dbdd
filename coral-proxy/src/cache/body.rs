//! A body that grows while many read it: one writer, any number of readers, each at its own place.
//!
//! What has come is kept in one of three ways. *Memory*: all of it, up to a limit. *Disk*: the head in a file, the tail
//! still in memory. *Window*: the last part only, and the writer waits for the slowest reader; such a body is passed on
//! and never stored. Memory becomes disk when the limit is reached, or window where there is no disk; a disk that fails
//! becomes a window too. Whoever reads sees only bytes that stay where they are until he has them.
//!
//! The bound on memory is `memory_limit` and one chunk for each transfer, however large the object.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::{Notify, watch};

use super::disk::Disk;

/// Bytes handed to a reader at once from memory.
const READ_BYTES: usize = 64 * 1024;
/// Bytes moved to or from the disk at once: few calls, and little memory for each transfer.
const DISK_BYTES: usize = 256 * 1024;

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
    /// Everything before `start`, once there is a file.
    file: Option<Arc<File>>,
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
        let too_large = limits.disk.is_none() && announced.is_some_and(|length| length > limits.memory as u64);
        let state = State {
            mode: if kept && !too_large { Mode::Memory } else { Mode::Window },
            file: None,
            start: 0,
            tail: BytesMut::new(),
            whole: None,
            sealed: None,
            readers: BTreeMap::new(),
            next_reader: 0,
        };
        let progress = Progress { length: 0, end: None };
        let body = Self {
            shared: Arc::new(Shared {
                announced,
                state: Mutex::new(state),
                progress: watch::Sender::new(progress),
                moved: Notify::new(),
            }),
        };
        let writer = Writer { shared: Arc::clone(&body.shared), limits, ended: false };
        (body, writer)
    }

    /// A whole body in memory.
    pub fn whole_of(bytes: Bytes) -> Self {
        let length = bytes.len() as u64;
        Self {
            shared: Arc::new(Shared {
                announced: Some(length),
                state: Mutex::new(State {
                    mode: Mode::Memory,
                    file: None,
                    start: 0,
                    tail: BytesMut::new(),
                    whole: Some(bytes),
                    sealed: Some(length),
                    readers: BTreeMap::new(),
                    next_reader: 0,
                }),
                progress: watch::Sender::new(Progress { length, end: Some(Ok(())) }),
                moved: Notify::new(),
            }),
        }
    }

    /// All of it, if it is complete and in memory.
    pub fn whole(&self) -> Option<Bytes> {
        self.shared.lock().whole.clone()
    }

    /// Its length in bytes: as announced, or once all of it is here.
    pub fn length(&self) -> Option<u64> {
        self.shared.announced.or_else(|| self.shared.lock().sealed)
    }

    /// Whether it is a window, so that nobody can join late and it is not stored.
    pub fn is_window(&self) -> bool {
        self.shared.lock().mode == Mode::Window
    }

    /// Whether it is, or will be, kept on disk; and the bytes of memory it takes.
    pub fn footprint(&self) -> (bool, usize) {
        let state = self.shared.lock();
        let memory = state.tail.capacity() + state.whole.as_ref().map_or(0, Bytes::len);
        (state.file.is_some(), memory)
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
        drop(state);
        Some(Reader {
            progress: self.shared.progress.subscribe(),
            shared: Arc::clone(&self.shared),
            id,
            position: from,
            to: to.unwrap_or(u64::MAX),
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
            self.flush().await;
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
        if mode == Mode::Disk && self.shared.lock().tail.len() >= DISK_BYTES {
            self.flush().await;
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

    /// Moves the tail to the file; if that fails, the body goes on as a window.
    async fn flush(&mut self) {
        let (file, block, offset) = {
            let state = self.shared.lock();
            (state.file.clone(), Bytes::copy_from_slice(&state.tail), state.start)
        };
        let disk = self.limits.disk.clone();
        let length = block.len();
        let written = tokio::task::spawn_blocking(move || {
            let file = match (file, disk) {
                (Some(file), _) => file,
                (None, Some(disk)) => Arc::new(disk.create()?),
                (None, None) => return Err(io::Error::other("no disk is configured")),
            };
            file.write_all_at(&block, offset)?;
            Ok(file)
        });
        let written = written.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        let mut state = self.shared.lock();
        match written {
            Ok(file) => {
                state.file = Some(file);
                state.start += length as u64;
                state.tail.clear();
            }
            Err(error) => {
                tracing::warn!(%error, "an object is passed on without being stored: the disk failed");
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
    failed: bool,
}

enum Place {
    Memory(Bytes),
    File(Arc<File>, usize),
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
            Place::File(file, length) => {
                let position = self.position;
                let read = tokio::task::spawn_blocking(move || {
                    let mut buffer = vec![0; length];
                    file.read_exact_at(&mut buffer, position).map(|()| Bytes::from(buffer))
                });
                match read.await.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
                    Ok(bytes) => bytes,
                    Err(error) => {
                        tracing::warn!(%error, "an object could not be read back from disk");
                        return self.fail(BodyError::Disk);
                    }
                }
            }
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
            let end = self.position + wanted.min(DISK_BYTES as u64);
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
        let in_file = wanted.min(state.start - self.position).min(DISK_BYTES as u64);
        match &state.file {
            Some(file) => Place::File(Arc::clone(file), in_file as usize),
            None => Place::Gone,
        }
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
