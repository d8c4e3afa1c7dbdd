//! Coralized URLs: from the host and path a browser asks for to the origin meant, the canonical URL and its key.
//!
//! The forms are those of the paper [C04 §3.2] and two of ours: one label below `s` for https, and *sites*, host names
//! that the configuration maps to an origin. Everything here is values in, values out; which addresses may be connected
//! to is decided in [`crate::address`], once names have become addresses.

use std::fmt::{self, Write as _};
use std::net::Ipv4Addr;
use std::str::FromStr;

use coral_dsht::{Id, Key};
use url::{Host, Url};

mod deny;
pub(crate) mod lately;
mod names;

pub use deny::{DenyList, DenyListError};
pub(crate) use names::registrable;
pub use names::{Names, Passes, Site, Suffix};

/// The longest URL in bytes that is read. Browsers stop far below it.
pub const MAX_URL_BYTES: usize = 8 * 1024;

/// How often one suffix may follow another in a host name.
const MAX_NESTING: usize = 8;

/// How an origin is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain HTTP; an origin that redirects to https on the same host is followed there.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// Its name in a URL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that its URLs leave out.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    pub(crate) fn of(url: &Url) -> Result<Self, UrlError> {
        match url.scheme() {
            "http" => Ok(Self::Http),
            "https" => Ok(Self::Https),
            _ => Err(UrlError::Scheme),
        }
    }
}

/// A web server: scheme, host and port. Prints as a URL without a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// Its name or address, canonical; an IPv6 address stands in brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl FromStr for Origin {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let url = parse_url(text)?;
        let scheme = Scheme::of(&url)?;
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(UrlError::OriginPath);
        }
        Ok(Self {
            scheme,
            host: url.host_str().ok_or(UrlError::BadHost)?.to_owned(),
            port: url.port_or_known_default().ok_or(UrlError::BadPort)?,
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.scheme.as_str())?;
        f.write_str("://")?;
        f.write_str(&self.host)?;
        if self.port != self.scheme.default_port() {
            write!(f, ":{}", self.port)?;
        }
        Ok(())
    }
}

/// What a client asked for, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoralUrl {
    /// The server that its content comes from.
    pub origin: Origin,
    /// Path and query, normalised as [RFC 3986 §6.2.2.3] and the URL standard have it.
    pub target: String,
    /// The name that stands for the origin in the canonical URL: its own, or that of the site.
    name: Origin,
    /// The suffix the client used; `None` for a site by its own name and for a plain URL.
    pub suffix: Option<Suffix>,
    /// Whether the configuration names the origin, so that it may be private.
    pub site: bool,
    /// What passes between its clients and the origin because the configuration says so.
    pub passes: Passes,
}

impl CoralUrl {
    /// Reads the `Host` (or authority) and the request target of a request.
    ///
    /// The port of `authority` is where this node listens, and no part of the name.
    pub fn parse(authority: &str, target: &str, names: &Names) -> Result<Self, UrlError> {
        if authority.len() + target.len() > MAX_URL_BYTES {
            return Err(UrlError::TooLong);
        }
        let host = canonical_host(without_port(authority)?)?;
        if let Some(site) = names.site(&host) {
            return Self::of_site(site, None, target);
        }
        let Some(suffix) = names.suffix_of(&host) else {
            return Err(UrlError::UnknownHost);
        };
        match strip_all(&host, names)? {
            Stripped::Site(site) => Self::of_site(site, Some(suffix.clone()), target),
            Stripped::Origin(origin) => Self::of(origin, Some(suffix.clone()), target),
        }
    }

    /// Reads an absolute URL, coralized or not: `http://www.x.com/p` and `http://www.x.com.nyud.net/p` give the same.
    pub fn parse_absolute(text: &str, names: &Names) -> Result<Self, UrlError> {
        let url = parse_url(text)?;
        let scheme = Scheme::of(&url)?;
        let host = url.host_str().ok_or(UrlError::BadHost)?;
        let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
        match Self::parse(host, target, names) {
            Err(UrlError::UnknownHost) => {}
            understood => return understood,
        }
        let port = url.port_or_known_default().ok_or(UrlError::BadPort)?;
        let host = match url.host() {
            Some(Host::Domain(_)) => canonical_host(host)?,
            Some(Host::Ipv4(_)) if names.allow_addresses => host.to_owned(),
            _ => return Err(UrlError::AddressRefused),
        };
        Self::of(Origin { scheme, host, port }, None, target)
    }

    fn of(origin: Origin, suffix: Option<Suffix>, target: &str) -> Result<Self, UrlError> {
        Ok(Self {
            target: canonical_target(&origin, target)?,
            name: origin.clone(),
            origin,
            suffix,
            site: false,
            passes: Passes::default(),
        })
    }

