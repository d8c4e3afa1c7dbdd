//! The node's clusters as a picture: itself in the middle, each node in reach as far out as its round-trip time says, and a ring
//! for each level. Inside a ring are those who answer within the level's diameter.

use std::time::Duration;

use coral_dsht::{Level, Neighbour, Snapshot};
use maud::{Markup, html};

use super::pieces::diameter_of;
use crate::tables::brief;

/// Half of the picture's side.
const HALF: f64 = 200.0;
/// Where the outermost ring is.
const EDGE: f64 = 184.0;
/// So near to the middle nobody is drawn: the node itself is there.
const CORE: f64 = 26.0;
/// What counts as no time at all, in milliseconds.
const LEAST_MS: f64 = 0.1;
/// How much longer than the widest diameter an answer may take until it is drawn at the edge.
const BEYOND: f64 = 8.0;
/// Nodes that are drawn, the nearest first.
const MOST: usize = 300;

/// The picture; a table beside it says the same.
pub(super) fn rings(snapshot: &Snapshot) -> Markup {
    // From the nearest level outwards.
    let diameters: Vec<(Level, Option<Duration>)> =
        snapshot.clusters.iter().rev().map(|cluster| (cluster.level, cluster.diameter)).collect();
    let bounds: Vec<f64> = diameters.iter().filter_map(|(_, diameter)| diameter.map(millis)).collect();
    let ring = |index: usize| CORE + (EDGE - CORE) * (index + 1) as f64 / diameters.len().max(1) as f64;
    let near = snapshot.neighbours.iter().filter(|neighbour| neighbour.level != Level::GLOBAL).count();
    let all = snapshot.neighbours.len();
    let left_out = if all > MOST { format!("; the nearest {MOST} are drawn") } else { String::new() };
    let label = format!(
        "This node in the middle of {all} others, {near} of which are in its clusters; the farther out, the longer the round trip{left_out}"
    );
    html! {
        svg.rings viewBox={ (-HALF) " " (-HALF) " " (2.0 * HALF) " " (2.0 * HALF) } role="img" aria-label=(label) {
            @for (index, (level, _)) in diameters.iter().enumerate().rev() {
                circle.ring.{ "l" (level.number()) } r=(round(ring(index))) {}
            }
            @for neighbour in snapshot.neighbours.iter().take(MOST) {
                (dot(neighbour, radius(millis(neighbour.rtt), &bounds, &ring)))
            }
            @for (index, (level, diameter)) in diameters.iter().enumerate() {
                text.ring-name y=(round(14.0 - ring(index))) {
                    (level)
                    @match diameter {
                        Some(diameter) => { " < " (diameter_of(*diameter)) },
                        None => " everyone",
                    }
                }
            }
            circle.me r="9" { title { "this node" } }
        }
    }
}

/// The picture as a document by itself.
pub(crate) fn rings_alone(snapshot: &Snapshot) -> String {
    let side = 2.0 * HALF;
    let document = html! {
        svg xmlns="http://www.w3.org/2000/svg" viewBox={ "0 0 " (side) " " (side) } width=(2.0 * side) height=(2.0 * side) {
            style { (ALONE) }
            rect.paper width=(side) height=(side) {}
            (rings(snapshot))
        }
    };
    document.into_string()
}

/// What the page's style sheet says of it, for both themes.
const ALONE: &str = ":root{--p:#fff;--s:#566270;--a:#b93a2c;--l2:#0c8f80;--l1:#4f74cf;--l0:#9160b5;color-scheme:light dark}\
@media(prefers-color-scheme:dark){:root{--p:#19212a;--s:#a3b0bd;--a:#ff8a78;--l2:#35c9b1;--l1:#8fabff;--l0:#c79ff0}}\
text{font:11.5px sans-serif;fill:var(--s);text-anchor:middle;stroke:var(--p);stroke-width:4px;paint-order:stroke}.paper{fill:var(--p)}\
.ring{fill:var(--l2);fill-opacity:.09;stroke:var(--s);stroke-opacity:.45}.ring.l1{fill:var(--l1)}.ring.l0{fill:var(--l0)}\
.dot{fill:var(--l2);stroke:var(--p);stroke-width:1.5px}.dot.l1{fill:var(--l1)}.dot.l0{fill:var(--l0)}.me{fill:var(--a)}";

/// A neighbour at its place: the angle is of its id, so that it stays where it is. Levels differ in shape and colour.
fn dot(neighbour: &Neighbour, radius: f64) -> Markup {
    let Neighbour { peer, rtt, level, .. } = neighbour;
    let digits = u32::from_str_radix(&format!("{:?}", peer.id), 16).unwrap_or_default();
    let angle = f64::from(digits) / f64::from(u32::MAX) * std::f64::consts::TAU;
    let (x, y) = (round(radius * angle.cos()), round(radius * angle.sin()));
    let class = format!("dot l{}", level.number());
    html! {
        g class=(class) transform={ "translate(" (x) " " (y) ")" } {
            @match level.number() {
                0 => path d="M0 -7L6.5 5L-6.5 5Z" {},
                1 => rect x="-5" y="-5" width="10" height="10" rx="1.5" {},
                _ => circle r="6" {},
            }
            title { (format!("{:?}", peer.id)) ", " (level) ", " (brief(*rtt)) }
        }
    }
}

/// How far out a round trip is drawn: within the ring of the first diameter that it stays below, by its logarithm.
fn radius(rtt: f64, bounds: &[f64], ring: &impl Fn(usize) -> f64) -> f64 {
    let index = bounds.iter().position(|bound| rtt < *bound).unwrap_or(bounds.len());
    let inner = index.checked_sub(1).map(|below| (bounds[below], ring(below)));
    let (from, start) = inner.unwrap_or((LEAST_MS, CORE));
    let to = bounds.get(index).copied().unwrap_or(from.max(LEAST_MS) * BEYOND);
    let part = (rtt.max(LEAST_MS) / from.max(LEAST_MS)).ln() / (to.max(LEAST_MS) / from.max(LEAST_MS)).ln();
    // Off the rings, so that each stands on the side of them that it belongs to.
    let margin = 9.0;
    let (inside, outside) = (start + margin, ring(index) - margin);
    // A diameter of nothing has no logarithm.
    if part.is_finite() { inside + (outside - inside) * part.clamp(0.0, 1.0) } else { inside }
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}

/// To a tenth: smaller steps cannot be seen, and each change is sent.
fn round(length: f64) -> f64 {
    (length * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbour_stands_within_the_ring_of_its_round_trip_time_and_farther_out_the_longer_it_is() {
        let ring = |index: usize| 100.0 * (index + 1) as f64;
        let at = |rtt: f64| radius(rtt, &[20.0, 60.0], &ring);
        for (rtt, ring) in [(0.0, 0), (0.3, 0), (19.9, 0), (20.0, 1), (59.0, 1), (60.0, 2), (300.0, 2), (1e9, 2)] {
            let (from, to) = (if ring == 0 { CORE } else { 100.0 * f64::from(ring) }, 100.0 * f64::from(ring + 1));
            assert!((from..to).contains(&at(rtt)), "{rtt} at {}", at(rtt));
        }
        assert!(at(0.3) < at(3.0) && at(30.0) < at(50.0) && at(70.0) < at(200.0));
        // No diameter, and one that is nothing.
        assert!(radius(5.0, &[], &ring).is_finite() && radius(0.0, &[0.0], &ring).is_finite());
    }
}
