//! An OpenID provider that misbehaves as it is told, and signs whatever a test wants signed.
//!
//! It speaks HTTP on the loopback address, answers each request on a connection of its own, and
//! behaves well until a test bends it: `rogue.bend(|world| world.claim("iss", json!("other")))`.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

use super::client::{Answer, Browser};
use super::gate::{Gate, Setup};
use super::provider::SECRET;
use super::raw::find;

pub const CLIENT: &str = "wicketgate";

/// Recognisable, so that a test can look for them where they must not be.
pub const ACCESS_TOKEN: &str = "an-access-token-that-nobody-may-ever-see";
pub const CODE: &str = "a-code-that-nobody-may-ever-see";

#[derive(Clone)]
pub struct Key {
    pub kid: Option<String>,
    pub algorithm: Algorithm,
    encoding: EncodingKey,
    /// Without `kid`.
    public: Value,
}

impl Key {
    pub fn es256(kid: &str) -> Self {
        let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
        Self::new(kid, Algorithm::ES256, EncodingKey::from_ec_pem(pem.as_bytes()).unwrap())
    }

    /// Made once for all tests of the process: it takes a while.
    pub fn rs256(kid: &str) -> Self {
        static PEM: LazyLock<String> = LazyLock::new(|| {
            rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap().serialize_pem()
        });
        Self::new(kid, Algorithm::RS256, EncodingKey::from_rsa_pem(PEM.as_bytes()).unwrap())
    }

    pub fn hs256(secret: &[u8]) -> Self {
        Self::new("hs", Algorithm::HS256, EncodingKey::from_secret(secret))
    }

    fn new(kid: &str, algorithm: Algorithm, encoding: EncodingKey) -> Self {
        let public = jsonwebtoken::jwk::Jwk::from_encoding_key(&encoding, algorithm).unwrap();
        let public = serde_json::to_value(public).unwrap();
        Self { kid: Some(kid.to_owned()), algorithm, encoding, public }
    }

    pub fn jwk(&self) -> Value {
        let mut jwk = self.public.clone();
        jwk["use"] = "sig".into();
        self.kid.iter().for_each(|kid| jwk["kid"] = kid.as_str().into());
        jwk
    }

    pub fn header(&self) -> Value {
        let mut header = json!({ "alg": format!("{:?}", self.algorithm) });
        self.kid.iter().for_each(|kid| header["kid"] = kid.as_str().into());
        header
    }

    /// A compact JWS of exactly this header and these claims.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encoded(header), encoded(claims));
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &self.encoding, self.algorithm);
        format!("{message}.{}", signature.unwrap())
    }
}

pub fn encoded(value: &Value) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(value.to_string())
}

/// Seconds since 1970.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

type Change = Box<dyn Fn(&mut Value) + Send>;
type Surprise = Box<dyn FnOnce(&mut World) + Send>;
type Forge = Box<dyn Fn(&Key, &Value, &Value) -> String + Send>;

/// What it does wrong, and what it is asked. Everything is well in the default.
#[derive(Default)]
pub struct Bend {
    pub metadata: Vec<Change>,
    pub keys: Vec<Change>,
    pub header: Vec<Change>,
    pub claims: Vec<Change>,
    /// In place of signing header and claims.
    pub forge: Option<Forge>,
    pub tokens: Vec<Change>,
    pub userinfo: Vec<Change>,
    /// By path: status, further header fields and body, in place of its own.
    pub answers: BTreeMap<&'static str, (u16, String, Vec<u8>)>,
    /// A path that is never answered.
    pub hangs: Option<&'static str>,
    /// Happens once, when a code is redeemed.
    pub at_token: Option<Surprise>,
}

impl Bend {
    pub fn claim(&mut self, name: &'static str, value: Value) {
        self.claims.push(Box::new(move |claims| claims[name] = value.clone()));
    }

    pub fn without_claims(&mut self, names: &'static [&'static str]) {
        self.claims.push(Box::new(move |claims| {
            let claims = claims.as_object_mut().unwrap();
            names.iter().for_each(|name| drop(claims.remove(*name)));
        }));
    }

    pub fn answer(&mut self, path: &'static str, status: u16, body: impl Into<Vec<u8>>) {
        self.answers.insert(path, (status, String::new(), body.into()));
    }
}

