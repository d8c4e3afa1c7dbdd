//! Calculating cache keys with the Vary header field.

use crate::support::client::{get, get_with};
use crate::support::node::HOST;
use crate::world;

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
