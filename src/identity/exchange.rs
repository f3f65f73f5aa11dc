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

use http::StatusCode;
use http::header::HeaderValue;
use parking_lot::Mutex;
use serde_json::Value;

use super::client_auth::PostError;
use super::discovery::DiscoveryError;
use super::http::HttpError;
use super::oidc::{Provider, printable};
use super::provider_token::{ProviderToken, bearer_field};
use super::strict;
use crate::config::model::TokenExchange;
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

/// Credentials whose tokens are kept. There are as many for each as routes that want different ones.
const MOST: usize = 16_384;

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
    /// 502: nobody was asked.
    #[error("the token can't be exchanged: {0}")]
    Own(String),
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

impl From<PostError> for ExchangeError {
    fn from(error: PostError) -> Self {
        match error {
            PostError::Http(HttpError::TooLarge) | PostError::Unwritable => Self::Unusable,
            PostError::Http(other) => Self::Unavailable(other.into()),
            PostError::Key(error) => Self::Own(error.to_string()),
        }
    }
}

/// A credential's tokens, each with what it was got for.
type Slots = Vec<(TokenExchange, Slot)>;

/// What a token is got for.
pub(super) struct Subject<'a> {
    /// Of the credential.
    pub id: SessionId,
    pub token: &'a str,
    /// The same token where it is a session's, which gets another now and then.
    pub of_session: Option<Arc<ProviderToken>>,
    /// When what is got for it has to be over, too.
    pub ends: Option<Timestamp>,
}

/// What came of the last try.
#[derive(Clone)]
struct Tried {
    of_session: Option<Arc<ProviderToken>>,
    outcome: Result<HeaderValue, ExchangeError>,
    until: Timestamp,
}

impl Tried {
    /// A session may have another token by now.
    fn serves(&self, subject: &Subject<'_>, now: Timestamp) -> bool {
        now < self.until && self.of_session == subject.of_session
    }
}

/// Locked while the provider is asked, so that one answer serves all who wait.
type Slot = Arc<tokio::sync::Mutex<Option<Tried>>>;

/// The tokens that were got.
#[derive(Default)]
pub struct Exchanged(Mutex<HashMap<SessionId, Slots>>);

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
    pub(super) async fn get(
        &self,
        provider: &Provider,
        subject: Subject<'_>,
        wanted: &TokenExchange,
        now: Timestamp,
    ) -> Result<HeaderValue, ExchangeError> {
        let slot = self.slot(subject.id, wanted);
        let mut tried = slot.lock().await;
        if let Some(last) = tried.as_ref().filter(|last| last.serves(&subject, now)) {
            return last.outcome.clone();
        }
        let asked = provider.exchange(subject.token, wanted).await;
        let (outcome, until) = match asked {
            Ok(got) => {
                let margin = BEFORE_END.min(got.lifetime / 4);
                let until = now.plus(got.lifetime.saturating_sub(margin));
                (Ok(got.field), subject.ends.map_or(until, |ends| until.min(ends)))
            }
            Err(error) => {
                tracing::warn!(%error, provider = %provider.name(), "a token was not exchanged");
                (Err(error), now.plus(PAUSE))
            }
        };
        let of_session = subject.of_session;
        *tried = Some(Tried { of_session, outcome: outcome.clone(), until });
        outcome
    }

    fn slot(&self, id: SessionId, wanted: &TokenExchange) -> Slot {
        let mut kept = self.0.lock();
        if kept.len() >= MOST && !kept.contains_key(&id) {
            // Those in use stay with whoever uses them; the others cost one more question each.
            kept.clear();
        }
        let slots = kept.entry(id).or_default();
        if let Some((_, slot)) = slots.iter().find(|(got_for, _)| got_for == wanted) {
            return Arc::clone(slot);
        }
        let slot = Slot::default();
        slots.push((wanted.clone(), Arc::clone(&slot)));
        slot
    }

    /// Drops what was got for a credential.
    pub fn forget(&self, id: &SessionId) {
        self.0.lock().remove(id);
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
        let endpoint = metadata.token_endpoint().ok_or(DiscoveryError::NoTokenEndpoint)?;
        let mut parameters = vec![
            ("grant_type", GRANT),
            ("subject_token", subject),
            ("subject_token_type", ACCESS_TOKEN),
            ("requested_token_type", ACCESS_TOKEN),
            ("audience", &wanted.audience),
        ];
        if !wanted.scope.is_empty() {
            parameters.push(("scope", &wanted.scope));
        }
        let response = self.post_as_client(&metadata, endpoint.url(), &parameters).await?;
        let said = strict::object(response.body()).ok_or(ExchangeError::Unusable)?;
        if response.status() != StatusCode::OK {
            let code = said.get("error").and_then(Value::as_str).unwrap_or("none");
            return Err(ExchangeError::Refused(printable(code)));
        }
        got(&said, subject)
    }
}

/// What the provider gave (RFC 8693, section 2.2.1).
fn got(said: &serde_json::Map<String, Value>, subject: &str) -> Result<Got, ExchangeError> {
    let text = |name: &str| said.get(name).and_then(Value::as_str);
    let token = text("access_token").ok_or(ExchangeError::Unusable)?;
    let bearer = text("token_type").is_some_and(|kind| kind.eq_ignore_ascii_case("bearer"));
    let issued = text("issued_token_type").is_some_and(|kind| [ACCESS_TOKEN, JWT].contains(&kind));
    // The caller's own would be a token of another audience at the application.
    if !bearer || !issued || token == subject {
        return Err(ExchangeError::Unusable);
    }
    let field = bearer_field(token).ok_or(ExchangeError::Unusable)?;
    let lifetime = match said.get("expires_in") {
        None => UNTOLD,
        Some(seconds) => Duration::from_secs(seconds.as_u64().ok_or(ExchangeError::Unusable)?),
    };
    Ok(Got { field, lifetime })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::identity::provider_token::MAX_TOKEN;

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
    fn what_was_got_for_a_session_is_found_under_what_it_was_got_for_and_dropped_with_it() {
        let kept = Exchanged::default();
        let wanted = |audience: &str| TokenExchange { audience: audience.into(), scope: "".into() };
        let (one, other) = (SessionId([1; 32]), SessionId([2; 32]));
        let first = kept.slot(one, &wanted("a"));
        let others = kept.slot(other, &wanted("a"));
        assert!(Arc::ptr_eq(&first, &kept.slot(one, &wanted("a"))));
        assert!(!Arc::ptr_eq(&first, &kept.slot(one, &wanted("b"))));
        assert!(!Arc::ptr_eq(&first, &others));
        kept.forget(&one);
        assert_eq!(kept.0.lock().len(), 1);
        assert!(!Arc::ptr_eq(&first, &kept.slot(one, &wanted("a"))));
        assert!(Arc::ptr_eq(&others, &kept.slot(other, &wanted("a"))));
    }

    #[test]
    fn a_token_got_for_another_of_the_sessions_tokens_does_not_serve() {
        let now = Timestamp::from_seconds(1_800_000_000);
        let token = |text| ProviderToken::new(text, None).map(Arc::new);
        let subject =
            |of_session| Subject { id: SessionId([1; 32]), token: "", of_session, ends: None };
        let until = now.plus(PAUSE);
        let outcome = Err(ExchangeError::Unusable);
        let last = Tried { of_session: token("before"), outcome, until };
        assert!(
            last.serves(&subject(token("before")), now),
            "equal, and read from the store again"
        );
        assert!(!last.serves(&subject(token("before")), until));
        assert!(!last.serves(&subject(token("after")), now));
        assert!(!last.serves(&subject(None), now));
    }
}
