//! `coral check` as an operator runs it: what it finds on a good host and on bad ones, and its exit status.

mod support;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;

use coral_proxy::CertificateFiles;
use serde_json::Value as Json;
use support::{Cluster, PATIENCE};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
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
    // Its cache is at another port than browsers know: that is not this host's fault.
    let outside = "from outside: doubtful: not known: 127.0.0.1:80 ";
    assert!(found.iter().any(|found| found.starts_with(outside)), "no {outside} in {found:#?}");
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

/// Certificate and key for any site below the suffix, in `directory`, as an option.
fn certificate(directory: &Path) -> String {
    let made = rcgen::generate_simple_self_signed(["*.s.nyud.net".to_owned()]).unwrap();
    let [chain, key] = ["chain.pem", "key.pem"].map(|name| directory.join(name));
    std::fs::write(&chain, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    format!("--set=proxy.certificates=[{{ chain = {chain:?}, key = {key:?} }}]")
}

/// Those that are about this.
fn about(found: &[String], what: &str) -> Vec<String> {
    found.iter().filter(|line| line.starts_with(what)).cloned().collect()
}

#[tokio::test]
async fn a_node_elsewhere_tries_the_ports_before_the_node_runs() {
    let cluster = Cluster::with(1, |_| {}).await;
    let directory = tempfile::tempdir().unwrap();
    let more = [
        format!("--from={}", cluster.proxy(0)),
        certificate(directory.path()),
        "--set=proxy.tls_listen=127.0.0.9:0".to_owned(),
    ];
    let (_, found) = check(arguments("127.0.0.9:0".parse().unwrap(), &more)).await;
    let seen = format!("from outside: good: {} sees this host as 127.0.0.9", cluster.proxy(0));
    assert!(found.contains(&seen), "{found:#?}");
    for (what, protocol) in [
        ("index, outside", "udp"),
        ("nameserver, outside", "udp"),
        ("nameserver, outside", "tcp"),
        ("cache, outside", "tcp"),
        ("cache, TLS, outside", "tcp"),
    ] {
        let lines = about(&found, &format!("{what}: good: {protocol} "));
        assert_eq!(lines.len(), 1, "{what}, {protocol}: {found:#?}");
        assert!(lines[0].ends_with("is reached from 127.0.0.1"), "{lines:?}");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_node_that_runs_answers_for_itself_and_what_is_no_node_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let pair = certificate(directory.path());
    let cluster = Cluster::with(2, |config| {
        let [chain, key] = ["chain.pem", "key.pem"].map(|name| directory.path().join(name));
        config.proxy.part.certificates = vec![CertificateFiles { chain, key }];
    })
    .await;
    let addresses = *cluster.nodes[1].addresses();
    let listen = |cache: SocketAddr| {
        vec![
            format!("--dsht-listen={}", addresses.dsht),
            format!("--dns-listen={}", addresses.dns.unwrap()),
            format!("--proxy-listen={cache}"),
            format!("--set=proxy.tls_listen={}", addresses.proxy_tls.unwrap()),
            format!("--admin-listen={}", addresses.admin.unwrap()),
            format!("--from={}", cluster.proxy(0)),
            pair.clone(),
        ]
    };
    let (_, found) = check(listen(addresses.proxy.unwrap())).await;
    let good: Vec<String> = found.iter().filter(|line| line.contains(", outside: good: ")).cloned().collect();
    assert_eq!(good.len(), 5, "{found:#?}");
    assert!(good.iter().all(|line| line.ends_with("is reached from 127.0.0.1; a node answers there")), "{good:#?}");
    // A web server that repeats all that it is asked for stands where the cache should.
    let other = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap();
    let addr = other.local_addr().unwrap();
    let repeating = tokio::spawn(async move {
        loop {
            let (mut stream, _) = other.accept().await.unwrap();
            let mut asked = vec![0; 4096];
            let length = stream.read(&mut asked).await.unwrap();
            let answer = [b"HTTP/1.1 200 OK\r\n\r\n", &asked[..length]].concat();
            stream.write_all(&answer).await.unwrap();
        }
    });
    let (status, found) = check(listen(addr)).await;
    assert_eq!(status, Some(1));
    let line = format!("cache, outside: bad: tcp {} leads to something that is no node", addr.port());
    assert!(found.contains(&line), "no {line} in {found:#?}");
    repeating.abort();
    cluster.stop().await;
}

#[tokio::test]
async fn a_node_that_cannot_help_is_named_with_the_reason_and_is_not_this_hosts_fault() {
    let cluster = Cluster::with(2, |config| config.reach.serve = config.dsht.node.seeds.is_empty()).await;
    let [asked, silent] = [0, 1].map(|number| cluster.proxy(number));
    let said = async |from: String| {
        let (_, found) = check(arguments("127.0.0.9:0".parse().unwrap(), &[format!("--from={from}")])).await;
        let lines = about(&found, "from outside: doubtful: ");
        assert_eq!(lines.len(), 1, "{found:#?}");
        assert_eq!(about(&found, "cache, outside"), [""; 0], "nothing is known");
        lines[0].clone()
    };
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (from, why) in [
        (dead.to_string(), "does not serve HTTP: Connection refused"),
        (silent.to_string(), "tries no ports: it is too old, or was told not to"),
        (cluster.admin(0).to_string(), "knows no nyud.net"),
        ("a.invalid".to_owned(), "a.invalid:80 cannot be looked up"),
    ] {
        let line = said(from).await;
        assert!(line.contains(why), "no {why} in {line}");
    }
    // From the node's own address, and after many requests.
    let own = ["--dsht-listen=127.0.0.1:0", "--dns-listen=off", "--proxy-listen=off", "--admin-listen=off"];
    let own: Vec<String> = own.into_iter().map(str::to_owned).chain([format!("--from={asked}")]).collect();
    let (_, found) = check(own).await;
    assert!(about(&found, "from outside: doubtful: ")[0].contains("refuses: this is the very host"), "{found:#?}");
    let mut last = String::new();
    for _ in 0..=6 {
        let request = "GET /.well-known/coral-reach HTTP/1.1\r\nHost: nyud.net\r\nConnection: close\r\n\
                       Coral-Reach: 000102030405060708090a0b0c0d0e0f http=1\r\n\r\n";
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
        let mut stream = socket.connect(asked).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        last.clear();
        stream.read_to_string(&mut last).await.unwrap();
    }
    assert!(last.starts_with("HTTP/1.1 429 ") && last.contains("retry-after: "), "{last}");
    assert!(said(asked.to_string()).await.contains("is busy: you have asked often"));
    cluster.stop().await;
}
