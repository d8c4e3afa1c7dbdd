//! The routers on the way to an address: a traceroute that an ordinary user may run, bounded in packets and in time
//! [C04 §3.1, §4.4].
//!
//! [`Part::Last`] finds the last hops before a destination, in two round trips: one probe goes all the way, and from the
//! TTL that its answer has left follows how far that is; then the hops before it are probed at once. So the destination
//! itself is asked once, and answers though many trace to it. That takes the way back to be as long as the way there. A
//! destination that keeps silent costs a sweep, ten TTLs at a time.
//!
//! [`Part::First`] finds the first hops, in one round trip: they are probed at once, together with the destination.
//!
//! Each TTL is probed once: a hop whose packet is lost is missing, as one that never answers. What to probe, and when to
//! stop waiting, is decided by [`Plan`], which knows no socket and no clock; [`socket`] sends and listens. What the
//! hops are good for is the caller's business; they are hearsay, as anybody on the way can make them up.

mod socket;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use socket::Probes;

/// How to trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceConfig {
    /// Which hops are wanted.
    pub part: Part,
    /// How many, at most 30. Default 5 [C04 §3.1].
    pub hops: u8,
    /// How long to wait for a first answer; once one has come, the others have little more than twice its time.
    /// Default 500ms: whoever is farther away is near nobody.
    pub timeout: Duration,
}

/// Which end of the way is of interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The routers in front of this machine.
    First,
    /// The routers in front of the destination.
    Last,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// Where the probes went.
    pub destination: IpAddr,
    /// The hops that answered, the nearest to this machine first. Silent ones are missing, which shows in the TTLs.
    pub hops: Vec<Hop>,
    /// The destination, if it answered.
    pub reached: Option<Reached>,
}

/// A router that answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// How many hops it is away: 1 for the first router.
    pub ttl: u8,
    /// Its address, as it says.
    pub addr: IpAddr,
    /// How long its answer took. Routers answer when they have time: one farther away may be faster.
    pub rtt: Duration,
}

/// A destination that answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// How many hops it is away: 1 where no router is between. From the TTL of its answer, unless a hop's probe reached it.
    pub distance: u8,
    /// How long its answer took.
    pub rtt: Duration,
}

impl TraceConfig {
    /// The last five hops before a destination.
    pub const LAST: Self = Self { part: Part::Last, hops: 5, timeout: Duration::from_millis(500) };
    /// The first five hops towards a destination.
    pub const FIRST: Self = Self { part: Part::First, ..Self::LAST };
}

/// Traces to `destination`, within a tokio runtime. It ends by itself: after [`MAX_ROUNDS`] times [`TraceConfig::timeout`]
/// and [`MAX_PROBES`] packets of 40 bytes (60 with IPv6), at most.
///
/// An error means that nothing could be sent: no route, or no socket to be had. A way on which nobody answers is none: the
/// trace is empty.
pub async fn trace(destination: IpAddr, config: &TraceConfig) -> io::Result<Trace> {
    let destination = destination.to_canonical();
    if destination.is_unspecified() || destination.is_multicast() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("nobody can be traced to at {destination}")));
    }
    let mut plan = Plan::new(*config);
    let mut probes = Probes::open(destination).await?;
    loop {
        match plan.next(Instant::now()) {
            Next::Probe(ttls) => {
                for ttl in ttls {
                    probes.send(ttl).await?;
                }
            }
            Next::Wait(until) => {
                if let Ok(answer) = timeout_at(until, probes.answer()).await {
                    let (ttl, answer) = answer?;
                    plan.answered(ttl, answer);
                }
            }
            Next::Done => return Ok(plan.into_trace(destination)),
        }
    }
}

/// Packets in one trace, at most.
pub const MAX_PROBES: usize = 40;
/// Time-outs in one trace, at most: of the probe that goes all the way, and of three stages of a sweep.
pub const MAX_ROUNDS: u32 = 4;

