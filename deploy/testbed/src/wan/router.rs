//! The router without its devices: frames and the time in, frames and the time when to come back out.
//!
//! A packet passes, in this order: the cuts; its sender's line up; the rate of the pair; the pair's loss; the delay and its
//! jitter, in order; and, on arrival, its receiver's line down. A packet that runs out of hops on its way, or is for a router,
//! ends there, and what the router says about it comes back as late as if it had been there.

use std::net::IpAddr;
use std::time::Duration;

use rand_chacha::ChaCha12Rng;
use rand_core::{Rng as _, SeedableRng as _};

use super::control::{Counters, PairCounters, SiteStatus};
use super::frame::Frame;
use super::line::Line;
use super::packet::{self, Complaint};
use super::path::{Hop, Routers};
use super::schedule::Schedule;
use crate::map::{Access, Link, Map, address};

mod change;

/// All of the wide area. Sites are named by their index, which is their number less one.
#[derive(Debug)]
pub struct Router {
    routers: Routers,
    region_names: Vec<String>,
    sites: Vec<Site>,
    /// One for each direction: from `a` to `b` at `a * sites + b`.
    pairs: Vec<Pair>,
    schedule: Schedule<Flight>,
    queued_bytes: usize,
    rng: ChaCha12Rng,
    cuts: Vec<(String, Option<String>)>,
}

/// A frame that has arrived.
#[derive(Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The site that it is for.
    pub site: usize,
    /// What its device is to be given.
    pub frame: Frame,
    /// When it should have been given, to the nanosecond.
    pub due: Duration,
}

#[derive(Debug)]
struct Site {
    region: usize,
    access: Access,
    up: Line,
    down: Line,
    /// Cut off from everybody: not even its gateway answers.
    isolated: bool,
    status: SiteStatus,
}

#[derive(Debug)]
struct Pair {
    link: Link,
    rate: Line,
    /// No later packet comes before this.
    last_arrival: Duration,
    cut: bool,
    counters: Counters,
}

/// A frame under way.
#[derive(Debug)]
struct Flight {
    from: u16,
    to: u16,
    stage: Stage,
    frame: Frame,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It comes to the receiver's line.
    AtLine,
    /// It has passed that line.
    Through,
}

impl Router {
    /// The router of this map. `seed` decides which packets are lost and how late others are.
    pub fn new(map: &Map, seed: u64) -> Self {
        let site = |site: &crate::map::Site| Site {
            region: site.region,
            access: site.access,
            up: Line::default(),
            down: Line::default(),
            isolated: false,
            status: SiteStatus { name: site.name.clone(), ..SiteStatus::default() },
        };
        // Nothing goes from a site to itself: that entry keeps the table square.
        let nowhere = Link { delay: Duration::ZERO, jitter: Duration::ZERO, loss: 0.0, rate: None };
        let mut pairs = Vec::with_capacity(map.sites().len().pow(2));
        for a in map.sites() {
            pairs.extend(map.sites().iter().map(|b| Pair {
                link: if a == b { nowhere } else { *map.link(a, b) },
                rate: Line::default(),
                last_arrival: Duration::ZERO,
                cut: false,
                counters: Counters::default(),
            }));
        }
        Self {
            routers: Routers::new(map.regions().len()),
            region_names: map.regions().iter().map(|region| region.name.clone()).collect(),
            sites: map.sites().iter().map(site).collect(),
            pairs,
            schedule: Schedule::new(),
            queued_bytes: 0,
            rng: ChaCha12Rng::seed_from_u64(seed),
            cuts: Vec::new(),
        }
    }

    /// Takes what the device of site `from` has given.
    pub fn forward(&mut self, now: Duration, from: usize, mut frame: Frame) {
        let Ok(header) = packet::header(frame.packet()) else {
            self.sites[from].status.malformed += 1;
            return;
        };
        let to = address::site_number(header.destination).map(|number| usize::from(number) - 1);
        if let Some(to) = to.filter(|to| *to < self.sites.len() && *to != from) {
            let hops = Routers::hops(self.sites[from].region, self.sites[to].region);
            if header.hop_limit > hops {
                packet::spend_hops(frame.packet_mut(), hops);
                if frame.is_large() && self.each_counts(from, to) {
                    match frame.split() {
                        Some(parts) => parts.into_iter().for_each(|part| self.send(now, from, to, part)),
                        None => self.sites[from].status.malformed += 1,
                    }
                } else {
                    self.send(now, from, to, frame);
                }
            } else {
                let hop = self.hop(from, to, header.hop_limit);
                self.end_at_router(now, from, to, hop, |router| {
                    packet::complain(router, Complaint::TimeExceeded, frame.packet())
                });
            }
        } else if !self.answer_for_router(now, from, header.destination, header.hop_limit, &frame) {
            self.sites[from].status.unroutable += 1;
            // The gateway of whichever way knows.
            if let Some(to) = self.anybody_but(from) {
                let hop = self.hop(from, to, 1);
                let complaint = if header.hop_limit > 1 { Complaint::NoRoute } else { Complaint::TimeExceeded };
                self.reply(now, from, to, hop, |router| packet::complain(router, complaint, frame.packet()));
            }
        }
    }

