//! What never changes about a suffix zone: its start of authority.
//!
//! There is no zone file and no transfer: every node computes the same zone, but for who is alive. So the serial stays at
//! 1, and the timers of secondaries are only there because the record has fields for them.

use std::net::IpAddr;
use std::time::Duration;

use crate::config::Config;

/// The mailbox of who runs a zone (RFC 2142 §7), in front of the suffix.
pub const MAILBOX: &str = "hostmaster";

/// The start of authority of a suffix zone (RFC 1035 §3.3.13), and of its cuts, in seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Soa {
    /// The nameserver that answers, by its address: each node names itself, as none is primary.
    pub mname: IpAddr,
    /// Always 1.
    pub serial: u32,
    /// Of no use without secondaries.
    pub refresh: u32,
    /// Of no use without secondaries.
    pub retry: u32,
    /// Of no use without secondaries.
    pub expire: u32,
    /// How long a resolver may remember that something is not there (RFC 2308 §4).
    pub minimum: u32,
    /// How long the record itself may be kept.
    pub ttl: u32,
}

impl Soa {
    /// That of any suffix as the node at `me` tells it.
    pub fn new(me: IpAddr, config: &Config) -> Self {
        Self {
            mname: me,
            serial: 1,
            refresh: 3_600,
            retry: 600,
            expire: 86_400,
            minimum: seconds(config.negative_ttl),
            ttl: seconds(config.nameserver_ttl),
        }
    }

    /// The TTL it has in a negative answer, which is also how long that answer may be kept (RFC 2308 §3, §5).
    pub fn negative_ttl(&self) -> u32 {
        self.ttl.min(self.minimum)
    }
}

/// A span as a TTL: whole seconds, at most 2^31 − 1 (RFC 2181 §8). What is not zero does not become zero.
pub fn seconds(span: Duration) -> u32 {
    let whole = span.as_secs().saturating_add(u64::from(span.subsec_nanos() > 0));
    u32::try_from(whole).map_or(i32::MAX as u32, |ttl| ttl.min(i32::MAX as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_answer_lives_as_long_as_the_lesser_of_two_figures() {
        let mut config = Config { nameserver_ttl: Duration::from_secs(60), ..Config::default() };
        let me = "192.0.2.1".parse().unwrap();
        assert_eq!(Soa::new(me, &config).negative_ttl(), 30);
        config.negative_ttl = Duration::from_secs(90);
        assert_eq!(Soa::new(me, &config).negative_ttl(), 60);
    }

    #[test]
    fn a_ttl_is_whole_seconds_within_its_bounds() {
        assert_eq!(seconds(Duration::from_millis(1)), 1);
        assert_eq!(seconds(Duration::MAX), i32::MAX as u32);
        assert_eq!(seconds(Duration::ZERO), 0);
    }
}
