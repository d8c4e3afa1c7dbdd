//! The answer: a question, who is alive, what is known of the asker and a random source in; records out [C04 §3.1].
//!
//! Knows no bytes, no socket and no clock. Names other than the question's follow from addresses ([`crate::name`]); turning
//! records into a message is `handler.rs`'s; whether a resolver is referred is [`crate::referral`]'s.

mod chosen;

use std::net::IpAddr;
use std::sync::Arc;

use coral_dsht::{Level, Prefix};
use rand_core::Rng;

use chosen::Chosen;
pub use chosen::MAX_ADDRESSES;

use crate::candidates::Table;
use crate::config::Config;
use crate::name::{Found, Place, Suffix, place};
use crate::near::Near;
use crate::records::Records;
use crate::zone::{Soa, seconds};

/// What is asked about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Nameservers.
    Ns,
    /// The start of authority.
    Soa,
    /// The digest of a child's key, which the zone above a cut answers for (RFC 4035 §3.1.4.1).
    Ds,
    /// How to reach an HTTP service (RFC 9460).
    Https,
    /// Whatever there is; answered with one kind of it (RFC 8482 §4.1).
    Any,
    /// The whole zone, AXFR or IXFR: there is no such thing to hand out.
    Transfer,
    /// Types that are no data but steer a message, such as OPT or TSIG: nobody can ask for them.
    Meta,
    /// A type, by its number, that a zone has no records of but those that its operator adds.
    Other(u16),
}

impl Kind {
    /// The number of the type (RFC 1035 §3.2.2); zero, which is none, for what is not stored.
    pub fn number(self) -> u16 {
        use crate::wire::types;
        match self {
            Self::A => types::A,
            Self::Aaaa => types::AAAA,
            Self::Ns => types::NS,
            Self::Soa => types::SOA,
            Self::Ds => types::DS,
            Self::Https => types::HTTPS,
            Self::Other(number) => number,
            Self::Any | Self::Transfer | Self::Meta => 0,
        }
    }
}

/// How a question ended (RFC 1035 §4.1.1, RFC 6895 §2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rcode {
    /// Answered, perhaps with no data.
    NoError,
    /// The query breaks the rules.
    FormErr,
    /// We cannot answer now; another node may.
    ServFail,
    /// The name does not exist, nor does any beneath it (RFC 8020).
    NxDomain,
    /// This kind of query is not for this server.
    NotImp,
    /// Not a zone of ours, or not to be had.
    Refused,
    /// An EDNS version that does not exist yet (RFC 6891 §6.1.3).
    BadVers,
}

/// Whose record it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The name in the question.
    Question,
    /// The zone's apex.
    Apex,
    /// The cut that the question is in: the label below the suffix.
    Cut,
    /// The nameserver at this address, by its name at the suffix.
    Nameserver(IpAddr),
    /// The nameserver at this address, by its name in the cut.
    CutNameserver(IpAddr),
}

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// A or AAAA.
    Address(IpAddr),
    /// NS, with the name that the nameserver at this address has at the suffix.
    Nameserver(IpAddr),
    /// NS, with the name that it has in the cut.
    CutNameserver(IpAddr),
    /// The SOA of the suffix, or of the cut: they differ by their owner alone.
    Soa,
    /// HTTPS, for who is reached at the addresses of this answer's other records.
    Https,
    /// One that the operator has added, by its number among the zone's.
    Added(usize),
}

/// A resource record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub owner: Owner,
    /// How long it may be kept, in seconds.
    pub ttl: u32,
    /// What it says.
    pub data: Data,
}

/// The answer to one question. Made to be filled again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// How it ended.
    pub rcode: Rcode,
    /// The zone it is from, as an index into the suffixes; `None` outside all of them.
    pub zone: Option<usize>,
    /// The number of labels that the question has in front of the zone.
    pub depth: usize,
    /// What the name in the question is, within a zone of ours.
    pub found: Option<Found>,
    /// Whether it is said with authority: all but errors and referrals.
    pub is_authoritative: bool,
    /// The answer section.
    pub answers: Vec<Record>,
    /// The authority section: the SOA where there is nothing, the nameservers in a referral.
    pub authority: Vec<Record>,
    /// The additional section: addresses of the nameservers named.
    pub additional: Vec<Record>,
    /// Addresses for the hints of an HTTPS record.
    pub hints: Vec<IpAddr>,
    /// The level from which the proxies were taken, if some were.
    pub level: Option<Level>,
    /// Whether a client elsewhere might have got another answer.
    pub by_client: bool,
}

