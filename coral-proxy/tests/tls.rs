//! TLS towards clients, and HTTP/2: what is served, with which certificate, and what neither may do to a node.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coral_dsht::memory::MemoryNetwork;
use coral_proxy::{CertificateFiles, Config, Site};
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use support::node::{HOST, Node};
use support::origin::{Gate, Origin, Step};
use support::tls::Authority;
use support::until;
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Below `s` a certificate for one label is enough for all sites.
const SECURE: &str = "www-x-com.s.nyud.net";

type Http2 = http2::SendRequest<Full<Bytes>>;

/// A certificate that lives as long as its files.
struct Certificate(NamedTempFile, NamedTempFile);

impl Certificate {
    fn of(authority: &Authority, names: &[&str]) -> Self {
        let (chain, key) = authority.files_for(names);
        Self(chain, key)
    }

    fn files(&self) -> CertificateFiles {
        CertificateFiles { chain: self.0.path().to_owned(), key: self.1.path().to_owned() }
    }
}

/// An origin, and a node in front of it with a certificate for every name of one label below `s`, and for `HOST`.
async fn world(change: impl FnOnce(&mut Config)) -> (Authority, Certificate, Origin, Node) {
    let authority = Authority::new("test");
    let certificate = Certificate::of(&authority, &["*.s.nyud.net", HOST]);
    let origin = Origin::start().await;
    origin.text("/", "HTTP/1.1 200 OK\ncache-control: max-age=600", "home");
    let files = certificate.files();
    let node = Node::start_with(&MemoryNetwork::new(), &origin, |config| {
        config.certificates.push(files);
        config.sites.push(Site::new("www.x.com", &format!("http://{}", origin.addr)).unwrap());
        change(config);
    })
    .await;
    (authority, certificate, origin, node)
}

async fn handshake(addr: SocketAddr, name: &str, client: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(addr).await?;
    TlsConnector::from(client).connect(ServerName::try_from(name.to_owned()).unwrap(), stream).await
}

async fn http2(node: &Node, authority: &Authority) -> Http2 {
    let tls = handshake(node.tls.unwrap(), SECURE, authority.client("h2")).await.unwrap();
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn get(host: &str, path: &str) -> Request<Full<Bytes>> {
    Request::get(format!("https://{host}{path}")).body(Full::default()).unwrap()
}

/// Status and body.
async fn ask(sender: &mut Http2, request: Request<Full<Bytes>>) -> (StatusCode, Bytes) {
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.version(), Version::HTTP_2);
    (response.status(), response.into_body().collect().await.unwrap().to_bytes())
}

#[tokio::test]
async fn a_page_is_served_over_tls_in_either_version_of_http() {
    let (authority, _files, origin, node) = world(|_| {}).await;
    let tls = handshake(node.tls.unwrap(), SECURE, authority.client("http/1.1")).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..2 {
        let request = Request::get("/").header("host", SECURE).body(Empty::<Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "home");
    }
    let mut sender = http2(&node, &authority).await;
    assert_eq!(ask(&mut sender, get(SECURE, "/")).await, (StatusCode::OK, "home".into()));
    assert_eq!(origin.count("/"), 1);
}

#[tokio::test]
async fn a_hundred_requests_share_a_connection_and_a_large_body_holds_none_of_them_up() {
    let (authority, _files, origin, node) = world(|_| {}).await;
    let gate = Gate::closed();
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\ncache-control: max-age=600\r\n\r\n";
    let steps =
        vec![Step::Send(head.into()), Step::Pattern(0, 1000), Step::Wait(gate.clone()), Step::Pattern(1000, 2_999_000)];
    origin.on("/large", steps);
    let mut sender = http2(&node, &authority).await;
    let large = sender.send_request(get(SECURE, "/large")).await.unwrap();
    let asking: Vec<_> = (0..99)
        .map(|_| {
            let mut sender = sender.clone();
            tokio::spawn(async move { ask(&mut sender, get(SECURE, "/")).await })
        })
        .collect();
    for asked in asking {
        assert_eq!(asked.await.unwrap(), (StatusCode::OK, "home".into()));
    }
    gate.open();
    let body = large.into_body().collect().await.unwrap().to_bytes();
    assert!(body == support::origin::pattern(0, 3_000_000));
    assert_eq!(origin.count("/"), 1);
}

