//! The binary as a process of its own.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;

use super::PATIENCE;

/// The binary, to be run with these arguments.
pub(crate) fn coral(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coral"));
    // Whatever the tester's own environment sets is none of the test's business.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CORAL_")) {
        command.env_remove(name);
    }
    command.args(arguments);
    command
}

/// What it prints with them, and how it ends.
pub(crate) fn run(arguments: &[&str]) -> Output {
    coral(arguments).output().expect("the binary runs")
}

/// What it said to people.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A node whose log is read line by line.
pub(crate) struct Running {
    pub(crate) child: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    /// A node whose index and cache listen at free ports.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let free = "127.0.0.1:0";
        let mut command = coral(&["node", "--dsht-listen", free, "--proxy-listen", free]);
        command.args(arguments).stderr(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the binary runs");
        let log = BufReader::new(child.stderr.take().unwrap());
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || log.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        Self { child, lines }
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// The next line of the log that contains `text`.
    pub(crate) fn line_with(&self, text: &str) -> String {
        let mut seen = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            if line.contains(text) {
                return line;
            }
            seen.push(line);
        }
        panic!("no line with `{text}` in {seen:#?}");
    }

    /// Waits until it ends; its exit status.
    pub(crate) fn end(&mut self) -> Option<i32> {
        // Its standard output closes when it ends.
        let mut rest = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "", "a node prints nothing");
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already ended, when the test has passed.
        let _ = self.child.kill();
    }
}
