//! What all experiments share: a network to run on, the progress bar, and the files that they leave.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use coral::report::Report;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Options;
use crate::interrupt::Interrupt;
use crate::lab::{Lab, Setup};
use crate::map::{FOUR_REGIONS, Rate};
use crate::wan::control::{AccessChange, Limit, Request};

/// Where an experiment runs.
#[derive(Debug)]
pub struct Stage {
    /// What it was told.
    pub options: Options,
    /// Whether it is to end.
    pub interrupt: Interrupt,
    name: &'static str,
    bar: ProgressBar,
}

/// What an experiment has found.
#[derive(Debug)]
pub struct Findings {
    /// Figures and picture.
    pub report: Report,
    /// What is not as it should be, a line each.
    pub broken: Vec<String>,
}

impl Stage {
    /// Runs an experiment and shows what it found. `Ok(false)`: not all was as it should be.
    ///
    /// # Errors
    ///
    /// As the experiment's; or if what it found cannot be written down.
    pub fn run(
        name: &'static str,
        options: &Options,
        work: impl FnOnce(&Self) -> anyhow::Result<Findings>,
    ) -> anyhow::Result<bool> {
        let interrupt = Interrupt::watch()?;
        let begun = Instant::now();
        // Before the work: a long run must not end at a directory that is not there.
        let svg = Leaf::create(options.svg.as_deref(), name, "svg")?;
        let json = Leaf::create(options.json.as_deref(), name, "json")?;
        // Shown only where there is a terminal.
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let stage = Self { options: options.clone(), interrupt, name, bar };
        let found = work(&stage);
        stage.bar.finish_and_clear();
        stage.interrupt.check()?;
        let Findings { report, broken } = found?;
        print!("{}", report.text());
        println!("picture: {}", svg.write(&report.chart.svg())?);
        println!("figures: {}", json.write(&report.json())?);
        for line in &broken {
            println!("not as it should be: {line}");
        }
        let verdict = if broken.is_empty() { "all was as it should be" } else { "failed" };
        println!("{name}: {verdict}, after {:.0} s", begun.elapsed().as_secs_f64());
        Ok(broken.is_empty())
    }

    /// The containers that are up, or a network of node processes: of the map, or of so many of PlanetLab's hosts. It has been waited
    /// for until all nodes have joined and clusters have settled.
    ///
    /// # Errors
    ///
    /// If there are no containers, or processes do not start or join.
    pub fn lab(&self, nodes: u16) -> anyhow::Result<Lab> {
        if self.makes_processes() { Ok(self.processes(nodes, &[])?.0) } else { self.containers() }
    }

    /// Whether a network of processes is wanted, and not the containers.
    pub fn makes_processes(&self) -> bool {
        self.options.processes || self.options.map.map.is_some() || self.options.nodes.is_some()
    }

    /// The containers that are up.
    ///
    /// # Errors
    ///
    /// If there are none.
    pub fn containers(&self) -> anyhow::Result<Lab> {
        let lab = Lab::containers(&self.interrupt)?;
        self.settle(&lab)?;
        Ok(lab)
    }

    /// A network of node processes, with these lines in the section `[dsht]` of each node's configuration, and after how long its
    /// clusters had settled.
    ///
    /// # Errors
    ///
    /// If they do not start or join.
    pub fn processes(&self, nodes: u16, dsht: &[&str]) -> anyhow::Result<(Lab, Duration)> {
        let mut setup = self.setup(|| (planetlab(nodes, self.options.seed), PLANETLAB))?;
        setup.dsht = dsht.iter().map(|line| (*line).to_owned()).collect();
        self.bring_up(&setup)
    }

