//! What a process leaves behind that ended in the middle of a write, byte by byte.

use super::*;

/// Three records and their end, in a segment whose process was killed.
fn unsealed(dir: &Path) -> (PathBuf, Vec<u8>, Vec<u64>) {
    let store = Store::open(dir, 1 << 30);
    let mut ends = Vec::new();
    for number in 0..3 {
        store.disk.append(small(number, 40));
        store.disk.flush();
        ends.push(store.disk.totals().1);
    }
    let path = dir.join(files(dir).into_iter().find(|name| name.starts_with("coral-segment")).unwrap());
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes.len() as u64, ends[2], "nothing but records");
    store.disk.close();
    (path, bytes, ends)
}

#[test]
fn a_segment_cut_at_any_byte_has_the_records_before_the_cut() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes, ends) = unsealed(dir.path());
    for cut in 0..=bytes.len() {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        // Twice: the first start mends the segment, the second one finds it mended.
        for _ in 0..2 {
            let store = Store::open(dir.path(), 1 << 30);
            for (number, end) in ends.iter().enumerate() {
                assert_eq!(
                    store.has(number as u64, 40),
                    *end <= cut as u64,
                    "record {number} of a segment cut at {cut}"
                );
            }
            store.disk.append(small(9, 40));
            store.disk.flush();
            assert!(store.has(9, 40));
            store.disk.drop_damaged(&variant(9));
            store.disk.close();
        }
        for name in files(dir.path()) {
            std::fs::remove_file(dir.path().join(name)).unwrap();
        }
    }
}

#[test]
fn a_footer_cut_or_damaged_at_any_byte_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (path, records, _) = unsealed(dir.path());
    let sealed = std::fs::read(&path).unwrap();
    assert!(sealed.len() > records.len());
    for at in records.len()..sealed.len() {
        let mut flipped = sealed.clone();
        flipped[at] ^= 0x10;
        for bytes in [&sealed[..at], &flipped] {
            std::fs::write(&path, bytes).unwrap();
            let store = Store::open(dir.path(), 1 << 30);
            assert!((0..3).all(|number| store.has(number, 40)), "{at}");
            store.disk.close();
            assert!(std::fs::read(&path).unwrap() == sealed, "it is mended: {at}");
        }
    }
}

#[test]
fn a_damaged_byte_anywhere_is_a_miss_never_a_wrong_object() {
    let dir = tempfile::tempdir().unwrap();
    let (path, records, ends) = unsealed(dir.path());
    let sealed = std::fs::read(&path).unwrap();
    for at in segment::START as usize..records.len() {
        let mut damaged = sealed.clone();
        damaged[at] ^= 0x01;
        std::fs::write(&path, &damaged).unwrap();
        let store = Store::open(dir.path(), 1 << 30);
        let hit = ends.iter().filter(|end| **end <= at as u64).count() as u64;
        for number in 0..3 {
            assert_eq!(store.has(number, 40), number != hit, "record {number}, byte {at}");
        }
        assert_eq!((store.counted("damaged"), store.disk.totals().0), (1, 2));
        store.disk.close();
    }
}

#[test]
fn a_body_file_that_is_damaged_or_cut_is_read_up_to_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), 1 << 30);
    store.disk.append(large(&store.disk, 1, 2 * BLOCK_BYTES + 100));
    store.disk.flush();
    let body = dir.path().join(files(dir.path()).into_iter().find(|name| name.starts_with("coral-body")).unwrap());
    let whole = std::fs::read(&body).unwrap();
    let mut damaged = whole.clone();
    damaged[BLOCK_BYTES + 5] ^= 1;
    std::fs::write(&body, damaged).unwrap();
    let object = store.disk.read(&variant(1), |_| {}).unwrap();
    let (file, _, sums) = object.body.in_file().unwrap();
    assert!(file.read(0, BLOCK_BYTES, sums[0]).is_ok() && !file.is_damaged());
    assert!(file.read(1, BLOCK_BYTES, sums[1]).is_err() && file.is_damaged());
    assert!(file.read(2, 100, sums[2]).is_ok());
    std::fs::write(&body, &whole[..whole.len() - 1]).unwrap();
    assert!(store.disk.read(&variant(1), |_| {}).is_none());
    assert_eq!(store.disk.totals().0, 0);
    store.disk.flush();
    assert!(!body.exists(), "its space returns");
}

#[test]
fn a_body_of_which_no_record_tells_is_removed_and_a_record_without_its_body_is_a_miss() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), 1 << 30);
    for number in 0..2 {
        store.disk.append(large(&store.disk, number, BLOCK_BYTES));
        store.disk.flush();
    }
    let arriving = store.disk.create().unwrap();
    arriving.write(&[1], 0).unwrap();
    store.disk.close();
    std::fs::remove_file(dir.path().join("coral-body-0000000000000001")).unwrap();
    std::fs::write(dir.path().join("coral-body-00000000000000aa"), b"an orphan").unwrap();
    let store = Store::open(dir.path(), 1 << 30);
    assert!(store.disk.read(&variant(0), |_| {}).is_none() && store.disk.read(&variant(1), |_| {}).is_some());
    let left = files(dir.path());
    assert!(
        left.contains("coral-body-0000000000000002") && left.iter().filter(|name| name.contains("body")).count() == 1
    );
    assert!(!left.iter().any(|name| name.contains("incoming")));
    // No number is used twice: an old record must not tell of a new file.
    assert_eq!(store.disk.create().unwrap().id(), 0xab);
}
