//! Purges: what was cached is not to be used any more, by URL, by prefix or by site.
//!
//! Objects are stored under hashes, so none can be found by its URL. A purge is a *rule* instead, which is asked about whatever
//! is found: what its origin has sent before the time of the rule counts as absent. Rules do not expire, as an object may be
//! fresh for a year; they are merged where they become many (`rules`), and survive a restart (`file`). Who may purge is not
//! decided here: for operators that is the caller's affair, for the owner of a site [`owner`]'s, in values, and `fetch/owner.rs`'s.

pub(crate) mod file;
pub mod owner;
pub(crate) mod rules;

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio::time::{Instant, sleep_until};

use crate::metrics::Metrics;
use crate::url::{CoralUrl, Names, UrlError, canonical_host};
use rules::Rules;

/// The longest pattern in bytes: so it fits into an announcement, and rules are of bounded size.
pub const MAX_PATTERN_BYTES: usize = 580;

/// What is purged.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern {
    /// The host, canonical.
    host: Box<str>,
    scope: Scope,
}

/// What of a host. URLs are canonical ([`CoralUrl::canonical`]).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    /// All of it, whatever scheme and port.
    Site,
    /// Every URL that begins so.
    Prefix(Box<str>),
    /// This one.
    Url(Box<str>),
}

/// A text that is no pattern, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?}: {reason}")]
pub struct PatternError {
    text: String,
    reason: Reason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Reason {
    #[error(transparent)]
    Url(#[from] UrlError),
    #[error("it is longer than {MAX_PATTERN_BYTES} bytes: purge a prefix of it")]
    TooLong,
    #[error("there is a space or another character in it that no URL has")]
    Characters,
    #[error("what follows a # is never sent to a server")]
    Fragment,
    #[error("a prefix ends in *, and has a path: http://www.example.com/news/*")]
    Prefix,
    #[error("a site is a host name alone, such as www.example.com, and all else begins with http:// or https://")]
    Site,
}

impl Pattern {
    /// Reads what a user has written: a URL, a prefix that ends in `*`, or a host name for a whole site, plain or coralized by
    /// one of these `names`.
    pub fn parse(text: &str, names: &Names) -> Result<Self, PatternError> {
        let of = |reason: Reason| PatternError { text: text.chars().take(100).collect(), reason };
        let pattern = Self::read(text, names).map_err(of)?;
        if pattern.to_string().len() > MAX_PATTERN_BYTES { Err(of(Reason::TooLong)) } else { Ok(pattern) }
    }

    fn read(text: &str, names: &Names) -> Result<Self, Reason> {
        // The parser of URLs would leave some of these out.
        if text.chars().any(|char| char.is_whitespace() || char.is_control()) {
            return Err(Reason::Characters);
        }
        let Some((_, rest)) = text.split_once("://") else {
            return Self::site(text, names);
        };
        if text.contains('#') {
            return Err(Reason::Fragment);
        }
        match text.strip_suffix('*') {
            // A host cannot be cut: `http://www.x.com*` would be another owner's, too.
            Some(_) if !rest.contains('/') => Err(Reason::Prefix),
            Some(prefix) => Ok(Self::of_prefix(&CoralUrl::parse_absolute(prefix, names)?)),
            None => {
                let url = CoralUrl::parse_absolute(text, names)?;
                Ok(Self { host: url.host().into(), scope: Scope::Url(url.canonical().into()) })
            }
        }
    }

    fn site(text: &str, names: &Names) -> Result<Self, Reason> {
        if text.is_empty() || text.contains(['/', ':', '*', '@', '?', '#', '[']) {
            return Err(Reason::Site);
        }
        let host = match CoralUrl::parse(text, "/", names) {
            Ok(url) => url.host().to_owned(),
            Err(UrlError::UnknownHost) if text.parse::<Ipv4Addr>().is_ok() => text.to_owned(),
            Err(UrlError::UnknownHost) => canonical_host(text)?,
            Err(error) => return Err(error.into()),
        };
        Ok(Self { host: host.into(), scope: Scope::Site })
    }

    /// Every URL of its origin that begins as `url` does.
    pub(crate) fn of_prefix(url: &CoralUrl) -> Self {
        Self { host: url.host().into(), scope: Scope::Prefix(url.canonical().into()) }
    }

    /// This very URL.
    pub(crate) fn of_url(url: &CoralUrl) -> Self {
        Self { host: url.host().into(), scope: Scope::Url(url.canonical().into()) }
    }

    /// The URL, if it is one.
    pub(crate) fn url(&self) -> Option<&str> {
        match &self.scope {
            Scope::Url(url) => Some(url),
            Scope::Prefix(_) | Scope::Site => None,
        }
    }
}

/// As [`Pattern::parse`] reads it.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.scope {
            Scope::Site => f.write_str(&self.host),
            Scope::Prefix(prefix) => write!(f, "{prefix}*"),
            Scope::Url(url) => f.write_str(url),
        }
    }
}

