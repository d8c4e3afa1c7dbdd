//! The body of one large object, in a file of its own, checked block by block.
//!
//! Whoever wants the first byte of two gigabytes does not wait until all of them are checked, and nobody is given a byte of a
//! block that is not as it was written.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;

use super::files::{Files, Name};
use super::record::block_sum;
use super::{Command, Shared};
use crate::cache::body::BLOCK_BYTES;

/// An open file. As long as nothing tells of it on disk, it is removed with the last one who holds it.
#[derive(Debug)]
pub(crate) struct BodyFile {
    pub(super) id: u64,
    file: File,
    /// What it takes to read is its own: the store may have been closed.
    files: Arc<dyn Files>,
    // Not an `Arc`: the memory above the store holds objects, and those their files.
    store: Weak<Shared>,
    /// Whether it has the name of one that a record tells of.
    kept: AtomicBool,
    damaged: AtomicBool,
}

impl BodyFile {
    pub(super) fn new(id: u64, file: File, store: &Arc<Shared>, kept: bool) -> Arc<Self> {
        let (kept, damaged) = (AtomicBool::new(kept), AtomicBool::new(false));
        let (files, store) = (Arc::clone(&store.files), Arc::downgrade(store));
        Arc::new(Self { id, file, files, store, kept, damaged })
    }

    /// The number in its name.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Writes `bytes`, whole blocks but for the end of the body, at `offset`, and returns the checksum of each. Blocks.
    pub(crate) fn write(&self, bytes: &[u8], offset: u64) -> io::Result<Vec<u64>> {
        let store = self.store.upgrade().ok_or_else(|| io::Error::other("the store is closed"))?;
        if offset + bytes.len() as u64 > store.largest() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if let Err(error) = self.files.write_all_at(&self.file, bytes, offset) {
            store.failed(&error);
            return Err(error);
        }
        let first = (offset / BLOCK_BYTES as u64) as usize;
        let blocks = bytes.chunks(BLOCK_BYTES).enumerate();
        Ok(blocks.map(|(index, block)| block_sum(self.id, first + index, block)).collect())
    }

    /// The block with this index, if it was read before and is still in memory.
    pub(crate) fn in_memory(&self, index: usize) -> Option<Bytes> {
        self.store.upgrade()?.above.block(self.id, index)
    }

    /// Has memory keep a block that was read, if it is asked for often enough.
    pub(crate) fn remember(&self, index: usize, block: &Bytes) {
        if let Some(store) = self.store.upgrade() {
            store.above.keep_block(self.id, index, block.clone());
        }
    }

    /// The block with this index, of `length` bytes, if it still has its checksum. Blocks.
    pub(crate) fn read(&self, index: usize, length: usize, sum: u64) -> io::Result<Bytes> {
        let mut block = vec![0; length];
        let read = self.files.read_exact_at(&self.file, &mut block, index as u64 * BLOCK_BYTES as u64);
        let (error, what) = match read {
            Ok(()) if block_sum(self.id, index, &block) == sum => return Ok(block.into()),
            Ok(()) => (super::invalid("a block is not as it was written"), "damaged"),
            Err(error) => (error, "unreadable"),
        };
        if let Some(store) = self.store.upgrade() {
            store.count(what);
        }
        self.damaged.store(true, Ordering::Relaxed);
        Err(error)
    }

    /// Whether a block of it could not be read. It is not served to anybody else then.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Gives it the name of one that is kept. Blocks.
    pub(super) fn keep(&self, store: &Shared) -> io::Result<()> {
        if !self.kept.load(Ordering::Relaxed) {
            let (from, to) = (Name::Incoming(self.id).in_dir(&store.dir), Name::Body(self.id).in_dir(&store.dir));
            store.files.rename(&from, &to)?;
            self.kept.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Drop for BodyFile {
    fn drop(&mut self) {
        if !self.kept.load(Ordering::Relaxed)
            && let Some(store) = self.store.upgrade()
        {
            // By the writer: this may be a thread that must not wait for a disk.
            let _ = store.queue.send(Command::Remove(Name::Incoming(self.id)));
        }
    }
}
