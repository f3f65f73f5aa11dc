//! The access token that an application gets in the place of whatever the client sent.
//!
//! INVARIANT: where a route says that its application gets a token, no request is forwarded without
//! one, nor with one that has expired, nor with another caller's.

use std::sync::Arc;

use http::HeaderValue;

use crate::config::model::{TokenExchange, UpstreamToken};
use crate::domain::canonical::Host;
use crate::identity::bearer;
use crate::identity::credential::Credential;
use crate::identity::exchange::ExchangeError;
use crate::identity::provider_token::ProviderToken;
use crate::identity::session::Session;
use crate::policy::Permit;

use super::authenticate::vouching;
use super::gate::Gate;
use super::receive::Arrival;
use super::record;
use super::refusal::Refusal;
use super::route::RouteEntry;
use super::sign_in_again::{SignInAgain, WhyAgain};
use super::snapshot::Snapshot;

/// Whether an application on this host is to get a token of those who sign in with this provider:
/// only then is it kept with their sessions.
pub fn is_wanted(snapshot: &Snapshot, host: &Host, provider: &str) -> bool {
    snapshot.routes.entries().any(|route| {
        let route = &route.config;
        route.accepted.session
            && route.accepted.upstream_token != UpstreamToken::Drop
            && route.host == *host
            && route.takes(provider)
    })
}

/// The field to forward. `None` where the application gets none of the gate's, or the one that
/// the client brought.
///
/// # Errors
/// `SignInAgain` when the session has none, `Exchange` when the provider gives none for the
/// application; and what became untrue while the provider was asked.
pub async fn field(
    gate: &Gate,
    arrival: &Arrival,
    route: &RouteEntry,
    caller: &Credential,
    permit: &Permit,
) -> Result<Option<HeaderValue>, Refusal> {
    match (&route.config.accepted.upstream_token, caller) {
        (UpstreamToken::Drop, _) | (UpstreamToken::Pass, Credential::Token(_)) => Ok(None),
        (UpstreamToken::Pass, Credential::Session(session)) => {
            Ok(Some(own(gate, session)?.field()))
        }
        // On the heap, for the sake of all who exchange nothing.
        (UpstreamToken::Exchange(wanted), caller) => {
            let field = Box::pin(exchanged(gate, arrival, wanted, caller)).await?;
            record::still_true(gate, arrival, permit, caller)?;
            Ok(Some(field))
        }
        // The configuration has no such route.
        (UpstreamToken::Pass, Credential::Certificate(_)) => Err(ExchangeError::Unusable.into()),
    }
}

/// A session's token, as of this moment: the record of the request may have taken long.
fn own<'a>(gate: &Gate, session: &'a Session) -> Result<&'a Arc<ProviderToken>, Refusal> {
    let token = gate.sessions.access_token(session, gate.clock.now());
    token.ok_or_else(|| Refusal::SignInAgain(Box::new(SignInAgain::of(session, WhyAgain::NoToken))))
}

async fn exchanged(
    gate: &Gate,
    arrival: &Arrival,
    wanted: &TokenExchange,
    caller: &Credential,
) -> Result<HeaderValue, Refusal> {
    let Arrival { snapshot, at, .. } = arrival;
    let got = match caller {
        Credential::Token(token) => {
            let Some(text) = bearer::presented(&arrival.head.headers)? else {
                return Err(ExchangeError::Unusable.into());
            };
            snapshot.bearers.exchange(token, text, wanted, *at).await
        }
        Credential::Session(session) => {
            let token = Arc::clone(own(gate, session)?);
            let provider = vouching(snapshot, session);
            let provider = provider.ok_or(ExchangeError::Unusable)?;
            snapshot.bearers.exchange_for(provider, session, token, wanted, *at).await
        }
        Credential::Certificate(_) => Err(ExchangeError::Unusable),
    };
    Ok(got?)
}
