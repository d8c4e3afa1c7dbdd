//! A process that stores under load is killed at any moment, a hundred times. What it left is whole, and what it knew to be
//! written is there.

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use bytesize::ByteSize;
use coral_dsht::memory::MemoryNetwork;
use coral_dsht::{Peer, Services};
use coral_proxy::cache::body::{Body, Limits};
use coral_proxy::cache::{Cache, Object};
use coral_proxy::policy::{Validity, variant_key};
use coral_proxy::reference::References;
use coral_proxy::{Config, Metrics, index_key};
use http::StatusCode;
use http::header::{ACCEPT_LANGUAGE, HeaderMap, HeaderValue};
use prometheus_client::registry::Registry;

const ROUNDS: u64 = 100;
/// Objects of a round have numbers of their own.
const NUMBERS: u64 = 1_000_000;
/// So many objects later, an object gets its second version.
const AGAIN: u64 = 5;

fn open(dir: &Path, capacity: ByteSize) -> Cache {
    let mut config = Config { memory: ByteSize::mib(1), ..Config::default() };
    config.disk.path = Some(dir.to_owned());
    config.disk.capacity = capacity;
    let me = "192.0.2.1:80".parse().unwrap();
    let index = MemoryNetwork::new().node(Peer::new(me, Services::NONE));
    let metrics = Metrics::register(&mut Registry::default());
    let references = References::start(me, index, config.reference.clone(), metrics.clone());
    Cache::open(&config, references, &metrics).unwrap()
}

fn content(number: u64, version: u64) -> Vec<u8> {
    let seed = number * 2 + version;
    // One in eight is large.
    let length = if number.is_multiple_of(8) { 270_000 + seed * 7919 % 300_000 } else { seed * 7919 % 20_000 };
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// With which fields the object is asked for.
fn request(number: u64) -> HeaderMap {
    match number % 3 {
        0 => HeaderMap::from_iter([(ACCEPT_LANGUAGE, number.into())]),
        _ => HeaderMap::new(),
    }
}

async fn insert(cache: &Cache, number: u64, version: u64) {
    let key = index_key(&format!("http://www.example.org/{number}"), &[], &[]).unwrap();
    let selecting: Arc<[_]> = if number.is_multiple_of(3) { Arc::from([ACCEPT_LANGUAGE]) } else { Arc::from([]) };
    let variant = variant_key(key, &selecting, &request(number));
    let content = content(number, version);
    let limits = Limits {
        memory: 65_536,
        disk: cache.disk().cloned(),
        patience: Duration::from_secs(1),
        finish_unread: 1 << 30,
    };
    let (body, mut writer) = Body::new(Some(content.len() as u64), true, limits);
    for chunk in content.chunks(50_000) {
        writer.write(Bytes::copy_from_slice(chunk)).await.unwrap();
    }
    writer.seal(Bytes::new()).await.unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("x-number", number.into());
    headers.insert("x-version", version.into());
    let now = SystemTime::now();
    let validity = Validity::of(StatusCode::OK, &headers, now, now, &Config::default().freshness);
    cache.varies(key, &selecting);
    let object = Object { selecting, variant, ..Object::new(key, StatusCode::OK, headers, body, validity) };
    cache.insert(Arc::new(object), now);
    writer.end();
}

/// The version of the object that is found; it is checked.
async fn found(cache: &Cache, number: u64) -> Option<u64> {
    let key = index_key(&format!("http://www.example.org/{number}"), &[], &[]).unwrap();
    let object = cache.find(key, &request(number)).await.object?;
    assert_eq!(object.headers["x-number"], HeaderValue::from(number));
    let version = object.headers["x-version"].to_str().unwrap().parse().unwrap();
    let mut reader = object.body.reader(0, None).unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = reader.next().await {
        bytes.extend_from_slice(&chunk.unwrap());
    }
    assert!(bytes == content(number, version), "object {number}, version {version}, is torn");
    Some(version)
}

#[test]
#[ignore = "is run by the test below as a process of its own, and only ends when it is killed"]
fn a_process_that_stores() {
    let variable = |name| std::env::var(name).unwrap();
    let first: u64 = variable("CORAL_TEST_FIRST").parse().unwrap();
    let capacity = ByteSize::b(variable("CORAL_TEST_CAPACITY").parse().unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let cache = open(Path::new(&variable("CORAL_TEST_DIR")), capacity);
        for number in first.. {
            insert(&cache, number, 0).await;
            if number >= first + AGAIN {
                insert(&cache, number - AGAIN, 1).await;
            }
            // Read meanwhile, so that some are kept when room is made.
            found(&cache, first + (number - first) / 2).await;
            if number % 7 == 0 {
                cache.disk().unwrap().flush();
                let mut out = std::io::stdout();
                writeln!(out, "written {number}").unwrap();
                out.flush().unwrap();
            }
        }
    });
}

/// Runs the process above and kills it after some time. The last number that it knew to be written, with all before.
fn run_and_kill(dir: &Path, capacity: ByteSize, first: u64, after: Duration) -> Option<u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_process_that_stores", "--ignored", "--nocapture", "--quiet"])
        .env("CORAL_TEST_DIR", dir)
        .env("CORAL_TEST_FIRST", first.to_string())
        .env("CORAL_TEST_CAPACITY", capacity.as_u64().to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let number = |line: String| line.strip_prefix("written ").map(|number| number.parse::<u64>().unwrap());
    // From when it stores, not from when it starts.
    let begun = lines.by_ref().find_map(number).expect("it has stored something");
    // The moment to kill it is no condition to wait for: any one will do.
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
    lines.filter_map(number).last().or(Some(begun))
}

#[test]
fn a_process_that_is_killed_a_hundred_times_leaves_whole_objects_and_all_that_was_written() {
    let (mut all, mut newest) = (0, 0);
    let mut dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for round in 0..ROUNDS {
        // Now with room for everything, now with so little that it is made all the time.
        let bounded = round % 2 == 1;
        let capacity = if bounded { ByteSize::mib(8) } else { ByteSize::gib(2) };
        if !bounded && round % 20 == 0 {
            dirs[0] = tempfile::tempdir().unwrap();
        }
        let dir = dirs[usize::from(bounded)].path();
        let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos();
        let first = (round + 1) * NUMBERS;
        let written = run_and_kill(dir, capacity, first, Duration::from_micros(u64::from(nanos) % 60_000)).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let cache = open(dir, capacity);
            for number in first..written + 200 {
                let version = found(&cache, number).await;
                newest += u64::from(number > written && version.is_some());
                if bounded || number > written {
                    continue;
                }
                all += 1;
                let least = u64::from(number + AGAIN <= written);
                assert!(version >= Some(least), "round {round}: object {number} of {written} has version {version:?}");
            }
            // What earlier rounds left is still whole, where it still is.
            for earlier in (1..=round).rev().step_by(7) {
                found(&cache, earlier * NUMBERS + 11).await;
            }
            if bounded {
                assert!(found(&cache, written).await.is_some(), "the newest is there");
                // What the one before had begun to make room for is its writer's first work.
                cache.disk().unwrap().flush();
                assert!(cache.totals().2 <= capacity.as_u64());
            }
            cache.close().await;
        });
    }
    // How many is the machine's affair, but each process has said of one at least.
    assert!(all >= ROUNDS / 2, "only {all} objects were written");
    println!("{all} objects were written for certain, {newest} more were found");
}
