//! Targets, hosts and fields as attackers write them: what the origin is asked for is what the key says, or nothing.

mod support;

use coral_dsht::memory::MemoryNetwork;
use support::client::{get, get_with};
use support::node::{HOST, Node};
use support::origin::{Origin, Seen, Step};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn world() -> (Origin, Node) {
    let origin = Origin::start().await;
    let node = Node::start(&MemoryNetwork::new(), &origin).await;
    (origin, node)
}

/// The one request that the origin has seen.
fn only(origin: &Origin, path: &str) -> Seen {
    assert_eq!(origin.lines(), [format!("GET {path} HTTP/1.1")]);
    origin.requests(path).remove(0)
}

#[tokio::test]
async fn the_origin_is_asked_for_the_canonical_target() {
    for (target, path) in [
        ("/../../etc/passwd", "/etc/passwd"),
        ("/a/%2e%2E/%2e/b", "/b"),
        ("/a/..;/b", "/a/..;/b"),
        ("/a\\..\\b", "/b"),
        ("//other.example/", "//other.example/"),
        ("/a%00b", "/a%00b"),
        ("/a%0d%0aHost:%20x", "/a%0d%0aHost:%20x"),
        ("/a%2f..%2fb", "/a%2f..%2fb"),
        ("/é?é", "/%C3%A9?%C3%A9"),
        ("/%zz%", "/%zz%"),
        ("/a#b", "/a"),
        ("http://www.example.org?a", "/?a"),
        ("http://www.example.org:8080/a", "/a"),
        ("HTTP://WWW.Example.ORG/a", "/a"),
    ] {
        let (origin, node) = world().await;
        let reply = get(node.addr, HOST, target).await;
        assert_eq!(reply.status, 404, "{target}");
        only(&origin, path);
    }
}

