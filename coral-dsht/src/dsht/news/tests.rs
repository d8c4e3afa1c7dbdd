use super::*;
use crate::peer::Services;

const HOUR: Duration = Duration::from_secs(3600);

fn at(millis: u64) -> Instant {
    Instant::START + Duration::from_millis(millis)
}

fn peer(network: u8, host: u8) -> Peer {
    Peer::new(([192, 0, network, host], 4000).into(), Services::NONE)
}

fn message(number: u32) -> Arc<[u8]> {
    number.to_be_bytes().into()
}

fn id(number: u32) -> Id {
    Id::of_announcement(&message(number))
}

fn listening() -> News {
    let mut news = News::default();
    news.listen(true);
    news
}

/// All that can be fetched at one time, of which nobody is slow.
fn fetches(news: &mut News, now: Instant) -> Vec<(Id, Peer)> {
    std::iter::from_fn(|| news.next_fetch(now)).collect()
}

/// `peer` offers announcement `number`, and it is fetched.
fn bring(news: &mut News, now: Instant, peer: Peer, number: u32, age: Duration) -> bool {
    news.offered(now, peer, id(number)) == Offered::Wanted
        && fetches(news, now) == [(id(number), peer)]
        && news.fetched(now, &peer, &id(number), age, &message(number)) == Offered::Wanted
}

#[test]
fn an_announcement_is_fetched_once_from_the_first_who_has_it() {
    let mut news = listening();
    for source in [peer(1, 1), peer(2, 1), peer(3, 1), peer(2, 1)] {
        assert_eq!(news.offered(at(0), source, id(1)), Offered::Wanted);
    }
    assert_eq!(fetches(&mut news, at(0)), [(id(1), peer(1, 1))]);
    // Who is late is waited for, beside the next one; what is not what was offered is as nothing.
    news.late(&id(1), &peer(1, 1));
    assert_eq!(fetches(&mut news, at(1)), [(id(1), peer(2, 1))]);
    let mut come = |at, peer, number| news.fetched(at, &peer, &id(1), Duration::ZERO, &message(number));
    assert_eq!(come(at(2), peer(2, 1), 2), Offered::Refused);
    assert_eq!(fetches(&mut news, at(2)), [(id(1), peer(3, 1))]);
    let mut come = |at, peer, number| news.fetched(at, &peer, &id(1), Duration::ZERO, &message(number));
    assert_eq!(come(at(3), peer(1, 1), 1), Offered::Wanted);
    assert_eq!(come(at(4), peer(3, 1), 1), Offered::Known);
    assert_eq!(news.offered(at(4), peer(4, 1), id(1)), Offered::Known);
    // Whoever has it, or said so, need not be told.
    let known_to = news.pass_on(at(5), &id(1), HOUR).unwrap().known_to;
    assert_eq!(known_to, [peer(1, 1).id, peer(3, 1).id, peer(4, 1).id]);
    assert!(news.pass_on(at(5), &id(1), HOUR).is_none());
    assert_eq!(news.offered(at(6), peer(5, 1), id(1)), Offered::Known);
}

#[test]
fn what_nobody_has_is_given_up_and_can_be_offered_again() {
    let mut news = listening();
    news.offered(at(0), peer(1, 1), id(1));
    fetches(&mut news, at(0));
    news.failed(&id(1), &peer(1, 1));
    assert!(news.wanted.is_empty());
    assert!(bring(&mut news, at(1), peer(1, 1), 1, Duration::ZERO));
    // What the application drops is not heard again for a while.
    news.drop(at(2), &id(1));
    assert_eq!(news.offered(at(2), peer(1, 1), id(1)), Offered::Known);
    assert_eq!(news.offered(at(700_000), peer(1, 1), id(1)), Offered::Wanted);
}

