//! Which purges are in force, and when what was purged. Values in, values out.
//!
//! Rules lie by domain, as its owner has registered it, and by host. They never expire; where they become too many they are
//! merged into fewer that cover more, at the latest of their times: what was purged stays so, and of the rest some is asked for
//! once more. Who purges much so costs himself, since it is his own domain's that are merged first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Moment, Pattern, Scope};
use crate::url::{CoralUrl, registrable};

/// How many there may be of what.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// Rules for one host; more become one for the site.
    of_host: usize,
    /// Hosts of one domain; more become one rule for the domain.
    hosts: usize,
    /// Domains; if there are more, the oldest become one rule for everything.
    domains: usize,
    /// Rules in all; if there are more, those of the domain that has the most become one.
    all: usize,
}

const BOUNDS: Bounds = Bounds { of_host: 64, hosts: 64, domains: 10_000, all: 20_000 };

/// All that was purged. A clone shares what a change leaves as it was.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    everything: Option<Moment>,
    domains: BTreeMap<Box<str>, Arc<Domain>>,
    /// Rules of all domains.
    count: usize,
    bounds: Bounds,
}

#[derive(Debug, Clone, Default)]
struct Domain {
    /// With every host below it.
    whole: Option<Moment>,
    hosts: BTreeMap<Box<str>, Host>,
}

#[derive(Debug, Clone, Default)]
struct Host {
    site: Option<Moment>,
    prefixes: BTreeMap<Box<str>, Moment>,
    urls: BTreeMap<Box<str>, Moment>,
}

impl Default for Rules {
    fn default() -> Self {
        Self { everything: None, domains: BTreeMap::new(), count: 0, bounds: BOUNDS }
    }
}

