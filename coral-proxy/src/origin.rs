//! Fetching from the origin: what it is asked, how long it may take, what of its answer is believed.
//!
//! Redirects are not followed but for one: from http to https, same host, same path, which is an origin saying how it
//! wants to be spoken to (design §4.2). That is remembered for the origin. Whether an answer is stored is not decided here.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderMap, LOCATION, TRANSFER_ENCODING};
use http::{Method, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use moka::sync::Cache as Moka;
use prometheus_client::metrics::counter::Counter;
use rustls::ClientConfig;
use url::Url;

use crate::address::is_public;
use crate::budget::Budget;
use crate::client::{Client, OnInterim, SendError};
use crate::config::{Config, OriginLimits};
use crate::error::{Fault, ProxyError};
use crate::headers::{clean_interim, without_id};
use crate::interim::Ticket;
use crate::metrics::Metrics;
use crate::resolver::Resolver;
use crate::tls;
use crate::trace::{Step, Traces};
use crate::url::{CoralUrl, Origin, Scheme};

/// How long it is remembered that an origin wants https.
const REMEMBER_HTTPS: Duration = Duration::from_secs(60 * 60);
/// How long an origin counts as in trouble after it failed.
const TROUBLE: Duration = Duration::from_secs(60);
/// Origins of which either is remembered.
const REMEMBERED_ORIGINS: u64 = 10_000;

/// The head of an answer, and what its body is read from.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// When it was asked for, and when the head was here.
    pub(crate) asked: SystemTime,
    pub(crate) received: SystemTime,
    /// Before this the origin has not sent it: when it was asked, by this node or the one that gave this.
    pub(crate) sent: SystemTime,
    /// The length of the body as announced.
    pub(crate) length: Option<u64>,
    pub(crate) body: Upstream,
}

/// The body of an answer.
#[derive(Debug)]
pub(crate) struct Upstream {
    body: Incoming,
    stall_timeout: Duration,
    left: u64,
    counter: Counter,
    pace: Option<Pace>,
}

/// What a body costs of the bandwidth.
#[derive(Debug)]
struct Pace {
    budget: Budget,
    domain: Arc<str>,
    /// Bytes that have come and are not paid for, those of the head first of all.
    owed: usize,
}

impl Upstream {
    /// The next bytes; `None` at an end that HTTP says is one.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, ProxyError> {
        let Ok(Ok(chunk)) = tokio::time::timeout(self.stall_timeout, self.next()).await else {
            return Err(ProxyError::BrokenOff);
        };
        let length = chunk.as_ref().map_or(0, Bytes::len) as u64;
        self.counter.inc_by(length);
        self.left = self.left.checked_sub(length).ok_or(ProxyError::OriginBody)?;
        if let Some(Pace { budget, domain, owed }) = &mut self.pace {
            // Meanwhile nothing more is read, and the sender has to wait.
            budget.pay(domain, std::mem::take(owed) + length as usize).await;
        }
        Ok(chunk)
    }

    /// Trailers are passed over: no field of theirs is needed here, and RFC 9110 §6.5.1 lets a proxy drop them.
    async fn next(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(bytes) = frame?.into_data() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}

/// What bounds an answer.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    pub(crate) first_byte_timeout: Duration,
    pub(crate) stall_timeout: Duration,
    pub(crate) max_header: u64,
    pub(crate) max_body: u64,
    pub(crate) counter: Counter,
    /// Counts the requests.
    pub(crate) requests: Counter,
    /// What may be received.
    pub(crate) budget: Option<Budget>,
}

