//! Requests that two readers may understand differently (RFC 9112 §11.2): each is read in one way or refused, and what is
//! hidden in it is never answered, nor asked of the origin.

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use coral_dsht::memory::MemoryNetwork;
use support::node::Node;
use support::origin::Origin;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What is hidden behind each request.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: www.example.org\r\n\r\n";

async fn world() -> (Origin, Node) {
    let origin = Origin::start().await;
    for path in ["/", "/second", "/hidden"] {
        origin.text(path, "HTTP/1.1 200 OK\ncache-control: no-store", path);
    }
    // A connection that is kept open is closed soon, so that all that comes can be waited for.
    let change = |config: &mut coral_proxy::Config| config.client.header_timeout = Duration::from_millis(500);
    let node = Node::start_with(&MemoryNetwork::new(), &origin, change).await;
    (origin, node)
}

/// Sends `bytes` as they are; the statuses of all that comes back before the end of the connection.
async fn statuses(node: SocketAddr, bytes: Vec<u8>) -> Vec<u16> {
    let mut stream = TcpStream::connect(node).await.unwrap();
    // A node that refuses what it has read of it may close before it has read all.
    let _ = stream.write_all(&bytes).await;
    let mut received = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut received)).await;
    let _ = read.expect("the connection ends");
    let text = String::from_utf8_lossy(&received).into_owned();
    // Bodies here are short, and the next head follows them on the same line.
    text.match_indices("HTTP/1.")
        .filter_map(|(at, found)| text.get(at + found.len() + 2..)?.get(..3)?.parse().ok())
        .collect()
}

