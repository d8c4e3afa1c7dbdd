//! What HTTP/2 writes of several responses, in one piece.
//!
//! `h2` hands down each frame with data by itself, and flushes after it. Below it that would be a record of TLS, a call of the kernel and a segment for each small
//! response. So small writes are put together while [`Hold`] says so, which is until nothing more can be done without waiting.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Writes of more bytes are not copied.
const MOST_BYTES: usize = 4 * 1024;
/// Bytes that wait, at most: what fits into one record of TLS (RFC 8446 §5.1).
const CAPACITY: usize = 16 * 1024;

/// Whether flushing waits. Clones are of the same connection, whose task alone uses them.
#[derive(Debug, Clone, Default)]
pub(super) struct Hold(Arc<AtomicBool>);

impl Hold {
    /// Changes it. Whether it was the other way before.
    pub(super) fn set(&self, holds: bool) -> bool {
        self.0.swap(holds, Ordering::Relaxed) != holds
    }

    fn holds(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// `inner`, to which small writes come together.
#[derive(Debug)]
pub(super) struct Batch<T> {
    inner: T,
    hold: Hold,
    waiting: Vec<u8>,
    /// How many of them are written.
    written: usize,
}

impl<T: AsyncWrite + Unpin> Batch<T> {
    pub(super) fn new(inner: T, hold: Hold) -> Self {
        Self { inner, hold, waiting: Vec::new(), written: 0 }
    }

    /// Writes all that waits.
    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.waiting.len() {
            match ready!(Pin::new(&mut self.inner).poll_write(cx, &self.waiting[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                bytes => self.written += bytes,
            }
        }
        self.waiting.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Ready to take `bytes`: whether they are to be copied.
    fn poll_room(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<io::Result<bool>> {
        let is_small = bytes <= MOST_BYTES;
        if !(is_small && self.waiting.len() + bytes <= CAPACITY) {
            ready!(self.poll_write_out(cx))?;
        }
        Poll::Ready(Ok(is_small))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Batch<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Batch<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if ready!(self.poll_room(cx, buf.len()))? {
            self.waiting.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = bufs.iter().map(|buf| buf.len()).sum();
        if ready!(self.poll_room(cx, bytes))? {
            bufs.iter().for_each(|buf| self.waiting.extend_from_slice(buf));
            return Poll::Ready(Ok(bytes));
        }
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.hold.holds() {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_write_out(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_is_small_comes_together_and_in_its_order() {
        let (ours, mut theirs) = tokio::io::duplex(1000);
        let hold = Hold::default();
        let mut batch = Batch::new(ours, hold.clone());
        hold.set(true);
        for byte in 0..3 {
            batch.write_all(&[byte; 100]).await.unwrap();
            batch.flush().await.unwrap();
        }
        assert!(futures_util::poll!(std::pin::pin!(theirs.read_u8())).is_pending(), "nothing yet");
        hold.set(false);
        batch.flush().await.unwrap();
        let mut read = [9; 300];
        assert_eq!(theirs.read(&mut read).await.unwrap(), 300);
        assert!(read.chunks(100).zip(0..).all(|(chunk, byte)| chunk == [byte; 100]));

        // Small and large by turns, more than there is room for, into a pipe that takes a thousand bytes at a time.
        hold.set(true);
        let sent: Vec<u8> = (0..200_000u32).map(|place| (place % 251) as u8).collect();
        let expected = sent.clone();
        let writing = tokio::spawn(async move {
            let (mut rest, mut length) = (&sent[..], 1);
            while !rest.is_empty() {
                let part;
                (part, rest) = rest.split_at(rest.len().min(length));
                batch.write_all(part).await.unwrap();
                batch.flush().await.unwrap();
                length = length * 3 % 7919;
            }
            batch.shutdown().await.unwrap();
        });
        let mut received = Vec::new();
        theirs.read_to_end(&mut received).await.unwrap();
        writing.await.unwrap();
        assert!(received == expected);
    }
}
