//! From the sign-in host to the host that a person wanted to get to: one redirect URI at the
//! provider serves any number of protected hosts.
//!
//! The protected host keeps its half of the login in a cookie ([`login`]) and sends the browser to
//! the sign-in host with a sealed request. The sign-in host finishes the login with the provider and
//! puts who it is into the store, under the hash of a code; the browser carries the code back.
//!
//! INVARIANT: a code works once, within [`LIFETIME`], on the host that it was made for, and in the
//! browser that began there: the state beside it has to open that browser's cookie, so that nobody
//! can be signed in as somebody else by a link (RFC 9700, section 4.7). What the store holds is
//! sealed like a session, under the code's hash: the store alone knows no code and no token, and
//! whoever can write into it signs nobody in.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::aead::{Aad, NONCE_LEN, Nonce};
use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::header::HeaderMap;
use serde::{Deserialize, Serialize};
use url::form_urlencoded;

use super::login::{self, LoginState, LoginStateError, LoginStates, Part, StateError};
use super::oidc::{Login, LoginError};
use super::provider_token::ProviderToken;
use super::refresh::RefreshToken;
use super::vouched::VouchedBy;
use crate::config::secret::Secret;
use crate::domain::canonical::Authority;
use crate::domain::clock::Timestamp;
use crate::domain::principal::{Authentication, Principal};
use crate::domain::step_up::StepUp;
use crate::store::Space;

/// How long a browser has to carry a code from one host to the other.
pub const LIFETIME: Duration = Duration::from_secs(60);

/// Where a code is redeemed, on every protected host.
pub const PATH: &str = "/.wicketgate/handover";

const REQUEST: &[u8] = b"hand-over request";

/// What a protected host asks of the sign-in host. It travels sealed, in an address.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The protected host, with the port that the browser uses.
    pub host: String,
    pub state: String,
    pub provider: String,
    pub return_to: String,
    /// What the sign-in has to bring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_up: Option<StepUp>,
    expires: Timestamp,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("host", &self.host).finish_non_exhaustive()
    }
}

/// Who signed in, as the store keeps it for a minute. Sealed.
#[derive(Serialize, Deserialize)]
struct Record {
    host: String,
    state: String,
    principal: Arc<Principal>,
    authentication: Authentication,
    provider: Arc<str>,
    vouched_by: VouchedBy,
    sid: Option<Arc<str>>,
    subject: Option<Arc<str>>,
    id_token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    access_token: Option<ProviderToken>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh: Option<(String, Option<Duration>)>,
    /// When the provider was asked for that; not in what an older version has written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    asked: Option<Timestamp>,
    expires: Timestamp,
}

/// What a protected host wants.
#[derive(Debug)]
pub struct Wanted<'a> {
    pub host: &'a Authority,
    pub provider: &'a str,
    pub return_to: &'a str,
    pub step_up: Option<&'a StepUp>,
}

/// The protected host's half of a login: what its browser keeps, and the sealed request.
///
/// # Errors
/// No randomness, or no room for it in a header.
pub fn ask(
    logins: &LoginStates,
    wanted: &Wanted<'_>,
    headers: &HeaderMap,
) -> Result<(String, Vec<http::HeaderValue>), LoginStateError> {
    let expires = logins.clock.now().plus(login::LIFETIME);
    let half = LoginState {
        state: login::random_token()?,
        nonce: String::new(),
        verifier: String::new(),
        return_to: login::return_to(wanted.return_to),
        host: wanted.host.to_string(),
        provider: wanted.provider.to_owned(),
        expires,
        // The sign-in host, which asks the provider, holds the answer against it.
        step_up: None,
        part: Part::Protected,
    };
    let request = Request {
        host: half.host.clone(),
        state: half.state.clone(),
        provider: half.provider.clone(),
        return_to: half.return_to.clone(),
        step_up: wanted.step_up.cloned(),
        expires,
    };
    let plain = serde_json::to_vec(&request).map_err(|_| LoginStateError::Internal)?;
    let sealed = BASE64_URL_SAFE_NO_PAD.encode(seal(logins, REQUEST, plain)?);
    Ok((sealed, logins.seal(&half, headers)?))
}

/// Opens a request at the sign-in host.
///
/// # Errors
/// It is not one of ours, or too old.
pub fn asked(logins: &LoginStates, sealed: &str) -> Result<Request, StateError> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(sealed).map_err(|_| StateError::Broken)?;
    let plain = open(logins, REQUEST, &bytes)?;
    let request: Request = serde_json::from_slice(&plain).map_err(|_| StateError::Broken)?;
    if is_over(logins, request.expires, login::LIFETIME) {
        return Err(StateError::Expired);
    }
    Ok(request)
}

