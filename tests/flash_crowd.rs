//! A flash crowd in its first instant: nobody has the object yet, and all ask for it at once, of real nodes over real sockets
//! [design §2.7]. The origin counts for itself, and answers when it is let.

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use coral::config::Config;
use coral_dsht::Levels;
use support::{CORALIZED, Cluster, HOST, PATIENCE, Page, eventually, fetch, map};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// An origin that answers no request before it is opened; or, if it is [`SLOW`], with the first half of a body.
struct Origin {
    addr: SocketAddr,
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
    open: watch::Sender<bool>,
}

impl Origin {
    /// It answers with `fields` and [`body`].
    async fn start(fields: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin =
            Self { addr: listener.local_addr().unwrap(), asked: Arc::default(), open: watch::Sender::new(false) };
        let (asked, open) = (Arc::clone(&origin.asked), origin.open.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, fields, Arc::clone(&asked), open.subscribe()));
            }
        });
        origin
    }

    fn open(&self) {
        self.open.send_replace(true);
    }

    fn asked(&self, path: &str) -> usize {
        self.asked.lock().unwrap().get(path).copied().unwrap_or_default()
    }
}

async fn serve(
    stream: TcpStream,
    fields: &str,
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
    mut open: watch::Receiver<bool>,
) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut request = String::new();
        while !request.ends_with("\r\n\r\n") {
            if stream.read_line(&mut request).await.ok()? == 0 {
                return None;
            }
        }
        let path = request.split(' ').nth(1)?.to_owned();
        *asked.lock().unwrap().entry(path.clone()).or_default() += 1;
        let body = body(&path);
        let (begin, length) = (first_byte(&request), body.len());
        let ready = if fields == SLOW && begin == 0 { length / 2 } else { begin };
        let status = match begin {
            0 => "200 OK".to_owned(),
            _ => format!("206 Partial Content\r\ncontent-range: bytes {begin}-{}/{length}", length - 1),
        };
        if ready == begin {
            open.wait_for(|open| *open).await.ok()?;
        }
        let head = format!("HTTP/1.1 {status}\r\n{fields}\r\ncontent-length: {}\r\n\r\n", length - begin);
        stream.write_all(head.as_bytes()).await.ok()?;
        stream.write_all(&body[begin..ready]).await.ok()?;
        open.wait_for(|open| *open).await.ok()?;
        stream.write_all(&body[ready..]).await.ok()?;
    }
}

/// Where what is asked for begins.
fn first_byte(request: &str) -> usize {
    let lines = request.to_ascii_lowercase();
    let range = lines.lines().find_map(|line| line.strip_prefix("range: bytes="));
    range.and_then(|range| range.split('-').next()?.parse().ok()).unwrap_or_default()
}

/// What is at `path`, of which no two are alike: longer than a buffer, or if it is large, than what is kept in memory.
fn body(path: &str) -> Vec<u8> {
    let length = if path == LARGE { 3_000_000 } else { 100_000 };
    (0_u32..).zip(path.bytes().cycle()).map(|(place, byte)| byte ^ (place / 251) as u8).take(length).collect()
}

const LARGE: &str = "/large";
const SHARED: &str = "cache-control: max-age=600";
/// What comes in two halves.
const SLOW: &str = "cache-control: max-age=600\r\netag: \"a\"";
const PRIVATE: &str = "cache-control: private";

async fn cluster(count: u8, origin: &Origin) -> Cluster {
    let change = |config: &mut Config| {
        map(config, HOST, origin.addr);
        // However busy the machine is, only a node that has gone is taken for one.
        let peer = &mut config.proxy.part.peer;
        (peer.index_timeout, peer.connect_timeout, peer.first_byte_timeout) = (PATIENCE, PATIENCE, PATIENCE);
        peer.patience = 10 * PATIENCE;
    };
    Cluster::with(count, change).await
}

