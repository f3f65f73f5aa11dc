//! Connections that outlive their request: WebSockets, event streams, long downloads.
//!
//! INVARIANT: what was allowed when it was opened is asked about again for as long as it is open:
//! at once when its session ends, else every second with the snapshot of that second. No wait for
//! the store holds that up. Elsewhere, streams outlive logout.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::domain::clock::Timestamp;
use crate::domain::connection::ClientAddr;
use crate::domain::event::{Event, Occasion};
use crate::domain::id::{DecisionId, SessionId};
use crate::domain::query::{AccessQuery, Action};
use crate::domain::suspension::Subject;
use crate::identity::credential::Credential;
use crate::identity::session::PastLimit;
use crate::policy::Denial;

use super::authenticate::{NoLongerCounts, is_taken, still_counts};
use super::client::ClientConnection;
use super::exchange::{Authorized, Exchange};
use super::gate::Gate;
use super::gather::gather;
use super::normalise::Normalised;
use super::receive::random_u128;
use super::record;
use super::route::{Destination, RouteEntry};
use super::sign_in_again::past_limits;

/// How often a live connection is asked about again.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// All live connections, by what they were opened with.
#[derive(Debug, Default)]
pub struct Live {
    sessions: Mutex<HashMap<SessionId, Vec<Arc<Signal>>>>,
}

#[derive(Debug, Default)]
struct Signal {
    ended: AtomicBool,
    wake: Notify,
}

impl Live {
    /// Wakes every connection of a session that has ended.
    pub fn session_ended(&self, session: &SessionId) {
        let signals = self.sessions.lock().remove(session).unwrap_or_default();
        for signal in signals {
            signal.ended.store(true, Ordering::Release);
            signal.wake.notify_one();
        }
    }

    pub fn count(&self) -> usize {
        self.sessions.lock().values().map(Vec::len).sum()
    }

    /// Has every connection ask about its session at once.
    pub fn wake_all(&self) {
        for signal in self.sessions.lock().values().flatten() {
            signal.wake.notify_one();
        }
    }

    fn register(&self, session: SessionId) -> Arc<Signal> {
        let signal = Arc::new(Signal::default());
        self.sessions.lock().entry(session).or_default().push(Arc::clone(&signal));
        signal
    }

    fn deregister(&self, session: &SessionId, signal: &Arc<Signal>) {
        let mut sessions = self.sessions.lock();
        if let Some(signals) = sessions.get_mut(session) {
            signals.retain(|other| !Arc::ptr_eq(other, signal));
            if signals.is_empty() {
                sessions.remove(session);
            }
        }
    }
}

/// Why a live connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CutReason {
    #[error("the session has ended")]
    SessionEnded,
    #[error("it can't be known whether the session has ended")]
    Unconfirmed,
    #[error("the identity provider can't be asked about the user, and was not for too long")]
    IdentityUnconfirmed,
    #[error("the access token has expired, or its issuer is no longer trusted")]
    TokenEnded,
    #[error("the client's certificate has expired, was revoked, or stands for somebody else now")]
    CertificateEnded,
    #[error("the route no longer takes what the client identified itself with")]
    Credential,
    #[error("the policies no longer allow it")]
    Denied,
    #[error("the route is gone")]
    RouteGone,
    #[error("the route no longer takes requests from this address")]
    Source,
    #[error("the route no longer takes users of this identity provider")]
    Provider,
    #[error("{0}")]
    PastLimit(PastLimit),
    #[error("the {} is suspended", .0.name())]
    Suspended(Subject),
}

impl CutReason {
    fn of(caller: &Credential) -> Self {
        match caller {
            Credential::Session(_) => Self::SessionEnded,
            Credential::Token(_) => Self::TokenEnded,
            Credential::Certificate(_) => Self::CertificateEnded,
        }
    }
}

/// The hold on one live connection. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watch {
    signal: Arc<Signal>,
    opened: DecisionId,
    /// With the newest that is known of a session's user.
    caller: Mutex<Credential>,
    connection: Arc<ClientConnection>,
    client: ClientAddr,
    asked: Arc<Normalised>,
    route: Arc<RouteEntry>,
    may_send: AtomicBool,
    drop_noted: AtomicBool,
    /// The client has sent something since that was last looked at.
    heard: AtomicBool,
}

/// What a watch over an exchange needs, apart from the exchange.
#[derive(Debug)]
pub struct Holding {
    opened: DecisionId,
    begun: Instant,
    caller: Credential,
    connection: Arc<ClientConnection>,
    client: ClientAddr,
    asked: Arc<Normalised>,
    route: Arc<RouteEntry>,
    websocket: bool,
}

