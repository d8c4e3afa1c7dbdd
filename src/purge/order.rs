//! What nodes announce to each other of purges, as bytes (PROTOCOL.md 2.8): an operator's order, and that a site's owner has
//! purged something, which each node asks the origin about.
//!
//! Values in, values out: whose orders are obeyed, and when, is [`super`]'s affair, and what patterns mean the cache's.

use std::time::{Duration, SystemTime};

use coral_proxy::url::Origin;

use super::key::{Key, Operator, PUBLIC_BYTES, SIGNATURE_BYTES};

/// The first byte of an order.
const ORDER: u8 = 1;
/// The first byte of news of an owner.
const OWNER: u8 = 2;

/// What is signed begins with this, so that no signature for something else is one of an order.
const SIGNED_FOR: &[u8] = b"coral purge order 1\0";

/// Bytes of an announcement.
const MAX_BYTES: usize = coral_dsht::MAX_ANNOUNCEMENT_BYTES;

/// Bytes of an order that are no patterns.
const AROUND: usize = 1 + PUBLIC_BYTES + 8 + SIGNATURE_BYTES;

/// Bytes before a pattern: its length.
const LENGTH: usize = 2;

/// The longest origin: `https://`, a host name, a port.
const MAX_ORIGIN_BYTES: usize = 8 + 253 + 6;

/// What a node announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Announcement {
    /// An operator has purged something.
    Order(Order),
    /// The owner of this origin has.
    Owner(Origin),
}

/// What an operator has purged. Its signature is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Who it is.
    pub operator: Operator,
    /// When, by his node's clock; in milliseconds, rounded up.
    pub time: SystemTime,
    /// What, canonical.
    pub patterns: Vec<String>,
}

/// Bytes that are no announcement of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Another kind of announcement.
    Kind,
    /// Cut, too long, or not as it should be.
    Form,
    /// Whoever made it has not the key that it names.
    Signature,
}

/// The orders by which `key` purges `patterns`, each of which has at most [`coral_proxy::purge::MAX_PATTERN_BYTES`].
pub fn orders(key: &Key, time: SystemTime, patterns: &[String]) -> Vec<Vec<u8>> {
    let mut orders = Vec::new();
    let mut left = patterns;
    while !left.is_empty() {
        let mut bytes = MAX_BYTES - AROUND;
        let fits = left.iter().take_while(|pattern| {
            let room = bytes.checked_sub(LENGTH + pattern.len());
            bytes = room.unwrap_or_default();
            room.is_some()
        });
        let (now, later) = left.split_at(fits.count().max(1));
        orders.push(order(key, time, now));
        left = later;
    }
    orders
}

fn order(key: &Key, time: SystemTime, patterns: &[String]) -> Vec<u8> {
    let mut bytes = vec![ORDER];
    bytes.extend_from_slice(key.operator().as_bytes());
    bytes.extend_from_slice(&millis(time).to_be_bytes());
    for pattern in patterns {
        bytes.extend_from_slice(&(pattern.len() as u16).to_be_bytes());
        bytes.extend_from_slice(pattern.as_bytes());
    }
    let signature = key.sign(&[SIGNED_FOR, &bytes].concat());
    bytes.extend_from_slice(&signature);
    bytes
}

/// The news that the owner of `origin` has purged something. By the `time` it is not taken for news of before.
pub fn owner(origin: &str, time: SystemTime) -> Vec<u8> {
    let mut bytes = vec![OWNER];
    bytes.extend_from_slice(&millis(time).to_be_bytes());
    bytes.extend_from_slice(origin.as_bytes());
    bytes
}

/// Rounded up: what came just before it is purged.
fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// What `bytes` say.
pub fn decode(bytes: &[u8]) -> Result<Announcement, Malformed> {
    match bytes.split_first() {
        _ if bytes.len() > MAX_BYTES => Err(Malformed::Form),
        Some((&ORDER, rest)) => decode_order(bytes, rest).map(Announcement::Order),
        Some((&OWNER, rest)) => decode_owner(rest).map(Announcement::Owner),
        Some(_) => Err(Malformed::Kind),
        None => Err(Malformed::Form),
    }
}

