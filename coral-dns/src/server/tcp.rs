//! TCP (RFC 7766): connections bounded in number, each with one query in hand at a time and a deadline for it.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};

use super::{DRAIN, entropy, is_exhausted, is_passing};
use crate::config::Config;
use crate::error::DnsError;
use crate::handler::{Handler, MAX_QUERY_BYTES, Message, Outcome, Scratch, Transport};
use crate::metrics::Metrics;

/// A connection in the gauge of those open.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What the TCP side shares between its connections.
#[derive(Debug, Clone)]
pub(super) struct Tcp {
    pub(super) handler: Arc<Handler>,
    pub(super) config: Arc<Config>,
    pub(super) metrics: Metrics,
    pub(super) stopped: watch::Receiver<bool>,
}

impl Tcp {
    /// Accepts until it is told to stop, then brings to an end what has begun.
    pub(super) async fn serve(mut self, listener: TcpListener) -> Result<(), DnsError> {
        let mut connections = JoinSet::new();
        // Those open, the oldest first, and some that have ended.
        let mut open = VecDeque::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
                () = until(&mut self.stopped) => break,
            };
            match accepted {
                Ok((stream, from)) => {
                    self.make_room(&mut open);
                    let tcp = self.clone();
                    open.push_back(connections.spawn(async move {
                        let _counted = Counted::new(tcp.metrics.tcp_connections.clone());
                        tcp.connection(stream, from).await;
                    }));
                }
                Err(error) if is_passing(&error) => self.handler.dropped("accept"),
                Err(error) if is_exhausted(&error) => {
                    self.handler.dropped("accept");
                    // Out of file descriptors: until one of ours is closed, or others may have closed theirs.
                    let _ = timeout(Duration::from_millis(100), connections.join_next()).await;
                }
                Err(source) => {
                    return Err(DnsError::Socket { transport: "tcp", source });
                }
            }
        }
        drop(listener);
        // What is not done by then is cut off when the set is dropped.
        let _ = timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
        Ok(())
    }

    /// Ends the oldest connection if there are as many as there may be. Most clients are done within a round trip, so the
    /// oldest is one that idles; were the newcomer turned away instead, whoever holds idle ones would keep all others out.
    fn make_room(&self, open: &mut VecDeque<AbortHandle>) {
        let most = self.config.tcp_connections.get();
        if open.len() >= most {
            open.retain(|connection| !connection.is_finished());
        }
        if open.len() >= most
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
            self.handler.dropped("connections");
        }
    }

    /// One connection, query by query, until the client ends it, breaks the rules, or is too slow.
    async fn connection(&self, mut stream: TcpStream, from: SocketAddr) {
        let mut stopped = self.stopped.clone();
        let Ok(seed) = entropy() else {
            return;
        };
        let mut scratch = Box::new(self.handler.scratch(seed));
        let mut buffer = Vec::new();
        loop {
            let mut first = [0];
            let begun = tokio::select! {
                read = timeout(self.config.tcp_idle, stream.read(&mut first)) => matches!(read, Ok(Ok(1))),
                () = until(&mut stopped) => {
                    hear_of_arrivals().await;
                    matches!(stream.try_read(&mut first), Ok(1))
                }
            };
            if !begun {
                return;
            }
            let exchange = self.exchange(&mut stream, from, first[0], &mut scratch, &mut buffer);
            if !matches!(timeout(self.config.tcp_idle, exchange).await, Ok(Ok(true))) {
                return;
            }
        }
    }

    /// Reads the query whose length begins with `first` (RFC 1035 §4.2.2) and answers it. False ends the connection.
    async fn exchange(
        &self,
        stream: &mut TcpStream,
        from: SocketAddr,
        first: u8,
        scratch: &mut Scratch,
        buffer: &mut Vec<u8>,
    ) -> io::Result<bool> {
        let length = usize::from(u16::from_be_bytes([first, stream.read_u8().await?]));
        if length > MAX_QUERY_BYTES {
            self.handler.dropped("long");
            return Ok(false);
        }
        buffer.resize(length, 0);
        stream.read_exact(buffer).await?;
        // In one write, so that it is one segment (RFC 7766 §8): first the room for its length.
        let mut framed = vec![0; 2];
        let mut may_wait = true;
        loop {
            let start = Instant::now();
            let message = Message { from, transport: Transport::Tcp, bytes: buffer, may_wait, is_again: !may_wait };
            let outcome = self.handler.respond(scratch, start, message, &mut framed);
            self.metrics.seconds.observe(start.elapsed().as_secs_f64());
            match outcome {
                Outcome::Nothing => return Ok(false),
                Outcome::Send | Outcome::SendAfter(_) => break,
                Outcome::Wait(client) => self.handler.measured(&client).await,
            }
            may_wait = false;
        }
        let length = u16::try_from(framed.len() - 2).map_err(io::Error::other)?;
        framed[..2].copy_from_slice(&length.to_be_bytes());
        stream.write_all(&framed).await?;
        Ok(true)
    }
}

/// Waits for the stop, or for the end of who would say it.
async fn until(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Lets the runtime poll its sockets once: a `try_` call knows only of what had arrived by the last time it did.
async fn hear_of_arrivals() {
    tokio::task::yield_now().await;
}
