use std::num::NonZeroUsize;
use std::time::Duration;

use expect_test::expect;
use proptest::prelude::*;

use super::check::{sample, sample_with};
use super::*;
use crate::candidates::{LevelTable, Table};
use crate::clients::Clients;
use crate::config::ProbeConfig;
use crate::metrics::OutcomeLabels;
use crate::near::Near;
use crate::probe::{self, Measure};
use crate::wire::HEADER_BYTES;
use crate::wire::query::question;

/// A query as a resolver sends it: recursion desired, and EDNS with 1232 bytes and these options.
pub(super) fn query(name: &str, kind: u16, options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&[0, 1, 0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, options.len() as u8]);
    bytes.extend_from_slice(options);
    bytes
}

#[test]
fn a_compressed_question_is_none() {
    let first = b"\x03www\0\0\x01\0\x01";
    assert_eq!(question(b"\x03www\0\0\x01\0\x01rest"), Some(&first[..]));
    assert_eq!(question(b"\x03www\xc0\x0c\0\x01\0\x01"), None);
    assert_eq!(question(b"\x03www\0\0\x01\0"), None);
    assert_eq!(question(b""), None);
}

/// The fuzzer saw, on 2026-11-23, one of 280 bytes come back in a FORMERR, which no resolver can decode.
#[test]
fn a_name_that_is_too_long_is_not_sent_back() {
    let name = |labels: usize| vec!["a"; labels].join(".");
    for (labels, comes_back) in [(127, true), (128, false)] {
        let bytes = query(&name(labels), 1, &[]);
        assert_eq!(question(&bytes[HEADER_BYTES..]).is_some(), comes_back);
        check_query(&bytes);
    }
}

#[test]
fn counts_that_only_a_header_claims_cost_nothing() {
    for at in [4, 6, 8, 10] {
        let mut bytes = query("www.x.com.nyud.net", 1, &[]);
        bytes[at..at + 2].copy_from_slice(&[0xff, 0xff]);
        let read = Query::read(&bytes, &mut LowerName::default()).map(|_| ());
        assert_eq!(read, Err(Rejection::Error(Rcode::FormErr)));
        check_query(&bytes);
    }
}

/// Nobody answers it.
pub(super) struct Silence;

impl Measure for Silence {
    async fn rtt(&self, _: IpAddr) -> Option<Duration> {
        None
    }
}

/// One that measures nobody by itself: its other side is to be kept.
fn prober(config: &ProbeConfig) -> (Prober, probe::Task<Silence>) {
    let clients = Arc::new(Clients::new(config.ttl, config.capacity.get(), Instant::now()));
    let Handler { candidates, metrics, .. } = sample(None);
    probe::new(config, clients, Silence, None, candidates, metrics)
}

/// Two levels of one proxy each.
fn two_levels() -> Table {
    let level = |number, milliseconds: Option<u64>| LevelTable {
        level: Level::new(number).unwrap(),
        diameter: milliseconds.map(Duration::from_millis),
        proxies: vec!["192.0.2.1".parse().unwrap()],
        nameservers: vec!["192.0.2.1".parse().unwrap()],
    };
    Table { levels: vec![level(1, Some(60)), level(0, None)], nameservers: vec!["192.0.2.1".parse().unwrap()] }
}

