//! Reading a query: header, one question, EDNS. Bytes in, a [`Query`] that borrows them out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smallvec::SmallVec;

use super::{HEADER_BYTES, MAX_LABELS, MAX_NAME_BYTES, flags, options, types};
use crate::answer::Rcode;
use crate::proximity::{MalformedSubnet, Subnet};

/// A message that is no query to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// It gets no answer, for this reason.
    Drop(&'static str),
    /// It gets this response code, without EDNS: its end was not reached.
    Error(Rcode),
}

/// A query. Its name is copied in lower case; all else is where it came in.
#[derive(Debug)]
pub struct Query<'a> {
    /// The whole message.
    pub bytes: &'a [u8],
    /// The question as it stands there: name, type, class. Its upper and lower case is the asker's.
    pub question: &'a [u8],
    /// The name.
    pub name: &'a LowerName,
    /// The type asked for.
    pub kind: u16,
    /// The class asked for.
    pub class: u16,
    /// What it says about EDNS.
    pub edns: Option<Edns<'a>>,
}

/// The OPT record of a query (RFC 6891 §6.1). Options that are not known here are passed over.
#[derive(Debug, Clone, Copy, Default)]
pub struct Edns<'a> {
    /// The largest answer over UDP that the asker takes, as it says.
    pub payload: u16,
    /// The version; only 0 exists.
    pub version: u8,
    /// Whether signatures are wanted (RFC 3225).
    pub dnssec_ok: bool,
    /// Whether NXDOMAIN is wanted where it is denied compactly that there is a name (RFC 9824 §5.1).
    pub compact_ok: bool,
    /// Whether the server's name is wanted (RFC 5001).
    pub nsid: bool,
    /// The client's network: the option's bytes, which go back, and what they mean.
    pub subnet: Option<(&'a [u8], Result<Subnet, MalformedSubnet>)>,
    /// The cookie's bytes: 8, or 16 to 40, else it is malformed (RFC 7873 §5.2.2).
    pub cookie: Option<&'a [u8]>,
    /// Another node's question: the option's bytes.
    pub appraisal: Option<&'a [u8]>,
}

/// A name in lower case, with its labels. Made to be used again, as it is large.
#[derive(Debug)]
pub struct LowerName {
    bytes: [u8; MAX_NAME_BYTES],
    /// Where each label begins, its length byte included.
    starts: [u8; MAX_LABELS],
    labels: usize,
    length: usize,
}

impl Default for LowerName {
    fn default() -> Self {
        Self { bytes: [0; MAX_NAME_BYTES], starts: [0; MAX_LABELS], labels: 0, length: 0 }
    }
}

impl LowerName {
    /// Reads the name that `body` begins with. `None`: compressed, too long, or broken off.
    fn read(&mut self, body: &[u8]) -> Option<()> {
        (self.labels, self.length) = (0, 0);
        let mut at = 0;
        loop {
            match *body.get(at)? {
                0 => break,
                length @ 1..=63 => {
                    let end = at + 1 + usize::from(length);
                    if end >= MAX_NAME_BYTES {
                        return None;
                    }
                    let label = body.get(at..end)?;
                    self.bytes[at..end].copy_from_slice(label);
                    // A length is below 64, where there is no capital letter.
                    self.bytes[at..end].make_ascii_lowercase();
                    self.starts[self.labels] = at as u8;
                    self.labels += 1;
                    at = end;
                }
                // A pointer (there is nothing in front to point at), or a kind of label that never was.
                _ => return None,
            }
        }
        self.bytes[at] = 0;
        self.length = at + 1;
        Some(())
    }

    /// Its labels, from the left, without the root.
    pub fn labels(&self) -> Labels<'_> {
        let label = |start: &u8| {
            let start = usize::from(*start);
            &self.bytes[start + 1..start + 1 + usize::from(self.bytes[start])]
        };
        Labels(self.starts[..self.labels].iter().map(label).collect())
    }

    /// The name as it goes over the wire, the root's zero at its end.
    pub fn as_wire(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Where the label with this number, from the left, begins within [`LowerName::as_wire`]; its end for the root.
    pub fn start(&self, label: usize) -> usize {
        if label < self.labels { usize::from(self.starts[label]) } else { self.length.saturating_sub(1) }
    }
}

