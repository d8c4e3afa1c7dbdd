//! The map file: TOML to tables, tables to a [`Map`], each mistake to one line that names its entry.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::{Access, Builder, Kind, Link, Map, MapError, Rate, Region, Resolver, planetlab, units};

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default, rename = "region")]
    regions: Vec<RegionTable>,
    #[serde(default, rename = "distance")]
    distances: Vec<DistanceTable>,
    planetlab: Option<PlanetLabTable>,
    #[serde(default)]
    defaults: Defaults,
    origin: Option<PlaceTable>,
    root: Option<PlaceTable>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RegionTable {
    name: String,
    #[serde(default)]
    nodes: usize,
    #[serde(deserialize_with = "units::time")]
    within: Duration,
    #[serde(default)]
    clients: Vec<Resolver>,
    access: Option<AccessTable>,
    client_access: Option<AccessTable>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DistanceTable {
    between: [String; 2],
    #[serde(deserialize_with = "units::time")]
    rtt: Duration,
    #[serde(default, deserialize_with = "units::optional_time")]
    jitter: Option<Duration>,
    loss: Option<f64>,
    rate: Option<Rate>,
}

/// `[planetlab]`: see [`planetlab`].
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PlanetLabTable {
    pub(super) sites: Option<usize>,
    #[serde(default)]
    pub(super) seed: u64,
    pub(super) places: Option<Vec<usize>>,
    #[serde(default)]
    pub(super) clients: Vec<Resolver>,
}

/// What holds where nothing else is said.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Defaults {
    #[serde(default, deserialize_with = "units::time")]
    jitter: Duration,
    #[serde(default)]
    loss: f64,
    rate: Option<Rate>,
    #[serde(default)]
    pub(super) access: AccessTable,
    #[serde(default)]
    pub(super) client_access: AccessTable,
}

impl Defaults {
    /// The way between two places this far apart.
    pub(super) fn link(&self, rtt: Duration) -> Link {
        Link { delay: rtt / 2, jitter: self.jitter, loss: self.loss, rate: self.rate }
    }
}

/// Where the origin or the root stands; a PlanetLab map chooses by itself.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlaceTable {
    region: Option<String>,
    #[serde(default)]
    access: AccessTable,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AccessTable {
    up: Option<Rate>,
    down: Option<Rate>,
    #[serde(default, deserialize_with = "units::optional_time")]
    queue: Option<Duration>,
}

impl AccessTable {
    /// The line, if a packet may wait for it no longer than anything may take.
    pub(super) fn access(self, whose: &str) -> Result<Access, String> {
        let queue = self.queue.unwrap_or(Access::default().queue);
        let access = Access { up: self.up, down: self.down, queue };
        access.check().map_err(|e| format!("{whose}: {e}"))?;
        Ok(access)
    }
}

/// See [`Map::parse`].
pub(super) fn parse(text: &str, file: &str) -> Result<Map, MapError> {
    let tables: File = toml::from_str(text).map_err(|e| {
        let begin = e.span().map_or(0, |span| span.start.min(text.len()));
        let line = text.as_bytes()[..begin].iter().filter(|byte| **byte == b'\n').count() + 1;
        let message = e.message().lines().collect::<Vec<_>>().join("; ");
        MapError::Syntax { file: file.to_owned(), line, message }
    })?;
    tables.resolve().map_err(|message| MapError::Impossible { file: file.to_owned(), message })
}

impl File {
    fn resolve(self) -> Result<Map, String> {
        self.defaults.link(Duration::from_millis(1)).check().map_err(|e| format!("[defaults]: {e}"))?;
        let origin = self.origin.as_ref().map(|place| place.access).unwrap_or_default().access("[origin]")?;
        let root = self.root.as_ref().map(|place| place.access).unwrap_or_default().access("[root]")?;
        match &self.planetlab {
            None => self.resolve_regions(origin, root),
            Some(_) if !(self.regions.is_empty() && self.distances.is_empty()) => {
                Err("[planetlab] brings its own places: leave out [[region]] and [[distance]]".to_owned())
            }
            Some(_) if [&self.origin, &self.root].into_iter().flatten().any(|place| place.region.is_some()) => {
                Err("[planetlab] has no regions to name: leave out `region` of [origin] and [root]".to_owned())
            }
            Some(table) => planetlab::resolve(table, &self.defaults, origin, root),
        }
    }

