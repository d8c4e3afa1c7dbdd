//! Records that the operator adds to the zones: MX, TXT, CAA and whatever else, as a zone file has them.
//!
//! They are read once, by hickory, and kept as bytes. Values in, values out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hickory_server::proto::rr::{Name, RData, RecordType};
use hickory_server::proto::serialize::binary::{BinEncodable, BinEncoder, NameEncoding};
use serde::{Deserialize, Serialize};

use crate::error::DnsError;
use crate::wire::types;
use crate::zone::seconds;

/// A record as the configuration has it: `{ name = "@", type = "MX", data = "10 mail.example.org." }`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordConfig {
    /// Whose it is, below each suffix: `@` for the suffix itself, `_dmarc` for `_dmarc.nyud.net`.
    pub name: String,
    /// Its type, such as `MX`, `TXT` or `CAA`. Not `SOA`, `NS` or `CNAME`: those are the zone's own business.
    #[serde(rename = "type")]
    pub kind: String,
    /// How long it may be kept. Default 1h.
    #[serde(with = "humantime_serde", default = "hour")]
    pub ttl: Duration,
    /// Its data as in a zone file, names with their trailing dot.
    pub data: String,
}

fn hour() -> Duration {
    Duration::from_secs(3_600)
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// Its type, as a number.
    pub kind: u16,
    /// How long it may be kept, in seconds.
    pub ttl: u32,
    /// Its data as it is signed (RFC 4034 §6.2): no name is compressed, and those that count are in lower case.
    pub data: Box<[u8]>,
}

/// The records that were added to all zones, alike.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    all: Vec<Added>,
    /// Which each name has. A name is its labels in lower case, from the right, each with a dot behind it: so whatever is
    /// beneath a name begins with it.
    by_name: BTreeMap<Vec<u8>, Vec<usize>>,
    /// The labels right below the suffix that these names end in.
    tops: BTreeSet<Vec<u8>>,
}

impl Records {
    /// Reads what the configuration has.
    pub fn new(configured: &[RecordConfig]) -> Result<Self, DnsError> {
        let mut records = Self::default();
        for record in configured {
            let wrong = |why: String| DnsError::Record { name: record.name.clone(), kind: record.kind.clone(), why };
            let kind: RecordType =
                record.kind.to_ascii_uppercase().parse().map_err(|_| wrong("no such type".into()))?;
            let number = u16::from(kind);
            // RFC 1034 §3.6.2: beside an alias there is nothing, and much is at each name here.
            let is_ours = matches!(kind, RecordType::SOA | RecordType::NS | RecordType::CNAME | RecordType::DNAME);
            if is_ours || number == types::OPT || (128..=255).contains(&number) {
                return Err(wrong("the zone has those itself".into()));
            }
            let data = RData::try_from_str(kind, &record.data).map_err(|e| wrong(e.to_string()))?;
            let mut bytes = Vec::new();
            let mut encoder = BinEncoder::new(&mut bytes);
            encoder.set_name_encoding(NameEncoding::Uncompressed);
            encoder.set_canonical_form(true);
            data.emit(&mut encoder).map_err(|e| wrong(e.to_string()))?;
            records.add(&record.name, Added { kind: number, ttl: seconds(record.ttl), data: bytes.into() }, wrong)?;
        }
        Ok(records)
    }

    /// Refuses what a zone that is signed has by itself, or what would say that there is a zone of somebody else.
    pub fn check_signed(configured: &[RecordConfig]) -> Result<(), DnsError> {
        const OURS: [&str; 7] = ["DNSKEY", "RRSIG", "NSEC", "NSEC3", "NSEC3PARAM", "DS", "KEY"];
        match configured.iter().find(|record| OURS.iter().any(|kind| record.kind.eq_ignore_ascii_case(kind))) {
            Some(RecordConfig { name, kind, .. }) => {
                let why = "with `dns.dnssec_keys` the zone has those itself".into();
                Err(DnsError::Record { name: name.clone(), kind: kind.clone(), why })
            }
            None => Ok(()),
        }
    }

