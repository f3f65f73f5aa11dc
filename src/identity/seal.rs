//! What the store keeps of people is sealed: whoever reads it learns no name and no token, and
//! whoever writes into it makes no session.
//!
//! A sealed value is a version, a nonce, and AES-256-GCM over the rest with its space and key as
//! associated data: under another id it opens to nobody. The key is random,
//! made at the first start and kept in the store itself; where `session.key` is configured, the
//! store holds it wrapped with that, and no longer in the clear. Names that something is found
//! under are keyed digests.
//!
//! Every value has an AES key of its own, derived for its place: nonces are random, and a gate with
//! many sessions writes each of them every minute, so one key for all would be used up in weeks (NIST
//! SP 800-38D, section 8.3).
//!
//! INVARIANT: what doesn't open is an error or nothing, and never read in another way. Records of
//! versions before this one were not sealed; they count as nothing, because whoever may write into
//! the store could write one of those.

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::{hkdf, hmac, rand};

use super::keys;
use crate::config::secret::Secret;
use crate::domain::clock::Timestamp;
use crate::store::{Space, Store, StoreError};

const VERSION: u8 = 1;
const KEY_LENGTH: usize = 32;
const NONCE_LENGTH: usize = 12;

/// Where the key is kept as it is, and where it is kept wrapped.
const CLEAR: &[u8] = b"record-key";
const WRAPPED: &[u8] = b"record-key-wrapped";

/// Why the key can't be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "the store's sessions are sealed, and no `session.key` is configured; configure the one that they were sealed with"
    )]
    NoKey,
    #[error(
        "the store's sessions are sealed with another `session.key`; put the former one into its second line"
    )]
    OtherKey,
    #[error("the key that the store's sessions are sealed with is broken; begin with a new store")]
    Broken,
    #[error("no randomness")]
    Randomness,
}

/// Why a value doesn't open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unopened {
    #[error("it was kept by a former version")]
    Former,
    #[error("it was changed, or moved here from elsewhere")]
    Broken,
}

/// Seals and opens. One for the process.
pub struct Sealer {
    made: hkdf::Prk,
    names: hmac::Key,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").finish_non_exhaustive()
    }
}

impl Sealer {
    #[cfg(test)]
    pub(crate) fn fixed() -> std::sync::Arc<Self> {
        std::sync::Arc::new(Self::of(&[7; KEY_LENGTH]).unwrap())
    }

    /// With the key that the store has, or a fresh one. `wrapping` is `session.key`, the newest
    /// first.
    ///
    /// # Errors
    /// A store that fails; a key that can't be unwrapped.
    pub async fn load(
        store: &dyn Store,
        wrapping: &[Secret],
        now: Timestamp,
    ) -> Result<Self, SealError> {
        let mut fresh = [0u8; KEY_LENGTH];
        rand::fill(&mut fresh).map_err(|_| SealError::Randomness)?;
        let Some(newest) = wrapping.first() else {
            if store.get(Space::Keys, WRAPPED).await?.is_some() {
                return Err(SealError::NoKey);
            }
            return Self::of(&keys::load_or_put(store, CLEAR, &fresh, now).await?);
        };
        let stored = match store.get(Space::Keys, WRAPPED).await? {
            Some(stored) => stored,
            None => {
                // Whoever has read the key in the clear still has it; nobody else will.
                let clear = store.get(Space::Keys, CLEAR).await?;
                let wrapped = wrap(newest, clear.as_deref().unwrap_or(&fresh))?;
                keys::load_or_put(store, WRAPPED, &wrapped, now).await?
            }
        };
        store.remove(Space::Keys, CLEAR).await?;
        for (position, secret) in wrapping.iter().enumerate() {
            if let Some(key) = unwrap(secret, &stored)? {
                if position > 0 {
                    keys::put(store, WRAPPED, &wrap(newest, &key)?).await?;
                }
                return Self::of(&key);
            }
        }
        Err(SealError::OtherKey)
    }