/// Who has something purged, for log and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PurgedBy {
    /// The operator of this node.
    Operator,
    /// An operator, by an order that came from another node.
    Order,
    /// The owner of a site.
    Owner,
}

impl PurgedBy {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Order => "order",
            Self::Owner => "owner",
        }
    }
}

/// When something was purged: what was sent until then is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// By this node's clock.
    pub(crate) time: SystemTime,
    /// What the owner's file says, by the origin's clock, in milliseconds since 1970; 0 if it is none of an owner's. By it a
    /// line of that file is known again, however the clocks have moved since.
    pub(crate) said: u64,
}

impl Moment {
    /// One that no owner has said.
    pub(crate) const fn at(time: SystemTime) -> Self {
        Self { time, said: 0 }
    }
}

/// The rules of a node.
#[derive(Debug)]
pub(crate) struct Purges {
    /// Whether there are any: all that a hit reads where there are none.
    any: AtomicBool,
    rules: ArcSwap<Rules>,
    /// Counts the changes, and is held during one.
    changes: Mutex<u64>,
    /// Where they are kept, if anywhere.
    file: Option<PathBuf>,
    saved: tokio::sync::Mutex<Saved>,
    metrics: Metrics,
}

/// What is in the file.
#[derive(Debug)]
struct Saved {
    /// The change up to which it is there.
    change: u64,
    /// When it may be written again: many purges are not to keep the disk from all else.
    again: Instant,
    /// Whether the file is another process's by now.
    is_closed: bool,
}

/// So many times as long as it took to write the file, it is not written again.
const REST: u32 = 4;

impl Purges {
    /// Those that `file` has. If it cannot be read, all that was stored before `now` counts as purged.
    pub(crate) fn open(file: Option<PathBuf>, now: SystemTime, metrics: Metrics) -> Self {
        let rules = match file.as_deref().map(|path| file::read(path, now)) {
            None => Rules::default(),
            Some(Ok(rules)) => rules,
            Some(Err(error)) => {
                let path = file.as_deref().map(std::path::Path::display);
                tracing::warn!(path = path.map(tracing::field::display), %error, "purges cannot be read: all that was stored before counts as purged");
                Rules::of_everything(now)
            }
        };
        metrics.purge_rules.set(rules.len() as i64);
        Self {
            any: AtomicBool::new(!rules.is_empty()),
            rules: ArcSwap::from_pointee(rules),
            changes: Mutex::new(0),
            file,
            saved: tokio::sync::Mutex::new(Saved { change: 0, again: Instant::now(), is_closed: false }),
            metrics,
        }
    }

    /// Whether what the origin of `url` sent at `sent` was purged.
    pub(crate) fn is_purged(&self, url: &CoralUrl, sent: SystemTime) -> bool {
        self.since(url).is_some_and(|purged| sent <= purged)
    }

    /// When `url` was purged last.
    pub(crate) fn since(&self, url: &CoralUrl) -> Option<SystemTime> {
        // Set after the rules were; whoever reads it a moment too early came before the purge.
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        self.rules.load().since(url)
    }

    /// Whether a purge of `pattern` at `moment` would change nothing.
    pub(crate) fn is_known(&self, pattern: &Pattern, moment: Moment) -> bool {
        self.rules.load().is_known(pattern, moment)
    }

    /// From now on these are in force. How many were new.
    pub(crate) fn apply(&self, purges: impl IntoIterator<Item = (Pattern, Moment)>) -> usize {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rules = Rules::clone(&self.rules.load());
        let new = purges.into_iter().filter(|(pattern, moment)| rules.insert(pattern, *moment)).count();
        if new > 0 {
            self.metrics.purge_rules.set(rules.len() as i64);
            self.rules.store(Arc::new(rules));
            self.any.store(true, Ordering::Release);
            *changes += 1;
        }
        new
    }

    /// The same for the last time: from then on the file is another process's, whose purges it has.
    pub(crate) async fn close(&self) {
        self.save().await;
        self.saved.lock().await.is_closed = true;
    }

