//! Certificates and keys from PEM files, and what a certificate says of itself.
//!
//! Every problem names the file and what to do; nothing here decides whether a problem matters.

use std::fs;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::{Error as SectionError, PemObject as _};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate};

use crate::config::finding::Finding;
use crate::config::secret;
use crate::domain::canonical::Host;
use crate::domain::clock::Timestamp;

/// Largest PEM file that is read, in bytes: several times the system's whole bundle of roots.
const MAX_FILE: u64 = 4 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum PemError {
    #[error("the file can't be read: {cause}")]
    Unreadable { path: PathBuf, cause: std::io::Error },
    #[error("the file is larger than {MAX_FILE} bytes")]
    TooLarge { path: PathBuf },
    #[error("the PEM text is broken: {cause}")]
    Broken { path: PathBuf, cause: String },
    #[error("the file holds no certificate")]
    NoCertificate { path: PathBuf },
    #[error("the file holds no certificate revocation list")]
    NoList { path: PathBuf },
    #[error("list {position} of the file is not a valid certificate revocation list")]
    NotAList { path: PathBuf, position: usize },
    #[error("the file holds no private key")]
    NoKey { path: PathBuf },
    #[error("the private key is encrypted")]
    EncryptedKey { path: PathBuf },
    #[error("the file holds {count} private keys")]
    SeveralKeys { path: PathBuf, count: usize },
    #[error("the private key may be read by everyone (mode {mode:04o})")]
    WorldReadable { path: PathBuf, mode: u32 },
    #[error("certificate {position} of the file is not a valid X.509 certificate")]
    NotX509 { path: PathBuf, position: usize },
}

impl PemError {
    pub fn path(&self) -> &Path {
        match self {
            Self::Unreadable { path, .. }
            | Self::TooLarge { path }
            | Self::Broken { path, .. }
            | Self::NoCertificate { path }
            | Self::NoList { path }
            | Self::NotAList { path, .. }
            | Self::NoKey { path }
            | Self::EncryptedKey { path }
            | Self::SeveralKeys { path, .. }
            | Self::WorldReadable { path, .. }
            | Self::NotX509 { path, .. } => path,
        }
    }

    /// What to do about it, for `check` and for the log of a refused reload.
    pub fn finding(&self) -> Finding {
        let hint = match self {
            Self::Unreadable { .. } => {
                "check the path, and that the gate's user may read the file".to_owned()
            }
            Self::TooLarge { .. } => "name a file with only the certificates needed".to_owned(),
            Self::Broken { .. } => {
                "write the file again, whole, with its BEGIN and END lines".to_owned()
            }
            Self::NoCertificate { .. } => {
                "the file needs a `-----BEGIN CERTIFICATE-----` section".to_owned()
            }
            Self::NoList { path } => format!(
                "the file needs a `-----BEGIN X509 CRL-----` section; from DER: `openssl crl -inform DER -in {}`",
                path.display()
            ),
            Self::NotAList { .. } => "have the CA write it again".to_owned(),
            Self::NoKey { .. } => {
                "the file needs a `-----BEGIN PRIVATE KEY-----` section".to_owned()
            }
            Self::EncryptedKey { path } => {
                format!("decrypt it with `openssl pkey -in {}`", path.display())
            }
            Self::SeveralKeys { .. } => {
                "keep only the key that belongs to the certificate".to_owned()
            }
            Self::WorldReadable { path, .. } => format!("run `chmod o= {}`", path.display()),
            Self::NotX509 { .. } => {
                "export the certificate again from where it was issued".to_owned()
            }
        };
        Finding::error(self.path(), self.to_string()).hint(hint)
    }
}

/// All certificates of a file, in its order: a chain, end entity first, or a CA bundle.
///
/// # Errors
/// When the file can't be read, is broken, or holds none. Each certificate is known to parse.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let text = read(path)?;
    let mut found = Vec::new();
    for section in CertificateDer::pem_slice_iter(&text) {
        let certificate = section.map_err(|error| broken(path, &error))?;
        if X509Certificate::from_der(&certificate).is_err() {
            return Err(PemError::NotX509 { path: path.to_owned(), position: found.len() + 1 });
        }
        found.push(certificate);
    }
    if found.is_empty() {
        return Err(PemError::NoCertificate { path: path.to_owned() });
    }
    Ok(found)
}

