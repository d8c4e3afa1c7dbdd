//! TLS towards clients: certificates from files, which are read again when they change.
//!
//! Which one a client is shown is decided by the name that it asks for (SNI); the first is for those who ask for none, or for another.
//! Who renews certificates replaces files and tells nobody, so handshakes look at their times, now and then; what cannot be used
//! leaves the ones before in place.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, crypto::ring};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use webpki::{EndEntityCert, KeyUsage};

use crate::error::ProxyError;
use crate::tls::read;

/// How often, at most, handshakes look whether a file has changed.
const LOOK: Duration = Duration::from_secs(10);

/// A certificate by its files, both PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// The certificate, and those between it and its authority.
    pub chain: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// What a certificate's files hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// Why the certificate is not valid now, if it is a matter of time.
    pub out_of_time: Option<String>,
    /// The names asked about that it is not for.
    pub other_names: Vec<String>,
}

impl CertificateFiles {
    /// Reads the files as a proxy would; an error names the one at fault.
    pub fn examine(&self, names: &[String]) -> Result<Examined, ProxyError> {
        let known = read_files(self, &ring::default_provider())?;
        let is_other = |name: &&String| !ServerName::try_from(name.as_str()).is_ok_and(|name| known.is_for(&name));
        Ok(Examined {
            out_of_time: known.key.end_entity_cert().ok().and_then(out_of_time),
            other_names: names.iter().filter(is_other).cloned().collect(),
        })
    }

    /// What a TLS server goes by that shows these certificates, as a proxy does; an error names the file at fault.
    pub fn server(files: &[Self]) -> Result<Arc<ServerConfig>, ProxyError> {
        Ok(Certificates::new(files)?.config())
    }
}

/// The certificates of a proxy. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Certificates {
    shared: Arc<Shared>,
    config: Arc<ServerConfig>,
}

#[derive(Debug)]
struct Shared {
    provider: Arc<CryptoProvider>,
    begun: Instant,
    /// When a handshake last looked, in milliseconds since `begun`.
    looked: AtomicU64,
    known: ArcSwap<Vec<Known>>,
    files: Mutex<Vec<CertificateFiles>>,
}

/// A certificate that was read.
#[derive(Debug)]
struct Known {
    files: CertificateFiles,
    /// When the files were changed, as they were read.
    changed: [Option<SystemTime>; 2],
    key: Arc<CertifiedKey>,
}

impl Certificates {
    /// Those of `files`.
    ///
    /// Fails with [`ProxyError::Setup`], which names the file, if one cannot be read or a key is not that of its certificate. One whose time is
    /// over, or has not come, is used and told of in the log: a node that does not start helps nobody.
    pub(crate) fn new(files: &[CertificateFiles]) -> Result<Self, ProxyError> {
        let provider = Arc::new(ring::default_provider());
        let shared = Arc::new(Shared {
            provider: Arc::clone(&provider),
            begun: Instant::now(),
            looked: AtomicU64::new(0),
            known: ArcSwap::default(),
            files: Mutex::default(),
        });
        shared.take(files)?;
        let setup = |error: rustls::Error| ProxyError::Setup(format!("TLS cannot be set up: {error}").into());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(setup)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::<Shared>::clone(&shared));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // A client that comes back spares both sides the signature, on whichever thread it is served.
        config.ticketer = ring::Ticketer::new().map_err(setup)?;
        Ok(Self { shared, config: Arc::new(config) })
    }

    /// What a handshake goes by. Looks after the files if it has not been done for a while.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        let shared = &self.shared;
        let now = shared.begun.elapsed();
        let looked = shared.looked.load(Ordering::Relaxed);
        let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let is_due = now.saturating_sub(Duration::from_millis(looked)) >= LOOK;
        let mine = || shared.looked.compare_exchange(looked, millis, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_due && mine() {
            let shared = Arc::clone(shared);
            // This handshake does not wait for it.
            tokio::task::spawn_blocking(move || shared.look());
        }
        Arc::clone(&self.config)
    }

    /// From now on those of `files`, read now; an error leaves all as it was.
    pub(crate) fn set(&self, files: &[CertificateFiles]) -> Result<(), ProxyError> {
        self.shared.take(files)
    }
}

impl Shared {
    fn take(&self, files: &[CertificateFiles]) -> Result<(), ProxyError> {
        let mut named = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if files.is_empty() {
            return Err(ProxyError::Setup("TLS needs a certificate: [[proxy.certificates]] names its files".into()));
        }
        let known = files.iter().map(|files| read_files(files, &self.provider)).collect::<Result<Vec<_>, _>>()?;
        for known in &known {
            if let Some(wrong) = known.key.end_entity_cert().ok().and_then(out_of_time) {
                tracing::warn!("{}: {wrong}; browsers will refuse it", known.files.chain.display());
            }
        }
        self.known.store(Arc::new(known));
        *named = files.to_vec();
        Ok(())
    }

