//! Names: which exist under a suffix, and what each stands for. Labels in, a [`Place`] out.
//!
//! | under `nyud.net` | stands for |
//! |---|---|
//! | the suffix itself | [`Place::Apex`] |
//! | `www.x.com`, `www.x.com.8080` | [`Place::Host`]: any host name of two labels or more, a port behind it or not |
//! | `www-x-com.s` | the same in one label: a dot is `-`, a hyphen `--` |
//! | `192.0.2.1`, `192.0.2.1.8080` | a host only where the configuration allows it |
//! | `ip4-192-0-2-1.ns` | [`Place::Nameserver`]: computed from the address, so that any node knows the name of any other |
//! | `ns--ip4-192-0-2-1.com` | the same within the cut `com`, for what a referral names |
//! | `com`, `8080`, `com.8080`, `ns`, `s` | [`Place::NonTerminal`]: no records, but names beneath |
//! | `www.x.com.nyud.net`, and so on | nested suffixes count once |
//! | all else: `_dmarc`, `-x.com`, `65536`, `x.ns` | [`Place::Missing`] |
//!
//! Whatever has an existing name beneath it exists (RFC 8020): were `com.nyud.net` missing, a resolver that minimises its
//! questions (RFC 9156) would stop there. Whether a nameserver is alive, and what records a place has, is not said here.
//!
//! The label below the suffix, if names of hosts end in it, is a *cut*: a zone of its own, so that near nameservers can be
//! named for it (`referral.rs`). A host that looks like a nameserver of a cut cannot be registered: labels with hyphens in
//! the third and fourth place are reserved (RFC 5891 §4.2.3.1).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest suffix in characters: what leaves room for the longest name of a nameserver (RFC 1035 §2.3.4).
pub const MAX_SUFFIX_LENGTH: usize = 200;

/// A zone that this node answers for, such as `nyud.net`. Lower-case, without a trailing dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Suffix(Box<str>);

impl Suffix {
    /// The name, lower-case, without a trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as it goes over the wire.
    pub fn to_wire(&self) -> Vec<u8> {
        let mut wire = Vec::with_capacity(self.0.len() + 2);
        for label in self.labels() {
            wire.push(label.len() as u8);
            wire.extend_from_slice(label);
        }
        wire.push(0);
        wire
    }

    /// Its labels from the left.
    fn labels(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split('.').map(str::as_bytes)
    }

    /// What of `labels` stands in front of this suffix; `None` if they do not end in it.
    fn strip<'l, 'b>(&self, labels: &'l [&'b [u8]]) -> Option<&'l [&'b [u8]]> {
        let mut rest = labels;
        for wanted in self.labels().rev() {
            let (last, front) = rest.split_last()?;
            if *last != wanted {
                return None;
            }
            rest = front;
        }
        Some(rest)
    }
}

impl fmt::Display for Suffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Suffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is no suffix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseSuffixError {
    /// Nothing was given, or only the root.
    #[error("a suffix is a domain name such as nyud.net, not the empty name")]
    Empty,
    /// More than [`MAX_SUFFIX_LENGTH`].
    #[error("the suffix has {0} characters, {MAX_SUFFIX_LENGTH} are the most")]
    TooLong(usize),
    /// Not ASCII.
    #[error("the suffix {0:?} is not ASCII: write its xn-- form")]
    NotAscii(String),
    /// A label that no host name may have.
    #[error("{0:?} is no label of a host name: 1 to 63 letters, digits and inner hyphens")]
    Label(String),
    /// The last label is a number, so the name would look like an address.
    #[error("the last label of a suffix is not a number: {0:?}")]
    Numeric(String),
}

impl FromStr for Suffix {
    type Err = ParseSuffixError;

    fn from_str(text: &str) -> Result<Self, ParseSuffixError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(ParseSuffixError::Empty);
        }
        if text.len() > MAX_SUFFIX_LENGTH {
            return Err(ParseSuffixError::TooLong(text.len()));
        }
        if !text.is_ascii() {
            return Err(ParseSuffixError::NotAscii(text.to_owned()));
        }
        let text = text.to_ascii_lowercase();
        if let Some(label) = text.split('.').find(|label| !is_host_label(label.as_bytes())) {
            return Err(ParseSuffixError::Label(label.to_owned()));
        }
        match text.rsplit('.').next() {
            Some(last) if is_numeric(last.as_bytes()) => Err(ParseSuffixError::Numeric(last.to_owned())),
            _ => Ok(Self(text.into())),
        }
    }
}

