//! The process that starts one for each network, gives them their tasks in turn, and gathers what they say.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, bail};

use crate::report;
use crate::work::{Figures, Task};

/// What is wanted.
#[derive(Debug)]
pub struct Options {
    /// Nodes in each network.
    pub nodes: usize,
    /// How often the idle and the busy work is done.
    pub rounds: usize,
    /// The networks, the one that others are compared with first.
    pub names: Vec<String>,
    /// Where the figures are to be written to, besides.
    pub json: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        let names = ["coral", "coral-flat", "mainline", "kad"].map(str::to_owned).to_vec();
        Self { nodes: 64, rounds: 2, names, json: None }
    }
}

/// The process of one network.
struct Network {
    name: String,
    process: Child,
    tasks: ChildStdin,
    answers: BufReader<ChildStdout>,
    figures: Figures,
}

impl Network {
    fn start(name: &str, nodes: usize) -> anyhow::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["--nodes", &nodes.to_string(), "--child", name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let tasks = process.stdin.take().context("it was asked for")?;
        let answers = BufReader::new(process.stdout.take().context("it was asked for")?);
        Ok(Self { name: name.to_owned(), process, tasks, answers, figures: Figures::new() })
    }

    fn ask(&mut self, task: Task) -> anyhow::Result<()> {
        serde_json::to_writer(&mut self.tasks, &task)?;
        writeln!(self.tasks)?;
        Ok(self.tasks.flush()?)
    }

    fn hear(&mut self) -> anyhow::Result<()> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        if line.is_empty() {
            bail!("{} has ended early", self.name);
        }
        for (name, values) in serde_json::from_str::<Figures>(&line)? {
            self.figures.entry(name).or_default().extend(values);
        }
        Ok(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs all of it and prints the table.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let begun = std::time::Instant::now();
    eprintln!("{} nodes each, load average {}", options.nodes, load_average());
    let mut networks = Vec::new();
    for name in &options.names {
        // One after the other: a machine that is busy starting one would hold up the round trips of another.
        let mut network = Network::start(name, options.nodes)?;
        network.hear()?;
        networks.push(network);
    }
    eprintln!("all have started after {:.0} s", begun.elapsed().as_secs_f64());
    for round in 1..=options.rounds {
        for task in [Task::Idle(IDLE_SECONDS), Task::Busy(BUSY_SECONDS)] {
            for network in &mut networks {
                network.ask(task)?;
                network.hear()?;
            }
        }
        eprintln!("round {round} of {} done after {:.0} s", options.rounds, begun.elapsed().as_secs_f64());
    }
    // Puts of one key a second from each node are little work for a network over UDP, and all that kad can do.
    let (busy, light): (Vec<_>, Vec<_>) = networks.iter_mut().partition(|network| network.name == "kad");
    for (group, seconds) in [(light, HOT_SECONDS), (busy, HOT_SECONDS_KAD)] {
        together(group, Task::Hot { seconds, every: 1.0 })?;
    }
    eprintln!("the hot key done after {:.0} s", begun.elapsed().as_secs_f64());
    for network in &mut networks {
        together(vec![network], Task::Silence)?;
    }
    eprintln!("all done after {:.0} s, load average {}", begun.elapsed().as_secs_f64(), load_average());
    let figures: BTreeMap<&str, &Figures> =
        networks.iter().map(|network| (network.name.as_str(), &network.figures)).collect();
    let rows = report::rows(&options.names, &figures);
    print!("{}", report::table(&options.names, &rows));
    if let Some(path) = &options.json {
        let json = report::json(options.nodes, options.rounds, &options.names, &rows);
        fs::write(path, json).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn together(mut group: Vec<&mut Network>, task: Task) -> anyhow::Result<()> {
    for network in &mut group {
        network.ask(task)?;
    }
    for network in group {
        network.hear()?;
    }
    Ok(())
}

fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// For puts, and again for gets.
const IDLE_SECONDS: f64 = 2.0;
/// For puts, and again for gets.
const BUSY_SECONDS: f64 = 2.0;
/// The rules of coral against hot spots need some seconds to take hold, and count by the minute.
const HOT_SECONDS: f64 = 30.0;
/// What kad does in its first second it does in all.
const HOT_SECONDS_KAD: f64 = 10.0;