    fn resolve_regions(&self, origin: Access, root: Access) -> Result<Map, String> {
        if self.regions.is_empty() {
            return Err("there is no [[region]], and no [planetlab] either".to_owned());
        }
        let mut index = BTreeMap::new();
        for (at, region) in self.regions.iter().enumerate() {
            check_name(&region.name)?;
            let within = self.defaults.link(region.within);
            within.check().map_err(|e| format!("region {}: `within` as {e}", region.name))?;
            if index.insert(region.name.as_str(), at).is_some() {
                return Err(format!("there are two regions named {}", region.name));
            }
        }
        let links = self.links_of_regions(&index)?;
        let mut builder = Builder {
            regions: self.regions.iter().map(|region| Region { name: region.name.clone() }).collect(),
            sites: Vec::new(),
        };
        for (at, region) in self.regions.iter().enumerate() {
            let access = region.access.unwrap_or(self.defaults.access).access(&format!("region {}", region.name))?;
            for n in 1..=region.nodes {
                builder.add(format!("{}-{n}", region.name), Kind::Node, at, access)?;
            }
        }
        if builder.sites.is_empty() {
            return Err("no region has a node: set `nodes` of at least one".to_owned());
        }
        let place = |table: &Option<PlaceTable>, what: &str| {
            let name = table.as_ref().and_then(|table| table.region.as_deref());
            let name = name.ok_or_else(|| format!("[{what}] with the `region` where it stands is missing"))?;
            index.get(name).copied().ok_or_else(|| format!("[{what}]: there is no region {name}"))
        };
        builder.add("origin".to_owned(), Kind::Origin, place(&self.origin, "origin")?, origin)?;
        builder.add("root".to_owned(), Kind::Root, place(&self.root, "root")?, root)?;
        for (at, region) in self.regions.iter().enumerate() {
            let access = region.client_access.unwrap_or(self.defaults.client_access);
            let access = access.access(&format!("region {}", region.name))?;
            for (n, resolver) in region.clients.iter().enumerate() {
                let name = client_name(&region.name, *resolver, &region.clients[..n]);
                builder.add(name, Kind::Client(*resolver), at, access)?;
            }
        }
        builder.finish(|a, b| links[&(a.region.min(b.region), a.region.max(b.region))])
    }

    /// The ways between any two regions, and within each.
    fn links_of_regions(&self, index: &BTreeMap<&str, usize>) -> Result<BTreeMap<(usize, usize), Link>, String> {
        let mut links = BTreeMap::new();
        for (at, region) in self.regions.iter().enumerate() {
            links.insert((at, at), self.defaults.link(region.within));
        }
        for distance in &self.distances {
            let [a, b] = &distance.between;
            let what = format!("distance {a} to {b}");
            let find = |name: &String| {
                index.get(name.as_str()).copied().ok_or_else(|| format!("{what}: there is no region {name}"))
            };
            let (at_a, at_b) = (find(a)?, find(b)?);
            if at_a == at_b {
                return Err(format!("{what}: the distance inside a region is its `within`"));
            }
            let link = Link {
                delay: distance.rtt / 2,
                jitter: distance.jitter.unwrap_or(self.defaults.jitter),
                loss: distance.loss.unwrap_or(self.defaults.loss),
                rate: distance.rate.or(self.defaults.rate),
            };
            link.check().map_err(|e| format!("{what}: {e}"))?;
            if links.insert((at_a.min(at_b), at_a.max(at_b)), link).is_some() {
                return Err(format!("{what}: it is given twice"));
            }
        }
        for (b, later) in self.regions.iter().enumerate() {
            for (a, earlier) in self.regions[..b].iter().enumerate() {
                if !links.contains_key(&(a, b)) {
                    return Err(format!("the distance from {} to {} is missing", earlier.name, later.name));
                }
            }
        }
        Ok(links)
    }
}

/// `dallas-bind`, and `dallas-bind-2` if there is one before it.
fn client_name(region: &str, resolver: Resolver, before: &[Resolver]) -> String {
    match before.iter().filter(|earlier| **earlier == resolver).count() {
        0 => format!("{region}-{resolver}"),
        n => format!("{region}-{resolver}-{}", n + 1),
    }
}

/// Names become parts of host names, containers' names and namespaces' names.
fn check_name(name: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ends = name.starts_with(edge) && name.ends_with(edge);
    if !(ends && name.len() <= 30 && name.chars().all(fits)) {
        return Err(format!("region `{name}`: a name is at most 30 lower case letters, digits and inner hyphens"));
    }
    if matches!(name, "origin" | "root") {
        return Err(format!("region `{name}`: that name is the site's"));
    }
    Ok(())
}
