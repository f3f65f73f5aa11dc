//! Access tokens: JWTs that an issuer of the configuration signed for the gate's audience
//! (RFC 9068), sent as `Authorization: Bearer` (RFC 6750).
//!
//! A token is read and held against the rules ([`token`]) before its signature is worth checking,
//! then verified with the keys that the issuer itself publishes, never with one that the token names
//! or brings along. One that passed is kept ([`cache`]) under its SHA-256, so that the next request
//! with it costs a hash and a look-up.
//!
//! INVARIANT: a token is good as a whole or it is refused; what makes it so is asked again with each
//! request where it can change: the time, the audience of the route, the client's certificate.
//! INVARIANT: nothing of a token is in an error, a record or a Debug output.

mod cache;
#[cfg(test)]
mod tests;
mod token;

use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use self::cache::Cache;
use self::token::{Facts, Unverified};
use super::certificate::is_thumbprint;
use super::claims::ClaimError;
use super::credential::{hashed, share_of};
use super::discovery::DiscoveryError;
use super::exchange::{ExchangeError, Exchanged, Subject};
use super::oidc::Provider;
use super::provider_token::ProviderToken;
use super::session::Session;
use crate::config::model::{IdentityProvider, TokenExchange};
use crate::domain::clock::Timestamp;
use crate::domain::id::SessionId;
use crate::domain::principal::{Authentication, Principal};

/// How far the issuer's clock may be ahead. A token's end is taken to the second.
const LEEWAY: Duration = Duration::from_secs(60);

/// After this a signature is checked again, so that a key that was withdrawn counts no longer than
/// the keys themselves are kept without asking.
const RECHECK: Duration = Duration::from_secs(3600);

/// Why a token is refused. Nothing of the token is in the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BearerError {
    #[error("the `Authorization` field holds no bearer token")]
    Scheme,
    #[error("the token is longer than {} bytes", token::MAX_TOKEN)]
    TooLarge,
    #[error("the token is not a signed JWT that can be read in one way only")]
    Malformed,
    #[error("the token's type is not `at+jwt`: it was not issued as an access token")]
    Type,
    #[error("the token's signature algorithm is none of those that are accepted")]
    Algorithm,
    #[error("the token's header names a key of its own, or something critical")]
    Header,
    #[error("the token's issuer is not one whose access tokens are accepted")]
    Issuer,
    #[error("the token was issued for another audience")]
    Audience,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    Early,
    #[error("the token is bound to a key in a way that can't be checked here")]
    Confirmation,
    #[error("the token is bound to a client certificate that this connection didn't present")]
    Certificate,
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error("no key of the issuer fits the token")]
    UnknownKey,
    #[error("the token's signature is wrong")]
    Signature,
    /// Nothing is known about the token; the answer is 503.
    #[error("tokens can't be checked: {0}")]
    Unavailable(DiscoveryError),
}

impl BearerError {
    /// Whether it says something about the issuer's keys and nothing about the token.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// A token that passed.
#[derive(Debug)]
pub struct AccessToken {
    /// The SHA-256 of the token.
    pub id: SessionId,
    /// The same for all tokens of one principal.
    pub share: SessionId,
    pub principal: Arc<Principal>,
    pub authentication: Arc<Authentication>,
    /// Those of its audiences that are the gate's.
    pub audiences: Box<[Arc<str>]>,
    pub expires: Timestamp,
    /// The SHA-256 of the client certificate that it is bound to (RFC 8705, section 3.1).
    pub bound_to: Option<[u8; 32]>,
    /// Who issued it, as it was configured then.
    issuer: Arc<IdentityProvider>,
    recheck: Timestamp,
}

impl AccessToken {
    /// Name of the identity provider.
    pub fn provider(&self) -> &Arc<str> {
        &self.issuer.name
    }

    /// Whether this very connection may use it.
    ///
    /// # Errors
    /// `Certificate` for a bound token without its certificate.
    pub fn check_binding(&self, certificate: Option<&[u8]>) -> Result<(), BearerError> {
        let Some(bound_to) = &self.bound_to else { return Ok(()) };
        match certificate {
            Some(der) if is_thumbprint(bound_to, der) => Ok(()),
            _ => Err(BearerError::Certificate),
        }
    }
}

/// The token of a request, if it brings one.
///
/// # Errors
/// `Scheme` when `Authorization` holds something else, `Malformed` when it is there twice.
pub fn presented(headers: &HeaderMap) -> Result<Option<&str>, BearerError> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let Some(field) = fields.next() else { return Ok(None) };
    if fields.next().is_some() {
        return Err(BearerError::Malformed);
    }
    let text = field.to_str().map_err(|_| BearerError::Scheme)?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
            Ok(Some(token.trim_matches(' ')))
        }
        _ => Err(BearerError::Scheme),
    }
}

/// One issuer whose tokens are taken.
#[derive(Debug)]
struct Issuer {
    config: Arc<IdentityProvider>,
    provider: Arc<Provider>,
}

