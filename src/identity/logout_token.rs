//! The checks of a logout token (OpenID Connect Back-Channel Logout 1.0, section 2.6).
//!
//! Anybody may send one, so what costs nothing comes first: a token is read ([`LogoutToken::read`])
//! and held against everything that it says before its signature is looked at
//! ([`LogoutToken::verify`]).
//!
//! INVARIANT: nothing that a token says is acted upon before [`Signed`] is there, which only a
//! token has that passed every check.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use openidconnect::core::{CoreJsonWebKey, CoreJsonWebKeySet, CoreJwsSigningAlgorithm};
use openidconnect::{JsonWebKey, JsonWebKeyAlgorithm, JsonWebKeyUse, JwsSigningAlgorithm};
use serde_json::{Map, Value};

use super::id_token::{ALGORITHMS, LEEWAY};
use crate::domain::clock::Timestamp;

/// How old a token may be. Providers send one when it is made, and again when that failed.
pub const MAX_AGE: Duration = Duration::from_secs(300);

/// Section 2.4.
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// What is wrong with a token. Nothing of the token is in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogoutTokenError {
    #[error("the request is no form with one `logout_token`")]
    Missing,
    #[error("the logout token is no signed JWT")]
    Shape,
    #[error("the logout token's header is of another kind of token, or demands what is not known")]
    Type,
    #[error("the logout token is unsigned, or signed with a refused algorithm")]
    Algorithm,
    #[error("the logout token was issued by another issuer")]
    Issuer,
    #[error("the logout token is meant for another client")]
    Audience,
    #[error(
        "the logout token has expired, was issued in the future or too long ago, or doesn't say when"
    )]
    Time,
    #[error("the logout token has no `jti`")]
    Id,
    #[error("the logout token's `events` is not that of a back-channel logout")]
    Events,
    #[error("the logout token has a `nonce`")]
    Nonce,
    #[error("the logout token names neither a session nor a subject")]
    Nobody,
    #[error("no key of the identity provider fits the logout token")]
    UnknownKey,
    #[error("the logout token's signature is wrong, or several keys fit it")]
    Signature,
    #[error("the logout token was used before")]
    Replayed,
}

/// What a token is held against.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    pub issuer: &'a str,
    pub client_id: &'a str,
    pub now: Timestamp,
}

/// A token as it was sent, not believed yet.
pub struct LogoutToken<'a> {
    /// Header and claims: what is signed.
    message: &'a str,
    signature: Vec<u8>,
    algorithm: CoreJwsSigningAlgorithm,
    kid: Option<String>,
    claims: Map<String, Value>,
}

/// What a token that passed says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The provider's own session, on whatever host it was used.
    pub sid: Option<Arc<str>>,
    pub subject: Option<Arc<str>>,
    /// Its name, which no second token of the provider's has.
    pub id: Arc<str>,
    /// From here on it is too old whatever it says.
    pub expires: Timestamp,
}

impl std::fmt::Debug for LogoutToken<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogoutToken").finish_non_exhaustive()
    }
}

