//! Large objects in slices: each fetched once for all nodes, of one version, found again and passed on as it comes.

mod support;

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use coral_dsht::memory::MemoryNetwork;
use coral_proxy::Config;
use support::client::{Transfer, get, get_with};
use support::film::{HIT, MIB, TAG, TOTAL, alone, check, film, kept, range, references, slice, watch};
use support::line::Line;
use support::node::{HOST, Node, nodes, on_disk};
use support::origin::{File, Gate, Origin, Step};
use support::script::Script;
use support::until;

#[tokio::test]
async fn nodes_whose_clients_seek_to_the_same_place_at_once_ask_the_origin_once_for_each_slice() {
    let (network, origin, gate) = (MemoryNetwork::new(), Origin::start().await, Gate::closed());
    let film = film();
    origin.file("/film", &film.clone().after(vec![Step::Wait(gate.clone())]));
    let nodes = nodes(5, &network, &origin).await;
    let text = format!("GET /film HTTP/1.1\nhost: {HOST}\nrange: bytes=1500000-3499999\n\n");
    let seeks: Vec<_> = nodes
        .iter()
        .map(|node| {
            let (addr, text) = (node.addr, text.clone());
            tokio::spawn(async move { Transfer::begin(addr, &text).await.finish().await })
        })
        .collect();
    until(async || references(&nodes[0], 1).await == 5).await;
    gate.open();
    for seek in seeks {
        check(&seek.await.unwrap(), &film, 1_500_000..3_500_000);
    }
    assert_eq!(origin.ranges("/film"), [slice(1), slice(2), slice(3)]);
    for node in &nodes {
        assert_eq!(watch(node, &film, 2_000_000..3_000_000).await.cache(), HIT);
    }
    assert_eq!(origin.count("/film"), 3);
}

#[tokio::test]
async fn seeks_that_overlap_share_slices_wherever_they_are() {
    let (network, origin, film) = (MemoryNetwork::new(), Origin::start().await, film());
    origin.file("/film", &film);
    let nodes = nodes(2, &network, &origin).await;
    let first = watch(&nodes[0], &film, 1_500_000..2_500_000).await;
    assert_eq!(first.cache(), "coral; fwd=uri-miss; detail=origin; stored");
    // Whether it is whole by now or not: it is asked for once.
    watch(&nodes[0], &film, 2_400_000..3_300_000).await;
    assert_eq!(origin.ranges("/film"), [slice(1), slice(2), slice(3)]);
    let other = watch(&nodes[1], &film, 1_400_000..3_300_000).await;
    assert_eq!(other.cache(), "coral; fwd=uri-miss; detail=peer-l0; stored");
    assert_eq!(origin.count("/film"), 3);
}

#[tokio::test]
async fn a_node_that_has_the_whole_gives_slices_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (network, origin, film) = (MemoryNetwork::new(), Origin::start().await, film());
    origin.file("/film", &film);
    let whole = Node::start_with(&network, &origin, on_disk(dir.path())).await;
    assert!(get(whole.addr, HOST, "/film").await.whole);
    let nodes = nodes(2, &network, &origin).await;
    for node in &nodes {
        let reply = watch(node, &film, 1_500_000..TOTAL).await;
        assert_eq!(reply.cache(), "coral; fwd=uri-miss; detail=peer-l0; stored");
        assert_eq!(watch(node, &film, 1_500_000..TOTAL).await.cache(), HIT);
    }
    assert_eq!(origin.count("/film"), 1);
    assert_eq!(references(&nodes[0], 4).await, 2);
}

#[tokio::test]
async fn an_origin_without_ranges_is_asked_once_and_the_whole_is_kept() {
    let (network, origin, gate, dir) =
        (MemoryNetwork::new(), Origin::start().await, Gate::closed(), tempfile::tempdir().unwrap());
    let film = film().without_ranges();
    origin.file("/film", &film.clone().after(vec![Step::Wait(gate.clone())]));
    let mut nodes = Vec::new();
    for number in 0..3 {
        nodes.push(Node::start_with(&network, &origin, on_disk(&dir.path().join(number.to_string()))).await);
    }
    let seeks: Vec<_> = nodes
        .iter()
        .map(|node| {
            let addr = node.addr;
            tokio::spawn(async move { get_with(addr, HOST, "/film", "range: bytes=1500000-3499999").await })
        })
        .collect();
    until(async || references(&nodes[0], 1).await == 3).await;
    gate.open();
    for seek in seeks {
        check(&seek.await.unwrap(), &film, 1_500_000..3_500_000);
    }
    for node in &nodes {
        assert!(get(node.addr, HOST, "/film").await.body == film.bytes(0..TOTAL));
        watch(node, &film, 3_000_000..TOTAL).await;
    }
    assert_eq!(origin.ranges("/film"), [slice(1)]);
}

