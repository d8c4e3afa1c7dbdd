//! Combining partial content: slices.

use coral_dsht::memory::MemoryNetwork;

use crate::support::client::get_with;
use crate::support::film::{HIT, MIB, TAG, TOTAL, alone, film, kept, range, references, slice, watch};
use crate::support::node::{HOST, Node};
use crate::support::origin::{File, Origin, Step};

#[tokio::test]
async fn slices_of_two_versions_are_never_put_together() {
    let old = film();
    for changed in [File::of(TOTAL, "etag: \"b\"").version(100), File::of(TOTAL + 1, TAG).version(50)] {
        let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
        let nodes = [Node::start(&network, &origin).await, Node::start(&network, &origin).await];
        origin.file("/film", &old);
        watch(&nodes[0], &old, 1_500_000..1_500_010).await;
        kept(&nodes[0], 1).await;
        origin.file("/film", &changed);
        // The second node has the first slice from the first one, which is right to think that it is still good.
        for node in [&nodes[1], &nodes[0]] {
            let cut = range(node, "bytes=1500000-2499999").await;
            assert!(cut.status == 206 && !cut.whole && cut.body == old.bytes(1_500_000..2 * MIB));
            watch(node, &changed, 2 * MIB..2_500_000).await;
            watch(node, &changed, 1_500_000..2_500_000).await;
        }
        // Once for each who had to find that there is a new version; what is new is shared.
        assert_eq!(origin.ranges("/film"), [slice(1), slice(1), slice(2), slice(2)]);
    }
}

#[tokio::test]
async fn what_has_no_strong_validator_is_asked_for_as_one_part() {
    for fields in ["etag: W/\"a\"", "x: y"] {
        let film = File::of(TOTAL, fields);
        let (origin, node) = alone(&film).await;
        watch(&node, &film, 1_500_000..2_500_000).await;
        watch(&node, &film, 3_000_000..3_500_000).await;
        assert_eq!(origin.ranges("/film"), [&slice(1), "1500000-2499999", "3000000-3499999"]);
        assert_eq!(watch(&node, &film, 3_100_000..3_200_000).await.cache(), HIT);
        let reply = get_with(node.addr, HOST, "/film", "range: bytes=1500000-\nif-range: W/\"a\"").await;
        assert_eq!((reply.status, reply.body.len() as u64), (200, TOTAL), "a weak tag is no condition that holds");
    }
}

#[tokio::test]
async fn answers_that_contradict_what_was_asked_are_no_slices() {
    let part = |place: &str, length: u64| {
        let head =
            format!("HTTP/1.1 206 Partial Content\n{TAG}\ncontent-range: bytes {place}\ncontent-length: {length}\n\n");
        Step::Send(head.replace('\n', "\r\n").into_bytes())
    };
    let film = film();
    let good = || vec![part(&format!("1500000-1500009/{TOTAL}"), 10), Step::Pattern(1_500_000, 10)];
    for (place, length) in [
        (format!("{MIB}-{}/*", 2 * MIB - 1), MIB),
        (format!("{}-{}/{TOTAL}", MIB + 1, 2 * MIB - 1), MIB - 1),
        (format!("{MIB}-{}/{TOTAL}", 2 * MIB), MIB + 1),
        (format!("{MIB}-{MIB}/{TOTAL}"), 2),
        (format!("0-{}/{TOTAL}", MIB - 1), MIB),
    ] {
        let (origin, network) = (Origin::start().await, MemoryNetwork::new());
        origin.on("/film", vec![part(&place, length), Step::Pattern(0, length)]).on("/film", good());
        let node = Node::start(&network, &origin).await;
        watch(&node, &film, 1_500_000..1_500_010).await;
        assert_eq!(origin.ranges("/film"), [&slice(1), "1500000-1500009"], "{place}");
        assert_eq!(references(&node, 1).await, 0);
    }
}

#[tokio::test]
async fn a_slice_that_comes_short_is_asked_for_again_from_there_on() {
    let origin = Origin::start().await;
    let film = film();
    let last = 2 * MIB - 1;
    for (first, length) in [(MIB, 400_000), (MIB + 400_000, MIB - 400_000)] {
        let head = format!(
            "HTTP/1.1 206 Partial Content\ncache-control: max-age=600\n{TAG}\ncontent-range: bytes {first}-{}/{TOTAL}\n\
             content-length: {length}\n\n",
            first + length - 1
        );
        let head = Step::Send(head.replace('\n', "\r\n").into_bytes());
        origin.on("/film", vec![head, Step::Pattern(first, length)]);
    }
    let network = MemoryNetwork::new();
    let (node, other) = (Node::start(&network, &origin).await, Node::start(&network, &origin).await);
    watch(&node, &film, 1_100_000..2_000_000).await;
    assert_eq!(origin.ranges("/film"), [slice(1), format!("{}-{last}", MIB + 400_000)]);
    kept(&node, 1).await;
    assert_eq!(watch(&node, &film, MIB..last + 1).await.cache(), HIT);
    assert_eq!(watch(&other, &film, MIB..last + 1).await.cache(), "coral; fwd=uri-miss; detail=peer-l0; stored");
    assert_eq!(origin.count("/film"), 2);
}
