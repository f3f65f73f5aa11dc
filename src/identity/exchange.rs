//! Access tokens for applications, got at the provider in exchange for the caller's own (RFC 8693).
//!
//! INVARIANT: an application gets a token that was issued for it, or the request fails: never the
//! token that the caller brought, and never another caller's. What is kept is found only under the
//! credential, the audience and the scopes that it was got for.
//! INVARIANT: of those who need one token at a time, one asks; after a failure nobody asks for
//! [`PAUSE`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, StatusCode};
use openidconnect::{AuthType, HttpRequest};
use parking_lot::Mutex;
use serde_json::Value;
use url::form_urlencoded;

use super::bearer::AccessToken;
use super::discovery::{DiscoveryError, Metadata};
use super::http::HttpError;
use super::oidc::Provider;
use super::redeem::{ASSERTION_TYPE, auth_type};
use super::strict;
use crate::config::model::{ClientAuthentication, TokenExchange};
use crate::domain::clock::Timestamp;
use crate::domain::id::SessionId;

/// RFC 8693, sections 2.1 and 3.
const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// A token is got anew so long before its end, or in the last quarter of its life if that is later.
const BEFORE_END: Duration = Duration::from_secs(30);

/// How long a token is taken to be good whose life the provider doesn't tell.
const UNTOLD: Duration = Duration::from_secs(60);

/// After a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// Tokens kept.
const MOST: usize = 16_384;

const MAX_TOKEN: usize = 16 * 1024;

/// Why there is no token for the application. Nothing of a token is in the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// 503: the provider is down, slow or not itself.
    #[error("tokens can't be exchanged: {0}")]
    Unavailable(DiscoveryError),
    /// 502: as things are, it will not change by itself.
    #[error("the identity provider refused the exchange of the token: `{0}`")]
    Refused(String),
    #[error("the identity provider's answer to the exchange of the token can't be used")]
    Unusable,
}

impl ExchangeError {
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

impl From<DiscoveryError> for ExchangeError {
    fn from(error: DiscoveryError) -> Self {
        Self::Unavailable(error)
    }
}

impl From<HttpError> for ExchangeError {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::TooLarge => Self::Unusable,
            other => Self::Unavailable(other.into()),
        }
    }
}

type Key = (SessionId, Arc<str>, Arc<str>);

/// What came of the last try.
#[derive(Clone)]
struct Tried {
    outcome: Result<HeaderValue, ExchangeError>,
    until: Timestamp,
}

/// Locked while the provider is asked, so that one answer serves all who wait.
type Slot = Arc<tokio::sync::Mutex<Option<Tried>>>;

/// The tokens that were got.
#[derive(Default)]
pub struct Exchanged(Mutex<HashMap<Key, Slot>>);

impl std::fmt::Debug for Exchanged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchanged").finish_non_exhaustive()
    }
}

impl Exchanged {
    /// The field for the application: `Bearer ...`.
    ///
    /// # Errors
    /// See [`ExchangeError`].
    pub async fn get(
        &self,
        provider: &Provider,
        caller: &AccessToken,
        subject: &str,
        wanted: &TokenExchange,
        now: Timestamp,
    ) -> Result<HeaderValue, ExchangeError> {
        let slot = self.slot((caller.id, Arc::clone(&wanted.audience), Arc::clone(&wanted.scope)));
        let mut tried = slot.lock().await;
        if let Some(Tried { outcome, until }) = &*tried
            && now < *until
        {
            return outcome.clone();
        }
        let asked = provider.exchange(subject, wanted).await;
        let (outcome, until) = match asked {
            Ok(got) => {
                let margin = BEFORE_END.min(got.lifetime / 4);
                let until = now.plus(got.lifetime.saturating_sub(margin)).min(caller.expires);
                (Ok(got.field), until)
            }
            Err(error) => {
                tracing::warn!(%error, provider = %provider.name(), "a token was not exchanged");
                (Err(error), now.plus(PAUSE))
            }
        };
        *tried = Some(Tried { outcome: outcome.clone(), until });
        outcome
    }

    fn slot(&self, key: Key) -> Slot {
        let mut kept = self.0.lock();
        if kept.len() >= MOST && !kept.contains_key(&key) {
            // Those in use stay with whoever uses them; the others cost one more question each.
            kept.clear();
        }
        Arc::clone(kept.entry(key).or_default())
    }
}

/// A token for an application.
struct Got {
    field: HeaderValue,
    lifetime: Duration,
}

impl Provider {
    async fn exchange(&self, subject: &str, wanted: &TokenExchange) -> Result<Got, ExchangeError> {
        let metadata = self.discovery.metadata().await?;
        let response = self.http.call(self.exchange_request(&metadata, subject, wanted)?).await?;
        let said = strict::object(response.body()).ok_or(ExchangeError::Unusable)?;
        if response.status() != StatusCode::OK {
            let code = said.get("error").and_then(Value::as_str).unwrap_or("no reason");
            return Err(ExchangeError::Refused(printable(code)));
        }
        got(&said, subject)
    }

