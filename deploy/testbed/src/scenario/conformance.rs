//! Whether the suffix zone is what the DNS says a zone is: by single queries, and by what others have written to judge zones by.
//!
//! Single queries are a table ([`cases`]). Zonemaster judges the whole delegated zone from inside the emulated Internet: what it finds
//! above a warning fails the run, unless `EXCUSED` says why it must be so.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use coral::chart::{Axis, Chart};
use coral::report::{Report, Row};
use serde_json::json;

use super::redirection::internet::{FILES, run_at, words};
use super::redirection::{Releases, bring_up};
use super::stage::{Findings, Stage, described};
use crate::dns::{ROOT_HINTS, SUFFIX, registered, root_hints};
use crate::images;
use crate::lab::{Lab, Tree};
use crate::map::{Map, Site, TWELVE_REGIONS};
use cases::{CASES, Case};

pub mod cases;

/// Who asks, and who is asked.
#[derive(Debug)]
pub(super) struct Cast<'m> {
    far_client: &'m Site,
    pub(super) near_client: &'m Site,
    registered: &'m Site,
    near: &'m Site,
}

pub(super) fn run(stage: &Stage) -> anyhow::Result<Findings> {
    let setup = stage.setup(|| (TWELVE_REGIONS.to_owned(), "the map of twelve regions"))?;
    let (lab, _internet) = bring_up(stage, &setup, Releases::Bookworm)?;
    let map = lab.map();
    let cast = cast(&map)?;
    let directory = tempfile::Builder::new().prefix("coral-judges-").tempdir().context("no directory")?;
    fs::write(directory.path().join(ROOT_HINTS), root_hints(&map)).context("cannot write a file")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tree = Tree::new(&runtime.block_on(images::judges())?, directory.path(), FILES)?;
    let (mut rows, mut broken): (Vec<Row>, Vec<String>) = (Vec::new(), Vec::new());
    let bar = stage.count("single queries", CASES.len());
    for case in CASES {
        lab.interrupt().check()?;
        let wrong = ask(&lab, &tree, &cast, case)?;
        rows.push(row(case.source, case.what, case.query, wrong.is_none()));
        broken.extend(wrong.map(|wrong| format!("{} ({}): {}: {wrong}", case.what, case.source, case.query)));
        bar.inc(1);
    }
    stage.say("zonemaster judges");
    let said = zonemaster(&lab, &tree, &cast)?;
    for line in &said {
        let reason = EXCUSED.iter().find(|(tag, _)| line.contains(tag)).map(|(_, reason)| *reason);
        rows.push(row("zonemaster", reason.unwrap_or("not excused"), line, reason.is_some()));
        if reason.is_none() {
            broken.push(format!("zonemaster: {line}"));
        }
    }
    let right = rows.iter().filter(|row| row[3].1 == json!(true)).count();
    let title = format!("conformance: {SUFFIX}, {}", described(&lab));
    let summary = vec![
        ("cases", json!(CASES.len())),
        ("as_they_should_be", json!(right)),
        ("zonemaster_above_warning", json!(said.len())),
        ("network", json!(described(&lab))),
    ];
    // There is nothing to draw but how many.
    let chart = Chart { title: title.clone(), x: Axis::linear(""), y: Axis::linear(""), series: Vec::new() };
    Ok(Findings { report: Report { title, rows, summary, chart }, broken })
}

pub(super) fn row(source: &str, what: &str, query: &str, is_right: bool) -> Row {
    vec![("by", json!(source)), ("what", json!(what)), ("asked", json!(query)), ("is_so", json!(is_right))]
}

pub(super) fn cast(map: &Map) -> anyhow::Result<Cast<'_>> {
    let rtt = |client: &Site, node: &Site| map.link(client, node).rtt();
    let registered = registered(map)[0];
    let clients = || map.clients().map(|(site, _)| site);
    let far_client = clients().find(|site| map.nodes().all(|node| rtt(site, node) > FAR));
    let near = |site: &&Site| rtt(site, registered) > FAR && map.nodes().any(|node| rtt(site, node) < NEAR);
    let near_client = clients().find(near).context("no client is near some node and far from a registered one")?;
    let near = map.nodes().find(|node| rtt(near_client, node) < NEAR);
    Ok(Cast {
        far_client: far_client.context("the map has no client that is far from all nodes")?,
        near_client,
        registered,
        near: near.context("no node is near")?,
    })
}