/// What a certificate revocation list says (RFC 5280, section 5.1). Who signed it is for TLS to
/// verify.
#[derive(Clone, Debug)]
pub struct RevocationList {
    /// The issuer's name in DER.
    pub issuer: Box<[u8]>,
    /// Of the certificates that were taken back.
    pub serials: Vec<Box<[u8]>>,
    pub next_update: Option<Timestamp>,
}

/// All certificate revocation lists of a file.
///
/// # Errors
/// When the file can't be read, is broken, or holds none. Each list is known to parse.
pub fn revocation_lists(
    path: &Path,
) -> Result<Vec<(CertificateRevocationListDer<'static>, RevocationList)>, PemError> {
    let text = read(path)?;
    let mut found = Vec::new();
    for section in CertificateRevocationListDer::pem_slice_iter(&text) {
        let der = section.map_err(|error| broken(path, &error))?;
        let Ok((_, parsed)) = CertificateRevocationList::from_der(&der) else {
            return Err(PemError::NotAList { path: path.to_owned(), position: found.len() + 1 });
        };
        let list = RevocationList {
            issuer: parsed.issuer().as_raw().into(),
            serials: parsed
                .iter_revoked_certificates()
                .map(|revoked| revoked.raw_serial().into())
                .collect(),
            next_update: parsed.next_update().map(|due| Timestamp::from_seconds(due.timestamp())),
        };
        found.push((der, list));
    }
    if found.is_empty() {
        return Err(PemError::NoList { path: path.to_owned() });
    }
    Ok(found)
}

/// The one private key of a file (PKCS #8, PKCS #1 or SEC 1).
///
/// # Errors
/// Also when others than the owner and the group may read or write the file.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    let (text, file) = open(path)?;
    if let Some(mode) = secret::open_to_all(&file) {
        return Err(PemError::WorldReadable { path: path.to_owned(), mode });
    }
    let mut keys = PrivateKeyDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| broken(path, &error))?;
    match (keys.pop(), keys.len()) {
        (Some(key), 0) => Ok(key),
        (Some(_), others) => {
            Err(PemError::SeveralKeys { path: path.to_owned(), count: others + 1 })
        }
        (None, _) if contains(&text, b"-----BEGIN ENCRYPTED PRIVATE KEY-----") => {
            Err(PemError::EncryptedKey { path: path.to_owned() })
        }
        (None, _) => Err(PemError::NoKey { path: path.to_owned() }),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, PemError> {
    open(path).map(|(text, _)| text)
}

/// What the file holds, and what the very file that was read is like.
fn open(path: &Path) -> Result<(Vec<u8>, fs::Metadata), PemError> {
    let unreadable = |cause| PemError::Unreadable { path: path.to_owned(), cause };
    let file = fs::File::open(path).map_err(unreadable)?;
    let mut text = Vec::new();
    let metadata = file.metadata().map_err(unreadable)?;
    file.take(MAX_FILE + 1).read_to_end(&mut text).map_err(unreadable)?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(PemError::TooLarge { path: path.to_owned() });
    }
    Ok((text, metadata))
}

fn contains(text: &[u8], marker: &[u8]) -> bool {
    text.windows(marker.len()).any(|window| window == marker)
}

fn broken(path: &Path, error: &SectionError) -> PemError {
    let cause = match error {
        SectionError::MissingSectionEnd { .. } => "a section has no END line".to_owned(),
        SectionError::IllegalSectionStart { .. } => "a BEGIN line is malformed".to_owned(),
        SectionError::Base64Decode(_) => "a section is not base64".to_owned(),
        other => other.to_string(),
    };
    PemError::Broken { path: path.to_owned(), cause }
}

/// What an end-entity certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The names that it is valid for, lower case: exact names, `*.example.com`, IP addresses.
    /// From the subject alternative names only (RFC 9525, section 2.3).
    pub names: Vec<String>,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    /// The subject's distinguished name, for messages.
    pub subject: String,
    /// The same in DER, to compare.
    pub subject_der: Box<[u8]>,
}

