//! Forms that met no session, kept until their sender has signed in.
//!
//! The browser gets a secret in a cookie, and the store a box that only this secret opens: both the
//! key of the entry and the key that it is sealed with (AES-256-GCM) are digests of it. So neither
//! the store nor the gate itself can read a form while its sender is away.
//!
//! INVARIANT: a form is given out once, to who holds its secret, within [`LIFETIME`]. How many there
//! are, how large they are together, and how many are one sender's is bounded.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::cookie::{self, CookieState};
use super::login::random_token;
use crate::config::secret::Secret;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::network::Subscriber;
use crate::store::{Space, Store, StoreError};

/// How long a form is kept: as long as a login may take.
pub const LIFETIME: Duration = super::login::LIFETIME;

/// Bounds of one gate. An entry in the store is little more than its form.
const MAX_FORMS: usize = 1000;
const MAX_BYTES: usize = 16 << 20;
/// Of one IPv4 address, or one IPv6 /64.
const MAX_OF_ONE: usize = 20;

/// Forms that are read from clients at the same time.
const MAX_READING: usize = 64;

/// Forms that one browser may have kept on one host.
const MAX_COOKIES: usize = 3;

const KEPT_COOKIE: &str = "__Host-wicketgate-form-";
const SEND_COOKIE: &str = "__Host-wicketgate-send-";
const NONCE_LENGTH: usize = 12;
const ID_LENGTH: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeptError {
    #[error("the form is not kept any more")]
    Gone,
    #[error("no more forms can be kept at the moment")]
    Full,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("no randomness, or a form that can't be sealed")]
    Internal,
}

/// What is known of a form beside its body.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// With the port that the browser used.
    pub host: String,
    /// Path and query, as they were asked for.
    pub target: String,
    pub content_type: String,
    /// The page that it was filled in on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub referer: Option<String>,
    /// Who filled it in, as far as the session that is over tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<Arc<str>>,
    pub expires: Timestamp,
}

impl std::fmt::Debug for About {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("About").field("host", &self.host).finish_non_exhaustive()
    }
}

/// A form whose sender has to sign in first. Never printed: people type passwords into forms.
#[derive(Clone, PartialEq, Eq)]
pub struct Form {
    pub about: About,
    pub body: Bytes,
}

impl std::fmt::Debug for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Form").field("host", &self.about.host).finish_non_exhaustive()
    }
}

/// What opens a form: the cookie's value.
#[derive(Debug)]
pub struct Ticket {
    /// Names the form in addresses; opens nothing.
    pub id: String,
    secret: Secret,
    /// Where the browser was told to send it, once it was.
    pub target: Option<String>,
}

impl Ticket {
    fn of(secret: String) -> Option<Self> {
        let id = BASE64_URL_SAFE_NO_PAD.encode(entry_key(&secret)).get(..ID_LENGTH)?.to_owned();
        Some(Self { id, secret: Secret::new(secret), target: None })
    }

    /// The form that an address names, if the browser holds its secret.
    pub fn kept(request: &HeaderMap, id: &str) -> Option<Self> {
        match cookie::unique(request, &format!("{KEPT_COOKIE}{id}")) {
            CookieState::Present(secret) => {
                Self::of(secret.to_owned()).filter(|ticket| ticket.id == id)
            }
            CookieState::Absent | CookieState::Malformed | CookieState::Ambiguous => None,
        }
    }

    /// The form that the browser was told to send to this address, if any. Another form without
    /// fields, to another address, is none of it.
    pub fn to_send(request: &HeaderMap, target: &str) -> Option<Self> {
        let names = cookie::names_with_prefix(request, SEND_COOKIE, 1);
        let CookieState::Present(value) = cookie::unique(request, names.first()?) else {
            return None;
        };
        let (secret, place) = value.split_once('.')?;
        let ticket = Self::of(secret.to_owned())?;
        (place == place_of(target)).then(|| Self { target: Some(target.to_owned()), ..ticket })
    }

    /// Gives the browser the secret; also clears the oldest of too many.
    pub fn set(&self, request: &HeaderMap) -> Vec<HeaderValue> {
        let name = format!("{KEPT_COOKIE}{}", self.id);
        let open = cookie::names_with_prefix(request, KEPT_COOKIE, 64);
        let surplus = (open.len() + 1).saturating_sub(MAX_COOKIES);
        let cleared = open.into_iter().take(surplus).filter_map(cookie::clear);
        cookie::set(&name, self.secret.expose(), LIFETIME).into_iter().chain(cleared).collect()
    }

