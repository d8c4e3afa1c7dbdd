//! HTTP/1.1 as a connection speaks it (RFC 9112): one request after another, heads that come late or cannot be read, clients that go.

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use coral_dsht::memory::MemoryNetwork;
use coral_proxy::access::{Access, AccessLog};
use support::client::{get, request};
use support::node::{HOST, Node};
use support::origin::{Gate, Origin, Step, pattern};
use support::until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const FRESH: &str = "HTTP/1.1 200 OK\ncache-control: max-age=600";

async fn world() -> (Origin, Node) {
    let origin = Origin::start().await;
    let node = Node::start(&MemoryNetwork::new(), &origin).await;
    (origin, node)
}

/// All that comes until the end of the connection, which is no reset.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut text)).await;
    read.expect("the connection ends").expect("and not by a reset");
    text
}

#[tokio::test]
async fn requests_that_come_at_once_are_answered_in_their_order_hits_or_not() {
    let (origin, node) = world().await;
    for number in 0..20 {
        origin.text(&format!("/{number}"), FRESH, &format!("<{number}>"));
    }
    // Every third is here.
    for number in (0..20).step_by(3) {
        for _ in 0..2 {
            get(node.addr, HOST, &format!("/{number}")).await;
        }
    }
    let mut requests = String::new();
    for number in 0..20 {
        requests += &format!("GET /{number} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    }
    let mut stream = TcpStream::connect(node.addr).await.unwrap();
    requests += &format!("GET /0 HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    stream.write_all(requests.as_bytes()).await.unwrap();
    let text = rest(&mut stream).await;
    let bodies: Vec<&str> = text.split('<').skip(1).filter_map(|part| part.split('>').next()).collect();
    let expected: Vec<String> = (0..20).chain([0]).map(|number| number.to_string()).collect();
    assert_eq!(bodies, expected);
    assert_eq!(text.matches("connection: close").count(), 1);
    // And byte by byte.
    let mut stream = TcpStream::connect(node.addr).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in format!("GET /3 HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n").bytes() {
        stream.write_all(&[byte]).await.unwrap();
    }
    assert!(rest(&mut stream).await.ends_with("<3>"));
}

#[tokio::test]
async fn a_client_of_http_1_0_is_answered_as_one() {
    let (origin, node) = world().await;
    origin.text("/", FRESH, "hello");
    origin.on(
        "/long",
        vec![Step::Send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_vec())],
    );
    let mut stream = TcpStream::connect(node.addr).await.unwrap();
    let kept = format!("GET / HTTP/1.0\r\nHost: {HOST}\r\nConnection: keep-alive\r\n\r\n");
    let last = format!("GET /long HTTP/1.0\r\nHost: {HOST}\r\n\r\n");
    stream.write_all(format!("{kept}{kept}{last}").as_bytes()).await.unwrap();
    let text = rest(&mut stream).await;
    assert_eq!(text.matches("HTTP/1.0 200 OK").count(), 3, "{text}");
    assert_eq!(text.matches("connection: keep-alive").count(), 2, "{text}");
    assert!(text.ends_with("\r\n\r\nhello") && !text.contains("chunked"), "{text}");
}

#[tokio::test]
async fn a_client_of_http_1_0_sees_that_a_body_is_cut_which_only_the_connection_ends() {
    let (origin, node) = world().await;
    let gate = Gate::closed();
    let begun = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n".to_vec();
    origin.on("/", vec![Step::Send(begun), Step::Wait(gate.clone()), Step::Close]);
    let mut stream = TcpStream::connect(node.addr).await.unwrap();
    stream.write_all(format!("GET / HTTP/1.0\r\nHost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
    let mut received = Vec::new();
    while !received.ends_with(b"hello") {
        assert_ne!(stream.read_buf(&mut received).await.unwrap(), 0);
    }
    gate.open();
    let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut received)).await;
    assert_eq!(ended.expect("the connection ends").unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn what_cannot_be_read_is_answered_in_words_and_the_answer_arrives() {
    let (_origin, node) = world().await;
    for (text, status, word) in [
        ("GET / HTTP/1.1\nhost www.example.org\n\n".to_owned(), 400, "cannot be read"),
        ("GET / HTTP/1.1\ncontent-length: x\n\n".to_owned(), 400, "cannot be read"),
        (format!("GET / HTTP/1.1\nx: {}\n\n", "y".repeat(100_000)), 431, "too long"),
        (format!("GET / HTTP/1.1\n{}\n", "x: y\n".repeat(101)), 431, "too many"),
        // What follows has come before the answer, and is read, so that no reset overtakes that.
        (format!("GET / HTTP/1.1\nhost: {HOST}\ncontent-length: 200000\n\n{}", "y".repeat(200_000)), 413, "body"),
    ] {
        let reply = request(node.addr, &text).await;
        assert_eq!((reply.status, reply.whole, reply.field("connection")), (status, true, "close"), "{text:.80}");
        assert!(
            reply.text().contains(word) && reply.text().contains(reply.field("coral-request-id")),
            "{}",
            reply.text()
        );
    }
}

#[tokio::test]
async fn half_a_head_is_told_that_it_is_late_and_who_says_nothing_is_told_nothing() {
    let origin = Origin::start().await;
    let change = |config: &mut coral_proxy::Config| config.client.header_timeout = Duration::from_millis(200);
    let node = Node::start_with(&MemoryNetwork::new(), &origin, change).await;
    let mut half = TcpStream::connect(node.addr).await.unwrap();
    half.write_all(b"GET / HTTP/1.1\r\nhost: ").await.unwrap();
    let text = rest(&mut half).await;
    assert!(text.starts_with("HTTP/1.1 408 ") && text.contains("did not come in time"), "{text}");
    assert_eq!(rest(&mut TcpStream::connect(node.addr).await.unwrap()).await, "");
    until(async || node.proxy.status().errors.get("client") == Some(&1)).await;
}

/// What a log was told of each response: bytes, and whether that was all.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<(u64, bool)>>);

impl AccessLog for Told {
    fn log(&self, access: &Access<'_>) {
        self.0.lock().unwrap().push((access.bytes, access.is_whole));
    }
}

#[tokio::test]
async fn a_hit_that_its_client_takes_slowly_is_whole_and_one_that_he_leaves_is_told_as_broken_off() {
    const LENGTH: u64 = 900_000;
    let (origin, node) = world().await;
    let head = format!("HTTP/1.1 200 OK\r\ncache-control: max-age=600\r\ncontent-length: {LENGTH}\r\n\r\n");
    origin.on("/", vec![Step::Send(head.into_bytes()), Step::Pattern(0, LENGTH)]);
    // The second one is a hit, and by the third the URL is known.
    for _ in 0..2 {
        assert!(get(node.addr, HOST, "/").await.whole);
    }
    let told = Arc::new(Told::default());
    node.proxy.log_requests(told.clone());
    let small = async |requests: usize| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(node.addr).await.unwrap();
        stream.write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").repeat(requests).as_bytes()).await.unwrap();
        stream
    };
    let mut slow = small(1).await;
    let mut received = Vec::new();
    let end = |received: &[u8]| received.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
    let mut buffer = vec![0; 10_000];
    while end(&received).is_none_or(|head| received.len() < head + LENGTH as usize) {
        let read = slow.read(&mut buffer).await.unwrap();
        assert_ne!(read, 0);
        received.extend_from_slice(&buffer[..read]);
    }
    assert!(received[end(&received).unwrap()..] == pattern(0, LENGTH));
    until(async || !told.0.lock().unwrap().is_empty()).await;
    assert_eq!(told.0.lock().unwrap().remove(0), (LENGTH, true));

    // This one reads nothing of more than any kernel takes for it, and goes while the node waits for room.
    let leaves = small(32).await;
    until(async || !told.0.lock().unwrap().is_empty()).await;
    drop(leaves);
    let is_broken_off = |(bytes, is_whole): &(u64, bool)| *bytes < LENGTH && !is_whole;
    until(async || told.0.lock().unwrap().last().is_some_and(is_broken_off)).await;
    until(async || node.proxy.status().in_flight == 0).await;
    assert!(told.0.lock().unwrap().len() < 32);
}

#[tokio::test]
async fn a_client_who_goes_while_his_answer_is_waited_for_is_noticed() {
    let (origin, node) = world().await;
    let gate = Gate::closed();
    origin
        .on("/", vec![Step::Wait(gate.clone()), Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec())]);
    let mut stream = TcpStream::connect(node.addr).await.unwrap();
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
    until(async || origin.count("/") == 1).await;
    assert_eq!(node.proxy.status().in_flight, 1);
    drop(stream);
    until(async || node.proxy.status().in_flight == 0).await;
    gate.open();
}
