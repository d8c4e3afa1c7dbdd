//! The operator's address: `/metrics`, `/health`, `/status` and `/lookup`, over HTTP/1.1.
//!
//! It asks for no password: it listens on loopback unless told otherwise, and it only ever reads. Each connection
//! carries one request, bounded in size and time, and there are few at a time.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

mod metrics;
mod status;

pub use status::Shared;
pub(crate) use status::escaped;

/// Connections at once. More wait in the kernel's queue.
const CONNECTIONS: usize = 64;

/// How long a request's head may take to come.
const HEAD: Duration = Duration::from_secs(5);

/// How long a connection may live: a lookup over dead nodes takes some seconds.
const CONNECTION: Duration = Duration::from_secs(30);

/// How long answers under way may take once the node stops.
const DRAIN: Duration = Duration::from_secs(1);

/// Bytes of a request's head.
const HEAD_BYTES: usize = 16 << 10;

/// After an accept that failed for want of descriptors: a moment for others to be closed.
const BREATH: Duration = Duration::from_millis(100);

/// Serves until `shutdown`, then lets the answers under way go out.
pub async fn run(listener: TcpListener, shared: Arc<Shared>, shutdown: impl Future<Output = ()>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accept = async {
            let place = Arc::clone(&room).acquire_owned().await.expect("the semaphore is never closed");
            (place, listener.accept().await)
        };
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            (place, accepted) = accept => match accepted {
                Ok((stream, _)) => {
                    let shared = Arc::clone(&shared);
                    connections.spawn(async move {
                        let _place = place;
                        // One request of an operator's tool that broke off is nobody else's affair.
                        drop(timeout(CONNECTION, serve(stream, shared)).await);
                    });
                }
                Err(e) => {
                    tracing::warn!("the admin address cannot accept a connection: {e}");
                    sleep(BREATH).await;
                }
            },
        }
    }
    drop(listener);
    // Whoever has connected and asked nothing is not waited for.
    let rest = async { while connections.join_next().await.is_some() {} };
    drop(timeout(DRAIN, rest).await);
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(&shared, &request).await) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn answer(shared: &Shared, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        refusal.headers_mut().insert(ALLOW, "GET, HEAD".parse().expect("a header"));
        return refusal;
    }
    match request.uri().path() {
        "/" => text(StatusCode::OK, INDEX),
        "/metrics" => match metrics::encode(shared).await {
            Ok(body) => reply(StatusCode::OK, metrics::CONTENT_TYPE, body),
            Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{e:#}\n")),
        },
        "/health" => {
            let health = status::health(shared).await;
            let code = if health.healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            json(code, &health)
        }
        "/status" => match status::status(shared).await {
            Ok(status) => json(StatusCode::OK, &status),
            Err(e) => problem(StatusCode::SERVICE_UNAVAILABLE, &e),
        },
        "/lookup" => match status::queried_url(request.uri()) {
            Some(url) => match status::lookup(shared, &url).await {
                Ok(Ok(lookup)) => json(StatusCode::OK, &lookup),
                Ok(Err(bad_url)) => problem(StatusCode::BAD_REQUEST, &bad_url),
                Err(e) => problem(StatusCode::SERVICE_UNAVAILABLE, &e),
            },
            None => problem(StatusCode::BAD_REQUEST, &anyhow::anyhow!("ask as /lookup?url=http://www.example.com/")),
        },
        _ => text(StatusCode::NOT_FOUND, INDEX),
    }
}

fn json(code: StatusCode, body: &impl serde::Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_string_pretty(body) {
        Ok(text) => reply(code, "application/json", text + "\n"),
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{e}\n")),
    }
}

fn problem(code: StatusCode, e: &anyhow::Error) -> Response<Full<Bytes>> {
    json(code, &serde_json::json!({ "error": format!("{e:#}") }))
}

fn text(code: StatusCode, body: &str) -> Response<Full<Bytes>> {
    reply(code, "text/plain; charset=utf-8", body.to_owned())
}

fn reply(code: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let response =
        Response::builder().status(code).header(CONTENT_TYPE, content_type).header(CACHE_CONTROL, "no-store");
    response.body(Full::new(body.into())).expect("a status and two headers of our own")
}

const INDEX: &str = "\
A node of CoralCDN. Here are:
  /metrics             counters, in Prometheus' text format
  /health              200 when the node does its work, else 503, and why
  /status              clusters, neighbours, cache and traffic, as JSON
  /lookup?url=URL      where this node finds a URL in the index: each hop, and the references
";
