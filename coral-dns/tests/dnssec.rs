//! Signed answers (RFC 4033 to 4035, 9824), judged by hickory's validator, which has the suffix's key as its trust anchor and
//! has to find its way to the keys of each cut by itself.

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coral_dns::Config;
use coral_dns::dnssec::key::{Algorithm, Key};
use coral_dns::records::RecordConfig;
use coral_dsht::memory::{MemoryNetwork, fixed};
use coral_dsht::{DshtHandle, Peer};
use hickory_net::client::{Client, DnssecClient};
use hickory_net::proto::dnssec::{Algorithm as Number, PublicKeyBuf, TrustAnchors};
use hickory_net::proto::op::{DnsRequestOptions, DnsResponse, Message, Query};
use hickory_net::proto::rr::{Name, RData, RecordType};
use hickory_net::runtime::TokioRuntimeProvider;
use hickory_net::udp::UdpClientStream;
use hickory_net::xfer::{DnsHandle as _, FirstAnswer as _};
use hickory_net::{DnsError as NetDnsError, NetError};
use support::{A, Dns, HTTPS, NS, PATIENCE, TXT, config, peer, query, show};
use tempfile::TempDir;
use tokio::time::timeout;

const DS: u16 = 43;
const RRSIG: u16 = 46;
const NSEC: u16 = 47;
const DNSKEY: u16 = 48;
const NXNAME: u16 = 128;

const DO: u8 = 0x80;
const CO: u8 = 0x40;

/// `name` with EDNS and these flags.
fn flagged(name: &str, kind: u16, flags: u8) -> Vec<u8> {
    let mut bytes = query(name, kind);
    let at = bytes.len() - 4;
    bytes[at] = flags;
    bytes
}

/// A key and its file.
struct KeyFile {
    key: Key,
    path: PathBuf,
    _directory: TempDir,
}

impl KeyFile {
    fn new(algorithm: Algorithm) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dnssec.key");
        Self { key: Key::create(&path, algorithm).unwrap(), path, _directory: directory }
    }

    fn algorithm(&self) -> Number {
        Number::from_u8(self.key.algorithm() as u8)
    }
}

/// A nameserver that signs with these keys, with neighbours of both families and records of an operator who likes capitals.
async fn start(keys: &[&KeyFile]) -> Dns {
    let record = |name: &str, kind: &str, data: &str| RecordConfig {
        name: name.into(),
        kind: kind.into(),
        ttl: Duration::from_secs(3_600),
        data: data.into(),
    };
    let config = Config {
        dnssec_keys: keys.iter().map(|key| key.path.clone()).collect(),
        https: vec!["h2".into()],
        records: vec![
            record("@", "MX", "20 Mail.Example.ORG."),
            record("@", "MX", "10 Mail.Example.ORG."),
            record("_Sip._tcp", "SRV", "1 2 5060 SIP.Example.org."),
            record("mail", "A", "192.0.2.25"),
        ],
        ..config()
    };
    let (me, dsht) = members();
    Dns::start(config, me, dsht).await
}

fn members() -> (Peer, DshtHandle) {
    let me = peer("192.0.2.1");
    let others = ["192.0.2.2", "192.0.2.3", "2001:db8::4", "2001:db8::5"].map(peer);
    (me, fixed(me, vec![(None, others.to_vec())]))
}

/// One that trusts these keys at `nyud.net`, and nothing else.
async fn validator(dns: &Dns, files: &[&KeyFile]) -> DnssecClient {
    let mut anchors = TrustAnchors::empty();
    for file in files {
        let public = PublicKeyBuf::new(file.key.dnskey()[4..].to_vec(), file.algorithm());
        anchors.insert_with_name(&public, Name::from_ascii("nyud.net.").unwrap().into());
    }
    let stream = UdpClientStream::builder(dns.addr, TokioRuntimeProvider::default()).build();
    let (client, background) = Client::<TokioRuntimeProvider>::from_sender::<UdpClientStream<_>>(stream);
    tokio::spawn(background);
    DnssecClient::from_client(client, Arc::new(anchors))
}

/// What the validator makes of the answer; its records are looked at one by one.
async fn validate(client: &DnssecClient, name: &str, kind: u16) -> Result<DnsResponse, NetError> {
    let query = Query::query(Name::from_ascii(format!("{name}.")).unwrap(), RecordType::from(kind));
    let mut options = DnsRequestOptions::default();
    (options.use_edns, options.edns_set_dnssec_ok) = (true, true);
    timeout(PATIENCE, client.lookup(query, options).first_answer()).await.expect("an answer in time")
}

