//! A file system that fails: the disk is left alone for a while, and nothing else happens.

use std::sync::atomic::AtomicBool;

use super::*;

/// A file system that fails when it is told to.
#[derive(Debug, Default)]
pub(super) struct Faulty {
    /// The error of everything that writes, if there is one.
    writes: Mutex<Option<io::ErrorKind>>,
    /// Bytes that can still be written before the disk is full.
    room: Mutex<Option<u64>>,
    reads_fail: AtomicBool,
    /// Held by a test that keeps writes waiting.
    gate: Mutex<()>,
}

impl Faulty {
    pub(super) fn hold(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().unwrap()
    }

    fn fail(&self, kind: Option<io::ErrorKind>) {
        *self.writes.lock().unwrap() = kind;
    }

    fn check(&self) -> io::Result<()> {
        drop(self.gate.lock().unwrap());
        self.writes.lock().unwrap().map_or(Ok(()), |kind| Err(kind.into()))
    }
}

impl Files for Faulty {
    fn create(&self, path: &Path) -> io::Result<File> {
        self.check()?;
        RealFiles.create(path)
    }

    fn write_all_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.check()?;
        if let Some(room) = self.room.lock().unwrap().as_mut() {
            let Some(left) = room.checked_sub(bytes.len() as u64) else {
                // As a real one: a part of it is written.
                RealFiles.write_all_at(file, &bytes[..*room as usize], offset)?;
                *room = 0;
                return Err(io::ErrorKind::StorageFull.into());
            };
            *room = left;
        }
        RealFiles.write_all_at(file, bytes, offset)
    }

    fn read_exact_at(&self, file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        if self.reads_fail.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        RealFiles.read_exact_at(file, bytes, offset)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check()?;
        RealFiles.rename(from, to)
    }

    /// What is removed makes room.
    fn remove(&self, path: &Path) -> io::Result<()> {
        let bytes = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        if let Some(room) = self.room.lock().unwrap().as_mut() {
            *room += bytes;
        }
        RealFiles.remove(path)
    }
}

pub(super) fn start(dir: &Path, capacity: u64) -> (Store, Arc<Faulty>) {
    let files = Arc::new(Faulty::default());
    (Store::try_open(dir, capacity, Arc::<Faulty>::clone(&files)).unwrap(), files)
}

impl Store {
    fn is_failing(&self) -> bool {
        let gauge = self.disk.handle.shared.metrics.disk_failing.get() == 1;
        assert_eq!(gauge, self.disk.handle.shared.failing().is_some());
        gauge
    }
}

#[test]
fn a_disk_that_cannot_be_written_is_tried_again_and_what_was_there_is_still_read() {
    for kind in [io::ErrorKind::ReadOnlyFilesystem, io::ErrorKind::StorageFull, io::ErrorKind::PermissionDenied] {
        let dir = tempfile::tempdir().unwrap();
        let (store, files) = start(dir.path(), 1 << 30);
        store.disk.append(small(1, 100));
        store.disk.flush();
        files.fail(Some(kind));
        for number in 2..6 {
            store.disk.append(small(number, 100));
            store.disk.flush();
            assert!(store.is_failing() && !store.disk.may_have(&variant(number)));
        }
        assert!(store.disk.create().is_err());
        if kind != io::ErrorKind::StorageFull {
            assert!(store.has(1, 100));
        }
        files.fail(None);
        store.disk.append(small(6, 100));
        store.disk.flush();
        assert!(!store.is_failing() && store.has(6, 100), "{kind}");
        assert_eq!(store.above.announced(), store.disk.totals().0 as i64);
        let before: Vec<bool> = (1..7).map(|number| store.has(number, 100)).collect();
        store.disk.close();
        let (store, _) = start(dir.path(), 1 << 30);
        assert_eq!((1..7).map(|number| store.has(number, 100)).collect::<Vec<_>>(), before);
    }
}

#[test]
fn a_full_disk_gives_up_the_oldest_for_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let (store, files) = start(dir.path(), 16 << 20);
    // Somebody else has filled the file system: there is less than the capacity.
    *files.room.lock().unwrap() = Some(5 << 20);
    for number in 0..2_000 {
        store.disk.append(small(number, 10_000));
        if number % 20 == 0 {
            store.disk.flush();
        }
    }
    store.disk.flush();
    let (objects, bytes) = store.disk.totals();
    assert!((200..520).contains(&objects) && bytes <= 5 << 20, "{objects} objects, {bytes} bytes");
    assert!((1_900..2_000).filter(|number| store.has(*number, 10_000)).count() > 50, "new ones are stored");
    assert!((0..1_000).all(|number| !store.has(number, 10_000)));
    store.disk.close();
    let (store, _) = start(dir.path(), 16 << 20);
    assert!((0..2_000).filter(|number| store.has(*number, 10_000)).count() as u64 >= objects - 60);
}

