//! Messages: the one file that speaks hickory. Bytes of a query in, bytes of its answer out.
//!
//! In this order: refuse what cannot be answered safely, decode, find how near the client is, answer ([`crate::answer`]),
//! encode, count. Nothing here waits, and nothing is allocated for a count that a header merely claims. The question goes
//! back as the bytes that it came in, since resolvers hide entropy in its upper and lower case.

mod check;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coral_dsht::{Level, Peer};
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{Edns, Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption};
use hickory_server::proto::rr::rdata::{A, AAAA, NS, SOA};
use hickory_server::proto::rr::{DNSClass, Name, RData, Record as WireRecord, RecordType};
use hickory_server::proto::serialize::binary::BinEncoder;
use hickory_server::server::Request;
use hickory_server::zone_handler::{MessageRequest, MessageResponseBuilder};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use tokio::time::Instant;

use crate::answer::{Answer, Context, Data, Kind, Owner, Rcode, Record, answer};
use crate::candidates::Candidates;
use crate::config::Config;
use crate::metrics::{LevelLabels, Metrics, QueryLabels, ReasonLabels};
use crate::name::{Suffix, nameserver_name};
use crate::probe::Prober;
use crate::proximity::{self, Client, MalformedSubnet, Subnet};
use crate::zone::Soa;

#[doc(hidden)]
pub use check::check_query;

/// The longest query read: the longest name, EDNS and a signature need a tenth of it.
pub(crate) const MAX_QUERY_BYTES: usize = 4096;

/// Bytes of a message's header (RFC 1035 §4.1.1).
const HEADER_BYTES: usize = 12;

/// Bytes of the longest name, its lengths and the root's zero included (RFC 1035 §2.3.4).
const MAX_NAME_BYTES: usize = 255;

/// What an answer over UDP may have when the query names no size (RFC 1035 §4.2.1), and the least size there is with one.
const PLAIN_UDP_BYTES: u16 = 512;

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

/// Answers messages. Shared by all sockets.
#[derive(Debug)]
pub(crate) struct Handler {
    config: Arc<Config>,
    suffixes: Vec<Suffix>,
    soas: Vec<Soa>,
    candidates: Candidates,
    prober: Option<Prober>,
    metrics: Metrics,
    /// Seeds a generator for each query, told apart by `queries`: no lock, and no query learns of another's numbers.
    seed: [u8; 32],
    queries: AtomicU64,
}

impl Handler {
    pub(crate) fn new(
        config: Arc<Config>,
        suffixes: Vec<Suffix>,
        me: Peer,
        candidates: Candidates,
        prober: Option<Prober>,
        metrics: Metrics,
        seed: [u8; 32],
    ) -> Self {
        let soas = suffixes.iter().map(|suffix| Soa::new(suffix, me.addr.ip(), &config)).collect();
        Self { config, suffixes, soas, candidates, prober, metrics, seed, queries: AtomicU64::new(0) }
    }

    /// The answer to the message `bytes` from `from`; `None` if it gets none, which is then counted.
    pub(crate) fn respond(
        &self,
        now: Instant,
        from: SocketAddr,
        transport: Transport,
        bytes: &[u8],
    ) -> Option<Vec<u8>> {
        match self.decode(from, transport, bytes) {
            Ok(query) => {
                let answer = self.answer(now, &query);
                self.count(kind_name(query.kind), answer.rcode, transport);
                if let Some(level) = answer.level {
                    let level = u32::from(level.number());
                    self.metrics.answers.get_or_create(&LevelLabels { level }).inc();
                }
                Some(self.encode(&query, &answer, transport))
            }
            Err(Rejection::Drop(reason)) => {
                self.dropped(reason);
                None
            }
            Err(Rejection::Error(rcode)) => {
                self.count("none", rcode, transport);
                Some(error_message(bytes, rcode))
            }
        }
    }

    /// Counts what got no answer.
    pub(crate) fn dropped(&self, reason: &'static str) {
        self.metrics.dropped.get_or_create(&ReasonLabels { reason }).inc();
    }

