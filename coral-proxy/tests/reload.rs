//! What changes while a proxy runs, on connections that stay open: what is served, and the limits.

mod support;

use std::io::Write as _;
use std::num::NonZeroU32;

use coral_dsht::memory::MemoryNetwork;
use coral_proxy::explain::Outlook;
use coral_proxy::{Config, Site};
use support::client::{Transfer, get, get_with};
use support::node::{HOST, Node};
use support::origin::{Gate, Origin, Step};
use tempfile::NamedTempFile;

fn deny(entries: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(entries.as_bytes()).unwrap();
    file
}

#[tokio::test]
async fn what_is_denied_is_refused_though_cached_and_another_node_is_told_to_ask_elsewhere() {
    let origin = Origin::start().await;
    origin.text("/a", "HTTP/1.1 200 OK\ncache-control: max-age=600", "a");
    origin.text("/b", "HTTP/1.1 200 OK\ncache-control: max-age=600", "b");
    let node = Node::start(&MemoryNetwork::new(), &origin).await;
    assert_eq!(get(node.addr, HOST, "/a").await.status, 200);

    let list = deny(&format!("{HOST}/a # by request"));
    let mut config = Config { deny: Some(list.path().to_owned()), ..Config::default() };
    config.sites.push(Site::new(HOST, &format!("http://{}", origin.addr)).unwrap());
    node.proxy.reload(&config).unwrap();
    let refused = get(node.addr, HOST, "/a").await;
    assert_eq!(refused.status, 403);
    assert!(refused.text().contains("operator"), "{}", refused.text());
    let peer = "cdn-loop: coral\ncache-control: only-if-cached";
    assert_eq!(get_with(node.addr, HOST, "/a", peer).await.status, 504);
    assert_eq!(get(node.addr, HOST, "/b").await.status, 200);

    let said = node.proxy.explain(&format!("http://{HOST}/a")).await.unwrap();
    assert_eq!((said.verdict, said.rules[0].section), (Outlook::Denied, "proxy.deny"));

    // A list that cannot be used leaves the one before in place.
    let wrong = deny("two words");
    let error = node.proxy.reload(&Config { deny: Some(wrong.path().to_owned()), ..config.clone() }).unwrap_err();
    assert!(error.to_string().contains("line 1"), "{error}");
    assert_eq!(get(node.addr, HOST, "/a").await.status, 403);

    node.proxy.reload(&Config { deny: None, ..config }).unwrap();
    assert_eq!(get(node.addr, HOST, "/a").await.status, 200);
    assert_eq!(origin.count("/a"), 1);
}

#[tokio::test]
async fn a_site_that_goes_ends_no_transfer_and_a_new_one_is_served_at_once() {
    let origin = Origin::start().await;
    let gate = Gate::closed();
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 200000\r\ncache-control: max-age=600\r\n\r\n";
    origin.on(
        "/large",
        vec![
            Step::Send(head.into()),
            Step::Pattern(0, 100_000),
            Step::Wait(gate.clone()),
            Step::Pattern(100_000, 100_000),
        ],
    );
    origin.text("/", "HTTP/1.1 200 OK\ncache-control: max-age=600", "home");
    let node = Node::start(&MemoryNetwork::new(), &origin).await;
    let mut transfer = Transfer::begin(node.addr, &format!("GET /large HTTP/1.1\nhost: {HOST}\n\n")).await;
    let mut config = Config::default();
    config.sites.push(Site::new("new.example.org", &format!("http://{}", origin.addr)).unwrap());
    node.proxy.reload(&config).unwrap();
    assert_eq!(get(node.addr, HOST, "/").await.status, 421);
    assert_eq!(get(node.addr, "new.example.org", "/").await.text(), "home");
    gate.open();
    assert!(transfer.finish().await.whole);
}

#[tokio::test]
async fn limits_of_an_address_change_for_those_who_are_known_too() {
    let origin = Origin::start().await;
    origin.text("/", "HTTP/1.1 200 OK\ncache-control: max-age=600", "home");
    let node = Node::start(&MemoryNetwork::new(), &origin).await;
    assert_eq!(get(node.addr, HOST, "/").await.status, 200);
    let mut config = Config::default();
    config.sites.push(Site::new(HOST, &format!("http://{}", origin.addr)).unwrap());
    config.client.requests_per_address = NonZeroU32::MIN;
    node.proxy.reload(&config).unwrap();
    let mut statuses = Vec::new();
    // One a second, and those of two seconds at once: the fourth comes too early unless two seconds have passed.
    for _ in 0..10 {
        statuses.push(get(node.addr, HOST, "/").await.status);
    }
    assert!(statuses.contains(&429), "{statuses:?}");
}
