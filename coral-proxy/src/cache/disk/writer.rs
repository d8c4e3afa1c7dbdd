//! The thread that writes: records into segments, and room where there is none.
//!
//! A record can be found once it has been handed to the kernel, not before: so it survives the process, however that ends.
//! Nothing is synced, as the loss of power may cost objects, but cannot make a wrong one pass its checksum.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Instant, SystemTime};

use super::files::{LOCK, Name};
use super::index::{Place, prefix};
use super::record::{self, Entry};
use super::{Command, Shared, open, segment};
use crate::cache::Object;

/// Records are written together up to this: few calls, and little memory.
const BUFFER_BYTES: usize = 512 * 1024;

/// A segment that is not written to any more.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) bytes: u64,
    /// Its records, where its footer could not be written.
    pub(super) entries: Option<Vec<Entry>>,
}

/// The segment that is written to.
#[derive(Debug)]
struct Active {
    id: u32,
    file: Arc<File>,
    /// Bytes written.
    length: u64,
    /// Records written.
    entries: Vec<Entry>,
    /// Bytes of its records and of the body files that belong to them.
    weight: u64,
}

/// A record in the buffer.
#[derive(Debug)]
struct Pending {
    entry: Entry,
    what: What,
}

#[derive(Debug)]
enum What {
    /// One that was queued.
    New(Arc<Object>),
    /// One that is moved here from an old segment.
    Moved(Place),
}