impl Default for Answer {
    fn default() -> Self {
        Self {
            rcode: Rcode::ServFail,
            zone: None,
            depth: 0,
            found: None,
            is_authoritative: false,
            answers: Vec::new(),
            authority: Vec::new(),
            additional: Vec::new(),
            hints: Vec::new(),
            level: None,
            by_client: false,
        }
    }
}

impl Answer {
    /// Becomes one without records.
    pub fn reset(&mut self, rcode: Rcode, zone: Option<usize>) {
        self.rcode = rcode;
        self.zone = zone;
        self.is_authoritative = zone.is_some();
        for section in [&mut self.answers, &mut self.authority, &mut self.additional] {
            section.clear();
        }
        self.hints.clear();
        self.level = None;
        self.by_client = false;
    }

    /// Whether this is a referral: nameservers of somebody else, and no answer.
    pub fn is_referral(&self) -> bool {
        self.zone.is_some() && !self.is_authoritative && !self.authority.is_empty()
    }
}

/// What answering needs to know besides the question.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// How many, for how long.
    pub config: &'a Config,
    /// The zones.
    pub suffixes: &'a [Suffix],
    /// The start of authority of each.
    pub soas: &'a [Soa],
    /// What the operator has added to each.
    pub records: &'a Records,
    /// Who is alive.
    pub table: &'a Table,
    /// This node.
    pub me: IpAddr,
}

/// What is known of a client.
#[derive(Debug, Clone)]
pub struct View {
    /// Where it is: its own address, or one of its network.
    pub address: IpAddr,
    /// Its level, as seen from this node.
    pub level: Level,
    /// The nodes near it, if it is nearer to others.
    pub near: Option<Arc<Near>>,
    /// The node that has asked this one to answer it, and is named beside it.
    pub distant: Option<IpAddr>,
}

/// What to do with a resolver that asks about a name in a cut.
#[derive(Debug, Clone)]
pub enum Course {
    /// Answer it here.
    Answer,
    /// Send it to these nameservers.
    Refer(Arc<Near>),
}

/// Who asks. Each thing is asked at most once, and only where the answer hangs on it.
pub trait Asker {
    /// The client for which the resolver asks: the one of which it tells, or itself.
    fn client(&mut self) -> View;
    /// The resolver itself, whatever it tells of its clients.
    fn resolver(&mut self) -> View;
    /// What to do with the resolver, which asks about the cut with this label, or about a name within it.
    fn course(&mut self, cut: &[u8], is_cut_itself: bool) -> Course;
}

