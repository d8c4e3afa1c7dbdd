//! Clients that send what they should not: each gets its answer, and nobody else notices.

mod support;

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use coral_dsht::memory::MemoryNetwork;
use support::client::{get, get_with, request};
use support::node::{HOST, Node};
use support::origin::{Origin, Step};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn world() -> (Origin, Node) {
    let origin = Origin::start().await;
    origin.text("/", "HTTP/1.1 200 OK\nset-cookie: a=b\nvary: cookie", "hello");
    let node = Node::start(&MemoryNetwork::new(), &origin).await;
    (origin, node)
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_told() {
    let (origin, node) = world().await;
    let long = "a".repeat(9000);
    let requests = [
        ("POST / HTTP/1.1\nhost: www.example.org\ncontent-length: 0\n\n".to_owned(), 405),
        ("CONNECT www.example.org:443 HTTP/1.1\nhost: www.example.org:443\n\n".to_owned(), 405),
        ("BREW / HTTP/1.1\nhost: www.example.org\n\n".to_owned(), 501),
        ("GET / HTTP/1.1\nhost: www.example.org\ncontent-length: 3\n\nabc".to_owned(), 413),
        ("GET / HTTP/1.1\nhost: www.example.org\ntransfer-encoding: chunked\n\n0\n\n".to_owned(), 413),
        (
            "GET / HTTP/1.1\nhost: www.example.org\ncontent-length: 3\ntransfer-encoding: chunked\n\n0\n\n".to_owned(),
            413,
        ),
        ("GET / HTTP/1.1\n\n".to_owned(), 400),
        ("GET / HTTP/1.1\nhost: www.example.org\nhost: www.example.org\n\n".to_owned(), 400),
        ("GET / HTTP/1.1\nhost: a b\n\n".to_owned(), 400),
        ("GET / HTTP/1.1\nhost: www.example.org:0\n\n".to_owned(), 400),
        ("GET / HTTP/1.1\nhost: www.example.org:+80\n\n".to_owned(), 400),
        ("GET ftp://www.example.org/ HTTP/1.1\nhost: www.example.org\n\n".to_owned(), 400),
        ("GET / HTTP/1.1\nhost: www.x.com\n\n".to_owned(), 421),
        ("GET / HTTP/1.1\nhost: 127.0.0.1\n\n".to_owned(), 421),
        ("GET / HTTP/1.1\nhost: nyud.net\n\n".to_owned(), 400),
        ("GET / HTTP/1.1\nhost: 10.0.0.1.nyud.net\n\n".to_owned(), 403),
        ("GET / HTTP/1.1\nhost www.example.org\n\n".to_owned(), 400),
        (format!("GET /{long} HTTP/1.1\nhost: www.example.org\n\n"), 414),
        (format!("GET / HTTP/1.1\nhost: www.example.org\nx: {long}{long}\n\n"), 431),
        (format!("GET / HTTP/1.1\nhost: www.example.org\n{}\n", "x: y\n".repeat(100)), 431),
        ("GET / HTTP/1.1\nhost: www.example.org\ncdn-loop: coral\n\n".to_owned(), 502),
        ("\u{16}\u{3}\u{1}\u{2}\n\n".to_owned(), 400),
    ];
    let sent = requests.len() as u64;
    for (text, status) in requests {
        let reply = request(node.addr, &text).await;
        assert_eq!(reply.status, status, "{text:.80}");
    }
    assert_eq!(origin.count("/"), 0);
    // Those that hyper itself refuses are counted when their connection ends, which is after the answer.
    let counted = async {
        while node.proxy.status().errors.values().sum::<u64>() < sent {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), counted).await.expect("each of them is counted");
    assert_eq!(get(node.addr, HOST, "/").await.status, 200, "and the next one is served");
}

#[tokio::test]
async fn cookies_and_credentials_stay_where_they_are() {
    let (origin, node) = world().await;
    let lines = "cookie: secret\nauthorization: secret\nx-forwarded-host: evil.example\naccept: */*";
    let reply = get_with(node.addr, HOST, "/", lines).await;
    assert_eq!((reply.field("set-cookie"), reply.text().as_str()), ("", "hello"));
    let seen = &origin.requests("/")[0].fields;
    assert!(
        !seen.contains_key("cookie") && !seen.contains_key("authorization") && !seen.contains_key("x-forwarded-host")
    );
    assert_eq!((seen["accept"].as_str(), seen["cdn-loop"].as_str()), ("*/*", "coral"));
    assert!(seen["user-agent"].starts_with("CoralWebPrx/") && seen["via"].contains("CoralWebPrx"));
    assert_eq!(get(node.addr, HOST, "/").await.cache(), "coral; hit");
}

#[tokio::test]
async fn options_are_answered_and_head_is_taken_from_a_stored_get() {
    let (origin, node) = world().await;
    let reply = request(node.addr, "OPTIONS * HTTP/1.1\nhost: www.example.org\n\n").await;
    assert_eq!((reply.status, reply.field("allow")), (204, "GET, HEAD, OPTIONS"));
    get(node.addr, HOST, "/").await;
    let reply = request(node.addr, "HEAD / HTTP/1.1\nhost: www.example.org\n\n").await;
    assert_eq!((reply.status, reply.field("content-length"), reply.cache()), (200, "5", "coral; hit"));
    assert_eq!(origin.count("/"), 1);
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut() {
    let origin = Origin::start().await;
    let change = |config: &mut coral_proxy::Config| config.client.header_timeout = Duration::from_millis(200);
    let node = Node::start_with(&MemoryNetwork::new(), &origin, change).await;
    let mut stream = TcpStream::connect(node.addr).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: ").await.unwrap();
    let mut rest = Vec::new();
    let cut = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
    assert!(cut.is_ok(), "the connection stays open");
}

#[tokio::test]
async fn one_address_does_not_take_all_connections() {
    let origin = Origin::start().await;
    let change = |config: &mut coral_proxy::Config| {
        config.client.max_connections_per_address = NonZeroU32::new(2).unwrap();
    };
    let node = Node::start_with(&MemoryNetwork::new(), &origin, change).await;
    let _held = [TcpStream::connect(node.addr).await.unwrap(), TcpStream::connect(node.addr).await.unwrap()];
    let mut third = TcpStream::connect(node.addr).await.unwrap();
    assert!(matches!(third.read(&mut [0]).await, Ok(0) | Err(_)));
}

/// Seen with six addresses and 256 connections of each: others waited until the half heads timed out, 15 seconds.
#[tokio::test]
async fn half_heads_keep_nobody_out_and_do_not_hold_up_the_end() {
    let origin = Origin::start().await;
    origin.text("/", "HTTP/1.1 200 OK", "hello");
    let change = |config: &mut coral_proxy::Config| config.client.max_connections = NonZeroUsize::new(2).unwrap();
    let node = Node::start_with(&MemoryNetwork::new(), &origin, change).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(node.addr).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: ").await.unwrap();
        held.push(stream);
    }
    let served = tokio::time::timeout(Duration::from_secs(10), get(node.addr, HOST, "/")).await;
    assert_eq!(served.expect("served before the half heads time out").text(), "hello");
    assert!(matches!(held[0].read(&mut [0]).await, Ok(0) | Err(_)), "the oldest gave way");
    let stopped = tokio::time::timeout(Duration::from_secs(5), node.stop()).await;
    assert!(stopped.is_ok(), "half a head is not waited for until it times out");
}

#[tokio::test]
async fn a_reader_who_takes_nothing_is_cut_and_others_are_served() {
    let origin = Origin::start().await;
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 30000000\r\n\r\n".to_vec();
    origin.on("/large", vec![Step::Send(head), Step::Pattern(0, 30_000_000)]);
    let change = |config: &mut coral_proxy::Config| config.client.stall_timeout = Duration::from_millis(300);
    let node = Node::start_with(&MemoryNetwork::new(), &origin, change).await;
    let mut lazy = TcpStream::connect(node.addr).await.unwrap();
    lazy.write_all(b"GET /large HTTP/1.1\r\nhost: www.example.org\r\n\r\n").await.unwrap();
    let in_flight = async |wanted: u64| {
        while node.proxy.status().in_flight != wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_flight(1).await;
    let cut = tokio::time::timeout(Duration::from_secs(20), in_flight(0)).await;
    assert!(cut.is_ok(), "the lazy reader still holds its request");
}
