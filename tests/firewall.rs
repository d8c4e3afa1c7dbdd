//! `coral check` through real routers: network namespaces with nftables between a host and a node, which this test makes and takes down.
//! It needs root, so it is left out of `cargo test`; `.ci/run` runs it:
//!
//! ```sh
//! cargo test --test firewall -- --ignored
//! ```

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value as Json;

/// Nothing here takes seconds unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// The node, at an address as of the Internet (RFC 2544 has set it aside for laboratories).
const NODE: &str = "198.18.1.1";
/// The host that is about to join.
const HOST: &str = "198.18.2.1";
/// Where it is behind address translation, and what it then looks like.
const PRIVATE: &str = "10.9.0.1";
const ROUTER: &str = "198.18.1.254";

/// Three namespaces in a row, of which the middle one is the router. Dropped, they and the node in them are gone.
struct Network {
    prefix: String,
    node: Option<Child>,
}

impl Network {
    /// One whose host is at `host`, in a /24 of its own; `rules` are the router's, in nft's language.
    fn build(host: &str, rules: &str) -> anyhow::Result<Self> {
        static BUILT: AtomicU32 = AtomicU32::new(0);
        let number = BUILT.fetch_add(1, Ordering::Relaxed);
        let network = Self { prefix: format!("coral-fw-{}-{number}", std::process::id()), node: None };
        for name in ["node", "router", "host"] {
            run(Command::new("ip").args(["netns", "add", &network.name(name)]))?;
            network.inside(name, &["ip", "link", "set", "lo", "up"])?;
        }
        let gateway = format!("{}254", &host[..=host.rfind('.').context("an IPv4 address")?]);
        for (end, own, router) in [("node", NODE, ROUTER), ("host", host, gateway.as_str())] {
            let peer = network.name(end);
            let link = ["ip", "link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", peer.as_str()];
            network.inside("router", &link)?;
            network.inside("router", &["ip", "addr", "add", &format!("{router}/24"), "dev", end])?;
            network.inside("router", &["ip", "link", "set", end, "up"])?;
            network.inside(end, &["ip", "addr", "add", &format!("{own}/24"), "dev", "eth0"])?;
            network.inside(end, &["ip", "link", "set", "eth0", "up"])?;
            network.inside(end, &["ip", "route", "add", "default", "via", router])?;
        }
        network.inside("router", &["sysctl", "-qw", "net.ipv4.ip_forward=1"])?;
        network.inside("router", &["nft", rules])?;
        Ok(network)
    }

    fn name(&self, of: &str) -> String {
        format!("{}-{of}", self.prefix)
    }

