//! What the clients saw, act by act: figures, picture, and what of it breaks a promise.

use std::collections::BTreeMap;
use std::time::Duration;

use coral::chart::{Axis, Chart, Series};
use coral::outcome::Outcome;
use coral::report::{Report, Row, Times, ms};
use serde_json::json;

use super::super::stage::Findings;
use super::ledger::Ledger;
use super::load::Sample;
use super::{Act, FOUND};

/// All that happened.
#[derive(Debug)]
pub(super) struct Played {
    pub(super) network: String,
    pub(super) acts: Vec<Act>,
    /// Of the clients during the acts.
    pub(super) samples: Vec<Sample>,
    /// Of the searches at the end.
    pub(super) everything: Vec<Sample>,
    /// Objects that were there to be found then.
    pub(super) objects: usize,
    /// Requests that the origin was sent for them.
    pub(super) asked: u64,
}

/// Figures, picture and verdict.
pub(super) fn findings(played: &Played, ledger: &Ledger) -> Findings {
    let events: Vec<Duration> = played.acts.iter().flat_map(|act| &act.events).map(|(at, _)| *at).collect();
    let mut rows = Vec::new();
    for act in &played.acts {
        let stretches = [("before", act.begun, act.from), ("during", act.from, act.to), ("after", act.to, act.ended)];
        for (name, from, to) in stretches {
            let own: Vec<&Sample> = played.samples.iter().filter(|sample| stretch(act, sample) == Some(name)).collect();
            rows.push(row(act.name, name, to - from, &own));
        }
    }
    let everything: Vec<&Sample> = played.everything.iter().collect();
    let length = everything.iter().map(|sample| sample.ended).max().unwrap_or_default()
        - everything.iter().map(|sample| sample.begun).min().unwrap_or_default();
    rows.push(row("at the end", "everything", length, &everything));

    let mut broken = Vec::new();
    let unexcused: Vec<String> = (played.samples.iter().chain(&played.everything))
        .filter_map(|sample| {
            let error = sample.answer.as_ref().err()?;
            let is_promised = ledger.excuse(sample.node, sample.begun, sample.ended).is_none();
            is_promised.then(|| format!("after {:.1} s a client met: {}", sample.ended.as_secs_f64(), error.text))
        })
        .collect();
    tell(&mut broken, &unexcused, "clients met an error, though their node and the origin were there");
    let late: Vec<String> = (played.samples.iter())
        .filter(|sample| sample.is_missed() && sample.answer.is_ok())
        .filter(|sample| !events.iter().any(|event| (*event..*event + FOUND).contains(&sample.begun)))
        .map(|sample| {
            format!("after {:.1} s the origin was asked for what a live node held", sample.begun.as_secs_f64())
        })
        .collect();
    tell(&mut broken, &late, "searches asked the origin, long after any disturbance");
    let missed = played.everything.iter().filter(|sample| sample.is_missed()).count();
    if missed > 0 {
        broken.push(format!("at the end {missed} of {} searches did not find what a live node held", everything.len()));
    }
    if played.asked > 0 {
        broken.push(format!("at the end the origin was asked {} times for what nodes held", played.asked));
    }
    for act in &played.acts {
        if let Err(why) = &act.whole {
            broken.push(format!("{}: {why}", act.name));
        }
    }
    let title = format!("loss: what clients saw, {}", played.network);
    let chart = chart(&title, played);
    Findings { report: Report { title, rows, summary: summary(played, unexcused.len(), missed), chart }, broken }
}

