//! Why a URL is served as it is: what is stored for it, each rule that decided, with the field that it was read from and the
//! section that has the rule.
//!
//! It asks nobody, and changes nothing but that the copy counts as asked for. What [`crate::policy`] decides is asked of it, not decided here a second time.

use std::time::{Duration, SystemTime};

use coral_dsht::Key;
use http::header::{AGE, CACHE_CONTROL, ETAG, EXPIRES, HeaderMap, HeaderName, LAST_MODIFIED, SET_COOKIE, VARY};
use serde::Serialize;

use crate::cache::Object;
use crate::config::Freshness;
use crate::headers::has_validator;
use crate::policy::{Basis, CDN_CACHE_CONTROL, CacheControl, NotStored, lifetime};
use crate::url::CoralUrl;

/// What becomes of the next request for a URL, a GET without any field, and why.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// The canonical URL.
    pub url: String,
    /// Its key in the index.
    pub key: Key,
    /// The server that it comes from.
    pub origin: String,
    /// What becomes of it.
    pub verdict: Outlook,
    /// The same in a sentence.
    pub because: String,
    /// The rules that decided, in the order in which they are asked.
    pub rules: Vec<Rule>,
}

/// What becomes of the next request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Outlook {
    /// It is refused, as the operator does not serve it.
    Denied,
    /// It is served from here.
    Hit,
    /// It is served from here while somebody asks whether it is still good.
    Revalidating,
    /// What is here has expired: others, then the origin, are asked whether it is still good.
    Stale,
    /// What is here has expired, and is served all the same, as the origin has failed a moment ago.
    StandIn,
    /// What is here was purged: it is fetched, from another node or the origin.
    Purged,
    /// It joins the fetch that is under way.
    UnderWay,
    /// It is passed on to the origin, as the last response could not be stored.
    NotStored,
    /// It fails at once, as the origin has failed a moment ago.
    Failed,
    /// It is fetched, from another node or the origin.
    Miss,
}

impl Explanation {
    pub(crate) fn denied(url: &CoralUrl) -> Self {
        Self {
            url: url.canonical(),
            key: url.key(),
            origin: url.origin.to_string(),
            verdict: Outlook::Denied,
            because: "the operator of this node does not serve it".to_owned(),
            rules: vec![Rule::new("it is on the deny list", None, "proxy.deny")],
        }
    }
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// What it says of this response.
    pub says: String,
    /// The field that it was read from, with its value, if there is one.
    pub field: Option<String>,
    /// Where the rule is written: an RFC and its section, or this node's configuration.
    pub section: &'static str,
}

impl Rule {
    fn new(says: impl Into<String>, field: Option<String>, section: &'static str) -> Self {
        Self { says: says.into(), field, section }
    }
}

/// The rule by which what is stored is not used.
pub(crate) fn purged(purged: SystemTime, now: SystemTime) -> Rule {
    let seconds = now.duration_since(purged).unwrap_or_default().as_secs();
    Rule::new(format!("what the origin sent until {seconds} s ago was purged"), None, "purge")
}

