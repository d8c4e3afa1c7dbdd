//! Bytes to message and back.
//!
//! All numbers are big-endian. A datagram is at most [`MAX_DATAGRAM_BYTES`], so that it crosses the Internet in one
//! piece; lists carry their length in one byte and are bounded by it and by the datagram.
//!
//! ```text
//! version 1 | kind 1 | request id 8 | instance 4 | services 2 | flags 1 | clusters, each: id 20, age 2, size 4 | token 16 | body
//! ```
//!
//! The flags hold the number of clusters in their lowest two bits; 4 says that there is a token, 8 that the sender would
//! like to have it back. A request, or a goodbye, ends with zeros where it would be shorter than [`LEAST_REQUEST_BYTES`]:
//! since nobody answers a stranger with more bytes than the stranger has sent, a request pays for its answer in advance.
//! Each message has exactly one form. In a closed network the version has its highest bit set, and 16 bytes follow the
//! message: see [`crate::seal`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::api::{MAX_ANNOUNCEMENT_BYTES, MAX_VALUE_BYTES, Value};
use crate::id::{Distance, ID_BYTES, Id};
use crate::level::{Level, MAX_LEVELS};
use crate::message::{Body, ClusterInfo, Clusters, Header, Message, Request, Response, Token};
use crate::peer::{Peer, Services};

/// The longest datagram in bytes: what passes an IPv6 link of 1,280 bytes with room for tunnels.
pub const MAX_DATAGRAM_BYTES: usize = 1200;

/// The least length of a request in bytes: that of an answer with a token, two clusters and four IPv6 peers, or ten IPv4 ones. A longer
/// answer goes to proven addresses only.
pub const LEAST_REQUEST_BYTES: usize = 176;

/// The first byte of each datagram. Another one is a protocol that this node does not speak.
pub const VERSION: u8 = 2;

/// Why some bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Longer than [`MAX_DATAGRAM_BYTES`].
    #[error("longer than a datagram may be")]
    TooLong,
    /// It ends before what it announces.
    #[error("ends in the middle")]
    Truncated,
    /// Bytes are left over behind the message.
    #[error("bytes are left over")]
    Trailing,
    /// The network is closed, and whoever sent this does not have its key.
    #[error("from somebody without the key of the network")]
    Stranger,
    /// The first byte is not [`VERSION`].
    #[error("another version of the protocol, or another protocol")]
    Version,
    /// No such kind of message.
    #[error("unknown kind of message")]
    Kind,
    /// A level, length, address family, port, flag or padding that cannot be.
    #[error("a field has an impossible content")]
    Field,
}

impl DecodeError {
    /// Its name, for counters.
    pub fn name(self) -> &'static str {
        match self {
            Self::TooLong => "too-long",
            Self::Truncated => "truncated",
            Self::Trailing => "trailing",
            Self::Stranger => "stranger",
            Self::Version => "version",
            Self::Kind => "kind",
            Self::Field => "field",
        }
    }
}

const PING: u8 = 0;
const FIND: u8 = 1;
const GET: u8 = 2;
const PUT: u8 = 3;
const STORE: u8 = 4;
const REMOVE: u8 = 5;
const SAMPLE: u8 = 6;
const CLAIM: u8 = 7;
const OFFER: u8 = 8;
const FETCH: u8 = 9;
const CATCH_UP: u8 = 10;
const LEAVE: u8 = 16;
const PROOF: u8 = 17;
const PONG: u8 = 32;
const PEERS: u8 = 33;
const VALUES: u8 = 34;
const ROOM: u8 = 35;
const DONE: u8 = 36;
const OTHER_CLUSTER: u8 = 37;
const CHALLENGE: u8 = 38;
const CLAIMED: u8 = 39;
const ANNOUNCEMENT: u8 = 40;
const OFFERS: u8 = 41;

/// The bits of the flags that count clusters.
const CLUSTERS: u8 = 3;
const HAS_TOKEN: u8 = 4;
const WANTS_PROOF: u8 = 8;

