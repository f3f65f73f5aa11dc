//! What client certificates are verified with: a CA, and what it took back.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::CertificateDer;

use super::server::out_of_date;
use super::term::{Term, What};
use crate::config::finding::Finding;
use crate::domain::clock::Timestamp;
use crate::pem::{self, CertificateFacts, RevocationList};

/// Verifies the chains of client certificates.
pub(super) type ClientVerifier = Arc<dyn rustls::server::danger::ClientCertVerifier>;

pub(super) struct Clients {
    pub(super) ca: Vec<CertificateDer<'static>>,
    pub(super) verifier: ClientVerifier,
    pub(super) revoked: Vec<RevocationList>,
    pub(super) terms: Vec<Term>,
    pub(super) warnings: Vec<Finding>,
}

/// Reads the bundle of CAs and, where it is given, that of revocation lists.
///
/// INVARIANT: with lists a certificate is good only when a list of its issuer says so that is not
/// past its time; the same holds for every intermediate.
pub(super) fn load(
    ca: &Path,
    lists: Option<&Path>,
    provider: &Arc<CryptoProvider>,
    now: Timestamp,
) -> Result<Clients, Finding> {
    let bundle = pem::certificates(ca).map_err(|error| error.finding())?;
    let mut terms = Vec::new();
    let term = |what, path: &Path, begins, ends| {
        let file = path.display().to_string().into();
        Term { what, file, begins, ends, is_succeeded: false }
    };
    let mut warnings = Vec::new();
    let mut roots = RootCertStore::empty();
    for certificate in &bundle {
        if let Some(facts) = CertificateFacts::of(certificate) {
            warnings.extend(out_of_date(ca, &facts, now));
            terms.push(term(What::ClientCa, ca, facts.not_before, facts.not_after));
        }
        roots.add(certificate.clone()).map_err(|error| {
            Finding::error(ca, format!("a certificate can't be used as a CA: {error}"))
        })?;
    }
    let mut builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .allow_unauthenticated();
    let mut revoked = Vec::new();
    if let Some(path) = lists {
        let read = pem::revocation_lists(path).map_err(|error| error.finding())?;
        let (lists, said): (Vec<_>, Vec<_>) = read.into_iter().unzip();
        for list in &said {
            let due = list.next_update;
            terms.extend(due.map(|due| term(What::RevocationList, path, due, due)));
        }
        warnings.extend(out_of_touch(path, &bundle, &said, now));
        builder = builder.with_crls(lists).enforce_revocation_expiration();
        revoked = said;
    }
    let verifier = builder.build().map_err(|error| {
        Finding::error(
            lists.unwrap_or(ca),
            format!("client certificates can't be verified: {error}"),
        )
    })?;
    Ok(Clients { ca: bundle, verifier, revoked, terms, warnings })
}

/// CAs whose clients are all refused, for want of a list that is in time.
fn out_of_touch(
    path: &Path,
    bundle: &[CertificateDer<'static>],
    lists: &[RevocationList],
    now: Timestamp,
) -> Vec<Finding> {
    let mut warnings = Vec::new();
    for facts in bundle.iter().filter_map(|certificate| CertificateFacts::of(certificate)) {
        let subject = &facts.subject;
        let own = lists.iter().filter(|list| list.issuer == facts.subject_der);
        let newest = own.map(|list| list.next_update).max();
        let cause = match newest {
            None => {
                format!("there is no revocation list of `{subject}`, so its clients are refused")
            }
            Some(Some(due)) if due < now => {
                format!(
                    "the revocation list of `{subject}` was due again at {due}, so its clients are refused"
                )
            }
            Some(_) => continue,
        };
        let hint = "fetch the list from the CA before its `nextUpdate`; the file is read again when it changes";
        warnings.push(Finding::warning(path, cause).hint(hint));
    }
    warnings
}
