//! One session, in memory and in the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use serde::{Deserialize, Serialize};

use crate::config::secret::Secret;
use crate::domain::clock::Timestamp;
use crate::domain::event::EndReason;
use crate::domain::id::SessionId;
use crate::domain::principal::{Authentication, Principal};
use crate::identity::provider_token::ProviderToken;
use crate::identity::vouched::VouchedBy;

/// A signed-in browser.
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
    /// clock, too. Another takes its place when the provider gives one.
    access_token: ArcSwapOption<ProviderToken>,
    /// The host that the login was for, with its port.
    pub host: Option<Arc<str>>,
    /// By the session clock, like the times below.
    pub created: Timestamp,
    /// End of the absolute lifetime.
    pub expires: Timestamp,
    last_seen: AtomicI64,
    /// The `last_seen` that is in the store, or on its way there.
    written: AtomicI64,
    ended: AtomicBool,
}

impl Session {
    /// The last request.
    pub fn last_seen(&self) -> Timestamp {
        Timestamp::from_millis(self.last_seen.load(Ordering::Relaxed))
    }

    /// The access token that was last given for the session, good or not: see
    /// [`Sessions::access_token`](super::Sessions::access_token).
    pub(super) fn access_token(&self) -> Option<Arc<ProviderToken>> {
        self.access_token.load_full()
    }

    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
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
        !self.ended.swap(true, Ordering::AcqRel)
    }

    /// Notes a request. True when the store's `last_seen` lags by more than `lag` and this caller
    /// is the one to bring it up to date.
    pub(super) fn touch(&self, now: Timestamp, lag: Duration) -> bool {
        let millis = now.as_millis();
        if self.last_seen.load(Ordering::Relaxed) < millis {
            self.last_seen.fetch_max(millis, Ordering::Relaxed);
        }
        let written = self.written.load(Ordering::Relaxed);
        now.since(Timestamp::from_millis(written)) >= lag
            && self
                .written
                .compare_exchange(written, millis, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// The write did not happen: the next request asks for it again.
    pub(super) fn not_written(&self) {
        self.written.store(self.created.as_millis(), Ordering::Relaxed);
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
}

/// Readable by the store alone; it prints like any other secret.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
struct Token(Arc<str>);

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
            id_token: login.id_token.map(|token| Token(token.expose().into())),
            access_token: login.access_token.map(|token| Arc::new(token.by_clock(started, now))),
            host: login.host,
            created: now,
            expires,
            last_seen: now,
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
            id_token: session.id_token.as_ref().map(|token| Token(token.expose().into())),
            access_token: session.access_token(),
            host: session.host.clone(),
            created: session.created,
            expires: session.expires,
            last_seen: session.last_seen(),
        }
    }

    pub(super) fn into_session(self, id: SessionId) -> Arc<Session> {
        let last_seen = self.last_seen.as_millis();
        Arc::new(Session {
            id,
            principal: self.principal,
            authentication: self.authentication,
            provider: self.provider,
            vouched_by: self.vouched_by,
            sid: self.sid,
            subject: self.subject,
            id_token: self.id_token.map(|token| Secret::new(token.0)),
            access_token: ArcSwapOption::new(self.access_token),
            host: self.host,
            created: self.created,
            expires: self.expires,
            last_seen: AtomicI64::new(last_seen),
            written: AtomicI64::new(last_seen),
            ended: AtomicBool::new(false),
        })
    }

    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        serde_json::to_vec(self).ok()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}
