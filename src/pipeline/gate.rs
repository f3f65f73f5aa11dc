//! The gate: what lives longer than a snapshot, and the one door through it.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::Method;

use crate::audit::AuditLog;
use crate::domain::clock::Clock;
use crate::domain::event::Occasion;
use crate::identity::assertion::Signer;
use crate::identity::credential::Credential;
use crate::identity::kept::KeptForms;
use crate::identity::recent::{ENOUGH, RecentLogins};
use crate::identity::session::Sessions;
use crate::identity::suspension::Suspensions;
use crate::metrics::{Metrics, RequestOutcome, Stage};
use crate::policy::{Denial, Permit};

use super::asker::{Asker, navigates};
use super::attempts::Attempts;
use super::authenticate;
use super::backchannel;
use super::client::ClientConnection;
use super::exchange::{Authorized, Exchange};
use super::gather::gather;
use super::guard;
use super::kept;
use super::live::Live;
use super::normalise::{Normalised, Upgrade, normalise};
use super::preflight;
use super::prepare::prepare;
use super::pressure::Pressure;
use super::rate;
use super::receive::{Arrival, receive};
use super::record;
use super::refusal::Refusal;
use super::reply;
use super::reserved;
use super::respond;
use super::route::{Destination, RouteEntry};
use super::slots::Held;
use super::snapshot::Snapshot;
use super::upstream_token;

#[derive(Debug)]
pub struct Gate {
    pub snapshot: ArcSwap<Snapshot>,
    pub sessions: Arc<Sessions>,
    pub suspensions: Suspensions,
    pub signer: Signer,
    pub audit: AuditLog,
    pub metrics: Arc<Metrics>,
    pub live: Live,
    pub recent: RecentLogins,
    pub kept: KeptForms,
    pub clock: Clock,
    pub pressure: Pressure,
    /// Logout tokens that looked right and were not, by who sent them.
    pub forged: Attempts,
    /// Callbacks that brought no sign-in, by who sent them.
    pub failed_logins: Attempts,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Outcome {
    /// Permitted, recorded and prepared: the one value from which an upstream is reached.
    Forward(Box<Exchange<Authorized>>),
    /// Refused, with a form that is worth keeping: its body is to be read for [`Gate::keep`].
    Keep(Box<kept::Pending>),
    /// The gate's own answer.
    Reply(http::Response<Bytes>),
    /// The gate answers by itself, but has to read the body first: see [`Gate::read`].
    Read(Box<Reading>),
}

/// A request for one of the gate's own addresses that takes a body.
#[derive(Debug)]
pub struct Reading {
    arrival: Arrival,
}

impl Reading {
    /// The largest body that is read, in bytes.
    pub fn limit(&self) -> u64 {
        backchannel::MAX_BODY
    }
}

/// How the stages ended short of a permit.
enum Ended {
    Answered(http::Response<Bytes>),
    Refused(Refusal),
    NeedsBody,
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// One request in this many has its stages timed: timing them costs more than some of them.
const TIMED: u8 = 16;

/// Where sessions are ended.
const SIGN_OUT: [&str; 2] = ["/.wicketgate/logout", "/.wicketgate/backchannel-logout"];

/// What the stages establish of a permitted request.
struct Passed {
    asked: Normalised,
    route: Arc<RouteEntry>,
    asker: Asker,
    state: Authorized,
}

impl Gate {
    /// Takes a request's head through all stages. The body is not looked at.
    pub async fn admit(
        &self,
        connection: &Arc<ClientConnection>,
        head: Box<http::request::Parts>,
    ) -> Outcome {
        let mut arrival = receive(self, connection, head); // id, time, snapshot
        match self.stages(&mut arrival).await {
            Ok(Passed { asked, route, asker, state }) => Outcome::Forward(Box::new(
                Exchange::authorized(arrival, asked, route, asker, state),
            )),
            Err(Ended::Answered(response)) => Outcome::Reply(response),
            Err(Ended::Refused(refusal)) => {
                let refusal = self.no_circle(&arrival, refusal);
                match self.keepable(&arrival, &refusal) {
                    Some(about) => Outcome::Keep(kept::pending(arrival, refusal, about)),
                    None => Outcome::Reply(Box::pin(self.refuse(&arrival, &refusal)).await),
                }
            }
            Err(Ended::NeedsBody) => Outcome::Read(Box::new(Reading { arrival })),
        }
    }

