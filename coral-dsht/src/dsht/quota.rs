//! Whose values fill the store: no address and no network may take it all (design.md §2.8).
//!
//! While the store is less than half full there is room for everybody. Beyond that an address, and its /24 or /48, may
//! hold a share, so that a flood of values leaves room for the others'. Within one key, see [`Quota::crowding`].

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::Config;
use crate::peer::Prefix;

/// How many values there are, and whose.
#[derive(Debug, Default)]
pub(crate) struct Quota {
    values: usize,
    by_address: BTreeMap<IpAddr, usize>,
    by_prefix: BTreeMap<Prefix, usize>,
}

impl Quota {
    /// Values in all.
    pub(crate) fn len(&self) -> usize {
        self.values
    }

    /// Whether there is room for another value of `owner`.
    pub(crate) fn admits(&self, config: &Config, owner: IpAddr) -> bool {
        let all = config.stored_values as usize;
        if self.values < all / 2 {
            return true;
        }
        let of_address = self.by_address.get(&owner).copied().unwrap_or(0);
        let of_prefix = self.by_prefix.get(&Prefix::of(owner)).copied().unwrap_or(0);
        self.values < all
            && of_address < config.values_per_address.get() as usize
            && of_prefix < config.values_per_prefix.get() as usize
    }

    /// A value of `owner` has come.
    pub(crate) fn add(&mut self, owner: IpAddr) {
        self.values += 1;
        *self.by_address.entry(owner).or_default() += 1;
        *self.by_prefix.entry(Prefix::of(owner)).or_default() += 1;
    }

    /// A value of `owner` has gone.
    pub(crate) fn drop(&mut self, owner: IpAddr) {
        self.values -= 1;
        take_one(&mut self.by_address, owner);
        take_one(&mut self.by_prefix, Prefix::of(owner));
    }

    /// Where room is to be made for a value of `newcomer` among those of `owners` under one key, by their places there, so
    /// that nobody crowds out the others: in the network that has most of them, and there with the address that has most,
    /// if one has more than one. And whether the new value must outlive the one that makes room: it is then no better
    /// entitled than that.
    pub(crate) fn crowding(owners: impl Iterator<Item = IpAddr>, newcomer: IpAddr) -> (Vec<usize>, bool) {
        let owners: Vec<(usize, IpAddr)> = owners.enumerate().collect();
        let most_of_a_network = crowd(&owners, Prefix::of, Prefix::of(newcomer));
        let most_of_an_address = crowd(&most_of_a_network, |owner| owner, newcomer);
        let is_newcomers_own = most_of_an_address.iter().all(|(_, owner)| *owner == newcomer);
        let (crowd, must_outlive) = if most_of_an_address.len() > 1 || is_newcomers_own {
            (most_of_an_address, is_newcomers_own)
        } else {
            let is_same = most_of_a_network.iter().all(|(_, owner)| Prefix::of(*owner) == Prefix::of(newcomer));
            (most_of_a_network, is_same)
        };
        (crowd.into_iter().map(|(place, _)| place).collect(), must_outlive)
    }
}

/// Those of `owners` that are together in the largest group, which is that of the newcomer if no other is larger.
fn crowd<G: Ord>(owners: &[(usize, IpAddr)], group_of: impl Fn(IpAddr) -> G, newcomers: G) -> Vec<(usize, IpAddr)> {
    let mut groups: BTreeMap<G, Vec<(usize, IpAddr)>> = BTreeMap::new();
    for (place, owner) in owners {
        groups.entry(group_of(*owner)).or_default().push((*place, *owner));
    }
    let most = groups.into_iter().max_by_key(|(group, places)| (places.len(), *group == newcomers));
    most.map(|(_, places)| places).unwrap_or_default()
}

fn take_one<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}
