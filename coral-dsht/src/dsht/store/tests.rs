//! Tests of the store.

use super::claims::CLAIMS_PER_KEY;
use super::*;

const OWNER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));
const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> Instant {
    Instant::START + Duration::from_secs(seconds)
}

fn value(number: usize) -> Value {
    Value::new(&number.to_be_bytes()).unwrap()
}

fn entry(number: usize, ttl: Duration, owner: IpAddr) -> Entry {
    Entry { value: value(number), ttl, owner }
}

/// A store in which `count` values were put at the start, each for `ttl`.
fn store_of(count: usize, ttl: Duration) -> (Config, Store, Key) {
    let (config, key) = (Config::default(), Key::hash(&[b"key"]));
    let mut store = Store::default();
    for number in 0..count {
        store.put(&config, at(0), (Level::GLOBAL, key), entry(number, ttl, OWNER));
    }
    (config, store, key)
}

#[test]
fn one_address_is_named_once_and_by_the_last_value_that_was_put() {
    let (config, mut store, key) = store_of(0, HOUR);
    let at_key = (Level::GLOBAL, key);
    let named = |host: u8, more: &[u8]| Value::naming_with(b'h', ([192, 0, 2, host], 80).into(), more).unwrap();
    let entry = |value: &Value, ttl| Entry { value: value.clone(), ttl, owner: OWNER };
    let [plain, first, second] = [&b""[..], b"first", b"second"].map(|more| named(1, more));
    assert!(store.claim(&config, at(0), at_key, entry(&plain, SECOND), &[], true).is_some());
    for value in [&first, &second] {
        assert!(store.put(&config, at(0), at_key, entry(value, HOUR)));
        assert_eq!(store.values(at(0), Level::GLOBAL, &key), std::slice::from_ref(value));
    }
    // A claim does not take away what is known.
    assert_eq!(store.claim(&config, at(1), at_key, entry(&plain, SECOND), &[], true), Some(vec![]));
    let other = Entry { value: named(2, b""), ttl: SECOND, owner: OTHER };
    assert_eq!(store.claim(&config, at(1), at_key, other, &[], true), Some(vec![second.clone()]));
    let other = Entry { value: named(2, b""), ttl: SECOND, owner: OTHER };
    assert_eq!(store.claim(&config, at(1), at_key, other, &[first], true), Some(vec![]), "refused by its address");
    assert!(store.remove(Level::GLOBAL, &key, &plain, OWNER));
    assert_eq!(store.len(), 1);
}

#[test]
fn four_values_that_last_make_a_key_full() {
    let (config, store, key) = store_of(4, HOUR);
    assert!(store.is_full(&config, at(0), Level::GLOBAL, &key, HOUR));
    assert!(store.is_full(&config, at(1800), Level::GLOBAL, &key, HOUR));
    // With less than half of the new value's life left they no longer count.
    assert!(!store.is_full(&config, at(1801), Level::GLOBAL, &key, HOUR));
    let (config, store, key) = store_of(3, HOUR);
    assert!(!store.is_full(&config, at(0), Level::GLOBAL, &key, HOUR));
}

#[test]
fn the_thirteenth_put_of_a_minute_finds_the_node_loaded() {
    let (config, mut store, key) = store_of(0, HOUR);
    let loaded: Vec<bool> = (0..14).map(|_| store.count_put(&config, at(0), Level::GLOBAL, key)).collect();
    assert_eq!(loaded.iter().filter(|loaded| !**loaded).count(), 12);
    assert!(loaded[12] && loaded[13]);
    // The leak: one more after 60/β = 5 s, however many ask.
    assert!(!store.count_put(&config, at(5), Level::GLOBAL, key));
    assert!(store.count_put(&config, at(5), Level::GLOBAL, key));
}

/// Node `number` claims `key` at the end of its search and refuses `refused`; the numbers that it is given.
fn claim(store: &mut Store, now: u64, key: Key, number: usize, refused: &[usize]) -> Vec<usize> {
    let refused: Vec<Value> = refused.iter().map(|number| value(*number)).collect();
    let entry = entry(number, 20 * SECOND, OWNER);
    let given = store.claim(&Config::default(), at(now), (Level::GLOBAL, key), entry, &refused, true);
    let number = |value: Value| usize::from_be_bytes(value.as_bytes().try_into().unwrap());
    given.unwrap().into_iter().map(number).collect()
}

