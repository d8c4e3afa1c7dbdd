//! The parts of the page that change, as HTML: the same text stands in the document and goes to those who listen.

use std::time::{Duration, SystemTime};

use bytesize::ByteSize;
use coral_dsht::{Hop, HopAnswer, Neighbour, NodeId, Snapshot};
use coral_proxy::{Popular, Search, Traffic};
use maud::{Markup, html};

use super::curves::curves;
use super::figures::spared_bytes;
use super::rates::{Rates, Source, totals};
use super::rings::rings;
use crate::tables::brief;

/// Neighbours in the table; a node may know hundreds.
const ROWS: usize = 50;

/// Searches that are shown.
const SEARCHES: usize = 6;

/// Characters of a URL that are shown.
const URL_CHARS: usize = 90;

/// One part of the page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// The id of the element that it stands in.
    pub(super) id: &'static str,
    /// What stands in there.
    pub(super) html: String,
}

/// What there is to see at one moment. What a viewer may not see is not here.
#[derive(Debug)]
pub(super) struct Scene<'a> {
    /// Its neighbours, and whom it has met on its last walk.
    pub(super) snapshot: &'a Snapshot,
    /// When that ended.
    pub(super) walked: Option<SystemTime>,
    pub(super) uptime: Duration,
    /// What the cache has done, if one runs here.
    pub(super) traffic: Option<(&'a Traffic, &'a Rates)>,
    pub(super) popular: Option<&'a [Popular]>,
    pub(super) searches: Option<&'a [Search]>,
    /// Whether addresses of nodes are shown.
    pub(super) is_operator: bool,
}

impl Scene<'_> {
    /// All of its parts, in the order of the page.
    pub(super) fn pieces(&self) -> Vec<Piece> {
        let mut pieces = vec![("node", self.node())];
        if let Some((traffic, rates)) = self.traffic {
            pieces.push(("figures", self.figures(traffic, rates)));
            pieces.push(("curves", curves(rates)));
            pieces.push(("sources", sources(traffic, rates)));
        }
        pieces.push(("rings", rings(self.snapshot)));
        pieces.push(("walked", self.walked()));
        pieces.push(("levels", self.levels()));
        pieces.push(("neighbours", self.neighbours()));
        pieces.extend(self.popular.map(|urls| ("popular", popular(urls))));
        pieces.extend(self.searches.map(|last| ("searches", searches(last, self.snapshot.me.id))));
        pieces.into_iter().map(|(id, markup)| Piece { id, html: markup.into_string() }).collect()
    }

    fn node(&self) -> Markup {
        html! {
            "Node " code { (format!("{:?}", self.snapshot.me.id)) }
            @if self.is_operator { " at " code { (self.snapshot.me.addr) } }
            ", up " (uptime(self.uptime))
        }
    }

    fn figures(&self, traffic: &Traffic, rates: &Rates) -> Markup {
        let now: f64 = rates.now().iter().sum();
        let all = totals(traffic);
        let from_origin = all[Source::Origin as usize];
        let requests: u64 = all.iter().sum();
        html! {
            div { dt { "Requests per second" } dd { (rate(now)) } }
            div { dt { "Answered without the origin" } dd { (share(requests - from_origin, requests)) } }
            div { dt { "Spared origins" } dd { (ByteSize(spared_bytes(traffic))) } }
            div { dt { "Nodes in reach" } dd { (self.snapshot.neighbours.len()) } }
        }
    }

    fn walked(&self) -> Markup {
        html! {
            @match self.walked {
                Some(at) => { "Its neighbours, and whom it met on a walk through the network until " time { (clock(at)) } "." },
                None => "Its neighbours. It is about to walk through the network for the others.",
            }
        }
    }

    fn levels(&self) -> Markup {
        html! {
            @for cluster in self.snapshot.clusters.iter().rev() {
                li {
                    span class={ "key l" (cluster.level.number()) } {}
                    b { (cluster.level) } " "
                    @match cluster.diameter {
                        Some(diameter) => { "within " (diameter_of(diameter)) },
                        None => "everyone",
                    }
                    span.count { (cluster.size) @if cluster.size == 1 { " node" } @else { " nodes" } }
                }
            }
        }
    }

    fn neighbours(&self) -> Markup {
        let neighbours = &self.snapshot.neighbours;
        html! {
            @for Neighbour { peer, rtt, level, .. } in neighbours.iter().take(ROWS) {
                tr {
                    th scope="row" { code { (format!("{:?}", peer.id)) } }
                    td { (level) }
                    td.number { (brief(*rtt)) }
                    @if self.is_operator { td { code { (peer.addr) } } }
                }
            }
            @if neighbours.is_empty() {
                tr { td colspan="4" { "No other node has answered yet." } }
            }
            @if neighbours.len() > ROWS {
                tr { td colspan="4" { "… and " (neighbours.len() - ROWS) " farther ones" } }
            }
        }
    }
}