/// Asks until the answer is right, or it is clear that it will not be: measuring a client takes a moment. What is wrong then.
pub(super) fn ask(lab: &Lab, tree: &Tree, cast: &Cast<'_>, case: &Case) -> anyhow::Result<Option<String>> {
    let (client, server) = if case.query.contains("@far") {
        (cast.far_client, cast.registered)
    } else if case.query.contains("@refer") {
        (cast.near_client, cast.registered)
    } else {
        (cast.near_client, cast.near)
    };
    let mut line = words(case.query);
    ensure!(line.len() > 1 && line[1].starts_with('@'), "the case `{}` names no server", case.query);
    line[1] = format!("@{}", server.ipv4);
    if line[0] == "dig" {
        line.splice(2..2, words("+time=3 +tries=1 +norecurse"));
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = run_at(lab, client, tree, &line)?;
        let last = wrong(case, &String::from_utf8_lossy(&output.stdout));
        if last.is_none() || Instant::now() > deadline {
            return Ok(last);
        }
    }
}

fn wrong(case: &Case, said: &str) -> Option<String> {
    // dig repeats its command line. Between a name and its TTL there are as many tabs as make a column.
    let said: String =
        said.lines().filter(|line| !line.starts_with("; <<>>")).map(|line| format!("{line}\n")).collect();
    let said = said.replace("\t\t", "\t").replace("\t\t", "\t");
    let missing = case.has.iter().find(|text| !said.contains(**text)).map(|text| format!("no `{}`", text.trim()));
    let surplus = || case.lacks.iter().find(|text| said.contains(**text)).map(|text| format!("`{}`", text.trim()));
    let status = said.split("status: ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or("no answer");
    missing.or_else(surplus).map(|what| format!("{what} in an answer of {status}"))
}

/// What Zonemaster finds above a warning, a line each.
fn zonemaster(lab: &Lab, tree: &Tree, cast: &Cast<'_>) -> anyhow::Result<Vec<String>> {
    let line =
        format!("zonemaster-cli --no-ipv6 --no-progress --raw --level ERROR --hints {FILES}/{ROOT_HINTS} {SUFFIX}");
    let output = run_at(lab, cast.far_client, tree, &words(&line))?;
    let (said, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "zonemaster-cli ended with {}: {said} {complaint}", output.status);
    let is_finding = |line: &&str| line.contains("ERROR") || line.contains("CRITICAL");
    Ok(said.lines().filter(is_finding).map(|line| line.trim().to_owned()).collect())
}

/// Findings that are as they must be here, and why.
const EXCUSED: &[(&str, &str)] =
    &[("NAMESERVER_IP_PRIVATE_NETWORK", "a laboratory's addresses are those set aside for laboratories")];
const NEAR: Duration = Duration::from_millis(20);
pub(super) const FAR: Duration = Duration::from_millis(60);
/// How long an answer may take to become what it is to be: a client is measured, and nodes near it are looked for.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_has_who_is_needed() {
        let map = Map::parse(TWELVE_REGIONS, "twelve-regions.toml").unwrap();
        let cast = cast(&map).unwrap();
        assert_eq!(map.region_of(cast.far_client).name, "johannesburg");
        assert_eq!(cast.near_client.region, cast.near.region);
    }

    #[test]
    fn an_answer_is_wrong_if_it_lacks_something_or_has_too_much() {
        let case =
            Case { source: "", what: "", query: "dig @far a A", has: &["NOERROR", "a.\t30"], lacks: &["SERVFAIL"] };
        assert_eq!(wrong(&case, "; <<>> dig SERVFAIL\n;; status: NOERROR, id\na.\t\t\t30\tIN A"), None);
        assert!(wrong(&case, ";; status: REFUSED, id\n").unwrap().contains("REFUSED"));
        assert!(wrong(&case, ";; status: NOERROR, id\na.\t30 SERVFAIL").is_some());
    }
}
