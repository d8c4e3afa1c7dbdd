//! One writer and many readers: in memory, on disk, and through a window.

use super::*;

fn limits(memory: usize, disk: bool) -> (Limits, Option<tempfile::TempDir>) {
    let dir = disk.then(|| tempfile::tempdir().unwrap());
    let limits = Limits {
        memory,
        disk: dir.as_ref().map(|dir| crate::cache::disk::tests::open(dir.path())),
        patience: Duration::from_secs(30),
        finish_unread: 1000,
    };
    (limits, dir)
}

async fn rest(mut reader: Reader) -> Result<Vec<u8>, BodyError> {
    let mut all = Vec::new();
    while let Some(bytes) = reader.next().await {
        all.extend_from_slice(&bytes?);
    }
    Ok(all)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|place| (place * 7 % 251) as u8).collect()
}

#[tokio::test]
async fn a_reader_gets_bytes_before_the_end_is_there() {
    let (body, mut writer) = Body::new(None, true, limits(100, false).0);
    let mut reader = body.reader(0, None).unwrap();
    writer.write(Bytes::from_static(b"first")).await.unwrap();
    assert_eq!(reader.next().await, Some(Ok(Bytes::from_static(b"first"))));
    writer.seal(Bytes::from_static(b" last")).await.unwrap();
    writer.end();
    assert_eq!(rest(reader).await.unwrap(), b" last");
    assert_eq!(body.whole().unwrap(), "first last");
}

#[tokio::test]
async fn a_large_body_goes_to_disk_and_is_read_from_any_place() {
    let all = pattern(3 * BLOCK_BYTES + 17);
    let (limits, _dir) = limits(1000, true);
    let (body, mut writer) = Body::new(Some(all.len() as u64), true, limits);
    let early = tokio::spawn(rest(body.reader(0, None).unwrap()));
    for chunk in all.chunks(70_000) {
        writer.write(Bytes::copy_from_slice(chunk)).await.unwrap();
    }
    writer.seal(Bytes::new()).await.unwrap();
    writer.end();
    assert!(early.await.unwrap().unwrap() == all);
    assert!(rest(body.reader(0, None).unwrap()).await.unwrap() == all);
    let part = body.reader(1_000, Some(300_000)).unwrap();
    assert!(rest(part).await.unwrap() == all[1_000..300_000]);
    let (on_disk, memory) = body.footprint();
    assert!(on_disk && memory < 2 * BLOCK_BYTES, "{memory}");
}

#[tokio::test]
async fn memory_keeps_blocks_that_are_asked_for_again_and_not_those_of_the_first_transfer() {
    let all = pattern(2 * BLOCK_BYTES + 17);
    let (limits, _dir) = limits(1000, true);
    let (body, mut writer) = Body::new(Some(all.len() as u64), true, limits.clone());
    let early = body.reader(0, None).unwrap();
    writer.seal(Bytes::copy_from_slice(&all)).await.unwrap();
    writer.end();
    let file = body.file().unwrap();
    assert!(rest(early).await.unwrap() == all);
    assert!((0..3).all(|index| file.in_memory(index).is_none()));
    let late = body.reader(BLOCK_BYTES as u64 + 1, None).unwrap();
    assert!(rest(late).await.unwrap() == all[BLOCK_BYTES + 1..]);
    assert_eq!(file.in_memory(0), None);
    assert!(file.in_memory(1).unwrap() == all[BLOCK_BYTES..2 * BLOCK_BYTES]);
    assert!(rest(body.reader(0, None).unwrap()).await.unwrap() == all);
}

#[tokio::test(start_paused = true)]
async fn the_writer_of_a_window_waits_for_the_slowest_reader() {
    let (body, mut writer) = Body::new(None, false, limits(10, false).0);
    let mut slow = body.reader(0, None).unwrap();
    writer.write(Bytes::from_static(b"0123456789")).await.unwrap();
    let blocked = tokio::time::timeout(Duration::from_secs(1), writer.write(Bytes::from_static(b"x"))).await;
    assert!(blocked.is_err());
    assert_eq!(slow.next().await.unwrap().unwrap(), "0123456789");
    writer.write(Bytes::from_static(b"x")).await.unwrap();
    assert!(body.reader(0, None).is_none(), "what comes first is forgotten");
    writer.end();
    assert_eq!(rest(slow).await.unwrap(), b"x");
}

#[tokio::test(start_paused = true)]
async fn a_window_that_nobody_reads_is_abandoned() {
    let (body, mut writer) = Body::new(None, false, limits(4, false).0);
    let reader = body.reader(0, None).unwrap();
    writer.write(Bytes::from_static(b"0123")).await.unwrap();
    drop(reader);
    assert_eq!(writer.write(Bytes::from_static(b"4")).await, Err(BodyError::Abandoned));
}

#[tokio::test]
async fn a_body_that_is_nearly_there_is_finished_without_readers() {
    let (body, mut writer) = Body::new(Some(3_000), true, limits(10_000, false).0);
    drop(body.reader(0, None));
    let some = |length| Bytes::from(vec![0; length]);
    assert_eq!(writer.write(some(100)).await, Err(BodyError::Abandoned));
    assert_eq!(writer.write(some(2_500)).await, Ok(()));
}

#[tokio::test]
async fn without_a_disk_a_body_that_outgrows_memory_is_passed_on() {
    let (body, mut writer) = Body::new(None, true, limits(10, false).0);
    let reader = body.reader(0, None).unwrap();
    let all = tokio::spawn(rest(reader));
    for _ in 0..100 {
        writer.write(Bytes::from_static(b"0123456")).await.unwrap();
    }
    writer.seal(Bytes::new()).await.unwrap();
    writer.end();
    assert_eq!(all.await.unwrap().unwrap().len(), 700);
    assert!(body.is_window() && body.whole().is_none());
}

#[tokio::test]
async fn a_disk_that_cannot_be_written_does_not_break_the_transfer() {
    let (mut limits, dir) = limits(10, true);
    drop(dir);
    limits.memory = 2 * BLOCK_BYTES;
    let all = pattern(6 * BLOCK_BYTES);
    let (body, mut writer) = Body::new(None, true, limits);
    let reader = tokio::spawn(rest(body.reader(0, None).unwrap()));
    for chunk in all.chunks(50_000) {
        writer.write(Bytes::copy_from_slice(chunk)).await.unwrap();
    }
    writer.seal(Bytes::new()).await.unwrap();
    writer.end();
    assert!(reader.await.unwrap().unwrap() == all);
    assert!(body.is_window());
}

#[tokio::test]
async fn a_writer_that_is_lost_leaves_no_reader_waiting() {
    let (body, mut writer) = Body::new(Some(10), true, limits(100, false).0);
    let reader = body.reader(0, None).unwrap();
    writer.write(Bytes::from_static(b"half")).await.unwrap();
    drop(writer);
    assert_eq!(rest(reader).await, Err(BodyError::BrokenOff));
}
