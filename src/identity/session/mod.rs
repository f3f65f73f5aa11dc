//! Sessions: one opaque id in a cookie, everything else here.
//!
//! The cookie holds 32 random bytes; the store and the cache know only their SHA-256, the
//! [`SessionId`]. So neither a copy of the store nor a memory dump of the cache yields a cookie,
//! and looking an id up needs no constant-time comparison: an attacker who times it learns about
//! a hash whose preimage they would still have to find.
//!
//! INVARIANT: an ended session never comes back. It is marked in memory first, so that from that
//! moment no worker of this process accepts it; then it leaves the store, then the cache. Writes of
//! one session take turns, so that a late write-back can't restore what was removed. Time only
//! moves forward here (`clock`), so that no clock revives a session either.
//! INVARIANT: when the store fails there is an error, never "no session" and never another's.
//! INVARIANT: what the provider says of a user when it is asked again (`refreshing`) is what every
//! request after that sees: a session that was superseded is found by nobody.

mod by_login;
mod by_user;
mod cache;
mod clock;
mod ending;
mod follow;
mod former;
mod given_back;
mod known;
mod listing;
mod logout;
mod past_limit;
mod peer;
mod refreshing;
mod renewal;
mod signed_out;
mod state;
mod stored;
#[cfg(test)]
mod tests;
mod upkeep;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use tokio::sync::mpsc;

pub use self::given_back::LeftToken;
pub use self::known::Known;
pub use self::logout::AtProvider;
pub use self::past_limit::PastLimit;
pub use self::refreshing::Flight;
pub use self::renewal::Freshness;
pub use self::state::Session;

use self::cache::{Cache, STRIPES};
use self::clock::SessionClock;
use self::follow::Follow;
use self::renewal::RenewalRecord;
use self::state::Record;
use super::login::random_token;
use super::provider_token::ProviderToken;
use super::refresh::RefreshToken;
use super::seal::{SealError, Sealer, Unopened};
use super::vouched::VouchedBy;
use crate::config;
use crate::config::secret::Secret;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::event::EndReason;
use crate::domain::id::SessionId;
use crate::domain::principal::{Authentication, Principal};
use crate::metrics::Metrics;
use crate::store::{Space, Store, StoreError};

/// How far the stored `last_seen` may lag behind. After a crash, and for a session that fell out
/// of the cache, the idle timeout may strike by this much too early, never too late.
const WRITE_BACK: Duration = Duration::from_secs(60);

/// Sessions kept in memory; the others are read from the store when they are used.
const MAX_CACHED: usize = 100_000;

/// How often sessions are swept and their state written back.
const SWEEP: Duration = Duration::from_secs(15);

/// Sessions that wait to be written: those of [`SWEEP`], when a quarter of a million are used each
/// minute. One that finds no room asks again with its next request.
const MAX_QUEUED: usize = 65_536;

/// What a login brings to a session.
#[derive(Clone, Debug)]
pub struct NewSession {
    pub principal: Arc<Principal>,
    /// `session_started` is set here, whatever it holds.
    pub authentication: Authentication,
    pub provider: Arc<str>,
    /// What the provider is, whatever it is called.
    pub vouched_by: VouchedBy,
    pub sid: Option<Arc<str>>,
    /// The provider's own name for the user (`sub`).
    pub subject: Option<Arc<str>>,
    pub id_token: Option<Secret>,
    /// By the system's clock. Only where an application is to get it.
    pub access_token: Option<ProviderToken>,
    /// What the provider is asked about the user again with.
    pub refresh: Option<RefreshToken>,
    /// The host that the login was for, with its port.
    pub host: Option<Arc<str>>,
    /// When the browser was sent to sign in: a sign-out after that ends this, too.
    pub begun: Option<Timestamp>,
}

/// What the cache knows of a cookie.
#[derive(Clone, Debug)]
pub enum Cached {
    Hit(Arc<Session>),
    /// Not known here, or over: ask [`Sessions::find`].
    Miss,
}

