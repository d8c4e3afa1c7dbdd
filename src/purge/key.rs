//! Keys of operators: an Ed25519 pair in a file, which signs orders, and its public part, by which nodes know the operator.
//!
//! Files are PKCS#8 in PEM, as `coral purge-key` and `openssl genpkey -algorithm ed25519` write them.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context as _, anyhow, bail};
use coral_dns::dnssec::key::{self, KeyError};
use data_encoding::BASE64;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

/// Bytes of a public key.
pub const PUBLIC_BYTES: usize = 32;

/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;

/// The public key of an operator: in Base64 as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Operator([u8; PUBLIC_BYTES]);

impl Operator {
    /// The one with these bytes.
    pub const fn from_bytes(bytes: [u8; PUBLIC_BYTES]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; PUBLIC_BYTES] {
        &self.0
    }

    /// Whether it has signed `message` so.
    pub fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).is_ok()
    }

    /// Its beginning, for the log.
    pub fn short(&self) -> String {
        self.to_string().chars().take(8).collect()
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(&self.0))
    }
}

impl FromStr for Operator {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let bytes = BASE64.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        Ok(Self(bytes.with_context(|| format!("`{text}` is no public key, as `coral purge-key FILE` prints it"))?))
    }
}

impl TryFrom<String> for Operator {
    type Error = anyhow::Error;

    fn try_from(text: String) -> anyhow::Result<Self> {
        text.parse()
    }
}

impl From<Operator> for String {
    fn from(operator: Operator) -> Self {
        operator.to_string()
    }
}

/// An operator's own key. What `Debug` prints of it is public.
#[derive(Debug)]
pub struct Key(Ed25519KeyPair);

impl Key {
    /// Reads the file at `path`. Says so in the log if others can read it, too.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let read = || match key::read_pkcs8(path) {
            Ok(document) => Self::from_pkcs8(&document),
            // Its own advice is about keys for names.
            Err(KeyError::Missing) => bail!("there is no such file: `coral purge-key FILE` makes one"),
            Err(KeyError::NotPkcs8) => bail!("there is no private key in PEM in it: `coral purge-key FILE` makes one"),
            Err(error) => Err(error.into()),
        };
        read().with_context(|| format!("cannot use the key {}", path.display()))
    }

    /// Makes a key, and the file at `path` for it, which must not exist and which only its owner may read.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let make = || {
            let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
            let document = document.map_err(|_| KeyError::NoEntropy)?;
            key::create_pkcs8(path, document.as_ref())?;
            Self::from_pkcs8(document.as_ref())
        };
        make().with_context(|| format!("cannot make the key {}", path.display()))
    }

    fn from_pkcs8(document: &[u8]) -> anyhow::Result<Self> {
        // `openssl` leaves the public part out, from which this one follows.
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(document);
        Ok(Self(pair.map_err(|_| anyhow!("it is no Ed25519 key: `coral purge-key FILE` makes one"))?))
    }

    /// The one that follows from a seed, for examples.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are a seed"))
    }

    /// Its public part.
    pub fn operator(&self) -> Operator {
        Operator(self.0.public_key().as_ref().try_into().expect("a public key of Ed25519 has 32 bytes"))
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.0.sign(message).as_ref().try_into().expect("a signature of Ed25519 has 64 bytes")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// `openssl genpkey -algorithm ed25519`, version 3.0.
    const OPENSSL: &str = "\
-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEILfmCWoFldur8aCPf0iJGoj2qPYQqEuWZnPzHrzKl+cF
-----END PRIVATE KEY-----
";

    #[test]
    fn a_key_is_made_once_for_its_owner_alone_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let made = Key::create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Key::read(&path).unwrap().operator(), made.operator());
        assert!(Key::create(&path).is_err());
        assert_eq!(Key::read(&path).unwrap().operator(), made.operator());
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Key::read(&path)
        };
        assert!(read(OPENSSL).is_ok());
        for text in ["", "-----BEGIN PRIVATE KEY-----\n!!\n-----END PRIVATE KEY-----", &OPENSSL.replace("MC4", "MC5")] {
            let error = format!("{:#}", read(text).unwrap_err());
            assert!(error.lines().count() == 1 && !error.contains("dnssec-key"), "{text}: {error}");
        }
    }

    #[test]
    fn who_has_signed_is_told_by_the_public_key_alone() {
        let [one, other] = [[1; 32], [2; 32]].map(|seed| Key::from_seed(&seed));
        let signature = one.sign(b"message");
        assert!(one.operator().has_signed(b"message", &signature));
        assert!(!other.operator().has_signed(b"message", &signature));
        assert!(!one.operator().has_signed(b"massage", &signature));
        assert!(!one.operator().has_signed(b"message", &signature[..63]));
        let text = one.operator().to_string();
        assert_eq!(text.parse::<Operator>().unwrap(), one.operator());
        for bad in ["", "AAAA", &text[1..], &format!("{text}A")] {
            assert!(bad.parse::<Operator>().is_err(), "{bad}");
        }
    }
}
