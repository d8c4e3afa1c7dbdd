//! A signing key: the file that it comes from, what is published of it, and what it signs.
//!
//! Files are PKCS#8 in PEM, as `openssl genpkey` and `coral dnssec-key` write them. The key signs zone data and keys alike
//! (RFC 4034 §2.1.1: flags 257), so one file is all that a node needs.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use data_encoding::{BASE64, HEXUPPER};
use ring::digest;
use ring::pkcs8::Document;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};

use crate::name::Suffix;

/// Bytes of a signature: both algorithms have the same.
pub const SIGNATURE_BYTES: usize = 64;

/// No key file is longer.
const MAX_FILE_BYTES: u64 = 1 << 16;

const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";

/// How a key signs: those that RFC 8624 §3.1 recommends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA on the curve P-256 with SHA-256 (RFC 6605): every validator knows it.
    EcdsaP256 = 13,
    /// Ed25519 (RFC 8080): nearly every validator does.
    Ed25519 = 15,
}

/// Why there is no key to be had from a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// There is no such file.
    #[error("there is no such file: `coral dnssec-key FILE` makes one")]
    Missing,
    /// The file could not be read or written.
    #[error(transparent)]
    Io(std::io::Error),
    /// It is no PEM, or holds something else.
    #[error(
        "there is no `{BEGIN}` in it: `coral dnssec-key FILE` makes a key, `openssl pkcs8 -topk8 -nocrypt` converts one"
    )]
    NotPkcs8,
    /// What is between the lines of the PEM is broken.
    #[error("its Base64 is broken")]
    Base64,
    /// A key that is broken, or for another algorithm.
    #[error("it is no key of ECDSA P-256 or Ed25519 with its public part: `coral dnssec-key FILE` makes one")]
    Unknown,
    /// The operating system gave no randomness.
    #[error("no randomness from the operating system")]
    NoEntropy,
}

impl From<std::io::Error> for KeyError {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::NotFound { Self::Missing } else { Self::Io(error) }
    }
}

/// A key pair. What is printed of it by `Debug` is public.
#[derive(Debug)]
pub struct Key {
    pair: Pair,
    algorithm: Algorithm,
    dnskey: Box<[u8]>,
    tag: u16,
}

#[derive(Debug)]
enum Pair {
    Ecdsa(EcdsaKeyPair, SystemRandom),
    Ed25519(Ed25519KeyPair),
}

impl Key {
    /// Reads the file at `path`. Says so in the log if others can read it, too.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        Self::from_pkcs8(&read_pkcs8(path)?)
    }

    /// Makes a key, and the file at `path` for it, which must not exist and which only its owner may read.
    pub fn create(path: &Path, algorithm: Algorithm) -> Result<Self, KeyError> {
        let document = Self::generate(algorithm)?;
        let key = Self::from_pkcs8(document.as_ref())?;
        create_pkcs8(path, document.as_ref())?;
        Ok(key)
    }

    fn generate(algorithm: Algorithm) -> Result<Document, KeyError> {
        let random = SystemRandom::new();
        let document = match algorithm {
            Algorithm::EcdsaP256 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random),
            Algorithm::Ed25519 => Ed25519KeyPair::generate_pkcs8(&random),
        };
        document.map_err(|_| KeyError::NoEntropy)
    }

    /// The first private key of a PEM text.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        Self::from_pkcs8(&decode_pem(text)?)
    }

    fn from_pkcs8(document: &[u8]) -> Result<Self, KeyError> {
        // `openssl` leaves the public part out, from which this one follows.
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(document) {
            let public = pair.public_key().as_ref().to_vec();
            return Ok(Self::new(Pair::Ed25519(pair), Algorithm::Ed25519, &public));
        }
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document, &random);
        let pair = pair.map_err(|_| KeyError::Unknown)?;
        // RFC 6605 §4: the point without the byte that says that it is uncompressed.
        let public = pair.public_key().as_ref().get(1..).ok_or(KeyError::Unknown)?.to_vec();
        Ok(Self::new(Pair::Ecdsa(pair, random), Algorithm::EcdsaP256, &public))
    }

    fn new(pair: Pair, algorithm: Algorithm, public: &[u8]) -> Self {
        // RFC 4034 §2.1: a zone key and secure entry point, protocol 3.
        let dnskey: Box<[u8]> = [&[1, 1, 3, algorithm as u8], public].concat().into();
        let tag = key_tag(&dnskey);
        Self { pair, algorithm, dnskey, tag }
    }

    /// How it signs.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The data of its DNSKEY record.
    pub fn dnskey(&self) -> &[u8] {
        &self.dnskey
    }

    /// Its tag (RFC 4034 appendix B).
    pub fn tag(&self) -> u16 {
        self.tag
    }

    /// The data of the DS record (RFC 4034 §5.1) of a zone with this key, with SHA-256 (RFC 4509). The zone's name as it goes
    /// over the wire, in lower case.
    pub fn ds(&self, zone: &[u8]) -> Vec<u8> {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(zone);
        context.update(&self.dnskey);
        let [high, low] = self.tag.to_be_bytes();
        [&[high, low, self.algorithm as u8, 2], context.finish().as_ref()].concat()
    }

    /// The DS record of a suffix as a line of the zone file above it.
    pub fn ds_line(&self, suffix: &Suffix) -> String {
        let data = self.ds(&suffix.to_wire());
        format!("{suffix}. IN DS {} {} 2 {}", self.tag, self.algorithm as u8, HEXUPPER.encode(&data[4..]))
    }

    /// The signature of `data`.
    pub fn sign(&self, data: &[u8]) -> Result<[u8; SIGNATURE_BYTES], KeyError> {
        let signature = match &self.pair {
            Pair::Ecdsa(pair, random) => pair.sign(random, data).map_err(|_| KeyError::NoEntropy)?,
            Pair::Ed25519(pair) => pair.sign(data),
        };
        signature.as_ref().try_into().map_err(|_| KeyError::Unknown)
    }
}