/// The labels of a name, from the left. Those of most names need no memory of their own.
#[derive(Debug)]
pub struct Labels<'a>(SmallVec<[&'a [u8]; 16]>);

impl<'a> std::ops::Deref for Labels<'a> {
    type Target = [&'a [u8]];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<'a> Query<'a> {
    /// Reads `bytes`, with `name` as the place for its name.
    ///
    /// What would be costly or dangerous is refused by the header alone.
    pub fn read(bytes: &'a [u8], name: &'a mut LowerName) -> Result<Self, Rejection> {
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
        let malformed = Rejection::Error(Rcode::FormErr);
        let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        // One question; nothing in front of the EDNS but the SOA that an IXFR has; and EDNS with a signature at most.
        if count(4) != 1 || count(6) > 0 || count(8) > 1 || count(10) > 2 {
            return Err(malformed);
        }
        name.read(body).ok_or(malformed)?;
        let end = name.length + 4;
        let question = body.get(..end).ok_or(malformed)?;
        let number = |at: usize| u16::from_be_bytes([question[at], question[at + 1]]);
        let (kind, class) = (number(name.length), number(name.length + 2));
        let mut rest = &body[end..];
        let mut edns = None;
        for _ in 0..count(8) + count(10) {
            let record = Record::read(&mut rest).ok_or(malformed)?;
            if record.kind == types::OPT {
                // RFC 6891 §6.1.1: one at most, and the root is its name.
                if edns.is_some() || !record.is_root {
                    return Err(malformed);
                }
                edns = Some(Edns::read(&record).ok_or(malformed)?);
            }
        }
        // Whatever follows what the header counts is no part of the message, so it is not one.
        if !rest.is_empty() {
            return Err(malformed);
        }
        Ok(Self { bytes, question, name, kind, class, edns })
    }
}

/// What an answer to our own query `id` says by its EDNS. `None` if it is none, or is not to be understood.
pub fn read_reply(bytes: &[u8], id: [u8; 2]) -> Option<Edns<'_>> {
    let (header, body) = bytes.split_at_checked(HEADER_BYTES)?;
    let is_reply = header[..2] == id && header[2] & 0x80 != 0 && header[4..6] == [0, 1];
    let mut rest = body.get(question(body).filter(|_| is_reply)?.len()..)?;
    let count = |at: usize| usize::from(u16::from_be_bytes([header[at], header[at + 1]]));
    for _ in 0..count(6) + count(8) + count(10) {
        let record = Record::read(&mut rest)?;
        if record.kind == types::OPT {
            return Edns::read(&record);
        }
    }
    None
}

/// The bytes of the first question of a message's `body`, if there is a whole one: to send it back with an error.
pub fn question(body: &[u8]) -> Option<&[u8]> {
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

/// A record of a query, not looked into.
struct Record<'a> {
    is_root: bool,
    kind: u16,
    class: u16,
    ttl: [u8; 4],
    data: &'a [u8],
}

impl<'a> Record<'a> {
    /// Takes the record that `rest` begins with off it.
    fn read(rest: &mut &'a [u8]) -> Option<Self> {
        let is_root = rest.first() == Some(&0);
        let mut at = 0;
        loop {
            match *rest.get(at)? {
                0 => {
                    at += 1;
                    break;
                }
                length @ 1..=63 => at += usize::from(length) + 1,
                // A pointer ends the name, wherever it leads: nobody goes there.
                0xc0.. => {
                    at += 2;
                    break;
                }
                _ => return None,
            }
        }
        let fixed: &[u8; 10] = rest.get(at..)?.first_chunk()?;
        let number = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let data = rest.get(at + 10..at + 10 + usize::from(number(8)))?;
        *rest = &rest[at + 10 + data.len()..];
        Some(Self { is_root, kind: number(0), class: number(2), ttl: [fixed[4], fixed[5], fixed[6], fixed[7]], data })
    }
}