/// Each of `requests` is answered with these statuses, and what is hidden behind it is not seen by anybody.
async fn check(requests: &[(&str, &[u16])], hidden: &str) {
    let (origin, node) = world().await;
    let asking: Vec<_> = requests
        .iter()
        .map(|(request, _)| tokio::spawn(statuses(node.addr, format!("{request}{hidden}").into_bytes())))
        .collect();
    let mut wrong = Vec::new();
    for ((request, expected), asking) in requests.iter().zip(asking) {
        let statuses = asking.await.unwrap();
        if statuses != *expected {
            wrong.push(format!("{request:?}: {statuses:?} instead of {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(origin.count("/hidden"), 0, "{:?}", origin.lines());
}

#[tokio::test]
async fn a_request_with_a_body_is_refused_whatever_says_how_long_that_is() {
    let host = "GET / HTTP/1.1\r\nHost: www.example.org\r\n";
    let fields: &[(&str, u16)] = &[
        // Both lengths, in either order (CL.TE and TE.CL).
        ("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 413),
        ("Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n", 413),
        ("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 413),
        // Lengths that differ, lists, and numbers that are none (RFC 9112 §6.3).
        ("Content-Length: 0\r\nContent-Length: 49\r\n\r\n", 400),
        ("Content-Length: 49\r\nContent-Length: 0\r\n\r\n", 400),
        ("Content-Length: 0, 49\r\n\r\n", 400),
        ("Content-Length: 5, 5\r\n\r\nhello", 400),
        ("Content-Length: +0\r\n\r\n", 400),
        ("Content-Length: -1\r\n\r\n", 400),
        ("Content-Length: 0x0\r\n\r\n", 400),
        ("Content-Length: \r\n\r\n", 400),
        ("Content-Length: 18446744073709551616\r\n\r\n", 400),
        // Names of codings that only some readers take for chunked.
        ("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
        ("Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
        ("Transfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello", 400),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n", 400),
        ("Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 413),
        ("Transfer-Encoding: \tchunked\r\n\r\n0\r\n\r\n", 413),
        ("Transfer-Encoding: cHuNkEd\r\n\r\n0\r\n\r\n", 413),
        ("Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", 400),
        ("Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
        ("Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
        ("Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
        ("Content-Length : 5\r\n\r\nhello", 400),
        ("Transfer-Encoding\r\n: chunked\r\n\r\n0\r\n\r\n", 400),
        // Chunks are not read at all: neither their sizes nor their extensions, lines and trailers.
        ("Transfer-Encoding: chunked\r\n\r\n10000000000000000000000000\r\n", 413),
        ("Transfer-Encoding: chunked\r\n\r\n5;a=\"\r\n0\r\n\r\n\"\r\nhello\r\n0\r\n\r\n", 413),
        ("Transfer-Encoding: chunked\r\n\r\n1\nZ\r\n0\r\nHost: x\r\n\r\n", 413),
        // Nobody is told to go on sending what will not be read.
        ("Expect: 100-continue\r\nContent-Length: 5\r\n\r\n", 413),
    ];
    let requests: Vec<(String, [u16; 1])> =
        fields.iter().map(|(fields, status)| (format!("{host}{fields}"), [*status])).collect();
    let requests: Vec<(&str, &[u16])> = requests.iter().map(|(text, status)| (text.as_str(), &status[..])).collect();
    check(&requests, HIDDEN).await;
}

#[tokio::test]
async fn what_is_no_request_ends_the_connection() {
    let requests: &[(&str, &[u16])] = &[
        // Lines that end in CR alone, that go on in the next one (RFC 9112 §5.2), or have no colon; control characters.
        ("GET / HTTP/1.1\rHost: www.example.org\r\r", &[400]),
        ("GET / HTTP/1.1\r\nHost: www.example.org\r\nX: a\rTransfer-Encoding: chunked\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nHost: www.example.org\r\nX: a\r\n b\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\n Host: www.example.org\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nHost: www.example.org\r\nX: a\0b\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nHost: www.example.org\r\nX\0: a\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nHost: www.example.org\r\n: a\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nHost: www.example.org\r\nX(Y): a\r\n\r\n", &[400]),
        // Request lines.
        ("GET /\r\n", &[400]),
        ("GET / HTTP/0.9\r\n\r\n", &[400]),
        ("GET / HTTP/1.2\r\nHost: www.example.org\r\n\r\n", &[400]),
        ("GET / HTTP/11.1\r\nHost: www.example.org\r\n\r\n", &[400]),
        ("GET / http/1.1\r\nHost: www.example.org\r\n\r\n", &[400]),
        ("GET / HTTP/1.1 HTTP/1.1\r\nHost: www.example.org\r\n\r\n", &[400]),
        ("GET /a b HTTP/1.1\r\nHost: www.example.org\r\n\r\n", &[400]),
        ("GET\t/ HTTP/1.1\r\nHost: www.example.org\r\n\r\n", &[400]),
        ("G@T / HTTP/1.1\r\nHost: www.example.org\r\n\r\n", &[400]),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[]),
        // One host, and one that is one (RFC 9112 §3.2).
        ("GET / HTTP/1.1\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nHost: www.example.org\r\nHost: www.example.org\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nHost: www.example.org\r\nhOST: 127.0.0.1\r\n\r\n", &[400]),
        ("GET http://www.example.org/ HTTP/1.1\r\n\r\n", &[400]),
        // A length means something to HTTP/1.0, a coding nothing (RFC 9112 §6.1).
        ("GET / HTTP/1.0\r\nHost: www.example.org\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", &[400]),
        ("GET / HTTP/1.0\r\nHost: www.example.org\r\nContent-Length: 5\r\n\r\nhello", &[413]),
    ];
    check(requests, HIDDEN).await;
}

#[tokio::test]
async fn requests_behind_one_another_are_answered_in_their_order_and_no_other() {
    let second = "GET /second HTTP/1.1\r\nHost: www.example.org\r\n\r\n";
    let requests: &[(&str, &[u16])] = &[
        (&format!("GET / HTTP/1.1\r\nHost: www.example.org\r\n\r\n{second}"), &[200, 200]),
        (&format!("GET / HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: 0\r\n\r\n{second}"), &[200, 200]),
        // Empty lines before a request (RFC 9112 §2.2), and LF alone as the end of a line.
        (&format!("\r\n\r\nGET / HTTP/1.1\r\nHost: www.example.org\r\n\r\n\r\n{second}"), &[200, 200]),
        (&format!("GET / HTTP/1.1\nHost: www.example.org\n\n{second}"), &[200, 200]),
        // An upgrade is not offered, and what follows is a request.
        (
            &format!("GET / HTTP/1.1\r\nHost: www.example.org\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n{second}"),
            &[200, 200],
        ),
        // The host of an absolute target is the one that counts (RFC 9112 §3.2.2).
        (&format!("GET http://www.example.org/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n{second}"), &[200, 200]),
        (&format!("GET http://www.x.com/ HTTP/1.1\r\nHost: www.example.org\r\n\r\n{second}"), &[421, 200]),
        // After these there is nothing more.
        (&format!("GET / HTTP/1.0\r\nHost: www.example.org\r\n\r\n{second}"), &[200]),
        (&format!("GET / HTTP/1.1\r\nHost: www.example.org\r\nConnection: close\r\n\r\n{second}"), &[200]),
        (&format!("POST / HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: 0\r\n\r\n{second}"), &[405]),
        (&format!("CONNECT www.example.org:80 HTTP/1.1\r\nHost: www.example.org:80\r\n\r\n{second}"), &[405]),
        (&format!("GET / HTTP/1.1\r\nHost: www.example.org\r\n\r\nGARBAGE\r\n\r\n{second}"), &[200, 400]),
    ];
    check(requests, "").await;
}
