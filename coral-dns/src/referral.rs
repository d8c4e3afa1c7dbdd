//! Whether a resolver is answered here, or referred to nameservers near it (design.md §3.3; RFC 1034 §4.3.2).
//!
//! The names below a suffix are cut at the label in front of it, `com.nyud.net`: a resolver that was referred there asks
//! those nameservers for every site under that label, until the TTL ends. Who is named must answer, and never refer:
//! resolvers take such a server for a lame one. So
//!
//! - near ones are asked first, and promise it (`near.rs`);
//! - a node that refers names itself, as the last resort for when all of the near ones fail together, and remembers to
//!   whom it has done so: within the TTL that resolver comes back because it wants an answer.
//!
//! Resolvers choose among nameservers by how fast they answer, some of them loosely: Unbound takes all for equal that are
//! within 400 ms of the best. A last resort that is slow on purpose as long as the others live is asked much less; and one that is slower still
//! ([`SLOWER`]) to a resolver that comes back often is out of that span, whatever the resolver made of it while it was fast, as the others were dead.
//!
//! And they remember who has failed: as long as the last resort serves them well, Unbound does not try the others again for
//! 15 minutes, and BIND for as long as it takes its estimates to fade. So to a resolver that comes here again and again,
//! although those others are known to live, the last resort falls silent for a few seconds ([`Return::Stuck`]). What the
//! resolver does then is to think less of this server and to ask another: one of the near ones, which answers, and is
//! preferred from then on. Silence for some of the queries would not do: Unbound doubles its time-out with each query that is
//! lost, and forgets that with each that is not. A resolver that cannot reach the others, whatever we think, gets its answer a
//! few seconds later.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::answer::View;
use crate::near::Near;

/// What becomes of a resolver's question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is answered at once.
    Answer,
    /// It is answered, as the last resort of a resolver that has nearer nameservers.
    LastResort,
    /// The resolver is referred.
    Refer,
}

/// Decides. `is_bound` says that this node has promised to answer the resolver, `was_referred` that it has named itself as
/// the last resort.
pub fn decide(resolver: &View, is_bound: bool, was_referred: bool) -> Decision {
    let is_nearer = |near: &Near| near.level > resolver.level && !near.nameservers.is_empty();
    if is_bound || !resolver.near.as_deref().is_some_and(is_nearer) {
        Decision::Answer
    } else if was_referred {
        Decision::LastResort
    } else {
        Decision::Refer
    }
}

/// To a resolver that comes back [again](Return::Again), although those near it live, the last resort is so many times as slow. With 600 ms Unbound, which
/// adds four times the deviation, puts it behind servers of which it has one answer after a pause (0.3 s) and 400 ms more.
pub const SLOWER: u32 = 3;

/// How long the answer of a last resort is held back, so that it takes `slow` in all to a resolver that is `rtt` away.
pub fn hold(slow: Duration, rtt: Option<Duration>) -> Duration {
    slow.saturating_sub(rtt.unwrap_or_default())
}

/// A resolver that was referred has come back to its last resort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Return {
    /// As it does now and then.
    Seldom,
    /// More often than that: whether the nodes near it live is to be known now.
    Often,
    /// More than once for one name, of which a resolver that minimises its questions asks two: if those nodes live, it is answered late.
    Again,
    /// So often that it does not seem to ask those nodes any more: if they live, it is not answered.
    Stuck,
}

/// The nodes near a resolver are known to live if they were heard from so long ago, and after it began to come back often: when they die,
/// they have been heard from a moment ago, and silence here as well would have a resolver think the worst of them for long.
pub const FRESH: Duration = Duration::from_secs(5);

/// How often a resolver has come back, and since when that is not seldom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Returned {
    /// How often.
    pub how: Return,
    /// Since when in this window; now, if it is seldom.
    pub often_since: Instant,
}

