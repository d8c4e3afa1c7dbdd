//! The origin of a network of processes: a web server on a thread inside the origin's namespace, which counts.
//!
//! It serves the files of [`origin`], as many of them as are asked for, each under any query: so that a scenario can ask for
//! objects that nobody has yet, of bytes that it knows.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::netns::Namespace;
use crate::origin;

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

fn answer<B>(request: &Request<B>) -> Response<Full<Bytes>> {
    let response = Response::builder();
    let built = match origin::number_of(request.uri().path()) {
        _ if !matches!(*request.method(), Method::GET | Method::HEAD) => {
            response.status(StatusCode::METHOD_NOT_ALLOWED).body(Full::default())
        }
        None => response.status(StatusCode::NOT_FOUND).body(Full::from("There is no such file.\n")),
        Some(number) => {
            let tag = format!("\"file-{number}\"");
            let response = response.header(CACHE_CONTROL, "public, max-age=3600").header(ETAG, &tag);
            let known = request.headers().get(IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
            if known.is_some_and(|tags| tags.contains(&tag)) {
                response.status(StatusCode::NOT_MODIFIED).body(Full::default())
            } else {
                response.header(CONTENT_TYPE, "application/octet-stream").body(Full::from(origin::file(number)))
            }
        }
    };
    built.expect("headers of our own")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_same_bytes_under_any_query() {
        let get = |target: &str| answer(&Request::get(target).body(()).unwrap());
        for target in ["/files/01.bin", "/files/01.bin?run=7"] {
            let response = get(target);
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(http_body::Body::size_hint(response.body()).exact(), Some(origin::FILE_BYTES as u64));
        }
        assert_eq!(get("/files/13.bin").status(), StatusCode::NOT_FOUND);
    }
}
