//! What a login in progress remembers, and where: in the user's own browser.
//!
//! Between the redirect to the provider and its callback the gate keeps nothing. State, nonce,
//! PKCE verifier and the way back are sealed with AES-256-GCM into a cookie of their own, named
//! after the state, so that several tabs can sign in at once. Only what was used up is stored: a
//! state works once.
//!
//! INVARIANT: a callback counts only in the browser and on the host that the login began with, once,
//! within [`LIFETIME`]; the provider is the one that is sealed here. The way back never leaves the host.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::{constant_time, digest, rand};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::header::{HeaderMap, HeaderValue};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::cookie::{self, CookieState};
use super::seal::Sealer;
use crate::domain::canonical::{Authority, CanonicalPath};
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::step_up::StepUp;
use crate::store::{Space, Store, StoreError};

/// How long a user has to come back from the provider.
pub const LIFETIME: Duration = Duration::from_secs(600);

/// Logins that one browser may have under way on one host.
pub const MAX_LOGINS: usize = 5;

/// Longest way back, in bytes. Longer ones become `/`; the cookie has to stay small.
const MAX_RETURN_TO: usize = 1024;

/// States that are written as used at the same time. Whoever begins logins can have that done, and
/// the store writes one at a time.
const MAX_WRITES: usize = 8;

/// How long a callback waits for its turn to be written.
const MAX_WAIT: Duration = Duration::from_secs(2);

const COOKIE_PREFIX: &str = "__Host-wicketgate-login-";
const KEY_NAME: &[u8] = b"login-state";
const NONCE_LENGTH: usize = 12;

/// Why a callback is refused. The texts go to the audit log and hold nothing secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    #[error("the callback carries no valid state")]
    Missing,
    #[error("this browser has no login under way for the state")]
    UnknownBrowser,
    #[error("the login cookie was tampered with, or belongs to another gate")]
    Broken,
    #[error("the login began on another host")]
    WrongHost,
    #[error("the login began with an identity provider that is no longer configured")]
    UnknownProvider,
    #[error("the answer came to another address than this identity provider's")]
    WrongCallback,
    #[error("the login took longer than ten minutes")]
    Expired,
    #[error("the state was used before")]
    Replayed,
    #[error("the login is one that another host has to end")]
    WrongPart,
    #[error("the hand-over's code is unknown: it was used before, or is older than a minute")]
    UnknownCode,
}

/// Failures to use the state that aren't the client's.
#[derive(Debug, thiserror::Error)]
pub enum LoginStateError {
    #[error(transparent)]
    Refused(#[from] StateError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the key for login cookies in the store is broken; remove `login-state` from it")]
    BadKey,
    #[error("too many logins come back at the same time")]
    Busy,
    #[error("no randomness, or no room in a header")]
    Internal,
}

/// One login under way. Never printed: verifier and nonce are secrets.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginState {
    pub state: String,
    pub nonce: String,
    pub verifier: String,
    pub return_to: String,
    pub host: String,
    pub provider: String,
    pub expires: Timestamp,
    /// What the sign-in has to bring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_up: Option<StepUp>,
    #[serde(default)]
    pub part: Part,
}

/// Which part of a login is kept here (see [`handover`](super::handover)).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// All of it: the host signs in for itself.
    #[default]
    Whole,
    /// The protected host's: the sign-in host asks the provider.
    Protected,
    /// The sign-in host's, for this protected host and the state of its part.
    SignIn { host: String, state: String },
}

impl fmt::Debug for LoginState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoginState").field("host", &self.host).finish_non_exhaustive()
    }
}

/// Seals and opens login cookies, and remembers used states.
#[derive(Debug)]
pub struct LoginStates {
    pub(super) key: RandomizedNonceKey,
    pub(super) seals: Arc<Sealer>,
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Clock,
    writes: Semaphore,
}

impl LoginStates {
    /// The key comes from the store, where the first start puts it: a restart interrupts no login.
    pub async fn load_or_create(
        store: Arc<dyn Store>,
        seals: Arc<Sealer>,
        clock: Clock,
    ) -> Result<Self, LoginStateError> {
        let mut fresh = [0u8; 32];
        rand::fill(&mut fresh).map_err(|_| LoginStateError::Internal)?;
        let key = super::keys::load_or_put(store.as_ref(), KEY_NAME, &fresh, clock.now()).await?;
        let key =
            RandomizedNonceKey::new(&AES_256_GCM, &key).map_err(|_| LoginStateError::BadKey)?;
        Ok(Self { key, seals, store, clock, writes: Semaphore::new(MAX_WRITES) })
    }

