//! What upstreams are told about the user, in a form that they can check: a JWT signed with ES256,
//! verifiable with `/.wicketgate/jwks.json`.
//!
//! INVARIANT: an assertion names one audience and lives [`LIFETIME`], so that one upstream can't use
//! it at another, nor later. The cache's key is everything that varies in it: session and audience;
//! a session's principal never changes.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use http::HeaderValue;
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::Mutex;
use serde::Serialize;

use super::keys;
use super::login::random_token;
use super::session::Session;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::id::SessionId;
use crate::store::{Store, StoreError};

/// `iss` of every assertion.
pub const ISSUER: &str = "wicketgate";

/// From `iat` to `exp`.
pub const LIFETIME: Duration = Duration::from_secs(60);

/// For how long one is handed out again.
const REUSE: Duration = Duration::from_secs(30);

const KEY_NAME: &[u8] = b"assertion-key";
const STRIPES: usize = 32;
/// Assertions kept in each stripe.
const MAX_IN_STRIPE: usize = 1024;

#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the assertion key in the store is broken; remove `assertion-key` from it")]
    BadKey,
    #[error("the assertion can't be signed")]
    Sign,
}

type Kept = HashMap<(SessionId, Arc<str>), (HeaderValue, Timestamp)>;

/// Signs assertions. One for the process.
pub struct Signer {
    key: EncodingKey,
    header: Header,
    jwks: Arc<str>,
    kept: Vec<Mutex<Kept>>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("kid", &self.header.kid).finish_non_exhaustive()
    }
}

/// RFC 7519, section 4.1, and the principal.
#[derive(Serialize)]
struct Claims<'a> {
    iss: &'static str,
    aud: &'a str,
    sub: &'a str,
    iat: i64,
    exp: i64,
    jti: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    groups: &'a BTreeSet<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
}

impl Signer {
    /// The key comes from the store, where the first start puts it.
    pub async fn load_or_create(store: Arc<dyn Store>, clock: Clock) -> Result<Self, SignerError> {
        let fresh = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .and_then(|pair| pair.to_pkcs8v1())
            .map_err(|_| SignerError::BadKey)?;
        let der = keys::load_or_put(store.as_ref(), KEY_NAME, fresh.as_ref(), clock.now()).await?;
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der)
            .map_err(|_| SignerError::BadKey)?;
        let key = EncodingKey::from_ec_der(&der);
        let mut jwk =
            Jwk::from_encoding_key(&key, Algorithm::ES256).map_err(|_| SignerError::BadKey)?;
        // RFC 7638: the name follows from the key.
        let kid = jwk.thumbprint(ThumbprintHash::SHA256).map_err(|_| SignerError::BadKey)?;
        jwk.common.key_id = Some(kid.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        let jwks = serde_json::to_string(&JwkSet { keys: vec![jwk] })
            .map_err(|_| SignerError::BadKey)?
            .into();
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(kid);
        let kept = (0..STRIPES).map(|_| Mutex::default()).collect();
        Ok(Self { key, header, jwks, kept })
    }

    /// The public key as a JWK set (RFC 7517), for `/.wicketgate/jwks.json`.
    pub fn jwks(&self) -> Arc<str> {
        Arc::clone(&self.jwks)
    }

    /// Whether an assertion of that time may be handed out now.
    pub fn is_fresh(&self, made: Timestamp, now: Timestamp) -> bool {
        made <= now && now.since(made) < REUSE
    }

    /// The assertion about a session's principal for one audience, as a header field's value, and
    /// when it was made.
    pub fn assertion(
        &self,
        session: &Session,
        audience: &Arc<str>,
        now: Timestamp,
    ) -> Result<(HeaderValue, Timestamp), SignerError> {
        let stripe = session.id.0.first().map_or(0, |byte| usize::from(*byte) % STRIPES);
        let kept = self.kept.get(stripe).ok_or(SignerError::Sign)?;
        let key = (session.id, Arc::clone(audience));
        if let Some((token, at)) = kept.lock().get(&key)
            && self.is_fresh(*at, now)
        {
            return Ok((token.clone(), *at));
        }
        let token = self.sign(session, audience, now)?;
        let mut kept = kept.lock();
        if kept.len() >= MAX_IN_STRIPE {
            kept.retain(|_, (_, at)| self.is_fresh(*at, now));
            if kept.len() >= MAX_IN_STRIPE {
                kept.clear();
            }
        }
        kept.insert(key, (token.clone(), now));
        Ok((token, now))
    }

