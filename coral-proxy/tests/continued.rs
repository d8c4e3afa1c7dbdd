//! Bodies that break off and go on from elsewhere, without anybody's noticing [design §4.2].

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use coral_dsht::memory::MemoryNetwork;
use coral_proxy::Config;
use support::client::{Reply, Transfer, get, get_with};
use support::line::Line;
use support::node::{HOST, Node};
use support::origin::{Gate, Origin, Step, pattern};
use support::script::Script;
use support::until;

const LENGTH: u64 = 600_000;
/// Where the first source breaks off.
const BROKEN: u64 = 200_000;
const TAG: &str = "etag: \"a\"";
const HIT: &str = "cache-status: coral; hit";

/// A response with this status line and these fields, and then `steps`.
fn answer(head: &str, steps: impl IntoIterator<Item = Step>) -> Vec<Step> {
    let head = Step::Send(format!("HTTP/1.1 {head}\n\n").replace('\n', "\r\n").into_bytes());
    std::iter::once(head).chain(steps).collect()
}

/// The head of the whole, with these fields.
fn whole(fields: &str) -> String {
    format!("200 OK\ncache-control: max-age=600\n{fields}\ncontent-length: {LENGTH}")
}

/// The whole with these fields, of which only the first bytes come.
fn broken(fields: &str) -> Vec<Step> {
    answer(&whole(fields), [Step::Pattern(0, BROKEN), Step::Close])
}

/// The rest of it, from `first` on.
fn rest(fields: &str, first: u64) -> Vec<Step> {
    let (last, length) = (LENGTH - 1, LENGTH - first);
    let head = format!(
        "206 Partial Content\ncache-control: max-age=600\n{fields}\ncontent-range: bytes {first}-{last}/{LENGTH}\n\
         content-length: {length}"
    );
    answer(&head, [Step::Pattern(first, length)])
}

async fn alone(origin: &Origin) -> Node {
    Node::start(&MemoryNetwork::new(), origin).await
}

fn ask(path: &str) -> String {
    format!("GET {path} HTTP/1.1\nhost: {HOST}\n\n")
}

fn is_whole(reply: &Reply) -> bool {
    reply.whole && reply.body == pattern(0, LENGTH)
}

#[tokio::test]
async fn what_the_origin_breaks_off_it_is_asked_to_go_on_with() {
    let modified = "last-modified: Thu, 01 Jan 2026 12:00:00 GMT";
    for (fields, validator) in [(TAG, "\"a\""), (modified, "Thu, 01 Jan 2026 12:00:00 GMT")] {
        let origin = Origin::start().await;
        origin.on("/large", broken(fields)).on("/large", rest(fields, BROKEN));
        let node = alone(&origin).await;
        let reply = get(node.addr, HOST, "/large").await;
        assert!(is_whole(&reply), "{fields}");
        assert_eq!(reply.field("content-length"), LENGTH.to_string());
        let asked = &origin.requests("/large")[1].fields;
        assert_eq!((asked["range"].as_str(), asked["if-range"].as_str()), ("bytes=200000-599999", validator));
        assert_eq!(node.proxy.status().continued, 1);
        let again = get(node.addr, HOST, "/large").await;
        assert!(is_whole(&again) && again.cache() == "coral; hit");
    }
}

#[tokio::test]
async fn an_origin_that_stalls_is_asked_again() {
    let origin = Origin::start().await;
    origin.on("/large", answer(&whole(TAG), [Step::Pattern(0, BROKEN), Step::Stall])).on("/large", rest(TAG, BROKEN));
    let change = |config: &mut Config| config.origin.stall_timeout = Duration::from_millis(200);
    let node = Node::start_with(&MemoryNetwork::new(), &origin, change).await;
    assert!(is_whole(&get(node.addr, HOST, "/large").await));
}

#[tokio::test]
async fn an_origin_that_gives_less_than_it_is_asked_for_is_asked_for_what_is_left() {
    let origin = Origin::start().await;
    let head = format!("206 Partial Content\n{TAG}\ncontent-range: bytes 200000-200999/{LENGTH}\ncontent-length: 1000");
    origin.on("/large", broken(TAG)).on("/large", answer(&head, [Step::Pattern(BROKEN, 1000)]));
    origin.on("/large", rest(TAG, BROKEN + 1000));
    let node = alone(&origin).await;
    assert!(is_whole(&get(node.addr, HOST, "/large").await));
}

#[tokio::test]
async fn an_origin_without_ranges_gives_the_same_once_more_and_it_is_passed_over() {
    let origin = Origin::start().await;
    origin.on("/large", broken(TAG)).on("/large", answer(&whole(TAG), [Step::Pattern(0, LENGTH)]));
    let node = alone(&origin).await;
    assert!(is_whole(&get(node.addr, HOST, "/large").await));
    assert_eq!(origin.count("/large"), 2);
}

