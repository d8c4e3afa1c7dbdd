//! Golden bytes: what each message looks like on the wire. A change here is a change of the protocol, and wants another
//! [`wire::VERSION`](coral_dsht::wire::VERSION), and other words in `PROTOCOL.md`.

use std::time::Duration;

use coral_dsht::message::{
    Body, ClusterInfo, Clusters, Header, MAX_KNOWN, MAX_OFFERS, Message, Request, Response, Token,
};
use coral_dsht::{Distance, Id, Level, MAX_ANNOUNCEMENT_BYTES, Peer, Services, Value, wire};
use expect_test::{Expect, expect};

/// Everything behind the header of a message, which is checked by itself.
fn check(body: Body, expect: Expect) {
    let message = Message { header: Header::default(), request_id: 0, body };
    let bytes = wire::encode(&message);
    assert_eq!(wire::decode(&bytes).as_ref(), Ok(&message));
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let is_padded = matches!(message.body, Body::Request(_) | Body::Leave);
    assert!(!is_padded || bytes.len() == wire::LEAST_REQUEST_BYTES);
    let padding = if is_padded { bytes.iter().rev().take_while(|byte| **byte == 0).count() } else { 0 };
    expect.assert_eq(&format!("{} {}", hex(&bytes[1..2]), hex(&bytes[17..17.max(bytes.len() - padding)])));
}

fn id(byte: u8) -> Id {
    Id::from_bytes([byte; 20])
}

fn value() -> Value {
    Value::new(b"v").unwrap()
}

const LEVEL_2: Level = Level::new(2).unwrap();
const AIM: Distance = Distance::from_bytes([0x11; 20]);
const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_header_tells_services_and_clusters() {
    let cluster = ClusterInfo { id: id(0xaa), age_minutes: 3, size: 500 };
    let header = Header {
        services: Services::from_bits(0x0203),
        clusters: Clusters::new(vec![cluster]),
        instance: 0x0405_0607,
        token: Some(Token::from_bytes([0xbb; 16])),
        wants_proof: true,
    };
    let message = Message { header, request_id: 0x0102_0304_0506_0708, body: Body::Response(Response::Challenge) };
    let hex: String = wire::encode(&message).iter().map(|byte| format!("{byte:02x}")).collect();
    expect!["022601020304050607080405060702030daaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa0003000001f4bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"].assert_eq(&hex);
}

#[test]
fn a_proof_is_a_header_with_a_token() {
    let header = Header { token: Some(Token::from_bytes([0xbb; 16])), ..Header::default() };
    let bytes = wire::encode(&Message { header, request_id: 0, body: Body::Proof });
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    expect!["0211000000000000000000000000000004bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"].assert_eq(&hex);
}

#[test]
fn the_largest_messages_about_announcements_fit_into_a_datagram_with_a_seal() {
    let cluster = ClusterInfo { id: id(0xaa), age_minutes: 3, size: 500 };
    let header = Header {
        clusters: Clusters::new(vec![cluster; 3]),
        token: Some(Token::from_bytes([0xbb; 16])),
        ..Header::default()
    };
    for body in [
        Body::Request(Request::CatchUp { known: vec![7; MAX_KNOWN] }),
        Body::Response(Response::Announcement { age: MINUTE, message: vec![7; MAX_ANNOUNCEMENT_BYTES].into() }),
        Body::Response(Response::Offers(vec![id(0xcc); MAX_OFFERS])),
    ] {
        let message = Message { header: header.clone(), request_id: 7, body };
        let bytes = wire::encode(&message);
        assert!(bytes.len() + 16 <= wire::MAX_DATAGRAM_BYTES, "{} bytes", bytes.len());
        assert_eq!(wire::decode(&bytes), Ok(message));
    }
}

#[test]
fn requests() {
    let (level, key) = (LEVEL_2, id(0xcc));
    check(Body::Leave, expect!["10 "]);
    check(Body::Request(Request::Ping), expect!["00 "]);
    check(
        Body::Request(Request::Find { level, key, aim: AIM }),
        expect!["01 02cccccccccccccccccccccccccccccccccccccccc1111111111111111111111111111111111111111"],
    );
    check(
        Body::Request(Request::Get { level, key, aim: AIM }),
        expect!["02 02cccccccccccccccccccccccccccccccccccccccc1111111111111111111111111111111111111111"],
    );
    check(
        Body::Request(Request::Put { level, key, ttl: MINUTE, aim: AIM }),
        expect!["03 02cccccccccccccccccccccccccccccccccccccccc0000003c1111111111111111111111111111111111111111"],
    );
    check(
        Body::Request(Request::Claim {
            level,
            key,
            aim: AIM,
            ttl: MINUTE,
            is_last: true,
            value: value(),
            refused: vec![value()],
        }),
        expect![
            "07 02cccccccccccccccccccccccccccccccccccccccc0000003c1111111111111111111111111111111111111111010176010176"
        ],
    );
    check(
        Body::Request(Request::Store { level, key, ttl: MINUTE, value: value(), turned_back: true }),
        expect!["04 02cccccccccccccccccccccccccccccccccccccccc0000003c010176"],
    );
    check(
        Body::Request(Request::Remove { level, key, value: value() }),
        expect!["05 02cccccccccccccccccccccccccccccccccccccccc0176"],
    );
    check(Body::Request(Request::Sample { level }), expect!["06 02"]);
    check(Body::Request(Request::Offer { id: key }), expect!["08 cccccccccccccccccccccccccccccccccccccccc"]);
    check(Body::Request(Request::Fetch { id: key }), expect!["09 cccccccccccccccccccccccccccccccccccccccc"]);
    check(Body::Request(Request::CatchUp { known: vec![1, 0xcccc_cccc] }), expect!["0a 0200000001cccccccc"]);
}

#[test]
fn responses() {
    let four = Peer::new("192.0.2.1:4160".parse().unwrap(), Services::from_bits(3));
    let six = Peer::new("[2001:db8::1]:4160".parse().unwrap(), Services::NONE);
    check(Body::Response(Response::Pong { seen_as: four.addr }), expect!["20 04c00002011040"]);
    check(
        Body::Response(Response::Peers(vec![four, six])),
        expect!["21 0204c0000201104000030620010db800000000000000000000000110400000"],
    );
    check(Body::Response(Response::Values(vec![value()])), expect!["22 010176"]);
    check(
        Body::Response(Response::Room { full: true, loaded: false, peers: vec![four] }),
        expect!["23 010104c000020110400003"],
    );
    check(Body::Response(Response::Done(true)), expect!["24 01"]);
    check(Body::Response(Response::OtherCluster), expect!["25 "]);
    check(Body::Response(Response::Claimed), expect!["27 "]);
    // An age is rounded down.
    let announcement = |age| Response::Announcement { age, message: (*b"news").into() };
    check(Body::Response(announcement(MINUTE)), expect!["28 0000003c00046e657773"]);
    let header = Header::default();
    let young = Message { header, request_id: 0, body: Body::Response(announcement(MINUTE - Duration::from_nanos(1))) };
    assert_eq!(wire::encode(&young)[17..21], [0, 0, 0, 59]);
    check(
        Body::Response(Response::Offers(vec![id(0xaa), id(0xbb)])),
        expect!["29 02aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"],
    );
}
