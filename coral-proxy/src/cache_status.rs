//! What the cache did with a request: one word for the `Cache-Status` field (RFC 9211), the log and the metrics.

use std::fmt;

use coral_dsht::Level;
use http::HeaderValue;

use crate::error::ProxyError;

/// The member of `Cache-Status` for a hit.
const HIT: &str = "coral; hit";

/// Where a response came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Another node, found in the index at this level.
    Peer(Level),
    /// The origin.
    Origin,
}

/// What the cache did with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheStatus {
    /// A fresh copy was here.
    Hit,
    /// Nothing was here, and it was fetched.
    Fetched {
        /// From where.
        source: Source,
        /// Whether this node keeps it.
        stored: bool,
        /// Whether the fetch was another request's, which this one joined.
        collapsed: bool,
    },
    /// A stale copy was here, and whoever was asked confirmed it with a 304.
    Revalidated(Source),
    /// A stale copy was here, and the new one was fetched.
    Replaced {
        /// From where.
        source: Source,
        /// Whether this node keeps it.
        stored: bool,
        /// Whether the fetch was another request's.
        collapsed: bool,
    },
    /// A stale copy was here that may be served while it is asked about (RFC 5861 §3).
    Behind,
    /// Likewise, but another node had it.
    LentBehind,
    /// A stale copy was given to another node that asked for one.
    Lent,
    /// A stale copy was served, as the origin failed.
    Stale {
        /// The status with which it failed, if it answered at all.
        origin_status: Option<u16>,
    },
    /// Passed on, as the cache has no part in it: OPTIONS, or HEAD of what is not here.
    Passed(Source),
    /// To another node, or a client who wants nothing else: it is not here.
    NotCached,
    /// To another node: this one waits for it, too.
    Waiting,
    /// To another node: it does better to ask the origin.
    AskOrigin,
    /// Answered by this node itself, with an error mostly.
    Own,
}

impl CacheStatus {
    /// What the cache did when it ended with `error`.
    pub const fn of_error(error: &ProxyError) -> Self {
        match error {
            ProxyError::NotCached => Self::NotCached,
            ProxyError::Waiting => Self::Waiting,
            ProxyError::AskOrigin => Self::AskOrigin,
            _ => Self::Own,
        }
    }

    /// The value of the `Cache-Status` field.
    pub fn field(self) -> HeaderValue {
        match self {
            // Most are, and it need not be written down for each.
            Self::Hit => HeaderValue::from_static(HIT),
            _ => HeaderValue::from_str(&self.to_string()).expect("what this node writes is printable ASCII"),
        }
    }

    /// The word for metrics and logs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Fetched { source, .. } | Self::Replaced { source, .. } => match source {
                Source::Origin => "origin",
                Source::Peer(level) => match level.number() {
                    0 => "peer-l0",
                    1 => "peer-l1",
                    2 => "peer-l2",
                    _ => "peer-l3",
                },
            },
            Self::Revalidated(_) => "revalidated",
            Self::Behind | Self::LentBehind => "revalidating",
            Self::Lent => "lent",
            Self::Stale { .. } => "stale",
            Self::Passed(_) => "passed",
            Self::NotCached => "not-cached",
            Self::Waiting => "waiting",
            Self::AskOrigin => "ask-origin",
            Self::Own => "error",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(level) => write!(f, "peer-l{}", level.number()),
            Self::Origin => f.write_str("origin"),
        }
    }
}

/// The member of `Cache-Status` that this node adds.
impl fmt::Display for CacheStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = |f: &mut fmt::Formatter<'_>, stored, collapsed| {
            f.write_str(if stored { "; stored" } else { "" })?;
            f.write_str(if collapsed { "; collapsed" } else { "" })
        };
        match *self {
            Self::Hit => f.write_str(HIT),
            Self::Behind => f.write_str("coral; hit; detail=revalidating"),
            Self::LentBehind => f.write_str("coral; fwd=uri-miss; detail=revalidating"),
            Self::Lent => f.write_str("coral; hit; detail=stale"),
            Self::Fetched { source, stored, collapsed } => {
                write!(f, "coral; fwd=uri-miss; detail={source}")?;
                flags(f, stored, collapsed)
            }
            Self::Replaced { source, stored, collapsed } => {
                write!(f, "coral; fwd=stale; detail={source}")?;
                flags(f, stored, collapsed)
            }
            Self::Revalidated(source) => write!(f, "coral; fwd=stale; fwd-status=304; detail={source}"),
            Self::Stale { origin_status: Some(status) } => {
                write!(f, "coral; fwd=stale; fwd-status={status}; detail=served-stale")
            }
            Self::Stale { origin_status: None } => f.write_str("coral; fwd=stale; detail=served-stale"),
            Self::Passed(source) => write!(f, "coral; fwd=bypass; detail={source}"),
            Self::NotCached | Self::Waiting | Self::AskOrigin => write!(f, "coral; detail={}", self.word()),
            Self::Own => f.write_str("coral; detail=error"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_that_others_count_by() {
        let fetched = |source, stored, collapsed| CacheStatus::Fetched { source, stored, collapsed }.to_string();
        let near = Level::new(2).unwrap();
        assert_eq!(CacheStatus::Hit.to_string(), "coral; hit");
        assert_eq!(fetched(Source::Peer(near), false, false), "coral; fwd=uri-miss; detail=peer-l2");
        assert_eq!(fetched(Source::Origin, true, true), "coral; fwd=uri-miss; detail=origin; stored; collapsed");
        assert_eq!(CacheStatus::of_error(&ProxyError::AskOrigin).to_string(), "coral; detail=ask-origin");
        assert_eq!(
            CacheStatus::Stale { origin_status: Some(503) }.to_string(),
            "coral; fwd=stale; fwd-status=503; detail=served-stale"
        );
    }
}
