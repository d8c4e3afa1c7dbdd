//! A chart of lines as SVG: axes, grid, legend, nothing else. Written by hand, as it is a few elements.

use std::fmt::Write as _;

/// Lines over one pair of axes.
#[derive(Debug, Default)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) series: Vec<Series>,
}

/// What is along one side.
#[derive(Debug, Default)]
pub(super) struct Axis {
    pub(super) label: &'static str,
    /// Equal steps are equal factors; points at zero or below are then left out.
    pub(super) is_log: bool,
}

/// One line.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
    /// A bound or an aim, which nobody measured.
    pub(super) is_dashed: bool,
}

impl Series {
    pub(super) fn new(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), points, is_dashed: false }
    }

    pub(super) fn dashed(self) -> Self {
        Self { is_dashed: true, ..self }
    }
}

impl Axis {
    pub(super) fn linear(label: &'static str) -> Self {
        Self { label, is_log: false }
    }

    pub(super) fn log(label: &'static str) -> Self {
        Self { label, is_log: true }
    }
}

impl Chart {
    /// The chart as a document of its own.
    pub(super) fn svg(&self) -> String {
        let all = || self.series.iter().flat_map(|series| &series.points);
        let x = Scale::new(&self.x, all().map(|(x, _)| *x), LEFT, LEFT + PLOT_WIDTH);
        let y = Scale::new(&self.y, all().map(|(_, y)| *y), TOP + PLOT_HEIGHT, TOP);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
             height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
        );
        text(&mut out, (LEFT, 28.0), "start", 16, &self.title);
        for tick in &x.ticks {
            let at = x.place(*tick);
            line(&mut out, (at, TOP), (at, TOP + PLOT_HEIGHT), "#e4e4e4");
            text(&mut out, (at, TOP + PLOT_HEIGHT + 18.0), "middle", 12, &number(*tick));
        }
        for tick in &y.ticks {
            let at = y.place(*tick);
            line(&mut out, (LEFT, at), (LEFT + PLOT_WIDTH, at), "#e4e4e4");
            text(&mut out, (LEFT - 8.0, at + 4.0), "end", 12, &number(*tick));
        }
        line(&mut out, (LEFT, TOP + PLOT_HEIGHT), (LEFT + PLOT_WIDTH, TOP + PLOT_HEIGHT), "#222");
        line(&mut out, (LEFT, TOP), (LEFT, TOP + PLOT_HEIGHT), "#222");
        text(&mut out, (LEFT + PLOT_WIDTH / 2.0, HEIGHT - 14.0), "middle", 13, self.x.label);
        let _ = writeln!(
            out,
            "<text transform=\"translate(20 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            TOP + PLOT_HEIGHT / 2.0,
            escaped(self.y.label)
        );
        for (index, series) in self.series.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let dash = if series.is_dashed { " stroke-dasharray=\"6 4\"" } else { "" };
            let can_be_drawn = |(a, b): &&(f64, f64)| x.has(*a) && y.has(*b);
            let places: Vec<String> = (series.points.iter().filter(can_be_drawn))
                .map(|(a, b)| format!("{:.1},{:.1}", x.place(*a), y.place(*b)))
                .collect();
            let _ = writeln!(
                out,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>",
                places.join(" ")
            );
            if places.len() <= MARKED && !series.is_dashed {
                for (cx, cy) in places.iter().filter_map(|place| place.split_once(',')) {
                    let _ = writeln!(out, "<circle cx=\"{cx}\" cy=\"{cy}\" r=\"3\" fill=\"{colour}\"/>");
                }
            }
            let (left, at) = (LEFT + PLOT_WIDTH + 16.0, TOP + 10.0 + 20.0 * index as f64);
            let _ = writeln!(out, "<path d=\"M{left:.1} {at:.1}h22\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>");
            text(&mut out, (left + 28.0, at + 4.0), "start", 12, &series.name);
        }
        out + "</svg>\n"
    }
}

/// From figures to places along an axis.
struct Scale {
    is_log: bool,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    ticks: Vec<f64>,
}

