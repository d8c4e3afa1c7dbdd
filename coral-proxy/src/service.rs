//! One request from the top: checked, understood, served, answered, counted, logged.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, MAX_FORWARDS, TRANSFER_ENCODING};
use http::{Method, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::access::{self, AccessLog, Answered, Logged, RequestId};
use crate::cache_status::CacheStatus;
use crate::chain::Waiting;
use crate::error::ProxyError;
use crate::fetch::{Fetcher, Wanted};
use crate::front::{Front, Visit};
use crate::headers::{REQUEST_ID, came_through_coral};
use crate::home::{self, Control, control};
use crate::interim::Ticket;
use crate::limits::Rate;
use crate::metrics::RequestLabels;
use crate::pace::Line;
use crate::policy::CacheControl;
use crate::popular::Popularity;
use crate::purge::owner;
use crate::reply::{Asker, ReplyBody, UnderWay, of_error, of_home, of_object, of_options, of_owners_file};
use crate::trace::{Open, Step, TRACE, Traces};
use crate::url::lately::{self, Understood};
use crate::url::{CoralUrl, Names, UrlError};

pub(crate) mod plain;

/// What answers requests. Shared by all connections.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) fetcher: Arc<Fetcher>,
    /// What it answers to, and what it does not serve; changes while it runs.
    pub(crate) names: ArcSwap<Names>,
    /// What answers at the bare suffixes, if anything does.
    pub(crate) front: OnceLock<Arc<dyn Front>>,
    /// Who is told of each request, if anybody is.
    pub(crate) log: OnceLock<Arc<dyn AccessLog>>,
    /// Where the steps of requests go.
    pub(crate) traces: Traces,
    pub(crate) popularity: Popularity,
    /// Whether another process has taken over: each connection ends with its next response, and none before.
    pub(crate) is_leaving: AtomicBool,
    /// Where it is told which origin's owner has purged something, for other nodes.
    pub(crate) purged: OnceLock<mpsc::Sender<String>>,
}

/// Who asks.
#[derive(Debug)]
pub(crate) struct Caller<'a> {
    /// Its address and port.
    pub(crate) client: SocketAddr,
    /// How much its address asks.
    pub(crate) rate: &'a Rate,
    /// What its connection is paced by.
    pub(crate) line: &'a Line,
    /// Whether it asks over TLS.
    pub(crate) is_secure: bool,
}

/// What became of a request, for log and metrics.
struct Outcome {
    response: Response<ReplyBody>,
    word: &'static str,
    error: Option<ProxyError>,
}

impl Outcome {
    /// Sends the client to the origin, if he can go there.
    fn home(url: &CoralUrl) -> Option<Self> {
        let response = of_home(&home::location(url)?);
        Some(Self { response, word: "own", error: None })
    }
}

