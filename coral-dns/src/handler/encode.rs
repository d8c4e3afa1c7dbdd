//! An answer as the bytes of a message: whole if it fits, else without the additional section, else an empty one that
//! sends the resolver to TCP (RFC 2181 §9). Addresses in a referral are no addition, but what it consists of.

mod signed;

use std::net::IpAddr;

use super::{Handler, Transport, unix_time, wire_rcode};
use crate::answer::{Answer, Data, Owner, Rcode, Record};
use crate::appraisal;
use crate::cookie::{self, CLIENT_BYTES};
use crate::name::{CUT_NAMESERVER, NameserverLabel};
use crate::wire::query::{Query, question};
use crate::wire::writer::{Pointer, Section, Writer};
use crate::wire::{HEADER_BYTES, classes, flags, options, types};

/// What an answer over UDP may have when the query names no size (RFC 1035 §4.2.1), and the least size there is with one.
const PLAIN_UDP_BYTES: u16 = 512;

/// The longest name of a server that is told, so that it always fits.
const MAX_TEXT: usize = 128;

/// A message without records for a query that is past reading. The question comes back if there is one to be seen.
pub(super) fn error(query: &[u8], rcode: Rcode, out: &mut Vec<u8>) {
    let Some((header, body)) = query.split_at_checked(HEADER_BYTES) else {
        return;
    };
    let question = question(body).filter(|_| header[4..6] == [0, 1]).unwrap_or_default();
    let mut writer = Writer::new(out, &[header[0], header[1], header[2], header[3]], question);
    writer.set_rcode(wire_rcode(rcode) as u8);
}

/// An empty answer that sends the asker to TCP, for a query that can be read.
pub(super) fn truncated(query: &[u8], question: &[u8], out: &mut Vec<u8>) {
    Writer::new(out, &[query[0], query[1], query[2], query[3]], question).set_truncated();
}

/// What of the message besides its records depends on the query.
struct Additions<'a> {
    query: &'a Query<'a>,
    rcode: Rcode,
    /// The scope for which the answer holds, if a client's network was told.
    scope: u8,
    reply: Option<&'a appraisal::Reply>,
    cookie: Option<cookie::Verdict>,
    from: IpAddr,
}

impl Handler {
    #[expect(clippy::too_many_arguments, reason = "each is another fact of the query, and nobody else calls this")]
    pub(super) fn encode(
        &self,
        query: &Query<'_>,
        answer: &Answer,
        reply: Option<&appraisal::Reply>,
        cookie: Option<cookie::Verdict>,
        from: IpAddr,
        transport: Transport,
        out: &mut Vec<u8>,
    ) {
        let limit = match (transport, query.edns) {
            (Transport::Tcp, _) => u16::MAX,
            (Transport::Udp, None) => PLAIN_UDP_BYTES,
            (Transport::Udp, Some(edns)) => edns.payload.min(self.config.udp_payload).max(PLAIN_UDP_BYTES),
        };
        let limit = usize::from(limit);
        let scope = match query.edns.and_then(|edns| edns.subnet) {
            // RFC 7871 §7.2.1: the scope for which the answer holds; zero is everywhere.
            Some((_, Ok(subnet))) if answer.by_client && self.prober.is_some() => {
                let client = crate::proximity::Client::new(from, Some(subnet));
                if client.by_subnet { client.prefix.prefix() } else { 0 }
            }
            _ => 0,
        };
        let mut additions = Additions { query, rcode: answer.rcode, scope, reply, cookie, from };
        if let Some(signed) = self.signed(query, answer) {
            additions.rcode = signed.rcode;
            return self.write_signed(&additions, answer, &signed, limit, out);
        }
        let mut writer = Writer::new(out, &head(query), query.question);
        writer.set_rcode(wire_rcode(answer.rcode) as u8);
        if answer.is_authoritative {
            writer.set_authoritative();
        }
        self.sections(&mut writer, query, answer, true);
        self.opt(&mut writer, &additions);
        if writer.length() <= limit {
            return;
        }
        for is_whole in [!answer.is_referral(), false] {
            writer.rewind(query.question.len());
            writer.set_rcode(wire_rcode(answer.rcode) as u8);
            if answer.is_authoritative {
                writer.set_authoritative();
            }
            if is_whole {
                self.sections(&mut writer, query, answer, false);
            } else {
                self.metrics.truncated.inc();
                writer.set_truncated();
            }
            self.opt(&mut writer, &additions);
            if writer.length() <= limit {
                return;
            }
        }
    }

