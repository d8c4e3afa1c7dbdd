//! What a nameserver is to answer to single queries, as dig asks them. `@far` is a registered nameserver far from the client, which is far
//! from all nodes; `@refer` is asked by a client with nodes near it; `@near` is one of those nodes.

/// One query and what must come of it.
#[derive(Debug)]
pub struct Case {
    /// Which document says so.
    pub source: &'static str,
    /// What is to be so.
    pub what: &'static str,
    /// The command line, after the name of the server.
    pub query: &'static str,
    /// Each must be in what dig prints.
    pub has: &'static [&'static str],
    /// None may be.
    pub lacks: &'static [&'static str],
}

const fn case(
    source: &'static str,
    what: &'static str,
    query: &'static str,
    has: &'static [&'static str],
    lacks: &'static [&'static str],
) -> Case {
    Case { source, what, query, has, lacks }
}

/// All of them.
pub const CASES: &[Case] = &[
    case(
        "RFC 1034",
        "a name has addresses, with authority",
        "dig @far www.x.com.nyud.net A",
        &["NOERROR", "qr aa", "IN\tA\t198.18."],
        &["CNAME", "DNAME"],
    ),
    case("RFC 1034", "the apex has its SOA", "dig @far nyud.net SOA", &["NOERROR", "qr aa", "IN\tSOA"], &[]),
    case(
        "RFC 1034",
        "the apex has nameservers with addresses",
        "dig @far nyud.net NS",
        &["NOERROR", "qr aa", "IN\tNS", "IN\tA\t198.18."],
        &[],
    ),
    case(
        "RFC 1035",
        "no recursion is offered",
        "dig @far www.x.com.nyud.net A +recurse",
        &["NOERROR"],
        &["qr aa rd ra"],
    ),
    case("RFC 1035", "another zone is refused", "dig @far www.x.com A", &["REFUSED"], &["ANSWER SECTION"]),
    case(
        "RFC 1035",
        "an unknown operation is not implemented",
        "dig @far +opcode=14 www.x.com.nyud.net A",
        &["NOTIMP"],
        &[],
    ),
    case("RFC 1035", "a transfer is refused", "dig @far nyud.net AXFR", &["Transfer failed"], &["IN\tSOA"]),
    case(
        "RFC 2308",
        "a type that a name lacks is NODATA, with the SOA",
        "dig @far www.x.com.nyud.net TXT",
        &["NOERROR", "ANSWER: 0", "IN\tSOA"],
        &["NXDOMAIN"],
    ),
    case(
        "RFC 3597",
        "a type nobody knows is NODATA",
        "dig @far www.x.com.nyud.net TYPE65280",
        &["NOERROR", "ANSWER: 0", "IN\tSOA"],
        &["NXDOMAIN"],
    ),
    case(
        "RFC 9460",
        "HTTPS records are NODATA",
        "dig @far www.x.com.nyud.net HTTPS",
        &["NOERROR", "ANSWER: 0", "IN\tSOA"],
        &["NXDOMAIN"],
    ),
    case("RFC 8020", "an empty non-terminal is NODATA", "dig @far com.nyud.net A", &["NOERROR"], &["NXDOMAIN"]),
    case(
        "RFC 9156",
        "so is each name on the way, for NS too",
        "dig @far x.com.nyud.net NS",
        &["NOERROR"],
        &["NXDOMAIN"],
    ),
    case(
        "RFC 4035",
        "a DS at the cut is NODATA, from above it",
        "dig @far com.nyud.net DS",
        &["NOERROR", "qr aa", "ANSWER: 0", "nyud.net.\t"],
        &["NXDOMAIN", "com.nyud.net.\t30\tIN\tSOA"],
    ),
    case(
        "RFC 8482",
        "ANY has one answer, short or of addresses",
        "dig @far www.x.com.nyud.net ANY +notcp",
        &["NOERROR", "qr aa"],
        &["TC;", " tc"],
    ),
    case(
        "RFC 6891",
        "an unknown version is BADVERS",
        "dig @far +edns=1 +noednsneg www.x.com.nyud.net A",
        &["BADVERS", "version: 0"],
        &["ANSWER SECTION"],
    ),
    case(
        "RFC 6891",
        "an unknown option is passed over",
        "dig @far +ednsopt=65001:abcd www.x.com.nyud.net A",
        &["NOERROR", "IN\tA\t"],
        &["65001"],
    ),
    case(
        "RFC 6891",
        "an unknown flag is passed over, and not echoed",
        "dig @far +ednsflags=0x80 www.x.com.nyud.net A",
        &["NOERROR", "IN\tA\t", "flags:; udp"],
        &["MBZ"],
    ),
    case(
        "RFC 6891",
        "who sends no OPT gets none",
        "dig @far +noedns www.x.com.nyud.net A",
        &["NOERROR", "IN\tA\t"],
        &["OPT PSEUDOSECTION"],
    ),
    case("flag day 2020", "1232 bytes over UDP are offered", "dig @far www.x.com.nyud.net A", &["udp: 1232"], &[]),
    case("RFC 7766", "TCP answers alike", "dig @far +tcp www.x.com.nyud.net A", &["NOERROR", "qr aa", "IN\tA\t"], &[]),
    case(
        "RFC 7766",
        "two queries go over one connection",
        "dig @far +tcp +keepopen www.x.com.nyud.net A www.y.com.nyud.net A",
        &["www.x.com.nyud.net.\t", "www.y.com.nyud.net.\t"],
        &["SERVFAIL"],
    ),
    case(
        "0x20",
        "the question comes back byte for byte",
        "dig @far wWw.X.coM.nYUd.nEt A",
        &["NOERROR", ";wWw.X.coM.nYUd.nEt."],
        &[],
    ),
    case(
        "RFC 7871",
        "a prefix comes back, with a scope",
        "dig @far +subnet=198.18.7.0/24 www.x.com.nyud.net A",
        &["NOERROR", "CLIENT-SUBNET: 198.18.7.0/24/"],
        &[],
    ),
    case(
        "RFC 7871",
        "a prefix of no bits comes back with scope 0",
        "dig @far +subnet=0.0.0.0/0 www.x.com.nyud.net A",
        &["NOERROR", "CLIENT-SUBNET: 0.0.0.0/0/0"],
        &[],
    ),
    case(
        "RFC 7871",
        "who sends no prefix gets none",
        "dig @far www.x.com.nyud.net A",
        &["NOERROR"],
        &["CLIENT-SUBNET"],
    ),
    case(
        "RFC 7873",
        "a client cookie gets a whole one",
        "dig @far +cookie=0123456789abcdef www.x.com.nyud.net A",
        &["COOKIE: 0123456789abcdef"],
        &["FORMERR"],
    ),
    case(
        "RFC 7873",
        "a wrong server cookie gets a right one",
        "dig @far +nobadcookie +cookie=0123456789abcdef01000000000000000123456789abcdef www.x.com.nyud.net A",
        &["COOKIE: 0123456789abcdef"],
        &["01000000000000000123456789abcdef", "FORMERR"],
    ),
    case(
        "RFC 7873",
        "who sends no cookie gets none",
        "dig @far +nocookie www.x.com.nyud.net A",
        &["NOERROR"],
        &["COOKIE"],
    ),
    case("RFC 5001", "NSID is no error", "dig @far +nsid www.x.com.nyud.net A", &["NOERROR", "IN\tA\t"], &[]),
    case("RFC 4892", "the version is not told", "dig @far version.bind CH TXT", &["REFUSED"], &["ANSWER SECTION"]),
    case(
        "RFC 1034",
        "a client with nodes near it is referred to them",
        "dig @refer www.x.com.nyud.net A",
        &["NOERROR", "ANSWER: 0", "com.nyud.net.\t", "IN\tNS", "IN\tA\t198.18."],
        &["qr aa"],
    ),
    case(
        "RFC 1034",
        "those answer with authority",
        "dig @near www.x.com.nyud.net A",
        &["NOERROR", "qr aa", "IN\tA\t198.18."],
        &[],
    ),
    case(
        "RFC 2308",
        "negative answers there have the SOA of the cut",
        "dig @near www.x.com.nyud.net TXT",
        &["NOERROR", "qr aa", "ANSWER: 0", "com.nyud.net.\t", "IN\tSOA"],
        &[],
    ),
    case(
        "RFC 1035",
        "kdig reads the answer without a warning",
        "kdig @far www.x.com.nyud.net A",
        &["NOERROR", "198.18."],
        &["WARNING", "ERROR:"],
    ),
];

