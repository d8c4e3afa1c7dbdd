//! What runs at each site: the image, the command, and the files it reads.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::chown;
use std::path::Path;

use anyhow::Context as _;

use crate::dns::{self, CORALIZED, ORIGIN, ROOT_HINTS, SUFFIX, configuration, registered, resolv_conf};
use crate::images::Images;
use crate::map::{Kind, Map, Site};
use crate::origin;

/// Where a host finds its files.
pub const FILES: &str = "/etc/testbed";

/// The user that a node runs as: `deploy/Dockerfile` says so.
const NODE_USER: u32 = 65532;

/// The port of a node's index; that of `deploy/coral.toml`.
const DSHT_PORT: u16 = 4160;

/// What runs at a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host<'m> {
    /// The site.
    pub site: &'m Site,
    /// The image of its container.
    pub image: &'m str,
    /// What the container runs.
    pub command: Vec<String>,
    /// Files to read, in [`FILES`]: name and content.
    pub files: Vec<(String, String)>,
    /// Directories of the host's own: the name beside its files, where the container sees it, and whose it is.
    pub directories: Vec<(&'static str, &'static str, Option<u32>)>,
}

/// What runs at each site of `map`.
pub fn hosts<'m>(map: &'m Map, images: &'m Images) -> Vec<Host<'m>> {
    map.sites().iter().map(|site| host(map, images, site)).collect()
}

fn host<'m>(map: &'m Map, images: &'m Images, site: &'m Site) -> Host<'m> {
    let words = |line: &str| line.split(' ').map(str::to_owned).collect();
    let mut files = vec![("hosts".to_owned(), hosts_file(map, site))];
    let mut directories = Vec::new();
    let (image, command) = match site.kind {
        Kind::Node => {
            files.push(("coral.toml".to_owned(), node(map, site)));
            directories.push(("state", "/var/lib/coral", Some(NODE_USER)));
            (&images.node, words(&format!("node --config {FILES}/coral.toml")))
        }
        Kind::Origin => {
            let log = "/var/log/testbed";
            files.push(("nginx.conf".to_owned(), origin::nginx(ORIGIN, "/srv/site", &format!("{log}/requests.log"))));
            directories.extend([("site", "/srv/site", None), ("log", log, None)]);
            (&images.tools, words(&format!("nginx -c {FILES}/nginx.conf")))
        }
        Kind::Root => {
            files.extend(dns::zones(map).into_iter().map(|(zone, text)| (dns::zone_file(zone), text)));
            files.push(("nsd.conf".to_owned(), dns::server(map, FILES)));
            (&images.tools, words(&format!("nsd -d -c {FILES}/nsd.conf")))
        }
        Kind::Client(resolver) => {
            let listen = [Ipv4Addr::LOCALHOST, site.ipv4];
            let run = configuration(resolver, &listen, site.ipv4, FILES);
            files.extend([(run.file.to_owned(), run.text), (ROOT_HINTS.to_owned(), dns::root_hints(map))]);
            (&images.resolvers, run.command)
        }
    };
    files.push(("resolv.conf".to_owned(), resolv_conf(Ipv4Addr::LOCALHOST)));
    Host { site, image, command, files, directories }
}

/// A node's configuration: what differs from the defaults.
fn node(map: &Map, site: &Site) -> String {
    let seeds = registered(map).into_iter().filter(|seed| *seed != site);
    let seeds: Vec<String> = seeds.map(|seed| format!("\"{}:{DSHT_PORT}\"", seed.ipv4)).collect();
    format!(
        "suffixes = [\"{SUFFIX}\"]\n\
         \n\
         [dsht]\n\
         address = \"{}\"\n\
         seeds = [{}]\n\
         \n\
         # What the origin counts shall be what was fetched.\n\
         [proxy.peer]\n\
         verify = 0\n\
         \n\
         # An origin in a laboratory's block of addresses is asked only where the configuration names it.\n\
         [[proxy.sites]]\n\
         host = \"{ORIGIN}\"\n\
         origin = \"http://{ORIGIN}\"\n",
        site.ipv4,
        seeds.join(", ")
    )
}