    fn count(&self, kind: &'static str, rcode: Rcode, transport: Transport) {
        let labels = QueryLabels { kind, rcode: rcode_name(rcode), transport: transport.name() };
        self.metrics.queries.get_or_create(&labels).inc();
    }

    fn decode(&self, from: SocketAddr, transport: Transport, bytes: &[u8]) -> Result<Query, Rejection> {
        check_source(from)?;
        check_header(bytes)?;
        let protocol = match transport {
            Transport::Udp => Protocol::Udp,
            Transport::Tcp => Protocol::Tcp,
        };
        let request =
            Request::from_bytes(bytes.to_vec(), from, protocol).map_err(|_| Rejection::Error(Rcode::FormErr))?;
        let question = request.queries.queries().first().ok_or(Rejection::Error(Rcode::FormErr))?;
        let (kind, class) = (kind_of(question.query_type()), question.query_class());
        let subnet = subnet_of(&request);
        Ok(Query {
            client: Client::new(from.ip(), subnet.unwrap_or_default()),
            has_bad_subnet: subnet.is_err(),
            kind,
            is_internet: class == DNSClass::IN,
            request,
        })
    }

    fn answer(&self, now: Instant, query: &Query) -> Answer {
        if query.request.version() > 0 {
            return Answer::new(Rcode::BadVers, None);
        }
        if query.has_bad_subnet {
            // With an OPT record, lest the resolver think that it is EDNS as such that we do not know (RFC 6891 §7).
            return Answer::new(Rcode::FormErr, None);
        }
        if !query.is_internet {
            return Answer::new(Rcode::Refused, None);
        }
        let table = self.candidates.table(now);
        let near = || match &self.prober {
            Some(prober) if table.levels.len() > 1 => {
                let levels = table.levels.iter().map(|level| (level.level, level.diameter));
                proximity::level(prober.rtt(now, &query.client), levels)
            }
            // With the global level alone there is nothing to choose between, so nothing to measure.
            _ => Level::GLOBAL,
        };
        let name = query.request.queries.queries()[0].name();
        let labels: Vec<&[u8]> = name.iter().collect();
        let context = Context { config: &self.config, suffixes: &self.suffixes, soas: &self.soas, table: &table };
        let mut random = ChaCha8Rng::from_seed(self.seed);
        random.set_stream(self.queries.fetch_add(1, Ordering::Relaxed));
        answer(context, &labels, query.kind, near, &mut random)
    }

    /// The message that says `answer`: whole if it fits, else without the additional section, else as an empty one that
    /// sends the resolver to TCP (RFC 2181 §9).
    fn encode(&self, query: &Query, answer: &Answer, transport: Transport) -> Vec<u8> {
        let edns = query.request.edns.as_ref().map(|asked| self.edns(query, answer, asked));
        let limit = match (transport, &edns) {
            (Transport::Tcp, _) => u16::MAX,
            (Transport::Udp, None) => PLAIN_UDP_BYTES,
            (Transport::Udp, Some(edns)) => query.request.max_payload().min(edns.max_payload()),
        };
        let name = query.request.queries.queries()[0].original().name();
        let wire = |records: &[Record]| -> Vec<WireRecord> {
            let zone = answer.zone.unwrap_or_default();
            records.iter().map(|record| self.wire_record(name, zone, record)).collect()
        };
        let (answers, authority, additional) =
            (wire(&answer.answers), wire(&answer.authority), wire(&answer.additional));

        let mut metadata = Metadata::response_from_request(&query.request.metadata);
        metadata.response_code = wire_rcode(answer.rcode);
        metadata.authoritative = answer.zone.is_some();
        let message = Message { request: &query.request, edns: edns.as_ref(), limit };
        if let Some(bytes) = message.encode(metadata, &answers, &authority, &additional) {
            return bytes;
        }
        if let Some(bytes) = message.encode(metadata, &answers, &authority, &[]) {
            return bytes;
        }
        self.metrics.truncated.inc();
        metadata.truncation = true;
        message
            .encode(metadata, &[], &[], &[])
            .unwrap_or_else(|| error_message(query.request.as_slice(), Rcode::ServFail))
    }