impl Service {
    /// Answers one request, which has a body or not: in HTTP/2 no field need announce it (RFC 9113 §8.1). There is always an answer.
    pub(crate) async fn answer(
        &self,
        caller: Caller<'_>,
        head: http::request::Parts,
        has_body: bool,
        interim: Ticket,
    ) -> Response<ReplyBody> {
        let began = Instant::now();
        let metrics = &self.fetcher.metrics;
        let under_way = UnderWay::new(metrics.in_flight.clone());
        // Only a node asks for what is cached and says that it is one. Who pretends gains nothing by it in an open network, and in a
        // closed one is a client: he gets what is here, and nothing that nodes do for each other.
        let came_through = came_through_coral(&head.headers);
        let as_peer = came_through && CacheControl::of(&head.headers).only_if_cached;
        let shown = self.fetcher.auth.as_ref().filter(|_| as_peer).map(|auth| auth.check(&head, SystemTime::now()));
        let from_peer = as_peer && shown.as_ref().is_none_or(Option::is_some);
        let from = if from_peer { "peer" } else { "client" };
        let is_loop = came_through && !as_peer;
        let id = if from_peer { RequestId::of(&head.headers) } else { None }.unwrap_or_else(RequestId::new);
        let mut traced = self.traces.root(id, (&head.headers, from_peer), || answering(&head, from_peer));
        let outcome = match has_body {
            true => Err(ProxyError::RequestBody),
            false => self.outcome(&caller, &head, (id, &traced), from_peer, is_loop, interim).await,
        };
        let mut outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                caller.line.own();
                Outcome {
                    response: of_error(&error, &head.method, id),
                    word: CacheStatus::of_error(&error).word(),
                    error: Some(error),
                }
            }
        };
        outcome.response.headers_mut().insert(REQUEST_ID, id.value());
        if let Some(shown) = shown.flatten() {
            shown.answer(&head.method, &mut outcome.response);
        }
        let status = outcome.response.status();
        let took = began.elapsed();
        metrics.seconds.observe(took.as_secs_f64());
        let number = metrics.answered(&RequestLabels { from, status: class(status), cache: outcome.word });
        if !from_peer
            && (status.is_success() || status == StatusCode::NOT_MODIFIED)
            && let Some(weight) = self.popularity.weight(number)
        {
            self.count(&head, weight);
        }
        // That a node has not what another one hoped for is no error.
        if let Some(error) = outcome.error.as_ref().filter(|error| CacheStatus::of_error(error) == CacheStatus::Own) {
            metrics.error(error.verdict());
        }
        let sent = metrics.moved("sent", from);
        let Outcome { response, word, error } = outcome;
        traced.tell(|step| answered(step, status, word, error.as_ref()));
        let logged = self.log.get().map(|log| {
            // Nothing is sent of what HEAD asks for.
            let length = if head.method == Method::HEAD { Some(0) } else { response.body().size_hint().exact() };
            let answered = Answered {
                id,
                client: caller.client,
                request: access::kept(head),
                from_peer,
                status,
                cache: word,
                error,
                head_took: took,
            };
            Logged::new(answered, Arc::clone(log), began, length)
        });
        response.map(|body| body.counted(sent, under_way).logged(logged).traced(traced))
    }

    async fn outcome(
        &self,
        caller: &Caller<'_>,
        head: &http::request::Parts,
        (id, traced): (RequestId, &Open),
        from_peer: bool,
        is_loop: bool,
        interim: Ticket,
    ) -> Result<Outcome, ProxyError> {
        // In HTTP/1.1 it was refused before; in HTTP/2 only their bytes are bounded.
        if head.headers.len() > self.fetcher.config.client.max_headers.get() {
            return Err(ProxyError::Fields);
        }
        check_method(&head.method)?;
        check_body(&head.headers)?;
        caller.rate.take().map_err(|wait| turned_away(from_peer, ProxyError::TooManyRequests(wait)))?;
        if head.method == Method::OPTIONS && goes_no_further(head) {
            return Ok(Outcome { response: of_options(), word: "own", error: None });
        }
        // RFC 9112 §3.2.3: a target that is a host alone is for CONNECT.
        if head.uri.authority().is_some() && head.uri.scheme().is_none() {
            return Err(ProxyError::Url(UrlError::BadUrl));
        }
        // An absolute target (RFC 9112 §3.2.2) of another scheme is none of ours.
        if head.uri.scheme_str().is_some_and(|scheme| !matches!(scheme, "http" | "https")) {
            return Err(ProxyError::Url(UrlError::Scheme));
        }
        let authority = authority(head)?;
        let names = self.names.load_full();
        let understood = CoralUrl::parse(authority, &target(&head.uri), &names);
        if understood.as_ref().is_ok_and(|url| names.deny.covers(url)) {
            // What other nodes serve is for their operators to say.
            return Err(turned_away(from_peer, ProxyError::Denied));
        }
        let url = match understood {
            Ok(url) => url,
            // No way of most requests; boxed, as it would make the future of all large.
            Err(error) => return Box::pin(self.page(caller, head, authority)).await.ok_or(error.into()),
        };
        if is_loop {
            return Err(ProxyError::Loop);
        }
        if owner::is_path(&url.target) && head.method != Method::OPTIONS {
            return Box::pin(self.owners_file(caller, &head.method, &url, from_peer)).await;
        }
        let found = self.fetcher.find(&url, &head.headers).await;
        if let Err(error) = self.check_share(caller.line, &url, from_peer) {
            let said = found.object.as_ref().and_then(|object| control(&object.headers));
            return said.filter(|_| !from_peer).and_then(|_| Outcome::home(&url)).ok_or(error);
        }
        let came = SystemTime::now();
        let (served, now) = match self.fetcher.hit(&head.method, &found, came) {
            Some(hit) => (hit, came),
            None => {
                // A fetch goes on without its client, and so has all of it for itself.
                let control = CacheControl::of(&head.headers);
                let mut headers = head.headers.clone();
                headers.insert(REQUEST_ID, id.value());
                // A client's own means nothing here.
                headers.remove(TRACE);
                traced.pass_on(&mut headers);
                let wanted = Wanted {
                    url: url.clone(),
                    method: head.method.clone(),
                    headers,
                    only_if_cached: control.only_if_cached,
                    takes_stale: from_peer && control.max_stale,
                    waiting: from_peer.then(|| Waiting::of(&head.headers)),
                    interim,
                };
                // Boxed, as what most requests do not need makes the future large that each of them moves about.
                let served = Box::pin(self.fetcher.serve(wanted, found, came)).await?;
                (served, SystemTime::now())
            }
        };
        if !from_peer
            && control(&served.object.headers) == Some(Control::NoServe)
            && let Some(home) = Outcome::home(&url)
        {
            return Ok(home);
        }
        if served.status == CacheStatus::Hit {
            // By the names that it was understood by, which meanwhile may be others.
            remember(head, &names, &url);
        }
        let word = served.status.word();
        let asker = if from_peer { Asker::Node { came } } else { Asker::Client { secure: caller.is_secure } };
        let response = of_object(&head.method, &head.headers, &url, served, asker, now);
        Ok(Outcome { response, word, error: None })
    }

    /// The page at a bare suffix; `None` if it is none, or there is no page.
    async fn page(&self, caller: &Caller<'_>, head: &http::request::Parts, authority: &str) -> Option<Outcome> {
        let (front, names) = (self.front.get()?, self.names.load_full());
        let suffix = names.bare_suffix(authority)?;
        let (method, uri, headers) = (&head.method, &head.uri, &head.headers);
        let response = if *method == Method::OPTIONS {
            of_options()
        } else {
            let visit = Visit { method, uri, headers, authority, suffix, client: caller.client.ip() };
            front.answer(visit)?.await.map(ReplyBody::page)
        };
        caller.line.own();
        Some(Outcome { response, word: "own", error: None })
    }

    /// Asks the origin what its owner has purged, shows it, and what became of it. That is never in the cache, here or elsewhere.
    async fn owners_file(
        &self,
        caller: &Caller<'_>,
        method: &Method,
        url: &CoralUrl,
        from_peer: bool,
    ) -> Result<Outcome, ProxyError> {
        if from_peer {
            return Err(ProxyError::NotCached);
        }
        caller.line.own();
        let response = of_owners_file(method, self.fetcher.read_owner(url, self.purged.get()).await?);
        Ok(Outcome { response, word: "own", error: None })
    }

    /// Counts what was asked for among what is popular. A few requests come here, and what they ask for is read once more.
    fn count(&self, head: &http::request::Parts, weight: u64) {
        if let Ok(authority) = authority(head)
            && let Ok(url) = CoralUrl::parse(authority, &target(&head.uri), &self.names.load())
        {
            self.popularity.count(url.canonical(), weight);
        }
    }

    /// Turns a request away if the transfers of its domain wait too long as it is; from here on the connection sends for that one.
    fn check_share(&self, line: &Line, url: &CoralUrl, from_peer: bool) -> Result<(), ProxyError> {
        line.admit(url, self.fetcher.config.bandwidth.patience).map_err(|wait| {
            self.fetcher.metrics.turned_away.inc();
            turned_away(from_peer, ProxyError::OverShare(wait))
        })
    }
}

