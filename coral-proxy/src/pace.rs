//! A connection that sends no faster than its share of the bandwidth ([`crate::budget`]).
//!
//! Each write is paid for before it is made, by the domain whose response it is; what the socket does not take at once is given back,
//! so that a slow client holds nothing. Heads and chunk lines are paid for too, the headers of TCP and IP are not.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::budget::{Budget, Grant, Waiting};
use crate::url::CoralUrl;

/// The name under which what this node says for itself is paid for.
const OWN: &str = "";

/// For which domain a connection sends. Clones are of the same connection; without a budget it is nothing at all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Line(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    budget: Budget,
    own: Arc<str>,
    domain: Mutex<Arc<str>>,
}

impl Line {
    pub(crate) fn new(budget: Option<&Budget>) -> Self {
        Self(budget.map(|budget| {
            let own: Arc<str> = OWN.into();
            Arc::new(Shared { budget: budget.clone(), domain: Mutex::new(Arc::clone(&own)), own })
        }))
    }

    /// What comes next is this node's own: nobody who is told why he has to wait has to wait for that.
    pub(crate) fn own(&self) {
        if let Some(shared) = &self.0 {
            shared.set(Arc::clone(&shared.own));
        }
    }

    /// What comes next is of the domain of `url`, unless those who send for it wait longer than `patience`; then that is how long.
    pub(crate) fn admit(&self, url: &CoralUrl, patience: Duration) -> Result<(), Duration> {
        let Some(shared) = &self.0 else {
            return Ok(());
        };
        let wait = shared.budget.wait(url.domain());
        if wait > patience {
            self.own();
            return Err(wait);
        }
        shared.set(url.domain().into());
        Ok(())
    }
}

impl Shared {
    fn set(&self, domain: Arc<str>) {
        *self.domain.lock().unwrap_or_else(PoisonError::into_inner) = domain;
    }

    fn domain(&self) -> Arc<str> {
        Arc::clone(&self.domain.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// `inner`, with writes at the pace of its line.
#[derive(Debug)]
pub(crate) struct Paced<T> {
    inner: T,
    line: Line,
    waiting: Option<Waiting>,
}

impl<T> Paced<T> {
    pub(crate) fn new(inner: T, line: Line) -> Self {
        Self { inner, line, waiting: None }
    }

    /// What it reads and writes through.
    pub(crate) fn inner(&self) -> &T {
        &self.inner
    }

    /// Leave to write some of `bytes`; `None` if there is no limit.
    fn poll_grant(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<Option<Grant>> {
        let Some(shared) = self.line.0.as_ref().filter(|_| bytes > 0) else {
            return Poll::Ready(None);
        };
        let waiting = match self.waiting.take() {
            Some(waiting) => waiting,
            None => match shared.budget.ask(&shared.domain(), bytes) {
                Ok(grant) => return Poll::Ready(Some(grant)),
                Err(waiting) => waiting,
            },
        };
        Pin::new(self.waiting.insert(waiting)).poll(cx).map(|grant| {
            self.waiting = None;
            Some(grant)
        })
    }
}

/// Notes that what was written is spent.
fn paid(mut grant: Grant, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
    if let Poll::Ready(Ok(bytes)) = &written {
        grant.spend(*bytes);
    }
    written
}

/// The first `bytes` of `bufs`.
fn first<'a>(bufs: &'a [IoSlice<'_>], mut bytes: usize) -> Vec<IoSlice<'a>> {
    let mut taken = Vec::with_capacity(bufs.len());
    for buf in bufs {
        let part = &buf[..buf.len().min(bytes)];
        bytes -= part.len();
        taken.push(IoSlice::new(part));
        if bytes == 0 {
            break;
        }
    }
    taken
}

impl<T: AsyncRead + Unpin> AsyncRead for Paced<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Paced<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match ready!(self.poll_grant(cx, buf.len())) {
            None => Pin::new(&mut self.inner).poll_write(cx, buf),
            Some(grant) => {
                let part = &buf[..buf.len().min(grant.bytes())];
                paid(grant, Pin::new(&mut self.inner).poll_write(cx, part))
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.line.0.is_none() {
            return Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        }
        match ready!(self.poll_grant(cx, bufs.iter().map(|buf| buf.len()).sum())) {
            None => Pin::new(&mut self.inner).poll_write_vectored(cx, bufs),
            Some(grant) => {
                let part = first(bufs, grant.bytes());
                paid(grant, Pin::new(&mut self.inner).poll_write_vectored(cx, &part))
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::time::Instant;

    use super::*;
    use crate::budget::Waits;

    const RATE: u64 = 100 * 1024;

    fn paced(room: usize) -> (Paced<DuplexStream>, DuplexStream, Budget) {
        let budget = Budget::new(RATE, Duration::from_millis(100), Waits::default());
        let (ours, theirs) = tokio::io::duplex(room);
        (Paced::new(ours, Line::new(Some(&budget))), theirs, budget)
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_is_written_comes_at_the_pace_and_nothing_is_lost() {
        let (mut ours, mut theirs, _budget) = paced(5000);
        let sent: Vec<u8> = (0..5 * RATE).map(|place| (place % 251) as u8).collect();
        let (head, body) = sent.split_at(300);
        let (head, mut body) = (head.to_vec(), body.to_vec());
        let writing = tokio::spawn(async move {
            let mut head = head.as_slice();
            while !head.is_empty() {
                // A head and what comes behind it in one call.
                let written = ours.write_vectored(&[IoSlice::new(head), IoSlice::new(&body)]).await.unwrap();
                let of_body = written.saturating_sub(head.len());
                head = &head[written - of_body..];
                body.drain(..of_body);
            }
            ours.write_all(&body).await.unwrap();
        });
        let began = Instant::now();
        let mut received = Vec::new();
        theirs.read_to_end(&mut received).await.unwrap();
        writing.await.unwrap();
        assert!(received == sent);
        let took = began.elapsed().as_secs_f64();
        assert!((4.85..5.1).contains(&took), "{took} s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_holds_nothing() {
        let (mut ours, _theirs, budget) = paced(1000);
        // Woken again and again, while no time passes, it finds that there is still no room.
        for _ in 0..100 {
            let mut writing = std::pin::pin!(ours.write_all(&[0; 10_000]));
            let polled = std::future::poll_fn(|cx| Poll::Ready(writing.as_mut().poll(cx))).await;
            assert!(polled.is_pending());
        }
        assert_eq!(budget.wait(OWN), Duration::ZERO, "it waits for its client, not for its share");
        assert!(budget.ask(&"a.com".into(), 1024).is_ok());
    }
}
