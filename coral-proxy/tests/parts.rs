//! Parts that are no slices, at more than one node: who has one is asked for what lies within it, and for nothing else (RFC 9111 §3.3).

mod support;

use std::time::{Duration, SystemTime};

use coral_dsht::memory::MemoryNetwork;
use coral_dsht::{Key, Levels, Value};
use coral_proxy::partial::Place;
use coral_proxy::reference::{decode_part, encode_part, parts_key};
use coral_proxy::{Config, PurgedBy, decode_reference, encode_reference, index_key};
use http::HeaderMap;
use support::client::{get, request};
use support::film::{HIT, TAG, TOTAL, check, film, range, slice, watch};
use support::node::{HOST, Node, on_disk};
use support::origin::{File, Origin, Step};
use support::until;

const OF_ORIGIN: &str = "coral; fwd=uri-miss; detail=origin; stored";
const OF_PEER: &str = "coral; fwd=uri-miss; detail=peer-l0; stored";

/// Without a validator there are no slices.
fn loose() -> File {
    File::of(TOTAL, "x: a")
}

fn url() -> Key {
    index_key(&format!("http://{HOST}/film"), &[], &[]).unwrap()
}

/// What the index has under this key.
async fn named(node: &Node, key: Key) -> Vec<Value> {
    node.dsht.get(key, Levels::ALL).await.unwrap().values
}

/// Until so many nodes are named for parts.
async fn until_named(node: &Node, count: usize) {
    until(async || named(node, parts_key(url())).await.len() == count).await;
}

/// A place, as a head tells of it.
fn place(text: &str) -> Place {
    Place::of(&HeaderMap::from_iter([(http::header::CONTENT_RANGE, text.parse().unwrap())])).unwrap()
}

async fn put(node: &Node, key: Key, value: Value) {
    node.dsht.put(key, value, Duration::from_secs(60), Levels::ALL).await.unwrap();
}

fn asked_by_peers(node: &Node) -> u64 {
    node.proxy.status().peer_requests.values().sum()
}

/// An origin with this file, a node that has these bytes of it and is named for them, and another node.
async fn holder_and_other(file: &File, bytes: std::ops::Range<u64>) -> (Origin, Node, Node) {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    origin.file("/film", file);
    let (holder, other) = (Node::start(&network, &origin).await, Node::start(&network, &origin).await);
    watch(&holder, file, bytes).await;
    until_named(&holder, 1).await;
    (origin, holder, other)
}

#[tokio::test]
async fn what_lies_within_a_part_of_another_node_costs_the_origin_nothing() {
    let film = loose();
    let (origin, holder, other) = holder_and_other(&film, 1_500_000..2_500_000).await;
    let asked = [slice(1), "1500000-2499999".to_owned()];
    assert_eq!(origin.ranges("/film"), asked);
    for (bytes, cache) in
        [(1_600_000..1_700_000, OF_PEER), (1_600_100..1_600_200, HIT), (1_500_000..2_500_000, OF_PEER)]
    {
        assert_eq!(watch(&other, &film, bytes.clone()).await.cache(), cache, "{bytes:?}");
    }
    assert_eq!((origin.ranges("/film"), asked_by_peers(&holder)), (asked.to_vec(), 2));
    // It has a part by now, too.
    until_named(&other, 2).await;
    assert_eq!(other.proxy.status().errors.get("peer"), None);
}

#[tokio::test]
async fn what_lies_outside_is_the_origins_and_the_holder_is_not_asked() {
    let film = loose();
    for bytes in [1_400_000..1_600_000, 2_400_000..2_600_000, 3_000_000..3_000_001] {
        let (origin, holder, other) = holder_and_other(&film, 1_500_000..2_500_000).await;
        assert_eq!(watch(&other, &film, bytes.clone()).await.cache(), OF_ORIGIN);
        let text = format!("{}-{}", bytes.start, bytes.end - 1);
        assert!(origin.ranges("/film").contains(&text), "{text}: {:?}", origin.ranges("/film"));
        assert_eq!(asked_by_peers(&holder), 0, "{text}");
    }
}

#[tokio::test]
async fn the_end_is_found_by_who_does_not_know_where_that_is() {
    // That it could be had in slices makes no difference.
    for film in [loose(), film()] {
        let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
        origin.file("/film", &film);
        let mut nodes = Vec::new();
        for _ in 0..3 {
            nodes.push(Node::start(&network, &origin).await);
        }
        let last = async |node: &Node, count: u64, cache: &str| {
            let reply = range(node, &format!("bytes=-{count}")).await;
            check(&reply, &film, TOTAL - count..TOTAL);
            assert_eq!(reply.cache(), cache, "{count}");
        };
        last(&nodes[0], 5000, OF_ORIGIN).await;
        until_named(&nodes[0], 1).await;
        last(&nodes[1], 5000, OF_PEER).await;
        last(&nodes[1], 70, HIT).await;
        assert_eq!(watch(&nodes[2], &film, TOTAL - 300..TOTAL - 200).await.cache(), OF_PEER);
        assert_eq!(origin.ranges("/film"), ["-5000"]);
    }
}

