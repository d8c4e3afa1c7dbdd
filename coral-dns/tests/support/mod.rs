//! A nameserver on loopback over an index of the test's making, raw queries to it, and its answers as lines of text.

#![allow(dead_code, reason = "each test file uses a part")]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use coral_dns::{Config, DnsError, Metrics, NAMESERVER, PROXY, Server, Sockets};
use coral_dsht::memory::MemoryNetwork;
use coral_dsht::{DshtHandle, Peer, Services};
use hickory_server::proto::op::Message;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than anything here takes; only a failure waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const A: u16 = 1;
pub(crate) const NS: u16 = 2;
pub(crate) const SOA: u16 = 6;
pub(crate) const MX: u16 = 15;
pub(crate) const TXT: u16 = 16;
pub(crate) const AAAA: u16 = 28;
pub(crate) const HTTPS: u16 = 65;
pub(crate) const AXFR: u16 = 252;
pub(crate) const ANY: u16 = 255;

/// A running nameserver. `addr` is for UDP and TCP alike.
pub(crate) struct Dns {
    pub(crate) addr: SocketAddr,
    pub(crate) registry: Registry,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), DnsError>>,
}

/// A node that runs both services at `ip`.
pub(crate) fn peer(ip: &str) -> Peer {
    peer_with(ip, PROXY | NAMESERVER)
}

pub(crate) fn peer_with(ip: &str, services: Services) -> Peer {
    Peer::new(SocketAddr::new(ip.parse().unwrap(), 4000), services)
}

/// Quick to notice changes, and without probes.
pub(crate) fn config() -> Config {
    Config { refresh: Duration::from_millis(20), probe: None, ..Config::default() }
}

impl Dns {
    /// The only node of its network, at 192.0.2.1, for `nyud.net`.
    pub(crate) async fn alone() -> Self {
        let me = peer("192.0.2.1");
        Self::start(config(), me, MemoryNetwork::new().node(me)).await
    }

    pub(crate) async fn start(config: Config, me: Peer, dsht: DshtHandle) -> Self {
        Self::start_with(config, me, dsht, |_| {}).await
    }

    /// The same, with more told to the server before it runs.
    pub(crate) async fn start_with(config: Config, me: Peer, dsht: DshtHandle, tell: impl FnOnce(&mut Server)) -> Self {
        Self::start_as(&["nyud.net"], config, me, dsht, tell).await
    }

    /// One for these zones.
    pub(crate) async fn start_for(suffixes: &[&str], config: Config, me: Peer, dsht: DshtHandle) -> Self {
        Self::start_as(suffixes, config, me, dsht, |_| {}).await
    }

    async fn start_as(
        suffixes: &[&str],
        config: Config,
        me: Peer,
        dsht: DshtHandle,
        tell: impl FnOnce(&mut Server),
    ) -> Self {
        // Two sockets on one port: the second may be taken by somebody else, so try again with another.
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let addr = udp.local_addr().unwrap();
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let suffixes = suffixes.iter().map(|suffix| suffix.parse().unwrap()).collect();
        let mut server = Server::new(Arc::new(config), suffixes, me, dsht, metrics);
        tell(&mut server);
        let (stop, stopped) = oneshot::channel();
        let sockets = Sockets { udp: vec![udp.into_std().unwrap()], tcp: Some(tcp) };
        let task = tokio::spawn(server.run(sockets, async { drop(stopped.await) }));
        Self { addr, registry, stop, task }
    }

    /// Stops it and waits for its end.
    pub(crate) async fn stop(self) {
        self.stop.send(()).expect("the server runs until it is stopped");
        let ended = timeout(PATIENCE, self.task).await.expect("the server stops in time");
        ended.expect("no task panics").expect("no socket fails");
    }

    /// Drops it in the middle, and says where it was.
    pub(crate) async fn abort(self) -> SocketAddr {
        self.task.abort();
        let ended = timeout(PATIENCE, self.task).await.expect("it is dropped in time");
        assert!(ended.is_err_and(|error| error.is_cancelled()));
        self.addr
    }

    /// Waits for its end, which an error brings.
    pub(crate) async fn failed(self) -> DnsError {
        let ended = timeout(PATIENCE, self.task).await.expect("the server fails in time");
        ended.expect("no task panics").expect_err("the server cannot run")
    }

    /// The answer over UDP to exactly these bytes.
    pub(crate) async fn udp(&self, query: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(query, self.addr).await.unwrap();
        let mut buffer = vec![0; 65_535];
        let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("an answer").unwrap();
        buffer.truncate(length);
        buffer
    }

