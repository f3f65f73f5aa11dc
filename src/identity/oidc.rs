//! Signing in with an OpenID provider: code flow with PKCE (RFC 9700, section 2.1.1).
//!
//! INVARIANT: a login exists only after the state came back to the browser, host and provider that
//! it began with, for the first time; the issuer matched wherever it was said; the code was redeemed
//! with its verifier; and the ID token passed every check of OpenID Connect Core 1.0, section
//! 3.1.3.7. Which of them failed is recorded; tokens and codes never are.

mod backchannel;

use std::sync::Arc;

use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::header::{HeaderMap, HeaderValue};
use openidconnect::core::{CoreErrorResponseType, CoreTokenResponse};
use openidconnect::{
    AuthType, AuthorizationCode, ClientId, ClientSecret, HttpRequest, PkceCodeVerifier,
    RedirectUrl, RequestTokenError, StandardErrorResponse,
};
use url::Url;

use super::claims::{self, ClaimError, Claims};
use super::discovery::{Discovery, DiscoveryError, Metadata, plain_loopback};
use super::http::{HttpError, HttpSetupError, ProviderHttp};
use super::login::{self, LoginState, LoginStateError, LoginStates, StateError};
use super::providers::Answer;
use super::{cookie, id_token, logout};
use crate::config::model::IdentityProvider;
use crate::config::secret::Secret;
use crate::domain::canonical::Authority;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::principal::{Authentication, Principal};
use crate::domain::step_up::{SignInLevel, StepUp, StepUpError};
use crate::store::StoreError;
pub use backchannel::LogoutError;

/// Why nobody is signed in. Texts are for the audit log and hold no token, code or state.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// 503: the provider is down, slow or not itself.
    #[error("{0}")]
    ProviderUnavailable(DiscoveryError),
    /// 503: the gate's own store failed.
    #[error("{0}")]
    StoreUnavailable(StoreError),
    /// 403: the provider, or the user there, said no.
    #[error("the identity provider refused the login: `{0}`")]
    Rejected(String),
    /// 403: the sign-in is good, but not what was asked for.
    #[error("{0}")]
    NotSteppedUp(#[from] StepUpError),
    /// 400: what came back can't be trusted.
    #[error("{0}")]
    Invalid(String),
}

impl LoginError {
    /// The status of the answer.
    pub fn status(&self) -> u16 {
        match self {
            Self::ProviderUnavailable(_) | Self::StoreUnavailable(_) => 503,
            Self::Rejected(_) | Self::NotSteppedUp(_) => 403,
            Self::Invalid(_) => 400,
        }
    }

    pub(super) fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid(reason.into())
    }
}

impl From<DiscoveryError> for LoginError {
    fn from(error: DiscoveryError) -> Self {
        Self::ProviderUnavailable(error)
    }
}

impl From<HttpError> for LoginError {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::TooLarge => Self::Invalid(error.to_string()),
            other => Self::ProviderUnavailable(other.into()),
        }
    }
}

impl From<LoginStateError> for LoginError {
    fn from(error: LoginStateError) -> Self {
        match error {
            LoginStateError::Store(error) => Self::StoreUnavailable(error),
            LoginStateError::Refused(error) => error.into(),
            // `Busy` among them.
            other => Self::StoreUnavailable(StoreError::Failed(other.to_string())),
        }
    }
}

impl From<StateError> for LoginError {
    fn from(error: StateError) -> Self {
        Self::Invalid(error.to_string())
    }
}

impl From<ClaimError> for LoginError {
    fn from(error: ClaimError) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// A login that begins.
#[derive(Debug)]
pub struct LoginStart<'a> {
    /// The host, with the port that the browser uses.
    pub host: &'a Authority,
    /// Where the user wanted to go; checked here ([`login::return_to`]).
    pub return_to: &'a str,
    /// What the sign-in has to bring, where the session that there is does not do.
    pub step_up: Option<&'a StepUp>,
    pub headers: &'a HeaderMap,
}

#[derive(Debug)]
pub struct LoginRedirect {
    pub location: String,
    pub set_cookie: Vec<HeaderValue>,
}