    pub fn clear(&self) -> Option<HeaderValue> {
        cookie::clear(&format!("{KEPT_COOKIE}{}", self.id))
    }

    /// Tells the browser's next request to the form's address to carry the form. Of several that
    /// there may be, those before it go.
    pub fn send(&self, request: &HeaderMap, target: &str) -> Vec<HeaderValue> {
        let before = cookie::names_with_prefix(request, SEND_COOKIE, 64);
        let cleared = before.into_iter().filter_map(cookie::clear);
        let name = format!("{SEND_COOKIE}{}", self.id);
        let value = format!("{}.{}", self.secret.expose(), place_of(target));
        let sent = cookie::set(&name, &value, LIFETIME);
        cleared.chain(self.clear()).chain(sent).collect()
    }
}

/// Short, and the same for one address; nothing rests on two never having the same.
fn place_of(target: &str) -> String {
    let hash = digest::digest(&digest::SHA256, target.as_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(hash.as_ref().get(..9).unwrap_or_default())
}

fn entry_key(secret: &str) -> [u8; 32] {
    derived(b"wicketgate kept form: entry\0", secret)
}

fn derived(purpose: &[u8], secret: &str) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(purpose);
    context.update(secret.as_bytes());
    let mut key = [0; 32];
    key.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
    key
}

/// The secret has 256 bits of randomness, so a digest of it is as good a key.
fn sealing_key(secret: &str) -> Result<RandomizedNonceKey, KeptError> {
    let key = derived(b"wicketgate kept form: seal\0", secret);
    RandomizedNonceKey::new(&AES_256_GCM, &key).map_err(|_| KeptError::Internal)
}

/// What this gate keeps, oldest first.
#[derive(Debug, Default)]
struct Room {
    held: VecDeque<(Timestamp, usize, Subscriber)>,
    bytes: usize,
}

impl Room {
    fn take(&mut self, size: usize, sender: Subscriber, now: Timestamp) -> Result<(), KeptError> {
        while let Some((expires, size, _)) = self.held.front().copied()
            && expires <= now
        {
            self.bytes = self.bytes.saturating_sub(size);
            self.held.pop_front();
        }
        let own = self.held.iter().filter(|(_, _, one)| *one == sender).count();
        let full = self.held.len() >= MAX_FORMS || self.bytes.saturating_add(size) > MAX_BYTES;
        if full || own >= MAX_OF_ONE {
            return Err(KeptError::Full);
        }
        self.bytes += size;
        self.held.push_back((now.plus(LIFETIME), size, sender));
        Ok(())
    }
}

/// All forms that are kept. One for the process.
#[derive(Debug)]
pub struct KeptForms {
    store: Arc<dyn Store>,
    clock: Clock,
    room: parking_lot::Mutex<Room>,
    reading: Semaphore,
}

impl KeptForms {
    pub fn new(store: Arc<dyn Store>, clock: Clock) -> Self {
        let (room, reading) = (parking_lot::Mutex::default(), Semaphore::new(MAX_READING));
        Self { store, clock, room, reading }
    }

