//! A bandwidth is kept to, and shared out between domains: over real sockets, so with wide margins. What is exact is tested in
//! `budget`, on a paused clock.

mod support;

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use coral_dsht::memory::MemoryNetwork;
use coral_proxy::{Config, Site};
use support::client::{Reply, get, get_with};
use support::node::{HOST, Node};
use support::origin::{Origin, Step};

/// A site besides `HOST`, with the same origin.
const OTHER: &str = "www.example.com";

async fn world(size: u64, change: impl FnOnce(&mut Config)) -> (Origin, Node) {
    let origin = Origin::start().await;
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\ncache-control: max-age=600\r\n\r\n");
    origin.on("/large", vec![Step::Send(head.into_bytes()), Step::Pattern(0, size)]);
    origin.text("/small", "HTTP/1.1 200 OK\ncache-control: max-age=600", &"a".repeat(5000));
    let node = Node::start_with(&MemoryNetwork::new(), &origin, |config| {
        config.sites.push(Site::new(OTHER, &format!("http://{}", origin.addr)).unwrap());
        change(config);
    })
    .await;
    (origin, node)
}

/// What `asking` takes, in seconds, and that it succeeds.
async fn seconds(asking: impl Future<Output = Reply>) -> f64 {
    let began = Instant::now();
    let reply = asking.await;
    assert!(reply.status == 200 && reply.whole, "{reply:?}");
    began.elapsed().as_secs_f64()
}

#[tokio::test]
async fn what_is_sent_and_what_is_received_keep_to_their_bandwidths() {
    let limit = |send, receive| {
        move |config: &mut Config| {
            config.bandwidth.send = send;
            config.bandwidth.receive = receive;
        }
    };
    let rate = Some(ByteSize::kb(800));
    let (_origin, sends) = world(800_000, limit(rate, None)).await;
    let (_origin, receives) = world(800_000, limit(None, rate)).await;
    for (node, limited) in [(&sends, [true, true]), (&receives, [true, false])] {
        // The second is a hit, and so costs nothing of what may be received.
        for limited in limited {
            let took = seconds(get(node.addr, HOST, "/large")).await;
            assert!(if limited { (0.85..5.0).contains(&took) } else { took < 0.85 }, "{took} s");
        }
    }
}

#[tokio::test]
async fn a_hot_domain_is_slowed_and_then_turned_away_and_others_are_not() {
    let (_origin, node) = world(20_000, |config| {
        config.bandwidth.send = Some(ByteSize::kb(400));
        config.bandwidth.patience = Duration::from_millis(300);
    })
    .await;
    let addr = node.addr;
    let (turned_away, mut replies) = tokio::sync::mpsc::channel(1);
    let visitors: Vec<_> = (0..40)
        .map(|_| {
            let turned_away = turned_away.clone();
            tokio::spawn(async move {
                loop {
                    let reply = get(addr, HOST, "/large").await;
                    if reply.status != 200 {
                        let _ = turned_away.try_send(reply);
                    }
                }
            })
        })
        .collect();
    let reply = tokio::time::timeout(Duration::from_secs(20), replies.recv()).await.expect("turned away").unwrap();
    assert_eq!(reply.status, 503);
    assert!(reply.field("retry-after").parse::<u64>().is_ok_and(|seconds| (1..5).contains(&seconds)), "{reply:?}");
    assert!(reply.field("proxy-status").starts_with("coral; error=proxy_internal_response"), "{reply:?}");
    for _ in 0..20 {
        let took = seconds(get(addr, OTHER, "/small")).await;
        // One of the crowd waits two seconds for its 20 KB.
        assert!(took < 1.0, "another domain waits {took} s");
    }
    visitors.iter().for_each(tokio::task::JoinHandle::abort);
    let served = async { while get(addr, HOST, "/large").await.status != 200 {} };
    tokio::time::timeout(Duration::from_secs(20), served).await.expect("served again when the crowd has gone");
}

#[tokio::test]
async fn a_node_that_asks_while_a_domain_is_hot_is_sent_elsewhere() {
    let (_origin, node) = world(100_000, |config| {
        config.bandwidth.send = Some(ByteSize::kb(50));
        config.bandwidth.patience = Duration::ZERO;
    })
    .await;
    let addr = node.addr;
    let visitors: Vec<_> = (0..10).map(|_| tokio::spawn(async move { get(addr, HOST, "/large").await })).collect();
    let peer = "cdn-loop: coral\ncache-control: only-if-cached";
    let sent_elsewhere = async {
        loop {
            let reply = get_with(addr, HOST, "/small", peer).await;
            if reply.status != 200 {
                return reply;
            }
        }
    };
    let reply = tokio::time::timeout(Duration::from_secs(20), sent_elsewhere).await.expect("turned away");
    assert_eq!(
        (reply.status, reply.field("retry-after")),
        (504, ""),
        "as if it had nothing: no reason to set it aside"
    );
    visitors.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn an_address_that_asks_too_often_is_told_when_to_come_again() {
    let (_origin, node) = world(1000, |config| {
        config.client.requests_per_address = NonZeroU32::new(2).unwrap();
    })
    .await;
    let mut statuses = Vec::new();
    while statuses.last() != Some(&429) && statuses.len() < 100 {
        let reply = get(node.addr, HOST, "/small").await;
        assert_eq!(reply.status == 429, reply.field("retry-after") == "1", "{reply:?}");
        statuses.push(reply.status);
    }
    assert!(statuses.starts_with(&[200; 4]) && statuses.last() == Some(&429), "{statuses:?}");
}
