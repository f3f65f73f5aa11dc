//! Which sessions came from one login at the provider, and which are of one of its users, so that
//! signing out finds them without reading everybody's.
//!
//! Each session has an entry in [`Space::SessionsOfLogins`] for each of the provider's names for it
//! (`sid` and `sub`), under a keyed digest of provider and name followed by the session's id. That of
//! the subject says whether there is a `sid`, too.
//!
//! INVARIANT: the entries are written before their session and removed after it, so no stored
//! session lacks one. An entry without a session means nothing, and goes when the session would
//! have.

use super::Session;
use crate::domain::id::SessionId;
use crate::identity::seal::Sealer;
use crate::store::{Entry, Space, Store, StoreError};

/// What the subject's entry holds of a session that has a `sid`.
const HAS_SID: &[u8] = b"sid";

/// What a provider calls a session by.
#[derive(Clone, Copy, Debug)]
pub(super) enum Name<'a> {
    Sid(&'a str),
    Subject(&'a str),
}

/// What stands for it in the store: whoever reads that can't try names.
fn digest(seals: &Sealer, provider: &str, name: Name<'_>) -> [u8; 32] {
    let (kind, name) = match name {
        Name::Sid(sid) => ("sid", sid),
        Name::Subject(subject) => ("sub", subject),
    };
    seals.name(kind, &of_provider(provider, name))
}

/// With its length, so that no two pairs of names run together into the same text.
pub(super) fn of_provider(provider: &str, name: &str) -> String {
    format!("{} {provider} {name}", provider.len())
}

fn keys(seals: &Sealer, session: &Session) -> impl Iterator<Item = (Vec<u8>, &'static [u8])> {
    let sid = session.sid.as_deref().map(|sid| (Name::Sid(sid), &b""[..]));
    let of_subject = if sid.is_some() { HAS_SID } else { b"" };
    let subject = session.subject.as_deref().map(|name| (Name::Subject(name), of_subject));
    sid.into_iter().chain(subject).map(|(name, value)| {
        ([digest(seals, &session.provider, name), session.id.0].concat(), value)
    })
}

pub(super) async fn put(
    store: &dyn Store,
    seals: &Sealer,
    session: &Session,
) -> Result<(), StoreError> {
    let expires = session.expires;
    let entries: Vec<Entry> = keys(seals, session)
        .map(|(key, value)| Entry { key, value: value.to_vec(), expires })
        .collect();
    if entries.is_empty() { Ok(()) } else { store.put_all(Space::SessionsOfLogins, entries).await }
}

pub(super) async fn remove(
    store: &dyn Store,
    seals: &Sealer,
    session: &Session,
) -> Result<(), StoreError> {
    for (key, _) in keys(seals, session) {
        store.remove(Space::SessionsOfLogins, &key).await?;
    }
    Ok(())
}

/// The sessions of a name, and whether each has a `sid` (as far as the subject's entries say).
pub(super) async fn find(
    store: &dyn Store,
    seals: &Sealer,
    provider: &str,
    name: Name<'_>,
) -> Result<Vec<(SessionId, bool)>, StoreError> {
    let prefix = digest(seals, provider, name);
    let entries = store.scan(Space::SessionsOfLogins, &prefix).await?;
    let ids = entries.iter().filter_map(|(key, value)| {
        let id = key.strip_prefix(&prefix)?;
        Some((SessionId(<[u8; 32]>::try_from(id).ok()?), value == HAS_SID))
    });
    Ok(ids.collect())
}
