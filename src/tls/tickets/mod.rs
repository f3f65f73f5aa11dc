//! Session tickets: what a client shows to resume a session without another signature (RFC 5077;
//! RFC 8446, section 4.6.1). Everything about the session is in the ticket, the client's verified
//! certificate included; the gate keeps nothing but the keys that tickets are sealed with.
//!
//! Keys last for a period of six hours. A ticket is accepted until the end of the period after its
//! own, so for six to twelve hours, and a session is resumed for a day at most: then certificates
//! are shown and keys proved again, however often the ticket was renewed in between (what a renewed
//! ticket may do is RFC 8446's open question in section 4.6.1).
//!
//! Keys are derived (HKDF, RFC 5869) from the period, from a secret (see [`secrets`]) and from what
//! a listener is: its name and its device CA.
//!
//! INVARIANT: a ticket opens at listeners of the name and the device CA that it was sealed under
//! and nowhere else, whoever shares the secret (the class of CVE-2025-23419 and CVE-2025-68121).
//! What else a full handshake checks is checked at a resumed one, too: the host by the acceptor and
//! rustls, which compares it with the ticket's; the client's chain by the acceptor.

mod secrets;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest;
use rustls::server::ProducesTickets;
use rustls_pki_types::CertificateDer;

pub(super) use secrets::Secrets;
pub use secrets::{OwnSecret, TicketState};
use secrets::{PeriodSecret, expand};

use crate::domain::clock::Timestamp;

/// How long tickets are sealed with the same key, in seconds.
const PERIOD: i64 = 6 * 60 * 60;

/// How long a session may be resumed after the handshake that it began with.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// How far the clocks of gates that share a secret may be apart.
const SKEW: Duration = Duration::from_secs(5 * 60);

const NAME: usize = 16;
const KEY: usize = 32;

/// Seals and opens the tickets of one listener.
pub(super) struct Tickets {
    shared: Option<Secrets>,
    own: Arc<OwnSecret>,
    scope: [u8; 32],
    keys: ArcSwap<Keys>,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").field("shared", &self.shared.is_some()).finish_non_exhaustive()
    }
}

/// The keys of a period: the first one seals.
struct Keys {
    period: i64,
    keys: Vec<Key>,
}

struct Key {
    /// Found again by it; as good as random to everybody else.
    name: [u8; NAME],
    period: i64,
    key: RandomizedNonceKey,
}

