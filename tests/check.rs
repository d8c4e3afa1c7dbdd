//! `coral check` as an operator runs it: what it finds on a good host and on bad ones, and its exit status.

mod support;

use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use serde_json::Value as Json;
use support::{Cluster, PATIENCE};
use tokio::task::spawn_blocking;

/// Runs it with these arguments; its exit status, and what it found, as `what: verdict: found`.
async fn check(arguments: Vec<String>) -> (Option<i32>, Vec<String>) {
    let run = spawn_blocking(move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coral"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CORAL_")) {
            command.env_remove(name);
        }
        command.arg("check").arg("--json").args(arguments).output().expect("the binary runs")
    });
    let output = tokio::time::timeout(3 * PATIENCE, run).await.expect("it ends").unwrap();
    let findings: Vec<Json> = serde_json::from_slice(&output.stdout).expect("JSON");
    let text = |finding: &Json, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let lines = findings.iter().map(|f| format!("{}: {}: {}", text(f, "what"), text(f, "verdict"), text(f, "found")));
    (output.status.code(), lines.collect())
}

/// Everything at a loopback address of its own, the nameserver at `dns`.
fn arguments(dns: SocketAddr, more: &[String]) -> Vec<String> {
    let fixed = ["--dsht-listen=127.0.0.9:0", "--proxy-listen=127.0.0.9:0", "--admin-listen=off"].map(str::to_owned);
    fixed.into_iter().chain([format!("--dns-listen={dns}")]).chain(more.iter().cloned()).collect()
}

#[tokio::test]
async fn a_host_that_is_ready_finds_its_seed_and_its_delegation() {
    let cluster = Cluster::with(1, |_| {}).await;
    let resolver = cluster.nodes[0].addresses().dns.unwrap();
    let seed = cluster.nodes[0].me().addr;
    let same_port = SocketAddr::from(([127, 0, 0, 9], resolver.port()));
    let more = [format!("--seed={seed}"), format!("--resolver={resolver}")];
    let (status, found) = check(arguments(same_port, &more)).await;
    assert_eq!(status, Some(0), "{found:#?}");
    for line in
        ["address: good: 127.0.0.9", "seeds: good: 1 nodes answer", "delegation: doubtful: nyud.net: 127.0.0.1 alone"]
    {
        assert!(found.iter().any(|found| found == line), "no {line} in {found:#?}");
    }
    assert!(found.contains(&format!("nameserver: good: udp {same_port} is free")), "{found:#?}");
    // A zone that nobody has, and nameservers at another port, where nobody answers.
    let other = arguments(same_port, &[more[1].clone(), "--suffix=cdn.example.org".to_owned()]);
    let (status, found) = check(other).await;
    assert_eq!(status, Some(1), "{found:#?}");
    assert!(found.iter().any(|line| line.starts_with("delegation: bad: cdn.example.org")), "{found:#?}");
    cluster.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_host_is_named_and_the_exit_status_is_one() {
    let taken = TcpListener::bind("127.0.0.9:0").unwrap();
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let [deny, chain] = ["deny", "chain.pem"].map(|name| directory.path().join(name));
    std::fs::write(&deny, "two words").unwrap();
    std::fs::write(&chain, "no certificate").unwrap();
    let file = directory.path().join("coral.toml");
    let text = format!(
        "[dsht]\nlisten = \"127.0.0.9:0\"\nseeds = [\"{}\"]\nstate = \"/nowhere/peers\"\n[dns]\nlisten = \"off\"\n[admin]\nlisten = \"off\"\n\
         [proxy]\nlisten = \"{}\"\ntls_listen = \"127.0.0.9:0\"\ndeny = {deny:?}\nmemory = \"1 PiB\"\n\
         certificates = [{{ chain = {chain:?}, key = {chain:?} }}]\n[log.access]\npath = \"/nowhere/access.log\"\n",
        silent.local_addr().unwrap(),
        taken.local_addr().unwrap()
    );
    std::fs::write(&file, text).unwrap();
    let (status, found) = check(vec![format!("--config={}", file.display())]).await;
    assert_eq!(status, Some(1));
    for line in [
        "cache: bad: tcp",
        "seeds: bad: none of 1",
        "peers: bad: /nowhere/peers",
        "access log: bad: /nowhere/access.log",
        "certificate: bad: cannot use",
        "deny list: bad: ",
        "memory: doubtful: ",
    ] {
        assert!(found.iter().any(|found| found.starts_with(line)), "no {line} in {found:#?}");
    }
}