/// Sends one request for something of `domain` and waits for the head of the answer.
pub(crate) async fn ask(
    domain: &str,
    client: &Client,
    method: Method,
    url: Url,
    headers: HeaderMap,
    bounds: &Bounds,
    on_interim: Option<Arc<OnInterim>>,
) -> Result<Answer, ProxyError> {
    let asked = SystemTime::now();
    let sent = send(client, &method, &url, &headers, bounds, on_interim);
    let response = match tokio::time::timeout(bounds.first_byte_timeout, sent).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(blame(&error)),
        Err(_) => return Err(ProxyError::OriginTimeout),
    };
    let (http::response::Parts { status, mut headers, .. }, body) = response.into_parts();
    let header_bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if header_bytes as u64 > bounds.max_header {
        return Err(ProxyError::OriginHeader);
    }
    // RFC 9110 §7.8: nobody asked to switch protocols; the other interim answers never get here.
    if status.is_informational() {
        return Err(ProxyError::OriginProtocol(format!("{status} without having been asked").into()));
    }
    // RFC 9112 §6.1: a coding that was not asked for cannot be undone here, and without its name nobody could.
    if headers.get_all(TRANSFER_ENCODING).iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Err(ProxyError::OriginProtocol("an unknown transfer coding".into()));
    }
    // RFC 9112 §6.3: Transfer-Encoding overrides Content-Length, which must then not be sent on.
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    let length = if method == Method::HEAD { Some(0) } else { body.size_hint().exact() };
    if length.is_some_and(|length| length > bounds.max_body) {
        return Err(ProxyError::OriginBody);
    }
    Ok(Answer {
        status,
        headers,
        asked,
        received: SystemTime::now(),
        sent: asked,
        length,
        body: Upstream {
            body,
            stall_timeout: bounds.stall_timeout,
            left: bounds.max_body,
            counter: bounds.counter.clone(),
            pace: bounds.budget.clone().map(|budget| Pace { budget, domain: domain.into(), owed: header_bytes }),
        },
    })
}

/// Sends a request, and sends it once more if the connection closes without a byte of an answer.
///
/// Most often that is one kept from before, which the far end closed in the same moment. All that is ever sent here may
/// be repeated (RFC 9110 §9.2.2).
async fn send(
    client: &Client,
    method: &Method,
    url: &Url,
    headers: &HeaderMap,
    bounds: &Bounds,
    on_interim: Option<Arc<OnInterim>>,
) -> Result<Response<Incoming>, SendError> {
    let once = || {
        bounds.requests.inc();
        client.send(method.clone(), url, headers.clone(), on_interim.clone())
    };
    match once().await {
        Err(error) if closed_early(&error) => once().await,
        answered => answered,
    }
}

fn closed_early(error: &SendError) -> bool {
    let mut causes = error.causes();
    causes.any(|cause| cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message))
}

/// What went wrong, found among the causes of the client's error.
fn blame(error: &SendError) -> ProxyError {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof};
    for cause in error.causes() {
        if let Some(ours) = cause.downcast_ref::<ProxyError>() {
            return ours.clone();
        }
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return tls::fault(tls);
        }
        if let Some(http) = cause.downcast_ref::<hyper::Error>() {
            if http.is_parse_too_large() {
                return ProxyError::OriginHeader;
            }
            if http.is_parse() || http.is_incomplete_message() {
                return ProxyError::OriginProtocol(http.to_string().into());
            }
        }
        match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(TimedOut) => return ProxyError::OriginConnectTimeout,
            Some(ConnectionReset | ConnectionAborted | BrokenPipe | UnexpectedEof) => return ProxyError::OriginClosed,
            _ => {}
        }
    }
    ProxyError::OriginConnect
}

/// The origins of the world, and those that the configuration names.
#[derive(Debug)]
pub(crate) struct Origins {
    public: Client,
    sites: Client,
    wants_https: Moka<Plain, u16>,
    in_trouble: Moka<Origin, ()>,
    bounds: Bounds,
    traces: Traces,
}

impl Origins {
    pub(crate) fn new(
        config: &Config,
        tls: &ClientConfig,
        budget: Option<Budget>,
        metrics: &Metrics,
        traces: Traces,
    ) -> Self {
        let limits: &OriginLimits = &config.origin;
        // Less than the time for connecting, which it is part of: so it can be told which of both was slow.
        let resolver = Resolver::of_system(limits.connect_timeout * 4 / 5);
        Self {
            sites: Client::new(resolver.any_address(), tls.clone(), limits.connect_timeout),
            public: Client::new(resolver, tls.clone(), limits.connect_timeout),
            wants_https: Moka::builder().max_capacity(REMEMBERED_ORIGINS).time_to_live(REMEMBER_HTTPS).build(),
            in_trouble: Moka::builder().max_capacity(REMEMBERED_ORIGINS).time_to_live(TROUBLE).build(),
            bounds: Bounds {
                first_byte_timeout: limits.first_byte_timeout,
                stall_timeout: limits.stall_timeout,
                max_header: limits.max_header.as_u64(),
                max_body: limits.max_body.as_u64(),
                counter: metrics.moved("received", "origin"),
                requests: metrics.origin_requests.clone(),
                budget,
            },
            traces,
        }
    }

