//! One suite, every far end of a handle: the map, and two nodes on real loopback sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use coral_dsht::memory::MemoryNetwork;
use coral_dsht::{
    Announced, Config, Driver, DshtHandle, HintsQuery, Id, Level, Levels, MAX_ANNOUNCEMENT_BYTES, NodesQuery, Peer,
    Services, Stopped, Value,
};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

const HOUR: Duration = Duration::from_secs(3600);
/// What takes longer does not happen.
const SOON: Duration = Duration::from_secs(20);
const WEB: Services = Services::from_bits(1);

fn value(text: &str) -> Value {
    Value::new(text.as_bytes()).unwrap()
}

/// What every far end must do, with two nodes of one network that know each other; `b` offers WEB.
async fn suite(a: &DshtHandle, b: &DshtHandle) {
    let key = Id::hash(&[b"key"]);
    assert!(a.get(key, Levels::ALL).await.unwrap().values.is_empty());

    let stored = a.put(key, value("a"), HOUR, Levels::ALL).await.unwrap();
    assert!(!stored.at.is_empty() && !stored.held_back);
    let found = b.get(key, Levels::ALL).await.unwrap();
    assert_eq!(found.values, [value("a")]);
    assert!(found.level.is_some());

    b.put(key, value("b"), HOUR, Levels::ALL).await.unwrap();
    let mut found = a.get(key, Levels::ALL).await.unwrap().values;
    found.sort();
    assert_eq!(found, [value("a"), value("b")]);

    assert!(a.remove(key, value("a")).await.unwrap() > 0);
    assert_eq!(b.get(key, Levels::ALL).await.unwrap().values, [value("b")]);
    assert_eq!(a.remove(key, value("never put")).await.unwrap(), 0);

    let (cold, ttl) = (Id::hash(&[b"cold"]), Duration::from_secs(20));
    let first = a.claim(cold, value("a"), ttl, Levels::ALL, Vec::new()).await.unwrap();
    assert!(first.values.is_empty() && first.granted.contains(Level::GLOBAL));
    let second = b.claim(cold, value("b"), ttl, Levels::ALL, Vec::new()).await.unwrap();
    assert_eq!(second.values, [value("a")]);
    assert!(second.level.is_some());
    let refusing = b.claim(cold, value("b"), ttl, Levels::ALL, vec![value("a")]).await.unwrap();
    assert!(refusing.values.is_empty());

    assert_eq!(a.contacts().await.unwrap(), [b.snapshot().await.unwrap().me.addr]);
    let query = NodesQuery { level: Level::GLOBAL, count: 5, target: None, services: WEB };
    let near = a.nodes(query).await.unwrap();
    assert_eq!(near.iter().map(|near| near.peer).collect::<Vec<_>>(), [b.snapshot().await.unwrap().me]);
    assert!(b.nodes(query).await.unwrap().is_empty());
    let me = near[0].peer;
    let next_door = |routers| HintsQuery { client: [127, 0, 0, 99].into(), routers, count: 5, services: WEB };
    assert_eq!(hinted(a, next_door(vec![])).await, [me]);
    let nobody = HintsQuery { services: Services::from_bits(0x80), ..next_door(vec![]) };
    assert!(a.hints(nobody).await.unwrap().is_empty());
    let far_away = |routers| HintsQuery { client: [198, 51, 100, 7].into(), ..next_door(routers) };
    assert!(a.hints(far_away(vec![])).await.unwrap().is_empty());
    b.set_routers(vec![[203, 0, 113, 1].into()]).await.unwrap();
    assert_eq!(hinted(a, far_away(vec![[192, 0, 2, 1].into(), [203, 0, 113, 1].into()])).await, [me]);
    let unknown = NodesQuery { services: Services::from_bits(0x80), ..query };
    assert!(a.nodes(unknown).await.unwrap().is_empty());
}

