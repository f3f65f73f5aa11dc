//! A provider ends sessions: OpenID Connect Back-Channel Logout 1.0.
//!
//! The one address of the gate's that reads a body. No cookie counts here and nobody is signed in:
//! what is sent is believed because the provider has signed it, and for nothing else.
//!
//! INVARIANT: 200 is answered once every session that is meant has ended, in memory and in the
//! store; with anything else the token may be sent again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Response, StatusCode};

use crate::config::model::LimitPer;
use crate::domain::event::{EndReason, Event};
use crate::identity::logout_token::{LogoutToken, LogoutTokenError, Signed};
use crate::identity::oidc::{LogoutError, Provider};
use crate::identity::session::AtProvider;

use super::attempts::Attempts;
use super::gate::Gate;
use super::receive::Arrival;
use super::record;
use super::refusal::Refusal;
use super::reply;

/// Behind the prefix of the gate's own addresses.
pub const PATH: &str = "/backchannel-logout";

/// Largest body, in bytes: a token has some hundreds.
pub const MAX_BODY: u64 = 16 * 1024;

/// A signature takes some 0.1 ms to check: one address costs the gate a two-thousandth of a core.
pub fn forged() -> Attempts {
    Attempts::new(100, Duration::from_millis(200))
}

/// What is settled before the body is read.
///
/// # Errors
/// It is too large, no form, or from somebody who has sent too many forged tokens.
pub fn before_body(gate: &Gate, arrival: &Arrival, length: Option<u64>) -> Result<(), Refusal> {
    if length.is_some_and(|length| length > MAX_BODY) {
        return Err(Refusal::TooLarge { limit: MAX_BODY });
    }
    if !is_form(arrival) {
        return Err(LogoutError::Token(LogoutTokenError::Missing).into());
    }
    gate.forged.admit(record::source(arrival), arrival.begun).map_err(|wait| Refusal::RateLimited {
        per: LimitPer::Address,
        policy: "logout-tokens".into(),
        wait,
    })
}

fn is_form(arrival: &Arrival) -> bool {
    let said = arrival.head.headers.get(CONTENT_TYPE).map(|said| said.as_bytes());
    let kind = said.and_then(|said| said.split(|byte| *byte == b';').next());
    kind.is_some_and(|kind| {
        kind.trim_ascii().eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
    })
}

/// Ends the sessions that a logout token means.
///
/// # Errors
/// A token that doesn't count, keys that can't be had, or a store that failed.
pub async fn logout(
    gate: &Gate,
    arrival: &Arrival,
    body: &[u8],
) -> Result<Response<Bytes>, Refusal> {
    let outcome = match token(body) {
        Ok(token) => checked(gate, arrival, token).await,
        Err(error) => Err(error.into()),
    };
    if let Err(Refusal::Logout(error)) = &outcome
        && error.cost_something()
    {
        gate.forged.failed(record::source(arrival), arrival.begun);
    }
    let (signer, signed) = outcome?;
    let mut ended = 0;
    for provider in meant(arrival, signer) {
        let which = AtProvider {
            provider: provider.name(),
            sid: signed.sid.as_deref(),
            subject: signed.subject.as_deref(),
        };
        match gate.sessions.end_at_provider(&which, EndReason::ProviderLogout).await {
            Ok(more) => ended += more,
            Err(error) => {
                tracing::error!(%error, "a provider's logout could not be carried out");
                gate.sessions.return_logout_token(signer.name(), &signed.id).await;
                return Err(Refusal::SessionsUnavailable);
            }
        }
    }
    // The sessions are over whether or not this is kept; each has a record of its own, too.
    let event = Event::ProviderLogout {
        id: arrival.id,
        provider: signer.name().clone(),
        subject: signed.subject,
        sessions: ended,
        source: record::source(arrival),
    };
    record::note(gate, arrival.at, event);
    Ok(reply::answer(StatusCode::OK, arrival.id, "text/plain; charset=utf-8", Bytes::new()))
}

/// Everything that is configured under the provider's issuer and client: it can't tell them apart.
fn meant<'a>(
    arrival: &'a Arrival,
    signer: &'a Provider,
) -> impl Iterator<Item = &'a Arc<Provider>> {
    arrival.snapshot.providers.iter().filter(|one| one.is_same_client(signer))
}

/// Section 2.5: the one parameter that counts, once.
fn token(body: &[u8]) -> Result<String, LogoutError> {
    let mut tokens = url::form_urlencoded::parse(body)
        .filter(|(name, _)| name == "logout_token")
        .map(|(_, value)| value.into_owned());
    match (tokens.next(), tokens.next()) {
        (Some(token), None) => Ok(token),
        _ => Err(LogoutTokenError::Missing.into()),
    }
}

/// Checks a token in the order of what that costs, and uses it up.
async fn checked<'a>(
    gate: &Gate,
    arrival: &'a Arrival,
    token: String,
) -> Result<(&'a Arc<Provider>, Signed), Refusal> {
    let token = LogoutToken::read(&token).map_err(LogoutError::from)?;
    let of_issuer = || arrival.snapshot.providers.iter().filter(|one| one.is_issuer(&token));
    let named = of_issuer().find(|one| one.is_client(&token)).or_else(|| of_issuer().next());
    let Some(provider) = named else {
        return Err(LogoutError::from(LogoutTokenError::Issuer).into());
    };
    let signed = provider.logout_token(&token).await?;
    let fresh = gate.sessions.use_logout_token(provider.name(), &signed.id, signed.expires).await;
    match fresh {
        Ok(true) => Ok((provider, signed)),
        Ok(false) => Err(LogoutError::from(LogoutTokenError::Replayed).into()),
        Err(error) => {
            tracing::error!(%error, "a provider's logout could not be looked up");
            Err(Refusal::SessionsUnavailable)
        }
    }
}
