//! Whether a body is what its head says: `Repr-Digest`, else `Content-Digest` (RFC 9530), by SHA-256 or SHA-512; and the SHA-256 that
//! this node's reference tells others ([`crate::stamp`]).
//!
//! For a 200 without a range both speak of the same bytes. A field that is no dictionary, an algorithm that is not known and a
//! digest of the wrong length are passed over, as if nothing had been said.

use http::header::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, ListEntry, Parser};
use sha2::{Digest, Sha256, Sha512};

/// The digest of the whole representation, as it is sent.
pub const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
/// The digest of the content of one message.
pub const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");

/// A digest that a body shall have, and as much of it as has come.
#[derive(Debug, Clone)]
pub struct Check {
    expected: Vec<u8>,
    hasher: Hasher,
}

#[derive(Debug, Clone)]
enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Check {
    /// What the head of a response with 200 says of its body; `None` if it says nothing that is understood.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        Self::by(headers, &REPR_DIGEST).or_else(|| Self::by(headers, &CONTENT_DIGEST))
    }

    fn by(headers: &HeaderMap, name: &HeaderName) -> Option<Self> {
        let mut lines = headers.get_all(name).iter().map(http::HeaderValue::as_bytes).peekable();
        lines.peek()?;
        // RFC 9651 §4.2: the lines of a field are one, joined by commas.
        let text = lines.collect::<Vec<_>>().join(&b", "[..]);
        let digests = Parser::new(&text).parse::<Dictionary>().ok()?;
        let said = |algorithm: &str, bytes: usize| match digests.get(algorithm) {
            Some(ListEntry::Item(item)) => match &item.bare_item {
                BareItem::ByteSequence(digest) if digest.len() == bytes => Some(digest.clone()),
                _ => None,
            },
            _ => None,
        };
        let by_256 = || Some(Self { expected: said("sha-256", 32)?, hasher: Hasher::Sha256(Sha256::new()) });
        let by_512 = || Some(Self { expected: said("sha-512", 64)?, hasher: Hasher::Sha512(Sha512::new()) });
        by_256().or_else(by_512)
    }

    /// Takes in the next bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        match &mut self.hasher {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// Whether what has been taken in is the body that was meant.
    pub fn holds(self) -> bool {
        self.finish().0
    }

    /// The same, and its SHA-256 if that is what was taken.
    fn finish(self) -> (bool, Option<[u8; 32]>) {
        match self.hasher {
            Hasher::Sha256(hasher) => {
                let digest: [u8; 32] = hasher.finalize().into();
                (digest[..] == self.expected[..], Some(digest))
            }
            Hasher::Sha512(hasher) => (hasher.finalize()[..] == self.expected[..], None),
        }
    }
}

/// What is hashed of a body while it arrives: each byte once, but where its head has SHA-512 alone.
#[derive(Debug, Default)]
pub(crate) struct Hashing {
    check: Option<Check>,
    sha256: Option<Sha256>,
}

impl Hashing {
    /// Of a body that is to be held against its `check`, if there is one, and whose SHA-256 is wanted if it `is_told` to others.
    pub(crate) fn new(check: Option<Check>, is_told: bool) -> Self {
        let has_it = check.as_ref().is_some_and(|check| matches!(check.hasher, Hasher::Sha256(_)));
        Self { check, sha256: (is_told && !has_it).then(Sha256::new) }
    }

    /// Takes in the next bytes.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        if let Some(check) = &mut self.check {
            check.add(bytes);
        }
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
    }

    /// Whether it is the body that was meant, and its SHA-256 if that was taken.
    pub(crate) fn finish(self) -> (bool, Option<[u8; 32]>) {
        let (holds, digest) = self.check.map_or((true, None), Check::finish);
        (holds, self.sha256.map(|sha256| sha256.finalize().into()).or(digest))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::headers::of_lines;

    const SHA_256: &str = "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:";
    const SHA_512: &str =
        "sha-512=:m3HSJL1i83hdltRq0+o9czGb+8KJDKra4t/3JRlnPKcjI8PZm6XBHXx6zG4UuMXaDEZjR1wuXDre9G9zvN7AQw==:";

    /// Whether `body` is what these lines say; `None` if they say nothing.
    fn holds(lines: &[&str], body: &str) -> Option<bool> {
        let mut check = Check::of(&of_lines(lines))?;
        body.as_bytes().chunks(2).for_each(|chunk| check.add(chunk));
        Some(check.holds())
    }

    #[test]
    fn a_body_has_its_digest_and_no_other_has() {
        for field in ["repr-digest", "content-digest"] {
            for digest in [SHA_256, SHA_512] {
                let line = format!("{field}: unknown=:AAA=:, {digest};a=1, md5=:AAA=:");
                assert_eq!((holds(&[&line], "hello"), holds(&[&line], "hellO")), (Some(true), Some(false)), "{line}");
            }
        }
        let other = "content-digest: sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:";
        assert_eq!(holds(&[other, &format!("repr-digest: {SHA_256}")], "hello"), Some(true), "the whole's counts");
        assert_eq!(holds(&[other], "hello"), Some(false));
        assert_eq!(holds(&["repr-digest: md5=:AAA=:", &format!("repr-digest: {SHA_512}")], "hello"), Some(true));
    }

    #[test]
    fn the_digest_that_others_are_told_is_the_bodys_whatever_its_head_says() {
        for (lines, is_told, expected) in [
            (&[][..], true, (true, true)),
            (&[], false, (true, false)),
            (&[SHA_256], true, (true, true)),
            (&[SHA_512], true, (true, true)),
            (&[SHA_512], false, (true, false)),
            (&["sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:"], true, (false, true)),
        ] {
            let lines: Vec<String> = lines.iter().map(|line| format!("repr-digest: {line}")).collect();
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let mut hashing = Hashing::new(Check::of(&of_lines(&lines)), is_told);
            "hello".as_bytes().chunks(2).for_each(|chunk| hashing.add(chunk));
            let (holds, digest) = hashing.finish();
            assert_eq!((holds, digest.is_some()), expected, "{lines:?}");
            assert!(digest.is_none_or(|digest| digest[..] == Sha256::digest("hello")[..]), "{lines:?}");
        }
    }

    #[test]
    fn what_is_not_understood_says_nothing() {
        for line in [
            "repr-digest: md5=:AAA=:",
            "repr-digest: sha-256=:AAA=:",
            "repr-digest: sha-256=\"LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=\"",
            "repr-digest: sha-256=LPJNul",
            "repr-digest: sha-256",
            "digest: sha-256=LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=",
        ] {
            assert_eq!(holds(&[line], "hello"), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_field_is_read(value in "[ -~]{0,120}") {
            Check::of(&of_lines(&[&format!("repr-digest: {value}")]));
        }
    }
}
