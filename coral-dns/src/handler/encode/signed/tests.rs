use std::net::SocketAddr;

use hickory_server::proto::dnssec::rdata::{DNSKEY, DNSSECRData, RRSIG};
use hickory_server::proto::dnssec::{Algorithm, PublicKeyBuf, Verifier as _};
use hickory_server::proto::op::{Message, ResponseCode};
use hickory_server::proto::rr::{DNSClass, Name, RData, Record, RecordType};
use proptest::prelude::*;

use crate::config::Config;
use crate::dnssec::Signer;
use crate::dnssec::key::{self, Key};
use crate::handler::check::sample_with;
use crate::handler::tests::{far_node, query};
use crate::handler::{Handler, Transport};
use crate::records::RecordConfig;
use crate::wire::flags;

const CLIENT: ([u8; 4], u16) = ([198, 51, 100, 1], 53);

/// A signer, and its key as hickory has it.
fn signer() -> (Signer, DNSKEY) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let key = Key::create(&path, key::Algorithm::Ed25519).unwrap();
    let public = PublicKeyBuf::new(key.dnskey()[4..].to_vec(), Algorithm::ED25519);
    (Signer::open(&[path], [1; 16]).unwrap().unwrap(), DNSKEY::new(true, true, false, public))
}

fn asked(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = query(name, kind, &[]);
    let at = bytes.len() - 4;
    bytes[at] = flags::DNSSEC_OK;
    bytes
}

fn ask(handler: &Handler, name: &str, kind: u16) -> Message {
    let answer = handler.answer_now(SocketAddr::from(CLIENT), Transport::Tcp, &asked(name, kind)).unwrap();
    Message::from_vec(&answer).unwrap()
}

fn signature(record: &Record) -> Option<&RRSIG> {
    match &record.data {
        RData::DNSSEC(DNSSECRData::RRSIG(signature)) => Some(signature),
        _ => None,
    }
}

/// Each RRset of a section with the zone that has signed it, once that is verified: `owner type zone`.
fn verified(section: &[Record], key: &DNSKEY) -> Vec<String> {
    let mut sets: Vec<(&Name, RecordType)> = Vec::new();
    for record in section.iter().filter(|record| signature(record).is_none()) {
        if !sets.contains(&(&record.name, record.record_type())) {
            sets.push((&record.name, record.record_type()));
        }
    }
    let mut out = Vec::new();
    for (name, kind) in sets {
        let records = || section.iter().filter(|record| record.name == *name && record.record_type() == kind);
        let mut covering = section.iter().filter(|record| record.name == *name).filter_map(signature);
        let zone = match covering.find(|signature| signature.input().type_covered == kind) {
            Some(signature) => {
                key.verify_rrsig(name, DNSClass::IN, signature, records()).unwrap();
                assert!(signature.input().signer_name.zone_of(name), "{name} is signed by its own zone");
                assert!(records().all(|record| record.ttl == signature.input().original_ttl));
                signature.input().signer_name.to_string()
            }
            None => "-".to_owned(),
        };
        out.push(format!("{name} {kind} {zone}"));
    }
    assert!(section.iter().filter(|record| signature(record).is_some()).count() <= out.len(), "one signature each");
    out
}

/// RFC 4035 §3.1.4: the nameservers are the child's to sign; the parent signs what vouches for the child's key.
#[tokio::test(start_paused = true)]
async fn a_referral_has_what_vouches_for_the_cut() {
    let (signer, key) = signer();
    let (handler, _task) = far_node();
    let handler = Handler { signer: Some(signer), ..handler };
    let referral = ask(&handler, "WWW.x.com.nyud.net", 1);
    assert!(!referral.metadata.authoritative && referral.answers.is_empty());
    assert_eq!(verified(&referral.authorities, &key), ["com.nyud.net. NS -", "com.nyud.net. DS nyud.net."]);
    assert_eq!(referral.additionals.len(), 3);
    assert_eq!(verified(&referral.additionals, &key).iter().filter(|line| line.ends_with(" -")).count(), 3);
    let ds = referral.authorities.iter().find_map(|record| match &record.data {
        RData::DNSSEC(DNSSECRData::DS(ds)) => Some(ds),
        _ => None,
    });
    assert!(ds.unwrap().covers(&Name::from_ascii("com.nyud.net.").unwrap(), &key).unwrap());
    // Over UDP, too, it is whole or empty: glue is no addition.
    let long = format!("{0}.{0}.{0}.net.nyud.net", "x".repeat(60));
    for (name, payload, sections) in [("x.org.nyud.net", 512_u16, (5, 3)), (&long, 512, (0, 0))] {
        let mut bytes = asked(name, 1);
        let at = bytes.len() - 8;
        bytes[at..at + 2].copy_from_slice(&payload.to_be_bytes());
        let answer = handler.answer_now(SocketAddr::from(CLIENT), Transport::Udp, &bytes).unwrap();
        assert!(answer.len() <= usize::from(payload));
        let message = Message::from_vec(&answer).unwrap();
        assert_eq!((message.authorities.len(), message.additionals.len()), sections);
        assert_eq!(message.metadata.truncation, sections == (0, 0));
    }
}