#[tokio::test]
async fn slices_outlive_the_process_and_are_told_of() {
    let (network, origin, film, dir) =
        (MemoryNetwork::new(), Origin::start().await, film(), tempfile::tempdir().unwrap());
    origin.file("/film", &film);
    let node = Node::start_with(&network, &origin, on_disk(dir.path())).await;
    watch(&node, &film, 3_500_000..TOTAL).await;
    assert_eq!(references(&node, 3).await, 1);
    node.stop().await;
    let node = Node::start_with(&network, &origin, on_disk(dir.path())).await;
    until(async || references(&node, 3).await == 1 && references(&node, 4).await == 1).await;
    assert_eq!(watch(&node, &film, 3_600_000..TOTAL).await.cache(), HIT);
    let other = Node::start(&network, &origin).await;
    watch(&other, &film, 3_600_000..TOTAL).await;
    assert_eq!(origin.count("/film"), 2);
    node.stop().await;
    assert_eq!(references(&other, 3).await, 1, "its own is left");
}

#[tokio::test]
async fn when_the_one_who_fetches_a_slice_dies_within_it_another_one_gets_the_rest_for_all() {
    let (network, origin, film) = (MemoryNetwork::new(), Origin::start().await, film());
    origin.file("/film", &film.clone().interrupted(500_000, vec![Step::Stall]));
    let text = format!("GET /film HTTP/1.1\nhost: {HOST}\nrange: bytes={MIB}-{}\n\n", 2 * MIB - 1);
    let first = Node::start(&network, &origin).await;
    let _lost = Transfer::begin(first.addr, &text).await;
    let nodes = nodes(3, &network, &origin).await;
    let mut transfers = Vec::new();
    for node in &nodes {
        let mut transfer = Transfer::begin(node.addr, &text).await;
        assert!(transfer.read(500_000).await == film.bytes(MIB..MIB + 500_000));
        transfers.push(transfer);
    }
    assert_eq!(origin.count("/film"), 1);
    origin.file("/film", &film);
    first.crash().await;
    for transfer in &mut transfers {
        let rest = transfer.finish().await;
        assert!(rest.whole && rest.body == film.bytes(MIB + 500_000..2 * MIB));
    }
    assert_eq!(origin.ranges("/film"), [slice(1), format!("{}-{}", MIB + 500_000, 2 * MIB - 1)]);
    for node in &nodes {
        assert_eq!(watch(node, &film, MIB..2 * MIB).await.cache(), HIT);
    }
}

/// As with the whole (`continued.rs`).
#[tokio::test]
async fn nobody_waits_for_those_who_read_the_slice_from_it() {
    for count in [2, 4] {
        let (origin, bad, gate) = (Origin::start().await, Origin::start().await, Gate::closed());
        let film = film();
        origin.file("/film", &film);
        let steps = vec![Step::Wait(gate.clone()), Step::Close];
        bad.file("/film", &File::of(TOTAL, &format!("{TAG}\ncache-status: {HIT}")).interrupted(200_000, steps));
        let text = format!("GET /film HTTP/1.1\nhost: {HOST}\nrange: bytes={MIB}-{}\n\n", 2 * MIB - 1);
        let mut line = Line::start(count, bad.addr, &origin, &text, &film.bytes(MIB..MIB + 200_000)).await;
        gate.open();
        line.ends_with(&film.bytes(MIB + 200_000..2 * MIB)).await;
        assert_eq!(origin.ranges("/film"), [format!("{}-{}", MIB + 200_000, 2 * MIB - 1)]);
    }
}

#[tokio::test]
async fn a_slice_that_another_node_has_made_up_leaves_the_store_when_the_origin_is_asked() {
    let (origin, liar, script) = (Origin::start().await, Origin::start().await, Script::default());
    let film = film();
    origin.file("/film", &film);
    liar.file("/film", &File::of(TOTAL, &format!("etag: \"b\"\ncache-status: {HIT}")).version(100));
    let change = |config: &mut Config| config.peer.verify = 1;
    let node = Node::start_on(|addr| script.index(addr), &origin, change).await;
    script.names(node.addr, &[liar.addr]);
    range(&node, "bytes=1500000-1500009").await;
    until(async || range(&node, "bytes=1500000-1500009").await.body == film.bytes(1_500_000..1_500_010)).await;
    assert_eq!((node.proxy.status().errors["peer"], liar.count("/film")), (1, 1));
}