#[test]
fn a_flood_takes_a_share_and_leaves_room_for_others() {
    let mut news = listening();
    let offered = |news: &mut News, network: u8| {
        let ids = (0..1000).map(|number| id(u32::from(network) * 1000 + number));
        ids.filter(|id| news.offered(at(0), peer(network, 1), *id) == Offered::Wanted).count()
    };
    assert_eq!(offered(&mut news, 1), MAX_WANTED_OF_NETWORK);
    assert_eq!(fetches(&mut news, at(0)).len(), MAX_UNDECIDED_OF_NETWORK);
    for network in 2..=100 {
        offered(&mut news, network);
    }
    assert_eq!((news.wanted.len(), fetches(&mut news, at(0)).len()), (MAX_WANTED, 12));
    // One announcement is offered by many: some of each network are remembered.
    let mut news = listening();
    for number in 0..100 {
        news.offered(at(0), peer(number / 10, number), id(1));
    }
    let sources = &news.wanted[&id(1)].sources;
    let of_network = |network| sources.iter().filter(|source| network_of(source) == network).count();
    assert_eq!(sources.len(), MAX_SOURCES);
    assert!((0..10).all(|network| (1..=2).contains(&of_network(network_of(&peer(network, 1))))), "{sources:?}");
    // What is offered and never comes, and what is never decided, is forgotten.
    assert!(bring(&mut news, at(0), peer(20, 1), 2, Duration::ZERO) || news.next_fetch(at(0)).is_none());
    news.sweep(at(61_000));
    assert!(news.wanted.is_empty() && news.undecided.is_empty());
}

#[test]
fn a_network_brings_a_few_hundred_at_once_and_then_two_a_second() {
    let mut news = listening();
    let mut bring_all = |now: Instant, network: u8, numbers: std::ops::Range<u32>| {
        let brought = numbers.filter(|number| {
            let heard = bring(&mut news, now, peer(network, 1), *number, Duration::ZERO);
            news.drop(now, &id(*number));
            news.wanted.clear();
            heard
        });
        brought.count()
    };
    assert_eq!(bring_all(at(0), 1, 0..500), 256);
    assert_eq!(bring_all(at(0), 2, 1000..1010), 10);
    assert_eq!(bring_all(at(5000), 1, 2000..2100), 10);
    // Those of this machine are not counted.
    let mut news = listening();
    let me = Peer::new(([127, 0, 0, 1], 4000).into(), Services::NONE);
    for number in 0..500 {
        assert!(bring(&mut news, at(0), me, number, Duration::ZERO));
        news.drop(at(0), &id(number));
    }
}

#[test]
fn what_is_kept_grows_old_and_the_oldest_makes_room() {
    let mut news = listening();
    for number in 0..MAX_KEPT as u32 {
        news.announce(at(0), &message(number), HOUR);
    }
    assert_eq!(news.announce(at(0), &message(0), HOUR), None, "it was announced before");
    let ten = Duration::from_secs(10);
    assert!(bring(&mut news, at(0), peer(1, 1), 1000, ten));
    assert!(news.pass_on(at(1500), &id(1000), HOUR).unwrap().is_young);
    assert_eq!(news.get(at(1500), &id(1000)), None, "it is the oldest");
    assert!(bring(&mut news, at(2000), peer(1, 1), 1001, Duration::ZERO));
    news.pass_on(at(3000), &id(1001), HOUR).unwrap();
    let age = Duration::from_millis(8000);
    assert_eq!(news.get(at(10_000), &id(1001)).unwrap(), (age, message(1001)));
    assert_eq!(news.kept.len(), MAX_KEPT);
    // The youngest first, and only those that the other does not know.
    assert_eq!(news.offers(at(10_000), &[])[0], id(1001));
    assert_eq!(news.offers(at(10_000), &[]).len(), MAX_OFFERS);
    assert!(!news.offers(at(10_000), &[short(&id(1001))]).contains(&id(1001)));
    assert_eq!(news.known(at(10_000)).len(), MAX_KNOWN);
    news.sweep(at(3_599_999));
    assert_eq!(news.kept.len(), MAX_KEPT);
    news.sweep(at(3_600_000));
    assert_eq!(news.kept.keys().copied().collect::<Vec<_>>(), [id(1001)]);
    news.sweep(at(3_602_000));
    assert!(news.kept.is_empty());
    assert_eq!(news.offered(at(3_602_000), peer(1, 1), id(1)), Offered::Known);
}

