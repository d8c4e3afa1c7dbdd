//! Signing answers as they are given (RFC 4034, 4035), by keys that all nodes of a network have: RRsets in, signatures out.
//!
//! What an answer consists of is decided elsewhere, and knows nothing of this; `handler/encode/signed.rs` makes RRsets of it.
//! One key signs for every zone, so each zone has the same DNSKEY records, and a DS record follows from the zone's name.

mod cache;
pub mod key;
pub mod nsec;

use std::hash::Hasher as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use siphasher::sip128::{Hasher128 as _, SipHasher13};

use cache::Cache;
use key::{Key, KeyError};

use crate::error::DnsError;
use crate::wire::classes;

/// How long resolvers may keep a zone's keys, and what vouches for them, in seconds.
pub const KEY_TTL: u32 = 3_600;

/// Signatures remembered at the least, at about 100 bytes each; at most twice as many.
const MAX_SIGNATURES: usize = 1 << 16;

/// Signatures that are made within one such span are alike, on all nodes.
const STEP: Duration = Duration::from_secs(12 * 3_600);
/// How far a validator's clock may be behind the beginning of a span.
const BEHIND: Duration = Duration::from_secs(3_600);
/// From the beginning of a span to the end of its signatures. Resolvers keep nothing beyond that (RFC 4035 §5.3.3), and two days and a
/// half are left at the least.
const VALIDITY: Duration = Duration::from_secs(3 * 86_400);

/// Records of one name and one type (RFC 2181 §5), in the form in which they are signed (RFC 4034 §6.2): names in lower case
/// and not compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Whose they are.
    pub owner: Vec<u8>,
    /// Their type.
    pub kind: u16,
    /// How long they may be kept, in seconds.
    pub ttl: u32,
    /// The data of each; none twice.
    pub data: Vec<Vec<u8>>,
}

impl Set {
    /// One record.
    pub fn of(owner: &[u8], kind: u16, ttl: u32, data: Vec<u8>) -> Self {
        Self { owner: owner.to_vec(), kind, ttl, data: vec![data] }
    }
}

/// The keys, and what they have signed.
#[derive(Debug)]
pub struct Signer {
    /// The first one signs.
    keys: Vec<Key>,
    cache: Cache,
    /// Of the hash by which signatures are found, so that nobody can make two RRsets have the same.
    secret: [u8; 16],
}

impl Signer {
    /// Reads the key files, of which the first signs and the others are only vouched for. `None` if there are none. `secret` is
    /// random.
    pub fn open(paths: &[PathBuf], secret: [u8; 16]) -> Result<Option<Self>, DnsError> {
        let mut keys: Vec<Key> = Vec::new();
        for path in paths {
            let wrong = |why: String| DnsError::Key { path: path.clone(), why };
            let key = Key::read(path).map_err(|e| wrong(e.to_string()))?;
            if keys.first().is_some_and(|first| first.algorithm() != key.algorithm()) {
                return Err(wrong("all keys must be of one algorithm, and the first is of another".into()));
            }
            if keys.iter().all(|known| known.dnskey() != key.dnskey()) {
                keys.push(key);
            }
        }
        Ok((!keys.is_empty()).then(|| Self::new(keys, secret)))
    }

    /// With these keys, of which there is one at least.
    pub(crate) fn new(keys: Vec<Key>, secret: [u8; 16]) -> Self {
        Self { keys, cache: Cache::new(MAX_SIGNATURES), secret }
    }

    /// The DNSKEY records of the zone with this name.
    pub fn dnskeys(&self, zone: &[u8]) -> Set {
        let data = self.keys.iter().map(|key| key.dnskey().to_vec()).collect();
        Set { owner: zone.to_vec(), kind: crate::wire::types::DNSKEY, ttl: KEY_TTL, data }
    }