impl<'a> LogoutToken<'a> {
    /// Reads a compact JWS (RFC 7515, section 7.1). Encrypted tokens have more parts.
    ///
    /// # Errors
    /// What it is not, or an algorithm that is never accepted.
    pub fn read(token: &'a str) -> Result<Self, LogoutTokenError> {
        let (message, signature) = token.rsplit_once('.').ok_or(LogoutTokenError::Shape)?;
        let (header, claims) = message.split_once('.').ok_or(LogoutTokenError::Shape)?;
        if claims.contains('.') {
            return Err(LogoutTokenError::Shape);
        }
        let decoded = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).ok();
        let object = |part| serde_json::from_slice::<Map<String, Value>>(&decoded(part)?).ok();
        let header = object(header).ok_or(LogoutTokenError::Shape)?;
        let claims = object(claims).ok_or(LogoutTokenError::Shape)?;
        let signature = decoded(signature).ok_or(LogoutTokenError::Shape)?;
        check_type(&header)?;
        let algorithm = header.get("alg").cloned().ok_or(LogoutTokenError::Algorithm)?;
        let algorithm: CoreJwsSigningAlgorithm =
            serde_json::from_value(algorithm).map_err(|_| LogoutTokenError::Algorithm)?;
        if !ALGORITHMS.contains(&algorithm) || signature.is_empty() {
            return Err(LogoutTokenError::Algorithm);
        }
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return Err(LogoutTokenError::Shape),
        };
        Ok(Self { message, signature, algorithm, kid, claims })
    }

    /// Whom it says it is from. To be believed only after [`Self::verify`].
    pub fn issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.as_str()
    }

    /// Whether it says that it is meant for this client, and for nobody else who isn't accounted
    /// for.
    pub fn is_for(&self, client_id: &str) -> bool {
        let party = self.claims.get("azp");
        let ours = |value: &Value| value.as_str() == Some(client_id);
        if party.is_some_and(|party| !ours(party)) {
            return false;
        }
        match self.claims.get("aud") {
            Some(Value::Array(all)) => all.iter().any(ours) && (all.len() == 1 || party.is_some()),
            Some(one) => ours(one),
            None => false,
        }
    }

    /// Everything but the signature.
    ///
    /// # Errors
    /// The first check that failed.
    pub fn check(&self, expected: &Expected<'_>) -> Result<Signed, LogoutTokenError> {
        if self.issuer() != Some(expected.issuer) {
            return Err(LogoutTokenError::Issuer);
        }
        if !self.is_for(expected.client_id) {
            return Err(LogoutTokenError::Audience);
        }
        let issued = self.seconds("iat").ok_or(LogoutTokenError::Time)?;
        let expires = self.seconds("exp").ok_or(LogoutTokenError::Time)?;
        let now = expected.now;
        let too_old = issued.plus(MAX_AGE).plus(LEEWAY);
        if issued > now.plus(LEEWAY) || now >= too_old || now >= expires.plus(LEEWAY) {
            return Err(LogoutTokenError::Time);
        }
        let event = self.claims.get("events").and_then(Value::as_object);
        let is_logout = |events: &Map<String, Value>| {
            events.len() == 1 && events.get(EVENT).is_some_and(Value::is_object)
        };
        if !event.is_some_and(is_logout) {
            return Err(LogoutTokenError::Events);
        }
        // An ID token has one: so that none is taken for the other.
        if self.claims.contains_key("nonce") {
            return Err(LogoutTokenError::Nonce);
        }
        let id = self.text("jti").ok().flatten().ok_or(LogoutTokenError::Id)?;
        let (sid, subject) = (self.text("sid")?, self.text("sub")?);
        if sid.is_none() && subject.is_none() {
            return Err(LogoutTokenError::Nobody);
        }
        Ok(Signed { sid, subject, id, expires: too_old })
    }

    /// Checks the signature with the one key that fits. A key that the token itself brings along
    /// or points at (`jwk`, `jku`, `x5u`) is never looked at.
    ///
    /// # Errors
    /// No key fits, several do, or it is forged.
    pub fn verify(&self, keys: &CoreJsonWebKeySet) -> Result<(), LogoutTokenError> {
        let mut fitting = keys.keys().iter().filter(|key| self.fits(key));
        let key = fitting.next().ok_or(LogoutTokenError::UnknownKey)?;
        if fitting.next().is_some() {
            return Err(LogoutTokenError::Signature);
        }
        key.verify_signature(&self.algorithm, self.message.as_bytes(), &self.signature)
            .map_err(|_| LogoutTokenError::Signature)
    }

    fn fits(&self, key: &CoreJsonWebKey) -> bool {
        let is_named = match &self.kid {
            Some(kid) => key.key_id().is_some_and(|id| id.as_str() == kid),
            None => true,
        };
        let algorithm = match key.signing_alg() {
            JsonWebKeyAlgorithm::Algorithm(algorithm) => *algorithm == self.algorithm,
            JsonWebKeyAlgorithm::Unspecified => true,
            JsonWebKeyAlgorithm::Unsupported => false,
        };
        is_named
            && algorithm
            && self.algorithm.key_type().as_ref() == Some(key.key_type())
            && key.key_use().is_none_or(JsonWebKeyUse::allows_signature)
    }

    /// A NumericDate (RFC 7519, section 2) in whole seconds, as all providers write it.
    fn seconds(&self, name: &str) -> Option<Timestamp> {
        self.claims.get(name)?.as_i64().map(Timestamp::from_seconds)
    }

    fn text(&self, name: &str) -> Result<Option<Arc<str>>, LogoutTokenError> {
        match self.claims.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(text.as_str().into())),
            Some(_) => Err(LogoutTokenError::Nobody),
        }
    }
}

/// Providers say `logout+jwt` (section 2.4), `JWT`, or nothing. What says that it is something else
/// was not made to end sessions (RFC 8725, section 3.11).
fn check_type(header: &Map<String, Value>) -> Result<(), LogoutTokenError> {
    let known = match header.get("typ") {
        None => true,
        Some(Value::String(said)) => {
            let said = said.to_ascii_lowercase();
            matches!(said.strip_prefix("application/").unwrap_or(&said), "logout+jwt" | "jwt")
        }
        Some(_) => false,
    };
    // RFC 7515, section 4.1.11: what is critical has to be understood, and nothing is.
    if known && !header.contains_key("crit") { Ok(()) } else { Err(LogoutTokenError::Type) }
}

#[cfg(test)]
mod tests;
