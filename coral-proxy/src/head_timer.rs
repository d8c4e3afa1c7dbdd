//! How long a request's head may take, without a timer for each request.
//!
//! A timer for each head would be two changes, for each request, of the timers that all connections of a thread share. So a connection has one timer, which outlives
//! the heads: it is set anew only when it fires, if by then another time is waited for.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// The timer of one connection.
#[derive(Debug, Default)]
pub(crate) struct HeadTimer {
    /// None before anything was waited for.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl HeadTimer {
    /// Ready at `deadline`, another one than last time or the same.
    pub(crate) fn poll_until(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if alarm.deadline() > deadline {
            alarm.as_mut().reset(deadline);
        }
        loop {
            ready!(alarm.as_mut().poll(cx));
            if alarm.deadline() == deadline {
                return Poll::Ready(());
            }
            alarm.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_wait_ends_when_it_should_though_the_timer_is_the_same() {
        let mut timer = HeadTimer::default();
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let elapsed = || began.elapsed().as_secs();
        assert!(poll_fn(|cx| Poll::Ready(timer.poll_until(at(15), cx).is_pending())).await);
        tokio::time::advance(Duration::from_secs(5)).await;
        poll_fn(|cx| timer.poll_until(at(20), cx)).await;
        assert_eq!(elapsed(), 20, "a later one than the timer was set for");
        assert!(poll_fn(|cx| Poll::Ready(timer.poll_until(at(100), cx).is_pending())).await);
        poll_fn(|cx| timer.poll_until(at(30), cx)).await;
        assert_eq!(elapsed(), 30, "an earlier one");
        poll_fn(|cx| timer.poll_until(at(1), cx)).await;
        assert_eq!(elapsed(), 30, "one that is over");
    }
}