/// The bytes of `message`.
///
/// Lists that would not fit are the sender's bug, not the network's: `Config` bounds them far below the limit.
pub fn encode(message: &Message) -> Vec<u8> {
    let Header { services, clusters, instance, token, wants_proof } = &message.header;
    let clusters = clusters.from_l1();
    let mut out = Vec::with_capacity(LEAST_REQUEST_BYTES);
    out.push(VERSION);
    out.push(kind(&message.body));
    out.extend(message.request_id.to_be_bytes());
    out.extend(instance.to_be_bytes());
    out.extend(services.bits().to_be_bytes());
    let flags = if token.is_some() { HAS_TOKEN } else { 0 } | if *wants_proof { WANTS_PROOF } else { 0 };
    out.push(clusters.len() as u8 | flags);
    for cluster in clusters {
        out.extend(cluster.id.as_bytes());
        out.extend(cluster.age_minutes.to_be_bytes());
        out.extend(cluster.size.to_be_bytes());
    }
    if let Some(token) = token {
        out.extend(token.as_bytes());
    }
    match &message.body {
        Body::Leave | Body::Proof => {}
        Body::Request(request) => encode_request(&mut out, request),
        Body::Response(response) => encode_response(&mut out, response),
    }
    if is_padded(&message.body) && out.len() < LEAST_REQUEST_BYTES {
        out.resize(LEAST_REQUEST_BYTES, 0);
    }
    debug_assert!(is_possible(&message.header, &message.body), "no such message: {message:?}");
    debug_assert!(out.len() <= MAX_DATAGRAM_BYTES, "{} bytes of {message:?}", out.len());
    out
}

/// The message that `bytes` are.
///
/// Never panics, and allocates no more than a small multiple of `bytes.len()`.
pub fn decode(bytes: &[u8]) -> Result<Message, DecodeError> {
    decode_version(VERSION, bytes)
}

/// Whether these bytes, if they are a message, are an answer.
pub(crate) fn is_answer(bytes: &[u8]) -> bool {
    bytes.get(1).is_some_and(|kind| *kind >= PONG)
}

/// The same as [`decode`] where the first byte is to be `version`.
pub(crate) fn decode_version(version: u8, bytes: &[u8]) -> Result<Message, DecodeError> {
    if bytes.len() > MAX_DATAGRAM_BYTES {
        return Err(DecodeError::TooLong);
    }
    let mut input = Reader { rest: bytes };
    if input.u8()? != version {
        return Err(DecodeError::Version);
    }
    let kind = input.u8()?;
    let request_id = input.u64()?;
    let header = decode_header(&mut input)?;
    let body = match kind {
        LEAVE => Body::Leave,
        PROOF => Body::Proof,
        PING..=CATCH_UP => Body::Request(decode_request(kind, &mut input)?),
        PONG..=OFFERS => Body::Response(decode_response(kind, &mut input)?),
        _ => return Err(DecodeError::Kind),
    };
    if !is_possible(&header, &body) {
        return Err(DecodeError::Field);
    }
    if is_padded(&body) {
        let padding = LEAST_REQUEST_BYTES.saturating_sub(bytes.len() - input.rest.len());
        let (zeros, rest) = input.rest.split_at_checked(padding).ok_or(DecodeError::Truncated)?;
        if zeros.iter().any(|byte| *byte != 0) {
            return Err(DecodeError::Field);
        }
        input.rest = rest;
    }
    if input.rest.is_empty() { Ok(Message { header, request_id, body }) } else { Err(DecodeError::Trailing) }
}

/// Whether a message of this kind is filled up to [`LEAST_REQUEST_BYTES`]: one that can make its receiver send something.
fn is_padded(body: &Body) -> bool {
    matches!(body, Body::Request(_) | Body::Leave)
}

