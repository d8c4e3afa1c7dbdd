//! The answer: a question, who is alive, the client's level and a random source in; records out [C04 §3.1].
//!
//! Knows no bytes, no socket and no clock. Names other than the question's follow from addresses ([`crate::name`]); turning
//! records into a message is `handler.rs`'s.

use std::net::IpAddr;

use coral_dsht::Level;
use rand_core::Rng;

use crate::candidates::Table;
use crate::config::Config;
use crate::name::{Place, Suffix, place};
use crate::zone::{Soa, seconds};

/// What is asked about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Nameservers.
    Ns,
    /// The start of authority.
    Soa,
    /// Whatever there is; answered with one kind of it (RFC 8482 §4.1).
    Any,
    /// The whole zone, AXFR or IXFR: there is no such thing to hand out.
    Transfer,
    /// Types that are no data but steer a message, such as OPT or TSIG: nobody can ask for them.
    Meta,
    /// A type that our zones have no records of.
    Other,
}

/// How a question ended (RFC 1035 §4.1.1, RFC 6895 §2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rcode {
    /// Answered, perhaps with no data.
    NoError,
    /// The query breaks the rules.
    FormErr,
    /// We cannot answer now; another node may.
    ServFail,
    /// The name does not exist, nor does any beneath it (RFC 8020).
    NxDomain,
    /// This kind of query is not for this server.
    NotImp,
    /// Not a zone of ours, or not to be had.
    Refused,
    /// An EDNS version that does not exist yet (RFC 6891 §6.1.3).
    BadVers,
}

/// Whose record it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The name in the question.
    Question,
    /// The zone's apex.
    Apex,
    /// The nameserver at this address.
    Nameserver(IpAddr),
}

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// A or AAAA.
    Address(IpAddr),
    /// NS, with the name of the nameserver at this address.
    Nameserver(IpAddr),
    /// The zone's SOA.
    Soa,
}

/// A resource record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub owner: Owner,
    /// How long it may be kept, in seconds.
    pub ttl: u32,
    /// What it says.
    pub data: Data,
}

/// The answer to one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// How it ended.
    pub rcode: Rcode,
    /// The zone it is from, as an index into the suffixes; `None` outside all of them. Within one, AA is set.
    pub zone: Option<usize>,
    /// The answer section.
    pub answers: Vec<Record>,
    /// The authority section: the SOA, where there is nothing.
    pub authority: Vec<Record>,
    /// The additional section: addresses of the nameservers named.
    pub additional: Vec<Record>,
    /// The level from which the proxies were taken, if some were.
    pub level: Option<Level>,
    /// Whether a client elsewhere might have got another answer.
    pub by_client: bool,
}

impl Answer {
    /// One without records.
    pub fn new(rcode: Rcode, zone: Option<usize>) -> Self {
        Self {
            rcode,
            zone,
            answers: Vec::new(),
            authority: Vec::new(),
            additional: Vec::new(),
            level: None,
            by_client: false,
        }
    }
}

/// What answering needs to know besides the question.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// How many, for how long.
    pub config: &'a Config,
    /// The zones.
    pub suffixes: &'a [Suffix],
    /// The start of authority of each.
    pub soas: &'a [Soa],
    /// Who is alive.
    pub table: &'a Table,
}

/// Answers what is asked about the name with these `labels`: from the left, in lower case, without the root.
///
/// `near` tells the level of the client, and is asked only where the answer hangs on it. `random` decides which of the proxies are named, and in which order.
pub fn answer(
    context: Context<'_>,
    labels: &[&[u8]],
    kind: Kind,
    near: impl FnOnce() -> Level,
    random: &mut impl Rng,
) -> Answer {
    let Some((zone, place)) = place(labels, context.suffixes, context.config.ip_literals) else {
        return Answer::new(Rcode::Refused, None);
    };
    match (place, kind) {
        (_, Kind::Transfer) => Answer::new(Rcode::Refused, None),
        (_, Kind::Meta) => Answer::new(Rcode::FormErr, None),
        (Place::Missing, _) => context.negative(Rcode::NxDomain, zone),
        (Place::Apex, Kind::Soa | Kind::Any) => context.start_of_authority(zone),
        (Place::Apex, Kind::Ns) => context.nameservers(zone, random),
        (Place::Apex | Place::Host, Kind::A | Kind::Aaaa | Kind::Any) => context.proxies(zone, kind, near(), random),
        (Place::Nameserver(ip), _) => context.nameserver(zone, ip, kind),
        (Place::Apex | Place::Host | Place::NonTerminal, _) => context.negative(Rcode::NoError, zone),
    }
}

