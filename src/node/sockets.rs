//! Binding a node's addresses, all of them before anything runs, and saying what to do when one cannot be had.
//!
//! Sockets of another process that this one takes over from are used where their addresses are the configured ones.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

use super::Addresses;
use crate::config::Config;

/// How often port 0 is tried until one is free over UDP and TCP alike.
const ATTEMPTS: usize = 16;

/// The most sockets that the nameserver has.
const MAX_SOCKETS: usize = 16;
/// Bytes that wait in front of each, at most.
const RECEIVE_BUFFER: usize = 1 << 20;

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Place {
    Index,
    DnsUdp,
    DnsTcp,
    Http,
    Https,
    Admin,
}

/// Sockets that two processes share for a moment.
#[derive(Debug, Default)]
pub(crate) struct Shared(Vec<(Place, OwnedFd)>);

impl Shared {
    pub(crate) fn new(sockets: Vec<(Place, OwnedFd)>) -> Self {
        Self(sockets)
    }

    /// Takes out those of `place` that are bound to `addr`; to any port, if that is 0.
    fn take(&mut self, place: Place, addr: SocketAddr) -> Vec<OwnedFd> {
        let is_it = |(of, socket): &mut (Place, OwnedFd)| {
            let local = socket2::SockRef::from(&*socket).local_addr().ok().and_then(|local| local.as_socket());
            let bound = |local: SocketAddr| local.ip() == addr.ip() && [local.port(), 0].contains(&addr.port());
            *of == place && local.is_some_and(bound)
        };
        self.0.extract_if(.., is_it).map(|(_, socket)| socket).collect()
    }

    fn listener(&mut self, place: Place, addr: SocketAddr) -> Option<io::Result<TcpListener>> {
        let socket = self.take(place, addr).pop()?;
        Some(nonblocking(std::net::TcpListener::from(socket)))
    }
}

fn nonblocking(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Everything that a node listens at.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) dsht: UdpSocket,
    pub(super) dns: Option<coral_dns::Sockets>,
    pub(super) proxy: Option<coral_proxy::Sockets>,
    pub(super) admin: Option<TcpListener>,
}

impl Sockets {
    /// Those of `shared`, where they fit, and otherwise new ones.
    pub(super) async fn bind(config: &Config, mut shared: Shared) -> anyhow::Result<Self> {
        let dsht = config.dsht.node.listen;
        let dsht = index(dsht, &mut shared).await.map_err(|e| refused("index", dsht, "dsht", &e))?;
        let dns = match config.dns.node.listen {
            Some(addr) => {
                Some(nameserver(addr, &mut shared).await.map_err(|e| refused("nameserver", addr, "dns", &e))?)
            }
            None => None,
        };
        Ok(Self {
            dsht,
            dns,
            proxy: cache(config, &mut shared).await?,
            admin: match config.admin.listen {
                Some(addr) => Some(
                    listener(Place::Admin, addr, &mut shared)
                        .await
                        .map_err(|e| refused("admin address", addr, "admin", &e))?,
                ),
                None => None,
            },
        })
    }

    /// The same sockets once more.
    pub(super) fn share(&self) -> io::Result<Vec<(Place, OwnedFd)>> {
        let mut shared = vec![(Place::Index, self.dsht.as_fd())];
        if let Some(dns) = &self.dns {
            shared.extend(dns.udp.iter().map(|socket| (Place::DnsUdp, socket.as_fd())));
            shared.extend(dns.tcp.iter().map(|socket| (Place::DnsTcp, socket.as_fd())));
        }
        if let Some(proxy) = &self.proxy {
            shared.push((Place::Http, proxy.http.as_fd()));
            shared.extend(proxy.https.iter().map(|socket| (Place::Https, socket.as_fd())));
        }
        shared.extend(self.admin.iter().map(|socket| (Place::Admin, socket.as_fd())));
        shared.into_iter().map(|(place, socket)| Ok((place, socket.try_clone_to_owned()?))).collect()
    }

    /// What was bound: ports in place of 0.
    pub(super) fn addresses(&self) -> io::Result<Addresses> {
        let tcp = |listener: &Option<TcpListener>| listener.as_ref().map(TcpListener::local_addr).transpose();
        let dns = self.dns.as_ref().and_then(|sockets| sockets.udp.first());
        Ok(Addresses {
            dsht: self.dsht.local_addr()?,
            dns: dns.map(std::net::UdpSocket::local_addr).transpose()?,
            proxy: self.proxy.as_ref().map(|sockets| sockets.http.local_addr()).transpose()?,
            proxy_tls: self.proxy.as_ref().map_or(Ok(None), |sockets| tcp(&sockets.https))?,
            admin: tcp(&self.admin)?,
        })
    }
}

async fn index(addr: SocketAddr, shared: &mut Shared) -> io::Result<UdpSocket> {
    match shared.take(Place::Index, addr).pop() {
        Some(socket) => {
            let socket = std::net::UdpSocket::from(socket);
            socket.set_nonblocking(true)?;
            UdpSocket::from_std(socket)
        }
        None => UdpSocket::bind(addr).await,
    }
}