    /// The answer over TCP to exactly these bytes.
    pub(crate) async fn tcp(&self, query: &[u8]) -> Vec<u8> {
        let mut stream = self.connect().await;
        stream.write_all(&framed(query)).await.unwrap();
        read_framed(&mut stream).await.expect("an answer")
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    /// The answer over UDP, as text.
    pub(crate) async fn ask(&self, name: &str, kind: u16) -> String {
        show(&self.udp(&query(name, kind)).await)
    }

    /// Asks again and again until the answer is as wanted.
    pub(crate) async fn ask_until(&self, name: &str, kind: u16, wanted: impl Fn(&str) -> bool) -> String {
        let asking = async {
            loop {
                let answer = self.ask(name, kind).await;
                if wanted(&answer) {
                    return answer;
                }
            }
        };
        timeout(PATIENCE, asking).await.expect("the answer becomes as wanted")
    }

    /// The metrics as text.
    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }
}

/// With the two bytes of length that TCP wants.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let mut bytes = (message.len() as u16).to_be_bytes().to_vec();
    bytes.extend_from_slice(message);
    bytes
}

/// The next message; `None` at the end of the stream.
pub(crate) async fn read_framed(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let reading = async {
        let length = stream.read_u16().await.ok()?;
        let mut message = vec![0; usize::from(length)];
        stream.read_exact(&mut message).await.ok()?;
        Some(message)
    };
    timeout(PATIENCE, reading).await.expect("an answer or the end")
}

/// A query without EDNS: id 7, recursion desired.
pub(crate) fn plain_query(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    bytes
}

/// A query as resolvers send it today: EDNS, 1232 bytes.
pub(crate) fn query(name: &str, kind: u16) -> Vec<u8> {
    with_edns(plain_query(name, kind), 0, 1232, &[])
}

/// `query` with an OPT record (RFC 6891 §6.1.2) that has these options' bytes.
pub(crate) fn with_edns(mut query: Vec<u8>, version: u8, payload: u16, options: &[u8]) -> Vec<u8> {
    query[11] += 1;
    query.extend_from_slice(&[0, 0, 41]);
    query.extend_from_slice(&payload.to_be_bytes());
    query.extend_from_slice(&[0, version, 0, 0]);
    query.extend_from_slice(&(options.len() as u16).to_be_bytes());
    query.extend_from_slice(options);
    query
}

/// An answer as its response code, its flags, and its records as lines of a zone file: the answer section, then indented
/// the authority and the additional one, each in the order of the alphabet.
pub(crate) fn show(answer: &[u8]) -> String {
    let message = Message::from_vec(answer).expect("an answer can be decoded");
    // 16 has two names; the decoder knows it by the one that TSIG gave it.
    let mut out = match u16::from(message.metadata.response_code) {
        16 => "BADVERS".to_owned(),
        _ => format!("{:?}", message.metadata.response_code).to_uppercase(),
    };
    for (is_set, flag) in [
        (message.metadata.authoritative, "aa"),
        (message.metadata.truncation, "tc"),
        (message.metadata.recursion_available, "ra"),
        (message.edns.is_some(), "edns"),
    ] {
        if is_set {
            out.push(' ');
            out.push_str(flag);
        }
    }
    out.push('\n');
    for (indent, section) in [(0, &message.answers), (2, &message.authorities), (4, &message.additionals)] {
        let mut lines: Vec<String> = section
            .iter()
            .map(|record| {
                format!("{:indent$}{} {} {} {}\n", "", record.name, record.ttl, record.record_type(), record.data)
            })
            .collect();
        lines.sort();
        out.extend(lines);
    }
    out
}

/// An index with three levels, each with its own members, that answers for ever as it was set up.
pub(crate) fn three_levels(me: Peer, members: [&[&str]; 3]) -> DshtHandle {
    let diameters = [None, Some(60), Some(20)].map(|ms| ms.map(Duration::from_millis));
    let members = members.map(|members| members.iter().map(|ip| peer(ip)).collect());
    coral_dsht::memory::fixed(me, diameters.into_iter().zip(members).collect())
}

/// The addresses in an answer shown as text.
pub(crate) fn addresses(answer: &str) -> Vec<IpAddr> {
    let records = answer.lines().skip(1).filter(|line| !line.starts_with(' '));
    records.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect()
}
