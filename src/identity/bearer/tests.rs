//! The table of forged tokens, and those that are good.

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use openidconnect::core::CoreJsonWebKeySet;
use serde_json::{Value, json};

use super::token::MAX_TOKEN;
use super::*;
use crate::config::model::{AccessTokens, ClaimNames, ClientAuthentication, Issuer as IssuerUrl};

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
const ISSUER: &str = "https://id.example";
const AUDIENCE: &str = "https://portal.example";

fn base64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// An issuer with one key.
struct World {
    key: EcdsaKeyPair,
    config: Arc<IdentityProvider>,
}

impl World {
    fn new() -> Self {
        let config = IdentityProvider {
            name: "idp".into(),
            display_name: "idp".into(),
            issuer: IssuerUrl::parse(ISSUER).unwrap(),
            client_id: "gate".into(),
            client: ClientAuthentication::Public,
            parameters: Vec::new(),
            own_callback: false,
            scopes: vec!["openid".into()],
            step_up: Vec::new(),
            ca: None,
            claims: ClaimNames::default(),
            asks_userinfo: true,
            revokes_tokens: true,
            access_tokens: Some(AccessTokens {
                audiences: vec![AUDIENCE.into(), "https://second.example".into()],
            }),
            refresh: None,
            timeout: Duration::from_secs(1),
        };
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { key, config: Arc::new(config) }
    }

    fn jwk(&self, kid: &str) -> Value {
        let point = self.key.public_key().as_ref();
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "kid": kid,
            "x": base64(&point[1..33]), "y": base64(&point[33..])})
    }

    fn keys(&self) -> CoreJsonWebKeySet {
        serde_json::from_value(json!({"keys": [self.jwk("one")]})).unwrap()
    }

    /// Signs whatever it is.
    fn sign_text(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", base64(header), base64(claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", base64(signature))
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    /// A good token with these members of the header changed; null removes one.
    fn with_header(&self, change: &Value) -> String {
        self.sign(&changed(header(), change), &claims())
    }

    fn with_claims(&self, change: &Value) -> String {
        self.sign(&header(), &changed(claims(), change))
    }

    fn judge(&self, token: &str) -> Result<Facts, BearerError> {
        self.judge_with(token, &self.keys(), NOW)
    }

    fn judge_with(
        &self,
        token: &str,
        keys: &CoreJsonWebKeySet,
        now: Timestamp,
    ) -> Result<Facts, BearerError> {
        let read = Unverified::read(token)?;
        if !read.is_from(self.config.issuer.as_str()) {
            return Err(BearerError::Issuer);
        }
        let facts = read.check(&self.config, now)?;
        read.verify(keys).map(|()| facts)
    }

    fn refused(&self, token: &str) -> BearerError {
        self.judge(token).err().expect("a refusal")
    }

    fn passed(&self, token: &str, at: Timestamp) -> Arc<AccessToken> {
        let facts = self.judge_with(token, &self.keys(), at).unwrap();
        Arc::new(AccessToken::of(token, facts, &self.config, at))
    }
}

fn header() -> Value {
    json!({"alg": "ES256", "typ": "at+jwt", "kid": "one"})
}

fn claims() -> Value {
    json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "client_id": "erp",
        "iat": NOW.as_seconds() - 10, "exp": NOW.as_seconds() + 300, "jti": "1"})
}

fn changed(mut object: Value, change: &Value) -> Value {
    let members = object.as_object_mut().unwrap();
    for (name, value) in change.as_object().unwrap() {
        if value.is_null() {
            members.remove(name);
        } else {
            members.insert(name.clone(), value.clone());
        }
    }
    object
}

#[test]
fn a_users_token_is_the_user_and_a_clients_own_is_a_service() {
    let world = World::new();
    let change = json!({"groups": ["customers"], "tenant": "acme", "scope": "orders:read  x",
        "acr": "mfa", "auth_time": 7});
    let facts = world.judge(&world.with_claims(&change)).unwrap();
    assert!(!facts.principal.is_service());
    assert_eq!(&*facts.principal.id, "idp/ada");
    assert_eq!(facts.principal.tenant.as_deref(), Some("acme"));
    assert_eq!(facts.authentication.acr.as_deref(), Some("mfa"));
    assert_eq!(facts.authentication.client.as_deref(), Some("erp"));
    let scopes: Vec<&str> = facts.authentication.scopes.iter().map(|scope| &**scope).collect();
    assert_eq!(scopes, ["orders:read", "x"]);
    assert_eq!(facts.expires, NOW.plus(Duration::from_secs(300)));

    let facts = world.judge(&world.with_claims(&json!({"sub": "erp"}))).unwrap();
    assert!(facts.principal.is_service());
    assert_eq!(&*facts.principal.id, "idp/erp");
    assert_eq!(facts.authentication.auth_time, None);
}