/// Returns are counted for so long, and then again from the start.
const WINDOW: Duration = Duration::from_secs(15);
/// From this one on they are not seldom.
const OFTEN: u32 = 2;
/// From this one on they are more than one visit's.
const AGAIN: u32 = 3;
/// From this one on the resolver is stuck, for [`SILENCE`].
const STUCK: u32 = 4;
/// For so long after it was stuck, the first one is one too many and half as many are stuck: its estimates draw near each other, and as long as they
/// are alike it goes on to ask this server about as often as the others.
const RELAPSE: Duration = Duration::from_secs(60);
/// Unbound sends twice before it doubles its time-out, which is 1.6 s for servers that have died beside one 0.25 s away: it
/// takes 3.5 s until this one looks as bad. Clients of resolvers wait for 10 s or more.
const SILENCE: Duration = Duration::from_secs(6);

/// The resolvers that were referred lately, each with its cut. A bounded number: a resolver that was forgotten is referred
/// once more, takes this node for lame, and asks the near ones.
#[derive(Debug)]
pub struct Referred {
    hasher: RandomState,
    capacity: usize,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    known: HashMap<u64, Entry>,
    /// In the order in which they came; some may have been renewed since.
    order: VecDeque<(u64, Instant)>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    until: Instant,
    /// What it asked last.
    question: u64,
    /// How often it has come back in the window that began then.
    returns: u32,
    window: Instant,
    /// When in this window it began not to be seldom any more.
    often: Option<Instant>,
    /// Until when it is stuck, if it is.
    stuck: Instant,
    /// Until when it counts as stuck sooner, as it was a moment ago.
    relapse: Instant,
}

/// What a resolver's clock may be behind ours: its TTL counts from when the referral arrives.
const SLACK: Duration = Duration::from_secs(1);

impl Referred {
    /// None; at most `capacity`.
    pub fn new(capacity: usize) -> Self {
        Self { hasher: RandomState::new(), capacity: capacity.max(1), entries: Mutex::default() }
    }

    /// Notes that `resolver` asks this node about the cut `cut`. `None` if it was not referred to others, or not lately: it
    /// does not ask those then, and wants to be.
    ///
    /// The same `question` again says nothing new: while answers are held back it is sent more than once.
    pub fn returns(&self, now: Instant, resolver: IpAddr, cut: &[u8], question: impl Hash) -> Option<Returned> {
        let key = self.hasher.hash_one((resolver, cut));
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.known.get_mut(&key).filter(|entry| now < entry.until)?;
        let question = self.hasher.hash_one(question);
        if now.saturating_duration_since(entry.window) >= WINDOW {
            (entry.returns, entry.window, entry.often) = (0, now, None);
        }
        let (often, again, stuck) = if now < entry.relapse { (1, 1, STUCK / 2) } else { (OFTEN, AGAIN, STUCK) };
        if entry.question != question {
            entry.question = question;
            entry.returns = entry.returns.saturating_add(1);
            if entry.returns == often {
                entry.often = Some(now);
            }
            if entry.returns == stuck {
                (entry.stuck, entry.relapse) = (now + SILENCE, now + RELAPSE);
                // Another silence right behind this one would cost a name its answer.
                entry.window = now;
            }
        }
        let how = if now < entry.stuck {
            Return::Stuck
        } else if entry.returns >= again {
            Return::Again
        } else if entry.returns >= often {
            Return::Often
        } else {
            Return::Seldom
        };
        Some(Returned { how, often_since: entry.often.unwrap_or(now) })
    }

