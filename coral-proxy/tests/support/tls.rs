//! A certificate authority of the test's own, and the certificates it signs.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tempfile::NamedTempFile;
use tokio_rustls::TlsAcceptor;

/// An authority that nobody knows but those who read its file.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    file: NamedTempFile,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let file = pem_file(&issuer.pem());
        Self { issuer, file }
    }

    /// The file to trust it by; it lives as long as the authority.
    pub fn file(&self) -> &Path {
        self.file.path()
    }

    /// What shows a certificate for `name`, which may be an address.
    pub fn vouch_for(&self, name: &str) -> TlsAcceptor {
        TlsAcceptor::from(Arc::new(self.server(name)))
    }

    /// The same, but speaking only `protocol` (RFC 7301).
    pub fn vouch_for_only(&self, name: &str, protocol: &str) -> TlsAcceptor {
        let mut config = self.server(name);
        config.alpn_protocols = vec![protocol.into()];
        TlsAcceptor::from(Arc::new(config))
    }

    /// A certificate for `names`, and its key, as files.
    pub fn files_for(&self, names: &[&str]) -> (NamedTempFile, NamedTempFile) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        (pem_file(&certificate.pem()), pem_file(&key.serialize_pem()))
    }

    /// Who trusts this authority alone, and speaks `protocol`.
    pub fn client(&self, protocol: &str) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.into()];
        Arc::new(config)
    }

    fn server(&self, name: &str) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        server(certificate.der().clone(), &key)
    }
}

/// What shows a certificate for `name` that nobody signed but its owner, and the file to trust it by.
pub fn self_signed(name: &str) -> (TlsAcceptor, NamedTempFile) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(server(certificate.der().clone(), &key)));
    (acceptor, pem_file(&certificate.pem()))
}

fn server(certificate: CertificateDer<'static>, key: &KeyPair) -> ServerConfig {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap()
}

fn pem_file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}
