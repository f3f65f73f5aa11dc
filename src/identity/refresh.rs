//! Refresh tokens at the provider (RFC 6749, section 6; OpenID Connect Core 1.0, section 12).
//!
//! INVARIANT: a refresh tells of the user of the sign-in, or of nobody: the same `sub`, the same
//! session of the provider's, the same sign-in, the same id here. How the user signed in is not told
//! anew, because a refresh is no sign-in.
//! INVARIANT: that the provider can't be asked is never taken for its "no", nor the reverse.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use openidconnect::core::{CoreErrorResponseType, CoreTokenResponse};
use openidconnect::{OAuth2TokenResponse, RequestTokenError, StandardErrorResponse, TokenResponse};

use super::claims::{self, Claims};
use super::discovery::DiscoveryError;
use super::http::HttpError;
use super::id_token::{self, IdTokenError, SaidNonce};
use super::oidc::{LoginError, Provider, UserInfoError, VerifyError, printable};
use super::outage::Place;
use super::provider_token::ProviderToken;
use crate::config::model::Refresh;
use crate::config::secret::Secret;
use crate::domain::clock::Timestamp;
use crate::domain::principal::Principal;

/// Longest refresh token that is kept, in bytes.
const MAX_TOKEN: usize = 16 * 1024;

/// The errors of a token endpoint that say that this sign-in is over (RFC 6749, section 5.2; OpenID
/// Connect Core 1.0, section 3.1.2.6, as some say it there, too). All others are about the gate.
const OVER: [&str; 6] = [
    "invalid_grant",
    "access_denied",
    "login_required",
    "interaction_required",
    "consent_required",
    "account_selection_required",
];

/// Errors that say nothing about a session: others will get them, too (section 5.2).
const FOR_ALL: [&str; 5] = [
    "invalid_client",
    "unauthorized_client",
    "unsupported_grant_type",
    "server_error",
    "temporarily_unavailable",
];

/// What a sign-in brought to be refreshed with.
#[derive(Clone, Debug)]
pub struct RefreshToken {
    pub token: Secret,
    /// Of the access token beside it, where the provider said.
    pub lifetime: Option<Duration>,
    /// When the provider was asked for it, by the system's clock, where that is known.
    pub asked: Option<Timestamp>,
}

/// What is known of a session's user, and has to be so still.
#[derive(Clone, Copy, Debug)]
pub struct Before<'a> {
    pub token: &'a Secret,
    pub principal: &'a Principal,
    pub subject: Option<&'a str>,
    pub sid: Option<&'a str>,
    pub auth_time: Option<Timestamp>,
    /// Of the sign-in.
    pub nonce: Option<&'a str>,
    pub id_token: Option<&'a Secret>,
}

/// What the provider says now.
#[derive(Debug)]
pub struct Renewed {
    pub principal: Arc<Principal>,
    /// In place of the former, where there is a new one.
    pub id_token: Option<Secret>,
    /// In place of the one that was used, which may be worth nothing any more.
    pub token: Option<Secret>,
    /// By the system's clock.
    pub access_token: Option<ProviderToken>,
    pub lifetime: Option<Duration>,
}

/// Why nothing new is known. The texts hold no token.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// The session is over.
    #[error("the identity provider refuses to refresh the session: `{0}`")]
    Refused(String),
    /// The session is over.
    #[error("what the identity provider says now can't be taken for its user: {0}")]
    Changed(String),
    /// Nothing is known.
    #[error("{cause}")]
    Unavailable {
        cause: String,
        /// Another would fare the same.
        for_all: bool,
        /// The token to use from now on. The former one was used.
        rotated: Option<Secret>,
    },
    /// Nothing is known, and nobody was asked.
    #[error("the identity provider failed a moment ago; the next try is due shortly")]
    BackingOff,
    /// Nothing is known, and nobody was asked.
    #[error("too many calls to the identity provider are under way; the next try is due shortly")]
    NoPlace,
}

impl RefreshError {
    pub(super) fn unavailable(cause: impl ToString, for_all: bool) -> Self {
        Self::Unavailable { cause: cause.to_string(), for_all, rotated: None }
    }

    /// The same once the token was used: `token` is the one to use from now on.
    fn with(self, token: Option<Secret>) -> Self {
        match self {
            Self::Unavailable { cause, for_all, .. } => {
                Self::Unavailable { cause, for_all, rotated: token }
            }
            // It was asked, and for this session there is no answer.
            Self::BackingOff | Self::NoPlace => {
                Self::Unavailable { cause: self.to_string(), for_all: false, rotated: token }
            }
            over => over,
        }
    }
}

