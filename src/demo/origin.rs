//! The web server that the demonstration's site lives on: it counts what it is asked, which is what the whole network
//! is there to keep low.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LAST_MODIFIED};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::site::Object;

/// A day of 2004 on which something was presented; any fixed date would do.
const MODIFIED: &str = "Mon, 29 Mar 2004 09:00:00 GMT";

/// A running web server. It ends when dropped.
#[derive(Debug)]
pub struct Origin {
    addr: SocketAddr,
    site: Arc<Site>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Site {
    objects: Vec<Object>,
    /// Requests by path, whatever the answer was.
    asked: Mutex<BTreeMap<String, u64>>,
}

impl Origin {
    /// Serves `objects` on a free port of 127.0.0.1.
    pub async fn start(objects: Vec<Object>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let asked = Mutex::default();
        let site = Arc::new(Site { objects, asked });
        let task = tokio::spawn(accept(listener, Arc::clone(&site)));
        Ok(Self { addr, site, task })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How often each path was asked for, by whichever method, and whatever came of it.
    pub fn asked(&self) -> BTreeMap<String, u64> {
        self.site.lock().clone()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Site {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u64>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        *self.lock().entry(path.to_owned()).or_default() += 1;
        let response = Response::builder();
        let empty = Full::default();
        let built = match self.objects.iter().find(|object| object.path == path) {
            _ if !matches!(*request.method(), Method::GET | Method::HEAD) => {
                response.status(StatusCode::METHOD_NOT_ALLOWED).header(ALLOW, "GET, HEAD").body(empty)
            }
            None => response.status(StatusCode::NOT_FOUND).body(Full::from("There is no such page.\n")),
            Some(object) => {
                let response = response
                    .header(ETAG, object.etag())
                    .header(CACHE_CONTROL, "public, max-age=3600")
                    .header(LAST_MODIFIED, MODIFIED);
                let known = request.headers().get(IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
                if known.is_some_and(|tags| tags.contains(&object.etag())) {
                    response.status(StatusCode::NOT_MODIFIED).body(empty)
                } else {
                    let body = if request.method() == Method::HEAD { empty } else { Full::new(object.body.clone()) };
                    response
                        .header(CONTENT_TYPE, object.content_type)
                        .header(CONTENT_LENGTH, object.body.len())
                        .body(body)
                }
            }
        };
        built.expect("headers of our own")
    }
}

async fn accept(listener: TcpListener, site: Arc<Site>) {
    // Aborted together with this task.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let site = Arc::clone(&site);
                connections.spawn(async move {
                    let service = service_fn(move |request| {
                        let answer = site.answer(&request);
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
