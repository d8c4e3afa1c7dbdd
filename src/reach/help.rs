//! Helping others: at a node's bare suffix, whoever asks has his own ports tried, and none but his own.
//!
//! What this could be misused for, and why it is not worth it: no third party is ever sent anything, as only the address is tried that the
//! request has come from, over TCP. It is not a proxy's, which would have others' ports tried: a request that came through one is refused. It
//! is of a kind that the node itself has, so that one on the Internet cannot be made to knock at what is behind it. It is not a browser's
//! that some web site sends here: those do not send such a field to another site without being allowed to. Each request has
//! five tries at most, 700 bytes of datagrams and three connections, and there are few requests a minute.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use coral_dsht::Pings;
use coral_proxy::address::may_be_peer;
use coral_proxy::front::{PageBody, Visit};
use coral_proxy::headers::came_through_coral;
use hyper::header::{CACHE_CONTROL, FORWARDED, HeaderValue, ORIGIN, RETRY_AFTER, VIA};
use hyper::{Method, Response, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::probe::Prober;
use super::{FIELD, Nonce, Request, Told};
use crate::config;
use crate::page::{client_of, reply, text};

/// Requests for which something is tried at a time.
const AT_ONCE: usize = 8;

/// What is counted of the past.
const MINUTE: Duration = Duration::from_secs(60);

/// What helps.
#[derive(Debug)]
pub(crate) struct Helper {
    config: config::Reach,
    /// The address that this node has to others.
    me: IpAddr,
    prober: Prober,
    /// When, and for whom, in the last minute. As many at most as may be in all.
    lately: Mutex<VecDeque<(Instant, IpAddr)>>,
    places: Semaphore,
}

/// Why a request is turned away.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    /// The asker, for good.
    Asker(String),
    /// The asker, for so long: he has asked often.
    TooOften(Duration),
    /// Anybody, for so long.
    Busy(Duration),
}

impl Helper {
    /// The help of the node at `me`.
    pub(crate) fn new(config: &config::Config, me: IpAddr) -> anyhow::Result<Self> {
        let prober = Prober::new(Pings::new(config.dsht.part.network_key.as_ref()));
        Ok(Self {
            config: config.reach.clone(),
            me,
            prober: prober.context("cannot try ports over TLS")?,
            lately: Mutex::default(),
            places: Semaphore::new(AT_ONCE),
        })
    }

    /// The answer to a request for [`PATH`](super::PATH): an echo, or what was found.
    pub(crate) async fn answer(&self, visit: &Visit<'_>) -> Response<PageBody> {
        if let Some(nonce) = visit.uri.query().and_then(|query| query.parse::<Nonce>().ok()) {
            return text(StatusCode::OK, &(nonce.echo() + "\n"));
        }
        let Some(asked) = visit.headers.get(FIELD).filter(|_| self.config.serve) else {
            return text(StatusCode::NOT_FOUND, "Nothing is tried here.\n");
        };
        if *visit.method != Method::GET {
            return text(StatusCode::BAD_REQUEST, "Ask by GET.\n");
        }
        let request = match asked.to_str().map(str::parse::<Request>) {
            Ok(Ok(request)) => request,
            Ok(Err(e)) => return text(StatusCode::BAD_REQUEST, &format!("{e}\n")),
            Err(_) => return text(StatusCode::BAD_REQUEST, "The request is no text.\n"),
        };
        let client = visit.client.to_canonical();
        let admitted = self.admit(visit, client).and_then(|()| self.take_turn(client, Instant::now()));
        let place =
            admitted.and_then(|()| self.places.try_acquire().map_err(|_| Refusal::Busy(Duration::from_secs(5))));
        let _place = match place {
            Ok(place) => place,
            Err(refusal) => return refused(&refusal),
        };
        let tried = self.prober.try_all(client, &request, visit.suffix.as_str()).await;
        tracing::info!(%client, ?tried, "tried the ports of a host that has asked for it");
        match serde_json::to_string(&Told { seen_as: client, tried }) {
            Ok(told) => {
                let mut response = reply(StatusCode::OK, "application/json", told + "\n");
                response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
                response
            }
            Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{e}\n")),
        }
    }

    /// Whether the host at `client` may have its ports tried at all.
    fn admit(&self, visit: &Visit<'_>, client: IpAddr) -> Result<(), Refusal> {
        let has = |name: &str| visit.headers.contains_key(name);
        if came_through_coral(visit.headers) || has(VIA.as_str()) || has(FORWARDED.as_str()) || has("x-forwarded-for") {
            return Err(Refusal::Asker("this request came through a proxy: ask this node without one".to_owned()));
        }
        if has(ORIGIN.as_str()) {
            return Err(Refusal::Asker("web pages are not helped".to_owned()));
        }
        if client == self.me {
            return Err(Refusal::Asker("this is the very host that asks: ask a node that is elsewhere".to_owned()));
        }
        if !may_be_peer(SocketAddr::new(client, 0), SocketAddr::new(self.me, 0)) {
            let why = format!("{client} is an address of a network of its own, at which this node knows nobody");
            return Err(Refusal::Asker(why));
        }
        Ok(())
    }