/// Asks each node for each of `paths`, all in one instant.
fn crowd(cluster: &Cluster, paths: &[&'static str]) -> Vec<(&'static str, JoinHandle<Page>)> {
    let each = (0..cluster.nodes.len()).flat_map(|number| paths.iter().map(move |path| (number, *path)));
    each.map(|(number, path)| (path, tokio::spawn(fetch(cluster.proxy(number), CORALIZED, path)))).collect()
}

async fn all_are_served(crowd: Vec<(&'static str, JoinHandle<Page>)>) {
    for (path, visitor) in crowd {
        let page = timeout(PATIENCE, visitor).await.expect("in time").unwrap();
        assert_eq!(page.status, 200, "{path}: {} {}", page.cache, page.proxy);
        assert!(page.body == body(path), "{path} was altered");
    }
}

/// Waits until every node fetches each of `paths`: its reference is then in the index of one of the nodes.
async fn all_fetch(cluster: &Cluster, paths: &[&str]) {
    for node in &cluster.nodes {
        let published = async || node.dsht().snapshot().await.unwrap().published_values;
        eventually(published, |published| *published >= paths.len()).await;
    }
}

async fn several_objects_at_once(nodes: u8) {
    const PATHS: [&str; 4] = ["/a", "/b", "/c", "/d"];
    let origin = Origin::start(SHARED).await;
    let cluster = cluster(nodes, &origin).await;
    let crowd = crowd(&cluster, &PATHS);
    all_fetch(&cluster, &PATHS).await;
    origin.open();
    all_are_served(crowd).await;
    for path in PATHS {
        assert_eq!(origin.asked(path), 1, "{path}");
    }
    // How nodes stop is shown elsewhere; twenty of them, one after another, take their time.
    drop(cluster);
}

#[tokio::test]
async fn five_nodes_ask_the_origin_once_for_each_object() {
    several_objects_at_once(5).await;
}

#[tokio::test]
async fn twenty_nodes_ask_the_origin_once_for_each_object() {
    several_objects_at_once(20).await;
}

#[tokio::test]
async fn when_the_one_at_the_origin_dies_another_one_takes_its_place() {
    let origin = Origin::start(SHARED).await;
    let mut cluster = cluster(5, &origin).await;
    let last = cluster.nodes.len() - 1;
    let lost = tokio::spawn(fetch(cluster.proxy(last), CORALIZED, "/a"));
    eventually(async || origin.asked("/a"), |asked| *asked == 1).await;
    let gone = cluster.nodes.pop().unwrap();
    let crowd = crowd(&cluster, &["/a"]);
    all_fetch(&cluster, &["/a"]).await;
    assert_eq!(origin.asked("/a"), 1, "all wait for the first");
    drop(gone);
    eventually(async || origin.asked("/a"), |asked| *asked == 2).await;
    origin.open();
    all_are_served(crowd).await;
    assert_eq!(origin.asked("/a"), 2);
    lost.abort();
    cluster.stop().await;
}

#[tokio::test]
async fn when_the_one_at_the_origin_dies_within_a_large_body_nobody_notices_and_the_origin_is_asked_once_more() {
    let origin = Origin::start(SLOW).await;
    let mut cluster = cluster(8, &origin).await;
    let last = cluster.nodes.len() - 1;
    let lost = tokio::spawn(fetch(cluster.proxy(last), CORALIZED, LARGE));
    eventually(async || origin.asked(LARGE), |asked| *asked == 1).await;
    let gone = cluster.nodes.pop().unwrap();
    let crowd = crowd(&cluster, &[LARGE]);
    for node in &cluster.nodes {
        let received = async || node.proxy().unwrap().status().received_from_peers_bytes;
        eventually(received, |received| *received == 1_500_000).await;
    }
    drop(gone);
    eventually(async || origin.asked(LARGE), |asked| *asked == 2).await;
    origin.open();
    all_are_served(crowd).await;
    assert_eq!(origin.asked(LARGE), 2);
    lost.abort();
    drop(cluster);
}

#[tokio::test]
async fn a_crowd_for_what_is_not_to_be_shared_does_not_queue() {
    let origin = Origin::start(PRIVATE).await;
    let cluster = cluster(5, &origin).await;
    let crowd = crowd(&cluster, &["/a"]);
    all_fetch(&cluster, &["/a"]).await;
    origin.open();
    all_are_served(crowd).await;
    assert_eq!(origin.asked("/a"), 5);
    let key = coral_proxy::index_key(&format!("http://{HOST}/a"), &[], &[]).unwrap();
    let left = async || cluster.nodes[0].dsht().get(key, Levels::ALL).await.unwrap().values.len();
    eventually(left, |left| *left == 0).await;
    cluster.stop().await;
}
