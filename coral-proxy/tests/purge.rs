//! What was purged is asked for again: a URL, a prefix and a site, wherever a copy of it is, and however it came there.

mod support;

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use coral_dsht::Levels;
use coral_dsht::memory::MemoryNetwork;
use coral_proxy::explain::Outlook;
use coral_proxy::reference::stale_key;
use coral_proxy::{PurgedBy, index_key};
use support::client::{Reply, get, get_with};
use support::film::{self, MIB, film, range, watch};
use support::node::{HOST, Node, on_disk};
use support::origin::{File, Gate, Origin, Step};
use support::until;
use tokio::sync::mpsc;

const FRESH: &str = "HTTP/1.1 200 OK\ncache-control: max-age=600\netag: \"a\"";
const OWNERS: &str = "/.well-known/coral-purge";
/// No request takes longer to get to another node here.
const WAY: Duration = Duration::from_millis(200);
const LONG_AGO: &str = "2020-01-01T00:00:00Z";

/// Purges what `pattern` says, at `node` alone. How much of it was new.
async fn purge(node: &Node, pattern: &str) -> usize {
    let pattern = node.proxy.pattern(pattern).unwrap();
    node.proxy.purge(&[pattern], SystemTime::now(), PurgedBy::Operator).await
}

/// Purges all of the site at these nodes, and waits: what comes within a few milliseconds could still be of before, to a node that
/// knows no more of the way to another one than when it asked.
async fn purge_all<const N: usize>(nodes: [&Node; N]) {
    for node in nodes {
        purge(node, HOST).await;
    }
    tokio::time::sleep(WAY).await;
}

/// An origin that has `old` at these paths, then `new`.
async fn origin(paths: &[&str]) -> Origin {
    let origin = Origin::start().await;
    for path in paths {
        origin.text(path, FRESH, "old").text(path, FRESH, "new");
    }
    origin
}

async fn body(node: &Node, path: &str) -> String {
    get(node.addr, HOST, path).await.text()
}

#[tokio::test]
async fn a_url_a_prefix_or_a_site_is_asked_for_again_and_nothing_else() {
    const PATHS: [&str; 5] = ["/a", "/a?b", "/news/1", "/news/2", "/other"];
    for (pattern, purged) in [
        (format!("http://{HOST}/a"), &PATHS[..1]),
        (format!("http://{HOST}.nyud.net/news/*"), &PATHS[2..4]),
        (format!("http://{HOST}/news*"), &PATHS[2..4]),
        (HOST.to_owned(), &PATHS[..]),
        // A site of the configuration has one name, however it is spoken to.
        (format!("https://{HOST}:8443/*"), &PATHS[..]),
        (format!("http://{HOST}/b*"), &[]),
        ("www.example.net".to_owned(), &[]),
    ] {
        let origin = origin(&PATHS).await;
        let node = Node::start(&MemoryNetwork::new(), &origin).await;
        for path in PATHS {
            assert_eq!(body(&node, path).await, "old");
        }
        assert_eq!(purge(&node, &pattern).await, 1);
        for path in PATHS {
            let expected = if purged.contains(&path) { "new" } else { "old" };
            let said = node.proxy.explain(&format!("http://{HOST}{path}")).await.unwrap().verdict;
            assert_eq!(said == Outlook::Purged, purged.contains(&path), "{pattern}, {path}: {said:?}");
            assert_eq!(body(&node, path).await, expected, "{pattern}, {path}");
            let again = get(node.addr, HOST, path).await;
            assert_eq!((again.text().as_str(), again.cache()), (expected, "coral; hit"), "{pattern}, {path}");
            assert_eq!(origin.count(path), 1 + usize::from(purged.contains(&path)), "{pattern}, {path}");
        }
    }
}

#[tokio::test]
async fn a_purged_copy_neither_stands_in_nor_is_asked_about() {
    let origin = Origin::start().await;
    let stale = "HTTP/1.1 200 OK\ncache-control: max-age=40, stale-while-revalidate=600\nage: 100\netag: \"a\"";
    origin.text("/page", stale, "old").on("/page", vec![Step::Close]);
    let node = Node::start(&MemoryNetwork::new(), &origin).await;
    assert_eq!(body(&node, "/page").await, "old");
    purge(&node, &format!("http://{HOST}/page")).await;
    assert_eq!(node.proxy.status().objects, 1);
    assert_eq!(get(node.addr, HOST, "/page").await.status, 502);
    assert!(!origin.requests("/page")[1].fields.contains_key("if-none-match"));
    assert_eq!(node.proxy.status().objects, 0, "it was met");
}