    /// The DS records of the zone with this name, for the zone above it.
    pub fn ds(&self, zone: &[u8]) -> Set {
        let data = self.keys.iter().map(|key| key.ds(zone)).collect();
        Set { owner: zone.to_vec(), kind: crate::wire::types::DS, ttl: KEY_TTL, data }
    }

    /// The data of the RRSIG record (RFC 4034 §3.1) of `set`, which is in the zone with this name.
    pub fn sign(&self, now: SystemTime, zone: &[u8], set: &Set) -> Result<Vec<u8>, KeyError> {
        let key = &self.keys[0];
        let mut signed = head(key, now, zone, set);
        let head_bytes = signed.len();
        let mut sorted: Vec<&[u8]> = set.data.iter().map(Vec::as_slice).collect();
        // RFC 4034 §6.3.
        sorted.sort_unstable();
        for data in sorted {
            signed.extend_from_slice(&set.owner);
            signed.extend_from_slice(&set.kind.to_be_bytes());
            signed.extend_from_slice(&classes::IN.to_be_bytes());
            signed.extend_from_slice(&set.ttl.to_be_bytes());
            // As long as it came in a message, or from the configuration by way of one.
            signed.extend_from_slice(&(data.len() as u16).to_be_bytes());
            signed.extend_from_slice(data);
        }
        let mut hasher = SipHasher13::new_with_key(&self.secret);
        hasher.write(&signed);
        let hash = hasher.finish128().into();
        let signature = match self.cache.get(hash) {
            Some(signature) => signature,
            None => {
                let signature = key.sign(&signed)?;
                self.cache.put(hash, signature);
                signature
            }
        };
        signed.truncate(head_bytes);
        signed.extend_from_slice(&signature);
        Ok(signed)
    }
}

/// The data of an RRSIG record without the signature.
fn head(key: &Key, now: SystemTime, zone: &[u8], set: &Set) -> Vec<u8> {
    let (inception, expiration) = span(now);
    let mut head = Vec::with_capacity(512);
    head.extend_from_slice(&set.kind.to_be_bytes());
    head.extend_from_slice(&[key.algorithm() as u8, labels(&set.owner)]);
    head.extend_from_slice(&set.ttl.to_be_bytes());
    head.extend_from_slice(&expiration.to_be_bytes());
    head.extend_from_slice(&inception.to_be_bytes());
    head.extend_from_slice(&key.tag().to_be_bytes());
    head.extend_from_slice(zone);
    head
}

/// When signatures made `now` begin to hold, and when they end: seconds since 1970 modulo 2^32 (RFC 4034 §3.1.5).
fn span(now: SystemTime) -> (u32, u32) {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let begin = now - now % STEP.as_secs();
    (begin.saturating_sub(BEHIND.as_secs()) as u32, (begin + VALIDITY.as_secs()) as u32)
}

/// The labels of a name without the root, and without a `*` in front, which counts as none (RFC 4034 §3.1.3).
fn labels(name: &[u8]) -> u8 {
    let (mut at, mut count) = (0, 0);
    while let Some(length @ 1..) = name.get(at).copied() {
        at += 1 + usize::from(length);
        count += 1;
    }
    count - u8::from(name.starts_with(b"\x01*"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_of_one_span_are_alike_and_hold_before_and_after() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let begin = 1_800_014_400;
        assert_eq!(begin % STEP.as_secs(), 0);
        assert_eq!(span(at(begin)), span(at(begin + 43_199)));
        assert_ne!(span(at(begin)), span(at(begin + 43_200)));
        assert_eq!(span(at(begin)), ((begin - 3_600) as u32, (begin + 259_200) as u32));
    }

    #[test]
    fn labels_are_counted_without_root_and_star() {
        for (name, wanted) in [(&b"\0"[..], 0), (b"\x01a\x01b\0", 2), (b"\x01*\x01b\0", 1), (b"\x02*a\x01b\0", 2)] {
            assert_eq!(labels(name), wanted);
        }
    }
}