/// Remembers how the URL of a request was understood, for the next one that is plain.
fn remember(head: &http::request::Parts, names: &Arc<Names>, url: &CoralUrl) {
    // In HTTP/2 the authority stands for the host; in HTTP/1.1 a target that has one is not plain.
    let host = match (head.version, head.uri.authority()) {
        (Version::HTTP_2, Some(authority)) => Some(authority.as_str().as_bytes()),
        (Version::HTTP_11, None) => head.headers.get(HOST).map(http::HeaderValue::as_bytes),
        _ => None,
    };
    let target = head.uri.path_and_query().map(|target| target.as_str().as_bytes());
    if let Some((host, target)) = host.zip(target) {
        lately::remember(host, target, names, || Understood { url: url.clone(), key: url.key() });
    }
}

/// A request as a step of its trace, as far as it has come.
fn answering(head: &http::request::Parts, from_peer: bool) -> Step {
    let host = head.headers.get(HOST).map(|host| String::from_utf8_lossy(host.as_bytes())).unwrap_or_default();
    let url = match head.uri.authority() {
        Some(_) => head.uri.to_string(),
        None => format!("http://{host}{}", head.uri),
    };
    let (method, status) = (head.method.clone(), StatusCode::OK);
    Step::Answer { method, url, from_peer, status, cache: "", error: None }
}

