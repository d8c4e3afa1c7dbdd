//! `coral top`: what a node does at this moment, in the terminal, drawn anew every two seconds.
//!
//! It reads the admin address, and understands what it reads as JSON, as the other commands do. Without a terminal, or with
//! `--once`, it prints one picture and ends.

use std::io::{self, Write as _};
use std::time::Duration;

use bytesize::ByteSize;
use console::Term;
use serde_json::Value as Json;

use crate::cli::TopArgs;
use crate::commands::{Signals, answer, runtime};
use crate::tables::{answered, items, level, short_id, span, word};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(2);

/// The width where there is no terminal.
const WIDTH: usize = 100;

/// The longest bar.
const BAR: usize = 30;

/// What the sources are called, in the order of the way.
const SOURCES: [(&str, &str); 5] =
    [("local", "this node"), ("l2", "nearby, L2"), ("l1", "region, L1"), ("l0", "far, L0"), ("origin", "origin")];

/// Runs until a signal, or until the node does not answer any more.
pub fn run(args: &TopArgs) -> anyhow::Result<bool> {
    runtime()?.block_on(async {
        let mut figures = answer(args.admin, "/figures").await?;
        let term = Term::stdout();
        if args.json {
            print!("{}", figures.text);
            return Ok(true);
        }
        if args.once || !term.is_term() {
            print!("{}", picture(&figures.json, WIDTH, usize::MAX));
            return Ok(true);
        }
        let mut signals = Signals::listen()?;
        let screen = Screen::enter()?;
        loop {
            let (height, width) = term.size();
            screen.draw(&picture(&figures.json, width.into(), height.into()))?;
            tokio::select! {
                _ = signals.next() => return Ok(true),
                () = tokio::time::sleep(EVERY) => {}
            }
            figures = answer(args.admin, "/figures").await?;
        }
    })
}

/// The terminal's other screen, without a cursor, until this is dropped.
struct Screen;

impl Screen {
    fn enter() -> io::Result<Self> {
        io::stdout().write_all(b"\x1b[?1049h\x1b[?25l")?;
        Ok(Self)
    }

    fn draw(&self, picture: &str) -> io::Result<()> {
        // Over what is there, each line to its end: a screen that is cleared first flickers.
        let mut out = "\x1b[H".to_owned();
        out += &picture.trim_end().replace('\n', "\x1b[K\n");
        out += "\x1b[K\x1b[J";
        io::stdout().write_all(out.as_bytes())?;
        io::stdout().flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = io::stdout().write_all(b"\x1b[?25h\x1b[?1049l");
        let _ = io::stdout().flush();
    }
}

/// The picture, cut to the terminal. Nothing in it can steer the terminal: what a client has asked for stands in it.
fn picture(figures: &Json, width: usize, height: usize) -> String {
    let visible = |char: char| if char.is_control() { '\u{fffd}' } else { char };
    let cut = |line: &str| line.chars().take(width).map(visible).collect::<String>() + "\n";
    whole(figures).lines().take(height).map(cut).collect()
}

fn whole(figures: &Json) -> String {
    let mut page = format!(
        "node {} at {}, up {}, {} nodes in reach\n",
        short_id(&figures["node"]["id"]),
        word(&figures["node"]["addr"]),
        word(&figures["uptime"]),
        word(&figures["neighbours"]),
    );
    let clusters = items(&figures["clusters"]).iter().rev().map(|cluster| {
        let within = cluster["diameter"].as_str().map(|diameter| format!(" within {diameter}")).unwrap_or_default();
        format!("{} {} nodes{within}", level(&cluster["level"]), word(&cluster["size"]))
    });
    page += &format!("clusters: {}\n", clusters.collect::<Vec<_>>().join(", "));
    page += &match &figures["traffic"] {
        Json::Null => "\nno cache runs here\n".to_owned(),
        traffic => flow(traffic),
    };
    page += "\nasked for most, lately\n";
    for popular in items(&figures["popular"]) {
        page += &format!("{:>9}  {}\n", word(&popular["requests"]), word(&popular["url"]));
    }
    page += "\nsearched for in the index, the latest first\n";
    for search in items(&figures["searches"]) {
        let end = match &search["level"] {
            Json::Null => "nobody has it: the origin".to_owned(),
            at => format!("{} found at {}", word(&search["found"]), level(at)),
        };
        page += &format!("{:>9}  {}: {end}\n", span(&search["took"]), word(&search["url"]));
        let hops = items(&search["hops"]).iter().map(|hop| {
            format!("{} {} {}", level(&hop["level"]), short_id(&hop["peer"]["id"]), answered(&hop["answer"]))
        });
        page += &format!("{:>11}{}\n", "", hops.collect::<Vec<_>>().join("; "));
    }
    page
}

