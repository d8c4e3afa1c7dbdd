//! A server's processes: ended with this one, and what they cost.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a server may take to end when it is told to.
const ENDING: Duration = Duration::from_secs(3);

/// A server that runs until this is dropped, or this process ends in any other way.
#[derive(Debug)]
pub struct Server {
    child: Child,
}

impl Server {
    /// Starts `program`, with its output in the file `log`.
    pub fn start(program: &Path, arguments: &[String], log: &Path) -> anyhow::Result<Self> {
        let output = fs::File::create(log)?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--"])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("cannot start setpriv, which ends a server with us")?;
        Ok(Self { child })
    }

    /// Whether it has not ended by itself.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// CPU time so far, of all its processes.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let ticks_a_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock ticks")? as u64;
        let mut ticks = 0;
        for pid in self.processes() {
            ticks += stat(pid).map_or(0, |stat| stat.ticks);
        }
        Ok(Duration::from_secs(ticks) / u32::try_from(ticks_a_second)?)
    }

    /// Memory of all its processes, each page shared out among those who have it, in bytes.
    pub fn memory(&self) -> u64 {
        let of = |pid: u32| {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
            line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
        };
        self.processes().into_iter().filter_map(of).sum::<u64>() * 1024
    }

    /// Its own and those that it has started.
    fn processes(&self) -> Vec<u32> {
        let Ok(all) = fs::read_dir("/proc") else {
            return vec![self.child.id()];
        };
        let all: Vec<(u32, u32)> = all
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(|pid| Some((pid, stat(pid)?.parent)))
            .collect();
        let mut family = vec![self.child.id()];
        let mut at = 0;
        while let Some(&parent) = family.get(at) {
            family.extend(all.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
            at += 1;
        }
        family
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let signal = |pid: u32, signal| kill(Pid::from_raw(pid.cast_signed()), signal);
        let family = self.processes();
        // Not yet waited for, so the number is still its own.
        let _ = signal(self.child.id(), Signal::SIGTERM);
        let start = Instant::now();
        while start.elapsed() < ENDING {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(10)),
                Ok(Some(_)) | Err(_) => return,
            }
        }
        for pid in family {
            let _ = signal(pid, Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

struct Stat {
    parent: u32,
    /// In user and kernel mode.
    ticks: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may have blanks and parentheses itself.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Stat { parent: fields.get(1)?.parse().ok()?, ticks })
}
