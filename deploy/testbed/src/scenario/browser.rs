//! Whether a browser shows a coralized site whole, and what of it came from where.
//!
//! Headless Chromium, with an empty profile for each page, asks the resolver of the first client of the map. Its screenshot is for people to
//! look at; its own log of the network (`netlog`) says whether everything that the page needs came, and all of it from nodes.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};

use self::netlog::Exchange;
use crate::command;
use crate::compose::{LABEL, pause_container};
use crate::dns::{CORALIZED, ORIGIN};
use crate::hosts::coralized;
use crate::images;
use crate::map::Map;
use crate::origin::REDIRECT;
use crate::state::State;

mod netlog;
mod waterfall;

/// Where the outcome goes.
#[derive(Debug, Args)]
pub struct Options {
    /// The directory for screenshots and the waterfall.
    #[arg(long, value_name = "DIR", default_value = "testbed-browser")]
    out: PathBuf,
}

/// Pages, the names of their files, and what a browser needs of the site to show them.
const PAGES: [(&str, &str, &[&str]); 3] = [
    ("/", "home", &["/", "/style.css", "/coral.svg", "/images/reef.png"]),
    (
        REDIRECT,
        "redirected",
        &[
            REDIRECT,
            "/reef.html",
            "/style.css",
            "/coral.svg",
            "/images/dawn.png",
            "/images/shallows.png",
            "/images/reef.png",
            "/images/deep.png",
        ],
    ),
    ("/how.html", "how", &["/how.html", "/style.css", "/coral.svg", "/path.svg"]),
];

/// Pixels of the window: each page fits.
const WINDOW: (u32, u32) = (1000, 1250);

/// How long the browser waits for a page, in milliseconds: the pictures come over the origin's thin line at first.
const PATIENCE_MS: u32 = 60_000;

/// What was seen of one page.
#[derive(Debug)]
struct Visit {
    path: &'static str,
    name: &'static str,
    exchanges: Vec<Exchange>,
    /// What is not as it should be.
    faults: Vec<String>,
}

/// Browses the pages and writes what came of it.
///
/// `Ok(false)`: something of a page is missing, or came from elsewhere than a node.
///
/// # Errors
///
/// If the browser cannot be run, or its files not be written.
pub async fn run(map: &Map, state: &State, options: &Options) -> anyhow::Result<bool> {
    let (client, resolver) = map.clients().next().context("the map has no clients, and so nobody to browse")?;
    let image = images::browser().await?;
    let out = &options.out;
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let out = out.canonicalize().with_context(|| format!("cannot find {}", out.display()))?;
    let resolv_conf = state.hosts().join(&client.name).join("files/resolv.conf");
    let mut visits = Vec::new();
    for (path, name, wanted) in PAGES {
        eprintln!("browsing {} from {} …", coralized(path), client.name);
        browse(&image, &client.name, &resolv_conf, &out, path, name).await.with_context(|| coralized(path))?;
        let log = out.join(format!("{name}.json"));
        let text = std::fs::read_to_string(&log).with_context(|| format!("cannot read {}", log.display()))?;
        let exchanges =
            netlog::exchanges(&text).with_context(|| format!("{} is no log of Chromium's", log.display()))?;
        // It is large, and what it says is in the waterfall.
        drop(std::fs::remove_file(&log));
        let mut faults = faults(&exchanges, wanted);
        faults.extend(picture_fault(&out.join(format!("{name}.png"))));
        visits.push(Visit { path, name, exchanges: of_site(exchanges), faults });
    }
    println!("{}", table(map, &visits));
    let title = format!("{CORALIZED} in Chromium at {}, by {resolver}", client.name);
    for visit in &visits {
        write(&out.join(format!("{}.svg", visit.name)), &waterfall::svg(map, &visit.exchanges))?;
    }
    write(&out.join("index.html"), &page(&title, map, &visits))?;
    println!("screenshots and waterfalls: {}", out.join("index.html").display());
    let faults: Vec<String> =
        visits.iter().flat_map(|visit| visit.faults.iter().map(|fault| format!("{}: {fault}", visit.path))).collect();
    faults.iter().for_each(|fault| println!("FAULT {fault}"));
    Ok(faults.is_empty())
}

