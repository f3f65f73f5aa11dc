//! What a client asks the authorization endpoint for (OpenID Connect Core 1.0, section 3.1.2).

use std::collections::HashMap;

use super::{Client, SECOND_FACTOR};

/// A request that may be answered, by redirecting to `redirect_uri`.
#[derive(Clone, Debug)]
pub struct AuthorizeRequest {
    pub redirect_uri: String,
    pub state: String,
    pub nonce: Option<String>,
    pub challenge: String,
    pub prompt: Option<String>,
    /// Whether a second factor is asked for (`acr_values`).
    pub second_factor: bool,
    /// Seconds since the user last showed who they are, at the most.
    pub max_age: Option<u64>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The client or its address is not known: nobody is redirected anywhere (RFC 6749, 4.1.2.1).
    Shown(&'static str),
    /// The client is told.
    Redirected {
        redirect_uri: String,
        state: Option<String>,
        error: &'static str,
        why: &'static str,
    },
}

/// The parameters of a query or form. `None` when one of them is given twice (RFC 6749, 3.1).
pub fn parameters(encoded: &[u8]) -> Option<HashMap<String, String>> {
    let mut found = HashMap::new();
    for (name, value) in url::form_urlencoded::parse(encoded) {
        if found.insert(name.into_owned(), value.into_owned()).is_some() {
            return None;
        }
    }
    Some(found)
}

impl AuthorizeRequest {
    pub fn parse(query: &str, client: &Client) -> Result<Self, Refusal> {
        let mut given =
            parameters(query.as_bytes()).ok_or(Refusal::Shown("a parameter is given twice"))?;
        if given.get("client_id") != Some(&client.id) {
            return Err(Refusal::Shown("the client is not known here"));
        }
        let redirect_uri = given
            .remove("redirect_uri")
            .filter(|uri| client.redirect_uris.contains(uri))
            .ok_or(Refusal::Shown("the client may not be answered at this address"))?;
        let state = given.remove("state").filter(|state| !state.is_empty());
        let refuse = |error, why| Refusal::Redirected {
            redirect_uri: redirect_uri.clone(),
            state: state.clone(),
            error,
            why,
        };
        let is = |name: &str, value: &str| given.get(name).is_some_and(|given| given == value);
        if !is("response_type", "code") {
            return Err(refuse("unsupported_response_type", "only `code` is offered"));
        }
        if !given.get("scope").is_some_and(|scope| scope.split(' ').any(|one| one == "openid")) {
            return Err(refuse("invalid_scope", "`openid` is missing from the scope"));
        }
        if !is("code_challenge_method", "S256") {
            return Err(refuse("invalid_request", "PKCE with S256 is required"));
        }
        let challenge = given
            .get("code_challenge")
            .filter(|challenge| challenge.len() == 43)
            .cloned()
            .ok_or_else(|| refuse("invalid_request", "PKCE with S256 is required"))?;
        let Some(state) = state.clone() else {
            return Err(refuse("invalid_request", "`state` is required"));
        };
        let nonce = given.remove("nonce").filter(|nonce| !nonce.is_empty());
        let prompt = given.remove("prompt");
        let second_factor = given
            .get("acr_values")
            .is_some_and(|acrs| acrs.split(' ').any(|acr| acr == SECOND_FACTOR));
        let max_age = match given.get("max_age").map(|seconds| seconds.parse()) {
            None => None,
            Some(Ok(seconds)) => Some(seconds),
            Some(Err(_)) => return Err(refuse("invalid_request", "`max_age` is not a number")),
        };
        Ok(Self { redirect_uri, state, nonce, challenge, prompt, second_factor, max_age })
    }
}
