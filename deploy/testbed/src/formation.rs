//! Whether clusters have formed as the map lets one expect.
//!
//! Which nodes end together is theirs to find out, and with distances as they are in the world there is no one right
//! answer. So little is expected: at each level, a node shares its cluster with at least half of those that are near enough.

use std::collections::BTreeMap;

use crate::map::{Map, Site};
use crate::nodes::NodeStatus;

/// Distances near a cluster's diameter may be measured to be above it: only those within this share of it are counted.
const WELL_WITHIN: f64 = 0.8;

/// Who is together with whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Formation {
    /// The nodes of each cluster of more than one, by level and identifier.
    clusters: BTreeMap<(u8, String), Vec<String>>,
    /// What is not as expected.
    missing: Vec<String>,
}

impl Formation {
    /// The clusters that nodes say they are in.
    pub fn of(map: &Map, statuses: &[(&Site, anyhow::Result<NodeStatus>)]) -> Self {
        let known: Vec<(&Site, &NodeStatus)> =
            statuses.iter().filter_map(|(site, status)| Some((*site, status.as_ref().ok()?))).collect();
        let mut formation = Self::default();
        for (site, status) in &known {
            for cluster in &status.clusters {
                let key = (cluster.level, cluster.id.clone());
                formation.clusters.entry(key).or_default().push(site.name.clone());
                let Some(diameter) = cluster.diameter else {
                    continue;
                };
                let near: Vec<_> = known
                    .iter()
                    .filter(|(other, _)| other != site)
                    .filter(|(other, _)| map.link(site, other).rtt() < diameter.mul_f64(WELL_WITHIN))
                    .collect();
                let shares =
                    |other: &NodeStatus| other.cluster(cluster.level).is_some_and(|theirs| theirs.id == cluster.id);
                let together = near.iter().filter(|(_, other)| shares(other)).count();
                if together * 2 < near.len() {
                    formation.missing.push(format!(
                        "{} shares its level-{} cluster with {together} of the {} nodes within {diameter:?}",
                        site.name,
                        cluster.level,
                        near.len()
                    ));
                }
            }
        }
        formation
    }

    /// What is not as expected, one line for each node and level.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// The nodes of each cluster, by level and identifier.
    pub fn clusters(&self) -> &BTreeMap<(u8, String), Vec<String>> {
        &self.clusters
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::nodes::{Cluster, Traffic};

    /// A node in these clusters of levels 0, 1 and 2.
    fn in_clusters(ids: [&str; 3]) -> anyhow::Result<NodeStatus> {
        let diameters = [None, Some(Duration::from_millis(60)), Some(Duration::from_millis(20))];
        let clusters = (0..).zip(ids).zip(diameters);
        let clusters = clusters.map(|((level, id), diameter)| Cluster { level, diameter, id: id.to_owned(), size: 1 });
        Ok(NodeStatus { joined: true, clusters: clusters.collect(), neighbours: Vec::new(), cache: Traffic::default() })
    }

    #[test]
    fn a_node_alone_among_its_neighbours_is_missed() {
        let map = Map::four_regions();
        let mut statuses: Vec<_> = map
            .nodes()
            .map(|site| {
                let coast = if site.region < 2 { "europe" } else { "america" };
                (site, in_clusters(["all", coast, &map.region_of(site).name]))
            })
            .collect();
        let formation = Formation::of(&map, &statuses);
        assert_eq!(formation.missing(), [""; 0]);
        let regions = map.regions().len();
        assert_eq!(formation.clusters().keys().filter(|(level, _)| *level == 2).count(), regions);

        statuses[0].1 = in_clusters(["all", "europe", "alone"]);
        let formation = Formation::of(&map, &statuses);
        let name = &statuses[0].0.name;
        assert_eq!(
            formation.missing(),
            [format!("{name} shares its level-2 cluster with 0 of the 2 nodes within 20ms")]
        );
        // One that does not answer is not held against the others.
        statuses[0].1 = Err(anyhow::anyhow!("gone"));
        assert_eq!(Formation::of(&map, &statuses).missing(), [""; 0]);
    }
}