impl Holding {
    pub(super) fn of(exchange: &Exchange<Authorized>) -> Self {
        Self {
            opened: exchange.id,
            begun: exchange.begun,
            caller: exchange.state.caller.clone(),
            connection: Arc::clone(&exchange.connection),
            client: exchange.client,
            asked: Arc::new(exchange.asked.clone()),
            route: Arc::clone(&exchange.route),
            websocket: exchange.state.websocket,
        }
    }

    /// Since the request's head arrived.
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Registers the exchange as a live connection.
    pub fn watch(&self) -> Watch {
        self.route.metrics.live.inc();
        let watch = Watch {
            signal: self.connection.gate.live.register(*self.caller.id()),
            opened: self.opened,
            caller: Mutex::new(self.caller.clone()),
            connection: Arc::clone(&self.connection),
            client: self.client,
            asked: Arc::clone(&self.asked),
            route: Arc::clone(&self.route),
            may_send: AtomicBool::new(false),
            drop_noted: AtomicBool::new(false),
            heard: AtomicBool::new(false),
        };
        if self.websocket {
            watch.may_send.store(watch.send_allowed(), Ordering::Release);
        }
        watch
    }
}

impl Watch {
    /// Resolves when the connection is no longer allowed; by then the cut is recorded. The caller
    /// closes both sides. Safe to drop and call again.
    pub async fn cut(&self) -> CutReason {
        loop {
            if let Some(reason) = self.reread().await.or_else(|| self.look()) {
                return reason;
            }
            self.due().await;
        }
    }

    /// Whether data frames from the client may pass (the action `websocket:send`).
    pub fn may_send(&self) -> bool {
        self.may_send.load(Ordering::Acquire)
    }

    /// Records that data frames of the client were dropped, once until sending is allowed again.
    pub fn frame_dropped(&self) {
        if self.drop_noted.swap(true, Ordering::AcqRel) {
            return;
        }
        let now = self.gate().clock.now();
        if let Err(NotPermitted::Denied(denial)) = self.decide(Action::WebSocketSend) {
            record::denial(self.gate(), now, &denial, &self.caller(), Occasion::Reauthorisation);
        }
        record::note(
            self.gate(),
            now,
            Event::FramesDropped {
                id: DecisionId::new(now, random_u128()),
                opened_by: self.opened,
                principal: Arc::clone(&self.caller().principal().id),
                route: Arc::clone(self.route.name()),
            },
        );
    }

    /// The client has sent a part of a body: its session counts as used when [`cut`](Self::cut) next
    /// looks, within a second. So cheap that it may be called for each part.
    pub fn client_sent(&self) {
        self.heard.store(true, Ordering::Release);
    }

    /// What the client sends on a live connection keeps its session from idling out.
    pub fn client_active(&self) {
        if let Credential::Session(session) = self.caller() {
            self.gate().sessions.touch(&session, self.gate().clock.now());
        }
    }

    /// Asks at once whether it is still allowed. That it is not is then recorded.
    pub fn check(&self) -> Option<CutReason> {
        let now = self.gate().clock.now();
        if let Some(reason) = self.lapsed(now) {
            self.record_cut(reason);
            return Some(reason);
        }
        let reason = match self.decide(self.opening_action()) {
            Ok(()) => {
                if self.opening_action() == Action::WebSocketReceive {
                    // Asked first: what is heard of after this was not decided on.
                    let known = self.knows_newest();
                    if !self.send_allowed() {
                        self.may_send.store(false, Ordering::Release);
                    } else if known && !self.may_send.swap(true, Ordering::AcqRel) {
                        self.drop_noted.store(false, Ordering::Release);
                    }
                }
                return None;
            }
            Err(NotPermitted::Before(reason)) => reason,
            Err(NotPermitted::Denied(denial)) => {
                record::denial(
                    self.gate(),
                    now,
                    &denial,
                    &self.caller(),
                    Occasion::Reauthorisation,
                );
                CutReason::Denied
            }
        };
        self.record_cut(reason);
        Some(reason)
    }
}

impl Watch {
    /// Why the credential that it was opened with no longer counts, if it doesn't.
    fn lapsed(&self, now: Timestamp) -> Option<CutReason> {
        let ended = self.signal.ended.load(Ordering::Acquire);
        let (gate, caller) = (self.gate(), self.caller());
        let times = (now, Instant::now());
        let counts = still_counts(gate, &gate.snapshot.load(), &self.connection, &caller, times);
        match counts {
            Err(NoLongerCounts::Suspended(subject)) => Some(CutReason::Suspended(subject)),
            Err(NoLongerCounts::Ended) => Some(CutReason::of(&caller)),
            _ if ended => Some(CutReason::of(&caller)),
            Err(NoLongerCounts::Unconfirmed) => Some(CutReason::Unconfirmed),
            Err(NoLongerCounts::Stale) => Some(CutReason::IdentityUnconfirmed),
            Ok(()) => None,
        }
    }
}

/// Why asking again did not end in a permit: that of the policies, or what comes before them.
enum NotPermitted {
    Before(CutReason),
    Denied(Box<Denial>),
}