/// The same when it is known what the answer is.
fn answered(step: &mut Step, new: StatusCode, word: &'static str, what: Option<&ProxyError>) {
    if let Step::Answer { status, cache, error, .. } = step {
        (*status, *cache, *error) = (new, word, what.map(ToString::to_string));
    }
}

/// What who is turned away is told. Another node asks elsewhere, and shall not think that this one has failed.
fn turned_away(from_peer: bool, error: ProxyError) -> ProxyError {
    if from_peer { ProxyError::NotCached } else { error }
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
        // HTTP/2 has `:authority` in its place.
        (None, None) if head.version != Version::HTTP_11 => None,
        // RFC 9112 §3.2: 400 for none or several.
        _ => return Err(ProxyError::Host),
    };
    let authority = head.uri.authority().map(http::uri::Authority::as_str);
    // RFC 9113 §8.3.1: where both are there, they are to be the same.
    let differ = authority.zip(host).is_some_and(|(one, other)| !one.eq_ignore_ascii_case(other));
    if head.version == Version::HTTP_2 && differ {
        return Err(ProxyError::Host);
    }
    authority.or(host).ok_or(ProxyError::Host)
}

/// Path and query. An absolute target may have none of the first (RFC 9112 §3.2.1).
fn target(uri: &Uri) -> Cow<'_, str> {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    if target.starts_with('?') { format!("/{target}").into() } else { target.into() }
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

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use bytesize::ByteSize;
    use coral_dsht::memory::MemoryNetwork;
    use coral_dsht::{Peer, Services};
    use http::header::LOCATION;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::budget::{Budget, Waits};
    use crate::cache::Object;
    use crate::cache::body::Body;
    use crate::headers::of_lines;
    use crate::interim::Outbox;
    use crate::limits::{Admitted, Limits};
    use crate::policy::{Validity, variant_key};
    use crate::{Config, Metrics, config};

    pub(in crate::service) const HOST: &str = "www.x.com.nyud.net";

    /// A service that has an object with these header lines at `/`.
    pub(in crate::service) fn service(lines: &[&str]) -> Service {
        service_with(StatusCode::OK, &[], lines)
    }

    /// The same of an object with this status, which varies by `selecting`.
    pub(in crate::service) fn service_with(
        status: StatusCode,
        selecting: &[http::HeaderName],
        lines: &[&str],
    ) -> Service {
        let me = "127.0.0.1:1".parse().unwrap();
        let dsht = MemoryNetwork::new().node(Peer::new(me, Services::NONE));
        let config = Arc::new(Config::default());
        let metrics = Metrics::register(&mut Registry::default());
        let fetcher = Arc::new(Fetcher::new(Arc::clone(&config), me, dsht, None, metrics, Traces::default()).unwrap());
        let names = Names { suffixes: vec!["nyud.net".parse().unwrap()], ..Names::default() };
        let key = CoralUrl::parse(HOST, "/", &names).unwrap().key();
        let (headers, now) = (of_lines(&[lines, &["cache-control: max-age=60"]].concat()), SystemTime::now());
        let validity = Validity::of(status, &headers, now, now, &config.freshness);
        let object = Object {
            variant: variant_key(key, selecting, &HeaderMap::new()),
            selecting: Arc::from(selecting),
            ..Object::new(key, status, headers, Body::whole_of("hello".into()), validity)
        };
        fetcher.cache.varies(key, &object.selecting);
        fetcher.cache.insert(Arc::new(object), now);
        let names = ArcSwap::from_pointee(names);
        Service {
            fetcher,
            names,
            front: OnceLock::new(),
            log: OnceLock::new(),
            traces: Traces::default(),
            popularity: Popularity::default(),
            is_leaving: AtomicBool::new(false),
            purged: OnceLock::new(),
        }
    }

    /// A connection that may be used.
    pub(in crate::service) async fn admitted() -> Admitted {
        let limits = Limits::new(&config::Client::default());
        limits.admit(limits.room().await, "192.0.2.1".parse().unwrap()).unwrap()
    }

    /// The status, and the location if there is one, for a request with these header lines; `hot` if its domain waits long.
    async fn asked(service: &Service, hot: bool, lines: &[&str]) -> (u16, String) {
        let budget = Budget::new(ByteSize::kib(1).as_u64(), Duration::ZERO, Waits::default());
        let line = Line::new(Some(&budget));
        let waiting = hot.then(|| (0..100).map(|_| budget.ask(&"x.com".into(), 1024)).collect::<Vec<_>>());
        tokio::time::advance(Duration::from_secs(3)).await;
        let admitted = admitted().await;
        let client = "192.0.2.1:1".parse().unwrap();
        let caller = Caller { client, rate: admitted.rate(), line: &line, is_secure: false };
        let mut request = http::Request::new(()).into_parts().0;
        request.headers = of_lines(&[lines, &[&format!("host: {HOST}")]].concat());
        let from_peer = !lines.is_empty();
        let outcome = service
            .outcome(
                &caller,
                &request,
                (1.into(), &Open::default()),
                from_peer,
                false,
                Outbox::default().ticket(Version::HTTP_11),
            )
            .await;
        drop(waiting);
        match outcome {
            Ok(Outcome { response, .. }) => {
                let location = response.headers().get(LOCATION).map_or("", |value| value.to_str().unwrap());
                (response.status().as_u16(), location.to_owned())
            }
            Err(error) => (error.verdict().status.as_u16(), String::new()),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_origin_has_its_visitors_sent_home_always_or_when_there_is_no_room_for_them() {
        let home = (302, "http://www.x.com/?coral-no-serve".to_owned());
        let peer = ["cdn-loop: coral", "cache-control: only-if-cached"];
        let plain = |status| (status, String::new());
        for (said, cold, hot) in [
            (None, plain(200), plain(503)),
            (Some("x-coral-control: redirect-home"), plain(200), home.clone()),
            (Some("x-coral-control: no-serve"), home.clone(), home),
        ] {
            let service = service(&Vec::from_iter(said));
            assert_eq!(asked(&service, false, &[]).await, cold, "{said:?}");
            assert_eq!(asked(&service, true, &[]).await, hot, "{said:?}, hot");
            // What becomes of its own clients is the other node's to decide.
            assert_eq!(asked(&service, false, &peer).await, plain(200), "{said:?}, to a node");
            assert_eq!(asked(&service, true, &peer).await, plain(504), "{said:?}, hot, to a node");
        }
    }
}
