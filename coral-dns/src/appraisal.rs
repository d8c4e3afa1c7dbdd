//! What one node's nameserver asks another's: how far is this client from you, and will you answer it?
//!
//! It goes as an EDNS option within a query for a suffix's SOA, to the port that resolvers ask, so that an answer shows at
//! once what a referral rests on: that the other is alive, is reached there, and serves the zone. Bytes to values and back,
//! and the exchange; what is asked for and what becomes of it is `near.rs`'s and `handler.rs`'s.
//!
//! An asker must prove its address with a cookie (RFC 7873) before it is told anything, or anything is measured for it: so
//! nobody's forged question makes a node send more than an ordinary answer.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use coral_dsht::{Level, Services};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use crate::cookie::{CLIENT_BYTES, SERVER_BYTES};
use crate::name::Suffix;
use crate::wire::query::read_reply;
use crate::wire::writer::Writer;
use crate::wire::{HEADER_BYTES, classes, options, types};

/// The format of the option, its first byte. Another one is not understood, and so not answered.
const VERSION: u8 = 1;

/// Fellows named in an answer, at most.
pub const MAX_FELLOWS: usize = 6;

/// The question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The client that it is about.
    pub client: IpAddr,
    /// That the other should promise to answer the client's network itself, for that long, in whole seconds.
    pub duty: Option<Promise>,
}

/// What is to be promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promise {
    /// For how long, in seconds.
    pub seconds: u16,
    /// The asker, as it is named beside the other.
    pub distant: IpAddr,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The client's level, as the other sees it; global if that is not known.
    pub level: Level,
    /// The round-trip time from the other to the client, if it was measured.
    pub rtt: Option<Duration>,
    /// What the other offers besides.
    pub services: Services,
    /// Whether it has promised.
    pub has_promised: bool,
    /// Nameservers of the other's cluster at that level: fellows to ask as well.
    pub fellows: Vec<IpAddr>,
}

impl Request {
    /// The option's bytes.
    pub fn encode(&self, out: &mut Writer<'_>) {
        out.bytes(&[VERSION]);
        address(out, self.client);
        if let Some(promise) = self.duty {
            out.u16(promise.seconds);
            address(out, promise.distant);
        }
    }

    /// The way back. `None` for anything else.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let bytes = &mut bytes;
        (take(bytes, 1)? == [VERSION]).then_some(())?;
        let client = take_address(bytes)?;
        let mut duty = None;
        if !bytes.is_empty() {
            let seconds = u16::from_be_bytes(take(bytes, 2)?.try_into().ok()?);
            duty = Some(Promise { seconds, distant: take_address(bytes)? });
        }
        bytes.is_empty().then_some(Self { client, duty })
    }
}

impl Reply {
    /// The option's bytes.
    pub fn encode(&self, out: &mut Writer<'_>) {
        let flags = u8::from(self.rtt.is_some()) | u8::from(self.has_promised) << 1;
        out.bytes(&[VERSION, flags, self.level.number()]);
        out.u16(self.services.bits());
        // What is farther than an hour is not near.
        out.u32(self.rtt.map_or(0, |rtt| u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX)));
        for fellow in self.fellows.iter().take(MAX_FELLOWS) {
            address(out, *fellow);
        }
    }

    /// The way back. `None` for anything else.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let bytes = &mut bytes;
        let &[VERSION, flags, level] = take(bytes, 3)? else {
            return None;
        };
        let services = Services::from_bits(u16::from_be_bytes(take(bytes, 2)?.try_into().ok()?));
        let micros = u32::from_be_bytes(take(bytes, 4)?.try_into().ok()?);
        let mut fellows = Vec::new();
        while !bytes.is_empty() && fellows.len() < MAX_FELLOWS {
            fellows.push(take_address(bytes)?);
        }
        Some(Self {
            level: Level::new(level)?,
            rtt: (flags & 1 != 0).then(|| Duration::from_micros(micros.into())),
            services,
            has_promised: flags & 2 != 0,
            fellows,
        })
    }
}

fn address(out: &mut Writer<'_>, ip: IpAddr) {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            out.bytes(&[4]);
            out.bytes(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.bytes(&[6]);
            out.bytes(&ip.octets());
        }
    }
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

fn take_address(bytes: &mut &[u8]) -> Option<IpAddr> {
    match take(bytes, 1)? {
        [4] => Some(Ipv4Addr::from(<[u8; 4]>::try_from(take(bytes, 4)?).ok()?).into()),
        [6] => Some(Ipv6Addr::from(<[u8; 16]>::try_from(take(bytes, 16)?).ok()?).to_canonical()),
        _ => None,
    }
}

/// Asks other nodes. Keeps their cookies, so that each is asked twice only once.
#[derive(Debug)]
pub struct Appraiser {
    suffix: Suffix,
    port: u16,
    patience: Duration,
    /// Our part and theirs, of those asked before.
    cookies: Mutex<HashMap<IpAddr, Cookie>>,
}

/// The whole of a cookie.
type Cookie = [u8; CLIENT_BYTES + SERVER_BYTES];

/// Cookies kept, at most.
const MAX_COOKIES: usize = 4096;