impl Serialize for Suffix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Suffix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a name under a suffix stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The suffix itself.
    Apex,
    /// A coralized host: it has the addresses of proxies.
    Host,
    /// The name of the nameserver at this address.
    Nameserver(IpAddr),
    /// No records of its own, but there are names beneath it.
    NonTerminal,
    /// There is no such name, nor any beneath it.
    Missing,
}

/// Where a name is, and what it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The suffix, as an index.
    pub zone: usize,
    /// What the name stands for there.
    pub place: Place,
    /// The number of labels in front of the suffix.
    pub depth: usize,
    /// Whether the label in front of the suffix is a cut. At a `depth` of 1 the name is the cut itself.
    pub is_cut: bool,
}

/// Finds the zone of a name, and what the name stands for there.
///
/// `labels` are the name's, from the left, in lower case, without the root; `None` means a name in no zone of ours. Of
/// suffixes within each other the longest wins.
pub fn place(labels: &[&[u8]], suffixes: &[Suffix], ip_literals: bool) -> Option<Found> {
    let (zone, inner) = innermost(labels, suffixes)?;
    let Some((cut, front)) = inner.split_last() else {
        return Some(Found { zone, place: Place::Apex, depth: 0, is_cut: false });
    };
    let is_cut = *cut != b"ns" && place_under(&[cut], ip_literals) == Place::NonTerminal;
    let found = |place| Some(Found { zone, place, depth: inner.len(), is_cut });
    if let ([label], true) = (front, is_cut)
        && let Some(ip) = label.strip_prefix(CUT_NAMESERVER).and_then(nameserver_address)
    {
        return found(Place::Nameserver(ip));
    }
    let mut rest = inner;
    while let Some((_, within)) = innermost(rest, suffixes) {
        rest = within;
    }
    let place = if rest.is_empty() {
        // `nyud.net.nyud.net`: the page of the suffix itself, through the suffix. A second apex would be a zone cut.
        Place::Host
    } else {
        place_under(rest, ip_literals)
    };
    found(place)
}

/// The longest suffix that `labels` end in, and what stands in front of it.
fn innermost<'l, 'b>(labels: &'l [&'b [u8]], suffixes: &[Suffix]) -> Option<(usize, &'l [&'b [u8]])> {
    let matching = suffixes.iter().enumerate().filter_map(|(index, suffix)| Some((index, suffix.strip(labels)?)));
    matching.min_by_key(|(_, rest)| rest.len())
}

/// What `rest`, which is not empty, stands for below a suffix.
fn place_under(rest: &[&[u8]], ip_literals: bool) -> Place {
    match rest {
        [b"ns" | b"s"] => return Place::NonTerminal,
        [label, b"ns"] => return nameserver_address(label).map_or(Place::Missing, Place::Nameserver),
        [label, b"s"] => {
            return match unflatten(label) {
                Some(host) => place_of_host(&host.split(|byte| *byte == b'.').collect::<Vec<_>>(), true),
                None => Place::Missing,
            };
        }
        [.., b"ns" | b"s"] => return Place::Missing,
        _ => {}
    }
    if rest.iter().all(|label| is_numeric(label)) {
        return place_of_numbers(rest, ip_literals);
    }
    match rest.split_last() {
        Some((last, host)) if is_port(last) => place_of_host(host, false),
        _ => place_of_host(rest, false),
    }
}

/// What a host name in front of the suffix, or of the port, stands for. `whole` says that nothing can stand in front of
/// it any more, so that it is a host or nothing.
fn place_of_host(host: &[&[u8]], whole: bool) -> Place {
    let valid = host.iter().all(|label| is_host_label(label)) && host.last().is_some_and(|last| !is_numeric(last));
    match (valid, host.len()) {
        (false, _) => Place::Missing,
        (true, 1) if whole => Place::Missing,
        (true, 1) => Place::NonTerminal,
        (true, _) => Place::Host,
    }
}