/// Whether the header fits the kind of message: only an answer asks for a proof, and only with a token; a proof, and a
/// challenge, are nothing without one.
fn is_possible(header: &Header, body: &Body) -> bool {
    let is_answer = matches!(body, Body::Response(_));
    let needs_token = matches!(body, Body::Proof | Body::Response(Response::Challenge));
    (!header.wants_proof || (is_answer && header.token.is_some())) && (!needs_token || header.token.is_some())
}

fn kind(body: &Body) -> u8 {
    match body {
        Body::Leave => LEAVE,
        Body::Proof => PROOF,
        Body::Request(Request::Ping) => PING,
        Body::Request(Request::Find { .. }) => FIND,
        Body::Request(Request::Get { .. }) => GET,
        Body::Request(Request::Put { .. }) => PUT,
        Body::Request(Request::Store { .. }) => STORE,
        Body::Request(Request::Remove { .. }) => REMOVE,
        Body::Request(Request::Sample { .. }) => SAMPLE,
        Body::Request(Request::Claim { .. }) => CLAIM,
        Body::Request(Request::Offer { .. }) => OFFER,
        Body::Request(Request::Fetch { .. }) => FETCH,
        Body::Request(Request::CatchUp { .. }) => CATCH_UP,
        Body::Response(Response::Pong { .. }) => PONG,
        Body::Response(Response::Peers(_)) => PEERS,
        Body::Response(Response::Values(_)) => VALUES,
        Body::Response(Response::Room { .. }) => ROOM,
        Body::Response(Response::Done(_)) => DONE,
        Body::Response(Response::OtherCluster) => OTHER_CLUSTER,
        Body::Response(Response::Challenge) => CHALLENGE,
        Body::Response(Response::Claimed) => CLAIMED,
        Body::Response(Response::Announcement { .. }) => ANNOUNCEMENT,
        Body::Response(Response::Offers(_)) => OFFERS,
    }
}

fn encode_request(out: &mut Vec<u8>, request: &Request) {
    match request {
        Request::Ping => {}
        Request::Find { level, key, aim } | Request::Get { level, key, aim } => {
            out.push(level.number());
            out.extend(key.as_bytes());
            out.extend(aim.as_bytes());
        }
        Request::Put { level, key, ttl, aim } => {
            out.push(level.number());
            out.extend(key.as_bytes());
            encode_ttl(out, *ttl);
            out.extend(aim.as_bytes());
        }
        Request::Store { level, key, ttl, value, turned_back } => {
            out.push(level.number());
            out.extend(key.as_bytes());
            encode_ttl(out, *ttl);
            out.push(u8::from(*turned_back));
            encode_value(out, value);
        }
        Request::Claim { level, key, aim, ttl, is_last, value, refused } => {
            out.push(level.number());
            out.extend(key.as_bytes());
            encode_ttl(out, *ttl);
            out.extend(aim.as_bytes());
            out.push(u8::from(*is_last));
            encode_value(out, value);
            encode_values(out, refused);
        }
        Request::Remove { level, key, value } => {
            out.push(level.number());
            out.extend(key.as_bytes());
            encode_value(out, value);
        }
        Request::Sample { level } => out.push(level.number()),
        Request::Offer { id } | Request::Fetch { id } => out.extend(id.as_bytes()),
        Request::CatchUp { known } => {
            out.push(known.len() as u8);
            for short in known {
                out.extend(short.to_be_bytes());
            }
        }
    }
}

fn encode_response(out: &mut Vec<u8>, response: &Response) {
    match response {
        Response::Pong { seen_as } => encode_addr(out, *seen_as),
        Response::Peers(peers) => encode_peers(out, peers),
        Response::Values(values) => encode_values(out, values),
        Response::Room { full, loaded, peers } => {
            out.push(u8::from(*full) | u8::from(*loaded) << 1);
            encode_peers(out, peers);
        }
        Response::Done(done) => out.push(u8::from(*done)),
        Response::Announcement { age, message } => {
            encode_age(out, *age);
            out.extend((message.len() as u16).to_be_bytes());
            out.extend(&message[..]);
        }
        Response::Offers(ids) => {
            out.push(ids.len() as u8);
            for id in ids {
                out.extend(id.as_bytes());
            }
        }
        Response::OtherCluster | Response::Challenge | Response::Claimed => {}
    }
}

