//! Network namespaces: made, entered, prepared as a host of the testbed, and removed for certain.
//!
//! A namespace with a name is the file `/run/netns/NAME`, as `ip netns` has it, so that `ip netns exec ctb-frankfurt-1 bash`
//! is a shell on that host. All of ours begin with `ctb-`: [`sweep`] finds what a run that was killed has left.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// Which namespace is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Netns {
    /// The one with this name, under `/run/netns`.
    Name(String),
    /// That of this process: a container's, for example.
    Pid(u32),
}

/// A namespace of our own, which goes when this is dropped.
///
/// Processes that still run in it keep the namespace, but nobody finds it by its name any more.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: File,
}

impl Netns {
    /// Opens the namespace, which keeps it alive while it is open.
    ///
    /// # Errors
    ///
    /// If there is no such namespace or process.
    pub fn open(&self) -> anyhow::Result<File> {
        let path = match self {
            Self::Name(name) => path_of(name),
            Self::Pid(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
        };
        File::open(&path).with_context(|| match self {
            Self::Name(name) => format!("there is no network namespace {name}"),
            Self::Pid(pid) => format!("process {pid} has no network namespace that can be opened"),
        })
    }
}

impl Namespace {
    /// Makes the namespace `ctb-NAME` and prepares it ([`prepare`]).
    ///
    /// # Errors
    ///
    /// If there is one already, or this process may not: it takes CAP_SYS_ADMIN and CAP_NET_ADMIN.
    pub fn create(name: &str) -> anyhow::Result<Self> {
        let name = format!("{PREFIX}{name}");
        let path = path_of(&name);
        fs::create_dir_all(DIRECTORY).with_context(|| format!("cannot make {DIRECTORY}: are you root?"))?;
        share_directory().with_context(|| format!("cannot make {DIRECTORY} a mount of its own: are you root?"))?;
        File::create_new(&path).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => {
                anyhow::anyhow!(
                    "the namespace {name} is there already: another testbed runs, or `coral-testbed sweep` is due"
                )
            }
            io::ErrorKind::PermissionDenied => {
                anyhow::anyhow!("network namespaces may not be made: run as root (CAP_SYS_ADMIN and CAP_NET_ADMIN)")
            }
            _ => anyhow::Error::new(e).context(format!("cannot make {}", path.display())),
        })?;
        let mounted = on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .context("cannot make a network namespace: run as root (CAP_SYS_ADMIN is needed)")?;
            mount(Some(OWN), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .with_context(|| format!("cannot mount the namespace at {}", path.display()))
        });
        if let Err(e) = mounted {
            // The file is ours and of no use.
            let _ = fs::remove_file(&path);
            return Err(e);
        }
        let namespace = File::open(&path).map(|file| Self { name, file });
        let namespace = namespace.with_context(|| format!("cannot open {}", path.display()))?;
        prepare(&namespace.file)?;
        Ok(namespace)
    }

    /// Its name, with the prefix.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How others are told which one it is.
    pub fn netns(&self) -> Netns {
        Netns::Name(self.name.clone())
    }

    /// The open namespace, for [`inside`].
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Does something inside, on a thread of its own: see [`inside`].
    ///
    /// # Errors
    ///
    /// If the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        inside(&self.file, work)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Nobody is left to be told; `sweep` finds what stays.
        let _ = remove(&self.name);
    }
}

/// Makes the directory a shared mount, as the first `ip netns add` of a machine does. Were it left to that, the directory would
/// be mounted over itself with our namespaces in it, which nobody could remove then: so it was on 2026-11-24.
fn share_directory() -> anyhow::Result<()> {
    let directory = File::open(DIRECTORY)?;
    // `ip` takes the same lock. It goes with the file.
    let _lock = Flock::lock(directory, FlockArg::LockExclusive).map_err(|(_, e)| e)?;
    let share = || mount(None::<&str>, DIRECTORY, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    // It is no mount yet.
    if share() == Err(Errno::EINVAL) {
        mount(Some(DIRECTORY), DIRECTORY, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
        share()?;
    }
    Ok(())
}

/// A new namespace that has no name, and lives while it is open or something is in it.
///
/// # Errors
///
/// If this process may not make one (CAP_SYS_ADMIN).
pub fn anonymous() -> anyhow::Result<File> {
    on_a_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)
            .context("cannot make a network namespace: run as root (CAP_SYS_ADMIN is needed)")?;
        File::open(OWN).with_context(|| format!("cannot open {OWN}"))
    })
}

