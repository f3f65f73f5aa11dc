//! How the gate is a client of a provider.

use crate::config::secret::Secret;

/// What the gate proves with at the token endpoint that it is the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAuthentication {
    /// Nothing: a public client. PKCE is what ties a code to the gate.
    Public,
    Secret {
        secret: Secret,
        /// What the provider says that it takes, where it is absent.
        method: Option<SecretMethod>,
    },
    /// `private_key_jwt` (RFC 7523).
    Key {
        /// The private key in PEM.
        pem: Secret,
        /// What the provider calls the key (`kid`).
        id: Option<String>,
        audience: AssertionAudience,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretMethod {
    /// `client_secret_basic` (RFC 6749, section 2.3.1).
    Basic,
    /// `client_secret_post`.
    Post,
}

/// Whom a client assertion is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AssertionAudience {
    /// The issuer of the configuration. The default: a provider can't claim another's.
    Issuer,
    /// For providers that insist on it.
    TokenEndpoint,
}