#[derive(Debug)]
pub struct Login {
    pub principal: Arc<Principal>,
    pub authentication: Authentication,
    pub provider: Arc<str>,
    pub sid: Option<Arc<str>>,
    /// The provider's own name for the user, whatever claim the principal's id is made of.
    pub subject: Option<Arc<str>>,
    pub id_token: Option<Secret>,
    pub return_to: String,
    /// When the browser was sent to the provider.
    pub begun: Timestamp,
    /// Removes the login's own cookie.
    pub set_cookie: Vec<HeaderValue>,
}

/// One identity provider.
#[derive(Debug)]
pub struct Provider {
    pub(super) config: Arc<IdentityProvider>,
    pub(super) discovery: Discovery,
    pub(super) http: ProviderHttp,
    logins: Arc<LoginStates>,
    clock: Clock,
}

impl Provider {
    /// Makes no call: discovery waits for the first login.
    pub fn new(
        config: Arc<IdentityProvider>,
        logins: Arc<LoginStates>,
        clock: Clock,
    ) -> Result<Self, HttpSetupError> {
        let plain = plain_loopback(config.issuer.url());
        let http = ProviderHttp::start(config.ca.as_deref(), plain, config.timeout)?;
        let discovery = Discovery::new(config.issuer.clone(), http.clone(), clock.clone());
        Ok(Self { config, discovery, http, logins, clock })
    }

    /// Where the provider sends users back to. To be registered with it for every host.
    pub fn redirect_uri(host: &Authority) -> String {
        format!("https://{host}/.wicketgate/callback")
    }

