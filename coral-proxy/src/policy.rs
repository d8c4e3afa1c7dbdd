//! What RFC 9111 lets a shared cache do with a response: store it, for how long it is fresh, when it may be served stale.
//!
//! Values in, values out: `now` is an argument, and nothing is looked up. What an origin says is read once, when its
//! response comes; a hit compares two numbers. Responses to GET alone are stored; those to unsafe methods, which would
//! invalidate (RFC 9111 §4.4), never get here, as no such request is taken.

mod control;
mod date;
mod variant;

use std::time::{Duration, SystemTime};

use http::StatusCode;
use http::header::{AGE, AUTHORIZATION, DATE, EXPIRES, HeaderMap, LAST_MODIFIED, SET_COOKIE, VARY};

pub(crate) use control::CDN_CACHE_CONTROL;
pub use control::{CacheControl, list_members};
pub use date::date;
pub(crate) use date::seconds_since_1970;
pub use variant::{variant_key, vary};

use crate::config::Freshness;
use control::delta_seconds;

/// How long an error that the origin gives no lifetime for is remembered: its mistake should not stick for half a day.
const ERROR_LIFETIME: Duration = Duration::from_secs(60);

/// Why a response is not stored. The word goes to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotStored {
    /// The client says no-store.
    Asked,
    /// The response says so.
    NoStore,
    /// The response is for one client.
    Private,
    /// The request told the origin who the client is, and the response does not say that others may have it.
    Authorized,
    /// It sets a cookie, and does not say that it may be stored.
    Cookie,
    /// The status is one that is not stored without explicit freshness, or never, as 206 here.
    Status,
    /// `Vary: *`: no request but the one it answers can ever match.
    VaryAny,
}

impl NotStored {
    /// Whether it is so for this one request, and says nothing of others for the same URL.
    pub const fn is_of_request(self) -> bool {
        matches!(self, Self::Asked | Self::Authorized)
    }
}

/// Whether a response to GET may be stored (RFC 9111 §3): `client` is what the client asked with, `upstream` what the
/// origin was asked with.
pub fn may_store(
    client: &HeaderMap,
    upstream: &HeaderMap,
    status: StatusCode,
    response: &HeaderMap,
) -> Result<(), NotStored> {
    let control = CacheControl::of_response(response);
    if CacheControl::of(client).no_store {
        return Err(NotStored::Asked);
    }
    // RFC 9111 §5.2.2.3: no-store is for those who do not know the status.
    if control.must_understand && !is_understood(status) {
        return Err(NotStored::Status);
    }
    if control.no_store && !control.must_understand {
        return Err(NotStored::NoStore);
    }
    if control.private {
        return Err(NotStored::Private);
    }
    if vary(response).is_none() {
        return Err(NotStored::VaryAny);
    }
    if upstream.contains_key(AUTHORIZATION) {
        // RFC 9111 §3.5. What varies by who asks would be stored as if nobody had.
        let for_all = control.must_revalidate || control.public || control.s_maxage.is_some();
        let mut varying = response.get_all(VARY).iter().flat_map(|value| list_members(value.as_bytes()));
        if !for_all || varying.any(|name| name.eq_ignore_ascii_case(AUTHORIZATION.as_str())) {
            return Err(NotStored::Authorized);
        }
    }
    let expires = response.contains_key(EXPIRES) && !control.targeted;
    let explicit = control.public || control.max_age.is_some() || control.s_maxage.is_some() || expires;
    // RFC 9111 §7.3 leaves it to the origin to say whether a cookie is for all; silence is not taken for a yes.
    if response.contains_key(SET_COOKIE) && !explicit {
        return Err(NotStored::Cookie);
    }
    let final_status = status.as_u16() >= 200 && !matches!(status.as_u16(), 206 | 304);
    if final_status && (explicit || heuristic_status(status)) { Ok(()) } else { Err(NotStored::Status) }
}

