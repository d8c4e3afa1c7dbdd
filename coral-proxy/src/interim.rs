//! Interim responses (RFC 9110 §15.2), such as 103 with its hints, on their way from an origin to a client.
//!
//! A proxy must forward them. While a connection waits for an answer, what was before is whole and what comes has not begun: its [`Outbox`] is
//! open during that time alone, and the connection sends what is in it. What comes later is dropped.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use http::header::HeaderMap;
use http::{StatusCode, Version};

/// Bytes of interim responses that wait to be sent, at most; one that does not fit is dropped.
const MOST_BYTES: usize = 16 * 1024;
/// What a field is taken to have besides name and value.
const FIELD_BYTES: usize = 4;

/// One of them.
#[derive(Debug)]
pub(crate) struct Interim {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
}

impl Interim {
    fn bytes(&self) -> usize {
        self.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_BYTES).sum::<usize>() + 32
    }
}

/// Where interim responses wait for their connection. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outbox {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The number of the last request on this connection.
    requests: AtomicU64,
    /// Whether there is anything to send, or anybody was told that he may.
    in_use: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The request that is waiting for its answer.
    open_for: Option<u64>,
    waiting: VecDeque<Interim>,
    bytes: usize,
    /// The task of the connection.
    waker: Option<Waker>,
}

impl State {
    fn next(&mut self) -> Option<Interim> {
        let next = self.waiting.pop_front()?;
        self.bytes -= next.bytes();
        Some(next)
    }
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
        Ticket { shared: Arc::clone(&self.shared), number: (version > Version::HTTP_10).then_some(number) }
    }

    /// The next one for the last request, whose answer is still waited for.
    pub(crate) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Interim> {
        self.shared.in_use.store(true, Ordering::Relaxed);
        let mut state = self.shared.lock();
        state.open_for = Some(self.shared.requests.load(Ordering::Relaxed));
        match state.next() {
            Some(next) => Poll::Ready(next),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// The next of those that came before the answer. From now on no more are taken for it.
    pub(crate) fn next_before_answer(&self) -> Option<Interim> {
        // Most answers are not waited for.
        if !self.shared.in_use.load(Ordering::Relaxed) {
            return None;
        }
        let mut state = self.shared.lock();
        state.open_for = None;
        let next = state.next();
        if next.is_none() {
            self.shared.in_use.store(false, Ordering::Relaxed);
        }
        next
    }
}

impl Ticket {
    /// Sends an interim response, if its request still waits for the final one.
    pub(crate) fn send(&self, status: StatusCode, headers: &HeaderMap) {
        // RFC 9110 §15.2.1: nobody asked whether to continue; §15.2.2: nor to switch protocols.
        if !status.is_informational() || matches!(status.as_u16(), 100 | 101) {
            return;
        }
        let interim = Interim { status, headers: headers.clone() };
        let bytes = interim.bytes();
        let mut state = self.shared.lock();
        if self.number.is_some() && state.open_for == self.number && state.bytes + bytes <= MOST_BYTES {
            state.bytes += bytes;
            state.waiting.push_back(interim);
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

#[cfg(test)]
mod tests {
    use futures_util::task::noop_waker;

    use super::*;
    use crate::headers::of_lines;

    const HINTS: StatusCode = StatusCode::EARLY_HINTS;

    /// How many are sent for a request of this version whose answer is waited for while `come` come, one having come before and one after.
    fn sent(version: Version, come: &[StatusCode]) -> usize {
        let outbox = Outbox::default();
        let ticket = outbox.ticket(version);
        let headers = of_lines(&["link: </a>", "x: 1"]);
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        ticket.send(HINTS, &headers);
        assert!(outbox.poll_next(&mut cx).is_pending(), "nobody waited yet");
        for status in come {
            ticket.send(*status, &headers);
        }
        let first = usize::from(outbox.poll_next(&mut cx).is_ready());
        let rest =
            std::iter::from_fn(|| outbox.next_before_answer()).inspect(|interim| assert_eq!(interim.headers, headers));
        let count = first + rest.count();
        ticket.send(HINTS, &headers);
        assert!(outbox.next_before_answer().is_none(), "too late");
        count
    }

    #[test]
    fn what_comes_while_an_answer_is_waited_for_is_sent_before_it() {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            assert_eq!(sent(version, &[HINTS, HINTS]), 2);
            assert_eq!(sent(version, &[]), 0);
        }
    }

    #[test]
    fn what_is_not_for_this_client_is_dropped() {
        assert_eq!(sent(Version::HTTP_10, &[HINTS]), 0);
        assert_eq!(sent(Version::HTTP_11, &[StatusCode::CONTINUE, StatusCode::SWITCHING_PROTOCOLS, StatusCode::OK]), 0);
        let most = sent(Version::HTTP_11, &[HINTS; 1000]);
        assert!((100..600).contains(&most), "{most}");
    }

    #[test]
    fn a_fetch_for_an_earlier_request_sends_nothing_to_a_later_one() {
        let outbox = Outbox::default();
        let earlier = outbox.ticket(Version::HTTP_11);
        let _later = outbox.ticket(Version::HTTP_11);
        let waker = noop_waker();
        assert!(outbox.poll_next(&mut Context::from_waker(&waker)).is_pending());
        earlier.send(HINTS, &HeaderMap::new());
        assert!(outbox.next_before_answer().is_none());
    }
}
