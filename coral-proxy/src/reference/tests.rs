//! Tests of references, on a paused clock, with a far end that writes down what it is told.

use std::net::IpAddr;

use coral_dsht::{Command, Id, Stored};
use prometheus_client::registry::Registry;
use proptest::prelude::*;

use super::*;

const LIMIT: Duration = Duration::from_secs(1);

fn key() -> Key {
    Id::hash(&[b"k"])
}

/// References to a far end that answers all and writes down what it was asked.
fn start() -> (References, mpsc::UnboundedReceiver<String>) {
    let (dsht, mut commands) = DshtHandle::channel(8);
    let (log, lines) = mpsc::unbounded_channel();
    let stale = |at| if at == stale_key(key()) { "stale: " } else { "" };
    tokio::spawn(async move {
        while let Some(command) = commands.recv().await {
            match command {
                Command::Put { key: at, ttl, reply, .. } => {
                    let _ = log.send(format!("{}put for {} s", stale(at), ttl.as_secs()));
                    let _ = reply.send(Stored::default());
                }
                Command::Remove { key: at, reply, .. } => {
                    let _ = log.send(format!("{}remove", stale(at)));
                    let _ = reply.send(1);
                }
                Command::Claim { ttl, refused, reply, .. } => {
                    let _ = log.send(format!("claim for {} s, {} refused", ttl.as_secs(), refused.len()));
                    let _ = reply.send(Claimed::default());
                }
                _ => {}
            }
        }
    });
    let metrics = Metrics::register(&mut Registry::default());
    let me = "192.0.2.1:80".parse().unwrap();
    (References::start(me, dsht, config::Reference::default(), metrics), lines)
}

#[tokio::test(start_paused = true)]
async fn twenty_seconds_while_fetching_an_hour_when_whole_and_withdrawn_when_dropped() {
    let (references, mut lines) = start();
    let began = Instant::now();
    let mut fetching = references.fetching(key());
    assert!(fetching.claim(&[], LIMIT).await.is_some());
    assert_eq!(lines.recv().await.unwrap(), "claim for 20 s, 0 refused");
    fetching.claim(&[encode_reference("192.0.2.9:80".parse().unwrap())], LIMIT).await;
    assert_eq!(lines.recv().await.unwrap(), "claim for 20 s, 1 refused");
    assert_eq!(lines.recv().await.unwrap(), "put for 20 s");
    assert_eq!(began.elapsed().as_secs(), 10, "renewed halfway");
    references.stored(key(), Duration::from_secs(24 * 3600), true);
    drop(fetching);
    assert_eq!(lines.recv().await.unwrap(), "put for 3600 s");
    references.dropped(key());
    assert_eq!(lines.recv().await.unwrap(), "remove");
}

#[tokio::test(start_paused = true)]
async fn a_reference_does_not_outlive_the_freshness_of_its_object() {
    let (references, mut lines) = start();
    references.stored(key(), Duration::from_secs(100), false);
    assert_eq!(lines.recv().await.unwrap(), "put for 100 s");
    assert_eq!(lines.recv().await.unwrap(), "put for 50 s");
}

