//! Hints by made-up clients over a paused clock, one over real sockets, and what the kernel says of these.

use std::net::Ipv4Addr;
use std::num::{NonZeroU32, NonZeroUsize};

use coral_dsht::{Command, Driver, HintsQuery, Peer, Services, Stored};
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::oneshot;

use super::*;

const ME: &str = "9.0.0.1:4160";
const SOON: Duration = Duration::from_secs(20);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Of small numbers, that a test shall reach.
fn few() -> config::Hints {
    config::Hints { prefixes: NonZeroUsize::new(3).unwrap(), ..config::Hints::default() }
}

/// A task whose index has levels of 60 and 20 ms, and writes down where hints go: the key, and when since the start.
fn start(config: config::Hints) -> (Clients, mpsc::UnboundedReceiver<(coral_dsht::Key, Duration)>, Metrics) {
    let (dsht, mut commands) = DshtHandle::channel(8);
    let (log, puts) = mpsc::unbounded_channel();
    let begun = Instant::now();
    tokio::spawn(async move {
        while let Some(command) = commands.recv().await {
            match command {
                Command::Put { key, value, ttl, reply, levels } => {
                    assert_eq!((hint::node(&value), ttl), (ME.parse().ok(), hint::TTL));
                    assert_eq!(levels, Levels::ALL);
                    let _ = log.send((key, begun.elapsed()));
                    let _ = reply.send(Stored::default());
                }
                Command::Snapshot { reply } => {
                    let _ = reply.send(snapshot());
                }
                other => panic!("{other:?}"),
            }
        }
    });
    let metrics = Metrics::register(&mut Registry::default());
    (Clients::start(dsht, config, metrics.clone()), puts, metrics)
}

fn snapshot() -> coral_dsht::Snapshot {
    let cluster = |number: u8, diameter| coral_dsht::ClusterStatus {
        level: Level::new(number).unwrap(),
        diameter,
        cluster: coral_dsht::Id::ZERO,
        size: 1,
        known: 0,
    };
    coral_dsht::Snapshot {
        me: Peer::new(ME.parse().unwrap(), Services::NONE),
        clusters: vec![cluster(0, None), cluster(1, Some(ms(60))), cluster(2, Some(ms(20)))],
        neighbours: Vec::new(),
        routers: Vec::new(),
        stored_keys: 0,
        stored_values: 0,
        published_values: 0,
        stats: Default::default(),
    }
}

/// Lets the task do what it has to, without time passing.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

