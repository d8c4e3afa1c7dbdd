//! The disk tier by itself: what is written is found, whatever happens to files and file system.

mod crash;
mod failing;
mod properties;
mod room;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use coral_dsht::Id;
use http::header::HeaderMap;
use http::{HeaderValue, StatusCode};
use prometheus_client::registry::Registry;

use super::*;
use crate::cache::body::BLOCK_BYTES;
use crate::config::Freshness;
use crate::policy::{Validity, variant_key};

/// The rest of a store: writes down what it is told, and says of the objects in `hot` that they were asked for.
#[derive(Debug, Default)]
struct Upstairs {
    /// How many copies of each URL are on disk, as far as it was told.
    stored: Mutex<BTreeMap<Key, i64>>,
    hot: Mutex<BTreeSet<Key>>,
    blocks: Mutex<BTreeMap<(u64, usize), Bytes>>,
}

impl Upstairs {
    fn announced(&self) -> i64 {
        self.stored.lock().unwrap().values().sum()
    }
}

impl Above for Upstairs {
    fn stored(&self, url: Key, _fresh_for: Duration, _stamp: Option<Stamp>) {
        *self.stored.lock().unwrap().entry(url).or_default() += 1;
    }

    fn dropped(&self, url: Key) {
        *self.stored.lock().unwrap().entry(url).or_default() -= 1;
    }

    fn was_asked_for(&self, variant: &Key) -> bool {
        self.hot.lock().unwrap().remove(variant)
    }

    fn block(&self, file: u64, index: usize) -> Option<Bytes> {
        self.blocks.lock().unwrap().get(&(file, index)).cloned()
    }

    fn keep_block(&self, file: u64, index: usize, block: Bytes) {
        self.blocks.lock().unwrap().insert((file, index), block);
    }

    fn let_go(&self, _variant: &Key, file: u64, length: u64) {
        let count = length.div_ceil(BLOCK_BYTES as u64) as usize;
        self.blocks.lock().unwrap().retain(|(of, index), _| *of != file || *index >= count);
    }
}

/// A disk of one gigabyte that nobody listens to.
pub(crate) fn open(dir: &Path) -> Disk {
    Store::open(dir, 1 << 30).disk
}

/// A disk, and those who look at it.
struct Store {
    disk: Disk,
    warm: Vec<Warm>,
    above: Arc<Upstairs>,
}

impl Store {
    fn open(dir: &Path, capacity: u64) -> Self {
        Self::try_open(dir, capacity, Arc::new(RealFiles)).unwrap()
    }

    fn try_open(dir: &Path, capacity: u64, files: Arc<dyn Files>) -> Result<Self, crate::ProxyError> {
        let above = Arc::new(Upstairs::default());
        let metrics = Metrics::register(&mut Registry::default());
        // No time passes before a disk that failed is tried again.
        let opened = Disk::open_with(dir, capacity, files, Duration::ZERO, Arc::<Upstairs>::clone(&above), metrics);
        opened.map(|(disk, warm)| Self { disk, warm, above })
    }

    fn counted(&self, what: &'static str) -> u64 {
        self.disk.handle.shared.metrics.disk.get(&DiskLabels { what }).map_or(0, |counter| counter.get())
    }

    /// Whether the object number `number` is found, and right.
    fn has(&self, number: u64, length: usize) -> bool {
        match self.disk.read(&variant(number), |_| {}) {
            Some(found) => {
                assert_same(&found, &small(number, length));
                true
            }
            None => false,
        }
    }
}

fn url(number: u64) -> Key {
    Id::hash(&[b"test", &number.to_le_bytes()])
}

fn variant(number: u64) -> Key {
    variant_key(url(number), &[], &HeaderMap::new())
}

