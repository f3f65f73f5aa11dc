//! Signing in with an OpenID provider: code flow with PKCE (RFC 9700, section 2.1.1).
//!
//! INVARIANT: a login exists only after the state came back to the browser, host and provider that
//! it began with, for the first time; the issuer matched wherever it was said; the code was redeemed
//! with its verifier; and the ID token passed every check of OpenID Connect Core 1.0, section
//! 3.1.3.7. Which of them failed is recorded; tokens and codes never are.

mod backchannel;
mod checks;

use std::sync::Arc;

use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::header::{HeaderMap, HeaderValue};
use url::Url;

use super::claims::{self, ClaimError};
use super::client_key::{ClientKey, ClientKeyError};
use super::discovery::{Discovery, DiscoveryError, Metadata, plain_loopback};
use super::http::{HttpError, HttpSetupError, ProviderHttp};
use super::login::{self, LoginState, LoginStateError, LoginStates, Part, StateError};
use super::provider_token::ProviderToken;
use super::providers::{Answer, Callback};
use super::refresh::{self, RefreshToken};
use super::vouched::VouchedBy;
use super::{id_token::SaidNonce, logout, outage, revocation};
use crate::config::model::{ClientAuthentication, IdentityProvider};
use crate::config::secret::Secret;
use crate::domain::canonical::Authority;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::principal::{Authentication, Principal};
use crate::domain::step_up::{SignInLevel, StepUp, StepUpError};
use crate::store::StoreError;
pub use backchannel::LogoutError;
pub use checks::{UserInfoError, VerifyError};

/// Why nobody is signed in. Texts are for the audit log and hold no token, code or state.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// 503: the provider is down, slow or not itself.
    #[error("{0}")]
    ProviderUnavailable(DiscoveryError),
    /// 503: the gate's own store failed.
    #[error("{0}")]
    StoreUnavailable(StoreError),
    /// 503: as things are configured, nobody could tell whose answer comes back.
    #[error(
        "with several identity providers one that does not name itself in its answers (`iss`, RFC 9207) needs a redirect URI of its own; set its `callback` to `own`"
    )]
    NobodysAnswer,
    /// 403: the provider, or the user there, said no.
    #[error("the identity provider refused the login: `{0}`")]
    Rejected(String),
    /// 403: the sign-in is good, but not what was asked for.
    #[error("{0}")]
    NotSteppedUp(#[from] StepUpError),
    /// 403: the sign-in is good, but its user was signed out since it began.
    #[error("the user was signed out while this sign-in was under way")]
    SignedOut,
    /// 400: what came back can't be trusted.
    #[error("{0}")]
    Invalid(String),
}

