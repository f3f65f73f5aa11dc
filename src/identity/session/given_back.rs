//! What sessions leave at their provider: tokens that the gate forgets and that would go on to be
//! good there. They are handed to whoever asks the provider to revoke them (RFC 7009), where somebody
//! meant the session to end: its user, or an administrator.
//!
//! | how it ended | its token |
//! |---|---|
//! | signed out here, ended on `/.wicketgate/me`, revoked, suspended | is given back |
//! | by the provider (logout token, refused refresh) | is the provider's own business |
//! | another sign-in took its place, or there were too many | stays: many providers take back with one token all that the user's other sessions have |
//! | idle or too old | stays, and ends by the provider's own limits |
//!
//! Nothing is given back either while other sessions of the same user at the provider go on (on another
//! device, or at another host): what is taken back is often the whole sign-in, and at some providers
//! all that the gate was ever given for this user (RFC 7009, section 2.1).
//!
//! A refresh may bring a token after the session has ended. Whoever ended it can't know that token, so
//! whoever got it gives it back: by the same table where it was told why the session ended (`follow`,
//! `peer`), and in any case where it finds the session gone, and nobody said why, or not yet.
//!
//! INVARIANT: nothing here makes the end of a session wait for a provider, or fail.
//! INVARIANT: what waits is bounded for each provider, so that one that hangs keeps nothing from
//! another; what finds no room is counted, told and forgotten.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::by_login::{self, Name};
use super::{Session, SessionError, Sessions};
use crate::config::secret::Secret;
use crate::domain::event::EndReason;
use crate::domain::id::SessionId;
use crate::identity::revocation::TokenKind;
use crate::identity::vouched::VouchedBy;
use crate::store::Space;

/// Tokens that wait, or that a provider is being asked about, of one provider.
const MOST: usize = 1024;

/// Between two warnings of tokens that one provider had no room for.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// A token that nobody needs any more.
#[derive(Debug)]
pub struct LeftToken {
    pub session: SessionId,
    /// Name of the identity provider.
    pub provider: Arc<str>,
    pub vouched_by: VouchedBy,
    pub kind: TokenKind,
    pub token: Secret,
    /// Held until it is done with.
    #[expect(dead_code, reason = "it is held")]
    place: OwnedSemaphorePermit,
}

#[derive(Debug)]
pub(super) struct GivenBack {
    /// By the provider's name.
    providers: Mutex<HashMap<Arc<str>, Waiting>>,
    /// Without a bound of its own: who has a place may send.
    left: mpsc::UnboundedSender<LeftToken>,
    taken: Mutex<Option<mpsc::UnboundedReceiver<LeftToken>>>,
}

impl Default for GivenBack {
    fn default() -> Self {
        let (left, taken) = mpsc::unbounded_channel();
        Self { providers: Mutex::default(), left, taken: Mutex::new(Some(taken)) }
    }
}

impl GivenBack {
    /// Room for one more token of this provider. Where there is none: how many found none since that
    /// was last told, if it is to be told now.
    fn place(
        &self,
        provider: &Arc<str>,
        now: Instant,
    ) -> Result<OwnedSemaphorePermit, Option<u64>> {
        let mut providers = self.providers.lock();
        let waiting = providers.entry(Arc::clone(provider)).or_default();
        let place = Arc::clone(&waiting.places).try_acquire_owned();
        place.map_err(|_| waiting.dropped(now))
    }
}

/// What waits for one provider.
#[derive(Debug)]
struct Waiting {
    places: Arc<Semaphore>,
    /// When it was last told that there was no room.
    told: Option<Instant>,
    untold: u64,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(MOST)), told: None, untold: 0 }
    }
}

impl Waiting {
    fn dropped(&mut self, now: Instant) -> Option<u64> {
        self.untold += 1;
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < TELL_EVERY) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

/// Whether somebody meant the session to end.
pub(super) fn is_for(reason: EndReason) -> bool {
    match reason {
        EndReason::Logout | EndReason::Revoked | EndReason::Suspended => true,
        EndReason::ProviderLogout
        | EndReason::RefreshRefused
        | EndReason::Replaced
        | EndReason::Limit
        | EndReason::IdleTimeout
        | EndReason::AbsoluteLifetime => false,
    }
}

impl Sessions {
    /// What there is to be given back to providers. For the one task that asks them; `None` when it
    /// was taken already.
    pub fn left_tokens(&self) -> Option<mpsc::UnboundedReceiver<LeftToken>> {
        self.given_back.taken.lock().take()
    }