#[tokio::test]
async fn what_is_not_surely_the_same_version_is_not_put_together() {
    let other_total = rest(TAG, BROKEN + 1);
    let changed = answer("200 OK\netag: \"b\"\ncontent-length: 600000", [Step::Pattern(0, LENGTH)]);
    let gone = answer("404 Not Found\ncontent-length: 0", []);
    for (first, second) in [
        (broken("etag: W/\"a\""), None),
        (broken("x: y"), None),
        (broken("last-modified: Thu, 01 Jan 2026 12:00:00 GMT\ndate: Thu, 01 Jan 2026 12:00:01 GMT"), None),
        (broken(TAG), Some(rest("etag: \"b\"", BROKEN))),
        (broken(TAG), Some(rest("x: y", BROKEN))),
        (broken(TAG), Some(rest("etag: \"a\"\ncontent-encoding: gzip", BROKEN))),
        (broken(TAG), Some(other_total)),
        (broken(TAG), Some(changed)),
        (broken(TAG), Some(gone)),
        (broken(TAG), Some(vec![Step::Close])),
    ] {
        let origin = Origin::start().await;
        let requests = if second.is_some() { 2 } else { 1 };
        origin.on("/large", first);
        if let Some(second) = second {
            // A connection that closes at once is tried twice.
            origin.on("/large", second.clone()).on("/large", second);
        }
        let node = alone(&origin).await;
        let reply = get(node.addr, HOST, "/large").await;
        assert!(!reply.whole && reply.body == pattern(0, BROKEN));
        assert!((requests..=requests + 1).contains(&origin.count("/large")), "{}", origin.count("/large"));
        assert_eq!((node.proxy.status().objects, node.proxy.status().continued), (0, 0));
    }
}

#[tokio::test]
async fn an_origin_that_breaks_off_again_and_again_is_given_up() {
    let origin = Origin::start().await;
    origin.on("/large", broken(TAG));
    for first in (0..10).map(|turn| BROKEN + 1000 * turn) {
        let mut steps = rest(TAG, first);
        steps.splice(1.., [Step::Pattern(first, 1000), Step::Close]);
        origin.on("/large", steps);
    }
    let node = alone(&origin).await;
    let reply = get(node.addr, HOST, "/large").await;
    assert!(!reply.whole && reply.body == pattern(0, BROKEN + 4000));
    assert_eq!(origin.count("/large"), 5);

    let mut nothing = rest(TAG, BROKEN);
    nothing.splice(1.., [Step::Close]);
    let origin = Origin::start().await;
    origin.on("/large", broken(TAG)).on("/large", nothing);
    let node = alone(&origin).await;
    assert!(!get(node.addr, HOST, "/large").await.whole);
    assert_eq!(origin.count("/large"), 2);
}

#[tokio::test]
async fn a_part_goes_on_as_the_whole_does() {
    let origin = Origin::start().await;
    let mut first = rest(TAG, 100_000);
    first.splice(1.., [Step::Pattern(100_000, 1000), Step::Close]);
    origin.on("/large", first).on("/large", rest(TAG, 101_000));
    let node = alone(&origin).await;
    // Of what is not known how long it is, which slice that would be is not, either.
    let reply = get_with(node.addr, HOST, "/large", "range: bytes=-500000").await;
    assert!(reply.status == 206 && reply.whole && reply.body == pattern(100_000, LENGTH - 100_000));
    assert_eq!(origin.requests("/large")[1].fields["range"], "bytes=101000-599999");
}

#[tokio::test]
async fn what_is_for_one_client_alone_goes_on_at_the_origin() {
    let origin = Origin::start().await;
    let head = format!("200 OK\ncache-control: private\n{TAG}\ncontent-length: {LENGTH}");
    origin.on("/large", answer(&head, [Step::Pattern(0, BROKEN), Step::Close])).on("/large", rest(TAG, BROKEN));
    let node = alone(&origin).await;
    assert!(is_whole(&get(node.addr, HOST, "/large").await));
    assert_eq!(node.proxy.status().objects, 0);
}

#[tokio::test]
async fn what_nobody_reads_any_more_is_not_continued() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let steps = [Step::Pattern(0, BROKEN), Step::Wait(gate.clone()), Step::Close];
    origin.on("/large", answer(&whole(TAG), steps)).on("/large", rest(TAG, BROKEN));
    let change = |config: &mut Config| config.origin.finish_unread = bytesize::ByteSize::b(0);
    let node = Node::start_with(&MemoryNetwork::new(), &origin, change).await;
    let mut transfer = Transfer::begin(node.addr, &ask("/large")).await;
    transfer.read(BROKEN).await;
    drop(transfer);
    until(async || node.proxy.status().in_flight == 0).await;
    gate.open();
    until(async || node.proxy.status().references == 0).await;
    assert_eq!(origin.count("/large"), 1);
}