#[tokio::test]
async fn nor_does_it_stand_in_if_it_is_purged_while_it_is_asked_about() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let stale = "HTTP/1.1 200 OK\ncache-control: max-age=40\nage: 100\netag: \"a\"";
    origin.text("/page", stale, "old").on("/page", vec![Step::Wait(gate.clone()), Step::Close]);
    let node = Node::start(&MemoryNetwork::new(), &origin).await;
    assert_eq!(body(&node, "/page").await, "old");
    let asked = tokio::spawn(get(node.addr, HOST, "/page"));
    until(async || origin.count("/page") == 2).await;
    purge(&node, HOST).await;
    gate.open();
    assert_eq!(asked.await.unwrap().status, 502);
}

#[tokio::test]
async fn that_an_origin_failed_is_forgotten_with_the_copy() {
    let origin = Origin::start().await;
    origin.on("/page", vec![Step::Close]).on("/page", vec![Step::Close]).text("/page", FRESH, "new");
    let node = Node::start(&MemoryNetwork::new(), &origin).await;
    assert_eq!(get(node.addr, HOST, "/page").await.status, 502);
    let asked = origin.count("/page");
    assert_eq!(get(node.addr, HOST, "/page").await.status, 502);
    assert_eq!(origin.count("/page"), asked, "it is left alone for a while");
    purge(&node, &format!("http://{HOST}/page")).await;
    assert_eq!(body(&node, "/page").await, "new");
}

#[tokio::test]
async fn every_variant_is_purged() {
    let origin = Origin::start().await;
    let varying = format!("{FRESH}\nvary: accept-language");
    for text in ["de", "en", "de 2", "en 2"] {
        origin.text("/page", &varying, text);
    }
    let node = Node::start(&MemoryNetwork::new(), &origin).await;
    let ask =
        async |language: &str| get_with(node.addr, HOST, "/page", &format!("accept-language: {language}")).await.text();
    assert_eq!([ask("de").await, ask("en").await, ask("de").await], ["de", "en", "de"]);
    purge(&node, &format!("http://{HOST}/page")).await;
    assert_eq!([ask("de").await, ask("en").await, ask("de").await], ["de 2", "en 2", "de 2"]);
}

#[tokio::test]
async fn a_large_object_on_disk_and_slices_of_one_are_purged() {
    let directory = tempfile::tempdir().unwrap();
    let origin = Origin::start().await;
    let (old, new) = (film(), File::of(film::TOTAL, "etag: \"b\"").version(7));
    origin.file("/film", &old).file("/whole", &old);
    let node = Node::start_with(&MemoryNetwork::new(), &origin, on_disk(directory.path())).await;
    watch(&node, &old, 2 * MIB..2 * MIB + 10).await;
    assert_eq!(get(node.addr, HOST, "/whole").await.body, old.bytes(0..film::TOTAL));
    film::kept(&node, 2).await;
    assert_eq!(range(&node, &format!("bytes={}-", 3 * MIB - 10)).await.status, 206);
    film::kept(&node, 4).await;
    origin.file("/film", &new).file("/whole", &new);
    purge(&node, HOST).await;
    watch(&node, &new, 2 * MIB..2 * MIB + 10).await;
    watch(&node, &new, 3 * MIB - 10..3 * MIB + 10).await;
    assert_eq!(get(node.addr, HOST, "/whole").await.body, new.bytes(0..film::TOTAL));
    assert_eq!(get(node.addr, HOST, "/whole").await.cache(), "coral; hit");
}

#[tokio::test]
async fn slices_of_the_new_version_come_from_other_nodes() {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    let (old, new) = (film(), File::of(film::TOTAL, "etag: \"b\"").version(7));
    origin.file("/film", &old);
    let (first, second) = (Node::start(&network, &origin).await, Node::start(&network, &origin).await);
    for node in [&first, &second] {
        watch(node, &old, 2 * MIB..2 * MIB + 10).await;
    }
    origin.file("/film", &new);
    purge_all([&first, &second]).await;
    for node in [&first, &second] {
        watch(node, &new, 2 * MIB..2 * MIB + 10).await;
    }
    assert_eq!(origin.ranges("/film"), [film::slice(2), film::slice(2)], "one for each version");
}

