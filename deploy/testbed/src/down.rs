//! Taking a testbed down, whatever is left of it.

use std::time::Duration;

use anyhow::bail;
use tokio::time::{Instant, sleep};

use crate::command;
use crate::compose::LABEL;
use crate::router;
use crate::state::State;

/// Containers removed by one call.
const AT_ONCE: usize = 8;

/// For so long no new container must appear: Docker may be making one that an interrupted `up` had asked for.
const QUIET: Duration = Duration::from_secs(1);

/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Removes all containers, the router with its devices, and the state directory. It is no error if there is nothing.
///
/// # Errors
///
/// If something cannot be removed: the message says what.
pub async fn down(state: &State) -> anyhow::Result<()> {
    router::stop(state).await?;
    remove_containers().await?;
    state.remove()
}

async fn remove_containers() -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut last_seen = begun;
    let label = format!("label={LABEL}");
    loop {
        let all = command::run("docker", ["ps", "--all", "--quiet", "--filter", &label]).await?;
        let all: Vec<&str> = all.split_whitespace().collect();
        if all.is_empty() && last_seen.elapsed() >= QUIET {
            return Ok(());
        }
        if begun.elapsed() > LIMIT {
            bail!("{} containers are still there after {LIMIT:?}; see docker ps --filter {label}", all.len());
        }
        if !all.is_empty() {
            let removals: Vec<_> = all
                .chunks(AT_ONCE)
                .map(|ids| {
                    let arguments = ["rm", "--force", "--volumes"].into_iter().chain(ids.iter().copied());
                    let arguments: Vec<String> = arguments.map(str::to_owned).collect();
                    tokio::spawn(async move { command::run("docker", arguments).await })
                })
                .collect();
            for removal in removals {
                // What somebody else has removed meanwhile is no error: the next round tells what is left.
                drop(removal.await);
            }
            last_seen = Instant::now();
        }
        sleep(QUIET / 5).await;
    }
}