/// What a network that signs answers besides.
pub const SIGNED: &[Case] = &[
    case(
        "RFC 4035",
        "an answer has its signature, by the cut",
        "dig @far +dnssec www.x.com.nyud.net A",
        &["NOERROR", "qr aa", "flags: do", "IN\tRRSIG\tA 13 5 ", " com.nyud.net. "],
        &[],
    ),
    case("RFC 3225", "who does not ask for it has none", "dig @far www.x.com.nyud.net A", &["NOERROR"], &["RRSIG"]),
    case(
        "RFC 4035",
        "the apex has its key",
        "dig @far +dnssec nyud.net DNSKEY",
        &["NOERROR", "IN\tDNSKEY\t257 3 13", "IN\tRRSIG\tDNSKEY 13 2 "],
        &[],
    ),
    case(
        "RFC 4035",
        "so has each cut",
        "dig @far +dnssec any-label.nyud.net DNSKEY",
        &["NOERROR", "IN\tDNSKEY\t257 3 13", "IN\tRRSIG\tDNSKEY 13 3 "],
        &[],
    ),
    case(
        "RFC 4035",
        "what is above a cut vouches for its key",
        "dig @far +dnssec com.nyud.net DS",
        &["NOERROR", "qr aa", "IN\tDS\t", "IN\tRRSIG\tDS 13 3 ", " nyud.net. "],
        &["SOA"],
    ),
    case(
        "RFC 9824",
        "what does not exist is denied compactly",
        "dig @far +dnssec _x.com.nyud.net A",
        &["NOERROR", "ANSWER: 0", "IN\tNSEC\t\\000._x.com.nyud.net. RRSIG NSEC TYPE128", "RRSIG\tNSEC", "RRSIG\tSOA"],
        &[],
    ),
    case(
        "RFC 8020",
        "an empty non-terminal exists",
        "dig @far +dnssec ns.nyud.net A",
        &["NOERROR", "ANSWER: 0", "IN\tNSEC\t\\000.ns.nyud.net. RRSIG NSEC\n"],
        &["TYPE128"],
    ),
    case(
        "RFC 4034",
        "NODATA says what there may be",
        "dig @far +dnssec www.x.com.nyud.net TXT",
        &["NOERROR", "ANSWER: 0", "A AAAA RRSIG NSEC"],
        &["TYPE128"],
    ),
    case("RFC 9824", "nobody can ask for NXNAME", "dig @far www.x.com.nyud.net TYPE128", &["FORMERR"], &[]),
    case(
        "RFC 4035",
        "a referral vouches for the cut's key",
        "dig @refer +dnssec www.x.com.nyud.net A",
        &["NOERROR", "ANSWER: 0", "IN\tNS\t", "IN\tDS\t", "RRSIG\tDS 13 3", "IN\tA\t198.18."],
        &["qr aa", "RRSIG\tNS", "RRSIG\tA"],
    ),
    case(
        "delv",
        "an address is proven",
        "delv @far -a /etc/testbed/anchors +root=nyud.net www.x.com.nyud.net A",
        &["; fully validated", "198.18."],
        &["unsigned"],
    ),
    case(
        "delv",
        "that there is no name is proven",
        "delv @far -a /etc/testbed/anchors +root=nyud.net _x.com.nyud.net A",
        &["; negative response, fully validated"],
        &["unsigned"],
    ),
    case(
        "delv",
        "that there is no such data is proven",
        "delv @far -a /etc/testbed/anchors +root=nyud.net com.nyud.net MX",
        &["; negative response, fully validated"],
        &["unsigned"],
    ),
];
