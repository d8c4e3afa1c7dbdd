//! Origins that refuse, stall, lie and break off: the client learns whose fault it was, and nothing torn is stored.

mod support;

use std::time::Duration;

use coral_dsht::memory::MemoryNetwork;
use coral_proxy::{Config, Site};
use support::client::{Transfer, get, get_with, request};
use support::node::{HOST, Node};
use support::origin::{Gate, Origin, Step};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn node(origin: &Origin, change: impl FnOnce(&mut Config)) -> Node {
    Node::start_with(&MemoryNetwork::new(), origin, change).await
}

fn raw(text: &str) -> Vec<Step> {
    vec![Step::Send(text.replace('\n', "\r\n").into_bytes()), Step::Close]
}

#[tokio::test]
async fn each_fault_has_its_status_and_its_name() {
    let origin = Origin::start().await;
    let huge = format!("HTTP/1.1 200 OK\nx: {}\ncontent-length: 0\n\n", "a".repeat(100_000));
    origin
        .on("/hangs-up", vec![Step::Close])
        .on("/garbage", raw("220 mail.example.org ESMTP\n\n"))
        .on("/bad-length", raw("HTTP/1.1 200 OK\ncontent-length: ten\n\n"))
        .on("/two-lengths", raw("HTTP/1.1 200 OK\ncontent-length: 5\ncontent-length: 6\n\nhello"))
        .on("/huge-head", raw(&huge))
        .on("/too-large", raw("HTTP/1.1 200 OK\ncontent-length: 99999999999\n\n"))
        .on("/stalls", vec![Step::Stall])
        .on("/switches", raw("HTTP/1.1 101 Switching Protocols\nupgrade: x\nconnection: upgrade\n\n"))
        .on("/coded", raw("HTTP/1.1 200 OK\ntransfer-encoding: gzip\n\nhello"))
        .on("/never-asked", raw("HTTP/1.1 304 Not Modified\n\n"));
    let node = node(&origin, |config| config.origin.first_byte_timeout = Duration::from_millis(300)).await;
    for (path, status, error) in [
        ("/hangs-up", 502, "http_protocol_error"),
        ("/garbage", 502, "http_protocol_error"),
        ("/bad-length", 502, "http_protocol_error"),
        ("/two-lengths", 502, "http_protocol_error"),
        ("/huge-head", 502, "http_response_header_section_size"),
        ("/too-large", 502, "http_response_body_size"),
        ("/stalls", 504, "http_response_timeout"),
        ("/switches", 502, "http_protocol_error"),
        ("/coded", 502, "http_protocol_error"),
        ("/never-asked", 502, "http_protocol_error"),
    ] {
        let reply = get(node.addr, HOST, path).await;
        let said = reply.field("proxy-status");
        assert_eq!(reply.status, status, "{path}: {said}");
        assert!(said.starts_with(&format!("coral; error={error}; details=")), "{path}: {said}");
        assert!(reply.text().starts_with(&status.to_string()) && reply.body.len() < 300, "{path}: {}", reply.text());
    }
    assert_eq!(node.proxy.status().objects, 0);
    assert_eq!(node.proxy.status().errors["origin"], 10);
}

/// Seen with a body that broke off before hyper had written the head: the client got an empty reply.
#[tokio::test]
async fn a_body_that_breaks_off_at_once_still_shows_its_head() {
    let origin = Origin::start().await;
    origin.on("/bad-chunk", raw("HTTP/1.1 200 OK\ntransfer-encoding: chunked\n\nZZ\nhello\n0\n\n"));
    let node = node(&origin, |_| {}).await;
    for _ in 0..20 {
        let mut stream = TcpStream::connect(node.addr).await.unwrap();
        stream.write_all(b"GET /bad-chunk HTTP/1.1\r\nhost: www.example.org\r\n\r\n").await.unwrap();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).await.unwrap();
        let reply = String::from_utf8(reply).unwrap();
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply:?}");
        assert!(!reply.ends_with("0\r\n\r\n"), "the end of the body is not told: {reply:?}");
    }
}

#[tokio::test]
async fn an_origin_that_refuses_is_not_asked_again_at_once() {
    let origin = Origin::start().await;
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let node = node(&origin, |config| {
        config.sites.push(Site::new("down.example.org", &format!("http://{closed}")).unwrap());
    })
    .await;
    for text in ["does not accept connections", "failed a moment ago"] {
        let reply = get(node.addr, "down.example.org", "/").await;
        assert_eq!(reply.status, 502);
        assert!(reply.text().contains(text), "{}", reply.text());
        assert!(reply.field("proxy-status").contains("error=connection_refused"));
    }
    assert_eq!(node.proxy.status().origin_requests, 1);
}

#[tokio::test]
async fn a_connection_that_closes_before_the_answer_is_tried_once_more() {
    let origin = Origin::start().await;
    origin.on("/", vec![Step::Close]).text("/", "HTTP/1.1 200 OK", "hello");
    let node = node(&origin, |_| {}).await;
    assert_eq!(get(node.addr, HOST, "/").await.text(), "hello");
    assert_eq!((origin.count("/"), node.proxy.status().origin_requests), (2, 2));
}

