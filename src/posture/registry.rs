//! The device registry file.
//!
//! ```yaml
//! devices:
//!   - id: laptop-otto
//!     owner: corporate/otto
//!     certificate: { sha256: ["<64 hex digits>"] }   # or: { common_name: laptop-otto }
//!     posture:
//!       observed_at: 2026-11-21T08:00:00Z
//!       disk_encrypted: true
//! ```

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::finding::Finding;
use crate::config::yaml::{self, Cursor, Findings, Map};
use crate::domain::clock::Timestamp;
use crate::domain::device::{Device, DeviceIdentity, Posture};

const MAX_TEXT: usize = 256;

/// The known devices, by their certificates.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    devices: HashMap<Arc<str>, Arc<Device>>,
    by_fingerprint: HashMap<[u8; 32], Arc<Device>>,
    by_common_name: HashMap<Arc<str>, Arc<Device>>,
}

impl Registry {
    /// Knows no device.
    pub fn empty() -> Self {
        Self::default()
    }

    /// # Errors
    /// Everything that is wrong with the file, at once.
    pub fn load(path: &Path) -> Result<Self, Vec<Finding>> {
        let node = yaml::read(path)?;
        let findings = Findings::new(path);
        let registry = Self::read(&node.root(&findings));
        if findings.has_errors() { Err(findings.into_vec()) } else { Ok(registry) }
    }

    fn read(root: &Cursor<'_>) -> Self {
        let mut registry = Self::default();
        let Some(devices) = root.map(&["devices"]).and_then(|root| root.required("devices")) else {
            return registry;
        };
        for entry in devices.list() {
            registry.add(&entry);
        }
        registry
    }

    fn add(&mut self, entry: &Cursor<'_>) {
        let Some(map) = entry.map(&["id", "owner", "certificate", "posture"]) else { return };
        let id = map.required("id").and_then(|at| text(&at));
        let owner = map.get("owner").and_then(|at| text(&at));
        let posture = map.get("posture").and_then(|at| posture(&at));
        let certificate =
            map.required("certificate").and_then(|at| at.map(&["sha256", "common_name"]));
        let (Some(id), Some(certificate)) = (id, certificate) else { return };
        let device = Arc::new(Device { id: Arc::clone(&id), owner, posture });
        if self.devices.insert(Arc::clone(&id), Arc::clone(&device)).is_some() {
            entry.error(format!("the device `{id}` is listed twice"));
        }
        self.add_certificate(&certificate, &device);
    }

    fn add_certificate(&mut self, map: &Map<'_>, device: &Arc<Device>) {
        match (map.get("sha256"), map.get("common_name")) {
            (Some(list), None) => {
                for at in list.non_empty_list() {
                    let hint = "write the SHA-256 of the certificate as 64 hex digits";
                    let Some(fingerprint) = at.parsed(fingerprint, hint) else { continue };
                    if self.by_fingerprint.insert(fingerprint, Arc::clone(device)).is_some() {
                        at.error("the certificate is listed twice");
                    }
                }
            }
            (None, Some(at)) => {
                let Some(name) = text(&at) else { return };
                if self.by_common_name.insert(Arc::clone(&name), Arc::clone(device)).is_some() {
                    at.error(format!("the common name `{name}` is listed twice"));
                }
            }
            _ => map.cursor().error_with(
                "a certificate is named by either `sha256` or `common_name`",
                "prefer `sha256`: it names one certificate, not whoever gets the name",
            ),
        }
    }

    /// The device that a verified client certificate stands for.
    pub fn identify(&self, certificate: Option<&[u8]>, now: Timestamp) -> DeviceIdentity {
        let Some(der) = certificate else { return DeviceIdentity::NotPresented };
        // The handshake verified the chain; but a connection may outlive its certificate.
        let Ok((_, parsed)) = X509Certificate::from_der(der) else {
            return DeviceIdentity::Unregistered;
        };
        let validity = parsed.validity();
        let seconds = now.as_seconds();
        if seconds < validity.not_before.timestamp() || seconds > validity.not_after.timestamp() {
            return DeviceIdentity::Unregistered;
        }
        let hash = digest::digest(&digest::SHA256, der);
        let device = hash
            .as_ref()
            .try_into()
            .ok()
            .and_then(|hash: [u8; 32]| self.by_fingerprint.get(&hash))
            .or_else(|| self.by_common_name.get(common_name(&parsed)?));
        match device {
            None => DeviceIdentity::Unregistered,
            Some(device) => DeviceIdentity::Known(Arc::clone(device)),
        }
    }