    /// Reads the files again if one has changed.
    fn look(&self) {
        let changed = self.known.load().iter().any(|known| changes(&known.files) != known.changed);
        if !changed {
            return;
        }
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match self.take(&files) {
            Ok(()) => tracing::info!("the certificates have been read again"),
            // Half of the files may be there; the next look is soon.
            Err(error) => tracing::warn!("the certificates stay as they were: {error}"),
        }
    }
}

impl Known {
    fn is_for(&self, name: &ServerName<'_>) -> bool {
        let certificate = self.key.end_entity_cert().ok().and_then(|der| EndEntityCert::try_from(der).ok());
        certificate.is_some_and(|certificate| certificate.verify_is_valid_for_subject_name(name).is_ok())
    }
}

fn read_files(files: &CertificateFiles, provider: &CryptoProvider) -> Result<Known, ProxyError> {
    let unusable = |path: &PathBuf, reason: String| {
        let text = format!("cannot use {} ([[proxy.certificates]]): {reason}", path.display());
        ProxyError::Setup(text.into())
    };
    let changed = changes(files);
    let chain = read(&files.chain).map_err(|reason| unusable(&files.chain, reason))?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| unusable(&files.key, format!("it holds no private key in PEM form: {error}")))?;
    let key = CertifiedKey::from_der(chain, key, provider)
        .map_err(|error| unusable(&files.key, format!("it does not go with {}: {error}", files.chain.display())))?;
    Ok(Known { files: files.clone(), changed, key: Arc::new(key) })
}

impl ResolvesServerCert for Shared {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let known = self.known.load();
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let found = name.and_then(|name| known.iter().find(|known| known.is_for(&name)));
        found.or(known.first()).map(|known| Arc::clone(&known.key))
    }
}

fn changes(files: &CertificateFiles) -> [Option<SystemTime>; 2] {
    [&files.chain, &files.key].map(|path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok())
}

/// Why a certificate is not valid now, if it is a matter of time.
fn out_of_time(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    // Without any authority it cannot pass; but time is looked at before authorities are.
    let verified = certificate.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &[],
        &[],
        UnixTime::now(),
        KeyUsage::server_auth(),
        None,
        None,
    );
    match verified.err()? {
        webpki::Error::CertExpired { not_after, .. } => {
            let ended = SystemTime::UNIX_EPOCH + Duration::from_secs(not_after.as_secs());
            Some(format!("the certificate has expired ({})", httpdate::fmt_http_date(ended)))
        }
        webpki::Error::CertNotValidYet { .. } => Some("the certificate is not valid yet".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    /// A certificate and its key in PEM, valid for these years.
    fn made(years: std::ops::Range<i32>) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["a.example".to_owned()]).unwrap();
        params.not_before = date_time_ymd(years.start, 1, 1);
        params.not_after = date_time_ymd(years.end, 1, 1);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn written(directory: &std::path::Path, (chain, key): &(String, String)) -> CertificateFiles {
        let files = CertificateFiles { chain: directory.join("chain.pem"), key: directory.join("key.pem") };
        fs::write(&files.chain, chain).unwrap();
        fs::write(&files.key, key).unwrap();
        files
    }

    #[test]
    fn a_certificate_out_of_its_time_is_told_as_such() {
        let said = |years| {
            let chain = CertificateDer::from_pem_slice(made(years).0.as_bytes()).unwrap();
            out_of_time(&chain)
        };
        assert_eq!(said(2020..4000), None);
        assert_eq!(said(2020..2021).unwrap(), "the certificate has expired (Fri, 01 Jan 2021 00:00:00 GMT)");
        assert_eq!(said(3000..4000).unwrap(), "the certificate is not valid yet");
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_and_one_that_changes_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let [first, second] = [made(2020..4000), made(2020..4000)];
        for (content, at_fault, why) in [
            ((String::new(), first.1.clone()), "chain.pem", "no certificate"),
            ((first.0.clone(), String::new()), "key.pem", "no private key"),
            ((first.0.clone(), second.1.clone()), "key.pem", "does not go with"),
        ] {
            let error = Certificates::new(&[written(directory.path(), &content)]).unwrap_err().to_string();
            assert!(error.contains(at_fault) && error.contains(why), "{error}");
        }
        let certificates = Certificates::new(&[written(directory.path(), &first)]).unwrap();
        let shared = &certificates.shared;
        let shown = || shared.known.load()[0].key.cert[0].clone();
        let before = shown();
        shared.look();
        assert_eq!(shown(), before);
        // The chain has come and the key has not: what was there stays.
        let files = written(directory.path(), &(second.0.clone(), first.1));
        shared.look();
        assert_eq!(shown(), before);
        fs::write(&files.key, &second.1).unwrap();
        shared.look();
        assert_ne!(shown(), before);
    }
}