    /// Seals a login into its cookie; the header fields also clear the oldest of too many.
    pub fn seal(
        &self,
        login: &LoginState,
        request: &HeaderMap,
    ) -> Result<Vec<HeaderValue>, LoginStateError> {
        let name = cookie_name(&login.state).ok_or(LoginStateError::Internal)?;
        let mut sealed = serde_json::to_vec(login).map_err(|_| LoginStateError::Internal)?;
        let nonce = self
            .key
            .seal_in_place_append_tag(Aad::from(name.as_bytes()), &mut sealed)
            .map_err(|_| LoginStateError::Internal)?;
        let mut bytes = nonce.as_ref().to_vec();
        bytes.append(&mut sealed);
        let value = BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let mut fields =
            vec![cookie::set(&name, &value, LIFETIME).ok_or(LoginStateError::Internal)?];
        // Browsers send cookies of one path oldest first (RFC 6265bis, section 5.8.3).
        let open = cookie::names_with_prefix(request, COOKIE_PREFIX, 64);
        let surplus = (open.len() + 1).saturating_sub(MAX_LOGINS);
        fields.extend(open.into_iter().take(surplus).filter_map(cookie::clear));
        Ok(fields)
    }

    /// Opens the login that a callback's state belongs to.
    pub fn open(
        &self,
        state: &str,
        cookies: &HeaderMap,
        host: &Authority,
    ) -> Result<LoginState, StateError> {
        let name = cookie_name(state).ok_or(StateError::Missing)?;
        let CookieState::Present(value) = cookie::unique(cookies, &name) else {
            return Err(StateError::UnknownBrowser);
        };
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(value).map_err(|_| StateError::Broken)?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LENGTH).ok_or(StateError::Broken)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| StateError::Broken)?;
        let mut sealed = sealed.to_vec();
        let plain = self
            .key
            .open_in_place(nonce, Aad::from(name.as_bytes()), &mut sealed)
            .map_err(|_| StateError::Broken)?;
        let login: LoginState = serde_json::from_slice(plain).map_err(|_| StateError::Broken)?;
        constant_time::verify_slices_are_equal(login.state.as_bytes(), state.as_bytes())
            .map_err(|_| StateError::UnknownBrowser)?;
        if login.host != host.to_string() {
            return Err(StateError::WrongHost);
        }
        let now = self.clock.now();
        // A cookie that lives longer than a login may comes from a clock that was set back since.
        if now >= login.expires || login.expires.since(now) > LIFETIME + Duration::from_secs(300) {
            return Err(StateError::Expired);
        }
        Ok(login)
    }

    /// Uses the state up; the second time it is refused.
    ///
    /// # Errors
    /// `Busy` when the store has more of them to write than it can in two seconds.
    pub async fn consume(&self, login: &LoginState) -> Result<(), LoginStateError> {
        let key = digest::digest(&digest::SHA256, login.state.as_bytes());
        // Twice the lifetime, so that a clock set back a little revives no state.
        let expires = login.expires.plus(LIFETIME);
        let turn = tokio::time::timeout(MAX_WAIT, self.writes.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(LoginStateError::Busy) };
        let fresh = self
            .store
            .put_if_absent(Space::Logins, key.as_ref(), b"", expires, self.clock.now())
            .await?;
        if fresh { Ok(()) } else { Err(StateError::Replayed.into()) }
    }
}

/// The header field that removes a login's cookie.
pub fn forget(login: &LoginState) -> Vec<HeaderValue> {
    cookie_name(&login.state).and_then(|name| cookie::clear(&name)).into_iter().collect()
}

/// Whether the browser says that it has begun to sign in.
pub fn is_under_way(headers: &HeaderMap) -> bool {
    !cookie::names_with_prefix(headers, COOKIE_PREFIX, 1).is_empty()
}

/// The name of a login's cookie. None unless the state looks like one of ours.
pub fn cookie_name(state: &str) -> Option<String> {
    let well_formed = state.len() == 43
        && state.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    let short = state.get(..8).filter(|_| well_formed)?;
    Some(format!("{COOKIE_PREFIX}{short}"))
}

