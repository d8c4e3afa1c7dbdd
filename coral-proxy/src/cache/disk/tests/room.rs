//! Bounds, and what is given up to keep them.

use super::*;

const KIB: usize = 1024;
const CAPACITY: u64 = 4 << 20;

fn used(dir: &Path) -> u64 {
    files(dir).iter().map(|name| std::fs::metadata(dir.join(name)).unwrap().len()).sum()
}

#[test]
fn the_directory_stays_within_its_capacity_whatever_comes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), CAPACITY);
    for number in 0..2_000 {
        match number % 50 {
            0 => store.disk.append(large(&store.disk, number, 3 * BLOCK_BYTES)),
            _ => store.disk.append(small(number, 10 * KIB)),
        }
        if number % 10 == 0 {
            store.disk.flush();
            store.disk.flush();
            assert!(used(dir.path()) <= CAPACITY + 1000 && store.disk.totals().1 <= CAPACITY, "{}", used(dir.path()));
        }
    }
    let (objects, bytes) = store.disk.totals();
    assert!(objects > 100 && bytes > CAPACITY / 2, "{objects} objects, {bytes} bytes");
    assert_eq!(store.above.announced(), objects as i64, "what has gone is told");
    assert!(store.has(1_999, 10 * KIB) && !store.has(1, 10 * KIB));
    assert_eq!(store.counted("skipped"), 0);
    // The next start has less room.
    store.disk.close();
    let store = Store::open(dir.path(), CAPACITY / 2);
    store.disk.flush();
    store.disk.flush();
    assert!(used(dir.path()) <= CAPACITY / 2 + 1000 && store.has(1_999, 10 * KIB));
}

#[test]
fn what_was_asked_for_outlives_a_scan_of_many_times_the_capacity() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), CAPACITY);
    let (hot, length) = (20, 10 * KIB);
    for number in 0..hot {
        store.disk.append(small(number, length));
    }
    store.disk.append(large(&store.disk, hot, 2 * BLOCK_BYTES));
    store.disk.flush();
    for number in 1_000..5_000 {
        store.disk.append(small(number, length));
        // Some of the hot ones are read from disk, the others are hot in memory.
        if number % 50 == 0 {
            store.disk.flush();
            for hot in 0..=hot {
                match hot % 2 {
                    0 => assert!(store.disk.read(&variant(hot), |_| {}).is_some(), "{hot} was lost at {number}"),
                    _ => drop(store.above.hot.lock().unwrap().insert(variant(hot))),
                }
            }
        }
    }
    store.disk.close();
    let store = Store::open(dir.path(), CAPACITY);
    assert!((0..hot).all(|number| store.has(number, length)));
    assert!(store.disk.read(&variant(hot), |_| {}).is_some());
    assert!(store.has(4_999, length) && !store.has(1_000, length));
}

#[test]
fn a_disk_on_which_everything_is_hot_comes_to_an_end_with_making_room() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), CAPACITY);
    for number in 0..3_000 {
        store.above.hot.lock().unwrap().insert(variant(number));
        match number % 40 {
            0 => store.disk.append(large(&store.disk, number, BLOCK_BYTES)),
            _ => store.disk.append(small(number, 10 * KIB)),
        }
    }
    store.disk.flush();
    let (objects, bytes) = store.disk.totals();
    assert!(objects > 50 && bytes <= CAPACITY, "{objects} objects, {bytes} bytes");
}

#[test]
fn what_is_too_large_for_the_disk_is_not_begun() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), CAPACITY);
    assert!(store.disk.fits(CAPACITY / 2) && !store.disk.fits(CAPACITY / 2 + 1));
    let file = store.disk.create().unwrap();
    assert!(file.write(&[0; BLOCK_BYTES], CAPACITY / 2).is_err());
    assert_eq!(store.counted("failed"), 0, "that is not the disk's fault");
    store.disk.append(small(1, 3 << 20));
    store.disk.append(small(2, 10));
    store.disk.flush();
    assert!(!store.disk.has(&variant(1)) && store.has(2, 10));
}

/// A slow disk must not fill the memory: what it cannot take in time is skipped.
#[test]
fn what_waits_for_the_disk_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Arc::new(failing::Faulty::default());
    let store = Store::try_open(dir.path(), 1 << 30, Arc::<failing::Faulty>::clone(&gate)).unwrap();
    let held = gate.hold();
    for number in 0..100 {
        store.disk.append(small(number, 1 << 20));
        assert!(store.disk.handle.shared.queued_bytes.load(Ordering::Relaxed) <= QUEUE_BYTES);
    }
    assert!(store.counted("skipped") > 80);
    drop(held);
    store.disk.flush();
    assert!(store.has(0, 1 << 20) && !store.disk.may_have(&variant(99)));
    store.disk.append(small(99, 10));
    store.disk.flush();
    assert!(store.has(99, 10));
}
