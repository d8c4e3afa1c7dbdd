//! The names that a node answers to: its suffixes, and its sites.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use http::HeaderName;
use serde::{Deserialize, Serialize};

use super::{DenyList, Origin, UrlError, canonical_host, without_port};

/// The names that a node answers to.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Its suffixes.
    pub suffixes: Vec<Suffix>,
    /// Its sites.
    pub sites: Vec<Site>,
    /// Whether four numeric labels may name an IPv4 address as origin.
    pub allow_addresses: bool,
    /// What is not served.
    pub deny: DenyList,
}

impl Names {
    /// The site of that name, if it is one.
    pub(super) fn site(&self, host: &str) -> Option<&Site> {
        self.sites.iter().find(|site| site.host == host)
    }

    /// The suffix that `authority` is itself, with nothing before it, unless that is the name of a site.
    pub(crate) fn bare_suffix(&self, authority: &str) -> Option<&Suffix> {
        let host = canonical_host(without_port(authority).ok()?).ok()?;
        let suffix = self.suffixes.iter().find(|suffix| suffix.0 == host)?;
        self.site(&host).is_none().then_some(suffix)
    }

    /// The longest suffix that `host` ends in: with both `net` and `nyud.net` configured, the latter is meant.
    pub(super) fn suffix_of(&self, host: &str) -> Option<&Suffix> {
        self.suffixes.iter().filter(|suffix| suffix.strip(host).is_some()).max_by_key(|suffix| suffix.0.len())
    }
}

/// What is appended to a host name, such as `nyud.net`: canonical, without a leading or trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Suffix(String);

impl Suffix {
    /// The suffix as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before this suffix in `host`; empty if `host` is the suffix itself, `None` if it ends otherwise.
    pub(super) fn strip<'a>(&self, host: &'a str) -> Option<&'a str> {
        let rest = host.strip_suffix(&self.0)?;
        if rest.is_empty() { Some(rest) } else { rest.strip_suffix('.') }
    }
}

impl FromStr for Suffix {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        canonical_host(text.trim_start_matches('.')).map(Self)
    }
}

impl fmt::Display for Suffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The part of a host name that its owner has registered: a label below a public suffix (`co.uk`, `github.io`), by the list of
/// them that was current when the library was published.
///
/// Anybody can have any number of names below his own, so a host name is no owner.
pub(crate) fn registrable(host: &str) -> &str {
    // The list takes the last labels of an address for a domain.
    if host.parse::<std::net::Ipv4Addr>().is_ok() {
        return host;
    }
    psl::domain_str(host).unwrap_or(host)
}

impl Serialize for Suffix {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Suffix {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A host name of the operator's own, and the origin behind it. Such an origin may be private.
///
/// An `http` origin that redirects to https on the same host is asked there from then on, at whatever port it names:
/// to pass such a redirect on would send browsers past the cache, or to a name that only this node can reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "SiteText", into = "SiteText")]
pub struct Site {
    /// The host name that browsers ask for, canonical.
    pub host: String,
    /// Where its content comes from.
    pub origin: Origin,
    /// What passes between its browsers and its origin that is held back elsewhere. Default nothing.
    pub passes: Passes,
}

/// What passes between clients and the origin of a site, besides what passes everywhere. Clones share it.
///
/// Below a suffix anyone's page is beside anyone's, and nobody vouches for an origin; a site has a name of its own, and its
/// operator knows what the origin makes of a field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Passes {
    /// Request fields. The origin must name in `Vary` those that its answers depend on, or one client's answer is
    /// another's. `Authorization` may be among them: RFC 9111 §3.5 says which answers to it are stored.
    pub fields: Arc<[HeaderName]>,
    /// Whether `Set-Cookie` passes, and is stored with a response that says how long it is fresh (RFC 9111 §7.3): every
    /// client then gets the same cookie.
    pub set_cookie: bool,
}

/// A [`Site`] as it is written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SiteText {
    host: String,
    origin: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pass: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    set_cookie: bool,
}

impl Site {
    /// The site `host` whose content comes from `origin`, an http or https URL without a path. Nothing more passes.
    pub fn new(host: &str, origin: &str) -> Result<Self, UrlError> {
        Ok(Self { host: canonical_host(host)?, origin: origin.parse()?, passes: Passes::default() })
    }

    /// The same, with these request fields passed on; an error names the one that is none or never passes.
    pub fn passing(mut self, fields: &[&str]) -> Result<Self, UrlError> {
        let passable = |name: &&str| {
            let name = name.parse::<HeaderName>().ok().filter(crate::headers::may_pass);
            name.ok_or(UrlError::BadField)
        };
        self.passes.fields = fields.iter().map(passable).collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// The same, with `Set-Cookie` passed on and stored.
    pub fn setting_cookies(mut self) -> Self {
        self.passes.set_cookie = true;
        self
    }
}

impl TryFrom<SiteText> for Site {
    type Error = UrlError;

    fn try_from(text: SiteText) -> Result<Self, UrlError> {
        let fields: Vec<&str> = text.pass.iter().map(String::as_str).collect();
        let mut site = Self::new(&text.host, &text.origin)?.passing(&fields)?;
        site.passes.set_cookie = text.set_cookie;
        Ok(site)
    }
}

impl From<Site> for SiteText {
    fn from(site: Site) -> Self {
        Self {
            host: site.host,
            origin: site.origin.to_string(),
            pass: site.passes.fields.iter().map(ToString::to_string).collect(),
            set_cookie: site.passes.set_cookie,
        }
    }
}