impl CertificateFacts {
    /// Reads a certificate; `None` when it is not X.509.
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let mut names = Vec::new();
        if let Ok(Some(extension)) = parsed.subject_alternative_name() {
            for name in &extension.value.general_names {
                match name {
                    GeneralName::DNSName(name) => names.push(name.to_ascii_lowercase()),
                    GeneralName::IPAddress(bytes) => names.extend(ip_address(bytes)),
                    _ => {}
                }
            }
        }
        Some(Self {
            names,
            not_before: Timestamp::from_seconds(parsed.validity().not_before.timestamp()),
            not_after: Timestamp::from_seconds(parsed.validity().not_after.timestamp()),
            subject: parsed.subject().to_string(),
            subject_der: parsed.subject().as_raw().into(),
        })
    }

    /// Whether the certificate is valid for the host: exactly, or by a wildcard that stands for
    /// its leftmost label (RFC 9525, section 6.3).
    pub fn covers(&self, host: &Host) -> bool {
        let host = host.as_str();
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        self.names.iter().any(|name| name == bare)
            || parent(host).is_some_and(|parent| {
                self.names.iter().any(|name| name.strip_prefix("*.") == Some(parent))
            })
    }

    /// Whether it may be used at this moment.
    pub fn is_current(&self, now: Timestamp) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

/// `example.com` of `www.example.com`; nothing of an IP address.
fn parent(host: &str) -> Option<&str> {
    if host.starts_with('[') || host.parse::<IpAddr>().is_ok() {
        return None;
    }
    host.split_once('.').map(|(_, parent)| parent)
}

fn ip_address(bytes: &[u8]) -> Option<String> {
    let address = match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    };
    Some(address.to_string())
}

#[cfg(feature = "demo")]
#[cfg(test)]
pub(crate) mod testing;

#[cfg(feature = "demo")]
#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn facts(names: &[&str]) -> CertificateFacts {
        let names = names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        CertificateFacts::of(made.cert.der()).unwrap()
    }

    fn host(name: &str) -> Host {
        Host::parse(name).unwrap()
    }

    fn file(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn a_wildcard_stands_for_exactly_one_label() {
        let facts = facts(&["*.Example.com"]);
        assert!(facts.covers(&host("www.example.com")));
        for other in ["example.com", "a.b.example.com", "example.org", "wwwexample.com"] {
            assert!(!facts.covers(&host(other)), "{other}");
        }
    }

    #[test]
    fn an_address_is_covered_only_by_itself() {
        let facts = facts(&["127.0.0.1", "::1", "*.0.0.1"]);
        assert!(facts.covers(&host("127.0.0.1")));
        assert!(facts.covers(&host("[::1]")));
        assert!(!facts.covers(&host("128.0.0.1")));
        assert!(!facts.covers(&host("[::2]")));
    }

    #[test]
    fn a_key_that_everyone_may_read_is_refused() {
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        assert!(private_key(file(&key, 0o600).path()).is_ok());
        assert!(private_key(file(&key, 0o640).path()).is_ok());
        for mode in [0o644, 0o604, 0o602] {
            let error = private_key(file(&key, mode).path()).unwrap_err();
            assert!(matches!(error, PemError::WorldReadable { .. }), "{mode:o}: {error}");
        }
    }

    #[test]
    fn each_problem_is_told_apart() {
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let certificate = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        let certificate = certificate.cert.pem();
        let cut = certificate.split("-----END").next().unwrap().to_owned();
        let not_x509 =
            "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n".to_owned();
        let encrypted = key.replace(" PRIVATE", " ENCRYPTED PRIVATE");

        let missing = certificates(Path::new("/nonexistent/cert.pem")).unwrap_err();
        assert!(matches!(missing, PemError::Unreadable { .. }));
        let read = |text: &str| certificates(file(text, 0o600).path());
        assert!(matches!(read("").unwrap_err(), PemError::NoCertificate { .. }));
        assert!(matches!(read(&key).unwrap_err(), PemError::NoCertificate { .. }));
        assert!(matches!(read(&cut).unwrap_err(), PemError::Broken { .. }));
        let two = read(&format!("{certificate}{not_x509}")).unwrap_err();
        assert!(matches!(two, PemError::NotX509 { position: 2, .. }));
        assert_eq!(read(&format!("{certificate}{certificate}")).unwrap().len(), 2);

        let read = |text: &str| private_key(file(text, 0o600).path()).unwrap_err();
        assert!(matches!(read(&certificate), PemError::NoKey { .. }));
        assert!(matches!(read(&encrypted), PemError::EncryptedKey { .. }));
        assert!(matches!(read(&format!("{key}{key}")), PemError::SeveralKeys { count: 2, .. }));
    }
}