    /// The answer to a question of class CHAOS: this text, or none.
    pub(super) fn encode_chaos(
        &self,
        query: &Query<'_>,
        text: Option<&str>,
        rcode: Rcode,
        cookie: Option<cookie::Verdict>,
        from: IpAddr,
        out: &mut Vec<u8>,
    ) {
        let mut writer = Writer::new(out, &head(query), query.question);
        writer.set_rcode(wire_rcode(rcode) as u8);
        if let Some(text) = text.map(short) {
            writer.set_authoritative();
            writer.count(Section::Answer);
            writer.pointer(Pointer::QUESTION);
            writer.u16(types::TXT);
            writer.u16(classes::CH);
            writer.u32(0);
            writer.data(|w| {
                w.bytes(&[text.len() as u8]);
                w.bytes(text);
            });
        }
        self.opt(&mut writer, &Additions { query, rcode, scope: 0, reply: None, cookie, from });
    }

    /// The OPT record, if the query has one: ours as to version and size, and the options that it asks for.
    fn opt(&self, writer: &mut Writer<'_>, additions: &Additions<'_>) {
        let Some(asked) = additions.query.edns else {
            return;
        };
        let payload = self.config.udp_payload.max(PLAIN_UDP_BYTES);
        let high = (wire_rcode(additions.rcode) >> 4) as u8;
        // RFC 3225 §3: DO is copied, whether there is something signed to send or not. CO says that we know of it (RFC 9824 §5.1).
        let dnssec_ok = if asked.dnssec_ok { flags::DNSSEC_OK } else { 0 };
        let compact_ok = asked.dnssec_ok && asked.compact_ok && self.signer.is_some();
        writer.opt(payload, high, dnssec_ok | if compact_ok { flags::COMPACT_OK } else { 0 }, |w| {
            if let Some((bytes, Ok(_))) = asked.subnet {
                // As asked, but for the scope.
                w.option(options::SUBNET, |w| {
                    w.bytes(&bytes[..3]);
                    w.bytes(&[additions.scope]);
                    w.bytes(&bytes[4..]);
                });
            }
            if let (true, Some(nsid)) = (asked.nsid, self.config.nsid.as_deref()) {
                w.option(options::NSID, |w| w.bytes(short(nsid)));
            }
            if let (Some(cookie), Some(verdict)) = (asked.cookie, additions.cookie) {
                self.cookie(w, cookie, verdict, additions.from);
            }
            if let Some(reply) = additions.reply {
                w.option(options::APPRAISAL, |w| reply.encode(w));
            }
        });
    }

    /// The client's part, and ours: the same while it is young, else a new one (RFC 9018 §4.3).
    fn cookie(&self, writer: &mut Writer<'_>, cookie: &[u8], verdict: cookie::Verdict, from: IpAddr) {
        let Some(own) = cookie.first_chunk::<CLIENT_BYTES>().filter(|_| verdict != cookie::Verdict::Malformed) else {
            return;
        };
        writer.option(options::COOKIE, |w| {
            if verdict == (cookie::Verdict::Proven { renew: false }) {
                w.bytes(cookie);
            } else {
                w.bytes(own);
                w.bytes(&self.secret.server(own, from, unix_time()));
            }
        });
    }

    fn sections(&self, writer: &mut Writer<'_>, query: &Query<'_>, answer: &Answer, is_whole: bool) {
        let names = Names::new(query, answer.depth);
        // The names of nameservers that were written already: their addresses follow in the same order.
        let mut written = [None; crate::answer::MAX_ADDRESSES];
        let mut count = 0;
        let sections = [(Section::Answer, &answer.answers), (Section::Authority, &answer.authority)];
        for (section, records) in sections {
            for record in records {
                let at = self.record(writer, section, &names, record, answer, None);
                if matches!(record.data, Data::Nameserver(_) | Data::CutNameserver(_)) && count < written.len() {
                    written[count] = at;
                    count += 1;
                }
            }
        }
        if is_whole {
            for (number, record) in answer.additional.iter().enumerate() {
                let owner = written.get(number).copied().flatten();
                self.record(writer, Section::Additional, &names, record, answer, owner);
            }
        }
    }

