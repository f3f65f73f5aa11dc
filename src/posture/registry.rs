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
//! services:
//!   - id: historian
//!     certificate: { uri: "spiffe://plant.example/historian" }   # or `dns`, or as above
//!     groups: [machines]
//! ```

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::finding::Finding;
use crate::config::model::CERTIFICATES;
use crate::config::yaml::{self, Cursor, Findings};
use crate::domain::clock::Timestamp;
use crate::domain::device::{Device, DeviceIdentity, Posture};
use crate::domain::principal::{Principal, PrincipalKind};

use super::named::{self, Index};
use super::revoked::Revoked;

const MAX_TEXT: usize = 256;

/// The known devices, by their certificates.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    devices: HashMap<Arc<str>, Arc<Device>>,
    by_certificate: Index<Device>,
    services: Index<Principal>,
    revoked: Revoked,
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
        let Some(root) = root.map(&["devices", "services"]) else { return registry };
        let services = root.get("services");
        // One of the two has to be there, so that a file of another kind is not an empty registry.
        let devices =
            if services.is_some() { root.get("devices") } else { root.required("devices") };
        for entry in devices.iter().flat_map(Cursor::list) {
            registry.add(&entry);
        }
        let mut ids = HashSet::new();
        for entry in services.iter().flat_map(Cursor::list) {
            registry.add_service(&entry, &mut ids);
        }
        registry
    }

    fn add(&mut self, entry: &Cursor<'_>) {
        let Some(map) = entry.map(&["id", "owner", "certificate", "posture"]) else { return };
        let id = map.required("id").and_then(|at| text(&at));
        let owner = map.get("owner").and_then(|at| text(&at));
        let posture = map.get("posture").and_then(|at| posture(&at));
        let certificate = map.required("certificate").and_then(|at| at.map(&named::KEYS));
        let (Some(id), Some(certificate)) = (id, certificate) else { return };
        let device = Arc::new(Device { id: Arc::clone(&id), owner, posture });
        if self.devices.insert(Arc::clone(&id), Arc::clone(&device)).is_some() {
            entry.error(format!("the device `{id}` is listed twice"));
        }
        self.by_certificate.add(&certificate, &device);
    }

    fn add_service(&mut self, entry: &Cursor<'_>, ids: &mut HashSet<Arc<str>>) {
        let Some(map) = entry.map(&["id", "certificate", "name", "groups", "tenant"]) else {
            return;
        };
        let id = map.required("id").and_then(|at| text(&at));
        let certificate = map.required("certificate").and_then(|at| at.map(&named::KEYS));
        let name = map.get("name").and_then(|at| text(&at));
        let tenant = map.get("tenant").and_then(|at| text(&at));
        let groups = map.get("groups").map(|at| at.list()).unwrap_or_default();
        let groups = groups.iter().filter_map(text).collect();
        let (Some(id), Some(certificate)) = (id, certificate) else { return };
        if !ids.insert(Arc::clone(&id)) {
            entry.error(format!("the service `{id}` is listed twice"));
        }
        let principal = Principal {
            kind: PrincipalKind::Service,
            id: format!("{CERTIFICATES}/{id}").into(),
            email: None,
            name,
            groups,
            tenant,
        };
        self.services.add(&certificate, &Arc::new(principal));
    }

    /// Has certificates stand for nobody that were taken back.
    #[must_use]
    pub fn without(mut self, revoked: Revoked) -> Self {
        self.revoked = revoked;
        self
    }

    /// The device that a verified client certificate stands for.
    pub fn identify(&self, certificate: Option<&[u8]>, now: Timestamp) -> DeviceIdentity {
        let Some(der) = certificate else { return DeviceIdentity::NotPresented };
        let known =
            self.current(der, now).and_then(|parsed| self.by_certificate.find(der, &parsed));
        known.map_or(DeviceIdentity::Unregistered, |device| {
            DeviceIdentity::Known(Arc::clone(device))
        })
    }

    /// The service that a verified client certificate stands for,.
    pub fn service(&self, der: &[u8], now: Timestamp) -> Option<Arc<Principal>> {
        if self.services.is_empty() {
            return None;
        }
        let parsed = self.current(der, now)?;
        self.services.find(der, &parsed).map(Arc::clone)
    }

    /// Whether a verified client certificate is still good.
    pub fn is_current(&self, der: &[u8], now: Timestamp) -> bool {
        self.current(der, now).is_some()
    }

    /// The handshake verified the chain; but a connection may outlive its certificate.
    fn current<'a>(&self, der: &'a [u8], now: Timestamp) -> Option<X509Certificate<'a>> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let validity = parsed.validity();
        let seconds = now.as_seconds();
        let valid =
            seconds >= validity.not_before.timestamp() && seconds <= validity.not_after.timestamp();
        (valid && !self.revoked.refuses(&parsed, now)).then_some(parsed)
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

