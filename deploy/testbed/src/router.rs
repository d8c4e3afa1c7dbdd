//! The wide area's router as a daemon, which lives as long as the testbed.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use crate::map::Map;
use crate::nodes::Namespaces;
use crate::state::State;
use crate::wan::control::{Client, Request};
use crate::wan::process::READY;

/// How long it may take to end: it only has to let go of its devices.
const END: Duration = Duration::from_secs(10);

/// Starts a router for the sites of `map`, whose hosts are these namespaces, and waits until it carries packets.
///
/// # Errors
///
/// If it does not come up; the message is its own.
pub fn start(state: &State, map: &Map, namespaces: &Namespaces) -> anyhow::Result<()> {
    let log_file = state.router_log();
    let log = File::create(&log_file).with_context(|| format!("cannot write {}", log_file.display()))?;
    let mut command = Command::new(std::env::current_exe().context("cannot find this program's own file")?);
    command.args(["wan", "run", "--map"]).arg(state.map_file()).arg("--control").arg(state.control_socket());
    for site in map.sites() {
        let pid = namespaces.get(&site.name).with_context(|| format!("{} has no namespace", site.name))?;
        command.arg("--attach").arg(format!("{}={pid}", site.name));
    }
    // In a group of its own, so that it outlives the terminal's Ctrl-C, as it outlives this process.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).process_group(0);
    let mut router = command.spawn().context("cannot start the router")?;
    let pid_file = state.router_pid();
    let written = std::fs::write(&pid_file, router.id().to_string());
    let mut line = String::new();
    if let Some(output) = router.stdout.take() {
        BufReader::new(output).read_line(&mut line).context("cannot hear from the router")?;
    }
    if line.trim_end() != READY {
        bail!("the router did not come up: {}", std::fs::read_to_string(&log_file).unwrap_or_default().trim());
    }
    written.with_context(|| format!("cannot write {}", pid_file.display()))
}

/// A connection to it.
///
/// # Errors
///
/// If it does not run.
pub fn client(state: &State) -> anyhow::Result<Client> {
    Ok(Client::connect(&state.control_socket())?)
}

/// Stops it, if it runs. Its devices go with it.
///
/// # Errors
///
/// If it does not end.
pub async fn stop(state: &State) -> anyhow::Result<()> {
    let Ok(text) = std::fs::read_to_string(state.router_pid()) else {
        return Ok(());
    };
    let pid: i32 = text.trim().parse().with_context(|| format!("{} names no process", state.router_pid().display()))?;
    let begun = Instant::now();
    // One that takes no orders any more is told by a signal, if the process is the router's at all.
    if client(state).and_then(|mut client| Ok(client.tell(&Request::Stop)?)).is_err() && is_router(pid) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    while is_router(pid) {
        if begun.elapsed() > END {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if begun.elapsed() > END * 2 {
            bail!("the router, process {pid}, does not end");
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Whether this process is a router that is alive: numbers come back.
fn is_router(pid: i32) -> bool {
    // The words are ended by zeros; those of a process that has ended and waits for its parent are none.
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
    words.windows(2).any(|pair| pair == [&b"wan"[..], b"run"])
}
