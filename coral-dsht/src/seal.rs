//! The network key: with one, a network is closed. Each datagram ends with a keyed hash (HMAC-SHA-256, RFC 2104) of all
//! that is before it; one without a valid hash is dropped before anything else of it is looked at (design.md §2.8).
//!
//! The key proves that a sender belongs to the network, not which node it is: that is what tokens are for, here too. What is
//! sent can still be read on its way.

use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::Sha256;

use crate::message::Message;
use crate::wire::{self, DecodeError};

/// A secret that all nodes of a closed network share: 64 hexadecimal digits, as `openssl rand -hex 32` prints them.
///
/// No passphrase: whoever sees one datagram could try all that people think of.
#[derive(Clone, PartialEq, Eq)]
pub struct NetworkKey([u8; KEY_BYTES]);

/// A text is no network key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a network key is 64 hexadecimal digits, as `openssl rand -hex 32` prints them")]
pub struct NotAKey;

const KEY_BYTES: usize = 32;
/// What a datagram of a closed network has more.
pub const SEAL_BYTES: usize = 16;
/// In the first byte: the datagram is sealed. So nodes with and without a key never mistake each other.
const SEALED: u8 = 0x80;

impl FromStr for NetworkKey {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        let mut key = [0; KEY_BYTES];
        if text.len() != 2 * KEY_BYTES || !text.is_ascii() {
            return Err(NotAKey);
        }
        for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digit = |digit: u8| char::from(digit).to_digit(16).ok_or(NotAKey);
            *byte = (digit(digits[0])? << 4 | digit(digits[1])?) as u8;
        }
        Ok(Self(key))
    }
}

impl NetworkKey {
    /// A secret for one purpose, made of this one: what is shown for one is worth nothing for another, nor for the index.
    pub fn derive(&self, purpose: &str) -> [u8; KEY_BYTES] {
        let mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.chain_update(purpose).finalize().into_bytes().into()
    }
}

/// Never the secret.
impl fmt::Debug for NetworkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NetworkKey(not shown)")
    }
}

/// Never the secret: what is written is for people to see that there is a key.
impl Serialize for NetworkKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("not shown")
    }
}

impl<'de> Deserialize<'de> for NetworkKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// How a node's messages become datagrams, and back: as they are, or sealed with the key of its network.
#[derive(Clone)]
pub(crate) struct Seal {
    /// Keyed already: a copy of it hashes one datagram.
    mac: Option<Box<Hmac<Sha256>>>,
}

impl Seal {
    /// That of a network with this key, or without any.
    pub(crate) fn new(key: Option<&NetworkKey>) -> Self {
        let mac = key.map(|key| Hmac::new_from_slice(&key.0).expect("HMAC takes a key of any length"));
        Self { mac: mac.map(Box::new) }
    }

    /// The datagram for a message of these bytes.
    pub(crate) fn close(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        if let Some(mac) = &self.mac {
            bytes[0] |= SEALED;
            let hash = Hmac::clone(mac).chain_update(&bytes).finalize().into_bytes();
            bytes.extend(&hash[..SEAL_BYTES]);
            debug_assert!(bytes.len() <= wire::MAX_DATAGRAM_BYTES);
        }
        bytes
    }

    /// The bytes of the message in `datagram`, if whoever sealed it has the key.
    pub(crate) fn check<'a>(&self, datagram: &'a [u8]) -> Result<&'a [u8], DecodeError> {
        let Some(mac) = &self.mac else { return Ok(datagram) };
        if datagram.len() > wire::MAX_DATAGRAM_BYTES || datagram.first() != Some(&(wire::VERSION | SEALED)) {
            return Err(DecodeError::Stranger);
        }
        let (message, hash) = datagram.split_last_chunk::<SEAL_BYTES>().ok_or(DecodeError::Stranger)?;
        let is_ours = Hmac::clone(mac).chain_update(message).verify_truncated_left(hash).is_ok();
        if is_ours { Ok(message) } else { Err(DecodeError::Stranger) }
    }

    /// The message that these bytes are.
    pub(crate) fn decode(&self, message: &[u8]) -> Result<Message, DecodeError> {
        wire::decode_version(wire::VERSION | if self.mac.is_some() { SEALED } else { 0 }, message)
    }
}

/// Never the secret.
impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.mac.is_some() { "Seal(closed network)" } else { "Seal(open network)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Body, Header, Request};

    fn key(digit: char) -> NetworkKey {
        digit.to_string().repeat(64).parse().unwrap()
    }

    fn ping() -> Message {
        Message { header: Header::default(), request_id: 7, body: Body::Request(Request::Ping) }
    }

    #[test]
    fn a_key_is_64_digits_and_is_never_shown() {
        let text = "00112233445566778899aAbBcCdDeEfF00112233445566778899aabbccddeeff";
        assert_eq!(text.parse::<NetworkKey>().unwrap().0[9..12], [0x99, 0xaa, 0xbb]);
        for wrong in ["", "secret", &text[1..], &format!("{text}0"), &text.replace('0', "g"), &"é".repeat(32)] {
            assert_eq!(wrong.parse::<NetworkKey>(), Err(NotAKey));
        }
        let shown = format!("{:?} {:?}", key('7'), Seal::new(Some(&key('7'))));
        assert_eq!(shown, "NetworkKey(not shown) Seal(closed network)");
    }

    #[test]
    fn each_purpose_has_a_secret_of_its_own() {
        assert_eq!(key('7').derive("a"), key('7').derive("a"));
        assert!(key('7').derive("a") != key('7').derive("b") && key('7').derive("a") != key('8').derive("a"));
    }

    fn open(seal: &Seal, datagram: &[u8]) -> Result<Message, DecodeError> {
        seal.check(datagram).and_then(|message| seal.decode(message))
    }

    #[test]
    fn only_who_has_the_key_is_understood() {
        let [public, ours, theirs] =
            [None, Some(key('1')), Some(key('2'))].map(|key: Option<NetworkKey>| Seal::new(key.as_ref()));
        let [from_public, from_us, from_them] = [&public, &ours, &theirs].map(|seal| seal.close(wire::encode(&ping())));
        assert_eq!(open(&public, &from_public), Ok(ping()));
        assert_eq!(open(&ours, &from_us), Ok(ping()));
        assert_eq!(from_us.len(), from_public.len() + SEAL_BYTES);
        assert_eq!(open(&ours, &from_public), Err(DecodeError::Stranger));
        assert_eq!(open(&ours, &from_them), Err(DecodeError::Stranger));
        assert_eq!(open(&public, &from_us), Err(DecodeError::Version));
    }

    #[test]
    fn whatever_is_changed_or_cut_is_dropped() {
        let seal = Seal::new(Some(&key('1')));
        let datagram = seal.close(wire::encode(&ping()));
        for index in 0..datagram.len() {
            let mut changed = datagram.clone();
            changed[index] ^= 1;
            assert_eq!(open(&seal, &changed), Err(DecodeError::Stranger), "byte {index}");
            assert_eq!(open(&seal, &datagram[..index]), Err(DecodeError::Stranger), "{index} bytes");
        }
        assert_eq!(open(&seal, &[wire::VERSION | SEALED; 2000]), Err(DecodeError::Stranger));
    }
}
