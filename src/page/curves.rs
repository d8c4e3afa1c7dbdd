//! Requests of the last minutes as stacked areas, from this node's own store at the bottom to the origin at the top.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::TICK;
use super::pieces::rate;
use super::rates::{BINS, Rates, Source};

const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 150.0;

/// The picture and its scale. It is stretched to any width, so no text stands in it.
pub(super) fn curves(rates: &Rates) -> Markup {
    let bins: Vec<_> = rates.bins().collect();
    let most = bins.iter().map(|bin| bin.iter().sum::<u64>()).max().unwrap_or(0);
    let scale = HEIGHT / round_up(most) as f64;
    let minutes = BINS as u64 * TICK.as_secs() / 60;
    // The latest is at the right, however few there are.
    let x = |index: usize| (index + BINS - bins.len()) as f64 * WIDTH / (BINS - 1) as f64;
    let mut floor = vec![0; bins.len()];
    let areas = Source::ALL.map(|source| {
        let top: Vec<u64> = floor.iter().zip(&bins).map(|(floor, bin)| floor + bin[source as usize]).collect();
        let place = |index: usize, count: u64| (x(index), HEIGHT - count as f64 * scale);
        let back = floor.iter().enumerate().rev();
        let outline = top.iter().enumerate().chain(back).map(|(index, count)| place(index, *count));
        let path = path(outline);
        floor = top;
        (source, path)
    });
    let height = rate(round_up(most) as f64 / TICK.as_secs_f64());
    let peak = rate(most as f64 / TICK.as_secs_f64());
    html! {
        p.scale aria-hidden="true" { span { (height) "/s" } }
        svg.curves viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" role="img"
            aria-label={ "Requests of the last " (minutes) " minutes, at most " (peak) " per second" } {
            @for line in [0.25, 0.5, 0.75] {
                line.grid x1="0" x2=(WIDTH) y1=(HEIGHT * line) y2=(HEIGHT * line) {}
            }
            @for (source, path) in &areas {
                path class=(source.class()) d=(path) {}
            }
            line.base x1="0" x2=(WIDTH) y1=(HEIGHT) y2=(HEIGHT) {}
        }
        p.scale aria-hidden="true" {
            span { (minutes) " minutes ago" } span { "now" }
        }
    }
}

/// Whole units: a picture of two thousand points is sent every few seconds.
fn path(outline: impl Iterator<Item = (f64, f64)>) -> String {
    let mut path = String::new();
    for (x, y) in outline {
        let _ = write!(path, "{}{x:.0} {y:.0}", if path.is_empty() { 'M' } else { 'L' });
    }
    path
}

/// The next of 2, 4, 10, 20, 40, 100, …: so that the scale does not change all the time.
fn round_up(most: u64) -> u64 {
    let mut step = 1;
    loop {
        for top in [2, 4, 10].map(|factor| step * factor) {
            if top >= most {
                return top;
            }
        }
        let Some(next) = step.checked_mul(10).filter(|step| step.checked_mul(10).is_some()) else {
            return most;
        };
        step = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_is_round_and_never_too_small() {
        assert_eq!([0, 1, 3, 5, 10, 11, 399, 401].map(round_up), [2, 2, 4, 10, 10, 20, 400, 1000]);
        assert_eq!(round_up(u64::MAX), u64::MAX);
    }

    #[test]
    fn nothing_to_show_is_a_picture_too() {
        let empty = curves(&Rates::default()).into_string();
        assert!(empty.contains("at most 0 per second") && !empty.contains("NaN"), "{empty}");
    }
}