    fn of(key: &[u8]) -> Result<Self, SealError> {
        if key.len() != KEY_LENGTH {
            return Err(SealError::Broken);
        }
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"wicketgate records");
        let made = salt.extract(key);
        let mut names = [0u8; KEY_LENGTH];
        expand(&made, b"names", &mut names)?;
        Ok(Self { made, names: hmac::Key::new(hmac::HMAC_SHA256, &names) })
    }

    fn key(&self, place: &[u8]) -> Option<RandomizedNonceKey> {
        let mut key = [0u8; KEY_LENGTH];
        expand(&self.made, place, &mut key).ok()?;
        RandomizedNonceKey::new(&AES_256_GCM, &key).ok()
    }

    /// `None` without randomness.
    pub fn seal(&self, space: Space, key: &[u8], mut plain: Vec<u8>) -> Option<Vec<u8>> {
        let place = place(space, key);
        let aad = Aad::from(place.as_slice());
        let nonce = self.key(&place)?.seal_in_place_append_tag(aad, &mut plain).ok()?;
        let head = NONCE_LENGTH + 1;
        let mut sealed = Vec::with_capacity(plain.len().saturating_add(head));
        sealed.push(VERSION);
        sealed.extend_from_slice(nonce.as_ref());
        sealed.append(&mut plain);
        Some(sealed)
    }

    /// # Errors
    /// It was not sealed here, under this space and key.
    pub fn open(&self, space: Space, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Unopened> {
        let (version, rest) = sealed.split_first().ok_or(Unopened::Broken)?;
        if *version != VERSION {
            // JSON, as it was before.
            return Err(if *version == b'{' { Unopened::Former } else { Unopened::Broken });
        }
        let (nonce, rest) = rest.split_at_checked(NONCE_LENGTH).ok_or(Unopened::Broken)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Unopened::Broken)?;
        let mut plain = rest.to_vec();
        let place = place(space, key);
        let key = self.key(&place).ok_or(Unopened::Broken)?;
        let opened = key.open_in_place(nonce, Aad::from(place.as_slice()), &mut plain);
        let length = opened.map_err(|_| Unopened::Broken)?.len();
        plain.truncate(length);
        Ok(plain)
    }

    /// What stands for a name in the store. `kind` keeps names of different things apart.
    pub fn name(&self, kind: &str, name: &str) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.names);
        context.update(kind.as_bytes());
        context.update(&[0]);
        context.update(name.as_bytes());
        let mut digest = [0u8; 32];
        digest.iter_mut().zip(context.sign().as_ref()).for_each(|(to, from)| *to = *from);
        digest
    }
}

/// What a value's key is derived for, and its associated data. The name of the space is part of what is stored: it stays.
fn place(space: Space, key: &[u8]) -> Vec<u8> {
    let mut place = format!("wicketgate {VERSION} {space:?} ").into_bytes();
    place.extend_from_slice(key);
    place
}

fn wrapping_key(secret: &Secret) -> Result<RandomizedNonceKey, SealError> {
    let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"wicketgate session.key");
    let mut key = [0u8; KEY_LENGTH];
    expand(&salt.extract(secret.expose().as_bytes()), b"wrap", &mut key)?;
    RandomizedNonceKey::new(&AES_256_GCM, &key).map_err(|_| SealError::Broken)
}

fn wrap(secret: &Secret, key: &[u8]) -> Result<Vec<u8>, SealError> {
    let mut sealed = key.to_vec();
    let nonce = wrapping_key(secret)?
        .seal_in_place_append_tag(Aad::from(WRAPPED), &mut sealed)
        .map_err(|_| SealError::Randomness)?;
    Ok([nonce.as_ref().as_slice(), &sealed].concat())
}