/// What came back for one probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Answer {
    kind: Kind,
    from: IpAddr,
    rtt: Duration,
    /// The TTL that the answer itself arrived with.
    ttl_left: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A router: the TTL had run out.
    Expired,
    /// The destination: nobody listens at that port.
    Reached,
    /// Somebody on the way who does not let the probe pass, or knows no way on.
    Refused,
}

/// Which TTLs to probe, and how long to wait: told of the time and of answers.
#[derive(Debug)]
struct Plan {
    config: TraceConfig,
    answers: BTreeMap<u8, Answer>,
    probed: BTreeSet<u8>,
    /// Those of them that were sent last, and when.
    awaited: Vec<u8>,
    sent_at: Option<Instant>,
    /// When it must have ended.
    deadline: Option<Instant>,
    /// Up to which TTL a silent destination's way has been swept.
    swept: u8,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Send a probe with each of these TTLs, and ask again.
    Probe(Vec<u8>),
    /// Wait for an answer until then, and ask again.
    Wait(Instant),
    Done,
}

impl Plan {
    fn new(config: TraceConfig) -> Self {
        let hops = config.hops.clamp(1, MAX_HOPS);
        let config = TraceConfig { hops, ..config };
        Self {
            config,
            answers: BTreeMap::new(),
            probed: BTreeSet::new(),
            awaited: Vec::new(),
            sent_at: None,
            deadline: None,
            swept: 0,
        }
    }

    fn next(&mut self, now: Instant) -> Next {
        let deadline = *self.deadline.get_or_insert(now + MAX_ROUNDS * self.config.timeout);
        if let Some(sent_at) = self.sent_at
            && self.awaited.iter().any(|ttl| self.is_open(*ttl))
        {
            let until = (sent_at + self.patience()).min(deadline);
            if now < until {
                return Next::Wait(until);
            }
        }
        let mut wanted: Vec<u8> = self.wanted().filter(|ttl| !self.probed.contains(ttl)).collect();
        wanted.truncate(MAX_PROBES - self.probed.len());
        if wanted.is_empty() || now >= deadline {
            return Next::Done;
        }
        self.probed.extend(&wanted);
        self.awaited.clone_from(&wanted);
        self.sent_at = Some(now);
        Next::Probe(wanted)
    }

    fn answered(&mut self, ttl: u8, answer: Answer) {
        if self.probed.contains(&ttl) {
            self.answers.entry(ttl).or_insert(answer);
        }
    }

    /// Whether an answer to this probe may still come and tell something.
    fn is_open(&self, ttl: u8) -> bool {
        let is_beyond = |end: u8| ttl != FAR && ttl >= end;
        !self.answers.contains_key(&ttl) && !self.nearest_reached().is_some_and(is_beyond)
    }

    /// From the last probes on.
    fn patience(&self) -> Duration {
        let slowest = self.answers.values().map(|answer| answer.rtt).max();
        slowest.map_or(self.config.timeout, |rtt| (2 * rtt + SLACK).min(self.config.timeout))
    }

    /// What should have been probed by now.
    fn wanted(&mut self) -> impl Iterator<Item = u8> + use<> {
        let hops = self.config.hops;
        let (far, ttls) = match self.config.part {
            Part::First => (true, 1..=hops),
            Part::Last if self.probed.is_empty() => (true, NONE),
            Part::Last => match self.end() {
                Some(end) => (false, end.saturating_sub(hops).max(1)..=end - 1),
                None => (false, self.sweep()),
            },
        };
        far.then_some(FAR).into_iter().chain(ttls)
    }

    /// The next TTLs on the way to a destination that does not answer, until nobody has answered for as many hops as are
    /// wanted.
    fn sweep(&mut self) -> RangeInclusive<u8> {
        let last = self.farthest_hop().unwrap_or(0);
        if self.swept > 0 && (self.swept >= MAX_HOPS || last + self.config.hops <= self.swept) {
            return NONE;
        }
        let ttls = self.swept + 1..=(self.swept + SWEEP).min(MAX_HOPS);
        self.swept = *ttls.end();
        ttls
    }