    /// Asks the origin of `url`, with `headers`. What it says before it answers goes to `interim`.
    pub(crate) async fn fetch(
        &self,
        method: &Method,
        url: &CoralUrl,
        mut headers: HeaderMap,
        interim: &Ticket,
    ) -> Result<Answer, ProxyError> {
        let mut step = self.traces.step(&headers, || Step::AskOrigin {
            url: format!("{}{}", url.origin, url.target),
            status: None,
            error: None,
        });
        without_id(&mut headers, &url.passes);
        let answer = self.ask(method, url, headers, interim).await;
        step.tell(|step| {
            if let Step::AskOrigin { status, error, .. } = step {
                *status = answer.as_ref().ok().map(|answer| answer.status);
                *error = answer.as_ref().err().map(ToString::to_string);
            }
        });
        let failed = match &answer {
            Ok(answer) => answer.status.is_server_error(),
            Err(error) => error.verdict().fault == Fault::Origin,
        };
        if failed {
            self.in_trouble.insert(url.origin.clone(), ());
        }
        answer
    }

    /// Whether this answer is none to believe where a good copy is here: an error of the origin's, or of the kinds in which overload is
    /// told or disguised (too many requests; and forbidden or not found, if the origin has failed within the last minute) [C10].
    pub(crate) fn is_failure(&self, url: &CoralUrl, status: StatusCode) -> bool {
        match status {
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => self.in_trouble.contains_key(&url.origin),
            StatusCode::TOO_MANY_REQUESTS => true,
            status => status.is_server_error(),
        }
    }

    async fn ask(
        &self,
        method: &Method,
        url: &CoralUrl,
        headers: HeaderMap,
        interim: &Ticket,
    ) -> Result<Answer, ProxyError> {
        let (ticket, passes, domain) = (interim.clone(), url.passes.clone(), url.domain());
        let on_interim: Arc<OnInterim> =
            Arc::new(move |status, headers| ticket.send(status, &clean_interim(headers, &passes)));
        let ask = |client, url, headers| {
            ask(domain, client, method.clone(), url, headers, &self.bounds, Some(Arc::clone(&on_interim)))
        };
        let client = if url.site { &self.sites } else { &self.public };
        let named = Url::parse(&format!("{}{}", url.origin, url.target))
            .map_err(|_| ProxyError::OriginProtocol("its URL cannot be written".into()))?;
        if !url.site {
            refuse_private(&named)?;
        }
        let plain = Plain::of(url);
        let remembered = plain.as_ref().and_then(|plain| self.wants_https.get(plain));
        let target = remembered.map_or_else(|| named.clone(), |port| at(&named, Scheme::Https, Some(port)));
        let answer = ask(client, target.clone(), headers.clone()).await?;
        let (Some(plain), Some(moved)) = (plain, moved(&target, answer.status, &answer.headers)) else {
            return Ok(answer);
        };
        if remembered.is_some() {
            if moved != named {
                return Ok(answer);
            }
            // Not all of this origin is for https. Passed on, this redirect would lead clients to where they are.
            self.wants_https.invalidate(&plain);
            return ask(client, moved, headers).await;
        }
        let https = moved.scheme() == Scheme::Https.as_str();
        let Some(port) = moved.port_or_known_default().filter(|port| https && plain.may_change_to(*port)) else {
            return Ok(answer);
        };
        let answer = ask(client, moved, headers).await?;
        self.wants_https.insert(plain, port);
        Ok(answer)
    }
}

/// An origin that was chosen to be asked by plain http, and may say that it wants https.
///
/// A site is told apart from the same origin below a suffix: each may change in its own way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Plain {
    origin: Origin,
    site: bool,
}

impl Plain {
    /// `None` where https was asked for, or a port: the port label says that this one is meant.
    fn of(url: &CoralUrl) -> Option<Self> {
        let Origin { scheme, port, .. } = url.origin;
        let may_change = scheme == Scheme::Http && (url.site || port == scheme.default_port());
        may_change.then(|| Self { origin: url.origin.clone(), site: url.site })
    }

