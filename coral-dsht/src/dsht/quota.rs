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

    /// Of the owners of the values under one key, by their place there: the places of those in the network that has most
    /// of them, which is that of the newcomer where others have no more. If room is to be made, it is there, so that
    /// nobody crowds out the others.
    pub(crate) fn crowding(owners: impl Iterator<Item = IpAddr>, newcomer: IpAddr) -> Vec<usize> {
        let mut places: BTreeMap<Prefix, Vec<usize>> = BTreeMap::new();
        for (place, owner) in owners.enumerate() {
            places.entry(Prefix::of(owner)).or_default().push(place);
        }
        let newcomer = Prefix::of(newcomer);
        let most = places.into_iter().max_by_key(|(prefix, places)| (places.len(), *prefix == newcomer));
        most.map(|(_, places)| places).unwrap_or_default()
    }
}

fn take_one<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}
