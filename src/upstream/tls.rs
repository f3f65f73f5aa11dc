//! TLS towards upstreams: always verified.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, version};
use rustls_pki_types::ServerName;

use crate::config::finding::Finding;
use crate::config::model::{UpstreamProtocol, UpstreamTls};
use crate::domain::canonical::Host;
use crate::pem;

/// Builds the client configuration. There is no way to switch verification off.
///
/// # Errors
/// Findings with the files that can't be used.
pub(super) fn client_config(
    tls: &UpstreamTls,
    protocol: UpstreamProtocol,
    source: &Path,
) -> Result<Arc<ClientConfig>, Vec<Finding>> {
    let mut findings = Vec::new();
    let mut roots = RootCertStore::empty();
    match &tls.ca {
        Some(path) => match pem::certificates(path) {
            Ok(bundle) => {
                for certificate in bundle {
                    if let Err(error) = roots.add(certificate) {
                        findings.push(Finding::error(
                            path,
                            format!("a certificate can't be used as a CA: {error}"),
                        ));
                    }
                }
            }
            Err(error) => findings.push(error.finding()),
        },
        None => {
            let native = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(native.certs);
            if roots.is_empty() {
                findings.push(
                    Finding::error(source, "the system has no root certificates")
                        .hint("install `ca-certificates`, or name a `ca` for the upstream"),
                );
            }
        }
    }
    let client = match &tls.client_certificate {
        None => None,
        Some(files) => {
            match (pem::certificates(&files.certificate), pem::private_key(&files.key)) {
                (Ok(chain), Ok(key)) => Some((chain, key, files)),
                (chain, key) => {
                    let problems = [chain.err(), key.err()];
                    findings.extend(problems.iter().flatten().map(pem::PemError::finding));
                    None
                }
            }
        }
    };
    if !findings.is_empty() {
        return Err(findings);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let failed = |path: &Path, error: rustls::Error| {
        vec![Finding::error(path, format!("TLS can't be set up: {error}"))]
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(|error| failed(source, error))?
        .with_root_certificates(roots);
    let mut config = match client {
        None => builder.with_no_client_auth(),
        Some((chain, key, files)) => {
            builder.with_client_auth_cert(chain, key).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => vec![
                    Finding::error(
                        &files.key,
                        format!(
                            "the key does not belong to the certificate in `{}`",
                            files.certificate.display()
                        ),
                    )
                    .hint("after a renewal, replace both files"),
                ],
                error => failed(&files.key, error),
            })?
        }
    };
    config.alpn_protocols = match protocol {
        UpstreamProtocol::Http1 => vec![b"http/1.1".to_vec()],
        UpstreamProtocol::Http2 => vec![b"h2".to_vec()],
    };
    Ok(Arc::new(config))
}

/// The name to verify, from a host name or an IP literal.
pub(super) fn server_name(host: &Host) -> Option<ServerName<'static>> {
    let text = host.as_str();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    ServerName::try_from(bare.to_owned()).ok()
}
