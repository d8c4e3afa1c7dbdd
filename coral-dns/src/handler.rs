//! Messages: bytes of a query in, bytes of its answer out.
//!
//! In this order: refuse what cannot be answered safely, read, limit, find what is known of the client, answer
//! ([`crate::answer`]), write, count. Nothing here waits, takes a lock that is held for long, or allocates for a query that is
//! like the one before. The question goes back as the bytes that it came in, since resolvers hide entropy in its upper and
//! lower case.

mod check;
mod encode;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coral_dsht::{Level, Peer, Prefix};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng};
use tokio::time::Instant;

use crate::NAMESERVER;
use crate::answer::{Answer, Asker, Context, Course, Kind, Rcode, View, answer};
use crate::appraisal::{self, MAX_FELLOWS, Promise};
use crate::candidates::{Candidates, Seen, Table};
use crate::clients::{Duty, Known};
use crate::config::Config;
use crate::cookie::{self, Secret};
use crate::dnssec::Signer;
use crate::error::DnsError;
use crate::metrics::{LevelLabels, Metrics, QueryLabels, ReasonLabels, Spread};
use crate::name::Suffix;
use crate::probe::Prober;
use crate::proximity::{self, Client};
use crate::rate::{self, Limiter};
use crate::records::Records;
use crate::referral::{self, Decision, Referred, Return};
use crate::wire::query::{LowerName, Query, Rejection};
use crate::wire::{classes, types};
use crate::zone::Soa;

#[doc(hidden)]
pub use check::check_query;

/// The longest query read: the longest name, EDNS and a signature need a tenth of it.
pub(crate) const MAX_QUERY_BYTES: usize = 4096;

/// Referrals remembered, at about 50 bytes each.
const MAX_REFERRED: usize = 1 << 16;

/// How a message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

impl Transport {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// A message that came in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) from: SocketAddr,
    pub(crate) transport: Transport,
    pub(crate) bytes: &'a [u8],
    /// Whether its answer may come later: else it is neither [`Outcome::Wait`] nor [`Outcome::SendAfter`].
    pub(crate) may_wait: bool,
    /// Whether its answer was waited for already: it is not counted against a limit again.
    pub(crate) is_again: bool,
}

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It gets no answer, which is counted.
    Nothing,
    /// It gets the answer that was written.
    Send,
    /// It gets the answer that was written, after this time.
    SendAfter(Duration),
    /// A measurement of this client is under way: it gets a better answer soon. Nothing was written.
    Wait(Client),
}

/// What one reader of messages keeps between them, so that nothing is shared, locked or allocated for each.
#[derive(Debug)]
pub(crate) struct Scratch {
    name: LowerName,
    answer: Answer,
    seen: Seen,
    random: ChaCha8Rng,
    /// Where it counts.
    thread: usize,
}

impl Scratch {
    /// The same for the thread with this number, which counts apart from others.
    pub(crate) fn of_thread(self, number: usize) -> Self {
        Self { thread: 1 + number, ..self }
    }

    /// A seed for another one.
    pub(crate) fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.random.fill_bytes(&mut seed);
        seed
    }
}

/// Answers messages. Shared by all sockets.
#[derive(Debug)]
pub(crate) struct Handler {
    config: Arc<Config>,
    suffixes: Vec<Suffix>,
    soas: Vec<Soa>,
    records: Records,
    signer: Option<Signer>,
    /// This node's address.
    ip: IpAddr,
    home: Prefix,
    candidates: Candidates,
    prober: Option<Prober>,
    referred: Referred,
    limiter: Option<Limiter>,
    secret: Secret,
    metrics: Metrics,
    counters: Counters,
}

/// The counters of what is counted for each query, looked up once.
#[derive(Debug, Default)]
struct Counters {
    queries: [[[OnceLock<Spread>; 2]; RCODES.len()]; KINDS.len()],
    answers: [OnceLock<Spread>; 3],
}

