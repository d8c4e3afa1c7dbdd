//! What an origin says of caching: `Cache-Control` (RFC 9111 §5.2), or `CDN-Cache-Control` in its place (RFC 9213).

use std::time::Duration;

use http::header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

/// RFC 9111 §1.2.2: a number of seconds too large to hold counts as 2^31.
pub(super) const MAX_DELTA_SECONDS: u64 = 1 << 31;

/// The field that is for caches such as this one (RFC 9213 §3.1).
pub(crate) const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");

/// The directives of `Cache-Control` that matter here (RFC 9111 §5.2). Unknown ones are passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheControl {
    /// Whether they come from a field that is for caches such as this one, so that neither `Cache-Control` nor `Expires`
    /// counts (RFC 9213 §2.2).
    pub targeted: bool,
    /// Not to be stored.
    pub no_store: bool,
    /// Not to be used without asking the origin. The form with field names counts as the plain one.
    pub no_cache: bool,
    /// Only for the client's own cache; likewise.
    pub private: bool,
    /// May be stored though its status alone would not allow it.
    pub public: bool,
    /// Not to be served stale by any cache.
    pub must_revalidate: bool,
    /// Not to be served stale by a shared one.
    pub proxy_revalidate: bool,
    /// To be stored by those only who know what the status asks of a cache; they pass over `no-store`.
    pub must_understand: bool,
    /// A request for what is here already, or nothing.
    pub only_if_cached: bool,
    /// The lifetime in any cache.
    pub max_age: Option<Duration>,
    /// The lifetime in a shared one, such as this.
    pub s_maxage: Option<Duration>,
    /// How long the copy may be served stale while it is asked about (RFC 5861 §3).
    pub stale_while_revalidate: Option<Duration>,
    /// How long the copy may stand in for a failing origin (RFC 5861 §4).
    pub stale_if_error: Option<Duration>,
}

impl CacheControl {
    /// The directives of all `Cache-Control` fields in `headers`: those of a request.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for value in headers.get_all(CACHE_CONTROL) {
            for directive in list_members(value.as_bytes()) {
                found.add(&directive);
            }
        }
        found
    }

    /// The directives of a response: those for caches such as this one, if there are any, else those for all.
    pub fn of_response(headers: &HeaderMap) -> Self {
        Self::targeted(headers).unwrap_or_else(|| Self::of(headers))
    }

    /// The directives of `CDN-Cache-Control`. `None` if it is missing, empty or no structured field.
    fn targeted(headers: &HeaderMap) -> Option<Self> {
        let mut lines = headers.get_all(CDN_CACHE_CONTROL).iter().map(HeaderValue::as_bytes).peekable();
        lines.peek()?;
        // RFC 9651 §4.2: the lines of a field are one, joined by commas.
        let text = lines.collect::<Vec<_>>().join(&b", "[..]);
        let directives = Parser::new(&text).parse::<Dictionary>().ok().filter(|members| !members.is_empty())?;
        let mut found = Self { targeted: true, ..Self::default() };
        for (name, value) in &directives {
            let item = match value {
                ListEntry::Item(item) => Some(&item.bare_item),
                ListEntry::InnerList(_) => None,
            };
            match item {
                // RFC 9213 §2.1: without a value is true. A false one is as good as none.
                Some(BareItem::Boolean(false)) => {}
                Some(BareItem::Integer(seconds)) => {
                    let seconds = u64::try_from(i64::from(*seconds)).ok();
                    found.set(name.as_str(), seconds.map(|seconds| seconds.min(MAX_DELTA_SECONDS)));
                }
                // Of another type than such a directive has: what is to be restricted is, and a lifetime is none.
                _ => found.set(name.as_str(), None),
            }
        }
        Some(found)
    }

    fn add(&mut self, directive: &str) {
        let (name, argument) = match directive.split_once('=') {
            Some((name, argument)) => (name.trim_end(), Some(argument.trim().trim_matches('"'))),
            None => (directive, None),
        };
        self.set(&name.to_ascii_lowercase(), argument.and_then(delta_seconds));
    }

    fn set(&mut self, name: &str, seconds: Option<u64>) {
        match name {
            "no-store" => self.no_store = true,
            "no-cache" => self.no_cache = true,
            "private" => self.private = true,
            "public" => self.public = true,
            "must-revalidate" => self.must_revalidate = true,
            "proxy-revalidate" => self.proxy_revalidate = true,
            "must-understand" => self.must_understand = true,
            "only-if-cached" => self.only_if_cached = true,
            "max-age" => least(&mut self.max_age, seconds),
            "s-maxage" => least(&mut self.s_maxage, seconds),
            "stale-while-revalidate" => least(&mut self.stale_while_revalidate, seconds),
            "stale-if-error" => least(&mut self.stale_if_error, seconds),
            _ => {}
        }
    }

    /// Whether stale copies are forbidden to this cache, by any of the directives that say so (RFC 9111 §4.2.4).
    pub(crate) fn forbids_stale(&self) -> bool {
        // §5.2.2.10: s-maxage implies proxy-revalidate.
        self.must_revalidate || self.proxy_revalidate || self.no_cache || self.s_maxage.is_some()
    }
}