impl From<DiscoveryError> for RefreshError {
    fn from(error: DiscoveryError) -> Self {
        match error {
            DiscoveryError::Http(HttpError::Busy) => Self::NoPlace,
            error => Self::unavailable(error, true),
        }
    }
}

impl From<HttpError> for RefreshError {
    fn from(error: HttpError) -> Self {
        if matches!(error, HttpError::Busy) {
            // Others call it: that says nothing about the provider.
            return Self::NoPlace;
        }
        let for_all = !matches!(error, HttpError::TooLarge | HttpError::TooDeep);
        Self::unavailable(error, for_all)
    }
}

impl From<VerifyError> for RefreshError {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Keys(error) => error.into(),
            // The provider's keys or clock, or ours.
            VerifyError::IdToken(
                error @ (IdTokenError::UnknownKey | IdTokenError::Time | IdTokenError::Missing),
            ) => Self::unavailable(error, false),
            VerifyError::IdToken(error) => Self::Changed(error.to_string()),
        }
    }
}

impl From<UserInfoError> for RefreshError {
    fn from(error: UserInfoError) -> Self {
        match error {
            UserInfoError::Http(error) => error.into(),
            UserInfoError::AnotherSubject => Self::Changed(error.to_string()),
            other => Self::unavailable(other, false),
        }
    }
}

/// Who is asked about users that signed in earlier.
#[async_trait]
pub trait Renews: std::fmt::Debug + Send + Sync {
    /// Whether asking makes sense now, as far as is known. A hint, that costs nothing.
    fn may_ask(&self) -> bool {
        true
    }

    /// The bound on [`renew`](Self::renew): the calls that it takes, one after the other.
    fn patience(&self) -> Duration;

    /// Waits for room to ask in. Before a session is anybody's to refresh: who waits here holds
    /// nobody else off.
    ///
    /// # Errors
    /// `NoPlace`.
    async fn place(&self) -> Result<Place<'_>, RefreshError>;

    /// Uses the refresh token. Once this was called, only what comes of it may be good.
    async fn renew(&self, before: &Before<'_>, place: Place<'_>) -> Result<Renewed, RefreshError>;
}

#[async_trait]
impl Renews for Provider {
    fn may_ask(&self) -> bool {
        !self.refreshes.is_left_alone()
    }

    fn patience(&self) -> Duration {
        // A probe, tokens and userinfo: for each a line and the call. The rest is at hand, or was
        // asked for without anything being used up.
        self.config.timeout * 6
    }

    async fn place(&self) -> Result<Place<'_>, RefreshError> {
        self.refreshes.place(self.config.timeout).await
    }

    async fn renew(&self, before: &Before<'_>, place: Place<'_>) -> Result<Renewed, RefreshError> {
        let turn = self.refreshes.turn(place)?;
        let renewed = match turn.is_probe() {
            // With something that can be asked twice. A provider that hangs may use up a token later,
            // when nobody waits for the answer any more.
            true => match self.discovery.asked_anew().await {
                Ok(()) => self.ask(before).await,
                Err(error) => Err(error.into()),
            },
            false => self.ask(before).await,
        };
        match &renewed {
            Err(RefreshError::Unavailable { cause, for_all: true, .. }) => {
                self.refreshes.failed(&turn, &self.config.name, cause);
            }
            Err(RefreshError::BackingOff | RefreshError::NoPlace) => {
                self.refreshes.not_asked(&turn);
            }
            // Whatever it said: it was there.
            _ => self.refreshes.answered(&self.config.name),
        }
        renewed
    }
}

impl Provider {
    /// How often sessions are refreshed; `None` where they are not.
    pub fn pace(&self) -> Option<Refresh> {
        self.config.refresh
    }

    /// How long a request waits for a refresh.
    pub fn timeout(&self) -> Duration {
        self.config.timeout
    }

    /// Whether it was asked in vain last.
    pub fn is_out(&self) -> bool {
        self.refreshes.is_out()
    }

    async fn ask(&self, before: &Before<'_>) -> Result<Renewed, RefreshError> {
        let metadata = self.discovery.metadata().await?;
        let asked = self.clock.now();
        let tokens = self.redeem_again(&metadata, before.token).await?;
        let given = of(&tokens, asked);
        let lifetime = tokens.expires_in();
        match self.renewed(&metadata, &tokens, before).await {
            Ok((principal, id_token)) => {
                let token = given.map(|given| given.token);
                let access_token = ProviderToken::of(&tokens, asked);
                let principal = Arc::new(principal);
                Ok(Renewed { principal, id_token, token, access_token, lifetime })
            }
            Err(error) => Err(error.with(given.map(|given| given.token))),
        }
    }

