//! The whole path of one request, with real nodes over real sockets: a name is looked up by a real resolver, the page is
//! fetched by a real HTTP client, and the origin counts for itself.

mod support;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use coral::demo::site::Object;
use coral::node::Node;
use coral::{http, node};
use coral_dsht::Levels;
use coral_proxy::partial::Place;
use coral_proxy::reference;
use hyper::header::{CONTENT_RANGE, HeaderMap, HeaderValue};
use serde_json::Value as Json;
use support::{CORALIZED, Cluster, HOST, PATIENCE, config, eventually, fetch, map, origin, page, resolve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

#[tokio::test]
async fn a_name_leads_to_the_page_whichever_node_is_asked_and_the_origin_is_asked_once() {
    let origin = origin(vec![page("/"), page("/other")]).await;
    let cluster = Cluster::start(4, &origin).await;
    let all: BTreeSet<IpAddr> = cluster.nodes.iter().map(|node| node.me().addr.ip()).collect();
    for path in ["/", "/other"] {
        for node in &cluster.nodes {
            // A nameserver's list of live nodes follows the index by a second at most.
            let addresses = eventually(
                async || resolve(node, CORALIZED).await.expect("an answer"),
                |addresses| !addresses.is_empty(),
            );
            for ip in addresses.await {
                assert!(all.contains(&ip), "{ip} is no node");
                let number = cluster.nodes.iter().position(|node| node.me().addr.ip() == ip).unwrap();
                let page = fetch(cluster.proxy(number), CORALIZED, path).await;
                assert_eq!((page.status, page.body), (200, format!("<p>This is {path}.</p>").into_bytes()));
            }
        }
        // Also by those that no answer named.
        for number in 0..cluster.nodes.len() {
            assert_eq!(fetch(cluster.proxy(number), CORALIZED, path).await.status, 200);
            let again = fetch(cluster.proxy(number), CORALIZED, path).await;
            assert!(again.cache.starts_with("coral; hit"), "{}", again.cache);
        }
    }
    assert_eq!(origin.asked(), [("/".to_owned(), 1), ("/other".to_owned(), 1)].into());
    cluster.stop().await;
}

#[tokio::test]
async fn a_node_that_drains_is_named_no_more_and_still_serves() {
    let origin = origin(vec![page("/")]).await;
    // A peer that is pinged so often learns of it as soon.
    let cluster = Cluster::with(3, |config| {
        map(config, HOST, origin.addr());
        config.dsht.part.keepalive = Duration::from_millis(100);
        config.dns.part.refresh = Duration::from_millis(50);
    })
    .await;
    let leaving = cluster.nodes[1].me().addr.ip();
    let named = async || {
        let mut named = BTreeSet::new();
        for node in &cluster.nodes {
            named.extend(resolve(node, CORALIZED).await.expect("an answer"));
        }
        named
    };
    eventually(named, |named| named.len() == 3).await;
    let after = cluster.nodes[1].drain().await;
    assert!(after > Duration::from_secs(60), "{after:?} is no longer than what resolvers remember");
    eventually(named, |named| !named.contains(&leaving) && named.len() == 2).await;
    assert_eq!(fetch(cluster.proxy(1), CORALIZED, "/").await.status, 200);
    let (status, health) = http::get_text(cluster.admin(1), "/health").await.unwrap();
    assert!(status == 503 && health.contains("draining"), "{status} {health}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_certificate_is_all_that_a_node_needs_to_speak_tls() {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["*.s.nyud.net".to_owned()]).unwrap().self_signed(&key).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let [chain, private] = ["chain.pem", "key.pem"].map(|name| directory.path().join(name));
    std::fs::write(&chain, certificate.pem()).unwrap();
    std::fs::write(&private, key.serialize_pem()).unwrap();
    let origin = origin(vec![page("/")]).await;
    let cluster = Cluster::with(1, |config| {
        map(config, HOST, origin.addr());
        let files = coral_proxy::CertificateFiles { chain: chain.clone(), key: private.clone() };
        config.proxy.part.certificates.push(files);
    })
    .await;
    let addr = cluster.nodes[0].addresses().proxy_tls.expect("a socket for TLS");
    let host = "www-example-com.s.nyud.net";
    let trusted = reqwest::Certificate::from_pem(certificate.pem().as_bytes()).unwrap();
    let client = support::builder(host, addr).tls_certs_only([trusted]).build().unwrap();
    let response = client.get(format!("https://{host}:{}/", addr.port())).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.text().await.unwrap()), (200, "<p>This is /.</p>".to_owned()));
    cluster.stop().await;
}