fn decode_order(all: &[u8], rest: &[u8]) -> Result<Order, Malformed> {
    let (operator, rest) = rest.split_first_chunk::<PUBLIC_BYTES>().ok_or(Malformed::Form)?;
    let (millis, rest) = rest.split_first_chunk::<8>().ok_or(Malformed::Form)?;
    let (mut rest, signature) = rest.split_last_chunk::<SIGNATURE_BYTES>().ok_or(Malformed::Form)?;
    let operator = Operator::from_bytes(*operator);
    let since = Duration::from_millis(u64::from_be_bytes(*millis));
    let time = SystemTime::UNIX_EPOCH.checked_add(since).ok_or(Malformed::Form)?;
    let mut patterns = Vec::new();
    while !rest.is_empty() {
        let (length, text) = rest.split_first_chunk::<LENGTH>().ok_or(Malformed::Form)?;
        let (text, after) = text.split_at_checked(u16::from_be_bytes(*length).into()).ok_or(Malformed::Form)?;
        patterns.push(std::str::from_utf8(text).map_err(|_| Malformed::Form)?.to_owned());
        rest = after;
    }
    if patterns.is_empty() {
        return Err(Malformed::Form);
    }
    let signed = [SIGNED_FOR, &all[..all.len() - SIGNATURE_BYTES]].concat();
    if operator.has_signed(&signed, signature) {
        Ok(Order { operator, time, patterns })
    } else {
        Err(Malformed::Signature)
    }
}

fn decode_owner(rest: &[u8]) -> Result<Origin, Malformed> {
    let (_time, text) = rest.split_first_chunk::<8>().ok_or(Malformed::Form)?;
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= MAX_ORIGIN_BYTES).ok_or(Malformed::Form)?;
    let origin: Origin = text.parse().map_err(|_| Malformed::Form)?;
    // One spelling for each.
    if origin.to_string() == text { Ok(origin) } else { Err(Malformed::Form) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn patterns(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_order_is_read_as_it_was_meant() {
        let key = Key::from_seed(&[7; 32]);
        let patterns = patterns(&["http://www.x.com/a?b", "http://www.x.com/news/*", "www.y.com"]);
        let time = at(1000) + Duration::from_nanos(1);
        let later = at(1000) + Duration::from_millis(1);
        let [order] = &orders(&key, time, &patterns)[..] else {
            panic!("they fit into one");
        };
        let read = Order { operator: key.operator(), time: later, patterns };
        assert_eq!(decode(order), Ok(Announcement::Order(read)));
    }

    #[test]
    fn many_patterns_are_several_orders_in_the_same_order() {
        let key = Key::from_seed(&[7; 32]);
        let longest = coral_proxy::purge::MAX_PATTERN_BYTES;
        let all: Vec<String> = [1, longest, longest, 300, 280, 10, longest].map(|length| "a".repeat(length)).to_vec();
        let orders = orders(&key, at(1000), &all);
        let read = orders.iter().flat_map(|order| {
            assert!(order.len() <= MAX_BYTES);
            match decode(order) {
                Ok(Announcement::Order(order)) => order.patterns,
                other => panic!("{other:?}"),
            }
        });
        assert_eq!(read.collect::<Vec<_>>(), all);
        assert_eq!(orders.len(), 4);
    }

    #[test]
    fn whatever_is_changed_in_an_order_it_is_none() {
        let order = &orders(&Key::from_seed(&[7; 32]), at(1000), &patterns(&["www.x.com"]))[0];
        for place in 0..order.len() {
            let mut changed = order.clone();
            changed[place] ^= 1;
            assert!(decode(&changed).is_err(), "changed at {place}");
            assert!(decode(&order[..place]).is_err(), "cut at {place}");
        }
        assert!(decode(&[order, &[0][..]].concat()).is_err());
        let signature = order.len() - SIGNATURE_BYTES;
        let mut changed = order.clone();
        changed[signature] ^= 1;
        assert_eq!(decode(&changed), Err(Malformed::Signature));
    }

    #[test]
    fn news_of_an_owner_name_an_origin_in_its_one_spelling() {
        for text in ["http://www.x.com", "https://www.x.com:8443"] {
            let Ok(Announcement::Owner(origin)) = decode(&owner(text, at(1000))) else {
                panic!("{text}");
            };
            assert_eq!(origin.to_string(), text);
        }
        assert_ne!(owner("http://www.x.com", at(1)), owner("http://www.x.com", at(2)));
        for text in ["", "www.x.com", "http://www.x.com/", "http://www.x.com:80", "http://WWW.x.com", "ftp://x.com"] {
            assert_eq!(decode(&owner(text, at(1000))), Err(Malformed::Form), "{text}");
        }
        assert_eq!(decode(&[]), Err(Malformed::Form));
        assert_eq!(decode(&[9]), Err(Malformed::Kind));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_announcement_or_none(
            bytes in proptest::collection::vec(any::<u8>(), 0..800),
            patterns in proptest::collection::vec("\\PC{0,40}", 0..4),
            text in "(https?://)?[a-z0-9.:-]{0,20}",
        ) {
            for kind in [ORDER, OWNER] {
                let _ = decode(&[&[kind], &bytes[..]].concat());
            }
            // With a signature that is right, so that what is behind it is read.
            let order = order(&Key::from_seed(&[7; 32]), at(1), &patterns);
            prop_assert_eq!(decode(&order).is_ok(), !patterns.is_empty());
            let _ = decode(&owner(&text, at(1)));
        }
    }
}