#[tokio::test]
async fn a_client_is_shown_the_certificate_for_the_name_it_asks_for_and_new_ones_at_once() {
    let authority = Authority::new("test");
    let [first, second] = ["a.example", "b.example"].map(|name| Certificate::of(&authority, &[name]));
    let origin = Origin::start().await;
    let mut config = Config { certificates: vec![first.files(), second.files()], ..Config::default() };
    let node =
        Node::start_with(&MemoryNetwork::new(), &origin, |it| it.certificates.clone_from(&config.certificates)).await;
    let accepted = async |name: &str| handshake(node.tls.unwrap(), name, authority.client("h2")).await.is_ok();
    assert!(accepted("a.example").await && accepted("b.example").await);
    assert!(!accepted("c.example").await, "the first is for another name");

    let third = Certificate::of(&authority, &["c.example"]);
    config.certificates = vec![second.files(), third.files()];
    node.proxy.reload(&config).unwrap();
    assert!(!accepted("a.example").await && accepted("b.example").await && accepted("c.example").await);
    // A key that is another's changes nothing.
    config.certificates = vec![CertificateFiles { key: first.files().key, ..third.files() }];
    let error = node.proxy.reload(&config).unwrap_err().to_string();
    assert!(error.contains("does not go with"), "{error}");
    assert!(accepted("b.example").await);
}