    /// Begins a login: where to send the browser, and what it has to remember.
    pub async fn begin(&self, start: &LoginStart<'_>) -> Result<LoginRedirect, LoginError> {
        let metadata = self.discovery.metadata().await?;
        let state = LoginState {
            state: login::random_token()?,
            nonce: login::random_token()?,
            verifier: login::random_token()?,
            return_to: login::return_to(start.return_to),
            host: start.host.to_string(),
            provider: self.config.name.to_string(),
            expires: self.clock.now().plus(login::LIFETIME),
            step_up: start.step_up.cloned(),
        };
        let set_cookie = self.logins.seal(&state, start.headers)?;
        let challenge = digest::digest(&digest::SHA256, state.verifier.as_bytes());
        let mut scopes = vec!["openid"];
        scopes.extend(self.config.scopes.iter().map(String::as_str).filter(|s| *s != "openid"));
        let mut location = metadata.authorization_endpoint().url().clone();
        location
            .query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.config.client_id)
            .append_pair("redirect_uri", &Self::redirect_uri(start.host))
            .append_pair("scope", &scopes.join(" "))
            .append_pair("state", &state.state)
            .append_pair("nonce", &state.nonce)
            .append_pair("code_challenge", &BASE64_URL_SAFE_NO_PAD.encode(challenge))
            .append_pair("code_challenge_method", "S256");
        if let Some(step_up) = start.step_up {
            ask(&mut location, step_up);
        }
        Ok(LoginRedirect { location: location.into(), set_cookie })
    }

    /// Ends a login that began here: who it is. What of it was wrong is in the error.
    pub(super) async fn finish(
        &self,
        login: LoginState,
        answer: Answer,
        host: &Authority,
    ) -> Result<Login, LoginError> {
        let name = &self.config.name;
        let metadata = self.discovery.metadata().await?;
        check_issuer(&metadata, answer.iss.as_deref())?;
        if let Some(error) = answer.error {
            return Err(LoginError::Rejected(printable(&error)));
        }
        let code = answer.code.ok_or_else(|| LoginError::invalid("the callback has no code"))?;
        // Last before the code is redeemed: what redeems nothing writes nothing.
        self.logins.consume(&login).await?;
        let tokens = self.redeem(&metadata, &login, code, host).await?;
        let verified = self.verify(&metadata, &tokens, &login).await?;
        let userinfo = self.userinfo(&metadata, &tokens, &verified.claims).await?;
        let (principal, authentication) =
            claims::principal(name, &self.config.claims, &verified.claims, userinfo.as_ref())?;
        if let Some(asked) = &login.step_up {
            asked.check(&authentication, self.clock.now())?;
        }
        Ok(Login {
            principal: Arc::new(principal),
            authentication,
            provider: Arc::clone(name),
            sid: claims::text(&[&verified.claims], "sid")?,
            subject: claims::text(&[&verified.claims], "sub")?,
            id_token: Some(Secret::new(verified.raw)),
            return_to: login::return_to(&login.return_to),
            begun: login.expires.minus(login::LIFETIME),
            set_cookie: login::cookie_name(&login.state)
                .and_then(|name| cookie::clear(&name))
                .into_iter()
                .collect(),
        })
    }

    /// Redeems the code (RFC 6749, section 4.1.3; RFC 7636, section 4.5).
    async fn redeem(
        &self,
        metadata: &Metadata,
        login: &LoginState,
        code: String,
        host: &Authority,
    ) -> Result<CoreTokenResponse, LoginError> {
        let token_endpoint =
            metadata.token_endpoint().cloned().ok_or(DiscoveryError::NoTokenEndpoint)?;
        let redirect = RedirectUrl::new(Self::redirect_uri(host))
            .map_err(|_| LoginError::invalid("the callback's host makes no address"))?;
        let mut client = openidconnect::core::CoreClient::new(
            ClientId::new(self.config.client_id.clone()),
            metadata.issuer().clone(),
            openidconnect::core::CoreJsonWebKeySet::default(),
        )
        .set_token_uri(token_endpoint)
        .set_redirect_uri(redirect)
        .set_auth_type(auth_type(metadata));
        if let Some(secret) = &self.config.client_secret {
            client = client.set_client_secret(ClientSecret::new(secret.expose().to_owned()));
        }
        client
            .exchange_code(AuthorizationCode::new(code))
            .set_pkce_verifier(PkceCodeVerifier::new(login.verifier.clone()))
            .request_async(&self.http)
            .await
            .map_err(token_error)
    }

    async fn verify(
        &self,
        metadata: &Metadata,
        tokens: &CoreTokenResponse,
        login: &LoginState,
    ) -> Result<id_token::Verified, LoginError> {
        let expected = id_token::Expected {
            client_id: &self.config.client_id,
            issuer: metadata.issuer(),
            nonce: &login.nonce,
            now: self.clock.now(),
        };
        let keys = self.discovery.keys(false).await?;
        match id_token::verify(tokens, &keys, &expected) {
            Err(id_token::IdTokenError::UnknownKey) => {
                // The provider may have new keys.
                let keys = self.discovery.keys(true).await?;
                id_token::verify(tokens, &keys, &expected)
            }
            other => other,
        }
        .map_err(|error| LoginError::invalid(error.to_string()))
    }

    /// The claims of the userinfo endpoint, asked only when the ID token lacks one (OpenID Connect
    /// Core 1.0, section 5.3).
    async fn userinfo(
        &self,
        metadata: &Metadata,
        tokens: &CoreTokenResponse,
        id_token: &Claims,
    ) -> Result<Option<Claims>, LoginError> {
        use openidconnect::OAuth2TokenResponse;
        if claims::complete(&self.config.claims, id_token) {
            return Ok(None);
        }
        let Some(endpoint) = metadata.userinfo_endpoint() else { return Ok(None) };
        let bearer = format!("Bearer {}", tokens.access_token().secret());
        let request: HttpRequest = http::Request::builder()
            .uri(endpoint.url().as_str())
            .header(http::header::ACCEPT, "application/json")
            .header(http::header::AUTHORIZATION, bearer)
            .body(Vec::new())
            .map_err(|_| LoginError::invalid("the access token can't stand in a header"))?;
        let response = self.http.call(request).await?;
        if response.status() != http::StatusCode::OK {
            let status = response.status().as_u16();
            return Err(LoginError::invalid(format!("userinfo answered with status {status}")));
        }
        let userinfo: Claims = serde_json::from_slice(response.body())
            .map_err(|_| LoginError::invalid("userinfo is not a JSON object"))?;
        // Section 5.3.2: else the claims may be somebody else's.
        let subject = userinfo.get("sub").and_then(|sub| sub.as_str());
        if subject.is_none() || subject != id_token.get("sub").and_then(|sub| sub.as_str()) {
            return Err(LoginError::invalid("userinfo is about another subject"));
        }
        Ok(Some(userinfo))
    }

    /// The provider's logout page; none when it has none, or nothing is known of it yet.
    pub fn end_session_url(
        &self,
        id_token: Option<&Secret>,
        host: &Authority,
        state: &str,
    ) -> Option<String> {
        let metadata = self.discovery.metadata_now()?;
        let endpoint: &Url = metadata.additional_metadata().end_session_endpoint.as_ref()?;
        Some(logout::end_session_url(endpoint, &self.config.client_id, id_token, host, state))
    }

    /// What it can be asked for when a policy wants more.
    pub fn step_up_levels(&self) -> &[SignInLevel] {
        &self.config.step_up
    }

    pub fn config(&self) -> &Arc<IdentityProvider> {
        &self.config
    }

    pub fn name(&self) -> &Arc<str> {
        &self.config.name
    }

    /// What people know the provider by.
    pub fn display_name(&self) -> &str {
        &self.config.display_name
    }

    /// Where the provider's own session ends, as far as is known without asking.
    pub fn end_session_endpoint(&self) -> Option<String> {
        let metadata = self.discovery.metadata_now()?;
        metadata.additional_metadata().end_session_endpoint.as_ref().map(Url::to_string)
    }

    /// Whether the last question to the provider was answered; `None` before the first.
    pub fn is_reachable(&self) -> Option<bool> {
        self.discovery.is_reachable()
    }
}