/// The types in the answer section, or in the authority section where it is empty, each proven.
fn proven(response: &DnsResponse) -> String {
    let records = if response.answers.is_empty() { &response.authorities } else { &response.answers };
    let mut types: Vec<String> = Vec::new();
    for record in records.iter().filter(|record| record.record_type() != RecordType::RRSIG) {
        assert!(record.proof.is_secure(), "{record} is {}", record.proof);
        if !types.contains(&record.record_type().to_string()) {
            types.push(record.record_type().to_string());
        }
    }
    types.sort();
    let rcode = response.metadata.response_code;
    format!("{rcode:?} {}", types.join(" "))
}

/// Each kind of answer, with the types that prove it.
const ANSWERS: [(&str, u16, &str); 28] = [
    ("nyud.net", DNSKEY, "NoError DNSKEY"),
    ("nyud.net", A, "NoError A"),
    ("nyud.net", NS, "NoError NS"),
    ("nyud.net", 6, "NoError SOA"),
    ("nyud.net", 15, "NoError MX"),
    ("nyud.net", TXT, "NoError NSEC SOA"),
    ("com.nyud.net", DS, "NoError DS"),
    ("com.nyud.net", DNSKEY, "NoError DNSKEY"),
    ("com.nyud.net", NS, "NoError NSEC SOA"),
    ("com.nyud.net", 6, "NoError SOA"),
    ("com.nyud.net", A, "NoError NSEC SOA"),
    ("www.example.com.nyud.net", A, "NoError A"),
    ("WWW.eXample.com.nyud.net", 28, "NoError AAAA"),
    ("www.example.com.nyud.net", TXT, "NoError NSEC SOA"),
    ("www.example.com.nyud.net", DS, "NoError NSEC SOA"),
    ("www.example.com.8080.nyud.net", A, "NoError A"),
    ("www-example-com.s.nyud.net", HTTPS, "NoError HTTPS"),
    ("www.example.com.nyud.net", HTTPS, "NoError NSEC SOA"),
    ("_missing.com.nyud.net", A, "NoError NSEC SOA"),
    ("_missing.nyud.net", A, "NoError NSEC SOA"),
    ("*.com.nyud.net", A, "NoError NSEC SOA"),
    ("ns.nyud.net", A, "NoError NSEC SOA"),
    ("ip4-192-0-2-2.ns.nyud.net", A, "NoError A"),
    ("ip4-192-0-2-2.ns.nyud.net", 28, "NoError NSEC SOA"),
    ("ns--ip6-2001-0db8-0000-0000-0000-0000-0000-0004.com.nyud.net", 28, "NoError AAAA"),
    ("mail.nyud.net", A, "NoError A"),
    ("_sip._tcp.nyud.net", 33, "NoError SRV"),
    ("_tcp.nyud.net", 33, "NoError NSEC SOA"),
];

#[tokio::test]
async fn every_kind_of_answer_is_proven_from_the_suffix_s_key_on() {
    for algorithm in [Algorithm::EcdsaP256, Algorithm::Ed25519] {
        let file = KeyFile::new(algorithm);
        let dns = start(&[&file]).await;
        let client = validator(&dns, &[&file]).await;
        for (name, kind, wanted) in ANSWERS {
            let response = validate(&client, name, kind).await.unwrap_or_else(|e| panic!("{name} {kind}: {e}"));
            assert_eq!(proven(&response), wanted, "{name} {kind}");
        }
        dns.stop().await;
    }
}

#[tokio::test]
async fn what_another_key_signs_is_bogus() {
    let [signing, trusted] = [0, 1].map(|_| KeyFile::new(Algorithm::EcdsaP256));
    let dns = start(&[&signing]).await;
    let client = validator(&dns, &[&trusted]).await;
    for (name, kind, _) in ANSWERS {
        match validate(&client, name, kind).await {
            Ok(response) => assert!(response.all_sections().all(|record| !record.proof.is_secure()), "{name} {kind}"),
            Err(NetError::Dns(NetDnsError::Nsec { proof, .. })) => assert!(proof.is_bogus(), "{name} {kind}"),
            Err(other) => panic!("{name} {kind}: {other}"),
        }
    }
    dns.stop().await;
}

/// While the parent has the DS records of both keys: the keys that a resolver has from before a step serve for what is signed
/// after it, as they are the same.
#[tokio::test]
async fn a_key_gives_way_to_another_without_a_gap() {
    let [old, new] = [0, 1].map(|_| KeyFile::new(Algorithm::Ed25519));
    let mut published = Vec::new();
    for keys in [[&old, &new], [&new, &old]] {
        let dns = start(&keys).await;
        let client = validator(&dns, &[&old, &new]).await;
        for (name, kind, wanted) in ANSWERS {
            assert_eq!(proven(&validate(&client, name, kind).await.unwrap()), wanted, "{name} {kind}");
        }
        for kind in [DS, DNSKEY] {
            let answer = dns.ask("com.nyud.net", kind).await;
            assert_eq!(answer.lines().count(), 3, "{answer}");
            published.push(answer);
        }
        dns.stop().await;
    }
    assert_eq!(published[..2], published[2..]);
}