#[tokio::test]
async fn the_second_node_gets_it_from_the_first() {
    let origin = origin(vec![page("/")]).await;
    let cluster = Cluster::start(3, &origin).await;
    let first = fetch(cluster.proxy(0), CORALIZED, "/").await;
    assert!(first.cache.contains("detail=origin"), "{}", first.cache);
    let second = fetch(cluster.proxy(2), CORALIZED, "/").await;
    assert!(second.cache.contains("detail=peer-l"), "{}", second.cache);
    cluster.stop().await;
}

#[tokio::test]
async fn a_node_that_stops_withdraws_its_references_and_leaves_no_address_behind() {
    let origin = origin(vec![page("/")]).await;
    let mut cluster = Cluster::start(3, &origin).await;
    fetch(cluster.proxy(2), CORALIZED, "/").await;
    let key = coral_proxy::index_key(&format!("http://{HOST}/"), &[], &[]).unwrap();
    let held = cluster.nodes[0].dsht().get(key, Levels::ALL).await.unwrap();
    let reference = held.values.iter().find_map(coral_proxy::decode_reference);
    assert_eq!(reference, Some(cluster.proxy(2)), "{:#?}", held.hops);

    let gone = cluster.nodes.pop().unwrap();
    let ip = gone.me().addr.ip();
    let ending = gone.stop().await;
    assert!(ending.is_clean(), "{ending}");
    let parts: Vec<&str> = ending.parts.iter().map(|part| part.name).collect();
    assert_eq!(parts, ["page", "cache", "nameserver", "purger", "index", "admin address"]);

    let left = cluster.nodes[0].dsht().get(key, Levels::ALL).await.unwrap();
    assert_eq!(left.values, []);
    let asked = &cluster.nodes[0];
    eventually(async || resolve(asked, CORALIZED).await.unwrap(), |addresses| !addresses.contains(&ip)).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_node_that_dies_without_a_goodbye_costs_the_others_no_page() {
    let origin = origin(vec![page("/")]).await;
    let mut cluster = Cluster::start(3, &origin).await;
    fetch(cluster.proxy(2), CORALIZED, "/").await;
    drop(cluster.nodes.pop());
    let page = timeout(PATIENCE, fetch(cluster.proxy(0), CORALIZED, "/")).await.expect("in time");
    assert_eq!(page.status, 200);
    assert_eq!(origin.asked()["/"], 2);
    cluster.stop().await;
}

#[tokio::test]
async fn a_node_that_starts_again_finds_its_network_without_seeds() {
    let directory = tempfile::tempdir().unwrap();
    let state = |number: u8| directory.path().join(format!("peers of {number}"));
    let mut cluster = Cluster::with(3, |config| {
        let IpAddr::V4(ip) = config.dsht.node.listen.ip() else { unreachable!("127.0.0.x") };
        config.dsht.node.state = Some(state(ip.octets()[3]));
    })
    .await;
    let ending = cluster.nodes.pop().unwrap().stop().await;
    assert!(ending.is_clean(), "{ending}");
    let mut config = config(3);
    config.dsht.node.state = Some(state(3));
    assert!(config.dsht.node.seeds.is_empty());
    cluster.nodes.push(Node::start(config).await.unwrap());
    timeout(PATIENCE, node::together(&cluster.nodes)).await.expect("it finds them").unwrap();
    cluster.stop().await;
}

#[tokio::test]
async fn a_state_file_that_is_broken_stops_no_node() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("peers");
    std::fs::write(&path, b"\xff\xfe nonsense").unwrap();
    let cluster = Cluster::with(2, |config| config.dsht.node.state = Some(path.clone())).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_large_file_goes_through_a_chain_of_nodes_unaltered() {
    let body: Vec<u8> = (0..8u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let file = Object::new("/large", "application/octet-stream", body);
    let origin = origin(vec![file.clone()]).await;
    let cluster = Cluster::start(3, &origin).await;
    for number in 0..3 {
        let got = fetch(cluster.proxy(number), CORALIZED, "/large").await;
        assert!(got.body[..] == file.body[..], "node {number} altered it ({} bytes)", got.body.len());
    }
    assert_eq!(origin.asked()["/large"], 1);
    cluster.stop().await;
}

#[tokio::test]
async fn junk_at_every_port_does_no_harm() {
    let origin = origin(vec![page("/")]).await;
    let cluster = Cluster::start(2, &origin).await;
    let victim = &cluster.nodes[0];
    let at = *victim.addresses();
    let dns = at.dns.unwrap();

    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for length in (0..600).step_by(7) {
        let junk: Vec<u8> = (0..length).map(|i| (i * 31 + length) as u8).collect();
        socket.send_to(&junk, at.dsht).await.unwrap();
        socket.send_to(&junk, dns).await.unwrap();
    }
    for addr in [dns, at.proxy.unwrap(), at.admin.unwrap()] {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(b"\x00\x05\xff\xff\r\n\r\njunk / HTTP/9\r\n\r\n").await.unwrap();
        stream.shutdown().await.unwrap();
        // Whatever it answers, it closes the connection; a reset is as good.
        let mut answer = Vec::new();
        let closed = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "{addr} keeps a junk connection open");
    }

    assert_eq!(fetch(cluster.proxy(0), CORALIZED, "/").await.status, 200);
    assert!(!resolve(victim, CORALIZED).await.unwrap().is_empty());
    let dropped = victim.dsht().snapshot().await.unwrap().stats.dropped;
    assert!(dropped.values().sum::<u64>() > 0, "no junk was counted");
    cluster.stop().await;
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_a_stop() {
    let cluster = Cluster::with(1, |_| ()).await;
    let at = *cluster.nodes[0].addresses();
    let mut idle = Vec::new();
    for addr in [at.dns, at.proxy, at.admin] {
        let mut stream = TcpStream::connect(addr.unwrap()).await.unwrap();
        // The first byte of something, so that the node has taken it up.
        stream.write_all(b"\0").await.unwrap();
        idle.push(stream);
    }
    // The node has accepted all of these by the time it answers what came later.
    assert_eq!(http::get_text(at.admin.unwrap(), "/health").await.unwrap().0, 200);
    cluster.stop().await;
}

#[tokio::test]
async fn a_host_of_nobodys_is_refused() {
    let cluster = Cluster::with(1, |_| ()).await;
    let page = fetch(cluster.proxy(0), "www.example.com.example.net", "/").await;
    assert!((400..500).contains(&page.status), "{}", page.status);
    resolve(&cluster.nodes[0], "www.example.com.example.net").await.expect_err("refused");
    cluster.stop().await;
}

#[tokio::test]
async fn a_private_origin_is_refused_unless_a_site_names_it() {
    let origin = origin(vec![page("/")]).await;
    let cluster = Cluster::with(1, |config| map(config, "named.example.com", origin.addr())).await;
    assert_eq!(fetch(cluster.proxy(0), "named.example.com.nyud.net", "/").await.status, 200);

    let port = origin.addr().port();
    for host in [format!("localhost.{port}.nyud.net"), format!("127.0.0.1.{port}.nyud.net")] {
        let page = fetch(cluster.proxy(0), &host, "/").await;
        assert!(page.status >= 400, "{host}: {}", page.status);
        assert!(!page.body.starts_with(b"<p>This is"), "{host}");
    }
    assert_eq!(origin.asked()["/"], 1);
    cluster.stop().await;
}

#[tokio::test]
async fn an_origin_that_is_not_there_is_a_bad_gateway_and_says_whose_fault() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = gone.local_addr().unwrap();
    drop(gone);
    let cluster = Cluster::with(1, |config| map(config, HOST, addr)).await;
    let page = fetch(cluster.proxy(0), CORALIZED, "/").await;
    assert_eq!(page.status, 502);
    assert!(page.proxy.contains("error="), "Proxy-Status: {}", page.proxy);
    cluster.stop().await;
}

#[tokio::test]
async fn the_admin_address_tells_what_the_node_knows() {
    let origin = origin(vec![page("/")]).await;
    let cluster = Cluster::start(2, &origin).await;
    fetch(cluster.proxy(0), CORALIZED, "/").await;

    let (code, body) = http::get_text(cluster.admin(1), "/status").await.unwrap();
    let status: Json = serde_json::from_str(&body).unwrap();
    assert_eq!(code, 200);
    assert_eq!(status["neighbours"][0]["peer"]["addr"], cluster.nodes[0].me().addr.to_string());
    assert_eq!(status["joined"], true);

    let path = format!("/lookup?url=http://{HOST}/");
    let (code, body) = http::get_text(cluster.admin(1), &path).await.unwrap();
    let lookup: Json = serde_json::from_str(&body).unwrap();
    assert_eq!(code, 200);
    assert_eq!(lookup["references"], serde_json::json!([cluster.proxy(0).to_string()]));
    assert_eq!((&lookup["parts"], &lookup["stale"]), (&serde_json::json!([]), &serde_json::json!([])));

    // As after a range of it, and when it has ceased to be fresh.
    let key = coral_proxy::index_key(&format!("http://{HOST}/"), &[], &[]).unwrap();
    let range = HeaderMap::from_iter([(CONTENT_RANGE, HeaderValue::from_static("bytes 0-9/100"))]);
    let me = cluster.proxy(0);
    let part = reference::encode_part(me, Place::of(&range).unwrap(), None);
    for (key, value) in
        [(reference::parts_key(key), part), (reference::stale_key(key), coral_proxy::encode_reference(me))]
    {
        cluster.nodes[0].dsht().put(key, value, Duration::from_secs(60), Levels::ALL).await.unwrap();
    }
    let (_, body) = http::get_text(cluster.admin(1), &path).await.unwrap();
    let lookup: Json = serde_json::from_str(&body).unwrap();
    assert_eq!(lookup["parts"], serde_json::json!([{"node": me.to_string(), "part": "bytes 0-9/100"}]));
    assert_eq!(lookup["stale"], serde_json::json!([me.to_string()]));

    let (code, body) = http::get_text(cluster.admin(1), "/metrics").await.unwrap();
    assert_eq!(code, 200);
    assert!(body.ends_with("# EOF\n"), "{body}");
    for counter in ["coral_dsht_datagrams_total{", "coral_dns_", "coral_proxy_"] {
        assert!(body.contains(counter), "no {counter} in {body}");
    }

    let (code, body) = http::get_text(cluster.admin(1), "/map").await.unwrap();
    let map: Json = serde_json::from_str(&body).unwrap();
    assert_eq!(code, 200, "{body}");
    assert_eq!(map["nodes"][0]["peer"]["addr"], cluster.nodes[0].me().addr.to_string());
    assert_eq!(map["nodes"].as_array().map(Vec::len), Some(1), "{body}");

    // It is at the other node: this one says so, and whom it would ask.
    let (code, body) = http::get_text(cluster.admin(1), &format!("/explain?url={HOST}/")).await.unwrap();
    assert_eq!(code, 400, "{body}");
    let (code, body) = http::get_text(cluster.admin(1), &format!("/explain?url=http://{HOST}/")).await.unwrap();
    let explained: Json = serde_json::from_str(&body).unwrap();
    assert_eq!((code.as_u16(), &explained["verdict"]), (200, &"miss".into()), "{body}");
    assert_eq!(explained["index"]["references"], serde_json::json!([cluster.proxy(0).to_string()]));

    for (path, expected) in
        [("/health", 200), ("/lookup?url=::", 400), ("/lookup", 400), ("/explain", 400), ("/secret", 404)]
    {
        let (code, _) = http::get_text(cluster.admin(1), path).await.unwrap();
        assert_eq!(code.as_u16(), expected, "{path}");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_node_whose_seed_does_not_answer_runs_but_is_not_healthy() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(1);
    config.dsht.node.seeds = vec![silent.local_addr().unwrap().into()];
    let node = Node::start(config).await.unwrap();
    let (code, body) = http::get_text(node.addresses().admin.unwrap(), "/health").await.unwrap();
    assert_eq!(code, 503);
    assert!(body.contains("none of the seeds answers"), "{body}");
    assert!(node.stop().await.is_clean());
}

#[tokio::test]
async fn parts_that_are_off_are_not_started() {
    let mut config = config(1);
    config.dns.node.listen = None;
    config.proxy.node.listen = None;
    config.admin.listen = None;
    let node = Node::start(config).await.unwrap();
    let node::Addresses { dns, proxy, admin, .. } = *node.addresses();
    assert_eq!((dns, proxy, admin), (None, None, None));
    assert_eq!(node.me().services, coral_dsht::Services::NONE);
    let ending = node.stop().await;
    assert_eq!(ending.parts.len(), 2, "the index, and what it is told of purges");
    assert!(ending.is_clean(), "{ending}");
}