/// What every far end must do with announcements: `a` and `b` know each other, and so does the node that `join` makes.
async fn announcements(a: &DshtHandle, b: &DshtHandle, join: impl AsyncFnOnce() -> DshtHandle) {
    let (mut told_a, mut told_b) = (a.announcements().await.unwrap(), b.announcements().await.unwrap());
    a.announce(b"one".to_vec(), HOUR).await.unwrap();
    let announced = heard(&mut told_b).await;
    assert!(announced.message == b"one" && announced.age < SOON, "{announced:?}");
    announced.pass_on(HOUR);
    b.announce(b"two".to_vec(), HOUR).await.unwrap();
    let announced = heard(&mut told_a).await;
    assert_eq!(announced.message, b"two");
    // Dropped, it goes no further; but whoever has announced it keeps it.
    drop(announced);
    // Whoever joins later hears of what is kept. What was announced before, or is too long, is not announced.
    let c = join().await;
    let mut told_c = c.announcements().await.unwrap();
    let mut messages = [heard(&mut told_c).await.message, heard(&mut told_c).await.message];
    messages.sort();
    assert_eq!(messages, [b"one".to_vec(), b"two".to_vec()]);
    a.announce(b"one".to_vec(), HOUR).await.unwrap();
    a.announce(vec![0; MAX_ANNOUNCEMENT_BYTES + 1], HOUR).await.unwrap();
    a.announce(vec![7; MAX_ANNOUNCEMENT_BYTES], Duration::ZERO).await.unwrap();
    assert_eq!(heard(&mut told_b).await.message, [7; MAX_ANNOUNCEMENT_BYTES]);
    assert_eq!(heard(&mut told_c).await.message, [7; MAX_ANNOUNCEMENT_BYTES]);
    // There is one receiver: the last.
    let mut told_b_from_now_on = b.announcements().await.unwrap();
    assert!(told_b.recv().await.is_none());
    c.announce(b"three".to_vec(), HOUR).await.unwrap();
    assert_eq!(heard(&mut told_b_from_now_on).await.message, b"three");
    assert_eq!(heard(&mut told_a).await.message, b"three");
    // What comes while nobody receives is heard later, from those who keep it.
    drop(told_b_from_now_on);
    a.announce(b"four".to_vec(), HOUR).await.unwrap();
    assert_eq!(heard(&mut told_c).await.message, b"four");
    let mut told_b = b.announcements().await.unwrap();
    assert_eq!(heard(&mut told_b).await.message, b"four");
}

async fn heard(told: &mut mpsc::Receiver<Announced>) -> Announced {
    tokio::time::timeout(SOON, told.recv()).await.expect("it is heard in time").expect("somebody announces")
}