    /// Answers a request whose body had to be read, or could not be.
    pub async fn read(
        &self,
        reading: Box<Reading>,
        body: Result<Bytes, Refusal>,
    ) -> http::Response<Bytes> {
        let Reading { arrival } = *reading;
        let answer = match body {
            Ok(body) => backchannel::logout(self, &arrival, &body).await,
            Err(refusal) => Err(refusal),
        };
        match answer {
            Ok(response) => response,
            Err(refusal) => self.refuse(&arrival, &refusal).await,
        }
    }

    /// The order of the stages. Each takes what the ones before it established.
    async fn stages(&self, arrival: &mut Arrival) -> Result<Passed, Ended> {
        self.before_reading(arrival)?;
        // One reading of the request, or none: before anything is decided on it.
        let asked = normalise(arrival)?;
        // The connection belongs to the host that is asked for: before its certificate counts.
        guard::server_name(arrival, &asked.request)?;
        // One match of host and path, which all that follows uses.
        let route = match arrival.snapshot.routes.find(&asked.request)? {
            Destination::Route(route) => route,
            Destination::Reserved(path) => {
                if *path == *backchannel::PATH && arrival.head.method == Method::POST {
                    backchannel::before_body(self, arrival, asked.content_length)?;
                    return Err(Ended::NeedsBody);
                }
                let answer = Box::pin(reserved::answer(self, arrival, &asked.request, &path)).await;
                return Err(answer.map_or_else(Ended::from, Ended::Answered));
            }
        };
        // Asked without credentials, and gives access to nothing.
        if let Some(answer) = preflight::answer(arrival, &route) {
            rate::by_address_on(arrival, &route)?;
            return Err(Ended::Answered(answer));
        }
        let asker = Asker::of(&arrival.head);
        match self.on_route(arrival, &asked, &route).await {
            Ok(state) => Ok(Passed { asked, route, asker, state }),
            Err(refusal) => {
                arrival.route = Some(route);
                Err(refusal.into())
            }
        }
    }

    /// What is settled before anything that the client says is looked at.
    fn before_reading(&self, arrival: &mut Arrival) -> Result<(), Refusal> {
        // All that follows asks for the address.
        if !arrival.client_is_known {
            return Err(Refusal::UNKNOWN_CLIENT);
        }
        // Who may not come here at all is told nothing else.
        guard::listener(arrival)?;
        // Who is short of memory takes on nothing; what is under way goes on. Signing out ends
        // something.
        if !SIGN_OUT.contains(&arrival.head.uri.path()) {
            self.pressure.admit()?;
        }
        rate::by_address(arrival)
    }

    async fn on_route(
        &self,
        arrival: &mut Arrival,
        asked: &Normalised,
        route: &RouteEntry,
    ) -> Result<Authorized, Refusal> {
        let mut timer = arrival.id.is_sampled(TIMED).then(|| Timer::new(arrival.begun));
        rate::by_address_on(arrival, route)?;
        // What no policy could make right.
        guard::guard(arrival, asked, route)?;
        Timer::stage(&mut timer, route, Stage::Normalise);
        // Who asks: no principal, no question to the policies.
        let caller = authenticate::caller(self, arrival, route).await?;
        Timer::stage(&mut timer, route, Stage::Authenticate);
        match self.of_caller(arrival, asked, route, &caller, timer).await {
            Ok((permit, held, body)) => {
                let websocket = asked.upgrade == Upgrade::WebSocket;
                Ok(Authorized { permit, caller, websocket, body, held: Some(held) })
            }
            Err(refusal) => {
                arrival.principal = Some(Arc::clone(&caller.principal().id));
                Err(refusal)
            }
        }
    }