/// Else anybody could make this node send packets by asking it for anything.
#[test]
fn only_who_asks_what_hangs_on_it_is_measured() {
    let Handler { candidates, metrics, .. } = sample(None);
    let config = ProbeConfig { at_once: NonZeroUsize::MIN, ..ProbeConfig::default() };
    let clients = Arc::new(Clients::new(config.ttl, config.capacity.get(), Instant::now()));
    let (prober, _task) = probe::new(&config, clients, Silence, None, candidates, metrics.clone());
    let handler = sample(Some(prober));
    let now = Instant::now();
    handler.candidates.set(now, two_levels());
    // The line has room for one, so each further client that is to be measured is skipped, and counted.
    let mut clients = 0..;
    let mut skipped = |name: &str, kind| {
        let from = SocketAddr::from(([198, 51, clients.next().unwrap(), 1], 53));
        handler.answer_now(from, Transport::Udp, &query(name, kind, &[])).unwrap();
        metrics.probes.get_or_create(&OutcomeLabels { outcome: "skipped" }).get()
    };
    assert_eq!(skipped("x.com.nyud.net", 1), 0);
    for (name, kind) in [("example.org", 1), ("_x.nyud.net", 1), ("ns.nyud.net", 1), ("nyud.net", 16), ("nyud.net", 6)]
    {
        assert_eq!(skipped(name, kind), 0, "{name}");
    }
    assert_eq!(skipped("x.com.nyud.net", 1), 1);
}

/// RFC 7871 §7.2.1: the option comes back as asked, with the scope for which the answer holds.
#[test]
fn the_scope_is_the_prefix_that_was_measured_and_zero_where_nothing_hangs_on_it() {
    let (prober, _task) = prober(&ProbeConfig::default());
    let (measuring, not_measuring) = (sample(Some(prober)), sample(None));
    let now = Instant::now();
    for handler in [&measuring, &not_measuring] {
        handler.candidates.set(now, two_levels());
    }
    let scope = |handler: &Handler, name: &str, source: u8, address: &[u8]| {
        let option = [&[0, 8, 0, 4 + address.len() as u8, 0, 1, source, 0], address].concat();
        let from = SocketAddr::from(([192, 0, 2, 9], 53));
        let answer = handler.answer_now(from, Transport::Udp, &query(name, 1, &option)).unwrap();
        let echoed = &answer[answer.len() - option.len()..];
        assert_eq!((&echoed[..7], &echoed[8..]), (&option[..7], &option[8..]), "as asked but for the scope");
        echoed[7]
    };
    let host = "x.com.nyud.net";
    assert_eq!(scope(&measuring, host, 24, &[198, 51, 100]), 24);
    assert_eq!(scope(&measuring, host, 32, &[198, 51, 100, 7]), 24);
    assert_eq!(scope(&measuring, host, 15, &[198, 50]), 15);
    assert_eq!(scope(&measuring, "com.nyud.net", 24, &[198, 51, 100]), 0);
    assert_eq!(scope(&measuring, host, 0, &[]), 0);
    assert_eq!(scope(&measuring, host, 8, &[10]), 0);
    assert_eq!(scope(&not_measuring, host, 24, &[198, 51, 100]), 0);
}