/// The names of all sites, for people; and for nodes, which have no resolver, that of the origin.
fn hosts_file(map: &Map, site: &Site) -> String {
    let mut text = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
    for site in map.sites() {
        text += &format!("{} {}\n", site.ipv4, site.name);
    }
    if site.kind == Kind::Node {
        text += &format!("{} {ORIGIN}\n", map.origin().ipv4);
    }
    text
}

impl Host<'_> {
    /// Writes its files into `directory`, and makes its directories there.
    ///
    /// # Errors
    ///
    /// If that is not possible.
    pub fn write(&self, directory: &Path) -> anyhow::Result<()> {
        let failed = |path: &Path| format!("cannot write {}", path.display());
        let files = directory.join("files");
        fs::create_dir_all(&files).with_context(|| failed(&files))?;
        for (name, text) in &self.files {
            let path = files.join(name);
            fs::write(&path, text).with_context(|| failed(&path))?;
        }
        for (name, _, owner) in &self.directories {
            let path = directory.join(name);
            fs::create_dir_all(&path).with_context(|| failed(&path))?;
            chown(&path, *owner, *owner).with_context(|| format!("cannot give {} to its user", path.display()))?;
        }
        if self.site.kind == Kind::Origin {
            origin::write(&directory.join("site"))?;
        }
        Ok(())
    }
}

/// A URL of the origin's site under the suffix.
pub fn coralized(path: &str) -> String {
    format!("http://{CORALIZED}{path}")
}

#[cfg(test)]
mod tests {
    use coral::config::Config;

    use super::*;

    fn images() -> Images {
        Images { node: "node".to_owned(), tools: "tools".to_owned(), resolvers: "resolvers".to_owned() }
    }

    #[test]
    fn a_node_is_told_its_address_and_other_nodes_to_join_by() {
        let (map, images) = (Map::four_regions(), images());
        for host in hosts(&map, &images).iter().filter(|host| host.site.kind == Kind::Node) {
            let (_, text) = host.files.iter().find(|(name, _)| name == "coral.toml").unwrap();
            let config = Config::from_text(text, "coral.toml", &[]).unwrap();
            assert_eq!(config.dsht.node.address, Some(host.site.ipv4.into()));
            let own = format!("{}:", host.site.ipv4);
            assert!(!config.dsht.node.seeds.is_empty());
            assert!(config.dsht.node.seeds.iter().all(|seed| !seed.as_str().starts_with(&own)));
            assert_eq!(config.proxy.part.sites[0].host, ORIGIN);
        }
    }

    #[test]
    fn nodes_alone_find_the_origin_without_asking_anybody() {
        let map = Map::four_regions();
        let knows = |name: &str| hosts_file(&map, map.site(name).unwrap()).contains(&format!(" {ORIGIN}\n"));
        assert!(knows("madrid-1"));
        assert!(!knows("frankfurt-unbound") && !knows("origin"));
    }

    #[test]
    fn files_and_directories_are_written_for_their_owner() {
        let (map, images) = (Map::four_regions(), images());
        let hosts = hosts(&map, &images);
        let client = hosts.iter().find(|host| host.site.name == "dallas-bind").unwrap();
        let directory = tempfile::tempdir().unwrap();
        client.write(directory.path()).unwrap();
        let read = |name: &str| fs::read_to_string(directory.path().join("files").join(name)).unwrap();
        assert!(read("root.hints").contains(&map.root().ipv4.to_string()));
        assert!(read("named.conf").contains(&format!("listen-on {{ 127.0.0.1; {}; }};", client.site.ipv4)));
        assert!(read("resolv.conf").starts_with("nameserver 127.0.0.1\n"));
    }
}
