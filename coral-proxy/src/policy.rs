//! What RFC 9111 lets a shared cache do with a response: store it, for how long it is fresh, when it may be served stale.
//!
//! Values in, values out: `now` is an argument, and nothing is looked up. Beyond it are targeted cache control
//! (RFC 9213), stale-while-revalidate (RFC 5861) and invalidation, which come with the issue on caching.

use std::time::{Duration, SystemTime};

use coral_dsht::{Id, Key};
use http::header::{
    AGE, AUTHORIZATION, CACHE_CONTROL, COOKIE, DATE, EXPIRES, HOST, HeaderMap, HeaderName, LAST_MODIFIED, USER_AGENT,
    VARY,
};
use http::{Method, StatusCode};

use crate::config::Freshness;

/// RFC 9111 §1.2.2: a number of seconds too large to hold counts as 2^31.
const MAX_DELTA_SECONDS: u64 = 1 << 31;

/// How long an error that the origin gives no lifetime for is remembered: its mistake should not stick for half a day.
const ERROR_LIFETIME: Duration = Duration::from_secs(60);

/// The directives of `Cache-Control` that matter here (RFC 9111 §5.2). Unknown ones are passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheControl {
    /// Not to be stored.
    pub no_store: bool,
    /// Not to be used without asking the origin. The form with field names counts as the plain one.
    pub no_cache: bool,
    /// Only for the client's own cache; likewise.
    pub private: bool,
    /// May be stored though its status alone would not allow it.
    pub public: bool,
    /// Not to be served stale, by any of the directives that say so (RFC 9111 §4.2.4).
    pub must_revalidate: bool,
    /// A request for what is here already, or nothing.
    pub only_if_cached: bool,
    /// The lifetime in any cache.
    pub max_age: Option<Duration>,
    /// The lifetime in a shared one, such as this.
    pub s_maxage: Option<Duration>,
    /// How long the copy may stand in for a failing origin (RFC 5861 §4).
    pub stale_if_error: Option<Duration>,
}

impl CacheControl {
    /// The directives of all `Cache-Control` fields in `headers`.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for value in headers.get_all(CACHE_CONTROL) {
            for directive in list_members(value.as_bytes()) {
                found.add(&directive);
            }
        }
        found
    }

    fn add(&mut self, directive: &str) {
        let (name, argument) = match directive.split_once('=') {
            Some((name, argument)) => (name.trim_end(), Some(argument.trim().trim_matches('"'))),
            None => (directive, None),
        };
        match name.to_ascii_lowercase().as_str() {
            "no-store" => self.no_store = true,
            "no-cache" => self.no_cache = true,
            "private" => self.private = true,
            "public" => self.public = true,
            "must-revalidate" | "proxy-revalidate" => self.must_revalidate = true,
            "only-if-cached" => self.only_if_cached = true,
            "max-age" => least(&mut self.max_age, argument),
            "s-maxage" => least(&mut self.s_maxage, argument),
            "stale-if-error" => least(&mut self.stale_if_error, argument),
            _ => {}
        }
    }
}

/// RFC 9111 §4.2.1: of conflicting lifetimes the most restrictive counts, and an invalid one means stale.
fn least(lifetime: &mut Option<Duration>, argument: Option<&str>) {
    let seconds = argument.and_then(delta_seconds).unwrap_or(0);
    let new = Duration::from_secs(seconds);
    *lifetime = Some(lifetime.map_or(new, |old| old.min(new)));
}

fn delta_seconds(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().map_or(MAX_DELTA_SECONDS, |seconds: u64| seconds.min(MAX_DELTA_SECONDS)))
}

/// The members of a comma-separated field, trimmed; a comma inside quotes separates nothing (RFC 9110 §5.6.1).
pub fn list_members(value: &[u8]) -> Vec<String> {
    let mut members = Vec::new();
    let (mut quoted, mut escaped, mut member) = (false, false, Vec::new());
    for &byte in value {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => {
                members.push(std::mem::take(&mut member));
                continue;
            }
            _ => {}
        }
        member.push(byte);
    }
    members.push(member);
    members
        .iter()
        .map(|member| String::from_utf8_lossy(member).trim().to_owned())
        .filter(|member| !member.is_empty())
        .collect()
}

/// Why a response is not stored. The word goes to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotStored {
    /// The method is not GET.
    Method,
    /// The request or the response says no-store.
    NoStore,
    /// The response is for one client.
    Private,
    /// The status is one that is not stored without explicit freshness, or never, as 206 here.
    Status,
    /// `Vary: *`: no request but the one it answers can ever match.
    VaryAny,
}

