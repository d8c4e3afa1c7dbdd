//! The end of a node: [`Node::stop`] ends its parts in turn, [`Node::leave`] lets another process take its place.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::part::{Part, PartEnding};
use super::start::{GRACE, INDEX, STATE_FILE};
use super::{Node, Place};
use crate::logging::Requests;
use crate::page::Page;

impl Node {
    /// Lets go of its sockets and its disk, so that another process can take its place: returns as soon as that may begin, with what is
    /// still under way here, and the sockets.
    ///
    /// The index says no goodbye, as its address stays, and nothing is withdrawn from it.
    pub(crate) async fn leave(self) -> (Leaving, Vec<(Place, OwnedFd)>) {
        self.page.prepare_to_leave().await;
        self.nameserver.leaves.store(true, Ordering::Release);
        if let Some(proxy) = &self.proxy {
            proxy.leave();
        }
        let mut parts = Vec::new();
        for mut part in self.parts {
            match part.name {
                INDEX => drop(part),
                STATE_FILE => drop(part.stop().await),
                _ => {
                    part.tell();
                    parts.push(part);
                }
            }
        }
        if let Some(proxy) = &self.proxy {
            proxy.has_left().await;
        }
        let patience = self.config.read().unwrap_or_else(PoisonError::into_inner).proxy.part.hand_over + GRACE;
        (Leaving { parts, patience, requests: self.requests, _page: self.page }, self.shared)
    }

    /// Stops every part in turn and says how each one ended.
    pub async fn stop(self) -> Ending {
        // Who connects from now on is refused, and does not wait.
        drop(self.shared);
        let mut ending = Ending::default();
        for part in self.parts {
            ending.parts.push(part.stop().await);
        }
        if let Some(requests) = &self.requests {
            requests.close();
        }
        ending
    }
}

/// A node in whose place another process runs: what it still has to send.
#[derive(Debug)]
pub(crate) struct Leaving {
    parts: Vec<Part>,
    patience: Duration,
    requests: Option<Arc<Requests>>,
    /// The cache does not keep it.
    _page: Arc<Page>,
}

impl Leaving {
    /// Waits until all of it is sent, within `proxy.hand_over`.
    pub(crate) async fn finish(self) -> Ending {
        let mut ending = Ending::default();
        for part in self.parts {
            ending.parts.push(part.ended(false, self.patience).await);
        }
        if let Some(requests) = &self.requests {
            requests.close();
        }
        ending
    }
}

/// How a node ended.
#[derive(Debug, Default)]
pub struct Ending {
    /// Each part, in the order in which it was stopped.
    pub parts: Vec<PartEnding>,
}

impl Ending {
    /// Whether every part ended as it should.
    pub fn is_clean(&self) -> bool {
        self.parts.iter().all(|part| part.outcome.is_ok())
    }
}

/// What was wrong, or `cleanly`.
impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_clean() {
            return f.write_str("cleanly");
        }
        let wrong = self.parts.iter().filter_map(|part| {
            let why = part.outcome.as_ref().err()?;
            Some(format!("the {}: {why}", part.name))
        });
        f.write_str(&wrong.collect::<Vec<_>>().join("; "))
    }
}
