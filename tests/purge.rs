//! One purge, and every node of the network asks the origin again within seconds; but only at the word of who may.

mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant, SystemTime};

use coral::config::{Config, Contact};
use coral::demo::origin::Origin;
use coral::demo::site::Object;
use coral::http;
use coral::node::{Node, together};
use coral::purge::key::Key;
use serde_json::Value as Json;
use support::{CORALIZED, Cluster, HOST, config, eventually, fetch, map, origin, page};
use tempfile::TempDir;

/// A purge is to be everywhere within seconds.
const SECONDS: Duration = Duration::from_secs(8);

const TOKEN: &str = "a-token-for-tests-alone";

/// The files of an operator.
struct Files {
    directory: TempDir,
    key: Key,
}

impl Files {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("token"), format!("{TOKEN}\n")).unwrap();
        let key = Key::create(&directory.path().join("key")).unwrap();
        Self { directory, key }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The configuration of a node of this operator's, at which he purges.
    fn configure(&self, config: &mut Config) {
        config.admin.token = Some(self.path("token"));
        config.purge.key = Some(self.path("key"));
        config.purge.operators = vec![self.key.operator()];
    }
}

/// `coral purge` with this token file.
async fn purge(admin: SocketAddr, token: PathBuf, arguments: &'static [&'static str]) -> Output {
    let run = move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coral"));
        command.args(["purge", "--admin", &admin.to_string(), "--token"]).arg(token).args(arguments);
        command.output().unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// What a node says of `path`.
async fn verdict(admin: SocketAddr, path: &str) -> String {
    let (_, text) = http::get_text(admin, &format!("/explain?url=http://{HOST}{path}")).await.unwrap();
    let said: Json = serde_json::from_str(&text).unwrap();
    said["verdict"].as_str().unwrap_or(&text).to_owned()
}

async fn is_purged(admin: SocketAddr, path: &str) {
    eventually(async || verdict(admin, path).await, |verdict| verdict == "purged").await;
}

/// All nodes have these.
async fn cached(cluster: &Cluster, paths: &[&str]) {
    for number in 0..cluster.nodes.len() {
        for path in paths {
            assert_eq!(fetch(cluster.proxy(number), CORALIZED, path).await.status, 200);
            assert_eq!(verdict(cluster.admin(number), path).await, "hit");
        }
    }
}

async fn metric(admin: SocketAddr, line: &str) -> Option<u64> {
    let (_, text) = http::get_text(admin, "/metrics").await.unwrap();
    text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok())
}

#[tokio::test]
async fn one_command_and_all_nodes_ask_again() {
    let (files, origin) = (Files::new(), origin(vec![page("/"), page("/news/1"), page("/other")]).await);
    let cluster = Cluster::with(4, |config| {
        map(config, HOST, origin.addr());
        files.configure(config);
    })
    .await;
    cached(&cluster, &["/", "/news/1", "/other"]).await;
    let began = Instant::now();
    let patterns = &["http://www.example.com.nyud.net/", "http://www.example.com/news/*"];
    let output = purge(cluster.admin(0), files.path("token"), patterns).await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected =
        "purged http://www.example.com/\npurged http://www.example.com/news/*\nthe other nodes have been told\n";
    assert_eq!(said, expected);
    for number in 0..4 {
        for path in ["/", "/news/1"] {
            is_purged(cluster.admin(number), path).await;
        }
        assert_eq!(verdict(cluster.admin(number), "/other").await, "hit");
    }
    let took = began.elapsed();
    assert!(took < SECONDS, "it took {took:?}");
    eprintln!("all had heard after {took:.0?}");
    // To a node, what comes before its own question could have got to another one may still be of before.
    tokio::time::sleep(Duration::from_millis(200)).await;
    for number in 0..4 {
        let page = fetch(cluster.proxy(number), CORALIZED, "/").await;
        assert!(page.status == 200 && !page.cache.starts_with("coral; hit"), "{}", page.cache);
    }
    assert_eq!((origin.asked()["/"], origin.asked()["/other"]), (2, 1), "once for all of them");
    assert_eq!(metric(cluster.admin(3), "coral_proxy_purges_total{by=\"order\"}").await, Some(2));
    cluster.stop().await;
}

#[tokio::test]
async fn who_may_not_is_told_in_one_line_and_nothing_is_purged() {
    let (files, origin) = (Files::new(), origin(vec![page("/")]).await);
    let cluster = Cluster::with(1, |config| {
        map(config, HOST, origin.addr());
        files.configure(config);
    })
    .await;
    cached(&cluster, &["/"]).await;
    std::fs::write(files.path("wrong"), "another-token-of-tests").unwrap();
    std::fs::write(files.path("short"), "short").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = taken.local_addr().unwrap();
    drop(taken);
    let admin = cluster.admin(0);
    const SITE: &[&str] = &["www.example.com"];
    for (admin, token, patterns, wanted) in [
        (admin, "wrong", SITE, "the token is not that"),
        (admin, "short", SITE, "less than 16 characters"),
        (admin, "missing", SITE, "cannot read the token"),
        (nobody, "token", SITE, "no node answers"),
        (admin, "token", &["www.example.com", "http://www.example.com*"], "a prefix ends in *"),
        (admin, "token", &["http://a b/"], "a space"),
    ] {
        let output = purge(admin, files.path(token), patterns).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(wanted) && said.lines().count() == 1 && output.stdout.is_empty(), "{said}");
        assert_eq!(verdict(cluster.admin(0), "/").await, "hit", "{wanted}");
    }
    assert_eq!(metric(admin, "coral_proxy_refused_purges_total{by=\"operator\"}").await, Some(1));
    let output = purge(admin, files.path("token"), &["--here", "www.example.com"]).await;
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "purged www.example.com\nat this node alone\n");
    assert_eq!(verdict(admin, "/").await, "purged");
    cluster.stop().await;

    let cluster = Cluster::start(1, &origin).await;
    let output = purge(cluster.admin(0), files.path("token"), SITE).await;
    assert!(String::from_utf8(output.stderr).unwrap().contains("`admin.token` is not set"));
    cluster.stop().await;
}