/// Does something inside a namespace, on a thread of its own, and waits for it.
///
/// Sockets opened there, devices made there, and processes and threads begun there belong to the namespace. The calling thread
/// stays where it is.
///
/// # Errors
///
/// If the namespace cannot be entered.
pub fn inside<T: Send>(namespace: &File, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
    on_a_thread(|| {
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)
            .context("cannot enter the network namespace (CAP_SYS_ADMIN is needed)")?;
        Ok(work())
    })
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, work);
        match thread.context("cannot start a thread")?.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Makes a namespace a host like others: loopback up, ICMP unthrottled, echo sockets for everybody, IPv6 on.
///
/// A trace or a crowd of probes would otherwise lose answers to limits that are for hosts on a hostile network. For namespaces of
/// containers, too, which others have made.
///
/// # Errors
///
/// If it cannot be entered, or a setting that this kernel has cannot be set.
pub fn prepare(namespace: &File) -> anyhow::Result<()> {
    inside(namespace, || {
        for (name, value) in SETTINGS {
            let path = Path::new("/proc/sys/net").join(name);
            match fs::write(&path, value) {
                // Some are the whole machine's, not a namespace's, on older kernels, and IPv6 may not be there at all.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                written => written.with_context(|| format!("cannot set {}", path.display()))?,
            }
        }
        crate::wan::device::bring_up_loopback()
    })?
}

/// Removes all namespaces of ours, whoever left them, with the processes that still run in them, and says which there were.
///
/// # Errors
///
/// If one cannot be removed.
pub fn sweep() -> anyhow::Result<Vec<String>> {
    let removed = leftovers()?;
    for name in &removed {
        for process in processes(name)? {
            // One that has ended meanwhile is what is wanted.
            let _ = kill(process, Signal::SIGKILL);
        }
        remove(name)?;
    }
    Ok(removed)
}

/// The processes in a namespace: those whose own namespace is the same file.
fn processes(name: &str) -> anyhow::Result<Vec<Pid>> {
    let identity = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    // A file that is no mount has nobody in it.
    let wanted = identity(&path_of(name)).with_context(|| format!("cannot look at {name}"))?;
    let entries = fs::read_dir("/proc").context("cannot list processes")?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_inside = |pid: &i32| identity(Path::new(&format!("/proc/{pid}/ns/net"))).is_ok_and(|own| own == wanted);
    Ok(pids.filter(is_inside).map(Pid::from_raw).collect())
}

/// The names of all namespaces of ours that there are.
///
/// # Errors
///
/// If they cannot be listed.
pub fn leftovers() -> anyhow::Result<Vec<String>> {
    let entries = match fs::read_dir(DIRECTORY) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot list {DIRECTORY}"))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.with_context(|| format!("cannot list {DIRECTORY}"))?.file_name();
        names.extend(name.to_str().filter(|name| name.starts_with(PREFIX)).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// Removes one, mounted or not.
fn remove(name: &str) -> anyhow::Result<()> {
    ensure!(name.starts_with(PREFIX) && !name.contains('/'), "{name} is not a namespace of the testbed");
    let path = path_of(name);
    match umount2(&path, MntFlags::MNT_DETACH) {
        // A run that was killed between the two steps leaves a file that is no mount.
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(e) => bail!("cannot unmount {}: {e}", path.display()),
    }
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn path_of(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// What the names of our namespaces begin with.
pub const PREFIX: &str = "ctb-";
/// The namespace of the calling thread.
const OWN: &str = "/proc/thread-self/ns/net";
const DIRECTORY: &str = "/run/netns";
const SETTINGS: [(&str, &str); 9] = [
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv4/icmp_msgs_per_sec", "1000000"),
    ("ipv4/icmp_msgs_burst", "100000"),
    ("ipv6/icmp/ratelimit", "0"),
    ("ipv4/ping_group_range", "0 2147483647"),
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    // There is nobody to solicit, and no second host to detect.
    ("ipv6/conf/default/router_solicitations", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
];
