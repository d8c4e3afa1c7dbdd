//! Origins that speak TLS: whose certificate is believed, and how an http origin that wants https gets it (design §4.2).
//!
//! Origins here are on loopback, which only a site may name. An origin below a suffix takes the same way, but for the
//! port that it may change to: `origin.rs` tests that difference beside the code.

mod support;

use std::net::SocketAddr;
use std::path::Path;

use coral_dsht::memory::MemoryNetwork;
use coral_dsht::{Peer, Services};
use coral_proxy::{Config, Metrics, Proxy, Site};
use prometheus_client::registry::Registry;
use support::client::get;
use support::node::{HOST, Node};
use support::origin::{Origin, Step};
use support::tls::{Authority, self_signed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const PAGE: &str = "HTTP/1.1 200 OK\ncache-control: max-age=600";

/// A node that trusts `ca` besides the system's authorities, and whose one site is at `origin`.
async fn node(scheme: &str, origin: SocketAddr, ca: Option<&Path>) -> Node {
    Node::start_with(&MemoryNetwork::new(), &Origin::start().await, |config| {
        config.sites = vec![Site::new(HOST, &format!("{scheme}://{origin}")).unwrap()];
        config.origin.extra_ca.extend(ca.map(Path::to_owned));
    })
    .await
}

/// A server that answers the first bytes of each connection with `answer`, and then closes it.
async fn answering_any_bytes_with(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // A ClientHello fits; what is left unread would turn the end into a reset.
            let _ = stream.read(&mut [0; 64 * 1024]).await;
            let _ = stream.write_all(answer).await;
        }
    });
    addr
}

#[tokio::test]
async fn a_page_behind_a_private_authority_is_served_and_kept() {
    let authority = Authority::new("ours");
    let origin = Origin::start_tls(authority.vouch_for("127.0.0.1")).await;
    origin.text("/page", PAGE, "hello");
    let node = node("https", origin.addr, Some(authority.file())).await;
    let reply = get(node.addr, HOST, "/page").await;
    assert_eq!((reply.status, reply.text().as_str(), reply.whole), (200, "hello", true));
    assert_eq!(reply.cache(), "coral; fwd=uri-miss; detail=origin; stored");
    assert_eq!(get(node.addr, HOST, "/page").await.cache(), "coral; hit");
    assert_eq!(origin.count("/page"), 1);
}

#[tokio::test]
async fn a_certificate_without_an_authority_may_be_trusted_by_itself() {
    let (acceptor, file) = self_signed("127.0.0.1");
    let origin = Origin::start_tls(acceptor).await;
    origin.text("/page", PAGE, "hello");
    assert_eq!(get(node("https", origin.addr, Some(file.path())).await.addr, HOST, "/page").await.text(), "hello");
    assert_eq!(get(node("https", origin.addr, None).await.addr, HOST, "/page").await.status, 502);
}