/// Bytes that no two bodies have in common for long.
fn content(number: u64, length: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn validity(headers: &HeaderMap) -> Validity {
    // In the past, and fresh until 2055.
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    Validity::of(StatusCode::OK, headers, now, now, &Freshness::default())
}

fn with_body(number: u64, body: Body) -> Arc<Object> {
    let mut headers = HeaderMap::new();
    headers.insert("x-number", number.into());
    headers.insert("cache-control", HeaderValue::from_static("max-age=1000000000"));
    headers.append("x-bytes", HeaderValue::from_bytes(b"caf\xe9").unwrap());
    headers.append("x-bytes", HeaderValue::from_static(""));
    let validity = validity(&headers);
    Arc::new(Object::new(url(number), StatusCode::OK, headers, body, validity))
}

/// An object that is made of its number.
fn small(number: u64, length: usize) -> Arc<Object> {
    with_body(number, Body::whole_of(content(number, length).into()))
}

/// One whose body is in a file of `disk`.
fn large(disk: &Disk, number: u64, length: usize) -> Arc<Object> {
    let file = disk.create().unwrap();
    let sums = file.write(&content(number, length), 0).unwrap();
    with_body(number, Body::in_file_of(file, length as u64, &sums))
}

/// All of a body, read block by block.
fn bytes_of(object: &Object) -> io::Result<Vec<u8>> {
    if let Some(whole) = object.body.whole() {
        return Ok(whole.into());
    }
    let (file, length, sums) = object.body.in_file().expect("it is in memory or in a file");
    let mut bytes = Vec::new();
    for (index, sum) in sums.iter().enumerate() {
        let left = length as usize - index * BLOCK_BYTES;
        bytes.extend_from_slice(&file.read(index, left.min(BLOCK_BYTES), *sum)?);
    }
    Ok(bytes)
}

fn assert_same(found: &Object, expected: &Object) {
    assert_eq!((found.key, found.variant, found.status), (expected.key, expected.variant, expected.status));
    assert_eq!((&found.headers, &found.selecting), (&expected.headers, &expected.selecting));
    assert_eq!(found.validity, expected.validity);
    assert!(bytes_of(found).unwrap() == bytes_of(expected).unwrap(), "the body of {:?} is another", found.headers);
}

fn files(dir: &Path) -> BTreeSet<String> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn what_was_written_is_found_before_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), 1 << 30);
    let big = 3 * BLOCK_BYTES + 17;
    for number in 0..100 {
        store.disk.append(small(number, number as usize * 100));
    }
    store.disk.append(large(&store.disk, 100, big));
    let mut varying = Arc::into_inner(small(101, 5)).unwrap();
    varying.selecting = Arc::from([http::header::ACCEPT_ENCODING, http::header::ACCEPT]);
    store.disk.append(Arc::new(varying));
    // Found while it waits as well.
    assert!(store.has(99, 9900));
    store.disk.flush();
    let check = |store: &Store| {
        assert!((0..100).all(|number| store.has(number, number as usize * 100)));
        assert_same(
            &store.disk.read(&variant(100), |_| {}).unwrap(),
            &with_body(100, Body::whole_of(content(100, big).into())),
        );
        let selecting = store.disk.selecting(&url(101)).unwrap();
        assert_eq!(*selecting, [http::header::ACCEPT_ENCODING, http::header::ACCEPT]);
        assert_eq!(store.disk.selecting(&url(1)), None);
        assert_eq!(store.disk.totals().0, 102);
        assert_eq!(store.disk.read(&variant(102), |_| {}).map(|found| found.key), None);
    };
    check(&store);
    assert_eq!(store.above.announced(), 102);
    store.disk.close();
    let store = Store::open(dir.path(), 1 << 30);
    check(&store);
    // The network is told of what is there, once, and when it goes.
    assert_eq!((store.warm.len(), store.above.announced()), (102, 0));
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
    assert_eq!(store.warm.iter().filter(|warm| store.disk.announce(**warm, now)).count(), 102);
    assert!(!store.disk.announce(store.warm[0], now));
    let late = now + Duration::from_secs(1_000_000_000);
    assert!(!store.disk.announce(store.warm[1], late), "nobody is told of what is stale");
    assert_eq!(store.above.announced(), 102);
    store.disk.drop_damaged(&variant(5));
    assert_eq!(store.above.announced(), 101);
}

