//! Whether a host is reached from outside: a node tries its ports for it, as only somebody else can (dial-back).
//!
//! Who asks sends the ports, and a nonce, in a field of an HTTP request to the bare suffix (`help` answers it). The node tries them at
//! the address that the request came from (`probe`) and says what it has found. What answers there, `coral check` or a node that runs, does so
//! in a way by which it is known (`reply`): so nobody else's server at that port is taken for it, and `coral check`, where it listens
//! itself (`listen`), sees by the nonce that it is this very host that is reached.
//!
//! Nobody can aim it at anybody else: a TCP connection has shown that the asker is at its address, and no other is tried. PROTOCOL.md, part 4.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use hyper::header::HeaderName;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub(crate) mod help;
pub(crate) mod listen;
mod probe;
mod reply;

/// Where a node is asked, at its bare suffix; and where it echoes, as a query, a nonce.
pub(crate) const PATH: &str = "/.well-known/coral-reach";

/// What is to be tried: a [`Request`].
pub(crate) const FIELD: HeaderName = HeaderName::from_static("coral-reach");

/// The longest request that is read: a nonce and all services with the longest ports.
const MAX_REQUEST_BYTES: usize = 32 + 5 * 15;

/// What a node can be reached by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Service {
    /// The index, over UDP.
    Index,
    /// The nameserver, over UDP.
    DnsUdp,
    /// The nameserver, over TCP.
    DnsTcp,
    /// The cache.
    Http,
    /// The cache, over TLS.
    Https,
}

impl Service {
    const ALL: [Self; 5] = [Self::Index, Self::DnsUdp, Self::DnsTcp, Self::Http, Self::Https];

    /// As it is written in a request.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::DnsUdp => "dns-udp",
            Self::DnsTcp => "dns-tcp",
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// `udp` or `tcp`.
    pub(crate) fn protocol(self) -> &'static str {
        match self {
            Self::Index | Self::DnsUdp => "udp",
            Self::DnsTcp | Self::Http | Self::Https => "tcp",
        }
    }
}

/// Drawn by who asks, and sent along with each try: whoever sees it knows what it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Nonce([u8; NONCE_BYTES]);

const NONCE_BYTES: usize = 16;

impl Nonce {
    /// A new one. Fails if the system has no random numbers.
    pub(crate) fn draw() -> anyhow::Result<Self> {
        let mut bytes = [0; NONCE_BYTES];
        SystemRandom::new().fill(&mut bytes).map_err(|_| anyhow::anyhow!("the system has no random numbers"))?;
        Ok(Self(bytes))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Under what id the index is pinged.
    fn ping(self) -> u64 {
        let (first, _) = self.0.split_first_chunk().expect("it has 16 bytes");
        u64::from_be_bytes(*first)
    }

    /// What is answered over HTTP. It is not the nonce: many a server repeats what it was asked for.
    fn echo(self) -> String {
        let hash = Sha256::new().chain_update("coral reach").chain_update(self.0).finalize();
        format!("coral-reach {}", HEXLOWER.encode(&hash[..NONCE_BYTES]))
    }
}

/// 32 hexadecimal digits.
impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl FromStr for Nonce {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| Unreadable)?;
        bytes.try_into().map(Self).map_err(|_| Unreadable)
    }
}

/// A text is no request, or no nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unreadable;

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ask by {FIELD}: 32 hexadecimal digits, then some of index=4160 dns-udp=53 dns-tcp=53 http=80 https=443"
        )
    }
}

/// What is to be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) nonce: Nonce,
    /// At least one.
    pub(crate) ports: BTreeMap<Service, u16>,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.nonce)?;
        self.ports.iter().try_for_each(|(service, port)| write!(f, " {}={port}", service.word()))
    }
}

impl FromStr for Request {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        if text.len() > MAX_REQUEST_BYTES {
            return Err(Unreadable);
        }
        let mut words = text.split(' ');
        let nonce = words.next().ok_or(Unreadable)?.parse()?;
        let mut ports = BTreeMap::new();
        for word in words {
            let (name, port) = word.split_once('=').ok_or(Unreadable)?;
            let service = Service::ALL.into_iter().find(|service| service.word() == name).ok_or(Unreadable)?;
            let port = port.parse().ok().filter(|number: &u16| *number != 0 && port == number.to_string());
            if ports.insert(service, port.ok_or(Unreadable)?).is_some() {
                return Err(Unreadable);
            }
        }
        if ports.is_empty() { Err(Unreadable) } else { Ok(Self { nonce, ports }) }
    }
}