#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Nothing is known about the session; the answer is 503.
    #[error("sessions are unavailable: {0}")]
    Unavailable(#[from] StoreError),
    /// Neither a session nor none: the answer is 503.
    #[error("the record of the session `{session}` can't be opened: {cause}")]
    Unreadable { session: String, cause: Unopened },
    /// The user was signed out while the sign-in was under way: there is no session.
    #[error("the user was signed out while this sign-in was under way")]
    SignedOut,
    #[error("the sessions can't be opened: {0}")]
    Sealed(#[from] SealError),
    #[error("sessions are unavailable: no randomness, or a record that can't be written")]
    Internal,
}

/// A session that is over, for whoever has to cut its connections and record it.
#[derive(Clone, Debug)]
pub struct Ended {
    pub id: SessionId,
    pub principal: Arc<Principal>,
    pub reason: EndReason,
    /// Another process of this gate ended it, and keeps the record.
    pub elsewhere: bool,
}

/// All sessions. One for the process; shared by the workers.
#[derive(Debug)]
pub struct Sessions {
    store: Arc<dyn Store>,
    seals: Arc<Sealer>,
    clock: SessionClock,
    metrics: Arc<Metrics>,
    /// Since the start.
    ended_count: AtomicUsize,
    idle_ms: AtomicU64,
    /// The shortest idle timeout of an application.
    shortest_idle_ms: AtomicU64,
    absolute_ms: AtomicU64,
    max_per_user: AtomicUsize,
    cache: Cache,
    /// Writes of one session take turns.
    turns: Vec<tokio::sync::Mutex<()>>,
    /// Without a bound, so that no end goes unrecorded; what is in it was in the cache, which has one.
    ended: mpsc::UnboundedSender<Ended>,
    endings: parking_lot::Mutex<Option<mpsc::UnboundedReceiver<Ended>>>,
    /// Whose sessions those were that are over.
    former: former::Former,
    /// What ended since another process of this gate shares the store: see `peer`.
    over: peer::Over,
    /// What other gates ended, where they share the store.
    follow: Follow,
    refreshing: refreshing::Refreshing,
    given_back: given_back::GivenBack,
    work: mpsc::Sender<SessionId>,
    queued: tokio::sync::Mutex<mpsc::Receiver<SessionId>>,
}

impl Sessions {
    /// Opens the sessions that the store holds.
    pub async fn open(
        store: Arc<dyn Store>,
        config: &config::model::Session,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, SessionError> {
        let clock = SessionClock::load(store.as_ref(), clock).await?;
        let seals = Sealer::load(store.as_ref(), &config.keys, clock.wall()).await?;
        let follow = Follow::begin(store.as_ref()).await?;
        metrics.sessions_confirmed.set(1);
        let (work, queued) = mpsc::channel(MAX_QUEUED);
        let (ended, endings) = mpsc::unbounded_channel();
        let sessions = Self {
            store,
            seals: Arc::new(seals),
            clock,
            metrics,
            ended_count: AtomicUsize::new(0),
            idle_ms: AtomicU64::new(0),
            shortest_idle_ms: AtomicU64::new(u64::MAX),
            absolute_ms: AtomicU64::new(0),
            max_per_user: AtomicUsize::new(usize::MAX),
            cache: Cache::new(MAX_CACHED),
            turns: (0..STRIPES).map(|_| tokio::sync::Mutex::new(())).collect(),
            ended,
            endings: parking_lot::Mutex::new(Some(endings)),
            former: former::Former::default(),
            over: peer::Over::default(),
            follow,
            refreshing: refreshing::Refreshing::default(),
            given_back: given_back::GivenBack::default(),
            work,
            queued: tokio::sync::Mutex::new(queued),
        };
        sessions.reconfigure(config);
        Ok(Arc::new(sessions))
    }

    /// After a reload: a new idle timeout holds at once, a new lifetime for new sessions, a new
    /// limit from a user's next login.
    pub fn reconfigure(&self, config: &config::model::Session) {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.idle_ms.store(millis(config.idle_timeout), Ordering::Relaxed);
        let shortest = config.shortest_idle.map_or(u64::MAX, millis);
        self.shortest_idle_ms.store(shortest, Ordering::Relaxed);
        self.absolute_ms.store(millis(config.absolute_lifetime), Ordering::Relaxed);
        self.max_per_user.store(config.max_per_user, Ordering::Relaxed);
    }

    /// What else of people is kept is sealed with it too.
    pub fn seals(&self) -> &Arc<Sealer> {
        &self.seals
    }

    fn idle(&self) -> Duration {
        Duration::from_millis(self.idle_ms.load(Ordering::Relaxed))
    }

    /// Begins a session under a new id and ends `previous`, the one that the browser still had.
    /// Answers with the cookie's value, which is kept nowhere else.
    pub async fn create(
        &self,
        login: NewSession,
        previous: Option<&str>,
    ) -> Result<(Secret, Arc<Session>), SessionError> {
        let value = random_token().map_err(|_| SessionError::Internal)?;
        let id = session_id(&value).ok_or(SessionError::Internal)?;
        let wall = self.clock.wall();
        let now = self.clock.at(wall);
        let begun = login.begun;
        let lifetime = Duration::from_millis(self.absolute_ms.load(Ordering::Relaxed));
        let refresh = login.refresh.as_ref();
        let renewal = refresh.map(|refresh| RenewalRecord::begun(&login, refresh, (wall, now)));
        let session = Record::new(login, wall, now, now.plus(lifetime));
        let session = session.into_session(id, renewal.as_ref());
        by_login::put(self.store.as_ref(), &self.seals, &session).await?;
        by_user::put(self.store.as_ref(), &self.seals, &session).await?;
        if let Some(renewal) = &renewal {
            self.keep_renewal(&session, renewal).await?;
        }
        // In memory before it can be found in the store: whoever ends it there ends this very one.
        self.cache.insert(Arc::clone(&session));
        let kept = self.keep(&session, begun).await;
        // Nobody knows its id yet but who ends it.
        if kept.is_err() || session.has_ended() {
            self.cache.remove(&id);
            kept?;
            return Err(SessionError::SignedOut);
        }
        self.metrics.sessions_started.inc();
        if let Some(previous) = previous.and_then(session_id) {
            self.end(&previous, EndReason::Replaced).await?;
        }
        self.keep_to_limit(&session).await?;
        // By another who signed in at the same time, or by a sign-out.
        if session.has_ended() {
            Err(SessionError::SignedOut)
        } else {
            Ok((Secret::new(value), session))
        }
    }

    /// Writes a new session, unless its user has been signed out since it was `begun`.
    async fn keep(&self, session: &Session, begun: Option<Timestamp>) -> Result<(), SessionError> {
        self.write(session).await?;
        if let Some(begun) = begun
            && self.was_signed_out(session, begun).await?
        {
            self.store.remove(Space::Sessions, &session.id.0).await?;
            session.mark_given_back();
            self.give_back(session, &HashSet::new()).await;
            self.store.remove(Space::Refreshes, &session.id.0).await?;
            by_login::remove(self.store.as_ref(), &self.seals, session).await?;
            by_user::remove(self.store.as_ref(), &self.seals, session).await?;
            return Err(SessionError::SignedOut);
        }
        Ok(())
    }

    /// The hot path: never waits, never allocates. A hit counts as activity.
    pub fn find_cached(&self, cookie_value: &str, now: Timestamp) -> Cached {
        let Some(session) = session_id(cookie_value).and_then(|id| self.cache.get(&id)) else {
            return Cached::Miss;
        };
        let is_good = session.is_current() && self.admit(&session, self.clock.at(now));
        if is_good { Cached::Hit(session) } else { Cached::Miss }
    }

    /// The session of a cookie, from the cache or else the store. `None`: there is none (any more).
    pub async fn find(
        &self,
        cookie_value: &str,
        now: Timestamp,
    ) -> Result<Option<Arc<Session>>, SessionError> {
        let Some(id) = session_id(cookie_value) else { return Ok(None) };
        let now = self.clock.at(now);
        let session = self.find_id(&id, now).await?;
        Ok(session.filter(|session| self.admit_asked(session, now)))
    }

    /// The session of an id with the newest that is known of its user, good or over.
    async fn find_id(
        &self,
        id: &SessionId,
        now: Timestamp,
    ) -> Result<Option<Arc<Session>>, SessionError> {
        let _turn = self.turn(id).await;
        let cached = self.cache.get(id);
        if let Some(session) = cached.as_ref().filter(|session| session.is_current()) {
            self.ask_peer(session, now).await?;
            self.heed_others(session, self.follow.looks())?;
            return Ok(cached);
        }
        let looks = self.follow.looks();
        let announced = cached.as_ref().map(|session| session.newest());
        let session = match (self.stored(id).await?, cached) {
            (None, None) => return Ok(None),
            // It was removed, and that was not heard yet.
            (None, Some(cached)) => {
                self.announce_unexplained(&cached);
                return Ok(None);
            }
            // Into the cache even when it is over: it is ended from there.
            (Some(stored), None) => {
                self.cache.insert(Arc::clone(&stored));
                stored
            }
            (Some(stored), Some(cached)) => {
                let session = stored.in_place_of(&cached, announced.unwrap_or(0));
                self.cache.replace(&session);
                session
            }
        };
        self.heed_peer(&session);
        self.heed_others(&session, looks)?;
        Ok(Some(session))
    }

    /// Whether a session may be used now, and if so that it was. Not without a look at the store
    /// where that has to say whether it was in use elsewhere.
    fn admit(&self, session: &Arc<Session>, now: Timestamp) -> bool {
        let unsure = self.was_idle(session, now) && self.is_used_elsewhere();
        !unsure && self.admit_asked(session, now)
    }

    /// The same once the store was asked.
    fn admit_asked(&self, session: &Arc<Session>, now: Timestamp) -> bool {
        if session.has_ended() {
            return false;
        }
        if let Some(reason) = session.end_due(now, self.idle()) {
            self.end_as_due(session, reason);
            return false;
        }
        if session.touch(now, WRITE_BACK) && self.work.try_send(session.id).is_err() {
            session.not_written();
        }
        true
    }

    /// Whether a session that a live connection holds is still good. Doesn't count as activity,
    /// never waits. Sessions that somebody holds stay in the cache, so one that isn't there is over.
    pub fn is_alive(&self, id: &SessionId, now: Timestamp) -> bool {
        let Some(session) = self.cache.get(id) else { return false };
        if session.has_ended() {
            return false;
        }
        match session.end_due(self.clock.at(now), self.idle()) {
            None => true,
            Some(reason) => {
                self.end_as_due(&session, reason);
                false
            }
        }
    }

    fn end_as_due(&self, session: &Arc<Session>, reason: EndReason) {
        if self.is_for_all(reason) {
            self.announce(session, reason);
            let _ = self.work.try_send(session.id);
        }
    }

    /// Counts what a client does on a live connection as activity of its session.
    pub fn touch(&self, session: &Arc<Session>, now: Timestamp) {
        self.admit_asked(session, self.clock.at(now));
    }

    /// The access token of a session, for an application; `None` when there is none that is good.
    pub fn access_token<'a>(
        &self,
        session: &'a Session,
        now: Timestamp,
    ) -> Option<&'a Arc<ProviderToken>> {
        let now = self.clock.at(now);
        session.access_token().filter(|token| token.is_good(now))
    }

    /// Every end of a session since the start, once and in order. For the one task that cuts
    /// connections and keeps records; `None` when it was taken already.
    pub fn endings(&self) -> Option<mpsc::UnboundedReceiver<Ended>> {
        self.endings.lock().take()
    }

    async fn turn(&self, id: &SessionId) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        match self.turns.get(Cache::stripe(id)) {
            Some(turn) => Some(turn.lock().await),
            None => None,
        }
    }
}

/// The id of a cookie's value. None when the gate can't have made the value.
fn session_id(value: &str) -> Option<SessionId> {
    let mut bytes = [0u8; 32];
    let length = BASE64_URL_SAFE_NO_PAD.decode_slice(value, &mut bytes).ok()?;
    (length == bytes.len()).then(|| {
        let hash = digest::digest(&digest::SHA256, &bytes);
        let mut id = [0u8; 32];
        id.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
        SessionId(id)
    })
}
