//! Asking the provider again what it says of a session's user, while the session is in use.
//!
//! A refresh token often works once: a provider that sees one twice takes it for stolen and ends the
//! sign-in. So of all who want a session refreshed one does it, and the others wait: in this process
//! by a flight that they share, among gates by a lease in the store, one for each token. Whoever takes
//! the lease has room at the provider: one that waits for it would hold all others off.
//!
//! | what comes of it | then |
//! |---|---|
//! | an answer | it is stored with the new token, takes the place of what was known, and other gates are told |
//! | "no", or an answer about somebody else | the session ends |
//! | no answer | the session goes on with what is known, until that is too old (`Freshness`) |
//!
//! Refreshes run on a thread of their own: whoever asked for one may go away, and the token that was
//! used up would be lost with the answer.
//!
//! INVARIANT: the new token is in the store before anybody is served on what came with it.
//! INVARIANT: a session that ended meanwhile stays over, whatever the provider answers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::renewal::RenewalRecord;
use super::{Session, SessionError, Sessions};
use crate::domain::clock::Timestamp;
use crate::domain::event::EndReason;
use crate::domain::id::SessionId;
use crate::identity::outage::Place;
use crate::identity::refresh::{Before, RefreshError, Renews};
use crate::identity::revocation::TokenKind;
use crate::store::Space;

/// Refreshes that wait to be begun. One that finds no room is asked for by the next request.
const MAX_WAITING: usize = 4096;

/// How much longer a lease lasts than what it is for: as gates' clocks differ.
const MARGIN: Duration = Duration::from_secs(30);

/// Between two looks at what another gate is doing: more and more.
const LOOK: Duration = Duration::from_millis(50);
const LONGEST_LOOK: Duration = Duration::from_secs(1);

/// A token that was used up must not be lost for a store that is away for a moment.
const STORE_AGAIN: Duration = Duration::from_millis(250);
const STORE_TRIES: u32 = 40;

#[derive(Debug)]
pub(super) struct Refreshing {
    waiting: mpsc::Sender<Job>,
    begun: Mutex<Option<mpsc::Receiver<Job>>>,
    /// Dropping the sender wakes all who wait.
    flights: Mutex<HashMap<SessionId, watch::Sender<()>>>,
}

impl Default for Refreshing {
    fn default() -> Self {
        let (waiting, begun) = mpsc::channel(MAX_WAITING);
        Self { waiting, begun: Mutex::new(Some(begun)), flights: Mutex::default() }
    }
}

#[derive(Debug)]
struct Job {
    session: Arc<Session>,
    provider: Arc<dyn Renews>,
}

/// A refresh under way.
#[derive(Debug)]
pub struct Flight(watch::Receiver<()>);

impl Flight {
    /// Resolves when it is over. What came of it, [`Sessions::find`] knows.
    pub async fn landed(mut self) {
        while self.0.changed().await.is_ok() {}
    }
}

/// Takes a flight off the list, however it ends.
struct Landing<'a> {
    sessions: &'a Sessions,
    id: SessionId,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.sessions.refreshing.flights.lock().remove(&self.id);
    }
}

/// What came of a refresh that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Refreshed,
    /// Another gate has done it.
    Heard,
    Over,
}

