//! What a testbed needs of the machine, asked before anything is begun. Each answer is one line that says what to do.

use std::path::Path;

use anyhow::{Context as _, bail};
use nix::sys::statvfs::statvfs;

use crate::command;
use crate::compose::{Compose, LABEL, PROJECT};
use crate::state::State;

/// Bytes that images and containers may take on Docker's disk.
const DISK: u64 = 3 << 30;

/// Bytes of memory that each container may take, on average: nodes use some 20 MB.
const MEMORY: u64 = 48 << 20;

/// CAP_NET_ADMIN and CAP_SYS_ADMIN as bits of the effective set (capabilities(7)).
const CAPABILITIES: [(&str, u32); 2] = [("CAP_NET_ADMIN", 12), ("CAP_SYS_ADMIN", 21)];

/// Whether a testbed of so many sites can come up; the compose program, if so.
///
/// # Errors
///
/// What is missing, or in the way.
pub async fn check(state: &State, sites: usize) -> anyhow::Result<Compose> {
    rights()?;
    tun()?;
    let root = docker().await?;
    let compose = Compose::find().await?;
    nothing_is_up(state).await?;
    room(Path::new(&root), DISK)?;
    memory(sites as u64 * MEMORY)?;
    Ok(compose)
}

/// Rights to make devices and to enter other processes' network namespaces.
///
/// # Errors
///
/// If one is missing.
pub fn rights() -> anyhow::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    match missing_capability(&status) {
        None => Ok(()),
        Some(name) => {
            bail!("this needs {name}, to make the network between hosts; run it as root: sudo deploy/testbed/testbed …")
        }
    }
}

fn missing_capability(status: &str) -> Option<&'static str> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = u64::from_str_radix(line.unwrap_or_default().trim(), 16).unwrap_or(0);
    CAPABILITIES.iter().find(|(_, bit)| effective & (1 << bit) == 0).map(|(name, _)| *name)
}

fn tun() -> anyhow::Result<()> {
    std::fs::File::options().read(true).write(true).open("/dev/net/tun").map(drop).context(
        "cannot open /dev/net/tun, which carries the packets between hosts; load the module (modprobe tun), \
         or give this container the device (--device /dev/net/tun)",
    )
}

/// Docker's own directory.
async fn docker() -> anyhow::Result<String> {
    let root = command::run("docker", ["info", "--format", "{{.DockerRootDir}}"]).await;
    let root = root.context(
        "Docker does not answer; start it (systemctl start docker), or install it (apt-get install docker.io)",
    )?;
    Ok(root.trim().to_owned())
}

async fn nothing_is_up(state: &State) -> anyhow::Result<()> {
    let label = format!("label={LABEL}");
    let name = format!("name=^/{PROJECT}-");
    let ours = command::run("docker", ["ps", "--all", "--quiet", "--filter", &label]).await?;
    if state.exists() || !ours.trim().is_empty() {
        bail!("a testbed is up, or has left something behind; take it down first: testbed down");
    }
    let same_name = command::run("docker", ["ps", "--all", "--format", "{{.Names}}", "--filter", &name]).await?;
    if let Some(name) = same_name.lines().next() {
        bail!("a container that is not ours has the name {name}; remove or rename it: docker rename {name} OTHER");
    }
    Ok(())
}

fn room(directory: &Path, wanted: u64) -> anyhow::Result<()> {
    // Docker may see other directories than this process does: then there is nothing to tell.
    let Ok(file_system) = statvfs(directory) else {
        return Ok(());
    };
    let free = file_system.blocks_available() * file_system.fragment_size();
    if free < wanted {
        bail!(
            "only {} MB are free at {}, and the images need up to {} MB; make room there (docker system df)",
            free >> 20,
            directory.display(),
            wanted >> 20
        );
    }
    Ok(())
}

fn memory(wanted: u64) -> anyhow::Result<()> {
    let info = std::fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let available = info.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB"));
    let available = available.and_then(|kib| kib.parse::<u64>().ok()).map(|kib| kib << 10);
    match available {
        Some(available) if available < wanted => bail!(
            "{} MB of memory are free, and so many sites need {} MB; give a map with fewer of them (--map FILE)",
            available >> 20,
            wanted >> 20
        ),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_right_is_named() {
        assert_eq!(missing_capability("CapEff:\t000001ffffffffff\n"), None);
        assert_eq!(missing_capability("CapEff:\t0000000000001000\n"), Some("CAP_SYS_ADMIN"));
        assert_eq!(missing_capability("CapEff:\t0000000000000000\n"), Some("CAP_NET_ADMIN"));
        assert_eq!(missing_capability(""), Some("CAP_NET_ADMIN"));
    }

    #[test]
    fn a_disk_is_full_for_those_who_want_more_than_there_is() {
        let directory = tempfile::tempdir().unwrap();
        assert!(room(directory.path(), 1).is_ok());
        let e = room(directory.path(), u64::MAX).unwrap_err().to_string();
        assert!(e.contains("make room there"), "{e}");
    }
}