#[tokio::test]
async fn what_http_2_has_in_other_places_is_checked_there() {
    let (authority, _files, origin, node) = world(|_| {}).await;
    let mut sender = http2(&node, &authority).await;
    let with_body = Request::get(format!("https://{SECURE}/")).body(Full::from("body")).unwrap();
    assert_eq!(ask(&mut sender, with_body).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    let mut two_hosts = get(SECURE, "/");
    two_hosts.headers_mut().insert("host", "www-y-com.s.nyud.net".parse().unwrap());
    assert_eq!(ask(&mut sender, two_hosts).await.0, StatusCode::BAD_REQUEST);
    let mut same_host = get(SECURE, "/");
    same_host.headers_mut().insert("host", SECURE.parse().unwrap());
    assert_eq!(ask(&mut sender, same_host).await.0, StatusCode::OK);
    let post = Request::post(format!("https://{SECURE}/")).body(Full::default()).unwrap();
    assert_eq!(ask(&mut sender, post).await.0, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(ask(&mut sender, get("www.elsewhere.org", "/")).await.0, StatusCode::MISDIRECTED_REQUEST);
    let mut many = get(SECURE, "/");
    for _ in 0..101 {
        many.headers_mut().append("accept", "a/b".parse().unwrap());
    }
    assert_eq!(ask(&mut sender, many).await.0, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let mut large = get(SECURE, "/");
    large.headers_mut().insert("x-large", "a".repeat(60_000).parse().unwrap());
    assert_eq!(ask(&mut sender, large).await.0, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(origin.count("/"), 1);
}

#[tokio::test]
async fn who_speaks_no_tls_or_nothing_at_all_is_cut_off() {
    let (_authority, _files, _origin, node) =
        world(|config| config.client.header_timeout = Duration::from_millis(300)).await;
    for bytes in [&b"GET / HTTP/1.1\r\nhost: www.example.org\r\n\r\n"[..], b"", &[0x16, 3, 1, 0xff, 0xff]] {
        let mut stream = TcpStream::connect(node.tls.unwrap()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        // An alert, perhaps, and the end.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    assert_eq!(node.proxy.status().errors.get("client"), Some(&3));
}

#[tokio::test]
async fn an_idle_http_2_connection_ends_and_one_that_waits_for_its_origin_does_not() {
    let (authority, _files, origin, node) =
        world(|config| config.client.header_timeout = Duration::from_millis(200)).await;
    let gate = Gate::closed();
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncache-control: max-age=600\r\n\r\nslow";
    origin.on("/slow", vec![Step::Wait(gate.clone()), Step::Send(head.into())]);
    let mut waits = http2(&node, &authority).await;
    let mut idles = http2(&node, &authority).await;
    assert_eq!(ask(&mut idles, get(SECURE, "/")).await.0, StatusCode::OK);
    let waiting = tokio::spawn(async move { ask(&mut waits, get(SECURE, "/slow")).await });
    until(async || origin.count("/slow") == 1).await;
    until(async || idles.is_closed()).await;
    gate.open();
    assert_eq!(waiting.await.unwrap(), (StatusCode::OK, "slow".into()));
}

#[tokio::test]
async fn a_node_that_stops_finishes_what_is_under_way_over_http_2() {
    let (authority, _files, origin, node) = world(|_| {}).await;
    let gate = Gate::closed();
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncache-control: max-age=600\r\n\r\n";
    origin.on("/slow", vec![Step::Send(head.into()), Step::Wait(gate.clone()), Step::Send(b"slow".into())]);
    let mut sender = http2(&node, &authority).await;
    let response = sender.send_request(get(SECURE, "/slow")).await.unwrap();
    let tls = node.tls.unwrap();
    let stopping = tokio::spawn(node.stop());
    until(async || TcpStream::connect(tls).await.is_err()).await;
    gate.open();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "slow");
    stopping.await.unwrap();
}

/// CVE-2023-44487: to begin a request and take it back costs the client nothing.
#[tokio::test]
async fn requests_that_are_taken_back_at_once_tie_nothing_up() {
    let (authority, _files, origin, node) = world(|_| {}).await;
    let gate = Gate::closed();
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncache-control: max-age=600\r\n\r\nslow";
    origin.on("/slow", vec![Step::Wait(gate.clone()), Step::Send(head.into())]);
    let mut sender = http2(&node, &authority).await;
    let mut taken_back = 0;
    while taken_back < 3000 && sender.ready().await.is_ok() {
        // It is on its way once it has been polled, and reset when it is dropped.
        let mut asking = Box::pin(sender.send_request(get(SECURE, "/slow")));
        assert!(futures_util::poll!(&mut asking).is_pending());
        tokio::task::yield_now().await;
        taken_back += 1;
    }
    assert!(taken_back > 10, "{taken_back}");
    until(async || node.proxy.status().in_flight <= 1).await;
    let mut other = http2(&node, &authority).await;
    assert_eq!(ask(&mut other, get(SECURE, "/")).await, (StatusCode::OK, "home".into()));
    gate.open();
    assert_eq!(ask(&mut other, get(SECURE, "/slow")).await, (StatusCode::OK, "slow".into()));
    assert_eq!(origin.count("/slow"), 1);
}

#[tokio::test]
async fn a_plain_hit_over_http_2_is_as_any_other_and_hints_come_before_an_answer() {
    let (authority, _files, origin, node) = world(|_| {}).await;
    origin.text("/page", "HTTP/1.1 200 OK\ncache-control: max-age=600\netag: \"a\"", "hello");
    let mut sender = http2(&node, &authority).await;
    let mut heads = Vec::new();
    // Fetched; a hit; a plain hit; and one that is none for a field that nobody knows.
    for field in ["accept", "accept", "accept", "x-unknown"] {
        let mut request = get(SECURE, "/page");
        request.headers_mut().insert(http::HeaderName::from_static(field), "a/b".parse().unwrap());
        let response = sender.send_request(request).await.unwrap();
        let (mut head, body) = response.into_parts();
        assert_eq!((head.status, body.collect().await.unwrap().to_bytes()), (StatusCode::OK, "hello".into()));
        assert_eq!(head.headers.remove("coral-request-id").unwrap().len(), 16);
        head.headers.remove("age");
        heads.push(head.headers);
    }
    assert!(heads[1] == heads[2] && heads[2] == heads[3], "{heads:#?}");
    assert_eq!(heads[2]["cache-status"], "coral; hit");

    let gate = Gate::closed();
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow";
    origin.on("/slow", vec![Step::Send(hints.into()), Step::Wait(gate.clone()), Step::Send(head.into())]);
    // hyper's client tells nobody of them.
    let tls = handshake(node.tls.unwrap(), SECURE, authority.client("h2")).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(tls).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("https://{SECURE}/slow")).body(()).unwrap();
    let (mut answer, _) = sender.send_request(request, true).unwrap();
    let interim = std::future::poll_fn(|cx| answer.poll_informational(cx));
    let interim = tokio::time::timeout(Duration::from_secs(10), interim).await.expect("before the answer");
    let interim = interim.unwrap().unwrap();
    assert_eq!((interim.status(), interim.headers()["link"].to_str().unwrap()), (StatusCode::EARLY_HINTS, "</a>"));
    gate.open();
    assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
}