/// Whole seconds, rounded up: a value must not end sooner for having crossed the network.
fn encode_ttl(out: &mut Vec<u8>, ttl: Duration) {
    let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    out.extend(u32::try_from(seconds).unwrap_or(u32::MAX).to_be_bytes());
}

/// Whole seconds, rounded down: nothing that came after an announcement may be taken for older.
fn encode_age(out: &mut Vec<u8>, age: Duration) {
    out.extend(u32::try_from(age.as_secs()).unwrap_or(u32::MAX).to_be_bytes());
}

fn encode_value(out: &mut Vec<u8>, value: &Value) {
    out.push(value.as_bytes().len() as u8);
    out.extend(value.as_bytes());
}

fn encode_values(out: &mut Vec<u8>, values: &[Value]) {
    out.push(values.len() as u8);
    for value in values {
        encode_value(out, value);
    }
}

fn encode_peers(out: &mut Vec<u8>, peers: &[Peer]) {
    out.push(peers.len() as u8);
    for peer in peers {
        encode_addr(out, peer.addr);
        out.extend(peer.services.bits().to_be_bytes());
    }
}

fn encode_addr(out: &mut Vec<u8>, addr: SocketAddr) {
    match addr.ip() {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend(ip.octets());
        }
    }
    out.extend(addr.port().to_be_bytes());
}

fn decode_header(input: &mut Reader<'_>) -> Result<Header, DecodeError> {
    let instance = input.u32()?;
    let services = Services::from_bits(input.u16()?);
    let flags = input.u8()?;
    let count = usize::from(flags & CLUSTERS);
    if flags & !(CLUSTERS | HAS_TOKEN | WANTS_PROOF) != 0 || count >= MAX_LEVELS {
        return Err(DecodeError::Field);
    }
    let mut clusters = Vec::with_capacity(count);
    for _ in 0..count {
        clusters.push(ClusterInfo { id: input.id()?, age_minutes: input.u16()?, size: input.u32()? });
    }
    let token = if flags & HAS_TOKEN != 0 { Some(Token::from_bytes(input.take()?)) } else { None };
    let wants_proof = flags & WANTS_PROOF != 0;
    Ok(Header { services, clusters: Clusters::new(clusters), instance, token, wants_proof })
}

fn decode_request(kind: u8, input: &mut Reader<'_>) -> Result<Request, DecodeError> {
    Ok(match kind {
        PING => Request::Ping,
        FIND => Request::Find { level: input.level()?, key: input.id()?, aim: input.distance()? },
        GET => Request::Get { level: input.level()?, key: input.id()?, aim: input.distance()? },
        PUT => Request::Put { level: input.level()?, key: input.id()?, ttl: input.seconds()?, aim: input.distance()? },
        STORE => {
            let (level, key, ttl) = (input.level()?, input.id()?, input.seconds()?);
            let turned_back = input.flag()?;
            Request::Store { level, key, ttl, value: input.value()?, turned_back }
        }
        REMOVE => Request::Remove { level: input.level()?, key: input.id()?, value: input.value()? },
        SAMPLE => Request::Sample { level: input.level()? },
        OFFER => Request::Offer { id: input.id()? },
        FETCH => Request::Fetch { id: input.id()? },
        CATCH_UP => Request::CatchUp { known: (0..input.u8()?).map(|_| input.u32()).collect::<Result<_, _>>()? },
        CLAIM => Request::Claim {
            level: input.level()?,
            key: input.id()?,
            ttl: input.seconds()?,
            aim: input.distance()?,
            is_last: input.flag()?,
            value: input.value()?,
            refused: input.values()?,
        },
        _ => return Err(DecodeError::Kind),
    })
}