fn summary(played: &Played, unexcused: usize, missed: usize) -> Row {
    let errors = played.samples.iter().filter(|sample| sample.answer.is_err()).count();
    let mut summary = vec![
        ("requests", json!(played.samples.len())),
        ("errors", json!(errors)),
        ("errors_that_break_a_promise", json!(unexcused)),
        ("objects_at_the_end", json!(played.objects)),
        ("searches_at_the_end", json!(played.everything.len())),
        ("missed_at_the_end", json!(missed)),
        ("origin_asked_at_the_end", json!(played.asked)),
    ];
    let found = ["killed_found_again_s", "cut_found_again_s", "restarted_found_again_s"];
    let whole = ["killed_whole_again_s", "cut_whole_again_s", "restarted_whole_again_s"];
    let next = played.acts.iter().skip(1).map(|act| act.from).chain([Duration::MAX]);
    for (((act, next), found), whole) in played.acts.iter().zip(next).zip(found).zip(whole) {
        let tenths = |time: Duration| json!((time.as_secs_f64() * 10.0).round() / 10.0);
        summary.push((found, tenths(found_again(act.to, next, &played.samples))));
        summary.push((whole, act.whole.as_ref().map_or(json!(null), |took| tenths(*took))));
    }
    summary.push(("network", json!(played.network)));
    summary
}

/// How long after `end`, when a disturbance was over, the last search ended that missed, if it began before the `next`; zero if none did.
fn found_again(end: Duration, next: Duration, samples: &[Sample]) -> Duration {
    let missed = samples.iter().filter(|sample| sample.is_missed() && (end..next).contains(&sample.begun));
    missed.map(|sample| sample.ended).max().map_or(Duration::ZERO, |last| last - end)
}

/// Which stretch of an act a request belongs to: whatever has to do with the disturbance is of that.
fn stretch(act: &Act, sample: &Sample) -> Option<&'static str> {
    if sample.begun < act.begun || sample.begun >= act.ended {
        None
    } else if sample.ended < act.from {
        Some("before")
    } else if sample.begun < act.to {
        Some("during")
    } else {
        Some("after")
    }
}

fn row(act: &str, stretch: &str, length: Duration, samples: &[&Sample]) -> Row {
    let answers = || samples.iter().filter_map(|sample| Some((sample.answer.as_ref().ok()?, *sample)));
    let times = Times::of(answers().map(|(_, sample)| sample.took()));
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for error in samples.iter().filter_map(|sample| sample.answer.as_ref().err()) {
        *kinds.entry(&error.kind).or_default() += 1;
    }
    let errors: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} × {kind}")).collect();
    let count = |holds: &dyn Fn(&Sample) -> bool| samples.iter().filter(|sample| holds(sample)).count();
    vec![
        ("act", json!(act)),
        ("stretch", json!(stretch)),
        ("seconds", json!(length.as_secs_f64().round())),
        ("requests", json!(samples.len())),
        ("turned_to_the_next_node", json!(count(&|sample| sample.turned > 0))),
        ("errors", json!(if errors.is_empty() { "0".to_owned() } else { errors.join(", ") })),
        ("held_by_others", json!(count(&|sample| sample.is_search))),
        ("not_found_there", json!(count(&Sample::is_missed))),
        ("from_the_origin", json!(answers().filter(|(outcome, _)| **outcome == Outcome::Origin).count())),
        ("median_ms", json!(ms(times.percentile(50.0)))),
        ("p96_ms", json!(ms(times.percentile(96.0)))),
        ("most_ms", json!(ms(times.percentile(100.0)))),
    ]
}

/// Latency and errors over time.
fn chart(title: &str, played: &Played) -> Chart {
    let mut bins: BTreeMap<u64, Vec<Duration>> = BTreeMap::new();
    for sample in played.samples.iter().filter(|sample| sample.answer.is_ok()) {
        bins.entry(sample.begun.as_secs() / BIN).or_default().push(sample.took());
    }
    let line = |name: &str, percent: f64| {
        let point = |(bin, times): (&u64, &Vec<Duration>)| {
            let at = (*bin * BIN) as f64 + BIN as f64 / 2.0;
            (at, ms(Times::of(times.iter().copied()).percentile(percent)))
        };
        Series::new(name, bins.iter().map(point).collect())
    };
    let dots = |name: &str, holds: &dyn Fn(&Sample) -> bool| {
        let some = played.samples.iter().filter(|sample| holds(sample));
        Series::new(name, some.map(|sample| (sample.begun.as_secs_f64(), ms(sample.took()).max(1.0))).collect()).dots()
    };
    let mut series = vec![
        line("median", 50.0),
        dots("error", &|sample| sample.answer.is_err()),
        line("96th percentile", 96.0),
        dots("origin asked in vain", &|sample| sample.is_missed() && sample.answer.is_ok()),
    ];
    let events = played.acts.iter().flat_map(|act| &act.events);
    series.extend(events.map(|(at, what)| Series::event(what, at.as_secs_f64())));
    Chart {
        title: title.to_owned(),
        x: Axis::linear("seconds since the start of the load"),
        y: Axis::log("milliseconds until the last byte, or the error"),
        series,
    }
}

