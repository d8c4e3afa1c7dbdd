//! Trying the ports of a host: a fixed number of small packets, and what has come of them.
//!
//! Each try comes from a port of its own that has never been used: what the host has sent itself lets nothing of it through.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use coral_dsht::Pings;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme};

use super::reply::{answers, echoes, get, query};
use super::{Found, Nonce, Request, Service};

/// When a datagram is sent, from the first on: some get lost.
const SENDS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(600), Duration::from_millis(1200)];

/// How long a host may take to answer a datagram, or to take a connection. A SYN is sent again after 1 s.
const PATIENCE: Duration = Duration::from_millis(2500);

/// How long it may take to answer on a connection.
const ANSWERING: Duration = Duration::from_millis(1500);

/// The most that is read of an answer.
const MAX_ANSWER_BYTES: usize = 4096;

/// What it takes to try ports.
#[derive(Clone)]
pub(super) struct Prober {
    pings: Pings,
    tls: TlsConnector,
}

/// One try.
#[derive(Debug, Clone)]
struct Try {
    at: SocketAddr,
    nonce: Nonce,
    suffix: String,
}

impl Prober {
    /// For a network whose index is pinged so. Fails if TLS cannot be set up.
    pub(super) fn new(pings: Pings) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Any(provider)))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { pings, tls: TlsConnector::from(Arc::new(config)) })
    }

    /// Tries all that `request` names, at `ip`, all at once. Given up when it is dropped.
    pub(super) async fn try_all(&self, ip: IpAddr, request: &Request, suffix: &str) -> BTreeMap<Service, Found> {
        let mut tries = JoinSet::new();
        for (service, port) in &request.ports {
            let one = Try { at: SocketAddr::new(ip, *port), nonce: request.nonce, suffix: suffix.to_owned() };
            let (prober, service) = (self.clone(), *service);
            tries.spawn(async move { (service, prober.find(service, &one).await) });
        }
        let mut found = BTreeMap::new();
        while let Some(ended) = tries.join_next().await {
            found.extend(ended.ok());
        }
        found
    }

    async fn find(&self, service: Service, one: &Try) -> Found {
        let id = one.nonce.ping();
        let found = match service {
            Service::Index => {
                let is_answer = |bytes: &[u8]| self.pings.answered(bytes) == Some(id);
                datagram(one.at, &self.pings.ask(id), is_answer).await
            }
            Service::DnsUdp => match query(one.nonce, &one.suffix) {
                Some(query) => datagram(one.at, &query, |bytes| answers(bytes, &query)).await,
                None => Ok(false),
            },
            Service::DnsTcp => connected(one.at, |stream| over_dns(stream, one)).await,
            Service::Http => connected(one.at, |stream| over_http(stream, one)).await,
            Service::Https => {
                let over_tls = async |stream| {
                    let name = ServerName::try_from(one.suffix.clone()).map_err(io::Error::other)?;
                    over_http(self.tls.connect(name, stream).await?, one).await
                };
                connected(one.at, over_tls).await
            }
        };
        match found {
            Ok(true) => Found::Answered,
            Ok(false) => Found::Other,
            Err(e) => match e.kind() {
                io::ErrorKind::ConnectionRefused => Found::Refused,
                io::ErrorKind::TimedOut => Found::Silent,
                _ => Found::Unreachable,
            },
        }
    }
}

/// Sends `bytes` until something answers; whether that is what `is_answer` wants.
async fn datagram(to: SocketAddr, bytes: &[u8], is_answer: impl Fn(&[u8]) -> bool) -> io::Result<bool> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    // The kernel then takes datagrams from there alone, and tells what routers and firewalls say.
    socket.connect(to).await?;
    let begun = Instant::now();
    let mut buffer = [0; MAX_ANSWER_BYTES];
    let mut is_other = false;
    let until = SENDS[1..].iter().chain([&PATIENCE]).map(|until| begun + *until);
    for until in until {
        socket.send(bytes).await?;
        while let Ok(received) = timeout_at(until, socket.recv(&mut buffer)).await {
            match is_answer(&buffer[..received?]) {
                true => return Ok(true),
                false => is_other = true,
            }
        }
    }
    if is_other { Ok(false) } else { Err(io::ErrorKind::TimedOut.into()) }
}

/// Whether `exchange` succeeds on a connection to `at`. An error is one of connecting.
async fn connected<F>(at: SocketAddr, exchange: impl FnOnce(TcpStream) -> F) -> io::Result<bool>
where
    F: Future<Output = io::Result<bool>>,
{
    let stream = timeout(PATIENCE, TcpStream::connect(at)).await??;
    Ok(matches!(timeout(ANSWERING, exchange(stream)).await, Ok(Ok(true))))
}

async fn over_dns(mut stream: TcpStream, one: &Try) -> io::Result<bool> {
    let query = query(one.nonce, &one.suffix).ok_or(io::ErrorKind::InvalidInput)?;
    // RFC 1035 §4.2.2.
    let length = (query.len() as u16).to_be_bytes();
    stream.write_all(&[&length[..], &query].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length).min(MAX_ANSWER_BYTES)];
    stream.read_exact(&mut answer).await?;
    Ok(answers(&answer, &query))
}

async fn over_http(mut stream: impl AsyncRead + AsyncWrite + Unpin, one: &Try) -> io::Result<bool> {
    stream.write_all(get(one.nonce, &one.suffix).as_bytes()).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    while answer.len() < MAX_ANSWER_BYTES {
        match stream.read(&mut buffer).await? {
            0 => break,
            length => answer.extend(&buffer[..length]),
        }
        if echoes(&answer, one.nonce) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Takes any certificate: nothing is believed of what comes over this connection but that it comes.
#[derive(Debug)]
struct Any(Arc<CryptoProvider>);

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl std::fmt::Debug for Prober {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Prober")
    }
}