/// Those that hints name, as soon as there are any.
async fn hinted(handle: &DshtHandle, query: HintsQuery) -> Vec<Peer> {
    let named = async {
        loop {
            let near = handle.hints(query.clone()).await.unwrap();
            if !near.is_empty() {
                return near.into_iter().map(|near| near.peer).collect();
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), named).await.expect("somebody is named in time")
}

/// A node on loopback: its handle, its address, and the means to stop it.
struct Node {
    handle: DshtHandle,
    me: Peer,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

async fn node(services: Services, seeds: Vec<SocketAddr>) -> Node {
    node_with(Config::default(), services, seeds).await
}

async fn node_with(config: Config, services: Services, seeds: Vec<SocketAddr>) -> Node {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let me = Peer::new(socket.local_addr().unwrap(), services);
    let (handle, driver) = Driver::new(socket, me, Arc::new(config)).unwrap();
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(driver.run(seeds, async move { drop(stopped.await) }));
    Node { handle, me, stop, task }
}

/// Until `handle` has `count` verified neighbours.
async fn neighbours(handle: &DshtHandle, count: usize) {
    let everybody = NodesQuery { level: Level::GLOBAL, count: 100, target: None, services: Services::NONE };
    let known = async {
        while handle.nodes(everybody).await.unwrap().len() != count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), known).await.expect("neighbours are known in time");
}

#[tokio::test]
async fn the_map_does_what_the_index_does() {
    let network = MemoryNetwork::new();
    let a = network.node(Peer::new(([127, 0, 0, 1], 1).into(), Services::NONE));
    let b = network.node(Peer::new(([127, 0, 0, 2], 1).into(), WEB));
    suite(&a, &b).await;
    announcements(&a, &b, async || network.node(Peer::new(([127, 0, 0, 3], 1).into(), Services::NONE))).await;
}

#[tokio::test]
async fn real_sockets_do_what_the_index_does() {
    let a = node(Services::NONE, Vec::new()).await;
    let b = node(WEB, vec![a.me.addr]).await;
    neighbours(&a.handle, 1).await;
    neighbours(&b.handle, 1).await;
    suite(&a.handle, &b.handle).await;
    let mut late = None;
    announcements(&a.handle, &b.handle, async || {
        late.insert(node(Services::NONE, vec![a.me.addr]).await).handle.clone()
    })
    .await;
}

#[tokio::test]
async fn the_nodes_of_one_machine_meet_in_one_cluster_at_every_level() {
    let first = node(WEB, Vec::new()).await;
    let mut nodes = vec![first];
    for _ in 1..8 {
        let seeds = vec![nodes[0].me.addr];
        nodes.push(node(WEB, seeds).await);
    }
    let met = async {
        for node in &nodes {
            while node.handle.snapshot().await.unwrap().clusters.iter().any(|cluster| cluster.size != 8) {
                tokio::task::yield_now().await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), met).await.expect("they meet in time");
    let clusters =
        |snapshot: coral_dsht::Snapshot| snapshot.clusters.iter().map(|status| status.cluster).collect::<Vec<_>>();
    let expected = clusters(nodes[0].handle.snapshot().await.unwrap());
    for node in &nodes {
        assert_eq!(clusters(node.handle.snapshot().await.unwrap()), expected);
    }
}

#[tokio::test]
async fn a_node_that_stops_is_forgotten_and_its_handle_says_so() {
    let a = node(Services::NONE, Vec::new()).await;
    let b = node(WEB, vec![a.me.addr]).await;
    neighbours(&a.handle, 1).await;
    b.stop.send(()).unwrap();
    b.task.await.unwrap();
    assert_eq!(b.handle.snapshot().await.unwrap_err(), Stopped);
    neighbours(&a.handle, 0).await;
}

#[tokio::test]
async fn junk_does_no_harm_and_is_counted() {
    let a = node(Services::NONE, Vec::new()).await;
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for length in [0, 1, 13, 100, 1200, 1201, 9000] {
        stranger.send_to(&vec![0x42; length], a.me.addr).await.unwrap();
        stranger.send_to(&vec![0x01; length], a.me.addr).await.unwrap();
    }
    let counted = async {
        while a.handle.snapshot().await.unwrap().stats.dropped.values().sum::<u64>() < 14 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), counted).await.expect("all junk is counted");
    let b = node(WEB, vec![a.me.addr]).await;
    neighbours(&a.handle, 1).await;
    neighbours(&b.handle, 1).await;
    suite(&a.handle, &b.handle).await;
}

#[tokio::test]
async fn seeds_that_come_later_are_found() {
    let late = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = late.local_addr().unwrap();
    drop(late);
    let config = Arc::new(Config { keepalive: Duration::from_millis(200), ..Config::default() });
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let me = Peer::new(socket.local_addr().unwrap(), Services::NONE);
    let (early, driver) = Driver::new(socket, me, Arc::clone(&config)).unwrap();
    tokio::spawn(driver.run(vec![addr], std::future::pending()));
    neighbours(&early, 0).await;
    let socket = UdpSocket::bind(addr).await.unwrap();
    let (_handle, driver) = Driver::new(socket, Peer::new(addr, WEB), config).unwrap();
    tokio::spawn(driver.run(Vec::new(), std::future::pending()));
    neighbours(&early, 1).await;
}

#[tokio::test]
async fn nodes_with_one_network_key_meet_and_others_do_not() {
    let with_key = |digit: &str| Config { network_key: Some(digit.repeat(64).parse().unwrap()), ..Config::default() };
    let a = node_with(with_key("a"), Services::NONE, Vec::new()).await;
    let b = node_with(with_key("a"), WEB, vec![a.me.addr]).await;
    let stranger = node_with(with_key("b"), WEB, vec![a.me.addr]).await;
    neighbours(&a.handle, 1).await;
    neighbours(&b.handle, 1).await;
    suite(&a.handle, &b.handle).await;
    let turned_away = async {
        while !a.handle.snapshot().await.unwrap().stats.dropped.contains_key("stranger") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), turned_away).await.unwrap();
    assert!(stranger.handle.snapshot().await.unwrap().neighbours.is_empty());
}