    /// Counts a request, if there have not been too many.
    fn take_turn(&self, client: IpAddr, now: Instant) -> Result<(), Refusal> {
        let client = client_of(client);
        let mut lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        while lately.front().is_some_and(|(then, _)| now.duration_since(*then) >= MINUTE) {
            lately.pop_front();
        }
        let until = |(then, _): &(Instant, IpAddr)| MINUTE.saturating_sub(now.duration_since(*then));
        let mut own = lately.iter().filter(|(_, of)| *of == client);
        if own.clone().count() >= self.config.per_minute_of_one as usize {
            return Err(Refusal::TooOften(own.next().map_or(MINUTE, until)));
        }
        if lately.len() >= self.config.per_minute as usize {
            return Err(Refusal::Busy(lately.front().map_or(MINUTE, until)));
        }
        lately.push_back((now, client));
        Ok(())
    }
}

fn refused(refusal: &Refusal) -> Response<PageBody> {
    let (status, why, after) = match refusal {
        Refusal::Asker(why) => (StatusCode::FORBIDDEN, why.as_str(), None),
        Refusal::TooOften(after) => (StatusCode::TOO_MANY_REQUESTS, "you have asked often", Some(*after)),
        Refusal::Busy(after) => (StatusCode::SERVICE_UNAVAILABLE, "many ask at the moment", Some(*after)),
    };
    let seconds = after.map(|after| after.as_secs() + 1);
    let mut response = match seconds {
        Some(seconds) => text(status, &format!("{why}: come again in {seconds} s\n")),
        None => text(status, &format!("{why}\n")),
    };
    if let Some(seconds) = seconds {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use hyper::{HeaderMap, Uri};

    use super::*;

    fn helper(me: &str, change: impl FnOnce(&mut config::Reach)) -> Helper {
        let mut config = config::Config::default();
        change(&mut config.reach);
        Helper::new(&config, me.parse().unwrap()).unwrap()
    }

    /// Status and body of what `client` is answered.
    async fn ask(helper: &Helper, client: &str, target: &str, fields: &[(&'static str, &str)]) -> (u16, String) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.insert(*name, value.parse().unwrap());
        }
        let suffix = "nyud.net".parse().unwrap();
        let uri: Uri = target.parse().unwrap();
        let (authority, client) = ("nyud.net", client.parse().unwrap());
        let visit = Visit { method: &Method::GET, uri: &uri, headers: &headers, authority, suffix: &suffix, client };
        let response = helper.answer(&visit).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    const NONCE: &str = "000102030405060708090a0b0c0d0e0f";

    #[tokio::test]
    async fn nobody_is_tried_who_cannot_have_asked_himself() {
        let helper = helper("9.9.9.9", |_| {});
        let request = format!("{NONCE} http=1");
        for (client, more, why) in [
            ("127.0.0.1", None, "a network of its own"),
            ("10.0.0.1", None, "a network of its own"),
            ("::ffff:192.168.1.1", None, "a network of its own"),
            ("169.254.169.254", None, "a network of its own"),
            ("9.9.9.9", None, "the very host"),
            ("8.8.8.8", Some(("via", "1.1 somebody")), "a proxy"),
            ("8.8.8.8", Some(("cdn-loop", "coral")), "a proxy"),
            ("8.8.8.8", Some(("x-forwarded-for", "1.1.1.1")), "a proxy"),
            ("8.8.8.8", Some(("origin", "http://nyud.net")), "web pages"),
        ] {
            let fields: Vec<_> = [("coral-reach", request.as_str())].into_iter().chain(more).collect();
            let (status, said) = ask(&helper, client, "/.well-known/coral-reach", &fields).await;
            assert!(status == 403 && said.contains(why), "{client}: {status} {said}");
        }
        let (status, said) = ask(&helper, "8.8.8.8", "/", &[("coral-reach", "http=80")]).await;
        assert!(status == 400 && said.contains("index=4160"), "{said}");
    }

    #[tokio::test]
    async fn a_nonce_is_echoed_and_a_node_that_does_not_help_says_no_more() {
        let helper = helper("9.9.9.9", |reach| reach.serve = false);
        let (status, said) = ask(&helper, "8.8.8.8", &format!("/.well-known/coral-reach?{NONCE}"), &[]).await;
        assert_eq!((status, said), (200, NONCE.parse::<Nonce>().unwrap().echo() + "\n"));
        let request = format!("{NONCE} http=1");
        assert_eq!(ask(&helper, "8.8.8.8", "/", &[("coral-reach", &request)]).await.0, 404);
        assert_eq!(ask(&helper, "8.8.8.8", "/?junk", &[]).await.0, 404);
    }

    #[tokio::test(start_paused = true)]
    async fn one_has_a_few_turns_a_minute_and_all_have_some_more() {
        let helper = helper("9.9.9.9", |reach| (reach.per_minute, reach.per_minute_of_one) = (5, 2));
        let turn = |client: &str| helper.take_turn(client.parse().unwrap(), Instant::now());
        assert_eq!(turn("8.8.8.8"), Ok(()));
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(turn("8.8.8.8"), Ok(()));
        assert_eq!(turn("8.8.8.8"), Err(Refusal::TooOften(Duration::from_secs(40))));
        // All addresses of an IPv6 network are one host's.
        assert_eq!(turn("2600::1"), Ok(()));
        assert_eq!(turn("2600::2"), Ok(()));
        assert!(matches!(turn("2600::3"), Err(Refusal::TooOften(_))));
        assert_eq!(turn("8.8.4.4"), Ok(()));
        assert_eq!(turn("1.1.1.1"), Err(Refusal::Busy(Duration::from_secs(40))));
        assert!(matches!(turn("8.8.8.8"), Err(Refusal::TooOften(_))));
        tokio::time::advance(Duration::from_secs(40)).await;
        assert_eq!(turn("1.1.1.1"), Ok(()));
        assert_eq!(helper.lately.lock().unwrap().len(), 5, "it does not grow");
    }
}
