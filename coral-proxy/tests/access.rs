//! What the log of requests is told, and the ids by which a request is found again at other nodes.

mod support;

use std::sync::{Arc, Mutex};

use coral_dsht::memory::MemoryNetwork;
use coral_proxy::Site;
use coral_proxy::access::{Access, AccessLog};
use support::client::{Reply, Transfer, get, get_with, request};
use support::node::{HOST, Node};
use support::origin::{Gate, Origin, Step};
use support::until;

const OK: &str = "HTTP/1.1 200 OK\ncache-control: max-age=600\netag: \"a\"";
const ID: &str = "coral-request-id";

/// What was told, a line for each request.
#[derive(Debug, Clone, Default)]
struct Told(Arc<Mutex<Vec<[String; 2]>>>);

impl AccessLog for Told {
    fn log(&self, access: &Access<'_>) {
        let Access { request, status, cache, bytes, is_whole, from_peer, .. } = access;
        assert!(access.took >= access.head_took);
        let (method, from) = (request.method, if *from_peer { "peer" } else { "client" });
        let is_whole = if *is_whole { "whole" } else { "broken off" };
        let line = format!("{method} {} {} {cache} {from} {bytes} {is_whole}", request.target, status.as_u16());
        self.0.lock().unwrap().push([line, access.id.to_string()]);
    }
}

impl Told {
    fn of(node: &Node) -> Self {
        let told = Self::default();
        node.proxy.log_requests(Arc::new(told.clone()));
        told
    }

    /// The line and the id of the next request, once its response has ended.
    async fn next(&self) -> [String; 2] {
        until(async || !self.0.lock().unwrap().is_empty()).await;
        self.0.lock().unwrap().remove(0)
    }
}

async fn node(origin: &Origin) -> (Node, Told) {
    let node = Node::start(&MemoryNetwork::new(), origin).await;
    let told = Told::of(&node);
    (node, told)
}

#[tokio::test]
async fn a_request_is_told_with_what_was_sent_and_its_id_is_the_clients_to_quote() {
    let origin = Origin::start().await;
    origin.text("/page", OK, "hello");
    let (node, told) = node(&origin).await;
    let mut ids = Vec::new();
    let mut check = async |reply: Reply, expected: &str| {
        let [line, id] = told.next().await;
        assert_eq!(line, expected);
        assert_eq!(reply.field(ID), id);
        assert!(!ids.contains(&id));
        ids.push(id.clone());
        (reply, id)
    };
    check(get(node.addr, HOST, "/page").await, "GET /page 200 origin client 5 whole").await;
    check(get(node.addr, HOST, "/page").await, "GET /page 200 hit client 5 whole").await;
    let head = request(node.addr, &format!("HEAD /page HTTP/1.1\nhost: {HOST}\n\n")).await;
    check(head, "HEAD /page 200 hit client 0 whole").await;
    check(get_with(node.addr, HOST, "/page", "range: bytes=1-2").await, "GET /page 206 hit client 2 whole").await;
    check(get_with(node.addr, HOST, "/page", "if-none-match: \"a\"").await, "GET /page 304 hit client 0 whole").await;
    let error = get_with(node.addr, HOST, "/none", "cache-control: only-if-cached").await;
    let line = format!("GET /none 504 not-cached client {} whole", error.body.len());
    let (error, id) = check(error, &line).await;
    assert!(error.text().ends_with(&format!("\nRequest {id}\n")), "{}", error.text());
}