/// The first few of them, and how many there are.
fn tell(broken: &mut Vec<String>, all: &[String], what: &str) {
    broken.extend(all.iter().take(TOLD).cloned());
    if all.len() > TOLD {
        broken.push(format!("{} {what}", all.len()));
    }
}

/// Seconds of which the median is one point of the picture.
const BIN: u64 = 2;
/// Told one by one.
const TOLD: usize = 5;

#[cfg(test)]
mod tests {
    use super::super::load::Error;
    use super::*;
    use crate::map::Map;

    fn sample(begun: u64, ended: u64, answer: Result<Outcome, &str>) -> Sample {
        let answer = answer.map_err(|kind| Error { kind: kind.to_owned(), text: kind.to_owned() });
        let (begun, ended) = (Duration::from_secs(begun), Duration::from_secs(ended));
        Sample { node: 1, begun, ended, turned: 0, is_search: true, answer }
    }

    fn act() -> Act {
        let seconds = Duration::from_secs;
        let events = vec![(seconds(10), "gone".to_owned()), (seconds(20), "back".to_owned())];
        let whole = Ok(seconds(1));
        Act { name: "act", begun: seconds(0), from: seconds(10), to: seconds(20), ended: seconds(200), events, whole }
    }

    fn found(samples: Vec<Sample>, everything: Vec<Sample>, asked: u64) -> Findings {
        let network = "test".to_owned();
        let played = Played { network, acts: vec![act()], samples, everything, objects: 1, asked };
        findings(&played, &Ledger::new(&Map::four_regions()))
    }

    #[test]
    fn a_request_belongs_to_the_disturbance_that_it_meets() {
        let of = |begun, ended| stretch(&act(), &sample(begun, ended, Ok(Outcome::Local)));
        assert_eq!(
            [of(1, 2), of(9, 11), of(19, 21), of(21, 22), of(300, 301)],
            [Some("before"), Some("during"), Some("during"), Some("after"), None]
        );
    }

    #[test]
    fn errors_without_excuse_and_late_misses_break_a_promise() {
        let fine = || sample(5, 6, Ok(Outcome::Peer(2)));
        assert_eq!(found(vec![fine()], vec![fine()], 0).broken, [""; 0]);
        assert_eq!(found(vec![fine(), sample(12, 13, Err("502"))], vec![], 0).broken.len(), 1);
        // Soon after a disturbance the index may not know better; long after it does.
        assert_eq!(found(vec![sample(30, 31, Ok(Outcome::Origin))], vec![], 0).broken, [""; 0]);
        assert_eq!(found(vec![sample(130, 131, Ok(Outcome::Origin))], vec![], 0).broken.len(), 1);
        assert_eq!(found(vec![], vec![sample(300, 301, Ok(Outcome::Origin))], 1).broken.len(), 2);
    }

    #[test]
    fn errors_are_counted_by_kind() {
        let samples = [sample(1, 2, Err("502")), sample(1, 2, Err("502")), sample(1, 2, Err("late"))];
        let row = row("act", "during", Duration::from_secs(10), &samples.iter().collect::<Vec<_>>());
        assert!(row.contains(&("errors", json!("2 × 502, 1 × late"))), "{row:?}");
    }
}
