//! One session, in memory and in the store.
//!
//! What the provider says of the user may change while the session goes on: then another [`Session`]
//! takes the place of the one before. All of one id share what became of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::secret::Secret;
use crate::domain::clock::Timestamp;
use crate::domain::event::EndReason;
use crate::domain::id::SessionId;
use crate::domain::principal::{Authentication, Principal};
use crate::identity::provider_token::ProviderToken;
use crate::identity::vouched::VouchedBy;

use super::renewal::{Renewal, RenewalRecord};

/// A signed-in browser, as the provider described its user last.
#[derive(Debug)]
pub struct Session {
    pub id: SessionId,
    pub principal: Arc<Principal>,
    pub authentication: Arc<Authentication>,
    /// Name of the identity provider.
    pub provider: Arc<str>,
    /// What that was at sign-in, whatever it is called.
    pub vouched_by: VouchedBy,
    /// The provider's own session, where it names one (`sid`, OpenID Connect Back-Channel Logout
    /// 1.0, section 2.1).
    pub sid: Option<Arc<str>>,
    /// The provider's own name for the user (`sub`), which logout tokens carry.
    pub subject: Option<Arc<str>>,
    /// For RP-initiated logout only. Never forwarded.
    pub id_token: Option<Secret>,
    /// For applications that are to get it, or one in exchange for it. Its end is by the session
    /// clock, too.
    access_token: Option<Arc<ProviderToken>>,
    /// The host that the login was for, with its port.
    pub host: Option<Arc<str>>,
    /// By the session clock, like the times below.
    pub created: Timestamp,
    /// End of the absolute lifetime.
    pub expires: Timestamp,
    /// Where the provider gave a refresh token.
    pub(super) renewal: Option<Renewal>,
    pub(super) shared: Arc<Shared>,
}

/// What the provider said last of a session's user: all of a session that changes while it goes on,
/// but for what is [`Shared`].
struct Said {
    principal: Arc<Principal>,
    id_token: Option<Secret>,
    access_token: Option<Arc<ProviderToken>>,
    renewal: Option<Renewal>,
}

impl Said {
    /// What the record has. Where that has no access token, the one before stands.
    fn of(record: &RenewalRecord, before: Option<Arc<ProviderToken>>) -> Self {
        Self {
            principal: Arc::clone(&record.principal),
            id_token: record.id_token(),
            access_token: record.access_token().or(before),
            renewal: Some(record.renewal()),
        }
    }
}

/// What a session and those that take its place under the same id have in common.
#[derive(Debug)]
pub(super) struct Shared {
    last_seen: AtomicI64,
    /// The longest time between two signs of use so far, in milliseconds.
    longest_idle: AtomicI64,
    /// The `last_seen` that is in the store, or on its way there.
    written: AtomicI64,
    ended: AtomicBool,
    /// What it left at the provider is to be given back there: see `given_back`.
    is_given_back: AtomicBool,
    /// It ended elsewhere, and nobody here knows why.
    is_unexplained: AtomicBool,
    /// The generation of the newest of them, as far as is known here.
    newest: AtomicU64,
    /// No refresh is tried before, by the session clock.
    retry_at: AtomicI64,
    /// Tries since the last one that went well.
    failures: AtomicU32,
}

impl Shared {
    fn seen_at(last_seen: Timestamp, longest_idle: i64, generation: u64) -> Arc<Self> {
        Arc::new(Self {
            last_seen: AtomicI64::new(last_seen.as_millis()),
            longest_idle: AtomicI64::new(longest_idle),
            written: AtomicI64::new(last_seen.as_millis()),
            ended: AtomicBool::new(false),
            is_given_back: AtomicBool::new(false),
            is_unexplained: AtomicBool::new(false),
            newest: AtomicU64::new(generation),
            retry_at: AtomicI64::new(i64::MIN),
            failures: AtomicU32::new(0),
        })
    }

    pub(super) fn may_retry(&self, now: Timestamp) -> bool {
        now.as_millis() >= self.retry_at.load(Ordering::Relaxed)
    }

    /// Puts the next try off: the longer, the more have failed. How many had before.
    pub(super) fn failed(&self, now: Timestamp) -> u32 {
        let before = self.failures.fetch_add(1, Ordering::Relaxed);
        let wait = Duration::from_secs(1 << before.min(5)).min(LONGEST_WAIT);
        self.retry_at.store(now.plus(wait).as_millis(), Ordering::Relaxed);
        before
    }

    /// Nothing was tried.
    pub(super) fn put_off(&self, now: Timestamp) {
        let next = now.plus(Duration::from_secs(1));
        self.retry_at.store(next.as_millis(), Ordering::Relaxed);
    }

    pub(super) fn went_well(&self) {
        self.failures.store(0, Ordering::Relaxed);
        self.retry_at.store(i64::MIN, Ordering::Relaxed);
    }
}