    /// The next frame that has arrived by now.
    pub fn poll(&mut self, now: Duration) -> Option<Delivery> {
        loop {
            let (due, flight) = self.schedule.pop(now)?;
            let (from, to, bytes) = (usize::from(flight.from), usize::from(flight.to), flight.frame.len());
            self.queued_bytes -= bytes;
            let at = self.pair(from, to);
            let (site, counters) = (&mut self.sites[to], &mut self.pairs[at].counters);
            let queue = site.access.queue;
            match (flight.stage, site.access.down) {
                (Stage::AtLine, Some(rate)) => match site.down.send(due, bytes, rate, queue) {
                    Some(through) => {
                        self.queued_bytes += bytes;
                        self.schedule.push(through, Flight { stage: Stage::Through, ..flight });
                    }
                    None => counters.queue_full += 1,
                },
                (Stage::AtLine, None) | (Stage::Through, _) => {
                    counters.packets += flight.frame.packets();
                    counters.bytes += bytes as u64;
                    return Some(Delivery { site: to, frame: flight.frame, due });
                }
            }
        }
    }

    /// When [`Router::poll`] will next have something to do.
    pub fn next_due(&self) -> Option<Duration> {
        self.schedule.next_due()
    }

    /// Packets under way, and their bytes.
    pub fn queued(&self) -> (usize, usize) {
        (self.schedule.len(), self.queued_bytes)
    }

    /// Notes whether a site has a device.
    pub fn set_attached(&mut self, site: usize, attached: bool) {
        self.sites[site].status.attached = attached;
    }

    /// Notes that a site's device has not taken a frame.
    pub fn note_undelivered(&mut self, site: usize) {
        self.sites[site].status.undelivered += 1;
    }

    /// Notes that a site's device has given what is no frame.
    pub fn note_malformed(&mut self, site: usize) {
        self.sites[site].status.malformed += 1;
    }

    /// How the sites fare.
    pub fn site_statuses(&self) -> Vec<SiteStatus> {
        self.sites.iter().map(|site| site.status.clone()).collect()
    }

    /// What went between whom, where anything did.
    pub fn pair_counters(&self) -> Vec<PairCounters> {
        let name = |site: usize| self.sites[site].status.name.clone();
        let count = self.sites.len();
        // What routers have said to a site is under that site itself, and is no traffic between two.
        let between = self.pairs.iter().enumerate().filter(|(at, _)| at / count != at % count);
        let used = between.filter(|(_, pair)| pair.counters != Counters::default());
        used.map(|(at, pair)| PairCounters { from: name(at / count), to: name(at % count), counters: pair.counters })
            .collect()
    }

    /// The cuts that hold.
    pub fn cuts(&self) -> &[(String, Option<String>)] {
        &self.cuts
    }

    /// Where in the table the way from one site to another is.
    fn pair(&self, from: usize, to: usize) -> usize {
        from * self.sites.len() + to
    }

    /// Whether packets must go one by one, as some are lost or a line has a rate.
    fn each_counts(&self, from: usize, to: usize) -> bool {
        let link = &self.pairs[self.pair(from, to)].link;
        let lines = [link.rate, self.sites[from].access.up, self.sites[to].access.down];
        link.loss > 0.0 || lines.iter().any(Option::is_some)
    }

    /// Sends a packet on its whole way.
    fn send(&mut self, now: Duration, from: usize, to: usize, frame: Frame) {
        let bytes = frame.len();
        let at = self.pair(from, to);
        let (sender, pair) = (&mut self.sites[from], &mut self.pairs[at]);
        let fate = if pair.cut {
            Err(&mut pair.counters.cut)
        } else if self.queued_bytes + bytes > MOST_QUEUED_BYTES {
            Err(&mut pair.counters.overload)
        } else {
            let queue = sender.access.queue;
            let up = sender.access.up.map_or(Some(now), |rate| sender.up.send(now, bytes, rate, queue));
            let sent = up.and_then(|up| pair.link.rate.map_or(Some(up), |rate| pair.rate.send(up, bytes, rate, queue)));
            match sent {
                None => Err(&mut pair.counters.queue_full),
                Some(_) if lost(&mut self.rng, pair.link.loss) => Err(&mut pair.counters.lost),
                Some(sent) => Ok(sent + pair.link.delay + jitter(&mut self.rng, pair.link.jitter)),
            }
        };
        match fate {
            Ok(arrival) => {
                let arrival = arrival.max(pair.last_arrival);
                pair.last_arrival = arrival;
                self.fly(arrival, from, to, frame);
            }
            Err(counter) => *counter += 1,
        }
    }

