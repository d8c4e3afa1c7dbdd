//! The nodes of the demonstration: as many as asked for, each at a loopback address of its own, all at the same ports.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use coral_proxy::Site;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Options, site, suffixes};
use crate::config::{Config, Contact};
use crate::node::{Node, together};

/// What counts as near here: on a busy machine an answer may take longer than across a region, and the network is to be
/// one cluster all the same.
const DIAMETERS: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(1)];

/// How many ports are tried.
const ATTEMPTS: usize = 64;

/// How often all nodes are started.
const STARTS: usize = 3;

/// A running network.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) nodes: Vec<Node>,
    pub(super) ports: Ports,
}

/// The ports at which all nodes listen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub(super) dsht: u16,
    pub(super) dns: u16,
    pub(super) http: u16,
    pub(super) admin: u16,
}

impl Network {
    /// Starts all nodes; those after the first join by it. `origin` is the web server of the demonstration's site, and
    /// `disk` a directory, in which each node has one of its own.
    pub(super) async fn start(options: &Options, origin: SocketAddr, disk: &Path) -> anyhow::Result<Self> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            // Between finding a port free and binding it, another program may take it.
            match Self::start_at(Ports::choose(options).await?, options.nodes, origin, disk).await {
                Err(_) if attempt < STARTS => {}
                outcome => return outcome,
            }
        }
    }

    async fn start_at(ports: Ports, count: u8, origin: SocketAddr, disk: &Path) -> anyhow::Result<Self> {
        let mut nodes = Vec::new();
        for number in 1..=count {
            let node = Node::start(config(number, ports, origin, disk)?).await;
            nodes.push(node.with_context(|| format!("node {number} at {}", address(number)))?);
        }
        Ok(Self { nodes, ports })
    }

    /// Waits until the nodes have found together.
    pub(super) async fn joined(&self, patience: Duration) -> anyhow::Result<()> {
        let joined = timeout(patience, together(&self.nodes)).await;
        Ok(joined.with_context(|| format!("the nodes have not all found each other within {patience:?}"))??)
    }

    /// The host name of the site under the first suffix.
    pub(super) fn coralized_host(&self) -> String {
        format!("{}.{}", site::HOST, suffixes()[0])
    }

    /// Where each node answers DNS.
    pub(super) fn nameservers(&self) -> Vec<SocketAddr> {
        self.nodes.iter().filter_map(|node| node.addresses().dns).collect()
    }

    /// Where each node serves HTTP.
    pub(super) fn proxies(&self) -> Vec<SocketAddr> {
        self.nodes.iter().filter_map(|node| node.addresses().proxy).collect()
    }

    /// The nodes' addresses.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        self.nodes.iter().map(|node| node.me().addr.ip()).collect()
    }

    /// Stops all nodes, and says which did not end cleanly.
    ///
    /// All at once: one after the other, the later ones would wait for answers of those that are gone.
    pub(super) async fn stop(self) -> Vec<String> {
        let mut nodes = JoinSet::new();
        for node in self.nodes {
            nodes.spawn(async move { (node.me().addr, node.stop().await) });
        }
        let mut wrong = Vec::new();
        while let Some(ended) = nodes.join_next().await {
            match ended {
                Ok((_, ending)) if ending.is_clean() => {}
                Ok((addr, ending)) => wrong.push(format!("the node at {addr} did not end cleanly: {ending}")),
                Err(e) => wrong.push(format!("stopping a node panicked: {e}")),
            }
        }
        wrong
    }
}

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, number)
}

fn config(number: u8, ports: Ports, origin: SocketAddr, disk: &Path) -> anyhow::Result<Config> {
    let at = |port| SocketAddr::from((address(number), port));
    let mut config = Config { suffixes: suffixes(), ..Config::default() };
    config.dsht.node.listen = at(ports.dsht);
    config.dsht.part.diameters = DIAMETERS.to_vec();
    if number > 1 {
        config.dsht.node.seeds = vec![Contact::from(SocketAddr::from((address(1), ports.dsht)))];
    }
    config.dns.node.listen = Some(at(ports.dns));
    config.proxy.node.listen = Some(at(ports.http));
    config.proxy.part.sites = vec![Site::new(site::HOST, &format!("http://{origin}"))?];
    config.proxy.part.disk.path = Some(disk.join(number.to_string()));
    // The whole crowd comes from one address.
    config.proxy.part.client.requests_per_address = NonZeroU32::MAX;
    // What the origin counts shall be what was fetched.
    config.proxy.part.peer.verify = 0;
    config.admin.listen = Some(at(ports.admin));
    Ok(config)
}

impl Ports {
    /// The ports asked for, else the usual ones, else free ones; each the same at all addresses.
    async fn choose(options: &Options) -> anyhow::Result<Self> {
        let nodes = options.nodes;
        Ok(Self {
            dsht: choose("index", options.dsht_port, 4160, "--dsht-port", nodes).await?,
            dns: choose("DNS", options.dns_port, 5300, "--dns-port", nodes).await?,
            http: choose("HTTP", options.http_port, 8080, "--http-port", nodes).await?,
            admin: choose("admin", options.admin_port, 4161, "--admin-port", nodes).await?,
        })
    }
}

async fn choose(what: &str, asked: Option<u16>, usual: u16, flag: &str, nodes: u8) -> anyhow::Result<u16> {
    if let Some(port) = asked {
        match taken(port, nodes).await {
            Some(addr) => bail!("{flag} {port}: {addr} is taken by another program"),
            None => return Ok(port),
        }
    }
    let Some(addr) = taken(usual, nodes).await else {
        return Ok(usual);
    };
    for _ in 0..ATTEMPTS {
        let port = TcpListener::bind((address(1), 0)).await?.local_addr()?.port();
        if taken(port, nodes).await.is_none() {
            println!("{addr} is taken by another program: {what} is at port {port} instead ({flag} chooses another).");
            return Ok(port);
        }
    }
    let mut addresses = String::new();
    let _ = write!(addresses, "{} to {}", address(1), address(nodes));
    bail!("no port is free at all of {addresses} for {what}; {flag} chooses one")
}

/// The first of the nodes' addresses at which this port cannot be had, over UDP and TCP alike.
async fn taken(port: u16, nodes: u8) -> Option<SocketAddr> {
    for number in 1..=nodes {
        let addr = SocketAddr::from((address(number), port));
        if TcpListener::bind(addr).await.is_err() || UdpSocket::bind(addr).await.is_err() {
            return Some(addr);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_refused_if_asked_for_and_avoided_if_not() {
        let other = TcpListener::bind((address(2), 0)).await.unwrap();
        let port = other.local_addr().unwrap().port();
        let refusal = choose("HTTP", Some(port), 1, "--http-port", 3).await.unwrap_err().to_string();
        assert_eq!(refusal, format!("--http-port {port}: 127.0.0.2:{port} is taken by another program"));
        assert_ne!(choose("HTTP", None, port, "--http-port", 3).await.unwrap(), port);
    }
}