#[tokio::test]
async fn targets_and_hosts_that_are_none_are_refused() {
    let (origin, node) = world().await;
    let mut wrong = Vec::new();
    for (target, host, status) in [
        // None of the four forms of a target, or one that is for another method (RFC 9112 §3.2).
        ("?a", HOST, 400),
        ("a", HOST, 400),
        ("*", HOST, 400),
        ("www.example.org", HOST, 400),
        ("www.example.org:80", HOST, 400),
        ("http:/a", HOST, 400),
        ("http:///a", HOST, 400),
        ("http://", HOST, 400),
        ("http://user@www.example.org/", HOST, 400),
        ("http://user:password@www.example.org/", HOST, 400),
        ("file:///etc/passwd", HOST, 400),
        ("gopher://www.example.org/", HOST, 400),
        ("/", "user@www.example.org", 400),
        ("/", "www.example.org#", 400),
        ("/", "www.example.org/x", 400),
        ("/", "www.example.org?x", 400),
        ("/", "www.example.org:80:80", 400),
        ("/", "www.example.org:80x", 400),
        ("/", "www.example.org, www.x.com", 400),
        ("/", "www.example.org%00.nyud.net", 400),
        ("/", "www..x.com.nyud.net", 400),
        ("/", "..nyud.net", 400),
        ("/", "localhost.nyud.net", 400),
        ("/", "127.1.nyud.net", 400),
        ("/", "0x7f.1.nyud.net", 400),
        ("/", "2130706433.nyud.net", 400),
        ("/", "127.0.0.1.nyud.net", 403),
        ("/", "[::1]", 421),
        ("/", "", 400),
    ] {
        let reply = get(node.addr, host, target).await;
        if reply.status != status {
            wrong.push(format!("{target} of {host}: {} instead of {status}", reply.status));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(origin.lines().is_empty(), "{:?}", origin.lines());
}

#[tokio::test]
async fn bytes_that_are_no_text_are_refused_and_so_is_what_is_too_much() {
    let (origin, node) = world().await;
    let fields = (0..10_000).map(|number| format!("x{number}: y\r\n")).collect::<String>();
    for (request, status) in [
        (b"GET /\xff HTTP/1.1\r\nHost: www.example.org\r\n\r\n".to_vec(), "400"),
        (b"GET / HTTP/1.1\r\nHost: www.\xffexample.org\r\n\r\n".to_vec(), "400"),
        (format!("GET / HTTP/1.1\r\nHost: www.example.org\r\n{fields}\r\n").into_bytes(), "431"),
        (format!("GET / HTTP/1.1\r\nHost: www.example.org\r\n{}: y\r\n\r\n", "x".repeat(70_000)).into_bytes(), "431"),
        (format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", "a.".repeat(4000)).into_bytes(), "400"),
        (format!("GET /{} HTTP/1.1\r\nHost: www.example.org\r\n\r\n", "a".repeat(1 << 20)).into_bytes(), "431"),
        (vec![b'A'; 1 << 20], "431"),
    ] {
        let mut stream = TcpStream::connect(node.addr).await.unwrap();
        // It is refused before all of it is read.
        let _ = stream.write_all(&request).await;
        let mut head = [0; 12];
        let said = stream.read_exact(&mut head).await.map(|_| String::from_utf8_lossy(&head).into_owned());
        let beginning = String::from_utf8_lossy(&request[..60.min(request.len())]).into_owned();
        assert_eq!(said.as_deref().unwrap_or("nothing"), format!("HTTP/1.1 {status}"), "{beginning}");
    }
    assert!(origin.lines().is_empty(), "{:?}", origin.lines());
}

#[tokio::test]
async fn names_of_one_host_are_one_object() {
    let (origin, node) = world().await;
    origin.text("/", "HTTP/1.1 200 OK", "hello");
    for host in ["www.example.org", "WWW.EXAMPLE.ORG", "www.example.org.", "www.example.org:8080", "www.example.org:"] {
        assert_eq!(get(node.addr, host, "/").await.text(), "hello", "{host}");
    }
    let seen = only(&origin, "/");
    assert_eq!(seen.fields["host"], origin.addr.to_string());
}

/// Whether a first visitor who sends `lines` has changed what the next one gets.
async fn poisoned(lines: &str) -> bool {
    let (origin, node) = world().await;
    // What an origin might make of a field that it takes from anybody.
    origin.text("/", "HTTP/1.1 200 OK", "hello");
    get_with(node.addr, HOST, "/", lines).await;
    let seen = only(&origin, "/");
    let name = lines.split(':').next().unwrap().to_ascii_lowercase();
    assert_eq!(get(node.addr, HOST, "/").await.cache(), "coral; hit", "{lines}");
    seen.fields.contains_key(&name)
}

#[tokio::test]
async fn an_origin_does_not_see_what_is_not_in_the_key() {
    for lines in [
        "X-Forwarded-Host: evil.example",
        "X-Forwarded-Scheme: nothttps",
        "X-Forwarded-Proto: http",
        "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-Port: 1",
        "Forwarded: host=evil.example",
        "X-Host: evil.example",
        "X-Original-URL: /admin",
        "X-Rewrite-URL: /admin",
        "X-HTTP-Method-Override: POST",
        "X-HTTP-Method: DELETE",
        "X-Method-Override: PUT",
        "True-Client-IP: 127.0.0.1",
        "Client-IP: 127.0.0.1",
        "X-Wap-Profile: http://evil.example/",
        "Referer: http://evil.example/",
        "Max-Forwards: 0",
        "Proxy: http://evil.example/",
        "Destination: /x",
        "Cookie: admin=1",
        "Authorization: Basic eA==",
        "If-Match: \"x\"",
        "Expect: 100-continue",
        "TE: trailers",
    ] {
        assert!(!poisoned(lines).await, "{lines}");
    }
}

/// CPDoS: what makes an origin refuse a request must not come from a field outside of the key, or its error is everybody's.
#[tokio::test]
async fn what_is_passed_on_is_short_and_printable() {
    for value in ["a".repeat(2000), "\u{e9}".to_owned()] {
        for name in ["Accept", "Accept-Encoding", "Accept-Language", "Origin"] {
            assert!(!poisoned(&format!("{name}: {value}")).await, "{name}: {value:.10}");
        }
    }
    let (origin, node) = world().await;
    let many = "accept: a/b\n".repeat(50);
    get_with(node.addr, HOST, "/", many.trim_end()).await;
    assert!(origin.requests("/")[0].fields["accept"].len() < 1024);
    get_with(node.addr, HOST, "/other", "accept: text/html, */*").await;
    assert_eq!(origin.requests("/other")[0].fields["accept"], "text/html, */*");
}

#[tokio::test]
async fn urls_that_frameworks_take_for_one_another_are_not() {
    let (origin, node) = world().await;
    let private = "HTTP/1.1 200 OK\ncache-control: private";
    for target in ["/account.php/x.css", "/account.php%2fx.css", "/account.php;x.css", "/account.php?x.css"] {
        origin.text(target, private, target);
        // What the origin does not want stored is not, whatever the name looks like.
        for _ in 0..2 {
            assert_eq!(get(node.addr, HOST, target).await.text(), target);
        }
        assert_eq!(origin.count(target), 2, "{target}");
    }
    for target in ["/?a=1", "/?a=1;a=2", "/?a=1&utm_content=x;a=2", "/?a=1&a=2", "/?A=1", "/?a=1&"] {
        origin.text(target, "HTTP/1.1 200 OK", target);
        assert_eq!(get(node.addr, HOST, target).await.text(), target);
    }
    assert_eq!(get(node.addr, HOST, "/?a=1").await.text(), "/?a=1");
}

#[tokio::test]
async fn a_request_that_has_been_through_a_node_is_not_sent_round_again() {
    let (origin, node) = world().await;
    for lines in [
        "CDN-Loop: coral",
        "CDN-Loop: other-cdn; v=1, CORAL; x",
        "CDN-Loop: other-cdn\nCDN-Loop: coral",
        // Another network in between has dropped the one, or never knew it.
        "Via: 1.1 coral (CoralWebPrx), 1.1 other-cdn",
        "Via: 1.1 other-cdn\nVia: 1.1 coral (CoralWebPrx)",
        "CDN-Loop: other-cdn\nVia: 1.1 other-cdn, 1.1 coral (CoralWebPrx)",
    ] {
        let reply = get_with(node.addr, HOST, "/", lines).await;
        assert!(reply.status == 502 && reply.field("proxy-status").contains("proxy_loop_detected"), "{lines}");
    }
    assert!(origin.lines().is_empty());
}

/// A small answer of the origin that would be large elsewhere stays small here.
#[tokio::test]
async fn what_is_compressed_stays_so() {
    let (origin, node) = world().await;
    let body = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xff, 0xfe];
    let head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip, gzip\r\ncontent-length: 12\r\n\r\n";
    origin.on("/bomb", vec![Step::Send([&head[..], &body].concat())]);
    for _ in 0..2 {
        let reply = get_with(node.addr, HOST, "/bomb", "accept-encoding: gzip").await;
        assert_eq!((reply.field("content-encoding"), &reply.body), ("gzip, gzip", &body));
    }
    assert_eq!(origin.count("/bomb"), 1);
}