#[test]
fn a_large_object_for_which_there_is_no_room_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let (store, files) = start(dir.path(), 1 << 30);
    let file = store.disk.create().unwrap();
    *files.room.lock().unwrap() = Some(100_000);
    assert!(file.write(&content(1, BLOCK_BYTES), 0).is_err());
    assert!(store.is_failing());
    drop(file);
    store.disk.flush();
    assert!(!files_have(dir.path(), "incoming"));
    // One that is there, but whose record cannot be written.
    *files.room.lock().unwrap() = None;
    let object = large(&store.disk, 2, BLOCK_BYTES);
    files.fail(Some(io::ErrorKind::ReadOnlyFilesystem));
    store.disk.append(Arc::clone(&object));
    store.disk.flush();
    assert!(bytes_of(&object).is_ok(), "who reads it reads on");
    drop(object);
    store.disk.flush();
    assert!(!files_have(dir.path(), "incoming") && !files_have(dir.path(), "body"));
}

fn files_have(dir: &Path, kind: &str) -> bool {
    files(dir).iter().any(|name| name.contains(kind))
}

#[test]
fn what_cannot_be_read_is_a_miss_and_is_not_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, files) = start(dir.path(), 1 << 30);
    store.disk.append(small(1, 100));
    store.disk.append(large(&store.disk, 2, BLOCK_BYTES));
    store.disk.append(small(3, 100));
    store.disk.flush();
    let open = store.disk.read(&variant(2), |_| {}).unwrap();
    files.reads_fail.store(true, Ordering::Relaxed);
    assert!(!store.has(1, 100) && !store.disk.may_have(&variant(1)));
    assert!(bytes_of(&open).is_err() && open.body.file().unwrap().is_damaged());
    files.reads_fail.store(false, Ordering::Relaxed);
    assert!(!store.has(1, 100) && store.has(3, 100));
    assert_eq!(store.above.announced(), 2);
}

#[test]
fn a_block_that_was_read_is_in_memory_until_its_file_goes() {
    let dir = tempfile::tempdir().unwrap();
    let (store, files) = start(dir.path(), 1 << 30);
    let length = 2 * BLOCK_BYTES + 1;
    store.disk.append(large(&store.disk, 1, length));
    store.disk.flush();
    let object = store.disk.read(&variant(1), |_| {}).unwrap();
    let file = object.body.file().unwrap();
    let bytes = Bytes::from(bytes_of(&object).unwrap());
    assert_eq!(file.in_memory(0), None);
    for index in 0..3 {
        let end = length.min((index + 1) * BLOCK_BYTES);
        file.remember(index, &bytes.slice(index * BLOCK_BYTES..end));
    }
    files.reads_fail.store(true, Ordering::Relaxed);
    let kept: Vec<u8> = (0..3).flat_map(|index| file.in_memory(index).unwrap()).collect();
    assert!(kept == bytes);
    assert_eq!(file.in_memory(3), None);
    store.disk.drop_damaged(&variant(1));
    assert!((0..3).all(|index| file.in_memory(index).is_none()));
}

#[test]
fn a_directory_that_vanishes_and_comes_back_is_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let (store, _) = start(&path, 1 << 20);
    for number in 0..30 {
        store.disk.append(small(number, 10_000));
    }
    store.disk.flush();
    std::fs::remove_dir_all(&path).unwrap();
    // Another file in its place: nothing can be made there.
    std::fs::write(&path, b"").unwrap();
    for number in 30..60 {
        store.disk.append(small(number, 10_000));
        store.disk.flush();
    }
    assert!(store.is_failing());
    std::fs::remove_file(&path).unwrap();
    store.disk.append(small(60, 10_000));
    store.disk.flush();
    assert!(!store.is_failing() && store.has(60, 10_000));
    let found = (0..61).filter(|number| store.has(*number, 10_000)).count() as u64;
    assert_eq!(
        (found, store.above.announced()),
        (store.disk.totals().0, found as i64),
        "nothing is promised that is gone"
    );
    assert!(Store::try_open(&path, 1 << 20, Arc::new(RealFiles)).is_err(), "it is locked again");
    store.disk.close();
    assert!(Store::open(&path, 1 << 20).has(60, 10_000));
}