    fn sign(
        &self,
        session: &Session,
        audience: &str,
        now: Timestamp,
    ) -> Result<HeaderValue, SignerError> {
        let principal = &session.principal;
        let claims = Claims {
            iss: ISSUER,
            aud: audience,
            sub: &principal.id,
            iat: now.as_seconds(),
            exp: now.plus(LIFETIME).as_seconds(),
            jti: random_token().map_err(|_| SignerError::Sign)?,
            email: principal.email.as_deref(),
            name: principal.name.as_deref(),
            groups: &principal.groups,
            tenant: principal.tenant.as_deref(),
        };
        let token = jsonwebtoken::encode(&self.header, &claims, &self.key)
            .map_err(|_| SignerError::Sign)?;
        let mut value = HeaderValue::try_from(token).map_err(|_| SignerError::Sign)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation};
    use serde_json::Value;

    use super::*;
    use crate::config;
    use crate::domain::principal::{Authentication, Principal, PrincipalKind};
    use crate::identity::session::{NewSession, Sessions};
    use crate::metrics::Metrics;
    use crate::store::MemoryStore;

    async fn session(store: &Arc<MemoryStore>, clock: &Clock, user: &str) -> Arc<Session> {
        let config = config::model::Session {
            idle_timeout: Duration::from_secs(60),
            absolute_lifetime: Duration::from_secs(60),
            keep_forms: 0,
            sign_in_host: None,
        };
        let store: Arc<dyn Store> = store.clone();
        let sessions = Sessions::open(store, &config, clock.clone(), Metrics::new()).await.unwrap();
        let login = NewSession {
            principal: Arc::new(Principal {
                kind: PrincipalKind::User,
                id: user.into(),
                email: Some("a@b.example".into()),
                name: None,
                groups: BTreeSet::from(["x".into()]),
                tenant: Some("acme".into()),
            }),
            authentication: Authentication::default(),
            provider: "idp".into(),
            sid: None,
            subject: None,
            id_token: None,
        };
        sessions.create(login, None).await.unwrap().1
    }

    fn read(jwks: &str, token: &str, audience: &str) -> Option<Value> {
        let set: JwkSet = serde_json::from_str(jwks).unwrap();
        let kid = jsonwebtoken::decode_header(token).unwrap().kid.unwrap();
        let key = DecodingKey::from_jwk(set.find(&kid).unwrap()).unwrap();
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&[audience]);
        validation.set_issuer(&[ISSUER]);
        jsonwebtoken::decode::<Value>(token, &key, &validation).ok().map(|token| token.claims)
    }

    #[tokio::test]
    async fn an_assertion_verifies_with_the_published_key_for_its_audience_only() {
        let store = Arc::new(MemoryStore::default());
        let clock = Clock::System;
        let signer = Signer::load_or_create(store.clone(), clock.clone()).await.unwrap();
        let session = session(&store, &clock, "idp/ada").await;
        let audience: Arc<str> = "https://portal.example".into();
        let (token, _) = signer.assertion(&session, &audience, clock.now()).unwrap();
        let claims = read(&signer.jwks(), token.to_str().unwrap(), &audience).unwrap();
        assert_eq!(claims["sub"], "idp/ada");
        assert_eq!(claims["tenant"], "acme");
        assert_eq!(claims["groups"][0], "x");
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 60);
        assert!(read(&signer.jwks(), token.to_str().unwrap(), "https://other.example").is_none());
        assert!(!signer.jwks().contains("\"d\""));
        // The next start has the same key.
        let again = Signer::load_or_create(store.clone(), clock.clone()).await.unwrap();
        assert_eq!(again.jwks(), signer.jwks());
    }

    #[tokio::test]
    async fn an_assertion_is_reused_for_half_its_life_and_never_for_another() {
        let store = Arc::new(MemoryStore::default());
        let clock = Clock::manual(Timestamp::from_seconds(1_800_000_000));
        let signer = Signer::load_or_create(store.clone(), clock.clone()).await.unwrap();
        let ada = session(&store, &clock, "idp/ada").await;
        let grace = session(&store, &clock, "idp/grace").await;
        let (one, two): (Arc<str>, Arc<str>) = ("one".into(), "two".into());
        let first = signer.assertion(&ada, &one, clock.now()).unwrap();
        assert_ne!(first, signer.assertion(&grace, &one, clock.now()).unwrap());
        assert_ne!(first, signer.assertion(&ada, &two, clock.now()).unwrap());
        clock.advance(Duration::from_secs(29));
        assert_eq!(first, signer.assertion(&ada, &one, clock.now()).unwrap());
        clock.advance(Duration::from_secs(1));
        assert_ne!(first, signer.assertion(&ada, &one, clock.now()).unwrap());
    }
}