#[tokio::test]
async fn a_large_body_comes_whole_over_tls_and_a_cut_one_is_seen_to_be_cut() {
    let authority = Authority::new("ours");
    let origin = Origin::start_tls(authority.vouch_for("127.0.0.1")).await;
    let head = |length: u64| Step::Send(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").into_bytes());
    origin
        .on("/large", vec![head(900_000), Step::Pattern(0, 900_000)])
        .on("/cut", vec![head(900_000), Step::Pattern(0, 100_000), Step::Close]);
    let node = node("https", origin.addr, Some(authority.file())).await;
    let reply = get(node.addr, HOST, "/large").await;
    assert!(reply.whole && reply.body == support::origin::pattern(0, 900_000));
    assert!(!get(node.addr, HOST, "/cut").await.whole);
    assert_eq!(node.proxy.status().objects, 1);
}

#[tokio::test]
async fn a_body_that_lasts_until_the_connection_ends_is_whole_only_after_a_farewell() {
    let authority = Authority::new("ours");
    let origin = Origin::start_tls(authority.vouch_for("127.0.0.1")).await;
    let answer = |end: Step| vec![Step::Send(b"HTTP/1.1 200 OK\r\n\r\nhello".to_vec()), end];
    origin.on("/ends", answer(Step::Close)).on("/cut", answer(Step::Cut));
    let node = node("https", origin.addr, Some(authority.file())).await;
    let reply = get(node.addr, HOST, "/ends").await;
    assert_eq!((reply.text().as_str(), reply.whole), ("hello", true));
    assert!(!get(node.addr, HOST, "/cut").await.whole);
    assert_eq!(node.proxy.status().objects, 1);
}

#[tokio::test]
async fn a_handshake_that_fails_is_the_fault_of_the_origin_and_has_its_name() {
    let (ours, unknown) = (Authority::new("ours"), Authority::new("theirs"));
    let other_name = Origin::start_tls(ours.vouch_for("www.example.net")).await;
    let unknown = Origin::start_tls(unknown.vouch_for("127.0.0.1")).await;
    let only_h2 = Origin::start_tls(ours.vouch_for_only("127.0.0.1", "h2")).await;
    let no_tls = answering_any_bytes_with(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let hangs_up = answering_any_bytes_with(b"").await;
    for (origin, error, text) in [
        (other_name.addr, "tls_certificate_error", "not valid for name"),
        (unknown.addr, "tls_certificate_error", "UnknownIssuer"),
        (only_h2.addr, "tls_alert_received", "NoApplicationProtocol"),
        (no_tls, "tls_protocol_error", "no secure connection"),
        (hangs_up, "connection_terminated", "closed the connection"),
    ] {
        let node = node("https", origin, Some(ours.file())).await;
        let reply = get(node.addr, HOST, "/").await;
        let said = reply.field("proxy-status");
        assert_eq!(reply.status, 502, "{said}");
        assert!(said.starts_with(&format!("coral; error={error}; details=")), "{said}");
        assert!(reply.text().contains(text), "{error}: {}", reply.text());
        assert_eq!(node.proxy.status().errors["origin"], 1, "{error}");
    }
    assert_eq!([other_name, unknown, only_h2].map(|origin| origin.count("/")), [0; 3]);
}

#[tokio::test]
async fn an_http_origin_that_wants_https_is_followed_there_and_asked_there_next_time() {
    let authority = Authority::new("ours");
    let (plain, secure) = (Origin::start().await, Origin::start_tls(authority.vouch_for("127.0.0.1")).await);
    for path in ["/one", "/two"] {
        let head = format!("HTTP/1.1 301 Moved Permanently\nlocation: https://{}{path}", secure.addr);
        plain.text(path, &head, "moved");
        secure.text(path, PAGE, path);
    }
    let node = node("http", plain.addr, Some(authority.file())).await;
    for path in ["/one", "/two"] {
        let reply = get(node.addr, HOST, path).await;
        assert_eq!((reply.status, reply.text().as_str()), (200, path));
        assert_eq!(reply.cache(), "coral; fwd=uri-miss; detail=origin; stored");
        assert_eq!(get(node.addr, HOST, path).await.cache(), "coral; hit");
    }
    assert_eq!((plain.count("/one"), secure.count("/one")), (1, 1));
    assert_eq!((plain.count("/two"), secure.count("/two")), (0, 1), "the second went straight to https");
}

#[tokio::test]
async fn an_origin_that_sends_back_to_http_is_asked_by_http() {
    let authority = Authority::new("ours");
    let (plain, secure) = (Origin::start().await, Origin::start_tls(authority.vouch_for("127.0.0.1")).await);
    let to = |scheme: &str, origin: &Origin, path: &str| {
        format!("HTTP/1.1 302 Found\nlocation: {scheme}://{}{path}", origin.addr)
    };
    plain.text("/login", &to("https", &secure, "/login"), "").text("/news", PAGE, "by http");
    secure.text("/login", PAGE, "by https").text("/news", &to("http", &plain, "/news"), "");
    plain.text("/loop", &to("https", &secure, "/loop"), "");
    secure.text("/loop", &to("http", &plain, "/loop"), "");
    let node = node("http", plain.addr, Some(authority.file())).await;
    assert_eq!(get(node.addr, HOST, "/login").await.text(), "by https");
    let reply = get(node.addr, HOST, "/news").await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "by http"));
    assert_eq!((secure.count("/news"), plain.count("/news")), (1, 1));
    // One that cannot decide is no reason to go round in circles here.
    assert_eq!(get(node.addr, HOST, "/loop").await.status, 302);
    assert!(plain.count("/loop") + secure.count("/loop") <= 2);
}

#[tokio::test]
async fn https_is_not_remembered_before_it_has_answered() {
    let (plain, unknown) = (Origin::start().await, Authority::new("theirs"));
    let secure = Origin::start_tls(unknown.vouch_for("127.0.0.1")).await;
    plain.text("/moved", &format!("HTTP/1.1 302 Found\nlocation: https://{}/moved", secure.addr), "");
    plain.text("/stays", PAGE, "by http");
    let node = node("http", plain.addr, None).await;
    // It is never served by http instead: the origin has said that it does not want that.
    let reply = get(node.addr, HOST, "/moved").await;
    assert!(reply.status == 502 && reply.field("proxy-status").contains("tls_certificate_error"));
    assert_eq!(get(node.addr, HOST, "/stays").await.text(), "by http");
}

#[tokio::test]
async fn a_redirect_elsewhere_is_passed_on() {
    let origin = Origin::start().await;
    let other_path = format!("https://{}/other", origin.addr);
    for (path, location) in [("/path", other_path.as_str()), ("/host", "https://www.example.com/host")] {
        origin.text(path, &format!("HTTP/1.1 301 Moved Permanently\nlocation: {location}"), "");
        let node = node("http", origin.addr, None).await;
        let reply = get(node.addr, HOST, path).await;
        assert_eq!((reply.status, origin.count(path)), (301, 1), "{path}");
        assert_eq!(reply.field("location"), location);
    }
}

#[tokio::test]
async fn a_node_does_not_start_with_an_authority_it_cannot_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("missing.pem");
    let mut config = Config::default();
    config.origin.extra_ca.push(path.clone());
    let me = "127.0.0.1:80".parse().unwrap();
    let dsht = MemoryNetwork::new().node(Peer::new(me, Services::NONE));
    let metrics = Metrics::register(&mut Registry::default());
    let error = Proxy::new(config.into(), Vec::new(), me, dsht, metrics).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot use the certificates of {}", path.display())), "{error}");
}
