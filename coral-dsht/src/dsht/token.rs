//! Tokens: proof that a datagram's sender receives what is sent to its address, as anybody can write any address on a
//! datagram (design.md §2.8).
//!
//! A token is the time at which it was made and a keyed hash of that and the address; so the node that gives it remembers
//! nothing, and learns a round-trip time when it comes back. Whoever shows it has it from this node, at that address.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::message::{TOKEN_BYTES, Token};
use crate::time::Instant;

/// How long a token is good for.
pub(crate) const TOKEN_LIFE: Duration = Duration::from_secs(60);

/// Makes tokens and knows them again. Each node has its own secret, and a new one with each start.
pub(crate) struct Mint {
    secret: [u8; 16],
}

impl Mint {
    /// `secret` must be known to nobody else.
    pub(crate) fn new(secret: [u8; 16]) -> Self {
        Self { secret }
    }

    /// A token for whoever is at `addr`.
    pub(crate) fn issue(&self, now: Instant, addr: SocketAddr) -> Token {
        let time = now.as_micros().to_be_bytes();
        let mut bytes = [0; TOKEN_BYTES];
        let (front, back) = bytes.split_at_mut(TIME_BYTES);
        front.copy_from_slice(&time[time.len() - TIME_BYTES..]);
        back.copy_from_slice(&self.hash(front, addr)[..TOKEN_BYTES - TIME_BYTES]);
        Token::from_bytes(bytes)
    }

    /// How long ago this node gave `token` to `addr`; `None` if it did not, or too long ago.
    pub(crate) fn age(&self, now: Instant, addr: SocketAddr, token: &Token) -> Option<Duration> {
        let (front, back) = token.as_bytes().split_at(TIME_BYTES);
        let expected = self.hash(front, addr);
        // All bytes are compared, however many are right: the time that it takes must not tell.
        let differences = back.iter().zip(expected).fold(0, |found, (a, b)| found | (a ^ b));
        if differences != 0 {
            return None;
        }
        let micros = front.iter().fold(0, |micros, byte| micros << 8 | u64::from(*byte));
        let age = now.saturating_since(Instant::START + Duration::from_micros(micros));
        (age < TOKEN_LIFE).then_some(age)
    }

    /// The whole input has always the same length and fits one block, so that a plain keyed hash does.
    fn hash(&self, time: &[u8], addr: SocketAddr) -> [u8; 32] {
        let ip = match addr.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let hash = Sha256::new().chain_update(self.secret).chain_update(time);
        hash.chain_update(ip.octets()).chain_update(addr.port().to_be_bytes()).finalize().into()
    }
}

/// Never the secret.
impl std::fmt::Debug for Mint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mint")
    }
}

/// Microseconds for nine years.
const TIME_BYTES: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::START + Duration::from_millis(millis)
    }

    #[test]
    fn a_token_proves_one_address_for_a_minute_and_tells_the_round_trip() {
        let (mint, other) = (Mint::new([1; 16]), Mint::new([2; 16]));
        let addr: SocketAddr = ([192, 0, 2, 1], 4000).into();
        let token = mint.issue(at(5), addr);
        assert_eq!(mint.age(at(85), addr, &token), Some(Duration::from_millis(80)));
        assert_eq!(mint.age(at(60_004), addr, &token), Some(Duration::from_millis(59_999)));
        assert_eq!(mint.age(at(60_005), addr, &token), None);
        assert_eq!(mint.age(at(85), ([192, 0, 2, 1], 4001).into(), &token), None);
        assert_eq!(mint.age(at(85), ([192, 0, 2, 2], 4000).into(), &token), None);
        assert_eq!(other.age(at(85), addr, &token), None);
        for byte in 0..TOKEN_BYTES {
            let mut forged = *token.as_bytes();
            forged[byte] ^= 1;
            assert_eq!(mint.age(at(85), addr, &Token::from_bytes(forged)), None, "byte {byte}");
        }
    }
}