/// RFC 9207, section 2.4: against the mix-up of providers.
fn check_issuer(metadata: &Metadata, said: Option<&str>) -> Result<(), LoginError> {
    let promised = metadata.additional_metadata().authorization_response_iss_parameter_supported;
    match said {
        Some(iss) if iss == metadata.issuer().as_str() => Ok(()),
        Some(_) => Err(LoginError::invalid("the callback comes from another issuer")),
        None if promised => Err(LoginError::invalid("the callback does not name its issuer")),
        None => Ok(()),
    }
}

/// `client_secret_basic` is what a provider that says nothing takes (OpenID Connect Discovery 1.0,
/// section 3).
pub(super) fn auth_type(metadata: &Metadata) -> AuthType {
    use openidconnect::core::CoreClientAuthMethod as Method;
    match metadata.token_endpoint_auth_methods_supported() {
        Some(methods)
            if methods.contains(&Method::ClientSecretPost)
                && !methods.contains(&Method::ClientSecretBasic) =>
        {
            AuthType::RequestBody
        }
        _ => AuthType::BasicAuth,
    }
}

/// Asks for a stronger or more recent sign-in (OpenID Connect Core 1.0, section 3.1.2.1).
fn ask(location: &mut Url, step_up: &StepUp) {
    let mut parameters = location.query_pairs_mut();
    if let Some(acr) = &step_up.acr {
        parameters.append_pair("acr_values", acr);
    }
    if let Some(seconds) = step_up.max_age {
        parameters.append_pair("max_age", &seconds.to_string());
        if step_up.acr.is_none() {
            // Else a provider that takes no notice of `max_age` would answer at once, in vain.
            parameters.append_pair("prompt", "login");
        }
    }
}

fn token_error(
    error: RequestTokenError<HttpError, StandardErrorResponse<CoreErrorResponseType>>,
) -> LoginError {
    match error {
        RequestTokenError::Request(error) => error.into(),
        // `invalid_grant` is a code that was used, expired or stolen (RFC 6749, section 5.2).
        RequestTokenError::ServerResponse(response) => LoginError::invalid(format!(
            "the identity provider did not redeem the code: `{}`",
            printable(response.error().as_ref())
        )),
        RequestTokenError::Parse(..) | RequestTokenError::Other(_) => {
            LoginError::invalid("the identity provider's token response can't be read")
        }
    }
}

/// What a stranger wrote, fit for a record: an error code has these characters only.
fn printable(text: &str) -> String {
    text.chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
        .take(64)
        .collect()
}
