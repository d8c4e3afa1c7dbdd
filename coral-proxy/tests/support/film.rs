//! A film in slices: what clients get of it, and what the origin sees.

use std::ops::Range;

use coral_dsht::Levels;
use coral_dsht::memory::MemoryNetwork;
use coral_proxy::slice::{SLICE_BYTES, slice_key};
use coral_proxy::{decode_reference, index_key};

use super::client::{Reply, get_with};
use super::node::{HOST, Node};
use super::origin::{File, Origin};
use super::until;

pub const MIB: u64 = SLICE_BYTES;
/// Four slices, and a piece.
pub const TOTAL: u64 = 4 * MIB + 1000;
pub const TAG: &str = "etag: \"a\"";
pub const HIT: &str = "coral; hit";

pub fn film() -> File {
    File::of(TOTAL, TAG)
}

/// An origin with this film, and a node.
pub async fn alone(file: &File) -> (Origin, Node) {
    let origin = Origin::start().await;
    origin.file("/film", file);
    let node = Node::start(&MemoryNetwork::new(), &origin).await;
    (origin, node)
}

pub async fn range(node: &Node, range: &str) -> Reply {
    get_with(node.addr, HOST, "/film", &format!("range: {range}")).await
}

/// Asks for these bytes, and checks that they are those of `file`.
pub async fn watch(node: &Node, file: &File, bytes: Range<u64>) -> Reply {
    let reply = range(node, &format!("bytes={}-{}", bytes.start, bytes.end - 1)).await;
    check(&reply, file, bytes);
    reply
}

pub fn check(reply: &Reply, file: &File, bytes: Range<u64>) {
    assert_eq!((reply.status, reply.whole), (206, true), "{bytes:?}: {:?}", reply.fields);
    assert!(reply.body == file.bytes(bytes.clone()), "altered within {bytes:?}");
    let place = format!("bytes {}-{}/", bytes.start, bytes.end - 1);
    assert!(reply.field("content-range").starts_with(&place), "{}", reply.field("content-range"));
    assert_eq!(reply.fields.iter().filter(|(name, _)| name == "content-range").count(), 1);
}

/// The `Range` of a slice, as the origin sees it.
pub fn slice(number: u64) -> String {
    format!("{}-{}", number * MIB, (number + 1) * MIB - 1)
}

/// Until so many objects are here, slices among them.
pub async fn kept(node: &Node, count: u64) {
    until(async || node.proxy.status().objects == count).await;
}

/// How many nodes the index names for a slice.
pub async fn references(node: &Node, number: u64) -> usize {
    let url = index_key(&format!("http://{HOST}/film"), &[], &[]).unwrap();
    let found = node.dsht.get(slice_key(url, number), Levels::ALL).await.unwrap();
    found.values.iter().filter_map(decode_reference).count()
}
