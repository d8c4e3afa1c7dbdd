//! An answer with DNSSEC: its records as RRsets, each with its signature, denials made compact (RFC 9824), and what vouches for
//! a zone's key. Of a zone that is signed this is the answer for whoever sets DO; without, only its keys are to be had.
//!
//! Everything in a message is of one zone, that of the name, and is signed by it; but what vouches for a zone's key is of the
//! zone above. A referral has nothing else that is signed (RFC 4035 §3.1.4, RFC 4034 §5): the zone below says the rest.

use std::net::IpAddr;
use std::time::SystemTime;

use super::{Additions, Handler, head};
use crate::answer::{Answer, Data, Owner, Rcode, Record};
use crate::dnssec::{Set, Signer, nsec};
use crate::handler::wire_rcode;
use crate::name::{CUT_NAMESERVER, Found, NameserverLabel, Place, place};
use crate::wire::query::Query;
use crate::wire::writer::{Pointer, Section, Writer};
use crate::wire::{HEADER_BYTES, types};
use crate::zone::MAILBOX;

/// An answer as it goes out.
#[derive(Debug)]
pub(super) struct Signed {
    pub(super) rcode: Rcode,
    sets: Vec<Part>,
}

/// One RRset of it.
#[derive(Debug)]
struct Part {
    section: Section,
    set: Set,
    /// The data of its RRSIG, if it has one.
    signature: Option<Vec<u8>>,
}

impl Handler {
    /// What becomes of `answer` by signing. `None`: it goes out as it is.
    pub(super) fn signed(&self, query: &Query<'_>, answer: &Answer) -> Option<Signed> {
        let signer = self.signer.as_ref()?;
        let edns = query.edns.unwrap_or_default();
        let may_differ = edns.dnssec_ok || matches!(query.kind, types::DS | types::DNSKEY);
        let found = answer.found.filter(|_| may_differ && answer.zone.is_some())?;
        let names = Names::new(query, found);
        let mut signing = Signing { signer, now: SystemTime::now(), is_wanted: edns.dnssec_ok, parts: Vec::new() };
        let mut rcode = answer.rcode;
        if answer.is_referral() {
            self.plain_parts(&mut signing, query, answer, &names, None);
            signing.add(Section::Authority, signer.ds(names.cut), Some(names.apex))?;
        } else if !answer.answers.is_empty() {
            self.plain_parts(&mut signing, query, answer, &names, Some(names.zone));
        } else if let Some((set, zone)) = self.voucher(signer, query, found, &names) {
            rcode = Rcode::NoError;
            signing.add(Section::Answer, set, Some(zone))?;
        } else if !edns.dnssec_ok {
            return None;
        } else {
            let ttl = self.soas[found.zone].negative_ttl();
            let types = self.types_at(query, answer, found);
            let denial = Set::of(query.name.as_wire(), types::NSEC, ttl, nsec::data(query.name.as_wire(), &types));
            match query.kind {
                types::NSEC => signing.add(Section::Answer, denial, Some(names.zone))?,
                // There are as many as there are types; one is enough, as for ANY (RFC 8482 §4.1).
                types::RRSIG => {
                    let data = signer.sign(signing.now, names.zone, &denial).ok()?;
                    signing.add(Section::Answer, Set { kind: types::RRSIG, data: vec![data], ..denial }, None)?;
                }
                _ => {
                    self.plain_parts(&mut signing, query, answer, &names, Some(names.zone));
                    signing.add(Section::Authority, denial, Some(names.zone))?;
                }
            }
            if rcode == Rcode::NxDomain && !edns.compact_ok {
                rcode = Rcode::NoError;
            }
        }
        Some(Signed { rcode, sets: signing.parts })
    }