/// 32 random bytes in base 64.
pub fn random_token() -> Result<String, LoginStateError> {
    let mut bytes = [0u8; 32];
    rand::fill(&mut bytes).map_err(|_| LoginStateError::Internal)?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

/// Where a user goes after signing in: the wish when it is a canonical path of this host, else `/`.
///
/// Only a path is taken, never an address (RFC 9700, section 4.11). What browsers read in another
/// way than it looks (`//host`, `/\host`, tabs and line breaks that they drop) isn't canonical.
pub fn return_to(wish: &str) -> String {
    safe_return_to(wish).unwrap_or_else(|| "/".to_owned())
}

fn safe_return_to(wish: &str) -> Option<String> {
    let printable = wish
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'#' | b'"' | b'<' | b'>'));
    if wish.len() > MAX_RETURN_TO || !printable || wish.starts_with("//") {
        return None;
    }
    let (path, query) = match wish.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (wish, None),
    };
    let path = CanonicalPath::parse(path).ok()?;
    let first = path.segments().next();
    // The gate's own pages, save the one about the user and the one about a kept form, would loop or sign out again. Other
    // spellings may reach the same pages of a lenient reader.
    if first.is_some_and(|first| first.trim().eq_ignore_ascii_case(".wicketgate"))
        && !matches!(path.decoded().as_ref(), "/.wicketgate/me" | "/.wicketgate/resume")
    {
        return None;
    }
    Some(match query {
        Some(query) => format!("{}?{query}", path.encoded()),
        None => path.encoded().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use http::header::COOKIE;
    use proptest::prelude::*;

    use super::*;
    use crate::store::MemoryStore;

    async fn states(clock: &Clock) -> LoginStates {
        let store = Arc::new(MemoryStore::default());
        LoginStates::load_or_create(store, Sealer::fixed(), clock.clone()).await.unwrap()
    }

    fn clock() -> Clock {
        Clock::manual(Timestamp::from_seconds(1_800_000_000))
    }

    fn host() -> Authority {
        Authority::parse("portal.example:8443").unwrap()
    }

    fn login(clock: &Clock) -> LoginState {
        LoginState {
            state: random_token().unwrap(),
            nonce: "n".into(),
            verifier: "v".into(),
            return_to: "/a".into(),
            host: host().to_string(),
            provider: "idp".into(),
            expires: clock.now().plus(LIFETIME),
            step_up: None,
            part: Part::Whole,
        }
    }

    fn sent_back(fields: &[HeaderValue]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for field in fields {
            let pair = field.to_str().unwrap().split(';').next().unwrap();
            headers.append(COOKIE, HeaderValue::from_str(pair).unwrap());
        }
        headers
    }

    #[tokio::test]
    async fn a_login_comes_back_only_to_its_browser_and_host() {
        let clock = clock();
        let states = states(&clock).await;
        let login = login(&clock);
        let cookies = sent_back(&states.seal(&login, &HeaderMap::new()).unwrap());
        let open = |state: &str, cookies: &HeaderMap, host: &str| {
            states.open(state, cookies, &Authority::parse(host).unwrap())
        };
        assert_eq!(open(&login.state, &cookies, "portal.example:8443"), Ok(login.clone()));
        let none = HeaderMap::new();
        for (result, error) in [
            (open(&login.state, &none, "portal.example:8443"), StateError::UnknownBrowser),
            (open(&login.state, &cookies, "other.example:8443"), StateError::WrongHost),
            (open(&login.state, &cookies, "portal.example"), StateError::WrongHost),
            (open("x", &cookies, "portal.example:8443"), StateError::Missing),
        ] {
            assert_eq!(result, Err(error));
        }
        // Another state that shares the cookie's name.
        let twin =
            format!("{}{}", login.state.split_at(8).0, random_token().unwrap().split_at(8).1);
        assert_eq!(open(&twin, &cookies, "portal.example:8443"), Err(StateError::UnknownBrowser));
        clock.advance(LIFETIME);
        assert_eq!(open(&login.state, &cookies, "portal.example:8443"), Err(StateError::Expired));
    }

    #[tokio::test]
    async fn a_changed_or_renamed_login_cookie_is_refused() {
        let clock = clock();
        let states = states(&clock).await;
        let (one, two) = (login(&clock), login(&clock));
        let field = states.seal(&one, &HeaderMap::new()).unwrap().remove(0);
        let pair = field.to_str().unwrap().split(';').next().unwrap().to_owned();
        let (name, value) = pair.split_once('=').unwrap();
        for at in [0, 20, value.len() - 1] {
            let mut changed = value.as_bytes().to_vec();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let text = format!("{name}={}", String::from_utf8(changed).unwrap());
            let cookies = sent_back(&[HeaderValue::from_str(&text).unwrap()]);
            assert_eq!(states.open(&one.state, &cookies, &host()), Err(StateError::Broken));
        }
        let renamed = format!("{}={value}", cookie_name(&two.state).unwrap());
        let cookies = sent_back(&[HeaderValue::from_str(&renamed).unwrap()]);
        assert_eq!(states.open(&two.state, &cookies, &host()), Err(StateError::Broken));
    }

    #[tokio::test]
    async fn a_state_works_once() {
        let clock = clock();
        let states = states(&clock).await;
        let login = login(&clock);
        states.consume(&login).await.unwrap();
        clock.advance(LIFETIME);
        assert!(matches!(
            states.consume(&login).await,
            Err(LoginStateError::Refused(StateError::Replayed))
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_state_is_refused_when_too_many_are_being_written() {
        let clock = clock();
        let states = states(&clock).await;
        let login = login(&clock);
        let stalled = states.writes.acquire_many(u32::try_from(MAX_WRITES).unwrap()).await.unwrap();
        assert!(matches!(states.consume(&login).await, Err(LoginStateError::Busy)));
        drop(stalled);
        states.consume(&login).await.unwrap();
    }

    #[tokio::test]
    async fn a_sixth_login_clears_the_oldest_one() {
        let clock = clock();
        let states = states(&clock).await;
        let mut jar = Vec::new();
        for _ in 0..5 {
            let fields = states.seal(&login(&clock), &sent_back(&jar)).unwrap();
            assert_eq!(fields.len(), 1);
            jar.extend(fields);
        }
        let fields = states.seal(&login(&clock), &sent_back(&jar)).unwrap();
        assert_eq!(fields.len(), 2);
        let oldest = jar[0].to_str().unwrap().split('=').next().unwrap();
        let cleared = fields[1].to_str().unwrap();
        assert!(cleared.starts_with(&format!("{oldest}=;")) && cleared.contains("Max-Age=0"));
    }

    #[test]
    fn a_way_back_on_this_host_is_kept() {
        for path in ["/", "/orders?id=1&x=%2F", "/a%20b", "/.wicketgate/me", "/x?next=https://e/"] {
            assert_eq!(return_to(path), path);
        }
    }

    #[test]
    fn a_way_back_to_anywhere_else_becomes_the_start_page() {
        for wish in [
            "",
            "a",
            "https://evil.example/",
            "//evil.example",
            "/\\evil.example",
            "\\\\evil",
            "/%2F/evil",
            "/%5Cevil",
            "/a/../b",
            "/.//evil.example",
            "/\t/evil.example",
            "/\n",
            "javascript:alert(1)",
            "/%09/evil",
            "/a#b",
            "/.wicketgate/logout",
            "/.wicketgate/me/../logout",
            "/.WicketGate/logout",
            "/%2ewicketgate/login",
            " /",
            "/é",
            "///",
            "/.wicketgate",
            "/.wicketgate%20/logout",
        ] {
            assert_eq!(return_to(wish), "/", "{wish:?}");
        }
        assert_eq!(return_to(&format!("/{}", "a".repeat(2000))), "/");
    }

    proptest! {
        #[test]
        fn a_browser_always_stays_on_the_host(wish in "[/\\\\.:@%#?a-z0-9\\t\\n;\\[\\] ]{0,24}") {
            let base = url::Url::parse("https://portal.example/x").unwrap();
            let target = base.join(&return_to(&wish)).unwrap();
            prop_assert_eq!(target.origin(), base.origin());
            prop_assert!(matches!(target.path(), "/.wicketgate/me" | "/.wicketgate/resume")
                || !target.path().to_ascii_lowercase().starts_with("/.wicketgate"));
        }
    }
}
