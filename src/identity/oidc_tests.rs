//! Logins against a small provider that misbehaves as told.

mod refresh;
mod revocation;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::header::{COOKIE, HeaderMap, HeaderValue};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use url::Url;

use super::login::{LoginStates, Part};
use super::oidc::{Login, LoginError, LoginRedirect, LoginStart, Provider};
use super::providers::{Callback, Providers};
use super::seal::Sealer;
use crate::config::model::{
    ClaimNames, ClientAuthentication, IdentityProvider, Issuer, Refresh, SecretMethod,
};
use crate::config::secret::Secret;
use crate::domain::canonical::Authority;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::step_up::StepUp;
use crate::store::{MemoryStore, Space, Store};

const NOW: i64 = 1_800_000_000;

type Change = Box<dyn Fn(&mut Value) + Send>;

/// What the provider answers; tests bend it.
struct Script {
    issuer: String,
    key: EncodingKey,
    jwk: Value,
    nonce: String,
    metadata: Option<Change>,
    claims: Option<Change>,
    /// Replaces the whole ID token.
    token: Option<String>,
    kid: Option<&'static str>,
    userinfo: Option<Value>,
    /// Status and body of the token endpoint.
    tokens: Option<(u16, Change)>,
    down: bool,
    /// Replaces the key set.
    keys: Option<Value>,
    /// What the token endpoint, or that for revocation, was asked last.
    asked: String,
    /// Status and body of the endpoint for revocation.
    revoked: (u16, Value),
    /// Codes are never answered.
    silent: bool,
    /// Those that were not.
    codes: usize,
}

struct World {
    provider: Arc<Provider>,
    providers: Providers,
    script: Arc<Mutex<Script>>,
    key_fetches: Arc<AtomicUsize>,
    clock: Clock,
    store: Arc<dyn Store>,
}

fn new_key(kid: &str) -> (EncodingKey, Value) {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let key = EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref());
    let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
    let mut jwk = serde_json::to_value(jwk).unwrap();
    jwk["kid"] = kid.into();
    jwk["use"] = "sig".into();
    (key, jwk)
}

impl Script {
    fn is_silent(&mut self, asked: &str) -> bool {
        let silent = self.silent && asked.contains("grant_type=authorization_code");
        self.codes += usize::from(silent);
        silent
    }

    fn answer(&self, path: &str) -> (u16, Value) {
        let issuer = &self.issuer;
        match path {
            _ if self.down => (500, json!({})),
            "/.well-known/openid-configuration" => {
                let mut metadata = json!({
                    "issuer": issuer, "authorization_endpoint": format!("{issuer}/auth"),
                    "token_endpoint": format!("{issuer}/token"), "jwks_uri": format!("{issuer}/jwks"),
                    "userinfo_endpoint": format!("{issuer}/userinfo"),
                    "end_session_endpoint": format!("{issuer}/end"),
                    "response_types_supported": ["code"], "subject_types_supported": ["public"],
                    "id_token_signing_alg_values_supported": ["ES256"],
                });
                self.metadata.iter().for_each(|change| change(&mut metadata));
                (200, metadata)
            }
            "/jwks" => (200, self.keys.clone().unwrap_or_else(|| json!({"keys": [self.jwk]}))),
            "/token" => {
                let mut claims = json!({
                    "iss": issuer, "aud": "gate", "sub": "ada", "nonce": self.nonce,
                    "iat": NOW, "exp": NOW + 300, "email": "ada@acme.example",
                    "email_verified": true, "name": "Ada", "groups": ["customers"],
                    "tenant": "acme", "sid": "s1", "acr": "mfa",
                });
                self.claims.iter().for_each(|change| change(&mut claims));
                let mut header = Header::new(Algorithm::ES256);
                header.kid = self.kid.map(str::to_owned);
                let token = self
                    .token
                    .clone()
                    .unwrap_or_else(|| jsonwebtoken::encode(&header, &claims, &self.key).unwrap());
                let mut tokens =
                    json!({"access_token": "at", "token_type": "Bearer", "id_token": token});
                let Some((status, change)) = &self.tokens else { return (200, tokens) };
                change(&mut tokens);
                (*status, tokens)
            }
            "/revoke" => self.revoked.clone(),
            "/userinfo" => (200, self.userinfo.clone().unwrap_or_default()),
            _ => (404, json!({})),
        }
    }
}