/// What is counted of a query's type; the places are those of [`kind_number`].
const KINDS: [&str; 12] =
    ["A", "AAAA", "NS", "SOA", "DS", "HTTPS", "ANY", "transfer", "meta", "other", "chaos", "none"];
const CHAOS: usize = 10;
const NONE: usize = 11;
/// The places are those of [`Rcode`].
const RCODES: [&str; 7] = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "BADVERS"];

impl Handler {
    /// An error says which of the operator's records is none, or which key cannot be used.
    pub(crate) fn new(
        config: Arc<Config>,
        suffixes: Vec<Suffix>,
        me: Peer,
        candidates: Candidates,
        prober: Option<Prober>,
        metrics: Metrics,
        secret: [u8; 16],
    ) -> Result<Self, DnsError> {
        let signer = Signer::open(&config.dnssec_keys, secret)?;
        if signer.is_some() {
            Records::check_signed(&config.records)?;
        }
        let soas = suffixes.iter().map(|_| Soa::new(me.addr.ip(), &config)).collect();
        Ok(Self {
            records: Records::new(&config.records)?,
            signer,
            limiter: NonZeroU32::new(config.rate).map(|rate| Limiter::new(rate, Instant::now())),
            referred: Referred::new(MAX_REFERRED),
            secret: Secret::new(secret),
            counters: Counters::default(),
            config,
            suffixes,
            soas,
            ip: me.addr.ip().to_canonical(),
            home: Prefix::of(me.addr.ip()),
            candidates,
            prober,
            metrics,
        })
    }

    /// For one reader; `seed` decides what it draws.
    pub(crate) fn scratch(&self, seed: [u8; 32]) -> Scratch {
        Scratch {
            name: LowerName::default(),
            answer: Answer::default(),
            seen: Seen::default(),
            random: ChaCha8Rng::from_seed(seed),
            thread: 0,
        }
    }

    /// Writes the answer to `message` behind what `out` has.
    pub(crate) fn respond(
        &self,
        scratch: &mut Scratch,
        now: Instant,
        message: Message<'_>,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let Message { from, transport, bytes, may_wait, is_again } = message;
        // No answer to where nobody listens.
        if from.port() == 0 || !proximity::is_unicast(from.ip().to_canonical()) {
            return self.nothing("source");
        }
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let Scratch { name, answer, seen, random, thread } = scratch;
        let thread = *thread;
        let query = match Query::read(bytes, name) {
            Ok(query) => query,
            Err(Rejection::Drop(reason)) => return self.nothing(reason),
            Err(Rejection::Error(rcode)) => {
                // What is no query is limited like one.
                if transport == Transport::Udp && self.limit(now, from.ip()) != rate::Verdict::Send {
                    return self.nothing("rate");
                }
                self.count(thread, NONE, rcode, transport);
                encode::error(bytes, rcode, out);
                return Outcome::Send;
            }
        };
        let cookie = query.edns.and_then(|edns| edns.cookie);
        let cookie = cookie.map(|cookie| self.secret.judge(cookie, from.ip(), unix_time()));
        let is_proven = transport == Transport::Tcp || matches!(cookie, Some(cookie::Verdict::Proven { .. }));
        if !is_proven && !is_again {
            match self.limit(now, from.ip()) {
                rate::Verdict::Send => {}
                rate::Verdict::Drop => return self.nothing("rate"),
                rate::Verdict::Slip => {
                    self.metrics.truncated.inc();
                    encode::truncated(bytes, query.question, out);
                    return Outcome::Send;
                }
            }
        }
        let kind = kind_of(query.kind);
        let mut asking = Asking {
            handler: self,
            now,
            from: from.ip(),
            query: &query,
            table: self.candidates.look(now, seen),
            resolver: None,
            is_worth_waiting: None,
            hold: None,
            is_stuck: false,
        };
        let mut reply = None;
        if let Some(rcode) = self.refusal(&query, cookie) {
            answer.reset(rcode, None);
        } else if let Some(request) = query.edns.and_then(|edns| edns.appraisal).filter(|_| is_proven) {
            reply = asking.appraise(request);
            self.answer(answer, &query, kind, &mut asking, random);
        } else if query.class == classes::CH {
            return self.chaos(thread, &query, cookie, from.ip(), transport, out);
        } else {
            self.answer(answer, &query, kind, &mut asking, random);
        }
        if let Some(client) = asking.is_worth_waiting.filter(|_| may_wait) {
            return Outcome::Wait(client);
        }
        let hold = asking.hold.filter(|_| transport == Transport::Udp && may_wait);
        if hold.is_some() && asking.is_stuck {
            return self.nothing("last_resort");
        }
        self.count(thread, kind_number(kind), answer.rcode, transport);
        if let Some(level) = answer.level {
            if answer.is_referral() {
                let level = u32::from(level.number());
                self.metrics.referrals.get_or_create(&LevelLabels { level }).inc();
            } else {
                let number = level.index();
                let level = u32::from(level.number());
                let make = || self.metrics.answers.get_or_create_owned(&LevelLabels { level });
                self.counters.answers[number].get_or_init(make).inner().inc_at(thread);
            }
        }
        self.encode(&query, answer, reply.as_ref(), cookie, from.ip(), transport, out);
        match hold {
            Some(hold) if !hold.is_zero() => Outcome::SendAfter(hold),
            _ => Outcome::Send,
        }
    }