/// Answers what is asked about the name with these `labels`: from the left, in lower case, without the root.
///
/// `random` decides which of the proxies are named, and in which order.
pub fn answer(
    out: &mut Answer,
    context: Context<'_>,
    labels: &[&[u8]],
    kind: Kind,
    asker: &mut impl Asker,
    random: &mut impl Rng,
) {
    out.found = None;
    let Some(mut found) = place(labels, context.suffixes, context.config.ip_literals) else {
        return out.reset(Rcode::Refused, None);
    };
    out.depth = found.depth;
    let front = &labels[..found.depth];
    let added = context.records.at(front);
    if found.is_cut && context.records.have_below(labels[found.depth - 1]) {
        // The operator's own names stay in the operator's zone.
        found.is_cut = false;
    }
    out.found = Some(found);
    match kind {
        Kind::Transfer => return out.reset(Rcode::Refused, None),
        Kind::Meta => return out.reset(Rcode::FormErr, None),
        _ => {}
    }
    let mut question = Question { context, found, kind, out };
    if !added.is_empty() && question.added(added) {
        return;
    }
    if found.is_cut {
        if found.depth == 1 && kind == Kind::Ds {
            // What is above the cut answers this, and nobody is referred to what is below it for it. Where it is signed there is
            // something, which `handler/encode/signed.rs` adds.
            question.found.is_cut = false;
            return question.negative(Rcode::NoError);
        }
        if let Course::Refer(near) = asker.course(labels[found.depth - 1], found.depth == 1) {
            return question.refer(&near);
        }
    }
    match (found.place, kind) {
        (Place::Missing, _) if added.is_empty() && !context.records.are_below(front) => {
            question.negative(Rcode::NxDomain);
        }
        (Place::Apex, Kind::Soa | Kind::Any) => question.start_of_authority(),
        (Place::NonTerminal, Kind::Soa | Kind::Any) if found.is_cut && found.depth == 1 => {
            question.start_of_authority();
        }
        (Place::Apex, Kind::Ns) => question.nameservers(&asker.resolver(), random),
        // Whoever is told by a node that may refer it a moment later that this is a zone, and of these servers, takes them for lame then.
        (Place::NonTerminal, Kind::Ns)
            if found.is_cut && found.depth == 1 && question.is_settled(&asker.resolver()) =>
        {
            question.nameservers(&asker.resolver(), random);
        }
        (Place::Apex | Place::Host, Kind::A | Kind::Aaaa | Kind::Any) => question.proxies(&asker.client(), random),
        (Place::Host, Kind::Https) if question.has_certificate(labels) => {
            question.service(&asker.client(), random);
        }
        (Place::Nameserver(ip), _) => question.nameserver(ip, asker),
        _ => question.negative(Rcode::NoError),
    }
}

/// One question on its way to an answer.
struct Question<'a> {
    context: Context<'a>,
    found: Found,
    kind: Kind,
    out: &'a mut Answer,
}

