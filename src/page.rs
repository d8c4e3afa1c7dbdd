//! The node's own page: a form that coralizes a URL, what this is, and what the node does at this moment.
//!
//! It is served to everybody at the bare suffix, by the cache, and to the operator at the admin address; [`View`] says who
//! sees what. All of it is written here, on the server: the script in the page only puts newer pieces in the place of older
//! ones, and without it the form works, and a reload shows the rest. What comes from the network is escaped by maud.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use coral_dsht::{DshtHandle, Snapshot};
use coral_proxy::front::{Answering, Front, PageBody, Visit};
use coral_proxy::{Proxy, Suffix, Traffic};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Frame};
use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, ORIGIN};
use hyper::{Method, Response, StatusCode};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

mod coralized;
mod curves;
mod document;
mod figures;
mod listeners;
mod pieces;
mod rates;
mod rings;

use coralized::coralized;
use document::Document;
use figures::Figures;
use listeners::Listeners;
use pieces::{Piece, Scene};
use rates::Rates;
pub(crate) use rings::rings_alone;

use crate::config;
use crate::reach::{self, help::Helper};
use crate::walk::Walker;

/// How often the counters are read, and listeners told of what has changed.
const TICK: Duration = Duration::from_secs(2);

/// What is popular is halved after so many ticks, a minute.
const FADE: u64 = 30;

/// How long the index may take to tell of itself: its task answers between two datagrams.
const SNAPSHOT: Duration = Duration::from_secs(2);

/// How long what it told is good for the next visitor: visitors cost the index nothing, however many there are.
const SNAPSHOT_LIFE: Duration = Duration::from_secs(1);

/// How often the node walks through its network while somebody looks: at the operator's page, and at the public one, for all of its
/// visitors together. So a visitor costs no walk.
const WALK: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(300)];

/// How long whom a walk has met is shown: until the next one has ended.
const WALK_LIFE: Duration = Duration::from_secs(330);

/// Popular URLs that are shown, to the operator.
const POPULAR: usize = 10;

const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");
const ICON: &str = include_str!("page/icon.svg");

/// Who looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// Anybody: counts, and the shape of the network; never what somebody has asked for.
    Public,
    /// The operator, who sees as much in the access log: URLs, searches, addresses of nodes. Those of clients nobody sees.
    Operator,
}

/// The page of one node.
#[derive(Debug)]
pub(crate) struct Page {
    public: config::PublicPage,
    /// Under which suffix the operator's form coralizes, and at which port.
    operators: (Suffix, Option<u16>),
    started: Instant,
    walker: Arc<Walker>,
    dsht: DshtHandle,
    proxy: Option<Proxy>,
    rates: Mutex<Rates>,
    listeners: Listeners,
    /// Bytes of the page itself that the cache has sent: they spare no origin anything.
    own_bytes: Arc<AtomicU64>,
    /// When the page was last asked for, by view.
    looked: Mutex<[Option<Instant>; 2]>,
    snapshot: tokio::sync::Mutex<Option<(Instant, Arc<Snapshot>)>>,
}

impl Page {
    /// The page of the node with these parts, whose cache listens at `proxy_at`, which [`Self::run`] keeps up to date. `helper` answers beside it.
    pub(crate) fn new(
        config: &config::Config,
        started: Instant,
        walker: Arc<Walker>,
        dsht: DshtHandle,
        proxy: Option<Proxy>,
        proxy_at: Option<SocketAddr>,
        helper: Helper,
    ) -> Arc<Self> {
        let page = Arc::new(Self {
            public: config.page.public,
            operators: operators(config, proxy_at),
            started,
            walker,
            dsht,
            proxy,
            rates: Mutex::default(),
            listeners: Listeners::default(),
            own_bytes: Arc::default(),
            looked: Mutex::default(),
            snapshot: tokio::sync::Mutex::default(),
        });
        if let Some(proxy) = &page.proxy {
            proxy.serve_suffixes(Arc::new(AtSuffix { page: Arc::downgrade(&page), helper }));
        }
        page
    }

