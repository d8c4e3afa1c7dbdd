//! The name service around a network of processes: the fake root, and recursive resolvers at clients' sites.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use coral::demo::names;
use tempfile::TempDir;

use super::Release;
use crate::dns::{self, ANCHORS, Configuration, ROOT_HINTS, Trust, configuration, trixie_configuration};
use crate::images;
use crate::lab::{Guest, Lab, Tree};
use crate::map::{Resolver, Site};

/// A root and trees of programs. What was started by it ends before it does, or is of no use any more.
#[derive(Debug)]
pub struct Internet {
    _root: Guest,
    trees: BTreeMap<Release, Tree>,
    /// The last to go: the trees have it mounted.
    directory: TempDir,
}

/// A resolver at a site.
#[derive(Debug)]
pub struct Running {
    guest: Guest,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Internet {
    /// Starts the root of a lab; resolvers can be had of these releases.
    ///
    /// # Errors
    ///
    /// If an image cannot be built, or the server does not start.
    pub fn start(lab: &Lab, releases: &[Release]) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("coral-internet-").tempdir().context("no directory")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut trees = BTreeMap::new();
        // The root's server is of the first.
        for release in std::iter::once(&Release::Bookworm).chain(releases) {
            if trees.contains_key(release) {
                continue;
            }
            let image = runtime.block_on(async {
                match release {
                    Release::Bookworm => images::resolvers().await,
                    Release::Trixie => images::trixie_resolvers().await,
                }
            })?;
            trees.insert(*release, Tree::new(&image, directory.path(), FILES)?);
        }
        open_to_all(directory.path())?;
        let map = lab.map();
        let host = directory.path().join("root");
        fs::create_dir(&host).context("cannot make a directory")?;
        for (zone, text) in dns::zones(&map) {
            fs::write(host.join(dns::zone_file(zone)), text).context("cannot write a zone")?;
        }
        fs::write(host.join("nsd.conf"), dns::server(&map, &format!("{FILES}/root"))).context("cannot write a file")?;
        open_to_all(&host)?;
        let nsd = words(&format!("nsd -d -c {FILES}/root/nsd.conf"));
        let namespace = lab.namespace(map.root())?;
        let mut root = trees[&Release::Bookworm].start("the root", &namespace, &nsd, &host.join("log"))?;
        let address = SocketAddr::new(map.root().ipv4.into(), DNS);
        answers(lab, map.root(), &mut root, address, "net")?;
        Ok(Self { _root: root, trees, directory })
    }

    /// Starts a resolver with an empty cache at a client's site, with these further lines of configuration. See [`Running::wait`].
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn resolver(
        &self,
        lab: &Lab,
        site: &Site,
        resolver: Resolver,
        release: Release,
        more: &str,
    ) -> anyhow::Result<Running> {
        let mut run = configured(site, resolver, release);
        run.text += more;
        self.start_resolver(lab, site, release, run, "")
    }

    /// The same for one that validates, from this trust anchor on.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn validating_resolver(
        &self,
        lab: &Lab,
        site: &Site,
        resolver: Resolver,
        release: Release,
        trust: &Trust,
    ) -> anyhow::Result<Running> {
        let files = format!("{FILES}/{}", directory_name(site, release));
        let (run, anchors) = trust.told(resolver, configured(site, resolver, release), &files);
        self.start_resolver(lab, site, release, run, &anchors)
    }

    fn start_resolver(
        &self,
        lab: &Lab,
        site: &Site,
        release: Release,
        run: Configuration,
        anchors: &str,
    ) -> anyhow::Result<Running> {
        let name = directory_name(site, release);
        let host = self.directory.path().join(&name);
        fs::create_dir_all(&host).context("cannot make a directory")?;
        fs::write(host.join(run.file), run.text).context("cannot write a file")?;
        fs::write(host.join(ROOT_HINTS), dns::root_hints(&lab.map())).context("cannot write a file")?;
        fs::write(host.join(ANCHORS), anchors).context("cannot write a file")?;
        open_to_all(&host)?;
        let guest = self.trees[&release].start(&name, &lab.namespace(site)?, &run.command, &self.log(&name))?;
        Ok(Running { guest, address: SocketAddr::new(IpAddr::V4(site.ipv4), DNS) })
    }

    fn log(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.log"))
    }
}

impl Running {
    /// That it still runs.
    ///
    /// # Errors
    ///
    /// If it has ended: with the last that it said.
    pub fn check(&mut self) -> anyhow::Result<()> {
        self.guest.check()
    }

    /// Waits until it answers, by a name that it knows without asking others.
    ///
    /// # Errors
    ///
    /// If it ends, or does not answer within `START`.
    pub fn wait(&mut self, lab: &Lab, site: &Site) -> anyhow::Result<()> {
        answers(lab, site, &mut self.guest, self.address, "localhost")
    }
}

fn directory_name(site: &Site, release: Release) -> String {
    format!("{}-{release}", site.name)
}

/// How a resolver is run at a site, by itself.
fn configured(site: &Site, resolver: Resolver, release: Release) -> Configuration {
    let make = match release {
        Release::Bookworm => configuration,
        Release::Trixie => trixie_configuration,
    };
    make(resolver, &[site.ipv4], site.ipv4, &format!("{FILES}/{}", directory_name(site, release)))
}

fn answers(lab: &Lab, site: &Site, guest: &mut Guest, address: SocketAddr, name: &str) -> anyhow::Result<()> {
    lab.interrupt().until(&format!("a name server at {} is to answer", site.name), START, || {
        guest.check()?;
        Ok(lab.at(site, || names::ask(address, name))?.map(drop).map_err(|e| format!("{e:#}")))
    })
}

/// Servers give up their rights, and read files all the same.
fn open_to_all(directory: &std::path::Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).context("cannot open a directory to all")
}

/// A command line as words.
pub fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// Runs a command to its end inside a tree's file system, at a site.
///
/// # Errors
///
/// If it cannot be run. What it ends with is the caller's to judge: both are in the output.
pub fn run_at(lab: &Lab, site: &Site, tree: &Tree, line: &[String]) -> anyhow::Result<std::process::Output> {
    let mut command = tree.command(line);
    crate::netns::inside(&lab.namespace(site)?, || command.output())?.context("cannot run nsenter")
}

/// Where programs find their files.
pub const FILES: &str = "/etc/testbed";
/// How long a server may take to start.
const START: Duration = Duration::from_secs(30);
const DNS: u16 = 53;
