//! What the network is told: announcements that this node keeps for others, and those that it is about to hear.
//!
//! An announcement is *wanted* once somebody has offered it, *undecided* while the application looks at it, and *kept* from
//! then on if the application passes it on. Each of these is bounded, in all and for one network, and so is how fast a
//! network brings new ones. What had its turn is remembered, so that it is heard once. Whom to ask, and whom to tell, is
//! said here; asking and telling is the caller's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::api::MAX_KEEP;
use crate::dsht::rates::{Allowance, Rates};
use crate::dsht::recent::Recent;
use crate::id::{Id, NodeId};
use crate::message::{MAX_KNOWN, MAX_OFFERS};
use crate::peer::{Peer, Prefix};
use crate::time::Instant;

/// The announcements of one node.
#[derive(Debug)]
pub(crate) struct News {
    /// Whether the application wants to hear of any.
    listening: bool,
    wanted: BTreeMap<Id, Wanted>,
    undecided: BTreeMap<Id, Undecided>,
    kept: BTreeMap<Id, Kept>,
    /// Longer than anybody keeps them.
    passed_on: Recent<Id, ()>,
    /// Not so long: the application may have had no time for them.
    dropped: Recent<Id, ()>,
    rates: Rates,
    catching_up: Option<CatchingUp>,
}

/// Offered, and not here yet.
#[derive(Debug)]
struct Wanted {
    since: Instant,
    /// Who has offered it and has not been asked for it so far.
    sources: Vec<Peer>,
    asked: Vec<Asked>,
}

#[derive(Debug)]
struct Asked {
    peer: Peer,
    /// Somebody else may be asked meanwhile.
    is_late: bool,
}

/// The application looks at it.
#[derive(Debug)]
struct Undecided {
    message: Arc<[u8]>,
    age: Duration,
    since: Instant,
    from: Option<Prefix>,
    /// Who has it, and need not be offered it.
    known_to: Vec<NodeId>,
}

/// True, as the application says.
#[derive(Debug)]
struct Kept {
    message: Arc<[u8]>,
    /// How old it was at `since`.
    age: Duration,
    since: Instant,
    /// The age up to which newcomers are told.
    keep: Duration,
}

/// Peers are asked for all that they keep, a few announcements at a time.
#[derive(Debug)]
struct CatchingUp {
    /// The last one first.
    peers: Vec<Peer>,
    /// How often that one may offer something else.
    rounds: u32,
    /// It has not answered yet.
    is_asked: bool,
}

/// What becomes of an offer, or of an announcement that has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offered {
    /// It is here, or has been.
    Known,
    /// It will be fetched; or the application is to hear of it.
    Wanted,
    /// There is no room for it, nobody wants to hear, or it is something else than was offered.
    Refused,
}

/// Whom to tell of an announcement.
#[derive(Debug)]
pub(crate) struct Spread {
    /// It is so young that hardly anybody has heard of it.
    pub(crate) is_young: bool,
    /// These have it.
    pub(crate) known_to: Vec<NodeId>,
}

impl Default for News {
    fn default() -> Self {
        Self {
            listening: false,
            wanted: BTreeMap::new(),
            undecided: BTreeMap::new(),
            kept: BTreeMap::new(),
            passed_on: Recent::new(REMEMBERED_FOR, MAX_REMEMBERED),
            dropped: Recent::new(DROPPED_FOR, MAX_REMEMBERED),
            rates: Rates::default(),
            catching_up: None,
        }
    }
}

impl News {
    /// Whether the application wants to hear of announcements from now on. If not, what it has not decided is forgotten: it
    /// comes again when somebody listens.
    pub(crate) fn listen(&mut self, listening: bool) {
        self.listening = listening;
        if !listening {
            self.wanted.clear();
            self.undecided.clear();
            self.catching_up = None;
        }
    }

    pub(crate) fn is_listening(&self) -> bool {
        self.listening
    }

    /// This node announces `message`, and keeps it up to the age of `keep`. `None` if it did so before.
    pub(crate) fn announce(&mut self, now: Instant, message: &[u8], keep: Duration) -> Option<Id> {
        let id = Id::of_announcement(message);
        if self.kept.contains_key(&id) || self.passed_on.get(now, &id).is_some() {
            return None;
        }
        self.wanted.remove(&id);
        self.undecided.remove(&id);
        self.keep(now, id, Kept { message: message.into(), age: Duration::ZERO, since: now, keep: keep.min(MAX_KEEP) });
        Some(id)
    }