impl AccessToken {
    /// One that passed at `now`, with what it says.
    fn of(token: &str, facts: Facts, issuer: &Arc<IdentityProvider>, now: Timestamp) -> Self {
        Self {
            id: token_id(token),
            share: share_of(&facts.principal),
            principal: Arc::new(facts.principal),
            authentication: Arc::new(facts.authentication),
            audiences: facts.audiences,
            expires: facts.expires,
            bound_to: facts.bound_to,
            issuer: Arc::clone(issuer),
            recheck: now.plus(RECHECK),
        }
    }
}

/// All issuers whose tokens are taken, and the tokens that passed.
#[derive(Debug, Default)]
pub struct Bearers {
    issuers: Vec<Issuer>,
    cache: Cache,
    exchanged: Exchanged,
}

impl Bearers {
    pub fn new<'a>(providers: impl IntoIterator<Item = &'a Arc<Provider>>) -> Self {
        let issuers = providers.into_iter().filter_map(|provider| {
            let config = Arc::clone(provider.config());
            config
                .access_tokens
                .is_some()
                .then(|| Issuer { config, provider: Arc::clone(provider) })
        });
        Self { issuers: issuers.collect(), ..Self::default() }
    }

    /// A token that passed before, if it is still good.
    pub fn known(&self, token: &str, now: Timestamp) -> Option<Arc<AccessToken>> {
        let token = self.cache.get(&token_id(token))?;
        (now < token.expires && now < token.recheck).then_some(token)
    }

    /// Checks a token. It is kept if it passes.
    ///
    /// # Errors
    /// What is wrong with it, or that the issuer's keys can't be had.
    pub async fn verify(
        &self,
        token: &str,
        now: Timestamp,
    ) -> Result<Arc<AccessToken>, BearerError> {
        let read = Unverified::read(token)?;
        let by = self.issuers.iter().find(|issuer| read.is_from(issuer.config.issuer.as_str()));
        let Issuer { config, provider } = by.ok_or(BearerError::Issuer)?;
        let facts = read.check(config, now)?;
        let published = provider.discovery.keys(false).await.map_err(BearerError::Unavailable)?;
        match read.verify(&published) {
            Err(BearerError::UnknownKey) => {
                // The issuer may have new keys.
                let published =
                    provider.discovery.keys(true).await.map_err(BearerError::Unavailable)?;
                read.verify(&published)
            }
            other => other,
        }?;
        let verified = Arc::new(AccessToken::of(token, facts, config, now));
        self.cache.insert(&verified, now);
        Ok(verified)
    }

    /// The field with a token for an application, got at the issuer for the caller's own (`text`).
    ///
    /// # Errors
    /// See [`ExchangeError`].
    pub async fn exchange(
        &self,
        token: &AccessToken,
        text: &str,
        wanted: &TokenExchange,
        now: Timestamp,
    ) -> Result<HeaderValue, ExchangeError> {
        let by = self.issuers.iter().find(|issuer| still_trusts(&issuer.config, &token.issuer));
        let Issuer { provider, .. } = by.ok_or(ExchangeError::Unusable)?;
        let ends = Some(token.expires);
        let subject = Subject { id: token.id, token: text, of_session: None, ends };
        self.exchanged.get(provider, subject, wanted, now).await
    }

    /// The same for the token of somebody who signed in with this provider.
    ///
    /// # Errors
    /// See [`ExchangeError`].
    pub async fn exchange_for(
        &self,
        provider: &Provider,
        session: &Session,
        token: Arc<ProviderToken>,
        wanted: &TokenExchange,
        now: Timestamp,
    ) -> Result<HeaderValue, ExchangeError> {
        // It is good now. With another one it is exchanged anew, and without one nobody asks.
        let of_session = Some(Arc::clone(&token));
        let subject = Subject { id: session.id, token: token.text(), of_session, ends: None };
        self.exchanged.get(provider, subject, wanted, now).await
    }

    /// Drops what was got for a session that has ended.
    pub fn forget(&self, session: &SessionId) {
        self.exchanged.forget(session);
    }

    /// Whether the issuer of a token is still configured as it was when the token passed.
    pub fn trusts(&self, token: &AccessToken) -> bool {
        self.issuers.iter().any(|issuer| still_trusts(&issuer.config, &token.issuer))
    }
}

/// Whether a token that passed under `then` would pass under `now`, and mean the same.
fn still_trusts(now: &Arc<IdentityProvider>, then: &Arc<IdentityProvider>) -> bool {
    Arc::ptr_eq(now, then)
        || (now.access_tokens.is_some()
            && now.name == then.name
            && now.issuer == then.issuer
            && now.access_tokens == then.access_tokens
            && now.claims == then.claims)
}

fn token_id(token: &str) -> SessionId {
    hashed(&[token.as_bytes()])
}
