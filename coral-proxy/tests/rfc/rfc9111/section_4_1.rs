//! Calculating cache keys with the Vary header field.

use crate::support::client::{get, get_with};
use crate::support::node::HOST;
use crate::{world, world_passing};

#[tokio::test]
async fn a_variant_is_served_to_those_who_ask_for_it() {
    let (origin, node) = world().await;
    let head = "HTTP/1.1 200 OK\nvary: accept-language\ncache-control: max-age=60";
    origin.text("/", head, "hallo").text("/", head, "hello");
    let german = async || get_with(node.addr, HOST, "/", "accept-language: de").await;
    let english = async || get_with(node.addr, HOST, "/", "accept-language: en").await;
    assert_eq!(german().await.text(), "hallo");
    assert_eq!(english().await.text(), "hello");
    let (german, english) = (german().await, english().await);
    assert_eq!((german.text().as_str(), german.cache()), ("hallo", "coral; hit"));
    assert_eq!((english.text().as_str(), english.cache()), ("hello", "coral; hit"));
    assert_eq!(origin.count("/"), 2);
}

#[tokio::test]
async fn a_field_that_selects_is_sent_on_once_it_is_known_to() {
    let (origin, node) = world().await;
    let head = "HTTP/1.1 200 OK\nvary: foo\ncache-control: max-age=60";
    origin.text("/", head, "without").text("/", head, "with 1");
    assert_eq!(get(node.addr, HOST, "/").await.text(), "without");
    assert_eq!(get_with(node.addr, HOST, "/", "foo: 1").await.text(), "with 1");
    assert_eq!(origin.requests("/")[1].fields["foo"], "1");
    assert_eq!(get(node.addr, HOST, "/").await.text(), "without");
    assert_eq!(origin.count("/"), 2);
}

#[tokio::test]
async fn languages_wanted_alike_are_one_variant_in_any_order_and_case() {
    let (origin, node) = world().await;
    let head = "HTTP/1.1 200 OK\nvary: accept-language\ncache-control: max-age=60";
    origin.text("/", head, "hallo").text("/", head, "hello");
    let ask = async |value: &str| get_with(node.addr, HOST, "/", &format!("accept-language: {value}")).await;
    ask("de, en;q=0.5").await;
    for same in ["DE,  EN; q=0.5", "en;q=0.50, de", "de;q=1, en;q=0.5"] {
        assert_eq!(ask(same).await.cache(), "coral; hit", "{same}");
    }
    assert_eq!(ask("en, de;q=0.5").await.text(), "hello");
    assert_eq!(origin.count("/"), 2);
}

#[tokio::test]
async fn a_field_that_a_site_passes_selects_from_the_first_answer_on() {
    let (origin, node) = world_passing(&["foo"]).await;
    let head = "HTTP/1.1 200 OK\nvary: foo\ncache-control: max-age=60";
    origin.text("/", head, "1").text("/", head, "none");
    for _ in 0..2 {
        assert_eq!(get_with(node.addr, HOST, "/", "foo: 1").await.text(), "1");
        assert_eq!(get(node.addr, HOST, "/").await.text(), "none");
    }
    assert_eq!(origin.requests("/")[0].fields["foo"], "1");
    assert_eq!(origin.count("/"), 2);
}