/// The private key (PKCS#8) in the PEM file at `path`, whatever it is for. Says so in the log if others can read it, too.
pub fn read_pkcs8(path: &Path) -> Result<Vec<u8>, KeyError> {
    let file = File::open(path)?;
    let mode = file.metadata()?.permissions().mode();
    if mode & 0o027 != 0 {
        tracing::warn!(path = %path.display(), "a private key can be read by others (mode {:o}): chmod 600", mode & 0o777);
    }
    let mut text = String::new();
    file.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
    decode_pem(&text)
}

/// Makes the PEM file at `path` for a private key (PKCS#8). It must not exist, and only its owner may read it.
pub fn create_pkcs8(path: &Path, document: &[u8]) -> Result<(), KeyError> {
    // That a directory is missing is no reason to ask for a key.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(KeyError::Io)?;
    file.write_all(encode_pem(document).as_bytes())?;
    Ok(file.sync_all()?)
}

fn encode_pem(document: &[u8]) -> String {
    let mut pem = format!("{BEGIN}\n");
    for line in BASE64.encode(document).as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem + END + "\n"
}

fn decode_pem(text: &str) -> Result<Vec<u8>, KeyError> {
    let (_, rest) = text.split_once(BEGIN).ok_or(KeyError::NotPkcs8)?;
    let (base64, _) = rest.split_once(END).ok_or(KeyError::NotPkcs8)?;
    let base64: String = base64.split_ascii_whitespace().collect();
    BASE64.decode(base64.as_bytes()).map_err(|_| KeyError::Base64)
}

