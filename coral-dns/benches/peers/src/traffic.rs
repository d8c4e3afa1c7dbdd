//! What is asked, and what counts as an answer: names, client prefixes, and the bytes of a query.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use fastrand::Rng;

/// The zone that all servers have.
pub(crate) const ZONE: &str = "nyud.net";
/// How many names are asked for. None is in a zone file.
pub(crate) const NAMES: usize = 10_000;
/// How many client prefixes a server knows.
pub(crate) const PREFIXES: usize = 100_000;
/// Kinds of prefixes: the data centres of the others, the levels of ours.
pub(crate) const PLACES: usize = 3;

/// The same for the servers as for who asks, in every process.
const SEED: u64 = 5;

/// The /24s that servers know, each by its first address; the place of the one at `i` is `i % PLACES`.
pub(crate) fn known_prefixes() -> Vec<Ipv4Addr> {
    let mut rng = Rng::with_seed(SEED);
    let mut seen = HashSet::new();
    let mut prefixes = Vec::with_capacity(PREFIXES);
    while prefixes.len() < PREFIXES {
        let prefix = draw_prefix(&mut rng);
        if seen.insert(prefix) {
            prefixes.push(prefix);
        }
    }
    prefixes
}

/// A /24 of those that hosts of the Internet are in.
fn draw_prefix(rng: &mut Rng) -> Ipv4Addr {
    loop {
        let ip = Ipv4Addr::from(rng.u32(..) & 0xffff_ff00);
        let first = ip.octets()[0];
        // 198.18.0.0/15 is for benchmarks: that of this namespace.
        let is_special = ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_documentation();
        if (1..224).contains(&first) && !is_special && ip.octets()[..2] != [198, 18] && ip.octets()[..2] != [198, 19] {
            return ip;
        }
    }
}

/// What a query has beside its question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Nothing.
    Plain,
    /// EDNS, 1,232 bytes.
    Edns,
    /// The same and a client subnet.
    Ecs,
}

impl Kind {
    /// For the head of a column.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Edns => "EDNS",
            Self::Ecs => "ECS",
        }
    }
}

/// Makes queries.
#[derive(Debug)]
pub(crate) struct Traffic {
    /// Names with type and class, as they are in a message.
    questions: Vec<Vec<u8>>,
    known: Vec<Ipv4Addr>,
    is_known: HashSet<Ipv4Addr>,
    rng: Rng,
}

impl Traffic {
    pub(crate) fn new() -> Self {
        let questions = (0..NAMES).map(|i| question(&format!("www.{i}.example.com.{ZONE}"))).collect();
        let known = known_prefixes();
        let is_known = known.iter().copied().collect();
        Self { questions, known, is_known, rng: Rng::with_seed(SEED + 1) }
    }

    /// Writes a query in place of what is in `message`. Says whether its client is one that the servers know, which a share
    /// `unknown` of them is not.
    pub(crate) fn write(&mut self, message: &mut Vec<u8>, id: u16, kind: Kind, unknown: f64) -> bool {
        message.clear();
        message.extend_from_slice(&id.to_be_bytes());
        let additional = u8::from(kind != Kind::Plain);
        message.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0, additional]);
        message.extend_from_slice(&self.questions[self.rng.usize(..NAMES)]);
        if kind == Kind::Plain {
            return true;
        }
        // RFC 6891 §6.1.2: root, OPT, 1,232 bytes, no flags.
        message.extend_from_slice(&[0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0]);
        if kind == Kind::Edns {
            message.extend_from_slice(&[0, 0]);
            return true;
        }
        let is_known = unknown == 0.0 || self.rng.f64() >= unknown;
        let prefix = if is_known { self.known[self.rng.usize(..PREFIXES)] } else { self.draw_unknown() };
        push_subnet(message, prefix);
        is_known
    }

    /// Writes a query of a client in the known prefix at `i`.
    pub(crate) fn write_for(&mut self, message: &mut Vec<u8>, i: usize) {
        self.write(message, 1, Kind::Edns, 0.0);
        // In place of the length of no options.
        message.truncate(message.len() - 2);
        push_subnet(message, self.known[i]);
    }

    fn draw_unknown(&mut self) -> Ipv4Addr {
        loop {
            let prefix = draw_prefix(&mut self.rng);
            if !self.is_known.contains(&prefix) {
                return prefix;
            }
        }
    }
}

/// The length of the options, and the one option: RFC 7871 §6, IPv4, 24 bits, scope 0.
fn push_subnet(message: &mut Vec<u8>, prefix: Ipv4Addr) {
    message.extend_from_slice(&[0, 11, 0, 8, 0, 7, 0, 1, 24, 0]);
    message.extend_from_slice(&prefix.octets()[..3]);
}

fn question(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 6);
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("labels of a few bytes"));
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
    bytes
}

/// The address that is the first record of an answer, if it is one.
pub(crate) fn first_address(message: &[u8]) -> Option<Ipv4Addr> {
    if message.get(6..8)? == [0, 0] {
        return None;
    }
    let record = skip_name(message, skip_name(message, 12)? + 4)?;
    let fixed = message.get(record..record + 14)?;
    let is_address = fixed[..4] == [0, 1, 0, 1] && fixed[8..10] == [0, 4];
    is_address.then(|| Ipv4Addr::new(fixed[10], fixed[11], fixed[12], fixed[13]))
}

/// Where a name ends, compressed or not.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length >= 0xc0 => return Some(at + 2),
            length => at += usize::from(length) + 1,
        }
    }
}
