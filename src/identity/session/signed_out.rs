//! Sign-outs that sign-ins under way have to hear of.
//!
//! A sign-in takes minutes: the browser is at the provider, or carries a code from one host to the
//! other. Whoever is signed out meanwhile has no session yet that could be ended, and would have one a
//! moment later. So each sign-out of a login, a subject or a user leaves a note in the store of when
//! it was, for as long as a sign-in may take, and a sign-in that began before it makes no session.
//! Whoever is signed out because of it begins again: nothing else is lost.
//!
//! INVARIANT: a sign-out writes its note before it looks for sessions, and a sign-in looks for notes
//! when its session is where it would be found. So one of the two sees the other. Gates that share a
//! store compare their clocks by this: they have to agree to what the fastest sign-in takes.

use super::by_login::of_provider;
use super::{Session, Sessions};
use crate::domain::clock::Timestamp;
use crate::identity::login;
use crate::identity::seal::Sealer;
use crate::store::{Entry, Space, StoreError};

/// Who was signed out.
#[derive(Clone, Copy, Debug)]
pub(super) enum SignedOut<'a> {
    /// One of the provider's own sessions.
    Login { provider: &'a str, sid: &'a str },
    /// One of its users: in all sessions, or in those that the provider gave no `sid`.
    Subject { provider: &'a str, subject: &'a str, all: bool },
    /// One of the gate's.
    User(&'a str),
}

impl SignedOut<'_> {
    fn key(&self, seals: &Sealer) -> [u8; 32] {
        match *self {
            Self::Login { provider, sid } => {
                seals.name("signed-out sid", &of_provider(provider, sid))
            }
            Self::Subject { provider, subject, all } => {
                let kind = if all { "signed-out sub" } else { "signed-out sub without sid" };
                seals.name(kind, &of_provider(provider, subject))
            }
            Self::User(user) => seals.name("signed-out user", user),
        }
    }
}

/// All sign-outs that mean a session.
fn meaning(session: &Session) -> impl Iterator<Item = SignedOut<'_>> {
    let provider = &*session.provider;
    let login = session.sid.as_deref().map(|sid| SignedOut::Login { provider, sid });
    let of_subject = move |all| {
        session.subject.as_deref().map(|subject| SignedOut::Subject { provider, subject, all })
    };
    let without_sid = if session.sid.is_none() { of_subject(false) } else { None };
    [Some(SignedOut::User(&session.principal.id)), login, of_subject(true), without_sid]
        .into_iter()
        .flatten()
}

impl Sessions {
    /// Notes that they were signed out just now.
    pub(super) async fn note(&self, who: &[SignedOut<'_>]) -> Result<(), StoreError> {
        let now = self.clock.wall();
        let expires = now.plus(login::LIFETIME * 2);
        let value = now.as_millis().to_be_bytes().to_vec();
        let entry = |who: &SignedOut<'_>| Entry {
            key: who.key(&self.seals).to_vec(),
            value: value.clone(),
            expires,
        };
        self.store.put_all(Space::Logins, who.iter().map(entry).collect()).await
    }

    /// Whether a session's user was signed out after this moment.
    pub(super) async fn was_signed_out(
        &self,
        session: &Session,
        begun: Timestamp,
    ) -> Result<bool, StoreError> {
        for who in meaning(session) {
            let note = self.store.get(Space::Logins, &who.key(&self.seals)).await?;
            let at = note.and_then(|note| <[u8; 8]>::try_from(note.as_slice()).ok());
            let at = at.map(|at| Timestamp::from_millis(i64::from_be_bytes(at)));
            if at.is_some_and(|at| at > begun) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