    /// Reads the counters and tells the listeners, until `stop`; then sends the listeners away.
    pub(crate) async fn run(&self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut ticks: u64 = 0;
        let (mut walks, mut walked) = (JoinSet::new(), None);
        loop {
            tokio::select! {
                () = &mut stop => break,
                _ = tick.tick() => {}
            }
            ticks += 1;
            while walks.try_join_next().is_some() {}
            if walks.is_empty() && self.is_walk_due(walked) {
                walked = Some(Instant::now());
                let walker = Arc::clone(&self.walker);
                walks.spawn(async move {
                    if let Err(e) = walker.walk().await {
                        tracing::debug!("no walk for the page: {e:#}");
                    }
                });
            }
            if let Some(proxy) = &self.proxy {
                let requests = self.rates().count(&proxy.traffic());
                proxy.adapt_popular(requests / TICK.as_secs());
                if ticks.is_multiple_of(FADE) {
                    proxy.fade_popular();
                }
            }
            for view in [View::Public, View::Operator] {
                if self.listeners.are_there(view)
                    && let Ok(pieces) = self.pieces(view).await
                {
                    self.listeners.tell(view, &pieces);
                }
            }
        }
        self.listeners.close();
    }

    /// Whether somebody looks, or has looked since the last walk began, which is long enough ago.
    fn is_walk_due(&self, last: Option<Instant>) -> bool {
        let looked = *self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        [View::Operator, View::Public].into_iter().zip(WALK).any(|(view, interval)| {
            let has_looked = looked[view as usize].is_some_and(|at| last.is_none_or(|last| at > last));
            (has_looked || self.listeners.are_there(view)) && last.is_none_or(|last| last.elapsed() >= interval)
        })
    }

    /// The answer to GET or HEAD of any path.
    pub(crate) async fn answer(&self, view: View, visit: Visit<'_>) -> Response<PageBody> {
        match visit.uri.path() {
            "/" => self.document(view, &visit, StatusCode::OK, None).await,
            "/coralize" => match coralized(&visit, self.port(view, &visit)) {
                Ok(location) => see_other(&location),
                Err(refused) => self.document(view, &visit, StatusCode::BAD_REQUEST, Some(refused)).await,
            },
            "/events" if self.is_live(view) => self.events(view, &visit).await,
            "/page.css" => asset("text/css; charset=utf-8", STYLE),
            "/page.js" => asset("text/javascript; charset=utf-8", SCRIPT),
            "/icon.svg" => asset("image/svg+xml", ICON),
            _ => text(StatusCode::NOT_FOUND, "There is no such page here; the node's own page is at /.\n"),
        }
    }

    /// The suffix under which the operator's form coralizes.
    pub(crate) fn suffix(&self) -> &Suffix {
        &self.operators.0
    }

