//! A chart of lines or stacked areas as SVG: axes, grid, legend, nothing else. Written by hand, as it is a few elements.

use std::fmt::Write as _;

/// Lines and areas over one pair of axes.
#[derive(Debug, Default)]
pub struct Chart {
    /// What is above it.
    pub title: String,
    /// What is along its lower side.
    pub x: Axis,
    /// What is along its left side.
    pub y: Axis,
    /// In the order in which they are drawn.
    pub series: Vec<Series>,
}

/// What is along one side.
#[derive(Debug, Default)]
pub struct Axis {
    /// What is measured, and its unit.
    pub label: &'static str,
    /// Equal steps are equal factors; points at zero or below are then left out.
    pub is_log: bool,
}

/// One line or area.
#[derive(Debug)]
pub struct Series {
    /// What the legend calls it.
    pub name: String,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
    /// How it is drawn.
    pub shape: Shape,
}

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A line.
    Line,
    /// A bound or an aim, which nobody measured.
    Dashed,
    /// An area that stands on the areas before it, point by point.
    Area,
    /// Each point by itself.
    Dots,
    /// An event: an upright line at each point's place along the x axis, with the name beside it instead of in the legend.
    Event,
}

impl Series {
    /// A line.
    pub fn new(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), points, shape: Shape::Line }
    }

    /// The same as a bound or an aim.
    pub fn dashed(self) -> Self {
        Self { shape: Shape::Dashed, ..self }
    }

    /// The same as an area. All areas of a chart have their points at the same places along the x axis.
    pub fn area(self) -> Self {
        Self { shape: Shape::Area, ..self }
    }

    /// The same as single points.
    pub fn dots(self) -> Self {
        Self { shape: Shape::Dots, ..self }
    }

    /// Something that happened at `x`. Events come after all other series.
    pub fn event(name: impl Into<String>, x: f64) -> Self {
        // The height is none: it is as high as the chart.
        Self { name: name.into(), points: vec![(x, f64::NAN)], shape: Shape::Event }
    }
}

impl Axis {
    /// Equal steps are equal differences.
    pub fn linear(label: &'static str) -> Self {
        Self { label, is_log: false }
    }

    /// Equal steps are equal factors.
    pub fn log(label: &'static str) -> Self {
        Self { label, is_log: true }
    }
}

impl Chart {
    /// The chart as a document of its own.
    pub fn svg(&self) -> String {
        let stacked = self.stacked();
        let all = || stacked.iter().flat_map(|(_, points)| points);
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
        for (index, (series, (floor, points))) in self.series.iter().zip(&stacked).enumerate() {
            if series.shape == Shape::Event {
                for (at, _) in points.iter().filter(|(at, _)| x.has(*at)) {
                    event(&mut out, x.place(*at), &series.name);
                }
                continue;
            }
            let colour = COLOURS[index % COLOURS.len()];
            let dash = if series.shape == Shape::Dashed { " stroke-dasharray=\"6 4\"" } else { "" };
            let place = |(a, b): &(f64, f64)| format!("{:.1},{:.1}", x.place(*a), y.place(*b));
            let can_be_drawn = |(a, b): &&(f64, f64)| x.has(*a) && y.has(*b);
            let places: Vec<String> = points.iter().filter(can_be_drawn).map(place).collect();
            let (left, at) = (LEFT + PLOT_WIDTH + 16.0, TOP + 10.0 + 20.0 * self.row(index) as f64);
            if series.shape == Shape::Area {
                let back = floor.iter().rev().filter(can_be_drawn).map(place);
                let outline: Vec<String> = places.iter().cloned().chain(back).collect();
                let _ = writeln!(out, "<polygon points=\"{}\" fill=\"{colour}\"/>", outline.join(" "));
                let top = at - 6.0;
                let _ = writeln!(
                    out,
                    "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"22\" height=\"12\" fill=\"{colour}\"/>"
                );
            } else {
                let stroke = if series.shape == Shape::Dots { "none" } else { colour };
                let _ = writeln!(
                    out,
                    "<polyline points=\"{}\" fill=\"none\" stroke=\"{stroke}\" stroke-width=\"2\"{dash}/>",
                    places.join(" ")
                );
                let is_marked = places.len() <= MARKED && series.shape == Shape::Line;
                if is_marked || series.shape == Shape::Dots {
                    for (cx, cy) in places.iter().filter_map(|place| place.split_once(',')) {
                        let _ = writeln!(out, "<circle cx=\"{cx}\" cy=\"{cy}\" r=\"3\" fill=\"{colour}\"/>");
                    }
                }
                if series.shape == Shape::Dots {
                    let middle = left + 11.0;
                    let _ = writeln!(out, "<circle cx=\"{middle:.1}\" cy=\"{at:.1}\" r=\"3\" fill=\"{colour}\"/>");
                } else {
                    let _ = writeln!(
                        out,
                        "<path d=\"M{left:.1} {at:.1}h22\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>"
                    );
                }
            }
            text(&mut out, (left + 28.0, at + 4.0), "start", 12, &series.name);
        }
        out + "</svg>\n"
    }

