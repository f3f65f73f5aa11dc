//! Who signs users in.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use super::callers::AccessTokens;
use super::{ClaimNames, ClientAuthentication};
use crate::domain::step_up::SignInLevel;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityProvider {
    /// First part of every principal id: `<name>/<subject>`.
    pub name: Arc<str>,
    /// What the sign-in page calls it.
    pub display_name: Arc<str>,
    pub issuer: Issuer,
    pub client_id: String,
    pub client: ClientAuthentication,
    pub scopes: Vec<String>,
    /// Further parameters of the authorization request; none that the gate itself sets.
    pub parameters: Vec<(String, String)>,
    /// Whether users come back to an address that no other provider's users come back to, for one
    /// that doesn't say in its answers that it gave them (RFC 9207). Default false.
    pub own_callback: bool,
    /// PEM bundle that the provider's TLS certificate is verified with, instead of the system's.
    pub ca: Option<PathBuf>,
    pub claims: ClaimNames,
    /// What it can be asked for when a policy wants more, in order of preference.
    pub step_up: Vec<SignInLevel>,
    /// Whether its access tokens are taken, and which. They are not by default.
    pub access_tokens: Option<AccessTokens>,
    /// For each call to the provider. Default 10 s.
    pub timeout: Duration,
}

/// An OpenID issuer. Compared letter by letter (OpenID Connect Discovery 1.0, section 4.3), and
/// `https://a.example` and `https://a.example/` are two issuers that one [`Url`] can't tell apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    text: Arc<str>,
    url: Url,
}

impl Issuer {
    /// # Errors
    /// When the text is no URL.
    pub fn parse(text: &str) -> Result<Self, url::ParseError> {
        Ok(Self { text: text.into(), url: Url::parse(text)? })
    }

    /// Exactly as written in the configuration: what `issuer` and `iss` are compared with.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn url(&self) -> &Url {
        &self.url
    }
}

/// The names of some identity providers, in the order in which they are offered.
pub type ProviderNames = Arc<[Arc<str>]>;