fn decode_response(kind: u8, input: &mut Reader<'_>) -> Result<Response, DecodeError> {
    Ok(match kind {
        PONG => Response::Pong { seen_as: input.addr()? },
        PEERS => Response::Peers(input.peers()?),
        VALUES => Response::Values(input.values()?),
        ROOM => {
            let flags = input.u8()?;
            if flags > 3 {
                return Err(DecodeError::Field);
            }
            Response::Room { full: flags & 1 != 0, loaded: flags & 2 != 0, peers: input.peers()? }
        }
        DONE => Response::Done(input.flag()?),
        OTHER_CLUSTER => Response::OtherCluster,
        CHALLENGE => Response::Challenge,
        CLAIMED => Response::Claimed,
        ANNOUNCEMENT => Response::Announcement { age: input.seconds()?, message: input.announcement()? },
        OFFERS => Response::Offers((0..input.u8()?).map(|_| input.id()).collect::<Result<_, _>>()?),
        _ => return Err(DecodeError::Kind),
    })
}

/// What is left to read. Each method takes its part from the front.
struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.take().map(|[byte]| byte)
    }

    fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Field),
        }
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.take().map(u64::from_be_bytes)
    }

    fn id(&mut self) -> Result<Id, DecodeError> {
        self.take::<ID_BYTES>().map(Id::from_bytes)
    }

    fn distance(&mut self) -> Result<Distance, DecodeError> {
        self.take::<ID_BYTES>().map(Distance::from_bytes)
    }

    fn level(&mut self) -> Result<Level, DecodeError> {
        Level::new(self.u8()?).ok_or(DecodeError::Field)
    }

    fn seconds(&mut self) -> Result<Duration, DecodeError> {
        Ok(Duration::from_secs(self.u32()?.into()))
    }

    fn value(&mut self) -> Result<Value, DecodeError> {
        let length = usize::from(self.u8()?);
        if length > MAX_VALUE_BYTES {
            return Err(DecodeError::Field);
        }
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Value::new(bytes).ok_or(DecodeError::Field)
    }

    fn announcement(&mut self) -> Result<Arc<[u8]>, DecodeError> {
        let length = usize::from(self.u16()?);
        if length > MAX_ANNOUNCEMENT_BYTES {
            return Err(DecodeError::Field);
        }
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(bytes.into())
    }

    fn values(&mut self) -> Result<Vec<Value>, DecodeError> {
        (0..self.u8()?).map(|_| self.value()).collect()
    }

    fn addr(&mut self) -> Result<SocketAddr, DecodeError> {
        let ip = match self.u8()? {
            4 => IpAddr::from(Ipv4Addr::from(self.take::<4>()?)),
            6 => IpAddr::from(Ipv6Addr::from(self.take::<16>()?)),
            _ => return Err(DecodeError::Field),
        };
        match self.u16()? {
            0 => Err(DecodeError::Field),
            port => Ok(SocketAddr::new(ip, port)),
        }
    }

    fn peers(&mut self) -> Result<Vec<Peer>, DecodeError> {
        (0..self.u8()?).map(|_| Ok(Peer::new(self.addr()?, Services::from_bits(self.u16()?)))).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::message::{MAX_KNOWN, MAX_OFFERS};

    fn id() -> impl Strategy<Value = Id> {
        any::<[u8; ID_BYTES]>().prop_map(Id::from_bytes)
    }

    fn distance() -> impl Strategy<Value = Distance> {
        any::<[u8; ID_BYTES]>().prop_map(Distance::from_bytes)
    }

    fn level() -> impl Strategy<Value = Level> {
        (0..MAX_LEVELS as u8).prop_map(|number| Level::new(number).unwrap())
    }

    fn value() -> impl Strategy<Value = Value> {
        vec(any::<u8>(), 0..=MAX_VALUE_BYTES).prop_map(|bytes| Value::new(&bytes).unwrap())
    }

    fn addr() -> impl Strategy<Value = SocketAddr> {
        (any::<IpAddr>(), 1..=u16::MAX).prop_map(|(ip, port)| SocketAddr::new(ip, port))
    }

    fn peers() -> impl Strategy<Value = Vec<Peer>> {
        vec((addr(), any::<u16>()).prop_map(|(addr, bits)| Peer::new(addr, Services::from_bits(bits))), 0..8)
    }

    fn ttl() -> impl Strategy<Value = Duration> {
        any::<u32>().prop_map(|seconds| Duration::from_secs(seconds.into()))
    }

    fn body() -> impl Strategy<Value = Body> {
        let request = prop_oneof![
            Just(Request::Ping),
            (level(), id(), distance()).prop_map(|(level, key, aim)| Request::Find { level, key, aim }),
            (level(), id(), distance()).prop_map(|(level, key, aim)| Request::Get { level, key, aim }),
            (level(), id(), ttl(), distance()).prop_map(|(level, key, ttl, aim)| Request::Put { level, key, ttl, aim }),
            (level(), id(), ttl(), value(), any::<bool>()).prop_map(|(level, key, ttl, value, turned_back)| {
                Request::Store { level, key, ttl, value, turned_back }
            }),
            (level(), id(), value()).prop_map(|(level, key, value)| Request::Remove { level, key, value }),
            level().prop_map(|level| Request::Sample { level }),
            id().prop_map(|id| Request::Offer { id }),
            id().prop_map(|id| Request::Fetch { id }),
            vec(any::<u32>(), 0..=MAX_KNOWN).prop_map(|known| Request::CatchUp { known }),
            ((level(), id(), distance(), ttl()), any::<bool>(), value(), vec(value(), 0..5)).prop_map(
                |((level, key, aim, ttl), is_last, value, refused)| {
                    Request::Claim { level, key, aim, ttl, is_last, value, refused }
                }
            ),
        ];
        let response = prop_oneof![
            addr().prop_map(|seen_as| Response::Pong { seen_as }),
            peers().prop_map(Response::Peers),
            vec(value(), 0..8).prop_map(Response::Values),
            (any::<bool>(), any::<bool>(), peers()).prop_map(|(full, loaded, peers)| Response::Room {
                full,
                loaded,
                peers
            }),
            any::<bool>().prop_map(Response::Done),
            Just(Response::OtherCluster),
            Just(Response::Challenge),
            Just(Response::Claimed),
            (ttl(), vec(any::<u8>(), 0..=MAX_ANNOUNCEMENT_BYTES))
                .prop_map(|(age, bytes)| Response::Announcement { age, message: bytes.into() }),
            vec(id(), 0..=MAX_OFFERS).prop_map(Response::Offers),
        ];
        prop_oneof![
            Just(Body::Leave),
            Just(Body::Proof),
            request.prop_map(Body::Request),
            response.prop_map(Body::Response)
        ]
    }

    fn message() -> impl Strategy<Value = Message> {
        let cluster = (id(), any::<u16>(), any::<u32>()).prop_map(|(id, age_minutes, size)| ClusterInfo {
            id,
            age_minutes,
            size,
        });
        let header =
            (any::<u32>(), any::<u16>(), vec(cluster, 0..MAX_LEVELS), any::<Option<[u8; 16]>>(), any::<bool>());
        (header, any::<u64>(), body()).prop_map(|((instance, bits, clusters, token, wants_proof), request_id, body)| {
            let mut header = Header {
                services: Services::from_bits(bits),
                clusters: Clusters::new(clusters),
                instance,
                token: token.map(Token::from_bytes),
                wants_proof,
            };
            if matches!(body, Body::Proof | Body::Response(Response::Challenge)) {
                header.token.get_or_insert(Token::from_bytes([7; 16]));
            }
            header.wants_proof &= matches!(body, Body::Response(_)) && header.token.is_some();
            Message { header, request_id, body }
        })
    }

    proptest! {
        #[test]
        fn a_message_comes_back(message in message()) {
            prop_assert_eq!(decode(&encode(&message)), Ok(message));
        }

        #[test]
        fn every_shorter_or_longer_form_is_refused(message in message(), extra: u8) {
            let mut bytes = encode(&message);
            for length in 0..bytes.len() {
                prop_assert!(decode(&bytes[..length]).is_err(), "the first {} bytes", length);
            }
            bytes.push(extra);
            prop_assert_eq!(decode(&bytes), Err(DecodeError::Trailing));
        }

        #[test]
        fn junk_is_an_error_or_means_just_itself(bytes in vec(any::<u8>(), 0..2000)) {
            if let Ok(message) = decode(&bytes) {
                prop_assert_eq!(encode(&message), bytes);
            }
        }

        #[test]
        fn junk_behind_a_good_header_is_an_error_or_means_just_itself(kind in 0u8..42, body in vec(any::<u8>(), 0..300)) {
            let mut bytes = header_of(kind);
            bytes.extend(body);
            if let Ok(message) = decode(&bytes) {
                prop_assert_eq!(encode(&message), bytes);
            }
        }
    }

    /// The header of a message of `kind` by a node without anything to tell.
    fn header_of(kind: u8) -> Vec<u8> {
        [&[VERSION, kind][..], &[0; 15]].concat()
    }

    #[test]
    fn padding_must_be_zeros_and_no_more_than_needed() {
        let ping = encode(&Message { header: Header::default(), request_id: 1, body: Body::Request(Request::Ping) });
        assert_eq!(ping.len(), LEAST_REQUEST_BYTES);
        let mut dirty = ping.clone();
        *dirty.last_mut().unwrap() = 1;
        assert_eq!(decode(&dirty), Err(DecodeError::Field));
        assert_eq!(decode(&[&ping[..], &[0]].concat()), Err(DecodeError::Trailing));
        assert_eq!(decode(&ping[..LEAST_REQUEST_BYTES - 1]), Err(DecodeError::Truncated));
    }

    #[test]
    fn a_proof_without_a_token_and_a_wish_for_one_in_a_request_are_refused() {
        let with_flags = |kind: u8, flags: u8| {
            let mut bytes = header_of(kind);
            bytes[16] = flags;
            bytes.extend([0; 16]);
            bytes.resize(bytes.len().max(LEAST_REQUEST_BYTES * usize::from(kind < PROOF)), 0);
            decode(&bytes).map(drop)
        };
        assert_eq!(with_flags(PROOF, HAS_TOKEN), Ok(()));
        assert_eq!(with_flags(PROOF, 0), Err(DecodeError::Field));
        assert_eq!(with_flags(CHALLENGE, HAS_TOKEN | WANTS_PROOF), Ok(()));
        assert_eq!(with_flags(CHALLENGE, WANTS_PROOF), Err(DecodeError::Field));
        assert_eq!(with_flags(PING, HAS_TOKEN), Ok(()));
        assert_eq!(with_flags(PING, HAS_TOKEN | WANTS_PROOF), Err(DecodeError::Field));
        assert_eq!(with_flags(PING, 16), Err(DecodeError::Field));
    }

    #[test]
    fn an_announcement_that_is_too_long_is_refused() {
        let announcement = |length: usize| {
            let length_bytes = (length as u16).to_be_bytes();
            decode(&[&header_of(ANNOUNCEMENT), &[0; 4][..], &length_bytes, &vec![7; length]].concat()).map(drop)
        };
        assert_eq!(announcement(MAX_ANNOUNCEMENT_BYTES), Ok(()));
        assert_eq!(announcement(MAX_ANNOUNCEMENT_BYTES + 1), Err(DecodeError::Field));
    }

    #[test]
    fn a_port_of_zero_and_an_unknown_family_are_refused() {
        let pong = |addr: &[u8]| {
            let mut bytes = header_of(PONG);
            bytes.extend(addr);
            decode(&bytes).map(drop)
        };
        assert_eq!(pong(&[4, 127, 0, 0, 1, 1, 1]), Ok(()));
        assert_eq!(pong(&[4, 127, 0, 0, 1, 0, 0]), Err(DecodeError::Field));
        assert_eq!(pong(&[5, 127, 0, 0, 1, 1, 1]), Err(DecodeError::Field));
    }
}
