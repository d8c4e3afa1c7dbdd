//! Bringing a testbed up: images, namespaces, the router, name service, origin, nodes, clients; then waiting until it works.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::compose::{Compose, container};
use crate::formation::Formation;
use crate::hosts::hosts;
use crate::map::{Kind, Map};
use crate::nodes::{self, Namespaces};
use crate::state::State;
use crate::{command, compose, images, router, status};

/// How long nodes may take to join, once they run.
const JOIN: Duration = Duration::from_secs(60);

/// How long clusters may take to form.
const FORM: Duration = Duration::from_secs(180);

/// How often the nodes are asked meanwhile.
const ASK: Duration = Duration::from_millis(500);

/// Lines of its log that are shown of a node that does not start.
const LOG_LINES: &str = "5";

/// Builds the images and brings up the testbed of `map`, whose text is `text`. `source` is the root of this project.
///
/// `Ok(false)`: all runs, but clusters have not formed as they should within three minutes; that has been told.
///
/// # Errors
///
/// What went wrong. Whatever has been begun is still there then, for [`down`](crate::down::down) to remove.
pub async fn up(state: &State, compose: &Compose, source: &Path, map: &Map, text: &str) -> anyhow::Result<bool> {
    let begun = Instant::now();
    let images = images::build(source).await?;
    state.create(text)?;
    let hosts = hosts(map, &images);
    for host in &hosts {
        host.write(&state.hosts().join(&host.site.name))?;
    }
    let file = state.compose_file();
    let project = compose::file(&hosts, &images, &state.hosts());
    std::fs::write(&file, format!("{project:#}\n")).with_context(|| format!("cannot write {}", file.display()))?;
    compose.run(&file, &["config", "--quiet"]).await.context("the compose file is not understood")?;

    let sites = map.sites().len();
    eprintln!("starting {sites} network namespaces …");
    let pauses: Vec<String> = map.sites().iter().map(|site| compose::pause(&site.name)).collect();
    start(compose, &file, &pauses).await?;
    let namespaces = nodes::namespaces(map).await?;
    router::start(state, map, &namespaces)?;

    eprintln!("starting what runs in them …");
    // Nodes last: they then find the names and the origin that they may be asked for.
    for of_nodes in [false, true] {
        let some = map.sites().iter().filter(|site| (site.kind == Kind::Node) == of_nodes);
        start(compose, &file, &some.map(|site| site.name.clone()).collect::<Vec<_>>()).await?;
    }
    joined(map, &namespaces).await?;
    let formation = formed(map, &namespaces).await;
    println!("{}", status::page(map, &nodes::statuses(map, &namespaces).await));
    eprintln!("up after {:.0} s", begun.elapsed().as_secs_f64());
    let missing = formation.missing();
    if !missing.is_empty() {
        eprintln!("clusters have not formed within {FORM:?}; it stays up, and they may form yet (testbed status):");
        missing.iter().for_each(|line| eprintln!("  {line}"));
    }
    Ok(missing.is_empty())
}

async fn start(compose: &Compose, file: &Path, services: &[String]) -> anyhow::Result<()> {
    let fixed = ["up", "--detach", "--no-build", "--no-recreate"];
    let arguments: Vec<&str> = fixed.into_iter().chain(services.iter().map(String::as_str)).collect();
    compose.run(file, &arguments).await.map(drop)
}

/// Waits until every node says that it has joined.
async fn joined(map: &Map, namespaces: &Namespaces) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut ticks = ticks();
    loop {
        ticks.tick().await;
        let all = nodes::statuses(map, namespaces).await;
        let missing: Vec<String> = all
            .into_iter()
            .filter_map(|(site, status)| match status {
                Ok(status) if status.joined => None,
                Ok(_) => Some(format!("{}: none of its seeds answers", site.name)),
                Err(e) => Some(format!("{}: {e:#}", site.name)),
            })
            .collect();
        if missing.is_empty() {
            eprintln!("all nodes have joined, {:.1} s after the last was started", begun.elapsed().as_secs_f64());
            return Ok(());
        }
        // A node that has ended does not come back by itself.
        if let Some(site) = ended(map).await? {
            let log = format!("docker logs --tail {LOG_LINES} {} 2>&1", container(&site));
            bail!("{site} has ended; the last that it said: {}", command::run("sh", ["-c", &log]).await?.trim());
        }
        if begun.elapsed() > JOIN {
            bail!("{} nodes have not joined within {JOIN:?}: {}", missing.len(), missing.join("; "));
        }
    }
}

/// A site whose container has ended, if there is one.
async fn ended(map: &Map) -> anyhow::Result<Option<String>> {
    let format = ["inspect", "--format", "{{.State.Running}}"].into_iter().map(str::to_owned);
    let names = map.sites().iter().map(|site| container(&site.name));
    let running = command::run("docker", format.chain(names)).await?;
    Ok(map.sites().iter().zip(running.lines()).find(|(_, line)| *line != "true").map(|(site, _)| site.name.clone()))
}

/// Waits until clusters have formed, or for [`FORM`].
async fn formed(map: &Map, namespaces: &Namespaces) -> Formation {
    eprintln!("waiting for clusters …");
    let begun = Instant::now();
    let mut ticks = ticks();
    loop {
        ticks.tick().await;
        let formation = Formation::of(map, &nodes::statuses(map, namespaces).await);
        if formation.missing().is_empty() || begun.elapsed() > FORM {
            return formation;
        }
    }
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = interval(ASK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