    /// Returns when all that was applied before is in the file. One that cannot be written is left as it was, and tried
    /// again at the next change, and at the end.
    pub(crate) async fn save(&self) {
        let Some(path) = self.file.clone() else {
            return;
        };
        let wanted = *self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut saved = self.saved.lock().await;
        if saved.is_closed || saved.change >= wanted {
            return;
        }
        sleep_until(saved.again).await;
        let (change, rules) = {
            let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
            (*changes, self.rules.load_full())
        };
        let (shown, began) = (path.display().to_string(), Instant::now());
        let written = tokio::task::spawn_blocking(move || file::write(&path, &rules)).await;
        saved.again = Instant::now() + REST * began.elapsed();
        match written.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
            Ok(()) => saved.change = change,
            Err(error) => {
                tracing::warn!(path = shown, %error, "purges cannot be written: after a restart, what they purged is served again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::url::Site;

    fn names() -> Names {
        Names {
            suffixes: vec!["nyud.net".parse().unwrap()],
            sites: vec![Site::new("cdn.x.org", "http://10.0.0.1:8000").unwrap()],
            ..Names::default()
        }
    }

    #[test]
    fn a_pattern_is_a_url_a_prefix_or_a_site_plain_or_coralized() {
        for (text, canonical) in [
            ("http://WWW.x.com:80/a?b", "http://www.x.com/a?b"),
            ("https://www.x.com", "https://www.x.com/"),
            ("http://www.x.com.nyud.net/a", "http://www.x.com/a"),
            ("https://www-x-com.s.nyud.net/a", "https://www.x.com/a"),
            ("http://www.x.com.8080.nyud.net/a/*", "http://www.x.com:8080/a/*"),
            ("http://cdn.x.org.nyud.net/a", "http://cdn.x.org/a"),
            ("http://www.x.com/news/*", "http://www.x.com/news/*"),
            ("http://www.x.com/news/a*", "http://www.x.com/news/a*"),
            ("http://www.x.com/*", "http://www.x.com/*"),
            ("http://www.x.com/a/../b*", "http://www.x.com/b*"),
            ("http://www.x.com/a**", "http://www.x.com/a**"),
            ("http://bücher.example/ä", "http://xn--bcher-kva.example/%C3%A4"),
            ("WWW.x.com.", "www.x.com"),
            ("www.x.com.nyud.net", "www.x.com"),
            ("www-x-com.s.nyud.net", "www.x.com"),
            ("cdn.x.org", "cdn.x.org"),
            ("192.0.2.1", "192.0.2.1"),
        ] {
            let pattern = Pattern::parse(text, &names()).unwrap();
            assert_eq!(pattern.to_string(), canonical, "{text}");
            assert_eq!(Pattern::parse(canonical, &names()), Ok(pattern), "{text}");
        }
    }

    #[test]
    fn what_is_none_is_told_in_one_line() {
        let long = format!("http://www.x.com/{}", "a".repeat(MAX_PATTERN_BYTES));
        for (text, why) in [
            ("", "a site is a host name alone"),
            ("*", "a site is a host name alone"),
            ("*.x.com", "a site is a host name alone"),
            ("www.x.com/a", "a site is a host name alone"),
            ("www.x.com:8080", "a site is a host name alone"),
            ("nyud.net", "must stand before the suffix"),
            ("a..b", "no valid host name"),
            ("http://www.x.com*", "a prefix ends in *"),
            ("http://*", "a prefix ends in *"),
            ("http://www.x.com/a b", "a space"),
            ("http://www.x.com/a\nhttp://www.x.com/b", "a space"),
            ("http://www.x.com/a#b", "never sent"),
            ("ftp://www.x.com/", "only http and https"),
            ("http://u@www.x.com/", "user name"),
            ("http://192.0.2.1/", "refused by this node"),
            (&long, "longer than 580"),
        ] {
            let error = Pattern::parse(text, &names()).unwrap_err().to_string();
            assert!(error.contains(why) && error.lines().count() == 1, "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_pattern_that_is_read_back_or_none(
            text in "\\PC{0,60}",
            near in "(https?://)?[a-zA-Z0-9.:-]{0,20}(\\.nyud\\.net)?/?[a-z/.%*?#-]{0,20}\\*?",
        ) {
            for text in [text, near] {
                if let Ok(pattern) = Pattern::parse(&text, &names()) {
                    prop_assert!(pattern.to_string().len() <= MAX_PATTERN_BYTES);
                    prop_assert_eq!(Pattern::parse(&pattern.to_string(), &names()), Ok(pattern));
                }
            }
        }
    }
}
