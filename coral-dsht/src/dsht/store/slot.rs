//! One key at one level: its values, and the puts for it.

use std::net::IpAddr;

use crate::api::Value;
use crate::dsht::meter::Meter;
use crate::dsht::quota::Quota;
use crate::time::Instant;

/// What is known of one key at one level.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) values: Vec<StoredValue>,
    pub(super) puts: Option<Meter>,
    /// Its entry in the `expiries` of the store: no later than the first of it ends.
    pub(super) due: Option<Instant>,
}

/// A value, until when it lives, and who had it stored.
#[derive(Debug, Clone)]
pub(super) struct StoredValue {
    pub(super) value: Value,
    pub(super) expires: Instant,
    pub(super) owner: IpAddr,
    /// Its owner has claimed the key, and does not have yet what it stands for.
    pub(super) is_claim: bool,
    /// How many claimants were given it first.
    pub(super) given: u32,
}

impl Slot {
    /// Which value is to make room for `new`: the one that ends first of the network that has most of them here. Within
    /// its own network `new` must outlive it.
    pub(super) fn displaced_by(&self, new: &StoredValue) -> Option<usize> {
        let (crowding, must_outlive) = Quota::crowding(self.values.iter().map(|stored| stored.owner), new.owner);
        let index = crowding.into_iter().min_by_key(|index| self.values[*index].expires)?;
        (!must_outlive || self.values[index].expires < new.expires).then_some(index)
    }

    /// Most keys have a single value: room for four, which a vector begins with, would be three quarters of the memory.
    pub(super) fn reserve_for_one(&mut self) {
        if self.values.is_empty() {
            self.values.reserve_exact(1);
        }
    }

    /// Forgets what has ended by `now`.
    pub(super) fn drop_ended(&mut self, now: Instant, quota: &mut Quota) {
        self.values.retain(|stored| {
            let lives = stored.expires > now;
            if !lives {
                quota.drop(stored.owner);
            }
            lives
        });
    }

    pub(super) fn live(&self, now: Instant) -> impl Iterator<Item = &StoredValue> {
        self.values.iter().filter(move |stored| stored.expires > now)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty() && self.puts.is_none()
    }

    /// When the first of its values ends, or its meter is as new; `None` if it is empty.
    pub(super) fn first_end(&self) -> Option<Instant> {
        let values = self.values.iter().map(|stored| stored.expires);
        values.chain(self.puts.map(|meter| meter.full_again)).min()
    }
}