impl Question<'_> {
    /// The zone that the name is in: the cut, where there is one.
    fn zone_name(&self) -> Owner {
        if self.found.is_cut { Owner::Cut } else { Owner::Apex }
    }

    fn reset(&mut self, rcode: Rcode) {
        self.out.reset(rcode, Some(self.found.zone));
    }

    /// NXDOMAIN, or NOERROR without data: both carry the SOA, whose TTL says how long they hold (RFC 2308 §2, §3).
    fn negative(&mut self, rcode: Rcode) {
        self.reset(rcode);
        let ttl = self.context.soas[self.found.zone].negative_ttl();
        self.out.authority.push(Record { owner: self.zone_name(), ttl, data: Data::Soa });
    }

    /// What the operator has added under this name. False if that is nothing of the kind asked for.
    fn added(&mut self, added: &[usize]) -> bool {
        let wanted = match self.kind {
            // One kind is enough (RFC 8482 §4.1).
            Kind::Any => added.first().map(|first| self.context.records.get(*first).kind),
            kind => Some(kind.number()),
        };
        self.reset(Rcode::NoError);
        for number in added {
            let record = self.context.records.get(*number);
            if Some(record.kind) == wanted {
                let ttl = record.ttl;
                self.out.answers.push(Record { owner: Owner::Question, ttl, data: Data::Added(*number) });
            }
        }
        !self.out.answers.is_empty()
    }

    fn start_of_authority(&mut self) {
        self.reset(Rcode::NoError);
        let ttl = self.context.soas[self.found.zone].ttl;
        self.out.answers.push(Record { owner: Owner::Question, ttl, data: Data::Soa });
    }

    /// A referral (RFC 1034 §4.3.2): the nameservers of the cut with their addresses, and no word of our own.
    fn refer(&mut self, near: &Near) {
        self.reset(Rcode::NoError);
        self.out.is_authoritative = false;
        self.out.level = Some(near.level);
        let ttl = self.referral_ttl(near.level);
        let nameservers = near.nameservers.iter().take(self.context.config.nameservers.get() - 1);
        for ip in nameservers.chain([&self.context.me]) {
            self.out.authority.push(Record { owner: Owner::Cut, ttl, data: Data::CutNameserver(*ip) });
            self.out.additional.push(Record { owner: Owner::CutNameserver(*ip), ttl, data: Data::Address(*ip) });
        }
    }

    fn referral_ttl(&self, level: Level) -> u32 {
        seconds(self.context.config.referral_ttl(level))
    }

    /// Whether this node answers `resolver` and will not refer it: as it has promised, or as nobody can be nearer.
    fn is_settled(&self, resolver: &View) -> bool {
        resolver.distant.is_some() || self.is_nearest(resolver)
    }

    /// Whether nobody can be nearer to `resolver` than the members of this node's nearest cluster.
    fn is_nearest(&self, resolver: &View) -> bool {
        self.context.table.levels.first().is_some_and(|nearest| resolver.level >= nearest.level)
    }

    /// The nameservers of the apex: near ones first, as far as there are any, and distant ones, lest all of them fail together. A
    /// resolver that knows them by this answer finds a near one by itself. Of the cut those alone that will not refer it.
    fn nameservers(&mut self, resolver: &View, random: &mut impl Rng) {
        self.reset(Rcode::NoError);
        let table = self.context.table;
        let (most, is_cut) = (self.context.config.nameservers.get(), self.found.is_cut);
        // A resolver that is sent on by everybody keeps one that is not near: the cut's last resort.
        let near_most = (most - 1).max(1);
        let near: &[IpAddr] = match &resolver.near {
            Some(near) if near.level > resolver.level => &near.nameservers,
            // Others of this level may know nearer ones.
            _ if is_cut && !self.is_nearest(resolver) => std::slice::from_ref(&self.context.me),
            _ => {
                table.level(resolver.level).filter(|_| resolver.level != Level::GLOBAL).map_or(&[], |l| &l.nameservers)
            }
        };
        let ttl = match (is_cut, resolver.level) {
            (true, level) => self.referral_ttl(level),
            (false, _) => seconds(self.context.config.nameserver_ttl),
        };
        let mut chosen = Chosen::default();
        chosen.draw(near, near_most, random);
        if is_cut && let Some(distant) = resolver.distant {
            chosen.draw(&[distant], most, random);
        }
        if !is_cut {
            chosen.draw(&table.nameservers, most, random);
        }
        if chosen.ips().is_empty() {
            return self.negative(Rcode::NoError);
        }
        for ip in chosen.ips().iter().copied() {
            let (data, owner) = match is_cut {
                true => (Data::CutNameserver(ip), Owner::CutNameserver(ip)),
                false => (Data::Nameserver(ip), Owner::Nameserver(ip)),
            };
            self.out.answers.push(Record { owner: Owner::Question, ttl, data });
            self.out.additional.push(Record { owner, ttl, data: Data::Address(ip) });
        }
        self.out.by_client = true;
    }

    /// The name of a nameserver has its address from who knows that one to be alive: else anybody could make a name of ours
    /// point anywhere.
    fn nameserver(&mut self, ip: IpAddr, asker: &mut impl Asker) {
        let is_alive = self.context.table.nameservers.contains(&ip)
            || self.context.table.levels.iter().any(|level| level.nameservers.contains(&ip))
            || {
                let resolver = asker.resolver();
                resolver.distant == Some(ip) || resolver.near.is_some_and(|near| near.nameservers.contains(&ip))
            };
        if !is_alive {
            // Not "no such name", which would be remembered: in a large network a node does not know all others. Each
            // knows its own name, at the least, and is asked next.
            return self.out.reset(Rcode::ServFail, None);
        }
        if !is_wanted(self.kind, ip) {
            return self.negative(Rcode::NoError);
        }
        self.reset(Rcode::NoError);
        let config = self.context.config;
        let ttl = seconds(if self.found.is_cut { config.referral_ttl } else { config.nameserver_ttl });
        self.out.answers.push(Record { owner: Owner::Question, ttl, data: Data::Address(ip) });
    }

    fn proxies(&mut self, client: &View, random: &mut impl Rng) {
        self.reset(Rcode::NoError);
        // To ANY one kind of record is enough (RFC 8482 §4.1): IPv4 if there is any.
        let kinds: &[Kind] = match self.kind {
            Kind::Any => &[Kind::A, Kind::Aaaa],
            kind => &[kind],
        };
        let Some((level, members)) = kinds.iter().find_map(|kind| members(self.context, *kind, client)) else {
            if self.context.table.levels.iter().all(|level| level.proxies.is_empty()) {
                // Not "no address", which would be remembered: this node knows of no proxy, and others may.
                return self.out.reset(Rcode::ServFail, None);
            }
            self.negative(Rcode::NoError);
            // Elsewhere there may be one of the family.
            self.out.by_client = self.context.table.levels.len() > 1;
            return;
        };
        let ttl = self.proxy_ttl(level);
        self.out.level = Some(level);
        self.out.by_client = self.context.table.levels.len() > 1;
        for ip in self.choose(members, client, random).ips() {
            self.out.answers.push(Record { owner: Owner::Question, ttl, data: Data::Address(*ip) });
        }
    }

    /// Whether a certificate can cover the name: one label below `s` (a wildcard certificate has one star).
    fn has_certificate(&self, labels: &[&[u8]]) -> bool {
        !self.context.config.https.is_empty() && self.found.depth == 2 && labels[1] == b"s"
    }

    /// That the proxies speak HTTPS, and their addresses, which saves the resolver's client a question (RFC 9460 §7.3).
    fn service(&mut self, client: &View, random: &mut impl Rng) {
        self.reset(Rcode::NoError);
        let mut nearest = None;
        for kind in [Kind::A, Kind::Aaaa] {
            if let Some((level, members)) = members(self.context, kind, client) {
                nearest = nearest.max(Some(level));
                self.out.hints.extend(self.choose(members, client, random).ips());
            }
        }
        let Some(level) = nearest else {
            return self.negative(Rcode::NoError);
        };
        let ttl = self.proxy_ttl(level);
        self.out.answers.push(Record { owner: Owner::Question, ttl, data: Data::Https });
        self.out.level = Some(level);
        self.out.by_client = self.context.table.levels.len() > 1;
    }

    fn proxy_ttl(&self, level: Level) -> u32 {
        let config = self.context.config;
        seconds(if level.number() >= 2 { config.near_ttl } else { config.ttl })
    }

    /// Those on the client's own network first, then any of the others.
    fn choose(&self, members: &[IpAddr], client: &View, random: &mut impl Rng) -> Chosen {
        let most = self.context.config.addresses.get();
        let mut chosen = Chosen::default();
        let home = Prefix::of(client.address);
        // Sorted, those of one network stand side by side.
        let from = members.partition_point(|ip| Prefix::of(*ip) < home);
        // There are seldom any.
        let count = members[from..].iter().take_while(|ip| Prefix::of(**ip) == home).count();
        chosen.draw(&members[from..from + count], most, random);
        chosen.draw(members, most, random);
        chosen
    }
}