#[test]
fn a_crowd_of_claimants_becomes_a_tree() {
    let (_, mut store, key) = store_of(0, HOUR);
    let parents: Vec<Option<usize>> =
        (0..21).map(|number| claim(&mut store, 0, key, number, &[]).first().copied()).collect();
    assert_eq!(parents[0], None);
    for (number, parent) in parents.iter().enumerate().skip(1) {
        // Each serves four, in the order in which they came.
        assert_eq!(*parent, Some((number - 1) / 4));
    }
}

#[test]
fn a_claim_is_only_recorded_where_the_search_ends() {
    let (config, mut store, key) = store_of(0, HOUR);
    let on_the_way = store.claim(&config, at(0), (Level::GLOBAL, key), entry(0, HOUR, OWNER), &[], false);
    assert_eq!(on_the_way, None);
    assert_eq!((store.len(), store.slots.len()), (0, 0));
    assert_eq!(claim(&mut store, 0, key, 1, &[]), []);
}

#[test]
fn a_claimant_that_does_not_answer_is_replaced_by_the_first_to_say_so() {
    let (_, mut store, key) = store_of(0, HOUR);
    for number in 0..3 {
        claim(&mut store, 0, key, number, &[]);
    }
    // Whoever asks again is not sent to those that may be waiting for it.
    assert_eq!(claim(&mut store, 1, key, 1, &[0]), []);
    assert_eq!(claim(&mut store, 1, key, 2, &[0]), [1]);
    assert_eq!(claim(&mut store, 1, key, 3, &[0]), [1, 2]);
}

#[test]
fn a_claim_ends_with_its_time_and_a_put_makes_it_last() {
    let (config, mut store, key) = store_of(0, HOUR);
    claim(&mut store, 0, key, 0, &[]);
    assert_eq!(claim(&mut store, 19, key, 1, &[]), [0]);
    assert_eq!(claim(&mut store, 21, key, 2, &[]), [1]);
    store.put(&config, at(22), (Level::GLOBAL, key), entry(2, HOUR, OWNER));
    // It has it now: it is given to those that came before it, too.
    assert_eq!(claim(&mut store, 23, key, 1, &[]), [2]);
    assert_eq!(claim(&mut store, 100, key, 3, &[]), [2]);
}

#[test]
fn a_crowd_without_end_fills_no_more_than_its_share() {
    let (_, mut store, key) = store_of(0, HOUR);
    for number in 0..10_000 {
        let given = claim(&mut store, 0, key, number, &[]);
        assert!(number == 0 || given[0] < number);
    }
    assert_eq!(store.len(), CLAIMS_PER_KEY);
}

#[test]
fn a_value_ends_with_its_ttl_and_leaves_nothing_behind() {
    let (config, mut store, key) = store_of(2, HOUR);
    store.count_put(&config, at(0), Level::GLOBAL, key);
    assert_eq!(store.values(at(3599), Level::GLOBAL, &key).len(), 2);
    assert_eq!(store.values(at(3600), Level::GLOBAL, &key).len(), 0);
    store.sweep(at(3600));
    assert_eq!((store.len(), store.keys()), (0, 0));
    assert!(store.slots.is_empty() && store.expiries.is_empty());
}

#[test]
fn a_value_put_again_is_renewed_not_doubled() {
    let (config, mut store, key) = store_of(1, HOUR);
    store.put(&config, at(1800), (Level::GLOBAL, key), entry(0, HOUR, OWNER));
    assert_eq!(store.len(), 1);
    store.sweep(at(3600));
    assert_eq!(store.values(at(5399), Level::GLOBAL, &key).len(), 1);
}

#[test]
fn only_its_owner_removes_or_shortens_a_value() {
    let (config, mut store, key) = store_of(1, HOUR);
    assert!(!store.remove(Level::GLOBAL, &key, &value(0), OTHER));
    store.put(&config, at(0), (Level::GLOBAL, key), Entry { owner: OTHER, ..entry(0, Duration::from_secs(1), OWNER) });
    assert_eq!(store.values(at(3599), Level::GLOBAL, &key).len(), 1);
    assert!(store.remove(Level::GLOBAL, &key, &value(0), OWNER));
    assert_eq!(store.len(), 0);
}

