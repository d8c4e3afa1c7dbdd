//! What an operator does not serve: a list of hosts, and of places on them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::str::FromStr;

use percent_encoding::percent_decode_str;

use super::{CoralUrl, Origin, Scheme, UrlError, canonical_host, canonical_target};

/// The deny list: hosts with all that is below them, and paths with all that begins as they do.
///
/// As text it has an entry a line, `example.com` or `example.com/path`; what follows a `#` is a comment. A host covers the
/// names below it, as these are its owner's. Paths are compared as the origin reads them, without percent-escapes; yet an origin may
/// have more names for one thing than a list can know, so a host is denied more surely than a path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DenyList {
    /// By host, with what paths begin; `/` is all of it.
    paths: HashMap<String, Vec<Vec<u8>>>,
}

/// A line of a deny list that was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {text:?}: {error}")]
pub struct DenyListError {
    /// Its number, from 1.
    line: usize,
    text: String,
    error: UrlError,
}

impl DenyList {
    /// How many hosts are on it.
    pub fn hosts(&self) -> usize {
        self.paths.len()
    }

    /// Whether `url` is on it.
    pub(crate) fn covers(&self, url: &CoralUrl) -> bool {
        if self.paths.is_empty() {
            return false;
        }
        let target: Cow<'_, [u8]> = percent_decode_str(&url.target).into();
        let mut host = Some(url.name.host.as_str());
        while let Some(name) = host {
            if self.paths.get(name).is_some_and(|paths| paths.iter().any(|path| target.starts_with(path))) {
                return true;
            }
            host = name.split_once('.').map(|(_, parent)| parent);
        }
        false
    }
}

impl FromStr for DenyList {
    type Err = DenyListError;

    fn from_str(text: &str) -> Result<Self, DenyListError> {
        let mut list = Self::default();
        for (number, line) in text.lines().enumerate() {
            let entry = line.split('#').next().unwrap_or_default().trim();
            if entry.is_empty() {
                continue;
            }
            let (host, path) =
                read(entry).map_err(|error| DenyListError { line: number + 1, text: entry.to_owned(), error })?;
            list.paths.entry(host).or_default().push(path);
        }
        Ok(list)
    }
}

/// An entry as host and decoded path.
fn read(entry: &str) -> Result<(String, Vec<u8>), UrlError> {
    let (host, path) = entry.split_at(entry.find('/').unwrap_or(entry.len()));
    // The name of an origin may be an address, which is no host name of this node.
    let host = if host.parse::<std::net::Ipv4Addr>().is_ok() { host.to_owned() } else { canonical_host(host)? };
    let scheme = Scheme::Http;
    let origin = Origin { scheme, host, port: scheme.default_port() };
    let path = canonical_target(&origin, if path.is_empty() { "/" } else { path })?;
    Ok((origin.host, percent_decode_str(&path).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::url::Names;

    fn denied(list: &str, url: &str) -> bool {
        let names = Names { suffixes: vec!["nyud.net".parse().unwrap()], allow_addresses: true, ..Names::default() };
        list.parse::<DenyList>().unwrap().covers(&CoralUrl::parse_absolute(url, &names).unwrap())
    }

    #[test]
    fn a_host_covers_what_is_below_it_and_a_path_what_begins_with_it() {
        let list = "# by request\nBad.Example.  # all of it\n\nx.com/private/\n192.0.2.1\nbücher.example/a b\n";
        for url in [
            "http://bad.example/",
            "https://www.bad.example:8443/p",
            "http://www.bad.example.8080.nyud.net/p",
            "http://www-bad-example.s.nyud.net/",
            "http://x.com/private/a",
            "http://www.x.com/private/",
            "http://x.com/a/../%70rivate/a",
            "http://192.0.2.1/",
            "http://xn--bcher-kva.example/a%20b",
        ] {
            assert!(denied(list, url), "{url}");
        }
        for url in [
            "http://example/",
            "http://notbad.example/",
            "http://bad.example.org/",
            "http://x.com/private",
            "http://x.com/?/private/",
            "http://192.0.2.2/",
        ] {
            assert!(!denied(list, url), "{url}");
            assert!(!denied("", url), "{url}");
        }
    }

    #[test]
    fn a_line_that_is_none_is_told_with_its_number() {
        for (text, message) in [
            ("a.b\n\nhttp://x.com/", "line 3: \"http://x.com/\""),
            ("a b", "line 1: \"a b\""),
            ("*.x.com", "line 1: \"*.x.com\""),
            ("/path", "line 1: \"/path\""),
        ] {
            let error = text.parse::<DenyList>().unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