/// The proxies of the asked family that are nearest to the client: of nodes near it, else those of the nearest level of ours
/// that has enough, from the client's outwards; where none has, those of the level that has most. `None` if there are none
/// at all. All are sorted.
fn members<'a>(context: Context<'a>, kind: Kind, client: &'a View) -> Option<(Level, &'a [IpAddr])> {
    let family = |ips: &'a [IpAddr]| {
        let (v4, v6) = ips.split_at(ips.partition_point(IpAddr::is_ipv4));
        if kind == Kind::A { v4 } else { v6 }
    };
    if let Some(near) = client.near.as_deref().filter(|near| near.level > client.level) {
        let members = family(&near.proxies);
        if !members.is_empty() {
            return Some((near.level, members));
        }
    }
    let mut best: Option<(Level, &[IpAddr])> = None;
    for level in context.table.levels.iter().filter(|level| level.level <= client.level) {
        let members = family(&level.proxies);
        if members.len() >= context.config.level_members.get() {
            return Some((level.level, members));
        }
        if members.len() > best.map_or(0, |(_, most)| most.len()) {
            best = Some((level.level, members));
        }
    }
    best
}

/// Whether an answer to `kind` may hold this address.
fn is_wanted(kind: Kind, ip: IpAddr) -> bool {
    match kind {
        Kind::A => ip.is_ipv4(),
        Kind::Aaaa => ip.is_ipv6(),
        Kind::Any => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
