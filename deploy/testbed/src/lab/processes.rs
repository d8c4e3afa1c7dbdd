//! A network of plain namespaces: a router, an origin and node processes of our own.
//!
//! All of it is in one temporary directory and in namespaces whose names begin with `ctb-lab-`, and goes when it is dropped.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::STOP;
use super::web::Web;
use crate::dns::ORIGIN;
use crate::interrupt::Interrupt;
use crate::map::{Map, Site};
use crate::netns::{self, Namespace};
use crate::wan::control::{Attachment, Client};
use crate::wan::process::Process;

/// What to make.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The map, as text.
    pub map: String,
    /// What messages call it.
    pub map_name: String,
    /// The program `coral`; without it, the one beside this program.
    pub coral: Option<PathBuf>,
    /// Lines for the section `[dsht]` of each node's configuration, such as `diameters = []`.
    pub dsht: Vec<String>,
    /// Lines for the section `[dns]`, such as `measure = false`.
    pub dns: Vec<String>,
    /// Whether each node has a directory for its cache.
    pub disk: bool,
    /// How many of the first nodes the others join by, of those that are started.
    pub seeds: usize,
    /// Names of the nodes that are not started with the others, but by [`Lab::start`](super::Lab::start).
    pub later: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Processes {
    /// By the number of the site.
    nodes: BTreeMap<u16, Mutex<Node>>,
    origin: Web,
    router: Process,
    /// By the number of the site, less one.
    hosts: Vec<Namespace>,
    /// The last to go: all others write there.
    directory: TempDir,
    coral: PathBuf,
}

/// A node's process, which is killed when this is dropped.
#[derive(Debug, Default)]
struct Node(Option<Child>);

impl Setup {
    /// A network of this map, of nodes as they are by default.
    pub fn new(map: String, map_name: String) -> Self {
        Self { map, map_name, coral: None, dsht: Vec::new(), dns: Vec::new(), disk: false, seeds: 2, later: Vec::new() }
    }

    fn program(&self) -> anyhow::Result<PathBuf> {
        let program = match &self.coral {
            Some(program) => program.clone(),
            None => env::current_exe().context("cannot find this program's own file")?.with_file_name("coral"),
        };
        ensure!(
            program.is_file(),
            "there is no {}: build it with `cargo build --release`, or say where it is with --coral",
            program.display()
        );
        program.canonicalize().with_context(|| format!("cannot find {}", program.display()))
    }

    fn is_later(&self, site: &Site) -> bool {
        self.later.contains(&site.name)
    }

    /// A node's configuration: what differs from the defaults.
    fn node(&self, map: &Map, site: &Site) -> String {
        let first = map.nodes().filter(|seed| !self.is_later(seed)).take(self.seeds.max(1));
        let seeds = first.filter(|seed| seed.number != site.number);
        let seeds: Vec<String> = seeds.map(|seed| format!("\"{}:{DSHT_PORT}\"", seed.ipv4)).collect();
        let lines = |lines: &[String]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        let (dsht, dns) = (lines(&self.dsht), lines(&self.dns));
        // Beside the file itself, where the node is started.
        let disk = if self.disk { format!("[proxy.disk]\npath = \"{}.cache\"\n", site.name) } else { String::new() };
        format!(
            "[dsht]\n\
             address = \"{}\"\n\
             seeds = [{}]\n\
             {dsht}\n\
             [dns]\n\
             {dns}\n\
             # What the origin counts shall be what was fetched.\n\
             [proxy.peer]\n\
             verify = 0\n\
             # An origin in a laboratory's block of addresses is asked only where the configuration names it.\n\
             [[proxy.sites]]\n\
             host = \"{ORIGIN}\"\n\
             origin = \"http://{}\"\n\
             {disk}\n\
             [log]\n\
             filter = \"info,coral_proxy::access=off\"\n",
            site.ipv4,
            seeds.join(", "),
            map.origin().ipv4
        )
    }
}

impl Processes {
    pub(super) fn start(setup: &Setup, map: &Map, interrupt: &Interrupt) -> anyhow::Result<Self> {
        let coral = setup.program()?;
        let directory =
            tempfile::Builder::new().prefix("coral-lab-").tempdir().context("no directory for the nodes")?;
        let map_file = directory.path().join("map.toml");
        fs::write(&map_file, &setup.map).with_context(|| format!("cannot write {}", map_file.display()))?;
        // Names of its own, so that it can run beside a testbed.
        let run = std::process::id();
        let mut hosts = Vec::new();
        for site in map.sites() {
            interrupt.check()?;
            hosts.push(Namespace::create(&format!("lab-{run}-{}", site.name))?);
        }
        let router = Process::start(Some(&map_file), &directory.path().join("wan.sock"))?;
        let attach = |(site, host): (&Site, &Namespace)| Attachment { site: site.name.clone(), netns: host.netns() };
        router.client()?.attach(map.sites().iter().zip(&hosts).map(attach).collect())?;
        let origin = map.origin();
        let origin = Web::start(&hosts[usize::from(origin.number) - 1], origin.ipv4.into())?;
        for site in map.nodes() {
            let file = configuration(directory.path(), site);
            fs::write(&file, setup.node(map, site)).with_context(|| format!("cannot write {}", file.display()))?;
        }
        let nodes = map.nodes().map(|site| (site.number, Mutex::default())).collect();
        let network = Self { nodes, origin, router, hosts, directory, coral };
        for site in map.nodes().filter(|site| !setup.is_later(site)) {
            interrupt.check()?;
            network.start_node(site)?;
        }
        Ok(network)
    }

