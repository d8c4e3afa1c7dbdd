//! Running other programs: their output is kept for the error message, and they never outlive the call.

use std::ffi::OsStr;
use std::process::Stdio;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Command;

/// Lines of a failed program's output that its error shows.
const TAIL: usize = 12;

/// A program with these arguments, read from nowhere.
pub fn command<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs a program to its end and returns what it wrote to standard output.
///
/// It leads a process group of its own. If this future is dropped, as after an interrupt, the whole group is killed.
///
/// # Errors
///
/// If it cannot be started, or ends with another status than 0: then with the last lines that it wrote.
pub async fn output(mut command: Command) -> anyhow::Result<String> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let line = shown(&command);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    let child = command.spawn().with_context(|| format!("cannot run {name}; is it installed?"))?;
    let group = Group(child.id().and_then(|id| Some(Pid::from_raw(i32::try_from(id).ok()?))));
    let output = child.wait_with_output().await.with_context(|| format!("lost sight of {name}"))?;
    group.has_ended();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let said = if stderr.trim().is_empty() { stdout.trim() } else { stderr.trim() };
    let lines: Vec<&str> = said.lines().collect();
    bail!("`{line}` failed ({}): {}", output.status, lines[lines.len().saturating_sub(TAIL)..].join("\n"));
}

/// The same for `program` with `arguments`.
///
/// # Errors
///
/// As [`output`].
pub async fn run<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>) -> anyhow::Result<String> {
    output(command(program, arguments)).await
}

/// The command line, for messages; long ones are cut.
fn shown(command: &Command) -> String {
    const LONGEST: usize = 120;
    let words = std::iter::once(command.as_std().get_program()).chain(command.as_std().get_args());
    let line = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{} …", &line[..cut]),
        None => line,
    }
}

/// A process group that ends with its owner.
#[derive(Debug)]
struct Group(Option<Pid>);

impl Group {
    /// Its leader has ended and been waited for: the number may be another's by now.
    fn has_ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended just now, and then there is nothing to do.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failure_shows_what_the_program_said_last() {
        let e = run("sh", ["-c", "seq 1 20 >&2; exit 3"]).await.unwrap_err().to_string();
        assert!(e.contains("exit status: 3"), "{e}");
        assert!(e.ends_with("19\n20") && !e.contains("\n8\n"), "{e}");
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let e = run("no-such-program", ["x"]).await.unwrap_err();
        assert!(format!("{e:#}").contains("cannot run no-such-program"), "{e:#}");
    }

    #[tokio::test]
    async fn children_of_children_end_when_nobody_waits_any_more() {
        let directory = tempfile::tempdir().unwrap();
        let (ready, end) = (directory.path().join("ready"), directory.path().join("end"));
        // A pipe that the grandchild holds open for writing: reading it ends when the grandchild does.
        nix::unistd::mkfifo(&end, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let script = format!("sh -c 'echo > {}; sleep 600' > {} & wait", ready.display(), end.display());
        let reader = std::thread::spawn(move || std::fs::read(end));
        let work = tokio::spawn(run("sh", ["-c".to_owned(), script]));
        while !ready.exists() {
            tokio::task::yield_now().await;
        }
        work.abort();
        drop(work.await);
        assert_eq!(reader.join().unwrap().unwrap(), b"");
    }
}
