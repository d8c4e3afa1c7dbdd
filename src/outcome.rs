//! Where a client's answer came from, as far as the client can tell: what `Cache-Status` (RFC 9211) says.
//!
//! A reader of its own, that shares no code with what it checks: coral-proxy/src/cache_status.rs writes it.

use std::fmt;

use hyper::header::HeaderMap;

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// From the asked node's own store.
    Local,
    /// From a node found at this level of the index.
    Peer(u8),
    /// From the origin.
    Origin,
    /// Anything else that a cache may say.
    Other,
}

impl Outcome {
    /// What `Cache-Status` (RFC 9211) tells; coral-proxy/src/cache_status.rs writes it.
    pub fn of(headers: &HeaderMap) -> Self {
        let text = headers.get("cache-status").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let parameters: Vec<&str> = text.split(';').map(str::trim).collect();
        let detail = parameters.iter().find_map(|parameter| parameter.strip_prefix("detail="));
        match detail {
            _ if parameters.contains(&"hit") => Self::Local,
            Some("origin") => Self::Origin,
            Some(detail) => match detail.strip_prefix("peer-l").and_then(|level| level.parse().ok()) {
                Some(level) => Self::Peer(level),
                None => Self::Other,
            },
            None => Self::Other,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("own store"),
            Self::Peer(level) => write!(f, "another node, L{level}"),
            Self::Origin => f.write_str("origin"),
            Self::Other => f.write_str("other"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_what_cache_status_says() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("cache-status", text.parse().unwrap());
            Outcome::of(&headers)
        };
        assert_eq!(of("coral; hit"), Outcome::Local);
        assert_eq!(of("coral; hit; ttl=30"), Outcome::Local);
        assert_eq!(of("coral; fwd=uri-miss; detail=peer-l2"), Outcome::Peer(2));
        assert_eq!(of("coral; fwd=uri-miss; stored; detail=origin"), Outcome::Origin);
        assert_eq!(of("coral; fwd=uri-miss; collapsed; detail=origin"), Outcome::Origin);
        assert_eq!(of("coral; fwd=bypass"), Outcome::Other);
        assert_eq!(Outcome::of(&HeaderMap::new()), Outcome::Other);
    }
}