    /// `peer` has announcement `id`, and offers it.
    pub(crate) fn offered(&mut self, now: Instant, peer: Peer, id: Id) -> Offered {
        if !self.listening {
            return Offered::Refused;
        }
        if let Some(undecided) = self.undecided.get_mut(&id) {
            if undecided.known_to.len() < MAX_KNOWN_TO {
                undecided.known_to.push(peer.id);
            }
            return Offered::Known;
        }
        if self.is_known(now, &id) {
            return Offered::Known;
        }
        let network = network_of(&peer);
        if let Some(wanted) = self.wanted.get_mut(&id) {
            wanted.add(peer);
            return Offered::Wanted;
        }
        let of_network = self.wanted.values().filter(|wanted| network.is_some() && wanted.network() == network);
        if self.wanted.len() >= MAX_WANTED || of_network.count() >= MAX_WANTED_OF_NETWORK {
            return Offered::Refused;
        }
        self.wanted.insert(id, Wanted { since: now, sources: vec![peer], asked: Vec::new() });
        Offered::Wanted
    }

    /// What is to be fetched next, and from whom; it then counts as asked for. The first that was offered comes first.
    pub(crate) fn next_fetch(&mut self, now: Instant) -> Option<(Id, Peer)> {
        if self.wanted.is_empty() || self.in_hand(None) >= MAX_UNDECIDED {
            return None;
        }
        let mut waiting: Vec<(Instant, Id)> =
            self.wanted.iter().filter(|(_, wanted)| wanted.may_ask()).map(|(id, wanted)| (wanted.since, *id)).collect();
        waiting.sort();
        for (_, id) in waiting {
            let sources = &self.wanted[&id].sources;
            if let Some(place) = sources.iter().position(|peer| self.may_bring(now, peer)) {
                let wanted = self.wanted.get_mut(&id).expect("it has just been found");
                let peer = wanted.sources.remove(place);
                wanted.asked.push(Asked { peer, is_late: false });
                return Some((id, peer));
            }
        }
        None
    }

    /// `peer` takes long to answer a fetch.
    pub(crate) fn late(&mut self, id: &Id, peer: &Peer) {
        let asked = self.wanted.get_mut(id).into_iter().flat_map(|wanted| &mut wanted.asked);
        for asked in asked.filter(|asked| asked.peer == *peer) {
            asked.is_late = true;
        }
    }

    /// `peer` has answered a fetch with this. It is wanted if it is what was asked for, new, and the network of `peer` has
    /// not brought too many lately.
    pub(crate) fn fetched(
        &mut self,
        now: Instant,
        peer: &Peer,
        id: &Id,
        age: Duration,
        message: &Arc<[u8]>,
    ) -> Offered {
        if Id::of_announcement(message) != *id {
            self.failed(id, peer);
            return Offered::Refused;
        }
        let Some(wanted) = self.wanted.remove(id) else {
            return Offered::Known;
        };
        if !self.rates.admit(ALLOWANCE, now, peer.addr.ip()) {
            return Offered::Refused;
        }
        let asked = wanted.asked.iter().map(|asked| asked.peer.id);
        let known_to = asked.chain(wanted.sources.iter().map(|peer| peer.id)).collect();
        let from = network_of(peer);
        self.undecided.insert(*id, Undecided { message: Arc::clone(message), age, since: now, from, known_to });
        Offered::Wanted
    }

    /// `peer` does not have what it has offered, or is gone. If nobody else has offered it, it is given up.
    pub(crate) fn failed(&mut self, id: &Id, peer: &Peer) {
        if let Some(wanted) = self.wanted.get_mut(id) {
            wanted.asked.retain(|asked| asked.peer.id != peer.id);
            if wanted.asked.is_empty() && wanted.sources.is_empty() {
                self.wanted.remove(id);
            }
        }
    }

    /// The application has found an announcement true, and keeps it up to the age of `keep`. Whom to tell; `None` if it
    /// has been decided before, or is so old that nobody is to be told any more.
    pub(crate) fn pass_on(&mut self, now: Instant, id: &Id, keep: Duration) -> Option<Spread> {
        let Undecided { message, age, since, known_to, .. } = self.undecided.remove(id)?;
        let keep = keep.min(MAX_KEEP);
        let kept = Kept { message, age: age + now.saturating_since(since), since: now, keep };
        let is_over = kept.age >= keep + HELD_FOR;
        let is_young = kept.age < YOUNG;
        if is_over {
            self.passed_on.note(now, *id, ());
            return None;
        }
        self.keep(now, *id, kept);
        Some(Spread { is_young, known_to })
    }

    /// The application has not passed an announcement on.
    pub(crate) fn drop(&mut self, now: Instant, id: &Id) {
        if self.undecided.remove(id).is_some() {
            self.dropped.note(now, *id, ());
        }
    }

    /// An announcement that is kept, and its age.
    pub(crate) fn get(&self, now: Instant, id: &Id) -> Option<(Duration, Arc<[u8]>)> {
        let kept = self.kept.get(id).filter(|kept| kept.is_held(now))?;
        Some((kept.age(now), Arc::clone(&kept.message)))
    }