/// Times that a question is sent: a second one for what was lost, and one more with the cookie that came back.
const ATTEMPTS: usize = 3;

impl Appraiser {
    /// Asks about names of `suffix`, at `port` (53 is where resolvers ask), and waits for `patience` in all.
    pub fn new(suffix: Suffix, port: u16, patience: Duration) -> Self {
        Self { suffix, port, patience, cookies: Mutex::default() }
    }

    /// What the nameserver at `node` says, and how long it took to. `None` if it says nothing of use in time.
    pub async fn ask(&self, node: IpAddr, request: Request) -> Option<(Reply, Duration)> {
        let deadline = Instant::now() + self.patience;
        let local: IpAddr = match node {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        // A socket, and so a port, for each question: together with the cookie nobody beside the way can answer it.
        let socket = UdpSocket::bind(SocketAddr::new(local, 0)).await.ok()?;
        socket.connect(SocketAddr::new(node, self.port)).await.ok()?;
        let mut random = [0; 2 + CLIENT_BYTES];
        getrandom::fill(&mut random).ok()?;
        let (id, own) = random.split_first_chunk::<2>()?;
        let mut cookie = self.cookie(node).unwrap_or_else(|| own.to_vec());
        let mut buffer = [0; 1232];
        for attempt in 1..=ATTEMPTS {
            let sent = Instant::now();
            let until = if attempt < ATTEMPTS { deadline.min(sent + self.patience / 2) } else { deadline };
            socket.send(&self.query(*id, &cookie, request)).await.ok()?;
            while let Ok(received) = timeout_at(until, socket.recv(&mut buffer)).await {
                // Nobody listens there.
                let length = received.ok()?;
                let Some(edns) = read_reply(&buffer[..length], *id) else {
                    continue;
                };
                let Some(theirs) = edns.cookie.filter(|theirs| theirs.starts_with(&cookie[..CLIENT_BYTES])) else {
                    continue;
                };
                self.keep(node, theirs);
                if let Some(reply) = edns.appraisal.and_then(Reply::decode) {
                    return Some((reply, sent.elapsed()));
                }
                if theirs == cookie {
                    // It knows us and has nothing to say: a node of another version, or no node.
                    return None;
                }
                cookie = theirs.to_vec();
                break;
            }
        }
        None
    }

    fn cookie(&self, node: IpAddr) -> Option<Vec<u8>> {
        self.cookies.lock().unwrap_or_else(PoisonError::into_inner).get(&node).map(|cookie| cookie.to_vec())
    }

    fn keep(&self, node: IpAddr, cookie: &[u8]) {
        if let Ok(cookie) = cookie.try_into() {
            let mut cookies = self.cookies.lock().unwrap_or_else(PoisonError::into_inner);
            if cookies.len() >= MAX_COOKIES {
                // They can all be had again.
                cookies.clear();
            }
            cookies.insert(node, cookie);
        }
    }

    fn query(&self, id: [u8; 2], cookie: &[u8], request: Request) -> Vec<u8> {
        let mut question = Vec::new();
        for label in self.suffix.as_str().split('.') {
            question.push(label.len() as u8);
            question.extend_from_slice(label.as_bytes());
        }
        question.push(0);
        question.extend_from_slice(&types::SOA.to_be_bytes());
        question.extend_from_slice(&classes::IN.to_be_bytes());
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes, &[id[0], id[1], 0, 0], &question);
        writer.opt(1232, 0, 0, |w| {
            w.option(options::COOKIE, |w| w.bytes(cookie));
            w.option(options::APPRAISAL, |w| request.encode(w));
        });
        // The writer is made for answers: this is a query.
        bytes[2] &= 0x7f;
        debug_assert!(bytes.len() > HEADER_BYTES);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(encode: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
        let mut buffer = Vec::new();
        encode(&mut Writer::new(&mut buffer, &[0; 4], &[]));
        buffer.split_off(HEADER_BYTES)
    }

    proptest! {
        #[test]
        fn a_question_comes_back(client: IpAddr, seconds: Option<u16>, distant: IpAddr) {
            let duty = seconds.map(|seconds| Promise { seconds, distant: distant.to_canonical() });
            let request = Request { client: client.to_canonical(), duty };
            prop_assert_eq!(Request::decode(&encoded(|w| request.encode(w))), Some(request));
        }

        #[test]
        fn an_answer_comes_back(level in 0_u8..3, rtt: Option<u32>, services: u16, has_promised: bool, fellows in prop::collection::vec(any::<IpAddr>(), 0..7)) {
            let reply = Reply {
                level: Level::new(level).unwrap(),
                rtt: rtt.map(|micros| Duration::from_micros(micros.into())),
                services: Services::from_bits(services),
                has_promised,
                fellows: fellows.iter().map(IpAddr::to_canonical).collect(),
            };
            prop_assert_eq!(Reply::decode(&encoded(|w| reply.encode(w))), Some(reply));
        }

        #[test]
        fn any_bytes_are_understood_or_not(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut bytes = bytes;
            let _ = (Request::decode(&bytes), Reply::decode(&bytes));
            if let Some(first) = bytes.first_mut() {
                *first = VERSION;
            }
            let _ = (Request::decode(&bytes), Reply::decode(&bytes));
        }
    }
}