    /// The TTL that the last router's would be followed by, as far as is known: 1 at least.
    fn end(&self) -> Option<u8> {
        let far = self.answers.get(&FAR);
        let estimate = far.and_then(|far| match far.kind {
            Kind::Reached => far.distance(),
            // Whoever refused is a router on the way, perhaps the last one.
            Kind::Refused => far.distance().map(|distance| distance + 1),
            Kind::Expired => None,
        });
        // A router that answered shows an estimate to be too low.
        let beyond_hops = self.farthest_hop().map_or(1, |last| last + 1);
        self.nearest_reached().or(estimate.map(|estimate| estimate.max(beyond_hops)))
    }

    /// The least TTL with which a hop's probe reached the destination.
    fn nearest_reached(&self) -> Option<u8> {
        let mut hops = self.answers.iter().filter(|(ttl, _)| **ttl != FAR);
        hops.find(|(_, answer)| answer.kind == Kind::Reached).map(|(ttl, _)| *ttl)
    }

    fn farthest_hop(&self) -> Option<u8> {
        let mut hops = self.answers.iter().rev().filter(|(ttl, _)| **ttl != FAR);
        hops.find(|(_, answer)| answer.kind == Kind::Expired).map(|(ttl, _)| *ttl)
    }

    fn into_trace(self, destination: IpAddr) -> Trace {
        let end = self.end();
        let wanted = match self.config.part {
            Part::First => 1..=end.map_or(self.config.hops, |end| self.config.hops.min(end - 1)),
            Part::Last => {
                let last = end.map_or(self.farthest_hop().unwrap_or(0), |end| end - 1);
                last.saturating_sub(self.config.hops - 1).max(1)..=last
            }
        };
        let reached =
            self.answers.values().filter(|answer| answer.kind == Kind::Reached).map(|answer| answer.rtt).min();
        let reached = reached.zip(end).map(|(rtt, distance)| Reached { distance, rtt });
        let mut hops: Vec<Hop> = Vec::new();
        for (ttl, answer) in self.answers.iter().filter(|(ttl, _)| wanted.contains(ttl)) {
            // One that answers for two TTLs is a loop, or hides others: it is where it was first.
            let is_new = answer.from != destination && hops.iter().all(|hop| hop.addr != answer.from);
            if answer.kind == Kind::Expired && is_new {
                hops.push(Hop { ttl: *ttl, addr: answer.from, rtt: answer.rtt });
            }
        }
        Trace { destination, hops, reached }
    }
}

impl Answer {
    /// How many hops away whoever sent it is, taking it to have begun with one of the usual TTLs. `None` if that is
    /// more than any way is long.
    fn distance(&self) -> Option<u8> {
        let left = self.ttl_left?;
        let begun = INITIAL_TTLS.into_iter().find(|initial| *initial >= left)?;
        Some(begun - left + 1).filter(|distance| *distance <= MAX_HOPS)
    }
}

/// The TTL of the probe that goes all the way: the usual one, so that its distance can be told from others'.
const FAR: u8 = 64;
/// The longest way that is looked at. Almost all are shorter than 25.
const MAX_HOPS: u8 = 30;
/// TTLs probed at once on the way to a silent destination.
const SWEEP: u8 = 10;
/// What systems begin with: Linux and macOS, Windows, routers.
const INITIAL_TTLS: [u8; 3] = [64, 128, 255];
/// How much longer than twice the slowest answer so far another one may take: routers answer when they have time.
const SLACK: Duration = Duration::from_millis(50);
#[expect(clippy::reversed_empty_ranges, reason = "no TTL at all")]
const NONE: RangeInclusive<u8> = 1..=0;

#[cfg(test)]
mod tests;
