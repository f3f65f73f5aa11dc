//! Which sessions a user has, so that they are found without reading everybody's.
//!
//! Each session has one value in [`Space::SessionsOfUsers`], under a keyed digest of the principal's
//! id followed by its own: when it began, in milliseconds.
//!
//! INVARIANT: as in `by_login`, the entry is written before its session and removed after it. One
//! without a session means nothing.

use crate::domain::clock::Timestamp;
use crate::domain::id::SessionId;
use crate::identity::seal::Sealer;
use crate::store::{Space, Store, StoreError};

use super::Session;

fn key(seals: &Sealer, session: &Session) -> Vec<u8> {
    [seals.name("user", &session.principal.id), session.id.0].concat()
}

pub(super) async fn put(
    store: &dyn Store,
    seals: &Sealer,
    session: &Session,
) -> Result<(), StoreError> {
    let began = session.created.as_millis().to_be_bytes();
    let key = key(seals, session);
    store.put(Space::SessionsOfUsers, &key, &began, session.expires).await
}

pub(super) async fn remove(
    store: &dyn Store,
    seals: &Sealer,
    session: &Session,
) -> Result<(), StoreError> {
    store.remove(Space::SessionsOfUsers, &key(seals, session)).await.map(drop)
}

/// The user's sessions and when they began, the oldest first. Some may be over.
pub(super) async fn find(
    store: &dyn Store,
    seals: &Sealer,
    user: &str,
) -> Result<Vec<(Timestamp, SessionId)>, StoreError> {
    let user = seals.name("user", user);
    let entries = store.scan(Space::SessionsOfUsers, &user).await?;
    let mut found: Vec<_> = entries
        .iter()
        .filter_map(|(key, began)| {
            let id = <[u8; 32]>::try_from(key.strip_prefix(&user)?).ok()?;
            let began = i64::from_be_bytes(began.as_slice().try_into().ok()?);
            Some((Timestamp::from_millis(began), SessionId(id)))
        })
        .collect();
    found.sort_unstable_by_key(|(began, id)| (*began, id.0));
    Ok(found)
}

/// Forgets an entry whose session is gone.
pub(super) async fn tidy(
    store: &dyn Store,
    seals: &Sealer,
    user: &str,
    id: &SessionId,
) -> Result<(), StoreError> {
    let key = [seals.name("user", user), id.0].concat();
    store.remove(Space::SessionsOfUsers, &key).await.map(drop)
}