    /// The DNSKEY records of a zone, or the DS records of one, if these are asked for; and the zone that they are in.
    fn voucher<'q>(
        &self,
        signer: &Signer,
        query: &'q Query<'_>,
        found: Found,
        names: &Names<'q>,
    ) -> Option<(Set, &'q [u8])> {
        let name = query.name.as_wire();
        let is_zone = found.depth == 0 || found.is_cut && found.depth == 1;
        match query.kind {
            types::DNSKEY if is_zone => Some((signer.dnskeys(name), names.zone)),
            types::DS if is_zone && found.depth == 1 => Some((signer.ds(name), names.apex)),
            // A suffix within another one, or within a cut of it.
            types::DS if is_zone => {
                let labels = query.name.labels();
                let above = place(labels.get(1..)?, &self.suffixes, self.config.ip_literals)?;
                // As in `answer`: the operator's own names stay in the operator's zone.
                let is_cut = above.is_cut && !self.records.have_below(labels[above.depth]);
                let depth = if is_cut { above.depth - 1 } else { above.depth };
                Some((signer.ds(name), &name[query.name.start(1 + depth)..]))
            }
            _ => None,
        }
    }

    /// The types that the name can have, but the one that is asked for: all nodes may not give the same, and what a resolver
    /// makes of this (RFC 8198) must not deny what others give.
    fn types_at(&self, query: &Query<'_>, answer: &Answer, found: Found) -> Vec<u16> {
        let labels = query.name.labels();
        let front = &labels[..found.depth];
        let mut types = vec![types::RRSIG, types::NSEC];
        match found.place {
            Place::Apex => types.extend([types::SOA, types::NS, types::DNSKEY, types::A, types::AAAA]),
            Place::NonTerminal if found.is_cut && found.depth == 1 => {
                types.extend([types::SOA, types::NS, types::DNSKEY]);
            }
            Place::Host => {
                types.extend([types::A, types::AAAA]);
                if found.depth == 2 && front[1] == b"s" && !self.config.https.is_empty() {
                    types.push(types::HTTPS);
                }
            }
            Place::Nameserver(IpAddr::V4(_)) => types.push(types::A),
            Place::Nameserver(IpAddr::V6(_)) => types.push(types::AAAA),
            Place::NonTerminal | Place::Missing => {}
        }
        types.extend(self.records.at(front).iter().map(|number| self.records.get(*number).kind));
        if answer.rcode == Rcode::NxDomain {
            types.push(types::NXNAME);
        }
        types.retain(|kind| *kind != query.kind || matches!(*kind, types::RRSIG | types::NSEC));
        types
    }

    /// Adds the records of the answer, signed by `zone` if that is given.
    fn plain_parts(
        &self,
        signing: &mut Signing<'_>,
        query: &Query<'_>,
        answer: &Answer,
        names: &Names<'_>,
        zone: Option<&[u8]>,
    ) {
        let sections = [
            (Section::Answer, &answer.answers),
            (Section::Authority, &answer.authority),
            (Section::Additional, &answer.additional),
        ];
        for (section, records) in sections {
            let mut sets: Vec<Set> = Vec::new();
            for record in records {
                let owner = names.owner(query, record.owner);
                let (kind, data) = self.data(record, answer, names);
                match sets.iter_mut().find(|set| set.kind == kind && set.owner == owner) {
                    Some(set) => {
                        // RFC 2181 §5.2: one TTL for all; and what is there twice is there once.
                        set.ttl = set.ttl.min(record.ttl);
                        if !set.data.contains(&data) {
                            set.data.push(data);
                        }
                    }
                    None => sets.push(Set { owner, kind, ttl: record.ttl, data: vec![data] }),
                }
            }
            for set in sets {
                // Without its signature the set is of no use to who wants one, but that one must not be without an answer.
                let _ = signing.add(section, set, zone);
            }
        }
    }

    /// The type and data of a record, as they are signed.
    fn data(&self, record: &Record, answer: &Answer, names: &Names<'_>) -> (u16, Vec<u8>) {
        match record.data {
            Data::Address(IpAddr::V4(ip)) => (types::A, ip.octets().to_vec()),
            Data::Address(IpAddr::V6(ip)) => (types::AAAA, ip.octets().to_vec()),
            Data::Nameserver(ip) => (types::NS, names.nameserver(ip)),
            Data::CutNameserver(ip) => (types::NS, names.cut_nameserver(ip)),
            Data::Soa => {
                let soa = &self.soas[answer.zone.unwrap_or_default()];
                let mut data = names.nameserver(soa.mname);
                data.push(MAILBOX.len() as u8);
                data.extend_from_slice(MAILBOX.as_bytes());
                data.extend_from_slice(names.apex);
                for number in [soa.serial, soa.refresh, soa.retry, soa.expire, soa.minimum] {
                    data.extend_from_slice(&number.to_be_bytes());
                }
                (types::SOA, data)
            }
            Data::Https => {
                let mut bytes = Vec::new();
                let mut writer = Writer::new(&mut bytes, &[0; 4], &[]);
                self.service(&mut writer, &answer.hints);
                (types::HTTPS, bytes.split_off(HEADER_BYTES))
            }
            Data::Added(number) => {
                let added = self.records.get(number);
                (added.kind, added.data.to_vec())
            }
        }
    }

    /// Writes the message: whole if it fits into `limit`, else without additional records, else empty with TC.
    pub(super) fn write_signed(
        &self,
        additions: &Additions<'_>,
        answer: &Answer,
        signed: &Signed,
        limit: usize,
        out: &mut Vec<u8>,
    ) {
        let query = additions.query;
        let mut writer = Writer::new(out, &head(query), query.question);
        // The addresses in a referral are what it consists of.
        let may_shrink = !answer.is_referral();
        for (has_records, has_additional) in [(true, true), (may_shrink, false), (false, false)] {
            writer.rewind(query.question.len());
            writer.set_rcode(wire_rcode(signed.rcode) as u8);
            if answer.is_authoritative {
                writer.set_authoritative();
            }
            if has_records {
                let last = if has_additional { 3 } else { 2 };
                for section in &[Section::Answer, Section::Authority, Section::Additional][..last] {
                    let parts = signed.sets.iter().filter(|part| part.section == *section);
                    parts.for_each(|part| write_part(&mut writer, query, part));
                }
            } else {
                self.metrics.truncated.inc();
                writer.set_truncated();
            }
            self.opt(&mut writer, additions);
            if writer.length() <= limit || !has_records {
                return;
            }
        }
    }
}