/// Between two tries to refresh one session.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

impl Session {
    /// The last request.
    pub fn last_seen(&self) -> Timestamp {
        Timestamp::from_millis(self.shared.last_seen.load(Ordering::Relaxed))
    }

    /// The access token that was last given for the session, good or not: see
    /// [`Sessions::access_token`](super::Sessions::access_token).
    pub(super) fn access_token(&self) -> Option<&Arc<ProviderToken>> {
        self.access_token.as_ref()
    }

    pub fn has_ended(&self) -> bool {
        self.shared.ended.load(Ordering::Acquire)
    }

    /// Counts the refreshes.
    pub(super) fn generation(&self) -> u64 {
        self.renewal.as_ref().map_or(0, |renewal| renewal.generation)
    }

    /// Whether nothing newer is known of its user.
    pub fn is_current(&self) -> bool {
        self.generation() == self.newest()
    }

    pub(super) fn newest(&self) -> u64 {
        self.shared.newest.load(Ordering::Acquire)
    }

    /// There is one of this generation, here or elsewhere.
    pub(super) fn supersede(&self, generation: u64) {
        self.shared.newest.fetch_max(generation, Ordering::AcqRel);
    }

    /// What was read from the store, in the place of what was in memory until one of generation
    /// `announced` was heard of. Where the store has less than that, nothing announced counts: what
    /// was read, or what was in memory if that is of later, is the newest, unless another was
    /// announced meanwhile.
    pub(super) fn in_place_of(&self, cached: &Arc<Self>, announced: u64) -> Arc<Self> {
        let is_before = self.is_before(cached);
        let newest = if is_before { cached.generation() } else { self.generation() };
        let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
        let _ = cached.shared.newest.compare_exchange(announced, newest, success, failure);
        // Who has it in use elsewhere has written that down.
        let idle = self.shared.longest_idle.load(Ordering::Relaxed);
        cached.seen_elsewhere(self.last_seen(), idle);
        if is_before {
            return Arc::clone(cached);
        }
        cached.with(self.said())
    }

    /// The same session, with what the store has of its user.
    pub(super) fn renewed(&self, record: &RenewalRecord) -> Arc<Self> {
        self.with(Said::of(record, self.access_token.clone()))
    }

    fn said(&self) -> Said {
        Said {
            principal: Arc::clone(&self.principal),
            id_token: self.id_token.clone(),
            access_token: self.access_token.clone(),
            renewal: self.renewal,
        }
    }

    /// The same session with what the provider said of its user at another time. All else is the
    /// sign-in's, and stays.
    fn with(&self, said: Said) -> Arc<Self> {
        let Said { principal, id_token, access_token, renewal } = said;
        Arc::new(Self {
            id: self.id,
            principal,
            authentication: Arc::clone(&self.authentication),
            provider: Arc::clone(&self.provider),
            vouched_by: self.vouched_by,
            sid: self.sid.clone(),
            subject: self.subject.clone(),
            id_token,
            access_token,
            host: self.host.clone(),
            created: self.created,
            expires: self.expires,
            renewal,
            shared: Arc::clone(&self.shared),
        })
    }

    /// Why the session should end by `now`, if it should.
    pub(super) fn end_due(&self, now: Timestamp, idle: Duration) -> Option<EndReason> {
        if now >= self.expires {
            Some(EndReason::AbsoluteLifetime)
        } else if now.since(self.last_seen()) >= idle {
            Some(EndReason::IdleTimeout)
        } else {
            None
        }
    }

    /// Marks the end; true for the one caller who was first.
    pub(super) fn mark_ended(&self) -> bool {
        !self.shared.ended.swap(true, Ordering::AcqRel)
    }

    /// Before the end is marked: who sees that sees this.
    pub(super) fn mark_given_back(&self) {
        self.shared.is_given_back.store(true, Ordering::Release);
    }

    pub(super) fn is_given_back(&self) -> bool {
        self.shared.is_given_back.load(Ordering::Acquire)
    }

    /// Before the end is marked, like [`Self::mark_given_back`].
    pub(super) fn mark_unexplained(&self) {
        self.shared.is_unexplained.store(true, Ordering::Release);
    }

    pub(super) fn is_unexplained(&self) -> bool {
        self.shared.is_unexplained.load(Ordering::Acquire)
    }

