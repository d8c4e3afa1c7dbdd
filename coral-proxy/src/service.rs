//! One request from the top: checked, understood, served, answered, counted, logged.

use std::sync::Arc;
use std::time::SystemTime;

use http::header::{CONTENT_LENGTH, HOST, HeaderMap, MAX_FORWARDS, TRANSFER_ENCODING};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::cache_status::CacheStatus;
use crate::chain::Waiting;
use crate::error::ProxyError;
use crate::fetch::{Fetcher, Wanted};
use crate::headers::came_through_coral;
use crate::interim::Ticket;
use crate::metrics::RequestLabels;
use crate::policy::CacheControl;
use crate::reply::{ReplyBody, UnderWay, of_error, of_object, of_options};
use crate::url::{CoralUrl, Names, UrlError};

/// What answers requests. Shared by all connections.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) fetcher: Arc<Fetcher>,
    pub(crate) names: Names,
}

/// What became of a request, for log and metrics.
struct Outcome {
    response: Response<ReplyBody>,
    word: &'static str,
    error: Option<ProxyError>,
}

impl Service {
    /// Answers one request of `client`, as the log names it. There is always an answer.
    pub(crate) async fn answer(
        &self,
        client: &str,
        request: Request<Incoming>,
        interim: Ticket,
    ) -> Response<ReplyBody> {
        let began = Instant::now();
        let metrics = &self.fetcher.metrics;
        let under_way = UnderWay::new(metrics.in_flight.clone());
        let head = request.into_parts().0;
        // Only a node asks for what is cached and says that it is one. Who pretends gains nothing by it.
        let came_through = came_through_coral(&head.headers);
        let from_peer = came_through && CacheControl::of(&head.headers).only_if_cached;
        let from = if from_peer { "peer" } else { "client" };
        let is_loop = came_through && !from_peer;
        let outcome = match self.outcome(&head, from_peer, is_loop, interim).await {
            Ok(outcome) => outcome,
            Err(error) => Outcome {
                response: of_error(&error, &head.method),
                word: CacheStatus::of_error(&error).word(),
                error: Some(error),
            },
        };
        let status = outcome.response.status();
        let took = began.elapsed();
        metrics.seconds.observe(took.as_secs_f64());
        metrics.answered(&RequestLabels { from, status: class(status), cache: outcome.word });
        // That a node has not what another one hoped for is no error.
        if let Some(error) = outcome.error.as_ref().filter(|error| CacheStatus::of_error(error) == CacheStatus::Own) {
            metrics.error(error.verdict());
        }
        tracing::info!(
            target: "coral_proxy::access",
            %client,
            method = %head.method,
            host = head.headers.get(HOST).map(tracing::field::debug),
            uri = %head.uri,
            status = status.as_u16(),
            cache = outcome.word,
            from,
            error = outcome.error.as_ref().map(tracing::field::display),
            ms = took.as_millis() as u64,
        );
        let sent = metrics.moved("sent", from);
        outcome.response.map(|body| body.counted(sent, under_way))
    }

    async fn outcome(
        &self,
        head: &http::request::Parts,
        from_peer: bool,
        is_loop: bool,
        interim: Ticket,
    ) -> Result<Outcome, ProxyError> {
        check_method(&head.method)?;
        check_body(&head.headers)?;
        if head.method == Method::OPTIONS && goes_no_further(head) {
            return Ok(Outcome { response: of_options(), word: "own", error: None });
        }
        // An absolute target (RFC 9112 §3.2.2) of another scheme is none of ours.
        if head.uri.scheme_str().is_some_and(|scheme| !matches!(scheme, "http" | "https")) {
            return Err(ProxyError::Url(UrlError::Scheme));
        }
        let authority = authority(head)?;
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        let url = CoralUrl::parse(authority, target, &self.names)?;
        if is_loop {
            return Err(ProxyError::Loop);
        }
        let found = self.fetcher.cache.find(url.key(), &head.headers).await;
        let now = SystemTime::now();
        let (served, now) = match self.fetcher.hit(&head.method, &found, now) {
            Some(hit) => (hit, now),
            None => {
                // A fetch goes on without its client, and so has all of it for itself.
                let wanted = Wanted {
                    url: url.clone(),
                    method: head.method.clone(),
                    headers: head.headers.clone(),
                    only_if_cached: CacheControl::of(&head.headers).only_if_cached,
                    waiting: from_peer.then(|| Waiting::of(&head.headers)),
                    interim,
                };
                // Boxed, as what most requests do not need makes the future large that each of them moves about.
                let served = Box::pin(self.fetcher.serve(wanted, found, now)).await?;
                (served, SystemTime::now())
            }
        };
        let word = served.status.word();
        let response = of_object(&head.method, &head.headers, &url, served, from_peer, now);
        Ok(Outcome { response, word, error: None })
    }
}

fn check_method(method: &Method) -> Result<(), ProxyError> {
    match *method {
        Method::GET | Method::HEAD | Method::OPTIONS => Ok(()),
        Method::POST | Method::PUT | Method::DELETE | Method::CONNECT | Method::TRACE | Method::PATCH => {
            Err(ProxyError::Method { known: true })
        }
        _ => Err(ProxyError::Method { known: false }),
    }
}

/// A body means nothing to GET (RFC 9110 §9.3.1), and reading one request as two is how smuggling works: refused.
fn check_body(headers: &HeaderMap) -> Result<(), ProxyError> {
    let empty = headers.get_all(CONTENT_LENGTH).iter().all(|value| value.as_bytes() == b"0");
    if headers.contains_key(TRANSFER_ENCODING) || !empty {
        return Err(ProxyError::RequestBody);
    }
    Ok(())
}

/// The host that is asked for (RFC 9112 §3.2): that of an absolute request target, else the one `Host` field.
fn authority(head: &http::request::Parts) -> Result<&str, ProxyError> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => Some(host.to_str().map_err(|_| ProxyError::Host)?),
        (None, None) if head.version < Version::HTTP_11 => None,
        // RFC 9112 §3.2: 400 for none or several.
        _ => return Err(ProxyError::Host),
    };
    head.uri.authority().map(http::uri::Authority::as_str).or(host).ok_or(ProxyError::Host)
}

/// `OPTIONS *` is about the server itself, and so is one that may be forwarded no more (RFC 9110 §7.6.2).
fn goes_no_further(head: &http::request::Parts) -> bool {
    head.uri == "*" || head.headers.get(MAX_FORWARDS).is_some_and(|value| value.as_bytes() == b"0")
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}