impl<'a> Edns<'a> {
    fn read(record: &Record<'a>) -> Option<Self> {
        let mut edns = Self {
            payload: record.class,
            version: record.ttl[1],
            dnssec_ok: record.ttl[2] & flags::DNSSEC_OK != 0,
            compact_ok: record.ttl[2] & flags::COMPACT_OK != 0,
            ..Self::default()
        };
        let mut rest = record.data;
        while !rest.is_empty() {
            let head: &[u8; 4] = rest.first_chunk()?;
            let (code, length) =
                (u16::from_be_bytes([head[0], head[1]]), usize::from(u16::from_be_bytes([head[2], head[3]])));
            let data = rest.get(4..4 + length)?;
            rest = &rest[4 + length..];
            match code {
                options::NSID => edns.nsid = true,
                // Of several the first counts.
                options::SUBNET if edns.subnet.is_none() => edns.subnet = Some((data, read_subnet(data))),
                options::COOKIE if edns.cookie.is_none() => edns.cookie = Some(data),
                options::APPRAISAL if edns.appraisal.is_none() => edns.appraisal = Some(data),
                _ => {}
            }
        }
        Some(edns)
    }
}

/// The option's fields (RFC 7871 §6): family, bits of the source and of the scope, and no more bytes of the address than
/// the bits need.
fn read_subnet(data: &[u8]) -> Result<Subnet, MalformedSubnet> {
    let Some((&[family_high, family_low, source, scope], address)) = data.split_first_chunk() else {
        return Err(MalformedSubnet);
    };
    if address.len() != usize::from(source).div_ceil(8) {
        return Err(MalformedSubnet);
    }
    let ip: IpAddr = match u16::from_be_bytes([family_high, family_low]) {
        1 => {
            let mut octets = [0; 4];
            octets.get_mut(..address.len()).ok_or(MalformedSubnet)?.copy_from_slice(address);
            Ipv4Addr::from(octets).into()
        }
        2 => {
            let mut octets = [0; 16];
            octets.get_mut(..address.len()).ok_or(MalformedSubnet)?.copy_from_slice(address);
            Ipv6Addr::from(octets).into()
        }
        // RFC 7871 §7.1.2 has no word for other families; one that cannot be understood cannot be obeyed.
        _ => return Err(MalformedSubnet),
    };
    Subnet::new(ip, source, scope)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_has_its_labels_in_lower_case() {
        let mut name = LowerName::default();
        name.read(b"\x03wWw\x01X\x03com\0rest").unwrap();
        assert_eq!(&*name.labels(), [&b"www"[..], b"x", b"com"]);
        assert_eq!(name.as_wire(), b"\x03www\x01x\x03com\0");
        assert_eq!([name.start(0), name.start(2), name.start(3)], [0, 6, 10]);
        name.read(b"\0").unwrap();
        assert_eq!((name.labels().len(), name.as_wire()), (0, &b"\0"[..]));
    }

    #[test]
    fn a_name_that_is_compressed_too_long_or_broken_off_is_none() {
        let mut name = LowerName::default();
        let long: Vec<u8> = [1, b'a'].repeat(127).into_iter().chain([0]).collect();
        assert!(name.read(&long).is_some());
        let longer: Vec<u8> = [1, b'a'].repeat(128).into_iter().chain([0]).collect();
        for bad in [&b"\x03www\xc0\x0c"[..], b"\x03ww", b"\x03www", b"", b"\x40", &longer] {
            assert!(name.read(bad).is_none());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut name = LowerName::default();
            let _ = Query::read(&bytes, &mut name);
            // The same as a query, that more of it is looked at.
            for (at, value) in [(2, 0), (4, 0), (5, 1), (6, 0), (7, 0), (8, 0), (9, 0), (10, 0), (11, 1)] {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            let _ = Query::read(&bytes, &mut name);
        }
    }
}
