//! The store by itself: how fast it writes, reads and opens, and what an object costs.
//!
//! ```text
//! cargo bench -p coral-proxy --bench store [-- OBJECTS BYTES]
//! ```
//!
//! Without arguments 100,000 objects of 10 KiB, then 1,000 of 1 MiB and a bit, which have files of their own. *Cold* is after the kernel was
//! told to forget what it has of the disk, which only root may; else nothing is said of it. Memory is what the process has
//! grown by while it opened the directory.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use bytesize::ByteSize;
use coral_dsht::memory::MemoryNetwork;
use coral_dsht::{Peer, Services};
use coral_proxy::cache::body::{Body, Limits};
use coral_proxy::cache::{Cache, Object};
use coral_proxy::policy::Validity;
use coral_proxy::reference::References;
use coral_proxy::{Config, Metrics, index_key};
use http::StatusCode;
use http::header::HeaderMap;
use prometheus_client::registry::Registry;
use tokio::runtime::Runtime;

/// Objects read at once.
const AT_ONCE: usize = 8;
/// Reads that are timed.
const READS: usize = 20_000;
/// Objects between two waits for the disk: less than its queue holds, which else would let some go.
const UNFLUSHED_BYTES: usize = 8 << 20;

fn main() -> std::io::Result<()> {
    // cargo adds a flag of its own.
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    println!(
        "| objects | written MB/s | opened ms | cold: opened ms | objects/s | warm: objects/s | bytes of memory an object |"
    );
    println!("|---|---|---|---|---|---|---|");
    match numbers[..] {
        [count, bytes] => measure(count, bytes),
        _ => measure(100_000, 10 << 10).and_then(|()| measure(1_000, (1 << 20) + 1)),
    }
}

fn measure(count: usize, bytes: usize) -> std::io::Result<()> {
    let dir = tempfile::tempdir()?;
    let runtime = Runtime::new()?;
    let written = runtime.block_on(write(dir.path(), count, bytes));
    let before = resident();
    let (warm_open, cache) = opened(&runtime, dir.path());
    let memory = (resident() - before) as f64 / count as f64;
    let warm = runtime.block_on(read(cache, count, bytes));
    // What is not on disk yet cannot be forgotten.
    Command::new("sync").status()?;
    let (cold_open, cold) = match fs::write("/proc/sys/vm/drop_caches", "1") {
        Err(_) => ("–".to_owned(), "–".to_owned()),
        Ok(()) => {
            let (open, cache) = opened(&runtime, dir.path());
            (format!("{open:.1}"), format!("{:.0}", runtime.block_on(read(cache, count, bytes))))
        }
    };
    let megabytes = (count * bytes) as f64 / 1e6 / written.as_secs_f64();
    println!(
        "| {count} x {bytes} | {megabytes:.0} | {warm_open:.1} | {cold_open} | {cold} | {warm:.0} | {memory:.0} |"
    );
    Ok(())
}

fn open(dir: &Path) -> Cache {
    // So little memory that nearly all is read from disk.
    let mut config = Config { memory: ByteSize::mib(1), ..Config::default() };
    config.disk.path = Some(dir.to_owned());
    config.disk.capacity = ByteSize::gib(16);
    let me = "192.0.2.1:80".parse().expect("an address");
    let index = MemoryNetwork::new().node(Peer::new(me, Services::NONE));
    let metrics = Metrics::register(&mut Registry::default());
    let references = References::start(me, index, config.reference.clone(), metrics.clone());
    Cache::open(&config, references, &metrics).expect("the directory can be used")
}

/// In milliseconds.
fn opened(runtime: &Runtime, dir: &Path) -> (f64, Cache) {
    let _inside = runtime.enter();
    let begun = Instant::now();
    let cache = open(dir);
    (begun.elapsed().as_secs_f64() * 1e3, cache)
}

fn key(number: usize) -> coral_dsht::Key {
    index_key(&format!("http://www.example.org/{number}"), &[], &[]).expect("a URL")
}

async fn write(dir: &Path, count: usize, bytes: usize) -> Duration {
    let cache = open(dir);
    let content = Bytes::from((0..bytes).map(|i| (i * 31 % 251) as u8).collect::<Vec<u8>>());
    let begun = Instant::now();
    for number in 0..count {
        let limits = Limits {
            memory: 1 << 20,
            disk: cache.disk().cloned(),
            patience: Duration::from_secs(1),
            finish_unread: 1 << 30,
        };
        let (body, mut writer) = Body::new(Some(bytes as u64), true, limits);
        for from in (0..bytes).step_by(64 << 10) {
            let piece = content.slice(from..bytes.min(from + (64 << 10)));
            writer.write(piece).await.expect("a body that is kept");
        }
        writer.seal(Bytes::new()).await.expect("a body that is kept");
        let (key, now, headers) = (key(number), SystemTime::now(), HeaderMap::new());
        let validity = Validity::of(StatusCode::OK, &headers, now, now, &Config::default().freshness);
        let object = Object::new(key, StatusCode::OK, headers, body, validity);
        cache.insert(Arc::new(object), now);
        writer.end();
        if number % (UNFLUSHED_BYTES / bytes).max(1) == 0 {
            cache.disk().expect("a disk").flush();
        }
    }
    cache.disk().expect("a disk").flush();
    let took = begun.elapsed();
    cache.close().await;
    took
}

/// Objects a second, drawn at random, each to its end. All must be there.
async fn read(cache: Cache, count: usize, bytes: usize) -> f64 {
    let cache = Arc::new(cache);
    let begun = Instant::now();
    let readers: Vec<_> = (0..AT_ONCE)
        .map(|reader| {
            let cache = Arc::clone(&cache);
            tokio::spawn(async move {
                let mut state = reader as u64 + 1;
                for _ in 0..READS.min(count) / AT_ONCE {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let number = (state >> 33) as usize % count;
                    let object = cache.find(key(number), &HeaderMap::new()).await.object.expect("it was written");
                    let mut reader = object.body.reader(0, None).expect("a whole body");
                    let mut length = 0;
                    while let Some(chunk) = reader.next().await {
                        length += chunk.expect("a whole body").len();
                    }
                    assert_eq!(length, bytes);
                }
            })
        })
        .collect();
    for reader in readers {
        reader.await.expect("no reader panics");
    }
    let rate = (READS.min(count) / AT_ONCE * AT_ONCE) as f64 / begun.elapsed().as_secs_f64();
    cache.close().await;
    rate
}

/// Bytes of memory that the process has; 0 where the system does not say.
fn resident() -> i64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<i64>().ok()).unwrap_or_default() * 4096
}
