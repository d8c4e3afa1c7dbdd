//! Small writes in one piece.
//!
//! hyper hands a head and its body to the kernel as two pieces, without copying either. For a body of a few kilobytes the copy
//! costs less than what the kernel does to look at a list of pieces.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// More bytes than this are not copied.
const MOST_BYTES: usize = 4 * 1024;

/// `inner`, to which a few bytes in several pieces are written as one.
#[derive(Debug)]
pub(crate) struct Gather<T> {
    inner: T,
    /// Where pieces are put together: kept, as it is used for each answer.
    gathered: Vec<u8>,
}

impl<T> Gather<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self { inner, gathered: Vec::new() }
    }

    /// What it reads and writes through.
    pub(crate) fn inner(&self) -> &T {
        &self.inner
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gather<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gather<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { inner, gathered } = self.get_mut();
        let inner = Pin::new(inner);
        if bufs.iter().map(|buf| buf.len()).sum::<usize>() > MOST_BYTES {
            return inner.poll_write_vectored(cx, bufs);
        }
        gathered.clear();
        bufs.iter().for_each(|buf| gathered.extend_from_slice(buf));
        inner.poll_write(cx, gathered)
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
    use std::future::poll_fn;

    use super::*;

    /// Notes the lengths of what is written in one call.
    #[derive(Default)]
    struct Calls {
        lengths: Vec<Vec<usize>>,
        bytes: Vec<u8>,
    }

    impl AsyncWrite for Calls {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.lengths.push(vec![buf.len()]);
            self.bytes.extend_from_slice(buf);
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let lengths: Vec<usize> = bufs.iter().map(|buf| buf.len()).collect();
            let sum = lengths.iter().sum();
            self.lengths.push(lengths);
            bufs.iter().for_each(|buf| self.bytes.extend_from_slice(buf));
            Poll::Ready(Ok(sum))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_is_small_is_one_piece_and_what_is_large_is_not_copied() {
        let mut gather = Gather::new(Calls::default());
        let mut expected = Vec::new();
        for (head, body) in [(300, 1024), (1, MOST_BYTES - 1), (1, MOST_BYTES), (0, 0)] {
            let (head, body) = (vec![b'h'; head], vec![b'b'; body]);
            let pieces = [IoSlice::new(&head), IoSlice::new(&body)];
            let written = poll_fn(|cx| Pin::new(&mut gather).poll_write_vectored(cx, &pieces)).await.unwrap();
            assert_eq!(written, head.len() + body.len());
            expected.extend(head);
            expected.extend(body);
        }
        assert_eq!(gather.inner().lengths, [vec![1324], vec![MOST_BYTES], vec![1, MOST_BYTES], vec![0]]);
        assert!(gather.inner().bytes == expected);
    }
}