impl Tickets {
    /// `shared` are the secrets that other gates have, too; without them `own` is used.
    pub(super) fn new(
        listener: &str,
        client_ca: &[CertificateDer<'_>],
        shared: Option<Secrets>,
        own: Arc<OwnSecret>,
    ) -> Self {
        let none = Keys { period: i64::MIN, keys: Vec::new() };
        let scope = scope(listener, client_ca);
        Self { shared, own, scope, keys: ArcSwap::from_pointee(none) }
    }

    /// For one handshake.
    pub(super) fn visit(self: &Arc<Self>) -> Arc<dyn ProducesTickets> {
        Arc::new(Visit { tickets: Arc::clone(self), began: AtomicI64::new(UNKNOWN) })
    }

    pub(super) fn now(&self) -> Timestamp {
        self.own.clock().now()
    }

    /// Drops the keys of a period that is over, at a listener without clients, too.
    pub(super) fn refresh(&self) {
        let _ = self.current(self.now());
    }

    fn current(&self, now: Timestamp) -> Option<Arc<Keys>> {
        let period = period(now);
        let keys = self.keys.load();
        // The process's own secret goes on and never back, for a clock that is set back a little.
        let is_current = match &self.shared {
            Some(_) => keys.period == period,
            None => keys.period == period || keys.period == period.saturating_add(1),
        };
        if is_current {
            return Some(Arc::clone(&keys));
        }
        let secrets = match &self.shared {
            Some(shared) => shared.of(period)?,
            None => self.own.of(period)?,
        };
        let period = secrets.first()?.period;
        let keys = secrets.iter().map(|secret| self.key(secret)).collect::<Option<_>>()?;
        let keys = Arc::new(Keys { period, keys });
        self.keys.store(Arc::clone(&keys));
        Some(keys)
    }

    fn key(&self, of: &PeriodSecret) -> Option<Key> {
        let derived: zeroize::Zeroizing<[u8; NAME + KEY]> =
            expand(&of.secret, &[b"listener", &self.scope])?;
        let (name, key) = derived.split_first_chunk::<NAME>()?;
        let key = RandomizedNonceKey::new(&AES_256_GCM_SIV, key).ok()?;
        Some(Key { name: *name, period: of.period, key })
    }

    /// Name of the key, nonce, and what is sealed: when the session began, and rustls' own state.
    fn seal(&self, now: Timestamp, began: i64, plain: &[u8]) -> Option<Vec<u8>> {
        let keys = self.current(now)?;
        let key = keys.keys.first()?;
        let mut sealed = Vec::with_capacity(plain.len().saturating_add(64));
        sealed.extend_from_slice(&began.to_be_bytes());
        sealed.extend_from_slice(plain);
        let nonce = key.key.seal_in_place_append_tag(Aad::from(key.name), &mut sealed).ok()?;
        Some([key.name.as_slice(), nonce.as_ref(), &sealed].concat())
    }

    /// When the session began, and rustls' state.
    fn open(&self, now: Timestamp, ticket: &[u8]) -> Option<(i64, Vec<u8>)> {
        let (name, rest) = ticket.split_first_chunk::<NAME>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let keys = self.current(now)?;
        let key = keys.keys.iter().find(|key| key.name == *name)?;
        if key.period > keys.period && period(now.plus(SKEW)) < key.period {
            return None;
        }
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = key.key.open_in_place(nonce, Aad::from(*name), &mut sealed).ok()?;
        let (began, plain) = opened.split_first_chunk::<8>()?;
        let began = i64::from_be_bytes(*began);
        let at = Timestamp::from_seconds(began);
        let is_recent = now.since(at) <= LONGEST && at.since(now) <= SKEW;
        is_recent.then(|| (began, plain.to_vec()))
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("period", &self.period).finish_non_exhaustive()
    }
}

const UNKNOWN: i64 = i64::MIN;

/// The tickets of one handshake: those that it gives carry on when the session began that it
/// resumes.
#[derive(Debug)]
struct Visit {
    tickets: Arc<Tickets>,
    /// In seconds.
    began: AtomicI64,
}

impl ProducesTickets for Visit {
    fn enabled(&self) -> bool {
        true
    }

    /// What is left of this period, and the next one.
    fn lifetime(&self) -> u32 {
        let into = self.tickets.now().as_seconds().rem_euclid(PERIOD);
        u32::try_from(PERIOD.saturating_mul(2).saturating_sub(into)).unwrap_or(0)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let now = self.tickets.now();
        let began = match self.began.load(Ordering::Relaxed) {
            UNKNOWN => now.as_seconds(),
            began => began,
        };
        self.tickets.seal(now, began, plain)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (began, plain) = self.tickets.open(self.tickets.now(), ticket)?;
        // rustls may refuse this ticket for another reason and take a later one, or none: then the
        // session is thought older than it is, which costs it a full handshake earlier.
        self.began.store(began, Ordering::Relaxed);
        Some(plain)
    }
}

fn period(at: Timestamp) -> i64 {
    at.as_seconds().div_euclid(PERIOD)
}

/// What a ticket is bound to. The order of the CA's certificates doesn't matter.
fn scope(listener: &str, client_ca: &[CertificateDer<'_>]) -> [u8; 32] {
    let digest = |bytes: &[u8]| digest::digest(&digest::SHA256, bytes).as_ref().to_vec();
    let mut authorities: Vec<_> = client_ca.iter().map(|certificate| digest(certificate)).collect();
    authorities.sort_unstable();
    authorities.dedup();
    let bound = [digest(listener.as_bytes()), authorities.concat()].concat();
    let mut scope = [0; 32];
    scope.copy_from_slice(&digest(&bound));
    scope
}

#[cfg(test)]
mod tests;