/// Keeps who signed in for the protected host; where the browser carries the code to.
///
/// # Errors
/// The store failed.
pub async fn give(
    logins: &LoginStates,
    login: &Login,
    host: &str,
    state: &str,
) -> Result<String, LoginStateError> {
    let code = login::random_token()?;
    let record = Record {
        host: host.to_owned(),
        state: state.to_owned(),
        principal: Arc::clone(&login.principal),
        authentication: login.authentication.clone(),
        provider: Arc::clone(&login.provider),
        vouched_by: login.vouched_by,
        sid: login.sid.clone(),
        subject: login.subject.clone(),
        id_token: login.id_token.as_ref().map(|token| token.expose().to_owned()),
        access_token: login.access_token.clone(),
        refresh: login.refresh.as_ref().map(|of| (of.token.expose().to_owned(), of.lifetime)),
        asked: login.refresh.as_ref().and_then(|of| of.asked),
        expires: logins.clock.now().plus(LIFETIME),
    };
    let key = key(&code);
    let plain = serde_json::to_vec(&record).map_err(|_| LoginStateError::Internal)?;
    let sealed = logins.seals.seal(Space::Logins, key.as_ref(), plain);
    let sealed = sealed.ok_or(LoginStateError::Internal)?;
    logins.store.put(Space::Logins, key.as_ref(), &sealed, record.expires).await?;
    let address = format!("https://{host}{PATH}?");
    let begun = address.len();
    let mut address = form_urlencoded::Serializer::for_suffix(address, begun);
    Ok(address.append_pair("code", &code).append_pair("state", state).finish())
}

/// Redeems a code on the protected host: who it is, and where they wanted to go.
///
/// # Errors
/// See [`StateError`]: which part of the invariant did not hold; or the store failed.
pub async fn take(
    logins: &LoginStates,
    host: &Authority,
    query: &str,
    headers: &HeaderMap,
) -> Result<Login, LoginError> {
    let (mut code, mut state) = (None, None);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let slot = match &*name {
            "code" => &mut code,
            "state" => &mut state,
            _ => continue,
        };
        if slot.replace(value.into_owned()).is_some() {
            return Err(LoginError::invalid("the hand-over repeats a parameter"));
        }
    }
    let state = state.ok_or(StateError::Missing)?;
    let half = logins.open(&state, headers, host)?;
    if half.part != Part::Protected {
        return Err(StateError::WrongPart.into());
    }
    let key = key(&code.unwrap_or_default());
    let key = key.as_ref();
    let failed = LoginStateError::Store;
    let sealed = logins.store.get(Space::Logins, key).await.map_err(failed)?;
    let sealed = sealed.ok_or(StateError::UnknownCode)?;
    let plain = logins.seals.open(Space::Logins, key, &sealed).map_err(|_| StateError::Broken)?;
    let record: Record = serde_json::from_slice(&plain).map_err(|_| StateError::Broken)?;
    if record.host != half.host {
        return Err(StateError::WrongHost.into());
    }
    if record.state != half.state {
        return Err(StateError::UnknownBrowser.into());
    }
    if is_over(logins, record.expires, LIFETIME) {
        return Err(StateError::UnknownCode.into());
    }
    // Of two who come at once, one.
    if !logins.store.remove(Space::Logins, key).await.map_err(failed)? {
        return Err(StateError::UnknownCode.into());
    }
    Ok(Login {
        principal: record.principal,
        authentication: record.authentication,
        provider: record.provider,
        vouched_by: record.vouched_by,
        sid: record.sid,
        subject: record.subject,
        id_token: record.id_token.map(Secret::new),
        access_token: record.access_token,
        refresh: record.refresh.map(|(token, lifetime)| RefreshToken {
            token: Secret::new(token),
            lifetime,
            asked: record.asked,
        }),
        return_to: half.return_to.clone(),
        begun: half.expires.minus(login::LIFETIME),
        set_cookie: login::forget(&half),
        for_host: None,
    })
}

fn seal(
    logins: &LoginStates,
    purpose: &[u8],
    mut plain: Vec<u8>,
) -> Result<Vec<u8>, LoginStateError> {
    let nonce = logins
        .key
        .seal_in_place_append_tag(Aad::from(purpose), &mut plain)
        .map_err(|_| LoginStateError::Internal)?;
    let mut bytes = nonce.as_ref().to_vec();
    bytes.append(&mut plain);
    Ok(bytes)
}

