//! The order among claimants of a key, so that a crowd becomes a tree.

use std::time::Duration;

use super::slot::{Slot, StoredValue};
use super::{Entry, Store};
use crate::api::Value;
use crate::config::Config;
use crate::dsht::quota::Quota;
use crate::id::Key;
use crate::level::Level;
use crate::time::Instant;

/// The longest a claim lives without being renewed, whatever its owner asks for.
pub(super) const LONGEST_CLAIM: Duration = Duration::from_secs(60);
/// Values under one key, at one level, that claims may fill: a crowd of 64 · `claim_fan_out` that comes in one instant
/// becomes a tree as flat as can be, a larger one somewhat deeper.
pub(super) const CLAIMS_PER_KEY: usize = 64;

impl Store {
    /// Whom a claimant may fetch from: a few values of others, the one it should try first in front. `None` if there are
    /// none and this is not where the search ends (`is_last`); none at all if the claimant is the first.
    ///
    /// Either way it is recorded behind those that came before it, and is given to later ones in its turn: each is given
    /// to `config.claim_fan_out` of them before the next one is, so that a crowd becomes a tree. A claimant that asks again
    /// is given nobody who might be waiting for it: of those that only claim, only those that came before it.
    pub(crate) fn claim(
        &mut self,
        config: &Config,
        now: Instant,
        (level, key): (Level, Key),
        entry: Entry,
        refused: &[Value],
        is_last: bool,
    ) -> Option<Vec<Value>> {
        let Entry { value, ttl, owner } = entry;
        let room = self.quota.admits(config, owner);
        let may_enter = self.slots.contains_key(&(level, key)) || (is_last && room);
        if !may_enter {
            // Without room there is no order among claimants either: each is the first.
            return is_last.then(Vec::new);
        }
        let slot = self.slots.entry((level, key)).or_default();
        slot.drop_ended(now, &mut self.quota);
        let mine = slot.values.iter().position(|stored| stored.value.is_same(&value) && stored.owner == owner);
        let given = slot.give(value_filter(&value, refused), mine, config);
        let recorded = if given.is_empty() && !is_last {
            None
        } else {
            slot.record(
                &mut self.quota,
                room,
                config.claim_fan_out.get(),
                mine,
                StoredValue {
                    value,
                    expires: now + ttl.min(config.max_ttl).min(LONGEST_CLAIM),
                    owner,
                    is_claim: true,
                    given: 0,
                },
            )
        };
        if let Some(expires) = recorded {
            self.schedule(level, key, expires);
        }
        (is_last || !given.is_empty()).then_some(given)
    }
}

fn value_filter<'a>(mine: &'a Value, refused: &'a [Value]) -> impl Fn(&Value) -> bool + 'a {
    move |value| !value.is_same(mine) && !refused.iter().any(|refused| refused.is_same(value))
}

impl Slot {
    /// What a claimant, recorded at place `mine` if it has been here before, is given of the values that are `of_use`.
    fn give(&mut self, of_use: impl Fn(&Value) -> bool, mine: Option<usize>, config: &Config) -> Vec<Value> {
        let fan_out = config.claim_fan_out.get();
        let is_before = |index: usize| mine.is_none_or(|mine| index < mine);
        let mut candidates: Vec<usize> = (0..self.values.len())
            .filter(|index| of_use(&self.values[*index].value) && (!self.values[*index].is_claim || is_before(*index)))
            .collect();
        // In the order in which they came; those that have been given often enough last, the least given first.
        candidates.sort_by_key(|index| Some(self.values[*index].given).filter(|given| *given >= fan_out));
        candidates.truncate(config.values_in_answer());
        if let Some(first) = candidates.first() {
            self.values[*first].given += 1;
        }
        candidates.into_iter().map(|index| self.values[index].value.clone()).collect()
    }

    /// Notes a claim behind those before it, or at its place `mine` again: until when, or `None` if there is no room.
    fn record(
        &mut self,
        quota: &mut Quota,
        room: bool,
        fan_out: u32,
        mine: Option<usize>,
        claim: StoredValue,
    ) -> Option<Instant> {
        let expires = claim.expires;
        if let Some(mine) = mine {
            let stored = &mut self.values[mine];
            stored.expires = stored.expires.max(expires);
            return Some(expires);
        }
        if self.values.len() >= CLAIMS_PER_KEY {
            let spent = self.values.iter().position(|stored| stored.is_claim && stored.given >= fan_out)?;
            quota.drop(self.values.remove(spent).owner);
        } else if !room {
            return None;
        }
        quota.add(claim.owner);
        self.reserve_for_one();
        self.values.push(claim);
        Some(expires)
    }
}
