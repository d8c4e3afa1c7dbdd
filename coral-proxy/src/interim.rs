//! Interim responses (RFC 9110 §15.2), such as 103 with its hints, on their way from an origin to a client.
//!
//! A proxy must forward them. While a connection waits for an answer, what was before is whole and what comes has not begun: its [`Outbox`] is
//! open during that time alone, and the connection writes what is in it. What comes later is dropped.

use std::fmt::Write;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use http::header::HeaderMap;
use http::{StatusCode, Version};
use tokio::io::AsyncWrite;

/// Bytes of interim responses that wait to be written, at most; one that does not fit is dropped.
const MOST_BYTES: usize = 16 * 1024;

/// Where interim responses wait for their connection. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outbox {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The number of the last request on this connection.
    requests: AtomicU64,
    /// Whether there is anything to write.
    filled: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The request that is waiting for its answer.
    open_for: Option<u64>,
    bytes: Vec<u8>,
    /// The task of the connection.
    waker: Option<Waker>,
}

/// The right to send interim responses to one request.
#[derive(Debug, Clone)]
pub(crate) struct Ticket {
    shared: Arc<Shared>,
    /// `None` for a client that does not know them.
    number: Option<u64>,
}

impl Outbox {
    /// For the next request on this connection. To one of HTTP/1.0 nothing may be sent (RFC 9110 §15.2).
    pub(crate) fn ticket(&self, version: Version) -> Ticket {
        let number = self.shared.requests.fetch_add(1, Ordering::Relaxed) + 1;
        Ticket { shared: Arc::clone(&self.shared), number: (version == Version::HTTP_11).then_some(number) }
    }

    /// Waits for `answer`, and before handing it on, for all that came before it to be written.
    pub(crate) async fn before<T>(&self, answer: impl Future<Output = T>) -> T {
        let mut answer = pin!(answer);
        let mut waited = false;
        let answer = poll_fn(|cx| {
            let polled = answer.as_mut().poll(cx);
            if polled.is_pending() {
                waited = true;
                let mut state = self.shared.lock();
                state.open_for = Some(self.shared.requests.load(Ordering::Relaxed));
                state.waker = Some(cx.waker().clone());
            }
            polled
        })
        .await;
        if waited {
            poll_fn(|cx| {
                let mut state = self.shared.lock();
                if state.bytes.is_empty() {
                    state.open_for = None;
                    return Poll::Ready(());
                }
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            })
            .await;
        }
        answer
    }
}

impl Outbox {
    /// Writes to `io` what is there.
    pub(crate) fn poll_write<T>(&self, cx: &mut Context<'_>, io: &mut T) -> Poll<io::Result<()>>
    where
        T: AsyncWrite + Unpin,
    {
        if !self.shared.filled.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        let mut state = self.shared.lock();
        while !state.bytes.is_empty() {
            match ready!(Pin::new(&mut *io).poll_write(cx, &state.bytes))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => drop(state.bytes.drain(..written)),
            }
        }
        ready!(Pin::new(io).poll_flush(cx))?;
        self.shared.filled.store(false, Ordering::Release);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl Ticket {
    /// Sends an interim response, if its request still waits for the final one.
    pub(crate) fn send(&self, status: StatusCode, headers: &HeaderMap) {
        // RFC 9110 §15.2.1: nobody asked whether to continue; §15.2.2: nor to switch protocols.
        if !status.is_informational() || matches!(status.as_u16(), 100 | 101) {
            return;
        }
        let head = head(status, headers);
        let mut state = self.shared.lock();
        if self.number.is_some() && state.open_for == self.number && state.bytes.len() + head.len() <= MOST_BYTES {
            state.bytes.extend(head);
            self.shared.filled.store(true, Ordering::Release);
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
        }
    }
}

impl Shared {
    /// A panic leaves whole entries: each change is one assignment or one call.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn head(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let mut text = String::new();
    let reason = status.canonical_reason().unwrap_or("Interim");
    write!(text, "HTTP/1.1 {} {reason}\r\n", status.as_u16()).expect("a string takes all that is written");
    let mut bytes = text.into_bytes();
    for (name, value) in headers {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::headers::of_lines;

    const HINTS: StatusCode = StatusCode::EARLY_HINTS;

    /// What a client reads whose request is answered after `come` have been sent, and once more `late`.
    async fn read(version: Version, come: &[StatusCode], room: usize) -> String {
        let (mut ours, mut theirs) = tokio::io::duplex(room);
        let outbox = Outbox::default();
        let reading = tokio::spawn(async move {
            let mut text = String::new();
            theirs.read_to_string(&mut text).await.unwrap();
            text
        });
        let ticket = outbox.ticket(version);
        let (answer, answered) = tokio::sync::oneshot::channel();
        let mut answering = pin!(outbox.before(answered));
        let headers = of_lines(&["link: </a>", "x: 1"]);
        ticket.send(HINTS, &headers);
        assert!(poll_fn(|cx| Poll::Ready(answering.as_mut().poll(cx).is_pending())).await, "no answer yet");
        for status in come {
            ticket.send(*status, &headers);
        }
        answer.send("final").unwrap();
        // As a connection does: the answer is asked for, then what comes before it is written.
        let answer = poll_fn(|cx| {
            let answer = answering.as_mut().poll(cx);
            if answer.is_pending() {
                let _ = outbox.poll_write(cx, &mut ours);
            }
            answer
        })
        .await
        .unwrap();
        ticket.send(HINTS, &headers);
        ours.write_all(answer.as_bytes()).await.unwrap();
        ours.flush().await.unwrap();
        drop(ours);
        reading.await.unwrap()
    }

    #[tokio::test]
    async fn what_comes_while_an_answer_is_waited_for_comes_before_it() {
        let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nx: 1\r\n\r\n";
        for room in [1000, 7] {
            assert_eq!(read(Version::HTTP_11, &[HINTS, HINTS], room).await, format!("{hints}{hints}final"));
        }
        assert_eq!(read(Version::HTTP_11, &[], 1000).await, "final");
    }

    #[tokio::test]
    async fn what_is_not_for_this_client_is_dropped() {
        assert_eq!(read(Version::HTTP_10, &[HINTS], 1000).await, "final");
        let others = [StatusCode::CONTINUE, StatusCode::SWITCHING_PROTOCOLS, StatusCode::OK];
        assert_eq!(read(Version::HTTP_11, &others, 1000).await, "final");
        let many = read(Version::HTTP_11, &[HINTS; 1000], 1000).await;
        assert!(many.len() <= MOST_BYTES + "final".len() && many.len() > MOST_BYTES / 2, "{}", many.len());
    }

    #[tokio::test]
    async fn a_fetch_for_an_earlier_request_sends_nothing_to_a_later_one() {
        let outbox = Outbox::default();
        let earlier = outbox.ticket(Version::HTTP_11);
        let _later = outbox.ticket(Version::HTTP_11);
        let mut waiting = pin!(outbox.before(std::future::pending::<()>()));
        poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_pending())).await;
        earlier.send(HINTS, &HeaderMap::new());
        assert!(outbox.shared.lock().bytes.is_empty());
    }
}
