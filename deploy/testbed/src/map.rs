//! The map: which sites there are, where they stand, and how far they are from one another.
//!
//! A map is a file that people can read and change (`maps/four-regions.toml` says how), or any part of the matrix that
//! was measured between PlanetLab's hosts (`maps/planetlab.toml`). Both end as the same thing: sites in regions, and a
//! [`Link`] between any two of them. A map says what is wanted when a network comes up; what a running network has been
//! told since is the router's to know.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;
use std::{fmt, io};

use comfy_table::{Table, presets};
use serde::Deserialize;

pub use address::{IPV4_PREFIX, IPV6_PREFIX, MAX_ROUTERS, MAX_SITES};
pub use units::Rate;
pub(crate) use units::parse_time;

pub mod address;
mod file;
mod planetlab;
mod units;

/// Sites, regions and distances.
#[derive(Debug, Clone, PartialEq)]
pub struct Map {
    /// In the order of the file.
    regions: Vec<Region>,
    /// By number: nodes first, then the origin, the root, and the clients.
    sites: Vec<Site>,
    /// The upper triangle over sites, row by row: one link for each pair.
    links: Vec<Link>,
}

/// A city, or wherever hosts are near one another and share a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// Lower case letters, digits and hyphens; different from all others.
    pub name: String,
}

/// One host with a network of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// From 1, without gaps: its network is number so-and-so of the address plan ([`address`]).
    pub number: u16,
    /// A name that may be a host name, different from all others: `frankfurt-1`, `origin`, `dallas-bind`.
    pub name: String,
    /// What is to run there.
    pub kind: Kind,
    /// Which of [`Map::regions`] it stands in.
    pub region: usize,
    /// Its address, in a /24 of its own.
    pub ipv4: Ipv4Addr,
    /// Its other address, in a /64 of its own.
    pub ipv6: Ipv6Addr,
    /// Its own line.
    pub access: Access,
}

/// What is to run at a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A node of the network.
    Node,
    /// The web site that the network serves.
    Origin,
    /// The fake root of the DNS, which serves the top-level domains, too.
    Root,
    /// Someone who browses, with a recursive resolver.
    Client(Resolver),
}

/// A recursive resolver, for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resolver {
    /// Unbound.
    Unbound,
    /// BIND 9.
    Bind,
    /// Knot Resolver.
    KnotResolver,
    /// PowerDNS Recursor.
    PdnsRecursor,
}

impl fmt::Display for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unbound => "unbound",
            Self::Bind => "bind",
            Self::KnotResolver => "knot-resolver",
            Self::PdnsRecursor => "pdns-recursor",
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("node"),
            Self::Origin => f.write_str("origin"),
            Self::Root => f.write_str("root"),
            Self::Client(resolver) => write!(f, "client ({resolver})"),
        }
    }
}

/// A site's own line, as its provider sold it. Without a rate it is as fast as the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// What the site can send.
    pub up: Option<Rate>,
    /// What it can receive.
    pub down: Option<Rate>,
    /// For how long a packet may wait for the line, in each direction; one that would wait for longer is dropped. The
    /// line holds at least ten packets of full size.
    pub queue: Duration,
}

impl Default for Access {
    fn default() -> Self {
        Self { up: None, down: None, queue: Duration::from_millis(300) }
    }
}

/// The way between two sites; the same in both directions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// What a packet takes one way: half of the round trip.
    pub delay: Duration,
    /// The most that a packet is late on top, one way: uniform from 0, and no packet overtakes another.
    pub jitter: Duration,
    /// The share of packets that vanish, one way, from 0 to 1.
    pub loss: f64,
    /// What one site can send to the other, if that is bounded by more than their lines.
    pub rate: Option<Rate>,
}

impl Link {
    /// The round trip, without jitter.
    pub fn rtt(&self) -> Duration {
        self.delay * 2
    }

    /// Whether there can be such a way: it takes more than no time and at most ten seconds, jitter too, and loses a share.
    ///
    /// # Errors
    ///
    /// What of it cannot be.
    pub fn check(&self) -> Result<(), String> {
        if self.delay.is_zero() {
            return Err("rtt: a round trip takes more than 0".to_owned());
        }
        at_most_longest("rtt", self.rtt())?;
        at_most_longest("jitter", self.jitter)?;
        if !(0.0..=1.0).contains(&self.loss) {
            return Err(format!("loss is {}, and is a share from 0 to 1", self.loss));
        }
        Ok(())
    }
}

