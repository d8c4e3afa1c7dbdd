//! Who named which values, so that one who names useless ones again and again is passed over.
//!
//! A reference may be stale, and the node that named it honest; so the first time it is only told (the claim that refuses a
//! value goes to it again). Who then names another useless one is taken for a liar, for this key and for a while.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::api::Value;
use crate::id::{Key, NodeId};
use crate::time::Instant;

/// The last answers to claims of this node.
#[derive(Debug, Default)]
pub(crate) struct Informants {
    answers: VecDeque<Answer>,
}

#[derive(Debug)]
struct Answer {
    at: Instant,
    key: Key,
    peer: NodeId,
    values: Vec<Value>,
}

impl Informants {
    /// `peer` has named `values` to a claim of `key`.
    pub(crate) fn note(&mut self, now: Instant, key: Key, peer: NodeId, values: &[Value]) {
        if self.answers.len() == MAX_ANSWERS {
            self.answers.pop_front();
        }
        self.answers.push_back(Answer { at: now, key, peer, values: values.to_vec() });
    }

    /// Who has lately given two answers or more for `key` of which every value is among the `refused`.
    pub(crate) fn liars(&self, now: Instant, key: &Key, refused: &[Value]) -> Vec<NodeId> {
        let mut useless: BTreeMap<NodeId, usize> = BTreeMap::new();
        for answer in &self.answers {
            let is_recent = now.saturating_since(answer.at) < REMEMBERED;
            let is_refused = |value: &Value| refused.iter().any(|refused| refused.is_same(value));
            if is_recent && answer.key == *key && answer.values.iter().all(is_refused) {
                *useless.entry(answer.peer).or_default() += 1;
            }
        }
        useless.into_iter().filter(|(_, answers)| *answers >= 2).map(|(peer, _)| peer).collect()
    }
}

/// Answers that are remembered; most claims are the first for their key, and none of theirs is looked at again.
const MAX_ANSWERS: usize = 256;
/// For how long.
const REMEMBERED: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id;

    fn value(number: u8) -> Value {
        Value::new(&[number]).unwrap()
    }

    #[test]
    fn who_names_useless_values_twice_is_a_liar_for_a_minute() {
        let (key, honest, liar) = (Id::hash(&[b"key"]), Id::hash(&[b"honest"]), Id::hash(&[b"liar"]));
        let at = |seconds| Instant::START + Duration::from_secs(seconds);
        let mut informants = Informants::default();
        informants.note(at(0), key, liar, &[value(1), value(2)]);
        informants.note(at(0), key, honest, &[value(3)]);
        let refused: Vec<Value> = (1..=4).map(value).collect();
        assert_eq!(informants.liars(at(1), &key, &refused), []);
        informants.note(at(1), key, liar, &[value(4)]);
        informants.note(at(1), key, honest, &[value(5)]);
        assert_eq!(informants.liars(at(2), &key, &refused), [liar]);
        assert_eq!(informants.liars(at(2), &Id::hash(&[b"another"]), &refused), []);
        assert_eq!(informants.liars(at(62), &key, &refused), []);
    }

    #[test]
    fn only_the_last_answers_are_remembered() {
        let mut informants = Informants::default();
        for number in 0..10_000_u64 {
            informants.note(Instant::START, Id::ZERO, Id::hash(&[&number.to_be_bytes()]), &[value(1)]);
        }
        assert_eq!(informants.answers.len(), MAX_ANSWERS);
    }
}