    /// Notes that `resolver` is referred, for `ttl`.
    pub fn note(&self, now: Instant, resolver: IpAddr, cut: &[u8], ttl: Duration) {
        let key = self.hasher.hash_one((resolver, cut));
        let until = now + ttl + SLACK;
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let Entries { known, order } = &mut *entries;
        let new = Entry { until, question: 0, returns: 0, window: now, often: None, stuck: now, relapse: now };
        known.entry(key).and_modify(|entry| entry.until = until).or_insert(new);
        order.push_back((key, until));
        // What has ended goes, and as much more as there is no room for.
        while let Some((key, until)) = order.front().copied()
            && (until <= now || order.len() > self.capacity)
        {
            order.pop_front();
            if known.get(&key).is_some_and(|entry| entry.until == until) {
                known.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use coral_dsht::Level;

    use super::*;

    fn view(level: u8, nearer: bool) -> View {
        let address: IpAddr = "198.51.100.1".parse().unwrap();
        let near = Near {
            level: Level::new(2).unwrap(),
            nameservers: vec!["192.0.2.1".parse().unwrap()],
            proxies: Vec::new(),
        };
        View { address, level: Level::new(level).unwrap(), near: nearer.then(|| Arc::new(near)), distant: None }
    }

    #[test]
    fn only_who_is_nearer_to_others_and_was_promised_nothing_is_referred() {
        for level in [0, 1] {
            assert_eq!(decide(&view(level, true), false, false), Decision::Refer);
        }
        for (view, is_bound) in
            [(view(0, false), false), (view(2, true), false), (view(0, true), true), (view(1, true), true)]
        {
            for was_referred in [false, true] {
                assert_eq!(decide(&view, is_bound, was_referred), Decision::Answer);
            }
        }
    }

    #[test]
    fn who_comes_back_within_the_ttl_is_answered() {
        assert_eq!(decide(&view(0, true), false, true), Decision::LastResort);
    }

    #[tokio::test(start_paused = true)]
    async fn a_referral_is_remembered_for_its_resolver_its_cut_and_its_ttl() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let referred = Referred::new(9);
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse().unwrap());
        referred.note(now, one, b"com", 60 * second);
        let last = now + 60 * second;
        let seldom = Returned { how: Return::Seldom, often_since: last };
        assert_eq!(referred.returns(last, one, b"com", 1), Some(seldom));
        assert_eq!(referred.returns(now + 61 * second, one, b"com", 2), None);
        assert_eq!(referred.returns(now, one, b"net", 3), None);
        assert_eq!(referred.returns(now, other, b"com", 4), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_back_again_and_again_is_stuck() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let referred = Referred::new(9);
        let resolver = "192.0.2.1".parse().unwrap();
        referred.note(now, resolver, b"com", 400 * second);
        let asks = |after: u32, what: u32| referred.returns(now + after * second, resolver, b"com", what).unwrap();
        let returned = |after| asks(after, after);
        let returns = |after| returned(after).how;
        let (often, again, stuck) = (Return::Often, Return::Again, Return::Stuck);
        let expected = [Return::Seldom, often, again, stuck, stuck, again];
        assert_eq!([11, 12, 13, 14, 19, 20].map(returns), expected);
        assert_eq!(returned(21).often_since, now + 12 * second);
        // For nine seconds after it there is no other one, and then it takes fewer; each time that it does puts the end of that off.
        assert_eq!([22, 25, 28, 29, 30].map(returns), [again, again, again, again, stuck]);
        assert_eq!([88, 89].map(returns), [again, stuck]);
        assert_eq!([150, 151, 152, 153].map(returns), expected[..4]);
        // What is sent again counts once, and prolongs nothing.
        let sent = [(230, 230), (231, 231), (232, 231), (233, 231), (234, 234), (235, 235), (240, 235), (241, 235)];
        let expected = [Return::Seldom, often, often, often, again, stuck, stuck, again];
        assert_eq!(sent.map(|(after, what)| asks(after, what).how), expected);
        // Now and then is what resolvers do to see whether it has become faster.
        assert!((32..39).all(|tens| returns(tens * 10) < Return::Stuck));
    }

    #[tokio::test(start_paused = true)]
    async fn those_remembered_are_bounded_and_the_oldest_give_way() {
        let now = Instant::now();
        let referred = Referred::new(100);
        for number in 0..1_000_u32 {
            referred.note(now, std::net::Ipv4Addr::from(number).into(), b"com", Duration::from_secs(60));
        }
        let entries = referred.entries.lock().unwrap();
        assert_eq!((entries.known.len(), entries.order.len()), (100, 100));
        drop(entries);
        assert!(referred.returns(now, "0.0.3.231".parse().unwrap(), b"com", 1).is_some());
        assert!(referred.returns(now, "0.0.0.1".parse().unwrap(), b"com", 1).is_none());
    }
}