/// Requests by source, as numbers, bars and a line of the last minutes.
fn flow(traffic: &Json) -> String {
    let per_second = |name: &str| traffic["per_second"][name].as_f64().unwrap_or_default();
    let all = |name: &str| traffic["requests"][name].as_u64().unwrap_or_default();
    let sum: f64 = SOURCES.iter().map(|(name, _)| per_second(name)).sum();
    let requests: u64 = SOURCES.iter().map(|(name, _)| all(name)).sum();
    let spared = traffic["spared_bytes"].as_u64().unwrap_or_default();
    let mut page = format!("\n{sum:>9.1}  requests a second, {} spared origins\n", ByteSize(spared));
    for (name, title) in SOURCES {
        let part = if requests == 0 { 0.0 } else { all(name) as f64 / requests as f64 };
        let bar =
            "█".repeat((per_second(name) / sum.max(f64::MIN_POSITIVE) * BAR as f64).round().min(BAR as f64) as usize);
        page +=
            &format!("{:>9.1}  {title:<11} {bar:<BAR$} {:>6.1} % since the start\n", per_second(name), 100.0 * part);
    }
    let last: Vec<u64> = items(&traffic["last"]).iter().filter_map(Json::as_u64).collect();
    let tick = traffic["tick"].as_str().and_then(|tick| humantime::parse_duration(tick).ok()).unwrap_or_default();
    let minutes = humantime::format_duration(tick.saturating_mul(last.len() as u32)).to_string();
    page += &format!("{minutes:>9}  {}\n", line(&last));
    page
}

/// Counts as a line of bars, the highest as high as a character.
fn line(counts: &[u64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = u128::from(counts.iter().copied().max().unwrap_or(0).max(1));
    let bar = |count: &u64| BARS[(u128::from(*count) * (BARS.len() as u128 - 1)).div_ceil(most) as usize];
    counts.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_picture_of_a_node() {
        let figures = json!({
            "node": {"id": "0123456789abcdef", "addr": "192.0.2.1:4160"}, "uptime": "1h 2m", "neighbours": 7,
            "clusters": [{"level": 0, "diameter": null, "size": 40}, {"level": 1, "diameter": "60ms", "size": 3}],
            "traffic": {
                "per_second": {"local": 6.0, "l2": 2.0, "l1": 0.0, "l0": 0.0, "origin": 0.0},
                "requests": {"local": 90, "l2": 5, "l1": 0, "l0": 0, "origin": 5},
                "spared_bytes": 3_000_000, "tick": "2s", "last": [0, 1, 4, 8, 16],
            },
            "popular": [{"url": "http://x.com/\u{1b}[2J", "requests": 12}],
            "searches": [{"url": "http://x.com/", "took": "1ms 500us", "level": null, "found": 0, "hops": [
                {"level": 2, "peer": {"id": "fedcba9876543210"}, "answer": {"kind": "nearest"}}]}],
        });
        expect![[r#"
            node 01234567 at 192.0.2.1:4160, up 1h 2m, 7 nodes in reach
            clusters: L1 3 nodes within 60ms, L0 40 nodes

                  8.0  requests a second, 2.9 MiB spared origins
                  6.0  this node   ███████████████████████          90.0 % since the start
                  2.0  nearby, L2  ████████                          5.0 % since the start
                  0.0  region, L1                                    0.0 % since the start
                  0.0  far, L0                                       0.0 % since the start
                  0.0  origin                                        5.0 % since the start
                  10s  ▁▂▃▅█

            asked for most, lately
                   12  http://x.com/�[2J

            searched for in the index, the latest first
              1.50 ms  http://x.com/: nobody has it: the origin
                       L2 fedcba98 none, and nobody nearer
        "#]]
        .assert_eq(&picture(&figures, WIDTH, usize::MAX));
        let small = picture(&figures, 20, 3);
        assert!(small.lines().count() == 3 && small.lines().all(|line| line.chars().count() <= 20), "{small}");
    }

    #[test]
    fn what_is_no_node_s_answer_is_no_panic() {
        for strange in [json!(null), json!([]), json!({"traffic": {"last": [u64::MAX, 1], "tick": 3}, "popular": [7]})]
        {
            assert!(picture(&strange, 10, 10).starts_with("node"));
        }
        assert_eq!(line(&[]), "");
        assert_eq!(line(&[0, 0]), "▁▁");
    }
}
