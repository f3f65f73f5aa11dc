//! Logout tokens of one provider: which are its own, and which it really signed.

use url::Url;

use super::Provider;
use crate::identity::discovery::DiscoveryError;
use crate::identity::logout_token::{Expected, LogoutToken, LogoutTokenError, Signed};

/// Why a logout token ends nothing. Texts are for the audit log and hold nothing of the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogoutError {
    /// 400: whoever made it.
    #[error("{0}")]
    Token(#[from] LogoutTokenError),
    /// 503: the keys to check it with can't be had.
    #[error("{0}")]
    ProviderUnavailable(#[from] DiscoveryError),
}

impl LogoutError {
    /// The status of the answer (OpenID Connect Back-Channel Logout 1.0, section 2.8).
    pub fn status(&self) -> u16 {
        match self {
            Self::Token(_) => 400,
            Self::ProviderUnavailable(_) => 503,
        }
    }

    /// Whether it looked right until the signature, which is what costs something. That keys can't
    /// be had costs nothing, and is not the sender's fault.
    pub fn cost_something(&self) -> bool {
        use LogoutTokenError::{Replayed, Signature, UnknownKey};
        matches!(self, Self::Token(Signature | UnknownKey | Replayed))
    }
}

impl Provider {
    /// Holds a logout token against this provider and its keys. That it was not used before is the
    /// caller's to see.
    ///
    /// # Errors
    /// What is wrong with it; nothing that it says counts then.
    pub async fn logout_token(&self, token: &LogoutToken<'_>) -> Result<Signed, LogoutError> {
        let signed = token.check(&Expected {
            issuer: self.config.issuer.as_str(),
            client_id: &self.config.client_id,
            now: self.clock.now(),
        })?;
        let keys = self.discovery.keys(false).await?;
        match token.verify(&keys) {
            Err(LogoutTokenError::UnknownKey) => {
                // The provider may have new keys.
                token.verify(&*self.discovery.keys(true).await?)?;
            }
            other => other?,
        }
        Ok(signed)
    }

    /// Its own name for itself, letter by letter.
    pub fn issuer(&self) -> &str {
        self.config.issuer.as_str()
    }

    /// Where its pages come from: those that may show the gate's front-channel address in a frame.
    pub fn origins(&self) -> Vec<String> {
        let logout = self.end_session_endpoint().and_then(|address| Url::parse(&address).ok());
        let mut origins: Vec<String> = std::iter::once(self.config.issuer.url())
            .chain(logout.as_ref())
            .map(|url| url.origin().ascii_serialization())
            .collect();
        origins.dedup();
        origins
    }

    /// Whether a token says that this provider made it.
    pub fn is_issuer(&self, token: &LogoutToken<'_>) -> bool {
        token.issuer() == Some(self.issuer())
    }

    /// Whether a token says that it is meant for this client of the provider's.
    pub fn is_client(&self, token: &LogoutToken<'_>) -> bool {
        token.is_for(&self.config.client_id)
    }

    /// Whether both are one client of one issuer, whatever they are called here.
    pub fn is_same_client(&self, other: &Self) -> bool {
        self.config.issuer.as_str() == other.config.issuer.as_str()
            && self.config.client_id == other.config.client_id
    }
}