    /// Resolves when nothing waits to be given back.
    pub async fn all_given_back(&self) {
        let all = u32::try_from(MOST).unwrap_or(u32::MAX);
        let providers: Vec<Arc<Semaphore>> = {
            let providers = self.given_back.providers.lock();
            providers.values().map(|waiting| Arc::clone(&waiting.places)).collect()
        };
        for places in providers {
            // An error is impossible: nobody closes it.
            drop(places.acquire_many(all).await);
        }
    }

    /// Hands over what is left of a session that ends together with others. Before its refresh token
    /// leaves the store.
    pub(super) async fn give_back(&self, session: &Session, with: &HashSet<SessionId>) {
        if !session.is_given_back() {
            return;
        }
        let left = match self.left_of(session).await {
            Ok(Some(left)) => left,
            Ok(None) => return,
            Err(error) => return self.not_given_back(session, &error),
        };
        self.give_back_token(session, left, with).await;
    }

    /// Hands over one token of a session that is over, unless others go on with its sign-in.
    pub(super) async fn give_back_token(
        &self,
        session: &Session,
        (kind, token): (TokenKind, Secret),
        with: &HashSet<SessionId>,
    ) {
        match self.goes_on_elsewhere(session, with).await {
            Ok(false) => {}
            Ok(true) => return,
            Err(error) => return self.not_given_back(session, &error),
        }
        let place = match self.given_back.place(&session.provider, Instant::now()) {
            Ok(place) => place,
            Err(dropped) => return self.no_room(session, dropped),
        };
        let (provider, vouched_by) = (Arc::clone(&session.provider), session.vouched_by);
        let left = LeftToken { session: session.id, provider, vouched_by, kind, token, place };
        // An error says that nobody listens any more: the gate stops.
        let _ = self.given_back.left.send(left);
    }

    /// Whether a session is gone from the store, and nobody has said why it ended.
    pub(super) async fn is_gone(&self, session: &Session) -> bool {
        // Read first: what ends here is marked before it leaves the store.
        let stored = self.store.get(Space::Sessions, &session.id.0).await;
        matches!(stored, Ok(None)) && (!session.has_ended() || session.is_unexplained())
    }

    fn no_room(&self, session: &Session, dropped: Option<u64>) {
        self.metrics.token_revocations("dropped");
        if let Some(dropped) = dropped {
            let (session, provider) = (session.id.short(), &session.provider);
            tracing::warn!(
                %session, %provider, dropped,
                "too many tokens wait to be revoked: those of this session and of others that ended are not"
            );
        }
    }

    fn not_given_back(&self, session: &Session, error: &SessionError) {
        self.metrics.token_revocations("failed");
        let session = session.id.short();
        tracing::warn!(%session, %error, "the token of a session that is over can't be revoked");
    }

    /// The refresh token, which takes access tokens with it; else the access token.
    async fn left_of(
        &self,
        session: &Session,
    ) -> Result<Option<(TokenKind, Secret)>, SessionError> {
        if session.renewal.is_some() {
            let record = self.stored_renewal(&session.id).await?;
            return Ok(record.map(|record| (TokenKind::Refresh, record.token())));
        }
        let token = self.access_token(session, self.clock.wall());
        Ok(token.map(|token| (TokenKind::Access, Secret::new(token.text()))))
    }

    /// Whether a session that doesn't end with this one is of the same user at the provider, or where
    /// that has no name for users, from the same sign-in.
    async fn goes_on_elsewhere(
        &self,
        session: &Session,
        with: &HashSet<SessionId>,
    ) -> Result<bool, SessionError> {
        let subject = session.subject.as_deref().map(Name::Subject);
        let Some(name) = subject.or(session.sid.as_deref().map(Name::Sid)) else {
            return Ok(false);
        };
        let (store, seals) = (self.store.as_ref(), &*self.seals);
        let others = by_login::find(store, seals, &session.provider, name).await?;
        for (id, _) in others.iter().filter(|(id, _)| *id != session.id && !with.contains(id)) {
            let is_over = self.cache.get(id).is_some_and(|other| other.has_ended());
            // An entry may outlive its session.
            if !is_over && store.get(Space::Sessions, &id.0).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_without_room_are_told_at_once_and_then_together_once_a_minute() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        let told = |seconds| waiting.dropped(now + Duration::from_secs(seconds));
        let told: Vec<_> = [0, 1, 59, 60, 61, 119, 120].map(told).into();
        assert_eq!(told, [Some(1), None, None, Some(3), None, None, Some(3)]);
    }
}
