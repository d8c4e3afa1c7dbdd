//! What an experiment has found: rows for people and programs, a summary, a chart. Those in the simulator and those in the testbed
//! report alike.

use std::time::Duration;

use comfy_table::ContentArrangement;
use serde_json::{Map, Value as Json, json};

use crate::chart::Chart;
use crate::tables::{table, titled};

/// The figures of one experiment.
#[derive(Debug)]
pub struct Report {
    /// What was done.
    pub title: String,
    /// Each with the same columns.
    pub rows: Vec<Row>,
    /// The figures that count.
    pub summary: Row,
    /// The picture of it.
    pub chart: Chart,
}

/// Named figures in the order in which they are shown. What is no number, word or truth value is for programs only.
pub type Row = Vec<(&'static str, Json)>;

impl Report {
    /// As tables.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (title, rows) in [(self.title.as_str(), &self.rows[..]), ("in short", std::slice::from_ref(&self.summary))]
        {
            let Some(first) = rows.first() else { continue };
            let names: Vec<&str> = first.iter().filter(|(_, value)| is_shown(value)).map(|(name, _)| *name).collect();
            let words: Vec<String> = names.iter().map(|name| name.replace('_', " ")).collect();
            let of = |row: &Row, name: &str| {
                row.iter().find(|(other, _)| *other == name).map_or_else(String::new, |(_, value)| shown(value))
            };
            let table = if names.len() > WIDE && rows.len() <= WIDE / 2 {
                // Many figures of few cases: a line for each figure.
                let mut table = table(&["", "", "", "", "", ""][..=rows.len()], &[1, 2, 3, 4, 5]);
                for (name, words) in names.iter().zip(&words) {
                    table.add_row([words.clone()].into_iter().chain(rows.iter().map(|row| of(row, name))));
                }
                table
            } else {
                let heads: Vec<&str> = words.iter().map(String::as_str).collect();
                let is_number = |name: &str| first.iter().any(|(other, value)| *other == name && !value.is_string());
                let numbers: Vec<usize> = (0..names.len()).filter(|index| is_number(names[*index])).collect();
                let mut table = table(&heads, &numbers);
                table.set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
                for row in rows {
                    table.add_row(names.iter().map(|name| of(row, name)));
                }
                table
            };
            text += &titled(title, &table);
        }
        text
    }

    /// As an object with `rows` and `summary`.
    pub fn json(&self) -> String {
        let object =
            |row: &Row| Json::Object(row.iter().cloned().map(|(name, value)| (name.to_owned(), value)).collect());
        let mut whole = Map::new();
        whole.insert("title".to_owned(), json!(self.title));
        whole.insert("rows".to_owned(), self.rows.iter().map(object).collect());
        whole.insert("summary".to_owned(), object(&self.summary));
        format!("{:#}\n", Json::Object(whole))
    }
}

/// Heads are broken into lines, so that a table fits into so many columns.
const WIDTH: u16 = 150;
/// A table of more columns than this is turned round, if it has few rows.
const WIDE: usize = 10;

fn is_shown(value: &Json) -> bool {
    !value.is_array() && !value.is_object()
}

fn shown(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        Json::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

/// Rounded to so many digits behind the point.
pub fn rounded(figure: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (figure * scale).round() / scale
}

/// In milliseconds, to a tenth.
pub fn ms(span: Duration) -> f64 {
    rounded(span.as_secs_f64() * 1000.0, 1)
}

/// In per cent, to a hundredth.
pub fn percent(part: usize, whole: usize) -> f64 {
    rounded(100.0 * part as f64 / whole.max(1) as f64, 2)
}

/// The mean, to a hundredth; 0 of nothing.
pub fn mean(figures: impl IntoIterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0);
    for figure in figures {
        sum += figure;
        count += 1;
    }
    rounded(sum / f64::from(count.max(1)), 2)
}

/// Spans of time, to be asked for percentiles.
#[derive(Debug, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// These.
    pub fn of(spans: impl IntoIterator<Item = Duration>) -> Self {
        let mut spans: Vec<Duration> = spans.into_iter().collect();
        spans.sort();
        Self(spans)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The span within which so many per cent lie, by the nearest rank; zero of nothing.
    pub fn percentile(&self, percent: f64) -> Duration {
        let rank = (self.0.len() as f64 * percent / 100.0).ceil() as usize;
        self.0.get(rank.max(1) - 1).copied().unwrap_or_default()
    }

    /// Points of the cumulative distribution: milliseconds, and the share in per cent that is within them.
    pub fn distribution(&self) -> Vec<(f64, f64)> {
        let steps = (1..=100).map(f64::from).chain([99.5, 99.9]);
        let mut points: Vec<(f64, f64)> = steps.map(|share| (ms(self.percentile(share)).max(0.1), share)).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        points
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chart::Chart;

    #[test]
    fn a_percentile_is_a_time_that_was_measured() {
        let times = Times::of((1..=200).rev().map(Duration::from_millis));
        assert_eq!(ms(times.percentile(50.0)), 100.0);
        assert_eq!(ms(times.percentile(99.0)), 198.0);
        assert_eq!(ms(times.percentile(100.0)), 200.0);
        assert_eq!(ms(Times::default().percentile(50.0)), 0.0);
    }

    #[test]
    fn a_report_is_a_table_and_json() {
        let report = Report {
            title: "what it is".to_owned(),
            rows: vec![vec![("nodes", json!(5)), ("curve", json!([1, 2])), ("who", json!("all"))]],
            summary: vec![("failed_gets", json!(0))],
            chart: Chart::default(),
        };
        let text = report.text();
        assert!(text.contains("failed gets") && text.contains("all") && !text.contains("curve"), "{text}");
        let json: Json = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["summary"]["failed_gets"], 0);
        assert_eq!(json["rows"][0]["curve"][1], 2);
    }
}
