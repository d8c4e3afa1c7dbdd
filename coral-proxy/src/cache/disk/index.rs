//! What is on disk and where, in memory: a small slot for each object.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use coral_dsht::Key;
use http::header::HeaderName;

use super::record::Entry;
use crate::cache::Object;

/// The first bytes of a variant key. Two that share them share a slot, so at worst one pushes the other out: the whole key
/// is in the record, and compared when that is read.
pub(super) type Prefix = [u32; 2];

/// Lists of selecting fields that are kept once for all URLs. There are few; beyond these each URL has its own.
const SHARED_LISTS: usize = 1024;

pub(super) fn prefix(variant: &Key) -> Prefix {
    let bytes = variant.as_bytes();
    let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    [number(0), number(4)]
}

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u32,
    pub(super) offset: u32,
    pub(super) length: u32,
}

/// What is known of one object: 36 bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) url: Key,
    pub(super) place: Place,
    flags: u8,
}

/// It was read since it was written.
const HIT: u8 = 1;
/// The index of the network was told of it.
const ANNOUNCED: u8 = 2;
/// Its body is in a file of its own.
const IN_FILE: u8 = 4;
/// It counts for the list of fields by which its URL varies.
const VARIES: u8 = 8;

impl Slot {
    pub(super) fn is_hit(&self) -> bool {
        self.flags & HIT != 0
    }

    pub(super) fn is_announced(&self) -> bool {
        self.flags & ANNOUNCED != 0
    }
}

/// What has been taken out of the index.
#[derive(Debug)]
pub(super) struct Removed {
    pub(super) slot: Slot,
    /// Number and length of its body's file.
    pub(super) file: Option<(u64, u64)>,
}

/// Slots, the body files that belong to them, and by which fields URLs vary.
#[derive(Debug, Default)]
pub(super) struct Index {
    slots: HashMap<Prefix, Slot>,
    files: HashMap<Prefix, (u64, u64)>,
    varying: HashMap<Key, (Arc<[HeaderName]>, u32)>,
    lists: HashSet<Arc<[HeaderName]>>,
    /// Those on their way to the disk. They are not in `slots`, but found.
    waiting: HashMap<Prefix, Arc<Object>>,
    /// Bytes of body files.
    file_bytes: u64,
}

impl Index {
    pub(super) fn get(&self, prefix: Prefix) -> Option<Slot> {
        self.slots.get(&prefix).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    pub(super) fn selecting(&self, url: &Key) -> Option<Arc<[HeaderName]>> {
        self.varying.get(url).map(|(list, _)| Arc::clone(list))
    }

    pub(super) fn waiting(&self, prefix: Prefix) -> Option<Arc<Object>> {
        self.waiting.get(&prefix).cloned()
    }

    /// From now on `object` is the one on its way; one from before is not any more.
    pub(super) fn wait(&mut self, prefix: Prefix, object: Option<Arc<Object>>) {
        match object {
            Some(object) => self.waiting.insert(prefix, object),
            None => self.waiting.remove(&prefix),
        };
    }

    /// Whether `object` was still the latest on its way; it is not any more.
    pub(super) fn waits_no_more(&mut self, prefix: Prefix, object: &Arc<Object>) -> bool {
        let latest = self.waiting.get(&prefix).is_some_and(|latest| Arc::ptr_eq(latest, object));
        if latest {
            self.waiting.remove(&prefix);
        }
        latest
    }

    /// Puts `entry` of `segment` in, and returns what was there.
    pub(super) fn insert(&mut self, segment: u32, entry: &Entry, announced: bool) -> Option<Removed> {
        let prefix = prefix(&entry.variant);
        let before = self.remove(prefix);
        let mut flags = if announced { ANNOUNCED } else { 0 };
        if let Some((file, length)) = entry.file {
            flags |= IN_FILE;
            self.files.insert(prefix, (file, length));
            self.file_bytes += length;
        }
        if entry.selecting.is_empty() {
            // The latest response says by what its URL varies. The others still count.
            if let Some((list, _)) = self.varying.get_mut(&entry.url) {
                *list = Arc::clone(&entry.selecting);
            }
        } else {
            flags |= VARIES;
            let list = self.shared(&entry.selecting);
            let varying = self.varying.entry(entry.url).or_insert_with(|| (Arc::clone(&list), 0));
            *varying = (list, varying.1 + 1);
        }
        let place = Place { segment, offset: entry.offset, length: entry.length };
        self.slots.insert(prefix, Slot { url: entry.url, place, flags });
        before
    }

    fn shared(&mut self, list: &Arc<[HeaderName]>) -> Arc<[HeaderName]> {
        match self.lists.get(list) {
            Some(shared) => Arc::clone(shared),
            None => {
                if self.lists.len() < SHARED_LISTS {
                    self.lists.insert(Arc::clone(list));
                }
                Arc::clone(list)
            }
        }
    }

    pub(super) fn remove(&mut self, prefix: Prefix) -> Option<Removed> {
        let slot = self.slots.remove(&prefix)?;
        let file = if slot.flags & IN_FILE != 0 { self.files.remove(&prefix) } else { None };
        self.file_bytes -= file.map_or(0, |(_, length)| length);
        if slot.flags & VARIES != 0
            && let Some((_, count)) = self.varying.get_mut(&slot.url)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.varying.remove(&slot.url);
            }
        }
        Some(Removed { slot, file })
    }

    /// The same if it is still at `place`.
    pub(super) fn remove_at(&mut self, prefix: Prefix, place: Place) -> Option<Removed> {
        self.is_at(prefix, place).then(|| self.remove(prefix))?
    }

    pub(super) fn is_at(&self, prefix: Prefix, place: Place) -> bool {
        self.slots.get(&prefix).is_some_and(|slot| slot.place == place)
    }

    /// The record has been copied from `from` to `to`, and begins again as one that nobody has asked for.
    pub(super) fn moved(&mut self, prefix: Prefix, from: Place, to: Place) -> bool {
        match self.slots.get_mut(&prefix).filter(|slot| slot.place == from) {
            Some(slot) => {
                slot.place = to;
                slot.flags &= !HIT;
                true
            }
            None => false,
        }
    }

    pub(super) fn hit(&mut self, prefix: Prefix, place: Place) {
        if let Some(slot) = self.slots.get_mut(&prefix).filter(|slot| slot.place == place) {
            slot.flags |= HIT;
        }
    }

    /// The URL of the object there, if the network has not been told of it; it counts as told then.
    pub(super) fn announce(&mut self, prefix: Prefix) -> Option<Key> {
        let slot = self.slots.get_mut(&prefix).filter(|slot| slot.flags & ANNOUNCED == 0)?;
        slot.flags |= ANNOUNCED;
        Some(slot.url)
    }

    /// The slots of a segment. Walks all.
    pub(super) fn of_segment(&self, segment: u32) -> Vec<(Prefix, Place)> {
        let walk = self.slots.iter().filter(|(_, slot)| slot.place.segment == segment);
        walk.map(|(prefix, slot)| (*prefix, slot.place)).collect()
    }

    /// Whether a body file belongs to an object.
    pub(super) fn file_ids(&self) -> HashSet<u64> {
        self.files.values().map(|(file, _)| *file).collect()
    }
}