#[tokio::test]
async fn who_wants_the_whole_is_not_sent_to_a_part_and_who_is_sent_all_the_same_blames_nobody() {
    let film = loose();
    let (origin, holder, other) = holder_and_other(&film, 1_500_000..2_500_000).await;
    let before = origin.count("/film");
    assert!(get(other.addr, HOST, "/film").await.body == film.bytes(0..TOTAL));
    assert_eq!((asked_by_peers(&holder), origin.count("/film")), (0, before + 1));
    // An older reference, or a false one.
    put(&other, url(), encode_reference(holder.addr)).await;
    assert!(get(other.addr, HOST, "/film").await.body == film.bytes(0..TOTAL));
    assert_eq!((asked_by_peers(&holder), origin.count("/film")), (1, before + 2));
    let text = format!("GET /film HTTP/1.1\nhost: {HOST}\ncache-control: only-if-cached\ncdn-loop: coral\n\n");
    let reply = request(holder.addr, &text).await;
    assert_eq!((reply.status, reply.cache()), (504, "coral; detail=not-cached"));
    assert_eq!(other.proxy.status().errors.get("peer"), None);
    assert_eq!(watch(&other, &film, 1_600_000..1_700_000).await.cache(), OF_PEER, "it is asked for what it has");
}

#[tokio::test]
async fn the_reference_of_a_part_goes_with_it_and_the_whole_takes_its_place() {
    let (network, origin, dir) = (MemoryNetwork::new(), Origin::start().await, tempfile::tempdir().unwrap());
    let film = loose();
    origin.file("/film", &film);
    let [holder, other] = [
        Node::start_with(&network, &origin, on_disk(dir.path())).await,
        Node::start_with(&network, &origin, |_| {}).await,
    ];
    watch(&holder, &film, 1_500_000..2_500_000).await;
    until_named(&other, 1).await;
    let (addr, place, stamp) = decode_part(&named(&other, parts_key(url())).await[0]).unwrap();
    assert_eq!((addr, place, stamp), (holder.addr, self::place(&format!("bytes 1500000-2499999/{TOTAL}")), None));
    assert!(named(&other, url()).await.is_empty(), "the whole is not here");
    assert!(get(holder.addr, HOST, "/film").await.whole);
    until_named(&other, 0).await;
    until(async || named(&other, url()).await.iter().filter_map(decode_reference).eq([holder.addr])).await;
    assert_eq!(watch(&holder, &film, 1_600_000..1_700_000).await.cache(), HIT, "of the whole");

    watch(&other, &film, 3_000_000..3_000_100).await;
    until_named(&other, 1).await;
    let index = holder;
    other.stop().await;
    until_named(&index, 0).await;
}

#[tokio::test]
async fn a_part_that_makes_room_is_no_longer_named() {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    let film = loose();
    origin.file("/film", &film);
    let change = |config: &mut Config| config.memory = bytesize::ByteSize::kib(500);
    let (holder, other) = (Node::start_with(&network, &origin, change).await, Node::start(&network, &origin).await);
    watch(&holder, &film, 1_500_000..1_800_000).await;
    until_named(&other, 1).await;
    let others = File::of(300_000, TAG);
    for number in 0.. {
        let path = format!("/{number}");
        origin.file(&path, &others);
        // Often enough to be let in for it.
        for _ in 0..8 {
            get(holder.addr, HOST, &path).await;
        }
        holder.proxy.status();
        if named(&other, parts_key(url())).await.is_empty() {
            break;
        }
    }
    let asked = asked_by_peers(&holder);
    assert_eq!(watch(&other, &film, 1_600_000..1_700_000).await.cache(), OF_ORIGIN);
    assert_eq!(asked_by_peers(&holder), asked);
}

#[tokio::test]
async fn a_part_that_was_purged_is_given_to_nobody_and_withdrawn_where_it_is_asked_for() {
    let (old, new) = (loose(), File::of(TOTAL, "x: b").version(7));
    for holder_has_heard in [true, false] {
        let (origin, holder, other) = holder_and_other(&old, 1_500_000..2_500_000).await;
        origin.file("/film", &new);
        let purging = if holder_has_heard { &holder } else { &other };
        let pattern = purging.proxy.pattern(HOST).unwrap();
        purging.proxy.purge(&[pattern], SystemTime::now(), PurgedBy::Operator).await;
        assert_eq!(watch(&other, &new, 1_600_000..1_700_000).await.cache(), OF_ORIGIN);
        assert_eq!(asked_by_peers(&holder), 1);
        let named_for_parts = async || {
            let values = named(&other, parts_key(url())).await;
            values.iter().filter_map(|value| decode_part(value).map(|(addr, ..)| addr)).collect::<Vec<_>>()
        };
        let expected = if holder_has_heard { vec![other.addr] } else { vec![holder.addr, other.addr] };
        until(async || named_for_parts().await == expected).await;
    }
}