    pub fn find(&self, id: &str) -> Option<&Arc<Device>> {
        self.devices.get(id)
    }

    pub fn len(&self) -> usize {
        self.devices.len()
    }

    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }
}

/// The subject's common name, when there is exactly one.
fn common_name<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a str> {
    let mut names = certificate.subject().iter_common_name();
    let name = names.next()?;
    if names.next().is_some() { None } else { name.as_str().ok() }
}

fn posture(at: &Cursor<'_>) -> Option<Posture> {
    let map = at.map(&[
        "observed_at",
        "managed",
        "disk_encrypted",
        "firewall",
        "endpoint_protection",
        "screen_lock",
        "os",
        "os_version",
        "patch_age_days",
    ])?;
    let fact = |name: &str| map.get(name).and_then(|at| at.boolean());
    let words = |name: &str| map.get(name).and_then(|at| text(&at));
    let hint = "write a date and time with its zone: `2026-11-21T08:00:00Z`";
    let observed_at = map.required("observed_at").and_then(|at| at.parsed(timestamp, hint));
    let read = Posture {
        observed_at: observed_at.unwrap_or(Timestamp::from_millis(i64::MAX)),
        managed: fact("managed"),
        disk_encrypted: fact("disk_encrypted"),
        firewall: fact("firewall"),
        endpoint_protection: fact("endpoint_protection"),
        screen_lock: fact("screen_lock"),
        os: words("os"),
        os_version: words("os_version"),
        patch_age_days: map.get("patch_age_days").and_then(|at| at.number(0, 36_500)),
    };
    observed_at.map(|_| read)
}

fn text(at: &Cursor<'_>) -> Option<Arc<str>> {
    let text = at.text()?;
    if text.len() > MAX_TEXT || text.chars().any(char::is_control) {
        at.error(format!("the text is longer than {MAX_TEXT} bytes or holds control characters"));
        return None;
    }
    Some(text.into())
}

fn timestamp(text: &str) -> Result<Timestamp, &'static str> {
    Timestamp::parse(text).map_err(|_| "not a date and time")
}