#[tokio::test]
async fn of_a_transfer_that_breaks_off_it_is_told_how_far_it_came() {
    let origin = Origin::start().await;
    let head = |length: u32| Step::Send(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").into_bytes());
    let gate = Gate::closed();
    origin.on("/waits", vec![head(100_000), Step::Pattern(0, 30_000), Step::Wait(gate.clone()), Step::Close]);
    origin.on("/cut", vec![head(100_000), Step::Pattern(0, 40_000), Step::Close]);
    let (node, told) = node(&origin).await;
    let mut transfer = Transfer::begin(node.addr, &format!("GET /waits HTTP/1.1\nhost: {HOST}\n\n")).await;
    transfer.read(30_000).await;
    assert!(told.0.lock().unwrap().is_empty(), "it is not over");
    drop(transfer);
    assert_eq!(told.next().await[0], "GET /waits 200 origin client 30000 broken off");
    gate.open();
    assert!(!get(node.addr, HOST, "/cut").await.whole);
    assert_eq!(told.next().await[0], "GET /cut 200 origin client 40000 broken off");
}

#[tokio::test]
async fn an_id_goes_from_node_to_node_and_not_to_the_origin() {
    let (network, origin) = (MemoryNetwork::new(), Origin::start().await);
    origin.text("/page", &format!("{OK}\n{ID}: 0000000000000001\nx-request-id: theirs"), "hello");
    let (a, b) = (Node::start(&network, &origin).await, Node::start(&network, &origin).await);
    let (told_a, told_b) = (Told::of(&a), Told::of(&b));
    get(a.addr, HOST, "/page").await;
    let [_, first] = told_a.next().await;
    // A client's own is not taken over, however it calls it.
    let own = format!("{ID}: 0123456789abcdef\nx-request-id: 0123456789abcdef");
    let reply = get_with(b.addr, HOST, "/page", &own).await;
    let ([by_a, id_at_a], [by_b, id_at_b]) = (told_a.next().await, told_b.next().await);
    assert_eq!(by_a, "GET /page 200 hit peer 5 whole");
    assert_eq!(by_b, "GET /page 200 peer-l0 client 5 whole");
    assert_eq!((id_at_a.as_str(), id_at_b.as_str()), (reply.field(ID), reply.field(ID)));
    assert!(id_at_b != first && id_at_b != "0123456789abcdef" && id_at_b.len() == 16, "{id_at_b}");
    // Nor is that of the first request stored with the object; what the origin calls its own stays.
    let again = get(b.addr, HOST, "/page").await;
    let ids = again.fields.iter().filter(|(name, _)| name == ID).count();
    assert_eq!((ids, again.field(ID), again.field("x-request-id")), (1, told_b.next().await[1].as_str(), "theirs"));
    let asked = &origin.requests("/page")[0].fields;
    assert!(!asked.contains_key(ID) && !asked.contains_key("x-request-id"), "{asked:?}");
}

#[tokio::test]
async fn whoever_poses_as_a_node_chooses_an_id_and_nothing_else() {
    let origin = Origin::start().await;
    let (node, told) = node(&origin).await;
    let posing = |id: &str| format!("cdn-loop: coral\ncache-control: only-if-cached\n{ID}: {id}");
    get_with(node.addr, HOST, "/", &posing("0123456789abcdef")).await;
    assert_eq!(told.next().await[1], "0123456789abcdef");
    for bad in ["0123456789abcde", "0123456789ABCDEF", "\" 200 \"", "0123456789abcdef0123456789abcdef"] {
        let reply = get_with(node.addr, HOST, "/", &posing(bad)).await;
        let [_, id] = told.next().await;
        assert!(id != bad && id.len() == 16 && id == reply.field(ID), "{bad}: {id}");
    }
}

#[tokio::test]
async fn an_origin_sees_the_id_where_its_site_says_so() {
    let origin = Origin::start().await;
    origin.text("/page", OK, "hello");
    let change = |config: &mut coral_proxy::Config| {
        config.sites = vec![Site::new(HOST, &format!("http://{}", origin.addr)).unwrap().passing(&[ID]).unwrap()];
    };
    let node = Node::start_with(&MemoryNetwork::new(), &origin, change).await;
    let reply = get(node.addr, HOST, "/page").await;
    assert_eq!(origin.requests("/page")[0].fields[ID], reply.field(ID));
}
