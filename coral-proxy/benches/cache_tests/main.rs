//! The public suite of HTTP caching, http-tests/cache-tests, against this cache.
//!
//! ```text
//! git clone https://github.com/http-tests/cache-tests /tmp/cache-tests
//! git -C /tmp/cache-tests checkout b55b8bd
//! cargo bench -p coral-proxy --bench cache_tests -- /tmp/cache-tests
//! ```
//!
//! The suite is not copied here. It needs Node.js; four of its tests also need its package undici, for which `undici.mjs`
//! stands in unless `npm install` was run in the checkout. What it prints: how many required and optimal tests pass in
//! each of four ways, and each one that does not, with the reason. `-- PATH one` runs the first way alone; `-- PATH one ID`
//! a single test, in full. What the last run gave is in RESULTS.md.
//!
//! `one`: all requests of a test go to one node. `first`: the first request goes to one node, and those that follow to
//! another, which has nothing yet and finds the first by the index. `last`: only the last request goes to the other node.
//! `plain`: one node again, and nothing passes of what the tests themselves send, nor a cookie, as below a suffix.
//!
//! The suite numbers its requests in header fields, and its origin must see them: the nodes serve it as a site that
//! passes these on, and those that the tests themselves send. Where it leaves the script of a test with the origin it
//! speaks to the origin directly, as that is a PUT with a body, which no node takes.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use coral_dsht::memory::MemoryNetwork;
use coral_dsht::{Peer, Services};
use coral_proxy::{Config, Metrics, Proxy, Site};
use prometheus_client::registry::Registry;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

/// Request fields by which the suite keeps its books, and those that its tests send.
const FIELDS: [&str; 9] = ["req-num", "test-id", "test-name", "foo", "bar", "baz", "other", "abc", "authorization"];
const BOOKS: usize = 3;
/// The name that the client asks for; any name that leads to this machine.
const HOST: &str = "localhost";

/// What became of one test.
#[derive(Deserialize)]
struct Outcome {
    suite: String,
    id: String,
    kind: String,
    symbol: String,
    detail: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    // cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let Some(checkout) = arguments.first() else {
        println!("nothing was run: name a checkout of http-tests/cache-tests");
        return ExitCode::SUCCESS;
    };
    let which = arguments.get(1).map(String::as_str);
    for way in ["one", "first", "last", "plain"] {
        if which.is_none_or(|which| which == way)
            && let Err(error) = run(Path::new(checkout), way, arguments.get(2)).await
        {
            println!("{error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

async fn run(checkout: &Path, way: &str, only: Option<&String>) -> Result<(), Box<dyn Error>> {
    let (_server, origin) = start_origin(checkout).await?;
    let network = MemoryNetwork::new();
    let mut site = Site::new(HOST, &format!("http://{origin}"))?;
    site = match way {
        "plain" => site.passing(&FIELDS[..BOOKS])?,
        _ => site.passing(&FIELDS)?.setting_cookies(),
    };
    let one = start_node(&network, &site).await?;
    let (other, which) = match way {
        "first" | "last" => (start_node(&network, &site).await?, way),
        _ => (one, "first"),
    };
    let [one, other] = [one, other].map(|node| format!("http://{HOST}:{}", node.port()));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/cache_tests/run.mjs");
    let mut client = Command::new("node");
    client.arg("--no-warnings").arg(script).arg(checkout).arg(format!("http://{origin}"));
    client.args([&one, &other]).arg(which).args(only);
    let output = client.kill_on_drop(true).stderr(Stdio::inherit()).output().await?;
    let text = String::from_utf8_lossy(&output.stdout);
    if only.is_some() {
        println!("{text}");
    }
    let outcomes: Vec<Outcome> = text
        .lines()
        .filter_map(|line| line.strip_prefix("RESULT "))
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    if outcomes.is_empty() {
        return Err(format!("the suite gave no results: {text}").into());
    }
    report(way, &outcomes);
    Ok(())
}

/// The suite's own origin, on a free port; it ends when it is dropped.
async fn start_origin(checkout: &Path) -> Result<(Child, SocketAddr), Box<dyn Error>> {
    // Free a moment ago: the suite takes no port 0.
    let origin = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let pid_file = std::env::temp_dir().join(format!("cache-tests-{}.pid", origin.port()));
    let mut server = Command::new("node")
        .arg("test-engine/server/server.mjs")
        .current_dir(checkout)
        .env("npm_config_protocol", "http")
        .env("npm_config_port", origin.port().to_string())
        .env("npm_config_pidfile", pid_file)
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    for _ in 0..200 {
        if TcpStream::connect(origin).await.is_ok() {
            return Ok((server, origin));
        }
        if let Some(status) = server.try_wait()? {
            return Err(format!("the suite's origin ended at once: {status}").into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err("the suite's origin does not listen".into())
}

async fn start_node(network: &MemoryNetwork, site: &Site) -> Result<SocketAddr, Box<dyn Error>> {
    let mut config = Config { sites: vec![site.clone()], ..Config::default() };
    // RFC 9111 §4.2.2 lets a cache guess how long a response that says nothing stays fresh, and the suite knows that: but
    // it stops there, as most of its tests tell an answer of the cache by that.
    config.freshness.default = Duration::ZERO;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let dsht = network.node(Peer::new(addr, Services::NONE));
    let metrics = Metrics::register(&mut Registry::default());
    let proxy = Proxy::new(Arc::new(config), vec!["nyud.net".parse()?], addr, dsht, metrics)?;
    tokio::spawn(async move { proxy.run(listener, std::future::pending()).await });
    Ok(addr)
}

fn report(way: &str, outcomes: &[Outcome]) {
    let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    println!("== {way}");
    for outcome in outcomes {
        let passed = matches!(outcome.symbol.as_str(), "✅" | "Y");
        let (good, all) = counts.entry(&outcome.kind).or_default();
        *good += usize::from(passed);
        *all += 1;
        if !passed {
            println!("{} {} {}/{}: {}", outcome.symbol, outcome.kind, outcome.suite, outcome.id, outcome.detail);
        }
    }
    for (kind, (good, all)) in counts {
        println!("{kind}: {good} of {all}");
    }
}