    /// What a network of processes is to be made of: the map that was asked for, or else the one of four regions.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn regions(&self) -> anyhow::Result<Setup> {
        self.setup(|| (FOUR_REGIONS.to_owned(), "the map of four regions"))
    }

    /// What a network of processes is to be made of: what was asked for, or else what `default` says, which is the text of a map and
    /// what messages call it.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn setup(&self, default: impl FnOnce() -> (String, &'static str)) -> anyhow::Result<Setup> {
        let (map, map_name) = match (&self.options.map.map, self.options.nodes) {
            (Some(file), _) => {
                let text = fs::read_to_string(file);
                (text.with_context(|| format!("cannot read the map {}", file.display()))?, file.display().to_string())
            }
            (None, Some(nodes)) => (planetlab(nodes, self.options.seed), PLANETLAB.to_owned()),
            (None, None) => {
                let (map, map_name) = default();
                (map, map_name.to_owned())
            }
        };
        let mut setup = Setup::new(map, map_name);
        setup.coral.clone_from(&self.options.coral);
        Ok(setup)
    }

    /// A network of node processes; all but those that come later have joined, and clusters have settled: after how long, is the second.
    ///
    /// # Errors
    ///
    /// If they do not start or join.
    pub fn bring_up(&self, setup: &Setup) -> anyhow::Result<(Lab, Duration)> {
        self.say("bringing the network up");
        let lab = Lab::processes(setup, &self.interrupt)?;
        let settled = self.settle(&lab)?;
        Ok((lab, settled))
    }

    /// Waits until all nodes that run have joined and clusters have settled, and says how that went.
    fn settle(&self, lab: &Lab) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let map = lab.map();
        let mut nodes = Vec::new();
        for site in map.nodes() {
            if lab.is_running(site)? {
                nodes.push(site);
            }
        }
        self.say(&format!("{} nodes join", nodes.len()));
        lab.wait_joined(&nodes, JOIN)?;
        let joined = begun.elapsed();
        self.say("clusters settle");
        let settled = lab.wait_settled(SETTLE)?;
        let clusters = settled.formation.clusters();
        let at = |level| clusters.iter().filter(|((of, _), nodes)| *of == level && nodes.len() > 1).count();
        self.bar.suspend(|| {
            eprintln!(
                "{}: joined after {:.1} s; {:.1} s later {} clusters of more than one at level 2, {} at level 1",
                described(lab),
                joined.as_secs_f64(),
                settled.took.as_secs_f64(),
                at(2),
                at(1)
            );
        });
        Ok(settled.took)
    }

    /// Says what is being done.
    pub fn say(&self, what: &str) {
        let style = ProgressStyle::with_template("{prefix}: {msg} {spinner} {elapsed}").expect("a template of our own");
        self.bar.set_style(style);
        self.bar.set_prefix(self.name);
        self.bar.set_message(what.to_owned());
        self.bar.enable_steady_tick(Duration::from_millis(200));
    }

    /// Says what is being done, and of how many steps it consists; the bar that is returned counts them.
    pub fn count(&self, what: &str, steps: usize) -> &ProgressBar {
        let style = ProgressStyle::with_template("{prefix}: {msg:30} [{bar:30}] {pos}/{len} {elapsed}");
        self.bar.set_style(style.expect("a template of our own").progress_chars("=> "));
        self.bar.set_prefix(self.name);
        self.bar.set_message(what.to_owned());
        self.bar.set_length(steps as u64);
        self.bar.set_position(0);
        &self.bar
    }

    /// A name for the objects of this run, which no run before has used.
    pub fn run_name(&self) -> String {
        // A clock before 1970 is as good as any.
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        format!("{}-{:x}", self.name, since.as_millis())
    }
}

/// A map of so many of PlanetLab's hosts, and a thin line for the origin [C04 §6.1].
fn planetlab(nodes: u16, seed: u64) -> String {
    format!(
        "[planetlab]\n\
         sites = {nodes}\n\
         seed = {seed}\n\
         [defaults]\n\
         jitter = \"0.2ms\"\n\
         [origin]\n\
         access = {{ up = \"384 kbit/s\", down = \"384 kbit/s\", queue = \"1s\" }}\n"
    )
}

/// The sites of a lab's nodes in a few words, for titles.
pub fn described(lab: &Lab) -> String {
    let map = lab.map();
    let regions: std::collections::BTreeSet<usize> = map.nodes().map(|site| site.region).collect();
    format!("{} nodes in {} regions, {}", map.nodes().count(), regions.len(), lab.made_of())
}

/// The origin's line without bounds, where it is not what is measured. It is as the map says again when this is dropped.
#[derive(Debug)]
pub struct OriginLine<'l>(&'l Lab);

impl<'l> OriginLine<'l> {
    /// Takes the bounds away.
    ///
    /// # Errors
    ///
    /// If the router has gone.
    pub fn widen(lab: &'l Lab) -> anyhow::Result<Self> {
        let this = Self(lab);
        this.set(None, None)?;
        Ok(this)
    }

    fn set(&self, up: Option<Rate>, down: Option<Rate>) -> anyhow::Result<()> {
        let limit = |rate: Option<_>| Some(rate.map_or(Limit::Unlimited, Limit::At));
        let change = AccessChange { up: limit(up), down: limit(down), queue: None };
        let at = self.0.map().origin().name.clone();
        Ok(self.0.wan()?.tell(&Request::Access { at, change })?)
    }
}

impl Drop for OriginLine<'_> {
    fn drop(&mut self) {
        let access = self.0.map().origin().access;
        // A router that has gone has no lines any more.
        let _ = self.set(access.up, access.down);
    }
}

/// A file that is made before there is anything to write.
#[derive(Debug)]
struct Leaf {
    path: PathBuf,
    file: File,
}

impl Leaf {
    /// The file that is wanted, or one for this name in the directory `testbed` beside the directory of this program.
    fn create(wanted: Option<&Path>, name: &str, extension: &str) -> anyhow::Result<Self> {
        let path = match wanted {
            Some(path) => path.to_owned(),
            None => {
                let program = std::env::current_exe().context("cannot find this program's own file")?;
                let build = program.ancestors().nth(2).unwrap_or(Path::new("/tmp"));
                let directory = build.join("testbed");
                fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
                directory.join(format!("{name}.{extension}"))
            }
        };
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, file })
    }

    /// Writes it, and says where it is.
    fn write(mut self, text: &str) -> anyhow::Result<String> {
        let path = self.path.display().to_string();
        self.file.write_all(text.as_bytes()).with_context(|| format!("cannot write {path}"))?;
        Ok(path)
    }
}

/// What messages call such a map.
const PLANETLAB: &str = "the map of PlanetLab";
/// How long nodes may take to join, once they run.
const JOIN: Duration = Duration::from_secs(90);
/// How long clusters are waited for.
const SETTLE: Duration = Duration::from_secs(180);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::Map;

    #[test]
    fn a_map_of_any_size_can_be_made() {
        for nodes in [2, 60, 370] {
            let map = Map::parse(&planetlab(nodes, 3), "test").unwrap();
            assert_eq!(map.nodes().count(), usize::from(nodes));
            assert!(map.origin().access.up.is_some());
        }
    }
}
