//! Ending sessions by what the provider calls them: its own session, or the user.
//!
//! INVARIANT: what is in use here is over before the store is asked; what is only in the store is
//! over when the call returns, on every gate that shares it.

use aws_lc_rs::digest;

use super::by_login::{self, Name};
use super::signed_out::SignedOut;
use super::{Session, SessionError, Sessions};
use crate::domain::clock::Timestamp;
use crate::domain::event::EndReason;
use crate::store::Space;

/// Sessions as a provider names them (OpenID Connect Back-Channel Logout 1.0, section 2.7).
#[derive(Clone, Copy, Debug)]
pub struct AtProvider<'a> {
    pub provider: &'a str,
    /// Those of one login.
    pub sid: Option<&'a str>,
    /// Those of one user: all of them without a `sid`, and with one those that have none and may
    /// be meant as well.
    pub subject: Option<&'a str>,
}

impl AtProvider<'_> {
    fn means(&self, session: &Session) -> bool {
        let is =
            |wanted: Option<&str>, own: &Option<_>| wanted.is_some() && own.as_deref() == wanted;
        *session.provider == *self.provider
            && (is(self.sid, &session.sid)
                || (is(self.subject, &session.subject) && self.means_all(session.sid.is_some())))
    }

    fn signs_out(&self) -> Vec<SignedOut<'_>> {
        let (provider, all) = (self.provider, self.sid.is_none());
        let login = self.sid.map(|sid| SignedOut::Login { provider, sid });
        let subject = self.subject.map(|subject| SignedOut::Subject { provider, subject, all });
        login.into_iter().chain(subject).collect()
    }

    /// Whether it means whatever session of the subject, one with a `sid` or not.
    fn means_all(&self, has_sid: bool) -> bool {
        self.sid.is_none() || !has_sid
    }
}

impl Sessions {
    /// Ends every session that is meant, on whatever host; how many these were.
    ///
    /// # Errors
    /// The store failed: some may be left, so it has to be called again.
    pub async fn end_at_provider(
        &self,
        which: &AtProvider<'_>,
        reason: EndReason,
    ) -> Result<usize, SessionError> {
        let mut ids = self.end_cached(&|session| which.means(session), reason);
        self.note(&which.signs_out()).await?;
        let (store, seals) = (self.store.as_ref(), &*self.seals);
        if let Some(sid) = which.sid {
            let found = by_login::find(store, seals, which.provider, Name::Sid(sid)).await?;
            ids.extend(found.into_iter().map(|(id, _)| id));
        }
        if let Some(subject) = which.subject {
            let found =
                by_login::find(store, seals, which.provider, Name::Subject(subject)).await?;
            let meant = found.into_iter().filter(|(_, has_sid)| which.means_all(*has_sid));
            ids.extend(meant.map(|(id, _)| id));
        }
        self.end_all(ids, reason).await
    }

    /// Notes that a provider's logout token was used; false when it was before. It is remembered
    /// twice as long as it is good, so that a clock that is set back a little revives none.
    ///
    /// # Errors
    /// The store failed, so nothing is known.
    pub async fn use_logout_token(
        &self,
        provider: &str,
        id: &str,
        expires: Timestamp,
    ) -> Result<bool, SessionError> {
        let now = self.clock.wall();
        let until = expires.plus(expires.since(now));
        let key = used(provider, id);
        let store = self.store.as_ref();
        Ok(store.put_if_absent(Space::Logins, key.as_ref(), b"", until, now).await?)
    }

    /// Lets a logout token be sent again, because what it asked for failed.
    pub async fn return_logout_token(&self, provider: &str, id: &str) {
        if let Err(error) = self.store.remove(Space::Logins, used(provider, id).as_ref()).await {
            tracing::warn!(%error, "a logout token that failed can't be sent again");
        }
    }
}

/// Among the used states of logins, which are digests of nothing but the state.
fn used(provider: &str, id: &str) -> digest::Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"wicketgate logout token\0");
    context.update(&u64::try_from(provider.len()).unwrap_or(u64::MAX).to_be_bytes());
    context.update(provider.as_bytes());
    context.update(id.as_bytes());
    context.finish()
}