#[test]
fn what_is_not_kept_for_newcomers_can_be_fetched_for_half_a_minute() {
    let mut news = listening();
    news.announce(at(0), &message(1), Duration::ZERO);
    assert!(news.offers(at(0), &[]).is_empty());
    assert!(news.get(at(29_999), &id(1)).is_some() && news.get(at(30_000), &id(1)).is_none());
    // A carrier is a second behind, and tells others nevertheless; what has long been over goes no further.
    assert!(bring(&mut news, at(0), peer(1, 1), 2, Duration::from_secs(1)));
    assert!(news.pass_on(at(0), &id(2), Duration::ZERO).is_some());
    assert!(bring(&mut news, at(0), peer(1, 1), 3, HOUR + HELD_FOR));
    assert!(news.pass_on(at(0), &id(3), HOUR).is_none());
    assert!(news.get(at(0), &id(3)).is_none());
    assert_eq!(news.offered(at(0), peer(2, 1), id(3)), Offered::Known);
    // Nobody keeps anything longer than a week.
    assert!(bring(&mut news, at(0), peer(1, 1), 4, MAX_KEEP - HOUR));
    assert!(!news.pass_on(at(0), &id(4), MAX_KEEP * 2).unwrap().is_young);
    assert!(news.get(at(3_599_999), &id(4)).is_some() && news.get(at(3_600_000), &id(4)).is_none());
}

#[test]
fn who_catches_up_asks_on_until_nothing_new_is_offered() {
    let (mut news, first, second) = (listening(), peer(1, 1), peer(2, 1));
    news.catch_up(vec![second, first]);
    news.catch_up(vec![peer(3, 1)]);
    assert_eq!((news.next_round(), news.next_round()), (Some(first), None));
    news.offered_many(at(0), first, &[id(1), id(2)]);
    assert_eq!(news.next_round(), None, "they have not come yet");
    for (id, _) in fetches(&mut news, at(0)) {
        news.failed(&id, &first);
    }
    assert_eq!(news.next_round(), Some(first));
    news.announce(at(0), &message(1), HOUR);
    news.offered_many(at(0), first, &[id(1)]);
    assert_eq!(news.next_round(), Some(second));
    news.has_no_more(&first);
    news.has_no_more(&second);
    assert_eq!(news.next_round(), None);
    // A liar who always has something else is left after so many rounds.
    news.catch_up(vec![first]);
    let mut rounds = 0;
    while news.next_round().is_some() {
        news.offered_many(at(0), first, &[id(1000 + rounds)]);
        for (id, _) in fetches(&mut news, at(0)) {
            news.failed(&id, &first);
        }
        rounds += 1;
    }
    assert_eq!(rounds, MAX_ROUNDS + 1);
}

#[test]
fn who_does_not_listen_wants_nothing_and_keeps_its_own() {
    let mut news = News::default();
    assert_eq!(news.offered(at(0), peer(1, 1), id(1)), Offered::Refused);
    news.catch_up(vec![peer(1, 1)]);
    assert_eq!(news.next_round(), None);
    news.announce(at(0), &message(2), HOUR);
    assert!(news.get(at(0), &id(2)).is_some());
    news.listen(true);
    assert!(bring(&mut news, at(0), peer(1, 1), 1, Duration::ZERO));
    news.listen(false);
    assert!(news.pass_on(at(0), &id(1), HOUR).is_none());
    news.listen(true);
    assert!(bring(&mut news, at(0), peer(1, 1), 1, Duration::ZERO));
}
