//! RFC 1035 (and what has been settled since): header, question, classes, operations, TCP.

mod support;

use std::num::NonZeroUsize;
use std::time::Duration;

use coral_dns::Config;
use coral_dsht::memory::MemoryNetwork;
use expect_test::expect;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use support::{A, AXFR, Dns, PATIENCE, SOA, config, framed, peer, plain_query, query, read_framed, show};
use tokio::io::AsyncWriteExt;
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// §7.3, and draft-vixie-dnsext-dns0x20: resolvers hide entropy in the case of letters.
#[tokio::test]
async fn the_question_comes_back_byte_for_byte() {
    let dns = Dns::alone().await;
    for name in ["WwW.x.COM.nyUd.nEt", "_No.Such.NYUD.net", "elsewhere.EXAMPLE"] {
        let asked = query(name, A);
        let question = 12..12 + name.len() + 2 + 4;
        for answer in [dns.udp(&asked).await, dns.tcp(&asked).await] {
            assert_eq!(answer[question.clone()], asked[question.clone()], "{name}");
            assert_eq!(answer[..2], asked[..2]);
        }
    }
    dns.stop().await;
}

/// §4.1.1: AA within the zone, RD copied, no RA.
#[tokio::test]
async fn only_names_of_the_zone_are_answered() {
    let dns = Dns::alone().await;
    expect![[r#"
        NOERROR aa
        x.com.nyud.net. 30 A 192.0.2.1
    "#]]
    .assert_eq(&show(&dns.udp(&plain_query("x.com.nyud.net", A)).await));
    expect![[r#"
        REFUSED edns
    "#]]
    .assert_eq(&dns.ask("www.example.com", A).await);
    expect![[r#"
        REFUSED edns
    "#]]
    .assert_eq(&dns.ask("", A).await);
    expect![[r#"
        NOERROR aa edns
        nyud.net. 300 SOA ip4-192-0-2-1.ns.nyud.net. hostmaster.nyud.net. 1 3600 600 86400 30
    "#]]
    .assert_eq(&dns.ask("nyud.net", SOA).await);
    let answer = dns.udp(&query("x.com.nyud.net", A)).await;
    assert_eq!(answer[2] & 1, 1, "RD is copied");
    dns.stop().await;
}

/// §3.2.4, §3.2.5 and §4.1.1.
#[tokio::test]
async fn other_classes_operations_and_transfers_are_turned_down() {
    let dns = Dns::alone().await;
    for class in [3, 4, 254, 255] {
        let mut asked = plain_query("version.bind", 16);
        let last = asked.len() - 1;
        asked[last] = class;
        expect!["REFUSED\n"].assert_eq(&show(&dns.udp(&asked).await));
    }
    for operation in [1, 2, 4, 5, 6, 15] {
        let mut asked = query("nyud.net", SOA);
        asked[2] |= operation << 3;
        expect!["NOTIMP\n"].assert_eq(&show(&dns.udp(&asked).await));
    }
    for kind in [AXFR, 251] {
        expect!["REFUSED edns\n"].assert_eq(&show(&dns.tcp(&query("nyud.net", kind)).await));
        expect!["REFUSED edns\n"].assert_eq(&show(&dns.udp(&query("nyud.net", kind)).await));
    }
    dns.stop().await;
}

/// Where a header can be read the answer is FORMERR; where none can, or where it is an answer itself, there is none.
#[tokio::test]
async fn malformed_messages_get_formerr_or_nothing_and_are_counted() {
    let dns = Dns::alone().await;
    let good = query("x.com.nyud.net", A);
    let mut two_questions = good.clone();
    two_questions[5] = 2;
    let mut no_question = good[..12].to_vec();
    no_question[5] = 0;
    let mut many_records = good.clone();
    many_records[6..8].copy_from_slice(&[0xff, 0xff]);
    let pointer = [&good[..12], &[0xc0, 12, 0, 1, 0, 1]].concat();
    for bad in
        [&good[..good.len() - 1], &good[..20], &good[..12], &two_questions, &no_question, &many_records, &pointer]
    {
        assert!(show(&dns.udp(bad).await).starts_with("FORMERR"), "{bad:?}");
    }
    let mut response = good.clone();
    response[2] |= 0x80;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for junk in [&b""[..], b"x", &good[..11], &response] {
        socket.send_to(junk, dns.addr).await.unwrap();
    }
    // One socket is answered in order: what the junk would have got would come first.
    socket.send_to(&good, dns.addr).await.unwrap();
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).await.unwrap();
    assert!(show(&buffer[..length]).starts_with("NOERROR"));
    let metrics = dns.metrics();
    assert!(metrics.contains("dropped_total{reason=\"short\"} 3"), "{metrics}");
    assert!(metrics.contains("dropped_total{reason=\"response\"} 1"), "{metrics}");
    assert!(metrics.contains("rcode=\"FORMERR\",transport=\"udp\"} 7"), "{metrics}");
    dns.stop().await;
}

/// §4.2.2, RFC 7766 §6.2.1.1: several queries on one connection, cut anywhere.
#[tokio::test]
async fn a_connection_takes_one_query_after_the_other() {
    let dns = Dns::alone().await;
    let mut stream = dns.connect().await;
    let bytes = [framed(&query("a.com.nyud.net", A)), framed(&query("b.com.nyud.net", A))].concat();
    for piece in bytes.chunks(5) {
        stream.write_all(piece).await.unwrap();
        stream.flush().await.unwrap();
    }
    for name in ["a.com.nyud.net. 30 A", "b.com.nyud.net. 30 A"] {
        let answer = show(&read_framed(&mut stream).await.unwrap());
        assert!(answer.contains(name), "{answer}");
    }
    dns.stop().await;
}

#[tokio::test]
async fn a_connection_ends_when_it_is_idle_or_sends_junk() {
    let me = peer("192.0.2.1");
    let quick = Config { tcp_idle: Duration::from_millis(50), ..config() };
    let dns = Dns::start(quick, me, MemoryNetwork::new().node(me)).await;
    for bytes in [&b""[..], &[0, 40, 1, 2, 3], &[0, 3, 1, 2, 3], &[0xff, 0xff]] {
        let mut stream = dns.connect().await;
        stream.write_all(bytes).await.unwrap();
        assert_eq!(read_framed(&mut stream).await, None, "{bytes:?}");
    }
    dns.stop().await;
}

/// Seen with 700 idle connections from seven addresses: for ten seconds each query over TCP was reset.
#[tokio::test]
async fn idle_connections_keep_nobody_out() {
    let me = peer("192.0.2.1");
    let narrow = Config { tcp_connections: NonZeroUsize::new(2).unwrap(), ..config() };
    let dns = Dns::start(narrow, me, MemoryNetwork::new().node(me)).await;
    let asked = framed(&query("a.com.nyud.net", A));
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut stream = dns.connect().await;
        stream.write_all(&asked).await.unwrap();
        assert!(read_framed(&mut stream).await.is_some(), "the newest is served");
        open.push(stream);
    }
    for oldest in &mut open[..2] {
        assert_eq!(read_framed(oldest).await, None, "the oldest gives way");
    }
    for newest in &mut open[2..] {
        newest.write_all(&asked).await.unwrap();
        assert!(read_framed(newest).await.is_some(), "the others stay");
    }
    let metrics = dns.metrics();
    assert!(metrics.contains("dropped_total{reason=\"connections\"} 2"), "{metrics}");
    assert!(metrics.contains("tcp_connections 2"), "{metrics}");
    dns.stop().await;
}

#[tokio::test]
async fn what_has_arrived_before_the_stop_is_answered() {
    let dns = Dns::alone().await;
    let mut stream = dns.connect().await;
    stream.write_all(&framed(&query("a.com.nyud.net", A))).await.unwrap();
    assert!(read_framed(&mut stream).await.is_some());
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&query("c.com.nyud.net", A), dns.addr).await.unwrap();
    stream.write_all(&framed(&query("b.com.nyud.net", A))).await.unwrap();
    dns.stop().await;
    assert!(read_framed(&mut stream).await.is_some(), "the query that had arrived");
    assert_eq!(read_framed(&mut stream).await, None, "then the end");
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).await.unwrap();
    assert!(show(&buffer[..length]).contains("c.com.nyud.net. 30 A"));
}

/// What was there before the stop is answered, and not one of it is lost while the thread that reads is woken.
#[tokio::test]
async fn a_queue_that_has_arrived_before_the_stop_is_answered_whole() {
    for queued in [1, 7, 100] {
        let dns = Dns::alone().await;
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let query = query("c.com.nyud.net", A);
        for _ in 0..queued {
            socket.send_to(&query, dns.addr).await.unwrap();
        }
        dns.stop().await;
        let mut buffer = [0; 512];
        for _ in 0..queued {
            timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("an answer").unwrap();
        }
    }
}

#[tokio::test]
async fn who_drops_the_server_has_its_address_back() {
    let dns = Dns::alone().await;
    assert!(dns.ask("x.com.nyud.net", A).await.starts_with("NOERROR"));
    let addr = dns.abort().await;
    UdpSocket::bind(addr).await.unwrap();
}

#[test]
fn no_datagram_harms_the_server() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dns = runtime.block_on(Dns::alone());
    let bytes = prop::collection::vec(any::<u8>(), 0..600);
    let run = TestRunner::default().run(&bytes, |bytes| {
        runtime.block_on(async {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            socket.send_to(&bytes, dns.addr).await.unwrap();
            prop_assert!(dns.ask("x.com.nyud.net", A).await.starts_with("NOERROR"));
            Ok(())
        })
    });
    run.unwrap();
    runtime.block_on(dns.stop());
}