impl Context<'_> {
    /// NXDOMAIN, or NOERROR without data: both carry the SOA, whose TTL says how long they hold (RFC 2308 §2, §3).
    fn negative(self, rcode: Rcode, zone: usize) -> Answer {
        let mut answer = Answer::new(rcode, Some(zone));
        answer.authority.push(Record { owner: Owner::Apex, ttl: self.soas[zone].negative_ttl(), data: Data::Soa });
        answer
    }

    fn start_of_authority(self, zone: usize) -> Answer {
        let mut answer = Answer::new(Rcode::NoError, Some(zone));
        answer.answers.push(Record { owner: Owner::Question, ttl: self.soas[zone].ttl, data: Data::Soa });
        answer
    }

    fn nameservers(self, zone: usize, random: &mut impl Rng) -> Answer {
        if self.table.nameservers.is_empty() {
            return self.negative(Rcode::NoError, zone);
        }
        let ttl = seconds(self.config.nameserver_ttl);
        let chosen = choose(self.table.nameservers.clone(), self.config.nameservers.get(), random);
        let mut answer = Answer::new(Rcode::NoError, Some(zone));
        for ip in chosen {
            answer.answers.push(Record { owner: Owner::Question, ttl, data: Data::Nameserver(ip) });
            answer.additional.push(Record { owner: Owner::Nameserver(ip), ttl, data: Data::Address(ip) });
        }
        answer
    }

    /// The name of a nameserver exists as long as that one is alive.
    fn nameserver(self, zone: usize, ip: IpAddr, kind: Kind) -> Answer {
        if !self.table.nameservers.contains(&ip) {
            return self.negative(Rcode::NxDomain, zone);
        }
        if !is_wanted(kind, ip) {
            return self.negative(Rcode::NoError, zone);
        }
        let mut answer = Answer::new(Rcode::NoError, Some(zone));
        answer.answers.push(Record {
            owner: Owner::Question,
            ttl: seconds(self.config.nameserver_ttl),
            data: Data::Address(ip),
        });
        answer
    }

    fn proxies(self, zone: usize, kind: Kind, near: Level, random: &mut impl Rng) -> Answer {
        // To ANY one kind of record is enough (RFC 8482 §4.1): IPv4 if there is any.
        let kinds: &[Kind] = match kind {
            Kind::Any => &[Kind::A, Kind::Aaaa],
            _ => &[kind],
        };
        let found = kinds.iter().find_map(|kind| self.members(*kind, near));
        let Some((level, members)) = found else {
            if self.table.levels.iter().all(|level| level.proxies.is_empty()) {
                // Not "no address", which would be remembered: this node knows of no proxy, and others may.
                return Answer::new(Rcode::ServFail, None);
            }
            return self.negative(Rcode::NoError, zone);
        };
        let ttl = seconds(if level.number() >= 2 { self.config.near_ttl } else { self.config.ttl });
        let mut answer = Answer::new(Rcode::NoError, Some(zone));
        answer.level = Some(level);
        answer.by_client = self.table.levels.len() > 1;
        answer.answers = choose(members, self.config.addresses.get(), random)
            .into_iter()
            .map(|ip| Record { owner: Owner::Question, ttl, data: Data::Address(ip) })
            .collect();
        answer
    }

    /// The proxies of the asked family at the nearest level that has enough, from `near` outwards; where none has, those
    /// of the level that has most. `None` if there are none at all.
    fn members(self, kind: Kind, near: Level) -> Option<(Level, Vec<IpAddr>)> {
        let mut best: Option<(Level, Vec<IpAddr>)> = None;
        for level in self.table.levels.iter().filter(|level| level.level <= near) {
            let wanted = level.proxies.iter().filter(|ip| is_wanted(kind, **ip));
            let members: Vec<IpAddr> = wanted.copied().collect();
            if members.len() >= self.config.level_members.get() {
                return Some((level.level, members));
            }
            if members.len() > best.as_ref().map_or(0, |(_, most)| most.len()) {
                best = Some((level.level, members));
            }
        }
        best
    }
}

/// Whether an answer to `kind` may hold this address.
fn is_wanted(kind: Kind, ip: IpAddr) -> bool {
    match kind {
        Kind::A => ip.is_ipv4(),
        Kind::Aaaa => ip.is_ipv6(),
        Kind::Any => true,
        _ => false,
    }
}

