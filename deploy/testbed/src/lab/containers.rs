//! The network of containers that `testbed up` has brought up.
//!
//! It is not ours: when this is dropped, nodes that were taken away run again, and nothing is cut off any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, ensure};

use super::STOP;
use crate::compose::container;
use crate::map::{Map, Site};
use crate::netns::Netns;
use crate::nodes::{self, Namespaces};
use crate::state::State;
use crate::wan::control::{Client, Request};
use crate::{preflight, router};

#[derive(Debug)]
pub(super) struct Containers {
    state: State,
    namespaces: Namespaces,
    /// Nodes that were killed or stopped and not started again, by name.
    away: Mutex<BTreeSet<String>>,
}

impl Containers {
    /// The one that is up, with its map.
    pub(super) fn attach() -> anyhow::Result<(Map, Self)> {
        let state = State::of_this_machine();
        ensure!(state.exists(), "no testbed is up; begin with `testbed up`, or add --processes");
        let map = state.map()?;
        preflight::rights()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let namespaces = runtime.context("cannot start a runtime")?.block_on(nodes::namespaces(&map))?;
        Ok((map, Self { state, namespaces, away: Mutex::default() }))
    }

    pub(super) fn namespace(&self, site: &Site) -> anyhow::Result<File> {
        let pid = self.namespaces.get(&site.name).with_context(|| format!("{} has no namespace", site.name))?;
        Netns::Pid(*pid).open()
    }

    pub(super) fn is_running(&self, site: &Site) -> anyhow::Result<bool> {
        let state = docker(&["inspect", "--format", "{{.State.Running}}", &container(&site.name)])?;
        Ok(state.trim() == "true")
    }

    pub(super) fn start_node(&self, site: &Site) -> anyhow::Result<()> {
        docker(&["start", &container(&site.name)])?;
        self.away().remove(&site.name);
        Ok(())
    }

    pub(super) fn kill(&self, site: &Site) -> anyhow::Result<()> {
        self.away().insert(site.name.clone());
        docker(&["kill", "--signal", "KILL", &container(&site.name)])?;
        docker(&["wait", &container(&site.name)]).map(drop)
    }

    pub(super) fn stop(&self, site: &Site) -> anyhow::Result<()> {
        self.away().insert(site.name.clone());
        docker(&["stop", "--time", &STOP.as_secs().to_string(), &container(&site.name)]).map(drop)
    }

    fn away(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wan(&self) -> anyhow::Result<Client> {
        router::client(&self.state)
    }

    /// Counted from what nginx has written down since the network came up.
    pub(super) fn origin_requests(&self, origin: &Site) -> anyhow::Result<BTreeMap<String, u64>> {
        let log = self.state.hosts().join(&origin.name).join("log").join("requests.log");
        let text = fs::read_to_string(&log).with_context(|| format!("cannot read {}", log.display()))?;
        Ok(targets(&text))
    }

    pub(super) fn ended(&self, site: &Site) -> anyhow::Error {
        let output = Command::new("docker").args(["logs", "--tail", TAIL, &container(&site.name)]).output();
        let said = output.map(|output| String::from_utf8_lossy(&output.stderr).into_owned()).unwrap_or_default();
        anyhow::anyhow!("{} has ended; the last that it said: {}", site.name, said.trim())
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        // What cannot be undone shows in `testbed status`, and nobody is left here to be told.
        for name in std::mem::take(&mut *self.away()) {
            let _ = docker(&["start", &container(&name)]);
        }
        let _ = self.wan().map(|mut client| client.tell(&Request::HealAll));
    }
}

/// How often each path, with its query, was asked for, from lines as `origin::nginx` has them written.
fn targets(log: &str) -> BTreeMap<String, u64> {
    let mut asked = BTreeMap::new();
    for target in log.lines().filter_map(|line| line.split(' ').nth(3)) {
        *asked.entry(target.to_owned()).or_default() += 1;
    }
    asked
}

fn docker(arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("docker").args(arguments).output().context("cannot run docker; is it installed?")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`docker {}` failed: {}", arguments.join(" "), said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Lines of its log that are shown of a node that has ended.
const TAIL: &str = "5";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_with_their_queries() {
        let log = "1700000000.000 198.18.1.1 GET /files/01.bin?run-0 200 41984\n\
                   1700000000.100 198.18.2.1 HEAD /files/01.bin?run-0 200 0\n\
                   1700000000.200 198.18.2.1 GET / 200 100\n";
        let asked = targets(log);
        assert_eq!((asked["/files/01.bin?run-0"], asked["/"]), (2, 1));
    }
}
