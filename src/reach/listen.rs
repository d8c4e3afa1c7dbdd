//! Standing in for a node that does not run yet: its ports are listened at for a moment, and what tries them is answered.
//!
//! Only what carries the nonce counts, and is answered: whatever else comes to these ports meanwhile is not meant.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use coral_dsht::Pings;
use coral_proxy::CertificateFiles;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::reply::{asked, echo, got};
use super::{Nonce, Service};
use crate::config::Config;

/// Connections at a time, at each port: strangers come, too.
const CONNECTIONS: usize = 32;

/// How long one may last.
const CONNECTION: Duration = Duration::from_secs(3);

/// The most that is read of a request.
const MAX_REQUEST_BYTES: usize = 2048;

/// After an error of a socket.
const BREATH: Duration = Duration::from_millis(50);

/// Who listens, until it is dropped.
#[derive(Debug)]
pub(crate) struct Listening {
    seen: Seen,
    /// Where, and so what is to be tried.
    ports: BTreeMap<Service, u16>,
    _tasks: JoinSet<()>,
}

/// By what the nonce has come.
#[derive(Debug, Clone, Default)]
struct Seen(Arc<Mutex<BTreeSet<Service>>>);

impl Seen {
    fn add(&self, service: Service) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(service);
    }

    fn has(&self, service: Service) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&service)
    }
}

/// Where a node of this configuration would listen, for others.
pub(crate) fn places(config: &Config) -> BTreeMap<Service, SocketAddr> {
    let proxy = &config.proxy;
    let over_tls = proxy.node.listen.and(proxy.node.tls_listen).filter(|_| !proxy.part.certificates.is_empty());
    let all = [
        (Service::Index, Some(config.dsht.node.listen)),
        (Service::DnsUdp, config.dns.node.listen),
        (Service::DnsTcp, config.dns.node.listen),
        (Service::Http, proxy.node.listen),
        (Service::Https, over_tls),
    ];
    all.into_iter().filter_map(|(service, addr)| Some((service, addr?))).collect()
}

impl Listening {
    /// Listens wherever it can; elsewhere somebody else does.
    pub(crate) async fn begin(config: &Config, nonce: Nonce) -> Self {
        let (seen, mut ports, mut tasks) = (Seen::default(), BTreeMap::new(), JoinSet::new());
        for (service, addr) in places(config) {
            let mark = seen.clone();
            let port = match service {
                Service::Index => {
                    let pings = Pings::new(config.dsht.part.network_key.as_ref());
                    let answer = move |bytes: &[u8], from| {
                        let id = pings.asked(bytes).filter(|id| *id == nonce.ping())?;
                        mark.add(Service::Index);
                        Some(pings.answer(id, from))
                    };
                    datagrams(addr, answer, &mut tasks).await
                }
                Service::DnsUdp => {
                    let answer = move |bytes: &[u8], _| {
                        let (_, answer) = asked(bytes).filter(|(asked, _)| *asked == nonce)?;
                        mark.add(Service::DnsUdp);
                        Some(answer)
                    };
                    datagrams(addr, answer, &mut tasks).await
                }
                Service::DnsTcp => {
                    let answer = move |stream| over_dns(stream, nonce, mark.clone());
                    connections(addr, answer, &mut tasks).await
                }
                Service::Http => {
                    let answer = move |stream| over_http(stream, nonce, service, mark.clone());
                    connections(addr, answer, &mut tasks).await
                }
                Service::Https => {
                    // What is wrong with them is said elsewhere.
                    let Ok(tls) = CertificateFiles::server(&config.proxy.part.certificates) else { continue };
                    let tls = TlsAcceptor::from(tls);
                    let answer = move |stream| {
                        let (tls, mark) = (tls.clone(), mark.clone());
                        async move { over_http(tls.accept(stream).await?, nonce, service, mark).await }
                    };
                    connections(addr, answer, &mut tasks).await
                }
            };
            ports.extend(port.ok().map(|port| (service, port)));
        }
        Self { seen, ports, _tasks: tasks }
    }

    /// Where it listens.
    pub(crate) fn ports(&self) -> &BTreeMap<Service, u16> {
        &self.ports
    }

    /// Whether the nonce has come so.
    pub(crate) fn has_seen(&self, service: Service) -> bool {
        self.seen.has(service)
    }
}

async fn datagrams(
    addr: SocketAddr,
    answer: impl Fn(&[u8], SocketAddr) -> Option<Vec<u8>> + Send + 'static,
    tasks: &mut JoinSet<()>,
) -> io::Result<u16> {
    let socket = UdpSocket::bind(addr).await?;
    let port = socket.local_addr()?.port();
    tasks.spawn(async move {
        let mut buffer = [0; MAX_REQUEST_BYTES];
        loop {
            match socket.recv_from(&mut buffer).await {
                Ok((length, from)) => {
                    if let Some(answer) = answer(&buffer[..length], from) {
                        // One that gets lost is asked for again.
                        let _ = socket.send_to(&answer, from).await;
                    }
                }
                Err(_) => sleep(BREATH).await,
            }
        }
    });
    Ok(port)
}

async fn connections<F>(
    addr: SocketAddr,
    answer: impl Fn(TcpStream) -> F + Send + 'static,
    tasks: &mut JoinSet<()>,
) -> io::Result<u16>
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind(addr).await?;
    let port = listener.local_addr()?.port();
    tasks.spawn(async move {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut under_way = JoinSet::new();
        loop {
            let place = Arc::clone(&places).acquire_owned().await;
            while under_way.try_join_next().is_some() {}
            match listener.accept().await {
                Ok((stream, _)) => {
                    let answering = answer(stream);
                    under_way.spawn(async move {
                        // Whoever breaks off, or has come for something else, is not answered.
                        let _ = timeout(CONNECTION, answering).await;
                        drop(place);
                    });
                }
                Err(_) => sleep(BREATH).await,
            }
        }
    });
    Ok(port)
}

async fn over_dns(mut stream: TcpStream, nonce: Nonce, seen: Seen) -> io::Result<()> {
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; usize::from(length).min(MAX_REQUEST_BYTES)];
    stream.read_exact(&mut bytes).await?;
    if let Some((_, answer)) = asked(&bytes).filter(|(asked, _)| *asked == nonce) {
        seen.add(Service::DnsTcp);
        stream.write_all(&[&(answer.len() as u16).to_be_bytes()[..], &answer].concat()).await?;
        stream.shutdown().await?;
    }
    Ok(())
}

async fn over_http(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    nonce: Nonce,
    service: Service,
    seen: Seen,
) -> io::Result<()> {
    let mut head = Vec::new();
    let mut buffer = [0; 512];
    while head.len() < MAX_REQUEST_BYTES && !head.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut buffer).await? {
            0 => break,
            length => head.extend(&buffer[..length]),
        }
    }
    if got(&head) == Some(nonce) {
        seen.add(service);
        stream.write_all(echo(nonce).as_bytes()).await?;
        stream.shutdown().await?;
    }
    Ok(())
}