    /// Why a query that can be read gets no answer of the zone.
    fn refusal(&self, query: &Query<'_>, cookie: Option<cookie::Verdict>) -> Option<Rcode> {
        let edns = query.edns.unwrap_or_default();
        if edns.version > 0 {
            return Some(Rcode::BadVers);
        }
        if edns.subnet.is_some_and(|(_, subnet)| subnet.is_err()) || cookie == Some(cookie::Verdict::Malformed) {
            // With an OPT record, lest the resolver think that it is EDNS as such that we do not know (RFC 6891 §7).
            return Some(Rcode::FormErr);
        }
        (query.class != classes::IN && query.class != classes::CH).then_some(Rcode::Refused)
    }

    fn answer(
        &self,
        out: &mut Answer,
        query: &Query<'_>,
        kind: Kind,
        asking: &mut Asking<'_>,
        random: &mut ChaCha8Rng,
    ) {
        let context = Context {
            config: &self.config,
            suffixes: &self.suffixes,
            soas: &self.soas,
            records: &self.records,
            table: asking.table,
            me: self.ip,
        };
        answer(out, context, &query.name.labels(), kind, asking, random);
    }

    /// What servers tell of themselves (RFC 4892), if they are to.
    fn chaos(
        &self,
        thread: usize,
        query: &Query<'_>,
        cookie: Option<cookie::Verdict>,
        from: IpAddr,
        transport: Transport,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let text = match query.name.as_wire() {
            b"\x07version\x04bind\0" | b"\x07version\x06server\0" => self.config.version.as_deref(),
            b"\x08hostname\x04bind\0" | b"\x02id\x06server\0" => self.config.nsid.as_deref(),
            _ => None,
        };
        let text = text.filter(|_| matches!(query.kind, types::TXT | types::ANY));
        let rcode = if text.is_some() { Rcode::NoError } else { Rcode::Refused };
        self.count(thread, CHAOS, rcode, transport);
        self.encode_chaos(query, text, rcode, cookie, from, out);
        Outcome::Send
    }

    fn limit(&self, now: Instant, from: IpAddr) -> rate::Verdict {
        self.limiter.as_ref().map_or(rate::Verdict::Send, |limiter| limiter.take(now, from))
    }

    fn nothing(&self, reason: &'static str) -> Outcome {
        self.dropped(reason);
        Outcome::Nothing
    }

    /// Counts what got no answer.
    pub(crate) fn dropped(&self, reason: &'static str) {
        self.metrics.dropped.get_or_create(&ReasonLabels { reason }).inc();
    }

