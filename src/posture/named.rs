//! Which certificate stands for whom.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::digest;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

use super::registry::text;
use crate::config::yaml::Map;

/// The keys of `certificate`, of which an entry has one.
pub(super) const KEYS: [&str; 4] = ["sha256", "uri", "dns", "common_name"];

/// Entries of one kind by what names their certificates, the most exact first: one certificate,
/// then a name among its subject alternative names, then its subject.
#[derive(Clone, Debug)]
pub(super) struct Index<T> {
    by_fingerprint: HashMap<[u8; 32], Arc<T>>,
    by_uri: HashMap<Arc<str>, Arc<T>>,
    by_dns: HashMap<Arc<str>, Arc<T>>,
    by_common_name: HashMap<Arc<str>, Arc<T>>,
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self {
            by_fingerprint: HashMap::new(),
            by_uri: HashMap::new(),
            by_dns: HashMap::new(),
            by_common_name: HashMap::new(),
        }
    }
}

impl<T> Index<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.by_fingerprint.is_empty()
            && self.by_uri.is_empty()
            && self.by_dns.is_empty()
            && self.by_common_name.is_empty()
    }

    pub(super) fn add(&mut self, map: &Map<'_>, entry: &Arc<T>) {
        let given: Vec<&str> = KEYS.into_iter().filter(|key| map.get(key).is_some()).collect();
        let &[key] = given.as_slice() else {
            return map.cursor().error_with(
                "a certificate is named by exactly one of `sha256`, `uri`, `dns` and `common_name`",
                "prefer `sha256`: it names one certificate, not whoever gets the name",
            );
        };
        let Some(at) = map.get(key) else { return };
        if key == "sha256" {
            for at in at.non_empty_list() {
                let hint = "write the SHA-256 of the certificate as 64 hex digits";
                let Some(fingerprint) = at.parsed(fingerprint, hint) else { continue };
                if self.by_fingerprint.insert(fingerprint, Arc::clone(entry)).is_some() {
                    at.error("the certificate is listed twice");
                }
            }
            return;
        }
        let Some(mut name) = text(&at) else { return };
        let (names, what) = match key {
            "uri" => (&mut self.by_uri, "URI"),
            "dns" => {
                name = name.to_ascii_lowercase().into();
                (&mut self.by_dns, "DNS name")
            }
            _ => (&mut self.by_common_name, "common name"),
        };
        if names.insert(Arc::clone(&name), Arc::clone(entry)).is_some() {
            at.error(format!("the {what} `{name}` is listed twice"));
        }
    }

    /// Whom the certificate stands for. Nobody, when its names stand for several.
    pub(super) fn find(&self, der: &[u8], parsed: &X509Certificate<'_>) -> Option<&Arc<T>> {
        if !self.by_fingerprint.is_empty() {
            let hash = digest::digest(&digest::SHA256, der);
            let hash: Option<[u8; 32]> = hash.as_ref().try_into().ok();
            let found = hash.and_then(|hash| self.by_fingerprint.get(&hash));
            if found.is_some() {
                return found;
            }
        }
        let mut found: Option<&Arc<T>> = None;
        if !self.by_uri.is_empty() || !self.by_dns.is_empty() {
            for name in alternative_names(parsed) {
                let one = match name {
                    GeneralName::URI(uri) => self.by_uri.get(*uri),
                    GeneralName::DNSName(name) => {
                        self.by_dns.get(name.to_ascii_lowercase().as_str())
                    }
                    _ => None,
                };
                match (found, one) {
                    (Some(first), Some(second)) if !Arc::ptr_eq(first, second) => return None,
                    _ => found = found.or(one),
                }
            }
        }
        found.or_else(|| self.by_common_name.get(common_name(parsed)?))
    }
}

fn alternative_names<'a>(certificate: &'a X509Certificate<'_>) -> &'a [GeneralName<'a>] {
    match certificate.subject_alternative_name() {
        Ok(Some(names)) => &names.value.general_names,
        _ => &[],
    }
}

/// The subject's common name, when there is exactly one.
fn common_name<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a str> {
    let mut names = certificate.subject().iter_common_name();
    let name = names.next()?;
    if names.next().is_some() { None } else { name.as_str().ok() }
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