#[tokio::test]
async fn a_part_that_one_client_asked_for_is_purged() {
    let origin = Origin::start().await;
    // Without a validator there are no slices.
    let (old, new) = (File::of(film::TOTAL, "x: a"), File::of(film::TOTAL, "x: b").version(7));
    origin.file("/film", &old);
    let node = Node::start(&MemoryNetwork::new(), &origin).await;
    watch(&node, &old, MIB..MIB + 10).await;
    assert_eq!(watch(&node, &old, MIB..MIB + 10).await.cache(), film::HIT);
    origin.file("/film", &new);
    purge(&node, HOST).await;
    watch(&node, &new, MIB..MIB + 10).await;
}

/// A node on the directory `path` that has `/page`.
async fn stored(path: &Path) -> (Origin, Node) {
    let origin = origin(&["/page"]).await;
    let node = Node::start_with(&MemoryNetwork::new(), &origin, on_disk(path)).await;
    assert_eq!(body(&node, "/page").await, "old");
    (origin, node)
}

#[tokio::test]
async fn a_restart_does_not_bring_it_back() {
    for (pattern, expected) in [(HOST, "new"), ("www.example.net", "old")] {
        let directory = tempfile::tempdir().unwrap();
        let (origin, node) = stored(directory.path()).await;
        purge(&node, pattern).await;
        // It has been written down by now, however the process ends.
        node.crash().await;
        let rules = std::fs::read_to_string(directory.path().join("coral-purged")).unwrap();
        assert!(rules.contains(&format!("site {pattern}\n")), "{rules}");
        let again = async || Node::start_with(&MemoryNetwork::new(), &origin, on_disk(directory.path())).await;
        let node = loop {
            // The lock goes with the last task of the one before.
            if !is_locked(directory.path()) {
                break again().await;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(body(&node, "/page").await, expected, "{pattern}");
        node.stop().await;
        let node = again().await;
        let reply = get(node.addr, HOST, "/page").await;
        assert_eq!((reply.text().as_str(), reply.cache()), (expected, "coral; hit"), "{pattern}");
    }
}

fn is_locked(directory: &Path) -> bool {
    let file = std::fs::File::open(directory.join("coral-lock")).unwrap();
    file.try_lock().is_err()
}

#[tokio::test]
async fn rules_that_cannot_be_read_purge_all_that_was_there() {
    let directory = tempfile::tempdir().unwrap();
    let (origin, node) = stored(directory.path()).await;
    node.stop().await;
    std::fs::write(directory.path().join("coral-purged"), "coral-purged 1\n").unwrap();
    let node = Node::start_with(&MemoryNetwork::new(), &origin, on_disk(directory.path())).await;
    assert_eq!(body(&node, "/page").await, "new");
    assert_eq!(get(node.addr, HOST, "/page").await.cache(), "coral; hit");
}

#[tokio::test]
async fn a_fetch_from_before_is_for_those_who_wait_for_it_and_is_not_stored() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let head =
        |rest: &str| Step::Send(format!("{FRESH}\ncontent-length: 3\n\n{rest}").replace('\n', "\r\n").into_bytes());
    let body_later = vec![head("ol"), Step::Wait(gate.clone()), Step::Send(b"d".to_vec())];
    let head_later = vec![Step::Wait(gate.clone()), head("old")];
    let paths = ["/body", "/head", "/elsewhere"];
    for (path, steps) in paths.into_iter().zip([body_later, head_later.clone(), head_later]) {
        origin.on(path, steps).text(path, FRESH, "new");
    }
    let network = MemoryNetwork::new();
    let (node, other) = (Node::start(&network, &origin).await, Node::start(&network, &origin).await);
    let mut before = Vec::new();
    for path in paths {
        let addr = node.addr;
        before.push(tokio::spawn(async move { get(addr, HOST, path).await }));
        until(async || origin.count(path) == 1).await;
    }
    purge_all([&node, &other]).await;
    // Who asks this node is not to wait for it.
    let began = Instant::now();
    assert_eq!(body(&other, "/elsewhere").await, "new");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    for path in ["/body", "/head"] {
        assert_eq!(body(&node, path).await, "new", "{path}");
        // Who asks this node gets what has come since.
        let reply = get(other.addr, HOST, path).await;
        assert_eq!((reply.text().as_str(), origin.count(path)), ("new", 2), "{path}: {}", reply.cache());
    }
    gate.open();
    for reply in before {
        assert_eq!(reply.await.unwrap().text(), "old");
    }
    for path in ["/body", "/head"] {
        let reply = get(node.addr, HOST, path).await;
        assert_eq!((reply.text().as_str(), reply.cache()), ("new", "coral; hit"), "{path}");
    }
    assert_eq!(body(&node, "/elsewhere").await, "new");
}

#[tokio::test]
async fn a_node_that_has_not_heard_does_not_bring_it_back_and_one_that_has_gives_what_is_new() {
    let (network, origin) = (MemoryNetwork::new(), origin(&["/page"]).await);
    let (first, second) = (Node::start(&network, &origin).await, Node::start(&network, &origin).await);
    assert_eq!(body(&first, "/page").await, "old");
    purge(&second, HOST).await;
    let reply = get(second.addr, HOST, "/page").await;
    assert_eq!((reply.text().as_str(), origin.count("/page")), ("new", 2), "{}", reply.cache());
    assert_eq!(body(&first, "/page").await, "old", "it has not heard");
    purge(&first, HOST).await;
    assert_eq!(body(&first, "/page").await, "new");
}

#[tokio::test]
async fn what_came_after_the_purge_passes_between_nodes_at_once_whatever_clock_the_origin_has() {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    let late = format!("{FRESH}\ndate: Thu, 01 Jan 2026 00:00:00 GMT\nage: 50");
    origin.text("/page", &late.replace("600", "100000000"), "new");
    let (first, second) = (Node::start(&network, &origin).await, Node::start(&network, &origin).await);
    purge_all([&first, &second]).await;
    assert_eq!(body(&first, "/page").await, "new");
    assert_eq!(get(first.addr, HOST, "/page").await.cache(), "coral; hit");
    let reply = get(second.addr, HOST, "/page").await;
    assert!(reply.cache().contains("detail=peer-l0"), "{}", reply.cache());
    assert!(!reply.fields.iter().any(|(name, _)| name == "coral-origin-age"), "that is for nodes");
    assert_eq!(origin.count("/page"), 1);
}

#[tokio::test]
async fn who_waits_for_another_node_after_the_purge_gets_what_it_fetches_however_long_that_takes() {
    let (network, origin, gate) = (MemoryNetwork::new(), Origin::start().await, Gate::closed());
    let text = format!("{FRESH}\ncontent-length: 3\n\nnew").replace('\n', "\r\n").into_bytes();
    origin.on("/page", vec![Step::Wait(gate.clone()), Step::Send(text)]);
    let (first, second) = (Node::start(&network, &origin).await, Node::start(&network, &origin).await);
    purge_all([&first, &second]).await;
    let leads = tokio::spawn(get(first.addr, HOST, "/page"));
    until(async || origin.count("/page") == 1).await;
    let follows = tokio::spawn(get(second.addr, HOST, "/page"));
    until(async || first.proxy.status().in_flight == 2).await;
    tokio::time::sleep(2 * WAY).await;
    gate.open();
    for reply in [leads, follows] {
        assert_eq!(reply.await.unwrap().text(), "new");
    }
    assert_eq!(origin.count("/page"), 1);
}

#[tokio::test]
async fn a_stale_copy_of_a_node_that_has_not_heard_is_not_borrowed() {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    let stale = "HTTP/1.1 200 OK\ncache-control: max-age=40\nage: 100\netag: \"a\"";
    origin.text("/page", stale, "old").text("/page", FRESH, "new");
    let (lender, borrower) = (Node::start(&network, &origin).await, Node::start(&network, &origin).await);
    assert_eq!(body(&lender, "/page").await, "old");
    let key = stale_key(index_key(&format!("http://{HOST}/page"), &[], &[]).unwrap());
    until(async || lender.dsht.get(key, Levels::ALL).await.unwrap().values.len() == 1).await;
    purge(&borrower, HOST).await;
    assert_eq!(body(&borrower, "/page").await, "new");
    assert!(!origin.requests("/page")[1].fields.contains_key("if-none-match"));
}

/// What the owner of the site is told, who opens his file at `node`.
async fn opened(node: &Node) -> Reply {
    get(node.addr, &format!("{HOST}.nyud.net"), OWNERS).await
}

/// Time passes in which the origin is not asked again.
async fn pause() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(5)).await;
    tokio::time::resume();
}

