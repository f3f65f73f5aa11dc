//! Services that prove themselves with a client certificate.
//!
//! TLS verified the chain and that the client holds the key; the device registry says whom the
//! certificate stands for. Both are asked again for as long as a connection lives.

use std::sync::Arc;

use aws_lc_rs::digest;

use super::credential;
use crate::domain::id::SessionId;
use crate::domain::principal::{Authentication, Principal};

/// A certificate that stands for a service.
#[derive(Debug)]
pub struct ClientCertificate {
    /// The SHA-256 of the certificate, in its own domain.
    pub id: SessionId,
    /// The same for all certificates of one service.
    pub share: SessionId,
    pub principal: Arc<Principal>,
    /// Empty: what is known of it is the certificate.
    pub authentication: Arc<Authentication>,
    pub der: Arc<[u8]>,
}

impl ClientCertificate {
    pub fn new(der: &Arc<[u8]>, principal: Arc<Principal>) -> Self {
        Self {
            id: credential::hashed(&[b"certificate\0", der]),
            share: credential::share_of(&principal),
            principal,
            authentication: Arc::default(),
            der: Arc::clone(der),
        }
    }
}

/// The thumbprint that tokens are bound to (RFC 8705, section 3.1).
pub fn is_thumbprint(thumbprint: &[u8; 32], der: &[u8]) -> bool {
    digest::digest(&digest::SHA256, der).as_ref() == thumbprint
}