    fn of_site(site: &Site, suffix: Option<Suffix>, target: &str) -> Result<Self, UrlError> {
        let name = Origin { scheme: Scheme::Http, host: site.host.clone(), port: Scheme::Http.default_port() };
        Ok(Self {
            target: canonical_target(&name, target)?,
            name,
            origin: site.origin.clone(),
            suffix,
            site: true,
            passes: site.passes.clone(),
        })
    }

    /// The one spelling of this URL on all nodes: what is hashed into its key.
    pub fn canonical(&self) -> String {
        let mut text = String::with_capacity(self.name.host.len() + self.target.len() + "https://:65535".len());
        write!(text, "{}", self.name).expect("a string takes all that is written");
        text.push_str(&self.target);
        text
    }

    /// The host that stands for the origin in the canonical URL.
    pub(crate) fn host(&self) -> &str {
        &self.name.host
    }

    /// What stands for the origin in the canonical URL.
    pub(crate) fn name(&self) -> &Origin {
        &self.name
    }

    /// Another one of the same origin.
    pub(crate) fn at(&self, target: &str) -> Result<Self, UrlError> {
        Ok(Self { target: canonical_target(&self.name, target)?, ..self.clone() })
    }

    /// The domain that a share of bandwidth belongs to: see [`names::registrable`].
    pub(crate) fn domain(&self) -> &str {
        registrable(&self.name.host)
    }

    /// The key under which the index holds references to nodes that have this URL.
    pub fn key(&self) -> Key {
        Id::hash(&[b"url", self.canonical().as_bytes()])
    }

    /// The `Host` under which another node is asked for this URL.
    pub fn peer_host(&self) -> String {
        match &self.suffix {
            Some(suffix) => coral_host(&self.name, suffix),
            None => self.name.host.clone(),
        }
    }
}

enum Stripped<'a> {
    Site(&'a Site),
    Origin(Origin),
}

/// Takes suffixes off `host` until none is left; the innermost says what is meant.
///
/// The port label outside of a nested suffix is the port of some proxy, not of the origin, and is dropped.
fn strip_all<'a>(host: &str, names: &'a Names) -> Result<Stripped<'a>, UrlError> {
    let mut host = host.to_owned();
    for _ in 0..MAX_NESTING {
        let Some(suffix) = names.suffix_of(&host) else {
            return Err(UrlError::UnknownHost);
        };
        let rest = suffix.strip(&host).ok_or(UrlError::UnknownHost)?;
        let (rest, scheme) = match rest.strip_suffix(".s") {
            Some(label) => (undashed(label)?, Some(Scheme::Https)),
            None => (rest.to_owned(), None),
        };
        let (name, port) = split_port(&rest)?;
        if names.suffix_of(name).is_some() {
            host = name.to_owned();
            continue;
        }
        if let Some(site) = names.site(name) {
            return Ok(Stripped::Site(site));
        }
        return origin(name, port, scheme, names.allow_addresses).map(Stripped::Origin);
    }
    Err(UrlError::TooNested)
}

fn origin(name: &str, port: Option<u16>, scheme: Option<Scheme>, allow_addresses: bool) -> Result<Origin, UrlError> {
    let scheme = scheme.unwrap_or(if port == Some(443) { Scheme::Https } else { Scheme::Http });
    let is_address = name.parse::<Ipv4Addr>().is_ok();
    if is_address && !allow_addresses {
        return Err(UrlError::AddressRefused);
    }
    let host = if is_address { name.to_owned() } else { canonical_host(name)? };
    // A name of one label is looked up in the operator's own domains, which are nobody else's business.
    if !host.contains('.') {
        return Err(UrlError::NoOrigin);
    }
    Ok(Origin { scheme, host, port: port.unwrap_or(scheme.default_port()) })
}

/// Splits a numeric last label off as the port, unless it belongs to an IPv4 address.
fn split_port(rest: &str) -> Result<(&str, Option<u16>), UrlError> {
    let numeric = |label: &str| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_digit());
    let Some((name, last)) = rest.rsplit_once('.') else {
        return if rest.is_empty() || numeric(rest) { Err(UrlError::NoOrigin) } else { Ok((rest, None)) };
    };
    if !numeric(last) {
        return Ok((rest, None));
    }
    if rest.split('.').all(numeric) {
        match rest.split('.').count() {
            4 => return Ok((rest, None)),
            5 => {}
            _ => return Err(UrlError::BadHost),
        }
    }
    match last.parse() {
        Ok(port) if port != 0 && !last.starts_with('0') => Ok((name, Some(port))),
        _ => Err(UrlError::BadPort),
    }
}