    /// Notes a request. True when the store's `last_seen` lags by more than `lag` and this caller
    /// is the one to bring it up to date.
    pub(super) fn touch(&self, now: Timestamp, lag: Duration) -> bool {
        let millis = now.as_millis();
        let shared = &*self.shared;
        let seen = shared.last_seen.load(Ordering::Relaxed);
        if seen < millis {
            self.note_idle(millis.saturating_sub(seen));
            shared.last_seen.fetch_max(millis, Ordering::Relaxed);
        }
        let written = shared.written.load(Ordering::Relaxed);
        now.since(Timestamp::from_millis(written)) >= lag
            && shared
                .written
                .compare_exchange(written, millis, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    fn note_idle(&self, millis: i64) {
        if self.shared.longest_idle.load(Ordering::Relaxed) < millis {
            self.shared.longest_idle.fetch_max(millis, Ordering::Relaxed);
        }
    }

    /// Learns of use in another process, from what is stored.
    pub(super) fn seen_elsewhere(&self, last_seen: Timestamp, longest_idle: i64) {
        self.shared.last_seen.fetch_max(last_seen.as_millis(), Ordering::Relaxed);
        self.note_idle(longest_idle);
    }

    /// For how long it was without use at most, the time until `now` included.
    pub(super) fn longest_idle(&self, now: Timestamp) -> Duration {
        let past = u64::try_from(self.shared.longest_idle.load(Ordering::Relaxed)).unwrap_or(0);
        now.since(self.last_seen()).max(Duration::from_millis(past))
    }

    /// The write did not happen: the next request asks for it again.
    pub(super) fn not_written(&self) {
        self.shared.written.store(self.created.as_millis(), Ordering::Relaxed);
    }
}

/// What the store keeps of a session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) principal: Arc<Principal>,
    pub(super) authentication: Arc<Authentication>,
    pub(super) provider: Arc<str>,
    #[serde(default)]
    pub(super) vouched_by: VouchedBy,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sid: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) subject: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id_token: Option<Token>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    access_token: Option<Arc<ProviderToken>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host: Option<Arc<str>>,
    pub(super) created: Timestamp,
    pub(super) expires: Timestamp,
    pub(super) last_seen: Timestamp,
    /// There is a [`RenewalRecord`] beside it, and what that says of the user counts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) refreshed: bool,
    /// In milliseconds.
    #[serde(default)]
    pub(super) longest_idle: i64,
}

/// Readable by the store alone; it prints like any other secret.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Token(pub(super) Arc<str>);

impl Token {
    pub(super) fn of(secret: &Secret) -> Self {
        Self(secret.expose().into())
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Record {
    pub(super) fn new(
        login: super::NewSession,
        started: Timestamp,
        now: Timestamp,
        expires: Timestamp,
    ) -> Self {
        let authentication =
            Authentication { session_started: Some(started), ..login.authentication };
        Self {
            principal: login.principal,
            authentication: Arc::new(authentication),
            provider: login.provider,
            vouched_by: login.vouched_by,
            sid: login.sid,
            subject: login.subject,
            id_token: login.id_token.as_ref().map(Token::of),
            access_token: login.access_token.map(|token| Arc::new(token.by_clock(started, now))),
            host: login.host,
            created: now,
            expires,
            last_seen: now,
            refreshed: login.refresh.is_some(),
            longest_idle: 0,
        }
    }

    pub(super) fn of(session: &Session) -> Self {
        Self {
            principal: Arc::clone(&session.principal),
            authentication: Arc::clone(&session.authentication),
            provider: Arc::clone(&session.provider),
            vouched_by: session.vouched_by,
            sid: session.sid.clone(),
            subject: session.subject.clone(),
            id_token: session.id_token.as_ref().map(Token::of),
            access_token: session.access_token().cloned(),
            host: session.host.clone(),
            created: session.created,
            expires: session.expires,
            last_seen: session.last_seen(),
            refreshed: session.renewal.is_some(),
            longest_idle: session.shared.longest_idle.load(Ordering::Relaxed),
        }
    }

    /// `record` is the newest that the provider said of the user, where it was asked again.
    pub(super) fn into_session(
        self,
        id: SessionId,
        record: Option<&RenewalRecord>,
    ) -> Arc<Session> {
        let Said { principal, id_token, access_token, renewal } = match record {
            Some(record) => Said::of(record, self.access_token),
            None => Said {
                principal: self.principal,
                id_token: self.id_token.map(|token| Secret::new(token.0)),
                access_token: self.access_token,
                // Without its record it is as old as can be: it will be missed at the next refresh.
                renewal: self.refreshed.then(|| Renewal::lost(self.created)),
            },
        };
        let generation = renewal.as_ref().map_or(0, |renewal| renewal.generation);
        Arc::new(Session {
            id,
            principal,
            authentication: self.authentication,
            provider: self.provider,
            vouched_by: self.vouched_by,
            sid: self.sid,
            subject: self.subject,
            id_token,
            access_token,
            host: self.host,
            created: self.created,
            expires: self.expires,
            renewal,
            shared: Shared::seen_at(self.last_seen, self.longest_idle, generation),
        })
    }

    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        serde_json::to_vec(self).ok()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}
