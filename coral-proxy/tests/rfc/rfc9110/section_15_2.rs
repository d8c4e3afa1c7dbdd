//! Interim responses are forwarded, at once, to the one whose request they answer.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::support::client::get;
use crate::support::node::HOST;
use crate::support::origin::{Gate, Origin, Step};
use crate::world;

const HINTS: &[u8] =
    b"HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\nset-cookie: a=b\r\nconnection: x\r\nx: 1\r\n\r\n";
const FINAL: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncache-control: max-age=60\r\n\r\nhello";

fn answers(origin: &Origin, gate: &Gate) {
    origin.on("/", vec![Step::Send(HINTS.to_vec()), Step::Wait(gate.clone()), Step::Send(FINAL.to_vec())]);
}

async fn ask(node: SocketAddr, version: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(node).await.unwrap();
    let text = format!("GET / {version}\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    BufReader::new(stream)
}

async fn rest(mut stream: BufReader<TcpStream>) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn hints_arrive_before_the_origin_has_made_up_its_answer() {
    let ((origin, node), gate) = (world().await, Gate::closed());
    answers(&origin, &gate);
    let mut client = ask(node.addr, "HTTP/1.1").await;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        client.read_line(&mut head).await.unwrap();
    }
    assert_eq!(head, "HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\n");
    gate.open();
    let text = rest(client).await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("hello"), "{text}");
    assert!(!text.contains("link"), "{text}");

    let hit = get(node.addr, HOST, "/").await;
    assert_eq!((hit.status, hit.cache(), hit.field("link")), (200, "coral; hit", ""), "which is not stored");
}

#[tokio::test]
async fn a_client_of_old_gets_the_final_response_alone() {
    let ((origin, node), gate) = (world().await, Gate::closed());
    gate.open();
    answers(&origin, &gate);
    let text = rest(ask(node.addr, "HTTP/1.0").await).await;
    assert!(text.contains(" 200 OK\r\n") && !text.contains("103"), "{text}");
}