#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    commands: Receiver<Command>,
    active: Option<Active>,
    sealed: BTreeMap<u32, Sealed>,
    next_segment: u32,
    buffer: Vec<u8>,
    pending: Vec<Pending>,
    /// Files to be removed once those are written.
    superfluous: Vec<Name>,
    /// Bytes of records that may be written once more when their segments go. It grows with what is given up, so that in the
    /// long run no more is written twice than once, yet a segment full of what everybody wants can be kept whole.
    credit: u64,
    lock: File,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        commands: Receiver<Command>,
        sealed: BTreeMap<u32, Sealed>,
        lock: File,
    ) -> Self {
        let next_segment = sealed.last_key_value().map_or(1, |(last, _)| last.saturating_add(1));
        let credit = shared.segment_bytes;
        Self {
            credit,
            shared,
            commands,
            active: None,
            sealed,
            next_segment,
            buffer: Vec::new(),
            pending: Vec::new(),
            superfluous: Vec::new(),
            lock,
        }
    }

    pub(super) fn run(mut self) {
        // The capacity may have become less since the last time.
        self.make_room();
        loop {
            let command = match self.commands.try_recv() {
                Ok(command) => command,
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => {
                    self.write_out();
                    self.make_room();
                    self.buffer = Vec::new();
                    match self.commands.recv() {
                        Ok(command) => command,
                        Err(_) => break,
                    }
                }
            };
            match command {
                Command::Append(object, bytes) => {
                    self.append(object);
                    self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
                }
                Command::Remove(name) if self.pending.is_empty() => self.remove(name),
                // What takes its place may be among those.
                Command::Remove(name) => self.superfluous.push(name),
                Command::Flush(done) => {
                    self.write_out();
                    self.make_room();
                    let _ = done.send(());
                }
                Command::Close => break,
            }
        }
        self.write_out();
        self.make_room();
        self.seal();
        let _ = self.lock.unlock();
    }

    fn append(&mut self, object: Arc<Object>) {
        if !self.is_ready() {
            self.shared.count("skipped");
            return self.lost(&object);
        }
        if let Some((file, ..)) = object.body.in_file()
            && let Err(error) = file.keep(&self.shared)
        {
            self.shared.failed(&error);
            return self.lost(&object);
        }
        let Some(active) = &mut self.active else {
            return self.lost(&object);
        };
        let offset = active.length as u32;
        let entry = record::encode(&object, active.id, SystemTime::now(), offset, &mut self.buffer);
        // One that would take half of everything, or is not whole after all.
        let Some(entry) = entry.filter(|entry| u64::from(entry.length) <= self.shared.largest()) else {
            let written =
                self.pending.last().map_or(0, |last| (last.entry.offset + last.entry.length - offset) as usize);
            self.buffer.truncate(written);
            self.shared.count("skipped");
            return self.lost(&object);
        };
        active.weight += u64::from(entry.length) + entry.file.map_or(0, |(_, length)| length);
        self.pending.push(Pending { entry, what: What::New(object) });
        self.after_push();
        self.make_room_if_much();
    }

    /// Writes the buffer if it is large, and seals the segment if it is full.
    fn after_push(&mut self) {
        let Some(active) = &self.active else {
            return;
        };
        let full = active.weight >= self.shared.segment_bytes
            || active.entries.len() + self.pending.len() >= segment::MAX_RECORDS;
        if full || self.buffer.len() >= BUFFER_BYTES {
            self.write_out();
        }
        if full {
            self.seal();
        }
    }

    /// Whether there is a segment to write to.
    fn is_ready(&mut self) -> bool {
        if let Some(failing) = self.shared.failing() {
            if Instant::now() < failing.try_again {
                return false;
            }
            self.abandon_active();
            if let Err(error) = self.look_again() {
                self.shared.failed(&error);
                return false;
            }
            if failing.full {
                self.credit = 0;
                self.evict_oldest(&mut 0);
            }
        }
        if self.active.is_some() {
            return true;
        }
        match self.begin() {
            Ok(()) => self.shared.works(),
            Err(error) => self.shared.failed(&error),
        }
        self.active.is_some()
    }

    /// Begins a new segment.
    fn begin(&mut self) -> io::Result<()> {
        let shared = &self.shared;
        let id = self.next_segment;
        let path = Name::Segment(id).in_dir(&shared.dir);
        let file = shared.files.create(&path)?;
        if let Err(error) = shared.files.write_all_at(&file, &segment::start(id), 0) {
            let _ = shared.files.remove(&path);
            return Err(error);
        }
        self.next_segment = id.checked_add(1).ok_or_else(|| io::Error::other("segment numbers are used up"))?;
        let file = Arc::new(file);
        shared.segments.insert(id, Arc::clone(&file));
        shared.segment_total.fetch_add(segment::START, Ordering::Relaxed);
        self.active = Some(Active { id, file, length: segment::START, entries: Vec::new(), weight: segment::START });
        Ok(())
    }

    /// After a failure: the directory may have been taken away, and come back with less in it.
    fn look_again(&mut self) -> io::Result<()> {
        if !self.shared.dir.join(LOCK).try_exists()? {
            self.lock = open::lock(&self.shared.dir)?;
        }
        let missing = |id: &u32| matches!(Name::Segment(*id).in_dir(&self.shared.dir).try_exists(), Ok(false));
        let gone: Vec<u32> = self.sealed.keys().copied().filter(missing).collect();
        for id in gone {
            if let Some(sealed) = self.sealed.remove(&id) {
                self.forget(id, sealed.bytes);
            }
        }
        Ok(())
    }

    /// Hands the buffer to the kernel; its records can be found from then on.
    fn write_out(&mut self) {
        if self.pending.is_empty() {
            return self.remove_superfluous();
        }
        let pending = std::mem::take(&mut self.pending);
        let written = match &self.active {
            Some(active) => self.shared.files.write_all_at(&active.file, &self.buffer, active.length),
            None => Err(io::Error::other("there is no segment")),
        };
        match (written, &mut self.active) {
            (Ok(()), Some(active)) => {
                active.length += self.buffer.len() as u64;
                self.shared.segment_total.fetch_add(self.buffer.len() as u64, Ordering::Relaxed);
                for Pending { entry, what } in pending {
                    match what {
                        What::New(object) => self.shared.commit(active.id, &entry, &object),
                        What::Moved(from) => {
                            let to = Place { segment: active.id, offset: entry.offset, length: entry.length };
                            self.shared.index_mut().moved(prefix(&entry.variant), from, to);
                        }
                    }
                    active.entries.push(entry);
                }
            }
            (written, _) => {
                if let Err(error) = written {
                    self.shared.failed(&error);
                }
                for pending in pending {
                    if let What::New(object) = pending.what {
                        self.lost(&object);
                    }
                }
                self.abandon_active();
            }
        }
        self.buffer.clear();
        self.remove_superfluous();
        self.shared.show_totals();
    }

    fn remove_superfluous(&mut self) {
        for name in std::mem::take(&mut self.superfluous) {
            self.remove(name);
        }
    }

    fn remove(&self, name: Name) {
        let _ = self.shared.files.remove(&name.in_dir(&self.shared.dir));
    }

    /// Ends a segment that cannot be written: what is in it can still be read. A later start cuts off what is torn.
    fn abandon_active(&mut self) {
        if let Some(active) = self.active.take() {
            self.sealed.insert(active.id, Sealed { bytes: active.length, entries: Some(active.entries) });
        }
    }

    /// Ends the segment with its footer.
    fn seal(&mut self) {
        let Some(active) = self.active.take() else {
            return;
        };
        let footer = segment::footer(active.id, &active.entries);
        let (bytes, entries) = match self.shared.files.write_all_at(&active.file, &footer, active.length) {
            Ok(()) => {
                self.shared.segment_total.fetch_add(footer.len() as u64, Ordering::Relaxed);
                (active.length + footer.len() as u64, None)
            }
            Err(error) => {
                self.shared.failed(&error);
                (active.length, Some(active.entries))
            }
        };
        self.sealed.insert(active.id, Sealed { bytes, entries });
    }

    /// The object could not be written. If its body is in a file, nothing tells of that: it must go.
    fn lost(&self, object: &Arc<Object>) {
        let mut index = self.shared.index_mut();
        index.waits_no_more(prefix(&object.variant), object);
        drop(index);
        if let Some((file, length, _)) = object.body.in_file() {
            self.shared.above.let_go(&object.variant, file.id, length);
            let _ = self.shared.files.remove(&Name::Body(file.id).in_dir(&self.shared.dir));
        }
    }

    /// While much is written at once, room is made between.
    fn make_room_if_much(&mut self) {
        if self.pending.is_empty() {
            self.make_room();
        }
    }

    /// Evicts the oldest segments while there is more than may be.
    fn make_room(&mut self) {
        // Bytes of body files that may be spared, which costs nothing, but must come to an end.
        let mut files = self.shared.capacity / 2;
        while self.shared.total() > self.shared.capacity {
            if self.sealed.is_empty() {
                self.seal();
            }
            if !self.evict_oldest(&mut files) {
                break;
            }
            self.credit = (self.credit + self.shared.segment_bytes / 2).min(2 * self.shared.segment_bytes);
        }
    }

    /// Gives up the oldest segment, but for what was asked for since it was written: that is written once more.
    fn evict_oldest(&mut self, files: &mut u64) -> bool {
        let Some((id, sealed)) = self.sealed.pop_first() else {
            return false;
        };
        let entries = sealed.entries.or_else(|| {
            let file = self.shared.segment(id).ok()?;
            segment::read_footer(&*self.shared.files, &file, id).ok()?
        });
        for entry in entries.into_iter().flatten() {
            let place = Place { segment: id, offset: entry.offset, length: entry.length };
            let Some(slot) = self.shared.index().get(prefix(&entry.variant)).filter(|slot| slot.place == place) else {
                continue;
            };
            let asked_for = self.shared.above.was_asked_for(&entry.variant) || slot.is_hit();
            if asked_for && self.may_spare(&entry, files) && self.move_on(&entry, place) {
                self.shared.count("spared");
                continue;
            }
            self.shared.count("evicted");
            let mut index = self.shared.index_mut();
            let removed = index.remove_at(prefix(&entry.variant), place);
            self.shared.gone(&entry.variant, removed, None);
        }
        // What was moved must be found in its new place before the old one goes.
        self.write_out();
        self.forget(id, sealed.bytes);
        self.shared.show_totals();
        true
    }

    /// Removes a segment, and from the index what is still there.
    fn forget(&self, id: u32, bytes: u64) {
        let shared = &self.shared;
        let mut index = shared.index_mut();
        for (prefix, place) in index.of_segment(id) {
            if let Some(removed) = index.remove_at(prefix, place) {
                if removed.slot.is_announced() {
                    shared.above.dropped(removed.slot.url);
                }
                if let Some((file, _)) = removed.file {
                    let _ = shared.queue.send(Command::Remove(Name::Body(file)));
                }
            }
        }
        drop(index);
        shared.segments.invalidate(&id);
        shared.segment_total.fetch_sub(bytes, Ordering::Relaxed);
        let _ = shared.files.remove(&Name::Segment(id).in_dir(&shared.dir));
    }

    fn may_spare(&mut self, entry: &Entry, files: &mut u64) -> bool {
        let left = files.checked_sub(entry.file.map_or(0, |(_, length)| length));
        match (left, self.credit.checked_sub(entry.length.into())) {
            (Some(left), Some(credit)) => {
                (*files, self.credit) = (left, credit);
                true
            }
            _ => false,
        }
    }

    /// Copies a record into the segment that is written to.
    fn move_on(&mut self, entry: &Entry, from: Place) -> bool {
        let Some(record) = self.shared.read_record(from).ok() else {
            return false;
        };
        // Never passed on unchecked: its new checksum would make it right.
        if record::decode(from.segment, &record).is_err() || !self.is_ready() {
            return false;
        }
        let Some(active) = &mut self.active else {
            return false;
        };
        let mut record = Vec::from(record);
        record::seal(&mut record, active.id);
        let offset = active.length as u32 + self.buffer.len() as u32;
        self.buffer.extend_from_slice(&record);
        active.weight += u64::from(entry.length) + entry.file.map_or(0, |(_, length)| length);
        let entry = Entry { offset, ..entry.clone() };
        self.pending.push(Pending { entry, what: What::Moved(from) });
        self.after_push();
        true
    }
}

impl Shared {
    /// Makes a record that is on disk now found there, unless a newer one has been queued meanwhile.
    fn commit(&self, segment: u32, entry: &Entry, object: &Arc<Object>) {
        let prefix = prefix(&entry.variant);
        let mut index = self.index_mut();
        if !index.waits_no_more(prefix, object) {
            // The newer one may well be the same body with another head.
            let kept = index.waiting(prefix).and_then(|newer| newer.body.in_file()).map(|(file, ..)| file.id);
            if let Some((file, _)) = entry.file
                && kept != Some(file)
            {
                let _ = self.queue.send(Command::Remove(Name::Body(file)));
            }
            return;
        }
        // Before the old one goes, so that the network is not told to forget it in between.
        self.above.stored(entry.url, object.validity.remaining(SystemTime::now()), entry.stamp);
        let removed = index.insert(segment, entry, true);
        self.gone(&entry.variant, removed, entry.file.map(|(file, _)| file));
        drop(index);
        self.count("written");
    }
}