impl Watch {
    fn gate(&self) -> &Gate {
        &self.connection.gate
    }

    /// Whom it is open for, as far as can be said without a look at the store.
    fn caller(&self) -> Credential {
        let mut caller = self.caller.lock();
        if let Credential::Session(session) = &*caller
            && !session.is_current()
            && let Some(newest) = self.gate().sessions.current(session)
        {
            *caller = Credential::Session(newest);
        }
        caller.clone()
    }

    /// Whether nothing newer is known of a session's user than what is at hand.
    fn knows_newest(&self) -> bool {
        match self.caller() {
            Credential::Session(session) => session.is_current(),
            Credential::Token(_) | Credential::Certificate(_) => true,
        }
    }

    /// Resolves when it is to be asked about again.
    async fn due(&self) {
        tokio::select! {
            () = self.signal.wake.notified() => {}
            // And when what is known of sessions would no longer be enough.
            () = tokio::time::sleep(INTERVAL.min(self.gate().sessions.confirmed_for())) => {}
        }
    }

    /// What is asked each time.
    fn look(&self) -> Option<CutReason> {
        if self.heard.swap(false, Ordering::AcqRel) {
            self.client_active();
        }
        self.check()
    }

    /// Reads what another gate has learnt of the session's user. Why it can't stay open without.
    /// A store that hangs holds nothing else up: for as long as it takes, it is asked about with
    /// what was known before.
    async fn reread(&self) -> Option<CutReason> {
        let Credential::Session(session) = self.caller() else { return None };
        if session.is_current() {
            return None;
        }
        let gate = self.gate();
        let mut read = Box::pin(gate.sessions.reread(&session, gate.clock.now()));
        let read = loop {
            tokio::select! {
                biased;
                read = &mut read => break read,
                () = self.due() => {
                    if let Some(reason) = self.look() {
                        return Some(reason);
                    }
                }
            }
        };
        // That it is over is noticed with all the others.
        if let Err(error) = read {
            tracing::warn!(%error, "what is known of a session's user can't be read");
            self.record_cut(CutReason::Unconfirmed);
            return Some(CutReason::Unconfirmed);
        }
        None
    }

    fn opening_action(&self) -> Action {
        super::gather::action(&self.asked)
    }

    fn send_allowed(&self) -> bool {
        self.decide(Action::WebSocketSend).is_ok()
    }

    /// Asks today's snapshot the question of the opening, with today's time and device posture.
    fn decide(&self, action: Action) -> Result<(), NotPermitted> {
        let snapshot = self.gate().snapshot.load();
        let route = match snapshot.routes.find(&self.asked.request) {
            Ok(Destination::Route(route)) if self.still_leads_to(&route) => route,
            _ => return Err(NotPermitted::Before(CutReason::RouteGone)),
        };
        let (now, caller) = (self.gate().clock.now(), self.caller());
        if !route.config.allows(self.client) {
            return Err(NotPermitted::Before(CutReason::Source));
        }
        if caller.provider().is_some_and(|provider| !route.config.takes(provider)) {
            return Err(NotPermitted::Before(CutReason::Provider));
        }
        if !is_taken(&route.config, &caller) {
            return Err(NotPermitted::Before(CutReason::Credential));
        }
        if let Credential::Session(session) = &caller
            && let Some(limit) = past_limits(self.gate(), session, &route.config, now)
        {
            return Err(NotPermitted::Before(CutReason::PastLimit(limit)));
        }
        let (connection, asked) = (&self.connection, &self.asked);
        let query = gather(&snapshot, connection, self.client, now, asked, &route, &caller);
        let query = AccessQuery { action, ..query };
        snapshot
            .policies
            .decide(DecisionId::new(now, random_u128()), query)
            .map(drop)
            .map_err(|denial| NotPermitted::Denied(Box::new(denial)))
    }

    /// The same route, to the same servers, and nothing else has changed that was settled at the
    /// opening.
    fn still_leads_to(&self, route: &RouteEntry) -> bool {
        let (now, then) = (&route.config, &self.route.config);
        Arc::ptr_eq(now, then)
            || (now.name == then.name
                && now.upstream.continues(&then.upstream)
                && (now.websocket || self.opening_action() != Action::WebSocketReceive))
    }

    fn record_cut(&self, reason: CutReason) {
        let (now, caller) = (self.gate().clock.now(), self.caller());
        record::note(
            self.gate(),
            now,
            Event::ConnectionCut {
                id: DecisionId::new(now, random_u128()),
                opened_by: self.opened,
                session: Some(caller.id().short()),
                principal: Arc::clone(&caller.principal().id),
                route: Arc::clone(self.route.name()),
                reason: reason.to_string(),
            },
        );
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.gate().live.deregister(self.caller.lock().id(), &self.signal);
        self.route.metrics.live.dec();
    }
}
