//! What a listener's TLS is made of, read from its files.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedProtocolVersion, version};
use rustls_pki_types::CertificateDer;

use super::certificates::{Certificates, Pair};
use super::clients::{self, ClientVerifier};
use super::suites;
use super::term::{Term, What};
use super::tickets::Secrets;
use crate::config::finding::Finding;
use crate::config::model::{CertificateFiles, ListenerTls, TlsVersion};
use crate::domain::canonical::Host;
use crate::domain::clock::{Clock, Timestamp};
use crate::pem::{self, CertificateFacts, RevocationList};

/// A listener's certificates and rules, checked and ready to serve.
#[derive(Debug)]
pub struct ServerTls {
    pub(super) config: ServerConfig,
    pub(super) certificates: Arc<Certificates>,
    /// What client certificates are verified with; tickets are bound to it.
    pub(super) client_ca: Vec<CertificateDer<'static>>,
    /// What asks for and verifies client certificates.
    pub(super) verifier: Option<ClientVerifier>,
    revoked: Vec<RevocationList>,
    pub(super) ticket_secrets: Option<Secrets>,
    terms: Vec<Term>,
    warnings: Vec<Finding>,
}

/// A certificate out of date that was to take the place of one that is in date.
#[derive(Debug)]
pub struct Worse {
    pub finding: Finding,
    /// When it will be in date, if that is still to come.
    pub begins: Option<Timestamp>,
    /// The last moment of the one in force.
    lasts: Timestamp,
}

impl Worse {
    /// Whether it still is out of date, and the one in force isn't.
    pub fn is_worse(&self, now: Timestamp) -> bool {
        now <= self.lasts && self.begins.is_none_or(|begins| now < begins)
    }
}

impl ServerTls {
    /// Reads certificates, keys and the device CA. `clock` says at each handshake which of several
    /// certificates for a name is in date.
    ///
    /// A certificate that has expired or is not yet valid is a warning, not an error: a gate that
    /// doesn't start because of it helps nobody, and the alarm is in [`Self::terms`]. That it
    /// doesn't take the place of a good one is up to
    /// [`Acceptor::keep_in_date`](super::Acceptor::keep_in_date).
    ///
    /// # Errors
    /// All findings at once, when any of them is an error.
    pub fn load(tls: &ListenerTls, clock: &Clock) -> Result<Self, Vec<Finding>> {
        let provider = Arc::new(suites::provider());
        let now = clock.now();
        let mut errors = Vec::new();
        let mut warnings = Vec::new();
        let mut certificates = Certificates::new(clock.clone());
        for files in &tls.certificates {
            match load_pair(files, &provider) {
                Ok((facts, key)) => {
                    warnings.extend(out_of_date(&files.certificate, &facts, now));
                    if facts.names.is_empty() {
                        warnings.push(
                            Finding::warning(
                                &files.certificate,
                                "the certificate has no subject alternative name, so it covers no host",
                            )
                            .hint("clients ignore the common name; issue it with the host names as SANs"),
                        );
                    }
                    let (file, key) = (files.certificate.clone(), Arc::new(key));
                    certificates.add(Pair { file, facts, key });
                }
                Err(findings) => errors.extend(findings),
            }
        }
        let mut terms: Vec<Term> =
            certificates.pairs().map(|pair| term(pair, &certificates)).collect();
        let mut found = None;
        if let Some(ca) = &tls.client_ca {
            match clients::load(ca, tls.client_crl.as_deref(), &provider, now) {
                Ok(mut clients) => {
                    warnings.append(&mut clients.warnings);
                    terms.append(&mut clients.terms);
                    found = Some(clients);
                }
                Err(finding) => errors.push(finding),
            }
        }
        let (client_ca, verifier, revoked) = match found {
            Some(clients) => (clients.ca, Some(clients.verifier), clients.revoked),
            None => (Vec::new(), None, Vec::new()),
        };
        let ticket_secrets = tls.ticket_keys.as_deref().map(Secrets::read).transpose();
        let ticket_secrets = ticket_secrets.unwrap_or_else(|findings| {
            errors.extend(findings);
            None
        });
        let origin = tls.certificates.first().map_or(Path::new(""), |files| &files.certificate);
        if errors.is_empty() && certificates.is_empty() {
            errors.push(
                Finding::error(origin, "the listener has no certificate")
                    .hint("name at least one pair of certificate and key"),
            );
        }
        if !errors.is_empty() {
            errors.append(&mut warnings);
            return Err(errors);
        }

        let certificates = Arc::new(certificates);
        let build = || -> Result<ServerConfig, rustls::Error> {
            let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(versions(tls.minimum_version))?;
            let builder = match verifier.clone() {
                Some(verifier) => builder.with_client_cert_verifier(verifier),
                None => builder.with_no_client_auth(),
            };
            let mut config = builder.with_cert_resolver(
                Arc::clone(&certificates) as Arc<dyn rustls::server::ResolvesServerCert>
            );
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            // Sessions are in tickets, whose age is bounded, and never kept here: rustls would find
            // those of TLS 1.2 by their id for as long as it had room.
            config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
            // A client that opens several connections at once shows one of them a ticket. The others'
            // handshakes cost a fifth more, and every handshake would cost what a second ticket does.
            config.send_tls13_tickets = 1;
            // Nothing of a request may be replayed (RFC 8446, section 8).
            config.max_early_data_size = 0;
            Ok(config)
        };
        match build() {
            Ok(config) => Ok(Self {
                config,
                certificates,
                client_ca,
                verifier,
                revoked,
                ticket_secrets,
                terms,
                warnings,
            }),
            Err(error) => {
                Err(vec![Finding::error(origin, format!("TLS can't be set up: {error}"))])
            }
        }
    }