impl Scale {
    fn new(axis: &Axis, figures: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let is_log = axis.is_log;
        let figures: Vec<f64> = figures.filter(|figure| figure.is_finite() && (!is_log || *figure > 0.0)).collect();
        let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
        let most = figures.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (least, most) = if figures.is_empty() { (1.0, 10.0) } else { (least, most) };
        let ticks = if is_log { log_ticks(least, most) } else { linear_ticks(least.min(0.0), most) };
        let (low, high) = (ticks[0], ticks[ticks.len() - 1]);
        Self { is_log, low, high, from, to, ticks }
    }

    fn has(&self, figure: f64) -> bool {
        figure.is_finite() && (!self.is_log || figure > 0.0)
    }

    fn place(&self, figure: f64) -> f64 {
        let on = |figure: f64| if self.is_log { figure.ln() } else { figure };
        let share = (on(figure) - on(self.low)) / (on(self.high) - on(self.low));
        self.from + share * (self.to - self.from)
    }
}

/// Steps of 1, 2 or 5 times a power of ten, about six of them, around all figures.
fn linear_ticks(least: f64, most: f64) -> Vec<f64> {
    let rough = ((most - least) / 6.0).max(1e-9);
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= rough);
    let step = step.unwrap_or(10.0 * power);
    let (first, last) = ((least / step).floor() as i64, (most / step).ceil() as i64);
    (first..=last.max(first + 1)).map(|number| number as f64 * step).collect()
}

/// Powers of ten around all figures; 2 and 5 of each as well where these are few.
fn log_ticks(least: f64, most: f64) -> Vec<f64> {
    let factors: &[f64] = if most / least < 200.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let (first, last) = (least.log10().floor() as i32, most.log10().ceil() as i32);
    let all: Vec<f64> = (first..=last.max(first + 1))
        .flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powi(power)))
        .collect();
    // No more than one beyond the figures on each side.
    let begin = all.iter().rposition(|tick| *tick <= least * 1.000_001).unwrap_or(0);
    let end = all.iter().position(|tick| *tick >= most * 0.999_999).unwrap_or(all.len() - 1);
    all[begin..=end.max(begin + 1).min(all.len() - 1)].to_vec()
}

fn number(figure: f64) -> String {
    if figure.abs() >= 10_000.0 && figure % 1000.0 == 0.0 {
        return format!("{}k", figure / 1000.0);
    }
    let text = format!("{figure:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn line(out: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64), colour: &str) {
    let _ = writeln!(out, "<path d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\" stroke=\"{colour}\"/>");
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, size: u32, words: &str) {
    let words = escaped(words);
    let _ =
        writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\">{words}</text>");
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 520.0;
const LEFT: f64 = 80.0;
const TOP: f64 = 50.0;
const PLOT_WIDTH: f64 = 620.0;
const PLOT_HEIGHT: f64 = 400.0;
/// Lines of so few points show each of them.
const MARKED: usize = 40;
/// Told apart by most people who see colours otherwise (Okabe and Ito).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_enclose_all_figures() {
        assert_eq!(linear_ticks(0.0, 11.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0]);
        assert_eq!(linear_ticks(0.0, 0.0), [0.0, 1e-9]);
        assert_eq!(log_ticks(3.0, 40.0), [2.0, 5.0, 10.0, 20.0, 50.0]);
        assert_eq!(log_ticks(1.0, 10_000.0), [1.0, 10.0, 100.0, 1000.0, 10_000.0]);
        assert_eq!(log_ticks(10.0, 10.0), [10.0, 20.0]);
    }

    #[test]
    fn a_chart_names_what_it_shows_and_leaves_out_what_cannot_be_drawn() {
        let chart = Chart {
            title: "a < b".to_owned(),
            x: Axis::log("nodes"),
            y: Axis::linear("hops"),
            series: vec![
                Series::new("measured", vec![(0.0, 1.0), (100.0, 2.0), (1000.0, 3.0), (2000.0, f64::NAN)]),
                Series::new("bound", vec![(100.0, 4.0)]).dashed(),
            ],
        };
        let svg = chart.svg();
        for words in ["a &lt; b", ">nodes<", ">hops<", ">measured<", ">bound<"] {
            assert!(svg.contains(words), "{words} is not in {svg}");
        }
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
