//! Programs of an image as processes of our own, at the sites of a network of processes.
//!
//! A [`Tree`] is a container that does nothing, on no network: it only keeps the image's file system there. A [`Guest`] enters that
//! file system and the namespace of a site, and is then a child of this process as nodes are: it is killed when it is dropped, and has
//! the site's address as its own. So one container serves any number of sites.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail, ensure};

use crate::compose::LABEL;
use crate::netns;

/// The file system of an image, until this is dropped.
#[derive(Debug)]
pub struct Tree {
    container: String,
    pid: u32,
}

/// A running program; it is killed when this is dropped.
#[derive(Debug)]
pub struct Guest {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Tree {
    /// That of `image`, in which `directory` of this machine is seen at `seen_at`, to be read and written.
    ///
    /// # Errors
    ///
    /// If the container cannot be started.
    pub fn new(image: &str, directory: &Path, seen_at: &str) -> anyhow::Result<Self> {
        let volume = format!("{}:{seen_at}", directory.display());
        let run = ["run", "--detach", "--rm", "--network", "none", "--label", LABEL, "--volume", &volume, image];
        let container = docker(run.into_iter().chain(["sleep", "infinity"]))?;
        let mut tree = Self { container, pid: 0 };
        let pid = docker(["inspect", "--format", "{{.State.Pid}}", &tree.container])?;
        tree.pid = pid.parse().with_context(|| format!("docker says that the process is {pid}"))?;
        ensure!(tree.pid != 0, "the container of {image} does not run");
        Ok(tree)
    }

    /// What enters the file system, with a /run and a /var/cache/bind of its own, and does `command` there.
    pub fn command(&self, command: &[String]) -> Command {
        let script = "mount -t tmpfs -o mode=1777 tmpfs /run && { [ ! -d /var/cache/bind ] || \
                      mount -t tmpfs -o mode=1777 tmpfs /var/cache/bind; } && exec \"$@\"";
        let mut enter = Command::new("nsenter");
        enter.args(["--target", &self.pid.to_string(), "--mount", "unshare", "--mount", "sh", "-c", script, "sh"]);
        enter.args(command).stdin(Stdio::null());
        enter
    }

    /// Starts a program at the site with this namespace; what it says goes to the file `log`.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start(&self, name: &str, namespace: &File, command: &[String], log: &Path) -> anyhow::Result<Guest> {
        let said = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = self.command(command);
        command.stdout(said.try_clone().context("cannot write a log")?).stderr(said);
        // Not in this process's group: Ctrl-C is for this process, which then ends it.
        command.process_group(0);
        let child = netns::inside(namespace, || command.spawn())?.context("cannot run nsenter")?;
        Ok(Guest { name: name.to_owned(), child, log: log.to_owned() })
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // `down` removes what stays.
        drop(docker(["rm", "--force", &self.container]));
    }
}

impl Guest {
    /// That it still runs.
    ///
    /// # Errors
    ///
    /// If it has ended: with the last lines that it said.
    pub fn check(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait().with_context(|| format!("cannot ask for {}", self.name))? {
            let said = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = said.lines().collect();
            bail!("{} has ended ({status}): {}", self.name, lines[lines.len().saturating_sub(TAIL)..].join("\n"));
        }
        Ok(())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // One that has ended already needs no killing, only the waiting.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn docker<'a>(arguments: impl IntoIterator<Item = &'a str>) -> anyhow::Result<String> {
    let output = Command::new("docker").args(arguments).stdin(Stdio::null()).output().context("cannot run docker")?;
    ensure!(output.status.success(), "docker: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Lines of its log that are shown of a program that has ended.
const TAIL: usize = 5;
