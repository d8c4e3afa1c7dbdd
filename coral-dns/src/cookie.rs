//! DNS cookies (RFC 7873): a proof that an asker has the address it writes, without any state, in the form that all
//! servers of one name can check who share the secret (RFC 9018).

use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher24;

/// Bytes of the client's part.
pub const CLIENT_BYTES: usize = 8;
/// Bytes of ours: version, three reserved, time, hash (RFC 9018 §4).
pub const SERVER_BYTES: usize = 16;

/// How old a cookie may be, in seconds (RFC 9018 §4.3).
const MAX_AGE: u32 = 3_600;
/// From which age on it is replaced.
const RENEW_AGE: u32 = 1_800;
/// How far a clock of a fellow server may be ahead.
const MAX_AHEAD: u32 = 300;

/// The server's secret.
#[derive(Clone)]
pub struct Secret([u8; 16]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// What the cookie of a query is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is none: the query is malformed (RFC 7873 §5.2.2).
    Malformed,
    /// The client has no part of ours yet, or one that is not valid any more: it proves nothing.
    Unproven,
    /// The client has the address that it writes. The flag says that its cookie is so old that it gets a new one.
    Proven {
        /// Whether a new one is due.
        renew: bool,
    },
}

impl Secret {
    /// One made of random bytes.
    pub fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Judges the option's bytes, in a query from `client` at `now`, in seconds since 1970 modulo 2^32.
    pub fn judge(&self, cookie: &[u8], client: IpAddr, now: u32) -> Verdict {
        let Some((own, server)) = cookie.split_first_chunk::<CLIENT_BYTES>() else {
            return Verdict::Malformed;
        };
        let server: &[u8; SERVER_BYTES] = match server.len() {
            0 => return Verdict::Unproven,
            8..=32 => match server.try_into() {
                Ok(server) => server,
                // Of another length, so not of ours.
                Err(_) => return Verdict::Unproven,
            },
            _ => return Verdict::Malformed,
        };
        let made = u32::from_be_bytes([server[4], server[5], server[6], server[7]]);
        // RFC 9018 §4.3: serial number arithmetic.
        let age = now.wrapping_sub(made);
        let is_ahead = age.wrapping_neg() <= MAX_AHEAD && age != 0;
        if server[0] != 1
            || (age > MAX_AGE && !is_ahead)
            || self.make(own, server[1..4].try_into().unwrap_or([0; 3]), made, client) != *server
        {
            return Verdict::Unproven;
        }
        Verdict::Proven { renew: !is_ahead && age > RENEW_AGE }
    }

    /// Our part, for a client that wrote `own` as its part.
    pub fn server(&self, own: &[u8; CLIENT_BYTES], client: IpAddr, now: u32) -> [u8; SERVER_BYTES] {
        self.make(own, [0; 3], now, client)
    }

    fn make(&self, own: &[u8; CLIENT_BYTES], reserved: [u8; 3], time: u32, client: IpAddr) -> [u8; SERVER_BYTES] {
        let mut cookie = [0; SERVER_BYTES];
        cookie[0] = 1;
        cookie[1..4].copy_from_slice(&reserved);
        cookie[4..8].copy_from_slice(&time.to_be_bytes());
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(own);
        hasher.write(&cookie[..8]);
        match client {
            IpAddr::V4(ip) => hasher.write(&ip.octets()),
            IpAddr::V6(ip) => hasher.write(&ip.octets()),
        }
        cookie[8..].copy_from_slice(&hasher.finish().to_le_bytes());
        cookie
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        std::array::from_fn(|at| u8::from_str_radix(std::str::from_utf8(&digits[2 * at..][..2]).unwrap(), 16).unwrap())
    }

    /// RFC 9018 appendix A.1 to A.3, and A.4 for IPv6.
    #[test]
    fn cookies_are_those_of_the_standard() {
        let secret = Secret::new(bytes("e5e973e5a6b2a43f48e7dc849e37bfcf"));
        let own = bytes("2464c4abcf10c957");
        let ip = "198.51.100.100".parse().unwrap();
        assert_eq!(secret.server(&own, ip, 1_559_731_985), bytes("010000005cf79f111f8130c3eee29480"));
        let whole: [u8; 24] = bytes("2464c4abcf10c957010000005cf79f111f8130c3eee29480");
        assert_eq!(secret.judge(&whole, ip, 1_559_731_985), Verdict::Proven { renew: false });
        assert_eq!(secret.judge(&whole, ip, 1_559_734_385), Verdict::Proven { renew: true });

        let ip = "203.0.113.203".parse().unwrap();
        // A.3: reserved bits that somebody else's server has set are part of what is hashed.
        let whole: [u8; 24] = bytes("fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5");
        assert_eq!(secret.judge(&whole, ip, 1_559_727_985), Verdict::Proven { renew: false });

        let secret = Secret::new(bytes("dd3bdf9344b678b185a6f5cb60fca715"));
        let ip = "2001:db8:220:1:59de:d0f4:8769:82b8".parse().unwrap();
        assert_eq!(
            secret.server(&bytes("22681ab97d52c298"), ip, 1_559_741_817),
            bytes("010000005cf7c57926556bd0934c72f8")
        );
    }

    #[test]
    fn a_cookie_of_another_time_or_client_or_length_proves_nothing() {
        let (secret, own, ip) = (Secret::new([7; 16]), [1; 8], "192.0.2.1".parse().unwrap());
        let whole = [&own[..], &secret.server(&own, ip, 10_000)].concat();
        let at = |now| secret.judge(&whole, ip, now);
        assert_eq!(
            [at(13_600), at(13_601), at(9_700), at(9_699)].map(|v| v != Verdict::Unproven),
            [true, false, true, false]
        );
        assert_eq!(secret.judge(&whole, "192.0.2.2".parse().unwrap(), 10_000), Verdict::Unproven);
        assert_eq!(secret.judge(&own, ip, 10_000), Verdict::Unproven);
        assert_eq!(secret.judge(&[0; 40], ip, 10_000), Verdict::Unproven);
        for bad in [0, 7, 9, 15, 41] {
            assert_eq!(secret.judge(&vec![0; bad], ip, 10_000), Verdict::Malformed, "{bad}");
        }
    }
}