impl Access {
    /// Whether there can be such a line.
    ///
    /// # Errors
    ///
    /// What of it cannot be.
    pub fn check(&self) -> Result<(), String> {
        at_most_longest("queue", self.queue)
    }
}

fn at_most_longest(what: &str, time: Duration) -> Result<(), String> {
    if time > LONGEST {
        return Err(format!("{what}: {time:?} is more than {LONGEST:?}"));
    }
    Ok(())
}

/// Why there is no map.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// The file cannot be read.
    #[error("cannot read the map {file}")]
    Read {
        /// Its path.
        file: String,
        /// Why not.
        source: io::Error,
    },
    /// It is not TOML, or has keys or values that mean nothing.
    #[error("{file}, line {line}: {message}")]
    Syntax {
        /// Its path.
        file: String,
        /// From 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// It describes what cannot be.
    #[error("{file}: {message}")]
    Impossible {
        /// Its path.
        file: String,
        /// What cannot be, and which entry says it.
        message: String,
    },
}

impl Map {
    /// Reads a map.
    ///
    /// # Errors
    ///
    /// If there is no such file or it makes no map; the message names the entry that is wrong.
    pub fn load(path: &Path) -> Result<Self, MapError> {
        let file = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, &file),
            Err(source) => Err(MapError::Read { file, source }),
        }
    }

    /// The same from a text; `file` stands for it in messages.
    ///
    /// # Errors
    ///
    /// As [`Map::load`].
    pub fn parse(text: &str, file: &str) -> Result<Self, MapError> {
        file::parse(text, file)
    }

    /// The default map: twelve nodes in four regions.
    pub fn four_regions() -> Self {
        Self::parse(FOUR_REGIONS, "maps/four-regions.toml").expect("a test reads the built-in map")
    }

    /// The regions; a site says which it stands in.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// All sites, by number: nodes first, then the origin, the root, and the clients.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// The sites that are nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &Site> {
        self.sites.iter().filter(|site| site.kind == Kind::Node)
    }

    /// The sites that are clients, with their resolvers.
    pub fn clients(&self) -> impl Iterator<Item = (&Site, Resolver)> {
        self.sites.iter().filter_map(|site| match site.kind {
            Kind::Client(resolver) => Some((site, resolver)),
            _ => None,
        })
    }

    /// The origin's site.
    pub fn origin(&self) -> &Site {
        self.sites.iter().find(|site| site.kind == Kind::Origin).expect("every map has an origin")
    }

    /// The site of the DNS root.
    pub fn root(&self) -> &Site {
        self.sites.iter().find(|site| site.kind == Kind::Root).expect("every map has a root")
    }

    /// The site of this name.
    pub fn site(&self, name: &str) -> Option<&Site> {
        self.sites.iter().find(|site| site.name == name)
    }

    /// The site in whose network an address is.
    pub fn site_at(&self, address: IpAddr) -> Option<&Site> {
        self.sites.get(usize::from(address::site_number(address)?) - 1)
    }

    /// The region a site stands in.
    pub fn region_of(&self, site: &Site) -> &Region {
        &self.regions[site.region]
    }

    /// The region of this name, as an index into [`Map::regions`].
    pub fn region(&self, name: &str) -> Option<usize> {
        self.regions.iter().position(|region| region.name == name)
    }

    /// The way between two different sites of this map.
    ///
    /// # Panics
    ///
    /// If they are the same, or of another map.
    pub fn link(&self, a: &Site, b: &Site) -> &Link {
        &self.links[self.link_index(a.number, b.number)]
    }

    /// Where in the triangle the link between two site numbers is.
    fn link_index(&self, a: u16, b: u16) -> usize {
        assert_ne!(a, b, "a site has no way to itself");
        let (row, column) = (usize::from(a.min(b)) - 1, usize::from(a.max(b)) - 1);
        // The rows before this one are n - 1, n - 2, … long.
        row * (2 * self.sites.len() - row - 1) / 2 + column - row - 1
    }

    /// The map for people: its sites, and the round trips between its regions.
    ///
    /// Of a map of single places the distances are too many to read; then there is only how they are spread.
    pub fn describe(&self) -> String {
        let mut sites = Table::new();
        sites
            .load_style(presets::UTF8_BORDERS_ONLY)
            .set_header(["site", "what", "region", "IPv4", "IPv6", "up", "down"]);
        let rate = |rate: Option<Rate>| rate.map_or_else(|| "–".to_owned(), |rate| rate.to_string());
        for site in &self.sites {
            sites.add_row([
                site.name.clone(),
                site.kind.to_string(),
                self.region_of(site).name.clone(),
                site.ipv4.to_string(),
                site.ipv6.to_string(),
                rate(site.access.up),
                rate(site.access.down),
            ]);
        }
        format!("{sites}\n{}\n", self.describe_distances())
    }

    fn describe_distances(&self) -> String {
        let millis = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1e3);
        if self.regions.len() > WIDEST_TABLE {
            let mut rtts: Vec<Duration> = self.links.iter().map(Link::rtt).collect();
            rtts.sort();
            let at = |percent: usize| millis(rtts[(rtts.len() - 1) * percent / 100]);
            let regions = self.regions.len();
            return format!(
                "{regions} regions; round trips in ms: least {}, median {}, most {}",
                at(0),
                at(50),
                at(100)
            );
        }
        let mut table = Table::new();
        let names = self.regions.iter().map(|region| region.name.clone());
        table.load_style(presets::UTF8_BORDERS_ONLY).set_header(std::iter::once("RTT in ms".to_owned()).chain(names));
        let some_in = |region| self.sites.iter().filter(move |site| site.region == region);
        for (a, region) in self.regions.iter().enumerate() {
            let rtt_to = |b| {
                let mut pairs = some_in(a).flat_map(|x| some_in(b).filter(move |y| x != *y).map(move |y| (x, y)));
                pairs.next().map_or_else(|| "–".to_owned(), |(x, y)| millis(self.link(x, y).rtt()))
            };
            table.add_row(std::iter::once(region.name.clone()).chain((0..self.regions.len()).map(rtt_to)));
        }
        table.to_string()
    }
}