    /// The youngest announcements that are kept for newcomers, but for those whose short names are in `known`.
    pub(crate) fn offers(&self, now: Instant, known: &[u32]) -> Vec<Id> {
        let known: BTreeSet<u32> = known.iter().copied().collect();
        let kept = self.by_age(now).into_iter().filter(|id| self.kept[id].is_for_newcomers(now));
        kept.filter(|id| !known.contains(&short(id))).take(MAX_OFFERS).collect()
    }

    /// The short names of what this node need not be told.
    pub(crate) fn known(&self, now: Instant) -> Vec<u32> {
        let here = self.undecided.keys().copied().chain(self.by_age(now));
        let gone = self.dropped.latest(now).chain(self.passed_on.latest(now)).copied();
        let (mut seen, mut known) = (BTreeSet::new(), Vec::new());
        for name in here.chain(gone).map(|id| short(&id)) {
            if known.len() >= MAX_KNOWN {
                break;
            }
            if seen.insert(name) {
                known.push(name);
            }
        }
        known
    }

    /// Some peers are to be asked for all that they keep, one after the other, unless others are. See
    /// [`next_round`](Self::next_round).
    pub(crate) fn catch_up(&mut self, peers: Vec<Peer>) {
        if self.listening && self.catching_up.is_none() && !peers.is_empty() {
            self.catching_up = Some(CatchingUp { peers, rounds: MAX_ROUNDS, is_asked: false });
        }
    }

    /// The peer to be asked for what else it keeps: what it has offered so far has come.
    pub(crate) fn next_round(&mut self) -> Option<Peer> {
        let catching_up = self.catching_up.as_mut().filter(|catching_up| !catching_up.is_asked)?;
        let peer = *catching_up.peers.last()?;
        if self.wanted.values().any(|wanted| wanted.is_from(&peer)) {
            return None;
        }
        catching_up.is_asked = true;
        Some(peer)
    }

    /// A peer that was asked for what it keeps has offered these.
    pub(crate) fn offered_many(&mut self, now: Instant, peer: Peer, ids: &[Id]) {
        let offered = ids.iter().take(MAX_OFFERS).filter(|id| self.offered(now, peer, **id) == Offered::Wanted).count();
        match &mut self.catching_up {
            Some(CatchingUp { peers, rounds, is_asked })
                if peers.last() == Some(&peer) && offered > 0 && *rounds > 0 =>
            {
                *rounds -= 1;
                *is_asked = false;
            }
            _ => self.has_no_more(&peer),
        }
    }

    /// A peer that was asked for what it keeps does not answer, or has nothing else.
    pub(crate) fn has_no_more(&mut self, peer: &Peer) {
        if let Some(CatchingUp { peers, rounds, is_asked }) = &mut self.catching_up
            && peers.pop_if(|last| last == peer).is_some()
        {
            (*rounds, *is_asked) = (MAX_ROUNDS, false);
        }
        self.catching_up.take_if(|catching_up| catching_up.peers.is_empty());
    }

    /// Forgets what has become old by `now`.
    pub(crate) fn sweep(&mut self, now: Instant) {
        self.wanted.retain(|_, wanted| now.saturating_since(wanted.since) < WANTED_FOR);
        let is_old = |undecided: &Undecided| now.saturating_since(undecided.since) >= UNDECIDED_FOR;
        let old: Vec<Id> = self.undecided.iter().filter(|(_, it)| is_old(it)).map(|(id, _)| *id).collect();
        old.iter().for_each(|id| self.drop(now, id));
        self.kept.retain(|_, kept| kept.is_held(now));
        self.passed_on.sweep(now);
        self.dropped.sweep(now);
        self.rates.sweep(now);
    }

    fn keep(&mut self, now: Instant, id: Id, kept: Kept) {
        self.passed_on.note(now, id, ());
        self.kept.insert(id, kept);
        if self.kept.len() > MAX_KEPT
            && let Some(oldest) = self.by_age(now).pop()
        {
            self.kept.remove(&oldest);
        }
    }