    fn command(&self, within: &str, command: &[&str]) -> Command {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.name(within)]).args(command);
        // Whatever the tester's own environment sets is none of the test's business.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CORAL_")) {
            inside.env_remove(name);
        }
        inside
    }

    fn inside(&self, within: &str, command: &[&str]) -> anyhow::Result<()> {
        run(&mut self.command(within, command))
    }

    /// Starts the node, and waits until it serves.
    fn start(&mut self) -> anyhow::Result<()> {
        let coral = env!("CARGO_BIN_EXE_coral");
        let log = Stdio::null();
        self.node = Some(self.command("node", &[coral, "node", "--set", "dsht.trace=false"]).stderr(log).spawn()?);
        let begun = Instant::now();
        while self.inside("node", &[coral, "health"]).is_err() {
            ensure!(begun.elapsed() < PATIENCE, "the node is not up within {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// What `coral check` finds on the host: exit status, time, and what it says of the outside.
    fn check(&self, more: &[&str]) -> anyhow::Result<(Option<i32>, Duration, Vec<String>)> {
        let seed = format!("--seed={NODE}:4160");
        // No resolver is in reach.
        let resolver = format!("--resolver={NODE}:53");
        let fixed = [env!("CARGO_BIN_EXE_coral"), "check", "--json", &seed, &resolver, "--admin-listen=off"];
        let begun = Instant::now();
        let output = self.command("host", &[&fixed[..], more].concat()).output()?;
        let took = begun.elapsed();
        let findings: Vec<Json> = serde_json::from_slice(&output.stdout).context("findings")?;
        let text = |finding: &Json, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        let lines =
            findings.iter().map(|f| format!("{}: {}: {}", text(f, "what"), text(f, "verdict"), text(f, "found")));
        Ok((output.status.code(), took, lines.filter(|line| line.contains("outside")).collect()))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(node) = &mut self.node {
            let _ = node.kill();
            let _ = node.wait();
        }
        for name in ["node", "router", "host"] {
            let _ = Command::new("ip").args(["netns", "del", &self.name(name)]).output();
        }
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{command:?} cannot be run"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn what_a_firewall_lets_through_is_told_from_what_it_does_not() {
    let rules = "table inet wall { chain forward { type filter hook forward priority 0; policy accept;
        ip daddr 198.18.2.1 ct state established accept
        ip daddr 198.18.2.1 tcp dport 80 drop
        ip daddr 198.18.2.1 udp dport 4160 reject with icmpx admin-prohibited
        ip daddr 198.18.2.1 tcp dport 53 reject with tcp reset
    }
    }";
    let mut network = Network::build(HOST, rules).unwrap();
    network.start().unwrap();
    let (status, took, found) = network.check(&[]).unwrap();
    let expected = [
        format!("from outside: good: {NODE}:80 sees this host as {HOST}"),
        format!("index, outside: bad: udp 4160 is not reached from {NODE}: a firewall or router says so"),
        format!("nameserver, outside: good: udp 53 is reached from {NODE}"),
        format!("nameserver, outside: bad: tcp 53 is not reached from {NODE}: it is refused on the way"),
        format!("cache, outside: bad: tcp 80 is not reached from {NODE}: nothing comes back"),
    ];
    assert_eq!(found, expected, "after {took:?}");
    assert_eq!(status, Some(1));
    assert!(took < PATIENCE, "{took:?}");
    // Nothing in between.
    network.inside("router", &["nft", "flush ruleset"]).unwrap();
    let (_, took, found) = network.check(&[]).unwrap();
    assert!(found.len() == 5 && found.iter().all(|line| line.contains(": good: ")), "{found:#?}");
    // The answers get lost.
    let one_way = "table inet wall { chain forward { type filter hook forward priority 0; policy accept;
        ip saddr 198.18.2.1 udp sport 53 drop
    }
    }";
    network.inside("router", &["nft", one_way]).unwrap();
    let (_, _, found) = network.check(&[]).unwrap();
    let lost = format!("nameserver, outside: bad: udp 53 is reached from {NODE}, which gets no answer");
    assert!(found.contains(&lost), "{found:#?}");
    println!("without a wall: {took:?}");
}

#[test]
#[ignore = "needs root"]
fn behind_address_translation_the_public_address_and_the_ports_to_forward_are_named() {
    let rules = "table ip nat {
        chain out { type nat hook postrouting priority 100; ip saddr 10.9.0.0/24 masquerade; }
        chain in { type nat hook prerouting priority -100; iifname \"node\" tcp dport 80 dnat to 10.9.0.1; }
    }";
    let mut network = Network::build(PRIVATE, rules).unwrap();
    network.start().unwrap();
    let (status, _, found) = network.check(&[]).unwrap();
    let reached = format!("cache, outside: good: tcp 80 is reached from {NODE}");
    let seen =
        format!("from outside: bad: {NODE}:80 sees this host as {ROUTER}, and a node here would tell others {PRIVATE}");
    assert!(found.contains(&seen) && found.contains(&reached), "{found:#?}");
    let refused = format!("index, outside: bad: udp 4160 is not reached from {NODE}: it is refused on the way");
    assert!(found.contains(&refused), "{found:#?}");
    assert_eq!(status, Some(1));
    // Told its address, and with one more port forwarded.
    network.inside("router", &["nft", "add rule ip nat in iifname \"node\" udp dport 4160 dnat to 10.9.0.1"]).unwrap();
    let (_, _, found) = network.check(&["--set", &format!("dsht.address={ROUTER}")]).unwrap();
    let seen = format!("from outside: good: {NODE}:80 sees this host as {ROUTER}");
    let reached = format!("index, outside: good: udp 4160 is reached from {NODE}");
    assert!(found.contains(&seen) && found.contains(&reached), "{found:#?}");
}