/// `www-x-com` as `www.x.com`: a hyphen is a dot, two are a hyphen.
fn undashed(label: &str) -> Result<String, UrlError> {
    if label.contains('.') {
        // The wildcard certificate below `s` covers one label only.
        return Err(UrlError::BadHost);
    }
    let mut host = String::with_capacity(label.len());
    let mut chars = label.chars().peekable();
    while let Some(char) = chars.next() {
        host.push(match char {
            '-' if chars.next_if_eq(&'-').is_some() => '-',
            '-' => '.',
            other => other,
        });
    }
    // `intranet-` would be `intranet.`, which is `intranet`. A full name needs no dot at its end here.
    if host.ends_with('.') { Err(UrlError::BadHost) } else { Ok(host) }
}

fn dashed(host: &str) -> String {
    host.replace('-', "--").replace('.', "-")
}

/// The host under which `origin` is found below `suffix`.
fn coral_host(origin: &Origin, suffix: &Suffix) -> String {
    let host = &origin.host;
    match (origin.scheme, origin.port) {
        (Scheme::Http, 80) => format!("{host}.{suffix}"),
        (Scheme::Http, 443) | (Scheme::Https, 443) => format!("{host}.443.{suffix}"),
        (Scheme::Http, port) => format!("{host}.{port}.{suffix}"),
        // Only the form below `s` can say both https and a port.
        (Scheme::Https, port) => format!("{}.s.{suffix}", dashed(&format!("{host}.{port}"))),
    }
}

/// Coralizes an http or https URL; one that ends in `suffix` already stays as it is.
///
/// An https URL gets the port label 443. The result is an http URL, as a node may have no certificate.
pub fn coralize(url: &str, suffix: &Suffix) -> Result<String, UrlError> {
    coralized(url, suffix, false)
}

/// The same for nodes with a certificate for all names of one label below `s`: an https URL stays one.
pub fn coralize_secure(url: &str, suffix: &Suffix) -> Result<String, UrlError> {
    coralized(url, suffix, true)
}

fn coralized(url: &str, suffix: &Suffix, is_secure: bool) -> Result<String, UrlError> {
    let url = parse_url(url)?;
    let scheme = Scheme::of(&url)?;
    let host = match url.host() {
        Some(Host::Domain(host)) => canonical_host(host)?,
        Some(Host::Ipv4(address)) => address.to_string(),
        _ => return Err(UrlError::AddressRefused),
    };
    if suffix.strip(&host).is_some() {
        return Ok(url.into());
    }
    // `localhost` and the like would be refused by every node.
    if !host.contains('.') {
        return Err(UrlError::NoOrigin);
    }
    let port = url.port_or_known_default().ok_or(UrlError::BadPort)?;
    let stays_secure = is_secure && scheme == Scheme::Https;
    let host = match (stays_secure, port) {
        (true, 443) => format!("{}.s.{suffix}", dashed(&host)),
        _ => coral_host(&Origin { scheme, host, port }, suffix),
    };
    if host.len() > 253 || host.split('.').any(|label| label.len() > 63) {
        return Err(UrlError::BadHost);
    }
    let scheme = if stays_secure { Scheme::Https } else { Scheme::Http };
    Ok(format!("{}://{host}{}", scheme.as_str(), &url[url::Position::BeforePath..]))
}

/// The key under which the index holds references for `url`, which may be plain or coralized.
pub fn index_key(url: &str, suffixes: &[Suffix], sites: &[Site]) -> Result<Key, UrlError> {
    let names = Names { suffixes: suffixes.to_vec(), sites: sites.to_vec(), allow_addresses: true, ..Names::default() };
    CoralUrl::parse_absolute(url, &names).map(|url| url.key())
}

/// Reads a host and a target, and reads what they mean once more, here and at another node: for the fuzzer.
#[doc(hidden)]
pub fn fuzz(host: &str, target: &str) {
    let suffix: Suffix = "nyud.net".parse().expect("a suffix by its own rules");
    let site = Site::new("cdn.x.org", "http://127.0.0.1").expect("a site by its own rules");
    let names = Names { suffixes: vec![suffix.clone()], sites: vec![site], allow_addresses: true, ..Names::default() };
    if let Ok(coralized) = coralize(host, &suffix) {
        assert_eq!(coralize(&coralized, &suffix).as_ref(), Ok(&coralized));
    }
    for host in [host, &format!("{host}.nyud.net"), &format!("{host}.s.nyud.net")] {
        if let Ok(url) = CoralUrl::parse(host, target, &names) {
            let again = CoralUrl::parse_absolute(&url.canonical(), &names).expect("a canonical URL is a URL");
            assert_eq!(again.canonical(), url.canonical());
            assert_eq!(again.key(), url.key());
            let peer =
                CoralUrl::parse(&url.peer_host(), &url.target, &names).expect("another node knows what is meant");
            assert_eq!((peer.origin, peer.target), (url.origin, url.target));
        }
    }
}