#[tokio::test]
async fn a_transfer_is_a_few_slices_ahead_of_its_client_and_no_more() {
    const LENGTH: u64 = 48 * MIB;
    let file = File::of(LENGTH, TAG);
    let origin = Origin::start().await;
    origin.file("/film", &file);
    let change = |config: &mut Config| {
        config.memory = ByteSize::mib(4);
        config.threads = NonZeroUsize::new(2);
    };
    let node = Node::start_with(&MemoryNetwork::new(), &origin, change).await;
    let text = format!("GET /film HTTP/1.1\nhost: {HOST}\nrange: bytes=1-\n\n");
    let mut transfer = Transfer::begin(node.addr, &text).await;
    assert_eq!(transfer.reply.field("content-length"), (LENGTH - 1).to_string());
    let mut place = 1;
    while place < LENGTH {
        let count = (251 * 1000).min(LENGTH - place);
        assert!(transfer.read(count).await == file.bytes(place..place + count), "altered after {place}");
        place += count;
        // Sockets hold some of it as well.
        let (read, asked) = (place / MIB, origin.count("/film") as u64);
        assert!(asked <= read + 1 + 4 + 12, "{asked} slices while {read} were read");
    }
    assert_eq!(origin.count("/film") as u64, LENGTH / MIB);
    assert!(node.proxy.status().memory_bytes <= 4 * MIB);
}

#[tokio::test]
async fn what_ends_within_a_slice_is_kept_as_the_whole() {
    for fields in [TAG, "x: y"] {
        let small = File::of(500_000, fields);
        let (origin, node) = alone(&small).await;
        watch(&node, &small, 100_000..200_000).await;
        assert_eq!(origin.ranges("/film"), [slice(0)]);
        kept(&node, 1).await;
        let whole = get(node.addr, HOST, "/film").await;
        assert_eq!((whole.status, whole.cache(), whole.field("content-range")), (200, HIT, ""));
        assert!(whole.body == small.bytes(0..500_000));
        assert_eq!(range(&node, "bytes=-500").await.body, small.bytes(499_500..500_000));
        assert_eq!(range(&node, "bytes=500000-").await.field("content-range"), "bytes */500000");
        assert_eq!(origin.count("/film"), 1);
    }
}

#[tokio::test]
async fn a_slice_that_has_expired_is_asked_about_and_not_fetched_again() {
    let (origin, node) = alone(&File::of(TOTAL, &format!("{TAG}\ncdn-cache-control: max-age=0"))).await;
    let film = film();
    watch(&node, &film, 1_500_000..1_600_000).await;
    // It is stored a moment after the client has it.
    kept(&node, 1).await;
    let confirmed = b"HTTP/1.1 304 Not Modified\r\ncdn-cache-control: max-age=600\r\netag: \"a\"\r\n\r\n".to_vec();
    let asked = origin.count("/film");
    origin.no_file("/film").on("/film", vec![Step::Send(confirmed)]);
    let reply = watch(&node, &film, 1_500_000..1_600_000).await;
    assert_eq!(reply.cache(), "coral; fwd=stale; fwd-status=304; detail=origin");
    assert_eq!((watch(&node, &film, 1_500_000..1_600_000).await.cache(), origin.count("/film")), (HIT, asked + 1));
}

#[tokio::test]
async fn what_varies_is_found_by_the_fields_by_which_it_does() {
    let film = File::of(TOTAL, &format!("{TAG}\nvary: accept-language"));
    let (origin, node) = alone(&film).await;
    for (language, asked) in [("de", 2), ("en", 4), ("de", 4)] {
        let lines = format!("range: bytes=1500000-2499999\naccept-language: {language}");
        check(&get_with(node.addr, HOST, "/film", &lines).await, &film, 1_500_000..2_500_000);
        assert_eq!(origin.count("/film"), asked, "{language}");
    }
}

