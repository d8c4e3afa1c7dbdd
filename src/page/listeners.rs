//! Those who see the page live: server-sent events (HTML Living Standard §9.2), for a few at a time.
//!
//! The pieces are written once for all of them. One that does not take what it is sent is left out; each is asked to come
//! again after a while, so that places become free, and all are when the node stops.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep};

use super::pieces::Piece;
use super::{View, client_of};

/// Those who listen at a time, of each view: as many connections of the cache are taken, at most.
const MOST: usize = 32;

/// Of one client: a few windows.
const MOST_OF_ONE: usize = 4;

/// What may wait for one of them; who is behind by more is left out.
const QUEUE: usize = 4;

/// How long one of them listens before he comes again.
const LIFE: Duration = Duration::from_secs(300);

/// Nothing to see: whoever has gone is noticed.
const NOTHING: &[u8] = b":\n\n";

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Listeners(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    is_closed: bool,
    places: Vec<Place>,
    /// What was told last, by view: only what has changed since is told.
    last: [Vec<Piece>; 2],
}

#[derive(Debug)]
struct Place {
    view: View,
    client: IpAddr,
    to: mpsc::Sender<Bytes>,
}

impl Listeners {
    /// One more, who is told `pieces` first; `None` if there is no room.
    pub(super) fn join(&self, view: View, client: IpAddr, pieces: &[Piece]) -> Option<Events> {
        let client = client_of(client);
        let mut state = self.lock();
        state.places.retain(|place| !place.to.is_closed());
        let of_view = || state.places.iter().filter(|place| place.view == view);
        let is_full =
            of_view().count() >= MOST || of_view().filter(|place| place.client == client).count() >= MOST_OF_ONE;
        if state.is_closed || is_full {
            return None;
        }
        let (to, from) = mpsc::channel(QUEUE);
        to.try_send(event(pieces.iter())).ok()?;
        state.places.push(Place { view, client, to });
        Some(Events { from, until: Box::pin(sleep(LIFE)) })
    }

    /// Whether anybody has this view.
    pub(super) fn are_there(&self, view: View) -> bool {
        self.lock().places.iter().any(|place| place.view == view)
    }

    /// Tells all who have this view what of `pieces` is new.
    pub(super) fn tell(&self, view: View, pieces: &[Piece]) {
        let mut state = self.lock();
        let last = &mut state.last[view as usize];
        let mut changed = pieces.iter().filter(|piece| !last.contains(piece)).peekable();
        let bytes = match changed.peek() {
            Some(_) => event(changed),
            None => Bytes::from_static(NOTHING),
        };
        *last = pieces.to_vec();
        state.places.retain(|place| place.view != view || place.to.try_send(bytes.clone()).is_ok());
    }

    /// Sends all away, and lets nobody in any more.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.places.clear();
    }

    /// A panic elsewhere leaves whole places here.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Pieces as one event. JSON has no line ends of its own, so that it is one line of data.
fn event<'a>(pieces: impl Iterator<Item = &'a Piece>) -> Bytes {
    let map: serde_json::Map<_, _> = pieces.map(|piece| (piece.id.to_owned(), piece.html.clone().into())).collect();
    format!("retry: 3000\ndata: {}\n\n", serde_json::Value::Object(map)).into()
}

/// The body of a response that tells one of them.
#[derive(Debug)]
pub(super) struct Events {
    from: mpsc::Receiver<Bytes>,
    until: Pin<Box<Sleep>>,
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.until.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        Poll::Ready(ready!(self.from.poll_recv(cx)).map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn pieces(now: &str) -> Vec<Piece> {
        vec![Piece { id: "now", html: now.to_owned() }, Piece { id: "nodes", html: "<b>\n</b>".to_owned() }]
    }

    fn client(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    async fn next(events: &mut Events) -> Option<String> {
        let frame = events.frame().await?.unwrap();
        Some(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn all_is_told_first_then_what_has_changed_then_that_it_is_over() {
        let listeners = Listeners::default();
        let mut events = listeners.join(View::Public, client(1), &pieces("1")).unwrap();
        listeners.tell(View::Public, &pieces("1"));
        listeners.tell(View::Public, &pieces("2"));
        listeners.tell(View::Public, &pieces("2"));
        listeners.tell(View::Operator, &pieces("secret"));
        listeners.close();
        let mut told = Vec::new();
        while let Some(event) = next(&mut events).await {
            told.push(event);
        }
        let all = "retry: 3000\ndata: {\"nodes\":\"<b>\\n</b>\",\"now\":\"1\"}\n\n";
        assert_eq!(told, [all, all, "retry: 3000\ndata: {\"now\":\"2\"}\n\n", ":\n\n"]);
        assert!(listeners.join(View::Public, client(1), &pieces("3")).is_none(), "it is over");
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_few_and_fewer_of_one_client_and_who_leaves_makes_room() {
        let listeners = Listeners::default();
        let join = |last| listeners.join(View::Public, client(last), &pieces("1"));
        let mut all: Vec<Events> = (0..MOST_OF_ONE).map(|_| join(1).unwrap()).collect();
        assert!(join(1).is_none());
        all.extend((MOST_OF_ONE..MOST).map(|number| join(10 + number as u8).unwrap()));
        assert!(join(2).is_none());
        assert!(
            listeners.join(View::Operator, client(2), &pieces("1")).is_some(),
            "the operator has places of his own"
        );
        drop(all.pop());
        assert!(join(2).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_too_slow_is_left_out_and_who_has_listened_long_comes_again() {
        let listeners = Listeners::default();
        let mut slow = listeners.join(View::Public, client(1), &pieces("1")).unwrap();
        let mut good = listeners.join(View::Public, client(2), &pieces("1")).unwrap();
        for number in 0..2 * QUEUE {
            assert!(next(&mut good).await.is_some());
            listeners.tell(View::Public, &pieces(&number.to_string()));
        }
        let mut taken = 0;
        while next(&mut slow).await.is_some() {
            taken += 1;
        }
        assert_eq!(taken, QUEUE);
        assert!(next(&mut good).await.is_some());
        assert_eq!(next(&mut good).await, None, "its time is over");
    }
}