/// RFC 4034 appendix B: the sum of its pairs of bytes, the carry added back.
fn key_tag(dnskey: &[u8]) -> u16 {
    let sum = dnskey
        .chunks(2)
        .fold(0_u32, |sum, pair| sum + (u32::from(pair[0]) << 8) + pair.get(1).copied().map_or(0, u32::from));
    (sum + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `openssl genpkey -algorithm ed25519`, version 3.0.
    const OPENSSL_ED25519: &str = "\
-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEILfmCWoFldur8aCPf0iJGoj2qPYQqEuWZnPzHrzKl+cF
-----END PRIVATE KEY-----
";
    /// `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`, version 3.0.
    const OPENSSL_P256: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgJ5lFMOlkXS690+Lh
q31l50OrNARIJ0ah2NdnxSG97lihRANCAATr5C8fLK7Wa89eqxvQU1/qKrjmZ7mB
ZglfE08uiwpQSPjR+Doepq7+aG0bwX1RV+4hAgC4D0cLKQKWmshmWgX+
-----END PRIVATE KEY-----
";

    #[test]
    fn keys_that_openssl_and_this_program_make_are_read() {
        for (text, algorithm) in [
            (OPENSSL_ED25519.to_owned(), Algorithm::Ed25519),
            (OPENSSL_P256.to_owned(), Algorithm::EcdsaP256),
            (encode_pem(Key::generate(Algorithm::Ed25519).unwrap().as_ref()), Algorithm::Ed25519),
            (encode_pem(Key::generate(Algorithm::EcdsaP256).unwrap().as_ref()), Algorithm::EcdsaP256),
        ] {
            let key = Key::from_pem(&text).unwrap();
            assert_eq!(key.algorithm(), algorithm);
            assert_eq!(key.dnskey()[..4], [1, 1, 3, algorithm as u8]);
            assert_eq!(key.dnskey().len(), 4 + if algorithm == Algorithm::Ed25519 { 32 } else { 64 });
        }
    }

    #[test]
    fn the_digest_and_tag_of_rfc_8080_6_1_follow_from_its_key() {
        let seed = BASE64.decode(b"ODIyNjAzODQ2MjgwODAxMjI2NDUxOTAyMDQxNDIyNjI=").unwrap();
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        let public = pair.public_key().as_ref().to_vec();
        assert_eq!(BASE64.encode(&public), "l02Woi0iS8Aa25FQkUd9RMzZHJpBoRQwAQEX1SxZJA4=");
        let key = Key::new(Pair::Ed25519(pair), Algorithm::Ed25519, &public);
        assert_eq!(key.tag(), 3613);
        let digest = "3aa5ab37efce57f737fc1627013fee07bdf241bd10f3b1964ab55c78e79a304b";
        let ds = key.ds(b"\x07example\x03com\0");
        let line = format!("example.com. IN DS 3613 15 2 {}", digest.to_ascii_uppercase());
        assert_eq!(key.ds_line(&"example.com".parse().unwrap()), line);
        assert_eq!(
            ds,
            [&[0x0e, 0x1d, 15, 2], &data_encoding::HEXLOWER.decode(digest.as_bytes()).unwrap()[..]].concat()
        );
    }

    #[test]
    fn what_is_no_key_is_refused_with_what_to_do() {
        let p384 = "\
-----BEGIN PRIVATE KEY-----
MIG2AgEAMBAGByqGSM49AgEGBSuBBAAiBIGeMIGbAgEBBDAg9DVM3fnXVPparL+q
icnAtGYg4ZKzYx1BWOycCSpIEui1c46+5qlBsAyl9+rL7WOhZANiAATzguBfZXHm
wpSP1KCRYcIZxQszdQGWeQI9RPwpH/lLK2KidHA+j6sdNWIcqilwcw/L36tI7/Ka
Bti39F/HepLcHuSh08+0NNcGauLLUJ854v/Emnyg8RzfGmXgL2FGFN4=
-----END PRIVATE KEY-----";
        for (text, wanted) in [
            ("", "coral dnssec-key"),
            ("Private-key-format: v1.3\nAlgorithm: 15 (ED25519)\n", "openssl pkcs8"),
            ("-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----\n", "openssl pkcs8"),
            ("-----BEGIN PRIVATE KEY-----\nMC4C", "no `-----BEGIN"),
            ("-----BEGIN PRIVATE KEY-----\n!!\n-----END PRIVATE KEY-----\n", "Base64"),
            ("-----BEGIN PRIVATE KEY-----\nMC4C\n-----END PRIVATE KEY-----\n", "ECDSA P-256 or Ed25519"),
            (p384, "ECDSA P-256 or Ed25519"),
        ] {
            let error = Key::from_pem(text).unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn a_file_is_made_once_and_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let made = Key::create(&path, Algorithm::EcdsaP256).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Key::read(&path).unwrap().dnskey(), made.dnskey());
        assert!(matches!(Key::create(&path, Algorithm::Ed25519), Err(KeyError::Io(_))));
        assert_eq!(Key::read(&path).unwrap().dnskey(), made.dnskey());
    }
}