#[tokio::test]
async fn a_crowd_that_seeks_on_one_node_fetches_each_slice_once_and_reads_it_as_it_comes() {
    let gate = Gate::closed();
    let film = film();
    let (origin, node) = alone(&film.clone().interrupted(300_000, vec![Step::Wait(gate.clone())])).await;
    let text = format!("GET /film HTTP/1.1\nhost: {HOST}\nrange: bytes={MIB}-\n\n");
    let mut transfers = Vec::new();
    for _ in 0..10 {
        let mut transfer = Transfer::begin(node.addr, &text).await;
        assert!(transfer.read(300_000).await == film.bytes(MIB..MIB + 300_000));
        transfers.push(transfer);
    }
    gate.open();
    let rest: Vec<_> = transfers.into_iter().map(|mut one| tokio::spawn(async move { one.finish().await })).collect();
    for rest in rest {
        let rest = rest.await.unwrap();
        assert!(rest.whole && rest.body == film.bytes(MIB + 300_000..TOTAL));
    }
    assert_eq!(origin.ranges("/film"), [slice(1), slice(2), slice(3), slice(4)]);
}

#[tokio::test]
async fn where_a_slice_has_no_room_a_part_passes_through() {
    let origin = Origin::start().await;
    let film = film();
    origin.file("/film", &film);
    let change = |config: &mut Config| config.memory_object_limit = ByteSize::kib(100);
    let node = Node::start_with(&MemoryNetwork::new(), &origin, change).await;
    watch(&node, &film, 1_500_000..2_500_000).await;
    assert_eq!(origin.ranges("/film"), ["1500000-2499999"]);
}

/// What seeks cost the origin and the client, where each answer of the origin takes 100 ms to begin and a connection to it brings
/// 1 MiB in 100 ms.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: cargo test --release -p coral-proxy --test slices -- --ignored --nocapture"]
async fn what_seeks_cost() {
    const LENGTH: u64 = 64 * MIB;
    let way = || vec![Step::Delay(Duration::from_millis(100))];
    let file = File::of(LENGTH, TAG).after(way()).paced(MIB / 10, Duration::from_millis(10));
    println!(
        "seek                                 origin: requests    MiB   first byte: median ms    max   last byte: max ms"
    );
    let at = |place: u64, count: usize| vec![place; count];
    let near = (0..8).map(|turn| 20_000_000 + turn * 400_000).collect::<Vec<_>>();
    for (name, places, at_once) in [
        ("8 nodes, one place, at once", at(20_000_000, 8), true),
        ("8 nodes, one place, in turn", at(20_000_000, 8), false),
        ("8 nodes, 400 kB apart, in turn", near, false),
        ("1 node, just before a slice ends", at(20 * MIB - 1000, 1), true),
    ] {
        let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
        origin.file("/film", &file);
        let nodes = nodes(places.len(), &network, &origin).await;
        let mut times = Vec::new();
        let mut under_way = Vec::new();
        for (node, place) in nodes.iter().zip(places) {
            let (addr, file) = (node.addr, file.clone());
            let task = tokio::spawn(async move {
                let (began, last) = (Instant::now(), place + 2_999_999);
                let text = format!("GET /film HTTP/1.1\nhost: {HOST}\nrange: bytes={place}-{last}\n\n");
                let mut transfer = Transfer::begin(addr, &text).await;
                assert!(transfer.read(1).await == file.bytes(place..place + 1));
                let first = began.elapsed();
                assert!(transfer.finish().await.body == file.bytes(place + 1..last + 1));
                (first, began.elapsed())
            });
            if at_once {
                under_way.push(task);
            } else {
                times.push(task.await.unwrap());
            }
        }
        for task in under_way {
            times.push(task.await.unwrap());
        }
        let received: u64 = nodes.iter().map(|node| node.proxy.status().received_from_origins_bytes).sum();
        times.sort();
        let slowest = times.iter().map(|(_, last)| *last).max().unwrap();
        println!(
            "{name:36} {:>16} {:>6.1} {:>24} {:>6} {:>19}",
            origin.count("/film"),
            received as f64 / MIB as f64,
            times[times.len() / 2].0.as_millis(),
            times.last().unwrap().0.as_millis(),
            slowest.as_millis()
        );
    }
    let (origin, node) = alone(&file).await;
    let began = Instant::now();
    let reply = range(&node, "bytes=1-").await;
    assert!(reply.whole && reply.body == file.bytes(1..LENGTH));
    let rate = (LENGTH as f64 / MIB as f64) / began.elapsed().as_secs_f64();
    println!("all but one byte of 64 MiB: {rate:.1} MiB/s in {} requests", origin.count("/film"));
}