/// `None`: it was wrapped with another one.
fn unwrap(secret: &Secret, stored: &[u8]) -> Result<Option<Vec<u8>>, SealError> {
    let (nonce, sealed) = stored.split_at_checked(NONCE_LENGTH).ok_or(SealError::Broken)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Broken)?;
    let mut plain = sealed.to_vec();
    let opened = wrapping_key(secret)?.open_in_place(nonce, Aad::from(WRAPPED), &mut plain);
    Ok(opened.ok().map(|key| key.to_vec()))
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand(made: &hkdf::Prk, info: &[u8], out: &mut [u8]) -> Result<(), SealError> {
    made.expand(&[info], Length(out.len()))
        .and_then(|made| made.fill(out))
        .map_err(|_| SealError::Broken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn secret(letter: char) -> Secret {
        Secret::new(String::from(letter).repeat(32))
    }

    async fn sealer(store: &MemoryStore, keys: &[Secret]) -> Result<Sealer, SealError> {
        Sealer::load(store, keys, NOW).await
    }

    #[tokio::test]
    async fn a_value_opens_at_its_own_place_only_and_only_whole() {
        let store = MemoryStore::default();
        let one = sealer(&store, &[]).await.unwrap();
        let sealed = one.seal(Space::Sessions, b"id", b"ada".to_vec()).unwrap();
        assert!(!sealed.windows(3).any(|part| part == b"ada"));
        let again = sealer(&store, &[]).await.unwrap();
        assert_eq!(again.open(Space::Sessions, b"id", &sealed), Ok(b"ada".to_vec()));
        assert_eq!(one.open(Space::Sessions, b"di", &sealed), Err(Unopened::Broken));
        assert_eq!(one.open(Space::Keys, b"id", &sealed), Err(Unopened::Broken));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(one.open(Space::Sessions, b"id", &changed).is_err(), "{at}");
            assert!(one.open(Space::Sessions, b"id", &sealed[..at]).is_err(), "{at}");
        }
        assert_eq!(one.open(Space::Sessions, b"id", b"{}"), Err(Unopened::Former));
        let other = sealer(&MemoryStore::default(), &[]).await.unwrap();
        assert_eq!(other.open(Space::Sessions, b"id", &sealed), Err(Unopened::Broken));
        assert_ne!(one.name("user", "ada"), other.name("user", "ada"));
        assert_eq!(one.name("user", "ada"), again.name("user", "ada"));
        assert_ne!(one.name("user", "ada"), one.name("device", "ada"));
    }

    #[tokio::test]
    async fn with_a_configured_key_the_store_alone_opens_nothing() {
        let store = MemoryStore::default();
        let clear = sealer(&store, &[]).await.unwrap();
        let former = clear.seal(Space::Sessions, b"id", b"ada".to_vec()).unwrap();
        let wrapped = sealer(&store, &[secret('a')]).await.unwrap();
        assert_eq!(store.get(Space::Keys, CLEAR).await, Ok(None));
        assert_eq!(wrapped.open(Space::Sessions, b"id", &former), Ok(b"ada".to_vec()));
        let sealed = wrapped.seal(Space::Sessions, b"id", b"ada".to_vec()).unwrap();
        let stored = store.get(Space::Keys, WRAPPED).await.unwrap().unwrap();
        assert!(Sealer::of(&stored).is_err());

        assert_eq!(sealer(&store, &[]).await.unwrap_err(), SealError::NoKey);
        assert_eq!(sealer(&store, &[secret('b')]).await.unwrap_err(), SealError::OtherKey);
        let exchanged = sealer(&store, &[secret('b'), secret('a')]).await.unwrap();
        assert_eq!(exchanged.open(Space::Sessions, b"id", &sealed), Ok(b"ada".to_vec()));
        let after = sealer(&store, &[secret('b')]).await.unwrap();
        assert_eq!(after.open(Space::Sessions, b"id", &sealed), Ok(b"ada".to_vec()));
        assert_eq!(sealer(&store, &[secret('a')]).await.unwrap_err(), SealError::OtherKey);
    }

    #[tokio::test]
    async fn gates_that_start_together_seal_with_one_key() {
        let store = MemoryStore::default();
        for keys in [vec![], vec![secret('a')]] {
            let (one, two) = tokio::join!(sealer(&store, &keys), sealer(&store, &keys));
            let sealed = one.unwrap().seal(Space::Sessions, b"id", b"ada".to_vec()).unwrap();
            assert!(two.unwrap().open(Space::Sessions, b"id", &sealed).is_ok());
        }
    }
}