/// Whether what a status asks of caches is known here: those of RFC 9110 §15, but for parts, which are not stored.
fn is_understood(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200..=205 | 300..=303 | 305 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 500..=505)
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
    /// Before this, by this node's clock, the origin has not sent or confirmed it.
    sent: SystemTime,
    /// The age at which it ceases to be fresh; zero if it must always be validated.
    lifetime: Duration,
    /// How long after that it may be served while it is asked about.
    stale_while_revalidate: Duration,
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
        let control = CacheControl::of_response(headers);
        let (lifetime, _) = lifetime(status, headers, received, config);
        let (stale_while_revalidate, stale_if_error) = match control.forbids_stale() {
            true => (Duration::ZERO, Duration::ZERO),
            false => (
                control.stale_while_revalidate.unwrap_or_default(),
                control.stale_if_error.unwrap_or(config.stale_if_error).min(config.stale_if_error),
            ),
        };
        let initial_age = initial_age(headers, asked, received);
        Self { received, initial_age, sent: asked, lifetime, stale_while_revalidate, stale_if_error }
    }

    /// The same of what another node has delivered, to which the origin did not send it before `sent`.
    pub(crate) fn sent_at(mut self, sent: SystemTime) -> Self {
        self.sent = sent;
        self
    }

    /// Itself as numbers, microseconds each, for the store. What is added here is added to [`Self::from_numbers`], too; a
    /// store of before is then not read any more, as the count differs.
    pub(crate) fn to_numbers(&self) -> Vec<u64> {
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let [received, sent] =
            [self.received, self.sent].map(|time| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        let spans = [self.initial_age, self.lifetime, self.stale_while_revalidate, self.stale_if_error];
        [received].into_iter().chain(spans).chain([sent]).map(micros).collect()
    }

    /// What [`Self::to_numbers`] has given; `None` if it was of another version, or is beyond what a clock can hold.
    pub(crate) fn from_numbers(numbers: &[u64]) -> Option<Self> {
        let (&[received, initial_age, lifetime, stale_while_revalidate, stale_if_error], sent) =
            numbers.split_first_chunk()?;
        // Stores of before did not have it: the age tells nearly the same.
        let sent = match *sent {
            [] => received.saturating_sub(initial_age),
            [sent] => sent,
            _ => return None,
        };
        Some(Self {
            received: SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(received))?,
            sent: SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(sent))?,
            initial_age: Duration::from_micros(initial_age),
            lifetime: Duration::from_micros(lifetime),
            stale_while_revalidate: Duration::from_micros(stale_while_revalidate),
            stale_if_error: Duration::from_micros(stale_if_error),
        })
    }

    /// When its head came.
    pub fn received(&self) -> SystemTime {
        self.received
    }

    /// Before this, by this node's clock, the origin has not sent or confirmed it. That its own clock is wrong, or that another cache
    /// stands in front of it, which has it from before, does not matter.
    pub fn sent(&self) -> SystemTime {
        self.sent
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

    /// Whether it may be served while somebody asks (RFC 5861 §3).
    pub fn may_be_revalidated_behind(&self, now: SystemTime) -> bool {
        self.stale_for(now) < self.stale_while_revalidate
    }

    /// Whether it may be served when the origin fails.
    pub fn may_stand_in(&self, now: SystemTime) -> bool {
        self.stale_for(now) < self.stale_if_error
    }

    /// Whether it may be served stale at any time.
    pub fn may_ever_be_stale(&self) -> bool {
        !(self.stale_while_revalidate.is_zero() && self.stale_if_error.is_zero())
    }

    fn stale_for(&self, now: SystemTime) -> Duration {
        self.age(now).saturating_sub(self.lifetime)
    }
}

/// What a lifetime was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// `no-cache`: it has none.
    NoCache,
    /// `s-maxage`.
    SMaxage,
    /// `max-age`.
    MaxAge,
    /// `Expires`.
    Expires,
    /// A part of the time since the last change.
    LastModified,
    /// Nothing: the configuration says how long that is good for.
    Default,
}