    /// What each series stands on, and where its points are on top of that.
    fn stacked(&self) -> Vec<(Points, Points)> {
        let mut floor: Option<Points> = None;
        let all = self.series.iter().map(|series| {
            if series.shape != Shape::Area {
                return (Points::new(), series.points.clone());
            }
            let ground = floor.take().unwrap_or_else(|| series.points.iter().map(|(x, _)| (*x, 0.0)).collect());
            debug_assert!(
                ground.iter().map(|point| point.0).eq(series.points.iter().map(|point| point.0)),
                "areas stand on one another point by point"
            );
            let top: Points = series.points.iter().zip(&ground).map(|((x, y), (_, under))| (*x, y + under)).collect();
            floor = Some(top.clone());
            (ground, top)
        });
        all.collect()
    }

    /// The line of the legend that is for the series with this number: those that stand on others are above them.
    fn row(&self, index: usize) -> usize {
        let all_areas = self.series.iter().all(|series| series.shape == Shape::Area);
        if all_areas { self.series.len() - 1 - index } else { index }
    }
}

type Points = Vec<(f64, f64)>;

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

/// An upright line with its name along it.
fn event(out: &mut String, x: f64, words: &str) {
    let (bottom, beside, words) = (TOP + PLOT_HEIGHT, x - 4.0, escaped(words));
    let _ = writeln!(
        out,
        "<path d=\"M{x:.1} {TOP:.1}V{bottom:.1}\" stroke=\"#666\" stroke-dasharray=\"2 3\"/>\n\
         <text transform=\"translate({beside:.1} {TOP:.1}) rotate(-90)\" text-anchor=\"end\" font-size=\"11\" \
         fill=\"#666\">{words}</text>"
    );
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

    #[test]
    fn events_are_lines_with_names_and_dots_are_not_joined() {
        let series = vec![Series::new("errors", vec![(1.0, 5.0), (9.0, 7.0)]).dots(), Series::event("cut <off>", 4.0)];
        let svg = Chart { series, ..Chart::default() }.svg();
        // Two in the plot, one in the legend.
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(svg.contains("stroke=\"none\"") && svg.contains("rotate(-90)\" text-anchor=\"end\""), "{svg}");
        assert!(svg.contains(">cut &lt;off&gt;<") && !svg.contains("NaN"), "{svg}");
    }

    #[test]
    fn areas_stand_on_one_another() {
        let area = |name: &str, figures: [f64; 2]| Series::new(name, vec![(0.0, figures[0]), (1.0, figures[1])]).area();
        let chart = Chart { series: vec![area("lower", [1.0, 2.0]), area("upper", [3.0, 0.0])], ..Chart::default() };
        assert_eq!(chart.stacked()[1], (vec![(0.0, 1.0), (1.0, 2.0)], vec![(0.0, 4.0), (1.0, 2.0)]));
        assert_eq!((chart.row(0), chart.row(1)), (1, 0));
        // The axis reaches as far as the sum does.
        let svg = chart.svg();
        assert!(svg.contains(">4</text>") && svg.matches("<polygon").count() == 2, "{svg}");
    }
}