    fn add(&mut self, name: &str, record: Added, wrong: impl Fn(String) -> DnsError) -> Result<(), DnsError> {
        let name = if name == "@" { "." } else { name };
        let parsed = Name::from_ascii(name).map_err(|e| wrong(e.to_string()))?;
        let labels: Vec<Vec<u8>> = parsed.iter().map(<[u8]>::to_ascii_lowercase).collect();
        let labels: Vec<&[u8]> = labels.iter().map(Vec::as_slice).collect();
        if let Some(top) = labels.last() {
            if matches!(*top, b"ns" | b"s") {
                return Err(wrong(format!("names below `{}` are the network's own", String::from_utf8_lossy(top))));
            }
            self.tops.insert(top.to_vec());
        }
        let number = self.all.len();
        self.all.push(record);
        self.by_name.entry(path(&labels)).or_default().push(number);
        Ok(())
    }

    /// The numbers of the records of the name with these labels in front of a suffix.
    pub fn at(&self, labels: &[&[u8]]) -> &[usize] {
        if self.by_name.is_empty() {
            return &[];
        }
        self.by_name.get(&path(labels)).map_or(&[], Vec::as_slice)
    }

    /// Whether some name with records is beneath that with these labels, so that it exists (RFC 8020).
    pub fn are_below(&self, labels: &[&[u8]]) -> bool {
        if self.by_name.is_empty() {
            return false;
        }
        let path = path(labels);
        self.by_name
            .range(path.clone()..)
            .find(|(name, _)| **name != path)
            .is_some_and(|(name, _)| name.starts_with(&path))
    }

    /// Whether some name with records ends in this label right below the suffix, or is it.
    pub fn have_below(&self, top: &[u8]) -> bool {
        !self.tops.is_empty() && self.tops.contains(top)
    }

    /// The record with this number, which is one that [`Records::at`] has told.
    pub fn get(&self, number: usize) -> &Added {
        &self.all[number]
    }
}

fn path(labels: &[&[u8]]) -> Vec<u8> {
    let mut path = Vec::new();
    for label in labels.iter().rev() {
        path.extend_from_slice(label);
        path.push(b'.');
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, kind: &str, data: &str) -> RecordConfig {
        RecordConfig { name: name.into(), kind: kind.into(), ttl: hour(), data: data.into() }
    }

    #[test]
    fn records_are_found_by_their_name_and_names_above_exist() {
        let records = Records::new(&[
            record("@", "MX", "10 mail.example.org."),
            record("@", "txt", "\"v=spf1 -all\""),
            record("selector._domainkey", "TXT", "\"k=rsa\""),
        ])
        .unwrap();
        let kinds =
            |labels: &[&[u8]]| -> Vec<u16> { records.at(labels).iter().map(|n| records.get(*n).kind).collect() };
        assert_eq!(kinds(&[]), [15, 16]);
        assert_eq!(kinds(&[b"selector", b"_domainkey"]), [16]);
        assert!(kinds(&[b"_domainkey"]).is_empty());
        assert!(records.are_below(&[b"_domainkey"]));
        assert!(!records.are_below(&[b"selector", b"_domainkey"]));
        assert!(!records.are_below(&[b"_domain"]));
        assert!(records.have_below(b"_domainkey"));
        assert_eq!(&*records.get(0).data, b"\0\x0a\x04mail\x07example\x03org\0");
    }

    #[test]
    fn names_in_data_are_as_they_are_signed() {
        let records =
            Records::new(&[record("@", "MX", "10 Mail.Example.ORG."), record("@", "TXT", "\"A.B\"")]).unwrap();
        assert_eq!(&*records.get(0).data, b"\0\x0a\x04mail\x07example\x03org\0");
        assert_eq!(&*records.get(1).data, b"\x03A.B");
    }

    #[test]
    fn a_signed_zone_has_its_keys_itself() {
        let error = Records::check_signed(&[record("@", "MX", "10 a."), record("com", "ds", "1 2 3 4")]).unwrap_err();
        assert!(error.to_string().contains("com ds"), "{error}");
        Records::check_signed(&[record("@", "MX", "10 a.")]).unwrap();
    }

    #[test]
    fn a_wrong_record_is_named_with_what_is_wrong() {
        for (name, kind, data) in [
            ("@", "NS", "a."),
            ("@", "MX", "mail"),
            ("@", "X", ""),
            ("a..b", "A", "192.0.2.1"),
            ("x.s", "A", "192.0.2.1"),
            ("@", "ANY", ""),
        ] {
            let error = Records::new(&[record(name, kind, data)]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(kind), "{error}");
        }
    }
}