/// Sites as a map is read, before they have numbers and addresses.
#[derive(Debug)]
struct Builder {
    regions: Vec<Region>,
    sites: Vec<Site>,
}

impl Builder {
    /// Adds a site with the next number and the addresses that go with it.
    fn add(&mut self, name: String, kind: Kind, region: usize, access: Access) -> Result<(), String> {
        if self.sites.len() == MAX_SITES {
            return Err(format!("a map has at most {MAX_SITES} sites: nodes, clients, origin and root"));
        }
        if self.sites.iter().any(|site| site.name == name) {
            return Err(format!("two sites would be named {name}: give a region another name"));
        }
        // Both are named where a network is changed while it runs.
        if self.regions.iter().any(|region| region.name == name) {
            return Err(format!("a site and a region would be named {name}: give the region another name"));
        }
        let number = self.sites.len() as u16 + 1;
        let (ipv4, ipv6) = (address::site_v4(number), address::site_v6(number));
        self.sites.push(Site { number, name, kind, region, ipv4, ipv6, access });
        Ok(())
    }

    /// The map, with the way between any two sites as `link` says.
    fn finish(self, mut link: impl FnMut(&Site, &Site) -> Link) -> Result<Map, String> {
        let Self { regions, sites } = self;
        // A gateway and a border router each, and a core router for each pair.
        let routers = 2 * regions.len() + regions.len() * (regions.len().saturating_sub(1)) / 2;
        if routers > MAX_ROUTERS {
            return Err(format!("{} regions need {routers} routers, more than {MAX_ROUTERS}", regions.len()));
        }
        let mut links = Vec::with_capacity(sites.len() * sites.len().saturating_sub(1) / 2);
        for (row, a) in sites.iter().enumerate() {
            links.extend(sites[row + 1..].iter().map(|b| link(a, b)));
        }
        Ok(Map { regions, sites, links })
    }
}

/// No round trip on Earth takes longer, and none that does is worth an experiment.
const LONGEST: Duration = Duration::from_secs(10);
/// The text of [`Map::four_regions`].
pub const FOUR_REGIONS: &str = include_str!("../maps/four-regions.toml");
/// The text of a map of twelve regions, for experiments with names and who is named.
pub const TWELVE_REGIONS: &str = include_str!("../maps/twelve-regions.toml");
/// Regions side by side that still fit a screen.
const WIDEST_TABLE: usize = 12;

#[cfg(test)]
mod tests;
