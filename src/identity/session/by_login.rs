//! Which sessions came from one login at the provider, and which are of one of its users, so that
//! signing out finds them without reading everybody's.
//!
//! Each session has an entry in [`Space::SessionsOfLogins`] for each of the provider's names for it
//! (`sid` and `sub`), under the digest of provider and name followed by the session's id. That of
//! the subject says whether there is a `sid`, too.
//!
//! INVARIANT: the entries are written before their session and removed after it, so no stored
//! session lacks one. An entry without a session means nothing, and goes when the session would
//! have.

use aws_lc_rs::digest;

use super::Session;
use crate::domain::id::SessionId;
use crate::store::{Entry, Space, Store, StoreError};

/// What the subject's entry holds of a session that has a `sid`.
const HAS_SID: &[u8] = b"sid";

/// What a provider calls a session by.
#[derive(Clone, Copy, Debug)]
pub(super) enum Name<'a> {
    Sid(&'a str),
    Subject(&'a str),
}

fn digest(provider: &str, name: Name<'_>) -> digest::Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    let name = match name {
        Name::Sid(sid) => sid,
        Name::Subject(subject) => {
            // Longer than any provider's name, with which a `sid` begins.
            context.update(&u64::MAX.to_be_bytes());
            subject
        }
    };
    // With its length, so that no two pairs of names run together into the same bytes.
    context.update(&u64::try_from(provider.len()).unwrap_or(u64::MAX).to_be_bytes());
    context.update(provider.as_bytes());
    context.update(name.as_bytes());
    context.finish()
}

fn keys(session: &Session) -> impl Iterator<Item = (Vec<u8>, &'static [u8])> {
    let sid = session.sid.as_deref().map(|sid| (Name::Sid(sid), &b""[..]));
    let of_subject = if sid.is_some() { HAS_SID } else { b"" };
    let subject = session.subject.as_deref().map(|name| (Name::Subject(name), of_subject));
    sid.into_iter().chain(subject).map(|(name, value)| {
        ([digest(&session.provider, name).as_ref(), &session.id.0].concat(), value)
    })
}

pub(super) async fn put(store: &dyn Store, session: &Session) -> Result<(), StoreError> {
    let expires = session.expires;
    let entries: Vec<Entry> =
        keys(session).map(|(key, value)| Entry { key, value: value.to_vec(), expires }).collect();
    if entries.is_empty() { Ok(()) } else { store.put_all(Space::SessionsOfLogins, entries).await }
}

pub(super) async fn remove(store: &dyn Store, session: &Session) -> Result<(), StoreError> {
    for (key, _) in keys(session) {
        store.remove(Space::SessionsOfLogins, &key).await?;
    }
    Ok(())
}

/// The sessions of a name, and whether each has a `sid` (as far as the subject's entries say).
pub(super) async fn find(
    store: &dyn Store,
    provider: &str,
    name: Name<'_>,
) -> Result<Vec<(SessionId, bool)>, StoreError> {
    let prefix = digest(provider, name);
    let entries = store.scan(Space::SessionsOfLogins, prefix.as_ref()).await?;
    let ids = entries.iter().filter_map(|(key, value)| {
        let id = key.strip_prefix(prefix.as_ref())?;
        Some((SessionId(<[u8; 32]>::try_from(id).ok()?), value == HAS_SID))
    });
    Ok(ids.collect())
}