    /// A place to read a form's body in; none when too many are read.
    pub fn reader(&self) -> Option<SemaphorePermit<'_>> {
        self.reading.try_acquire().ok()
    }

    pub fn expiry(&self) -> Timestamp {
        self.clock.now().plus(LIFETIME)
    }

    /// Keeps a form for who gets the ticket.
    ///
    /// # Errors
    /// `Full`, and the store's.
    pub async fn keep(&self, form: &Form, sender: IpAddr) -> Result<Ticket, KeptError> {
        let secret = random_token().map_err(|_| KeptError::Internal)?;
        let key = entry_key(&secret);
        let mut sealed = encode(form).ok_or(KeptError::Internal)?;
        let nonce = sealing_key(&secret)?
            .seal_in_place_append_tag(Aad::from(key), &mut sealed)
            .map_err(|_| KeptError::Internal)?;
        sealed.extend_from_slice(nonce.as_ref());
        self.room.lock().take(sealed.len(), Subscriber::of(sender), self.clock.now())?;
        self.store.put(Space::KeptForms, &key, &sealed, form.about.expires).await?;
        Ticket::of(secret).ok_or(KeptError::Internal)
    }

    /// The form, which stays kept.
    ///
    /// # Errors
    /// `Gone` when there is none (any more), and the store's.
    pub async fn look(&self, ticket: &Ticket) -> Result<Form, KeptError> {
        let secret = ticket.secret.expose();
        let key = entry_key(secret);
        let sealed = self.store.get(Space::KeptForms, &key).await?.ok_or(KeptError::Gone)?;
        let form = open(secret, key, sealed).ok_or(KeptError::Gone)?;
        let now = self.clock.now();
        // One that lives longer than a form may is from before the clock was set back.
        let too_long = form.about.expires.since(now) > LIFETIME + Duration::from_secs(300);
        if now >= form.about.expires || too_long { Err(KeptError::Gone) } else { Ok(form) }
    }

    /// Takes the form out; of several callers one gets it.
    ///
    /// # Errors
    /// As [`Self::look`].
    pub async fn take(&self, ticket: &Ticket) -> Result<Form, KeptError> {
        let form = self.look(ticket).await?;
        if self.discard(ticket).await? { Ok(form) } else { Err(KeptError::Gone) }
    }

    /// Forgets the form; whether there was one.
    ///
    /// # Errors
    /// The store's.
    pub async fn discard(&self, ticket: &Ticket) -> Result<bool, KeptError> {
        Ok(self.store.remove(Space::KeptForms, &entry_key(ticket.secret.expose())).await?)
    }
}

/// The body's length is what is left: the rest says its own.
fn encode(form: &Form) -> Option<Vec<u8>> {
    let about = serde_json::to_vec(&form.about).ok()?;
    let mut bytes = u32::try_from(about.len()).ok()?.to_be_bytes().to_vec();
    bytes.extend_from_slice(&about);
    bytes.extend_from_slice(&form.body);
    Some(bytes)
}

fn open(secret: &str, key: [u8; 32], mut sealed: Vec<u8>) -> Option<Form> {
    let nonce = sealed.split_off(sealed.len().checked_sub(NONCE_LENGTH)?);
    let nonce = Nonce::try_assume_unique_for_key(&nonce).ok()?;
    let opener = sealing_key(secret).ok()?;
    let plain = opener.open_in_place(nonce, Aad::from(key), &mut sealed).ok()?;
    let (length, rest) = plain.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (about, body) = rest.split_at_checked(length)?;
    let about = serde_json::from_slice(about).ok()?;
    Some(Form { about, body: Bytes::copy_from_slice(body) })
}

#[cfg(test)]
mod tests {
    use http::header::COOKIE;

    use super::*;
    use crate::store::MemoryStore;

    const SENDER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

    fn forms(clock: &Clock) -> (KeptForms, Arc<dyn Store>) {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        (KeptForms::new(Arc::clone(&store), clock.clone()), store)
    }

    fn clock() -> Clock {
        Clock::manual(Timestamp::from_seconds(1_800_000_000))
    }

    fn form(kept: &KeptForms, body: &'static [u8]) -> Form {
        let about = About {
            host: "portal.example".into(),
            target: "/orders?x=1".into(),
            content_type: "application/x-www-form-urlencoded".into(),
            referer: None,
            principal: Some("idp/ada".into()),
            expires: kept.expiry(),
        };
        Form { about, body: Bytes::from_static(body) }
    }

    fn sent_back(fields: &[HeaderValue]) -> HeaderMap {
        let pairs = fields.iter().map(|field| {
            let pair = field.to_str().unwrap().split(';').next().unwrap().to_owned();
            (COOKIE, HeaderValue::try_from(pair).unwrap())
        });
        let mut headers = HeaderMap::new();
        pairs.for_each(|(name, value)| {
            headers.append(name, value);
        });
        headers
    }