/// The bitmap of the NSEC record in an answer, and its response code.
fn denial(answer: &[u8]) -> (String, Vec<u16>) {
    let message = Message::from_vec(answer).unwrap();
    let nsec = message.all_sections().find_map(|record| match &record.data {
        RData::DNSSEC(hickory_net::proto::dnssec::rdata::DNSSECRData::NSEC(nsec)) => Some(nsec),
        _ => None,
    });
    let types = nsec.map(|nsec| nsec.type_bit_maps().map(u16::from).collect()).unwrap_or_default();
    (format!("{:?}", message.metadata.response_code), types)
}

/// RFC 9824 §3: what exists, and what does not, by the bitmap; no type that another node might have is denied.
#[tokio::test]
async fn a_bitmap_has_all_that_the_name_can_have_but_what_was_asked_for() {
    let file = KeyFile::new(Algorithm::EcdsaP256);
    let dns = start(&[&file]).await;
    for (name, kind, wanted) in [
        ("www.x.com.nyud.net", TXT, vec![1, 28, RRSIG, NSEC]),
        ("www-x-com.s.nyud.net", TXT, vec![1, 28, RRSIG, NSEC, 65]),
        ("nyud.net", TXT, vec![1, 2, 6, 15, 28, RRSIG, NSEC, DNSKEY]),
        ("com.nyud.net", TXT, vec![2, 6, RRSIG, NSEC, DNSKEY]),
        ("ns.nyud.net", TXT, vec![RRSIG, NSEC]),
        ("_tcp.nyud.net", TXT, vec![RRSIG, NSEC]),
        ("_sip._tcp.nyud.net", TXT, vec![33, RRSIG, NSEC]),
        ("ip4-192-0-2-2.ns.nyud.net", 28, vec![1, RRSIG, NSEC]),
        ("_.com.nyud.net", TXT, vec![RRSIG, NSEC, NXNAME]),
        ("www.x.com.nyud.net", NSEC, vec![1, 28, RRSIG, NSEC]),
        ("_.com.nyud.net", NSEC, vec![RRSIG, NSEC, NXNAME]),
    ] {
        let answer = dns.udp(&flagged(name, kind, DO)).await;
        assert_eq!(denial(&answer), ("NoError".to_owned(), wanted), "{name}");
    }
    // No type of a zone can be asked for that says that there is no name (RFC 9824 §3.5).
    assert!(show(&dns.udp(&flagged("x.com.nyud.net", NXNAME, DO)).await).starts_with("FORMERR"));
    dns.stop().await;
}

/// RFC 9824 §5.1; and without DO, NXDOMAIN as ever.
#[tokio::test]
async fn who_takes_compact_answers_gets_the_response_code_back() {
    let file = KeyFile::new(Algorithm::EcdsaP256);
    let dns = start(&[&file]).await;
    for (flags, rcode, has_denial, back) in [
        (0, "NXDomain", false, 0),
        (CO, "NXDomain", false, 0),
        (DO, "NoError", true, DO),
        (DO | CO, "NXDomain", true, DO | CO),
    ] {
        let answer = dns.udp(&flagged("_.com.nyud.net", A, flags)).await;
        let (found, types) = denial(&answer);
        assert_eq!((found.as_str(), !types.is_empty()), (rcode, has_denial), "{flags:x}");
        // The OPT record is the last, without options here.
        assert_eq!(answer[answer.len() - 4], back, "{flags:x}");
    }
    let answer = dns.udp(&flagged("x.com.nyud.net", A, DO | CO)).await;
    assert_eq!((denial(&answer).0.as_str(), answer[answer.len() - 4]), ("NoError", DO | CO));
    dns.stop().await;
}