async fn serve(clients: &Clients, client: &str, rtt: Duration, times: u32) {
    for _ in 0..times {
        clients.seen(ip(client), rtt, true);
        settle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_near_network_gets_a_hint_once_clients_were_served_and_again_halfway() {
    let (clients, mut puts, metrics) = start(config::Hints::default());
    for _ in 0..10 {
        clients.seen(ip("8.0.0.1"), ms(5), false);
    }
    settle().await;
    serve(&clients, "8.0.0.1", ms(5), 1).await;
    assert!(puts.try_recv().is_err(), "a connection that asks nothing counts for nothing, and one is too few");
    serve(&clients, "::ffff:8.0.0.99", ms(5), 1).await;
    assert_eq!(puts.recv().await.unwrap(), (hint::network(ip("8.0.0.1")), Duration::ZERO));
    serve(&clients, "8.0.0.7", ms(5), 50).await;
    tokio::time::advance(hint::TTL / 2 - ms(1)).await;
    serve(&clients, "8.0.0.7", ms(5), 1).await;
    assert!(puts.try_recv().is_err(), "it is renewed halfway, not before");
    tokio::time::advance(ms(1)).await;
    serve(&clients, "8.0.0.7", ms(5), 1).await;
    assert_eq!(puts.recv().await.unwrap().1, hint::TTL / 2);
    tokio::time::advance(10 * hint::TTL).await;
    settle().await;
    assert!(puts.try_recv().is_err(), "where nobody comes, nothing is renewed");
    assert_eq!((metrics.hints.get(), metrics.client_prefixes.get()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn who_is_far_or_private_or_on_the_own_network_gets_none() {
    let (clients, mut puts, _) = start(config::Hints::default());
    serve(&clients, "8.0.0.1", ms(60), 9).await;
    for private in ["127.0.9.1", "10.0.0.1", "fd00::1", "fe80::1", "192.0.2.1", "::ffff:192.168.0.1", "9.0.0.200"] {
        serve(&clients, private, ms(1), 9).await;
    }
    tokio::time::advance(SOON).await;
    settle().await;
    assert!(puts.try_recv().is_err());
    serve(&clients, "8.0.0.2", ms(59), 1).await;
    assert_eq!(puts.recv().await.unwrap().0, hint::network(ip("8.0.0.1")), "the least of a network counts");
    serve(&clients, "2600::1", ms(1), 2).await;
    assert_eq!(puts.recv().await.unwrap().0, hint::network(ip("2600::2")));
}

#[tokio::test(start_paused = true)]
async fn a_network_that_has_moved_away_is_not_renewed() {
    let (clients, mut puts, _) = start(config::Hints::default());
    serve(&clients, "8.0.0.1", ms(5), 2).await;
    assert!(puts.recv().await.is_some());
    tokio::time::advance(LATELY).await;
    serve(&clients, "8.0.0.1", ms(100), 9).await;
    tokio::time::advance(SOON).await;
    settle().await;
    assert!(puts.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn puts_are_paced_and_what_is_forgotten_meanwhile_is_not_put() {
    let (clients, mut puts, metrics) = start(few());
    for number in 1..=9 {
        serve(&clients, &format!("8.0.{number}.1"), ms(5), 2).await;
    }
    assert_eq!(metrics.client_prefixes.get(), 3);
    let mut got = Vec::new();
    tokio::time::sleep(SOON).await;
    while let Ok(put) = puts.try_recv() {
        got.push(put);
    }
    let keys = [1, 7, 8, 9].map(|number| hint::network(ip(&format!("8.0.{number}.1"))));
    let times = [0, 500, 1000, 1500].map(ms);
    assert_eq!(got.iter().map(|put| put.0).collect::<Vec<_>>(), keys, "{got:?}");
    for (put, time) in got.iter().zip(times) {
        assert!(put.1 >= time && put.1 < time + ms(5), "{got:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_networks_costs_bounded_memory() {
    let mut table = Table::new(few());
    let place = Place { me: ME.parse().unwrap(), near: ms(60) };
    for number in 0..10_000_u32 {
        let client = Ipv4Addr::from_bits(0x0800_0000 + (number << 8)).into();
        for _ in 0..3 {
            table.note(Instant::now(), Seen { client, rtt: ms(1), served: true }, Some(place));
        }
        assert!(table.entries.len() <= 3 && table.order.len() == table.entries.len() && table.due.len() <= 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stopped_proxy_or_one_told_not_to_puts_nothing() {
    let (clients, mut puts, _) = start(config::Hints { put: false, ..config::Hints::default() });
    serve(&clients, "8.0.0.1", ms(5), 9).await;
    assert!(puts.try_recv().is_err());
    let (clients, mut puts, _) = start(config::Hints { connections: NonZeroU32::MIN, ..config::Hints::default() });
    serve(&clients, "8.0.0.1", ms(5), 1).await;
    assert!(puts.recv().await.is_some());
    serve(&clients, "8.0.1.1", ms(5), 1).await;
    clients.stop();
    tokio::time::sleep(SOON).await;
    assert!(puts.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_watcher_is_told_what_is_new_or_clearly_nearer_and_nobody_waits_for_it() {
    let (clients, _puts, _) = start(config::Hints::default());
    let (watcher, mut watched) = mpsc::channel(2);
    clients.watch(watcher);
    for (client, rtt) in [("8.0.0.1", 50), ("8.0.0.2", 49), ("8.0.0.3", 90), ("::ffff:8.0.0.4", 20)] {
        clients.seen(ip(client), ms(rtt), false);
    }
    settle().await;
    assert_eq!(watched.try_recv().unwrap(), (ip("8.0.0.1"), ms(50)));
    assert_eq!(watched.try_recv().unwrap(), (ip("8.0.0.4"), ms(20)));
    assert!(watched.try_recv().is_err());
    for number in 0..9 {
        clients.seen(ip(&format!("8.1.{number}.1")), ms(1), false);
    }
    settle().await;
    assert_eq!(watched.len(), 2);
}

#[tokio::test]
async fn the_kernel_measures_a_connection_and_nothing_else() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let at_accept = rtt(&server).expect("the handshake is measured");
    client.write_all(b"?").await.unwrap();
    server.read_exact(&mut [0]).await.unwrap();
    server.write_all(b"!").await.unwrap();
    client.read_exact(&mut [0]).await.unwrap();
    let least = rtt(&server).unwrap();
    assert!(!least.is_zero() && least <= at_accept && at_accept < ms(50), "{least:?}, {at_accept:?}");

    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let refused = tcp_info(&udp).map(|_| ()).unwrap_err();
    assert!(matches!(refused.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOPROTOOPT)), "{refused}");
    assert_eq!(rtt(&udp), None);
}

#[test]
fn the_least_counts_and_none_is_none() {
    assert_eq!(least(300, 200), Some(Duration::from_micros(200)));
    assert_eq!([least(300, u32::MAX), least(300, 0)], [Some(Duration::from_micros(300)); 2]);
    assert_eq!([least(0, u32::MAX), least(0, 0)], [None; 2]);
}

/// Two nodes of a real index: one serves a client of another network, the other finds it by that network.
#[tokio::test]
async fn another_node_finds_the_one_that_serves_a_network() {
    let node = |seeds: Vec<SocketAddr>| async move {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let me = Peer::new(socket.local_addr().unwrap(), Services::NONE);
        let (handle, driver) = Driver::new(socket, me, Arc::default()).unwrap();
        tokio::spawn(driver.run(seeds, std::future::pending()));
        (handle, me)
    };
    let (near, me) = node(Vec::new()).await;
    let (far, _) = node(vec![me.addr]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let metrics = Metrics::register(&mut Registry::default());
    let proxy = crate::Proxy::new(Arc::default(), Vec::new(), addr, near.clone(), metrics).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn({
        let proxy = proxy.clone();
        async move { proxy.run(listener, async { drop(stopped.await) }).await }
    });
    let found = async {
        while near.snapshot().await.unwrap().neighbours.is_empty() {
            tokio::time::sleep(ms(10)).await;
        }
        let query = HintsQuery { client: ip("127.0.9.77"), routers: Vec::new(), count: 3, services: Services::NONE };
        assert!(far.hints(query.clone()).await.unwrap().is_empty());
        for _ in 0..2 {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind("127.0.9.1:0".parse().unwrap()).unwrap();
            let mut client = socket.connect(addr).await.unwrap();
            client.write_all(b"GET / HTTP/1.1\r\nhost: nobody\r\nconnection: close\r\n\r\n").await.unwrap();
            client.read_to_end(&mut Vec::new()).await.unwrap();
        }
        loop {
            let hinted = far.hints(query.clone()).await.unwrap();
            if !hinted.is_empty() {
                return hinted;
            }
            tokio::time::sleep(ms(10)).await;
        }
    };
    let found = tokio::time::timeout(SOON, found).await.expect("the hint is found in time");
    assert_eq!(found.iter().map(|near| near.peer.addr).collect::<Vec<_>>(), [me.addr]);
    drop(stop);
    running.await.unwrap().unwrap();
}