    async fn renewed(
        &self,
        metadata: &super::discovery::Metadata,
        tokens: &CoreTokenResponse,
        before: &Before<'_>,
    ) -> Result<(Principal, Option<Secret>), RefreshError> {
        let verified = match tokens.id_token() {
            None => None,
            Some(_) => {
                let nonce = SaidNonce::Optional(before.nonce);
                Some(self.verify(metadata, tokens, nonce).await?)
            }
        };
        let (claims, userinfo, raw) = match verified {
            Some(verified) => {
                same_sign_in(&verified.claims, before)?;
                let userinfo = self.userinfo(metadata, tokens, &verified.claims).await?;
                (verified.claims, userinfo, Some(Secret::new(verified.raw)))
            }
            // Section 12.2 leaves it to the provider. What its last one says stands, but for what
            // userinfo says now.
            None => {
                let known = before.id_token.and_then(|raw| id_token::payload(raw.expose()));
                let mut claims = known.ok_or_else(|| changed("there is no ID token"))?;
                if let Some(now) = self.userinfo_now(metadata, tokens, &claims).await? {
                    claims.extend(now);
                }
                (claims, None, None)
            }
        };
        let (name, names) = (&self.config.name, &self.config.claims);
        let (principal, _) = claims::principal(name, names, &claims, userinfo.as_ref())
            .map_err(|error| changed(&error.to_string()))?;
        if principal.id != before.principal.id {
            return Err(changed("the user has another id"));
        }
        Ok((principal, raw))
    }
}

fn changed(why: &str) -> RefreshError {
    RefreshError::Changed(why.to_owned())
}

/// Section 12.2. A `sid` that changed would make the session one that no logout token means.
fn same_sign_in(claims: &Claims, before: &Before<'_>) -> Result<(), RefreshError> {
    let text = |name| claims.get(name).and_then(|value| value.as_str());
    if text("sub").is_none() || text("sub") != before.subject {
        return Err(changed("the ID token is about another subject"));
    }
    if before.sid.is_some() && text("sid").is_some_and(|sid| Some(sid) != before.sid) {
        return Err(changed("the ID token is of another session"));
    }
    let auth_time = claims.get("auth_time").and_then(|value| value.as_i64());
    if let (Some(before), Some(now)) = (before.auth_time, auth_time)
        && before != Timestamp::from_seconds(now)
    {
        return Err(changed("the ID token is of another sign-in"));
    }
    Ok(())
}

/// What the token response to a request of `asked` brings to be refreshed with.
pub(super) fn of(tokens: &CoreTokenResponse, asked: Timestamp) -> Option<RefreshToken> {
    let token = tokens.refresh_token()?.secret();
    let good = !token.is_empty() && token.len() <= MAX_TOKEN;
    good.then(|| RefreshToken {
        token: Secret::new(token.as_str()),
        lifetime: tokens.expires_in(),
        asked: Some(asked),
    })
}

pub(super) fn refused(
    error: RequestTokenError<HttpError, StandardErrorResponse<CoreErrorResponseType>>,
) -> RefreshError {
    match error {
        RequestTokenError::Request(error) => error.into(),
        RequestTokenError::ServerResponse(response) => {
            let code = response.error().as_ref();
            if OVER.contains(&code) {
                return RefreshError::Refused(code.to_owned());
            }
            let (code, for_all) = (printable(code), FOR_ALL.contains(&code));
            let cause = format!("the identity provider does not refresh for this client: `{code}`");
            RefreshError::unavailable(cause, for_all)
        }
        RequestTokenError::Parse(..) | RequestTokenError::Other(_) => {
            RefreshError::unavailable("the identity provider's token response can't be read", false)
        }
    }
}

impl From<LoginError> for RefreshError {
    /// What can't even be asked, for nobody.
    fn from(error: LoginError) -> Self {
        Self::unavailable(error, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_the_token_was_used_the_one_that_came_for_it_is_kept_whatever_came_after() {
        let discovery = |error| RefreshError::from(DiscoveryError::Http(error));
        for (error, about_all) in [
            (HttpError::Busy.into(), false),
            (discovery(HttpError::Busy), false),
            (discovery(HttpError::Timeout), true),
            (UserInfoError::Status(500).into(), false),
        ] {
            let error: RefreshError = error;
            let said = error.to_string();
            match error.with(Some(Secret::new("r-1"))) {
                RefreshError::Unavailable { cause, for_all, rotated: Some(token) } => {
                    assert_eq!((cause, for_all, token.expose()), (said, about_all, "r-1"));
                }
                other => panic!("{other:?}"),
            }
        }
        let over = RefreshError::Changed("another".to_owned()).with(Some(Secret::new("r-1")));
        assert!(matches!(over, RefreshError::Changed(_)), "that stays a no");
    }
}