async fn serve(
    listener: tokio::net::TcpListener,
    script: Arc<Mutex<Script>>,
    keys: Arc<AtomicUsize>,
) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let (script, keys) = (Arc::clone(&script), Arc::clone(&keys));
        tokio::spawn(async move {
            let mut seen = Vec::new();
            let mut buffer = [0u8; 4096];
            while !seen.windows(4).any(|window| window == b"\r\n\r\n") {
                match stream.read(&mut buffer).await {
                    Ok(read) if read > 0 => seen.extend_from_slice(&buffer[..read]),
                    _ => return,
                }
            }
            let length = |text: &str| -> usize {
                let line = text.lines().find_map(|line| line.strip_prefix("content-length: "));
                line.map_or(0, |length| length.parse().unwrap())
            };
            let mut text = String::from_utf8_lossy(&seen).into_owned();
            while text.split_once("\r\n\r\n").unwrap().1.len() < length(&text) {
                let read = stream.read(&mut buffer).await.unwrap();
                text.push_str(&String::from_utf8_lossy(&buffer[..read]));
            }
            let path = text.split(' ').nth(1).unwrap_or_default();
            if path == "/token" || path == "/revoke" {
                script.lock().asked.clone_from(&text);
            }
            if script.lock().is_silent(&text) {
                std::future::pending::<()>().await;
            }
            if path == "/jwks" {
                keys.fetch_add(1, Ordering::SeqCst);
            }
            let (status, body) = script.lock().answer(path);
            let body = body.to_string();
            let answer = format!(
                "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
                 connection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        });
    }
}

