//! What upstreams are told about the user, in a form that they can check: a JWT signed with ES256,
//! verifiable with `/.wicketgate/jwks.json`.
//!
//! INVARIANT: an assertion names one audience and lives [`LIFETIME`], so that one upstream can't use
//! it at another, nor later. The cache's key is everything that varies in it: credential and
//! audience; a credential's principal never changes.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use parking_lot::Mutex;
use serde::Serialize;

use super::credential::Credential;
use super::keys;
use super::login::random_token;
use super::signing::Keys;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::id::SessionId;
use crate::domain::principal::{Principal, PrincipalKind};
use crate::store::{Store, StoreError};

/// `iss` of every assertion.
pub const ISSUER: &str = "wicketgate";

/// From `iat` to `exp`.
pub const LIFETIME: Duration = Duration::from_secs(60);

/// For how long one is handed out again.
const REUSE: Duration = Duration::from_secs(30);

const STRIPES: usize = 32;
/// Assertions kept in each stripe.
const MAX_IN_STRIPE: usize = 1024;

#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("an assertion key in the store is broken; remove `assertion-key/...` from it")]
    BadKey,
    #[error("the assertion can't be signed")]
    Sign,
}

/// By caller and audience. The principal says whether the caller is still who he was.
type Kept = HashMap<(SessionId, Arc<str>), (HeaderValue, Timestamp, Arc<Principal>)>;

/// Signs assertions. One for the process.
pub struct Signer {
    keys: ArcSwap<Keys>,
    store: Arc<dyn Store>,
    kept: Vec<Mutex<Kept>>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer")
            .field("kid", &self.keys.load().current.header.kid)
            .finish_non_exhaustive()
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
    kind: PrincipalKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
}

impl Signer {
    /// The keys come from the store, where the first who needs one puts it.
    pub async fn load_or_create(store: Arc<dyn Store>, clock: Clock) -> Result<Self, SignerError> {
        let keys = Keys::load(store.as_ref(), clock.now()).await?;
        let kept = (0..STRIPES).map(|_| Mutex::default()).collect();
        Ok(Self { keys: ArcSwap::from_pointee(keys), store, kept })
    }

    /// Takes another key when it is time, publishes the next and forgets the last. For every now and
    /// then. With an error the former keys stay in use.
    pub async fn tend(&self, now: Timestamp) -> Result<(), SignerError> {
        if !self.keys.load().are_due(now) {
            self.keys.store(Arc::new(Keys::load(self.store.as_ref(), now).await?));
            keys::purge(self.store.as_ref(), now).await?;
        }
        Ok(())
    }

    /// The public keys as a JWK set (RFC 7517), for `/.wicketgate/jwks.json`.
    pub fn jwks(&self) -> Arc<str> {
        Arc::clone(&self.keys.load().jwks)
    }

    /// Whether an assertion of that time may be handed out now.
    pub fn is_fresh(&self, made: Timestamp, now: Timestamp) -> bool {
        made <= now && now.since(made) < REUSE
    }

    /// The assertion about a caller for one audience, as a header field's value, and
    /// when it was made.
    pub fn assertion(
        &self,
        caller: &Credential,
        audience: &Arc<str>,
        now: Timestamp,
    ) -> Result<(HeaderValue, Timestamp), SignerError> {
        let stripe = caller.id().0.first().map_or(0, |byte| usize::from(*byte) % STRIPES);
        let kept = self.kept.get(stripe).ok_or(SignerError::Sign)?;
        let key = (*caller.id(), Arc::clone(audience));
        let principal = caller.principal();
        if let Some((token, at, of)) = kept.lock().get(&key)
            && self.is_fresh(*at, now)
            && (Arc::ptr_eq(of, principal) || of == principal)
        {
            return Ok((token.clone(), *at));
        }
        let token = self.sign(principal, audience, now)?;
        let mut kept = kept.lock();
        if kept.len() >= MAX_IN_STRIPE {
            kept.retain(|_, (_, at, _)| self.is_fresh(*at, now));
            if kept.len() >= MAX_IN_STRIPE {
                kept.clear();
            }
        }
        kept.insert(key, (token.clone(), now, Arc::clone(principal)));
        Ok((token, now))
    }

