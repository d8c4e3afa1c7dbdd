//! Who waits for whom: nodes that fetch from each other must never wait in a circle.
//!
//! The claims of the index name earlier ones to later ones, so a circle takes a partition, a lie, or two nodes that both
//! ask again. A request to another node names the nodes that wait for its answer, in `Coral-Waiting`; who finds itself
//! there, or the one it waits for, refuses to be waited for. As whoever waits asks anew every few seconds, with the names
//! of those behind it, a longer circle is found after a few turns; one that is too long to be named ends with
//! `peer.patience`. A lie in the field costs a source, never an answer.
//!
//! Once the head is here nobody need wait for a turn, and names are told no more. What then keeps readers from a circle is
//! how far each has come: none is ahead of the node that it reads from. So who looks for the rest of a body that broke
//! off is given it only where there is more than it has (`fetch`), and whoever reads from it is not ahead.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use crate::policy::list_members;

/// `wait=1500, 192.0.2.1:80, 192.0.2.2:80`: how many milliseconds the asking node waits for an answer of any kind, and
/// the nodes that wait: itself, then those behind it.
pub(crate) const WAITING: HeaderName = HeaderName::from_static("coral-waiting");
/// Nodes that one request names.
const MOST: usize = 16;
/// Nodes that are noted as waiting for one fetch. Others may wait, too, unnamed.
const MOST_BEHIND: usize = 256;
/// The longest that a node may ask another one to hold its answer back.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// What a request of another node says of those who wait for its answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// How long they wait for a first answer, even if it only says that there is none yet.
    pub(crate) wait: Option<Duration>,
    /// Who waits.
    pub(crate) nodes: Vec<SocketAddr>,
}

impl Waiting {
    /// What `headers` say; what cannot be read is left out.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut waiting = Self::default();
        for member in headers.get_all(WAITING).iter().flat_map(|value| list_members(value.as_bytes())).take(MOST + 1) {
            if let Some(millis) = member.strip_prefix("wait=") {
                let wait = millis.parse().ok().map(Duration::from_millis);
                waiting.wait = wait.map(|wait| wait.min(LONGEST_WAIT));
            } else if let Ok(node) = member.parse() {
                waiting.nodes.push(node);
            }
        }
        waiting
    }

    /// The value of the field.
    pub(crate) fn write(&self) -> HeaderValue {
        let wait = self.wait.map(|wait| format!("wait={}", wait.as_millis()));
        let nodes = self.nodes.iter().take(MOST).map(ToString::to_string);
        let text: Vec<String> = wait.into_iter().chain(nodes).collect();
        HeaderValue::from_str(&text.join(", ")).expect("numbers and addresses are ASCII")
    }
}

/// The place of one fetch among those that wait: whom this node waits for, and who waits for this node.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The node that it waits for, or whose body it reads.
    parent: Option<SocketAddr>,
    /// The body broke off, and what is missing is looked for.
    seeks_rest: bool,
    /// By the node that asks: itself and those behind it, and until when that holds without its asking again.
    behind: BTreeMap<SocketAddr, (Vec<SocketAddr>, Instant)>,
}

impl Chain {
    /// This node is about to wait for `parent`: those who wait behind it are then to be named. `None` if `parent` is one
    /// of them.
    pub(crate) fn wait_for(&self, parent: SocketAddr, now: Instant) -> Option<Vec<SocketAddr>> {
        let behind = self.behind(parent, now)?;
        self.lock().parent = Some(parent);
        Some(behind)
    }

    /// Those who wait behind this node, to be named to `asked`. `None` if that is one of them.
    pub(crate) fn behind(&self, asked: SocketAddr, now: Instant) -> Option<Vec<SocketAddr>> {
        let mut state = self.lock();
        state.behind.retain(|_, (_, until)| *until > now);
        if state.behind.values().any(|(nodes, _)| nodes.contains(&asked)) {
            return None;
        }
        // Those who ask themselves come before those behind them: they are the likelier ones to close a circle.
        let others = state.behind.values().flat_map(|(nodes, _)| nodes.iter().skip(1));
        Some(state.behind.keys().chain(others).take(MOST - 1).copied().collect())
    }