/// The rules for a response that is stored.
pub(crate) fn stored(object: &Object, now: SystemTime, config: &Freshness) -> Vec<Rule> {
    let (headers, validity) = (&object.headers, &object.validity);
    let control = CacheControl::of_response(headers);
    let said = if control.targeted { &CDN_CACHE_CONTROL } else { &CACHE_CONTROL };
    let mut rules = vec![Rule::new(format!("status {}: may be stored", object.status.as_u16()), None, "RFC 9111 §3")];
    if control.targeted {
        let says = "counts in place of Cache-Control and Expires";
        rules.push(Rule::new(says, field(headers, &CDN_CACHE_CONTROL), "RFC 9213 §2.2"));
    }
    if !object.selecting.is_empty() {
        let says = "this is the variant for a request that has none of these fields";
        rules.push(Rule::new(says, field(headers, &VARY), "RFC 9111 §4.1"));
    }
    let (fresh_for, basis) = lifetime(object.status, headers, validity.received(), config);
    let (name, section) = match basis {
        Basis::NoCache => (Some(said), "RFC 9111 §5.2.2.4"),
        Basis::SMaxage => (Some(said), "RFC 9111 §5.2.2.10"),
        Basis::MaxAge => (Some(said), "RFC 9111 §5.2.2.1"),
        Basis::Expires => (Some(&EXPIRES), "RFC 9111 §5.3"),
        Basis::LastModified => (Some(&LAST_MODIFIED), "RFC 9111 §4.2.2, proxy.freshness.heuristic_percent"),
        Basis::Default => (None, "RFC 9111 §4.2.2, proxy.freshness.default"),
    };
    let says = match basis {
        Basis::NoCache => "is to be asked about before each use".to_owned(),
        Basis::LastModified => {
            format!("is taken to be fresh for {}, a part of the time since its last change", span(fresh_for))
        }
        Basis::Default => format!("says nothing of its lifetime: is taken to be fresh for {}", span(fresh_for)),
        Basis::SMaxage | Basis::MaxAge | Basis::Expires => format!("is fresh for {}", span(fresh_for)),
    };
    rules.push(Rule::new(says, name.and_then(|name| field(headers, name)), section));
    let age = validity.age(now);
    let says = match fresh_for.checked_sub(age).filter(|left| !left.is_zero()) {
        Some(left) => format!("is {} old, and fresh for {} more", span(age), span(left)),
        None => format!("is {} old, and stale for {}", span(age), span(age.saturating_sub(fresh_for))),
    };
    rules.push(Rule::new(says, field(headers, &AGE), "RFC 9111 §4.2.3"));
    if control.forbids_stale() {
        let says = "may not be served stale";
        rules.push(Rule::new(says, field(headers, said), "RFC 9111 §4.2.4"));
    } else {
        if let Some(longer) = control.stale_while_revalidate.filter(|longer| !longer.is_zero()) {
            let says = format!("may be served for {} more while it is asked about", span(longer));
            rules.push(Rule::new(says, field(headers, said), "RFC 5861 §3"));
        }
        let longer = control.stale_if_error.unwrap_or(config.stale_if_error).min(config.stale_if_error);
        let (name, section) = match control.stale_if_error {
            Some(_) => (field(headers, said), "RFC 5861 §4"),
            None => (None, "RFC 5861 §4, proxy.freshness.stale_if_error"),
        };
        rules.push(Rule::new(format!("may stand in for a failing origin for {} more", span(longer)), name, section));
    }
    let validator = [&ETAG, &LAST_MODIFIED].into_iter().find_map(|name| field(headers, name));
    let says = match has_validator(headers) {
        true => "once stale, it is asked whether it has changed",
        false => "once stale, it is fetched anew: it cannot be asked about",
    };
    rules.push(Rule::new(says, validator, "RFC 9111 §4.3.1"));
    rules
}

/// The rule by which a response was not stored.
pub(crate) fn not_stored(reason: NotStored) -> Rule {
    let (says, name, section) = match reason {
        NotStored::Asked => ("the client said no-store", Some(CACHE_CONTROL), "RFC 9111 §5.2.1.5"),
        NotStored::NoStore => ("the response says no-store", Some(CACHE_CONTROL), "RFC 9111 §5.2.2.5"),
        NotStored::Private => {
            ("the response says that it is private: for one client", Some(CACHE_CONTROL), "RFC 9111 §5.2.2.7")
        }
        NotStored::Authorized => (
            "the request said who asks, and the response not that others may have it",
            Some(CACHE_CONTROL),
            "RFC 9111 §3.5",
        ),
        NotStored::Cookie => {
            ("the response sets a cookie, and does not say how long it is fresh", Some(SET_COOKIE), "RFC 9111 §7.3")
        }
        NotStored::Status => (
            "a response with this status is not stored unless it says how long it is fresh",
            None,
            "RFC 9111 §3, RFC 9110 §15.1",
        ),
        NotStored::VaryAny => ("the response varies by more than its request: *", Some(VARY), "RFC 9111 §4.1"),
    };
    Rule::new(says, name.map(|name| name.to_string()), section)
}

/// A field with its value, those of several lines joined; `None` if it is not there.
fn field(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let values: Vec<_> = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    (!values.is_empty()).then(|| format!("{name}: {}", values.join(", ")))
}

/// To the second: nobody plans by less.
fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let units = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let Some(largest) = units.iter().position(|(unit, _)| seconds >= *unit) else {
        return "0 s".to_owned();
    };
    let (unit, name) = units[largest];
    let mut text = format!("{} {name}", seconds / unit);
    if let Some((next, name)) = units.get(largest + 1).filter(|(next, _)| seconds % unit >= *next) {
        text += &format!(" {} {name}", seconds % unit / next);
    }
    text
}
