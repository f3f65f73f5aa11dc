//! Codes for tokens, at the provider's token endpoint.

use openidconnect::core::{CoreClient, CoreErrorResponseType, CoreTokenResponse};
use openidconnect::{
    AuthType, AuthorizationCode, ClientId, ClientSecret, EndpointNotSet, EndpointSet,
    PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError, StandardErrorResponse,
};

use super::client_auth::auth_type;
use super::discovery::{DiscoveryError, Metadata};
use super::http::HttpError;
use super::login::LoginState;
use super::oidc::{LoginError, Provider, printable};
use super::refresh::{self, RefreshError};
use crate::config::model::ClientAuthentication;
use crate::config::secret::Secret;
use crate::domain::canonical::Authority;

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
        let client = self.client(metadata)?.set_redirect_uri(redirect);
        let request = client
            .exchange_code(AuthorizationCode::new(code))
            .set_pkce_verifier(PkceCodeVerifier::new(login.verifier.clone()));
        let more = self.with_every_grant(metadata)?.into_iter();
        let request =
            more.fold(request, |request, (name, value)| request.add_extra_param(name, value));
        request.request_async(&self.http).await.map_err(token_error)
    }

    /// Uses a refresh token (RFC 6749, section 6).
    pub(super) async fn redeem_again(
        &self,
        metadata: &Metadata,
        token: &Secret,
    ) -> Result<CoreTokenResponse, RefreshError> {
        let client = self.client(metadata)?;
        let token = RefreshToken::new(token.expose().to_owned());
        let request = client.exchange_refresh_token(&token);
        let more = self.with_every_grant(metadata)?.into_iter();
        let request =
            more.fold(request, |request, (name, value)| request.add_extra_param(name, value));
        request.request_async(&self.http).await.map_err(refresh::refused)
    }

    /// What the library doesn't send by itself: what the access token is for (RFC 8707, section 2.2;
    /// it may be for something else than the code otherwise), and the gate's assertion.
    fn with_every_grant(
        &self,
        metadata: &Metadata,
    ) -> Result<Vec<(&'static str, String)>, LoginError> {
        let parameters = self.config.parameters.iter();
        let resources = parameters.filter(|(name, _)| name == "resource");
        let resources = resources.map(|(_, value)| ("resource", value.clone()));
        Ok(resources.chain(self.assertion(metadata)?.into_iter().flatten()).collect())
    }

    /// The gate with what the library knows to prove that it is the client.
    fn client(&self, metadata: &Metadata) -> Result<Client, LoginError> {
        let token_endpoint =
            metadata.token_endpoint().cloned().ok_or(DiscoveryError::NoTokenEndpoint)?;
        let client = CoreClient::new(
            ClientId::new(self.config.client_id.clone()),
            metadata.issuer().clone(),
            openidconnect::core::CoreJsonWebKeySet::default(),
        )
        .set_token_uri(token_endpoint);
        Ok(match &self.config.client {
            ClientAuthentication::Public => client,
            ClientAuthentication::Secret { secret, method } => {
                let secret = ClientSecret::new(secret.expose().to_owned());
                let by = auth_type(*method, metadata);
                client.set_client_secret(secret).set_auth_type(by)
            }
            ClientAuthentication::Key { .. } => client.set_auth_type(AuthType::RequestBody),
        })
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
