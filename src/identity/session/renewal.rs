//! How old a session's claims are, and what the next refresh begins from.
//!
//! What the provider said last stands in a record of its own ([`Space::Refreshes`]), beside the
//! session's and under the same id. That one is written back all the time, also by gates that have
//! heard of nothing yet; this one only by who has just asked the provider.
//!
//! INVARIANT: what this record says of the user counts, not what the session's does.
//! INVARIANT: it is written before its session, and after that only in its own place: what is gone
//! with its session does not come back.
//! INVARIANT: in memory nothing takes the place of what was asked for later, whatever the store has, and
//! whoever says that there is news.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::state::Token;
use super::{NewSession, Session, SessionError, Sessions};
use crate::config::model::Refresh;
use crate::config::secret::Secret;
use crate::domain::clock::Timestamp;
use crate::domain::id::SessionId;
use crate::domain::principal::Principal;
use crate::identity::id_token;
use crate::identity::provider_token::ProviderToken;
use crate::identity::refresh::{RefreshToken, Renewed};
use crate::identity::seal::Unopened;
use crate::store::{Entry, Space};

/// A lifetime of access tokens that is shorter than this is not kept up with.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(10);

/// How far the clock of another gate may be ahead.
const AHEAD: Duration = Duration::from_secs(60);

/// When the claims of a session were confirmed last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Renewal {
    pub(super) generation: u64,
    /// By the session clock.
    pub(super) confirmed: Timestamp,
    /// Of the access token that came with them.
    pub(super) lifetime: Option<Duration>,
}

impl Renewal {
    /// Of a session whose record was not found.
    pub(super) fn lost(created: Timestamp) -> Self {
        Self { generation: 0, confirmed: created, lifetime: Some(Duration::ZERO) }
    }

    /// Whether the other one is of later, in every respect. One whose number is lower and whose
    /// moment is later comes from a store that lost writes and went on from there; one whose number is
    /// higher and whose moment is earlier, from a gate with another clock. Both tell news.
    fn is_before(&self, other: &Self) -> bool {
        let (here, there) =
            ((self.generation, self.confirmed), (other.generation, other.confirmed));
        here != there && here.0 <= there.0 && here.1 <= there.1
    }
}

impl Session {
    /// Whether the other one's claims were asked for later.
    pub(super) fn is_before(&self, other: &Self) -> bool {
        match (&self.renewal, &other.renewal) {
            (Some(here), Some(there)) => here.is_before(there),
            _ => false,
        }
    }
}

/// How much what is known of a user is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Nothing is to be done.
    Fresh,
    /// Good, and to be asked about before long.
    Soon,
    /// To be asked about before it is used.
    Due,
    /// Not to be used.
    Stale,
}

/// What the store keeps. Sealed.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct RenewalRecord {
    pub(super) generation: u64,
    token: Token,
    pub(super) principal: Arc<Principal>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id_token: Option<Token>,
    /// Of the sign-in. An ID token of a refresh may have it once more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nonce: Option<Token>,
    /// In place of the sign-in's, by the session clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    access_token: Option<Arc<ProviderToken>>,
    pub(super) confirmed: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lifetime: Option<Duration>,
}

impl std::fmt::Debug for RenewalRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RenewalRecord")
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl RenewalRecord {
    /// Of a session that begins, with this sign-in. `wall` and `now` are the moment by the two clocks:
    /// the provider was asked before that, a minute maybe where the sign-in was handed over.
    pub(super) fn begun(
        login: &NewSession,
        refresh: &RefreshToken,
        (wall, now): (Timestamp, Timestamp),
    ) -> Self {
        let nonce = login.id_token.as_ref().and_then(|token| id_token::nonce(token.expose()));
        Self {
            generation: 0,
            token: Token::of(&refresh.token),
            principal: Arc::clone(&login.principal),
            id_token: login.id_token.as_ref().map(Token::of),
            nonce: nonce.map(|nonce| Token(nonce.into())),
            // It stands with the session.
            access_token: None,
            confirmed: refresh.asked.map_or(now, |asked| now.minus(wall.since(asked))),
            lifetime: refresh.lifetime,
        }
    }

    /// What comes after it. `asked` is when the provider was, by the session clock like all else.
    pub(super) fn after(&self, renewed: Renewed, asked: Timestamp) -> Self {
        Self {
            generation: self.generation + 1,
            token: renewed.token.as_ref().map_or_else(|| self.token.clone(), Token::of),
            principal: match *renewed.principal == *self.principal {
                // One that is the same stays the same to who remembers what was decided for it.
                true => Arc::clone(&self.principal),
                false => renewed.principal,
            },
            id_token: renewed.id_token.as_ref().map(Token::of).or_else(|| self.id_token.clone()),
            nonce: self.nonce.clone(),
            access_token: renewed.access_token.map(Arc::new),
            confirmed: asked,
            lifetime: renewed.lifetime,
        }
    }

    /// The provider gave another token, and no answer about the user.
    pub(super) fn rotated(&self, token: &Secret) -> Self {
        Self { generation: self.generation + 1, token: Token::of(token), ..self.clone() }
    }

    /// With a number that no session has had here, also where the store lost writes: what takes the
    /// place of one is told from it by that.
    pub(super) fn above(self, session: &Session) -> Self {
        let generation = self.generation.max(session.generation().saturating_add(1));
        Self { generation, ..self }
    }

    pub(super) fn renewal(&self) -> Renewal {
        let Self { generation, confirmed, lifetime, .. } = *self;
        Renewal { generation, confirmed, lifetime }
    }

    pub(super) fn token(&self) -> Secret {
        Secret::new(Arc::clone(&self.token.0))
    }

    pub(super) fn id_token(&self) -> Option<Secret> {
        self.id_token.as_ref().map(|token| Secret::new(Arc::clone(&token.0)))
    }

    pub(super) fn access_token(&self) -> Option<Arc<ProviderToken>> {
        self.access_token.clone()
    }

    pub(super) fn nonce(&self) -> Option<&str> {
        self.nonce.as_ref().map(|nonce| &*nonce.0)
    }
}