    fn count(&self, thread: usize, kind: usize, rcode: Rcode, transport: Transport) {
        let counter = &self.counters.queries[kind][rcode as usize][transport as usize];
        let labels = || QueryLabels { kind: KINDS[kind], rcode: RCODES[rcode as usize], transport: transport.name() };
        counter.get_or_init(|| self.metrics.queries.get_or_create_owned(&labels())).inner().inc_at(thread);
    }

    /// Waits until `client` is measured, for as long as that can matter: who has not answered within the diameter of level 1
    /// is at level 0 [C04 §3.1].
    pub(crate) async fn measured(&self, client: &Client) {
        let Some(prober) = &self.prober else {
            return;
        };
        let widest = self.candidates.table(Instant::now()).widest();
        let _ = tokio::time::timeout(widest, prober.clients().measured(client.key())).await;
    }
}

/// Who asks, as [`answer`] wants to know it.
struct Asking<'a> {
    handler: &'a Handler,
    now: Instant,
    from: IpAddr,
    query: &'a Query<'a>,
    table: &'a Table,
    /// The resolver, once it was looked up.
    resolver: Option<View>,
    /// A client that is being measured, and on whom the answer hangs.
    is_worth_waiting: Option<Client>,
    /// How long the answer is to be held back.
    hold: Option<Duration>,
    /// Whether it is better not to answer at all over UDP: see [`Return::Stuck`].
    is_stuck: bool,
}

impl<'a> Asking<'a> {
    /// Whoever knows clients. With the global level alone there is nothing to choose between, so nothing to measure.
    fn prober(&self) -> Option<&'a Prober> {
        self.handler.prober.as_ref().filter(|_| self.table.levels.len() > 1)
    }

    /// Looks `client` up.
    fn look_up(&mut self, client: &Client) -> View {
        match self.prober() {
            Some(prober) => {
                let (known, comes) = prober.look_up(self.now, client);
                self.view(client, known, comes)
            }
            None => View { address: client.address, level: Level::GLOBAL, near: None, distant: None },
        }
    }

    /// What `known` means; `comes` says that more is to be had soon.
    fn view(&mut self, client: &Client, known: Known, comes: bool) -> View {
        if comes {
            self.is_worth_waiting = Some(*client);
        }
        let levels = self.table.levels.iter().map(|level| (level.level, level.diameter));
        // One on our own network that keeps silent is near all the same.
        let is_neighbour = known.rtt.is_none() && known.is_measured && Prefix::of(client.address) == self.handler.home;
        let rtt = if is_neighbour { Some(Duration::ZERO) } else { known.rtt };
        let distant = known.duty.map(|duty| duty.distant);
        View { address: client.address, level: proximity::level(rtt, levels), near: known.near, distant }
    }

    fn subnet_client(&self) -> Client {
        let subnet = self.query.edns.and_then(|edns| edns.subnet).and_then(|(_, subnet)| subnet.ok());
        Client::new(self.from, subnet)
    }

    /// Another node's question, which a cookie has shown to be its own: what this node knows of the client, and a promise.
    fn appraise(&mut self, request: &[u8]) -> Option<appraisal::Reply> {
        let request = appraisal::Request::decode(request)?;
        let prober = self.prober().filter(|_| proximity::is_unicast(request.client))?;
        let client = Client::new(request.client, None);
        let (known, comes) = prober.appraise(self.now, &client);
        let rtt = known.rtt;
        let view = self.view(&client, known, comes);
        let is_near = view.level != Level::GLOBAL;
        let offers = self.handler.candidates.offers();
        let promises = is_near && offers.contains(NAMESERVER);
        if let Some(Promise { seconds, distant }) = request.duty.filter(|_| promises) {
            let until = self.now + Duration::from_secs(seconds.into());
            prober.clients().promise(client.key(), Duty { until, distant });
        }
        let me = self.handler.ip;
        let fellows = self.table.level(view.level).filter(|_| is_near).map_or(&[][..], |level| &level.nameservers);
        Some(appraisal::Reply {
            level: view.level,
            rtt,
            services: offers,
            has_promised: promises && request.duty.is_some(),
            fellows: fellows.iter().copied().filter(|ip| *ip != me).take(MAX_FELLOWS).collect(),
        })
    }
}

