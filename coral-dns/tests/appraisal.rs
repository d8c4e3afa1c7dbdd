//! What nameservers ask each other, over real sockets: how far a client is, and whether it will be answered.

mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use coral_dns::appraisal::{Appraiser, Promise, Reply, Request};
use coral_dns::{Config, Memory, NAMESERVER, PROXY, ProbeConfig, Recollection};
use coral_dsht::Level;
use support::{A, Dns, PATIENCE, config, peer, plain_query, show, three_levels, with_edns};

const NEAR: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
const FAR: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A node that knows how far the networks of `NEAR` and `FAR` are.
async fn node() -> Dns {
    let known = [(NEAR, 5), (FAR, 500)].map(|(ip, ms)| Recollection::of_rtt(ip.into(), Duration::from_millis(ms)));
    node_with(known.into()).await.0
}

/// One that knows this from the start, and what it knows later.
async fn node_with(known: Vec<Recollection>) -> (Dns, Memory) {
    let me = peer("192.0.2.1");
    let levels: [&[&str]; 3] = [&["192.0.2.2", "192.0.2.3"], &["192.0.2.2"], &["192.0.2.2"]];
    let probe = ProbeConfig { echoes: 0, search: false, ..ProbeConfig::default() };
    let config = Config { probe: Some(probe), ..config() };
    let mut memory = Memory::default();
    let dns = Dns::start_with(config, me, three_levels(me, levels), |server| {
        server.remember(known);
        memory = server.memory();
    });
    (dns.await, memory)
}

fn appraiser(dns: &Dns) -> Appraiser {
    Appraiser::new("nyud.net".parse().unwrap(), dns.addr.port(), PATIENCE)
}

#[tokio::test]
async fn a_node_says_how_far_a_client_is_and_promises_only_what_is_near() {
    let dns = node().await;
    let appraiser = appraiser(&dns);
    let duty = Some(Promise { seconds: 60, distant: FAR });
    let (near, _) = appraiser.ask(LOCALHOST, Request { client: NEAR, duty: None }).await.unwrap();
    let expected = Reply {
        level: Level::new(2).unwrap(),
        rtt: Some(Duration::from_millis(5)),
        services: PROXY | NAMESERVER,
        has_promised: false,
        fellows: vec!["192.0.2.2".parse().unwrap()],
    };
    assert_eq!(near, expected);
    let (promised, _) = appraiser.ask(LOCALHOST, Request { client: NEAR, duty }).await.unwrap();
    assert!(promised.has_promised);
    let (far, _) = appraiser.ask(LOCALHOST, Request { client: FAR, duty }).await.unwrap();
    assert_eq!((far.level, far.has_promised, far.fellows.len()), (Level::GLOBAL, false, 0));
    dns.stop().await;
}

#[tokio::test]
async fn another_process_goes_on_with_what_the_first_one_knew() {
    let (dns, memory) = node_with(vec![Recollection::of_rtt(NEAR.into(), Duration::from_millis(5))]).await;
    let duty = Some(Promise { seconds: 60, distant: FAR });
    let (promised, _) = appraiser(&dns).ask(LOCALHOST, Request { client: NEAR, duty }).await.unwrap();
    let recalled = memory.recall(9);
    assert!(recalled.iter().any(|one| one.promised.is_some()), "{recalled:?}");
    dns.stop().await;

    let (dns, memory) = node_with(recalled.clone()).await;
    let (measured, _) = appraiser(&dns).ask(LOCALHOST, Request { client: NEAR, duty: None }).await.unwrap();
    assert_eq!(measured, Reply { has_promised: false, ..promised });
    let again = memory.recall(9);
    let promises = |known: &[Recollection]| known.iter().filter(|one| one.promised.is_some()).count();
    assert_eq!((again.len(), promises(&again)), (recalled.len(), promises(&recalled)));
    dns.stop().await;
}

/// Else anybody could have packets sent to anybody, by a forged question.
#[tokio::test]
async fn who_has_not_proved_its_address_is_told_nothing() {
    let dns = node().await;
    let question = [0xff, 0x21, 0, 6, 1, 4, 198, 51, 100, 7];
    let cookie = [0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
    for options in [&question[..], &[&cookie[..], &question].concat()] {
        let answer = dns.udp(&with_edns(plain_query("nyud.net", A), 0, 1232, options)).await;
        assert!(show(&answer).starts_with("NOERROR aa edns"), "{}", show(&answer));
        assert!(!answer.windows(4).any(|bytes| bytes[..2] == [0xff, 0x21]), "{answer:?}");
    }
    dns.stop().await;
}

#[tokio::test]
async fn a_machine_without_a_nameserver_costs_no_wait() {
    let dns = node().await;
    let appraiser = appraiser(&dns);
    dns.stop().await;
    let asking = appraiser.ask(LOCALHOST, Request { client: NEAR, duty: None });
    assert_eq!(tokio::time::timeout(PATIENCE / 2, asking).await.expect("it is refused at once"), None);
}
