//! Which sessions came from one login at the provider, so that signing out finds them without
//! reading everybody's.
//!
//! Each session whose provider names its own (`sid`) has one empty value in
//! [`Space::SessionsOfLogins`], under the digest of provider and `sid` followed by the session's id.
//!
//! INVARIANT: the entry is written before its session and removed after it, so no stored session
//! lacks one. An entry without a session means nothing, and goes when the session would have.

use aws_lc_rs::digest;

use super::Session;
use crate::domain::id::SessionId;
use crate::store::{Space, Store, StoreError};

fn login(provider: &str, sid: &str) -> digest::Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    // With its length, so that no two pairs of names run together into the same bytes.
    context.update(&u64::try_from(provider.len()).unwrap_or(u64::MAX).to_be_bytes());
    context.update(provider.as_bytes());
    context.update(sid.as_bytes());
    context.finish()
}

fn key(session: &Session) -> Option<Vec<u8>> {
    let login = login(&session.provider, session.sid.as_deref()?);
    Some([login.as_ref(), &session.id.0].concat())
}

pub(super) async fn put(store: &dyn Store, session: &Session) -> Result<(), StoreError> {
    match key(session) {
        Some(key) => store.put(Space::SessionsOfLogins, &key, b"", session.expires).await,
        None => Ok(()),
    }
}

pub(super) async fn remove(store: &dyn Store, session: &Session) -> Result<(), StoreError> {
    match key(session) {
        Some(key) => store.remove(Space::SessionsOfLogins, &key).await.map(drop),
        None => Ok(()),
    }
}

pub(super) async fn find(
    store: &dyn Store,
    provider: &str,
    sid: &str,
) -> Result<Vec<SessionId>, StoreError> {
    let login = login(provider, sid);
    let entries = store.scan(Space::SessionsOfLogins, login.as_ref()).await?;
    let ids = entries.iter().filter_map(|(key, _)| key.strip_prefix(login.as_ref()));
    Ok(ids.filter_map(|id| <[u8; 32]>::try_from(id).ok().map(SessionId)).collect())
}