/// Ends that are named for bytes 1,500,000 to 2,499,999 of the film, and answer so.
async fn liars(node: &Node, answer: &[Step], count: u8) -> Vec<Origin> {
    let mut liars = Vec::new();
    for _ in 0..count {
        let liar = Origin::start().await;
        liar.on("/film", answer.to_vec());
        put(node, parts_key(url()), encode_part(liar.addr, place("bytes 1500000-2499999/4195304"), None)).await;
        liars.push(liar);
    }
    liars
}

fn says(head: &str, body: &str) -> Vec<Step> {
    vec![Step::Send(format!("HTTP/1.1 {head}\n\n{body}").replace('\n', "\r\n").into_bytes())]
}

#[tokio::test]
async fn who_promises_what_he_has_not_is_one_of_two_that_are_asked_and_costs_no_slice() {
    assert_eq!(TOTAL, 4_195_304);
    let fresh = "cache-control: max-age=600\ncache-status: coral; hit";
    let other_place = format!("206 Partial Content\n{fresh}\ncontent-range: bytes 0-4/{TOTAL}\ncontent-length: 5");
    let of_other =
        format!("206 Partial Content\n{fresh}\ncontent-range: bytes 1600000-1600099/{TOTAL}\ncontent-length: 5");
    for (answer, is_blamed) in [
        (says("504 Gateway Timeout\ncache-status: coral; detail=not-cached\ncontent-length: 0", ""), false),
        (says(&other_place, "lies!"), false),
        (says(&of_other, "lies!"), false),
        (says(&format!("200 OK\n{fresh}\ncontent-length: 5"), "lies!"), false),
        (says("200 OK\ncontent-length: 5", "lies!"), true),
        (vec![Step::Close], true),
    ] {
        for (film, ranges) in [(film(), vec![slice(1)]), (loose(), vec![slice(1), "1600000-1699999".to_owned()])] {
            let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
            origin.file("/film", &film);
            let node = Node::start(&network, &origin).await;
            let liars = liars(&node, &answer, 4).await;
            watch(&node, &film, 1_600_000..1_700_000).await;
            assert_eq!(origin.ranges("/film"), ranges);
            let asked = liars.iter().filter(|liar| liar.count("/film") > 0).count();
            let blamed = node.proxy.status().errors.get("peer").copied().unwrap_or_default();
            assert_eq!((asked, blamed), (2, if is_blamed { 2 } else { 0 }));
        }
    }
}

#[tokio::test]
async fn what_is_no_reference_of_a_part_is_passed_over() {
    let film = film();
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    origin.file("/film", &film);
    let (node, far) = (Node::start(&network, &origin).await, Origin::start().await);
    let reference = encode_part(far.addr, place("bytes 1500000-2499999/4195304"), None);
    let bytes = reference.as_bytes();
    let with = |index: usize, byte: u8| {
        let mut bytes = bytes.to_vec();
        bytes[index] = byte;
        Value::new(&bytes).unwrap()
    };
    let garbled = [
        Value::new(b"").unwrap(),
        Value::new(&[0xff; 64]).unwrap(),
        // No place, half of one, one that ends before it begins, one beyond its whole; another kind.
        Value::new(&bytes[..8]).unwrap(),
        Value::new(&bytes[..20]).unwrap(),
        with(8, 0xff),
        with(14, 0xff),
        with(1, b'h'),
        encode_reference(far.addr),
    ];
    for value in garbled {
        put(&node, parts_key(url()), value).await;
        assert_eq!(watch(&node, &film, 1_600_000..1_600_001).await.status, 206);
    }
    assert_eq!((far.count("/film"), origin.ranges("/film")), (0, vec![slice(1)]));
    // And a right one where only those of the whole are looked for.
    put(&node, url(), reference).await;
    assert!(get(node.addr, HOST, "/film").await.whole);
    assert_eq!(far.count("/film"), 0);
}

#[tokio::test]
async fn a_part_of_a_version_has_a_stamp_and_is_held_against_it() {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    origin.file("/film", &film());
    let (holder, other) = (Node::start(&network, &origin).await, Node::start(&network, &origin).await);
    range(&holder, "bytes=-5").await;
    until_named(&holder, 1).await;
    let honest = named(&holder, parts_key(url())).await.remove(0);
    let (_, place, stamp) = decode_part(&honest).unwrap();
    assert!(stamp.is_some(), "{honest:?}");
    holder.stop().await;
    until_named(&other, 0).await;

    // It says the same, and gives something else.
    let liar = Origin::start().await;
    let place_text = format!("bytes {}-{}/{TOTAL}", TOTAL - 5, TOTAL - 1);
    let head = format!("206 Partial Content\ncache-control: max-age=600\ncache-status: coral; hit\n{TAG}");
    liar.on("/film", says(&format!("{head}\ncontent-range: {place_text}\ncontent-length: 5"), "lies!"));
    put(&other, parts_key(url()), encode_part(liar.addr, place, stamp)).await;
    assert!(!range(&other, "bytes=-5").await.whole);
    assert_eq!(other.proxy.status().errors["peer"], 1);
    check(&range(&other, "bytes=-5").await, &film(), TOTAL - 5..TOTAL);
    assert_eq!((liar.count("/film"), origin.ranges("/film").len()), (1, 2));
}
