//! The keys that assertions are signed with: another one every thirty days.
//!
//! Time is cut into epochs, and each epoch has one key, which the store keeps under its number.
//! Whoever needs it first makes it, and the store decides who was first: so all gates that share a
//! store, and a newer process beside an older one, have the same keys without a word between them.
//!
//! INVARIANT: a key is published for [`AHEAD`] before anything is signed with it, so that those who
//! keep the key set know it by then, and for [`AFTER`] afterwards, which is longer than what it
//! signed is good for. Then the store forgets it.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey, Header};

use super::assertion::SignerError;
use super::keys;
use crate::domain::clock::Timestamp;
use crate::store::Store;

/// For how long one key signs.
pub const EPOCH: Duration = Duration::from_secs(30 * 24 * 3600);

/// For how long a key is published before it signs.
pub const AHEAD: Duration = Duration::from_secs(24 * 3600);

/// For how long a key is published after it signed.
pub const AFTER: Duration = Duration::from_secs(3600);

/// The key in use and those that are published beside it.
pub(super) struct Keys {
    pub(super) current: Key,
    pub(super) jwks: Arc<str>,
    epoch: i64,
    /// Those that are published, in their order.
    published: Vec<i64>,
}

pub(super) struct Key {
    pub(super) key: EncodingKey,
    pub(super) header: Header,
    jwk: Jwk,
}

impl Keys {
    /// Reads the keys of this time, and makes those that are missing.
    pub(super) async fn load(store: &dyn Store, now: Timestamp) -> Result<Self, SignerError> {
        let (epoch, published) = (epoch(now), published(now));
        let mut current = None;
        let mut public = Vec::new();
        for number in &published {
            // What was, and isn't in the store, signed nothing.
            let Some(key) = Key::load(store, *number, now).await? else { continue };
            public.push(key.jwk.clone());
            if *number == epoch {
                current = Some(key);
            }
        }
        let jwks = serde_json::to_string(&JwkSet { keys: public });
        let jwks = jwks.map_err(|_| SignerError::BadKey)?.into();
        Ok(Self { current: current.ok_or(SignerError::BadKey)?, jwks, epoch, published })
    }

    /// Whether they are what [`load`](Self::load) would find now.
    pub(super) fn are_due(&self, now: Timestamp) -> bool {
        self.epoch == epoch(now) && self.published == published(now)
    }
}

impl Key {
    async fn load(
        store: &dyn Store,
        number: i64,
        now: Timestamp,
    ) -> Result<Option<Self>, SignerError> {
        let name = format!("assertion-key/{number}");
        let der = if number < epoch(now) {
            match keys::find(store, name.as_bytes()).await? {
                Some(der) => der,
                None => return Ok(None),
            }
        } else {
            let fresh = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
                .and_then(|pair| pair.to_pkcs8v1())
                .map_err(|_| SignerError::BadKey)?;
            let expires = begin(number + 1).plus(AFTER * 2);
            keys::load_or_put_until(store, name.as_bytes(), fresh.as_ref(), expires, now).await?
        };
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der)
            .map_err(|_| SignerError::BadKey)?;
        let key = EncodingKey::from_ec_der(&der);
        let mut jwk =
            Jwk::from_encoding_key(&key, Algorithm::ES256).map_err(|_| SignerError::BadKey)?;
        // RFC 7638: the name follows from the key.
        let kid = jwk.thumbprint(ThumbprintHash::SHA256).map_err(|_| SignerError::BadKey)?;
        jwk.common.key_id = Some(kid.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(kid);
        Ok(Some(Self { key, header, jwk }))
    }
}

fn length() -> i64 {
    i64::try_from(EPOCH.as_secs()).unwrap_or(i64::MAX)
}

fn epoch(now: Timestamp) -> i64 {
    now.as_seconds().div_euclid(length())
}

fn begin(epoch: i64) -> Timestamp {
    Timestamp::from_seconds(epoch.saturating_mul(length()))
}

fn published(now: Timestamp) -> Vec<i64> {
    let current = epoch(now);
    let mut published = vec![current];
    if now.since(begin(current)) < AFTER {
        published.insert(0, current - 1);
    }
    if begin(current + 1).since(now) <= AHEAD {
        published.push(current + 1);
    }
    published
}
