//! Bytes go on as they come [design §4.2]: a second node, and its client, receive before the first node has it all.

mod support;

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU32, Ordering};

use coral_dsht::memory::MemoryNetwork;
use coral_proxy::Config;
use support::client::{Transfer, get, get_with};
use support::node::{HOST, Node};
use support::origin::{Gate, Origin, Step, pattern};
use support::until;

const MIB: u64 = 1 << 20;

fn large(length: u64, gate: &Gate) -> Vec<Step> {
    let head =
        format!("HTTP/1.1 200 OK\r\ncache-control: max-age=600\r\netag: \"a\"\r\ncontent-length: {length}\r\n\r\n");
    vec![
        Step::Send(head.into_bytes()),
        Step::Pattern(0, 251 * 1024),
        Step::Wait(gate.clone()),
        Step::Pattern(251 * 1024, length - 251 * 1024),
    ]
}

fn ask(path: &str) -> String {
    format!("GET {path} HTTP/1.1\nhost: {HOST}\n\n")
}

/// The most memory that this process had resident at any time, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

async fn chain(length: u64, change: impl Fn(&mut Config)) -> (Origin, [Node; 3]) {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    let gate = Gate::closed();
    origin.on("/large", large(length, &gate));
    let nodes = [
        Node::start_with(&network, &origin, &change).await,
        Node::start_with(&network, &origin, &change).await,
        Node::start_with(&network, &origin, &change).await,
    ];
    let mut transfers = Vec::new();
    // While the origin holds the rest back, each node in turn gets the beginning from one before it.
    for (node, source) in nodes.iter().zip(["origin", "peer-l0", "peer-l0"]) {
        let mut transfer = Transfer::begin(node.addr, &ask("/large")).await;
        assert!(transfer.reply.cache().contains(source), "{:?}", transfer.reply);
        assert!(transfer.read(100_000).await == pattern(0, 100_000));
        transfers.push(transfer);
    }
    let before = peak_memory();
    gate.open();
    let rest: Vec<_> = transfers
        .into_iter()
        .map(|mut transfer| {
            tokio::spawn(async move {
                let mut place = 100_000;
                while place < length {
                    let count = (251 * 1000).min(length - place);
                    assert!(transfer.read(count).await == pattern(place, count), "altered after {place}");
                    place += count;
                }
            })
        })
        .collect();
    for reader in rest {
        reader.await.unwrap();
    }
    let grown = peak_memory().saturating_sub(before);
    // Kept in memory it would be three times the file. The rest is buffers of sockets, and of the tests beside this one.
    assert!(grown < 64 * MIB, "a chain of three grew by {} MiB", grown / MIB);
    assert_eq!(origin.count("/large"), 1);
    (origin, nodes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_file_streams_through_three_nodes_onto_their_disks() {
    let dir = tempfile::tempdir().unwrap();
    let length: u64 = std::env::var("CORAL_LARGE_MIB").map_or(32, |mib| mib.parse().unwrap()) * MIB;
    let count = AtomicU32::new(0);
    let (origin, nodes) = chain(length, |config| {
        let node = count.fetch_add(1, Ordering::Relaxed);
        config.disk.path = Some(dir.path().join(node.to_string()));
        config.threads = NonZeroUsize::new(2);
    })
    .await;
    for node in &nodes {
        let reply = get_with(node.addr, HOST, "/large", "range: bytes=-1000").await;
        assert_eq!((reply.status, reply.cache()), (206, "coral; hit"));
        assert!(reply.body == pattern(length - 1000, 1000));
        // The record that tells of it is written behind the response.
        while node.proxy.status().disk_bytes < length {
            tokio::task::yield_now().await;
        }
        assert!(node.proxy.status().disk_bytes < length + 10_000);
    }
    assert_eq!(origin.count("/large"), 1);
}

#[tokio::test]
async fn two_hundred_clients_of_a_slow_object_are_one_fetch_and_have_its_beginning_long_before_its_end() {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    let (head, rest) = (Gate::closed(), Gate::closed());
    let steps = std::iter::once(Step::Wait(head.clone())).chain(large(MIB, &rest));
    origin.on("/slow", steps.collect());
    let node = Node::start(&network, &origin).await;
    let begin = async |addr| {
        let mut transfer = Transfer::begin(addr, &ask("/slow")).await;
        assert!(transfer.read(100_000).await == pattern(0, 100_000));
        transfer
    };
    let clients: Vec<_> = (0..200).map(|_| tokio::spawn(begin(node.addr))).collect();
    until(async || node.proxy.status().coalesced == 199).await;
    assert_eq!(origin.count("/slow"), 1);
    head.open();
    let mut transfers = Vec::new();
    for client in clients {
        transfers.push(client.await.unwrap());
    }
    transfers.push(begin(node.addr).await);
    rest.open();
    for transfer in &mut transfers {
        let rest = transfer.finish().await;
        assert!(rest.whole && rest.body == pattern(100_000, MIB - 100_000));
    }
    assert_eq!(origin.count("/slow"), 1);
}

#[tokio::test]
async fn without_a_disk_a_large_file_passes_through_and_is_not_stored() {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    let gate = Gate::closed();
    gate.open();
    origin.on("/large", large(5 * MIB, &gate));
    let node = Node::start(&network, &origin).await;
    for _ in 0..2 {
        let reply = get(node.addr, HOST, "/large").await;
        assert_eq!(reply.cache(), "coral; fwd=uri-miss; detail=origin");
        assert!(reply.whole && reply.body == pattern(0, 5 * MIB));
    }
    assert_eq!((origin.count("/large"), node.proxy.status().objects), (2, 0));
}

#[tokio::test]
async fn a_client_who_leaves_does_not_spoil_it_for_others() {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    let gate = Gate::closed();
    origin.on("/page", large(600_000, &gate));
    let node = Node::start(&network, &origin).await;
    let mut first = Transfer::begin(node.addr, &ask("/page")).await;
    first.read(1000).await;
    let mut second = Transfer::begin(node.addr, &ask("/page")).await;
    assert_eq!(second.reply.cache(), "coral; fwd=uri-miss; detail=origin; stored; collapsed");
    drop(first);
    gate.open();
    let reply = second.finish().await;
    assert!(reply.whole && reply.body == pattern(0, 600_000));
    assert_eq!(get(node.addr, HOST, "/page").await.cache(), "coral; hit");
    assert_eq!(origin.count("/page"), 1);
}