#[test]
fn the_latest_version_counts_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), 1 << 30);
    store.disk.append(small(1, 10));
    store.disk.append(large(&store.disk, 2, BLOCK_BYTES + 1));
    store.disk.flush();
    let before = store.disk.read(&variant(2), |_| {}).unwrap();
    // The first gets another body, the second another head for the same body, as by a 304.
    let newer = |store: &Store| {
        let mut object = Arc::into_inner(store.disk.read(&variant(2), |_| {}).unwrap()).unwrap();
        object.headers.insert("x-number", HeaderValue::from_static("new"));
        Arc::new(object)
    };
    store.disk.append(small(1, 2000));
    store.disk.append(newer(&store));
    store.disk.flush();
    for _ in 0..2 {
        let store = Store::open_again(&dir, &store);
        assert!(store.has(1, 2000));
        let found = store.disk.read(&variant(2), |_| {}).unwrap();
        assert_eq!(found.headers["x-number"], "new");
        assert!(bytes_of(&found).unwrap() == bytes_of(&before).unwrap());
        assert_eq!(files(dir.path()).iter().filter(|name| name.starts_with("coral-body")).count(), 1);
        store.disk.close();
    }
    // A small one in its place takes the file away, though it can still be read to its end by whoever has it open.
    let store = Store::open(dir.path(), 1 << 30);
    let open = store.disk.read(&variant(2), |_| {}).unwrap();
    store.disk.append(small(2, 7));
    store.disk.flush();
    store.disk.flush();
    assert_eq!(files(dir.path()).iter().filter(|name| name.starts_with("coral-body")).count(), 0);
    assert!(store.has(2, 7));
    assert!(bytes_of(&open).unwrap() == content(2, BLOCK_BYTES + 1));
}

impl Store {
    /// The same directory, once the process that had it is done with it.
    fn open_again(dir: &tempfile::TempDir, before: &Self) -> Self {
        before.disk.close();
        Self::open(dir.path(), 1 << 30)
    }
}

/// A lock that is taken for reading twice by one thread hangs if another one asks for it in between to write.
#[test]
fn whoever_counts_and_whoever_stores_do_not_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), 1 << 30);
    let object = small(1, 10);
    std::thread::scope(|scope| {
        let counting = scope.spawn(|| (0..200_000).for_each(|_| assert!(store.disk.totals().0 <= 1)));
        while !counting.is_finished() {
            store.disk.append(Arc::clone(&object));
        }
    });
    // The queue may have been full for the last of them.
    store.disk.flush();
    store.disk.append(object);
    store.disk.flush();
    assert_eq!(store.disk.totals().0, 1);
}

#[test]
fn an_older_one_that_is_read_meanwhile_does_not_take_the_place_of_a_newer_one() {
    let dir = tempfile::tempdir().unwrap();
    let (store, files) = failing::start(dir.path(), 1 << 30);
    store.disk.append(small(1, 10));
    store.disk.flush();
    let mut kept = 0;
    store.disk.read(&variant(1), |_| kept += 1);
    assert_eq!(kept, 1);
    let writing = files.hold();
    store.disk.append(small(1, 20));
    store.disk.read(&variant(1), |_| kept += 1);
    assert_eq!(kept, 1, "what is still on its way is in memory already");
    assert!(store.has(1, 20));
    drop(writing);
    store.disk.flush();
    assert!(store.has(1, 20));
}

#[test]
fn files_of_others_are_left_alone_and_ours_that_cannot_be_read_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), 1 << 30);
    store.disk.append(small(1, 10));
    store.disk.close();
    let theirs = ["notes.txt", "coral-segment-1", "coral-segment-0000000g", "coral-body-1.bak"];
    let ours = [
        "coral-segment-000000ff",
        "coral-segment-00000100",
        "coral-body-0000000000000009",
        "coral-incoming-0000000000000009",
    ];
    for name in theirs.iter().chain(&ours) {
        std::fs::write(dir.path().join(name), b"coralseg of another version, or anything at all").unwrap();
    }
    std::fs::write(dir.path().join(ours[1]), b"").unwrap();
    let store = Store::open(dir.path(), 1 << 30);
    assert!(store.has(1, 10));
    let left = files(dir.path());
    assert!(
        theirs.iter().all(|name| left.contains(*name)) && ours.iter().all(|name| !left.contains(*name)),
        "{left:?}"
    );
}

#[test]
fn a_directory_has_one_user_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), 1 << 30);
    let error = Store::try_open(dir.path(), 1 << 30, Arc::new(RealFiles)).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("another process uses it") && error.contains(&*dir.path().to_string_lossy()), "{error}");
    store.disk.close();
    Store::open(dir.path(), 1 << 30);
}