    /// The OPT record of the answer: ours as to version and size, and the client subnet if there was one.
    fn edns(&self, query: &Query, answer: &Answer, asked: &Edns) -> Edns {
        let mut edns = Edns::new();
        // `Edns` raises what is under 512 to that.
        edns.set_max_payload(self.config.udp_payload);
        // RFC 3225 §3: copied, though there is nothing signed to send.
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        if let Some(EdnsOption::Subnet(subnet)) = asked.option(EdnsCode::Subnet) {
            // RFC 7871 §7.2.1: as asked, with the scope for which the answer holds; zero is everywhere.
            let by_subnet = answer.by_client && query.client.by_subnet && self.prober.is_some();
            let scope = if by_subnet { query.client.prefix.prefix() } else { 0 };
            let echo = ClientSubnet::new(subnet.addr(), subnet.source_prefix(), scope);
            edns.options_mut().insert(EdnsOption::Subnet(echo));
        }
        edns
    }

    fn wire_record(&self, question: &Name, zone: usize, record: &Record) -> WireRecord {
        let suffix = &self.suffixes[zone];
        let owner = match record.owner {
            Owner::Question => question.clone(),
            Owner::Apex => wire_name(suffix.as_str()),
            Owner::Nameserver(ip) => wire_name(&nameserver_name(ip, suffix)),
        };
        let data = match record.data {
            Data::Address(IpAddr::V4(ip)) => RData::A(A(ip)),
            Data::Address(IpAddr::V6(ip)) => RData::AAAA(AAAA(ip)),
            Data::Nameserver(ip) => RData::NS(NS(wire_name(&nameserver_name(ip, suffix)))),
            Data::Soa => RData::SOA(wire_soa(&self.soas[zone])),
        };
        WireRecord::from_rdata(owner, record.ttl, data)
    }
}

/// A query that can be answered.
struct Query {
    request: Request,
    kind: Kind,
    is_internet: bool,
    client: Client,
    has_bad_subnet: bool,
}

/// A message that is no such query.
enum Rejection {
    /// It gets no answer, for this reason.
    Drop(&'static str),
    /// It gets this response code.
    Error(Rcode),
}

/// What of an answer stays the same however much of it fits.
struct Message<'a> {
    request: &'a MessageRequest,
    edns: Option<&'a Edns>,
    limit: u16,
}

impl Message<'_> {
    /// The bytes; `None` if they are more than the limit.
    fn encode(
        &self,
        metadata: Metadata,
        answers: &[WireRecord],
        authority: &[WireRecord],
        additional: &[WireRecord],
    ) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(usize::from(PLAIN_UDP_BYTES));
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(self.limit);
        let is_cut_on_purpose = metadata.truncation;
        let written = MessageResponseBuilder::new(&self.request.queries, self.edns)
            .build(metadata, answers, authority, [], additional)
            .destructive_emit(&mut encoder)
            .ok()?;
        (written.truncation == is_cut_on_purpose).then_some(bytes)
    }
}

/// No answer to where nobody listens.
fn check_source(from: SocketAddr) -> Result<(), Rejection> {
    if from.port() == 0 || !proximity::is_unicast(from.ip().to_canonical()) {
        return Err(Rejection::Drop("source"));
    }
    Ok(())
}

/// Looks at a message as far as its question, without any decoder: what would be costly or dangerous ends here.
fn check_header(bytes: &[u8]) -> Result<(), Rejection> {
    let Some((header, body)) = bytes.split_at_checked(HEADER_BYTES) else {
        return Err(Rejection::Drop("short"));
    };
    // Answering an answer could go on for ever between two servers.
    if header[2] & 0x80 != 0 {
        return Err(Rejection::Drop("response"));
    }
    if header[2] & 0x78 != 0 {
        return Err(Rejection::Error(Rcode::NotImp));
    }
    let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    // One question; nothing in front of the EDNS but the SOA that an IXFR has; and EDNS with a signature at most.
    if count(4) != 1 || count(6) > 0 || count(8) > 1 || count(10) > 2 {
        return Err(Rejection::Error(Rcode::FormErr));
    }
    question_bytes(body).map(|_| ()).ok_or(Rejection::Error(Rcode::FormErr))
}

