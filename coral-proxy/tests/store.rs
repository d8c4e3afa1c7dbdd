//! The store stays within its bounds, the index learns of what leaves, and a stop finishes what is under way.

mod support;

use std::num::NonZeroUsize;

use bytesize::ByteSize;
use coral_dsht::memory::MemoryNetwork;
use coral_dsht::{Key, Levels};
use coral_proxy::index_key;
use support::client::{Transfer, get};
use support::node::{HOST, Node};
use support::origin::{Gate, Origin, Step, pattern};

fn key(path: &str) -> Key {
    index_key(&format!("http://{HOST}{path}"), &[], &[]).unwrap()
}

#[tokio::test]
async fn memory_is_bounded_and_what_leaves_it_is_withdrawn() {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    let node = Node::start_with(&network, &origin, |config| config.memory = ByteSize::kib(100)).await;
    let paths: Vec<String> = (0..40).map(|number| format!("/{number}")).collect();
    for path in &paths {
        origin.text(path, "HTTP/1.1 200 OK", &"x".repeat(10_000));
        assert_eq!(get(node.addr, HOST, path).await.body.len(), 10_000);
    }
    let status = node.proxy.status();
    assert!((1..=9).contains(&status.objects) && status.memory_bytes <= 100 << 10, "{status:?}");
    // Withdrawing takes its time; the index is asked until it has heard of all.
    loop {
        let mut known = 0;
        for path in &paths {
            known += node.dsht.get(key(path), Levels::ALL).await.unwrap().values.len() as u64;
        }
        if known == status.objects {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(node.proxy.status().references, status.objects);
}

#[tokio::test]
async fn a_stop_lets_a_transfer_finish_and_takes_no_new_one() {
    stop_during_a_transfer(None).await;
}

#[tokio::test]
async fn so_does_one_of_a_node_whose_connections_have_threads_of_their_own() {
    stop_during_a_transfer(NonZeroUsize::new(2)).await;
}

async fn stop_during_a_transfer(threads: Option<NonZeroUsize>) {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    let gate = Gate::closed();
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n".to_vec();
    origin.on("/", vec![Step::Send(head), Step::Pattern(0, 4), Step::Wait(gate.clone()), Step::Pattern(4, 5)]);
    let node = Node::start_with(&network, &origin, |config| config.threads = threads).await;
    let (addr, other) = (node.addr, Node::start(&network, &origin).await);
    let mut transfer = Transfer::begin(addr, &format!("GET / HTTP/1.1\nhost: {HOST}\n\n")).await;
    transfer.read(4).await;
    let stopped = tokio::spawn(node.stop());
    while tokio::net::TcpStream::connect(addr).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!stopped.is_finished());
    gate.open();
    let reply = transfer.finish().await;
    assert!(reply.whole && reply.body == pattern(4, 5));
    stopped.await.unwrap();
    assert!(other.dsht.get(key("/"), Levels::ALL).await.unwrap().values.is_empty());
}

fn with_disk(dir: &std::path::Path) -> impl FnOnce(&mut coral_proxy::Config) {
    let dir = dir.to_owned();
    move |config| {
        config.memory = ByteSize::kib(500);
        config.disk.path = Some(dir);
        config.disk.capacity = ByteSize::mib(8);
    }
}

#[tokio::test]
async fn a_restart_serves_what_was_there_and_tells_the_network() {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    let dir = tempfile::tempdir().unwrap();
    origin.text("/small", "HTTP/1.1 200 OK", "small");
    origin.text("/varies", "HTTP/1.1 200 OK\nvary: accept-language", "hallo");
    origin.text("/large", "HTTP/1.1 200 OK", &"large".repeat(500_000));
    let paths = ["/small", "/varies", "/large"];
    let node = Node::start_with(&network, &origin, with_disk(dir.path())).await;
    for path in paths {
        support::client::get_with(node.addr, HOST, path, "accept-language: de").await;
    }
    node.stop().await;
    let node = Node::start_with(&network, &origin, with_disk(dir.path())).await;
    assert_eq!(node.proxy.status().objects, 3);
    // Of nothing that anybody has asked for.
    for path in ["/small", "/large"] {
        while node.dsht.get(key(path), Levels::ALL).await.unwrap().values.is_empty() {
            tokio::task::yield_now().await;
        }
    }
    for path in paths {
        let reply = support::client::get_with(node.addr, HOST, path, "accept-language: de").await;
        assert!(reply.whole && reply.cache() == "coral; hit", "{path}: {reply:?}");
        assert_eq!(origin.count(path), 1);
    }
    let part = support::client::get_with(node.addr, HOST, "/large", "range: bytes=2000001-2000004").await;
    assert_eq!((part.status, &part.body[..]), (206, &b"arge"[..]));
}

#[tokio::test]
async fn a_scan_of_many_times_the_store_does_not_wash_out_what_is_asked_for() {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_with(&network, &origin, with_disk(dir.path())).await;
    let hot: Vec<String> = (0..20).map(|number| format!("/hot/{number}")).collect();
    for path in &hot {
        origin.text(path, "HTTP/1.1 200 OK", &"h".repeat(10_000));
        get(node.addr, HOST, path).await;
    }
    let (mut hits, mut asked) = (0, 0);
    // 20 MB, through 500 KB of memory and 8 MiB of disk.
    for number in 0..2_000 {
        let cold = format!("/cold/{number}");
        origin.text(&cold, "HTTP/1.1 200 OK", &"c".repeat(10_000));
        get(node.addr, HOST, &cold).await;
        if number % 2 == 0 {
            let reply = get(node.addr, HOST, &hot[number / 2 % hot.len()]).await;
            asked += 1;
            hits += u32::from(reply.cache() == "coral; hit");
        }
    }
    assert!(hits * 100 >= asked * 99, "{hits} of {asked}");
}

#[tokio::test]
async fn a_cache_directory_that_vanishes_costs_nobody_an_answer() {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let node = Node::start_with(&network, &origin, with_disk(&path)).await;
    for number in 0..300 {
        if number == 100 {
            std::fs::remove_dir_all(&path).unwrap();
            std::fs::write(&path, b"a file in its place").unwrap();
        }
        let url = format!("/{number}");
        origin.text(&url, "HTTP/1.1 200 OK", &"x".repeat(if number % 20 == 0 { 2_000_000 } else { 20_000 }));
        let reply = get(node.addr, HOST, &url).await;
        assert!(reply.status == 200 && reply.whole, "{number}: {reply:?}");
        assert!(get(node.addr, HOST, &url).await.whole);
    }
    node.stop().await;
}
