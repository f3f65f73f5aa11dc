//! Sessions that are good, and over for the application that is asked for: past its own limits, or
//! without an access token for it.
//!
//! INVARIANT: for that application such a session is as good as expired, in a request as on a live
//! connection; elsewhere it goes on. What a sign-in changes is asked for in such a way that a
//! sign-in brings it: a new session has no age and no idle times, and what its provider says of the
//! user's own sign-in is held against the limit before there is a session at all
//! ([`StepUp::check`]).

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http::header::{HeaderValue, WWW_AUTHENTICATE};

use crate::config::model::{Route, UpstreamToken};
use crate::domain::clock::Timestamp;
use crate::domain::step_up::StepUp;
use crate::identity::session::{PastLimit, Session};

use super::asker::navigates;
use super::gate::Gate;
use super::receive::Arrival;
use super::refusal::Refusal;
use super::reply;
use super::step_up;

/// A sign-in need not be younger than this for an application that was idle.
const YOUNG: u64 = 60;

/// Why a good session is none for an application, and a sign-in helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyAgain {
    PastLimit(PastLimit),
    NoToken,
}

impl WhyAgain {
    /// What its user is told.
    pub const fn detail(self) -> &'static str {
        match self {
            Self::PastLimit(PastLimit::TooOld(_)) => "this application wants a more recent sign-in",
            Self::PastLimit(PastLimit::TooIdle(_)) => {
                "your session was without use for longer than this application allows"
            }
            Self::NoToken => {
                "the access token that this application gets has expired, or is not there yet"
            }
        }
    }

    /// What a new sign-in has to bring. Nothing but a token is what the provider gives without
    /// asking anybody.
    pub fn asks(self) -> Option<StepUp> {
        let max_age = match self {
            Self::PastLimit(PastLimit::TooOld(most)) => most.as_secs(),
            Self::PastLimit(PastLimit::TooIdle(most)) => most.as_secs().max(YOUNG),
            Self::NoToken => return None,
        };
        Some(StepUp { max_age: Some(max_age), ..StepUp::default() })
    }

    /// A stable word for records and problems.
    pub fn reason(self) -> &'static str {
        match self {
            Self::PastLimit(PastLimit::TooOld(_)) => "session-too-old",
            Self::PastLimit(PastLimit::TooIdle(_)) => "session-too-idle",
            Self::NoToken => "no-access-token",
        }
    }
}

/// A request that a session was not good enough for.
#[derive(Clone, Debug)]
pub struct SignInAgain {
    pub why: WhyAgain,
    /// Who vouched for the session.
    pub provider: Arc<str>,
    /// Whose it is.
    pub principal: Arc<str>,
}

impl SignInAgain {
    pub fn of(session: &Session, why: WhyAgain) -> Self {
        let (provider, principal) = (&session.provider, &session.principal.id);
        Self { why, provider: Arc::clone(provider), principal: Arc::clone(principal) }
    }

    /// Where a person signs in anew by a click, and goes to `return_to` then.
    pub fn sign_in(&self, return_to: &str) -> String {
        step_up::address(&self.provider, &self.why.asks().unwrap_or_default(), return_to)
    }
}

/// A browser that navigates is sent to sign in anew, and back; everybody else is told.
pub async fn answer(gate: &Gate, arrival: &Arrival, wanted: &SignInAgain) -> Response<Bytes> {
    if navigates(&arrival.head) {
        let asked = wanted.why.asks();
        return step_up::send(gate, arrival, &wanted.provider, asked.as_ref()).await;
    }
    let sign_in = wanted.sign_in(&step_up::page_of(arrival));
    let refusal = Refusal::SignInAgain(Box::new(wanted.clone()));
    let mut response = reply::leading_to(&sign_in, arrival, &refusal);
    if let Ok(challenge) = HeaderValue::try_from(format!("Wicketgate login=\"{sign_in}\"")) {
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}

/// Whether a good session counts for what is behind a route. Two comparisons where the application
/// has no limits and gets no token.
pub fn why(gate: &Gate, session: &Session, route: &Route, at: Timestamp) -> Option<WhyAgain> {
    if let Some(limit) = past_limits(gate, session, route, at) {
        return Some(WhyAgain::PastLimit(limit));
    }
    let wants_token = route.accepted.upstream_token != UpstreamToken::Drop;
    let lacks_it = wants_token && gate.sessions.access_token(session, at).is_none();
    lacks_it.then_some(WhyAgain::NoToken)
}

/// Whether a session is past the limits of a route's application. A token that was handed over when a
/// connection was opened is the application's own business from then on.
pub fn past_limits(
    gate: &Gate,
    session: &Session,
    route: &Route,
    at: Timestamp,
) -> Option<PastLimit> {
    let limits = route.application.session.as_ref()?;
    gate.sessions.past_limit(session, limits, at)
}