fn sample_signed() -> (Handler, DNSKEY) {
    let (signer, key) = signer();
    let record = |name: &str, kind: &str, data: &str| RecordConfig {
        name: name.into(),
        kind: kind.into(),
        ttl: std::time::Duration::from_secs(60),
        data: data.into(),
    };
    let config = Config {
        https: vec!["h2".into()],
        records: vec![record("a.b", "MX", "1 A."), record("@", "TXT", "x")],
        rate: 0,
        ..Config::default()
    };
    (Handler { signer: Some(signer), ..sample_with(config, None) }, key)
}

proptest! {
    /// Whatever is asked of a signed zone: all of the answer is signed by the zone of its name, and a denial denies just what was
    /// asked for.
    #[test]
    fn whatever_is_said_is_signed(
        name in "(([a-cA-C0-9_-]{1,3}|com|ns|s|www-x|[*])[.]){0,4}",
        kind in prop_oneof![Just(1_u16), Just(2), Just(6), Just(15), Just(16), Just(28), Just(43), Just(47), Just(48), Just(65), Just(255), 1..128_u16],
    ) {
        prop_assume!(kind != 41);
        let (handler, key) = sample_signed();
        let name = format!("{name}nyud.net");
        let message = ask(&handler, &name, kind);
        prop_assert_eq!(message.metadata.response_code, ResponseCode::NoError);
        prop_assert!(message.metadata.authoritative);
        if kind == 46 {
            let signatures: Vec<&RRSIG> = message.answers.iter().filter_map(signature).collect();
            prop_assert_eq!(signatures.len(), 1);
            prop_assert_eq!(signatures[0].input().type_covered, RecordType::NSEC);
            return Ok(());
        }
        let mut sets = verified(&message.answers, &key);
        sets.extend(verified(&message.authorities, &key));
        sets.extend(verified(&message.additionals, &key));
        prop_assert!(!sets.is_empty() && sets.iter().all(|set| !set.ends_with(" -")), "{:?}", sets);
        let is_added = |set: &&String| set.contains(" NS ");
        let zones: Vec<&str> = sets.iter().filter(|set| !is_added(set)).map(|set| set.rsplit(' ').next().unwrap()).collect();
        prop_assert!(zones.iter().all(|zone| *zone == zones[0]), "{:?}", sets);
        let owner = message.queries[0].name().clone();
        let plain = handler.answer_now(SocketAddr::from(CLIENT), Transport::Tcp, &query(&name, kind, &[])).unwrap();
        let is_missing = plain[3] & 15 == 3;
        let denial = message.authorities.iter().find_map(|record| match &record.data {
            RData::DNSSEC(DNSSECRData::NSEC(nsec)) => Some((&record.name, nsec)),
            _ => None,
        });
        prop_assert_eq!(denial.is_some(), message.answers.is_empty());
        if let Some((name, nsec)) = denial {
            prop_assert_eq!(name, &owner);
            prop_assert!(*nsec.next_domain_name() > owner);
            let types: Vec<u16> = nsec.type_bit_maps().map(u16::from).collect();
            prop_assert!(!types.contains(&kind));
            prop_assert_eq!(types.contains(&128), is_missing);
            prop_assert!(types.contains(&46) && types.contains(&47));
        } else {
            prop_assert!(!is_missing || kind == 47);
        }
    }
}
