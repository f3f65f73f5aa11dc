//! How the gate says to a provider that it is its client (RFC 6749, section 2.3; RFC 7521, section
//! 4.2), wherever it asks for something.
//!
//! Codes and refresh tokens are redeemed by a library that sends client id and secret itself; what it
//! doesn't know is an assertion ([`Provider::assertion`]). All else is asked with
//! [`Provider::post_as_client`].
//!
//! INVARIANT: an address of the provider's is given the secret of this provider and no other, in one
//! place of the request, and the request is never printed.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use openidconnect::{AuthType, HttpRequest, HttpResponse};
use url::{Url, form_urlencoded};

use super::client_key::ClientKeyError;
use super::discovery::Metadata;
use super::http::HttpError;
use super::oidc::Provider;
use crate::config::model::{AssertionAudience, ClientAuthentication, SecretMethod};

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The parameters of an assertion.
pub(super) type Assertion = [(&'static str, String); 2];

/// Why the provider gave no answer to its client.
#[derive(Debug, thiserror::Error)]
pub(super) enum PostError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error(transparent)]
    Key(#[from] ClientKeyError),
    #[error("the request to the identity provider can't be written")]
    Unwritable,
}

impl Provider {
    /// Asks the provider as its client: a form, and the answer whatever its status below 500 is.
    pub(super) async fn post_as_client(
        &self,
        metadata: &Metadata,
        endpoint: &Url,
        parameters: &[(&str, &str)],
    ) -> Result<HttpResponse, PostError> {
        Ok(self.http.call(self.client_request(metadata, endpoint, parameters)?).await?)
    }

    fn client_request(
        &self,
        metadata: &Metadata,
        endpoint: &Url,
        parameters: &[(&str, &str)],
    ) -> Result<HttpRequest, PostError> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(parameters);
        let mut request = http::Request::post(endpoint.as_str())
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        match &self.config.client {
            ClientAuthentication::Secret { secret, method }
                if matches!(auth_type(*method, metadata), AuthType::BasicAuth) =>
            {
                let field = basic(&self.config.client_id, secret.expose());
                request = request.header(AUTHORIZATION, field.ok_or(PostError::Unwritable)?);
            }
            other => {
                form.append_pair("client_id", &self.config.client_id);
                if let ClientAuthentication::Secret { secret, .. } = other {
                    form.append_pair("client_secret", secret.expose());
                }
                form.extend_pairs(self.assertion(metadata)?.iter().flatten());
            }
        }
        request.body(form.finish().into_bytes()).map_err(|_| PostError::Unwritable)
    }

    /// What is sent to prove it, where that is an assertion.
    pub(super) fn assertion(
        &self,
        metadata: &Metadata,
    ) -> Result<Option<Assertion>, ClientKeyError> {
        let ClientAuthentication::Key { audience, .. } = &self.config.client else {
            return Ok(None);
        };
        let audience = match (audience, metadata.token_endpoint()) {
            (AssertionAudience::TokenEndpoint, Some(endpoint)) => endpoint.as_str(),
            _ => self.config.issuer.as_str(),
        };
        let taken = metadata.token_endpoint_auth_signing_alg_values_supported();
        let (id, now) = (&self.config.client_id, self.clock.now());
        let key = self.key.as_ref().ok_or(ClientKeyError::Sign)?;
        let signed = key.assertion(id, audience, taken.map(Vec::as_slice), now)?;
        Ok(Some([
            ("client_assertion_type", ASSERTION_TYPE.to_owned()),
            ("client_assertion", signed),
        ]))
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

/// RFC 6749, section 2.3.1.
fn basic(id: &str, secret: &str) -> Option<HeaderValue> {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = BASE64_STANDARD.encode(format!("{}:{}", encoded(id), encoded(secret)));
    let mut field = HeaderValue::try_from(format!("Basic {pair}")).ok()?;
    field.set_sensitive(true);
    Some(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_secret_is_written_as_basic_authentication_wants_it() {
        let field = basic("the gate", "a:b%").unwrap();
        let encoded = BASE64_STANDARD.encode("the+gate:a%3Ab%25");
        assert_eq!(field.to_str().unwrap(), format!("Basic {encoded}"));
        assert!(field.is_sensitive());
    }
}
