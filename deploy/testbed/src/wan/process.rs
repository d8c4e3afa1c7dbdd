//! The router as a process of its own, which ends with whoever started it.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail, ensure};

use super::control::{Client, Request};

/// A router's process. It is stopped when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    control: PathBuf,
}

impl Process {
    /// Starts `coral-testbed wan run` for this map (the default one without), and waits until it takes orders at `control`.
    ///
    /// It gets SIGTERM when the calling thread ends, however that comes about.
    ///
    /// # Errors
    ///
    /// If it does not come up; it has said why on standard error.
    pub fn start(map: Option<&Path>, control: &Path) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut command = Command::new(program);
        command.args(["wan", "run", "--die-with-parent", "--control"]).arg(control);
        if let Some(map) = map {
            command.arg("--map").arg(map);
        }
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start the router")?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line).context("cannot hear from the router")?;
        }
        let process = Self { child, control: control.to_owned() };
        ensure!(line.trim_end() == READY, "the router did not come up");
        Ok(process)
    }

    /// A connection to it.
    ///
    /// # Errors
    ///
    /// If it has gone.
    pub fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(&self.control)?)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops it, and waits until it has ended.
    ///
    /// # Errors
    ///
    /// If it did not end well.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.client()?.tell(&Request::Stop)?;
        let status = self.child.wait().context("cannot wait for the router")?;
        if !status.success() {
            bail!("the router ended with {status}");
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let gone = self.child.try_wait().is_ok_and(|status| status.is_some());
        if !gone {
            let told = self.client().map_err(drop).and_then(|mut client| client.tell(&Request::Stop).map_err(drop));
            if told.is_err() {
                // It may have ended meanwhile, and then there is nothing to do.
                let _ = self.child.kill();
            }
            let _ = self.child.wait();
        }
    }
}

/// What the router prints when it takes orders.
pub const READY: &str = "ready";