    fn exchange_request(
        &self,
        metadata: &Metadata,
        subject: &str,
        wanted: &TokenExchange,
    ) -> Result<HttpRequest, ExchangeError> {
        let endpoint = metadata.token_endpoint().ok_or(DiscoveryError::NoTokenEndpoint)?;
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", GRANT)
            .append_pair("subject_token", subject)
            .append_pair("subject_token_type", ACCESS_TOKEN)
            .append_pair("requested_token_type", ACCESS_TOKEN)
            .append_pair("audience", &wanted.audience);
        if !wanted.scope.is_empty() {
            form.append_pair("scope", &wanted.scope);
        }
        let mut request = http::Request::builder()
            .method(Method::POST)
            .uri(endpoint.as_str())
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        if let Some(field) = self.identify(metadata, &mut form)? {
            request = request.header(AUTHORIZATION, field);
        }
        let body = form.finish().into_bytes();
        request.body(body).map_err(|_| ExchangeError::Unusable)
    }
}

impl Provider {
    /// Says to the provider's token endpoint that the gate is its client: in the form, or with the
    /// field that is given back.
    fn identify(
        &self,
        metadata: &Metadata,
        form: &mut form_urlencoded::Serializer<'_, String>,
    ) -> Result<Option<HeaderValue>, ExchangeError> {
        let id = &self.config.client_id;
        match &self.config.client {
            ClientAuthentication::Public => {}
            ClientAuthentication::Secret { secret, method } => {
                if matches!(auth_type(*method, metadata), AuthType::BasicAuth) {
                    return basic(id, secret.expose()).map(Some);
                }
                form.append_pair("client_secret", secret.expose());
            }
            ClientAuthentication::Key { audience, .. } => {
                let assertion = self.assertion(metadata, *audience);
                let assertion = assertion.map_err(|_| ExchangeError::Unusable)?;
                form.append_pair("client_assertion_type", ASSERTION_TYPE)
                    .append_pair("client_assertion", &assertion);
            }
        }
        form.append_pair("client_id", id);
        Ok(None)
    }
}

/// RFC 6749, section 2.3.1.
fn basic(id: &str, secret: &str) -> Result<HeaderValue, ExchangeError> {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = BASE64_STANDARD.encode(format!("{}:{}", encoded(id), encoded(secret)));
    let mut field =
        HeaderValue::try_from(format!("Basic {pair}")).map_err(|_| ExchangeError::Unusable)?;
    field.set_sensitive(true);
    Ok(field)
}

/// What the provider gave (RFC 8693, section 2.2.1).
fn got(said: &serde_json::Map<String, Value>, subject: &str) -> Result<Got, ExchangeError> {
    let text = |name: &str| said.get(name).and_then(Value::as_str);
    let token = text("access_token").ok_or(ExchangeError::Unusable)?;
    let bearer = text("token_type").is_some_and(|kind| kind.eq_ignore_ascii_case("bearer"));
    let issued = text("issued_token_type").is_some_and(|kind| [ACCESS_TOKEN, JWT].contains(&kind));
    // RFC 6750, section 2.1.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    let good = !token.is_empty() && token.len() <= MAX_TOKEN && token.bytes().all(plain);
    // The caller's own would be a token of another audience at the application.
    if !bearer || !issued || !good || token == subject {
        return Err(ExchangeError::Unusable);
    }
    let mut field =
        HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| ExchangeError::Unusable)?;
    field.set_sensitive(true);
    let lifetime = match said.get("expires_in") {
        None => UNTOLD,
        Some(seconds) => Duration::from_secs(seconds.as_u64().ok_or(ExchangeError::Unusable)?),
    };
    Ok(Got { field, lifetime })
}

/// What a stranger wrote, fit for a record: an error code has these characters only.
fn printable(text: &str) -> String {
    let plain = |letter: &char| letter.is_ascii_alphanumeric() || "_-. ".contains(*letter);
    text.chars().filter(plain).take(64).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(said: &Value) -> Result<Got, ExchangeError> {
        got(said.as_object().unwrap(), "its-own")
    }

    #[test]
    fn only_a_bearer_token_of_the_applications_own_is_taken() {
        let good = json!({"access_token": "a.b~c", "token_type": "bearer",
            "issued_token_type": ACCESS_TOKEN, "expires_in": 40});
        let got = of(&good).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((got.field.as_bytes(), got.lifetime.as_secs()), (&b"Bearer a.b~c"[..], 40));
        assert!(got.field.is_sensitive());
        for (member, value) in [
            ("access_token", json!("its-own")),
            ("access_token", json!("")),
            ("access_token", json!("a b")),
            ("access_token", json!("a\r\nx: y")),
            ("access_token", json!("x".repeat(MAX_TOKEN + 1))),
            ("access_token", json!(null)),
            ("token_type", json!("DPoP")),
            ("token_type", json!(null)),
            ("issued_token_type", json!("urn:ietf:params:oauth:token-type:id_token")),
            ("issued_token_type", json!(null)),
            ("expires_in", json!("soon")),
            ("expires_in", json!(-1)),
        ] {
            let mut said = good.clone();
            said[member] = value.clone();
            assert_eq!(of(&said).err(), Some(ExchangeError::Unusable), "{member}: {value}");
        }
    }

    #[test]
    fn a_clients_secret_is_written_as_basic_authentication_wants_it() {
        let field = basic("the gate", "a:b%").unwrap();
        let encoded = BASE64_STANDARD.encode("the+gate:a%3Ab%25");
        assert_eq!(field.to_str().unwrap(), format!("Basic {encoded}"));
        assert!(field.is_sensitive());
    }

    #[test]
    fn a_providers_words_are_shortened_and_plain() {
        assert_eq!(printable("invalid_target\r\n\u{1b}[1m"), "invalid_target1m");
        assert_eq!(printable(&"x".repeat(100)).len(), 64);
    }
}