    async fn of_caller(
        &self,
        arrival: &mut Arrival,
        asked: &Normalised,
        route: &RouteEntry,
        caller: &Credential,
        mut timer: Option<Timer>,
    ) -> Result<(Permit, Held, Option<Bytes>), Refusal> {
        let at = arrival.at;
        // A caller's own share, before the policies are asked on his behalf.
        rate::by_caller(arrival, route, caller)?;
        // The policies decide on everything that is known.
        let Arrival { connection, client, snapshot, .. } = &*arrival;
        let query = gather(snapshot, connection, *client, at, asked, route, caller);
        let permit = arrival.snapshot.policies.decide(arrival.id, query).map_err(|denial| {
            record::denial(self, at, &denial, caller, Occasion::Request);
            if !denial.decision().errors.is_empty() {
                self.metrics.decision_errors.inc();
            }
            denied(snapshot, caller, denial)
        })?;
        Timer::stage(&mut timer, route, Stage::Authorise);
        // What all share, only for those who are entitled to a part of it.
        rate::by_route(arrival, route)?;
        let websocket = asked.upgrade == Upgrade::WebSocket;
        let held = route.places.take(&route.config, websocket, &caller.principal().id)?;
        // Access that can't be recorded is denied.
        record::permit(self, arrival, &permit, caller, route.config.audit).await?;
        Timer::stage(&mut timer, route, Stage::Record);
        let token = upstream_token::field(self, arrival, route, caller, &permit).await?;
        // A form that was kept is taken out last: what refuses comes before.
        let body = match (caller, kept::ticket(arrival, asked)) {
            (Credential::Session(session), Some(ticket)) => {
                Some(Box::pin(kept::resume(self, arrival, asked, session, &ticket)).await?)
            }
            // Somebody signed in has filled it in: sent by anybody else it would be sent without.
            (_, Some(_)) => return Err(Refusal::FormGone),
            (_, None) => None,
        };
        // The head is rewritten last: what the gate adds, nothing strips.
        prepare(self, arrival, asked, route, caller, token)?;
        Timer::stage(&mut timer, route, Stage::Prepare);
        Ok((permit, held, body))
    }

    /// Refuses what the listener itself found wrong, before any stage: with an id, on record.
    pub async fn refuse_early(
        &self,
        connection: &Arc<ClientConnection>,
        head: Box<http::request::Parts>,
        refusal: &Refusal,
    ) -> http::Response<Bytes> {
        let mut arrival = receive(self, connection, head);
        // Who may not come here, or comes too often, is told that and counted all the same.
        match self.before_reading(&mut arrival) {
            Ok(()) => self.refuse(&arrival, refusal).await,
            Err(first) => self.refuse(&arrival, &first).await,
        }
    }

    /// A browser that has signed in twice just now, and is still not signed in, is told so: it would
    /// be sent round in circles. So is one that is asked for yet another sign-in.
    fn no_circle(&self, arrival: &Arrival, refusal: Refusal) -> Refusal {
        let again = matches!(
            refusal,
            Refusal::Unauthenticated { .. } | Refusal::SignInAgain(_) | Refusal::StepUp { .. }
        );
        if !again || !navigates(&arrival.head) {
            return refusal;
        }
        let headers = &arrival.head.headers;
        let signed_in =
            reply::request_authority(arrival).map_or(0, |host| self.recent.count(headers, &host));
        match refusal {
            Refusal::Unauthenticated { .. } if signed_in >= ENOUGH => Refusal::NoSessionKept,
            Refusal::SignInAgain(wanted) if signed_in >= ENOUGH => Refusal::SignInInVain(wanted),
            // Each of the kinds that there are may be asked for once.
            Refusal::StepUp { denial, .. } if signed_in >= ENOUGH * 2 => Refusal::Denied(denial),
            other => other,
        }
    }

