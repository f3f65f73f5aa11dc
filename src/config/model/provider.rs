//! Who signs users in.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use super::callers::AccessTokens;
use crate::config::secret::Secret;
use crate::domain::step_up::SignInLevel;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityProvider {
    /// First part of every principal id: `<name>/<subject>`.
    pub name: Arc<str>,
    /// What the sign-in page calls it.
    pub display_name: Arc<str>,
    pub issuer: Issuer,
    pub client_id: String,
    pub client_secret: Option<Secret>,
    pub scopes: Vec<String>,
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

/// Which claims carry what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimNames {
    /// Default `sub`.
    pub user: String,
    /// Default `email`; used only when `email_verified` is true.
    pub email: String,
    /// Default `name`.
    pub name: String,
    /// Default `groups`: a list of strings, or one string.
    pub groups: String,
    /// Default `tenant`.
    pub tenant: String,
}

/// The names of some identity providers, in the order in which they are offered.
pub type ProviderNames = Arc<[Arc<str>]>;