/// One rule, to be written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule<'a> {
    Everything,
    /// A domain, and all below it.
    Domain(&'a str),
    Site(&'a str),
    Prefix(&'a str),
    Url(&'a str),
}

impl Rules {
    /// Everything was purged at `time`.
    pub(super) fn of_everything(time: SystemTime) -> Self {
        Self { everything: Some(Moment::at(time)), ..Self::default() }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count + usize::from(self.everything.is_some())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When `url` was purged last.
    pub(super) fn since(&self, url: &CoralUrl) -> Option<SystemTime> {
        let everything = self.everything.map(|moment| moment.time);
        let domain = self.domains.get(url.domain()).and_then(|domain| {
            let whole = domain.whole.map(|moment| moment.time);
            whole.max(domain.hosts.get(url.host()).and_then(|host| host.since(url)))
        });
        everything.max(domain)
    }

    /// Whether a rule covers all of `pattern`, as late or later.
    pub(super) fn is_known(&self, pattern: &Pattern, moment: Moment) -> bool {
        let covers = |rule: &Moment| rule.time >= moment.time || (moment.said > 0 && rule.said >= moment.said);
        let domain = self.domains.get(registrable(&pattern.host));
        let of_domain = domain.is_some_and(|domain| {
            let host = domain.hosts.get(&pattern.host);
            domain.whole.iter().any(covers) || host.is_some_and(|host| host.covering(&pattern.scope).any(covers))
        });
        self.everything.iter().any(covers) || of_domain
    }

    /// Adds a rule, unless it is known. Whether it was new.
    pub(super) fn insert(&mut self, pattern: &Pattern, moment: Moment) -> bool {
        if self.is_known(pattern, moment) {
            return false;
        }
        let Bounds { of_host, hosts, domains, all } = self.bounds;
        let domain = Arc::make_mut(self.domains.entry(registrable(&pattern.host).into()).or_default());
        let before = domain.len();
        let host = domain.hosts.entry(pattern.host.clone()).or_default();
        host.insert(&pattern.scope, moment);
        if host.prefixes.len() + host.urls.len() > of_host {
            host.merge();
        }
        if domain.hosts.len() > hosts {
            domain.merge();
        }
        self.count = self.count - before + domain.len();
        if self.count > all {
            self.merge_largest();
        }
        if self.domains.len() > domains {
            self.merge_oldest(domains - domains / 10);
        }
        true
    }

    /// Adds one that was written down, in the order of [`Self::iter`].
    pub(super) fn restore(&mut self, rule: Rule<'_>, host: &str, moment: Moment) {
        if rule == Rule::Everything {
            self.everything = later(self.everything, moment);
            return;
        }
        let domain = Arc::make_mut(self.domains.entry(registrable(host).into()).or_default());
        let before = domain.len();
        match rule {
            Rule::Everything | Rule::Domain(_) => domain.whole = later(domain.whole, moment),
            Rule::Site(_) => domain.hosts.entry(host.into()).or_default().insert(&Scope::Site, moment),
            Rule::Prefix(text) => {
                domain.hosts.entry(host.into()).or_default().insert(&Scope::Prefix(text.into()), moment);
            }
            Rule::Url(text) => domain.hosts.entry(host.into()).or_default().insert(&Scope::Url(text.into()), moment),
        }
        self.count = self.count - before + domain.len();
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Rule<'_>, Moment)> {
        let everything = self.everything.map(|moment| (Rule::Everything, moment));
        let domains = self.domains.iter().flat_map(|(name, domain)| {
            let whole = domain.whole.map(|moment| (Rule::Domain(name), moment));
            let hosts = domain.hosts.iter().flat_map(|(name, host)| {
                let site = host.site.map(|moment| (Rule::Site(name), moment));
                let prefixes = host.prefixes.iter().map(|(text, moment)| (Rule::Prefix(text), *moment));
                let urls = host.urls.iter().map(|(text, moment)| (Rule::Url(text), *moment));
                site.into_iter().chain(prefixes).chain(urls)
            });
            whole.into_iter().chain(hosts)
        });
        everything.into_iter().chain(domains)
    }

    fn merge_largest(&mut self) {
        if let Some(largest) = self.domains.values_mut().max_by_key(|domain| domain.len()) {
            let before = largest.len();
            Arc::make_mut(largest).merge();
            self.count = self.count - before + 1;
        }
    }

    /// Makes one rule for everything of all domains but the `left` that were purged last.
    fn merge_oldest(&mut self, left: usize) {
        let mut latest: Vec<SystemTime> = self.domains.values().filter_map(|domain| domain.latest()).collect();
        latest.sort_unstable();
        let Some(&time) = latest.len().checked_sub(left + 1).and_then(|last| latest.get(last)) else {
            return;
        };
        self.everything = later(self.everything, Moment::at(time));
        self.domains.retain(|_, domain| domain.latest().is_some_and(|latest| latest > time));
        self.count = self.domains.values().map(|domain| domain.len()).sum();
    }
}

impl Domain {
    fn len(&self) -> usize {
        usize::from(self.whole.is_some()) + self.hosts.values().map(Host::len).sum::<usize>()
    }

    fn latest(&self) -> Option<SystemTime> {
        let whole = self.whole.iter();
        whole.chain(self.hosts.values().flat_map(Host::moments)).map(|moment| moment.time).max()
    }

    fn merge(&mut self) {
        self.whole = self.latest().map(Moment::at);
        self.hosts.clear();
    }
}

impl Host {
    fn len(&self) -> usize {
        usize::from(self.site.is_some()) + self.prefixes.len() + self.urls.len()
    }

    fn moments(&self) -> impl Iterator<Item = &Moment> {
        self.site.iter().chain(self.prefixes.values()).chain(self.urls.values())
    }

    fn since(&self, url: &CoralUrl) -> Option<SystemTime> {
        let site = self.site.map(|moment| moment.time);
        if self.prefixes.is_empty() && self.urls.is_empty() {
            return site;
        }
        let scope = Scope::Url(url.canonical().into());
        self.covering(&scope).map(|moment| moment.time).max()
    }

    /// Those rules that cover all of `scope`.
    fn covering<'a>(&'a self, scope: &'a Scope) -> impl Iterator<Item = &'a Moment> {
        let (text, url) = match scope {
            Scope::Site => (None, None),
            Scope::Prefix(text) => (Some(text), None),
            Scope::Url(text) => (Some(text), Some(text)),
        };
        let prefixes =
            self.prefixes.iter().filter(move |(prefix, _)| text.is_some_and(|text| text.starts_with(&***prefix)));
        let same = url.and_then(|url| self.urls.get(url));
        self.site.iter().chain(prefixes.map(|(_, moment)| moment)).chain(same)
    }

    fn insert(&mut self, scope: &Scope, moment: Moment) {
        // What is below it and no later says nothing more.
        let says_more = |other: &Moment| other.time > moment.time || other.said > moment.said;
        match scope {
            Scope::Site => {
                self.prefixes.retain(|_, other| says_more(other));
                self.urls.retain(|_, other| says_more(other));
                self.site = later(self.site, moment);
            }
            Scope::Prefix(prefix) => {
                self.prefixes.retain(|text, other| !text.starts_with(&**prefix) || says_more(other));
                self.urls.retain(|text, other| !text.starts_with(&**prefix) || says_more(other));
                let before = self.prefixes.get(prefix).copied();
                self.prefixes.extend(later(before, moment).map(|moment| (prefix.clone(), moment)));
            }
            Scope::Url(url) => {
                let before = self.urls.get(url).copied();
                self.urls.extend(later(before, moment).map(|moment| (url.clone(), moment)));
            }
        }
    }

    fn merge(&mut self) {
        // What was said of one origin says nothing of another.
        let latest = self.moments().map(|moment| moment.time).max();
        *self = Self { site: latest.map(Moment::at), ..Self::default() };
    }
}

fn later(before: Option<Moment>, moment: Moment) -> Option<Moment> {
    let Moment { time, said } = moment;
    Some(before.map_or(moment, |before| Moment { time: before.time.max(time), said: before.said.max(said) }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::url::Names;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn url(text: &str) -> CoralUrl {
        CoralUrl::parse_absolute(text, &Names::default()).unwrap()
    }

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text, &Names::default()).unwrap()
    }

    /// These patterns, purged at these seconds.
    fn rules(purges: &[(&str, u64)]) -> Rules {
        let mut rules = Rules::default();
        for (text, seconds) in purges {
            rules.insert(&pattern(text), Moment::at(at(*seconds)));
        }
        rules
    }

    #[test]
    fn a_rule_covers_a_url_a_prefix_or_a_site_and_the_latest_counts() {
        let rules = rules(&[
            ("http://www.x.com/a", 10),
            ("http://www.x.com/news/*", 20),
            ("http://www.x.com/news/1", 15),
            ("www.y.com", 30),
            ("https://www.x.com:8443/*", 40),
        ]);
        for (text, since) in [
            ("http://www.x.com/a", Some(10)),
            ("http://www.x.com/a?b", None),
            ("https://www.x.com/a", None),
            ("http://x.com/a", None),
            ("http://www.x.com/news/1", Some(20)),
            ("http://www.x.com/news/", Some(20)),
            ("http://www.x.com/news", None),
            ("http://www.y.com/", Some(30)),
            ("https://www.y.com:444/a", Some(30)),
            ("http://a.www.y.com/", None),
            ("https://www.x.com:8443/a", Some(40)),
        ] {
            assert_eq!(rules.since(&url(text)), since.map(at), "{text}");
        }
    }

    #[test]
    fn what_says_nothing_more_is_no_rule() {
        let mut rules = rules(&[("http://www.x.com/a", 10), ("http://www.x.com/a/*", 10), ("http://www.x.com/b", 30)]);
        assert_eq!(rules.len(), 3);
        assert!(rules.insert(&pattern("www.x.com"), Moment::at(at(20))));
        assert_eq!(rules.len(), 2, "the site, and what was purged after it");
        assert!(!rules.insert(&pattern("http://www.x.com/c/*"), Moment::at(at(20))));
        assert!(!rules.insert(&pattern("www.x.com"), Moment::at(at(19))));
        assert!(rules.insert(&pattern("http://www.x.com/c/*"), Moment::at(at(21))));
        assert_eq!(rules.len(), 3);
    }

    #[test]
    fn what_an_owner_has_said_is_known_again_whatever_time_it_comes_to() {
        let mut rules = Rules::default();
        let said = |text: &str, said, time| (pattern(text), Moment { time: at(time), said });
        let mut new = |(pattern, moment): (Pattern, Moment)| rules.insert(&pattern, moment);
        assert!(new(said("http://www.x.com/a/*", 1000, 50)));
        assert!(!new(said("http://www.x.com/a/*", 1000, 51)), "the clocks have moved");
        assert!(!new(said("http://www.x.com/a/b", 999, 52)));
        assert!(new(said("http://www.x.com/a/*", 2000, 52)));
        assert!(new(said("http://www.x.com/b", 1000, 53)), "something else");
        assert!(!new(said("http://www.x.com/a/c", 3000, 52)), "it was purged then, whoever said it");
    }

    #[test]
    fn many_rules_become_one_for_the_site_the_domain_and_everything() {
        let mut rules = Rules::default();
        for number in 0..=64 {
            rules.insert(&pattern(&format!("http://www.x.com/{number}")), Moment::at(at(number)));
        }
        assert_eq!((rules.len(), rules.since(&url("https://www.x.com/"))), (1, Some(at(64))));
        assert_eq!(rules.since(&url("http://x.com/")), None);
        for number in 0..=64 {
            rules.insert(&pattern(&format!("w{number}.x.com")), Moment::at(at(number)));
        }
        assert_eq!((rules.len(), rules.since(&url("http://x.com/"))), (1, Some(at(64))));
        assert_eq!(rules.since(&url("http://x.org/")), None);
        for number in 1..=10_000 {
            rules.insert(&pattern(&format!("x{number}.org")), Moment::at(at(100 + number)));
        }
        assert_eq!(rules.len(), 9_001);
        assert_eq!(rules.since(&url("http://x.net/")), Some(at(100 + 1000)), "the oldest");
        assert_eq!(rules.since(&url("http://x10000.org/")), Some(at(100 + 10_000)));
    }

    #[test]
    fn who_has_the_most_rules_loses_them_first() {
        let mut rules = Rules { bounds: Bounds { all: 10, ..BOUNDS }, ..Rules::default() };
        rules.insert(&pattern("http://www.y.com/a"), Moment::at(at(1)));
        for number in 0..10 {
            rules.insert(&pattern(&format!("http://www.x.com/{number}")), Moment::at(at(number)));
        }
        assert_eq!((rules.len(), rules.since(&url("http://www.y.com/b"))), (2, None));
        assert_eq!(rules.since(&url("http://any.x.com/")), Some(at(9)));
    }

    proptest! {
        #[test]
        fn merging_never_makes_good_what_was_purged(
            purges in proptest::collection::vec(("[ab]", "[a-d]", "(|/|/[ab]|/[ab][ab]|/[ab]\\*|/\\*)", 1u64..100), 1..60),
            of_host in 1usize..5, hosts in 1usize..4, domains in 1usize..4, all in 1usize..8,
        ) {
            let bounds = Bounds { of_host, hosts, domains, all };
            let mut rules = Rules { bounds, ..Rules::default() };
            let mut purged = Vec::new();
            for (host, domain, path, seconds) in purges {
                let name = format!("{host}.{domain}.com");
                let text = if path.is_empty() { name } else { format!("http://{name}{path}") };
                rules.insert(&pattern(&text), Moment { time: at(seconds), said: seconds });
                purged.push((pattern(&text), seconds));
                prop_assert_eq!(rules.iter().count(), rules.len());
                prop_assert!(rules.domains.len() <= domains && rules.count <= all.max(domains));
                for (pattern, seconds) in &purged {
                    let text = match &pattern.scope {
                        Scope::Site => format!("http://{}/z", pattern.host),
                        Scope::Prefix(prefix) => format!("{prefix}z"),
                        Scope::Url(url) => url.to_string(),
                    };
                    prop_assert!(rules.since(&url(&text)) >= Some(at(*seconds)), "{} at {}", pattern, seconds);
                }
            }
        }
    }
}