    /// Answers for a refusal: recorded, counted, in the form that the client understands.
    pub(super) async fn refuse(
        &self,
        arrival: &Arrival,
        refusal: &Refusal,
    ) -> http::Response<Bytes> {
        self.note_refused(arrival, refusal);
        let mut response = reply::refused(self, arrival, refusal).await;
        arrival.quota.tell(response.headers_mut());
        if matches!(refusal, Refusal::Overloaded) {
            // The connection's memory is what is wanted back.
            respond::end_connection(arrival.head.version, response.headers_mut());
        }
        response
    }

    /// Records and counts a refusal.
    pub(super) fn note_refused(&self, arrival: &Arrival, refusal: &Refusal) {
        // A denial and a failed login have a record of their own.
        let on_record =
            matches!(refusal, Refusal::Denied(_) | Refusal::StepUp { .. } | Refusal::Login(_));
        if !on_record {
            record::refusal(self, arrival, refusal);
        }
        let outcome = outcome(refusal);
        match &arrival.route {
            Some(route) => route.metrics.observe(outcome, arrival.begun.elapsed()),
            None => self.metrics.unrouted().observe(outcome, arrival.begun.elapsed()),
        }
        self.count_bound(arrival, refusal);
    }
}

impl Gate {
    fn count_bound(&self, arrival: &Arrival, refusal: &Refusal) {
        let route = arrival.route.as_ref().map_or("-", |route| route.name());
        match refusal {
            Refusal::RateLimited { per, .. } => self.metrics.rate_limited(route, per.name()),
            Refusal::Busy(what) => self.metrics.shed(route, what),
            Refusal::Overloaded => self.metrics.shed(route, "memory"),
            _ => {}
        }
    }
}

/// A denial, and whether another sign-in at the caller's provider would lift it. Machines don't sign
/// in.
fn denied(snapshot: &Snapshot, caller: &Credential, denial: Denial) -> Refusal {
    let provider = caller.provider().filter(|_| !caller.principal().is_service());
    let known = provider.and_then(|provider| snapshot.providers.named(provider));
    let levels = known.map_or(&[][..], |provider| provider.step_up_levels());
    let asked = provider.and_then(|_| snapshot.policies.step_up(denial.query(), levels));
    let denial = Box::new(denial);
    match (provider, asked) {
        (Some(provider), Some(asked)) => {
            Refusal::StepUp { denial, provider: Arc::clone(provider), asked: Box::new(asked) }
        }
        _ => Refusal::Denied(denial),
    }
}

/// Times the stages of one request.
struct Timer(Instant);

impl Timer {
    fn new(begun: Instant) -> Self {
        Self(begun)
    }

    /// What has passed since the stage before belongs to this one.
    fn stage(timer: &mut Option<Self>, route: &RouteEntry, stage: Stage) {
        if let Some(Self(since)) = timer {
            let now = Instant::now();
            route.metrics.stage(stage, now.saturating_duration_since(*since));
            *since = now;
        }
    }
}

pub(super) fn outcome(refusal: &Refusal) -> RequestOutcome {
    match refusal {
        Refusal::Denied(_) | Refusal::StepUp { .. } => RequestOutcome::Denied,
        Refusal::Unauthenticated { .. }
        | Refusal::NoSessionKept
        | Refusal::SignInAgain(_)
        | Refusal::SignInInVain(_)
        | Refusal::TokenRequired
        | Refusal::CertificateRequired => RequestOutcome::Unauthenticated,
        Refusal::Token(error) if !error.is_unavailable() => RequestOutcome::Unauthenticated,
        Refusal::Token(_) | Refusal::Exchange(_) => RequestOutcome::Error,
        Refusal::Login(error) if error.status() >= 500 => RequestOutcome::Error,
        Refusal::SessionsUnavailable
        | Refusal::IdentityUnconfirmed { .. }
        | Refusal::AuditUnavailable
        | Refusal::Overtaken
        | Refusal::Internal
        | Refusal::Upstream(_) => RequestOutcome::Error,
        _ => RequestOutcome::Refused,
    }
}
