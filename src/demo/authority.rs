//! The demo's own certificate authorities: one for its hosts, one for devices.
//!
//! Made anew at every start and valid for a week, so that a forgotten folder is worth nothing.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::DemoError;
use crate::domain::clock::Timestamp;

/// Every host name of the demo.
pub const HOSTS: [&str; 5] =
    ["portal.localhost", "ics.localhost", "legacy.localhost", "gate.localhost", "login.localhost"];

/// The one device that is registered: its common name and id.
pub const DEVICE: &str = "demo-laptop";

/// The certificates and keys of the demo, in memory and as files.
#[derive(Debug)]
pub struct Authority {
    pub ca_file: PathBuf,
    pub ca: CertificateDer<'static>,
    pub certificate_file: PathBuf,
    pub key_file: PathBuf,
    pub device_ca_file: PathBuf,
    pub device_certificate_file: PathBuf,
    pub device_key_file: PathBuf,
    server: Leaf,
}

/// A certificate with its key.
#[derive(Debug)]
struct Leaf {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Leaf {
    fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }
}

impl Authority {
    /// Makes everything and writes it below `folder`, keys readable by the owner only.
    pub fn create(folder: &Path, now: Timestamp) -> Result<Self, DemoError> {
        let names: Vec<String> = HOSTS.iter().map(|&host| host.to_owned()).collect();
        let (ca, issuer) = root("Wicketgate demo CA", now)?;
        let (server, server_key) =
            leaf(names, "portal.localhost", ExtendedKeyUsagePurpose::ServerAuth, &issuer, now)?;
        let (device_ca, device_issuer) = root("Wicketgate demo device CA", now)?;
        let (device, device_key) =
            leaf(Vec::new(), DEVICE, ExtendedKeyUsagePurpose::ClientAuth, &device_issuer, now)?;
        let file = |name: &str, text: String| -> Result<PathBuf, DemoError> {
            let path = folder.join(name);
            write_private(&path, text.as_bytes())?;
            Ok(path)
        };
        Ok(Self {
            ca_file: file("ca.pem", ca.pem())?,
            certificate_file: file("server.pem", server.pem())?,
            key_file: file("server.key", server_key.serialize_pem())?,
            device_ca_file: file("device-ca.pem", device_ca.pem())?,
            device_certificate_file: file("device.pem", device.pem())?,
            device_key_file: file("device.key", device_key.serialize_pem())?,
            ca: ca.der().clone(),
            server: Leaf { certificate: server.der().clone(), key: server_key.serialize_der() },
        })
    }

    /// For the demo's own TLS servers.
    pub fn server_config(&self) -> Result<Arc<rustls::ServerConfig>, DemoError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![self.server.certificate.clone()], self.server.key())?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// For clients that trust the demo CA and nothing else.
    pub fn client_config(&self) -> Result<Arc<rustls::ClientConfig>, DemoError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.clone())?;
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

type Root = (rcgen::Certificate, Issuer<'static, KeyPair>);

fn root(name: &str, now: Timestamp) -> Result<Root, DemoError> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params, now);
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok((certificate, Issuer::new(params, key)))
}

fn leaf(
    names: Vec<String>,
    common_name: &str,
    usage: ExtendedKeyUsagePurpose,
    issuer: &Issuer<'static, KeyPair>,
    now: Timestamp,
) -> Result<(rcgen::Certificate, KeyPair), DemoError> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    validity(&mut params, now);
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    Ok((certificate, key))
}

fn validity(params: &mut CertificateParams, now: Timestamp) {
    if let Ok(now) = time::OffsetDateTime::from_unix_timestamp(now.as_seconds()) {
        params.not_before = now - time::Duration::hours(1);
        params.not_after = now + time::Duration::days(7);
    }
}

/// Creates a file that only its owner can read.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), DemoError> {
    let failed = |source| DemoError::Write { path: path.to_owned(), source };
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(path).map_err(failed)?;
    file.write_all(bytes).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::domain::clock::Clock;

    #[test]
    fn every_file_of_the_authority_is_readable_by_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        Authority::create(folder.path(), Clock::System.now()).unwrap();
        let mut files = 0;
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let mode = entry.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            files += 1;
        }
        assert_eq!(files, 6);
    }

    #[test]
    fn the_demo_trusts_its_own_servers() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(folder.path(), Clock::System.now()).unwrap();
        let name = "legacy.localhost".try_into().unwrap();
        let mut client =
            rustls::ClientConnection::new(authority.client_config().unwrap(), name).unwrap();
        let mut server = rustls::ServerConnection::new(authority.server_config().unwrap()).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets().unwrap();
            let mut wire = Vec::new();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets().unwrap();
        }
    }
}