/// What a name of numbers alone stands for: a port, an IPv4 address, an address and a port, or the tail of one of these.
fn place_of_numbers(numbers: &[&[u8]], ip_literals: bool) -> Place {
    let octets = |labels: &[&[u8]]| labels.iter().all(|label| number(label).is_some_and(|n| n <= 255));
    let is_address = numbers.len() == 4 && octets(numbers);
    let (last, front) = numbers.split_last().expect("a name of numbers has one at least");
    let is_address_with_port = numbers.len() == 5 && octets(front) && is_port(last);
    let is_tail = numbers.len() < 4 && octets(numbers) || numbers.len() < 5 && octets(front) && is_port(last);
    if ip_literals && (is_address || is_address_with_port) {
        Place::Host
    } else if numbers.len() == 1 && is_port(last) || ip_literals && is_tail {
        Place::NonTerminal
    } else {
        Place::Missing
    }
}

/// The host name that the one label in front of `s` stands for: `-` is a dot, `--` a hyphen. `None` for an empty label.
fn unflatten(label: &[u8]) -> Option<Vec<u8>> {
    let mut host = Vec::with_capacity(label.len());
    let mut bytes = label.iter().peekable();
    while let Some(byte) = bytes.next() {
        host.push(match byte {
            b'-' if bytes.next_if(|next| **next == b'-').is_some() => b'-',
            b'-' => b'.',
            // A dot within a label is a byte like any other, but it must not come out as a separator.
            b'.' => return None,
            other => *other,
        });
    }
    (!host.is_empty()).then_some(host)
}

/// How the label of a nameserver begins within a cut.
pub(crate) const CUT_NAMESERVER: &[u8] = b"ns--";

/// The name of the nameserver at `ip`, without a trailing dot: any node computes the same.
///
/// IPv4 as `ip4-192-0-2-1.ns.nyud.net`, IPv6 with all its digits, as
/// `ip6-2001-0db8-0000-0000-0000-0000-0000-0001.ns.nyud.net`, so that each address has one name.
pub fn nameserver_name(ip: IpAddr, suffix: &Suffix) -> String {
    format!("{}.ns.{suffix}", NameserverLabel::new(ip))
}

/// The label that an address makes in the name of its nameserver: at most 43 characters.
#[derive(Clone, Copy)]
pub struct NameserverLabel {
    text: [u8; 43],
    length: usize,
}

impl NameserverLabel {
    /// That of `ip`. An IPv4 address may be written as an IPv6 one.
    pub fn new(ip: IpAddr) -> Self {
        let mut label = Self { text: [0; 43], length: 0 };
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                label.push(b"ip4");
                for octet in ip.octets() {
                    label.push(b"-");
                    for (unit, digit) in [(100, octet / 100), (10, octet / 10 % 10), (1, octet % 10)] {
                        if octet >= unit || unit == 1 {
                            label.push(&[b'0' + digit]);
                        }
                    }
                }
            }
            IpAddr::V6(ip) => {
                label.push(b"ip6");
                for segment in ip.segments() {
                    label.push(b"-");
                    for shift in [12, 8, 4, 0] {
                        label.push(&[b"0123456789abcdef"[usize::from(segment >> shift & 0xf)]]);
                    }
                }
            }
        }
        label
    }

    fn push(&mut self, bytes: &[u8]) {
        self.text[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text[..self.length]
    }
}

impl fmt::Display for NameserverLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{}", char::from(*byte)))
    }
}

impl fmt::Debug for NameserverLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The address in the first label of a nameserver's name: the way back of [`nameserver_name`].
fn nameserver_address(label: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(label).ok()?;
    if let Some(octets) = text.strip_prefix("ip4-") {
        // The standard library refuses leading zeros and wants exactly four.
        let ip: Ipv4Addr = octets.replace('-', ".").parse().ok()?;
        return (octets.len() == ip.to_string().len() && !octets.contains('.')).then_some(IpAddr::V4(ip));
    }
    let mut segments = [0; 8];
    let mut groups = text.strip_prefix("ip6-")?.split('-');
    for segment in &mut segments {
        let group = groups.next()?;
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if group.len() != 4 || !group.bytes().all(is_hex) {
            return None;
        }
        *segment = u16::from_str_radix(group, 16).ok()?;
    }
    let ip = Ipv6Addr::from(segments);
    // A mapped address has its name as IPv4.
    (groups.next().is_none() && ip.to_ipv4_mapped().is_none()).then_some(IpAddr::V6(ip))
}

