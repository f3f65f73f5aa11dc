//! Codes for tokens, at the provider's token endpoint.

use openidconnect::core::{CoreClient, CoreErrorResponseType, CoreTokenResponse};
use openidconnect::{
    AuthType, AuthorizationCode, ClientId, ClientSecret, EndpointNotSet, EndpointSet,
    PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError, StandardErrorResponse,
};

use super::client_key::ClientKeyError;
use super::discovery::{DiscoveryError, Metadata};
use super::http::HttpError;
use super::login::LoginState;
use super::oidc::{LoginError, Provider, printable};
use super::refresh::{self, RefreshError};
use crate::config::model::{AssertionAudience, ClientAuthentication, SecretMethod};
use crate::config::secret::Secret;
use crate::domain::canonical::Authority;

pub(super) const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The gate as a client of the provider, which knows the token endpoint.
type Client = CoreClient<
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
    EndpointNotSet,
>;

impl Provider {
    /// Redeems the code (RFC 6749, section 4.1.3; RFC 7636, section 4.5).
    pub(super) async fn redeem(
        &self,
        metadata: &Metadata,
        login: &LoginState,
        code: String,
        host: &Authority,
    ) -> Result<CoreTokenResponse, LoginError> {
        let redirect = RedirectUrl::new(self.redirect_uri(host))
            .map_err(|_| LoginError::invalid("the callback's host makes no address"))?;
        let (client, assertion) = self.client(metadata)?;
        let client = client.set_redirect_uri(redirect);
        let mut request = client
            .exchange_code(AuthorizationCode::new(code))
            .set_pkce_verifier(PkceCodeVerifier::new(login.verifier.clone()));
        for (name, resource) in self.resources() {
            request = request.add_extra_param(name, resource);
        }
        if let Some(assertion) = assertion {
            // RFC 7521, section 4.2.
            request = request
                .add_extra_param("client_assertion_type", ASSERTION_TYPE)
                .add_extra_param("client_assertion", assertion);
        }
        request.request_async(&self.http).await.map_err(token_error)
    }

    /// Uses a refresh token (RFC 6749, section 6).
    pub(super) async fn redeem_again(
        &self,
        metadata: &Metadata,
        token: &Secret,
    ) -> Result<CoreTokenResponse, RefreshError> {
        let (client, assertion) = self.client(metadata)?;
        let token = RefreshToken::new(token.expose().to_owned());
        let mut request = client.exchange_refresh_token(&token);
        for (name, resource) in self.resources() {
            request = request.add_extra_param(name, resource);
        }
        if let Some(assertion) = assertion {
            request = request
                .add_extra_param("client_assertion_type", ASSERTION_TYPE)
                .add_extra_param("client_assertion", assertion);
        }
        request.request_async(&self.http).await.map_err(refresh::refused)
    }

    /// What the access token is for (RFC 8707, section 2.2): it may be for something else than the
    /// code otherwise.
    fn resources(&self) -> impl Iterator<Item = (String, String)> + '_ {
        let parameters = self.config.parameters.iter();
        parameters.filter(|(name, _)| name == "resource").cloned()
    }

    /// What says who asks, and the assertion that says so where that is what the provider knows.
    fn client(&self, metadata: &Metadata) -> Result<(Client, Option<String>), LoginError> {
        let token_endpoint =
            metadata.token_endpoint().cloned().ok_or(DiscoveryError::NoTokenEndpoint)?;
        let client = CoreClient::new(
            ClientId::new(self.config.client_id.clone()),
            metadata.issuer().clone(),
            openidconnect::core::CoreJsonWebKeySet::default(),
        )
        .set_token_uri(token_endpoint);
        Ok(match &self.config.client {
            ClientAuthentication::Public => (client, None),
            ClientAuthentication::Secret { secret, method } => {
                let secret = ClientSecret::new(secret.expose().to_owned());
                let by = auth_type(*method, metadata);
                (client.set_client_secret(secret).set_auth_type(by), None)
            }
            ClientAuthentication::Key { audience, .. } => {
                let client = client.set_auth_type(AuthType::RequestBody);
                (client, Some(self.assertion(metadata, *audience)?))
            }
        })
    }

    /// Says to the provider that the gate is its client.
    pub(super) fn assertion(
        &self,
        metadata: &Metadata,
        audience: AssertionAudience,
    ) -> Result<String, LoginError> {
        let audience = match (audience, metadata.token_endpoint()) {
            (AssertionAudience::TokenEndpoint, Some(endpoint)) => endpoint.as_str(),
            _ => self.config.issuer.as_str(),
        };
        let taken = metadata.token_endpoint_auth_signing_alg_values_supported();
        let (id, now) = (&self.config.client_id, self.clock.now());
        let key = self.key.as_ref().ok_or(ClientKeyError::Sign);
        key.and_then(|key| key.assertion(id, audience, taken.map(Vec::as_slice), now))
            .map_err(|error| LoginError::invalid(error.to_string()))
    }
}

/// `client_secret_basic` is what a provider that says nothing takes (OpenID Connect Discovery 1.0,
/// section 3).
pub(super) fn auth_type(method: Option<SecretMethod>, metadata: &Metadata) -> AuthType {
    use openidconnect::core::CoreClientAuthMethod as Method;
    match method {
        Some(SecretMethod::Basic) => return AuthType::BasicAuth,
        Some(SecretMethod::Post) => return AuthType::RequestBody,
        None => {}
    }
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
