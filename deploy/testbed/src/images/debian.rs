//! The machine's own Debian: where it gets packages from, and a base image made of them.
//!
//! Nothing can be taken for granted about registries of images, but a machine that installs packages knows a mirror. So
//! the base is made by debootstrap, from the mirror, the release and the proxies that apt on this machine uses.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::command;

/// What apt on this machine is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Apt {
    /// The release, by its code name.
    pub(super) release: String,
    /// The mirror of the release itself.
    mirror: String,
    /// The release, its updates and its security updates, as lines of a sources.list.
    sources: String,
    /// How it speaks to mirrors (proxies, checks), as lines of an apt.conf.
    transport: String,
}

impl Apt {
    /// Asks apt.
    pub(super) async fn of_this_machine() -> anyhow::Result<Self> {
        let os = std::fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
        let release = release(&os)?;
        let targets = async || {
            let format = "$(REPO_URI) $(RELEASE) $(ORIGIN)";
            let filter = ["indextargets", "--format", format, "Created-By: Packages", "Component: main"];
            command::run("apt-get", filter).await
        };
        let mut known = targets().await?;
        if sources(&known, &release).is_none() {
            // The origin of a mirror is known once its lists have been fetched.
            command::run("apt-get", ["update"]).await?;
            known = targets().await?;
        }
        let Some((mirror, sources)) = sources(&known, &release) else {
            bail!(
                "apt on this machine knows no mirror of Debian {release}; add one to /etc/apt/sources.list.d \
                 (`apt-get indextargets` lists them)"
            );
        };
        let transport = transport(&command::run("apt-config", ["dump", "Acquire"]).await?);
        Ok(Self { release, mirror, sources, transport })
    }

    /// The same mirrors, but for another release of Debian.
    pub(super) fn with_release(mut self, release: &str) -> Self {
        self.sources = self.sources.replace(&format!(" {}", self.release), &format!(" {release}"));
        self.release = release.to_owned();
        self
    }

