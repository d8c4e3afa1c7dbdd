//! The origin of a network of processes: a web server on a thread inside the origin's namespace, which counts.
//!
//! It serves the files and streams of [`origin`], each under any query: so that a scenario can ask for objects that nobody has
//! yet, of bytes that it knows.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::num::NonZeroU64;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{self, Poll, ready};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, IF_RANGE,
    RANGE,
};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::netns::Namespace;
use crate::origin::{self, Stream};

/// A running web server. It ends when dropped.
#[derive(Debug)]
pub(super) struct Web {
    asked: Arc<Mutex<BTreeMap<String, u64>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Web {
    /// Serves at port 80 of `address`, inside a namespace.
    pub(super) fn start(host: &Namespace, address: IpAddr) -> anyhow::Result<Self> {
        let listener = host.run(|| TcpListener::bind((address, 80)))?;
        let listener = listener.with_context(|| format!("the origin cannot listen at {address}"))?;
        listener.set_nonblocking(true).context("the origin cannot listen")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start a runtime")?;
        let asked = Arc::new(Mutex::new(BTreeMap::new()));
        let (stop, stopped) = oneshot::channel();
        // The socket is in the namespace, so that the thread need not be.
        let thread = thread::Builder::new().name("origin".to_owned()).spawn({
            let asked = Arc::clone(&asked);
            move || {
                runtime.block_on(async {
                    tokio::select! {
                        // Dropped, which is as good as told.
                        _ = stopped => {}
                        // Only a socket that is none ends it: then nobody is served, which the scenario sees.
                        _ = serve(listener, &asked) => {}
                    }
                });
            }
        });
        Ok(Self { asked, stop: Some(stop), thread: Some(thread.context("cannot start a thread")?) })
    }

    /// Requests by path and query, whatever the answer was.
    pub(super) fn asked(&self) -> BTreeMap<String, u64> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.stop.take();
        // One that has panicked has said so.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn serve(listener: TcpListener, asked: &Arc<Mutex<BTreeMap<String, u64>>>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let asked = Arc::clone(asked);
                connections.spawn(async move {
                    let service = service_fn(move |request: Request<Incoming>| {
                        let target = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
                        *asked.lock().unwrap_or_else(PoisonError::into_inner).entry(target).or_default() += 1;
                        let answer = answer(&request);
                        async move { Ok::<_, Infallible>(answer) }
                    });
                    let http = hyper::server::conn::http1::Builder::new()
                        .timer(TokioTimer::new())
                        .serve_connection(TokioIo::new(stream), service);
                    // A node that hangs up has its reasons.
                    drop(http.await);
                });
            }
        }
    }
}

fn answer<B>(request: &Request<B>) -> Response<Body> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return bare(StatusCode::METHOD_NOT_ALLOWED);
    }
    let path = request.uri().path();
    if let Some(stream) = Stream::at(path) {
        return stream_from(stream, request.headers());
    }
    let Some(number) = origin::number_of(path) else {
        return bare(StatusCode::NOT_FOUND);
    };
    let tag = format!("\"file-{number}\"");
    let known = request.headers().get(IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
    if known.is_some_and(|tags| tags.contains(&tag)) {
        return headed(StatusCode::NOT_MODIFIED, &tag, Empty::new().boxed());
    }
    headed(StatusCode::OK, &tag, Full::from(origin::file(number)).boxed())
}

fn bare(status: StatusCode) -> Response<Body> {
    Response::builder().status(status).body(Empty::new().boxed()).expect("a head of our own")
}

fn headed(status: StatusCode, tag: &str, body: Body) -> Response<Body> {
    let response = Response::builder().status(status).header(CACHE_CONTROL, "public, max-age=3600").header(ETAG, tag);
    response.header(CONTENT_TYPE, "application/octet-stream").body(body).expect("a head of our own")
}