    /// Whether a certificate covers the host.
    pub fn covers(&self, host: &Host) -> bool {
        self.certificates.covers(host)
    }

    /// How long each certificate is good for, the servers' and the device CA's, and each list of
    /// what that CA took back.
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// Takes over what `former` has in date where this has something out of date, and returns the
    /// latter.
    pub(super) fn keep_in_date(&mut self, former: &Self, now: Timestamp) -> Vec<Worse> {
        let mut certificates = Certificates::clone(&self.certificates);
        let kept = certificates.keep(&former.certificates, now);
        if kept.is_empty() {
            return Vec::new();
        }
        let certificates = Arc::new(certificates);
        self.config.cert_resolver = Arc::clone(&certificates) as _;
        self.terms.retain(|term| term.what != What::Certificate);
        self.terms.extend(certificates.pairs().map(|pair| term(pair, &certificates)));
        self.certificates = certificates;
        kept.iter().filter_map(|(new, old)| worse_finding(new, old, now)).collect()
    }

    /// What the device CA took back.
    pub fn revoked(&self) -> &[RevocationList] {
        &self.revoked
    }

    /// What is not right but no reason not to start: certificates out of date.
    pub fn warnings(&self) -> &[Finding] {
        &self.warnings
    }

    /// Every name that some certificate covers, for messages.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.certificates.pairs().flat_map(|pair| pair.facts.names.iter().map(String::as_str))
    }
}

fn versions(minimum: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static ONLY_13: &[&SupportedProtocolVersion] = &[&version::TLS13];
    static ALL: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
    match minimum {
        TlsVersion::Tls12 => &ALL,
        TlsVersion::Tls13 => ONLY_13,
    }
}

fn load_pair(
    files: &CertificateFiles,
    provider: &CryptoProvider,
) -> Result<(CertificateFacts, CertifiedKey), Vec<Finding>> {
    let (chain, key) = match (pem::certificates(&files.certificate), pem::private_key(&files.key)) {
        (Ok(chain), Ok(key)) => (chain, key),
        (chain, key) => {
            let problems = [chain.err(), key.err()];
            return Err(problems.iter().flatten().map(pem::PemError::finding).collect());
        }
    };
    let facts = chain.first().and_then(|certificate| CertificateFacts::of(certificate));
    let Some(facts) = facts else {
        return Err(vec![Finding::error(&files.certificate, "the certificate can't be read")]);
    };
    match CertifiedKey::from_der(chain, key, provider) {
        Ok(key) => Ok((facts, key)),
        Err(rustls::Error::InconsistentKeys(_)) => Err(vec![
            Finding::error(
                &files.key,
                format!(
                    "the key does not belong to the certificate in `{}`",
                    files.certificate.display()
                ),
            )
            .hint("after a renewal, replace both files; the server's certificate comes first in its file"),
        ]),
        Err(error) => Err(vec![
            Finding::error(&files.key, format!("the key can't be used: {error}"))
                .hint("use an ECDSA P-256 or P-384, Ed25519, or RSA key of 2048 bits or more"),
        ]),
    }
}

fn term(pair: &Pair, all: &Certificates) -> Term {
    Term {
        what: What::Certificate,
        file: pair.file.display().to_string().into(),
        begins: pair.facts.not_before,
        ends: pair.facts.not_after,
        is_succeeded: all.is_succeeded(pair),
    }
}

pub(super) fn out_of_date(
    path: &Path,
    facts: &CertificateFacts,
    now: Timestamp,
) -> Option<Finding> {
    let cause = why_out_of_date(facts, now)?;
    Some(Finding::warning(path, cause).hint("renew it, or check the machine's clock"))
}

fn why_out_of_date(facts: &CertificateFacts, now: Timestamp) -> Option<String> {
    let subject = &facts.subject;
    if facts.not_after < now {
        Some(format!("the certificate of `{subject}` expired at {}", facts.not_after))
    } else if facts.not_before > now {
        Some(format!("the certificate of `{subject}` is not valid before {}", facts.not_before))
    } else {
        None
    }
}

fn worse_finding(new: &Pair, old: &Pair, now: Timestamp) -> Option<Worse> {
    let cause = why_out_of_date(&new.facts, now)?;
    let cause = format!("{cause}; the one in force is valid until {}", old.facts.not_after);
    let begins = Some(new.facts.not_before).filter(|begins| *begins > now);
    let hint = match begins {
        Some(_) => {
            "check the machine's clock; the gate reads it again when it becomes valid, and goes on \
             with the one in force until then"
        }
        None => {
            "put a certificate that is in date and its key there, or check the machine's clock; \
             the gate goes on with the one in force"
        }
    };
    let finding = Finding::error(&new.file, cause).hint(hint);
    Some(Worse { finding, begins, lasts: old.facts.not_after })
}
