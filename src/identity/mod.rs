//! Who is asking: sign-in with an OpenID provider, sessions, and the identity that upstreams see.
//!
//! There are any number of [`providers`]. A login goes [`oidc`] (redirect, callback, token checks) with [`login`] (what the browser keeps
//! meanwhile), then [`session`] (an opaque id in a cookie, [`cookie`]), then on every request
//! [`assertion`] (a signed statement for the upstream), and ends with [`logout`].
//! Machines bring an access token ([`bearer`]) or a [`certificate`] instead; what a request was authenticated with is a
//! [`credential`] from then on.
//! `openidconnect`, `reqwest` and `jsonwebtoken` are known here only.

pub mod assertion;
pub mod bearer;
pub mod certificate;
pub mod claims;
mod client_auth;
pub mod client_key;
pub mod cookie;
pub mod credential;
pub mod discovery;
pub mod exchange;
pub mod handover;
pub mod http;
mod id_token;
pub mod kept;
mod keys;
pub mod login;
pub mod logout;
pub mod logout_token;
pub mod oidc;
#[cfg(test)]
mod oidc_tests;
mod outage;
pub mod provider_token;
pub mod providers;
pub mod recent;
mod redeem;
pub mod refresh;
mod refreshed;
pub mod revocation;
pub mod seal;
pub mod session;
pub mod sign_ins;
mod signing;
mod strict;
pub mod suspension;
pub mod vouched;