    /// Writes one record, its owner as a pointer to `owner` if that is given. Returns where its data is, for a nameserver.
    fn record(
        &self,
        writer: &mut Writer<'_>,
        section: Section,
        names: &Names,
        record: &Record,
        answer: &Answer,
        owner: Option<Pointer>,
    ) -> Option<Pointer> {
        writer.count(section);
        match (owner, record.owner) {
            (Some(written), _) => writer.pointer(written),
            (None, Owner::Question) => writer.pointer(Pointer::QUESTION),
            (None, Owner::Apex) => writer.pointer(names.apex),
            (None, Owner::Cut) => writer.pointer(names.cut),
            (None, Owner::Nameserver(ip)) => nameserver(writer, names, ip),
            (None, Owner::CutNameserver(ip)) => cut_nameserver(writer, names, ip),
        }
        let mut at = None;
        match record.data {
            Data::Address(ip) => writer.address(ip, record.ttl),
            Data::Nameserver(ip) => {
                writer.fixed(types::NS, record.ttl);
                writer.data(|w| {
                    at = w.here();
                    nameserver(w, names, ip);
                });
            }
            Data::CutNameserver(ip) => {
                writer.fixed(types::NS, record.ttl);
                writer.data(|w| {
                    at = w.here();
                    cut_nameserver(w, names, ip);
                });
            }
            Data::Soa => {
                let soa = &self.soas[answer.zone.unwrap_or_default()];
                writer.fixed(types::SOA, record.ttl);
                writer.data(|w| {
                    nameserver(w, names, soa.mname);
                    w.label(crate::zone::MAILBOX.as_bytes());
                    w.pointer(names.apex);
                    for number in [soa.serial, soa.refresh, soa.retry, soa.expire, soa.minimum] {
                        w.u32(number);
                    }
                });
            }
            Data::Https => {
                writer.fixed(types::HTTPS, record.ttl);
                writer.data(|w| self.service(w, &answer.hints));
            }
            Data::Added(number) => {
                let added = self.records.get(number);
                writer.fixed(added.kind, record.ttl);
                writer.data(|w| w.bytes(&added.data));
            }
        }
        at
    }

    /// The data of an HTTPS record (RFC 9460 §2.2): this name itself, what it speaks, and where it is.
    fn service(&self, writer: &mut Writer<'_>, hints: &[IpAddr]) {
        writer.u16(1);
        writer.bytes(&[0]);
        // Keys in ascending order: alpn, ipv4hint, ipv6hint.
        writer.u16(1);
        writer.data(|w| {
            for protocol in &self.config.https {
                let protocol = short(protocol);
                w.bytes(&[protocol.len() as u8]);
                w.bytes(protocol);
            }
        });
        for (key, is_v4) in [(4, true), (6, false)] {
            let mut family = hints.iter().filter(|ip| ip.is_ipv4() == is_v4).peekable();
            if family.peek().is_some() {
                writer.u16(key);
                writer.data(|w| {
                    for ip in family {
                        match ip {
                            IpAddr::V4(ip) => w.bytes(&ip.octets()),
                            IpAddr::V6(ip) => w.bytes(&ip.octets()),
                        }
                    }
                });
            }
        }
    }
}

/// Where the names are, within the question, that others end in.
struct Names {
    apex: Pointer,
    cut: Pointer,
}

impl Names {
    /// Of a question with so many labels in front of the zone.
    fn new(query: &Query<'_>, depth: usize) -> Self {
        let at = |label| Pointer::into_question(query.name.start(label));
        Self { apex: at(depth), cut: at(depth.saturating_sub(1)) }
    }
}

fn nameserver(writer: &mut Writer<'_>, names: &Names, ip: IpAddr) {
    writer.label(NameserverLabel::new(ip).as_bytes());
    writer.label(b"ns");
    writer.pointer(names.apex);
}

fn cut_nameserver(writer: &mut Writer<'_>, names: &Names, ip: IpAddr) {
    let (label, mut whole) = (NameserverLabel::new(ip), [0; 63]);
    let (front, length) = (CUT_NAMESERVER.len(), CUT_NAMESERVER.len() + label.as_bytes().len());
    whole[..front].copy_from_slice(CUT_NAMESERVER);
    whole[front..length].copy_from_slice(label.as_bytes());
    writer.label(&whole[..length]);
    writer.pointer(names.cut);
}

fn head(query: &Query<'_>) -> [u8; 4] {
    query.bytes.first_chunk().copied().unwrap_or_default()
}

fn short(text: &str) -> &[u8] {
    let bytes = text.as_bytes();
    &bytes[..bytes.len().min(MAX_TEXT)]
}
