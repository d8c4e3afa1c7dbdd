//! A page's requests over time, as SVG: a bar for each, in the colour of where the answer came from.

use std::fmt::Write as _;
use std::time::Duration;

use super::netlog::Exchange;
use crate::dns::CORALIZED;
use crate::map::Map;

const WIDTH: f64 = 960.0;
const ROW: f64 = 24.0;
/// Where the bars begin; names are left of it.
const LEFT: f64 = 190.0;
/// Room right of the bars.
const RIGHT: f64 = 170.0;
const TOP: f64 = 46.0;

/// Sources in the order of the legend, with their colours: the nearer, the cooler.
const COLOURS: [(&str, &str); 6] = [
    ("local", "#2a9d8f"),
    ("L2", "#52b788"),
    ("L1", "#e9c46a"),
    ("L0", "#f4a261"),
    ("origin", "#d1495b"),
    ("other", "#8d99ae"),
];

/// The waterfall. The pale part of a bar is the wait for the first byte.
pub(super) fn svg(map: &Map, exchanges: &[Exchange]) -> String {
    let begun = exchanges.iter().map(|exchange| exchange.begun).min().unwrap_or_default();
    let end = |exchange: &Exchange| exchange.ended.or(exchange.first_byte).unwrap_or(exchange.begun);
    let longest = exchanges.iter().map(|exchange| end(exchange).saturating_sub(begun)).max().unwrap_or_default();
    let scale = (WIDTH - LEFT - RIGHT) / longest.as_secs_f64().max(0.001);
    let x = |at: Duration| LEFT + at.saturating_sub(begun).as_secs_f64() * scale;
    let height = TOP + ROW * exchanges.len() as f64 + 10.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for (number, (source, colour)) in COLOURS.iter().enumerate() {
        let at = LEFT + 80.0 * number as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{at}\" y=\"6\" width=\"12\" height=\"12\" fill=\"{colour}\"/><text x=\"{}\" y=\"16\">{source}</text>",
            at + 17.0
        );
    }
    let step = tick(longest);
    for number in 0..=(longest.as_millis() / step.as_millis()) as u32 {
        let at = x(begun + step * number);
        let label = format!("{} ms", (step * number).as_millis());
        let _ = writeln!(
            svg,
            "<path d=\"M{at:.1} {TOP}V{height}\" stroke=\"#ddd\"/><text x=\"{at:.1}\" y=\"{}\" fill=\"#666\">{label}</text>",
            TOP - 6.0
        );
    }
    for (number, exchange) in exchanges.iter().enumerate() {
        let y = TOP + ROW * number as f64 + 4.0;
        let source = exchange.source();
        let colour = COLOURS.iter().find(|(name, _)| *name == source).map_or("#8d99ae", |(_, colour)| colour);
        let (from, first, to) = (x(exchange.begun), x(exchange.first_byte.unwrap_or(end(exchange))), x(end(exchange)));
        let path = exchange.path_on(CORALIZED).unwrap_or(&exchange.url);
        let from_whom = match exchange.node(map) {
            Some(node) => format!("{source} · {node}"),
            None => source.to_owned(),
        };
        let _ = writeln!(
            svg,
            "<text x=\"4\" y=\"{text}\">{path}</text>\
             <rect x=\"{from:.1}\" y=\"{y}\" width=\"{wait:.1}\" height=\"16\" fill=\"{colour}\" fill-opacity=\"0.4\"/>\
             <rect x=\"{first:.1}\" y=\"{y}\" width=\"{rest:.1}\" height=\"16\" fill=\"{colour}\"/>\
             <text x=\"{after:.1}\" y=\"{text}\">{from_whom}</text>",
            text = y + 12.0,
            path = escaped(path),
            wait = first - from,
            rest = (to - first).max(1.0),
            after = to.max(first + 1.0) + 5.0,
            from_whom = escaped(&from_whom),
        );
    }
    svg + "</svg>\n"
}

/// A round step with at most eight of them in `longest`.
fn tick(longest: Duration) -> Duration {
    let mut step = Duration::from_millis(10);
    for factor in [2.0, 2.5, 2.0].into_iter().cycle() {
        if step * 8 >= longest {
            break;
        }
        step = step.mul_f64(factor);
    }
    step
}

/// A text between tags.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_has_a_bar_in_the_colour_of_its_source() {
        let ms = Duration::from_millis;
        let exchange = Exchange {
            url: "http://www.x.com.nyud.net/a<b".to_owned(),
            begun: ms(1000),
            first_byte: Some(ms(1100)),
            ended: Some(ms(1400)),
            cache_status: Some("coral; hit".to_owned()),
            ..Exchange::default()
        };
        let drawn = svg(&Map::four_regions(), &[exchange]);
        assert!(drawn.contains("/a&lt;b") && drawn.contains(">local<"), "{drawn}");
        // 100 of 400 ms are a quarter of the 600 between the margins.
        assert!(drawn.contains("width=\"150.0\" height=\"16\" fill=\"#2a9d8f\" fill-opacity"), "{drawn}");
        assert!(svg(&Map::four_regions(), &[]).ends_with("</svg>\n"));
    }

    #[test]
    fn ticks_are_round_and_few() {
        let tick = |ms| tick(Duration::from_millis(ms)).as_millis();
        assert_eq!([tick(0), tick(80), tick(81), tick(1000), tick(3500)], [10, 10, 20, 200, 500]);
    }
}
