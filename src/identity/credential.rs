//! What a request was authenticated with: the one value by which the later stages know its caller.

use std::sync::Arc;

use aws_lc_rs::digest;

use super::bearer::AccessToken;
use super::certificate::ClientCertificate;
use super::session::Session;
use crate::domain::id::SessionId;
use crate::domain::principal::{Authentication, Principal};

#[derive(Clone, Debug)]
pub enum Credential {
    /// Somebody signed in.
    Session(Arc<Session>),
    /// Somebody brought a token that a trusted issuer signed.
    Token(Arc<AccessToken>),
    /// The client's certificate stands for a service.
    Certificate(Arc<ClientCertificate>),
}

impl Credential {
    /// Tells this credential from any other; useless as one.
    pub fn id(&self) -> &SessionId {
        match self {
            Self::Session(session) => &session.id,
            Self::Token(token) => &token.id,
            Self::Certificate(certificate) => &certificate.id,
        }
    }

    /// Whose share of what is bounded it uses. A session's is its own; all tokens or certificates of
    /// one principal have one together, because whoever has one can get the next.
    pub fn share(&self) -> &SessionId {
        match self {
            Self::Session(session) => &session.id,
            Self::Token(token) => &token.share,
            Self::Certificate(certificate) => &certificate.share,
        }
    }

    /// Name of the identity provider that vouches for the caller, where one does.
    pub fn provider(&self) -> Option<&Arc<str>> {
        match self {
            Self::Session(session) => Some(&session.provider),
            Self::Token(token) => Some(token.provider()),
            Self::Certificate(_) => None,
        }
    }

    pub fn principal(&self) -> &Arc<Principal> {
        match self {
            Self::Session(session) => &session.principal,
            Self::Token(token) => &token.principal,
            Self::Certificate(certificate) => &certificate.principal,
        }
    }

    pub fn authentication(&self) -> &Arc<Authentication> {
        match self {
            Self::Session(session) => &session.authentication,
            Self::Token(token) => &token.authentication,
            Self::Certificate(certificate) => &certificate.authentication,
        }
    }
}

/// One for each principal that comes without a session.
pub(super) fn share_of(principal: &Principal) -> SessionId {
    hashed(&[b"principal\0", &[u8::from(principal.is_service())], principal.id.as_bytes()])
}

pub(super) fn hashed(parts: &[&[u8]]) -> SessionId {
    let mut context = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut id = [0; 32];
    id.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
    SessionId(id)
}