impl LoginError {
    /// The status of the answer.
    pub fn status(&self) -> u16 {
        match self {
            Self::ProviderUnavailable(_) | Self::StoreUnavailable(_) | Self::NobodysAnswer => 503,
            Self::Rejected(_) | Self::NotSteppedUp(_) | Self::SignedOut => 403,
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
            HttpError::TooLarge | HttpError::TooDeep => Self::Invalid(error.to_string()),
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

impl From<ClientKeyError> for LoginError {
    fn from(error: ClientKeyError) -> Self {
        Self::Invalid(error.to_string())
    }
}

impl From<ClaimError> for LoginError {
    fn from(error: ClaimError) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// Why there is no client of a provider: a matter of configuration.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    #[error(transparent)]
    Http(#[from] HttpSetupError),
    #[error(transparent)]
    Key(#[from] ClientKeyError),
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
    /// Whether there are other providers whose answers could be passed off as this one's.
    pub several: bool,
    pub part: Part,
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
    pub vouched_by: VouchedBy,
    pub sid: Option<Arc<str>>,
    /// The provider's own name for the user, whatever claim the principal's id is made of.
    pub subject: Option<Arc<str>>,
    pub id_token: Option<Secret>,
    pub access_token: Option<ProviderToken>,
    /// Where the provider gave one, and the configuration wants it used.
    pub refresh: Option<RefreshToken>,
    pub return_to: String,
    /// When the browser was sent to the provider.
    pub begun: Timestamp,
    /// Removes the login's own cookie.
    pub set_cookie: Vec<HeaderValue>,
    /// The protected host, and the state of its part, that it is to be handed over to.
    pub for_host: Option<(String, String)>,
}

/// One identity provider.
#[derive(Debug)]
pub struct Provider {
    pub(super) config: Arc<IdentityProvider>,
    vouched_by: VouchedBy,
    pub(super) key: Option<ClientKey>,
    pub(super) discovery: Discovery,
    pub(super) http: ProviderHttp,
    logins: Arc<LoginStates>,
    pub(super) refreshes: outage::Refreshes,
    pub(super) revocations: revocation::Places,
    pub(super) clock: Clock,
}

impl Provider {
    /// Makes no call: discovery waits for the first login.
    pub fn new(
        config: Arc<IdentityProvider>,
        logins: Arc<LoginStates>,
        clock: Clock,
    ) -> Result<Self, ProviderError> {
        let key = check_key(&config)?;
        let plain = plain_loopback(config.issuer.url());
        let http = ProviderHttp::start(config.ca.as_deref(), plain, config.timeout)?;
        let discovery = Discovery::new(config.issuer.clone(), http.clone(), clock.clone());
        let vouched_by = VouchedBy::new(config.issuer.as_str(), &config.client_id);
        let refreshes = outage::Refreshes::default();
        Ok(Self {
            config,
            vouched_by,
            key,
            discovery,
            http,
            logins,
            refreshes,
            revocations: revocation::Places::default(),
            clock,
        })
    }

    /// Where the provider sends users back to. To be registered with it for every host.
    pub(super) fn redirect_uri(&self, host: &Authority) -> String {
        match self.config.own_callback {
            true => format!("https://{host}/.wicketgate/callback/{}", self.config.name),
            false => format!("https://{host}/.wicketgate/callback"),
        }
    }

    /// Begins a login: where to send the browser, and what it has to remember.
    pub async fn begin(&self, start: &LoginStart<'_>) -> Result<LoginRedirect, LoginError> {
        let metadata = self.discovery.metadata().await?;
        if start.several && !self.config.own_callback && !names_itself(&metadata) {
            return Err(LoginError::NobodysAnswer);
        }
        let state = LoginState {
            state: login::random_token()?,
            nonce: login::random_token()?,
            verifier: login::random_token()?,
            return_to: login::return_to(start.return_to),
            host: start.host.to_string(),
            provider: self.config.name.to_string(),
            expires: self.clock.now().plus(login::LIFETIME),
            step_up: start.step_up.cloned(),
            part: start.part.clone(),
        };
        let set_cookie = self.logins.seal(&state, start.headers)?;
        let challenge = digest::digest(&digest::SHA256, state.verifier.as_bytes());
        let mut scopes = vec!["openid"];
        scopes.extend(self.config.scopes.iter().map(String::as_str).filter(|s| *s != "openid"));
        let mut location = metadata.authorization_endpoint().url().clone();
        location
            .query_pairs_mut()
            .extend_pairs(self.parameters(start.step_up))
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.config.client_id)
            .append_pair("redirect_uri", &self.redirect_uri(start.host))
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

    /// The configured parameters, without those that the step-up itself says.
    fn parameters(&self, step_up: Option<&StepUp>) -> impl Iterator<Item = (&str, &str)> {
        let said = move |name: &str| {
            step_up.is_some_and(|asked| match name {
                "acr_values" => asked.acr.is_some(),
                "max_age" => asked.max_age.is_some(),
                "prompt" => asked.acr.is_none() && asked.max_age.is_some(),
                _ => false,
            })
        };
        let all = self.config.parameters.iter().map(|(name, value)| (&**name, &**value));
        all.filter(move |(name, _)| !said(name))
    }

    /// Ends a login that began here: who it is. What of it was wrong is in the error.
    pub(super) async fn finish(
        &self,
        login: LoginState,
        answer: Answer,
        callback: &Callback<'_>,
    ) -> Result<Login, LoginError> {
        let name = &self.config.name;
        let metadata = self.discovery.metadata().await?;
        check_issuer(&metadata, answer.iss.as_deref())?;
        if let Some(error) = answer.error {
            return Err(LoginError::Rejected(printable(&error)));
        }
        let code = answer.code.ok_or_else(|| LoginError::invalid("the callback has no code"))?;
        // For all calls that it takes. Whoever finds none has used nothing up.
        let _place = self.http.sign_in(callback.source).await?;
        // Last before the code is redeemed: what redeems nothing writes nothing.
        self.logins.consume(&login).await?;
        let asked = self.clock.now();
        let tokens = self.redeem(&metadata, &login, code, callback.host).await?;
        let nonce = SaidNonce::Required(&login.nonce);
        let verified = self.verify(&metadata, &tokens, nonce).await?;
        let userinfo = self.userinfo(&metadata, &tokens, &verified.claims).await?;
        let (principal, authentication) =
            claims::principal(name, &self.config.claims, &verified.claims, userinfo.as_ref())?;
        if let Some(wanted) = &login.step_up {
            wanted.check(&authentication, self.clock.now())?;
        }
        // Who signs people in refreshes their sessions, too.
        self.refreshes.answered(name);
        Ok(Login {
            principal: Arc::new(principal),
            authentication,
            provider: Arc::clone(name),
            vouched_by: self.vouched_by,
            sid: claims::text(&[&verified.claims], "sid")?,
            subject: claims::text(&[&verified.claims], "sub")?,
            id_token: Some(Secret::new(verified.raw)),
            access_token: ProviderToken::of(&tokens, asked),
            refresh: self.config.refresh.and_then(|_| refresh::of(&tokens, asked)),
            return_to: login::return_to(&login.return_to),
            begun: login.expires.minus(login::LIFETIME),
            set_cookie: login::forget(&login),
            for_host: match login.part {
                Part::SignIn { host, state } => Some((host, state)),
                Part::Whole | Part::Protected => None,
            },
        })
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

    /// What a session that it vouches for has to say of it.
    pub fn vouched_by(&self) -> VouchedBy {
        self.vouched_by
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
        if self.is_out() { Some(false) } else { self.discovery.is_reachable() }
    }
}

/// The key that the gate identifies itself with, where there is one.
///
/// # Errors
/// It can't be signed with.
pub fn check_key(config: &IdentityProvider) -> Result<Option<ClientKey>, ClientKeyError> {
    match &config.client {
        ClientAuthentication::Key { pem, id, .. } => ClientKey::parse(pem, id.as_deref()).map(Some),
        ClientAuthentication::Public | ClientAuthentication::Secret { .. } => Ok(None),
    }
}

/// Whether the provider promises to say that an answer is its own.
fn names_itself(metadata: &Metadata) -> bool {
    metadata.additional_metadata().authorization_response_iss_parameter_supported
}

/// RFC 9207, section 2.4: against the mix-up of providers.
fn check_issuer(metadata: &Metadata, said: Option<&str>) -> Result<(), LoginError> {
    match said {
        Some(iss) if iss == metadata.issuer().as_str() => Ok(()),
        Some(_) => Err(LoginError::invalid("the callback comes from another issuer")),
        None if names_itself(metadata) => {
            Err(LoginError::invalid("the callback does not name its issuer"))
        }
        None => Ok(()),
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

/// What a stranger wrote, fit for a record: an error code has these characters only.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
        .take(64)
        .collect()
}