    /// What is kept, the youngest first.
    fn by_age(&self, now: Instant) -> Vec<Id> {
        let mut ids: Vec<(Duration, Id)> = self.kept.iter().map(|(id, kept)| (kept.age(now), *id)).collect();
        ids.sort();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    fn is_known(&self, now: Instant, id: &Id) -> bool {
        self.kept.contains_key(id) || self.passed_on.get(now, id).is_some() || self.dropped.get(now, id).is_some()
    }

    /// What is undecided or being fetched: of one network, or in all.
    fn in_hand(&self, network: Option<Prefix>) -> usize {
        let is_meant = |from: Option<Prefix>| network.is_none() || from == network;
        let undecided = self.undecided.values().filter(|undecided| is_meant(undecided.from)).count();
        let asked = self.wanted.values().flat_map(|wanted| &wanted.asked);
        undecided + asked.filter(|asked| is_meant(network_of(&asked.peer))).count()
    }

    /// Whether `peer` may bring an announcement now.
    fn may_bring(&self, now: Instant, peer: &Peer) -> bool {
        let network = network_of(peer);
        (network.is_none() || self.in_hand(network) < MAX_UNDECIDED_OF_NETWORK)
            && self.rates.would_admit(ALLOWANCE, now, peer.addr.ip())
    }
}

impl Wanted {
    /// Another one who offers it, to be asked if the first do not have it. Of too many, the largest crowd of one network
    /// makes room.
    fn add(&mut self, peer: Peer) {
        let others = || self.asked.iter().map(|asked| &asked.peer).chain(&self.sources);
        if others().any(|other| other.id == peer.id) {
            return;
        }
        if others().count() < MAX_SOURCES {
            return self.sources.push(peer);
        }
        let size = |network| others().filter(|other| network_of(other) == network).count();
        let Some(crowd) = self.sources.iter().map(network_of).max_by_key(|network| size(*network)) else { return };
        if size(crowd) > size(network_of(&peer)) + 1
            && let Some(place) = self.sources.iter().rposition(|other| network_of(other) == crowd)
        {
            self.sources.remove(place);
            self.sources.push(peer);
        }
    }

    /// The network of the one who has offered it first.
    fn network(&self) -> Option<Prefix> {
        self.asked.first().map(|asked| &asked.peer).or(self.sources.first()).and_then(network_of)
    }

    fn is_from(&self, peer: &Peer) -> bool {
        self.asked.iter().map(|asked| &asked.peer).chain(&self.sources).any(|other| other.id == peer.id)
    }

    fn may_ask(&self) -> bool {
        !self.sources.is_empty() && self.asked.iter().all(|asked| asked.is_late)
    }
}

impl Kept {
    fn age(&self, now: Instant) -> Duration {
        self.age + now.saturating_since(self.since)
    }

    fn is_for_newcomers(&self, now: Instant) -> bool {
        self.age(now) < self.keep
    }

    /// Those who have just been offered it want to fetch it.
    fn is_held(&self, now: Instant) -> bool {
        self.is_for_newcomers(now) || now.saturating_since(self.since) < HELD_FOR
    }
}

/// Whose share it is that `peer` takes. Those of this machine itself have none: see [`Rates::admit`].
fn network_of(peer: &Peer) -> Option<Prefix> {
    let ip: IpAddr = peer.addr.ip();
    (!ip.is_loopback()).then(|| Prefix::of(ip))
}

/// Enough of a name to tell a few hundred apart.
fn short(id: &Id) -> u32 {
    let [a, b, c, d, ..] = *id.as_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// Kept for others. The oldest makes room.
const MAX_KEPT: usize = 256;
/// How long an announcement that has been passed on can be fetched, however old it is.
const HELD_FOR: Duration = Duration::from_secs(30);
/// Up to which age an announcement is told to many: later it has got around, and only a few may lack it.
const YOUNG: Duration = Duration::from_secs(60);
/// Fetched or with the application at one time.
const MAX_UNDECIDED: usize = 16;
/// Those of them that one network has brought.
const MAX_UNDECIDED_OF_NETWORK: usize = 4;
/// The application decides within this time, or not at all.
const UNDECIDED_FOR: Duration = Duration::from_secs(60);
/// Offered and not here yet.
const MAX_WANTED: usize = 512;
/// Those of them that one network has offered first.
const MAX_WANTED_OF_NETWORK: usize = MAX_OFFERS;
/// How long an offer waits for its turn.
const WANTED_FOR: Duration = Duration::from_secs(60);
/// Who has offered one announcement.
const MAX_SOURCES: usize = 16;
/// Peers that need not be offered what they have offered.
const MAX_KNOWN_TO: usize = 64;
/// What a network may bring to the application: so many at once, and then one in each of these.
const ALLOWANCE: Allowance = Allowance { each: Duration::from_millis(500), burst: Duration::from_secs(128) };
/// Announcements that are not heard twice.
const MAX_REMEMBERED: usize = 4096;
/// How long they are remembered: others keep them a little longer than this node, as ages are rounded down at each hop.
const REMEMBERED_FOR: Duration = Duration::from_secs(MAX_KEEP.as_secs() + 3600);
/// The same for what the application has not passed on.
const DROPPED_FOR: Duration = Duration::from_secs(600);
/// How often one peer is asked for more: twice for as many as it can keep.
const MAX_ROUNDS: u32 = 2 * (MAX_KEPT / MAX_OFFERS) as u32;

#[cfg(test)]
mod tests;