/// At most `count` of them, each set and each order as likely as any other.
fn choose(mut from: Vec<IpAddr>, count: usize, random: &mut impl Rng) -> Vec<IpAddr> {
    let count = count.min(from.len());
    for index in 0..count {
        // The bias of the multiplication is under one in a hundred million for lists of ours.
        let left = (from.len() - index) as u64;
        let pick = (u64::from(random.next_u32()) * left) >> 32;
        from.swap(index, index + pick as usize);
    }
    from.truncate(count);
    from
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use expect_test::{Expect, expect};
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;
    use crate::candidates::LevelTable;
    use crate::name::nameserver_name;

    const NODE: &str = "192.0.2.1";

    fn ips(text: &str) -> Vec<IpAddr> {
        text.split_whitespace().map(|ip| ip.parse().unwrap()).collect()
    }

    fn level(number: u8, proxies: &str) -> LevelTable {
        LevelTable {
            level: Level::new(number).unwrap(),
            diameter: (number > 0).then(|| Duration::from_millis(if number == 1 { 60 } else { 20 })),
            proxies: ips(proxies),
        }
    }

    /// Two near proxies, a third one farther, many anywhere.
    fn table() -> Table {
        Table {
            levels: vec![
                level(2, "192.0.2.1 192.0.2.2"),
                level(1, "192.0.2.1 192.0.2.2 192.0.2.3"),
                level(0, "192.0.2.1 192.0.2.2 192.0.2.3 192.0.2.4 2001:db8::4"),
            ],
            nameservers: ips("192.0.2.1 2001:db8::4"),
        }
    }

    fn ask(table: &Table, name: &str, kind: Kind, near: u8, seed: u64) -> Answer {
        let config = Config::default();
        let suffixes = ["nyud.net".parse().unwrap()];
        let soas = [Soa::new(&suffixes[0], NODE.parse().unwrap(), &config)];
        let context = Context { config: &config, suffixes: &suffixes, soas: &soas, table };
        let labels: Vec<&[u8]> = name.split('.').map(str::as_bytes).collect();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        answer(context, &labels, kind, || Level::new(near).unwrap(), &mut random)
    }

    /// The answer as lines of a zone file, the sections set apart by their indent.
    fn show(table: &Table, name: &str, kind: Kind, near: u8) -> String {
        let answer = ask(table, name, kind, near, 1);
        let suffix: Suffix = "nyud.net".parse().unwrap();
        let level = answer.level.map_or("no level".to_owned(), |level| level.to_string());
        let mut out = format!("{:?}, {level}\n", answer.rcode);
        for (indent, section) in [(0, &answer.answers), (2, &answer.authority), (4, &answer.additional)] {
            for record in section {
                let owner = match record.owner {
                    Owner::Question => name.to_owned(),
                    Owner::Apex => suffix.to_string(),
                    Owner::Nameserver(ip) => nameserver_name(ip, &suffix),
                };
                let data = match record.data {
                    Data::Address(ip) => format!("{} {ip}", if ip.is_ipv4() { "A" } else { "AAAA" }),
                    Data::Nameserver(ip) => format!("NS {}", nameserver_name(ip, &suffix)),
                    Data::Soa => "SOA".to_owned(),
                };
                out.push_str(&format!("{:indent$}{owner} {} {data}\n", "", record.ttl));
            }
        }
        out
    }

    fn check(name: &str, kind: Kind, near: u8, expect: Expect) {
        expect.assert_eq(&show(&table(), name, kind, near));
    }

    #[test]
    fn a_near_client_gets_the_proxies_of_the_nearest_level() {
        check(
            "www.x.com.nyud.net",
            Kind::A,
            2,
            expect![[r#"
                NoError, L2
                www.x.com.nyud.net 60 A 192.0.2.2
                www.x.com.nyud.net 60 A 192.0.2.1
            "#]],
        );
    }

    #[test]
    fn a_client_at_level_1_gets_no_proxy_from_farther_away() {
        check(
            "www.x.com.nyud.net",
            Kind::A,
            1,
            expect![[r#"
                NoError, L1
                www.x.com.nyud.net 30 A 192.0.2.2
                www.x.com.nyud.net 30 A 192.0.2.1
                www.x.com.nyud.net 30 A 192.0.2.3
            "#]],
        );
    }

    #[test]
    fn a_family_that_only_distant_proxies_have_is_taken_from_there() {
        check(
            "www.x.com.nyud.net",
            Kind::Aaaa,
            2,
            expect![[r#"
                NoError, L0
                www.x.com.nyud.net 30 AAAA 2001:db8::4
            "#]],
        );
    }

    #[test]
    fn a_lonely_level_gives_way_to_one_with_enough_members() {
        let table = Table {
            levels: vec![level(2, NODE), level(1, NODE), level(0, "192.0.2.1 192.0.2.9")],
            nameservers: Vec::new(),
        };
        expect![[r#"
            NoError, L0
            x.com.nyud.net 30 A 192.0.2.9
            x.com.nyud.net 30 A 192.0.2.1
        "#]]
        .assert_eq(&show(&table, "x.com.nyud.net", Kind::A, 2));
    }

    #[test]
    fn a_node_alone_names_itself_and_says_no_data_for_the_other_family() {
        let alone = Table { levels: vec![level(0, NODE)], nameservers: ips(NODE) };
        expect![[r#"
            NoError, L0
            x.com.nyud.net 30 A 192.0.2.1
        "#]]
        .assert_eq(&show(&alone, "x.com.nyud.net", Kind::A, 0));
        expect![[r#"
            NoError, no level
              nyud.net 30 SOA
        "#]]
        .assert_eq(&show(&alone, "x.com.nyud.net", Kind::Aaaa, 0));
    }

    #[test]
    fn without_any_proxy_the_resolver_is_sent_to_another_node() {
        expect![[r#"
            ServFail, no level
        "#]]
        .assert_eq(&show(&Table::default(), "x.com.nyud.net", Kind::A, 0));
    }

    #[test]
    fn the_apex_names_live_nameservers_with_their_addresses() {
        check(
            "nyud.net",
            Kind::Ns,
            2,
            expect![[r#"
                NoError, no level
                nyud.net 300 NS ip6-2001-0db8-0000-0000-0000-0000-0000-0004.ns.nyud.net
                nyud.net 300 NS ip4-192-0-2-1.ns.nyud.net
                    ip6-2001-0db8-0000-0000-0000-0000-0000-0004.ns.nyud.net 300 AAAA 2001:db8::4
                    ip4-192-0-2-1.ns.nyud.net 300 A 192.0.2.1
            "#]],
        );
    }

    #[test]
    fn a_nameserver_exists_while_it_lives() {
        let outcome = |name: &str, kind| show(&table(), name, kind, 2);
        expect![[r#"
            NoError, no level
            ip4-192-0-2-1.ns.nyud.net 300 A 192.0.2.1
        "#]]
        .assert_eq(&outcome("ip4-192-0-2-1.ns.nyud.net", Kind::A));
        expect![[r#"
            NoError, no level
              nyud.net 30 SOA
        "#]]
        .assert_eq(&outcome("ip4-192-0-2-1.ns.nyud.net", Kind::Aaaa));
        expect![[r#"
            NxDomain, no level
              nyud.net 30 SOA
        "#]]
        .assert_eq(&outcome("ip4-192-0-2-9.ns.nyud.net", Kind::A));
    }

    #[test]
    fn any_is_answered_with_one_kind_of_record() {
        let kinds = |name: &str| -> Vec<Data> {
            let answer = ask(&table(), name, Kind::Any, 0, 1);
            answer.answers.iter().map(|record| record.data).collect()
        };
        assert_eq!(kinds("nyud.net"), [Data::Soa]);
        let addresses = kinds("x.com.nyud.net");
        assert_eq!(addresses.len(), 3);
        assert!(addresses.iter().all(|data| matches!(data, Data::Address(IpAddr::V4(_)))));
        assert_eq!(kinds("com.nyud.net"), []);
    }

    #[test]
    fn every_proxy_gets_its_share_of_first_places_and_none_comes_twice() {
        let mut first = BTreeMap::new();
        for seed in 0..4_000 {
            let answer = ask(&table(), "x.com.nyud.net", Kind::A, 0, seed);
            let mut addresses: Vec<_> = answer.answers.iter().map(|record| format!("{:?}", record.data)).collect();
            *first.entry(addresses[0].clone()).or_insert(0) += 1;
            addresses.sort();
            addresses.dedup();
            assert_eq!(addresses.len(), 3);
        }
        // 1,000 each in the mean; the standard deviation is 27.
        assert_eq!(first.len(), 4);
        assert!(first.values().all(|count| (850..1_150).contains(count)), "{first:?}");
    }
}