/// How long a response is fresh (RFC 9111 §4.2.1), and why.
pub fn lifetime(
    status: StatusCode,
    headers: &HeaderMap,
    received: SystemTime,
    config: &Freshness,
) -> (Duration, Basis) {
    let control = CacheControl::of_response(headers);
    if control.no_cache {
        return (Duration::ZERO, Basis::NoCache);
    }
    let explicit = [(control.s_maxage, Basis::SMaxage), (control.max_age, Basis::MaxAge)];
    if let Some(explicit) = explicit.into_iter().find_map(|(span, basis)| Some((span?, basis))) {
        return explicit;
    }
    let date = date(headers, &DATE).unwrap_or(received);
    if headers.contains_key(EXPIRES) && !control.targeted {
        // RFC 9111 §5.3: an invalid date, "0" above all, is in the past.
        let expires = self::date(headers, &EXPIRES).unwrap_or(SystemTime::UNIX_EPOCH);
        return (expires.duration_since(date).unwrap_or_default(), Basis::Expires);
    }
    let (guess, basis) = match self::date(headers, &LAST_MODIFIED) {
        Some(modified) => {
            // One that was changed after it was sent has clocks that disagree: as if changed just now.
            let unchanged_for = date.duration_since(modified).unwrap_or_default();
            let part = (unchanged_for / 100).saturating_mul(config.heuristic_percent);
            (part.max(config.heuristic_least).min(config.heuristic_limit), Basis::LastModified)
        }
        None => (config.default, Basis::Default),
    };
    let failed = status.is_client_error() || status.is_server_error();
    (if failed { guess.min(ERROR_LIFETIME) } else { guess }, basis)
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

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::control::MAX_DELTA_SECONDS;
    use super::*;
    use crate::headers::of_lines as headers;

    /// 1 January 2026, 12:00 UTC.
    fn noon() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_268_800)
    }

    /// `lines` as the head of a 200 that came at noon; fresh for how long, and stale on error for how long after.
    fn check(lines: &[&str], expected: Expect) {
        let validity = Validity::of(StatusCode::OK, &headers(lines), noon(), noon(), &Freshness::default());
        let stored = may_store(&HeaderMap::new(), &HeaderMap::new(), StatusCode::OK, &headers(lines));
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
            may_store(&HeaderMap::new(), &HeaderMap::new(), status, &headers(lines)).is_ok()
        };
        assert!(store(404, &[]) && store(301, &[]));
        assert!(!store(302, &[]) && !store(500, &[]) && !store(206, &["cache-control: max-age=9"]));
        assert!(store(302, &["cache-control: max-age=9"]));
    }

    #[test]
    fn a_status_that_must_be_understood_is_or_is_not() {
        let store = |status: u16| {
            let status = StatusCode::from_u16(status).unwrap();
            let head = headers(&["cache-control: max-age=9, no-store, must-understand"]);
            may_store(&HeaderMap::new(), &HeaderMap::new(), status, &head)
        };
        assert_eq!((store(200), store(404), store(503)), (Ok(()), Ok(()), Ok(())));
        assert_eq!(
            (store(599), store(299), store(206)),
            (Err(NotStored::Status), Err(NotStored::Status), Err(NotStored::Status))
        );
    }

    #[test]
    fn what_the_origin_knew_the_client_for_is_stored_only_where_it_says_so() {
        let store = |line: &str| {
            let upstream = headers(&["authorization: a"]);
            may_store(&HeaderMap::new(), &upstream, StatusCode::OK, &headers(&["etag: \"a\"", line]))
        };
        for line in [
            "cache-control: max-age=9, public",
            "cache-control: s-maxage=9",
            "cache-control: max-age=9, must-revalidate",
        ] {
            assert_eq!(store(line), Ok(()), "{line}");
        }
        for line in [
            "cache-control: max-age=9",
            "cache-control: max-age=9, proxy-revalidate",
            "expires: Fri, 01 Jan 2027 11:00:00 GMT",
        ] {
            assert_eq!(store(line), Err(NotStored::Authorized), "{line}");
        }
        let varying = headers(&["cache-control: public", "vary: a, Authorization"]);
        let upstream = headers(&["authorization: a"]);
        assert_eq!(may_store(&upstream, &upstream, StatusCode::OK, &varying), Err(NotStored::Authorized));
        assert_eq!(may_store(&upstream, &HeaderMap::new(), StatusCode::OK, &varying), Ok(()), "which nobody was told");
    }

    #[test]
    fn a_cookie_is_stored_with_what_says_how_long_it_is_good() {
        check(&["set-cookie: a=b"], expect!["Cookie"]);
        check(
            &["set-cookie: a=b", "cache-control: max-age=9"],
            expect!["age 0 s, fresh 9 s, then stale on error 86400 s"],
        );
    }

    #[test]
    fn stale_while_revalidate_ends_and_is_forbidden_with_all_that_is_stale() {
        let behind = |lines: &[&str], age: u64| {
            let validity = Validity::of(StatusCode::OK, &headers(lines), noon(), noon(), &Freshness::default());
            validity.may_be_revalidated_behind(noon() + Duration::from_secs(age))
        };
        let control = ["cache-control: max-age=10, stale-while-revalidate=5"];
        assert!(behind(&control, 10) && behind(&control, 14) && !behind(&control, 15));
        assert!(!behind(&["cache-control: max-age=10"], 10));
        assert!(!behind(&["cache-control: max-age=10, stale-while-revalidate=5, must-revalidate"], 10));
        assert!(!behind(&["cache-control: s-maxage=10, stale-while-revalidate=5"], 10));
    }

    #[test]
    fn a_guess_about_an_error_is_short() {
        let validity = |lines: &[&str]| {
            Validity::of(StatusCode::NOT_FOUND, &headers(lines), noon(), noon(), &Freshness::default())
                .remaining(noon())
        };
        assert_eq!(validity(&[]), ERROR_LIFETIME);
        assert_eq!(validity(&["last-modified: Thu, 01 Jan 2015 11:00:00 GMT"]), ERROR_LIFETIME);
        assert_eq!(validity(&["cache-control: max-age=600"]), Duration::from_secs(600));
    }

    #[test]
    fn what_is_said_to_caches_such_as_this_one_counts_and_nothing_else() {
        check(
            &["cdn-cache-control: max-age=60", "cache-control: no-store", "expires: 0"],
            expect!["age 0 s, fresh 60 s, then stale on error 86400 s"],
        );
        check(
            &["cdn-cache-control: none", "expires: 0"],
            expect!["age 0 s, fresh 43200 s, then stale on error 86400 s"],
        );
        check(&["cdn-cache-control: no-store", "cache-control: max-age=60"], expect!["NoStore"]);
    }

    #[test]
    fn what_a_store_of_before_has_is_read_and_was_sent_when_its_age_says() {
        let validity = Validity::of(StatusCode::OK, &headers(&["age: 40"]), noon(), noon(), &Freshness::default());
        let numbers = validity.to_numbers();
        assert_eq!(Validity::from_numbers(&numbers), Some(validity));
        let before = Validity::from_numbers(&numbers[..5]).unwrap();
        assert_eq!(before.sent(), noon() - Duration::from_secs(40));
        assert_eq!(Validity::from_numbers(&numbers[..4]), None);
        assert_eq!(Validity::from_numbers(&[&numbers[..], &[0]].concat()), None);
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