/// A node that the index sends to these others.
async fn sent_to(others: &[SocketAddr], origin: &Origin) -> Node {
    let script = Script::default();
    let node = Node::start_on(|addr| script.index(addr), origin, |_| {}).await;
    script.names(node.addr, others);
    node
}

#[tokio::test]
async fn what_a_node_breaks_off_goes_on_from_another_one_that_has_it() {
    let (origin, bad, changed) = (Origin::start().await, Origin::start().await, Origin::start().await);
    bad.on("/large", broken(&format!("{TAG}\n{HIT}")));
    changed.on("/large", answer(&format!("200 OK\netag: \"b\"\n{HIT}\ncontent-length: 5"), [Step::Pattern(0, 5)]));
    origin.on("/large", answer(&whole(TAG), [Step::Pattern(0, LENGTH)]));
    let good = alone(&origin).await;
    get(good.addr, HOST, "/large").await;
    let node = sent_to(&[bad.addr, changed.addr, good.addr], &origin).await;
    assert!(is_whole(&get(node.addr, HOST, "/large").await));
    assert_eq!((bad.count("/large"), changed.count("/large"), origin.count("/large")), (1, 1, 1));
    let status = node.proxy.status();
    assert_eq!((status.continued, status.errors["peer"]), (1, 1), "who has another version is not to blame");
    assert!(is_whole(&get(node.addr, HOST, "/large").await));
}

#[tokio::test]
async fn a_body_goes_on_from_a_node_that_is_itself_still_receiving_it() {
    let (origin, bad, gate) = (Origin::start().await, Origin::start().await, Gate::closed());
    bad.on("/large", broken(&format!("{TAG}\n{HIT}")));
    let ahead = BROKEN + 1000;
    let steps = [Step::Pattern(0, ahead), Step::Wait(gate.clone()), Step::Pattern(ahead, LENGTH - ahead)];
    origin.on("/large", answer(&whole(TAG), steps));
    let good = alone(&origin).await;
    let mut first = Transfer::begin(good.addr, &ask("/large")).await;
    first.read(ahead).await;
    let node = sent_to(&[bad.addr, good.addr], &origin).await;
    let mut second = Transfer::begin(node.addr, &ask("/large")).await;
    assert!(second.read(ahead).await == pattern(0, ahead), "what is there is passed on");
    gate.open();
    let rest = second.finish().await;
    assert!(first.finish().await.whole && rest.whole && rest.body == pattern(ahead, LENGTH - ahead));
    assert_eq!(origin.count("/large"), 1);
}

#[tokio::test]
async fn nodes_that_read_from_one_whose_origin_breaks_off_notice_nothing() {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    let (end, go_on) = (Gate::closed(), Gate::closed());
    origin.on("/large", answer(&whole(TAG), [Step::Pattern(0, BROKEN), Step::Wait(end.clone()), Step::Close]));
    origin.on("/large", [vec![Step::Wait(go_on.clone())], rest(TAG, BROKEN)].concat());
    let (mut nodes, mut transfers) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let node = Node::start(&network, &origin).await;
        let mut transfer = Transfer::begin(node.addr, &ask("/large")).await;
        assert!(transfer.read(BROKEN).await == pattern(0, BROKEN));
        nodes.push(node);
        transfers.push(transfer);
    }
    end.open();
    until(async || origin.count("/large") == 2).await;
    go_on.open();
    for transfer in &mut transfers {
        let rest = transfer.finish().await;
        assert!(rest.whole && rest.body == pattern(BROKEN, LENGTH - BROKEN));
    }
    let continued: Vec<u64> = nodes.iter().map(|node| node.proxy.status().continued).collect();
    assert_eq!((continued, origin.count("/large")), (vec![1, 0, 0], 2));
}

/// A line of nodes that read from one another, the first of them from a node that breaks off; when it then asks who else
/// has the body, it is sent to the last of them.
async fn a_line_whose_head_is_sent_to_its_tail(count: usize) {
    let (origin, bad, gate) = (Origin::start().await, Origin::start().await, Gate::closed());
    bad.on(
        "/large",
        answer(&whole(&format!("{TAG}\n{HIT}")), [Step::Pattern(0, BROKEN), Step::Wait(gate.clone()), Step::Close]),
    );
    origin.on("/large", rest(TAG, BROKEN));
    let mut line = Line::start(count, bad.addr, &origin, &ask("/large"), &pattern(0, BROKEN)).await;
    gate.open();
    line.ends_with(&pattern(BROKEN, LENGTH - BROKEN)).await;
    assert_eq!(origin.count("/large"), 1);
}

#[tokio::test]
async fn nobody_waits_for_those_who_read_from_it() {
    // Longer than any pause here may be: else nodes would take each other for dead, and go on for that reason.
    for count in [2, 3, 4] {
        a_line_whose_head_is_sent_to_its_tail(count).await;
    }
}