#[tokio::test]
async fn a_body_that_breaks_off_is_seen_to_and_never_stored() {
    let origin = Origin::start().await;
    let chunked = "HTTP/1.1 200 OK\ntransfer-encoding: chunked\n\n5\nhello\n";
    origin
        .on("/short", raw("HTTP/1.1 200 OK\ncontent-length: 100\n\nhello"))
        .on("/no-end", raw(chunked))
        .on("/bad-chunk", raw(&format!("{chunked}zz\n")));
    let node = node(&origin, |_| {}).await;
    for path in ["/short", "/no-end", "/bad-chunk"] {
        let reply = get(node.addr, HOST, path).await;
        assert_eq!((reply.status, reply.whole), (200, false), "{path}");
        assert!(!get(node.addr, HOST, path).await.whole, "{path}");
        assert_eq!(origin.count(path), 2, "{path} was stored");
    }
    assert_eq!(node.proxy.status().objects, 0);
}

#[tokio::test]
async fn a_body_that_stalls_is_broken_off() {
    let origin = Origin::start().await;
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello".to_vec();
    origin.on("/stalls", vec![Step::Send(head), Step::Stall]);
    let node = node(&origin, |config| config.origin.stall_timeout = Duration::from_millis(200)).await;
    let reply = get(node.addr, HOST, "/stalls").await;
    assert_eq!((reply.status, reply.whole, reply.text().as_str()), (200, false, "hello"));
}

#[tokio::test]
async fn a_body_that_outgrows_the_bound_is_broken_off() {
    let origin = Origin::start().await;
    let head = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    origin.on("/endless", vec![Step::Send(head), Step::Pattern(0, 3_000_000), Step::Close]);
    let node = node(&origin, |config| config.origin.max_body = bytesize::ByteSize::mib(2)).await;
    let reply = get(node.addr, HOST, "/endless").await;
    assert!(!reply.whole && reply.body.len() <= 2 << 20);
    assert_eq!(node.proxy.status().objects, 0);
}

/// What an origin sends besides the body, without end or in great amounts, is bounded like the head.
#[tokio::test]
async fn heads_extensions_and_interim_responses_without_end_are_cut() {
    let origin = Origin::start().await;
    let fields: String = (0..10_000).map(|number| format!("x{number}: y\n")).collect();
    let many = "HTTP/1.1 103 Early Hints\nlink: </a>; rel=preload\n\n".repeat(100);
    let hints = Step::Send(many.replace('\n', "\r\n").into_bytes());
    let chunked = "HTTP/1.1 200 OK\ntransfer-encoding: chunked\n\n";
    origin
        .on("/fields", raw(&format!("HTTP/1.1 200 OK\n{fields}content-length: 0\n\n")))
        .on("/line", vec![Step::Send(b"HTTP/1.1 200 OK\r\nx: ".to_vec()), Step::Pattern(0, 4_000_000), Step::Close])
        .on("/interim", [vec![hints; 200], vec![Step::Stall]].concat())
        .on("/extension", raw(&format!("{chunked}5;{}\nhello\n0\n\n", "a".repeat(1_000_000))))
        .on("/trailers", raw(&format!("{chunked}5\nhello\n0\n{fields}\n")));
    let node = node(&origin, |config| config.origin.first_byte_timeout = Duration::from_secs(1)).await;
    for path in ["/fields", "/line", "/interim"] {
        // To HTTP/1.0 no interim response is sent.
        let reply = request(node.addr, &format!("GET {path} HTTP/1.0\nhost: {HOST}\n\n")).await;
        assert!(matches!(reply.status, 502 | 504), "{path}: {}", reply.status);
    }
    for path in ["/extension", "/trailers"] {
        assert!(!get(node.addr, HOST, path).await.whole, "{path}");
    }
    assert_eq!(node.proxy.status().objects, 0);
}

/// An origin that sends now and then, but never for long nothing, costs a connection and what has come, and no thread.
#[tokio::test]
async fn a_body_that_drips_is_passed_on_drop_by_drop() {
    let origin = Origin::start().await;
    let (first, second) = (Gate::closed(), Gate::closed());
    let send = |text: &str| Step::Send(text.as_bytes().to_vec());
    origin.on(
        "/drips",
        vec![
            send("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n"),
            Step::Wait(first.clone()),
            send("a"),
            Step::Wait(second.clone()),
            send("bc"),
        ],
    );
    let node = node(&origin, |_| {}).await;
    let mut transfer = Transfer::begin(node.addr, &format!("GET /drips HTTP/1.1\nhost: {HOST}\n\n")).await;
    first.open();
    assert_eq!(transfer.read(1).await, b"a");
    second.open();
    assert_eq!(transfer.read(2).await, b"bc");
}

#[tokio::test]
async fn nobody_reaches_a_private_address_through_a_node() {
    let origin = Origin::start().await;
    let port = origin.addr.port();
    let node = node(&origin, |config| config.allow_addresses = true).await;
    for host in ["127.0.0.1", "10.0.0.1", "169.254.169.254", "0.0.0.0"] {
        let reply = get(node.addr, &format!("{host}.{port}.nyud.net"), "/").await;
        assert_eq!(reply.status, 502, "{host}");
        assert!(reply.field("proxy-status").contains("destination_ip_prohibited"), "{host}");
    }
    assert_eq!(origin.count("/"), 0);
}

#[tokio::test]
async fn redirects_are_passed_on_coralized_and_not_followed() {
    let origin = Origin::start().await;
    origin.text("/moved", "HTTP/1.1 301 Moved Permanently\nlocation: http://127.0.0.1:1/x", "");
    let node = node(&origin, |_| {}).await;
    let reply = get(node.addr, &format!("{HOST}.nyud.net"), "/moved").await;
    // A site below a suffix stays a site: its links are its own.
    assert_eq!((reply.status, reply.field("location")), (301, "http://127.0.0.1:1/x"));
    let reply = get_with(node.addr, HOST, "/moved", "range: bytes=0-").await;
    assert_eq!((reply.status, reply.cache()), (301, "coral; hit"));
}
