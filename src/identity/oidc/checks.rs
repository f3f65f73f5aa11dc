//! What a token response is worth: the checks of its ID token, and what userinfo adds.

use openidconnect::core::CoreTokenResponse;
use openidconnect::{HttpRequest, OAuth2TokenResponse};

use super::{LoginError, Provider};
use crate::identity::claims::{self, Claims};
use crate::identity::discovery::{DiscoveryError, Metadata};
use crate::identity::http::HttpError;
use crate::identity::id_token::{self, IdTokenError, SaidNonce};

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Nobody knows whether it is good.
    #[error(transparent)]
    Keys(#[from] DiscoveryError),
    #[error(transparent)]
    IdToken(#[from] IdTokenError),
}

impl From<VerifyError> for LoginError {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Keys(error) => error.into(),
            VerifyError::IdToken(error) => Self::invalid(error.to_string()),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum UserInfoError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("the access token can't stand in a header")]
    Token,
    #[error("userinfo answered with status {0}")]
    Status(u16),
    #[error("userinfo is not a JSON object")]
    Unreadable,
    #[error("userinfo is about another subject")]
    AnotherSubject,
}

impl From<UserInfoError> for LoginError {
    fn from(error: UserInfoError) -> Self {
        match error {
            UserInfoError::Http(error) => error.into(),
            other => Self::invalid(other.to_string()),
        }
    }
}

impl Provider {
    pub(in crate::identity) async fn verify(
        &self,
        metadata: &Metadata,
        tokens: &CoreTokenResponse,
        nonce: SaidNonce<'_>,
    ) -> Result<id_token::Verified, VerifyError> {
        let expected = id_token::Expected {
            client_id: &self.config.client_id,
            issuer: metadata.issuer(),
            nonce,
            now: self.clock.now(),
        };
        let keys = self.discovery.keys(false).await?;
        match id_token::verify(tokens, &keys, &expected) {
            Err(IdTokenError::UnknownKey) => {
                // The provider may have new keys.
                let keys = self.discovery.keys(true).await?;
                Ok(id_token::verify(tokens, &keys, &expected)?)
            }
            other => Ok(other?),
        }
    }

    /// The claims of the userinfo endpoint, asked only when the ID token lacks one (OpenID Connect
    /// Core 1.0, section 5.3).
    pub(in crate::identity) async fn userinfo(
        &self,
        metadata: &Metadata,
        tokens: &CoreTokenResponse,
        id_token: &Claims,
    ) -> Result<Option<Claims>, UserInfoError> {
        if claims::complete(&self.config.claims, id_token) {
            return Ok(None);
        }
        self.userinfo_now(metadata, tokens, id_token).await
    }

    /// The same whatever the ID token has; `None` where there is no such endpoint, or it is not to
    /// be asked.
    pub(in crate::identity) async fn userinfo_now(
        &self,
        metadata: &Metadata,
        tokens: &CoreTokenResponse,
        id_token: &Claims,
    ) -> Result<Option<Claims>, UserInfoError> {
        if !self.config.asks_userinfo {
            return Ok(None);
        }
        let Some(endpoint) = metadata.userinfo_endpoint() else { return Ok(None) };
        let bearer = format!("Bearer {}", tokens.access_token().secret());
        let request: HttpRequest = http::Request::builder()
            .uri(endpoint.url().as_str())
            .header(http::header::ACCEPT, "application/json")
            .header(http::header::AUTHORIZATION, bearer)
            .body(Vec::new())
            .map_err(|_| UserInfoError::Token)?;
        let response = self.http.call(request).await?;
        if response.status() != http::StatusCode::OK {
            return Err(UserInfoError::Status(response.status().as_u16()));
        }
        let userinfo: Claims =
            serde_json::from_slice(response.body()).map_err(|_| UserInfoError::Unreadable)?;
        // Section 5.3.2: else the claims may be somebody else's.
        let subject = userinfo.get("sub").and_then(|sub| sub.as_str());
        if subject.is_none() || subject != id_token.get("sub").and_then(|sub| sub.as_str()) {
            return Err(UserInfoError::AnotherSubject);
        }
        Ok(Some(userinfo))
    }
}
