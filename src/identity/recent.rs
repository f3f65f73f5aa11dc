//! How often a browser has signed in just now, kept in the browser itself.
//!
//! A browser that signs in and comes back without its session (it keeps no cookies, a proxy takes
//! them out, the store lost it) would be sent to sign in again, which a provider that knows the user
//! answers at once: the two would send it round in circles. So each sign-in leaves a sealed note of
//! how many there were lately; who has had two and still has no session gets a page.
//!
//! INVARIANT: nobody else can make a browser appear to have signed in: the note is sealed for its
//! host, and a note that can't be opened, or is old, counts as none. Without notes there is a login
//! each time, and nothing worse.

use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::rand;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::header::{HeaderMap, HeaderValue};

use super::cookie::{self, CookieState};
use super::login::LoginStateError;
use crate::domain::canonical::Authority;
use crate::domain::clock::{Clock, Timestamp};
use crate::store::Store;

/// How long a sign-in counts. A circle takes a second or two.
pub const LATELY: Duration = Duration::from_secs(30);

/// Sign-ins after which the next failure is a page: the first may be bad luck.
pub const ENOUGH: u8 = 2;

const COOKIE: &str = "__Host-wicketgate-recent";
const KEY_NAME: &[u8] = b"recent-logins";
const NONCE_LENGTH: usize = 12;
/// The count and the time of the last.
const PLAIN_LENGTH: usize = 9;

/// Reads and writes the notes.
#[derive(Debug)]
pub struct RecentLogins {
    key: RandomizedNonceKey,
    clock: Clock,
}

impl RecentLogins {
    /// The key is in the store, so that all gates with one store read each other's notes.
    ///
    /// # Errors
    /// The store's, and a key in it that is none.
    pub async fn load_or_create(store: &dyn Store, clock: Clock) -> Result<Self, LoginStateError> {
        let mut fresh = [0u8; 32];
        rand::fill(&mut fresh).map_err(|_| LoginStateError::Internal)?;
        let key = super::keys::load_or_put(store, KEY_NAME, &fresh, clock.now()).await?;
        let key =
            RandomizedNonceKey::new(&AES_256_GCM, &key).map_err(|_| LoginStateError::BadKey)?;
        Ok(Self { key, clock })
    }

    /// How many sign-ins the browser has had lately.
    pub fn count(&self, request: &HeaderMap, host: &Authority) -> u8 {
        self.open(request, host).unwrap_or(0)
    }

    /// The cookie that says that there was one more.
    pub fn one_more(&self, request: &HeaderMap, host: &Authority) -> Option<HeaderValue> {
        let count = self.count(request, host).saturating_add(1);
        let mut sealed = vec![count];
        sealed.extend_from_slice(&self.clock.now().as_millis().to_be_bytes());
        let aad = Aad::from(host.to_string());
        let nonce = self.key.seal_in_place_append_tag(aad, &mut sealed).ok()?;
        let mut bytes = nonce.as_ref().to_vec();
        bytes.append(&mut sealed);
        cookie::set(COOKIE, &BASE64_URL_SAFE_NO_PAD.encode(bytes), LATELY)
    }

    /// Forgets them, for a login that the user began by a click.
    pub fn clear(request: &HeaderMap) -> Option<HeaderValue> {
        let is_there = cookie::unique(request, COOKIE) != CookieState::Absent;
        if is_there { cookie::clear(COOKIE) } else { None }
    }

    fn open(&self, request: &HeaderMap, host: &Authority) -> Option<u8> {
        let CookieState::Present(value) = cookie::unique(request, COOKIE) else { return None };
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(value).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LENGTH)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let aad = Aad::from(host.to_string());
        let plain = self.key.open_in_place(nonce, aad, &mut sealed).ok()?;
        let plain: &[u8; PLAIN_LENGTH] = (&*plain).try_into().ok()?;
        let [count, at @ ..] = *plain;
        let at = Timestamp::from_millis(i64::from_be_bytes(at));
        let now = self.clock.now();
        // One from the future is from before the clock was set back.
        (at <= now && now.since(at) < LATELY).then_some(count)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::header::COOKIE as FIELD;

    use super::*;
    use crate::store::MemoryStore;

    fn host(text: &str) -> Authority {
        Authority::parse(text).unwrap()
    }

    fn sent_back(field: &HeaderValue) -> HeaderMap {
        let pair = field.to_str().unwrap().split(';').next().unwrap().to_owned();
        [(FIELD, HeaderValue::try_from(pair).unwrap())].into_iter().collect()
    }

    async fn recent(clock: &Clock) -> RecentLogins {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        RecentLogins::load_or_create(store.as_ref(), clock.clone()).await.unwrap()
    }

    #[tokio::test]
    async fn sign_ins_are_counted_until_they_are_old() {
        let clock = Clock::manual(Timestamp::from_seconds(1_800_000_000));
        let (recent, portal) = (recent(&clock).await, host("portal.example"));
        let mut browser = HeaderMap::new();
        for before in 0..3 {
            assert_eq!(recent.count(&browser, &portal), before);
            browser = sent_back(&recent.one_more(&browser, &portal).unwrap());
            clock.advance(Duration::from_secs(10));
        }
        assert_eq!(recent.count(&browser, &portal), 3);
        clock.advance(LATELY);
        assert_eq!(recent.count(&browser, &portal), 0);
        assert!(RecentLogins::clear(&browser).is_some());
        assert!(RecentLogins::clear(&HeaderMap::new()).is_none());
    }

    #[tokio::test]
    async fn a_note_of_another_host_or_gate_or_of_ones_own_making_counts_for_nothing() {
        let clock = Clock::manual(Timestamp::from_seconds(1_800_000_000));
        let (recent, other) = (recent(&clock).await, recent(&clock).await);
        let portal = host("portal.example");
        let note = recent.one_more(&HeaderMap::new(), &portal).unwrap();
        let browser = sent_back(&note);
        assert_eq!(recent.count(&browser, &portal), 1);
        assert_eq!(recent.count(&browser, &host("other.example")), 0);
        assert_eq!(other.count(&browser, &portal), 0);
        for forged in ["", "AAAA", "A", &"A".repeat(50), &"A".repeat(5000)] {
            let field = HeaderValue::try_from(format!("{COOKIE}={forged}")).unwrap();
            assert_eq!(recent.count(&sent_back(&field), &portal), 0, "{forged}");
        }
    }
}
