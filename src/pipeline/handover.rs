//! Signing in at one host for all the others (`session.sign_in_host`): what the protected host, the
//! sign-in host and then the protected host again answer. What ties the three together is in
//! [`identity::handover`](crate::identity::handover).

use bytes::Bytes;
use http::Response;
use http::header::SET_COOKIE;

use crate::domain::canonical::{Authority, CanonicalRequest};
use crate::domain::step_up::StepUp;
use crate::identity::handover;
use crate::identity::login::{Part, StateError};
use crate::identity::oidc::{Login, LoginError, Provider};

use super::choice::{self, SIGN_IN};
use super::gate::Gate;
use super::receive::Arrival;
use super::reply;

/// The sign-in host as this browser reaches it, when it is another one than `host`.
pub fn elsewhere(arrival: &Arrival, host: &Authority) -> Option<Authority> {
    let sign_in = arrival.snapshot.routes.sign_in_host()?;
    let elsewhere = *sign_in != host.host;
    elsewhere.then(|| Authority { host: sign_in.clone(), port: host.port })
}

/// At the protected host: sends a browser to the sign-in host.
pub fn send(
    arrival: &Arrival,
    host: &Authority,
    sign_in: &Authority,
    provider: &Provider,
    return_to: &str,
    step_up: Option<&StepUp>,
) -> Result<Response<Bytes>, LoginError> {
    let logins = arrival.snapshot.providers.logins();
    let wanted = handover::Wanted { host, provider: provider.name(), return_to, step_up };
    let (sealed, cookies) = handover::ask(logins, &wanted, &arrival.head.headers)?;
    // In base 64 for addresses: nothing in it has to be escaped.
    let address = format!("https://{sign_in}{SIGN_IN}?for={sealed}");
    let mut response = reply::see_other(arrival.id, &address);
    for field in cookies {
        response.headers_mut().append(SET_COOKIE, field);
    }
    Ok(response)
}

/// At the sign-in host: begins the login that a protected host asks for.
pub async fn begin(
    gate: &Gate,
    arrival: &Arrival,
    host: &Authority,
    sealed: &str,
) -> Result<Response<Bytes>, LoginError> {
    if arrival.snapshot.routes.sign_in_host() != Some(&host.host) {
        return Err(StateError::WrongHost.into());
    }
    let snapshot = &arrival.snapshot;
    let asked = handover::asked(snapshot.providers.logins(), sealed)?;
    let protected = protected(arrival, &asked.host)?;
    let offered = choice::offered(snapshot, &protected, &asked.return_to);
    let provider = offered.into_iter().find(|one| **one.name() == *asked.provider);
    let provider = provider.ok_or(StateError::UnknownProvider)?;
    let part = Part::SignIn { host: asked.host, state: asked.state };
    let (return_to, step_up) = (&asked.return_to, asked.step_up.as_ref());
    Ok(reply::begin_login(gate, arrival, host, provider, return_to, step_up, part).await)
}

/// A host that is still served.
fn protected(arrival: &Arrival, host: &str) -> Result<Authority, StateError> {
    let host = Authority::parse(host).map_err(|_| StateError::Broken)?;
    if arrival.snapshot.routes.knows_host(&host.host) {
        Ok(host)
    } else {
        Err(StateError::WrongHost)
    }
}

/// At the sign-in host, after the login: sends the browser back with a code.
pub async fn give(
    arrival: &Arrival,
    login: &Login,
    (host, state): &(String, String),
) -> Result<Response<Bytes>, LoginError> {
    protected(arrival, host)?;
    let logins = arrival.snapshot.providers.logins();
    let address = handover::give(logins, login, host, state).await?;
    let mut response = reply::see_other(arrival.id, &address);
    for field in &login.set_cookie {
        response.headers_mut().append(SET_COOKIE, field.clone());
    }
    Ok(response)
}

/// At the protected host: who signed in.
pub async fn take(arrival: &Arrival, request: &CanonicalRequest) -> Result<Login, LoginError> {
    let logins = arrival.snapshot.providers.logins();
    let query = request.query.as_deref().unwrap_or_default();
    handover::take(logins, &request.authority, query, &arrival.head.headers).await
}
