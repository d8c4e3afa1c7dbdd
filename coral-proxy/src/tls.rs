//! TLS to origins: whose certificates are believed, and what it means when a handshake fails.
//!
//! Everything hangs on one `ClientConfig`, made once with ring as its provider: there is no global default in a process
//! that may run many nodes. Certificates are always verified; no option turns that off.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::{ClientConfig, Error, RootCertStore};

use crate::error::ProxyError;

/// What others are spoken to with, origins above all: the system's certificates, and those of the files that `setting`, a key of the configuration, names.
///
/// Fails with [`ProxyError::Setup`], which names the file, if one cannot be read or holds no certificate.
pub fn client_config(extra_ca: &[PathBuf], setting: &str) -> Result<ClientConfig, ProxyError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // One bad certificate of the system is no reason to do without the others.
    roots.add_parsable_certificates(found.certs);
    for path in extra_ca {
        let unusable = |reason: String| {
            let text = format!("cannot use the certificates of {} ({setting}): {reason}", path.display());
            ProxyError::Setup(text.into())
        };
        for certificate in read(path).map_err(unusable)? {
            roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
        }
    }
    if roots.is_empty() {
        tracing::warn!("the system has no root certificates: nobody will be trusted over https");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ProxyError::Setup(format!("TLS cannot be set up: {error}").into()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The certificates of one PEM file: at least one. Whatever else it holds, such as a key, is passed over.
pub(crate) fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    match found {
        Ok(found) if found.is_empty() => Err("it holds no certificate in PEM form".to_owned()),
        Ok(found) => Ok(found),
        Err(PemError::Io(error)) => Err(error.to_string()),
        Err(error) => Err(format!("it is no valid PEM: {error}")),
    }
}

/// Which of the three faults of RFC 9209 §2.3 that concern TLS an error is.
pub(crate) fn fault(error: &Error) -> ProxyError {
    let text = error.to_string().into();
    match error {
        Error::InvalidCertificate(_) | Error::NoCertificatesPresented => ProxyError::OriginCertificate(text),
        Error::AlertReceived(_) => ProxyError::OriginAlert(text),
        _ => ProxyError::OriginTls(text),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;

    fn authority() -> String {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    /// What becomes of a file that holds `content`; its name is left out of the message.
    fn loaded(content: &str) -> Result<(), String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        std::fs::write(&path, content).unwrap();
        client_config(std::slice::from_ref(&path), "[proxy.origin] extra_ca").map(drop).map_err(|error| {
            let text = error.to_string();
            assert!(text.contains(&path.display().to_string()), "{text} does not name the file");
            text.split_once("extra_ca): ").expect("the message names the option").1.to_owned()
        })
    }

    #[test]
    fn a_file_may_hold_several_certificates_and_other_things() {
        let key = KeyPair::generate().unwrap().serialize_pem();
        assert_eq!(loaded(&authority()), Ok(()));
        assert_eq!(loaded(&format!("# ours\n{}\n{key}\n{}", authority(), authority())), Ok(()));
    }

    #[test]
    fn a_file_that_adds_nothing_is_an_error_that_names_it() {
        let key = KeyPair::generate().unwrap().serialize_pem();
        for empty in ["", "hello", &key] {
            assert_eq!(loaded(empty).unwrap_err(), "it holds no certificate in PEM form");
        }
        let cut = &authority()[..200];
        assert!(loaded(cut).unwrap_err().starts_with("it is no valid PEM"));
        // The base64 of three zero bytes: PEM without a certificate in it.
        assert!(loaded("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").is_err());
        // One bad certificate is not passed over for the sake of a good one.
        assert!(loaded(&format!("{}{cut}", authority())).is_err());
        let missing = client_config(&["/nowhere/ca.pem".into()], "[proxy.origin] extra_ca").unwrap_err().to_string();
        assert!(missing.contains("/nowhere/ca.pem") && missing.contains("No such file"), "{missing}");
    }
}