/// The bytes of the first question. A compressed name is none, as there is nothing in front of it to point at, nor is one
/// longer than [`MAX_NAME_BYTES`].
fn question_bytes(body: &[u8]) -> Option<&[u8]> {
    let mut at = 0;
    loop {
        match *body.get(at)? {
            0 => break,
            length @ 1..=63 => at += usize::from(length) + 1,
            _ => return None,
        }
    }
    if at >= MAX_NAME_BYTES {
        return None;
    }
    body.get(..at + 5)
}

/// A message without records for a query that is past decoding. The question comes back if there is one to be seen.
fn error_message(query: &[u8], rcode: Rcode) -> Vec<u8> {
    let (header, body) = query.split_at(HEADER_BYTES);
    let question = question_bytes(body).filter(|_| header[4..6] == [0, 1]);
    let mut bytes = Vec::with_capacity(HEADER_BYTES + question.map_or(0, <[u8]>::len));
    bytes.extend_from_slice(&header[..2]);
    // QR is set; the operation code and RD are the query's.
    bytes.push(0x80 | (header[2] & 0x79));
    bytes.push(wire_rcode(rcode).low());
    bytes.extend_from_slice(&[0, u8::from(question.is_some()), 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(question.unwrap_or_default());
    bytes
}

/// The client subnet that a query carries (RFC 7871), if any.
fn subnet_of(request: &MessageRequest) -> Result<Option<Subnet>, MalformedSubnet> {
    let option = request.edns.as_ref().and_then(|edns| edns.option(EdnsCode::Subnet));
    match option {
        Some(EdnsOption::Subnet(subnet)) => {
            Subnet::new(subnet.addr(), subnet.source_prefix(), subnet.scope_prefix()).map(Some)
        }
        _ => Ok(None),
    }
}

fn kind_of(kind: RecordType) -> Kind {
    match kind {
        RecordType::A => Kind::A,
        RecordType::AAAA => Kind::Aaaa,
        RecordType::NS => Kind::Ns,
        RecordType::SOA => Kind::Soa,
        RecordType::ANY => Kind::Any,
        RecordType::AXFR | RecordType::IXFR => Kind::Transfer,
        // RFC 6895 §3.1: OPT, and the range of those that are asked for but never stored.
        other => match u16::from(other) {
            41 | 128..=255 => Kind::Meta,
            _ => Kind::Other,
        },
    }
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::A => "A",
        Kind::Aaaa => "AAAA",
        Kind::Ns => "NS",
        Kind::Soa => "SOA",
        Kind::Any => "ANY",
        Kind::Transfer => "transfer",
        Kind::Meta => "meta",
        Kind::Other => "other",
    }
}

fn rcode_name(rcode: Rcode) -> &'static str {
    match rcode {
        Rcode::NoError => "NOERROR",
        Rcode::FormErr => "FORMERR",
        Rcode::ServFail => "SERVFAIL",
        Rcode::NxDomain => "NXDOMAIN",
        Rcode::NotImp => "NOTIMP",
        Rcode::Refused => "REFUSED",
        Rcode::BadVers => "BADVERS",
    }
}

fn wire_rcode(rcode: Rcode) -> ResponseCode {
    match rcode {
        Rcode::NoError => ResponseCode::NoError,
        Rcode::FormErr => ResponseCode::FormErr,
        Rcode::ServFail => ResponseCode::ServFail,
        Rcode::NxDomain => ResponseCode::NXDomain,
        Rcode::NotImp => ResponseCode::NotImp,
        Rcode::Refused => ResponseCode::Refused,
        Rcode::BadVers => ResponseCode::BADVERS,
    }
}

fn wire_soa(soa: &Soa) -> SOA {
    // Our constants, all far below 2^31.
    let timer = |seconds: u32| i32::try_from(seconds).unwrap_or(i32::MAX);
    SOA::new(
        wire_name(&soa.mname),
        wire_name(&soa.rname),
        soa.serial,
        timer(soa.refresh),
        timer(soa.retry),
        timer(soa.expire),
        soa.minimum,
    )
}

fn wire_name(name: &str) -> Name {
    let mut wire = Name::from_ascii(name).expect("a suffix leaves room for what is put in front of it");
    wire.set_fqdn(true);
    wire
}
