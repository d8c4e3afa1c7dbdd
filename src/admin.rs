//! The operator's address: `/metrics`, `/health`, `/status`, `/lookup`, `/explain`, `/map`, `/purge`, `/drain` and the node's own page, over HTTP/1.1.
//!
//! It asks for no password: it listens on loopback unless told otherwise, and it only ever reads, but for `/purge` and `/drain`, which want a token. Each connection
//! carries one request, bounded in size and time, and there are few at a time. Events of the page alone last longer: how long,
//! and for how many, `page` says.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coral_proxy::front::{PageBody, Visit};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, WWW_AUTHENTICATE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

mod map;
mod metrics;
mod purge;
mod status;
mod token;

pub use status::Shared;
pub(crate) use status::{escaped, unescaped};
pub(crate) use token::token;

use crate::page::View;

/// Connections at once. More wait in the kernel's queue.
const CONNECTIONS: usize = 64;

/// How long a request's head may take to come.
const HEAD: Duration = Duration::from_secs(5);

/// How long a connection may live: a lookup over dead nodes takes some seconds.
const CONNECTION: Duration = Duration::from_secs(30);

/// How long one that carries events may live beyond that: they end by themselves before, unless nobody takes them.
const LIVE: Duration = Duration::from_secs(330);

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
                Ok((stream, client)) => {
                    let shared = Arc::clone(&shared);
                    connections.spawn(async move {
                        let _place = place;
                        // One request of an operator's tool that broke off is nobody else's affair.
                        serve(stream, client.ip(), shared).await;
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

/// One connection, until it ends or its time is over.
async fn serve(stream: TcpStream, client: IpAddr, shared: Arc<Shared>) {
    let listens = AtomicBool::new(false);
    let service = service_fn(|request| {
        let (shared, listens) = (Arc::clone(&shared), &listens);
        async move {
            let response = answer(&shared, client, request).await;
            let is_live = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream");
            listens.store(is_live, Ordering::Relaxed);
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let ended = timeout(CONNECTION, &mut connection).await;
    if ended.is_err() && listens.load(Ordering::Relaxed) {
        drop(timeout(LIVE, connection).await);
    }
}

async fn answer(shared: &Shared, client: IpAddr, request: Request<Incoming>) -> Response<PageBody> {
    if *request.method() == Method::POST && matches!(request.uri().path(), "/purge" | "/drain") {
        return match request.uri().path() {
            _ if !is_meant(shared, &request) => misdirected(),
            "/purge" => purge::purge(shared, request).await,
            _ => drain(shared, &request).await,
        };
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        refusal.headers_mut().insert(ALLOW, "GET, HEAD".parse().expect("a header"));
        return refusal;
    }
    if !matches!(request.uri().path(), "/metrics" | "/health") && !is_meant(shared, &request) {
        return misdirected();
    }
    match request.uri().path() {
        "/" | "/coralize" | "/events" | "/page.css" | "/page.js" | "/icon.svg" => {
            let (method, uri, headers) = (request.method(), request.uri(), request.headers());
            let authority = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
            let visit = Visit { method, uri, headers, authority, suffix: shared.page.suffix(), client };
            shared.page.answer(View::Operator, visit).await
        }
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
        "/map" => match map::map(shared).await {
            Ok(map) => json(StatusCode::OK, &map),
            Err(e) => problem(StatusCode::SERVICE_UNAVAILABLE, &e),
        },
        // For who looks at it in a browser.
        "/map.svg" => match map::map(shared).await {
            Ok(map) => reply(StatusCode::OK, "image/svg+xml", map.svg),
            Err(e) => problem(StatusCode::SERVICE_UNAVAILABLE, &e),
        },
        "/figures" => match shared.page.figures().await {
            Ok(figures) => json(StatusCode::OK, &figures),
            Err(e) => problem(StatusCode::SERVICE_UNAVAILABLE, &e),
        },
        path @ ("/lookup" | "/explain") => match status::queried_url(request.uri()) {
            Some(url) if path == "/lookup" => of_url(status::lookup(shared, &url).await),
            Some(url) => of_url(status::explain(shared, &url).await),
            None => problem(StatusCode::BAD_REQUEST, &anyhow::anyhow!("ask as {path}?url=http://www.example.com/")),
        },
        _ => text(StatusCode::NOT_FOUND, INDEX),
    }
}

/// Has the node leave its network, and then stop; says when.
async fn drain(shared: &Shared, request: &Request<Incoming>) -> Response<PageBody> {
    match token::check(shared, request.headers()) {
        Ok(()) => {
            let after = humantime::format_duration(shared.drain.begin().await).to_string();
            json(StatusCode::OK, &serde_json::json!({ "stops_in": after }))
        }
        Err((status, error)) => {
            tracing::warn!("that the node drain was refused at the admin address: {error:#}");
            refusal(status, &error)
        }
    }
}

/// What who may not change anything is told.
fn refusal(status: StatusCode, error: &anyhow::Error) -> Response<PageBody> {
    let mut response = problem(status, error);
    if status == StatusCode::UNAUTHORIZED {
        // RFC 9110 §11.6.1.
        response.headers_mut().insert(WWW_AUTHENTICATE, "Bearer".parse().expect("a header"));
    }
    response
}

fn misdirected() -> Response<PageBody> {
    text(StatusCode::MISDIRECTED_REQUEST, "ask by an address or name of this machine, such as 127.0.0.1\n")
}

/// Whether a request to loopback names it. A browser sends here whatever a web site asks for under its own name, if that name
/// leads to 127.0.0.1 by now (DNS rebinding), and lets it read the answer: what others ask for is in some of them.
fn is_meant(shared: &Shared, request: &Request<Incoming>) -> bool {
    if !shared.addresses.admin.is_some_and(|addr| addr.ip().is_loopback()) {
        return true;
    }
    let Some(Ok(host)) = request.headers().get(HOST).map(|host| host.to_str()) else {
        return true;
    };
    let name = host.rsplit_once(':').map_or(host, |(name, port)| if port.contains(']') { host } else { name });
    let is_local_name = name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost");
    // An address can be no other site's name.
    is_local_name || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

/// What is said of a URL. The inner error is the asker's.
fn of_url(said: anyhow::Result<anyhow::Result<impl serde::Serialize>>) -> Response<PageBody> {
    match said {
        Ok(Ok(body)) => json(StatusCode::OK, &body),
        Ok(Err(e)) => problem(StatusCode::BAD_REQUEST, &e),
        Err(e) => problem(StatusCode::SERVICE_UNAVAILABLE, &e),
    }
}

fn json(code: StatusCode, body: &impl serde::Serialize) -> Response<PageBody> {
    match serde_json::to_string_pretty(body) {
        Ok(text) => reply(code, "application/json", text + "\n"),
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{e}\n")),
    }
}

fn problem(code: StatusCode, e: &anyhow::Error) -> Response<PageBody> {
    json(code, &serde_json::json!({ "error": format!("{e:#}") }))
}

fn text(code: StatusCode, body: &str) -> Response<PageBody> {
    reply(code, "text/plain; charset=utf-8", body.to_owned())
}

fn reply(code: StatusCode, content_type: &'static str, body: String) -> Response<PageBody> {
    let response =
        Response::builder().status(code).header(CONTENT_TYPE, content_type).header(CACHE_CONTROL, "no-store");
    response.body(Full::<Bytes>::from(body).boxed_unsync()).expect("a status and two headers of our own")
}

const INDEX: &str = "\
A node of CoralCDN. Here are:
  /                    the node's page, for a browser
  /metrics             counters, in Prometheus' text format
  /health              200 when the node does its work, else 503, and why
  /status              clusters, neighbours, cache and traffic, as JSON
  /figures             what it does at this moment, as JSON
  /map                 the nodes that it can reach, as JSON and as a picture; takes some seconds
  /map.svg             the picture alone
  /lookup?url=URL      where this node finds a URL in the index: each hop, and the references
  /explain?url=URL     what becomes of the next request for a URL: each rule, its field and its section
  /purge               to POST patterns to, a line each, with the token of `admin.token`: they are asked for again
  /drain               to POST to, with that token: the node leaves its network, and then stops
";