/// What a node says of a host that has asked it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    /// Where the request came from, and what was tried.
    pub(crate) seen_as: IpAddr,
    /// What came of it.
    pub(crate) tried: BTreeMap<Service, Found>,
}

impl Told {
    /// What a node has sent, which may be anything; `None` if it says nothing that is understood.
    pub(crate) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// What was found at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Found {
    /// A node, or who stands in for it, answers.
    Answered,
    /// Something answers that is none.
    Other,
    /// There was no answer.
    Silent,
    /// Somebody says that nothing listens there.
    Refused,
    /// Somebody says that it may not, or cannot, be reached.
    Unreachable,
}

/// For the fuzz target and unit tests: whatever a stranger sends is understood, and can be written again, or is not.
#[doc(hidden)]
pub fn check_bytes(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(request) = text.parse::<Request>() {
        // Services may come in any order.
        let again = request.to_string();
        assert!(again.len() == text.len() && text.len() <= MAX_REQUEST_BYTES && !request.ports.is_empty());
        assert_eq!(again.parse(), Ok(request));
    }
    if let Ok(nonce) = text.parse::<Nonce>() {
        assert_eq!(nonce.to_string(), text);
    }
    if let Some(told) = Told::read(&text) {
        let again = serde_json::to_string(&told).expect("plain values");
        assert_eq!(Told::read(&again), Some(told));
    }
    reply::check_bytes(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    const EXAMPLE: &str = "000102030405060708090a0b0c0d0e0f index=4160 dns-udp=53 dns-tcp=53 http=80 https=443";

    #[test]
    fn a_request_is_read_as_it_is_written() {
        let request: Request = EXAMPLE.parse().unwrap();
        assert_eq!(request.to_string(), EXAMPLE);
        assert_eq!(request.ports[&Service::Https], 443);
        // As it may come from elsewhere.
        check_bytes(format!("{} http=80 index=4160", &EXAMPLE[..32]).as_bytes());
        let longest =
            EXAMPLE.replace("=53", "=65535").replace("4160", "65535").replace("=80", "=65535").replace("443", "65535");
        assert!(longest.parse::<Request>().is_ok() && longest.len() <= MAX_REQUEST_BYTES, "{}", longest.len());
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let nonce = &EXAMPLE[..32];
        for wrong in [
            "",
            nonce,
            &EXAMPLE[1..],
            &format!("{nonce} http=0"),
            &format!("{nonce} http=080"),
            &format!("{nonce} http=+80"),
            &format!("{nonce} http=65536"),
            &format!("{nonce} http=80 http=81"),
            &format!("{nonce}  http=80"),
            &format!("{nonce} http"),
            &format!("{nonce} gopher=70"),
            &format!("{nonce} http=80 "),
            &EXAMPLE.replace('f', "F"),
            &EXAMPLE.replace("index", "é"),
        ] {
            assert_eq!(wrong.parse::<Request>(), Err(Unreadable), "{wrong}");
        }
    }

    #[test]
    fn the_protocol_has_this_request_and_its_echo() {
        let protocol = include_str!("../PROTOCOL.md");
        assert!(protocol.contains(&format!("Coral-Reach: {EXAMPLE}\n")) && protocol.contains(&format!("GET {PATH} ")));
        let request: Request = EXAMPLE.parse().unwrap();
        let echo = request.nonce.echo();
        let digits = echo.strip_prefix("coral-reach ").unwrap();
        assert!(protocol.contains(&format!("{digits}   of {}\n", request.nonce)), "{echo}");
        let told = protocol.lines().find(|line| line.starts_with("{\"seen_as\"")).unwrap();
        let read = Told::read(told).unwrap();
        assert_eq!(read.tried[&Service::DnsUdp], Found::Silent);
        assert_eq!(serde_json::to_string(&read).unwrap(), told);
    }

    proptest! {
        #[test]
        fn any_request_survives_its_way(nonce: [u8; NONCE_BYTES], ports in btree_map(select(&Service::ALL), 1..=u16::MAX, 1..=5)) {
            let request = Request { nonce: Nonce(nonce), ports };
            prop_assert_eq!(request.to_string().parse(), Ok(request));
        }

        #[test]
        fn no_bytes_are_too_much(bytes in vec(any::<u8>(), 0..300)) {
            check_bytes(&bytes);
        }

        #[test]
        fn nor_what_looks_like_a_request(text in "[0-9a-f]{31,33}( (index|dns-udp|http|x)=[0-9+]{0,6}){0,6}") {
            check_bytes(text.as_bytes());
        }
    }
}