async fn browse(image: &str, site: &str, resolv_conf: &Path, out: &Path, path: &str, name: &str) -> anyhow::Result<()> {
    let mut run = command::command("docker", ["run", "--rm", "--init", "--label", LABEL, "--shm-size", "256m"]);
    run.args(["--tmpfs", "/tmp", "--tmpfs", "/root", "--network", &format!("container:{}", pause_container(site))]);
    run.arg("--volume").arg(format!("{}:/etc/resolv.conf:ro", resolv_conf.display()));
    run.arg("--volume").arg(format!("{}:/out", out.display()));
    let (width, height) = WINDOW;
    // In its container it is root, and has nobody else to be shielded from.
    run.args([image, "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]);
    run.args(["--disable-background-networking", "--disable-component-update", "--no-first-run"]);
    run.arg(format!("--window-size={width},{height}")).arg(format!("--timeout={PATIENCE_MS}"));
    run.arg(format!("--screenshot=/out/{name}.png")).arg(format!("--log-net-log=/out/{name}.json"));
    run.arg(coralized(path));
    command::output(run).await.map(drop)
}

/// Those that concern the site, under its name in the network or its own.
fn of_site(exchanges: Vec<Exchange>) -> Vec<Exchange> {
    exchanges
        .into_iter()
        .filter(|exchange| [CORALIZED, ORIGIN].iter().any(|host| exchange.path_on(host).is_some()))
        .collect()
}

/// What is missing, failed, or went past the network.
fn faults(exchanges: &[Exchange], wanted: &[&str]) -> Vec<String> {
    let mut faults = Vec::new();
    for path in wanted {
        let of_path: Vec<&Exchange> = exchanges.iter().filter(|e| e.path_on(CORALIZED) == Some(path)).collect();
        let should_be = if *path == REDIRECT { 301 } else { 200 };
        match of_path.iter().rev().find_map(|exchange| exchange.status) {
            Some(status) if status == should_be => {}
            Some(status) => faults.push(format!("{path} has the status {status}")),
            None if of_path.is_empty() => faults.push(format!("{path} was not asked for")),
            None => faults.push(format!("{path} was not answered")),
        }
    }
    let outside = exchanges.iter().filter_map(|exchange| exchange.path_on(ORIGIN));
    faults.extend(outside.map(|path| format!("{path} was asked of {ORIGIN} itself, past the network")));
    faults
}

/// What is wrong with a screenshot, as far as a program can tell: that it shows the page is for people to see.
fn picture_fault(file: &Path) -> Option<String> {
    let size = |bytes: &[u8]| {
        let number = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        // A PNG begins with its signature and the header chunk: length, name, width, height.
        bytes.starts_with(b"\x89PNG").then_some(())?;
        Some((number(16)?, number(20)?))
    };
    match std::fs::read(file) {
        Ok(bytes) if size(&bytes) == Some(WINDOW) => None,
        Ok(_) => Some(format!("{} is no picture of {} by {}", file.display(), WINDOW.0, WINDOW.1)),
        Err(e) => Some(format!("there is no screenshot: {e}")),
    }
}

fn table(map: &Map, visits: &[Visit]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_header(["page", "asked for", "status", "from", "by way of", "begun", "first byte", "all", "bytes"]);
    for column in [2, 5, 6, 7, 8] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for visit in visits {
        for (number, row) in rows(map, &visit.exchanges).into_iter().enumerate() {
            let page = if number == 0 { visit.path } else { "" };
            table.add_row(std::iter::once(page.to_owned()).chain(row));
        }
    }
    table
}

/// One row for each exchange: path, status, node, source, times, bytes.
fn rows(map: &Map, exchanges: &[Exchange]) -> Vec<[String; 8]> {
    let begun = exchanges.iter().map(|exchange| exchange.begun).min().unwrap_or_default();
    let ms = |at: Duration| format!("{:.0} ms", at.saturating_sub(begun).as_secs_f64() * 1e3);
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    let row = |exchange: &Exchange| {
        [
            exchange.path_on(CORALIZED).map_or_else(|| exchange.url.clone(), str::to_owned),
            or_dash(exchange.status.map(|status| status.to_string())),
            or_dash(exchange.node(map)),
            exchange.source().to_owned(),
            ms(exchange.begun),
            or_dash(exchange.first_byte.map(ms)),
            or_dash(exchange.ended.map(ms)),
            exchange.bytes.to_string(),
        ]
    };
    exchanges.iter().map(row).collect()
}

/// All of it on one page.
fn page(title: &str, map: &Map, visits: &[Visit]) -> String {
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n<style>{STYLE}</style></head>\n\
         <body><h1>{title}</h1>\n"
    );
    for Visit { path, name, exchanges, faults } in visits {
        let _ = writeln!(html, "<h2>{}</h2>", waterfall::escaped(&coralized(path)));
        for fault in faults {
            let _ = writeln!(html, "<p class=\"fault\">{}</p>", waterfall::escaped(fault));
        }
        html += &waterfall::svg(map, exchanges);
        html += "<table><tr><th>asked for<th>status<th>from<th>by way of<th>begun<th>first byte<th>all<th>bytes</tr>\n";
        for row in rows(map, exchanges) {
            let cells: String = row.iter().map(|cell| format!("<td>{}", waterfall::escaped(cell))).collect();
            let _ = writeln!(html, "<tr>{cells}</tr>");
        }
        let _ =
            writeln!(html, "</table>\n<img src=\"{name}.png\" alt=\"The page as Chromium shows it\" width=\"600\">");
    }
    html + "</body></html>\n"
}

const STYLE: &str = "body{font:15px sans-serif;margin:2em;max-width:70em}td,th{padding:.1em .8em;text-align:left}\
                     img{border:1px solid #ccc;margin-top:1em}.fault{color:#b00020}";

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    ensure!(!text.is_empty(), "there is nothing to write into {}", file.display());
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(url: &str, status: Option<u16>) -> Exchange {
        Exchange { url: url.to_owned(), status, ..Exchange::default() }
    }

    #[test]
    fn what_is_missing_failed_or_outside_is_a_fault() {
        let all = [
            exchange("http://www.x.com.nyud.net/", Some(200)),
            exchange("http://www.x.com.nyud.net/old-reef.html", Some(301)),
            exchange("http://www.x.com.nyud.net/style.css", Some(502)),
            exchange("http://www.x.com.nyud.net/coral.svg", None),
        ];
        assert_eq!(faults(&all[..2], &["/", REDIRECT]), [""; 0]);
        assert_eq!(
            faults(&all, &["/", "/style.css", "/coral.svg", "/gone"]),
            ["/style.css has the status 502", "/coral.svg was not answered", "/gone was not asked for"]
        );
        let past = [exchange("http://www.x.com/reef.html", Some(200))];
        assert_eq!(faults(&past, &[]), ["/reef.html was asked of www.x.com itself, past the network"]);
    }

    #[test]
    fn a_picture_is_one_of_the_windows_size() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(picture_fault(file.path()).is_some());
        let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
        png.extend([WINDOW.0.to_be_bytes(), WINDOW.1.to_be_bytes()].concat());
        std::fs::write(file.path(), png).unwrap();
        assert_eq!(picture_fault(file.path()), None);
    }
}