fn open(logins: &LoginStates, purpose: &[u8], bytes: &[u8]) -> Result<Vec<u8>, StateError> {
    let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN).ok_or(StateError::Broken)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| StateError::Broken)?;
    let mut sealed = sealed.to_vec();
    let plain = logins.key.open_in_place(nonce, Aad::from(purpose), &mut sealed);
    Ok(plain.map_err(|_| StateError::Broken)?.to_vec())
}

/// Also over is what lives longer than it may: it comes from before the clock was set back.
fn is_over(logins: &LoginStates, expires: Timestamp, lifetime: Duration) -> bool {
    let now = logins.clock.now();
    now >= expires || expires.since(now) > lifetime + Duration::from_secs(300)
}

fn key(code: &str) -> digest::Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"hand-over code\0");
    context.update(code.as_bytes());
    context.finish()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::COOKIE;

    use super::*;
    use crate::domain::clock::Clock;
    use crate::domain::principal::PrincipalKind;
    use crate::identity::seal::Sealer;
    use crate::store::{MemoryStore, Store};

    struct World {
        clock: Clock,
        store: Arc<dyn Store>,
        logins: LoginStates,
    }

    /// The protected host's half: what its browser holds, and the request as the sign-in host has it.
    struct Half {
        cookies: HeaderMap,
        request: Request,
    }

    fn host(text: &str) -> Authority {
        Authority::parse(text).unwrap()
    }

    fn login() -> Login {
        Login {
            principal: Arc::new(Principal {
                kind: PrincipalKind::User,
                id: "idp/ada".into(),
                email: None,
                name: None,
                groups: [].into(),
                tenant: None,
            }),
            authentication: Authentication { acr: Some("mfa".into()), ..Authentication::default() },
            provider: "idp".into(),
            vouched_by: VouchedBy::new("https://idp.example", "gate"),
            sid: Some("s1".into()),
            subject: Some("ada".into()),
            id_token: Some(Secret::new("a.b.c")),
            access_token: ProviderToken::new("x.y.z", None),
            refresh: Some(RefreshToken {
                token: Secret::new("r-1"),
                lifetime: None,
                asked: Some(Timestamp::from_seconds(7)),
            }),
            return_to: "/elsewhere".into(),
            begun: Timestamp::from_seconds(0),
            set_cookie: Vec::new(),
            for_host: None,
        }
    }

    impl World {
        async fn new() -> Self {
            let clock = Clock::manual(Timestamp::from_seconds(1_800_000_000));
            let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
            let logins =
                LoginStates::load_or_create(Arc::clone(&store), Sealer::fixed(), clock.clone())
                    .await;
            Self { clock, store, logins: logins.unwrap() }
        }

        fn ask(&self, at: &str) -> Half {
            let step_up = StepUp { acr: Some("mfa".into()), ..StepUp::default() };
            let asked = asked_by(&self.logins, at, "/orders", Some(&step_up));
            let (sealed, fields) = asked;
            let pair = fields[0].to_str().unwrap().split(';').next().unwrap().to_owned();
            let mut cookies = HeaderMap::new();
            cookies.append(COOKIE, HeaderValue::from_str(&pair).unwrap());
            Half { cookies, request: asked_again(&self.logins, &sealed) }
        }

        /// The query that the browser carries back.
        async fn give(&self, request: &Request) -> String {
            let address = give(&self.logins, &login(), &request.host, &request.state).await;
            let address = address.unwrap();
            let start = format!("https://{}{PATH}?", request.host);
            address.strip_prefix(&start).unwrap().to_owned()
        }

        async fn take(&self, at: &str, query: &str, cookies: &HeaderMap) -> Result<Login, String> {
            let taken = take(&self.logins, &host(at), query, cookies).await;
            taken.map_err(|error| error.to_string())
        }
    }

    fn asked_by(
        logins: &LoginStates,
        at: &str,
        return_to: &str,
        step_up: Option<&StepUp>,
    ) -> (String, Vec<HeaderValue>) {
        let wanted = Wanted { host: &host(at), provider: "idp", return_to, step_up };
        ask(logins, &wanted, &HeaderMap::new()).unwrap()
    }

    fn asked_again(logins: &LoginStates, sealed: &str) -> Request {
        asked(logins, sealed).unwrap()
    }

    #[tokio::test]
    async fn a_code_brings_who_signed_in_to_the_host_and_back_to_the_page() {
        let world = World::new().await;
        let half = world.ask("a.example:8443");
        assert_eq!((&*half.request.host, &*half.request.return_to), ("a.example:8443", "/orders"));
        assert_eq!(half.request.step_up.as_ref().unwrap().acr.as_deref(), Some("mfa"));
        let query = world.give(&half.request).await;
        let kept = world.store.scan(Space::Logins, b"").await.unwrap();
        let text = String::from_utf8_lossy(&kept[0].1).into_owned();
        let open = |secret| text.contains(secret);
        assert!(!open("ada") && !open("a.b.c") && !open("x.y.z"), "sealed in the store");
        let taken = world.take("a.example:8443", &query, &half.cookies).await.unwrap();
        assert_eq!(taken.principal.id.as_ref(), "idp/ada");
        assert_eq!((taken.return_to.as_str(), taken.sid.as_deref()), ("/orders", Some("s1")));
        assert_eq!(taken.subject.as_deref(), Some("ada"));
        assert_eq!(taken.vouched_by, login().vouched_by);
        assert_eq!(taken.authentication.acr.as_deref(), Some("mfa"));
        assert_eq!(taken.id_token.unwrap().expose(), "a.b.c");
        assert_eq!(taken.access_token.unwrap().text(), "x.y.z");
        let refresh = taken.refresh.unwrap();
        assert_eq!(refresh.token.expose(), "r-1");
        assert_eq!(refresh.asked, Some(Timestamp::from_seconds(7)), "not when it was handed over");
        assert_eq!(taken.set_cookie.len(), 1, "the cookie is removed");
        assert!(world.store.scan(Space::Logins, b"").await.unwrap().is_empty());
    }

    /// What an older version has written says nothing of it.
    #[tokio::test]
    async fn who_was_handed_over_without_the_time_of_the_answer_is_signed_in_all_the_same() {
        let world = World::new().await;
        let half = world.ask("a.example");
        let refresh = login().refresh.map(|refresh| RefreshToken { asked: None, ..refresh });
        let older = Login { refresh, ..login() };
        let address = give(&world.logins, &older, "a.example", &half.request.state).await.unwrap();
        let query = address.split_once('?').unwrap().1;
        let taken = world.take("a.example", query, &half.cookies).await.unwrap();
        assert_eq!(taken.refresh.unwrap().asked, None);
    }

    #[tokio::test]
    async fn a_code_is_refused_again_elsewhere_in_another_browser_and_late() {
        let world = World::new().await;
        let (mine, theirs) = (world.ask("a.example"), world.ask("a.example"));
        let elsewhere = world.ask("b.example");
        let query = world.give(&mine.request).await;
        let code = query.split('&').next().unwrap();
        let with = |state: &str| format!("{code}&state={state}");
        let none = HeaderMap::new();
        for (at, query, cookies, reason) in [
            ("a.example", query.clone(), &none, "no login under way"),
            ("a.example", query.clone(), &theirs.cookies, "no login under way"),
            ("a.example", with(&theirs.request.state), &theirs.cookies, "no login under way"),
            ("b.example", query.clone(), &mine.cookies, "another host"),
            ("b.example", with(&elsewhere.request.state), &elsewhere.cookies, "another host"),
            ("a.example", format!("state={}", mine.request.state), &mine.cookies, "unknown"),
            ("a.example", format!("{query}&{code}"), &mine.cookies, "repeats"),
            ("a.example", code.to_owned(), &mine.cookies, "no valid state"),
        ] {
            let refused = world.take(at, &query, cookies).await.unwrap_err();
            assert!(refused.contains(reason), "{at}?{query}: {refused}");
        }
        // None of this has cost the one that it is for anything.
        world.take("a.example", &query, &mine.cookies).await.unwrap();
        let refused = world.take("a.example", &query, &mine.cookies).await.unwrap_err();
        assert!(refused.contains("used before"), "{refused}");

        let late = world.ask("a.example");
        let query = world.give(&late.request).await;
        world.clock.advance(LIFETIME);
        let refused = world.take("a.example", &query, &late.cookies).await.unwrap_err();
        assert!(refused.contains("older than a minute"), "{refused}");
    }

    #[tokio::test]
    async fn a_request_to_the_sign_in_host_is_one_of_ours_or_refused() {
        let world = World::new().await;
        let (sealed, _) = asked_by(&world.logins, "a.example", "//evil", None);
        assert_eq!(asked(&world.logins, &sealed).unwrap().return_to, "/");
        let other = World::new().await;
        for text in ["", "x", sealed.split_at(1).1, &format!("{sealed}A")] {
            assert_eq!(asked(&world.logins, text), Err(StateError::Broken), "{text}");
        }
        assert_eq!(asked(&other.logins, &sealed), Err(StateError::Broken), "another gate's");
        world.clock.advance(login::LIFETIME);
        assert_eq!(asked(&world.logins, &sealed), Err(StateError::Expired));
    }
}