/// RFC 4035 §3.1, §3.2.1: signatures are for who asks for them; keys are data like any other.
#[tokio::test]
async fn without_do_nothing_is_different_but_that_keys_can_be_asked_for() {
    let file = KeyFile::new(Algorithm::EcdsaP256);
    let signed = start(&[&file]).await;
    let plain = start(&[]).await;
    for (name, kind, _) in ANSWERS {
        let [with, without] = [&signed, &plain].map(|dns| dns.ask(name, kind));
        let (with, without) = (with.await, without.await);
        if matches!((name, kind), ("nyud.net" | "com.nyud.net", DNSKEY) | ("com.nyud.net", DS)) {
            let records: Vec<&str> = with.lines().skip(1).collect();
            assert!(records.len() == 1 && !records[0].starts_with(' '), "{with}");
            assert!(without.lines().count() == 2 && without.contains("SOA"), "{without}");
        } else if kind == A || kind == 28 || kind == HTTPS || kind == NS {
            // Drawn by chance.
            assert_eq!(with.lines().count(), without.lines().count(), "{name} {kind}");
            assert!(!with.contains("RRSIG"), "{with}");
        } else {
            assert_eq!(with, without, "{name} {kind}");
        }
    }
    // A server without a key echoes DO, and knows nothing of CO.
    let answer = plain.udp(&flagged("x.com.nyud.net", A, DO | CO)).await;
    assert_eq!(answer[answer.len() - 4], DO);
    assert!(!show(&answer).contains("RRSIG"));
    signed.stop().await;
    plain.stop().await;
}

/// RFC 4035 §3.1.1: additional records go first, with their signatures, and what does not fit then is to be had over TCP.
#[tokio::test]
async fn what_is_too_large_loses_its_additions_and_then_everything_to_tcp() {
    let file = KeyFile::new(Algorithm::EcdsaP256);
    let dns = start(&[&file]).await;
    let with_payload = |payload: u16| {
        let mut bytes = flagged("nyud.net", NS, DO);
        let at = bytes.len() - 8;
        bytes[at..at + 2].copy_from_slice(&payload.to_be_bytes());
        bytes
    };
    let sections = |answer: &[u8]| {
        let message = Message::from_vec(answer).unwrap();
        (message.answers.len(), message.additionals.len(), message.metadata.truncation)
    };
    assert_eq!(sections(&dns.udp(&with_payload(1232)).await), (4, 6, false));
    assert_eq!(sections(&dns.udp(&with_payload(512)).await), (4, 0, false));
    let mut long = flagged(&format!("{0}.{0}.{0}.com.nyud.net", "x".repeat(60)), TXT, DO);
    let at = long.len() - 8;
    long[at..at + 2].copy_from_slice(&512_u16.to_be_bytes());
    assert_eq!(sections(&dns.udp(&long).await), (0, 0, true));
    let whole = Message::from_vec(&dns.tcp(&long).await).unwrap();
    assert_eq!((whole.authorities.len(), whole.metadata.truncation), (4, false));
    dns.stop().await;
}

/// A suffix within another one, or within a cut of it, is vouched for by what is above it.
#[tokio::test]
async fn the_suffix_within_a_suffix_is_proven_too() {
    let file = KeyFile::new(Algorithm::EcdsaP256);
    let (me, dsht) = members();
    let (name, kind, ttl) = ("mail.org".to_owned(), "A".to_owned(), Duration::from_secs(60));
    // With a name of the operator's beneath it, `org` is no cut.
    let records = vec![RecordConfig { name, kind, ttl, data: "192.0.2.25".to_owned() }];
    let config = Config { dnssec_keys: vec![file.path.clone()], records, ..config() };
    let suffixes = ["nyud.net", "b.nyud.net", "c.com.nyud.net", "d.org.nyud.net"];
    let dns = Dns::start_for(&suffixes, config, me, dsht).await;
    let client = validator(&dns, &[&file]).await;
    for suffix in suffixes {
        for (name, kind, wanted) in [
            (format!("www.x.com.{suffix}"), A, "NoError A"),
            (format!("_.com.{suffix}"), A, "NoError NSEC SOA"),
            (suffix.to_owned(), NS, "NoError NS"),
        ] {
            let response = validate(&client, &name, kind).await.unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(proven(&response), wanted, "{name}");
        }
    }
    dns.stop().await;
}

#[tokio::test]
async fn a_key_that_cannot_be_used_ends_the_server_with_the_file_s_name() {
    let directory = tempfile::tempdir().unwrap();
    let (missing, wrong) = (directory.path().join("missing"), directory.path().join("wrong"));
    std::fs::write(&wrong, "-----BEGIN EC PRIVATE KEY-----\n").unwrap();
    let [p256, ed25519] = [Algorithm::EcdsaP256, Algorithm::Ed25519].map(KeyFile::new);
    for (files, named, wanted) in [
        (vec![missing.clone()], &missing, "coral dnssec-key"),
        (vec![wrong.clone()], &wrong, "openssl pkcs8"),
        (vec![p256.path.clone(), ed25519.path.clone()], &ed25519.path, "one algorithm"),
    ] {
        let me = peer("192.0.2.1");
        let dns = Dns::start(Config { dnssec_keys: files, ..config() }, me, MemoryNetwork::new().node(me)).await;
        let error = dns.failed().await.to_string();
        assert!(error.contains(wanted) && error.contains(&named.display().to_string()), "{error}");
        assert!(!error.contains('\n'));
    }
}