#[test]
fn every_forged_token_is_refused() {
    let world = World::new();
    let good = world.with_claims(&json!({}));
    assert!(world.judge(&good).is_ok());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (head, body) = signed.split_once('.').unwrap();
    let other = World::new();

    // HMAC with what everybody can read as its key (RFC 8725, section 2.1).
    let public = world.keys();
    let secret = serde_json::to_vec(&public).unwrap();
    let hs256 =
        format!("{}.{body}", base64(changed(header(), &json!({"alg": "HS256"})).to_string()));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret);
    let hs256 = format!("{hs256}.{}", base64(aws_lc_rs::hmac::sign(&key, hs256.as_bytes())));

    let none = |alg: &str| {
        format!("{}.{body}.", base64(changed(header(), &json!({"alg": alg})).to_string()))
    };
    let header_with = |change: Value| world.with_header(&change);
    let own_key = other.jwk("one");
    let table = [
        ("no algorithm", none("none"), BearerError::Algorithm),
        ("no algorithm, otherwise written", none("nOnE"), BearerError::Algorithm),
        ("an absent algorithm", header_with(json!({"alg": null})), BearerError::Algorithm),
        ("a shared secret", hs256, BearerError::Algorithm),
        ("an unknown algorithm", header_with(json!({"alg": "ES256K"})), BearerError::Algorithm),
        (
            "another algorithm than the key's",
            header_with(json!({"alg": "RS256"})),
            BearerError::UnknownKey,
        ),
        ("an ID token", header_with(json!({"typ": "JWT"})), BearerError::Type),
        ("no type", header_with(json!({"typ": null})), BearerError::Type),
        ("a logout token", header_with(json!({"typ": "logout+jwt"})), BearerError::Type),
        ("a type that is no text", header_with(json!({"typ": ["at+jwt"]})), BearerError::Malformed),
        (
            "an embedded key",
            other.sign(&changed(header(), &json!({"jwk": own_key})), &claims()),
            BearerError::Header,
        ),
        (
            "a key's address",
            header_with(json!({"jku": "https://evil.example/jwks"})),
            BearerError::Header,
        ),
        (
            "a certificate's address",
            header_with(json!({"x5u": "https://evil.example/c"})),
            BearerError::Header,
        ),
        ("an embedded certificate", header_with(json!({"x5c": ["MII"]})), BearerError::Header),
        (
            "something critical",
            header_with(json!({"crit": ["exp"], "exp": 1})),
            BearerError::Header,
        ),
        ("an unknown key", header_with(json!({"kid": "two"})), BearerError::UnknownKey),
        (
            "a kid that is a path",
            header_with(json!({"kid": "../../dev/null"})),
            BearerError::UnknownKey,
        ),
        ("another's signature", other.with_claims(&json!({})), BearerError::Signature),
        ("no signature", format!("{signed}."), BearerError::Signature),
        ("a signature in DER", format!("{signed}.{}", base64([0x30; 70])), BearerError::Signature),
        ("a signature of zeros", format!("{signed}.{}", base64([0; 64])), BearerError::Signature),
        (
            "other claims",
            format!(
                "{head}.{}.{signature}",
                base64(changed(claims(), &json!({"sub": "eve"})).to_string())
            ),
            BearerError::Signature,
        ),
        (
            "another issuer",
            world.with_claims(&json!({"iss": "https://evil.example"})),
            BearerError::Issuer,
        ),
        (
            "the issuer with a slash",
            world.with_claims(&json!({"iss": "https://id.example/"})),
            BearerError::Issuer,
        ),
        ("a list of issuers", world.with_claims(&json!({"iss": [ISSUER]})), BearerError::Issuer),
        ("another audience", world.with_claims(&json!({"aud": "gate"})), BearerError::Audience),
        ("no audience in a list", world.with_claims(&json!({"aud": []})), BearerError::Audience),
        (
            "an audience in another case",
            world.with_claims(&json!({"aud": "https://Portal.example"})),
            BearerError::Audience,
        ),
        ("expired", world.with_claims(&json!({"exp": NOW.as_seconds()})), BearerError::Expired),
        (
            "expired before time began",
            world.with_claims(&json!({"exp": i64::MIN})),
            BearerError::Expired,
        ),
        (
            "not yet valid",
            world.with_claims(&json!({"nbf": NOW.as_seconds() + 61})),
            BearerError::Early,
        ),
        (
            "issued in the future",
            world.with_claims(&json!({"iat": NOW.as_seconds() + 61})),
            BearerError::Early,
        ),
        (
            "bound to a key",
            world.with_claims(&json!({"cnf": {"jkt": "x"}})),
            BearerError::Confirmation,
        ),
        (
            "bound in two ways",
            world.with_claims(&json!({"cnf": {"jkt": "x", "x5t#S256": base64([1; 32])}})),
            BearerError::Confirmation,
        ),
        (
            "bound to half a hash",
            world.with_claims(&json!({"cnf": {"x5t#S256": base64([1; 16])}})),
            BearerError::Confirmation,
        ),
        (
            "claims that are no object",
            world.sign_text(&header().to_string(), "[]"),
            BearerError::Malformed,
        ),
        ("four parts", format!("{good}.x"), BearerError::Malformed),
        ("encrypted", "a.b.c.d.e".into(), BearerError::Malformed),
        ("padded", format!("{head}=.{body}.{signature}"), BearerError::Malformed),
        ("a blank inside", format!("{head}. {body}.{signature}"), BearerError::Malformed),
        ("nothing", String::new(), BearerError::Malformed),
        (
            "oversized",
            world.with_claims(&json!({"x": "x".repeat(MAX_TOKEN)})),
            BearerError::TooLarge,
        ),
    ];
    for (what, token, error) in table {
        assert_eq!(world.refused(&token), error, "{what}");
    }
    for name in ["aud", "exp", "iat", "sub", "client_id"] {
        let token = world.with_claims(&json!({name: null}));
        let error = BearerError::Claim(ClaimError::Missing(name.into()));
        assert_eq!(world.refused(&token), error, "without {name}");
        let token = world.with_claims(&json!({name: {"a": 1}}));
        let error = BearerError::Claim(ClaimError::Type(name.into()));
        assert_eq!(world.refused(&token), error, "{name} of another type");
    }
}