/// RFC 9111 §4.2.1: of conflicting lifetimes the most restrictive counts, and an invalid one means stale.
fn least(lifetime: &mut Option<Duration>, seconds: Option<u64>) {
    let new = Duration::from_secs(seconds.unwrap_or(0));
    *lifetime = Some(lifetime.map_or(new, |old| old.min(new)));
}

pub(super) fn delta_seconds(text: &str) -> Option<u64> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::headers::of_lines as headers;

    fn lifetime(lines: &[&str]) -> Option<u64> {
        CacheControl::of_response(&headers(lines)).max_age.map(|lifetime| lifetime.as_secs())
    }

    #[test]
    fn the_field_for_caches_such_as_this_one_takes_the_place_of_the_other() {
        let control =
            CacheControl::of_response(&headers(&["cache-control: no-store", "cdn-cache-control: max-age=60"]));
        assert!(control.targeted && !control.no_store);
        assert_eq!(control.max_age, Some(Duration::from_secs(60)));
        // RFC 9213 §3.1: a directive that nobody knows is none, yet the field is not empty.
        let control = CacheControl::of_response(&headers(&["cache-control: no-store", "cdn-cache-control: none"]));
        assert!(control.targeted && !control.no_store);
        let lines = ["cdn-cache-control: max-age=5", "cdn-cache-control: foo=(a b);c, private"];
        let control = CacheControl::of_response(&headers(&lines));
        assert!(control.private && control.max_age.is_some());
    }

    #[test]
    fn one_that_is_empty_or_no_structured_field_is_ignored() {
        for field in ["cdn-cache-control: ", "cdn-cache-control: max-age=60, &&&", "cdn-cache-control: Max-Age=60"] {
            let control = CacheControl::of_response(&headers(&["cache-control: no-store", field]));
            assert!(!control.targeted && control.no_store, "{field}");
        }
    }

    #[test]
    fn a_value_of_the_wrong_type_restricts() {
        assert_eq!(lifetime(&["cdn-cache-control: max-age=\"60\""]), Some(0));
        assert_eq!(lifetime(&["cdn-cache-control: max-age=6.5"]), Some(0));
        assert_eq!(lifetime(&["cdn-cache-control: max-age=-1"]), Some(0));
        assert_eq!(lifetime(&["cdn-cache-control: max-age=99999999999"]), Some(MAX_DELTA_SECONDS));
        // RFC 9651 §4.2.2: of a key that is there twice the last counts.
        assert_eq!(lifetime(&["cdn-cache-control: max-age=60, max-age=5"]), Some(5));
        let control = CacheControl::of_response(&headers(&["cdn-cache-control: no-store=\"x\", private=?0"]));
        assert!(control.no_store && !control.private);
    }

    #[test]
    fn names_are_read_in_any_case_and_lifetimes_with_care() {
        assert_eq!(lifetime(&["cache-control: MaX-aGe=60"]), Some(60));
        assert_eq!(lifetime(&["cache-control: max-age=007"]), Some(7));
        assert_eq!(lifetime(&["cache-control: max-age=30, max-age=10"]), Some(10));
        for invalid in ["max-age", "max-age=", "max-age=-1", "max-age=1.5", "max-age=1a", "max-age='60'"] {
            assert_eq!(lifetime(&[&format!("cache-control: {invalid}")]), Some(0), "{invalid}");
        }
        assert_eq!(lifetime(&["cache-control: ext=\"max-age=60\""]), None);
    }

    proptest! {
        #[test]
        fn any_field_is_read(value in "[ -~]{0,80}") {
            for name in ["cache-control", "cdn-cache-control"] {
                CacheControl::of_response(&headers(&[&format!("{name}: {value}")]));
            }
        }
    }
}