#[test]
fn what_is_asked_is_counted_under_words_of_ours() {
    let mut registry = prometheus_client::registry::Registry::default();
    let handler = Handler { metrics: Metrics::register(&mut registry), ..sample(None) };
    let from = SocketAddr::from(([198, 51, 100, 1], 53));
    for (kind, transport) in [(1, Transport::Udp), (65_280, Transport::Udp), (252, Transport::Tcp)] {
        handler.answer_now(from, transport, &query("x.com.nyud.net", kind, &[]));
    }
    handler.answer_now(SocketAddr::from(([198, 51, 100, 1], 0)), Transport::Udp, &[0; 12]);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let mut lines: Vec<&str> =
        text.lines().filter(|line| line.contains("s_total{") || line.contains("d_total{")).collect();
    lines.sort_unstable();
    expect![[r#"
        coral_dns_answers_total{level="0"} 1
        coral_dns_dropped_total{reason="source"} 1
        coral_dns_queries_total{kind="A",rcode="NOERROR",transport="udp"} 1
        coral_dns_queries_total{kind="other",rcode="NOERROR",transport="udp"} 1
        coral_dns_queries_total{kind="transfer",rcode="REFUSED",transport="tcp"} 1"#]]
    .assert_eq(&lines.join("\n"));
}

/// A node that knows of another one near the client, at 198.51.100.1, which is far from itself.
pub(super) fn far_node() -> (Handler, probe::Task<Silence>) {
    let (prober, task) = prober(&ProbeConfig::default());
    let key = Client::new([198, 51, 100, 1].into(), None).key();
    prober.clients().begin(Instant::now(), key, true);
    prober.clients().end(Instant::now(), key, Some(Duration::from_millis(90)));
    let ip = |text: &str| text.parse().unwrap();
    let near = Near {
        level: Level::new(2).unwrap(),
        nameservers: vec![ip("203.0.113.1"), ip("203.0.113.2")],
        proxies: vec![ip("203.0.113.1")],
    };
    prober.clients().set_near(Instant::now(), key, Some(near), Duration::from_secs(600));
    let handler = sample(Some(prober));
    handler.candidates.set(Instant::now(), two_levels());
    (handler, task)
}

/// The records of an answer, after its flags.
fn records(answer: &[u8]) -> String {
    let message = hickory_server::proto::op::Message::from_vec(answer).unwrap();
    let mut out = if message.metadata.authoritative { "aa".to_owned() } else { "not aa".to_owned() };
    for record in message.all_sections() {
        out.push_str(&format!("\n{} {} {} {}", record.name, record.ttl, record.record_type(), record.data));
    }
    out
}

/// What comes of a query from 198.51.100.1.
fn ask_udp(handler: &Handler, scratch: &mut Scratch, name: &str, kind: u16) -> (Outcome, String) {
    let (mut out, from) = (Vec::new(), SocketAddr::from(([198, 51, 100, 1], 53)));
    let query = query(name, kind, &[]);
    let message = Message { from, transport: Transport::Udp, bytes: &query, may_wait: true, is_again: false };
    let outcome = handler.respond(scratch, Instant::now(), message, &mut out);
    let records = if out.is_empty() { String::new() } else { records(&out) };
    (outcome, records)
}

/// design.md §3.3: near nameservers, this one as the last resort, and glue, all within the cut; and no word of our own.
#[tokio::test(start_paused = true)]
async fn a_resolver_near_others_is_referred_once_for_each_cut_and_then_answered_slowly() {
    let (handler, _task) = far_node();
    let mut scratch = handler.scratch([1; 32]);
    let mut ask = |name: &str, kind| ask_udp(&handler, &mut scratch, name, kind);
    let (outcome, referral) = ask("www.x.com.nyud.net", 1);
    assert_eq!(outcome, Outcome::Send);
    expect![[r#"
        not aa
        com.nyud.net. 120 NS ns--ip4-203-0-113-1.com.nyud.net.
        com.nyud.net. 120 NS ns--ip4-203-0-113-2.com.nyud.net.
        com.nyud.net. 120 NS ns--ip4-192-0-2-1.com.nyud.net.
        ns--ip4-203-0-113-1.com.nyud.net. 120 A 203.0.113.1
        ns--ip4-203-0-113-2.com.nyud.net. 120 A 203.0.113.2
        ns--ip4-192-0-2-1.com.nyud.net. 120 A 192.0.2.1"#]]
    .assert_eq(&referral);
    // It comes back because it wants an answer: slowly, and with proxies near it.
    let (outcome, answer) = ask("www.y.com.nyud.net", 1);
    assert_eq!(outcome, Outcome::SendAfter(Duration::from_millis(110)));
    expect![[r#"
        aa
        www.y.com.nyud.net. 60 A 203.0.113.1"#]]
    .assert_eq(&answer);
    let (_, negative) = ask("y.com.nyud.net", 16);
    assert!(negative.starts_with("aa\ncom.nyud.net. 30 SOA ip4-192-0-2-1.ns.nyud.net."), "{negative}");
    // A resolver that minimises its questions asks for the cut only if it has lost it: so it was with Knot Resolver.
    assert!(ask("com.nyud.net", 2).1.starts_with("not aa"));
    // Another cut is another referral. What the parent answers itself is none.
    assert!(ask("x.org.nyud.net", 1).1.starts_with("not aa"));
    expect![[r#"
        aa
        nyud.net. 30 SOA ip4-192-0-2-1.ns.nyud.net. hostmaster.nyud.net. 1 3600 600 86400 30"#]]
    .assert_eq(&ask("net.nyud.net", 43).1);
    tokio::time::advance(Duration::from_secs(122)).await;
    handler.candidates.set(Instant::now(), two_levels());
    assert!(ask("www.x.com.nyud.net", 1).1.starts_with("not aa"));
}

/// Knot Resolver asks a nameserver of the suffix zone that is a near one for the moment, too; nearer ones start.
#[tokio::test(start_paused = true)]
async fn who_has_promised_to_answer_refers_those_alone_that_do_not_know_the_cut() {
    let (handler, _task) = far_node();
    let key = Client::new([198, 51, 100, 1].into(), None).key();
    let duty = Duty { until: Instant::now() + Duration::from_secs(60), distant: [192, 0, 2, 7].into() };
    handler.prober.as_ref().unwrap().clients().promise(key, duty);
    let mut scratch = handler.scratch([1; 32]);
    let mut ask = |name: &str, kind| ask_udp(&handler, &mut scratch, name, kind).1;
    assert!(ask("www.x.com.nyud.net", 1).starts_with("aa\nwww.x.com.nyud.net."));
    assert!(ask("com.nyud.net", 2).starts_with("not aa\ncom.nyud.net. 120 NS"));
    assert!(ask("www.x.com.nyud.net", 1).starts_with("aa\nwww.x.com.nyud.net."));
}

/// BIND took all of them for lame, when they knew nearer ones a second later, and answered SERVFAIL.
#[tokio::test(start_paused = true)]
async fn who_may_refer_a_resolver_later_does_not_tell_it_that_the_cut_is_a_zone() {
    let (prober, _task) = prober(&ProbeConfig::default());
    let key = Client::new([198, 51, 100, 1].into(), None).key();
    prober.clients().begin(Instant::now(), key, true);
    prober.clients().end(Instant::now(), key, Some(Duration::from_millis(90)));
    let duty = Duty { until: Instant::now() + Duration::from_secs(60), distant: [192, 0, 2, 7].into() };
    let handler = sample(Some(prober));
    handler.candidates.set(Instant::now(), two_levels());
    let mut scratch = handler.scratch([1; 32]);
    expect![[r#"
        aa
        com.nyud.net. 30 SOA ip4-192-0-2-1.ns.nyud.net. hostmaster.nyud.net. 1 3600 600 86400 30"#]]
    .assert_eq(&ask_udp(&handler, &mut scratch, "com.nyud.net", 2).1);
    // Who has promised to answer it names those alone of whom it knows that they will.
    handler.prober.as_ref().unwrap().clients().promise(key, duty);
    expect![[r#"
        aa
        com.nyud.net. 60 NS ns--ip4-192-0-2-1.com.nyud.net.
        com.nyud.net. 60 NS ns--ip4-192-0-2-7.com.nyud.net.
        ns--ip4-192-0-2-1.com.nyud.net. 60 A 192.0.2.1
        ns--ip4-192-0-2-7.com.nyud.net. 60 A 192.0.2.7"#]]
    .assert_eq(&ask_udp(&handler, &mut scratch, "com.nyud.net", 2).1);
}

/// Else it would never ask the near ones again, once those have failed and come back.
#[tokio::test(start_paused = true)]
async fn a_resolver_that_is_stuck_here_is_answered_later_and_later_and_then_not_if_the_near_ones_live() {
    let (handler, _task) = far_node();
    let mut scratch = handler.scratch([1; 32]);
    let mut asked = 0;
    let mut ask = || {
        asked += 1;
        ask_udp(&handler, &mut scratch, &format!("www.x{asked}.com.nyud.net"), 1).0
    };
    let [slow, slower] = [110, 510].map(|millis| Outcome::SendAfter(Duration::from_millis(millis)));
    let silent = Outcome::Nothing;
    assert_eq!(ask(), Outcome::Send, "by a referral");
    assert_eq!([(); 6].map(|()| ask()), [slow, slow, slower, silent, silent, silent]);
    tokio::time::advance(Duration::from_secs(6)).await;
    // They have not been heard from for so long.
    assert_eq!(ask(), slow);
    tokio::time::advance(Duration::from_secs(9)).await;
    handler.candidates.set(Instant::now(), two_levels());
    assert_eq!([(); 6].map(|()| ask()), [slow; 6]);
}

/// When near ones die, they were heard from a moment before.
#[tokio::test(start_paused = true)]
async fn that_the_near_ones_live_is_known_only_if_it_was_heard_after_the_resolver_came_back() {
    let (handler, _task) = far_node();
    let mut scratch = handler.scratch([1; 32]);
    tokio::time::advance(Duration::from_secs(1)).await;
    handler.candidates.set(Instant::now(), two_levels());
    let mut ask = |number| ask_udp(&handler, &mut scratch, &format!("www.x{number}.com.nyud.net"), 1).0;
    assert!((0..9).all(|number| ask(number) != Outcome::Nothing));
}

/// RFC 1035 §4.1.1, RFC 7873 §5.2: a cookie frees from the limit, which has no exception for its answers else.
#[tokio::test(start_paused = true)]
async fn a_flood_is_limited_and_who_has_a_cookie_is_not() {
    let handler = sample_with(Config { rate: 10, ..Config::default() }, None);
    let from = SocketAddr::from(([198, 51, 100, 1], 53));
    let ask = |options: &[u8]| handler.answer_now(from, Transport::Udp, &query("x.com.nyud.net", 1, options));
    let first = ask(&[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
    let cookie = first[first.len() - 28..].to_vec();
    assert_eq!(cookie[..4], [0, 10, 0, 24]);
    let mut counts = [0_u32; 3];
    for _ in 0..1_000 {
        counts[match ask(&[]) {
            None => 0,
            Some(answer) if answer[2] & 2 != 0 => 1,
            Some(_) => 2,
        }] += 1;
    }
    assert!(counts[2] <= 12 && counts[0].abs_diff(counts[1]) <= 1, "{counts:?}");
    for _ in 0..1_000 {
        assert_eq!(ask(&cookie).unwrap()[2] & 2, 0);
    }
    let slip = handler.answer_now(from, Transport::Tcp, &query("x.com.nyud.net", 1, &[])).unwrap();
    assert_eq!(slip[2] & 2, 0, "over TCP all are answered");
    assert!(ask(&[0, 10, 0, 3, 1, 2, 3]).is_none_or(|answer| answer[2] & 2 != 0), "a bad cookie is no proof");
}

proptest! {
    #[test]
    fn any_bytes_are_answered_by_the_rules_or_not_at_all(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        check_query(&bytes);
    }

    #[test]
    fn a_damaged_query_is_answered_by_the_rules(
        name in "([a-z0-9_-]{1,9}[.]){0,4}(nyud[.]net)?",
        kind in any::<u16>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut bytes = query(&name, kind, &[]);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        check_query(&bytes);
    }

    /// Whatever the name, a well-formed query is no format error, nor is any node at fault.
    #[test]
    fn any_name_is_there_or_not_or_not_ours(name in "([a-zA-Z0-9_-]{1,9}[.]){0,4}(nyud[.]net)?", kind in 1_u16..41) {
        let from = SocketAddr::from(([198, 51, 100, 1], 53));
        let answer = sample(None).answer_now(from, Transport::Udp, &query(&name, kind, &[])).unwrap();
        let expected: &[u8] = if name.ends_with("nyud.net") { &[0, 3] } else { &[5] };
        prop_assert!(expected.contains(&(answer[3] & 15)), "{}: {}", name, answer[3] & 15);
    }
}
