//! Whether a browser shows a coralized site whole, and what of it came from where; and the page of the network itself, at the bare suffix.
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
use crate::dns::{CORALIZED, ORIGIN, SUFFIX};
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

/// A page, as it is looked at.
#[derive(Debug, Clone, Copy)]
struct Page {
    host: &'static str,
    path: &'static str,
    /// The name of its files.
    name: &'static str,
    /// What a browser needs of the host to show it.
    wanted: &'static [&'static str],
    /// Pixels of the window: all of it fits.
    window: (u32, u32),
    /// Whether whoever looks prefers dark pages.
    is_dark: bool,
}

impl Page {
    const fn of_site(path: &'static str, name: &'static str, wanted: &'static [&'static str]) -> Self {
        Self { host: CORALIZED, path, name, wanted, window: (1000, 1250), is_dark: false }
    }

    /// The page at the bare suffix. Its script has events come, and they go on for as long as it is looked at.
    const fn of_network(name: &'static str, window: (u32, u32), is_dark: bool) -> Self {
        let wanted = &["/", "/page.css", "/page.js", "/events"];
        Self { host: SUFFIX, path: "/", name, wanted, window, is_dark }
    }

    fn url(&self) -> String {
        format!("http://{}{}", self.host, self.path)
    }
}

/// A desktop's window, and a phone's.
const DESKTOP: (u32, u32) = (1200, 1500);
const PHONE: (u32, u32) = (390, 2600);