impl World {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut IdentityProvider)) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let (key, jwk) = new_key("k1");
        let script = Arc::new(Mutex::new(Script {
            issuer: issuer.clone(),
            key,
            jwk,
            nonce: String::new(),
            metadata: None,
            claims: None,
            token: None,
            kid: Some("k1"),
            userinfo: None,
            tokens: None,
            down: false,
            keys: None,
            asked: String::new(),
            revoked: (200, json!({})),
            silent: false,
            codes: 0,
        }));
        let key_fetches = Arc::new(AtomicUsize::new(0));
        tokio::spawn(serve(listener, Arc::clone(&script), Arc::clone(&key_fetches)));
        let clock = Clock::manual(Timestamp::from_seconds(NOW));
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let logins =
            LoginStates::load_or_create(Arc::clone(&store), Sealer::fixed(), clock.clone())
                .await
                .unwrap();
        let mut config = IdentityProvider {
            name: "idp".into(),
            display_name: "IdP".into(),
            issuer: Issuer::parse(&issuer).unwrap(),
            client_id: "gate".into(),
            client: ClientAuthentication::Public,
            parameters: Vec::new(),
            own_callback: false,
            access_tokens: None,
            refresh: Some(Refresh::default()),
            scopes: vec!["openid".into(), "email".into()],
            ca: None,
            claims: ClaimNames::default(),
            asks_userinfo: true,
            revokes_tokens: true,
            step_up: Vec::new(),
            timeout: Duration::from_secs(20),
        };
        change(&mut config);
        let logins = Arc::new(logins);
        let provider = Provider::new(Arc::new(config), Arc::clone(&logins), clock.clone()).unwrap();
        let provider = Arc::new(provider);
        let providers = Providers::new(vec![Arc::clone(&provider)], logins);
        Self { provider, providers, script, key_fetches, clock, store }
    }

    fn host() -> Authority {
        Authority::parse("portal.example").unwrap()
    }

    async fn begin(&self) -> Result<(String, HeaderMap), LoginError> {
        self.begin_step_up(None).await.map(|(query, cookies, _)| (query, cookies))
    }

    async fn begin_step_up(
        &self,
        step_up: Option<&StepUp>,
    ) -> Result<(String, HeaderMap, Url), LoginError> {
        self.begin_as(step_up, false).await
    }

    async fn begin_as_one_of(&self, several: bool) -> Result<(String, HeaderMap), LoginError> {
        self.begin_as(None, several).await.map(|(query, cookies, _)| (query, cookies))
    }

    async fn begin_as(
        &self,
        step_up: Option<&StepUp>,
        several: bool,
    ) -> Result<(String, HeaderMap, Url), LoginError> {
        let (host, headers, return_to) = (Self::host(), HeaderMap::new(), "/orders");
        let start = LoginStart {
            host: &host,
            return_to,
            step_up,
            headers: &headers,
            several,
            part: Part::Whole,
        };
        let LoginRedirect { location, set_cookie } = self.provider.begin(&start).await?;
        let of = |name: &str| {
            let url = Url::parse(&location).unwrap();
            url.query_pairs().find(|(key, _)| key == name).unwrap().1.into_owned()
        };
        assert_eq!(of("code_challenge_method"), "S256");
        self.script.lock().nonce = of("nonce");
        let mut cookies = HeaderMap::new();
        let pair = set_cookie[0].to_str().unwrap().split(';').next().unwrap().to_owned();
        cookies.append(COOKIE, HeaderValue::from_str(&pair).unwrap());
        Ok((of("state"), cookies, Url::parse(&location).unwrap()))
    }

    async fn finish(&self, query: &str, cookies: &HeaderMap) -> Result<Login, LoginError> {
        self.finish_from(1, query, cookies).await
    }

    /// From 192.0.2.`last`.
    async fn finish_from(
        &self,
        last: u8,
        query: &str,
        cookies: &HeaderMap,
    ) -> Result<Login, LoginError> {
        let (host, query, source) = (Self::host(), Some(query), [192, 0, 2, last].into());
        let callback = Callback { host: &host, of: None, query, headers: cookies, source };
        self.providers.finish(&callback).await
    }

    async fn login(&self) -> Result<Login, LoginError> {
        let (state, cookies) = self.begin().await?;
        self.finish(&format!("code=c&state={state}"), &cookies).await
    }

    fn claims(&self, change: impl Fn(&mut Value) + Send + 'static) {
        self.script.lock().claims = Some(Box::new(change));
    }

    async fn refused(&self, reason: &str) {
        match self.login().await {
            Err(LoginError::Invalid(said)) => assert!(said.contains(reason), "{said}"),
            other => panic!("expected `{reason}`, got {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_good_login_brings_the_principal_and_the_way_back() {
    let world = World::new().await;
    let login = world.login().await.unwrap();
    assert_eq!(login.principal.id.as_ref(), "idp/ada");
    assert_eq!(login.principal.email.as_deref(), Some("ada@acme.example"));
    assert_eq!(login.return_to, "/orders");
    assert_eq!(login.sid.as_deref(), Some("s1"));
    let url = world.provider.end_session_url(login.id_token.as_ref(), &World::host(), "x");
    assert!(url.unwrap().contains("/end?id_token_hint="));
}

#[tokio::test]
async fn each_wrong_claim_of_an_id_token_is_refused() {
    let world = World::new().await;
    for (name, value, reason) in [
        ("iss", json!("https://evil.example"), "another issuer"),
        ("aud", json!("other"), "another client"),
        ("aud", json!(["gate", "other"]), "another client"),
        ("azp", json!("other"), "another client"),
        ("exp", json!(NOW - 60), "expired"),
        ("iat", json!(NOW + 61), "future"),
        ("nbf", json!(NOW + 61), "future"),
        ("nonce", json!("other"), "nonce"),
        ("nonce", json!(null), "nonce"),
        ("at_hash", json!("AAAAAAAAAAAAAAAAAAAAAA"), "at_hash"),
        ("sub", json!(""), "`sub` is missing"),
    ] {
        world.claims(move |claims| claims[name] = value.clone());
        world.refused(reason).await;
    }
    // Within the leeway, and with a further audience that `azp` accounts for.
    world.claims(|claims| {
        claims["exp"] = json!(NOW - 59);
        claims["iat"] = json!(NOW + 60);
        claims["aud"] = json!(["gate", "other"]);
        claims["azp"] = json!("gate");
    });
    world.login().await.unwrap();
}

#[tokio::test]
async fn an_unsigned_a_foreign_and_a_symmetric_signature_are_refused() {
    let world = World::new().await;
    let claims = json!({"iss": world.script.lock().issuer, "aud": "gate", "sub": "ada",
        "iat": NOW, "exp": NOW + 300});
    let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let none = format!("{}.{}.", encode(&json!({"alg": "none"})), encode(&claims));
    let hs = jsonwebtoken::encode(
        &Header::new(Algorithm::HS256),
        &claims,
        &EncodingKey::from_secret(b"gate"),
    )
    .unwrap();
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some("k1".into());
    let foreign = jsonwebtoken::encode(&header, &claims, &new_key("k1").0).unwrap();
    for token in [none, hs, foreign] {
        world.script.lock().token = Some(token);
        let refused = world.login().await;
        assert!(matches!(refused, Err(LoginError::Invalid(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn a_callback_works_once_in_its_browser_and_from_its_issuer() {
    let world = World::new().await;
    let (state, cookies) = world.begin().await.unwrap();
    let query = format!("code=c&state={state}");
    for (query, cookies) in [
        (query.clone(), HeaderMap::new()),
        (format!("{query}&state={state}"), cookies.clone()),
        (format!("{query}&code=d"), cookies.clone()),
        (format!("{query}&iss=https%3A%2F%2Fevil.example"), cookies.clone()),
        ("code=c".to_owned(), cookies.clone()),
    ] {
        let refused = world.finish(&query, &cookies).await;
        assert!(matches!(refused, Err(LoginError::Invalid(_))), "{query}");
    }
    world.finish(&query, &cookies).await.unwrap();
    let replayed = world.finish(&query, &cookies).await;
    assert!(matches!(replayed, Err(LoginError::Invalid(reason)) if reason.contains("used before")));
}

#[tokio::test]
async fn a_promised_issuer_may_not_be_missing_from_the_callback() {
    let world = World::new().await;
    world.script.lock().metadata = Some(Box::new(|metadata| {
        metadata["authorization_response_iss_parameter_supported"] = true.into();
    }));
    world.refused("does not name its issuer").await;
    let (state, cookies) = world.begin().await.unwrap();
    let issuer = world.script.lock().issuer.clone();
    world.finish(&format!("code=c&state={state}&iss={issuer}"), &cookies).await.unwrap();
}

#[tokio::test]
async fn the_providers_no_is_not_an_invalid_callback() {
    let world = World::new().await;
    let (state, cookies) = world.begin().await.unwrap();
    let query = format!("error=access_denied%0d%0a<b>&state={state}");
    let refused = world.finish(&query, &cookies).await;
    assert!(matches!(refused, Err(LoginError::Rejected(code)) if code == "access_deniedb"));
    let nothing = world.finish(&format!("state={state}"), &cookies).await;
    assert!(matches!(nothing, Err(LoginError::Invalid(_))));
    assert_eq!(world.store.scan(Space::Logins, b"").await, Ok(vec![]), "nothing was written");
}

#[tokio::test]
async fn a_provider_that_is_down_or_another_is_unavailable() {
    let world = World::new().await;
    assert_eq!(world.provider.is_reachable(), None);
    world.script.lock().down = true;
    assert_eq!(world.login().await.unwrap_err().status(), 503);
    assert_eq!(world.provider.is_reachable(), Some(false));
    world.script.lock().down = false;
    // Not asked again at once.
    assert_eq!(world.login().await.unwrap_err().status(), 503);
    world.clock.advance(Duration::from_secs(1));
    world.script.lock().metadata =
        Some(Box::new(|metadata| metadata["issuer"] = "https://evil.example".into()));
    assert_eq!(world.login().await.unwrap_err().status(), 503);
}

#[tokio::test]
async fn a_new_key_is_fetched_once_and_a_flood_of_unknown_ones_is_not() {
    let world = World::new().await;
    world.login().await.unwrap();
    assert_eq!(world.key_fetches.load(Ordering::SeqCst), 1);
    let (key, jwk) = new_key("k2");
    {
        let mut script = world.script.lock();
        (script.key, script.jwk, script.kid) = (key, jwk, Some("k2"));
    }
    world.login().await.unwrap();
    assert_eq!(world.key_fetches.load(Ordering::SeqCst), 2);
    world.script.lock().kid = Some("k3");
    for _ in 0..5 {
        world.refused("no key").await;
    }
    assert_eq!(world.key_fetches.load(Ordering::SeqCst), 2);
    world.clock.advance(Duration::from_secs(30));
    world.refused("no key").await;
    assert_eq!(world.key_fetches.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn userinfo_of_another_subject_is_refused() {
    let world = World::new().await;
    world.claims(|claims| claims["tenant"] = Value::Null);
    world.claims(|claims| {
        claims.as_object_mut().unwrap().remove("tenant");
    });
    world.script.lock().userinfo = Some(json!({"sub": "grace", "tenant": "globex"}));
    world.refused("another subject").await;
    world.script.lock().userinfo = Some(json!({"sub": "ada", "tenant": "globex"}));
    assert_eq!(world.login().await.unwrap().principal.tenant.as_deref(), Some("globex"));
}

#[tokio::test]
async fn userinfo_is_not_asked_where_the_configuration_says_so() {
    let world = World::with(|config| config.asks_userinfo = false).await;
    world.claims(|claims| {
        claims.as_object_mut().unwrap().remove("tenant");
    });
    world.script.lock().userinfo = Some(json!({"sub": "ada", "tenant": "globex"}));
    assert_eq!(world.login().await.unwrap().principal.tenant, None);
}

#[tokio::test]
async fn a_sign_in_that_is_not_what_was_asked_for_makes_no_session() {
    let world = World::new().await;
    let asked = StepUp { acr: Some("phr".into()), max_age: Some(60), ..StepUp::default() };
    let mut seen = Vec::new();
    for (acr, auth_time) in [
        (json!("phr"), json!(NOW - 60)),
        (json!("mfa"), json!(NOW)),
        (json!(null), json!(NOW)),
        (json!("phr"), json!(NOW - 61)),
        (json!("phr"), json!(null)),
    ] {
        let (state, cookies, location) = world.begin_step_up(Some(&asked)).await.unwrap();
        let query = location.query().unwrap();
        assert!(
            query.contains("&acr_values=phr&max_age=60") && !query.contains("prompt"),
            "{query}"
        );
        world.claims(move |claims| {
            claims["acr"] = acr.clone();
            claims["auth_time"] = auth_time.clone();
        });
        let login = world.finish(&format!("code=c&state={state}"), &cookies).await;
        seen.push(match login {
            Ok(_) => "taken",
            Err(LoginError::NotSteppedUp(_)) => "refused",
            Err(_) => "failed",
        });
    }
    assert_eq!(seen, ["taken", "refused", "refused", "refused", "refused"]);
    let fresh = StepUp { max_age: Some(60), ..StepUp::default() };
    let (_, _, location) = world.begin_step_up(Some(&fresh)).await.unwrap();
    assert!(location.query().unwrap().ends_with("&max_age=60&prompt=login"));
}

#[tokio::test]
async fn keys_serve_without_the_provider_until_they_are_a_day_old_and_then_nobody_signs_in() {
    let world = World::new().await;
    world.login().await.unwrap();
    let many: Vec<Value> = (0..101).map(|_| world.script.lock().jwk.clone()).collect();
    let deep = format!("{}{}", "[".repeat(40), "]".repeat(40));
    let deep: Value = serde_json::from_str(&deep).unwrap();
    let (_, mut other) = new_key("k9");
    other["x5c"] = json!(["x".repeat(300 * 1024)]);
    for (hour, keys) in (1..).zip([
        json!({"keys": []}),
        json!({"keys": many}),
        json!({"keys": [world.script.lock().jwk], "more": deep}),
        json!({"keys": [other]}),
        json!("no key set"),
    ]) {
        world.script.lock().keys = Some(keys.clone());
        world.clock.advance(Duration::from_secs(3600));
        world.script.lock().claims = Some(Box::new(move |claims| {
            claims["iat"] = json!(NOW + hour * 3600);
            claims["exp"] = json!(NOW + hour * 3600 + 60);
        }));
        world.login().await.unwrap_or_else(|error| panic!("{hour}: {error}"));
        assert_eq!(world.provider.is_reachable(), Some(false), "{hour}");
    }
    assert_eq!(world.key_fetches.load(Ordering::SeqCst), 6);
    world.clock.advance(Duration::from_secs(19 * 3600));
    let closed = world.login().await.unwrap_err();
    assert_eq!(closed.status(), 503, "{closed}");
}

#[tokio::test]
async fn of_several_providers_one_that_does_not_name_itself_needs_its_own_address() {
    let world = World::new().await;
    let refused = world.begin_as_one_of(true).await.unwrap_err();
    assert_eq!(refused.status(), 503);
    assert!(refused.to_string().contains("`callback` to `own`"), "{refused}");
    world.login().await.unwrap();

    let world = World::with(|config| config.own_callback = true).await;
    let (state, cookies) = world.begin_as_one_of(true).await.unwrap();
    let query = format!("code=c&state={state}");
    let (host, source) = (World::host(), [192, 0, 2, 1].into());
    let came_to = |of| Callback { host: &host, of, query: Some(&query), headers: &cookies, source };
    for of in [None, Some("other")] {
        let refused = world.providers.finish(&came_to(of)).await.unwrap_err();
        assert!(refused.to_string().contains("another address"), "{refused}");
    }
    world.providers.finish(&came_to(Some("idp"))).await.unwrap();
    let asked = world.script.lock().asked.clone();
    assert!(
        asked.contains("redirect_uri=https%3A%2F%2Fportal.example%2F.wicketgate%2Fcallback%2Fidp")
    );
}

#[tokio::test]
async fn the_gate_identifies_itself_as_it_is_configured() {
    let secret = || Secret::new("hunter2");
    let by = |method| ClientAuthentication::Secret { secret: secret(), method };
    let basic = "authorization: Basic Z2F0ZTpodW50ZXIy";
    for (client, expected, never) in [
        (ClientAuthentication::Public, "client_id=gate", "authorization: "),
        (by(None), basic, "client_secret"),
        (by(Some(SecretMethod::Basic)), basic, "client_secret"),
        (by(Some(SecretMethod::Post)), "client_secret=hunter2", "authorization: "),
    ] {
        let world = World::with(|config| config.client = client.clone()).await;
        world.login().await.unwrap();
        let asked = world.script.lock().asked.clone();
        assert!(
            asked.contains(expected) && asked.contains("code_verifier="),
            "{client:?}: {asked}"
        );
        assert!(!asked.to_ascii_lowercase().contains(never), "{client:?}: {asked}");
    }
}

#[tokio::test]
async fn further_parameters_go_along_but_not_in_the_place_of_the_gates_own() {
    let pairs = [("prompt", "select_account"), ("acr_values", "low"), ("ui_locales", "de")];
    let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let world = World::with(|config| config.parameters = pairs.to_vec()).await;
    let acr = StepUp { acr: Some("phr".into()), ..StepUp::default() };
    let fresh = StepUp { max_age: Some(60), ..StepUp::default() };
    for (step_up, prompt, acr) in [
        (None, "select_account", "low"),
        (Some(&acr), "select_account", "phr"),
        (Some(&fresh), "login", "low"),
    ] {
        let (_, _, location) = world.begin_step_up(step_up).await.unwrap();
        let said = |name: &str| -> Vec<String> {
            let pairs = location.query_pairs().filter(|(key, _)| key == name);
            pairs.map(|(_, value)| value.into_owned()).collect()
        };
        assert_eq!((said("prompt"), said("acr_values")), (vec![prompt.into()], vec![acr.into()]));
        assert_eq!((said("ui_locales").len(), said("state").len()), (1, 1));
    }
}