/// A moment as the file has it that is not over when the file is read: then it is taken for that time.
fn now() -> String {
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() + 60;
    let (days, rest) = (seconds / 86400, seconds % 86400);
    // Days since 1 March 2000 (Hinnant).
    let days = days - 11017;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = 2000 + era * 400 + year + carry;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[tokio::test]
async fn the_owner_of_a_site_purges_by_a_file_at_his_server() {
    let origin = origin(&["/news/1", "/other"]).await;
    let file = format!("# by hand\n{} /news/*\n{LONG_AGO} /*\n", now());
    origin.text(OWNERS, FRESH, &file);
    let node = Node::start(&MemoryNetwork::new(), &origin).await;
    let (tell, mut told) = mpsc::channel(8);
    node.proxy.watch_owners(tell);
    for path in ["/news/1", "/other"] {
        assert_eq!(body(&node, path).await, "old");
    }
    let reply = opened(&node).await;
    assert_eq!((reply.status, reply.text().as_str()), (200, file.as_str()));
    assert_eq!((reply.field("coral-purge"), reply.field("cache-control")), ("applied=2, lines=2", "no-store"));
    assert_eq!(told.recv().await.as_deref(), Some(&*format!("http://{HOST}")));
    assert_eq!([body(&node, "/news/1").await, body(&node, "/other").await], ["new", "old"]);
    pause().await;
    assert_eq!(opened(&node).await.field("coral-purge"), "applied=0, lines=2");
    assert!(told.try_recv().is_err(), "which is no news");
    assert_eq!(origin.count(OWNERS), 2);
    assert_eq!(origin.requests(OWNERS)[0].fields["cache-control"], "no-cache");
    pause().await;
    assert_eq!(node.proxy.reread_owner(&format!("http://{HOST}")).await.unwrap(), 0);
}

#[tokio::test]
async fn the_file_is_nobodys_copy() {
    let origin = Origin::start().await;
    origin.text(OWNERS, FRESH, "");
    let node = Node::start(&MemoryNetwork::new(), &origin).await;
    let lines = "cdn-loop: coral\ncache-control: only-if-cached";
    assert_eq!(get_with(node.addr, HOST, OWNERS, lines).await.status, 504);
    assert_eq!(origin.count(OWNERS), 0);
    assert_eq!(get(node.addr, HOST, &format!("{OWNERS}?a")).await.field("coral-purge"), "applied=0, lines=0");
    assert_eq!((origin.count(OWNERS), node.proxy.status().objects), (1, 0));
    // Below a suffix, a private address is nobody's site.
    let reply = get(node.addr, "localhost.localdomain.8080.nyud.net", OWNERS).await;
    assert!(reply.status >= 500, "{}", reply.text());
}

#[tokio::test]
async fn a_crowd_has_the_origin_asked_once_and_then_not_for_a_while() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let text = format!("{FRESH}\ncontent-length: 0\n\n").replace('\n', "\r\n").into_bytes();
    origin.on(OWNERS, vec![Step::Wait(gate.clone()), Step::Send(text)]);
    let node = Node::start(&MemoryNetwork::new(), &origin).await;
    let ask = || {
        let addr = node.addr;
        tokio::spawn(async move { get(addr, HOST, OWNERS).await.status })
    };
    let first = ask();
    until(async || origin.count(OWNERS) == 1).await;
    let crowd: Vec<_> = (0..5).map(|_| ask()).collect();
    until(async || node.proxy.status().in_flight == 6).await;
    gate.open();
    assert_eq!(first.await.unwrap(), 200);
    assert_eq!(origin.count(OWNERS), 1, "those who came later want an answer of later");
    pause().await;
    for reply in crowd {
        assert_eq!(reply.await.unwrap(), 200);
    }
    assert_eq!(origin.count(OWNERS), 2);
}