/// Whether a response may be stored (RFC 9111 §3), to a request with `method` and `request` headers.
pub fn may_store(
    method: &Method,
    request: &HeaderMap,
    status: StatusCode,
    response: &HeaderMap,
) -> Result<(), NotStored> {
    let control = CacheControl::of(response);
    if method != Method::GET {
        return Err(NotStored::Method);
    }
    if control.no_store || CacheControl::of(request).no_store {
        return Err(NotStored::NoStore);
    }
    if control.private {
        return Err(NotStored::Private);
    }
    if vary(response).is_none() {
        return Err(NotStored::VaryAny);
    }
    let explicit =
        control.public || control.max_age.is_some() || control.s_maxage.is_some() || response.contains_key(EXPIRES);
    let final_status = status.as_u16() >= 200 && !matches!(status.as_u16(), 206 | 304);
    if final_status && (explicit || heuristic_status(status)) { Ok(()) } else { Err(NotStored::Status) }
}

/// RFC 9110 §15.1: statuses that may be stored without explicit freshness; 206 is left out, as parts are not kept here.
fn heuristic_status(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// How long one stored response is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validity {
    /// When its head came.
    received: SystemTime,
    /// How old it was then (RFC 9111 §4.2.3, `corrected_initial_age`).
    initial_age: Duration,
    /// The age at which it ceases to be fresh; zero if it must always be validated.
    lifetime: Duration,
    /// How long after that it may stand in for a failing origin.
    stale_if_error: Duration,
}

impl Validity {
    /// The validity of a response whose request went out at `asked` and whose head came at `received`.
    pub fn of(
        status: StatusCode,
        headers: &HeaderMap,
        asked: SystemTime,
        received: SystemTime,
        config: &Freshness,
    ) -> Self {
        let control = CacheControl::of(headers);
        let lifetime = match control.no_cache {
            true => Duration::ZERO,
            false => lifetime(status, headers, &control, received, config),
        };
        // RFC 9111 §4.2.4: these forbid stale responses; s-maxage implies proxy-revalidate (§5.2.2.10).
        let forbidden = control.must_revalidate || control.no_cache || control.s_maxage.is_some();
        let stale_if_error = match control.stale_if_error {
            _ if forbidden => Duration::ZERO,
            Some(said) => said.min(config.stale_if_error),
            None => config.stale_if_error,
        };
        Self { received, initial_age: initial_age(headers, asked, received), lifetime, stale_if_error }
    }

    /// Itself as numbers, microseconds each, for the store. What is added here is added to [`Self::from_numbers`], too; a
    /// store of before is then not read any more, as the count differs.
    pub(crate) fn to_numbers(&self) -> Vec<u64> {
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let received = self.received.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        vec![micros(received), micros(self.initial_age), micros(self.lifetime), micros(self.stale_if_error)]
    }

    /// What [`Self::to_numbers`] has given; `None` if it was of another version, or is beyond what a clock can hold.
    pub(crate) fn from_numbers(numbers: &[u64]) -> Option<Self> {
        let &[received, initial_age, lifetime, stale_if_error] = numbers else {
            return None;
        };
        Some(Self {
            received: SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(received))?,
            initial_age: Duration::from_micros(initial_age),
            lifetime: Duration::from_micros(lifetime),
            stale_if_error: Duration::from_micros(stale_if_error),
        })
    }

    /// How old the response is (RFC 9111 §4.2.3, `current_age`).
    pub fn age(&self, now: SystemTime) -> Duration {
        self.initial_age.saturating_add(now.duration_since(self.received).unwrap_or_default())
    }

    /// How long it stays fresh from `now` on; zero if it is stale.
    pub fn remaining(&self, now: SystemTime) -> Duration {
        self.lifetime.saturating_sub(self.age(now))
    }

    /// Whether it may be served without asking.
    pub fn is_fresh(&self, now: SystemTime) -> bool {
        self.age(now) < self.lifetime
    }

    /// Whether it may be served when the origin fails.
    pub fn may_stand_in(&self, now: SystemTime) -> bool {
        self.age(now).saturating_sub(self.lifetime) < self.stale_if_error
    }
}

fn lifetime(
    status: StatusCode,
    headers: &HeaderMap,
    control: &CacheControl,
    received: SystemTime,
    config: &Freshness,
) -> Duration {
    if let Some(explicit) = control.s_maxage.or(control.max_age) {
        return explicit;
    }
    let date = date(headers, &DATE).unwrap_or(received);
    if headers.contains_key(EXPIRES) {
        // RFC 9111 §5.3: an invalid date, "0" above all, is in the past.
        let expires = self::date(headers, &EXPIRES).unwrap_or(SystemTime::UNIX_EPOCH);
        return expires.duration_since(date).unwrap_or_default();
    }
    if status.is_client_error() || status.is_server_error() {
        return ERROR_LIFETIME.min(config.default);
    }
    match self::date(headers, &LAST_MODIFIED) {
        Some(modified) => {
            // One that was changed after it was sent has clocks that disagree: as if changed just now.
            let unchanged_for = date.duration_since(modified).unwrap_or_default();
            let part = (unchanged_for / 100).saturating_mul(config.heuristic_percent);
            part.max(config.heuristic_least).min(config.heuristic_limit)
        }
        None => config.default,
    }
}

