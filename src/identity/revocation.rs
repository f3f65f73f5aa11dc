//! Tokens that nobody needs any more are given back to the provider (RFC 7009).

use std::time::Duration;

use http::StatusCode;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::client_auth::PostError;
use super::discovery::DiscoveryError;
use super::oidc::{Provider, printable};
use super::strict;
use crate::config::secret::Secret;

/// Revocations at one provider at once: few of the calls that may be under way, so that those who
/// sign in have room.
const AT_ONCE: usize = 4;

/// For a place, what the provider says of itself, and the call. Then it is given up.
const LONGEST: Duration = Duration::from_secs(60);

/// What a session had of its provider. As `token_type_hint` (section 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// The access tokens that were given with it go with it (section 2.1).
    Refresh,
    Access,
}

impl TokenKind {
    const fn hint(self) -> &'static str {
        match self {
            Self::Refresh => "refresh_token",
            Self::Access => "access_token",
        }
    }
}

/// What came of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// The token is good for nothing (section 2.2), if it was before.
    Revoked,
    /// The provider names no address for it, or isn't to be asked.
    NotOffered,
}

/// Why a token may still be good at the provider. The texts hold no token.
#[derive(Debug, thiserror::Error)]
pub enum RevocationError {
    #[error(transparent)]
    Unavailable(#[from] DiscoveryError),
    #[error("{0}")]
    NotAsked(String),
    #[error("the identity provider does not revoke tokens for this client: status {0}, `{1}`")]
    Refused(u16, String),
    #[error("the identity provider took too long")]
    TooLong,
}

impl From<PostError> for RevocationError {
    fn from(error: PostError) -> Self {
        match error {
            PostError::Http(error) => Self::Unavailable(error.into()),
            other => Self::NotAsked(other.to_string()),
        }
    }
}

/// Those who may ask a provider now.
#[derive(Debug)]
pub(super) struct Places(Semaphore);

impl Default for Places {
    fn default() -> Self {
        Self(Semaphore::new(AT_ONCE))
    }
}

impl Provider {
    /// Asks the provider, once, to make a token worthless.
    ///
    /// # Errors
    /// It may still be good. Trying again may help, and is nobody's duty.
    pub async fn revoke(
        &self,
        kind: TokenKind,
        token: &Secret,
    ) -> Result<Revocation, RevocationError> {
        if !self.config.revokes_tokens {
            return Ok(Revocation::NotOffered);
        }
        let asked = tokio::time::timeout(LONGEST, self.ask_to_revoke(kind, token)).await;
        asked.unwrap_or(Err(RevocationError::TooLong))
    }

    async fn ask_to_revoke(
        &self,
        kind: TokenKind,
        token: &Secret,
    ) -> Result<Revocation, RevocationError> {
        let _place = self.revocations.0.acquire().await;
        let metadata = self.discovery.metadata().await?;
        let Some(endpoint) = &metadata.additional_metadata().revocation_endpoint else {
            return Ok(Revocation::NotOffered);
        };
        let form = [("token", token.expose()), ("token_type_hint", kind.hint())];
        let answer = self.post_as_client(&metadata, endpoint, &form).await?;
        if answer.status() == StatusCode::OK {
            return Ok(Revocation::Revoked);
        }
        let said = strict::object(answer.body());
        let code = said.as_ref().and_then(|said| said.get("error")).and_then(Value::as_str);
        let code = printable(code.unwrap_or("none"));
        Err(RevocationError::Refused(answer.status().as_u16(), code))
    }
}
