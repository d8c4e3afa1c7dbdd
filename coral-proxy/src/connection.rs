//! One connection, from its first byte to its end: TLS if it came for that, and HTTP/1.1 or HTTP/2 above it.
//!
//! Below everything bytes are paced and stalls are noticed; TLS and HTTP are written through that. A connection ends by itself, goes wrong, or
//! is told to stop: then the requests in hand are answered and no more are taken.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Request, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::certificates::Certificates;
use crate::config::Config;
use crate::error::{Fault, Verdict};
use crate::hints::{self, Clients};
use crate::http1::{Ended, Http1};
use crate::interim::Outbox;
use crate::limits::{Admitted, InHand};
use crate::pace::{Line, Paced};
use crate::reply::UnderWay;
use crate::service::{Caller, Service};
use crate::stall::{Progress, StallTimeout};

/// How long a connection without a request in hand may take to bring one after the node is told to stop: what is on its
/// way arrives, and half a head holds nobody up.
const LAST_HEAD: Duration = Duration::from_secs(1);

/// Requests that one HTTP/2 connection may have under way at once: as many as browsers ask for.
const MAX_STREAMS: u32 = 100;

/// Bytes of a response that HTTP/2 takes beyond what the client has asked for.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

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
                Arc::new(self).https(lower, &certificates, progress, stop).await;
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
        let config = Arc::clone(&self.service.fetcher.config);
        // hyper keeps the socket to itself. By now the kernel has seen at least two round trips.
        let rtt = hints::rtt(stream.socket());
        let max_header = self.max_header();
        let service = service_fn(|request: Request<Incoming>| {
            let this = Arc::clone(&self);
            async move {
                let handled = this.in_hand.take();
                // hyper sends no interim responses, and here there is no place to put them between.
                let interim = Outbox::default().ticket(request.version());
                let (has_body, head) = (!request.body().is_end_stream(), request.into_parts().0);
                let response = this.service.answer(this.caller(), head, has_body, interim).await;
                this.served.store(true, Ordering::Relaxed);
                Ok::<_, Infallible>(response.map(|body| body.handled(handled)))
            }
        });
        let mut connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(u32::try_from(max_header).unwrap_or(u32::MAX))
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        let idle = self.idle(&progress);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = async { tokio::select! { () = stopped(&mut stop) => {}, () = idle => {} } } => {
                std::pin::Pin::new(&mut connection).graceful_shutdown();
                match timeout(LAST_HEAD, &mut connection).await {
                    Ok(ended) => ended,
                    Err(_) if self.in_hand.is_empty() => Ok(()),
                    // Who takes nothing is waited for as long as any origin.
                    Err(_) => timeout(longest_pause(&config), &mut connection).await.unwrap_or(Ok(())),
                }
            }
        };
        if let Some(rtt) = rtt.filter(|_| self.served.load(Ordering::Relaxed)) {
            self.clients.seen(self.client.ip(), rtt, true);
        }
        if let Err(error) = ended {
            self.failed(&error);
        }
    }

    /// Waits until nothing has been sent for as long as may be: without a request in hand as in HTTP/1.1, and with one until every
    /// origin would have been given up, as the client then has closed its window to us.
    async fn idle(&self, progress: &Progress) {
        let config = &self.service.fetcher.config;
        let limit = config.client.header_timeout;
        let mut before = progress.bytes();
        let mut still = Duration::ZERO;
        loop {
            tokio::time::sleep(limit).await;
            let now = progress.bytes();
            still = if now == before { still + limit } else { Duration::ZERO };
            before = now;
            let most = if self.in_hand.is_empty() { limit } else { longest_pause(config) };
            if still >= most {
                return;
            }
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

    fn failed(&self, error: &hyper::Error) {
        // What hyper cannot read it answers itself, with 400 or 431, and nobody else hears of it.
        if error.is_parse() {
            self.ended_badly("unreadable", StatusCode::BAD_REQUEST, error);
        } else if error.is_timeout() {
            self.ended_badly("head_timeout", StatusCode::REQUEST_TIMEOUT, error);
        } else {
            tracing::debug!(client = %self.client, %error, "a connection ended badly");
        }
    }

    fn ended_badly(&self, kind: &'static str, status: StatusCode, error: &dyn std::fmt::Display) {
        self.service.fetcher.metrics.error(Verdict { status, fault: Fault::Client, kind });
        tracing::debug!(client = %self.client, %error, "a connection ended badly");
    }
}

/// How long a response may have nothing to send, whatever it waits for.
fn longest_pause(config: &Config) -> Duration {
    config.origin.first_byte_timeout.max(config.peer.patience) + config.client.stall_timeout
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
