//! The store stays within its bounds, the index learns of what leaves, and a stop finishes what is under way.

mod support;

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
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    let gate = Gate::closed();
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n".to_vec();
    origin.on("/", vec![Step::Send(head), Step::Pattern(0, 4), Step::Wait(gate.clone()), Step::Pattern(4, 5)]);
    let node = Node::start(&network, &origin).await;
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
