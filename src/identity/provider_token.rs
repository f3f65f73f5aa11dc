//! The access token that came with a sign-in, for applications that are to get it, or one in
//! exchange for it.
//!
//! INVARIANT: it is one that can stand in `Authorization: Bearer` (RFC 6750, section 2.1) and was
//! issued as such; nothing of it is ever printed.

use std::fmt;

use http::HeaderValue;
use openidconnect::OAuth2TokenResponse;
use openidconnect::core::{CoreTokenResponse, CoreTokenType};
use serde::{Deserialize, Serialize};

use crate::domain::clock::Timestamp;

/// Longest token that is kept, in bytes.
pub const MAX_TOKEN: usize = 16 * 1024;

const SCHEME: &str = "Bearer ";

/// A provider's access token for one of its users.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct ProviderToken {
    /// `Bearer ...`, made once: requests clone it.
    field: HeaderValue,
    expires: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
struct Written {
    token: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<Timestamp>,
}

#[derive(Debug, thiserror::Error)]
#[error("the access token can't stand in a header")]
struct Unfit;

impl fmt::Debug for ProviderToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderToken").field("expires", &self.expires).finish_non_exhaustive()
    }
}

impl ProviderToken {
    /// `None` for what can't be a bearer token.
    pub fn new(text: &str, expires: Option<Timestamp>) -> Option<Self> {
        let field = bearer_field(text)?;
        Some(Self { field, expires })
    }

    /// That of a token response (RFC 6749, section 5.1) to a request of `asked`. `None` when it is
    /// of another type, as one that is bound to a key of the gate's would be, or unfit.
    pub fn of(response: &CoreTokenResponse, asked: Timestamp) -> Option<Self> {
        let bearer = *response.token_type() == CoreTokenType::Bearer;
        let expires = response.expires_in().map(|lifetime| asked.plus(lifetime));
        Self::new(response.access_token().secret(), expires).filter(|_| bearer)
    }

    /// The same by another clock: what is `then` by the one it was made with is `now` by the other.
    #[must_use]
    pub fn by_clock(self, then: Timestamp, now: Timestamp) -> Self {
        let expires = self.expires.map(|at| now.plus(at.since(then)));
        Self { expires, ..self }
    }

    /// `Bearer ...`, marked as sensitive.
    pub fn field(&self) -> HeaderValue {
        self.field.clone()
    }

    /// The token alone.
    pub fn text(&self) -> &str {
        let field = self.field.to_str().unwrap_or_default();
        field.strip_prefix(SCHEME).unwrap_or_default()
    }

    /// Its end, where the provider has told one.
    pub fn expires(&self) -> Option<Timestamp> {
        self.expires
    }

    /// One whose end is not told is taken to be good: the application will say.
    pub fn is_good(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }
}

/// `Bearer ...` for a token that it can be written with (RFC 6750, section 2.1). Sensitive.
pub(super) fn bearer_field(text: &str) -> Option<HeaderValue> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    let fits = !text.is_empty() && text.len() <= MAX_TOKEN && text.bytes().all(plain);
    let mut field = HeaderValue::try_from(format!("{SCHEME}{text}")).ok().filter(|_| fits)?;
    field.set_sensitive(true);
    Some(field)
}

impl TryFrom<Written> for ProviderToken {
    type Error = Unfit;

    fn try_from(written: Written) -> Result<Self, Unfit> {
        Self::new(&written.token, written.expires).ok_or(Unfit)
    }
}

impl From<ProviderToken> for Written {
    fn from(token: ProviderToken) -> Self {
        Self { token: token.text().to_owned(), expires: token.expires }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn of(response: &Value) -> Option<ProviderToken> {
        ProviderToken::of(&serde_json::from_value(response.clone()).unwrap(), NOW)
    }

    #[test]
    fn only_what_can_be_a_bearer_token_is_kept() {
        let good = json!({"access_token": "a.b~c", "token_type": "bearer", "expires_in": 40});
        let token = of(&good).unwrap();
        assert_eq!((token.text(), token.field().as_bytes()), ("a.b~c", &b"Bearer a.b~c"[..]));
        assert!(token.is_good(NOW.plus(Duration::from_millis(39_999))));
        assert!(!token.is_good(NOW.plus(Duration::from_secs(40))));
        for (member, value) in [
            ("access_token", json!("a b")),
            ("access_token", json!("a\r\nx: y")),
            ("access_token", json!("")),
            ("access_token", json!("x".repeat(MAX_TOKEN + 1))),
            ("token_type", json!("DPoP")),
        ] {
            let mut response = good.clone();
            response[member] = value.clone();
            assert_eq!(of(&response), None, "{member}: {value}");
        }
    }

    #[test]
    fn one_whose_end_is_not_told_stays_good() {
        let token = of(&json!({"access_token": "a", "token_type": "Bearer"})).unwrap();
        assert_eq!(token.expires(), None);
        assert!(token.is_good(NOW.plus(Duration::from_secs(1 << 40))));
    }

    #[test]
    fn it_is_never_printed_and_reads_back_as_it_was() {
        let token = ProviderToken::new("abc.def", Some(NOW)).unwrap();
        assert!(!format!("{token:?} {:?}", token.field()).contains("abc"));
        let written = serde_json::to_string(&token).unwrap();
        assert_eq!(serde_json::from_str::<ProviderToken>(&written).unwrap(), token);
        let changed = written.replace("abc", "a c");
        assert!(serde_json::from_str::<ProviderToken>(&changed).is_err());
    }

    #[test]
    fn its_end_is_as_far_away_by_another_clock() {
        let token = ProviderToken::new("a", Some(NOW.plus(Duration::from_secs(40)))).unwrap();
        let ahead = NOW.plus(Duration::from_secs(3600));
        let later = token.clone().by_clock(NOW, ahead);
        assert_eq!(later.expires(), Some(ahead.plus(Duration::from_secs(40))));
        let over = token.by_clock(NOW.plus(Duration::from_secs(50)), ahead);
        assert!(!over.is_good(ahead));
    }
}