#[test]
fn a_crowded_key_keeps_the_values_that_live_longest() {
    let (config, mut store, key) = store_of(16, HOUR);
    let put =
        |store: &mut Store, number, ttl| store.put(&config, at(0), (Level::GLOBAL, key), entry(number, ttl, OWNER));
    assert!(!put(&mut store, 100, HOUR / 2));
    assert!(put(&mut store, 101, HOUR * 2));
    assert_eq!(store.len(), 16);
    assert_eq!(store.values(at(0), Level::GLOBAL, &key)[0], value(101));
}

#[test]
fn one_network_crowds_nobody_out_of_a_key() {
    let (config, mut store, key) = store_of(16, 24 * HOUR);
    let distant = |last: u8| IpAddr::from([198, 51, 100, last]);
    let put = |store: &mut Store, number, owner| {
        store.put(&config, at(0), (Level::GLOBAL, key), entry(number, SECOND, owner))
    };
    for number in 100..108 {
        assert!(put(&mut store, number, distant(number as u8)));
    }
    // Half of the key each. Within a network it is the same with addresses: four each for these two.
    let taken = (200..210).filter(|number| put(&mut store, *number, OTHER)).count();
    assert_eq!(taken, 4);
    // From now on the longer life counts.
    assert!(!put(&mut store, 300, OWNER));
    assert_eq!(store.len(), 16);
    assert_eq!(store.quota.len(), store.slots[&(Level::GLOBAL, key)].values.len());
}

#[test]
fn one_address_and_one_network_fill_no_more_than_their_share() {
    let few = |number: u32| std::num::NonZeroU32::new(number).unwrap();
    let config =
        Config { stored_values: 100, values_per_address: few(20), values_per_prefix: few(30), ..Config::default() };
    let mut store = Store::default();
    let mut number = 0;
    let mut fill = |store: &mut Store, owner: IpAddr| {
        let stored = (0..200).filter(|_| {
            number += 1;
            let key = Key::hash(&[value(number).as_bytes()]);
            store.put(&config, at(0), (Level::GLOBAL, key), entry(number, HOUR, owner))
        });
        stored.count()
    };
    // Nobody is refused while half of the store is empty.
    assert_eq!(fill(&mut store, OWNER), 50);
    assert_eq!(fill(&mut store, OTHER), 0, "its network has its share");
    assert_eq!(fill(&mut store, [198, 51, 100, 1].into()), 20);
    assert_eq!(fill(&mut store, [198, 51, 100, 2].into()), 10);
    assert_eq!(fill(&mut store, [203, 0, 113, 1].into()), 20);
    assert_eq!(fill(&mut store, [192, 0, 3, 1].into()), 0);
    store.sweep(at(3600));
    assert_eq!(format!("{:?}", store.quota), format!("{:?}", Quota::default()));
}

#[test]
fn a_flood_of_keys_costs_bounded_memory() {
    let config = Config { stored_values: 10, ..Config::default() };
    let mut store = Store::default();
    for number in 0..1000 {
        let key = Key::hash(&[value(number).as_bytes()]);
        store.count_put(&config, at(0), Level::GLOBAL, key);
        store.put(&config, at(0), (Level::GLOBAL, key), entry(number, HOUR, OWNER));
    }
    assert_eq!((store.len(), store.slots.len()), (10, 10));
}

/// Seen with one datagram sent 300,000 times, which cost 19 MB for a day.
#[test]
fn a_put_that_is_repeated_or_withdrawn_costs_no_memory() {
    let config = Config::default();
    let mut store = Store::default();
    let key = |number: u64| Key::hash(&[&number.to_be_bytes()]);
    for second in 0..1000 {
        store.put(&config, at(second), (Level::GLOBAL, key(0)), entry(0, HOUR, OWNER));
        store.count_put(&config, at(second), Level::GLOBAL, key(0));
        store.put(&config, at(second), (Level::GLOBAL, key(1 + second)), entry(0, HOUR, OWNER));
        store.remove(Level::GLOBAL, &key(1 + second), &value(0), OWNER);
    }
    assert_eq!((store.slots.len(), store.expiries.len()), (1, 1));
    // Swept before the value ends, the slot is kept, and swept again when it does.
    store.sweep(at(3600));
    assert_eq!((store.len(), store.slots.len(), store.expiries.len()), (1, 1, 1));
    store.sweep(at(999 + 3600));
    assert_eq!((store.len(), store.slots.len(), store.expiries.len()), (0, 0, 0));
}

#[test]
fn levels_do_not_mix() {
    let (_, store, key) = store_of(1, HOUR);
    assert_eq!(store.values(at(0), Level::new(1).unwrap(), &key), []);
}