/// RFC 9111 §4.2.3.
fn initial_age(headers: &HeaderMap, asked: SystemTime, received: SystemTime) -> Duration {
    let apparent = date(headers, &DATE).and_then(|date| received.duration_since(date).ok()).unwrap_or_default();
    // RFC 9111 §5.1: of several values the first counts, and an invalid Age is ignored.
    let said = headers
        .get(AGE)
        .and_then(|value| list_members(value.as_bytes()).into_iter().next())
        .and_then(|value| delta_seconds(&value))
        .map(Duration::from_secs)
        .unwrap_or_default();
    let delay = received.duration_since(asked).unwrap_or_default();
    apparent.max(said + delay)
}

/// The date in the field `name`; `None` if it is missing, invalid or there more than once.
pub fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    httpdate::parse_http_date(value.to_str().ok()?).ok()
}

/// The request fields that a response was selected by, sorted; `None` for `Vary: *`.
///
/// Fields that this node never sends on, or sends alike for everybody, select nothing and are left out: all clients
/// are the same client to the origin there.
pub fn vary(response: &HeaderMap) -> Option<Vec<HeaderName>> {
    let mut names = Vec::new();
    for value in response.get_all(VARY) {
        for member in list_members(value.as_bytes()) {
            if member == "*" {
                return None;
            }
            if let Ok(name) = HeaderName::from_bytes(member.as_bytes())
                && ![COOKIE, AUTHORIZATION, USER_AGENT, HOST].contains(&name)
            {
                names.push(name);
            }
        }
    }
    names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    Some(names)
}