#[tokio::test(start_paused = true)]
async fn a_failed_fetch_and_a_stop_leave_nothing_behind() {
    let (references, mut lines) = start();
    let mut fetching = references.fetching(key());
    fetching.claim(&[], LIMIT).await;
    drop(fetching);
    assert_eq!(lines.recv().await.unwrap(), "claim for 20 s, 0 refused");
    assert_eq!(lines.recv().await.unwrap(), "remove");
    references.stored(key(), Duration::from_secs(9000), true);
    assert_eq!(lines.recv().await.unwrap(), "put for 3600 s");
    references.stop().await;
    assert_eq!(lines.recv().await.unwrap(), "remove");
    references.stored(key(), Duration::from_secs(9000), true);
    references.stop().await;
    assert!(lines.try_recv().is_err(), "a stopped node publishes nothing");
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_nobody_waits_for_becomes_a_put_while_the_fetch_goes_on() {
    let (references, mut lines) = start();
    let mut fetching = references.fetching(key());
    assert!(fetching.claim(&[], Duration::ZERO).await.is_none(), "given up before it was made");
    assert_eq!(lines.recv().await.unwrap(), "put for 20 s");
    drop(fetching);
    assert_eq!(lines.recv().await.unwrap(), "remove");
}

#[tokio::test(start_paused = true)]
async fn a_claim_does_not_shorten_what_was_put_for_a_whole_object() {
    let (references, mut lines) = start();
    let began = Instant::now();
    references.stored(key(), Duration::from_secs(9000), true);
    assert_eq!(lines.recv().await.unwrap(), "put for 3600 s");
    references.fetching(key()).claim(&[], LIMIT).await;
    assert_eq!(lines.recv().await.unwrap(), "claim for 20 s, 0 refused");
    assert_eq!(lines.recv().await.unwrap(), "put for 3600 s");
    assert_eq!(began.elapsed().as_secs(), 1800);
}

/// The next lines, sorted: those of the two keys may come in any order.
async fn next<const COUNT: usize>(lines: &mut mpsc::UnboundedReceiver<String>) -> [String; COUNT] {
    let mut next = [const { String::new() }; COUNT];
    for line in &mut next {
        *line = lines.recv().await.unwrap();
    }
    next.sort();
    next
}

#[tokio::test(start_paused = true)]
async fn what_has_ceased_to_be_fresh_is_named_elsewhere_for_an_hour_after_it_was_last_asked_for() {
    let (references, mut lines) = start();
    let began = Instant::now();
    references.stored(key(), Duration::from_secs(8), true);
    assert_eq!(lines.recv().await.unwrap(), "put for 8 s");
    assert_eq!(lines.recv().await.unwrap(), "put for 3 s", "after five seconds at the earliest");
    assert_eq!(next(&mut lines).await, ["remove", "stale: put for 3600 s"]);
    assert_eq!(began.elapsed().as_secs(), 8);
    // Asked for in vain twice: only the second time less than half of the hour is left.
    tokio::time::advance(Duration::from_secs(600)).await;
    references.fetching(key()).claim(&[], LIMIT).await;
    assert_eq!(next(&mut lines).await, ["claim for 20 s, 0 refused", "remove"]);
    tokio::time::advance(Duration::from_secs(1800)).await;
    references.fetching(key()).claim(&[], LIMIT).await;
    assert_eq!(next(&mut lines).await, ["claim for 20 s, 0 refused", "remove", "stale: put for 3600 s"]);
    tokio::time::advance(Duration::from_secs(1000)).await;
    references.dropped(key());
    assert_eq!(lines.recv().await.unwrap(), "stale: remove");
    references.stop().await;
    assert!(lines.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_stale_at_once_is_named_as_such_alone_and_withdrawn_with_all_else() {
    let (references, mut lines) = start();
    references.stored(key(), Duration::ZERO, true);
    assert_eq!(lines.recv().await.unwrap(), "stale: put for 3600 s");
    // It is stored anew with each answer of the origin that says nothing else.
    references.stored(key(), Duration::ZERO, true);
    references.dropped(key());
    references.stop().await;
    assert_eq!(lines.recv().await.unwrap(), "stale: remove");
    assert!(lines.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_stale_at_once_and_of_no_use_then_is_not_published() {
    let (references, mut lines) = start();
    references.stored(key(), Duration::ZERO, false);
    references.stop().await;
    assert!(lines.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn what_a_body_is_stands_in_the_reference_once_it_is_whole_and_until_it_goes() {
    let (dsht, mut commands) = DshtHandle::channel(8);
    let metrics = Metrics::register(&mut Registry::default());
    let me = "192.0.2.1:80".parse().unwrap();
    let references = References::start(me, dsht, config::Reference::default(), metrics);
    let mut next = async || match commands.recv().await.unwrap() {
        Command::Put { value, reply, .. } => {
            reply.send(Stored::default()).unwrap();
            assert_eq!(decode_reference(&value), Some(me));
            decode_stamp(&value)
        }
        Command::Claim { value, reply, .. } => {
            reply.send(Claimed::default()).unwrap();
            decode_stamp(&value)
        }
        other => panic!("{other:?}"),
    };
    let [first, second] = [1, 2].map(|byte| Stamp::from_bytes(&[byte; 24]));
    let (began, day) = (Instant::now(), Duration::from_secs(24 * 3600));
    let fetching = references.fetching(key());
    assert_eq!(next().await, None);
    references.stamped(key(), first);
    references.stored(key(), day, true);
    drop(fetching);
    assert_eq!((next().await, began.elapsed().as_secs()), (first, 0));
    references.stamped(key(), second);
    references.stored(key(), day, true);
    assert_eq!((next().await, began.elapsed().as_secs()), (second, 5), "no sooner than any renewal");
    references.dropped(key());
    assert_eq!((next().await, began.elapsed().as_secs()), (second, 1805), "renewed");
    references.stamped(key(), None);
    references.stored(key(), day, true);
    assert_eq!((next().await, began.elapsed().as_secs()), (None, 1810));
}

/// The place of a part, as its head tells of it.
fn place(text: &str) -> Place {
    Place::of(&crate::headers::of_lines(&[&format!("content-range: bytes {text}")])).unwrap()
}

#[tokio::test(start_paused = true)]
async fn of_the_parts_of_a_url_the_last_is_told_of_and_when_it_goes_one_that_is_left() {
    let (dsht, mut commands) = DshtHandle::channel(8);
    let metrics = Metrics::register(&mut Registry::default());
    let me = "192.0.2.1:80".parse().unwrap();
    let references = References::start(me, dsht, config::Reference::default(), metrics);
    let mut next = async || match commands.recv().await.unwrap() {
        Command::Put { key: at, value, ttl, reply, .. } => {
            reply.send(Stored::default()).unwrap();
            let (addr, place, stamp) = decode_part(&value).unwrap();
            assert_eq!((at, addr, decode_reference(&value)), (parts_key(key()), me, None));
            Some((place, stamp, ttl.as_secs()))
        }
        Command::Remove { key: at, value, reply } => {
            reply.send(1).unwrap();
            let some = encode_part(me, place("0-0/1"), None);
            assert!(at == parts_key(key()) && value.is_same(&some), "{value:?}");
            None
        }
        other => panic!("{other:?}"),
    };
    let stamp = Stamp::from_bytes(&[1; 24]);
    let [first, second, third] = ["4-9/20", "2-9/20", "0-3/20"].map(place);
    let (began, day) = (Instant::now(), Duration::from_secs(24 * 3600));
    let store = |place, stamp, fresh_for| {
        references.stamped(parts_key(key()), stamp);
        references.stored_part(key(), place, fresh_for);
    };
    store(first, stamp, day);
    assert_eq!((next().await, began.elapsed().as_secs()), (Some((first, stamp, 3600)), 0));
    // It has grown: the earlier one goes as the later takes its place.
    store(second, None, day);
    references.dropped_part(key(), first);
    assert_eq!(
        (next().await, began.elapsed().as_secs()),
        (Some((second, None, 3600)), 5),
        "no sooner than any renewal"
    );
    // One of another variant, and the same once more: the told one stays as long as one of them does.
    store(third, stamp, day);
    assert_eq!((next().await, began.elapsed().as_secs()), (Some((third, stamp, 3600)), 10));
    store(third, stamp, day);
    references.dropped_part(key(), third);
    assert_eq!((next().await, began.elapsed().as_secs()), (Some((third, stamp, 3600)), 1810), "renewed");
    references.dropped_part(key(), third);
    assert_eq!((next().await, began.elapsed().as_secs()), (Some((second, None, 3600)), 1815));
    references.dropped_part(key(), second);
    assert_eq!((next().await, began.elapsed().as_secs()), (None, 1815));
    // What is not fresh is not named.
    store(first, None, Duration::ZERO);
    references.dropped_part(key(), first);
    store(first, None, Duration::from_secs(100));
    assert_eq!(next().await, Some((first, None, 100)));
    let (stopped, withdrawn) = tokio::join!(references.stop(), next());
    assert_eq!((stopped, withdrawn), ((), None));
}

proptest! {
    #[test]
    fn the_reference_of_a_part_comes_back_as_it_went_and_is_no_other(
        ip: IpAddr, port in 1_u16.., first in 0_u64..1 << 40, more in 0_u64..1 << 40, behind in 1_u64..1 << 40,
        stamp in prop::option::of(any::<[u8; 24]>()),
    ) {
        let addr = SocketAddr::new(ip.to_canonical(), port);
        let place = place(&format!("{first}-{}/{}", first + more, first + more + behind));
        let stamp = stamp.and_then(|bytes| Stamp::from_bytes(&bytes));
        let value = encode_part(addr, place, stamp);
        prop_assert_eq!(decode_part(&value), Some((addr, place, stamp)));
        prop_assert_eq!((decode_reference(&value), decode_stamp(&value)), (None, None));
        prop_assert!(!value.is_same(&encode_reference(addr)) && value.is_same(&encode_part(addr, place, None)));
        for other in [encode_reference(addr), encode_stamped(addr, Stamp::from_bytes(&[7; 24]).unwrap())] {
            prop_assert_eq!(decode_part(&other), None);
        }
    }

    #[test]
    fn a_stamp_makes_no_other_reference(ip: IpAddr, port in 1_u16.., bytes: [u8; 24]) {
        let addr = SocketAddr::new(ip.to_canonical(), port);
        let stamp = Stamp::from_bytes(&bytes).unwrap();
        let value = encode_stamped(addr, stamp);
        prop_assert_eq!((decode_reference(&value), decode_stamp(&value)), (Some(addr), Some(stamp)));
        prop_assert!(value.is_same(&encode_reference(addr)));
        prop_assert_eq!(decode_stamp(&encode_reference(addr)), None);
    }

    #[test]
    fn a_reference_comes_back_as_it_went(ip: IpAddr, port in 1_u16..) {
        let addr = SocketAddr::new(ip.to_canonical(), port);
        prop_assert_eq!(decode_reference(&encode_reference(addr)), Some(addr));
    }

    #[test]
    fn any_value_is_read(bytes in prop::collection::vec(any::<u8>(), 0..=64)) {
        fuzz(&bytes);
    }

    #[test]
    fn whatever_names_a_part_is_read(mut bytes in prop::collection::vec(any::<u8>(), 2..=64), v6: bool) {
        (bytes[0], bytes[1]) = (if v6 { 0xa6 } else { 0xa4 }, HAS_PART);
        fuzz(&bytes);
    }
}