/// A stream, or one part of it (RFC 9110 §14.2) where one is asked for of this very stream.
fn stream_from(stream: Stream, asked: &HeaderMap) -> Response<Body> {
    let tag = format!("\"stream-{}\"", stream.length);
    let of_this = asked.get(IF_RANGE).is_none_or(|wanted| wanted.as_bytes() == tag.as_bytes());
    let part = asked.get(RANGE).filter(|_| of_this).and_then(|range| part(range.to_str().ok()?, stream.length));
    let Range { start: at, end } = part.clone().unwrap_or(0..stream.length);
    let status = if part.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let mut response = headed(status, &tag, StreamBody { at, end, rate: stream.rate, due: None }.boxed());
    response.headers_mut().insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if part.is_some() {
        let place = format!("bytes {at}-{}/{}", end - 1, stream.length);
        response.headers_mut().insert(CONTENT_RANGE, place.parse().expect("digits"));
    }
    response
}

/// The bytes that `bytes=FIRST-` or `bytes=FIRST-LAST` names; all else is passed over, as it may be.
fn part(range: &str, length: u64) -> Option<Range<u64>> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let first = first.parse().ok()?;
    let end = if last.is_empty() { length } else { last.parse::<u64>().ok()?.saturating_add(1).min(length) };
    (first < end).then_some(first..end)
}

type Body = BoxBody<Bytes, Infallible>;

/// The bytes of a stream, made as they are sent.
#[derive(Debug)]
struct StreamBody {
    at: u64,
    end: u64,
    rate: Option<NonZeroU64>,
    /// When the next piece may go.
    due: Option<Pin<Box<Sleep>>>,
}

impl hyper::body::Body for StreamBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.at == self.end {
            return Poll::Ready(None);
        }
        if let Some(due) = &mut self.due {
            ready!(due.as_mut().poll(cx));
        }
        let mut piece = vec![0; PIECE.min(self.end - self.at) as usize];
        origin::fill(self.at, &mut piece);
        self.at += piece.len() as u64;
        self.due = self.rate.map(|rate| {
            let time = Duration::from_secs_f64(piece.len() as f64 / rate.get() as f64);
            let since = self.due.as_ref().map_or_else(Instant::now, |due| due.deadline());
            Box::pin(sleep_until(since + time))
        });
        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.end - self.at)
    }
}

/// Bytes that are sent at once.
const PIECE: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use http_body::Body as _;

    use super::*;

    #[test]
    fn a_file_has_the_same_bytes_under_any_query() {
        let get = |target: &str| answer(&Request::get(target).body(()).unwrap());
        for target in ["/files/01.bin", "/files/01.bin?run=7"] {
            let response = get(target);
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.body().size_hint().exact(), Some(origin::FILE_BYTES as u64));
        }
        assert_eq!(get("/files/13.bin").status(), StatusCode::NOT_FOUND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_takes_its_time_and_has_parts() {
        let stream = Stream { length: 200_000, rate: NonZeroU64::new(100_000) };
        let begun = Instant::now();
        let all = answer(&Request::get(stream.path()).body(()).unwrap());
        let tag = all.headers()[ETAG].clone();
        let all = all.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(all.len(), 200_000);
        // The last piece goes when those before it have had their time.
        assert!((1.9..2.0).contains(&begun.elapsed().as_secs_f64()), "{:?}", begun.elapsed());

        let ask = |range: &str, tag: &str| {
            let request = Request::get(stream.path()).header(RANGE, range).header(IF_RANGE, tag);
            answer(&request.body(()).unwrap())
        };
        let part = ask("bytes=150001-", tag.to_str().unwrap());
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
        assert_eq!(part.headers()[CONTENT_RANGE], "bytes 150001-199999/200000");
        assert_eq!(part.into_body().collect().await.unwrap().to_bytes(), all[150_001..]);
        let other = ask("bytes=150001-", "\"another\"");
        assert_eq!(other.status(), StatusCode::OK);
    }
}