const PAGES: [Page; 7] = [
    Page::of_site("/", "home", &["/", "/style.css", "/coral.svg", "/images/reef.png"]),
    Page::of_site(
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
    Page::of_site("/how.html", "how", &["/how.html", "/style.css", "/coral.svg", "/path.svg"]),
    Page::of_network("network", DESKTOP, false),
    Page::of_network("network-dark", DESKTOP, true),
    Page::of_network("network-phone", PHONE, false),
    Page::of_network("network-phone-dark", PHONE, true),
];

/// How long the browser waits for a page, in milliseconds: the pictures come over the origin's thin line at first.
const PATIENCE_MS: u32 = 60_000;

/// What was seen of one page.
#[derive(Debug)]
struct Visit {
    page: Page,
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
    for page in PAGES {
        eprintln!("browsing {} from {} …", page.url(), client.name);
        browse(&image, &client.name, &resolv_conf, &out, &page).await.with_context(|| page.url())?;
        let log = out.join(format!("{}.json", page.name));
        let text = std::fs::read_to_string(&log).with_context(|| format!("cannot read {}", log.display()))?;
        let exchanges =
            netlog::exchanges(&text).with_context(|| format!("{} is no log of Chromium's", log.display()))?;
        // It is large, and what it says is in the waterfall.
        drop(std::fs::remove_file(&log));
        let mut faults = faults(&exchanges, page.host, page.wanted);
        faults.extend(picture_fault(&out.join(format!("{}.png", page.name)), page.window));
        visits.push(Visit { page, exchanges: of_page(exchanges, page.host), faults });
    }
    println!("{}", table(map, &visits));
    let title = format!("{CORALIZED} and {SUFFIX} in Chromium at {}, by {resolver}", client.name);
    for visit in &visits {
        write(&out.join(format!("{}.svg", visit.page.name)), &waterfall::svg(map, &visit.exchanges))?;
    }
    write(&out.join("index.html"), &document(&title, map, &visits))?;
    println!("screenshots and waterfalls: {}", out.join("index.html").display());
    let faults: Vec<String> = visits
        .iter()
        .flat_map(|visit| visit.faults.iter().map(|fault| format!("{}: {fault}", visit.page.name)))
        .collect();
    faults.iter().for_each(|fault| println!("FAULT {fault}"));
    Ok(faults.is_empty())
}

async fn browse(image: &str, site: &str, resolv_conf: &Path, out: &Path, page: &Page) -> anyhow::Result<()> {
    let Page { name, window: (width, height), .. } = page;
    let mut run = command::command("docker", ["run", "--rm", "--init", "--label", LABEL, "--shm-size", "256m"]);
    run.args(["--tmpfs", "/tmp", "--tmpfs", "/root", "--network", &format!("container:{}", pause_container(site))]);
    run.arg("--volume").arg(format!("{}:/etc/resolv.conf:ro", resolv_conf.display()));
    run.arg("--volume").arg(format!("{}:/out", out.display()));
    // In its container it is root, and has nobody else to be shielded from.
    run.args([image, "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]);
    run.args(["--disable-background-networking", "--disable-component-update", "--no-first-run"]);
    run.arg(format!("--window-size={width},{height}")).arg(format!("--timeout={PATIENCE_MS}"));
    run.arg(format!("--screenshot=/out/{name}.png")).arg(format!("--log-net-log=/out/{name}.json"));
    if page.is_dark {
        // What `prefers-color-scheme` says.
        run.arg("--blink-settings=preferredColorScheme=0");
    }
    run.arg(page.url());
    command::output(run).await.map(drop)
}

/// Those that concern a page of `host`, and what was asked of the origin.
fn of_page(exchanges: Vec<Exchange>, host: &str) -> Vec<Exchange> {
    let is_it = |exchange: &Exchange| [host, ORIGIN].iter().any(|host| exchange.path_on(host).is_some());
    exchanges.into_iter().filter(is_it).collect()
}

/// What is missing, failed, or went past the network.
fn faults(exchanges: &[Exchange], host: &str, wanted: &[&str]) -> Vec<String> {
    let mut faults = Vec::new();
    for path in wanted {
        let of_path: Vec<&Exchange> = exchanges.iter().filter(|e| e.path_on(host) == Some(path)).collect();
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
fn picture_fault(file: &Path, window: (u32, u32)) -> Option<String> {
    let size = |bytes: &[u8]| {
        let number = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        // A PNG begins with its signature and the header chunk: length, name, width, height.
        bytes.starts_with(b"\x89PNG").then_some(())?;
        Some((number(16)?, number(20)?))
    };
    match std::fs::read(file) {
        Ok(bytes) if size(&bytes) == Some(window) => None,
        Ok(_) => Some(format!("{} is no picture of {} by {}", file.display(), window.0, window.1)),
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
        for (number, row) in rows(map, visit.page.host, &visit.exchanges).into_iter().enumerate() {
            let page = if number == 0 { visit.page.name } else { "" };
            table.add_row(std::iter::once(page.to_owned()).chain(row));
        }
    }
    table
}

/// One row for each exchange: path, status, node, source, times, bytes.
fn rows(map: &Map, host: &str, exchanges: &[Exchange]) -> Vec<[String; 8]> {
    let begun = exchanges.iter().map(|exchange| exchange.begun).min().unwrap_or_default();
    let ms = |at: Duration| format!("{:.0} ms", at.saturating_sub(begun).as_secs_f64() * 1e3);
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    let row = |exchange: &Exchange| {
        [
            exchange.path_on(host).map_or_else(|| exchange.url.clone(), str::to_owned),
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
fn document(title: &str, map: &Map, visits: &[Visit]) -> String {
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n<style>{STYLE}</style></head>\n\
         <body><h1>{title}</h1>\n"
    );
    for Visit { page, exchanges, faults } in visits {
        let (name, url, (width, _)) = (page.name, page.url(), page.window);
        let _ = writeln!(html, "<h2>{}</h2>", waterfall::escaped(&url));
        for fault in faults {
            let _ = writeln!(html, "<p class=\"fault\">{}</p>", waterfall::escaped(fault));
        }
        html += &waterfall::svg(map, exchanges);
        html += "<table><tr><th>asked for<th>status<th>from<th>by way of<th>begun<th>first byte<th>all<th>bytes</tr>\n";
        for row in rows(map, page.host, exchanges) {
            let cells: String = row.iter().map(|cell| format!("<td>{}", waterfall::escaped(cell))).collect();
            let _ = writeln!(html, "<tr>{cells}</tr>");
        }
        let width = width.min(600);
        let alt = "The page as Chromium shows it";
        let _ = writeln!(html, "</table>\n<img src=\"{name}.png\" alt=\"{alt}\" width=\"{width}\">");
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
        assert_eq!(faults(&all[..2], CORALIZED, &["/", REDIRECT]), [""; 0]);
        assert_eq!(
            faults(&all, CORALIZED, &["/", "/style.css", "/coral.svg", "/gone"]),
            ["/style.css has the status 502", "/coral.svg was not answered", "/gone was not asked for"]
        );
        let past = [exchange("http://www.x.com/reef.html", Some(200))];
        assert_eq!(faults(&past, CORALIZED, &[]), ["/reef.html was asked of www.x.com itself, past the network"]);
    }

    #[test]
    fn a_picture_is_one_of_the_windows_size() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(picture_fault(file.path(), PHONE).is_some());
        let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
        png.extend([PHONE.0.to_be_bytes(), PHONE.1.to_be_bytes()].concat());
        std::fs::write(file.path(), png).unwrap();
        assert_eq!(picture_fault(file.path(), PHONE), None);
        assert!(picture_fault(file.path(), DESKTOP).is_some());
    }
}
