//! What the provider says about itself, and its keys: fetched when first needed, kept, refreshed.
//!
//! INVARIANT: one fetch at a time; after a failure the next try waits (1 s, doubling up to 30 s)
//! and callers hear at once that the provider is unavailable; an unknown key id causes at most one
//! fetch in 30 s; what was fetched serves while the provider is down, for at most a day.

use std::sync::Arc;
use std::time::Duration;

use openidconnect::core::{
    CoreAuthDisplay, CoreClaimName, CoreClaimType, CoreClientAuthMethod, CoreGrantType,
    CoreJsonWebKey, CoreJsonWebKeySet, CoreJweContentEncryptionAlgorithm,
    CoreJweKeyManagementAlgorithm, CoreResponseMode, CoreResponseType, CoreSubjectIdentifierType,
};
use openidconnect::{AdditionalProviderMetadata, HttpRequest, ProviderMetadata};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use url::Url;

use super::http::{HttpError, ProviderHttp};
use crate::config::model::Issuer;
use crate::domain::clock::{Clock, Timestamp};

/// After this the metadata and the keys are fetched again.
const FRESH: Duration = Duration::from_secs(3600);

/// After this they are no longer used, even when nothing newer can be had.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// Between two fetches for unknown key ids.
const KEY_REFETCH: Duration = Duration::from_secs(30);

const MAX_BACKOFF: Duration = Duration::from_secs(30);

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

/// A document that was fetched, and how its refreshing goes.
#[derive(Debug)]
struct Kept<T> {
    value: Option<(Arc<T>, Timestamp)>,
    /// No fetch before this.
    retry_at: Option<Timestamp>,
    backoff: Duration,
}

impl<T> Kept<T> {
    fn new() -> Self {
        Self { value: None, retry_at: None, backoff: Duration::from_secs(1) }
    }

    /// The document when it is younger than `age`. A fetch that lies in the future was before the
    /// clock was set back: its age is unknown, so it is too old.
    fn younger_than(&self, age: Duration, now: Timestamp) -> Option<Arc<T>> {
        let (value, fetched) = self.value.as_ref()?;
        (*fetched <= now && now.since(*fetched) < age).then(|| Arc::clone(value))
    }

    fn may_fetch(&self, now: Timestamp) -> bool {
        self.retry_at.is_none_or(|at| now >= at || at.since(now) > MAX_BACKOFF)
    }

    fn fetched(&mut self, value: T, now: Timestamp) -> Arc<T> {
        let value = Arc::new(value);
        *self = Self::new();
        self.value = Some((Arc::clone(&value), now));
        value
    }

    fn failed(&mut self, now: Timestamp) {
        self.retry_at = Some(now.plus(self.backoff));
        self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
    }
}

/// Metadata and keys of one provider.
#[derive(Debug)]
pub struct Discovery {
    issuer: Issuer,
    http: ProviderHttp,
    clock: Clock,
    /// Locked while fetching, so that one fetch serves all who wait.
    metadata: Mutex<Kept<Metadata>>,
    keys: Mutex<(Kept<CoreJsonWebKeySet>, Option<Timestamp>)>,
}

impl Discovery {
    pub fn new(issuer: Issuer, http: ProviderHttp, clock: Clock) -> Self {
        Self {
            issuer,
            http,
            clock,
            metadata: Mutex::new(Kept::new()),
            keys: Mutex::new((Kept::new(), None)),
        }
    }

    /// The metadata (OpenID Connect Discovery 1.0, section 3).
    pub async fn metadata(&self) -> Result<Arc<Metadata>, DiscoveryError> {
        let mut kept = self.metadata.lock().await;
        let now = self.clock.now();
        if let Some(fresh) = kept.younger_than(FRESH, now) {
            return Ok(fresh);
        }
        let stale = kept.younger_than(MAX_AGE, now);
        if !kept.may_fetch(now) {
            return stale.ok_or(DiscoveryError::BackingOff);
        }
        match self.fetch_metadata().await {
            Ok(metadata) => Ok(kept.fetched(metadata, now)),
            Err(error) => {
                tracing::warn!(%error, issuer = self.issuer.as_str(), "discovery failed");
                kept.failed(self.clock.now());
                stale.ok_or(error)
            }
        }
    }

    /// The metadata that is at hand, for what must not wait.
    pub fn metadata_now(&self) -> Option<Arc<Metadata>> {
        self.metadata.try_lock().ok()?.younger_than(MAX_AGE, self.clock.now())
    }

    /// Whether the last question to the provider was answered; `None` before the first.
    pub fn is_reachable(&self) -> Option<bool> {
        let kept = self.metadata.try_lock().ok()?;
        if kept.retry_at.is_some() { Some(false) } else { kept.value.as_ref().map(|_| true) }
    }

    /// The provider's keys; after `unknown_key`, fetched again if the last such fetch is 30 s ago.
    pub async fn keys(&self, unknown_key: bool) -> Result<Arc<CoreJsonWebKeySet>, DiscoveryError> {
        let metadata = self.metadata().await?;
        let mut guard = self.keys.lock().await;
        let (kept, refetched) = &mut *guard;
        let now = self.clock.now();
        let too_soon = refetched.is_some_and(|at| at <= now && now.since(at) < KEY_REFETCH);
        if let Some(fresh) = kept.younger_than(FRESH, now)
            && (!unknown_key || too_soon)
        {
            return Ok(fresh);
        }
        let stale = kept.younger_than(MAX_AGE, now);
        if !kept.may_fetch(now) {
            return stale.ok_or(DiscoveryError::BackingOff);
        }
        if unknown_key {
            *refetched = Some(now);
        }
        match self.fetch(metadata.jwks_uri().url(), "key set").await {
            Ok(keys) => Ok(kept.fetched(keys, now)),
            Err(error) => {
                tracing::warn!(%error, issuer = self.issuer.as_str(), "the keys could not be fetched");
                kept.failed(self.clock.now());
                stale.ok_or(error)
            }
        }
    }

    async fn fetch_metadata(&self) -> Result<Metadata, DiscoveryError> {
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