/// The key of the variant that `request` selects among the responses for `key` that vary by `names` (RFC 9111 §4.1).
pub fn variant_key(key: Key, names: &[HeaderName], request: &HeaderMap) -> Key {
    let mut parts: Vec<Vec<u8>> = vec![b"variant".to_vec(), key.as_bytes().to_vec()];
    for name in names {
        parts.push(name.as_str().as_bytes().to_vec());
        parts.push(normalised(name, request));
    }
    Id::hash(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// A field's value as far as it selects: white space and the split into several lines do not; an absent field is
/// not an empty one.
fn normalised(name: &HeaderName, request: &HeaderMap) -> Vec<u8> {
    if !request.contains_key(name) {
        return b"-".to_vec();
    }
    let members = request.get_all(name).iter().flat_map(|value| list_members(value.as_bytes()));
    format!("+{}", members.collect::<Vec<_>>().join(",")).into_bytes()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;
    use crate::headers::of_lines as headers;

    /// 1 January 2026, 12:00 UTC.
    fn noon() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_268_800)
    }

    /// `lines` as the head of a 200 that came at noon; fresh for how long, and stale on error for how long after.
    fn check(lines: &[&str], expected: Expect) {
        let validity = Validity::of(StatusCode::OK, &headers(lines), noon(), noon(), &Freshness::default());
        let stored = may_store(&Method::GET, &HeaderMap::new(), StatusCode::OK, &headers(lines));
        let outcome = match stored {
            Ok(()) => format!(
                "age {} s, fresh {} s, then stale on error {} s",
                validity.age(noon()).as_secs(),
                validity.remaining(noon()).as_secs(),
                validity.stale_if_error.as_secs(),
            ),
            Err(reason) => format!("{reason:?}"),
        };
        expected.assert_eq(&outcome);
    }

    #[test]
    fn a_response_that_says_nothing_is_fresh_for_twelve_hours() {
        check(&[], expect!["age 0 s, fresh 43200 s, then stale on error 86400 s"]);
    }

    #[test]
    fn s_maxage_comes_before_max_age_and_that_before_expires() {
        let expires = "expires: Thu, 01 Jan 2026 12:00:30 GMT";
        check(&[expires], expect!["age 0 s, fresh 30 s, then stale on error 86400 s"]);
        check(&[expires, "cache-control: max-age=20"], expect!["age 0 s, fresh 20 s, then stale on error 86400 s"]);
        check(
            &[expires, "cache-control: max-age=20, s-maxage=10"],
            expect!["age 0 s, fresh 10 s, then stale on error 0 s"],
        );
    }

    #[test]
    fn a_tenth_of_the_time_since_the_last_change_between_a_minute_and_twelve_hours() {
        for just_now in ["11:59:50", "12:00:00", "12:00:10"] {
            let line = format!("last-modified: Thu, 01 Jan 2026 {just_now} GMT");
            let validity = Validity::of(StatusCode::OK, &headers(&[&line]), noon(), noon(), &Freshness::default());
            assert_eq!(validity.remaining(noon()), Duration::from_secs(60), "{just_now}");
        }
        check(
            &["last-modified: Thu, 01 Jan 2026 11:00:00 GMT"],
            expect!["age 0 s, fresh 360 s, then stale on error 86400 s"],
        );
        check(
            &["last-modified: Thu, 01 Jan 2015 11:00:00 GMT"],
            expect!["age 0 s, fresh 43200 s, then stale on error 86400 s"],
        );
    }

    #[test]
    fn age_is_the_larger_of_what_is_said_and_what_the_date_shows() {
        check(&["age: 40", "cache-control: max-age=100"], expect!["age 40 s, fresh 60 s, then stale on error 86400 s"]);
        check(
            &["age: 4", "date: Thu, 01 Jan 2026 11:59:00 GMT", "cache-control: max-age=100"],
            expect!["age 60 s, fresh 40 s, then stale on error 86400 s"],
        );
        check(&["age: -4", "cache-control: max-age=100"], expect!["age 0 s, fresh 100 s, then stale on error 86400 s"]);
    }

    #[test]
    fn invalid_freshness_is_stale() {
        check(&["expires: 0"], expect!["age 0 s, fresh 0 s, then stale on error 86400 s"]);
        check(&["cache-control: max-age=ten"], expect!["age 0 s, fresh 0 s, then stale on error 86400 s"]);
        check(
            &["cache-control: max-age=99999999999999999999"],
            expect!["age 0 s, fresh 2147483648 s, then stale on error 86400 s"],
        );
        check(&["cache-control: max-age=30, max-age=10"], expect!["age 0 s, fresh 10 s, then stale on error 86400 s"]);
    }

    #[test]
    fn what_is_not_for_a_shared_cache_is_not_stored() {
        check(&["cache-control: No-Store"], expect!["NoStore"]);
        check(&["cache-control: max-age=9, private=\"a, b\""], expect!["Private"]);
        check(&["vary: accept", "vary: *"], expect!["VaryAny"]);
    }

    #[test]
    fn a_directive_inside_quotes_is_none() {
        check(
            &["cache-control: ext=\"no-store, private\", max-age=9"],
            expect!["age 0 s, fresh 9 s, then stale on error 86400 s"],
        );
    }

    #[test]
    fn no_cache_and_must_revalidate_forbid_stale() {
        check(&["cache-control: no-cache"], expect!["age 0 s, fresh 0 s, then stale on error 0 s"]);
        check(&["cache-control: max-age=5, must-revalidate"], expect!["age 0 s, fresh 5 s, then stale on error 0 s"]);
    }

    #[test]
    fn a_status_decides_when_nothing_is_said() {
        let store = |status: u16, lines: &[&str]| {
            let status = StatusCode::from_u16(status).unwrap();
            may_store(&Method::GET, &HeaderMap::new(), status, &headers(lines)).is_ok()
        };
        assert!(store(404, &[]) && store(301, &[]));
        assert!(!store(302, &[]) && !store(500, &[]) && !store(206, &["cache-control: max-age=9"]));
        assert!(store(302, &["cache-control: max-age=9"]));
    }

    #[test]
    fn variants_differ_by_the_fields_named_and_by_no_others() {
        let key = Id::hash(&[b"k"]);
        let names = vary(&headers(&["vary: Accept-Language, Cookie"])).unwrap();
        let of = |lines: &[&str]| variant_key(key, &names, &headers(lines));
        assert_eq!(of(&["accept-language: de,  en"]), of(&["accept-language: de", "accept-language: en", "cookie: a"]));
        assert_ne!(of(&["accept-language: de"]), of(&["accept-language: en"]));
        assert_ne!(of(&["accept-language: "]), of(&[]));
    }

    proptest! {
        #[test]
        fn any_cache_control_is_read_and_never_outlives_its_bound(value in "[ -~]{0,80}") {
            let headers = headers(&[&format!("cache-control: {value}")]);
            let validity = Validity::of(StatusCode::OK, &headers, noon(), noon(), &Freshness::default());
            prop_assert!(validity.remaining(noon()) <= Duration::from_secs(MAX_DELTA_SECONDS));
            prop_assert_eq!(validity.is_fresh(noon()), !validity.remaining(noon()).is_zero());
        }
    }
}