fn sources(traffic: &Traffic, rates: &Rates) -> Markup {
    let (now, all) = (rates.now(), totals(traffic));
    let requests: u64 = all.iter().sum();
    html! {
        @for source in Source::ALL {
            tr {
                th scope="row" { span class={ "key " (source.class()) } {} (source.name()) }
                td.number { (rate(now[source as usize])) "/s" }
                td.number { (share(all[source as usize], requests)) }
            }
        }
    }
}

fn popular(urls: &[Popular]) -> Markup {
    let most = urls.first().map_or(1, |first| first.requests.max(1));
    html! {
        @for Popular { url, requests } in urls {
            li {
                meter aria-hidden="true" min="0" max=(most) value=(requests) {}
                span.url title=(url) { (short(url)) }
                span.count { (requests) }
            }
        }
        @if urls.is_empty() { li { "Nothing has been asked for lately." } }
    }
}

fn searches(last: &[Search], me: NodeId) -> Markup {
    html! {
        @for Search { url, at, took, level, found, hops } in last.iter().take(SEARCHES) {
            li {
                p {
                    span.url title=(url) { (short(url)) }
                    span.count { time { (clock(*at)) } ", " (brief(*took)) }
                }
                ol.hops {
                    @for hop in hops { (one(hop, me)) }
                    @match level {
                        Some(level) => li class={ "end l" (level.number()) } { (found) " found at " (level) },
                        None => li.end.origin { "nobody has it: the origin" },
                    }
                }
            }
        }
        @if last.is_empty() { li { "Nothing had to be searched for yet." } }
    }
}

fn one(hop: &Hop, me: NodeId) -> Markup {
    let is_here = hop.peer.id == me;
    html! {
        li class={ "l" (hop.level.number()) } title=(hop.peer.addr) {
            b { (hop.level) } " "
            @if is_here { "here: " } @else { code { (format!("{:?}", hop.peer.id)) } ": " }
            @match hop.answer {
                HopAnswer::Values { count } => { (count) " found" },
                HopAnswer::Nearer { count } => { (count) " nearer" },
                HopAnswer::Nearest => "nobody nearer",
                HopAnswer::FullAndLoaded => "full",
                HopAnswer::Claimed => "nobody before",
                HopAnswer::OtherCluster => "elsewhere",
                HopAnswer::TimedOut => "no answer",
                _ => "something else",
            }
            @if let Some(rtt) = hop.rtt.filter(|_| !is_here) { ", " (brief(rtt)) }
        }
    }
}

/// Requests a second: to a digit while they can be counted.
pub(super) fn rate(per_second: f64) -> String {
    if per_second > 0.0 && per_second < 10.0 { format!("{per_second:.1}") } else { format!("{per_second:.0}") }
}

/// A diameter as it was configured: `20 ms`.
pub(super) fn diameter_of(span: Duration) -> String {
    brief(span).replace(".00", "")
}

fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "–".to_owned();
    }
    // A hundred is all of it, and nothing else.
    let percent = 1000 * u128::from(part) / u128::from(whole);
    if part == whole { "100 %".to_owned() } else { format!("{}.{} %", percent / 10, percent % 10) }
}

/// In the two largest units: seconds that run draw the eye for nothing.
fn uptime(span: Duration) -> String {
    let (minutes, hours, days) = (span.as_secs() / 60, span.as_secs() / 3600, span.as_secs() / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => "less than a minute".to_owned(),
        (0, 0, _) => format!("{minutes} min"),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// The time of day, UTC.
fn clock(at: SystemTime) -> String {
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() % 86400;
    format!("{:02}:{:02}:{:02} UTC", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn short(url: &str) -> String {
    match url.char_indices().nth(URL_CHARS) {
        Some((end, _)) => format!("{}…", &url[..end]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_asked_for_is_escaped() {
        let url = "http://x.com/<script>\"'&".to_owned();
        let at = SystemTime::UNIX_EPOCH;
        let (took, hops) = (Duration::ZERO, Vec::new());
        let search = Search { url: url.clone(), at, took, level: None, found: 0, hops };
        for written in [popular(&[Popular { url, requests: 3 }]), searches(&[search], NodeId::hash(&[]))] {
            let written = written.into_string();
            assert!(written.contains("http://x.com/&lt;script&gt;&quot;'&amp;"), "{written}");
            assert!(!written.contains("<script"), "{written}");
        }
    }

    #[test]
    fn figures_are_short_and_never_more_than_they_are() {
        assert_eq!([0.0, 0.25, 9.94, 10.4, 1234.5].map(rate), ["0", "0.2", "9.9", "10", "1234"]);
        assert_eq!(
            [(0, 0), (0, 5), (5, 5), (9_999, 10_000)].map(|(a, b)| share(a, b)),
            ["–", "0.0 %", "100 %", "99.9 %"]
        );
        let up = |seconds| uptime(Duration::from_secs(seconds));
        assert_eq!([59, 60, 3_700, 90_000].map(up), ["less than a minute", "1 min", "1 h 1 min", "1 d 1 h"]);
        assert_eq!(short(&"ä".repeat(100)).chars().count(), URL_CHARS + 1);
        assert_eq!(clock(SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 + 3_723)), "01:02:03 UTC");
    }
}
