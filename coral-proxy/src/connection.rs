//! One connection, from its first byte to its end: TLS if it came for that, and HTTP/1.1 or HTTP/2 above it.
//!
//! Below everything bytes are paced and stalls are noticed; TLS and HTTP are written through that. A connection ends by itself, goes wrong, or
//! is told to stop: then the requests in hand are answered and no more are taken.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::certificates::Certificates;
use crate::error::{Fault, Verdict};
use crate::hints::{self, Clients};
use crate::http1::{Ended, Http1};
use crate::http2;
use crate::limits::{Admitted, InHand};
use crate::pace::{Line, Paced};
use crate::reply::UnderWay;
use crate::service::{Caller, Service};
use crate::stall::{Progress, StallTimeout};

/// How long a connection without a request in hand may take to bring one after the node is told to stop: what is on its
/// way arrives, and half a head holds nobody up.
pub(crate) const LAST_HEAD: Duration = Duration::from_secs(1);

/// A connection, and what its requests share.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) service: Arc<Service>,
    pub(crate) clients: Clients,
    pub(crate) client: SocketAddr,
    pub(crate) admitted: Admitted,
    pub(crate) in_hand: InHand,
    pub(crate) line: Line,
    /// What it is to speak TLS with.
    pub(crate) tls: Option<Certificates>,
    /// Whether a request was answered.
    pub(crate) served: AtomicBool,
}

/// What all of it is written through.
type Lower = Paced<StallTimeout<TcpStream>>;

impl Connection {
    /// Serves `stream`, until it ends by itself, goes wrong, or is told to stop after the requests under way.
    pub(crate) async fn serve(self, stream: TcpStream, stop: watch::Receiver<bool>) {
        let limits = &self.service.fetcher.config.client;
        let _counted = UnderWay::new(self.service.fetcher.metrics.connections.clone());
        if let Some(rtt) = hints::rtt(&stream) {
            self.clients.seen(self.client.ip(), rtt, false);
        }
        // Heads are small and wait for an answer; holding them back gains nothing.
        let _ = stream.set_nodelay(true);
        // A client is not blamed for the time in which it is sent nothing.
        let mut lower = StallTimeout::new(stream, limits.stall_timeout);
        match self.tls.clone() {
            None => self.http1(Paced::new(lower, self.line.clone()), stop).await,
            Some(certificates) => {
                let progress = lower.progress();
                let lower = Paced::new(lower, self.line.clone());
                // Boxed, as it would make the task of every connection three times as large.
                Box::pin(Arc::new(self).https(lower, &certificates, progress, stop)).await;
            }
        }
    }

    async fn https(
        self: Arc<Self>,
        lower: Lower,
        certificates: &Certificates,
        progress: Progress,
        stop: watch::Receiver<bool>,
    ) {
        let limit = self.service.fetcher.config.client.header_timeout;
        let handshake = TlsAcceptor::from(certificates.config()).accept(lower);
        let tls = match timeout(limit, handshake).await {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => return self.ended_badly("tls_handshake", StatusCode::BAD_REQUEST, &error),
            Err(late) => return self.ended_badly("tls_handshake", StatusCode::REQUEST_TIMEOUT, &late),
        };
        if tls.get_ref().1.alpn_protocol() == Some(b"h2") {
            self.http2(tls, progress, stop).await;
        } else {
            self.http1(tls, stop).await;
        }
    }

    async fn http1<S>(&self, stream: S, mut stop: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Socket + Unpin,
    {
        let is_stopping = AtomicBool::new(false);
        let mut serving = pin!(Http1::new(self, &is_stopping, stream).serve());
        let (stream, ended) = tokio::select! {
            biased;
            served = &mut serving => served,
            () = stopped(&mut stop) => {
                is_stopping.store(true, Ordering::Relaxed);
                serving.await
            }
        };
        if self.served.load(Ordering::Relaxed)
            && let Some(rtt) = hints::rtt(stream.socket())
        {
            self.clients.seen(self.client.ip(), rtt, true);
        }
        if matches!(ended, Err(Ended::BrokenOffUnseen(_))) {
            // A client of HTTP/1.0 sees by a reset alone that this is not the end.
            let _ = stream.socket().set_zero_linger();
        }
        match ended {
            Ok(()) => {}
            Err(Ended::Refused(error)) => {
                self.service.fetcher.metrics.error(error.verdict());
                tracing::debug!(client = %self.client, %error, "a request was refused");
            }
            Err(error) => tracing::debug!(client = %self.client, %error, "a connection ended badly"),
        }
    }

    async fn http2<S>(self: Arc<Self>, stream: S, progress: Progress, mut stop: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Socket + Unpin + Send + 'static,
    {
        // The socket is not seen again. By now the kernel has seen at least two round trips.
        let rtt = hints::rtt(stream.socket());
        let ended = http2::serve(&self, stream, progress, &mut stop).await;
        if let Some(rtt) = rtt.filter(|_| self.served.load(Ordering::Relaxed)) {
            self.clients.seen(self.client.ip(), rtt, true);
        }
        if let Err(error) = ended {
            tracing::debug!(client = %self.client, %error, "a connection ended badly");
        }
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.service.is_leaving.load(Ordering::Relaxed)
    }

    pub(crate) fn caller(&self) -> Caller<'_> {
        Caller { client: self.client, rate: self.admitted.rate(), line: &self.line, is_secure: self.tls.is_some() }
    }

    /// Bytes of a head that are read.
    pub(crate) fn max_header(&self) -> usize {
        usize::try_from(self.service.fetcher.config.client.max_header.as_u64()).unwrap_or(usize::MAX)
    }

    fn ended_badly(&self, kind: &'static str, status: StatusCode, error: &dyn std::fmt::Display) {
        self.service.fetcher.metrics.error(Verdict { status, fault: Fault::Client, kind });
        tracing::debug!(client = %self.client, %error, "a connection ended badly");
    }
}

/// Waits until the proxy is told to stop.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // The sender lives until all connections have ended; were it gone, this would be over too.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// What ends in a TCP connection.
trait Socket {
    fn socket(&self) -> &TcpStream;
}

impl Socket for Lower {
    fn socket(&self) -> &TcpStream {
        self.inner().inner()
    }
}

impl Socket for tokio_rustls::server::TlsStream<Lower> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0.socket()
    }
}
