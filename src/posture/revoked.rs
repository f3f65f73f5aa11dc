//! Certificates that their CA took back (RFC 5280, section 5).
//!
//! TLS refuses them in the handshake. A connection that was open before outlives that: it is here
//! that its certificate stops to stand for anybody.

use std::collections::{HashMap, HashSet};

use x509_parser::prelude::X509Certificate;

use crate::domain::clock::Timestamp;
use crate::pem::RevocationList;

#[derive(Clone, Debug, Default)]
pub struct Revoked {
    by_issuer: HashMap<Box<[u8]>, Issuer>,
}

#[derive(Clone, Debug)]
struct Issuer {
    serials: HashSet<Box<[u8]>>,
    /// When the list is too old to say anything.
    next_update: Option<Timestamp>,
}

impl Revoked {
    pub fn add(&mut self, list: &RevocationList) {
        let issuer = self.by_issuer.entry(list.issuer.clone());
        let issuer =
            issuer.or_insert_with(|| Issuer { serials: HashSet::new(), next_update: None });
        issuer.serials.extend(list.serials.iter().cloned());
        issuer.next_update = issuer.next_update.max(list.next_update);
    }

    /// Whether the certificate may stand for nobody: it was taken back, or nobody knows any more.
    /// Where no list of its issuer is configured, nothing is asked of it.
    pub(super) fn refuses(&self, certificate: &X509Certificate<'_>, now: Timestamp) -> bool {
        if self.by_issuer.is_empty() {
            return false;
        }
        self.by_issuer.get(certificate.issuer().as_raw()).is_some_and(|issuer| {
            issuer.serials.contains(certificate.raw_serial())
                || issuer.next_update.is_some_and(|due| now > due)
        })
    }
}
