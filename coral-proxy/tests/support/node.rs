//! Nodes on one index, each a real proxy on a loopback socket.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use coral_dsht::memory::MemoryNetwork;
use coral_dsht::{DshtHandle, Peer, Services};
use coral_proxy::{Config, Metrics, Proxy, ProxyError, Site, Sockets};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::client::{Reply, get};
use super::origin::Origin;

/// The host name under which the tests ask for their origin.
pub const HOST: &str = "www.example.org";

/// A node.
pub struct Node {
    pub addr: SocketAddr,
    /// Where it speaks TLS, if it has certificates.
    pub tls: Option<SocketAddr>,
    pub proxy: Proxy,
    pub dsht: DshtHandle,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Result<(), ProxyError>>,
}

impl Node {
    /// A node of `network` with `HOST` as a site whose origin is `origin`.
    pub async fn start(network: &MemoryNetwork, origin: &Origin) -> Self {
        Self::start_with(network, origin, |_| {}).await
    }

    pub async fn start_with(network: &MemoryNetwork, origin: &Origin, change: impl FnOnce(&mut Config)) -> Self {
        Self::start_on(|addr| network.node(Peer::new(addr, Services::NONE)), origin, change).await
    }

    /// A node of `network` at this loopback address: 127.0.1.1 and 127.0.2.1 are of different networks.
    pub async fn start_at(ip: &str, network: &MemoryNetwork, origin: &Origin) -> Self {
        Self::start_on_ip(ip, |addr| network.node(Peer::new(addr, Services::NONE)), origin, |_| {}).await
    }

    /// A node whose index is what `index` makes of its address.
    pub async fn start_on(
        index: impl FnOnce(SocketAddr) -> DshtHandle,
        origin: &Origin,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        Self::start_on_ip("127.0.0.1", index, origin, change).await
    }

    async fn start_on_ip(
        ip: &str,
        index: impl FnOnce(SocketAddr) -> DshtHandle,
        origin: &Origin,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        Self::start_behind(addr, listener, index, origin, change).await
    }

    /// A node that listens at `listener`, and that others know as `addr`.
    pub async fn start_behind(
        addr: SocketAddr,
        listener: TcpListener,
        index: impl FnOnce(SocketAddr) -> DshtHandle,
        origin: &Origin,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let mut config = Config::default();
        config.sites.push(Site::new(HOST, &format!("http://{}", origin.addr)).unwrap());
        // Tests count what an origin is asked.
        config.peer.verify = 0;
        change(&mut config);
        let dsht = index(addr);
        let metrics = Metrics::register(&mut Registry::default());
        let suffixes = vec!["nyud.net".parse().unwrap()];
        let https = match &config.certificates[..] {
            [] => None,
            _ => Some(TcpListener::bind("127.0.0.1:0").await.unwrap()),
        };
        let tls = https.as_ref().map(|listener| listener.local_addr().unwrap());
        let sockets = Sockets { http: listener, https };
        let proxy = Proxy::new(Arc::new(config), suffixes, addr, dsht.clone(), metrics).unwrap();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn({
            let proxy = proxy.clone();
            async move {
                proxy
                    .run(sockets, async {
                        let _ = stopped.await;
                    })
                    .await
            }
        });
        Self { addr, tls, proxy, dsht, stop: Some(stop), running }
    }

    /// How often it has told other nodes to ask again.
    pub fn told_to_wait(&self) -> u64 {
        self.proxy.status().peer_requests.get("waiting").copied().unwrap_or_default()
    }

    /// Tells it to stop, and waits until it has.
    pub async fn stop(mut self) {
        let _ = self.stop.take().unwrap().send(());
        self.running.await.unwrap().unwrap();
    }

    /// Ends it without a word: connections break, and nobody listens any more. Its references stay.
    pub async fn crash(self) {
        self.running.abort();
        let _ = self.running.await;
    }
}

/// So many nodes of `network`.
pub async fn nodes(count: usize, network: &MemoryNetwork, origin: &Origin) -> Vec<Node> {
    let mut nodes = Vec::new();
    for _ in 0..count {
        nodes.push(Node::start(network, origin).await);
    }
    nodes
}

/// Has a node keep what is stored in this directory.
pub fn on_disk(path: &Path) -> impl FnOnce(&mut Config) {
    let path = path.to_owned();
    move |config| config.disk.path = Some(path)
}

/// Asks all `nodes` for `path`, each in a task.
pub fn ask_all(nodes: &[Node], path: &'static str) -> Vec<JoinHandle<Reply>> {
    nodes.iter().map(|node| tokio::spawn(get(node.addr, HOST, path))).collect()
}
