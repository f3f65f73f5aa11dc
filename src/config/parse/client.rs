//! How the gate is a client of a provider: what it proves itself with, and what it asks for.

use crate::config::model::{AssertionAudience, ClientAuthentication, SecretMethod};
use crate::config::yaml::{Cursor, Map, quote};

use super::files::Base;
use super::values::words;

/// What the gate itself says in an authorization request, or must not be said there.
const RESERVED: [&str; 21] = [
    "client_assertion",
    "client_assertion_type",
    "client_id",
    "client_secret",
    "code",
    "code_challenge",
    "code_challenge_method",
    "code_verifier",
    "dpop_jkt",
    "grant_type",
    "id_token_hint",
    "nonce",
    "password",
    "redirect_uri",
    "registration",
    "request",
    "request_uri",
    "response_mode",
    "response_type",
    "scope",
    "state",
];

/// What to do about a secret beside the authentication `none`.
const NONE: &str = "leave this out; or leave `client_authentication` out, and it is used";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    Public,
    Secret(SecretMethod),
    Key,
}

pub(super) fn authentication(map: &Map<'_>, base: &Base) -> Option<ClientAuthentication> {
    let (secret_at, key_at) = (map.get("client_secret"), map.get("client_key"));
    let method_at = map.get("client_authentication");
    let method = method_at.as_ref().map(|at| {
        at.choice(&[
            ("none", Method::Public),
            ("client_secret_basic", Method::Secret(SecretMethod::Basic)),
            ("client_secret_post", Method::Secret(SecretMethod::Post)),
            ("private_key_jwt", Method::Key),
        ])
    });
    if let (None, Some(at)) = (&key_at, map.get("client_key_id")) {
        at.error_with("there is no `client_key` that this could name", "add it, or leave this out");
    }
    if let (None, Some(at)) = (&key_at, map.get("client_assertion_audience")) {
        at.error_with("there is no `client_key` to sign with", "add it, or leave this out");
    }
    if let (Some(_), Some(at)) = (&secret_at, &key_at) {
        at.error_with(
            "`client_secret` and `client_key` exclude each other",
            "keep the one that the client is registered with at the provider",
        );
        return None;
    }
    let wants = |wanted: &str| {
        if let Some(at) = &method_at {
            let hint = format!(
                "give it one, `{wanted}: file:PATH`, and nothing else; or leave \
                 `client_authentication` out"
            );
            at.error_with(format!("this way of authentication needs a `{wanted}`"), hint);
        }
    };
    match (secret_at, key_at) {
        (Some(at), _) => {
            let method = match method.flatten() {
                Some(Method::Secret(method)) => Some(method),
                Some(Method::Key) => {
                    wants("client_key");
                    None
                }
                Some(Method::Public) => {
                    at.error_with("a client with the authentication `none` has no secret", NONE);
                    None
                }
                None => None,
            };
            Some(ClientAuthentication::Secret { secret: base.secret(&at)?, method })
        }
        (None, Some(at)) => {
            match method.flatten() {
                Some(Method::Secret(_)) => wants("client_secret"),
                Some(Method::Public) => {
                    at.error_with("a client with the authentication `none` has no key", NONE);
                }
                Some(Method::Key) | None => {}
            }
            let id = map.get("client_key_id").and_then(|at| words(&at));
            let audience = map.or("client_assertion_audience", AssertionAudience::Issuer, |at| {
                at.choice(&[
                    ("issuer", AssertionAudience::Issuer),
                    ("token_endpoint", AssertionAudience::TokenEndpoint),
                ])
            });
            let id = id.map(|id| id.as_ref().to_owned());
            Some(ClientAuthentication::Key { pem: base.secret(&at)?, id, audience })
        }
        (None, None) => {
            match method.flatten() {
                Some(Method::Secret(_)) => wants("client_secret"),
                Some(Method::Key) => wants("client_key"),
                Some(Method::Public) | None => {}
            }
            Some(ClientAuthentication::Public)
        }
    }
}

/// Names and values that go with every authorization request to the provider.
pub(super) fn parameters(at: &Cursor<'_>) -> Vec<(String, String)> {
    let parameter = |(name, at): (&str, Cursor<'_>)| {
        let value = words(&at)?;
        // RFC 6749, appendix A: names are printable, and none of ours needs more than these.
        let good = !name.is_empty()
            && name.len() <= 64
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.:".contains(&byte));
        if !good {
            let hint = "use up to 64 letters, digits, `_`, `-`, `.` and `:`";
            at.error_with(format!("{} is not a parameter's name", quote(name)), hint);
            return None;
        }
        // Some providers read names without regard to case.
        if RESERVED.contains(&name.to_ascii_lowercase().as_str()) {
            let hint = "leave it out; for scopes there is `scopes`";
            at.error_with(format!("the gate itself sets {}, or never sends it", quote(name)), hint);
            return None;
        }
        Some((name.to_owned(), value.as_ref().to_owned()))
    };
    at.named().into_iter().filter_map(parameter).collect()
}
