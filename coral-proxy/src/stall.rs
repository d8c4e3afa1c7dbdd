//! A connection that gives up on a client who takes nothing.
//!
//! Whoever speaks HTTP above waits for ever for room to write. A write that makes no progress
//! for the time-out fails here, and with it the connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// `inner`, with a bound on how long a write may wait.
#[derive(Debug)]
pub(crate) struct StallTimeout<T> {
    inner: T,
    limit: Duration,
    // Boxed, so that the whole stays `Unpin`; made when a write first waits, which for most connections is never.
    waiting: Option<Pin<Box<Sleep>>>,
    /// For who wants to know.
    progress: Option<Progress>,
}

/// What has been written to a connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress(Arc<AtomicU64>);

impl Progress {
    /// Bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl<T> StallTimeout<T> {
    pub(crate) fn new(inner: T, limit: Duration) -> Self {
        Self { inner, limit, waiting: None, progress: None }
    }

    /// What it reads and writes through.
    pub(crate) fn inner(&self) -> &T {
        &self.inner
    }

    /// From now on, what is written.
    pub(crate) fn progress(&mut self) -> Progress {
        self.progress.get_or_insert_default().clone()
    }

    fn counted(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let (Some(progress), Poll::Ready(Ok(bytes))) = (&self.progress, &written) {
            progress.0.fetch_add(*bytes as u64, Ordering::Relaxed);
        }
        self.bounded(cx, written)
    }

    fn bounded<R>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let deadline = Instant::now() + self.limit;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for StallTimeout<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for StallTimeout<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.counted(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.counted(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.bounded(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.bounded(cx, shut)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_write_fails_only_when_nothing_moves_for_the_whole_time() {
        let (ours, mut theirs) = tokio::io::duplex(10);
        let mut ours = StallTimeout::new(ours, Duration::from_secs(30));
        let writing = tokio::spawn(async move { (ours.write_all(&[0; 30]).await, Instant::now()) });
        let began = Instant::now();
        tokio::time::sleep(Duration::from_secs(20)).await;
        theirs.read_exact(&mut [0; 10]).await.unwrap();
        let (written, at) = writing.await.unwrap();
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!((at - began).as_secs(), 50);
    }
}