    fn fly(&mut self, arrival: Duration, from: usize, to: usize, frame: Frame) {
        self.queued_bytes += frame.len();
        // A map has far fewer sites than 2^16.
        self.schedule.push(arrival, Flight { from: from as u16, to: to as u16, stage: Stage::AtLine, frame });
    }

    /// If the destination is a router that stands on a way from here, ends the packet there.
    fn answer_for_router(
        &mut self,
        now: Duration,
        from: usize,
        destination: IpAddr,
        hop_limit: u8,
        frame: &Frame,
    ) -> bool {
        let own = self.sites[from].region;
        let Some(router) = self.routers.at(destination) else { return false };
        let Some(towards) = router.seen_towards(own) else { return false };
        // Whoever stands there will do. Where nobody else is in the own region, the ways to others pass its routers.
        let there = (0..self.sites.len()).find(|to| *to != from && self.sites[*to].region == towards);
        let to = if towards == own { there.or_else(|| self.anybody_but(from)) } else { there };
        let Some(to) = to else { return false };
        let delay = self.pairs[self.pair(from, to)].link.delay;
        let hops = self.routers.path(own, self.sites[to].region, delay);
        let Some((before, hop)) = hops.enumerate().find(|(_, hop)| hop.router == router) else { return false };
        if usize::from(hop_limit) > before {
            self.end_at_router(now, from, to, hop, |router| packet::answer(router, frame.packet()));
        } else {
            let hop = self.hop(from, to, hop_limit);
            self.end_at_router(now, from, to, hop, |router| {
                packet::complain(router, Complaint::TimeExceeded, frame.packet())
            });
        }
        true
    }

    /// The router where a packet with so few hops left ends, on the way from one site to another.
    fn hop(&self, from: usize, to: usize, hop_limit: u8) -> Hop {
        let delay = self.pairs[self.pair(from, to)].link.delay;
        let mut path = self.routers.path(self.sites[from].region, self.sites[to].region, delay);
        // No host sends packets without any hop; such a one ends at the first router, too.
        path.nth(usize::from(hop_limit.max(1)) - 1).expect("the packet has fewer hops left than the way has routers")
    }

    /// Any site but this one.
    fn anybody_but(&self, from: usize) -> Option<usize> {
        (0..self.sites.len()).find(|to| *to != from)
    }

    /// As [`Router::reply`], and counts the packet as one that was meant to end at a router, or had to.
    fn end_at_router(
        &mut self,
        now: Duration,
        from: usize,
        to: usize,
        hop: Hop,
        say: impl FnOnce((IpAddr, IpAddr)) -> Option<Vec<u8>>,
    ) {
        self.sites[from].status.ended_at_router += 1;
        self.reply(now, from, to, hop, say);
    }

    /// Sends the sender of a packet what the router at `hop`, on the way to `to`, says about it.
    fn reply(
        &mut self,
        now: Duration,
        from: usize,
        to: usize,
        hop: Hop,
        say: impl FnOnce((IpAddr, IpAddr)) -> Option<Vec<u8>>,
    ) {
        let Pair { link, cut, .. } = self.pairs[self.pair(from, to)];
        // A cut lies behind the routers of the sender's own region, or behind its gateway if the other end is there, too.
        let near_side = match hop.router {
            super::path::Router::Gateway(region) => region == self.sites[from].region,
            super::path::Router::Border(region) => region == self.sites[from].region && self.sites[to].region != region,
            super::path::Router::Core(..) => false,
        };
        if self.sites[from].isolated || (cut && !near_side) || self.queued_bytes > MOST_QUEUED_BYTES {
            return;
        }
        let (v4, v6) = self.routers.addresses(hop.router);
        let Some(mut said) = say((v4.into(), v6.into())) else { return };
        // The way back passes the routers that the way there has passed.
        let own = self.sites[from].region;
        let before = self.routers.path(own, self.sites[to].region, link.delay).position(|other| other == hop);
        packet::spend_hops(&mut said, before.unwrap_or_default() as u8);
        // Both ways.
        if lost(&mut self.rng, link.loss) || lost(&mut self.rng, link.loss) {
            return;
        }
        let late = jitter(&mut self.rng, link.jitter) + jitter(&mut self.rng, link.jitter);
        self.fly(now + hop.after * 2 + late, from, from, Frame::of_packet(&said));
    }
}

/// Whether this packet is among those that are lost.
fn lost(rng: &mut ChaCha12Rng, loss: f64) -> bool {
    loss > 0.0 && unit(rng) < loss
}

fn jitter(rng: &mut ChaCha12Rng, most: Duration) -> Duration {
    if most.is_zero() { most } else { most.mul_f64(unit(rng)) }
}

/// Uniform in [0, 1).
fn unit(rng: &mut ChaCha12Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// What the router holds at most: a second at 2 Gbit/s.
const MOST_QUEUED_BYTES: usize = 256 << 20;

#[cfg(test)]
mod tests;
