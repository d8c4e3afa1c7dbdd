//! What a node says of the next request for a URL is what becomes of it, and names the rule that decided.

mod support;

use coral_dsht::memory::MemoryNetwork;
use coral_proxy::Explanation;
use coral_proxy::explain::{Outlook, Rule};
use support::client::get;
use support::node::{HOST, Node};
use support::origin::{Origin, Step};

const PAGE: &str = "/page";

/// A node that was asked once for a page whose origin answers with `head`, and does then what `second` says.
async fn asked(head: &str, second: impl FnOnce(&Origin)) -> (Origin, Node, Explanation) {
    let origin = Origin::start().await;
    origin.text(PAGE, head, "text");
    second(&origin);
    let node = Node::start(&MemoryNetwork::new(), &origin).await;
    get(node.addr, HOST, PAGE).await;
    let said = node.proxy.explain(&format!("http://{HOST}{PAGE}")).await.unwrap();
    (origin, node, said)
}

#[tokio::test]
async fn each_verdict_names_the_rule_and_the_section_and_comes_true() {
    for (head, verdict, word, section) in [
        ("cache-control: max-age=60", Outlook::Hit, "hit", "RFC 9111 §5.2.2.1"),
        ("cache-control: max-age=1, s-maxage=60", Outlook::Hit, "hit", "RFC 9111 §5.2.2.10"),
        ("cdn-cache-control: max-age=60\ncache-control: no-store", Outlook::Hit, "hit", "RFC 9213 §2.2"),
        ("expires: Fri, 01 Jan 2100 00:00:00 GMT", Outlook::Hit, "hit", "RFC 9111 §5.3"),
        ("vary: accept-language", Outlook::Hit, "hit", "RFC 9111 §4.1"),
        ("x: y", Outlook::Hit, "hit", "RFC 9111 §4.2.2, proxy.freshness.default"),
        ("cache-control: no-cache\netag: \"a\"", Outlook::Stale, "fwd=stale", "RFC 9111 §5.2.2.4"),
        ("cache-control: max-age=40\nage: 100", Outlook::Stale, "fwd=stale", "RFC 9111 §4.2.3"),
        (
            "cache-control: max-age=40, stale-while-revalidate=900\nage: 100",
            Outlook::Revalidating,
            "detail=revalidating",
            "RFC 5861 §3",
        ),
        ("cache-control: no-store", Outlook::NotStored, "detail=origin", "RFC 9111 §5.2.2.5"),
        ("cache-control: private", Outlook::NotStored, "detail=origin", "RFC 9111 §5.2.2.7"),
        ("vary: *", Outlook::NotStored, "detail=origin", "RFC 9111 §4.1"),
    ] {
        let head = format!("HTTP/1.1 200 OK\n{head}");
        let (_origin, node, said) = asked(&head, |_| {}).await;
        assert_eq!(said.verdict, verdict, "{head}: {said:#?}");
        assert!(said.rules.iter().any(|rule| rule.section == section), "{head}: {said:#?}");
        let reply = get(node.addr, HOST, PAGE).await;
        assert!(reply.cache().contains(word), "{head}: {} is not {word}", reply.cache());
    }
}

#[tokio::test]
async fn what_is_said_of_a_field_is_what_it_says() {
    let head = "HTTP/1.1 200 OK\ncache-control: max-age=7200, must-revalidate\nage: 60\netag: \"a\"";
    let (_origin, _node, said) = asked(head, |_| {}).await;
    // How old it is hangs on the clock.
    let is_of_age = |rule: &&Rule| rule.section == "RFC 9111 §4.2.3";
    let age = said.rules.iter().find(is_of_age).unwrap();
    assert!(age.says.starts_with("is 1 min") && age.field.as_deref() == Some("age: 60"), "{age:?}");
    let lines: Vec<String> = said
        .rules
        .iter()
        .filter(|rule| !is_of_age(rule))
        .map(|rule| format!("{} | {}", rule.says, rule.field.as_deref().unwrap_or("-")))
        .collect();
    assert_eq!(
        lines,
        [
            "status 200: may be stored | -",
            "is fresh for 2 h | cache-control: max-age=7200, must-revalidate",
            "may not be served stale | cache-control: max-age=7200, must-revalidate",
            "once stale, it is asked whether it has changed | etag: \"a\"",
        ]
    );
}

#[tokio::test]
async fn what_is_not_here_is_not_found_a_reason_in_its_fields() {
    let origin = Origin::start().await;
    origin.on("/broken", vec![Step::Close]);
    let node = Node::start(&MemoryNetwork::new(), &origin).await;
    let explain = async |path: &str| node.proxy.explain(&format!("http://{HOST}.nyud.net{path}")).await.unwrap();
    let miss = explain("/never").await;
    assert_eq!((miss.verdict, miss.rules.len()), (Outlook::Miss, 0), "{miss:#?}");
    assert_eq!(miss.url, format!("http://{HOST}/never"));
    assert_eq!(get(node.addr, HOST, "/broken").await.status, 502);
    let failed = explain("/broken").await;
    assert_eq!(failed.verdict, Outlook::Failed, "{failed:#?}");
    for no_url in ["", "ftp://x.com/", "http://", "http://a@b.com/"] {
        assert!(node.proxy.explain(no_url).await.is_err(), "{no_url}");
    }
}

#[tokio::test]
async fn an_expired_copy_stands_in_for_an_origin_that_has_failed() {
    let head = "HTTP/1.1 200 OK\ncache-control: max-age=40\nage: 100";
    let failing = |origin: &Origin| {
        origin.text(PAGE, "HTTP/1.1 503 Service Unavailable", "sorry");
    };
    let (_origin, node, before) = asked(head, failing).await;
    assert_eq!(before.verdict, Outlook::Stale);
    get(node.addr, HOST, PAGE).await;
    let after = node.proxy.explain(&before.url).await.unwrap();
    assert_eq!(after.verdict, Outlook::StandIn, "{after:#?}");
}