    /// The port at which the coralized page is reached: that of the page itself, where that is at the suffix, too.
    fn port(&self, view: View, visit: &Visit<'_>) -> Option<u16> {
        match view {
            View::Public => visit.authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok()),
            View::Operator => self.operators.1,
        }
    }

    fn is_live(&self, view: View) -> bool {
        view == View::Operator || self.public == config::PublicPage::Figures
    }

    async fn document(
        &self,
        view: View,
        visit: &Visit<'_>,
        status: StatusCode,
        refused: Option<coralized::Refused>,
    ) -> Response<PageBody> {
        let pieces = match self.is_live(view) {
            true => match self.pieces(view).await {
                Ok(pieces) => Some(pieces),
                Err(e) => return text(StatusCode::SERVICE_UNAVAILABLE, &format!("{e:#}\n")),
            },
            false => None,
        };
        if pieces.is_some() {
            self.looked.lock().unwrap_or_else(PoisonError::into_inner)[view as usize] = Some(Instant::now());
        }
        let document = Document { view, suffix: visit.suffix, pieces, refused };
        let mut response = reply(status, "text/html; charset=utf-8", document.html());
        let headers = response.headers_mut();
        headers.insert(CONTENT_SECURITY_POLICY, policy(visit.suffix));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    /// The parts of the page that change.
    async fn pieces(&self, view: View) -> anyhow::Result<Vec<Piece>> {
        let snapshot = self.snapshot().await?;
        let walked = self.walker.last(WALK_LIFE);
        let all = walked.as_ref().map(|walked| walked.added_to(&snapshot));
        let traffic = self.traffic();
        let is_operator = view == View::Operator;
        let proxy = self.proxy.as_ref().filter(|_| is_operator);
        let popular = proxy.map(|proxy| proxy.popular(POPULAR));
        let searches = proxy.map(Proxy::searches);
        let rates = self.rates();
        let scene = Scene {
            snapshot: all.as_ref().unwrap_or(&snapshot),
            walked: walked.as_ref().map(|walked| walked.at),
            uptime: self.started.elapsed(),
            traffic: traffic.as_ref().map(|traffic| (traffic, &*rates)),
            popular: popular.as_deref(),
            searches: searches.as_deref(),
            is_operator,
        };
        Ok(scene.pieces())
    }

    /// What the cache has done for others.
    fn traffic(&self) -> Option<Traffic> {
        let traffic = self.proxy.as_ref()?.traffic();
        let own = self.own_bytes.load(Ordering::Relaxed);
        Some(Traffic { sent_to_clients_bytes: traffic.sent_to_clients_bytes.saturating_sub(own), ..traffic })
    }

    /// What the operator sees, as JSON.
    pub(crate) async fn figures(&self) -> anyhow::Result<Figures> {
        let snapshot = self.snapshot().await?;
        let traffic = self.traffic();
        let popular = self.proxy.as_ref().map(|proxy| proxy.popular(POPULAR)).unwrap_or_default();
        let searches = self.proxy.as_ref().map(Proxy::searches).unwrap_or_default();
        let rates = self.rates();
        let traffic = traffic.as_ref().map(|traffic| (traffic, &*rates));
        Ok(Figures::new(&snapshot, self.started.elapsed(), traffic, popular, searches))
    }

    async fn snapshot(&self) -> anyhow::Result<Arc<Snapshot>> {
        let mut last = self.snapshot.lock().await;
        if let Some((at, snapshot)) = &*last
            && at.elapsed() < SNAPSHOT_LIFE
        {
            return Ok(Arc::clone(snapshot));
        }
        match (timeout(SNAPSHOT, self.dsht.snapshot()).await.context("the index does not answer")?, &*last) {
            (Ok(snapshot), _) => {
                let snapshot = Arc::new(snapshot);
                *last = Some((Instant::now(), Arc::clone(&snapshot)));
                Ok(snapshot)
            }
            // Another process runs it by now, and this one has an answer or two to give.
            (Err(_), Some((_, snapshot))) => Ok(Arc::clone(snapshot)),
            (Err(stopped), None) => Err(stopped.into()),
        }
    }

    /// Looks at the index before that ends, for those whose requests are under way.
    pub(crate) async fn prepare_to_leave(&self) {
        if let Err(e) = self.snapshot().await {
            tracing::debug!("nothing for the last who look at the page: {e:#}");
        }
    }

    async fn events(&self, view: View, visit: &Visit<'_>) -> Response<PageBody> {
        if !is_own(visit) {
            return text(StatusCode::FORBIDDEN, "These events are for the page of this host only.\n");
        }
        let body = match *visit.method {
            Method::HEAD => Full::default().boxed_unsync(),
            _ => {
                let Ok(pieces) = self.pieces(view).await else {
                    return text(StatusCode::SERVICE_UNAVAILABLE, "The index does not answer.\n");
                };
                match self.listeners.join(view, visit.client, &pieces) {
                    Some(events) => events.boxed_unsync(),
                    None => return text(StatusCode::SERVICE_UNAVAILABLE, "Too many listen already.\n"),
                }
            }
        };
        let mut response = Response::new(body);
        guard(response.headers_mut(), "text/event-stream");
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    /// A panic elsewhere leaves whole counts here.
    fn rates(&self) -> MutexGuard<'_, Rates> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names under localhost lead to this machine without any DNS (RFC 6761 §6.3), and to the port at which its cache listens. Of
/// any other suffix the network's names tell, and ports are the usual one.
fn operators(config: &config::Config, proxy_at: Option<SocketAddr>) -> (Suffix, Option<u16>) {
    let mut suffixes = config.suffixes.iter().map(|suffix| &suffix.proxy);
    match suffixes.find(|suffix| suffix.as_str().ends_with(".localhost")) {
        Some(local) => (local.clone(), proxy_at.map(|addr| addr.port())),
        // `Config` refuses to be without any.
        None => (config.suffixes[0].proxy.clone(), None),
    }
}

/// What the cache has at the bare suffix: the page, and who tries the ports of others.
#[derive(Debug)]
struct AtSuffix {
    /// Weak, as the page has the cache: a node that is dropped is to leave nothing behind.
    page: Weak<Page>,
    helper: Helper,
}

impl Front for AtSuffix {
    fn answer<'a>(&'a self, visit: Visit<'a>) -> Option<Answering<'a>> {
        if visit.uri.path() == reach::PATH {
            return Some(Box::pin(async move { self.helper.answer(&visit).await }));
        }
        let page = self.page.upgrade()?;
        if page.public == config::PublicPage::Off {
            return None;
        }
        Some(Box::pin(async move { counted(page.answer(View::Public, visit).await, &visit, &page.own_bytes) }))
    }
}

/// The same, with the bytes of its body added to `bytes`: at once, or while they are sent, if nobody knows how many there will be.
fn counted(response: Response<PageBody>, visit: &Visit<'_>, bytes: &Arc<AtomicU64>) -> Response<PageBody> {
    if *visit.method == Method::HEAD {
        return response;
    }
    match response.body().size_hint().exact() {
        Some(length) => {
            bytes.fetch_add(length, Ordering::Relaxed);
            response
        }
        None => {
            let bytes = Arc::clone(bytes);
            let count = move |frame: Frame<Bytes>| {
                bytes.fetch_add(frame.data_ref().map_or(0, |data| data.len() as u64), Ordering::Relaxed);
                frame
            };
            response.map(|body| body.map_frame(count).boxed_unsync())
        }
    }
}

/// Whether a request for events comes from the page itself, as far as its browser tells: any coralized page could else take
/// all the places there are, with its visitors' browsers.
fn is_own(visit: &Visit<'_>) -> bool {
    visit.headers.get(ORIGIN).is_none_or(|origin| {
        let origin = origin.to_str().unwrap_or_default();
        let host = origin.split_once("://").map_or("", |(_, host)| host);
        host.eq_ignore_ascii_case(visit.authority)
    })
}

/// Nothing from elsewhere, and forms lead to coralized pages only; a browser also checks where a redirect leads.
fn policy(suffix: &Suffix) -> HeaderValue {
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         form-action 'self' http://*.{suffix}:* https://*.{suffix}:*; base-uri 'none'; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
}

fn see_other(location: &str) -> Response<PageBody> {
    let Ok(location) = HeaderValue::from_str(location) else {
        return text(StatusCode::BAD_REQUEST, "That URL cannot be written in a header.\n");
    };
    let mut response = text(StatusCode::SEE_OTHER, "");
    response.headers_mut().insert(LOCATION, location);
    response
}

fn asset(content_type: &'static str, content: &'static str) -> Response<PageBody> {
    let mut response = reply(StatusCode::OK, content_type, Bytes::from_static(content.as_bytes()));
    // They are small, and those of another version would not fit.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

pub(crate) fn text(status: StatusCode, content: &str) -> Response<PageBody> {
    let mut response = reply(status, "text/plain; charset=utf-8", content.to_owned());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(crate) fn reply(status: StatusCode, content_type: &'static str, content: impl Into<Bytes>) -> Response<PageBody> {
    let mut response = Response::new(Full::new(content.into()).boxed_unsync());
    *response.status_mut() = status;
    guard(response.headers_mut(), content_type);
    response
}

/// What each answer has: its type, which no browser is to guess at, and that nobody is told where its links come from.
fn guard(headers: &mut HeaderMap, content_type: &'static str) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.insert("referrer-policy", HeaderValue::from_static("no-referrer"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
}

/// The address that counts for one client: its own, or its IPv6 network, of which it has all addresses.
pub(crate) fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let mut octets = v6.octets();
            octets[8..].fill(0);
            IpAddr::V6(octets.into())
        }
        v4 => v4,
    }
}