#[tokio::test]
async fn an_operator_is_obeyed_by_those_who_know_him_and_from_when_they_do() {
    let (files, origin) = (Files::new(), origin(vec![page("/")]).await);
    let cluster = Cluster::with(3, |config| {
        map(config, HOST, origin.addr());
        files.configure(config);
        if config.dsht.node.listen.ip().to_string() == "127.0.0.2" {
            config.purge.operators = vec![Key::from_seed(&[1; 32]).operator()];
        }
    })
    .await;
    cached(&cluster, &["/"]).await;
    assert!(purge(cluster.admin(0), files.path("token"), &["www.example.com"]).await.status.success());
    is_purged(cluster.admin(2), "/").await;
    let refused = async || metric(cluster.admin(1), "coral_proxy_refused_purges_total{by=\"order\"}").await;
    eventually(refused, |count| *count == Some(1)).await;
    assert_eq!(verdict(cluster.admin(1), "/").await, "hit");

    let mut new = config(2);
    map(&mut new, HOST, origin.addr());
    files.configure(&mut new);
    cluster.nodes[1].reload(&new).unwrap();
    assert!(purge(cluster.admin(0), files.path("token"), &["www.example.com"]).await.status.success());
    is_purged(cluster.admin(1), "/").await;
    cluster.stop().await;
}

/// A node that joins `first` and keeps what it stores in `directory`.
async fn node(number: u8, first: Option<&Node>, directory: &Path, origin: &Origin, files: &Files) -> Node {
    let mut config = config(number);
    map(&mut config, HOST, origin.addr());
    files.configure(&mut config);
    config.proxy.part.disk.path = Some(directory.join(number.to_string()));
    config.dsht.node.seeds = first.map(|first| Contact::from(first.me().addr)).into_iter().collect();
    Node::start(config).await.unwrap()
}

#[tokio::test]
async fn who_comes_back_with_an_old_copy_is_told_of_orders_and_of_owners() {
    let (files, directory) = (Files::new(), tempfile::tempdir().unwrap());
    let origin = origin(vec![page("/a"), page("/b"), owners_file("/b")]).await;
    let start = async |number, seed: Option<&Node>| node(number, seed, directory.path(), &origin, &files).await;
    let first = start(1, None).await;
    let second = start(2, Some(&first)).await;
    let third = start(3, Some(&first)).await;
    let nodes = [first, second, third];
    together(&nodes).await.unwrap();
    for node in &nodes {
        for path in ["/a", "/b"] {
            assert_eq!(fetch(node.addresses().proxy.unwrap(), CORALIZED, path).await.status, 200);
        }
    }
    let [first, second, third] = nodes;
    assert!(third.stop().await.is_clean());
    let admin = |node: &Node| node.addresses().admin.unwrap();
    let output = purge(admin(&first), files.path("token"), &["http://www.example.com/a"]).await;
    assert!(output.status.success());
    let opened = fetch(first.addresses().proxy.unwrap(), CORALIZED, OWNERS).await;
    assert_eq!(opened.status, 200, "{}", String::from_utf8_lossy(&opened.body));
    for path in ["/a", "/b"] {
        is_purged(admin(&second), path).await;
    }
    // Whoever has announced it is no more, so that another one has kept it.
    assert!(first.stop().await.is_clean());
    let third = start(3, Some(&second)).await;
    for path in ["/a", "/b"] {
        is_purged(admin(&third), path).await;
    }
    for node in [second, third] {
        assert!(node.stop().await.is_clean());
    }
}

const OWNERS: &str = "/.well-known/coral-purge";

/// What the owner of the site has purged. The time is what it is when the file is read.
fn owners_file(path: &str) -> Object {
    let soon = humantime::format_rfc3339_seconds(SystemTime::now() + Duration::from_secs(60));
    Object::new(OWNERS, "text/plain", format!("{soon} {path}\n"))
}

#[tokio::test]
async fn the_owner_of_a_site_opens_his_file_at_one_node_and_all_nodes_read_it() {
    let origin = origin(vec![page("/a"), page("/b"), owners_file("/b")]).await;
    let cluster = Cluster::start(4, &origin).await;
    cached(&cluster, &["/a", "/b"]).await;
    let began = Instant::now();
    let opened = fetch(cluster.proxy(2), CORALIZED, OWNERS).await;
    assert_eq!(opened.status, 200);
    for number in 0..4 {
        is_purged(cluster.admin(number), "/b").await;
        assert_eq!(verdict(cluster.admin(number), "/a").await, "hit");
    }
    let took = began.elapsed();
    assert!(took < SECONDS, "it took {took:?}");
    eprintln!("all had read it after {took:.0?}");
    assert_eq!(origin.asked()[OWNERS], 4, "each asks for itself");
    cluster.stop().await;
}
