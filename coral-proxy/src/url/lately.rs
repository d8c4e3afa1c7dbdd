//! URLs that were understood lately: what is popular is not taken apart, normalised and hashed for each request.
//!
//! Each thread has a table of its own, so that nobody waits. A URL has one place there, by a keyed hash of host and target; a newer one takes it. What was understood
//! by other names than are served now is forgotten.

use std::cell::RefCell;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Weak};

use coral_dsht::Key;

use super::{CoralUrl, Names};

/// Places of a thread.
const PLACES: usize = 2048;
/// Bytes of host and target; longer ones are understood anew each time.
const MOST_BYTES: usize = 256;

/// A URL that is served here, and its key.
#[derive(Debug)]
pub(crate) struct Understood {
    pub(crate) url: CoralUrl,
    pub(crate) key: Key,
}

#[derive(Debug)]
struct Place {
    /// As they came.
    host: Box<[u8]>,
    target: Box<[u8]>,
    understood: Arc<Understood>,
}

/// The table of a thread.
#[derive(Debug, Default)]
struct Table {
    /// None before the first URL.
    places: Vec<Option<Place>>,
    /// What they were understood by. As long as this is kept, no other names have its address.
    names: Weak<Names>,
    hasher: RandomState,
}

thread_local!(static TABLE: RefCell<Table> = RefCell::default());

/// What `host` and `target`, as they come in an HTTP/1.1 request, were understood as by these names.
pub(crate) fn understood(host: &[u8], target: &[u8], names: &Arc<Names>) -> Option<Arc<Understood>> {
    TABLE.with_borrow(|table| {
        if table.names.as_ptr() != Arc::as_ptr(names) {
            return None;
        }
        let place = table.places.get(table.place(host, target))?.as_ref()?;
        (*place.host == *host && *place.target == *target).then(|| Arc::clone(&place.understood))
    })
}

/// Remembers what they are understood as, if that is not known yet: whoever's requests are never plain pays for it once.
pub(crate) fn remember(host: &[u8], target: &[u8], names: &Arc<Names>, make: impl FnOnce() -> Understood) {
    if host.len() + target.len() > MOST_BYTES || understood(host, target, names).is_some() {
        return;
    }
    let understood = Arc::new(make());
    TABLE.with_borrow_mut(|table| {
        if table.names.as_ptr() != Arc::as_ptr(names) {
            table.names = Arc::downgrade(names);
            table.places.clear();
        }
        table.places.resize_with(PLACES, || None);
        let place = table.place(host, target);
        table.places[place] = Some(Place { host: host.into(), target: target.into(), understood });
    });
}

impl Table {
    fn place(&self, host: &[u8], target: &[u8]) -> usize {
        self.hasher.hash_one((host, target)) as usize % PLACES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_understood_is_known_until_other_names_are_served() {
        let names = |suffix: &str| Arc::new(Names { suffixes: vec![suffix.parse().unwrap()], ..Names::default() });
        let (ours, others) = (names("nyud.net"), names("example.net"));
        let understand = |target: &str, names: &Arc<Names>| {
            let url = CoralUrl::parse("www.x.com.nyud.net", target, names).unwrap();
            let key = url.key();
            remember(b"www.x.com.nyud.net", target.as_bytes(), names, || Understood { url, key });
        };
        let known = |target: &str, names: &Arc<Names>| understood(b"www.x.com.nyud.net", target.as_bytes(), names);
        assert!(known("/", &ours).is_none());
        understand("/", &ours);
        let found = known("/", &ours).unwrap();
        assert_eq!((found.key, found.url.target.as_str()), (found.url.key(), "/"));
        assert!(known("/a", &ours).is_none() && known("/", &others).is_none());
        assert!(understood(b"www.x.com.nyud.ne", b"t/", &ours).is_none());
        let long = "/".repeat(MOST_BYTES);
        understand(&long, &ours);
        assert!(known(&long, &ours).is_none());
        // More than there are places.
        (0..3 * PLACES).for_each(|number| understand(&format!("/{number}"), &ours));
        TABLE.with_borrow(|table| assert_eq!(table.places.len(), PLACES));
        assert!(known(&format!("/{}", 3 * PLACES - 1), &ours).is_some());
        let again = names("nyud.net");
        assert!(known(&format!("/{}", 3 * PLACES - 1), &again).is_none());
        understand("/", &again);
        assert!(known("/", &again).is_some() && known("/", &ours).is_none());
    }
}