    pub(super) fn namespace(&self, site: &Site) -> anyhow::Result<File> {
        let host = &self.hosts[usize::from(site.number) - 1];
        host.file().try_clone().context("cannot open the namespace once more")
    }

    fn node(&self, site: &Site) -> anyhow::Result<MutexGuard<'_, Node>> {
        let node = self.nodes.get(&site.number).with_context(|| format!("{} is no node", site.name))?;
        Ok(node.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn is_running(&self, site: &Site) -> anyhow::Result<bool> {
        match &mut self.node(site)?.0 {
            Some(child) => Ok(child.try_wait().context("cannot ask for a node")?.is_none()),
            None => Ok(false),
        }
    }

    pub(super) fn process_id(&self, site: &Site) -> anyhow::Result<u32> {
        let node = self.node(site)?;
        node.0.as_ref().map(Child::id).with_context(|| format!("{} does not run", site.name))
    }

    pub(super) fn start_node(&self, site: &Site) -> anyhow::Result<()> {
        if self.is_running(site)? {
            return Ok(());
        }
        let directory = self.directory.path();
        let log = File::options().create(true).append(true).open(log_file(directory, site));
        let log = log.context("cannot write a node's log")?;
        let mut command = Command::new(&self.coral);
        command.arg("node").arg("--config").arg(configuration(directory, site)).current_dir(directory);
        // Not in this process's group: Ctrl-C is for this process, which then ends the node.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.stdin(Stdio::null()).stdout(log.try_clone().context("cannot write a node's log")?).stderr(log);
        let child = netns::inside(&self.namespace(site)?, || command.spawn())?;
        let child = child.with_context(|| format!("cannot start {}", self.coral.display()))?;
        *self.node(site)? = Node(Some(child));
        Ok(())
    }

    pub(super) fn kill(&self, site: &Site) -> anyhow::Result<()> {
        *self.node(site)? = Node(None);
        Ok(())
    }

    pub(super) fn stop(&self, site: &Site) -> anyhow::Result<()> {
        let mut node = self.node(site)?;
        let Some(child) = &mut node.0 else { return Ok(()) };
        let pid = i32::try_from(child.id()).context("a process id that is none")?;
        if child.try_wait()?.is_none() {
            kill(Pid::from_raw(pid), Signal::SIGTERM).with_context(|| format!("cannot stop {}", site.name))?;
        }
        let begun = Instant::now();
        while child.try_wait()?.is_none() {
            if begun.elapsed() > STOP {
                *node = Node(None);
                bail!("{} has not ended within {STOP:?} and was killed", site.name);
            }
            thread::sleep(ENDS);
        }
        *node = Node(None);
        Ok(())
    }

    pub(super) fn wan(&self) -> anyhow::Result<Client> {
        self.router.client()
    }

    pub(super) fn origin_requests(&self) -> BTreeMap<String, u64> {
        self.origin.asked()
    }

    pub(super) fn ended(&self, site: &Site) -> anyhow::Error {
        let log = fs::read_to_string(log_file(self.directory.path(), site)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
        anyhow::anyhow!("{} has ended; the last that it said: {tail}", site.name)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        // All at once, so that they need not wait for each other's ends; each is waited for as it is dropped.
        for node in self.nodes.values_mut() {
            if let Some(child) = &mut node.get_mut().unwrap_or_else(PoisonError::into_inner).0 {
                // One that has ended already needs no killing.
                let _ = child.kill();
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // One that has ended already needs no killing, only the waiting.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn configuration(directory: &Path, site: &Site) -> PathBuf {
    directory.join(format!("{}.toml", site.name))
}

fn log_file(directory: &Path, site: &Site) -> PathBuf {
    directory.join(format!("{}.log", site.name))
}

/// The port of a node's index; that of `deploy/coral.toml`.
const DSHT_PORT: u16 = 4160;
/// Lines of its log that are shown of a node that has ended.
const TAIL: usize = 5;
/// How long until it is asked again whether a node has ended.
const ENDS: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_later_is_nobodys_seed() {
        let map = Map::four_regions();
        let mut setup = Setup::new(String::new(), String::new());
        let names: Vec<String> = map.nodes().map(|site| site.name.clone()).collect();
        setup.later = vec![names[0].clone()];
        setup.seeds = 1;
        let first = map.site(&names[1]).unwrap();
        for site in map.nodes().filter(|site| site.number != first.number) {
            assert!(setup.node(&map, site).contains(&format!("seeds = [\"{}:", first.ipv4)), "{}", site.name);
        }
        assert!(setup.node(&map, first).contains("seeds = []"));
    }

    #[test]
    fn nodes_are_configured_as_a_node_reads_it() {
        let map = Map::four_regions();
        let mut setup = Setup::new(String::new(), String::new());
        setup.dsht.push("diameters = []".to_owned());
        for site in map.nodes() {
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("coral.toml");
            fs::write(&file, setup.node(&map, site)).unwrap();
            let config = coral::config::Config::load(Some(&file), &[]).unwrap();
            let seeds = if site.number <= 2 { 1 } else { 2 };
            assert_eq!(config.dsht.node.seeds.len(), seeds, "{}", site.name);
            assert!(config.dsht.part.diameters.is_empty());
            assert_eq!(config.proxy.part.sites.len(), 1);
        }
    }
}