/// The cache's: the one for TLS is of use with certificates only.
async fn cache(config: &Config, shared: &mut Shared) -> anyhow::Result<Option<coral_proxy::Sockets>> {
    let addresses = &config.proxy.node;
    let Some(addr) = addresses.listen else {
        return Ok(None);
    };
    let http = listener(Place::Http, addr, shared).await.map_err(|e| refused("cache", addr, "proxy", &e))?;
    let https = match addresses.tls_listen.filter(|_| !config.proxy.part.certificates.is_empty()) {
        Some(addr) => Some(listener(Place::Https, addr, shared).await.map_err(|e| tls_refused(addr, &e))?),
        None => None,
    };
    Ok(Some(coral_proxy::Sockets { http, https }))
}

async fn listener(place: Place, addr: SocketAddr, shared: &mut Shared) -> io::Result<TcpListener> {
    match shared.listener(place, addr) {
        Some(listener) => listener,
        None => TcpListener::bind(addr).await,
    }
}

/// The same port over UDP and TCP, as RFC 7766 §5 has it; for port 0, one that is free in both.
async fn nameserver(addr: SocketAddr, shared: &mut Shared) -> io::Result<coral_dns::Sockets> {
    if let Some(tcp) = shared.listener(Place::DnsTcp, addr) {
        // However many there were: each is one that the kernel gives queries to.
        let udp = shared.take(Place::DnsUdp, addr).into_iter().map(std::net::UdpSocket::from).collect();
        return Ok(coral_dns::Sockets { udp, tcp: Some(tcp?) });
    }
    let mut attempt = 1;
    loop {
        match same_port(addr).await {
            // The kernel chose a port that is free over one of them only.
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && addr.port() == 0 && attempt < ATTEMPTS => attempt += 1,
            outcome => return outcome,
        }
    }
}

/// Over UDP a socket for each core, among which the kernel shares out the resolvers.
async fn same_port(addr: SocketAddr) -> io::Result<coral_dns::Sockets> {
    // Without that it would share the port with another program that shares, and get every second query.
    let addr = UdpSocket::bind(addr).await?.local_addr()?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MAX_SOCKETS);
    let udp = (0..cores).map(|_| shared(addr)).collect::<io::Result<_>>()?;
    Ok(coral_dns::Sockets { udp, tcp: Some(TcpListener::bind(addr).await?) })
}

/// A UDP socket that shares its address with others of this process.
fn shared(addr: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    // What comes in while a reader is held up by the machine. The kernel gives what it may.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

fn refused(what: &str, addr: SocketAddr, section: &str, e: &io::Error) -> anyhow::Error {
    let other = format!("--{section}-listen ADDR:PORT, or `{section}.listen` in the file");
    let advice = advice(e, &other);
    anyhow::anyhow!("cannot listen at {addr} for the {what} (`{section}.listen`): {e}; {advice}")
}

fn tls_refused(addr: SocketAddr, e: &io::Error) -> anyhow::Error {
    let advice = advice(e, "`proxy.tls_listen`");
    anyhow::anyhow!("cannot listen at {addr} for the cache over TLS (`proxy.tls_listen`): {e}; {advice}")
}

/// What to do about it; `other` is how to choose another address.
pub(crate) fn advice(e: &io::Error, other: &str) -> String {
    match e.kind() {
        io::ErrorKind::AddrInUse => format!("another program listens there; choose another address with {other}"),
        io::ErrorKind::PermissionDenied => format!(
            "ports below 1024 need CAP_NET_BIND_SERVICE, which deploy/coral.service gives; or choose another with {other}"
        ),
        io::ErrorKind::AddrNotAvailable => {
            format!("this machine has no such address; choose one of its own with {other}")
        }
        _ => format!("choose another address with {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Override;

    #[tokio::test]
    async fn a_taken_address_is_named_with_its_option_and_what_to_do() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = taken.local_addr().unwrap();
        let all = ["dsht.listen=127.0.0.1:0", "dns.listen=off", "admin.listen=off"];
        let mut overrides: Vec<Override> = all.iter().map(|set| Override::set(set).unwrap()).collect();
        overrides.push(Override::flag("--proxy-listen", "proxy.listen", addr));
        let config = Config::load(None, &overrides).unwrap();
        let message = Sockets::bind(&config, Shared::default()).await.unwrap_err().to_string();
        assert!(message.starts_with(&format!("cannot listen at {addr} for the cache (`proxy.listen`):")), "{message}");
        assert!(message.contains("--proxy-listen"), "{message}");
    }

    #[tokio::test]
    async fn dns_has_one_port_over_udp_and_tcp() {
        let sockets = nameserver("127.0.0.1:0".parse().unwrap(), &mut Shared::default()).await.unwrap();
        let tcp = sockets.tcp.unwrap().local_addr().unwrap();
        assert_eq!(sockets.udp[0].local_addr().unwrap(), tcp);
    }

    #[tokio::test]
    async fn a_port_that_is_free_over_udp_alone_is_passed_over() {
        let addr: SocketAddr = "127.0.0.77:0".parse().unwrap();
        // Of the ports that the kernel chooses from one in seventy is taken: in a thousand tries some are met.
        let _taken: Vec<_> = (0..400).map(|_| std::net::TcpListener::bind(addr).unwrap()).collect();
        for _ in 0..1000 {
            nameserver(addr, &mut Shared::default()).await.unwrap();
        }
    }
}
