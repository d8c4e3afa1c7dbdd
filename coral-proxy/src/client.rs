//! The HTTP client for origins and other nodes: hyper's, with this node's resolver, TLS and time-out for connecting.
//!
//! It follows no redirect, knows no proxy of the environment, keeps no cookie and undoes no coding: a cache passes bytes
//! on. Connections are kept and used again.

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use tower_service::Service;
use url::Url;

use crate::resolver::Resolver;

/// Connections to one host that are kept while idle, and for how long.
const IDLE_PER_HOST: usize = 8;
const IDLE_FOR: Duration = Duration::from_secs(30);

type Connector = HttpsConnector<HttpConnector<Resolver>>;

/// Sends requests without a body. Clones share their connections.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    inner: legacy::Client<Timed, Empty<Bytes>>,
}

/// What is done with the interim responses (RFC 9110 §15.2) that come before the one that was asked for.
pub(crate) type OnInterim = dyn Fn(StatusCode, &HeaderMap) + Send + Sync;

impl Client {
    /// One that connects to what `resolver` says, and believes what `tls` does.
    pub(crate) fn new(resolver: Resolver, tls: ClientConfig, connect_timeout: Duration) -> Self {
        let mut tcp = HttpConnector::new_with_resolver(resolver);
        // https is made of it one layer above.
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let connector = Timed { inner: HttpsConnector::from((tcp, tls)), limit: connect_timeout };
        let inner = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .pool_idle_timeout(IDLE_FOR)
            .build(connector);
        Self { inner }
    }

    /// Sends a request and waits for the head of the final response.
    pub(crate) async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        on_interim: Option<std::sync::Arc<OnInterim>>,
    ) -> Result<Response<Incoming>, SendError> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = method;
        *request.uri_mut() = Uri::try_from(url.as_str()).map_err(|error| SendError(error.into()))?;
        *request.headers_mut() = headers;
        if let Some(on_interim) = on_interim {
            hyper::ext::on_informational(&mut request, move |interim| on_interim(interim.status(), interim.headers()));
        }
        self.inner.request(request).await.map_err(|error| SendError(error.into()))
    }
}

/// Why there is no response. What is to blame lies among its causes.
#[derive(Debug)]
pub(crate) struct SendError(Box<dyn StdError + Send + Sync>);

impl SendError {
    /// What lies under it, from the outside in.
    pub(crate) fn causes(&self) -> impl Iterator<Item = &(dyn StdError + 'static)> {
        let outermost: &(dyn StdError + 'static) = self.0.as_ref();
        std::iter::successors(Some(outermost), |&cause| {
            // The source of an I/O error is that of the error it wraps: the wrapped one itself would be passed over. The
            // errors of TLS come wrapped twice.
            match cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                Some(wrapped) => Some(wrapped),
                None => cause.source(),
            }
        })
    }
}

/// A connector with a bound on all that connecting takes: the name, the connection, TLS.
#[derive(Debug, Clone)]
struct Timed {
    inner: Connector,
    limit: Duration,
}

impl Service<Uri> for Timed {
    type Response = <Connector as Service<Uri>>::Response;
    type Error = Box<dyn StdError + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connecting = tokio::time::timeout(self.limit, self.inner.call(to));
        Box::pin(
            async move { connecting.await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into())) },
        )
    }
}
