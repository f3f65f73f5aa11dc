//! What callers of a route identify themselves with.

use std::sync::Arc;

/// First part of the id of a service that is known by its client certificate, in the place of a
/// provider's name.
pub const CERTIFICATES: &str = "certificate";

/// Whose access tokens are taken (RFC 9068).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessTokens {
    /// At least one. A token has to name one of them in `aud`.
    pub audiences: Vec<Arc<str>>,
}

/// What a route takes. A caller needs one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The cookie of somebody who signed in. Default true.
    pub session: bool,
    /// An access token in `Authorization: Bearer`. Default false.
    pub bearer: bool,
    /// A client certificate that stands for a service. Default false.
    pub certificate: bool,
    /// The one audience whose tokens are taken; any of the provider's where it is absent.
    pub audience: Option<Arc<str>>,
    /// What becomes of the access token.
    pub upstream_token: UpstreamToken,
}

/// Which access token the upstream gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum UpstreamToken {
    /// None of the gate's.
    #[default]
    Drop,
    /// The one that the caller brought, or that came with his sign-in.
    Pass,
    /// One that the provider gives for it (RFC 8693).
    Exchange(TokenExchange),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenExchange {
    /// What the upstream is called at the provider.
    pub audience: Arc<str>,
    /// Separated by blanks; empty for what the provider gives by itself.
    pub scope: Arc<str>,
}

impl Default for Accepted {
    fn default() -> Self {
        Self {
            session: true,
            bearer: false,
            certificate: false,
            audience: None,
            upstream_token: UpstreamToken::Drop,
        }
    }
}