/// Whose turn it is.
enum Lease<'a> {
    /// This process's, which has room at the provider.
    Ours(Place<'a>),
    /// Nobody's any more.
    Settled(Outcome),
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Provider(#[from] RefreshError),
    #[error(transparent)]
    Store(#[from] SessionError),
    #[error("another gate has been at it for too long")]
    Leased,
}

impl From<crate::store::StoreError> for Failure {
    fn from(error: crate::store::StoreError) -> Self {
        Self::Store(error.into())
    }
}

impl Sessions {
    /// Begins a refresh, or joins the one that is under way. `None`: there is nothing to wait for,
    /// because the session is not what it was, or the last try failed a moment ago. Never waits.
    pub fn begin_refresh<P: Renews + 'static>(
        &self,
        session: &Arc<Session>,
        provider: &Arc<P>,
        now: Timestamp,
    ) -> Option<Flight> {
        let mut flights = self.refreshing.flights.lock();
        if let Some(flight) = flights.get(&session.id) {
            return Some(Flight(flight.subscribe()));
        }
        let now = self.clock.at(now);
        if session.has_ended() || !session.is_current() || !session.shared.may_retry(now) {
            return None;
        }
        let provider = Arc::clone(provider) as Arc<dyn Renews>;
        if !provider.may_ask() {
            return None;
        }
        let job = Job { session: Arc::clone(session), provider };
        self.refreshing.waiting.try_send(job).ok()?;
        let (landing, flight) = watch::channel(());
        flights.insert(session.id, landing);
        Some(Flight(flight))
    }

    /// The newest that is known of a session's user, without a look at the store. `None`: it takes
    /// one ([`Sessions::reread`]).
    pub fn current(&self, session: &Arc<Session>) -> Option<Arc<Session>> {
        if session.is_current() {
            return Some(Arc::clone(session));
        }
        self.cache.get(&session.id).filter(|session| session.is_current())
    }

    /// The newest that is known of a session's user. `None`: it is over.
    ///
    /// # Errors
    /// Nothing is known.
    pub async fn reread(
        &self,
        session: &Session,
        now: Timestamp,
    ) -> Result<Option<Arc<Session>>, SessionError> {
        let found = self.find_id(&session.id, self.clock.at(now)).await?;
        Ok(found.filter(|session| !session.has_ended()))
    }

    /// Does the refreshes that are begun, for as long as somebody else holds the sessions. On a
    /// runtime that nothing else holds up.
    pub async fn refresh(self: Arc<Self>) {
        let Some(mut begun) = self.refreshing.begun.lock().take() else { return };
        let this = Arc::downgrade(&self);
        drop(self);
        let mut running = JoinSet::new();
        while let Some(job) = begun.recv().await {
            while running.try_join_next().is_some() {}
            let Some(sessions) = this.upgrade() else { break };
            running.spawn(async move { sessions.fly(&job).await });
        }
        while running.join_next().await.is_some() {}
    }

    /// Resolves when no refresh is under way: what was asked for is then stored.
    pub async fn refreshed(&self) {
        loop {
            let flight =
                self.refreshing.flights.lock().values().next().map(watch::Sender::subscribe);
            let Some(flight) = flight else { return };
            Flight(flight).landed().await;
        }
    }

    async fn fly(&self, job: &Job) {
        let session = &job.session;
        let _landing = Landing { sessions: self, id: session.id };
        match self.renew(job).await {
            Ok(Outcome::Refreshed) => {
                session.shared.went_well();
                self.metrics.refreshes("refreshed");
            }
            Ok(Outcome::Heard) => session.shared.went_well(),
            Ok(Outcome::Over) => {}
            Err(Failure::Provider(RefreshError::BackingOff)) => {
                session.shared.put_off(self.now());
            }
            Err(Failure::Provider(RefreshError::NoPlace)) => {
                self.metrics.refreshes_queued(&session.provider, "put-off");
                session.shared.put_off(self.now());
            }
            Err(failure) => {
                self.metrics.refreshes("unavailable");
                let failed_before = session.shared.failed(self.now());
                let is_told = matches!(
                    failure,
                    Failure::Provider(RefreshError::Unavailable { for_all: true, .. })
                );
                if failed_before == 0 && !is_told {
                    let session = session.id.short();
                    tracing::warn!(%session, cause = %failure, "a session can't be refreshed");
                }
            }
        }
    }

    async fn renew(&self, job: &Job) -> Result<Outcome, Failure> {
        let Job { session, provider } = job;
        let Some(record) = self.stored_renewal(&session.id).await? else {
            return self.missing(session).await;
        };
        if record.generation > session.generation() {
            self.take_in(session, &record).await;
            return Ok(Outcome::Heard);
        }
        let place = match self.lease(session, &record, provider.as_ref()).await? {
            Lease::Ours(place) => place,
            Lease::Settled(outcome) => return Ok(outcome),
        };
        let asked = self.now();
        let (token, id_token) = (record.token(), record.id_token());
        let before = Before {
            token: &token,
            principal: &record.principal,
            subject: session.subject.as_deref(),
            sid: session.sid.as_deref(),
            auth_time: session.authentication.auth_time,
            nonce: record.nonce(),
            id_token: id_token.as_ref(),
        };
        let renewed = provider.renew(&before, place);
        let renewed = tokio::time::timeout(provider.patience(), renewed).await;
        let renewed = renewed.unwrap_or_else(|_| {
            Err(RefreshError::unavailable("the identity provider took too long", false))
        });
        match renewed {
            Ok(mut renewed) => {
                // By the session clock, and only where an application is to get one.
                let (wall, now) = (self.clock.wall(), self.now());
                let token = renewed.access_token.filter(|_| session.access_token().is_some());
                renewed.access_token = token.map(|token| token.by_clock(wall, now));
                let next = record.after(renewed, asked).above(session);
                self.put(session, &next).await?;
                Ok(Outcome::Refreshed)
            }
            Err(error @ (RefreshError::Refused(_) | RefreshError::Changed(_))) => {
                self.metrics.refreshes("refused");
                tracing::info!(session = %session.id.short(), cause = %error, "a session is over");
                self.end(&session.id, EndReason::RefreshRefused).await?;
                Ok(Outcome::Over)
            }
            Err(RefreshError::Unavailable { cause, for_all, rotated: Some(token) }) => {
                self.put(session, &record.rotated(&token).above(session)).await?;
                Err(RefreshError::unavailable(cause, for_all).into())
            }
            Err(error) => {
                // So that another gate may try.
                let lease = lease_of(&session.id, record.generation);
                self.store.remove(Space::Refreshes, &lease).await?;
                Err(error.into())
            }
        }
    }

    /// Returns when it is this process's turn to use the token, or when another has used it.
    async fn lease<'a>(
        &self,
        session: &Arc<Session>,
        record: &RenewalRecord,
        provider: &'a dyn Renews,
    ) -> Result<Lease<'a>, Failure> {
        let key = lease_of(&session.id, record.generation);
        let lasts = provider.patience() + MARGIN;
        let (begun, mut look) = (Instant::now(), LOOK);
        loop {
            let place = self.place(session, provider).await?;
            let now = self.now();
            let store = self.store.as_ref();
            let is_ours =
                store.put_if_absent(Space::Refreshes, &key, b"", now.plus(lasts), now).await?;
            // Else another session has a use for it meanwhile.
            let place = is_ours.then_some(place);
            if place.is_none() {
                if begun.elapsed() >= lasts {
                    return Err(Failure::Leased);
                }
                tokio::time::sleep(look).await;
                look = (look * 3 / 2).min(LONGEST_LOOK);
            }
            // With the lease, too: the token was read before the wait for a place, and another's
            // lease may have come and gone since.
            let Some(stored) = self.stored_renewal(&session.id).await? else {
                return self.missing(session).await.map(Lease::Settled);
            };
            if stored.generation > record.generation {
                self.take_in(session, &stored).await;
                return Ok(Lease::Settled(Outcome::Heard));
            }
            if let Some(place) = place {
                return Ok(Lease::Ours(place));
            }
        }
    }

    async fn place<'a>(
        &self,
        session: &Session,
        provider: &'a dyn Renews,
    ) -> Result<Place<'a>, RefreshError> {
        let place = provider.place().await?;
        if place.has_waited() {
            self.metrics.refreshes_queued(&session.provider, "waited");
        }
        Ok(place)
    }

    /// There is nothing to ask with: the session is over, or will never be confirmed again.
    async fn missing(&self, session: &Arc<Session>) -> Result<Outcome, Failure> {
        if self.store.get(Space::Sessions, &session.id.0).await?.is_none() {
            self.announce_for_peer(session, EndReason::Revoked);
        } else {
            let session = &session.id;
            tracing::error!(session = %session.short(), "the store has lost a session's refresh token");
            self.end(session, EndReason::RefreshRefused).await?;
        }
        Ok(Outcome::Over)
    }

    /// Stores what the provider said, then has everybody go by it.
    async fn put(&self, session: &Arc<Session>, next: &RenewalRecord) -> Result<(), SessionError> {
        let mut tries = 0;
        while let Err(error) = self.replace_renewal(session, next).await {
            tries += 1;
            if tries >= STORE_TRIES {
                return Err(error);
            }
            tokio::time::sleep(STORE_AGAIN).await;
        }
        // Whoever ended it meanwhile has given back the former token, or finds this one.
        if session.is_given_back() || self.is_gone(session).await {
            let token = (TokenKind::Refresh, next.token());
            self.give_back_token(session, token, &HashSet::new()).await;
        }
        let has_changed = next.principal != session.principal;
        let renewed = self.take_in(session, next).await;
        if has_changed && let Err(error) = self.tell_refreshed(&renewed).await {
            tracing::warn!(%error, "other gates learn of a refresh only when they ask themselves");
        }
        Ok(())
    }

    /// Puts what the store has in the place of what was known.
    async fn take_in(&self, session: &Arc<Session>, record: &RenewalRecord) -> Arc<Session> {
        let _turn = self.turn(&session.id).await;
        let renewed = session.renewed(record);
        // The newer one first: who finds the older one superseded finds it.
        self.cache.replace(&renewed);
        session.supersede(record.generation);
        renewed
    }

    fn now(&self) -> Timestamp {
        self.clock.at(self.clock.wall())
    }
}

/// Who may use the token of this generation. Longer than a session's key, and left to expire: a
/// token that was used is nobody's any more. Who takes it looks whether the token is still the one that
/// counts: it doesn't last for as long as anybody may wait for a place.
fn lease_of(id: &SessionId, generation: u64) -> Vec<u8> {
    [id.0.as_slice(), &generation.to_be_bytes()].concat()
}