    #[tokio::test]
    async fn a_form_comes_back_once_and_to_its_own_browser() {
        let (kept, _) = forms(&clock());
        let sent = form(&kept, b"a=1&password=hunter2");
        let ticket = kept.keep(&sent, SENDER).await.unwrap();
        let browser = sent_back(&ticket.set(&HeaderMap::new()));
        let found = Ticket::kept(&browser, &ticket.id).unwrap();
        assert_eq!(kept.look(&found).await, Ok(sent.clone()));
        let other = kept.keep(&sent, SENDER).await.unwrap();
        assert!(Ticket::kept(&browser, &other.id).is_none());
        assert!(Ticket::to_send(&browser, "/orders?x=1").is_none(), "not before it is asked for");
        let sending = sent_back(&found.send(&browser, "/orders?x=1"));
        assert!(Ticket::to_send(&sending, "/orders").is_none());
        let found = Ticket::to_send(&sending, "/orders?x=1").unwrap();
        assert_eq!(kept.take(&found).await, Ok(sent));
        assert_eq!(kept.take(&found).await, Err(KeptError::Gone));
        assert_eq!(kept.look(&ticket).await, Err(KeptError::Gone));
    }

    #[tokio::test]
    async fn the_store_can_not_read_it() {
        let (kept, store) = forms(&clock());
        let ticket = kept.keep(&form(&kept, b"password=hunter2"), SENDER).await.unwrap();
        let entries = store.scan(Space::KeptForms, b"").await.unwrap();
        let [(key, value)] = entries.as_slice() else { panic!("{entries:?}") };
        for hidden in [&b"hunter2"[..], b"orders", b"ada", ticket.secret.expose().as_bytes()] {
            for text in [key, value] {
                assert!(!text.windows(hidden.len()).any(|part| part == hidden));
            }
        }
        // Another's entry in its place.
        let mut broken = value.clone();
        broken[0] ^= 1;
        let expires = kept.expiry();
        store.put(Space::KeptForms, key, &broken, expires).await.unwrap();
        assert_eq!(kept.look(&ticket).await, Err(KeptError::Gone));
        assert!(!format!("{ticket:?}").contains(ticket.secret.expose()));
    }

    #[tokio::test]
    async fn a_form_is_gone_after_its_time() {
        let clock = clock();
        let (kept, _) = forms(&clock);
        let ticket = kept.keep(&form(&kept, b"a=1"), SENDER).await.unwrap();
        clock.advance(LIFETIME - Duration::from_secs(1));
        assert!(kept.look(&ticket).await.is_ok());
        clock.advance(Duration::from_secs(1));
        assert_eq!(kept.look(&ticket).await, Err(KeptError::Gone));
    }

    #[tokio::test]
    async fn nobody_can_have_more_kept_than_his_share() {
        let clock = clock();
        let (kept, _) = forms(&clock);
        for _ in 0..MAX_OF_ONE {
            kept.keep(&form(&kept, b"a=1"), SENDER).await.unwrap();
        }
        let refused = kept.keep(&form(&kept, b"a=1"), SENDER).await;
        assert_eq!(refused.map(|_| ()), Err(KeptError::Full));
        let other = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 8));
        kept.keep(&form(&kept, b"a=1"), other).await.unwrap();
        clock.advance(LIFETIME);
        kept.keep(&form(&kept, b"a=1"), SENDER).await.unwrap();
        let mut room = Room::default();
        let now = clock.now();
        assert_eq!(room.take(MAX_BYTES, Subscriber::of(SENDER), now), Ok(()));
        assert_eq!(room.take(1, Subscriber::of(other), now), Err(KeptError::Full));
        assert_eq!(room.take(1, Subscriber::of(other), now.plus(LIFETIME)), Ok(()));
    }

    #[tokio::test]
    async fn a_browser_keeps_a_few_and_the_oldest_goes() {
        let (kept, _) = forms(&clock());
        let mut browser = Vec::new();
        for _ in 0..MAX_COOKIES {
            let ticket = kept.keep(&form(&kept, b"a=1"), SENDER).await.unwrap();
            let fields = ticket.set(&sent_back(&browser));
            assert_eq!(fields.len(), 1);
            browser.extend(fields);
        }
        let ticket = kept.keep(&form(&kept, b"a=1"), SENDER).await.unwrap();
        let fields = ticket.set(&sent_back(&browser));
        assert_eq!(fields.len(), 2);
        assert!(fields[1].to_str().unwrap().contains("Max-Age=0"));
    }
}
