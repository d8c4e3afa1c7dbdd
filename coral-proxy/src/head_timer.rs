//! How long a request's head may take, without a timer for each request.
//!
//! hyper asks for a timer before each head and drops it when the head is there. To tokio that is two changes of the timers
//! that all connections share. So a connection has one timer, which outlives the heads: it is set anew only when it
//! fires, if by then another time is waited for.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Sleep, Timer};
use tokio::time::Instant;

/// The timer of one connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct HeadTimer {
    // Never contended: a connection is one task. hyper wants what it waits for to be `Sync`.
    alarm: Arc<Mutex<Option<Alarm>>>,
}

type Alarm = Pin<Box<tokio::time::Sleep>>;

/// Until `deadline`.
struct Wait {
    timer: HeadTimer,
    deadline: Instant,
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until((Instant::now() + duration).into())
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Wait { timer: self.clone(), deadline: deadline.into() })
    }

    fn now(&self) -> std::time::Instant {
        // tokio's, which tests can stop.
        Instant::now().into()
    }
}

impl Sleep for Wait {}

impl Future for Wait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut alarm = self.timer.alarm.lock().unwrap_or_else(PoisonError::into_inner);
        let alarm = alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(self.deadline)));
        if alarm.deadline() > self.deadline {
            alarm.as_mut().reset(self.deadline);
        }
        loop {
            ready!(alarm.as_mut().poll(cx));
            if alarm.deadline() == self.deadline {
                return Poll::Ready(());
            }
            alarm.as_mut().reset(self.deadline);
        }
    }
}

impl fmt::Debug for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wait").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_wait_ends_when_it_should_though_the_timer_is_the_same() {
        let timer = HeadTimer::default();
        let began = Instant::now();
        let at = |seconds| (began + Duration::from_secs(seconds)).into();
        let elapsed = || began.elapsed().as_secs();
        let mut first = timer.sleep_until(at(15));
        assert!(futures_util::poll!(&mut first).is_pending());
        drop(first);
        tokio::time::advance(Duration::from_secs(5)).await;
        timer.sleep_until(at(20)).await;
        assert_eq!(elapsed(), 20, "a later one than the timer was set for");
        let mut late = timer.sleep_until(at(100));
        assert!(futures_util::poll!(&mut late).is_pending());
        timer.sleep_until(at(30)).await;
        assert_eq!(elapsed(), 30, "an earlier one");
        timer.sleep(Duration::from_secs(7)).await;
        assert_eq!(elapsed(), 37);
        timer.sleep_until(at(1)).await;
        assert_eq!(elapsed(), 37, "one that is over");
    }
}