/// RRsets on their way to be signed.
struct Signing<'a> {
    signer: &'a Signer,
    now: SystemTime,
    /// Whether signatures are wanted.
    is_wanted: bool,
    parts: Vec<Part>,
}

impl Signing<'_> {
    /// Adds `set`, signed by `zone`, or not at all if that is not given. `None` if it could not be signed.
    fn add(&mut self, section: Section, set: Set, zone: Option<&[u8]>) -> Option<()> {
        let signature = zone.filter(|_| self.is_wanted).map(|zone| self.signer.sign(self.now, zone, &set));
        let signature = signature.transpose();
        let done = signature.is_ok();
        self.parts.push(Part { section, set, signature: signature.ok().flatten() });
        done.then_some(())
    }
}

/// The names that others end in, in lower case, as parts of the question's.
struct Names<'q> {
    apex: &'q [u8],
    cut: &'q [u8],
    /// The one of these that is the zone of the name.
    zone: &'q [u8],
}

impl<'q> Names<'q> {
    fn new(query: &'q Query<'_>, found: Found) -> Self {
        let at = |label| &query.name.as_wire()[query.name.start(label)..];
        let (apex, cut) = (at(found.depth), at(found.depth.saturating_sub(1)));
        Self { apex, cut, zone: if found.is_cut { cut } else { apex } }
    }

    fn owner(&self, query: &Query<'_>, owner: Owner) -> Vec<u8> {
        match owner {
            Owner::Question => query.name.as_wire().to_vec(),
            Owner::Apex => self.apex.to_vec(),
            Owner::Cut => self.cut.to_vec(),
            Owner::Nameserver(ip) => self.nameserver(ip),
            Owner::CutNameserver(ip) => self.cut_nameserver(ip),
        }
    }

    fn nameserver(&self, ip: IpAddr) -> Vec<u8> {
        let label = NameserverLabel::new(ip);
        [&[label.as_bytes().len() as u8], label.as_bytes(), b"\x02ns", self.apex].concat()
    }

    fn cut_nameserver(&self, ip: IpAddr) -> Vec<u8> {
        let label = NameserverLabel::new(ip);
        let length = CUT_NAMESERVER.len() + label.as_bytes().len();
        [&[length as u8], CUT_NAMESERVER, label.as_bytes(), self.cut].concat()
    }
}

fn write_part(writer: &mut Writer<'_>, query: &Query<'_>, part: &Part) {
    let Part { section, set, signature } = part;
    for data in &set.data {
        writer.count(*section);
        write_name(writer, query, &set.owner);
        writer.fixed(set.kind, set.ttl);
        writer.data(|w| match set.kind {
            types::NS => write_name(w, query, data),
            _ => w.bytes(data),
        });
    }
    if let Some(data) = signature {
        writer.count(*section);
        write_name(writer, query, &set.owner);
        writer.fixed(types::RRSIG, set.ttl);
        writer.data(|w| w.bytes(data));
    }
}

/// A name, what it has in common with the question's as a pointer there.
fn write_name(writer: &mut Writer<'_>, query: &Query<'_>, name: &[u8]) {
    let asked = query.name.as_wire();
    let mut rest = name;
    while let Some(length @ 1..) = rest.first().copied() {
        // Where as much of it is left, if a label begins there.
        let known = asked.len().checked_sub(rest.len()).filter(|at| asked[*at..] == *rest && is_label(asked, *at));
        if let Some(at) = known {
            return writer.pointer(Pointer::into_question(at));
        }
        let (label, behind) = rest.split_at(1 + usize::from(length));
        writer.bytes(label);
        rest = behind;
    }
    writer.bytes(&[0]);
}

/// Whether a label of `name` begins there.
fn is_label(name: &[u8], there: usize) -> bool {
    let mut at = 0;
    while at < there {
        at += 1 + usize::from(name[at]);
    }
    at == there
}

#[cfg(test)]
mod tests;
