//! A small world to test in: nodes, an origin that counts, and the client side of the Internet, a resolver and an HTTP
//! client that know nothing of each other. All of it on loopback addresses and on ports that the system chooses.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod running;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use coral::config::{Config, Contact};
use coral::demo::origin::Origin;
use coral::demo::site::Object;
use coral::node::{Node, together};
use coral_proxy::Site;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tempfile::TempDir;
use tokio::time::timeout;

/// The host name of the origin's site.
pub(crate) const HOST: &str = "www.example.com";

/// The same, coralized.
pub(crate) const CORALIZED: &str = "www.example.com.nyud.net";

/// Nothing here takes seconds unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Nodes that have found each other.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    /// Each has a directory of its own in it, and keeps what it stores.
    _caches: TempDir,
}

impl Cluster {
    /// Starts `count` nodes whose configuration maps [`HOST`] to `origin`, and waits until they have found together.
    pub(crate) async fn start(count: u8, origin: &Origin) -> Self {
        Self::with(count, |config| map(config, HOST, origin.addr())).await
    }

    /// The same, with what `change` makes of the configuration of each node.
    pub(crate) async fn with(count: u8, change: impl Fn(&mut Config)) -> Self {
        let caches = tempfile::tempdir().expect("a directory");
        let mut nodes: Vec<Node> = Vec::new();
        for number in 1..=count {
            let mut config = config(number);
            config.proxy.part.disk.path = Some(caches.path().join(number.to_string()));
            if let Some(first) = nodes.first() {
                config.dsht.node.seeds = vec![Contact::from(first.me().addr)];
            }
            change(&mut config);
            nodes.push(Node::start(config).await.expect("a node on loopback"));
        }
        let joined = timeout(PATIENCE, together(&nodes)).await;
        joined.expect("the nodes find together").expect("the index runs");
        Self { nodes, _caches: caches }
    }

    /// Where the node with this number, from 0, serves HTTP.
    pub(crate) fn proxy(&self, number: usize) -> SocketAddr {
        self.nodes[number].addresses().proxy.expect("a cache")
    }

    /// Where it serves its operator.
    pub(crate) fn admin(&self, number: usize) -> SocketAddr {
        self.nodes[number].addresses().admin.expect("an admin address")
    }

    /// Stops all nodes; each is to end cleanly.
    pub(crate) async fn stop(self) {
        for node in self.nodes {
            let me = node.me().addr;
            let ending = node.stop().await;
            assert!(ending.is_clean(), "{me} ended: {ending}");
        }
    }
}

/// The configuration of the node at 127.0.0.`number`, everything at port 0.
pub(crate) fn config(number: u8) -> Config {
    let here = SocketAddr::from((Ipv4Addr::new(127, 0, 0, number), 0));
    let mut config = Config::default();
    config.dsht.node.listen = here;
    // However late a busy machine answers, its nodes are to be one cluster.
    config.dsht.part.diameters = vec![PATIENCE, PATIENCE / 2];
    config.dns.node.listen = Some(here);
    config.proxy.node.listen = Some(here);
    config.proxy.node.tls_listen = Some(here);
    // Tests count what an origin is asked.
    config.proxy.part.peer.verify = 0;
    config.admin.listen = Some(here);
    config
}

/// Makes `addr` the origin of `host`.
pub(crate) fn map(config: &mut Config, host: &str, addr: SocketAddr) {
    let site = Site::new(host, &format!("http://{addr}")).expect("a site");
    config.proxy.part.sites.push(site);
}

/// An origin with these objects.
pub(crate) async fn origin(objects: Vec<Object>) -> Origin {
    Origin::start(objects).await.expect("a web server on loopback")
}

/// A short page at `path`.
pub(crate) fn page(path: &'static str) -> Object {
    Object::new(path, "text/html", format!("<p>This is {path}.</p>"))
}

/// The addresses of `name`, by a stub resolver that asks one node.
pub(crate) async fn resolve(node: &Node, name: &str) -> Result<Vec<IpAddr>, hickory_resolver::net::NetError> {
    let addr = node.addresses().dns.expect("a nameserver");
    let mut server = NameServerConfig::udp_and_tcp(addr.ip());
    for connection in &mut server.connections {
        connection.port = addr.port();
    }
    let config = ResolverConfig::from_name_servers(vec![server]);
    let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let resolver = builder.build().expect("a resolver");
    let found = resolver.lookup_ip(format!("{name}.")).await?;
    Ok(found.iter().collect())
}

/// What an HTTP client got.
pub(crate) struct Page {
    pub(crate) status: u16,
    /// `Cache-Status`.
    pub(crate) cache: String,
    /// `Proxy-Status`.
    pub(crate) proxy: String,
    pub(crate) body: Vec<u8>,
}

/// Fetches `http://{host}{path}` from the node at `addr`, as a browser whose resolver gave it that address.
pub(crate) async fn fetch(addr: SocketAddr, host: &str, path: &str) -> Page {
    let url = format!("http://{host}:{}{path}", addr.port());
    let response = client(host, addr).get(url).send().await.expect("an answer");
    let header = |name: &str| {
        let value = response.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    Page {
        status: response.status().as_u16(),
        cache: header("cache-status"),
        proxy: header("proxy-status"),
        body: response.bytes().await.expect("a whole body").to_vec(),
    }
}

fn client(host: &str, addr: SocketAddr) -> reqwest::Client {
    builder(host, addr).build().expect("an HTTP client")
}

/// What makes an HTTP client to which `host` is at `addr`.
pub(crate) fn builder(host: &str, addr: SocketAddr) -> reqwest::ClientBuilder {
    // reqwest asks for a TLS provider even where none is used; a second installation changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().timeout(PATIENCE).resolve(host, addr)
}

/// Asks until `condition` holds; what it last saw is the message if it does not in time.
pub(crate) async fn eventually<T: std::fmt::Debug>(
    mut ask: impl AsyncFnMut() -> T,
    condition: impl Fn(&T) -> bool,
) -> T {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let seen = ask().await;
        if condition(&seen) {
            return seen;
        }
        assert!(tokio::time::Instant::now() < until, "not within {PATIENCE:?}; last seen: {seen:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