    /// Makes the smallest Debian system that has apt in `root`, which is an empty directory.
    pub(super) async fn bootstrap(&self, root: &Path) -> anyhow::Result<()> {
        if command::run("debootstrap", ["--version"]).await.is_err() {
            command::run("apt-get", ["update"]).await?;
            command::run("apt-get", ["install", "-y", "--no-install-recommends", "debootstrap"])
                .await
                .context("debootstrap is missing and cannot be installed")?;
        }
        // What debootstrap mounts is seen by its own processes only, so that it is gone when they are, however they end.
        let mut bootstrap = command::command("unshare", ["--mount", "--propagation", "private", "debootstrap"]);
        bootstrap.args(["--variant=minbase", "--include=ca-certificates", &self.release]).arg(root).arg(&self.mirror);
        for (name, value) in self.proxies() {
            bootstrap.env(name, value);
        }
        command::output(bootstrap).await.context("cannot make a base system of Debian packages")?;

        let write = |path: &str, text: &str| {
            let path = root.join(path);
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        write("etc/apt/sources.list", &self.sources)?;
        write("etc/apt/apt.conf.d/90host", &self.transport)?;
        write("etc/apt/apt.conf.d/90small", SMALL)?;
        write("etc/dpkg/dpkg.cfg.d/90small", NO_DOCUMENTATION)?;
        // Whatever is installed is not started: the container's command alone runs.
        write("usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n")?;
        let policy = root.join("usr/sbin/policy-rc.d");
        std::fs::set_permissions(&policy, Permissions::from_mode(0o755))
            .with_context(|| format!("cannot make {} executable", policy.display()))?;
        Ok(())
    }

    /// apt's proxies, as debootstrap and what it calls take them.
    fn proxies(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let value = |key: &str| {
            let line = self.transport.lines().find_map(|line| line.strip_prefix(key))?;
            Some(line.trim().trim_matches(|c| c == '"' || c == ';')).filter(|proxy| *proxy != "DIRECT")
        };
        let all = [("http_proxy", "Acquire::http::Proxy "), ("https_proxy", "Acquire::https::Proxy ")];
        all.into_iter().filter_map(move |(name, key)| Some((name, value(key)?)))
    }
}

const SMALL: &str = "\
APT::Install-Recommends \"false\";
Acquire::Languages \"none\";
";

const NO_DOCUMENTATION: &str = "\
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/locale/*
";

/// The code name of the release that an os-release file describes.
fn release(os: &str) -> anyhow::Result<String> {
    let value = |key: &str| os.lines().find_map(|line| line.strip_prefix(key)).map(|value| value.trim_matches('"'));
    match (value("ID="), value("VERSION_CODENAME=")) {
        (Some("debian"), Some(release)) => Ok(release.to_owned()),
        (id, _) => bail!(
            "the testbed makes its images of Debian packages, and this machine runs {}; run it on a Debian machine",
            id.unwrap_or("an unknown system")
        ),
    }
}

/// The mirror of `release`, and all of Debian's own repositories for it as lines of a sources.list.
///
/// `targets` has a line for each repository that apt knows: its address, its release, its origin. Those of others than
/// Debian are left out, as the images need nothing from there.
fn sources(targets: &str, release: &str) -> Option<(String, String)> {
    let (mut mirror, mut lines) = (None, String::new());
    for target in targets.lines() {
        let mut words = target.split_whitespace();
        let (Some(uri), Some(suite), Some("Debian")) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        if suite == release {
            mirror.get_or_insert_with(|| uri.to_owned());
        } else if !suite.starts_with(&format!("{release}-")) {
            continue;
        }
        lines += &format!("deb {uri} {suite} main\n");
    }
    Some((mirror?, lines))
}

/// What of apt's settings says how to speak to a mirror: proxies, time-outs, checks of dates and of certificates.
fn transport(dump: &str) -> String {
    let wanted = ["http::", "https::", "Retries", "Check-", "ForceIPv"];
    let is_wanted = |line: &&str| {
        line.strip_prefix("Acquire::").is_some_and(|key| wanted.iter().any(|start| key.starts_with(start)))
    };
    dump.lines().filter(is_wanted).fold(String::new(), |all, line| all + line + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debians_own_repositories_are_taken_and_no_others() {
        let targets = "\
            http://mirror.example/debian/ bookworm Debian\n\
            http://mirror.example/debian/ bookworm-updates Debian\n\
            http://mirror.example/security/ bookworm-security Debian\n\
            http://mirror.example/debian/ trixie Debian\n\
            https://other.example/ nodistro . nodesource\n\
            https://lists.example/ bookworm\n";
        let (mirror, lines) = sources(targets, "bookworm").unwrap();
        assert_eq!(mirror, "http://mirror.example/debian/");
        assert_eq!(
            lines,
            "deb http://mirror.example/debian/ bookworm main\n\
             deb http://mirror.example/debian/ bookworm-updates main\n\
             deb http://mirror.example/security/ bookworm-security main\n"
        );
        assert_eq!(sources(targets, "sid"), None);
        assert_eq!(sources("", "bookworm"), None);
    }

    #[test]
    fn another_release_comes_from_the_same_mirrors() {
        let apt = Apt {
            release: "bookworm".to_owned(),
            mirror: "http://mirror.example/debian/".to_owned(),
            sources: "deb http://m.example/ bookworm main\ndeb http://m.example/ bookworm-updates main\n".to_owned(),
            transport: String::new(),
        };
        let sources = apt.with_release("trixie").sources;
        assert_eq!(sources, "deb http://m.example/ trixie main\ndeb http://m.example/ trixie-updates main\n");
    }

    #[test]
    fn proxies_reach_the_images_and_debootstrap() {
        let dump = "Acquire \"\";\nAcquire::http::Proxy \"http://proxy.example:3128\";\nAcquire::https::Proxy \"DIRECT\";\n\
                    Acquire::Check-Date \"false\";\nAcquire::cdrom::mount \"/media/cdrom/\";\n";
        let transport = transport(dump);
        assert_eq!(
            transport,
            "Acquire::http::Proxy \"http://proxy.example:3128\";\nAcquire::https::Proxy \"DIRECT\";\n\
             Acquire::Check-Date \"false\";\n"
        );
        let apt = Apt { release: String::new(), mirror: String::new(), sources: String::new(), transport };
        assert_eq!(apt.proxies().collect::<Vec<_>>(), [("http_proxy", "http://proxy.example:3128")]);
    }

    #[test]
    fn another_system_is_told_plainly() {
        assert_eq!(release("ID=debian\nVERSION_CODENAME=trixie\n").unwrap(), "trixie");
        let e = release("ID=fedora\n").unwrap_err().to_string();
        assert!(e.contains("fedora") && e.contains("Debian machine"), "{e}");
    }
}