    /// Whether https at `port` of the same host may take its place.
    ///
    /// The origin of a site seldom has both standard ports, so it may name any. That opens nothing: whatever listens
    /// there must show a certificate for the host that the operator named.
    fn may_change_to(&self, port: u16) -> bool {
        self.site || port == Scheme::Https.default_port()
    }
}

/// The same URL by another scheme, and at another port: `None` is the one that the scheme implies.
fn at(url: &Url, scheme: Scheme, port: Option<u16>) -> Url {
    let mut url = url.clone();
    url.set_scheme(scheme.as_str()).expect("http and https take each other's place in any URL");
    url.set_port(port).expect("a URL with a host may have a port");
    url
}

/// Where the answer sends to, if it is to the same URL but for scheme and port.
fn moved(asked: &Url, status: StatusCode, headers: &HeaderMap) -> Option<Url> {
    let location = headers.get(LOCATION).filter(|_| matches!(status.as_u16(), 301 | 302 | 307 | 308))?;
    let location = asked.join(location.to_str().ok()?).ok()?;
    let scheme = Scheme::of(&location).ok()?;
    (location == at(asked, scheme, location.port())).then_some(location)
}

/// Refuses an address in the URL itself, which no resolver is asked about.
fn refuse_private(url: &Url) -> Result<(), ProxyError> {
    let ip: Option<IpAddr> = match url.host() {
        Some(url::Host::Ipv4(ip)) => Some(ip.into()),
        Some(url::Host::Ipv6(ip)) => Some(ip.into()),
        Some(url::Host::Domain(_)) => None,
        None => return Err(ProxyError::OriginName),
    };
    if ip.is_some_and(|ip| !is_public(ip)) { Err(ProxyError::OriginAddress) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::url::{Names, Site};

    #[test]
    fn only_a_change_of_scheme_and_port_is_followed() {
        let asked = Url::parse("http://www.x.com/p?q").unwrap();
        let moved = |status: u16, location: &str| {
            let headers = HeaderMap::from_iter([(LOCATION, location.parse().unwrap())]);
            moved(&asked, StatusCode::from_u16(status).unwrap(), &headers).map(String::from)
        };
        assert_eq!(moved(301, "https://www.x.com/p?q").unwrap(), "https://www.x.com/p?q");
        assert_eq!(moved(308, "https://WWW.x.com:443/p?q").unwrap(), "https://www.x.com/p?q");
        assert_eq!(moved(302, "//www.x.com:8443/p?q").unwrap(), "http://www.x.com:8443/p?q");
        assert_eq!(moved(200, "https://www.x.com/p?q"), None);
        for other in [
            "https://x.com/p?q",
            "https://www.x.com/",
            "https://www.x.com/p?q#f",
            "https://u@www.x.com/p?q",
            "ftp://www.x.com/p?q",
            "https:/",
            "/",
        ] {
            assert_eq!(moved(302, other), None, "{other}");
        }
    }

    #[test]
    fn who_names_a_scheme_or_a_port_is_not_moved_but_a_site_may_move_to_any() {
        let names = Names {
            suffixes: vec!["nyud.net".parse().unwrap()],
            sites: vec![
                Site::new("a.org", "http://10.0.0.1:8000").unwrap(),
                Site::new("b.org", "https://10.0.0.1").unwrap(),
            ],
            ..Names::default()
        };
        let moves = |host: &str| {
            let plain = Plain::of(&CoralUrl::parse(host, "/", &names).unwrap());
            plain.map(|plain| [443, 8443].map(|port| plain.may_change_to(port)))
        };
        assert_eq!(moves("www.x.com.nyud.net"), Some([true, false]));
        assert_eq!(moves("www.x.com.8080.nyud.net"), None);
        assert_eq!(moves("www-x-com.s.nyud.net"), None);
        assert_eq!(moves("a.org"), Some([true, true]));
        assert_eq!(moves("b.org"), None);
    }

    #[test]
    fn an_address_in_the_url_is_checked_as_one_that_was_looked_up() {
        let refused = |url: &str| refuse_private(&Url::parse(url).unwrap()).is_err();
        for url in
            ["http://127.0.0.1/", "http://0x7f.1/", "http://2130706433/", "http://[::1]/", "http://[::ffff:10.0.0.1]/"]
        {
            assert!(refused(url), "{url}");
        }
        assert!(!refused("http://9.9.9.9/") && !refused("http://www.x.com/"));
    }
}