fn parse_url(text: &str) -> Result<Url, UrlError> {
    if text.len() > MAX_URL_BYTES {
        return Err(UrlError::TooLong);
    }
    let url = Url::parse(text).map_err(|_| UrlError::BadUrl)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(UrlError::UserInfo);
    }
    Ok(url)
}

/// Lower case, IDNs in their ASCII form, no trailing dot; labels of letters, digits, hyphens and underscores only.
pub(crate) fn canonical_host(text: &str) -> Result<String, UrlError> {
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.is_empty() || text.len() > 1024 {
        return Err(UrlError::BadHost);
    }
    if is_plain_host(text) {
        return Ok(text.to_owned());
    }
    // To the URL standard a host that ends in a number is an IPv4 address or an error, `0x7f.1` among them. An
    // address by itself names this node, and no suffix.
    let host = match Host::parse(text) {
        Ok(Host::Domain(host)) => host,
        Ok(Host::Ipv4(address)) if address.to_string() == text => return Err(UrlError::UnknownHost),
        Ok(Host::Ipv6(_)) => return Err(UrlError::UnknownHost),
        _ => return Err(UrlError::BadHost),
    };
    if has_valid_labels(&host) { Ok(host) } else { Err(UrlError::BadHost) }
}

fn has_valid_labels(host: &str) -> bool {
    let valid = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    host.len() <= 253 && host.split('.').all(valid)
}

/// Whether a host is certain to be canonical as it is, as most are: without capitals, without what may be an IDN or an
/// address. Of others nothing is said.
fn is_plain_host(host: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    let last = host.rsplit('.').next().unwrap_or_default();
    host.bytes().all(is_plain)
        && last.bytes().next().is_some_and(|first| !first.is_ascii_digit())
        && !host.contains("xn--")
        && has_valid_labels(host)
}

/// The host of `authority`, without a port.
fn without_port(authority: &str) -> Result<&str, UrlError> {
    if authority.contains('@') {
        return Err(UrlError::UserInfo);
    }
    match authority.rsplit_once(':') {
        // The colons inside an IPv6 address are no port.
        Some((_, tail)) if tail.ends_with(']') => Ok(authority),
        Some((host, port)) if port.is_empty() || is_port(port) => Ok(host),
        Some(_) => Err(UrlError::BadPort),
        None => Ok(authority),
    }
}

/// Digits alone: a number's sign is no part of a port (RFC 3986 §3.2.3), and nobody listens at 0.
fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}

/// Path and query as the URL standard spells them: dot segments resolved, what must be escaped escaped.
fn canonical_target(origin: &Origin, target: &str) -> Result<String, UrlError> {
    if !target.starts_with('/') {
        return Err(UrlError::BadUrl);
    }
    if is_plain_target(target) {
        return Ok(target.to_owned());
    }
    let url = Url::parse(&format!("{origin}{target}")).map_err(|_| UrlError::BadUrl)?;
    Ok(url[url::Position::BeforePath..url::Position::AfterQuery].to_owned())
}

/// Whether a target that begins with `/` is certain to be canonical as it is, as most are: nothing in it is escaped, to be
/// escaped, or a dot segment. Of others nothing is said.
fn is_plain_target(target: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~!$&()*+,;=:@?".contains(&byte);
    target.bytes().all(is_plain) && !target.contains("/.")
}

/// Why a URL or host was not understood. All but [`UrlError::UnknownHost`] say that the text itself is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// The text is no URL.
    #[error("this is no valid URL")]
    BadUrl,
    /// The host is no valid host name.
    #[error("this is no valid host name")]
    BadHost,
    /// The port is no number from 1 to 65535.
    #[error("the port is no number from 1 to 65535")]
    BadPort,
    /// Neither http nor https.
    #[error("only http and https URLs can be fetched")]
    Scheme,
    /// The URL carries a user name or password.
    #[error("a user name or password in a URL is refused")]
    UserInfo,
    /// The URL of an origin has a path or query.
    #[error("the URL of an origin ends after the host and port")]
    OriginPath,
    /// A suffix stands there with no host name before it.
    #[error("a host name such as www.example.com must stand before the suffix")]
    NoOrigin,
    /// An address stands where a name must.
    #[error("IP addresses as origins are refused by this node")]
    AddressRefused,
    /// What a site is to pass on is no header field, or one that never passes.
    #[error("a field that a site passes on is no header field, or one that never passes")]
    BadField,
    /// Suffixes are nested too deep.
    #[error("too many suffixes follow one another")]
    TooNested,
    /// Longer than [`MAX_URL_BYTES`].
    #[error("the URL is too long")]
    TooLong,
    /// The host ends in none of this node's suffixes and is none of its sites.
    #[error("this node serves no such host")]
    UnknownHost,
}

#[cfg(test)]
mod tests;
