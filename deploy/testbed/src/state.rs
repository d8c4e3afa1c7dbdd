//! Where a running testbed keeps what it needs: one directory, which is gone when the testbed is.
//!
//! The directory above it is shared with routers that run without a testbed, which have their sockets there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::map::Map;

/// On every system that has it, this is memory: nothing outlives a restart of the machine, as no container's network does.
const DIRECTORY: &str = "/run/coral-testbed/network";

/// The default of `testbed wan …`.
const CONTROL: &str = "/run/coral-testbed/wan.sock";

/// The directory of the testbed of this machine.
#[derive(Debug, Clone)]
pub struct State {
    directory: PathBuf,
}

impl State {
    /// The one of this machine, whether it is there or not.
    pub fn of_this_machine() -> Self {
        Self { directory: PathBuf::from(DIRECTORY) }
    }

    /// Makes it, with the map in it.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub fn create(&self, map: &str) -> anyhow::Result<()> {
        let failed = || format!("cannot make {}", self.directory.display());
        fs::create_dir_all(&self.directory).with_context(failed)?;
        fs::write(self.map_file(), map).with_context(failed)
    }

    /// Whether it is there.
    pub fn exists(&self) -> bool {
        self.directory.exists()
    }

    /// The map of the testbed that is up.
    ///
    /// # Errors
    ///
    /// If none is.
    pub fn map(&self) -> anyhow::Result<Map> {
        if !self.exists() {
            bail!("no testbed is up; begin with `testbed up`");
        }
        Ok(Map::load(&self.map_file())?)
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The map, as it was given.
    pub fn map_file(&self) -> PathBuf {
        self.directory.join("map.toml")
    }

    /// The compose file.
    pub fn compose_file(&self) -> PathBuf {
        self.directory.join("compose.json")
    }

    /// Where the router takes orders: where `testbed wan …` looks for it, too.
    pub fn control_socket(&self) -> PathBuf {
        PathBuf::from(CONTROL)
    }

    /// What the router has said.
    pub fn router_log(&self) -> PathBuf {
        self.directory.join("router.log")
    }

    /// The router's process.
    pub fn router_pid(&self) -> PathBuf {
        self.directory.join("router.pid")
    }

    /// What hosts read and write: a directory for each.
    pub fn hosts(&self) -> PathBuf {
        self.directory.join("hosts")
    }

    /// Removes all of it.
    ///
    /// # Errors
    ///
    /// If something of it cannot be removed.
    pub fn remove(&self) -> anyhow::Result<()> {
        match fs::remove_dir_all(&self.directory) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("cannot remove {}", self.directory.display()));
            }
            _ => {}
        }
        // Not empty, and so not removed, as long as another router is there.
        if let Some(above) = self.directory.parent() {
            drop(fs::remove_dir(above));
        }
        Ok(())
    }
}
