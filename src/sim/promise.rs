//! What the index promises, as bounds on the figures that an experiment sums up.

use super::Experiment;
use crate::report::Row;

/// The bound of one figure.
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

use Bound::{AtLeast, AtMost};

/// The figures with a bound. Those of the clusters, of attacks and of memory are measured, not promised.
fn promises(experiment: Experiment) -> &'static [(&'static str, Bound)] {
    match experiment {
        // β · ⌈log2 n⌉ in the mean over keys [C04 §4.2], half more for the worst key.
        Experiment::Hotspot => {
            &[("closest_mean_of_bound_at_most", AtMost(1.0)), ("closest_max_of_bound_at_most", AtMost(1.5))]
        }
        // The paper's own ratio, 0.79 to 0.31 s [C04 fig. 6].
        Experiment::Latency => &[("ratio_of_medians_uniform", AtLeast(2.5)), ("ratio_of_medians_zipf", AtLeast(2.5))],
        Experiment::Hops => &[("hops_of_aim_at_most", AtMost(1.0))],
        Experiment::Failures => &[("failed_gets", AtMost(0.0)), ("p99_ratio", AtMost(2.0))],
        Experiment::Flash => &[("origin_claims_per_key", AtMost(1.0))],
        Experiment::Clusters | Experiment::Attack | Experiment::Memory => &[],
    }
}

/// The promises that `summary` does not keep, in words.
pub(super) fn broken(experiment: Experiment, summary: &Row) -> Vec<String> {
    let mut broken = Vec::new();
    for (name, bound) in promises(experiment) {
        let figure = summary.iter().find(|(other, _)| other == name).and_then(|(_, value)| value.as_f64());
        let (is_kept, words) = match bound {
            AtMost(most) => (figure.is_some_and(|figure| figure <= *most), format!("{most} at most")),
            AtLeast(least) => (figure.is_some_and(|figure| figure >= *least), format!("{least} at least")),
        };
        if !is_kept {
            let figure = figure.map_or("missing".into(), |figure| figure.to_string());
            broken.push(format!("{} is {figure}, and should be {words}", name.replace('_', " ")));
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_broken_promise_is_said_in_words() {
        let kept = vec![("failed_gets", json!(0)), ("p99_ratio", json!(1.2))];
        assert_eq!(broken(Experiment::Failures, &kept), Vec::<String>::new());
        let late = vec![("failed_gets", json!(0)), ("p99_ratio", json!(2.3))];
        assert_eq!(broken(Experiment::Failures, &late), ["p99 ratio is 2.3, and should be 2 at most"]);
        assert_eq!(broken(Experiment::Hops, &vec![]), ["hops of aim at most is missing, and should be 1 at most"]);
    }
}
