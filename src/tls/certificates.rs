//! Which certificate serves which name.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::domain::canonical::Host;
use crate::pem::CertificateFacts;

/// A listener's certificates by the names that they cover.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// `example.com` for `*.example.com`.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    first: Option<Arc<CertifiedKey>>,
    facts: Vec<CertificateFacts>,
}

impl Certificates {
    /// Adds a certificate. A name that an earlier one has stays with the earlier one; an exact
    /// name goes before a wildcard.
    pub(super) fn add(&mut self, facts: CertificateFacts, key: CertifiedKey) {
        let key = Arc::new(key);
        for name in &facts.names {
            let (names, name) = match name.strip_prefix("*.") {
                Some(parent) => (&mut self.wildcard, parent),
                None => (&mut self.exact, name.as_str()),
            };
            names.entry(name.to_owned()).or_insert_with(|| Arc::clone(&key));
        }
        self.first.get_or_insert(key);
        self.facts.push(facts);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(super) fn for_name(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        self.exact.get(name).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.wildcard.get(parent)
        })
    }

    pub(super) fn covers(&self, host: &Host) -> bool {
        self.facts.iter().any(|facts| facts.covers(host))
    }

    pub(super) fn facts(&self) -> &[CertificateFacts] {
        &self.facts
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match hello.server_name() {
            None => self.first.clone(),
            // The acceptor has already turned unknown names away, with the fitting alert.
            Some(name) => {
                let name = Host::parse(name).ok()?;
                self.for_name(name.as_str()).cloned()
            }
        }
    }
}
