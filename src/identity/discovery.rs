//! What the provider says about itself, and its keys: fetched when first needed, kept, refreshed
//! (see [`refreshed`](super::refreshed)).
//!
//! INVARIANT: what can't be used (another issuer, an address without TLS, a key set that is empty or
//! huge) never takes the place of what could; keys serve until they are a day old and no longer.

use std::sync::Arc;

use openidconnect::core::{
    CoreAuthDisplay, CoreClaimName, CoreClaimType, CoreClientAuthMethod, CoreGrantType,
    CoreJsonWebKey, CoreJsonWebKeySet, CoreJweContentEncryptionAlgorithm,
    CoreJweKeyManagementAlgorithm, CoreResponseMode, CoreResponseType, CoreSubjectIdentifierType,
};
use openidconnect::{AdditionalProviderMetadata, HttpRequest, ProviderMetadata};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use url::Url;

use super::http::{HttpError, ProviderHttp};
use super::refreshed::Refreshed;
use crate::config::model::Issuer;
use crate::domain::clock::Clock;

/// Most keys in a set: a provider has a few, and verification looks through all of them.
const MAX_KEYS: usize = 100;

/// The provider can't be used now. The texts hold nothing secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("the identity provider's {0} answered with status {1}")]
    Status(&'static str, u16),
    #[error("the identity provider's {0} can't be read: it is not the JSON that it should be")]
    Unreadable(&'static str),
    #[error("the identity provider calls itself another issuer than the configured one")]
    WrongIssuer,
    #[error("the identity provider names an address that is not https")]
    Insecure,
    #[error("the identity provider's key set holds no key, or more than {MAX_KEYS}")]
    Keys,
    #[error("the identity provider names no token endpoint")]
    NoTokenEndpoint,
    #[error("the identity provider failed a moment ago; the next try is due shortly")]
    BackingOff,
}

/// The members that the library doesn't know.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Extra {
    /// RFC 9207, section 3.
    #[serde(default)]
    pub authorization_response_iss_parameter_supported: bool,
    /// OpenID Connect RP-Initiated Logout 1.0, section 2.1.
    #[serde(default)]
    pub end_session_endpoint: Option<Url>,
    /// RFC 8414, section 2.
    #[serde(default)]
    pub revocation_endpoint: Option<Url>,
}

impl AdditionalProviderMetadata for Extra {}

pub type Metadata = ProviderMetadata<
    Extra,
    CoreAuthDisplay,
    CoreClientAuthMethod,
    CoreClaimName,
    CoreClaimType,
    CoreGrantType,
    CoreJweContentEncryptionAlgorithm,
    CoreJweKeyManagementAlgorithm,
    CoreJsonWebKey,
    CoreResponseMode,
    CoreResponseType,
    CoreSubjectIdentifierType,
>;

/// Metadata and keys of one provider.
#[derive(Debug)]
pub struct Discovery {
    issuer: Issuer,
    http: ProviderHttp,
    metadata: Refreshed<Metadata>,
    keys: Refreshed<CoreJsonWebKeySet>,
}

impl Discovery {
    pub fn new(issuer: Issuer, http: ProviderHttp, clock: Clock) -> Self {
        let (metadata, keys) = (Refreshed::new(clock.clone()), Refreshed::new(clock));
        Self { issuer, http, metadata, keys }
    }

    /// The metadata (OpenID Connect Discovery 1.0, section 3).
    pub async fn metadata(&self) -> Result<Arc<Metadata>, DiscoveryError> {
        self.metadata.get(false, self.fetch_metadata()).await
    }

    /// The metadata that is at hand, for what must not wait.
    pub fn metadata_now(&self) -> Option<Arc<Metadata>> {
        self.metadata.at_hand()
    }

    /// Asks, whatever is at hand, to learn whether there is an answer.
    pub async fn asked_anew(&self) -> Result<(), DiscoveryError> {
        self.ask_metadata().await.map(drop)
    }

    /// Whether the last question to the provider was answered; `None` before the first.
    pub fn is_reachable(&self) -> Option<bool> {
        match (self.metadata.is_failing(), self.keys.is_failing()) {
            (Some(true), _) | (_, Some(true)) => Some(false),
            (None, None) => None,
            _ => Some(true),
        }
    }

    /// The provider's keys; after `unknown_key`, fetched again if the last such fetch is 30 s ago.
    pub async fn keys(&self, unknown_key: bool) -> Result<Arc<CoreJsonWebKeySet>, DiscoveryError> {
        let metadata = self.metadata().await?;
        self.keys.get(unknown_key, self.fetch_keys(metadata.jwks_uri().url())).await
    }

    async fn fetch_keys(&self, address: &Url) -> Result<CoreJsonWebKeySet, DiscoveryError> {
        let keys: Result<CoreJsonWebKeySet, _> = self.fetch(address, "key set").await;
        let keys = keys.and_then(|keys| match keys.keys().len() {
            1..=MAX_KEYS => Ok(keys),
            _ => Err(DiscoveryError::Keys),
        });
        keys.inspect_err(|error| {
            tracing::warn!(%error, issuer = self.issuer.as_str(), "the keys could not be fetched");
        })
    }

    async fn fetch_metadata(&self) -> Result<Metadata, DiscoveryError> {
        self.ask_metadata().await.inspect_err(|error| {
            tracing::warn!(%error, issuer = self.issuer.as_str(), "discovery failed");
        })
    }

    async fn ask_metadata(&self) -> Result<Metadata, DiscoveryError> {
        let base = self.issuer.as_str().trim_end_matches('/');
        let address = format!("{base}/.well-known/openid-configuration");
        let url = Url::parse(&address).map_err(|_| DiscoveryError::WrongIssuer)?;
        let metadata: Metadata = self.fetch(&url, "metadata").await?;
        // Section 4.3: letter by letter.
        if metadata.issuer().as_str() != self.issuer.as_str() {
            return Err(DiscoveryError::WrongIssuer);
        }
        let extra = metadata.additional_metadata();
        let token = metadata.token_endpoint().ok_or(DiscoveryError::NoTokenEndpoint)?.url();
        let addresses = [
            Some(metadata.authorization_endpoint().url()),
            Some(token),
            Some(metadata.jwks_uri().url()),
            metadata.userinfo_endpoint().map(|url| url.url()),
            extra.end_session_endpoint.as_ref(),
            extra.revocation_endpoint.as_ref(),
        ];
        let allowed = |url: &Url| {
            url.scheme() == "https" || (plain_loopback(self.issuer.url()) && plain_loopback(url))
        };
        if addresses.into_iter().flatten().all(allowed) {
            Ok(metadata)
        } else {
            Err(DiscoveryError::Insecure)
        }
    }

    async fn fetch<T: DeserializeOwned>(
        &self,
        url: &Url,
        what: &'static str,
    ) -> Result<T, DiscoveryError> {
        let request: HttpRequest = http::Request::builder()
            .uri(url.as_str())
            .header(http::header::ACCEPT, "application/json")
            .body(Vec::new())
            .map_err(|_| DiscoveryError::Unreadable(what))?;
        let response = self.http.call(request).await?;
        if response.status() != http::StatusCode::OK {
            return Err(DiscoveryError::Status(what, response.status().as_u16()));
        }
        serde_json::from_slice(response.body()).map_err(|_| DiscoveryError::Unreadable(what))
    }
}

/// Whether an address is `http` on this very machine, as the demo's provider is.
pub fn plain_loopback(url: &Url) -> bool {
    let loopback = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    url.scheme() == "http" && loopback
}