/// Whether a host name may have this label, in lower case (RFC 952, RFC 1123 §2.1).
fn is_host_label(label: &[u8]) -> bool {
    let inner = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    (1..=63).contains(&label.len())
        && label.iter().all(inner)
        && label.first() != Some(&b'-')
        && label.last() != Some(&b'-')
}

/// Whether the label has digits only.
fn is_numeric(label: &[u8]) -> bool {
    !label.is_empty() && label.iter().all(u8::is_ascii_digit)
}

/// The number that the label is, written without leading zeros, if it has at most five digits.
fn number(label: &[u8]) -> Option<u32> {
    if !is_numeric(label) || label.len() > 5 || (label.len() > 1 && label[0] == b'0') {
        return None;
    }
    Some(label.iter().fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0')))
}

/// Whether the label is a port: 1 to 65535.
fn is_port(label: &[u8]) -> bool {
    number(label).is_some_and(|port| (1..=65_535).contains(&port))
}

/// Any text as a name, taken through everything here: for the fuzzer and the property tests.
#[doc(hidden)]
pub fn check_name(bytes: &[u8]) {
    let lower = bytes.to_ascii_lowercase();
    let labels: Vec<&[u8]> = lower.split(|byte| *byte == b'.').collect();
    let suffixes: [Suffix; 2] =
        ["nyud.net", "b.nyud.net"].map(|suffix| suffix.parse().expect("a suffix of this function"));
    for ip_literals in [false, true] {
        let mut with_suffix = labels.clone();
        with_suffix.extend([b"nyud".as_slice(), b"net"]);
        let found = place(&with_suffix, &suffixes, ip_literals).expect("the name ends in a suffix");
        match found.place {
            Place::Nameserver(ip) if !found.is_cut => {
                let name = nameserver_name(ip, &suffixes[found.zone]);
                let again: Vec<&[u8]> = name.split('.').map(str::as_bytes).collect();
                assert_eq!(place(&again, &suffixes, ip_literals), Some(found));
            }
            // RFC 8020: what lies above an existing name exists.
            Place::Host | Place::NonTerminal | Place::Nameserver(_) => {
                let above = place(&with_suffix[1..], &suffixes, ip_literals).expect("still within the zone");
                assert_ne!(above.place, Place::Missing, "{}", lower.escape_ascii());
                assert!(above.is_cut == found.is_cut || above.depth == 0);
            }
            Place::Apex | Place::Missing => {}
        }
    }
    if let Some(suffix) = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<Suffix>().ok()) {
        assert_eq!(suffix.to_string().parse(), Ok(suffix));
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    /// Each name with its place, `!` before it where addresses as names are allowed.
    fn check(names: &str, expect: Expect) {
        let suffixes: Vec<Suffix> = ["nyud.net", "b.nyud.net"].iter().map(|s| s.parse().unwrap()).collect();
        let mut out = String::new();
        for name in names.split_whitespace() {
            let bare = name.trim_start_matches('!');
            let labels: Vec<&[u8]> = bare.split('.').map(str::as_bytes).collect();
            let found = match place(&labels, &suffixes, name.starts_with('!')) {
                Some(found) => {
                    let cut = if found.is_cut { "a cut of " } else { "" };
                    format!("{:?} in {cut}{}", found.place, suffixes[found.zone])
                }
                None => "not ours".to_owned(),
            };
            out.push_str(&format!("{name}: {found}\n"));
        }
        expect.assert_eq(&out);
    }

    #[test]
    fn any_host_name_exists_and_so_does_what_is_above_it() {
        check(
            "www.x.com.nyud.net x.com.nyud.net com.nyud.net nyud.net xn--p1ai.xn--p1ai.nyud.net 3com.com.nyud.net
             www.x.com.8080.nyud.net com.8080.nyud.net 8080.nyud.net",
            expect![[r#"
                www.x.com.nyud.net: Host in a cut of nyud.net
                x.com.nyud.net: Host in a cut of nyud.net
                com.nyud.net: NonTerminal in a cut of nyud.net
                nyud.net: Apex in nyud.net
                xn--p1ai.xn--p1ai.nyud.net: Host in a cut of nyud.net
                3com.com.nyud.net: Host in a cut of nyud.net
                www.x.com.8080.nyud.net: Host in a cut of nyud.net
                com.8080.nyud.net: NonTerminal in a cut of nyud.net
                8080.nyud.net: NonTerminal in a cut of nyud.net
            "#]],
        );
    }

    #[test]
    fn a_label_that_no_host_has_is_missing() {
        check(
            "_dmarc.nyud.net _443._tcp.x.com.nyud.net -x.com.nyud.net x-.com.nyud.net *.nyud.net ü.com.nyud.net
             0.nyud.net 65536.nyud.net 080.nyud.net x.65536.nyud.net x.7.80.nyud.net",
            expect![[r#"
                _dmarc.nyud.net: Missing in nyud.net
                _443._tcp.x.com.nyud.net: Missing in a cut of nyud.net
                -x.com.nyud.net: Missing in a cut of nyud.net
                x-.com.nyud.net: Missing in a cut of nyud.net
                *.nyud.net: Missing in nyud.net
                ü.com.nyud.net: Missing in a cut of nyud.net
                0.nyud.net: Missing in nyud.net
                65536.nyud.net: Missing in nyud.net
                080.nyud.net: Missing in nyud.net
                x.65536.nyud.net: Missing in nyud.net
                x.7.80.nyud.net: Missing in a cut of nyud.net
            "#]],
        );
    }

    #[test]
    fn an_address_is_a_host_only_where_that_is_allowed() {
        check(
            "192.0.2.1.nyud.net !192.0.2.1.nyud.net !192.0.2.1.8080.nyud.net !0.2.1.nyud.net !2.1.8080.nyud.net
             !256.0.2.1.nyud.net !0.nyud.net !1.2.3.4.5.6.nyud.net !192.0.02.1.nyud.net",
            expect![[r#"
                192.0.2.1.nyud.net: Missing in a cut of nyud.net
                !192.0.2.1.nyud.net: Host in a cut of nyud.net
                !192.0.2.1.8080.nyud.net: Host in a cut of nyud.net
                !0.2.1.nyud.net: NonTerminal in a cut of nyud.net
                !2.1.8080.nyud.net: NonTerminal in a cut of nyud.net
                !256.0.2.1.nyud.net: Missing in a cut of nyud.net
                !0.nyud.net: NonTerminal in a cut of nyud.net
                !1.2.3.4.5.6.nyud.net: Missing in a cut of nyud.net
                !192.0.02.1.nyud.net: Missing in a cut of nyud.net
            "#]],
        );
    }

    #[test]
    fn nested_suffixes_count_once_and_the_longest_is_the_zone() {
        check(
            "www.x.com.nyud.net.nyud.net nyud.net.nyud.net x.com.nyud.net.b.nyud.net b.nyud.net _x.nyud.net.nyud.net
             x.com nyud.org net a.xnyud.net",
            expect![[r#"
                www.x.com.nyud.net.nyud.net: Host in a cut of nyud.net
                nyud.net.nyud.net: Host in a cut of nyud.net
                x.com.nyud.net.b.nyud.net: Host in a cut of b.nyud.net
                b.nyud.net: Apex in b.nyud.net
                _x.nyud.net.nyud.net: Missing in a cut of nyud.net
                x.com: not ours
                nyud.org: not ours
                net: not ours
                a.xnyud.net: not ours
            "#]],
        );
    }

    #[test]
    fn a_host_in_one_label_is_the_host_with_its_dots() {
        check(
            "www-x-com.s.nyud.net a--b-example-org.s.nyud.net com.s.nyud.net s.nyud.net x-.s.nyud.net a---b.s.nyud.net
             a.b-c.s.nyud.net",
            expect![[r#"
                www-x-com.s.nyud.net: Host in a cut of nyud.net
                a--b-example-org.s.nyud.net: Host in a cut of nyud.net
                com.s.nyud.net: Missing in a cut of nyud.net
                s.nyud.net: NonTerminal in a cut of nyud.net
                x-.s.nyud.net: Missing in a cut of nyud.net
                a---b.s.nyud.net: Missing in a cut of nyud.net
                a.b-c.s.nyud.net: Missing in a cut of nyud.net
            "#]],
        );
    }

    #[test]
    fn the_name_of_a_nameserver_is_its_address() {
        check(
            "ip4-192-0-2-1.ns.nyud.net ip6-2001-0db8-0000-0000-0000-0000-0000-0001.ns.nyud.net ns.nyud.net x.ns.nyud.net
             ip4-192-0-2.ns.nyud.net ip4-192-0-2-01.ns.nyud.net ip4-192-0-2-256.ns.nyud.net ip6-2001-db8--1.ns.nyud.net
             ip6-0000-0000-0000-0000-0000-ffff-c000-0201.ns.nyud.net a.ip4-192-0-2-1.ns.nyud.net",
            expect![[r#"
                ip4-192-0-2-1.ns.nyud.net: Nameserver(192.0.2.1) in nyud.net
                ip6-2001-0db8-0000-0000-0000-0000-0000-0001.ns.nyud.net: Nameserver(2001:db8::1) in nyud.net
                ns.nyud.net: NonTerminal in nyud.net
                x.ns.nyud.net: Missing in nyud.net
                ip4-192-0-2.ns.nyud.net: Missing in nyud.net
                ip4-192-0-2-01.ns.nyud.net: Missing in nyud.net
                ip4-192-0-2-256.ns.nyud.net: Missing in nyud.net
                ip6-2001-db8--1.ns.nyud.net: Missing in nyud.net
                ip6-0000-0000-0000-0000-0000-ffff-c000-0201.ns.nyud.net: Missing in nyud.net
                a.ip4-192-0-2-1.ns.nyud.net: Missing in nyud.net
            "#]],
        );
    }

    #[test]
    fn a_suffix_is_folded_and_a_wrong_one_says_what_is_wrong() {
        assert_eq!("NyuD.Net.".parse::<Suffix>().unwrap().as_str(), "nyud.net");
        let error = |text: &str| text.parse::<Suffix>().unwrap_err().to_string();
        expect![[r#""" is no label of a host name: 1 to 63 letters, digits and inner hyphens"#]]
            .assert_eq(&error(".nyud.net"));
        expect![["a suffix is a domain name such as nyud.net, not the empty name"]].assert_eq(&error("."));
        expect![[r#"the suffix "nüd.net" is not ASCII: write its xn-- form"#]].assert_eq(&error("nüd.net"));
        expect![[r#"the last label of a suffix is not a number: "1""#]].assert_eq(&error("127.0.0.1"));
        expect![["the suffix has 401 characters, 200 are the most"]].assert_eq(&error(&"a.".repeat(201)));
    }

    /// Pieces that names are made of, so that random ones are near the rules.
    fn name_like() -> impl Strategy<Value = String> {
        let label = prop_oneof!["[a-z0-9-]{0,5}", "[0-9]{1,5}", "ns|s|nyud|net|b", "ip4-1-2-3-[0-9]", ".{0,3}"];
        prop::collection::vec(label, 0..7).prop_map(|labels| labels.join("."))
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_place(bytes: Vec<u8>) {
            check_name(&bytes);
        }

        #[test]
        fn what_is_above_an_existing_name_exists(name in name_like()) {
            check_name(name.as_bytes());
        }

        #[test]
        fn the_address_of_a_nameserver_comes_back(ip: IpAddr) {
            let suffix: Suffix = "nyud.net".parse().unwrap();
            let name = nameserver_name(ip, &suffix);
            let labels: Vec<&[u8]> = name.split('.').map(str::as_bytes).collect();
            let found = place(&labels, std::slice::from_ref(&suffix), false).unwrap();
            prop_assert_eq!((found.place, found.is_cut), (Place::Nameserver(ip.to_canonical()), false));
            let name = format!("ns--{}.com.{suffix}", NameserverLabel::new(ip));
            let labels: Vec<&[u8]> = name.split('.').map(str::as_bytes).collect();
            let found = place(&labels, &[suffix], false).unwrap();
            prop_assert_eq!((found.place, found.is_cut), (Place::Nameserver(ip.to_canonical()), true));
        }
    }
}