/// 64 hex digits, with colons between bytes or without, as tools print them.
fn fingerprint(text: &str) -> Result<[u8; 32], &'static str> {
    const WRONG: &str = "not a SHA-256 fingerprint";
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| *byte != b':')
        .map(|byte| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()
        .ok_or(WRONG)?;
    let bytes: Vec<u8> = match digits.as_chunks::<2>() {
        (pairs, []) => pairs.iter().map(|[high, low]| (high << 4) | low).collect(),
        _ => return Err(WRONG),
    };
    bytes.try_into().map_err(|_| WRONG)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn parsed(text: &str) -> Result<Registry, Vec<String>> {
        let path = PathBuf::from("devices.yaml");
        let node = yaml::parse(&path, text).unwrap();
        let findings = Findings::new(&path);
        let registry = Registry::read(&node.root(&findings));
        if findings.has_errors() {
            Err(findings.into_vec().iter().map(ToString::to_string).collect())
        } else {
            Ok(registry)
        }
    }

    /// A certificate valid from `NOW` for an hour.
    fn certificate(common_names: &[&str]) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for name in common_names {
            params.distinguished_name.push(rcgen::DnType::CommonName, *name);
        }
        params.not_before = time::OffsetDateTime::from_unix_timestamp(NOW.as_seconds()).unwrap();
        params.not_after = params.not_before + Duration::from_secs(3600);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    fn hex(der: &[u8]) -> String {
        let hash = digest::digest(&digest::SHA256, der);
        hash.as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
    }

    #[test]
    fn a_device_is_known_by_its_fingerprint_before_its_name() {
        let (pinned, named) = (certificate(&["two"]), certificate(&["two"]));
        let registry = parsed(&format!(
            "devices:\n  - id: one\n    owner: idp/ada\n    certificate: {{sha256: [\"{}\"]}}\n\
             \x20   posture: {{observed_at: 2027-01-15T08:00:00Z, firewall: true, os: Debian, \
             patch_age_days: 3}}\n  - id: two\n    certificate: {{common_name: two}}\n",
            hex(&pinned)
        ))
        .unwrap();
        let id = |der: &[u8]| {
            registry.identify(Some(der), NOW).known().map(|device| device.id.to_string())
        };
        assert_eq!(id(&pinned).as_deref(), Some("one"));
        assert_eq!(id(&named).as_deref(), Some("two"));
        assert_eq!(id(&certificate(&["three"])), None);
        let posture = registry.find("one").unwrap().posture.clone().unwrap();
        assert_eq!(posture.observed_at, NOW);
        assert_eq!((posture.firewall, posture.managed), (Some(true), None));
        assert_eq!(posture.patch_age_days, Some(3));
    }

    #[test]
    fn no_certificate_and_an_unknown_one_are_different_things() {
        let registry = Registry::empty();
        assert_eq!(registry.identify(None, NOW), DeviceIdentity::NotPresented);
        let unknown = registry.identify(Some(&certificate(&["x"])), NOW);
        assert_eq!(unknown, DeviceIdentity::Unregistered);
        assert_eq!(registry.identify(Some(b"garbage"), NOW), DeviceIdentity::Unregistered);
    }

    #[test]
    fn a_certificate_outside_its_validity_identifies_nothing() {
        let registry = parsed("devices: [{id: one, certificate: {common_name: one}}]").unwrap();
        let der = certificate(&["one"]);
        for (at, known) in [
            (NOW.minus(Duration::from_secs(1)), false),
            (NOW, true),
            (NOW.plus(Duration::from_secs(3600)), true),
            (NOW.plus(Duration::from_secs(3601)), false),
        ] {
            assert_eq!(registry.identify(Some(&der), at).known().is_some(), known, "{at}");
        }
    }

    #[test]
    fn posture_from_the_future_keeps_its_facts_and_its_time() {
        let registry = parsed(
            "devices: [{id: one, certificate: {common_name: one}, posture: \
             {observed_at: 2099-01-01T00:00:00Z, managed: true}}]",
        )
        .unwrap();
        let found = registry.identify(Some(&certificate(&["one"])), NOW);
        // Policies see it as infinitely old; a fact that forbids still forbids.
        let posture = found.known().unwrap().posture.clone().unwrap();
        assert_eq!(posture.managed, Some(true));
        assert!(posture.observed_at > NOW);
    }

    #[test]
    fn everything_wrong_with_a_registry_is_found_at_once() {
        let zeros = "0".repeat(64);
        let findings = parsed(&format!(
            "devices:\n  - id: a\n    certificate: {{sha256: [\"{zeros}\", \"xyz\"]}}\n\
             \x20 - id: a\n    certificate: {{sha256: [\"{zeros}\"]}}\n\
             \x20 - id: b\n    certificate: {{}}\n\
             \x20 - id: c\n    certificate: {{common_name: x}}\n    posture: {{managed: maybe}}\n\
             \x20 - certificate: {{common_name: x}}\n    pasture: 1\n"
        ))
        .unwrap_err()
        .join("\n");
        for part in [
            "not a SHA-256 fingerprint",
            "the device `a` is listed twice",
            "the certificate is listed twice",
            "either `sha256` or `common_name`",
            "`observed_at` is missing",
            "`maybe` is neither",
            "the key `id` is missing",
            "did you mean `posture`?",
        ] {
            assert!(findings.contains(part), "{part} in\n{findings}");
        }
    }
}