#[tokio::test]
async fn a_mistake_is_told_to_the_owner_and_nothing_is_purged() {
    let large = format!("# {}", "a".repeat(70_000));
    for (head, text, status, wanted) in [
        (
            FRESH,
            "2020-01-01T00:00:00Z /*\nyesterday /a\n",
            422,
            "line 2: \"yesterday /a\": the time is none of RFC 3339",
        ),
        (FRESH, large.as_str(), 422, "more than 65536 bytes"),
        ("HTTP/1.1 404 Not Found", "", 404, "has no /.well-known/coral-purge"),
        ("HTTP/1.1 302 Found\nlocation: /elsewhere", "", 422, "it answered 302"),
        ("HTTP/1.1 200 OK\ncontent-encoding: gzip", "", 422, "coding"),
    ] {
        let origin = origin(&["/page"]).await;
        origin.text(OWNERS, head, text);
        let node = Node::start(&MemoryNetwork::new(), &origin).await;
        let (tell, mut told) = mpsc::channel(8);
        node.proxy.watch_owners(tell);
        assert_eq!(body(&node, "/page").await, "old");
        let reply = opened(&node).await;
        assert_eq!((reply.status, reply.field("coral-purge")), (status, "refused"), "{wanted}");
        assert!(reply.text().contains(wanted) && reply.text().lines().count() == 1, "{}", reply.text());
        assert_eq!(body(&node, "/page").await, "old");
        assert!(told.try_recv().is_err());
    }
}