    fn sign(
        &self,
        principal: &Principal,
        audience: &str,
        now: Timestamp,
    ) -> Result<HeaderValue, SignerError> {
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
            kind: principal.kind,
            tenant: principal.tenant.as_deref(),
        };
        let keys = self.keys.load();
        let token = jsonwebtoken::encode(&keys.current.header, &claims, &keys.current.key)
            .map_err(|_| SignerError::Sign)?;
        let mut value = HeaderValue::try_from(token).map_err(|_| SignerError::Sign)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation};
    use serde_json::Value;

    use super::super::signing::{AFTER, AHEAD, EPOCH};
    use super::*;
    use crate::config;
    use crate::domain::principal::Authentication;
    use crate::identity::session::{NewSession, Sessions};
    use crate::metrics::Metrics;
    use crate::store::MemoryStore;

    async fn session(store: &Arc<MemoryStore>, clock: &Clock, user: &str) -> Credential {
        let config = config::model::Session {
            idle_timeout: Duration::from_secs(60),
            absolute_lifetime: Duration::from_secs(60),
            ..Default::default()
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
            vouched_by: Default::default(),
            sid: None,
            subject: None,
            id_token: None,
            access_token: None,
            refresh: None,
            host: None,
            begun: None,
        };
        Credential::Session(sessions.create(login, None).await.unwrap().1)
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
        assert_eq!(claims["kind"], "user");
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

    fn kids(signer: &Signer) -> Vec<String> {
        let set: JwkSet = serde_json::from_str(&signer.jwks()).unwrap();
        set.keys.into_iter().map(|key| key.common.key_id.unwrap()).collect()
    }

    #[tokio::test]
    async fn keys_change_in_step_at_all_gates_and_are_known_before_and_after() {
        let store = Arc::new(MemoryStore::default());
        let start = i64::try_from(EPOCH.as_secs()).unwrap() * 700;
        // Two hours into an epoch, so that the assertions' own clock and the keys' are one.
        let clock = Clock::manual(Timestamp::from_seconds(start + 7200));
        let one = Signer::load_or_create(store.clone(), clock.clone()).await.unwrap();
        let two = Signer::load_or_create(store.clone(), clock.clone()).await.unwrap();
        let first = kids(&one);
        assert_eq!((first.len(), &first), (1, &kids(&two)));
        let audience: Arc<str> = "app".into();
        let ada = session(&store, &clock, "idp/ada").await;
        let signed_with = |signer: &Signer| {
            let (token, _) = signer.assertion(&ada, &audience, clock.now()).unwrap();
            let token = token.to_str().unwrap().to_owned();
            (jsonwebtoken::decode_header(&token).unwrap().kid.unwrap(), token)
        };
        let tend = async || {
            one.tend(clock.now()).await.unwrap();
            two.tend(clock.now()).await.unwrap();
            assert_eq!(one.jwks(), two.jwks());
        };

        // The next one is published before it is used.
        clock.advance(EPOCH - Duration::from_secs(7200) - AHEAD);
        tend().await;
        let both = kids(&one);
        assert_eq!((both.len(), &both[0]), (2, &first[0]));
        assert_eq!(signed_with(&one).0, first[0]);
        let late = Signer::load_or_create(store.clone(), clock.clone()).await.unwrap();
        assert_eq!(late.jwks(), one.jwks());

        // It is used, and what the former signed is still good: at a gate that has not noticed, too.
        clock.advance(AHEAD - Duration::from_secs(1));
        let (_, before) = signed_with(&two);
        clock.advance(Duration::from_secs(1));
        one.tend(clock.now()).await.unwrap();
        let bob = session(&store, &clock, "idp/bob").await;
        let (token, _) = one.assertion(&bob, &audience, clock.now()).unwrap();
        let token = token.to_str().unwrap();
        assert_eq!(jsonwebtoken::decode_header(token).unwrap().kid, Some(both[1].clone()));
        assert_eq!(kids(&one), both);
        for (jwks, token) in [(one.jwks(), &*before), (two.jwks(), token)] {
            let set: JwkSet = serde_json::from_str(&jwks).unwrap();
            let kid = jsonwebtoken::decode_header(token).unwrap().kid.unwrap();
            assert!(set.find(&kid).is_some(), "each gate knows the other's");
        }

        // Then the former is gone, from the store too.
        clock.advance(AFTER);
        tend().await;
        assert_eq!(kids(&one), both[1..]);
        clock.advance(EPOCH);
        tend().await;
        let left = store.scan(crate::store::Space::Keys, b"assertion-key/").await.unwrap();
        assert!(!left.iter().any(|(name, _)| name == b"assertion-key/700"), "{}", left.len());
    }

    #[tokio::test]
    async fn what_the_store_holds_in_the_place_of_a_key_leaves_the_former_in_use() {
        let clock = Clock::manual(Timestamp::from_seconds(1_800_000_000));
        let store = Arc::new(MemoryStore::default());
        let signer = Signer::load_or_create(store.clone(), clock.clone()).await.unwrap();
        let ada = session(&store, &clock, "idp/ada").await;
        let before = kids(&signer);
        clock.advance(EPOCH * 2);
        let number = clock.now().as_seconds() / i64::try_from(EPOCH.as_secs()).unwrap();
        let name = format!("assertion-key/{number}").into_bytes();
        keys::put(store.as_ref(), &name, b"no key").await.unwrap();
        assert!(matches!(signer.tend(clock.now()).await, Err(SignerError::BadKey)));
        assert_eq!(kids(&signer), before);
        assert!(signer.assertion(&ada, &"app".into(), clock.now()).is_ok());
        store.remove(crate::store::Space::Keys, &name).await.unwrap();
        signer.tend(clock.now()).await.unwrap();
        assert!(!kids(&signer).contains(&before[0]));
    }
}