    /// This node waits for nobody any more, and reads the body from `parent`, or from the origin.
    pub(crate) fn found(&self, parent: Option<SocketAddr>) {
        self.lock().parent = parent;
    }

    /// Notes whether the rest of a body that broke off is looked for.
    pub(crate) fn set_seeks_rest(&self, seeks_rest: bool) {
        self.lock().seeks_rest = seeks_rest;
    }

    /// Whether it is: then others who miss the same may wait for it.
    pub(crate) fn seeks_rest(&self) -> bool {
        self.lock().seeks_rest
    }

    /// Whether a node that names `nodes` may wait for this one, `me`; it is taken to do so until `until`, as between two
    /// of its requests it waits no less.
    pub(crate) fn admit(&self, me: SocketAddr, nodes: &[SocketAddr], until: Instant) -> bool {
        let mut state = self.lock();
        if nodes.contains(&me) || state.parent.is_some_and(|parent| nodes.contains(&parent)) {
            return false;
        }
        if let Some(asks) = nodes.first()
            && (state.behind.len() < MOST_BEHIND || state.behind.contains_key(asks))
        {
            state.behind.insert(*asks, (nodes.to_vec(), until));
        }
        true
    }

    /// A panic leaves whole entries: each change is one assignment or one call of the map.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::headers::of_lines;

    fn node(number: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, number], 80))
    }

    #[test]
    fn what_is_written_is_read_and_what_cannot_be_read_is_left_out() {
        let waiting = Waiting { wait: Some(Duration::from_millis(1500)), nodes: vec![node(1), node(2)] };
        assert_eq!(waiting.write(), "wait=1500, 192.0.2.1:80, 192.0.2.2:80");
        let read = |line: &str| Waiting::of(&of_lines(&[line]));
        assert_eq!(read("coral-waiting: wait=1500, 192.0.2.1:80, 192.0.2.2:80"), waiting);
        assert_eq!(read("coral-waiting: x, 192.0.2.1:80, wait=soon").nodes, [node(1)]);
        assert_eq!(read("coral-waiting: wait=99999999").wait, Some(LONGEST_WAIT));
        assert_eq!(read("a: b"), Waiting::default());
    }

    #[test]
    fn nobody_waits_for_itself_nor_for_one_who_waits_for_it() {
        let (chain, now) = (Chain::default(), Instant::now());
        let later = now + Duration::from_secs(4);
        assert!(!chain.admit(node(1), &[node(2), node(1)], later), "it is in the chain itself");
        assert_eq!(chain.wait_for(node(9), now), Some(vec![]));
        assert!(!chain.admit(node(1), &[node(2), node(9)], later), "the one it waits for is in the chain");
        assert!(chain.admit(node(1), &[node(2), node(3)], later));
        assert_eq!(chain.wait_for(node(3), now), None);
        assert_eq!(chain.wait_for(node(8), now), Some(vec![node(2), node(3)]));
        assert_eq!(chain.wait_for(node(3), later), Some(vec![]), "it has not asked again");
        chain.found(Some(node(8)));
        assert!(!chain.admit(node(1), &[node(8)], later), "its body is read here");
        chain.found(None);
        assert!(chain.admit(node(1), &[node(3)], later));
    }

    proptest! {
        #[test]
        fn any_field_is_read_and_never_names_more_than_its_bound(value in "[ -~]{0,200}") {
            let waiting = Waiting::of(&of_lines(&[&format!("coral-waiting: {value}")]));
            prop_assert!(waiting.nodes.len() <= MOST + 1 && waiting.wait.is_none_or(|wait| wait <= LONGEST_WAIT));
        }
    }
}
