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
    /// Whether its userinfo endpoint is asked for claims that the ID token lacks. Default true.
    pub asks_userinfo: bool,
    /// What it can be asked for when a policy wants more, in order of preference.
    pub step_up: Vec<SignInLevel>,
    /// Whether its access tokens are taken, and which. They are not by default.
    pub access_tokens: Option<AccessTokens>,
    /// How its sessions are kept up to date with refresh tokens; `None` where they are not.
    pub refresh: Option<Refresh>,
    /// Whether it is asked to revoke the tokens of sessions that somebody ended (RFC 7009). Default
    /// true.
    pub revokes_tokens: bool,
    /// For each call to the provider. Default 10 s.
    pub timeout: Duration,
}

/// How old may be what a provider said of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refresh {
    /// After so long the provider is asked again. Default 5 min.
    pub interval: Duration,
    /// After so long without an answer of the provider nothing is allowed any more. Default 1 h.
    pub max_age: Duration,
}

impl Default for Refresh {
    fn default() -> Self {
        Self { interval: Duration::from_secs(300), max_age: Duration::from_secs(3600) }
    }
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