pub struct World {
    pub bend: Bend,
    /// What it publishes.
    pub published: Vec<Key>,
    /// What it signs with.
    pub key: Key,
    pub user: String,
    pub sid: Option<String>,
    nonce: String,
    logout_tokens: usize,
    /// Head and body of every request, by path.
    pub seen: Vec<(String, String)>,
}

#[derive(Clone)]
pub struct Rogue {
    pub issuer: String,
    world: Arc<Mutex<World>>,
}

impl Rogue {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let key = Key::rs256("k1");
        let world = Arc::new(Mutex::new(World {
            bend: Bend::default(),
            published: vec![key.clone()],
            key,
            user: "vera".to_owned(),
            sid: None,
            nonce: String::new(),
            logout_tokens: 0,
            seen: Vec::new(),
        }));
        let rogue = Self { issuer, world };
        let served = rogue.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let rogue = served.clone();
                tokio::spawn(async move { rogue.converse(stream).await });
            }
        });
        rogue
    }

    /// Makes it the provider of a gate.
    pub fn provides(&self, setup: Setup) -> Setup {
        let issuer = self.issuer.clone();
        setup.configure(move |config| {
            config["identity_providers"][0]["issuer"] = issuer.into();
            config["identity_providers"][0]["timeout"] = "1s".into();
        })
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub fn bend(&self, change: impl FnOnce(&mut Bend)) {
        change(&mut self.world().bend);
    }

    /// Does everything right again, with the keys that it has now.
    pub fn behave(&self) {
        self.world().bend = Bend::default();
    }

    /// How often a path was asked for.
    pub fn asked(&self, path: &str) -> usize {
        self.world().seen.iter().filter(|(head, _)| target(head) == path).count()
    }

    /// The last request for a path: its head and body.
    pub fn last(&self, path: &str) -> (String, String) {
        let world = self.world();
        let found = world.seen.iter().rev().find(|(head, _)| target(head) == path);
        found.unwrap_or_else(|| panic!("{path} was never asked for")).clone()
    }

    /// Has the gate begin a login: where it sends the browser.
    pub async fn begin(&self, browser: &mut Browser) -> Result<Url, Answer> {
        let answer = browser.get("/.wicketgate/login?start&return_to=/").await;
        if answer.status != 303 {
            return Err(answer);
        }
        let location = answer.location();
        assert!(location.as_str().starts_with(&self.issuer), "{location}");
        self.world().nonce = parameter(&location, "nonce");
        Ok(location)
    }

    /// A login that the gate began by itself.
    pub fn expect_nonce_of(&self, began: &Url) {
        self.world().nonce = parameter(began, "nonce");
    }

    /// The address that a browser comes back to after this login began.
    pub fn callback(&self, began: &Url) -> String {
        let issuer: String = url::form_urlencoded::byte_serialize(self.issuer.as_bytes()).collect();
        let state = parameter(began, "state");
        format!("/.wicketgate/callback?code={CODE}&state={state}&iss={issuer}")
    }

    /// A whole login: the answer to the callback, or the refusal to begin.
    pub async fn login(&self, browser: &mut Browser) -> Answer {
        match self.begin(browser).await {
            Ok(began) => browser.get(&self.callback(&began)).await,
            Err(refused) => refused,
        }
    }

    /// Signed in as this user, under this session of the provider's.
    pub async fn signed_in(&self, gate: &Gate, user: &str, sid: Option<&str>) -> Browser {
        let mut browser = gate.browser();
        self.sign_in(&mut browser, user, sid).await;
        browser
    }

    pub async fn sign_in(&self, browser: &mut Browser, user: &str, sid: Option<&str>) {
        {
            let mut world = self.world();
            (world.user, world.sid) = (user.to_owned(), sid.map(str::to_owned));
        }
        self.login(browser).await.expect(303);
        assert!(browser.session_cookie().is_some(), "no session for {user}");
    }

    /// The claims of a logout token of which nothing is wrong.
    pub fn logout(&self, sid: Option<&str>, subject: Option<&str>) -> Value {
        let mut world = self.world();
        world.logout_tokens += 1;
        let mut claims = json!({
            "iss": self.issuer, "aud": CLIENT, "iat": now(), "exp": now() + 120,
            "jti": format!("logout-{}", world.logout_tokens),
            "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
        });
        sid.iter().for_each(|sid| claims["sid"] = (*sid).into());
        subject.iter().for_each(|subject| claims["sub"] = (*subject).into());
        claims
    }

    /// Signed with the key of the moment.
    pub fn logout_token(&self, claims: &Value) -> String {
        let key = self.world().key.clone();
        let mut header = key.header();
        header["typ"] = "logout+jwt".into();
        key.sign(&header, claims)
    }

    async fn converse(&self, mut stream: TcpStream) {
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        let (head, body) = loop {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            }
            let Some(end) = find(&bytes, b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let lower = head.to_lowercase();
            let length = lower.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length = length.map_or(0, |length| length.trim().parse::<usize>().unwrap());
            if let Some(body) = bytes.get(end + 4..end + 4 + length) {
                break (head, String::from_utf8_lossy(body).into_owned());
            }
        };
        let path = target(&head).to_owned();
        let (status, fields, body) = {
            let mut world = self.world();
            world.seen.push((head, body));
            if path == "/token"
                && let Some(change) = world.bend.at_token.take()
            {
                change(&mut world);
            }
            if world.bend.hangs.is_some_and(|hangs| hangs == path) {
                (0, String::new(), Vec::new())
            } else {
                let bent = world.bend.answers.get(path.as_str()).cloned();
                bent.unwrap_or_else(|| self.answer(&world, &path))
            }
        };
        if status == 0 {
            // Nothing, until whoever asked goes away.
            while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
            return;
        }
        let answer = format!(
            "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\n{fields}content-length: {}\r\n\
             connection: close\r\n\r\n",
            body.len()
        );
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.write_all(&body).await;
    }

    fn answer(&self, world: &World, path: &str) -> (u16, String, Vec<u8>) {
        let bend = &world.bend;
        let (mut answer, changes) = match path {
            "/.well-known/openid-configuration" => (self.metadata(), &bend.metadata),
            "/jwks" => {
                let keys: Vec<Value> = world.published.iter().map(Key::jwk).collect();
                (json!({ "keys": keys }), &bend.keys)
            }
            "/token" => {
                let token = self.id_token(world);
                let tokens = json!({
                    "access_token": ACCESS_TOKEN, "token_type": "Bearer", "expires_in": 300,
                    "id_token": token,
                });
                (tokens, &bend.tokens)
            }
            "/userinfo" => (json!({ "sub": world.user }), &bend.userinfo),
            _ => return (404, String::new(), b"{}".to_vec()),
        };
        changes.iter().for_each(|change| change(&mut answer));
        (200, String::new(), answer.to_string().into_bytes())
    }

    fn metadata(&self) -> Value {
        let at = |path: &str| format!("{}{path}", self.issuer);
        json!({
            "issuer": self.issuer, "authorization_endpoint": at("/auth"),
            "token_endpoint": at("/token"), "jwks_uri": at("/jwks"),
            "userinfo_endpoint": at("/userinfo"), "end_session_endpoint": at("/end"),
            "response_types_supported": ["code"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256", "ES256"],
            "authorization_response_iss_parameter_supported": true,
            "code_challenge_methods_supported": ["S256"],
        })
    }

    fn id_token(&self, world: &World) -> String {
        let mut claims = json!({
            "iss": self.issuer, "aud": CLIENT, "sub": world.user, "nonce": world.nonce,
            "iat": now(), "exp": now() + 300, "auth_time": now(), "email_verified": true,
            "email": format!("{}@plant.example", world.user), "name": world.user,
            "groups": ["vendors"], "tenant": "acme", "at_hash": at_hash(ACCESS_TOKEN),
        });
        world.sid.iter().for_each(|sid| claims["sid"] = sid.as_str().into());
        let mut header = world.key.header();
        world.bend.claims.iter().for_each(|change| change(&mut claims));
        world.bend.header.iter().for_each(|change| change(&mut header));
        match &world.bend.forge {
            Some(forge) => forge(&world.key, &header, &claims),
            None => world.key.sign(&header, &claims),
        }
    }
}

/// OpenID Connect Core 1.0, section 3.1.3.6, for the algorithms with SHA-256.
fn at_hash(token: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(&digest.as_ref()[..16])
}

/// The path of a request's first line.
fn target(head: &str) -> &str {
    let target = head.split(' ').nth(1).unwrap_or_default();
    target.split('?').next().unwrap_or_default()
}

pub fn parameter(url: &Url, name: &str) -> String {
    let found = url.query_pairs().find(|(key, _)| key == name);
    found.unwrap_or_else(|| panic!("{url} has no `{name}`")).1.into_owned()
}

/// The client's secret, as a key for what must never be signed with it.
pub fn client_secret() -> Key {
    Key::hs256(SECRET.as_bytes())
}