pub(super) fn text(at: &Cursor<'_>) -> Option<Arc<str>> {
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use std::time::Duration;

    use aws_lc_rs::digest;

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

    fn with_names(common_name: &str, uris: &[&str], hosts: &[&str]) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
        let uris = uris.iter().map(|uri| rcgen::SanType::URI((*uri).try_into().unwrap()));
        let hosts = hosts.iter().map(|host| rcgen::SanType::DnsName((*host).try_into().unwrap()));
        params.subject_alt_names = uris.chain(hosts).collect();
        params.not_before = time::OffsetDateTime::from_unix_timestamp(NOW.as_seconds()).unwrap();
        params.not_after = params.not_before + Duration::from_secs(3600);
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_service_is_known_by_its_alternative_names_before_its_subject() {
        let registry = parsed(
            "services:\n  - {id: historian, certificate: {uri: 'spiffe://plant/historian'}, groups: [machines], tenant: acme}\n\
             \x20 - {id: erp, certificate: {dns: ERP.plant.example}}\n\
             \x20 - {id: old, certificate: {common_name: old}}\n",
        )
        .unwrap();
        let id = |der: &[u8]| registry.service(der, NOW).map(|service| service.id.to_string());
        let historian = with_names("old", &["spiffe://plant/historian"], &[]);
        let found = registry.service(&historian, NOW).unwrap();
        assert_eq!(&*found.id, "certificate/historian");
        assert!(found.is_service() && found.groups.contains("machines"));
        assert_eq!(found.tenant.as_deref(), Some("acme"));
        let erp = with_names("x", &[], &["other.example", "erp.plant.example"]);
        assert_eq!(id(&erp).as_deref(), Some("certificate/erp"));
        assert_eq!(id(&with_names("old", &[], &[])).as_deref(), Some("certificate/old"));
        // Two at once is neither, and a part of a name is none.
        let both = with_names("old", &["spiffe://plant/historian"], &["erp.plant.example"]);
        assert_eq!(id(&both), None);
        assert_eq!(id(&with_names("x", &["spiffe://plant/historian/x"], &["plant.example"])), None);
        assert_eq!(registry.identify(Some(&historian), NOW), DeviceIdentity::Unregistered);
        let late = NOW.plus(Duration::from_secs(3601));
        assert!(registry.service(&historian, late).is_none());
    }

    #[test]
    fn a_certificate_that_was_taken_back_stands_for_nobody() {
        let yaml = "devices: [{id: one, certificate: {common_name: one}}]\n\
             services: [{id: one, certificate: {common_name: one}}]";
        let registry = parsed(yaml).unwrap();
        let der = certificate(&["one"]);
        let (_, read) = X509Certificate::from_der(&der).unwrap();
        let due = NOW.plus(Duration::from_secs(60));
        let list = |serial: &[u8]| crate::pem::RevocationList {
            issuer: read.issuer().as_raw().into(),
            serials: vec![serial.into()],
            next_update: Some(due),
        };
        let known = |list: &crate::pem::RevocationList, at| {
            let mut revoked = Revoked::default();
            revoked.add(list);
            let registry = registry.clone().without(revoked);
            let known = registry.identify(Some(&der), at).known().is_some();
            assert_eq!(registry.service(&der, at).is_some(), known);
            assert_eq!(registry.is_current(&der, at), known);
            known
        };
        assert!(known(&list(&[1, 2, 3]), due));
        assert!(!known(&list(read.raw_serial()), NOW));
        assert!(!known(&list(&[1, 2, 3]), due.plus(Duration::from_secs(1))), "nobody knows");
        let elsewhere = crate::pem::RevocationList {
            issuer: b"other".as_slice().into(),
            ..list(read.raw_serial())
        };
        assert!(known(&elsewhere, NOW));
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
            "exactly one of `sha256`, `uri`, `dns` and `common_name`",
            "`observed_at` is missing",
            "`maybe` is neither",
            "the key `id` is missing",
            "did you mean `posture`?",
        ] {
            assert!(findings.contains(part), "{part} in\n{findings}");
        }
    }
}