impl Asker for Asking<'_> {
    fn client(&mut self) -> View {
        let client = self.subnet_client();
        if client.by_subnet { self.look_up(&client) } else { self.resolver() }
    }

    fn resolver(&mut self) -> View {
        if let Some(resolver) = &self.resolver {
            return resolver.clone();
        }
        let resolver = self.look_up(&Client::new(self.from, None));
        self.resolver.insert(resolver).clone()
    }

    fn course(&mut self, cut: &[u8], is_cut_itself: bool) -> Course {
        let resolver = self.resolver();
        let (Some(prober), Some(near)) = (self.prober(), resolver.near.clone()) else {
            return Course::Answer;
        };
        let referred = &self.handler.referred;
        // Who knows the cut asks for names within it: whoever asks about the cut does not know it, or not any more.
        // What this node has promised or done before binds it towards those alone that know.
        let question = (self.query.name.as_wire(), self.query.kind);
        let returned = if is_cut_itself { None } else { referred.returns(self.now, self.from, cut, question) };
        let is_bound = resolver.distant.is_some() && !is_cut_itself;
        match referral::decide(&resolver, is_bound, returned.is_some()) {
            Decision::Answer => Course::Answer,
            Decision::LastResort => {
                let slow = self.handler.config.last_resort;
                if !slow.is_zero() {
                    let client = Client::new(self.from, None);
                    let known = prober.clients().peek(self.now, client.key());
                    let heard = self.now.checked_sub(known.near_age);
                    let is_fresh = known.near_age < referral::FRESH
                        && returned.is_some_and(|returned| heard >= Some(returned.often_since));
                    let how = returned.map_or(Return::Seldom, |returned| returned.how);
                    if how >= Return::Often && !is_fresh {
                        prober.check(&client);
                    }
                    self.is_stuck = how == Return::Stuck && is_fresh;
                    let slow = if how >= Return::Again && is_fresh { referral::SLOWER * slow } else { slow };
                    self.hold = Some(referral::hold(slow, known.rtt));
                }
                Course::Answer
            }
            Decision::Refer => {
                referred.note(self.now, self.from, cut, self.handler.config.referral_ttl(near.level));
                Course::Refer(near)
            }
        }
    }
}

/// Seconds since 1970 modulo 2^32, as cookies have it (RFC 9018 §4.3).
fn unix_time() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as u32
}

fn kind_of(kind: u16) -> Kind {
    match kind {
        types::A => Kind::A,
        types::AAAA => Kind::Aaaa,
        types::NS => Kind::Ns,
        types::SOA => Kind::Soa,
        types::DS => Kind::Ds,
        types::HTTPS => Kind::Https,
        types::ANY => Kind::Any,
        types::AXFR | types::IXFR => Kind::Transfer,
        // RFC 6895 §3.1: OPT, and the range of those that are asked for but never stored.
        types::OPT | 128..=255 => Kind::Meta,
        other => Kind::Other(other),
    }
}

fn kind_number(kind: Kind) -> usize {
    match kind {
        Kind::A => 0,
        Kind::Aaaa => 1,
        Kind::Ns => 2,
        Kind::Soa => 3,
        Kind::Ds => 4,
        Kind::Https => 5,
        Kind::Any => 6,
        Kind::Transfer => 7,
        Kind::Meta => 8,
        Kind::Other(_) => 9,
    }
}

/// The response code as the header and EDNS have it (RFC 6895 §2.3).
fn wire_rcode(rcode: Rcode) -> u16 {
    match rcode {
        Rcode::NoError => 0,
        Rcode::FormErr => 1,
        Rcode::ServFail => 2,
        Rcode::NxDomain => 3,
        Rcode::NotImp => 4,
        Rcode::Refused => 5,
        Rcode::BadVers => 16,
    }
}