impl Sessions {
    /// How much what is known of a session's user is worth at `now`. `pace` is its provider's.
    /// Without a refresh token, or where it is off, the sign-in counts until the session ends.
    pub fn freshness(&self, session: &Session, pace: Option<Refresh>, now: Timestamp) -> Freshness {
        let (Some(renewal), Some(pace)) = (&session.renewal, pace) else { return Freshness::Fresh };
        let now = self.clock.at(now);
        if renewal.confirmed > now.plus(AHEAD) {
            // By a gate whose clock is wrong, so nobody knows when.
            let far = renewal.confirmed.since(now) >= pace.max_age;
            return if far { Freshness::Stale } else { Freshness::Due };
        }
        let age = now.since(renewal.confirmed);
        let due = match renewal.lifetime {
            Some(lifetime) => pace.interval.min(lifetime.max(SHORTEST_LIFETIME)),
            None => pace.interval,
        };
        // From 65 to 80 in a hundred: those who signed in at once don't come back at once.
        let spread = session.id.0.last().map_or(0, |byte| u32::from(byte % 16));
        if age >= pace.max_age {
            Freshness::Stale
        } else if age >= due {
            Freshness::Due
        } else if age >= due * (65 + spread) / 100 {
            Freshness::Soon
        } else {
            Freshness::Fresh
        }
    }

    /// Keeps what a new session is refreshed with.
    pub(super) async fn keep_renewal(
        &self,
        session: &Session,
        record: &RenewalRecord,
    ) -> Result<(), SessionError> {
        let Entry { key, value, expires } = self.renewal_entry(session, record)?;
        Ok(self.store.put(Space::Refreshes, &key, &value, expires).await?)
    }

    /// Puts a record in the place of the one before, if that is there still.
    pub(super) async fn replace_renewal(
        &self,
        session: &Session,
        record: &RenewalRecord,
    ) -> Result<(), SessionError> {
        let entry = self.renewal_entry(session, record)?;
        Ok(self.store.replace_all(Space::Refreshes, vec![entry]).await?)
    }

    fn renewal_entry(
        &self,
        session: &Session,
        record: &RenewalRecord,
    ) -> Result<Entry, SessionError> {
        let value = serde_json::to_vec(record).map_err(|_| SessionError::Internal)?;
        let value = self.seals.seal(Space::Refreshes, &session.id.0, value);
        let value = value.ok_or(SessionError::Internal)?;
        Ok(Entry { key: session.id.0.to_vec(), value, expires: session.expires })
    }

    pub(super) async fn stored_renewal(
        &self,
        id: &SessionId,
    ) -> Result<Option<RenewalRecord>, SessionError> {
        match self.store.get(Space::Refreshes, &id.0).await? {
            Some(bytes) => self.opened_renewal(id, &bytes).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn opened_renewal(
        &self,
        id: &SessionId,
        bytes: &[u8],
    ) -> Result<RenewalRecord, SessionError> {
        let unreadable = |cause| SessionError::Unreadable { session: id.short(), cause };
        let plain = self.seals.open(Space::Refreshes, &id.0, bytes).map_err(unreadable)?;
        serde_json::from_slice(&plain).map_err(|_| unreadable(Unopened::Broken))
    }
}