#[test]
fn a_token_that_names_something_twice_is_refused() {
    let world = World::new();
    let (header, claims) = (header().to_string(), claims().to_string());
    let twice = |object: &str, member: &str| object.replacen('{', &format!("{{{member},"), 1);
    for (head, body) in [
        (twice(&header, r#""alg":"ES256""#), claims.clone()),
        (twice(&header, r#""kid":"two""#), claims.clone()),
        (header.clone(), twice(&claims, r#""sub":"eve""#)),
        (header.clone(), twice(&claims, r#""\u0061ud":"gate""#)),
        (header.clone(), twice(&claims, r#""cnf":{"jkt":1,"jkt":2}"#)),
    ] {
        assert_eq!(world.refused(&world.sign_text(&head, &body)), BearerError::Malformed, "{head}");
    }
}

#[test]
fn one_key_alone_may_have_signed_it() {
    let world = World::new();
    let token = world.with_header(&json!({"kid": null}));
    assert!(world.judge(&token).is_ok());
    let set = |keys: Value| serde_json::from_value(json!({ "keys": keys })).unwrap();
    let several = set(json!([world.jwk("one"), World::new().jwk("two")]));
    let judged = |token: &str, keys| world.judge_with(token, keys, NOW).map(|_| ());
    assert_eq!(judged(&token, &several), Err(BearerError::Signature));
    assert_eq!(judged(&world.with_header(&json!({})), &several), Ok(()));
    let mut for_encryption = world.jwk("one");
    for_encryption["use"] = "enc".into();
    let keys = set(json!([for_encryption]));
    assert_eq!(judged(&token, &keys), Err(BearerError::UnknownKey));
    assert_eq!(judged(&token, &set(json!([]))), Err(BearerError::UnknownKey));
}

#[test]
fn clocks_may_differ_by_a_minute_and_an_end_is_an_end() {
    let world = World::new();
    let seconds = NOW.as_seconds();
    assert!(world.judge(&world.with_claims(&json!({"iat": seconds + 60}))).is_ok());
    assert!(world.judge(&world.with_claims(&json!({"nbf": seconds + 60}))).is_ok());
    let token = world.with_claims(&json!({"exp": seconds + 1}));
    let end = Timestamp::from_seconds(seconds + 1);
    let before = Timestamp::from_millis(end.as_millis() - 1);
    assert!(world.judge_with(&token, &world.keys(), before).is_ok());
    let after = world.judge_with(&token, &world.keys(), end).map(|_| ());
    assert_eq!(after, Err(BearerError::Expired));
}

#[test]
fn a_bound_token_needs_its_certificate() {
    let world = World::new();
    let certificate = b"a certificate's DER";
    let hash = digest::digest(&digest::SHA256, certificate);
    let token = world.with_claims(&json!({"cnf": {"x5t#S256": base64(hash)}}));
    let bound = world.passed(&token, NOW);
    assert_eq!(bound.check_binding(Some(certificate)), Ok(()));
    assert_eq!(bound.check_binding(Some(b"another's")), Err(BearerError::Certificate));
    assert_eq!(bound.check_binding(None), Err(BearerError::Certificate));
    let free = world.passed(&world.with_claims(&json!({})), NOW);
    assert_eq!(free.check_binding(None), Ok(()));
}

#[test]
fn a_known_token_is_good_until_it_ends_or_its_key_has_to_be_asked_for_again() {
    let world = World::new();
    let bearers = Bearers::default();
    let short = world.with_claims(&json!({}));
    let long = world.with_claims(&json!({"exp": NOW.as_seconds() + 86_400}));
    assert!(bearers.known(&short, NOW).is_none());
    for token in [&short, &long] {
        bearers.cache.insert(&world.passed(token, NOW), NOW);
    }
    let known = |token: &str, seconds| {
        bearers.known(token, NOW.plus(Duration::from_secs(seconds))).is_some()
    };
    assert!(known(&short, 0) && known(&short, 299) && !known(&short, 300));
    assert!(known(&long, 3599) && !known(&long, 3600));
    // One letter more is another token.
    assert!(!known(&format!("{short}A"), 0));
}

#[test]
fn known_tokens_are_bounded() {
    let world = World::new();
    let cache = Cache::default();
    let token = world.passed(&world.with_claims(&json!({})), NOW);
    for number in 0..2 * u32::try_from(cache::MAX_IN_STRIPE).unwrap() {
        let mut id = [0; 32];
        id[1..5].copy_from_slice(&number.to_be_bytes());
        let token = AccessToken {
            id: SessionId(id),
            principal: Arc::clone(&token.principal),
            authentication: Arc::clone(&token.authentication),
            audiences: token.audiences.clone(),
            issuer: Arc::clone(&token.issuer),
            ..*token
        };
        cache.insert(&Arc::new(token), NOW);
        assert!(cache.len() <= cache::MAX_IN_STRIPE);
    }
    assert_eq!(cache.len(), cache::MAX_IN_STRIPE, "all expired at once would be too");
}

#[test]
fn tokens_of_one_principal_share_and_a_user_is_never_a_service_of_the_same_name() {
    let world = World::new();
    let first = world.passed(&world.with_claims(&json!({"jti": "1"})), NOW);
    let second = world.passed(&world.with_claims(&json!({"jti": "2"})), NOW);
    assert_ne!(first.id, second.id);
    assert_eq!(first.share, second.share);
    let user = world.passed(&world.with_claims(&json!({"sub": "x"})), NOW);
    let service = json!({"sub": "x", "client_id": "x"});
    let service = world.passed(&world.with_claims(&service), NOW);
    assert_eq!(user.principal.id, service.principal.id);
    assert_ne!(user.share, service.share);
}

#[test]
fn a_token_outlives_its_issuers_configuration_for_nothing_that_matters() {
    let world = World::new();
    let token = world.passed(&world.with_claims(&json!({})), NOW);
    let provider = |change: &dyn Fn(&mut IdentityProvider)| {
        let mut config = IdentityProvider::clone(&world.config);
        change(&mut config);
        Arc::new(config)
    };
    let trusted = |config: &Arc<IdentityProvider>| still_trusts(config, &token.issuer);
    assert!(trusted(&provider(&|_| {})));
    assert!(trusted(&provider(&|config| config.display_name = "Another".into())));
    for change in [
        &|config: &mut IdentityProvider| config.access_tokens = None,
        &|config| config.name = "other".into(),
        &|config| config.issuer = IssuerUrl::parse("https://other.example").unwrap(),
        &|config| config.claims.groups = "roles".into(),
    ] as [&dyn Fn(&mut IdentityProvider); 4]
    {
        assert!(!trusted(&provider(change)));
    }
}

#[test]
fn a_request_brings_one_token_or_none() {
    let headers = |values: &[&'static str]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_static(value));
        }
        headers
    };
    assert_eq!(presented(&headers(&[])), Ok(None));
    assert_eq!(presented(&headers(&["Bearer a.b.c"])), Ok(Some("a.b.c")));
    assert_eq!(presented(&headers(&["bEARER  a.b.c "])), Ok(Some("a.b.c")));
    for other in ["Basic YTpi", "DPoP a.b.c", "Bearer", "", "Bearera.b.c", "Bearer\ta.b.c"] {
        assert_eq!(presented(&headers(&[other])), Err(BearerError::Scheme), "{other}");
    }
    let twice = headers(&["Bearer a.b.c", "Bearer a.b.c"]);
    assert_eq!(presented(&twice), Err(BearerError::Malformed));
    // Neither of the two is believed.
    let both = headers(&["Bearer a.b.c, Bearer d.e.f"]);
    assert!(presented(&both).unwrap().is_some_and(|token| Unverified::read(token).is_err()));
}

#[test]
fn nothing_of_a_token_shows_when_it_is_printed() {
    let world = World::new();
    let text = world.with_claims(&json!({}));
    let token = world.passed(&text, NOW);
    let printed = format!("{token:?}");
    let (signed, signature) = text.rsplit_once('.').unwrap();
    assert!(!printed.contains(signature) && !printed.contains(signed), "{printed}");
}
